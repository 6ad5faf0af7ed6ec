"""What a run took its test examples for: the confusion matrix, and its worst mistakes with their pictures.

The run writes it, from the test that it does anyway, so that `dtrain report` needs neither the data set nor a
computation.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data import Part
from dtrain.errors import CheckpointError
from dtrain.files import write_atomically

FILE = "mistakes.json"
#: How many pictures are kept, of at most so many bytes each; of how many classes there is a file.
WORST, MOST_BYTES, MOST_CLASSES = 24, 1 << 14, 100


class Mistakes:
    """Gathers the predictions of one test, batch by batch in the order of the examples.

    tested: these; name: which part of the data they are, test or validation.
    """

    def __init__(self, tested: Part, name: str) -> None:
        self._tested, self._name = tested, name
        self._predicted: list[np.ndarray] = []
        self._losses: list[np.ndarray] = []

    def add(self, losses: np.ndarray, predicted: np.ndarray) -> None:
        """Loss and predicted class of each example of the next batch, the whole one."""
        self._losses.append(losses)
        self._predicted.append(predicted)

    def to_json(self, epoch: int) -> str:
        """The file's text.

        confusion: [label][predicted class], counts; classes: their names. worst: the mistakes of the highest
        loss, the highest first, each with its number among those tested and its pixels: uint8 of
        `shape`, in base64, both empty where examples cannot be shown.
        """
        data, rows = self._tested.data, self._tested[:]
        losses, predicted = np.concatenate(self._losses), np.concatenate(self._predicted)
        labels, classes = data.y[rows].astype(np.int64), len(data.classes)
        shown = data.pictures and data.x[0].size <= MOST_BYTES
        counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-losses[wrong], kind="stable")[:WORST]]
        return json.dumps(
            {
                "epoch": epoch,
                "part": self._name,
                "confusion": counts.reshape(classes, classes).tolist(),
                "classes": list(data.classes),
                "shape": list(data.x.shape[1:]) if shown else [],
                "worst": [
                    {
                        "example": int(i),
                        "label": int(labels[i]),
                        "predicted": int(predicted[i]),
                        "loss": float(losses[i]),
                        "pixels": base64.b64encode(data.x[rows[i]].tobytes()).decode() if shown else "",
                    }
                    for i in worst
                ],
            }
        )

    def save(self, run_dir: Path, epoch: int, comm: Communicator) -> None:
        """Write the file, on rank 0; collective.

        Raises:
            CheckpointError: it cannot be written.
        """
        with comm.together():
            if comm.rank == 0:
                try:
                    write_atomically(run_dir / FILE, self.to_json(epoch).encode())
                except OSError as error:
                    raise CheckpointError(f"{run_dir / FILE} cannot be written: {error}.") from None
