"""Every command and file of docs/predict.md, as it stands there, in its order."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dtrain.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "predict.md").read_text()
BLOCKS = re.findall(r"```(python)?\n(.*?)```", PAGE, re.S)


def test_the_page_is_read() -> None:
    assert sum(not language for language, _ in BLOCKS) == 4
    assert [text.splitlines()[0] for language, text in BLOCKS if language] == ["# small.py", "# ask.py"]


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TRAIN", 500)
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TEST", 100)
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    for language, text in BLOCKS:
        name = text.splitlines()[0].removeprefix("# ")
        if language:
            Path(name).write_text(text)
            if name == "ask.py" and Path("digits.onnx").exists() and importlib.util.find_spec("onnxruntime"):
                said = subprocess.run(
                    [sys.executable, name], env=here, check=True, capture_output=True, text=True
                )
                assert len(eval(said.stdout)) == 3
            continue
        for line in text.splitlines():
            command, *words = shlex.split(line)
            if command == "python":
                subprocess.run([sys.executable, *words], env=here, check=True)
            elif words[0] != "export" or importlib.util.find_spec("onnx"):
                assert main(words) == 0, line
    assert len(np.load("digits.npy")) == 600
    assert len(Path("digits.csv").read_text().splitlines()) == 101
    assert Path("digits.csv").read_text().startswith("row,class,p_0,p_1")
