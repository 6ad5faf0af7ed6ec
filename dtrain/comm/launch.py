"""`dt.launch`: a function on several ranks, from a notebook or a script of one process.

    def work():
        model = build(); model.fit(x, y, epochs=5)
        return model.get_weights()

    weights = dt.launch(4, work)

The ranks are processes of their own, under an mpirun that this starts. The function goes to them pickled, by
value where it is a notebook's or a script's own (cloudpickle), as is rank 0's result on its way back.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dtrain.comm import failure, launcher, start, world
from dtrain.comm.threads import usable_cores
from dtrain.errors import DtrainError, EnvironmentProblem, RemoteError, UsageError
from dtrain.hints import pip_install

#: Seconds that ranks have to end by themselves when this process is interrupted.
GRACE = 10.0


def launch(ranks: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What function(*args, **kwargs) returns on rank 0 of so many ranks, which all call it.

    ranks: how many processes of this machine; they share its cores. What they print is printed here.
    function, args: what pickle takes. Here cloudpickle also takes lambdas and a notebook's own functions,
        with the values that they refer to; the ranks begin with nothing else of this process.

    Raises:
        UsageError: the number is none, this process is a rank already, or the function cannot be sent.
        EnvironmentProblem: there is no mpirun.
        RemoteError: the ranks ended with an error, which was printed.
    """
    if not isinstance(ranks, int) or ranks < 1:
        raise UsageError(f"launch({ranks!r}, ...): give the number of ranks, 1 or more.")
    if launcher.size() > 1:
        raise UsageError("launch: this process is a rank already: call the function itself.")
    mpirun = start.mpirun("dt.launch")
    with tempfile.TemporaryDirectory(prefix="dtrain-launch-") as folder:
        work, result = Path(folder, "work"), Path(folder, "result")
        work.write_bytes(_pickled(function, args, kwargs))
        env = start.environment(max(1, len(usable_cores()) // ranks))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [mpirun, "-n", str(ranks), sys.executable, "-m", "dtrain.comm.launch", folder]
        code = _run(command, env)
        if code or not result.exists():
            raise RemoteError(
                f"launch: the {ranks} ranks ended with exit code {code}; what they said is above."
            )
        (value,) = pickle.loads(result.read_bytes())  # what rank 0 wrote, into a folder of this user's alone
        return value


def _pickled(*what: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        try:
            if getattr(what[0], "__module__", "") == "__main__":
                raise pickle.PicklingError
            return pickle.dumps(what)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise EnvironmentProblem(
                "launch: a function of a notebook or script is sent by cloudpickle: "
                f"{pip_install('dtrain[notebook]')}, or import the function from a file."
            ) from None
    try:
        return bytes(cloudpickle.dumps(what))
    except (pickle.PicklingError, TypeError, ValueError) as error:
        raise UsageError(
            f"launch: {error}. Let the function make what it needs, such as sessions and models, itself."
        ) from None


def _run(command: list[str], env: dict[str, str]) -> int:
    """The exit code of a command; what it prints is printed here, also where that is a notebook's cell."""
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C is for this process, which passes it on once
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()
    except BaseException:
        process.terminate()  # which mpirun passes on, and a run that is recorded takes for a request to save
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        process.stdout.close()


def main(folder: str) -> None:
    """What each rank does."""
    try:
        comm = world()
    except DtrainError as error:  # before the ranks have met all fail: the first speaks for them
        if launcher.rank() == 0:
            sys.exit(failure.report(error))
        failure.let_rank_0_speak()
        sys.exit(error.exit_code)
    function, args, kwargs = pickle.loads(Path(folder, "work").read_bytes())
    value = function(*args, **kwargs)
    if comm.rank == 0:
        part = Path(folder, "part")
        part.write_bytes(_pickled(value))
        part.rename(Path(folder, "result"))


if __name__ == "__main__":
    main(sys.argv[1])
