"""Layers made of a layer: TimeDistributed and Bidirectional."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras.calls import flat
from dtrain.keras.layers.base import Layer
from dtrain.keras.layers.core import Activation, Dense
from dtrain.keras.names import as_data, other_layers
from dtrain.ops.array import reshape
from dtrain.ops.join import concat, reverse

__all__ = ["Bidirectional", "TimeDistributed", "Wrapper"]


class Wrapper(Layer):
    """Base of layers that are made of another.

    Args:
        layer: the other layer.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    any_size = True

    def __init__(self, layer: Any, **options: Any) -> None:
        if not isinstance(layer, Layer):
            raise UsageError(f"{type(self).__name__}({layer!r}): give a layer, such as Dense(10).")
        given = options.get("input_shape", getattr(layer, "input_shape_given", None))
        if given is not None and "batch_input_shape" not in options:
            options["input_shape"] = given
        super().__init__(**options)
        self.layer = layer

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"layer": as_data(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from dtrain.keras.layers import deserialize

        return cls(**{**config, "layer": deserialize(config["layer"])})


class TimeDistributed(Wrapper):
    """A layer applied to each step of [batch, steps, ...], with the same weights.

    Args:
        layer: the layer.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    supports_masking = True

    def __init__(self, layer: Any, **options: Any) -> None:
        if getattr(layer, "input_shape_given", None) is not None and "input_shape" not in options:
            options["input_shape"] = (None, *layer.input_shape_given)
        super().__init__(layer, **options)

    @property
    def activation(self) -> Any:
        return getattr(self.layer, "activation", None)

    def call(self, x: Tensor, training: Any = None) -> Tensor:
        shape: Any = x.spec.shape
        if len(shape) < 3 and not isinstance(self.layer, Layer):
            raise GraphError("it takes [batch, steps, ...]")
        if isinstance(self.layer, Dense | Activation):  # they go along the last axis alone
            return self.layer(x, training=training)
        if None in shape[1:]:
            raise GraphError("the sizes of its examples have to be known")
        y = self.layer(reshape(x, [-1, *shape[2:]]), training=training)
        return reshape(y, [-1, shape[1], *(y.spec.shape or ())[1:]])


class Bidirectional(Wrapper):
    """A recurrent layer over the sequence forwards and another backwards (Schuster & Paliwal 1997).

    Args:
        layer: a recurrent layer.
        merge_mode: how the outputs are joined: concat, sum, mul, ave, or None for a list of both.
        backward_layer: the layer that runs backwards; by default a copy of layer.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def __init__(
        self, layer: Any, merge_mode: str | None = "concat", backward_layer: Any = None, **options: Any
    ) -> None:
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise UsageError(f"Bidirectional: merge_mode={merge_mode!r}: give concat, sum, mul, ave or None.")
        config = layer.get_config()
        super().__init__(layer, **options)
        del self.layer
        forward = config | {"name": f"forward_{layer.name}"}
        back = config | {"name": f"backward_{layer.name}", "go_backwards": not config["go_backwards"]}
        self.forward_layer = type(layer).from_config(forward)
        self.backward_layer = backward_layer or type(layer).from_config(back)
        self.merge_mode = merge_mode

    @property
    def return_sequences(self) -> bool:
        return bool(self.forward_layer.return_sequences)

    def __call__(self, x: Any, *more: Any, initial_state: Any = None, **options: Any) -> Any:
        if isinstance(x, list | tuple) and initial_state is None:
            x, initial_state = x[0], list(x[1:])
        if initial_state is not None:
            options["initial_state"] = list(initial_state)
        return super().__call__(x, *more, **options)

    def call(self, x: Tensor, mask: Any = None, training: Any = None, initial_state: Any = None) -> Any:
        half = len(initial_state or ()) // 2
        states = [None, None] if not half else [initial_state[:half], initial_state[half:]]
        made = [
            flat([layer(x, mask=mask, training=training, initial_state=s)])
            for layer, s in zip((self.forward_layer, self.backward_layer), states, strict=True)
        ]
        a, b = made[0][0], made[1][0]
        if self.return_sequences:
            b = reverse(b, [1]) if b.spec.shape[1] is not None else b  # type: ignore[index]  # its rank is known
        joined: Any = [a, b]
        if self.merge_mode == "concat":
            joined = concat([a, b], -1)
        elif self.merge_mode == "mul":
            joined = a * b
        elif self.merge_mode is not None:
            joined = (a + b) * (0.5 if self.merge_mode == "ave" else 1.0)
        rest = made[0][1:] + made[1][1:]
        return [*(joined if isinstance(joined, list) else [joined]), *rest] if rest else joined

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        found = mask if self.return_sequences else None
        return [found] if self.forward_layer.return_state else found

    def get_config(self) -> dict[str, Any]:
        config = Layer.get_config(self)
        layer = as_data(self.forward_layer)
        name = layer["config"]["name"].removeprefix("forward_")
        return config | {
            "layer": {**layer, "config": {**layer["config"], "name": name}},
            "merge_mode": self.merge_mode,
        }


__getattr__ = other_layers
