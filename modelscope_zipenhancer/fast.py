"""The network of model.py arranged for inference on CPUs: the same function, several times as fast.

`FastNetwork(model)` folds the weights once, in float64, and doesn't see later changes to them.
What it does differently, most paying first (docs/performance.md has the figures):

- Time and frequency slices small enough for the cache go through many operations before the next
  slice is touched, in buffers that are kept: fresh memory costs more than arithmetic here.
- Activations lie as (T, F, C), channels last, so that a layer along either axis is a view or one copy.
- Constants, biases and activation's linear parts are folded into neighbouring matrices.
- Each slice is one job; jobs run on as many threads as torch may use, one core each.

Shapes: T frames, F bins, C channels; inside a layer N sequences of L positions, M = N * L tokens,
H heads, D channels of a head.
"""

import ctypes
import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import COMPRESSION, HOP_LENGTH, N_FFT, ZipEnhancer, at_unit_rms, mag_pha_stft
from .zipformer import RelativePositions

HIDDEN_FLOATS = 220_000  # of the widest activation of one slice of a layer: 700 tokens of S
SCORE_FLOATS = 1_000_000  # of the attention weights of one slice, unless a single row has more
BLOCK_FLOATS = 260_000  # attention scores computed at a time: 1 MB, the second-level cache
CONV_FLOATS = 400_000  # input of one slice of a convolution
LOG2_E = math.log2(math.e)


class FastNetwork:
    """A ZipEnhancer for CPU inference: `fast(mag, pha)` and `fast.denoise(waveform)`.

    May be called from several threads at once: each call takes a workspace of its own, which is
    kept for later calls (about 5.5 * T * F * C floats). Uses torch.get_num_threads() cores and
    leaves that setting alone.
    """

    def __init__(self, model: ZipEnhancer):
        encoder, mask, phase = model.dense_encoder, model.mask_decoder, model.phase_decoder
        self.channels = model.config.channels
        with torch.inference_mode():
            self.lift = _matrix(encoder.dense_conv_1[0].weight.flatten(1))  # (C, 2), the 1x1 convolution
            self.lift_norm = NormAct(encoder.dense_conv_1)
            self.encoder = [DenseConv(layer) for layer in encoder.dense_block.dense_block]
            self.shrink = Conv(encoder.dense_conv_2[0], padding=1)
            self.shrink_norm = NormAct(encoder.dense_conv_2)
            self.stacks = [Stack(encoder) for encoder in model.TSConformer.encoders]
            self.mask = Decoder(mask.dense_block, mask.mask_conv, [mask.mask_conv[-1]])
            self.phase = Decoder(
                phase.dense_block, phase.phase_conv, [phase.phase_conv_r, phase.phase_conv_i]
            )
        self._idle = deque()  # workspaces that no call is using

    def __call__(self, noisy_mag: Tensor, noisy_pha: Tensor):
        """(B, F, T) twice, as ZipEnhancer's forward takes them, to (magnitude, real, imag) of that shape.

        real and imag are the enhanced compressed magnitude times cos and sin of the enhanced phase.
        """
        mag, real, imag = (
            torch.empty_like(noisy_mag, memory_format=torch.contiguous_format) for _ in range(3)
        )
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            with torch.inference_mode(), Jobs(workspace) as run:
                for item in range(noisy_mag.shape[0]):
                    x = torch.stack([noisy_mag[item].t(), noisy_pha[item].t()], dim=-1)  # (T, F, 2)
                    self._enhance(x, workspace, run, mag[item], real[item], imag[item])
        finally:
            self._idle.append(workspace)
        return mag, real, imag

    def denoise(self, waveform: Tensor, gain: Tensor = None) -> Tensor:
        """ZipEnhancer.denoise: (B, samples) at 16 kHz, any level, and optionally (B,) gains -> same shape."""
        return at_unit_rms(self._enhance_waveform, waveform, gain)

    def _enhance_waveform(self, waveform: Tensor, samples: int) -> Tensor:
        mag, pha, _ = mag_pha_stft(waveform)
        mag, real, imag = self(mag, pha)
        expand = mag.pow_(1.0 / COMPRESSION - 1.0)  # what takes mag to mag ** (1 / COMPRESSION)
        spectrum = torch.complex(real.mul_(expand), imag.mul_(expand))
        window = torch.hann_window(N_FFT)
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, N_FFT, window, center=True, length=samples)

    def _enhance(self, x: Tensor, workspace: "Workspace", run: "Jobs", mag, real, imag) -> None:
        """x (T, F, 2) into mag, real, imag (F, T)."""
        frames, bins, channels = x.shape[0], x.shape[1], self.channels
        half = (bins + 1) // 2
        body, wide = workspace.planes(frames * half * channels, 5 * frames * bins * channels)
        body = body.view(frames, half, channels)
        planes = list(wide.view(5, frames, bins, channels))

        self._lift(x, planes[0], run)
        stats = dense_block(self.encoder, planes, run)
        norm = self.encoder[-1].norm.folded(stats)
        stats = run.conv(lambda start, stop, s: norm(planes[4][start:stop], s), self.shrink, body)
        run.norm(self.shrink_norm.folded(stats), body)

        for stack in self.stacks:
            stack(body, wide, run)

        planes = wide[: 7 * frames * half * channels].view(7, frames, half, channels)
        planes = [body, *planes[:4], planes[4:6].view(frames, 2 * half, channels)]
        self.mask(planes, run, [mag])
        mag.relu_()
        self.phase(planes, run, [real, imag])
        # cos and sin of atan2(imag, real), which is 0 at the origin, times mag
        length = torch.hypot(real, imag)
        real.masked_fill_(length == 0, 1.0)
        length.masked_fill_(length == 0, 1.0)
        scale = mag / length
        real.mul_(scale)
        imag.mul_(scale)

    def _lift(self, x: Tensor, out: Tensor, run: "Jobs") -> None:
        """The encoder's 1x1 convolution, norm and activation: x (T, F, 2) -> out (T, F, C).

        The statistics of a linear map of two numbers follow from the covariance of the two.
        """
        points = x.flatten(0, 1).double()
        mean = points.mean(0)
        centred = points - mean
        covariance = centred.t() @ centred / points.shape[0]
        variance = ((self.lift @ covariance) * self.lift).sum(1)
        scale, shift, slope = self.lift_norm.fold(self.lift @ mean, variance)
        weight = (self.lift * scale[:, None]).t().float()
        shift = shift.float()

        def job(start, stop, scratch):
            hidden = torch.addmm(shift, x[start:stop].flatten(0, 1), weight)
            out[start:stop] = F.prelu(hidden, slope).view(stop - start, *out.shape[1:])

        run.slices(job, x.shape[0], CONV_FLOATS // out[0].numel())


# ---- convolutions ------------------------------------------------------------------------------


class Conv:
    """A convolution over (rows, F, C): channels last, no padding in time."""

    def __init__(self, conv: nn.Conv2d, padding: int, bias: Tensor = None):
        self.weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias = bias  # none before a norm over the same channels, which would cancel it
        self.options = {"stride": conv.stride, "padding": (0, padding), "dilation": conv.dilation}

    def __call__(self, x: Tensor) -> Tensor:
        y = F.conv2d(x.permute(2, 0, 1)[None], self.weight, self.bias, **self.options)
        return y[0].permute(1, 2, 0)


class NormAct:
    """Instance norm and PReLU, of (conv, norm, activation, ...)."""

    def __init__(self, sequence: nn.Sequential):
        norm = next(module for module in sequence if isinstance(module, nn.InstanceNorm2d))
        activation = next(module for module in sequence if isinstance(module, nn.PReLU))
        self.weight, self.bias, self.eps = _matrix(norm.weight), _matrix(norm.bias), norm.eps
        self.slope = activation.weight.detach().clone()

    def fold(self, mean: Tensor, variance: Tensor):
        """Statistics (C,) -> scale and shift, float64, and the slope below zero, float32."""
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale, self.slope

    def folded(self, stats):
        """Statistics of the jobs, (count, mean, variance) each -> function of (raw rows, scratch)."""
        counts, means, variances = zip(*stats)
        counts = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
        means, variances = torch.stack(means), torch.stack(variances)
        mean = (means * counts).sum(0)
        variance = ((variances + (means - mean).square()) * counts).sum(0)
        scale, shift, slope = self.fold(mean, variance)
        scale, shift = scale.float(), shift.float()

        def apply(raw: Tensor, scratch: "Scratch") -> Tensor:
            scaled = torch.addcmul(shift, raw, scale, out=scratch.take("scaled", *raw.shape))
            return torch._prelu_kernel(scaled, slope)

        return apply


def moments(x: Tensor):
    """Mean and variance (C,), float64, of x (rows, F, C).

    torch adds float32 up one after the other: so of each bin, then of all bins in float64.
    """
    means, variances = torch.batch_norm_update_stats(x.flatten(1), None, None, 0.0)
    means, variances = means.view(x.shape[1:]).double(), variances.view(x.shape[1:]).double()
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


class DenseConv(Conv):
    """One layer of a dense block."""

    def __init__(self, layer: nn.Sequential):
        super().__init__(layer[1], padding=1)
        self.norm = NormAct(layer)
        self.reach = layer[1].dilation[0]  # frames looked back

    def gather(self, planes, start: int, stop: int, scratch: "Scratch") -> Tensor:
        """Rows start - reach to stop of all planes side by side, newest first, zeros before time 0."""
        _, bins, channels = planes[0].shape
        first = start - self.reach
        x = scratch.take("gathered", stop - first, bins, len(planes) * channels)
        x[: max(0, -first)] = 0
        torch.cat(
            [plane[max(0, first) : stop] for plane in reversed(planes)], dim=-1, out=x[max(0, -first) :]
        )
        return x


def dense_block(layers, planes, run: "Jobs"):
    """planes[0] (T, F, C) -> planes[1..4], the last before its norm, of which the statistics are returned."""
    for i, layer in enumerate(layers):
        inputs = planes[: i + 1]
        stats = run.conv(
            lambda start, stop, scratch: layer.gather(inputs, start, stop, scratch), layer, planes[i + 1]
        )
        if i + 1 < len(layers):
            run.norm(layer.norm.folded(stats), planes[i + 1])
    return stats


class Decoder:
    """Dense block, sub-pixel convolution and `heads`, the last convolutions: (T, F, C) -> (2F-1, T) each."""

    def __init__(self, block: nn.Module, sequence: nn.Sequential, heads):
        self.layers = [DenseConv(layer) for layer in block.dense_block]
        conv = sequence[0].conv1
        # From bins of each channel to channels of each bin: then (T, F, 2C) is (T, 2F, C).
        self.up = Conv(conv, padding=1, bias=conv.bias.detach().view(-1, 2).t().flatten())
        weight = conv.weight.detach().unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        self.up.weight = weight.contiguous(memory_format=torch.channels_last)
        self.norm = NormAct(sequence)
        self.heads = torch.cat([head.weight.detach()[0, :, 0, :] for head in heads], dim=1)  # (C, 2 per head)
        self.head_biases = [head.bias.item() for head in heads]

    def __call__(self, planes, run: "Jobs", outs) -> None:
        """planes: x, four more like it and a last one (T, 2F, C) to work in."""
        raw = planes[5]
        norm = self.layers[-1].norm.folded(dense_block(self.layers, planes[:5], run))
        stats = run.conv(lambda start, stop, s: norm(planes[4][start:stop], s), self.up, raw)
        norm = self.norm.folded(stats)

        def job(start, stop, scratch):
            z = norm(raw[start:stop], scratch).flatten(0, 1) @ self.heads
            z = z.view(stop - start, raw.shape[1], -1)  # (rows, 2F, 2 per head)
            for i, (out, bias) in enumerate(zip(outs, self.head_biases)):
                torch.add(z[:, :-1, 2 * i], z[:, 1:, 2 * i + 1], out=z[:, :-1, 2 * i]).add_(bias)
                out[:, start:stop] = z[:, :-1, 2 * i].t()

        run.slices(job, raw.shape[0], CONV_FLOATS // raw[0].numel())


# ---- Zipformer layers --------------------------------------------------------------------------


class Stack:
    """One dual-path block, in place: (T, F, C)."""

    def __init__(self, encoder: nn.Module):
        self.time_weights, self.freq_weights, self.combine = [1.0], [1.0], None
        if hasattr(encoder, "out_combiner"):
            if hasattr(encoder, "downsample_t"):
                self.time_weights = encoder.downsample_t.bias.softmax(0).tolist()
            if hasattr(encoder, "downsample_f"):
                self.freq_weights = encoder.downsample_f.bias.softmax(0).tolist()
            self.combine = encoder.out_combiner.bypass_scale.detach().clone()
            encoder = encoder.encoder
        outer = encoder.bypass_layers[0]
        self.layers = [
            (Layer(f_layer, outer), Layer(t_layer, outer))
            for f_layer, t_layer in zip(encoder.f_layers, encoder.t_layers)
        ]

    def __call__(self, x: Tensor, memory: Tensor, run: "Jobs") -> None:
        y = x
        if self.combine is not None:
            y = self._down(x, memory, run)
        for f_layer, t_layer in self.layers:
            run.layer(f_layer, y)
            run.layer(t_layer, y.transpose(0, 1))
        if self.combine is not None:
            self._up(x, y, run)

    def _down(self, x: Tensor, memory: Tensor, run: "Jobs") -> Tensor:
        """Weighted averages of neighbours, in time then in frequency."""
        for dim, weights in enumerate((self.time_weights, self.freq_weights)):
            factor = len(weights)
            if factor == 1:
                continue
            shape = list(x.shape)
            shape[dim] = -(-shape[dim] // factor)
            y, memory = memory[: math.prod(shape)].view(shape), memory[math.prod(shape) :]
            source, target = x.transpose(0, dim), y.transpose(0, dim)
            torch.mul(source[::factor], weights[0], out=target)
            for k in range(1, factor):
                part = source[k::factor]
                target[: len(part)].add_(part, alpha=weights[k])
                if len(part) < len(target):  # an incomplete last group is filled with the last position
                    target[-1].add_(source[-1], alpha=weights[k])
            x = y
        return x

    def _up(self, x: Tensor, y: Tensor, run: "Jobs") -> None:
        """Repeat y to the size of x and combine: x + (y - x) * combine."""
        steps = len(self.time_weights), len(self.freq_weights)
        for i in range(steps[0]):
            for j in range(steps[1]):
                part = x[i :: steps[0], j :: steps[1]]
                part.lerp_(y[: part.shape[0], : part.shape[1]], self.combine)


class Layer:
    """A ZipformerLayer and the bypass around it, in place: (N, L, C).

    `offset` in the constructor is what the tokens in memory lack: biases of output projections are
    not added when they come up but carried, in float64, into the next input projections.
    """

    def __init__(self, layer: nn.Module, outer: nn.Module):
        attention = layer.self_attn_weights
        self.pos_weight, self.pos_dim = (
            attention.linear_pos.weight.detach().clone(),
            attention.linear_pos.in_features,
        )
        self.heads, self.split = attention.heads, attention.split
        self.hidden = layer.feed_forward3.in_proj.out_features
        channels = layer.norm.bias.numel()
        offset = torch.zeros(channels, dtype=torch.float64)
        # The scores are linear in query and positional query, not in the key: log2(e) goes there.
        scale = torch.ones(sum(self.split), dtype=torch.float64)
        scale[: self.split[0]] = scale[-self.split[2] :] = LOG2_E
        self.scores_in = _fold(attention.in_proj, offset, scale)
        self.ff1, offset = _fold_feed_forward(layer.feed_forward1, offset)
        self.nonlin, offset = _fold_nonlin(layer.nonlin_attention, offset)
        self.attend1, offset = _fold_attention(layer.self_attn1, offset)
        self.conv1, offset = _fold_conv(layer.conv_module1, offset)
        self.ff2, offset = _fold_feed_forward(layer.feed_forward2, offset)
        self.mid = layer.bypass_mid.bypass_scale.detach().clone()
        offset = offset * _matrix(self.mid)
        self.attend2, offset = _fold_attention(layer.self_attn2, offset)
        self.conv2, offset = _fold_conv(layer.conv_module2, offset)
        self.ff3, offset = _fold_feed_forward(layer.feed_forward3, offset)
        self.offset = offset.float()
        self.norm_bias = layer.norm.bias.detach().clone()
        self.norm_scale = layer.norm.log_scale.exp().item() * math.sqrt(channels)  # of x / |x - bias|
        self.out = layer.bypass.bypass_scale * outer.bypass_scale
        self.tables = {}

    def positions(self, length: int) -> Tensor:
        """Keys of the relative positions, (H, D, 2L-1); the last few lengths are kept."""
        table = self.tables.get(length)
        if table is None:
            encoding = RelativePositions(self.pos_dim)(torch.empty(length))
            table = (
                (encoding @ self.pos_weight.t()).unflatten(-1, (self.heads, -1)).permute(1, 2, 0).contiguous()
            )
            if len(self.tables) >= 8:
                self.tables = {}
            self.tables[length] = table
        return table

    def rows(self, length: int) -> int:
        """Sequences of a slice."""
        return max(1, min(HIDDEN_FLOATS // self.hidden // length, SCORE_FLOATS // (self.heads * length**2)))

    def __call__(self, x: Tensor, scratch: "Scratch") -> None:
        """x (N, L, C), any strides, in place."""
        if not self._run(x, scratch, exact=False):
            self._run(x, scratch, exact=True)

    def _run(self, x: Tensor, scratch: "Scratch", exact: bool) -> bool:
        """Returns whether the numbers stayed in range. If not, x is untouched.

        exp2 is three times as fast as softmax and softplus, but overflows where they don't, at
        scores and activations beyond 88; a trained network has a tenth of that.
        """
        n, length, channels = x.shape
        origin = x if x.is_contiguous() else scratch.take("origin", n, length, channels).copy_(x)
        origin = origin.view(-1, channels)
        weights, norms = self._attention(origin, n, length, scratch, exact)
        u = scratch.take("tokens", n * length, channels).copy_(origin)
        self._feed_forward(u, self.ff1, scratch, exact)
        self._nonlin(u, weights, norms, scratch)
        self._attend(u, self.attend1, weights, norms, scratch)
        self._conv(u, self.conv1, n, scratch, exact)
        self._feed_forward(u, self.ff2, scratch, exact)
        torch.lerp(origin, u, self.mid, out=u)
        self._attend(u, self.attend2, weights, norms, scratch)
        self._conv(u, self.conv2, n, scratch, exact)
        self._feed_forward(u, self.ff3, scratch, exact)
        u.add_(self.offset)
        size = torch.linalg.vector_norm(u - self.norm_bias, dim=-1, keepdim=True)
        if not exact and not math.isfinite(size.sum().item() + norms.sum().item()):
            return False
        u.mul_(size.reciprocal_().mul_(self.norm_scale))
        x.lerp_(u.view(x.shape), self.out)
        return True

    def _attention(self, x: Tensor, n: int, length: int, scratch: "Scratch", exact: bool):
        """x (M, C) -> attention weights (H, N, L, L) times the sum of each row, and 1 / sum (H, N, L)."""
        heads, (q_size, k_size, _) = self.heads, self.split
        depth = q_size // heads
        table = self.positions(length)
        hidden = _linear(x, self.scores_in, scratch, "scores_in").view(n, length, -1)
        query, key, pos_query = hidden.split(self.split, dim=-1)
        weights = scratch.take("weights", heads, n, length, length)
        block = max(1, min(length, BLOCK_FLOATS // (heads * n * length)))
        for start in range(0, length, block):
            stop = min(start + block, length)
            rows, width = stop - start, length + stop - start - 1
            # Scores of all offsets that these rows have, then of each row the L that it needs (see
            # zipformer.skew), as a view in which each row begins one number earlier than the last.
            p = (
                pos_query[:, start:stop]
                .unflatten(-1, (heads, -1))
                .permute(2, 0, 1, 3)
                .reshape(heads, n * rows, -1)
            )
            offsets = scratch.take("offsets", heads, n * rows, width)
            torch.bmm(p, table[:, :, length - stop : length - stop + width], out=offsets)
            skewed = offsets.as_strided(
                (heads, n, rows, length), (n * rows * width, rows * width, width - 1, 1), rows - 1
            )
            scores = scratch.take("scores", heads, n, rows, length).copy_(skewed)
            for h in range(heads):
                part = slice(h * depth, (h + 1) * depth)
                scores[h].baddbmm_(query[:, start:stop, part], key[:, :, part].transpose(1, 2))
            if exact:
                weights[:, :, start:stop] = scores.div_(LOG2_E).softmax(-1)
            else:
                torch.exp2(scores, out=weights[:, :, start:stop])
        sums = weights.sum(-1)
        if sums.min() < 1e-30:  # all scores of a row underflow
            sums[0, 0, 0] = 0.0
        return weights, sums.reciprocal_()

    def _feed_forward(self, u, folded, scratch, exact):
        in_proj, out_weight = folded
        u.addmm_(_swoosh(_linear(u, in_proj, scratch, "hidden"), scratch, exact), out_weight)

    def _nonlin(self, u, weights, norms, scratch):
        gate_proj, value_proj, output_proj, out_weight = self.nonlin
        gate = _linear(u, gate_proj, scratch, "gate").sigmoid_()
        value = _linear(u, value_proj, scratch, "value")
        output_gate = _linear(u, output_proj, scratch, "output_gate")
        torch.addcmul(value, value, gate, value=-2, out=value)  # -value * tanh: 2 sigmoid(2x) - 1 = tanh(x)
        _, n, length, _ = weights.shape
        z = scratch.take("attended", n, length, value.shape[1])
        torch.bmm(weights[0], value.view_as(z), out=z)
        z = z.view_as(value).mul_(output_gate).mul_(norms[0].view(-1, 1))
        u.addmm_(z, out_weight)

    def _attend(self, u, folded, weights, norms, scratch):
        """Values are 8 wide: (V^T A^T) is four times as fast as (A V)."""
        in_weight, out_weight = folded
        heads, n, length, _ = weights.shape
        value = torch.mm(u, in_weight, out=scratch.take("value", n * length, in_weight.shape[1]))
        value = value.view(n, length, heads, -1)
        out = scratch.take("attended", heads, n, value.shape[-1], length)
        for h in range(heads):
            torch.bmm(value[:, :, h].transpose(1, 2), weights[h].transpose(1, 2), out=out[h])
        merged = scratch.take("merged", *value.shape)
        torch.mul(out.permute(1, 3, 0, 2), norms.permute(1, 2, 0)[..., None], out=merged)
        u.addmm_(merged.view(n * length, -1), out_weight)

    def _conv(self, u, folded, n, scratch, exact):
        value_proj, gate_proj, weight, bias, out_weight = folded
        value = _linear(u, value_proj, scratch, "value")
        value.mul_(_linear(u, gate_proj, scratch, "gate").sigmoid_())
        channels = value.shape[1]
        x = value.view(1, n, -1, channels).permute(0, 3, 1, 2)  # (1, C, N, L), channels last in memory
        x = F.conv2d(x, weight, bias, padding=(0, weight.shape[-1] // 2), groups=channels)
        x = x.permute(0, 2, 3, 1).reshape(-1, channels)
        u.addmm_(_swoosh(x, scratch, exact), out_weight)


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _fold(linear: nn.Linear, offset: Tensor, scale=1.0, shift: float = 0.0, rows=slice(None)):
    """(bias, weight) for addmm of scale * (linear(x + offset) - shift), for some rows of the matrix."""
    weight, bias = _matrix(linear.weight)[rows], _matrix(linear.bias)[rows]
    bias = (bias + weight @ offset - shift) * scale
    weight = weight * (scale[:, None] if isinstance(scale, Tensor) else scale)
    return bias.float(), weight.t().contiguous().float()


# The linear parts of SwooshL and SwooshR: softplus(x - shift) - 0.08 (x - shift) - constant.
SWOOSH_L = 4.0, 0.08 * 4.0 + 0.035
SWOOSH_R = 1.0, 0.08 * 1.0 + 0.313261687


def _fold_feed_forward(module: nn.Module, offset: Tensor):
    shift, constant = SWOOSH_L
    in_proj = _fold(module.in_proj, offset, LOG2_E, shift)
    weight = _matrix(module.out_proj.weight)
    folded = in_proj, weight.t().contiguous().float()
    return folded, offset + _matrix(module.out_proj.bias) - constant * weight.sum(1)


def _fold_nonlin(module: nn.Module, offset: Tensor):
    size = module.out_proj.in_features
    gate, value, output = (slice(i * size, (i + 1) * size) for i in range(3))
    folded = (
        _fold(module.in_proj, offset, 2.0, rows=gate),
        _fold(module.in_proj, offset, rows=value),
        _fold(module.in_proj, offset, rows=output),
        -module.out_proj.weight.detach().t().contiguous(),
    )
    return folded, offset + _matrix(module.out_proj.bias)


def _fold_attention(module: nn.Module, offset: Tensor):
    """Attention weights sum to one, so a constant in the values comes out unchanged."""
    in_weight, out_weight = _matrix(module.in_proj.weight), _matrix(module.out_proj.weight)
    constant = out_weight @ (in_weight @ offset + _matrix(module.in_proj.bias)) + _matrix(
        module.out_proj.bias
    )
    return (in_weight.t().contiguous().float(), out_weight.t().contiguous().float()), offset + constant


def _fold_conv(module: nn.Module, offset: Tensor):
    shift, constant = SWOOSH_R
    size, conv = module.out_proj.in_features, module.depthwise_conv
    out_weight = _matrix(module.out_proj.weight)
    folded = (
        _fold(module.in_proj, offset, rows=slice(0, size)),
        _fold(module.in_proj, offset, rows=slice(size, 2 * size)),
        (_matrix(conv.weight)[:, :, None] * LOG2_E).float(),
        ((_matrix(conv.bias) - shift) * LOG2_E).float(),
        out_weight.t().contiguous().float(),
    )
    return folded, offset + _matrix(module.out_proj.bias) - constant * out_weight.sum(1)


def _linear(x: Tensor, folded, scratch: "Scratch", name: str) -> Tensor:
    bias, weight = folded
    return torch.addmm(bias, x, weight, out=scratch.take(name, x.shape[0], weight.shape[1]))


def _swoosh(x: Tensor, scratch: "Scratch", exact: bool) -> Tensor:
    """softplus(z) - 0.08 z of z = x / log2(e)."""
    y = scratch.take("swoosh", *x.shape)
    if exact:
        y.copy_(F.softplus(x / LOG2_E))
    else:
        torch.exp2(x, out=y).log1p_()
    return y.sub_(x, alpha=0.08 / LOG2_E)


# ---- memory and threads ------------------------------------------------------------------------


class Scratch:
    """Named buffers of one thread, which grow to the largest shape asked for."""

    def __init__(self):
        self.buffers = {}

    def take(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self.buffers[name] = torch.empty(size)
        return buffer[:size].view(shape)


class Workspace:
    """All memory of one call."""

    def __init__(self):
        self.shared = Scratch()
        self.threads = []  # a Scratch for each

    def planes(self, *sizes: int):
        return self.shared.take("planes", sum(sizes)).split(sizes)


class Jobs:
    """Runs slices of work on torch.get_num_threads() threads, each of which uses one core."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    def __enter__(self):
        count = torch.get_num_threads() if _libtorch() else 1
        scratches = self.workspace.threads
        scratches.extend(Scratch() for _ in range(count - len(scratches)))
        self.scratches = scratches[:count]
        self.pool = ThreadPoolExecutor(count, initializer=_use_one_core) if count > 1 else None
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.shutdown()

    def slices(self, job, length: int, step: int) -> list:
        """[job(start, stop, scratch), ...] for slices of range(length)."""
        step = max(1, step)
        starts = deque(range(0, length, step))
        results = {}

        @torch.inference_mode()
        def work(scratch):
            while True:
                try:
                    start = starts.popleft()
                except IndexError:
                    return
                results[start] = job(start, min(start + step, length), scratch)

        if self.pool:
            for future in [self.pool.submit(work, scratch) for scratch in self.scratches]:
                future.result()
        else:
            work(self.scratches[0])
        return [results[start] for start in sorted(results)]

    def conv(self, inputs, conv: Conv, out: Tensor) -> list:
        """Convolve inputs(start, stop, scratch) into out (T, F, C); the statistics of each slice."""

        def job(start, stop, scratch):
            y = conv(inputs(start, stop, scratch)).view(stop - start, *out.shape[1:])
            out[start:stop] = y
            return y.numel(), *moments(y)

        step = CONV_FLOATS // (conv.weight.shape[1] * out.shape[1])
        return self.slices(job, out.shape[0], step)

    def norm(self, norm, x: Tensor) -> None:
        def job(start, stop, scratch):
            x[start:stop] = norm(x[start:stop], scratch)

        self.slices(job, x.shape[0], CONV_FLOATS // x[0].numel())

    def layer(self, layer: Layer, x: Tensor) -> None:
        """x (N, L, C) in place, some sequences at a time."""
        layer.positions(x.shape[1])
        self.slices(
            lambda start, stop, scratch: layer(x[start:stop], scratch), x.shape[0], layer.rows(x.shape[1])
        )


def _libtorch():
    try:
        lib = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
        lib.omp_set_num_threads
        return lib
    except (OSError, AttributeError):
        return None


def _use_one_core():
    torch.get_num_threads()  # torch sets up a thread when it first asks
    lib = _libtorch()
    lib.omp_set_num_threads(1)
    if hasattr(lib, "MKL_Set_Num_Threads_Local"):
        lib.MKL_Set_Num_Threads_Local(1)
