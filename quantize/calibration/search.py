"""Ranges chosen by a histogram: between two quantiles, or with the least squared error.

How the least squared error is searched for
-------------------------------------------

Sought are a scale and a whole number `lowest`, so that the levels ``(lowest + k) * scale``, for ``k`` from 0 to 15, lie
as near to the values as they can. All that is known of the values is their histogram.

1. *The error of any levels.* Within a bin the values count as spread evenly. Running sums over the bins, of how many
   values there are, of the values and of their squares, then give the squared error of any levels at once: the
   values that are rounded to a level are those between two points, and their sums are a difference. The sums run from
   the origin outwards, so that outliers cost the values in the middle no digits.
2. *The place of the levels, for one scale.* They span a window. What lies outside of it is clipped, and the squared
   distance of that is a convex function of where the window begins: bisection finds where it is least. Tried are the
   whole numbers nearest to there and, far from zero, scales moved so little that a level lies where it should.
3. *The scale.* Scales go down in coarse steps from the one that reaches over all values. A narrower window clips more:
   the search ends where the clipped values alone have more than the least error so far. Fine steps about the best scale
   follow.
4. *The fit.* What is better than all before is fitted to its own codes, as k-means does: those codes have a scale and a
   lowest level of least squared error, which give new codes.

Few different values may lie on levels exactly, which is easy to miss and which bins do not show. Where no more bins are
occupied than there are levels, the search begins with scales that put a level on the lowest and on the highest value:
whole parts of the range. It ends with the first whose error is no more than what bins hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..kernels import compiled, helper
from ..numerics.scales import HIGHEST, SMALLEST_NORMAL, Rule
from ..numerics.statistics import bounds
from .histogram import Histogram, edge_of, key_of_number, loop_bins

COARSE_STEP, FINE_STEP = 2.0**-0.0625, 2.0**-0.015625  # factors from one scale that is tried to the next
ON_GRID = 16  # steps from zero: levels further away can be put anywhere by moving the scale a little
# Times that a candidate is fitted to its codes. They are no plain int: for each one of those Numba would compile the
# functions that take it once more.
FITS, NO_FIT = np.int64(2), np.int64(0)
ON_BOUNDS = 64  # parts of the range, at most, that are tried as a scale: few whole numbers lie on the levels then


def unheeded() -> None:
    """What is called between two groups where nobody may tell the search to stop."""


def choose(
    rule: Rule, rows: np.ndarray, histogram: Histogram | None, heed: Callable[[], None] = unheeded
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points by a rule, for each of many rows of statistics, with histograms where it needs them.

    A search takes a fraction of a millisecond, and there may be millions: `heed` is called before each, and may raise.
    """
    scales, zero_points = rule.scales(rows)
    if rule.method.needs == "histogram":
        assert histogram is not None
        low, high = bounds(rows)
        varied = heeding(np.flatnonzero((rows[:, 2] > 0) & (low < high)).tolist(), heed)
        improve = improve_by_quantiles if rule.method.percentile is not None else improve_by_error
        improve(rule, rows, histogram, varied, scales, zero_points)
    return scales, zero_points


def heeding(indices: list[int], heed: Callable[[], None]) -> Iterator[int]:
    for i in indices:
        heed()
        yield i


# Percentiles ---------------------------------------------------------------------------------------------------------


def improve_by_quantiles(
    rule: Rule,
    rows: np.ndarray,
    histogram: Histogram,
    indices: Iterable[int],
    scales: np.ndarray,
    zero_points: np.ndarray,
) -> None:
    """Write the scales and zero points between two quantiles, where these lie in different bins."""
    assert rule.method.percentile is not None
    share = (100 - rule.method.percentile) / 200
    low, high = bounds(rows)
    within, inner = np.zeros(len(rows), bool), rows.copy()
    loop, bins = compiled(quantiles_loop), loop_bins(histogram.bins)
    for i in indices:
        counts = histogram.counts[i].astype(np.int64, copy=False)  # one signature
        place = float(histogram.unit[i]), int(histogram.origin[i])
        *ends, within[i] = loop(counts, share, *place, low[i], high[i], bins)
        inner[i, :2] = np.array(ends).view(np.int64)
    scales[within], zero_points[within] = rule.scales(inner[within])


def quantiles_loop(counts, share, unit, origin, low, high, bins):  # type: ignore[no-untyped-def]
    """Two quantiles, as many values below one as above the other, and whether they lie in different bins.

    Within a bin there may be only one value.
    """
    reached = np.cumsum(counts)
    lower = quantile(counts, reached, share, unit, origin, low, high, bins)
    upper = quantile(counts, reached, 1 - share, unit, origin, low, high, bins)
    return lower, upper, key_of_number(lower / unit + origin, *bins) < key_of_number(upper / unit + origin, *bins)


@helper
def quantile(counts, reached, share, unit, origin, low, high, bins):  # type: ignore[no-untyped-def]
    """As ``np.quantile(values, share)``, to within a bin: between the two values whose ranks are nearest.

    `reached` are the running sums of the counts.
    """
    rank = share * (reached[-1] - 1)
    below = np.int64(math.floor(rank))
    first = value_at(counts, reached, below, unit, origin, low, high, bins)
    second = value_at(counts, reached, below + 1, unit, origin, low, high, bins)
    return first + (second - first) * (rank - below)


@helper
def value_at(counts, reached, place, unit, origin, low, high, bins):  # type: ignore[no-untyped-def]
    """The value that has so many before it."""
    if place <= 0:
        return low
    if place >= reached[-1] - 1:
        return high
    bits, side, _ = bins
    number = np.int64(np.searchsorted(reached, place, side="right"))
    left, right = edge_of(number, bits, side), edge_of(number + 1, bits, side)
    inside = (place - (reached[number] - counts[number]) + 0.5) / counts[number]
    return min(max((left + inside * (right - left) - origin) * unit, low), high)


# The least squared error ---------------------------------------------------------------------------------------------


def improve_by_error(
    rule: Rule,
    rows: np.ndarray,
    histogram: Histogram,
    indices: Iterable[int],
    scales: np.ndarray,
    zero_points: np.ndarray,
) -> None:
    """Write the scales and zero points of least squared error; those there already are the first candidates."""
    steps = HIGHEST - rule.lowest + 1
    first = (rule.lowest - zero_points).astype(np.float64)
    lowest = first.copy()
    low, high = bounds(rows)
    loop, bins = compiled(search_loop), loop_bins(histogram.bins)
    for i in indices:
        counts = histogram.counts[i].astype(np.int64, copy=False)  # one signature: it takes long to compile
        unit, origin = float(histogram.unit[i]), float(histogram.origin[i])
        ends = float(low[i]) / unit + origin, float(high[i]) / unit + origin
        scale, whole = loop(counts, *ends, origin, steps, scales[i] / unit, lowest[i], bins)
        if SMALLEST_NORMAL <= scale * unit < math.inf:
            scales[i], lowest[i] = scale * unit, whole
    moved = lowest != first  # the others may have more than 53 bits
    zero_points[moved] = rule.lowest - lowest[moved].astype(np.int64)


class Moments(NamedTuple):
    """Of some values: how many there are, their sum, and the sum of their squares."""

    number: Any
    total: Any
    squares: Any


# The edge of a bin: where it lies; the moments of the values between the histogram's origin and it, negative below the
# origin; how many values the bin that begins there holds. A look-up needs all of them, so they lie side by side.
EDGE_RECORD = np.dtype([("y", "f8"), ("number", "f8"), ("total", "f8"), ("squares", "f8"), ("count", "i8")])


class Search(NamedTuple):
    """What a search goes by, and never changes. Its numbers are in units of the histogram; zero lies at `origin`.

    `edges` are those of the bins from the lowest value to the highest, cut to these two: an array of `EDGE_RECORD`.
    `first` is the number of the first of these bins among all, of which `bins` tells (see `loop_bins`).

    `hidden` is the most squared error that values on levels can seem to have, as it is unknown where in their bin they
    lie. `steps` is the number of levels.
    """

    edges: Any
    first: Any
    bins: Any
    hidden: Any
    origin: Any
    steps: Any


class Candidate(NamedTuple):
    """A scale, the whole number of scales at which the lowest level lies, and their squared error."""

    error: Any
    scale: Any
    lowest: Any


@helper
def prepared(counts, low, high, origin, steps, bins):  # type: ignore[no-untyped-def]
    """The search among values from `low` to `high`."""
    bits, side, _ = bins
    first, last = np.int64(key_of_number(low, *bins)), np.int64(key_of_number(high, *bins))
    edges = np.zeros(last - first + 2, EDGE_RECORD)
    for i in range(edges.shape[0]):
        edges[i].y = edge_of(first + i, bits, side)
        edges[i].count = counts[first + i] if first + i <= last else 0
    edges[0].y, edges[-1].y = low, high
    below, above = counts[:first].sum(), counts[last + 1 :].sum()  # rounding may have put some next to the ends
    hidden = add_up(edges, below, above, min(max(side - first, 0), last - first + 1))
    return Search(edges, first, bins, hidden, origin, steps)


@helper
def add_up(edges, below, above, middle):  # type: ignore[no-untyped-def]
    """Write the moments up to each edge; the squared error that bins hide.

    They are added from the edge `middle`, where the origin is, upwards, and then from there downwards. The outer bins
    hold so many more values, `below` and `above`.
    """
    n = edges.shape[0] - 1
    hidden = 0.0
    for step in range(n):
        i = middle + step if middle + step < n else n - 1 - step
        here, there, sign = (i, i + 1, 1.0) if i >= middle else (i + 1, i, -1.0)
        number = np.float64(edges[i].count + (below if i == 0 else 0) + (above if i == n - 1 else 0))
        width, centre = edges[i + 1].y - edges[i].y, 0.5 * (edges[i].y + edges[i + 1].y)
        if n > 1 and (i == 0 or i == n - 1) and number == 1:  # alone at an end, it is the bound
            width, centre = 0.0, edges[0].y if i == 0 else edges[n].y
        count = sign * number
        edges[there].number = edges[here].number + count
        edges[there].total = edges[here].total + count * centre
        edges[there].squares = edges[here].squares + count * (centre * centre + width * width / 12)
        hidden += number * width * width / (3 - 2.0**-20)
    return hidden


@helper
def is_sparse(search):  # type: ignore[no-untyped-def]
    """Whether no more bins are occupied than there are levels."""
    occupied = 0
    for i in range(search.edges.shape[0]):
        occupied += search.edges[i].count != 0
    return occupied <= search.steps


@helper
def at_edge(edge):  # type: ignore[no-untyped-def]
    """The moments up to an edge."""
    return Moments(edge.number, edge.total, edge.squares)


@helper
def up_to(search, y):  # type: ignore[no-untyped-def]
    """The moments up to a point."""
    edges = search.edges
    n = edges.shape[0] - 1
    if y <= edges[0].y:
        return at_edge(edges[0])
    if y >= edges[n].y:
        return at_edge(edges[n])
    i = min(max(np.int64(key_of_number(y, *search.bins)) - search.first, 0), n - 1)
    left, right = edges[i], edges[i + 1]
    width = right.y - left.y
    alone = left.count == 1 and n > 1
    if width <= 0 or left.count == 0 or (alone and i == n - 1):
        return at_edge(left)
    if alone and i == 0:
        return at_edge(right)
    part = min(max(y - left.y, 0.0), width)
    count = left.count * (part / width)
    centre = left.y + 0.5 * part
    squares = left.squares + count * (centre * centre + part * part / 12)
    return Moments(left.number + count, left.total + count * centre, squares)


@helper
def between(left, right):  # type: ignore[no-untyped-def]
    """The moments of the values between two points, by those up to each."""
    return Moments(right.number - left.number, right.total - left.total, right.squares - left.squares)


@helper
def squared_distance(values, y):  # type: ignore[no-untyped-def]
    """Sum of the squared distances of values from a point."""
    return values.squares - 2 * y * values.total + y * y * values.number


@helper
def error_and_fit(search, scale, lowest):  # type: ignore[no-untyped-def]
    """Sum of squared errors of a scale and lowest level, and the scale and lowest level that fit these codes."""
    error = n = k = kk = x = kx = 0.0  # sums over the values x and their codes k, counted from the lowest
    left = at_edge(search.edges[0])
    for step in range(search.steps):
        level = (lowest + step) * scale + search.origin
        right = up_to(search, level + 0.5 * scale) if step < search.steps - 1 else at_edge(search.edges[-1])
        values = between(left, right)
        error += squared_distance(values, level)
        total = values.total - search.origin * values.number
        n += values.number
        k += step * values.number
        kk += step * step * values.number
        x += total
        kx += step * total
        left = right
    fitted_scale, fitted_lowest = fitted(scale, lowest, n, k, kk, x, kx)
    return error, fitted_scale, fitted_lowest


@helper
def fitted(scale, lowest, n, k, kk, x, kx):  # type: ignore[no-untyped-def]
    """The scale and the lowest level that fit values with these sums; the given ones where none do.

    Near zero it is the scale of least squared error for this `lowest`. Further out both are those of the line of least
    squared error through the values over their codes, with the scale moved so that a level lies where the line begins.
    """
    if abs(lowest) <= ON_GRID:
        product, square = lowest * x + kx, lowest * lowest * n + 2 * lowest * k + kk
        return product / square if product > 0 and square > 0 else scale, lowest
    slope = (n * kx - k * x) / (n * kk - k * k) if n * kk > k * k else scale
    if not slope > 0:
        return scale, lowest
    start = (x - slope * k) / n
    nearest = np.rint(start / slope)
    return (start / nearest, nearest) if nearest != 0 else (scale, lowest)


@helper
def clipped(search, start, reach):  # type: ignore[no-untyped-def]
    """Sum of squared distances of what lies outside of a window, and whether it falls as the window moves up."""
    stop = start + reach
    below = between(at_edge(search.edges[0]), up_to(search, start))
    above = between(up_to(search, stop), at_edge(search.edges[-1]))
    falls = start * below.number - below.total < above.total - stop * above.number
    return squared_distance(below, start) + squared_distance(above, stop), falls


@helper
def best_window(search, scale):  # type: ignore[no-untyped-def]
    """Where the window of all levels begins that clips with the least squared distance, and that distance."""
    reach = (search.steps - 1) * scale
    low = search.edges[0].y
    high = max(search.edges[-1].y - reach, low)
    while high - low > scale / 64:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if clipped(search, middle, reach)[1]:
            low = middle
        else:
            high = middle
    start = 0.5 * (low + high)
    return start, clipped(search, start, reach)[0]


@helper
def improved(search, best, scale, lowest, fits):  # type: ignore[no-untyped-def]
    """The best so far, or a better one: this scale and lowest level, or what fits their codes, and so on."""
    for _ in range(fits + 1):
        error, fitted_scale, fitted_lowest = error_and_fit(search, scale, lowest)
        if not error < best.error:
            break
        best = Candidate(error, scale, lowest)
        scale, lowest = fitted_scale, fitted_lowest
    return best


@helper
def improved_near(search, best, scale, start, fits):  # type: ignore[no-untyped-def]
    """As `improved`, with each lowest level about `start`. The scale moves where it is also fitted, and only there."""
    for quarter in range(-2, 3):
        place = start + quarter * 0.25 * scale - search.origin
        lowest = np.rint(place / scale)
        for moved in range(2 if fits > 0 and abs(lowest) > ON_GRID else 1):
            best = improved(search, best, place / lowest if moved else scale, lowest, fits)
    return best


@helper
def on_bounds(search, best):  # type: ignore[no-untyped-def]
    """The best of scales that put levels on both bounds, and whether all values may lie on levels."""
    for parts in range(1, ON_BOUNDS + 1):
        if best.error <= search.hidden:
            return best, True
        scale = (search.edges[-1].y - search.edges[0].y) / parts
        start, distance = best_window(search, scale)
        if distance < best.error:
            best = improved_near(search, best, scale, start, NO_FIT)
    return best, False


@helper
def downwards(search, best, scale):  # type: ignore[no-untyped-def]
    """The best of scales from the given one down, until what is clipped alone exceeds the least error."""
    while scale > SMALLEST_NORMAL:
        start, distance = best_window(search, scale)
        if not distance < best.error:
            break
        best = improved_near(search, best, scale, start, FITS)
        scale *= COARSE_STEP
    return best


@helper
def next_to_best(search, best):  # type: ignore[no-untyped-def]
    """The best of scales from two coarse steps above the best so far to two below it."""
    scale, end = best.scale / COARSE_STEP**2, best.scale * COARSE_STEP**2
    while scale > max(end, SMALLEST_NORMAL):
        start, _ = best_window(search, scale)
        best = improved_near(search, best, scale, start, FITS)
        scale *= FINE_STEP
    return best


def search_loop(counts, low, high, origin, steps, scale, lowest, bins):  # type: ignore[no-untyped-def]
    """The scale and the lowest level of least squared error, in units; those given are the first candidate."""
    search = prepared(counts, low, high, origin, steps, bins)
    best = improved(search, Candidate(np.inf, scale, lowest), scale, lowest, NO_FIT)
    if is_sparse(search):
        best, found = on_bounds(search, best)
        if found:
            return best.scale, best.lowest
    best = improved(search, Candidate(np.inf, best.scale, best.lowest), best.scale, best.lowest, FITS)
    best = downwards(search, best, scale)
    best = next_to_best(search, best)
    return best.scale, best.lowest
