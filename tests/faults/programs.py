"""A program's own training, killed and stopped: a Keras fit and a loop in a MonitoredTrainingSession.

Each rank of three is killed (kill -9), or sent SIGTERM, in each phase of either program: before the first
step, in a step, behind an epoch or before a save, in a test. The job has to end within 5 seconds, in one
message that names the rank (kill), or saved (SIGTERM); started again it has to end with the parameters of a
run that nothing happened to, bit for bit. With --elastic, ten fits on four ranks of Open MPI lose a rank,
each in another step: they have to end with those parameters to rounding. Prints a line for each case.

    python tests/faults/programs.py [--python VENV/bin/python] [--elastic]

--python: an environment to take mpirun and mpi4py from, by default this one.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from die_together import processes
from elastic import environment

RANKS, EPOCHS, BATCH = 3, 3, 50
PHASES = {"fit": ("before", "step", "epoch", "test"), "loop": ("before", "step", "save")}
PREEMPTED = 75


# -- a rank ----------------------------------------------------------------------------------------------
def strike(phase: str, count: int = 0) -> None:
    """The fault, where it is this rank's, this phase's and, in a step, this step's."""
    from dtrain.comm import launcher

    kind, rank, where, step = os.environ.get("FAULT", "none 0 none 0").split()
    first = not Path(f"struck-{rank}").exists()
    if first and where == phase and int(rank) == launcher.rank() and (where != "step" or count == int(step)):
        Path(f"struck-{rank}").touch()
        print(f"fault at {time.time()} in pid {os.getpid()}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGTERM)


def examples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((2000, 20)).astype(np.float32)
    return x, (x[:, :3].sum(1) > 0).astype(np.int64)


def fit() -> np.ndarray:
    import dtrain as dt
    from dtrain.keras.layers import Dense, Dropout

    class Fault(dt.keras.callbacks.Callback):
        steps = 0

        def on_train_begin(self, logs: Any = None) -> None:
            strike("before")

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            strike("step", self.steps)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            strike("epoch")

        def on_test_begin(self, logs: Any = None) -> None:
            strike("test")

    dt.set_random_seed(1)
    x, y = examples()
    layers = [Dense(30, "relu", input_shape=(20,)), Dropout(0.2), Dense(2, "softmax")]
    model = dt.keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    how = {"run_dir": "run", "resume": "auto", "checkpoint_every": 7, "validation_split": 0.2}
    model.fit(x, y, BATCH, EPOCHS, verbose=0, callbacks=[Fault()], **how)
    return np.concatenate([w.ravel() for w in model.get_weights()])


def loop() -> np.ndarray:
    import dtrain as dt

    class Fault(dt.train.SessionRunHook):
        steps = 0

        def after_create_session(self, session: Any, coord: Any) -> None:
            strike("before")

        def before_run(self, run_context: Any) -> None:
            self.steps += 1
            strike("step", self.steps)

        def after_run(self, run_context: Any, run_values: Any) -> None:
            if self.steps == 14:
                strike("save")  # the hook behind this one saves now

    dt.set_random_seed(1)
    x, y = examples()
    data, labels = dt.placeholder("float32", [None, 20]), dt.placeholder("int64", [None])
    hidden = dt.nn.dropout(dt.nn.relu(dt.matmul(data, dt.get_variable("a", [20, 30]))), 0.8)
    logits = dt.matmul(hidden, dt.get_variable("b", [30, 2]))
    loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    step = dt.train.get_or_create_global_step()
    update = dt.train.AdamOptimizer(0.01).minimize(loss, global_step=step)
    hooks = [Fault(), dt.train.StopAtStepHook(last_step=EPOCHS * 40)]
    weights = dt.trainable_variables()
    with dt.train.MonitoredTrainingSession(
        checkpoint_dir="run", hooks=hooks, save_checkpoint_steps=7
    ) as session:
        at = session.run_step_fn(lambda context: int(context.session.run(step)))
        while not session.should_stop():
            rows = np.arange(at * BATCH, (at + 1) * BATCH) % len(x)
            session.run(update, {data: x[rows], labels: y[rows]})
            at += 1
        values = session.run_step_fn(lambda context: context.session.run(weights))
    return np.concatenate([np.ravel(v) for v in values])


def worker(program: str) -> None:
    from dtrain.comm import launcher

    values = {"fit": fit, "loop": loop}[program]()
    np.save(f"values-{launcher.rank()}.npy", values)


# -- a case ----------------------------------------------------------------------------------------------
def run(python: Path, folder: str, program: str, ranks: int, **variables: str) -> tuple[int, str, float]:
    """mpirun's code, what was said, and seconds from the fault until all processes were gone."""
    mark = {"FAULT_CASE": f"{program}-{os.getpid()}-{time.time()}"}
    tolerant = ["--with-ft", "ulfm"] * ("DTRAIN_ELASTIC" in variables)
    words = [python.with_name("mpirun"), *tolerant, "-n", ranks, python, __file__, "--worker", program]
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env=environment() | mark | variables,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    ((name, value),) = mark.items()
    while processes(f"{name}={value}") and time.time() < float(value.rpartition("-")[2]) + 120:
        time.sleep(0.05)
    at = re.search(r"fault at ([\d.]+)", done.stdout)
    return done.returncode, done.stdout.replace("\0", ""), time.time() - float(at[1]) if at else -1


def values_of(folder: str) -> np.ndarray:
    return np.load(sorted(Path(folder).glob("values-*.npy"))[0])


def case(python: Path, program: str, kind: str, rank: int, phase: str, whole: np.ndarray) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as folder:
        fault = f"{kind} {rank} {phase} 59"
        code, said, seconds = run(python, folder, program, RANKS, FAULT=fault)
        messages = re.findall(r"^ *dtrain: (?!WARNING).*$", said, re.M)
        if kind == "kill":
            ended = code not in (0, PREEMPTED) and len(messages) == 1 and f"rank {rank} of {RANKS}" in said
        else:
            ended = said.count("Resume it with") == 1 and len(messages) <= 1
        again, text, _ = run(python, folder, program, RANKS)
        same = again == 0 and np.array_equal(values_of(folder), whole)
    good = 0 <= seconds < 5 and ended and same
    line = f"{program:4} {kind} rank {rank} {phase:6} {seconds:5.2f} s, code {code:3}, "
    line += f"{'named' if ended else 'NOT NAMED'}, {'same bits' if same else 'NOT THE SAME'}"
    return good, line if good else f"{line}\n{said}\n{text}"


def elastic(python: Path, number: int, whole: np.ndarray) -> tuple[bool, str]:
    rank, step = number % 4, 5 + 9 * number
    with tempfile.TemporaryDirectory() as folder:
        fault = f"kill {rank} step {step}"
        code, said, seconds = run(python, folder, "fit", 4, FAULT=fault, DTRAIN_ELASTIC="on")
        error = float(np.abs(values_of(folder) - whole).max()) if code == 0 else float("nan")
    good = code == 0 and seconds >= 0 and error < 1e-4
    line = f"elastic rank {rank} step {step:3}: code {code}, parameters differ by at most {error:.1e}"
    return good, line if good else f"{line}\n{said}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--elastic", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return 0
    results = []
    for program in ["fit"] if args.elastic else PHASES:
        with tempfile.TemporaryDirectory() as folder:
            code, said, _ = run(args.python, folder, program, 4 if args.elastic else RANKS)
            assert code == 0, said
            whole = values_of(folder)
        if args.elastic:
            cases = (elastic(args.python, number, whole) for number in range(10))
        else:
            cases = (
                case(args.python, program, kind, rank, phase, whole)
                for kind in ("kill", "term")
                for phase in PHASES[program]
                for rank in range(RANKS)
            )
        for good, line in cases:
            results.append(good)
            print(line, flush=True)
    print(f"{sum(results)} of {len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
