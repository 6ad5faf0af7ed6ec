"""Recurrent layers: a cell for each step of a sequence, one after the other.

The steps are unrolled, so a sequence has the length that is known when its plan is made. What all steps take
from the inputs is one product before the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations, initializers
from dtrain.keras.calls import call_of, flat
from dtrain.keras.home import home_of
from dtrain.keras.layers.base import Layer, Sizes, Weight, Weighted, batch_size, call_arguments, positive
from dtrain.keras.names import as_data, other_layers
from dtrain.ops.array import expand_dims, ones_like, squeeze, zeros, zeros_like
from dtrain.ops.base import placeholder
from dtrain.ops.dropout import dropout
from dtrain.ops.join import concat, split, stack, unstack
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import where

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "SimpleRNN", "SimpleRNNCell", "StackedRNNCells"]

#: The states before the first step; None is zeros, of which nothing is computed.
States = Sequence[Any]


class Cell(Weighted):
    """Base of the cells that have weights `kernel`, `recurrent_kernel` and `bias`, of `gates` parts each.

    Args:
        units: numbers of the output, and of each state.
        dropout, recurrent_dropout: the shares of inputs and of states that are dropped while training, the
            same ones in all steps.
        options: kernel_, recurrent_ and bias_initializer, also _regularizer and _constraint; Layer's.
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "units",
        "activation",
        "use_bias",
        "dropout",
        "recurrent_dropout",
    )
    bias_initializer: Any
    roles: ClassVar[dict[str, Any]] = {
        "kernel": "glorot_uniform",
        "recurrent": "orthogonal",
        "bias": "zeros",
    }
    gates = 1
    any_size = True

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        implementation: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = positive(units, f"{self.name}: units")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        for share in (dropout, recurrent_dropout):
            if not 0 <= share < 1:
                raise UsageError(
                    f"{self.name}: dropout={share}: give the share to drop, from 0 to less than 1."
                )
        self.dropout, self.recurrent_dropout = float(dropout), float(recurrent_dropout)

    @property
    def state_size(self) -> Any:
        return self.units

    @property
    def output_size(self) -> int:
        return self.units

    def build(self, input_shape: Sizes) -> None:
        wide, window = self.gates * self.units, self.window()
        self.kernel = self.weight("kernel", (*window, input_shape[-1], wide))
        self.recurrent_kernel = self.weight("recurrent", (*window, self.units, wide))
        if self.use_bias:
            self.bias = self.weight("bias", self.bias_shape())

    def window(self) -> tuple[int, ...]:
        """The sizes of the kernels before their inputs and outputs."""
        return ()

    def bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def before(self, x: Tensor, training: Any) -> Tensor:
        """What all steps take from the inputs [batch, steps, features]: [batch, steps, gates * units]."""
        if self.dropout and training is not False:
            shape: Any = x.spec.shape
            x = dropout(x, noise_shape=[None, 1, *shape[2:]], rate=_of(self.dropout, training))
        z = self.of_inputs(x)
        return z + self.bias_before() if self.use_bias else z

    def of_inputs(self, x: Tensor) -> Tensor:
        """The kernel's product with the inputs of all steps."""
        return matmul(x, self.kernel)

    def of_state(self, h: Tensor) -> Tensor:
        """The recurrent kernel's product with a state."""
        return matmul(h, self.recurrent_kernel)

    def bias_before(self) -> Any:
        return self.bias

    def masked(self, x: Tensor, training: Any) -> Any:
        """What states of x's batch are multiplied by; None for nothing."""
        if not self.recurrent_dropout or training is False:
            return None
        return dropout(ones_like(x[..., : self.units]), rate=_of(self.recurrent_dropout, training))

    def step(self, z: Tensor, states: States, dropped: Any) -> tuple[Tensor, list[Tensor]]:
        """The output and the new states, of a part of before() and the old ones."""
        raise NotImplementedError

    def call(self, x: Tensor, states: States = (), training: Any = False) -> tuple[Tensor, list[Tensor]]:
        """One step on [batch, features]; without states from zeros."""
        states = states or [None] * len(_listed(self.state_size))
        z = squeeze(self.before(expand_dims(x, 1), training), [1])
        return self.step(z, states, self.masked(z, training))


def _of(rate: float, training: Any) -> Any:
    return rate if training is True else rate * training


def _times(h: Any, dropped: Any) -> Any:
    return h if dropped is None or h is None else h * dropped


class SimpleRNNCell(Cell):
    """h = activation(x kernel + h recurrent_kernel + bias), for RNN.

    Args:
        units: size of the state.
        activation: a name or a function.
        use_bias: whether there is a bias.
        dropout: fraction of the inputs that is dropped in training.
        recurrent_dropout: fraction of the states that is dropped in training.
        implementation: accepted for Keras 2; without effect.
        options: kernel_, recurrent_ and bias_initializer, the same with _regularizer and _constraint; and
            Layer's arguments.
    """

    def step(self, z: Tensor, states: States, dropped: Any) -> tuple[Tensor, list[Tensor]]:
        h = _times(states[0], dropped)
        y = self.activation(z if h is None else z + matmul(h, self.recurrent_kernel))
        return y, [y]


class LSTMCell(Cell):
    """The long short-term memory with forget gates (Hochreiter & Schmidhuber 1997), for RNN; states h and c.

    Args:
        units: size of each state.
        activation: of the new states, a name or a function.
        recurrent_activation: of the gates.
        use_bias: whether there are biases.
        unit_forget_bias: whether the biases of the forget gates start at 1.
        forget_bias_init: Keras 1's name of it.
        options: kernel_, recurrent_ and bias_initializer, the same with _regularizer and _constraint,
            dropout, recurrent_dropout; and Layer's arguments.
    """

    arguments = (*Cell.arguments, "recurrent_activation", "unit_forget_bias")
    gates = 4

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        forget_bias_init: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **options)
        self.recurrent_activation = activations.get(recurrent_activation)
        if forget_bias_init is not None:  # Keras 1
            unit_forget_bias = forget_bias_init in ("one", "ones")
        self.unit_forget_bias = bool(unit_forget_bias)

    @property
    def state_size(self) -> Any:
        return [self.units, self.units]

    def build(self, input_shape: Sizes) -> None:
        first, n = self.bias_initializer, self.units
        if self.unit_forget_bias:
            ones = initializers.get("ones")

            def forgets(shape: Sequence[int], dtype: Any) -> Tensor:
                return concat([first((n,), dtype), ones((n,), dtype), first((2 * n,), dtype)], 0)

            self.bias_initializer = forgets
        try:
            super().build(input_shape)
        finally:
            self.bias_initializer = first

    def step(self, z: Tensor, states: States, dropped: Any) -> tuple[Tensor, list[Tensor]]:
        h, c = states
        h = _times(h, dropped)
        i, f, g, o = split(z if h is None else z + self.of_state(h), 4, -1)
        new = self.recurrent_activation(i) * self.activation(g)
        c = new if c is None else self.recurrent_activation(f) * c + new
        h = self.recurrent_activation(o) * self.activation(c)
        return h, [h, c]


class GRUCell(Cell):
    """The gated recurrent unit (Cho et al. 2014), for RNN.

    Args:
        units: size of the state.
        activation: of the new state, a name or a function.
        recurrent_activation: of the gates.
        use_bias: whether there are biases.
        reset_after: whether the reset gate is applied after the product with the state (as in cuDNN) or
            before it (Keras 2's default).
        options: kernel_, recurrent_ and bias_initializer, the same with _regularizer and _constraint,
            dropout, recurrent_dropout; and Layer's arguments.
    """

    arguments = (*Cell.arguments, "recurrent_activation", "reset_after")
    gates = 3

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        reset_after: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **options)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = bool(reset_after)

    def bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def bias_before(self) -> Any:
        return self.bias[0] if self.reset_after else self.bias

    def step(self, z: Tensor, states: States, dropped: Any) -> tuple[Tensor, list[Tensor]]:
        old = states[0]
        h, n = _times(old, dropped), self.units
        if self.reset_after:
            bias = self.bias[1] if self.use_bias else None
            a, b, c = split(z, 3, 1)
            if h is None:
                inner = [0.0] * 3 if bias is None else [bias[i * n : (i + 1) * n] for i in range(3)]
            else:
                product = matmul(h, self.recurrent_kernel)
                inner = split(product if bias is None else product + bias, 3, 1)
            update = self.recurrent_activation(a + inner[0])
            reset = self.recurrent_activation(b + inner[1])
            new = self.activation(c + reset * inner[2])
        else:
            gates, c = split(z, [2 * n, n], 1)
            kernel = self.recurrent_kernel
            if h is not None:
                gates = gates + matmul(h, kernel[:, : 2 * n])
            update, reset = (self.recurrent_activation(g) for g in split(gates, 2, 1))
            new = self.activation(c if h is None else c + matmul(reset * h, kernel[:, 2 * n :]))
        y = new - update * new if old is None else update * old + (1 - update) * new
        return y, [y]


class StackedRNNCells(Layer):
    """Several cells in one step, each on the output of the one before, for RNN.

    Args:
        cells: the cells.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    any_size = True

    def __init__(self, cells: Sequence[Any], **options: Any) -> None:
        super().__init__(**options)
        self.cells = list(cells)
        for number, cell in enumerate(self.cells):
            if not cell.named:
                cell.name = f"{cell.name}_{number}"

    @property
    def state_size(self) -> Any:
        return [n for cell in self.cells for n in _listed(cell.state_size)]

    @property
    def output_size(self) -> int:
        return int(_listed(getattr(self.cells[-1], "output_size", self.cells[-1].state_size))[0])

    def build(self, input_shape: Sizes) -> None:
        for cell in self.cells:
            _build(cell, input_shape)
            input_shape = (None, _listed(getattr(cell, "output_size", cell.state_size))[0])

    def call(self, x: Tensor, states: States = (), training: Any = False) -> tuple[Tensor, list[Tensor]]:
        left, found = list(states or [None] * len(self.state_size)), list[Tensor]()
        for cell in self.cells:
            count = len(_listed(cell.state_size))
            x, new = _step(cell, x, left[:count], training)
            found += new
            left = left[count:]
        return x, found

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"cells": as_data(self.cells)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from dtrain.keras.layers import deserialize

        return cls(**{**config, "cells": [deserialize(cell) for cell in config["cells"]]})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _build(cell: Any, shape: Sizes) -> None:
    if not cell.built:
        cell.build(shape)
        cell.built = True


def _step(cell: Any, x: Tensor, states: States, training: Any) -> tuple[Tensor, list[Tensor]]:
    """A step of any cell, a user's own included."""
    more = {"training": training} if "training" in call_arguments(type(cell)) else {}
    if not isinstance(cell, Cell | StackedRNNCells):
        sizes = _listed(cell.state_size)
        states = [zeros([batch_size(x), n]) if s is None else s for s, n in zip(states, sizes, strict=True)]
    y, new = cell.call(x, states, **more)
    return y, _listed(new)


class RNN(Layer):
    """A recurrent layer of a cell, or a list of cells: [batch, steps, features] -> [batch, units].

    A step that is masked leaves states and output as they were. A call accepts initial_state, a list of
    tensors, or a list [inputs, *states]; they are zeros by default.

    Args:
        cell: a cell, such as GRUCell(units), or a list of them.
        return_sequences: whether the outputs of all steps are returned, [batch, steps, units].
        return_state: whether the last states are returned after the output, in a list.
        go_backwards: whether the sequence is read from its end.
        stateful: whether the states at the end of a batch are those at the start of the next, row by row,
            until reset_states(); all batches then have the size in batch_input_shape.
        unroll: accepted for Keras 2; without effect.
        time_major: only False.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    any_size = True

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        time_major: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if time_major:
            raise UsageError(
                f"{self.name}: time_major=True is not supported: sequences are [batch, steps, features]."
            )
        self.stateful, self.batch = bool(stateful), 0
        self._kept: list[Any] = []  # the states that a batch leaves
        self.cell: Any = StackedRNNCells(cell) if isinstance(cell, list | tuple) else cell
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards = bool(go_backwards)

    @property
    def states(self) -> list[Any]:
        return [None] * len(_listed(self.cell.state_size))

    def __call__(self, x: Any, *more: Any, initial_state: Any = None, **options: Any) -> Any:
        if isinstance(x, list | tuple) and initial_state is None:
            x, initial_state = x[0], list(x[1:])
        if initial_state is not None:
            options["initial_state"] = (
                flat([initial_state]) if isinstance(initial_state, Tensor) else list(initial_state)
            )
        return super().__call__(x, *more, **options)

    def build(self, input_shape: Sizes) -> None:
        self.fits(
            input_shape, 2, "sequences [batch, steps, features]", "put Reshape((steps, features)) before it"
        )
        if input_shape[-1] is None:
            raise GraphError("the number of features has to be known")
        _build(self.cell, (None, input_shape[-1]))

    def call(self, x: Tensor, mask: Any = None, training: Any = None, initial_state: Any = None) -> Any:
        cell, steps = self.cell, x.spec.shape[1]  # type: ignore[index]  # its rank is known
        sizes = _listed(cell.state_size)
        if initial_state is not None and len(initial_state) != len(sizes):
            raise GraphError(f"it has {len(sizes)} states, and {len(initial_state)} are given")
        if steps is None:
            return self._stand_in(sizes)
        if steps == 0:
            raise GraphError("its sequences have no steps")
        if self.stateful and not self._kept:
            self._keep_states(x, sizes)
        states: list[Any] = list(initial_state or self._kept or [None] * len(sizes))
        known = isinstance(cell, Cell)
        whole = cell.before(x, training) if known else x
        dropped = cell.masked(whole[:, 0], training) if known else None
        parts = list(enumerate(unstack(whole, axis=1)))
        counts = None if mask is None else unstack(mask, steps, axis=1)
        outputs: list[Any] = []
        for at, part in reversed(parts) if self.go_backwards else parts:
            y, new = cell.step(part, states, dropped) if known else _step(cell, part, states, training)
            if counts is not None:
                old = outputs[-1] if outputs else zeros_like(y)
                y = where(counts[at], y, old)
                new = [
                    where(counts[at], n, zeros_like(n) if s is None else s)
                    for n, s in zip(new, states, strict=True)
                ]
            outputs.append(y)
            states = new
        if self.stateful:
            self.add_update([v.assign(s, read_value=False) for v, s in zip(self._kept, states, strict=True)])
        result = stack(outputs, 1) if self.return_sequences else outputs[-1]
        return [result, *states] if self.return_state else result

    def _keep_states(self, x: Tensor, sizes: list[Any]) -> None:
        """Make what keeps the states."""
        call = call_of(x)
        while call is not None and call.inputs:
            call = call_of(call.inputs[0])
        size = self.batch_given or (None if call is None else call.layer.batch_given)
        if size is None:
            raise GraphError(
                "stateful=True needs the batch's size: give the model's first layer "
                "batch_input_shape=(batch, steps, features), or Input(batch_shape=...)"
            )
        self.batch = int(size)
        self._kept = [
            Weight(
                np.zeros((self.batch, *self.state_sizes(n)), np.float32), trainable=False, name=f"state_{i}"
            )
            for i, n in enumerate(sizes)
        ]

    def state_sizes(self, size: Any) -> tuple[Any, ...]:
        """The sizes of a state of an example, of what the cell says of it."""
        return (int(size),)

    def reset_states(self) -> None:
        """Let the next batch begin with states of zeros. Collective."""
        if self._kept:
            home = home_of(self._kept[0].graph)
            home.initialize(self._kept)
            home.assign(self._kept, [np.zeros(v.shape.as_list(), np.float32) for v in self._kept])

    def _forget(self) -> None:
        super()._forget()
        self._kept = []

    def _stand_in(self, sizes: list[Any]) -> Any:
        """What defines a model whose sequences have no length yet."""
        wide = _listed(getattr(self.cell, "output_size", sizes))[0]
        steps = [None] * self.return_sequences
        result = placeholder("float32", [None, *steps, *self.state_sizes(wide)])
        states = [placeholder("float32", [None, *self.state_sizes(n)]) for n in sizes]
        return [result, *states] if self.return_state else result

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        found = mask[0] if isinstance(mask, list) else mask
        found = found if self.return_sequences else None
        return [found, *[None] * len(self.states)] if self.return_state else found

    def get_config(self) -> dict[str, Any]:
        names = ("return_sequences", "return_state", "go_backwards", "stateful")
        return super().get_config() | {"cell": as_data(self.cell)} | {n: getattr(self, n) for n in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from dtrain.keras.layers import deserialize

        return cls(**{**config, "cell": deserialize(config["cell"])})


class _OfCell(RNN):
    """An RNN of one kind of cell, whose arguments are its own."""

    kind: type[Cell] = Cell

    def __init__(self, units: int, *more: Any, **options: Any) -> None:
        own = {
            "return_sequences",
            "return_state",
            "go_backwards",
            "stateful",
            "unroll",
            "time_major",
            "name",
            "trainable",
            "input_shape",
            "batch_input_shape",
            "batch_size",
            "input_dim",
            "input_length",
            "weights",
            "dtype",
            "activity_regularizer",
        }
        mine = {k: options.pop(k) for k in [*options] if k in own}
        cell = self.kind(units, *more, **options)
        weights = mine.pop("weights", None)
        super().__init__(cell, **mine)
        cell.name = "cell"
        cell._first_values = [] if weights is None else list(weights)
        self.units = cell.units

    @property
    def activation(self) -> Any:
        return self.cell.activation

    def named_weights(self) -> Any:
        for name, w in self.cell.named_weights():
            yield f"{self.name}/{name.partition('/')[2]}", w

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        cell = {k: v for k, v in config.pop("cell")["config"].items() if k not in ("name", "trainable")}
        return config | cell

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


class SimpleRNN(_OfCell):
    """A recurrent layer of SimpleRNNCells: [batch, steps, features] -> [batch, units].

    Args:
        units: size of the state.
        more: SimpleRNNCell's arguments, in its order: activation, use_bias.
        options: SimpleRNNCell's arguments; RNN's (return_sequences, return_state, go_backwards, stateful,
            ...), see help(dt.keras.layers.RNN); and Layer's.

    Raises:
        UsageError: an argument is invalid.
    """

    kind = SimpleRNNCell


class LSTM(_OfCell):
    """A recurrent layer of LSTMCells: [batch, steps, features] -> [batch, units].

    Args:
        units: size of the states h and c.
        more: LSTMCell's arguments, in its order: activation, recurrent_activation, use_bias,
            unit_forget_bias.
        options: LSTMCell's arguments; RNN's (return_sequences, return_state, go_backwards, stateful, ...),
            see help(dt.keras.layers.RNN); and Layer's.

    Raises:
        UsageError: an argument is invalid.

    Example:
        >>> layer = dt.keras.layers.LSTM(16, return_sequences=True, input_shape=(28, 8))
        >>> dt.keras.Sequential([layer]).output_shape
        (None, 28, 16)
    """

    kind = LSTMCell


class GRU(_OfCell):
    """A recurrent layer of GRUCells: [batch, steps, features] -> [batch, units].

    Args:
        units: size of the state.
        more: GRUCell's arguments, in its order: activation, recurrent_activation, use_bias, reset_after.
        options: GRUCell's arguments; RNN's (return_sequences, return_state, go_backwards, stateful, ...), see
            help(dt.keras.layers.RNN); and Layer's.

    Raises:
        UsageError: an argument is invalid.
    """

    kind = GRUCell


__getattr__ = other_layers
