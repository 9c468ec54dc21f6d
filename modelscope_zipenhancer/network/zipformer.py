"""Zipformer layer (Yao et al., arXiv 2310.11230) as ZipEnhancer uses it: over one axis at a time.

Shapes: N sequences, L positions along the axis attended over (frames or frequency bins),
C channels, H heads, D channels of a head. A layer takes and returns (N, L, C).
Submodules are named as in the released checkpoint.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import StackConfig


def swoosh_l(x: Tensor) -> Tensor:
    """SwooshL of the Zipformer paper, section 3.4: log(1 + exp(x - 4)) - 0.08 x - 0.035."""
    return F.softplus(x - 4.0) - 0.08 * x - 0.035


def swoosh_r(x: Tensor) -> Tensor:
    """SwooshR of the Zipformer paper, section 3.4: as SwooshL, shifted by 1 and zero at 0."""
    return F.softplus(x - 1.0) - 0.08 * x - 0.313261687


class BiasNorm(nn.Module):
    """RMS norm whose statistic is taken around a learnt bias; x itself is not centred."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        power = (x - self.bias).square().mean(dim=-1, keepdim=True)
        return x * power.rsqrt() * self.log_scale.exp()


class Bypass(nn.Module):
    """Per-channel interpolation from a module's input x to its output y; channels are last."""

    def __init__(self, channels: int):
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (y - x) * self.bypass_scale


def unflatten(x: Tensor, dim: int, sizes: tuple) -> Tensor:
    """x.unflatten(dim, sizes), in such a way that torch's TorchScript ONNX exporter keeps the rank."""
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


class RelativePositions(nn.Module):
    """Encoding of the offsets between positions: (L,) -> (2L-1, pos_dim), offset -(L-1) first.

    Offsets are log-compressed, mapped to an angle by atan and expanded in Fourier terms.
    The table is kept and grows on demand; it is no parameter and not in the checkpoint.
    """

    def __init__(self, pos_dim: int):
        super().__init__()
        self.pos_dim = pos_dim
        self.pe = torch.zeros(0, pos_dim)

    @torch.inference_mode(False)  # else a table made at inference would be unusable in training
    def extend_pe(self, x: Tensor) -> None:
        """Make the table long enough for x.shape[0] positions; traced graphs keep that length."""
        length = x.shape[0]
        if self.pe.shape[0] >= 2 * length - 1 and self.pe.device == x.device:
            return
        length = max(length, 512)  # a few longer inputs will not rebuild it
        offset = torch.arange(1 - length, length, dtype=torch.float32, device=x.device)[:, None]
        scale = math.sqrt(self.pos_dim)
        compressed = scale * offset.sign() * ((offset.abs() + scale).log() - math.log(scale))
        angle = torch.atan(compressed / (self.pos_dim / (2.0 * math.pi)))
        angle = angle * torch.arange(1, self.pos_dim // 2 + 1, device=x.device)
        encoding = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
        encoding[:, -1] = 1.0  # a bias term
        self.pe = encoding

    def forward(self, x: Tensor) -> Tensor:
        """The encoding for x of shape (L, ...), on its device, of its type."""
        self.extend_pe(x)
        pe, centre, length = self.pe, self.pe.shape[0] // 2, x.shape[0]
        return pe[centre - length + 1 : centre + length].to(x.dtype)


class AttentionWeights(nn.Module):
    """Multi-head attention weights with a relative-position term: (N, L, C) -> (N, H, L, L).

    There is no 1/sqrt(D): the released network has it in its weights.
    """

    def __init__(self, channels: int, pos_dim: int, heads: int, query_dim: int, pos_head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.split = [heads * query_dim, heads * query_dim, heads * pos_head_dim]
        self.in_proj = nn.Linear(channels, sum(self.split))
        self.linear_pos = nn.Linear(pos_dim, heads * pos_head_dim, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        query, key, pos_query = (
            unflatten(part, -1, (self.heads, -1)) for part in self.in_proj(x).split(self.split, dim=-1)
        )  # (N, L, H, D)
        pos_key = unflatten(self.linear_pos(positions), -1, (self.heads, -1)).permute(1, 2, 0)  # (H, D, 2L-1)
        # The score of position i for j reads offset j - i. A table for each i, so that all sequences
        # share one product, is cheaper than all 2L-1 offsets for each i, of which L are wanted.
        place = torch.arange(x.shape[1], device=x.device)
        table = pos_key[:, :, place - place[:, None] + x.shape[1] - 1].transpose(1, 2)  # (H, L, D, L)
        relative = (pos_query.permute(2, 1, 0, 3) @ table).permute(2, 0, 1, 3)  # (N, H, L, L)
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) + relative
        return scores.softmax(dim=-1)


def attend(weights: Tensor, value: Tensor) -> Tensor:
    """Apply weights (N, H, L, L) to values (N, L, H*D)."""
    value = unflatten(value, -1, (weights.shape[1], -1)).transpose(1, 2)  # (N, H, L, D)
    return (weights @ value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Values through attention weights that were computed once for the whole layer."""

    def __init__(self, channels: int, heads: int, value_dim: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, heads * value_dim)
        self.out_proj = nn.Linear(heads * value_dim, channels)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.out_proj(attend(weights, self.in_proj(x)))


class NonlinAttention(nn.Module):
    """Gated attention over the first head's weights."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, 3 * hidden)
        self.out_proj = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        gate, value, output_gate = self.in_proj(x).chunk(3, dim=-1)
        return self.out_proj(attend(weights[:, :1], value * gate.tanh()) * output_gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int, dropout: float):
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(swoosh_l(self.in_proj(x))))


class ConvModule(nn.Module):
    """Gated depthwise convolution along L."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, 2 * channels)
        self.depthwise_conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.in_proj(x), dim=-1)
        # As a 2-D convolution over (1, C, N, L): x already lies channels-last in memory, and so
        # the CPU's kernel for that layout runs without a copy, 30 times as fast as Conv1d.
        conv = self.depthwise_conv
        x = F.conv2d(
            x[None].permute(0, 3, 1, 2),
            conv.weight[:, :, None],
            conv.bias,
            padding=(0, conv.kernel_size[0] // 2),
            groups=conv.groups,
        )
        return self.out_proj(swoosh_r(x.permute(0, 2, 3, 1)[0]))


class ZipformerLayer(nn.Module):
    """(N, L, C) -> (N, L, C); `positions` is RelativePositions' (2L-1, pos_dim)."""

    def __init__(self, channels: int, pos_dim: int, stack: StackConfig, dropout: float) -> None:
        super().__init__()
        hidden = stack.feedforward_dim
        self.self_attn_weights = AttentionWeights(
            channels, pos_dim, stack.heads, stack.query_dim, stack.pos_head_dim
        )
        self.self_attn1 = SelfAttention(channels, stack.heads, stack.value_dim)
        self.self_attn2 = SelfAttention(channels, stack.heads, stack.value_dim)
        self.feed_forward1 = FeedForward(channels, hidden * 3 // 4, dropout)
        self.feed_forward2 = FeedForward(channels, hidden, dropout)
        self.feed_forward3 = FeedForward(channels, hidden * 5 // 4, dropout)
        self.nonlin_attention = NonlinAttention(channels, 3 * channels // 4)
        self.conv_module1 = ConvModule(channels, stack.kernel)
        self.conv_module2 = ConvModule(channels, stack.kernel)
        self.bypass_mid = Bypass(channels)
        self.norm = BiasNorm(channels)
        self.bypass = Bypass(channels)
        # In the released checkpoint and unused: kept, so that it loads and saves back whole.
        self.register_buffer("bypass_scale", torch.full((channels,), 0.5))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        residual = x
        weights = self.self_attn_weights(x, positions)
        x = x + self.feed_forward1(x)
        x = x + self.nonlin_attention(x, weights)
        x = x + self.self_attn1(x, weights)
        x = x + self.conv_module1(x)
        x = x + self.feed_forward2(x)
        x = self.bypass_mid(residual, x)
        x = x + self.self_attn2(x, weights)
        x = x + self.conv_module2(x)
        x = x + self.feed_forward3(x)
        return self.bypass(residual, self.norm(x))


class Downsample(nn.Module):
    """Softmax-weighted average of each `factor` positions along dim: L -> ceil(L / factor)."""

    def __init__(self, factor: int, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(factor))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        factor, dim = self.bias.numel(), self.dim
        x = x.transpose(0, dim)  # (L, ...)
        last = x[-1:].expand(factor - 1, *x.shape[1:])
        x = torch.cat([x, last])  # a last, incomplete group is filled with the last position
        x = x[: x.shape[0] // factor * factor]
        x = unflatten(x, 0, (-1, factor))
        x = (x * self.bias.softmax(0).view(-1, *[1] * (x.ndim - 2))).sum(1)
        return x.transpose(0, dim)
