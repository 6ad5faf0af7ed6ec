"""TensorFlow 1's names: docs/tensorflow1.md is true, and a name not there fails with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import NotSupportedError
from dtrain.names.__main__ import has, status, table
from dtrain.names.table import NAMES, OWN, PARTIAL, REASONS
from dtrain.tf1.examples.tutorials.mnist.sets import DataSet, DataSets

PAGE = Path(__file__).parents[2] / "docs" / "tensorflow1.md"


def test_the_page_is_made_from_the_code() -> None:
    assert PAGE.read_text() == table(), "type: python -m dtrain.names docs/tensorflow1.md"


def test_what_is_said_of_names_is_said_of_names_that_are_known() -> None:
    names = {f"{module}.{name}" for module, text in NAMES.items() for name in text.split()}
    assert set(PARTIAL) <= names and set(REASONS) <= names
    assert all(len(text.split()) == len(set(text.split())) for text in NAMES.values())
    assert all(has(name) for name in PARTIAL), "a name that is not there at all is not there in part"
    assert not [name for name in REASONS if has(name)], "a name that is there needs no reason"
    assert all(has(f"tf.{name}") for name in OWN)


def test_public_names_are_tensorflows_or_listed_as_its_own() -> None:
    known = set(NAMES["tf"].split()) | {name.partition(".")[0] for name in OWN}
    assert not set(dt.__all__) - known


def test_status() -> None:
    assert status("tf.matmul") == "yes"
    assert status("tf.Session").startswith("in part: ")
    assert status("tf.nn.ctc_loss").startswith("no: it has no connectionist")


def test_a_name_of_tensorflow_that_is_not_there_fails_with_a_sentence() -> None:
    with pytest.raises(NotSupportedError, match=r"dtrain has no tf\.qr: it has no matrix"):
        _ = dt.qr  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"dtrain has no tf\.nn\.ctc_loss: "):
        _ = dt.nn.ctc_loss  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no tf\.train\.ServerDef: .*docs/tensorflow1\.md"):
        _ = dt.train.ServerDef  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match=r"dtrain has no tf\.qr: it has no matrix"):
        exec("from dtrain import qr")


def test_a_misspelled_name_is_told_the_right_one() -> None:
    for text, near in (
        ("dt.placehoder", "placeholder"),
        ("dt.nn.softmax_crossentropy_with_logits", "softmax_cross_entropy_with_logits"),
        ("dt.train.AdamOptimiser", "AdamOptimizer"),
        ("dt.keras.Sequentail", "Sequential"),
        ("dt.keras.layers.Dens", "Dense"),
    ):
        with pytest.raises(AttributeError, match=f"; did you mean {near}\\?$"):
            eval(text)
    with pytest.raises(ImportError, match=r"has no attribute 'Saverr'; did you mean Saver\?"):
        exec("from dtrain.train import Saverr")


@pytest.mark.parametrize(
    ("module", "name"),
    [("keras.callbacks", "RemoteMonitor"), ("keras.models", "model_from_config"), ("keras", "applications")],
)
def test_an_import_of_what_is_not_there_gives_the_sentence(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=rf"dtrain has no tf\.{module}\.{name}: .*docs/tensorflow1\.md"):
        exec(f"from dtrain.{module} import {name}")
    assert not hasattr(sys.modules[f"dtrain.{module}"], name)


def test_habits_of_others_get_a_sentence() -> None:
    x = dt.placeholder("float32", [2], name="x")
    for function in (np.mean, np.asarray, np.exp, np.std):
        with pytest.raises(TypeError, match=r"x:0 is no array for NumPy: .*dt\.reduce_mean for np\.mean"):
            function(x)
    rows = DataSet(
        np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), one_hot=False, dtype="float32", reshape=True, seed=0
    )
    parts = DataSets(rows, rows, rows)
    with pytest.raises(AttributeError, match=r"'DataSets' has no next_batch: .*data\.train\.next_batch"):
        parts.next_batch(100)


def test_every_missing_name_says_so() -> None:
    for module, text in NAMES.items():
        if module == "tf.errors" or not has(module):
            continue
        found: object = dt
        for word in module.split(".")[1:]:
            found = getattr(found, word)
        for name in text.split():
            if isinstance(vars(found).get(name), ModuleType):
                continue  # a folder of dtrain's own that some import has loaded, such as data
            if not has(f"{module}.{name}"):
                with pytest.raises(NotSupportedError, match=f"has no {module}.{name}: ".replace(".", r"\.")):
                    getattr(found, name)


def test_other_names_fail_as_python_says() -> None:
    for module, words in ((dt, "module 'dtrain' has no"), (dt.nn, "module 'dtrain.nn' has no")):
        with pytest.raises(AttributeError, match=f"^{words} attribute 'no_such_thing'$") as caught:
            _ = module.no_such_thing
        assert not isinstance(caught.value, NotSupportedError)
        assert not hasattr(module, "__wrapped__")


def test_the_page_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "dtrain.names"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=PAGE.parents[1],
    )
    assert done.stdout == table()
