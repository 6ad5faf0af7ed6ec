"""What programs of TensorFlow 1 begin with: app, flags, logging, gfile, devices, options, clusters."""

from __future__ import annotations

import logging
import sys
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.errors import UsageError


# -- flags -----------------------------------------------------------------------------------------------
@pytest.fixture
def flags() -> Any:
    """FLAGS of its own, with a flag of each kind."""
    made = tf.flags.FlagValues()
    tf.flags.DEFINE_string("name", "x", "a name", flag_values=made)
    tf.flags.DEFINE_integer("count", 3, "how many", lower_bound=0, flag_values=made)
    tf.flags.DEFINE_float("rate", 1, "how fast", flag_values=made)
    tf.flags.DEFINE_boolean("shuffle", True, "whether", flag_values=made)
    tf.flags.DEFINE_enum("kind", "a", ["a", "b"], "which", flag_values=made)
    tf.flags.DEFINE_list("parts", "1,2", "several", flag_values=made)
    tf.flags.DEFINE_multi_integer("layer", [7], "sizes", flag_values=made)
    return made


def test_flags_are_read_from_words(flags: Any) -> None:
    left = flags(
        [
            "prog",
            "--count",
            "5",
            "-rate=0.5",
            "--noshuffle",
            "--kind=b",
            "--parts=p, q",
            "in",
            "--layer=1",
            "--layer",
            "0x10",
        ]
    )
    assert left == ["prog", "in"]
    assert flags.flag_values_dict() == {
        "name": "x",
        "count": 5,
        "rate": 0.5,
        "shuffle": False,
        "kind": "b",
        "parts": ["p", "q"],
        "layer": [1, 16],
    }
    flags.count = 9
    assert flags.count == 9 and flags["count"].default == 3 and "rate" in flags and len(flags) == 7
    assert flags(["prog", "--", "--count=1"]) == ["prog", "--count=1"]
    assert flags(["prog", "--shuffle=true", "-5"]) == ["prog", "-5"] and flags.shuffle is True


def test_flags_that_do_not_fit_are_said(flags: Any) -> None:
    for words, text in (
        (["--count=x"], "--count: invalid literal"),
        (["--count=-1"], "is not between 0 and None"),
        (["--kind=c"], "'c' is none of a, b"),
        (["--shuffle=maybe"], "neither true nor false"),
        (["--count"], "--count needs a value"),
        (["--nope=1"], "unknown flag --nope=1: the program has count, kind"),
    ):
        with pytest.raises(UsageError, match=text):
            flags(["prog", *words])
    assert flags(["prog", "--nope=1", "--noname"], known_only=True) == ["prog", "--nope=1", "--noname"]
    with pytest.raises(AttributeError, match="there is no flag 'nope'"):
        _ = flags.nope
    with pytest.raises(AttributeError, match="there is no flag 'nope'"):
        flags.nope = 1
    tf.flags.DEFINE_string("must", None, "given", flag_values=flags)
    tf.flags.mark_flag_as_required("must", flags)
    with pytest.raises(UsageError, match="have to be given: --must"):
        flags(["prog"])


def test_help_lists_flags(flags: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flags(["/x/prog.py", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 1 and text.startswith("usage: prog.py [flags]")
    assert "--[no]shuffle: whether\n    (default: True)" in text


def test_a_flag_is_read_at_the_first_look(flags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "--count=8", "--other"])
    assert flags.count == 8


def test_app_run_calls_main_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    with pytest.raises(SystemExit) as ended:
        tf.app.run(lambda argv: seen.append(argv) or 5, ["prog", "--what=1", "x"])
    assert ended.value.code == 5 and seen == [["prog", "--what=1", "x"]]


# -- logging and files -----------------------------------------------------------------------------------
def test_messages_have_levels() -> None:
    logger, seen = logging.getLogger("tensorflow"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    before = tf.logging.get_verbosity()
    try:
        tf.logging.set_verbosity(tf.logging.WARN)
        tf.logging.info("not %d", 1)
        tf.logging.set_verbosity(tf.logging.INFO)
        tf.logging.info("shown %d", 2)
        for _ in range(5):
            tf.logging.log_first_n(tf.logging.ERROR, "twice", 2)
        tf.logging.log_if(tf.logging.WARN, "never", False)
    finally:
        tf.logging.set_verbosity(before)
        logger.removeHandler(handler)
    assert seen == ["shown 2", "twice", "twice"]


def test_files(tmp_path: Path) -> None:
    gfile, folder = tf.gfile, tmp_path / "a" / "b"
    gfile.MakeDirs(folder)
    gfile.MakeDirs(folder)
    with gfile.GFile(folder / "x.txt", "w") as file:
        file.write("one\nü\n")
    with gfile.Open(folder / "x.txt") as file:
        assert list(file) == ["one\n", "ü\n"] and file.size() == 7
    with gfile.FastGFile(folder / "x.txt", "rb") as file:
        assert file.read(3) == b"one"
    gfile.Copy(folder / "x.txt", folder / "y.txt")
    with pytest.raises(UsageError, match="overwrite=True replaces it"):
        gfile.Copy(folder / "x.txt", folder / "y.txt")
    gfile.Rename(folder / "y.txt", folder / "x.txt", overwrite=True)
    assert gfile.ListDirectory(folder) == ["x.txt"] and gfile.IsDirectory(folder)
    assert gfile.Glob(str(folder / "*.txt")) == [str(folder / "x.txt")]
    assert gfile.Stat(folder / "x.txt").length == 7
    gfile.Remove(folder / "x.txt")
    gfile.DeleteRecursively(tmp_path / "a")
    assert not gfile.Exists(folder)
    with pytest.raises(FileNotFoundError):
        gfile.DeleteRecursively(tmp_path / "a")
    with pytest.raises(UsageError, match="is none of r, w, a"):
        gfile.GFile(tmp_path / "x", "x")


def test_other_ranks_write_and_delete_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("as it was")
    monkeypatch.setattr("dtrain.comm.launcher.rank", lambda: 1)
    with tf.gfile.GFile(tmp_path / "kept", "w") as file:
        file.write("other")
    tf.gfile.Remove(tmp_path / "kept")
    tf.gfile.DeleteRecursively(tmp_path)
    tf.gfile.Copy(tmp_path / "kept", tmp_path / "copy")
    tf.gfile.MakeDirs(tmp_path / "folder")
    assert (tmp_path / "kept").read_text() == "as it was"
    assert tf.io.gfile.listdir(tmp_path) == ["folder", "kept"]


# -- devices and options ---------------------------------------------------------------------------------
def test_a_gpu_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtrain.tf1.devices._told", False)
    with pytest.warns(UserWarning, match=r"tf.device\('/gpu:0'\) changes nothing") as told:
        for name in ("/cpu:0", "/gpu:0", "/device:GPU:1", None):
            with tf.device(name):
                x = tf.constant(1)
    assert len(told) == 1 and tf.Session().run(x) == 1


def test_options_are_known_and_others_are_not() -> None:
    config = tf.ConfigProto(
        graph_options=tf.GraphOptions(), gpu_options=tf.GPUOptions(visible_device_list="0")
    )
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
    assert config.graph_options.optimizer_options.global_jit_level == 1
    assert tf.ConfigProto().graph_options.optimizer_options.global_jit_level == 0
    with pytest.raises(UsageError, match="has no option 'nope'"):
        tf.OptimizerOptions(nope=1)


def test_numbers_by_name() -> None:
    params = tf.contrib.training.HParams(rate=0.1, sizes=[64, 32], on=True)
    params.parse("rate=0.5,sizes=[8,4],on=false")
    assert params.values() == {"rate": 0.5, "sizes": [8, 4], "on": False} and "rate" in params
    params.rate = 2.0
    params.add_hparam("name", "x")
    assert (params.rate, params.get("none", 3), params.name) == (2.0, 3, "x")
    for text in ("rate=x", "on=maybe", "none=1"):
        with pytest.raises(UsageError):
            params.parse(text)
    with pytest.raises(UsageError, match="add_hparam"):
        params.other = 1


def test_a_test_of_a_graph() -> None:
    class Mine(tf.test.TestCase):
        def test_it(self) -> None:
            with self.test_session() as session:
                self.assertAllEqual(tf.constant([1, 2]).eval(), [1, 2])
                self.assertAllClose(session.run(tf.constant(0.1) + 0.2), np.float32(0.3))
                self.assertShapeEqual(np.ones((2, 3)), tf.ones([2, 3]))

        def test_wrong(self) -> None:
            self.assertAllClose([1.0], [1.1])

    result = unittest.TestLoader().loadTestsFromTestCase(Mine).run(unittest.TestResult())
    assert (result.testsRun, len(result.failures), len(result.errors)) == (3, 1, 0)
    assert len(result.skipped) == 1 and tf.test.is_gpu_available() == bool(tf.test.gpu_device_name())


# -- clusters --------------------------------------------------------------------------------------------
def test_a_cluster_is_described_and_a_server_is_this_process() -> None:
    cluster = tf.train.ClusterSpec({"ps": ["a:1"], "worker": {0: "b:1", 1: "c:1"}})
    assert cluster.num_tasks("worker") == 2 and cluster.task_address("worker", 1) == "c:1"
    assert cluster == tf.train.ClusterSpec(cluster) and cluster.job_tasks("ps") == ["a:1"]
    assert tf.train.Server(cluster, "worker", 1).target == ""
    with pytest.raises(
        UsageError, match=r"no parameter servers.*mpirun -n 4 dtrain run PROGRAM\.py --job_name=worker"
    ):
        tf.train.Server(cluster, job_name="ps", task_index=0)
    with pytest.raises(UsageError, match="no server to wait for"):
        tf.train.Server.create_local_server().join()
    with tf.device(tf.train.replica_device_setter(cluster=cluster)):
        tf.Variable(1.0)


def test_an_optimizer_for_replicas_is_the_one_it_is_given() -> None:
    step = tf.train.get_or_create_global_step()
    v = tf.Variable([1.0, 2.0])
    inner = tf.train.MomentumOptimizer(0.5, 0.9)
    both = tf.train.SyncReplicasOptimizer(inner, replicas_to_aggregate=2)
    train = both.minimize(tf.reduce_sum(v * v), global_step=step)
    with pytest.raises(UsageError, match="global_step has to be given"):
        both.minimize(tf.reduce_sum(v * v))
    with tf.train.MonitoredTrainingSession(hooks=[both.make_session_run_hook(True)]) as session:
        session.run(train)
        np.testing.assert_allclose(session.run(v), [0, 0])
        assert session.run(step) == 1
    assert both.get_slot(v, "momentum") is inner.get_slot(v, "momentum") is not None


def test_a_supervisor_saves_and_goes_on(tmp_path: Path) -> None:
    def train(steps: int) -> int:
        with tf.Graph().as_default():
            step = tf.train.get_or_create_global_step()
            add = tf.assign_add(step, 1)
            supervisor = tf.train.Supervisor(logdir=tmp_path / "run", summary_op=None, summary_writer=None)
            with supervisor.managed_session() as session:
                for _ in range(steps):
                    assert not supervisor.should_stop()
                    last = session.run(add)
                supervisor.request_stop()
                assert supervisor.should_stop()
            return last

    assert train(3) == 3 and train(2) == 5
    with pytest.raises(UsageError, match="ready_op is not supported"):
        tf.train.Supervisor(ready_op=tf.no_op())


# -- files for TensorBoard -------------------------------------------------------------------------------
def test_messages_run_metadata_graph_and_projector(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="its messages are written")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    x = tf.placeholder(tf.float32, [None, 3], name="x")
    y = tf.reduce_sum(tf.matmul(x, tf.ones([3, 2]), name="product"), name="total")
    writer = tf.summary.FileWriter(tmp_path, tf.get_default_graph())
    metadata = tf.RunMetadata()
    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    tf.Session().run(y, {x: np.ones((4, 3))}, options=options, run_metadata=metadata)
    writer.add_run_metadata(metadata, "step 7", 7)
    writer.add_run_metadata(tf.RunMetadata(), "empty")
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag="mine", simple_value=2.5)]), 3)
    projector = tf.contrib.tensorboard.plugins.projector
    config = projector.ProjectorConfig()
    config.embeddings.add().tensor_name = "table"
    projector.visualize_embeddings(writer, config)
    writer.close()
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    stats = log.RunMetadata("step 7").step_stats.dev_stats[0].node_stats
    assert any(node.node_name.startswith("product") and node.all_end_rel_micros > 0 for node in stats)
    assert [(e.step, e.value) for e in log.Scalars("mine")] == [(3, 2.5)]
    assert 'tensor_name: "table"' in (tmp_path / "projector_config.pbtxt").read_text()
    path = tf.train.write_graph(tf.get_default_graph(), tmp_path, "graph.pbtxt")
    assert 'name: "product"' in Path(path).read_text()
