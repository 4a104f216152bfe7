"""How values are distributed, gathered in one read without knowing their range, and the ranges chosen by it.

Bins lie about an origin near the middle of the data: of one width next to it, and from there on as fine as a part of
their distance from it, as floats are. They are the leading bits of the float ``1 + abs(y)``, rounded, with ``y = x /
unit + origin``: ``1 << bits`` bins of equal width for ``abs(y) < 1``, and as many for each octave beyond. So a bin is
narrow where the values are many, however far from zero they lie, and no outlier is out of reach. `unit` is a power of
two: edges are exact, and whole numbers lie in the middle of their bins, as long as those are narrow.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from ..kernels import ONE, Lines, affine, affines, as_number, at, compiled, kind, loaded, to_read, widened
from ..numerics.scales import HIGHEST, SMALLEST_NORMAL, Rule, Statistics, bounds


class Bins(NamedTuple):
    """How fine a histogram is: ``1 << bits`` bins an octave, on either side of the origin, over so many octaves."""

    bits: int
    octaves: int
    dtype: Any

    @property
    def number(self) -> int:
        return 2 * (self.octaves << self.bits)

    @property
    def nbytes(self) -> int:
        """Of one histogram."""
        return self.number * int(np.dtype(self.dtype).itemsize)


FINE = Bins(8, 127, np.int64)  # of all values
COARSE = Bins(6, 32, np.uint32)  # of each index of an axis: there may be thousands side by side
WIDE = COARSE._replace(dtype=np.int64)  # where one bin may hold more than uint32 counts
SAMPLE = 1024  # values that show where the middle of the data lies, and how wide it is
SMALLEST, LARGEST = 2.0**-1000, 2.0**1000  # units
FARTHEST = float(np.finfo(np.float64).max)
NEAR = 2.0**-29  # of the distance from zero: the smallest unit there


def coarse(values: int) -> Bins:
    """Bins for so many values of an index."""
    return COARSE if values < 1 << 32 else WIDE


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins, of one index or of each: ``y = x / unit + origin``.

    `unit` and `origin` are float64 and int64 of shape ``(count,)``, `first` is of shape ``(count, bins)``. Every other
    value is counted in `spare`, if there is one: where many are equal, counting one need not wait for the one before.

    Examples
    --------
    >>> histogram = Histogram.about(FINE, np.array([1.0]), np.array([-280]))
    >>> histogram.add(np.array([[279.5, 280.0, 280.0, 1e9]], np.float32))
    >>> bins = np.flatnonzero(histogram.counts[0])
    >>> histogram.counts[0, bins].tolist()
    [1, 2, 1]
    >>> [280 + edge(int(number), FINE) for number in bins]
    [279.498046875, 279.998046875, 999293207.0]
    """

    bins: Bins
    unit: np.ndarray
    origin: np.ndarray
    first: np.ndarray
    spare: np.ndarray | None = None

    @classmethod
    def about(cls, bins: Bins, unit: np.ndarray, origin: np.ndarray) -> Histogram:
        """An empty one."""
        counts = np.zeros((len(unit), bins.number), bins.dtype)
        return cls(bins, unit, origin, counts, np.zeros_like(counts) if bins == FINE else None)

    @property
    def counts(self) -> np.ndarray:
        """Of all values, shape ``(count, bins)``."""
        if self.spare is not None:
            self.first[...] += self.spare
            self.spare[...] = 0
        return self.first

    def add(self, block: np.ndarray, lines: Lines = ONE, missing: float | int | None = None) -> None:
        """Count the values of a block in one read. What is not finite, or missing, lands in the outermost bins."""
        if lines == ONE:
            table = affine(block.dtype, float(self.unit[0]), int(self.origin[0]), None, 0)
        else:
            table = affines(block.dtype, self.unit, self.origin, None, 0)
        values, widening, sentinel = loaded(block, missing)
        chosen = count_columns_loop if lines.columns else count_loop
        loop = compiled(chosen, kind(block), sentinel is not None, self.first.dtype)
        spare = self.first if self.spare is None else self.spare
        loop(values, self.first, spare, table, lines.repeat, sentinel, widening, *shape_of(self.bins))

    def part(self, indices: slice) -> Histogram:
        """That of some indices: a view."""
        spare = None if self.spare is None else self.spare[indices]
        return Histogram(self.bins, self.unit[indices], self.origin[indices], self.first[indices], spare)

    def leave_out(self, rows: np.ndarray) -> None:
        """Take back what was counted of values that are not finite, or missing: as many as statistics say."""
        bottom, top = (int(key_of_number(y, *shape_of(self.bins))) for y in (-math.inf, math.inf))
        self.first[:, top] -= rows[:, 3:6].sum(axis=1).astype(self.first.dtype)
        self.first[:, bottom] -= rows[:, 6].astype(self.first.dtype)

    def merge(self, other: Histogram, rows: np.ndarray) -> None:
        """Add the counts of another, whose statistics are `rows`: each at its bin's middle, within the bounds."""
        loop = compiled(merge_loop, self.counts.dtype, kind(other.counts))
        own, others = (self.unit, self.origin, self.counts), (other.unit, other.origin, to_read(other.counts))
        loop(*own, *others, *bounds(rows), *shape_of(self.bins))


@functools.cache
def shape_of(bins: Bins) -> tuple[Any, Any, Any]:
    """What loops know of bins: bits, how many on a side, and the largest ``abs(y)``, which all beyond it count as."""
    return np.int32(bins.bits), np.int32(bins.octaves << bins.bits), np.float32(2.0 ** (bins.octaves - 1))


# Where the middle is --------------------------------------------------------------------------------------------------


def about(sample: np.ndarray, rows: np.ndarray, missing: float | int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Unit and origin for each row of a sample, of shape ``(count, values)``: its median, and how wide its middle is.

    The bins need only a rough idea of the data: a sample that is far off makes them coarser in proportion to their
    distance from it, and where many values lie so, the range will be as wide. `rows` are statistics that the values
    of the sample are part of: they tell of the width where a sample is all of one value.
    """
    values = sample.astype(np.float64)
    if missing is not None:
        values[sample == np.asarray(missing, sample.dtype)] = np.nan
    values[~np.isfinite(values)] = np.nan
    values.sort(axis=1)  # NaN last
    valid = np.count_nonzero(~np.isnan(values), axis=1)
    low, high = bounds(rows)
    low, high = np.nan_to_num(low), np.nan_to_num(high)

    def quantile(share: float) -> np.ndarray:
        place = np.maximum(valid - 1, 0) * share
        found = np.take_along_axis(values, place.astype(np.intp)[:, None], axis=1)[:, 0]
        return np.where(valid > 0, found, low / 2 + high / 2)

    middle = quantile(0.5)
    width = quantile(0.9) / 2 - quantile(0.1) / 2
    for instead in (high / 32 - low / 32, np.abs(middle), np.ones(len(middle))):
        width = np.where(width > 0, width, instead)
    return placed(middle, width / 2)


def placed(middle: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit, a power of two of at least `width`, and the origin in those units that lies next to `middle`."""
    width = np.maximum(np.clip(width, SMALLEST, LARGEST), np.abs(middle) * NEAR)
    unit = np.ldexp(1.0, np.frexp(width)[1])
    return unit, -np.rint(middle / unit).astype(np.int64)


def together(unit: np.ndarray, origin: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit and origin for several histograms merged: arrays of shape ``(histograms, count)``, and of ``(count,)``.

    The origin is the middle one, by weight; the unit is as wide as the middle one and the distance from it to the
    others.
    """
    with np.errstate(over="ignore"):  # next to the ends of float64
        centre = np.clip(-origin * unit, -FARTHEST, FARTHEST)
        middle = median(centre, weight)
        away = np.minimum(median(np.abs(centre - middle), weight), LARGEST / 4)
    return placed(middle, median(unit / 2, weight) + away)


def median(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted, along the first axis: one of the values."""
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.take_along_axis(weight, order, axis=0).cumsum(axis=0)
    place = np.argmax(2 * reached >= reached[-1], axis=0)
    found: np.ndarray = np.take_along_axis(np.take_along_axis(values, order, axis=0), place[None], axis=0)[0]
    return found


# Choosing -------------------------------------------------------------------------------------------------------------


def choose(rule: Rule, rows: np.ndarray, histogram: Histogram | None) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points by a rule, for each of many rows of statistics, with histograms where it needs them."""
    scales, zero_points = rule.choose_each(rows)
    if not rule.histogrammed:
        return scales, zero_points
    assert histogram is not None
    low, high = bounds(rows)
    varied = np.flatnonzero((rows[:, 2] > 0) & (low < high))
    if rule.scale_method == "mse":
        steps = HIGHEST - rule.lowest + 1
        lowest = (rule.lowest - zero_points).astype(np.float64)
        search, shape = compiled(search_loop), shape_of(histogram.bins)
        for i in varied.tolist():
            counts = histogram.counts[i].astype(np.int64, copy=False)  # one signature: it takes long to compile
            unit, origin = float(histogram.unit[i]), float(histogram.origin[i])
            ends = float(low[i]) / unit + origin, float(high[i]) / unit + origin
            found, whole = search(counts, *ends, origin, steps, scales[i] / unit, lowest[i], *shape)
            if SMALLEST_NORMAL <= found * unit < math.inf:
                scales[i], lowest[i] = found * unit, whole
        moved = lowest != (rule.lowest - zero_points).astype(np.float64)  # the others may have more than 53 bits
        zero_points[moved] = rule.lowest - lowest[moved].astype(np.int64)
        return scales, zero_points
    assert rule.percentile is not None
    share = (100 - rule.percentile) / 200
    for i in varied.tolist():
        lower, upper = (quantile(histogram, i, q, float(low[i]), float(high[i])) for q in (share, 1 - share))
        if key_at(histogram, i, lower) < key_at(histogram, i, upper):  # within a bin there may be only one value
            found = rule.choose(Statistics(lower, upper, int(rows[i, 2])))
            scales[i], zero_points[i] = found.scale, found.zero_point
    return scales, zero_points


def quantile(histogram: Histogram, index: int, share: float, low: float, high: float) -> float:
    """As ``np.quantile(values, share)``, to within a bin: between the two values whose ranks are nearest."""
    counts = histogram.counts[index]
    unit, origin = float(histogram.unit[index]), int(histogram.origin[index])
    reached = np.cumsum(counts, dtype=np.int64)
    rank = share * (int(reached[-1]) - 1)

    def value(place: int) -> float:
        if place <= 0:
            return low
        if place >= reached[-1] - 1:
            return high
        at_bin = int(np.searchsorted(reached, place, side="right"))
        left, right = (edge(at_bin + i, histogram.bins) for i in (0, 1))
        inside = (place - (int(reached[at_bin]) - int(counts[at_bin])) + 0.5) / int(counts[at_bin])
        found = (left + inside * (right - left) - origin) * unit
        return min(max(found, low), high)

    below = math.floor(rank)
    first, second = value(below), value(below + 1)
    return first + (second - first) * (rank - below)


def key_at(histogram: Histogram, index: int, value: float) -> int:
    """The bin of a value."""
    y = value / float(histogram.unit[index]) + int(histogram.origin[index])
    return int(key_of_number(y, *shape_of(histogram.bins)))


def edge(number: int, bins: Bins) -> float:
    """The lower edge of a bin, as `y`.

    >>> [edge((FINE.number >> 1) + i, FINE) for i in (0, 1, 256, 257)]
    [-0.001953125, 0.001953125, 0.998046875, 1.00390625]
    """
    return float(edge_of(number, *shape_of(bins)[:2]))


# Loops ----------------------------------------------------------------------------------------------------------------


AT_ONCE = 1024  # keys found in one loop, which vectorizes, before they are counted in another, which does not


@numba.njit
def key_of_number(y, bits, side, most):  # type: ignore[no-untyped-def]
    """The bin of a `y`; NaN counts as infinite."""
    size = abs(y)
    size = size if size < most else most
    leading = np.float32(np.float32(1.0) + np.float32(size)).view(np.int32) + np.int32(1 << (22 - bits))
    place = (leading >> np.int32(23 - bits)) - np.int32(127 << bits)
    sign = np.int32(-1) if y < 0 else np.int32(0)
    return np.uint32(side + ((place ^ sign) - sign))


@numba.njit
def key_of_value(x, affine, sentinel, bits, side, most):  # type: ignore[no-untyped-def]
    y = (as_number(x, affine.factor) * affine.factor - affine.anchor) * affine.inverse + affine.offset
    if sentinel is not None:
        y = as_number(np.inf, affine.factor) if x == sentinel else y
    return key_of_number(y, bits, side, most)


@numba.njit
def find_keys(line, keys, affine, sentinel, widening, bits, side, most):  # type: ignore[no-untyped-def]
    for i in range(line.shape[0]):
        keys[i] = key_of_value(widened(line[i], widening), affine, sentinel, bits, side, most)


def count_loop(block, counts, spare, table, repeat, sentinel, widening, bits, side, most):  # type: ignore[no-untyped-def]
    keys = np.empty(AT_ONCE, np.uint32)
    for row in range(block.shape[0]):
        index = row // repeat % table.shape[1]
        line, own, other, affine = block[row], counts[index], spare[index], at(table, index)
        for start in range(0, line.shape[0], AT_ONCE):
            part = line[start : start + AT_ONCE]
            find_keys(part, keys, affine, sentinel, widening, bits, side, most)
            for i in range(part.shape[0] // 2):
                own[keys[2 * i]] += own.dtype.type(1)
                other[keys[2 * i + 1]] += own.dtype.type(1)
            if part.shape[0] % 2:
                own[keys[part.shape[0] - 1]] += own.dtype.type(1)


def count_columns_loop(block, counts, spare, table, repeat, sentinel, widening, bits, side, most):  # type: ignore[no-untyped-def]
    for row in range(block.shape[0]):
        for i in range(block.shape[1]):
            x = widened(block[row, i], widening)
            counts[i, key_of_value(x, at(table, i), sentinel, bits, side, most)] += counts.dtype.type(1)


@numba.njit
def edge_of(number, bits, side):  # type: ignore[no-untyped-def]
    halves = 2 * (number - side) - 1  # of a bin, from the middle of the one that holds the origin
    place = abs(halves)
    octave = place >> (bits + 1)
    size = math.ldexp(1.0 + (place - (octave << (bits + 1))) / (2 << bits), octave) - 1.0
    return size if halves > 0 else -size


def merge_loop(unit, origin, counts, its_unit, its_origin, its_counts, low, high, bits, side, most):  # type: ignore[no-untyped-def]
    for index in range(counts.shape[0]):
        held = np.flatnonzero(its_counts[index])
        first, last = (held[0], held[-1]) if held.size > 1 else (-1, -1)
        for number in held:
            middle = 0.5 * (edge_of(number, bits, side) + edge_of(number + 1, bits, side))
            x = (middle - its_origin[index]) * its_unit[index]
            x = min(max(x, low[index]), high[index])
            if its_counts[index, number] == 1:  # alone at an end it is the bound
                if number == first:
                    x = low[index]
                elif number == last:
                    x = high[index]
            y = x / unit[index] + origin[index]
            counts[index, key_of_number(y, bits, side, most)] += its_counts[index, number]


# The range of least squared error ------------------------------------------------------------------------------------
#
# Within a bin the values count as spread evenly. Their number, sum and sum of squares up to any point, taken from the
# origin outwards so that outliers cost the middle no digits, give the squared error of 16 evenly spaced levels exactly.
# For each scale the window of levels that leaves the least squared distance outside is found by bisection (that
# distance is convex in the window's place); about it the whole zero points, and the scales next to it that put a level
# there, are tried. Scales go down from the one that reaches over all values, and end where what is clipped alone
# exceeds the best. What is better than all before is fitted to its own codes (as k-means does).
#
# Before that, where no more bins are occupied than there are levels, come scales that both bounds are multiples apart
# of: few different values may lie on such levels exactly, which bins do not show. The first that they do not speak
# against is taken.

COARSE_STEP, FINE_STEP = 2.0**-0.0625, 2.0**-0.015625
ON_GRID = 16  # steps from zero beyond which a scale moved a little puts a level anywhere
FITS = 2  # of scale and place to the codes that they give
ON_BOUNDS = 64  # most parts of the range that are tried as a scale: few whole numbers lie on the levels then


@numba.njit
def sums(counts, low, high, first, last, bits, side):  # type: ignore[no-untyped-def]
    """Edges of the bins `first` to `last`, cut to the bounds, the three sums up to each edge, and what is not known.

    That is the sum of squared errors that may be none, if each bin holds only one number. A value alone in its bin at
    an end is the bound.
    """
    n = last - first + 1
    edges = np.empty(n + 1)
    for i in range(n + 1):
        edges[i] = edge_of(first + i, bits, side)
    edges[0], edges[n] = low, high
    total = np.zeros((3, n + 1))
    noise = 0.0
    middle = min(max(side - first, 0), n)
    for i in range(n):
        right = middle + i < n
        j = middle + i if right else n - 1 - i
        here, there = (j, j + 1) if right else (j + 1, j)
        sign = 1.0 if right else -1.0
        number = np.float64(counts[first + j])
        if j == 0:  # rounding may have put some next to it
            number += counts[:first].sum()
        if j == n - 1:
            number += counts[last + 1 :].sum()
        count = sign * number
        width, centre = edges[j + 1] - edges[j], 0.5 * (edges[j] + edges[j + 1])
        if n > 1 and (j == 0 or j == n - 1) and abs(count) == 1:
            width, centre = 0.0, low if j == 0 else high
        noise += abs(count) * width * width / (3 - 2.0**-20)
        total[0, there] = total[0, here] + count
        total[1, there] = total[1, here] + count * centre
        total[2, there] = total[2, here] + count * (centre * centre + width * width / 12)
    return edges, total, noise


@numba.njit
def upto(t, counts, edges, total, first, bits, side, most):  # type: ignore[no-untyped-def]
    """The three sums up to a point."""
    n = edges.shape[0] - 1
    if t <= edges[0]:
        return total[0, 0], total[1, 0], total[2, 0]
    if t >= edges[n]:
        return total[0, n], total[1, n], total[2, n]
    i = min(max(np.int64(key_of_number(t, bits, side, most)) - first, 0), n - 1)
    width = edges[i + 1] - edges[i]
    alone = counts[first + i] == 1 and n > 1
    if width <= 0 or counts[first + i] == 0 or (alone and i == n - 1):
        return total[0, i], total[1, i], total[2, i]
    if alone and i == 0:
        return total[0, 1], total[1, 1], total[2, 1]
    part = min(max(t - edges[i], 0.0), width)
    count = counts[first + i] * (part / width)
    centre = edges[i] + 0.5 * part
    return total[0, i] + count, total[1, i] + count * centre, total[2, i] + count * (centre * centre + part * part / 12)


@numba.njit
def squares(s0, s1, s2, level):  # type: ignore[no-untyped-def]
    """Sum of squared distances from a level, of values with this number, sum and sum of squares."""
    return s2 - 2 * level * s1 + level * level * s0


@numba.njit
def error(scale, whole, origin, steps, counts, edges, total, first, bits, side, most):  # type: ignore[no-untyped-def]
    """Sum of squared errors with levels ``(whole + step) * scale``, and the scale and `whole` that fit these codes.

    Near zero they have the least squared error with this `whole`. Further out both are of the line of least squared
    error through values over codes, with the scale moved so that a level lies where the line begins.
    """
    last = edges.shape[0] - 1
    found = n = sk = skk = sx = sxk = 0.0
    a0, a1, a2 = total[0, 0], total[1, 0], total[2, 0]
    for step in range(steps):
        level = (whole + step) * scale + origin
        if step < steps - 1:
            b0, b1, b2 = upto(level + 0.5 * scale, counts, edges, total, first, bits, side, most)
        else:
            b0, b1, b2 = total[0, last], total[1, last], total[2, last]
        found += squares(b0 - a0, b1 - a1, b2 - a2, level)
        here, values = b0 - a0, b1 - a1 - origin * (b0 - a0)
        n, sk, skk, sx, sxk = n + here, sk + step * here, skk + step * step * here, sx + values, sxk + step * values
        a0, a1, a2 = b0, b1, b2
    if abs(whole) > ON_GRID:
        slope = (n * sxk - sk * sx) / (n * skk - sk * sk) if n * skk > sk * sk else scale
        if not slope > 0:
            return found, scale, whole
        start = (sx - slope * sk) / n
        nearest = np.rint(start / slope)
        return (found, start / nearest, nearest) if nearest != 0 else (found, scale, whole)
    product, square = whole * sx + sxk, whole * whole * n + 2 * whole * sk + skk
    return found, product / square if product > 0 and square > 0 else scale, whole


@numba.njit
def outside(start, reach, counts, edges, total, first, bits, side, most):  # type: ignore[no-untyped-def]
    """Sum of squared distances from a window, and whether it falls as the window moves up."""
    last = edges.shape[0] - 1
    stop = start + reach
    a0, a1, a2 = upto(start, counts, edges, total, first, bits, side, most)
    b0, b1, b2 = upto(stop, counts, edges, total, first, bits, side, most)
    a0, a1, a2 = a0 - total[0, 0], a1 - total[1, 0], a2 - total[2, 0]
    b0, b1, b2 = total[0, last] - b0, total[1, last] - b1, total[2, last] - b2
    found = squares(a0, a1, a2, start) + squares(b0, b1, b2, stop)
    return found, start * a0 - a1 < b1 - stop * b0


@numba.njit
def window(scale, steps, counts, edges, total, first, bits, side, most):  # type: ignore[no-untyped-def]
    """Where the lowest level lies for the least squared distance outside, and that distance."""
    reach = (steps - 1) * scale
    low = edges[0]
    high = max(edges[-1] - reach, low)
    while high - low > scale / 64:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if outside(middle, reach, counts, edges, total, first, bits, side, most)[1]:
            low = middle
        else:
            high = middle
    start = 0.5 * (low + high)
    return start, outside(start, reach, counts, edges, total, first, bits, side, most)[0]


@numba.njit
def descended(  # type: ignore[no-untyped-def]
    scale, whole, fits, origin, steps, at_best, counts, edges, total, first, bits, side, most
):
    """The least error, scale and place of the lowest level: `at_best`, or this scale and place, or what fits them."""
    for _ in range(fits + 1):
        found, its_scale, its_whole = error(scale, whole, origin, steps, counts, edges, total, first, bits, side, most)
        if not found < at_best[0]:
            break
        at_best = (found, scale, whole)
        scale, whole = its_scale, its_whole
    return at_best


@numba.njit
def at_start(  # type: ignore[no-untyped-def]
    start, tried, exact, origin, steps, at_best, counts, edges, total, first, bits, side, most
):
    """As `descended`, of scales that are the one tried, or nearly, and have their lowest level near `start`."""
    for quarter in range(-2, 3):
        place = start + quarter * 0.25 * tried - origin
        whole = np.rint(place / tried)
        for moved in range(1 if exact or abs(whole) <= ON_GRID else 2):
            scale = place / whole if moved else tried
            at_best = descended(
                scale, whole, 0 if exact else FITS, origin, steps, at_best,
                counts, edges, total, first, bits, side, most,
            )  # fmt: skip
    return at_best


def search_loop(counts, low, high, origin, steps, scale, lowest, bits, side, most):  # type: ignore[no-untyped-def]
    """Scale in units, and the whole number of scales at which the lowest level lies; those given are the first try."""
    first = np.int64(key_of_number(low, bits, side, most))
    last = np.int64(key_of_number(high, bits, side, most))
    edges, total, noise = sums(counts, low, high, first, last, bits, side)
    at_best = (np.inf, scale, lowest)
    at_best = descended(scale, lowest, 0, origin, steps, at_best, counts, edges, total, first, bits, side, most)
    occupied = np.count_nonzero(counts[first : last + 1])
    for parts in range(1, ON_BOUNDS + 1 if occupied <= steps else 1):
        if at_best[0] <= noise:
            return at_best[1], at_best[2]
        tried = (high - low) / parts
        start, clipped = window(tried, steps, counts, edges, total, first, bits, side, most)
        if clipped < at_best[0]:
            at_best = at_start(
                start, tried, True, origin, steps, at_best, counts, edges, total, first, bits, side, most
            )
    at_best = (np.inf, at_best[1], at_best[2])
    at_best = descended(
        at_best[1], at_best[2], FITS, origin, steps, at_best, counts, edges, total, first, bits, side, most
    )
    tried = scale
    while tried > SMALLEST_NORMAL:
        start, clipped = window(tried, steps, counts, edges, total, first, bits, side, most)
        if not clipped < at_best[0]:
            break
        at_best = at_start(start, tried, False, origin, steps, at_best, counts, edges, total, first, bits, side, most)
        tried *= COARSE_STEP
    tried, end = at_best[1] / COARSE_STEP**2, at_best[1] * COARSE_STEP**2
    while tried > max(end, SMALLEST_NORMAL):
        start, _ = window(tried, steps, counts, edges, total, first, bits, side, most)
        at_best = at_start(start, tried, False, origin, steps, at_best, counts, edges, total, first, bits, side, most)
        tried *= FINE_STEP
    return at_best[1], at_best[2]
