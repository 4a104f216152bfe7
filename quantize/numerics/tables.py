"""From codes back to numbers, by tables of the 16 values: of one scale, or of each index of an axis."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .blocks import first_index
from .dtypes import arithmetic, finite_range, rounded, rounded_each
from .grid import Shape
from .scales import HIGHEST, LOWEST, Scale


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


BOUND_SLACK = 1e-5  # of half a step: what the bound of half a step allows the kernels to lose to rounding


FAR = Fraction(1 << 60)  # steps: no difference between two values that the arithmetic holds apart is outweighed by it


EDGE = {np.float32: 100, np.float64: 1000}  # exponents of scales that need no factor


MANTISSA = {np.float32: 23, np.float64: 52}


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
    table = np.empty((len(Affine._fields), len(scales)), number)
    anchor = np.where(ordinary, levels, 0.0).astype(number)
    table[0] = 1
    table[1] = anchor
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        table[2] = 1 / scales
        table[3] = (anchor - levels) / scales + low
    table[4], table[5], table[6] = low, 7, low if nan_code is None else nan_code
    table[7] = 1.5 * 2.0 ** MANTISSA[number] + zero_points % 2
    for i in np.flatnonzero(~ordinary):
        table[:, i : i + 1] = affine(dtype, float(scales[i]), int(zero_points[i]), nan_code, low)
    return table


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


@dataclass(frozen=True, eq=False)
class Levels:
    """The 16 values of the codes -8..7 in one dtype.

    `table` has shape (16,); `outside` has the codes whose value does not fit the dtype: their entries mean nothing.
    """

    table: np.ndarray
    outside: frozenset[int]


def levels(parameters: Scale, dtype: np.dtype[Any], missing: float | int | None = None) -> Levels:
    """The values ``(code - zero_point) * scale``, computed in float64 and rounded once, half to even, to `dtype`.

    That of `nan_code` is NaN, or `missing` in an integer dtype.

    A value beyond the dtype's finite range by at most half a step (and `BOUND_SLACK` of that) saturates, one further
    out is `outside`.

    Examples
    --------
    >>> levels(Scale(1.5), np.dtype(np.float32)).table[[0, 4, 8, 15]].tolist()
    [-12.0, -6.0, 0.0, 10.5]
    """
    table = np.zeros(16, dtype)
    outside = set()
    lowest, highest = finite_range(dtype)
    half = Fraction(parameters.scale) / 2 * (1 + Fraction(str(BOUND_SLACK)))
    for code in range(LOWEST, HIGHEST + 1):
        if code == parameters.nan_code:
            if dtype.kind in "iu" and missing is None:
                outside.add(code)
            else:
                table[code + 8] = np.nan if missing is None or dtype.kind not in "iu" else missing
            continue
        exact = (code - parameters.zero_point) * Fraction(parameters.scale)
        if exact < lowest - half or exact > highest + half:
            outside.add(code)
        elif exact <= lowest or exact >= highest:
            table[code + 8] = rounded(float(lowest if exact <= lowest else highest), dtype)
        else:
            table[code + 8] = rounded(float(code - parameters.zero_point) * parameters.scale, dtype)
    return Levels(table, frozenset(outside))


def levels_each(
    scales: np.ndarray, zero_points: np.ndarray, nan_code: int | None, dtype: np.dtype[Any], missing: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `levels`, for many scales: tables of shape ``(count, 16)``, and whether each entry lies outside the dtype."""
    codes = np.arange(LOWEST, HIGHEST + 1)
    with np.errstate(over="ignore"):
        exact = (codes - zero_points[:, None]).astype(np.float64) * scales[:, None]
    limits = [float(limit) for limit in finite_range(dtype)]
    ordinary = (exact > limits[0] * (1 - 2.0**-10)) & (exact < limits[1] * (1 - 2.0**-10))
    inside = ordinary.all(axis=1) & (zero_points > -(1 << 52)) & (zero_points < 1 << 52)
    tables = np.zeros(exact.shape, dtype)
    tables[inside] = rounded_each(exact[inside], dtype)
    outside = np.zeros(exact.shape, bool)
    if nan_code is not None and inside.any():
        special = levels(Scale(1.0, 0, nan_code), dtype, missing)
        tables[inside, nan_code - LOWEST] = special.table[nan_code - LOWEST]
        outside[inside, nan_code - LOWEST] = nan_code in special.outside
    for i in np.flatnonzero(~inside):
        found = levels(Scale(float(scales[i]), int(zero_points[i]), nan_code), dtype, missing)
        tables[i] = found.table
        outside[i, [code - LOWEST for code in found.outside]] = True
    return tables, outside


@dataclass(frozen=True, eq=False)
class Table:
    """The values of the codes -8..7.

    `values` and `outside`, which tells the codes whose value does not fit the dtype, have the shape ``(count, 16)``: a
    row for each index of `axis`, or a single one without an axis.
    """

    values: np.ndarray
    outside: np.ndarray
    axis: int | None = None

    @classmethod
    def of(cls, parameters: Scale, dtype: np.dtype[Any], missing: float | int | None = None) -> Table:
        found = levels(parameters, dtype, missing)
        return cls(found.table[None], np.isin(np.arange(LOWEST, HIGHEST + 1), list(found.outside))[None])

    @classmethod
    def of_each(
        cls,
        scales: np.ndarray,
        zero_points: np.ndarray,
        nan_code: int | None,
        dtype: np.dtype[Any],
        axis: int,
        missing: float | int | None = None,
    ) -> Table:
        return cls(*levels_each(scales, zero_points, nan_code, dtype, missing), axis)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        return pairs_of(self.values[0])

    def part(self, indices: slice) -> Table:
        """That of some indices of the axis; of one scale it is the same."""
        return self if self.axis is None else Table(self.values[indices], self.outside[indices], self.axis)

    def look_up(self, codes: np.ndarray) -> np.ndarray:
        """The value of each code.

        Raises
        ------
        ValueError
            If the dtype cannot hold it.
        """
        self.check(codes)
        found: np.ndarray = self.values[self._rows(codes), codes.astype(np.intp) - LOWEST]
        return found

    def check(self, codes: np.ndarray) -> None:
        """Raise a ValueError for the first code whose value does not fit the dtype that it is to be restored to."""
        if not self.outside.any():
            return
        outside = self.outside[self._rows(codes), codes.astype(np.intp) - LOWEST]
        if outside.any():
            index = first_index(outside)
            raise ValueError(
                f"code {codes[index]} at index {index} stands for a value that {self.dtype} cannot hold; "
                "pass a wider dtype"
            )

    def _rows(self, codes: np.ndarray) -> Any:
        """The row of each code, as an index that broadcasts."""
        return 0 if self.axis is None else along(np.arange(len(self.values)), self.axis, codes.ndim)


CODES = Table(np.arange(LOWEST, HIGHEST + 1, dtype=np.int8)[None], np.zeros((1, 16), bool))


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """One value for each index of an axis, as an array that broadcasts: of length 1 along every other axis."""
    shape: Shape = (1,) * axis + (-1,) + (1,) * (ndim - axis - 1)
    return values.reshape(shape)
