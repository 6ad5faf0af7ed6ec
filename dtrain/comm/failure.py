"""Die together: an error on one rank ends the job on all of them, with one message that names the rank.

Without this an exception on one rank leaves the others in a collective for ever (chainermn met the same and
called its cure a global except hook; MPI itself promises nothing).
"""

from __future__ import annotations

import sys
import time
import traceback

from dtrain.comm.base import Communicator
from dtrain.errors import DtrainError

#: Seconds that ranks other than 0 leave rank 0 to speak first when the same line fails on all of them.
GRACE = 0.3
#: Seconds that a message takes through mpirun to the terminal, at most; an abort must not overtake it.
FLUSH = 0.2


def report(error: BaseException, where: str = "") -> int:
    """Print one message for an error to stderr; returns the exit code that belongs to it."""
    if isinstance(error, DtrainError):
        print(f"dtrain: {error.word}{where}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print(f"dtrain: interrupted{where}", file=sys.stderr, flush=True)
        return 130
    trace = "".join(traceback.format_exception(error))
    print(f"{trace}dtrain: stopped{where} by {type(error).__name__} (above)", file=sys.stderr, flush=True)
    return 1


def let_rank_0_speak() -> None:
    """Wait as long as rank 0 takes to say what ends all: a launcher may kill it once another rank ends."""
    time.sleep(GRACE + FLUSH)


def end(comm: Communicator, error: BaseException) -> int:
    """Report an error that ends this rank and make it end all others; returns the exit code.

    An agreed error is on every rank already: rank 0 speaks and each ends by itself. Any other may be on
    this rank alone: after a moment in which a lower rank with the same error would have ended this one,
    it speaks and aborts the job.
    """
    if comm.size == 1:
        return report(error)
    if getattr(error, "agreed", False):
        code = error.exit_code if isinstance(error, DtrainError) else 1
        return report(error) if comm.rank == 0 else code
    if comm.rank > 0:
        time.sleep(GRACE * (1 + comm.rank / comm.size))
    code = report(error, f" on {comm.describe()}")
    sys.stdout.flush()
    time.sleep(FLUSH)
    comm.abort(code)
    return code


def install(comm: Communicator) -> None:
    """Make an uncaught exception anywhere in this process end all ranks (a user's own script included)."""

    def hook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        sys.exit(end(comm, error))

    sys.excepthook = hook
