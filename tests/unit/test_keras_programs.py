"""The programs of tests/programs and examples that are written for Keras 2."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program_files import PROGRAMS, file_of

import dtrain as tf

Printed = Callable[[str], list[str]]
pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Printed:
    """printed(program): the lines that it prints, run in this process, with seed 0."""
    monkeypatch.setenv("LOG_DIR", str(tmp_path))

    def run(program: str) -> list[str]:
        tf.reset_default_graph()
        tf.set_random_seed(0)
        runpy.run_path(str(file_of(f"keras_{program}")), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def numbers(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+\.\d+", line)]


def test_two_inputs_and_two_outputs(printed: Printed) -> None:
    same, layers, *measured = printed("two_inputs")
    assert same == "True" and layers.startswith(
        "(None, 128) 26571 ['upper', 'lower', 'flatten', 'flatten_1', "
    )
    names = ["loss", "digit_loss", "even_loss", "digit_accuracy", "even_accuracy"]
    assert [line.split()[0] for line in measured] == names
    values = dict(zip(names, (numbers(line)[0] for line in measured), strict=True))
    assert values["loss"] == pytest.approx(values["digit_loss"] + 0.5 * values["even_loss"], abs=2e-4)
    assert values["digit_accuracy"] > 0.82 and values["even_accuracy"] > 0.82


def test_an_lstm_reads_rows(printed: Printed) -> None:
    shapes, accuracy = printed("lstm_rows")
    assert shapes == "(None, 32) [(28, 128), (32, 128), (128,)]"
    assert numbers(accuracy)[0] > 0.45


def test_an_autoencoder_of_convolutions(printed: Printed) -> None:
    layers, parts, loss = printed("autoencoder")
    assert layers == "['image', 'encoder', 'decoder'] (None, 28, 28, 1)" and parts == "True"
    first, last, variance = numbers(loss)
    assert last < 0.9 * variance and last < first


def test_a_siamese_network(printed: Printed) -> None:
    shapes, accuracy = printed("siamese")
    assert shapes == "4 52320 (2, 1)" and numbers(accuracy)[0] > 0.75


def test_a_variational_autoencoder_on_one_rank_and_three(
    printed: Printed, mpirun: Any, tmp_path: Path
) -> None:
    layers, mean, loss = printed("vae")
    assert layers == "['encoder_input', 'encoder', 'decoder'] [(5, 2), (5, 2), (5, 2)]" and mean == "True"
    first, last = numbers(loss)
    assert last < 240 < 400 < first
    run = mpirun(3, [file_of("keras_vae"), tmp_path], module="each_rank", cwd=PROGRAMS, deadline=60)
    assert run.rc == 0, run.stderr
    for rank in range(3):
        told = (tmp_path / f"rank{rank}").read_text().splitlines()
        assert told[:2] == [layers, mean] and numbers(told[2]) == pytest.approx([first, last], rel=1e-3)


def test_a_layer_of_ones_own_and_its_features_for_another_task(printed: Printed) -> None:
    shapes, frozen, dropped, accuracy = printed("own_layer")
    assert (shapes, frozen, dropped) == ("[(2, 64)] (None, 64)", "5 True", "(50, 64) False")
    assert numbers(accuracy)[0] > 0.6


def test_a_generator_against_a_discriminator(printed: Printed) -> None:
    learns, rest = printed("gan")
    assert learns == "False True"
    across, down, *_ = numbers(rest)
    assert 0.8 < across < 3.2 and down < 0.4
