"""NumPy's and Python's global random numbers begin the same on all ranks of a job that did not seed NumPy's.

A program of one process that shuffles or draws noise by `np.random` need not seed it. On several ranks each
would draw numbers of its own, and what is fed would differ. So they are seeded when dtrain is imported, by
what the ranks know the job by: without a message, since a program may draw before the ranks meet. Where they
know nothing of the kind rank 0 gives the seed when they meet.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from typing import TYPE_CHECKING

import numpy as np

from dtrain.comm import launcher

if TYPE_CHECKING:
    from dtrain.comm.base import Communicator

#: What the ranks know the job by, if that is how they were seeded; and what the generators were then.
_job, _begun = "", ""


def begin() -> None:
    """Seed both at the import of dtrain, in one of several ranks, unless the program has seeded NumPy's."""
    global _job, _begun
    if launcher.size() == 1:
        return
    generator = np.random.mtrand._rand._bit_generator
    if getattr(generator, "seed_seq", None) is None:  # a seed of the program's has taken its place
        return
    _job = launcher.job()
    if _job:
        _seed(_job)
    _begun = _state()


def meet(comm: Communicator) -> None:
    """Seed both as rank 0 says, unless ranks began with the same or one has used them since. Collective."""
    jobs = comm.gather_text(_job)
    if jobs[0] and len(set(jobs)) == 1:
        return
    untouched = np.array([bool(_begun) and _begun == _state()], np.int8)
    seed = comm.broadcast_text(os.urandom(16).hex())
    if comm.allreduce(untouched, "min")[0]:
        _seed(seed)


def _seed(text: str) -> None:
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    np.random.seed(words)
    random.seed(text)


def _state() -> str:
    state = np.random.get_state(), random.getstate()
    return hashlib.sha256(pickle.dumps(state)).hexdigest()
