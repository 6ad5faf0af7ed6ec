"""tf.metrics against what TensorFlow gave (tests/reference/tensorflow_metrics.py), on 1 to 3 ranks."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import GraphError

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorflow_metrics", REFERENCE / "tensorflow_metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_metrics_are_tensorflows(
    ranks: int, reference: ModuleType, on_threads: Callable[..., list[Any]]
) -> None:
    right = json.loads(reference.FILE.read_text())

    def body(comm: Communicator) -> dict[str, Any]:
        from dtrain.runtime.batch import Batch

        class Session(dt.Session):
            def run(self, fetches: Any, feed_dict: Any = None, *rest: Any) -> Any:
                fed = {t: v.view(Batch) for t, v in (feed_dict or {}).items()}
                return super().run(fetches, fed, *rest)

        return reference.values(dt, lambda graph: Session(graph=graph, comm=comm))

    for found in on_threads(ranks, body):
        assert found["variables"] == right["variables"]
        for ours, theirs in zip(found["steps"], right["steps"], strict=True):
            assert ours.keys() == theirs.keys()
            for name in theirs:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-6, atol=1e-7, err_msg=name)


def test_collections_names_and_refusals() -> None:
    with dt.Graph().as_default() as graph:
        value, update = dt.metrics.mean(
            [1.0, 2.0], name="mine", metrics_collections="a", updates_collections=["b"]
        )
        assert graph.get_collection("a") == [value] and graph.get_collection("b") == [update]
        assert [v.name for v in dt.get_collection("local_variables", scope="mine")] == [
            "mine/total:0",
            "mine/count:0",
        ]
        assert not dt.global_variables() and not dt.trainable_variables()
        with pytest.raises(GraphError, match="'ROC' or 'PR'"):
            dt.metrics.auc([True], [0.5], curve="X")
