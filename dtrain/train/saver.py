"""Saver: the variables of a session in a file and back, under TensorFlow 1's names.

A checkpoint is one safetensors file, `<path>-<step>.safetensors`, whose metadata holds a digest of its
values; the file `checkpoint` beside it lists those that are kept, in TensorFlow 1's format. Both are replaced
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import world
from dtrain.errors import CheckpointError, UsageError
from dtrain.graph.graph import TensorLike
from dtrain.graph.shape import shape_text
from dtrain.ops.state import Variable, global_variables
from dtrain.train.checkpoint import write_atomically

SUFFIX = ".safetensors"
STATE_FILE = "checkpoint"
#: TensorFlow 1's default of keep_checkpoint_every_n_hours, which keeps none.
NEVER = 10000.0


@dataclass
class CheckpointState:
    """What a folder's state file says: the newest checkpoint, and all that are kept, oldest first."""

    model_checkpoint_path: str
    all_model_checkpoint_paths: list[str] = field(default_factory=list)


class Saver:
    """Saves variables and restores them. On several ranks both are collective: every rank calls them.

    Args:
        var_list: variables, or a dict of them by the name they have in the file; by default all global ones
            that the default graph has now (with defer_build: at the first save or restore).
        max_to_keep: how many checkpoints are kept, the newest; 0 or None keeps all.
        allow_empty: whether there may be no variables.
        pad_step_number: write the step with 8 digits.
        reshape, sharded, restore_sequentially, saver_def, builder, write_version, filename: only their
            defaults, since there is one format. keep_checkpoint_every_n_hours: only its default.
        name, save_relative_paths: without a meaning here; paths in the state file are relative.

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
            ("sharded", sharded),
            ("restore_sequentially", restore_sequentially),
            ("saver_def", saver_def),
            ("builder", builder),
            ("write_version", write_version),
            ("filename", filename),
        ):
            if given:
                raise UsageError(f"Saver: {option} is not supported; leave it out.")
        if keep_checkpoint_every_n_hours != NEVER:
            raise UsageError("Saver: keep_checkpoint_every_n_hours is not supported; use max_to_keep.")
        self._max_to_keep = max_to_keep or 0
        self._pad = pad_step_number
        self._allow_empty = allow_empty
        self._kept: list[str] = []
        self._variables: dict[str, Variable] | None = None
        if var_list is not None or not defer_build:
            self.build(var_list)

    def build(self, var_list: Sequence[Variable] | Mapping[str, Variable] | None = None) -> None:
        """Settle which variables are saved; with defer_build at a time of one's own."""
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
        if len(self._variables) < len(pairs):
            raise UsageError("Saver: the same variable, or two of one name, are in var_list.")

    @property
    def last_checkpoints(self) -> list[str]:
        """Paths of those that this Saver wrote and kept, oldest first."""
        return list(self._kept)

    def set_last_checkpoints(self, last_checkpoints: Sequence[str]) -> None:
        """Go on from these, oldest first: max_to_keep counts them."""
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
    ) -> str:
        """Write the variables' values and return the path to restore from, `save_path-global_step`.

        Only rank 0 writes. There is no meta graph: the program builds the graph, so meta_graph_suffix,
        write_meta_graph and strip_default_attrs are without a meaning.

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
        fetched = sess.run(list(variables.values()))
        values = {name: np.asarray(v) for name, v in zip(variables, fetched, strict=True)}
        kept = [p for p in self._kept if p != path] + [path]
        excess = len(kept) - self._max_to_keep if self._max_to_keep else 0
        old, self._kept = kept[: max(excess, 0)], kept[max(excess, 0) :]
        with sess.comm.together():
            if sess.comm.rank == 0:
                _write(path, values)
                if write_state:
                    update_checkpoint_state(
                        os.path.dirname(path), path, self._kept, latest_filename or STATE_FILE
                    )
                for gone in old:
                    _file(gone).unlink(missing_ok=True)
        return path

    def restore(self, sess: Any, save_path: str | os.PathLike[str]) -> None:
        """Give the variables their saved values, which rank 0 reads for all; no initializer need run before.

        Raises:
            CheckpointError: a ValueError. There is no such checkpoint, it is damaged, or a variable is not in
                it or has another shape or dtype there. No variable is changed then.
        """
        variables, comm = self._built(), sess.comm
        path = "" if save_path is None else os.fspath(save_path)
        values: dict[str, np.ndarray] = {}
        with comm.together():
            if comm.rank == 0:
                values = _fitting(variables, _read(path), path)
        for name, variable in variables.items():
            dims = variable.shape.as_list()
            value = values[name] if comm.rank == 0 else np.empty(dims, variable.dtype.numpy)
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # MPI knows bytes, not every dtype
            comm.broadcast(flat)
            sess.set_value(variable, flat.view(value.dtype).reshape(dims))

    def _built(self) -> dict[str, Variable]:
        if self._variables is None:
            self.build()
        assert self._variables is not None
        return self._variables


# -- the values' file --------------------------------------------------------------------------------------
def _file(path: str) -> Path:
    return Path(path + SUFFIX)


def _digest(values: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(values):
        value = np.ascontiguousarray(values[name])
        digest.update(f"{name} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _write(path: str, values: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save as serialize

    contiguous = {name: np.ascontiguousarray(v).reshape(v.shape) for name, v in values.items()}
    data = serialize(contiguous, {"sha256": _digest(contiguous)})
    try:
        _file(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(path), data)
    except OSError as error:
        raise CheckpointError(f"the variables cannot be saved as {_file(path)}: {error}.") from None


def _read(path: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    file = _file(path)
    if not path or not file.is_file():
        raise CheckpointError(
            f"The passed save_path is not a valid checkpoint: {path or None}. There is no file {file}; give "
            "what Saver.save returned, or train.latest_checkpoint(folder)."
        )
    try:
        with safe_open(file, "np") as opened:
            about = opened.metadata() or {}
            values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from None
    if "sha256" in about and about["sha256"] != _digest(values):
        raise CheckpointError(f"{file} is damaged: its values do not have the digest that it says.")
    return values


def _fitting(
    variables: Mapping[str, Variable], values: Mapping[str, np.ndarray], path: str
) -> dict[str, np.ndarray]:
    """The value of each variable; raises CheckpointError at the first that has none or another shape."""
    for name, variable in variables.items():
        wanted = f"{variable.dtype.name}{variable.shape}"
        value = values.get(name)
        if value is None:
            raise CheckpointError(f"Key {name} not found in checkpoint {path}: the variable is {wanted}.")
        found = f"{value.dtype.name}{shape_text(value.shape)}"
        if found != wanted:
            raise CheckpointError(f"the variable {name} is {wanted}, and {found} in the checkpoint {path}.")
    return {name: values[name] for name in variables}


# -- the state file ----------------------------------------------------------------------------------------
def update_checkpoint_state(
    save_dir: str,
    model_checkpoint_path: str,
    all_model_checkpoint_paths: Sequence[str] | None = None,
    latest_filename: str | None = None,
) -> None:
    """Write a folder's state file; paths inside the folder are written relative to it."""
    paths = list(all_model_checkpoint_paths or ())
    if model_checkpoint_path not in paths:
        paths.append(model_checkpoint_path)
    names = [("model_checkpoint_path", model_checkpoint_path)]
    names += [("all_model_checkpoint_paths", path) for path in paths]
    folder = Path(save_dir)
    lines = []
    for key, path in names:
        inside = os.path.dirname(path) == os.fspath(save_dir)
        shown = os.path.basename(path) if inside else os.path.abspath(path)
        lines.append(f"{key}: {json.dumps(shown)}\n")
    try:
        write_atomically(folder / (latest_filename or STATE_FILE), "".join(lines).encode())
    except OSError as error:
        raise CheckpointError(f"the state of {folder} cannot be written: {error}.") from None


def get_checkpoint_state(
    checkpoint_dir: str | os.PathLike[str], latest_filename: str | None = None
) -> CheckpointState | None:
    """What a folder's state file says; None where there is none. Collective: rank 0 looks for all.

    Raises:
        CheckpointError: the file is not a state file.
    """
    comm, text = world(), ""
    file = Path(checkpoint_dir) / (latest_filename or STATE_FILE)
    with comm.together():
        if comm.rank == 0 and file.is_file():
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{file} cannot be read: {error}.") from None
    text = comm.broadcast_text(text)
    if not text:
        return None
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r'(\w+): (".*")', line.strip())
        if match is None:
            raise CheckpointError(f"{file} is not a checkpoint state file: it says {line!r}.")
        path = os.path.join(os.fspath(checkpoint_dir), json.loads(match[2]))
        found.setdefault(match[1], []).append(path)
    newest = found.get("model_checkpoint_path")
    if not newest:
        raise CheckpointError(f"{file} is not a checkpoint state file: it names no model_checkpoint_path.")
    return CheckpointState(newest[0], found.get("all_model_checkpoint_paths", []))


def latest_checkpoint(
    checkpoint_dir: str | os.PathLike[str], latest_filename: str | None = None
) -> str | None:
    """The newest checkpoint of a folder, to give to Saver.restore; None where there is none. Collective."""
    state = get_checkpoint_state(checkpoint_dir, latest_filename)
    return state.model_checkpoint_path if state and checkpoint_exists(state.model_checkpoint_path) else None


def checkpoint_exists(checkpoint_prefix: str) -> bool:
    """Whether there is a checkpoint that Saver.save returned this path for. Collective."""
    comm = world()
    found = np.array([_file(os.fspath(checkpoint_prefix)).is_file()])
    return bool(comm.broadcast(found.view(np.uint8))[0])
