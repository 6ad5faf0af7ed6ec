"""A node's one copy of a data set: made by one rank, mapped and checked by all, made again if damaged."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.data import pool
from dtrain.data.pool import Pool, held
from dtrain.errors import DataError

N = 3_000  # of 28 x 28: three chunks of checksums


class Maker:
    """Makes a pool, and counts how often; `number` tells one from another."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.calls = number, []

    def __call__(self) -> Pool:
        self.calls.append(threading.current_thread().name)
        rng = np.random.default_rng(self.number)
        images, labels = (
            rng.integers(256, size=(N, 28, 28), dtype=np.uint8),
            np.arange(N, dtype=np.uint8) % 10,
        )
        return Pool(images, labels, 2_000, ("a", "b"))


def same(found: object, maker: Maker) -> bool:
    wanted = Maker(maker.number)()
    return (
        isinstance(found, Pool)
        and np.array_equal(found.x, wanted.x)
        and np.array_equal(found.y, wanted.y)
        and (found.train, found.content) == (wanted.train, wanted.content)
    )


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    monkeypatch.setattr(pool, "root", lambda: folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder


alone = SingleCommunicator()
OnThreads = Callable[..., list[Any]]


def test_it_is_made_once_and_mapped_after(cache: Path) -> None:
    maker = Maker()
    for _ in range(2):
        found = held(alone, lambda: "x", maker)
        assert same(found, maker) and not found.x.flags.writeable
    assert len(maker.calls) == 1 and len(list(cache.iterdir())) == 1
    other = Maker(1)
    assert same(held(alone, lambda: "y", other), other) and len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(("size", "nodes"), [(2, 1), (3, 1), (4, 2)])
def test_one_rank_a_node_makes_it(
    size: int, nodes: int, cache: Path, on_threads: OnThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [cache / f"n{node}" for node in range(nodes)]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(
        pool, "root", lambda: folders[int(threading.current_thread().name) // (size // nodes)]
    )
    maker = Maker()
    for _ in range(2):
        assert all(
            same(r, maker) for r in on_threads(size, lambda comm: held(comm, lambda: "x", maker), nodes)
        )
    assert sorted(maker.calls) == [str(node * (size // nodes)) for node in range(nodes)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of an image": lambda p: flip(p / "x.npy"),
    "a bit of a label": lambda p: flip(p / "y.npy"),
    "a bit of the checksums": lambda p: flip(p / "about"),
    "cut short": lambda p: os.truncate(p / "x.npy", 1_000_000),
    "empty": lambda p: os.truncate(p / "y.npy", 0),
    "no checksums": lambda p: (p / "about").unlink(),
    "nothing": lambda p: [f.unlink() for f in p.iterdir()],
    "a pickle": lambda p: np.save(p / "y.npy", np.array([None]), allow_pickle=True),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("size", [1, 3])
def test_a_damaged_copy_is_made_again(damage: str, size: int, cache: Path, on_threads: OnThreads) -> None:
    maker = Maker()

    def load(comm: Communicator) -> Pool:
        return held(comm, lambda: "x", maker)

    on_threads(size, load)
    (copy,) = cache.iterdir()
    DAMAGE[damage](copy)
    for _ in range(2):
        assert all(same(found, maker) for found in on_threads(size, load))
    assert len(maker.calls) == 2 and list(cache.iterdir()) == [copy]


def test_where_the_cache_cannot_be_written_a_node_shares_a_copy_for_the_run(
    cache: Path, on_threads: OnThreads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool, "root", lambda: None)
    maker = Maker()
    found = on_threads(2, lambda comm: held(comm, lambda: "x", maker))
    assert len(maker.calls) == 1 and all(same(f, maker) for f in found)
    assert list(tmp_path.iterdir()) == [cache], "the copy's name is gone once all have mapped it"


def test_where_nothing_can_be_written_each_rank_has_its_own(
    on_threads: OnThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "root", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    maker = Maker()
    assert all(same(f, maker) for f in on_threads(2, lambda comm: held(comm, lambda: "x", maker)))


def test_what_the_maker_raises_all_ranks_raise(cache: Path, on_threads: OnThreads) -> None:
    def make() -> Pool:
        raise DataError("damaged")

    def body(comm: Communicator) -> None:
        with pytest.raises(DataError, match="damaged"):
            held(comm, lambda: "x", make)

    on_threads(4, body, 2)
    assert not list(cache.iterdir())


def test_those_used_last_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT", 2)
    maker = Maker()
    for seconds, name in enumerate("abac"):
        held(alone, lambda name=name: name, maker)
        for path in cache.iterdir():  # the clock is too coarse to tell them apart
            if path.stat().st_mtime > 1e6:
                os.utime(path, (seconds, seconds))
    calls = len(maker.calls)
    held(alone, lambda: "a", maker)
    assert len(maker.calls) == calls, "b was used before a"
