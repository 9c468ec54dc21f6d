"""A dense block by Winograd's algorithm along frequency: 6 products where 4 outputs of 3 taps have 12.

F(4, 3) of Lavin and Gray, arXiv 1509.09308, in one dimension: four neighbouring outputs are

    inverse @ ((filter @ taps) * (forward @ inputs)),   forward of the 6 inputs that they read,

and as the forward transform is the same for all filters, an activation is transformed once, when it
is normalised, and read by all later layers of the block. Tiles of four bins lie side by side in planes:
values (4, T, tiles, C), transformed ones (6, T, tiles, C); bin 4t + j is tile t of plane j. What is
beyond the last bin is zero. In time, two taps apart by the dilation remain a convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fast_conv import SLICE_FLOATS, NormAct, moments_of_bins, over_bins
from .jobs import Jobs, Scratch

OUTPUTS, TAPS = 4, 3
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # and infinity: where the polynomials are multiplied
PRODUCTS = OUTPUTS + TAPS - 1
ROWS = 40  # frames of a slice at most: 56 are 2 % faster, and take more memory
CHANNELS = 32  # from here on it pays: 0.65 of the direct form's time for 64, 0.8 for 32, more than 1 for 16


def matrices() -> tuple:
    """inverse (4, 6), filter (6, 3) and forward (6, 6), float64.

    Coefficients to values at the points, products there, and back: of the product of polynomials, whose
    transpose is the convolution.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)

    def values(degree):
        at_infinity = torch.zeros(1, degree, dtype=torch.float64)
        at_infinity[0, -1] = 1
        return torch.cat([points[:, None] ** torch.arange(degree), at_infinity])

    return values(OUTPUTS).t(), values(TAPS), torch.linalg.inv(values(PRODUCTS)).t()


class WinogradBlock:
    """A dense block, float32; as DenseBlock, with which it shares its interface."""

    def __init__(self, block: nn.Module):
        inverse, taps, forward = matrices()
        self.inverse = inverse.float()
        self.forward = forward[:, 1:-1].float()  # of a tile itself
        # and of its neighbours: the last value of the one before, the first of the one after
        self.before, self.after = (
            [(p, x) for p, x in enumerate(forward[:, edge].tolist()) if abs(x) > 1e-9] for edge in (0, -1)
        )
        self.layers = []
        for _, conv, *_ in block.dense_block:
            weight = torch.einsum("pf,oitf->poit", taps, conv.weight.detach().double())[..., None].float()
            self.layers.append([w.contiguous(memory_format=torch.channels_last) for w in weight])
        self.reaches = [conv.dilation[0] for _, conv, *_ in block.dense_block]
        self.norms = [NormAct(layer) for layer in block.dense_block]
        self.channels = self.layers[0][0].shape[0]

    def floats(self, frames: int, bins: int) -> int:
        """The memory it takes for an input of that size."""
        return (2 * PRODUCTS + 2 * OUTPUTS) * frames * -(-bins // OUTPUTS) * self.channels

    def __call__(self, read, frames: int, bins: int, memory: Tensor, run: Jobs):
        """A reader of the input (T, F, C) -> a reader of the output, of the same shape."""
        tiles = -(-bins // OUTPUTS), self.channels
        counts = PRODUCTS, PRODUCTS, OUTPUTS, OUTPUTS  # of each layer's output, kept transformed or as it is
        sizes = [count * frames * tiles[0] * tiles[1] for count in counts]
        planes = [
            part.view(count, frames, *tiles) for count, part in zip(counts, memory[: sum(sizes)].split(sizes))
        ]

        def input_tiles(start, stop, scratch):
            """Not kept but read anew for each layer, which spares a plane."""
            x = scratch.take("tiles", OUTPUTS, stop - start, *tiles)
            rows = read(start, stop, scratch)
            for j in range(OUTPUTS):
                part = rows[:, j::OUTPUTS]
                x[j, :, : part.shape[1]] = part
            return self._transform(x, bins, scratch.take("input", PRODUCTS, *x.shape[1:]))

        sources = [input_tiles]  # of transformed rows, for the next layer; newest first
        for i, (norm, plane) in enumerate(zip(self.norms, planes)):
            raw = plane[:OUTPUTS]

            def convolve(start, stop, scratch, i=i, raw=raw):
                self._convolve(i, sources, start, stop, scratch, raw[:, start:stop])
                return self._moments(raw[:, start:stop], bins)

            norm = norm.of(run.slices(convolve, frames, ROWS))

            def transformed(start, stop, scratch, norm=norm, plane=plane, raw=raw):
                """In place, where there is room for it."""
                x = norm(raw[:, start:stop], scratch)
                room = len(plane) == PRODUCTS
                out = plane[:, start:stop] if room else scratch.take("newest", PRODUCTS, *x.shape[1:])
                return self._transform(x, bins, out)

            if counts[i] == PRODUCTS:
                run.slices(transformed, frames, SLICE_FLOATS // (PRODUCTS * tiles[0] * tiles[1]))
                sources.insert(0, lambda start, stop, scratch, plane=plane: plane[:, start:stop])
            else:  # read once only, by the last layer
                sources.insert(0, transformed)

        def reader(start, stop, scratch):
            x = norm(raw[:, start:stop], scratch).permute(1, 2, 0, 3)  # (rows, tiles, 4, C)
            y = scratch.take("tiles", *x.shape).copy_(x)
            return y.flatten(1, 2)[:, :bins]

        return reader

    def _transform(self, x: Tensor, bins: int, out: Tensor) -> Tensor:
        """x (4, rows, tiles, C), of which what is beyond the last bin becomes zero -> out (6, ...)."""
        if bins % OUTPUTS:
            x[bins % OUTPUTS :, :, -1] = 0
        torch.mm(self.forward, x.view(OUTPUTS, -1), out=out.view(PRODUCTS, -1))
        last, first = x[-1, :, :-1], x[0, :, 1:]
        for p, factor in self.before:
            out[p, :, 1:].add_(last, alpha=factor)
        for p, factor in self.after:
            out[p, :, :-1].add_(first, alpha=factor)
        return out

    def _convolve(self, i, sources, start, stop, scratch: Scratch, out: Tensor) -> None:
        """Layer i for rows start to stop, into out (4, rows, tiles, C)."""
        reach = self.reaches[i]
        first = start - reach
        missing = max(0, -first)  # of what is looked back at, before the start of the signal
        inputs = zip(*(source(first + missing, stop, scratch) for source in sources))
        _, rows, tiles, channels = out.shape
        x = scratch.take("gathered", stop - first, tiles, channels * len(sources))
        x[:missing] = 0
        gathered, x = x[missing:], x.permute(2, 0, 1)[None]
        y = scratch.take("large", PRODUCTS, rows, tiles, channels)
        for planes, weight, product in zip(inputs, self.layers[i], y.permute(0, 3, 1, 2)):
            torch.cat(planes, -1, out=gathered)
            product.copy_(F.conv2d(x, weight, dilation=(reach, 1))[0])
        torch.mm(self.inverse, y.view(PRODUCTS, -1), out=out.view(OUTPUTS, -1))

    def _moments(self, x: Tensor, bins: int):
        """fast_conv.moments of x (4, rows, tiles, C)."""
        means, variances = zip(*(moments_of_bins(plane) for plane in x))
        in_order = (torch.stack(y, 1).flatten(0, 1)[:bins] for y in (means, variances))
        return x.shape[1], *over_bins(*in_order)
