"""Names that TensorFlow 1 kept from before, and small ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from dtrain.graph.graph import Tensor, name_scope
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.join import stack
from dtrain.ops.late import static_ints
from dtrain.ops.scopes import variable_scope
from dtrain.ops.variables import report_uninitialized_variables

__all__ = [
    "assert_variables_initialized",
    "executing_eagerly",
    "no_regularizer",
    "op_scope",
    "parallel_stack",
    "strided_slice",
    "variable_op_scope",
]


def executing_eagerly() -> bool:
    """False: a graph is defined, then run."""
    return False


def no_regularizer(weight: Any) -> None:
    """A regularizer that adds no loss, in place of the one of the scope around."""
    return


def op_scope(values: Any, name: str | None, default_name: str | None = None) -> AbstractContextManager[str]:
    """name_scope, its arguments in the older order."""
    return name_scope(name, default_name, values)


def variable_op_scope(
    values: Any, name_or_scope: Any, default_name: str | None = None, **options: Any
) -> AbstractContextManager[Any]:
    """variable_scope, its arguments in the older order."""
    return variable_scope(name_or_scope, default_name, values, **options)


def parallel_stack(values: Sequence[Any], name: str = "parallel_stack") -> Tensor:
    """stack along a new first axis."""
    return stack(values, name=name)


def assert_variables_initialized(var_list: Any = None) -> Tensor:
    """The names of variables without a value: report_uninitialized_variables, which fails nothing."""
    return report_uninitialized_variables(var_list)


def strided_slice(
    input_: Any,
    begin: Any,
    end: Any,
    strides: Any = None,
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
    var: None = None,
    name: str | None = None,
) -> Tensor:
    """input_[begin:end:strides] along its first axes.

    A mask's bit i says of axis i: begin or end is not used, it is a new axis of 1 (new_axis_mask), or one
    entry is taken and the axis goes (shrink_axis_mask); ellipsis_mask stands for all axes between.

    Raises:
        GraphError: begin, end or strides are not known when the line is written.
    """
    first, last = static_ints(begin, "strided_slice"), static_ints(end, "strided_slice")
    steps = [1] * len(first) if strides is None else static_ints(strides, "strided_slice")
    entries: list[Any] = []
    for i, (low, high, step) in enumerate(zip(first, last, steps, strict=True)):
        bit = 1 << i
        if ellipsis_mask & bit:
            entries.append(Ellipsis)
        elif new_axis_mask & bit:
            entries.append(None)
        elif shrink_axis_mask & bit:
            entries.append(low)
        else:
            entries.append(slice(None if begin_mask & bit else low, None if end_mask & bit else high, step))
    return convert_to_tensor(input_)[tuple(entries)]
