"""Communicators against NumPy. tests/unit/test_comm.py runs these bodies on one rank and on threads too."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dtrain import errors
from dtrain.comm import Communicator
from dtrain.comm.base import SHORT
from dtrain.errors import DataError, DtrainError, EnvironmentProblem, RemoteError, UsageError

#: name -> body(comm): what every communicator has to do, called on all of its ranks.
BODIES: dict[str, Callable[[Communicator], None]] = {}


def body(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    BODIES[function.__name__] = function
    return function


FLOATS = ["float16", "float32", "float64"]
NUMBERS = [*FLOATS, "int8", "uint8", "int16", "int32", "int64"]
LENGTHS = [0, 1, 7, 1000]


def of_rank(rank: int, shape: Any, dtype: str) -> np.ndarray:
    """A rank's array; small integers, so that sums are exact in every dtype."""
    return np.random.default_rng(rank + 1).integers(0, 5, shape).astype(dtype)


@body
def an_allreduce_combines_the_arrays_of_all_ranks_in_place(comm: Communicator) -> None:
    for dtype in NUMBERS:
        for shape in (*LENGTHS, (3, 5), ()):
            for op, function in (("sum", np.sum), ("min", np.min), ("max", np.max)):
                everyone = np.array([of_rank(r, shape, dtype) for r in range(comm.size)])
                array = of_rank(comm.rank, shape, dtype)
                result = comm.allreduce(array, op)
                assert result is array and array.dtype == dtype
                np.testing.assert_array_equal(array, function(everyone, axis=0))


@body
def sums_are_the_same_bits_on_all_ranks(comm: Communicator) -> None:
    for dtype in FLOATS:
        array = np.random.default_rng(comm.rank).uniform(-1, 1, 999).astype(dtype)
        comm.allreduce(array)
        assert len(set(comm.gather_text(array.tobytes().hex()))) == 1


@body
def a_broadcast_gives_roots_values(comm: Communicator) -> None:
    for root in {0, comm.size - 1}:
        for dtype in (*NUMBERS, "bool"):
            for shape in (*LENGTHS, (2, 3)):
                array = of_rank(comm.rank, shape, dtype)
                assert comm.broadcast(array, root) is array
                np.testing.assert_array_equal(array, of_rank(root, shape, dtype))


@body
def an_allgather_joins_arrays_of_different_lengths(comm: Communicator) -> None:
    for dtype in (*NUMBERS, "bool"):
        for rest in ((), (3,), (2, 0), (3, 2)):
            for length in (lambda r: r, lambda r: 3 - r % 2, lambda r: 0, lambda r: 5 if r == 0 else 0):
                parts = [of_rank(r, (length(r), *rest), dtype) for r in range(comm.size)]
                mine = parts[comm.rank].copy()
                whole = comm.allgather(mine)
                assert whole.dtype == dtype and whole.shape[1:] == rest
                np.testing.assert_array_equal(whole, np.concatenate(parts))
                whole[...] = 0  # it is the caller's own
                np.testing.assert_array_equal(mine, parts[comm.rank])


@body
def an_allgather_takes_strided_arrays(comm: Communicator) -> None:
    parts = [of_rank(r, (4, 3), "float32") for r in range(comm.size)]
    whole = comm.allgather(parts[comm.rank].T)
    np.testing.assert_array_equal(whole, np.concatenate([p.T for p in parts]))
    np.testing.assert_array_equal(
        comm.allgather(parts[comm.rank][::2]), np.concatenate([p[::2] for p in parts])
    )


@body
def texts_arrive_whole(comm: Communicator) -> None:
    texts = ["", "a", "zwölf Boxkämpfer\nжили-были", "x" * 3_000_000]
    for text in texts:
        for root in {0, comm.size - 1}:
            assert comm.broadcast_text(text if comm.rank == root else "other", root) == text
        mine = f"{comm.rank}{text}" if comm.rank % 2 == 0 else ""
        expected = [f"{r}{text}" if r % 2 == 0 else "" for r in range(comm.size)]
        assert comm.gather_text(mine) == expected


@body
def what_is_known_of_the_ranks_fits_together(comm: Communicator) -> None:
    assert 0 <= comm.rank < comm.size and 0 <= comm.local_rank < comm.local_size <= comm.size
    assert len(comm.hosts) == comm.size and all(comm.hosts)
    assert comm.allgather(np.array([comm.rank])).tolist() == list(range(comm.size))
    before = comm.seconds
    comm.barrier()
    assert comm.seconds > before
    assert comm.describe().endswith(f"on {comm.hosts[comm.rank]}, pid {os.getpid()}")


def agreed(comm: Communicator, error: DtrainError | None) -> DtrainError | None:
    """What agree() raises."""
    try:
        comm.agree(error)
    except DtrainError as raised:
        return raised
    return None


@body
def no_error_is_agreed_to_be_none(comm: Communicator) -> None:
    assert agreed(comm, None) is None


@body
def an_error_on_all_ranks_is_raised_as_it_is(comm: Communicator) -> None:
    raised = agreed(comm, DataError("the file is damaged.\nsecond line"))
    assert type(raised) is DataError and str(raised) == "the file is damaged.\nsecond line"
    assert raised.agreed and raised.exit_code == 4


@body
def an_error_on_one_rank_is_raised_on_all_and_names_it(comm: Communicator) -> None:
    for failing in {0, comm.size // 2, comm.size - 1}:
        raised = agreed(comm, UsageError("no.") if comm.rank == failing else None)
        prefix = f"rank {failing} on {comm.hosts[failing]}: " if comm.size > 1 else ""
        assert type(raised) is UsageError and str(raised) == f"{prefix}no." and raised.agreed


@body
def of_several_errors_the_lowest_ranks_is_raised(comm: Communicator) -> None:
    if comm.size < 3:
        return
    raised = agreed(comm, DataError(f"{comm.rank}") if comm.rank else None)
    assert type(raised) is DataError and str(raised) == f"rank 1 on {comm.hosts[1]}: 1"


@body
def errors_of_all_kinds_keep_their_class_and_a_foreign_one_its_text(comm: Communicator) -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, DtrainError)]
    assert len(kinds) >= 9
    for kind in kinds:
        raised = agreed(comm, kind("text") if comm.rank == comm.size - 1 else None)
        assert type(raised) is kind and "text" in str(raised)

    class Foreign(DtrainError):
        pass

    raised = agreed(comm, Foreign("text"))
    assert type(raised) is RemoteError and str(raised) == "text"


@body
def work_together_fails_together(comm: Communicator) -> None:
    with comm.together():
        pass
    try:
        with comm.together():
            if comm.rank == 0:
                raise DataError("mine")
    except DataError as error:
        assert str(error).endswith("mine") and error.agreed
    else:
        raise AssertionError("no error")


@body
def one_text_is_agreed_on_and_others_are_told(comm: Communicator) -> None:
    comm.agree_on("the weather", "fine")
    comm.agree_on("the weather", "")
    if comm.size == 1:
        return
    last = comm.size - 1
    try:
        comm.agree_on("the weather", "rain" if comm.rank == last else "fine")
    except EnvironmentProblem as error:
        assert error.agreed
        told = (
            f"the ranks do not agree on the weather: rank 0 on {comm.hosts[0]} has fine, "
            f"rank {last} on {comm.hosts[last]} has rain."
        )
        assert str(error).startswith(told)
    else:
        raise AssertionError("no error")


@body
def texts_and_arrays_of_any_length_are_gathered(comm: Communicator) -> None:
    """Short ones go with their length; where one rank's is long all follow."""
    last = comm.size - 1
    for size in (0, 1, SHORT // 8 - 1, SHORT // 8, SHORT - 1, SHORT, SHORT + 1, 300):
        texts = [("é" * size)[: size if rank else size // 2] for rank in range(comm.size)]
        assert comm.gather_text(texts[comm.rank]) == texts
        assert comm.broadcast_text("x" * size if comm.rank == 0 else "no") == "x" * size
        assert comm.broadcast_text("y" * size if comm.rank == last else "", last) == "y" * size
        for dtype, columns in (("float64", 1), ("int8", 3), ("bool", 2), ("U5", 1), ("float32", 0)):
            rows = [size if rank == 1 else 1 for rank in range(comm.size)]
            parts = [np.full((n, columns), rank % 2).astype(dtype) for rank, n in enumerate(rows)]
            gathered = comm.allgather(parts[comm.rank])
            assert gathered.dtype == parts[0].dtype and np.array_equal(gathered, np.concatenate(parts))


@pytest.mark.mpi
@pytest.mark.parametrize("name", BODIES)
def test_over_mpi(name: str, comm: Communicator) -> None:
    BODIES[name](comm)


def test_two_ranks_exchange_arrays(comm: Communicator) -> None:
    """The first and the last swap theirs; those between keep their own."""
    last = comm.size - 1
    other = {0: last, last: 0}.get(comm.rank, comm.rank)
    into = np.zeros(1001)
    comm.exchange(np.full(1001, float(comm.rank)), into, other)
    assert (into == other).all()
