"""dtrain predict under mpirun: the file that one rank writes; and images that change are the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dtrain.comm import Communicator, SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task import predict, trainer
from dtrain.task.saved import open_saved

pytestmark = pytest.mark.mpi

TASK = """
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense, Flatten
from dtrain.keras.models import Sequential


def task():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (90, 8, 8), "uint8"), rng.integers(0, 3, 90).astype("int32")
    model = Sequential([Flatten(input_shape=(8, 8)), Dense(3)])
    return dt.Task(data=((x[:59], y[:59]), (x[59:], y[59:])), model=model)
"""


@pytest.fixture
def folder(comm: Communicator) -> Iterator[Path]:
    """One folder of all ranks."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(comm.broadcast_text(made))
        if comm.rank == 0:
            (path / "kinds.py").write_text(TASK)
        comm.barrier()
        yield path
        comm.barrier()


def test_the_file_of_all_ranks_is_that_of_one(
    comm: Communicator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(run: str) -> TrainConfig:
        return TrainConfig(
            task=str(folder / "kinds.py"), augment="shift:2,flip,crop:2,cutout:3", lr=1e-5, epochs=2,
            batch_size=10, tensorboard="off", run_dir=str(folder / run),
        )  # fmt: skip

    together = trainer.train(config("together"), comm)
    monkeypatch.setattr(predict, "EVAL_BATCH", 9)
    saved = open_saved(str(folder / "together"), comm, {})
    assert saved.data is not None
    to = folder / "together.npy"
    predict.write(saved, predict.parts_of(saved.data, "all"), comm, str(to), True)
    if comm.rank == 0:
        alone = trainer.train(config("alone"), SingleCommunicator())
        assert together["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-5)
        one = open_saved(str(folder / "together"), SingleCommunicator(), {})
        assert one.data is not None
        predict.write(one, predict.parts_of(one.data, "all"), SingleCommunicator(), f"{folder}/one.npy", True)
        np.testing.assert_allclose(np.load(to), np.load(folder / "one.npy"), rtol=1e-6, atol=1e-6)
        assert np.load(to).shape == (90, 3)
