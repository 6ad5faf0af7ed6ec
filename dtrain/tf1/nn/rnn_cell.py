"""tf.nn.rnn_cell: what a recurrent network computes in one step, with TensorFlow 1's names of variables.

A cell is called with inputs [batch, depth] and a state, and returns outputs and the next state.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import TensorShape, as_dims, shape_text
from dtrain.ops.array import ones, zeros
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.clip import clip_by_value
from dtrain.ops.dropout import dropout
from dtrain.ops.initializers import Constant, Zeros
from dtrain.ops.join import concat, split
from dtrain.ops.linalg import matmul
from dtrain.ops.math import sigmoid, tanh
from dtrain.ops.nn import bias_add
from dtrain.ops.scopes import VariableScope, get_variable, variable_scope
from dtrain.ops.state import Variable
from dtrain.tf1.structure import check_same, flatten, is_nested, map_structure, pack


class LSTMStateTuple(NamedTuple):
    """The state of an LSTM: c, what it remembers, and h, what it gave out."""

    c: Any
    h: Any

    @property
    def dtype(self) -> Any:
        if self.c.dtype != self.h.dtype:
            raise TypeError(f"Inconsistent internal state: {self.c.dtype} vs {self.h.dtype}")
        return self.c.dtype


class RNNCell:
    """What all cells have in common; a custom cell says state_size, output_size and call.

    Args:
        name: of its variable scope; by default the class's name in small letters.
        trainable, dtype: of its variables; dtype is by default that of the inputs.

    Its variables are made when it is called for the first time, and used whenever it is called again.
    """

    built = False
    trainable = True
    dtype: Any = None
    _name: str | None = None
    _reuse: bool | None = None
    _scope: VariableScope | None = None

    def __init__(
        self, trainable: bool = True, name: str | None = None, dtype: Any = None, _reuse: bool | None = None
    ) -> None:
        self.trainable, self._name, self.dtype, self._reuse = trainable, name, dtype, _reuse

    @property
    def state_size(self) -> Any:
        """Sizes of the state: an integer, a shape, or a structure of them."""
        raise NotImplementedError("a cell says its state_size")

    @property
    def output_size(self) -> Any:
        """Size of the outputs: an integer, a shape, or a structure of them."""
        raise NotImplementedError("a cell says its output_size")

    @property
    def name(self) -> str:
        return self._name or self._label()

    def build(self, inputs_shape: Any) -> None:
        """Make the variables, given the shape of the inputs; done once, before the first call."""

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        """The outputs and the next state."""
        raise NotImplementedError(
            f"{type(self).__name__} says what it computes in a method call(inputs, state)"
        )

    def __call__(self, inputs: Any, state: Any, scope: Any = None) -> tuple[Any, Any]:
        """One step: outputs and the next state. scope: where its variables are, for the first call."""
        first = self._scope is None
        reuse = True if self._reuse or (self.built and not first) else None
        if not first:
            entered = variable_scope(self._scope, reuse=True if self.built else self._reuse)
        elif scope is not None:
            entered = variable_scope(scope, reuse=reuse)
        elif self._reuse:
            entered = variable_scope(self._label(), reuse=True)
        else:
            entered = variable_scope(None, default_name=self._label())
        with entered as opened:
            self._scope = opened
            if not is_nested(inputs):
                inputs = convert_to_tensor(inputs)
            if not self.built:
                self.dtype = self.dtype or getattr(inputs, "dtype", None)
                self.build(None if is_nested(inputs) else inputs.shape)
            result = self.call(inputs, state)
            self.built = True
        return result

    def _label(self) -> str:
        return (
            self._name
            or re.sub(r"(?<=[a-z0-9])([A-Z])|(?<!^)([A-Z])(?=[a-z])", r"_\1\2", type(self).__name__).lower()
        )

    def add_variable(
        self,
        name: str,
        shape: Any,
        dtype: Any = None,
        initializer: Any = None,
        regularizer: Any = None,
        trainable: bool = True,
        constraint: Any = None,
    ) -> Variable:
        """get_variable in the cell's scope, for build."""
        return get_variable(
            name,
            shape,
            dtype or self.dtype,
            initializer,
            regularizer,
            trainable and self.trainable,
            constraint=constraint,
        )

    add_weight = add_variable

    @property
    def variables(self) -> list[Variable]:
        """Those of its scope, once it has been called."""
        return [] if self._scope is None else self._scope.global_variables()

    @property
    def trainable_variables(self) -> list[Variable]:
        return [] if self._scope is None else self._scope.trainable_variables()

    weights, trainable_weights = variables, trainable_variables

    def zero_state(self, batch_size: Any, dtype: Any) -> Any:
        """Zeros for a batch of this size, a number or a scalar tensor, in the structure of state_size."""
        with get_default_graph().name_scope(f"{type(self).__name__}ZeroState"):
            return of_sizes(self.state_size, lambda size: zeros([batch_size, *_dims(size)], dtype))

    def get_initial_state(self, inputs: Any = None, batch_size: Any = None, dtype: Any = None) -> Any:
        """zero_state, for a batch of this size, or of the size and dtype of inputs."""
        if inputs is not None:
            from dtrain.ops.late import shape

            first = convert_to_tensor(inputs)
            batch_size, dtype = shape(first)[0], first.dtype
        if batch_size is None or dtype is None:
            raise GraphError("get_initial_state: give inputs, or batch_size and dtype.")
        return self.zero_state(batch_size, dtype)


def of_sizes(sizes: Any, make: Callable[[Any], Any]) -> Any:
    """A structure of what `make` gives of each size in a structure of sizes; a TensorShape is one size."""
    if isinstance(sizes, list | tuple):
        parts = [of_sizes(size, make) for size in sizes]
        return type(sizes)(*parts) if hasattr(sizes, "_fields") else type(sizes)(parts)
    return make(sizes)


def _dims(size: Any) -> list[Any]:
    """A size as the sizes of all axes but the batch's."""
    return list(as_dims(size) or ()) if isinstance(size, TensorShape) else [int(size)]


def _depth(inputs_shape: Any, what: str) -> int:
    """The size of the last axis, which the variables are made for."""
    dims = as_dims(inputs_shape)
    if not dims or dims[-1] is None:
        raise GraphError(
            f"{what}: the last axis of the inputs has to have a known size, but their shape is "
            f"{shape_text(dims)}: say it in the placeholder, or with set_shape."
        )
    return dims[-1]


def _activation(activation: Any, default: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if activation is None:
        return default
    if isinstance(activation, str):
        from dtrain.keras import activations

        return activations.get(activation)
    return activation


class LayerRNNCell(RNNCell):
    """A cell whose variables are made by build."""


class _Cell(LayerRNNCell):
    """A cell of num_units, whose kernel multiplies the inputs and what it gave out, side by side."""

    _gates = 1

    def __init__(
        self,
        num_units: int,
        activation: Any,
        reuse: bool | None,
        name: str | None,
        dtype: Any,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, _reuse=reuse, **options)
        self._num_units = int(num_units)
        self._activation = _activation(activation, tanh)

    @property
    def state_size(self) -> Any:
        return self._num_units

    @property
    def output_size(self) -> Any:
        return self._num_units

    def _linear(self, kernel: Variable, bias: Variable, *parts: Any) -> Tensor:
        return bias_add(matmul(concat(parts, 1), kernel), bias)


class BasicRNNCell(_Cell):
    """output = state = activation(inputs W + state U + b): the simplest cell (Elman, 1990).

    Args:
        activation: a function, or the name of one of Keras's; tanh by default.
        reuse: whether its variables are there already in the scope.
    """

    def __init__(
        self,
        num_units: int,
        activation: Any = None,
        reuse: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_units, activation, reuse, name, dtype, **kwargs)

    def build(self, inputs_shape: Any) -> None:
        depth = _depth(inputs_shape, self.name)
        self._kernel = self.add_variable("kernel", [depth + self._num_units, self._num_units])
        self._bias = self.add_variable("bias", [self._num_units], initializer=Zeros())

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        output = self._activation(self._linear(self._kernel, self._bias, inputs, state))
        return output, output


class GRUCell(_Cell):
    """A gated recurrent unit (Cho et al., 2014), whose reset gate is before the product.

    Args:
        activation, reuse: see BasicRNNCell.
        kernel_initializer, bias_initializer: of both kernels; of both biases, by default 1 for the gates' and
            0 for the candidate's.
    """

    def __init__(
        self,
        num_units: int,
        activation: Any = None,
        reuse: bool | None = None,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_units, activation, reuse, name, dtype, **kwargs)
        self._kernel_initializer, self._bias_initializer = kernel_initializer, bias_initializer

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        made = []
        for part, columns, first in (("gates", 2 * units, Constant(1.0)), ("candidate", units, Zeros())):
            kernel = self.add_variable(
                f"{part}/kernel", [depth + units, columns], initializer=self._kernel_initializer
            )
            bias = self.add_variable(f"{part}/bias", [columns], initializer=self._bias_initializer or first)
            made += [(kernel, bias)]
        self._of_gates, self._of_candidate = made

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        reset, update = split(sigmoid(self._linear(*self._of_gates, inputs, state)), 2, 1)
        candidate = self._activation(self._linear(*self._of_candidate, inputs, reset * state))
        output = update * state + (1 - update) * candidate
        return output, output


class _LSTM(_Cell):
    """What LSTM cells have in common: a state of two, as a tuple or side by side in one tensor."""

    _state_is_tuple = True

    @property
    def state_size(self) -> Any:
        sizes = LSTMStateTuple(self._num_units, self.output_size)
        return sizes if self._state_is_tuple else sum(sizes)

    def _parts(self, state: Any) -> tuple[Any, Any]:
        if self._state_is_tuple:
            if not isinstance(state, list | tuple) or len(state) != 2:
                raise GraphError(f"{self.name}: the state is (c, h), and not {state!r}.")
            return state[0], state[1]
        return tuple(split(state, [self._num_units, self.output_size], 1))  # type: ignore[return-value]  # two

    def _state(self, c: Any, h: Any) -> Any:
        return LSTMStateTuple(c, h) if self._state_is_tuple else concat([c, h], 1)


class BasicLSTMCell(_LSTM):
    """Long short-term memory without peepholes (Zaremba et al., arXiv:1409.2329).

    Args:
        forget_bias: added to the forget gate's; 0 for variables that Cudnn trained.
        state_is_tuple: whether the state is an LSTMStateTuple, or c and h side by side.
        activation, reuse: see BasicRNNCell.
    """

    def __init__(
        self,
        num_units: int,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Any = None,
        reuse: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_units, activation, reuse, name, dtype, **kwargs)
        self._forget_bias, self._state_is_tuple = forget_bias, state_is_tuple

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        self._kernel = self.add_variable("kernel", [depth + units, 4 * units])
        self._bias = self.add_variable("bias", [4 * units], initializer=Zeros())

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        c, h = self._parts(state)
        i, j, f, o = split(self._linear(self._kernel, self._bias, inputs, h), 4, 1)
        c = c * sigmoid(f + self._forget_bias) + sigmoid(i) * self._activation(j)
        h = self._activation(c) * sigmoid(o)
        return h, self._state(c, h)


class LSTMCell(_LSTM):
    """Long short-term memory with what Sak et al. (2014) add: peepholes, clipping, a projection.

    Args:
        use_peepholes: whether the gates see c.
        cell_clip: c is kept within -cell_clip and cell_clip.
        initializer: of the kernels and peepholes.
        num_proj: size of the outputs, made by a product; by default they are as they are.
        proj_clip: the projected outputs are kept within -proj_clip and proj_clip.
        num_unit_shards, num_proj_shards: only None: a variable is whole.
        forget_bias, state_is_tuple, activation, reuse: see BasicLSTMCell.
    """

    def __init__(
        self,
        num_units: int,
        use_peepholes: bool = False,
        cell_clip: float | None = None,
        initializer: Any = None,
        num_proj: int | None = None,
        proj_clip: float | None = None,
        num_unit_shards: None = None,
        num_proj_shards: None = None,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Any = None,
        reuse: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_units, activation, reuse, name, dtype, **kwargs)
        if num_unit_shards not in (None, 1) or num_proj_shards not in (None, 1):
            raise GraphError(
                "LSTMCell: num_unit_shards and num_proj_shards are not supported: leave them out."
            )
        self._peepholes, self._initializer = use_peepholes, initializer
        self._cell_clip, self._num_proj, self._proj_clip = cell_clip, num_proj, proj_clip
        self._forget_bias, self._state_is_tuple = forget_bias, state_is_tuple

    @property
    def output_size(self) -> Any:
        return self._num_units if self._num_proj is None else self._num_proj

    def build(self, inputs_shape: Any) -> None:
        units, depth, first = self._num_units, _depth(inputs_shape, self.name), self._initializer
        self._kernel = self.add_variable("kernel", [depth + self.output_size, 4 * units], initializer=first)
        # as in TensorFlow, where a scope's initializer does not reach it
        self._bias = self.add_variable("bias", [4 * units], initializer=Zeros())
        if self._peepholes:
            self._diagonals = [
                self.add_variable(f"w_{gate}_diag", [units], initializer=first) for gate in "fio"
            ]
        if self._num_proj is not None:
            self._projection = self.add_variable(
                "projection/kernel", [units, self._num_proj], initializer=first
            )

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        c, h = self._parts(state)
        i, j, f, o = split(self._linear(self._kernel, self._bias, inputs, h), 4, 1)
        f = f + self._forget_bias
        if self._peepholes:
            of_f, of_i, of_o = self._diagonals
            f, i = f + of_f * c, i + of_i * c
        c = sigmoid(f) * c + sigmoid(i) * self._activation(j)
        if self._cell_clip is not None:
            c = clip_by_value(c, -self._cell_clip, self._cell_clip)
        h = sigmoid(o + of_o * c if self._peepholes else o) * self._activation(c)
        if self._num_proj is not None:
            h = matmul(h, self._projection)
            if self._proj_clip is not None:
                h = clip_by_value(h, -self._proj_clip, self._proj_clip)
        return h, self._state(c, h)


# -- cells around cells ----------------------------------------------------------------------------------
def check_cell(what: str, cell: Any) -> None:
    """Raise TypeError where something is no cell."""
    if not (hasattr(cell, "state_size") and hasattr(cell, "output_size") and callable(cell)):
        raise TypeError(f"{what}: {cell!r} is no RNNCell.")


class MultiRNNCell(RNNCell):
    """Cells one on top of the other: each has the outputs of the one before as inputs.

    One cell in several layers has one set of variables for all, as in TensorFlow since 1.2; where its inputs
    and outputs differ in size, so that this cannot be, each layer has its own, as in TensorFlow 1.0.

    Args:
        state_is_tuple: whether the state is a tuple of theirs, or all side by side in one tensor.
    """

    def __init__(self, cells: Sequence[Any], state_is_tuple: bool = True, name: str | None = None) -> None:
        super().__init__(name=name)
        if not isinstance(cells, list | tuple) or not cells:
            raise GraphError("MultiRNNCell: cells is a list of one cell or more.")
        for cell in cells:
            check_cell("MultiRNNCell", cell)
            if not state_is_tuple and is_nested(cell.state_size):
                raise GraphError("MultiRNNCell: with state_is_tuple=False no cell's state may be a tuple.")
        self._cells, self._state_is_tuple = list(cells), state_is_tuple

    @property
    def state_size(self) -> Any:
        sizes = tuple(cell.state_size for cell in self._cells)
        return sizes if self._state_is_tuple else sum(sizes)

    @property
    def output_size(self) -> Any:
        return self._cells[-1].output_size

    def zero_state(self, batch_size: Any, dtype: Any) -> Any:
        if not self._state_is_tuple:
            return super().zero_state(batch_size, dtype)
        return tuple(cell.zero_state(batch_size, dtype) for cell in self._cells)

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        if self._state_is_tuple:
            if not is_nested(state) or len(state) != len(self._cells):
                raise GraphError(f"{self.name}: the state is one of {len(self._cells)} cells, not {state!r}.")
        else:
            state = split(state, [cell.state_size for cell in self._cells], 1)
        if not self.built and len({id(_inner(c)) for c in self._cells}) < len(self._cells):
            depth = None if is_nested(inputs) else convert_to_tensor(inputs).shape[-1].value
            if depth != self._cells[0].output_size:
                self._cells = [_apart(cell) for cell in self._cells]
        after = []
        for i, (cell, own) in enumerate(zip(self._cells, state, strict=True)):
            with variable_scope(f"cell_{i}"):
                inputs, own = cell(inputs, own)
                after.append(own)
        return inputs, tuple(after) if self._state_is_tuple else concat(after, 1)


class _Wrapper(RNNCell):
    """A cell around another, with its sizes; it has no variables and no scope of its own."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        check_cell(type(self).__name__, cell)
        self._cell = cell

    @property
    def wrapped_cell(self) -> Any:
        return self._cell

    @property
    def state_size(self) -> Any:
        return self._cell.state_size

    @property
    def output_size(self) -> Any:
        return self._cell.output_size

    @property
    def variables(self) -> list[Variable]:
        return self._cell.variables

    @property
    def trainable_variables(self) -> list[Variable]:
        return self._cell.trainable_variables

    weights, trainable_weights = variables, trainable_variables

    def zero_state(self, batch_size: Any, dtype: Any) -> Any:
        return self._cell.zero_state(batch_size, dtype)


def _inner(cell: Any) -> Any:
    """The cell in all wrappers."""
    while isinstance(cell, _Wrapper):
        cell = cell.wrapped_cell
    return cell


def _apart(cell: Any) -> Any:
    """A cell with variables of its own, if it has none yet."""
    other = copy(cell)
    if isinstance(other, _Wrapper):
        other._cell = _apart(other._cell)
    return other


class DropoutWrapper(_Wrapper):
    """Dropout on the inputs, the outputs and the state of a cell.

    Args:
        input_keep_prob, output_keep_prob, state_keep_prob: numbers or scalar tensors; 1 does nothing.
        variational_recurrent: the same masks in all steps of a run, the same for all examples (Gal, 2015).
        input_size: with this and input_keep_prob, the sizes of the inputs; dtype: that of all.
        seed: the masks follow from it.
        dropout_state_filter_visitor: a function of a part of the state that gives booleans in its structure,
            whether to drop; by default all but an LSTM's c.
    """

    def __init__(
        self,
        cell: Any,
        input_keep_prob: Any = 1.0,
        output_keep_prob: Any = 1.0,
        state_keep_prob: Any = 1.0,
        variational_recurrent: bool = False,
        input_size: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        dropout_state_filter_visitor: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(cell)
        self._keep = {"input": input_keep_prob, "state": state_keep_prob, "output": output_keep_prob}
        for what, keep in self._keep.items():
            if not isinstance(keep, TensorLike) and not 0 < keep <= 1:
                raise GraphError(f"DropoutWrapper: {what}_keep_prob is {keep}: it is above 0, up to 1.")
        self._seed, self._filter = seed, dropout_state_filter_visitor or _not_c
        self._masks: dict[str, list[Tensor]] | None = None
        if variational_recurrent:
            if dtype is None:
                raise GraphError("DropoutWrapper: variational_recurrent needs dtype.")
            if input_size is None and self._drops("input"):
                raise GraphError(
                    "DropoutWrapper: variational_recurrent with input_keep_prob needs input_size."
                )
            sizes = {"input": input_size, "state": cell.state_size, "output": cell.output_size}
            self._masks = {
                what: [
                    self._dropout(ones([1, *_dims(size)], dtype), what, i)
                    for i, size in enumerate(flatten(of_sizes(sizes[what], lambda size: size)))
                ]
                for what in sizes
                if self._drops(what)
            }

    def _drops(self, what: str) -> bool:
        keep = self._keep[what]
        return isinstance(keep, TensorLike) or keep < 1

    def _dropout(self, x: Any, what: str, i: int) -> Tensor:
        seed = None if self._seed is None else zlib.crc32(f"{self._seed} {what} {i}".encode())
        return dropout(x, self._keep[what], seed=seed)

    def _dropped(self, what: str, values: Any, kept: Sequence[bool] | None = None) -> Any:
        """Values with dropout, but for those that are kept."""
        if not self._drops(what):
            return values
        leaves = flatten(values)
        for i, leaf in enumerate(leaves):
            if kept is None or not kept[i]:
                mask = None if self._masks is None else self._masks[what][i]
                leaves[i] = self._dropout(leaf, what, i) if mask is None else leaf * mask
        return pack(values, leaves)

    def __call__(self, inputs: Any, state: Any, scope: Any = None) -> tuple[Any, Any]:
        inputs = self._dropped("input", inputs)
        outputs, state = self._cell(inputs, state) if scope is None else self._cell(inputs, state, scope)
        if self._drops("state"):
            kept = [not drops for drops in _choices(state, self._filter)]
            state = self._dropped("state", state, kept)
        return self._dropped("output", outputs), state


def _not_c(state: Any) -> Any:
    return LSTMStateTuple(False, True) if isinstance(state, LSTMStateTuple) else True


def _choices(state: Any, visit: Callable[[Any], Any]) -> list[bool]:
    """Of each leaf of a state what a filter says of it or of a part that it is in."""
    said = visit(state)
    if is_nested(said):
        check_same(state, said, "DropoutWrapper: a part of the state and what its filter gives")
        return flatten(said)
    if is_nested(state):
        return [choice for part in state for choice in _choices(part, visit)]
    return [bool(said)]


class ResidualWrapper(_Wrapper):
    """Adds a cell's inputs to its outputs, or does what residual_fn(inputs, outputs) says."""

    def __init__(self, cell: Any, residual_fn: Callable[[Any, Any], Any] | None = None) -> None:
        super().__init__(cell)
        self._residual = residual_fn or _sum

    def __call__(self, inputs: Any, state: Any, scope: Any = None) -> tuple[Any, Any]:
        outputs, state = self._cell(inputs, state) if scope is None else self._cell(inputs, state, scope)
        return self._residual(inputs, outputs), state


def _sum(inputs: Any, outputs: Any) -> Any:
    check_same(inputs, outputs, "ResidualWrapper: inputs and outputs")
    return map_structure(lambda x, y: x + y, inputs, outputs)


class DeviceWrapper(_Wrapper):
    """The cell itself: the device is one for a session."""

    def __init__(self, cell: Any, device: Any) -> None:
        super().__init__(cell)

    def __call__(self, inputs: Any, state: Any, scope: Any = None) -> tuple[Any, Any]:
        return self._cell(inputs, state) if scope is None else self._cell(inputs, state, scope)


__all__ = [
    "BasicLSTMCell",
    "BasicRNNCell",
    "DeviceWrapper",
    "DropoutWrapper",
    "GRUCell",
    "LSTMCell",
    "LSTMStateTuple",
    "MultiRNNCell",
    "RNNCell",
    "ResidualWrapper",
]
