"""An epoch of Keras's fit beside an epoch of `dtrain train`: the same MLP, Adam and batch of 100, in turns.

    [mpirun -n 2] python benchmarks/keras_fit.py [--epochs 16] [--dataset DIR]

One process trains both: whenever `dtrain train` has ended an epoch, fit goes on with its own model for one.
Both count from the epoch's first step to its last, without tests, and fit also as a whole, with the copying
and comparing of its arrays. Prints the median of each, and of the ratios of neighbouring epochs, with
quartiles.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy as np  # noqa: E402 - the BLAS reads its variables when it is loaded

import dtrain as dt  # noqa: E402
from dtrain import comm as communicators  # noqa: E402
from dtrain.config import TrainConfig  # noqa: E402
from dtrain.data import load  # noqa: E402
from dtrain.info import lines  # noqa: E402
from dtrain.task import trainer  # noqa: E402
from dtrain.train.observer import Observer  # noqa: E402


class Fit(Observer):
    """Trains a model of its own for an epoch after each of the run's."""

    def __init__(self, dataset: str, comm: Any) -> None:
        data = load(dataset, comm)
        train = slice(data.train.start, data.train.stop)
        # as the lecture's programs make them: 0 to 1, float64
        self._x, self._y = data.x[train] / 255.0, data.y[train]
        layers = dt.keras.layers
        self._model = dt.keras.Sequential(
            [
                layers.Flatten(input_shape=data.x.shape[1:]),
                layers.Dense(256, "relu"),
                layers.Dense(256, "relu"),
                layers.Dense(10, "softmax"),
            ]
        )
        self._model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        self.seconds: dict[str, list[float]] = {"dtrain train": [], "fit, an epoch": [], "fit, the call": []}

    def epoch(self, **facts: Any) -> None:
        watch = _Epoch()
        begun = time.perf_counter()
        self._model.fit(self._x, self._y, batch_size=100, epochs=1, verbose=0, callbacks=[watch])
        whole = time.perf_counter() - begun
        for name, seconds in zip(self.seconds, (facts["seconds"], watch.seconds, whole), strict=True):
            self.seconds[name].append(seconds)


class _Epoch(dt.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self._begun


def quartiles(values: Any, unit: str = "") -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f}{unit} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=16, help="of which the first does not count")
    parser.add_argument("--dataset", default="auto")
    given = parser.parse_args()
    comm = communicators.world()
    fit = Fit(given.dataset, comm)
    with tempfile.TemporaryDirectory() as folder:
        options = {"epochs": given.epochs, "dataset": given.dataset, "tensorboard": "off"}
        run_dir = comm.broadcast_text(folder + "/run")
        trainer.train(TrainConfig(run_dir=run_dir, log_every=10**6, **options), comm, fit)
    if comm.rank:
        return
    print("\n".join(lines()))
    print(f"ranks       {comm.size}")
    run, *fits = ({name: np.array(seconds[1:])} for name, seconds in fit.seconds.items())
    [reference] = run.values()
    print(f"dtrain train   {quartiles(reference, ' s')}, {len(reference)} epochs")
    for row in fits:
        [(name, seconds)] = row.items()
        print(f"{name:<14} {quartiles(seconds, ' s')}, over dtrain train {quartiles(seconds / reference)}")


if __name__ == "__main__":
    main()
