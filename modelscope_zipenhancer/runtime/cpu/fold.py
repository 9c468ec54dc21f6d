"""The folding of weights, above all a Zipformer layer's, for inference: pure functions, in float64.

What comes after a module takes over a part of its work, so that no pass over the activations is left for it:

- The offset. A module's output projection leaves its bias out: what is stored lacks a constant of each
  channel, the `offset` (C,):

      true x = stored x + offset

  Each fold takes the offset of its input and returns that of its output. An input projection makes up
  for it in its bias: weight @ (x + offset) + bias = weight @ x + (weight @ offset + bias). In the first
  module the offset is zero, and after the last it is added once.
- Swoosh, softplus(z) - 0.08 z - constant of z = x - shift: the shift goes into the bias before it, the
  constant, times the output projection, into the offset after it.
- exp2 and log2 cost less than exp and log: what goes into them is multiplied by log2 e.
"""

import math
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ...network import zipformer

LOG2_E = math.log2(math.e)
SLOPE = 0.08  # of Swoosh
SHIFT_L, CONSTANT_L = 4.0, SLOPE * 4.0 + 0.035
SHIFT_R, CONSTANT_R = 1.0, SLOPE * 1.0 + 0.313261687

T = TypeVar("T")


class Linear(NamedTuple):
    """x (M, in) -> x @ weight + bias (M, out)"""

    weight: Tensor  # (in, out)
    bias: Tensor  # (out,)


class FeedForward(NamedTuple):
    """x -> x + swoosh(in_proj(x)) @ out, of swoosh(z) = log(1 + 2 ** z) - 0.08 z / log2(e)."""

    in_proj: Linear
    out: Tensor  # (hidden, C)


class GatedAttention(NamedTuple):
    """x -> x + (weights @ (v - 2 v sigmoid(gate(x)))) * output(x) @ out, of v = value(x)."""

    gate: Linear
    value: Linear
    output: Linear
    out: Tensor  # (hidden, C)


class Attention(NamedTuple):
    """x -> x + (weights @ (x @ value.t())) @ out"""

    value: Tensor  # (H * D, C)
    out: Tensor  # (H * D, C)


class Convolution(NamedTuple):
    """x -> x + swoosh(taps * (value(x) sigmoid(gate(x))) + bias) @ out, swoosh as of FeedForward."""

    value: Linear
    gate: Linear
    taps: Tensor  # (C, 1, 1, kernel)
    bias: Tensor  # (C,)
    out: Tensor  # (C, C)


class Layer(NamedTuple):
    """The modules of a layer in the order in which they act."""

    scores: Linear  # queries, keys and positional queries; 2 to the power of the scores is wanted
    feed_forward1: FeedForward
    gated_attention: GatedAttention
    attention1: Attention
    convolution1: Convolution
    feed_forward2: FeedForward
    bypass: Tensor  # (C,)
    attention2: Attention
    convolution2: Convolution
    feed_forward3: FeedForward
    offset: Tensor  # (C,), what is lacking at the end


def fold_layer(layer: zipformer.ZipformerLayer) -> Layer:
    """All of a layer up to its norm."""
    offset = torch.zeros_like(_double(layer.norm.bias))
    scores = fold_scores(layer.self_attn_weights, offset)
    feed_forward1, offset = fold_feed_forward(layer.feed_forward1, offset)
    gated_attention, offset = fold_gated_attention(layer.nonlin_attention, offset)
    attention1, offset = fold_attention(layer.self_attn1, offset)
    convolution1, offset = fold_convolution(layer.conv_module1, offset)
    feed_forward2, offset = fold_feed_forward(layer.feed_forward2, offset)
    bypass = _double(layer.bypass_mid.bypass_scale)
    offset = offset * bypass  # between the layer's input, which lacks nothing, and x
    attention2, offset = fold_attention(layer.self_attn2, offset)
    convolution2, offset = fold_convolution(layer.conv_module2, offset)
    feed_forward3, offset = fold_feed_forward(layer.feed_forward3, offset)
    return Layer(
        scores,
        feed_forward1,
        gated_attention,
        attention1,
        convolution1,
        feed_forward2,
        bypass,
        attention2,
        convolution2,
        feed_forward3,
        offset,
    )


def fold_linear(
    weight: Tensor, bias: Tensor, offset: Tensor, scale: Tensor | float = 1.0, shift: float = 0.0
) -> Linear:
    """scale * (linear(x + offset) - shift); weight (out, in), scale (out, 1) or a number."""
    bias = (bias[:, None] + weight @ offset[:, None] - shift) * scale
    return Linear(_right(weight * scale), bias[:, 0])


def fold_scores(module: zipformer.AttentionWeights, offset: Tensor) -> Linear:
    """Scores times log2 e: they are linear in the queries and in the positional queries."""
    weight, bias = _parameters(module.in_proj)
    queries, _, positional = module.split
    scale = torch.ones_like(bias)[:, None]
    scale[:queries] = scale[-positional:] = LOG2_E
    return fold_linear(weight, bias, offset, scale)


def fold_feed_forward(module: zipformer.FeedForward, offset: Tensor) -> tuple[FeedForward, Tensor]:
    out, bias = _parameters(module.out_proj)
    in_proj = fold_linear(*_parameters(module.in_proj), offset, LOG2_E, SHIFT_L)
    return FeedForward(in_proj, _right(out)), offset + bias - CONSTANT_L * out.sum(1)


def fold_gated_attention(module: zipformer.NonlinAttention, offset: Tensor) -> tuple[GatedAttention, Tensor]:
    """tanh(x) is 2 sigmoid(2x) - 1, at a quarter of the cost; its minus goes into `out`."""
    out, bias = _parameters(module.out_proj)
    weights, biases = (x.chunk(3) for x in _parameters(module.in_proj))
    gate, value, output = (
        fold_linear(weight, bias_in, offset, scale)
        for weight, bias_in, scale in zip(weights, biases, (2.0, 1.0, 1.0))
    )
    return GatedAttention(gate, value, output, _right(-out)), offset + bias


def fold_attention(module: zipformer.SelfAttention, offset: Tensor) -> tuple[Attention, Tensor]:
    """Attention weights sum to one, so a constant in the values comes out as it is."""
    (value, value_bias), (out, bias) = _parameters(module.in_proj), _parameters(module.out_proj)
    return Attention(value, _right(out)), offset + (out @ (value @ offset + value_bias) + bias)


def fold_convolution(module: zipformer.ConvModule, offset: Tensor) -> tuple[Convolution, Tensor]:
    out, bias = _parameters(module.out_proj)
    taps, taps_bias = _parameters(module.depthwise_conv)
    weights, biases = (x.chunk(2) for x in _parameters(module.in_proj))
    value, gate = (fold_linear(weight, bias_in, offset) for weight, bias_in in zip(weights, biases))
    folded = Convolution(value, gate, taps[:, :, None] * LOG2_E, (taps_bias - SHIFT_R) * LOG2_E, _right(out))
    return folded, offset + bias - CONSTANT_R * out.sum(1)


def moments_of_map(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,), float64, of x (M, in) @ weight.t(), of weight (C, in).

    They follow from the mean and the covariance of x.
    """
    x = x.double()
    mean = x.mean(0)
    x = x - mean
    return weight @ mean, ((weight @ (x.t() @ x / len(x))) * weight).sum(1)


def converted(folded: T, dtype: torch.dtype) -> T:
    """Copies of all the tensors of a fold, or of a tensor, in that dtype."""
    if isinstance(folded, Tensor):
        return cast(T, folded.detach().to(dtype, copy=True))
    return type(folded)(*(converted(part, dtype) for part in cast(tuple, folded)))


def _double(x: Tensor) -> Tensor:
    return x.detach().double()


def _parameters(module: nn.Linear | nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    return _double(module.weight), _double(cast(Tensor, module.bias))


def _right(weight: Tensor) -> Tensor:
    """A weight (out, in) as the right factor of a product."""
    return weight.t().contiguous()
