"""Checkpoints on disk: whole or not there, and nothing believed of what is found there.

A run's folder `checkpoints` holds two files for each step that was saved: `step-00000600.safetensors`, the
values, with the digest of each; and, once those are on the disk, `step-00000600.json`, the manifest: the
digest of all values, what the run knows besides, and its own digest. A checkpoint exists when its manifest
does. Each file is written under another name, synced, renamed, and its folder synced; older checkpoints go
only then. So whatever moment a process or a machine ends at, the last finished checkpoint stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.errors import CheckpointError, DamagedError
from dtrain.files import open_regular, read_regular, sync, write_atomically
from dtrain.graph.shape import shape_text

FOLDER = "checkpoints"
FORMAT = 2
#: Bytes of the header of a values' file, and of a manifest: enough for tens of thousands of variables.
MOST_HEADER = 8 << 20

_NAME = re.compile(r"\.?step-(\d{8,18})\.(?:safetensors|json)(?:\.tmp)?")
#: safetensors' word for each dtype.
_CODES = {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}"
    for kind in ("int", "uint", "float")
    for bits in (8, 16, 32, 64)
}
_CODES["bool"] = "BOOL"


# -- values ----------------------------------------------------------------------------------------------
def spec_text(value: np.ndarray) -> str:
    """'float32(784, 256)': what has to be equal for a value to fit."""
    return f"{value.dtype.name}{shape_text(value.shape)}"


def write_values(path: Path, values: Mapping[str, np.ndarray], about: str = "") -> str:
    """Write a safetensors file with the digest of each value in its metadata; returns the digest of them all.

    about: a text beside them, in the metadata as "dtrain", with a digest of it and all values as "sha256".

    The arrays go from their memory to the file: the library's own writer would copy them twice.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in values.items()}
    digests = {name: digest_of(name, array) for name, array in arrays.items()}
    told = {"dtrain": about, "sha256": digest_of_all({**digests, "dtrain": about})} if about else {}
    header: dict[str, Any] = {"__metadata__": digests | told}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        code = _CODES[array.dtype.name]
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    buffers = (array.reshape(-1).view(np.uint8).data for array in arrays.values())
    write_atomically(path, len(text).to_bytes(8, "little"), text, *buffers)
    return digest_of_all(digests)


class Values:
    """An open file of values: what it says that it holds. Each is read and checked when it is asked for.

    specs: 'float32(784, 256)' by name. sha256: the digest of all values. about: the text beside them.
    """

    def __init__(self, path: Path, opened: Any) -> None:
        self._path, self._opened = path, opened
        self._digests: dict[str, str] = opened.metadata() or {}
        names = {code: dtype for dtype, code in _CODES.items()}
        self.specs = {}
        for name in opened.keys():  # noqa: SIM118 -- no mapping
            stored = opened.get_slice(name)
            dtype = names.get(stored.get_dtype(), stored.get_dtype())
            self.specs[name] = f"{dtype}{shape_text(stored.get_shape())}"
        self.about, whole = "", ""
        if self._digests.keys() - self.specs.keys() == {"dtrain", "sha256"}:
            self.about, whole = self._digests.pop("dtrain"), self._digests.pop("sha256")
        if self.specs.keys() != self._digests.keys():
            raise DamagedError(f"{path} is damaged, or this dtrain did not write it: a value has no digest.")
        if self.about and whole != digest_of_all({**self._digests, "dtrain": self.about}):
            raise DamagedError(f"{path} is damaged: its text does not have its digest.")
        self.sha256 = digest_of_all(self._digests)

    def read(self, name: str) -> np.ndarray:
        """A value; takes as much memory as its spec says.

        Raises:
            CheckpointError: it is not the value that was written.
        """
        if self.specs[name].partition("(")[0] not in _CODES:
            raise DamagedError(f"{self._path} is damaged: {name} has a type that dtrain does not write.")
        value = self._opened.get_tensor(name)
        if digest_of(name, value) != self._digests[name]:
            raise DamagedError(f"{self._path} is damaged: the value of {name} does not have its digest.")
        return value


@contextmanager
def open_values(path: Path) -> Iterator[Values]:
    """Open a file of values. What goes wrong while it is open becomes a CheckpointError that names it."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:
            header = int.from_bytes(file.read(8), "little")
            if header > MOST_HEADER:
                raise DamagedError(f"{path} is damaged: its header would have {header:,} bytes.")
        with safe_open(path, "np") as opened:
            yield Values(path, opened)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def digest_of(name: str, value: np.ndarray) -> str:
    """SHA-256 of a value with its name, dtype and shape, in hex."""
    digest = hashlib.sha256(f"{name} {spec_text(value)}\n".encode())
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def digest_of_all(digests: Mapping[str, Any]) -> str:
    """SHA-256 of several by name, or of other plain data."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


# -- a run's checkpoints ---------------------------------------------------------------------------------
@dataclass
class Checkpoint:
    """One that was read. manifest: what was given to save(), with `step` and `sha256`, the values' digest.

    damaged: what is wrong with newer ones, which were passed over.
    """

    step: int
    manifest: dict[str, Any]
    values: dict[str, np.ndarray]
    damaged: list[str] = field(default_factory=list)


def save(run_dir: Path, step: int, values: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Commit a checkpoint of values, by variable name, and `about`, plain data for its manifest.

    Raises:
        CheckpointError: it cannot be written.
    """
    data, manifest = _paths(run_dir, step)
    try:
        made = not data.parent.is_dir()
        data.parent.mkdir(parents=True, exist_ok=True)
        if data.parent.is_symlink():
            raise OSError(f"{data.parent} is a link")
        if made:
            sync(run_dir)
        content = {**about, "format": FORMAT, "step": step, "sha256": write_values(data, values)}
        content["manifest_sha256"] = digest_of_all(content)
        write_atomically(manifest, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        with suppress(OSError):
            data.unlink(missing_ok=True)  # values without a manifest only take room
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be saved in {data.parent}: {error}. What was saved before "
            "is still there: make room, then continue with --resume."
        ) from None


def prune(run_dir: Path, newest: int, keep: int, best: int = 0) -> None:
    """Remove all checkpoints but the newest `keep` and that of the step `best`, and what crashes have left.

    newest: the step that was saved last. Those of later steps were damaged: the run resumed from before them.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = run_dir / FOLDER
    try:
        names = os.listdir(folder)
        found = {name: int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
        finished = {step for name, step in found.items() if name[0] != "." and name.endswith(".json")}
        kept = {*sorted(step for step in finished if step <= newest)[-keep:], *finished & {best}}
        # manifests go first: a crash in between leaves values without one, which is no checkpoint
        for name in sorted(found, key=lambda name: not name.endswith(".json")):
            if name.startswith(".") or found[name] not in kept:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"old checkpoints in {folder} cannot be removed: {error}.") from None


def steps(run_dir: Path) -> list[int]:
    """Steps of which there is any file, finished or not, ascending; raises CheckpointError for a link."""
    folder = run_dir / FOLDER
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link, which is not followed: link the run directory instead.")
    if not folder.is_dir():
        return []
    matches = map(_NAME.fullmatch, os.listdir(folder))
    return sorted({int(match[1]) for match in matches if match})


def load(
    run_dir: Path,
    choose: Callable[[dict[str, Any], Mapping[str, str]], Collection[str]] | None = None,
    step: int | None = None,
) -> Checkpoint:
    """Read the newest checkpoint that is not damaged, or that of a step.

    choose: gets the manifest and the specs by name, and says which values to read, by default all; it raises
        CheckpointError where they do not fit. No value is read before.

    Raises:
        CheckpointError: there is none, or choose raised it.
    """
    damaged: list[str] = []
    for number in reversed(steps(run_dir)) if step is None else [step]:
        data, path = _paths(run_dir, number)
        try:
            manifest = _read_manifest(path, number)
            with open_values(data) as file:
                if file.sha256 != manifest["sha256"]:
                    raise DamagedError(f"{data} is damaged: its values are not those of {path.name}.")
                names = choose(manifest, file.specs) if choose else file.specs
                return Checkpoint(number, manifest, {name: file.read(name) for name in names}, damaged)
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{run_dir} holds no checkpoint that can be used: {' '.join(damaged)}")
    raise CheckpointError(
        f"{run_dir} holds no checkpoint: give the run directory that `dtrain train` printed, of a run that "
        "came as far as its first one."
    )


def _paths(run_dir: Path, step: int) -> tuple[Path, Path]:
    stem = f"step-{step:08d}"
    return run_dir / FOLDER / f"{stem}.safetensors", run_dir / FOLDER / f"{stem}.json"


def _read_manifest(path: Path, step: int) -> dict[str, Any]:
    try:
        manifest = json.loads(read_regular(path, MOST_HEADER))
        said = manifest.pop("manifest_sha256", None) if isinstance(manifest, dict) else None
        whole = said is not None and said == digest_of_all(manifest)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing: that checkpoint was not written to its end.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not whole:
        raise DamagedError(f"{path} is damaged: it does not have its digest.")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of format {manifest.get('format')}; this dtrain reads {FORMAT}.")
    if manifest.get("step") != step:
        raise DamagedError(f"{path} is damaged: it is the manifest of step {manifest.get('step')}.")
    return manifest
