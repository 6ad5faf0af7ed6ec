"""tf.estimator and tf.contrib.learn: what TensorFlow's come to (tests/reference/tensorflow_estimators.py)."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import NotSupportedError, UsageError
from dtrain.train import monitored

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("estimators", REFERENCE / "tensorflow_estimators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def as_ranks(
    monkeypatch: pytest.MonkeyPatch, on_threads: Callable[..., list[Any]]
) -> Callable[..., list[Any]]:
    """as_ranks(size, body): body() on that many ranks, whose sessions work together."""
    make, here = monitored.Session, threading.local()
    monkeypatch.setattr(monitored, "Session", lambda *given: make(*given, comm=here.comm))
    for module in ("dtrain.train.saver", "dtrain.tf1.estimator.estimator"):
        monkeypatch.setattr(f"{module}.world", lambda: here.comm)

    def run(size: int, body: Callable[[], Any]) -> list[Any]:
        def rank(comm: Communicator) -> Any:
            here.comm = comm
            return body()

        return on_threads(size, rank)

    return run


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_estimators_come_to_what_tensorflows_do(
    ranks: int, reference: ModuleType, as_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    right = json.loads(reference.FILE.read_text())
    for found in as_ranks(ranks, lambda: reference.values(dt, str(tmp_path))):
        assert found.keys() == right.keys()
        np.testing.assert_allclose(found.pop("layer"), right["layer"], rtol=1e-6)
        for name, values in found.items():
            theirs = right[name]
            assert values["metrics"].keys() == theirs["metrics"].keys(), name
            for key, value in values["metrics"].items():
                assert value == pytest.approx(theirs["metrics"][key], rel=1e-4), (name, key)
            np.testing.assert_allclose(values["predictions"], theirs["predictions"], rtol=1e-3, atol=1e-5)


# -- runs --------------------------------------------------------------------------------------------------
X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int32)


def own(folder: Path, **named: Any) -> Any:
    """An estimator whose steps draw random numbers."""

    def model_fn(features: Any, labels: Any, mode: str) -> Any:
        train = mode == "train"
        x = dt.nn.dropout(features, 0.8) if train else features
        logits = dt.matmul(x, dt.get_variable("w", [4, 2]))
        loss = dt.losses.sparse_softmax_cross_entropy(labels, logits) if labels is not None else None
        step = dt.train.AdamOptimizer(0.05).minimize(loss, dt.train.get_global_step()) if train else None
        found = dt.argmax(logits, 1)
        measured = {"accuracy": dt.metrics.accuracy(labels, found)} if mode == "eval" else None
        return dt.estimator.EstimatorSpec(mode, found, loss, step, measured)

    config = dt.estimator.RunConfig(
        tf_random_seed=4, log_step_count_steps=None, save_summary_steps=None, **named
    )
    return dt.estimator.Estimator(model_fn, folder, config)


def batches(epochs: int | None = None) -> Callable[[], Any]:
    return lambda: dt.data.Dataset.from_tensor_slices((X, Y)).repeat(epochs).batch(7)


def test_it_goes_on_from_its_checkpoint_and_stops_where_it_is_to(tmp_path: Path) -> None:
    estimator = own(tmp_path)
    assert estimator.latest_checkpoint() is None
    with pytest.raises(UsageError, match="Could not find trained model"):
        estimator.evaluate(batches(1))
    assert estimator.train(batches(), steps=5) is estimator
    assert own(tmp_path).train(batches(), steps=4).evaluate(batches(1))["global_step"] == 9
    estimator.train(batches(), max_steps=12).train(batches(), max_steps=12).train(batches(), max_steps=3)
    assert estimator.evaluate(batches(1))["global_step"] == 12
    estimator.train(batches(1))  # 60 examples are 9 batches
    assert estimator.get_variable_value("global_step") == 21
    assert estimator.get_variable_value("w:0").shape == (4, 2) and "w/Adam/m" not in estimator.model_dir
    assert {"global_step", "w"} <= set(estimator.get_variable_names())
    assert estimator.latest_checkpoint() == str(tmp_path / "model.ckpt-21")


def test_predictions_are_of_single_examples_or_batches(tmp_path: Path) -> None:
    estimator = own(tmp_path).train(batches(), steps=60)
    every = list(estimator.predict(batches(1)))
    assert len(every) == 60 and np.mean(np.array(every) == Y) > 0.85
    assert estimator.evaluate(batches(1))["accuracy"] == pytest.approx(np.mean(np.array(every) == Y))
    by_batch = list(estimator.predict(batches(1), yield_single_examples=False))
    assert [len(b) for b in by_batch] == [7] * 8 + [4]
    assert list(np.concatenate(by_batch)) == every
    assert next(estimator.predict(batches())) == every[0], "a part of what does not end"


def test_training_with_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimator = own(tmp_path, save_checkpoints_steps=10)
    train = dt.estimator.TrainSpec(batches(), max_steps=25)
    test = dt.estimator.EvalSpec(batches(1), steps=None, throttle_secs=0, name="test")
    metrics, exported = dt.estimator.train_and_evaluate(estimator, train, test)
    assert metrics is not None and metrics["global_step"] == 25 and exported == []
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Saving dict")]
    assert [line.split()[5].rstrip(":") for line in told] == ["10", "20", "25"]
    assert estimator.eval_dir("test") == str(tmp_path / "eval_test")


def test_ranks_train_and_evaluate_as_one_does(tmp_path: Path, as_ranks: Callable[..., list[Any]]) -> None:
    def body(folder: Path) -> Any:
        test = dt.estimator.EvalSpec(batches(1), throttle_secs=0)
        spec = dt.estimator.TrainSpec(batches(), max_steps=20)
        estimator = own(folder, save_checkpoints_steps=8)
        return dt.estimator.train_and_evaluate(estimator, spec, test)[0], list(estimator.predict(batches(1)))

    ((alone, classes),) = as_ranks(1, lambda: body(tmp_path / "one"))
    for metrics, found in as_ranks(3, lambda: body(tmp_path / "three")):
        assert metrics == pytest.approx(alone, rel=1e-5) and found == classes


def test_a_network_learns_words_and_embeddings(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    word = random.choice(["a", "b", "c", "d"], 200).astype(object)
    x = random.standard_normal(200).astype(np.float32)
    kind = np.where(word == "a", "yes", np.where(x > 0.5, "yes", "no")).astype(object)
    fc = dt.feature_column
    words = fc.categorical_column_with_vocabulary_list("word", ["a", "b", "c"], num_oov_buckets=1)
    columns = [fc.numeric_column("x"), fc.embedding_column(words, 3)]
    hashed = fc.categorical_column_with_hash_bucket("word", 50)
    both = {"word": word, "x": x}
    config = dt.estimator.RunConfig(tf_random_seed=1, log_step_count_steps=None, save_summary_steps=None)
    deep = dt.estimator.DNNClassifier(
        [8],
        columns,
        tmp_path / "a",
        label_vocabulary=["no", "yes"],
        optimizer=lambda: dt.train.AdamOptimizer(0.05),
        config=config,
    )
    wide = dt.estimator.DNNLinearCombinedClassifier(
        tmp_path / "b",
        linear_feature_columns=[hashed],
        dnn_feature_columns=columns[:1],
        dnn_hidden_units=[8, 8],
        dnn_optimizer=lambda: dt.train.AdamOptimizer(0.05),
        linear_optimizer=lambda: dt.train.AdamOptimizer(0.1),
        label_vocabulary=["no", "yes"],
        config=config,
    )
    inputs = dt.estimator.inputs
    for estimator in (deep, wide):
        estimator.train(inputs.numpy_input_fn(both, kind, 40, None, shuffle=True), steps=120)
        metrics = estimator.evaluate(inputs.numpy_input_fn(both, kind, 64, 1, shuffle=False))
        assert metrics["accuracy"] > 0.9 and metrics["global_step"] == 120
        rows = list(estimator.predict(inputs.numpy_input_fn(both, None, 64, 1, shuffle=False), ["classes"]))
        assert np.mean(
            [r["classes"][0].decode() == k for r, k in zip(rows, kind, strict=True)]
        ) == pytest.approx(metrics["accuracy"])
    number = dt.estimator.DNNRegressor([16], columns[:1], tmp_path / "c", optimizer="Adam", config=config)
    number.train(inputs.numpy_input_fn(both, x * 3 + 1, 50, None, shuffle=True), steps=300)
    assert (
        number.evaluate(inputs.numpy_input_fn(both, x * 3 + 1, 200, 1, shuffle=False))["average_loss"] < 0.5
    )


def test_what_is_refused_says_so(tmp_path: Path) -> None:
    est = dt.estimator
    with pytest.raises(UsageError, match="needs train_op="):
        est.EstimatorSpec("train", loss=1.0)
    with pytest.raises(UsageError, match="value, update_op"):
        est.EstimatorSpec("eval", loss=dt.constant(1.0), eval_metric_ops={"a": 3})
    with pytest.raises(UsageError, match="mpirun"):
        est.RunConfig(train_distribute=object())
    with pytest.raises(UsageError, match="warm_start_from"):
        est.Estimator(lambda features: None, tmp_path, warm_start_from="x")
    with pytest.raises(UsageError, match="shuffle has to be said"):
        est.inputs.numpy_input_fn(X, Y)
    with pytest.raises(UsageError, match="not both"):
        own(tmp_path).train(batches(), steps=1, max_steps=1)
    with pytest.raises(UsageError, match="Could not find trained model"):
        own(tmp_path).export_savedmodel("x", lambda: None)
    with pytest.raises(UsageError, match="has to return an EstimatorSpec"):
        est.Estimator(lambda features, labels: None, tmp_path).train(batches(), steps=1)
    fc = dt.feature_column
    with pytest.raises(UsageError, match="wrap it in indicator_column"), dt.Graph().as_default():
        fc.input_layer({"a": X}, [fc.categorical_column_with_identity("a", 3)])
    with pytest.raises(UsageError, match="Feature b is not in features"), dt.Graph().as_default():
        fc.input_layer({"a": X}, [fc.numeric_column("b")])


# -- tf.contrib.learn --------------------------------------------------------------------------------------
def test_learn_fits_arrays(tmp_path: Path) -> None:
    from dtrain.contrib import learn
    from dtrain.contrib.learn.python.learn.estimators.estimator import SKCompat

    config = learn.RunConfig(tf_random_seed=1, log_step_count_steps=None, save_summary_steps=None)
    columns = learn.infer_real_valued_columns_from_input(X)
    linear = learn.LinearClassifier(columns, tmp_path / "a", config=config)
    spec = learn.MetricSpec(dt.contrib.metrics.streaming_accuracy, "classes")
    assert linear.fit(X, Y, steps=100) is linear
    scores = linear.evaluate(X, Y, metrics={"mine": spec})
    assert scores["mine"] == pytest.approx(scores["accuracy"]) and scores["accuracy"] > 0.9
    assert np.mean(np.array(list(linear.predict(X))) == Y) == pytest.approx(scores["accuracy"])
    assert linear.predict_proba(X[:3], as_iterable=False).shape == (3, 2)
    number = learn.DNNRegressor([10], columns, tmp_path / "b", optimizer="Adam", config=config)
    number.fit(X, X.sum(1), batch_size=20, steps=400)
    assert np.mean((number.predict(X, as_iterable=False) - X.sum(1)) ** 2) < 1

    def model(features: Any, target: Any, mode: str, params: Any) -> Any:
        logits = dt.matmul(features, dt.get_variable("w", [4, 2]))
        loss = (
            None if mode == learn.ModeKeys.INFER else dt.losses.sparse_softmax_cross_entropy(target, logits)
        )
        step = None
        if mode == learn.ModeKeys.TRAIN:
            step = dt.train.AdamOptimizer(params["rate"]).minimize(loss, dt.train.get_global_step())
        return {"class": dt.argmax(logits, 1)}, loss, step

    own = SKCompat(learn.Estimator(model, str(tmp_path / "c"), config, {"rate": 0.1}))
    own.fit(X, Y, batch_size=20, steps=60)
    score = own.score(X, Y, metrics={"accuracy": learn.MetricSpec(dt.metrics.accuracy, "class")})
    assert score["accuracy"] > 0.9 and own.predict(X)["class"].shape == (60,)
    with pytest.raises(UsageError, match="gradient_clip_norm is not supported"):
        learn.LinearClassifier(columns, tmp_path / "d", gradient_clip_norm=1.0)


def test_learn_reads_tables(tmp_path: Path) -> None:
    base = dt.contrib.learn.datasets.base
    (tmp_path / "a.csv").write_text("2,2,zero,one\n1.5,2,0\n3,4,1\n")
    table = base.load_csv_with_header(str(tmp_path / "a.csv"), np.int32, np.float32)
    assert table.data.tolist() == [[1.5, 2], [3, 4]] and table.target.tolist() == [0, 1]
    with pytest.raises(NotSupportedError, match="dtrain has 'mnist'"):
        dt.contrib.learn.datasets.load_dataset("iris")


def test_experiments_are_run(tmp_path: Path) -> None:
    from dtrain.contrib.learn.python.learn import learn_runner

    def experiment(folder: str) -> Any:
        return dt.contrib.learn.Experiment(
            own(Path(folder)), batches(), batches(1), train_steps=15, eval_steps=3
        )

    metrics, _ = learn_runner.run(experiment, str(tmp_path))
    assert metrics["global_step"] == 15
    assert learn_runner.run(experiment, str(tmp_path), "evaluate") == metrics


def test_an_optimizer_trains_in_one_graph_after_another(tmp_path: Path) -> None:
    """As of a canned estimator that is given one: each call of train builds a graph."""
    columns = [dt.feature_column.numeric_column("x", 4)]
    config = dt.estimator.RunConfig(tf_random_seed=1, log_step_count_steps=None, save_summary_steps=None)
    found = []
    for name, parts in (("a", (10, 10)), ("b", (20,))):
        adam = dt.train.AdamOptimizer(0.1)
        model = dt.estimator.LinearClassifier(columns, tmp_path / name, optimizer=adam, config=config)
        for steps in parts:
            data = dt.estimator.inputs.numpy_input_fn({"x": X}, Y, 60, None, shuffle=False)
            model.train(data, steps=steps)
        found.append(model.get_variable_value("linear/linear_model/x/weights"))
    np.testing.assert_allclose(*found, rtol=1e-5)
