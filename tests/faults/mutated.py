"""Damaged files of every kind that dtrain reads: each is read, or refused in a sentence, soon.

    python tests/faults/mutated.py [COUNT [WORD ...]]

mutates each kind of file COUNT times (1,000), or those with a WORD in their name, and prints a line a kind;
it ends with 1 where a reader raised anything but dtrain's own errors, took more than 5 s for one file, or the
process more than 500 MB for a kind.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from conftest import make_set, mutate

import dtrain as dt
from dtrain.bench import scaling
from dtrain.cli import main
from dtrain.comm import world
from dtrain.config import read_run, read_toml
from dtrain.data import content, load
from dtrain.errors import DtrainError
from dtrain.files import own_cache
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential, load_model
from dtrain.native import compiler
from dtrain.report import page
from dtrain.train import checkpoint
from dtrain.train.run_dir import Owner, RunDir

SECONDS, BYTES = 5.0, 500 << 20
Reader = Callable[[], object]


def kinds(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """A file of each kind, as dtrain writes it, and what reads it."""
    return of_runs(folder) | of_data(folder) | of_studies(folder) | of_programs(folder) | of_caches(folder)


def dtrain(*words: object) -> None:
    """A command of dtrain; raises what it ends with, told as a traceback where it is no error of dtrain's."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main([*map(str, words)])
    if code == 1:
        raise AssertionError(said.getvalue())
    if code:
        raise DtrainError(said.getvalue())


def of_runs(folder: Path) -> dict[str, tuple[Path, Reader]]:
    run = folder / "run"
    data = make_set(folder / "blocks", 1003, 101)
    dtrain("train", "--dataset", data, "--model", "logistic", "--epochs", 1, "--run-dir", run)
    (values,) = (run / "checkpoints").glob("*.safetensors")
    config, metrics, owner = run / "config.toml", run / "metrics.jsonl", folder / "held" / ".owner-1"
    whole = metrics.read_bytes()
    owner.parent.mkdir()
    owner.write_text(json.dumps(vars(Owner.here("token"))))

    def report() -> None:
        page.write([str(run)], folder / "report.html")

    def hold() -> None:
        RunDir(owner.parent, "another").take(askable=True)
        for other in owner.parent.iterdir():
            other.unlink()

    def resume() -> None:
        try:
            dtrain("train", "--resume", run, "--no-tensorboard")
        finally:
            metrics.write_bytes(whole)

    return {
        "config.toml of a run": (config, lambda: read_run(str(run))),
        "config.toml by --config": (config, lambda: read_toml(str(config))),
        "a checkpoint's manifest": (values.with_suffix(".json"), lambda: checkpoint.load(run)),
        "a checkpoint's values": (values, lambda: checkpoint.load(run)),
        "metrics.jsonl": (metrics, report),
        "metrics.jsonl of a resume": (metrics, resume),
        "mistakes.json": (run / "mistakes.json", report),
        "who holds a run": (owner, hold),
    }


def of_data(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """Images and labels, plain and compressed; trusted: with the digests that they have by now."""
    found: dict[str, tuple[Path, Reader]] = {}
    for suffix in (".gz", ""):
        data = make_set(folder / f"digits{suffix}", 103, 31)
        for file in [*data.glob("*.gz")] if not suffix else []:
            (data / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()

        def renew(data: Path = data) -> None:
            sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in data.glob("*ubyte*")]
            (data / "SHA256SUMS").write_text("".join(sums))

        def trusted(data: Path = data, renew: Callable[[], None] = renew) -> None:
            renew()
            content(data)

        renew()
        for what in ("images-idx3", "labels-idx1"):
            file = data / f"train-{what}-ubyte{suffix}"
            found[f"{file.name}, trusted"] = (file, trusted)
        found[f"SHA256SUMS of {data.name}"] = (
            data / "SHA256SUMS",
            lambda data=data: content(data),
        )
    first = data / "t10k-labels-idx1-ubyte"
    found[f"{first.name}"] = (first, lambda: load(str(data), world()))
    return found


def of_studies(folder: Path) -> dict[str, tuple[Path, Reader]]:
    study = folder / "study"
    os.environ["DTRAIN_DATASET"] = str(folder / "blocks")
    options = scaling.Options(str(study), model="logistic", epochs=1, repeats=1)
    with redirect_stdout(StringIO()):
        scaling.measure(options, world())
        del os.environ["DTRAIN_DATASET"]
        run = study / "ranks-1" / "run-1"
        shutil.copytree(run, study / "ranks-2" / "run-1")
        for file in ("metrics.jsonl", "machine.json"):  # as if it were on two ranks
            text = (study / "ranks-2" / "run-1" / file).read_text()
            sums = '"sums": [{"bytes": 1024, "bucket": 1e-5, "mpi": 2e-5, "exchange": 1e-5}]'
            text = text.replace('"ranks": 1,', '"ranks": 2,').replace('"sums": []', sums)
            (study / "ranks-2" / "run-1" / file).write_text(text)
        scaling.finish(study)
    page = folder / "scaling.html"
    return {
        "study.json": (study / "study.json", lambda: scaling.compare([str(study)], page)),
        "machine.json": (study / "ranks-2" / "run-1" / "machine.json", lambda: scaling.finish(study)),
        "metrics.jsonl of a study": (
            study / "ranks-2" / "run-1" / "metrics.jsonl",
            lambda: scaling.finish(study),
        ),
    }


def of_programs(folder: Path) -> dict[str, tuple[Path, Reader]]:
    model, weights = folder / "model.safetensors", folder / "m.weights.h5"
    architecture, saved = folder / "model.json", folder / "saver" / "model"
    net = Sequential([Dense(3, "relu", input_shape=(4,)), Dense(2, "softmax")])
    net.compile("adam", "mse")
    net.save(model)
    net.save_weights(weights)
    architecture.write_text(net.to_json())
    with dt.Graph().as_default():
        variables = [dt.Variable(dt.ones([3, 2]), name="w"), dt.Variable(dt.zeros([5]), name="b")]
        saver, session = dt.train.Saver(variables), dt.Session()
        session.run(dt.global_variables_initializer())
        path = saver.save(session, str(saved))
    (file,) = (file for file in saved.parent.glob("model*") if file.suffix != ".meta")
    graph = Path(f"{path}.meta")

    def import_graph() -> None:
        with dt.Graph().as_default():
            dt.train.import_meta_graph(str(graph))

    return {
        "a graph": (graph, import_graph),
        "a model of dt.keras": (model, lambda: load_model(model)),
        "weights of dt.keras": (weights, lambda: net.load_weights(weights)),
        "layers as JSON": (
            architecture,
            lambda: dt.keras.models.model_from_json(architecture.read_text(errors="replace")),
        ),
        "a Saver's values": (file, lambda: saver.restore(session, path)),
        "a Saver's state": (
            saved.parent / "checkpoint",
            lambda: dt.train.latest_checkpoint(str(saved.parent)),
        ),
    }


def of_caches(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """What is made again where it is damaged."""
    source = "int one(void) { return 1; }"
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    own_cache.cache_clear()
    compiler.folder.cache_clear()
    library = compiler.library(source)

    def compiled() -> None:
        whole = compiler.library(source)
        assert compiler._is_whole(whole)

    found: dict[str, tuple[Path, Reader]] = {"a compiled library": (library, compiled)}
    data = folder / "blocks"
    wanted = load(str(data), world())
    images, labels = wanted.x.copy(), wanted.y.copy()  # it is mapped from the files to damage
    (pool,) = (folder / "cache" / "dtrain" / "pools").iterdir()

    def same() -> None:
        got = load(str(data), world())
        assert np.array_equal(got.x, images) and np.array_equal(got.y, labels)
        assert len(got.train) == len(wanted.train)

    for file in ("manifest.json", "y.bin", "x.bin"):
        found[f"{file} of a copy"] = (pool / file, same)
    return found


def campaign(folder: Path, count: int, words: Sequence[str]) -> list[str]:
    """Mutate each kind `count` times; returns what went wrong. Prints a line a kind.

    words: those in a kind's name, where not all are meant.
    """
    wrong: list[str] = []
    for kind, (file, read) in kinds(folder).items():
        if words and not any(word in kind for word in words):
            continue
        whole, seen, longest = file.read_bytes(), Counter[str](), 0.0
        for name, data in mutate(whole, count):
            file.write_bytes(data)
            begun = time.perf_counter()
            try:
                read()
                seen["read"] += 1
            except DtrainError as error:
                seen[type(error).__name__] += 1
            except BaseException:
                seen["traceback"] += 1
                wrong.append(f"{kind}, {name}: {traceback.format_exc(limit=-3)}")
            longest = max(longest, time.perf_counter() - begun)
        file.write_bytes(whole)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if longest > SECONDS or most > BYTES:
            wrong.append(f"{kind}: {longest:.1f} s for one file, {most / 1e6:.0f} MB")
        said = ", ".join(f"{number} {what}" for what, number in sorted(seen.items()))
        print(f"{kind:26} {count} files: {said}; at most {longest:.2f} s, {most / 1e6:.0f} MB", flush=True)
    return wrong


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as path:
        found = campaign(Path(path), int([*sys.argv, 1000][1]), sys.argv[2:])
    print("\n".join(found[:10]) or "no traceback, nothing slow, nothing large")
    sys.exit(1 if found else 0)
