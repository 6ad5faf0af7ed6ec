"""Every format: what is in a set is what is read; what is wrong with one is said in a sentence."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import FORMATS, NEEDS, TRAIN, Made, npy_bytes, write_idx, zip_bytes

from dtrain.data.readers import find, source
from dtrain.data.readers.source import Label
from dtrain.data.store import Store, gather
from dtrain.errors import DataError, DtrainError, EnvironmentProblem, UsageError


def read(dataset: object, label: str = "") -> Store:
    """The set, in memory."""
    found = find(str(dataset))
    found.look(Label.of(label))
    return gather(found)


def refused(dataset: object, label: str, *words: str) -> str:
    """Reading it ends in a sentence that has all these words; nothing is written beside the files."""
    before = {path for path in Path(str(dataset).split(",")[0]).parent.rglob("*")}
    with pytest.raises(DtrainError) as caught:
        read(dataset, label)
    text = str(caught.value)
    assert type(caught.value) in (DataError, UsageError), caught.value
    for word in words:
        assert word in text, text
    assert "\n" not in text and "Traceback" not in text
    assert before == {path for path in Path(str(dataset).split(",")[0]).parent.rglob("*")}
    return text


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return FORMATS[request.param](tmp_path)


# -- what is there -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("piece", [1, 1000, source.PIECE])
def test_what_is_in_a_set_is_read(made: Made, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", piece)
    store = read(made.dataset, made.label)
    assert store.manifest.parts == made.parts and store.manifest.kind == made.kind
    assert store.manifest.classes == tuple(made.classes)
    assert store.x.dtype == ("uint8" if made.x.dtype == np.uint8 else "float32")
    np.testing.assert_array_equal(store.x, made.x.astype(store.x.dtype))
    np.testing.assert_array_equal(store.y, made.y.astype(store.y.dtype))
    assert not store.x.flags.writeable
    train = made.x[:TRAIN].astype(np.float64).reshape(-1, made.x.shape[-1])
    np.testing.assert_allclose(store.manifest.moments["x"].mean, train.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(store.manifest.moments["x"].deviation, train.std(0), rtol=1e-6, atol=1e-7)
    if made.kind == "classes":
        for part, rows in store.manifest.ranges().items():
            if rows:
                counts = np.bincount(made.y[rows.start : rows.stop], minlength=len(made.classes))
                assert store.manifest.counts[part] == counts.tolist()


def test_the_digest_follows_from_what_examples_are(tmp_path: Path) -> None:
    """Not from the format, the pieces or the folder's name."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (TRAIN, 6, 7), np.uint8), rng.integers(0, 4, TRAIN, np.uint8)
    x[0], y[0] = 0, 3
    write_idx(tmp_path / "a", x, y)
    np.savez(tmp_path / "b.npz", x=x, y=y.astype(np.int64))
    np.savez_compressed(tmp_path / "c.npz", images=x, labels=y)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    np.save(tmp_path / "y.npy", y)
    said = ("a", "b.npz", "c.npz")
    digests = {read(tmp_path / name).manifest.digest for name in said}
    digests.add(read(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}").manifest.digest)
    assert len(digests) == 1
    x[5, 5, 5] += 1
    np.savez(tmp_path / "d.npz", x=x, y=y)
    y[7] = (y[7] + 1) % 4
    np.savez(tmp_path / "e.npz", x=x, y=y)
    np.savez(tmp_path / "f.npz", x_train=x[:-9], y_train=y[:-9], x_test=x[-9:], y_test=y[-9:])
    digests |= {read(tmp_path / f"{name}.npz").manifest.digest for name in "def"}
    assert len(digests) == 4


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx_of_every_type(kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 100, (TRAIN, 5, 4, 3)).astype(kind)
    write_idx(tmp_path / "s", x, np.arange(TRAIN).astype("i2"), gz=False)
    store = read(tmp_path / "s", ":numbers")
    np.testing.assert_array_equal(store.x, x)
    assert store.x.dtype == ("uint8" if kind == "u1" else "float32")
    assert store.manifest.parts == {"train": TRAIN}
    np.testing.assert_array_equal(store.y, np.arange(TRAIN, dtype=np.float32))


Y = np.arange(24)
TARGETS: dict[str, tuple[Any, str, str, Any, tuple[str, ...]]] = {
    "classes": (Y % 3, "", "classes", Y % 3, ("0", "1", "2")),
    "classes from 1": (Y % 3 + 1, "", "classes", Y % 3 + 1, ("0", "1", "2", "3")),
    "many whole numbers": (Y * 100, "", "numbers", Y * 100, ()),
    "many, said to be classes": (Y * 100, ":classes", "classes", Y * 100, tuple(map(str, range(2301)))),
    "few, said to be numbers": (Y % 3, ":numbers", "numbers", Y % 3, ()),
    "negative": (Y - 5, "", "numbers", Y - 5, ()),
    "floats": (Y / 2, "", "numbers", Y / 2, ()),
    "yes and no": (Y % 2 == 0, "", "classes", 1 - Y % 2, ("0", "1")),
    "a column": ((Y % 3)[:, None], "", "classes", Y % 3, ("0", "1", "2")),
    "words": (np.array(["b", "a", "c"])[Y % 3], "", "classes", np.array([1, 0, 2])[Y % 3], ("a", "b", "c")),
    "one hot": (np.eye(3)[Y % 3], "", "classes", Y % 3, ("0", "1", "2")),
    "one hot, said to be labels": (np.eye(3)[Y % 3], ":labels", "labels", np.eye(3)[Y % 3], ("0", "1", "2")),
    "labels": (np.stack([Y % 2, Y % 3 == 0], 1), "", "labels", np.stack([Y % 2, Y % 3 == 0], 1), ("0", "1")),
    "several numbers": (np.stack([Y, Y / 3], 1), "", "numbers", np.stack([Y, Y / 3], 1), ("0", "1")),
    "maps": (Y.repeat(6).reshape(24, 2, 3), "", "numbers", Y.repeat(6).reshape(24, 2, 3), ("0", "1")),
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_targets_are(name: str, tmp_path: Path) -> None:
    y, label, kind, expected, classes = TARGETS[name]
    np.savez(tmp_path / "s.npz", x=np.ones((24, 2)), y=y)
    store = read(tmp_path / "s.npz", label)
    assert (store.manifest.kind, store.manifest.classes) == (kind, classes)
    np.testing.assert_array_equal(store.y, np.asarray(expected).astype(store.y.dtype))
    assert store.y.dtype == {"numbers": "float32", "labels": "uint8"}.get(
        kind, "uint8" if len(classes) <= 256 else "int32"
    )


@pytest.mark.parametrize(
    ("names", "unused"),
    [
        (["x_train", "y_train", "x_test", "y_test", "x_val", "y_val"], []),
        (["train_images", "train_labels", "test_images", "test_labels", "valid_images", "valid_labels"], []),
        (["X", "Y", "Test-X", "Test-Y", "validation.x", "validation.y"], []),
        (["data", "target", "data_test", "target_test", "data_val", "target_val"], ["feature_names"]),
    ],
)
def test_names_of_arrays(names: list[str], unused: list[str], tmp_path: Path) -> None:
    made = {name: np.full((5 - i // 2, 2) if i % 2 == 0 else 5 - i // 2, i) for i, name in enumerate(names)}
    np.savez(tmp_path / "s.npz", **made, **dict.fromkeys(unused, np.zeros(3)))
    found = find(str(tmp_path / "s.npz"))
    found.look(Label.of(":numbers"))
    assert found.parts == {"train": 5, "validation": 3, "test": 4} and found.unused == unused
    assert gather(found).x[:, 0].tolist() == [0] * 5 + [4] * 3 + [2] * 4


def test_a_folder_of_npy(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        np.save(tmp_path / f"x_{part}.npy", np.ones((count, 3)))
        np.save(tmp_path / f"y_{part}.npy", Y[:count])
    assert read(tmp_path).manifest.parts == {"train": 4, "test": 2}


@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ways_to_write_a_table(between: str, end: str, tmp_path: Path) -> None:
    rows = [["a", "kind of it", "b"], ["1e2", "x, y", "-.5"], [" 2 ", 'say "z"', "+3."], []]
    rows.append(["0", "x, y", "1E-3"])
    quoted = ['"{}"'.format(c.replace('"', '""')) if not c[:1].isdigit() else c for row in rows for c in row]
    lines, at = [], 0
    for row in rows:
        lines.append(between.join(quoted[at : at + len(row)]))
        at += len(row)
    (tmp_path / "t.csv").write_bytes(("\ufeff" + end.join(lines) + end).encode())
    store = read(tmp_path / "t.csv", "kind of it")
    np.testing.assert_array_equal(store.x, np.array([[100, -0.5], [2, 3], [0, 1e-3]], np.float32))
    assert store.manifest.classes == ('say "z"', "x, y") and store.y.tolist() == [1, 0, 1]


def test_a_table_is_read_alike_in_every_locale(tmp_path: Path) -> None:
    import locale

    (tmp_path / "t.csv").write_text("a,y\n1.5,2.25\n2.5,3\n")
    before, tried = locale.setlocale(locale.LC_ALL), 0
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        tried += 1
        assert read(tmp_path / "t.csv", "y").x.tolist() == [[1.5], [2.5]]
    locale.setlocale(locale.LC_ALL, before)
    assert tried


def test_lists_in_a_table_of_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    x = np.random.default_rng(0).integers(0, 256, (30, 12), np.uint8)
    for kind in (pa.list_(pa.uint8()), pa.list_(pa.uint8(), 12)):
        table = pa.table({"pixels": pa.array(x.tolist(), kind), "y": Y[:1].repeat(30)})
        pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7)
        store = read(tmp_path / "t.parquet", "y")
        assert store.x.dtype == np.uint8
        np.testing.assert_array_equal(store.x, x)
    rows = x.tolist()
    rows[20] = rows[20][:5]
    table = pa.table({"pixels": pa.array(rows, pa.list_(pa.uint8())), "y": Y[:1].repeat(30)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "y", "row 20", "'pixels'", "5 numbers", "12")


@pytest.mark.parametrize(
    ("modes", "shape"),
    [("L", (4, 6)), ("L 1", (4, 6)), ("L RGB P", (4, 6, 3)), ("RGBA RGB L", (4, 6, 4))],
)
def test_modes_of_images(modes: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i, mode in enumerate(modes.split()):
        (tmp_path / "s" / f"c{i}").mkdir(parents=True)
        image.new("L", (6, 4), 255).convert(mode).save(tmp_path / "s" / f"c{i}" / "1.png")
    store = read(tmp_path / "s")
    assert store.x.shape[1:] == shape and (store.x == 255).all()


# -- what is wrong -------------------------------------------------------------------------------------------
def test_what_is_no_set(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "", "there is no such file or folder")
    (tmp_path / "s").mkdir()
    refused(tmp_path / "s", "", "holds no data that dtrain reads", "IDX", ".parquet", "dtrain data import")
    (tmp_path / "a.txt").write_text("")
    refused(tmp_path / "a.txt", "", "no kind that dtrain reads")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    refused(tmp_path / "train-images-idx3-ubyte.gz", "", "name its folder")
    np.save(tmp_path / "x.npy", np.ones(3))
    refused(tmp_path / "x.npy", "", "x.npy,y.npy")
    refused(f"{tmp_path}/x.npy,{tmp_path}/z.npy", "", "there is no file", "z.npy")
    (tmp_path / "s" / "b.csv").write_text("a,b\n")
    refused(tmp_path / "s", "", "no set by itself", "s/b.csv")
    (tmp_path / "s" / "b.csv").rename(tmp_path / "s" / "train.csv")
    np.save(tmp_path / "s" / "x.npy", np.ones(3))
    refused(tmp_path / "s", "", "tables as text and .npy files", "one set")
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "a", "not a regular file")


def test_labels_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size,price\n1,2\n")
    for label, words in {
        "": ("--label COLUMN", "size, price"),
        "prise": ("no such column", "did you mean price?"),
        "a,,b": ("--label", "a,,b"),
        "price,price": ("--label",),
        "size,price": ("no columns but those of the target",),
        "price:labels": ("cannot be labels",),
    }.items():
        refused(tmp_path / "t.csv", label, *words)
    np.savez(tmp_path / "s.npz", x=np.ones((3, 2)), y=[0.5, 1, 2])
    refused(tmp_path / "s.npz", "price", "no table with columns")
    refused(tmp_path / "s.npz", ":classes", "cannot be classes")


TABLES = {
    "a NaN": ("a,b,y\n1,2,3\n4,nan,5\n", "y", ["line 3", "column 'b'", "nan"]),
    "infinity": ("a,b,y\n1,2,3\n4,1e999,5\n", "y", ["line 3", "column 'b'", "inf"]),
    "too large for float32": ("a,b,y\n1,2,3\n4,1e39,5\n", "y", ["line 3", "column 'b'", "1e+39"]),
    "a word": ("a,b,y\n1,2,3\n4,five,5\n", "y", ["line 3", "column 'b'", "'five' is no number"]),
    "a comma in a number": ("a;b;y\n1;2;3\n4;1,5;5\n", "y", ["line 3", "'1,5'", "decimal point"]),
    "marks in a number": ("a,b,y\n1,2,3\n4,1_000,5\n", "y", ["line 3", "'1_000' is no number"]),
    "nothing in a cell": ("a,b,y\n1,2,3\n4,,5\n", "y", ["line 3", "column 'b'", "is empty"]),
    "no label": ("a,b,y\n1,2,c\n4,2,\n", "y", ["line 3", "column 'y'", "the label is empty"]),
    "a NaN for a target": ("a,b,y\n1,2,0.5\n4,2,NaN\n", "y", ["line 3", "column 'y'", "NaN"]),
    "a row that is short": ("a,b,y\n1,2,3\n4,5\n", "y", ["line 3", "2 columns", "the 3 of the header"]),
    "a row that is long": ("a,b,y\n1,2,3\n\n4,5,6,7\n", "y", ["line 4", "4 columns"]),
    "no rows": ("a,b,y\n", "y", ["no training examples"]),
    "nothing": ("", "y", ["is empty", "name the columns"]),
    "no header": ("1,2,3\n4,5,6\n", "y", ["begins with numbers"]),
    "a column without a name": ("a,,y\n1,2,3\n", "y", ["column 2 has no name"]),
    "two columns of a name": ("a,a,y\n1,2,3\n", "y", ["two columns called 'a'"]),
    "an open quote": ('a,b,y\n1,2,"3\n4,5,6\n', "y", ["no row of a table"]),
    "a cell without end": ("a,b,y\n1,2," + "3" * 200_000 + "\n", "y", ["line 2", "field"]),
    "several targets, one a word": ("a,b,y\n1,2,0.5\n4,5,x\n", "b,y", ["line 3", "'b', 'y'"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_wrong(name: str, tmp_path: Path) -> None:
    text, label, words = TABLES[name]
    (tmp_path / "t.csv").write_text(text)
    refused(tmp_path / "t.csv", label, str(tmp_path / "t.csv"), *words)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,y\n1,2\n\xff\xfe,3\n")
    refused(tmp_path / "t.csv", "y", "no UTF-8")
    (tmp_path / "t.csv").write_bytes(b"a" * (17 << 20))
    refused(tmp_path / "t.csv", "y", "line 1", "longer than")


def test_parts_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train.csv").write_text("a,y\n1,red\n2,green\n")
    (tmp_path / "s" / "test.csv").write_text("a,y\n1,red\n2,green\n3,blue\n")
    refused(tmp_path / "s", "y", "test.csv: line 4", "column 'y'", "'blue'", "2 classes", "(green, red)")
    (tmp_path / "s" / "test.csv").write_text("b,y\n1,red\n")
    refused(tmp_path / "s", "y", "test.csv", "columns b, y", "train.csv has a, y")
    (tmp_path / "s" / "train.csv").rename(tmp_path / "s" / "valid.csv")
    refused(tmp_path / "s", "y", "columns")
    (tmp_path / "s" / "val.csv").write_text("b,y\n1,red\n")
    refused(tmp_path / "s", "y", "val.csv and valid.csv")


ARRAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no y": ({"x": np.ones((3, 2))}, ["holds x, but no pair"]),
    "other lengths": ({"x": np.ones((3, 2)), "y": np.ones(4)}, ["y.npy: holds 4 targets for the 3 examples"]),
    "other sizes": (
        {"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((3, 4)), "y_test": np.ones(3)},
        ["x_test.npy", "an example is [4], but [2] in"],
    ),
    "no y of a part": ({"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((3, 2))}, ["no y for test"]),
    "none": ({"x": np.ones((0, 2)), "y": np.ones(0)}, ["no training examples"]),
    "examples of nothing": ({"x": np.ones((3, 0)), "y": np.ones(3)}, ["an example is float32 [0]"]),
    "a value": ({"x": np.ones(()), "y": np.ones(3)}, ["single value"]),
    "complex": ({"x": np.ones((3, 2)) * 1j, "y": np.ones(3)}, ["x.npy", "complex128"]),
    "dates": ({"x": np.ones((3, 2)), "y": np.array(["2020-01-01"] * 3, "M8[D]")}, ["y.npy", "datetime64"]),
    "a NaN": ({"x": np.array([[1, 2], [3, np.nan]]), "y": np.ones(2)}, ["x.npy[1, 1]: is nan"]),
    "an infinity": ({"x": np.ones((2, 1)), "y": np.array([1, -np.inf])}, ["y.npy[1]", "-inf"]),
    "an unknown label": (
        {"x": np.ones((3, 1)), "y": Y[:3], "x_test": np.ones((3, 1)), "y_test": Y[1:4]},
        ["y_test.npy[2]", "the label 3", "0 to 2"],
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_wrong(name: str, tmp_path: Path) -> None:
    arrays, words = ARRAYS[name]
    np.savez(tmp_path / "s.npz", **arrays)
    refused(tmp_path / "s.npz", "", "s.npz", *words)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "unpickled"),))

    np.savez(tmp_path / "s.npz", x=np.ones((1, 2)), y=np.array([Bomb()], object))
    refused(tmp_path / "s.npz", "", "y.npy", "pickled", "nothing is unpickled")
    np.save(tmp_path / "x.npy", np.array([Bomb()], object))
    np.save(tmp_path / "y.npy", np.ones(1))
    refused(f"{tmp_path}/x.npy,{tmp_path}/y.npy", "", "x.npy", "pickled")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "data_batch_1").write_bytes(b"\x80\x04.")
    refused(tmp_path / "c", "", "pickled", "binary version")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a/../../x.npy", "C:x.npy", "..\\x.npy"])
def test_a_path_out_of_an_archive(name: str, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(zip_bytes({name: npy_bytes(np.ones(3)), "y.npy": npy_bytes(np.ones(3))}))
    refused(tmp_path / "s.npz", "", "a path outside of it")


def test_other_archives(tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    file.write_bytes(zip_bytes({"x.npy": npy_bytes(np.ones(3)), "readme.txt": b"hello"}))
    refused(file, "", "'readme.txt' is no array")
    file.write_bytes(b"PK\x03\x04 nothing")
    refused(file, "", "damaged, or no .npz")
    file.write_bytes(zip_bytes({f"{i}.npy": b"" for i in range(1001)}))
    refused(file, "", "1,001 files")
    good = npy_bytes(np.ones((3, 2)))
    for bad, word in {
        good[:-1]: "holds 47 bytes, expected 48",
        good + b"x": "holds 49 bytes",
        b"nothing": "no .npy file",
        good.replace(b"<f8", b"|O8"): "pickled",
        good.replace(b"'shape': (3, 2)", b"'shape': (3,-2)"): "header",
        good.replace(b"'shape': (3, 2)", b"'shape': (9**9)"): "header",
        good[:9] + b"\xff" + good[10:]: "header is cut short",
    }.items():
        file.write_bytes(zip_bytes({"x.npy": bad, "y.npy": npy_bytes(np.ones(3))}))
        refused(file, "", "x.npy", word)


def test_bombs_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 MB of zeros, where that counts as much."""
    monkeypatch.setattr(source, "BOMB_BYTES", 10 << 20)
    image = pytest.importorskip("PIL.Image")
    zeros, labels = np.zeros((60_000, 1000), np.uint8), np.zeros(60_000, np.uint8)
    np.savez_compressed(tmp_path / "s.npz", x=zeros, y=labels)
    write_idx(tmp_path / "idx", zeros, labels, train=len(zeros))
    for number in range(2):
        (tmp_path / "images" / "a").mkdir(parents=True, exist_ok=True)
        image.new("L", (6000, 5000)).save(tmp_path / "images" / "a" / f"{number}.png")
    tracemalloc.start()
    for name in ("s.npz", "idx", "images"):
        refused(tmp_path / name, "", "would unpack to 60,", "zip bomb")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_size_that_is_only_said_takes_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "images" / "a").mkdir(parents=True)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "images" / "a" / "1.png").write_bytes(png)
    good = npy_bytes(np.ones((3, 2)))
    wild = good.replace(b"(3, 2), ", b"(9**99)")
    wide = good.replace(b"(3, 2), }" + b" " * 10, b"(3333333333, 2), }" + b" ")
    for name, bad in (("s", wild), ("t", wide)):
        (tmp_path / f"{name}.npz").write_bytes(zip_bytes({"x.npy": bad, "y.npy": good}))
    (tmp_path / "idx").mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        header = struct.pack(">IIII", 0x803, 2**32 - 1, 2**16, 2**16)
        (tmp_path / "idx" / name).write_bytes(header + bytes(100))
    tracemalloc.start()
    refused(tmp_path / "images", "", "1.png", "too large", "3600000000 pixels")
    refused(tmp_path / "s.npz", "", "x.npy", "header")
    refused(tmp_path / "t.npz", "", "x.npy", "holds 48 bytes, expected 53,333,333,328")
    refused(tmp_path / "idx", "", "cut short", "4294967295 images of 65536 x 65536")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


# -- images --------------------------------------------------------------------------------------------------
@pytest.fixture
def pets(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(2):
                image.new("RGB", (5, 4), number).save(tmp_path / "pets" / part / name / f"{number}.png")
    return tmp_path / "pets"


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no image": (lambda p: (p / "train/cat/1.png").write_bytes(b"hello"), ["cat/1.png", "no image"]),
    "empty": (lambda p: (p / "train/cat/1.png").write_bytes(b""), ["cat/1.png", "no image"]),
    "cut short": (lambda p: os.truncate(p / "test/dog/1.png", 45), ["dog/1.png", "damaged"]),
    "a format that is not read": (lambda p: (p / "train/cat/2.tif").write_bytes(b""), ["2.tif: is not read"]),
    "a folder too deep": (lambda p: (p / "train/cat/more").mkdir(), ["more: is a folder"]),
    "another class": (lambda p: (p / "test/dog").rename(p / "test/bird"), ["test", "bird, dog"]),
    "a link out": (lambda p: _link(p / "train/cat/2.png", "/etc/hostname.png"), ["cat/2.png", "leads out"]),
    "a folder out": (lambda p: _link(p / "train/emu", p.parent / "emu"), ["emu/1.png", "leads out"]),
}


def _link(path: Path, to: str | Path) -> None:
    if not path.suffix:
        Path(to).mkdir()
        (Path(to) / "1.png").write_bytes(b"")
        (path.parents[1] / "test" / "emu").mkdir()
        (path.parents[1] / "test" / "emu" / "1.png").write_bytes(b"")
    path.symlink_to(to)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_are_wrong(name: str, pets: Path) -> None:
    change, words = BAD_IMAGES[name]
    change(pets)
    refused(pets, "", *words)


def test_images_of_two_sizes(pets: Path) -> None:
    from PIL import Image

    Image.new("RGB", (5, 5)).save(pets / "test" / "cat" / "1.png")
    refused(pets, "", "test/cat/1.png: is 5 x 5 pixels", "train/cat/0.png 4 x 5", "one size")
    Image.new("I;16", (5, 4)).save(pets / "test" / "cat" / "1.png")
    refused(pets, "", "test/cat/1.png", "I;16", "8 bits")


# -- other formats -------------------------------------------------------------------------------------------
def test_cifar_that_is_wrong(tmp_path: Path) -> None:
    folder = Path(FORMATS["cifar"](tmp_path).dataset)
    batch = folder / "data_batch_3.bin"
    data = batch.read_bytes()
    batch.write_bytes(data[:-1])
    refused(folder, "", "data_batch_3.bin", "not a multiple of the 3,073")
    batch.write_bytes(bytes([data[0], *data[1:3073], 10, *data[3074:]]))
    refused(folder, "", "data_batch_3.bin: example 1,", "the label is 10, expected 0 to 9")
    batch.unlink()
    refused(folder, "", "data_batch_3.bin of cifar10 missing")


def test_cifar100(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (7, 3074), np.uint8)
    rows[:, 0], rows[:, 1] = 3, np.arange(7) * 16
    (tmp_path / "train.bin").write_bytes(rows.tobytes())
    store = read(tmp_path)
    assert store.y.tolist() == (np.arange(7) * 16).tolist() and store.manifest.parts == {"train": 7}
    np.testing.assert_array_equal(store.x[5, 2, 3], rows[5, 2:].reshape(3, 32, 32)[:, 2, 3])


def test_tables_of_columns_that_are_wrong(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather
    import pyarrow.parquet

    file = tmp_path / "t.parquet"
    for columns, words in (
        ({"a": [1.0, None, 3.0], "y": [1, 2, 3]}, ["row 1", "column 'a'", "no value"]),
        ({"a": [1.0, 2.0, float("nan")], "y": [1, 2, 3]}, ["row 2", "column 'a'", "is nan"]),
        ({"a": [1.0, 2.0, 3.0], "y": ["u", None, "v"]}, ["row 1", "column 'y'"]),
        ({"a": ["u", "v", "w"], "y": [1, 2, 3]}, ["column 'a' holds string"]),
        ({"a": [[1], [2], [3]], "b": [1, 2, 3], "y": [1, 2, 3]}, ["column 'a' holds list"]),
        ({"a": np.zeros(0), "y": np.zeros(0)}, ["no training examples"]),
    ):
        pyarrow.parquet.write_table(pa.table(columns), file)
        refused(file, "y", "t.parquet", *words)
    pyarrow.parquet.write_table(pa.table({"a": np.arange(9.0), "y": np.arange(9)}), file)
    whole = file.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        refused(file, "y", "t.parquet", "damaged, cut short, or no .parquet file")
    (tmp_path / "t.arrow").write_bytes(whole)
    refused(tmp_path / "t.arrow", "y", "damaged, cut short, or no .arrow file")


def test_without_the_extra_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(EnvironmentProblem, match=r"pyarrow.*pip install 'dtrain\[data\]'"):
        read(tmp_path / "t.parquet", "y")
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=r"Pillow.*pip install 'dtrain\[data\]'"):
        read(tmp_path / "s")
