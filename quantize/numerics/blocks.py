"""Arrays cut into blocks as the kernels take them, and the kernels run over all blocks on several threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from .granularity import in_lines
from .grid import Region, index_at, packed_region

BLOCK_VALUES = 1 << 20  # values a thread takes at a time
VALUES_PER_THREAD = 1 << 20  # below this, starting a thread costs more than it gives

Result = TypeVar("Result")


def blocks(shape: tuple[int, ...], most: int = BLOCK_VALUES) -> Iterator[Region]:
    """Regions of about `most` values that cover an array of this shape once, in C order.

    A cut of the last axis lies at an even index, so that no byte of packed codes belongs to two blocks.

    >>> list(blocks((2, 3), most=4))
    [(slice(0, 1, None), slice(0, 3, None)), (slice(1, 2, None), slice(0, 3, None))]
    """
    if 0 in shape:
        return
    if math.prod(shape) <= most:
        yield tuple(slice(0, n) for n in shape)
        return
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= most:
        inner *= shape[axis]
        axis -= 1
    length = max(1, most // inner)
    if axis == len(shape) - 1:
        length += length % 2
    whole = tuple(slice(0, n) for n in shape[axis + 1 :])
    for index in np.ndindex(shape[:axis]):
        outer = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[axis], length):
            yield (*outer, slice(start, min(start + length, shape[axis])), *whole)


def block_of(array: np.ndarray, region: Region, axis: int | None = None) -> np.ndarray:
    """A region as the kernels take it: ``(rows, n)``, C-contiguous, native byte order; a copy only where it must be."""
    return in_lines(np.ascontiguousarray(array[region], array.dtype.newbyteorder("=")), axis)


def packed_block_of(packed: np.ndarray, region: Region, rows: int) -> np.ndarray:
    """The bytes that hold a region's codes, in as many rows as its block: a view of `packed`, which is C-contiguous."""
    part = packed[packed_region(region)]
    return part.reshape(rows, -1).view(np.uint8)


def each_block(work: Callable[[Region], Result], shape: tuple[int, ...], workers: int | None) -> list[Result]:
    """The results of `work` for every block in order, on several threads where that pays."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1")
    useful = max(1, math.prod(shape) // VALUES_PER_THREAD)
    threads = min(useful, workers or processors())
    if threads == 1:
        return [work(region) for region in blocks(shape)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks(shape)))


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the first True in C order, as plain integers."""
    return index_at(int(np.argmax(mask)), mask.shape)
