"""`dtrain cluster`, the job files of cluster/, launch/hosts, launch/bind and launch/job, without a cluster.

A stand-in for each launcher records how it was called: what a job file starts has to be what the site's own
documentation asks for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain import cli, jobs
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.runtime.backend import make_backend

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.joinpath("cluster").glob("*.sh"))
SHELLS = [name for name, site in jobs.SITES.items() if site.file.endswith(".sh")]
#: Everything that says to a process where it runs.
PLACES = re.compile(
    r"DTRAIN_|SLURM_|PBS_|LSB_|FLUX_|PALS_|JSM_|OMPI_|PMI|MPI_|CUDA_VISIBLE|BIND_ROOT|attempt$"
)


def clean(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not PLACES.match(name)} | changes


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def shell(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Any:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        env=env or clean(),
        cwd=cwd,
    )


def dtrain_cluster(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["cluster", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


# -- the files as they are -------------------------------------------------------------------------------
@pytest.mark.parametrize("file", [*SCRIPTS, *(ROOT / "launch").iterdir()], ids=lambda file: file.name)
def test_shellcheck_finds_nothing(file: Path) -> None:
    assert shell("bash", "-n", file).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("there is no shellcheck: apt install shellcheck")
    done = shell("shellcheck", "-x", "-P", ROOT, file)
    assert done.returncode == 0, done.stdout


def test_the_package_holds_what_a_job_needs() -> None:
    """An installed dtrain has what cluster/ and launch/ show: the wheel takes it through the links."""
    package = Path(dtrain.__file__).parent
    for site in jobs.SITES.values():
        assert (package / "cluster" / site.file).read_bytes() == (ROOT / "cluster" / site.file).read_bytes()
    for file in ("bind", "job"):
        assert os.access(package / "launch" / file, os.R_OK)
    assert os.access(package / "launch" / "bind", os.X_OK)
    help_text = cli.make_parser()._subparsers._group_actions[0].choices["cluster"].format_help()  # type: ignore[union-attr]
    assert all(site in help_text for site in jobs.SITES)


# -- dtrain cluster --------------------------------------------------------------------------------------
def filled(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code, out, err = dtrain_cluster(capsys, *words)
    assert code == 0, err
    return out


def test_slurm_is_filled_in(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTRAIN_DATA", "/data/my mnist")
    text = filled(
        capsys,
        *[
            "slurm",
            "--nodes",
            "4",
            "--ranks-per-node",
            "4",
            "--gpus-per-node",
            "4",
            "--cores-per-rank",
            "8",
            "--time",
            "1:30:00",
        ],
        *["--account", "abc", "--queue", "gpu", "--name", "big", "--launcher", "mpirun", "--mpi", "pmix"],
        "--",
        *["train", "--model", "cnn", "--run-dir", "runs/x"],
    )
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "#SBATCH --job-name=big",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --time=01:30:00",
        "#SBATCH --account=abc",
        "#SBATCH --partition=gpu",
        "#SBATCH --output=%x-%j.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
    ]
    assert "program=(dtrain train --model cnn --run-dir runs/x --resume auto)\n" in text
    assert "\nexport DTRAIN_DATA='/data/my mnist'\n" in text
    assert "\nlauncher=mpirun\nmpi=pmix\n" in text
    assert f"\nexport PATH={Path(sys.executable).parent}:" in text


def test_what_is_not_given_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = dtrain_cluster(capsys, "slurm")
    assert code == 0
    assert "##SBATCH" not in out
    for absent in ("--account", "--partition", "--gpus-per-node", "SBATCH --cpus", "DTRAIN_DATA=/path"):
        assert absent not in out
    assert "#SBATCH --exclusive\n" in out
    for said in ("--ranks-per-node 4", "whole nodes", "--mpi pmi", "no --account", "no --queue"):
        assert f"dtrain: assumed: {said}" in err


def test_jobs_written_in_one_second_do_not_go_on_with_one_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "stamp", lambda: "20261130-120000")
    texts = []
    for number in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)  # as two processes have
        to = tmp_path / f"{number}.sh"
        assert dtrain_cluster(capsys, "slurm", "--to", str(to))[0] == 0
        texts += re.findall(r"--run-dir (\S+) --resume auto", to.read_text())
    assert texts == ["runs/dtrain-20261130-120000-1", "runs/dtrain-20261130-120000-2"]


@pytest.mark.parametrize("site", jobs.SITES)
def test_each_site_can_be_filled_in(site: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = filled(capsys, site, "--nodes", "3", "--", "train", "--model", "logistic", "--lr", "0.5")
    assert "\0" not in text and "None" not in text and "/path/to" not in text
    assert re.search(r"--run-dir\W+runs/dtrain-\d{8}-\d{6}\W+--resume\W+auto", text)
    if site in SHELLS:
        file = write(tmp_path / "job.sh", text)
        assert shell("bash", "-n", file).returncode == 0
        if shutil.which("shellcheck"):
            # job files with nothing left out of them: launch/job is found from the project's folder
            done = shell("shellcheck", "-x", "-P", ROOT, file)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["torque"], "choose one of slurm, pbs-polaris"),
        (["slurm", "--nodes", "0"], "--nodes 0"),
        (["slurm", "--nodes", "x"], "--nodes x"),
        (["slurm", "--time", "soon"], "--time soon"),
        (["slurm", "--time", "0:10"], "a minute at least"),
        (["slurm", "--account", "a b"], "--account 'a b'"),
        (["slurm", "--account", "a\n#SBATCH --uid=0"], "--account"),
        (["slurm", "--launcher", "mpiexec"], "srun or mpirun"),
        (["slurm", "--gpus-per-node", "4", "--ranks-per-node", "3"], "--ranks-per-node 4 is right"),
        (["slurm", "--filesystems", "home"], "--filesystems: slurm does not take it"),
        (["flux", "--cores-per-rank", "2"], "--cores-per-rank: flux does not take it"),
        (["lsf", "--launcher", "srun"], "--launcher: lsf does not take it"),
        (["kubernetes", "--account", "x"], "--account: kubernetes does not take it"),
        (["pbs-aurora", "--gpus-per-node", "6"], "no Intel GPUs"),
        (["pbs-aurora", "--ranks-per-node", "8", "--cores-per-rank", "20"], "51 cores"),
        (["slurm", "--node", "3"], "did you mean"),
        (["slurm", "--", "train", "--epoch", "3"], "did you mean --epochs?"),
        (["slurm", "--", "train", "--epochs", "many"], "--epochs"),
        (["slurm", "--", "trian"], "did you mean train?"),
        (["slurm", "--", "no_such.py"], "there is no file no_such.py"),
        (["slurm", "--", "python", "no_such.py"], "there is no file no_such.py"),
    ],
)
def test_a_mistake_is_told_before_the_queue(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = dtrain_cluster(capsys, *words)
    assert (code, out) == (2, "")
    assert told in err or told == "did you mean"
    assert err.count("\n") == 1


@pytest.mark.parametrize("before", [[], ["python"]])
@pytest.mark.parametrize("site", jobs.SITES)
def test_a_program_of_one_s_own(
    site: str, before: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "own.py", "")
    text = filled(capsys, site, "--", *before, str(file), "--rate", "1")
    assert f"python {file} --rate 1" in text.replace('", "', " ") and "dtrain train" not in text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:00", 1800),
        ("1:30:00", 5400),
        ("2-00:00:00", 172800),
        ("1-12", 129600),
        ("1:05", 65),
    ],
)
def test_time_limits(text: str, seconds: int) -> None:
    assert jobs.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1:2:3:4", "-1", "a-1:00", "1.5", "²"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        jobs.seconds(text)


def test_submitting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bin" / "sbatch", '#!/bin/sh\necho "Submitted batch job 7 of $#: $1"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    code, out, err = dtrain_cluster(capsys, "slurm", "--to", "job.sh", "--submit", "--", "bench", "matmul")
    assert (code, out) == (0, "Submitted batch job 7 of 1: job.sh\n")
    assert "+ sbatch job.sh\n" in err and "squeue" in err
    written = (tmp_path / "job.sh").read_text()
    assert "program=(dtrain bench matmul)\n" in written

    code, out, err = dtrain_cluster(capsys, "slurm", "--to", "job.sh")
    assert (code, out) == (2, "") and "is there already" in err
    assert (tmp_path / "job.sh").read_text() == written

    write(tmp_path / "bin" / "sbatch", "#!/bin/sh\necho invalid partition >&2\nexit 1\n")
    code, _, err = dtrain_cluster(capsys, "slurm", "--to", "other.sh", "--submit")
    assert code == 3 and "invalid partition" in err

    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = dtrain_cluster(capsys, "lsf", "--to", "third.sh", "--submit")
    assert code == 3 and "bsub is not here" in err and "third.sh is written" in err


def test_aurora_s_cores_are_the_list_that_the_site_gives() -> None:
    assert jobs.aurora_cores(12) == "1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
    assert jobs.aurora_cores(6) == "1-17:18-34:35-51:53-69:70-86:87-103"
    assert jobs.aurora_cores(1) == "1-51"
    assert jobs.aurora_cores(3, 1) == "1:2:53"


# -- what a job file starts ------------------------------------------------------------------------------
class Stage:
    """A folder with stand-ins: each notes its words, and the launcher runs what it is given as one rank.

    ranks: variables that the launcher would set for that rank. codes: what each start ends with.
    """

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.bin = tmp_path / "venv" / "bin"
        self.log = tmp_path / "calls"
        self.stand_in("dtrain", 'shown CUDA_VISIBLE_DEVICES DTRAIN_OWN_GPU; exit "${CODE:-0}"')

    def stand_in(self, name: str, body: str = "") -> None:
        write(
            self.bin / name,
            f"""#!/bin/bash
shown() {{
    for name in "$@"; do [ -z "${{!name+set}}" ] || echo "$name=${{!name}}" >>'{self.log}'; done
}}
echo "{name} $(printf '%s ' "$@" | sed 's/ $//')" >>'{self.log}'
{body}
""",
        )

    def launcher(self, name: str, **variables: str) -> None:
        """A launcher that starts its command from launch/bind on, as one rank with these variables."""
        exports = "\n".join(f"export {key}='{value}'" for key, value in variables.items())
        self.stand_in(name, f'while [[ $1 != */bind ]]; do shift; done\n{exports}\nexec "$@"')

    def run(self, text: str, **variables: str) -> Any:
        here = re.sub(r"(?m)^export PATH=.*$", f'export PATH="{self.bin}:$PATH"', text)
        return shell("bash", write(self.folder / "job.sh", here), env=clean(**variables), cwd=self.folder)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


RUN = ["--", "train", "--run-dir", "r"]
PROGRAM = "dtrain train --run-dir r --resume auto"
BIND = (ROOT / "launch" / "bind").resolve()
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}


def test_srun(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.launcher("srun", SLURM_LOCALID="1", SLURM_PROCID="5", CUDA_VISIBLE_DEVICES="0,1,2,3")
    text = filled(capsys, "slurm", "--nodes", "2", "--gpus-per-node", "4", "--mpi", "pmix", *RUN)
    assert stage.run(text, **SLURM).returncode == 0
    assert stage.calls == [
        f"srun --mpi=pmix --kill-on-bad-exit=0 --wait=30 --cpu-bind=none {BIND} {PROGRAM}",
        PROGRAM,
        "CUDA_VISIBLE_DEVICES=1",
        "DTRAIN_OWN_GPU=1",
    ]
    stage.log.unlink()
    assert stage.run(text, **SLURM, SLURM_CPUS_PER_TASK="8").returncode == 0
    assert stage.calls[0].startswith(
        "srun --mpi=pmix --kill-on-bad-exit=0 --wait=30 --cpus-per-task=8 --cpu-bind=cores "
    )


def test_mpirun_under_slurm(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    # SLURM_LOCALID is that of the batch step: 0 for every rank
    stage.launcher("mpirun", MPI_LOCALRANKID="2", MPI_LOCALNRANKS="4", PMI_RANK="6", SLURM_LOCALID="0")
    text = filled(capsys, "slurm", "--nodes", "2", "--launcher", "mpirun", *RUN)
    assert stage.run(text, **SLURM, CUDA_VISIBLE_DEVICES="4,5,6,7").returncode == 0
    assert stage.calls == [
        f"mpirun -n 8 {BIND} {PROGRAM}",
        PROGRAM,
        "CUDA_VISIBLE_DEVICES=6",
        "DTRAIN_OWN_GPU=1",
    ]


def test_polaris(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    (stage.folder / "nodes").write_text("n1\nn2\n")
    stage.launcher("mpiexec", PALS_LOCAL_RANKID="1", PMI_LOCAL_RANK="1", PMI_RANK="5", PALS_RANKID="5")
    text = filled(capsys, "pbs-polaris", "--nodes", "2", "--gpus-per-node", "4", "--account", "p", *RUN)
    assert [line for line in text.splitlines() if line.startswith("#PBS")] == [
        "#PBS -N dtrain",
        "#PBS -l select=2:system=polaris",
        "#PBS -l place=scatter",
        "#PBS -l walltime=00:30:00",
        "#PBS -l filesystems=home:eagle",
        "#PBS -q debug",
        "#PBS -A p",
        "#PBS -r y",
        "#PBS -j oe",
        "#PBS -k doe",
    ]
    site = {"PBS_O_WORKDIR": str(stage.folder), "PBS_NODEFILE": str(stage.folder / "nodes")}
    done = stage.run(text, **site, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert done.returncode == 0, done.stderr
    assert stage.calls == [
        f"mpiexec -n 8 --ppn 4 --depth 8 --cpu-bind depth {BIND} --gpus 3,2,1,0 {PROGRAM}",
        PROGRAM,
        "CUDA_VISIBLE_DEVICES=2",  # the last GPU is next to the first cores
        "DTRAIN_OWN_GPU=1",
    ]


def test_aurora(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    (stage.folder / "nodes").write_text("n1\nn2\nn3\n")
    stage.launcher("mpiexec", PALS_LOCAL_RANKID="1", PALS_RANKID="1")
    text = filled(capsys, "pbs-aurora", "--nodes", "3", *RUN)
    site = {"PBS_O_WORKDIR": str(stage.folder), "PBS_NODEFILE": str(stage.folder / "nodes")}
    assert stage.run(text, **site).returncode == 0
    cores = "1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
    assert stage.calls == [f"mpiexec -n 36 --ppn 12 --cpu-bind list:{cores} {BIND} {PROGRAM}", PROGRAM]


def test_lsf(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.launcher("jsrun", JSM_NAMESPACE_LOCAL_RANK="3", JSM_NAMESPACE_RANK="3", CUDA_VISIBLE_DEVICES="0")
    text = filled(
        capsys,
        *[
            "lsf",
            "--nodes",
            "2",
            "--gpus-per-node",
            "4",
            "--time",
            "45:00",
            "--account",
            "p",
            "--queue",
            "batch",
        ],
        *RUN,
    )
    assert [line for line in text.splitlines() if line.startswith("#BSUB")] == [
        "#BSUB -J dtrain",
        "#BSUB -nnodes 2",
        "#BSUB -W 45",
        "#BSUB -P p",
        "#BSUB -q batch",
        "#BSUB -o dtrain-%J.out",
        "#BSUB -r",
        '#BSUB -Q "75"',
        "#BSUB -wa USR1",
        "#BSUB -wt 2",
    ]
    assert stage.run(text).returncode == 0
    assert stage.calls == [
        f"jsrun -n 8 -r 4 -a 1 -c 10 -g 1 -b packed:10 -d packed {BIND} --gpus bound {PROGRAM}",
        PROGRAM,
        "CUDA_VISIBLE_DEVICES=0",  # as the resource set has it
        "DTRAIN_OWN_GPU=1",
    ]


def test_flux(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.launcher("flux", FLUX_TASK_LOCAL_ID="0", FLUX_TASK_RANK="4", CUDA_VISIBLE_DEVICES="2")
    text = filled(
        capsys,
        *["flux", "--nodes", "2", "--gpus-per-node", "4", "--mpi", "pmix", "--account", "p", "--queue", "q"],
        *RUN,
    )
    directives = [line for line in text.splitlines() if line.startswith("#flux")]
    assert directives == [
        "#flux: --job-name=dtrain",
        "#flux: --nodes=2",
        "#flux: --exclusive",
        "#flux: --time-limit=1800s",
        "#flux: --output=dtrain-{{id}}.out",
        "#flux: --setattr=bank=p",
        "#flux: --queue=q",
    ]
    assert stage.run(text).returncode == 0
    assert stage.calls == [
        "flux run -N 2 -n 8 --exclusive -o cpu-affinity=per-task -o pmi=pmix --signal=USR1@120s -g 1 "
        f"-o gpu-affinity=per-task {BIND} --gpus bound {PROGRAM}",
        PROGRAM,
        "CUDA_VISIBLE_DEVICES=2",
        "DTRAIN_OWN_GPU=1",
    ]


def test_a_container_is_put_before_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    text = filled(capsys, "slurm", "--image", "d.sif", "--gpus-per-node", "2", *RUN)
    assert f"program=(apptainer exec --nv d.sif {PROGRAM})\n" in text


AGAIN = {
    "slurm": "scontrol requeue 7",
    "pbs-polaris": "qsub -v attempt={attempt} {this}",
    "pbs-aurora": "qsub -v attempt={attempt} {this}",
    "flux": "flux --parent batch --env=attempt={attempt} {this}",
}


@pytest.mark.parametrize("site", AGAIN)
@pytest.mark.parametrize(
    ("code", "before", "again"),
    [
        (0, 0, False),
        (75, 0, True),
        (75, 9, True),
        (2, 0, False),
        (5, 0, False),
        (1, 0, True),
        (137, 3, False),
    ],
)
def test_a_job_is_queued_again_where_that_helps(
    stage: Stage, capsys: pytest.CaptureFixture[str], site: str, code: int, before: int, again: bool
) -> None:
    launcher = {"slurm": "srun", "flux": "flux"}.get(site, "mpiexec")
    for name in ("scontrol", "qsub"):
        stage.stand_in(name)
    stage.stand_in(launcher, f'[ "$1" = --parent ] || exit {code}')
    (stage.folder / "nodes").write_text("n1\n")
    this = stage.folder / "kept.sh"
    filled(capsys, site, "--to", str(this), *RUN)
    done = stage.run(
        this.read_text(),
        **SLURM,
        PBS_O_WORKDIR=str(stage.folder),
        PBS_NODEFILE=str(stage.folder / "nodes"),
        SLURM_RESTART_COUNT=str(before),
        attempt=str(before),
    )
    assert done.returncode == code
    expected = AGAIN[site].format(attempt=before + (code != 75), this=this)
    assert stage.calls[1:] == ([expected] if again else [])
    assert ("queued again" in done.stderr) == again


@pytest.mark.parametrize("done", [False, True])
def test_a_run_is_finished_when_it_says_so(
    stage: Stage, capsys: pytest.CaptureFixture[str], done: bool
) -> None:
    """MPICH's mpirun may end with 0 where a rank did so before the end."""
    stage.stand_in("scontrol")
    stage.stand_in("srun")
    events = ['{"event": "header"}', '{"event": "epoch"}', *['{"event": "done"}'] * done]
    write(stage.folder / "r" / "metrics.jsonl", "\n".join(events) + "\n")
    run = stage.run(filled(capsys, "slurm", *RUN), **SLURM)
    assert run.returncode == (0 if done else 7)
    assert stage.calls[1:] == ([] if done else ["scontrol requeue 7"])
    assert ("before the run was done" in run.stderr) != done


@pytest.mark.parametrize(("code", "rc"), [(75, 75), (0, 0), (2, 2), (1, 1)])
def test_lsf_queues_again_by_exit_code(
    stage: Stage, capsys: pytest.CaptureFixture[str], code: int, rc: int
) -> None:
    stage.stand_in("jsrun", f"exit {code}")
    assert stage.run(filled(capsys, "lsf", *RUN)).returncode == rc


@pytest.mark.parametrize(
    ("site", "number", "rc", "after"),
    [
        ("slurm", signal.SIGUSR1, 75, ["told", "scontrol requeue 7"]),
        ("slurm", signal.SIGTERM, 75, ["told"]),
        ("lsf", signal.SIGUSR1, 75, ["jskill -s USR1 all", "told"]),
        ("lsf", signal.SIGTERM, 143, ["jskill -s USR1 all", "told"]),
        ("lsf", signal.SIGINT, 143, ["jskill -s USR1 all", "told"]),
        ("flux", signal.SIGTERM, 75, ["flux job killall --force --signal=USR1", "told"]),
    ],
)
def test_a_warning_reaches_the_ranks(
    stage: Stage, capsys: pytest.CaptureFixture[str], site: str, number: int, rc: int, after: list[str]
) -> None:
    """The batch shell alone gets the signal. SIGTERM there is the end that somebody else wants."""
    launcher = {"slurm": "srun", "lsf": "jsrun", "flux": "flux"}[site]
    ranks = f"""
        trap "echo told >>'{stage.log}'; exit 75" USR1
        echo $$ >'{stage.folder}/ranks'
        while :; do sleep 0.02; done"""
    tell = f"kill -USR1 $(cat '{stage.folder}/ranks')"
    stage.stand_in(launcher, f'if [ "$1" = job ]; then {tell}; else {ranks}\nfi')
    stage.stand_in("scontrol")
    stage.stand_in("jskill", tell)
    text = re.sub(r"(?m)^export PATH=.*$", f'export PATH="{stage.bin}:$PATH"', filled(capsys, site, *RUN))
    job = subprocess.Popen(
        ["bash", write(stage.folder / "job.sh", text)],
        env=clean(**SLURM),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # a shell cannot trap what is ignored at its start, as SIGINT is where tests run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 20
        pid = stage.folder / "ranks"
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < end:
            time.sleep(0.02)
        job.send_signal(number)
        assert job.wait(20) == rc
        assert stage.calls[1:] == after
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def test_a_job_warns_itself_where_the_scheduler_does_not(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.stand_in("mpiexec", "trap 'exit 75' USR1; for i in {1..500}; do sleep 0.02; done")
    stage.stand_in("qsub")
    (stage.folder / "nodes").write_text("n1\n")
    filled(capsys, "pbs-aurora", "--to", str(stage.folder / "kept.sh"), *RUN)
    text = (stage.folder / "kept.sh").read_text()
    text = re.sub(r"(?m)^walltime=.*$", "walltime=121", text).replace("\nwarning=", "\nwarning=120 #")
    started = time.monotonic()
    done = stage.run(text, PBS_O_WORKDIR=str(stage.folder), PBS_NODEFILE=str(stage.folder / "nodes"))
    assert done.returncode == 75
    assert 0.9 < time.monotonic() - started < 8
    assert stage.calls[1:] == [f"qsub -v attempt=0 {stage.folder}/kept.sh"]


# -- Kubernetes ------------------------------------------------------------------------------------------
CONTAINER = {
    "type": "object",
    "required": ["name", "image"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "image": {"type": "string"},
        "command": {"type": "array", "items": {"type": "string"}},
        "args": {"type": "array", "items": {"type": "string"}},
        "workingDir": {"type": "string"},
        "env": {"type": "array"},
        "volumeMounts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "mountPath"],
                "properties": {"name": {"type": "string"}, "mountPath": {"type": "string"}},
            },
        },
        "readinessProbe": {"type": "object"},
        "lifecycle": {"type": "object"},
        "resources": {
            "type": "object",
            "properties": {
                "limits": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
                "requests": {"type": "object"},
            },
        },
    },
}
REPLICA = {
    "type": "object",
    "required": ["template"],
    "additionalProperties": False,
    "properties": {
        "replicas": {"type": "integer", "minimum": 1},
        "restartPolicy": {"enum": ["Never", "OnFailure", "Always", "ExitCode"]},
        "template": {
            "type": "object",
            "required": ["spec"],
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["containers"],
                    "additionalProperties": False,
                    "properties": {
                        "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
                        "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                        "terminationGracePeriodSeconds": {"type": "integer"},
                    },
                }
            },
        },
    },
}
#: What the operator's definition of an MPIJob (kubeflow.org/v2beta1) says of the fields that are used here.
MPIJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "kubeflow.org/v2beta1"},
        "kind": {"const": "MPIJob"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": CONTAINER["properties"]["name"]},
        },
        "spec": {
            "type": "object",
            "required": ["mpiReplicaSpecs"],
            "additionalProperties": False,
            "properties": {
                "slotsPerWorker": {"type": "integer", "minimum": 1},
                "launcherCreationPolicy": {"enum": ["AtStartup", "WaitForWorkersReady"]},
                "runLauncherAsWorker": {"type": "boolean"},
                "mpiImplementation": {"enum": ["OpenMPI", "Intel", "MPICH"]},
                "sshAuthMountPath": {"type": "string"},
                "runPolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "cleanPodPolicy": {"enum": ["None", "All", "Running"]},
                        "ttlSecondsAfterFinished": {"type": "integer"},
                        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                        "backoffLimit": {"type": "integer", "minimum": 0},
                        "suspend": {"type": "boolean"},
                        "schedulingPolicy": {"type": "object"},
                        "managedBy": {"type": "string"},
                    },
                },
                "mpiReplicaSpecs": {
                    "type": "object",
                    "required": ["Launcher"],
                    "additionalProperties": False,
                    "properties": {"Launcher": REPLICA, "Worker": REPLICA},
                },
            },
        },
    },
}


def mpijob(text: str) -> dict[str, Any]:
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(text)
    jsonschema.validate(job, MPIJOB)
    return job


def test_the_mpijob_as_it_is_fits_the_operator_s_schema() -> None:
    job = mpijob((ROOT / "cluster" / "kubernetes.yaml").read_text())
    workers = job["spec"]["mpiReplicaSpecs"]["Worker"]
    command = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["command"]
    assert int(command[2]) == workers["replicas"] * job["spec"]["slotsPerWorker"]


def test_the_mpijob_filled_in(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "kubernetes",
        "--nodes",
        "3",
        "--gpus-per-node",
        "2",
        "--image",
        "registry/dtrain:1",
        "--name",
        "w",
        "--time",
        "2:00:00",
    ]
    job = mpijob(filled(capsys, *words, *RUN))
    assert job["metadata"]["name"] == "w"
    assert job["spec"]["slotsPerWorker"] == 2
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 7200
    workers = job["spec"]["mpiReplicaSpecs"]["Worker"]
    assert workers["replicas"] == 3
    (launcher,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert launcher["command"] == ["mpirun", "-n", "6", *PROGRAM.split()]
    assert launcher["image"] == worker["image"] == "registry/dtrain:1"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 2
    # NCCL's ranks meet there, and a pod has 64 MB of it
    assert {"name": "shm", "mountPath": "/dev/shm"} in worker["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in workers["template"]["spec"]["volumes"]
    assert "shm" not in filled(capsys, "kubernetes", "--nodes", "3", "--image", "registry/dtrain:1", *RUN)


# -- images ----------------------------------------------------------------------------------------------
def test_the_containerfile_says_what_it_may() -> None:
    text = (ROOT / "cluster" / "Containerfile").read_text()
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    steps = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    assert steps[0][0] == "FROM" and re.fullmatch(r"[\w./-]+:[\w.-]+", steps[0][1]), "an image with a tag"
    assert {word for word, _ in steps} <= {"FROM", "ARG", "RUN", "COPY", "WORKDIR", "CMD", "ENV"}
    for word, rest in steps:
        if word == "RUN":
            assert shell("bash", "-n", "-c", rest).returncode == 0, rest
            if "apt-get install" in rest:
                assert "--no-install-recommends" in rest and "apt-get update" in rest
                assert "rm -rf /var/lib/apt/lists" in rest
            if "pip install" in rest:
                assert "--no-cache-dir" in rest
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        if word == "CMD":
            assert isinstance(json.loads(rest), list)


def test_the_apptainer_definition_says_what_it_may() -> None:
    text = (ROOT / "cluster" / "dtrain.def").read_text()
    head, *sections = re.split(r"(?m)^%", text)
    assert re.findall(r"(?m)^(Bootstrap|From): (\S+)$", head) == [
        ("Bootstrap", "docker"),
        ("From", "python:3.12-slim-bookworm"),
    ]
    for section in sections:
        name, body = section.split("\n", 1)
        assert name in ("files", "arguments", "post", "environment", "runscript", "test")
        if name == "arguments":  # of Apptainer 1.2
            assert body.split() == ["extras=mpi"] and "[{{ extras }}]" in text
        elif name == "files":
            for line in body.splitlines():
                assert not line.strip() or (ROOT / line.split()[0]).exists(), line
        else:
            assert shell("sh", "-n", "-c", body).returncode == 0, body


# -- launch/hosts ----------------------------------------------------------------------------------------
HOSTS = ROOT / "launch" / "hosts"


def hosts(*words: str, **variables: str) -> Any:
    return shell(HOSTS, *words, env=clean(DTRAIN_VENV="/v", **variables))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hosts", "n1,n2"], "-hosts n1:1\\,n2:1 -n 2"),
        (["--hosts", "n1:4,n2"], "-hosts n1:4\\,n2:1 -n 5"),
        (["--hosts", "n1:4,n2", "--per-host", "2"], "-hosts n1:2\\,n2:2 -n 4"),
        (["--hosts", "n1,n2", "--per-host", "4", "-n", "6"], "-hosts n1:4\\,n2:4 -n 6"),
    ],
)
def test_hosts_of_the_command_line(words: list[str], said: str) -> None:
    done = hosts(*words, "--print", "train", "--lr", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"+ /v/bin/mpirun -launcher ssh {said} {BIND} /v/bin/dtrain train --lr 0.1\n"


def test_hosts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts.txt"
    file.write_text("# the two large ones\nn1 slots=4 max_slots=8\n\nn2:2   # half\nn3\n")
    done = hosts("--hosts", str(file), "--print", "train")
    assert " -hosts n1:4\\,n2:2\\,n3:1 -n 7 " in done.stdout


def test_hosts_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\na\nb\nb\n")
    write(
        tmp_path / "bin" / "scontrol",
        '#!/bin/sh\n[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"\n',
    )
    write(
        tmp_path / "bin" / "flux",
        "#!/bin/sh\n[ \"$*\" = 'hostlist --expand --delimiter=\\n local' ] && printf 'f1\\nf2\\n'\n",
    )
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    for variables, said in (
        ({"PBS_NODEFILE": str(tmp_path / "list")}, "a:2\\,b:2 -n 4"),
        ({"LSB_DJOB_HOSTFILE": str(tmp_path / "list")}, "a:2\\,b:2 -n 4"),
        ({"LSB_HOSTS": "a b b"}, "a:1\\,b:2 -n 3"),
        ({"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "4(x2),3"}, "n1:4\\,n2:4\\,n3:3 -n 11"),
        ({"FLUX_URI": "local:///x"}, "f1:1\\,f2:1 -n 2"),
    ):
        done = hosts("--print", "train", PATH=path, **variables)
        assert f" -launcher ssh -hosts {said} " in done.stdout, done.stderr


def test_hosts_by_open_mpi(tmp_path: Path) -> None:
    mpirun = write(
        tmp_path / "mpirun", "#!/bin/sh\necho 'mpirun (Open MPI) 5.0.11'\nenv | grep PRTE_MCA_plm=\n"
    )
    words = ("--hosts", "n1,n2", "--per-host", "2", "train")
    variables = {"DTRAIN_MPIRUN": str(mpirun), "DTRAIN_SEED": "3", "PATH": os.environ["PATH"]}
    done = hosts("--print", *words, **variables)
    assert done.stdout.startswith(f"+ {mpirun} --host n1:2\\,n2:2 -n 4 ")
    for name in ("PATH", "DTRAIN_SEED"):
        assert f" -x {name} " in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "which hosts?"),
        (["--hosts"], "takes a file"),
        (["--hosts", "no/such/file", "train"], "no such file"),
        (["--hosts", "n1,-oProxyCommand=x", "train"], "is not a host"),
        (["--hosts", "n1:x", "train"], "is not a host"),
        (["--hosts", "n1", "-n", "2", "train"], "room for 1 ranks"),
        (["--hosts", "n1", "-n", "0", "train"], "'0'"),
        (["--hosts", "n1", "--per-host", "x", "train"], "'x'"),
        (["--bad", "train"], "'--bad'"),
    ],
)
def test_a_mistake_of_hosts_gets_one_sentence(words: list[str], told: str) -> None:
    done = hosts(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


# -- launch/bind -----------------------------------------------------------------------------------------
class Node:
    """A node as launch/bind sees it: cores with two threads each, GPUs, and a taskset that only shows."""

    def __init__(self, folder: Path, gpus: int, siblings: dict[int, str] | None = None) -> None:
        self.root = folder
        (folder / "dev").mkdir()
        for gpu in range(gpus):
            (folder / "dev" / f"nvidia{gpu}").touch()
        for cpu, text in (siblings or {}).items():
            place = folder / f"sys/devices/system/cpu/cpu{cpu}/topology"
            place.mkdir(parents=True)
            (place / "thread_siblings_list").write_text(text + "\n")
        write(folder / "bin" / "taskset", '#!/bin/sh\necho "taskset $1 $2"\nshift 2\nexec "$@"\n')

    def run(self, *words: str, **variables: str) -> list[str]:
        env = clean(BIND_ROOT=str(self.root), PATH=f"{self.root}/bin:{os.environ['PATH']}", **variables)
        show = 'echo "gpu=${CUDA_VISIBLE_DEVICES-none} own=${DTRAIN_OWN_GPU-no}"'
        done = shell(BIND, *words, "bash", "-c", show, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def cores_here() -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity here")
    return sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("variables", "local"),
    [
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2", "SLURM_LOCALID": "0"}, 2),
        ({"MPI_LOCALRANKID": "2", "SLURM_LOCALID": "0"}, 2),
        ({"PMI_LOCAL_RANK": "3", "SLURM_LOCALID": "0"}, 3),
        ({"PALS_LOCAL_RANKID": "1"}, 1),
        ({"JSM_NAMESPACE_LOCAL_RANK": "1"}, 1),
        ({"FLUX_TASK_LOCAL_ID": "3"}, 3),
        ({"SLURM_LOCALID": "1"}, 1),
    ],
)
def test_each_launcher_s_local_rank_is_understood(
    variables: dict[str, str], local: int, tmp_path: Path
) -> None:
    node = Node(tmp_path, gpus=4)
    assert node.run(**variables) == [f"gpu={local} own=1"]
    assert node.run("--gpus", "3,2,1,0", **variables) == [f"gpu={3 - local} own=1"]


def test_a_binding_that_is_there_is_kept(tmp_path: Path) -> None:
    node = Node(tmp_path, gpus=4)
    rank = {"SLURM_LOCALID": "1"}
    assert node.run(CUDA_VISIBLE_DEVICES="5,7", **rank) == ["gpu=7 own=1"]  # of those that the job has
    assert node.run("--gpus", "1,0", CUDA_VISIBLE_DEVICES="5,7", **rank) == ["gpu=5 own=1"]
    assert node.run(CUDA_VISIBLE_DEVICES="GPU-aa,GPU-bb", **rank) == ["gpu=GPU-bb own=1"]
    # one GPU for several ranks: whose it is only the launcher can say
    assert node.run(CUDA_VISIBLE_DEVICES="5", **rank) == ["gpu=5 own=no"]
    assert node.run(CUDA_VISIBLE_DEVICES="5", SLURM_GPUS_PER_TASK="1", **rank) == ["gpu=5 own=1"]
    # mpirun in a job of such tasks binds none
    assert node.run(CUDA_VISIBLE_DEVICES="5,7", SLURM_GPUS_PER_TASK="1", **rank) == ["gpu=7 own=1"]
    assert node.run("--gpus", "bound", CUDA_VISIBLE_DEVICES="5", **rank) == ["gpu=5 own=1"]
    assert node.run(CUDA_VISIBLE_DEVICES="", **rank) == ["gpu= own=no"]
    # more ranks than GPUs: dtrain says so itself
    assert node.run(CUDA_VISIBLE_DEVICES="5,7", SLURM_LOCALID="2") == ["gpu=5,7 own=no"]


@pytest.mark.skipif(not shutil.which("g++"), reason="the stand-in compiles CUDA sources with g++")
def test_a_rank_with_a_gpu_of_its_own_takes_the_one_it_sees(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy shows one GPU, as CUDA does where CUDA_VISIBLE_DEVICES names one."""
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    monkeypatch.delenv("DTRAIN_OWN_GPU", raising=False)
    with pytest.raises(EnvironmentProblem, match="local rank 3 has no GPU of its own"):
        make_backend("gpu", 3)
    monkeypatch.setenv("DTRAIN_OWN_GPU", "1")
    assert make_backend("gpu", 3).name.startswith("gpu 0 ")


def test_cores_are_shared_with_both_threads_together(tmp_path: Path) -> None:
    here = cores_here()
    if len(here) < 2:
        pytest.skip("one core cannot be shared")
    pairs = {cpu: str(cpu) for cpu in here}
    got = []
    for rank in (0, 1):
        (tmp_path / f"{rank}").mkdir()
        node = Node(tmp_path / f"{rank}", gpus=0, siblings=pairs)
        line, _ = node.run(MPI_LOCALRANKID=str(rank), MPI_LOCALNRANKS="2")
        got.append([int(cpu) for cpu in line.removeprefix("taskset -c ").split(",")])
    assert got == [here[: len(here) // 2], here[len(here) // 2 :]]
    # a rank that has the node for itself keeps it
    assert node.run(SLURM_LOCALID="0", SLURM_STEP_TASKS_PER_NODE="1(x2)") == ["gpu=none own=no"]

    # all are threads of one core: two ranks cannot have it to themselves
    (tmp_path / "one").mkdir()
    node = Node(tmp_path / "one", gpus=0, siblings={cpu: f"{here[0]}-{here[-1]}" for cpu in here})
    assert node.run(MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2") == ["gpu=none own=no"]


def test_a_bound_rank_keeps_its_cores(tmp_path: Path) -> None:
    here = cores_here()
    if len(here) < 2 or shutil.which("taskset") is None:
        pytest.skip("nothing to bind to")
    node = Node(tmp_path, gpus=0)
    env = clean(BIND_ROOT=str(node.root), MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2")
    done = shell("taskset", "-c", here[0], BIND, "grep", "Cpus_allowed_list", "/proc/self/status", env=env)
    assert done.stdout.split() == ["Cpus_allowed_list:", str(here[0])]


def test_bind_shows_what_it_runs(tmp_path: Path) -> None:
    node = Node(tmp_path, gpus=2)
    env = clean(BIND_ROOT=str(node.root), MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2")
    for rank, shown in (("1", True), ("3", False)):  # the second node is like the first
        done = shell(BIND, "echo", "a b", env=env | {"PMI_RANK": rank})
        assert done.stdout == "a b\n"
        assert (
            bool(re.fullmatch(r"\+ \S+ rank 1: CUDA_VISIBLE_DEVICES=1 .*echo a\\ b\n", done.stderr)) == shown
        )
    done = shell(BIND, "--print", "false", env=env | {"PMI_RANK": "3"})
    assert done.returncode == 0 and "rank 3" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["true"], "no launcher says"),
        (["--gpus", "first", "true"], "'first'"),
        (["--gpus", "1,,0", "true"], "'1,,0'"),
        (["--gpu", "1", "true"], "'--gpu'"),
    ],
)
def test_a_mistake_of_bind_gets_one_sentence(words: list[str], told: str) -> None:
    done = shell(BIND, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
