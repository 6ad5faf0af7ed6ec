"""Saving and restoring under mpirun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator

pytestmark = pytest.mark.mpi


def test_rank_0_writes_and_every_rank_goes_on_from_it(
    comm: Communicator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(comm.broadcast_text(str(tmp_path_factory.mktemp("saver"))))
    w = dt.get_variable("w", [3, 2])
    flags = dt.Variable(np.array([True, False, True]), name="flags")
    half = dt.Variable(np.array(1.5, np.float16), name="half")
    step = dt.train.MomentumOptimizer(0.1, 0.9).minimize(dt.reduce_sum(dt.square(w)))
    saver = dt.train.Saver()
    with dt.Session() as session:
        session.run(dt.global_variables_initializer())
        session.run(step)
        saver.save(session, folder / "m", 1)
        session.run(step)
        expected = session.run(w)
    with dt.Session() as session:
        newest = dt.train.latest_checkpoint(folder)
        assert newest == str(folder / "m-1") and dt.train.checkpoint_exists(newest)
        saver.restore(session, newest)
        session.run(step)
        np.testing.assert_array_equal(session.run(w), expected)
        assert session.run(flags).tolist() == [True, False, True] and session.run(half) == 1.5
        everywhere = comm.allgather(session.run(w))
    np.testing.assert_array_equal(everywhere, np.concatenate([expected] * comm.size))
    comm.barrier()
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "m-1.meta", "m-1.safetensors"]
