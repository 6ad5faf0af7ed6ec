"""Files that are replaced whole, files that are read without trusting them, and the user's cache."""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import IO, Any

#: Flags that Windows does not have: do not follow a link, do not wait for the other end of a pipe.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def write_atomically(path: Path, *pieces: Any) -> None:
    """Replace a file so that a crash at any moment leaves the old content or the new, whole.

    pieces: bytes or C-contiguous buffers, one after the other.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # left by a crash, or a link: what it points to is not ours to write
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise
    sync(path.parent)


def make_new(path: Path) -> bool:
    """Make a folder; False where it is there. Of several processes that try at once, one makes it.

    Raises:
        OSError: it cannot be made.
    """
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def sync(path: Path) -> None:
    """Return when a folder's names, or a file's content, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a file to read ("rb"), or also write ("r+b"); raises OSError for a link, a pipe or a device."""
    how = os.O_RDWR if "+" in mode else os.O_RDONLY
    file = open(path, mode, opener=lambda name, _: os.open(name, how | _NO_LINK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_regular(path: Path, most: int) -> bytes:
    """A file's content; raises OSError for what open_regular refuses, and for more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size) if size <= most else b""
    if size > most:
        raise OSError(errno.EFBIG, f"it holds more than {most:,} bytes", str(path))
    return data


def cache_folder() -> Path:
    """Where downloaded data is kept: mnist in the platform's cache folder for dtrain."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("dtrain", appauthor=False), "mnist")


@cache
def own_cache(name: str) -> Path | None:
    """A folder in the user's cache, made where there is none; None where there can be none that
    this user, and no other, may write to."""
    from platformdirs import user_cache_path

    path = user_cache_path("dtrain") / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError:
        return None
    ours = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    return path if ours and os.access(path, os.W_OK) else None
