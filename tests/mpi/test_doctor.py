"""The facts that `dtrain doctor` gathers from real ranks, and what they come to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dtrain.bench import allreduce
from dtrain.comm import Communicator, launcher
from dtrain.doctor.checks import FAIL, PASS, examine
from dtrain.doctor.facts import gather

pytestmark = pytest.mark.mpi


def test_ranks_of_one_node_are_found_healthy(
    comm: Communicator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allreduce, "BUDGET", 0.01)
    folder = Path(comm.broadcast_text(str(tmp_path)))
    found = gather(comm, str(folder / "runs"), "auto")
    assert [rank.rank for rank in found.ranks] == list(range(comm.size))
    assert {rank.host for rank in found.ranks} == set(comm.hosts)
    assert (found.launched, found.library, found.sum_is_right) == (comm.size, comm.library, True)
    assert found.launcher and launcher.detect() is not None
    assert all(rank.versions == found.ranks[0].versions for rank in found.ranks)
    assert all(rank.sees_run_dir for rank in found.ranks) and not (folder / "runs").exists()
    assert found.ahead_ns == [0] * comm.size  # one clock
    assert [of["bytes"] for of in found.sums] == [4, 1 << 20, 16 << 20]
    findings = examine(found)
    for name in ("launcher", "versions", "binding", "run directory", "failures"):
        assert findings[name].status == PASS, findings[name]
    crowded = comm.size > (os.cpu_count() or 1)
    assert crowded == (findings["cores"].status != PASS)


def test_each_rank_reads_its_own_folder(
    comm: Communicator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rank alone has a folder that is empty; the others have none, which is no mistake."""
    monkeypatch.setattr(allreduce, "BUDGET", 0.001)
    monkeypatch.delenv("DTRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    last = comm.size - 1
    if comm.rank == last:
        monkeypatch.setenv("DTRAIN_DATA", str(tmp_path))
    found = gather(comm, str(tmp_path), "auto")
    assert [bool(rank.data_problem) for rank in found.ranks] == [rank == last for rank in range(comm.size)]
    finding = examine(found)["data"]
    assert finding.status == FAIL and f"(rank {last}): " in finding.found
    assert "dtrain data fetch" in finding.fix
