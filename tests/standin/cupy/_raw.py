"""CUDA sources, compiled as C++ by the machine's compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cupy._device import counts, give

HERE = Path(__file__).parent
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fwrapv", "-mno-avx512f")
_CALL = re.compile(r"(\w+)(?:<[\w, ]*>)?\(")
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\)')


class BuildError(Exception):
    """What the compiler said."""


def build(text: str, name: str = "") -> Path:
    """The library of a C++ text, from the cache or the compiler."""
    digest = hashlib.sha256("\0".join((text, *FLAGS)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir(), f"dtrain-standin-{os.getuid()}", digest)
    path = folder / (name or "kernels.so")
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, made = Path(work, "kernels.cpp"), Path(work, "made.so")
            source.write_text(text)
            done = subprocess.run(
                ["g++", *FLAGS, source, "-o", made], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise BuildError(done.stderr[:3000])
            os.replace(made, path)
    return path


class Module:
    """Kernels, of what the stand-in for NVRTC gave for machine code."""

    def load(self, code: bytes) -> None:
        # it keeps the interpreter's lock: a library's threads and blocks are variables of its own
        self._library = ctypes.PyDLL(str(build(code.decode())))
        self._library.standin_memory.restype = ctypes.c_size_t
        nbytes = self._library.standin_memory(None)
        self._library.standin_memory(ctypes.c_void_p(_fibres(nbytes).ctypes.data))

    def get_function(self, name: str) -> Any:
        return Kernel(self._library["launch_" + name])


@cache
def _fibres(nbytes: int) -> np.ndarray:
    """Memory for the threads of a block, touched where they run."""
    return np.zeros(nbytes, np.uint8)


def translated(code: str, flush: bool) -> str:
    """CUDA as C++. flush: whether denormals are 0.

    Raises:
        BuildError: it is none.
    """
    done = subprocess.run(
        ["g++", "-E", "-P", "-x", "c++", "-"], input=code, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(done.stderr[:3000])
    text = done.stdout
    pieces = [f"#define FLUSH {int(flush)}", (HERE / "emulate.h").read_text(), text]
    waiting = _waiting(text)
    found = list(_KERNEL.finditer(text))
    for match, behind in zip(found, [*found, None][1:], strict=True):
        name, arguments = match.groups()
        types = [re.sub(r"\w+$", "", a.strip()) for a in arguments.split(",")]
        body = text[match.end() : behind.start() if behind else None]
        called = set(_CALL.findall(body))
        waits = "true" if called & waiting else "false"
        values = ", ".join(f"*({t}*)a[{i}]" for i, t in enumerate(types))
        pieces.append(
            f'extern "C" void launch_{name}(const unsigned *grid, const unsigned *block, void **a) '
            f"{{ run(grid, block, {waits}, [=] {{ {name}({values}); }}); }}"
        )
    return "\n".join(pieces)


def _waiting(text: str) -> set[str]:
    """The functions in which threads wait for one another."""
    bodies = {}
    found = list(re.finditer(r"__forceinline__\s[^()=;{}]*?\b(\w+)\(", text))
    for match, behind in zip(found, [*found, None][1:], strict=True):
        bodies[match.group(1)] = set(_CALL.findall(text[match.end() : behind.start() if behind else None]))
    waiting = {"__syncthreads"}
    while more := {name for name, called in bodies.items() if called & waiting} - waiting:
        waiting |= more
    return waiting


class Kernel:
    def __init__(self, function: Any) -> None:
        self._function = function
        function.restype = None

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        assert all(0 < n < 2**31 for n in grid) and all(0 < n <= 1024 for n in block), (grid, block)
        words = (ctypes.c_uint64 * len(args))()
        for i, value in enumerate(args):
            if isinstance(value, np.float64 | np.int64):
                words[i] = int(value.view(np.uint64))
            else:
                words[i] = value.data.ptr
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(words) + 8 * i for i in range(len(args))))
        sizes = [(ctypes.c_uint * 3)(*n) for n in (grid, block)]
        counts["launches"] += 1
        kept = (args, words)
        give(lambda kept=kept: self._function(*sizes, pointers))
