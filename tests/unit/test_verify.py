"""`dtrain verify`: what it says of two records, and of a model of one's own on one and two ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.cli import main
from dtrain.config import TrainConfig
from dtrain.native import compiler
from dtrain.verify.compare import Difference, drift, entry, first_difference, ulps
from dtrain.verify.run import _head

OWN = """
import numpy as np
import dtrain as dt


def model(x, training):
    h = dt.keras.layers.Dense(9, activation="relu")(x)
    return dt.keras.layers.Dense(3)(dt.keras.layers.Dropout(0.3)(h, training=training))


def task():
    x = np.random.default_rng(0).standard_normal((60, 11)).astype(np.float32)
    loss = dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dt.Task(data=(x, x.argmax(1) % 3), model=model, loss=loss)
"""


def record(**changed: Any) -> dict[str, Any]:
    step = {"loss": "0x1p+0", "sums": ["0x1p+1"], "variables": {"w": "aa", "b": "bb"}}
    whole = {"ops": [["x:0", "MatMul", "11"]], "steps": [step, step], "tested": {"loss": "0x1p-1"}}
    return {**whole, **changed}


@pytest.mark.parametrize(("changed", "found"), [
    ({}, None),
    ({"ops": [["x:0", "MatMul", "12"]]}, Difference(1, "operation", "x:0", before=True)),
    ({"steps": [record()["steps"][0], {**record()["steps"][0], "variables": {"w": "aa", "b": "cc"}}]},
     Difference(2, "variable", "b")),
    ({"steps": [{**record()["steps"][0], "loss": "0x1.8p+0"}] * 2}, Difference(1, "loss", "loss")),
    ({"tested": {"loss": "0x1p-2"}}, Difference(0, "test", "loss")),
])  # fmt: skip
def test_the_first_difference_is_told(changed: dict[str, Any], found: Difference | None) -> None:
    assert first_difference(record(), record(**changed)) == found


def test_units_in_the_last_place() -> None:
    one = np.array([1, -1, 0, 1e-45, np.inf], np.float32)
    other = np.array([1 + 2**-23, -1, -0.0, -1e-45, np.finfo("f").max], np.float32)
    assert ulps(one, other).tolist() == [1, 0, 0, 2, 1]
    assert ulps(one.astype("d"), other.astype("d"))[0] == 2**29
    told = entry(np.zeros(3, "f"), np.array([0, -0.0, 1], "f"))
    assert told.startswith("entry (1,): 0.0 against -0.0, 0 ULP (2 of 3 entries")
    assert drift({"w": one[:2]}, {"w": other[:2]})[0] == 1


@pytest.mark.alone
@pytest.mark.skipif(not compiler.command(), reason="needs a C compiler")
def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Equal with --bitwise; the control, another sum, is found and named; and compared with a file."""
    pytest.importorskip("mpi4py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DTRAIN_SEED", "3")
    Path("own.py").write_text(OWN)
    words = ["verify", "own.py", "--bitwise", "--batch-size", "20", "--steps", "4"]
    assert main([*words, "--ranks", "1,2"]) == 0
    assert "equal: 4 steps on 1, 2 ranks are the same to the bit" in capfd.readouterr().out
    facts = json.loads(Path("verify.json").read_text())
    assert [r["ranks"] for r in facts["records"]] == [1, 2] and not facts["differences"]
    assert main([*words[:-2], "--ranks", "2", "--against", "verify.json", "--to", "again.json"]) == 0
    assert main([*words, "--ranks", "1,2", "--control", "--to", "control.json"]) == 9
    told = json.loads(Path("control.json").read_text())["differences"][0]["told"]
    assert "differs first at step" in told and "SumLike" in told and "a sum of" in told
    assert "entry" in told and "ULP" in told


def test_against_names_other_vectors(capsys: pytest.CaptureFixture[str]) -> None:
    """A file from a processor with other vectors: said in the header, before any digest."""
    here = {"kernels": "C, by cc", "vectors": "AVX2", "processor": "one", "numpy": "2"}
    there = {**here, "vectors": "AVX-512", "processor": "other"}
    _head(TrainConfig(), {"environment": here, "steps": [{}]}, {"environment": there})
    said = capsys.readouterr().out
    assert "vectors: here AVX2, there AVX-512" in said
    assert "processor: here one, there other" in said
