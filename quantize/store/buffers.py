"""Memory that a thread uses again and again: fresh pages would cost it more than what it does with them."""

from __future__ import annotations

import threading

import numpy as np


class Buffer(threading.local):
    """Bytes of each thread's own, that live until it asks for them again."""

    data = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        """So many bytes, uint8; what they hold is what they held."""
        if len(self.data) < size:
            self.data = np.empty(0, np.uint8)  # not both at once
            self.data = np.empty(size, np.uint8)
        return self.data[:size]

    def let_go(self) -> None:
        self.data = np.empty(0, np.uint8)


PACKED = Buffer()  # the packed codes of a unit
STORED = Buffer()  # the stored form of a chunk
