"""Sources that are stored in chunks, each of which is read whole."""

from __future__ import annotations

import bisect
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..numerics.grid import Batches, Grid, Region, Shape, shape_of, within
from ..store.buffers import Buffer
from .source import PIECE_BYTES, Source, bytes_of_runs

JOINED_BYTES = 1 << 23  # bytes: small chunks are read together up to this, as each call takes as long as some chunks
SIEVE_BYTES = 1 << 16  # bytes: what HDF5 reads at least of values that it stores in no chunks
KEPT_BYTES = 64 << 20  # bytes: of freed blocks below 32 MiB (its largest mmap threshold) glibc keeps at most twice that


class ChunkedSource(Source):
    """An array that is stored in chunks, each of which is read whole: Zarr and HDF5.

    Each thread keeps the chunk of which it read a part last, and all threads share what they keep: units that lie in
    one large chunk, and come one after another, decode it once.
    """

    masks = False
    arenas = 1  # of the allocator, in which freed cells are kept for each thread that reads: its own

    def __init__(
        self, label: str, array: Any, attributes: dict[str, Any], names: tuple[str | None, ...] | None
    ) -> None:
        super().__init__(label, array.shape, array.dtype, attributes, names)
        self.array = array
        self.chunks = chunks_of(array)
        self._let_go()

    def _let_go(self) -> None:
        self._buffer, self._shared = Buffer(), SharedChunks()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_buffer", "_shared")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._let_go()

    def digest(self) -> str | None:
        digest = super().digest()
        self._let_go()  # the driver's thread reads no more
        return digest

    def fetch(self, region: Region, out: np.ndarray) -> None:
        """Read a region into an array of its shape, in the stored byte order."""
        raise NotImplementedError

    def _fetch(self, region: Region, room: Callable[[int], np.ndarray]) -> np.ndarray:
        stored = np.dtype(self.array.dtype)
        shape = shape_of(region)
        out: np.ndarray = room(math.prod(shape) * stored.itemsize).view(stored).reshape(shape)
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
            return self._fetch(region, self._buffer.of)
        grid = Grid(self.shape, self.chunks)
        touched = [number for number, _ in islice(grid.touched(region), 2)]
        chunk = grid.region(touched[0])
        if len(touched) > 1 or region == chunk:
            self._shared.let_go()
            return self._fetch(region, self._buffer.of)
        self._buffer.let_go()
        whole = self._shared.of(touched[0], lambda: self._fetch(chunk, lambda size: np.empty(size, np.uint8)))
        return whole[within(region, chunk)]

    def bytes_read(self, units: Batches) -> int:
        """What the chunks hold that are decoded; for units in one chunk that follow one another it is decoded once."""
        if self.chunks is None or self.cells is None:
            return bytes_of_runs(units, self.dtype.itemsize, SIEVE_BYTES, SIEVE_BYTES)
        chunks = tuple(map(min, self.chunks, self.shape))
        lengths = zip(self.shape, chunks, units.grid.box, strict=True)
        crossing = {axis for axis, (n, chunk, box) in enumerate(lengths) if chunk < n and chunk % box}
        total, follow = self.dtype.itemsize, True
        for axis in reversed(units.axes):
            n, chunk = self.shape[axis], chunks[axis]
            kept = not crossing or (crossing == {axis} and chunk == self.cells.box[axis])  # the last chunk of a unit
            total *= n if follow and kept else read_along(lengths_along(n, chunk), units.grid.box[axis])
            follow = follow and chunk == n
        return total

    def memory(self, unit: Shape) -> int:
        """Encoded, decoded and copied out: three cells, and what is kept in each arena of those that were."""
        if self.chunks is None or self.cells is None:
            return 2 * PIECE_BYTES
        cell = max(math.prod(map(min, self.cells.box, unit)), math.prod(self.chunks)) * self.dtype.itemsize
        return 3 * cell + self.arenas * min(2 * cell, KEPT_BYTES)


class SharedChunk:
    """A chunk that some threads hold; the first of them reads it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: np.ndarray | None = None


class SharedChunks:
    """Chunks of which threads read parts. Each keeps the one that it had last, and finds there what others keep."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: WeakValueDictionary[int, SharedChunk] = WeakValueDictionary()
        self._own = threading.local()

    def of(self, number: int, fetch: Callable[[], np.ndarray]) -> np.ndarray:
        """The values of a chunk; `fetch` reads them, if no thread has them."""
        with self._lock:
            self._own.chunk = self._held.setdefault(number, SharedChunk())
        chunk: SharedChunk = self._own.chunk
        with chunk.lock:
            if chunk.values is None:
                chunk.values = fetch()
            return chunk.values

    def let_go(self) -> None:
        self._own.chunk = None


def lengths_along(n: int, chunk: int) -> np.ndarray:
    """The lengths of the chunks along an axis."""
    return np.minimum(chunk, n - np.arange(0, n, chunk))


def read_along(lengths: Any, box: int) -> int:
    """How many indices of an axis are read, in chunks of these lengths, if each box reads the chunks that it touches.

    >>> read_along([4, 4, 2], 4), read_along([4, 4, 2], 6), read_along([4, 4, 2], 1)
    (10, 14, 36)
    """
    lengths = np.asarray(lengths)
    ends = np.cumsum(lengths)
    return int(((-(-ends // box) - (ends - lengths) // box) * lengths).sum())


def chunks_of(array: Any) -> Shape | None:
    """The lengths of an array's chunks, or where they differ along an axis, the greatest; None where it has none."""
    try:
        chunks = array.chunks
    except NotImplementedError:  # how Zarr says that they differ
        chunks = map(max, array.read_chunk_sizes)
    return None if chunks is None else tuple(chunks)


def parts_along(starts: Sequence[int], region: Region) -> Iterator[tuple[int, Region, slice]]:
    """The pieces that a region touches: the number of each, which region of it, and where along the first axis that is.

    >>> list(parts_along([0, 4, 4, 9], (slice(3, 6), slice(0, 2))))
    [(0, (slice(3, 4, None), slice(0, 2, None)), slice(0, 1, None)), (2, (slice(0, 2, None), slice(0, 2, None)), \
slice(1, 3, None))]
    """
    first, *rest = region
    number, at = bisect.bisect_right(starts, first.start) - 1, first.start
    while at < first.stop:
        stop = min(first.stop, starts[number + 1])
        if stop > at:
            inside = slice(at - starts[number], stop - starts[number])
            yield number, (inside, *rest), slice(at - first.start, stop - first.start)
        number, at = number + 1, stop
