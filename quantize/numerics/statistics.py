"""Bounds and counts of values, as rows of int64 that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """What one read of some values tells of them.

    As rows (`to_row`) the statistics of several sets of values add up to those of all of them (`folded`).

    Attributes
    ----------
    minimum, maximum : float
        Of the finite values that are not missing; NaN where there are none.
    count, nan, missing, positive_infinity, negative_infinity : int
        How many values are finite, NaN, equal to the declared missing value, +inf and -inf.
    first : int
        Position, in C order over the whole array, of the first value that is refused; -1 if there is none.

    Examples
    --------
    >>> one, other = Statistics(0.0, 1.0, 2), Statistics(-3.0, 0.5, 4, nan=1, first=9)
    >>> from_row(folded(np.stack([to_row(one), to_row(other)])))
    Statistics(minimum=-3.0, maximum=1.0, count=6, nan=1, missing=0, positive_infinity=0, negative_infinity=0, first=9)
    """

    minimum: float = math.nan
    maximum: float = math.nan
    count: int = 0
    nan: int = 0
    missing: int = 0
    positive_infinity: int = 0
    negative_infinity: int = 0
    first: int = -1

    @property
    def infinite(self) -> int:
        return self.positive_infinity + self.negative_infinity


ROW = 8  # numbers in a row: the bits of two float64, and six integers


def to_row(statistics: Statistics) -> np.ndarray:
    """Statistics as a row of int64, shape (8,): as the store keeps them while a job runs, and arrays of them add up."""
    bits = np.array([statistics.minimum, statistics.maximum]).view(np.int64)
    return np.array([*bits, *list(vars(statistics).values())[2:]], np.int64)


def from_row(row: np.ndarray) -> Statistics:
    return Statistics(*np.ascontiguousarray(row[:2]).view(np.float64).tolist(), *row[2:ROW].tolist())


def bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima and maxima of rows, float64."""
    return tuple(np.ascontiguousarray(rows[..., i]).view(np.float64) for i in (0, 1))  # type: ignore[return-value]


def fold_into(total: np.ndarray, rows: np.ndarray) -> None:
    """Add the statistics of some rows to those of as many others, in place; `total` is contiguous in its last axis."""
    low, high = bounds(rows)
    mine = total.view(np.float64)
    np.fmin(mine[:, 0], low, out=mine[:, 0])
    np.fmax(mine[:, 1], high, out=mine[:, 1])
    total[:, 2:7] += rows[:, 2:7]
    first = rows[:, 7]
    if (first >= 0).any():
        total[:, 7] = np.where((total[:, 7] < 0) | ((first >= 0) & (first < total[:, 7])), first, total[:, 7])


def folded(rows: np.ndarray) -> np.ndarray:
    """The statistics of all entries along the first axis of rows of shape ``(entries, ..., 8)``."""
    low, high = bounds(rows)
    total: np.ndarray = rows.sum(axis=0)
    total[..., 0] = np.fmin.reduce(low).view(np.int64)
    total[..., 1] = np.fmax.reduce(high).view(np.int64)
    total[total[..., 2] == 0, :2] = NO_BOUND
    last = np.iinfo(np.int64).max
    first = np.where(rows[..., 7] < 0, last, rows[..., 7]).min(axis=0)
    total[..., 7] = np.where(first == last, -1, first)
    return total


NO_BOUND = np.array(math.nan).view(np.int64)


NO_ROW = to_row(Statistics())


def no_rows(count: int) -> np.ndarray:
    """Rows of no values."""
    rows = np.empty((count, ROW), np.int64)
    rows[...] = NO_ROW
    return rows
