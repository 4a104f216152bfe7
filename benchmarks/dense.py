"""The least squared error that one scale and a whole zero point can have: a dense search on the exact values.

The values are sorted, and the number, sum and sum of squares up to each are float64. So the squared error of 16 levels
takes 15 binary searches, whatever the number of values, and no histogram comes between.

Scales go down from the one that reaches over all values, in steps small enough that none moves a level by more than
1/32 of a step. For each, every whole place of the lowest level is tried whose window of levels leaves less squared
distance outside than the best error so far. That distance is convex in the place, and grows as the scale falls: the
search ends where it alone exceeds the best. At last the scale is the one that fits the best codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

LEVELS = 16
MOVED = 1 / 32  # of a step: the most that a level moves from one scale to the next
FINEST = 2.0**-10  # part of a scale: the longest way to the next


class Best(NamedTuple):
    """A scale, a zero point for the codes -8..7, and the mean squared error that they have."""

    scale: float
    zero_point: int
    error: float


def dense_search(values: np.ndarray) -> Best:
    """Search all scales and whole zero points.

    >>> best = dense_search(np.arange(16, dtype=np.float32))
    >>> best.zero_point, bool(abs(best.scale - 1) < 1e-12), bool(best.error < 1e-20)
    (-8, True, True)
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    centre = float(ordered[len(ordered) // 2])  # sums about it lose no digits where the data lie far from zero
    ordered -= centre
    sums = np.zeros((2, len(ordered) + 1))
    np.cumsum(ordered, out=sums[0, 1:])
    np.cumsum(ordered * ordered, out=sums[1, 1:])
    total, scale, lowest = search(ordered, sums, centre)
    return Best(scale, -LEVELS // 2 - round(lowest), total / len(ordered))


@numba.njit
def squares(sums, start, stop, level):  # type: ignore[no-untyped-def]
    """Sum of squared distances from a level, of the values from one rank to another."""
    total = sums[0, stop] - sums[0, start]
    return sums[1, stop] - sums[1, start] - 2 * level * total + level * level * (stop - start)


@numba.njit
def error(ordered, sums, centre, scale, lowest):  # type: ignore[no-untyped-def]
    """Sum of squared errors with the levels ``(lowest + k) * scale``, and the scale that fits those codes best."""
    found, product, square = 0.0, 0.0, 0.0
    start, stop = 0, len(ordered)
    for k in range(LEVELS):
        level = (lowest + k) * scale - centre
        end = stop if k == LEVELS - 1 else np.searchsorted(ordered, level + 0.5 * scale)
        found += squares(sums, start, end, level)
        product += (lowest + k) * (sums[0, end] - sums[0, start] + centre * (end - start))
        square += (lowest + k) ** 2 * (end - start)
        start = end
    return found, product / square if product > 0 else scale


@numba.njit
def outside(ordered, sums, centre, scale, lowest):  # type: ignore[no-untyped-def]
    """Sum of squared distances from the window of levels: no error is less."""
    low, high = lowest * scale - centre, (lowest + LEVELS - 1) * scale - centre
    stop = len(ordered)
    below, above = np.searchsorted(ordered, low), np.searchsorted(ordered, high)
    return squares(sums, 0, below, low) + squares(sums, above, stop, high)


@numba.njit
def best_window(ordered, sums, centre, scale):  # type: ignore[no-untyped-def]
    """The whole place of the lowest level that leaves the least squared distance outside."""
    low = np.floor((ordered[0] + centre) / scale)
    high = np.ceil((ordered[-1] + centre) / scale)
    while low < high:
        middle = np.floor(0.5 * (low + high))
        here = outside(ordered, sums, centre, scale, middle)
        if outside(ordered, sums, centre, scale, middle + 1) < here:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit
def search(ordered, sums, centre):  # type: ignore[no-untyped-def]
    """Least sum of squared errors, its scale, and the whole number of scales at which its lowest level lies."""
    scale = (ordered[-1] - ordered[0]) / (LEVELS - 1)
    best = (np.inf, scale, 0.0)
    while True:
        window = best_window(ordered, sums, centre, scale)
        if not outside(ordered, sums, centre, scale, window) < best[0]:
            break
        for way in (-1.0, 1.0):
            lowest = window if way < 0 else window + 1
            while outside(ordered, sums, centre, scale, lowest) < best[0]:
                found, _ = error(ordered, sums, centre, scale, lowest)
                if found < best[0]:
                    best = (found, scale, lowest)
                lowest += way
        scale *= 1 - min(FINEST, MOVED / max(abs(window), abs(window + LEVELS)))
    while True:
        fitted = error(ordered, sums, centre, best[1], best[2])[1]
        found, _ = error(ordered, sums, centre, fitted, best[2])
        if not found < best[0]:
            return best
        best = (found, fitted, best[2])


# Blocks ---------------------------------------------------------------------------------------------------------------

FIVE_BITS = np.concatenate([np.arange(16, 32) / 32, np.arange(16, 32) / 16, np.arange(16, 36) / 8])  # 0.5 to 4.4


def least_in_blocks(blocks: np.ndarray) -> np.ndarray:
    """The least squared error of each row by a scale of five bits and a zero point in quarters: tries them all.

    Scales are those from 0.55 to 2.2 times what reaches over the row, and zero points those within four steps of the
    one that has the row in the middle.

    >>> least_in_blocks(np.array([[0.0, 1.0, 15.0], [0.0, 0.4, 15.0]])).round(3).tolist()
    [0.0, 0.102]
    """
    exact = blocks.astype(np.float64)
    low, high = exact.min(axis=1, keepdims=True), exact.max(axis=1, keepdims=True)
    full = np.where(high > low, high - low, 1) / (LEVELS - 1)
    found = np.full(len(exact), np.inf)
    for part in FIVE_BITS:
        scale = np.exp2(np.floor(np.log2(full))) * part
        fits = ((scale > 0.55 * full) & (scale < 2.2 * full))[:, 0]
        middle = np.rint(4 * (-0.5 - (low + high) / 2 / scale)) / 4
        for zero_point in (middle + quarter / 4 for quarter in range(-16, 17)):
            codes = np.clip(np.rint(exact / scale + zero_point), -LEVELS // 2, LEVELS // 2 - 1)
            errors = np.square((codes - zero_point) * scale - exact).sum(axis=1)
            found = np.where(fits & (errors < found), errors, found)
    return found
