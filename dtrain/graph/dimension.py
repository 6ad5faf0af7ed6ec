"""One size of a static shape, usable as TensorFlow 1's: `int(d)`, `d.value`, `d == 784`, `d * 2`."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError


class Dimension:
    """One size of a shape: Dimension(784) is an int with `.value`; Dimension(None) is known at the run.

    Args:
        value: an integer >= 0, or None.

    Raises:
        GraphError: the size is negative.
    """

    value: int | None

    def __new__(cls, value: Any = None) -> Dimension:
        if value is None or isinstance(value, UnknownDimension):
            return object.__new__(UnknownDimension)
        size = int(value)
        if size < 0:
            raise GraphError(f"{value!r} is not a size: sizes are 0 or more, None for one fed later.")
        return int.__new__(KnownDimension, size)

    def is_compatible_with(self, other: Any) -> bool:
        """Whether the two may turn out to be the same size."""
        mine, theirs = self.value, Dimension(other).value
        return mine is None or theirs is None or mine == theirs

    def merge_with(self, other: Any) -> Dimension:
        """What both say together; raises GraphError where they contradict each other."""
        if not self.is_compatible_with(other):
            raise GraphError(f"the sizes {self} and {other} are not the same.")
        return self if self.value is not None else Dimension(other)


def _through_int(name: str) -> Any:
    """An operator of int whose result is a Dimension where it is a size."""
    plain = getattr(int, name)

    def operator(self: int, other: Any) -> Any:
        result = plain(self, other)
        return Dimension(result) if type(result) is int and result >= 0 else result

    return operator


class KnownDimension(Dimension, int):
    """A size that is known: an int in every use."""

    __slots__ = ()

    @property
    def value(self) -> int:  # type: ignore[override]  # a known one
        return int(self)

    def __repr__(self) -> str:
        return f"Dimension({int(self)})"

    def __str__(self) -> str:
        return str(int(self))

    __format__ = int.__format__


class UnknownDimension(Dimension):
    """A size that is fed later. It equals None, and what is computed of it is unknown too."""

    __slots__ = ()
    value = None

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, UnknownDimension)

    def __hash__(self) -> int:
        return hash(None)

    def __bool__(self) -> bool:
        return False

    def __int__(self) -> int:
        raise TypeError("this size is fed later (None), so it is no number when the graph is built.")

    def __repr__(self) -> str:
        return "Dimension(None)"

    def __str__(self) -> str:
        return "?"

    def _unknown(self, other: Any) -> Dimension:
        return self


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "rfloordiv", "mod", "rmod"):
    setattr(KnownDimension, f"__{_name}__", _through_int(f"__{_name}__"))
    setattr(UnknownDimension, f"__{_name}__", UnknownDimension._unknown)
