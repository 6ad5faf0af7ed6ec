"""Public programs for TensorFlow 1 and Keras, as they are, on dtrain: which run, and why the others do not.

    python tests/campaign/public.py FOLDER --to OUT [--ranks 2] [--seconds 60] [--match WORD] [--about WORD]
    python tests/campaign/public.py FOLDER --to OUT --compare 2 3 [--list FILE]

FOLDER holds a checkout of each repository. Of a notebook the code cells are run. Nothing is changed in a
program but counts of steps and epochs (so that it ends in a minute), and Python 2 becomes Python 3. OUT gets
what each printed, and results.json; a table by repository is printed. PUBLIC.md has the last one. No text of
such programs is kept here. --seconds are of processor time, so that a busy machine changes no result.

--compare runs each on one rank and on so many others from the same seeds, and compares what was printed: the
same lines, but for their numbers, and the numbers of the last line that speaks of a loss or an accuracy.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

#: What is not written for TensorFlow 1 or Keras 2 on one machine.
ELSEWHERE = re.compile(
    r"enable_eager_execution|contrib\.eager|tf\.function\b|GradientTape|experimental_run_v2|contrib\.tpu|\bTPU"
    r"|boosted_trees|tensor_forest|tensorflow_hub|tf\.load_op_library"
)
#: What a program needs that is not there, or what is wrong with it on any TensorFlow 1, by its last words.
NEEDS = (
    # what TensorFlow 1 would say, too
    ("a word on its command line", r"Must specify an explicit"),
    (
        "the network",
        r"downloads nothing|URLError|ConnectionError|gaierror|Name or service not known|is not in the cache",
    ),
    (
        "another package",
        r"No module named '(?!(?:tensorflow|keras|dtrain)\b)"
        r"|cannot import name (?!.*'(?:dtrain|tensorflow|keras))",
    ),
    (
        "a file",
        r"FileNotFoundError|No such file|cannot find|NotADirectoryError|not found on disk"
        r"|is missing\. Give a file",
    ),
    (
        "a word on its command line",
        r"the following arguments are required|IndexError: list index out of range",
    ),
    (
        "mending in itself",  # the last: Python 2's division
        r"SyntaxError|IndentationError|TabError|NameError|UnboundLocalError|BdbQuit"
        r"|'float' object cannot be interpreted as an integer",
    ),
    (
        "an older NumPy, SciPy, matplotlib or Pillow",
        r"newshape|np\.(float|int|bool|object)\b|scipy|matplotlib|axisbg|'tostring'|only 0-dimensional"
        r"|a real number is required|FixedLocator|'n_iter'|'ANTIALIAS'"
        r"|inhomogeneous shape",
    ),
    ("Theano", "only run with the Theano backend|theano_backend"),
)


def programs(folder: Path, about: str = "mnist") -> Iterator[Path]:
    """Files that import TensorFlow or Keras, speak of MNIST, or of `about`, and do something when run."""
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.ipynb")]):
        if ".ipynb_checkpoints" in path.parts or not path.is_file():
            continue
        text = source(path)
        if not re.search(r"^\s*(import|from)\s+(tensorflow|keras)\b", text, re.M):
            continue
        if (
            not re.search(about, text, re.I)
            or ELSEWHERE.search(text)
            or path.with_suffix(".py").exists() > (path.suffix == ".py")
        ):
            continue
        if path.suffix == ".ipynb" or _acts(text):
            yield path


def source(path: Path) -> str:
    """The code of a file, or of a notebook's cells."""
    text = path.read_text(errors="replace")
    if path.suffix == ".py":
        return text
    try:
        book = json.loads(text)
    except ValueError:
        return ""
    cells = book.get("cells") or [c for sheet in book.get("worksheets", []) for c in sheet.get("cells", [])]
    parts = [c.get("source", c.get("input", "")) for c in cells if c.get("cell_type") == "code"]
    lines = "\n\n".join(p if isinstance(p, str) else "".join(p) for p in parts).split("\n")
    # what is said to the notebook itself goes, and what was indented around it stays a block
    lines = [re.sub(r"^(\s*)(%|!|get_ipython).*", r"\1pass", line) for line in lines]
    return "\n".join(sorted(lines, key=lambda line: not line.startswith("from __future__")))


def _acts(text: str) -> bool:
    """Whether a file does something besides defining functions and classes."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return True
    return any(isinstance(n, ast.For | ast.With | ast.If | ast.Expr) and not _is_text(n) for n in body)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def shortened(text: str) -> str:
    """The same with few epochs and steps."""

    def fewer(found: re.Match[str]) -> str:
        name, count = found[1], int(found[2])
        if "epoch" in name.lower():
            return f"{name}{min(count, 1)}"
        many = count >= 100 and not re.search("display|save|print", name.lower())
        return f"{name}{30 if many else found[2]}"

    words = r"epochs?|iters?|iterations?|steps?"
    text = re.sub(rf"(?i)(\b\w*(?:{words})\w*\s*=\s*)(\d{{1,8}})\b", fewer, text)
    text = re.sub(rf"(?i)(['\"](?:\w*(?:{words}))['\"]\s*,\s*)(\d{{1,7}})\b", fewer, text)
    return re.sub(r"\b(x?range\()(\d{3,8})\)", lambda m: f"{m[1]}{min(int(m[2]), 40)})", text)


@contextmanager
def prepared(path: Path, folder: Path) -> Iterator[Path]:
    """A program, shortened, beside copies of its neighbours, below those modules of its repository."""
    with tempfile.TemporaryDirectory() as place:
        inner = path.parent.relative_to(folder)
        work = Path(place, inner)
        shutil.copytree(
            path.parent, work, ignore=shutil.ignore_patterns("*.gz", ".git", "*.ckpt*"), dirs_exist_ok=True
        )
        for near in inner.parents[:-1]:
            for file in [*(folder / near).glob("*.py"), *(folder / near).glob("*/*.py")]:
                there = Path(place, file.relative_to(folder))
                if not there.exists():
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, there)
        program = work / (path.stem + ("_notebook.py" if path.suffix == ".ipynb" else ".py"))
        program.write_text(source(path))
        for file in Path(place).rglob("*.py"):
            text = file.read_text(errors="replace")
            try:
                compile(text, file.name, "exec")
                old = re.search(r"(?<!def )\b(xrange|raw_input|unicode)\(|\.iteritems\(|\bcPickle\b", text)
            except (SyntaxError, ValueError):
                old = True
            if old:
                subprocess.run([sys.executable, "-m", "lib2to3", "-w", "-n", str(file)], capture_output=True)
                text = file.read_text(errors="replace").expandtabs(8)
            file.write_text(re.sub(r"(['\"])/tmp/", rf"\1{place}/", shortened(text)))
        yield program


def started(
    program: Path, words: list[str], ranks: int, seconds: float, stderr: int
) -> subprocess.CompletedProcess[bytes]:
    """Run Python with these words beside a program."""
    command = [sys.executable, *words]
    if ranks > 1:
        command = [os.environ.get("DTRAIN_MPIRUN", "mpirun"), "-n", str(ranks), *command]
    allowed = math.ceil(seconds)
    return subprocess.run(
        ["timeout", "-k", "5", str(20 * seconds), *command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed + 5)),
        cwd=program.parent,
        env={**os.environ, "MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def run(path: Path, folder: Path, to: Path, ranks: int, seconds: float) -> dict[str, object]:
    """Run one program; what became of it."""
    name = path.relative_to(folder).as_posix()
    began = time.monotonic()
    with prepared(path, folder) as program:
        done = started(
            program, ["-m", "dtrain", "run", program.name], ranks, seconds, stderr=subprocess.STDOUT
        )
    text = done.stdout.decode(errors="replace")
    (to / (name.replace("/", "__") + ".txt")).write_text(text)
    lines = [line for line in text.splitlines() if line.strip()]
    said = next(
        (x for x in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Quit)\b|[\w.]+: error", x)), ""
    )
    # one that was still running without an error when its time was up runs
    ended = done.returncode in (0, 128 + signal.SIGXCPU, -signal.SIGXCPU)
    state = "runs" if ended else "waits" if done.returncode in (124, 137) else "stops"
    if state == "stops":
        state = next((f"needs {what}" for what, words in NEEDS if re.search(words, said)), "stops")
    return {
        "program": name,
        "state": state,
        "seconds": round(time.monotonic() - began, 1),
        "ended": done.returncode == 0,
        "said": said[:300],
    }


#: Starts `dtrain run` with the same random numbers in every job.
SEEDED = """
import random, secrets, sys, numpy
secrets.randbits = lambda bits: 7
random.seed(7); numpy.random.seed(7)
from dtrain.cli import main
sys.exit(main(["run", sys.argv[1]]))
"""
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\bnan\b|\binf\b"
MEASURE = r"(?i)accura|acc\b|loss|cost|error|score|precision"
CLOCK = r"(?i)/tmp|sec|time|\d+\s*m?s\b|/s\b|speed|0x|port"


def _apart(one: list[float], other: list[float]) -> str:
    """The largest relative difference of two lists of numbers."""
    return (
        f"{max((abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other, strict=False)), default=0):.0e}"
    )


def compare(path: Path, folder: Path, to: Path, ranks: list[int], seconds: float) -> str:
    """A row of the table of one program on one rank and on others."""
    name = path.relative_to(folder).as_posix()
    said: dict[int, list[str]] = {}
    for size in (1, *ranks):
        with prepared(path, folder) as program:
            done = started(program, ["-c", SEEDED, program.name], size, seconds, subprocess.PIPE)
        text = done.stdout.decode(errors="replace")
        (to / f"{name.replace('/', '__')}.{size}.txt").write_text(text + done.stderr.decode(errors="replace"))
        if done.returncode:
            return f"| {name} | exit code {done.returncode} on {size} ranks | | |"
        said[size] = [line for line in text.splitlines() if line.strip() and not re.search(CLOCK, line)]
    measured = {
        size: [re.findall(NUMBER, line) for line in lines if re.search(MEASURE, line)]
        for size, lines in said.items()
    }
    begun = {size: [float(x) for x in (found or [[]])[0]] for size, found in measured.items()}
    ends = {size: [float(x) for x in (found or [[]])[-1]] for size, found in measured.items()}
    row = [name.replace("+", "/", 1), ", ".join(f"{x:g}" for x in ends[1])]
    for size in ranks:
        shapes = [[re.sub(NUMBER, "#", line) for line in said[n]] for n in (1, size)]
        same = "" if shapes[0] == shapes[1] else "; other lines"
        both = f"{_apart(begun[1], begun[size])}, {_apart(ends[1], ends[size])}"
        row.append(f"{both if ends[1] else 'prints no measure'}{same}")
    return f"| {' | '.join(row)} |"


def table(results: list[dict[str, object]]) -> str:
    """By repository: programs, those that could run here, and those that do."""
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for found in results:
        state = str(found["state"])
        for key in (str(found["program"]).split("/")[0], "all"):
            rows[key][state if state in ("runs", "stops", "waits") else "needs"] += 1
    lines = [
        "| repository | programs | need something else | run | of those that could |",
        "|---|---|---|---|---|",
    ]
    for name in (*sorted(set(rows) - {"all"}), "all"):
        c = rows[name]
        could = c["runs"] + c["stops"] + c["waits"]
        share = f"{100 * c['runs'] / could:.0f} %" if could else ""
        lines.append(f"| {name.replace('+', '/')} | {c.total()} | {c['needs']} | {c['runs']} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--match", default="")
    parser.add_argument("--about", default="mnist", help="what a program's text has to contain")
    parser.add_argument("--list", type=Path, help="a file of programs, a line each, by their path in FOLDER")
    parser.add_argument("--compare", type=int, nargs="+", metavar="RANKS")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    paths = [p for p in programs(options.folder, options.about) if re.search(options.match, str(p))]
    if options.list:
        there = {p.relative_to(options.folder).as_posix(): p for p in paths}
        paths = [there[name] for name in options.list.read_text().splitlines() if name in there]
    if options.compare:
        sizes = [f"{size} ranks" for size in options.compare]
        print("A difference is that of the first measure printed, and of the last.\n")
        print(f"| program | last measure on one rank | {' | '.join(sizes)} |\n|---|---|{'---|' * len(sizes)}")
        for path in paths:
            row = compare(path, options.folder, options.to, options.compare, options.seconds)
            print(row, flush=True)
        return
    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(p, options.folder, options.to, options.ranks, options.seconds) for p in paths]
        for found in pool.map(lambda job: run(*job), jobs):
            results.append(found)
            (options.to / "results.json").write_text(json.dumps(results, indent=0))
            print(
                f"{found['state']:<10} {found['seconds']:>6} s  {found['program']}  {found['said']}",
                flush=True,
            )
    print(table(results))


if __name__ == "__main__":
    main()
