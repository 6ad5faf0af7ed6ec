"""tf.contrib.factorization.KMeans: clusters of rows (Lloyd 1982), and of batches of them (Sculley 2010)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor
from dtrain.names import module_getattr
from dtrain.ops.array import zeros
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.index import gather, one_hot
from dtrain.ops.late import shape
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import where
from dtrain.ops.make import range_
from dtrain.ops.math import cast, maximum, square
from dtrain.ops.normalize import l2_normalize
from dtrain.ops.random import random_shuffle
from dtrain.ops.reduce import argmin, reduce_min, reduce_sum
from dtrain.ops.state import Variable, group

__all__ = ["COSINE_DISTANCE", "RANDOM_INIT", "SQUARED_EUCLIDEAN_DISTANCE", "KMeans"]

__getattr__ = module_getattr("tf.contrib.factorization")

SQUARED_EUCLIDEAN_DISTANCE, COSINE_DISTANCE = "squared_euclidean", "cosine"
RANDOM_INIT = "random"


class KMeans:
    """Clusters of the rows of inputs, as a graph whose steps a session runs.

    Args:
        inputs: float32 [rows, size], or a list with one such tensor; size is known.
        num_clusters: how many.
        initial_clusters: 'random' takes that many rows of those fed to init_op; or an array [clusters, size],
            or a function (inputs, num_clusters) that gives one.
        distance_metric: 'squared_euclidean' or 'cosine', 1 minus the cosine of the angle.
        use_mini_batch: whether a step is of a batch, and moves each centre to the mean of all rows that it
            has had so far; if not, of all rows, and each centre becomes the mean of its own.
        mini_batch_steps_per_iteration: only 1.
        random_seed: of the rows taken at first.
        kmeans_plus_plus_num_retries, kmc2_chain_length: of other ways to begin; only the defaults.

    Raises:
        GraphError: an argument is not one of these.
    """

    def __init__(
        self,
        inputs: Any,
        num_clusters: int,
        initial_clusters: Any = RANDOM_INIT,
        distance_metric: str = SQUARED_EUCLIDEAN_DISTANCE,
        use_mini_batch: bool = False,
        mini_batch_steps_per_iteration: int = 1,
        random_seed: int = 0,
        kmeans_plus_plus_num_retries: int = 2,
        kmc2_chain_length: int = 200,
    ) -> None:
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != 1:
            raise GraphError(f"KMeans: {len(given)} inputs: concatenate them into one tensor of rows.")
        x = convert_to_tensor(given[0])
        if x.spec.shape is None or len(x.spec.shape) != 2 or x.spec.shape[1] is None:
            raise GraphError(f"KMeans: the inputs {x!r} are rows [rows, size], whose size is known.")
        if distance_metric not in (SQUARED_EUCLIDEAN_DISTANCE, COSINE_DISTANCE):
            raise GraphError(
                f"KMeans: distance_metric={distance_metric!r}: give 'squared_euclidean' or 'cosine'."
            )
        if isinstance(initial_clusters, str) and initial_clusters != RANDOM_INIT:
            raise GraphError(
                f"KMeans: initial_clusters={initial_clusters!r} is not supported: 'random', or an array."
            )
        if mini_batch_steps_per_iteration != 1:
            raise GraphError("KMeans: mini_batch_steps_per_iteration is only 1.")
        if (kmeans_plus_plus_num_retries, kmc2_chain_length) != (2, 200):
            raise GraphError("KMeans: kmeans_plus_plus_num_retries and kmc2_chain_length: leave them out.")
        self._x, self._count, self._cosine = x, int(num_clusters), distance_metric == COSINE_DISTANCE
        self._first, self._mini, self._seed = initial_clusters, bool(use_mini_batch), random_seed

    def training_graph(self) -> tuple[Any, ...]:
        """What to run: (all_scores, cluster_idx, scores, initialized, centres, init_op, training_op).

        As of TensorFlow 1.4; earlier ones had no centres among them.

        all_scores: a list with the distances of all rows to all centres, [rows, clusters]. cluster_idx: a
        list with each row's nearest, int64 [rows]; scores: with its distance to that. initialized: a bool
        variable; centres: one [clusters, size]; init_op: sets the centres, once; training_op: a step.
        """
        x, size = self._x, self._x.spec.shape[1]  # type: ignore[index]
        centres = Variable(zeros([self._count, size]), name="clusters", trainable=False)
        counts = Variable(zeros([self._count]), name="total_counts", trainable=False)
        initialized = Variable(False, name="initialized", trainable=False)
        x = l2_normalize(x, 1) if self._cosine else x
        compared = l2_normalize(centres, 1) if self._cosine else centres.value()
        scores = self._distances(x, compared)
        nearest, distance = argmin(scores, 1), reduce_min(scores, 1)
        init = group(
            centres.assign(where(initialized, centres.value(), self._begin())),
            initialized.assign(True),
            name="init",
        )
        step = self._step(x, nearest, centres, counts)
        return [scores], [nearest], [distance], initialized, centres, init, step

    def _begin(self) -> Tensor:
        """The first centres."""
        if callable(self._first):
            function: Callable[..., Any] = self._first
            return convert_to_tensor(function([self._x], self._count))
        if not isinstance(self._first, str):
            return convert_to_tensor(self._first, "float32")
        rows = random_shuffle(range_(shape(self._x)[0]), seed=self._seed)[: self._count]
        return gather(self._x, rows)

    def _distances(self, x: Tensor, centres: Tensor) -> Tensor:
        products = matmul(x, centres, transpose_b=True)
        if self._cosine:
            return 1.0 - products
        squares = reduce_sum(square(x), 1, keepdims=True) + reduce_sum(square(centres), 1)
        return maximum(squares - 2.0 * products, 0.0)  # rounding may leave less than 0

    def _step(self, x: Tensor, nearest: Tensor, centres: Variable, counts: Variable) -> Operation:
        members = one_hot(nearest, self._count)
        sums = matmul(members, x, transpose_a=True)
        found = reduce_sum(members, 0)
        if not self._mini:
            mean = sums / maximum(found, 1e-6)[:, None]
            mean = l2_normalize(mean, 1) if self._cosine else mean
            # a centre without rows stays where it is
            kept = cast(found > 0.0, "float32")[:, None]
            return centres.assign(mean * kept + centres * (1.0 - kept)).op
        total = counts + found
        rate = 1.0 / maximum(total, 1.0)
        moved = centres + (sums - centres * found[:, None]) * rate[:, None]
        return group(centres.assign(moved), counts.assign(total))
