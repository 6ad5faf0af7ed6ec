"""The `dtrain` command: parse, build, train, report, and end all ranks when one fails."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from dtrain import choices
from dtrain import comm as communicators
from dtrain.choices import DEVICES, LOG_FORMATS, SWITCH
from dtrain.comm import failure, launcher
from dtrain.config import TrainConfig, flag, read_run, resolve
from dtrain.errors import EnvironmentProblem, SavedAndStopped, UsageError

#: What a full disk, a quota or a file that is lost says.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
#: The parser of `dtrain bench scaling`, which has options of its own.
SCALING = "bench scaling"
SCALING_FLAGS = {
    "to": "the study's folder (default scaling)",
    "mode": "strong: one global batch; weak: one batch a rank (default strong)",
    "model": "as of train (default mlp)",
    "batch_size": "of all ranks, with --mode weak of each (default 100)",
    "epochs": "of each run (default 5)",
    "repeats": "runs of each number of ranks, in turn (default 3)",
    "threads": "BLAS threads a rank (default 1)",
}


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors raised instead of printed by every rank."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if words[:2] == SCALING.split():  # two words that are one subcommand
            words[:2] = [SCALING]
        return super().parse_known_args(words, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A word that is none of the subcommands, with the one that is meant."""
        if action.choices is None or value in action.choices:
            return
        if str(value).endswith(".py"):
            raise UsageError(
                f"`{self.prog} {value}`: a program of your own is started by `python {value}`, on several "
                f"ranks by `mpirun -n 2 python {value}` or `./launch/local -n 2 {value}`."
            )
        choices.check(f"`{self.prog} {value}` is no command", value, list(action.choices))

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    def print_help(self, file: Any = None) -> None:
        if launcher.rank() == 0:
            super().print_help(file)


class _Switch(argparse.BooleanOptionalAction):
    """--NAME and --no-NAME, as the text on or off."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, "off" if str(option_string).startswith("--no-") else "on")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. Values stay text: config.py checks them, wherever they come from."""
    from dtrain import __version__

    parser = _Parser(
        prog="dtrain", description="Train a neural network data-parallel over MPI.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dtrain {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    train = commands.add_parser(
        "train",
        help="train a model; under mpirun on all ranks",
        description="Train a model on MNIST. `mpirun -n 4 dtrain train` shares the same "
        "training among four ranks.",
        epilog="Each option can also be a DTRAIN_* variable (DTRAIN_BATCH_SIZE=200) or stand in the file of "
        "--config. A flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
    )
    train.add_argument(
        "file",
        nargs="?",
        metavar="FILE.py[:FUNCTION]",
        help="what to train, as --task says; by default an image classifier",
    )
    train.add_argument(
        "--config", metavar="FILE", help="a TOML file of options, such as a run's own config.toml"
    )
    for f in fields(TrainConfig):
        words = f.metadata["choices"]
        metavar = f.metadata["metavar"] or "|".join(words) or type(f.default).__name__.upper()
        default = "" if f.default == "" else f" (default {choices.word(f.default)})"
        switch = words == SWITCH or isinstance(f.default, bool)
        keywords: dict[str, Any] = {"action": _Switch} if switch else {"metavar": metavar}
        if f.metadata["bare"]:
            keywords |= {"nargs": "?", "const": f.metadata["bare"]}
        train.add_argument(
            flag(f.name), default=argparse.SUPPRESS, help=f.metadata["help"] + default, **keywords
        )
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser(
        "eval",
        help="test the parameters that a run saved",
        description="Test the parameters that a run saved.",
    )
    evaluate.add_argument("run_dir", metavar="RUN_DIR", help="what `dtrain train` printed")
    evaluate.add_argument(
        "--best", action="store_true", help="those of the epoch with the best test accuracy, not the last"
    )
    evaluate.add_argument("--model", metavar="FILE.py:FUNCTION", help="instead of the run's own")
    evaluate.add_argument("--dataset", metavar="NAME|DIR", help="instead of the run's own")
    evaluate.add_argument("--device", metavar="|".join(DEVICES), help="instead of the run's own")
    evaluate.add_argument(
        "--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)"
    )
    evaluate.set_defaults(run=run_eval)

    report = commands.add_parser(
        "report",
        help="runs side by side on one HTML page",
        description="Write one HTML page on one run or several, to compare them; it needs no network.",
    )
    report.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", help="what `dtrain train` printed")
    report.add_argument("--to", metavar="FILE", default="report.html", help="the page (default report.html)")
    report.set_defaults(run=run_report)

    info = commands.add_parser("info", help="versions, MPI, BLAS, devices: what a bug report needs")
    info.set_defaults(run=run_info)

    doctor = commands.add_parser(
        "doctor",
        help="whether this machine or job is ready to train, and how to mend it; under mpirun on all ranks",
        description="Check what a run depends on: a line each, PASS, WARN (it runs, but slower or less "
        "safely) or FAIL (it would stop or be wrong), with its fix. `mpirun -n 4 dtrain doctor` checks four "
        "ranks, and in a job its nodes. Ends with 0 where nothing failed, else with 9.",
        allow_abbrev=False,
    )
    doctor.add_argument("--run-dir", metavar="DIR", default="runs", help="where runs will be (default runs)")
    doctor.add_argument("--dataset", metavar="auto|DIR", default="auto", help="as of train (default auto)")
    doctor.add_argument("--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)")
    doctor.set_defaults(run=run_doctor)

    bench = commands.add_parser(
        "bench",
        help="what this machine can do, and where a step's time goes; under mpirun on all ranks",
        description="Measure this machine in some seconds: the matrix products of a step against the core's "
        "peak, a training step by kind of operation, sums over the ranks by size, and epochs by batch. "
        "`mpirun -n 2 dtrain bench` measures two ranks.",
    )
    bench.add_argument(
        "parts", nargs="*", metavar="PART", help="matmul, step, allreduce, epoch (default all)"
    )
    bench.add_argument("--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)")
    bench.set_defaults(run=run_bench)

    scaling = commands.add_parser(
        SCALING,
        help="how a training scales with the number of ranks: runs, tables and a page",
        description="Train on several numbers of ranks in turn, here under mpirun or as a job each, and "
        "write what comes out into a folder: study.html, .json, .csv and .mllog. Under a launcher, without "
        "--ranks, it measures the ranks that there are.",
        epilog="Other options of the training are DTRAIN_* variables, such as DTRAIN_OPTIMIZER=sgd.",
        allow_abbrev=False,
    )
    scaling.add_argument("--ranks", metavar="N,N,...", help="numbers of ranks, such as 1,2,4")
    for name, text in SCALING_FLAGS.items():
        scaling.add_argument(flag(name), default=argparse.SUPPRESS, metavar=name.upper(), help=text)
    scaling.add_argument(
        "--through",
        metavar="'KIND OPTION ...'",
        default="",
        help="submit a job for each number of ranks by `dtrain cluster`, such as 'slurm --ranks-per-node 4'",
    )
    scaling.add_argument(
        "--collect", action="store_true", help="only collect the runs of --to, such as of jobs"
    )
    scaling.add_argument(
        "--compare", metavar="DIR", nargs="+", help="only write scaling.html, studies side by side"
    )
    scaling.set_defaults(run=run_scaling)
    cluster = commands.add_parser(
        "cluster",
        help="a job file for the site's scheduler, filled in; --submit hands it over",
        description="Write the job file that runs `dtrain SUBCOMMAND`, or a Python program of your own, on "
        "the nodes of a cluster: a training saves at the scheduler's warning, is queued again and goes on by "
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
    cluster.set_defaults(run=run_cluster, program=[])

    data = commands.add_parser("data", help="the data set on this machine")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    fetch = actions.add_parser("fetch", help="download MNIST and check it")
    fetch.add_argument("--to", metavar="DIR", help="by default the cache where `train` looks for it")
    fetch.set_defaults(run=run_fetch)
    return parser


def run_train(args: argparse.Namespace) -> None:
    names = {f.name for f in fields(TrainConfig)}
    flags = {name: value for name, value in vars(args).items() if name in names}
    if args.file is not None:
        flags["task"] = args.file
    config = resolve(flags, os.environ, args.config)
    from dtrain.runtime.backend import take_gpu

    take_gpu(config.device, config.share_gpu)
    comm = communicators.world(config.average, config.elastic, config.overlap)
    from dtrain.task.trainer import train
    from dtrain.train.rank_log import RankLog

    with RankLog(comm, config.log_dir) as log:
        train(config, comm, log)


def run_eval(args: argparse.Namespace) -> None:
    values = read_run(args.run_dir)
    for name in ("model", "dataset", "device", "log_format"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    if args.model is not None:
        values.pop("model_digest", None)
    config = resolve(values, {})
    from dtrain.runtime.backend import take_gpu

    take_gpu(config.device, config.share_gpu)
    comm = communicators.world()
    from dtrain.task import own_model
    from dtrain.task.trainer import evaluate_run

    with comm.together():
        config = own_model.check(config)
    if comm.rank == 0 and args.model is None and config.model_digest:
        options = Path(args.run_dir, "config.toml")
        print(f"dtrain: running the model's file that {options} names: {config.model}", file=sys.stderr)
    facts = evaluate_run(Path(args.run_dir), config, comm, best=args.best)
    if comm.rank == 0:
        if facts["warning"]:
            print(f"dtrain: WARNING: {facts['warning']}", file=sys.stderr)
        if config.log_format == "json":
            from dtrain.train.report import json_line

            print(json_line({"event": "eval", **facts}))
        else:
            names = [n for n in facts if n.startswith("test_") and n not in ("test_loss", "test_examples")]
            found = "".join(f", {n.replace('_', ' ')} {facts[n]:.4f}" for n in names)
            print(
                f"{facts['model']} after epoch {facts['epoch']}: loss {facts['test_loss']:.4f}{found} on "
                f"{facts['test_examples']:,} examples of {facts['dataset']}"
            )


def run_report(args: argparse.Namespace) -> None:
    if launcher.rank() == 0:
        from dtrain.report.page import write

        print(write(args.run_dirs, Path(args.to)))


def run_info(args: argparse.Namespace) -> None:
    from dtrain.info import lines

    if launcher.rank() == 0:
        print("\n".join(lines()))


def run_doctor(args: argparse.Namespace) -> None:
    from dtrain import doctor

    check_log_format(args.log_format)
    doctor.run(args.run_dir, args.dataset, args.log_format)


def check_log_format(chosen: str) -> None:
    choices.check(f"--log-format {chosen}", chosen, LOG_FORMATS)


def run_bench(args: argparse.Namespace) -> None:
    from dtrain import bench

    parts = bench.check(args.parts)
    check_log_format(args.log_format)
    bench.run(parts, args.log_format, communicators.world())


def run_scaling(args: argparse.Namespace) -> None:
    from dtrain.bench import scaling

    options = scaling.from_flags({name: getattr(args, name) for name in SCALING_FLAGS if name in args})
    if args.compare or args.collect or args.ranks:
        if launcher.size() > 1:
            raise UsageError("`dtrain bench scaling` with --ranks, --collect or --compare starts by itself.")
        if args.compare:
            print(scaling.compare(args.compare, Path("scaling.html")))
        elif args.collect:
            print(scaling.finish(Path(options.to)))
        else:
            print(scaling.run(options, scaling.parse_ranks(args.ranks), args.through))
    elif launcher.detect() is None:
        raise UsageError("`dtrain bench scaling` needs numbers of ranks, such as --ranks 1,2,4.")
    else:
        scaling.measure(options, communicators.world())


def run_cluster(args: argparse.Namespace) -> None:
    from dtrain import jobs

    choices.check(f"dtrain cluster {args.site}", args.site, jobs.SITES)
    words: dict[str, Any] = {"seconds": jobs.seconds(args.time)}
    for f in fields(jobs.Settings):
        text = getattr(args, f.name, None)
        if text is not None and isinstance(f.default, int):
            if not text.isdecimal():
                raise UsageError(f"{flag(f.name)} {text}: give a whole number.")
            words[f.name] = int(text)
        elif text is not None:
            words[f.name] = text
    job = jobs.check(jobs.Settings(**words))
    own = f"{job.name}-{jobs.stamp()}"
    if args.to or args.submit:  # a job of its own, also where another was written in the same second
        own += f"-{os.getpid()}"
    program = _program_of_the_job(args.program, own, args.site)
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


def _program_of_the_job(words: Sequence[str], name: str, site: str = "") -> list[str]:
    """What a job runs, refused now rather than after a night in the queue; a training goes on by itself."""
    from dtrain import jobs

    program = list(words) or ["train"]
    if jobs.command(program)[0] != "dtrain":
        file = next((word for word in program if word.endswith(".py")), "")
        if file and site != "kubernetes" and not Path(file).is_file():  # a pod has the image's files
            raise UsageError(f"there is no file {file} here, which the job is to run.")
        return program
    args = _parse(program)
    if args.run is run_train:
        given = vars(args)
        if "resume" not in given:
            program += [] if "run_dir" in given or given["config"] else ["--run-dir", f"runs/{name}"]
            program += ["--resume", "auto"]
        again, names = _parse(program), {f.name for f in fields(TrainConfig)}
        resolve({key: value for key, value in vars(again).items() if key in names}, {}, again.config)
    return program


def run_fetch(args: argparse.Namespace) -> None:
    from dtrain.train.data import cache_folder
    from dtrain.train.data.fetch import fetch

    if launcher.rank() == 0:
        folder = fetch(Path(args.to) if args.to else cache_folder())
        typed = shlex.quote(str(folder))
        hint = f"; use it with --dataset {typed} or DTRAIN_DATA={typed}" if args.to else ""
        print(f"MNIST is in {folder}{hint}")


def _not_taken(command: str, word: str, before: str) -> str:
    name = before.lstrip("-")
    if word in SWITCH and any(flag(f.name) == before for f in fields(TrainConfig)):
        return f"{before} {word}: it takes no value; {before} is on, --no-{name} is off."
    flags = [flag(f.name) for f in fields(TrainConfig)] if command == "train" else []
    near = difflib.get_close_matches(word.partition("=")[0], flags, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"`dtrain {command}` does not take {word}{hint} See `dtrain {command} --help`."


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The subcommand and its options; raises UsageError for a word that it does not take."""
    words, program = list(words), []
    if words[:1] == ["cluster"] and "--" in words:  # what the job runs has options of its own
        words, program = words[: words.index("--")], words[words.index("--") + 1 :]
    if words[:2] == SCALING.split():
        words[:2] = [SCALING]
    args, rest = make_parser().parse_known_args(words)
    if args.command == "train" and args.file is not None and ".py" not in args.file:
        rest = rest or [args.file]  # a value of a switch that takes none
    if rest:
        at = words.index(rest[0])
        raise UsageError(_not_taken(args.command, rest[0], words[at - 1]))
    if program:
        args.program = program
    return args


def make_streams_usable() -> None:
    """stdout and stderr that take any text: a closed one takes none, an ASCII one says \\xe9."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process
        elif hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Let what is still to be written go nowhere, so that Python's end does not fail on it again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `dtrain` command; returns its exit code."""
    make_streams_usable()
    try:
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
        except SystemExit as end:  # --help and --version
            return int(end.code or 0)
        if (world := communicators.joined()) is not None:
            world.board.run_dir("")  # what ran before in this process is not what an error is about
        run: Callable[[argparse.Namespace], None] = args.run
        run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `dtrain info | head`
        drop_stdout()
        return 1
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            drop_stdout()
            error = EnvironmentProblem(f"stdout takes no more lines: {error.strerror}. Send it elsewhere.")
        if isinstance(error, SavedAndStopped):
            from dtrain.train.preempt import close_ears

            close_ears()
        world = communicators.joined()
        if world is not None:
            return failure.end(world, error)
        # before the ranks have met, all fail alike: the first speaks for them
        if launcher.rank() == 0:
            return failure.report(error)
        failure.let_rank_0_speak()
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
