"""make_template: a function whose variables are made at its first call and used again by the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dtrain.ops.scopes import VariableScope, variable_scope

__all__ = ["make_template"]


def make_template(
    name_: str,
    func_: Callable[..., Any],
    create_scope_now_: bool = False,
    unique_name_: str | None = None,
    custom_getter_: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    """func_ with some arguments, in a variable scope of its own that all its calls share.

    name_: of the scope, which is made unique, at the first call or now. unique_name_: a name as it is.
    """
    return _Template(name_, partial(func_, **kwargs), create_scope_now_, unique_name_, custom_getter_)


class _Template:
    def __init__(
        self, name: str, function: Callable[..., Any], now: bool, unique: str | None, getter: Any
    ) -> None:
        self._name, self._function, self._unique, self._getter = name, function, unique, getter
        self._scope: VariableScope | None = None
        self._called = False
        if now:
            self._enter()

    def _enter(self) -> VariableScope:
        if self._scope is None:
            with variable_scope(self._unique, self._name, custom_getter=self._getter) as self._scope:
                pass
        return self._scope

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with variable_scope(self._enter(), reuse=self._called):
            self._called = True
            return self._function(*args, **kwargs)

    @property
    def variable_scope(self) -> VariableScope:
        return self._enter()

    @property
    def name(self) -> str:
        return self._enter().name

    @property
    def variables(self) -> list[Any]:
        return self._enter().global_variables()

    @property
    def trainable_variables(self) -> list[Any]:
        return self._enter().trainable_variables()
