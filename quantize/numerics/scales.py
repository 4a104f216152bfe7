"""How a scale is chosen, scales, and codes: from statistics to scale and zero point.

The numbers are float64 and Python integers; where float64 would round twice, exact rationals (`fractions.Fraction`).
"""

from __future__ import annotations

import functools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np

from .dtypes import FLOATS
from .granularity import PER_TENSOR, Granularity
from .grid import Region, Shape, shape_of
from .names import NAN_POLICIES, PERCENTILE, SCALE_METHODS
from .statistics import Statistics, bounds, from_row

LOWEST, HIGHEST = -8, 7
NAN_CODE = -8
UNIT_SHIFT = 48  # bits of a float64 that a unit of blocks leaves out
LEAST_UNIT, MOST_UNIT = 0x0010, 0x7FCF  # units of blocks: normal numbers, four times which are finite
ZERO_POINT_BIAS = 128  # quarters of a step: added to zero points of blocks where they are stored
MOST_ZERO_POINT = (1 << 29) - 1  # steps: zero points of blocks, in quarters, have 32 bits

LARGEST_FINEST = 2.0**1000  # levels that lie 16 steps from any value are finite then
LEAST_PERCENTILE = 50  # %: the least that may be asked for; stores of any are read

SMALLEST_NORMAL = sys.float_info.min
SMALLEST_SUBNORMAL = Fraction(math.ulp(0.0))


# Codes and scales -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codes:
    """Which codes values get, and which stands for missing ones.

    Attributes
    ----------
    lowest : int
        The lowest code that values get; the highest is 7.
    nan_code : int or None
        The code of missing values; None where they have none.
    missing : float, int or None
        The value that counts as missing, beside NaN.
    """

    lowest: int = LOWEST
    nan_code: int | None = None
    missing: float | int | None = None

    def sentinel(self, dtype: np.dtype[Any]) -> float | int | None:
        """What is looked for in values of a dtype, NaN beside it; None where nothing is."""
        if self.nan_code is None:
            return None
        return math.nan if self.missing is None and dtype in FLOATS else self.missing


@dataclass(frozen=True)
class Scale:
    """One scale and zero point: ``code = clip(rint(x / scale) + zero_point)``, ``x' = (code - zero_point) * scale``."""

    scale: float
    zero_point: int | float = 0


@dataclass(frozen=True, eq=False)
class Scales:
    """The scales of a region, whatever shares one.

    Attributes
    ----------
    scale, zero_point : ndarray of float64 and int64
        An entry for each group, with as many axes as the values. Of blocks a scale has five bits, and a zero point is a
        whole number of quarters, in float64: `units` and `quarters` are both as stores keep them.
    granularity : Granularity
    shape : tuple of int
        Of the values.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    granularity: Granularity
    shape: Shape

    @classmethod
    def of(cls, scale: np.ndarray, zero_point: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
        """Those of all groups, numbered in C order."""
        counts = granularity.groups(shape).counts
        return cls(scale.reshape(counts), zero_point.reshape(counts), granularity, shape)

    @classmethod
    def room(cls, granularity: Granularity, shape: Shape) -> Scales:
        """Room for those of blocks."""
        counts = granularity.groups(shape).counts
        return cls(np.empty(counts), np.empty(counts), granularity, shape)

    @classmethod
    def one(cls, scale: Scale, shape: Shape) -> Scales:
        """One scale for all values."""
        ones = (1,) * len(shape)
        whole = np.array(scale.zero_point, np.int64).reshape(ones)
        return cls(np.array(scale.scale).reshape(ones), whole, PER_TENSOR, shape)

    @classmethod
    def of_units(cls, units: np.ndarray, quarters: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
        """Those of blocks, of what `units` and `quarters` give."""
        return cls(*scales_of_units(units, quarters), granularity, shape)

    @property
    def units(self) -> np.ndarray:
        """A quarter of each scale of blocks, as the upper 16 bits of a float64, uint16: the lower ones are 0."""
        bits = (np.ascontiguousarray(self.scale) / 4).view(np.uint64)
        return np.asarray(bits >> np.uint64(UNIT_SHIFT), np.uint16)

    @property
    def quarters(self) -> np.ndarray:
        """The zero points of blocks in quarters of a step, int32."""
        return np.asarray(np.rint(4 * self.zero_point), np.int32)

    @property
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points as `scale_of` and `zero_point_of` in `kernels` take them."""
        return self.scale, self.zero_point

    @property
    def count(self) -> int:
        return self.entries[0].size

    def part(self, region: Region) -> Scales:
        """Those of a region that is cut as the granularity says."""
        own = self.granularity.scales_of(region, self.shape)
        return Scales(self.scale[own], self.zero_point[own], self.granularity, shape_of(region))

    def taken(self, axes: Sequence[range]) -> Scales:
        """Those of some indices of each axis."""
        scale, zero_point = (
            self.granularity.taken(entries, axes, self.shape) for entries in (self.scale, self.zero_point)
        )
        return Scales(scale, zero_point, self.granularity.of_taken(self.shape), tuple(map(len, axes)))

    def plain(self) -> tuple[Any, Any]:
        """As users have them: a float and an int where all values share one, else the arrays."""
        if self.granularity.single:
            return float(self.scale.item()), int(self.zero_point.item())
        return self.scale, self.zero_point


class ShortScales(Scales):
    """Those of blocks as stores keep them: `units`, and `quarters` and `ZERO_POINT_BIAS` more.

    What reads whole chunks takes them as they are, 6 bytes and not 16 each; floats are made when they are asked for.
    """

    def __init__(self, units: np.ndarray, quarters: np.ndarray, granularity: Granularity, shape: Shape) -> None:
        vars(self).update(stored=(units, quarters), granularity=granularity, shape=shape)

    @property
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray] = vars(self)["stored"]
        return found

    @functools.cached_property
    def floats(self) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points, float64."""
        scale, biased = scales_of_units(*self.entries)
        return scale, biased - ZERO_POINT_BIAS / 4

    @property
    def scale(self) -> np.ndarray:
        return self.floats[0]

    @property
    def zero_point(self) -> np.ndarray:
        return self.floats[1]


def scales_of_units(units: np.ndarray, quarters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points, float64, of what `Scales.units` and `Scales.quarters` give."""
    bits = units.astype(np.uint64)
    bits <<= np.uint64(UNIT_SHIFT)
    scale = bits.view(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is no scale
        scale *= 4
    return scale, quarters * 0.25


# Methods --------------------------------------------------------------------------------------------------------------


class Method(ABC):
    """How the scale of some values is chosen.

    Attributes
    ----------
    name : str
        As users call it.
    needs : {"nothing", "bounds", "histogram", "values"}
        What must be known of the values.
    clips : bool
        Whether values may lie beyond the outermost levels by more than half a step, and it is no defect.
    value_range, percentile
        The settings of the methods that have one; None for all others.
    """

    name: ClassVar[str]
    needs: ClassVar[Literal["nothing", "bounds", "histogram", "values"]] = "bounds"
    clips: ClassVar[bool] = False
    value_range: tuple[float, float] | None = None
    percentile: float | None = None

    def lowest(self, nan_code: int | None) -> int:
        """The lowest code that values get."""
        return LOWEST if nan_code is None else LOWEST + 1

    @abstractmethod
    def exact(self, low: float, high: float, lowest: int) -> Scale:
        """The scale that reaches over a range, by exact arithmetic."""

    @abstractmethod
    def fast(self, low: np.ndarray, high: np.ndarray, lowest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `exact`, of many ranges: scales, zero points as float64, and where both are surely the same."""

    def scale(self, statistics: Statistics, lowest: int) -> Scale:
        """The scale that reaches over the bounds of data with these statistics."""
        return self.exact(statistics.minimum, statistics.maximum, lowest) if statistics.count else Scale(1.0, 0)

    def scales(self, rows: np.ndarray, lowest: int) -> tuple[np.ndarray, np.ndarray]:
        """As `scale`, for the statistics in each of many rows: scales, float64, and zero points, int64.

        Float64 gives the same as the exact rationals where rounding is in no doubt; the rest takes those.
        """
        scales, zero_points = np.ones(len(rows)), np.zeros(len(rows), np.int64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scales[:], whole, sure = self.fast(*bounds(rows), lowest)
        zero_points[sure] = whole[sure]
        for i in np.flatnonzero(~sure):
            found = self.scale(from_row(rows[i]), lowest)
            scales[i], zero_points[i] = found.scale, found.zero_point
        return scales, zero_points

    @abstractmethod
    def with_step(self, step: float, scale: Scale, low: float, lowest: int) -> Scale:
        """A scale with a larger step, whose levels reach over all that those of `scale` do of values from `low` on."""

    @abstractmethod
    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """What the scale grows in proportion to, of many ranges."""

    @property
    def label(self) -> str:
        """What to call it in a table."""
        return str(self)

    @property
    def option(self) -> str:
        """The options of the command line that ask for it."""
        return f" --scale-method {self.name}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MinMax(Method):
    """All levels spread evenly over the range of the values."""

    name = "minmax"

    def with_step(self, step: float, scale: Scale, low: float, lowest: int) -> Scale:
        level = (lowest - scale.zero_point) * Fraction(scale.scale)
        start = (
            Fraction(low) if level - Fraction(scale.scale) / 2 <= low else level
        )  # a method that clips leaves some out
        return Scale(step, round(lowest - start / Fraction(step)))

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.asarray(high - low)

    @property
    def option(self) -> str:
        return "" if type(self) is MinMax else super().option  # the default

    def exact(self, low: float, high: float, lowest: int) -> Scale:
        if low == high:
            return scale_of_constant(low)
        scale = scale_over(Fraction(high) - Fraction(low), HIGHEST - lowest)
        return Scale(scale, round(lowest - Fraction(low) / Fraction(scale)))

    def fast(self, low: np.ndarray, high: np.ndarray, lowest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scales, sure = exact_quotients(low, high, HIGHEST - lowest)
        exact = lowest - low / scales
        nearest = np.rint(exact)
        sure &= (np.abs(exact) < 2.0**40) & (np.abs(np.abs(exact - nearest) - 0.5) > np.abs(exact) * 2.0**-50)
        return scales, nearest, sure


@dataclass(frozen=True)
class AbsMax(Method):
    """Zero in the middle, and as many levels on either side."""

    name = "absmax"

    def lowest(self, nan_code: int | None) -> int:
        return LOWEST + 1

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.asarray(np.fmax(np.abs(low), np.abs(high)))

    def with_step(self, step: float, scale: Scale, low: float, lowest: int) -> Scale:
        return Scale(step, 0)

    def exact(self, low: float, high: float, lowest: int) -> Scale:
        largest = max(abs(low), abs(high))
        return Scale(scale_over(Fraction(largest), HIGHEST), 0) if largest else Scale(1.0, 0)

    def fast(self, low: np.ndarray, high: np.ndarray, lowest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scales = np.maximum(np.abs(low), np.abs(high)) / HIGHEST
        return scales, np.zeros(len(scales)), scales >= SMALLEST_NORMAL


@dataclass(frozen=True)
class Percentile(MinMax):
    """The range that holds a share of the values, in %, with as many left out at either end; then as `MinMax`."""

    name = "percentile"
    needs = "histogram"
    clips = True
    percentile: float = PERCENTILE

    def __post_init__(self) -> None:
        try:
            share = float(self.percentile)
        except (TypeError, ValueError, OverflowError):
            share = math.nan
        if not 0 < share <= 100:
            raise ValueError(
                f"percentile is {self.percentile!r}, but must be a number above 0 and up to 100, such as 99.9"
            )
        object.__setattr__(self, "percentile", share)

    @property
    def option(self) -> str:
        return super().option + ("" if self.percentile == PERCENTILE else f" --percentile {self.percentile:g}")

    def __str__(self) -> str:
        return f"{self.name} {self.percentile:g}"


@dataclass(frozen=True)
class LeastSquares(MinMax):
    """The range that gives the least squared error; from the histogram on, as `calibration.search` finds it."""

    name = "mse"
    needs = "histogram"
    clips = True


@dataclass(frozen=True)
class GivenRange(Method):
    """The range that the user gives, covered as another method would cover that of the values."""

    value_range: tuple[float, float]
    like: Method = MinMax()

    needs = "nothing"
    clips = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", checked_range(self.value_range))
        if self.like.needs != "bounds":
            raise ValueError(
                f"value_range fixes the range, and scale_method={self.like.name!r} looks for one: "
                "pass either, or scale_method='minmax'"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.like.name

    @property
    def label(self) -> str:
        return "{} of {:g} to {:g}".format(self, *self.value_range)

    @property
    def option(self) -> str:
        return self.like.option + " --value-range {:.17g} {:.17g}".format(*self.value_range)

    def lowest(self, nan_code: int | None) -> int:
        return self.like.lowest(nan_code)

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return self.like.width(low, high)

    def with_step(self, step: float, scale: Scale, low: float, lowest: int) -> Scale:
        return self.like.with_step(step, scale, self.value_range[0], lowest)

    def scale(self, statistics: Statistics, lowest: int) -> Scale:
        return self.exact(*self.value_range, lowest)

    def exact(self, low: float, high: float, lowest: int) -> Scale:
        return self.like.exact(low, high, lowest)

    def fast(self, low: np.ndarray, high: np.ndarray, lowest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.ones(len(low)), np.zeros(len(low)), np.zeros(len(low), bool)


# Rules ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How scales are chosen: the settings of one job that decide its numbers, checked.

    Attributes
    ----------
    method : Method
    granularity : Granularity
        Which values share a scale.
    nan_policy : {"raise", "propagate"}
        Whether missing values are refused, or kept with a code of their own.
    finest : float or None
        The least scale of a block of values that differ; None for as fine as they come.

    Examples
    --------
    >>> Rule.of("minmax").scale(Statistics(-10.0, 10.0, count=5))
    Scale(scale=1.3333333333333333, zero_point=0)
    >>> print(Rule.of("percentile", nan_policy="propagate", granularity=PER_TENSOR))
    percentile 99.9
    """

    method: Method = MinMax()
    granularity: Granularity = PER_TENSOR
    nan_policy: str = "raise"
    finest: float | None = None

    @classmethod
    def of(
        cls,
        scale_method: str = "minmax",
        value_range: Any = None,
        nan_policy: str = "raise",
        percentile: Any = None,
        granularity: Granularity = PER_TENSOR,
        finest: Any = None,
    ) -> Rule:
        """The rule for what a user asks.

        Raises
        ------
        ValueError
            If `scale_method` or `nan_policy` is not one of those there are, `value_range` is not two finite numbers in
            ascending order, `percentile` does not lie above 0 and up to 100, `finest` is not a finite number above 0,
            or one does not go with the method or the granularity.
        """
        for name, value, allowed in (
            ("scale_method", scale_method, SCALE_METHODS),
            ("nan_policy", nan_policy, NAN_POLICIES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, allowed))}")
        if percentile is not None and scale_method != "percentile":
            raise ValueError(f"percentile={percentile!r} goes with scale_method='percentile', not {scale_method!r}")
        method: Method = METHODS[scale_method]() if percentile is None else Percentile(percentile)
        if granularity.fraction > 1 and method.percentile is not None:
            raise ValueError(
                "scale_method='percentile' leaves out a share of the values that share a scale, of which a block has "
                "too few; with blocks take 'mse', which leaves out what that makes better"
            )
        if value_range is not None:
            method = GivenRange(value_range, method)
        return cls(method, granularity, nan_policy, None if finest is None else checked_finest(finest, granularity))

    @property
    def nan_code(self) -> int | None:
        return NAN_CODE if self.nan_policy == "propagate" else None

    @property
    def lowest(self) -> int:
        """The lowest code that values get."""
        return self.method.lowest(self.nan_code)

    def codes(self, missing: float | int | None = None) -> Codes:
        """Which codes values get, where this value counts as missing, if that has a code."""
        return Codes(self.lowest, self.nan_code, None if self.nan_code is None else missing)

    @property
    def looks(self) -> bool:
        """Whether values must be looked at before they get codes: for their range, or for those that have none."""
        return self.method.needs != "nothing" or self.nan_code is None

    def scale(self, statistics: Statistics) -> Scale:
        """The scale by the statistics of the data, before a histogram is looked at."""
        return self.method.scale(statistics, self.lowest)

    def scales(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `scale`, for the statistics in each of many rows: scales, float64, and zero points, int64."""
        return self.method.scales(rows, self.lowest)

    def refused(self, statistics: Statistics) -> bool:
        """Whether data with these statistics hold values that the rule takes no code for."""
        missing = statistics.nan + statistics.missing if self.nan_code is None else 0
        return bool(missing or (statistics.infinite and self.method.needs != "nothing"))

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
        if statistics.infinite and self.method.needs != "nothing":
            ways.append("value_range=(low, high) saturates infinities")
        return f"the data hold {found}; the first refused value is at index {index}. {'; '.join(ways)}"

    def to_json(self) -> dict[str, Any]:
        """Its settings by the names of `quantize_to_zarr`."""
        given = self.method.value_range
        return {
            "scale_method": self.method.name,
            "axis": self.granularity.axis,
            "blocks": self.granularity.blocks,
            "finest": self.finest,
            "percentile": self.method.percentile,
            "value_range": None if given is None else list(given),
            "nan_policy": self.nan_policy,
        }

    @property
    def label(self) -> str:
        """What to call it in a table."""
        return ", ".join(filter(None, [self.method.label, self.granularity.label]))

    def __str__(self) -> str:
        each = self.granularity.each
        return f"{self.method}, one for each {each}" if each else str(self.method)


METHODS: dict[str, type[Method]] = {one.name: one for one in (MinMax, AbsMax, Percentile, LeastSquares)}


# Arithmetic -----------------------------------------------------------------------------------------------------------


def checked_finest(finest: Any, granularity: Granularity) -> float:
    try:
        least = math.nan if isinstance(finest, str | bytes) else float(finest)
    except (TypeError, ValueError, OverflowError):
        least = math.nan
    if not 0 < least <= LARGEST_FINEST:
        raise ValueError(
            f"finest is {finest!r}, but must be a number above 0 in the units of the data, such as the precision with "
            f"which they were measured, and at most {LARGEST_FINEST:g}"
        )
    if granularity.fraction == 1:
        raise ValueError(
            f"finest={finest!r} is the least scale of a block of values, where each block has its own: pass blocks= too"
        )
    return least


def checked_range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in value_range)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"value_range is {value_range!r}, but must be two numbers, (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"value_range is ({low}, {high}), but both ends must be finite")
    if low >= high:
        kind = "empty" if low == high else "reversed"
        raise ValueError(f"value_range is ({low}, {high}), which is {kind}: the low end comes first and is smaller")
    return low, high


def check_percentile(percentile: Any) -> None:
    """Refuse to keep less than half of the values, which nobody means: 0.1 % instead of all but 0.1 %.

    Raises
    ------
    ValueError
    """
    if isinstance(percentile, int | float) and 0 < percentile < LEAST_PERCENTILE:
        raise ValueError(
            f"percentile is {percentile!r}, but is the share of the values that is kept, in %, and must be at least "
            f"{LEAST_PERCENTILE}: percentile={100 - percentile:g} leaves out {percentile:g} %"
        )


def scale_over(width: Fraction, steps: int) -> float:
    """``width / steps`` as float64, a subnormal one rounded up, so that the codes always reach over the width."""
    exact = width / steps
    scale = float(exact)
    if scale >= SMALLEST_NORMAL:
        return scale
    return float(math.ceil(exact / SMALLEST_SUBNORMAL) * SMALLEST_SUBNORMAL)


def exact_quotients(low: np.ndarray, high: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
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


def scale_of_constant(value: float) -> Scale:
    """The scale of an array of one value: code 0 restores it exactly."""
    scale = 1.0 if value.is_integer() and abs(value) < 2**31 else abs(value)
    return Scale(scale, -int(value / scale))


def check_scale(scale: Any, zero_point: Any, fraction: int = 1) -> tuple[float, int]:
    """Return both as plain numbers; a zero point of blocks may be a fraction, and is returned without it.

    Raises
    ------
    ValueError
        If `scale` is not finite and above 0, or `zero_point` is not a whole number of 64 bits; with a `fraction`, not a
        whole number of such parts in 32 bits.
    """
    try:
        if isinstance(scale, str | bytes) or isinstance(zero_point, str | bytes):
            raise TypeError
        number, whole = float(scale), int(zero_point)
        exact = int(fraction * zero_point) == fraction * zero_point
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"scale {scale!r} and zero_point {zero_point!r} must be numbers, one each") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"scale is {scale!r}, but must be finite and above 0")
    if fraction > 1 and not (exact and abs(zero_point) <= MOST_ZERO_POINT):
        raise ValueError(
            f"zero_point is {zero_point!r}, but must be a whole number of quarters, at most {MOST_ZERO_POINT} in size"
        )
    if not exact or not -(2**63) <= whole < 2**63:
        raise ValueError(f"zero_point is {zero_point!r}, but must be a whole number of 64 bits")
    return number, whole
