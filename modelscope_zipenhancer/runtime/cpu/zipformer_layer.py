"""A Zipformer layer for inference on CPUs, with its weights folded (fold.py).

Shapes: N sequences of L positions, M = N * L tokens, C channels, H heads, D channels of a head.
A slice of the sequences goes through the whole layer while it is in the cache.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...network.zipformer import Bypass, RelativePositions, ZipformerLayer
from .buffers import Buffer, Plan, Scratch
from .fold import LOG2_E, SLOPE, Attention, Convolution, FeedForward, Linear, converted, fold_layer
from .threads import SlicePool

HIDDEN_FLOATS = 660_000  # of the widest activation of a slice: 2000 tokens of S
SCORE_FLOATS = 1_000_000  # of the attention weights of a slice, unless a single sequence has more
BLOCK_FLOATS = 260_000  # attention scores computed at a time: 1 MB, the second-level cache
TABLES = 8  # lengths for which the positions' keys are kept


class Sizes(NamedTuple):
    """What the memory of a layer depends on, besides its input's shape."""

    channels: int
    heads: int
    query: int  # these three over all heads
    positional: int
    value: int
    gated: int
    hidden: tuple[int, ...]  # of each feed-forward module

    def block(self, n: int, length: int) -> int:
        """How many queries' scores are computed at a time."""
        return max(1, min(length, BLOCK_FLOATS // (self.heads * n * length)))


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
        views = scratch.views((self, n, length), lambda: Views(self, n, length, scratch))
        if not self._run(x, views, exact=False):
            self._run(x, views, exact=True)

    def _run(self, x: Tensor, views: "Views", exact: bool) -> bool:
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

    def _scores(self, u: Tensor, views: "Views", exact: bool) -> None:
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

    def _gated_attention(self, u: Tensor, views: "Views") -> None:
        folded, gated = self.gated, views.gated
        gate = _linear(u, folded.gate, gated.gate).sigmoid_()
        value = _linear(u, folded.value, gated.value)
        torch.addcmul(value, value, gate, value=-2, out=value)  # -value * tanh; the minus is in `out`
        torch.bmm(views.first_weights, gated.value_of_sequences, out=gated.attended_of_sequences)
        gated.attended_of_sequences.mul_(views.norms_of_first)
        u.addmm_(gated.attended.mul_(_linear(u, folded.output, gate)), folded.out)

    def _attention(self, views: "Views", attention: "AttentionViews") -> None:
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


def _feed_forward(u: Tensor, folded: FeedForward, views: "FeedForwardViews", exact: bool) -> None:
    _swoosh(_linear(u, folded.in_proj, views.hidden), views.activated, exact)
    u.addmm_(views.activated, folded.out)


def _convolution(u: Tensor, folded: Convolution, views: "ConvolutionViews", exact: bool) -> None:
    value = _linear(u, folded.value, views.value)
    value.mul_(_linear(u, folded.gate, views.gate).sigmoid_())
    padding = 0, folded.taps.shape[-1] // 2
    x = F.conv2d(views.image, folded.taps, folded.bias, padding=padding, groups=len(folded.taps))
    _swoosh(x.permute(0, 2, 3, 1), views.activated_image, exact)
    u.addmm_(views.activated, folded.out)


# ---- memory ------------------------------------------------------------------------------------

STEPS = (
    "scores",
    "feed forward 1",
    "gated attention",
    "attention 1",
    "convolution 1",
    "feed forward 2",
    "bypass",
    "attention 2",
    "convolution 2",
    "feed forward 3",
    "norm",
)


@functools.lru_cache(256)
def plan(sizes: Sizes, n: int, length: int) -> Plan:
    """The memory of a slice of n sequences of that length."""
    tokens, heads, channels = n * length, sizes.heads, sizes.channels
    block = sizes.block(n, length)
    buffers = [
        Buffer("origin", (tokens, channels), "scores", "bypass"),  # the layer's input
        Buffer("tokens", (tokens, channels), "scores", "norm"),
        Buffer("weights", (n, heads, length, length), "scores", "attention 2"),
        Buffer("norms", (n, heads, length), "scores", "norm"),
        Buffer("projected", (tokens, 2 * sizes.query + sizes.positional), "scores"),
        Buffer("query key", (2, n, heads, length, sizes.query // heads), "scores"),
        Buffer("positional query", (heads, n, block, sizes.positional // heads), "scores"),
        Buffer("relative", (heads, n * block, length + block - 1), "scores"),
        Buffer("centred", (tokens, channels), "norm"),
    ]
    if block < length:  # else they are where the weights will be
        buffers.append(Buffer("scores", (n, heads, block, length), "scores"))
    for i, hidden in enumerate(sizes.hidden, 1):
        for name in "hidden", "activated":
            step = f"feed forward {i}"
            buffers.append(Buffer(f"{step} {name}", (tokens, hidden), step))
    for name in "gate", "value", "attended":
        buffers.append(Buffer(f"gated attention {name}", (tokens, sizes.gated), "gated attention"))
    for step in "attention 1", "attention 2":
        for name in "value", "attended":
            buffers.append(Buffer(f"{step} {name}", (n, sizes.value, length), step))
    for step in "convolution 1", "convolution 2":
        for name in "value", "gate", "activated":
            buffers.append(Buffer(f"{step} {name}", (tokens, channels), step))
    return Plan(STEPS, buffers)


class FeedForwardViews(NamedTuple):
    hidden: Tensor  # (M, hidden)
    activated: Tensor  # (M, hidden)


class GatedViews(NamedTuple):
    gate: Tensor  # (M, hidden)
    value: Tensor  # (M, hidden)
    value_of_sequences: Tensor  # (N, L, hidden)
    attended: Tensor  # (M, hidden)
    attended_of_sequences: Tensor  # (N, L, hidden)


class AttentionViews(NamedTuple):
    value: Tensor  # (N, HD, L)
    value_of_heads: Tensor  # (NH, D, L)
    attended_of_heads: Tensor  # (NH, D, L)
    attended_transposed: Tensor  # (N, L, HD)
    value_weight: Tensor  # (N, HD, C)
    out_weight: Tensor  # (N, HD, C)


class ConvolutionViews(NamedTuple):
    value: Tensor  # (M, C)
    gate: Tensor  # (M, C)
    image: Tensor  # value as (1, C, N, L), channels last in memory
    activated: Tensor  # (M, C)
    activated_image: Tensor  # (1, N, L, C)


class BlockViews(NamedTuple):
    """Some queries of all heads and sequences."""

    pos_query_in: Tensor  # (H, N, queries, D)
    pos_query: Tensor  # the same, contiguous
    pos_query_rows: Tensor  # (H, N * queries, D)
    table: Tensor  # (H, D, offsets)
    relative: Tensor  # (H, N * queries, offsets), scores of the offsets
    shifted: Tensor  # (N, H, queries, L), the same of each key
    query: Tensor  # (NH, queries, D)
    scores: Tensor  # (N, H, queries, L)
    scores_of_heads: Tensor  # (NH, queries, L)
    out: Tensor  # (N, H, queries, L)
    sums: Tensor  # (N, H, queries)


class Views:
    """The memory of a slice of N sequences of L positions, in the shapes that a layer's operations use."""

    def __init__(self, layer: Layer, n: int, length: int, scratch: Scratch):
        sizes = layer.sizes
        self.buffers = buffers = scratch.planned(plan(sizes, n, length))
        self.origin, self.tokens, self.centred = (buffers[x] for x in ("origin", "tokens", "centred"))
        self.origin_of_sequences, self.tokens_of_sequences = (
            x.view(n, length, -1) for x in (self.origin, self.tokens)
        )
        self.tokens_transposed = self.tokens_of_sequences.transpose(1, 2)
        self.feed_forwards = [
            FeedForwardViews(buffers[f"feed forward {i} hidden"], buffers[f"feed forward {i} activated"])
            for i in (1, 2, 3)
        ]
        gate, value, attended = (buffers[f"gated attention {x}"] for x in ("gate", "value", "attended"))
        self.gated = GatedViews(
            gate, value, value.view(n, length, -1), attended, attended.view(n, length, -1)
        )
        self.attentions = [self._attention(i, folded, n) for i, folded in enumerate(layer.attentions, 1)]
        self.convolutions = [self._convolution(i, n) for i in (1, 2)]

        weights, self.norms = buffers["weights"], buffers["norms"]
        self.first_weights, self.norms_of_first = weights[:, 0], self.norms[:, 0].unsqueeze(-1)
        self.weights_transposed = weights.flatten(0, 1).transpose(1, 2)
        self.norms_of_columns = self.norms.view(n * sizes.heads, 1, length)
        self.projected, self.query_key = buffers["projected"], buffers["query key"]
        both, pos_query = self.projected.view(n, length, -1).tensor_split([2 * sizes.query], dim=-1)
        self.query_key_in = both.view(n, length, 2, sizes.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = self.query_key.flatten(1, 2)
        self.key = key.transpose(1, 2)
        pos_query = pos_query.view(n, length, sizes.heads, -1).permute(2, 0, 1, 3)
        table, block = layer.positions(length), sizes.block(n, length)
        self.blocks = [
            self._block(query, pos_query, table, start, min(start + block, length))
            for start in range(0, length, block)
        ]

    def _attention(self, i: int, folded: Attention, n: int) -> AttentionViews:
        value, attended = (self.buffers[f"attention {i} {name}"] for name in ("value", "attended"))
        heads, length = self.buffers["weights"].shape[1:3]
        return AttentionViews(
            value,
            value_of_heads=value.view(n * heads, -1, length),
            attended_of_heads=attended.view(n * heads, -1, length),
            attended_transposed=attended.transpose(1, 2),
            value_weight=folded.value.expand(n, -1, -1),
            out_weight=folded.out.expand(n, -1, -1),
        )

    def _convolution(self, i: int, n: int) -> ConvolutionViews:
        names = "value", "gate", "activated"
        value, gate, activated = (self.buffers[f"convolution {i} {name}"] for name in names)
        value_image, activated_image = (x.view(1, n, -1, x.shape[-1]) for x in (value, activated))
        return ConvolutionViews(value, gate, value_image.permute(0, 3, 1, 2), activated, activated_image)

    def _block(self, query: Tensor, pos_query: Tensor, table: Tensor, start: int, stop: int) -> BlockViews:
        """Queries from start to stop.

        Query i needs the offsets j - i of all keys j: those of a block together the offsets from 1 - stop
        to length - 1 - start. In the product with these, what query i needs begins one number earlier
        than that of the query before: a view with a stride of one less than the width.
        """
        weights = self.buffers["weights"]
        n, heads, length, _ = weights.shape
        rows, width = stop - start, length + stop - start - 1
        copied = _start_of(self.buffers["positional query"], heads, n, rows, pos_query.shape[-1])
        relative = _start_of(self.buffers["relative"], heads, n * rows, width)
        out = weights[:, :, start:stop]
        whole = rows == length
        scores = out if whole else _start_of(self.buffers["scores"], n, heads, rows, length)
        return BlockViews(
            pos_query_in=pos_query[:, :, start:stop],
            pos_query=copied,
            pos_query_rows=copied.flatten(1, 2),
            table=table[:, :, length - stop : length - stop + width],
            relative=relative,
            shifted=relative.as_strided(
                (n, heads, rows, length),
                (rows * width, n * rows * width, width - 1, 1),
                relative.storage_offset() + rows - 1,
            ),
            query=query[:, start:stop],
            scores=scores,
            scores_of_heads=scores.flatten(0, 1),
            out=out,
            sums=self.norms[:, :, start:stop],
        )


def _start_of(buffer: Tensor, *shape: int) -> Tensor:
    return buffer.view(-1)[: math.prod(shape)].view(shape)
