"""`dtrain train` with a fault on one rank: FAULT RANK PHASE, then the options of train. Run under mpirun.

What the product calls is wrapped from here, so it needs no hooks: the fault happens when the rank comes to
the phase for the second time or so. It prints when and in which process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dtrain import cli, data
from dtrain.comm import launcher

PHASES = ("start", "forward", "allreduce", "evaluation", "saving")
#: The run of a plan in which the fault happens.
RUN = 5


#: Seconds before a fault: a monitor is a process that takes some hundredths to begin, training may be faster.
BEGUN = 0.3


def fault(kind: str) -> None:
    time.sleep(BEGUN)
    print(f"fault at {time.time():.3f} in pid {os.getpid()}", file=sys.stderr, flush=True)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "exit":
        sys.exit(0)
    if kind == "exception":
        raise RuntimeError("injected")
    if kind.startswith("busy"):
        end = time.monotonic() + float(kind.removeprefix("busy"))
        while time.monotonic() < end:
            pass


def after(count: int, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """call, with the fault before its count-th time."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            fault(kind)
        return call(*args, **kwargs)

    return wrapped


def behind(count: int, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """call, with the fault after its count-th time."""
    checked = after(count, kind, lambda: None)

    def wrapped() -> None:
        call()
        checked()

    return wrapped


def in_plans(choose: Callable[[Any], int | None], wrap: Callable[[Callable[..., Any]], Any]) -> None:
    """In each plan for which choose names a kernel, run kernel by kernel, that one wrapped."""
    from dtrain.runtime.plan import Plan

    made = Plan.__init__

    def init(self: Any, *args: Any) -> None:
        made(self, *args)
        chosen = choose(self)
        if chosen is not None:
            self.calls = [wrap(k) if i == chosen else k for i, k in enumerate(self.kernels)]

    Plan.__init__ = init  # type: ignore[method-assign]


def first(plan: Any, ops: Sequence[str], training: bool) -> int | None:
    """The kernel of the first of these ops in the step (training) or the test."""
    types = [n.type for n in plan.kernel_nodes]
    if any(t.startswith("Apply") for t in types) != training or len(types) < 8:
        return None
    return next((i for i, t in enumerate(types) if t in ops), None)


def slow(seconds: float) -> None:
    """Every kernel takes so much longer."""
    from dtrain.runtime.plan import Plan

    made = Plan.__init__

    def init(self: Any, *args: Any) -> None:
        made(self, *args)
        self.calls = [lambda kernel=kernel: (time.sleep(seconds), kernel()) for kernel in self.kernels]

    Plan.__init__ = init  # type: ignore[method-assign]


def prepare(kind: str, phase: str) -> None:
    from dtrain.task import trainer

    if phase == "join":
        fault(kind)
    elif phase == "start":
        trainer.load = after(1, kind, trainer.load)
    elif phase == "forward":
        in_plans(lambda plan: first(plan, ["MatMul"], True), lambda k: after(RUN, kind, k))
    elif phase == "allreduce":
        # its first kernel is the meeting before the sum: the fault comes behind it, the others go on
        sums = ("AllReduce", "NodeBarrier")
        in_plans(lambda plan: first(plan, sums, True), lambda k: behind(RUN, kind, k))
    elif phase == "beside":  # with --overlap: while a sum that began early goes on
        in_plans(lambda plan: first(plan, ["BeginAllReduce"], True), lambda k: behind(RUN, kind, k))
    elif phase == "evaluation":
        in_plans(lambda plan: first(plan, ["MatMul"], False), lambda k: after(1, kind, k))
    elif phase == "saving":
        trainer.Checkpoints.save = after(1, kind, trainer.Checkpoints.save)  # type: ignore[method-assign]


if __name__ == "__main__":
    kind, rank, phase, *rest = sys.argv[1:]
    data.SYNTHETIC_TRAIN, data.SYNTHETIC_TEST = 2000, 1000
    if launcher.rank() == int(rank):
        if kind == "slow":
            slow(float(phase))
        else:
            prepare(kind, phase)
    sys.exit(cli.main(["train", *rest]))
