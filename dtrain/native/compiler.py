"""The C compiler of this machine, and the cache of what it has made.

A library's name in the cache is a digest of all that it depends on: source, compiler, flags and processor. So
a start with a warm cache opens a file, and a changed machine never meets code for another.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from functools import cache
from pathlib import Path

from dtrain.errors import EnvironmentProblem
from dtrain.files import own_cache

HERE = Path(__file__).parent
FLAGS = (
    "-O3", "-std=gnu11", "-fPIC", "-shared", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
    "-fwrapv", "-w",
)  # fmt: skip
#: Without contraction to fused multiply-adds, elementwise kernels give NumPy's bits on any processor.
EXACT, CONTRACTED = "-ffp-contract=off", "-ffp-contract=fast"
#: Seconds that a compiler may take.
DEADLINE = 120


@cache
def command() -> tuple[str, ...]:
    """The compiler's command: $CC, cc, gcc, clang, or the one of the ziglang wheel; empty without one."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = name.split()
        path = shutil.which(words[0]) if words else None
        if path:
            return (path, *words[1:])
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    return ()


def name() -> str:
    """What the report calls the compiler."""
    words = command()
    return "zig cc" if "ziglang" in words else Path(words[0]).name if words else "none"


@cache
def _processor() -> str:
    """What the compiler's -march=native depends on."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read(8192).split("\n\n")[0].splitlines()
        return "".join(x for x in lines if x.startswith(("model", "flags", "Features", "CPU")))
    except OSError:
        return platform.machine() + platform.processor()


@cache
def _identity() -> str:
    """What tells this compiler and processor from others, without starting the compiler."""
    words = command()
    path = os.path.realpath(words[0])
    stat = os.stat(path)
    return repr((words, path, stat.st_size, stat.st_mtime_ns, FLAGS, _processor()))


@cache
def folder() -> Path:
    """The cache, which only this user may write; one for this process alone where there can be none."""
    return own_cache("kernels") or _private_folder()


def _private_folder() -> Path:
    import atexit
    import tempfile

    path = tempfile.mkdtemp(prefix="dtrain-kernels-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def library(source: str, rounding: str = EXACT) -> Path:
    """The file of the library made of C source, compiled if the cache does not hold it.

    rounding: EXACT, or CONTRACTED where products and sums may become one operation.

    Raises:
        EnvironmentProblem: there is no compiler, or it did not succeed.
    """
    if not command():
        raise EnvironmentProblem(
            "no C compiler was found: install one (Debian: apt install gcc; any system: pip install "
            "'dtrain[compiler]'), or choose --kernels numpy."
        )
    headers = "".join((HERE / name).read_text() for name in ("kernels.h", "numbers.h"))
    digest = hashlib.sha256("\0".join((source, headers, rounding, _identity())).encode()).hexdigest()
    path = folder() / f"{digest[:32]}.so"
    if not path.exists():
        _compile(source, path, rounding)
    return path


def _compile(source: str, path: Path, rounding: str) -> None:
    import subprocess  # these two take 10 ms of a start, and a warm one compiles nothing
    import tempfile

    words = command()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as work:
        text, made = Path(work, "kernels.c"), Path(work, "kernels.so")
        text.write_text(source)
        problem = ""
        for flags in (
            (*FLAGS, rounding, native),
            (*FLAGS, rounding),
        ):  # some compilers do not know their processor
            try:
                done = subprocess.run(
                    [*words, *flags, f"-I{HERE}", str(text), "-o", str(made), "-lm"],
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
                break
            if done.returncode == 0:
                os.replace(made, path)  # another process may have made the same meanwhile
                return
            problem = done.stderr.strip()[:500]
    raise EnvironmentProblem(
        f"the C compiler {words[0]} could not make dtrain's kernels: {problem}. Check it with `{words[0]} "
        "--version`, name another in CC, or choose --kernels numpy."
    )


@cache
def load(path: Path) -> ctypes.CDLL:
    """The library, open."""
    return ctypes.CDLL(str(path))
