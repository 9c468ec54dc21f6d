"""The network, and the signal around it, as an ONNX graph, node by node: no tracing, no exporter.

Arranged for ONNX Runtime on CPUs, within what every runtime has (opset 17, no custom operators):

- A Zipformer layer runs in a Scan over groups of sequences: peak memory doesn't grow with their number.
- Scores of relative positions come from one product with all offsets, and a reshape by which each row
  begins one number later: no table of positions x positions, no transposes of scores.
- Biases of output projections and the linear part of SwooshL and SwooshR are folded into the matrices
  around them; PRelu and Softplus, slow in ONNX Runtime, are written with operators that it has fast.
- Sampling down and up are products with whole groups of positions, filled up once for all blocks.
- The sub-pixel convolution stays in its channels; only the one channel behind it is interleaved.

Shapes: B batch, T frames, F bins, C channels.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ..names import COMPRESSION, HOP_LENGTH, N_FFT, SILENCE_POWER
from ..network.zipenhancer import ZipEnhancer
from ..network.zipformer import RelativePositions
from .onnx import BINS, windowed_dft
from .onnx_layer import by_groups
from .onnx_nodes import LAST, Graph, double

CARD_INPUTS, CARD_OUTPUTS = ("noisy_mag", "noisy_pha"), ("amp_g", "pha_g")


# ---- the signal ---------------------------------------------------------------------------------


def waveform_graph(model: ZipEnhancer) -> onnx.GraphProto:
    """waveform (N, samples) and optionally gain (N,) or (1,) -> enhanced (N, samples): spectrum.denoise.

    A gain of 0, the default, stands for each item's own.
    """
    g = Graph()
    samples = g.size("waveform", 1)
    square = g("Mul", "waveform", "waveform")
    energy = g("ReduceSum", square, [1], keepdims=1)
    count = g("Cast", samples, to=TensorProto.FLOAT)
    silent = g("Less", g("Div", energy, count), SILENCE_POWER)
    own = g("Sqrt", g("Div", count, energy))
    given = g("Unsqueeze", "gain", [1])
    gain = g("Where", silent, 1.0, g("Where", g("Equal", given, 0.0), own, given))
    missing = g("Max", g("Sub", [N_FFT], samples), [0])
    scaled = g("Pad", g("Mul", "waveform", gain), g.vector(0, 0, 0, missing))
    spectrum = _network(g, model, _analyse(g, scaled))
    enhanced = g("Div", _synthesise(g, *spectrum, samples), gain)
    g.nodes.append(helper.make_node("Where", [silent, g.value(0.0), enhanced], ["enhanced"]))
    inputs = ("waveform", ["N", "samples"]), ("gain", ["N or 1"])
    graph = g.proto(inputs, [("enhanced", ["N", "samples"])], "zipenhancer")
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "gain"))
    return graph


def card_graph(model: ZipEnhancer) -> onnx.GraphProto:
    """noisy_mag, noisy_pha (N, 201, T) -> amp_g, pha_g: the network alone, as the model card has it."""
    g = Graph()
    both = [g("Unsqueeze", g("Transpose", x, perm=[0, 2, 1]), [1]) for x in CARD_INPUTS]
    mag, real, imaginary = _network(g, model, g("Concat", *both, axis=1))
    for name, x in zip(CARD_OUTPUTS, (mag, _angle(g, imaginary, real))):
        g.nodes.append(helper.make_node("Transpose", [x], [name], perm=[0, 2, 1]))
    axes = ["N", BINS, "T"]
    inputs, outputs = ([(name, axes) for name in names] for names in (CARD_INPUTS, CARD_OUTPUTS))
    return g.proto(inputs, outputs, "zipenhancer")


def _analyse(g: Graph, x: str) -> str:
    """(B, samples), 400 or more, to compressed magnitude and phase, (B, 2, T, F).

    As analyse of onnx.py, which says how.
    """
    half = N_FFT // 2
    hops = g("Div", g.size(x, 1), [HOP_LENGTH])
    used = g("Mul", g("Add", hops, [N_FFT // HOP_LENGTH]), [HOP_LENGTH])
    padded = g.part(g("Pad", x, [0, half, 0, half], mode="reflect"), 0, used, 1)
    blocks = g("Reshape", padded, [0, -1, HOP_LENGTH])
    shifts = N_FFT // HOP_LENGTH
    ends = [*range(1 - shifts, 0), LAST]
    parts = [g.part(blocks, i, end, 1) for i, end in enumerate(ends)]
    frames = g("Concat", *parts, axis=2)  # (B, T, 400)
    later = g.part(frames, half, LAST, 2)
    earlier = g("Pad", g.part(frames, half - 1, 0, 2, -1), [0, 0, 1, 0, 0, 0])
    cosines, sines = windowed_dft()
    real = g("MatMul", g("Add", later, earlier), cosines)
    imaginary = g("MatMul", g("Sub", later, earlier), sines)
    imaginary = g("Add", imaginary, 1e-12 * (-1.0) ** np.arange(BINS))
    power = g("Add", g("Add", g("Mul", real, real), g("Mul", imaginary, imaginary)), 1e-9)
    magnitude = g("Exp", g("Mul", g("Log", power), COMPRESSION / 2))
    phase = _angle(g, imaginary, g("Add", real, 1e-5))
    return g("Concat", g("Unsqueeze", magnitude, [1]), g("Unsqueeze", phase, [1]), axis=1)


def _synthesise(g: Graph, magnitude: str, real: str, imaginary: str, samples: str) -> str:
    """spectrum.synthesise of a magnitude and the cosine and sine of its phase, (B, T, F), to (B, samples)."""
    amplitude = g("Exp", g("Mul", g("Log", g("Max", magnitude, 1e-12)), 1.0 / COMPRESSION))
    # the bins between the ends stand for two
    amplitude = g("Mul", amplitude, np.array([1.0, *[2.0] * (BINS - 2), 1.0]) / N_FFT)
    even, odd = (
        g("MatMul", g("Mul", amplitude, part), g("Transpose", matrix, perm=[1, 0]))
        for part, matrix in zip((real, imaginary), map(g.value, windowed_dft()))
    )
    earlier = g.part(g("Sub", even, odd), -1, 0, 2, -1)
    frames = g("Concat", g("Pad", earlier, [0, 0, 1, 0, 0, 0]), g("Add", even, odd), axis=2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    weights = g("Expand", (window**2)[None, None], g.vector(1, g.size(frames, 1), 1))
    start, end = N_FFT // 2, g("Add", samples, [N_FFT // 2])
    signal, cover = (g.part(_overlap_add(g, x), start, end, 1) for x in (frames, weights))
    return g("Div", signal, cover)


def _overlap_add(g: Graph, frames: str) -> str:
    """(B, T, 400) to (B, (T + 3) * 100)"""
    shifts = N_FFT // HOP_LENGTH
    total = ""
    for i in range(shifts):
        part = g.part(frames, i * HOP_LENGTH, (i + 1) * HOP_LENGTH, 2)
        part = g("Pad", part, [0, i, 0, 0, shifts - 1 - i, 0])
        total = g("Add", total, part) if total else part
    return g("Reshape", total, [0, -1])


def _angle(g: Graph, y: str, x: str) -> str:
    """atan2(y, x), which ONNX lacks; 0 at the origin, pi where y is a zero of either sign and x < 0."""
    x = g("Where", g("Equal", x, 0.0), 1e-30, x)
    turn = g("Where", g("Less", y, 0.0), -math.pi, math.pi)
    return g("Add", g("Atan", g("Div", y, x)), g("Where", g("Less", x, 0.0), turn, 0.0))


# ---- the network --------------------------------------------------------------------------------


def _network(g: Graph, model: ZipEnhancer, x: str) -> tuple[str, str, str]:
    """(B, 2, T, F) to magnitude, and cosine and sine of the phase, (B, T, F) each."""
    encoder, bound = model.dense_encoder, model.config.magnitude_bound
    noisy = x
    x = _norm_act(g, _conv(g, x, encoder.dense_conv_1[0]), encoder.dense_conv_1)
    x = _dense_block(g, x, encoder.dense_block)
    x = _norm_act(g, _conv(g, x, encoder.dense_conv_2[0]), encoder.dense_conv_2)
    x = g("Transpose", x, perm=[0, 2, 3, 1])
    bins = (BINS + 1) // 2
    x = _stacks(g, x, bins, model.TSConformer.encoders)
    x = g("Transpose", x, perm=[0, 3, 1, 2])
    mask, phase = model.mask_decoder, model.phase_decoder
    (mag,) = _decoder(g, x, mask.dense_block, mask.mask_conv, [mask.mask_conv[-1]])
    mag = g("Relu", mag)
    if bound is not None:  # as zipenhancer.bounded
        around = g("MaxPool", g.part(noisy, 0, 1, 1), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        mag = g("Min", mag, g("Squeeze", g("Mul", around, bound**COMPRESSION), [1]))
    real, imaginary = _decoder(
        g, x, phase.dense_block, phase.phase_conv, [phase.phase_conv_r, phase.phase_conv_i]
    )
    length = g("Sqrt", g("Add", g("Mul", real, real), g("Mul", imaginary, imaginary)))
    origin = g("Equal", length, 0.0)
    real, length = (g("Where", origin, 1.0, x) for x in (real, length))
    return mag, g("Div", real, length), g("Div", imaginary, length)


def _conv(g: Graph, x: str, conv: Any) -> str:
    pads = [*conv.padding, *conv.padding]
    return g("Conv", x, conv.weight, conv.bias, dilations=[*conv.dilation], strides=[*conv.stride], pads=pads)


def _norm_act(g: Graph, x: str, sequence: nn.Sequential) -> str:
    """The InstanceNorm2d and the PReLU in a sequence, of (B, C, T, F)."""
    norm: Any = next(m for m in sequence if isinstance(m, nn.InstanceNorm2d))
    act: Any = next(m for m in sequence if isinstance(m, nn.PReLU))
    x = g("InstanceNormalization", x, norm.weight, norm.bias, epsilon=norm.eps)
    slope = act.weight.detach()[:, None, None]
    if (slope <= 1).all():
        return g("Max", x, g("Mul", x, slope))
    return g("Add", g("Mul", x, (1 + slope) / 2), g("Mul", g("Abs", x), (1 - slope) / 2))


def _dense_block(g: Graph, x: str, block: Any) -> str:
    """The sum of a convolution of each earlier output is that of all together, without a copy of them."""
    earlier = [x]
    for layer in block.dense_block:
        conv = layer[1]
        where = {"dilations": [*conv.dilation], "pads": [conv.dilation[0], 1, 0, 1]}
        weights = conv.weight.detach().split(conv.in_channels // len(earlier), 1)
        y = g("Conv", earlier[-1], weights[0], conv.bias, **where)
        for part, weight in zip(earlier[-2::-1], weights[1:]):
            y = g("Add", y, g("Conv", part, weight, **where))
        earlier.append(_norm_act(g, y, layer))
    return earlier[-1]


def _decoder(g: Graph, x: str, block: Any, sequence: Any, heads: Sequence[Any]) -> list[str]:
    """(B, C, T, 101) to (B, T, 201) for each head.

    The sub-pixel convolution's channels 2c and 2c+1 are the even and the odd bins of channel c. Seen as
    (B, C, 2T, F) they get their norm; and a head, a convolution over two neighbouring bins, is three 1x1
    convolutions: an even bin has its two neighbours in one place, an odd one its right neighbour in the
    next.
    """
    up = sequence[0].conv1
    channels = up.out_channels // 2
    x = _conv(g, _dense_block(g, x, block), up)
    frames = g.size(x, 2)
    x = _norm_act(g, g("Reshape", x, g.vector(0, channels, -1, (BINS + 1) // 2)), sequence)
    x = g("Reshape", x, g.vector(0, 2 * channels, frames, (BINS + 1) // 2))
    weights, biases = [], []
    for head in heads:
        left, right = double(head.weight)[0, :, 0].T
        rows = np.zeros((3, channels, 2), np.float32)
        rows[0, :, 0], rows[0, :, 1] = left, right  # an even bin
        rows[1, :, 1] = left  # an odd bin: itself
        rows[2, :, 0] = right  # and the even bin that follows
        weights.append(rows.reshape(3, -1, 1, 1))
        biases += [head.bias.item(), head.bias.item(), 0.0]
    z = g("Conv", x, np.concatenate(weights), np.array(biases, np.float32))
    out = []
    for i in range(len(heads)):
        even, own, following = (g.part(z, 3 * i + j, 3 * i + j + 1, 1) for j in range(3))
        following = g("Pad", g.part(following, 1, LAST, 3), [0, 0, 0, 0, 0, 0, 0, 1])
        pairs = g("Concat", even, g("Add", own, following), axis=1)  # (B, 2, T, 101)
        bins = g("Reshape", g("Transpose", pairs, perm=[0, 2, 3, 1]), [0, 0, -1])
        out.append(g.part(bins, 0, BINS, 2))
    return out


def _stacks(g: Graph, x: str, bins: int, stacks: Iterable) -> str:
    """The dual-path blocks one after another, (B, T, F, C) to the same; F = `bins`."""
    for factors, group in itertools.groupby(stacks, lambda stack: getattr(stack, "factors", (1, 1))):
        if factors == (1, 1):
            for block in group:
                x = _dual_path(g, x, bins, block)
        else:
            x = _downsampled(g, x, bins, factors, list(group))
    return x


def _downsampled(g: Graph, x: str, bins: int, factors: tuple[int, int], blocks: Sequence[Any]) -> str:
    """DownsampledBlocks of equal factors, (B, T, F, C) to the same.

    T and F are filled up to whole groups with the last position. The blocks fill them so, too, as they
    add the same to all positions of a group: so it's done once, and what was added is cut off at the end.
    """
    time_factor, freq_factor = factors
    channels = blocks[0].out_combiner.bypass_scale.numel()
    frames, groups = g.size(x, 1), -(-bins // freq_factor)
    missing = g("Mod", g("Sub", 0, frames), [time_factor])
    filled = groups * freq_factor
    x = g("Pad", x, g.vector(0, 0, 0, 0, 0, missing, filled - bins, 0), mode="edge")
    x = g("Reshape", x, [0, -1, time_factor, filled * channels])
    for block in blocks:
        y = x
        if time_factor != 1:
            y = g("MatMul", double(block.downsample_t.bias.softmax(0))[None], y)
        y = g("Reshape", y, [0, 0, groups, freq_factor * channels])
        if freq_factor != 1:
            y = g("MatMul", y, np.kron(double(block.downsample_f.bias.softmax(0))[:, None], np.eye(channels)))
        y = _dual_path(g, y, groups, block.encoder)
        scale = double(block.out_combiner.bypass_scale)
        y = g("MatMul", y, np.tile(np.diag(scale), freq_factor))
        y = g("Reshape", y, [0, 0, 1, filled * channels])
        x = g("Add", g("Mul", x, np.tile(1 - scale, filled)), y)
    x = g("Reshape", x, [0, -1, filled, channels])
    return g("Slice", x, [0, 0], g.vector(frames, bins), [1, 2])


def _dual_path(g: Graph, x: str, bins: int, block: Any) -> str:
    """Pairs of layers, along frequency and then along time: (B, T, F, C) to the same."""
    channels = block.bypass_layers[0].bypass_scale.numel()
    frames = g.size(x, 1)
    positions = block.encoder_pos
    f_table = positions(torch.empty(bins))
    t_table = _positions(g, frames, positions)
    for f_layer, t_layer in zip(block.f_layers, block.t_layers):
        x = by_groups(g, x, bins, f_table, f_layer, block.bypass_layers[0])
        x = g("Reshape", x, g.vector(-1, frames, bins, channels))
        x = g("Transpose", x, perm=[0, 2, 1, 3])
        x = by_groups(g, x, frames, t_table, t_layer, block.bypass_layers[0])
        x = g("Reshape", x, g.vector(-1, bins, frames, channels))
        x = g("Transpose", x, perm=[0, 2, 1, 3])
    return x


def _positions(g: Graph, length: str, positions: RelativePositions) -> str:
    """RelativePositions' encoding of `length` (1,), (2L-1, pos_dim)."""
    count = g("Squeeze", length, [0])
    offset = g("Cast", g("Range", g("Sub", 1, count), count, 1), to=TensorProto.FLOAT)
    scale = math.sqrt(positions.pos_dim)
    size = g("Log", g("Add", g("Mul", g("Abs", offset), 1.0 / scale), 1.0))
    angle = g("Atan", g("Mul", g("Mul", g("Sign", offset), size), scale * 2.0 * math.pi / positions.pos_dim))
    angle = g("Mul", g("Unsqueeze", angle, [1]), np.arange(1.0, positions.pos_dim // 2 + 1))
    cosine, sine = (g("Unsqueeze", g(kind, angle), [2]) for kind in ("Cos", "Sin"))
    encoding = g("Reshape", g("Concat", cosine, sine, axis=2), [-1, positions.pos_dim])
    bias = np.zeros(positions.pos_dim)
    bias[-1] = 1.0  # in place of what is there
    return g("Add", g("Mul", encoding, 1.0 - bias), bias)
