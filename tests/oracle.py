"""The law of the numbers in exact rational arithmetic: what every kernel, dtype, chunking and scheduler is held to."""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

TIE = 1e-5  # codes are those of the exact x / s where it lies further than this from a tie
ANCHORED = 2**33  # and where the range begins less than this many steps from zero


def quantized(
    values: Any, scale: float, zero_point: int, nan_code: int | None = None, low: int = -8
) -> tuple[np.ndarray, np.ndarray]:
    """The code ``clip(rint(x / s) + z, low, 7)`` of each value, and the distance of ``x / s`` from the nearest tie.

    `low` is -7 where -8 is set aside for NaN, or the scale is that of absmax.
    """
    low = low if nan_code is None else -7
    codes, distances = np.zeros(np.shape(values), np.int8), np.full(np.shape(values), math.inf)
    for index, value in np.ndenumerate(values):
        x = float(value)  # integers beyond 2^53 are rounded to float64 first
        if math.isfinite(x):
            ratio = Fraction(x) / Fraction(scale)
            tie = min(max(math.floor(ratio + zero_point), low), 6) + Fraction(1, 2)
            codes[index] = min(max(round(ratio) + zero_point, low), 7)
            distances[index] = min(abs(ratio + zero_point - tie), 2**10)
        else:
            codes[index] = nan_code if math.isnan(x) else low if x < 0 else 7
    return codes, distances


def dequantized(code: int, scale: float, zero_point: int, dtype: Any) -> Fraction | None:
    """``(q - z) * s`` in float64, rounded once to `dtype`; None where it lies more than ``s / 2`` beyond its range."""
    exact = (code - zero_point) * Fraction(scale)
    lowest, highest = finite_range(dtype)
    half = half_step(scale)
    if not lowest - half <= exact <= highest + half:
        return None
    product = float(code - zero_point) * scale
    value = Fraction(product) if math.isfinite(product) else exact
    unit = ulp(value, dtype) if np.dtype(dtype) in FLOATS else Fraction(1)
    return min(max(round(value / unit) * unit, lowest), highest)


def error_bound(value: Any, restored: Any, scale: float, source: Any, result: Any) -> Fraction:
    """The largest ``abs(x - x')`` for a value within the range: half a step, and what the dtypes' rounding adds."""
    size = max(abs(number(value)), abs(number(restored)))
    rounding = 2 * max(ulp(size, dtype) for dtype in (source, result))
    return half_step(scale) + rounding + (0 if np.dtype(result) in FLOATS else Fraction(1, 2))


def half_step(scale: float) -> Fraction:
    return Fraction(scale) / 2 * (1 + Fraction(1, 10**5))


FLOATS = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))


def number(value: Any) -> Fraction:
    return Fraction(int(value)) if np.asarray(value).dtype.kind in "iu" else Fraction(float(value))


def finite_range(dtype: Any) -> tuple[Fraction, Fraction]:
    info = ml_dtypes.finfo(dtype) if np.dtype(dtype) in FLOATS else np.iinfo(dtype)
    return number(info.min), number(info.max)


def ulp(value: Fraction, dtype: Any) -> Fraction:
    """Distance of the neighbours of a value in a float dtype; integers are float64 numbers."""
    info = ml_dtypes.finfo(dtype if np.dtype(dtype) in FLOATS else np.float64)
    return Fraction(2) ** (max(exponent(value), int(info.minexp)) - int(info.nmant))


def exponent(value: Fraction) -> int:
    """``floor(log2(abs(value)))``; that of zero lies below every float's."""
    if not value:
        return -(10**4)
    top, bottom = abs(value.numerator), value.denominator
    estimate = top.bit_length() - bottom.bit_length()
    return estimate if Fraction(top, bottom) >= Fraction(2) ** estimate else estimate - 1
