"""What every contender shares: the data, the order of work, and the lines it prints. Needs NumPy alone.

A contender is a script `with_FRAMEWORK.py VARIANT` that trains W and prints JSON lines: the end of its first
step, the seconds of each epoch, and at the end its test accuracy if asked. It runs in any Python that has its
framework.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

#: Sizes of W's.
LAYERS = (784, 256, 256, 10)
#: Layers of each network, with a ReLU behind all with weights but the last: a dense one and its units; a
#: convolution, its size, channels and padding; a 2 x 2 max pooling; dropout and its rate.
NETWORKS: dict[str, list[tuple]] = {
    "mlp": [("dense", units) for units in LAYERS[1:]],
    "cnn": [
        *(("conv", 5, 32, "same"), ("pool",), ("conv", 5, 64, "same"), ("pool",)),
        *(("dense", 1024), ("dropout", 0.5), ("dense", 10)),
    ],
    "conv3": [
        *(("conv", 3, 32, "valid"), ("pool",), ("conv", 3, 64, "valid"), ("pool",)),
        *(("dropout", 0.5), ("dense", 10)),
    ],
}
LEARNING_RATE = 0.001
SEED = 0


class Contest:
    """What one contender is to do.

    variant: which way of writing it. layers: of its network, see NETWORKS. batch: examples of a step over all
    processes. epochs: how many to run. threads: of linear algebra, in each process. check: whether the test
    accuracy is wanted. images, labels: training examples, float32 [n, 784], or [n, 28, 28, 1] for
    convolutions, in 0..1, and int32 [n]; test_images, test_labels alike.
    """

    def __init__(self, *variants: str) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("variant", choices=variants)
        parser.add_argument("--data", required=True, help="folder of the four .npy files")
        parser.add_argument("--batch", type=int, required=True)
        parser.add_argument("--epochs", type=int, required=True)
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--model", choices=NETWORKS, default="mlp")
        parser.add_argument("--check", action="store_true")
        options = parser.parse_args()
        self.variant, self.batch, self.epochs = options.variant, options.batch, options.epochs
        self.layers = NETWORKS[options.model]
        self.threads, self.check, self._folder = options.threads, options.check, options.data
        self.images, self.labels = self._read("train")
        self._random = np.random.default_rng(SEED)
        self._stepped = False

    def _read(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.load(os.path.join(self._folder, f"{part}_images.npy"))
        labels = np.load(os.path.join(self._folder, f"{part}_labels.npy"))
        images = np.multiply(pixels, np.float32(1 / 255), dtype=np.float32)
        return images.reshape(-1, 28, 28, 1) if self.layers[0][0] == "conv" else images, labels

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Initial kernel and bias of each layer that has them: He's scale, cut at two deviations.

        Kernels are [inputs, units], or [height, width, inputs, channels].
        """
        random, result = np.random.default_rng(SEED), []
        shape: tuple[int, ...] = self.images.shape[1:]
        for kind, *how in self.layers:
            if kind == "pool":
                shape = (shape[0] // 2, shape[1] // 2, shape[2])
            if kind not in ("dense", "conv"):
                continue
            if kind == "dense":
                size, units = (math.prod(shape), how[0]), how[0]
                shape = (units,)
            else:
                side, units, padding = how
                size = (side, side, shape[2], units)
                lost = 0 if padding == "same" else side - 1
                shape = (shape[0] - lost, shape[1] - lost, units)
            normal = random.standard_normal(size)
            while (far := np.abs(normal) > 2).any():
                normal[far] = random.standard_normal(int(far.sum()))
            kernel = (normal * math.sqrt(2 / math.prod(size[:-1]))).astype(np.float32)
            result.append((kernel, np.zeros(units, np.float32)))
        return result

    def shuffled(self) -> np.ndarray:
        """All example numbers, int32, in an order of their own for each epoch."""
        return self._random.permutation(len(self.images)).astype(np.int32)

    def split(self, order: Any) -> list[Any]:
        """An order as the batches of one epoch; the last may be shorter."""
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def train(
        self,
        step: Callable[[Any], object],
        loss: Callable[[], float],
        batches: Callable[[np.ndarray], Iterable[Any]] | None = None,
    ) -> None:
        """Run the epochs: step(b) for each b of batches(order); loss(): that of the last step, waited for."""
        for _ in range(self.epochs):
            parts = (batches or self.split)(self.shuffled())
            begun = time.perf_counter()
            for part in parts:
                step(part)
                if not self._stepped:
                    loss()
                    self.first_step()
            self.epoch(loss(), time.perf_counter() - begun)

    def first_step(self) -> None:
        """Say that the first step is done."""
        self._stepped = True
        _say(event="first step", time=time.time())

    def epoch(self, loss: float, seconds: float) -> None:
        """Say how long an epoch took."""
        assert math.isfinite(loss)
        _say(event="epoch", seconds=seconds, loss=float(loss))

    def test(self, logits: Callable[[np.ndarray], Any]) -> None:
        """Say the test accuracy, if it is asked for."""
        if self.check:
            images, labels = self._read("test")
            _say(event="test", accuracy=float((np.asarray(logits(images)).argmax(1) == labels).mean()))


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)
