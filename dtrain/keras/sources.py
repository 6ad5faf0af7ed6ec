"""What fit, evaluate and predict are given: arrays, or batches one at a time.

Either says which batches an epoch has, as windows of steps or as parts of a test; a run does not know which.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.data.order import Stretch, as_they_lie
from dtrain.errors import CheckpointError, OutOfRangeError, UsageError
from dtrain.graph.graph import TensorLike, get_default_graph
from dtrain.keras import data
from dtrain.keras.calls import flat
from dtrain.keras.home import home_of
from dtrain.keras.training import TEST_BATCH, Part, Steps
from dtrain.runtime.feeds import Window
from dtrain.train.batches import Order, windows
from dtrain.train.state import Progress

if TYPE_CHECKING:
    from dtrain.keras.model import Model

#: What Keras warns of.
SHORT = (
    "Your input ran out of data; interrupting training. Make sure that your dataset or generator can "
    "generate at least `steps_per_epoch * epochs` batches."
)
_END: Any = object()
_NOTHING = np.empty(0)


def gives_batches(x: Any, y: Any = None) -> bool:
    """Whether x gives batches, and is no array or anything like one."""
    if isinstance(x, collections.abc.Sequence):
        return y is None and len(x) > 0 and isinstance(x[0], tuple) and isinstance(x[0][0], np.ndarray)
    if _is_of_graph(x):
        return True
    if hasattr(x, "__array__") or isinstance(x, TensorLike | Mapping | collections.abc.Set):
        return False
    return hasattr(x, "__iter__") or (hasattr(x, "__getitem__") and hasattr(x, "__len__"))


def _is_of_graph(x: Any) -> bool:
    """Whether x is a data set of tf.data, an iterator over one, or tensors that were wrapped for it."""
    return isinstance(x, Computed) or hasattr(x, "make_one_shot_iterator") or hasattr(x, "get_next")


class Computed:
    """Batches that the models' session computes: elements of a data set or an iterator, or values of tensors.

    Each pass over a data set begins anew; an iterator continues where it is, and tensors have no end.
    """

    def __init__(self, given: Any) -> None:
        self._given = given

    def __iter__(self) -> Iterator[Any]:
        given, graph = self._given, get_default_graph()
        if hasattr(given, "make_one_shot_iterator"):
            given = given.make_one_shot_iterator()
        element = given.get_next() if hasattr(given, "get_next") else given
        session = home_of(flat(element)[0].graph if flat(element) else graph).ready()
        while True:
            try:
                yield session.run(element)
            except OutOfRangeError:
                return


class Arrays:
    """Rows of arrays: an epoch is a pass over them or, of so many steps, a part of one that may be shorter.

    Args:
        rows: the numbers of those that are meant. begin: the first epoch, in which a pass begins.
        order: of the rows, in a pass that begins with an epoch; by default as they lie there.
    """

    once = False

    def __init__(
        self,
        model: Model,
        examples: data.Examples,
        rows: range,
        batch_size: int,
        steps: int | None = None,
        begin: int = 1,
        order: Callable[[int, Any], Order] | None = None,
    ) -> None:
        self._model, self._examples, self._rows, self.batch_size = model, examples, rows, batch_size
        self._begin, self._order, self._short = begin, order, False
        self._most = len(rows) if steps is None else steps * batch_size
        #: Examples of an epoch, and its batches.
        self.count: int | None = min(self._most, len(rows))
        self.steps: int | None = steps or -(-len(rows) // batch_size)

    def first(self, epoch: int) -> data.Examples:
        """What the model learns from what it is given."""
        return self._examples

    def held_back(self, batch_size: int, steps: int | None) -> Arrays | None:
        """Those that are not trained on, to test on."""
        rows = range(self._examples.split, self._examples.count)
        return Arrays(self._model, self._examples, rows, batch_size, steps) if rows else None

    def shows(self, callbacks: Iterable[Any]) -> None:
        """Let callbacks see the arrays as validation_data, as in Keras 2: [*x, *y, *weights]."""
        arrays, rows = self._examples.arrays, slice(self._rows.start, self._rows.stop)
        shown: dict[str, list[np.ndarray]] = {"x": [], "y": [], "sample_weight": []}
        for name, array in arrays.items():
            kind = next(k for k in shown if name == k or name.startswith(f"{k}_"))
            part = array[rows]
            if kind == "y":  # a class number is a column there
                part = part[..., None] if part.dtype.kind in "iu" else part
                weights = arrays.get(name.replace("y", "sample_weight"))
                ones = np.ones(len(part), np.float32)
                shown["sample_weight"].append(ones if weights is None else weights[rows])
            if kind != "sample_weight":
                shown[kind].append(part)
        for callback in callbacks:
            callback.validation_data = [array for part in shown.values() for array in part]

    def skip(self, begin: int, epoch: int, done: int) -> None:
        """Nothing: which rows an epoch has follows from its number."""

    def windows(self, takers: Steps, at: Progress, pace: Callable[[], int]) -> Generator[Window]:
        """The steps of the epoch in work that are left."""
        part = (at.epoch - self._begin) % -(-len(self._rows) // self._most)
        order = self._part(at.epoch - part, part)
        return windows(order, self.batch_size, self._model.comm, pace, at.examples)

    def parts(self, mode: str, number: int = 0) -> Iterator[Part]:
        """What a test goes over."""
        yield self._model.network(mode, self._examples), self._examples, self._part(0, 0)

    def _part(self, epoch: int, number: int) -> Order:
        part = self._examples.part(self._rows)
        order = self._order(epoch, part) if self._order else as_they_lie(part)
        order = Stretch(order, number * self._most, (number + 1) * self._most)
        if len(order) <= self._most - self.batch_size and not self._short:
            self._short = True
            self._model.rank_zero.warns(SHORT)
        return order


class Batches:
    """What is given instead of arrays: the same on every rank, which computes its rows of every batch.

    A generator is drawn from on and on. Another iterable is iterated anew for each pass. Of an object with
    __len__ and __getitem__, as a keras.utils.Sequence has them, batches are taken by number; its on_epoch_end
    is called after each epoch. A pass longer than an epoch continues in the next, but where `tests`.

    Args:
        what: the method and argument they are for, for messages.
        labelled: whether a batch is (x, y) or (x, y, sample_weight); if not, x, or a tuple with it first.
        steps: batches of an epoch; None for a pass. tests: whether each begins a pass, as a test does.
        order: of batches that are taken by number, in a pass that begins with an epoch.
    """

    count: int | None = None
    #: Examples of a step of a test.
    batch_size = TEST_BATCH

    def __init__(
        self,
        model: Model,
        what: str,
        source: Any,
        labelled: bool = True,
        class_weight: Mapping[int, float] | None = None,
        steps: int | None = None,
        order: Callable[[int, range], np.ndarray] | None = None,
        tests: bool = False,
    ) -> None:
        if _is_of_graph(source):
            source = source if isinstance(source, Computed) else Computed(source)
            if not hasattr(source._given, "make_one_shot_iterator"):
                source = iter(source)
        self._begins = steps is None or tests
        self._model, self._what, self._source, self._labelled = model, what, source, labelled
        self._class_weight, self._steps, self._order = class_weight, steps, order
        self.once = hasattr(source, "__next__")
        self._numbered = not self.once and not isinstance(source, collections.abc.Sequence)
        self._numbered &= hasattr(source, "__getitem__") and hasattr(source, "__len__")
        self._pass: Iterator[Any] = source if self.once else iter(())
        self._drawn, self._at = _END, (-1, -1)  # what was drawn last, and for which step of which epoch
        self._ended, self._warned = -1, False

    @property
    def steps(self) -> int | None:
        """Batches of an epoch, where that is known before."""
        return self._steps or (len(self._source) if hasattr(self._source, "__len__") else None)

    def first(self, epoch: int) -> data.Examples:
        """The batch from which the model learns what it is given, the first of that epoch. Collective.

        Raises, on every rank:
            UsageError: there is none, or it does not fit.
        """

        def draw() -> Any:
            # which number an epoch begins with is not known yet where a run is resumed
            some = not self._numbered or len(self._source)
            batch = _END if not some else self._source[0] if self._numbered else self._draw(epoch, 0)
            if batch is _END:
                raise UsageError(f"{self._what}: the {type(self._source).__name__} gives no batch.")
            return batch

        found = self._examples(draw)
        assert found is not None
        if self._labelled:
            data.agrees_on_rate(self._model, self._what)
        return found

    def windows(self, takers: Steps, at: Progress, pace: Callable[[], int]) -> Generator[Window]:
        """The steps of the epoch in work that are left, one in each window."""
        for examples in self.epoch(at.epoch, at.iteration):
            takers.takes(examples)
            order = np.arange(examples.count, dtype=np.int32)
            yield from windows(order, examples.count, self._model.comm, lambda: 1)

    def parts(self, mode: str, number: int = 0) -> Iterator[Part]:
        """What the test of this number, from 0, goes over."""
        for examples in self.epoch(number):
            order = np.arange(examples.count, dtype=np.int32)
            yield self._model.network(mode, examples), examples, order

    def epoch(self, epoch: int, done: int = 0) -> Iterator[data.Examples]:
        """The batches of an epoch after those that it has had. Collective.

        Raises, on every rank:
            UsageError: a batch does not fit the model, or differs among ranks.
        """

        def draw() -> Any:
            found = self._draw(epoch, number)
            return self._source[found] if self._numbered and found is not _END else found

        for number in count(done) if self._steps is None else range(done, self._steps):
            found = self._examples(draw)
            if found is None:
                if number == 0 or self._steps is not None:
                    self._warn()
                break
            yield found
        self._end(epoch)

    def held_back(self, batch_size: int, steps: int | None) -> Arrays | None:
        """None."""
        return None

    def skip(self, begin: int, epoch: int, done: int) -> None:
        """Come to a step of an epoch as a fit does that began with epoch `begin`. Collective.

        What cannot be taken by number is drawn and dropped.

        Raises, on every rank:
            CheckpointError: there are not so many.
        """
        with self._model.comm.together():
            for at in range(begin, epoch + 1):
                last = done if at == epoch else self._steps
                for number in count() if last is None else range(last):
                    if self._draw(at, number) is _END:
                        break
                if at < epoch:
                    self._end(at)
            if done and self._drawn is _END:
                raise CheckpointError(
                    f"{self._what}: the {type(self._source).__name__} ends before batch {done} of epoch "
                    f"{epoch}, to which the run has come: give what it was trained on."
                )

    def _draw(self, epoch: int, number: int) -> Any:
        """What a step has; drawn once, also where fit has looked at it before, or ranks have died over it."""
        if self._at == (epoch, number):
            return self._drawn
        self._at = epoch, number
        begins = number == 0 and not self.once
        if number == 0:
            self._call("on_epoch_begin")
        self._drawn = _END if begins and self._begins else next(self._pass, _END)
        if self._drawn is _END and begins:
            self._pass = self._begin(epoch)
            self._drawn = next(self._pass, _END)
        return self._drawn

    def _begin(self, epoch: int) -> Iterator[Any]:
        """A pass that begins in an epoch."""
        if not self._numbered:
            return iter(self._source)
        numbers = range(len(self._source))
        return iter(self._order(epoch, numbers).tolist() if self._order else numbers)

    def _end(self, epoch: int) -> None:
        if self._ended != epoch:
            self._ended = epoch
            self._call("on_epoch_end")

    def _call(self, name: str) -> None:
        method = getattr(self._source, name, None)
        if callable(method):
            method()

    def _examples(self, draw: Callable[[], Any]) -> data.Examples | None:
        """The batch that is drawn, checked, and the same on all ranks; None where there is no more."""
        model, arrays = self._model, dict[str, np.ndarray]()
        with model.comm.together():
            if (batch := draw()) is not _END:
                x, *labels = self._parts(batch)
                y, weights = (*labels, None, None)[:2]
                how = (self._class_weight, self._labelled)
                arrays, _ = data.checked(model, self._what, x, y, weights, *how)
        given = {name: arrays.get(name, _NOTHING) for name in data.all_keys(model)}
        model.rank_zero.agrees(self._what, {"the number of batches": np.array([len(arrays) > 0]), **given})
        return data.lent(model, arrays, len(next(iter(arrays.values())))) if arrays else None

    def _parts(self, batch: Any) -> tuple[Any, ...]:
        if not self._labelled:
            return (batch[0] if isinstance(batch, tuple) and batch else batch,)
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise UsageError(
                f"{self._what}: a batch is a {type(batch).__name__}: let each be a tuple (x, y) or (x, y, "
                "sample_weight)."
            )
        return tuple(batch)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            self._model.rank_zero.warns(SHORT)


Source = Arrays | Batches


def source_of(
    model: Model,
    what: str,
    given: Sequence[Any],
    batch_size: int,
    steps: int | None = None,
    labelled: bool = True,
    tests: bool = False,
    class_weight: Mapping[int, float] | None = None,
    validation_split: float = 0.0,
    begin: int = 1,
    order: Callable[[int, Any], Any] | None = None,
) -> Source:
    """What a method was given, as Arrays or Batches, which say more. Collective.

    given: x, y and sample_weight, the last of which may be left out.

    Raises, on every rank:
        UsageError: an array does not fit; batches come with what is for arrays; or the ranks differ in it.
    """
    x, y, sample_weight = (*given, None, None)[:3]
    if x is None or isinstance(x, TensorLike):
        x, y = model.given_tensors(what, x, y, labelled), None
    with model.comm.together():
        batched, once = gives_batches(x, y), hasattr(x, "__next__")
        if batched and (y is not None or sample_weight is not None or validation_split):
            raise UsageError(
                f"{what}: x gives batches: let each be (x, y) or (x, y, sample_weight), and leave out y, "
                "sample_weight and validation_split."
            )
        if tests and once and model.comm.elastic:
            raise UsageError(
                f"{what} is a generator, which cannot go back to its first batch when ranks have died: give "
                "arrays or a Sequence."
            )
    model.rank_zero.agrees(
        what, {"x": np.array([batched, once]), "the number of steps": np.array([steps or 0])}
    )
    if batched:
        return Batches(model, what, x, labelled, class_weight, steps, order, tests)
    split: dict[str, Any] = {"labelled": labelled, "validation_split": validation_split}
    examples = data.examples(model, what, x, y, sample_weight, class_weight, **split)
    return Arrays(model, examples, range(examples.split), batch_size, steps, begin, order)
