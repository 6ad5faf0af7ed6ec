"""A set and its parts: which rows are held back, and what a model knows of the set it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dtrain.comm.single import SingleCommunicator
from dtrain.data import refuse_bad, validated
from dtrain.data.dataset import Dataset, Split
from dtrain.errors import DataError, UsageError

alone = SingleCommunicator()


def made(count: int = 60, test: int = 0, **more: Any) -> Dataset:
    x = np.arange(2.0 * (count + test), dtype=np.float32).reshape(-1, 2)
    y = (np.arange(count + test) % 3).astype(np.uint8)
    facts: dict[str, Any] = {"classes": ("a", "b", "c"), "test": range(count, count + test), "x": x, "y": y}
    return Dataset(
        **{"name": "made", "source": "here", "digest": "d", "train": range(count), **facts, **more}
    )


@pytest.mark.parametrize(("count", "held"), [(10, 1), (10, 9), (10, 5), (7, 3), (1000, 334), (60_000, 6_000)])
def test_what_is_held_back_is_spread_evenly(count: int, held: int) -> None:
    rows = Split(count, held).rows(np.arange(count + 5))
    left, back, behind = np.split(rows, [count - held, count])
    assert sorted(rows.tolist()) == list(range(count + 5)) and behind[0] == count
    assert (np.diff(left) > 0).all() and (np.diff(back) > 0).all()
    assert (np.diff(np.concatenate([[-1], back, [count]])) <= 2 * (count // held + 1)).all()
    some = np.arange(0, count, 1 + count // 10)
    assert np.array_equal(Split(count, held).rows(some), rows[some])


@pytest.mark.parametrize(("said", "held"), [("0.1", 6), ("7", 7), ("0.99", 59), ("59", 59)])
def test_a_share_or_a_number_is_held_back(said: str, held: int) -> None:
    whole = made(60, 9)
    data = validated(whole, said, alone)
    assert (len(data.train), len(data.validation), data.test) == (60 - held, held, range(60, 69))
    rows = [data.part(name)[:].tolist() for name in ("train", "validation", "test")]
    assert sorted(rows[0] + rows[1]) == list(range(60)) and rows[2] == list(range(60, 69))
    assert data.digest != whole.digest and data.digest == validated(made(60, 9), said, alone).digest
    assert data.x is whole.x


@pytest.mark.parametrize("said", ["0", "60", "1.0", "1.5", "-3", "0.001", "nan", "inf"])
def test_a_split_that_leaves_nothing_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match=f"--validation {said}: give a share between 0 and 1, a number of"):
        validated(made(), said, alone)


def test_another_set_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    from dtrain import data as room

    sets = {"other": made(12, classes=("c", "a"), y=np.arange(12) % 2), "odd": made(9, x=np.zeros((9, 5)))}
    sets["more"] = made(9, classes=("a", "z"), y=np.arange(9) % 2)
    monkeypatch.setattr(room, "_found", lambda spec, *_: sets[spec])
    data = validated(made(), "other", alone)
    part = data.part("validation")
    assert len(data.train) == 60 and len(part) == 12 and part[:].tolist() == list(range(12))
    assert part.data.y[:3].tolist() == [2, 0, 2], "in the classes of the set that is trained on"
    with pytest.raises(
        DataError, match=r"--validation odd has examples float64 \[5\], and made has float32 \[2\]"
    ):
        validated(made(), "odd", alone)
    with pytest.raises(DataError, match="--validation more has classes that made does not have: z"):
        validated(made(), "more", alone)
    with pytest.raises(UsageError, match="made has 12 validation examples; leave it out"):
        validated(data, "0.1", alone)


def test_what_a_model_was_trained_on_counts() -> None:
    mean, deviation = np.float32([1, 2]), np.float32([3, 0])
    about = made(mean=mean, deviation=deviation).about()
    other = made(9, mean=mean * 5, deviation=deviation).like(about, "--dataset other")
    assert other.mean.tolist() == [1, 2] and other.deviation.tolist() == [3, 0]
    numbers = made(kind="numbers", classes=(), y=np.zeros((60, 2), np.float32))
    with pytest.raises(DataError, match="other has targets numbers, and made has classes"):
        numbers.like(about, "other")
    with pytest.raises(DataError, match=r"targets float32 \[3\], and made has float32 \[2\]"):
        made(kind="numbers", classes=(), y=np.zeros((60, 3), np.float32)).like(numbers.about(), "other")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"kind": "numbers", "y": [1.0, 2, np.nan, 4]},
            "example 2, counted from 0, is nan, expected a finite",
        ),
        ({"kind": "numbers", "y": [[1.0, 2], [np.inf, 4], [0, 0], [1, 1]]}, r"example 1, .* is \[inf"),
        ({"y": [0, 1, 2, 3]}, "example 3, counted from 0, is 3, expected a whole number from 0 to 2"),
        (
            {"kind": "labels", "y": [[0, 1], [1, 1], [1, 0], [0, 2]]},
            r"example 3, .* is \[0 2\], expected .* 0 to 1",
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_target_that_is_none_is_named(
    more: Any, words: str, size: int, on_threads: Callable[..., Any]
) -> None:
    more["y"] = np.array(more["y"])
    data = made(4, **more)

    def body(comm: Any) -> str:
        with pytest.raises(DataError, match=f"here: the target of {words}") as caught:
            refuse_bad(data, comm)
        return str(caught.value)

    assert len(set(on_threads(size, body))) == 1
    refuse_bad(data, alone, targets=False)


def test_too_few_examples_are_told_on_all_ranks(on_threads: Callable[..., Any]) -> None:
    def body(comm: Any) -> None:
        with pytest.raises(DataError, match="here has no training examples"):
            refuse_bad(made(0), comm)
        with pytest.raises(DataError, match=r"3 ranks share 2 training examples, .* at most 2, or"):
            refuse_bad(made(2), comm)

    on_threads(3, body)
