"""A Zipformer layer as nodes of an ONNX graph: the part of onnx_graph.py that takes the time.

N sequences of L positions, M = N * L tokens, C channels, H heads.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from .onnx_nodes import Graph, double

TOKENS = 2000  # of a group of sequences: its widest activation stays in a core's cache
SCORES = 350_000  # attention weights of a group, for the same reason; a single sequence may have more


def by_groups(g: Graph, x: str, length: str | int, table: Any, layer: Any, outer: Any) -> str:
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
