"""`dtrain cluster`: the job files of cluster/, filled in and handed to the scheduler.

A job file there is one that people copy, edit and submit. Filling it in is the same editing: for each setting
a site has the beginning of the line that holds it. The line gets the value, and goes where there is none.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from dtrain.errors import EnvironmentProblem, UsageError

#: The job files and what they call. Both are links in the source tree, folders in an installed package.
FILES, LAUNCH = Path(__file__).parent / "cluster", Path(__file__).parent / "launch"
#: Seconds before the time limit at which a run is asked to save and stop; of a short limit a quarter.
WARNING = 120
#: Variables that belong to this shell and not to the job.
NOT_THE_JOBS = (
    "DTRAIN_TERMINAL",
    "DTRAIN_MPIRUN",
    "DTRAIN_VENV",
    "DTRAIN_OWN_GPU",
    "DTRAIN_RUN_DIR",
    "DTRAIN_RESUME",
)
#: How the beginning of a line that is off in the job file becomes that of one that is on.
SWITCH_ON = (
    ("##", "#"),
    ("#flux: # ", "#flux: "),
    ("#export ", "export "),
    ("#nvidia", "nvidia"),
    ("#- ", "- "),
)


@dataclass(frozen=True)
class Settings:
    """What a job gets; '' or 0 where it is left to the site.

    seconds: its time limit. mpi: how the launcher speaks to the MPI (pmix, pmi2, ...).
    """

    nodes: int = 1
    ranks_per_node: int = 0
    gpus_per_node: int = 0
    seconds: int = 1800
    name: str = "dtrain"
    cores_per_rank: int = 0
    account: str = ""
    queue: str = ""
    launcher: str = ""
    mpi: str = ""
    image: str = ""
    filesystems: str = ""


@dataclass(frozen=True)
class Site:
    """A kind of scheduler.

    file: in cluster/. submit: the command that takes it. watch: what to type then.
    lines: setting -> beginning of the line that holds it. takes: of the settings that not every site has.
    ranks: a node's, by default.
    """

    file: str
    submit: tuple[str, ...]
    watch: str
    lines: Mapping[str, str]
    values: Callable[[Settings], dict[str, Any]]
    takes: tuple[str, ...]
    ranks: int = 4


#: From this field of Settings on a site takes those that it says.
CHOICE = 5


SHELL = {
    "path": "export PATH=",
    "launch": "launch=",
    "variables": "#export DTRAIN_DATA=",
    "program": "program=(",
}


def _slurm(job: Settings) -> dict[str, Any]:
    return {
        "time": _clock(job.seconds),
        "exclusive": None if job.cores_per_rank else "",
        "signal": _warning(job),
        "launcher": job.launcher or "srun",
        "mpi": job.mpi or ("pmi2" if "MPICH" in mpi_library() else "pmix"),
    }


def _polaris(job: Settings) -> dict[str, Any]:
    ranks = _ranks(job, SITES["pbs-polaris"])
    return {
        "select": f"{job.nodes}:system=polaris",
        "filesystems": job.filesystems or "home:eagle",
        "queue": job.queue or "debug",
        "depth": job.cores_per_rank or max(1, 32 // ranks),
        **_pbs(job),
    }


def _aurora(job: Settings) -> dict[str, Any]:
    if job.gpus_per_node:
        raise UsageError(
            "--gpus-per-node: dtrain knows no Intel GPUs; leave it out, and it trains on the cores."
        )
    ranks = _ranks(job, SITES["pbs-aurora"])
    return {
        "nodes": job.nodes,
        "filesystems": job.filesystems or "home:flare",
        "queue": job.queue or "debug",
        "cores": aurora_cores(ranks, job.cores_per_rank),
        **_pbs(job),
    }


def _pbs(job: Settings) -> dict[str, Any]:
    return {"time": _clock(job.seconds), "walltime": job.seconds, "warning": _warning(job)}


def _lsf(job: Settings) -> dict[str, Any]:
    ranks = _ranks(job, SITES["lsf"])
    return {
        "time": -(-job.seconds // 60),
        "wt": -(-_warning(job) // 60),
        "rank_nodes": job.nodes,
        "cores": job.cores_per_rank or max(1, 40 // ranks),
        "gpus": job.gpus_per_node // ranks,
    }


def _flux(job: Settings) -> dict[str, Any]:
    return {
        "time": f"{job.seconds}s",
        "rank_nodes": job.nodes,
        "gpus": job.gpus_per_node // _ranks(job, SITES["flux"]),
        "pmi": job.mpi or ("pmix" if "Open MPI" in mpi_library() else "simple"),
        "warning": _warning(job),
    }


def _kubernetes(job: Settings) -> dict[str, Any]:
    ranks = _ranks(job, SITES["kubernetes"])
    return {
        "implementation": job.mpi or "MPICH",
        "time": job.seconds,
        "cores": ranks * (job.cores_per_rank or 2),
        "image": job.image or "dtrain:latest",
        **dict.fromkeys(("mount", "shm"), "" if job.gpus_per_node else None),
    }


_SLURM_LINES = {
    "name": "#SBATCH --job-name=",
    "nodes": "#SBATCH --nodes=",
    "ranks_per_node": "#SBATCH --ntasks-per-node=",
    "gpus_per_node": "##SBATCH --gpus-per-node=",
    "exclusive": "#SBATCH --exclusive",
    "cores_per_rank": "##SBATCH --cpus-per-task=",
    "time": "#SBATCH --time=",
    "account": "##SBATCH --account=",
    "queue": "##SBATCH --partition=",
    "signal": "#SBATCH --signal=B:USR1@",
    "launcher": "launcher=",
    "mpi": "mpi=",
}
_PBS_LINES = {
    "name": "#PBS -N ",
    "time": "#PBS -l walltime=",
    "filesystems": "#PBS -l filesystems=",
    "queue": "#PBS -q ",
    "account": "##PBS -A ",
    "ranks_per_node": "ranks_per_node=",
    "walltime": "walltime=",
    "warning": "warning=",
    "this": "this=",
}
SITES = {
    "slurm": Site(
        "slurm.sh",
        ("sbatch",),
        "squeue --me",
        SHELL | _SLURM_LINES,
        _slurm,
        takes=("cores_per_rank", "account", "queue", "launcher", "mpi", "image"),
    ),
    "pbs-polaris": Site(
        "pbs-polaris.sh",
        ("qsub",),
        "qstat -u $USER",
        SHELL | _PBS_LINES | {"select": "#PBS -l select=", "depth": "depth="},
        _polaris,
        takes=("cores_per_rank", "account", "queue", "image", "filesystems"),
    ),
    "pbs-aurora": Site(
        "pbs-aurora.sh",
        ("qsub",),
        "qstat -u $USER",
        SHELL | _PBS_LINES | {"nodes": "#PBS -l select=", "cores": "cores="},
        _aurora,
        takes=("cores_per_rank", "account", "queue", "image", "filesystems"),
        ranks=12,
    ),
    "lsf": Site(
        "lsf.sh",
        ("bsub",),
        "bjobs",
        SHELL
        | {
            "name": "#BSUB -J ",
            "nodes": "#BSUB -nnodes ",
            "time": "#BSUB -W ",
            "account": "##BSUB -P ",
            "queue": "##BSUB -q ",
            "wt": "#BSUB -wt ",
            "rank_nodes": "nodes=",
            "ranks_per_node": "ranks_per_node=",
            "cores": "cores=",
            "gpus": "gpus=",
        },
        _lsf,
        takes=("cores_per_rank", "account", "queue", "image"),
    ),
    "flux": Site(
        "flux.sh",
        ("flux", "batch"),
        "flux jobs",
        SHELL
        | {
            "name": "#flux: --job-name=",
            "nodes": "#flux: --nodes=",
            "time": "#flux: --time-limit=",
            "account": "#flux: # --setattr=bank=",
            "queue": "#flux: # --queue=",
            "rank_nodes": "nodes=",
            "ranks_per_node": "ranks_per_node=",
            "gpus": "gpus=",
            "pmi": "pmi=",
            "warning": "warning=",
            "this": "this=",
        },
        _flux,
        takes=("account", "queue", "mpi", "image"),
    ),
    "kubernetes": Site(
        "kubernetes.yaml",
        ("kubectl", "apply", "-f"),
        "kubectl get pods",
        {
            "name": "  name: ",
            "ranks_per_node": "  slotsPerWorker: ",
            "implementation": "  mpiImplementation: ",
            "time": "    activeDeadlineSeconds: ",
            "image": "              image: &image ",
            "program": '              command: ["mpirun"',
            "nodes": "      replicas: ",
            "cores": "                  cpu: ",
            "gpus_per_node": "                  #nvidia.com/gpu: ",
            "mount": "                #- {name: shm, mountPath: /dev/shm}",
            "shm": "            #- {name: shm, emptyDir: {medium: Memory}}",
        },
        _kubernetes,
        takes=("cores_per_rank", "mpi", "image"),
    ),
}


def command(program: Sequence[str]) -> list[str]:
    """What a rank runs: [`python`] FILE.py ... of the user's own, or a subcommand of dtrain."""
    if program[0].endswith(".py"):
        return ["python", *program]
    return list(program) if program[0] in ("python", "python3") else ["dtrain", *program]


def render(site: str, job: Settings, program: Sequence[str], this: str = "") -> str:
    """The job file of a site with these settings, which runs a program on all ranks: as `command` takes it.

    this: where it will lie, for a job that submits it again.

    Raises:
        UsageError: an invalid setting, or that the site does not have.
    """
    kind = SITES[site]
    ranks = _ranks(job, kind)
    for f in fields(Settings)[CHOICE:]:
        if getattr(job, f.name) and f.name not in kind.takes:
            raise UsageError(f"--{f.name.replace('_', '-')}: {site} does not take it.")
    if job.gpus_per_node % ranks:
        raise UsageError(
            f"--gpus-per-node {job.gpus_per_node}, --ranks-per-node {ranks}: each rank takes a GPU of "
            f"its own; --ranks-per-node {job.gpus_per_node} is right."
        )
    run = command(program)
    if job.image and site != "kubernetes":
        run = ["apptainer", "exec", *(["--nv"] if job.gpus_per_node else []), job.image, *run]
    values: dict[str, Any] = {
        "name": job.name,
        "nodes": job.nodes,
        "ranks_per_node": ranks,
        "gpus_per_node": job.gpus_per_node or None,
        "cores_per_rank": job.cores_per_rank or None,
        "account": job.account or None,
        "queue": job.queue or None,
        "path": shlex.quote(str(Path(sys.executable).parent)) + ':"$PATH"',
        "launch": shlex.quote(str(LAUNCH.resolve())),
        "variables": _variables() or None,
        "program": shlex.join(run) + ")",
        "this": shlex.quote(this) if this else "''",
    }
    if site == "kubernetes":
        start = json.dumps(["mpirun", "-n", str(job.nodes * ranks), *run])
        values["program"] = start.removeprefix('["mpirun"')
    values |= kind.values(job)
    lines = (FILES / kind.file).read_text().split("\n")
    for setting, beginning in kind.lines.items():
        found = [number for number, line in enumerate(lines) if line.startswith(beginning)]
        assert len(found) == 1, f"{kind.file} has {len(found)} lines that begin with {beginning}"
        lines[found[0]] = _line(setting, beginning, values[setting])
    text = "\n".join(line for line in lines if line is not GONE)
    # the file's own account of itself is about the copy that people edit
    return re.sub(
        r"(?m)^# (?:dtrain under|dtrain as an MPIJob).*\n(?:#.*\n)*", f"# {_origin(site)}\n", text, count=1
    )


GONE = "\0"


def _line(setting: str, beginning: str, value: Any) -> str:
    if value is None:
        return GONE
    if setting == "variables":
        return str(value)
    for off, on in SWITCH_ON:
        if off in beginning:
            beginning = beginning.replace(off, on, 1)
    return f"{beginning}{value}"


def _origin(site: str) -> str:
    from dtrain import __version__

    return f"Written by dtrain {__version__}: dtrain cluster {site}; docs/cluster says what the lines mean."


def submit(site: str, path: Path) -> str:
    """Hand a job file to the scheduler; returns what that says.

    Raises:
        EnvironmentProblem: there is no such scheduler here, or it refuses the job.
    """
    command = [*SITES[site].submit, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise EnvironmentProblem(
            f"{command[0]} is not here. {path} is written; where jobs are submitted: {shlex.join(command)}"
        ) from None
    if done.returncode != 0:
        raise EnvironmentProblem(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def assumptions(site: str, job: Settings) -> list[str]:
    """What was decided for the user, one a line: nothing of a site is guessed in silence."""
    kind, said = SITES[site], []
    if not job.ranks_per_node:
        said.append(f"--ranks-per-node {_ranks(job, kind)}")
    if site == "slurm" and not job.cores_per_rank:
        said.append("whole nodes, whose cores the ranks share (or --cores-per-rank)")
    if site in ("lsf", "kubernetes", "pbs-polaris", "pbs-aurora") and not job.cores_per_rank:
        said.append("--cores-per-rank as the site's nodes have them; see the file")
    if site in ("slurm", "flux") and not job.mpi and (job.launcher or "srun") == "srun":
        values = kind.values(job)
        said.append(f"--mpi {values.get('mpi') or values.get('pmi')}, as mpi4py here runs on {mpi_library()}")
    if not job.account and "account" in kind.lines:
        said.append("no --account: yours by default, where the site allows it")
    if not job.queue and "queue" in kind.lines:
        said.append("--queue debug" if site.startswith("pbs") else "no --queue: the site's default")
    if not job.filesystems and "filesystems" in kind.lines:
        said.append(f"--filesystems {kind.values(job)['filesystems']}")
    if site == "kubernetes":
        if _variables():
            said.append("the DTRAIN_* variables of this shell are not the pods'")
        said.append(
            f"image {job.image or 'dtrain:latest'}, of cluster/Containerfile; a claim `dtrain` for the runs"
        )
    return said


def seconds(text: str) -> int:
    """A time limit as people write it, in seconds: 30 (minutes), 30:00, 1:30:00 or 2-00:00:00 (days)."""
    found = re.fullmatch(r"(?:([0-9]{1,4})-)?([0-9]{1,9}(?::[0-9]{1,9}){0,2})", text)
    if found is None:
        raise UsageError(
            f"--time {text}: give minutes, or hours, minutes and seconds, such as 30:00 or 2:00:00."
        )
    days, clock = int(found[1] or 0), [int(part) for part in found[2].split(":")]
    units = (3600, 60, 1) if found[1] else ((60,), (60, 1), (3600, 60, 1))[len(clock) - 1]
    total = days * 86400 + sum(part * unit for part, unit in zip(clock, units, strict=False))
    if not 60 <= total < 365 * 86400:
        raise UsageError(f"--time {text}: give a minute at least, such as 30:00, and less than a year.")
    return total


def check(job: Settings) -> Settings:
    """The settings, if each can be in a job file; raises UsageError, naming the option."""
    for name, least in (("nodes", 1), ("ranks_per_node", 0), ("gpus_per_node", 0), ("cores_per_rank", 0)):
        if not least <= getattr(job, name) <= 1_000_000:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(job, name)}: give an integer >= {least}.")
    for name in ("account", "queue", "name", "launcher", "mpi", "image", "filesystems"):
        text = getattr(job, name)
        if not re.fullmatch(r"[A-Za-z0-9@:/._,=+-]*", text) or text.startswith("-"):
            raise UsageError(f"--{name} {text!r}: give one word of letters, digits and @:/._,=+-.")
    if job.launcher not in ("", "srun", "mpirun"):
        raise UsageError(f"--launcher {job.launcher}: choose srun or mpirun.")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", job.name):
        raise UsageError(f"--name {job.name}: give a name that begins with a letter.")
    return job


def mpi_library() -> str:
    """'MPICH 5.0.2': what mpi4py runs on here; 'no MPI' where it is not installed."""
    from dtrain import info

    version, said = info.mpi()
    return said if version else "no MPI"


def stamp() -> str:
    """The part of a name that makes it one of its own."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def aurora_cores(ranks: int, each: int = 0) -> str:
    """PALS's list of cores for each of a node's ranks: 2 sockets of 52, their first core the system's."""
    of_socket = [(ranks + 1) // 2, ranks // 2]
    each = each or max(1, 51 // of_socket[0])
    if each * of_socket[0] > 51:
        raise UsageError(
            f"--ranks-per-node {ranks}, --cores-per-rank {each}: {of_socket[0]} ranks share a socket's "
            "51 cores."
        )
    lists = []
    for first, count in zip((1, 53), of_socket, strict=True):
        for low in range(first, first + count * each, each):
            lists.append(f"{low}-{low + each - 1}" if each > 1 else str(low))
    return ":".join(lists)


def _ranks(job: Settings, kind: Site) -> int:
    return job.ranks_per_node or job.gpus_per_node or kind.ranks


def _warning(job: Settings) -> int:
    return min(WARNING, job.seconds // 4)


def _clock(total: int) -> str:
    return f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"


def _variables() -> str:
    """Lines that give the job the options that this shell has as DTRAIN_* variables."""
    return "\n".join(
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(os.environ.items())
        if name.startswith("DTRAIN_") and name not in NOT_THE_JOBS
    )
