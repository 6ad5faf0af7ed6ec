"""Optimizers, under TensorFlow 1's names: `minimize` adds the operations of an update step to the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from dtrain.autodiff import gradients
from dtrain.errors import GraphError, UsageError
from dtrain.graph.dtypes import float64
from dtrain.graph.graph import Operation, Tensor, TensorLike, get_default_graph
from dtrain.ops.adaptive import (
    ApplyAdadelta,
    ApplyAdagrad,
    ApplyAdaMax,
    ApplyCenteredRMSProp,
    ApplyNadam,
    ApplyRMSProp,
)
from dtrain.ops.array import fill
from dtrain.ops.base import Op, convert_to_tensor
from dtrain.ops.math import cast, sqrt
from dtrain.ops.state import Variable, group, trainable_variables
from dtrain.ops.update import ApplyAdam, ApplyGradientDescent, ApplyMomentum

GradientsAndVariables = Sequence[tuple[Any, Variable]]


class Optimizer:
    """Base of the optimizers: minimize(loss) returns the operation of a training step.

    On several ranks the gradients are those of the whole batch: graph passes insert the allreduce. A subclass
    says which slots a variable has and which op updates it.

    Args:
        learning_rate: a number, a scalar tensor (such as a schedule), a variable, or a function of no
            arguments that returns one.
        name: prefix of the names of its operations and slots.
    """

    #: For gate_gradients. All gradients of a step are there before its first update, which is GATE_GRAPH.
    GATE_NONE, GATE_OP, GATE_GRAPH = 0, 1, 2

    #: Names of the per-variable state, and what it starts with where that is not 0.
    slots: tuple[str, ...] = ()
    starts: Mapping[str, float] = MappingProxyType({})

    def __init__(self, learning_rate: Any, name: str) -> None:
        self.learning_rate = learning_rate
        self.name = name
        self._slots: dict[tuple[Variable, str], Variable] = {}

    def get_name(self) -> str:
        """The name that its operations and state have."""
        return self.name

    def minimize(
        self,
        loss: Tensor,
        global_step: Variable | None = None,
        var_list: Iterable[Variable] | None = None,
        gate_gradients: int = GATE_OP,
        aggregation_method: Any = None,
        colocate_gradients_with_ops: bool = False,
        name: str | None = None,
        grad_loss: Any = None,
    ) -> Operation:
        """An operation that runs one training step: it computes gradients of the loss and applies them.

        Args:
            loss: a floating tensor, summed if it is not a scalar.
            global_step: a variable to which each step adds 1.
            var_list: the variables to update, by default all trainable ones.
            gate_gradients: accepted for TensorFlow 1: all gradients are computed before the first update.
            aggregation_method: only None.
            colocate_gradients_with_ops: accepted for TensorFlow 1; without effect.
            grad_loss: the gradient with respect to the loss, of its shape; by default ones.
            name: name of the operation.

        Returns:
            Operation: the step.

        Raises:
            GraphError: there are no variables, or the loss depends on none of them.
            UsageError: an argument has a value that dtrain does not know.
        """
        pairs = self.compute_gradients(
            loss, var_list, gate_gradients, aggregation_method, colocate_gradients_with_ops, grad_loss
        )
        return self.apply_gradients(pairs, global_step, name)

    def compute_gradients(
        self,
        loss: Tensor,
        var_list: Iterable[Variable] | None = None,
        gate_gradients: int = GATE_OP,
        aggregation_method: Any = None,
        colocate_gradients_with_ops: bool = False,
        grad_loss: Any = None,
    ) -> list[tuple[Tensor | None, Variable]]:
        """The first part of minimize: the gradients.

        Args:
            loss: a floating tensor, summed if it is not a scalar.
            var_list: the variables, by default all trainable ones.
            gate_gradients, aggregation_method, colocate_gradients_with_ops, grad_loss: as for minimize.

        Returns:
            list: pairs (gradient, variable); None for a variable that the loss does not depend on.

        Raises:
            GraphError: there are no variables, or the loss depends on none of them.
            UsageError: an argument has a value that dtrain does not know.
        """
        if gate_gradients not in (self.GATE_NONE, self.GATE_OP, self.GATE_GRAPH):
            raise UsageError(
                f"{self.name}: gate_gradients={gate_gradients!r} is none of Optimizer.GATE_NONE, GATE_OP and "
                "GATE_GRAPH. Leave it out: all of them do the same here."
            )
        if aggregation_method is not None:
            raise UsageError(
                f"{self.name}: aggregation_method={aggregation_method!r} is not supported: there is one "
                "way to add up the gradients of several uses. Leave it out."
            )
        if isinstance(var_list, Variable):
            raise UsageError(f"{self.name}: var_list is one variable; give a list: var_list=[variable].")
        variables = list(var_list) if var_list is not None else trainable_variables()
        if not variables:
            raise GraphError(f"{self.name}: there are no trainable variables to compute gradients for.")
        return list(zip(gradients(loss, variables, grad_loss), variables, strict=True))

    def apply_gradients(
        self,
        grads_and_vars: GradientsAndVariables,
        global_step: Variable | None = None,
        name: str | None = None,
    ) -> Operation:
        """The second part of minimize: an operation that updates each variable by its gradient.

        Args:
            grads_and_vars: pairs (gradient, variable), as compute_gradients returns them.
            global_step: a variable to which each step adds 1.
            name: name of the operation.

        Returns:
            Operation: the step.

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
            with graph.name_scope(name or self.name) as scope:
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
                    updates += [v.assign(v.constraint(v)) for _, v in pairs if v.constraint is not None]
                    updates += self._finish()
                    if global_step is not None:
                        updates.append(global_step.assign_add(1, name="global_step"))
            return group(*updates, name=scope)  # the operation has the scope's own name, as in TensorFlow

    def get_slot(self, variable: Variable, name: str) -> Variable | None:
        """The variable that holds a piece of per-variable state, such as Adam's 'm'."""
        return self._slots.get((variable, name))

    def get_slot_names(self) -> list[str]:
        """The names that get_slot knows, in alphabetical order."""
        return sorted(self.slots)

    def variables(self) -> list[Variable]:
        """All state of the optimizer."""
        return list(self._slots.values())

    def _make_slot(self, variable: Variable, slot: str) -> None:
        if (variable, slot) not in self._slots:
            kind: Any = variable.op.kind
            with get_default_graph().name_scope(None):
                self._slots[variable, slot] = Variable(
                    lambda: fill(variable.shape, np.asarray(self.starts.get(slot, 0), variable.dtype.numpy)),
                    trainable=False,
                    name=f"{variable.op.name}/{self.name}/{slot}",
                    group=f"{kind.group}/{self.name}/{slot}",
                )

    # -- for subclasses --------------------------------------------------------------------------------
    def _update(self, count: int) -> Op:
        """The op that updates `count` variables."""
        raise NotImplementedError

    def _rate(self) -> Tensor:
        """The learning rate of this step, a scalar."""
        rate = self.learning_rate() if callable(self.learning_rate) else self.learning_rate
        # a Python number keeps its digits for float64 variables
        return convert_to_tensor(rate, None if isinstance(rate, TensorLike) else float64)

    def _prepare(self) -> None:
        """Make state that is not one variable's."""

    def _finish(self) -> list[Any]:
        """What is to be run after the updates."""
        return []


class GradientDescentOptimizer(Optimizer):
    """Stochastic gradient descent: variable -= learning_rate * gradient.

    Args:
        learning_rate: a number, a scalar tensor (such as a schedule), a variable, or a function of no
            arguments that returns one.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.

    Example:
        >>> w = dt.Variable(3.0, name="w")
        >>> step = dt.train.GradientDescentOptimizer(0.25).minimize(dt.square(w))
        >>> with dt.Session() as sess:
        ...     _ = sess.run(dt.global_variables_initializer())
        ...     _ = sess.run(step)
        ...     print(sess.run(w))
        1.5
    """

    def __init__(self, learning_rate: Any, use_locking: bool = False, name: str = "GradientDescent") -> None:
        super().__init__(learning_rate, name)

    def _update(self, count: int) -> Op:
        return ApplyGradientDescent(count)


class MomentumOptimizer(Optimizer):
    """Gradient descent with momentum (Polyak 1964).

    accumulator = momentum * accumulator + gradient; variable -= learning_rate * accumulator.

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        momentum: a number, such as 0.9.
        use_nesterov: whether to use Nesterov's form (Sutskever et al. 2013).
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    slots = ("momentum",)

    def __init__(
        self,
        learning_rate: Any,
        momentum: float,
        use_locking: bool = False,
        name: str = "Momentum",
        use_nesterov: bool = False,
    ) -> None:
        super().__init__(learning_rate, name)
        self.momentum = _number(name, "momentum", momentum)
        self.use_nesterov = bool(use_nesterov)

    def _update(self, count: int) -> Op:
        return ApplyMomentum(count, self.momentum, self.use_nesterov)


class AdagradOptimizer(Optimizer):
    """Adagrad (Duchi et al. 2011): variable -= learning_rate * g / sqrt(accumulator), the sum of all g².

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        initial_accumulator_value: where the accumulators start, a number > 0.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.

    Raises:
        UsageError: initial_accumulator_value is not positive.
    """

    slots = ("accumulator",)
    epsilon = 0.0

    def __init__(
        self,
        learning_rate: Any,
        initial_accumulator_value: float = 0.1,
        use_locking: bool = False,
        name: str = "Adagrad",
    ) -> None:
        super().__init__(learning_rate, name)
        value = _number(name, "initial_accumulator_value", initial_accumulator_value)
        if value <= 0:
            raise UsageError(f"{name}: initial_accumulator_value is {value:g}; it has to be positive.")
        self.starts = {"accumulator": value}

    def _update(self, count: int) -> Op:
        return ApplyAdagrad(count, self.epsilon)


class AdadeltaOptimizer(Optimizer):
    """Adadelta (Zeiler 2012); the paper's own form has a learning_rate of 1.

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        rho: decay of the mean squared gradients and updates.
        epsilon: a small number that keeps the denominators from 0.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    slots = ("accum", "accum_update")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-8,
        use_locking: bool = False,
        name: str = "Adadelta",
    ) -> None:
        super().__init__(learning_rate, name)
        self.rho, self.epsilon = _number(name, "rho", rho), _number(name, "epsilon", epsilon)

    def _update(self, count: int) -> Op:
        return ApplyAdadelta(count, self.rho, self.epsilon)


class RMSPropOptimizer(Optimizer):
    """RMSProp (Tieleman & Hinton 2012); as in TensorFlow 1 its mean square starts at 1.

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        decay: of the mean squared gradient.
        momentum: of the scaled gradients.
        epsilon: what is added to the mean square.
        centered: whether to scale by the variance of the gradient (Graves 2013) instead of its mean square.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    slots: tuple[str, ...] = ("rms", "momentum")
    starts: Mapping[str, float] = MappingProxyType({"rms": 1.0})

    def __init__(
        self,
        learning_rate: Any,
        decay: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-10,
        use_locking: bool = False,
        centered: bool = False,
        name: str = "RMSProp",
    ) -> None:
        super().__init__(learning_rate, name)
        self.decay, self.momentum = _number(name, "decay", decay), _number(name, "momentum", momentum)
        self.epsilon = _number(name, "epsilon", epsilon)
        self.centered = bool(centered)
        if centered:
            self.slots = (*self.slots, "mg")

    def _update(self, count: int) -> Op:
        kind = ApplyCenteredRMSProp if self.centered else ApplyRMSProp
        return kind(count, self.decay, self.momentum, self.epsilon)


#: Under this name a graph keeps Adam's powers of beta, by optimizer.
POWERS = "powers"


class AdamOptimizer(Optimizer):
    """Adam (Kingma & Ba 2015) in TensorFlow 1's form, the last one of the paper's section 2.

    m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g²;
    variable -= learning_rate * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + epsilon).

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        beta1: decay of the mean gradient m.
        beta2: decay of the mean squared gradient v.
        epsilon: a small number that keeps the denominator from 0.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    slots = ("m", "v")
    _kind: type[Op] = ApplyAdam

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        use_locking: bool = False,
        name: str = "Adam",
    ) -> None:
        super().__init__(learning_rate, name)
        self.beta1, self.beta2 = _number(name, "beta1", beta1), _number(name, "beta2", beta2)
        self.epsilon = _number(name, "epsilon", epsilon)
        self._powers: tuple[Variable, Variable] | None = None

    def _prepare(self) -> None:
        graph = get_default_graph()
        of_graph: dict[Any, Any] = graph.kept.setdefault(POWERS, {})  # it may train in several graphs
        if self not in of_graph:
            with graph.name_scope(None):
                # float64, since 1 - 0.999**t loses most of a float32's digits
                of_graph[self] = tuple(
                    Variable(beta, trainable=False, name=f"{self.name}/{label}", dtype=float64)
                    for beta, label in ((self.beta1, "beta1_power"), (self.beta2, "beta2_power"))
                )
        self._powers = of_graph[self]

    def _update(self, count: int) -> Op:
        return self._kind(count, self.beta1, self.beta2, self.epsilon)

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


class NadamOptimizer(AdamOptimizer):
    """Nadam (Dozat 2016): Adam with Nesterov momentum, beta1 constant; in TensorFlow tf.contrib.opt's.

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        epsilon: a small number that keeps the denominator from 0.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    _kind = ApplyNadam

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        use_locking: bool = False,
        name: str = "Nadam",
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, use_locking, name)


class AdaMaxOptimizer(AdamOptimizer):
    """AdaMax (Kingma & Ba 2015, section 7): Adam scaled by the largest gradient.

    Args:
        learning_rate: a number, a scalar tensor, a variable, or a function of no arguments that returns one.
        beta1: decay of the mean gradient.
        beta2: decay of the largest gradient.
        epsilon: a small number that keeps the denominator from 0.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.
    """

    _kind = ApplyAdaMax

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        use_locking: bool = False,
        name: str = "AdaMax",
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, use_locking, name)

    def _rate(self) -> Tensor:
        assert self._powers is not None
        return cast(Optimizer._rate(self), float64) / (1 - self._powers[0].value())


def _number(optimizer: str, argument: str, value: Any) -> float:
    """A hyperparameter that is fixed when the graph is built; only the learning rate may be a tensor."""
    if isinstance(value, TensorLike):
        raise UsageError(
            f"{optimizer}: {argument} is the tensor {value.name}, but only learning_rate may be one: give a "
            "number."
        )
    return float(value)
