"""Summaries: TensorBoard's own reader finds in the files what was put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import EnvironmentProblem, GraphError, InvalidArgumentError, UsageError
from dtrain.ops import summary_proto

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util
except ImportError:
    EventAccumulator = None

needs_tensorboard = pytest.mark.skipif(
    EventAccumulator is None, reason="TensorBoard is not installed: pip install 'dtrain[tensorboard]'"
)


def read(folder: Path) -> Any:
    reader = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    reader.Reload()
    return reader


@pytest.fixture
def session() -> dt.Session:
    return dt.Session(comm=None)


# -- in the graph: TensorBoard is not needed -------------------------------------------------------------
def test_tags_are_names_in_the_graph() -> None:
    loss = dt.constant(1.0)
    with dt.name_scope("layer1"), dt.name_scope("weights"):
        first = dt.summary.scalar("mean", loss)
        second = dt.summary.scalar("mean", loss)
        family = dt.summary.scalar("max", loss, family="extremes")
        odd = dt.summary.scalar("/a loss!", loss)
    tags = [s.op.kind.tag for s in (first, second, family, odd)]  # type: ignore[attr-defined]
    assert tags == [
        "layer1/weights/mean",
        "layer1/weights/mean_1",
        "extremes/layer1/weights/extremes/max",
        "layer1/weights/a_loss_",
    ]
    assert [s.op.name for s in (first, family)] == ["layer1/weights/mean", "layer1/weights/extremes/max"]
    assert first.dtype == dt.string and first.shape == []


def test_summaries_are_collected_and_merged() -> None:
    assert dt.summary.merge_all() is None
    with dt.name_scope("a"):
        a = dt.summary.scalar("a", 1.0)
    b = dt.summary.histogram("b", [1.0])
    c = dt.summary.scalar("c", 1.0, collections=["mine"])
    assert dt.get_collection(dt.GraphKeys.SUMMARIES) == [a, b]
    merged = dt.summary.merge_all()
    assert merged.op.inputs == (a, b) and merged.op.name == "Merge/MergeSummary"
    assert dt.summary.merge_all("mine").op.inputs == (c,)
    assert dt.summary.merge_all(scope="a/").op.inputs == (a,)
    both = dt.summary.merge([a, c], ["all"])
    assert dt.get_collection("all") == [both]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dt.summary.scalar("s", [1.0, 2.0]), "one number"),
        (lambda: dt.summary.scalar("s", True), "cast the bools"),
        (lambda: dt.summary.histogram("s", [True]), "cast the bools"),
        (lambda: dt.summary.image("s", dt.zeros([4, 4])), "1, 3 or 4 channels"),
        (lambda: dt.summary.image("s", dt.zeros([1, 4, 4, 2])), "1, 3 or 4 channels"),
        (lambda: dt.summary.image("s", dt.zeros([1, 4, 4, 1], "int32")), "uint8 or floating"),
        (lambda: dt.summary.text("s", dt.constant(1)), "of strings"),
        (lambda: dt.summary.merge([dt.constant(1.0)]), "only summaries"),
        (lambda: dt.summary.merge([]), "no summaries"),
        (lambda: dt.summary.scalar("s", 1.0) + dt.constant(1), "which is a string"),
    ],
)
def test_what_is_no_summary_is_an_error_at_its_line(build: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build()


def test_without_tensorboard_all_but_running_works(
    monkeypatch: pytest.MonkeyPatch, session: dt.Session, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat", None)
    summary_proto.protos.cache_clear()
    v = dt.Variable(1.0)
    merged = dt.summary.merge([dt.summary.scalar("v", v)])
    session.run(v.initializer)
    assert session.run(v) == 1
    for use in (lambda: session.run(merged), lambda: dt.summary.FileWriter(tmp_path)):
        with pytest.raises(EnvironmentProblem, match=r"dtrain\[tensorboard\]"):
            use()
    monkeypatch.undo()


# -- in the file -----------------------------------------------------------------------------------------
@needs_tensorboard
def test_scalars_come_back_by_step(tmp_path: Path, session: dt.Session) -> None:
    x = dt.placeholder("float", [])
    with dt.name_scope("train"):
        dt.summary.scalar("loss", x)
        dt.summary.scalar("twice", dt.cast(x * 2, "int32"))
    merged = dt.summary.merge_all()
    with dt.summary.FileWriter(tmp_path / "logs", comm=None) as writer:
        for step in range(3):
            summary = session.run(merged, {x: step + 0.5})
            assert isinstance(summary, bytes)
            writer.add_summary(summary, step)
        assert writer.get_logdir() == str(tmp_path / "logs")
    reader = read(tmp_path / "logs")
    assert [(e.step, e.value) for e in reader.Scalars("train/loss")] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert [e.value for e in reader.Scalars("train/twice")] == [1, 3, 5]


@needs_tensorboard
def test_the_lectures_layer_is_recorded(tmp_path: Path) -> None:
    def variable_summaries(var: Any) -> None:
        with dt.name_scope("summaries"):
            mean = dt.reduce_mean(var)
            dt.summary.scalar("mean", mean)
            with dt.name_scope("stddev"):
                stddev = dt.sqrt(dt.reduce_mean(dt.square(var - mean)))
            dt.summary.scalar("stddev", stddev)
            dt.summary.histogram("histogram", var)

    def nn_layer(inputs: Any, input_dim: int, output_dim: int, layer_name: str, act: Any = dt.nn.relu) -> Any:
        with dt.name_scope(layer_name):
            with dt.name_scope("weights"):
                weights = dt.Variable(dt.truncated_normal([input_dim, output_dim], stddev=0.1))
                variable_summaries(weights)
            with dt.name_scope("biases"):
                biases = dt.Variable(dt.constant(0.1, shape=[output_dim]))
                variable_summaries(biases)
            with dt.name_scope("Wx_plus_b"):
                preactivate = dt.matmul(inputs, weights) + biases
                dt.summary.histogram("pre_activations", preactivate)
            activations = act(preactivate, name="activation")
            dt.summary.histogram("activations", activations)
        return activations

    x = dt.placeholder("float", [None, 8], name="x")
    nn_layer(x, 8, 5, "layer1")
    merged = dt.summary.merge_all()
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        writer = dt.summary.FileWriter(tmp_path, session.graph, comm=None)
        writer.add_summary(session.run(merged, {x: np.ones((6, 8))}), 1)
        writer.close()
    reader = read(tmp_path)
    scalars = {
        f"layer1/{part}/summaries/{what}" for part in ("weights", "biases") for what in ("mean", "stddev_1")
    }
    assert set(reader.Tags()["scalars"]) == scalars
    assert set(reader.Tags()["histograms"]) == {
        "layer1/weights/summaries/histogram",
        "layer1/biases/summaries/histogram",
        "layer1/Wx_plus_b/pre_activations",
        "layer1/activations",
    }
    assert reader.Histograms("layer1/activations")[0].histogram_value.num == 30
    graph = {n.name: n for n in reader.Graph().node}
    assert "layer1/weights/Variable" in graph and "layer1/Wx_plus_b/MatMul" in graph
    assert list(graph["layer1/Wx_plus_b/MatMul"].input) == ["x", "layer1/weights/Variable"]
    assert {name.partition("/")[0] for name in graph} >= {"x", "layer1", "init", "Merge"}


@needs_tensorboard
def test_a_graphs_nodes_say_shapes_and_dtypes(tmp_path: Path) -> None:
    x = dt.placeholder("float", [None, 3], name="x")
    dt.placeholder("int64", name="unknown")
    dt.reduce_sum(dt.cast(x, "float16"), 1, name="sum")
    with dt.summary.FileWriter(tmp_path, comm=None) as writer:
        writer.add_graph(x.graph)
    graph = {n.name: n for n in read(tmp_path).Graph().node}
    shapes = {name: n.attr["_output_shapes"].list.shape[0] for name, n in graph.items()}
    assert [d.size for d in shapes["x"].dim] == [-1, 3] and shapes["unknown"].unknown_rank
    types = summary_proto.protos().types_pb2
    assert graph["x"].attr["dtype"].type == types.DT_FLOAT
    assert graph["unknown"].attr["dtype"].type == types.DT_INT64


@needs_tensorboard
@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [1.0, 1.0, -3.0, 0.0, 2.5e6, -1e-13],
        np.random.default_rng(1).normal(size=(40, 50)),
        [],
        [1e30, -1e30],
        np.arange(5),
    ],
)
def test_histograms_count_every_value_once(values: Any, session: dt.Session) -> None:
    array = np.asarray(values)
    summary = session.run(dt.summary.histogram("h", dt.constant(array)))
    histo = summary_proto.protos().summary_pb2.Summary.FromString(summary).value[0].histo
    limits, counts = np.array(histo.bucket_limit), np.array(histo.bucket)
    assert (np.diff(limits) > 0).all() and counts.sum() == array.size == histo.num
    for low, high, count in zip([-np.inf, *limits[:-1]], limits, counts, strict=True):
        if count or low > -np.inf:
            assert ((array >= low) & (array < high)).sum() == count
    assert not ((counts[:-1] == 0) & (counts[1:] == 0)).any()
    np.testing.assert_allclose([histo.sum, histo.sum_squares], [array.sum(), np.square(array).sum()])
    if array.size:
        assert (histo.min, histo.max) == (array.min(), array.max())


@needs_tensorboard
def test_a_histogram_of_what_is_not_finite_is_an_error(session: dt.Session) -> None:
    with (
        pytest.raises(InvalidArgumentError, match="Nan in summary histogram for: scope/h"),
        dt.name_scope("scope"),
    ):
        session.run(dt.summary.histogram("h", [1.0, np.nan]))


@needs_tensorboard
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_come_back_as_they_were(channels: int, tmp_path: Path, session: dt.Session) -> None:
    import io

    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 6, channels)).astype(np.uint8)
    with dt.summary.FileWriter(tmp_path, comm=None) as writer:
        writer.add_summary(session.run(dt.summary.image("shown", pixels, max_outputs=2)))
        writer.add_summary(session.run(dt.summary.image("one", pixels, 1)))
    reader = read(tmp_path)
    assert sorted(reader.Tags()["images"]) == ["one/image", "shown/image/0", "shown/image/1"]
    event = reader.Images("shown/image/1")[0]
    assert (event.height, event.width) == (4, 6)
    decoded = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(decoded.reshape(4, 6, channels), pixels[1])


@needs_tensorboard
@pytest.mark.parametrize(
    ("floats", "expected"),
    [([0.0, 0.5, 1.0], [0, 127, 255]), ([-2.0, 0.0, 1.0], [1, 128, 191]), ([0.0, np.nan, 0.0], [0, 0, 0])],
)
def test_float_images_are_scaled(floats: list[float], expected: list[int], session: dt.Session) -> None:
    import io

    from PIL import Image

    image = np.array(floats, np.float32).reshape(1, 1, 3, 1)
    summary = session.run(dt.summary.image("i", image))
    encoded = summary_proto.protos().summary_pb2.Summary.FromString(summary).value[0].image
    assert np.asarray(Image.open(io.BytesIO(encoded.encoded_image_string))).tolist() == [expected]


@needs_tensorboard
def test_text_comes_back(tmp_path: Path, session: dt.Session) -> None:
    with dt.summary.FileWriter(tmp_path, comm=None) as writer:
        writer.add_summary(session.run(dt.summary.text("note", "*ü*")), 1)
        fed = dt.placeholder(dt.string, [None])
        writer.add_summary(session.run(dt.summary.text("notes", fed), {fed: ["a", b"b"]}), 1)
    reader = read(tmp_path)
    found = [tensor_util.make_ndarray(reader.Tensors(t)[0].tensor_proto).tolist() for t in ("note", "notes")]
    assert found == ["*ü*".encode(), [b"a", b"b"]]
    assert set(reader.PluginTagToContent("text")) == {"note", "notes"}


@needs_tensorboard
def test_the_writer_flushes_closes_and_reopens(tmp_path: Path, session: dt.Session) -> None:
    summary = session.run(dt.summary.scalar("s", 1.0))
    writer = dt.summary.FileWriter(tmp_path, filename_suffix=".mine", comm=None)
    writer.add_summary(summary, 1)
    writer.flush()
    assert len(read(tmp_path).Scalars("s")) == 1
    writer.close()
    with pytest.raises(UsageError, match="reopen"):
        writer.add_summary(summary, 2)
    writer.reopen()
    writer.add_summary(summary_proto.protos().summary_pb2.Summary.FromString(summary), np.int64(2))
    writer.add_event(summary_proto.protos().event_pb2.Event(step=3))
    writer.close()
    assert all(p.name.endswith(".mine") for p in tmp_path.iterdir())


@needs_tensorboard
def test_what_is_not_to_be_written_is_refused(tmp_path: Path) -> None:
    with dt.summary.FileWriter(tmp_path, comm=None) as writer:
        with pytest.raises(UsageError, match="takes what session"):
            writer.add_summary(dt.summary.scalar("s", 1.0))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"dt\.Graph"):
            writer.add_graph("graph")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"dt\.Graph"):
        dt.summary.FileWriter(tmp_path, graph_def=object())  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="no event file"):
        dt.summary.FileWriter(tmp_path / "file" / "logs", comm=None)


@needs_tensorboard
def test_ranks_record_the_whole_batch_and_rank_0_writes(tmp_path: Path, on_threads: Any) -> None:
    x = dt.placeholder("float", [None, 2])
    dt.summary.scalar("mean", dt.reduce_mean(x))
    dt.summary.histogram("values", x)
    merged, graph = dt.summary.merge_all(), x.graph
    batch = np.arange(14.0).reshape(7, 2)

    def body(comm: Any) -> bytes:
        low, high = 7 * comm.rank // comm.size, 7 * (comm.rank + 1) // comm.size
        session = dt.Session(graph=graph, comm=comm)
        with dt.summary.FileWriter(tmp_path / str(comm.rank), comm=comm) as writer:
            summary = session.run(merged, {x: dt.Shard(batch[low:high], 7)})
            writer.add_summary(summary, 1)
        return summary

    summaries = on_threads(3, body)
    assert summaries[0] == summaries[1] == summaries[2]
    assert [p.name for p in tmp_path.iterdir()] == ["0"]
    reader = read(tmp_path / "0")
    assert reader.Scalars("mean")[0].value == batch.mean()
    assert reader.Histograms("values")[0].histogram_value.num == 14
