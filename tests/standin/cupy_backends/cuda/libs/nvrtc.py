"""NVRTC's calls; what it makes of CUDA is C++, which is compiled here, and where it is loaded.

compiled: the source and options of each program so far.
"""

from __future__ import annotations

from typing import Any

from cupy._raw import BuildError, build, translated

compiled: list[tuple[str, tuple[str, ...]]] = []
#: Those that NVRTC has besides, and others are refused.
_KNOWN = ("--fmad=", "--std=", "--gpu-architecture=", "-ftz=")


class NVRTCError(RuntimeError):
    pass


class _Program:
    def __init__(self, source: str) -> None:
        self.source, self.text, self.log = source, "", ""


def getVersion() -> tuple[int, int]:
    return 0, 0  # none: what it makes is for nobody else


def getSupportedArchs() -> tuple[int, ...]:
    return 75, 80, 90


def createProgram(source: str, name: str, headers: tuple[str, ...], names: tuple[str, ...]) -> Any:
    assert isinstance(source, str) and not headers and not names
    return _Program(source)


def compileProgram(program: _Program, options: tuple[str, ...]) -> None:
    """It flushes denormals where it is told to, as CuPy's own compiler tells it for everything."""
    assert isinstance(options, tuple)
    unknown = [o for o in options if not o.startswith(_KNOWN)]
    if unknown or "#include <" in program.source:
        program.log = f"nvrtc: error: {unknown or 'cannot open source file'}"
        raise NVRTCError("NVRTC_ERROR_INVALID_OPTION (5)")
    assert "--fmad=false" in options, "products and sums would become one operation"
    compiled.append((program.source, options))
    try:
        program.text = translated(program.source, "-ftz=true" in options)
        build(program.text)
    except BuildError as error:
        program.log = str(error)
        raise NVRTCError("NVRTC_ERROR_COMPILATION (6)") from None


def getProgramLog(program: _Program) -> str:
    return program.log


def getCUBIN(program: _Program) -> bytes:
    return program.text.encode()


def getPTX(program: _Program) -> bytes:
    return program.text.encode()


def destroyProgram(program: _Program) -> None:
    program.text = ""
