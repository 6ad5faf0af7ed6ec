"""Training on a real Slurm and ssh cluster: nodes with names, addresses, /tmp and /dev/shm of their own.

DTRAIN_LAB names the program that makes one on this machine: `$DTRAIN_LAB -n 2 COMMAND` runs COMMAND on its
login host and ends the cluster with it. COMMAND sees SLURM_CONF, LAB_SSH_CONFIG and LAB_NODES ("n1 n2"); the
partition `high` preempts `low`, the default one, and `ip link set veN down` cuts node N off the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
LAB = os.environ.get("DTRAIN_LAB", "")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sshd", "ip", "unshare", "nsenter")
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

#: A job is 2 nodes with 2 ranks each.
JOB = ["--nodes", "2", "--ranks-per-node", "2", "--time", "10:00"]
HOSTS = ["n1", "n1", "n2", "n2"]
#: Examples, of which 50 are a step: an epoch is 21 of them, the last one short.
EXAMPLES = 1_010
ITERATIONS = -(-EXAMPLES // 50)


def missing() -> str:
    if not LAB:
        return "DTRAIN_LAB names no program that makes a cluster"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root makes network namespaces"
    absent = [program for program in PROGRAMS if shutil.which(program, path=SBIN) is None]
    if absent:
        packages = "slurm-wlm munge openssh-server iproute2 libpmix-dev"
        return f"there is no {', '.join(absent)}: apt install {packages}"
    if not Path(sys.prefix, "bin", "mpirun").exists():
        return "there is no mpirun: pip install 'dtrain[mpi]'"
    return ""


pytestmark = [
    pytest.mark.job,
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is a lab"),
    pytest.mark.timeout(360),
]


class Lab:
    """The cluster's login host: a shell there that runs one command after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("DTRAIN_", "SLURM_"))
        }
        env |= {
            "PATH": f"{Path(sys.prefix, 'bin')}:{SBIN}",
            "OPENBLAS_NUM_THREADS": "1",
            "DTRAIN_VENV": sys.prefix,
            # UCX would find memory to share between nodes that are one machine, which no cable can cut
            "MPIR_CVAR_CH4_NETMOD": "ofi",
            "FI_PROVIDER": "tcp",
        }
        # the project's folder is the working one, since a lab keeps that in view where it lies in /tmp
        with open(folder / "lab.out", "wb") as log:
            self.shell = subprocess.Popen(
                [LAB, "-n", "2", "bash", "-s"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.count = 0

    def start(self, command: str) -> Path:
        """Start a command; the file named like what is returned, with .rc, appears when it has ended."""
        self.count += 1
        name = self.folder / f"command-{self.count}"
        text = f"cd {self.folder}\n{command}\n"
        name.with_suffix(".sh").write_text(text)
        line = f"bash {name}.sh >{name}.out 2>{name}.err </dev/null; "
        line += f"echo $? >{name}.part; mv {name}.part {name}.rc\n"
        assert self.shell.stdin
        self.shell.stdin.write(line.encode())
        self.shell.stdin.flush()
        return name

    def run(self, command: str, deadline: float = 60) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        name = self.start(command)
        wait_for(lambda: name.with_suffix(".rc").exists(), deadline, lambda: f"{command}\n{self.told()}")
        return (
            int(name.with_suffix(".rc").read_text()),
            name.with_suffix(".out").read_text(),
            name.with_suffix(".err").read_text(),
        )

    def check(self, command: str, deadline: float = 60) -> str:
        rc, out, err = self.run(command, deadline)
        assert rc == 0, f"{command}\n{out}\n{err}\n{self.told()}"
        return out

    def told(self) -> str:
        """What the jobs and the last command said, for a failure."""
        last = [self.folder / f"command-{self.count}{suffix}" for suffix in (".out", ".err")]
        files = [*sorted(self.folder.glob("dtrain-*.out")), *(file for file in last if file.exists())]
        return "\n".join(f"-- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says of a job: JobState, Restarts, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.check(f"scontrol show job {job}")))

    def ended(self, job: str, deadline: float = 240) -> dict[str, str]:
        """Wait until a job has ended. One that was queued again need not wait for Slurm's two minutes.

        While Slurm takes a job back it calls it FAILED for a moment, so an end has to last for some looks. A
        node that is to start a job again in the second in which it has ended refuses: the job has FAILED.
        """
        state: dict[str, str] = {}
        looks = waits = 0

        def over() -> bool:
            nonlocal state, looks, waits
            state = self.state(job)
            waiting = state["JobState"] == "PENDING" and state["Reason"] == "BeginTime"
            waits = waits + 1 if waiting else 0
            if waits == 5:
                self.run(f"scontrol update JobId={job} StartTime=now")
            ended = state["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
            looks = looks + 1 if ended else 0
            return looks == (5 if state["JobState"] == "FAILED" else 1)

        wait_for(over, deadline, lambda: f"{state}\n{self.told()}", pause=0.5)
        return state

    def close(self) -> None:
        assert self.shell.stdin
        self.shell.stdin.close()
        try:
            self.shell.wait(20)
        except subprocess.TimeoutExpired:
            self.shell.kill()
            self.shell.wait()


def wait_for(done: Callable[[], bool], deadline: float, say: Callable[[], str], pause: float = 0.1) -> None:
    end = time.monotonic() + deadline
    while not done():
        if time.monotonic() > end:
            pytest.fail(f"not after {deadline:g} s: {say()}", pytrace=False)
        time.sleep(pause)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="dtrain-lab-", dir="/var/tmp"))
    write_data(folder / "data")
    made = Lab(folder)
    try:
        made.check("sinfo -h -N -o %t | grep -c idle")
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def write_data(folder: Path) -> None:
    """A small data set as MNIST's files are: digits that differ by which rows are bright, in noise."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    for part, count in (("train", EXAMPLES), ("t10k", 100)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 120, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 3] += 100
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte"
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (folder / name).write_bytes(content)
            with open(folder / "SHA256SUMS", "a") as sums:
                sums.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


def options(lab: Lab, epochs: int, run: str) -> str:
    words = ["train", "--model", "logistic", "--optimizer", "sgd", "--lr", "0.1", "--batch-size", "50"]
    words += ["--no-tensorboard", "--keep", "1"]
    words += ["--epochs", epochs, "--dataset", lab.folder / "data", "--run-dir", lab.folder / run]
    return shlex.join(map(str, words))


def submit(lab: Lab, *words: str, program: str) -> str:
    """The number of the job that `dtrain cluster slurm --submit` makes."""
    out = lab.check(f"dtrain cluster slurm {shlex.join([*JOB, *words])} --submit -- {program}")
    found = re.search(r"Submitted batch job (\d+)", out)
    assert found, out
    return found[1]


def output(lab: Lab, job: str) -> str:
    return next(lab.folder.glob(f"*-{job}.out")).read_text()


def records(lab: Lab, run: str) -> list[dict]:
    path = lab.folder / run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_result(lab: Lab, run: str, epochs: int) -> None:
    """The run ends where one process ends, and its ledger holds each example of each epoch once."""
    alone = f"alone-{epochs}"
    if not (lab.folder / alone).exists():
        subprocess.run(
            [sys.executable, "-m", "dtrain", *shlex.split(options(lab, epochs, alone))],
            check=True,
            timeout=60,
            capture_output=True,
        )
    step = epochs * ITERATIONS
    (here, want), (manifest, wanted) = zip(
        *(
            (
                load_file(folder / f"step-{step:08}.safetensors"),
                json.loads((folder / f"step-{step:08}.json").read_text()),
            )
            for folder in (lab.folder / run / "checkpoints", lab.folder / alone / "checkpoints")
        ),
        strict=True,
    )
    assert here.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(here[name], value, rtol=0, atol=1e-5, err_msg=name)
    for what in ("step", "epoch", "iteration", "examples"):
        assert manifest["progress"][what] == wanted["progress"][what]
    written = records(lab, run)
    assert [line["epoch"] for line in written if line["event"] == "epoch"] == list(range(1, epochs + 1))
    assert all(line["hosts"] == HOSTS for line in written if line["event"] == "header")


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_job_trains_on_two_nodes_as_one_process_does(lab: Lab, launcher: str) -> None:
    job = submit(lab, "--launcher", launcher, program=options(lab, 2, launcher))
    state = lab.ended(job)
    said = output(lab, job)
    assert state["JobState"] == "COMPLETED", said
    assert "4 ranks on 2 nodes" in said
    for rank in (0, 1):  # launch/bind, on the first node, for all nodes alike
        assert f"+ n1 rank {rank}: " in said
    check_result(lab, launcher, 2)


def test_launch_hosts_trains_over_ssh_as_one_process_does(lab: Lab) -> None:
    script = f"{ROOT}/launch/hosts --hosts n1,n2 --per-host 2 {options(lab, 2, 'ssh')}"
    rc, out, err = lab.run(f'export HYDRA_LAUNCHER_EXTRA_ARGS="-F $LAB_SSH_CONFIG"\n{script}')
    assert rc == 0, out + err
    assert f"+ {sys.prefix}/bin/mpirun -launcher ssh -hosts n1:2\\,n2:2 -n 4 {ROOT}/launch/bind" in err
    assert "4 ranks on 2 nodes" in out
    check_result(lab, "ssh", 2)


def begun(lab: Lab, run: str) -> None:
    """Wait for the end of the first epoch."""
    wait_for(lambda: any(line["event"] == "epoch" for line in records(lab, run)), 60, lab.told)


def queued_again(lab: Lab, job: str) -> None:
    """Wait until Slurm has taken the job back; on the way there it calls it FAILED."""

    def back() -> bool:
        state = lab.state(job)
        return state["Restarts"] == "1" and state["JobState"] in ("PENDING", "RUNNING", "COMPLETED")

    wait_for(back, 60, lab.told, pause=0.5)


#: A checkpoint a step keeps a run of so many epochs going for some seconds, however fast the machine is.
LONG, OFTEN = 60, " --checkpoint-every 1"


def test_a_job_that_is_preempted_saves_and_goes_on(lab: Lab) -> None:
    job = submit(lab, program=options(lab, LONG, "preempted") + OFTEN)
    begun(lab, "preempted")
    lab.check("sbatch --partition=high --nodes=2 --exclusive --output=/dev/null --wrap='sleep 1'")
    queued_again(lab, job)
    state = lab.ended(job)
    said = output(lab, job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), said
    assert re.search(r"dtrain: stopped: by SIGTERM in epoch \d+ after iteration \d+, and saved", said)
    assert "exit code 75: the job is queued again" in said
    assert re.search(r"from +step [\d,]+, in epoch \d+", said)
    check_result(lab, "preempted", LONG)


def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(lab: Lab) -> None:
    job = submit(lab, "--launcher", "mpirun", program=options(lab, 1000, "cancelled"))
    begun(lab, "cancelled")
    lab.check(f"scancel {job}")
    state = lab.ended(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    wait_for(lambda: "and saved. Resume it with" in output(lab, job), 10, lab.told)
    assert "queued again" not in output(lab, job)


def test_a_node_cut_off_the_network_ends_the_job_which_goes_on(lab: Lab) -> None:
    patience = 5
    watch = f" --stall-warn 2 --stall-abort {patience}"
    job = submit(lab, program=options(lab, LONG, "cut") + OFTEN + watch)
    begun(lab, "cut")
    lab.check("ip link set ve2 down")
    at = time.monotonic()
    try:
        wait_for(lambda: "(DTRAIN_STALL_ABORT)" in output(lab, job), patience + 15, lab.told)
        seconds = time.monotonic() - at
    finally:
        lab.check("ip link set ve2 up")
    queued_again(lab, job)
    state = lab.ended(job)
    said = output(lab, job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), said
    assert re.search(r"the ranks on n1 have waited \d+ s in .* for n2\.", said), said
    assert seconds < patience + 10
    check_result(lab, "cut", LONG)
