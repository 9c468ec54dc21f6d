"""Convolutions, norms and dense blocks in C: src/convolution.h. What is before and after the body."""

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....network import zipenhancer
from ..buffers import Scratch
from ..convolution import SLICE_FLOATS, find, layers_of
from ..fold import converted, moments_of_map
from ..threads import SlicePool
from .library import Int, Library, Matrix, Pointer, address, padded, rows

FRAMES = 64  # of a slice at most: each begins with the frames that its first ones look back at

POINTS = 0.0, 0.625, -0.625, 1.5, -1.5  # and infinity, of Winograd's F(4, 3): as in src/convolution.h


def winograd_filter() -> Tensor:
    """Taps (3,) to the factors of the six products: (6, 3), float64.

    The polynomial's values at the points, over the product of each point's distances from the others.
    """
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")
    distances = (points[:, None] - points + torch.eye(len(points), dtype=torch.float64, device="cpu")).prod(1)
    values = points[:, None] ** torch.arange(3, device="cpu") / distances[:, None]
    return torch.cat([values, values.new_tensor([[0.0, 0.0, 1.0]])])


class _Rows(ctypes.Structure):
    _fields_ = [
        ("x", Pointer),
        ("frame", Int),
        ("channels", Int),
        *((name, Pointer) for name in ("scale", "shift", "slope", "lift")),
    ]


class _DenseLayer(ctypes.Structure):
    _fields_ = [*((name, Int) for name in ("channels", "bins", "dilation", "sources")), ("panels", Pointer)]


class _Conv(ctypes.Structure):
    _fields_ = [
        *((name, Int) for name in ("channels", "bins", "stride", "outputs")),
        ("panels", Pointer),
        ("bias", Pointer),
    ]


class Rows:
    """Frames (T, F, C) as src/convolution.h reads them: x as it is, or normalised and activated."""

    def __init__(
        self, x: Tensor, norm: tuple[Tensor, Tensor, Tensor] | None = None, lift: Tensor | None = None
    ):
        self.kept = x, norm, lift
        scale, shift, slope = norm or (None, None, None)
        pointers = [address(part) for part in (scale, shift, slope, lift)]
        self.struct = _Rows(address(x), x.stride(0), x.stride(1), *pointers)

    @property
    def pointer(self) -> Any:
        return ctypes.byref(self.struct)


class Functions:
    """What of the library this file calls."""

    def __init__(self, library: Library):
        p, i = Pointer, Int
        function = library.function
        self.panels = library.panels
        self.norm = function("norm", None, p, i, i, p, p, ctypes.c_double, p, p)
        self.dense_layer = function("dense_layer", None, p, p, i, i, p, p, p)
        self.dense_layer_floats = function("dense_layer_floats", i, p)
        self.conv = function("conv", None, p, p, i, i, p, i, p, p)
        self.conv_floats = function("conv_floats", i, p)
        self.settle = function("settle", None, p, i, i, i, i, p, p)
        self.heads = function("heads", None, p, i, i, i, p, p, i, p, i, p)


class NormAct:
    """Instance norm and PReLU of a Sequential."""

    def __init__(self, sequence: nn.Module, functions: Functions):
        norm = find(sequence, nn.InstanceNorm2d)
        self.functions = functions
        self.weight, self.bias = (converted(x, torch.float64) for x in (norm.weight, norm.bias))
        self.eps = norm.eps
        self.slope = rows(find(sequence, nn.PReLU).weight.detach())

    def of(self, slices: Sequence[Tensor], x: Tensor) -> Rows:
        """x (T, F, C) normalised by the moments of its slices."""
        scale, shift = torch.empty_like(self.slope), torch.empty_like(self.slope)
        moments = torch.cat(list(slices))
        self.functions.norm(
            address(moments),
            len(slices),
            len(self.weight),
            address(self.weight),
            address(self.bias),
            self.eps,
            address(scale),
            address(shift),
        )
        return Rows(x, (scale, shift, self.slope))


def _moments(channels: int) -> Tensor:
    return torch.empty(1 + 3 * padded(channels), dtype=torch.float64, device="cpu")


class NativeDenseBlock:
    """A dense block; the planes are its layers' outputs, before their norms."""

    def __init__(self, block: zipenhancer.DenseBlock, functions: Functions):
        self.functions = functions
        convs = [find(layer, nn.Conv2d) for layer in layers_of(block)]
        self.channels = convs[0].out_channels
        self.norms = [NormAct(layer, functions) for layer in layers_of(block)]
        self.dilations = [int(conv.dilation[0]) for conv in convs]
        taps = winograd_filter()
        self.weights = []
        for conv in convs:
            weight = conv.weight.detach().double()  # (C, sources * C, 2, 3)
            weight = torch.einsum("pf,oitf->pito", taps, weight).unflatten(1, (-1, self.channels))
            weight = weight.transpose(2, 3).flatten(1, 2)  # (6, sources * 2, C, C)
            self.weights.append(torch.stack([functions.panels(part) for part in weight]))

    def planes(self, frames: int, bins: int) -> list[tuple[int, ...]]:
        """Shapes of the memory that it takes for an input of that size."""
        return [(frames, bins, padded(self.channels))] * len(self.weights)

    def __call__(self, source: Rows, bins: int, planes: Sequence[Tensor], pool: SlicePool) -> Rows:
        """The input -> the output, (T, F, C) both, which needs the last plane only."""
        sources = [source]
        for i, plane in enumerate(planes):
            slices = self._layer(i, sources, bins, plane, pool)
            sources.append(self.norms[i].of(slices, plane))
        return sources[-1]

    def _layer(self, i: int, sources: list[Rows], bins: int, out: Tensor, pool: SlicePool) -> list[Tensor]:
        """Layer i of all that is before it, to out (T, F, width), before its norm; the slices' moments."""
        layer = _DenseLayer(self.channels, bins, self.dilations[i], len(sources), address(self.weights[i]))
        newest_first = (_Rows * len(sources))(*(source.struct for source in reversed(sources)))
        floats = self.functions.dense_layer_floats(ctypes.byref(layer))

        def job(start: int, stop: int, scratch: Scratch) -> Tensor:
            found, memory = _moments(self.channels), scratch.take("native", floats)
            self.functions.dense_layer(
                ctypes.byref(layer), newest_first, start, stop, address(out), address(found), address(memory)
            )
            return found

        return pool.slices(job, len(out), FRAMES)


class Conv:
    """A convolution of 1 x 3; `outputs` (1 or 2, for sub-pixels) bins for each that it reads."""

    def __init__(self, conv: nn.Conv2d, functions: Functions, outputs: int = 1):
        self.functions, self.outputs = functions, outputs
        self.channels, self.stride = conv.in_channels, int(conv.stride[1])
        weight = conv.weight.detach()[:, :, 0].permute(2, 1, 0)  # (3, C, outputs)
        parts = weight.unflatten(2, (-1, outputs)).unbind(3)  # sub-pixel i of channel c is output 2c + i
        self.weight = torch.cat([functions.panels(part) for part in parts])
        bias = cast(Tensor, conv.bias)
        # the norm that follows would cancel a bias, but not if it has different ones in even and odd bins
        self.bias = None if outputs == 1 else rows(bias.detach().view(-1, outputs).t()).flatten()

    def __call__(self, source: Rows, bins: int, out: Tensor, pool: SlicePool) -> list[Tensor]:
        """To out (T, outputs * F, C), before the norm; returns the moments of the slices."""
        conv = _Conv(self.channels, bins, self.stride, self.outputs, address(self.weight), address(self.bias))
        floats = self.functions.conv_floats(ctypes.byref(conv))

        def job(start: int, stop: int, scratch: Scratch) -> Tensor:
            found, memory = _moments(self.channels), scratch.take("native", floats)
            self.functions.conv(
                ctypes.byref(conv),
                source.pointer,
                start,
                stop,
                address(out),
                out.shape[-1],
                address(found),
                address(memory),
            )
            return found

        return pool.slices(job, len(out), FRAMES)


class NativeEncoder:
    """As network.Encoder."""

    def __init__(self, encoder: zipenhancer.DenseEncoder, library: Library):
        self.functions = Functions(library)
        first, last = encoder.dense_conv_1, encoder.dense_conv_2
        self.lift = converted(find(first, nn.Conv2d).weight, torch.float64).flatten(1)  # (C, 2)
        self.lift_norm = NormAct(first, self.functions)
        self.block = NativeDenseBlock(encoder.dense_block, self.functions)
        self.shrink = Conv(find(last, nn.Conv2d), self.functions)
        self.shrink_norm = NormAct(last, self.functions)

    def lifted(self, x: Tensor) -> Rows:
        """The 1x1 convolution, norm and activation, of x (T, F, 2)."""
        norm, (mean, variance) = self.lift_norm, moments_of_map(x.flatten(0, 1), self.lift)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        shift = rows(norm.bias - mean * scale)
        return Rows(x, (shift, shift, norm.slope), rows((self.lift * scale[:, None]).t()))

    def end(self, source: Rows, out: Tensor, pool: SlicePool) -> None:
        """The strided convolution with its norm, of what is read (T, F, C), to out (T, (F+1)//2, C)."""
        _, half, channels = out.shape
        bins = source.kept[0].shape[1]
        read = self.shrink_norm.of(self.shrink(source, bins, out, pool), out)

        def job(start: int, stop: int, scratch: Scratch) -> None:
            memory = scratch.take("native", half * padded(channels))
            self.functions.settle(read.pointer, start, stop, half, channels, address(out), address(memory))

        pool.slices(job, len(out), SLICE_FLOATS // out[0].numel())


class NativeDecoder:
    """As network.Decoder."""

    def __init__(
        self,
        block: zipenhancer.DenseBlock,
        sequence: nn.Sequential,
        heads: Sequence[nn.Module],
        library: Library,
    ):
        self.functions = Functions(library)
        self.block = NativeDenseBlock(block, self.functions)
        self.up = Conv(find(sequence, zipenhancer.SubPixelConv).conv1, self.functions, outputs=2)
        self.norm = NormAct(sequence, self.functions)
        weights, biases = [], []
        for head in heads:
            weight, bias = (parameter.detach() for parameter in head.parameters())
            weights.append(weight[0, :, 0])  # (C, 2)
            biases.append(bias.item())
        weight = torch.cat(weights, dim=1)
        self.heads = library.panels(weight)
        self.matrix = Matrix(address(self.heads), None, len(weight), padded(weight.shape[1]))
        self.biases = (ctypes.c_float * len(biases))(*biases)

    def end(self, source: Rows, wide: Tensor, outs: Sequence[Tensor], pool: SlicePool) -> None:
        """What follows the dense block, of what is read (T, F, C); wide (T, 2F, C) is to work in."""
        frames, bins, width = wide.shape
        read = self.norm.of(self.up(source, bins // 2, wide, pool), wide)
        pointers = (Pointer * len(outs))(*(address(out) for out in outs))

        def job(start: int, stop: int, scratch: Scratch) -> None:
            memory = scratch.take("native", bins * (width + padded(1)))
            self.functions.heads(
                read.pointer,
                start,
                stop,
                bins,
                ctypes.byref(self.matrix),
                self.biases,
                len(outs),
                pointers,
                frames,
                address(memory),
            )

        pool.slices(job, frames, SLICE_FLOATS // wide[0].numel())
