"""Ranges chosen by a histogram: between two quantiles, or with the least squared error."""

from __future__ import annotations

import math

import numba
import numpy as np

from ..kernels import compiled
from ..numerics.scales import HIGHEST, SMALLEST_NORMAL, Percentile, Rule
from ..numerics.statistics import Statistics, bounds
from .histogram import Histogram, edge, edge_of, key_of_number, loop_bins

Chosen = tuple[np.ndarray, np.ndarray]


def choose(rule: Rule, rows: np.ndarray, histogram: Histogram | None) -> Chosen:
    """Scales and zero points by a rule, for each of many rows of statistics, with histograms where it needs them.

    Groups that hold only one value, or none, keep what their bounds give.
    """
    found = rule.scales(rows)
    if rule.method.needs != "histogram":
        return found
    assert histogram is not None
    low, high = bounds(rows)
    varied = np.flatnonzero((rows[:, 2] > 0) & (low < high)).tolist()
    if isinstance(rule.method, Percentile):
        return between_quantiles(rule, rule.method.percentile, rows, histogram, varied, *found)
    return with_least_error(rule, rows, histogram, varied, *found)


def between_quantiles(
    rule: Rule,
    percentile: float,
    rows: np.ndarray,
    histogram: Histogram,
    varied: list[int],
    scales: np.ndarray,
    zero_points: np.ndarray,
) -> Chosen:
    """Scales that reach over the share `percentile` of the values, in %."""
    low, high = bounds(rows)
    share = (100 - percentile) / 200
    for i in varied:
        lower, upper = (quantile(histogram, i, q, float(low[i]), float(high[i])) for q in (share, 1 - share))
        if key_at(histogram, i, lower) < key_at(histogram, i, upper):  # within a bin there may be only one value
            found = rule.scale(Statistics(lower, upper, int(rows[i, 2])))
            scales[i], zero_points[i] = found.scale, found.zero_point
    return scales, zero_points


def with_least_error(
    rule: Rule,
    rows: np.ndarray,
    histogram: Histogram,
    varied: list[int],
    scales: np.ndarray,
    zero_points: np.ndarray,
) -> Chosen:
    """Scales and whole zero points with the least squared error over all values."""
    low, high = bounds(rows)
    steps = HIGHEST - rule.lowest + 1
    first = (rule.lowest - zero_points).astype(np.float64)
    lowest = first.copy()
    search, shape = compiled(search_loop), loop_bins(histogram.bins)
    for i in varied:
        counts = histogram.counts[i].astype(np.int64, copy=False)  # one signature: it takes long to compile
        unit, origin = float(histogram.unit[i]), float(histogram.origin[i])
        ends = float(low[i]) / unit + origin, float(high[i]) / unit + origin
        found, whole = search(counts, *ends, origin, steps, scales[i] / unit, lowest[i], *shape)
        if SMALLEST_NORMAL <= found * unit < math.inf:
            scales[i], lowest[i] = found * unit, whole
    moved = lowest != first  # the others may have more than 53 bits
    zero_points[moved] = rule.lowest - lowest[moved].astype(np.int64)
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
    return int(key_of_number(y, *loop_bins(histogram.bins)))


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
