"""`dtrain doctor`: whether this machine, or this job on all its ranks, is ready to train, and what to mend.

`facts` asks the ranks, `checks` are functions of the facts, and this is what is said of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time

import dtrain
from dtrain import comm as communicators
from dtrain.comm import SingleCommunicator, launcher
from dtrain.doctor.checks import FAIL, PASS, WARN, Finding, examine
from dtrain.doctor.facts import Facts, gather
from dtrain.errors import ChecksFailed, EnvironmentProblem, UsageError

#: Seconds in which rank 0, of processes that are each alone, has said all.
FIRST_SPEAKS = 3.0

COLOURS = {PASS: "32", WARN: "33", FAIL: "31"}


def run(run_dir: str, dataset: str, log_format: str) -> None:
    """Check all ranks together; rank 0 says what was found.

    Raises:
        ChecksFailed: on every rank, where any check failed.
    """
    if dataset != "auto" and not os.path.isdir(dataset):
        found = "is a file" if os.path.exists(dataset) else "there is no such folder"
        raise UsageError(f"--dataset {dataset}: {found}. Pass auto or a folder of data.")
    problem = ""
    try:
        comm = communicators.world()
    except (EnvironmentProblem, RuntimeError) as error:
        problem, comm = str(error), SingleCommunicator()
        if launcher.rank() > 0:
            time.sleep(FIRST_SPEAKS)  # a launcher may end rank 0 once another has ended
            raise ChecksFailed("the ranks did not join.") from None
    facts = gather(comm, run_dir, dataset, problem)
    findings = examine(facts)
    if comm.rank == 0:
        if log_format == "json":
            for name, finding in findings.items():
                print(json.dumps({"event": "check", "name": name, **finding._asdict()}))
        else:
            colour = sys.stdout.isatty() and launcher.detect() is None and "NO_COLOR" not in os.environ
            width = min(shutil.get_terminal_size((110, 24)).columns, 110)
            print("\n".join([title(facts), *table(findings, width, colour)]), flush=True)
    failed = [name for name, finding in findings.items() if finding.status == FAIL]
    if failed:
        raise ChecksFailed(
            f"{', '.join(failed)}: to be mended before training; see `fix` above."
        ).on_every_rank()


def title(facts: Facts) -> str:
    """What was looked at."""
    hosts = list(facts.nodes)
    size = facts.launched if facts.problem else len(facts.ranks)
    ranks = "1 process" if size == 1 else f"{size} ranks"
    names = f"{hosts[0]}" if len(hosts) == 1 else f"{len(hosts)} nodes, {hosts[0]} to {hosts[-1]}"
    return f"dtrain {dtrain.__version__}  {facts.library or 'no MPI'}  {ranks} on {names}"


def table(findings: dict[str, Finding], width: int, colour: bool = False) -> list[str]:
    """A line for each finding, its fix below it, and how many there are of each kind."""
    names = max(map(len, findings))
    indent = " " * (len(PASS) + 2 + names + 2)
    lines = []
    for name, (status, found, fix) in findings.items():
        said = textwrap.wrap(found, max(30, width - len(indent)), break_on_hyphens=False)
        mark = f"\033[{COLOURS[status]}m{status}\033[0m" if colour else status
        lines.append(f"{mark}  {name:<{names}}  {said[0]}")
        lines += [indent + line for line in said[1:]]
        if fix:
            told = textwrap.wrap(f"fix: {fix}", max(30, width - len(indent)), break_on_hyphens=False)
            lines += [indent + line for line in told]
    count = {s: sum(finding.status == s for finding in findings.values()) for s in COLOURS}
    failed = "nothing failed" if not count[FAIL] else f"{count[FAIL]} failed"
    warned = "1 warning" if count[WARN] == 1 else f"{count[WARN]} warnings"
    return [*lines, f"{len(findings)} checks: {failed}, {warned}"]
