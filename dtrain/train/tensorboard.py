"""A run in TensorBoard: curves, histograms, the graph, options with results, and images that it gets wrong.

TensorBoard's package is imported on rank 0 alone, which writes. Histograms and images are of the whole batch,
as every fetch is.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.autodiff import gradients as gradients_of
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig
from dtrain.data.dataset import Dataset
from dtrain.errors import EnvironmentProblem
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor
from dtrain.ops import summary_proto
from dtrain.runtime.session import Session
from dtrain.summary import FileWriter
from dtrain.train.batches import batches
from dtrain.train.observer import Observer
from dtrain.train.state import Progress

if TYPE_CHECKING:
    from dtrain.task.network import Network

#: A point of a curve is the mean over the examples of ITERATIONS iterations, or of so many that a run has
#: POINTS points: each costs as much as a quarter of a small step.
ITERATIONS, POINTS = 20, 500
#: Points wait to be written together: to the end of the epoch, and in a longer one so many seconds. The
#: thread that writes them would take a core from the steps, and no first step waits for TensorBoard's import.
DELAY = 10.0
#: Histograms and images are written after so many epochs of a run, evenly spaced, and after the last.
PICTURES = 10
#: Wrong images in a grid, by columns and rows.
COLUMNS, ROWS = 5, 5
#: The examples of one step while looking for wrong ones.
LOOK = 500
#: Facts of an epoch whose curves have other tags than epoch/NAME; '' has none.
EPOCH_TAGS = {
    "epoch": "",
    "seconds": "",
    "images_per_second": "speed/images_per_second",
    "communication_fraction": "speed/communication_share",
}
#: Options of a run that the table of hyper-parameters shows.
OPTIONS = ("model", "dataset", "optimizer", "lr", "batch_size", "epochs", "seed")


def wanted(choice: str, comm: Communicator) -> bool:
    """Whether --tensorboard (auto, on or off) makes a run write event files; auto: if it can. Collective.

    Raises:
        EnvironmentProblem: on, and TensorBoard is not installed.
    """
    problem = ""
    if choice != "off" and comm.rank == 0 and (choice == "on" or not importlib.util.find_spec("tensorboard")):
        try:
            summary_proto.protos()
        except EnvironmentProblem as error:
            problem = str(error)
    problem = comm.broadcast_text(problem) if choice != "off" else ""
    if problem and choice == "on":
        raise EnvironmentProblem(f"--tensorboard: {problem}").on_every_rank()
    return choice != "off" and not problem


class TensorBoard(Observer):
    """Writes event files into a folder.

    Args:
        folder: the run's own, so that `tensorboard --logdir runs` calls each run by its name.
        config: what the run was asked for.
        session: what runs it; histograms and wrong images are fetched through it.
        network: the graph's ends. Gradients are those of its loss, without dropout, over the first
            config.batch_size training examples, so that those of two epochs compare.
        data: its validation or else its test examples are searched for wrong ones.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, session: Session, network: Network, data: Dataset
    ) -> None:
        self._config, self._session, self._network, self._data = config, session, network, data
        self._folder, self._rank = folder, session.comm.rank
        self._speaks = self._rank == 0
        self._writer: FileWriter | None = None
        trained = set(session.graph.get_collection(GraphKeys.TRAINABLE_VARIABLES))
        self._tested = "validation" if data.validation else "test"
        self._seen = data.part(self._tested)
        self._parameters = [v for v in network.parameters if v in trained]
        self._gradients: list[Tensor | None] = []
        self._points: list[tuple[int, float, dict[str, float]]] = []
        self._written = time.time()
        self._sum = Progress()  # since the last point
        self._begun = 0  # the first step that it saw
        self._step = 0  # at the end of the last epoch

    # -- events ----------------------------------------------------------------------------------------
    def header(self, **facts: Any) -> None:
        self._per_epoch = facts["iterations_per_epoch"]
        self._window = max(ITERATIONS, -(-self._per_epoch * facts["epochs"] // POINTS))
        self._every = -(-facts["epochs"] // PICTURES)
        values = {name: asdict(self._config)[name] for name in OPTIONS}
        self._values = values | {"dataset": facts["dataset"], "ranks": facts["ranks"]}

    def iteration(self, epoch: int, iteration: int, loss: float, sums: Sequence[Any], examples: int) -> None:
        if not self._speaks:
            return
        step = (epoch - 1) * self._per_epoch + iteration
        if not self._begun:
            self._begun = step
        at = self._sum
        at.add(loss, sums, examples)
        if at.step < self._window and iteration < self._per_epoch:
            return
        now = time.time()
        self._points.append((step, now, self.results(at.loss_sum, at.sums, at.examples)))
        self._sum = Progress()
        if now - self._written > DELAY:
            self._write_points()

    def epoch(self, **facts: Any) -> None:
        epoch = facts["epoch"]
        step = self._step = epoch * self._per_epoch
        if self._speaks:
            self._write_points()
        if self._speaks:
            tagged = ((EPOCH_TAGS.get(name, f"epoch/{name}"), value) for name, value in facts.items())
            scalars = {tag: value for tag, value in tagged if tag and value is not None}
            scalars["epoch/learning_rate"] = self._config.lr
            self._write(summary_proto.scalars(scalars), step)
        if epoch % self._every == 0 or epoch == self._config.epochs:
            self._add_histograms(step)
            if self._network.predicted is not None and self._seen and self._seen.data.pictures:
                self._add_wrong_images(step)
        if self._writer is not None:
            with self._survived():
                self._writer.flush()

    def done(self, **facts: Any) -> None:
        if self._speaks:
            found = {f"epoch/{n}": v for n, v in facts.items() if n.startswith("test_")}
            if found and self._tested != "test":
                self._write(summary_proto.scalars(found), self._step)
            self._write(summary_proto.hyperparameters_done())

    def close(self) -> None:
        if self._speaks:
            self._write_points()
        if self._writer is not None:
            with self._survived():
                self._writer.close()

    def lost(self, **facts: Any) -> None:
        if self._session.comm.rank == 0 and self._rank > 0:
            self._rank, self._speaks = 0, True
            # points wait for the end of the epoch: all ranks would wait for the import of TensorBoard
            self._written = math.inf

    # -- what they write -------------------------------------------------------------------------------
    def _write(self, summary: Any, step: int | None = None, when: float | None = None) -> None:
        with self._survived():
            self._open().add_summary(summary, step, wall_time=when)

    def _open(self) -> FileWriter:
        """The writer; at the first call the graph and the options are written."""
        if self._writer is None:
            self._writer = FileWriter(
                self._folder, max_queue=2 * POINTS, flush_secs=DELAY, comm=self._session.comm
            )
            self._writer.add_graph(self._session.graph)  # which shows the training step's own gradients alone
            names = ["loss", *(metric.name for metric, _ in self._network.metrics)]
            names = [*(f"{self._tested}_{n}" for n in names[::-1]), *names]
            metrics = {f"epoch/{n}": n.replace("_", " ") for n in names}
            metrics[EPOCH_TAGS["images_per_second"]] = "images per second"
            self._writer.add_summary(summary_proto.hyperparameters(self._values, metrics))
            if self._begun > 1:  # what a run that is resumed had written of the steps to come
                self._writer.add_event(summary_proto.restart(self._begun))
        return self._writer

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """A disk that is full ends the writing, not the run."""
        try:
            yield
        except EnvironmentProblem as problem:
            if self._speaks:
                logging.getLogger("dtrain").warning("%s The run continues without TensorBoard.", problem)
            self._speaks = False

    def _write_points(self) -> None:
        with self._survived():
            self._open()
        if not self._speaks:
            return
        for step, when, values in self._points:
            tagged = {f"iteration/{name}": value for name, value in values.items()}
            self._write(summary_proto.scalars(tagged), step, when)
        self._points.clear()
        self._written = time.time()

    def _add_histograms(self, step: int) -> None:
        network = self._network
        train = self._data.part("train")
        if not self._gradients:
            self._gradients = gradients_of(network.loss, self._parameters, name="watched_gradients")
        order = train[: self._config.batch_size]
        shard = next(batches(order, len(order), self._session.comm))
        fetches = [self._parameters, self._gradients]
        with self._session.draws.unchanged():
            parameters, gradients = self._session.run(
                fetches, {network.indices: shard, network.training: np.float32(1)}
            )
        if not self._speaks:
            return
        parts = []
        for kind, arrays in (("parameters", parameters), ("gradients", gradients)):
            for variable, array in zip(self._parameters, arrays, strict=True):
                # a run that diverges is not to end by being watched
                finite = array[np.isfinite(array)]
                parts.append(summary_proto.histogram(f"{kind}/{variable.op.name}", finite))
        self._write(summary_proto.merge(parts), step)

    def _add_wrong_images(self, step: int) -> None:
        """The first images that are tested and that the network gets wrong, no more than enough."""
        network, test, names = self._network, self._seen, self._data.classes
        predict = self._session.make_callable(network.predicted, [network.indices, network.training])
        x, y = test.data.x, test.data.y
        found: list[tuple[int, int]] = []
        with network.lending(self._session, test.data):
            for number, shard in enumerate(batches(test, LOOK, self._session.comm)):
                predicted = predict(shard, np.float32(0))
                rows = test[number * LOOK : (number + 1) * LOOK]
                wrong = np.flatnonzero(predicted != y[rows])
                found += [(int(rows[i]), int(predicted[i])) for i in wrong]
                if len(found) >= COLUMNS * ROWS:
                    break
        if self._speaks and found:
            chosen = found[: COLUMNS * ROWS]
            captions = [f"said {names[predicted]}, is {names[y[n]]}" for n, predicted in chosen]
            grid = captioned_grid(x[[n for n, _ in chosen]], captions)
            self._write(summary_proto.images("misclassified", grid.reshape(1, *grid.shape[:2], -1), 1), step)


def captioned_grid(images: np.ndarray, captions: list[str]) -> np.ndarray:
    """Images as one picture of COLUMNS x ROWS cells, small ones enlarged, each with its caption below it.

    They are uint8 [n, h, w], 0 paper .. 255 ink, which is black on white, or [n, h, w, 3], of colours.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale, margin = max(1, 84 // max(images.shape[1:3])), 6
    height, width = (n * scale for n in images.shape[1:3])
    mode, paper, ink = ("L", 255, 0) if images.ndim == 3 else ("RGB", (255,) * 3, (0,) * 3)
    font = ImageFont.load_default(14)
    line = font.getbbox("d,")[3] + margin
    cell_height, cell_width = height + line + margin, width + margin
    grid = Image.new(mode, (COLUMNS * cell_width + margin, ROWS * cell_height + margin), paper)
    draw = ImageDraw.Draw(grid)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(i, COLUMNS)
        x, y = margin + column * cell_width, margin + row * cell_height
        shown = Image.fromarray(255 - image if image.ndim == 2 else image)
        grid.paste(shown.resize((width, height), Image.Resampling.NEAREST), (x, y))
        draw.text((x + width / 2, y + height + 2), caption, fill=ink, font=font, anchor="ma")
    return np.asarray(grid)
