"""A trained network from what was saved of it: a run of `dtrain train` or of a fit, or a Keras model's file.

Whatever it was, it becomes tensors from rows to results, and a session that holds the parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig, label, read_own, read_run, resolve
from dtrain.data import load
from dtrain.data.dataset import CLASSES, LABELS, NUMBERS, Dataset, moments_of
from dtrain.errors import CheckpointError, UsageError
from dtrain.keras import losses
from dtrain.keras.kept import rebuilt
from dtrain.keras.layers import Normalization, Rescaling
from dtrain.ops.math import Sigmoid
from dtrain.ops.nn import Softmax
from dtrain.runtime.backend import take_gpu
from dtrain.task import own_model
from dtrain.task.network import EVAL_BATCH, inference, of_kind
from dtrain.train.state import Restored, restore
from dtrain.train.task import Task


@dataclass(frozen=True)
class Result:
    """One output of a network. name: '' where it is the only one.

    kind: CLASSES, LABELS or NUMBERS. output: what the model gives, such as logits, [n, ...].
    probabilities: [n, k], of CLASSES or LABELS. chosen: the class [n] int32, or 0 and 1 [n, k] uint8.
    names: of the classes or labels.
    """

    name: str
    kind: str
    output: dt.Tensor
    probabilities: dt.Tensor | None = None
    chosen: dt.Tensor | None = None
    names: tuple[str, ...] = ()


@dataclass
class Saved:
    """A network that is ready to be asked.

    inputs, fixed: what is fed: rows by name, and scalars. data: the set that rows are from, if it is known.
    told: facts about it, as plain data: model, epoch and step, digest of the training data, preprocessing.
    keras: the Keras model, where it is one, and scale: what its rows are multiplied by.
    """

    session: dt.Session
    inputs: dict[str, dt.Tensor]
    fixed: dict[dt.Tensor, Any]
    results: list[Result]
    parameters: list[dt.Variable]
    data: Dataset | None
    told: dict[str, Any]
    warnings: list[str]
    keras: Any = None
    scale: float = 1.0

    def rows(self, data: Dataset, numbers: Any) -> dict[str, np.ndarray]:
        """The rows of these numbers, by the inputs' names."""
        arrays = data.x if isinstance(data.x, Mapping) else {"x": data.x}
        return {name: arrays[name][numbers] for name in self.inputs}

    def values(self) -> dict[str, np.ndarray]:
        """The parameters by name."""
        return {v.op.name: np.asarray(self.session.run(v)) for v in self.parameters}


def is_fit(path: Path) -> bool:
    """Whether a folder is a run of a fit."""
    try:
        return "program" in read_own(path)
    except (OSError, UsageError):
        return False


def config_of(run_dir: str, given: Mapping[str, Any]) -> TrainConfig:
    """The options of a run, but for those that are given. Raises CheckpointError where it is none."""
    values = read_run(run_dir)
    if "dataset" in given:  # what was held back of the run's own data is no part of another
        for name in ("label", "validation", "early_stop"):
            values.pop(name, None)
    if "model" in given:
        values.pop("model_digest", None)
    return resolve({**values, **given}, {})


def open_saved(
    path: str,
    comm: Communicator,
    given: Mapping[str, Any],
    best: bool = False,
    scale: float | None = None,
    rows: bool = True,
) -> Saved:
    """What was saved at a path, a run's folder or a model's file, ready to be asked. Collective.

    given: options instead of the run's own: model, dataset, label, device.
    best: the checkpoint that did best, not the last. scale: what a Keras model's rows are multiplied by.
    rows: whether examples are wanted; if not, a run's data set need not be there.

    Raises, on every rank:
        CheckpointError: there is nothing, or it is damaged or of another model.
        UsageError, DataError: the model or the data cannot be had.
    """
    if Path(path).is_dir() and not is_fit(Path(path)):
        if scale is not None:
            raise UsageError("--scale is for Keras models: this run's network has its preprocessing inside.")
        return _of_run(path, comm, given, best, rows)
    return _of_keras(path, comm, given, best, scale)


def announce(path: str, config: TrainConfig, comm: Communicator) -> None:
    """Say on rank 0 which Python file is run, since a run's options name it and not the command."""
    if comm.rank == 0 and config.model_digest:
        named = f"task's file that {Path(path, 'config.toml')} names: {config.task}"
        if not config.task:
            named = f"model's file that {Path(path, 'config.toml')} names: {config.model}"
        print(f"dtrain: running the {named}", file=sys.stderr)


def _of_run(path: str, comm: Communicator, given: Mapping[str, Any], best: bool, rows: bool) -> Saved:
    from dtrain.task.trainer import data_of, make_devices, prepared

    config, other = config_of(path, given), "dataset" in given
    take_gpu(config.device, config.share_gpu)
    with comm.together():
        config = own_model.check(config)
    if "model" not in given:
        announce(path, config, comm)
    backend, _ = make_devices(config, comm)
    about = data_of(Path(path), comm)
    if rows or config.task:
        task, data = prepared(config, comm, other)
        with comm.together():
            data = _like(data, about, f"--dataset {config.dataset}" if other else path)
    else:
        task, data = Task(), blank(about)
    graph = dt.Graph()
    with graph.as_default(), comm.together():
        network = inference(task.model or config.model, data, task)
        results = _results(network.output, task, data)
    session = dt.Session(graph=graph, comm=comm, device=backend)
    at = restore(session, Path(path), network.parameters, best)
    name = label(config.task or config.model)
    told = {"run": str(path), "model": name, **_told(at), "preprocessing": network.preprocessing}
    warnings = [*filter(None, [data.warning]), *at.damaged]
    return Saved(session, network.inputs, network.fixed, results, network.parameters, data, told, warnings)


def _like(data: Dataset, about: Mapping[str, Any], said: str) -> Dataset:
    """A set for a network that was trained on another; targets of another kind do not matter."""
    if data.about()["kind"] != about["kind"]:
        plain = blank(about)
        data = replace(
            data, kind=plain.kind, classes=(), y=np.zeros((len(data.y), *plain.y.shape[1:]), plain.y.dtype)
        )
    return data.like(about, said)


def blank(about: Mapping[str, Any]) -> Dataset:
    """A set without examples like the one that a run was trained on, whose about() this is.

    Raises:
        CheckpointError: it is not what about() gives.
    """
    try:
        x, y = (_empty(about[name]) for name in ("x", "y"))
        classes = tuple(map(str, about["classes"]))
        return Dataset(
            about["name"],
            "",
            "",
            x,
            y,
            range(0),
            kind=about["kind"],
            classes=classes,
            **moments_of(about),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError("the run's checkpoint does not say what data it was trained on.") from None


def _empty(specs: Any) -> Any:
    """No rows of 'uint8[28, 28]', or of several such by name."""
    if isinstance(specs, Mapping):
        return {name: _empty(spec) for name, spec in specs.items()}
    dtype, sizes = specs[:-1].split("[")
    return np.empty((0, *map(int, filter(None, sizes.split(", ")))), dtype.strip())


def _told(at: Restored) -> dict[str, Any]:
    return {"epoch": at.epoch, "step": at.step, "data_digest": at.data}


# -- Keras's models ----------------------------------------------------------------------------------------
def _of_keras(
    path: str, comm: Communicator, given: Mapping[str, Any], best: bool, scale: float | None
) -> Saved:
    if "model" in given:
        raise UsageError(f"--model is for runs of `dtrain train`: {path} says what its model is made of.")
    if "label" in given and "dataset" not in given:
        raise UsageError(f"--label {given['label']}: {path} does not say on which data: give --dataset, too.")
    take_gpu(given.get("device", "cpu"), False)
    options: dict[str, Any] = {"comm": comm, "device": given.get("device")}
    folder, at = Path(path), Restored(0, 0, "", [])
    if folder.is_dir():
        model = rebuilt(folder, **options)
        at = restore(model.session, folder, model.weights, best)
    else:
        if best:
            raise UsageError(f"--best is for runs: {path} holds one model.")
        model = dt.keras.models.load_model(path, compile=True, **options)
        model.build()
        model.initialize()
    data = None
    if "dataset" in given:
        data = load(given["dataset"], comm, given.get("label") or "")
    with comm.together():
        shape = _shape_of(model, path)
        with model.graph.as_default(), dt.name_scope("asked"):
            x, y, factor = _keras_rows(model, shape, data, scale)
        results = _keras_results(model, y, data)
    told = {"model": model.name, **_told(at), "preprocessing": "none" if factor == 1 else f"x * {factor:.9g}"}
    told |= {"run": path} if folder.is_dir() else {"file": path}
    weights, damaged = model.weights, at.damaged
    return Saved(model.session, {"x": x}, {}, results, weights, data, told, damaged, model, factor)


def _keras_rows(model: Any, shape: tuple[int, ...], data: Dataset | None, scale: float | None) -> Any:
    """The rows, the model's output for them, and what they are multiplied by."""
    if data is None:
        x = dt.placeholder("float32", [None, *shape], name="x")
        return x, model(x * scale if scale else x, training=False), scale or 1.0
    if isinstance(data.x, Mapping) or prod(data.x.shape[1:]) != prod(shape):
        has = "several arrays" if isinstance(data.x, Mapping) else f"shape {data.x.shape[1:]}"
        raise UsageError(f"{model.name} takes examples of shape {shape}, and {data.source} has {has}.")
    x = dt.placeholder(dt.as_dtype(data.x.dtype), [None, *data.x.shape[1:]], name="x")
    ready = x if x.dtype == "float32" else dt.cast(x, "float32")
    if scale is None:
        front = takewhile(lambda layer: not layer.weights, model.layers)
        itself = any(isinstance(layer, Rescaling | Normalization) for layer in front)
        scale = 1 / 255 if data.x.dtype == np.uint8 and not itself else 1.0
    ready = ready * scale if scale != 1 else ready
    ready = ready if data.x.shape[1:] == shape else dt.reshape(ready, [-1, *shape])
    return x, model(ready, training=False), scale


def _loss_of(model: Any) -> Any:
    """The loss that a model of one output is compiled with, None where it is not."""
    known = model._compiled is not None and len(model._compiled.losses) == 1
    return model._compiled.losses[0] if known else None


def _shape_of(model: Any, path: str) -> tuple[int, ...]:
    """The shape of an example of a Keras model; raises UsageError where it has several inputs or outputs."""
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise UsageError(
            f"{path}: {model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; here a "
            "model has one of each. Let a program load and ask it."
        )
    return tuple(model.inputs[0].spec.shape[1:])


def _keras_results(model: Any, y: dt.Tensor, data: Dataset | None) -> list[Result]:
    loss = _loss_of(model)
    if loss is None and isinstance(y.op.kind, Softmax | Sigmoid):  # not compiled: the activation says it
        names = {Softmax: "categorical_crossentropy", Sigmoid: "binary_crossentropy"}
        loss = losses.get(names[type(y.op.kind)])
    return [_result("", loss, y, data)]


def evaluate_keras(saved: Saved, path: str) -> dict[str, Any]:
    """The loss and metrics that a Keras model was compiled with, over a set's test examples. Collective.

    Raises, on every rank:
        UsageError: its loss is the program's own, or there are no such examples.
    """
    model, data = saved.keras, saved.data
    with model.comm.together():
        if data is None:
            raise UsageError(f"{path} does not say on which data: give it by --dataset.")
        if not data.test:
            raise UsageError(f"--dataset: {data.source} has no test examples.")
        if _loss_of(model) is None:
            raise UsageError(
                f"{path} was trained with a loss or metric of its program's own, which dtrain cannot call: "
                "let the program evaluate it; `dtrain predict` works."
            )
    part, shape = data.part("test"), _shape_of(model, path)
    one_hot = data.kind == CLASSES and isinstance(_loss_of(model), losses.CategoricalCrossentropy)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(part), EVAL_BATCH):
            rows = part[start : start + EVAL_BATCH]
            x = part.data.x[rows].reshape(-1, *shape).astype(np.float32)
            y = part.data.y[rows]
            yield x * np.float32(saved.scale), np.eye(len(data.classes), dtype="f")[y] if one_hot else y

    found = model.evaluate(batches(), verbose=0, return_dict=True)
    return {
        "run_dir": path,
        "model": model.name,
        "epoch": saved.told.get("epoch", 0),
        "step": saved.told.get("step", 0),
        "dataset": data.name,
        "warning": " ".join([*filter(None, [data.warning]), *saved.warnings]) or None,
        "test_examples": len(part),
        **{f"test_{name}": value for name, value in found.items()},
    }


# -- what outputs say --------------------------------------------------------------------------------------
def _results(output: Any, task: Task, data: Dataset) -> list[Result]:
    if isinstance(output, Mapping):
        each = task.loss if isinstance(task.loss, Mapping) else {}
        return [_result(name, losses.get(each.get(name)), y, None) for name, y in output.items()]
    loss = task.loss if task.loss is not None else of_kind(data.kind)[0]
    loss = None if isinstance(loss, Mapping) else losses.get(loss)
    return [_result("", loss, output, data)]


def _result(name: str, loss: Any, y: dt.Tensor, data: Dataset | None) -> Result:
    """What an output says, by the loss that it was trained with; None: numbers."""
    count = (y.shape.as_list()[-1] or 0) if y.shape.ndims == 2 else 0
    if isinstance(loss, losses.SparseCategoricalCrossentropy | losses.CategoricalCrossentropy) and count > 1:
        p = y
        if not isinstance(y.op.kind, Softmax) and loss.from_logits:
            p = dt.nn.softmax(y)
        return Result(name, CLASSES, y, p, dt.cast(dt.argmax(y, 1), "int32"), _names(data, count))
    if isinstance(loss, losses.BinaryCrossentropy) and count:
        p = y
        if not isinstance(y.op.kind, Sigmoid) and loss.from_logits:
            p = dt.sigmoid(y)
        if count == 1:  # one of two classes
            chosen = dt.cast(dt.greater(p[:, 0], 0.5), "int32")
            return Result(name, CLASSES, y, dt.concat([1 - p, p], 1), chosen, _names(data, 2))
        return Result(name, LABELS, y, p, dt.cast(dt.greater(p, 0.5), "uint8"), _names(data, count))
    return Result(name, NUMBERS, y)


def _names(data: Dataset | None, count: int) -> tuple[str, ...]:
    """The names of so many classes or labels: the data's, or their numbers."""
    if data is not None and len(data.classes) == count:
        return tuple(data.classes)
    return tuple(map(str, range(count)))
