from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dtrain import data
from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.data import Dataset, fetch, idx, load, pool
from dtrain.errors import DataError, UsageError

REAL = os.environ.get("DTRAIN_DATA")
HERE: dict[str, str] = {}  # an environment without DTRAIN_DATA


# -- ranks that are threads ------------------------------------------------------------------------------
class Thread(Communicator):
    """One of several ranks in one process; ranks that do not make the same calls fail after some seconds."""

    def __init__(self, rank: int, size: int, nodes: int, slots: list[np.ndarray], meet: threading.Barrier):
        super().__init__()
        self.rank, self.size, self.local_size = rank, size, size // nodes
        self.local_rank = rank % self.local_size
        self.hosts = tuple(f"n{r // self.local_size}" for r in range(size))
        self.node = tuple(r for r in range(size) if self.hosts[r] == self.hosts[rank])
        self._slots, self._meet = slots, meet

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        self._slots[self.rank] = array
        self._meet.wait(10)
        result = np.concatenate(self._slots)
        self._meet.wait(10)
        return result

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        self._slots[self.rank] = array
        self._meet.wait(10)
        array[...] = self._slots[root]
        self._meet.wait(10)

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        raise NotImplementedError

    def abort(self, exit_code: int) -> None:
        raise NotImplementedError


def on_ranks(size: int, nodes: int, work: Callable[[Communicator], object]) -> list[object]:
    """What work returned or raised on each rank."""
    slots, meet, results = [np.empty(0)] * size, threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Thread(rank, size, nodes, slots, meet))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# -- a small MNIST and mirrors of it -----------------------------------------------------------------------
def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def contents(seed: int = 0) -> list[bytes]:
    """The four files of a set of 6 training and 3 test examples."""
    rng = np.random.default_rng(seed)
    shapes = [(6, 28, 28), (6,), (3, 28, 28), (3,)]
    return [
        idx_bytes(rng.integers(256 if len(shape) == 3 else 10, size=shape, dtype=np.uint8))
        for shape in shapes
    ]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make the small set the one that counts as MNIST; what mirrors have to serve, by file name."""
    shapes = [(6, 28, 28), (6,), (3, 28, 28), (3,)]
    zipped = [gzip.compress(content, mtime=0) for content in contents()]
    sha256 = [[hashlib.sha256(part).hexdigest() for part in parts] for parts in (contents(), zipped)]
    files = tuple(
        idx.File(file.stem, shape, content, gz, len(body))
        for file, shape, content, gz, body in zip(idx.FILES, shapes, *sha256, zipped, strict=True)
    )
    monkeypatch.setattr(idx, "FILES", files)
    return {f"{file.name}.gz": body for file, body in zip(files, zipped, strict=True)}


class Mirror:
    """A web server on the loopback: what it serves, and which files it was asked for."""

    def __init__(self, files: dict[str, bytes], answer: Callable[[BaseHTTPRequestHandler], bool]) -> None:
        self.asked: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                mirror.asked.append(name)
                if answer(self):
                    return
                if name not in files:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(files[name])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Start a mirror of some files; `answer` may answer a request in its own way and then returns true."""
    monkeypatch.setenv("no_proxy", "*")
    started: list[Mirror] = []

    def start(files: dict[str, bytes], answer: Callable = lambda handler: False) -> Mirror:
        started.append(Mirror(files, answer))
        return started[-1]

    yield start
    for one in started:
        one.server.shutdown()
        one.thread.join()
        one.server.server_close()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No mirror answers and the cache is empty, unless a test provides them. Generated sets are small."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "MIRRORS", (dead, dead))
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache" / "mnist")
    monkeypatch.setattr(pool, "root", lambda: made(tmp_path / "pools"))
    monkeypatch.setattr(data, "SYNTHETIC_TRAIN", 3_000)
    monkeypatch.setattr(data, "SYNTHETIC_TEST", 1_000)


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def fill(folder: Path, served: dict[str, bytes], but: str = "") -> Path:
    """Put the files into a folder, all but the one whose name contains `but`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in served.items():
        if not but or but not in name:
            (folder / name).write_bytes(body)
    return folder


def small(dataset: Dataset) -> bool:
    """Whether this is the small MNIST."""
    images = b"".join(content[16:] for content in contents()[::2])
    return dataset.name == "mnist" and dataset.x.tobytes() == images and dataset.warning is None


alone = SingleCommunicator()


# -- where it is looked for --------------------------------------------------------------------------------
def test_explicit_folder(served: dict[str, bytes], tmp_path: Path) -> None:
    dataset = load(str(fill(tmp_path / "d", served)), alone, environ={"DTRAIN_DATA": "/nowhere"})
    assert small(dataset)
    assert dataset.source == str(tmp_path / "d") and len(dataset.classes) == 10
    assert dataset.train == range(6) and dataset.test == range(6, 9)
    assert len(dataset.digest) == 64


def test_explicit_folder_looks_only_there(served: dict[str, bytes], tmp_path: Path) -> None:
    fill(data.cache_folder(), served)
    with pytest.raises(DataError, match=r"4 of the 4 data files missing"):
        load(str(tmp_path), alone, environ={"DTRAIN_DATA": str(data.cache_folder())})


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
def test_dtrain_data_comes_before_the_cache(dataset: str, served: dict[str, bytes], tmp_path: Path) -> None:
    fill(data.cache_folder(), served)
    found = load(dataset, alone, environ={"DTRAIN_DATA": str(fill(tmp_path / "d", served))})
    assert small(found) and found.source == str(tmp_path / "d")


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
def test_cache_comes_next(dataset: str, served: dict[str, bytes]) -> None:
    fill(data.cache_folder(), served)
    assert small(load(dataset, alone, environ={"DTRAIN_DATA": ""}))


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
@pytest.mark.parametrize("what", ["nowhere", "empty", "partial", "a file"])
def test_dtrain_data_leads_nowhere(dataset: str, what: str, served: dict[str, bytes], tmp_path: Path) -> None:
    fill(data.cache_folder(), served)
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "partial", served, but="t10k-labels")
    (tmp_path / "a file").write_text("")
    with pytest.raises(DataError, match=f"DTRAIN_DATA is set.*{what}.*dtrain data fetch"):
        load(dataset, alone, environ={"DTRAIN_DATA": str(tmp_path / what)})


def test_no_such_dataset() -> None:
    with pytest.raises(DataError, match=r"'MNIST'.*auto, mnist, synthetic"):
        load("MNIST", alone, environ=HERE)
    with pytest.raises(UsageError, match="auto, mnist, synthetic"):
        load("", alone, environ=HERE)


def test_another_set_takes_its_folders_name(served: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "fashion"
    folder.mkdir()
    for file, content in zip(idx.FILES, contents(seed=1), strict=True):
        (folder / file.name).write_bytes(content)
        with open(folder / idx.SUMS, "a") as sums:
            sums.write(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    dataset = load(str(folder), alone, environ=HERE)
    assert dataset.name == "fashion"
    assert dataset.digest != load(str(fill(tmp_path / "d", served)), alone, environ=HERE).digest
    with pytest.raises(DataError, match=r"wrong content.*--dataset DIR"):
        load("mnist", alone, environ={"DTRAIN_DATA": str(folder)})


def test_same_digest_wherever_it_lies(served: dict[str, bytes], tmp_path: Path) -> None:
    for name, body in served.items():
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(body))
    plain, packed = (
        load(str(tmp_path), alone, environ=HERE),
        load(str(fill(tmp_path / "d", served)), alone, environ=HERE),
    )
    assert plain.digest == packed.digest


# -- auto and mnist without a network ----------------------------------------------------------------------
def test_auto_falls_back_and_says_so(served: dict[str, bytes]) -> None:
    start = time.monotonic()
    dataset = load("auto", alone, environ=HERE)
    assert time.monotonic() - start < 5
    assert dataset.name == "synthetic" and dataset.source == "generated"
    for words in (
        "generated digits",
        "Connection refused",
        "dtrain data fetch",
        "--dataset DIR",
        "DTRAIN_DATA",
    ):
        assert words in dataset.warning
    assert not data.cache_folder().exists()


def test_mnist_never_falls_back(served: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded.*Connection refused.*dtrain data fetch"):
        load("mnist", alone, environ=HERE)


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
@pytest.mark.parametrize("where", ["cache", "DTRAIN_DATA"])
@pytest.mark.parametrize("partial", [False, True])
def test_damage_is_an_error(
    dataset: str, where: str, partial: bool, served: dict[str, bytes], tmp_path: Path
) -> None:
    folder = data.cache_folder() if where == "cache" else tmp_path / "d"
    fill(folder, served, but="train-images" if partial else "")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damaged := path.read_bytes()[:-20])
    with pytest.raises(DataError, match=path.name if where == "cache" else "d/.*dtrain data fetch|missing"):
        load(dataset, alone, environ={} if where == "cache" else {"DTRAIN_DATA": str(folder)})
    assert path.read_bytes() == damaged


def test_cache_cannot_be_written(
    served: dict[str, bytes],
    mirror: Callable[..., Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "MIRRORS", (mirror(served).url,))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written.*DTRAIN_DATA"):
        load("mnist", alone, environ=HERE)
    dataset = load("auto", alone, environ=HERE)
    assert dataset.name == "synthetic" and "cannot be written" in dataset.warning


# -- downloads -----------------------------------------------------------------------------------------------
def test_fetch(served: dict[str, bytes], mirror: Callable[..., Mirror], tmp_path: Path) -> None:
    said: list[str] = []
    good = mirror(served)
    folder = fetch.fetch(tmp_path / "a" / "b", said.append, [good.url])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == served
    assert len(said) == 4 and good.url in said[0]
    fetch.fetch(folder, said.append, [good.url])
    assert len(good.asked) == len(said) == 4, "good files are not fetched again"


def test_fetch_replaces_only_what_is_damaged(
    served: dict[str, bytes], mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    fill(tmp_path, served)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    plain = tmp_path / "t10k-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress((tmp_path / f"{plain.name}.gz").read_bytes()))
    (tmp_path / f"{plain.name}.gz").unlink()
    good = mirror(served)
    fetch.fetch(tmp_path, mirrors=[good.url])
    assert good.asked == ["train-labels-idx1-ubyte.gz"]
    assert small(load(str(tmp_path), alone, environ=HERE))


def wrong(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body)
    return True


def endless(handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1 << 14):
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        return True  # the reader hung up, as it should
    raise AssertionError("a gigabyte was read")


def same_length(served: dict[str, bytes], handler: BaseHTTPRequestHandler) -> bool:
    return wrong(handler, bytes(len(served[handler.path.rsplit("/", 1)[-1]])))


@pytest.mark.parametrize(
    ("answer", "clause"),
    [
        (lambda served, handler: same_length(served, handler), "sha256 is wrong"),
        (lambda served, handler: wrong(handler, b"<html>"), "sent 6 of"),
        (lambda served, handler: endless(handler), "sent more than"),
        (lambda served, handler: handler.send_error(503) or True, "HTTP 503"),
        (lambda served, handler: True, "Remote end closed"),
    ],
    ids=["wrong digest", "short", "over-long", "HTTP error", "no answer"],
)
def test_second_mirror_helps(
    answer: Callable,
    clause: str,
    served: dict[str, bytes],
    mirror: Callable[..., Mirror],
    tmp_path: Path,
) -> None:
    bad, good = mirror({}, lambda handler: answer(served, handler)), mirror(served)
    fetch.fetch(tmp_path / "d", mirrors=[bad.url, good.url])
    assert len(bad.asked) == len(good.asked) == 4
    assert small(load(str(tmp_path / "d"), alone, environ=HERE))
    with pytest.raises(fetch.Unreachable) as caught:
        fetch.fetch(tmp_path / "e", mirrors=[bad.url, fetch.MIRRORS[0]])
    for words in (
        bad.url,
        clause,
        fetch.MIRRORS[0],
        "Connection refused",
        "DTRAIN_DATA",
        str(tmp_path / "e"),
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "e").exists(), "nothing is left behind"


def test_a_silent_mirror_is_given_up(
    served: dict[str, bytes],
    mirror: Callable[..., Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "ANSWER_S", 0.1)
    monkeypatch.setattr(fetch, "SILENCE_S", 0.3)
    leave = threading.Event()
    silent = mirror({}, lambda handler: leave.wait(10))
    with pytest.raises(DataError, match="no answer within"):
        fetch.fetch(tmp_path / "d", mirrors=[silent.url])
    leave.set()


def test_a_failed_write_leaves_nothing(
    served: dict[str, bytes],
    mirror: Callable[..., Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch.fetch(tmp_path / "d", mirrors=[mirror(served).url])
    assert list((tmp_path / "d").iterdir()) == []


def test_network_modules_are_not_imported_without_need(served: dict[str, bytes], tmp_path: Path) -> None:
    code = "import sys, dtrain.data, dtrain.data.fetch as f; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'urllib.request'" not in modules and "'platformdirs'" not in modules


# -- several ranks -------------------------------------------------------------------------------------------
def test_one_rank_of_each_node_downloads(
    served: dict[str, bytes], mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = mirror(served)
    monkeypatch.setattr(fetch, "MIRRORS", (good.url,))
    results = on_ranks(4, 1, lambda comm: load("mnist", comm, environ=HERE))
    assert all(small(dataset) for dataset in results)
    assert len(good.asked) == 4


@pytest.mark.parametrize("size", [2, 3, 5])
def test_synthetic_is_the_same_on_any_number_of_ranks(size: int) -> None:
    one = load("synthetic", alone, environ=HERE)
    assert one.name == "synthetic" and one.source == "generated" and one.warning is None
    assert one.train == range(3_000) and one.test == range(3_000, 4_000)
    assert one.x.shape == (4_000, 28, 28) and one.x.flags.c_contiguous
    for other in on_ranks(size, 1, lambda comm: load("synthetic", comm, environ=HERE)):
        assert other.digest == one.digest
        assert np.array_equal(other.x, one.x) and np.array_equal(other.y, one.y)


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_failure_on_one_node_reaches_all(damage: str, served: dict[str, bytes], tmp_path: Path) -> None:
    folders = [fill(tmp_path / f"n{node}", served) for node in range(2)]
    path = folders[1] / "t10k-labels-idx1-ubyte.gz"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    results = on_ranks(4, 2, lambda comm: load(str(folders[comm.rank // 2]), comm, environ=HERE))
    assert all(isinstance(result, DataError) for result in results)
    assert len({str(result) for result in results}) == 1
    assert "rank 2 on n1" in str(results[0]) and damage in str(results[0])


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_all_nodes_decide_alike(
    dataset: str, served: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 0 has MNIST in its cache, node 1 has not and cannot reach a mirror."""
    fill(tmp_path / "n0", served)
    monkeypatch.setattr(
        data, "cache_folder", lambda: tmp_path / f"n{int(threading.current_thread().name) // 2}"
    )
    results = on_ranks(4, 2, lambda comm: load(dataset, comm, environ=HERE))
    if dataset == "auto":
        assert [result.name for result in results] == ["synthetic"] * 4
        assert len({result.warning for result in results}) == 1 and "n1" in results[0].warning
    else:
        assert all(isinstance(result, DataError) and "n1" in str(result) for result in results)


def test_nodes_with_other_data(served: dict[str, bytes], tmp_path: Path) -> None:
    folders = [tmp_path / "n0", tmp_path / "n1"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        for file, content in zip(idx.FILES, contents(seed), strict=True):
            (folder / file.name).write_bytes(content)
            with open(folder / idx.SUMS, "a") as sums:
                sums.write(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    results = on_ranks(2, 2, lambda comm: load(str(folders[comm.rank]), comm, environ=HERE))
    assert all(isinstance(result, DataError) for result in results)
    assert "rank 1 on n1 reads other data" in str(results[0])


# -- the real files --------------------------------------------------------------------------------------
@pytest.mark.skipif(not REAL, reason="DTRAIN_DATA does not name a folder with MNIST")
@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_real_mnist(dataset: str) -> None:
    found = load(dataset, alone)
    assert found.name == "mnist" and found.source == REAL and found.warning is None
    assert found.x.shape == (70_000, 28, 28) and found.y.shape == (70_000,)
    assert found.train == range(60_000) and found.test == range(60_000, 70_000)
