"""Saved parameters come back bit for bit, and damage is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dtrain.errors import CheckpointError
from dtrain.train import checkpoint

VALUES = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "a/bias": np.zeros(3, np.float32)}


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, VALUES, {"epoch": 3})
    values, manifest = checkpoint.load(tmp_path)
    assert manifest["epoch"] == 3
    assert values.keys() == VALUES.keys()
    for name in VALUES:
        np.testing.assert_array_equal(values[name], VALUES[name])
        assert values[name].dtype == VALUES[name].dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.MANIFEST, checkpoint.PARAMETERS]


def test_saving_again_replaces(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, VALUES, {"epoch": 1})
    checkpoint.save(tmp_path, {"b": np.ones(2)}, {"epoch": 2})
    values, manifest = checkpoint.load(tmp_path)
    assert list(values) == ["b"] and manifest["epoch"] == 2


@pytest.mark.parametrize("position", [0, 9, -1])
def test_a_flipped_bit_is_told(tmp_path: Path, position: int) -> None:
    checkpoint.save(tmp_path, VALUES, {})
    data = bytearray((tmp_path / checkpoint.PARAMETERS).read_bytes())
    data[position] ^= 4
    (tmp_path / checkpoint.PARAMETERS).write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", [checkpoint.PARAMETERS, checkpoint.MANIFEST])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, VALUES, {})
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        checkpoint.load(tmp_path)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, VALUES, {})
    (tmp_path / checkpoint.MANIFEST).write_text("[1, 2]")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, VALUES, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(tmp_path, {"b": np.ones(2)}, {"epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)[1]["epoch"] == 1
