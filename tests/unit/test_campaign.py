"""A sample of tests/campaign on one process: C kernels, several steps a call; and that it can fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.comm import SingleCommunicator
from dtrain.native import compiler

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))
import campaign as cases
import compare
import programs

needs_compiler = pytest.mark.skipif(not compiler.command(), reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("number", [0, *range(2, 11)])  # 1 takes the second look, which is slow
def test_a_case_in_c_gives_what_numpy_gives(number: int, tmp_path: Path) -> None:
    how = replace(programs.setting(number), ranks=1, kernels="c")
    alone = cases.run(number, programs.Setting(), None)
    assert alone and not compare.not_finite(alone)
    found = cases.run(number, how, SingleCommunicator())
    if wrong := compare.differences(found, alone):
        np.savez(tmp_path / f"ranks-{number}.npz", **found)
        wrong, *_ = cases.Jobs(tmp_path, 60).judge([number])[number]
    assert not wrong


def test_a_number_is_always_the_same_program() -> None:
    for number in range(0, 3000, 97):
        how = programs.setting(number)
        text = programs.program(number, how, whole=True)
        assert text == programs.program(number, how, whole=True)
        compile(text, "case", "exec")
        assert programs.program(number + 1, how) != text


@pytest.mark.parametrize("change", ["value", "shape", "dtype", "missing", "nan"])
def test_what_differs_is_seen(change: str) -> None:
    alone = {"/loss": np.float32(1.5) + np.zeros(()), "/weights": np.linspace(1, 2, 6, dtype=np.float32)}
    found: dict[str, Any] = dict(alone)
    assert not compare.differences(found, alone)
    weights = alone["/weights"].copy()
    if change == "value":
        weights[3] += 1e-5
    elif change == "nan":
        weights[3] = np.nan
    found["/weights"] = {"shape": weights[:5], "dtype": weights.astype(np.float64)}.get(change, weights)
    if change == "missing":
        del found["/weights"]
    assert list(compare.differences(found, alone)) == ["/weights"]
    if change != "dtype":
        assert list(compare.verdict(found, alone, [alone])[0]) == ["/weights"]
    if change == "value":  # where roundings go that far
        found["/loss"] = alone["/loss"]
        moved = {"/loss": alone["/loss"], "/weights": alone["/weights"] + np.float32(4e-6)}
        assert not compare.verdict(found, alone, [alone, moved])[0]
