"""What TensorBoard's curves cost: `dtrain train` with them and without, in turns of 100 steps.

    [mpirun -n 2] python benchmarks/watching.py [--epochs 20] [--dataset DIR]

The MLP with Adam at a batch of 100, in one run. TensorBoard is told of 100 iterations, then not of the next
100, and so on through all epochs; each turn is compared with the one before it, so that a machine whose
speed drifts disturbs both alike. Prints the median of these ratios with the quartiles and, since what is
sought is less than what they scatter by, the times of the calls themselves: in the steps, and between epochs
the writing of what they left and the pictures (histograms, wrong images), outside the epoch's seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy as np  # noqa: E402 - the BLAS reads its variables when it is loaded

from dtrain import comm as communicators  # noqa: E402
from dtrain.config import TrainConfig  # noqa: E402
from dtrain.info import lines  # noqa: E402
from dtrain.task import trainer  # noqa: E402
from dtrain.train import tensorboard  # noqa: E402

TURN = 100


class InTurns(tensorboard.TensorBoard):
    """TensorBoard that is told of every second turn, and timed."""

    def header(self, **facts):
        super().header(**facts)
        self.turns, self.seconds = [], []  # of each epoch: its turns' seconds; its own
        self.calls, self.pauses, self.pictures = [], [], []
        self._called = 0.0

    def iteration(self, epoch, iteration, loss, sums, examples):
        turn = (iteration - 1) // TURN
        if iteration == 1:
            self.turns.append([])
            self._begun = time.perf_counter()
        if (turn + epoch) % 2:
            begun = time.perf_counter()
            super().iteration(epoch, iteration, loss, sums, examples)
            self._called += time.perf_counter() - begun
        if iteration % TURN == 0:
            now = time.perf_counter()
            self.turns[-1].append(now - self._begun)
            self._begun = now

    def epoch(self, **facts):
        self._pictured = 0.0
        begun = time.perf_counter()
        super().epoch(**facts)
        self.pauses.append(time.perf_counter() - begun - self._pictured)
        if self._pictured:
            self.pictures.append(self._pictured)
        self.calls.append(2 * self._called)  # it was told of half of the iterations
        self._called = 0.0
        self.seconds.append(facts["seconds"])

    def _add_histograms(self, step):
        self._timed(super()._add_histograms, step)

    def _add_wrong_images(self, step):
        self._timed(super()._add_wrong_images, step)

    def _timed(self, work, step):
        begun = time.perf_counter()
        work(step)
        self._pictured += time.perf_counter() - begun


def quartiles(values, unit="", digits=3):
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f}, {len(values)} values)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="of which the first does not count")
    parser.add_argument("--dataset", default="auto")
    given = parser.parse_args()
    made = []
    comm = communicators.world()

    def board(*arguments):
        made.append(InTurns(*arguments))
        return made[0]

    trainer.tensorboard.TensorBoard = board
    with tempfile.TemporaryDirectory() as folder:
        options = {"epochs": given.epochs, "dataset": given.dataset, "tensorboard": "on"}
        config = TrainConfig(run_dir=folder + "/run", log_every=10**6, **options)
        trainer.train(config, comm)
    watched = made[0]
    if comm.rank:
        return
    print("\n".join(lines()))
    print(f"ranks       {comm.size}")
    ratios = []
    for epoch, turns in list(enumerate(watched.turns, 1))[1:]:
        for turn in range(1, len(turns)):
            pair = turns[turn - 1], turns[turn]
            on, off = pair if (turn - 1 + epoch) % 2 else pair[::-1]
            ratios.append(on / off)
    share = [100 * c / s for c, s in zip(watched.calls, watched.seconds, strict=True)][1:]
    print(f"with / without, neighbouring turns   {quartiles(ratios)}")
    print(f"an epoch                             {quartiles(watched.seconds[1:], ' s')}")
    print(f"calls in its steps, all told         {quartiles(np.multiply(watched.calls[1:], 1e3), ' ms', 2)}")
    print(f"  of the epoch                       {quartiles(share, ' %', 2)}")
    print(f"writing after it, half the points    {quartiles(np.multiply(watched.pauses[1:], 1e3), ' ms', 2)}")
    print(f"pictures, ten times a run            {quartiles(np.multiply(watched.pictures, 1e3), ' ms', 1)}")


if __name__ == "__main__":
    main()
