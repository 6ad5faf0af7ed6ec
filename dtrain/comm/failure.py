"""Die together: whatever ends one rank ends the job on all of them, with one message that names the rank.

Without this an exception on one rank leaves the others in a collective for ever (chainermn met the same and
called its cure a global except hook; MPI itself promises nothing). A rank that can still speak does so here;
for one that was killed, is stopped or has left too early the monitor speaks (comm/monitor.py).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback

from dtrain.comm import monitor
from dtrain.comm.base import Communicator
from dtrain.errors import DtrainError, RanksLost, SavedAndStopped

#: Seconds that ranks other than 0 leave rank 0 to speak first when the same line fails on all of them.
GRACE = 0.3
#: Seconds that a message takes through mpirun to the terminal, at most; an abort must not overtake it.
FLUSH = 0.2


def report(error: BaseException, where: str = "", after: str = "") -> int:
    """Print one message for an error to stderr; returns the exit code that belongs to it.

    where: of which rank it is; after: what follows the message.
    """
    code, text = 1, ""
    if isinstance(error, DtrainError):
        code, text = error.exit_code, f"{error.word}{where}: {error}"
    elif isinstance(error, KeyboardInterrupt):
        code, text = 130, f"interrupted{where}"
    elif isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) and error.code else monitor.LOST
        text = f"error{where}: sys.exit({error.code!r}) was called before the end"
    else:
        print("".join(traceback.format_exception(error)), file=sys.stderr, end="")
        text = f"stopped{where} by {type(error).__name__} (above)"
    print(f"dtrain: {text}{after}", file=sys.stderr, flush=True)
    return code


def let_rank_0_speak() -> None:
    """Wait as long as rank 0 takes to say what ends all: a launcher may kill it once another rank ends."""
    time.sleep(GRACE + FLUSH)


def end(comm: Communicator, error: BaseException) -> int:
    """Report an error that ends this rank and make it end all others; returns the exit code.

    An agreed error is on every rank already: rank 0 speaks and each ends by itself. Any other may be on
    this rank alone: after a moment in which a lower rank with the same error would have ended this one,
    it speaks and aborts the job.
    """
    after = "" if isinstance(error, SavedAndStopped) else comm.board.how_to_resume(str(error))
    if comm.size == 1:
        return report(error, after=after)
    if getattr(error, "agreed", False):
        code = error.exit_code if isinstance(error, DtrainError) else 1
        return report(error, after=after) if comm.rank == 0 else code
    if comm.rank > 0 or isinstance(error, RanksLost):
        time.sleep(GRACE * (1 + comm.rank / comm.size))
    if isinstance(error, RanksLost) and comm.board.header[monitor.VERDICT]:
        return error.exit_code  # the monitor has said who, and ends all
    comm.board.state(monitor.SPOKEN)
    code = report(error, f" on {comm.describe()}, in {comm.board.place()}", after)
    sys.stdout.flush()
    time.sleep(FLUSH)
    comm.abort(code)
    return code


def install(comm: Communicator) -> None:
    """Make whatever ends this process end all ranks well, or none (a user's own script included).

    An error of dtrain's that ends a thread is one that the program does not know of: it ends all, too.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        sys.exit(end(comm, error))

    def thread_hook(ended: threading.ExceptHookArgs) -> None:
        if not isinstance(ended.exc_value, DtrainError):
            threading.__excepthook__(ended)
            return
        ended.exc_value.agreed = False  # ranks that have it, too, continue in their other threads
        end(comm, ended.exc_value)

    pid, leave = os.getpid(), os._exit

    def end_at_once(code: int) -> None:
        running = os.getpid() == pid and comm.board.row[monitor.STATE] == monitor.RUNNING
        if running and code == 0:
            # some launchers take it for the end of a job that went well: MPICH's, now and then
            if threading.current_thread() is threading.main_thread():
                comm.finish()  # as after the last line of the program: others may wait for this rank
            else:
                error = RanksLost("os._exit(0) was called in a thread, before the end of the program.")
                leave(end(comm, error))
        elif running and comm.size > 1 and not comm.elastic:
            # a launcher that sees the code may end all before the monitor has spoken
            comm.board.state(monitor.SPOKEN)
            text = f"error on {comm.describe()}, in {comm.board.place()}: os._exit({code}) was called"
            print(f"dtrain: {text}{comm.board.how_to_resume()}", file=sys.stderr, flush=True)
            time.sleep(FLUSH)
            comm.abort(code)
        leave(code)

    os._exit = end_at_once  # type: ignore[assignment]  # it never returns
    sys.excepthook, threading.excepthook = hook, thread_hook
    atexit.register(comm.finish)
