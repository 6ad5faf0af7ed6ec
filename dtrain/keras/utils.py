"""Helpers around training programs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.graph.graph import set_random_seed as set_graph_seed
from dtrain.keras.calls import call_of
from dtrain.keras.names import GLOBAL, Names, as_data, custom_object_scope
from dtrain.names import module_getattr

__all__ = [
    "CustomObjectScope",
    "Progbar",
    "Sequence",
    "conv_input_length",
    "conv_output_length",
    "count_params",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "get_file",
    "get_source_inputs",
    "model_to_dot",
    "multi_gpu_model",
    "normalize",
    "plot_model",
    "print_summary",
    "serialize_keras_object",
    "set_random_seed",
    "slice_arrays",
    "to_categorical",
]

#: Nothing lies below; old_paths.py knows utils.np_utils and the like.
__path__: list[str] = []

__getattr__ = module_getattr("tf.keras.utils")


class Sequence:
    """Base of batches that fit, evaluate and predict take by number; as in Keras 2.

    __getitem__(index) gives a batch, (x, y) or (x, y, sample_weight); __len__() how many there are. On
    several ranks each asks for all of them, and they have to be the same: what is drawn has the same seed.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def on_epoch_end(self) -> None:
        """After each epoch."""


def to_categorical(y: Any, num_classes: int | None = None, dtype: Any = "float32") -> np.ndarray:
    """Class numbers [...] or [..., 1] as rows with a single 1, [..., num_classes]; by default the largest +
    1.

    Raises:
        UsageError: a number is no class.
    """
    given = np.asarray(y)
    numbers = given.astype(np.int64)
    if given.ndim > 1 and given.shape[-1] == 1:
        numbers = numbers[..., 0]
    classes = int(numbers.max(initial=-1)) + 1 if num_classes is None else int(num_classes)
    wrong = (numbers < 0) | (numbers >= classes) | (numbers != given.reshape(numbers.shape))
    if wrong.any():
        raise UsageError(
            f"to_categorical: {given.reshape(numbers.shape)[wrong][0]} is no class of 0 to {classes - 1}: "
            "give whole numbers from 0 up, and num_classes above the largest."
        )
    return np.eye(classes, dtype=dtype)[numbers]


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """An array over its norm along an axis."""
    x = np.asarray(x)
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def set_random_seed(seed: int) -> None:
    """Seed Python's and NumPy's generators and dtrain's, which models made after this take theirs from."""
    random.seed(seed)
    np.random.seed(seed)
    set_graph_seed(seed)


def multi_gpu_model(
    model: Any, gpus: Any = None, cpu_merge: bool = True, cpu_relocation: bool = False
) -> Any:
    """The model itself: its batches are shared by the ranks of a job, each on a GPU of its own.

    A warning says how many ranks there are. gpus, cpu_merge, cpu_relocation: Keras's; they change no result.
    """
    ranks = model.comm.size
    count = gpus if isinstance(gpus, int) else len(gpus or ())
    if count != ranks:
        model.rank_zero.warns(
            f"multi_gpu_model(gpus={gpus}): {ranks} {'ranks share' if ranks > 1 else 'rank has'} each batch: "
            f"start the program by `mpirun -n {count or 'N'}` for as many GPUs."
        )
    return model


CustomObjectScope = custom_object_scope
serialize_keras_object = as_data


def deserialize_keras_object(
    identifier: Any,
    module_objects: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    printable_module_name: str = "object",
) -> Any:
    """What serialize_keras_object's plain data, or a name, stands for.

    Args:
        identifier: a name, or {"class_name", "config"}.
        module_objects: what names mean.
        custom_objects: what they mean besides.
        printable_module_name: what such a thing is called in messages.

    Raises:
        UsageError: nothing has this name.
    """
    with custom_object_scope(custom_objects):
        return Names(printable_module_name, module_objects or {}, made=True).get(identifier)


def count_params(weights: Any) -> int:
    """The numbers that weights hold, each once."""
    return sum(w.shape.num_elements() or 0 for w in dict.fromkeys(weights))


def print_summary(model: Any, line_length: Any = None, positions: Any = None, print_fn: Any = None) -> None:
    """model.summary(), by the function that Keras 2 had for it."""
    model.summary(line_length, positions, print_fn)


def get_source_inputs(tensor: Any, layer: Any = None, node_index: int | None = None) -> list[Any]:
    """The tensors of Input that a tensor was made of; layer, node_index change nothing."""
    found: dict[Any, None] = {}
    left, seen = [tensor], set()
    while left:
        at = left.pop()
        call = call_of(at)
        if at in seen:
            continue
        seen.add(at)
        if call is not None and not call.inputs:
            found[at] = None
        left += reversed(at.op.inputs if call is None else call.inputs)
    return [*found]


def conv_output_length(
    input_length: int | None, filter_size: int, padding: str, stride: int, dilation: int = 1
) -> int | None:
    """How many windows lie along an axis; None where its size is.

    Args:
        input_length: its size.
        filter_size, stride, dilation: of the windows.
        padding: 'valid', 'same', 'causal' or 'full'.
    """
    if input_length is None:
        return None
    reach = (filter_size - 1) * dilation + 1
    length = {"valid": input_length - reach + 1, "full": input_length + reach - 1}.get(padding, input_length)
    return -(-length // stride)


def conv_input_length(output_length: int | None, filter_size: int, padding: str, stride: int) -> int | None:
    """The least size of an axis with so many windows; arguments as of conv_output_length."""
    if output_length is None:
        return None
    pad = {"same": filter_size // 2, "full": filter_size - 1}.get(padding, 0)
    return (output_length - 1) * stride - 2 * pad + filter_size


def slice_arrays(arrays: Any, start: Any = None, stop: int | None = None) -> Any:
    """Rows of an array, or of each of a list: from start to stop, or those of the numbers in start."""
    many = isinstance(arrays, list)
    rows = start if hasattr(start, "__len__") else slice(start, stop)
    found = [None if a is None else a[rows] for a in (arrays if many else [arrays])]
    return found if many else found[0]


def get_custom_objects() -> dict[str, Any]:
    """What names mean everywhere besides their own meaning; what is put into it stays."""
    return GLOBAL


class Progbar:
    """A line that says how far a program's own loop has come: update(done, [(name, value), ...])."""

    def __init__(self, target: int | None, width: int = 30, verbose: int = 1) -> None:
        self.target, self.width, self.verbose, self.seen_so_far = target, width, verbose, 0
        self._sums: dict[str, list[float]] = {}

    def update(self, current: int, values: Any = None, force: bool = False, finalize: Any = None) -> None:
        """Say that so much is done; values are averaged over it."""
        step = current - self.seen_so_far
        for name, value in values or ():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value) * step
            total[1] += step
        self.seen_so_far = current
        if self.verbose:
            share = current / self.target if self.target else 0
            done = "=" * int(self.width * share)
            means = "".join(f" - {n}: {a / max(b, 1):.4f}" for n, (a, b) in self._sums.items())
            end = "\n" if current == self.target else ""
            print(f"\r{current}/{self.target or '?'} [{done:.<{self.width}}]{means}", end=end, flush=True)

    def add(self, n: int, values: Any = None) -> None:
        """Say that n more are done."""
        self.update(self.seen_so_far + n, values)


def plot_model(
    model: Any,
    to_file: str = "model.svg",
    show_shapes: bool = False,
    show_layer_names: bool = True,
    rankdir: str = "TB",
) -> None:
    """Draw the layers and what they are connected to, as SVG; a name that ends otherwise gets .svg.

    Rank 0 writes.

    Raises:
        EnvironmentProblem: the file cannot be written. UsageError: rankdir is not TB.
    """
    from dtrain.keras.plot import drawing

    if rankdir != "TB":
        raise UsageError(f"plot_model: rankdir={rankdir!r} is not supported: layers go from top to bottom.")

    path = to_file if to_file.endswith(".svg") else f"{to_file}.svg"
    if path != to_file:
        model.rank_zero.warns(f"plot_model: {path} is written, an SVG, which browsers show.")
    model.rank_zero.writes(path, drawing(model, show_shapes, show_layer_names).encode())


class Drawing:
    """What model_to_dot gives: a drawing of a model, whose text create() returns as Graphviz's would."""

    def __init__(self, text: str) -> None:
        self._text = text

    def create(self, prog: Any = None, format: str = "svg") -> bytes:
        """The SVG as bytes. prog, which says how Graphviz lays it out, changes nothing.

        Raises:
            UsageError: another format than svg.
        """
        if format != "svg":
            raise UsageError(f"create(format={format!r}) is not supported: drawings are SVG: format='svg'.")
        return self._text.encode()


def model_to_dot(
    model: Any, show_shapes: bool = False, show_layer_names: bool = True, rankdir: str = "TB"
) -> Drawing:
    """The drawing that plot_model writes; raises UsageError where rankdir is not TB."""
    from dtrain.keras.plot import drawing

    if rankdir != "TB":
        raise UsageError(f"model_to_dot: rankdir={rankdir!r} is not supported: layers go from top to bottom.")
    return Drawing(drawing(model, show_shapes, show_layer_names))


def get_file(fname: str, origin: str = "", **options: Any) -> str:
    """The path of a file in Keras's cache, ~/.keras/datasets.

    Raises:
        EnvironmentProblem: it is not there; nothing is downloaded.
    """
    if options.get("untar") or options.get("extract"):
        raise UsageError("get_file: untar and extract are not supported: unpack it, and give the file.")
    folder = Path(
        options.get("cache_dir") or Path.home() / ".keras", options.get("cache_subdir") or "datasets"
    )
    path = folder / fname
    if not path.exists():
        raise EnvironmentProblem(
            f"get_file: {path} is not there, and dtrain downloads nothing but MNIST: put "
            f"{origin or 'it'} there."
        )
    return str(path)
