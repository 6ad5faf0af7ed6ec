"""A sample of tests/faults/mutated.py, and files that are as large as a disk or no files at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dtrain.cli import main
from dtrain.errors import CheckpointError, DtrainError
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential, load_model, model_from_json

ROOT = Path(__file__).parents[2]


@pytest.mark.alone
def test_a_sample_of_the_campaign() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "mutated.py", "3"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("3 files: ") == 28


@pytest.fixture
def run(tmp_path: Path, small_set: Path) -> Path:
    words = ["train", "--dataset", str(small_set), "--model", "logistic", "--epochs", "1", "--run-dir"]
    assert main([*words, str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("file", ["metrics.jsonl", "mistakes.json", "config.toml"])
@pytest.mark.parametrize("made", ["1 GB", "pipe"])
def test_a_report_does_not_read_for_ever(
    file: str, made: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).unlink()
    if made == "pipe":
        os.mkfifo(run / file)
    else:
        (run / file).touch()
        os.truncate(run / file, 1 << 30)
    begun = time.monotonic()
    code = main(["report", str(run), "--to", str(tmp_path / "report.html")])
    assert time.monotonic() - begun < 20
    if file == "metrics.jsonl":
        assert code == 2 and f"{run / file} cannot be read" in capsys.readouterr().err
    else:
        assert code == 0 and "damaged" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("was", "now"),
    [('"bias_init', '"bias'), ('"units": 3', '"units": "3x"'), ('"layers": [', '"layers": [7, ')],
)
def test_layers_that_cannot_be_made_of_json_are_told(was: str, now: str) -> None:
    text = Sequential([Dense(3, input_shape=(4,))]).to_json()
    assert was in text
    with pytest.raises(DtrainError):
        model_from_json(text.replace(was, now))


def test_what_a_model_is_made_of_is_in_its_digest(tmp_path: Path) -> None:
    model = Sequential([Dense(3, "relu", input_shape=(4,)), Dense(2)])
    path = tmp_path / "m.safetensors"
    model.save(path)
    data = path.read_bytes()
    assert data.count(b"relu") == 1
    path.write_bytes(data.replace(b"relu", b"selu"))
    with pytest.raises(CheckpointError, match="is damaged: its text does not have its digest"):
        load_model(path)
