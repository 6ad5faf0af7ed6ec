"""Keras 1's names of arguments, in one place: what programs that were written for it may still say."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from dtrain.errors import UsageError

#: Nothing lies below; old_paths.py knows legacy.layers, which programs import.
__path__: list[str] = []

F = TypeVar("F", bound=Callable[..., Any])

_CONVOLUTION = {"nb_filter": "filters", "subsample": "strides", "init": "kernel_initializer"}
_CONVOLUTION_1D = {
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "subsample_length": "strides",
    "init": "kernel_initializer",
}

_SHARE = {"p": "rate"}

#: The class's name ('' for all) -> its old arguments -> what they are called since Keras 2.
ARGUMENTS: dict[str, dict[str, str]] = {
    "": {
        "W_regularizer": "kernel_regularizer",
        "b_regularizer": "bias_regularizer",
        "W_constraint": "kernel_constraint",
        "b_constraint": "bias_constraint",
        "bias": "use_bias",
        "border_mode": "padding",
        "dim_ordering": "data_format",
    },
    "Dense": {"output_dim": "units", "init": "kernel_initializer"},
    "MaxoutDense": {"output_dim": "units", "init": "kernel_initializer"},
    "Highway": {"init": "kernel_initializer"},
    "Dropout": _SHARE,
    "SpatialDropout1D": _SHARE,
    "SpatialDropout2D": _SHARE,
    "GaussianDropout": _SHARE,
    "GaussianNoise": {"sigma": "stddev"},
    "Conv1D": _CONVOLUTION_1D | {"atrous_rate": "dilation_rate"},
    "LocallyConnected1D": _CONVOLUTION_1D,
    "Conv3D": _CONVOLUTION,
    "LocallyConnected2D": _CONVOLUTION,
    "Conv2DTranspose": _CONVOLUTION,
    "Conv2D": _CONVOLUTION | {"atrous_rate": "dilation_rate"},
    "SeparableConv2D": _CONVOLUTION | {"init": "depthwise_initializer"},
    "MaxPooling1D": {"pool_length": "pool_size", "stride": "strides"},
    "AveragePooling1D": {"pool_length": "pool_size", "stride": "strides"},
    "UpSampling1D": {"length": "size"},
    "Embedding": {"init": "embeddings_initializer", "W_regularizer": "embeddings_regularizer"},
    "BatchNormalization": {"beta_init": "beta_initializer", "gamma_init": "gamma_initializer"},
    **{
        name: {
            "output_dim": "units",
            "init": "kernel_initializer",
            "inner_init": "recurrent_initializer",
            "inner_activation": "recurrent_activation",
            "U_regularizer": "recurrent_regularizer",
            "dropout_W": "dropout",
            "dropout_U": "recurrent_dropout",
        }
        for name in ("SimpleRNN", "LSTM", "GRU")
    },
    "Model": {"input": "inputs", "output": "outputs"},
}

#: Of a model's methods; None: it has no meaning any more, or is seen to before.
METHODS: dict[str, str | None] = {
    "nb_epoch": "epochs",
    "samples_per_epoch": "steps_per_epoch",
    "nb_val_samples": "validation_steps",
    "val_samples": "steps",
    "nb_worker": None,
    "max_q_size": None,
    "pickle_safe": None,
    "show_accuracy": None,
}

#: Of these, what counts examples and not batches.
COUNTS = ("samples_per_epoch", "nb_val_samples", "val_samples")

#: Values that have another name now, by the new argument.
VALUES = {"data_format": {"tf": "channels_last", "th": "channels_first", "default": None}}


def modern(cls: type, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """The arguments of a layer or model as since Keras 2.

    Raises:
        UsageError: one is said twice.
    """
    names = [c.__name__ for c in cls.__mro__]
    renamed = {**ARGUMENTS[""]}
    for name in reversed(names):
        renamed |= ARGUMENTS.get(name, {})
    found: dict[str, Any] = {}
    own = _takes(cls)
    for name, value in options.items():
        new = name if name in own else renamed.get(name, name)
        if new in found or (new != name and new in options):
            raise UsageError(f"{cls.__name__}: {name} and {new} are one argument: give {new}.")
        found[new] = VALUES.get(new, {}).get(value, value) if isinstance(value, str) else value
    if "Conv2D" in names or "Conv2DTranspose" in names or "SeparableConv2D" in names:
        arguments, found = _convolution(cls.__name__, arguments, found)
    if "BatchNormalization" in names and found.pop("mode", 0) not in (0, 2):
        raise UsageError(f"{cls.__name__}: mode=1 of Keras 1 is not supported: leave it out.")
    return arguments, found


def _takes(cls: type) -> set[str]:
    code = cls.__init__.__code__  # type: ignore[misc]  # of this very class
    return {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}


def _convolution(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """Keras 1's (filters, rows, columns), which Keras 2 took as well."""
    if name == "Conv2DTranspose":  # Keras 1 needed the output's shape
        options.pop("output_shape", None)
        if len(arguments) > 3 and isinstance(arguments[3], list | tuple):
            arguments = arguments[:3] + arguments[4:]
    size = options.pop("nb_row", None), options.pop("nb_col", None)
    if None not in size:
        return arguments, {**options, "kernel_size": size}
    if len(arguments) < 3 or not all(isinstance(a, int) for a in arguments[1:3]):
        return arguments, options
    if arguments[1] == arguments[2] or "strides" in options:
        size = arguments[1:3]
        warnings.warn(
            f"{name}({arguments[0]}, {size[0]}, {size[1]}) is taken as a kernel of {size}, as in Keras 1 "
            f"and 2: write {name}({arguments[0]}, {size}); for strides write strides={size[1]}.",
            stacklevel=4,
        )
        return (arguments[0], size, *arguments[3:]), options
    return arguments, options


def named(method: F) -> F:
    """A model's method that takes Keras 1's names of arguments, too."""

    @wraps(method)
    def called(self: Any, *arguments: Any, **options: Any) -> Any:
        found = {}
        for name, value in options.items():
            new = METHODS.get(name, name)
            if name in COUNTS and value is not None:
                source = options.get("generator", arguments[0] if arguments else None)
                if name == "nb_val_samples":
                    source = options.get("validation_data")
                size = getattr(source, "batch_size", None)
                if not size:
                    raise UsageError(
                        f"{method.__name__}: {name}={value} counts examples, as in Keras 1: give {new}, "
                        "which counts batches."
                    )
                value = -(-int(value) // int(size))
            if new is not None:
                found[new] = value
        if options.get("show_accuracy"):
            self.show_accuracy()
        return method(self, *arguments, **found)

    return called  # type: ignore[return-value]  # with the same arguments
