"""Memory that was never written, found on purpose.

With DTRAIN_POISON=1 all memory that a step has to write before it reads it holds NaN (as integers -1) before
each call: arenas with the padding between arrays, buckets, scratch, shared memory. A kernel that reads what
no kernel wrote then gives NaN, or an index out of range, instead of what happened to lie there.
"""

from __future__ import annotations

import os
from typing import Any

ON = os.environ.get("DTRAIN_POISON", "0") not in ("", "0")

#: Each byte: of floats a NaN, of integers -1.
BYTE = 0xFF


def poison(block: Any) -> Any:
    """Fill a flat array of bytes, on its device, where that is asked for; returns it."""
    if ON:
        block.fill(BYTE)
    return block
