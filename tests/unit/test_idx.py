from __future__ import annotations

import ctypes
import gzip
import hashlib
import os
import shutil
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.data.readers import idx
from dtrain.data.readers.source import Label
from dtrain.data.store import Store, gather
from dtrain.errors import DataError

STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
REAL = os.environ.get("DTRAIN_DATA")


def content(array: np.ndarray, shape: tuple[int, ...] | None = None, magic: int | None = None) -> bytes:
    """An IDX file's bytes; shape and magic: what its header says instead of the truth."""
    shape = array.shape if shape is None else shape
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + array.tobytes()


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images": rng.integers(256, size=(6, 28, 28), dtype=np.uint8),
        "train-labels": np.array([0, 9, 1, 2, 3, 4], np.uint8),
        "t10k-images": rng.integers(256, size=(3, 28, 28), dtype=np.uint8),
        "t10k-labels": np.array([5, 6, 7], np.uint8),
    }


def name_of(stem: str) -> str:
    return f"{stem}-idx{3 if stem.endswith('images') else 1}-ubyte"


def write(folder: Path, stem: str, data: bytes, gz: bool = False) -> Path:
    path = folder / (name_of(stem) + ".gz" * gz)
    path.write_bytes(gzip.compress(data, mtime=0) if gz else data)
    return path


def list_sums(folder: Path) -> None:
    """What `sha256sum *ubyte* > SHA256SUMS` writes."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in folder.glob("*ubyte*")
    ]
    (folder / idx.SUMS).write_text("".join(lines))


@pytest.fixture(params=[False, True], ids=["plain", "gz"])
def gz(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, gz: bool) -> Path:
    """A small data set in MNIST's format, with its SHA256SUMS."""
    for stem, array in arrays().items():
        write(tmp_path, stem, content(array), gz)
    list_sums(tmp_path)
    return tmp_path


def read(folder: Path, known: Sequence[idx.File] = ()) -> Store:
    source = idx.Idx(folder, known)
    source.look(Label())
    return gather(source)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()}


def fails(folder: Path, *words: str) -> None:
    """Reading fails with a message that has all the words, and leaves the files as they were."""
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        read(folder)
    for word in (str(folder), *words):
        assert word in str(caught.value)
    assert snapshot(folder) == before


# -- good files ------------------------------------------------------------------------------------------
def test_reads_train_and_test_into_one_pool(folder: Path) -> None:
    before, made = snapshot(folder), arrays()
    pool = read(folder)
    assert pool.manifest.parts == {"train": 6, "test": 3} and pool.manifest.classes == tuple("0123456789")
    assert pool.x.flags.c_contiguous and pool.x.dtype == pool.y.dtype == np.uint8
    assert np.array_equal(pool.x, np.concatenate([made["train-images"], made["t10k-images"]]))
    assert np.array_equal(pool.y, np.concatenate([made["train-labels"], made["t10k-labels"]]))
    assert snapshot(folder) == before


def test_accepts_the_other_spelling(folder: Path) -> None:
    for path in folder.glob("*ubyte*"):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    list_sums(folder)
    assert len(read(folder).y) == 9


def test_accepts_sums_of_binary_mode_and_other_files(folder: Path) -> None:
    sums = folder / idx.SUMS
    sums.write_text(sums.read_text().replace("  ", " *") + "\n" + "0" * 64 + "  readme.txt\n")
    assert len(read(folder).y) == 9


def test_a_fresh_download_takes_precedence(tmp_path: Path) -> None:
    write(tmp_path, "t10k-labels", b"damaged", gz=False)
    fresh = write(tmp_path, "t10k-labels", b"fresh", gz=True)
    assert list(idx.find(tmp_path).values()) == [fresh]


# -- damaged files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("keep", [0, 3, 0.5, -1], ids=["empty", "in the header", "half", "all but a byte"])
def test_truncated(folder: Path, gz: bool, stem: str, keep: float) -> None:
    path = folder / (name_of(stem) + ".gz" * gz)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    fails(folder, path.name, "short", "sha256sum")


@pytest.mark.parametrize("stem", STEMS)
def test_one_flipped_bit(folder: Path, gz: bool, stem: str) -> None:
    path = folder / (name_of(stem) + ".gz" * gz)
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), max(1, len(data) // 40)):
        data[position] ^= 1
        path.write_bytes(data)
        fails(folder, path.name)
        data[position] ^= 1


@pytest.mark.parametrize(
    "extra", [b"\0", b"x" * 10_000, gzip.compress(b"more")], ids=["zero", "many", "gzip"]
)
def test_appended_bytes(folder: Path, gz: bool, extra: bytes) -> None:
    path = folder / (name_of("train-images") + ".gz" * gz)
    path.write_bytes(path.read_bytes() + extra)
    fails(folder, path.name, "continues after the end" if gz else "is too long")


def test_appended_content(folder: Path, gz: bool) -> None:
    path = write(folder, "train-labels", content(arrays()["train-labels"]) + b"\1", gz)
    list_sums(folder)
    fails(folder, path.name, "too long", "6 bytes")


@pytest.mark.parametrize("count", [7, 10_000_000, 10_000_001, 2**32 - 1])
def test_header_announces_more_than_there_is(folder: Path, gz: bool, count: int) -> None:
    made = arrays()
    write(folder, "train-labels", content(made["train-labels"], (count,)), gz)
    path = write(folder, "train-images", content(made["train-images"], (count, 28, 28)), gz)
    list_sums(folder)
    tracemalloc.start()
    fails(folder, path.name if count > 7 or not gz else "train-labels", str(count))
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(6, 28, 27), (6, 1, 784), (6, 2**16, 2**16), (0, 28, 28)])
def test_training_images_of_another_size(folder: Path, gz: bool, shape: tuple[int, ...]) -> None:
    path = write(folder, "train-images", content(arrays()["train-images"], shape), gz)
    list_sums(folder)
    fails(folder, f"{shape[0]} images of {shape[1]} x {shape[2]}")
    if shape[0]:
        with pytest.raises(
            DataError, match=f"{path.name}.*{shape[0]} images.*expected 60000 images of 28 x 28"
        ):
            read(folder, idx.FILES)


def test_gzip_bomb(tmp_path: Path) -> None:
    made = arrays()
    for stem, array in made.items():
        write(tmp_path, stem, content(array), gz=True)
    bomb = write(tmp_path, "train-images", content(made["train-images"]) + bytes(64 << 20), gz=True)
    list_sums(tmp_path)
    tracemalloc.start()
    fails(tmp_path, bomb.name, "too long")
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_reads_at_most_one_byte_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem, array in arrays().items():
        write(tmp_path, stem, content(array))
    list_sums(tmp_path)
    long = tmp_path / name_of("train-images")
    os.truncate(long, 1 << 40)  # no space taken: the file is mostly a hole
    positions = []
    keep = idx._Content.fill

    def fill(self: idx._Content, view: memoryview) -> int:
        count = keep(self, view)
        positions.append(self._file.tell())
        return count

    monkeypatch.setattr(idx._Content, "fill", fill)
    with pytest.raises(DataError, match="is too long"):
        read(tmp_path)
    assert max(positions) == 16 + 6 * 784 + 1


def test_wrong_magic(folder: Path, gz: bool) -> None:
    path = write(folder, "t10k-images", content(arrays()["t10k-images"], magic=0xA03), gz)
    list_sums(folder)
    fails(folder, path.name, "00000a03", "00000803")


def test_labels_where_images_belong(folder: Path, gz: bool) -> None:
    path = write(folder, "t10k-images", content(np.zeros(100, np.uint8)), gz)
    list_sums(folder)
    fails(folder, path.name, "00000801", "00000803", "2 to 8 axes")


def test_not_gzip(tmp_path: Path) -> None:
    for stem, array in arrays().items():
        (tmp_path / f"{name_of(stem)}.gz").write_bytes(content(array))
    list_sums(tmp_path)
    fails(tmp_path, "train-images-idx3-ubyte.gz", "cannot be decompressed")


def test_label_of_no_training_example(folder: Path, gz: bool) -> None:
    path = write(folder, "t10k-labels", content(np.array([0, 10, 255], np.uint8)), gz)
    list_sums(folder)
    fails(folder, path.name, "label 1", "the label 10", "0 to 9")


def test_counts_differ(folder: Path, gz: bool) -> None:
    path = write(folder, "t10k-labels", content(np.zeros(4, np.uint8)), gz)
    list_sums(folder)
    fails(folder, path.name, "4 labels", "3 images")


# -- folders ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stem", STEMS)
def test_one_file_missing(folder: Path, gz: bool, stem: str) -> None:
    (folder / (name_of(stem) + ".gz" * gz)).unlink()
    fails(folder, "1 of the 4", name_of(stem), "dtrain data fetch", "DTRAIN_DATA")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*No such file.*dtrain data fetch"):
        read(tmp_path / "nowhere", idx.FILES)


def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listdir(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(DataError, match=r"cannot be read as a folder.*Permission denied"):
        read(folder, idx.FILES)


@contextmanager
def no_right_to_all() -> Iterator[None]:
    """Without root's capabilities to read whatever it likes, where this process has them."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read everything")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those from 32 up
    assert libc.capget(header, held) == 0
    less = (ctypes.c_uint32 * 6)(held[0] & ~0b110, *held[1:])  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.mark.parametrize("what", [".", "t10k-images-idx3-ubyte.gz", idx.SUMS])
def test_no_permission(folder: Path, gz: bool, what: str) -> None:
    path = folder / (what if gz else what.removesuffix(".gz"))
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with no_right_to_all(), pytest.raises(DataError, match="Permission denied"):
            read(folder)
    finally:
        path.chmod(mode)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_not_a_regular_file(folder: Path, gz: bool, make: Callable[[Path], None]) -> None:
    path = folder / (name_of("t10k-images") + ".gz" * gz)
    path.unlink()
    make(path)
    fails(folder, path.name, "is not a regular file")


# -- digests ---------------------------------------------------------------------------------------------
def test_1000_mutations_are_refused_or_without_effect(folder: Path, mutations: Callable[..., Any]) -> None:
    """500 of plain files, 500 of compressed ones; the list of digests is damaged like the rest."""
    good, before, refused = read(folder), snapshot(folder), 0
    tracemalloc.start()
    for name in sorted(before):
        path = folder / name
        for kind, data in mutations(before[name][0], 100):
            path.write_bytes(data)
            try:
                pool = read(folder)
            except DataError as error:
                refused += 1
                assert name in str(error) or name == idx.SUMS, (kind, error)
            else:
                np.testing.assert_array_equal(pool.x, good.x, err_msg=kind)
                np.testing.assert_array_equal(pool.y, good.y, err_msg=kind)
            assert path.read_bytes() == data
        path.write_bytes(before[name][0])
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert {name: data for name, (data, _) in snapshot(folder).items()} == {
        n: d for n, (d, _) in before.items()
    }
    assert refused > 450


def test_mutations_with_digests_made_right_are_refused_or_what_the_files_say(
    folder: Path, gz: bool, mutations: Callable[..., Any]
) -> None:
    """Whoever forges a file may forge its digest."""
    tracemalloc.start()
    for stem in STEMS:
        path = folder / (name_of(stem) + ".gz" * gz)
        whole = path.read_bytes()
        for _, data in mutations(whole, 60):
            path.write_bytes(data)
            list_sums(folder)
            try:
                pool = read(folder)
            except DataError:
                continue
            bytes_of = gzip.decompress if gz else bytes
            files = {s: bytes_of((folder / (name_of(s) + ".gz" * gz)).read_bytes()) for s in STEMS}
            assert pool.x.tobytes() == files["train-images"][16:] + files["t10k-images"][16:]
            assert pool.y.tobytes() == files["train-labels"][8:] + files["t10k-labels"][8:]
        path.write_bytes(whole)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_without_sums_any_set_is_taken(folder: Path) -> None:
    before = read(folder).manifest
    (folder / idx.SUMS).unlink()
    assert read(folder).manifest == before


def test_a_set_without_test_examples(folder: Path, gz: bool) -> None:
    for file in folder.glob("t10k*"):
        file.unlink()
    pool = read(folder)
    assert pool.manifest.parts == {"train": 6} and np.array_equal(pool.x, arrays()["train-images"])
    (folder / (name_of("train-labels") + ".gz" * gz)).unlink()
    fails(folder, "3 of the 4 data files missing")


def test_sums_do_not_count_where_mnist_is_wanted(folder: Path) -> None:
    with pytest.raises(DataError, match=r"6 images .*expected 60000 images.*--dataset DIR"):
        read(folder, idx.FILES)


def test_file_not_listed(folder: Path) -> None:
    sums = folder / idx.SUMS
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "t10k-labels" not in line))
    fails(folder, "t10k-labels", f"a line in {idx.SUMS}", "sha256sum")


def test_malformed_sums(folder: Path) -> None:
    sums = folder / idx.SUMS
    sums.write_text(sums.read_text() + "what is this\n")
    fails(folder, idx.SUMS, "line 5")


def test_mnists_size_with_other_content(tmp_path: Path) -> None:
    for file in idx.FILES:
        path = tmp_path / file.name
        path.write_bytes(struct.pack(f">{1 + len(file.shape)}I", 0x800 + len(file.shape), *file.shape))
        os.truncate(path, path.stat().st_size + int(np.prod(file.shape)))
        assert not idx.is_good(path, file)
    with pytest.raises(DataError, match=f"train-labels.*wrong content.*{idx.FILES[1].content_sha256}"):
        read(tmp_path, idx.FILES)


# -- the real files --------------------------------------------------------------------------------------
real = pytest.mark.skipif(not REAL, reason="DTRAIN_DATA does not name a folder with MNIST")


@real
def test_mnist() -> None:
    pool = read(Path(REAL), idx.FILES)
    assert pool.x.shape == (70_000, 28, 28) and pool.manifest.parts == {"train": 60_000, "test": 10_000}
    assert pool.manifest.name == "mnist" and read(Path(REAL)).manifest == pool.manifest
    assert list(pool.y[:5]) == [5, 0, 4, 1, 9] and list(pool.y[60_000:60_003]) == [7, 2, 1]
    counts = np.bincount(pool.y[:60_000])
    assert list(counts) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@real
@pytest.mark.parametrize("index", range(4), ids=STEMS)
def test_mnist_with_one_flipped_bit(tmp_path: Path, index: int) -> None:
    found = idx.find(Path(REAL))
    for path in found.values():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / found[idx.FILES[index].stem].name
    path.unlink()
    shutil.copyfile(found[idx.FILES[index].stem], path)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    assert not idx.is_good(path, idx.FILES[index])
    with pytest.raises(DataError, match=f"{path.name}.*dtrain data fetch"):
        read(tmp_path, idx.FILES)
    if index != 3:  # one is enough of what follows
        return
    plain = bytearray(gzip.decompress(found[idx.FILES[index].stem].read_bytes()))
    plain[-1] ^= 1
    path.unlink()
    path.with_suffix("").write_bytes(plain)
    with pytest.raises(DataError, match=f"{path.stem}: is not MNIST's, but the other three files are"):
        read(tmp_path)


@real
def test_mnist_takes_little_more_memory_than_the_pool() -> None:
    tracemalloc.start()
    pool = read(Path(REAL), idx.FILES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < pool.x.nbytes + 6e6
