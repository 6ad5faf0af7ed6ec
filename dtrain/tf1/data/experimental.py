"""tf.data.experimental: what tf.contrib.data became."""

from __future__ import annotations

from dtrain.names import module_getattr
from dtrain.tf1.contrib.data import map_and_batch, parallel_interleave, shuffle_and_repeat, unbatch

__all__ = ["AUTOTUNE", "map_and_batch", "parallel_interleave", "shuffle_and_repeat", "unbatch"]

__getattr__ = module_getattr("tf.data.experimental")

#: As a number of calls or elements: as many as are best.
AUTOTUNE = -1
