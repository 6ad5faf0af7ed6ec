"""tf.device and its like: a session is on one device, which the program that starts it chooses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dtrain.comm import launcher

__all__ = ["colocate_with", "container", "device"]

_told = False


@contextmanager
def device(device_name_or_function: Any) -> Iterator[None]:
    """What is built inside runs where all of the session does: names and functions change nothing.

    The first name of a GPU is in a warning, once, since a session is on the CPU unless it is made with
    device='gpu'.
    """
    global _told
    name = device_name_or_function if isinstance(device_name_or_function, str) else ""
    if "gpu" in name.lower() and not _told and launcher.rank() == 0:
        _told = True
        warnings.warn(
            f"tf.device({name!r}) changes nothing: a session is on one device, the CPU unless it is made by "
            "tf.Session(device='gpu').",
            stacklevel=3,
        )
    yield


@contextmanager
def colocate_with(op: Any, ignore_existing: bool = False) -> Iterator[None]:
    """What is built inside runs where op does: all of a session is on one device."""
    yield


@contextmanager
def container(container_name: str) -> Iterator[None]:
    """What is built inside keeps its state with the session, as all does."""
    yield
