"""From statistics to scale and zero point, and from those to the 16 values that codes stand for.

The numbers are float64 and Python integers; where float64 would round twice, exact rationals (`fractions.Fraction`).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

LOWEST, HIGHEST = -8, 7
NAN_CODE = -8
SCALE_METHODS = ("minmax", "absmax")
NAN_POLICIES = ("raise", "propagate")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

SMALLEST_NORMAL = sys.float_info.min
SMALLEST_SUBNORMAL = Fraction(math.ulp(0.0))


class RefusedValuesError(ValueError):
    """The data hold NaN, missing or infinite values that the settings take no code for."""


@dataclass(frozen=True)
class Statistics:
    """What one read of some values tells of them; those of two sets add up to those of both.

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
    >>> Statistics(0.0, 1.0, 2) + Statistics(-3.0, 0.5, 4, nan=1, first=9)
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

    def __add__(self, other: Statistics) -> Statistics:
        if not self.count or not other.count:
            minimum, maximum = (self.minimum, self.maximum) if self.count else (other.minimum, other.maximum)
        else:
            minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return Statistics(
            minimum,
            maximum,
            self.count + other.count,
            self.nan + other.nan,
            self.missing + other.missing,
            self.positive_infinity + other.positive_infinity,
            self.negative_infinity + other.negative_infinity,
            max(self.first, other.first) if -1 in (self.first, other.first) else min(self.first, other.first),
        )

    @property
    def infinite(self) -> int:
        return self.positive_infinity + self.negative_infinity


@dataclass(frozen=True)
class Scale:
    """One scale and zero point: ``code = clip(rint(x / scale) + zero_point)``, ``x' = (code - zero_point) * scale``.

    With a `nan_code` that code stands for missing values, and values use the codes above it.
    """

    scale: float
    zero_point: int = 0
    nan_code: int | None = None


@dataclass(frozen=True)
class Rule:
    """How a scale is chosen: the settings of one job that decide its numbers, checked.

    Raises
    ------
    ValueError
        If `scale_method` or `nan_policy` is not one of those there are, or `value_range` is not two finite numbers
        in ascending order.

    Examples
    --------
    >>> Rule("minmax").choose(Statistics(-10.0, 10.0, count=5))
    Scale(scale=1.3333333333333333, zero_point=0, nan_code=None)
    >>> Rule("absmax", nan_policy="propagate").choose(Statistics(-10.0, 3.5, count=5))
    Scale(scale=1.4285714285714286, zero_point=0, nan_code=-8)
    """

    scale_method: str = "minmax"
    value_range: tuple[float, float] | None = None
    nan_policy: str = "raise"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("scale_method", self.scale_method, SCALE_METHODS),
            ("nan_policy", self.nan_policy, NAN_POLICIES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, allowed))}")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", checked_range(self.value_range))

    @property
    def nan_code(self) -> int | None:
        return NAN_CODE if self.nan_policy == "propagate" else None

    @property
    def lowest(self) -> int:
        """The lowest code that values get."""
        return LOWEST if self.nan_code is None and self.scale_method != "absmax" else LOWEST + 1

    def choose(self, statistics: Statistics) -> Scale:
        """The scale for data with these statistics, or for `value_range` where there is one."""
        if self.value_range is not None:
            low, high = self.value_range
        elif statistics.count:
            low, high = statistics.minimum, statistics.maximum
        else:
            return Scale(1.0, 0, self.nan_code)
        if self.scale_method == "absmax":
            largest = max(abs(low), abs(high))
            return Scale(step(Fraction(largest), 7), 0, self.nan_code) if largest else Scale(1.0, 0, self.nan_code)
        if low == high:
            return constant(low, self.nan_code)
        scale = step(Fraction(high) - Fraction(low), HIGHEST - self.lowest)
        return Scale(scale, round(self.lowest - Fraction(low) / Fraction(scale)), self.nan_code)

    def refused(self, statistics: Statistics) -> bool:
        """Whether data with these statistics hold values that the rule takes no code for."""
        missing = statistics.nan + statistics.missing if self.nan_code is None else 0
        return bool(missing or (statistics.infinite and self.value_range is None))

    def refusal(self, statistics: Statistics, index: tuple[int, ...], missing: float | int | None = None) -> str:
        """What to say of refused data: how many of each kind, where the first is, and which options take them."""
        kinds = {
            "NaN": statistics.nan,
            f"missing (the declared value {missing})": statistics.missing,
            "+inf": statistics.positive_infinity,
            "-inf": statistics.negative_infinity,
        }
        found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        ways = []
        if statistics.nan + statistics.missing and self.nan_code is None:
            ways.append('nan_policy="propagate" keeps missing values, with a code of their own')
        if statistics.infinite and self.value_range is None:
            ways.append("value_range=(low, high) saturates infinities")
        return f"the data hold {found}; the first refused value is at index {index}. {'; '.join(ways)}"


def checked_range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in value_range)
    except (TypeError, ValueError):
        raise ValueError(f"value_range is {value_range!r}, but must be two numbers, (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"value_range is ({low}, {high}), but both ends must be finite")
    if low >= high:
        kind = "empty" if low == high else "reversed"
        raise ValueError(f"value_range is ({low}, {high}), which is {kind}: the low end comes first and is smaller")
    return low, high


def step(width: Fraction, steps: int) -> float:
    """``width / steps`` as float64, a subnormal one rounded up, so that the codes always reach over the width."""
    exact = width / steps
    scale = float(exact)
    if scale >= SMALLEST_NORMAL:
        return scale
    return float(math.ceil(exact / SMALLEST_SUBNORMAL) * SMALLEST_SUBNORMAL)


def constant(value: float, nan_code: int | None) -> Scale:
    """The scale of an array of one value: code 0 restores it exactly."""
    scale = 1.0 if value.is_integer() and abs(value) < 2**31 else abs(value)
    return Scale(scale, -int(value / scale), nan_code)


def check_scale(scale: Any, zero_point: Any) -> tuple[float, int]:
    """Return both as plain numbers.

    Raises
    ------
    ValueError
        If `scale` is not finite and above 0, or `zero_point` is not a whole number of 64 bits.
    """
    try:
        number, whole = float(scale), int(zero_point)
        exact = whole == zero_point
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"scale {scale!r} and zero_point {zero_point!r} must be numbers, one each") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"scale is {scale!r}, but must be finite and above 0")
    if not exact or not -(2**63) <= whole < 2**63:
        raise ValueError(f"zero_point is {zero_point!r}, but must be a whole number of 64 bits")
    return number, whole


# Levels -------------------------------------------------------------------------------------------------------------


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

    A value beyond the dtype's finite range by at most half a step (and 1e-5 of that, as in the bound) saturates, one
    further out is `outside`.

    Examples
    --------
    >>> levels(Scale(1.5), np.dtype(np.float32)).table[[0, 4, 8, 15]].tolist()
    [-12.0, -6.0, 0.0, 10.5]
    """
    table = np.zeros(16, dtype)
    outside = set()
    lowest, highest = finite_range(dtype)
    half = Fraction(parameters.scale) / 2 * (1 + Fraction(1, 10**5))
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


def finite_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest finite value of a dtype, as integers (the largest floats are whole numbers)."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    largest = int(float(ml_dtypes.finfo(dtype).max))
    return -largest, largest


def rounded(value: float, dtype: np.dtype[Any]) -> Any:
    """A float64 within the dtype's finite range, rounded to the dtype once, half to even."""
    if dtype.kind in "iu":
        lowest, highest = finite_range(dtype)
        return min(max(round(value), lowest), highest)
    if dtype == BFLOAT16 and value:
        # ml_dtypes goes through float32, which rounds twice; a multiple of the spacing, 8 bits, is exact in all three.
        spacing = math.ldexp(1.0, max(math.frexp(value)[1] - 8, -133))
        value = float(round(Fraction(value) / Fraction(spacing)) * Fraction(spacing))
    largest = float(finite_range(dtype)[1])
    return np.asarray(min(max(value, -largest), largest), dtype)
