"""A Zipformer layer for inference on CPUs: zipformer.py's ZipformerLayer with its weights folded.

Shapes: N sequences of L positions, M = N * L tokens, C channels, H heads, D channels of a head.
A slice of the sequences goes through the whole layer while it is in the cache.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .jobs import Jobs, Scratch
from .zipformer import RelativePositions

HIDDEN_FLOATS = 440_000  # of the widest activation of a slice: 1400 tokens of S
SCORE_FLOATS = 1_000_000  # of the attention weights of a slice, unless a single sequence has more
BLOCK_FLOATS = 260_000  # attention scores computed at a time: 1 MB, the second-level cache
LOG2_E = math.log2(math.e)
# SwooshL and SwooshR as softplus(z) - 0.08 z - constant, of z = x - shift.
SWOOSH_L = {"shift": 4.0, "constant": 0.08 * 4.0 + 0.035}
SWOOSH_R = {"shift": 1.0, "constant": 0.08 * 1.0 + 0.313261687}


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
        if not self._run(x, scratch, exact=False):
            self._run(x, scratch, exact=True)

    def _run(self, x: Tensor, scratch: Scratch, exact: bool) -> bool:
        """Returns whether all numbers stayed in range; if not, x is untouched.

        exp2 costs 0.3 ns a number where softmax and softplus cost 0.8 and 1.5, but overflows where
        they don't, at 88; Zipformers are trained to keep their scores within 25. `exact` uses those.
        """
        n, length, channels = x.shape
        origin = scratch.take("origin", n, length, channels).copy_(x).view(-1, channels)
        u = scratch.take("tokens", n * length, channels).copy_(origin)
        weights, norms = self._attention(origin, n, length, scratch, exact)
        self._feed_forward(u, self.ff1, scratch, exact)
        self._nonlin(u, weights, norms, scratch)
        self._attend(u, self.attend1, weights, norms, scratch)
        self._conv(u, self.conv1, n, scratch, exact)
        self._feed_forward(u, self.ff2, scratch, exact)
        torch.lerp(origin, u, self.mid, out=u)
        self._attend(u, self.attend2, weights, norms, scratch)
        self._conv(u, self.conv2, n, scratch, exact)
        self._feed_forward(u, self.ff3, scratch, exact)
        u.add_(self.offset)
        centred = torch.sub(u, self.norm_bias, out=scratch.take("value", *u.shape))
        size = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
        if not exact and not (norms.max().item() < 1e30 and math.isfinite(size.sum().item())):
            return False
        u.mul_(size.reciprocal_().mul_(self.norm_scale))
        x.lerp_(u.view(x.shape), self.out)
        return True

    def _attention(self, x: Tensor, n: int, length: int, scratch: Scratch, exact: bool):
        """x (M, C) -> exp of the scores (H, N, L, L), and 1 / the sum of each row (H, N, L)."""
        heads, depth = self.heads, self.split[0] // self.heads
        table = self.positions(length)
        hidden = _linear(x, self.scores_in, scratch, "hidden").view(n, length, -1)
        query, key, pos_query = hidden.split(self.split, dim=-1)
        weights = scratch.take("large", heads, n, length, length)
        sums = scratch.take("sums", heads, n, length)
        block = max(1, min(length, BLOCK_FLOATS // (heads * n * length)))
        for start in range(0, length, block):
            stop = min(start + block, length)
            rows = stop - start
            # Row i needs the offsets j - i of all j: the rows of a block together those from 1 - stop
            # to length - 1 - start. In the product with these, what row i needs begins one number
            # earlier than in the row before: a view with a stride of one less than the width.
            width = length + rows - 1
            p = pos_query[:, start:stop].unflatten(-1, (heads, -1)).permute(2, 0, 1, 3)
            offsets = scratch.take("offsets", heads, n * rows, width)
            first = length - stop
            torch.bmm(p.reshape(heads, n * rows, -1), table[:, :, first : first + width], out=offsets)
            strides = n * rows * width, rows * width, width - 1, 1
            scores = weights if rows == length else scratch.take("scores", heads, n, rows, length)
            scores.copy_(offsets.as_strided((heads, n, rows, length), strides, rows - 1))
            for h in range(heads):
                part = slice(h * depth, (h + 1) * depth)
                scores[h].baddbmm_(query[:, start:stop, part], key[:, :, part].transpose(1, 2))
            out = weights[:, :, start:stop]
            if exact:
                out.copy_(scores.div_(LOG2_E).softmax(-1))
            else:
                torch.exp2(scores, out=out)
            torch.sum(out, -1, out=sums[:, :, start:stop])
        return weights, sums.reciprocal_()

    def _feed_forward(self, u, folded, scratch, exact):
        in_proj, out_weight = folded
        hidden = _linear(u.to(out_weight.dtype), in_proj, scratch, "hidden")
        hidden = _swoosh(hidden, scratch, exact)
        if out_weight.dtype == u.dtype:
            u.addmm_(hidden, out_weight)
        else:
            u.add_(hidden @ out_weight)

    def _nonlin(self, u, weights, norms, scratch):
        gate_proj, value_proj, output_proj, out_weight = self.nonlin
        gate = _linear(u, gate_proj, scratch, "gate").sigmoid_()
        value = _linear(u, value_proj, scratch, "value")
        torch.addcmul(value, value, gate, value=-2, out=value)  # -value * tanh; the minus is in out_weight
        _, n, length, _ = weights.shape
        z = scratch.take("attended", n, length, value.shape[1])
        torch.bmm(weights[0], value.view_as(z), out=z)
        z = z.view_as(value).mul_(_linear(u, output_proj, scratch, "gate")).mul_(norms[0].view(-1, 1))
        u.addmm_(z, out_weight)

    def _attend(self, u, folded, weights, norms, scratch):
        """V^T A^T instead of A V, four times as fast for values 8 wide."""
        in_weight, out_weight = folded
        heads, n, length, _ = weights.shape
        value = torch.mm(u, in_weight, out=scratch.take("value", u.shape[0], in_weight.shape[1]))
        value = value.view(n, length, heads, -1)
        z = scratch.take("attended", heads, n, value.shape[-1], length)
        for h in range(heads):
            torch.bmm(value[:, :, h].transpose(1, 2), weights[h].transpose(1, 2), out=z[h])
        merged = scratch.take("gate", n, heads, value.shape[-1], length)
        torch.mul(z, norms[:, :, None], out=merged.transpose(0, 1))
        merged = merged.flatten(1, 2).transpose(1, 2)  # (N, L, H*D)
        u.view(n, length, -1).baddbmm_(merged, out_weight.expand(n, -1, -1))

    def _conv(self, u, folded, n, scratch, exact):
        value_proj, gate_proj, weight, bias, out_weight = folded
        value = _linear(u, value_proj, scratch, "value")
        value.mul_(_linear(u, gate_proj, scratch, "gate").sigmoid_())
        x = value.view(1, n, -1, value.shape[1]).permute(0, 3, 1, 2)  # (1, C, N, L), channels last in memory
        x = F.conv2d(x, weight, bias, padding=(0, weight.shape[-1] // 2), groups=value.shape[1])
        x = x.permute(0, 2, 3, 1).reshape(value.shape)
        u.addmm_(_swoosh(x, scratch, exact), out_weight)


def _linear(x: Tensor, folded, scratch: Scratch, name: str) -> Tensor:
    bias, weight = folded
    out = scratch.take(name, x.shape[0], weight.shape[1], dtype=weight.dtype)
    return torch.addmm(bias, x, weight, out=out)


def _swoosh(x: Tensor, scratch: Scratch, exact: bool) -> Tensor:
    """softplus(z) - 0.08 z, of z = x / log2(e)."""
    y = scratch.take("swoosh", *x.shape, dtype=x.dtype)
    if exact:
        y.copy_(F.softplus(x / LOG2_E))
    else:
        torch.exp2(x, out=y).log1p_()
    return y.sub_(x, alpha=0.08 / LOG2_E)


# ---- folding, in float64: each of a module's matrices, and the offset after it -----------------


def _double(linear: nn.Module):
    return linear.weight.detach().double(), linear.bias.detach().double()


def _right(weight: Tensor) -> Tensor:
    """A weight (out, in) as the right factor of a product, float32."""
    return weight.t().contiguous().float()


def _fold(linear: nn.Linear, offset: Tensor, scale=1.0, shift: float = 0.0, rows=slice(None)):
    """(bias, weight) of scale * (linear(x + offset) - shift), some rows of it; scale (out, 1) or a number."""
    weight, bias = _double(linear)
    weight, bias = weight[rows], bias[rows, None]
    bias = (bias + weight @ offset[:, None] - shift) * scale
    return bias[:, 0].float(), _right(weight * scale)


def _fold_feed_forward(module: nn.Module, offset: Tensor, dtype: torch.dtype):
    weight, bias = _double(module.out_proj)
    bias_in, weight_in = _fold(module.in_proj, offset, LOG2_E, SWOOSH_L["shift"])
    folded = (bias_in.to(dtype), weight_in.to(dtype)), _right(weight).to(dtype)
    return folded, offset + bias - SWOOSH_L["constant"] * weight.sum(1)


def _fold_nonlin(module: nn.Module, offset: Tensor):
    """tanh(x) is 2 sigmoid(2x) - 1, at a quarter of the cost."""
    weight, bias = _double(module.out_proj)
    gate, value, output = (slice(i * weight.shape[1], (i + 1) * weight.shape[1]) for i in range(3))
    folded = (
        _fold(module.in_proj, offset, scale=2.0, rows=gate),
        _fold(module.in_proj, offset, rows=value),
        _fold(module.in_proj, offset, rows=output),
        _right(-weight),
    )
    return folded, offset + bias


def _fold_attention(module: nn.Module, offset: Tensor):
    """Attention weights sum to one, so a constant in the values comes out as it is."""
    (in_weight, in_bias), (out_weight, out_bias) = _double(module.in_proj), _double(module.out_proj)
    constant = out_weight @ (in_weight @ offset + in_bias) + out_bias
    return (_right(in_weight), _right(out_weight)), offset + constant


def _fold_conv(module: nn.Module, offset: Tensor):
    (weight, bias), (conv_weight, conv_bias) = _double(module.out_proj), _double(module.depthwise_conv)
    value, gate = slice(0, weight.shape[1]), slice(weight.shape[1], None)
    folded = (
        _fold(module.in_proj, offset, rows=value),
        _fold(module.in_proj, offset, rows=gate),
        (conv_weight[:, :, None] * LOG2_E).float(),
        ((conv_bias - SWOOSH_R["shift"]) * LOG2_E).float(),
        _right(weight),
    )
    return folded, offset + bias - SWOOSH_R["constant"] * weight.sum(1)
