"""`dtrain cluster`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from dtrain import choices
from dtrain.comm import launcher
from dtrain.config import TrainConfig, flag, resolve
from dtrain.errors import EnvironmentProblem, UsageError


def add_parser(commands: Any) -> None:
    cluster = commands.add_parser(
        "cluster",
        help="a job file for the site's scheduler, filled in; --submit hands it over",
        description="Write the job file that runs `dtrain SUBCOMMAND`, or a Python program of your own, on "
        "the nodes of a cluster: a training saves at the scheduler's warning, is queued again and resumes by "
        "itself.",
        usage="dtrain cluster SITE [OPTION ...] [--submit] -- SUBCOMMAND|FILE.py [OPTION ...]",
        epilog="Example: dtrain cluster slurm --nodes 4 --ranks-per-node 4 --gpus-per-node 4 --time 30:00 "
        "--submit -- train --model cnn",
        allow_abbrev=False,
    )
    cluster.add_argument(
        "site", metavar="SITE", help="slurm, pbs-polaris, pbs-aurora, lsf, flux or kubernetes"
    )
    cluster.add_argument("--nodes", metavar="N", default="1", help="(default 1)")
    cluster.add_argument(
        "--ranks-per-node", metavar="N", help="by default one a GPU, or what the site's nodes have"
    )
    cluster.add_argument("--gpus-per-node", metavar="N", help="(default 0)")
    cluster.add_argument("--cores-per-rank", metavar="N", help="by default the ranks share whole nodes")
    cluster.add_argument(
        "--time", metavar="[[D-]H:]M:S|M", default="30:00", help="time limit (default 30:00)"
    )
    for word, text in (
        ("account", "or project, that pays"),
        ("queue", "or partition"),
        ("name", "of the job (default dtrain)"),
        ("launcher", "srun or mpirun, under Slurm (default srun)"),
        (
            "mpi",
            "how srun or Flux speak to the MPI: pmix, pmi2, ...; by default as mpi4py's library needs it",
        ),
        ("image", "a container image that holds dtrain: Apptainer's, or Kubernetes's"),
        ("filesystems", "that the job needs, on PBS sites that ask (home:eagle)"),
    ):
        cluster.add_argument(f"--{word}", metavar=word.upper(), help=text)
    cluster.add_argument("--to", metavar="FILE", help="write the job file there instead of showing it")
    cluster.add_argument("--submit", action="store_true", help="write it and hand it to the scheduler")
    cluster.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain import jobs

    choices.check(f"dtrain cluster {args.site}", args.site, jobs.SITES)
    words: dict[str, Any] = {"seconds": jobs.seconds(args.time)}
    for f in fields(jobs.Settings):
        text = getattr(args, f.name, None)
        if text is not None and isinstance(f.default, int):
            if not text.isdecimal():
                raise UsageError(f"{flag(f.name)} {text}: give an integer.")
            words[f.name] = int(text)
        elif text is not None:
            words[f.name] = text
    job = jobs.check(jobs.Settings(**words))
    own = f"{job.name}-{jobs.stamp()}"
    if args.to or args.submit:  # a job of its own, also where another was written in the same second
        own += f"-{os.getpid()}"
    program = program_of(args, own)
    if launcher.rank() > 0:
        return
    suffix = Path(jobs.SITES[args.site].file).suffix
    path = Path(args.to or own + suffix) if args.to or args.submit else None
    text = jobs.render(args.site, job, program, str(path.resolve()) if path else "")
    for line in jobs.assumptions(args.site, job):
        print(f"dtrain: assumed: {line}", file=sys.stderr)
    if path is None:
        print(text, end="")
        return
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already: choose another --to, or delete it first.") from None
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}.") from None
    command = [*jobs.SITES[args.site].submit, str(path)]
    if args.submit:
        print(f"+ {shlex.join(command)}", file=sys.stderr)
        print(jobs.submit(args.site, path))
        print(f"dtrain: see it by `{jobs.SITES[args.site].watch}`", file=sys.stderr)
    else:
        print(f"{path}: submit it by {shlex.join(command)}")


def program_of(args: argparse.Namespace, name: str) -> list[str]:
    """What a job runs, refused now rather than after a night in the queue; a training resumes by itself.

    name: the job's, for a run directory of its own.
    """
    from dtrain import jobs

    program = list(args.program) or ["train"]
    if jobs.command(program)[0] != "dtrain":
        file = next((word for word in program if word.endswith(".py")), "")
        if file and args.site != "kubernetes" and not Path(file).is_file():  # a pod has the image's files
            raise UsageError(f"there is no file {file} here, which the job is to run.")
        return program
    given = vars(args.parse(program))
    if given["command"] == "train":
        if "resume" not in given:
            program += [] if "run_dir" in given or given["config"] else ["--run-dir", f"runs/{name}"]
            program += ["--resume", "auto"]
        again, names = args.parse(program), {f.name for f in fields(TrainConfig)}
        resolve({key: value for key, value in vars(again).items() if key in names}, {}, again.config)
    return program
