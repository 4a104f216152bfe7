"""Pieces of a source held against what is restored of them: sums of their errors, and where values and errors lie."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import ml_dtypes
import numba
import numpy as np

from ..kernels import compiled
from ..numerics.grid import Region, Shape, index_at
from ..numerics.scales import LOWEST, Codes, Scale, Scales
from ..numerics.tables import LevelTable, level_table
from .figures import Sums

SLACK = 1e-5  # of half a step: what a kernel may lose to rounding


class Bins(NamedTuple):
    """Bins of one width from ``-reach`` to `reach`, and one at either end for the rest.

    >>> Bins(reach=1, per_unit=2).edges().tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """

    reach: int
    per_unit: int

    @property
    def number(self) -> int:
        return 2 * self.reach * self.per_unit + 2

    def edges(self) -> np.ndarray:
        """Of the bins but the two at the ends."""
        return np.arange(-self.reach * self.per_unit, self.reach * self.per_unit + 1) / self.per_unit


VALUE_BINS = Bins(24, 32)  # of values, counted in steps: the level of code q lies at q
ERROR_BINS = Bins(1, 126)  # of errors, in steps: half of one is the bound; joined, they can be centred and end there


@dataclass(frozen=True, eq=False)
class Counts:
    """How many values have each code, lie in each of `VALUE_BINS`, and have errors in each of `ERROR_BINS`."""

    codes: np.ndarray = field(default_factory=lambda: np.zeros(16, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(VALUE_BINS.number, np.int64))
    errors: np.ndarray = field(default_factory=lambda: np.zeros(ERROR_BINS.number, np.int64))

    def add(self, other: Counts) -> None:
        for one in fields(self):
            getattr(self, one.name)[...] += getattr(other, one.name)


@dataclass(frozen=True, eq=False)
class Ruler:
    """What codes of a region stand for, and how far from that their values may lie.

    Attributes
    ----------
    scales : Scales
    codes : Codes
        Which codes values get, and which stands for missing ones.
    clips : bool
        Whether values may saturate, and it is no defect.
    dtype : dtype
        Of what is restored.
    """

    scales: Scales
    codes: Codes
    clips: bool
    dtype: np.dtype[Any]

    @functools.cached_property
    def exact(self) -> LevelTable:
        """The values of the codes, in the dtype; that of missing ones means nothing where integers have none."""
        known = 0 if self.codes.missing is None else self.codes.missing
        return level_table(self.scales, self.dtype, replace(self.codes, missing=known))

    @functools.cached_property
    def places(self) -> np.ndarray:
        """The number of the group at each place along the middle of the cube that the loops take."""
        numbers = np.arange(self.scales.count).reshape(self.scales.scale.shape)
        return np.asarray(self.scales.granularity.spread(numbers, self.scales.shape))

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The values of the codes, in float64, shape ``(places, 16)``; that of missing ones is NaN."""
        values = self.exact.rows.astype(np.float64)
        if self.codes.nan_code is not None:
            values[:, self.codes.nan_code - LOWEST] = np.nan
        return np.asarray(values[self.places])

    def part(self, region: Region) -> Ruler:
        """That of a region."""
        return replace(self, scales=self.scales.part(region))

    def compare(self, original: np.ndarray, codes: np.ndarray, corner: Shape) -> tuple[Sums, Counts]:
        """A piece of the source with its codes, whose first value has the index `corner`.

        Raises
        ------
        ValueError
            If a code stands for a value that the dtype cannot hold.
        """
        self.exact.check(codes)
        missing = self.codes.missing
        if missing is not None:
            absent = original == np.asarray(missing).astype(original.dtype)
            original = np.where(absent, np.nan, original.astype(np.float64))
        block = np.ascontiguousarray(codes).reshape(self.scales.granularity.cube(codes.shape))
        restored = np.empty(block.shape)
        compiled(restore_loop, "float64")(block, self.table, restored)
        return compare_block(original, restored, block, self, corner)


PLAIN = Ruler(Scales.one(Scale(1.0), (1,)), Codes(), True, np.dtype(np.float64))


def compare_arrays(original: np.ndarray, restored: np.ndarray, corner: Shape) -> Sums:
    """A piece of one array with that of another, of which no scale is known."""
    block = np.ascontiguousarray(restored).reshape(1, 1, -1).astype(np.float64)
    sums, _ = compare_block(original, block, np.zeros(block.shape, np.int8), PLAIN, corner)
    return replace(sums, saturated=0, outside=0, in_range=0.0)


def compare_block(
    original: np.ndarray, restored: np.ndarray, codes: np.ndarray, ruler: Ruler, corner: Shape
) -> tuple[Sums, Counts]:
    """Values of any shape, and as ``(before, along, behind)`` an axis what is restored of them and their codes."""
    x = np.ascontiguousarray(original, np.float64).reshape(codes.shape)
    scales = ruler.scales.scale.reshape(-1)[ruler.places]
    spacings = np.array([spacing(original.dtype), spacing(ruler.dtype)], np.int64)
    found, counts = compare_numbers(x, restored, codes, ruler, scales, spacings)
    if not ordinary(found):
        # In units, powers of two, in which no square overflows or vanishes: errors have one of their own.
        with np.errstate(over="ignore"):
            rmse = root_mean_square(x, restored, found.largest)
            largest = np.abs(x).max(where=np.isfinite(x), initial=0.0)
            power = int(np.clip(np.frexp(largest)[1], -1000, 1000))
            x, restored, scales = (np.ldexp(numbers, -power) for numbers in (x, restored, scales))
            other, others = compare_numbers(x, restored, codes, ruler, scales, spacings - [[power, 0]])
            other = other.times(power)
        # Large numbers made smaller may lose small steps and errors; their counts and means are right as found.
        found, counts = (found.with_means(other), counts) if power > 0 else (other, others)
        found = replace(found, rmse=rmse)
    if found.at is None:
        return found, counts
    return replace(found, at=tuple(map(operator.add, index_at(found.at[0], original.shape), corner))), counts


def ordinary(found: Sums) -> bool:
    """Whether squares are so far from the ends of float64 that sums of them are right."""
    roots = (found.rmse, found.deviation)
    return all(1e-140 < root < 1e140 or root == 0 for root in roots) and (found.rmse > 0 or found.largest <= 0)


def root_mean_square(x: np.ndarray, restored: np.ndarray, largest: float) -> float:
    """Of the errors, of which the largest is known."""
    known = np.isfinite(x) & ~np.isnan(restored)
    halved = int(math.isinf(largest))  # the difference of halves does not overflow
    errors = np.ldexp(restored[known], -halved) - np.ldexp(x[known], -halved)
    power = int(np.frexp(np.abs(errors).max(initial=0.0))[1])
    root = np.sqrt(np.square(np.ldexp(errors, -power)).sum() / max(errors.size, 1))
    return float(np.ldexp(root, power + halved))


def compare_numbers(
    x: np.ndarray, restored: np.ndarray, codes: np.ndarray, ruler: Ruler, scales: np.ndarray, spacings: np.ndarray
) -> tuple[Sums, Counts]:
    """As `compare_block`; `at` has only the position of the largest error, in C order."""
    counts, whole, real = Counts(), np.zeros(7, np.int64), np.zeros(7)
    slack = 0.5 if ruler.dtype.kind in "iu" else 0.0
    tables = (counts.codes, counts.values, counts.errors)
    with np.errstate(over="ignore", divide="ignore"):
        steps = (scales, 1 / scales, ruler.scales.zero_point.reshape(-1)[ruler.places].astype(np.float64))
    loop, lowest = compiled(compare_loop, "float64"), ruler.codes.lowest
    loop(x, restored, codes, steps, lowest, spacings, slack, tables, whole, real)
    count, missing, mismatched, infinite, saturated, outside, position = whole.tolist()
    bias, mae, rmse, mean, deviation, largest, in_range = real.tolist()
    outside = outside if ruler.clips else outside + saturated
    numbers = (count, missing, mismatched, infinite, saturated, outside)
    at = (position,) if count else None
    return Sums(*numbers, bias, mae, rmse, mean, deviation, largest, in_range, at), counts


def spacing(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest exponent and bits of the mantissa of a dtype; integers are float64 here."""
    info = ml_dtypes.finfo(np.float64 if dtype.kind in "iu" else dtype)
    return int(info.minexp), int(info.nmant)


# Loops ----------------------------------------------------------------------------------------------------------------


def restore_loop(codes, table, out):  # type: ignore[no-untyped-def]
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            for k in range(codes.shape[2]):
                out[i, j, k] = table[j, codes[i, j, k] + 8]


@numba.njit
def count_into(counts, bins, value):  # type: ignore[no-untyped-def]
    most = bins.reach * bins.per_unit
    place = value * bins.per_unit
    place = place if place < most + 0.5 else most + 0.5  # NaN too
    place = place if place > -most - 0.5 else -most - 0.5
    counts[np.uint32(place + (most + 1))] += 1


@numba.njit
def ulp(size, spacings):  # type: ignore[no-untyped-def]
    """The larger of the distances to the next number of either dtype."""
    exponent = math.frexp(size)[1] - 1
    first = max(exponent, spacings[0, 0]) - spacings[0, 1]
    return math.ldexp(1.0, max(first, max(exponent, spacings[1, 0]) - spacings[1, 1]))


@numba.njit
def first_of(x, y):  # type: ignore[no-untyped-def]
    """A restored value, which lies among the levels: sums of squares about it keep their digits far from zero."""
    for i in range(x.size):
        if math.isfinite(x[i]) and not math.isnan(y[i]):
            return y[i]
    return 0.0


def compare_loop(x, y, codes, steps, lowest, spacings, slack, counts, whole, real):  # type: ignore[no-untyped-def]
    scales, inverses, zero_points = steps
    middle = first_of(x.reshape(-1), y.reshape(-1))
    count, missing, mismatched, infinite, saturated, outside, position = 0, 0, 0, 0, 0, 0, 0
    bias, mae, square, total, spread, largest, in_range = 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                value, restored, code = x[i, j, k], y[i, j, k], codes[i, j, k]
                counts[0][np.uint8(code + 8)] += 1
                if math.isinf(value):
                    infinite += 1
                    end = code == (7 if value > 0 else lowest)
                    saturated += end
                    outside += not end
                    continue
                if math.isnan(value) or math.isnan(restored):
                    both = math.isnan(value) and math.isnan(restored)
                    missing += both
                    mismatched += not both
                    continue
                count += 1
                error, off = restored - value, value - middle
                size, half = abs(error), 2.0 * abs(error) * inverses[j]
                bias += error
                mae += size
                square += error * error
                total += off
                spread += off * off
                if size > largest:
                    largest, position = size, (i * x.shape[1] + j) * x.shape[2] + k
                if half > 1.0:
                    rounding = slack + 2.0 * ulp(max(abs(value), abs(restored)), spacings)
                    if size > (1.0 + SLACK) * scales[j] / 2.0 + rounding:
                        clipped = code == (7 if error < 0 else lowest)
                        saturated += clipped
                        outside += not clipped
                        half = 0.0 if clipped else half
                in_range = max(in_range, half)
                count_into(counts[1], VALUE_BINS, value * inverses[j] + zero_points[j])
                count_into(counts[2], ERROR_BINS, error * inverses[j] * (1.0 - 2.0 * SLACK))
    n = max(count, 1)
    whole[:] = (count, missing, mismatched, infinite, saturated, outside, position)
    real[:3] = bias / n, mae / n, math.sqrt(square / n)
    real[3:] = middle + total / n, math.sqrt(max(spread / n - (total / n) ** 2, 0.0)), largest, in_range
