"""The harness of all tests: fixtures, and how a failure or a hang ends the run, under mpirun on every rank.

launch/test runs most tests on all cores (pytest-xdist), those that start jobs of several processes two files
at a time, and those that measure time one after another: they are marked `job` and `alone`, here or where
they stand.

Under mpirun each rank runs pytest on the same tests in the same order, and one sees rank 0's output. The
other ranks are silent until a test of theirs fails; their report then goes to stderr, `[rank r]` before each
line. Whatever a rank does after a failure, the others wait for it in a collective, so the first failure ends
the job: the rank prints pytest's closing report at once and aborts all ranks.
"""

from __future__ import annotations

import atexit
import importlib.util
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
import pytest_mpi

import dtrain
from dtrain import comm as dtrain_comm
from dtrain.comm import launcher
from dtrain.errors import EnvironmentProblem

RANK, SIZE = launcher.rank(), launcher.size()

if SIZE > 1:
    # a root for temporary folders of each rank's own: pytest numbers and clears those of one root alone
    os.environ["PYTEST_DEBUG_TEMPROOT"] = _root = tempfile.mkdtemp(prefix=f"dtrain-rank{RANK}-")
    atexit.register(shutil.rmtree, _root, ignore_errors=True)

if importlib.util.find_spec("cupy"):  # tests that want a GPU say so
    os.environ.setdefault("DTRAIN_DEVICE", "cpu")

#: Seconds by which each rank lets the one below speak first. Most failures are the same on all ranks, and
#: the rank that speaks ends the others.
STAGGER = 0.3
#: Seconds that a rank past its deadline leaves the others, whose deadlines are about the same, to show where
#: they are.
HANG_GRACE = 1.5
#: Seconds that output takes, at most, through mpirun: the abort must not overtake it.
FLUSH = 0.2

# Ranks have to draw the same examples. A test's deadline is pytest's, not one for each example.
hypothesis.settings.register_profile(
    "dtrain", deadline=None, derandomize=SIZE > 1 or "CI" in os.environ, database=None
)
hypothesis.settings.load_profile("dtrain")


# -- failures and hangs ----------------------------------------------------------------------------------
class Harness:
    """The plugin behind the module's docstring. In a run of one process it only handles hangs."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.terminal = config.pluginmanager.getplugin("terminalreporter")  # None in a worker of pytest-xdist
        self.world: dtrain_comm.Communicator | None = None
        self.exit_status = 0
        self.hung = False
        self.silenced = io.StringIO()
        if RANK > 0:
            config.get_terminal_writer()._file = self.silenced

    def pytest_sessionstart(self) -> None:
        if SIZE > 1:
            try:
                self.world = dtrain_comm.world()
            except EnvironmentProblem as problem:
                pytest.exit(str(problem), returncode=problem.exit_code)

    def pytest_report_header(self) -> str | None:
        return f"mpi: {SIZE} ranks" if SIZE > 1 else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._forget_silenced()

    @pytest.hookimpl(trylast=True)  # after the terminal has counted the failure
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and (SIZE > 1 or self.hung) and self.terminal:
            self._forget_silenced()
            if RANK > 0 and not self.hung:
                time.sleep(STAGGER * RANK)
            self.terminal.write_line("")
            self.config.hook.pytest_terminal_summary(
                terminalreporter=self.terminal, exitstatus=pytest.ExitCode.TESTS_FAILED, config=self.config
            )
            self.terminal.summary_stats()
            self._end_all()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.exit_status = int(exitstatus)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End the job after a failure outside of tests, such as a module that one rank cannot import."""
        if self.world and self.exit_status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            time.sleep(STAGGER * RANK)
            self._end_all()

    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool:
        """Take the place of pytest-timeout's timer, which would show and end one rank only."""
        timer = threading.Timer(settings.timeout, self._end_hung, (item, settings.timeout))
        timer.name = "deadline of the test"
        timer.daemon = True

        def cancel() -> None:
            timer.cancel()
            timer.join()

        item.cancel_timeout = cancel  # type: ignore[attr-defined]  # where pytest-timeout looks for it
        timer.start()
        return True

    def _end_hung(self, item: pytest.Item, deadline: float) -> None:
        """Report the test as failed, with the stacks of all threads; ends in pytest_runtest_logreport.

        A worker of pytest-xdist sends the report and ends; another takes its place.
        """
        self.hung = True
        try:
            capture = self.config.pluginmanager.getplugin("capturemanager")
            capture.suspend_global_capture(in_=True)
            for name, text in zip(("stdout", "stderr"), capture.read_global_capture(), strict=True):
                item.add_report_section("call", name, text)
            message = f"not done after {deadline:g} s; the stacks of its threads:\n{_stacks()}"
            call = pytest.CallInfo.from_call(lambda: pytest.fail(message, pytrace=False), when="call")
            report = item.ihook.pytest_runtest_makereport(item=item, call=call)
            report.outcome = "failed"  # also where the test is expected to fail
            item.ihook.pytest_runtest_logreport(report=report)
        except BaseException:
            traceback.print_exc()
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Print what was silenced and end this process, with all other ranks. Does not return."""
        for line in self.silenced.getvalue().strip("\n").splitlines() if RANK > 0 else ():
            sys.__stderr__.write(f"[rank {RANK}] {line}\n")
        if self.terminal:
            self.terminal.flush()
        sys.__stdout__.flush()
        sys.__stderr__.flush()
        for process in list(_launched):
            _kill(process)
        if self.world:
            time.sleep(HANG_GRACE if self.hung else FLUSH)
            self.world.abort(1)
        os._exit(1)

    def _forget_silenced(self) -> None:
        self.silenced.seek(0)
        self.silenced.truncate()


def _stacks() -> str:
    """The stacks of all threads but this one, from where pytest calls what the project wrote."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            parts.append(f"thread {names.get(ident, ident)}\n{_stack(frame)}")
    return "\n".join(parts)


def _stack(frame: FrameType) -> str:
    frames = traceback.extract_stack(frame)
    inside = [i for i, at in enumerate(frames) if {"_pytest", "pluggy"} & set(Path(at.filename).parts)]
    start = inside[-1] + 1 if inside and inside[-1] + 1 < len(frames) else 0
    return "".join(traceback.format_list(frames[start:]))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if SIZE == 1:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # fixtures end what they have launched
    config.pluginmanager.register(Harness(config), "dtrain-harness")
    for plugin in config.pluginmanager.get_plugins():
        if isinstance(plugin, pytest_mpi.MPIPlugin):
            plugin._is_testing_mpi = False  # no page of MPI's settings after every run


#: Files whose jobs have a time within which something has to happen.
TIMED = {
    f"test_{name}.py"
    for name in (
        "bench",
        "elastic",
        "launch",
        "launcher",
        "machine",
        "monitor",
        "preempt",
        "scaling",
    )
}


#: What a file has in its text if a test of it is `job` or `alone`.
MARKED = re.compile(r"\bmpirun\b|mark\.(job|alone)\b")


@cache
def _may_be_marked(path: Path) -> bool:
    return bool(MARKED.search(path.read_text(encoding="utf-8")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where few tests run, leave the other files unread: all of them are some ten thousand tests."""
    few = config.option.markexpr in ("job and not alone", "alone") and collection_path.suffix == ".py"
    return True if few and not _may_be_marked(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what must run alone, and leave out what is for ranks, or for another number of ranks."""
    for item in items:
        if "mpirun" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.alone if item.path.name in TIMED else pytest.mark.job)
        if {"job", "alone"} & {mark.name for mark in item.iter_markers()}:
            assert _may_be_marked(item.path), f"nobody runs {item.nodeid}: its file needs a word of MARKED"
    ranks = config.getoption("--with-mpi") or config.getoption("--only-mpi")
    others = [item for item in items if "mpi" in item.keywords and not (ranks and _on_so_many(item))]
    config.hook.pytest_deselected(items=others)
    left = set(others)
    items[:] = [item for item in items if item not in left]


def _on_so_many(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("ranks")
    return marker is None or SIZE in (1, *marker.args)


# -- fixtures --------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def fresh_graph() -> None:
    """Every test starts with an empty default graph."""
    dtrain.reset_default_graph()


@pytest.fixture
def comm() -> dtrain_comm.Communicator:
    """The communicator of all ranks; a world of one without mpirun."""
    return dtrain_comm.world()


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the four real MNIST files."""
    if "DTRAIN_DATA" not in os.environ:
        pytest.skip("DTRAIN_DATA does not name a folder with the MNIST files")
    return Path(os.environ["DTRAIN_DATA"])


@dataclass(frozen=True)
class Run:
    """What a command under mpirun did: exit code, output, wall-clock seconds."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


#: Variables of the launcher that this process may run under, and of what it would make mpirun do.
LAUNCHER_PREFIXES = ("PMI", "OMPI_", "PRTE_", "HYDRA", "MPI", "PALS_", "SLURM_", "DTRAIN_TERMINAL")

#: Launches of the fixture mpirun that have not ended.
_launched: set[subprocess.Popen[str]] = set()


@pytest.fixture
def mpirun(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Run `mpirun -n RANKS python -m MODULE ARGS` in a process of its own: mpirun(ranks, args, ...) -> Run.

    module: what to run, dtrain if not given. options: of mpirun.
    deadline: seconds after which the test fails, with the output so far and the stacks of the ranks.
    env: variables to set (a value of None removes one) besides those of this process less any launcher's.
    cwd: working folder, the test's own tmp_path if not given.
    """
    beside = Path(sys.executable).with_name("mpirun")
    program = os.environ.get("DTRAIN_MPIRUN") or (str(beside) if beside.exists() else shutil.which("mpirun"))
    if program is None:
        pytest.skip("there is no mpirun: pip install 'dtrain[mpi]'")

    def run(
        ranks: int,
        args: Sequence[object],
        *,
        module: str = "dtrain",
        options: Sequence[str] = (),
        deadline: float = 30,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> Run:
        command = [program, *options, "-n", str(ranks), sys.executable, "-m", module, *map(str, args)]
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd or tmp_path,
            env=_environment(env or {}),
            start_new_session=True,
        )
        _launched.add(process)
        try:
            stdout, stderr = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            stdout, stderr = _stop(process)
            told = f"{shlex.join(command)}\n-- stdout\n{stdout}\n-- stderr\n{stderr}"
            pytest.fail(f"not done after {deadline:g} s: {told}", pytrace=False)
        finally:
            if process.poll() is None:
                _kill(process)
            _launched.discard(process)
        return Run(process.returncode, stdout, stderr, time.monotonic() - start)

    yield run


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    env["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(dtrain.__file__).parents[1]), env.get("PYTHONPATH")])
    )
    env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def _stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a launch that hangs; returns its output, with the ranks' stacks from Python's faulthandler.

    Once a rank is gone its launcher ends the others: it is stopped until all of them have shown their stacks.
    """
    launchers, ranks = _family(process.pid)
    _signal(launchers, signal.SIGSTOP)
    _signal(ranks, signal.SIGABRT)
    give_up = time.monotonic() + 3
    while time.monotonic() < give_up and any(pid in ranks for pid, _, state in _processes() if state != "Z"):
        time.sleep(0.05)
    _signal(launchers, signal.SIGCONT)
    try:
        return process.communicate(timeout=3)
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.communicate(timeout=10)


def _family(root: int) -> tuple[set[int], set[int]]:
    """A process and those below it: the ones with children (mpirun and its helpers), and the ones without."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, []).append(pid)
    family, todo = set(), [root]
    while todo:
        todo += children.get(pid := todo.pop(), [])
        family.add(pid)
    return {pid for pid in family if pid in children}, {pid for pid in family if pid not in children}


def _processes() -> list[tuple[int, int, str]]:
    """(pid, parent's pid, one letter of state) of every process."""
    lines = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,stat="], text=True).splitlines()
    return [(int(pid), int(parent), state[0]) for pid, parent, state in map(str.split, lines)]


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _kill(process: subprocess.Popen[str]) -> None:
    """End mpirun and its group; the ranks have sessions of their own, and die when their mpirun does."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has ended; PermissionError is macOS's word for that
        pass
