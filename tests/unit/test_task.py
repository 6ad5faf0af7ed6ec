"""`dtrain train FILE.py`: a task of the user's own, on one rank and on several, saved, resumed and tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.cli import main, parse
from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig, read_run, resolve
from dtrain.errors import UsageError
from dtrain.task import trainer

FILE = """
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense

random = np.random.default_rng(0)
x = random.standard_normal((101, 6)).astype("f")
y = x @ random.standard_normal((6, 2)).astype("f")
weights = random.uniform(0, 2, 101)


def split(*arrays):
    return tuple(a[:80] for a in arrays), tuple(a[80:] for a in arrays)


def task():
    model = dt.keras.Sequential([Dense(7, "tanh", input_shape=(6,)), Dense(2)])
    return dt.Task(split(x, y), model, "mse", ["mae"], dt.keras.optimizers.Adam(0.01, decay=0.1))


def weighted():
    def net(x, training):
        return Dense(2, name="out")(dt.nn.dropout(x, rate=0.3 * training))

    return dt.Task(split(x, y, weights), net, lambda y, p: dt.square(y - p), optimizer="sgd")


def binary():
    return dt.Task(
        split(x, (y[:, 0] > 0).astype("i8")),
        lambda x, training: Dense(1, "sigmoid")(x),
        "binary_crossentropy",
        ["accuracy", dt.keras.metrics.Precision()],
    )


def several_labels():
    def net(x, training):
        return Dense(2, "sigmoid")(x)

    return dt.Task(split(x, (y > 0).astype("f")), net, "binary_crossentropy")


def classes():
    return dt.Task(split(x, (y > 0).sum(1)), lambda x, training: Dense(3)(x),
                   dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])


def untested():
    return dt.Task((x, y), lambda x, training: Dense(2)(x), "mae")


def on_images():
    return dt.Task(model=lambda x, training: Dense(10)(x), optimizer=dt.train.MomentumOptimizer(0.1, 0.9))


def no_task():
    return 3


def takes(one):
    return one


def ragged():
    return dt.Task((x, y[:7]), lambda x, training: x, "mse")


def unlike():
    return dt.Task(((x, y), (x[:, :3], y)), lambda x, training: x, "mse")


def unknown():
    return dt.Task(split(x, y), lambda x, training: x, "mean_cube")


def several(**changed):
    x2, y2 = {"a": x, "b": x[:, :1]}, {"one": y[:, :1], "two": y}
    parts = [{"x": {k: v[r] for k, v in x2.items()}, "y": {k: v[r] for k, v in y2.items()}}
             for r in (slice(80), slice(80, None))]

    def net(x, training):
        return {"one": Dense(1)(x["b"]), "two": Dense(2)(x["a"])}

    return dt.Task(**{"data": tuple((p["x"], p["y"]) for p in parts), "model": net,
                      "loss": {"one": "mse", "two": "mae"}} | changed)


def sequential_of_several():
    return several(model=dt.keras.Sequential([Dense(2)]))


def loss_of_none():
    return several(loss={"three": "mse"})


def one_loss():
    return several(loss="mse")


def metrics_of_none():
    return several(metrics={"three": ["mae"]})


def no_step():
    return several(optimizer=lambda loss: None)


def other_names():
    (a, b), (c, d) = several().data
    return several(data=((a, b), (c, {"one": d["one"]})))


def wide():
    return dt.Task(split(x, y), lambda x, training: Dense(5)(x), "mse")


def drawn():
    other = np.random.default_rng().random((9, 3))
    return dt.Task((other, np.zeros(9)), lambda x, training: Dense(1)(x), "mse")


def nothing():
    return dt.Task(split(x, y), lambda x, training: None, "mse")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def config_of(file: Path, name: str, run: str = "run", **changes: Any) -> TrainConfig:
    options = {"epochs": 3, "batch_size": 9, "tensorboard": "off"} | changes
    return TrainConfig(
        task=f"{file}:{name}" if name else str(file), run_dir=str(file.parent / run), **options
    )


def epochs(run: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    timed = ("time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in timed} for e in events if e["event"] == "epoch"]


NAMES = {
    "": {"loss", "mae", "test_loss", "test_mae"},
    "weighted": {"loss", "test_loss"},
    "binary": {"loss", "accuracy", "precision", "test_loss", "test_accuracy", "test_precision"},
    "several_labels": {"loss", "test_loss"},
    "classes": {"loss", "accuracy", "test_loss", "test_accuracy"},
    "untested": {"loss"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_learns_and_is_the_same_on_any_number_of_ranks(
    name: str, file: Path, on_threads: Callable[..., list[Any]]
) -> None:
    trainer.train(config_of(file, name), SingleCommunicator())
    alone = epochs(file.parent / "run")
    assert alone[0].keys() - {"event", "epoch"} == NAMES[name]
    assert alone[-1]["loss"] < alone[0]["loss"]
    for ranks in (2, 3):
        config = config_of(file, name, f"run-{ranks}")
        on_threads(ranks, lambda comm, config=config: trainer.train(config, comm))
        for a, b in zip(alone, epochs(Path(config.run_dir)), strict=True):
            assert {k: pytest.approx(v, rel=1e-4) for k, v in a.items() if k != "event"} | {
                "event": "epoch"
            } == b


def test_its_numbers_are_those_of_numpy(file: Path) -> None:
    """One epoch of gradient descent on weighted squares, whose labels have two numbers."""
    scope: dict[str, Any] = {}
    exec(FILE, scope)
    file.write_text(FILE.replace("rate=0.3 * training", "rate=0.0 * training"))
    trainer.train(config_of(file, "weighted", epochs=1, batch_size=80), SingleCommunicator())
    (found,) = epochs(file.parent / "run")
    from dtrain.train import checkpoint

    values = checkpoint.load(file.parent / "run").values
    x, y, w = (scope[n].astype(float) for n in ("x", "y", "weights"))
    kernel, bias = values["out/kernel"].astype(float), values["out/bias"].astype(float)
    each = np.square(y[80:] - (x[80:] @ kernel + bias)).mean(1) * w[80:]
    assert found["test_loss"] == pytest.approx(each.mean(), rel=1e-5)


def test_it_is_resumed_bit_for_bit_and_tested_again(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = config_of(file, "", "whole")
    trainer.train(whole, SingleCommunicator())
    assert (
        main(
            ["train", str(file), "--run-dir", str(file.parent / "run"), "--epochs", "1", "--batch-size", "9"]
        )
        == 0
    )
    config = resolve({"resume": str(file.parent / "run"), "epochs": "3"}, {})
    trainer.train(config, SingleCommunicator())
    assert epochs(file.parent / "run") == epochs(file.parent / "whole")
    capsys.readouterr()
    assert main(["eval", str(file.parent / "run")]) == 0
    said, warned = capsys.readouterr()
    assert f"running the task's file that {file.parent / 'run' / 'config.toml'} names: {file}" in warned
    last = epochs(file.parent / "run")[-1]
    assert f"loss {last['test_loss']:.4f}, test mae {last['test_mae']:.4f} on 21 examples" in said
    assert read_run(str(file.parent / "run"))["task"] == str(file)
    file.write_text(FILE + "\n# another now\n")
    assert main(["eval", str(file.parent / "run")]) == 2
    assert "is not the one that trained" in capsys.readouterr().err


def test_a_model_and_an_optimizer_on_the_data_of_the_command_line(
    file: Path, write_set: Callable[..., Path]
) -> None:
    data = write_set(file.parent / "tiny", 40, 11)
    trainer.train(config_of(file, "on_images", dataset=str(data)), SingleCommunicator())
    found = epochs(file.parent / "run")
    assert found[-1]["loss"] < found[0]["loss"] and "test_accuracy" in found[-1]
    assert (file.parent / "run" / "mistakes.json").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope", "has no function nope; it has split, task"),
        ("no_task", "gives 3: let it return dt.Task"),
        ("takes", "let it take nothing, and return dt.Task"),
        ("ragged", "data has 101 and 7 examples"),
        ("unlike", "differ: float32.101, 6. and float32.101, 3."),
        ("unknown", "mean_cube"),
        ("nothing", "the task's model gives None"),
        ("wide", r"loss mean_squared_error does not fit labels float32\(\?, 2\) and the model's output"),
        ("sequential_of_several", "a Sequential, which takes one array, and the data has a, b"),
        ("loss_of_none", "a loss for 'three', and the model has outputs one, two"),
        ("one_loss", "let loss be a dict with a loss for each output by its name"),
        ("metrics_of_none", "metrics for 'three', and losses for one, two"),
        ("no_step", "optimizer <lambda> gives None: let it return the op of a step"),
        ("other_names", "data to train and to test on have other names: one, two and one"),
    ],
)
def test_what_is_no_task_is_said(name: str, words: str, file: Path) -> None:
    with pytest.raises(UsageError, match=words):
        trainer.train(config_of(file, name), SingleCommunicator())
    assert not (file.parent / "run" / "checkpoints").exists()


def test_data_that_differs_between_ranks_is_refused(file: Path, on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> str:
        with pytest.raises(UsageError) as caught:
            trainer.train(config_of(file, "drawn"), comm)
        return str(caught.value)

    assert all("is not the same on rank 1 as on rank 0" in said for said in on_threads(2, body))


def test_the_command_takes_a_file_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["train", "mine.py:task", "--epochs", "3"]).file == "mine.py:task"
    assert main(["train", "nosuch.py"]) == 2 and "there is no file nosuch.py" in capsys.readouterr().err
    assert main(["train", "mnist"]) == 2 and "does not take mnist" in capsys.readouterr().err
