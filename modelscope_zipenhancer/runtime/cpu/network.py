"""The network arranged for inference on CPUs: the same function as its definition, several times as fast.

`CpuNetwork(model)` folds the weights once; later changes to the model are not seen.

- A slice of time, or of sequences, small enough for the cache goes through many operations before
  the next is touched, in memory that is kept between calls.
- Activations lie as (T, F, C), channels last: convolutions run without reordering, and a layer
  along either axis reads a view.
- Slices run on as many threads as torch may use, each on one core.

Shapes: B batch, T frames, F bins, C channels.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network import zipenhancer
from ...network.spectrum import denoise
from ...network.zipenhancer import ZipEnhancer, bounded
from ...network.zipformer import Bypass, ZipformerLayer
from .buffers import Buffer, Plan, Scratch, Workspace
from .convolution import (
    SLICE_FLOATS,
    Conv,
    DenseBlock,
    NormAct,
    Reader,
    SubPixelConv,
    convolve,
    find,
    layers_of,
    normalize,
)
from .fold import converted, moments_of_map
from .native.convolution import NativeDecoder, NativeEncoder, Rows
from .native.layer import NativeLayer
from .native.library import Library, library, padded
from .threads import SlicePool
from .winograd import CHANNELS, WinogradBlock
from .zipformer_layer import Layer

NATIVE_CHANNELS = 16  # from here on convolutions run in C: in narrower ones Winograd's sums are too coarse

P = ParamSpec("P")
T = TypeVar("T")


class CpuNetwork:
    """A ZipEnhancer for inference on CPUs: `network(mag, pha)`.

    May be called from several threads at once. Each call takes a workspace, about 5.1 * T * F * C
    floats for the longest T so far, which is kept for later calls. Uses torch.get_num_threads() cores.

    Args:
        model: the definition with its weights, of any floating-point dtype.
        dtype: of the inputs and weights of convolutions and linear layers; sums, and all the rest, are
            float32. torch.bfloat16 wants native.library.library(torch.bfloat16).
    """

    def __init__(self, model: ZipEnhancer, dtype: torch.dtype = torch.float32):
        self.channels, self.bound = model.config.channels, model.config.magnitude_bound
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            native = library(dtype)
            self.stacks = [Stack(stack, native) for stack in model.TSConformer.encoders]
            self.native = native if self.channels >= NATIVE_CHANNELS else None
            encoder, mask, phase = model.dense_encoder, model.mask_decoder, model.phase_decoder
            self.encoder: Any = NativeEncoder(encoder, self.native) if self.native else Encoder(encoder)
            decoder: Callable[..., Any] = (
                partial(NativeDecoder, library=self.native) if self.native else Decoder
            )
            self.mask = decoder(mask.dense_block, mask.mask_conv, [mask.mask_conv[-1]])
            heads = [phase.phase_conv_r, phase.phase_conv_i]
            self.phase = decoder(phase.dense_block, phase.phase_conv, heads)
        self._idle: deque[Workspace] = deque()  # that no call is using

    def __call__(self, noisy_mag: Tensor, noisy_pha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Enhance spectra.

        Args:
            noisy_mag, noisy_pha: (B, F, T), compressed magnitude and phase, as ZipEnhancer takes them.

        Returns:
            The enhanced magnitude, compressed, and that times cos and sin of the enhanced phase; each of
            the inputs' shape, float32.
        """
        return self._on_cores(self._call, noisy_mag, noisy_pha)

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """spectrum.denoise, on the same cores: (B, samples), float32[, (B,)] -> (B, samples)."""
        return self._on_cores(self._denoise, waveform, gain)

    def _on_cores(
        self, function: Callable[Concatenate[Workspace, SlicePool, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """function(workspace, pool, *args)"""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            with SlicePool(workspace) as pool:
                return pool.call(function, workspace, pool, *args, **kwargs)
        finally:
            self._idle.append(workspace)

    def _denoise(
        self, workspace: Workspace, pool: SlicePool, waveform: Tensor, gain: Tensor | None
    ) -> Tensor:
        return denoise(lambda mag, pha: self._call(workspace, pool, mag, pha), waveform, gain)

    def _call(
        self, workspace: Workspace, pool: SlicePool, noisy_mag: Tensor, noisy_pha: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mag, real, imag = (torch.empty(noisy_mag.shape, dtype=torch.float32, device="cpu") for _ in range(3))
        with torch.inference_mode():
            for i in range(len(noisy_mag)):
                x = torch.stack([noisy_mag[i].t(), noisy_pha[i].t()], dim=-1).float()
                self._enhance(x, (mag[i], real[i], imag[i]), workspace, pool)
        return mag, real, imag

    def _enhance(
        self, x: Tensor, out: tuple[Tensor, Tensor, Tensor], workspace: Workspace, pool: SlicePool
    ) -> None:
        """x (T, F, 2) to out: magnitude, real, imaginary, (F, T) each."""
        frames, bins, _ = x.shape
        buffers = workspace.shared.views(
            (frames, bins), lambda: workspace.shared.planned(self.plan(frames, bins))
        )
        body = buffers["body"]

        def planes(name: str) -> list[Tensor]:
            return [buffer for key, buffer in buffers.tensors.items() if key.startswith(f"{name} plane ")]

        buffers.begin("encoder block")
        read = self.encoder.block(self.encoder.lifted(x), bins, planes("encoder"), pool)
        buffers.begin("encoder end")
        self.encoder.end(read, body, pool)
        for i, stack in enumerate(self.stacks):
            buffers.begin(f"stack {i}")
            stack(body, buffers[f"stack {i}"], pool)
        mag, real, imag = out
        for name, decoder, heads in ("mask", self.mask, [mag]), ("phase", self.phase, [real, imag]):
            buffers.begin(f"{name} block")
            source = Rows(body) if self.native else _reader(body)
            read = decoder.block(source, body.shape[1], planes(name), pool)
            buffers.begin(f"{name} end")
            decoder.end(read, buffers[f"{name} wide"], heads, pool)
        mag.copy_(bounded(mag[None].relu_(), x[None, ..., 0].mT, self.bound)[0])
        # mag times cos and sin of atan2(imag, real), which is 0 at the origin
        length = torch.hypot(real, imag)
        scale = mag / length.masked_fill(origin := length == 0, 1.0)
        real.masked_fill_(origin, 1.0).mul_(scale)
        imag.mul_(scale)

    def plan(self, frames: int, bins: int) -> Plan:
        """The memory that the threads share, for an item of that size."""
        half, stacks = (bins + 1) // 2, [f"stack {i}" for i in range(len(self.stacks))]
        ends = [f"{name} {part}" for name in ("mask", "phase") for part in ("block", "end")]
        buffers = [Buffer("body", (frames, half, self.channels), "encoder end", "phase block")]
        for name, stack in zip(stacks, self.stacks):
            buffers.append(Buffer(name, stack.shape(frames, half, self.channels), name))
        for name, block, width in (
            ("encoder", self.encoder.block, bins),
            ("mask", self.mask.block, half),
            ("phase", self.phase.block, half),
        ):
            # all planes are in use while a block runs, then the last, until it is read
            *inner, last = block.planes(frames, width)
            buffers += [Buffer(f"{name} plane {i}", x, f"{name} block") for i, x in enumerate(inner)]
            buffers.append(Buffer(f"{name} plane {len(inner)}", last, f"{name} block", f"{name} end"))
        width = padded(self.channels) if self.native else self.channels
        for name in "mask", "phase":
            buffers.append(Buffer(f"{name} wide", (frames, 2 * half, width), f"{name} end"))
        return Plan(["encoder block", "encoder end", *stacks, *ends], buffers)


def _reader(x: Tensor) -> Reader:
    return lambda start, stop, scratch: x[start:stop]


def dense_block(block: zipenhancer.DenseBlock) -> DenseBlock | WinogradBlock:
    """In the form that is faster for its size."""
    wide = find(layers_of(block)[0], nn.Conv2d).out_channels >= CHANNELS
    return WinogradBlock(block) if wide else DenseBlock(block)


class Encoder:
    """The 1x1 convolution, the dense block and the strided convolution: (T, F, 2) -> (T, (F+1)//2, C)."""

    def __init__(self, encoder: zipenhancer.DenseEncoder):
        first, last = encoder.dense_conv_1, encoder.dense_conv_2
        self.lift = converted(find(first, nn.Conv2d).weight, torch.float64).flatten(1)  # (C, 2)
        self.lift_norm = NormAct(first)
        self.block = dense_block(encoder.dense_block)
        self.shrink = Conv(find(last, nn.Conv2d))
        self.shrink_norm = NormAct(last)

    def lifted(self, x: Tensor) -> Reader:
        """A reader of the 1x1 convolution, norm and activation, of x (T, F, 2) -> (T, F, C)."""
        scale, shift = self.lift_norm.fold(*moments_of_map(x.flatten(0, 1), self.lift))
        weight, shift = (self.lift * scale[:, None]).t().float(), shift.float()

        def read(start: int, stop: int, scratch: Scratch) -> Tensor:
            part = x[start:stop]
            y = scratch.take("scaled", *part.shape[:2], len(shift)).flatten(0, 1)
            torch.addmm(shift, part.flatten(0, 1), weight, out=y)
            return F.prelu(y, self.lift_norm.slope).view(*part.shape[:2], -1)

        return read

    def end(self, read: Reader, out: Tensor, pool: SlicePool) -> None:
        """The strided convolution with its norm, of what is read (T, F, C), to out (T, (F+1)//2, C)."""
        norm = self.shrink_norm.of(convolve(self.shrink, read, out, pool))
        normalize(norm, out, pool)


class Decoder:
    """Dense block, sub-pixel convolution and last convolutions: (T, F, C) -> (2F-1, T) for each head."""

    def __init__(self, block: zipenhancer.DenseBlock, sequence: nn.Sequential, heads: Sequence[nn.Module]):
        self.block = dense_block(block)
        self.up = SubPixelConv(find(sequence, zipenhancer.SubPixelConv).conv1)
        self.norm = NormAct(sequence)
        weights, self.biases = [], []
        for head in heads:
            weight, bias = (converted(x, torch.float32) for x in head.parameters())
            weights.append(weight[0, :, 0])
            self.biases.append(bias.item())
        self.heads = torch.cat(weights, dim=1)  # (C, 2 for each head)

    def end(self, read: Reader, wide: Tensor, outs: Sequence[Tensor], pool: SlicePool) -> None:
        """What follows the dense block, of what is read (T, F, C); wide (T, 2F, C) is to work in."""
        norm = self.norm.of(convolve(self.up, read, wide, pool))

        def job(start: int, stop: int, scratch: Scratch) -> None:
            z = norm(wide[start:stop], scratch) @ self.heads  # what a bin gives itself and the one before
            for i, (out, bias) in enumerate(zip(outs, self.biases)):
                out[:, start:stop] = (z[:, :-1, 2 * i] + z[:, 1:, 2 * i + 1]).add_(bias).t()

        pool.slices(job, wide.shape[0], SLICE_FLOATS // wide[0].numel())


# ---- the body ----------------------------------------------------------------------------------


class Stack:
    """A dual-path block, in place: (T, F, C)."""

    def __init__(self, block: nn.Module, native: Library | None = None):
        self.weights = [[1.0], [1.0]]  # of the averages in time and in frequency
        self.combine: Tensor | None = None
        if isinstance(block, zipenhancer.DownsampledBlock):
            for i, name in enumerate(("downsample_t", "downsample_f")):
                if hasattr(block, name):
                    self.weights[i] = getattr(block, name).bias.softmax(0).tolist()
            self.combine = converted(block.out_combiner.bypass_scale, torch.float32)
            block = block.encoder
        assert isinstance(block, zipenhancer.DualPathBlock)
        outer = cast(Bypass, block.bypass_layers[0])

        def form(layer: nn.Module) -> Layer | NativeLayer:
            zipformer_layer = cast(ZipformerLayer, layer)
            if native:
                return NativeLayer(zipformer_layer, outer, native)
            return Layer(zipformer_layer, outer)

        in_frequency, in_time = (
            [form(layer) for layer in layers] for layers in (block.f_layers, block.t_layers)
        )
        self.layers = list(zip(in_frequency, in_time))

    def shape(self, frames: int, bins: int, channels: int) -> tuple[int, int, int]:
        """Of the averages, which it works on; nothing if it works on its input."""
        t_step, f_step = (len(weights) for weights in self.weights)
        return (0, 0, 0) if self.combine is None else (-(-frames // t_step), -(-bins // f_step), channels)

    def __call__(self, x: Tensor, averages: Tensor, pool: SlicePool) -> None:
        """x (T, F, C) in place; averages: memory of self.shape(*x.shape)."""
        combine = self.combine
        y = x if combine is None else averages
        if combine is not None:
            self._down(x, y, pool)
        for f_layer, t_layer in self.layers:
            f_layer.apply(y, pool)
            t_layer.apply(y.transpose(0, 1), pool)
        if combine is not None:
            self._up(y, x, combine, pool)

    def _down(self, x: Tensor, out: Tensor, pool: SlicePool) -> None:
        """x (T, F, C) to its averages."""
        in_time, in_frequency = self.weights
        step = len(in_time)

        def job(start: int, stop: int, scratch: Scratch) -> None:
            rows = scratch.take("rows", stop - start, *x.shape[1:])
            _average(x[start * step : stop * step], in_time, rows)
            _average(rows.transpose(0, 1), in_frequency, out[start:stop].transpose(0, 1))

        pool.slices(job, out.shape[0], SLICE_FLOATS // x[0].numel())

    def _up(self, y: Tensor, x: Tensor, combine: Tensor, pool: SlicePool) -> None:
        """x (T, F, C), in place, towards y, repeated."""
        t_step, f_step = (len(weights) for weights in self.weights)

        def job(start: int, stop: int, scratch: Scratch) -> None:
            for i in range(t_step):
                for j in range(f_step):
                    part = x[start * t_step : stop * t_step][i::t_step, j::f_step]
                    part.lerp_(y[start:stop][: part.shape[0], : part.shape[1]], combine)

        pool.slices(job, y.shape[0], SLICE_FLOATS // x[0].numel())


def _average(x: Tensor, weights: Sequence[float], out: Tensor) -> None:
    """Weighted sums of each len(weights) along dim 0; a last, incomplete group repeats the last of x."""
    torch.mul(x[:: len(weights)], weights[0], out=out)
    for k in range(1, len(weights)):
        part = x[k :: len(weights)]
        out[: len(part)].add_(part, alpha=weights[k])
        if len(part) < len(out):
            out[-1].add_(x[-1], alpha=weights[k])
