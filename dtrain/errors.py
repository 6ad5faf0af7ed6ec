"""Every error that dtrain raises on purpose, and the exit code that each ends a run with.

A message says what is wrong, where, why, and what to type next. Bugs raise AssertionError or whatever
Python raises; they are not listed here.
"""

from __future__ import annotations


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


class UsageError(DtrainError, ValueError):
    """An option, argument or call that cannot be meant."""

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


class SavedAndStopped(DtrainError):
    """The run was asked to stop, and is saved: the same command goes on (75 is BSD's EX_TEMPFAIL)."""

    exit_code = 75
    word = "stopped"


class GraphError(DtrainError, ValueError):
    """A line of graph-building code whose shapes, dtypes or names do not fit."""

    exit_code = 2


class InvalidArgumentError(DtrainError, ValueError):
    """A value given to Session.run does not fit: not fed, or of the wrong shape or dtype."""

    exit_code = 2


class FailedPreconditionError(DtrainError, RuntimeError):
    """The session is not ready for what was asked, such as reading a variable without a value."""

    exit_code = 2


class NotSupportedError(DtrainError, AttributeError):
    """A name of TensorFlow 1 that dtrain does not have."""

    exit_code = 2


class RemoteError(DtrainError, RuntimeError):
    """Another rank failed with an error of a class that this rank does not know."""
