"""A model as one file of values (train/checkpoint.py), and beside them what it is made of, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.errors import CheckpointError, DtrainError, UsageError
from dtrain.graph.shape import shape_text
from dtrain.keras.names import as_data, custom_object_scope
from dtrain.ops.state import Variable

if TYPE_CHECKING:
    from dtrain.keras.model import Model

#: Endings of names by which other programs know formats that are not what is written.
OTHERS = (".h5", ".hdf5", ".keras", ".onnx", ".pb", ".pt", ".tf")
#: Before the names of the optimizer's arrays, which are numbered.
STATE = "optimizer/"


def about(model: Model) -> dict[str, Any]:
    """What a model is made of, as plain data.

    Raises:
        UsageError: it is of a class of the user's own.
    """
    from dtrain.keras import models

    kind = "Sequential" if isinstance(model, models.Sequential) else "Model"
    if model._is_own:
        raise UsageError(
            f"{model.name} is of a class of your own, {type(model).__name__}, which a file does not hold: "
            "save_weights, and load_weights into a new one."
        )
    return {"class_name": kind, "config": model.get_config()}


def save(model: Model, path: str | os.PathLike[str], overwrite: bool, whole: bool, optimizer: bool) -> None:
    """Write a model; whole: not its weights alone. Its methods save and save_weights say more."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in OTHERS:
        model.rank_zero.warns(
            f"{os.fspath(path)} is written as safetensors, which load_model of dt.keras reads: dtrain writes "
            f"no {suffix}, and no other program takes it for one.",
        )
    if not overwrite and model.rank_zero.finds(path):
        raise UsageError(f"{os.fspath(path)} is there already: give another path, or overwrite=True.")
    names = [name for name, _ in model.named_weights()]
    arrays = dict(zip(names, model.get_weights(), strict=True))
    described: dict[str, Any] = about(model) if whole else {}
    if whole and model._compiled is not None:
        settled = dict(model._compiled.config)
        if not optimizer:
            settled.pop("optimizer")
        described["compile"] = as_data(settled)
        state = model._compiled.variables if optimizer else []
        if state:
            model.initialize()
            for i, value in enumerate(model.session.run(state)):
                arrays[f"{STATE}{i:04d}"] = np.asarray(value)
        described["iterations"] = int(model.optimizer.iterations)
    described |= {"epochs": model._passes, "order_seed": model._order_seed}
    model.rank_zero.saves(path, arrays, json.dumps(described))


def load_model(
    filepath: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    **options: Any,
) -> Any:
    """The model that save wrote, with its weights, and compiled with its optimizer's state. Collective.

    Args:
        custom_objects: name -> class or function, for layers, losses and the like of your own.
        compile: whether to compile it as it was.
        options: comm and device, as Sequential takes them.

    Raises, on every rank:
        CheckpointError: it is missing or damaged, or holds weights without a model.
        UsageError: a name in it is not known.
    """
    from dtrain.keras.models import Sequential

    path = os.fspath(filepath)
    scout = Sequential(**options)  # whose ranks read together
    with scout.comm.call("load_model"):
        arrays, described = _read(scout, path)
    if "config" not in described:
        raise CheckpointError(
            f"{path} holds weights without a model: build the model, then call its load_weights({path!r})."
        )
    with custom_object_scope(custom_objects):
        model = _made(described, options)
        _take(model, arrays, path)
        model._passes, model._order_seed = int(described.get("epochs", 0)), described.get("order_seed")
        settled = described.get("compile")
        if compile and settled is not None and "optimizer" in settled:
            model.compile(**settled)
            model.optimizer.iterations = int(described.get("iterations", 0))
            state = [arrays[name] for name in sorted(arrays) if name.startswith(STATE)]
            model._optimizer_state = state or None
    return model


def model_from_json(text: str, custom_objects: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """A model of the layers that to_json said, with new weights.

    Raises:
        UsageError: it is not such JSON, or a name in it is not known.
    """
    try:
        with custom_object_scope(custom_objects):
            return _made(json.loads(text), options)
    except DtrainError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"model_from_json: the text is not what to_json() gave ({error}).") from error


def model_from_yaml(text: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """model_from_json, of what to_yaml gave: it is JSON, and no other YAML is read."""
    return model_from_json(text, custom_objects)


def _made(described: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A model of what about() said, with new weights."""
    from dtrain.keras import models

    kind = models.Sequential if described.get("class_name") == "Sequential" else models.Model
    return kind.from_config(described["config"], **options)


def load_weights(model: Model, path: str | os.PathLike[str], by_name: bool = False) -> None:
    """Its method of this name says more."""
    arrays, described = _read(model, path)
    if not described:  # a run's, by the names of variables
        named = {v.op.name: name for name, v in model.named_weights()}
        arrays = {named[name]: value for name, value in arrays.items() if name in named}
    if by_name:
        found = {name: v for name, v in model.named_weights() if name in arrays}
        arrays = {name: arrays[name] for name in found}
        with model.comm.together():
            _check(model, list(found.items()), arrays, os.fspath(path))
        model.initialize()
        model.assign(list(found.values()), list(arrays.values()))
        return
    _take(model, arrays, os.fspath(path))


def restore_state(model: Model, variables: Sequence[Variable], arrays: Sequence[np.ndarray]) -> None:
    """Give the optimizer's variables what was saved of them."""
    found = [(list(a.shape), a.dtype.name) for a in arrays]
    if found != [(v.shape.as_list(), v.dtype.name) for v in variables]:
        raise CheckpointError(
            f"the optimizer's state that {model.name} was loaded with does not fit its weights: call compile "
            "to start with a new one."
        )
    model.assign(variables, arrays)


def _take(model: Model, arrays: Mapping[str, np.ndarray], path: str) -> None:
    """Give the weights the values of a file; raises CheckpointError at the first that does not fit."""
    named = model.named_weights()
    with model.comm.together():
        _check(model, named, arrays, path)
    model.set_weights([arrays[name] for name, _ in named])


def _check(
    model: Model, named: Sequence[tuple[str, Variable]], arrays: Mapping[str, np.ndarray], path: str
) -> None:
    for name, variable in named:
        wanted = shape_text(tuple(variable.shape.as_list()))
        value = arrays.get(name)
        if value is None or list(value.shape) != variable.shape.as_list():
            found = "is not there" if value is None else f"is {shape_text(value.shape)}"
            layer = name.partition("/")[0]
            raise CheckpointError(
                f"{path} holds another model's weights: {name} should be {wanted} and {found}: give layer "
                f"{layer} the arguments that it had there, or load_model the file."
            )
    rest = [name for name in sorted(arrays) if not name.startswith(STATE) and name not in dict(named)]
    if rest:
        raise CheckpointError(
            f"{path} holds another model's weights: {model.name} has no layer for {rest[0]}: load_model the "
            "file, or add the layer."
        )


def _read(model: Model, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A file's arrays, and what it says of the model. Collective."""
    arrays, text = model.rank_zero.reads(path)
    if not text and arrays:
        return arrays, {}
    with model.comm.together():
        try:
            return arrays, dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise CheckpointError(
                f"{os.fspath(path)} is not a model that dt.keras saved: give a file that save() wrote."
            ) from None
