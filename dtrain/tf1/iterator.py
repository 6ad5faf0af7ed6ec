"""tf.data.Iterator: where a session is in a data set, and how it takes the next element."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.errors import FailedPreconditionError, InvalidArgumentError, OutOfRangeError, UsageError
from dtrain.graph.dtypes import DType, as_dtype, string
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import TensorShape, as_dims, compatible
from dtrain.ops.base import Const, convert_to_tensor
from dtrain.ops.sources import add_source, start, taken
from dtrain.runtime.batch import Batch
from dtrain.runtime.feeds import Shard, as_fed
from dtrain.tf1.chunks import Chunk
from dtrain.tf1.nest import flat, is_structure, mapped, packed

if TYPE_CHECKING:
    from dtrain.tf1.dataset import Dataset


class Context:
    """What a pass over a data set needs: values of tensors, random numbers, and what its steps keep."""

    def __init__(self, draws: Any, values: dict[Tensor, np.ndarray], name: str) -> None:
        # not the session, which would then live as long as its graph
        self._draws, self.values, self._name = draws, values, name
        self.kept: dict[Any, Any] = {}

    def value(self, source: Any) -> np.ndarray:
        """The array that a tensor stands for; an array itself."""
        if not isinstance(source, Tensor):
            return source
        kind = source.op.kind
        return kind.value.array if isinstance(kind, Const) else self.values[source]

    def number(self, source: Any) -> int:
        return int(self.value(source))

    def stream(self, name: str, seed: int) -> Callable[[], np.random.Generator]:
        """The generators of a step's next draws, the same on all ranks."""
        return self._draws.stream(f"{self._name}/{name}", seed)

    def inside(self, values: dict[Tensor, np.ndarray]) -> Context:
        """The same for a data set that a function made of an element."""
        inner = Context(self._draws, self.values | values, self._name)
        inner.kept = self.kept
        return inner


class _Pass:
    """Where a session is in a data set."""

    def __init__(self, dataset: Dataset, context: Context) -> None:
        self._chunks = dataset._chunks(context)
        self._chunk: Chunk = []
        self._next = 0
        self._batched, self.outside = dataset._batched, dataset._outside

    def element(self) -> list[Any]:
        """The parts of the next element. Raises OutOfRangeError."""
        while not self._chunk or self._next == len(self._chunk[0]):
            try:
                self._chunk, self._next = next(self._chunks), 0
            except StopIteration:
                raise OutOfRangeError("End of sequence: the iterator has no more elements.") from None
        at, self._next = self._next, self._next + 1
        return [self._part(column[at]) for column in self._chunk]

    def _part(self, value: Any) -> Any:
        if self._batched and isinstance(value, np.ndarray) and value.ndim and value.dtype != object:
            return value.view(Batch)
        return value


class Iterator:
    """Gives the elements of a data set, one for each run that needs what get_next returned.

    `initializer` begins a pass over its data set; make_initializer(dataset) over another of such elements.
    """

    def __init__(
        self,
        structure: Any,
        dataset: Dataset | None = None,
        begins: bool = False,
        handle: Tensor | None = None,
    ) -> None:
        self._structure, self._begins, self._handle = structure, begins, handle
        self._datasets: list[Dataset] = [] if dataset is None else [dataset]
        self._passes: weakref.WeakKeyDictionary[Any, _Pass] = weakref.WeakKeyDictionary()
        self._name = add_source("Iterator", self)
        self._initializer: Operation | None = None
        if dataset is not None and not begins:
            self._initializer = start(self._name, "MakeIterator", 0)

    @staticmethod
    def from_structure(
        output_types: Any,
        output_shapes: Any = None,
        shared_name: str | None = None,
        output_classes: Any = None,
    ) -> Iterator:
        """An iterator over whatever data set of such elements make_initializer is given."""
        return Iterator(structure_of(output_types, output_shapes))

    @staticmethod
    def from_string_handle(
        string_handle: Any, output_types: Any, output_shapes: Any = None, output_classes: Any = None
    ) -> Iterator:
        """The iterator whose string_handle is fed at the run."""
        return Iterator(structure_of(output_types, output_shapes), handle=convert_to_tensor(string_handle))

    @property
    def initializer(self) -> Operation:
        """The operation that begins a pass over the data set that the iterator was made of."""
        if self._initializer is None:
            raise UsageError(
                "this iterator has no initializer: it begins by itself, or takes make_initializer(dataset)."
            )
        return self._initializer

    def make_initializer(self, dataset: Dataset, name: str | None = None) -> Operation:
        """An operation that begins a pass over a data set."""
        mine, other = flat(self._structure), flat(dataset._structure)
        fits = len(mine) == len(other) and all(
            a.dtype == b.dtype and compatible(a.shape, b.shape) for a, b in zip(mine, other, strict=True)
        )
        if not fits:
            raise UsageError(f"make_initializer: the elements of {dataset} are not the iterator's {mine}.")
        self._datasets.append(dataset)
        return start(self._name, name or "MakeIterator", len(self._datasets) - 1)

    def get_next(self, name: str | None = None) -> Any:
        """The tensors of the next element, in its structure; each run that needs them takes one."""
        specs = flat(self._structure)
        tensors = taken(
            self._name, [s.shape for s in specs], [s.dtype for s in specs], name or "IteratorGetNext"
        )
        return packed(self._structure, tensors)

    def string_handle(self, name: str | None = None) -> Tensor:
        """What is fed to use it where Iterator.from_string_handle was given a placeholder."""
        return convert_to_tensor(self._name.encode(), name=name or "IteratorToStringHandle")

    @property
    def output_types(self) -> Any:
        """The dtypes of an element, in its structure."""
        return mapped(lambda spec: spec.dtype, self._structure)

    @property
    def output_shapes(self) -> Any:
        """The shapes of an element, in its structure."""
        return mapped(lambda spec: TensorShape(spec.shape), self._structure)

    @property
    def output_classes(self) -> Any:
        """Tensor for each part of an element."""
        return mapped(lambda spec: Tensor, self._structure)

    @property
    def dataset(self) -> Dataset:
        """The data set that it was made of."""
        return self._datasets[0]

    # -- as a source of a session (ops/sources.py) -------------------------------------------------------
    def start(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> None:
        dataset = self._datasets[argument]
        values: dict[Tensor, np.ndarray] = {}
        missing = []
        for tensor in dict.fromkeys(dataset._tensors()):
            if tensor not in feeds:
                missing.append(tensor)
                continue
            if isinstance(feeds[tensor], Shard):
                raise InvalidArgumentError(
                    f"{tensor.name}: a data set is fed whole arrays, the same on all ranks."
                )
            values[tensor] = np.asarray(as_fed(tensor, feeds[tensor]))
        if missing:
            found = session.run(missing, dict(feeds))
            values |= {t: np.asarray(v) for t, v in zip(missing, found, strict=True)}
        self._passes[session] = _Pass(dataset, Context(session.draws, values, self._name))

    def take(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> Sequence[Any]:
        if self._handle is not None:
            handle = feeds[self._handle] if self._handle in feeds else session.run(self._handle)
            name = handle.decode() if isinstance(handle, bytes) else str(np.asarray(handle)[()])
            other = session.graph.kept["sources"].get(name)
            if not isinstance(other, Iterator):
                raise InvalidArgumentError(
                    f"{name!r} is no iterator's handle: feed session.run(iterator.string_handle())."
                )
            return other.take(session, feeds, argument)
        if session not in self._passes:
            if not self._begins:
                raise FailedPreconditionError(
                    "GetNext() failed because the iterator has not been initialized: run its initializer "
                    "(iterator.initializer, or what make_initializer returned) first."
                )
            self.start(session, {}, 0)
        one = self._passes[session]
        with session.comm.together() if one.outside and session.comm.size > 1 else nullcontext():
            try:
                return one.element()
            except OutOfRangeError as error:
                error.agreed = not one.outside
                raise

    def put(self, session: Any, values: Sequence[Any], argument: Any) -> None:
        raise AssertionError("nothing is put into a data set")


# -- what elements are ------------------------------------------------------------------------------------
def as_string_too(dtype: Any) -> DType:
    """as_dtype, which also knows strings."""
    return string if dtype in (string, str, bytes, "string") else as_dtype(dtype)


def structure_of(types: Any, shapes: Any) -> Any:
    """Specs of elements, given their dtypes and (or None) their shapes."""
    dtypes = mapped(as_string_too, types)
    dims = [None] * len(flat(dtypes)) if shapes is None else shapes_of(shapes, dtypes)
    return packed(dtypes, [Spec(d, t) for d, t in zip(dims, flat(dtypes), strict=True)])


def shapes_of(shapes: Any, like: Any) -> list[Any]:
    """The shapes of the parts of a structure: they may be lists or tuples of numbers, as sizes are."""
    if not is_structure(like):
        return [as_dims(shapes)]
    if isinstance(like, Mapping):
        return [d for key in sorted(like) for d in shapes_of(shapes[key], like[key])]
    if len(shapes) != len(like):
        raise UsageError(f"{len(shapes)} shapes for elements of {len(like)} parts.")
    return [d for part, of in zip(shapes, like, strict=True) for d in shapes_of(part, of)]
