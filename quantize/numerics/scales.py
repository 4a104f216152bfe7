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

from ..names import NAN_POLICIES
from ..names import PERCENTILE as PERCENTILE
from ..names import SCALE_METHODS as SCALE_METHODS
from .statistics import Statistics, bounds, from_row

LOWEST, HIGHEST = -8, 7
NAN_CODE = -8
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

SMALLEST_NORMAL = sys.float_info.min
SMALLEST_SUBNORMAL = Fraction(math.ulp(0.0))


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

    `axis` is the one that keeps a scale for each index, counted from 0; None: one scale for all.

    Raises
    ------
    ValueError
        If `scale_method` or `nan_policy` is not one of those there are, `value_range` is not two finite numbers in
        ascending order, `percentile` does not lie above 0 and up to 100, or one of them does not go with the method.

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
    percentile: float | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("scale_method", self.scale_method, SCALE_METHODS),
            ("nan_policy", self.nan_policy, NAN_POLICIES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, allowed))}")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", checked_range(self.value_range))
            if self.histogrammed:
                raise ValueError(
                    f"value_range fixes the range, and scale_method={self.scale_method!r} looks for one: "
                    "pass either, or scale_method='minmax'"
                )
        object.__setattr__(self, "percentile", checked_percentile(self.percentile, self.scale_method))

    @property
    def histogrammed(self) -> bool:
        """Whether the range is chosen by how the values are distributed, and not by their bounds alone."""
        return self.scale_method in ("percentile", "mse")

    @property
    def nan_code(self) -> int | None:
        return NAN_CODE if self.nan_policy == "propagate" else None

    @property
    def lowest(self) -> int:
        """The lowest code that values get."""
        return LOWEST if self.nan_code is None and self.scale_method != "absmax" else LOWEST + 1

    def choose(self, statistics: Statistics) -> Scale:
        """The scale that reaches over the bounds of data with these statistics, or over `value_range`."""
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

    def choose_each(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `choose`, for the statistics in each of many rows: scales, float64, and zero points, int64.

        Float64 gives the same as the exact rationals where rounding is in no doubt; the rest takes those.
        """
        low, high = bounds(rows)
        scales, zero_points = np.ones(len(rows)), np.zeros(len(rows), np.int64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.scale_method == "absmax":
                scales[:] = np.maximum(np.abs(low), np.abs(high)) / 7
                sure = scales >= SMALLEST_NORMAL
            else:
                scales[:], sure = divided(low, high, HIGHEST - self.lowest)
                exact = self.lowest - low / scales
                nearest = np.rint(exact)
                sure &= (np.abs(exact) < 2.0**40) & (np.abs(np.abs(exact - nearest) - 0.5) > np.abs(exact) * 2.0**-50)
                zero_points[sure] = nearest[sure]
        if self.value_range is not None:
            sure[:] = False
        for i in np.flatnonzero(~sure):
            found = self.choose(from_row(rows[i]))
            scales[i], zero_points[i] = found.scale, found.zero_point
        return scales, zero_points

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


def checked_percentile(percentile: Any, scale_method: str) -> float | None:
    if scale_method != "percentile":
        if percentile is not None:
            raise ValueError(f"percentile={percentile!r} goes with scale_method='percentile', not {scale_method!r}")
        return None
    try:
        share = PERCENTILE if percentile is None else float(percentile)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 < share <= 100:
        raise ValueError(f"percentile is {percentile!r}, but must be a number above 0 and up to 100, such as 99.9")
    return share


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


def divided(low: np.ndarray, high: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """``(high - low) / steps`` of float64 arrays, and where that is surely the exact quotient rounded once.

    `steps` is 14 or 15. The difference is exact with what it lost in rounding (Knuth's two-sum), and so is what the
    division leaves; the quotient is moved by one place if that is more than half of one.
    """
    width = high - low
    back = width - high
    lost = (high - (width - back)) - (low + back)
    quotient = width / steps
    whole, less = 16 * quotient, (16 - steps) * quotient
    product = whole - less
    rest = (width - product) - ((whole - product) - less) + lost
    place = np.spacing(quotient)
    places = rest / (steps * place)
    quotient = quotient + np.rint(places) * place
    sure = (np.abs(np.abs(places) - 0.5) > 2.0**-20) & (quotient >= 4 * SMALLEST_NORMAL) & np.isfinite(whole)
    return quotient, sure & (np.frexp(quotient)[0] != 0.5) & (np.spacing(quotient) == place)


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
