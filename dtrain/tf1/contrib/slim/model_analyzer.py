"""slim.model_analyzer: how many numbers a network's variables hold."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from dtrain.ops.state import Variable

__all__ = ["analyze_vars"]


def analyze_vars(variables: Iterable[Variable], print_info: bool = False) -> tuple[int, int]:
    """(numbers, bytes) of variables; print_info prints a line for each, and both sums."""
    numbers = size = 0
    if print_info:
        print("---------\nVariables: name (type shape) [size]\n---------")
    for v in variables:
        count = prod(v.shape.as_list())  # type: ignore[arg-type]  # a variable's sizes are known
        nbytes = count * v.dtype.numpy.itemsize
        numbers, size = numbers + count, size + nbytes
        if print_info:
            shape = "x".join(map(str, v.shape.as_list()))
            print(f"{v.name} ({v.dtype.name} {shape}) [{count}, bytes: {nbytes}]")
    if print_info:
        print(f"Total size of variables: {numbers}\nTotal bytes of variables: {size}")
    return numbers, size
