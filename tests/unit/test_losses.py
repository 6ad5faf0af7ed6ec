"""dt.losses: what each is, what weights and reductions make of it, and the collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain import losses
from dtrain.errors import GraphError

LABELS = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
VALUES = np.array([[0.3, 0.6, 0.1], [-1.5, 0.2, 2.5], [0.9, 0.5, 0.4], [0.1, 0.7, 0.2]])
PROBABILITIES = np.clip(np.abs(VALUES), 0.05, 0.95)
SOFTMAX = np.exp(VALUES) / np.exp(VALUES).sum(1, keepdims=True)
ERROR = np.abs(VALUES - LABELS)
SIGMOID = LABELS * np.logaddexp(0, -VALUES) + (1 - LABELS) * np.logaddexp(0, VALUES)

#: Each loss of the arrays above with given weights and reduction, and its values before any.
LOSSES: dict[str, tuple[Callable[..., dt.Tensor], np.ndarray]] = {
    "absolute_difference": (lambda **how: losses.absolute_difference(LABELS, VALUES, **how), ERROR),
    "mean_squared_error": (lambda **how: losses.mean_squared_error(LABELS, VALUES, **how), ERROR**2),
    "huber_loss": (
        lambda **how: losses.huber_loss(LABELS, VALUES, delta=0.5, **how),
        np.where(ERROR <= 0.5, ERROR**2 / 2, 0.5 * ERROR - 0.125),
    ),
    "hinge_loss": (
        lambda **how: losses.hinge_loss(LABELS, VALUES, **how),
        np.maximum(0, np.where(LABELS == 1, 1 - VALUES, 1 + VALUES)),
    ),
    "log_loss": (
        lambda **how: losses.log_loss(LABELS, PROBABILITIES, epsilon=0.01, **how),
        np.where(LABELS == 1, -np.log(PROBABILITIES + 0.01), -np.log(1.01 - PROBABILITIES)),
    ),
    "sigmoid_cross_entropy": (lambda **how: losses.sigmoid_cross_entropy(LABELS, VALUES, **how), SIGMOID),
    "softmax_cross_entropy": (
        lambda **how: losses.softmax_cross_entropy(LABELS, VALUES, **how),
        -(LABELS * np.log(SOFTMAX)).sum(1),
    ),
    "sparse_softmax_cross_entropy": (
        lambda **how: losses.sparse_softmax_cross_entropy(LABELS.argmax(1), VALUES, **how),
        -(LABELS * np.log(SOFTMAX)).sum(1),
    ),
    "sparse_softmax_cross_entropy of a column": (
        lambda **how: losses.sparse_softmax_cross_entropy(LABELS.argmax(1)[:, None], VALUES, **how),
        -(LABELS * np.log(SOFTMAX)).sum(1),
    ),
}


def run(fetches: Any, feed_dict: Any = None) -> Any:
    return dt.Session(comm=None).run(fetches, feed_dict)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_weighted_and_reduced(name: str) -> None:
    function, each = LOSSES[name]
    weights = np.array([0.0, 2.0, 1.0, 0.5]).reshape(-1, *[1] * (each.ndim - 1))
    spread = np.broadcast_to(weights, each.shape)
    kinds = losses.Reduction
    for given, w in ((2.5, np.full(each.shape, 2.5)), (weights, spread)):
        right = {
            kinds.NONE: each * w,
            kinds.SUM: (each * w).sum(),
            kinds.MEAN: (each * w).sum() / w.sum(),
            kinds.SUM_OVER_BATCH_SIZE: (each * w).mean(),
            kinds.SUM_BY_NONZERO_WEIGHTS: (each * w).sum() / (w != 0).sum(),
        }
        for reduction, value in right.items():
            np.testing.assert_allclose(run(function(weights=given, reduction=reduction)), value, rtol=1e-6)
    np.testing.assert_allclose(run(function()), each.mean(), rtol=1e-6)


def test_nothing_that_counts_is_no_loss() -> None:
    for reduction in (losses.Reduction.MEAN, losses.Reduction.SUM_BY_NONZERO_WEIGHTS):
        loss = losses.mean_squared_error(LABELS, VALUES, weights=0.0, reduction=reduction)
        assert run(loss) == 0


def test_labels_are_smoothed() -> None:
    smooth = LABELS * 0.9 + 0.1 / 3
    found = run(losses.softmax_cross_entropy(LABELS, VALUES, label_smoothing=0.1))
    np.testing.assert_allclose(found, -(smooth * np.log(SOFTMAX)).sum(1).mean(), rtol=1e-6)
    half = LABELS * 0.9 + 0.05
    right = half * np.logaddexp(0, -VALUES) + (1 - half) * np.logaddexp(0, VALUES)
    found = run(losses.sigmoid_cross_entropy(LABELS, VALUES, label_smoothing=0.1))
    np.testing.assert_allclose(found, right.mean(), rtol=1e-6)


def test_losses_are_kept_and_added_up() -> None:
    first = losses.mean_squared_error(LABELS, VALUES, scope="first")
    losses.absolute_difference(LABELS, VALUES, loss_collection=None)
    losses.add_loss(dt.constant(3.0, "float64"))
    assert losses.get_losses()[0] is first
    assert losses.get_losses("first") == [first]
    assert len(losses.get_losses()) == 2
    assert run(losses.get_regularization_loss()) == 0
    dt.get_default_graph().add_to_collection("regularization_losses", dt.constant(4.0, "float64"))
    total = [losses.get_total_loss(), losses.get_total_loss(add_regularization_losses=False)]
    np.testing.assert_allclose(run(total), [(ERROR**2).mean() + 7, (ERROR**2).mean() + 3])


def test_ranks_average_over_the_weights_of_all(on_threads: Callable[..., list[Any]]) -> None:
    x, w = dt.placeholder("float64", [None, 3]), dt.placeholder("float64", [None, 1])
    loss = losses.mean_squared_error(x * 0, x, weights=w)
    fetches = [loss, dt.gradients(loss, x)[0]]
    weights = np.array([[0.0], [2.0], [1.0], [0.0]])
    graph = dt.get_default_graph()

    def body(comm: Any) -> Any:
        low, high = (4 * r // comm.size for r in (comm.rank, comm.rank + 1))
        feeds = {x: dt.Shard(VALUES[low:high], 4), w: dt.Shard(weights[low:high], 4)}
        return dt.Session(graph=graph, comm=comm).run(fetches, feeds)

    expected = run(fetches, {x: VALUES, w: weights})
    np.testing.assert_allclose(expected[0], (VALUES**2 * weights).sum() / 6)
    for found in on_threads(3, body):
        for one, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-12)


def test_what_does_not_fit_is_an_error_at_its_line() -> None:
    with pytest.raises(GraphError, match="weights"):
        losses.mean_squared_error(LABELS, VALUES, weights=np.ones(4))
    with pytest.raises(GraphError, match="weights"):
        losses.mean_squared_error(LABELS, VALUES, weights=np.ones((2, 3)))
    with pytest.raises(GraphError, match="labels and predictions"):
        losses.mean_squared_error(LABELS, VALUES[:2])
    with pytest.raises(GraphError, match="reduction"):
        losses.mean_squared_error(LABELS, VALUES, reduction="mean")
