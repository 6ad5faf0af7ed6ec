"""dtrain predict, and eval of a run of fit: rows in their order on any number of ranks, or nothing at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data.dataset import Dataset
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.keras.layers import Dense, Flatten, Layer, Rescaling
from dtrain.keras.models import Sequential
from dtrain.task import predict, trainer
from dtrain.task.saved import open_saved

TASK = """
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential

rng = np.random.default_rng(1)
x = rng.normal(size=(60, 5)).astype("float32")
data = lambda y: ((x[:43], y[:43]), (x[43:], y[43:]))


def numbers():
    y = (x @ rng.normal(size=(5, 2))).astype("float32")
    return dt.Task(data=data(y), model=Sequential([Dense(2, input_shape=(5,))]), loss="mse")


def tags():
    y = (x[:, :3] > 0).astype("float32")
    loss = dt.keras.losses.BinaryCrossentropy(from_logits=True)
    return dt.Task(data=data(y), model=lambda x, training: Dense(3)(x), loss=loss)


def one_of_two():
    y = (x[:, 0] > 0).astype("int32")
    model = Sequential([Dense(1, "sigmoid", input_shape=(5,))])
    return dt.Task(data=data(y), model=model, loss="binary_crossentropy")


def several():
    inputs = {"a": x[:, :2], "b": x[:, 2:]}
    train, test = ({k: v[s] for k, v in inputs.items()} for s in (slice(43), slice(43, None)))
    y = (x[:, 0] > 0).astype("int32")
    labels = lambda s: {"kind": y[s], "size": x[s, 1:2]}

    def model(x, training):
        h = dt.concat([x["a"], x["b"]], 1)
        return {"kind": Dense(2, name="kind")(h), "size": Dense(1, name="size")(h)}

    return dt.Task(
        data=((train, labels(slice(43))), (test, labels(slice(43, None)))),
        model=model,
        loss={"kind": dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"},
    )
"""


def trained(folder: Path, kind: str) -> str:
    """A run of a task of TASK, briefly trained."""
    (folder / "tasks.py").write_text(TASK)
    run = folder / kind
    config = TrainConfig(
        task=f"{folder / 'tasks.py'}:{kind}", epochs=1, batch_size=10, tensorboard="off", run_dir=str(run)
    )
    trainer.train(config, SingleCommunicator())
    return str(run)


def predicted(run: str, *words: str) -> int:
    return main(["predict", run, *words])


def table(path: Path) -> dict[str, list[str]]:
    head, *lines = csv.reader(path.read_text().splitlines())
    return {name: [line[i] for line in lines] for i, name in enumerate(head)}


def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "numbers")
    assert predicted(run, "--to", str(tmp_path / "p.npy")) == 0
    assert predicted(run, "--to", str(tmp_path / "p.csv")) == 0
    array, columns = np.load(tmp_path / "p.npy"), table(tmp_path / "p.csv")
    assert array.shape == (17, 2) and array.dtype == np.float32
    assert [*columns] == ["row", "prediction_0", "prediction_1"] and columns["row"] == [*map(str, range(17))]
    read = np.array([columns["prediction_0"], columns["prediction_1"]], np.float32).T
    np.testing.assert_array_equal(read, array)  # as short as they are exact
    assert predicted(run, "--part", "all", "--to", str(tmp_path / "all.npy")) == 0
    whole = np.load(tmp_path / "all.npy")
    assert len(whole) == 60
    np.testing.assert_array_equal(whole[43:], array)
    capsys.readouterr()
    assert predicted(run) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 13 and "tasks-numbers on 17 examples" in out and "mean" in out
    assert predicted(run, "--probabilities") == 2
    assert "this network gives numbers, not classes or labels" in capsys.readouterr().err


def test_that_numbers_are_standardised_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{i},{3 * i % 7},{2.5 * i}\n" for i in range(60))
    (tmp_path / "houses.csv").write_text("a,b,price\n" + rows)
    words = ["--dataset", str(tmp_path / "houses.csv"), "--label", "price", "--validation", "0.2"]
    assert main(["train", *words, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert predicted(str(tmp_path / "run"), "--part", "validation") == 0
    assert "preprocessing: (x - mean) / deviation" in capsys.readouterr().out


def test_labels_and_one_of_two_classes(tmp_path: Path) -> None:
    run = trained(tmp_path, "tags")
    assert predicted(run, "--to", str(tmp_path / "p.csv"), "--probabilities") == 0
    columns = table(tmp_path / "p.csv")
    assert [*columns] == ["row", "0", "1", "2", "p_0", "p_1", "p_2"]
    for name in "012":
        p = np.array(columns[f"p_{name}"], float)
        assert ((p >= 0) & (p <= 1)).all()
        assert [str(int(v > 0.5)) for v in p] == columns[name]
    run = trained(tmp_path, "one_of_two")
    assert predicted(run, "--to", str(tmp_path / "p.csv"), "--probabilities") == 0
    columns = table(tmp_path / "p.csv")
    assert [*columns] == ["row", "class", "p_0", "p_1"]
    p = np.array([columns["p_0"], columns["p_1"]], float)
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-6)
    assert [*map(str, p.argmax(0))] == columns["class"]


def test_several_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "several")
    assert predicted(run, "--to", str(tmp_path / "p.csv")) == 0
    columns = table(tmp_path / "p.csv")
    assert [*columns] == ["row", "kind_class", "size_prediction"] and {*columns["kind_class"]} <= {"0", "1"}
    assert predicted(run, "--to", str(tmp_path / "p.npy")) == 2
    assert "a .npy file is one array" in capsys.readouterr().err


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = trained(tmp_path, "one_of_two")
    for ending in ("csv", "parquet"):
        assert predicted(run, "--to", str(tmp_path / f"p.{ending}"), "--probabilities") == 0
    read = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    columns = table(tmp_path / "p.csv")
    assert read["class"] == columns["class"] and read["row"] == [*range(17)]
    np.testing.assert_array_equal(np.array(read["p_1"], "f"), np.array(columns["p_1"], "f"))


def test_rows_keep_their_order_on_any_number_of_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_threads: Callable[..., list[Any]]
) -> None:
    run = trained(tmp_path, "numbers")
    # pieces of 7 rows, the last of fewer than ranks
    monkeypatch.setattr(predict, "EVAL_BATCH", 7)

    def write(comm: Any, to: str) -> int:
        saved = open_saved(run, comm, {})
        assert saved.data is not None
        parts = predict.parts_of(saved.data, "all")
        return predict.write(saved, parts, comm, to, False).rows

    write(SingleCommunicator(), str(tmp_path / "1.npy"))
    alone = np.load(tmp_path / "1.npy")
    assert len(alone) == 60
    for ranks in (2, 3):
        to = str(tmp_path / f"{ranks}.npy")
        assert on_threads(ranks, lambda comm, to=to: write(comm, to)) == [60] * ranks
        np.testing.assert_allclose(np.load(to), alone, rtol=1e-6)
    # as many ranks as all rows
    monkeypatch.setattr(predict, "EVAL_BATCH", 2)
    on_threads(3, lambda comm: write(comm, str(tmp_path / "few.npy")))
    np.testing.assert_allclose(np.load(tmp_path / "few.npy"), alone, rtol=1e-6)


def test_a_file_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_threads: Callable[..., list[Any]]
) -> None:
    run, to = trained(tmp_path, "numbers"), tmp_path / "out" / "p.csv"
    to.parent.mkdir()
    to.write_text("before")
    monkeypatch.setattr(predict, "EVAL_BATCH", 7)

    def full(self: Any, columns: Any) -> None:
        if columns["row"][0] >= 14:
            raise OSError(28, "No space left on device")
        self.file.write(b"some")

    def write(comm: Any) -> None:
        saved = open_saved(run, comm, {})
        assert saved.data is not None
        with pytest.raises(EnvironmentProblem, match=r"p\.csv cannot be written: No space left on device"):
            predict.write(saved, predict.parts_of(saved.data, "all"), comm, str(to), False)

    monkeypatch.setattr("dtrain.task.written.Csv._add", full)
    write(SingleCommunicator())
    on_threads(2, write)
    assert os.listdir(to.parent) == ["p.csv"] and to.read_text() == "before"


def test_memory_does_not_grow_with_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = trained(tmp_path, "numbers"), []
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (5000, 5))

    class Rows(np.memmap):
        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            seen.append(len(found))
            return found

    saved = open_saved(run, SingleCommunicator(), {})
    y = np.zeros((5000, 2), np.float32)
    data = Dataset("large", "here", "0", rows.view(Rows), y, range(0), test=range(5000), kind="numbers")
    summary = predict.write(saved, [data.part("test")], SingleCommunicator(), str(tmp_path / "p.npy"), False)
    assert summary.rows == 5000 and max(seen) == 1000


def test_what_cannot_be_predicted_is_said(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, "numbers")
    for words, code, text in (
        (["--part", "validation"], 4, "has no validation examples to predict; it has 43 train, 17 test"),
        (["--part", "tst"], 2, "choose one of test, train, validation, all (did you mean test?)"),
        (["--to", "p.txt"], 2, "--to p.txt: give a name that ends in .csv, .npy, .parquet"),
        (["--to", "p.cvs"], 2, "--to p.cvs: did you mean .csv?"),
        (["--to", str(tmp_path / "none" / "p.csv")], 2, "there is no folder"),
        (["--scale", "2"], 2, "--scale is for Keras models"),
        (["--scale", "x"], 2, "--scale x: give a number, such as 1/255"),
        (["--best"], 2, "has no validation examples, and what is best"),
        (
            ["--dataset", "synthetic"],
            4,
            "--dataset synthetic has examples uint8 [28, 28], and the task's arrays",
        ),
        (["--device", "tpu"], 2, "choose one of auto, cpu, gpu"),
    ):
        capsys.readouterr()
        assert predicted(run, *words) == code, words
        assert text in capsys.readouterr().err, words
    assert main(["predict", str(tmp_path / "nothing")]) == 5
    assert main(["predict", str(tmp_path)]) == 5
    assert not (tmp_path / "none").exists()


# -- Keras's models ----------------------------------------------------------------------------------------
@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    from dtrain.data import load

    monkeypatch.setattr("dtrain.data.SYNTHETIC_TRAIN", 300)
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TEST", 200)
    return load("synthetic", SingleCommunicator())


def fitted(
    digits: Dataset, folder: Path, first: Any = None, loss: Any = "sparse_categorical_crossentropy"
) -> Any:
    x, y = digits.x[:300] / np.float32(255), digits.y[:300]
    layers = [Flatten(input_shape=(28, 28)), *([first] if first else []), Dense(10, "softmax")]
    model = Sequential(layers, comm=None)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x * 255 if isinstance(first, Rescaling) else x, y, epochs=2, verbose=0, run_dir=folder)
    return model


def test_a_run_of_fit_is_asked_without_its_program(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], on_threads: Callable[..., list[Any]]
) -> None:
    run = str(tmp_path / "run")
    model = fitted(digits, tmp_path / "run")
    x, y = digits.x[300:] / np.float32(255), digits.y[300:]
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert main(["eval", run]) == 2
    assert "does not say on which data: give it by --dataset" in capsys.readouterr().err
    assert main(["eval", run, "--dataset", "synthetic", "--log-format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["test_loss"] == pytest.approx(loss, rel=1e-5) and facts["test_accuracy"] == accuracy
    assert facts["epoch"] == 2 and facts["test_examples"] == 200
    to = str(tmp_path / "p.npy")
    assert main(["predict", run, "--dataset", "synthetic", "--probabilities", "--to", to]) == 0
    np.testing.assert_allclose(np.load(to), model.predict(x), atol=1e-6)
    assert "preprocessing: x * 0.00392156863" in capsys.readouterr().out
    model.save(tmp_path / "m.safetensors")
    assert main(["predict", str(tmp_path / "m.safetensors"), "--dataset", "synthetic", "--to", to]) == 0
    np.testing.assert_array_equal(np.load(to), model.predict(x).argmax(1))
    assert main(["predict", run]) == 2
    assert "give it by --dataset" in capsys.readouterr().err

    def ask(comm: Any) -> None:
        saved = open_saved(run, comm, {"dataset": "synthetic"})
        parts = predict.parts_of(saved.data, "test")  # type: ignore[arg-type]
        predict.write(saved, parts, comm, to, True)

    on_threads(2, ask)
    np.testing.assert_allclose(np.load(to), model.predict(x), atol=1e-6)


def test_preprocessing_is_that_of_the_model_or_as_it_is_said(digits: Dataset, tmp_path: Path) -> None:
    to = str(tmp_path / "p.npy")
    model = fitted(digits, tmp_path / "run", Rescaling(1 / 255))
    x = digits.x[300:].astype(np.float32)
    for words, factor in (([], 1), (["--scale", "1/255"], 1 / 255)):
        words = ["--dataset", "synthetic", "--probabilities", "--to", to, *words]
        assert main(["predict", str(tmp_path / "run"), *words]) == 0
        np.testing.assert_allclose(np.load(to), model.predict(x * np.float32(factor)), atol=1e-6)


class Own(Layer):
    def call(self, x: dt.Tensor, training: Any) -> dt.Tensor:
        return x * 2


def own_loss(y_true: Any, y_pred: Any) -> Any:
    return dt.reduce_sum(dt.square(y_pred - dt.one_hot(dt.cast(y_true, "int32"), 10)), -1)


def test_what_is_the_programs_own_is_said(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(digits, tmp_path / "layer", Own())
    assert main(["predict", str(tmp_path / "layer"), "--dataset", "synthetic"]) == 5
    assert "its model cannot be made without its program: 'Own' is no layer" in capsys.readouterr().err
    fitted(digits, tmp_path / "loss", loss=own_loss)
    assert main(["eval", str(tmp_path / "loss"), "--dataset", "synthetic"]) == 2
    assert "a loss or metric of its program's own" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "loss"), "--dataset", "synthetic"]) == 0
    (tmp_path / "loss" / "model.json").unlink()
    assert main(["predict", str(tmp_path / "loss"), "--dataset", "synthetic"]) == 5
    assert "does not say what its model is made of" in capsys.readouterr().err
    (tmp_path / "loss" / "model.json").write_text('{"config": {"layers": [7]}}')
    assert main(["predict", str(tmp_path / "loss"), "--dataset", "synthetic"]) == 5
    for word, text in (("model", "--model is for runs of"), ("label", "give --dataset, too")):
        assert main(["predict", str(tmp_path / "loss"), f"--{word}", "x"]) == 2
        assert text in capsys.readouterr().err
    with pytest.raises(UsageError, match="--best is for runs"):
        open_saved(str(tmp_path / "m.safetensors"), SingleCommunicator(), {}, best=True)
