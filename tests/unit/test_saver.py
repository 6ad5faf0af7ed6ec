"""Saver: what it writes, keeps and reads back, and what it says of files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import CheckpointError, FailedPreconditionError, UsageError
from dtrain.train.saver import Saver, checkpoint_exists, get_checkpoint_state, latest_checkpoint


@pytest.fixture
def session() -> dt.Session:
    return dt.Session(comm=None)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_values_come_back_in_another_session(tmp_path: Path, session: dt.Session) -> None:
    variables = [
        dt.Variable(np.arange(6.0).reshape(2, 3), name="layer/w"),
        dt.Variable(7, name="step", trainable=False),
        dt.Variable(np.array([True, False]), name="flags"),
        dt.Variable(np.array([1.5], np.float16), name="half"),
        dt.Variable(dt.zeros([0, 3]), name="empty"),
    ]
    session.run(dt.global_variables_initializer())
    before = session.run(variables)
    saver = Saver()
    path = saver.save(session, tmp_path / "model.ckpt")
    assert path == str(tmp_path / "model.ckpt")
    other = dt.Session(comm=None)
    saver.restore(other, path)  # no initializer has run
    for left, right in zip(before, other.run(variables), strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        np.testing.assert_array_equal(left, right)


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, session: dt.Session) -> None:
    w = dt.Variable([1.0, 2.0], name="w")
    step = dt.train.AdamOptimizer(0.1).minimize(dt.reduce_sum(dt.square(w)))
    session.run(dt.global_variables_initializer())
    session.run(step)
    saver = Saver()
    path = saver.save(session, tmp_path / "m")
    session.run(step)
    other = dt.Session(comm=None)
    saver.restore(other, path)
    other.run(step)
    np.testing.assert_array_equal(session.run(w), other.run(w))


def test_the_newest_are_kept_and_listed(tmp_path: Path, session: dt.Session) -> None:
    v = dt.Variable(0, name="v")
    session.run(v.initializer)
    saver = Saver([v], max_to_keep=2)
    paths = []
    for step in (1, 5, 10):
        v.load(step, session)
        paths.append(saver.save(session, tmp_path / "m", global_step=v))
    assert paths == [str(tmp_path / f"m-{n}") for n in (1, 5, 10)]
    assert files(tmp_path) == [
        "checkpoint",
        *(f"m-{n}.{kind}" for n in (10, 5) for kind in ("meta", "safetensors")),
    ]
    assert saver.last_checkpoints == paths[1:]
    assert latest_checkpoint(tmp_path) == paths[-1] and checkpoint_exists(paths[-1])
    assert not checkpoint_exists(paths[0])
    state = get_checkpoint_state(tmp_path)
    assert state is not None
    assert (state.model_checkpoint_path, state.all_model_checkpoint_paths) == (paths[-1], paths[1:])
    text = (tmp_path / "checkpoint").read_text()
    assert text.startswith('model_checkpoint_path: "m-10"\nall_model_checkpoint_paths: "m-5"\n')
    saver.restore(session, paths[1])
    assert session.run(v) == 5


def test_a_new_saver_goes_on_from_the_old_ones_files(tmp_path: Path, session: dt.Session) -> None:
    v = dt.Variable(0, name="v")
    session.run(v.initializer)
    Saver().save(session, tmp_path / "m", 1)
    saver = Saver(max_to_keep=1)
    state = get_checkpoint_state(tmp_path)
    assert state is not None
    saver.recover_last_checkpoints([*state.all_model_checkpoint_paths, str(tmp_path / "gone")])
    saver.save(session, tmp_path / "m", 2)
    assert files(tmp_path) == ["checkpoint", "m-2.meta", "m-2.safetensors"]
    keep_all = Saver(max_to_keep=None, pad_step_number=True)
    for step in range(7):
        path = keep_all.save(session, tmp_path / "all", step, write_state=False)
    assert path.endswith("all-00000006") and len(files(tmp_path)) == 17
    assert latest_checkpoint(tmp_path) == str(tmp_path / "m-2")


def test_a_moved_folder_still_knows_its_newest(tmp_path: Path, session: dt.Session) -> None:
    v = dt.Variable(1, name="v")
    session.run(v.initializer)
    Saver().save(session, tmp_path / "old" / "m", 3, latest_filename="mine")
    (tmp_path / "old").rename(tmp_path / "new")
    assert latest_checkpoint(tmp_path / "new", "mine") == str(tmp_path / "new" / "m-3")
    assert latest_checkpoint(tmp_path / "new") is None and latest_checkpoint(tmp_path / "nowhere") is None


def test_variables_can_be_chosen_and_renamed(tmp_path: Path, session: dt.Session) -> None:
    a, b = dt.Variable(1.0, name="a"), dt.Variable(2.0, name="b")
    session.run(dt.global_variables_initializer())
    path = Saver({"other": a}).save(session, tmp_path / "m")
    Saver({"other": b}).restore(session, path)
    assert session.run([a, b]) == [1, 1]
    later = Saver(defer_build=True)
    c = dt.Variable(3.0, name="c")
    session.run(c.initializer)
    path = later.save(session, tmp_path / "later")
    session.run(c.assign(0.0))
    later.restore(session, path)
    assert session.run(c) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reshape": True}, "reshape is not supported"),
        ({"reshape": True}, "reshape is not supported"),
        ({"var_list": []}, "No variables to save"),
        ({"var_list": ["v"]}, "is no variable|has no attribute"),
    ],
)
def test_what_cannot_be_meant_is_an_error(arguments: Any, message: str) -> None:
    v = dt.Variable(1.0, name="v")
    with pytest.raises((UsageError, AttributeError), match=message):
        Saver(**arguments)
    with pytest.raises(UsageError, match="of one name"):
        Saver([v, v])
    assert Saver([], allow_empty=True).last_checkpoints == []


def test_without_variables_there_is_nothing_to_save() -> None:
    with pytest.raises(ValueError, match="No variables to save"):
        Saver()


def test_what_has_no_value_is_not_saved(tmp_path: Path, session: dt.Session) -> None:
    dt.Variable(1.0, name="v")
    with pytest.raises(FailedPreconditionError, match="uninitialized value v"):
        Saver().save(session, tmp_path / "m")
    assert files(tmp_path) == []


# -- files that do not fit -------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path: Path, session: dt.Session) -> str:
    """A checkpoint with `v` float32(2,), of another graph."""
    with dt.Graph().as_default(), dt.Session(comm=None) as other:
        v = dt.Variable([1.0, 2.0], name="v")
        other.run(v.initializer)
        return Saver().save(other, tmp_path / "m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"v": [1.0, 2.0, 3.0]},
            r"the variable v is float32\(3,\), and float32\(2,\) in the checkpoint .*m\.",
        ),
        ({"v": [1, 2]}, r"the variable v is int32\(2,\), and float32\(2,\)"),
        ({"v": [3.0, 4.0], "u": [1.0]}, r"Key u not found in checkpoint .*m: the variable is float32\(1,\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    saved: str, session: dt.Session, values: Any, message: str
) -> None:
    variables = [dt.Variable(value, name=name) for name, value in values.items()]
    session.run(dt.global_variables_initializer())
    with pytest.raises(CheckpointError, match=message):
        Saver().restore(session, saved)
    assert [v.tolist() for v in session.run(variables)] == list(values.values())


def test_damage_is_noticed(saved: str, session: dt.Session) -> None:
    dt.Variable([1.0, 2.0], name="v")
    file = Path(saved + ".safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        Saver().restore(session, saved)
    file.write_bytes(data[:20])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Saver().restore(session, saved)
    for missing in ("nowhere/m", None):
        with pytest.raises(ValueError, match="The passed save_path is not a valid checkpoint"):
            Saver().restore(session, missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../m", "/etc/m", "a/m", "..", ""])
def test_a_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """recover_last_checkpoints may get these names, and what a Saver keeps it also removes."""
    lines = (
        f"model_checkpoint_path: {json.dumps(name)}\n",
        f"all_model_checkpoint_paths: {json.dumps(name)}\n",
    )
    for text in (lines[0], 'model_checkpoint_path: "m"\n' + lines[1]):
        (tmp_path / "checkpoint").write_text(text)
        with pytest.raises(CheckpointError, match=r"not in its folder|not a checkpoint state file"):
            get_checkpoint_state(tmp_path)


def test_one_saver_and_two_folders(tmp_path: Path, session: dt.Session) -> None:
    v = dt.Variable(1, name="v")
    session.run(v.initializer)
    saver = Saver()
    saver.save(session, tmp_path / "a" / "m", 1)
    saver.save(session, tmp_path / "b" / "m", 2)
    state = get_checkpoint_state(tmp_path / "b")
    assert state is not None and state.all_model_checkpoint_paths == [str(tmp_path / "b" / "m-2")]
    assert len(saver.last_checkpoints) == 2


def test_a_state_file_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    for text in ("nonsense\n", 'model_checkpoint_path: "\\q"\n', 'all_model_checkpoint_paths: "m"\n'):
        (tmp_path / "checkpoint").write_text(text)
        with pytest.raises(CheckpointError, match="not a checkpoint state file"):
            latest_checkpoint(tmp_path)


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path, session: dt.Session) -> None:
    v = dt.Variable(1.0)
    session.run(v.initializer)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        Saver().save(session, tmp_path / "file" / "m")


def test_one_rank_writes_and_all_get_the_same(tmp_path: Path, on_threads: Any) -> None:
    v = dt.Variable(dt.random_normal([3]), name="v")
    graph, init, saver = v.graph, dt.global_variables_initializer(), [Saver() for _ in range(3)]

    def body(comm: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(init)
        before = session.run(v).tolist()
        # the ranks do not see the same folder: what is read is what rank 0 wrote
        path = saver[comm.rank].save(session, tmp_path / str(comm.rank) / "m", 2)
        other = dt.Session(graph=graph, comm=comm)
        saver[comm.rank].restore(other, path)
        return before, other.run(v).tolist()

    results = on_threads(3, body)
    assert files(tmp_path) == ["0"]
    assert all(r == (results[0][0], results[0][0]) for r in results)


def test_an_error_of_rank_0_is_everyones(tmp_path: Path, on_threads: Any) -> None:
    v = dt.Variable([1.0], name="v")
    graph, saver = v.graph, Saver()

    def body(comm: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            saver.restore(dt.Session(graph=graph, comm=comm), tmp_path / "none")
        return str(caught.value)

    first, second = on_threads(2, body)
    assert first == second and "rank 0 on n0: The passed save_path" in first


def test_a_folder_is_no_name_to_save_under(tmp_path: Path) -> None:
    variable = dt.Variable([1.0])
    with dt.Session() as session:
        session.run(variable.initializer)
        with pytest.raises(UsageError, match=r"is a folder: give a name in it, .*/model'"):
            dt.train.Saver().save(session, f"{tmp_path}/")
