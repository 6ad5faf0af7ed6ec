"""Examples on disk under a limit of memory beside examples in memory, in turns: images a second of both.

    python benchmarks/larger_than_memory.py [--ranks 2] [--gigabytes 8] [--limit 1] [--rounds 3] [--folder F]

Makes two stores of float32 rows of 1,024 numbers in the folder, by default a temporary one: a large one,
and one of 0.2 GB. A round trains the small one, of two epochs the second, and then the large one for an
epoch, all ranks together in a memory cgroup made for it, which takes root: it counts the ranks' own memory
and the pages of files that they read, none of which is cached before. Prints each round's rates and the
most memory of the cgroup; the median of the ratios; and how long a run of the large one took to its first
steps. The model is two layers of 1,024 at batches of 100, so a step costs more than its 0.4 MB take to
read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy as np  # noqa: E402 - the BLAS reads its variables when it is loaded

from dtrain.data import store  # noqa: E402
from dtrain.data.readers.source import Column  # noqa: E402
from dtrain.info import lines  # noqa: E402

WIDTH, CLASSES, PIECE = 1024, 10, 8192
SMALL = 50_000
MODEL = """\
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential


def model():
    return Sequential([Dense(1024, "relu"), Dense(1024, "relu"), Dense(10)])
"""
CGROUPS = Path("/sys/fs/cgroup")


class Made:
    """Rows whose class can be learned, as a store takes them."""

    def __init__(self, count: int) -> None:
        self.parts = {"train": count}
        self.columns = {"x": Column("float32", (WIDTH,)), "y": Column("uint8", ())}

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random, count = np.random.default_rng(0), self.parts["train"]
        for start in range(0, count, PIECE):
            x = random.standard_normal((min(PIECE, count - start), WIDTH), np.float32)
            yield x, x[:, :CLASSES].argmax(1).astype(np.uint8)

    def about(self) -> dict[str, Any]:
        classes = tuple(map(str, range(CLASSES)))
        return {"name": "made", "kind": "classes", "classes": classes, "source": "here", "unused": []}


class Limit:
    """A memory cgroup of so many bytes, of either version; `with` removes it."""

    def __init__(self, size: int) -> None:
        first = (CGROUPS / "memory").is_dir()
        self._path = (CGROUPS / "memory" if first else CGROUPS) / f"dtrain-{os.getpid()}"
        self._path.mkdir()
        (self._path / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(size))
        self._peak = self._path / ("memory.max_usage_in_bytes" if first else "memory.peak")

    def enter(self) -> None:
        """This process and those that it starts are under the limit."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))

    def most(self) -> int:
        return int(self._peak.read_text())

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, *exception: Any) -> None:
        for _ in range(100):  # until the processes in it are gone
            try:
                return self._path.rmdir()
            except OSError:
                time.sleep(0.1)


def uncached(folder: Path) -> None:
    """None of the files' pages are in memory."""
    for file in folder.glob("*.bin"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def command(ranks: int, data: Path, run: Path, *more: str) -> list[str]:
    model = data.parent / "model.py"
    words = ["--dataset", str(data), "--model", f"{model}:model", "--run-dir", str(run), "--no-tensorboard"]
    mpirun = os.environ.get("DTRAIN_MPIRUN", "mpirun")
    return [mpirun, "-n", str(ranks), sys.executable, "-m", "dtrain", "train", *words, *more]


def rate(ranks: int, data: Path, epochs: int, limit: Limit | None = None) -> float:
    """Examples a second of the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = command(ranks, data, run, "--epochs", str(epochs))
        enter = limit.enter if limit else None
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, preexec_fn=enter)
        events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [e["images_per_second"] for e in events if e["event"] == "epoch"][-1]


def first_steps(ranks: int, data: Path, limit: Limit) -> tuple[float, float]:
    """Seconds from the start to the header, and from there to the end of ten steps."""
    with tempfile.TemporaryDirectory() as folder:
        words = command(ranks, data, Path(folder, "run"), "--log-format", "json", "--log-every", "10")
        started, times = time.perf_counter(), list[float]()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=limit.enter) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    times.append(time.perf_counter())
                if len(times) == 2:
                    process.terminate()
                    break
            process.stdout.read()
        return times[0] - started, times[1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--limit", type=float, default=1.0, help="GiB of all ranks together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the stores for the next time")
    args = parser.parse_args()
    place = args.folder or Path(tempfile.mkdtemp(prefix="dtrain-large-"))
    place.mkdir(exist_ok=True)
    (place / "model.py").write_text(MODEL)
    large, small = place / f"large-{args.gigabytes:g}", place / "small"
    try:
        for folder, count in ((large, int(args.gigabytes * 1e9) // (4 * WIDTH)), (small, SMALL)):
            if not folder.exists():
                print(f"writes {folder}, {count:,} rows", flush=True)
                store.write(folder, Made(count))
        print("\n".join(lines()), flush=True)
        size = int(args.limit * 2**30)
        ratios = []
        for number in range(args.rounds):
            in_memory = rate(args.ranks, small, 2)
            uncached(large)
            with Limit(size) as limit:
                limited = rate(args.ranks, large, 1, limit)
                most = limit.most()
            ratios.append(limited / in_memory)
            print(
                f"round {number + 1}: {in_memory:,.0f} examples/s in memory, {limited:,.0f} from disk under "
                f"{args.limit:g} GiB (most {most / 2**30:.2f} GiB): {ratios[-1]:.3f}",
                flush=True,
            )
        uncached(large)
        with Limit(size) as limit:
            header, steps = first_steps(args.ranks, large, limit)
        print(f"median ratio {statistics.median(ratios):.3f} on {args.ranks} ranks, {args.gigabytes:g} GB")
        print(f"header after {header:.2f} s, ten steps {steps:.2f} s after it")
    finally:
        if args.folder is None:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
