"""tf.data: what TensorFlow's data sets give (tests/reference/tensorflow_data.py), iterators, ranks."""

from __future__ import annotations

import gc
import gzip
import importlib.util
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import DataError, FailedPreconditionError, GraphError, InvalidArgumentError, UsageError
from dtrain.ops.python import in_python

REFERENCE = Path(__file__).parents[1] / "reference"
X = np.arange(46, dtype=np.float32).reshape(23, 2)


@pytest.fixture(autouse=True)
def graph() -> Iterator[dt.Graph]:
    with dt.Graph().as_default() as graph:
        dt.set_random_seed(11)
        yield graph


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorflow_data", REFERENCE / "tensorflow_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rest(session: Any, following: Any, feeds: Any = None) -> list[Any]:
    """All elements that are left."""
    found = []
    try:
        while True:
            found.append(session.run(following, feeds))
    except dt.errors.OutOfRangeError:
        return found


def all_of(dataset: Any) -> list[Any]:
    """The elements of a pass."""
    following = dataset.make_one_shot_iterator().get_next()
    with dt.Session() as session:
        return rest(session, following)


def test_elements_are_tensorflows(reference: ModuleType) -> None:
    right = json.loads(reference.FILE.read_text())
    found = reference.values(dt, dt.Session)
    assert found.keys() == right.keys()
    for name, values in right.items():
        assert found[name] == values, name


# -- order -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("size", [1, 4, 23, 100])
def test_a_shuffle_draws_of_the_next_elements(size: int, mapped: bool) -> None:
    numbers = dt.data.Dataset.range(200)
    if mapped:  # elements that are computed before they are shuffled
        numbers = numbers.map(lambda i: (i, dt.random_uniform([]))).map(lambda i, _: i)
    first, second = np.split(np.array(all_of(numbers.shuffle(size).repeat(2))), 2)
    for order in (first, second):
        assert sorted(order) == list(range(200))
        assert all(number < place + size for place, number in enumerate(order))
    assert (list(first) == list(second)) == (size == 1)


def test_a_shuffle_may_keep_its_order_and_follows_its_seed() -> None:
    numbers = dt.data.Dataset.range(30)
    first, second = np.split(
        np.array(all_of(numbers.shuffle(30, reshuffle_each_iteration=False).repeat(2))), 2
    )
    assert list(first) == list(second) != list(range(30))
    orders = [all_of(numbers.shuffle(30, seed=seed)) for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2]


def test_functions_draw_anew_for_each_element() -> None:
    drawn = all_of(dt.data.Dataset.range(50).map(lambda i: dt.random_normal([2])).repeat(2))
    assert len({tuple(x) for x in drawn}) == 100
    crops = all_of(
        dt.data.Dataset.from_tensor_slices(np.tile(np.arange(9), (40, 1))).map(
            lambda row: dt.slice(row, [dt.random_uniform([], 0, 7, "int32")], [3])
        )
    )
    assert {x[0] for x in crops} == set(range(7)) and all(len(x) == 3 for x in crops)


# -- iterators ---------------------------------------------------------------------------------------------
def test_an_initializable_iterator_is_fed_where_it_begins() -> None:
    x, size = dt.placeholder("float32", [None, 2]), dt.placeholder("int64", [])
    iterator = dt.data.Dataset.from_tensor_slices(x).batch(size).make_initializable_iterator()
    following = iterator.get_next()
    assert following.shape.as_list() == [None, 2]
    with dt.Session() as session:
        with pytest.raises(FailedPreconditionError, match="has not been initialized"):
            session.run(following)
        for n, count in ((23, 10), (6, 4)):
            session.run(iterator.initializer, {x: X[:n], size: count})
            np.testing.assert_array_equal(np.concatenate(rest(session, following)), X[:n])
        with pytest.raises(dt.errors.OutOfRangeError, match="End of sequence"):
            session.run(following)
        with pytest.raises(InvalidArgumentError, match="feed a value for placeholder"):
            session.run(iterator.initializer, {size: 3})


def test_one_iterator_over_several_data_sets() -> None:
    train, test = dt.data.Dataset.range(5), dt.data.Dataset.range(10, 13)
    iterator = dt.data.Iterator.from_structure(train.output_types, train.output_shapes)
    following, begin = iterator.get_next(), [iterator.make_initializer(d) for d in (train, test)]
    with dt.Session() as session:
        for which in (0, 1, 1, 0):
            session.run(begin[which])
            assert rest(session, following) == ([0, 1, 2, 3, 4], [10, 11, 12])[which]
    with pytest.raises(UsageError, match="are not the iterator's"):
        iterator.make_initializer(dt.data.Dataset.from_tensors(1.5))
    with pytest.raises(UsageError, match="has no initializer"):
        iterator.initializer  # noqa: B018


def test_a_handle_says_which_iterator_is_meant() -> None:
    handle = dt.placeholder(dt.string, [])
    train, test = dt.data.Dataset.range(5).repeat(), dt.data.Dataset.range(10, 13)
    following = dt.data.Iterator.from_string_handle(
        handle, train.output_types, train.output_shapes
    ).get_next()
    one, other = train.make_one_shot_iterator(), test.make_initializable_iterator()
    with dt.Session() as session:
        first, second = session.run([one.string_handle(), other.string_handle()])
        session.run(other.initializer)
        handles = [first, first, second, first, second]
        assert [session.run(following + 1, {handle: h}) for h in handles] == [1, 2, 11, 3, 12]
        with pytest.raises(InvalidArgumentError, match="is no iterator's handle"):
            session.run(following, {handle: b"x"})


def test_a_run_takes_one_element_and_only_where_it_needs_it() -> None:
    numbers = dt.data.Dataset.from_tensor_slices((np.arange(9), np.arange(9) * 2))
    a, b = numbers.make_one_shot_iterator().get_next()
    other = dt.constant(3)
    v = dt.Variable(0)
    with dt.Session() as session:
        session.run(v.initializer)
        assert session.run([a + b, b, a]) == [0, 0, 0]
        session.run([other, v])
        assert session.run(a) == 1
        assert session.run([a, b], {a: 100, b: 7}) == [100, 7]
        assert session.run([a, b], {a: 100}) == [100, 4]
    with dt.Session() as again:  # each session has its own place
        assert again.run(a) == 0


def test_sessions_with_other_fetches_share_an_iterators_place() -> None:
    a = dt.data.Dataset.range(9).make_one_shot_iterator().get_next()
    b, c = a * 2, a * 3
    with dt.Session() as session:
        assert [session.run(t) for t in (a, b, c, [b, c])] == [0, 2, 6, [6, 9]]


# -- files -------------------------------------------------------------------------------------------------
def test_lines_records_and_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\nthree")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"four\n"))
    (tmp_path / "c.bin").write_bytes(b"HH" + bytes(range(6)) + b"F")
    names = [str(tmp_path / name) for name in ("a.txt", "b.gz", "c.bin")]
    lines = dt.data.TextLineDataset(names[:1])
    assert all_of(lines) == [b"one", b"two", b"", b"three"]
    assert all_of(dt.data.TextLineDataset(names[1], "GZIP")) == [b"four"]
    assert all_of(dt.data.FixedLengthRecordDataset(names[2:], 3, 2, 1)) == [b"\0\1\2", b"\3\4\5"]
    assert all_of(dt.data.Dataset.list_files(str(tmp_path / "*"), shuffle=False)) == [
        n.encode() for n in names
    ]
    found = all_of(dt.data.Dataset.list_files(str(tmp_path / "*.txt")).flat_map(dt.data.TextLineDataset))
    assert found == [b"one", b"two", b"", b"three"]
    with pytest.raises(DataError, match="missing"):
        all_of(dt.data.TextLineDataset(str(tmp_path / "missing")))


def test_records_and_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    train, path = dt.train, str(tmp_path / "records")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12)).astype(np.uint8)
    pixels[:, -3:] = 0
    with dt.python_io.TFRecordWriter(path) as writer:
        for i, row in enumerate(pixels):
            feature = {
                "image": train.Feature(bytes_list=train.BytesList(value=[row.tobytes()])),
                "label": train.Feature(int64_list=train.Int64List(value=[i - 3])),
                "scale": train.Feature(float_list=train.FloatList(value=[0.5, i])),
            }
            writer.write(train.Example(features=train.Features(feature=feature)).SerializeToString())
    records = list(dt.python_io.tf_record_iterator(path))
    assert len(records) == 7
    example = train.Example.FromString(records[2])
    assert example.features.feature["label"].int64_list.value == [-1]
    assert example.features.feature["scale"].float_list.value == [0.5, 2.0]
    # as TensorFlow 2.15 writes a list that holds -2 and 300
    feature = {"a": train.Feature(int64_list=train.Int64List(value=[-2, 300]))}
    data = train.Example(features=train.Features(feature=feature)).SerializeToString()
    assert data.hex() == "0a170a150a016112101a0e0a0cfeffffffffffffffff01ac02"
    assert train.Example.FromString(data).features.feature["a"].int64_list.value == [-2, 300]

    def parse(record: Any) -> Any:
        wanted = {
            "image": dt.FixedLenFeature([], dt.string),
            "label": dt.FixedLenFeature([], dt.int64),
            "scale": dt.FixedLenFeature([2], dt.float32),
            "none": dt.FixedLenFeature([], dt.float32, default_value=9.0),
        }
        parts = dt.parse_single_example(record, features=wanted)
        return dt.decode_raw(parts["image"], dt.uint8), parts["label"], parts["scale"], parts["none"]

    raw = dt.data.TFRecordDataset(path).make_one_shot_iterator().get_next()
    at_once = parse(raw)  # before the plan, of what the run takes
    with dt.Session() as session:
        np.testing.assert_array_equal(session.run(at_once[0]), pixels[0])
    image, label, scale, none = zip(*all_of(dt.data.TFRecordDataset(path).map(parse)), strict=True)
    np.testing.assert_array_equal(image, pixels)
    assert list(label) == list(range(-3, 4)) and list(none) == [9.0] * 7
    np.testing.assert_array_equal(scale, [[0.5, i] for i in range(7)])
    damaged = Path(path).read_bytes()[:-5]
    Path(path).write_bytes(damaged)
    with pytest.raises(DataError, match="cut off"):
        list(dt.python_io.tf_record_iterator(path))
    with pytest.raises(DataError, match="no TFRecord file"):
        list(dt.python_io.tf_record_iterator(__file__))


# -- queues ------------------------------------------------------------------------------------------------
def test_queues_are_data_sets(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("".join(f"{name},{i}\n" for i in range(5)))
    files = dt.train.string_input_producer([str(tmp_path / n) for n in "ab"], num_epochs=2, shuffle=False)
    _key, line = dt.TextLineReader().read(files)
    letter, number = dt.decode_csv(line, [["-"], [0]])
    letters, numbers = dt.train.batch([letter, number * 2], 4, allow_smaller_final_batch=True)
    x, y = dt.train.slice_input_producer([X, np.arange(23)], num_epochs=1, shuffle=True)
    some, which = dt.train.shuffle_batch([x + 1, y], 5, capacity=100, min_after_dequeue=10)
    with dt.Session() as session:
        session.run(dt.local_variables_initializer())
        coord = dt.train.Coordinator()
        threads = dt.train.start_queue_runners(sess=session, coord=coord)
        texts, values = zip(*rest(session, [letters, numbers]), strict=True)
        assert [len(v) for v in values] == [4] * 5
        assert list(np.concatenate(values)) == [0, 2, 4, 6, 8] * 4
        assert b"".join(np.concatenate(texts)) == b"aaaaabbbbb" * 2
        batches = rest(session, [some, which])
        assert len(batches) == 4, "an incomplete batch is dropped"
        for rows, at in batches:
            np.testing.assert_array_equal(rows, X[at] + 1)
        assert len(np.unique(np.concatenate([at for _, at in batches]))) == 20
        coord.request_stop(dt.errors.OutOfRangeError("the end"))
        coord.join(threads)
        assert coord.should_stop()
        coord.clear_stop()
        coord.request_stop(ValueError("of a thread"))
        with pytest.raises(ValueError, match="of a thread"):
            coord.join(threads)
        with pytest.raises(UsageError, match="string_input_producer returned"):
            dt.TextLineReader().read("x")


# -- refusals ----------------------------------------------------------------------------------------------
def test_what_does_not_fit_is_said() -> None:
    D = dt.data.Dataset
    with pytest.raises(UsageError, match="have 3, 4 entries"):
        D.from_tensor_slices((np.zeros(3), np.zeros(4)))
    with pytest.raises(UsageError, match="has no axis 0"):
        D.from_tensor_slices(3)
    with pytest.raises(UsageError, match="take flat_map"):
        D.range(3).map(lambda i: D.range(3))
    with pytest.raises(UsageError, match="take map"):
        D.range(3).flat_map(lambda i: i)
    with pytest.raises(UsageError, match="has to return one bool"):
        D.range(3).filter(lambda i: i)
    with pytest.raises(UsageError, match="has to be fed when a pass begins"):
        D.from_tensor_slices(dt.placeholder("float32", [3])).make_one_shot_iterator()
    with pytest.raises(UsageError, match="other dtypes"):
        D.range(3).concatenate(D.from_tensors(1.0))
    with pytest.raises(InvalidArgumentError, match=r"different shapes, such as \[1\] and \[2\]"):
        all_of(D.from_generator(lambda: (np.ones(n + 1) for n in range(3)), "float32").batch(3))
    with pytest.raises(InvalidArgumentError, match="an element has 1 parts"):
        all_of(D.from_generator(lambda: iter([1]), ("int32", "int32")))
    with pytest.raises(InvalidArgumentError, match="batch_size is 0"):
        all_of(D.range(3).batch(0))
    v = dt.Variable(1)
    with pytest.raises(GraphError, match="is a variable"):
        D.range(3).map(lambda i: dt.Variable(2) + dt.cast(i, dt.int32))
    begun = D.range(3).map(lambda i: dt.cast(i, dt.int32) + v).make_initializable_iterator()
    following = begun.get_next()
    with dt.Session() as session:
        session.run(dt.global_variables_initializer())
        session.run(begun.initializer)
        assert rest(session, following) == [1, 2, 3], "a variable outside is read where a pass begins"


# -- on several ranks --------------------------------------------------------------------------------------
def trained(comm: Communicator | None) -> list[Any]:
    """Losses and weights of epochs over shuffled batches, the last of them short; and a test's metric."""
    with dt.Graph().as_default():
        dt.set_random_seed(3)
        labels = (X @ [1.0, -2.0]).astype(np.float32)
        x, y = dt.placeholder("float32", [None, 2]), dt.placeholder("float32", [None])
        data = dt.data.Dataset.from_tensor_slices((x, y)).map(
            lambda a, b: (a / 46 + dt.random_normal([2]), b)
        )
        iterator = data.shuffle(10).batch(7).make_initializable_iterator()
        rows, truth = iterator.get_next()
        w = dt.Variable(dt.random_normal([2, 1]))
        loss = dt.reduce_mean(dt.square(dt.matmul(rows, w)[:, 0] - truth))
        step = dt.train.AdamOptimizer(0.1).minimize(loss)
        mean, update = dt.metrics.mean(loss)
        with dt.Session(comm=comm) as session:
            session.run([dt.global_variables_initializer(), dt.local_variables_initializer()])
            losses = []
            for _ in range(3):
                session.run(iterator.initializer, {x: X, y: labels})
                losses += [value for value, _ in rest(session, [loss, step])]
            session.run(iterator.initializer, {x: X, y: labels})
            rest(session, update)
            return [losses, *session.run([w, mean])]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_as_one_does(ranks: int, on_threads: Callable[..., list[Any]]) -> None:
    alone = trained(None)
    assert len(alone[0]) == 12
    for found in on_threads(ranks, trained):
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_each_rank_computes_its_rows(on_threads: Callable[..., list[Any]]) -> None:
    """A batch is split: a plan of 3 ranks is fed 2, 2 and 3 rows of 7."""

    def body(comm: Communicator) -> list[tuple[int, ...]]:
        with dt.Graph().as_default():
            rows = dt.data.Dataset.from_tensor_slices(X).batch(7).make_one_shot_iterator().get_next()
            total = dt.reduce_sum(rows)
            with dt.Session(comm=comm) as session:
                session.run(total)
                (plan,) = session.plans.values()
                return [a.shape for a in plan._arrays.values() if a.ndim == 2]

    assert [shapes[0][0] for shapes in on_threads(3, body)] == [2, 2, 3]


def test_a_generator_that_ends_earlier_on_one_rank_ends_all(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Communicator) -> int:
        with dt.Graph().as_default():
            numbers = dt.data.Dataset.from_generator(lambda: iter(range(5 - comm.rank)), "float32", [])
            following = numbers.make_one_shot_iterator().get_next()
            with dt.Session(comm=comm) as session:
                return len(rest(session, following * 2))

    assert on_threads(3, body) == [3, 3, 3]


def test_queues_that_a_program_fills(on_threads: Callable[..., list[Any]]) -> None:
    queue = dt.FIFOQueue(4, ["int32"])
    begin, number = queue.enqueue_many(([0, 10],)), queue.dequeue()
    more, size = queue.enqueue([number + 1]), queue.size()
    with dt.Session() as session:
        with pytest.raises(InvalidArgumentError, match="there is no QueueRunner to fill it"):
            session.run(number)
        session.run(begin)
        assert [session.run([number, more])[0] for _ in range(5)] == [0, 10, 1, 11, 2]
        session.run(begin)
        with pytest.raises(InvalidArgumentError, match="no room for 2 more: it has 4 elements of 4"):
            session.run(begin)
        assert session.run(size) == 4
        session.run(queue.close())
        assert rest(session, number) == [12, 3, 0, 10]

    def filled(comm: Communicator) -> list[Any]:
        with dt.Graph().as_default():
            dt.set_random_seed(2)
            rows = dt.data.Dataset.from_tensor_slices(X).make_one_shot_iterator().get_next()
            queue = dt.RandomShuffleQueue(20, 10, "float32", shapes=[2])
            runner = dt.train.QueueRunner(queue, [queue.enqueue(rows * 2)] * 4)
            dt.train.add_queue_runner(runner)
            some = queue.dequeue_many(5)
            assert some.shape.as_list() == [5, 2]
            with dt.Session(comm=comm) as session:
                assert runner.create_threads(session, dt.train.Coordinator(), start=True) == []
                return rest(session, some)

    first, second = on_threads(2, filled)
    np.testing.assert_array_equal(first, second)
    found = np.concatenate(first)
    assert len(found) == 20 and {tuple(r) for r in found} < {tuple(r) for r in X * 2}
    assert any(tuple(a) != tuple(b) for a, b in zip(found, X * 2, strict=False))


def test_a_monitored_session_begins_what_is_collected() -> None:
    iterator = dt.data.Dataset.range(5).make_initializable_iterator()
    following = iterator.get_next() * 2
    dt.add_to_collection(dt.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
    found = []
    with dt.train.MonitoredSession() as session:  # which the end of the data ends
        while not session.should_stop():
            found.append(session.run(following))
    assert found == [0, 2, 4, 6, 8]
    with dt.Session() as session:
        session.run(dt.tables_initializer())
        assert rest(session, following) == found


def test_python_computes_of_what_is_fed() -> None:
    text = dt.placeholder(dt.string, [None])
    number = dt.string_to_number(text) * 2.0
    named = dt.identity(dt.constant([1.0, 2.0]))
    with dt.Session() as session:
        assert session.run(number, {text: ["1.5", "2"]}).tolist() == [3, 4]
        with pytest.raises(InvalidArgumentError, match="'x' is not a valid float32"):
            session.run(number, {text: ["x"]})
        with pytest.raises(InvalidArgumentError, match="must feed a value"):
            session.run(number)
    v = dt.Variable(np.zeros(2, np.float32))
    (odd,) = in_python(lambda x: x + 1, [v + named], [dt.float32], [[2]], "odd")
    with dt.Session() as session:
        session.run(v.initializer)
        with pytest.raises(InvalidArgumentError, match=r"odd.*it runs in Python before the plan"):
            session.run(odd)


def test_a_session_that_is_over_is_freed() -> None:
    following = dt.data.Dataset.range(50).shuffle(9).make_one_shot_iterator().get_next()
    session = dt.Session()
    session.run(following)
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_a_map_may_call_python() -> None:
    data = dt.data.Dataset.from_tensor_slices(np.arange(6, dtype=np.float32))
    mapped = data.map(lambda x: dt.py_func(lambda v: v * 2 + 1, [x], dt.float32)).batch(4)
    batch = mapped.make_one_shot_iterator().get_next()
    with dt.Session(comm=None) as session:
        assert [session.run(batch).tolist() for _ in range(2)] == [[1, 3, 5, 7], [9, 11]]
