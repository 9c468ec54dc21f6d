"""The network, and the signal around it, as an ONNX graph, node by node: no tracing, no exporter.

Arranged for ONNX Runtime on CPUs, within what every runtime has (opset 17, no custom operators):

- A Zipformer layer runs in a Scan over groups of sequences: peak memory doesn't grow with their number.
- Scores of relative positions come from one product with all offsets, and a reshape by which each row
  begins one number later: no table of positions x positions, no transposes of scores.
- Biases of output projections and the linear part of SwooshL and SwooshR are folded into the matrices
  around them; PRelu and Softplus, slow in ONNX Runtime, are written with operators that it has fast.
- The sub-pixel convolution stays in its channels; only the one channel behind it is interleaved.

Shapes: B batch, T frames, F bins, C channels; N sequences of L positions, M = N * L tokens, H heads.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ..names import COMPRESSION, HOP_LENGTH, N_FFT, SILENCE_POWER
from ..network.zipenhancer import ZipEnhancer
from ..network.zipformer import RelativePositions
from .onnx import BINS, windowed_dft

TOKENS = 2000  # of a group of sequences: its widest activation stays in a core's cache
SCORES = 350_000  # attention weights of a group, for the same reason; a single sequence may have more
CARD_INPUTS, CARD_OUTPUTS = ("noisy_mag", "noisy_pha"), ("amp_g", "pha_g")
LAST = np.iinfo(np.int64).max  # a Slice's end: all the rest


class Graph:
    """Nodes and constants on their way to a GraphProto: `graph("Add", a, b)` returns the sum's name.

    An input that is an array or a number becomes a constant. Numbers are float32, lists int64.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple, tuple[str, np.ndarray]] = {}
        self._count = 0

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        name = self.name(kind)
        self.nodes.append(helper.make_node(kind, [self.value(x) for x in inputs], [name], **attributes))
        return name

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind[:4]}{self._count}"

    def value(self, x: Any) -> str:
        """The name of a value; a constant for what isn't one yet."""
        if isinstance(x, str):
            return x
        if isinstance(x, Tensor):
            x = x.detach().cpu().numpy()
        array = np.asarray(x)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.constants:
            self.constants[key] = self.name("constant"), array
        return self.constants[key][0]

    @contextlib.contextmanager
    def body(self) -> Iterator[None]:
        """What is added inside goes to the body of a Scan, its constants too (runtimes fold them there)."""
        outside = self.nodes, self.constants
        self.nodes, self.constants = [], {}
        try:
            yield
        finally:
            self.nodes, self.constants = outside

    def proto(self, inputs: Sequence, outputs: Sequence, name: str) -> onnx.GraphProto:
        """The nodes so far as a GraphProto; inputs and outputs: (name, its axes) each."""
        sources, results = (
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, axes) for value, axes in values]
            for values in (inputs, outputs)
        )
        tensors = [numpy_helper.from_array(array, key) for key, array in self.constants.values()]
        return helper.make_graph(self.nodes, name, sources, results, initializer=tensors)

    # ---- shorthands ------------------------------------------------------------------------------

    def size(self, x: str, axis: int) -> str:
        """The length of an axis, as (1,)."""
        return self("Shape", x, start=axis, end=axis + 1)

    def part(self, x: str, start: Any, end: Any, axis: int, step: int = 1) -> str:
        """x[start:end:step] along an axis; each bound a number, or the name of a (1,)."""
        bounds = (b if isinstance(b, str) else [b] for b in (start, end))
        return self("Slice", x, *bounds, [axis], [step])

    def vector(self, *parts: Any) -> str:
        """A shape, of numbers and names of (1,)."""
        if not any(isinstance(p, str) for p in parts):
            return self.value(list(parts))
        return self("Concat", *(p if isinstance(p, str) else [p] for p in parts), axis=0)

    def softplus(self, x: str) -> str:
        """relu(x) - log(sigmoid(|x|)): a seventh of the time of ONNX Runtime's Softplus; never overflows."""
        return self("Sub", self("Relu", x), self("Log", self("Sigmoid", self("Abs", x))))


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
    encoder = model.dense_encoder
    x = _norm_act(g, _conv(g, x, encoder.dense_conv_1[0]), encoder.dense_conv_1)
    x = _dense_block(g, x, encoder.dense_block)
    x = _norm_act(g, _conv(g, x, encoder.dense_conv_2[0]), encoder.dense_conv_2)
    x = g("Transpose", x, perm=[0, 2, 3, 1])
    bins = (BINS + 1) // 2
    x = _stacks(g, x, bins, model.TSConformer.encoders)
    x = g("Transpose", x, perm=[0, 3, 1, 2])
    mask, phase = model.mask_decoder, model.phase_decoder
    (mag,) = _decoder(g, x, mask.dense_block, mask.mask_conv, [mask.mask_conv[-1]])
    real, imaginary = _decoder(
        g, x, phase.dense_block, phase.phase_conv, [phase.phase_conv_r, phase.phase_conv_i]
    )
    length = g("Sqrt", g("Add", g("Mul", real, real), g("Mul", imaginary, imaginary)))
    origin = g("Equal", length, 0.0)
    real, length = (g("Where", origin, 1.0, x) for x in (real, length))
    return g("Relu", mag), g("Div", real, length), g("Div", imaginary, length)


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
        x = _by_groups(g, x, bins, f_table, f_layer, block.bypass_layers[0])
        x = g("Reshape", x, g.vector(-1, frames, bins, channels))
        x = g("Transpose", x, perm=[0, 2, 1, 3])
        x = _by_groups(g, x, frames, t_table, t_layer, block.bypass_layers[0])
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


# ---- a Zipformer layer --------------------------------------------------------------------------


def _by_groups(g: Graph, x: str, length: str | int, table: Any, layer: Any, outer: Any) -> str:
    """A layer, and the bypass around it, over sequences of `length`, a number or the name of a (1,).

    x (.., L, C) to (N, L, C); table (2L-1, pos_dim).
    """
    channels = layer.norm.bias.numel()
    along = Along.of(g, length, table, layer)
    x = g("Reshape", x, along.tokens)
    rows = g.size(x, 0)
    groups = g("Div", g("Sub", g("Add", rows, along.group), [1]), along.group)
    size = g("Div", g("Sub", g("Add", rows, groups), [1]), groups)  # equal groups, with few rows of zeros
    x = g("Pad", x, g.vector(0, 0, 0, g("Sub", g("Mul", groups, size), rows), 0, 0))
    x = g("Reshape", x, g.vector(groups, size, length, channels))
    with g.body():
        source, result = g.name("group"), g.name("layer")
        y = _layer(g, source, along, layer, outer)
        g.nodes.append(helper.make_node("Reshape", [y, along.tokens], [result]))
        axes = [None, None, channels]
        body = g.proto([(source, axes)], [(result, axes)], "layer")
    x = g("Scan", x, body=body, num_scan_inputs=1)
    return g.part(g("Reshape", x, along.tokens), 0, rows, 0)


@dataclass
class Along:
    """What a layer needs that depends on the length L of its sequences: names of values.

    Attributes:
        count: H, a number.
        tokens, wide: the shapes (-1, L, C) and (-1, L, hidden channels of the gated attention).
        heads: by D, the shape (-1, L, H, D).
        group: how many sequences at a time.
        keys: (H, D, 2L), of the offsets from -(L-1) to L-1, and a column of zeros.
        start, stop, narrow: by which `_attention_weights` moves the rows.
        length: (1,).
    """

    count: int
    tokens: str
    wide: str
    heads: dict[int, str]
    group: str
    keys: str
    start: str
    stop: str
    narrow: str
    length: str

    @classmethod
    def of(cls, g: Graph, length: str | int, table: Any, layer: Any) -> "Along":
        weights = layer.self_attn_weights
        heads, channels = weights.heads, layer.norm.bias.numel()
        sizes = {width // heads for width in (*weights.split, layer.self_attn1.in_proj.out_features)}
        one = length if isinstance(length, str) else g.value([length])
        keys = g("MatMul", table, double(weights.linear_pos.weight).T)
        keys = g("Transpose", g("Reshape", keys, [0, heads, -1]), perm=[1, 2, 0])
        least = g("Min", g("Div", [TOKENS], one), g("Div", [SCORES], g("Mul", g("Mul", one, one), [heads])))
        narrow = g("Sub", g("Mul", one, [2]), [1])
        start = g("Sub", one, [1])
        return cls(
            count=heads,
            wide=g.vector(-1, length, layer.nonlin_attention.out_proj.in_features),
            tokens=g.vector(-1, length, channels),
            heads={d: g.vector(-1, length, heads, d) for d in sizes},
            group=g("Max", least, [1]),
            keys=g("Pad", keys, [0, 0, 0, 0, 0, 1]),
            start=start,
            stop=g("Add", start, g("Mul", one, narrow)),
            narrow=g.vector(0, 0, length, narrow),
            length=one,
        )


class Tokens:
    """A layer's activations (M, C) on their way: what is in the graph, and `offset` (C,), which it lacks."""

    def __init__(self, g: Graph, x: str, channels: int) -> None:
        self.g, self.x, self.offset = g, x, np.zeros(channels)

    def project(self, linear: Any, rows: slice = slice(None), shift: float = 0.0) -> str:
        """linear(x) - shift, or some rows of it."""
        weight, bias = double(linear.weight)[rows], double(linear.bias)[rows]
        return self.g("Gemm", self.x, weight.T, bias + weight @ self.offset - shift)

    def add(self, y: str, linear: Any, constant: Any = 0.0) -> None:
        """x += linear(y + constant)"""
        weight = double(linear.weight)
        self.x = self.g("Gemm", y, weight.T, self.x)
        self.offset = self.offset + double(linear.bias) + weight @ np.broadcast_to(constant, weight.shape[1])

    def scale(self, factor: np.ndarray, origin: str) -> None:
        """The bypass from `origin`: x = origin + (x - origin) * factor."""
        self.x = self.g("Add", self.g("Mul", origin, 1 - factor), self.g("Mul", self.x, factor))
        self.offset = self.offset * factor


def double(x: Any) -> np.ndarray:
    """A parameter, float64."""
    return x.detach().cpu().double().numpy()


def _layer(g: Graph, source: str, along: Along, layer: Any, outer: Any) -> str:
    """ZipformerLayer and the bypass around it, of (N, L, C), to (M, C)."""
    channels = layer.norm.bias.numel()
    origin = g("Reshape", source, [-1, channels])
    x = Tokens(g, origin, channels)
    weights = _attention_weights(g, x, layer.self_attn_weights, along)
    _feed_forward(g, x, layer.feed_forward1)
    _nonlin_attention(g, x, layer.nonlin_attention, weights, along)
    _self_attention(g, x, layer.self_attn1, weights, along)
    _conv_module(g, x, layer.conv_module1, along)
    _feed_forward(g, x, layer.feed_forward2)
    x.scale(double(layer.bypass_mid.bypass_scale), origin)
    _self_attention(g, x, layer.self_attn2, weights, along)
    _conv_module(g, x, layer.conv_module2, along)
    _feed_forward(g, x, layer.feed_forward3)
    # the norm, the layer's bypass and the one around it
    scale = double(layer.bypass.bypass_scale) * double(outer.bypass_scale)
    centred = g("Add", x.x, x.offset - double(layer.norm.bias))
    power = g("ReduceMean", g("Mul", centred, centred), axes=[1], keepdims=1)
    factor = scale * math.exp(layer.norm.log_scale.item())
    normed = g("Div", g("Add", g("Mul", x.x, factor), x.offset * factor), g("Sqrt", power))
    return g("Add", g("Mul", origin, 1 - scale), normed)


def _attention_weights(g: Graph, x: Tokens, module: Any, along: Along) -> str:
    """(M, C) to (N, H, L, L).

    In the product with all offsets, (.., L, 2L), row i has the score for position j in column
    j - i + L - 1. In rows that are one number shorter, from number L - 1 on, that is column j.
    """
    parts, start = [], 0
    for width, perm in zip(module.split, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        part = x.project(module.in_proj, slice(start, start + width))
        parts.append(g("Transpose", g("Reshape", part, along.heads[width // module.heads]), perm=perm))
        start += width
    query, key, pos_query = parts
    offsets = g("Reshape", g("MatMul", pos_query, along.keys), [0, 0, -1])
    moved = g("Reshape", g("Slice", offsets, along.start, along.stop, [2]), along.narrow)
    scores = g("Add", g("MatMul", query, key), g.part(moved, 0, along.length, 3))
    return g("Softmax", scores, axis=-1)


def _self_attention(g: Graph, x: Tokens, module: Any, weights: str, along: Along) -> None:
    """Attention weights sum to one, so what the values lack goes through as it is."""
    weight = double(module.in_proj.weight)
    value = g("MatMul", x.x, weight.T)
    lacking = weight @ x.offset + double(module.in_proj.bias)
    size = len(weight) // along.count
    value = g("Transpose", g("Reshape", value, along.heads[size]), perm=[0, 2, 1, 3])
    attended = g("Transpose", g("MatMul", weights, value), perm=[0, 2, 1, 3])
    x.add(g("Reshape", attended, [-1, len(weight)]), module.out_proj, lacking)


def _nonlin_attention(g: Graph, x: Tokens, module: Any, weights: str, along: Along) -> None:
    """Over the first head's weights."""
    width = module.out_proj.in_features
    gate, value, output = (x.project(module.in_proj, slice(i * width, (i + 1) * width)) for i in range(3))
    value = g("Reshape", g("Mul", value, g("Tanh", gate)), along.wide)
    attended = g("MatMul", g("Gather", weights, 0, axis=1), value)
    x.add(g("Mul", g("Reshape", attended, [-1, width]), output), module.out_proj)


def _feed_forward(g: Graph, x: Tokens, module: Any) -> None:
    """x += out(swoosh_l(in(x))), whose linear part, -0.08 in(x), is a matrix of x itself."""
    hidden = g.softplus(x.project(module.in_proj, shift=4.0))
    weight, bias, out = (
        double(w) for w in (module.in_proj.weight, module.in_proj.bias, module.out_proj.weight)
    )
    linear = -0.08 * out
    x.x = g("Gemm", x.x, np.eye(len(out)) + (linear @ weight).T)
    x.offset = x.offset + linear @ (weight @ x.offset + bias)
    x.add(hidden, module.out_proj, -0.035)


def _conv_module(g: Graph, x: Tokens, module: Any, along: Along) -> None:
    """As a 2-D convolution, of which ONNX Runtime has a faster kernel."""
    channels, conv = module.out_proj.in_features, module.depthwise_conv
    value, gate = (x.project(module.in_proj, slice(i * channels, (i + 1) * channels)) for i in range(2))
    y = g("Reshape", g("Mul", value, g("Sigmoid", gate)), along.tokens)
    y = g("Unsqueeze", g("Transpose", y, perm=[0, 2, 1]), [2])
    side = conv.kernel_size[0] // 2
    weight, bias = double(conv.weight)[:, :, None], double(conv.bias) - 1.0
    y = g("Conv", y, weight, bias, pads=[0, side, 0, side], group=channels)
    y = g("Reshape", g("Transpose", g("Squeeze", y, [2]), perm=[0, 2, 1]), [-1, channels])
    y = g("Sub", g.softplus(y), g("Mul", y, 0.08))
    x.add(y, module.out_proj, -0.08 - 0.313261687)
