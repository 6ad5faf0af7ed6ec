"""--model FILE.py:function: a model of the user's own, in place of those of models.py."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import dtrain as dt
from dtrain.config import TrainConfig
from dtrain.errors import UsageError
from dtrain.graph.shape import shape_text
from dtrain.ops.nn import Softmax
from dtrain.task.models import MODELS


def logits(model: str, x: dt.Tensor, training: dt.Tensor, classes: int) -> dt.Tensor:
    """The logits [n, classes] of a model, by its name or as FILE.py:function, for images x [n, pixels].

    The function takes (x, training) and gives the logits, or takes nothing and gives a keras Sequential.

    Raises:
        UsageError: there is no such file or function, or what it gives are no logits for these classes.
    """
    if model in MODELS:
        return MODELS[model](x, training)
    function = _find(model)
    y = _of_sequential(function(), x, training, model) if _takes(function, 0) else function(x, training)
    if isinstance(y, dt.keras.Sequential):
        y = _of_sequential(y, x, training, model)
    if not isinstance(y, dt.Tensor):
        raise UsageError(f"--model {model} gives {y!r}: let it return the logits, or a keras Sequential.")
    if isinstance(y.op.kind, Softmax):  # the loss does it again, stably
        y = y.op.inputs[0]
    shape = y.spec.shape
    if (
        shape is None
        or len(shape) != 2
        or shape[0] is not None
        or shape[1] != classes
        or y.dtype != "float32"
    ):
        raise UsageError(
            f"--model {model} gives {y.dtype.name}{shape_text(shape)}, and the data has {classes} classes: "
            f"let it end in a float32 logit for each, such as Dense({classes})."
        )
    return y


def check(config: TrainConfig) -> TrainConfig:
    """The options with the digest of the model's file as it is now, before anything of it runs.

    Raises:
        UsageError: there is no such file, or it is not the one that the options name.
    """
    model, known = config.model, config.model_digest
    digest = "" if model in MODELS else hashlib.sha256(_read(model)).hexdigest()
    if known not in ("", digest):
        raise UsageError(
            f"--model {model}: this file is not the one that trained: it was changed since the run began "
            f"(--model-digest). Read what it does now, and say by --model {shlex.quote(model)} that it is "
            "meant, or give another."
        )
    return replace(config, model_digest=digest)


def _read(model: str) -> bytes:
    path = Path(model.rpartition(":")[0])
    if not path.is_file():
        raise UsageError(f"--model {model}: there is no file {path}: give FILE.py:function by --model.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--model {model}: {path} cannot be read: {error.strerror}.") from None


def _find(model: str) -> Callable[..., Any]:
    file, _, name = model.rpartition(":")
    path = Path(file)
    try:
        module = _import(path.resolve())
    except SyntaxError as error:
        raise UsageError(
            f"--model {model}: {error.filename or path} line {error.lineno} is not Python: {error.msg}."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
        ]
        near = difflib.get_close_matches(name, own, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no functions'}."
        raise UsageError(f"--model {model}: {path} has no function {name}; {hint}")
    if not (_takes(function, 0) or _takes(function, 2)):
        raise UsageError(
            f"--model {model}: {name} takes {inspect.signature(function)}: let it take (x, training) and "
            "return the logits, or nothing and return a keras Sequential."
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


def _of_sequential(made: Any, x: dt.Tensor, training: dt.Tensor, model: str) -> Any:
    """A Sequential on the images, in the shape that it takes; anything else as it is."""
    if not isinstance(made, dt.keras.Sequential):
        return made
    if made.built:  # by summary(), say, in a graph of its own
        made = dt.keras.models.clone_model(made)
    shape = made.build_shape
    pixels = x.shape.as_list()[1]
    if shape is not None and prod(shape) != pixels:
        raise UsageError(
            f"--model {model} takes examples of shape {shape}, and the data has images of {pixels} pixels: "
            f"give its first layer input_shape=({pixels},) or another of as many."
        )
    return made(x if shape is None else dt.reshape(x, [-1, *shape]), training)
