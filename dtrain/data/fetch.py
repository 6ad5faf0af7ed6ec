"""Download sets that have a name. A file is checked before it gets its name: nobody meets half of one."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from dtrain.data import known
from dtrain.data.known import MIRRORS, Download, Known
from dtrain.data.readers import idx
from dtrain.errors import DataError

ANSWER_S = 10.0  # for a mirror to begin to answer
SILENCE_S = 10.0  # between two pieces of a file
FILE_S = 300.0  # for one whole file, and a second more for each 200 kB of it
MOST_BYTES = 256 << 20  # of a file whose size is not published
MOST_MEMBER = 200 << 20  # of a file in an archive


class Unreachable(DataError):
    """A file is absent and could not be fetched: nothing is damaged, it is just not there."""


def fetch(
    folder: Path,
    say: Callable[[str], object] = print,
    mirrors: Sequence[str] | None = None,
    name: str = "mnist",
) -> Path:
    """Put the files of a set that has a name into a folder, made where there is none; returns the folder.

    Files already there and good stay as they are, a fresh copy takes precedence over damaged ones. `say` gets
    one line for each download. mirrors: URLs that end with a slash, those of the set by default.
    Raises DataError where no mirror gives a file or the folder cannot be written; it is an Unreachable where
    the file is merely absent, not damaged.
    """
    its, mirrors = known.of(name), MIRRORS[name] if mirrors is None else mirrors
    try:
        there = _there(its, folder) if folder.is_dir() else {}
        # damage is reported before absence
        for wanted in sorted(its.downloads, key=lambda wanted: wanted.name not in there):
            path, good = there.get(wanted.name, (None, False))
            if good:
                continue
            try:
                content = _from_any(mirrors, wanted, name, say)
            except Unreachable as error:
                if path:
                    raise DataError(f"{path}: is damaged, and a new {error}") from None
                missing = wanted.name.removesuffix(".gz") if its.files else its.title
                raise Unreachable(f"{folder}: holds no {missing}, and {error}") from None
            for file, data in _unpacked(its, content) if its.archive else [(wanted.name, content)]:
                _write(folder, file, data)
    except OSError as error:
        raise Unreachable(
            f"{folder}: cannot be written ({error.strerror}). Make it writable, or put the files of "
            f"{its.title} into another folder ({_command(name)} gets them) and name it by --dataset DIR"
            f"{' or DTRAIN_DATA' if name == 'mnist' else ''}."
        ) from error
    return folder


def _there(its: Known, folder: Path) -> dict[str, tuple[Path, bool]]:
    """Where the downloads of a set are in a folder, of those that are there, and whether each is good."""
    if its.archive:
        return {its.archive.name: (folder, True)} if not its.missing(folder) else {}
    found = idx.find(folder)
    files = [file for file in its.files if file.stem in found]
    return {f"{f.name}.gz": (found[f.stem], idx.is_good(found[f.stem], f)) for f in files}


def _command(name: str) -> str:
    return "dtrain data fetch" + ("" if name == "mnist" else f" {name}")


def _unpacked(its: Known, content: bytes) -> list[tuple[str, bytes]]:
    """The files of a set in its archive, which has the right digest; other members are left alone."""
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in its.members and member.size <= MOST_MEMBER:
                    file = archive.extractfile(member)
                    assert file is not None
                    found.append((name, file.read()))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{its.archive and its.archive.name}: cannot be unpacked ({error}).") from None
    if missing := {*its.members} - {name for name, _ in found}:
        raise DataError(f"{its.archive and its.archive.name}: holds no {', '.join(sorted(missing))}.")
    return found


def _from_any(mirrors: Sequence[str], wanted: Download, name: str, say: Callable[[str], object]) -> bytes:
    """The first good copy that a mirror gives."""
    refusals = []
    size = f" ({wanted.nbytes / 1e6:.1f} MB)" if wanted.nbytes else ""
    for mirror in mirrors:
        say(f"Downloading {wanted.name}{size} from {mirror}")
        try:
            return _download(mirror + wanted.name, wanted)
        except Exception as error:  # whatever a network can do: the next mirror may do better
            refusals.append(f"{mirror}: {_clause(error)}")
    variable = " or DTRAIN_DATA" if name == "mnist" else ""
    raise Unreachable(
        f"{wanted.name} could not be downloaded ({'; '.join(refusals)}). On a machine with a network type: "
        f"{_command(name)}, then copy the folder here and name it by --dataset DIR{variable}."
    )


def _download(url: str, wanted: Download) -> bytes:
    """The checked body of a URL, of which no more is read than one byte beyond the size expected."""
    most = wanted.nbytes or MOST_BYTES
    body, stop = bytearray(), time.monotonic() + FILE_S + wanted.nbytes / 200_000
    with _answer(url) as response:
        while len(body) <= most and (piece := response.read1(min(1 << 20, most + 1 - len(body)))):
            body += piece
            if time.monotonic() > stop:
                raise TimeoutError("not done within the time that a slow network takes")
    if len(body) > most:
        raise ValueError(f"sent more than the {most} bytes expected")
    if len(body) < wanted.nbytes:
        raise ValueError(f"sent {len(body)} of {wanted.nbytes} bytes")
    kind = "sha256" if wanted.sha256 else "md5"
    if hashlib.new(kind, body, usedforsecurity=False).hexdigest() != (wanted.sha256 or wanted.md5):
        raise ValueError(f"sent something else, its {kind} is wrong")
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
