"""Arrays cut into blocks as the kernels take them, and the kernels run over all blocks on several threads."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import DTypeLike

from .. import kernels
from ..calibration.scan import scan
from ..kernels import Lines
from .grid import Region, index_at, packed_region
from .scales import Rule, no_rows

BLOCK_VALUES = 1 << 20  # values a thread takes at a time
VALUES_PER_THREAD = 1 << 20  # below this, starting a thread costs more than it gives

Result = TypeVar("Result")


def checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype in native byte order.

    Raises
    ------
    TypeError
        If it is not one of those that can be quantized.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native in kernels.FLOATS or native.kind in "iu":
        return native
    raise TypeError(f"dtype {np.dtype(dtype)} is not float16, bfloat16, float32, float64 or an integer type")


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


def in_lines(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """C-contiguous values as ``(rows, n)``: a view.

    Each row is of one index of `axis`, or where that is the last one each column. Rows of even length are joined as far
    as they may be: their packed bytes lie side by side.
    """
    n = values.shape[-1]
    if n % 2 or axis == values.ndim - 1:
        return values.reshape(-1, n)
    return values.reshape(1 if axis is None else math.prod(values.shape[: axis + 1]), -1)


def lines_of(shape: tuple[int, ...], axis: int | None) -> Lines:
    """Which index of an axis each line of a block belongs to, for values of this shape in lines."""
    if axis is None:
        return kernels.ONE
    if axis == len(shape) - 1:
        return Lines(shape[-1], columns=True)
    return Lines(shape[axis], repeat=math.prod(shape[axis + 1 : -1]) if shape[-1] % 2 else 1)


def checked_axis(axis: Any, ndim: int) -> int | None:
    """The axis, counted from 0.

    Raises
    ------
    AxisError (a ValueError and an IndexError)
        If there is no such axis.
    TypeError
        If it is no integer.
    """
    return None if axis is None else int(normalize_axis_index(operator.index(axis), ndim))


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


def scan_rows(block: np.ndarray, lines: Lines = kernels.ONE, missing: float | int | None = None) -> np.ndarray:
    """The statistics of each index of a block, as rows, shape ``(lines.indices, 8)``."""
    rows = no_rows(lines.indices)
    scan(block, rows, lines, missing)
    return rows


def sampled(values: np.ndarray, axis: int | None, most: int) -> np.ndarray:
    """Some values of each index of an axis, evenly spread, shape ``(indices, at most `most`)``."""
    lines = (values[None] if axis is None else np.moveaxis(values, axis, 0))[..., None]
    size = math.prod(lines.shape[1:])
    places = np.linspace(0, size - 1, min(most, size)).astype(np.intp)
    chosen: Any = np.unravel_index(places, lines.shape[1:])
    return np.asarray(lines[(slice(None), *chosen)])


def first_refused(block: np.ndarray, rule: Rule, missing: float | int | None = None) -> int:
    """Position in C order of the first value of a block that `rule` takes no code for; -1 if there is none."""
    refused = np.zeros(block.shape, bool)
    with np.errstate(invalid="ignore"):  # signalling NaN
        if rule.nan_code is None:
            refused |= np.isnan(block)
            if missing is not None:
                refused |= block == np.asarray(missing, block.dtype)
        if rule.value_range is None:
            refused |= np.isinf(block)
    return int(np.argmax(refused)) if refused.any() else -1


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the first True in C order, as plain integers."""
    return index_at(int(np.argmax(mask)), mask.shape)
