"""tf.gfile: files and folders.

A program runs on every rank, and its ranks may share a disk. So what deletes, moves, copies or writes is done
by rank 0, and is nothing on the others; no rank waits for another, so that one may call these alone. Every
rank makes folders, which may be there already, reads, and looks at what is there now.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from dtrain.comm import launcher
from dtrain.errors import UsageError
from dtrain.names import module_getattr

__all__ = [
    "Copy",
    "DeleteRecursively",
    "Exists",
    "FastGFile",
    "GFile",
    "Glob",
    "IsDirectory",
    "ListDirectory",
    "MakeDirs",
    "MkDir",
    "Open",
    "Remove",
    "Rename",
    "Stat",
    "Walk",
]

__getattr__ = module_getattr("tf.gfile")

Path = str | os.PathLike[str]


class GFile:
    """A file opened by mode r, w, a, r+, w+, a+, each also with b for bytes."""

    def __init__(self, name: Path, mode: str = "r") -> None:
        if mode.replace("b", "") not in ("r", "w", "a", "r+", "w+", "a+"):
            raise UsageError(f"GFile: mode {mode!r} is none of r, w, a, r+, w+ and a+, each also with b.")
        self.name, self.mode = os.fspath(name), mode
        if "r" in mode or launcher.rank() == 0:
            self._file: Any = open(self.name, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115
        else:
            self._file = io.BytesIO() if "b" in mode else io.StringIO()

    def read(self, n: int = -1) -> Any:
        """What is left, or n characters of it."""
        return self._file.read(n)

    def readline(self) -> Any:
        return self._file.readline()

    def readlines(self) -> list[Any]:
        return self._file.readlines()

    def write(self, file_content: Any) -> None:
        self._file.write(file_content)

    def seek(self, offset: int = 0, whence: int = 0) -> None:
        self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def size(self) -> int:
        """Bytes of the file."""
        return os.path.getsize(self.name)

    Size = size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> GFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


Open = FastGFile = GFile


def Exists(filename: Path) -> bool:
    """Whether there is a file or folder."""
    return os.path.exists(filename)


def IsDirectory(dirname: Path) -> bool:
    """Whether it is a folder."""
    return os.path.isdir(dirname)


def ListDirectory(dirname: Path) -> list[str]:
    """Names of what is in a folder."""
    return sorted(os.listdir(dirname))


def Glob(filename: Any) -> list[str]:
    """The files that match a pattern, or several."""
    patterns = filename if isinstance(filename, list | tuple) else [filename]
    return [found for pattern in patterns for found in sorted(glob.glob(os.fspath(pattern)))]


def Walk(top: Path, in_order: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, folders in it, files in it), from the top or, not in_order, from below."""
    return os.walk(top, topdown=in_order)


def Stat(filename: Path) -> Any:
    """os.stat with TensorFlow's names: length, mtime_nsec, is_directory."""
    found = os.stat(filename)
    return type(
        "FileStatistics",
        (),
        {
            "length": found.st_size,
            "mtime_nsec": found.st_mtime_ns,
            "is_directory": os.path.isdir(filename),
        },
    )()


def MakeDirs(dirname: Path) -> None:
    """Make a folder and those around it, where they are not there."""
    meanwhile = FileNotFoundError, FileExistsError  # rank 0 may be deleting them
    _again(lambda: os.makedirs(dirname, exist_ok=True), meanwhile, lambda: not os.path.isfile(dirname))


def MkDir(dirname: Path) -> None:
    """Make a folder, where it is not there."""
    if not os.path.isdir(dirname):
        try:
            os.mkdir(dirname)
        except FileExistsError:  # another rank was faster
            if not os.path.isdir(dirname):
                raise


def DeleteRecursively(dirname: Path) -> None:
    """Delete a folder with all in it, or a file. Rank 0 does."""
    if launcher.rank() == 0:
        remove = shutil.rmtree if os.path.isdir(dirname) else os.remove
        _again(lambda: remove(dirname), OSError, lambda: os.path.exists(dirname))  # others may be making some


def Remove(filename: Path) -> None:
    """Delete a file. Rank 0 does."""
    if launcher.rank() == 0:
        os.remove(filename)


def Rename(oldname: Path, newname: Path, overwrite: bool = False) -> None:
    """Move a file or folder. Rank 0 does. UsageError where the new name is taken, unless overwrite."""
    if launcher.rank() == 0:
        _free(newname, overwrite)
        os.replace(oldname, newname)


def Copy(oldpath: Path, newpath: Path, overwrite: bool = False) -> None:
    """Copy a file. Rank 0 does. UsageError where the new name is taken, unless overwrite."""
    if launcher.rank() == 0:
        _free(newpath, overwrite)
        shutil.copyfile(oldpath, newpath)


def _again(
    change: Callable[[], Any],
    meanwhile: type[OSError] | tuple[type[OSError], ...],
    may: Callable[[], bool],
) -> None:
    """Do a change that another rank may disturb, some times over if it did."""
    for left in range(19, -1, -1):
        try:
            return change()
        except meanwhile:
            if not left or not may():
                raise
            time.sleep(0.001)


def _free(path: Path, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"{os.fspath(path)} is there already: overwrite=True replaces it.")
