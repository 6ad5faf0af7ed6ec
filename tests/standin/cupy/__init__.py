"""As much of CuPy as dtrain uses, on the host's memory, for tests on machines without a GPU.

It is strict where a GPU is: what is launched or copied happens when somebody waits for it, in order, and
not before; an array becomes a NumPy array only where it is asked to; while a stream is captured nothing may
be allocated, waited for or computed by other means than a launch; memory has guards at both ends. It counts
what crosses the bus. It says nothing of speed, nor of what a GPU's threads do at the same time.
"""

from __future__ import annotations

import operator
import os
from typing import Any

import numpy as np

from cupy import cuda
from cupy._device import allocate, check_memory, counts, settle

__all__ = ["asarray", "asnumpy", "check_memory", "counts", "cuda", "ndarray", "zeros"]
__version__ = os.environ.get("STANDIN_VERSION", "14.2.0")
# as CuPy does, whose import fails where it cannot
os.makedirs(os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache")), exist_ok=True)
uint8, bool_ = np.uint8, np.bool_


class _Data:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray:
    """Memory of the device. _host is what nobody but a device may look at."""

    def __init__(self, host: np.ndarray, base: ndarray | None = None) -> None:
        self._host, self.base = host, base

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    data = property(lambda self: _Data(self._host.ctypes.data))
    T = property(lambda self: self._view(self._host.T))

    def _view(self, host: np.ndarray) -> ndarray:
        if np.shares_memory(host, self._host) or not host.size:
            return ndarray(host, self.base if self.base is not None else self)
        return _new(host)

    def __len__(self) -> int:
        return len(self._host)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __getitem__(self, at: Any) -> ndarray:
        view = self._host[_plain(at)] if not np.isscalar(at) else self._host[at, ...]
        if np.shares_memory(view, self._host) or not view.size:
            return ndarray(view, self.base if self.base is not None else self)
        settle()
        return _new(self._host[_plain(at)])

    def __setitem__(self, at: Any, value: Any) -> None:
        settle()
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("an array of the host cannot be assigned: use .set()")
        self._host[_plain(at)] = _plain(value)

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._host.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self._host.reshape(*shape))

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self._view(self._host.swapaxes(a, b))

    def fill(self, value: Any) -> None:
        settle()
        self._host.fill(value)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        settle()
        counts["down"] += self.nbytes
        if out is None:
            return self._host.copy()
        out[...] = self._host
        return out

    def set(self, array: np.ndarray) -> None:
        settle()
        counts["up"] += array.nbytes
        assert array.dtype == self.dtype and array.shape == self.shape
        self._host[...] = array

    def item(self) -> Any:
        return self.get().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **named: Any) -> Any:
        settle()
        return _wrapped(getattr(self._host, name)(*_plain(args), **_plain(named)))

    return method


for _name in ("any", "all", "sum", "argmax", "argmin", "astype", "copy"):
    setattr(ndarray, _name, _method(_name))


def _operators(name: str) -> tuple[Any, Any]:
    """What a Python operator calls, with the array on the left and on the right."""
    do = getattr(operator, name)

    def left(self: ndarray, *other: Any) -> Any:
        settle()
        return _wrapped(do(self._host, *_plain(other)))

    def right(self: ndarray, other: Any) -> Any:
        settle()
        return _wrapped(do(_plain(other), self._host))

    return left, right


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "and_",
    "or_",
    "le",
    "lt",
    "ge",
    "gt",
    "eq",
    "ne",
    "invert",
    "neg",
):
    _word = _name.rstrip("_")
    _left, _right = _operators(_name)
    setattr(ndarray, f"__{_word}__", _left)
    setattr(ndarray, f"__r{_word}__", _right)
ndarray.__hash__ = object.__hash__


def _plain(value: Any) -> Any:
    """The arrays in arguments as the host's, for what stands in for a kernel of CuPy's own."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, tuple | list):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("an array of the host among arguments of the device: use asarray()")
    return value


def _new(host: np.ndarray) -> ndarray:
    memory = allocate(host.nbytes)
    array = memory.view(host.dtype).reshape(host.shape) if host.nbytes else np.empty(host.shape, host.dtype)
    array[...] = host
    return ndarray(array)


def _wrapped(result: Any) -> Any:
    if isinstance(result, np.ndarray | np.generic):
        return _new(np.asarray(result))
    if isinstance(result, tuple):
        return tuple(map(_wrapped, result))
    return result


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    settle()
    made = empty(shape, dtype)
    made._host.fill(0)
    return made


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """What it holds is what was there before."""
    settle()
    count = int(np.prod(shape, dtype=np.int64))
    memory = allocate(count * np.dtype(dtype).itemsize)
    return ndarray(memory.view(dtype).reshape(shape))


def asarray(value: Any, dtype: Any = None) -> ndarray:
    if isinstance(value, ndarray):
        return value
    settle()
    host = np.asarray(value, dtype)
    counts["up"] += host.nbytes
    return _new(host)


def asnumpy(array: Any) -> np.ndarray:
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


def shares_memory(a: ndarray, b: ndarray) -> bool:
    raise AssertionError("it writes down, sorts and compares the address of each entry of both arrays")


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    return np.may_share_memory(a._host, b._host)


class _Function:
    """A function of NumPy in place of CuPy's own kernel."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        settle()
        out = named.get("out")
        result = self._function(*_plain(args), **_plain(named))
        given = [out, *args]
        for array in given:
            if isinstance(array, ndarray) and array._host is result:
                return array
        for array in args:  # a view, such as as_strided's
            if (
                isinstance(array, ndarray)
                and isinstance(result, np.ndarray)
                and np.shares_memory(result, array._host)
            ):
                return array._view(result)
        return _wrapped(result)

    def __getattr__(self, name: str) -> Any:
        return _Function(getattr(self._function, name))


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return _Function(getattr(np, name))
