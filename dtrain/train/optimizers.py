"""Optimizers, under TensorFlow 1's names: `minimize` adds the operations of an update step to the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dtrain.autodiff import gradients
from dtrain.errors import GraphError
from dtrain.graph.dtypes import float64
from dtrain.graph.graph import Operation, Tensor, TensorLike, get_default_graph
from dtrain.ops.array import zeros
from dtrain.ops.base import Op, convert_to_tensor
from dtrain.ops.math import cast, sqrt
from dtrain.ops.state import Variable, group, trainable_variables
from dtrain.ops.update import ApplyAdam, ApplyGradientDescent, ApplyMomentum

GradientsAndVariables = Sequence[tuple[Any, Variable]]


class Optimizer:
    """Base of the optimizers.

    A subclass says which slots a variable has and which op updates it. On several ranks the gradients it
    gets are those of the whole batch: the passes put the allreduce in, the optimizer knows nothing of it.
    """

    #: Names of the per-variable state.
    slots: tuple[str, ...] = ()

    def __init__(self, learning_rate: Any, name: str) -> None:
        self.learning_rate = learning_rate
        self.name = name
        self._slots: dict[tuple[Variable, str], Variable] = {}

    def minimize(
        self,
        loss: Tensor,
        global_step: Variable | None = None,
        var_list: Iterable[Variable] | None = None,
        name: str | None = None,
    ) -> Operation:
        """An operation that, when run, takes one step against the gradient of loss (summed if not a scalar).

        Args:
            global_step: a variable that each step adds 1 to.
            var_list: the variables to update, by default all trainable ones.

        Raises:
            GraphError: there are no variables, or the loss depends on none of them.
        """
        return self.apply_gradients(self.compute_gradients(loss, var_list), global_step, name)

    def compute_gradients(
        self, loss: Tensor, var_list: Iterable[Variable] | None = None
    ) -> list[tuple[Tensor | None, Variable]]:
        """(gradient, variable) pairs; None for a variable that the loss does not depend on."""
        variables = list(var_list) if var_list is not None else trainable_variables()
        if not variables:
            raise GraphError(f"{self.name}: there are no trainable variables to compute gradients for.")
        return list(zip(gradients(loss, variables), variables, strict=True))

    def apply_gradients(
        self,
        grads_and_vars: GradientsAndVariables,
        global_step: Variable | None = None,
        name: str | None = None,
    ) -> Operation:
        """An operation that updates each variable by its gradient.

        Raises:
            GraphError: every gradient is None.
        """
        pairs = [(convert_to_tensor(g, v.dtype), v) for g, v in grads_and_vars if g is not None]
        if not pairs:
            names = ", ".join(v.op.name for _, v in grads_and_vars)
            raise GraphError(f"{self.name}: the loss does not depend on any of the variables {names}.")
        graph = pairs[0][1].graph
        by_dtype: dict[Any, list[tuple[Tensor, Variable]]] = {}
        for gradient, variable in pairs:
            by_dtype.setdefault(variable.dtype, []).append((gradient, variable))
        with graph.as_default():
            for _, variable in pairs:
                for slot in self.slots:
                    self._make_slot(variable, slot)
            self._prepare()
            updates: list[Any] = []
            with graph.name_scope(name or self.name):
                for dtype, some in by_dtype.items():
                    grads = [g for g, _ in some]
                    variables = [v for _, v in some]
                    inputs = [v.value() for v in variables] + grads
                    for slot in self.slots:
                        inputs += [self._slots[v, slot].value() for v in variables]
                    rate = cast(self._rate(), dtype)
                    kind = self._update(len(some))
                    updates.append(graph.add(kind, (*inputs, rate)))
                with graph.control_dependencies(updates):
                    updates += self._finish()
                    if global_step is not None:
                        updates.append(global_step.assign_add(1, "global_step"))
            return group(*updates, name=name or self.name)

    def get_slot(self, variable: Variable, name: str) -> Variable | None:
        """The variable that holds a piece of per-variable state, such as Adam's 'm'."""
        return self._slots.get((variable, name))

    def variables(self) -> list[Variable]:
        """All state of the optimizer."""
        return list(self._slots.values())

    def _make_slot(self, variable: Variable, slot: str) -> None:
        if (variable, slot) not in self._slots:
            with get_default_graph().name_scope(None):
                self._slots[variable, slot] = Variable(
                    lambda: zeros(variable.shape, variable.dtype),
                    trainable=False,
                    name=f"{variable.op.name}/{self.name}/{slot}",
                    group=f"{variable.op.kind.group}/{self.name}/{slot}",
                )

    # -- for subclasses --------------------------------------------------------------------------------
    def _update(self, count: int) -> Op:
        """The op that updates `count` variables."""
        raise NotImplementedError

    def _rate(self) -> Tensor:
        """The learning rate of this step, a scalar."""
        rate = self.learning_rate
        # a Python number keeps its digits for float64 variables
        return convert_to_tensor(rate, None if isinstance(rate, TensorLike) else float64)

    def _prepare(self) -> None:
        """Make state that is not one variable's."""

    def _finish(self) -> list[Any]:
        """What is to be run after the updates."""
        return []


class GradientDescentOptimizer(Optimizer):
    """Plain stochastic gradient descent."""

    def __init__(self, learning_rate: Any, name: str = "GradientDescent") -> None:
        super().__init__(learning_rate, name)

    def _update(self, count: int) -> Op:
        return ApplyGradientDescent(count)


class MomentumOptimizer(Optimizer):
    """Gradient descent with momentum, by request in Nesterov's form."""

    slots = ("momentum",)

    def __init__(
        self, learning_rate: Any, momentum: float, use_nesterov: bool = False, name: str = "Momentum"
    ) -> None:
        super().__init__(learning_rate, name)
        self.momentum = float(momentum)
        self.use_nesterov = bool(use_nesterov)

    def _update(self, count: int) -> Op:
        return ApplyMomentum(count, self.momentum, self.use_nesterov)


class AdamOptimizer(Optimizer):
    """Adam (Kingma & Ba, 2015), in TensorFlow 1's form: epsilon is that of the paper's section 2.1."""

    slots = ("m", "v")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "Adam",
    ) -> None:
        super().__init__(learning_rate, name)
        self.beta1, self.beta2, self.epsilon = float(beta1), float(beta2), float(epsilon)
        self._powers: tuple[Variable, Variable] | None = None

    def _prepare(self) -> None:
        if self._powers is None:
            with get_default_graph().name_scope(None):
                # float64, since 1 - 0.999**t loses most of a float32's digits
                self._powers = tuple(  # type: ignore[assignment]
                    Variable(beta, trainable=False, name=f"{self.name}/{label}", dtype=float64)
                    for beta, label in ((self.beta1, "beta1_power"), (self.beta2, "beta2_power"))
                )

    def _update(self, count: int) -> Op:
        return ApplyAdam(count, self.beta1, self.beta2, self.epsilon)

    def _rate(self) -> Tensor:
        assert self._powers is not None
        power1, power2 = (p.value() for p in self._powers)
        return cast(super()._rate(), float64) * sqrt(1 - power2) / (1 - power1)

    def _finish(self) -> list[Any]:
        assert self._powers is not None
        return [
            power.assign(power.value() * beta)
            for power, beta in zip(self._powers, (self.beta1, self.beta2), strict=True)
        ]

    def variables(self) -> list[Variable]:
        return super().variables() + list(self._powers or ())
