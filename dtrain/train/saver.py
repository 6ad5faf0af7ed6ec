"""Saver: the variables of a session in a file and back, under TensorFlow 1's names.

A checkpoint is one file of values (train/checkpoint.py), `<path>-<step>.safetensors`; the file `checkpoint`
beside it lists those that are kept, in TensorFlow 1's format. Both are replaced whole.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import world
from dtrain.errors import CheckpointError, NotFoundError, UsageError
from dtrain.files import read_regular, write_atomically
from dtrain.graph.graph import TensorLike
from dtrain.ops.state import Variable, global_variables
from dtrain.train.checkpoint import open_values, write_values
from dtrain.train.state import give_values

SUFFIX = ".safetensors"
STATE_FILE = "checkpoint"
#: TensorFlow 1's default of keep_checkpoint_every_n_hours, which keeps none.
NEVER = 10000.0
#: Bytes of a state file, at most.
MOST_BYTES = 1 << 20


@dataclass
class CheckpointState:
    """What a folder's state file says: the newest checkpoint, and all that are kept, oldest first."""

    model_checkpoint_path: str
    all_model_checkpoint_paths: list[str] = field(default_factory=list)


class Saver:
    """Saves variables and restores them. On several ranks rank 0 saves; every rank has to call restore.

    Args:
        var_list: variables, or a dict of them by their names in the file; by default all global ones of the
            default graph.
        reshape, restore_sequentially, saver_def, builder, filename: only their defaults.
        sharded, write_version: change nothing: there is one format, of one file.
        max_to_keep: how many checkpoints are kept, the newest; 0 or None keeps all.
        keep_checkpoint_every_n_hours: of the checkpoints that max_to_keep removes, one in so many hours
            stays.
        name, save_relative_paths: accepted for TensorFlow 1; paths in the state file are relative.
        defer_build: whether the variables are looked up at the first save or restore.
        allow_empty: whether there may be no variables.
        pad_step_number: whether the step is written with 8 digits.

    Raises:
        UsageError: a ValueError. There are no variables, two have one name, or an argument is not supported.
    """

    def __init__(
        self,
        var_list: Sequence[Variable] | Mapping[str, Variable] | None = None,
        reshape: bool = False,
        sharded: bool = False,
        max_to_keep: int | None = 5,
        keep_checkpoint_every_n_hours: float = NEVER,
        name: str | None = None,
        restore_sequentially: bool = False,
        saver_def: None = None,
        builder: None = None,
        defer_build: bool = False,
        allow_empty: bool = False,
        write_version: Any = None,
        pad_step_number: bool = False,
        save_relative_paths: bool = False,
        filename: str | None = None,
    ) -> None:
        for option, given in (
            ("reshape", reshape),
            ("restore_sequentially", restore_sequentially),
            ("saver_def", saver_def),
            ("builder", builder),
            ("filename", filename),
        ):
            if given:
                raise UsageError(f"Saver: {option} is not supported; leave it out.")
        self._every = keep_checkpoint_every_n_hours * 3600
        self._next = time.time() + self._every  # one written after it is kept for good
        self._written: dict[str, float] = {}
        self._max_to_keep = max_to_keep or 0
        self._pad = pad_step_number
        self._allow_empty = allow_empty
        self._kept: list[str] = []
        self._lock = threading.RLock()  # what is kept, and its state file, are one thread's at a time
        self._variables: dict[str, Variable] | None = None
        if var_list is not None or not defer_build:
            self.build(var_list)

    def build(self, var_list: Sequence[Variable] | Mapping[str, Variable] | None = None) -> None:
        """Settle which variables are saved; with defer_build at any later time."""
        if isinstance(var_list, Mapping):
            pairs = list(var_list.items())
        else:
            pairs = [(v.op.name, v) for v in (global_variables() if var_list is None else var_list)]
        for name, variable in pairs:
            if not isinstance(variable, Variable):
                raise UsageError(f"Saver: {name!r} stands for {variable!r}, which is no variable.")
        if not pairs and not self._allow_empty:
            raise UsageError("No variables to save: make the Saver after the model.")
        self._variables = dict(pairs)
        self._var_list = var_list if var_list is not None else list(self._variables.values())
        if len(self._variables) < len(pairs):
            raise UsageError("Saver: the same variable, or two of one name, are in var_list.")

    @property
    def last_checkpoints(self) -> list[str]:
        """Paths of those that this Saver wrote and kept, oldest first."""
        return list(self._kept)

    def set_last_checkpoints(self, last_checkpoints: Sequence[str]) -> None:
        """Continue from these, oldest first: max_to_keep counts them."""
        self._kept = [os.fspath(p) for p in last_checkpoints]

    def recover_last_checkpoints(self, checkpoint_paths: Iterable[str]) -> None:
        """set_last_checkpoints with those that exist."""
        self.set_last_checkpoints([p for p in checkpoint_paths if checkpoint_exists(p)])

    def save(
        self,
        sess: Any,
        save_path: str | os.PathLike[str],
        global_step: Any = None,
        latest_filename: str | None = None,
        meta_graph_suffix: str = "meta",
        write_meta_graph: bool = True,
        write_state: bool = True,
        strip_default_attrs: bool = False,
        about: str = "",
    ) -> str:
        """Write the variables' values; only rank 0 writes, and needs no other rank for it.

        Args:
            sess: the session that holds the values.
            save_path: path of the checkpoint, to which the step is appended.
            global_step: a number, or the variable or tensor of the step.
            latest_filename: name of the state file, by default `checkpoint`.
            meta_graph_suffix: the graph is written to `<path>.<meta_graph_suffix>`, for import_meta_graph.
            write_meta_graph: whether it is written.
            strip_default_attrs: accepted for TensorFlow 1; nothing is left out for being a default.
            write_state: whether the state file is updated.
            about: a text that the file holds beside the values; see saved_about.

        Returns:
            str: the path for restore, `save_path-global_step`.

        Raises:
            FailedPreconditionError: a variable has no value.
            CheckpointError: the folder cannot be written.
        """
        variables = self._built()
        if isinstance(global_step, TensorLike):
            global_step = sess.run(global_step)
        path = os.fspath(save_path)
        if global_step is not None:
            step = int(global_step)
            path = f"{path}-{step:08d}" if self._pad else f"{path}-{step}"
        if not os.path.basename(path):
            raise UsageError(
                f"Saver.save: {path!r} is a folder: give a name in it, {os.path.join(path, 'model')!r}."
            )
        fetched = sess.run(list(variables.values()))
        values = {name: np.asarray(v) for name, v in zip(variables, fetched, strict=True)}
        with self._lock:
            kept = [p for p in self._kept if p != path] + [path]
            excess = len(kept) - self._max_to_keep if self._max_to_keep else 0
            old, self._kept = kept[: max(excess, 0)], kept[max(excess, 0) :]
            self._written[path] = time.time()
            old = [gone for gone in old if not self._stays(gone)]
            if sess.comm.rank == 0:
                _write(path, values, about)
                if write_meta_graph:
                    self.export_meta_graph(f"{path}.{meta_graph_suffix}", graph=sess.graph)
                if write_state:
                    update_checkpoint_state(
                        os.path.dirname(path), path, self._kept, latest_filename or STATE_FILE
                    )
                for gone in old:
                    for file in (_file(gone), Path(f"{gone}.{meta_graph_suffix}")):
                        file.unlink(missing_ok=True)
        return path

    def _stays(self, path: str) -> bool:
        """Whether one that max_to_keep lets go is the next of those that stay."""
        if self._written.pop(path, 0.0) <= self._next:
            return False
        self._next += self._every
        return True

    def export_meta_graph(
        self, filename: str | os.PathLike[str] | None = None, *args: Any, **named: Any
    ) -> Any:
        """train.export_meta_graph with the variables of this Saver, which import_meta_graph reads."""
        from dtrain.train.meta_graph import export_meta_graph

        return export_meta_graph(filename, None, None, None, *args, saved=self._built(), **named)

    def restore(self, sess: Any, save_path: str | os.PathLike[str]) -> None:
        """Set the variables to saved values; they need not be initialized. Collective: rank 0 reads for all.

        Args:
            sess: the session.
            save_path: what save or latest_checkpoint returned.

        Raises:
            CheckpointError: a ValueError. There is no such checkpoint, it is damaged, or a variable is not in
                it or has another shape or dtype there. No variable is changed then.
        """
        variables, comm = self._built(), sess.comm
        path = "" if save_path is None else os.fspath(save_path)
        values: dict[str, np.ndarray] = {}
        with comm.call("Saver.restore"):
            with comm.together():
                if comm.rank == 0:
                    values = _read(variables, path)
            give_values(sess, variables, values)

    def _built(self) -> dict[str, Variable]:
        if self._variables is None:
            self.build()
        assert self._variables is not None
        return self._variables


# -- the values' file --------------------------------------------------------------------------------------
def _file(path: str) -> Path:
    return Path(path + SUFFIX)


def saved_about(path: str) -> str:
    """The text beside the values of a checkpoint, "" where there is none; raises CheckpointError."""
    with open_values(_file(path)) as file:
        return file.about


def read_variables(path: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The values of a checkpoint's variables by name, by default of all.

    Raises:
        CheckpointError: it cannot be read, or has no such variable.
    """
    with open_values(_file(path)) as file:
        wanted = list(file.specs if names is None else names)
        if missing := [name for name in wanted if name not in file.specs]:
            raise CheckpointError(f"Key {missing[0]} not found in checkpoint {path}.")
        return {name: file.read(name) for name in wanted}


def _write(path: str, values: Mapping[str, np.ndarray], about: str) -> None:
    try:
        _file(path).parent.mkdir(parents=True, exist_ok=True)
        write_values(_file(path), values, about)
    except OSError as error:
        raise CheckpointError(f"the variables cannot be saved as {_file(path)}: {error}.") from None


def _read(variables: Mapping[str, Variable], path: str) -> dict[str, np.ndarray]:
    """The value of each variable; raises CheckpointError at the first that has none or another shape."""
    if not path or not _file(path).is_file():
        raise CheckpointError(
            f"The passed save_path is not a valid checkpoint: {path or None}. There is no file "
            f"{_file(path)}; give what Saver.save returned, or train.latest_checkpoint(folder)."
        )
    with open_values(_file(path)) as file:
        for name, variable in variables.items():
            wanted, found = f"{variable.dtype.name}{variable.shape}", file.specs.get(name)
            if found is None:
                raise NotFoundError(f"Key {name} not found in checkpoint {path}: the variable is {wanted}.")
            if found != wanted:
                raise CheckpointError(
                    f"the variable {name} is {wanted}, and {found} in the checkpoint {path}."
                )
        return {name: file.read(name) for name in variables}


# -- the state file ----------------------------------------------------------------------------------------
def update_checkpoint_state(
    save_dir: str,
    model_checkpoint_path: str,
    all_model_checkpoint_paths: Sequence[str] | None = None,
    latest_filename: str | None = None,
) -> None:
    """Write a folder's state file; paths inside the folder are written relative to it.

    Args:
        save_dir: the folder.
        model_checkpoint_path: the newest checkpoint.
        all_model_checkpoint_paths: all that are kept, oldest first.
        latest_filename: name of the state file, by default `checkpoint`.
    """
    paths = list(all_model_checkpoint_paths or ())
    if model_checkpoint_path not in paths:
        paths.append(model_checkpoint_path)
    names = [("model_checkpoint_path", model_checkpoint_path)]
    names += [("all_model_checkpoint_paths", path) for path in paths]
    folder = Path(save_dir)
    lines = []
    for key, path in names:
        # a Saver may have saved elsewhere before: a folder lists its own
        if os.path.dirname(path) == os.fspath(save_dir):
            lines.append(f"{key}: {json.dumps(os.path.basename(path))}\n")
        elif key == "model_checkpoint_path":
            raise UsageError(f"the state of {folder} cannot name {path}: it is in another folder.")
    try:
        write_atomically(folder / (latest_filename or STATE_FILE), "".join(lines).encode())
    except OSError as error:
        raise CheckpointError(f"the state of {folder} cannot be written: {error}.") from None


def get_checkpoint_state(
    checkpoint_dir: str | os.PathLike[str], latest_filename: str | None = None
) -> CheckpointState | None:
    """The contents of a folder's state file, or None. Collective: rank 0 reads for all.

    Args:
        checkpoint_dir: the folder.
        latest_filename: name of the state file, by default `checkpoint`.

    Returns:
        CheckpointState or None: with model_checkpoint_path and all_model_checkpoint_paths.

    Raises:
        CheckpointError: the file is not a state file.
    """
    comm, text = world(), ""
    file = Path(checkpoint_dir) / (latest_filename or STATE_FILE)
    with comm.call("train.get_checkpoint_state"):
        with comm.together():
            if comm.rank == 0 and file.is_file():
                try:
                    text = read_regular(file, MOST_BYTES).decode()
                except (OSError, ValueError) as error:
                    raise CheckpointError(f"{file} cannot be read: {error}.") from None
        text = comm.broadcast_text(text)
    if not text:
        return None
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r'(\w+): "((?:[^"\\]|\\.)*)"', line.strip())
        try:
            name = json.loads(f'"{match[2]}"') if match else ""
        except ValueError:
            name = ""
        if match is None or not name:
            raise CheckpointError(f"{file} is not a checkpoint state file: it says {line[:80]!r}.")
        if os.path.basename(name) != name or name in (os.curdir, os.pardir):
            raise CheckpointError(f"{file} names {name!r}, which is not in its folder.")
        found.setdefault(match[1], []).append(os.path.join(os.fspath(checkpoint_dir), name))
    newest = found.get("model_checkpoint_path")
    if not newest:
        raise CheckpointError(f"{file} is not a checkpoint state file: it names no model_checkpoint_path.")
    return CheckpointState(newest[0], found.get("all_model_checkpoint_paths", []))


def latest_checkpoint(
    checkpoint_dir: str | os.PathLike[str], latest_filename: str | None = None
) -> str | None:
    """The path of the newest checkpoint of a folder, for Saver.restore, or None. Collective.

    Args:
        checkpoint_dir: the folder.
        latest_filename: name of the state file, by default `checkpoint`.

    Returns:
        str or None: the same on every rank.

    Raises:
        CheckpointError: the state file is not one.
    """
    state = get_checkpoint_state(checkpoint_dir, latest_filename)
    return state.model_checkpoint_path if state and checkpoint_exists(state.model_checkpoint_path) else None


def checkpoint_exists(checkpoint_prefix: str) -> bool:
    """Whether there is a checkpoint. Collective.

    Args:
        checkpoint_prefix: a path that Saver.save returned.

    Returns:
        bool: the same on every rank.
    """
    comm = world()
    found = np.array([_file(os.fspath(checkpoint_prefix)).is_file()])
    with comm.call("train.checkpoint_exists"):
        return bool(comm.broadcast(found.view(np.uint8))[0])
