"""Download MNIST's four files. Each is checked before it gets its name, so nobody ever meets half a file."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from dtrain.data import idx
from dtrain.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
ANSWER_S = 10.0  # for a mirror to begin to answer
SILENCE_S = 10.0  # between two pieces of a file
FILE_S = 300.0  # for one whole file


class Unreachable(DataError):
    """A file is absent and could not be fetched: nothing is damaged, it is just not there."""


def fetch(folder: Path, say: Callable[[str], object] = print, mirrors: Sequence[str] | None = None) -> Path:
    """Put MNIST's four files (.gz) into a folder, made where there is none; returns the folder.

    Files already there and good stay as they are, a fresh copy takes precedence over damaged ones. `say` gets
    one line for each download. mirrors: URLs that end with a slash, MIRRORS by default.
    Raises DataError where no mirror gives a file or the folder cannot be written; it is an Unreachable where
    the file is merely absent, not damaged.
    """
    mirrors = MIRRORS if mirrors is None else mirrors
    try:
        found = idx.find(folder) if folder.is_dir() else {}
        for file in sorted(idx.FILES, key=lambda file: file not in found):  # damage is told before absence
            if file in found and idx.is_good(found[file], file):
                continue
            try:
                content = _from_any(mirrors, file, say)
            except Unreachable as error:
                if file in found:
                    raise DataError(f"{found[file]}: is damaged, and a new {error}") from None
                raise Unreachable(f"{folder}: holds no {file.name}, and {error}") from None
            _write(folder, f"{file.name}.gz", content)
    except OSError as error:
        raise Unreachable(
            f"{folder}: cannot be written ({error.strerror}). Make it writable, or put MNIST's four files "
            "into another folder (dtrain data fetch gets them) and name it by --dataset DIR or DTRAIN_DATA."
        ) from error
    return folder


def _from_any(mirrors: Sequence[str], file: idx.File, say: Callable[[str], object]) -> bytes:
    """The first good copy that a mirror gives."""
    name, refusals = f"{file.name}.gz", []
    for mirror in mirrors:
        say(f"Downloading {name} ({file.gz_bytes / 1e6:.1f} MB) from {mirror}")
        try:
            return _download(mirror + name, file)
        except Exception as error:  # whatever a network can do: the next mirror may do better
            refusals.append(f"{mirror}: {_clause(error)}")
    raise Unreachable(
        f"{name} could not be downloaded ({'; '.join(refusals)}). On a machine with a network type: "
        "dtrain data fetch, then copy the folder here and name it by --dataset DIR or DTRAIN_DATA."
    )


def _download(url: str, file: idx.File) -> bytes:
    """The checked body of a URL, of which no more is read than one byte beyond the size expected."""
    body, stop = bytearray(), time.monotonic() + FILE_S
    with _answer(url) as response:
        while len(body) <= file.gz_bytes and (piece := response.read1(file.gz_bytes + 1 - len(body))):
            body += piece
            if time.monotonic() > stop:
                raise TimeoutError(f"not done within {FILE_S:.0f} s")
    if len(body) > file.gz_bytes:
        raise ValueError(f"sent more than the {file.gz_bytes} bytes expected")
    if len(body) < file.gz_bytes:
        raise ValueError(f"sent {len(body)} of {file.gz_bytes} bytes")
    if hashlib.sha256(body).hexdigest() != file.gz_sha256:
        raise ValueError("sent something else, its sha256 is wrong")
    return bytes(body)


def _answer(url: str) -> Any:
    """urlopen, bounded as a whole: its own timeout starts anew for each address that a host has."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(url, timeout=SILENCE_S))
        except HTTPError as error:
            error.close()
            answer.set_exception(ValueError(f"HTTP {error.code} {error.reason}"))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(timeout=ANSWER_S)
    except FutureTimeout:
        raise TimeoutError(f"no answer within {ANSWER_S:.0f} s") from None


def _clause(error: Exception) -> str:
    """What went wrong in a few words: urllib wraps the system's own as `reason`."""
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a file that is whole from the moment it has its name, and stays so through a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{os.urandom(8).hex()}.part"
    try:
        with open(part, "xb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
    listing = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(listing)
    finally:
        os.close(listing)
