"""tf.data: data sets as chains of steps, and iterators that feed a session their elements.

Elements travel in chunks, arrays with an axis more before those of an element, so that a step costs Python
little for each: `map` computes a chunk at once where its ops allow it (rows.py). The order of the elements is
the same on every rank; what `batch` made is marked as a batch, of which each rank computes its rows.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Iterator as Iterates
from contextlib import nullcontext
from typing import Any

import numpy as np

from dtrain.errors import (
    DataError,
    FailedPreconditionError,
    GraphError,
    InvalidArgumentError,
    OutOfRangeError,
    UsageError,
)
from dtrain.graph.dtypes import DType, as_dtype, bool_, int64, string
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import TensorShape, as_dims, compatible, merge
from dtrain.ops.base import Const, Placeholder, convert_to_tensor, to_array
from dtrain.ops.sources import add_source, start, taken
from dtrain.runtime.batch import Batch
from dtrain.runtime.feeds import Shard, as_fed
from dtrain.tf1.nest import flat, is_structure, mapped, packed
from dtrain.tf1.records import records_of
from dtrain.tf1.rows import FunctionGraph, Ragged, Rows, stacked

__all__ = [
    "Dataset",
    "FixedLengthRecordDataset",
    "Iterator",
    "TFRecordDataset",
    "TextLineDataset",
]

#: Some elements, one after another: an array [n, ...] for each part of an element.
Chunk = list[np.ndarray]

#: A chunk has at most so many elements, and bytes.
MOST_ELEMENTS, MOST_BYTES = 1024, 1 << 20

#: Arrays, and which of their entries are elements, one after another, as slices or arrays of numbers.
Picked = tuple[Chunk, Iterates[Any]]


class Context:
    """What a pass over a data set needs: values of tensors, random numbers, and what its steps keep."""

    def __init__(self, session: Any, values: dict[Tensor, np.ndarray], name: str) -> None:
        self._session, self.values, self._name = session, values, name
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
        """The generators of a step's next draws, alike on all ranks."""
        return self._session.draws.stream(f"{self._name}/{name}", seed)

    def inside(self, values: dict[Tensor, np.ndarray]) -> Context:
        """The same for a data set that a function made of an element."""
        inner = Context(self._session, self.values | values, self._name)
        inner.kept = self.kept
        return inner


class Dataset:
    """A chain of steps that gives elements: tensors, or tuples and dicts of them.

    structure: an element, of Specs. inputs: the data sets that it is made of. tensors: what has to have a
    value before a pass. batched: whether axis 0 of its elements counts examples. outside: whether it reads
    what may differ between the ranks.
    """

    def __init__(
        self,
        structure: Any,
        inputs: Sequence[Dataset] = (),
        tensors: Sequence[Any] = (),
        batched: bool | None = None,
        outside: bool = False,
    ) -> None:
        self._structure, self._inputs = structure, tuple(inputs)
        self._own = [t for t in tensors if isinstance(t, Tensor) and not isinstance(t.op.kind, Const)]
        self._batched = any(i._batched for i in inputs) if batched is None else batched
        self._outside = outside or any(i._outside for i in inputs)
        graph = get_default_graph()
        self._number = graph.kept["datasets"] = graph.kept.get("datasets", 0) + 1

    # -- what an element is ----------------------------------------------------------------------------
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} shapes: {self.output_shapes}, types: {self.output_types}>"

    # -- its elements ----------------------------------------------------------------------------------
    def _chunks(self, context: Context) -> Iterates[Chunk]:
        """The elements of a pass."""
        raise NotImplementedError

    def _picked(self, context: Context) -> Picked | None:
        """The elements of a pass where all are picked of arrays: those, and which of their entries."""
        return None

    def _tensors(self) -> list[Tensor]:
        """The tensors that a pass needs the values of."""
        return [*self._own, *(t for i in self._inputs for t in i._tensors())]

    # -- where they come from ----------------------------------------------------------------------------
    @staticmethod
    def from_tensor_slices(tensors: Any) -> Dataset:
        """An element for each entry of axis 0 of arrays or tensors, which may be tuples or dicts of them."""
        return _Slices(tensors)

    @staticmethod
    def from_tensors(tensors: Any) -> Dataset:
        """One element: all of it."""
        return _Slices(tensors, whole=True)

    @staticmethod
    def from_generator(
        generator: Callable[..., Any], output_types: Any, output_shapes: Any = None, args: Any = None
    ) -> Dataset:
        """What generator(*args) yields; each pass calls it anew, on every rank alike."""
        return _Generated(generator, output_types, output_shapes, args or ())

    @staticmethod
    def range(*args: Any) -> Dataset:
        """The int64 numbers of Python's range(*args)."""
        return _Range(args)

    @staticmethod
    def zip(datasets: Any) -> Dataset:
        """Elements made of one of each data set of a tuple or dict, as many as the shortest has."""
        return _Zipped(datasets)

    @staticmethod
    def list_files(file_pattern: Any, shuffle: bool | None = True, seed: int | None = None) -> Dataset:
        """The names of the files that match; shuffle: in another order at each pass."""
        files: Dataset = _Files(file_pattern)
        return files.shuffle(1 << 30, seed) if shuffle is None or shuffle else files

    # -- steps -------------------------------------------------------------------------------------------
    def map(self, map_func: Callable[..., Any], num_parallel_calls: Any = None) -> Dataset:
        """map_func of each element. num_parallel_calls: how it is computed, so nothing here."""
        return _Mapped(self, Function(map_func, self._structure, self))

    def filter(self, predicate: Callable[..., Any]) -> Dataset:
        """The elements for which predicate, a scalar bool, is true."""
        return _Filtered(self, Function(predicate, self._structure, self))

    def flat_map(self, map_func: Callable[..., Any]) -> Dataset:
        """The elements of the data sets that map_func makes of each element, one after another."""
        return self.interleave(map_func, 1)

    def interleave(
        self,
        map_func: Callable[..., Any],
        cycle_length: Any,
        block_length: Any = 1,
        num_parallel_calls: Any = None,
    ) -> Dataset:
        """flat_map of cycle_length elements at a time, which give block_length elements in turn."""
        return _Interleaved(self, Function(map_func, self._structure, self), cycle_length, block_length)

    def batch(self, batch_size: Any, drop_remainder: Any = False) -> Dataset:
        """Elements of batch_size elements; the last may have fewer unless drop_remainder."""
        return _Batched(self, batch_size, drop_remainder)

    def padded_batch(
        self, batch_size: Any, padded_shapes: Any, padding_values: Any = None, drop_remainder: Any = False
    ) -> Dataset:
        """batch of elements that are first padded at the ends: to padded_shapes, or the longest (None)."""
        return _Padded(self, batch_size, drop_remainder, padded_shapes, padding_values)

    def shuffle(
        self, buffer_size: Any, seed: int | None = None, reshuffle_each_iteration: bool | None = None
    ) -> Dataset:
        """Each element is drawn of the next buffer_size ones; another order at each pass, by default."""
        return _Shuffled(self, buffer_size, seed, reshuffle_each_iteration is not False)

    def repeat(self, count: Any = None) -> Dataset:
        """count passes, by default without an end."""
        return _Repeated(self, count)

    def prefetch(self, buffer_size: Any) -> Dataset:
        """The same elements; they are made when they are needed."""
        return _Same(self)

    def take(self, count: Any) -> Dataset:
        """The first count elements; -1: all."""
        return _Taken(self, count)

    def skip(self, count: Any) -> Dataset:
        """All but the first count elements; -1: none."""
        return _Skipped(self, count)

    def concatenate(self, dataset: Dataset) -> Dataset:
        """These elements, and behind them those of another data set."""
        return _Joined(self, dataset)

    def shard(self, num_shards: Any, index: Any) -> Dataset:
        """Every num_shards-th element, from the index-th on. Not what splits work among ranks."""
        return _Sharded(self, num_shards, index)

    def cache(self, filename: str = "") -> Dataset:
        """Keep the elements of the first pass in memory for the others of an iterator."""
        if filename:
            raise UsageError("Dataset.cache: elements are kept in memory: leave the file name out.")
        return _Cached(self)

    def apply(self, transformation_func: Callable[[Dataset], Dataset]) -> Dataset:
        """transformation_func(self)."""
        return transformation_func(self)

    # -- iterators ---------------------------------------------------------------------------------------
    def make_one_shot_iterator(self) -> Iterator:
        """An iterator over one pass, which begins by itself."""
        if placeholders := [t.name for t in self._tensors() if isinstance(t.op.kind, Placeholder)]:
            raise UsageError(
                f"make_one_shot_iterator: {', '.join(placeholders)} has to be fed when a pass begins: take "
                "make_initializable_iterator(), and run its initializer with feed_dict."
            )
        return Iterator(self._structure, self, begins=True)

    def make_initializable_iterator(self, shared_name: str | None = None) -> Iterator:
        """An iterator whose passes begin where its `initializer` is run."""
        return Iterator(self._structure, self)


class Function:
    """A function of an element, built once into a graph of its own.

    result: what it returned, with tensors of that graph, or a Dataset.
    """

    def __init__(self, function: Callable[..., Any], structure: Any, dataset: Dataset) -> None:
        outer = get_default_graph()
        self._graph = graph = FunctionGraph(outer.seed)
        graph.kept["datasets"] = 1000 * dataset._number
        with graph.as_default():
            self.inputs = [
                graph.add(Placeholder(spec.shape, spec.dtype), (), "arg").outputs[0]
                for spec in flat(structure)
            ]
            element = packed(structure, self.inputs)
            self.result = function(*element) if isinstance(element, tuple) else function(element)
            if isinstance(self.result, Dataset):
                outputs = [t if t.graph is graph else graph.own(t) for t in self.result._tensors()]
                self._needs = self.result._tensors()
            else:
                self.result = mapped(lambda value: graph.own(convert_to_tensor(value)), self.result)
                outputs = self._needs = flat(self.result)
        if not outputs and not isinstance(self.result, Dataset):
            raise GraphError("the function of a data set returned nothing: it has to return tensors.")
        self._rows = Rows(self.inputs, outputs)

    @property
    def structure(self) -> Any:
        return mapped(lambda tensor: tensor.spec, self.result)

    @property
    def draws(self) -> bool:
        """Whether it has random numbers, or does what may be something else each time."""
        return any(node.kind.draws for node in self._graph.operations)

    @property
    def captured(self) -> list[Tensor]:
        """The tensors outside that it uses."""
        return [t for t in self._graph.captured if not isinstance(t.op.kind, Const)]

    def __call__(self, chunk: Chunk, context: Context, number: int) -> Iterates[Chunk]:
        """Its results for the elements of a chunk: in one chunk, or one each where their shapes differ."""
        captured = {
            inner: context.value(outer)
            for outer, inner in self._graph.captured.items()
            if not isinstance(outer.op.kind, Const)
        }

        def streams(name: str, seed: int) -> Callable[[], np.random.Generator]:
            # the seed of an op that has none is its place in this graph, as in other functions' graphs
            return context.stream(f"{number}/{name}", seed - 1_000_000 * number if seed < 0 else seed)

        try:
            yield self._rows(chunk, captured, streams)
        except Ragged:
            for i in range(len(chunk[0])):
                yield self._rows([column[i : i + 1] for column in chunk], captured, streams)

    def dataset(self, element: Chunk, context: Context, number: int) -> Iterates[Chunk]:
        """The chunks of the data set that it makes of an element, given as a chunk of one."""
        values: dict[Tensor, np.ndarray] = {}
        if self._needs:
            for (*columns,) in self(element, context, number):
                values = {t: column[0] for t, column in zip(self._needs, columns, strict=True)}
        return self.result._chunks(context.inside(values))


# -- where elements come from ----------------------------------------------------------------------------
class _Slices(Dataset):
    def __init__(self, tensors: Any, whole: bool = False) -> None:
        values = mapped(_as_source, tensors)
        self._columns, self._is_one = flat(values), whole
        if not self._columns:
            raise UsageError("a data set needs at least one array.")
        specs = [_spec_of(value) for value in self._columns]
        if not whole:
            if scalars := [spec for spec in specs if spec.shape == ()]:
                raise UsageError(f"from_tensor_slices: {scalars[0]} has no axis 0; take from_tensors.")
            lengths = {spec.shape[0] for spec in specs if spec.shape} - {None}
            if len(lengths) > 1:
                raise UsageError(
                    f"from_tensor_slices: the arrays have {', '.join(map(str, sorted(lengths)))} entries; "  # type: ignore
                    "all need the same number."
                )
            specs = [Spec(spec.shape and spec.shape[1:], spec.dtype) for spec in specs]
        super().__init__(packed(values, specs), (), self._columns, False)

    def _whole(self, context: Context) -> Chunk:
        columns = [context.value(column) for column in self._columns]
        if self._is_one:
            return [stacked([column]) for column in columns]
        if len({len(column) for column in columns}) > 1:
            raise InvalidArgumentError(
                f"from_tensor_slices: arrays of {[len(c) for c in columns]} entries; all need the same."
            )
        return columns

    def _picked(self, context: Context) -> Picked:
        columns = self._whole(context)
        n, most = len(columns[0]), _most(columns)
        return columns, (slice(i, min(i + most, n)) for i in range(0, n, most))

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return _gathered(self._picked(context))


class _Range(Dataset):
    def __init__(self, args: Sequence[Any]) -> None:
        if not 1 <= len(args) <= 3:
            raise UsageError("Dataset.range takes a stop, or a start, a stop and a step.")
        self._args = [_as_source(a) for a in args]
        super().__init__(Spec((), int64), (), self._args, False)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return _cut([np.arange(*(context.number(a) for a in self._args), dtype=np.int64)])


class _Generated(Dataset):
    def __init__(self, generator: Callable[..., Any], types: Any, shapes: Any, args: Sequence[Any]) -> None:
        if not callable(generator):
            raise UsageError("from_generator: generator has to be a function that makes one.")
        self._generator, self._args = generator, [_as_source(a) for a in args]
        dtypes = mapped(as_string_too, types)
        dims = [None] * len(flat(dtypes)) if shapes is None else _shapes_of(shapes, dtypes)
        specs = [Spec(d, t) for d, t in zip(dims, flat(dtypes), strict=True)]
        super().__init__(packed(dtypes, specs), (), self._args, False, outside=True)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        specs = flat(self._structure)
        for element in self._generator(*(context.value(a) for a in self._args)):
            parts = flat(element) if is_structure(self._structure) else [element]
            if len(parts) != len(specs):
                raise InvalidArgumentError(
                    f"from_generator: an element has {len(parts)} parts, and output_types {len(specs)}."
                )
            arrays = [_converted(part, spec.dtype) for part, spec in zip(parts, specs, strict=True)]
            for array, spec in zip(arrays, specs, strict=True):
                if not compatible(array.shape, spec.shape):
                    raise InvalidArgumentError(
                        f"from_generator: an element of shape {array.shape} does not fit {spec}."
                    )
            yield [stacked([array]) for array in arrays]


class _Files(Dataset):
    def __init__(self, pattern: Any) -> None:
        self._pattern = _as_source(pattern)
        super().__init__(Spec((), string), (), [self._pattern], False, outside=True)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        patterns = np.atleast_1d(context.value(self._pattern)).tolist()
        names = sorted({name for p in patterns for name in glob.glob(p.decode())})
        if not names:
            raise InvalidArgumentError(f"list_files: no files match {[p.decode() for p in patterns]}.")
        return _cut([to_array(names, string)])


class _OfFiles(Dataset):
    """Elements that are read from files, one after another."""

    def __init__(self, filenames: Any, compression_type: Any, structure: Any = None) -> None:
        if isinstance(filenames, Dataset):
            raise UsageError(
                f"{type(self).__name__}: give names of files, or flat_map the data set of names."
            )
        self._names, self._compression = _as_source(filenames), compression_type or ""
        if self._compression not in ("", "GZIP", "ZLIB"):
            raise UsageError(f"compression_type is {compression_type!r}; it is '', 'GZIP' or 'ZLIB'.")
        super().__init__(structure or Spec((), string), (), [self._names], False, outside=True)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        for name in np.atleast_1d(context.value(self._names)).tolist():
            elements = self._read(context, name.decode())
            while some := list(itertools.islice(elements, MOST_ELEMENTS)):
                yield [stacked(some)]

    def _content(self, name: str) -> bytes:
        try:
            with open(name, "rb") as file:
                data = file.read()
            if self._compression:
                return gzip.decompress(data) if self._compression == "GZIP" else zlib.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{type(self).__name__}: {name}: {error}") from None
        return data

    def _read(self, context: Context, name: str) -> Iterates[bytes]:
        raise NotImplementedError


class TextLineDataset(_OfFiles):
    """The lines of text files, as bytes without their ends."""

    def __init__(self, filenames: Any, compression_type: Any = None, buffer_size: Any = None) -> None:
        super().__init__(filenames, compression_type)

    def _read(self, context: Context, name: str) -> Iterates[bytes]:
        lines = self._content(name).split(b"\n")
        if not lines[-1]:
            lines.pop()
        return (line[:-1] if line.endswith(b"\r") else line for line in lines)


class FixedLengthRecordDataset(_OfFiles):
    """Records of record_bytes bytes, between a file's header and footer."""

    def __init__(
        self,
        filenames: Any,
        record_bytes: Any,
        header_bytes: Any = None,
        footer_bytes: Any = None,
        buffer_size: Any = None,
    ) -> None:
        super().__init__(filenames, None)
        self._sizes = [_as_source(n or 0) for n in (record_bytes, header_bytes, footer_bytes)]
        self._own += [t for t in self._sizes if isinstance(t, Tensor) and not isinstance(t.op.kind, Const)]

    def _read(self, context: Context, name: str) -> Iterates[bytes]:
        length, header, footer = (context.number(n) for n in self._sizes)
        data = self._content(name)
        body = data[header : len(data) - footer]
        if len(body) % length:
            raise DataError(f"{name}: its {len(body)} bytes are no records of {length}.")
        return (body[i : i + length] for i in range(0, len(body), length))


class TFRecordDataset(_OfFiles):
    """The records of TFRecord files, as bytes; their checksums are compared."""

    def __init__(
        self,
        filenames: Any,
        compression_type: Any = None,
        buffer_size: Any = None,
        num_parallel_reads: Any = None,
    ) -> None:
        super().__init__(filenames, compression_type)

    def _read(self, context: Context, name: str) -> Iterates[bytes]:
        return records_of(self._content(name), name)


class _Zipped(Dataset):
    def __init__(self, datasets: Any) -> None:
        inputs = flat(datasets)
        if not inputs or not all(isinstance(d, Dataset) for d in inputs):
            raise UsageError("Dataset.zip takes a tuple or dict of data sets.")
        super().__init__(mapped(lambda d: d._structure, datasets), inputs)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        streams = [i._chunks(context) for i in self._inputs]
        left: list[Chunk] = [[np.empty(0)] for _ in streams]
        while True:
            for i, stream in enumerate(streams):
                while not len(left[i][0]):
                    chunk = next(stream, None)
                    if chunk is None:
                        return
                    left[i] = chunk
            n = min(len(part[0]) for part in left)
            yield [column[:n] for part in left for column in part]
            left = [[column[n:] for column in part] for part in left]


# -- steps -----------------------------------------------------------------------------------------------
class _Step(Dataset):
    """A data set made of one other, with numbers that may be tensors."""

    def __init__(self, of: Dataset, numbers: Sequence[Any] = (), structure: Any = None, **about: Any) -> None:
        self._of, self._numbers = of, [_as_source(n) for n in numbers]
        super().__init__(of._structure if structure is None else structure, [of], self._numbers, **about)


class _Same(_Step):
    def _picked(self, context: Context) -> Picked | None:
        return self._of._picked(context)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return self._of._chunks(context)


class _Calling(_Step):
    """A step that calls a function."""

    def __init__(self, of: Dataset, function: Function, structure: Any, numbers: Sequence[Any] = ()) -> None:
        self._function = function
        super().__init__(of, numbers, structure)

    def _tensors(self) -> list[Tensor]:
        return [*super()._tensors(), *self._function.captured]


class _Mapped(_Calling):
    def __init__(self, of: Dataset, function: Function) -> None:
        if isinstance(function.result, Dataset):
            raise UsageError("Dataset.map: the function returned a data set: take flat_map.")
        super().__init__(of, function, function.structure)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        for chunk in self._of._chunks(context):
            yield from self._function(chunk, context, self._number)

    # a function without random numbers gives the same of elements in another order, which costs less to make
    def shuffle(
        self, buffer_size: Any, seed: int | None = None, reshuffle_each_iteration: bool | None = None
    ) -> Dataset:
        if self._function.draws:
            return super().shuffle(buffer_size, seed, reshuffle_each_iteration)
        return _Mapped(self._of.shuffle(buffer_size, seed, reshuffle_each_iteration), self._function)

    def repeat(self, count: Any = None) -> Dataset:
        return (
            super().repeat(count) if self._function.draws else _Mapped(self._of.repeat(count), self._function)
        )


class _Filtered(_Calling):
    def __init__(self, of: Dataset, function: Function) -> None:
        answer = function.structure
        if is_structure(answer) or answer.dtype != bool_ or answer.shape not in ((), None):
            raise UsageError(f"Dataset.filter: the function has to return one bool, and returns {answer}.")
        super().__init__(of, function, of._structure)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        for chunk in self._of._chunks(context):
            keeps = np.concatenate([part[0] for part in self._function(chunk, context, self._number)])
            if keeps.any():
                yield [column[keeps] for column in chunk]


class _Interleaved(_Calling):
    def __init__(self, of: Dataset, function: Function, cycle: Any, block: Any) -> None:
        if not isinstance(function.result, Dataset):
            raise UsageError("flat_map and interleave: the function has to return a data set; take map.")
        super().__init__(of, function, function.result._structure, [cycle, block])
        self._batched, self._outside = function.result._batched, of._outside or function.result._outside

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        cycle, block = (context.number(n) for n in self._numbers)
        elements = (
            [column[i : i + 1] for column in chunk]
            for chunk in self._of._chunks(context)
            for i in range(len(chunk[0]))
        )
        begun = (self._function.dataset(element, context, self._number) for element in elements)
        if cycle == 1:
            for chunks in begun:
                yield from chunks
            return
        turns = [_Pieces(chunks) for chunks in itertools.islice(begun, cycle)]
        while turns:
            for turn in list(turns):
                taken, given = 0, 0
                while taken < block and (chunk := turn.next(block - taken)) is not None:
                    taken += len(chunk[0])
                    given += 1
                    yield chunk
                if taken < block:  # it has ended: another takes its place
                    at = turns.index(turn)
                    turns[at : at + 1] = [_Pieces(chunks) for chunks in itertools.islice(begun, 1)]


class _Pieces:
    """Chunks in pieces of at most so many elements."""

    def __init__(self, chunks: Iterates[Chunk]) -> None:
        self._chunks, self._left = chunks, [np.empty(0)]

    def next(self, most: int) -> Chunk | None:
        """Up to `most` elements; None at the end."""
        while not len(self._left[0]):
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._left = chunk
        piece = [column[:most] for column in self._left]
        self._left = [column[most:] for column in self._left]
        return piece


class _Batched(_Step):
    def __init__(self, of: Dataset, batch_size: Any, drop_remainder: Any, structure: Any = None) -> None:
        if not isinstance(drop_remainder, bool | np.bool_):
            raise UsageError("batch: drop_remainder has to be True or False.")
        self._drops = bool(drop_remainder)
        size = int(batch_size) if self._drops and not isinstance(batch_size, TensorLike) else None
        if structure is None:
            structure = of._structure

        def wider(spec: Spec) -> Spec:
            return Spec(None if spec.shape is None else (size, *spec.shape), spec.dtype)

        super().__init__(of, [batch_size], mapped(wider, structure), batched=True)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        size = context.number(self._numbers[0])
        if size < 1:
            raise InvalidArgumentError(f"batch: batch_size is {size}; it has to be positive.")
        picked = self._of._picked(context)
        if picked is not None:  # a batch is gathered as one
            columns, numbers = picked
            for which in _in_lots(numbers, size):
                if _count(which) == size or not self._drops:
                    yield self._joined([[column[which] for column in columns]])
            return
        pieces = _Pieces(self._of._chunks(context))
        parts: list[Chunk] = []
        count = 0
        while (piece := pieces.next(size - count)) is not None:
            parts.append(piece)
            count += len(piece[0])
            if count == size:
                yield self._joined(parts)
                parts, count = [], 0
        if parts and not self._drops:
            yield self._joined(parts)

    def _joined(self, parts: Sequence[Chunk]) -> Chunk:
        columns = list(zip(*parts, strict=True))
        if odd := next((c for c in columns if len({x.shape[1:] for x in c}) > 1), None):
            shapes = [x.shape[1:] for x in odd]
            other = next(s for s in shapes if s != shapes[0])
            raise InvalidArgumentError(
                f"Cannot batch tensors with different shapes, such as {list(shapes[0])} and {list(other)}: "
                "give the elements one shape in map, or take padded_batch."
            )
        return [(c[0] if len(c) == 1 else np.concatenate(c))[None] for c in columns]


class _Padded(_Batched):
    def __init__(
        self, of: Dataset, batch_size: Any, drop_remainder: Any, shapes: Any, values: Any = None
    ) -> None:
        dims = _shapes_of(shapes, of._structure)
        specs = flat(of._structure)
        self._dims = dims
        fills = [None] * len(dims) if values is None else flat(values)
        self._fills = [
            (b"" if s.dtype.is_string else 0) if f is None else f for f, s in zip(fills, specs, strict=True)
        ]
        structure = packed(of._structure, [Spec(d, s.dtype) for d, s in zip(dims, specs, strict=True)])
        super().__init__(of, batch_size, drop_remainder, structure)

    def _joined(self, parts: Sequence[Chunk]) -> Chunk:
        batch = []
        for column, dims, fill in zip(zip(*parts, strict=True), self._dims, self._fills, strict=True):
            longest = np.max([part.shape[1:] for part in column], 0).astype(int)
            shape = [
                n if d is None else d for n, d in zip(longest, dims or [None] * len(longest), strict=True)
            ]
            if any(n > d for n, d in zip(longest, shape, strict=True)):
                raise InvalidArgumentError(f"padded_batch: an element of {list(longest)} is not in {shape}.")
            whole = np.full((sum(map(len, column)), *shape), fill, column[0].dtype)
            row = 0
            for part in column:
                whole[(slice(row, row + len(part)), *(slice(n) for n in part.shape[1:]))] = part
                row += len(part)
            batch.append(whole[None])
        return batch


class _Shuffled(_Step):
    def __init__(self, of: Dataset, buffer_size: Any, seed: Any, anew: bool) -> None:
        self._anew = anew
        super().__init__(of, [buffer_size, 0 if seed is None else seed])
        self._has_seed = seed is not None

    def _random(self, context: Context) -> np.random.Generator:
        seed = context.number(self._numbers[1]) if self._has_seed else -self._number
        stream = context.stream(f"shuffle{self._number}", seed)
        if self._anew:
            return stream()
        if self not in context.kept:
            context.kept[self] = int(stream().integers(1 << 62))
        return np.random.Generator(np.random.Philox(context.kept[self]))

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        size, random = context.number(self._numbers[0]), self._random(context)
        if size < 1:
            raise InvalidArgumentError(f"shuffle: buffer_size is {size}; it has to be positive.")
        picked = self._of._picked(context)
        if picked is not None:
            yield from _gathered(self._in_order(*picked, size, random))
            return
        places = ((chunk, i) for chunk in self._of._chunks(context) for i in range(len(chunk[0])))
        chosen: list[tuple[Chunk, int]] = []
        for place in _drawn(places, size, random):
            chosen.append(place)
            if len(chosen) == _most(place[0]):
                yield from _collected(chosen)
                chosen = []
        if chosen:
            yield from _collected(chosen)

    def _picked(self, context: Context) -> Picked | None:
        if (picked := self._of._picked(context)) is None:
            return None
        return self._in_order(*picked, context.number(self._numbers[0]), self._random(context))

    def _in_order(self, columns: Chunk, numbers: Iterates[Any], size: int, random: Any) -> Picked:
        most = _most(columns)

        def lots() -> Iterates[np.ndarray]:
            every = (i for which in numbers for i in _listed(which))
            drawn = _drawn(every, size, random)
            while lot := list(itertools.islice(drawn, most)):
                yield np.array(lot)

        return columns, lots()


class _Repeated(_Step):
    def __init__(self, of: Dataset, count: Any) -> None:
        super().__init__(of, [-1 if count is None else count])

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return self._passes(context, self._of._chunks)

    def _picked(self, context: Context) -> Picked | None:
        if (first := self._of._picked(context)) is None:
            return None
        return first[0], self._passes(context, lambda c: self._of._picked(c)[1])  # type: ignore[index]

    def _passes(self, context: Context, one: Callable[[Context], Iterates[Any]]) -> Iterates[Any]:
        count = context.number(self._numbers[0])
        for _ in itertools.count() if count < 0 else range(count):
            empty = True
            for some in one(context):
                empty = False
                yield some
            if empty:
                return


class _Taken(_Step):
    def __init__(self, of: Dataset, count: Any) -> None:
        super().__init__(of, [count])

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        left = context.number(self._numbers[0])
        if left < 0:
            yield from self._of._chunks(context)
        if left > 0:
            for chunk in self._of._chunks(context):
                yield [column[:left] for column in chunk]
                left -= len(chunk[0])
                if left <= 0:
                    return


class _Skipped(_Step):
    def __init__(self, of: Dataset, count: Any) -> None:
        super().__init__(of, [count])

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        left = context.number(self._numbers[0])
        for chunk in self._of._chunks(context):
            n = len(chunk[0])
            if left < n:
                yield [column[max(left, 0) :] for column in chunk]
            left -= n


class _Sharded(_Step):
    def __init__(self, of: Dataset, num_shards: Any, index: Any) -> None:
        super().__init__(of, [num_shards, index])

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        every, index = (context.number(n) for n in self._numbers)
        if not 0 <= index < every:
            raise InvalidArgumentError(f"shard: index is {index}; it has to be 0 to {every - 1}.")
        seen = 0
        for chunk in self._of._chunks(context):
            first = (index - seen) % every
            if first < len(chunk[0]):
                yield [column[first::every] for column in chunk]
            seen += len(chunk[0])


class _Joined(Dataset):
    def __init__(self, first: Dataset, second: Dataset) -> None:
        one, other = flat(first._structure), flat(second._structure)
        if [s.dtype for s in one] != [s.dtype for s in other]:
            raise UsageError(f"concatenate: {first} and {second} have elements of other dtypes.")
        specs = [Spec(_common(a.shape, b.shape), a.dtype) for a, b in zip(one, other, strict=True)]
        super().__init__(packed(first._structure, specs), [first, second])

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        for dataset in self._inputs:
            yield from dataset._chunks(context)


class _Cached(_Step):
    def _chunks(self, context: Context) -> Iterates[Chunk]:
        if self not in context.kept:
            kept = []
            for chunk in self._of._chunks(context):
                kept.append(chunk)
                yield chunk
            context.kept[self] = kept
        else:
            yield from context.kept[self]


class _Unbatched(_Step):
    def __init__(self, of: Dataset) -> None:
        super().__init__(
            of, (), mapped(lambda s: Spec(s.shape and s.shape[1:], s.dtype), of._structure), batched=False
        )

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        for chunk in self._of._chunks(context):
            for i in range(len(chunk[0])):
                if len(chunk[0][i]):
                    yield [column[i] for column in chunk]


class Computed(_Step):
    """The outputs of tensors that follow from what iterators give: what a queue's batches are made of."""

    def __init__(self, of: Dataset, inputs: Sequence[Tensor], outputs: Any) -> None:
        self._rows = Rows(inputs, flat(outputs))
        super().__init__(of, (), mapped(lambda t: t.spec, outputs))

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        def streams(name: str, seed: int) -> Callable[[], np.random.Generator]:
            return context.stream(f"{self._number}/{name}", seed)

        for chunk in self._of._chunks(context):
            try:
                yield self._rows(chunk, {}, streams)
            except Ragged:
                for i in range(len(chunk[0])):
                    yield self._rows([column[i : i + 1] for column in chunk], {}, streams)


# -- iterators -------------------------------------------------------------------------------------------
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
        return Iterator(_structure_of(output_types, output_shapes))

    @staticmethod
    def from_string_handle(
        string_handle: Any, output_types: Any, output_shapes: Any = None, output_classes: Any = None
    ) -> Iterator:
        """The iterator whose string_handle is fed at the run."""
        return Iterator(_structure_of(output_types, output_shapes), handle=convert_to_tensor(string_handle))

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

    output_types = Dataset.output_types
    output_shapes = Dataset.output_shapes
    output_classes = Dataset.output_classes

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
                    f"{tensor.name}: a data set is fed whole arrays, alike on all ranks."
                )
            values[tensor] = np.asarray(as_fed(tensor, feeds[tensor]))
        if missing:
            found = session.run(missing, dict(feeds))
            values |= {t: np.asarray(v) for t, v in zip(missing, found, strict=True)}
        self._passes[session] = _Pass(dataset, Context(session, values, self._name))

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


# -- helpers ---------------------------------------------------------------------------------------------
def as_string_too(dtype: Any) -> DType:
    """as_dtype, which also knows strings."""
    return string if dtype in (string, str, bytes, "string") else as_dtype(dtype)


def _as_source(value: Any) -> Any:
    """A tensor, or the array that a value is: what slices are cut of."""
    return (
        convert_to_tensor(value)
        if isinstance(value, TensorLike) or _has_tensor(value)
        else to_array(value, None)
    )


def _has_tensor(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, TensorLike) or _has_tensor(v) for v in value[:1])


def _spec_of(source: Any) -> Spec:
    if isinstance(source, Tensor):
        return source.spec
    return Spec(source.shape, string if source.dtype == object else as_dtype(source.dtype))


def _structure_of(types: Any, shapes: Any) -> Any:
    dtypes = mapped(as_string_too, types)
    dims = [None] * len(flat(dtypes)) if shapes is None else _shapes_of(shapes, dtypes)
    return packed(dtypes, [Spec(d, t) for d, t in zip(dims, flat(dtypes), strict=True)])


def _shapes_of(shapes: Any, like: Any) -> list[Any]:
    """The shapes of the parts of a structure: they may be lists or tuples of numbers, as sizes are."""
    if not is_structure(like):
        return [as_dims(shapes)]
    if isinstance(like, Mapping):
        return [d for key in sorted(like) for d in _shapes_of(shapes[key], like[key])]
    if len(shapes) != len(like):
        raise UsageError(f"{len(shapes)} shapes for elements of {len(like)} parts.")
    return [d for part, of in zip(shapes, like, strict=True) for d in _shapes_of(part, of)]


def _converted(value: Any, dtype: DType) -> np.ndarray:
    """An element's part as an array of its dtype, which numbers are made to be."""
    try:
        return to_array(value, string) if dtype.is_string else np.asarray(value).astype(dtype.numpy)
    except (GraphError, ValueError, TypeError):
        raise InvalidArgumentError(f"from_generator: {value!r} is no {dtype.name}.") from None


def _common(a: Any, b: Any) -> Any:
    if a is None or b is None or len(a) != len(b):
        return None
    return (
        merge(a, b) if compatible(a, b) else tuple(x if x == y else None for x, y in zip(a, b, strict=True))
    )


def _most(chunk: Chunk) -> int:
    """How many elements a chunk of such has."""
    bytes_each = sum(column.nbytes // max(len(column), 1) for column in chunk)
    return max(1, min(MOST_ELEMENTS, MOST_BYTES // max(bytes_each, 1)))


def _cut(whole: Chunk) -> Iterates[Chunk]:
    """All elements, in chunks."""
    most = _most(whole)
    return ([column[i : i + most] for column in whole] for i in range(0, len(whole[0]), most))


def _gathered(picked: Picked) -> Iterates[Chunk]:
    columns, numbers = picked
    return ([column[which] for column in columns] for which in numbers)


def _listed(which: Any) -> Sequence[int]:
    return range(which.start, which.stop) if isinstance(which, slice) else which.tolist()


def _count(which: Any) -> int:
    return which.stop - which.start if isinstance(which, slice) else len(which)


def _in_lots(numbers: Iterates[Any], size: int) -> Iterates[Any]:
    """The same entries in lots of one size; the last may have fewer."""
    lot: list[Any] = []
    count = 0
    for which in numbers:
        first = 0
        while first < _count(which):
            part = _part(which, first, size - count)
            lot.append(part)
            count += _count(part)
            first += _count(part)
            if count == size:
                yield lot[0] if len(lot) == 1 else np.concatenate([_listed(w) for w in lot]).astype(np.intp)
                lot, count = [], 0
    if lot:
        yield lot[0] if len(lot) == 1 else np.concatenate([_listed(w) for w in lot]).astype(np.intp)


def _part(which: Any, first: int, most: int) -> Any:
    if isinstance(which, slice):
        return slice(which.start + first, min(which.start + first + most, which.stop))
    return which[first : first + most]


def _drawn(places: Iterates[Any], size: int, random: np.random.Generator) -> Iterates[Any]:
    """Places in another order: each is drawn of the next `size` ones."""
    buffer = list(itertools.islice(places, size))
    while some := list(itertools.islice(places, MOST_ELEMENTS)):
        for place, slot in zip(some, random.integers(0, size, len(some)).tolist(), strict=True):
            yield buffer[slot]
            buffer[slot] = place
    for slot in random.permutation(len(buffer)).tolist():
        yield buffer[slot]


def _collected(places: Sequence[tuple[Chunk, int]]) -> Iterates[Chunk]:
    """Elements from where they are: one chunk, or one each where their shapes differ."""
    columns = [[chunk[c][i] for chunk, i in places] for c in range(len(places[0][0]))]
    try:
        yield [stacked(column) for column in columns]
    except ValueError:
        for row in zip(*columns, strict=True):
            yield [stacked([value]) for value in row]
