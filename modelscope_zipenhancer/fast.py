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

from .fast_layer import FastLayer
from .jobs import Jobs, Scratch, Workspace
from .model import COMPRESSION, HOP_LENGTH, N_FFT, ZipEnhancer, at_unit_rms, mag_pha_stft

CONV_FLOATS = 1_200_000  # inputs and outputs of one slice of a convolution
SLICE_FLOATS = 200_000  # of one slice of an element-wise pass: the second-level cache


class FastNetwork:
    """A ZipEnhancer for CPU inference: `fast(mag, pha)` and `fast.denoise(waveform)`.

    May be called from several threads at once. Each call takes a workspace, about 5.5 * T * F * C
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
            self.dense = [DenseConv(layer, dtype) for layer in encoder.dense_block.dense_block]
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
        def enhance(scaled, samples):
            mag, pha, _ = mag_pha_stft(scaled)
            mag, real, imag = self._call(mag, pha, workspace, run)
            expand = mag.pow_(1.0 / COMPRESSION - 1.0)  # by which mag ** (1 / COMPRESSION) exceeds mag
            spectrum = torch.complex(real.mul_(expand), imag.mul_(expand))
            return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), length=samples)

        return at_unit_rms(enhance, waveform, gain)

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
        body, memory = workspace.take(size, max(5 * frames * bins * channels, 6 * size))
        body = body.view(frames, half, channels)

        planes = list(memory[: 5 * frames * bins * channels].view(5, frames, bins, channels))
        self._lift(x, planes[0], run)
        norm = dense_block(self.dense, planes, run)
        norm = self.shrink_norm.of(convolve(self.shrink, norm.reader(planes[4]), body, run))
        normalize(norm, body, run)

        for stack in self.stacks:
            stack(body, memory, run)

        mag, real, imag = out
        planes = [body, *memory[: 4 * size].view(4, frames, half, channels)]
        wide = memory[4 * size : 6 * size].view(frames, 2 * half, channels)
        self.mask(planes, wide, [mag], run)
        self.phase(planes, wide, [real, imag], run)
        mag.relu_()
        # mag times cos and sin of atan2(imag, real), which is 0 at the origin
        length = torch.hypot(real, imag)
        scale = mag / length.masked_fill(origin := length == 0, 1.0)
        real.masked_fill_(origin, 1.0).mul_(scale)
        imag.mul_(scale)

    def _lift(self, x: Tensor, out: Tensor, run: Jobs) -> None:
        """The encoder's 1x1 convolution, norm and activation, (T, F, 2) -> (T, F, C), in one pass.

        The variance of a linear map of two numbers follows from the covariance of the two.
        """
        points = x.flatten(0, 1).double()
        mean = points.mean(0)
        points -= mean
        covariance = points.t() @ points / points.shape[0]
        scale, shift = self.lift_norm.fold(self.lift @ mean, ((self.lift @ covariance) * self.lift).sum(1))
        weight, shift = (self.lift * scale[:, None]).t().float(), shift.float()

        def job(start, stop, scratch):
            part = out[start:stop]
            y = scratch.take("scaled", part.numel() // part.shape[-1], part.shape[-1])
            torch.addmm(shift, x[start:stop].flatten(0, 1), weight, out=y)
            part.copy_(F.prelu(y, self.lift_norm.slope).view_as(part))

        run.slices(job, x.shape[0], SLICE_FLOATS // out[0].numel())


# ---- convolutions ------------------------------------------------------------------------------


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

    def of(self, moments) -> "Normalize":
        """`moments` of all slices: (count, mean, variance) each."""
        counts, means, variances = zip(*moments)
        counts = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
        means, variances = torch.stack(means), torch.stack(variances)
        mean = (means * counts).sum(0)
        variance = ((variances + (means - mean).square()) * counts).sum(0)
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
        return lambda start, stop, scratch: self(raw[start:stop], scratch)


def moments(x: Tensor):
    """(count, mean, variance) of x (rows, F, C), the last two (C,) and float64.

    torch adds these float32 up one after the other: so for each bin by itself, then over the bins
    in float64. That is 100 times as precise as at once, and faster if C is small.
    """
    means, variances = torch.batch_norm_update_stats(x.flatten(1), None, None, 0.0)
    means, variances = means.view(x.shape[1:]).double(), variances.view(x.shape[1:]).double()
    mean = means.mean(0)
    return x.shape[0], mean, variances.add_((means - mean).square_()).mean(0)


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


def dense_block(layers, planes, run: Jobs) -> Normalize:
    """planes[0] (T, F, C) -> planes[1..4]; returns the norm that the last of them still needs."""
    for i, layer in enumerate(layers):
        norm = layer.norm.of(convolve(layer, layer.reader(planes[: i + 1]), planes[i + 1], run))
        if i + 1 < len(layers):
            normalize(norm, planes[i + 1], run)
    return norm


class Decoder:
    """Dense block, sub-pixel convolution and last convolutions: (T, F, C) -> (2F-1, T) for each head."""

    def __init__(self, block: nn.Module, sequence: nn.Sequential, heads, dtype: torch.dtype):
        self.dense = [DenseConv(layer, dtype) for layer in block.dense_block]
        self.up = SubPixelConv(sequence[0].conv1, dtype)
        self.norm = NormAct(sequence)
        self.heads = torch.cat([head.weight[0, :, 0] for head in heads], dim=1)  # (C, 2 for each head)
        self.biases = [head.bias.item() for head in heads]

    def __call__(self, planes, wide: Tensor, outs, run: Jobs) -> None:
        """planes: x and four more like it to work in; wide: (T, 2F, C), too."""
        norm = dense_block(self.dense, planes, run)
        norm = self.norm.of(convolve(self.up, norm.reader(planes[4]), wide, run))

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
