"""`dtrain train`, `eval`, `info` as a user runs them: what they print, write and refuse; mpirun included."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain import machine
from dtrain.cli import main
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task.trainer import train
from dtrain.train import checkpoint
from dtrain.train.report import json_line

ROOT = Path(__file__).parents[2]
Words = list[str]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- one process -----------------------------------------------------------------------------------------
def test_text_report(
    small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], blas_warning: str
) -> None:
    run = tmp_path / "run"
    options = ["--epochs", "2", "--run-dir", str(run), "--log-every", "5", "--no-tensorboard"]
    assert main(["train", "--dataset", str(small_set), *options]) == 0
    out, err = capsys.readouterr()
    assert err == blas_warning
    assert "mlp, 269,322 parameters" in out
    assert "blocks, from" in out and "1,003 training and 101 test examples" in out
    assert "11 iterations per epoch" in out
    lines = out.splitlines()
    assert sum(
        "iteration 5/11" in line.replace(" 5", "5").replace("iteration5", "iteration 5") for line in lines
    )
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1].startswith("done in ")
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "mistakes.json",
    ]


def test_json_report_is_what_the_run_directory_keeps(
    small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = [
        "train",
        "--dataset",
        str(small_set),
        "--epochs",
        "2",
        "--run-dir",
        str(run),
        "--log-format",
        "json",
    ]
    assert main([*argv, "--model", "logistic", "--batch-size", "128"]) == 0
    out = capsys.readouterr().out
    assert out == (run / "metrics.jsonl").read_text()
    header, *epochs, done = events(out)
    assert header["event"] == "header" and done["event"] == "done"
    assert header["parameters"] == 7850 and header["ranks"] == 1 and header["iterations_per_epoch"] == 8
    assert header["shards"] == [1003]
    assert header["warning"] == (" ".join(machine.held_back()) or None)
    assert [e["epoch"] for e in epochs] == [1, 2]
    wanted = {
        "event",
        "epoch",
        "loss",
        "accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
        "images_per_second",
        "communication_fraction",
    }
    assert all(wanted <= e.keys() for e in epochs)
    assert done["test_accuracy"] == epochs[-1]["test_accuracy"]
    count = done["test_accuracy"] * 101
    assert abs(count - round(count)) < 1e-9, "an accuracy over 101 examples is a whole number of them"


def test_it_learns_and_eval_says_the_same(
    small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--dataset", str(small_set), "--epochs", "3", "--run-dir", str(run)]) == 0
    done = events((run / "metrics.jsonl").read_text())[-1]
    assert done["test_accuracy"] > 0.95
    capsys.readouterr()
    assert main(["eval", str(run), "--log-format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["test_accuracy"] == done["test_accuracy"] and said["test_loss"] == done["test_loss"]


def test_two_runs_are_bit_identical(small_set: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        config = TrainConfig(dataset=str(small_set), epochs=2, run_dir=str(tmp_path / name))
        train(config, SingleCommunicator())
        digests.append(checkpoint.load(tmp_path / name).manifest["sha256"])
    assert digests[0] == digests[1]
    train(TrainConfig(dataset=str(small_set), seed=1, run_dir=str(tmp_path / "c")), SingleCommunicator())
    assert checkpoint.load(tmp_path / "c").manifest["sha256"] != digests[0]


def test_training_loss_is_the_mean_over_examples(small_set: Path, tmp_path: Path) -> None:
    """One step an epoch: the loss reported is then that of the initial parameters, in float64 by hand."""
    from dtrain.data import load

    config = TrainConfig(dataset=str(small_set), epochs=1, batch_size=2000, model="logistic", lr=1e-30)
    config = TrainConfig(**{**config.__dict__, "run_dir": str(tmp_path / "run")})
    train(config, SingleCommunicator())
    values = checkpoint.load(tmp_path / "run").values
    data = load(str(small_set), SingleCommunicator(), environ={})
    for part, suffix in ((data.train, ""), (data.test, "test_")):
        x = data.x[part.start : part.stop].reshape(len(part), -1) / 255
        z = x @ values["logits/kernel"].astype(np.float64) + values["logits/bias"]
        labels = data.y[part.start : part.stop]
        shifted = z - z.max(1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(part)), labels]
        epoch = next(
            e for e in events((tmp_path / "run" / "metrics.jsonl").read_text()) if e["event"] == "epoch"
        )
        assert epoch[suffix + "loss"] == pytest.approx(loss.mean(), rel=1e-5)
        assert epoch[suffix + "accuracy"] == pytest.approx((z.argmax(1) == labels).mean(), abs=1e-12)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("dtrain ", "numpy ", "blas ", "mpi4py ", "launcher ", "gpu ", "data "):
        assert any(line.startswith(word) for line in out.splitlines()), word


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and "train" in capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out == "dtrain 0.1.0\n"


# -- stdout that is not what one expects --------------------------------------------------------------------
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_a_run_goes_on_without_stdout(redirect: str, small_set: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    words = f"-m dtrain train --dataset {small_set} --model logistic --epochs 1 --run-dir 'a run é😀'"
    command = f"{sys.executable} {words} {redirect}"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert ("stdout takes no more lines (No space left on device)" in done.stderr) == ("full" in redirect)
    last = (tmp_path / "a run é😀" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "done"
    shown = subprocess.run(
        [sys.executable, "-m", "dtrain", "eval", "a run é😀", "--log-format", "json"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert json.loads(shown.stdout)["run_dir"] == "a run é😀", shown.stderr


def test_a_full_stdout_of_another_command_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = f"{sys.executable} -m dtrain --version >/dev/full; {sys.executable} -m dtrain info >/dev/full"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr
    said = "dtrain: error: stdout takes no more lines: No space left on device. Send it elsewhere.\n"
    assert done.stderr.endswith(said)


def test_json_has_no_nan_and_says_so() -> None:
    line = json_line({"loss": float("nan"), "lr": float("-inf"), "epoch": 1})
    assert line == '{"loss": null, "lr": null, "epoch": 1, "not_finite": {"loss": "nan", "lr": "-inf"}}'
    assert json_line({"loss": 0.5}) == '{"loss": 0.5}'


def test_what_is_to_be_typed_is_quoted(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--dataset", str(small_set), "--model", "logistic", "--epochs", "1"]
    words += ["--run-dir", "a b's"]
    assert main(words) == 0
    done = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(re.findall("`(.*)`", done)[0]) == ["dtrain", "eval", "a b's"]
    assert main(words) == 2
    said = capsys.readouterr().err.rpartition("resume it with ")[2].strip().removesuffix(".")
    assert shlex.split(said) == ["--resume", "a b's"]
    assert main(["train", "--resume", "a b's", "--lr", "0.5"]) == 5
    said = capsys.readouterr().err.partition("give that --init-from ")[2].partition(".\n")[0]
    assert shlex.split(said) == ["a b's"]


# -- mistakes, on one process ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, ["COMMAND", "--help"]),
        (["trian"], 2, ["`dtrain trian` is no command", "did you mean train?"]),
        (["data", "fecth"], 2, ["`dtrain data fecth` is no command", "did you mean fetch?"]),
        (["model.py"], 2, ["`mpirun -n 2 python model.py`", "./launch/local -n 2 model.py"]),
        (["train", "--batch-size", "0"], 2, ["--batch-size 0"]),
        (["train", "--bogus"], 2, ["does not take --bogus. See `dtrain train --help`"]),
        (["train", "--batchsize", "50"], 2, ["--batchsize; did you mean --batch-size?"]),
        (["eval", "run", "--epochs", "3"], 2, ["`dtrain eval` does not take --epochs"]),
        (["train", "--batch", "3"], 2, ["--batch"]),
        (["train", "--device", "gpu", "--dataset", "synthetic"], 3, ["--device gpu", "--device cpu"]),
        (["train", "--dataset", "/no/such/folder"], 4, ["/no/such/folder", "no such folder"]),
        (["train", "--dataset", __file__], 4, ["test_train.py' is a file", "fit of dt.keras"]),
        (["doctor", "--dataset", __file__], 2, ["test_train.py: is a file"]),
        (["eval", "/no/such/run"], 5, ["/no/such/run is not a run directory"]),
    ],
)
def test_mistakes(
    argv: Words, code: int, words: Words, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "gpu" in argv and _has_gpu():
        pytest.skip("this machine has a GPU")
    os.chdir(tmp_path)
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("dtrain: error") == 1 and "Traceback" not in err
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == [], "a refused run leaves nothing behind"


def _has_gpu() -> bool:
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:
        return False


def test_a_run_is_not_overwritten(
    small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--dataset", str(small_set), "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    assert main(argv) == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(argv) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_eval_refuses_damage_and_other_models(
    small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = [
        "train",
        "--dataset",
        str(small_set),
        "--epochs",
        "1",
        "--model",
        "logistic",
        "--run-dir",
        str(run),
    ]
    assert main(argv) == 0
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("logistic", "mlp"))
    capsys.readouterr()
    assert main(["eval", str(run)]) == 5
    assert (
        "another model's parameters: hidden_1/kernel should be float32(784, 256)" in capsys.readouterr().err
    )
    (run / "config.toml").write_text(config)
    (saved,) = (run / checkpoint.FOLDER).glob("*.safetensors")
    data = bytearray(saved.read_bytes())
    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # the first byte of the first parameter
    saved.write_bytes(data)
    assert main(["eval", str(run)]) == 5
    assert "is damaged" in capsys.readouterr().err


def test_it_works_without_mpi4py(small_set: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from dtrain.cli import main\n"
        f"sys.exit(main(['train', '--dataset', {str(small_set)!r}, '--epochs', '1', '--run-dir', 'run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no MPI" in done.stdout and "done in" in done.stdout


# -- several processes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_compute_what_one_does(
    ranks: int, small_set: Path, tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    argv = ["train", "--dataset", small_set, "--epochs", "10", "--optimizer", "sgd", "--lr", "0.05"]
    config = TrainConfig(
        dataset=str(small_set), epochs=10, optimizer="sgd", lr=0.05, run_dir=str(tmp_path / "one")
    )
    train(config, SingleCommunicator())
    one = checkpoint.load(tmp_path / "one").values
    done = mpirun(ranks, [*argv, "--run-dir", "many", "--log-format", "json"])
    assert done.rc == 0, done.stderr
    header = events(done.stdout)[0]
    assert header["ranks"] == ranks and sum(header["shards"]) == 1003 and header["iterations_per_epoch"] == 11
    assert done.stdout == (tmp_path / "many" / "metrics.jsonl").read_text(), "only rank 0 prints"
    many = checkpoint.load(tmp_path / "many").values
    for name, value in one.items():  # 110 steps, a short last batch of 3 in each epoch
        np.testing.assert_allclose(many[name], value, atol=1e-5, rtol=0)
    alone = events((tmp_path / "one" / "metrics.jsonl").read_text())
    for a, b in zip(alone[1:], events(done.stdout)[1:], strict=True):
        if a["event"] == "epoch":
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
            assert b["test_accuracy"] == pytest.approx(a["test_accuracy"], abs=0.011)


@pytest.mark.parametrize(("batch", "ranks"), [(1, 2), (2, 3), (3, 4), (20, 3)])
def test_batches_of_fewer_examples_than_ranks(
    batch: int, ranks: int, write_set: Callable[..., Path], tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    """61 examples leave a last batch of one each time; another number of ranks takes the second epoch."""
    data = write_set(tmp_path / "tiny", 61, 2)
    one = TrainConfig(
        dataset=str(data), epochs=2, batch_size=batch, kernels="c", run_dir=str(tmp_path / "one")
    )
    train(one, SingleCommunicator())
    argv = ["train", "--dataset", data, "--batch-size", str(batch), "--kernels", "c"]
    begun = mpirun(ranks, [*argv, "--epochs", "1", "--run-dir", "many"])
    ended = mpirun(3 if ranks == 2 else 2, [*argv, "--epochs", "2", "--resume", "many"])
    assert begun.rc == ended.rc == 0, begun.stderr + ended.stderr
    alone, many = (
        [e for e in events((tmp_path / name / "metrics.jsonl").read_text()) if e["event"] == "epoch"]
        for name in ("one", "many")
    )
    assert len(alone) == 2
    for a, b in zip(alone, many, strict=True):
        for what in ("loss", "accuracy", "test_loss", "test_accuracy"):
            assert b[what] == pytest.approx(a[what], rel=1e-4), what


def test_two_parallel_runs_are_bit_identical(
    small_set: Path, tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    digests = set()
    for name in ("a", "b"):
        done = mpirun(3, ["train", "--dataset", small_set, "--epochs", "2", "--run-dir", name])
        assert done.rc == 0, done.stderr
        digests.add(checkpoint.load(tmp_path / name).manifest["sha256"])
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("argv", "env", "words"),
    [
        (["train", "--lr", "-1"], {}, ["--lr -1.0"]),
        (
            ["train", "--dataset", "mnist"],
            {"DTRAIN_DATA": "/no/such/folder"},
            ["DTRAIN_DATA", "/no/such/folder"],
        ),
        (["train", "--dataset", "/no/such/folder"], {}, ["/no/such/folder"]),
        (["train", "--device", "gpu"], {"CUDA_VISIBLE_DEVICES": ""}, ["--device gpu", "--device cpu"]),
        (["eval", "/no/such/run"], {}, ["is not a run directory"]),
    ],
)
def test_mistakes_are_told_once_and_end_all_ranks(
    argv: Words, env: dict[str, str], words: Words, mpirun: Callable[..., Any]
) -> None:
    done = mpirun(4, argv, env=env)
    assert done.rc != 0 and done.seconds < 5
    assert done.stderr.count("dtrain: error") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_run_directory_that_cannot_be_made(small_set: Path, mpirun: Callable[..., Any]) -> None:
    done = mpirun(4, ["train", "--dataset", small_set, "--run-dir", "/proc/none/run"])
    assert done.rc == 3 and done.seconds < 5
    assert done.stderr.count("dtrain: error") == 1
    assert "/proc/none/run" in done.stderr and "--run-dir" in done.stderr


def test_more_ranks_than_examples(
    write_set: Callable[..., Path], tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    tiny = write_set(tmp_path / "tiny", 3, 2)
    done = mpirun(4, ["train", "--dataset", tiny])
    assert done.rc == 4 and done.seconds < 5
    assert done.stderr.count("dtrain: error") == 1 and "4 ranks share 3 training examples" in done.stderr
    fits = mpirun(3, ["train", "--dataset", tiny, "--epochs", "1", "--run-dir", "run", "--batch-size", "2"])
    assert fits.rc == 0, fits.stderr


@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer"])
def test_a_damaged_file_is_told_once_and_left_alone(
    damage: str, write_set: Callable[..., Path], tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    folder = write_set(tmp_path / "set", 30, 20)
    file = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 8
    else:
        data += b"more"
    file.write_bytes(data)
    done = mpirun(3, ["train", "--dataset", folder])
    assert done.rc == 4 and done.seconds < 5
    assert done.stderr.count("dtrain: error") == 1 and str(file.name) in done.stderr
    assert file.read_bytes() == bytes(data)


SCRIPT = """
import sys, time
import numpy as np
import dtrain as dt
from dtrain import comm

world = comm.world()
x = dt.placeholder("float32", [None, 3], name="x")
w = dt.Variable(dt.ones([3, 2]), name="w")
y = dt.reduce_sum(dt.matmul(x, w))
session = dt.Session()
session.run(dt.global_variables_initializer())
case = sys.argv[1]
if case == "one" and world.rank == 1:
    raise RuntimeError("the disk is on fire")
if case == "all":
    session.run(y)
if case == "shape":
    session.run(y, {x: np.zeros((2, 4), np.float32)})
if case == "uninitialised":
    dt.Session().run(y, {x: np.zeros((2, 3), np.float32)})
while True:
    session.run(y, {x: dt.Shard(np.zeros((1, 3), np.float32), world.size)})
"""


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one", ["the disk is on fire", "rank 1 of 3"]),
        ("all", ["You must feed a value for placeholder tensor 'x' with dtype float and shape [?,3]"]),
        ("shape", ["Cannot feed value of shape (2, 4) for Tensor 'x:0', which has shape '(?, 3)'"]),
        ("uninitialised", ["Attempting to use uninitialized value w"]),
    ],
)
def test_an_error_in_a_users_script_ends_all_ranks(
    case: str, words: Words, tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    before = shared_files()
    done = mpirun(3, [case], module="script", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{_root()}"})
    assert done.rc != 0 and done.seconds < 5
    assert done.stderr.count("dtrain: ") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert shared_files() <= before


def shared_files() -> set[str]:
    """What lies in shared memory under an MPI library's name."""
    folder = Path("/dev/shm")
    names = os.listdir(folder) if folder.is_dir() else []
    return {name for name in names if name.startswith(("mpich_", "sm_segment"))}


def _root() -> str:
    import dtrain

    return str(Path(dtrain.__file__).parents[1])
