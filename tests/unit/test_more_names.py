"""Rarer functions against what TensorFlow gave (reference/tensorflow_more.py), and names around them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.errors import CheckpointError, GraphError, NotSupportedError, UsageError
from dtrain.tf1 import distributions
from dtrain.tf1.contrib import layers
from dtrain.tf1.contrib.factorization import KMeans
from dtrain.tf1.contrib.slim import model_analyzer

REFERENCE = Path(__file__).parents[1] / "reference"


def reference(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def test_values_are_tensorflows() -> None:
    wanted = json.loads((REFERENCE / "tensorflow_more.json").read_text())
    with tf.Session() as session:
        found = session.run(reference("tensorflow_more").calls(tf))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_samples_have_their_distributions_moments() -> None:
    tf.set_random_seed(3)
    loc = tf.Variable([1.0, -2.0])
    normal = distributions.Normal(loc, [0.5, 2.0])
    many = normal.sample(20_000)
    slope = tf.gradients(tf.reduce_sum(many), loc)[0]
    coin = distributions.Bernoulli(probs=[0.2, 0.9]).sample([20_000])
    classes = distributions.Categorical(probs=[[0.1, 0.6, 0.3]]).sample(20_000)
    vector = distributions.MultivariateNormalDiag([0.0, 1.0], [1.0, 2.0])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = session.run([many, coin, classes, slope, vector.log_prob([[0.0, 1.0]]), vector.sample()])
    np.testing.assert_allclose(values[0].mean(0), [1, -2], atol=0.06)
    np.testing.assert_allclose(values[0].std(0), [0.5, 2], rtol=0.03)
    np.testing.assert_allclose(values[1].mean(0), [0.2, 0.9], atol=0.02)
    np.testing.assert_allclose(np.bincount(values[2].ravel()) / 20_000, [0.1, 0.6, 0.3], atol=0.02)
    np.testing.assert_allclose(values[3], [20_000, 20_000])
    np.testing.assert_allclose(values[4], [-np.log(2 * np.pi) - np.log(2)], rtol=1e-6)
    assert values[5].shape == (2,)
    with pytest.raises(NotSupportedError, match="none of Normal and Categorical"):
        distributions.kl_divergence(normal, distributions.Categorical(probs=[1.0]))
    with pytest.raises(GraphError, match="one of logits and probs"):
        distributions.Bernoulli()


def test_norms_of_channels() -> None:
    x = np.random.default_rng(1).normal(size=(3, 4, 5, 6)).astype(np.float32)
    results = [
        layers.instance_norm(tf.constant(x)),
        layers.instance_norm(tf.constant(x.transpose(0, 3, 1, 2)), data_format="NCHW"),
        layers.group_norm(tf.constant(x), groups=2, center=False),
        layers.maxout(tf.constant(x), 2),
    ]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        found = session.run(results)
    plain = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-6)
    np.testing.assert_allclose(found[0], plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], plain.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    g = x.reshape(3, 4, 5, 2, 3)
    g = (g - g.mean((1, 2, 4), keepdims=True)) / np.sqrt(g.var((1, 2, 4), keepdims=True) + 1e-6)
    np.testing.assert_allclose(found[2], g.reshape(x.shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], x.reshape(3, 4, 5, 2, 3).max(-1))
    with pytest.raises(GraphError, match="not 4 groups"):
        layers.group_norm(tf.constant(x), groups=4)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_clusters(ranks: int, on_threads: Callable[..., list[Any]]) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [8, 0], [0, 8]])
    x = (centres[np.arange(60) % 3] + rng.normal(size=(60, 2))).astype(np.float32)

    def body(comm: Any) -> Any:
        with tf.Graph().as_default():
            rows = tf.placeholder(tf.float32, [None, 2])
            results = []
            for mini in (False, True):
                clusters = KMeans(rows, 3, initial_clusters=centres + 1.0, use_mini_batch=mini)
                _, nearest, scores, _, _, init, step = clusters.training_graph()
                with tf.Session(comm=comm) as session:
                    session.run(tf.global_variables_initializer())
                    session.run(init, {rows: x})
                    for part in range(2):
                        session.run(step, {rows: x[30 * part : 30 * part + 30] if mini else x})
                    found = session.run([nearest[0], tf.reduce_sum(scores[0])], {rows: x})
                    results += [*found, session.run(tf.global_variables()[-3])]
            return results

    for found in on_threads(ranks, body):
        means = [x[i::3].mean(0) for i in range(3)]
        for nearest, score, at in (found[:3], found[3:]):
            np.testing.assert_array_equal(nearest, np.arange(60) % 3)
            np.testing.assert_allclose(at, means, rtol=1e-4, atol=1e-4)
            squares = sum(((x[i::3] - means[i]) ** 2).sum() for i in range(3))
            np.testing.assert_allclose(score, squares, rtol=1e-4)


def test_random_first_clusters_are_rows() -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    rows = tf.placeholder(tf.float32, [None, 2])
    *_, init, _ = KMeans(rows, 4, distance_metric="cosine").training_graph()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(init, {rows: x})
        first = session.run(tf.global_variables()[0])
        session.run(init, {rows: x + 1})  # they begin once
        np.testing.assert_array_equal(session.run(tf.global_variables()[0]), first)
    assert {tuple(r) for r in first} <= {tuple(r) for r in x} and len({tuple(r) for r in first}) == 4
    with pytest.raises(GraphError, match="'squared_euclidean' or 'cosine'"):
        KMeans(rows, 2, distance_metric="manhattan")


def test_checkpoints_without_a_session(tmp_path: Path) -> None:
    w = tf.get_variable("net/w", initializer=np.array([1.0, 2.0], np.float32))
    b = tf.get_variable("net/b", initializer=3.0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        path = tf.train.Saver().save(session, str(tmp_path / "m"), 5)
    reader = tf.train.NewCheckpointReader(path)
    assert reader.get_variable_to_shape_map() == {"net/b": [], "net/w": [2]} and reader.has_tensor("net/b")
    assert tf.train.list_variables(tmp_path) == [("net/b", []), ("net/w", [2])]
    np.testing.assert_array_equal(tf.train.load_variable(str(tmp_path), "net/w:0"), [1, 2])
    with pytest.raises(CheckpointError, match="Key nothing not found"):
        reader.get_tensor("nothing")
    with tf.Graph().as_default(), tf.Session() as session:
        v = tf.get_variable("other/w", initializer=np.zeros(2, np.float32))
        u = tf.get_variable("c", initializer=0.0)
        tf.train.init_from_checkpoint(tmp_path, {"net/": "other/", "net/b": u})
        session.run(tf.global_variables_initializer())
        np.testing.assert_array_equal(v.eval(), [1, 2])
        assert u.eval() == 3
        with pytest.raises(UsageError, match="has the shape"):
            tf.train.init_from_checkpoint(tmp_path, {"net/w": u})
        with pytest.raises(tf.errors.NotFoundError):
            tf.train.Saver().restore(session, path)
        tf.contrib.framework.assign_from_checkpoint_fn(path, {"net/w": v, "no": u}, True)(session)
    assert model_analyzer.analyze_vars([w, b]) == (3, 12)


def test_some_checkpoints_stay(tmp_path: Path) -> None:
    v = tf.Variable(1)
    with tf.Session() as session:
        session.run(v.initializer)
        saver = tf.train.Saver(max_to_keep=1, keep_checkpoint_every_n_hours=1e-9)
        for step in range(3):
            saver.save(session, str(tmp_path / "m"), step)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_session_runs_a_step_as_a_whole() -> None:
    with pytest.raises(NotSupportedError, match="compiled as a whole"):
        tf.Session().partial_run_setup([], [])
