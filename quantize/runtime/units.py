"""One unit, a whole output chunk or shard: its values read, scanned and packed. Knows no store."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..io.source import PIECE_BYTES
from ..numerics.blocks import blocks
from ..numerics.grid import Region, shifted

CACHED = PIECE_BYTES  # bytes of values that are scanned and packed while they are in a processor's cache


class StoppedError(Exception):
    """Raised in the tasks of a run that was told to stop."""


class Shelf:
    """What lives in the driver's process only: units that pass 1 read and pass 2 will want, and the sign to stop."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.units: dict[int, np.ndarray] = {}
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self.units

    def __reduce__(self) -> Any:
        return Shelf, ()

    def reserve(self, shape: Any, dtype: np.dtype[Any]) -> np.ndarray | None:
        """An array to keep a unit in, if there is room for it."""
        size = math.prod(shape) * dtype.itemsize
        with self.lock:
            if size > self.room:
                return None
            self.room -= size
        return np.empty(shape, dtype)

    def put(self, number: int, values: np.ndarray) -> None:
        self.units[number] = values

    def take(self, number: int) -> np.ndarray | None:
        return self.units.pop(number, None)


def cached_blocks(piece: Region, values: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
    """The values of a piece in parts that a processor's cache holds, C-contiguous, each with its region."""
    if values.nbytes <= CACHED:
        yield piece, np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        return
    for part in blocks(values.shape, CACHED // values.itemsize):
        yield shifted(part, piece), np.ascontiguousarray(values[part], values.dtype.newbyteorder("="))
