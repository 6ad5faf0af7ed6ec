"""Embedding: whole numbers as rows of a table."""

from __future__ import annotations

from typing import Any, ClassVar

from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import Sizes, Weighted, positive
from dtrain.keras.names import other_layers
from dtrain.ops.index import gather
from dtrain.ops.math import cast, not_equal

__all__ = ["Embedding"]


class Embedding(Weighted):
    """Row x of a table for each integer x: [batch, steps] -> [batch, steps, output_dim].

    Args:
        input_dim: rows of the table; inputs are 0 to input_dim - 1.
        output_dim: size of a row.
        mask_zero: whether steps of number 0 are masked in later layers.
        input_length: steps of an example, for a model's first layer.
        options: embeddings_initializer, embeddings_regularizer and embeddings_constraint; and arguments of
            Layer, see help(dt.keras.layers.Layer).

    Raises:
        UsageError: a size is not an integer >= 1.
    """

    arguments = ("input_dim", "output_dim", "mask_zero", "input_length")
    roles: ClassVar[dict[str, Any]] = {"embeddings": "uniform"}
    any_size, makes_mask = True, True

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = False,
        input_length: int | None = None,
        **options: Any,
    ) -> None:
        if not any(k in options for k in ("input_shape", "batch_input_shape")):
            options["input_shape"] = (input_length,)
        super().__init__(**options)
        self.input_dim = positive(input_dim, f"{self.name}: input_dim")
        self.output_dim = positive(output_dim, f"{self.name}: output_dim")
        self.mask_zero, self.input_length = bool(mask_zero), input_length

    def build(self, input_shape: Sizes) -> None:
        self.embeddings = self.weight("embeddings", (self.input_dim, self.output_dim))

    def call(self, x: Tensor) -> Tensor:
        return gather(self.embeddings, x if x.dtype.is_integer else cast(x, "int32"))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return not_equal(inputs, 0) if self.mask_zero else None


__getattr__ = other_layers
