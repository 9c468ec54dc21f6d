"""Convolutions, norms and dense blocks for inference on CPUs; activations lie as (T, F, C), channels last.

The output of a convolution needs the statistics of all of it before it can be normalised: so a slice
is normalised when it is read, and a `reader` is a function (start, stop, scratch) -> rows (T, F, C).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network import zipenhancer
from .buffers import Scratch
from .fold import converted
from .threads import SlicePool

CONV_FLOATS = 1_200_000  # inputs and outputs of one slice of a convolution
SLICE_FLOATS = 200_000  # of one slice of an element-wise pass: the second-level cache

Reader = Callable[[int, int, Scratch], Tensor]
M = TypeVar("M", bound=nn.Module)


def find(sequence: nn.Module, kind: type[M]) -> M:
    """The first module of that kind in a Sequential."""
    return next(module for module in sequence.children() if isinstance(module, kind))


def layers_of(block: zipenhancer.DenseBlock) -> list[nn.Module]:
    """The Sequentials of a dense block: padding, convolution, norm and activation."""
    return list(block.dense_block)


class Conv:
    """A convolution of rows (T, F, C), padded in frequency only.

    The norms that follow, except after sub-pixels, would cancel a bias.
    """

    def __init__(self, conv: nn.Conv2d):
        self.weight = converted(conv.weight, torch.float32).contiguous(memory_format=torch.channels_last)
        self.bias: Tensor | None = None
        self.stride = cast(tuple[int, int], conv.stride)
        self.dilation = cast(tuple[int, int], conv.dilation)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)[None]
        y = F.conv2d(x, self.weight, self.bias, self.stride, (0, 1), self.dilation)
        return y[0].permute(1, 2, 0)


class DenseConv(Conv):
    """A layer of a dense block."""

    def __init__(self, layer: nn.Module):
        super().__init__(find(layer, nn.Conv2d))
        self.norm = NormAct(layer)
        self.reach = self.dilation[0]  # frames looked back

    def reader(self, planes: Sequence[Tensor]) -> Reader:
        """Rows start - reach to stop of all planes side by side, newest first, zeros before time 0."""
        _, bins, channels = planes[0].shape

        def read(start: int, stop: int, scratch: Scratch) -> Tensor:
            first = start - self.reach
            missing = max(0, -first)
            x = scratch.take("gathered", stop - first, bins, len(planes) * channels)
            x[:missing] = 0
            torch.cat([plane[first + missing : stop] for plane in planes[::-1]], -1, out=x[missing:])
            return x

        return read


class SubPixelConv(Conv):
    """Twice the bins. Its output channels are put in such an order that (T, F, 2C) is (T, 2F, C)."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv)
        weight = self.weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        bias = cast(Tensor, conv.bias)
        self.bias = bias.detach().view(-1, 2).t().flatten().float()


class Moments(NamedTuple):
    """Of so many rows, for each bin and channel: (F, C)."""

    rows: int
    mean: Tensor
    variance: Tensor


def moments(x: Tensor) -> Moments:
    """Moments of x (rows, F, C), over the rows.

    torch adds these float32 up one after the other: so for each bin by itself, then NormAct in float64
    over slices and bins. That is 100 times as precise as at once, and faster if C is small.
    """
    mean, variance = torch.batch_norm_update_stats(x.flatten(1), None, None, 0.0)
    return Moments(len(x), mean.view(x.shape[1:]), variance.view(x.shape[1:]))


class NormAct:
    """Instance norm and PReLU of a Sequential."""

    def __init__(self, sequence: nn.Module):
        norm = find(sequence, nn.InstanceNorm2d)
        self.weight, self.bias = (converted(x, torch.float64) for x in (norm.weight, norm.bias))
        self.eps = norm.eps
        self.slope = converted(find(sequence, nn.PReLU).weight, torch.float32)

    def fold(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics (C,) -> scale and shift (C,), float64."""
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale

    def of(self, slices: Sequence[Moments]) -> "Normalize":
        """The norm of all the slices together."""
        means, variances = (
            torch.stack(x).double() for x in ([s.mean for s in slices], [s.variance for s in slices])
        )
        rows = means.new_tensor([s.rows for s in slices])
        share = rows / (rows.sum() * means.shape[1])
        mean = torch.einsum("s,sbc->c", share, means)
        variance = torch.einsum("s,sbc->c", share, variances + (means - mean).square())
        scale, shift = self.fold(mean, variance)
        return Normalize(scale.float(), shift.float(), self.slope)


class Normalize:
    """A norm of which the statistics are known, and the activation: (rows, F, C) -> same."""

    def __init__(self, scale: Tensor, shift: Tensor, slope: Tensor):
        self.scale, self.shift, self.slope = scale, shift, slope

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        y = torch.addcmul(self.shift, x, self.scale, out=scratch.take("scaled", *x.shape))
        return F.prelu(y.view(-1, y.shape[-1]), self.slope).view_as(y)

    def reader(self, raw: Tensor) -> Reader:
        """Of raw (T, F, C)."""
        return lambda start, stop, scratch: self(raw[start:stop], scratch)


def convolve(conv: Conv, read: Reader, out: Tensor, pool: SlicePool) -> list[Moments]:
    """Convolve what is read into out (T, F, C); returns the moments of the slices."""

    def job(start: int, stop: int, scratch: Scratch) -> Moments:
        out[start:stop] = conv(read(start, stop, scratch)).view(-1, *out.shape[1:])
        return moments(out[start:stop])

    outputs, inputs = conv.weight.shape[:2]
    bins = out[0].numel() // outputs * conv.stride[1]
    return pool.slices(job, out.shape[0], CONV_FLOATS // ((inputs + outputs) * bins))


def normalize(norm: Normalize, x: Tensor, pool: SlicePool) -> None:
    """In place, x (T, F, C)."""

    def job(start: int, stop: int, scratch: Scratch) -> None:
        x[start:stop] = norm(x[start:stop], scratch)

    pool.slices(job, x.shape[0], SLICE_FLOATS // x[0].numel())


class DenseBlock:
    """A dense block, convolution by convolution."""

    def __init__(self, block: zipenhancer.DenseBlock):
        self.layers = [DenseConv(layer) for layer in layers_of(block)]

    def planes(self, frames: int, bins: int) -> list[tuple[int, ...]]:
        """Shapes of the memory that it takes for an input of that size: its input and each layer's output."""
        return [(frames, bins, self.layers[0].weight.shape[0])] * (1 + len(self.layers))

    def __call__(self, read: Reader, bins: int, planes: Sequence[Tensor], pool: SlicePool) -> Reader:
        """A reader of the input (T, F, C) -> a reader of the output, of the same shape.

        The output's reader needs the last plane only.
        """

        def fill(start: int, stop: int, scratch: Scratch) -> None:
            planes[0][start:stop] = read(start, stop, scratch)

        pool.slices(fill, len(planes[0]), SLICE_FLOATS // planes[0][0].numel())
        for i, layer in enumerate(self.layers):
            norm = layer.norm.of(convolve(layer, layer.reader(planes[: i + 1]), planes[i + 1], pool))
            if i + 1 < len(self.layers):
                normalize(norm, planes[i + 1], pool)
        return norm.reader(planes[-1])
