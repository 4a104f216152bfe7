"""Scales for an array in memory: scanned, and counted into histograms where a rule asks, by several threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np

from ..exceptions import RefusedValuesError
from ..numerics.blocks import block_of, blocks, each_block, processors
from ..numerics.granularity import Granularity
from ..numerics.grid import Region, index_at
from ..numerics.scales import Rule, Scales
from ..numerics.statistics import folded, from_row, no_rows
from .histogram import Histogram, bins_for, place_by_sample, sample_size
from .scan import first_refused, scan_rows
from .search import choose, unheeded
from .values import are_short, choose_by_values

GROUPS_AT_ONCE = 256  # groups: a thread holds the histograms of so many at once
VALUES_AT_ONCE = 1 << 17  # values of short groups: a thread holds so many at once, as rows


def calibrate(array: np.ndarray, rule: Rule, workers: int | None) -> Scales:
    """The scales of an array by a rule.

    Raises
    ------
    RefusedValuesError
        If there are values that the rule refuses.
    """
    rows = no_rows(rule.granularity.count(array.shape))
    if rule.looks:
        rows = scanned(array, rule.granularity, workers)
        check_statistics(array, rule, rows)
    if rule.method.needs == "histogram" and rule.granularity.single:
        found = choose(rule, rows, whole_histogram(array, rule.granularity, rows, workers))
        return Scales.of(*found, rule.granularity, array.shape)
    return scales_by_rows(array, rule, rows, workers=workers or processors())


def check_statistics(array: np.ndarray, rule: Rule, rows: np.ndarray) -> None:
    """Raise a RefusedValuesError if values with these statistics are refused, with the first of them."""
    statistics = from_row(folded(rows))
    if rule.refused(statistics):
        raise RefusedValuesError(rule.refusal(statistics, first_of(array, rule)))


def scanned(array: np.ndarray, granularity: Granularity, workers: int | None) -> np.ndarray:
    """The statistics of each group, as rows."""

    def work(region: Region) -> tuple[slice, np.ndarray]:
        block = block_of(array, region, granularity)
        return granularity.span(region, array.shape), scan_rows(block, granularity.lines(array[region].shape))

    together: dict[tuple[int, int], list[np.ndarray]] = {}
    for groups, rows in each_block(work, array.shape, workers):
        together.setdefault((groups.start, groups.stop), []).append(rows)
    total = no_rows(granularity.count(array.shape))
    for (start, stop), parts in together.items():
        total[start:stop] = folded(np.stack([total[start:stop], *parts]))
    return total


def whole_histogram(array: np.ndarray, granularity: Granularity, rows: np.ndarray, workers: int | None) -> Histogram:
    """The histogram of all values, where they share a scale; each thread counts into a histogram of its own."""
    unit, origin = place_by_sample(granularity.sample(array, sample_size(granularity)), rows)
    idle: SimpleQueue[Histogram] = SimpleQueue()
    made: list[Histogram] = []

    def work(region: Region) -> None:
        try:
            own = idle.get_nowait()
        except Empty:
            own = Histogram.about(bins_for(granularity, array.size), unit, origin)
            made.append(own)
        own.add(block_of(array, region))
        idle.put(own)

    each_block(work, array.shape, workers)
    total, *others = made
    for other in others:
        total.first[...] += other.counts
    total.leave_out(rows)
    return total


def scales_by_rows(
    values: np.ndarray,
    rule: Rule,
    rows: np.ndarray,
    missing: float | int | None = None,
    workers: int = 1,
    heed: Callable[[], None] = unheeded,
) -> Scales:
    """Scales of values whose statistics are known, by the histogram of each group if the rule asks for it.

    The least squared error of short groups is searched for in their values instead: whether a group is short, its
    length alone decides. One thread chooses for some groups at a time. `heed` is as of `choose`.
    """
    granularity = rule.granularity
    if rule.method.needs != "histogram":
        return Scales.of(*choose(rule, rows, None), granularity, values.shape)
    short = are_short(rule, values.shape)
    most = max(1, VALUES_AT_ONCE * len(rows) // values.size) if short else GROUPS_AT_ONCE
    parts = granularity.regions(values.shape, min(most, max(1, math.ceil(len(rows) / workers))))

    def work(number: int) -> tuple[np.ndarray, np.ndarray]:
        heed()
        region = parts.region(number)
        own = rows[granularity.span(region, values.shape)]
        if short:
            return choose_by_values(values[region], rule, own, missing)
        return choose(rule, own, histogram_each(values[region], granularity, own, missing), heed)

    if workers == 1:
        found = [work(number) for number in range(parts.count)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(work, range(parts.count)))
    scales, zero_points = zip(*found, strict=True)
    return Scales.of(np.concatenate(scales), np.concatenate(zero_points), granularity, values.shape)


def histogram_each(
    values: np.ndarray, granularity: Granularity, rows: np.ndarray, missing: float | int | None = None
) -> Histogram:
    """The histogram of each group; `rows` are their statistics."""
    place = place_by_sample(granularity.sample(values, sample_size(granularity)), rows, missing)
    histogram = Histogram.about(bins_for(granularity, values.size // len(rows)), *place)
    for region in blocks(values.shape):
        block, lines = block_of(values, region, granularity), granularity.lines(values[region].shape)
        histogram.part(granularity.span(region, values.shape)).add(block, lines, missing)
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
