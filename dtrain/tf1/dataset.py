"""tf.data: data sets as chains of steps, and iterators that feed a session their elements.

Elements travel in chunks, arrays with an axis more before those of an element, so that a step costs Python
little for each: `map` computes a chunk at once where its ops allow it (rows.py). The order of the elements is
the same on every rank; what `batch` made is marked as a batch, of which each rank computes its rows.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import zlib
from collections.abc import Callable, Sequence
from collections.abc import Iterator as Iterates
from typing import Any

import numpy as np

from dtrain.errors import DataError, GraphError, InvalidArgumentError, NotSupportedError, UsageError
from dtrain.graph.dtypes import DType, as_dtype, bool_, int64, string
from dtrain.graph.graph import Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import TensorShape, compatible, merge
from dtrain.ops.base import Const, Placeholder, convert_to_tensor, to_array
from dtrain.tf1.chunks import (
    MOST_ELEMENTS,
    Chunk,
    Picked,
    Pieces,
    collected,
    count_of,
    cut,
    drawn,
    gathered,
    in_lots,
    listed,
    most_of,
)
from dtrain.tf1.iterator import Context, Iterator, as_string_too, shapes_of
from dtrain.tf1.nest import flat, is_structure, mapped, packed
from dtrain.tf1.records import records_of
from dtrain.tf1.rows import FunctionGraph, Ragged, Rows, stacked

__all__ = [
    "Dataset",
    "FixedLengthRecordDataset",
    "Iterator",
    "TFRecordDataset",
    "TextLineDataset",
    "get_output_classes",
    "get_output_shapes",
    "get_output_types",
    "make_initializable_iterator",
    "make_one_shot_iterator",
]


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
        self._batched: bool = any(i._batched for i in inputs) if batched is None else batched
        self._outside: bool = outside or any(i._outside for i in inputs)
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

    def __getattr__(self, name: str) -> Any:
        if name in ("options", "reduce", "window", "with_options"):
            raise NotSupportedError(
                f"dtrain's data sets have no {name}: docs/tensorflow1.md says what there is."
            )
        raise AttributeError(f"a data set has no attribute {name!r}", name=name)

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
        """What generator(*args) yields; each pass calls it anew, the same on every rank."""
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
        """All but the first count elements; -1: nothing is left."""
        return _Skipped(self, count)

    def concatenate(self, dataset: Dataset) -> Dataset:
        """These elements, and after them those of another data set."""
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
                    f"from_tensor_slices: the arrays have {', '.join(map(str, sorted(lengths)))} entries; "  # type: ignore[type-var]  # none is None
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
                f"from_tensor_slices: arrays of {[len(c) for c in columns]} entries; all need as many."
            )
        return columns

    def _picked(self, context: Context) -> Picked:
        columns = self._whole(context)
        n, most = len(columns[0]), most_of(columns)
        return columns, (slice(i, min(i + most, n)) for i in range(0, n, most))

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return gathered(self._picked(context))


class _Range(Dataset):
    def __init__(self, args: Sequence[Any]) -> None:
        if not 1 <= len(args) <= 3:
            raise UsageError("Dataset.range takes a stop, or a start, a stop and a step.")
        self._args = [_as_source(a) for a in args]
        super().__init__(Spec((), int64), (), self._args, False)

    def _chunks(self, context: Context) -> Iterates[Chunk]:
        return cut([np.arange(*(context.number(a) for a in self._args), dtype=np.int64)])


class _Generated(Dataset):
    def __init__(self, generator: Callable[..., Any], types: Any, shapes: Any, args: Sequence[Any]) -> None:
        if not callable(generator):
            raise UsageError("from_generator: generator has to be a function that makes one.")
        self._generator, self._args = generator, [_as_source(a) for a in args]
        dtypes = mapped(as_string_too, types)
        dims = [None] * len(flat(dtypes)) if shapes is None else shapes_of(shapes, dtypes)
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
        return cut([to_array(names, string)])


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
        turns = [Pieces(chunks) for chunks in itertools.islice(begun, cycle)]
        while turns:
            for turn in list(turns):
                taken, given = 0, 0
                while taken < block and (chunk := turn.next(block - taken)) is not None:
                    taken += len(chunk[0])
                    given += 1
                    yield chunk
                if taken < block:  # it has ended: another takes its place
                    at = turns.index(turn)
                    turns[at : at + 1] = [Pieces(chunks) for chunks in itertools.islice(begun, 1)]


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
            for which in in_lots(numbers, size):
                if count_of(which) == size or not self._drops:
                    yield self._joined([[column[which] for column in columns]])
            return
        pieces = Pieces(self._of._chunks(context))
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
        dims = shapes_of(shapes, of._structure)
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
                whole[tuple([slice(row, row + len(part)), *(slice(n) for n in part.shape[1:])])] = part
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
            yield from gathered(self._in_order(*picked, size, random))
            return
        places = ((chunk, i) for chunk in self._of._chunks(context) for i in range(len(chunk[0])))
        chosen: list[tuple[Chunk, int]] = []
        for place in drawn(places, size, random):
            chosen.append(place)
            if len(chosen) == most_of(place[0]):
                yield from collected(chosen)
                chosen = []
        if chosen:
            yield from collected(chosen)

    def _picked(self, context: Context) -> Picked | None:
        if (picked := self._of._picked(context)) is None:
            return None
        return self._in_order(*picked, context.number(self._numbers[0]), self._random(context))

    def _in_order(self, columns: Chunk, numbers: Iterates[Any], size: int, random: Any) -> Picked:
        most = most_of(columns)

        def lots() -> Iterates[np.ndarray]:
            every = (i for which in numbers for i in listed(which))
            order = drawn(every, size, random)
            while lot := list(itertools.islice(order, most)):
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
        return first[0], self._passes(context, lambda c: self._of._picked(c)[1])  # type: ignore[index]  # as the first was, none is None

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
        if left < 0:
            return
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


# -- functions of later versions -------------------------------------------------------------------------
def make_one_shot_iterator(dataset: Dataset) -> Iterator:
    """dataset.make_one_shot_iterator()."""
    return dataset.make_one_shot_iterator()


def make_initializable_iterator(dataset: Dataset, shared_name: str | None = None) -> Iterator:
    """dataset.make_initializable_iterator()."""
    return dataset.make_initializable_iterator(shared_name)


def get_output_types(dataset_or_iterator: Dataset | Iterator) -> Any:
    """Its output_types."""
    return dataset_or_iterator.output_types


def get_output_shapes(dataset_or_iterator: Dataset | Iterator) -> Any:
    """Its output_shapes."""
    return dataset_or_iterator.output_shapes


def get_output_classes(dataset_or_iterator: Dataset | Iterator) -> Any:
    """Its output_classes."""
    return dataset_or_iterator.output_classes


# -- what Dataset.apply takes ----------------------------------------------------------------------------
def unbatched() -> Callable[[Dataset], Dataset]:
    """The entries of axis 0 of each element, one after another."""
    return _Unbatched


# -- helpers ---------------------------------------------------------------------------------------------
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
