"""Scales for an array in memory: scanned, and counted into histograms where a rule asks, by several threads."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np

from ..exceptions import RefusedValuesError
from ..numerics.blocks import block_of, blocks, each_block, processors
from ..numerics.granularity import lines_of, sampled
from ..numerics.grid import Region, index_at
from ..numerics.scales import Rule
from ..numerics.statistics import folded, from_row, no_rows
from .histogram import FINE, SAMPLE, SAMPLE_EACH, Histogram, coarse, place_by_sample
from .scan import first_refused, scan_rows
from .search import choose

GROUP = 256  # indices of an axis: a thread holds the histograms of so many at once


def scales_of(array: np.ndarray, rule: Rule, workers: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A scale and a zero point for each index of the rule's axis, or one for all: float64 and int64, 1-D.

    Raises
    ------
    RefusedValuesError
        If there are values that the rule refuses.
    """
    count = 1 if rule.axis is None else array.shape[rule.axis]
    rows = no_rows(count)
    if rule.value_range is None or rule.nan_code is None:
        rows = scanned(array, rule.axis, workers)
        statistics = from_row(folded(rows))
        if rule.refused(statistics):
            raise RefusedValuesError(rule.refusal(statistics, first_of(array, rule)))
    if rule.histogrammed and rule.axis is None:
        return choose(rule, rows, whole_histogram(array, rows, workers))
    return scales_by_rows(array, rule, rows, workers=workers or processors())


def scanned(array: np.ndarray, axis: int | None, workers: int | None) -> np.ndarray:
    """The statistics of each index of an axis, or of all values, as rows."""

    def work(region: Region) -> tuple[slice, np.ndarray]:
        block = block_of(array, region, axis)
        indices = slice(0, 1) if axis is None else region[axis]
        return indices, scan_rows(block, lines_of(array[region].shape, axis))

    found = each_block(work, array.shape, workers)
    if axis is None:
        return folded(np.stack([rows for _, rows in found]))
    total = no_rows(array.shape[axis])
    for indices, rows in found:
        total[indices] = folded(np.stack([total[indices], rows]))
    return total


def whole_histogram(array: np.ndarray, rows: np.ndarray, workers: int | None) -> Histogram:
    """The histogram of all values; each thread counts into a histogram of its own."""
    unit, origin = place_by_sample(sampled(array, None, SAMPLE), rows)
    idle: SimpleQueue[Histogram] = SimpleQueue()
    made: list[Histogram] = []

    def work(region: Region) -> None:
        try:
            own = idle.get_nowait()
        except Empty:
            own = Histogram.about(FINE, unit, origin)
            made.append(own)
        own.add(block_of(array, region))
        idle.put(own)

    each_block(work, array.shape, workers)
    first, *others = made
    for other in others:
        first.counts[...] += other.counts
    first.leave_out(rows)
    return first


def scales_by_rows(
    values: np.ndarray, rule: Rule, rows: np.ndarray, missing: float | int | None = None, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Scales of values whose statistics are known, by the histogram of each index of an axis if the rule asks for it.

    The indices are cut into groups; one thread counts and chooses for one group at a time.
    """
    axis = rule.axis
    if axis is None or not rule.histogrammed:
        return choose(rule, rows, None)
    size = min(GROUP, max(1, math.ceil(len(rows) / workers)))

    def work(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(start, start + size)
        own = values[(*[slice(None)] * axis, part)]
        return choose(rule, rows[part], histogram_each(own, axis, rows[part], missing))

    starts = range(0, len(rows), size)
    if workers == 1:
        found = [work(start) for start in starts]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(work, starts))
    scales, zero_points = zip(*found, strict=True)
    return np.concatenate(scales), np.concatenate(zero_points)


def histogram_each(values: np.ndarray, axis: int, rows: np.ndarray, missing: float | int | None = None) -> Histogram:
    """The histogram of each index of an axis; `rows` are their statistics."""
    histogram = Histogram.about(
        coarse(values.size // len(rows)), *place_by_sample(sampled(values, axis, SAMPLE_EACH), rows, missing)
    )
    for region in blocks(values.shape):
        block = block_of(values, region, axis)
        histogram.part(region[axis]).add(block, lines_of(values[region].shape, axis), missing)
    histogram.leave_out(rows)
    return histogram


def first_of(array: np.ndarray, rule: Rule) -> tuple[int, ...]:
    """Index of the first value of an array that a rule refuses."""
    for region in blocks(array.shape):
        position = first_refused(array[region], rule)
        if position >= 0:
            inside = index_at(position, array[region].shape)
            return tuple(i + part.start for i, part in zip(inside, region, strict=True))
    raise AssertionError("no value is refused")
