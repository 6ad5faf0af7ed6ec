"""`dtrain report`: a page that needs nothing, shows what runs wrote, and trusts nothing in their files."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.cli import main
from dtrain.comm import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data import load
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.report.page import page, png
from dtrain.report.runs import read, read_all
from dtrain.runtime.profile import PARTS
from dtrain.task.trainer import train
from dtrain.train import checkpoint

pytest.importorskip("matplotlib")


VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's text, and every attribute; fails where tags are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(text for text in self.texts if text)


def epoch(k: int, **facts: Any) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epoch": k,
        "loss": 0.5 / k,
        "accuracy": 0.9 + k / 100,
        "test_loss": 0.4321 / k,
        "test_accuracy": 0.91 + k / 100,
        "seconds": 2.5,
        "images_per_second": 24_000.0,
        "communication_fraction": 0.25,
        "time": 1.7e9 + k,
        **facts,
    }


def make_run(folder: Path, ranks: int = 1, epochs: int = 2, **header: Any) -> Path:
    """A run directory without a training: header, epochs, done, config."""
    folder.mkdir(parents=True)
    facts = {
        "event": "header",
        "ranks": ranks,
        "model": "mlp",
        "optimizer": "adam",
        "batch_size": 100,
        "epochs": epochs,
        "iterations_per_epoch": 600,
        "data_digest": "ab" * 32,
        "time": 1.7e9,
        **header,
    }
    speeds = {"images_per_second": 10_000.0 * ranks * (1 - 0.1 * (ranks > 1))}
    events = [facts, *(epoch(k, **speeds) for k in range(1, epochs + 1)), {"event": "done", "seconds": 7.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "config.toml").write_text(TrainConfig(epochs=max(epochs, 1), run_dir=str(folder)).to_toml())
    return folder


def append(folder: Path, *events: Any) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


def report(*folders: Path) -> Page:
    text = page(read_all([str(folder) for folder in folders]))
    parsed = Page(text)
    assert "://" not in text, "nothing is loaded from anywhere"
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base"), tag
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    used = {a["xlink:href"][1:] for _, a in parsed.tags if "xlink:href" in a}
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids)) and used <= set(ids), "each name once, and nothing points nowhere"
    return parsed


# -- the page --------------------------------------------------------------------------------------------
def test_the_numbers_of_the_runs_are_there(tmp_path: Path) -> None:
    parsed = report(*(make_run(tmp_path / f"ranks-{n}", n) for n in (1, 2, 4)))
    titles = [a["aria-label"] for tag, a in parsed.tags if tag == "svg"]
    curves = ["Loss by epoch", "Accuracy by epoch", "Loss by time", "Accuracy by time"]
    assert titles == [*curves, "Throughput", "Speed-up"]
    for word in ("3 runs of mlp", "ranks-1", "ranks-2", "ranks-4", "0.9300", "0.2160", "0.2500", "7.2 s"):
        assert word in parsed.text, word
    assert [w for w in ("10,000", "18,000", "36,000", "1.00", "1.80", "3.60") if w not in parsed.texts] == []
    assert "ranks-4 (4 ranks) is the fastest: 3.60 times the speed of ranks-1 (1 rank)" in " ".join(
        parsed.text.split("\n")
    )


def test_ranks_that_do_not_help_are_told(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", 2)
    append(two, epoch(1, images_per_second=9e3), epoch(2, images_per_second=9e3))
    said = " ".join(report(two, one).text.split("\n"))
    assert "No run is faster than one (1 rank)." in said
    other = make_run(tmp_path / "other", 4, batch_size=200)
    assert "faste" not in report(one, other).text, "they do not do the same work"


def test_rows_that_differ_are_marked(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", lr=0.01)
    config = (b / "config.toml").read_text()
    (b / "config.toml").write_text(config.replace("lr = 0.001", "lr = 0.01"))
    text = page(read_all([str(a), str(b)]))
    marked = re.findall(r'<tr class=differs><th scope="row">(\w+)</th>', text)
    assert marked == ["lr"], "run_dir differs between any two runs"
    assert "0.01" in report(a, b).texts


def test_curves_are_the_epochs_numbers(tmp_path: Path) -> None:
    """A test loss that falls by equal amounts is a straight line through equally spaced points."""
    folder = make_run(tmp_path / "run", epochs=0)
    append(folder, *(epoch(k, test_loss=4.0 - k, loss=8.0 - k) for k in (1, 2, 3)))
    text = page([read(folder)])
    svg = text[text.index('aria-label="Loss by epoch"') :]
    svg = svg[: svg.index("</svg>")]
    points = [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", d)]
        for d in re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--run0\)', svg)
    ]
    training, test = (np.array(line) for line in points if len(line) == 3)
    for line in (training, test):
        np.testing.assert_allclose(np.diff(line, axis=0)[0], np.diff(line, axis=0)[1], atol=1e-4)
    step = np.diff(test, axis=0)[0, 1]  # of 1 in the loss; down the page
    np.testing.assert_allclose(test[:, 1] - training[:, 1], 4 * step, atol=1e-3)


def test_a_profile_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 2)
    parts = {part: [0.5 + k, 1.5 + k] for k, part in enumerate(PARTS)}
    kernels = [{"name": "hidden/MatMul", "part": "matrix products", "shapes": "float32[50,784]", "ms": 0.777}]
    facts = {
        "parts_ms": parts,
        "slowest": 1,
        "work_ms": [3.0, 9.0],
        "hosts": ["n0", "n1"],
        "kernels": kernels,
    }
    append(folder, {"event": "profile", **facts})
    parsed = report(folder)
    for k, part in enumerate(PARTS):
        assert part in parsed.texts and f"{1 + k:.3f}" in parsed.texts
    assert "Rank 1 on n1 is slow: it works 9.000 ms a step, the others 3.000 ms." in parsed.texts
    assert "hidden/MatMul" in parsed.texts and "0.777" in parsed.texts
    widths = [
        float(match[1])
        for tag, a in parsed.tags
        if tag == "span" and (match := re.match(r"flex:0 0 ([\d.]+)%", a.get("style") or ""))
    ]
    assert len(widths) == len(PARTS) and sum(widths) == pytest.approx(100, abs=0.01)


def test_without_a_profile_the_epochs_tell_computing_from_communication(tmp_path: Path) -> None:
    parsed = report(make_run(tmp_path / "run"))
    # 2.5 s for 600 steps, a quarter of it communication
    assert "3.125" in parsed.texts and "1.042" in parsed.texts
    assert any("--profile" in text for text in parsed.texts)


def test_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5)).astype(np.uint8)
    data = png(pixels.tobytes(), 3, 5)
    from matplotlib.image import imread  # reads PNG by a library of its own

    np.testing.assert_allclose(imread(io.BytesIO(data), format="png") * 255, 255 - pixels, atol=1e-3)
    assert zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big")


# -- runs that are not whole, and files that lie ---------------------------------------------------------
def test_an_unfinished_run_without_a_checkpoint(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", epochs=5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], lines[3][:40]]))
    (folder / "config.toml").unlink()
    parsed = report(folder)
    assert "not ended, 2 of 5 epochs" in parsed.texts
    assert any("It has not ended: 2 of 5 epochs are there." in text for text in parsed.texts)
    assert any("1 line of metrics.jsonl could not be read." in text for text in parsed.texts)
    assert any("config.toml is missing" in text for text in parsed.texts)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "{}\n[]\nnull\n", '{"event": "header"}', "\x00\xff\n" * 3, "[" * 5000]
)
def test_a_run_that_has_just_begun_or_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    assert "No epoch has ended yet." in report(tmp_path).texts


def test_a_run_that_went_on_counts_each_epoch_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", epochs=2)
    append(folder, {"event": "header", "ranks": 2, "epochs": 3}, epoch(2, test_accuracy=0.5), epoch(3))
    run = read(folder)
    assert [e["epoch"] for e in run.epochs] == [1, 2, 3] and run.epochs[1]["test_accuracy"] == 0.5
    assert not run.done and run.ranks == 2


def test_numbers_that_are_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", epochs=1)
    odd = [float("nan"), float("inf"), None, "0.5", True, [], {}, 10**400]
    for k, value in enumerate(odd, 2):
        append(folder, epoch(k, loss=value, test_loss=value, test_accuracy=value, seconds=value))
    append(folder, {"event": "epoch", "epoch": "3"}, {"event": "profile", "parts_ms": {"a": "b"}})
    parsed = report(folder)
    assert "–" in parsed.texts and not {"nan", "inf"} & {t.lower() for t in parsed.texts}


EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>$\\frac{a}{"


def test_what_files_hold_is_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "<i>run&amp;", 2, model=EVIL, optimizer=EVIL, warning=EVIL, hosts=[EVIL])
    (folder / "config.toml").write_text(f"model = {json.dumps(EVIL)}\n{json.dumps(EVIL)} = 1\n")
    kernels = [{"name": EVIL, "shapes": EVIL, "ms": 1.0}]
    facts = {"parts_ms": {EVIL: [1.0, 1.0]}, "slowest": 1, "work_ms": [1, 2], "hosts": [EVIL, EVIL]}
    append(folder, {"event": "profile", **facts, "kernels": kernels})
    append(folder, {"event": "header", **json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])})
    parsed = report(folder)  # which refuses scripts, handlers and addresses
    assert parsed.text.count(EVIL) >= 6, "shown as it is"
    assert "<i>run&amp;" in parsed.text
    assert {"i", "script"}.isdisjoint(tag for tag, _ in parsed.tags)


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": [[1, 2]]},
        {"confusion": [["<b>", 1], [2, 3]]},
        {"confusion": []},
        {"shape": [28, 27]},
        {"shape": ["<b>", 28]},
        {"worst": [{"example": 1}]},
        {"worst": 5},
        {"epoch": None},
    ],
)
def test_mistakes_that_are_damaged_are_left_out(change: dict[str, Any], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", epochs=0)
    good = {"epoch": 1, "confusion": [[5, 1], [0, 4]], "shape": [2, 3]}
    entry = {"example": 7, "label": 0, "predicted": 1, "loss": 2.5, "pixels": "AAECAwQF"}
    facts = {**good, "worst": [entry]}
    (folder / "mistakes.json").write_text(json.dumps(facts))
    run = read(folder)
    assert run.mistakes and run.mistakes.worst[0]["pixels"] == bytes(range(6))
    (folder / "mistakes.json").write_text(json.dumps({**facts, **change}))
    parsed = report(folder)
    assert "What is taken for what" not in parsed.texts
    assert any("mistakes.json is damaged" in text for text in parsed.texts)


def test_what_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_run(tmp_path / "run")
    for path in (tmp_path / "none", tmp_path, good / "config.toml"):
        assert main(["report", str(good), str(path), "--to", str(tmp_path / "out.html")]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and f"{path} is no run directory" in err
    assert not (tmp_path / "out.html").exists()
    with pytest.raises(UsageError, match="no run directory"):
        read(tmp_path)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'dtrain\[report\]'"):
        page([read(make_run(tmp_path / "run"))])


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name / "run", n) for name, n in (("a", 1), ("b", 2))]
    to = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "--to", str(to)]) == 0
    assert str(to) in capsys.readouterr().out
    text = Page(to.read_text(encoding="utf-8")).text
    assert all(str(run) in text for run in runs), "folders of one name are told apart by their paths"
    assert main(["report", str(runs[0]), "--to", str(tmp_path / "no" / "page.html")]) == 3
    assert "--to" in capsys.readouterr().err


def test_training_loads_nothing_of_it() -> None:
    code = (
        "import sys, dtrain, dtrain.cli, dtrain.task.trainer; unused = {'matplotlib', 'dtrain.report', "
        "'dtrain.runtime.profile', 'dtrain.train.profile'} & set(sys.modules); assert not unused, unused"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# -- what the run writes for it --------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_confusion_matrix_is_that_of_the_test_and_alike_on_any_ranks(
    ranks: int, tmp_path: Path, on_threads: Callable[..., Any], noise: Path
) -> None:
    options: dict[str, Any] = {"model": "logistic", "epochs": 2, "lr": 0.0003, "profile": "1:3"}
    config = TrainConfig(dataset=str(noise), run_dir=str(tmp_path / "run"), **options)

    def body(comm: Communicator) -> Any:
        return train(config, comm)

    done = on_threads(ranks, body)[0]
    run = read(tmp_path / "run")
    assert run.mistakes and run.mistakes.epoch == 2
    confusion = np.array(run.mistakes.confusion)
    # by hand, in float64, from the saved parameters
    data = load(str(noise), SingleCommunicator(), environ={})
    values = checkpoint.load(tmp_path / "run").values
    x = data.x[data.test.start :].reshape(len(data.test), -1) / 255
    z = x @ values["logits/kernel"].astype(np.float64) + values["logits/bias"]
    labels = data.y[data.test.start :].astype(int)
    wanted = np.zeros((10, 10), int)
    np.add.at(wanted, (labels, z.argmax(1)), 1)
    np.testing.assert_array_equal(confusion, wanted)
    assert np.trace(confusion) / len(data.test) == done["test_accuracy"]
    shifted = z - z.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(z)), labels]
    losses[z.argmax(1) == labels] = -1
    worst = run.mistakes.worst
    assert 0 < len(worst) <= 24 and len(worst) == min(24, int((losses >= 0).sum()))
    assert [w["example"] for w in worst] == np.argsort(-losses)[: len(worst)].tolist()
    for entry in worst:
        i = entry["example"]
        assert entry["loss"] == pytest.approx(losses[i], rel=1e-4)
        assert (entry["label"], entry["predicted"]) == (labels[i], z[i].argmax())
        assert entry["pixels"] == data.x[data.test.start + i].tobytes()
    assert run.profile["steps"] == 2 and len(run.profile["work_ms"]) == ranks
    assert {"python", "cores", "numpy", "blas"} <= set(run.header["environment"])
    if ranks < 3:
        assert f"{done['test_accuracy']:.4f}" in report(tmp_path / "run").texts
