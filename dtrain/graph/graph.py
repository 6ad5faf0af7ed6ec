"""The graph: operations are its nodes, tensors its edges, and nothing in it has a value yet."""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from dtrain.errors import FailedPreconditionError, GraphError, UsageError
from dtrain.graph.collections import in_scope
from dtrain.graph.dtypes import DType
from dtrain.graph.shape import Dims, TensorShape, as_dims, compatible, merge, shape_text

if TYPE_CHECKING:
    from dtrain.graph.graph_def import GraphDef, NodeDef
    from dtrain.ops.base import Op

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_COMMAND = os.path.join(_PACKAGE, "cli") + os.sep
_DRAWS = "random ops counted by kind"


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
        @property
        def shape(self) -> TensorShape: ...
        @property
        def op(self) -> Operation: ...
        @property
        def graph(self) -> Graph: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __rfloordiv__(self, other: Any) -> Tensor: ...
        def __rmod__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self.name} cannot be iterated over: its values exist only inside Session.run.")

    def __bool__(self) -> bool:
        raise TypeError(f"{self.name} is neither true nor false: its value exists only inside Session.run.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.name} is no array for NumPy: its value exists only inside Session.run. Take dtrain's "
            "function of the graph, such as dt.reduce_mean for np.mean, or what Session.run returns."
        )


class Tensor(TensorLike):
    """One output of one operation. Its value exists only inside Session.run.

    Args:
        op: the operation.
        index: its place among the operation's outputs.
        spec: its shape and dtype.
    """

    __slots__ = ("index", "op", "spec")
    op: Operation

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

    @property
    def device(self) -> str:
        """'': a session says on which device all of it runs."""
        return ""

    def get_shape(self) -> TensorShape:
        return self.shape

    def set_shape(self, shape: Any) -> None:
        """Say more of the static shape than was inferred.

        Raises:
            GraphError: it contradicts what is known.
        """
        dims = as_dims(shape)
        if not compatible(self.spec.shape, dims):
            raise GraphError(
                f"{self.name}: set_shape({shape_text(dims)}) contradicts its shape "
                f"{shape_text(self.spec.shape)}."
            )
        self.spec = Spec(merge(self.spec.shape, dims), self.spec.dtype)

    def consumers(self) -> list[Operation]:
        """The operations that read it."""
        return [o for o in self.graph.operations if self in o.inputs]

    def eval(self, feed_dict: Mapping[Any, Any] | None = None, session: Any = None) -> Any:
        """Its value: session.run(self, feed_dict), by default in the default session."""
        return session_for(self.graph, session, "eval()").run(self, feed_dict)

    def __str__(self) -> str:
        shape = shape_text(self.spec.shape)
        return f'Tensor("{self.name}", shape={shape}, dtype={self.dtype.name})'

    def __repr__(self) -> str:
        return f"<tf.Tensor '{self.name}' shape={shape_text(self.spec.shape)} dtype={self.dtype.name}>"


class Operation:
    """A node of the graph: what it computes, the tensors that it reads, and those that it makes.

    Args:
        graph: the graph it is in.
        name: its unique name there.
        kind: the op that it computes.
        inputs: tensors that it reads.
        control_inputs: operations that run before it and pass it no value.
        specs: shapes and dtypes of its outputs.
        source: the line of the user's program that made it.
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

    @property
    def device(self) -> str:
        """'': a session says on which device all of it runs."""
        return ""

    @property
    def node_def(self) -> NodeDef:
        """Its name, op, inputs and attributes as plain data."""
        from dtrain.graph.graph_def import node_def_of

        return node_def_of(self)

    def get_attr(self, name: str) -> Any:
        """One attribute of its op; raises UsageError, a ValueError, where there is none of this name."""
        attr = self.node_def.attr
        if name not in attr:
            raise UsageError(f"{self.name} has no attribute {name!r}; it has {', '.join(attr)}.")
        return attr[name]

    def values(self) -> tuple[Tensor, ...]:
        return self.outputs

    def run(self, feed_dict: Mapping[Any, Any] | None = None, session: Any = None) -> None:
        """session.run(self, feed_dict), by default in the default session."""
        session_for(self.graph, session, "run()").run(self, feed_dict)

    def __str__(self) -> str:
        return str(self.node_def)

    def __repr__(self) -> str:
        return f"<tf.Operation '{self.name}' type={self.type}>"


class _Here(threading.local):
    """Where in a graph this thread builds, as in TensorFlow 1: its name scope and control dependencies."""

    scope = ""
    control: tuple[Operation, ...] = ()
    draws = ""  # what random ops are counted by


class Graph:
    """A dataflow graph that grows by one operation a call and never loses one.

    Several threads may build it, each in scopes of its own, while others run it.

    lock: held while the graph changes, by whoever looks before it adds.
    captures: whether it takes tensors of other graphs, as that of a function within a graph does.
    """

    captures = False

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.here = _Here()
        self.operations: list[Operation] = []
        self.seed: int | None = None
        self.source = ""  # of nodes added now, where a pass builds them for a user's line
        self.collections: dict[str, list[Any]] = {}
        self._by_name: dict[str, Operation] = {}
        self._used: dict[str, int] = {}
        self.finalized = False
        self.kept: dict[str, Any] = {}  # what other parts keep with a graph, by their name

    # -- building --------------------------------------------------------------------------------------
    def add(
        self,
        kind: Op,
        inputs: tuple[Tensor, ...] = (),
        name: str | None = None,
        control_inputs: tuple[Operation, ...] = (),
    ) -> Operation:
        """Append an operation; its shapes and dtypes are inferred here, so a mismatch is an error here.

        A name that ends in '/' is what name_scope gave, and is taken as it is.

        Raises:
            GraphError: the inputs do not fit the op or belong to another graph.
            FailedPreconditionError: the graph is finalized.
        """
        name = name or type(kind).__name__
        if self.finalized:
            raise FailedPreconditionError(
                f"Graph is finalized and cannot be modified: {name} cannot be added. Build it before "
                "finalize()."
            )
        for tensor in inputs:
            if tensor.graph is not self:
                raise GraphError(
                    f"{name}: {tensor.name} belongs to another graph. Build both inside one "
                    "`with graph.as_default():` block."
                )
            if tensor.dtype.is_string and not kind.takes_strings:
                raise GraphError(f"{name} does not fit {tensor.name}, which is a string: only numbers do.")
        try:
            specs = kind.infer(*(t.spec for t in inputs))
        except GraphError as error:
            operands = " and ".join(f"{t.name} {t.spec}" for t in inputs)
            place = f" (at {line})" if (line := _user_line()) else ""  # none where dtrain adds the op
            raise GraphError(f"{name} does not fit {operands}: {error}{place}.") from None
        control = tuple(dict.fromkeys((*self.here.control, *control_inputs)))
        source = self.source or _user_line()
        with self.lock:
            full = name[:-1] if name.endswith("/") else self.unique_name(name)
            operation = Operation(self, full, kind, inputs, control, specs, source)
            self.operations.append(operation)
            self._by_name[full] = operation
        return operation

    def copy_of(
        self,
        node: Operation,
        inputs: tuple[Tensor, ...],
        control: tuple[Operation, ...],
        kind: Op | None = None,
    ) -> Operation:
        """Append a node of another graph under its own name; passes rebuild graphs with it.

        kind: another op of the same outputs.
        """
        specs = [t.spec for t in node.outputs]
        copy = Operation(self, node.name, kind or node.kind, inputs, control, specs, node.source)
        self.operations.append(copy)
        return copy

    def unique_name(self, name: str, mark_as_used: bool = True) -> str:
        """The name inside the current scope, with _1, _2 ... where it is taken, as in TensorFlow 1."""
        full = self.here.scope + name
        with self.lock:
            count = self._used.get(full, 0)
            candidate = f"{full}_{count}" if count else full
            while count and candidate in self._used:
                count += 1
                candidate = f"{full}_{count}"
            if mark_as_used:
                self._used[full] = count + 1
                self._used.setdefault(candidate, 1)
        return candidate

    @contextmanager
    def name_scope(self, name: str | None) -> Iterator[str]:
        """Prefix the names made inside; entering a name again makes 'name_1'. '' or None is the root.

        What `as` gave, which ends in '/', enters that very scope again.
        """
        here, outer = self.here, self.here.scope
        if name and name.endswith("/"):
            here.scope = name
        else:
            here.scope = self.unique_name(name) + "/" if name else ""
        try:
            yield here.scope
        finally:
            here.scope = outer

    @contextmanager
    def control_dependencies(self, operations: Iterable[Any] | None) -> Iterator[None]:
        """Make the operations built inside run after these; None lifts what the blocks around ask for."""
        here, outer = self.here, self.here.control
        here.control = () if operations is None else (*outer, *(as_operation(o) for o in operations))
        try:
            yield
        finally:
            here.control = outer

    @contextmanager
    def as_default(self) -> Iterator[Graph]:
        """Build inside into this graph."""
        stack = _stack()
        stack.append(self)
        try:
            yield self
        finally:
            del stack[len(stack) - 1 - stack[::-1].index(self)]

    @contextmanager
    def device(self, device_name_or_function: Any) -> Iterator[None]:
        """What is built inside runs where all of a session does: on the session's one device."""
        yield

    def finalize(self) -> None:
        """Let nothing more be added: a program that grows its graph in a loop then fails at that line."""
        self.finalized = True

    # -- looking ---------------------------------------------------------------------------------------
    @property
    def version(self) -> int:
        """A number that grows with every operation that is added."""
        return len(self.operations)

    def op_seed(self) -> int:
        """The seed of the random op that is added next, where it is given none: as in TensorFlow 1, its place
        in the graph; or its number among those of its kind, see counted_draws.

        Negative, where a seed that is given hardly is: two ops of one seed draw the same numbers.
        """
        if not (kind := self.here.draws):
            return -1 - len(self.operations)
        with self.lock:
            counts = self.kept.setdefault(_DRAWS, {})
            number = counts[kind] = counts.get(kind, -1) + 1
        return -1 - ((zlib.crc32(kind.encode()) << 30) + number)

    @contextmanager
    def counted_draws(self, kind: str) -> Iterator[None]:
        """Let the seeds of random ops not depend on what else is in the graph: they count among this kind."""
        here, outer = self.here, self.here.draws
        here.draws = kind
        try:
            yield
        finally:
            here.draws = outer

    def as_graph_def(self) -> GraphDef:
        """The graph as plain data: `.node` lists each operation's name, op, input and attr."""
        from dtrain.graph.graph_def import graph_def_of

        return graph_def_of(self.operations)

    def get_name_scope(self) -> str:
        """The current scope, without the '/' at its end."""
        return self.here.scope.rstrip("/")

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

    def as_graph_element(
        self, obj: Any, allow_tensor: bool = True, allow_operation: bool = True
    ) -> Tensor | Operation:
        """The tensor or operation that a name, a variable or such an element itself stands for.

        Raises:
            KeyError: there is none of this name.
            GraphError: it is of another graph.
            TypeError: it stands for neither, or for the kind that is not allowed.
        """
        element = obj
        if isinstance(obj, str):
            element = self.get_tensor_by_name(obj) if ":" in obj else self.get_operation_by_name(obj)
        elif isinstance(obj, TensorLike) and not isinstance(obj, Tensor):
            element = obj.value()  # type: ignore[attr-defined]  # it is a Variable
        if not (isinstance(element, Tensor) and allow_tensor) and not (
            isinstance(element, Operation) and allow_operation
        ):
            wanted = " or ".join(["a tensor"] * allow_tensor + ["an operation"] * allow_operation)
            raise TypeError(f"{obj!r} is not {wanted} of a graph, nor the name of one.")
        if element.graph is not self:
            raise GraphError(f"{element.name} is not an element of this graph.")
        return element

    def add_to_collection(self, name: str, value: Any) -> None:
        self.collections.setdefault(name, []).append(value)

    def add_to_collections(self, names: str | Iterable[str], value: Any) -> None:
        """Add to several collections, to each once."""
        for name in dict.fromkeys([names] if isinstance(names, str) else names):
            self.add_to_collection(name, value)

    def get_collection(self, name: str, scope: str | None = None) -> list[Any]:
        """A copy; with a scope only what has a name that the regular expression matches at its start."""
        return in_scope(self.collections.get(name, ()), scope)

    def get_collection_ref(self, name: str) -> list[Any]:
        """The list itself: what is done to it is done to the collection."""
        return self.collections.setdefault(name, [])

    def clear_collection(self, name: str) -> None:
        self.collections.pop(name, None)

    def get_all_collection_keys(self) -> list[str]:
        return [name for name, values in list(self.collections.items()) if values]


def as_operation(value: Any) -> Operation:
    """The operation of an Operation, a Tensor or a Variable."""
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
    """The graph to which new operations are added."""
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
    """`with name_scope("layer1"):` the names made inside start with 'layer1/'.

    Args:
        name: the scope; one that ends in '/' is entered again, None takes default_name.
        default_name: the scope where name is None.
        values: accepted for TensorFlow 1; without effect.
    """
    return get_default_graph().name_scope(name or default_name)


def control_dependencies(operations: Iterable[Any] | None) -> Any:
    """`with control_dependencies([a, b]):` operations built inside run after these.

    Args:
        operations: operations or tensors; None lifts the dependencies of the blocks around.
    """
    return get_default_graph().control_dependencies(operations)


def add_to_collection(name: str, value: Any) -> None:
    """Append a value to a collection of the default graph.

    Args:
        name: the collection, such as dt.GraphKeys.LOSSES.
        value: any object.
    """
    get_default_graph().add_to_collection(name, value)


def add_to_collections(names: str | Iterable[str], value: Any) -> None:
    """Append a value to several collections of the default graph.

    Args:
        names: names of the collections, or one name.
        value: any object.
    """
    get_default_graph().add_to_collections(names, value)


def get_collection(key: str, scope: str | None = None) -> list[Any]:
    """The values in a collection of the default graph, as a new list.

    Args:
        key: name of the collection.
        scope: only values whose name starts with a match of this regular expression.
    """
    return get_default_graph().get_collection(key, scope)


def get_collection_ref(key: str) -> list[Any]:
    """A collection of the default graph itself: changes of the list change the collection.

    Args:
        key: name of the collection.
    """
    return get_default_graph().get_collection_ref(key)


# -- the default session ---------------------------------------------------------------------------------
def session_stack() -> list[Any]:
    """The sessions that are the default one inside one another, on this thread."""
    if not hasattr(_local, "sessions"):
        _local.sessions = []
    return _local.sessions


def get_default_session() -> Any:
    """The session whose `with` block is active in this thread, or None."""
    stack = session_stack()
    return stack[-1] if stack else None


#: Under this name the graph of a Keras model keeps what gives its session, with weights in it: a WeakMethod.
READY = "ready"


def session_for(graph: Graph, session: Any, what: str) -> Any:
    """The session given, or the default one, or that of the Keras model whose graph it is.

    Raises:
        UsageError: there is none, or it runs another graph.
    """
    session = session if session is not None else get_default_session()
    ready = graph.kept.get(READY)
    if ready is not None and (session is None or session.graph is not graph):
        session = ready()()
    if session is None:
        raise UsageError(
            f"Cannot use the default session for {what}: there is none. Write `with dt.Session():` around "
            "it, or give session=."
        )
    if session.graph is not graph:
        raise UsageError(f"Cannot use the session for {what}: it runs another graph.")
    return session


def set_random_seed(seed: int | None) -> None:
    """Make all random ops of the default graph reproducible, on any number of ranks.

    Args:
        seed: an int; None makes each run different.
    """
    get_default_graph().seed = None if seed is None else int(seed)


def built(node: Operation) -> str:
    """Where a node was built, for a message; '' where dtrain's own command did it."""
    return f" (built at {node.source})" if node.source else ""


def _user_line() -> str:
    """'file.py:12' of the nearest caller outside dtrain: what an error can point at; '' for the command."""
    frame: FrameType | None = sys._getframe(2)
    inside = frame
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        inside, frame = frame, frame.f_back
    if inside is not None and inside.f_code.co_filename.startswith(_COMMAND):
        return ""  # only the script that starts it lies outside
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
