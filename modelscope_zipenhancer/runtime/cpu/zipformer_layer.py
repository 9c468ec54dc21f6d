"""A Zipformer layer for inference on CPUs, with its weights folded (fold.py).

Shapes: N sequences of L positions, M = N * L tokens, C channels, H heads, D channels of a head.
A slice of the sequences goes through the whole layer while it is in the cache.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...network.zipformer import Bypass, RelativePositions, ZipformerLayer
from .buffers import Scratch
from .fold import LOG2_E, SLOPE, Convolution, FeedForward, Linear, converted, fold_layer
from .layer_memory import AttentionViews, ConvolutionViews, FeedForwardViews, Sizes, Views
from .threads import SlicePool

HIDDEN_FLOATS = 660_000  # of the widest activation of a slice: 2000 tokens of S
SCORE_FLOATS = 1_000_000  # of the attention weights of a slice, unless a single sequence has more
TABLES = 8  # lengths for which the positions' keys are kept


class Layer:
    """A ZipformerLayer and the bypass around it, in place: (N, L, C)."""

    def __init__(self, layer: ZipformerLayer, outer: Bypass):
        weights = converted(fold_layer(layer), torch.float32)
        self.scores, self.gated, self.mid = weights.scores, weights.gated_attention, weights.bypass
        self.attentions = weights.attention1, weights.attention2
        self.convolutions = weights.convolution1, weights.convolution2
        self.feed_forwards = weights.feed_forward1, weights.feed_forward2, weights.feed_forward3
        self.offset = weights.offset
        self.norm_bias = converted(layer.norm.bias, torch.float32)
        channels = len(self.norm_bias)
        self.norm_scale = layer.norm.log_scale.exp().item() * math.sqrt(channels)  # of x / |x - bias|
        self.out = converted(layer.bypass.bypass_scale * outer.bypass_scale, torch.float32)
        attention = layer.self_attn_weights
        self.pos_weight = converted(attention.linear_pos.weight, torch.float32)
        self.sizes = Sizes(
            channels,
            attention.heads,
            query=attention.split[0],
            positional=attention.split[2],
            value=len(self.attentions[0].out),
            gated=len(self.gated.out),
            hidden=tuple(len(module.out) for module in self.feed_forwards),
        )
        self.tables: dict[int, Tensor] = {}

    def apply(self, x: Tensor, pool: SlicePool) -> None:
        """x (N, L, C) in place, any strides, some sequences at a time."""
        length = x.shape[1]
        self.positions(length)  # before several threads would make it
        rows = min(
            HIDDEN_FLOATS // (max(self.sizes.hidden) * length),
            SCORE_FLOATS // (self.sizes.heads * length**2),
        )
        pool.slices(lambda start, stop, scratch: self(x[start:stop], scratch), x.shape[0], rows)

    def positions(self, length: int) -> Tensor:
        """Keys of the relative positions, (H, D, 2L-1); the last few lengths are kept."""
        table = self.tables.get(length)
        if table is None:
            encoding = RelativePositions(self.pos_weight.shape[1])(self.pos_weight.new_empty(length))
            table = (encoding @ self.pos_weight.t()).unflatten(-1, (self.sizes.heads, -1)).permute(1, 2, 0)
            if len(self.tables) >= TABLES:
                self.tables = {}  # not cleared: another thread may be reading it
            self.tables[length] = table = table.contiguous()
        return table

    def __call__(self, x: Tensor, scratch: Scratch) -> None:
        """x (N, L, C), any strides, in place."""
        n, length, _ = x.shape
        table = self.positions(length)
        views = scratch.views(
            (self, n, length), lambda: Views(self.sizes, self.attentions, table, n, length, scratch)
        )
        if not self._run(x, views, exact=False):
            self._run(x, views, exact=True)

    def _run(self, x: Tensor, views: Views, exact: bool) -> bool:
        """Whether all numbers stayed in range; if not, x is untouched.

        exp2 costs 0.3 ns a number where softmax and softplus cost 0.8 and 1.5, but overflows where
        they don't, at 88; Zipformers are trained to keep their scores within 25. `exact` uses those.
        """
        origin, u, begin = views.origin, views.tokens, views.buffers.begin
        begin("scores")
        views.origin_of_sequences.copy_(x)
        u.copy_(origin)
        self._scores(u, views, exact)
        begin("feed forward 1")
        _feed_forward(u, self.feed_forwards[0], views.feed_forwards[0], exact)
        begin("gated attention")
        self._gated_attention(u, views)
        begin("attention 1")
        self._attention(views, views.attentions[0])
        begin("convolution 1")
        _convolution(u, self.convolutions[0], views.convolutions[0], exact)
        begin("feed forward 2")
        _feed_forward(u, self.feed_forwards[1], views.feed_forwards[1], exact)
        begin("bypass")
        torch.lerp(origin, u, self.mid, out=u)
        begin("attention 2")
        self._attention(views, views.attentions[1])
        begin("convolution 2")
        _convolution(u, self.convolutions[1], views.convolutions[1], exact)
        begin("feed forward 3")
        _feed_forward(u, self.feed_forwards[2], views.feed_forwards[2], exact)
        begin("norm")
        u.add_(self.offset)
        size = torch.linalg.vector_norm(torch.sub(u, self.norm_bias, out=views.centred), dim=-1, keepdim=True)
        if not exact and not (views.norms.max().item() < 1e30 and math.isfinite(size.sum().item())):
            return False
        u.mul_(size.reciprocal_().mul_(self.norm_scale))
        x.lerp_(views.tokens_of_sequences, self.out)
        return True

    def _scores(self, u: Tensor, views: Views, exact: bool) -> None:
        """exp of the scores of tokens (M, C), views.weights, and 1 / the sum of each row, views.norms."""
        _linear(u, self.scores, views.projected)
        views.query_key.copy_(views.query_key_in)
        for block in views.blocks:
            block.pos_query.copy_(block.pos_query_in)
            torch.bmm(block.pos_query_rows, block.table, out=block.relative)
            block.scores.copy_(block.shifted)
            block.scores_of_heads.baddbmm_(block.query, views.key)
            if exact:
                block.out.copy_(block.scores.div_(LOG2_E).softmax(-1))
            else:
                torch.exp2(block.scores, out=block.out)
            torch.sum(block.out, -1, out=block.sums)
        views.norms.reciprocal_()

    def _gated_attention(self, u: Tensor, views: Views) -> None:
        folded, gated = self.gated, views.gated
        gate = _linear(u, folded.gate, gated.gate).sigmoid_()
        value = _linear(u, folded.value, gated.value)
        torch.addcmul(value, value, gate, value=-2, out=value)  # -value * tanh; the minus is in `out`
        torch.bmm(views.first_weights, gated.value_of_sequences, out=gated.attended_of_sequences)
        gated.attended_of_sequences.mul_(views.norms_of_first)
        u.addmm_(gated.attended.mul_(_linear(u, folded.output, gate)), folded.out)

    def _attention(self, views: Views, attention: AttentionViews) -> None:
        """V^T A^T instead of A V, four times as fast for values 8 wide."""
        torch.bmm(attention.value_weight, views.tokens_transposed, out=attention.value)
        torch.bmm(attention.value_of_heads, views.weights_transposed, out=attention.attended_of_heads)
        attention.attended_of_heads.mul_(views.norms_of_columns)
        views.tokens_of_sequences.baddbmm_(attention.attended_transposed, attention.out_weight)


def _linear(x: Tensor, folded: Linear, out: Tensor) -> Tensor:
    return torch.addmm(folded.bias, x, folded.weight, out=out)


def _swoosh(x: Tensor, out: Tensor, exact: bool) -> None:
    """softplus(z) - 0.08 z, of z = x / log2(e)."""
    if exact:
        out.copy_(F.softplus(x / LOG2_E))
    else:
        torch.exp2(x, out=out).log1p_()
    out.sub_(x, alpha=SLOPE / LOG2_E)


def _feed_forward(u: Tensor, folded: FeedForward, views: FeedForwardViews, exact: bool) -> None:
    _swoosh(_linear(u, folded.in_proj, views.hidden), views.activated, exact)
    u.addmm_(views.activated, folded.out)


def _convolution(u: Tensor, folded: Convolution, views: ConvolutionViews, exact: bool) -> None:
    value = _linear(u, folded.value, views.value)
    value.mul_(_linear(u, folded.gate, views.gate).sigmoid_())
    padding = 0, folded.taps.shape[-1] // 2
    x = F.conv2d(views.image, folded.taps, folded.bias, padding=padding, groups=len(folded.taps))
    _swoosh(x.permute(0, 2, 3, 1), views.activated_image, exact)
    u.addmm_(views.activated, folded.out)
