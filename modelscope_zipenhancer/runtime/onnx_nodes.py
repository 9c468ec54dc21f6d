"""Nodes and constants of an ONNX graph while it is built: for onnx_graph.py and onnx_layer.py."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

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


def double(x: Any) -> np.ndarray:
    """A parameter, float64."""
    return x.detach().cpu().double().numpy()
