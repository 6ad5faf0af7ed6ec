"""Files of the user's own: --model FILE.py:function in place of models.py, and --task FILE.py."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from zlib import crc32

import dtrain as dt
from dtrain.config import TrainConfig
from dtrain.data.dataset import CLASSES, LABELS, NUMBERS, Dataset
from dtrain.errors import UsageError
from dtrain.graph.shape import as_static, shape_text
from dtrain.keras.calls import Replay
from dtrain.ops.math import Sigmoid
from dtrain.ops.nn import Softmax
from dtrain.task.models import MODELS
from dtrain.train.task import Task

#: What a model may end in that its loss does itself, by the kind of targets.
_ENDS: dict[str, tuple[type, ...]] = {CLASSES: (Softmax,), LABELS: (Sigmoid,), NUMBERS: ()}
_VALUES = "values of trained models"


class Output(NamedTuple):
    """What a model gives in training and in a test: a tensor, or several by name; one where it is the same.

    added, tested_added: what layers add to the loss besides, in each, such as activity regularizers.
    """

    trained: Any
    tested: Any
    added: Sequence[dt.Tensor] = ()
    tested_added: Sequence[dt.Tensor] = ()


def logits(model: Any, x: dt.Tensor, training: dt.Tensor, data: Dataset) -> Output:
    """What a model of a file gives for examples x [n, numbers] of a set: [n, data.outputs]; see output.

    Raises:
        UsageError: there is no such file or function, or what it gives is something else.
    """
    found = output(model, x, training)
    trained = _logits(model, found.trained, data)
    tested = trained if found.tested is found.trained else _logits(model, found.tested, data)
    return found._replace(trained=trained, tested=tested)


def _logits(model: Any, y: Any, data: Dataset) -> dt.Tensor:
    if not isinstance(y, dt.Tensor):
        raise UsageError(f"{_said(model)} gives {', '.join(y)}: let it return the logits.")
    if isinstance(y.op.kind, _ENDS[data.kind]):  # the loss does it again, stably
        y = y.op.inputs[0]
    if data.outputs == 1 and y.shape.ndims == 1:
        y = dt.expand_dims(y, -1)
    shape = y.spec.shape
    if (
        shape is None
        or len(shape) != 2
        or shape[0] is not None
        or shape[1] != data.outputs
        or y.dtype != "float32"
    ):
        raise UsageError(
            f"{_said(model)} gives {y.dtype.name}{shape_text(shape)}, and the data has {_wanted(data)}: let "
            f"it end in a float32 {'number' if data.kind == NUMBERS else 'logit'} for each, such as "
            f"Dense({data.outputs})."
        )
    return y


def _wanted(data: Dataset) -> str:
    return f"{data.outputs} {data.kind}" if data.kind != NUMBERS else f"targets of {data.outputs} numbers"


def output(model: Any, x: Any, training: dt.Tensor) -> Output:
    """What a model gives for x: that of FILE.py:function, a function or a keras model.

    A function takes (x, training), where x may be tensors by name, and gives the output or several by name;
    or it takes nothing and gives a keras model.

    Raises:
        UsageError: there is no such file or function, or it gives something else.
    """
    made = model
    if isinstance(model, str):
        made = _find(model)
    if callable(made) and not isinstance(made, dt.keras.Model):
        made = made() if _takes(made, 0) else made(x, training)
    if isinstance(made, dt.keras.Model):
        return _of_model(made, x, _said(model))
    several = isinstance(made, Mapping) and made and all(isinstance(v, dt.Tensor) for v in made.values())
    if not (several or isinstance(made, dt.Tensor)):
        raise UsageError(f"{_said(model)} gives {made!r}: let it return the logits, or a keras model.")
    return Output(made, made)


def _said(model: Any) -> str:
    """A model as messages call it."""
    return f"--model {model}" if isinstance(model, str) else "the task's model"


def load_task(config: TrainConfig) -> Task:
    """The task of --task FILE.py[:function]; that of the options alone where there is none.

    Raises:
        UsageError: there is no such file or function, or it gives no Task.
    """
    if not config.task:
        return Task()
    where = config.task if ".py:" in config.task else f"{config.task}:task"
    made = _find(where, "--task", 0)()
    if not isinstance(made, Task):
        raise UsageError(f"--task {config.task} gives {made!r}: let it return dt.Task(...).")
    return made


def check(config: TrainConfig) -> TrainConfig:
    """The options with the digest of --task's and --model's files as they are, before anything of them runs.

    Raises:
        UsageError: there is no such file, or it is not the one that the options name.
    """
    named = [("--task", config.task)] if config.task else []
    named += [] if config.model in MODELS else [("--model", config.model)]
    texts = [_read(name, own) for name, own in named]
    digest = hashlib.sha256(b"".join(texts)).hexdigest() if named else ""
    if config.model_digest not in ("", digest):
        name, own = named[0] if named else ("--model", config.model)
        raise UsageError(
            f"{name} {own}: this file is not the one that trained: it was changed since the run began "
            f"(--model-digest). Read what it does now, and say by {name} {shlex.quote(own)} that it is "
            "meant, or give another."
        )
    return replace(config, model_digest=digest)


def _read(option: str, own: str) -> bytes:
    path = Path(own if own.endswith(".py") else own.rpartition(":")[0])
    if not path.is_file():
        raise UsageError(f"{option} {own}: there is no file {path}: give FILE.py:function by {option}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {own}: {path} cannot be read: {error.strerror}.") from None


def _find(model: str, option: str = "--model", arguments: int = 2) -> Callable[..., Any]:
    """A file's function, which takes no arguments or so many."""
    file, _, name = model.rpartition(":")
    path = Path(file)
    try:
        module = _import(path.resolve())
    except SyntaxError as error:
        raise UsageError(
            f"{option} {model}: {error.filename or path} line {error.lineno} is not Python: {error.msg}."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
        ]
        near = difflib.get_close_matches(name, own, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no functions'}."
        raise UsageError(f"{option} {model}: {path} has no function {name}; {hint}")
    if not (_takes(function, 0) or _takes(function, arguments)):
        raise UsageError(
            f"{option} {model}: {name} takes {inspect.signature(function)}: let it take "
            + (
                "(x, training) and return the logits, or nothing and return a keras Sequential."
                if arguments
                else "nothing, and return dt.Task(...)."
            )
        )
    return function


def _import(path: Path) -> ModuleType:
    """A file as a module of a package that its folder stands for: it may also say `from .other import x`.

    It stays among Python's modules, where dataclasses and pickle look for it, and its folder on the path, as
    if it were run: a function may import a neighbour when it is called.
    """
    folder = str(path.parent)
    package = ModuleType(f"dtrain_model_{crc32(os.fsencode(folder)):08x}")
    package.__path__ = [folder]
    sys.modules.setdefault(package.__name__, package)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"{package.__name__}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _of_model(made: Any, x: Any, said: str) -> Output:
    """A keras model on the examples, in the shape that it takes."""
    sequential = isinstance(made, dt.keras.Sequential)
    if sequential and isinstance(x, Mapping):
        raise UsageError(
            f"{said} is a Sequential, which takes one array, and the data has {', '.join(x)}: write a "
            "function (x, training) of x, a dict of tensors."
        )
    # it may be built, by summary(), say, in a graph of its own
    new = dt.keras.models.clone_model(made) if made.built or not sequential else made
    inputs = [_sequential_input(new, x, said)] if sequential else _inputs(new, x, said)
    trained, added = _called(new, inputs, True)
    tested, tested_added = _called(new, inputs, False)
    _keep_values(made, new)
    return Output(trained, tested, added, tested_added)


def _called(model: Any, inputs: list[dt.Tensor], training: bool) -> tuple[Any, list[dt.Tensor]]:
    """What a model gives, and adds to the loss; its updates are those of the graph's steps."""
    replay = Replay({}, None)
    with replay.block():
        y = model(inputs if len(inputs) > 1 else inputs[0], training)
    for update in replay.updates:
        dt.add_to_collection(dt.GraphKeys.UPDATE_OPS, update)
    added = [t if t.shape.ndims == 0 else dt.reduce_mean(t) for t in replay.losses]
    return dict(zip(model.output_names, y, strict=True)) if isinstance(y, list) else y, added


def _sequential_input(model: Any, x: dt.Tensor, said: str) -> dt.Tensor:
    shape = model.build_shape
    return _shaped(x, shape, said) if shape is not None else _float(x)


def _inputs(model: Any, x: Any, said: str) -> list[dt.Tensor]:
    """The inputs of a model of Input(), by their names where there are several."""
    names = model.input_names
    given = x if isinstance(x, Mapping) else {names[0]: x}
    if {*given} != {*names}:
        has = ", ".join(given) if isinstance(x, Mapping) else "one array"
        raise UsageError(f"{said} takes {', '.join(names)}, and the data has {has}: give x as such a dict.")
    return [_shaped(given[name], shape, said) for name, shape, _ in model.input_specs()]


def _keep_values(made: Any, new: Any) -> None:
    """Let a model that was trained or loaded begin with the values that it has."""
    if made is not new and made.weights and made.home.has(made.weights):
        values = dict(zip(new.weights, made.get_weights(), strict=True))
        new.graph.kept.setdefault(_VALUES, {}).update(values)


def values_of(graph: dt.Graph) -> dict[dt.Variable, Any]:
    """What variables of models in a graph begin with, instead of what their initializers give."""
    return graph.kept.get(_VALUES, {})


def _float(x: dt.Tensor) -> dt.Tensor:
    return x if x.dtype.is_floating else dt.cast(x, "float32")


def _shaped(x: dt.Tensor, shape: tuple[Any, ...], said: str) -> dt.Tensor:
    """Examples in the shape that a model takes."""
    given = tuple(x.shape.as_list()[1:])
    if shape == given or None in shape:
        return _float(x)
    if prod(shape) != prod(as_static(given)):
        what = f"images of {given[0]} pixels" if len(given) == 1 else f"examples of shape {given}"
        raise UsageError(
            f"{said} takes examples of shape {shape}, and the data has {what}: give its first layer "
            f"input_shape={given} or another of as many."
        )
    return dt.reshape(_float(x), [-1, *shape])
