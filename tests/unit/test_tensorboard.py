"""`dtrain train --tensorboard`: TensorBoard's own reader finds what the run was, and nothing else changes."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data.dataset import Dataset
from dtrain.errors import EnvironmentProblem
from dtrain.ops import summary_proto
from dtrain.task import models, trainer
from dtrain.train import checkpoint, tensorboard

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
except ImportError:
    pytest.skip("TensorBoard is not installed: pip install 'dtrain[tensorboard]'", allow_module_level=True)

#: In batches of 4 an epoch is 26 iterations, the last of 3 examples; no count divides by 2 or 3 ranks.
TRAIN, TEST = 103, 601

DIGITS = tuple("0123456789")


def dataset() -> Dataset:
    """Images of noise, whose classes a model learns by heart and does not generalise."""
    generator = np.random.default_rng(5)
    images = generator.integers(0, 256, (TRAIN + TEST, 28, 28)).astype(np.uint8)
    labels = generator.integers(0, 10, TRAIN + TEST).astype(np.uint8)
    return Dataset(
        "noise",
        "generated",
        "",
        images,
        labels,
        range(TRAIN),
        test=range(TRAIN, TRAIN + TEST),
        classes=DIGITS,
    )


def with_dropout(x: dt.Tensor, training: dt.Tensor, *of: Any) -> dt.Tensor:
    dense = lambda x, units, name, activation=None: dt.keras.layers.Dense(units, activation, name=name)(x)  # noqa: E731
    hidden = dense(x, 7, "hidden", dt.nn.relu)
    return dense(dt.nn.dropout(hidden, rate=0.5 * training), 10, "logits")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    monkeypatch.setattr(trainer, "load", lambda *args: data)
    monkeypatch.setitem(models.MODELS, "mlp", with_dropout)


def run(folder: Path, comm: Any = None, **options: Any) -> Path:
    chosen = {"tensorboard": "on", "batch_size": 4, "epochs": 2, "log_every": 1, "log_format": "json"}
    config = TrainConfig(**{**chosen, "run_dir": str(folder), **options})
    trainer.train(config, comm or SingleCommunicator())
    return folder


def read(folder: Path) -> Any:
    reader = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(["images", "tensors", "scalars", "histograms"], 0)
    )
    reader.Reload()
    return reader


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def points(reader: Any, tag: str) -> tuple[list[int], list[float]]:
    found = reader.Scalars(tag)
    return [e.step for e in found], [e.value for e in found]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_run_is_the_same_watched_and_its_curves_are_what_it_reports(
    ranks: int, tmp_path: Path, on_threads: Callable[..., Any]
) -> None:
    on_threads(ranks, lambda comm: run(tmp_path / "on", comm))
    on_threads(ranks, lambda comm: run(tmp_path / "off", comm, tensorboard="off"))
    for kind in ("iteration", "epoch"):
        for a, b in zip(events(tmp_path / "on", kind), events(tmp_path / "off", kind), strict=True):
            for name in a.keys() & {"loss", "accuracy", "test_loss", "test_accuracy"}:
                assert a[name] == b[name]
    saved = [checkpoint.load(tmp_path / name).values for name in ("on", "off")]
    assert {n: v.tobytes() for n, v in saved[0].items()} == {n: v.tobytes() for n, v in saved[1].items()}
    assert not list((tmp_path / "off").glob("*tfevents*"))
    assert len(list((tmp_path / "on").glob("*tfevents*"))) == 1, "rank 0 alone writes"

    reader = read(tmp_path / "on")
    steps = events(tmp_path / "on", "iteration")
    for name in ("loss", "accuracy"):
        values = np.array([e[name] for e in steps]).reshape(2, 26)
        sizes = np.array([4] * 25 + [3])  # examples of a batch
        parts = (slice(0, 20), slice(20, 26))
        means = [np.average(epoch[at], weights=sizes[at]) for epoch in values for at in parts]
        where, found = points(reader, f"iteration/{name}")
        assert where == [20, 26, 46, 52]
        np.testing.assert_allclose(found, means, rtol=1e-6)
    tags = {
        "epoch/loss": "loss",
        "epoch/accuracy": "accuracy",
        "epoch/test_loss": "test_loss",
        "epoch/test_accuracy": "test_accuracy",
        "speed/images_per_second": "images_per_second",
        "speed/communication_share": "communication_fraction",
    }
    for tag, name in tags.items():
        where, found = points(reader, tag)
        assert where == [26, 52]
        np.testing.assert_allclose(found, [e[name] for e in events(tmp_path / "on", "epoch")], rtol=1e-6)
    assert points(reader, "epoch/learning_rate") == ([26, 52], [np.float32(0.001)] * 2)
    assert set(reader.Tags()["scalars"]) == {
        *tags,
        "epoch/learning_rate",
        "iteration/loss",
        "iteration/accuracy",
    }


@pytest.mark.parametrize("ranks", [1, 3])
def test_histograms_and_wrong_images_are_those_of_the_saved_parameters(
    ranks: int, tmp_path: Path, on_threads: Callable[..., Any]
) -> None:
    on_threads(ranks, lambda comm: run(tmp_path / "run", comm, model="logistic", batch_size=5))
    reader, data = read(tmp_path / "run"), dataset()
    values = checkpoint.load(tmp_path / "run").values
    kernel, bias = (values[f"logits/{n}"].astype(np.float64) for n in ("kernel", "bias"))
    x = data.x.reshape(len(data.x), -1) / 255
    z = x @ kernel + bias
    # the gradient of the mean cross-entropy over the first batch
    softmax = np.exp(z[:5] - z[:5].max(1, keepdims=True))
    delta = softmax / softmax.sum(1, keepdims=True)
    delta[np.arange(5), data.y[:5]] -= 1
    wanted = {
        "parameters/logits/kernel": kernel,
        "parameters/logits/bias": bias,
        "gradients/logits/kernel": x[:5].T @ delta / 5,
        "gradients/logits/bias": delta.mean(0),
    }
    assert set(reader.Tags()["histograms"]) == set(wanted)
    for tag, array in wanted.items():
        first, last = reader.Histograms(tag)
        assert (first.step, last.step) == (21, 42)
        histo = last.histogram_value
        assert histo.num == sum(histo.bucket) == array.size
        found = [histo.min, histo.max, histo.sum_squares]
        np.testing.assert_allclose(found, [array.min(), array.max(), np.square(array).sum()], rtol=1e-4)

    predicted = z.argmax(1)
    wrong = [n for n in data.test if predicted[n] != data.y[n]][:25]
    captions = [f"said {predicted[n]}, is {data.y[n]}" for n in wrong]
    event = reader.Images("misclassified/image")[-1]
    assert event.step == 42
    np.testing.assert_array_equal(decoded(event), tensorboard.captioned_grid(data.x[wrong], captions))


def decoded(event: Any) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_the_grid_shows_each_image_enlarged_and_its_caption_below() -> None:
    images = np.random.default_rng(1).integers(0, 256, (7, 28, 28)).astype(np.uint8)
    grid = tensorboard.captioned_grid(images, ["said 1, is 7"] * 7)
    for image in images:
        large = 255 - np.kron(image, np.ones((3, 3), np.uint8))
        corners = np.argwhere(grid[:-84, :-84] == large[0, 0])
        [(y, x)] = [(y, x) for y, x in corners if (grid[y : y + 84, x : x + 84] == large).all()]
        below = grid[y + 84 : y + 100, x : x + 84]
        assert (below < 128).any() and (below[:, [0, -1]] > 128).all(), "a caption, whole"
    other = tensorboard.captioned_grid(images, ["said 1, is 7"] * 6 + ["said 1, is 2"])
    rows, columns = np.nonzero(grid != other)
    assert rows.size > 0 and np.ptp(rows) < 20 and np.ptp(columns) < 20, "one digit of one caption differs"


def test_without_a_wrong_image_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    right = Dataset("noise", "generated", "", data.x, data.y, range(30), test=range(30), classes=DIGITS)
    monkeypatch.setattr(trainer, "load", lambda *args: right)
    folder = run(tmp_path / "run", model="logistic", batch_size=30, epochs=60)
    assert events(folder, "epoch")[-1]["test_accuracy"] == 1
    images = read(folder).Images("misclassified/image")
    assert images and images[-1].step < 60
    assert len(read(folder).Histograms("parameters/logits/bias")) == 10, "ten times in a run, however long"


def test_hyperparameters_and_results_are_in_the_table(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", optimizer="momentum", lr=0.0123, seed=7)
    reader = read(folder)
    content = reader.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    found = {k: v.string_value or v.number_value for k, v in start.hparams.items()}
    assert found == {
        "model": "mlp",
        "dataset": "noise",
        "optimizer": "momentum",
        "lr": 0.0123,
        "batch_size": 4,
        "epochs": 2,
        "seed": 7,
        "ranks": 1,
    }
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert {i.name for i in experiment.hparam_infos} == set(found)
    metrics = {i.name.tag: i.display_name for i in experiment.metric_infos}
    assert set(metrics) <= set(reader.Tags()["scalars"]) and metrics["epoch/test_accuracy"] == "test accuracy"
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.end_time_secs >= start.start_time_secs > 0


def test_the_graph_is_that_of_the_step(tmp_path: Path) -> None:
    graph = {n.name: n for n in read(run(tmp_path / "run", epochs=1)).Graph().node}
    assert {"hidden/MatMul", "hidden/kernel", "logits/bias", "indices", "training"} <= graph.keys()
    assert {"input", "hidden", "logits", "loss", "metrics", "gradients", "Adam"} <= {
        name.partition("/")[0] for name in graph
    }
    assert not any(name.startswith("watched_gradients") for name in graph)


def test_a_run_that_diverges_is_not_ended_by_being_watched(tmp_path: Path) -> None:
    options = {"model": "logistic", "optimizer": "sgd", "lr": 1e38, "check_numerics": False}
    folder = run(tmp_path / "run", **options)
    last = events(folder, "epoch")[-1]
    assert last["loss"] is None and last["not_finite"]["loss"] in ("nan", "inf")
    reader = read(folder)
    assert reader.Histograms("parameters/logits/kernel")[-1].histogram_value.num < 7840
    assert not np.isfinite(points(reader, "epoch/loss")[1][-1])


def test_a_run_that_is_gone_on_with_replaces_what_it_had_written(tmp_path: Path) -> None:
    data, comm = dataset(), SingleCommunicator()
    facts = {"iterations_per_epoch": 40, "epochs": 2, "dataset": "noise", "ranks": 1}

    def steps(first: int, last: int, loss: float) -> None:
        graph = dt.Graph()
        with graph.as_default():
            network = trainer.build("logistic", data)
        session = dt.Session(graph=graph, comm=comm)
        board = tensorboard.TensorBoard(tmp_path, TrainConfig(), session, network, data)
        board.follow(network.results)
        board.header(**facts)
        for step in range(first, last + 1):
            board.iteration(*(n + 1 for n in divmod(step - 1, 40)), loss, [2], 4)
        board.close()

    steps(1, 80, 4.0)
    [first] = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.0000000001.before")  # files are read in the order of names
    steps(41, 80, 2.0)
    assert points(read(tmp_path), "iteration/loss") == ([20, 40, 60, 80], [4, 4, 2, 2])


def test_a_full_disk_ends_the_files_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    add_event, written = EventFileWriter.add_event, []

    def full_after_three(self: Any, event: Any) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(event)
        add_event(self, event)

    monkeypatch.setattr(EventFileWriter, "add_event", full_after_three)
    with caplog.at_level(logging.WARNING):
        folder = run(tmp_path / "run")
    assert len(events(folder, "done")) == 1
    said = [r.getMessage() for r in caplog.records if r.name == "dtrain"]
    assert len(said) == 1 and "No space left on device. The run continues without" in said[0]


# -- whether -----------------------------------------------------------------------------------------------
def test_asked_for_and_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_threads: Callable[..., Any]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat", None)
    summary_proto.protos.cache_clear()

    def refused(comm: Any) -> str:
        with pytest.raises(EnvironmentProblem) as caught:
            run(tmp_path / "run", comm)
        assert caught.value.agreed
        return str(caught.value)

    messages = on_threads(3, refused)
    assert len(set(messages)) == 1
    assert messages[0].startswith("--tensorboard: ") and "pip install 'dtrain[tensorboard]'" in messages[0]
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing behind"
    on_threads(2, lambda comm: run(tmp_path / "auto", comm, tensorboard="auto"))
    assert not list((tmp_path / "auto").glob("*tfevents*"))
    monkeypatch.undo()


def test_off_it_is_not_imported_and_nothing_is_added_to_the_graph(tmp_path: Path, blas_warning: str) -> None:
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from dtrain.cli import main\n"
        "from dtrain.task import trainer\n"
        "from dtrain.data.dataset import Dataset\n"
        "images, labels = np.zeros((9, 28, 28), np.uint8), np.zeros(9, np.uint8)\n"
        "parts = {'train': range(5), 'test': range(5, 9), 'classes': ('0',) * 10}\n"
        "data = Dataset('none', 'generated', '', images, labels, **parts)\n"
        "trainer.load = lambda *args: data\n"
        "assert main(['train', '--epochs', '1', '--run-dir', 'run', sys.argv[1]]) == 0\n"
        "print({'tensorboard', 'PIL', 'tqdm', 'google'} & set(sys.modules))\n"
    )
    for choice, loaded in (("--no-tensorboard", "set()"), ("--tensorboard", "'tensorboard'")):
        folder = tmp_path / choice
        folder.mkdir()
        command = [sys.executable, "-c", code, choice]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=True)
        assert loaded in done.stdout.splitlines()[-1] and done.stderr == blas_warning
        assert ("watch    tensorboard --logdir run" in done.stdout) == (choice == "--tensorboard")
