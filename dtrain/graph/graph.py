"""The graph: operations are its nodes, tensors its edges, and nothing in it has a value yet."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType
from dtrain.graph.shape import Dims, TensorShape, shape_text

if TYPE_CHECKING:
    from dtrain.ops.base import Op

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Spec(NamedTuple):
    """All that is known of a value before it exists: shape (None where fed later) and dtype."""

    shape: Dims
    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype.name}{shape_text(self.shape)}"


class TensorLike:
    """What carries the operators: Tensor and Variable. The ops package fills them in."""

    __array_priority__ = 100  # so that `array * tensor` asks the tensor

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def dtype(self) -> DType: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self.name} cannot be iterated over: its values exist only inside Session.run.")

    def __bool__(self) -> bool:
        raise TypeError(f"{self.name} is neither true nor false: its value exists only inside Session.run.")


class Tensor(TensorLike):
    """One output of one operation. Its value exists only inside Session.run."""

    __slots__ = ("index", "op", "spec")

    def __init__(self, op: Operation, index: int, spec: Spec) -> None:
        self.op = op
        self.index = index
        self.spec = spec

    @property
    def name(self) -> str:
        """'<operation>:<output>', as in TensorFlow 1."""
        return f"{self.op.name}:{self.index}"

    @property
    def graph(self) -> Graph:
        return self.op.graph

    @property
    def dtype(self) -> DType:
        return self.spec.dtype

    @property
    def shape(self) -> TensorShape:
        return TensorShape(self.spec.shape)

    def get_shape(self) -> TensorShape:
        return self.shape

    def __repr__(self) -> str:
        shape = shape_text(self.spec.shape)
        return f'Tensor("{self.name}", shape={shape}, dtype={self.dtype.name})'


class Operation:
    """A node: a kind of op (what it computes), the tensors that it reads, and those that it makes.

    control_inputs run before it without handing it a value. source is the user's own line that made it.
    """

    __slots__ = ("control_inputs", "graph", "id", "inputs", "kind", "name", "outputs", "source")

    def __init__(
        self,
        graph: Graph,
        name: str,
        kind: Op,
        inputs: tuple[Tensor, ...],
        control_inputs: tuple[Operation, ...],
        specs: Iterable[Spec],
        source: str,
    ) -> None:
        self.graph = graph
        self.name = name
        self.kind = kind
        self.inputs = inputs
        self.control_inputs = control_inputs
        self.id = len(graph.operations)
        self.outputs = tuple(Tensor(self, i, spec) for i, spec in enumerate(specs))
        self.source = source

    @property
    def type(self) -> str:
        """The name of its kind, such as 'MatMul'."""
        return type(self.kind).__name__

    def __repr__(self) -> str:
        return f"<dt.Operation '{self.name}' type={self.type}>"


class Graph:
    """A dataflow graph that grows by one operation a call and never loses one."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.seed: int | None = None
        self.source = ""  # of nodes added now, where a pass builds them for a user's line
        self.collections: dict[str, list[Any]] = {}
        self._by_name: dict[str, Operation] = {}
        self._used: dict[str, int] = {}
        self._scope = ""
        self._control: tuple[Operation, ...] = ()

    # -- building --------------------------------------------------------------------------------------
    def add(
        self,
        kind: Op,
        inputs: tuple[Tensor, ...] = (),
        name: str | None = None,
        control_inputs: tuple[Operation, ...] = (),
    ) -> Operation:
        """Append an operation; its shapes and dtypes are inferred here, so a mismatch is an error here.

        Raises:
            GraphError: the inputs do not fit the op or belong to another graph.
        """
        name = name or type(kind).__name__
        for tensor in inputs:
            if tensor.graph is not self:
                raise GraphError(
                    f"{name}: {tensor.name} belongs to another graph. Build both inside one "
                    "`with graph.as_default():` block."
                )
        try:
            specs = kind.infer(*(t.spec for t in inputs))
        except GraphError as error:
            operands = " and ".join(f"{t.name} {t.spec}" for t in inputs)
            raise GraphError(f"{name} does not fit {operands}: {error}") from None
        full = self.unique_name(name)
        control = dict.fromkeys((*self._control, *control_inputs))
        operation = Operation(self, full, kind, inputs, tuple(control), specs, self.source or _user_line())
        self.operations.append(operation)
        self._by_name[full] = operation
        return operation

    def copy_of(
        self, node: Operation, inputs: tuple[Tensor, ...], control: tuple[Operation, ...]
    ) -> Operation:
        """Append a node of another graph under its own name; passes rebuild graphs with it."""
        specs = [t.spec for t in node.outputs]
        copy = Operation(self, node.name, node.kind, inputs, control, specs, node.source)
        self.operations.append(copy)
        return copy

    def unique_name(self, name: str) -> str:
        """The name inside the current scope, with _1, _2 ... where it is taken, as in TensorFlow 1."""
        full = self._scope + name
        count = self._used.get(full, 0)
        self._used[full] = count + 1
        if count == 0:
            return full
        candidate = f"{full}_{count}"
        while candidate in self._used:
            count += 1
            candidate = f"{full}_{count}"
        self._used[full] = count + 1
        self._used[candidate] = 1
        return candidate

    @contextmanager
    def name_scope(self, name: str | None) -> Iterator[str]:
        """Prefix the names made inside; entering a name again makes 'name_1'. '' or None is the root.

        What `as` gave, which ends in '/', enters that very scope again.
        """
        outer = self._scope
        if name and name.endswith("/"):
            self._scope = name
        else:
            self._scope = self.unique_name(name) + "/" if name else ""
        try:
            yield self._scope
        finally:
            self._scope = outer

    @contextmanager
    def control_dependencies(self, operations: Iterable[Any] | None) -> Iterator[None]:
        """Make the operations built inside run after these; None lifts what the blocks around ask for."""
        outer = self._control
        self._control = () if operations is None else (*outer, *(as_operation(o) for o in operations))
        try:
            yield
        finally:
            self._control = outer

    @contextmanager
    def as_default(self) -> Iterator[Graph]:
        """Build inside into this graph."""
        _stack().append(self)
        try:
            yield self
        finally:
            stack = _stack()
            del stack[len(stack) - 1 - stack[::-1].index(self)]

    # -- looking ---------------------------------------------------------------------------------------
    def get_operations(self) -> list[Operation]:
        return list(self.operations)

    def get_operation_by_name(self, name: str) -> Operation:
        """Raises KeyError, naming what is there, for a name that no operation has."""
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"the graph has no operation named {name!r}") from None

    def get_tensor_by_name(self, name: str) -> Tensor:
        """The tensor called '<operation>:<output>'."""
        operation, _, index = name.partition(":")
        if not index.isdigit():
            raise ValueError(f"{name!r} names no tensor: write '{operation}:0' for its first output.")
        outputs = self.get_operation_by_name(operation).outputs
        if int(index) >= len(outputs):
            raise KeyError(f"{operation!r} has {len(outputs)} outputs, so there is no {name!r}")
        return outputs[int(index)]

    def add_to_collection(self, name: str, value: Any) -> None:
        self.collections.setdefault(name, []).append(value)

    def get_collection(self, name: str) -> list[Any]:
        return list(self.collections.get(name, ()))


def as_operation(value: Any) -> Operation:
    """The operation behind an Operation, a Tensor or a Variable."""
    if isinstance(value, Operation):
        return value
    operation = getattr(value, "op", None)
    if isinstance(operation, Operation):
        return operation
    raise TypeError(f"{value!r} is not part of a graph: give an operation, a tensor or a variable.")


# -- the default graph ---------------------------------------------------------------------------------
_local = threading.local()


def _stack() -> list[Graph]:
    if not hasattr(_local, "stack"):
        _local.stack = [Graph()]
    return _local.stack


def get_default_graph() -> Graph:
    """The graph that lines written now build into."""
    return _stack()[-1]


def reset_default_graph() -> None:
    """Start anew with an empty default graph.

    Raises:
        GraphError: inside `with graph.as_default()`.
    """
    if len(_stack()) > 1:
        raise GraphError("reset_default_graph() inside `with graph.as_default():`; leave that block first.")
    _stack()[0] = Graph()


def name_scope(name: str | None, default_name: str | None = None, values: Any = None) -> Any:
    """`with name_scope("layer1"):` prefixes the names made inside with 'layer1/'. values is not needed."""
    return get_default_graph().name_scope(name or default_name)


def control_dependencies(operations: Iterable[Any] | None) -> Any:
    """Operations built inside run after these; None lifts what the blocks around ask for."""
    return get_default_graph().control_dependencies(operations)


def set_random_seed(seed: int | None) -> None:
    """Make all random ops of the default graph reproducible."""
    get_default_graph().seed = None if seed is None else int(seed)


def _user_line() -> str:
    """'file.py:12' of the nearest caller outside dtrain: what an error can point at."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
