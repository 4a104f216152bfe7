"""Memory that a thread uses again and again: fresh pages would cost it more than what it does with them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class Buffer(threading.local):
    """Bytes of each thread's own, that live until it asks for them again."""

    data = np.empty(0, np.uint8)
    tag: Any = None  # what is in it, for whoever put it there

    def of(self, size: int) -> np.ndarray:
        """So many bytes, uint8; what they hold is what they held."""
        self.tag = None
        if len(self.data) < size:
            self.data = np.empty(0, np.uint8)  # not both at once
            self.data = np.empty(size, np.uint8)
        return self.data[:size]


PACKED = Buffer()  # the packed codes of a unit
STORED = Buffer()  # the stored form of a chunk
