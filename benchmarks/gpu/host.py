"""What the host does in a step on a GPU while nothing is queued there: an epoch whose kernels are taken out.

    python benchmarks/gpu/host.py [--batch-size 100] [--epochs 10] [--window 300] [--profile]

Runs `dtrain train --device gpu` on the stand-in for CuPy (tests/standin), in which nothing is launched,
copies are copies of the host, and waiting is free; the control block says that all steps were done. So an
epoch's seconds are all the host's: what stands between a GPU and its next step. No GPU is needed, and the
driver's own time is not in it. --window: steps of a call, at most: 300 of 100 us are what a GPU would be
given. Prints microseconds a step of each epoch; the first makes its plans.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import ctypes
import io
import json
import pstats
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "standin")]

from cupy import _device, cuda  # noqa: E402

from dtrain.cli import main  # noqa: E402
from dtrain.cuda import gpus  # noqa: E402
from dtrain.cuda.epilogue import Epilogues  # noqa: E402
from dtrain.cuda.program import Program  # noqa: E402
from dtrain.runtime.backend import CupyBackend  # noqa: E402
from dtrain.train.batches import Pace  # noqa: E402


def take_out_kernels() -> None:
    """From here on nothing is computed."""
    assert not gpus.problem(0)  # which the run need not find out
    take = Program._take

    def taken(program: Program, steps: int) -> None:
        take(program, steps)
        program._told[:] = 0, -1, program._counted + steps, 0
        program._pinned.fill(0)  # results: no rank asked to stop

    def move(backend: CupyBackend, to: int, source: int, nbytes: int, kind: str) -> None:
        ctypes.memmove(to, source, nbytes)

    Program._take = taken  # type: ignore[method-assign]
    Epilogues.keeps_nan = lambda made, xp: True  # type: ignore[method-assign]
    CupyBackend._move = move  # type: ignore[method-assign]
    cuda.Graph.launch = lambda graph, stream=None: None
    cuda.Stream.synchronize = lambda stream: None
    add = _device.add
    # what is captured is kept, so that there are graphs
    _device.add = lambda entry: add(entry) if _device.captured is not None else None


def epochs(words: list[str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        run = ["train", "--device", "gpu", "--run-dir", f"{folder}/run", "--log-format", "json"]
        assert main([*run, "--no-tensorboard", *words]) == 0
    events = [json.loads(line) for line in said.getvalue().splitlines() if line.startswith("{")]
    steps = events[0]["iterations_per_epoch"]
    return [event | {"steps": steps} for event in events if event["event"] == "epoch"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    take_out_kernels()
    Pace.MOST = options.window
    profile = cProfile.Profile()
    with profile if options.profile else contextlib.nullcontext():
        found = epochs(["--batch-size", str(options.batch_size), "--epochs", str(options.epochs)])
    for event in found:
        print(f"epoch {event['epoch']}: {1e6 * event['seconds'] / event['steps']:.2f} us a step")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
