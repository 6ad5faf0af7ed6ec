"""What may be given by name: "adam", "relu", "mse" and the like, and the same as plain data for a file."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dtrain.errors import UsageError

_custom: ContextVar[Mapping[str, Any]] = ContextVar("custom objects", default={})  # noqa: B039 - never changed


#: What names mean everywhere.
GLOBAL: dict[str, Any] = {}


@contextmanager
def custom_object_scope(*objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Let names inside also mean these objects: a user's own layers, losses and functions."""
    more = {name: value for given in objects for name, value in (given or {}).items()}
    token = _custom.set({**_custom.get(), **more})
    try:
        yield
    finally:
        _custom.reset(token)


class Names:
    """The names of one kind of thing.

    kind: what it is called in messages, such as 'optimizer'. known: what each name stands for: a class or
    function that is called to make the thing or, with made=True, the thing itself.
    """

    def __init__(self, kind: str, known: Mapping[str, Any], made: bool = False) -> None:
        self.kind = kind
        self.known = known
        self.made = made

    def get(self, given: Any) -> Any:
        """What a name, a {"class_name", "config"}, a class or the thing itself stands for; None stays None.

        Raises:
            UsageError: nothing has this name.
        """
        if given is None:
            return None
        if isinstance(given, Mapping) and "class_name" in given:
            cls = self._find(given["class_name"])
            config = dict(given.get("config") or {})
            return cls.from_config(config) if hasattr(cls, "from_config") else cls(**config)
        found = self._find(given) if isinstance(given, str) else given
        built_in = isinstance(given, str) and found is self.known.get(given)
        if isinstance(found, type) or (built_in and not self.made):
            return found()
        if not callable(found) and not hasattr(found, "get_config"):
            raise UsageError(
                f"{found!r} is no {self.kind}: give a name such as {next(iter(self.known))!r}, or an object."
            )
        return found

    def _find(self, name: str) -> Any:
        known = {**self.known, **GLOBAL, **_custom.get()}
        if name in known:
            return known[name]
        words = set(name.split("_"))
        near = [k for k in known if words < set(k.split("_"))] or difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
        raise UsageError(
            f"{name!r} is no {self.kind} that dtrain has; {hint} Your own one is given as an object, and to "
            "load_model as custom_objects={name: object}."
        )


def serialize(value: Any) -> Any:
    """An object as plain data for JSON, of which deserialize and from_config make one like it.

    Args:
        value: an object with get_config, a function, or plain data of such.

    Raises:
        UsageError: it is none of them.
    """
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": serialize(value.get_config())}
    if isinstance(value, Mapping):
        return {str(k): serialize(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [serialize(v) for v in value]
    if isinstance(value, str | int | float | None):
        return value
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    if hasattr(value, "__name__"):
        return value.__name__
    raise UsageError(f"{value!r} cannot be written into a file: give it a get_config() that can.")


as_data = serialize  # what layers call it


def other_layers(name: str) -> Any:
    """A module's __getattr__: the layers of other modules, as Keras 1 had some elsewhere."""
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(importlib.import_module("dtrain.keras.layers"), name)
