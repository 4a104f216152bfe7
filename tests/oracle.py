"""The law of the numbers in exact rational arithmetic: what every kernel, dtype, chunking and scheduler is held to.

And a dense search for the scale of least squared error, in extended precision on all values.
"""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

TIE = 1e-5  # codes are those of the exact x / s where it lies further than this from a tie
ANCHORED = 2**33  # and where the range begins less than this many steps from zero


def quantized(
    values: Any, scale: float, zero_point: float, nan_code: int | None = None, low: int = -8
) -> tuple[np.ndarray, np.ndarray]:
    """The code ``clip(rint(x / s) + z, low, 7)`` of each value, and the distance of ``x / s`` from the nearest tie.

    `low` is -7 where -8 is set aside for NaN, or the scale is that of absmax. Zero points of blocks may have quarters:
    then the code is ``clip(rint(x / s + z), low, 7)``.
    """
    low = low if nan_code is None else -7
    whole, part = divmod(number(zero_point), 1)
    codes, distances = np.zeros(np.shape(values), np.int8), np.full(np.shape(values), math.inf)
    for index, value in np.ndenumerate(values):
        x = float(value)  # integers beyond 2^53 are rounded to float64 first
        if math.isfinite(x):
            ratio = Fraction(x) / Fraction(scale) + part
            tie = min(max(math.floor(ratio + whole), low), 6) + Fraction(1, 2)
            codes[index] = min(max(round(ratio) + whole, low), 7)
            distances[index] = min(abs(ratio + whole - tie), 2**10)
        else:
            codes[index] = nan_code if math.isnan(x) else low if x < 0 else 7
    return codes, distances


def dequantized(code: int, scale: float, zero_point: float, dtype: Any) -> Fraction | None:
    """``(q - z) * s`` in float64, rounded once to `dtype`; None where it lies more than ``s / 2`` beyond its range."""
    exact = (code - number(zero_point)) * Fraction(scale)
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


# The least squared error ----------------------------------------------------------------------------------------------


class Sorted:
    """Values in order, with the sums and the sums of squares up to each: they give the squared error of any levels."""

    def __init__(self, values: np.ndarray) -> None:
        numbers = np.asarray(values, np.float64).ravel()
        self.values = np.sort(numbers[np.isfinite(numbers)])
        self.middle = self.values[len(self.values) // 2]
        apart = (self.values - self.middle).astype(np.longdouble)
        self.power = float(np.square(self.values - self.values.mean()).sum())
        self.sums = np.stack([np.concatenate([[0], np.cumsum(part)]) for part in (apart, apart * apart)])

    def errors(self, scales: Any, whole: Any, steps: int = 16) -> np.ndarray:
        """The sum of squared errors with levels ``(whole + 0 .. steps - 1) * scale``, for arrays of both."""
        scales, whole = (np.atleast_1d(np.asarray(x, np.float64))[:, None] for x in (scales, whole))
        ties = (whole + np.arange(steps - 1) + 0.5) * scales
        inner = np.searchsorted(self.values, ties)
        cuts = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, len(self.values))))
        levels = ((whole + np.arange(steps)) * scales - self.middle).astype(np.longdouble)
        first, second = (np.diff(part[cuts], axis=1) for part in self.sums)
        errors = second - 2 * levels * first + levels * levels * np.diff(cuts, axis=1)
        return np.maximum(errors.sum(axis=1), 0).astype(np.float64)

    def decibels(self, errors: Any) -> Any:
        """Spread of the values over their errors; more than 60, of which bins know nothing, counts as none."""
        with np.errstate(divide="ignore"):
            return np.minimum(10 * np.log10(self.power or 1.0) - 10 * np.log10(errors), 60.0)

    def least(self, steps: int = 16) -> float:
        """The least error of any scale and whole place of the lowest level, near enough.

        Scales of a dense grid, and whole parts of the range; for each the places at which the levels begin or end near
        some quantile, or lie about the middle. Then all about the best of them.
        """
        low, high = self.values[[0, -1]]
        full = (high - low) / (steps - 1)
        if full == 0:
            return 0.0
        shares = np.concatenate([[0], np.geomspace(1e-6, 0.02, 12), np.linspace(0.03, 0.5, 16)])
        quantiles = np.unique(np.quantile(self.values, np.concatenate([shares, 1 - shares]), method="nearest"))
        inner = self.values[[len(self.values) // 20, -1 - len(self.values) // 20]] @ [-1, 1] / (steps - 1)
        scales, whole = [], []
        grid = np.geomspace(full, max(inner / 4, full * 1e-7), 200)
        for scale in [*grid, *((high - low) / np.arange(1, 65))]:
            starts = np.concatenate([quantiles, quantiles - (steps - 1) * scale]) / scale
            starts = np.concatenate([starts, self.middle / scale - np.arange(steps)])
            places = np.unique(np.concatenate([np.floor(starts), np.ceil(starts)]))
            far = places[np.abs(places) > 16]  # there a scale that is moved a little puts the levels anywhere
            moved = far + np.linspace(-0.375, 0.375, 7)[:, None]
            scales += [np.full(len(places), scale), (scale * moved / far).ravel()]
            whole += [places, np.broadcast_to(far, moved.shape).ravel()]
        best = self._refined(np.concatenate(scales), np.concatenate(whole), 8, steps)
        for spread in (0.04, 0.003):
            at = np.array(
                [(s * (1 + d), w + m) for s, w in best for d in np.linspace(-1, 1, 81) * spread for m in (-1, 0, 1)]
            )
            far = np.array([(s * (1 + d / w), w) for s, w in best if abs(w) > 16 for d in np.linspace(-0.5, 0.5, 41)])
            tried = np.concatenate([at, far.reshape(-1, 2), best])
            best = self._refined(tried[:, 0], tried[:, 1], 8, steps)
        return float(self.errors(best[0, 0], best[0, 1], steps)[0])

    def _refined(self, scales: np.ndarray, whole: np.ndarray, count: int, steps: int) -> np.ndarray:
        """Scale and place of the best few, of different ones where there are."""
        order = np.argsort(self.errors(scales, whole, steps), kind="stable")[: 40 * count]
        _, different = np.unique(np.rint(np.log(scales[order]) * 50), return_index=True)
        chosen = order[np.sort(different)[:count]]
        return np.stack([scales[chosen], whole[chosen]], axis=1)
