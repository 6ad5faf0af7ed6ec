"""`dtrain bench`: what this machine can do, and where the time of a step goes.

A part is a module of this package with two functions: measure(comm), called on every rank, returns facts that
are JSON; text(facts) returns them as lines for a terminal. It takes a few seconds.
"""

from __future__ import annotations

import difflib
import json
import platform
from datetime import datetime
from importlib import import_module
from typing import Any

import numpy as np

import dtrain
from dtrain import info, machine
from dtrain.comm.base import Communicator
from dtrain.comm.threads import usable_cores
from dtrain.errors import UsageError

#: The parts, in the order they run where none is named.
PARTS = ("matmul", "step", "allreduce", "epoch")


def check(names: list[str]) -> list[str]:
    """The parts that are meant: all for none.

    Raises:
        UsageError: one that there is not.
    """
    for name in names:
        if name not in PARTS:
            near = difflib.get_close_matches(name, PARTS, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"dtrain bench {name}: choose among {', '.join(PARTS)}{hint}.")
    return names or list(PARTS)


def run(names: list[str], log_format: str, comm: Communicator) -> None:
    """Measure the parts, on all ranks together; rank 0 prints what was found, part by part."""

    def say(event: str, facts: dict[str, Any], lines: list[str]) -> None:
        if comm.rank == 0:
            as_json = json.dumps({"event": event, **facts})
            print(as_json if log_format == "json" else "\n".join(lines), flush=True)

    about = header(comm)
    say("header", about, [f"{name:<11} {value}" for name, value in about.items() if value])
    for name in names:
        part = import_module(f"dtrain.bench.{name}")
        facts = part.measure(comm)
        say(name, facts, ["", *part.text(facts)])


def header(comm: Communicator) -> dict[str, Any]:
    """What makes the figures comparable with others; rank 0's node speaks for all."""
    nodes = comm.nodes
    return {
        "dtrain": dtrain.__version__,
        "commit": info.commit() if comm.rank == 0 else "",
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "processor": machine.processor(),
        "cores": len(usable_cores()),
        "blas": machine.blas_text(),
        "warning": " ".join(machine.held_back()),
        "mpi": comm.library,
        "ranks": comm.size,
        "nodes": nodes,
        "average": comm.averaging,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for first, *rest in (head, *rows):
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
