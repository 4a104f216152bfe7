"""What the loops look up: coefficients to quantize with, and the levels that codes stand for.

Each is made of scales and codes, for one dtype; the loops know no more of them than these tables.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .blocks import first_index
from .dtypes import arithmetic, finite_range, rounded, rounded_each, rounded_within
from .granularity import PER_TENSOR, Granularity
from .grid import Region, Shape, shape_of
from .scales import HIGHEST, LOWEST, Codes, Scale, Scales


class Affine(NamedTuple):
    """The numbers of `pack_loop`: ``code = clip(rint((x * factor - anchor) * inverse + offset))``.

    This is ``rint(x / s) + z`` about an `anchor`, the level of the lowest code: the difference is taken before anything
    is scaled, so that it loses nothing where the data lie far from zero. `factor` is a power of two that keeps the
    difference and the reciprocal of very large and very small scales in range, 1 where these are neither. `magic` is
    1.5 * 2^23 (float64: 2^52): added to a number it rounds it half to even and leaves it in the low bits, above those
    of `magic` itself, whose last bit is that of z: so the ties are those of x / s.

    Loops take them as a table of shape ``(8, count)``, a column for each scale.
    """

    factor: Any
    anchor: Any
    inverse: Any
    offset: Any
    low: Any
    high: Any
    nan: Any
    magic: Any


class BlockSteps(NamedTuple):
    """What values of blocks are quantized with, as the loops take it: ``code = clip(rint(x / scale + zero_point))``.

    A table of shape ``(4, groups)``, a column for each block. The loops reckon from it what `Affine` has.
    """

    scale: Any
    zero_point: Any
    low: Any
    nan: Any


BOUND_SLACK = 1e-5  # of half a step: what the bound of half a step allows the kernels to lose to rounding
FAR = Fraction(1 << 60)  # steps: offsets are cut there, farther than any two values of a dtype that differ lie apart
EDGE = {np.float32: 100, np.float64: 1000}  # powers of two: scales up to it, and down to its reciprocal, need no factor
MANTISSA = {np.float32: 23, np.float64: 52}  # bits of the fraction


@functools.lru_cache(maxsize=256)
def affine(dtype: np.dtype[Any], scale: float, zero_point: int, nan_code: int | None, low: int) -> np.ndarray:
    """Coefficients for blocks of `dtype`, shape (8, 1), rounded once from exact rational numbers.

    An extreme `value_range` may ask for more than the arithmetic has: `inverse` is then the nearest it has, which
    takes all values to one side or the other as they should be.
    """
    number = arithmetic(dtype)
    edge = EDGE[number]
    exponent = math.frexp(scale)[1]
    factor = Fraction(1) if -edge <= exponent <= edge else Fraction(2) ** (edge if exponent < 0 else -edge)
    step = Fraction(scale)
    smallest, largest = Fraction(float(np.finfo(number).tiny)), Fraction(float(np.finfo(number).max))
    lowest_level = min(max((low - zero_point) * step, -largest), largest)
    anchor = Fraction(float(number(float(lowest_level))))
    found = Affine(
        factor=float(factor),
        anchor=float(anchor * factor),
        inverse=float(min(max(1 / (step * factor), smallest), largest)),
        offset=float(min(max(anchor / step + zero_point, -FAR), FAR)),
        low=low,
        high=7,
        nan=low if nan_code is None else nan_code,
        magic=1.5 * 2.0 ** MANTISSA[number] + zero_point % 2,
    )
    return np.array(found, number).reshape(-1, 1)


def affines(
    dtype: np.dtype[Any], scales: np.ndarray, zero_points: np.ndarray, nan_code: int | None, low: int
) -> np.ndarray:
    """As `affine`, of many scales at once, shape ``(8, count)``.

    Where scale and zero point are of an ordinary size, float64 is as good as exact: the offset is then off by less than
    2^-22 of a step.
    """
    number = arithmetic(dtype)
    exponent = np.frexp(scales)[1]
    with np.errstate(over="ignore"):  # those are not ordinary
        levels = (low - zero_points).astype(np.float64) * scales
    ordinary = (np.abs(exponent) < EDGE[number]) & (zero_points > -(1 << 30)) & (zero_points < 1 << 30)
    ordinary &= np.abs(levels) < np.finfo(number).max / 2
    anchor = np.where(ordinary, levels, 0.0).astype(number)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = Affine(
            factor=1,
            anchor=anchor,
            inverse=1 / scales,
            offset=(anchor - levels) / scales + low,
            low=low,
            high=HIGHEST,
            nan=low if nan_code is None else nan_code,
            magic=1.5 * 2.0 ** MANTISSA[number] + zero_points % 2,
        )
        table = np.empty((len(found), len(scales)), number)
        for row, values in zip(table, found, strict=True):
            row[:] = values
    for i in np.flatnonzero(~ordinary):
        table[:, i : i + 1] = affine(dtype, float(scales[i]), int(zero_points[i]), nan_code, low)
    return table


def affine_table(
    dtype: np.dtype[Any], scales: np.ndarray, zero_points: np.ndarray, nan_code: int | None, low: int
) -> np.ndarray:
    """As `affine` of one scale, or as `affines` of many: shape ``(8, count)``."""
    if len(scales) == 1:
        return affine(dtype, float(scales[0]), int(zero_points[0]), nan_code, low)
    return affines(dtype, scales, zero_points, nan_code, low)


def coefficients(scales: Scales, dtype: np.dtype[Any], codes: Codes) -> np.ndarray:
    """What values of a dtype are quantized with, as the loops take it: a column for each group.

    Its rows are those of `Affine`, or of `BlockSteps` where zero points are no whole numbers.
    """
    scale, zero_point = scales.scale.reshape(-1), scales.zero_point.reshape(-1)
    if scales.granularity.fraction > 1:
        table = np.empty((len(BlockSteps._fields), scales.count))
        nan = codes.lowest if codes.nan_code is None else codes.nan_code
        for row, values in zip(table, BlockSteps(scale, zero_point, codes.lowest, nan), strict=True):
            row[:] = values
        return table
    return affine_table(dtype, scale, zero_point, codes.nan_code, codes.lowest)


def pairs_of(table: np.ndarray) -> np.ndarray:
    """Both values of each byte, shape (256,), by a table of 16: an entry is the bits of the two, side by side."""
    codes = np.arange(256, dtype=np.uint8)
    both: np.ndarray[Any, Any] = np.stack([table[(codes & 15) ^ 8], table[(codes >> 4) ^ 8]], axis=1)
    return both.view(PAIRS[table.dtype.itemsize])[:, 0]


PAIRS: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint16),
    2: np.dtype(np.uint32),
    4: np.dtype(np.uint64),
    8: np.dtype(np.complex128),
}


def levels(
    scale: Scale,
    dtype: np.dtype[Any],
    codes: Codes = Codes(),  # noqa: B008  frozen
) -> tuple[np.ndarray, np.ndarray]:
    """The values ``(code - zero_point) * scale`` of the codes -8..7, and which of them the dtype cannot hold.

    They are computed in float64 and rounded once, half to even, to `dtype`. That of `nan_code` is NaN, or in an integer
    dtype the missing value. A value beyond the dtype's finite range by at most half a step (and `BOUND_SLACK` of that)
    saturates; one further out cannot be held, and its entry means nothing.

    Examples
    --------
    >>> values, outside = levels(Scale(1.5), np.dtype(np.float32))
    >>> values[[0, 4, 8, 15]].tolist(), bool(outside.any())
    ([-12.0, -6.0, 0.0, 10.5], False)
    """
    values, outside = np.zeros(16, dtype), np.zeros(16, bool)
    lowest, highest = finite_range(dtype)
    half = Fraction(scale.scale) / 2 * (1 + Fraction(str(BOUND_SLACK)))
    for place, code in enumerate(range(LOWEST, HIGHEST + 1)):
        if code == codes.nan_code:
            if dtype.kind not in "iu":
                values[place] = np.nan
            elif codes.missing is not None:
                values[place] = codes.missing
            else:
                outside[place] = True
            continue
        exact = (code - scale.zero_point) * Fraction(scale.scale)
        if exact < lowest - half or exact > highest + half:
            outside[place] = True
        elif exact <= lowest or exact >= highest:
            values[place] = rounded(float(lowest if exact <= lowest else highest), dtype)
        else:
            values[place] = rounded(float(code - scale.zero_point) * scale.scale, dtype)
    return values, outside


def levels_each(
    scales: np.ndarray, zero_points: np.ndarray, dtype: np.dtype[Any], codes: Codes
) -> tuple[np.ndarray, np.ndarray]:
    """As `levels`, for many scales: tables of shape ``(count, 16)``, and whether each entry lies outside the dtype."""
    with np.errstate(over="ignore"):
        exact = (np.arange(LOWEST, HIGHEST + 1) - zero_points[:, None]).astype(np.float64) * scales[:, None]
    limits = [float(limit) for limit in finite_range(dtype)]
    ordinary = (exact > limits[0] * (1 - 2.0**-10)) & (exact < limits[1] * (1 - 2.0**-10))
    inside = ordinary.all(axis=1) & (zero_points > -(1 << 52)) & (zero_points < 1 << 52)
    tables = np.zeros(exact.shape, dtype)
    tables[inside] = rounded_each(exact[inside], dtype)
    outside = np.zeros(exact.shape, bool)
    if codes.nan_code is not None and inside.any():
        place = codes.nan_code - LOWEST
        values, beyond = levels(Scale(1.0), dtype, codes)
        tables[inside, place], outside[inside, place] = values[place], beyond[place]
    for i in np.flatnonzero(~inside):
        tables[i], outside[i] = levels(Scale(float(scales[i]), int(zero_points[i])), dtype, codes)
    return tables, outside


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The values of the codes -8..7 for each group.

    `values` has 16 entries for each group, shape ``(..., 16)`` with the axes of an array of scales, or ``(16,)`` where
    all values share one. `outside` tells those that the dtype cannot hold. `shape` is that of the values to look up.
    """

    values: np.ndarray
    outside: np.ndarray
    granularity: Granularity = PER_TENSOR
    shape: Shape = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def rows(self) -> np.ndarray:
        """The values, shape ``(groups, 16)``."""
        return self.values.reshape(-1, 16)

    @property
    def overflows(self) -> bool:
        """Whether there is an entry that the dtype cannot hold."""
        return bool(self.outside.any())

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """As `pairs_of`, where all values share one scale."""
        return pairs_of(self.rows[0])

    def part(self, region: Region) -> LevelTable:
        """That of a region."""
        if self.granularity.single:
            return self
        own = self.granularity.scales_of(region, self.shape)
        return LevelTable(self.values[own], self.outside[own], self.granularity, shape_of(region))

    def look_up(self, codes: np.ndarray) -> np.ndarray:
        """The value of each code.

        Raises
        ------
        ValueError
            If the dtype cannot hold it.
        """
        self.check(codes)
        found: np.ndarray = self.rows[self.granularity.index_of(codes.shape), codes.astype(np.intp) - LOWEST]
        return found

    def check(self, codes: np.ndarray) -> None:
        """Raise a ValueError for the first code whose value does not fit the dtype that it is to be restored to."""
        if not self.outside.any():
            return
        rows = self.outside.reshape(-1, 16)
        outside = rows[self.granularity.index_of(codes.shape), codes.astype(np.intp) - LOWEST]
        if outside.any():
            raise ValueError(too_wide(codes, first_index(outside), self.dtype))


@dataclass(frozen=True, eq=False)
class BlockLevels:
    """As `LevelTable`, of blocks: they are too small to make 16 values for each. What it says of values is computed."""

    scales: Scales
    dtype: np.dtype[Any]
    codes: Codes

    @property
    def granularity(self) -> Granularity:
        return self.scales.granularity

    def part(self, region: Region) -> BlockLevels:
        return BlockLevels(self.scales.part(region), self.dtype, self.codes)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The values of the codes -8..7, shape ``(groups, 16)``."""
        return self._values(self._exact(np.arange(LOWEST, HIGHEST + 1), np.arange(self.scales.count)[:, None]))

    @functools.cached_property
    def outside(self) -> np.ndarray:
        """Which of them the dtype cannot hold, shape ``(groups, 16)``."""
        return self._outside(np.arange(LOWEST, HIGHEST + 1), np.arange(self.scales.count)[:, None])

    @functools.cached_property
    def overflows(self) -> bool:
        """Whether there is one that it cannot hold: then it is one of the outermost, or that of missing values."""
        nowhere = self.dtype.kind in "iu" and self.codes.missing is None and self.codes.nan_code is not None
        ends = self.codes.lowest, HIGHEST
        return nowhere or bool(self._outside(np.array(ends), np.arange(self.scales.count)[:, None]).any())

    def look_up(self, codes: np.ndarray) -> np.ndarray:
        """The value of each code.

        Raises
        ------
        ValueError
            If the dtype cannot hold it.
        """
        self.check(codes)
        return self._values(self._exact(codes, self.granularity.index_of(codes.shape)))

    def check(self, codes: np.ndarray) -> None:
        """Raise a ValueError for the first code whose value does not fit the dtype that it is to be restored to."""
        outside = self._outside(codes, self.granularity.index_of(codes.shape))
        if outside.any():
            raise ValueError(too_wide(codes, first_index(outside), self.dtype))

    def _exact(self, codes: np.ndarray, index: Any) -> np.ndarray:
        """The values of codes in float64, exact where scales have five bits; that of a missing one is NaN."""
        with np.errstate(over="ignore"):  # beyond any dtype
            exact = (codes - self.scales.zero_point.reshape(-1)[index]) * self.scales.scale.reshape(-1)[index]
        return np.asarray(np.where(codes == self.codes.nan_code, np.nan, exact))

    def _values(self, exact: np.ndarray) -> np.ndarray:
        return rounded_within(exact, self.dtype, self.codes.missing)

    def _outside(self, codes: np.ndarray, index: Any) -> np.ndarray:
        exact, half = self._exact(codes, index), self.scales.scale.reshape(-1)[index] * (0.5 * (1 + BOUND_SLACK))
        lowest, highest = map(float, finite_range(self.dtype))
        with np.errstate(over="ignore"):
            outside = (exact < lowest - half) | (exact > highest + half)
        nowhere = self.dtype.kind in "iu" and self.codes.missing is None
        return np.asarray(outside | np.isnan(exact) if nowhere else outside)


def too_wide(codes: np.ndarray, index: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"code {codes[index]} at index {index} stands for a value that {dtype} cannot hold; pass a wider dtype"


CODES = LevelTable(np.arange(LOWEST, HIGHEST + 1, dtype=np.int8), np.zeros(16, bool))


CodeLevels = LevelTable | BlockLevels  # what codes stand for


def level_table(scales: Scales, dtype: np.dtype[Any], codes: Codes) -> CodeLevels:
    """What codes stand for in a dtype, with these scales."""
    if scales.granularity.fraction > 1:
        return BlockLevels(scales, dtype, codes)
    if scales.granularity.single:
        return _one_level_table(float(scales.scale.item()), int(scales.zero_point.item()), dtype, codes)
    values, outside = levels_each(scales.scale.reshape(-1), scales.zero_point.reshape(-1), dtype, codes)
    shape = (*scales.scale.shape, 16)
    return LevelTable(values.reshape(shape), outside.reshape(shape), scales.granularity, scales.shape)


@functools.lru_cache(maxsize=256)
def _one_level_table(scale: float, zero_point: int, dtype: np.dtype[Any], codes: Codes) -> LevelTable:
    return LevelTable(*levels(Scale(scale, zero_point), dtype, codes))
