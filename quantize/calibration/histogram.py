"""How values are distributed, counted in one read without knowing their range.

Bins lie about an origin near the middle of the data. Next to it they have one width. Further out their width grows with
the distance from it, as the spacing of floats does. The number of a bin is the leading bits of the float
``1 + abs(y)``, rounded, with ``y = x / unit + origin``: there are ``1 << bits`` bins of equal width for
``abs(y) < 1``, and as many for each octave beyond. So bins are narrow where values are many, however far from zero
these lie, and no outlier is out of reach. `unit` is a power of two: edges are exact, and whole numbers lie in the
middle of narrow bins.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from ..kernels import argument, as_number, column, compiled, loadable, signature, widened
from ..numerics.granularity import ONE, Granularity, Lines
from ..numerics.statistics import bounds
from ..numerics.tables import affine_table


class FloatBins(NamedTuple):
    """Which bins a histogram has: ``1 << bits`` for each of so many octaves, on either side of the origin."""

    bits: int
    octaves: int
    dtype: Any

    @property
    def number(self) -> int:
        return 2 * (self.octaves << self.bits)

    @property
    def nbytes(self) -> int:
        """Bytes of one histogram."""
        return self.number * int(np.dtype(self.dtype).itemsize)


FINE = FloatBins(8, 127, np.int64)  # bins for one scale for all values
COARSE = FloatBins(6, 32, np.uint32)  # bins for each of many groups, of which thousands may be held side by side
WIDE = COARSE._replace(dtype=np.int64)  # bins for a group with more values than uint32 counts
SAMPLE = 1024  # values: a sample of all, which shows where their middle lies and how wide it is
SAMPLE_EACH = 64  # values: a sample of one group of many, for the same
SMALLEST, LARGEST = 2.0**-1000, 2.0**1000  # bounds of the units that are chosen
FARTHEST = float(np.finfo(np.float64).max)  # bound of the places that are reckoned with when histograms merge
NEAR = 2.0**-29  # part of the distance from zero to the origin: a unit is no smaller


def bins_for(granularity: Granularity, values: int) -> FloatBins:
    """Bins for groups that have so many values."""
    if granularity.single:
        return FINE
    return COARSE if values < 1 << 32 else WIDE


def sample_size(granularity: Granularity) -> int:
    """How many values of a group show where its middle lies."""
    return SAMPLE if granularity.single else SAMPLE_EACH


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins: a histogram for each group.

    `unit` and `origin` are float64 and int64 of shape ``(count,)``: a value `x` lies at ``y = x / unit + origin``.
    `first` has shape ``(count, bins)``. With a `spare` of the same shape every other value is counted there: where many
    values are equal, counting one then need not wait until the one before is written.

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

    bins: FloatBins
    unit: np.ndarray
    origin: np.ndarray
    first: np.ndarray
    spare: np.ndarray | None = None

    @classmethod
    def about(cls, bins: FloatBins, unit: np.ndarray, origin: np.ndarray) -> Histogram:
        """A histogram without values, whose origin is ``-origin * unit``."""
        counts = np.zeros((len(unit), bins.number), bins.dtype)
        return cls(bins, unit, origin, counts, np.zeros_like(counts) if bins == FINE else None)

    @property
    def counts(self) -> np.ndarray:
        """Counts of all values, of shape ``(count, bins)``: with a `spare` a new array."""
        return self.first if self.spare is None else self.first + self.spare

    def add(self, block: np.ndarray, lines: Lines = ONE, missing: float | int | None = None) -> None:
        """Count the values of a block in one read; those that are not finite, or missing, in the outermost bins."""
        table = affine_table(block.dtype, self.unit, self.origin, None, 0)
        values, widening, sentinel = loadable(block, missing)
        chosen = count_columns_loop if lines.columns else count_loop
        loop = compiled(chosen, signature(block), sentinel is not None, self.first.dtype)
        spare = self.first if self.spare is None else self.spare
        loop(values, self.first, spare, table, lines.repeat, sentinel, widening, *loop_bins(self.bins))

    def part(self, groups: slice) -> Histogram:
        """The histogram of some groups, as a view."""
        spare = None if self.spare is None else self.spare[groups]
        return Histogram(self.bins, self.unit[groups], self.origin[groups], self.first[groups], spare)

    def leave_out(self, rows: np.ndarray) -> None:
        """Take the values that are not finite, or missing, out of the counts: as many as the statistics say."""
        bottom, top = (int(key_of_number(y, *loop_bins(self.bins))) for y in (-math.inf, math.inf))
        self.first[:, top] -= rows[:, 3:6].sum(axis=1).astype(self.first.dtype)
        self.first[:, bottom] -= rows[:, 6].astype(self.first.dtype)

    def merge(self, other: Histogram, rows: np.ndarray) -> None:
        """Add the counts of another histogram, each at the middle of its bin. `rows` are its statistics: the bounds."""
        counts = other.counts
        loop = compiled(merge_loop, self.first.dtype, signature(counts))
        own, others = map(argument, (self.unit, self.origin)), map(argument, (other.unit, other.origin, counts))
        loop(*own, self.first, *others, *map(argument, bounds(rows)), *loop_bins(self.bins))


@functools.cache
def loop_bins(bins: FloatBins) -> tuple[Any, Any, Any]:
    """Bins as loops take them: bits, bins on a side, and the largest ``abs(y)``, as which all that is larger counts."""
    return np.int32(bins.bits), np.int32(bins.octaves << bins.bits), np.float32(2.0 ** (bins.octaves - 1))


# Where the middle is --------------------------------------------------------------------------------------------------


def place_by_sample(
    sample: np.ndarray, rows: np.ndarray, missing: float | int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Unit and origin for each row of a sample of shape ``(count, values)``: by how wide its middle is, and its median.

    Bins need only a rough idea of the data. If the sample lies far from the data, bins there are coarser in proportion
    to the distance; but if many values lie so far away, their range is as wide. `rows` are the statistics of all
    values that the sample was taken from: they tell how wide the data is where all values of the sample are equal.
    """
    values = sample.astype(np.float64)
    if missing is not None:
        values[sample == np.asarray(missing, sample.dtype)] = np.nan
    values[~np.isfinite(values)] = np.nan
    values.sort(axis=1)  # puts NaN last
    valid = np.count_nonzero(~np.isnan(values), axis=1)
    low, high = bounds(rows)
    low, high = np.nan_to_num(low), np.nan_to_num(high)

    def at_share(share: float) -> np.ndarray:
        place = np.maximum(valid - 1, 0) * share
        found = np.take_along_axis(values, place.astype(np.intp)[:, None], axis=1)[:, 0]
        return np.where(valid > 0, found, low / 2 + high / 2)

    middle = at_share(0.5)
    width = at_share(0.9) / 2 - at_share(0.1) / 2
    for instead in (high / 32 - low / 32, np.abs(middle), np.ones(len(middle))):
        width = np.where(width > 0, width, instead)
    return snapped(middle, width / 2)


def snapped(middle: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit, a power of two of at least `width`, and the origin in those units that lies next to `middle`."""
    width = np.maximum(np.clip(width, SMALLEST, LARGEST), np.abs(middle) * NEAR)
    unit = np.ldexp(1.0, np.frexp(width)[1])
    return unit, -np.rint(middle / unit).astype(np.int64)


def merged_place(unit: np.ndarray, origin: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit and origin for the merger of several histograms: from shape ``(histograms, count)`` to ``(count,)``.

    The origin is at the weighted median of theirs. The unit is half the weighted median of theirs and the median
    distance of their origins from it, together and rounded up.
    """
    with np.errstate(over="ignore"):  # of data next to the ends of float64
        centre = np.clip(-origin * unit, -FARTHEST, FARTHEST)
        middle = median(centre, weight)
        away = np.minimum(median(np.abs(centre - middle), weight), LARGEST / 4)
    return snapped(middle, median(unit / 2, weight) + away)


def median(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted median along the first axis; it is one of the values."""
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.take_along_axis(weight, order, axis=0).cumsum(axis=0)
    place = np.argmax(2 * reached >= reached[-1], axis=0)
    found: np.ndarray = np.take_along_axis(np.take_along_axis(values, order, axis=0), place[None], axis=0)[0]
    return found


def edge(number: int, bins: FloatBins) -> float:
    """The lower edge of a bin, as `y`.

    >>> [edge((FINE.number >> 1) + i, FINE) for i in (0, 1, 256, 257)]
    [-0.001953125, 0.001953125, 0.998046875, 1.00390625]
    """
    return float(edge_of(number, *loop_bins(bins)[:2]))


# Loops ----------------------------------------------------------------------------------------------------------------


KEYS_AT_ONCE = 1024  # keys: found in one loop, which vectorizes, before they are counted in another, which does not


@numba.njit
def key_of_number(y, bits, side, most):  # type: ignore[no-untyped-def]
    """The number of the bin that holds a `y`; NaN counts as infinite."""
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
    keys = np.empty(KEYS_AT_ONCE, np.uint32)
    for row in range(block.shape[0]):
        index = row // repeat % table.shape[1]
        line, own, other, affine = block[row], counts[index], spare[index], column(table, index)
        for start in range(0, line.shape[0], KEYS_AT_ONCE):
            part = line[start : start + KEYS_AT_ONCE]
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
            counts[i, key_of_value(x, column(table, i), sentinel, bits, side, most)] += counts.dtype.type(1)


@numba.njit
def edge_of(number, bits, side):  # type: ignore[no-untyped-def]
    halves = 2 * (number - side) - 1  # half bins, from the middle of the bin that holds the origin
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
            if its_counts[index, number] == 1:  # alone at an end, it is the bound
                if number == first:
                    x = low[index]
                elif number == last:
                    x = high[index]
            y = x / unit[index] + origin[index]
            counts[index, key_of_number(y, bits, side, most)] += its_counts[index, number]


class GrowingHistogram:
    """A histogram to which blocks are added as they come. The first values of a group decide where its bins lie."""

    def __init__(self, bins: FloatBins, count: int, granularity: Granularity, missing: float | int | None) -> None:
        self.histogram = Histogram.about(bins, np.ones(count), np.zeros(count, np.int64))
        self.placed = np.zeros(count, bool)
        self.granularity = granularity
        self.missing = missing

    def add(self, values: np.ndarray, groups: slice, block: np.ndarray, lines: Lines, rows: np.ndarray) -> None:
        """Count the values of some groups. `block` and `lines` are the same values as loops take them."""
        own, placed = self.histogram.part(groups), self.placed[groups]
        new = ~placed & (rows[:, 2] > 0)
        if new.any():
            sample = self.granularity.sample(values, sample_size(self.granularity))
            unit, origin = place_by_sample(sample, rows, self.missing)
            own.unit[new], own.origin[new], placed[new] = unit[new], origin[new], True
        own.add(block, lines, self.missing)
        if rows[:, 3:7].any():
            own.leave_out(rows)
