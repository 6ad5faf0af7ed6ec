"""The ONNX file of a frozen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.export.forms import FORMS, SIZED, NoForm, elementwise
from dtrain.export.frozen import Both, Frozen
from dtrain.graph.graph import Tensor, built
from dtrain.hints import pip_install
from dtrain.ops.base import Feed
from dtrain.ops.elementwise import Elementwise

#: What is written, whatever the installed package knows: ONNX Runtime reads it from 1.12 (2022) on.
OPSET, IR_VERSION = 17, 8
#: Bytes that a file of protobuf may have.
MOST_BYTES = 2**31 - 1


def library() -> Any:
    """The onnx package; raises EnvironmentProblem where it is not installed."""
    try:
        import onnx
    except ImportError:
        raise EnvironmentProblem(f"export needs the package onnx: {pip_install('dtrain[onnx]')}") from None
    return onnx


class Writer:
    """The nodes and constants so far. Values go by their names.

    source: the operation that nodes are made for, after which they are named.
    """

    def __init__(self, onnx: Any, first: str) -> None:
        self._onnx, self._first = onnx, first
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.source = ""
        self._used: dict[str, int] = {}
        self._kept: dict[Any, str] = {}  # what is made once
        self._batch = ""

    def name(self, wanted: str) -> str:
        """A name that nothing has."""
        count = self._used[wanted] = self._used.get(wanted, -1) + 1
        return self.name(f"{wanted}_{count}") if count else wanted

    def several(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node of several outputs; their names."""
        outputs = [self.name(self.source) for _ in range(count)]
        attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()}
        name = self.name(f"{self.source}/{op}")
        self.nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        return self.several(op, 1, *inputs, **attributes)[0]

    def cast(self, x: str, dtype: np.dtype) -> str:
        return self.add("Cast", x, to=self.type_of(dtype))

    def type_of(self, dtype: np.dtype) -> int:
        """ONNX's number of a dtype."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def constant(self, array: np.ndarray, name: str = "") -> str:
        """A constant; of those without a name the ones of one value are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if name or key not in self._kept:
            made = self.name(name or "constant")
            self.arrays[made] = array
            if name:
                return made
            self._kept[key] = made
        return self._kept[key]

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def turned(self, x: str, perm: tuple[int, ...]) -> str:
        """x with its axes in another order; of a constant another constant."""
        key = x, perm
        if key not in self._kept:
            if x in self.arrays:
                self._kept[key] = self.constant(self.arrays[x].transpose(perm), f"{x}/turned")
            else:
                self._kept[key] = self.add("Transpose", x, perm=perm)
        return self._kept[key]

    def batch(self) -> str:
        """The number of examples, int64 [1]."""
        if not self._batch:
            self._batch = self.add("Slice", self.add("Shape", self._first), self.ints([0]), self.ints([1]))
        return self._batch

    def initializers(self) -> list[Any]:
        """The constants that nodes read."""
        read = {name for node in self.nodes for name in node.input}
        arrays = {name: np.array(a, order="C") for name, a in self.arrays.items() if name in read}
        if (size := sum(a.nbytes for a in arrays.values())) > MOST_BYTES:
            raise UsageError(f"the parameters take {size:,} bytes, and an ONNX file holds {MOST_BYTES:,}.")
        return [self._onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()]


def model_of(frozen: Frozen, facts: Mapping[str, str]) -> Any:
    """The model as an onnx.ModelProto, checked; facts: its metadata.

    Raises:
        UsageError: an op has no form in ONNX; it is named with its line.
        EnvironmentProblem: the package onnx is not installed.
    """
    onnx = library()
    w = Writer(onnx, next(iter(frozen.inputs), ""))
    names = {tensor: w.name(name) for name, tensor in frozen.inputs.items()}
    for name in frozen.outputs:
        w.name(name)
    for node in _needed(frozen):
        if not isinstance(node.a.kind, Feed):
            w.source = node.a.name
            made = _write(w, node, [names.get(t, "") for t in node.a.inputs])
            names.update(zip(node.a.outputs, [made] if isinstance(made, str) else made, strict=False))
    for name, tensor in frozen.outputs.items():
        w.nodes.append(onnx.helper.make_node("Identity", [names[tensor]], [name], w.name(f"{name}/Identity")))
    about = onnx.helper.make_tensor_value_info
    given = [
        about(name, w.type_of(t.dtype.numpy), ["batch", *(t.spec.shape or ())[1:]])
        for name, t in frozen.inputs.items()
    ]
    second = dict(zip(frozen.outputs, frozen.steps[1].fetches, strict=False))
    results = [about(n, w.type_of(t.dtype.numpy), _free(t, second[n])) for n, t in frozen.outputs.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(w.nodes, "dtrain", given, results, w.initializers()),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dtrain",
    )
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(frozen: Frozen) -> list[Both]:
    """The nodes that the outputs follow from, in their order."""
    wanted = {t.op for t in frozen.outputs.values()}
    found = []
    for node in reversed([*frozen.nodes()]):
        if node.a in wanted:
            found.append(node)
            wanted |= {t.op for i, t in enumerate(node.a.inputs) if i not in node.a.kind.shape_only}
    return found[::-1]


def _write(w: Writer, node: Both, names: list[str]) -> Any:
    kind = node.a.kind
    try:
        if kind.draws:
            raise NoForm("it draws random numbers")
        if kind != node.b.kind and type(kind) not in SIZED:
            raise NoForm("what it does depends on the number of examples")
        if isinstance(kind, Elementwise):
            return elementwise(w, kind, [t.dtype for t in node.a.inputs], names)
        if type(kind) not in FORMS:
            raise NoForm("there is none for this op")
        return FORMS[type(kind)](w, node, *names)
    except NoForm as reason:
        said = f"{kind.described(node.a.name)}{built(node.a)}"
        raise UsageError(f"{said} has no form in ONNX: {reason}.") from None


def _free(first: Tensor, second: Tensor) -> list[Any]:
    """The sizes of an output; the first that depends on the number of examples is that of the batch."""
    pairs = zip(first.spec.shape or (), second.spec.shape or (), strict=True)
    return [m if m == n else "batch" if i == 0 else None for i, (m, n) in enumerate(pairs)]
