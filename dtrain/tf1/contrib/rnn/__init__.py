"""tf.contrib.rnn: what tf.nn.rnn_cell has, further cells and wrappers, and recurrent nets over lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.names import module_getattr
from dtrain.ops.array import reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.dropout import dropout
from dtrain.ops.initializers import Constant, RandomUniform, Zeros
from dtrain.ops.join import concat, split
from dtrain.ops.linalg import matmul
from dtrain.ops.math import rsqrt, sigmoid, tanh
from dtrain.ops.nn import bias_add, embedding_lookup, relu
from dtrain.ops.normalize import moments
from dtrain.ops.scopes import get_variable, variable_scope
from dtrain.tf1.nn.rnn_cell import (
    _LSTM,
    BasicLSTMCell,
    BasicRNNCell,
    DeviceWrapper,
    DropoutWrapper,
    GRUCell,
    LayerRNNCell,
    LSTMCell,
    LSTMStateTuple,
    MultiRNNCell,
    ResidualWrapper,
    RNNCell,
    _activation,
    _Cell,
    _depth,
    check_cell,
)
from dtrain.tf1.recurrent import bidirectional_dynamic_rnn, static_bidirectional_rnn, static_rnn

__getattr__ = module_getattr("tf.contrib.rnn")


class LSTMBlockCell(LSTMCell):
    """LSTMCell, under the name of TensorFlow's faster kernel. cell_clip is off unless it is above 0."""

    def __init__(
        self,
        num_units: int,
        forget_bias: float = 1.0,
        cell_clip: float | None = None,
        use_peephole: bool = False,
        dtype: Any = None,
        reuse: bool | None = None,
        name: str = "lstm_cell",
    ) -> None:
        clip = None if cell_clip is None or cell_clip <= 0 else cell_clip
        super().__init__(
            num_units, use_peephole, clip, forget_bias=forget_bias, reuse=reuse, name=name, dtype=dtype
        )


class GRUBlockCellV2(GRUCell):
    """GRUCell, under the name of TensorFlow's faster kernel."""

    def __init__(
        self,
        num_units: int | None = None,
        cell_size: int | None = None,
        reuse: bool | None = None,
        name: str = "gru_cell",
    ) -> None:
        units = num_units if cell_size is None else cell_size
        if units is None:
            raise GraphError(f"{type(self).__name__}: num_units is missing.")
        super().__init__(units, reuse=reuse, name=name)


class GRUBlockCell(GRUBlockCellV2):
    """The same, with the former names of variables: w_ru, w_c, b_ru and b_c."""

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        gates = self.add_variable("w_ru", [depth + units, 2 * units])
        candidate = self.add_variable("w_c", [depth + units, units])
        of_gates = self.add_variable("b_ru", [2 * units], initializer=Constant(1.0))
        of_candidate = self.add_variable("b_c", [units], initializer=Zeros())
        self._of_gates, self._of_candidate = (gates, of_gates), (candidate, of_candidate)


class LayerNormBasicLSTMCell(_LSTM):
    """LSTM whose sums are normalised over the units (Ba et al., arXiv:1607.06450), and recurrent dropout.

    Args:
        input_size: without a meaning.
        layer_norm: whether to normalise; if not there is a bias.
        norm_gain, norm_shift: what gamma and beta begin with.
        dropout_keep_prob: of what is written to c (Semeniuta et al., arXiv:1603.05118), a number or a tensor.
        dropout_prob_seed: its seed.
    """

    def __init__(
        self,
        num_units: int,
        forget_bias: float = 1.0,
        input_size: None = None,
        activation: Any = tanh,
        layer_norm: bool = True,
        norm_gain: float = 1.0,
        norm_shift: float = 0.0,
        dropout_keep_prob: Any = 1.0,
        dropout_prob_seed: int | None = None,
        reuse: bool | None = None,
    ) -> None:
        super().__init__(num_units, activation, reuse, None, None)
        self._forget_bias, self._normal = forget_bias, layer_norm
        self._gain, self._shift = norm_gain, norm_shift
        self._keep, self._seed = dropout_keep_prob, dropout_prob_seed

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        self._kernel = self.add_variable("kernel", [depth + units, 4 * units])
        self._pairs: dict[str, tuple[Any, Any]] = {}
        if not self._normal:
            self._bias = self.add_variable("bias", [4 * units], initializer=Zeros())
            return
        for part in ("input", "transform", "forget", "output", "state"):
            gamma = self.add_variable(f"{part}/gamma", [units], initializer=Constant(self._gain))
            beta = self.add_variable(f"{part}/beta", [units], initializer=Constant(self._shift))
            self._pairs[part] = gamma, beta

    def _norm(self, part: str, x: Tensor) -> Tensor:
        if not self._normal:
            return x
        gamma, beta = self._pairs[part]
        mean, variance = moments(x, [1], keep_dims=True)
        return (x - mean) * rsqrt(variance + 1e-12) * gamma + beta

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        c, h = self._parts(state)
        sums = matmul(concat([inputs, h], 1), self._kernel)
        sums = sums if self._normal else bias_add(sums, self._bias)
        parts = ("input", "transform", "forget", "output")
        i, j, f, o = (self._norm(p, x) for p, x in zip(parts, split(sums, 4, 1), strict=True))
        g = self._activation(j)
        if not isinstance(self._keep, float | int) or self._keep < 1:
            g = dropout(g, self._keep, seed=self._seed)
        c = self._norm("state", c * sigmoid(f + self._forget_bias) + sigmoid(i) * g)
        h = self._activation(c) * sigmoid(o)
        return h, LSTMStateTuple(c, h)


class UGRNNCell(_Cell):
    """The update gate alone: state = g state + (1 - g) c (Collins et al., arXiv:1611.09913).

    Args:
        initializer: of the kernel, which the inputs and the state side by side are multiplied by.
        forget_bias: added to the gate's sums.
        activation, reuse: see BasicRNNCell.
    """

    def __init__(
        self,
        num_units: int,
        initializer: Any = None,
        forget_bias: float = 1.0,
        activation: Any = tanh,
        reuse: bool | None = None,
    ) -> None:
        super().__init__(num_units, activation, reuse, None, None)
        self._initializer, self._forget_bias = initializer, forget_bias

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        self._kernel = self.add_variable("kernel", [depth + units, 2 * units], initializer=self._initializer)
        self._bias = self.add_variable("bias", [2 * units], initializer=Zeros())

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        gate, candidate = split(self._linear(self._kernel, self._bias, inputs, state), 2, 1)
        g = sigmoid(gate + self._forget_bias)
        output = g * state + (1 - g) * self._activation(candidate)
        return output, output


class NASCell(_LSTM):
    """The cell that a search by reinforcement found (Zoph and Le, arXiv:1611.01578).

    Args:
        num_proj: size of the outputs, made by a product; by default they are as they are.
        use_biases: whether the sums of what it gave out have a bias.
        reuse: see BasicRNNCell.
    """

    def __init__(
        self,
        num_units: int,
        num_proj: int | None = None,
        use_biases: bool = False,
        reuse: bool | None = None,
    ) -> None:
        super().__init__(num_units, tanh, reuse, None, None)
        self._num_proj, self._use_biases = num_proj, use_biases

    @property
    def output_size(self) -> Any:
        return self._num_units if self._num_proj is None else self._num_proj

    def build(self, inputs_shape: Any) -> None:
        units, depth = self._num_units, _depth(inputs_shape, self.name)
        self._recurrent = self.add_variable("recurrent_kernel", [self.output_size, 8 * units])
        self._kernel = self.add_variable("kernel", [depth, 8 * units])
        if self._use_biases:
            self._bias = self.add_variable("bias", [8 * units], initializer=Zeros())
        if self._num_proj is not None:
            self._projection = self.add_variable("projection_weights", [units, self._num_proj])

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        c, h = self._parts(state)
        sums = matmul(h, self._recurrent)
        m = split(bias_add(sums, self._bias) if self._use_biases else sums, 8, 1)
        x = split(matmul(inputs, self._kernel), 8, 1)
        first = tanh(sigmoid(x[0] + m[0]) * relu(x[1] + m[1]))
        second = tanh(sigmoid(x[2] + m[2]) + relu(x[3] * m[3]))
        third = tanh(tanh(x[4] + m[4]) * sigmoid(x[5] + m[5]))
        fourth = sigmoid(tanh(x[6] + m[6]) + sigmoid(x[7] + m[7]))
        c = tanh(first + c) * second
        h = tanh(c * tanh(third + fourth))
        h = h if self._num_proj is None else matmul(h, self._projection)
        return h, LSTMStateTuple(c, h)


class _Around(RNNCell):
    """A cell around another, with variables and a scope of its own."""

    def __init__(self, cell: Any, reuse: bool | None) -> None:
        super().__init__(_reuse=reuse)
        check_cell(type(self).__name__, cell)
        self._cell = cell

    @property
    def state_size(self) -> Any:
        return self._cell.state_size

    @property
    def output_size(self) -> Any:
        return self._cell.output_size

    def zero_state(self, batch_size: Any, dtype: Any) -> Any:
        return self._cell.zero_state(batch_size, dtype)

    def _project(self, x: Any, size: int) -> Tensor:
        x = convert_to_tensor(x)
        kernel = get_variable("kernel", [_depth(x.shape, self.name), size], x.dtype)
        bias = get_variable("bias", [size], x.dtype, initializer=Zeros())
        return bias_add(matmul(x, kernel), bias)


class OutputProjectionWrapper(_Around):
    """A cell whose outputs go through a dense layer."""

    def __init__(
        self, cell: Any, output_size: int, activation: Any = None, reuse: bool | None = None
    ) -> None:
        super().__init__(cell, reuse)
        self._size, self._activation = int(output_size), _activation(activation, lambda x: x)

    @property
    def output_size(self) -> Any:
        return self._size

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        outputs, state = self._cell(inputs, state)
        return self._activation(self._project(outputs, self._size)), state


class InputProjectionWrapper(_Around):
    """A cell whose inputs go through a dense layer. input_size is without a meaning."""

    def __init__(
        self,
        cell: Any,
        num_proj: int,
        activation: Any = None,
        input_size: None = None,
        reuse: bool | None = None,
    ) -> None:
        super().__init__(cell, reuse)
        self._size, self._activation = int(num_proj), _activation(activation, lambda x: x)

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        return self._cell(self._activation(self._project(inputs, self._size)), state)


class EmbeddingWrapper(_Around):
    """A cell whose inputs are integers [batch] or [batch, 1], numbers of rows of a table."""

    def __init__(
        self,
        cell: Any,
        embedding_classes: int,
        embedding_size: int,
        initializer: Any = None,
        reuse: bool | None = None,
    ) -> None:
        super().__init__(cell, reuse)
        if embedding_classes <= 0 or embedding_size <= 0:
            raise GraphError("EmbeddingWrapper: embedding_classes and embedding_size are above 0.")
        self._shape = [int(embedding_classes), int(embedding_size)]
        self._initializer = initializer or RandomUniform(-math.sqrt(3), math.sqrt(3))

    def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        first = state[0] if isinstance(state, list | tuple) else state
        while isinstance(first, list | tuple):
            first = first[0]
        table = get_variable("embedding", self._shape, first.dtype, initializer=self._initializer)
        return self._cell(embedding_lookup(table, reshape(inputs, [-1])), state)


def stack_bidirectional_dynamic_rnn(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    inputs: Any,
    initial_states_fw: Sequence[Any] | None = None,
    initial_states_bw: Sequence[Any] | None = None,
    dtype: Any = None,
    sequence_length: Any = None,
    parallel_iterations: int | None = None,
    time_major: bool = False,
    scope: Any = None,
) -> tuple[Any, Any, Any]:
    """bidirectional_dynamic_rnn in layers, each of which has both outputs of the one before, side by side.

    Returns:
        The last layer's outputs; of all layers the last states forwards, and those backwards.
    """

    def layer(fw: Any, bw: Any, x: Any, first_fw: Any, first_bw: Any) -> tuple[Any, Any, Any]:
        outputs, (last_fw, last_bw) = bidirectional_dynamic_rnn(
            *(fw, bw, x, sequence_length, first_fw, first_bw, dtype), time_major=time_major
        )
        return concat(outputs, 2), last_fw, last_bw

    return _stacked(cells_fw, cells_bw, inputs, initial_states_fw, initial_states_bw, scope, layer)


def stack_bidirectional_rnn(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    inputs: Sequence[Any],
    initial_states_fw: Sequence[Any] | None = None,
    initial_states_bw: Sequence[Any] | None = None,
    dtype: Any = None,
    sequence_length: Any = None,
    scope: Any = None,
) -> tuple[Any, Any, Any]:
    """As stack_bidirectional_dynamic_rnn, of a list of inputs; the outputs are a list."""

    def layer(fw: Any, bw: Any, x: Any, first_fw: Any, first_bw: Any) -> tuple[Any, Any, Any]:
        return static_bidirectional_rnn(fw, bw, x, first_fw, first_bw, dtype, sequence_length)

    return _stacked(cells_fw, cells_bw, inputs, initial_states_fw, initial_states_bw, scope, layer)


def _stacked(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    inputs: Any,
    firsts_fw: Sequence[Any] | None,
    firsts_bw: Sequence[Any] | None,
    scope: Any,
    layer: Callable[..., tuple[Any, Any, Any]],
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    count = len(cells_fw)
    lists = (cells_fw, cells_bw, firsts_fw, firsts_bw)
    if not count or any(not isinstance(x, list | tuple) or len(x) != count for x in lists if x is not None):
        raise GraphError("stack_bidirectional: cells and initial states are lists of as many, one or more.")
    last: list[tuple[Any, Any]] = []
    with variable_scope(scope or "stack_bidirectional_rnn"):
        for i, (fw, bw) in enumerate(zip(cells_fw, cells_bw, strict=True)):
            with variable_scope(f"cell_{i}"):
                firsts = (None if f is None else f[i] for f in (firsts_fw, firsts_bw))
                inputs, *states = layer(fw, bw, inputs, *firsts)
                last.append(tuple(states))
    return inputs, *(tuple(states) for states in zip(*last, strict=True))


__all__ = [
    "BasicLSTMCell",
    "BasicRNNCell",
    "DeviceWrapper",
    "DropoutWrapper",
    "EmbeddingWrapper",
    "GRUBlockCell",
    "GRUBlockCellV2",
    "GRUCell",
    "InputProjectionWrapper",
    "LSTMBlockCell",
    "LSTMCell",
    "LSTMStateTuple",
    "LayerNormBasicLSTMCell",
    "LayerRNNCell",
    "MultiRNNCell",
    "NASCell",
    "OutputProjectionWrapper",
    "RNNCell",
    "ResidualWrapper",
    "UGRNNCell",
    "stack_bidirectional_dynamic_rnn",
    "stack_bidirectional_rnn",
    "static_bidirectional_rnn",
    "static_rnn",
]
