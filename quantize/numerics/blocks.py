"""Arrays cut into blocks as the kernels take them, and the kernels run over all blocks on several threads."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from .granularity import PER_TENSOR, Granularity
from .grid import Region, Shape, index_at, packed_region

BLOCK_VALUES = 1 << 20  # values a thread takes at a time
VALUES_PER_THREAD = 1 << 20  # below this, starting a thread costs more than it gives

Result = TypeVar("Result")


def blocks(shape: Shape, most: int = BLOCK_VALUES, cuts: Shape | None = None) -> Iterator[Region]:
    """Regions of about `most` values that cover an array of this shape once, in C order.

    Along each axis they are cut at multiples of its entry in `cuts`: by default the last axis at even indices, so that
    no byte of packed codes belongs to two blocks, and the others anywhere.

    >>> list(blocks((2, 3), most=4))
    [(slice(0, 1, None), slice(0, 3, None)), (slice(1, 2, None), slice(0, 3, None))]
    """
    if 0 in shape:
        return
    if math.prod(shape) <= most:
        yield tuple(slice(0, n) for n in shape)
        return
    cuts = cuts or (*(1,) * (len(shape) - 1), 2)
    axis, inner = len(shape) - 1, math.prod(cuts[:-1])
    while axis > 0 and inner * shape[axis] <= most:
        inner = inner // cuts[axis - 1] * shape[axis]
        axis -= 1
    length = max(1, most // inner)
    length += -length % cuts[axis]
    lengths = (*cuts[:axis], length, *shape[axis + 1 :])
    for corner in itertools.product(*(range(0, n, step) for n, step in zip(shape, lengths, strict=True))):
        yield tuple(slice(at, min(at + step, n)) for at, step, n in zip(corner, lengths, shape, strict=True))


def block_of(array: np.ndarray, region: Region, granularity: Granularity = PER_TENSOR) -> np.ndarray:
    """A region as the loops take it: ``(rows, n)``, C-contiguous, native byte order; a copy only where it must be."""
    return granularity.in_lines(np.ascontiguousarray(array[region], array.dtype.newbyteorder("=")))


def packed_block_of(packed: np.ndarray, region: Region, rows: int) -> np.ndarray:
    """The bytes that hold a region's codes, in as many rows as its block: a view of `packed`, which is C-contiguous."""
    part = packed[packed_region(region)]
    return part.reshape(rows, -1).view(np.uint8)


def each_block(
    work: Callable[[Region], Result],
    shape: tuple[int, ...],
    workers: int | None,
    most: int = BLOCK_VALUES,
    cuts: Shape | None = None,
) -> list[Result]:
    """The results of `work` for every block in order, on several threads where that pays; cut as by `blocks`."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1")
    useful = max(1, math.prod(shape) // VALUES_PER_THREAD)
    threads = min(useful, workers or processors())
    if threads == 1:
        return [work(region) for region in blocks(shape, most, cuts)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks(shape, most, cuts)))


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the first True in C order, as plain integers."""
    return index_at(int(np.argmax(mask)), mask.shape)
