"""Convolutions, norms and dense blocks for inference on CPUs; activations lie as (T, F, C), channels last.

The output of a convolution needs the statistics of all of it before it can be normalised: so a slice
is normalised when it is read, and a `reader` is a function (start, stop, scratch) -> rows (T, F, C).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .buffers import Scratch
from .threads import Jobs

CONV_FLOATS = 1_200_000  # inputs and outputs of one slice of a convolution
SLICE_FLOATS = 200_000  # of one slice of an element-wise pass: the second-level cache


class Conv:
    """A convolution of rows (T, F, C), padded in frequency only.

    The norms that follow, except after sub-pixels, would cancel a bias.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        self.weight = conv.weight.detach().to(dtype, copy=True, memory_format=torch.channels_last)
        self.bias = None
        self.options = {"stride": conv.stride, "padding": (0, 1), "dilation": conv.dilation}

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        y = F.conv2d(x.permute(2, 0, 1)[None], self.weight, self.bias, **self.options)
        return y[0].permute(1, 2, 0)


class DenseConv(Conv):
    """A layer of a dense block."""

    def __init__(self, layer: nn.Sequential, dtype: torch.dtype):
        super().__init__(layer[1], dtype)
        self.norm = NormAct(layer)
        self.reach = layer[1].dilation[0]  # frames looked back

    def reader(self, planes):
        """Rows start - reach to stop of all planes side by side, newest first, zeros before time 0."""
        _, bins, channels = planes[0].shape

        def read(start, stop, scratch):
            first = start - self.reach
            missing = max(0, -first)
            shape = stop - first, bins, len(planes) * channels
            x = scratch.take("gathered", *shape, dtype=self.weight.dtype)
            x[:missing] = 0
            torch.cat([plane[first + missing : stop] for plane in planes[::-1]], -1, out=x[missing:])
            return x

        return read


class SubPixelConv(Conv):
    """Twice the bins. Its output channels are put in such an order that (T, F, 2C) is (T, 2F, C)."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        super().__init__(conv, dtype)
        weight = self.weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = conv.bias.detach().view(-1, 2).t().flatten().to(dtype)


class NormAct:
    """Instance norm and PReLU of a Sequential."""

    def __init__(self, sequence: nn.Sequential):
        norm = next(module for module in sequence if isinstance(module, nn.InstanceNorm2d))
        activation = next(module for module in sequence if isinstance(module, nn.PReLU))
        self.weight, self.bias, self.eps = norm.weight.double(), norm.bias.double(), norm.eps
        self.slope = activation.weight.detach().clone()

    def fold(self, mean: Tensor, variance: Tensor):
        """Statistics (C,) -> scale and shift (C,), float64."""
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale

    def of(self, slices) -> "Normalize":
        """slices: (rows, mean, variance) of each, the last two (bins, C) over the rows."""
        rows, means, variances = zip(*slices)
        means, variances = torch.stack(means).double(), torch.stack(variances).double()
        share = torch.tensor(rows, dtype=torch.float64) / (sum(rows) * means.shape[1])
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

    def reader(self, raw: Tensor):
        """Of raw (T, F, C)."""
        return lambda start, stop, scratch: self(raw[start:stop], scratch)


def moments(x: Tensor):
    """(rows, mean, variance) of x (rows, F, C), the last two (F, C) over the rows.

    torch adds these float32 up one after the other: so for each bin by itself, then NormAct in float64
    over slices and bins. That is 100 times as precise as at once, and faster if C is small.
    """
    found = torch.batch_norm_update_stats(x.flatten(1), None, None, 0.0)
    return len(x), *(y.view(x.shape[1:]) for y in found)


def convolve(conv: Conv, reader, out: Tensor, run: Jobs) -> list:
    """Convolve reader(start, stop, scratch) into out (T, F, C); the moments of the slices."""

    def job(start, stop, scratch):
        out[start:stop] = conv(reader(start, stop, scratch)).view(-1, *out.shape[1:])
        return moments(out[start:stop])

    outputs, inputs = conv.weight.shape[:2]
    bins = out[0].numel() // outputs * conv.options["stride"][1]
    return run.slices(job, out.shape[0], CONV_FLOATS // ((inputs + outputs) * bins))


def normalize(norm: Normalize, x: Tensor, run: Jobs) -> None:
    """In place, x (T, F, C)."""

    def job(start, stop, scratch):
        x[start:stop] = norm(x[start:stop], scratch)

    run.slices(job, x.shape[0], SLICE_FLOATS // x[0].numel())


class DenseBlock:
    """A dense block, convolution by convolution."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        self.layers = [DenseConv(layer, dtype) for layer in block.dense_block]

    def floats(self, frames: int, bins: int) -> int:
        """The memory it takes for an input of that size."""
        return 5 * frames * bins * self.layers[0].weight.shape[0]

    def __call__(self, read, frames: int, bins: int, memory: Tensor, run: Jobs):
        """A reader of the input (T, F, C) -> a reader of the output, of the same shape.

        The output's reader needs the last plane only, the end of `memory`.
        """
        channels = self.layers[0].weight.shape[0]
        planes = list(memory[: self.floats(frames, bins)].view(5, frames, bins, channels))

        def fill(start, stop, scratch):
            planes[0][start:stop] = read(start, stop, scratch)

        run.slices(fill, frames, SLICE_FLOATS // (bins * channels))
        for i, layer in enumerate(self.layers):
            norm = layer.norm.of(convolve(layer, layer.reader(planes[: i + 1]), planes[i + 1], run))
            if i + 1 < len(self.layers):
                normalize(norm, planes[i + 1], run)
        return norm.reader(planes[-1])
