"""Pieces of a source held against what is restored of them: sums of their errors, and where values and errors lie."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numba
import numpy as np

from ..kernels import compiled
from ..numerics.grid import Region, Shape, index_at
from ..numerics.scales import LOWEST, Codes, Scales
from ..numerics.tables import BOUND_SLACK, CodeLevels, level_table
from .figures import Sums

Distribution = TypeVar("Distribution")


class EvenBins(NamedTuple):
    """Bins of one width from ``-reach`` to `reach`, and one at either end for the rest.

    >>> EvenBins(reach=1, per_unit=2).edges().tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """

    reach: int
    per_unit: int

    @property
    def number(self) -> int:
        return 2 * self.reach * self.per_unit + 2

    def edges(self) -> np.ndarray:
        """Edges of all bins but the two at the ends."""
        return np.arange(-self.reach * self.per_unit, self.reach * self.per_unit + 1) / self.per_unit


VALUE_BINS = EvenBins(24, 32)  # steps: bins of values, in which the level of code q lies at q
ERROR_BINS = EvenBins(1, 126)  # steps: bins of errors; 126 has the divisors that let joined bins end at half a step


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
class ErrorBound:
    """The values that the codes of a region stand for, and how far those of the source may lie from them.

    Attributes
    ----------
    scales : Scales
    codes : Codes
        Which codes values get, and which stands for missing ones.
    clips : bool
        Whether a value may lie beyond the outermost level without being a defect.
    dtype : dtype
        Dtype of the restored values.
    """

    scales: Scales
    codes: Codes
    clips: bool
    dtype: np.dtype[Any]

    @functools.cached_property
    def exact(self) -> CodeLevels:
        """The values of the codes, in the dtype; that of missing ones means nothing where integers have none."""
        known = 0 if self.codes.missing is None else self.codes.missing
        return level_table(self.scales, self.dtype, replace(self.codes, missing=known))

    def each(self, entries: np.ndarray) -> np.ndarray:
        """An entry for each group as the loops take it: for each place along the middle of a `cube` of the region."""
        return self.scales.granularity.spread(entries, self.scales.shape)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The values of the codes, in float64, shape ``(places, 16)``; that of missing ones is NaN."""
        values = self.exact.rows.astype(np.float64)
        if self.codes.nan_code is not None:
            values[:, self.codes.nan_code - LOWEST] = np.nan
        groups = np.arange(self.scales.count).reshape(self.scales.scale.shape)
        return np.asarray(values[self.each(groups)])

    def part(self, region: Region) -> ErrorBound:
        """The bound of a region."""
        return replace(self, scales=self.scales.part(region))

    def compare(self, original: np.ndarray, codes: np.ndarray, corner: Shape) -> tuple[Sums, Counts]:
        """Errors of a piece of the source, given its codes; its first value has the index `corner`.

        Raises
        ------
        ValueError
            If a code stands for a value that the dtype cannot hold.
        """
        self.exact.check(codes)
        if self.codes.missing is not None:
            absent = original == np.asarray(self.codes.missing).astype(original.dtype)
            original = np.where(absent, np.nan, original.astype(np.float64))
        block = np.ascontiguousarray(codes).reshape(self.scales.granularity.cube(codes.shape))
        restored = np.empty(block.shape)
        compiled(restore_loop, "float64")(block, self.table, restored)
        return errors_of_block(original, restored, block, self, corner)


def errors_of_arrays(original: np.ndarray, restored: np.ndarray, corner: Shape) -> Sums:
    """Errors of a piece of one array against that of another, of which no scale is known."""

    def sums(x: np.ndarray, y: np.ndarray, power: int) -> tuple[Sums, None]:
        whole, real = np.zeros(4, np.int64), np.zeros(6)
        compiled(error_loop, "float64")(x, y, whole, real)
        count, missing, mismatched, position = whole.tolist()
        bias, mae, rmse, mean, deviation, largest = real.tolist()
        return Sums(
            count,
            missing,
            mismatched,
            x.size - count - missing - mismatched,
            bias=bias,
            mae=mae,
            rmse=rmse,
            mean=mean,
            deviation=deviation,
            largest=largest,
            at=(position,) if count else None,
        ), None

    x, y = (np.ascontiguousarray(values, np.float64).reshape(-1) for values in (original, restored))
    found, _ = without_overflow(sums, x, y)
    return with_index(found, original.shape, corner)


def errors_of_block(
    original: np.ndarray, restored: np.ndarray, codes: np.ndarray, bound: ErrorBound, corner: Shape
) -> tuple[Sums, Counts]:
    """Errors of values of any shape, given what is restored of them and their codes, both as a cube."""
    scales = bound.each(bound.scales.scale)
    spacings = np.array([spacing(original.dtype), spacing(bound.dtype)], np.int64)

    def sums(x: np.ndarray, y: np.ndarray, power: int) -> tuple[Sums, Counts]:
        return sums_and_counts(x, y, codes, bound, np.ldexp(scales, power), spacings + np.array([power, 0]))

    x = np.ascontiguousarray(original, np.float64).reshape(codes.shape)
    found, counts = without_overflow(sums, x, restored)
    return with_index(found, original.shape, corner), counts


def without_overflow(
    sums: Callable[[np.ndarray, np.ndarray, int], tuple[Sums, Distribution]], x: np.ndarray, restored: np.ndarray
) -> tuple[Sums, Distribution]:
    """Call `sums` on original and restored values, in units in which no square overflows or vanishes.

    `sums` takes both, and the power of two that they are multiplied with.
    """
    found, counts = sums(x, restored, 0)
    if ordinary(found):
        return found, counts
    # Errors have a unit of their own.
    with np.errstate(over="ignore"):
        rmse = root_mean_square(x, restored, found.largest)
        largest = np.abs(x).max(where=np.isfinite(x), initial=0.0)
        power = int(np.clip(np.frexp(largest)[1], -1000, 1000))
        other, others = sums(np.ldexp(x, -power), np.ldexp(restored, -power), -power)
        other = other.times(power)
    # Large numbers made smaller may lose small steps and errors; their counts and means are right as found.
    found, counts = (found.with_means(other), counts) if power > 0 else (other, others)
    return replace(found, rmse=rmse), counts


def with_index(found: Sums, shape: Shape, corner: Shape) -> Sums:
    """Turn the position of the largest error in a piece, in C order, into its index in the whole array."""
    if found.at is None:
        return found
    return replace(found, at=tuple(map(operator.add, index_at(found.at[0], shape), corner)))


def ordinary(found: Sums) -> bool:
    """Whether squares are so far from the ends of float64 that sums of them are right."""
    roots = (found.rmse, found.deviation)
    return all(1e-140 < root < 1e140 or root == 0 for root in roots) and (found.rmse > 0 or found.largest <= 0)


def root_mean_square(x: np.ndarray, restored: np.ndarray, largest: float) -> float:
    """Root mean square of the errors, of which the largest is known."""
    known = np.isfinite(x) & ~np.isnan(restored)
    halved = int(math.isinf(largest))  # the difference of halves does not overflow
    errors = np.ldexp(restored[known], -halved) - np.ldexp(x[known], -halved)
    power = int(np.frexp(np.abs(errors).max(initial=0.0))[1])
    root = np.sqrt(np.square(np.ldexp(errors, -power)).sum() / max(errors.size, 1))
    return float(np.ldexp(root, power + halved))


def sums_and_counts(
    x: np.ndarray, restored: np.ndarray, codes: np.ndarray, bound: ErrorBound, scales: np.ndarray, spacings: np.ndarray
) -> tuple[Sums, Counts]:
    """Sums and counts of a block, in which `at` is the position of the largest error, in C order."""
    counts, whole, real = Counts(), np.zeros(7, np.int64), np.zeros(7)
    slack = 0.5 if bound.dtype.kind in "iu" else 0.0
    tables = (counts.codes, counts.values, counts.errors)
    with np.errstate(over="ignore", divide="ignore"):
        steps = (scales, 1 / scales, bound.each(bound.scales.zero_point).astype(np.float64))
    loop, lowest = compiled(compare_loop, "float64"), bound.codes.lowest
    loop(x, restored, codes, steps, lowest, spacings, slack, tables, whole, real)
    count, missing, mismatched, infinite, saturated, outside, position = whole.tolist()
    bias, mae, rmse, mean, deviation, largest, in_range = real.tolist()
    outside = outside if bound.clips else outside + saturated
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
def first_restored(x, y):  # type: ignore[no-untyped-def]
    """The first restored value: sums of squares about it keep their digits, however far from zero the data lie."""
    for i in range(x.size):
        if math.isfinite(x[i]) and not math.isnan(y[i]):
            return y[i]
    return 0.0


def error_loop(x, y, whole, real):  # type: ignore[no-untyped-def]
    middle = first_restored(x, y)
    count, missing, mismatched, position = 0, 0, 0, 0
    bias, mae, square, total, spread, largest = 0.0, 0.0, 0.0, 0.0, 0.0, -1.0
    for i in range(x.size):
        value, restored = x[i], y[i]
        if math.isinf(value):
            continue
        if math.isnan(value) or math.isnan(restored):
            both = math.isnan(value) and math.isnan(restored)
            missing += both
            mismatched += not both
            continue
        count += 1
        error, off = restored - value, value - middle
        size = abs(error)
        bias += error
        mae += size
        square += error * error
        total += off
        spread += off * off
        if size > largest:
            largest, position = size, i
    n = max(count, 1)
    whole[:] = (count, missing, mismatched, position)
    real[:3] = bias / n, mae / n, math.sqrt(square / n)
    real[3:] = middle + total / n, math.sqrt(max(spread / n - (total / n) ** 2, 0.0)), largest


def compare_loop(x, y, codes, steps, lowest, spacings, slack, counts, whole, real):  # type: ignore[no-untyped-def]
    scales, inverses, zero_points = steps
    middle = first_restored(x.reshape(-1), y.reshape(-1))
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
                    if size > (1.0 + BOUND_SLACK) * scales[j] / 2.0 + rounding:
                        clipped = code == (7 if error < 0 else lowest)
                        saturated += clipped
                        outside += not clipped
                        half = 0.0 if clipped else half
                in_range = max(in_range, half)
                count_into(counts[1], VALUE_BINS, value * inverses[j] + zero_points[j])
                count_into(counts[2], ERROR_BINS, error * inverses[j] * (1.0 - 2.0 * BOUND_SLACK))
    n = max(count, 1)
    whole[:] = (count, missing, mismatched, infinite, saturated, outside, position)
    real[:3] = bias / n, mae / n, math.sqrt(square / n)
    real[3:] = middle + total / n, math.sqrt(max(spread / n - (total / n) ** 2, 0.0)), largest, in_range
