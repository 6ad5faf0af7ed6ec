"""Arrays that fit, evaluate and predict are given: checked, and as the graph takes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.data.dataset import Dataset, Part
from dtrain.data.order import WHOLE_BYTES
from dtrain.errors import UsageError
from dtrain.graph.dtypes import ALL
from dtrain.graph.graph import TensorLike
from dtrain.graph.shape import compatible

if TYPE_CHECKING:
    from dtrain.keras.model import Model

_KNOWN = {d.numpy for d in ALL}


class Examples:
    """Arrays of one length, by the names x, y and sample_weight, whole and the same on every rank.

    Of several inputs or outputs they are x_0, x_1 and so on. x: float32, or the integers that were given,
    which the graph converts row by row. y: as the loss takes it.
    count: how many examples there are. split: how many of them, from the start, are not held back for
    testing. lent: the external arrays on the session's device.
    """

    def __init__(self, arrays: dict[str, np.ndarray], lent: dict[str, Any], split: int) -> None:
        self.arrays, self.lent, self.split = arrays, lent, split
        self.count = len(next(iter(arrays.values())))

    @property
    def index(self) -> str:
        """The dtype of numbers of examples."""
        return self.part(range(self.count)).index.__name__

    def part(self, rows: range) -> Part:
        """Those of these numbers, as an order has them."""
        # views, since the arrays of a set may not be written to, and the program's may
        views = {name: a.view(np.ndarray) for name, a in self.arrays.items()}
        return Part(Dataset("arrays", "", "", x=views, y=None, train=rows), rows)

    @property
    def rows(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """What a graph has to know of them: the name, shape and dtype of each array's rows."""
        return tuple((name, a.shape[1:], a.dtype.name) for name, a in self.arrays.items())


def examples(
    model: Model,
    what: str,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    labelled: bool = True,
    validation_split: float = 0.0,
) -> Examples:
    """Checked examples for a model; collective. what: the method they are for, for messages.

    validation_split: the share at the end that is held back for testing, which class_weight does not weigh.

    Raises, on every rank:
        UsageError: an array is missing, does not fit another, the model or its loss, or differs among ranks.
    """
    with model.comm.together():
        arrays, split = checked(model, what, x, y, sample_weight, class_weight, labelled, validation_split)
    model.rank_zero.agrees(what, arrays | (_rate(model) if labelled else {}))
    return lent(model, arrays, split)


def checked(
    model: Model,
    what: str,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    labelled: bool = True,
    validation_split: float = 0.0,
) -> tuple[dict[str, np.ndarray], int]:
    """This rank's arrays by name, and how many examples are left to train on; builds the model.

    Raises:
        UsageError: as examples does, but for what differs among ranks.
    """
    if model.is_complete:
        model.build()
    arrays = inputs(what, x, model)
    count = len(next(iter(arrays.values())))
    split = _split(count, validation_split)
    if not model.built:
        shapes = [(None, *a.shape[1:]) for a in arrays.values()]
        model.build(shapes[0] if len(shapes) == 1 else shapes)
    if labelled:
        compiled = model.check_compiled(what)
        wanted = [
            (n, loss, end)
            for n, loss, end in zip(model.output_names, compiled.losses, model.ends(), strict=True)
            if loss is not None
        ]
        names = [name for name, _, _ in wanted]
        ys = _named(what, "y", y, names)
        weights = _named_weights(what, sample_weight, names)
        by_class = _named_classes(what, class_weight, names)
        for key, (name, loss, (layer, _, output)) in zip(keys("y", len(names)), wanted, strict=True):
            label = as_array(what, key, ys[key])
            _alike(what, next(iter(arrays)), count, key, len(label))
            arrays[key] = loss.labels(label, output, layer, f"{what}: {key}")
            own = key.replace("y", "sample_weight")
            found = _weights(what, own, arrays[key], weights[own], by_class.get(name), split, output)
            if found is not None:
                arrays[own] = found
    return arrays, split


def keys(kind: str, count: int) -> list[str]:
    """What the arrays of this kind are called: x, or x_0, x_1 and so on where there are several."""
    return [kind] if count == 1 else [f"{kind}_{i}" for i in range(count)]


def all_keys(model: Model) -> list[str]:
    """What arrays there may be for a model, the same on every rank."""
    inputs = keys("x", len(model.inputs) or 1)
    losses = [] if model._compiled is None else [la for la in model._compiled.losses if la is not None]
    return [*inputs, *keys("y", len(losses)), *keys("sample_weight", len(losses))]


def _named(what: str, kind: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
    """What is given for each of these inputs or outputs, by the names that keys() gives."""
    called = keys(kind, len(names))
    if isinstance(value, Mapping):
        wrong = [name for name in value if name not in names]
        missing = [name for name in names if name not in value]
        if wrong or missing:
            raise UsageError(
                f"{what}: {kind} has {', '.join(map(str, value))}, and the model takes {', '.join(names)}."
            )
        return {key: value[name] for key, name in zip(called, names, strict=True)}
    if len(names) == 1:
        return {called[0]: value}
    if not names:
        return {}
    if not isinstance(value, list | tuple) or len(value) != len(names):
        given = f"a list of {len(value)}" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise UsageError(
            f"{what}: {kind} is {given}: give a list of arrays, one for each of {', '.join(names)}, or a "
            "dict."
        )
    return dict(zip(called, value, strict=True))


def _named_weights(what: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
    called = keys("sample_weight", len(names))
    if isinstance(value, Mapping):
        return {key: value.get(name) for key, name in zip(called, names, strict=True)}
    if len(names) > 1 and value is not None and not isinstance(value, list | tuple):
        return dict.fromkeys(called, value)
    return dict.fromkeys(called) if value is None else _named(what, "sample_weight", value, names)


def _named_classes(what: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
    """The weights of classes for each of these outputs that has some."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and {*value} & {*names}:
        return dict(value)
    if isinstance(value, list | tuple) and len(value) == len(names):
        return dict(zip(names, value, strict=True))
    if len(names) == 1:
        if isinstance(value, list | tuple):
            warnings.warn(
                f"{what}: class_weight is a list of {len(value)}, and the model has one output: it is not "
                "used, as in Keras 2. Give a dict of each class's weight.",
                stacklevel=2,
            )
            return {}
        return {names[0]: value}
    raise UsageError(
        f"{what}: class_weight={value!r}: give a list of dicts, or a dict of them, for {', '.join(names)}."
    )


def lent(model: Model, arrays: dict[str, np.ndarray], split: int) -> Examples:
    """Checked arrays, on the model's device."""
    backend = model.session.backend
    with model.session.lock:  # of the device
        return Examples(
            arrays, {k: backend.from_host(np.ascontiguousarray(a)) for k, a in arrays.items()}, split
        )


def _rate(model: Model) -> dict[str, np.ndarray]:
    return {"optimizer.learning_rate": np.asarray(float(model.optimizer.learning_rate))}


def agrees_on_rate(model: Model, what: str) -> None:
    """Raise on every rank where the learning rate is not the same on all. Collective."""
    model.rank_zero.agrees(what, _rate(model))


def _split(examples: int, share: float) -> int:
    """How many examples are left to train on, as Keras rounds."""
    split = int(examples * (1 - share))
    if split == 0:
        raise UsageError(f"fit: validation_split={share} leaves none of {examples} to train on.")
    return split


def as_array(what: str, name: str, value: Any) -> np.ndarray:
    """Anything like an array, with at least one axis; raises UsageError for what is not."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], np.ndarray):
        value = value[0]  # Keras's list of inputs
    if value is None:
        raise UsageError(f"{what}: {name} is missing: give an array of examples.")
    if isinstance(value, TensorLike) or hasattr(value, "__next__"):
        kind = "a tensor" if isinstance(value, TensorLike) else "a generator"
        raise UsageError(f"{what}: {name} is {kind}, and an array is needed: collect its values with numpy.")
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"{what}: {name} is ragged: every example needs the same shape.") from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{what}: {name} has dtype {array.dtype}, and numbers are needed.")
    if array.ndim == 0 or not len(array):
        raise UsageError(f"{what}: {name} has no examples: its first axis counts them.")
    return array


def inputs(what: str, x: Any, model: Model) -> dict[str, np.ndarray]:
    """The arrays of x by keys(), fit for the inputs that a model has."""
    specs = model.input_specs()
    if not specs:  # a custom class, which finds out
        several = isinstance(x, list | tuple) and len(x) > 1 and all(hasattr(v, "shape") for v in x)
        specs = [(f"input_{i}", None, "float32") for i in range(len(x) if several else 1)]
    found = {}
    given = _named(what, "x", x, [name for name, _, _ in specs])
    for (key, value), (_, shape, dtype) in zip(given.items(), specs, strict=True):
        found[key] = _input(what, key, value, shape, dtype)
        _alike(what, next(iter(found)), len(next(iter(found.values()))), key, len(found[key]))
    return found


def _input(what: str, key: str, x: Any, shape: tuple[int | None, ...] | None, dtype: str) -> np.ndarray:
    """An array, fit for an input that takes examples of this shape (None: any)."""
    array = as_array(what, key, x)
    if shape is not None and (1,) == shape == (array.shape[1:] or (1,)):
        array = array.reshape(-1, 1)  # as Keras does
    fits = shape is None or (
        len(shape) == array.ndim - 1
        and all(a in (None, b) for a, b in zip(shape, array.shape[1:], strict=True))
    )
    if not fits:
        assert shape is not None
        known = None not in shape
        same = known and int(np.prod(array.shape[1:])) == int(np.prod(shape))  # type: ignore[arg-type]  # none is None
        target = ", ".join(map(str, (-1, *shape)))
        fix = f"{key}.reshape({target}) makes it so" if same else "give the first layer that input_shape"
        raise UsageError(
            f"{what}: {key} has examples of shape {array.shape[1:]}, and the model takes {shape}: {fix}."
        )
    if dtype != "float32":
        return array.astype(dtype, copy=False)
    large = array.nbytes > WHOLE_BYTES  # used as it lies: the graph converts what is read
    if array.dtype not in _KNOWN or (array.dtype.kind == "f" and not large):
        return array.astype(np.float32, copy=False)
    return array.view(np.uint8) if array.dtype == bool else array


def _alike(what: str, a: str, first: int, b: str, second: int) -> None:
    if first != second:
        raise UsageError(
            f"{what}: {a} has {first:,} examples and {b} has {second:,}: give one entry of {b} for each."
        )


def _weights(
    what: str,
    name: str,
    y: np.ndarray,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
    split: int,
    output: tuple[Any, ...],
) -> np.ndarray | None:
    """The weight of each example, float32 [n], or of each of its steps, [n, steps]; None where all are 1.

    Classes weigh the first `split`. output: the sizes of an output of the model.
    """
    found = None
    if sample_weight is not None:
        found = as_array(what, name, sample_weight).astype(np.float32)
        if found.shape[1:] == (1,):
            found = found[:, 0]
        steps = output[:1] if len(output) > 1 else ()
        if found.ndim != 1 and not (steps and compatible(found.shape[1:], steps)):
            more = f", or one for each of its {steps[0]} steps" if steps else ""
            raise UsageError(
                f"{what}: {name} has shape {found.shape}: give one number for each example{more}."
            )
        _alike(what, "x", len(y), name, len(found))
    if class_weight is not None:
        if not isinstance(class_weight, Mapping):
            raise UsageError(
                f"{what}: class_weight={class_weight!r}: give a dict of each class's weight, such as "
                "{0: 1.0, 1: 2.5}."
            )
        wide = y.ndim > 1 and y.shape[-1] > 1
        classes = np.rint(y.argmax(-1) if wide else y.reshape(len(y), -1)[:, 0]).astype(np.int64).ravel()
        if len(classes) != len(y):
            raise UsageError(
                f"{what}: class_weight needs one class for each example, and y has shape {y.shape}."
            )
        present, where = np.unique(classes[:split], return_inverse=True)
        table = np.array([class_weight.get(int(c), 1.0) for c in present], np.float32)
        found = np.ones(len(y), np.float32) if found is None else found.copy()
        found[:split] = (found[:split].T * table[where]).T
    if found is not None and not (np.isfinite(found).all() and (found >= 0).all()):
        raise UsageError(f"{what}: a weight is negative or not finite: give numbers from 0 up.")
    return found
