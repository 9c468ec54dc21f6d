"""A Zipformer layer for inference on CPUs: zipformer.py's ZipformerLayer with its weights folded.

Shapes: N sequences of L positions, M = N * L tokens, C channels, H heads, D channels of a head.
A slice of the sequences goes through the whole layer while it is in the cache.
"""

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network.zipformer import RelativePositions
from .buffers import Scratch
from .fold import LOG2_E, _fold, _fold_attention, _fold_conv, _fold_feed_forward, _fold_nonlin
from .threads import Jobs

HIDDEN_FLOATS = 660_000  # of the widest activation of a slice: 2000 tokens of S
SCORE_FLOATS = 1_000_000  # of the attention weights of a slice, unless a single sequence has more
BLOCK_FLOATS = 260_000  # attention scores computed at a time: 1 MB, the second-level cache


class FastLayer:
    """A ZipformerLayer and the bypass around it, in place: (N, L, C).

    Biases of output projections are not added where they come up: `offset` in the constructor is
    what the tokens in memory lack, and goes into the biases of the next input projections.
    """

    def __init__(self, layer: nn.Module, outer: nn.Module, dtype: torch.dtype):
        attention = layer.self_attn_weights
        self.pos_weight = attention.linear_pos.weight.detach().clone()
        self.heads, self.split = attention.heads, attention.split
        self.width = layer.feed_forward3.in_proj.out_features
        channels = layer.norm.bias.numel()
        offset = torch.zeros(channels, dtype=torch.float64)
        # exp2 will replace exp: the scores are linear in query and positional query.
        scale = torch.ones(sum(self.split), 1, dtype=torch.float64)
        scale[: self.split[0]] = scale[-self.split[2] :] = LOG2_E
        self.scores_in = _fold(attention.in_proj, offset, scale)
        self.ff1, offset = _fold_feed_forward(layer.feed_forward1, offset, dtype)
        self.nonlin, offset = _fold_nonlin(layer.nonlin_attention, offset)
        self.attend1, offset = _fold_attention(layer.self_attn1, offset)
        self.conv1, offset = _fold_conv(layer.conv_module1, offset)
        self.ff2, offset = _fold_feed_forward(layer.feed_forward2, offset, dtype)
        self.mid = layer.bypass_mid.bypass_scale.detach().clone()
        offset = offset * self.mid.double()
        self.attend2, offset = _fold_attention(layer.self_attn2, offset)
        self.conv2, offset = _fold_conv(layer.conv_module2, offset)
        self.ff3, offset = _fold_feed_forward(layer.feed_forward3, offset, dtype)
        self.offset = offset.float()
        self.norm_bias = layer.norm.bias.detach().clone()
        self.norm_scale = layer.norm.log_scale.exp().item() * math.sqrt(channels)  # of x / |x - bias|
        self.out = layer.bypass.bypass_scale.detach() * outer.bypass_scale.detach()
        self.tables = {}

    def apply(self, x: Tensor, run: Jobs) -> None:
        """x (N, L, C) in place, any strides, some sequences at a time."""
        length = x.shape[1]
        self.positions(length)  # before several threads would make it
        rows = min(HIDDEN_FLOATS // (self.width * length), SCORE_FLOATS // (self.heads * length**2))
        run.slices(lambda start, stop, scratch: self(x[start:stop], scratch), x.shape[0], rows)

    def positions(self, length: int) -> Tensor:
        """Keys of the relative positions, (H, D, 2L-1); the last few lengths are kept."""
        table = self.tables.get(length)
        if table is None:
            encoding = RelativePositions(self.pos_weight.shape[1])(torch.empty(length))
            table = (encoding @ self.pos_weight.t()).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
            if len(self.tables) >= 8:
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
        """Returns whether all numbers stayed in range; if not, x is untouched.

        exp2 costs 0.3 ns a number where softmax and softplus cost 0.8 and 1.5, but overflows where
        they don't, at 88; Zipformers are trained to keep their scores within 25. `exact` uses those.
        """
        views.origin_in.copy_(x)
        origin, u = views.origin, views.u.copy_(views.origin)
        self._attention(origin, views, exact)
        self._feed_forward(u, self.ff1, views.hidden[0], exact)
        self._nonlin(u, views)
        self._attend(u, views, *views.attend1)
        self._conv(u, self.conv1, views, exact)
        self._feed_forward(u, self.ff2, views.hidden[1], exact)
        torch.lerp(origin, u, self.mid, out=u)
        self._attend(u, views, *views.attend2)
        self._conv(u, self.conv2, views, exact)
        self._feed_forward(u, self.ff3, views.hidden[2], exact)
        u.add_(self.offset)
        size = torch.linalg.vector_norm(torch.sub(u, self.norm_bias, out=views.centred), dim=-1, keepdim=True)
        if not exact and not (views.norms.max().item() < 1e30 and math.isfinite(size.sum().item())):
            return False
        u.mul_(size.reciprocal_().mul_(self.norm_scale))
        x.lerp_(views.u_out, self.out)
        return True

    def _attention(self, x: Tensor, views: "Views", exact: bool) -> None:
        """x (M, C) -> exp of the scores, views.weights, and 1 / the sum of each row, views.norms."""
        _linear(x, self.scores_in, views.projected)
        views.query_key.copy_(views.query_key_in)
        for block in views.blocks:
            block.pos_query.copy_(block.pos_query_in)
            torch.bmm(block.pos_query_rows, block.table, out=block.offsets)
            block.scores.copy_(block.shifted)
            block.scores_of_heads.baddbmm_(block.query, views.key)
            if exact:
                block.out.copy_(block.scores.div_(LOG2_E).softmax(-1))
            else:
                torch.exp2(block.scores, out=block.out)
            torch.sum(block.out, -1, out=block.sums)
        views.norms.reciprocal_()

    def _feed_forward(self, u, folded, hidden, exact):
        in_proj, out_weight = folded
        half = out_weight.dtype != u.dtype
        _linear(u.to(out_weight.dtype) if half else u, in_proj, hidden.linear)
        _swoosh(hidden.linear, hidden.activated, exact)
        if half:
            u.add_(hidden.activated @ out_weight)
        else:
            u.addmm_(hidden.activated, out_weight)

    def _nonlin(self, u, views):
        gate_proj, value_proj, output_proj, out_weight = self.nonlin
        gate, value, z = views.nonlin_gate, views.nonlin_value, views.nonlin_out
        _linear(u, gate_proj, gate).sigmoid_()
        _linear(u, value_proj, value)
        torch.addcmul(value, value, gate, value=-2, out=value)  # -value * tanh; the minus is in out_weight
        torch.bmm(views.first_weights, views.nonlin_value_in, out=views.nonlin_attended)
        views.nonlin_attended.mul_(views.norm_of_first)
        u.addmm_(z.mul_(_linear(u, output_proj, gate)), out_weight)

    def _attend(self, u, views, in_weight, out_weight):
        """V^T A^T instead of A V, four times as fast for values 8 wide."""
        torch.bmm(in_weight, views.u_transposed, out=views.value)
        torch.bmm(views.value_of_heads, views.weights_transposed, out=views.attended)
        views.attended.mul_(views.norms_of_columns)
        views.u_out.baddbmm_(views.attended_out, out_weight)

    def _conv(self, u, folded, views, exact):
        value_proj, gate_proj, weight, bias, out_weight = folded
        value = _linear(u, value_proj, views.conv_value)
        value.mul_(_linear(u, gate_proj, views.conv_gate).sigmoid_())
        x = F.conv2d(views.conv_in, weight, bias, padding=(0, weight.shape[-1] // 2), groups=value.shape[1])
        _swoosh(x.permute(0, 2, 3, 1), views.conv_out, exact)
        u.addmm_(views.conv_activated, out_weight)


class Views:
    """The memory of a slice of N sequences of L positions, in the shapes that a layer's operations use.

    What has the same name in memory is not needed at the same time.
    """

    def __init__(self, layer: FastLayer, n: int, length: int, scratch: Scratch):
        take, tokens, heads, channels = scratch.take, n * length, layer.heads, layer.norm_bias.numel()
        self.origin, self.u = take("origin", tokens, channels), take("tokens", tokens, channels)
        self.origin_in, self.u_out = (x.view(n, length, channels) for x in (self.origin, self.u))
        self.centred = take("value", tokens, channels)
        self.hidden = []
        for (_, weight), _ in (layer.ff1, layer.ff2, layer.ff3):
            shape, dtype = (tokens, weight.shape[1]), weight.dtype
            self.hidden.append(
                SimpleNamespace(
                    linear=take("hidden", *shape, dtype=dtype), activated=take("swoosh", *shape, dtype=dtype)
                )
            )
        self._attention(layer, n, length, take)

        width = layer.nonlin[0][1].shape[1]
        self.nonlin_gate, self.nonlin_value = take("gate", tokens, width), take("value", tokens, width)
        self.nonlin_value_in = self.nonlin_value.view(n, length, width)
        self.nonlin_attended = take("attended", n, length, width)
        self.nonlin_out = self.nonlin_attended.view(tokens, width)

        self.attend1, self.attend2 = (
            [weight.expand(n, -1, -1) for weight in weights] for weights in (layer.attend1, layer.attend2)
        )
        width = layer.attend1[0].shape[0]
        self.u_transposed = self.u_out.transpose(1, 2)
        self.value, attended = (take(name, n, width, length) for name in ("value", "attended"))
        self.value_of_heads, self.attended = (x.view(n * heads, -1, length) for x in (self.value, attended))
        self.attended_out = attended.transpose(1, 2)

        self.conv_value, self.conv_gate = take("value", tokens, channels), take("gate", tokens, channels)
        # (1, C, N, L), channels last in memory
        self.conv_in = self.conv_value.view(1, n, length, channels).permute(0, 3, 1, 2)
        self.conv_activated = take("swoosh", tokens, channels)
        self.conv_out = self.conv_activated.view(1, n, length, channels)

    def _attention(self, layer, n, length, take):
        """In blocks of queries.

        Query i needs the offsets j - i of all keys j: those of a block together the offsets from 1 - stop
        to length - 1 - start. In the product with these, what query i needs begins one number earlier
        than that of the query before: a view with a stride of one less than the width.
        """
        heads, depth = layer.heads, layer.split[0] // layer.heads
        weights, self.norms = take("large", n, heads, length, length), take("sums", n, heads, length)
        self.first_weights, self.norm_of_first = weights[:, 0], self.norms[:, 0].unsqueeze(-1)
        self.weights_transposed = weights.flatten(0, 1).transpose(1, 2)
        self.norms_of_columns = self.norms.view(n * heads, 1, length)
        self.projected = take("hidden", n * length, sum(layer.split))
        both, pos_query = self.projected.view(n, length, -1).tensor_split([2 * heads * depth], dim=-1)
        self.query_key_in = both.view(n, length, 2, heads, depth).permute(2, 0, 3, 1, 4)
        self.query_key = take("keys", 2, n, heads, length, depth)
        query, key = self.query_key.flatten(1, 2)
        self.key = key.transpose(1, 2)
        pos_query = pos_query.view(n, length, heads, -1).permute(2, 0, 1, 3)
        table, size = layer.positions(length), max(1, min(length, BLOCK_FLOATS // (heads * n * length)))
        self.blocks = []
        for start in range(0, length, size):
            stop = min(start + size, length)
            rows, width = stop - start, length + stop - start - 1
            copied = take("positions", heads, n, rows, pos_query.shape[-1])
            offsets = take("offsets", heads, n * rows, width)
            strides = rows * width, n * rows * width, width - 1, 1
            out = weights[:, :, start:stop]
            scores = out if rows == length else take("scores", n, heads, rows, length)
            self.blocks.append(
                SimpleNamespace(
                    pos_query_in=pos_query[:, :, start:stop],
                    pos_query=copied,
                    pos_query_rows=copied.flatten(1, 2),
                    table=table[:, :, length - stop : length - stop + width],
                    offsets=offsets,
                    shifted=offsets.as_strided((n, heads, rows, length), strides, rows - 1),
                    query=query[:, start:stop],
                    scores=scores,
                    scores_of_heads=scores.flatten(0, 1),
                    out=out,
                    sums=self.norms[:, :, start:stop],
                )
            )


def _linear(x: Tensor, folded, out: Tensor) -> Tensor:
    bias, weight = folded
    return torch.addmm(bias, x, weight, out=out)


def _swoosh(x: Tensor, out: Tensor, exact: bool) -> None:
    """softplus(z) - 0.08 z, of z = x / log2(e)."""
    if exact:
        out.copy_(F.softplus(x / LOG2_E))
    else:
        torch.exp2(x, out=out).log1p_()
    out.sub_(x, alpha=0.08 / LOG2_E)
