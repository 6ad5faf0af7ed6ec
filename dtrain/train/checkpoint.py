"""Parameters on disk: safetensors, and a manifest with their digest that is written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.errors import CheckpointError

PARAMETERS = "parameters.safetensors"
MANIFEST = "parameters.json"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old content or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, values: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write values, by variable name, and a manifest with `about` in it.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    from safetensors.numpy import save as serialize

    data = serialize(dict(values))
    manifest = {**about, "file": PARAMETERS, "sha256": hashlib.sha256(data).hexdigest()}
    try:
        write_atomically(folder / PARAMETERS, data)
        write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(f"the parameters cannot be saved in {folder}: {error}.") from None


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Values by variable name, and the manifest.

    Raises:
        CheckpointError: a file is missing, is not what the manifest says, or is not readable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialize

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        data = (folder / PARAMETERS).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no finished epoch ({Path(error.filename).name} is missing): give the run "
            "directory that `dtrain train` printed."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the parameters in {folder} cannot be read: {error}.") from None
    digest = hashlib.sha256(data).hexdigest()
    if not isinstance(manifest, dict) or manifest.get("sha256") != digest:
        raise CheckpointError(
            f"{folder / PARAMETERS} is damaged: its sha256 is {digest[:16]}..., which is not what {MANIFEST} "
            "says. Train again, or copy both files anew from where they came."
        )
    try:
        return deserialize(data), manifest
    except SafetensorError as error:
        raise CheckpointError(f"{folder / PARAMETERS} is not a safetensors file: {error}.") from None
