"""W by hand in NumPy, everything written in place; and its eight matrix products alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from contest import LAYERS, LEARNING_RATE, Contest


class ByHand:
    """The step with the gradients worked out on paper, and Adam on one flat array of all parameters."""

    def __init__(self, contest: Contest) -> None:
        self.images, self.labels = contest.images, contest.labels
        initial = contest.weights()
        size = sum(w.size + b.size for w, b in initial)
        self.parameters, self.gradients, self.m, self.v, self.scratch = np.zeros((5, size), np.float32)
        self.layers = self._views(self.parameters)
        self.slopes = self._views(self.gradients)
        for (w, b), (w0, b0) in zip(self.layers, initial, strict=True):
            w[...], b[...] = w0, b0
        self.steps = 0
        self.rooms: dict[int, list[np.ndarray]] = {}

    def _views(self, flat: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        views, at = [], 0
        for inputs, units in pairwise(LAYERS):
            middle, end = at + inputs * units, at + inputs * units + units
            views.append((flat[at:middle].reshape(inputs, units), flat[middle:end]))
            at = end
        return views

    def step(self, indices: np.ndarray) -> None:
        n = len(indices)
        if n not in self.rooms:
            self.rooms[n] = [np.empty((n, w), np.float32) for w in (*LAYERS, LAYERS[1], LAYERS[2])]
            self.rooms[n].append(np.arange(n))
        x, h1, h2, z, d1, d2, rows = self.rooms[n]
        (w1, b1), (w2, b2), (w3, b3) = self.layers
        (dw1, db1), (dw2, db2), (dw3, db3) = self.slopes

        np.take(self.images, indices, 0, out=x, mode="clip")
        labels = self.labels[indices]
        np.matmul(x, w1, out=h1)
        np.add(h1, b1, out=h1)
        np.maximum(h1, 0, out=h1)
        np.matmul(h1, w2, out=h2)
        np.add(h2, b2, out=h2)
        np.maximum(h2, 0, out=h2)
        np.matmul(h2, w3, out=z)
        np.add(z, b3, out=z)

        z -= z.max(1, keepdims=True)
        right = z[rows, labels]
        np.exp(z, out=z)
        total = z.sum(1, keepdims=True)
        self.loss = float((np.log(total[:, 0]) - right).mean())
        z /= total
        z[rows, labels] -= 1
        z /= n

        np.matmul(h2.T, z, out=dw3)
        np.sum(z, 0, out=db3)
        np.matmul(z, w3.T, out=d2)
        np.multiply(d2, h2 > 0, out=d2)
        np.matmul(h1.T, d2, out=dw2)
        np.sum(d2, 0, out=db2)
        np.matmul(d2, w2.T, out=d1)
        np.multiply(d1, h1 > 0, out=d1)
        np.matmul(x.T, d1, out=dw1)
        np.sum(d1, 0, out=db1)
        self.adam()

    def adam(self) -> None:
        g, m, v, scratch = self.gradients, self.m, self.v, self.scratch
        self.steps += 1
        rate = np.float32(LEARNING_RATE * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps))
        np.subtract(g, m, out=scratch)
        scratch *= np.float32(0.1)
        m += scratch
        np.multiply(g, g, out=scratch)
        scratch -= v
        scratch *= np.float32(0.001)
        v += scratch
        np.sqrt(v, out=scratch)
        scratch += np.float32(1e-8)
        np.divide(m, scratch, out=scratch)
        scratch *= rate
        self.parameters -= scratch

    def logits(self, images: np.ndarray) -> np.ndarray:
        for w, b in self.layers[:-1]:
            images = np.maximum(images @ w + b, 0)
        return images @ self.layers[-1][0] + self.layers[-1][1]


def products(contest: Contest) -> None:
    """The eight matrix products of the step and nothing else, on arrays that stay where they are."""
    n, random = contest.batch, np.random.default_rng(0)

    def made(*shape: int) -> np.ndarray:
        return random.random(shape, np.float32)

    x, h1, h2, z = (made(n, width) for width in LAYERS)
    w1, w2, w3 = (made(a, b) for a, b in pairwise(LAYERS))
    dw1, dw2, dw3 = (np.empty_like(w) for w in (w1, w2, w3))
    d1, d2 = np.empty_like(h1), np.empty_like(h2)
    calls = [
        (x, w1, h1),
        (h1, w2, h2),
        (h2, w3, z),
        (h2.T, z, dw3),
        (z, w3.T, d2),
        (h1.T, h2, dw2),
        (h2, w2.T, d1),
        (x.T, h1, dw1),
    ]

    def step(_: np.ndarray) -> None:
        for a, b, out in calls:
            np.matmul(a, b, out=out)

    contest.train(step, lambda: 0.0)


contest = Contest("step", "matmul")
if contest.variant == "matmul":
    products(contest)
else:
    network = ByHand(contest)
    contest.train(network.step, lambda: network.loss)
    contest.test(network.logits)
