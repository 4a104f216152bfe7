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

from ..kernels import argument, as_number, bits_of, compiled
from ..numerics.blocks import first_index
from ..numerics.dtypes import finite_range
from ..numerics.granularity import Runs
from ..numerics.grid import Region, Shape, index_at
from ..numerics.scales import HIGHEST, LOWEST, Codes, Scales
from ..numerics.tables import BOUND_SLACK, BlockLevels, CodeLevels, level_table, too_wide
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


VALUE_BINS = EvenBins(24, 42)  # steps: bins of values, in which the level of code q lies at q
ERROR_BINS = EvenBins(1, 126)  # steps: bins of errors; 126 has the divisors that let joined bins end at half a step
ERRORS_A_VALUE = ERROR_BINS.per_unit // VALUE_BINS.per_unit  # bins of errors, all of which a bin of values has
RECKONED = (np.dtype(np.float32), np.dtype(np.float64))  # dtypes that the loop rounds to
NO_CODE = 99
ONE_RUN = Runs(np.zeros(1, np.int64), n=1 << 62, length=1 << 62, offset=0)  # of however many values
EXACT_LEVELS = 1 / 32  # steps: levels that rounding to the dtype moves by no more tell where values lie
PAIRS = 16 * ERROR_BINS.number  # of a code and a bin of errors; the one behind the last is of what has no error


@dataclass(frozen=True, eq=False)
class Counts:
    """How many values have each code, lie in each of `VALUE_BINS`, and have errors in each of `ERROR_BINS`.

    The loops count `near` pairs of code and error: where a value lies that is near its level follows from both. Of
    those that are `far` from theirs it has been counted into `places`, and of those without an error, `others`, the
    codes.
    """

    near: np.ndarray = field(default_factory=functools.partial(np.zeros, PAIRS + 1, np.int64))
    far: np.ndarray = field(default_factory=functools.partial(np.zeros, PAIRS + 1, np.int64))
    places: np.ndarray = field(default_factory=functools.partial(np.zeros, VALUE_BINS.number, np.int64))
    others: np.ndarray = field(default_factory=functools.partial(np.zeros, 16, np.int64))

    def add(self, other: Counts) -> None:
        for one in fields(self):
            getattr(self, one.name)[...] += getattr(other, one.name)

    @property
    def pairs(self) -> np.ndarray:
        return np.asarray((self.near + self.far)[:-1].reshape(16, ERROR_BINS.number))

    @property
    def codes(self) -> np.ndarray:
        return np.asarray(self.pairs.sum(axis=1) + self.others)

    @property
    def errors(self) -> np.ndarray:
        return np.asarray(self.pairs.sum(axis=0))

    @property
    def values(self) -> np.ndarray:
        found = self.places.copy()
        error = np.arange(ERROR_BINS.number) - 1 - ERROR_BINS.reach * ERROR_BINS.per_unit  # lower ends of the bins
        level = (np.arange(LOWEST, HIGHEST + 1) + VALUE_BINS.reach) * VALUE_BINS.per_unit + 1
        bins = level[:, np.newaxis] - 1 - error // ERRORS_A_VALUE
        np.add.at(found, bins, self.near[:-1].reshape(bins.shape))
        return found


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
    place : Runs, optional
        Which of the scales each value has, where the region is not cut as the granularity says.
    """

    scales: Scales
    codes: Codes
    clips: bool
    dtype: np.dtype[Any]
    place: Runs | None = None

    @functools.cached_property
    def runs(self) -> Runs:
        """Which of the scales each value of the region has."""
        shape = self.scales.shape
        return self.place or self.scales.granularity.runs(tuple(slice(0, n) for n in shape), shape)

    @functools.cached_property
    def exact(self) -> CodeLevels:
        """The values of the codes, in the dtype; that of missing ones means nothing where integers have none."""
        known = 0 if self.codes.missing is None else self.codes.missing
        return level_table(self.scales, self.dtype, replace(self.codes, missing=known))

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The values of the codes, in float64, shape ``(groups, 16)``; that of missing ones is NaN."""
        values = self.exact.rows.astype(np.float64)
        if self.codes.nan_code is not None:
            values[:, self.codes.nan_code - LOWEST] = np.nan
        return values

    @property
    def is_reckoned(self) -> bool:
        """Whether the loop reckons the values of blocks, which are few for a table, and rounds them by itself."""
        return isinstance(self.exact, BlockLevels) and self.dtype in RECKONED

    @functools.cached_property
    def rounds_little(self) -> bool:
        """Whether values lie where their codes and errors say: rounding to the dtype moves no level far."""
        scale, zero_point = self.scales.scale.reshape(-1, 1), self.scales.zero_point.reshape(-1, 1)
        if self.is_reckoned:
            with np.errstate(over="ignore"):  # a code that no value has may stand for one beyond float64
                reach = np.maximum(HIGHEST - zero_point, zero_point - LOWEST) * scale
            info = np.finfo(self.dtype)
            moved = np.maximum(reach * float(info.eps), float(info.smallest_subnormal)) / 2
            return bool(((reach <= float(info.max)) & (moved <= EXACT_LEVELS * scale)).all())
        with np.errstate(over="ignore", invalid="ignore"):
            moved = self.table / scale + zero_point - np.arange(LOWEST, HIGHEST + 1)
        return not (np.abs(moved) > EXACT_LEVELS).any()

    def part(self, region: Region) -> ErrorBound:
        """The bound of any region; where all values share one scale, this one, which has its table already."""
        if self.scales.granularity.single:
            return self
        place = self.scales.granularity.runs(region, self.scales.shape)
        return replace(self, scales=self.scales.part(region), place=place)

    def compare(self, original: np.ndarray, codes: np.ndarray, corner: Shape) -> tuple[Sums, Counts]:
        """Errors of a piece of the source, given its codes; its first value has the index `corner`.

        Raises
        ------
        ValueError
            If a code stands for a value that the dtype cannot hold.
        """
        self.check(codes)
        if self.codes.missing is not None:
            absent = original == np.asarray(self.codes.missing).astype(original.dtype)
            original = np.where(absent, np.nan, original.astype(np.float64))
        return errors_of_block(original, np.ascontiguousarray(codes), self, corner)

    def check(self, codes: np.ndarray) -> None:
        if not self.exact.overflows:
            return
        outside = self.exact.outside.reshape(-1, 16)[self.index(codes.shape), codes.astype(np.intp) - LOWEST]
        if outside.any():
            raise ValueError(too_wide(codes, first_index(outside), self.dtype))

    def index(self, shape: Shape) -> np.ndarray:
        """The number of the scale of each value, for values of this shape."""
        if self.scales.granularity.single:  # the region may be larger
            return np.zeros(shape, np.intp)
        return self.runs.groups().reshape(shape)


def errors_of_arrays(original: np.ndarray, restored: np.ndarray, corner: Shape) -> Sums:
    """Errors of a piece of one array against that of another, of which no scale is known."""

    def sums(x: np.ndarray, scaled: np.ndarray | None, power: int) -> tuple[Sums, None]:
        whole, real = np.zeros(4, np.int64), np.zeros(6)
        pair = map(argument, (x, y if scaled is None else scaled))
        compiled(error_loop, "float64")(*pair, whole, real)
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
    found, _ = without_overflow(sums, np.asarray, x, lambda: y)
    return with_index(found, original.shape, corner)


def errors_of_block(original: np.ndarray, codes: np.ndarray, bound: ErrorBound, corner: Shape) -> tuple[Sums, Counts]:
    """Errors of values of any shape, given their codes."""
    spacings = np.array([spacing(original.dtype), spacing(bound.dtype)], np.int64)

    def sums(x: np.ndarray, scaled: np.ndarray | None, power: int) -> tuple[Sums, Counts]:
        return sums_and_counts(x, codes, scaled, bound, power, spacings + np.array([power, 0]))

    def restored(table: np.ndarray) -> np.ndarray:
        return np.asarray(table[bound.index(codes.shape), codes.astype(np.intp) - LOWEST])

    x = np.ascontiguousarray(original, np.float32 if original.dtype == np.float32 else np.float64)
    found, counts = without_overflow(sums, restored, x, lambda: bound.table)
    return with_index(found, original.shape, corner), counts


def without_overflow(
    sums: Callable[[np.ndarray, np.ndarray | None, int], tuple[Sums, Distribution]],
    restored: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    levels: Callable[[], np.ndarray],
) -> tuple[Sums, Distribution]:
    """Call `sums` on original values and on what gives the restored ones, in units in which no square overflows.

    Nor does one vanish. `sums` takes both, the latter None as they are, and the power of two that they are multiplied
    with.
    """
    found, counts = sums(x, None, 0)
    if ordinary(found):
        return found, counts
    # Errors have a unit of their own.
    with np.errstate(over="ignore"):
        x = x.astype(np.float64)
        rmse = root_mean_square(x, restored(levels()), found.largest)
        largest = np.abs(x).max(where=np.isfinite(x), initial=0.0)
        power = int(np.clip(np.frexp(largest)[1], -1000, 1000))
        other, others = sums(np.ldexp(x, -power), np.ldexp(levels(), -power), -power)
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
    x: np.ndarray, codes: np.ndarray, scaled: np.ndarray | None, bound: ErrorBound, power: int, spacings: np.ndarray
) -> tuple[Sums, Counts]:
    """Sums and counts of a block, in which `at` is the position of the largest error, in C order.

    Values, and the table of what is restored where it is given, are multiplied with two to the `power`.
    """
    counts = Counts()
    whole, real = np.zeros(7, np.int64), np.zeros(7)
    slack = 0.5 if bound.dtype.kind in "iu" else 0.0
    zero_points = bound.scales.zero_point.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore", divide="ignore"):
        scales = np.ldexp(bound.scales.scale.reshape(-1), power)
        steps = (scales, 1 / scales, zero_points)
    table, limits = bound.table if scaled is None and not bound.is_reckoned else scaled, None
    if table is None:
        nan_code = np.int8(NO_CODE if bound.codes.nan_code is None else bound.codes.nan_code)
        limits = (*map(bound.dtype.type, finite_range(bound.dtype)), nan_code)
    runs = bound.runs if not bound.scales.granularity.single else ONE_RUN
    lowest, arrays = bound.codes.lowest, tuple(getattr(counts, one.name) for one in fields(counts))
    x, codes = argument(x.reshape(-1)), argument(codes.reshape(-1))
    loop = compiled(compare_loop, x.dtype, *(() if limits is None else (bound.dtype,)))
    loop(x, codes, runs, table, limits, steps, lowest, spacings, slack, bound.rounds_little, arrays, whole, real)
    count, missing, mismatched, infinite, saturated, outside, position = whole.tolist()
    bias, mae, rmse, mean, deviation, largest, in_range = real.tolist()
    outside = outside if bound.clips else outside + saturated
    numbers = (count, missing, mismatched, infinite, saturated, outside)
    at = (position,) if count else None
    return Sums(*numbers, bias, mae, rmse, mean, deviation, largest, in_range, at), counts


@functools.cache
def spacing(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest exponent and bits of the mantissa of a dtype; integers are float64 here."""
    info = ml_dtypes.finfo(np.float64 if dtype.kind in "iu" else dtype)
    return int(info.minexp), int(info.nmant)


# Loops ----------------------------------------------------------------------------------------------------------------


@numba.njit
def bin_of(bins, value):  # type: ignore[no-untyped-def]
    most = bins.reach * bins.per_unit
    place = value * bins.per_unit
    place = place if place < most + 0.5 else most + 0.5  # NaN too
    place = place if place > -most - 0.5 else -most - 0.5
    return np.int32(place + (most + 1))


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


# A block is compared in strips of so many values. What is done with all values of a strip are loops without branches,
# which vectorize, and what few values need comes after.
STRIP = 256
ERRORS = ERROR_BINS.number
INFINITE = 0x7FF << 52  # the bits of float64's infinity: those of sizes below it are less, those of NaN more


@numba.njit
def number_of(bits):  # type: ignore[no-untyped-def]
    """The inverse of `bits_of`, which keeps the order of numbers that are not below 0."""
    return np.int64(bits).view(np.float64)


@numba.njit
def known(value, restored):  # type: ignore[no-untyped-def]
    """Whether there is an error: the value is finite, and neither is missing."""
    return (bits_of(abs(value)) < INFINITE) & (restored == restored)


@numba.njit
def difference(x, y):  # type: ignore[no-untyped-def]
    """In a function of its own: `add_strip` may change the order of its sums, but not take this one apart."""
    return x - y


@numba.njit
def pair_of(code, error, inverse):  # type: ignore[no-untyped-def]
    """In a function of its own for the same reason."""
    return (np.int32(code) + 8) * ERRORS + bin_of(ERROR_BINS, error * inverse * (1.0 - 2.0 * BOUND_SLACK))


@numba.njit(fastmath={"reassoc", "nsz"})
def add_strip(x, y, inverses, middle, sums, codes, pairs):  # type: ignore[no-untyped-def]
    """Add what a strip has to the sums; how many errors there are, the largest, and the largest in half steps.

    With its codes, it writes the pairs of code and error too.
    """
    count, largest, half = 0, np.int64(0), np.int64(0)
    bias, mae, square, total, spread = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        there = known(x[i], y[i])
        error = difference(y[i], x[i]) if there else 0.0
        off = difference(x[i], middle) if there else 0.0
        size = abs(error)
        count += there
        bias += error
        mae += size
        square += error * error
        total += off
        spread += off * off
        largest = max(largest, bits_of(size))
        half = max(half, bits_of(2.0 * size * inverses[i]))
        if codes is not None:
            pairs[i] = pair_of(codes[i], error, inverses[i]) if there else PAIRS
    sums[0] += bias
    sums[1] += mae
    sums[2] += square
    sums[3] += total
    sums[4] += spread
    return count, number_of(largest) if count else -1.0, number_of(half)


@numba.njit
def place_of(x, y, size):  # type: ignore[no-untyped-def]
    """Where the first error of a size is that a strip has."""
    i = 0
    while not (known(x[i], y[i]) and abs(y[i] - x[i]) == size):
        i += 1
    return i


@numba.njit
def figures_of(sums, count, middle):  # type: ignore[no-untyped-def]
    n = max(count, 1)
    bias, mae, square, total, spread = sums / n
    return bias, mae, math.sqrt(square), middle + total, math.sqrt(max(spread - total**2, 0.0))


def error_loop(x, y, whole, real):  # type: ignore[no-untyped-def]
    middle = first_restored(x, y)
    count, missing, mismatched, position, largest = 0, 0, 0, 0, -1.0
    sums, steps = np.zeros(5), np.ones(STRIP)
    for start in range(0, x.size, STRIP):
        values, restored = x[start : start + STRIP], y[start : start + STRIP]
        there, size, _ = add_strip(values, restored, steps, middle, sums, None, None)
        count += there
        if size > largest:
            largest, position = size, start + place_of(values, restored, size)
        if there < values.size:
            for i in range(values.size):
                absent, lost = math.isnan(values[i]), math.isnan(restored[i])
                missing += absent and lost
                mismatched += absent != lost and not math.isinf(values[i])
    whole[:] = (count, missing, mismatched, position)
    real[:5] = figures_of(sums, count, middle)
    real[5] = largest


@numba.njit
def count_into(counts, places):  # type: ignore[no-untyped-def]
    for i in range(places.size):
        counts[np.uint32(places[i])] += 1


@numba.njit
def widen(x, values):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        values[i] = x[i]


@numba.njit
def restore(levels, codes, restored):  # type: ignore[no-untyped-def]
    for i in range(codes.size):
        restored[i] = levels[np.uint32(codes[i] + np.int32(8))]  # below 0, a signed index counts from the end


@numba.njit
def reckoned(code, scale, zero_point, limits):  # type: ignore[no-untyped-def]
    """What is restored of a code: exact in float64, then rounded once."""
    low, high, nan_code = limits
    level = min(max((code - zero_point) * scale, np.float64(low)), np.float64(high))
    return np.nan if code == nan_code else np.float64(as_number(level, low))


@numba.njit
def reckon(scale, zero_point, limits, codes, restored):  # type: ignore[no-untyped-def]
    for i in range(codes.size):
        restored[i] = reckoned(codes[i], scale, zero_point, limits)


@numba.njit
def fill_strip(start, runs, codes, table, limits, steps, restored, inverses):  # type: ignore[no-untyped-def]
    """Give each value of a strip what is restored of it, and the step of its group.

    That is by the table, or where there is none by scale and zero point: Numba leaves out the branch of what is None.
    """
    scales, inverse, zero_points = steps
    i, row, j = 0, start // runs.n, start % runs.n
    while i < codes.size:
        place = runs.offset + j
        group, held = runs.first[row] + place // runs.length, runs.length - place % runs.length
        n = min(runs.n - j if runs.length == 1 else held, runs.n - j, codes.size - i)
        if runs.length == 1:
            if table is not None:
                for k in range(n):
                    restored[i + k] = table[group + k, codes[i + k] + 8]
            if limits is not None:
                for k in range(n):
                    restored[i + k] = reckoned(codes[i + k], scales[group + k], zero_points[group + k], limits)
            for k in range(n):
                inverses[i + k] = inverse[group + k]
        else:
            if table is not None:
                restore(table[group], codes[i : i + n], restored[i : i + n])
            if limits is not None:
                reckon(scales[group], zero_points[group], limits, codes[i : i + n], restored[i : i + n])
            if inverse.size > 1 or start == 0:
                inverses[i : i + n] = inverse[group]
        i, j = i + n, j + n
        if j == runs.n:
            row, j = row + 1, 0


@numba.njit
def group_of(i, runs):  # type: ignore[no-untyped-def]
    return runs.first[i // runs.n] + (runs.offset + i % runs.n) // runs.length


def compare_loop(  # type: ignore[no-untyped-def]
    x, codes, runs, table, limits, steps, lowest, spacings, slack, rounds_little, counts, whole, real
):
    scales, _, zero_points = steps
    near, far, places, others = counts
    count, missing, mismatched, infinite, saturated, outside, position = 0, 0, 0, 0, 0, 0, 0
    middle, largest, in_range, sums = 0.0, -1.0, 0.0, np.zeros(5)
    strips, room = np.empty((3, STRIP)), np.empty(STRIP, np.int32)
    for start in range(0, x.size, STRIP):
        own = codes[start : start + STRIP]
        n = own.size
        values, restored, inverses, pairs = strips[0, :n], strips[1, :n], strips[2, :n], room[:n]
        widen(x[start : start + n], values)
        fill_strip(start, runs, own, table, limits, steps, restored, inverses)
        if count == 0:
            middle = first_restored(values, restored)
        there, size, half = add_strip(values, restored, inverses, middle, sums, own, pairs)
        count += there
        if size > largest:
            largest, position = size, start + place_of(values, restored, size)
        count_into(near, pairs)
        if there == n and half <= 1.0 and rounds_little:
            in_range = max(in_range, half)
            continue
        for i in range(n):
            value, level, code = values[i], restored[i], own[i]
            error = level - value
            size, half = abs(error), 2.0 * abs(error) * inverses[i]
            if half <= 1.0:
                in_range = max(in_range, half)
                if rounds_little:
                    continue
            elif math.isinf(value):
                infinite += 1
                end = code == (7 if value > 0 else lowest)
                saturated += end
                outside += not end
            elif math.isnan(value) or math.isnan(level):
                both = math.isnan(value) and math.isnan(level)
                missing += both
                mismatched += not both
            else:
                rounding = slack + 2.0 * ulp(max(abs(value), abs(level)), spacings)
                if size > (1.0 + BOUND_SLACK) * scales[group_of(start + i, runs)] / 2.0 + rounding:
                    clipped = code == (7 if error < 0 else lowest)
                    saturated += clipped
                    outside += not clipped
                    half = 0.0 if clipped else half
                in_range = max(in_range, half)
            if pairs[i] == PAIRS:
                others[code + 8] += 1
            else:
                near[pairs[i]] -= 1
                far[pairs[i]] += 1
                zero_point = zero_points[group_of(start + i, runs)]
                places[bin_of(VALUE_BINS, value * inverses[i] + zero_point)] += 1
    whole[:] = (count, missing, mismatched, infinite, saturated, outside, position)
    real[:5] = figures_of(sums, count, middle)
    real[5:] = largest, in_range
