"""What is in a checkpoint, without a session: its variables' names, shapes and values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.errors import CheckpointError, UsageError
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import get_collection, get_default_graph
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.state import Variable
from dtrain.train.saver import SUFFIX, latest_checkpoint, read_variables

Where = str | os.PathLike[str]


def _path(checkpoint: Where) -> str:
    """The checkpoint itself, or the newest of a folder."""
    path = os.fspath(checkpoint)
    if Path(path + SUFFIX).is_file():
        return path
    newest = latest_checkpoint(path) if Path(path).is_dir() else None
    if newest is None:
        raise CheckpointError(f"Couldn't find 'checkpoint' file or checkpoints in given directory {path}.")
    return newest


class CheckpointReader:
    """The values of a checkpoint that Saver.save wrote; raises CheckpointError where there is none."""

    def __init__(self, filepattern: Where) -> None:
        self._values = read_variables(_path(filepattern))

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(value.shape) for name, value in self._values.items()}

    def get_variable_to_dtype_map(self) -> dict[str, DType]:
        return {name: as_dtype(value.dtype) for name, value in self._values.items()}

    def has_tensor(self, tensor_str: str) -> bool:
        return tensor_str in self._values

    def get_tensor(self, tensor_str: str) -> np.ndarray:
        """A variable's value; raises CheckpointError where there is none of this name."""
        if tensor_str not in self._values:
            raise CheckpointError(f"Key {tensor_str} not found in checkpoint.")
        return self._values[tensor_str]

    def debug_string(self) -> bytes:
        """A line for each: its name, dtype and shape."""
        lines = [f"{name} ({v.dtype.name}) {list(v.shape)}" for name, v in sorted(self._values.items())]
        return "\n".join(lines).encode()


#: As TensorFlow spells it.
NewCheckpointReader = CheckpointReader


def load_checkpoint(ckpt_dir_or_file: Where) -> CheckpointReader:
    """A reader of a checkpoint, or of the newest of a folder."""
    return CheckpointReader(ckpt_dir_or_file)


def load_variable(ckpt_dir_or_file: Where, name: str) -> np.ndarray:
    """The value of a variable, whose name may end in ':0'."""
    return CheckpointReader(ckpt_dir_or_file).get_tensor(name.removesuffix(":0"))


def list_variables(ckpt_dir_or_file: Where) -> list[tuple[str, list[int]]]:
    """(name, shape) of each variable, by name."""
    return sorted(CheckpointReader(ckpt_dir_or_file).get_variable_to_shape_map().items())


def init_from_checkpoint(ckpt_dir_or_file: Where, assignment_map: Mapping[str, Any]) -> None:
    """Let variables of the default graph begin with the values of a checkpoint: their initializers give them.

    assignment_map: by a name there, a variable or its name here; by a scope there that ends in '/', a scope
    here.

    Raises:
        CheckpointError: there is no such checkpoint, or no such variable in it.
        UsageError: there is no such variable here, or it has another shape.
    """
    reader = CheckpointReader(ckpt_dir_or_file)
    here = {v.op.name: v for v in get_collection("variables")}
    for old, new in assignment_map.items():
        if not old.endswith("/"):
            variable = new if isinstance(new, Variable) else here.get(new)
            if variable is None:
                raise UsageError(f"init_from_checkpoint: there is no variable {new!r} here.")
            _begin_with(variable, reader.get_tensor(old))
            continue
        found = {n: v for n, v in here.items() if n.startswith(str(new).lstrip("/"))}
        if not found:
            raise UsageError(f"init_from_checkpoint: there are no variables in the scope {new!r} here.")
        for name, variable in found.items():
            _begin_with(variable, reader.get_tensor(old.lstrip("/") + name[len(str(new).lstrip("/")) :]))


def _begin_with(variable: Variable, value: np.ndarray) -> None:
    if list(value.shape) != variable.shape.as_list():
        raise UsageError(
            f"init_from_checkpoint: {variable.op.name} has the shape {variable.shape}, and {value.shape} in "
            "the checkpoint."
        )
    with variable.graph.as_default(), variable.graph.control_dependencies(None):
        variable.begin_with(convert_to_tensor(value, variable.dtype))


def assign_from_checkpoint_fn(
    model_path: Where, var_list: Any, ignore_missing_vars: bool = False, reshape_variables: bool = False
) -> Callable[[Any], None]:
    """A function of a session that gives variables their values in a checkpoint.

    var_list: variables, or a dict of them by their names there. ignore_missing_vars: leave out those that
    are not there.

    Raises:
        UsageError: reshape_variables is asked for.
    """
    from dtrain.train.saver import Saver

    if reshape_variables:
        raise UsageError("assign_from_checkpoint_fn: reshape_variables is not supported: leave it out.")
    path = _path(model_path)
    wanted = dict(var_list) if isinstance(var_list, Mapping) else {v.op.name: v for v in var_list}
    if ignore_missing_vars:
        there = CheckpointReader(path).get_variable_to_shape_map()
        wanted = {name: v for name, v in wanted.items() if name in there}
    with get_default_graph().as_default():
        saver = Saver(wanted, allow_empty=True)
    return lambda session: saver.restore(session, path)
