"""CUDA sources, compiled by NVRTC as they stand, and the cache of what it has made.

NVRTC is called through CuPy's binding and not by CuPy's compiler, which adds options to those that it
is given, one of which makes denormals 0, and asks for CUDA's headers; dtrain's sources include none. What
is made is machine code, which a driver older than NVRTC, of the same major version, takes. It is kept
beside the kernels in C.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from dtrain.errors import EnvironmentProblem
from dtrain.native.compiler import folder, kept

#: Without contraction to fused multiply-adds, elementwise kernels give the bits of those in C. The rest is
#: NVRTC's default: denormals are kept, quotients and roots are rounded right.
OPTIONS = ("--fmad=false", "--std=c++17")


class Refused(EnvironmentProblem):
    """NVRTC ran, and did not take the source. Its text: what it said."""


def load(cupy: Any, source: str, device: int) -> Any:
    """The kernels of a source for a GPU, by get_function(name); one is called with grid, block, arguments.

    Raises:
        Refused: NVRTC does not take the source.
        EnvironmentProblem: NVRTC knows no GPU like this one.
    """
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    code = compiled(source, 10 * properties["major"] + properties["minor"])
    module = cupy.cuda.Module()
    module.load(code)
    return module


def compiled(source: str, capability: int) -> bytes:
    """Machine code of a source for GPUs of a compute capability, such as 90, from the cache or NVRTC.

    Of several processes that want the same one compiles it, and the others wait.
    """
    from cupy_backends.cuda.libs import nvrtc

    target = target_of(capability, nvrtc.getSupportedArchs())
    about = (source, *OPTIONS, target, repr(nvrtc.getVersion()))
    name = hashlib.sha256("\0".join(about).encode()).hexdigest()[:32]
    found = kept(name)
    if found is None:
        with _alone(name):
            found = kept(name)
            if found is None:
                return _keep(name, _compile(nvrtc, source, target))
    return found.read_bytes()


def target_of(capability: int, known: tuple[int, ...]) -> str:
    """What to compile for: a GPU newer than NVRTC gets what the driver makes machine code of.

    Raises:
        EnvironmentProblem: it is older.
    """
    if capability in known:
        return f"sm_{capability}"
    older = [k for k in known if k < capability]
    if not older:
        raise EnvironmentProblem(
            f"NVRTC knows GPUs of compute capability {min(known) / 10} and newer, this one has "
            f"{capability / 10}: it wants CuPy for an older CUDA"
        )
    return f"compute_{max(older)}"


def _compile(nvrtc: Any, source: str, target: str) -> bytes:
    program = nvrtc.createProgram(source, "dtrain.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture={target}"))
        if target.startswith("sm_"):
            return bytes(nvrtc.getCUBIN(program))
        text = nvrtc.getPTX(program)
        return bytes(text if isinstance(text, bytes) else text.encode())
    except nvrtc.NVRTCError as error:
        raise Refused(nvrtc.getProgramLog(program) or str(error)) from None
    finally:
        nvrtc.destroyProgram(program)


def _keep(name: str, code: bytes) -> bytes:
    """Put it into the cache, if there is room."""
    try:
        place = folder()
        with tempfile.NamedTemporaryFile(dir=place, prefix=".making-", delete=False) as file:
            file.write(code)
        os.replace(file.name, place / f"{name}-{crc32(code):08x}.cubin")
    except OSError:  # the next process compiles again
        pass
    return code


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Within, no other process that shares the cache compiles this; where files cannot be locked it may."""
    try:
        import fcntl

        file = open(Path(folder(), f".{name}.lock"), "w")  # noqa: SIM115
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        try:
            yield
        finally:
            Path(file.name).unlink(missing_ok=True)
