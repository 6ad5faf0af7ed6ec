"""fit and `dtrain train` of one model, its seed and its data: the same bits, whatever the model has in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task import trainer

SEED, BATCH, EPOCHS = 7, 20, 3
NAMES = ("loss", "accuracy", "val_loss", "val_accuracy")

#: A task file with the models and their data.
SOURCE = """
import numpy as np
import dtrain as dt
from dtrain.keras.home import WORLD
from dtrain.keras.layers import *

generator = np.random.default_rng(0)
x = generator.normal(size=(257, 12)).astype(np.float32)
y = x[:, :3].argmax(1).astype(np.int32)
train, test = (x[:203], y[:203]), (x[203:], y[203:])


def sequential(comm=WORLD):
    layers = [Dense(16, "relu", input_shape=(12,)), BatchNormalization(), Dropout(0.3), GaussianNoise(0.1)]
    return dt.keras.Sequential([*layers, Dense(3, "softmax", activity_regularizer="l2")], comm=comm)


def of_input(comm=WORLD):
    given = dt.keras.Input((12,))
    left, right = Dense(8, "tanh")(given), Dropout(0.5)(Dense(8, "relu", kernel_regularizer="l2")(given))
    return dt.keras.Model(given, Dense(3, "softmax")(concatenate([left, right])), comm=comm)


def trained():
    with dt.Graph().as_default():
        dt.set_random_seed(1)
        made = of_input(None)
        made.compile("sgd", LOSS, ["accuracy"])
        made.fit(*train, epochs=1, verbose=0)
    return made


LOSS = "sparse_categorical_crossentropy"


def task_of_sequential():
    return dt.Task((train, test), sequential(), LOSS, ["accuracy"], dt.keras.optimizers.Adam(0.01))


def task_of_input():
    return dt.Task((train, test), of_input(), LOSS, ["accuracy"], dt.keras.optimizers.Adam(0.01))


def task_of_trained():
    return dt.Task((train, test), trained(), LOSS, ["accuracy"], dt.keras.optimizers.SGD(0.0))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    """What the file has."""
    space: dict[str, Any] = {}
    exec(SOURCE, space)
    return space


def fitted(space: dict[str, Any], model: str, comm: Communicator) -> list[list[float]]:
    with dt.Graph().as_default():
        dt.set_random_seed(SEED)
        made = space[model](comm)
        made.compile(dt.keras.optimizers.Adam(0.01), space["LOSS"], ["accuracy"])
        history = made.fit(*space["train"], BATCH, EPOCHS, verbose=0, validation_data=space["test"]).history
    return [history[name] for name in NAMES]


def trained(file: Path, name: str, comm: Communicator) -> list[list[float]]:
    run = file.parent / f"{name}-{comm.size}"
    config = TrainConfig(task=f"{file}:{name}", epochs=EPOCHS, batch_size=BATCH, seed=SEED, run_dir=str(run))
    trainer.train(config, comm)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "epoch"]
    return [[epoch[name.replace("val_", "test_")] for epoch in epochs] for name in NAMES]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("model", ["sequential", "of_input"])
def test_fit_and_the_command_train_to_the_same_bits(
    model: str, ranks: int, space: dict[str, Any], file: Path, on_threads: Callable[..., list[Any]]
) -> None:
    name = f"task_of_{model.removeprefix('of_')}"
    (by_fit, *_) = on_threads(ranks, lambda comm: fitted(space, model, comm))
    (by_command, *_) = on_threads(ranks, lambda comm: trained(file, name, comm))
    assert by_fit == by_command
    assert by_fit[0][-1] < by_fit[0][0]


def test_a_model_that_was_trained_begins_with_its_weights(space: dict[str, Any], file: Path) -> None:
    found = trained(file, "task_of_trained", SingleCommunicator())
    loss, accuracy = space["trained"]().evaluate(*space["test"], verbose=0)
    assert found[2:] == [[loss] * EPOCHS, [accuracy] * EPOCHS]
