"""A plan's steps on a device: feeds go up at once, each step is one graph, results come back by themselves.

The control block says what there is to do; kernels at the start and the end of each step find their feeds
there and leave their results in pinned memory of the host, and how far they are (see kernels.cu). So the
steps of a window differ in nothing that the host has to say. Feeds are not read from the host's memory: what
many blocks read would cross the bus for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from dtrain.cuda.code import LENT, STATE, TABLES, TRANSFER, Code
from dtrain.cuda.launch import Group, Launch, Product, fit, in_place

ALIGNMENT = 64
#: Steps in a graph, where so many follow one another: between two graphs a GPU waits.
MANY = 16
#: Words of the state that the host reads.
TOLD = 4
#: The state's status where a step was not taken, since one before it was to be the last (see kernels.cuh).
STOPPED = 4

Call = Callable[[], Any]


class Done(NamedTuple):
    """What several steps gave: why they stopped (see kernels.cuh), at which kernel, steps done, results."""

    status: int
    kernel: int
    steps: int
    results: list[np.ndarray]


class Program:
    """kernels: those of the plan: Launches, Products, other calls. captured: of each, whether a graph may
    hold it.

    feeds, fetches: the arrays that they read and write, C-contiguous. wait: returns when all is done.
    agree: whether what is said is true on all ranks that the kernels sum with; collective then.
    launches: how many there are in a step, products included, where each is launched by itself.
    """

    def __init__(
        self,
        backend: Any,
        code: Code,
        kernels: Sequence[Launch | Product | Call],
        captured: Sequence[bool],
        feeds: Sequence[Any],
        fetches: Sequence[Any],
        wait: Call,
        agree: Callable[[bool], bool],
    ) -> None:
        self._backend, self._code, self._wait, self._agree = backend, code, wait, agree
        self._feeds, self._fetches = list(feeds), list(fetches)
        first = [code.begin(), *code.transfer("feed", 0, self._feeds)]
        last = [*code.transfer("fetch", len(feeds), self._fetches), code.count()]
        whole: list[tuple[Any, bool]] = [*((k, True) for k in first), *zip(kernels, captured, strict=True)]
        whole += [(k, True) for k in last]
        groups, flags = together(whole, code.control)
        self.launches = sum(not getattr(group.kernels[0], "waits", False) for group in groups)
        calls = zip(launched(code, groups), flags, strict=True)
        self.segments = [
            Segment([k for k, _ in group], yes) for yes, group in groupby(calls, key=lambda pair: pair[1])
        ]
        #: What a step calls: none before the first, which launches each kernel, so that all is loaded.
        self._calls: Sequence[Call] | None = None
        #: The same for MANY steps, once so many were asked for; [] where they cannot be one graph.
        self._many: Sequence[Call] | None = None
        self._parts = (first, list(kernels), last)
        self._control, self._told = (
            backend.pinned(code.control.nbytes),
            backend.pinned(8 * TOLD).view(np.int64),
        )
        self._control.fill(0)
        #: Steps that the device has counted since the control block went up; -1: it has to go up again.
        self._counted = -1
        self._pinned, self._device = backend.pinned(0), backend.block(0)

    def run(
        self,
        steps: int,
        rows: Sequence[np.ndarray],
        until: Any = None,
        kernels: Sequence[Call] | None = None,
    ) -> Done:
        """Take the steps; rows: of each feed an array for each step, or one for all.

        until: where given, a float32 scalar on the device; a step in which it is not 0 is the last.
        kernels: what runs in place of the plan's, for one step.
        """
        results = self._stage(steps, rows, until)
        if kernels is None:
            self._take(steps)
        else:
            before, _, after = self.alone
            for call in (*before, *kernels, *after):
                call()
        return self._collect(steps, results)

    def _take(self, steps: int) -> None:
        if self._calls is None:
            for segment in self.segments:
                segment()
            self._calls, steps = [], steps - 1
            if steps:
                self._wait()  # NCCL was asked for sums in graphs to come after those outside
        if steps and not self._calls:
            self._calls = self._graphs(self.segments) or self.segments
        if steps >= MANY and self._many is None:
            whole = len(self.segments) == 1 and self._calls is not self.segments
            self._many = self._graphs([Segment([*self.segments[0].kernels] * MANY, True)]) if whole else []
        if self._many:
            for _ in range(steps // MANY):
                self._many[0]()
            steps %= MANY
        for _ in range(steps):
            for call in self._calls:
                call()

    def _graphs(self, segments: Sequence[Segment]) -> list[Call]:
        """Segments as calls: launches of graphs where they may be; [] where one cannot be made on a rank."""
        made: list[Call] = []
        done = True
        for segment in segments:
            if not segment.captured or len(segment.kernels) < 2:
                made.append(segment)
                continue
            graph = self._backend.capture(segment)
            done = done and graph is not None
            made.append(partial(graph.launch, self._backend.stream) if done else segment)
        return made if self._agree(done) else []

    def feed(self, rows: Sequence[np.ndarray]) -> None:
        """Put one step's feeds in place, for kernels that are called one by one."""
        self._stage(1, rows, None)
        self._counted = -1
        for call in self.alone[0]:
            call()

    @cached_property
    def alone(self) -> tuple[list[Call], list[Call], list[Call]]:
        """Each kernel as a call: those before the plan's, the plan's, and those after. Few runs need it."""
        calls = launched(
            self._code, [Group([getattr(k, "alone", k)], []) for part in self._parts for k in part]
        )
        before, own, after = (list(islice(calls, len(part))) for part in self._parts)
        return before, own, after

    def _stage(self, steps: int, rows: Sequence[np.ndarray], until: Any) -> list[int]:
        """Send what the steps need; returns where in pinned memory each result will be."""
        self._backend.use()
        strides, arrays = [], []
        for buffer, given in zip(self._feeds, rows, strict=True):
            strides.append(0 if len(given) == 1 else buffer.nbytes)
            arrays.append(np.ascontiguousarray(given, buffer.dtype))
        places, at = [], 0
        for nbytes in (a.nbytes for a in arrays):
            places.append(at)
            at += -(-nbytes // ALIGNMENT) * ALIGNMENT
        begin = at
        results = []
        for fetch in self._fetches:
            results.append(at)
            at += -(-steps * fetch.nbytes // ALIGNMENT) * ALIGNMENT
        if at > self._pinned.nbytes:  # as CuPy rounds what is pinned
            self._pinned = self._backend.pinned(1 << (at - 1).bit_length())
        if begin > self._device.nbytes:
            self._device = self._backend.block(1 << (begin - 1).bit_length())
        for array, place in zip(arrays, places, strict=True):
            self._pinned[place : place + array.nbytes] = array.reshape(-1).view(np.uint8)
        control = np.zeros(self._control.nbytes // 8, np.int64)
        control[STATE - 2 : STATE] = 0 if until is None else until.data.ptr, self._told.ctypes.data
        for k, lent in enumerate(self._code.lent):
            control[STATE + LENT * k : STATE + LENT * (k + 1)] = lent
        table = control[STATE + LENT * TABLES :].reshape(-1, TRANSFER)
        for k, buffer in enumerate(self._feeds):
            table[k] = buffer.data.ptr, self._device.data.ptr + places[k], buffer.nbytes, strides[k]
        for k, buffer in enumerate(self._fetches, len(self._feeds)):
            at = self._pinned.ctypes.data + results[k - len(self._feeds)]
            table[k] = buffer.data.ptr, at, buffer.nbytes, buffer.nbytes
        if steps == 1:  # then it does not matter how many were before
            table[:, -1] = 0
        sent = self._control.view(np.int64)
        if self._counted < 0 or steps > 1 or not np.array_equal(sent, control):
            sent[...] = control
            self._backend.upload(self._control, self._code.control)
            self._counted = 0
        self._backend.upload(self._pinned[:begin], self._device[:begin])
        return results

    def _collect(self, steps: int, places: list[int]) -> Done:
        self._wait()
        status, number, counted, last = map(int, self._told)
        done = counted - self._counted
        self._counted = -1 if status or last or steps > 1 else counted
        results = [
            np.array(self._pinned[at : at + steps * f.nbytes]).view(f.dtype).reshape(steps, *f.shape)[:done]
            for at, f in zip(places, self._fetches, strict=True)
        ]
        return Done(0 if status == STOPPED else status, number, done, results)


def _in_turn(whole: Sequence[tuple[Any, bool]]) -> tuple[list[list[Any]], list[bool]]:
    """Small kernels that follow one another together, one with a verdict before it, all else alone; and
    whether each can be captured."""
    groups: list[list[Any]] = []
    flags: list[bool] = []
    for i, (call, yes) in enumerate(whole):
        last = groups[-1] if groups and flags[-1] and yes and isinstance(call, Launch) else []
        if len(last) == 1 and isinstance(last[0], Launch):
            before = groups[-2] if len(groups) > 1 and flags[-2] else []
            if in_place([*last, call]):
                last.append(call)
                continue
            # of two that gather rows either may be the first
            either = call.small and call.gathers and last[0].gathers and not last[0].small
            if either and before and _small(before[-1]) and fit([*before, call]):
                before.append(call)
                continue
        behind = bool(groups) and _small(groups[-1][-1]) and flags[-1] and yes
        if behind and _small(call) and fit([*groups[-1], call]):
            groups[-1].append(call)
            continue
        at = len(groups)
        if behind and getattr(call, "waits", False):
            following = next((k for k, _ in whole[i:] if not getattr(k, "waits", False)), None)
            if _small(following) or [k.verdict for k in groups[-1]] == [True]:
                at -= 1  # to wait a little earlier keeps together what goes together
        groups.insert(at, [call])
        flags.insert(at, yes)
    return groups, flags


def _small(call: Any) -> bool:
    return isinstance(call, Launch) and call.small


def together(whole: Sequence[tuple[Any, bool]], control: Any) -> tuple[list[Group], list[bool]]:
    """What is launched in a step, and whether each can be captured: kernels that are small go in turn, and in
    a block beside a large kernel next to them where they have nothing to do with it.
    """
    runs, flags = _in_turn(whole)
    groups = [Group(run, []) for run in runs]
    for i, group in enumerate(groups):
        if not group.large:
            continue
        if i and flags[i - 1] == flags[i] and group.takes(groups[i - 1].kernels, control):
            group.beside.extend(groups[i - 1].kernels)
            groups[i - 1].kernels.clear()
        following = groups[i + 1].kernels if i + 1 < len(groups) and flags[i + 1] == flags[i] else []
        while following and group.takes(following[:1], control):
            group.beside.append(following.pop(0))
    left = [i for i, group in enumerate(groups) if group.kernels]
    return [groups[i] for i in left], [flags[i] for i in left]


def launched(code: Code, groups: Sequence[Group]) -> Iterator[Call]:
    """A call of each group: a launch of its kernels, or what it is itself."""
    launches = iter(code.launchers([group for group in groups if isinstance(group.kernels[0], Launch)]))
    for group in groups:
        first = group.kernels[0]
        if isinstance(first, Launch):
            yield next(launches)
        else:
            yield first.call if isinstance(first, Product) else first


class Segment:
    """Kernels that follow one another. captured: whether a graph may hold them."""

    def __init__(self, kernels: Sequence[Call], captured: bool) -> None:
        self.kernels, self.captured = kernels, captured

    def __call__(self) -> None:
        for kernel in self.kernels:
            kernel()
