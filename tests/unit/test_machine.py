"""BLAS threads among the ranks of a node, and environments that hold the BLAS back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtrain import machine
from dtrain.comm.threads import VARIABLES, crowd, share, usable_cores

SKYLAKE = {"sse2", "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"}
HASWELL = {"sse2", "avx2", "fma"}


@pytest.mark.parametrize(
    ("cores", "threads"),
    [
        ([{0, 1, 2, 3}], [4]),
        ([{0, 1}, {0, 1}], [1, 1]),
        ([{0, 1, 2, 3, 4, 5, 6}] * 3, [2, 2, 2]),
        ([{0, 1}] * 4, [1, 1, 1, 1]),
        # bound by the launcher: to a socket each, to a core each, two to a socket
        ([{0, 1, 2, 3}, {4, 5, 6, 7}], [4, 4]),
        ([{0}, {1}, {2}], [1, 1, 1]),
        ([{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5, 6}], [2, 2, 3]),
        ([{0, 1, 2}, {2, 3}], [2, 1]),
    ],
)
def test_ranks_share_the_cores_that_they_may_use(cores: list[set[int]], threads: list[int]) -> None:
    assert [share(cores, rank) for rank in range(len(cores))] == threads


@pytest.mark.parametrize(
    ("cores", "threads", "words"),
    [
        ([{0, 1}] * 2, [1, 1], ""),
        ([{0, 1}] * 4, [1] * 4, ""),  # several ranks a core are the user's own choice
        ([{0, 1}, {2, 3}], [2, 2], ""),
        ([{0, 1}] * 2, [2, 1], "3 BLAS threads of 2 ranks share 2 cores"),
        ([{5}], [4], "4 BLAS threads of 1 rank share 1 core,"),
    ],
)
def test_more_threads_than_cores_are_told(cores: list[set[int]], threads: list[int], words: str) -> None:
    assert crowd(cores, threads).startswith(words) and bool(crowd(cores, threads)) == bool(words)


@pytest.mark.parametrize(
    ("kernel", "flags", "wide"),
    [
        ("Haswell", SKYLAKE, "AVX-512"),
        ("Zen", SKYLAKE, "AVX-512"),
        ("Prescott", SKYLAKE, "AVX-512"),
        ("Nehalem", HASWELL, "AVX2"),
        ("SkylakeX", SKYLAKE, ""),
        ("Cooperlake", SKYLAKE, ""),
        ("Haswell", HASWELL, ""),
        ("Zen", HASWELL, ""),
        ("Prescott", {"sse2"}, ""),
        ("neoversen1", set(), ""),  # another processor, or macOS: nothing is known of it
        ("", SKYLAKE, ""),
    ],
)
def test_a_kernel_below_the_processor_is_told(kernel: str, flags: set[str], wide: str) -> None:
    said = machine.by_kernel(kernel, flags, {"OPENBLAS_CORETYPE": "Chosen"})
    assert bool(said) == bool(wide)
    if wide:
        assert said.startswith(f"OPENBLAS_CORETYPE=Chosen holds the BLAS to the {kernel} kernel")
        assert f"with {wide}:" in said
    assert machine.by_kernel(kernel, flags, {}) == ""


def test_a_cache_smaller_than_the_processors_is_told() -> None:
    assert "OPENBLAS_L2_SIZE=512 " in machine.by_cache(2048, {"OPENBLAS_L2_SIZE": "512"})
    for size, environ in ((2048, {}), (512, {"OPENBLAS_L2_SIZE": "512"}), (0, {"OPENBLAS_L2_SIZE": "512"})):
        assert machine.by_cache(size, environ) == ""


def test_the_blas_is_said_in_a_line() -> None:
    text = machine.blas_text()
    assert re.fullmatch(r"\w+ [\w.]+(, \w+ kernel)?, (1 thread|\d+ threads)", text), text


@pytest.mark.parametrize(
    ("launched", "threads"),
    [({}, None), ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1), ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None)],
)
def test_the_blas_of_one_of_several_ranks_starts_no_threads(
    launched: dict[str, str], threads: int | None
) -> None:
    if machine.blas()[0]["internal_api"] != "openblas":
        pytest.skip("this wants OpenBLAS")
    environ = {
        k: v for k, v in os.environ.items() if k not in (*VARIABLES, "PMI_RANK", "PMI_SIZE")
    } | launched
    program = (
        "import os, dtrain; print(len(os.listdir('/proc/self/task')), 'OPENBLAS_NUM_THREADS' in os.environ)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [str(threads or len(usable_cores())), "False"]


# -- a program of one's own, under mpirun -----------------------------------------------------------------
OWN = """
import json, os
import dtrain as dt
from dtrain.machine import blas
with dt.Session() as session:
    session.run(dt.constant(1))
line = json.dumps([session.comm.rank, max(library["num_threads"] for library in blas())])
os.write(1, line.encode() + b"\\n")
"""


@pytest.fixture
def program(mpirun: Callable[..., Any], tmp_path: Path) -> Callable[[str | None], tuple[dict[int, int], str]]:
    """BLAS threads of two ranks of a script that only opens a Session, and what was written to stderr."""
    (tmp_path / "own.py").write_text(OWN)

    def run(threads: str | None) -> tuple[dict[int, int], str]:
        environ = dict.fromkeys(VARIABLES) | {"OPENBLAS_NUM_THREADS": threads}
        done = mpirun(2, [], module="own", env=environ)
        assert done.rc == 0, done.stderr
        return dict(map(json.loads, done.stdout.splitlines())), done.stderr

    return run


def test_ranks_of_a_script_share_the_cores(program: Callable[..., Any]) -> None:
    each = max(1, len(usable_cores()) // 2)
    assert program(None) == ({0: each, 1: each}, "")


def test_threads_that_the_user_chose_stay_and_are_told(program: Callable[..., Any]) -> None:
    cores = len(usable_cores())
    if cores == 1 or machine.blas()[0]["internal_api"] != "openblas":
        pytest.skip("this wants OpenBLAS and two cores")
    threads, said = program(str(cores))
    assert threads == {0: cores, 1: cores}
    assert said.count("WARNING") == 1
    assert f"{2 * cores} BLAS threads of 2 ranks share {cores} cores" in said
    assert f"OPENBLAS_NUM_THREADS={cores} says so" in said
