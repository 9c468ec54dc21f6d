"""Folding, in float64: each of a module's matrices, and the offset after it."""

import math

import torch
from torch import Tensor, nn

LOG2_E = math.log2(math.e)
# SwooshL and SwooshR as softplus(z) - 0.08 z - constant, of z = x - shift.
SWOOSH_L = {"shift": 4.0, "constant": 0.08 * 4.0 + 0.035}
SWOOSH_R = {"shift": 1.0, "constant": 0.08 * 1.0 + 0.313261687}


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
    return (in_weight.float(), _right(out_weight)), offset + constant


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
