"""Options: flag > variable > file > default, and every bad one named where it was written."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import dtrain
from dtrain import choices
from dtrain.config import TrainConfig, resolve
from dtrain.errors import UsageError
from dtrain.runtime.backend import Backend, _shared


def test_defaults() -> None:
    config = resolve({}, {})
    assert (config.model, config.dataset, config.epochs, config.batch_size) == ("mlp", "auto", 5, 100)
    assert (config.optimizer, config.lr, config.seed, config.device) == ("adam", 0.001, 0, "auto")


def test_flag_wins_over_variable_over_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('epochs = 7\nbatch_size = 70\nlr = 0.7\nmodel = "logistic"\n')
    environ = {"DTRAIN_EPOCHS": "8", "DTRAIN_BATCH_SIZE": "80", "DTRAIN_DATA": "/somewhere", "HOME": "/"}
    config = resolve({"epochs": "9"}, environ, str(file))
    assert (config.epochs, config.batch_size, config.lr, config.model) == (9, 80, 0.7, "logistic")


def test_what_a_run_writes_makes_the_same_run(tmp_path: Path) -> None:
    config = resolve({"lr": "3e-4", "run_dir": 'a "quoted" \\ path\n', "seed": "12"}, {})
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert resolve({}, {}, str(tmp_path / "config.toml")) == config


def test_a_boolean_is_one_wherever_it_is_written(tmp_path: Path) -> None:
    """As true or false and, as in files of earlier runs, as on or off."""
    file = tmp_path / "c.toml"
    for word, value in (("true", True), ("false", False), ('"on"', True), ('"off"', False)):
        file.write_text(f"elastic = {word}\nshare_gpu = {word}\ncheck_numerics = {word}\n")
        config = resolve({}, {}, str(file))
        assert (config.elastic, config.share_gpu, config.check_numerics) == (value,) * 3
        assert "elastic = " + ('"on"' if value else '"off"') in config.to_toml()
        environ = {"DTRAIN_ELASTIC": choices.word(not value)}
        assert resolve({}, environ, str(file)).elastic is not value
        assert resolve({"elastic": choices.word(value)}, environ, str(file)).elastic is value
    assert resolve({}, {}).check_numerics is True and resolve({}, {}).elastic is False


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        (
            {},
            {"DTRAIN_SHARE_GPU": "onn"},
            ["DTRAIN_SHARE_GPU onn", "on, off", "did you mean on?"],
        ),
        ({"epochs": "0"}, {}, ["--epochs 0", "an integer >= 1"]),
        ({"epochs": "2.5"}, {}, ["--epochs '2.5'", "whole number"]),
        ({"epochs": "many"}, {}, ["--epochs 'many'", "whole number"]),
        ({"batch_size": "-1"}, {}, ["--batch-size -1"]),
        ({"lr": "nan"}, {}, ["--lr nan", "above 0"]),
        ({"lr": "0"}, {}, ["--lr 0.0"]),
        ({"lr": "fast"}, {}, ["--lr 'fast'", "a number"]),
        ({"seed": "-3"}, {}, ["--seed -3"]),
        ({"model": "mpl"}, {}, ["--model mpl", "logistic, mlp", "did you mean mlp?"]),
        ({"optimizer": "sdg"}, {}, ["--optimizer sdg", "did you mean sgd?"]),
        ({"device": "tpu"}, {}, ["--device tpu", "auto, cpu, gpu"]),
        ({"elastic": "auto"}, {}, ["--elastic auto", "on, off"]),
        ({"elastic": "on", "average": "shared"}, {}, ["--average shared", "leave --elastic out"]),
        ({"elastic": "on", "overlap": "on"}, {}, ["--overlap", "leave --elastic out"]),
        ({"elastic": "on", "profile": "1:2"}, {}, ["--profile records all ranks", "leave --elastic out"]),
        ({"min_ranks": "0"}, {}, ["--min-ranks 0", "an integer >= 1"]),
        ({}, {"DTRAIN_EPOCHS": "x"}, ["DTRAIN_EPOCHS 'x'"]),
        ({}, {"DTRAIN_LR": "-1"}, ["--lr -1.0", "comes from DTRAIN_LR"]),
        ({}, {"DTRAIN_EPOCH": "3"}, ["DTRAIN_EPOCH is not an option", "DTRAIN_EPOCHS"]),
    ],
)
def test_bad_options(flags: dict[str, str], environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(flags, environ)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3\n", ["epoch is not an option", "did you mean epochs?"]),
        ('epochs = "3x"\n', ["epochs '3x'"]),
        ("epochs = true\n", ["epochs True"]),
        ("elastic = 1\n", ["elastic 1", "choose one of on, off"]),
        ('check_numerics = ["on"]\n', ["check_numerics ['on']", "choose one of on, off"]),
        ("epochs = 2.5\n", ["epochs 2.5"]),
        ("model = 3\n", ["model 3", "text in quotes"]),
        ("epochs = \n", ["is not TOML"]),
        ("lr = 0\n", ["--lr 0.0", "comes from"]),
        ("lr = [1]\n", ["lr [1]", "a number"]),
        ("epochs = 2020-01-01\n", ["epochs", "a whole number"]),
        (f"lr = {10**400}\n", ["a number"]),
        ("x = " + "[" * 10_000, ["is not TOML"]),
        ("#" * 17_000, ["holds more than 16,384 bytes"]),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        resolve({}, {}, str(file))
    for word in [*words, "c.toml"]:
        assert word in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"/no/such\.toml cannot be read"):
        resolve({}, {}, "/no/such.toml")


def test_every_option_has_help_and_a_flag() -> None:
    from dtrain.cli import make_parser

    text = make_parser()._subparsers._group_actions[0].choices["train"].format_help()  # type: ignore[union-attr,index]
    for f in fields(TrainConfig):
        assert "--" + f.name.replace("_", "-") in text
        assert f.metadata["help"].split()[0] in text


def test_choices_stand_in_one_place() -> None:
    """No other file has the values of an option, in whatever order and kind of brackets."""
    of_options = {frozenset(f.metadata["choices"]): f.name for f in fields(TrainConfig)} | {
        frozenset(value): name for name, value in vars(choices).items() if name.isupper()
    }
    of_options.pop(frozenset())
    package = Path(dtrain.__file__).parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set) and file != package / "choices.py":
                values = frozenset(e.value for e in node.elts if isinstance(e, ast.Constant))
                assert values not in of_options, (
                    f"{file}:{node.lineno} has the values of {of_options[values]}"
                )


@pytest.mark.parametrize(
    ("variable", "start"),
    [
        ("DTRAIN_KERNELS", Backend),
        ("DTRAIN_SHARE_GPU", lambda: _shared(None)),
    ],
)
def test_a_wrong_variable_of_a_program_is_named(
    variable: str, start: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a command line nobody else looks at it."""
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(UsageError, match=f"{variable}=maybe: choose one of "):
        start()


# -- text that people use ------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["r/\U0001f600 é", "tab\t\x7f\x1f", "\u2028\ufeff", 'a"b\\'])
def test_any_text_is_written_and_read_again(text: str, tmp_path: Path) -> None:
    config = resolve({"run_dir": text, "log_dir": text}, {})
    (tmp_path / "config.toml").write_bytes(config.to_toml().encode())
    assert resolve({}, {}, str(tmp_path / "config.toml")) == config


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--run-dir 'r\\udcff': give a name in UTF-8"):
        resolve({"run_dir": "r\udcff"}, {})


def test_a_mark_at_the_beginning_of_a_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\n")
    assert resolve({}, {}, str(tmp_path / "c.toml")).epochs == 3


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 50_000 + " = 1", "a" + ".'='" * 40_000 + " = 1", "lr = " + "1" * 5_000],
    ids=["a key of 50,000 parts", "quoted", "more digits than Python reads"],
)
def test_a_file_that_takes_long_to_read_is_refused(text: str, tmp_path: Path) -> None:
    """The first took 2.7 GB and 40 s."""
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=r"c\.toml "):
        resolve({}, {}, str(tmp_path / "c.toml"))


def test_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    config = resolve({"model": "m.py:f", "dataset": "data", "log_dir": "logs"}, {}).with_whole_paths()
    assert (config.model, config.dataset) == (f"{tmp_path}/m.py:f", f"{tmp_path}/data")
    assert config.log_dir == f"{tmp_path}/logs"
    assert resolve({}, {}).with_whole_paths() == resolve({}, {})
