"""The input queues of TensorFlow 1, as data sets: no threads run, and the order is the same on every rank.

A producer's or reader's tensors are a data set's next element; `batch` makes a data set of what is computed
of them. start_queue_runners has nothing to start, and a Coordinator is asked to stop as ever.
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Iterator as Iterates
from contextlib import contextmanager
from typing import Any

import numpy as np

from dtrain.errors import OutOfRangeError, UsageError
from dtrain.graph.dtypes import string
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.ops.array import identity
from dtrain.ops.base import constant, convert_to_tensor
from dtrain.ops.sources import SOURCES, Taken
from dtrain.passes.prune import needed_by
from dtrain.tf1.dataset import (
    Computed,
    Dataset,
    FixedLengthRecordDataset,
    Iterator,
    TextLineDataset,
    TFRecordDataset,
    unbatched,
)
from dtrain.tf1.nest import flat, mapped
from dtrain.tf1.parsing import read_file

__all__ = [
    "Coordinator",
    "FixedLengthRecordReader",
    "TFRecordReader",
    "TextLineReader",
    "WholeFileReader",
    "batch",
    "batch_join",
    "input_producer",
    "limit_epochs",
    "match_filenames_once",
    "range_input_producer",
    "shuffle_batch",
    "shuffle_batch_join",
    "slice_input_producer",
    "start_queue_runners",
    "string_input_producer",
]


class Coordinator:
    """A request to stop, for threads of the program; an error given with it is raised by join.

    OutOfRangeError is no error: it is how data ends.
    """

    def __init__(self, clean_stop_exception_types: Any = None) -> None:
        self._clean = tuple(clean_stop_exception_types or (OutOfRangeError,))
        self._event, self._error = threading.Event(), None
        self.joined = False

    def request_stop(self, ex: Any = None) -> None:
        """Ask for the end, because of an error or its exc_info()."""
        error = ex[1] if isinstance(ex, tuple) else ex
        if error is not None and self._error is None and not isinstance(error, self._clean):
            self._error = error
        self._event.set()

    def clear_stop(self) -> None:
        self._event.clear()
        self._error, self.joined = None, False

    def should_stop(self) -> bool:
        return self._event.is_set()

    @contextmanager
    def stop_on_exception(self) -> Iterates[None]:
        """A block whose exception asks for the end."""
        try:
            yield
        except Exception as error:
            self.request_stop(error)

    def wait_for_stop(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)

    def join(
        self,
        threads: Iterable[Any] | None = None,
        stop_grace_period_secs: float = 120,
        ignore_live_threads: bool = False,
    ) -> None:
        """Wait for threads of the program's, and raise the error that ended it, if one did."""
        for thread in threads or ():
            thread.join(stop_grace_period_secs)
        self.joined = True
        if self._error is not None:
            raise self._error

    def raise_requested_exception(self) -> None:
        if self._error is not None:
            raise self._error


def start_queue_runners(
    sess: Any = None, coord: Any = None, daemon: bool = True, start: bool = True, collection: str = ""
) -> list[Any]:
    """[]: there are no threads to start, as batches are made when they are needed."""
    return []


# -- producers ---------------------------------------------------------------------------------------------
class _Queue:
    """A data set that stands where a queue is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def dequeue(self, name: str | None = None) -> Any:
        """The next element."""
        return self.dataset.make_one_shot_iterator().get_next(name)


def input_producer(
    input_tensor: Any,
    element_shape: Any = None,
    num_epochs: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    capacity: int = 32,
    shared_name: str | None = None,
    summary_name: str | None = None,
    name: str | None = None,
    cancel_op: Any = None,
) -> _Queue:
    """The rows of a tensor, num_epochs times or for ever, in another order each time if shuffle."""
    return _Queue(_produced(input_tensor, num_epochs, shuffle, seed))


def string_input_producer(
    string_tensor: Any,
    num_epochs: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    capacity: int = 32,
    shared_name: str | None = None,
    name: str | None = None,
    cancel_op: Any = None,
) -> _Queue:
    """input_producer of strings, such as names of files."""
    if isinstance(string_tensor, list | tuple) and not string_tensor:
        raise UsageError("string_input_producer requires a non-null input tensor: there are no strings.")
    return _Queue(_produced(string_tensor, num_epochs, shuffle, seed))


def range_input_producer(
    limit: int,
    num_epochs: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    capacity: int = 32,
    shared_name: str | None = None,
    name: str | None = None,
) -> _Queue:
    """input_producer of the numbers from 0 to below limit, as int32."""
    return _Queue(_produced(np.arange(limit, dtype=np.int32), num_epochs, shuffle, seed))


def slice_input_producer(
    tensor_list: Sequence[Any],
    num_epochs: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    capacity: int = 32,
    shared_name: str | None = None,
    name: str | None = None,
) -> list[Tensor]:
    """One row of each tensor, in another order each epoch if shuffle."""
    return list(_Queue(_produced(tuple(tensor_list), num_epochs, shuffle, seed)).dequeue(name))


def _produced(tensors: Any, epochs: int | None, shuffle: bool, seed: int | None) -> Dataset:
    rows = Dataset.from_tensor_slices(tensors)
    return (rows.shuffle(1 << 30, seed) if shuffle else rows).repeat(epochs)


def limit_epochs(tensor: Any, num_epochs: int | None = None, name: str | None = None) -> Tensor:
    """The tensor, which may be used in num_epochs runs; then there is no more."""
    if num_epochs is None:
        return identity(tensor, name=name)
    return (
        _dataset_of([convert_to_tensor(tensor)]).take(num_epochs).make_one_shot_iterator().get_next(name)[0]
    )


def match_filenames_once(pattern: Any, name: str | None = None) -> Tensor:
    """The names of the files that match, as they are now."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    names = np.array(sorted({found for p in patterns for found in glob.glob(p)}), object)
    return constant(names, string, name=name or "matching_filenames")


# -- readers -----------------------------------------------------------------------------------------------
class _Reader:
    """Reads records of the files whose names a queue gives."""

    def __init__(self, name: str | None = None) -> None:
        pass

    def _records(self, filename: Tensor) -> Dataset:
        raise NotImplementedError

    def read(self, queue: Any, name: str | None = None) -> tuple[Tensor, Tensor]:
        """(the file's name, the next record)."""
        if not isinstance(queue, _Queue):
            raise UsageError("a reader's read takes what string_input_producer returned.")

        def records(filename: Tensor) -> Dataset:
            return Dataset.zip((Dataset.from_tensors(filename).repeat(), self._records(filename)))

        return queue.dataset.flat_map(records).make_one_shot_iterator().get_next(name)


class TextLineReader(_Reader):
    """Lines of text files, without their ends."""

    def __init__(self, skip_header_lines: int | None = None, name: str | None = None) -> None:
        self._skip = skip_header_lines or 0

    def _records(self, filename: Tensor) -> Dataset:
        return TextLineDataset(filename).skip(self._skip)


class TFRecordReader(_Reader):
    """Records of TFRecord files."""

    def __init__(self, name: str | None = None, options: Any = None) -> None:
        self._compression = getattr(options, "compression_type", "")

    def _records(self, filename: Tensor) -> Dataset:
        return TFRecordDataset(filename, self._compression)


class FixedLengthRecordReader(_Reader):
    """Records of record_bytes bytes."""

    def __init__(
        self,
        record_bytes: int,
        header_bytes: int | None = None,
        footer_bytes: int | None = None,
        hop_bytes: None = None,
        name: str | None = None,
        encoding: None = None,
    ) -> None:
        if hop_bytes or encoding:
            raise UsageError("FixedLengthRecordReader: hop_bytes and encoding are not supported.")
        self._sizes = record_bytes, header_bytes, footer_bytes

    def _records(self, filename: Tensor) -> Dataset:
        return FixedLengthRecordDataset(filename, *self._sizes)


class WholeFileReader(_Reader):
    """Files as they are."""

    def _records(self, filename: Tensor) -> Dataset:
        return Dataset.from_tensors(read_file(filename))


# -- batches -----------------------------------------------------------------------------------------------
def batch(
    tensors: Any,
    batch_size: Any,
    num_threads: int = 1,
    capacity: int = 32,
    enqueue_many: bool = False,
    shapes: Any = None,
    dynamic_pad: bool = False,
    allow_smaller_final_batch: bool = False,
    shared_name: str | None = None,
    name: str | None = None,
) -> Any:
    """Batches of what the tensors, a list or dict, give in batch_size runs.

    The tensors follow from producers, readers or iterators, without variables. enqueue_many: each gives rows.
    dynamic_pad: elements are padded to the longest. num_threads and capacity change nothing.
    """
    return _batched(tensors, batch_size, enqueue_many, dynamic_pad, allow_smaller_final_batch, name)


def shuffle_batch(
    tensors: Any,
    batch_size: Any,
    capacity: int,
    min_after_dequeue: int,
    num_threads: int = 1,
    seed: int | None = None,
    enqueue_many: bool = False,
    shapes: Any = None,
    allow_smaller_final_batch: bool = False,
    shared_name: str | None = None,
    name: str | None = None,
) -> Any:
    """batch of elements that are drawn of the next `capacity` ones."""

    def shuffle(elements: Dataset) -> Dataset:
        return elements.shuffle(max(int(capacity), 1), seed)

    return _batched(tensors, batch_size, enqueue_many, False, allow_smaller_final_batch, name, shuffle)


def batch_join(tensors_list: Sequence[Any], batch_size: Any, *args: Any, **named: Any) -> Any:
    """batch of the first of several equal lists of tensors, which threads would work on."""
    return batch(tensors_list[0], batch_size, 1, *args, **named)


def shuffle_batch_join(
    tensors_list: Sequence[Any], batch_size: Any, capacity: int, min_after_dequeue: int, **named: Any
) -> Any:
    """shuffle_batch of the first of several equal lists of tensors, which threads would work on."""
    return shuffle_batch(tensors_list[0], batch_size, capacity, min_after_dequeue, **named)


def _batched(
    tensors: Any,
    size: Any,
    many: bool,
    pads: bool,
    smaller: bool,
    name: str | None,
    shuffle: Callable[[Dataset], Dataset] | None = None,
) -> Any:
    structure = tensors
    if not isinstance(tensors, Mapping):
        structure = tuple(tensors) if isinstance(tensors, list | tuple) else (tensors,)
    elements = _dataset_of(mapped(convert_to_tensor, structure))
    if many:
        elements = unbatched()(elements)
    if shuffle is not None:
        elements = shuffle(elements)
    if pads:
        batches = elements.padded_batch(size, elements.output_shapes, drop_remainder=not smaller)
    else:
        batches = elements.batch(size, not smaller)
    result = batches.make_one_shot_iterator().get_next(name or "batch")
    if isinstance(tensors, Mapping):
        return result
    return list(result) if len(result) > 1 else result[0]


def _dataset_of(structure: Any) -> Dataset:
    """The data set of what tensors give, run after run."""
    structure = tuple(structure) if isinstance(structure, list) else structure
    graph = get_default_graph()
    outputs = flat(structure)
    calls: dict[int, Taken] = {}
    for node in sorted(needed_by(outputs, (), ()), key=lambda node: node.id):
        if isinstance(node.kind, Taken):
            calls.setdefault(node.kind.call, node.kind)
    sources = graph.kept.get(SOURCES, {})
    datasets: list[Dataset] = []
    inputs: list[Tensor] = []
    for call, kind in calls.items():
        iterator = sources[kind.source]
        if not isinstance(iterator, Iterator) or len(iterator._datasets) != 1:
            raise UsageError("batch: it takes what producers, readers and one-shot iterators give.")
        datasets.append(iterator.dataset)
        taken = ((n, n.kind) for n in graph.operations if isinstance(n.kind, Taken))
        of_call = [(k.part, n.outputs[0]) for n, k in taken if k.call == call]
        inputs += [t for _, t in sorted(of_call, key=lambda pair: pair[0])]
    if not datasets:  # constants: the same element again and again
        datasets = [Dataset.range(1).repeat()]
        inputs = [datasets[0].make_one_shot_iterator().get_next()]
    return Computed(Dataset.zip(tuple(datasets)), inputs, structure)
