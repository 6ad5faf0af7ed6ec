"""What keras.json said: the smallest number that counts, and how images lie. The same on every rank."""

from __future__ import annotations

from typing import Any

from dtrain.errors import UsageError

_now: dict[str, Any] = {"epsilon": 1e-7, "image_data_format": "channels_last"}

#: Keras 1's words for how images lie.
ORDERINGS = {"tf": "channels_last", "th": "channels_first"}


def epsilon() -> float:
    """What keeps logarithms and divisions finite."""
    return float(_now["epsilon"])


def set_epsilon(value: float) -> None:
    """Set epsilon()."""
    _now["epsilon"] = float(value)


def floatx() -> str:
    """The dtype of layers."""
    return "float32"


def set_floatx(value: str) -> None:
    """Raise UsageError unless it is float32."""
    if value != "float32":
        raise UsageError(f"set_floatx({value!r}): layers compute in float32.")


def image_data_format() -> str:
    """channels_last, or channels_first: how the images lie that layers take."""
    return str(_now["image_data_format"])


def set_image_data_format(value: str) -> None:
    """Set it; raises UsageError for what is none."""
    value = ORDERINGS.get(value, value)
    if value not in ORDERINGS.values():
        raise UsageError(f"image_data_format {value!r}: give channels_last or channels_first.")
    _now["image_data_format"] = value


def image_dim_ordering() -> str:
    """Keras 1's word for image_data_format()."""
    return next(old for old, new in ORDERINGS.items() if new == image_data_format())
