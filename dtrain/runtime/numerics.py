"""Steps that the check for bad numbers has stopped: lower a loss scale, warn, or raise an error.

The check itself, StopIfBad, is in the plan and stops a step on all ranks (ops/check.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.board import stacklevel
from dtrain.comm.monitor import POSITION, STEP
from dtrain.errors import NumericError
from dtrain.runtime.backend import Backend
from dtrain.runtime.draws import Draws
from dtrain.runtime.plan import Plan
from dtrain.runtime.variables import Variables


class Numerics:
    """What a session does about bad numbers. All its methods are collective, but for of() and look_again().

    check: as in ConfigProto.check_numerics.
    stops: whether a bad number is an error in any step. looks: whether one that is none leads to a warning.
    """

    def __init__(
        self, check: bool | str, comm: Communicator, backend: Backend, variables: Variables, draws: Draws
    ) -> None:
        self._check, self._comm, self._backend = check, comm, backend
        self._variables, self._draws = variables, draws
        self.stops = check is True
        self.look_again()

    def of(self, comm: Communicator, draws: Draws) -> Numerics:
        """The same for other ranks on these variables."""
        return Numerics(self._check, comm, self._backend, self._variables, draws)

    def look_again(self) -> None:
        """Warn of the next bad number also where one was warned of, as of a model that is compiled anew."""
        self.looks = self._check == "warn"

    def lower_scales(self, plan: Plan, values: Sequence[Any]) -> None:
        """After a stopped step: lower its loss scales, to take it again.

        A plan that only warns has none. values: this rank's array of each feed.

        Raises:
            NumericError: there is none above 1.
        """
        self._comm.board.row[POSITION] = -1
        self._comm.barrier()  # a rank may still read another's verdict in memory that the next run writes
        if plan.warns:
            return
        names = [s.scale.op.name for s in plan.loss_scales]
        scales = [*zip(plan.loss_scales, self._variables.snapshot(names).values(), strict=True)]
        if not any(value > 1 for _, value in scales):
            raise self._error(plan, values) from None
        for s, value in scales:
            if value > 1:
                scale: Any = max(value / np.float32(s.multiplier), 1)
                self._variables.write(s.scale, np.float32(scale))
                self._variables.write(s.good_steps, np.int64(0))

    def take_anyway(
        self, plan: Plan, values: Sequence[Any], take: Callable[[], list[Any]], number: int
    ) -> list[Any]:
        """What a stopped step of a plan that warns fetches, once it is taken by a plan without the check.

        Warns, once, of the operation that made the first bad number, if a parameter or a loss becomes bad.

        Args:
            values: this rank's array of each feed.
            take: takes the step. number: which step it is, for the message.
        """
        with plan:
            undo = self._variables.kept(plan.early, self._draws)
            found = self._first_bad(plan, values)
            undo()
            self._comm.barrier()  # others' kernels may have read what is put back
        before = self._bad_parameters(plan)
        results = take()
        bad = [name for i, name in plan.losses.items() if not np.isfinite(results[i]).all()]
        bad += [name for name in self._bad_parameters(plan) if name not in before]
        if self._comm.broadcast(np.array([bool(bad)]))[0]:
            self.looks = False
            if self._comm.rank == 0:
                warnings.warn(
                    f"step {number} makes a NaN, an infinity or a number too large: {found}. The "
                    f"update is done all the same, and {bad[0]} is no finite number from here on. A Session "
                    "or Keras model with config=dt.ConfigProto(check_numerics=True) makes this an error "
                    "before the update; with check_numerics=False nothing is looked at. A lower learning "
                    "rate, clipped gradients or a look at the data may help.",
                    RuntimeWarning,
                    stacklevel=stacklevel(),
                )
        return results

    def _bad_parameters(self, plan: Plan) -> list[str]:
        """Names of those that the plan writes and that hold a NaN or an infinity."""
        arrays = self._variables.arrays
        values = ((name, self._backend.to_host(arrays[name])) for name in plan.parameters)
        return [name for name, value in values if not np.isfinite(value).all()]

    def _error(self, plan: Plan, values: Sequence[Any]) -> NumericError:
        """The error of a stopped step."""
        text = self._first_bad(plan, values)
        step = int(self._comm.board.row[STEP])
        error = NumericError(
            f"{f'step {step}: ' if step >= 0 else ''}the loss or a gradient holds a NaN, an infinity or "
            f"a number too large; {text}. Nothing was updated. A lower learning rate, clipped gradients or a "
            "look at the data may help."
        )
        error.agreed = self._comm.size > 1
        return error

    def _first_bad(self, plan: Plan, values: Sequence[Any]) -> str:
        """Where the first bad number of a stopped step is from."""
        found = plan.find_bad(values, self._comm.size)
        places = self._comm.allgather(np.array([found[0] if found else len(plan.nodes)]))
        rank = int(np.argmin(places))
        text = self._comm.broadcast_text(found[1] if found and self._comm.rank == rank else "", rank)
        if not text:
            text = "a second run of the same step shows none, as where a processor or memory fails"
        elif (places > places[rank]).any():
            text += f", on rank {rank} on {self._comm.hosts[rank]}"
        return text
