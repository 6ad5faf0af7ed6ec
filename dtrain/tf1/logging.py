"""tf.logging: messages on stderr, `INFO:tensorflow:...`, of rank 0 alone.

Shown are those of the level that set_verbosity gives and above, at first WARN.
"""

from __future__ import annotations

import logging
from typing import Any

from dtrain.comm import launcher
from dtrain.names import module_getattr

__all__ = [
    "DEBUG",
    "ERROR",
    "FATAL",
    "INFO",
    "WARN",
    "debug",
    "error",
    "fatal",
    "flush",
    "get_verbosity",
    "info",
    "log",
    "log_every_n",
    "log_first_n",
    "log_if",
    "set_verbosity",
    "vlog",
    "warn",
    "warning",
]

__getattr__ = module_getattr("tf.logging")

DEBUG, INFO, WARN, ERROR, FATAL = 10, 20, 30, 40, 50

_logger = logging.getLogger("tensorflow")
_logger.setLevel(WARN)
if not _logger.handlers and not logging.getLogger().handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    _logger.addHandler(_handler)
    _logger.propagate = False
if launcher.rank() != 0:
    _logger.addFilter(lambda record: False)
_counts: dict[Any, int] = {}


def set_verbosity(v: int | str) -> None:
    """Show messages of this level and above."""
    _logger.setLevel(v)


def get_verbosity() -> int:
    """The level from which on messages are shown."""
    return _logger.getEffectiveLevel()


def log(level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of a level: msg % args."""
    _logger.log(level, msg, *args, **kwargs)


def debug(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level DEBUG."""
    _logger.debug(msg, *args, **kwargs)


def info(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level INFO."""
    _logger.info(msg, *args, **kwargs)


def warning(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level WARN."""
    _logger.warning(msg, *args, **kwargs)


def warn(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level WARN."""
    _logger.warning(msg, *args, **kwargs)


def error(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level ERROR."""
    _logger.error(msg, *args, **kwargs)


def fatal(msg: Any, *args: Any, **kwargs: Any) -> None:
    """A message of level FATAL; it ends nothing."""
    _logger.critical(msg, *args, **kwargs)


def vlog(level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
    """log, by its other name."""
    _logger.log(level, msg, *args, **kwargs)


def log_if(level: int, msg: Any, condition: Any, *args: Any) -> None:
    """log where the condition is true."""
    if condition:
        log(level, msg, *args)


def log_first_n(level: int, msg: Any, n: int, *args: Any) -> None:
    """log the first n times that this message comes."""
    log_if(level, msg, _count(msg) < n, *args)


def log_every_n(level: int, msg: Any, n: int, *args: Any) -> None:
    """log the first time that this message comes, and every n-th after."""
    log_if(level, msg, _count(msg) % n == 0, *args)


def flush() -> None:
    """Return when all is written."""
    for handler in _logger.handlers:
        handler.flush()


def _count(msg: Any) -> int:
    _counts[msg] = _counts.get(msg, -1) + 1
    return _counts[msg]
