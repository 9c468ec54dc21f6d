"""A dense block by Winograd's algorithm along frequency: 6 products where 4 outputs of 3 taps have 12.

F(4, 3) of Lavin and Gray, arXiv 1509.09308, in one dimension: four neighbouring outputs are

    inverse @ ((filter @ taps) * (forward @ inputs)),   forward of the 6 inputs that they read,

and as the forward transform is the same for all filters, an activation is transformed once, when it
is normalised, and read by all later layers of the block. Tiles of four bins lie side by side in planes:
values (4, T, tiles, C), transformed ones (6, T, tiles, C); bin 4t + j is tile t of plane j. What is
beyond the last bin is zero. In time, two taps apart by the dilation remain a convolution.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network import zipenhancer
from .buffers import Scratch
from .convolution import SLICE_FLOATS, Moments, NormAct, Normalize, Reader, find, layers_of, moments
from .threads import SlicePool

OUTPUTS, TAPS = 4, 3
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # and infinity: where the polynomials are multiplied
PRODUCTS = OUTPUTS + TAPS - 1
ROWS = 56  # frames of a slice at most
CHANNELS = 32  # from here on it pays: 0.65 of the direct form's time for 64, 0.8 for 32, more than 1 for 16


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """inverse (4, 6), filter (6, 3) and forward (6, 6), float64.

    Coefficients to values at the points, products there, and back: of the product of polynomials, whose
    transpose is the convolution.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)

    def values(degree: int) -> Tensor:
        at_infinity = torch.zeros(1, degree, dtype=torch.float64)
        at_infinity[0, -1] = 1
        return torch.cat([points[:, None] ** torch.arange(degree), at_infinity])

    return values(OUTPUTS).t(), values(TAPS), torch.linalg.inv(values(PRODUCTS)).t()


class WinogradBlock:
    """A dense block, float32; as DenseBlock, with which it shares its interface."""

    def __init__(self, block: zipenhancer.DenseBlock):
        inverse, taps, forward = matrices()
        self.inverse = inverse.float()
        self.forward = forward[:, 1:-1].float()  # of a tile itself
        # and of its neighbours: the last value of the one before, the first of the one after
        self.before, self.after = (
            [(p, x) for p, x in enumerate(forward[:, edge].tolist()) if abs(x) > 1e-9] for edge in (0, -1)
        )
        convs = [find(layer, nn.Conv2d) for layer in layers_of(block)]
        self.layers = []  # of each, the filters (out, in, 2, 1) of the six products
        for conv in convs:
            weight = torch.einsum("pf,oitf->poit", taps, conv.weight.detach().double())[..., None].float()
            self.layers.append([w.contiguous(memory_format=torch.channels_last) for w in weight])
        self.reaches = [int(conv.dilation[0]) for conv in convs]
        self.norms = [NormAct(layer) for layer in layers_of(block)]
        self.channels = convs[0].out_channels

    def planes(self, frames: int, bins: int) -> list[tuple[int, ...]]:
        """Shapes of the memory that it takes for an input of that size: each layer's output.

        The first two are kept transformed, as more than one layer reads them.
        """
        counts = PRODUCTS, PRODUCTS, OUTPUTS, OUTPUTS
        return [(count, frames, -(-bins // OUTPUTS), self.channels) for count in counts]

    def __call__(self, read: Reader, bins: int, planes: Sequence[Tensor], pool: SlicePool) -> Reader:
        """A reader of the input (T, F, C) -> a reader of the output, of the same shape.

        The output's reader needs the last plane only.
        """
        call = Call(self, read, bins, planes)
        frames = planes[0].shape[1]
        for i, norm in enumerate(self.norms):
            call.norms.append(norm.of(pool.slices(partial(call.convolve, i), frames, ROWS)))
            if call.is_kept(i):
                rows = SLICE_FLOATS // call.planes[i][:, 0].numel()
                pool.slices(partial(call.transformed, i), frames, rows)
        return call.output


class Call:
    """A block at work on one input. Rows are asked for as (start, stop, scratch), as of readers."""

    def __init__(self, block: WinogradBlock, read: Reader, bins: int, planes: Sequence[Tensor]):
        self.block, self.read, self.bins, self.planes = block, read, bins, planes
        self.tiles = planes[0].shape[2:]  # tiles, C
        self.norms: list[Normalize] = []  # of the layers whose output is known

    def is_kept(self, i: int) -> bool:
        """Whether layer i's output is transformed in place: not if only the last layer reads it."""
        return len(self.planes[i]) == PRODUCTS

    def convolve(self, i: int, start: int, stop: int, scratch: Scratch) -> Moments:
        """Layer i, before its norm, into its plane; returns the moments."""
        reach, channels = self.block.reaches[i], self.block.channels
        first = start - reach
        missing = max(0, -first)  # of what is looked back at, before the start of the signal
        inputs = [self.source(k, first + missing, stop, scratch) for k in reversed(range(i))]
        inputs.append(self.input(first + missing, stop, scratch))
        x = scratch.take("gathered", stop - first, self.tiles[0], channels * len(inputs))
        x[:missing] = 0
        gathered, x = x[missing:], x.permute(2, 0, 1)[None]
        y = scratch.take("products", PRODUCTS, stop - start, *self.tiles)
        for parts, weight, product in zip(zip(*inputs), self.block.layers[i], y.permute(0, 3, 1, 2)):
            torch.cat(parts, -1, out=gathered)
            product.copy_(F.conv2d(x, weight, dilation=(reach, 1))[0])
        out = self.planes[i][:OUTPUTS, start:stop]
        torch.mm(self.block.inverse, y.view(PRODUCTS, -1), out=out.view(OUTPUTS, -1))
        return self.moments(out)

    def moments(self, x: Tensor) -> Moments:
        """convolution.moments of x (4, rows, tiles, C), bins in their order."""
        planes = [moments(plane) for plane in x]
        mean, variance = (
            torch.stack(parts, 1).flatten(0, 1)[: self.bins]
            for parts in ([plane.mean for plane in planes], [plane.variance for plane in planes])
        )
        return Moments(x.shape[1], mean, variance)

    def source(self, k: int, start: int, stop: int, scratch: Scratch) -> Tensor:
        """Layer k's output, transformed (6, rows, tiles, C)."""
        return self.planes[k][:, start:stop] if self.is_kept(k) else self.transformed(k, start, stop, scratch)

    def transformed(self, k: int, start: int, stop: int, scratch: Scratch) -> Tensor:
        """Layer k's output, from before its norm to transformed: in its plane, if that is kept so."""
        x = self.norms[k](self.planes[k][:OUTPUTS, start:stop], scratch)
        out = (
            self.planes[k][:, start:stop]
            if self.is_kept(k)
            else scratch.take("newest", PRODUCTS, *x.shape[1:])
        )
        return self.transform(x, out)

    def input(self, start: int, stop: int, scratch: Scratch) -> Tensor:
        """The block's input, transformed (6, rows, tiles, C). Read anew for each layer, to spare a plane."""
        x = scratch.take("tiles", OUTPUTS, stop - start, *self.tiles)
        rows = self.read(start, stop, scratch)
        for j in range(OUTPUTS):
            part = rows[:, j::OUTPUTS]
            x[j, :, : part.shape[1]] = part
        return self.transform(x, scratch.take("input", PRODUCTS, *x.shape[1:]))

    def transform(self, x: Tensor, out: Tensor) -> Tensor:
        """x (4, rows, tiles, C), of which what is beyond the last bin becomes zero -> out (6, ...)."""
        if self.bins % OUTPUTS:
            x[self.bins % OUTPUTS :, :, -1] = 0
        torch.mm(self.block.forward, x.view(OUTPUTS, -1), out=out.view(PRODUCTS, -1))
        last, first = x[-1, :, :-1], x[0, :, 1:]
        for p, factor in self.block.before:
            out[p, :, 1:].add_(last, alpha=factor)
        for p, factor in self.block.after:
            out[p, :, :-1].add_(first, alpha=factor)
        return out

    def output(self, start: int, stop: int, scratch: Scratch) -> Tensor:
        """The last layer's (rows, F, C)."""
        x = self.norms[-1](self.planes[-1][:, start:stop], scratch).permute(1, 2, 0, 3)  # (rows, tiles, 4, C)
        return scratch.take("tiles", *x.shape).copy_(x).flatten(1, 2)[:, : self.bins]
