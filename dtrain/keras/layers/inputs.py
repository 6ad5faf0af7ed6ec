"""Input: where a model begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.keras.calls import Call
from dtrain.keras.layers.base import Layer
from dtrain.ops.base import convert_to_tensor, placeholder


class InputLayer(Layer):
    """The shape of one example, as a model's first entry.

    Args:
        input_shape: shape of one example.
        dtype: by default float32.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    is_input = True

    def __init__(
        self, input_shape: Sequence[int | None] | None = None, dtype: Any = None, **options: Any
    ) -> None:
        self.named = False
        super().__init__(input_shape=input_shape, **options)
        if self.input_shape_given is None:
            raise UsageError("Input needs the shape of one example: Input(shape=(28, 28)).")
        self.dtype = as_dtype(dtype or "float32").name
        #: What fit takes its batches from where it is given none.
        self.tensor_given: Any = None

    def tensor(self) -> Tensor:
        """A placeholder of such batches, in the default graph, that models begin with."""
        x = placeholder(self.dtype, [None, *self.input_shape_given], name=self.name)  # type: ignore[misc]  # it is given
        self.built, self.graph = True, x.graph
        self.input_shape = self.output_shape = (None, *self.input_shape_given)  # type: ignore[misc]  # it is given
        Call(self, (), {}, x).record()
        return x

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | ({} if self.dtype == "float32" else {"dtype": self.dtype})


def Input(
    shape: Sequence[int | None] | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    dtype: Any = None,
    batch_size: int | None = None,
    tensor: Any = None,
    sparse: bool = False,
) -> Tensor:
    """The input of a model: a tensor of batches of examples.

    Args:
        shape: shape of one example; None for sizes that are known when there are examples.
        batch_shape: shape with the batch's size, which only stateful layers use.
        name: name of the input.
        dtype: by default float32.
        batch_size: the batch's size, which only stateful layers use.
        tensor: what fit, evaluate and predict compute their batches from, if they are given no arrays.
        sparse: only False.

    Returns:
        Tensor: [batch, *shape].

    Raises:
        UsageError: there is no shape, or sparse is asked for.

    Example:
        >>> x = dt.keras.Input((784,))
        >>> dt.keras.Model(x, dt.keras.layers.Dense(10)(x)).output_shape
        (None, 10)
    """
    if sparse:
        raise UsageError("Input: sparse=True is not supported: tensors are dense.")
    if tensor is not None:
        tensor = convert_to_tensor(tensor)
        shape, batch_shape, dtype = tensor.shape.as_list()[1:], None, dtype or tensor.dtype
    shape = batch_shape[1:] if batch_shape is not None else shape
    layer = InputLayer(shape, dtype, name=name)
    layer.tensor_given = tensor
    layer.batch_given = batch_size if batch_shape is None else batch_shape[0]
    if name is None:
        kept = get_default_graph().kept
        kept[_INPUTS] = kept.get(_INPUTS, 0) + 1
        layer.name = f"input_{kept[_INPUTS]}"
    return layer.tensor()


#: Under this name a graph counts the Inputs that have no name.
_INPUTS = "keras inputs"


class InputSpec:
    """What a custom layer says of its inputs; recorded, not checked.

    Args:
        dtype: of the input.
        shape: with the batch's size.
        ndim: number of axes.
        more: Keras's other arguments.
    """

    def __init__(self, dtype: Any = None, shape: Any = None, ndim: Any = None, **more: Any) -> None:
        self.dtype, self.shape, self.ndim = dtype, shape, ndim
        self.__dict__.update(more)
