"""A sample of tests/campaign on the ranks of this job."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dtrain.comm import Communicator
from dtrain.native import compiler

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))
import campaign as cases
import compare
import programs

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("number", [0, 2, 3, 4, 6, 7, 8, 9])  # 1 and 5 take the second look, seconds each
def test_a_case_gives_what_one_process_gives(number: int, comm: Communicator) -> None:
    how = replace(programs.setting(number), ranks=comm.size)
    if how.kernels == "c" and not compiler.command():
        pytest.skip("no C compiler")
    alone = cases.run(number, programs.Setting(), None)
    found = cases.run(number, how, comm)
    assert len(set(comm.gather_text(compare.digest(found)))) == 1
    wrong = compare.differences(found, alone)
    if wrong and comm.rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder, f"ranks-{number}.npz"), **found)
            wrong, *_ = cases.Jobs(Path(folder), 40).judge([number])[number]
    comm.barrier()
    assert comm.rank or not wrong
