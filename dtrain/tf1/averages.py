"""tf.train.ExponentialMovingAverage: averages of variables and tensors over the steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import float32
from dtrain.graph.graph import Operation, Tensor, get_collection, get_default_graph
from dtrain.graph.shape import is_static
from dtrain.ops.array import zeros
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.math import cast, minimum, pow
from dtrain.ops.state import Variable, global_variables, group, trainable_variables

__all__ = ["ExponentialMovingAverage", "assign_moving_average", "moving_average_variables"]


def moving_average_variables(scope: str | None = None) -> list[Any]:
    """The variables that have a moving average."""
    return get_collection(GraphKeys.MOVING_AVERAGE_VARIABLES, scope)


class ExponentialMovingAverage:
    """average = decay * average + (1 - decay) * value, each time that what apply() gives is run.

    Args:
        decay: a number or tensor, near 1.
        num_updates: a count of steps; decay is at most (1 + num_updates) / (10 + num_updates).
        zero_debias: averages of tensors, which begin at 0, are divided by the weights that they hold.
        name: what the averages are called, after the name of what they are of.
    """

    def __init__(
        self,
        decay: Any,
        num_updates: Any = None,
        zero_debias: bool = False,
        name: str = "ExponentialMovingAverage",
    ) -> None:
        self._decay, self._num_updates, self._zero_debias = decay, num_updates, zero_debias
        self._name = name
        self._averages: dict[Any, Variable] = {}
        self._from_zero: set[Variable] = set()

    @property
    def name(self) -> str:
        """What the averages are called."""
        return self._name

    def apply(self, var_list: Iterable[Any] | None = None) -> Operation:
        """An operation that updates the averages; they are made, of variables with their initial values.

        var_list: variables and tensors, by default the trainable variables.

        Raises:
            GraphError: one has an average already, or no fixed shape, or is no floating number.
        """
        given = trainable_variables() if var_list is None else list(var_list)
        values = [v if isinstance(v, Variable) else convert_to_tensor(v) for v in given]
        for value in values:
            self._check(value)
            self._averages[value] = self._made(value)
            if isinstance(value, Variable):
                get_default_graph().add_to_collection(GraphKeys.MOVING_AVERAGE_VARIABLES, value)
        with get_default_graph().name_scope(self._name) as scope:
            decay = convert_to_tensor(self._decay, name="decay")
            if self._num_updates is not None:
                count = cast(self._num_updates, decay.dtype)
                decay = minimum(decay, (1.0 + count) / (10.0 + count))
            updates = [
                assign_moving_average(
                    self._averages[v],
                    v,
                    cast(decay, v.dtype),
                    zero_debias=self._averages[v] in self._from_zero,
                )
                for v in values
            ]
            return group(*updates, name=scope)

    def _check(self, value: Any) -> None:
        if value in self._averages:
            raise GraphError(f"{self._name}: {value.name} has a moving average already.")
        if not value.dtype.is_floating:
            raise GraphError(f"{self._name}: {value.name} is {value.dtype.name}, and averages are of floats.")
        if not is_static(convert_to_tensor(value).spec.shape):
            raise GraphError(f"{self._name}: {value.name} has the shape {value.shape}, which is to be fixed.")

    def _made(self, value: Any) -> Variable:
        with get_default_graph().control_dependencies(None), get_default_graph().name_scope(None):
            if isinstance(value, Variable):
                first = value.initialized_value()
            else:
                first = zeros(value.shape, value.dtype)
            average = Variable(first, trainable=False, name=f"{value.op.name}/{self._name}")
            if self._zero_debias and not isinstance(value, Variable):
                self._from_zero.add(average)
        return average

    def average(self, var: Any) -> Variable | None:
        """The variable that holds the average of var, or None where there is none."""
        return self._averages.get(var)

    def average_name(self, var: Any) -> str:
        """What the average of var is, or would be, called."""
        average = self._averages.get(var)
        return average.op.name if average is not None else f"{var.op.name}/{self._name}"

    def variables_to_restore(self, moving_avg_variables: Iterable[Any] | None = None) -> dict[str, Variable]:
        """For a Saver that reads averages into variables: variables by the names of their averages.

        moving_avg_variables: those of which this is so, by default the trainable ones and those that have an
        average; the rest of the graph's variables are there by their own names.
        """
        if moving_avg_variables is None:
            moving_avg_variables = [*trainable_variables(), *moving_average_variables()]
        averaged = dict.fromkeys(moving_avg_variables)
        names = {self.average_name(v): v for v in averaged}
        for v in global_variables():
            if v not in averaged and v.op.name not in names:
                names[v.op.name] = v
        return names


def assign_moving_average(
    variable: Variable, value: Any, decay: Any, zero_debias: bool = False, name: str | None = None
) -> Tensor:
    """variable = decay * variable + (1 - decay) * value, which is run with what comes back.

    zero_debias: the average of all values so far, without the 0 that variable began with.
    """
    value = convert_to_tensor(value)
    rate = 1 - cast(decay, variable.dtype)
    if not zero_debias:
        return variable.assign_sub((variable - value) * rate, name=name)
    with get_default_graph().control_dependencies(None), get_default_graph().name_scope(None):
        within = variable.op.name
        biased = Variable(zeros(variable.shape, variable.dtype), False, name=f"{within}/biased")
        steps = Variable(zeros([], float32), False, name=f"{within}/local_step")
    biased_now = biased.assign_sub((biased - value) * rate)
    steps_now = cast(steps.assign_add(1.0), variable.dtype)
    return variable.assign(biased_now / (1 - pow(1 - rate, steps_now)), name=name)
