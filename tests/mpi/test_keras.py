"""dt.keras on several ranks: what one process of real Keras gives, where ranks could make a difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator
from dtrain.keras.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
import keras_cases
from keras_dtrain import KERAS, Ours, ask, differences

pytestmark = pytest.mark.mpi

SAMPLE = [
    "callbacks/EarlyStopping valley patience=50 restore_best_weights=True",
    "callbacks/EarlyStopping two valleys patience=2 restore_best_weights=True",
    "callbacks/EarlyStopping in two fits",
    "callbacks/EarlyStopping, and another callback stops",
    "callbacks/LearningRateScheduler",
    "callbacks/ReduceLROnPlateau flat patience=1 factor=0.5",
    "callbacks/order and logs",
    "callbacks/stopping inside an epoch",
    "counts/one output",
    "counts/several outputs",
    "evaluate/accuracy, classes",
    "evaluate/accuracy, one output, bits",
    "evaluate/accuracy, one output, numbers",
    "evaluate/accuracy, three outputs, bits, cross entropy",
    "fit/class weights",
    "fit/plain",
    "fit/validation split and sample weights",
    "fit/validation split, class weights and weighted metrics",
    "frozen/normalization, compiled anew, new",
    "frozen/normalization, compiled before, trained",
    "frozen/the whole model",
    "layers/BatchNormalization by default",
    "layers/BatchNormalization of images",
    "layers/BatchNormalization that is frozen",
    "layers2/Bidirectional sum",
    "layers2/Conv2DTranspose same",
    "layers2/Dense penalised",
    "layers2/Embedding with a mask",
    "layers2/GRU",
    "layers2/LSTM sequences",
    "layers2/PReLU",
    "layers2/SeparableConv2D",
    "layers2/TimeDistributed Conv2D",
    "layers2/a mask as far as the loss",
    "merge/Dot axes=(1, 1) normalize=True",
    "models/a model as a layer, twice",
    "models/states of an LSTM, handed on",
    "models/two inputs and two outputs",
    "models/weights of examples, of two outputs",
]


@pytest.mark.ranks(3)  # the shares are unlike; on other numbers of ranks: test_small_batches.py
@pytest.mark.parametrize("name", SAMPLE)
def test_ranks_give_what_keras_gave(name: str, comm: Communicator) -> None:
    found = list(differences(name, ask(name, comm)))
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("optimizer", ["SGD momentum=0.5 nesterov=True", "Adagrad epsilon=0.1", "Nadam"])
def test_optimizers_update_as_one_process_does(optimizer: str, comm: Communicator) -> None:
    """Each rank updates its part of the weights that it shares with the others of its node."""
    name, *options = optimizer.split()
    arguments = {key: eval(value) for key, _, value in (option.partition("=") for option in options)}
    found = []
    for ranks in (None, comm):
        k = Ours(ranks)
        model = keras_cases.network(k, optimizer=getattr(k.optimizers, name)(learning_rate=0.1, **arguments))
        model.fit(keras_cases.X, keras_cases.Y, batch_size=8, epochs=3, verbose=0, shuffle=False)
        found.append(model.get_weights())
    for alone, together in zip(*found, strict=True):
        np.testing.assert_allclose(together, alone, rtol=5e-5, atol=5e-6)


def test_batches_train_as_one_process_does(comm: Communicator) -> None:
    """The last of a single example, which each rank has whole."""
    found = []
    for ranks in (None, comm):
        model = keras_cases.network(Ours(ranks))
        x, y = keras_cases.X, keras_cases.Y
        cuts = [slice(at, min(at + 5, len(x) - 1)) for at in range(0, len(x) - 1, 5)] + [slice(-1, None)]
        batches = [(x[cut], y[cut]) for cut in cuts]
        tested = {"validation_data": iter(batches * 2), "validation_steps": len(batches)}
        history = model.fit(iter(batches * 2), epochs=2, steps_per_epoch=len(batches), verbose=0, **tested)
        found.append([*history.history.values(), *model.get_weights(), model.predict(iter(batches))])
    for alone, together in zip(*found, strict=True):
        np.testing.assert_allclose(together, alone, rtol=5e-5, atol=5e-6)


@pytest.mark.filterwarnings("ignore:.*is written as safetensors")  # the name is real Keras's
def test_the_best_of_two_fits_is_kept(comm: Communicator, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(comm.broadcast_text(str(tmp_path_factory.mktemp("best"))))
    k: Any = Ours(comm)
    model = keras_cases.network(k)
    saver = ModelCheckpoint(folder / "{epoch:02d}.keras", monitor="loss", save_best_only=True)
    for first, values in ((0, [3.0, 2.0, 2.5]), (3, [9.0, 8.0, 1.5])):
        report = keras_cases.reports(k, {"loss": [0.0] * first + values})
        arguments = {"epochs": first + 3, "initial_epoch": first, "callbacks": [report, saver], "verbose": 0}
        model.fit(keras_cases.X, keras_cases.Y, **arguments)
    comm.barrier()
    kept = [int(name) for name in keras_cases.kept(folder)]
    assert [*kept, saver.best] == KERAS["callbacks/ModelCheckpoint in two fits"] == [1, 2, 6, 1.5]
