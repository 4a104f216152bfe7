"""Sources that are stored in chunks, each of which is read whole."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from ..numerics.grid import Grid, Region, Shape, shape_of, within
from ..store.buffers import Buffer
from .source import PIECE_BYTES, Source

JOINED_BYTES = 1 << 23  # bytes: small chunks are read together up to this, as each call takes as long as some chunks
KEPT_BYTES = 64 << 20  # bytes: of freed blocks below 32 MiB (its largest mmap threshold) glibc keeps at most twice that


class ChunkedSource(Source):
    """An array that is stored in chunks, each of which is read whole: Zarr and HDF5.

    Each thread keeps the chunk that it read last: regions that lie in one large chunk then decode it once.
    """

    masks = False

    def __init__(
        self, label: str, array: Any, attributes: dict[str, Any], names: tuple[str | None, ...] | None
    ) -> None:
        super().__init__(label, array.shape, array.dtype, attributes, names)
        self.array = array
        self.chunks = chunks_of(array)
        self._buffer = Buffer()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_buffer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._buffer = Buffer()

    def digest(self) -> str | None:
        digest = super().digest()
        self._buffer = Buffer()  # the driver's thread reads no more
        return digest

    def fetch(self, region: Region, out: np.ndarray) -> None:
        """Read a region into an array of its shape, in the stored byte order."""
        raise NotImplementedError

    def _fetch(self, region: Region) -> np.ndarray:
        stored = np.dtype(self.array.dtype)
        shape = shape_of(region)
        out: np.ndarray = self._buffer.of(math.prod(shape) * stored.itemsize).view(stored).reshape(shape)
        self.fetch(region, out)
        return out

    @functools.cached_property
    def cells(self) -> Grid | None:
        """What is read at once: chunks, small ones joined, with cuts of the last axis at even indices."""
        if self.chunks is None:
            return None
        cell = list(self.chunks)
        if cell[-1] % 2 and cell[-1] < self.shape[-1]:
            cell[-1] *= 2
        for axis in reversed(range(len(cell))):
            size = math.prod(cell) * self.dtype.itemsize
            if size < JOINED_BYTES:
                whole = -(-self.shape[axis] // cell[axis]) * cell[axis]
                cell[axis] = min(cell[axis] * (JOINED_BYTES // size), whole)
        return Grid(self.shape, tuple(cell))

    def pieces(self, region: Region) -> Iterator[Region]:
        if self.cells is None:
            yield from super().pieces(region)
        else:
            for _, piece in self.cells.touched(region):
                yield piece

    def load(self, region: Region) -> np.ndarray:
        if self.chunks is None:
            return self._fetch(region)
        grid = Grid(self.shape, self.chunks)
        touched = [number for number, _ in islice(grid.touched(region), 2)]
        if len(touched) > 1:
            return self._fetch(region)
        (number,) = touched
        chunk = grid.region(number)
        if self._buffer.tag == number:
            shape = shape_of(chunk)
            held = self._buffer.data[: math.prod(shape) * self.dtype.itemsize]
            whole: np.ndarray = held.view(self.array.dtype).reshape(shape)
        else:
            whole = self._fetch(chunk)
            self._buffer.tag = number
        return whole[within(region, chunk)]

    def memory(self, unit: Shape) -> int:
        """Encoded, decoded and copied out: three cells, and what the allocator keeps of those that were."""
        if self.chunks is None or self.cells is None:
            return 2 * PIECE_BYTES
        cell = max(math.prod(map(min, self.cells.box, unit)), math.prod(self.chunks)) * self.dtype.itemsize
        return 3 * cell + min(2 * cell, KEPT_BYTES)


def chunks_of(array: Any) -> Shape | None:
    """The lengths of an array's chunks, or where they differ along an axis, the greatest; None where it has none."""
    try:
        chunks = array.chunks
    except NotImplementedError:  # how Zarr says that they differ
        chunks = map(max, array.read_chunk_sizes)
    return None if chunks is None else tuple(chunks)
