"""The scaling study: what is computed of runs, its files and page, and what `dtrain bench scaling` starts."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.bench import allreduce, scaling
from dtrain.bench.scaling import Options, job, parse_ranks
from dtrain.cli import main
from dtrain.comm import Communicator, start
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.report import study as studies
from dtrain.report.scaling import page
from dtrain.report.study import (
    COMPUTING,
    MOVING,
    OTHER,
    WAITING,
    Study,
    collect,
    load,
    to_csv,
    to_json,
    to_mllog,
)

pytest.importorskip("matplotlib")

#: Of a step on 1, 2 and 4 ranks, ms: products, waiting, moving, Python. What each rank's differ by.
STEPS = {1: (8.0, 0.0, 0.0, 2.0), 2: (5.0, 0.5, 0.5, 2.0), 4: (3.0, 1.0, 1.0, 3.0)}


def write_run(folder: Path, ranks: int, number: int, speed: float, **changes: Any) -> None:
    """A run as training leaves it: three epochs of so many images a second, 600 images each."""
    path = folder / f"ranks-{ranks}/run-{number}"
    path.mkdir(parents=True)
    header = {
        "event": "header",
        "time": 1000.0,
        "ranks": ranks,
        "nodes": 1,
        "model": "mlp",
        "optimizer": "adam",
        "lr": 0.001,
        "seed": 0,
        "epochs": 3,
        "batch_size": 100,
        "iterations_per_epoch": 6,
        "examples": 600,
        "test_examples": 100,
    }
    events: list[dict[str, Any]] = [header | changes]
    for epoch, accuracy in enumerate((0.96, 0.974 + 0.001 * number, 0.98), 1):
        took = 600 / speed * (3 if epoch == 1 else 1)  # the first, which is profiled, is slower
        facts = {"epoch": epoch, "seconds": took, "images_per_second": 600 / took, "test_accuracy": accuracy}
        events.append({"event": "epoch", "time": 1000.0 + 2 * epoch, "loss": 0.1, **facts})
    products, waiting, moving, other = STEPS[ranks]
    parts = {
        "matrix products": [products - 1] * ranks,
        "update": [1.0] * ranks,
        "communication: waiting": [waiting] * ranks,
        "communication: moving": [2 * moving, *[moving * (ranks - 2) / (ranks - 1)] * (ranks - 1)]
        if ranks > 1
        else [moving],
        "Python and other": [other] * ranks,
    }
    events.append({"event": "profile", "parts_ms": parts})
    events.append({"event": "done", "seconds": 9.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    sums = [
        {"bytes": n, "mpi": 2e-6 * n**0.5, "bucket": 1e-6 * n**0.5, "exchange": 5e-7 * n**0.5}
        for n in (4, 4096)
    ]
    machine = {
        "mode": changes.get("mode", "strong"),
        "batch_size": changes.get("each", 100),
        "cores": 2,
        "between": "ranks of one node",
        "load": changes.get("load", 1.5),
        "sums": sums if ranks > 1 else [],
        "environment": {"commit": "abc1234", "BLAS": "<b>fast</b>", "cores of all ranks": str(min(ranks, 2))},
    }
    (path / "machine.json").write_text(json.dumps(machine))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of 1, 2 and 4 ranks on 2 cores, three runs each."""
    path = tmp_path / "first"
    for ranks, speeds in {1: (1000, 900, 1100), 2: (1500, 1600, 1700), 4: (1200, 1100, 800)}.items():
        for number, speed in enumerate(speeds, 1):
            write_run(path, ranks, number, speed)
    return path


def test_a_study_is_medians_of_its_runs(folder: Path) -> None:
    study = collect(folder)
    assert (study.name, study.mode, study.model) == ("first", "strong", "mlp")
    assert [size.ranks for size in study.sizes] == [1, 2, 4]
    assert [size.speed for size in study.sizes] == pytest.approx([1000, 1600, 1100])
    assert [study.efficiency(size) for size in study.sizes] == pytest.approx([1, 0.8, 0.275])
    assert [size.step_ms for size in study.sizes] == pytest.approx([100, 62.5, 1e5 / 1100])
    assert [size.oversubscribed for size in study.sizes] == [False, False, True]
    # the second epoch is the first that is good enough: one of 3 times the length lies before
    assert study.sizes[0].seconds_to_target == pytest.approx([4 * 0.6, 4 * 600 / 900, 4 * 600 / 1100])
    assert study.sizes[0].to_target == pytest.approx(4 * 0.6)


def test_time_to_accuracy_is_of_the_runs_that_got_there(folder: Path) -> None:
    size = collect(folder).sizes[0]
    size.seconds_to_target = [None, 3.0, 2.0]
    assert size.to_target == 3.0
    size.seconds_to_target = [None, 3.0, None]
    assert size.to_target is None


def test_a_step_is_taken_apart_and_adds_up(folder: Path) -> None:
    study = collect(folder)
    assert study.sizes[1].parts_ms == pytest.approx({COMPUTING: 5, MOVING: 0.5, WAITING: 0.5, OTHER: 2})
    lost = study.lost(study.sizes[1])
    # ideally half of 8 and of 2 ms; the step is 8 ms long
    assert lost == pytest.approx({COMPUTING: 1 / 8, MOVING: 0.5 / 8, WAITING: 0.5 / 8, OTHER: 1 / 8})
    for size in study.sizes:
        profiled = 10 / size.ranks / sum(size.parts_ms.values())
        assert sum(study.lost(size).values()) + profiled == pytest.approx(1)


def test_weak_scaling_grows_the_batch(tmp_path: Path) -> None:
    for ranks in (1, 2):
        write_run(tmp_path, ranks, 1, 1000 * ranks**0.5, mode="weak", batch_size=100 * ranks, each=100)
    study = collect(tmp_path)
    assert study.mode == "weak" and study.settings["batch size a rank"] == "100"
    assert study.efficiency(study.sizes[1]) == pytest.approx(2**-0.5)
    assert sum(study.lost(study.sizes[1]).values()) == pytest.approx(1 - 10 / 8)  # no step may become longer
    assert "Weak scaling of mlp, 1 to 2 ranks" in page([study])


def test_a_busy_machine_is_told(folder: Path) -> None:
    """A node with more work of others than two processes a core."""
    assert collect(folder).busy() == "" and "was busy" not in page([collect(folder)])
    write_run(folder, 2, 4, 1000, load=9.0)
    said = "load 9 on 2 cores before a run on 2 ranks"
    assert said in collect(folder).busy() and said in page([collect(folder)])
    assert said in scaling.finish(folder)


def test_files_of_a_study(folder: Path) -> None:
    study = collect(folder)
    (folder / "study.json").write_text(to_json(study))
    assert load(folder) == study
    rows = list(csv.DictReader(to_csv(study).splitlines()))
    assert [(row["ranks"], row["run"], row["images_per_second"]) for row in rows[2:5]] == [
        ("1", "3", "1100.0"),
        ("2", "1", "1500.0"),
        ("2", "2", "1600.0"),
    ]
    assert rows[3]["efficiency"] == "0.8000" and rows[3]["waiting_ms"] == "0.5000"


def test_the_log_lines_of_mlperf(folder: Path) -> None:
    lines = to_mllog(folder).splitlines()
    assert all(line.startswith(":::MLLOG {") for line in lines)
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    assert all(list(e) == ["namespace", "time_ms", "event_type", "key", "value", "metadata"] for e in events)
    assert list(dict.fromkeys(e["namespace"] for e in events))[:4] == [
        f"ranks-1/run-{n}" for n in (1, 2, 3)
    ] + ["ranks-2/run-1"]
    of = [e for e in events if e["namespace"] == "ranks-2/run-1"]
    values = {e["key"]: e["value"] for e in of}
    assert (values["global_batch_size"], values["opt_name"], values["train_samples"]) == (100, "adam", 600)
    spans = [(e["key"], e["event_type"]) for e in of if e["event_type"] != "POINT_IN_TIME"]
    epoch = [("epoch_start", "INTERVAL_START"), ("epoch_stop", "INTERVAL_END")]
    assert spans == [("run_start", "INTERVAL_START"), *epoch, *epoch, ("run_stop", "INTERVAL_END")]
    assert of[-1]["metadata"] == {"status": "success"} and of[-1]["time_ms"] == 1_004_000
    assert [e["time_ms"] for e in of] == sorted(e["time_ms"] for e in of)


def test_the_page_has_curves_and_tables(folder: Path) -> None:
    text = page([collect(folder)])
    assert "<h1>Strong scaling of mlp, 1 to 4 ranks</h1>" in text
    assert text.count("<svg") == text.count("<figcaption>") == 6
    assert "2 ranks train 1.60 times as fast as 1, an efficiency of 80%" in text
    assert "the 2 cores are oversubscribed, 2 ranks a core" in text
    assert "&lt;b&gt;fast&lt;/b&gt;" in text and "<b>fast" not in text
    assert not re.search(r"#f[de][0-9a-f]{4}", text), "a colour that stands for a variable is left"
    assert "class=differs" not in text and "://" not in re.sub(r"http://www.w3.org/\S+", "", text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_two_studies_on_one_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "b/first"
    for ranks in (1, 2):
        write_run(other, ranks, 1, 2000 * ranks)
    machine = other / "ranks-2/run-1/machine.json"
    machine.write_text(machine.read_text().replace("abc1234", "def5678"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "scaling", "--compare", str(folder), str(other)]) == 0
    assert "2 studies" in capsys.readouterr().out
    text = (tmp_path / "scaling.html").read_text()
    assert str(folder) in text and str(other) in text  # their names are the same
    assert re.search(
        r'class=differs><th scope="row">commit</th><td>abc1234</td><td>1: abc1234; 2: def5678', text
    )


def test_a_study_is_written_and_told(folder: Path) -> None:
    said = scaling.finish(folder).splitlines()
    assert said[0] == "strong scaling of mlp" and said[1].split()[:2] == ["ranks", "images/s"]
    assert said[4].startswith("4 on 2 cores")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"study.json", "study.csv", "study.html", "study.mllog"}
    assert load(folder) == collect(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"sizes": [{}]}',
        '{"name": "a", "mode": "strong", "model": "m", "settings": {}, "sizes": []}',
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UsageError, match=r"study\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sums", [{"bytes": 1024, "mpi": 1e-5}]),
        ("sums", [{"bytes": 1024, "mpi": 0.0, "exchange": 1e-5}]),
        ("sums", [{"bytes": "1024", "mpi": 1e-5, "exchange": 1e-5}]),
        ("environment", {"MPI": ["MPICH"]}),
        ("environment", []),
        ("between", 3),
        ("load", "1"),
        ("cores", 0),
        ("speeds", [0.0, 0.0, 0.0]),
        ("ranks", 10**400),
    ],
)
def test_a_study_that_was_edited_is_refused_before_it_is_drawn(
    folder: Path, name: str, value: object
) -> None:
    study = json.loads(to_json(collect(folder)))
    study["sizes"][-1][name] = value
    (folder / "study.json").write_text(json.dumps(study))
    with pytest.raises(UsageError, match=r"study\.json is not a study .*" + name):
        load(folder)


@pytest.mark.parametrize("made", ["1 GB", "pipe"])
def test_a_study_is_not_read_for_ever(tmp_path: Path, made: str) -> None:
    if made == "pipe":
        os.mkfifo(tmp_path / "study.json")
    else:
        (tmp_path / "study.json").touch()
        os.truncate(tmp_path / "study.json", 1 << 30)
    with pytest.raises(UsageError, match=r"study\.json is not a study"):
        load(tmp_path)


def test_damaged_facts_of_a_machine_are_told(folder: Path) -> None:
    path = next(folder.glob("ranks-2/run-*/machine.json"))
    for each in folder.glob("ranks-2/run-*/machine.json"):
        each.write_text(json.dumps(json.loads(path.read_text()) | {"sums": [{"bytes": 4}]}))
    with pytest.raises(UsageError, match="its runs on 2 ranks say is damaged"):
        collect(folder)


def test_runs_that_are_no_study_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run of a scaling study that has ended"):
        collect(tmp_path / "none")
    write_run(folder, 2, 4, 1000, optimizer="sgd")
    with pytest.raises(UsageError, match="its runs have optimizer adam and sgd"):
        collect(folder)


def test_a_run_that_has_not_ended_does_not_count(folder: Path) -> None:
    path = folder / "ranks-2/run-2/metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"done"' not in line))
    assert len(collect(folder).sizes[1].speeds) == 2


# -- what is started -------------------------------------------------------------------------------------
def test_numbers_of_ranks() -> None:
    assert parse_ranks("4,1,2,2") == [1, 2, 4]
    for text in ("", "0", "1,", "1;2", "-1", "1e3"):
        with pytest.raises(UsageError, match="such as 1,2,4"):
            parse_ranks(text)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "needs numbers of ranks"),
        (["--ranks", "x"], "--ranks x: give numbers"),
        (["--ranks", "1", "--mode", "wrong"], "--mode wrong: choose strong"),
        (["--ranks", "1", "--repeats", "0"], "--repeats 0: give an integer >= 1"),
        (["--ranks", "1", "--threads", "two"], "--threads two: give an integer"),
        (["--ranks", "1", "--model", "mpl"], "--model mpl: choose one of"),
        (["--ranks", "1", "--through", "--time 1"], "give the kind of `dtrain cluster`"),
        (["--ranks", "6", "--through", "slurm --ranks-per-node 4"], "--ranks 6: not a multiple"),
        (["--collect", "--to", "nowhere"], "nowhere holds no run"),
        (["--compare", "nowhere"], "nowhere holds no run"),
    ],
)
def test_mistakes(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scaling", *argv]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_with_a_study_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scaling", "--ranks", "1", "--to", str(folder)]) == 2
    assert "holds runs of a study already" in capsys.readouterr().err


def test_a_job_of_each_size() -> None:
    options = Options(to="a b", mode="weak", batch_size=50)
    words = job(options, 8, "slurm --ranks-per-node 4 --time 30:00 --account 'x y'")
    assert words[1:4] == ["-m", "dtrain", "cluster"]
    before, after = shlex.join(words[4:]).split(" -- ")
    assert before == (
        "slurm --nodes 2 --ranks-per-node 4 --time 30:00 --account 'x y' --name scaling-8 --submit"
    )
    assert after.startswith("bench scaling --to 'a b'") and after.endswith(
        "--mode weak --batch-size 50 --epochs 5 --model mlp"
    )
    assert shlex.join(job(options, 2, "pbs --ranks-per-node 4")[4:]).startswith(
        "pbs --nodes 1 --ranks-per-node 2"
    )
    assert shlex.join(job(options, 3, "lsf")[4:]).startswith(
        "lsf --nodes 3 --ranks-per-node 1 --name scaling-3 --submit"
    )


def test_jobs_are_submitted_one_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for Python writes down what would be started."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f'#!/bin/sh\necho "$OPENBLAS_NUM_THREADS" "$@" >>{shlex.quote(str(tmp_path / "said"))}\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    argv = [
        "--ranks",
        "2,4",
        "--threads",
        "3",
        "--to",
        str(tmp_path / "to"),
        "--through",
        "slurm --ranks-per-node 2",
    ]
    assert main(["bench", "scaling", *argv]) == 0
    assert "2 jobs submitted" in capfd.readouterr().out
    one, two = (tmp_path / "said").read_text().splitlines()
    assert one.startswith(
        "3 -m dtrain cluster slurm --nodes 1 --ranks-per-node 2 --name scaling-2 --submit -- bench scaling"
    )
    assert two.startswith(
        "3 -m dtrain cluster slurm --nodes 2 --ranks-per-node 2 --name scaling-4 --submit -- bench scaling"
    )


def test_the_runs_do_not_inherit_our_launcher() -> None:
    given = {
        "PMI_RANK": "0",
        "PMIX_RANK": "0",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_MCA_btl": "tcp",
        "PATH": "/bin",
    }
    made = start.environment(4, given)
    assert made["OPENBLAS_NUM_THREADS"] == "4" and made["PATH"] == "/bin" and made["OMPI_MCA_btl"] == "tcp"
    assert not {"PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"} & set(made)


def test_a_run_that_fails_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "mpirun"
    stand_in.write_text("#!/bin/sh\necho no such luck >&2\nexit 9\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("DTRAIN_MPIRUN", str(stand_in))
    with pytest.raises(
        EnvironmentProblem, match=r"on 2 ranks ended with 9: .*\nno such luck\n.*dtrain doctor"
    ):
        scaling.run(Options(to=str(tmp_path / "to")), [2], "")


def test_machine_facts_of_ranks(on_threads: Callable[..., list[Any]]) -> None:
    for facts in on_threads(3, scaling.machine_facts, nodes=3):
        assert facts["cores"] == 3 * len(scaling.usable_cores())  # three nodes
        assert facts["environment"]["nodes"] == "3" and facts["environment"]["BLAS"]
        assert facts["environment"]["binding"].startswith("none, each rank may use")


def test_two_ranks_try_the_network() -> None:
    assert allreduce.partners(["a"]) == (0, 0)
    assert allreduce.partners(["a", "a", "a"]) == (0, 1)
    assert allreduce.partners(["a", "a", "b"]) == (0, 2)


@pytest.mark.parametrize("size", [2, 3])
def test_arrays_are_exchanged(size: int, on_threads: Callable[..., list[Any]]) -> None:
    """The first and the last rank swap; any others keep their own."""

    def body(comm: Communicator) -> list[float]:
        other = {0: size - 1, size - 1: 0}.get(comm.rank, comm.rank)
        into = np.zeros(5)
        comm.exchange(np.full(5, float(comm.rank)), into, other)
        return into.tolist()

    last = [[0.0] * 5]
    assert on_threads(size, body) == [[float(size - 1)] * 5, *([[1.0] * 5] if size == 3 else []), *last]


def test_a_study_of_this_machine(
    noise: Path,
    tmp_path: Path,
    mpirun: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """1 and 2 ranks, from the command to the page."""
    monkeypatch.setenv("DTRAIN_DATASET", str(noise))
    monkeypatch.setenv("PYTHONPATH", str(Path(scaling.__file__).parents[2]))
    to = tmp_path / "study"
    argv = ["--ranks", "2,1", "--epochs", "6", "--batch-size", "20", "--repeats", "1", "--model", "logistic"]
    assert main(["bench", "scaling", *argv, "--to", str(to)]) == 0
    assert "1 rank, run 1 of 1: " in capsys.readouterr().out
    study: Study = load(to)
    assert [size.ranks for size in study.sizes] == [1, 2] and study.model == "logistic"
    two = study.sizes[1]
    assert two.parts_ms[COMPUTING] > 0 and [of["bytes"] for of in two.sums] == list(allreduce.SIZES)
    assert study.sizes[0].sums == [] and two.environment["BLAS threads a rank"] == "1"
    assert two.environment["commit"] and two.environment["MPI"] != "none"
    assert (to / "study.html").read_text().count("<svg") >= 5
    assert studies.to_mllog(to).count("run_stop") == 2


PROGRAM = """
import numpy as np
from keras.layers import Dense
from keras.models import Sequential

x = np.random.default_rng(0).normal(size=(400, 6)).astype("f")
model = Sequential([Dense(3, activation="softmax", input_shape=(6,))])
model.compile("adam", "sparse_categorical_crossentropy")
FIT
"""


def test_a_study_of_a_program(
    tmp_path: Path, mpirun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first fit is recorded on each number of ranks; a program without one is refused."""
    monkeypatch.setenv("PYTHONPATH", str(Path(scaling.__file__).parents[2]))
    program, to = tmp_path / "mine.py", tmp_path / "study"
    program.write_text(PROGRAM.replace("FIT", "model.fit(x, x[:, :3].argmax(1), batch_size=10, epochs=4)"))
    options = Options(str(to), repeats=1, program=str(program))
    assert "strong scaling of sequential" in scaling.run(options, [1, 2], "")
    study: Study = load(to)
    assert [(size.ranks, size.batch_size) for size in study.sizes] == [(1, 10), (2, 10)]
    assert study.sizes[1].parts_ms[COMPUTING] > 0

    program.write_text(PROGRAM.replace("FIT", ""))
    with pytest.raises(EnvironmentProblem, match="calls no fit of a Keras model"):
        scaling.run(Options(str(tmp_path / "other"), repeats=1, program=str(program)), [1], "")
    with pytest.raises(UsageError, match="says its batch size itself"):
        Options(mode="weak", program=str(program))
    with pytest.raises(UsageError, match="there is no such file"):
        Options(program=str(tmp_path / "gone.py"))
