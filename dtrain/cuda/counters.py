"""How often each random operation has drawn, counted on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Random operations of one session.
MOST = 1024


class Counters:
    """memory: int64 [MOST * 2] on the device: of each operation its count, and whether it draws in this step.

    names: the place of each operation, by its name.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.names: dict[str, int] = {}
        self.memory = backend.block(16 * MOST).view(np.int64)
        self.memory.fill(0)

    def of(self, name: str, begun: int) -> Any:
        """The two words of an operation; begun: its count where it has none yet."""
        if name not in self.names:
            assert len(self.names) < MOST, f"more than {MOST} random operations"
            at = self.names[name] = len(self.names)
            self._backend.use()
            self.memory[2 * at] = begun
        at = self.names[name]
        return self.memory[2 * at : 2 * at + 2]

    def set(self, counts: dict[str, int]) -> None:
        """Give the operations that are known these counts."""
        self._backend.use()
        for name, at in self.names.items():
            self.memory[2 * at] = counts.get(name, 0)

    def counts(self) -> dict[str, int]:
        """Of each operation, as it is now."""
        found = self._backend.to_host(self.memory)
        return {name: int(found[2 * at]) for name, at in self.names.items()}
