"""Every error that dtrain raises on purpose, and the exit code that each ends a run with.

A message says what is wrong, where, why, and what to type next. Bugs raise AssertionError or whatever
Python raises; they are not listed here.
"""

from __future__ import annotations

from typing import TypeVar

_E = TypeVar("_E", bound="DtrainError")

#: What `dtrain` ends with, on every rank. A rank that a signal kills is ended by its launcher, which has
#: codes of its own for that.
EXIT_CODES = {
    0: "all is well",
    1: "an exception that is not dtrain's, such as one of the program itself",
    2: "usage: an invalid option, argument, graph or feed",
    3: "environment: the machine, MPI, the device or the ranks' software is not what is needed",
    4: "data: a file is missing or damaged, or the ranks read different data",
    5: "checkpoint: it cannot be written or read, or is another model's",
    6: "numeric: a NaN or an infinity in the loss or a gradient",
    7: "rank lost: one was killed, or ended before the others",
    8: "stalled: a rank stood still for longer than --stall-abort",
    9: "checks failed: `dtrain doctor` found what training would fail on",
    10: "diverged: the ranks' copies of a parameter are not the same",
    75: "stopped by a signal, and saved; the same command resumes",
    130: "interrupted from the keyboard",
}


class DtrainError(Exception):
    """Base of all errors that a user can cause.

    exit_code: what the process (and under MPI the job) ends with.
    agreed: set once every rank holds this same error, so that one rank speaks for all.
    word: what a message begins with.
    """

    exit_code = 1
    agreed = False
    word = "error"

    @property
    def message(self) -> str:
        """The text, as TensorFlow 1's errors have it."""
        return str(self)

    def on_every_rank(self: _E) -> _E:
        """This error, which every rank raises: one of them reports it for all."""
        self.agreed = True
        return self


class UsageError(DtrainError, ValueError):
    """An invalid option, argument or call."""

    exit_code = 2


class EnvironmentProblem(DtrainError, RuntimeError):
    """The machine, MPI or device is not what was asked for."""

    exit_code = 3


class DataError(DtrainError, ValueError):
    """A data file is missing, damaged or not what it should be."""

    exit_code = 4


class CheckpointError(DtrainError, ValueError):
    """Saved parameters cannot be read or do not fit the model."""

    exit_code = 5


class DamagedError(CheckpointError):
    """A file of a checkpoint is not what was written."""


class NumericError(DtrainError, ArithmeticError):
    """A NaN or an infinity in the loss or a gradient; nothing was updated."""

    exit_code = 6


class ReplicaError(DtrainError, RuntimeError):
    """The ranks' copies of a variable are not the same any more."""

    exit_code = 10


class SavedAndStopped(DtrainError):
    """The run was asked to stop, and is saved: the same command resumes it (75 is BSD's EX_TEMPFAIL)."""

    exit_code = 75
    word = "stopped"


class ChecksFailed(DtrainError, RuntimeError):
    """`dtrain doctor` found what training would fail on."""

    exit_code = 9


class RanksLost(DtrainError, RuntimeError):
    """Ranks have died: what an elastic communicator raises on all others, or too few are left to continue."""

    exit_code = 7


class GraphError(DtrainError, ValueError):
    """A line of graph-building code whose shapes, dtypes or names do not fit."""

    exit_code = 2


class InvalidArgumentError(DtrainError, ValueError):
    """A value given to Session.run does not fit: not fed, or of the wrong shape or dtype."""

    exit_code = 2


class FailedPreconditionError(DtrainError, RuntimeError):
    """The session is not ready for what was asked, such as reading a variable without a value."""

    exit_code = 2


class OutOfRangeError(DtrainError, RuntimeError):
    """A data set or a queue has no more elements."""

    exit_code = 2


class NotSupportedError(DtrainError, AttributeError):
    """A name of TensorFlow 1 that dtrain does not have."""

    exit_code = 2


#: TensorFlow's base of all errors.
OpError = DtrainError


class NotFoundError(CheckpointError):
    """A checkpoint has no variable of this name."""


class AbortedError(DtrainError, RuntimeError):
    """Of TensorFlow's servers: for `except`, nothing here raises it. Neither are those below raised."""


class AlreadyExistsError(DtrainError, RuntimeError): ...


class CancelledError(DtrainError, RuntimeError): ...


class DataLossError(DtrainError, RuntimeError): ...


class DeadlineExceededError(DtrainError, RuntimeError): ...


class InternalError(DtrainError, RuntimeError): ...


class PermissionDeniedError(DtrainError, RuntimeError): ...


class ResourceExhaustedError(DtrainError, RuntimeError): ...


class UnavailableError(DtrainError, RuntimeError): ...


class UnimplementedError(DtrainError, RuntimeError): ...


class UnknownError(DtrainError, RuntimeError): ...


class RemoteError(DtrainError, RuntimeError):
    """Another rank failed with an error of a class that this rank does not know."""
