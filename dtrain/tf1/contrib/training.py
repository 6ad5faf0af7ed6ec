"""tf.contrib.training: HParams, a program's numbers by name."""

from __future__ import annotations

import json
import re
from typing import Any

from dtrain.errors import UsageError
from dtrain.names import module_getattr

__all__ = ["HParams"]

__getattr__ = module_getattr("tf.contrib.training")


class HParams:
    """Values by name, each an attribute: HParams(rate=0.1, sizes=[64, 32]).

    Raises:
        UsageError: of a name that it does not have, or a text that does not fit.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__["_values"] = dict(kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._values:
            raise AttributeError(f"HParams has no {name!r}: it has {', '.join(self.__dict__['_values'])}.")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self.set_hparam(name, value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"HParams({sorted(self._values.items())})"

    def add_hparam(self, name: str, value: Any) -> None:
        """One more."""
        if name in self._values:
            raise UsageError(f"HParams: {name!r} is there already.")
        self._values[name] = value

    def set_hparam(self, name: str, value: Any) -> None:
        """Another value for one that is there."""
        if name not in self._values:
            raise UsageError(f"HParams has no {name!r}: add_hparam({name!r}, {value!r}) makes it.")
        self._values[name] = value

    def del_hparam(self, name: str) -> None:
        """One less."""
        self._values.pop(name, None)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a name, or default."""
        return self._values.get(key, default)

    def values(self) -> dict[str, Any]:
        """All, by name."""
        return dict(self._values)

    def parse(self, values: str) -> HParams:
        """Set those that a text names: 'rate=0.5,sizes=[8,4]', each read as its kind is now."""
        for name, text in re.findall(r"(\w+)=(\[[^\]]*\]|[^,]*)", values):
            if name not in self._values:
                raise UsageError(f"HParams.parse: there is no {name!r} in {', '.join(self._values)}.")
            self._values[name] = _read(name, text, self._values[name])
        return self

    def override_from_dict(self, values_dict: dict[str, Any]) -> HParams:
        """Set several."""
        for name, value in values_dict.items():
            self.set_hparam(name, value)
        return self

    def to_json(self, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
        """All as JSON."""
        return json.dumps(self._values, indent=indent, separators=separators, sort_keys=sort_keys)


def _read(name: str, text: str, like: Any) -> Any:
    if isinstance(like, list | tuple):
        entry = like[0] if like else ""
        return [_read(name, part.strip(), entry) for part in text.strip("[]").split(",") if part.strip()]
    if isinstance(like, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise UsageError(f"HParams.parse: {name}={text!r} is neither true nor false.")
        return text.lower() in ("true", "1")
    try:
        return text if like is None else type(like)(text)
    except ValueError:
        raise UsageError(f"HParams.parse: {name}={text!r} is no {type(like).__name__}.") from None
