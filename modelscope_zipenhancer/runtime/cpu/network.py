"""The network of model.py arranged for inference on CPUs: the same function, several times as fast.

`FastNetwork(model)` folds the weights once; later changes to the model are not seen.

- A slice of time, or of sequences, small enough for the cache goes through many operations before
  the next is touched, in memory that is kept between calls.
- Activations lie as (T, F, C), channels last: convolutions run without reordering, and a layer
  along either axis reads a view.
- Each slice is a job; jobs run on as many threads as torch may use, each on one core.

Shapes: B batch, T frames, F bins, C channels.
"""

import math
from collections import deque

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network.spectrum import denoise
from ...network.zipenhancer import ZipEnhancer
from .buffers import Workspace
from .convolution import SLICE_FLOATS, Conv, DenseBlock, NormAct, SubPixelConv, convolve, normalize
from .threads import Jobs
from .winograd import CHANNELS, WinogradBlock
from .zipformer_layer import FastLayer


class FastNetwork:
    """A ZipEnhancer for CPU inference: `fast(mag, pha)` and `fast.denoise(waveform)`.

    May be called from several threads at once. Each call takes a workspace, about 5.1 * T * F * C
    floats for the longest T so far, which is kept for later calls. Uses torch.get_num_threads() cores.

    dtype: of the inputs and weights of the convolutions and the feed-forward modules, half of the work
    each; their sums, and all the rest, are float32.
    """

    def __init__(self, model: ZipEnhancer, dtype: torch.dtype = torch.float32):
        encoder, mask, phase = model.dense_encoder, model.mask_decoder, model.phase_decoder
        self.channels = model.config.channels
        with torch.no_grad():
            self.lift = encoder.dense_conv_1[0].weight.flatten(1).double()  # (C, 2), a 1x1 convolution
            self.lift_norm = NormAct(encoder.dense_conv_1)
            self.dense = dense_block(encoder.dense_block, dtype)
            self.shrink = Conv(encoder.dense_conv_2[0], dtype)
            self.shrink_norm = NormAct(encoder.dense_conv_2)
            self.stacks = [Stack(stack, dtype) for stack in model.TSConformer.encoders]
            self.mask = Decoder(mask.dense_block, mask.mask_conv, [mask.mask_conv[-1]], dtype)
            phase_heads = [phase.phase_conv_r, phase.phase_conv_i]
            self.phase = Decoder(phase.dense_block, phase.phase_conv, phase_heads, dtype)
        self._idle = deque()  # workspaces that no call is using

    def __call__(self, noisy_mag: Tensor, noisy_pha: Tensor):
        """(B, F, T) twice, as ZipEnhancer takes them, float32 -> (magnitude, real, imaginary), same shape.

        The last two are the enhanced magnitude, compressed, times cos and sin of the enhanced phase.
        """
        return self._on_cores(self._call, noisy_mag, noisy_pha)

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """ZipEnhancer.denoise: (B, samples) at 16 kHz, float32, and optionally (B,) -> the same shape."""
        return self._on_cores(self._denoise, waveform, gain)

    def _on_cores(self, function, *args):
        """function(*args, workspace, run)"""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            with Jobs(workspace) as run:
                return run.call(function, *args, workspace, run)
        finally:
            self._idle.append(workspace)

    def _denoise(self, waveform: Tensor, gain: Tensor, workspace: Workspace, run: Jobs) -> Tensor:
        return denoise(lambda mag, pha: self._call(mag, pha, workspace, run), waveform, gain)

    def _call(self, noisy_mag: Tensor, noisy_pha: Tensor, workspace: Workspace, run: Jobs):
        outs = [torch.empty_like(noisy_mag, memory_format=torch.contiguous_format) for _ in range(3)]
        with torch.inference_mode():
            for mag, pha, *out in zip(noisy_mag, noisy_pha, *outs):
                self._enhance(torch.stack([mag.t(), pha.t()], dim=-1), out, workspace, run)
        return tuple(outs)

    def _enhance(self, x: Tensor, out, workspace: Workspace, run: Jobs) -> None:
        """x (T, F, 2) to out: magnitude, real, imaginary, (F, T) each."""
        frames, bins, half, channels = *x.shape[:2], (x.shape[1] + 1) // 2, self.channels
        size = frames * half * channels
        first, last = self.dense.floats(frames, bins), self.mask.dense.floats(frames, half)
        whole = workspace.take(max(first, 3 * size + last))
        body, memory = whole[:size].view(frames, half, channels), whole[size:]

        # what this reads is at the end of the whole, the body at the start
        read = self.dense(self._lifted(x), frames, bins, whole[:first], run)
        norm = self.shrink_norm.of(convolve(self.shrink, read, body, run))
        normalize(norm, body, run)

        for stack in self.stacks:
            stack(body, memory, run)

        mag, real, imag = out
        wide, memory = memory[: 2 * size].view(frames, 2 * half, channels), memory[2 * size :]
        self.mask(body, wide, memory, [mag], run)
        self.phase(body, wide, memory, [real, imag], run)
        mag.relu_()
        # mag times cos and sin of atan2(imag, real), which is 0 at the origin
        length = torch.hypot(real, imag)
        scale = mag / length.masked_fill(origin := length == 0, 1.0)
        real.masked_fill_(origin, 1.0).mul_(scale)
        imag.mul_(scale)

    def _lifted(self, x: Tensor):
        """A reader of the encoder's 1x1 convolution, norm and activation, of x (T, F, 2) -> (T, F, C).

        The variance of a linear map of two numbers follows from the covariance of the two.
        """
        points = x.flatten(0, 1).double()
        mean = points.mean(0)
        points -= mean
        covariance = points.t() @ points / points.shape[0]
        scale, shift = self.lift_norm.fold(self.lift @ mean, ((self.lift @ covariance) * self.lift).sum(1))
        weight, shift = (self.lift * scale[:, None]).t().float(), shift.float()

        def read(start, stop, scratch):
            part = x[start:stop]
            y = scratch.take("scaled", *part.shape[:2], self.channels).flatten(0, 1)
            torch.addmm(shift, part.flatten(0, 1), weight, out=y)
            return F.prelu(y, self.lift_norm.slope).view(*part.shape[:2], -1)

        return read


def dense_block(block: nn.Module, dtype: torch.dtype):
    """In the form that is faster for its size; half precision is too coarse for Winograd's sums."""
    channels = block.dense_block[0][1].out_channels
    return (
        WinogradBlock(block) if channels >= CHANNELS and dtype == torch.float32 else DenseBlock(block, dtype)
    )


class Decoder:
    """Dense block, sub-pixel convolution and last convolutions: (T, F, C) -> (2F-1, T) for each head."""

    def __init__(self, block: nn.Module, sequence: nn.Sequential, heads, dtype: torch.dtype):
        self.dense = dense_block(block, dtype)
        self.up = SubPixelConv(sequence[0].conv1, dtype)
        self.norm = NormAct(sequence)
        self.heads = torch.cat([head.weight[0, :, 0] for head in heads], dim=1)  # (C, 2 for each head)
        self.biases = [head.bias.item() for head in heads]

    def __call__(self, x: Tensor, wide: Tensor, memory: Tensor, outs, run: Jobs) -> None:
        """x (T, F, C); to work in: wide (T, 2F, C), and what the dense block takes."""
        read = self.dense(lambda start, stop, scratch: x[start:stop], *x.shape[:2], memory, run)
        norm = self.norm.of(convolve(self.up, read, wide, run))

        def job(start, stop, scratch):
            z = norm(wide[start:stop], scratch) @ self.heads  # what a bin gives itself and the one before
            for i, (out, bias) in enumerate(zip(outs, self.biases)):
                out[:, start:stop] = (z[:, :-1, 2 * i] + z[:, 1:, 2 * i + 1]).add_(bias).t()

        run.slices(job, wide.shape[0], SLICE_FLOATS // wide[0].numel())


# ---- the body ----------------------------------------------------------------------------------


class Stack:
    """A dual-path block, in place: (T, F, C)."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        self.weights, self.combine = [[1.0], [1.0]], None  # of the averages in time and in frequency
        if hasattr(block, "out_combiner"):
            for i, name in enumerate(("downsample_t", "downsample_f")):
                if hasattr(block, name):
                    self.weights[i] = getattr(block, name).bias.softmax(0).tolist()
            self.combine = block.out_combiner.bypass_scale.detach().clone()
            block = block.encoder
        outer = block.bypass_layers[0]
        self.layers = [
            (FastLayer(f_layer, outer, dtype), FastLayer(t_layer, outer, dtype))
            for f_layer, t_layer in zip(block.f_layers, block.t_layers)
        ]

    def __call__(self, x: Tensor, memory: Tensor, run: Jobs) -> None:
        t_step, f_step = (len(weights) for weights in self.weights)
        y = x
        if self.combine is not None:
            shape = -(-x.shape[0] // t_step), -(-x.shape[1] // f_step), x.shape[2]
            y = memory[: math.prod(shape)].view(shape)

            def down(start, stop, scratch):
                rows = scratch.take("rows", stop - start, *x.shape[1:])
                _average(x[start * t_step : stop * t_step], self.weights[0], rows)
                _average(rows.transpose(0, 1), self.weights[1], y[start:stop].transpose(0, 1))

            run.slices(down, y.shape[0], SLICE_FLOATS // x[0].numel())
        for f_layer, t_layer in self.layers:
            f_layer.apply(y, run)
            t_layer.apply(y.transpose(0, 1), run)
        if self.combine is not None:

            def up(start, stop, scratch):
                for i in range(t_step):
                    for j in range(f_step):
                        part = x[start * t_step : stop * t_step][i::t_step, j::f_step]
                        part.lerp_(y[start:stop][: part.shape[0], : part.shape[1]], self.combine)

            run.slices(up, y.shape[0], SLICE_FLOATS // x[0].numel())


def _average(x: Tensor, weights, out: Tensor) -> None:
    """Weighted sums of each len(weights) along dim 0; a last, incomplete group repeats the last of x."""
    torch.mul(x[:: len(weights)], weights[0], out=out)
    for k in range(1, len(weights)):
        part = x[k :: len(weights)]
        out[: len(part)].add_(part, alpha=weights[k])
        if len(part) < len(out):
            out[-1].add_(x[-1], alpha=weights[k])
