"""Sets of other shapes and kinds than MNIST's, trained by `dtrain train`'s own models."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data import pool
from dtrain.data.dataset import Dataset
from dtrain.errors import DataError, UsageError
from dtrain.report import page
from dtrain.report.runs import read
from dtrain.task import trainer
from dtrain.task.examples import examples_of
from dtrain.task.predict import parts_of, predictions
from dtrain.task.saved import open_saved
from dtrain.train import checkpoint, tensorboard

alone = SingleCommunicator()
TRAIN, TEST = 53, 20
#: Means and deviations of large targets.
PRICE, DEVIATION = np.array([2e5, -3e6], np.float32), np.array([8e4, 5e5], np.float32)
NAMES = ("setosa", "versicolor", "virginica")


def made(kind: str, shape: tuple[int, ...], dtype: str = "float32", **more: Any) -> Dataset:
    rng = np.random.default_rng(0)
    count = TRAIN + TEST
    x = rng.integers(0, 256, (count, *shape)) if dtype == "uint8" else rng.normal(3, 2, (count, *shape))
    y: Any = {
        "classes": rng.integers(0, 3, count).astype(np.int64),
        "numbers": rng.normal(size=count).astype(np.float32),
        "two numbers": rng.normal(size=(count, 2)).astype(np.float32),
        "prices": rng.normal(PRICE, DEVIATION, size=(count, 2)).astype(np.float32),
        "labels": rng.integers(0, 2, (count, 5)).astype(np.uint8),
    }[kind]
    names = {"classes": NAMES, "labels": tuple("abcde")}.get(kind, ())
    facts: dict[str, Any] = {"train": range(TRAIN), "test": range(TRAIN, count), "classes": names}
    kind = "numbers" if kind in ("two numbers", "prices") else kind
    return Dataset("own", "here", "digest", x.astype(dtype), y, kind=kind, **{**facts, **more})


SETS: dict[str, tuple[str, Dataset, str]] = {
    "colours": (
        "cnn",
        made("classes", (6, 5, 3), "uint8"),
        "uint8 [6, 5, 3], from 0 to 1; 3 classes (setosa, versicolor, virginica); "
        "sparse categorical crossentropy, accuracy",
    ),
    "floats": ("cnn", made("classes", (4, 5)), "float32 [4, 5], as they are; 3 classes (setosa"),
    "series": ("mlp", made("classes", (16, 9)), "float32 [16, 9], as they are; 3 classes (setosa"),
    "table": (
        "mlp",
        made("numbers", (13,), mean=np.full(13, 3, np.float32), deviation=np.full(13, 2, np.float32)),
        "float32 [13], standardised by their mean and deviation; 1 number from ",
    ),
    "two numbers": ("logistic", made("two numbers", (4,)), "; 2 numbers from "),
    "prices": (
        "mlp",
        made("prices", (4,), y_mean=PRICE, y_deviation=DEVIATION),
        ", standardised for the loss; mean squared error, mae, mse",
    ),
    "labels": (
        "logistic",
        made("labels", (6,), "int32"),
        "int32 [6], as they are; 5 labels (a, b, c, d, e)",
    ),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """runs(data, comm, **options): the facts of a run, which is in the folder `name`."""

    def run(data: Dataset, comm: Any = alone, name: str = "run", **options: Any) -> dict[str, Any]:
        monkeypatch.setattr(trainer, "load", lambda *args: data)
        folder = str(tmp_path / name)
        config = TrainConfig(
            **{"epochs": 2, "batch_size": 10, "run_dir": folder, "tensorboard": "off", **options}
        )
        return trainer.train(config, comm)

    return run


@pytest.mark.parametrize("name", SETS)
def test_ranks_train_what_one_trains(
    name: str, runs: Callable[..., Any], on_threads: Callable[..., Any], tmp_path: Path
) -> None:
    model, data, header = SETS[name]
    one = runs(data, model=model, epochs=1)
    values = checkpoint.load(tmp_path / "run").values
    event = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert header in event["described"]
    for size in (2, 3):
        many = on_threads(size, lambda comm, size=size: runs(data, comm, f"{size}", model=model, epochs=1))[0]
        assert many["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)
        for key, value in checkpoint.load(tmp_path / f"{size}").values.items():
            np.testing.assert_allclose(value, values[key], rtol=2e-2, atol=2e-3, err_msg=key)


@pytest.mark.parametrize("name", ["table", "two numbers", "prices", "labels", "series"])
def test_the_test_is_that_of_numpy(name: str, runs: Callable[..., Any], tmp_path: Path) -> None:
    """By the logistic model's parameters, in float64."""
    _, data, _ = SETS[name]
    found = runs(data, model="logistic")
    values = checkpoint.load(tmp_path / "run").values
    x = data.x[TRAIN:].astype(np.float64).reshape(TEST, -1)
    if data.mean is not None:
        x = (x - data.mean) / data.deviation
    y, out = data.y[TRAIN:], x @ values["logits/kernel"] + values["logits/bias"]
    if data.kind == "classes":
        p = np.exp(out - out.max(1, keepdims=True))
        loss = -np.log(p[np.arange(TEST), y] / p.sum(1)).mean()
        metric = ("test_accuracy", (out.argmax(1) == y).mean())
    elif data.kind == "labels":
        loss = (np.log1p(np.exp(-np.abs(out))) + np.maximum(out, 0) - out * y).mean()
        metric = ("test_binary_accuracy", ((out > 0) == y).mean())
    else:
        scale = np.ones(1) if data.y_mean is None else DEVIATION.astype(np.float64)
        error = out * scale + (0 if data.y_mean is None else PRICE) - y.reshape(TEST, -1)
        loss, metric = ((error / scale) ** 2).mean(), ("test_mae", np.abs(error).mean())
    assert found["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert found[metric[0]] == pytest.approx(metric[1], rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_large_targets_are_learnt_and_told_in_their_own_units(
    size: int, on_threads: Callable[..., Any], tmp_path: Path
) -> None:
    """A table of prices: trained, resumed to the same bits, and asked, of another table, too."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    price = 2e5 + 8e4 * (x @ [0.6, -0.5, 0.6])
    for name, y in (("houses", price), ("other", 0 * price + x[:, 0])):
        rows = np.column_stack([x, y])
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header="a,b,c,price", comments="")
    options: dict[str, Any] = {
        "dataset": str(tmp_path / "houses.csv"), "label": "price", "validation": "0.2", "batch_size": 10,
        "tensorboard": "off", "model": "mlp",
    }  # fmt: skip

    def body(comm: Any) -> Any:
        whole, parts = (str(tmp_path / name) for name in ("whole", "parts"))
        found = trainer.train(TrainConfig(**options, epochs=4, run_dir=whole), comm)
        trainer.train(TrainConfig(**options, epochs=2, run_dir=parts), comm)
        trainer.train(TrainConfig(**options, epochs=4, run_dir=parts, resume=parts), comm)
        answers = []
        for dataset in ("houses", "other"):
            given = {"dataset": str(tmp_path / f"{dataset}.csv"), "label": "price"}
            saved = open_saved(whole, comm, given)
            assert saved.data is not None
            pieces = predictions(saved, parts_of(saved.data, "all"), comm, False)
            answers.append(np.concatenate([piece.found[0]["output"] for piece in pieces])[:, 0])
        of_all = trainer.evaluate_run(
            Path(whole), TrainConfig(**{**options, "validation": ""}), comm, other=True
        )
        return found, answers, of_all

    found, (asked, other), of_all = on_threads(size, body)[0]
    values, again = (checkpoint.load(tmp_path / name).values for name in ("whole", "parts"))
    assert all(np.array_equal(value, again[key]) for key, value in values.items())
    assert found["validation_loss"] < 0.1 and found["validation_mae"] < 2e4
    assert of_all["test_mae"] == pytest.approx(np.abs(asked - price).mean(), rel=1e-5)
    assert of_all["test_mse"] == pytest.approx(((asked - price) ** 2).mean(), rel=1e-5)
    assert np.array_equal(asked, other)


def test_pictures_are_shown_where_there_are_some(runs: Callable[..., Any], tmp_path: Path) -> None:
    runs(SETS["colours"][1], model="logistic")
    run = read(tmp_path / "run")
    assert run.mistakes is not None and run.mistakes.shape == (6, 5, 3) and run.mistakes.classes == [*NAMES]
    text = page._confusion([run])
    assert "data:image/png" in text and "setosa" in text
    runs(SETS["series"][1], name="series", model="logistic")
    run = read(tmp_path / "series")
    assert run.mistakes is not None and run.mistakes.shape == () and run.mistakes.worst
    assert "data:image/png" not in page._confusion([run])
    runs(SETS["table"][1], name="table", model="logistic")
    assert read(tmp_path / "table").mistakes is None
    pytest.importorskip("PIL")
    grid = tensorboard.captioned_grid(SETS["colours"][1].x[:3], ["a", "b", "c"])
    assert grid.ndim == 3 and grid.shape[2] == 3


@pytest.mark.parametrize("shape", [(13,), (3, 9), (9, 3, 3), (4, 4, 2, 2)])
def test_a_cnn_takes_images(shape: tuple[int, ...], runs: Callable[..., Any]) -> None:
    with pytest.raises(
        UsageError, match=rf"--model cnn takes images, .* at least 4 x 4, and .* \[{shape[0]}"
    ):
        runs(made("classes", shape), model="cnn")


def test_a_file_of_ones_own_is_told_what_the_data_has(runs: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dtrain.keras.layers import Dense\n"
        "from dtrain.keras.models import Sequential\n"
        "def three(): return Sequential([Dense(3, 'sigmoid')])\n"
        "def five(): return Sequential([Dense(5, 'sigmoid')])\n"
    )
    own = str(tmp_path / "own.py")
    with pytest.raises(UsageError, match=r"gives float32\(\?, 3\), and the data has 5 labels: .* Dense\(5\)"):
        runs(SETS["labels"][1], model=f"{own}:three")
    with pytest.raises(
        UsageError, match=r"the data has targets of 2 numbers: .* a float32 number .* Dense\(2\)"
    ):
        runs(SETS["two numbers"][1], model=f"{own}:three")
    a, b = (
        runs(SETS["labels"][1], name=n, model=m, lr=1e-9)
        for n, m in (("a", f"{own}:five"), ("b", "logistic"))
    )
    assert 0.3 < a["test_loss"] < 5 and 0.3 < b["test_loss"] < 50


def test_own_arrays_are_used_where_they_lie(tmp_path: Path) -> None:
    """Of an array in a mapped file nothing is copied, and a program may go on writing to its own."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(40, 3)).astype(np.float32))
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), np.zeros((40, 1), np.float32)
    own = rng.normal(size=(9, 3)).astype(np.float32)
    data = examples_of(((x, y), (own, y[:9])), "t.py")
    assert np.shares_memory(data.x, x) and np.shares_memory(data.y, y)
    test = data.part("test")
    assert np.shares_memory(test.data.x, own) and not test.data.x.flags.writeable and own.flags.writeable
    assert len(test) == 9 and test[:].tolist() == list(range(9)) and len(data.train) == 40


def test_a_task_that_leaves_its_loss_out_gets_that_of_its_targets(runs: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    (graph := dt.Graph()).seed = 0
    with graph.as_default():
        built = trainer.build("mlp", examples_of((x, y), "t.py"), dt.Task(data=(x, y)))
    assert built.loss_name == "mean_squared_error" and [m.name for m, _ in built.metrics] == ["mae"]
    assert examples_of((x, rng.integers(0, 4, 40)), "t.py").classes == ("0", "1", "2", "3")
    some = rng.random((40, 3)) > 0.5
    assert [examples_of((x, a), "t.py").kind for a in (some, some.astype(np.uint8))] == ["labels"] * 2
    assert examples_of((x, some.astype(np.uint8) * 2), "t.py").kind == "numbers"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_cannot_be_trained_on_writes_nothing(
    size: int, runs: Callable[..., Any], on_threads: Callable[..., Any], tmp_path: Path
) -> None:
    bad = made("numbers", (3,))
    y = bad.y.copy()
    y[7] = np.nan
    cases = [
        (replace(bad, y=y), "here: the target of example 7, counted from 0, is nan"),
        (replace(bad, train=range(0)), "here has no training examples"),
    ]
    if size > 1:
        cases.append((replace(bad, train=range(1)), f"{size} ranks share 1 training example, so"))
    for data, words in cases:

        def body(comm: Any, data: Dataset = data, words: str = words) -> None:
            with pytest.raises(DataError, match=words) as caught:
                runs(data, comm)
            assert caught.value.exit_code == 4

        on_threads(size, body)
    assert not (tmp_path / "run").exists()


def bad_inputs() -> Any:
    """tests/faults/bad_inputs.py."""
    path = Path(__file__).parents[1] / "faults" / "bad_inputs.py"
    spec = importlib.util.spec_from_file_location("bad_inputs", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("make", [c for c in bad_inputs().CASES if c.__name__ != "zip_bomb"])
@pytest.mark.parametrize("size", [1, 3])
def test_bad_data_is_refused_on_all_ranks_before_anything_is_written(
    size: int,
    make: Callable[[Path], Any],
    on_threads: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(pool, "root", lambda: tmp_path)
    try:
        case = make(folder)
    except ImportError as error:
        pytest.skip(str(error))
    if size not in case.ranks or case.elsewhere:
        pytest.skip("it is well there, or needs another node")
    before = {*tmp_path.rglob("*")}
    options = {flag[2:]: value for flag, value in zip(case.options[::2], case.options[1::2], strict=True)}

    def body(comm: Any) -> str:
        with pytest.raises(DataError) as caught:
            trainer.train(TrainConfig(**options, run_dir=str(tmp_path / "run"), tensorboard="off"), comm)
        assert caught.value.exit_code == 4
        return str(caught.value)

    for said in on_threads(size, body):
        assert all(word in said for word in case.words)
    assert case.kept or {*tmp_path.rglob("*")} == before
