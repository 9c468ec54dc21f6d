"""A Zipformer layer in C: src/layer.h."""

import ctypes

import torch
from torch import Tensor

from ....network.zipformer import Bypass, RelativePositions, ZipformerLayer
from .. import fold
from ..buffers import Scratch
from ..fold import LOG2_E, Linear, converted, fold_layer
from ..threads import SlicePool
from .library import Int, Library, Matrix, Pointer, address, padded, rows

TOKENS = 4000  # of the sequences of one call
TABLES = 8  # lengths for which the positions' keys are kept
LN_2 = 1 / LOG2_E


class _FeedForward(ctypes.Structure):
    _fields_ = [("in_", Matrix), ("out", Matrix)]


class _Attention(ctypes.Structure):
    _fields_ = [("value", Matrix), ("out", Matrix)]


class _Convolution(ctypes.Structure):
    _fields_ = [("value", Matrix), ("gate", Matrix), ("out", Matrix), ("taps", Pointer), ("bias", Pointer)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, Int) for name in ("channels", "heads", "query", "positional", "value", "gated", "kernel")),
        ("scores", Matrix),
        ("feed_forwards", _FeedForward * 3),
        *((f"gated_{name}", Matrix) for name in ("gate", "value", "output", "out")),
        ("attentions", _Attention * 2),
        ("convolutions", _Convolution * 2),
        *((name, Pointer) for name in ("bypass", "offset", "norm_bias", "out_bypass")),
        ("norm_scale", ctypes.c_double),
    ]


class NativeLayer:
    """A ZipformerLayer and the bypass around it, in place: (N, L, C); as zipformer_layer.Layer."""

    def __init__(self, layer: ZipformerLayer, outer: Bypass, library: Library):
        self.floats = library.function("layer_floats", Int, Pointer, Int)
        self.run = library.function(
            "layer", None, Pointer, Pointer, Int, Int, Int, Int, Pointer, Int, Pointer
        )
        self.panels = library.panels
        self.kept: list[Tensor] = []  # what the structure points to
        folded, attention = fold_layer(layer), layer.self_attn_weights
        self.heads = attention.heads
        channels = len(layer.norm.bias)
        self.pos_weight = converted(attention.linear_pos.weight, torch.float32)
        self.weights = _Layer(
            channels=channels,
            heads=self.heads,
            query=attention.split[0] // self.heads,
            positional=attention.split[2] // self.heads,
            value=len(folded.attention1.out) // self.heads,
            gated=len(folded.gated_attention.out),
            kernel=folded.convolution1.taps.shape[-1],
            scores=self._linear(folded.scores),
            gated_gate=self._linear(_times(folded.gated_attention.gate, LOG2_E)),
            gated_value=self._linear(folded.gated_attention.value),
            gated_output=self._linear(folded.gated_attention.output),
            gated_out=self._matrix(folded.gated_attention.out),
            bypass=self._row(folded.bypass),
            offset=self._row(folded.offset),
            norm_bias=self._row(layer.norm.bias.detach()),
            out_bypass=self._row((layer.bypass.bypass_scale * outer.bypass_scale).detach()),
            norm_scale=layer.norm.log_scale.double().exp().item() * channels**0.5,
        )
        for i, module in enumerate((folded.feed_forward1, folded.feed_forward2, folded.feed_forward3)):
            self.weights.feed_forwards[i] = _FeedForward(
                self._linear(module.in_proj), self._matrix(module.out * LN_2)
            )
        for i, attend in enumerate((folded.attention1, folded.attention2)):
            self.weights.attentions[i] = _Attention(self._matrix(attend.value.t()), self._matrix(attend.out))
        for i, convolve in enumerate((folded.convolution1, folded.convolution2)):
            self.weights.convolutions[i] = self._convolution(convolve)
        self.tables: dict[int, Tensor] = {}

    def _keep(self, x: Tensor) -> int:
        self.kept.append(x)
        return x.data_ptr()

    def _row(self, x: Tensor) -> int:
        """x (C,) or (rows, C)"""
        return self._keep(rows(x))

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> Matrix:
        """weight (in, out), bias (out,)"""
        right = None if bias is None else self._row(bias)
        return Matrix(self._keep(self.panels(weight)), right, len(weight), padded(weight.shape[1]))

    def _linear(self, linear: Linear) -> Matrix:
        return self._matrix(linear.weight, linear.bias)

    def _convolution(self, module: fold.Convolution) -> _Convolution:
        return _Convolution(
            value=self._linear(module.value),
            gate=self._linear(_times(module.gate, LOG2_E)),
            out=self._matrix(module.out * LN_2),
            taps=self._row(module.taps[:, 0, 0].t()),
            bias=self._row(module.bias),
        )

    def apply(self, x: Tensor, pool: SlicePool) -> None:
        """x (N, L, C) in place, any strides but C's, which is 1; some sequences at a time."""
        length = x.shape[1]
        table = self.positions(length)
        floats = self.floats(ctypes.byref(self.weights), length)

        def job(start: int, stop: int, scratch: Scratch) -> None:
            memory = scratch.take("native", floats)
            self.run(
                ctypes.byref(self.weights),
                x.data_ptr() + 4 * start * x.stride(0),
                stop - start,
                x.stride(0),
                length,
                x.stride(1),
                address(table),
                table.shape[-1],
                address(memory),
            )

        pool.slices(job, x.shape[0], max(1, TOKENS // length))

    def positions(self, length: int) -> Tensor:
        """Keys of the relative positions, (H, D, offsets), from offset L - 1 down; the last are kept."""
        table = self.tables.get(length)
        if table is None:
            encoding = RelativePositions(self.pos_weight.shape[1])(self.pos_weight.new_empty(length))
            keys = (encoding @ self.pos_weight.t()).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
            table = keys.new_zeros(*keys.shape[:2], length - 1 + padded(length))
            table[:, :, : keys.shape[-1]] = keys.flip(-1)
            if len(self.tables) >= TABLES:
                self.tables = {}  # not cleared: another thread may be reading it
            self.tables[length] = table
        return table


def _times(linear: Linear, factor: float) -> Linear:
    return Linear(linear.weight * factor, linear.bias * factor)
