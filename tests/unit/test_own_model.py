"""dtrain train --model FILE.py:function: a user's own model, and what is said of one that does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.train import checkpoint

MODELS = """
from beside import UNITS
import dtrain as dt
from dtrain.keras import Sequential, regularizers
from dtrain.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input

def graph(x, training):
    w = dt.Variable(dt.truncated_normal([784, UNITS], stddev=0.05), name="w")
    hidden = dt.nn.dropout(dt.nn.relu(dt.matmul(x, w)), rate=0.1 * training)
    return Dense(10)(hidden)

def layers():
    model = Sequential([Flatten(input_shape=(28, 28)), Dense(UNITS), BatchNormalization(),
                        Dense(10, "softmax")])
    model.summary(print_fn=lambda line: None)
    return model

def penalised():
    big = {"kernel_initializer": "ones", "kernel_regularizer": regularizers.l2(0.25)}
    return Sequential([BatchNormalization(input_shape=(784,)), Dense(10, **big)])

def applied(x, training):
    return Sequential([Dense(UNITS, "relu"), Dropout(0.1), Dense(10)])(x, training)

def seven(x, training):
    return Dense(7)(x)

def images(x, training):
    return dt.reshape(x, [-1, 28, 28])

def nothing(x, training):
    pass

def three(x, training, more):
    return x

def small():
    return Sequential([Dense(10, input_shape=(100,))])

number = 3
"""


def write_set(folder: Path) -> None:
    """503 training and 51 test examples in MNIST's format: the row of a bright block says the class."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for stem, count in (("train", 503), ("t10k", 51)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 6, 4:24] += 150
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(data)
            with (folder / "SHA256SUMS").open("a") as sums:
                sums.write(f"{hashlib.sha256(data).hexdigest()}  {stem}-{kind}-ubyte\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.py, its neighbour, and blocks, a small data set."""
    path = tmp_path_factory.mktemp("own")
    (path / "mine.py").write_text(MODELS)
    (path / "beside.py").write_text("UNITS = 32\n")
    (path / "broken.py").write_text("def f(:\n")
    write_set(path / "blocks")
    return path


def train(folder: Path, model: str, *more: str) -> int:
    dataset = ["--dataset", str(folder / "blocks")]
    return main(["train", "--model", f"{folder}/{model}", *dataset, "--epochs", "8", *more])


@pytest.mark.parametrize("name", ["graph", "layers", "applied"])
def test_it_trains_and_eval_says_the_same(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(folder, f"mine.py:{name}", "--run-dir", str(run)) == 0
    done = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert done["test_accuracy"] > 0.9
    capsys.readouterr()
    assert main(["eval", str(run), "--log-format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["test_accuracy"], said["test_loss"]) == (done["test_accuracy"], done["test_loss"])


def test_moving_averages_are_trained_and_saved_and_regularizers_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(folder, "mine.py:penalised", "--run-dir", str(tmp_path / "run"), "--epochs", "1") == 0
    values = checkpoint.load(tmp_path / "run").values
    assert np.abs(values["batch_normalization/moving_mean"]).max() > 0.01
    assert (values["batch_normalization/moving_variance"] != 1).all()
    header, epoch, *_ = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert header["parameters"] == 4 * 784 + 7850
    assert epoch["loss"] > 0.25 * 7840 / 2  # the penalty on a kernel of ones


def test_a_run_is_named_after_the_function(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(folder, "mine.py:graph") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-mine-graph")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gone.py:f", ["there is no file", "gone.py: give FILE.py:function"]),
        ("mine.py:grap", ["mine.py has no function grap; did you mean graph?"]),
        ("mine.py:number", ["has no function number"]),
        ("broken.py:f", ["broken.py line 1 is not Python"]),
        ("mine.py:seven", ["gives float32(?, 7)", "10 classes", "Dense(10)"]),
        ("mine.py:images", ["gives float32(?, 28, 28)"]),
        ("mine.py:nothing", ["gives None", "return the logits, or a keras model"]),
        ("mine.py:three", ["three takes (x, training, more)"]),
        ("mine.py:small", ["shape (100,)", "784 pixels", "input_shape=(784,)"]),
    ],
)
def test_models_that_do_not_fit(
    model: str, words: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, model, "--run-dir", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert err.startswith("dtrain: error: --model ") and err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("model", "place"), [("mine.py:graph", r" \(built at \S+mine\.py:\d+\)"), ("mlp", "")]
)
def test_an_op_that_makes_bad_numbers_is_told_with_the_users_line(
    model: str, place: str, folder: Path, tmp_path: Path
) -> None:
    """As the console script does it; of dtrain's own models the op's name says which layer."""
    script = "import sys\nfrom dtrain.cli import main\nsys.exit(main())\n"
    command = ["train", "--model", model, "--dataset", "blocks", "--optimizer", "sgd", "--lr", "1e30"]
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--run-dir", str(tmp_path / "run")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(Path(dt.__file__).parents[1])},
    )
    assert done.returncode == 6, done.stderr
    assert re.search(rf"; \w+ '\S+'{place} makes [\d,]+ of them\. ", done.stderr), done.stderr


def test_a_mistake_on_all_ranks_is_told_once(folder: Path, mpirun: object) -> None:
    run = mpirun(2, ["train", "--model", f"{folder}/mine.py:seven", "--dataset", folder / "blocks"])  # type: ignore[operator]
    assert run.rc == 2 and run.stderr.count("10 classes") == 1


def test_the_function_is_called_in_the_runs_own_graph(folder: Path, tmp_path: Path) -> None:
    before = len(dt.get_default_graph().operations)
    assert train(folder, "mine.py:applied", "--run-dir", str(tmp_path / "run"), "--epochs", "1") == 0
    assert len(dt.get_default_graph().operations) == before


HABITS = """
from __future__ import annotations
import pickle
from dataclasses import dataclass
from typing import ClassVar
import dtrain as dt
from .sizes import UNITS

@dataclass
class Sizes:
    classes: int
    kind: ClassVar[str] = "dense"

def net():
    import later
    from . import sizes
    own = pickle.loads(pickle.dumps(Sizes(later.CLASSES)))
    return dt.keras.Sequential([dt.keras.layers.Dense(sizes.UNITS), dt.keras.layers.Dense(own.classes)])
"""


def test_a_file_may_do_what_a_program_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dataclasses and pickle look the module up, functions import neighbours; also from another folder."""
    home = tmp_path / "a home"
    (home / "elsewhere").mkdir(parents=True)
    write_set(home / "blocks")
    for name, text in (("m.py", HABITS), ("sizes.py", "UNITS = 8"), ("later.py", "CLASSES = 10")):
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    words = ["train", "--model", "m.py:net", "--dataset", "blocks", "--epochs", "1", "--run-dir", "my run"]
    assert main(words) == 0
    monkeypatch.chdir(home / "elsewhere")
    assert main(["eval", "../my run"]) == 0
    assert main(["train", "--resume", "../my run", "--epochs", "2"]) == 0
    (home / "m.py").rename(home / "moved.py")  # the fingerprint still says that it is the same
    assert main(["train", "--resume", "../my run", "--model", "../moved.py:net", "--epochs", "3"]) == 5
    (home / "elsewhere" / "m.py").write_text(HABITS)
    (home / "elsewhere" / "sizes.py").write_text("UNITS = 8\n")
    assert main(["train", "--resume", "../my run", "--model", "m.py:net", "--epochs", "3"]) == 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_file_that_did_not_train_is_not_run(
    ranks: int, tmp_path: Path, small_set: Path, mpirun: Callable[..., Any]
) -> None:
    """Its digest is in config.toml; who says --model has read it. Alike on all ranks."""
    own, run, ran = tmp_path / "own m.py", tmp_path / "run", tmp_path / "ran"
    text = "import dtrain as dt\ndef f():\n    return dt.keras.Sequential([dt.keras.layers.Dense(10)])\n"
    own.write_text(text)
    here = [sys.executable, "-c", "import sys\nfrom dtrain.cli import main\nsys.exit(main())\n"]

    def dtrain(*words: object) -> tuple[int, str]:
        if ranks > 1:
            done = mpirun(ranks, words)
            return done.rc, done.stdout + done.stderr
        alone = subprocess.run([*here, *map(str, words)], capture_output=True, text=True, timeout=30)
        return alone.returncode, alone.stdout + alone.stderr

    begin = ["--model", f"{own}:f", "--dataset", small_set, "--run-dir", run, "--epochs", 1]
    assert dtrain("train", *begin)[0] == 0
    assert hashlib.sha256(text.encode()).hexdigest() in (run / "config.toml").read_text()
    rc, said = dtrain("eval", run)
    assert rc == 0 and said.count(f"{run / 'config.toml'} names: {own}:f") == 1

    own.write_text(f"open({str(ran)!r}, 'w').close()\n{text}")
    for command in (["eval", run], ["train", "--resume", run, "--epochs", 2]):
        rc, said = dtrain(*command)
        assert rc == 2 and said.count("dtrain: error: ") == 1 and not ran.exists()
        assert "was changed since the run began" in said and f"--model '{own}:f'" in said
    rc, said = dtrain("eval", run, "--model", f"{own}:f")
    assert rc == 0 and ran.exists() and "config.toml names" not in said
    if ranks == 1:
        assert dtrain("train", "--resume", run, "--epochs", 2, "--model", f"{own}:f")[0] == 0
        assert dtrain("eval", run)[0] == 0  # what it went on with is its own now
        own.unlink()
        rc, said = dtrain("eval", run)
        assert rc == 2 and f"there is no file {own}: give FILE.py:function by --model" in said
        own.write_text(text)
        lines = (run / "config.toml").read_text().splitlines(True)  # as older versions wrote it
        (run / "config.toml").write_text("".join(x for x in lines if not x.startswith("model_digest")))
        rc, said = dtrain("eval", run)
        assert rc == 0 and f"names: {own}:f" in said
