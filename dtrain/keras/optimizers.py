"""Optimizers with the names, formulas and defaults of Keras 3; one of dtrain.train does the work of most."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import float64
from dtrain.graph.graph import Operation, Tensor, TensorLike, get_default_graph
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops.adaptive import ApplyScheduledNadam
from dtrain.ops.base import Op
from dtrain.ops.clip import clip_by_global_norm, clip_by_norm, clip_by_value
from dtrain.ops.join import stack
from dtrain.ops.math import cast, rsqrt
from dtrain.ops.state import Variable
from dtrain.ops.update import ApplyVelocity
from dtrain.train import optimizers as graph_optimizers

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "deserialize",
    "get",
    "nadam",
    "rmsprop",
    "serialize",
    "sgd",
]

__getattr__ = module_getattr("tf.keras.optimizers")


class Scalar(np.lib.mixins.NDArrayOperatorsMixin):
    """A number of an optimizer, which stands for what it is now, as a Keras variable does.

    It computes and compares as the number; numpy() gives it, assign(value) sets it, for the next step.
    """

    def __init__(self, value: float, dtype: str, what: str) -> None:
        self._dtype, self._what = np.dtype(dtype), what
        self.assign(value)

    def numpy(self) -> Any:
        return self._dtype.type(self._value)

    def assign(self, value: Any) -> Scalar:
        """Set it; raises UsageError for what is no number."""
        try:
            number = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            number = np.empty(0)
        if value is None or number.ndim:
            raise UsageError(f"{self._what}={value!r}: give a number, such as 0.001.")
        self._value = number.item() if self._dtype.kind == "f" else int(number)
        return self

    def assign_add(self, value: Any) -> Scalar:
        return self.assign(self._value + value)

    def assign_sub(self, value: Any) -> Scalar:
        return self.assign(self._value - value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._value, dtype or self._dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        options.pop("out", None)  # x *= 2 makes a number, which the optimizer's attribute takes
        numbers = (i._value if isinstance(i, Scalar) else i for i in inputs)
        return getattr(ufunc, method)(*numbers, **options)

    def __float__(self) -> float:
        return float(self._value)

    def __int__(self) -> int:
        return int(self._value)

    def __index__(self) -> int:
        number: Any = self._value  # a float raises
        return operator.index(number)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __round__(self, digits: int | None = None) -> float:
        return round(self._value, digits)

    def __repr__(self) -> str:
        return repr(self._value)

    def __format__(self, form: str) -> str:
        return format(self._value, form)


class Optimizer:
    """Base of the optimizers.

    learning_rate, also called lr, may be changed between steps, as callbacks do, on every rank in the same
    way: optimizer.learning_rate = 0.01 or optimizer.learning_rate.assign(0.01). A step uses
    learning_rate / (1 + decay * iterations), where iterations are the steps so far.

    Args:
        learning_rate: a number >= 0.
        lr: its older name.
        decay: how fast the learning rate shrinks, as in Keras 2; Keras 3 ignores it.
        clipnorm: the largest norm of each variable's gradient.
        clipvalue: gradients are limited to -clipvalue..clipvalue.
        global_clipnorm: the largest norm of all gradients together.
        name: by default the name of the class.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self,
        learning_rate: float,
        lr: float | None = None,
        decay: float = 0.0,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or type(self).__name__
        rate = learning_rate if lr is None else lr
        rate = float(rate) if isinstance(rate, Scalar) else rate
        if not isinstance(rate, int | float | np.number) or not rate >= 0:
            raise UsageError(f"{self.name}: learning_rate={rate!r}: give a number from 0 up, such as 0.001.")
        for key, value in (
            ("clipnorm", clipnorm),
            ("clipvalue", clipvalue),
            ("global_clipnorm", global_clipnorm),
        ):
            if value is not None and not value > 0:
                raise UsageError(f"{self.name}: {key}={value!r}: give a number above 0.")
        self._learning_rate = Scalar(rate, "float32", f"{self.name}: learning_rate")
        self._iterations = Scalar(0, "int64", f"{self.name}: iterations")
        self.decay = float(decay)
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm

    @property
    def learning_rate(self) -> Any:
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._learning_rate.assign(value)

    lr = learning_rate  # its older name

    @property
    def iterations(self) -> Any:
        return self._iterations

    @iterations.setter
    def iterations(self, value: Any) -> None:
        self._iterations.assign(value)

    @property
    def rate(self) -> float:
        """What the next step takes."""
        return float(self._learning_rate) / (1 + self.decay * int(self._iterations))

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        """The graph's optimizer, its learning rate being this tensor."""
        raise NotImplementedError

    def clip(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients of the global batch, cut as the arguments say."""
        found: list[Tensor | None] = list(gradients)
        if self.global_clipnorm is not None:
            found = clip_by_global_norm(found, self.global_clipnorm)[0]
        if self.clipnorm is not None:
            found = [None if g is None else clip_by_norm(g, self.clipnorm) for g in found]
        if self.clipvalue is not None:
            found = [None if g is None else clip_by_value(g, -self.clipvalue, self.clipvalue) for g in found]
        return found

    def minimize(
        self, optimizer: graph_optimizers.Optimizer, loss: Tensor, variables: Sequence[Variable]
    ) -> Operation:
        """A step of what make() made."""
        pairs = optimizer.compute_gradients(loss, variables)
        clipped = self.clip([g for g, _ in pairs])
        return optimizer.apply_gradients(list(zip(clipped, variables, strict=True)))

    def get_gradients(self, loss: Any, params: Any) -> list[Any]:
        """The gradients of a loss, clipped as a step's are."""
        from dtrain.autodiff import gradients

        with loss.graph.as_default():
            return list(self.clip(gradients(loss, list(params))))

    def get_config(self) -> dict[str, Any]:
        """Its arguments as plain data."""
        own = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        own["learning_rate"] = float(self.learning_rate)
        return {k: v for k, v in own.items() if v is not None}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Optimizer:
        return cls(**config)


class SGD(Optimizer):
    """Gradient descent, optionally with momentum (Polyak 1964).

    velocity = momentum * velocity - learning_rate * gradient; a new learning rate affects new steps only.

    Args:
        learning_rate: a number >= 0.
        momentum: a number, such as 0.9.
        nesterov: whether to use Nesterov's form (Sutskever et al. 2013).
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)
        self.momentum, self.nesterov = float(momentum), bool(nesterov)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        if not self.momentum:
            return graph_optimizers.GradientDescentOptimizer(rate)
        return _Velocity(rate, self.momentum, use_nesterov=self.nesterov)


class _Velocity(graph_optimizers.MomentumOptimizer):
    def _update(self, count: int) -> Op:
        return ApplyVelocity(count, self.momentum, self.use_nesterov)


class RMSprop(Optimizer):
    """RMSProp (Tieleman & Hinton 2012); its mean square starts at 0.

    Args:
        learning_rate: a number >= 0.
        rho: decay of the mean squared gradient.
        momentum: of the scaled gradients.
        epsilon: a small number that keeps the denominator from 0; None is 1e-7.
        centered: whether to scale by the variance of the gradient (Graves 2013) instead of its mean square.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float | None = 1e-7,
        centered: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.momentum, self.centered = float(rho), float(momentum), bool(centered)
        self.epsilon = _epsilon(epsilon)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        made = graph_optimizers.RMSPropOptimizer(
            rate, self.rho, self.momentum, self.epsilon, centered=self.centered
        )
        made.starts = {}
        return made


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): variable -= learning_rate * g / sqrt(accumulator + epsilon).

    Args:
        learning_rate: a number >= 0.
        initial_accumulator_value: where the sums of squared gradients start, a number >= 0.
        epsilon: a small number; None is 1e-7.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float | None = 1e-7,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.initial_accumulator_value = float(initial_accumulator_value)
        if not self.initial_accumulator_value >= 0:
            raise UsageError(
                f"{self.name}: initial_accumulator_value={initial_accumulator_value!r}: give a number from "
                "0 up."
            )
        self.epsilon = _epsilon(epsilon)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        made = graph_optimizers.AdagradOptimizer(rate)
        made.starts = {"accumulator": self.initial_accumulator_value}
        made.epsilon = self.epsilon
        return made


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012); the paper's own form has a learning rate of 1.

    Args:
        learning_rate: a number >= 0.
        rho: decay of the mean squared gradients and updates.
        epsilon: a small number that keeps the denominators from 0; None is 1e-7.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self, learning_rate: float = 0.001, rho: float = 0.95, epsilon: float | None = 1e-7, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.epsilon = float(rho), _epsilon(epsilon)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        return graph_optimizers.AdadeltaOptimizer(rate, self.rho, self.epsilon)


class _Moments(Optimizer):
    _make: Any

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = 1e-7,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2, self.epsilon = float(beta_1), float(beta_2), _epsilon(epsilon)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        return self._make(rate, self.beta_1, self.beta_2, self.epsilon)


class Adam(_Moments):
    """Adam (Kingma & Ba 2015), in the form of dt.train.AdamOptimizer.

    Args:
        learning_rate: a number >= 0.
        beta_1: decay of the mean gradient.
        beta_2: decay of the mean squared gradient.
        epsilon: a small number that keeps the denominator from 0; None is 1e-7.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.

    Example:
        >>> dt.keras.optimizers.Adam(0.01).get_config()["beta_1"]
        0.9
    """

    _make = graph_optimizers.AdamOptimizer


class Adamax(_Moments):
    """AdaMax (Kingma & Ba 2015, section 7): Adam scaled by the largest gradient.

    Args:
        learning_rate: a number >= 0.
        beta_1: decay of the mean gradient.
        beta_2: decay of the largest gradient.
        epsilon: a small number that keeps the denominator from 0; None is 1e-7.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    _make = graph_optimizers.AdaMaxOptimizer


class Nadam(_Moments):
    """Nadam (Dozat 2016): Adam with Nesterov momentum and the paper's schedule.

    Args:
        learning_rate: a number >= 0.
        beta_1: decay of the mean gradient, before the schedule.
        beta_2: decay of the mean squared gradient.
        epsilon: a small number that keeps the denominator from 0; None is 1e-7.
        schedule_decay: step t uses beta_1 * (1 - 0.96 ** (schedule_decay * t) / 2). It is 1 in Keras 3, and
            was 0.004 in Keras 2.
        options: lr, decay, clipnorm, clipvalue, global_clipnorm, name; see
            help(dt.keras.optimizers.Optimizer).

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = 1e-7,
        *,
        schedule_decay: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **options)
        self.schedule_decay = float(schedule_decay)

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        return _ScheduledNadam(rate, self)


class _ScheduledNadam(graph_optimizers.Optimizer):
    """State besides m and v: 0.96 ** (schedule_decay * t), the product of all beta_1 taken, beta_2 ** t."""

    slots = ("m", "v")

    def __init__(self, rate: Tensor, given: Nadam) -> None:
        super().__init__(rate, "Nadam")
        self._given = given
        self._fade = 0.96**given.schedule_decay
        self._state: list[Variable] = []
        self._next: list[Tensor] = []

    def _prepare(self) -> None:
        if not self._state:
            starts = {"fade": self._fade, "product": 1.0, "beta2_power": self._given.beta_2}
            with get_default_graph().name_scope(None):
                self._state = [
                    Variable(start, trainable=False, name=f"{self.name}/{label}", dtype=float64)
                    for label, start in starts.items()
                ]

    def _update(self, count: int) -> Op:
        return ApplyScheduledNadam(count, self._given.beta_1, self._given.beta_2, self._given.epsilon)

    def _rate(self) -> Tensor:
        fade, before, power = (v.value() for v in self._state)
        now, ahead = (self._given.beta_1 * (1 - 0.5 * f) for f in (fade, fade * self._fade))
        product = before * now
        rate = cast(super()._rate(), float64)
        self._next = [fade * self._fade, product, power * self._given.beta_2]
        return stack(
            [rate * ahead / (1 - product * ahead), rate * (1 - now) / (1 - product), rsqrt(1 - power)]
        )

    def _finish(self) -> list[Any]:
        return [variable.assign(value) for variable, value in zip(self._state, self._next, strict=True)]

    def variables(self) -> list[Variable]:
        return super().variables() + self._state


class GraphOptimizer(Optimizer):
    """An optimizer of dt.train, such as dt.train.AdamOptimizer(0.01), which compile takes as well."""

    def __init__(self, optimizer: graph_optimizers.Optimizer) -> None:
        given = optimizer.learning_rate
        super().__init__(given if isinstance(given, int | float) else 0.0, name=optimizer.get_name())
        if isinstance(given, TensorLike):
            raise UsageError(
                f"compile: the learning rate of {self.name} is the tensor {given.name}, which is of another "
                "graph than the model's: give a number, and the callback LearningRateScheduler for a "
                "schedule."
            )
        self._optimizer = optimizer

    def make(self, rate: Tensor) -> graph_optimizers.Optimizer:
        made = copy.copy(self._optimizer)
        made._slots = {}
        made.learning_rate = rate
        return made

    def get_config(self) -> dict[str, Any]:
        raise UsageError(
            f"{self.name} of dt.train cannot be saved with a model: compile with one of dt.keras.optimizers, "
            "or save(path, include_optimizer=False)."
        )


def _epsilon(value: float | None) -> float:
    return 1e-7 if value is None else float(value)


_CLASSES = (SGD, RMSprop, Adagrad, Adadelta, Adam, Adamax, Nadam)
sgd, rmsprop, adagrad, adadelta, adam, adamax, nadam = SGD, RMSprop, Adagrad, Adadelta, Adam, Adamax, Nadam

_NAMES = Names("optimizer", {c.__name__.lower(): c for c in _CLASSES} | {c.__name__: c for c in _CLASSES})


def get(identifier: Any) -> Optimizer:
    """The optimizer of a name.

    Args:
        identifier: a name such as "adam", or an optimizer of dt.keras or dt.train.

    Returns:
        Optimizer: the optimizer.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(identifier, graph_optimizers.Optimizer):
        return GraphOptimizer(identifier)
    if isinstance(identifier, Optimizer):
        return identifier
    found = _NAMES.get(identifier)
    if not isinstance(found, Optimizer):
        raise UsageError(
            f"compile: {identifier!r} is no optimizer: give a name such as 'adam', or an object."
        )
    return found


deserialize, serialize = get, as_data
