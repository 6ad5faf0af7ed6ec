"""The C compiler of this machine, and the cache of what it has made.

A library's name in the cache is a digest of all that it depends on: source, compiler, flags and processor. So
a start with a warm cache opens a file, and a changed machine never meets code for another. After it comes
the CRC-32 of the content: to open a library that was cut off may kill the process, with no error to catch.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from zlib import crc32

from dtrain.errors import EnvironmentProblem
from dtrain.files import own_cache
from dtrain.hints import pip_install

HERE = Path(__file__).parent
FLAGS = (
    "-O3", "-std=gnu11", "-fPIC", "-shared", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
    "-fwrapv", "-Werror=implicit-function-declaration",
)  # fmt: skip
#: A function that is nowhere ends the link, as it does by itself on macOS, and not the first call.
LINK = () if sys.platform == "darwin" else ("-Wl,-z,defs",)
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


class SourceRefused(EnvironmentProblem):
    """The compiler ran, and did not take the source."""


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
    """What distinguishes this compiler and processor from others, without starting the compiler."""
    words = command()
    path = os.path.realpath(words[0])
    stat = os.stat(path)
    return repr((words, path, stat.st_size, stat.st_mtime_ns, FLAGS, LINK, _processor()))


@cache
def folder() -> Path:
    """The cache, which only this user may write; one for this process alone where there can be none."""
    return own_cache("kernels") or _private_folder()


@cache
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
        EnvironmentProblem: there is no compiler, it did not succeed, or there is no room for what it makes.
    """
    if not command():
        raise EnvironmentProblem(
            "no C compiler was found: install one (Debian: apt install gcc; any system: "
            f"{pip_install('dtrain[compiler]')}), or choose --kernels numpy."
        )
    headers = "".join((HERE / f"{name}.h").read_text() for name in ("kernels", "lists", "numbers", "windows"))
    digest = hashlib.sha256("\0".join((source, headers, rounding, _identity())).encode()).hexdigest()
    name = digest[:32]
    return kept(name) or _compile(source, name, rounding)


def kept(name: str) -> Path | None:
    """The library of this name in the cache, or what else is kept there, if it is there and whole."""
    place = folder()
    try:
        found = [place / file for file in os.listdir(place) if file.startswith(f"{name}-")]
    except OSError:
        return None
    return next(filter(_is_whole, found), None)


def _is_whole(path: Path) -> bool:
    """Whether a library is as it was made."""
    try:
        return path.stem.endswith(f"-{crc32(path.read_bytes()):08x}")
    except OSError:
        return False


def _compile(source: str, name: str, rounding: str) -> Path:
    """The library, made anew in the cache or, where nothing can be kept there, for this process alone."""
    for place in (folder, _private_folder):
        try:
            return _compile_in(place(), source, name, rounding)
        except OSError as error:
            problem = error
    raise EnvironmentProblem(
        f"dtrain's kernels can be kept nowhere: {problem}. Make room, name another folder in XDG_CACHE_HOME "
        "or TMPDIR, or choose --kernels numpy."
    )


def _compile_in(place: Path, source: str, name: str, rounding: str) -> Path:
    import subprocess  # these two take 10 ms of a start, and a warm one compiles nothing
    import tempfile

    words, kind = command(), EnvironmentProblem
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=place) as work:
        text, made = Path(work, "kernels.c"), Path(work, "kernels.so")
        text.write_text(source)
        for processor in ((native,), ()):  # some compilers do not know theirs
            flags = (*FLAGS, rounding, *processor, f"-I{HERE}", *LINK)
            try:
                done = subprocess.run(
                    [*words, *flags, str(text), "-o", str(made), "-lm"],
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=DEADLINE,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
                break
            if done.returncode == 0:
                path = place / f"{name}-{crc32(made.read_bytes()):08x}.so"
                os.replace(made, path)  # another process may have made the same meanwhile
                return path
            problem, kind = _errors(done.stderr), SourceRefused
            if os.strerror(errno.ENOSPC) in problem:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
    raise kind(
        f"the C compiler {words[0]} could not make dtrain's kernels: {problem}. Check it with `{words[0]} "
        "--version`, name another in CC, or choose --kernels numpy."
    )


def _errors(said: str) -> str:
    """Of what a compiler said, its errors, or all where it names none so."""
    lines = said.strip().splitlines()
    return "\n".join([line for line in lines if "error" in line or "undefined" in line] or lines)[:500]


def load(source: str, rounding: str = EXACT) -> ctypes.CDLL:
    """The library made of C source, open; see library().

    Raises:
        EnvironmentProblem: as of library(), or it cannot be opened.
    """
    path = library(source, rounding)
    try:
        return _open(path)
    except OSError:  # somebody put it there, or took it away
        with suppress(OSError):
            path.unlink()
    path = library(source, rounding)
    try:
        return _open(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}, which {command()[0]} has just made, cannot be opened: {error}. Where its file system "
            "forbids programs (noexec), name another folder in XDG_CACHE_HOME; or choose --kernels numpy."
        ) from None


@cache
def _open(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))
