"""Numba loops that find the scales of blocks, many blocks side by side, in one read.

How the least squared error of a block is searched for
------------------------------------------------------

1. *The values are moved, and scaled by a power of two*, so that they lie about zero and half their range is from 1 to
   2. So float32 loses nothing that counts, however large, small or far from zero they are.
2. *Windows.* The 16 levels are spread over all of the range, and over parts of it at either end and in the middle. Each
   gives a code to every value.
3. *The fit.* Those codes have a scale of least squared error. It is rounded to the five bits that a stored one has.
   The sums over values and codes tell the best offset for it, and their error. The best of all is fitted once more.
4. *Whole numbers.* One more candidate has a power of two for a scale, and zero is a level. By that masks and small
   whole numbers are exact.

The zero point is rounded last. Sums run over each block in one order, so that what is found depends on its values only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels import LANES, ROW, Packing, argument, compiled, gather, helper, pack_lanes, places_of_codes
from ..numerics.granularity import Lines
from ..numerics.lanes import lanes_of
from .values import NOTHING, ROUNDER, code_near

BY_BOUNDS, BY_LARGEST, BY_ERROR = range(3)  # how a scale follows from values
# Levels that are tried: the part of the range that they are spread over, and where it lies, 0 at the low end, 1 at the
# high one. A part of 0 stands for levels a power of two apart, and a negative one for the best so far.
WHOLE_NUMBERS, BEST_AGAIN = (0.0, 0.0), (-1.0, 0.0)
ENDS = [(1.0, 0.5), (0.97, 0.0), (0.97, 0.5), (0.97, 1.0)]
FEW = 64  # values: of so many the best levels lie over nearly all of the range; of more it pays to cut more of it off
INNER = [
    *((part, 0.5) for part in (0.85, 0.72, 0.6, 0.5, 0.42, 0.35, 0.29, 0.24, 0.2, 0.16)),
    *((part, place) for part in (0.8, 0.5, 0.3) for place in (0.0, 1.0)),
]
TRIED = np.array([*ENDS, WHOLE_NUMBERS, BEST_AGAIN], np.float32)
MORE_TRIED = np.array([*ENDS, *INNER, WHOLE_NUMBERS, BEST_AGAIN], np.float32)
FRACTION = np.int64((1 << 52) - 1)
LEAST, MOST = 2.0**-1020, 2.0**1022  # scales: quarters of them are normal, and they reach over all of float64
FARTHEST = 2.0**-28  # of the largest value: smaller scales would need a zero point of more than 32 bits
MOST_FACTOR = {np.float32: 2.0**125, np.float64: 2.0**1020}


class Choice(NamedTuple):
    """How the scales of blocks are chosen.

    Attributes
    ----------
    method : int
        `BY_BOUNDS`, `BY_LARGEST` or `BY_ERROR`.
    low, high : float32
        The codes that values get.
    least : float
        The least scale.
    grid, grid_about_zero : float
        Zero points are multiples of it; the second where the range of a block holds zero.
    refill : bool
        Whether values may be missing.
    """

    method: int
    low: Any
    high: Any
    least: float
    grid: float
    grid_about_zero: float
    refill: bool


NO_CODES = np.empty(0, np.uint8)


def find(
    values: np.ndarray,
    lines: Lines,
    choice: Choice,
    packing: Packing,
    scales: np.ndarray,
    zero_points: np.ndarray,
    codes: np.ndarray = NO_CODES,
) -> bool:
    """Write the scale and zero point of each block of values, flat float32 or float64; False if one is not finite.

    Codes are written too, where there is room for them and no value is missing.
    """
    loop, values = compiled(find_loop, values.dtype), argument(values)
    factor = MOST_FACTOR[values.dtype.type]
    tried = TRIED if math.prod(lines.box) <= FEW else MORE_TRIED
    return all(
        loop(values, source, choice, factor, tried, scales, zero_points, packing, codes, target)
        for source, target in zip(lanes_of(lines.shape, lines.box), places_of_codes(lines), strict=True)
    )


def find_loop(values, source, choice, most_factor, tried, scales, zero_points, packing, codes, target):  # type: ignore[no-untyped-def]
    size = source.offsets.shape[0] * source.run
    lanes, nibbles = np.zeros(size * ROW, values.dtype), np.zeros(size * ROW if codes.size else 0, np.uint8)
    ends, found, covering = np.zeros(6 * LANES, values.dtype), np.zeros(3 * LANES), np.zeros(3 * LANES)
    by_error = choice.method == BY_ERROR
    centred, by = np.zeros(size * ROW if by_error else 0, np.float32), np.zeros(11 * LANES, np.float32)
    pack_by = np.zeros(4 * LANES, values.dtype)
    for first in range(0, source.starts.shape[0], LANES):
        n = min(LANES, source.starts.shape[0] - first)
        gather(values, source, first, lanes)
        find_ends(lanes, size, ends)
        if not are_finite(ends, n):
            if not choice.refill:
                return False
            refill(lanes, size, n, ends)
        if by_error:
            centre(lanes, size, most_factor, ends, centred, by)
            search(centred, size, choice, tried, ends, by)
            to_scales(choice, ends, by, found)
            if choice.grid_about_zero == 1.0 and misses_zero(choice, ends, found):
                over_bounds(choice, ends, covering)
                keep_zero(choice, ends, covering, found)
        else:
            over_bounds(choice, ends, found)
        of_constants(choice, ends, n, found)
        for lane in range(n):
            scales[source.owners[first + lane]] = found[SCALE + lane]
            zero_points[source.owners[first + lane]] = found[ZERO_POINT + lane]
        if codes.size:
            pack_lanes(lanes, size, found, packing, pack_by, nibbles, codes, target, first)
    return True


# Bounds --------------------------------------------------------------------------------------------------------------

LOWER, UPPER, DOUBT, MIDDLE, FACTOR, BACK = (i * LANES for i in range(6))  # rows of `ends`
SCALE, ZERO_POINT, OFFSET = (i * LANES for i in range(3))  # rows of `found`: as `STEP` and `ZERO`, the level of code 0


@helper
def find_ends(lanes, size, ends):  # type: ignore[no-untyped-def]
    """The least and the greatest value in each lane; the row of doubt is NaN where one is not finite."""
    for lane in range(LANES):
        ends[LOWER + lane] = ends[UPPER + lane] = lanes[lane]
        ends[DOUBT + lane] = 0
    for k in range(0, size - 3, 4):
        rows = lanes[k * ROW : (k + 4) * ROW]
        for lane in range(LANES):
            x0, x1, x2, x3 = rows[lane], rows[ROW + lane], rows[2 * ROW + lane], rows[3 * ROW + lane]
            lower, upper = smaller(smaller(x0, x1), smaller(x2, x3)), larger(larger(x0, x1), larger(x2, x3))
            ends[LOWER + lane] = smaller(lower, ends[LOWER + lane])
            ends[UPPER + lane] = larger(upper, ends[UPPER + lane])
            ends[DOUBT + lane] += ((x0 - x0) + (x1 - x1)) + ((x2 - x2) + (x3 - x3))
    for k in range(size // 4 * 4, size):
        row = lanes[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            ends[LOWER + lane] = smaller(row[lane], ends[LOWER + lane])
            ends[UPPER + lane] = larger(row[lane], ends[UPPER + lane])
            ends[DOUBT + lane] += row[lane] - row[lane]


@helper
def smaller(x, y):  # type: ignore[no-untyped-def]
    """One instruction, as Python's own `min` is not: it has another idea of NaN."""
    return x if x < y else y


@helper
def larger(x, y):  # type: ignore[no-untyped-def]
    return x if x > y else y


@helper
def are_finite(ends, n):  # type: ignore[no-untyped-def]
    found = True
    for lane in range(n):
        found &= ends[DOUBT + lane] == 0
    return found


@helper
def refill(lanes, size, n, ends):  # type: ignore[no-untyped-def]
    """Put other values of the block, in turn, in the place of missing ones; zeros where there are no others."""
    for lane in range(n):
        if ends[DOUBT + lane] != 0:
            count = 0
            for k in range(size):
                x = lanes[k * ROW + lane]
                if x == x:
                    lanes[count * ROW + lane] = x
                    ends[LOWER + lane] = x if count == 0 else smaller(x, ends[LOWER + lane])
                    ends[UPPER + lane] = x if count == 0 else larger(x, ends[UPPER + lane])
                    count += 1
            if count == 0:
                ends[LOWER + lane] = ends[UPPER + lane] = 0
            for k in range(count, size):
                lanes[k * ROW + lane] = lanes[(k - count) * ROW + lane] if count else 0


@helper
def rounded_up(scale):  # type: ignore[no-untyped-def]
    """The next scale of five bits."""
    return np.int64((np.float64(scale).view(np.int64) + CUT_LESS_ONE) & CUT).view(np.float64)


@helper
def rounded_near(scale):  # type: ignore[no-untyped-def]
    return np.int64((np.float64(scale).view(np.int64) + CUT_HALF) & CUT).view(np.float64)


CUT_LESS_ONE, CUT_HALF, CUT = (np.int64(x) for x in ((1 << 48) - 1, 1 << 47, -(1 << 48)))


@helper
def allowed(scale, lower, upper, choice):  # type: ignore[no-untyped-def]
    """A scale that may be stored: it or a larger one."""
    least = larger(larger(abs(lower), abs(upper)) * FARTHEST, larger(choice.least, LEAST))
    return smaller(larger(scale, least), MOST)


@helper
def is_flat(lower, upper, scale):  # type: ignore[no-untyped-def]
    """Whether all values lie within less than a step: then the one level in their middle serves them all."""
    return 0.5 * upper - 0.5 * lower < 0.5 * scale


@helper
def over_bounds(choice, ends, found):  # type: ignore[no-untyped-def]
    """The scales by which levels reach over the range, rounded up: all values lie within half a step of one."""
    steps, middle_code = np.float64(choice.high - choice.low), 0.5 * (choice.low + choice.high)
    for lane in range(LANES):
        lower, upper = np.float64(ends[LOWER + lane]), np.float64(ends[UPPER + lane])
        if choice.method == BY_LARGEST:
            width = 0.0625 * larger(abs(lower), abs(upper)) / choice.high
        else:
            width = (0.0625 * upper - 0.0625 * lower) / steps  # a sixteenth of it does not overflow
        scale = rounded_up(allowed(16 * width, lower, upper, choice))
        found[SCALE + lane] = scale
        found[OFFSET + lane] = (
            0.5 * lower + 0.5 * upper - (0.0 if is_flat(lower, upper, scale) else middle_code * scale)
        )
    to_zero_points(choice, ends, found)


@helper
def to_zero_points(choice, ends, found):  # type: ignore[no-untyped-def]
    """Zero points from offsets."""
    for lane in range(LANES):
        about_zero = (ends[LOWER + lane] <= 0) & (ends[UPPER + lane] >= 0)
        grid = choice.grid_about_zero if about_zero else choice.grid
        zero_point = np.rint(found[OFFSET + lane] / (found[SCALE + lane] * grid)) * grid
        found[ZERO_POINT + lane] = 0.0 if choice.method == BY_LARGEST else 0.0 - zero_point


@helper
def misses_zero(choice, ends, found):  # type: ignore[no-untyped-def]
    """Whether zero, which lies in the range of a block, is cut off with one end of it."""
    missed = False
    for lane in range(LANES):
        about_zero = (ends[LOWER + lane] <= 0) & (ends[UPPER + lane] >= 0)
        zero_point = found[ZERO_POINT + lane]
        missed |= about_zero & ((zero_point < choice.low) | (zero_point > choice.high))
    return missed


@helper
def keep_zero(choice, ends, covering, found):  # type: ignore[no-untyped-def]
    """Take the scales that cover the range for blocks of which zero was cut off."""
    for lane in range(LANES):
        about_zero = (ends[LOWER + lane] <= 0) & (ends[UPPER + lane] >= 0)
        zero_point = found[ZERO_POINT + lane]
        if about_zero & ((zero_point < choice.low) | (zero_point > choice.high)):
            found[SCALE + lane], found[ZERO_POINT + lane] = covering[SCALE + lane], covering[ZERO_POINT + lane]


@helper
def of_constants(choice, ends, n, found):  # type: ignore[no-untyped-def]
    """Blocks of one value: the scale is the largest power of two of which it is a whole multiple."""
    for lane in range(n):
        value = np.float64(ends[LOWER + lane])
        if value == np.float64(ends[UPPER + lane]) and (value == 0 or choice.method != BY_LARGEST):
            found[SCALE + lane], found[ZERO_POINT + lane] = 1.0, 0.0
            if value != 0:
                bits = np.float64(value).view(np.int64)
                exponent = (bits >> 52) & 0x7FF
                mantissa = (bits & FRACTION) | (FRACTION + 1)
                kept = max(exponent - 27, exponent - 52 + trailing_zeros(mantissa))
                scale = np.int64(min(max(kept, 3), 2043) << 52).view(np.float64)
                found[SCALE + lane], found[ZERO_POINT + lane] = scale, 0.0 - np.rint(value / scale * 4) / 4


@helper
def trailing_zeros(number):  # type: ignore[no-untyped-def]
    count = 0
    while number & 1 == 0:
        number >>= 1
        count += 1
    return count


# The least squared error ---------------------------------------------------------------------------------------------

# Rows of `by`. All lie in one array, at distances that the compiler knows: so it needs not ask whether they overlap.
SHIFT, INVERSE, SUM, SQUARES, PRODUCTS, MEAN, ERROR, STEP, START, HALF, FULL = (i * LANES for i in range(11))
TWO, INFINITY = np.float32(2), np.float32(np.inf)
TINY = np.float32(1e-37)
STEP_CUT, STEP_HALF, NEXT_POWER, POWER = (np.int32(x) for x in (-(1 << 19), 1 << 18, (1 << 23) - 1, -(1 << 23)))


@helper
def centre(lanes, size, most_factor, ends, centred, by):  # type: ignore[no-untyped-def]
    """Values about the middle of their range, half of which is from 1 to 2; their mean."""
    for lane in range(LANES):
        lower, upper = np.float64(ends[LOWER + lane]), np.float64(ends[UPPER + lane])
        half = 0.5 * upper - 0.5 * lower
        bits = np.float64(half).view(np.int64)
        exponent: Any = min(max(bits >> 52, 3), 2043)
        factor = min(np.int64((2046 - exponent) << 52).view(np.float64), most_factor)
        ends[MIDDLE + lane] = 0.5 * lower + 0.5 * upper
        ends[FACTOR + lane], ends[BACK + lane] = factor, 1 / factor
        by[HALF + lane] = half * factor
        by[MEAN + lane] = NOTHING
    for k in range(0, size - 3, 4):
        rows, out = lanes[k * ROW : (k + 4) * ROW], centred[k * ROW : (k + 4) * ROW]
        for lane in range(LANES):
            middle, factor = ends[MIDDLE + lane], ends[FACTOR + lane]
            x0, x1 = np.float32((rows[lane] - middle) * factor), np.float32((rows[ROW + lane] - middle) * factor)
            x2 = np.float32((rows[2 * ROW + lane] - middle) * factor)
            x3 = np.float32((rows[3 * ROW + lane] - middle) * factor)
            out[lane], out[ROW + lane], out[2 * ROW + lane], out[3 * ROW + lane] = x0, x1, x2, x3
            by[MEAN + lane] += (x0 + x1) + (x2 + x3)
    for k in range(size // 4 * 4, size):
        row, out = lanes[k * ROW : k * ROW + LANES], centred[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            x = np.float32((row[lane] - ends[MIDDLE + lane]) * ends[FACTOR + lane])
            out[lane] = x
            by[MEAN + lane] += x
    share = np.float32(1) / np.float32(size)
    for lane in range(LANES):
        by[MEAN + lane] *= share


@helper
def search(centred, size, choice, tried, ends, by):  # type: ignore[no-untyped-def]
    """Write the step and the start, the level of code 0, of the least squared error into rows of `by`."""
    low, high = choice.low, choice.high
    steps = high - low
    integers = by.view(np.int32)
    for lane in range(LANES):
        by[FULL + lane] = TWO * by[HALF + lane] / steps
        by[ERROR + lane], by[STEP + lane], by[START + lane] = INFINITY, NOTHING, NOTHING
    for i in range(tried.shape[0]):
        part, place = tried[i, 0], tried[i, 1]
        if part > 0:
            set_window(part, place, steps, low, by)
        elif part == 0:
            set_whole(low + high, ends, by, integers)
        else:
            set_best(by)
        fit(centred, size, low, high, by, integers)


@helper
def set_window(part, place, steps, low, by):  # type: ignore[no-untyped-def]
    """The levels spread over a part of the range that lies at this place in it."""
    for lane in range(LANES):
        step, half = by[FULL + lane] * part, by[HALF + lane]
        by[INVERSE + lane] = np.float32(1) / step if step > TINY else NOTHING
        by[SHIFT + lane] = (TWO * half - steps * step) * place - half - low * step


@helper
def set_whole(ends_of_codes, ends, by, integers):  # type: ignore[no-untyped-def]
    """Levels a power of two apart, of which one is zero."""
    for lane in range(LANES):
        integers[INVERSE + lane] = (integers[FULL + lane] + NEXT_POWER) & POWER
    for lane in range(LANES):
        step = np.float64(by[INVERSE + lane])
        middle = np.float64(ends[MIDDLE + lane]) * np.float64(ends[FACTOR + lane])
        nearest = np.rint(middle / step) * step - middle if step > 0 else 0.0
        by[SHIFT + lane] = nearest - np.rint(0.5 * ends_of_codes + 0.5) * step
        by[INVERSE + lane] = 1 / step if step > 0 else 0.0


@helper
def set_best(by):  # type: ignore[no-untyped-def]
    """The best levels so far."""
    for lane in range(LANES):
        step = by[STEP + lane]
        by[SHIFT + lane] = by[START + lane]
        by[INVERSE + lane] = np.float32(1) / step if step > TINY else NOTHING


@helper
def fit(centred, size, low, high, by, integers):  # type: ignore[no-untyped-def]
    """The step and the start that fit the codes of a shift and an inverse, kept if their error is the least so far."""
    bottom, top = ROUNDER + low, ROUNDER + high
    for lane in range(LANES):
        by[SUM + lane], by[SQUARES + lane], by[PRODUCTS + lane] = NOTHING, NOTHING, NOTHING
    for k in range(0, size - 3, 4):
        rows = centred[k * ROW : (k + 4) * ROW]
        for lane in range(LANES):
            shift, inverse = by[SHIFT + lane], by[INVERSE + lane]
            x0, x1, x2, x3 = rows[lane], rows[ROW + lane], rows[2 * ROW + lane], rows[3 * ROW + lane]
            q0, q1 = code_near(x0, shift, inverse, bottom, top), code_near(x1, shift, inverse, bottom, top)
            q2, q3 = code_near(x2, shift, inverse, bottom, top), code_near(x3, shift, inverse, bottom, top)
            by[SUM + lane] += (q0 + q1) + (q2 + q3)
            by[SQUARES + lane] += (q0 * q0 + q1 * q1) + (q2 * q2 + q3 * q3)
            by[PRODUCTS + lane] += (q0 * x0 + q1 * x1) + (q2 * x2 + q3 * x3)
    for k in range(size // 4 * 4, size):
        row = centred[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            code = code_near(row[lane], by[SHIFT + lane], by[INVERSE + lane], bottom, top)
            by[SUM + lane] += code
            by[SQUARES + lane] += code * code
            by[PRODUCTS + lane] += code * row[lane]
    count = np.float32(size)
    share = np.float32(1) / count
    for lane in range(LANES):
        mean_code = by[SUM + lane] * share
        covariance = by[PRODUCTS + lane] - count * by[MEAN + lane] * mean_code
        variance = by[SQUARES + lane] - by[SUM + lane] * mean_code
        by[SUM + lane] = mean_code
        by[PRODUCTS + lane], by[SQUARES + lane] = covariance, variance
        by[INVERSE + lane] = covariance / variance if variance > NOTHING else NOTHING
    for lane in range(LANES):
        integers[INVERSE + lane] = (integers[INVERSE + lane] + STEP_HALF) & STEP_CUT
    for lane in range(LANES):
        step = by[INVERSE + lane]
        error = step * (step * by[SQUARES + lane] - TWO * by[PRODUCTS + lane])
        better = (error < by[ERROR + lane]) & (step > NOTHING)
        by[ERROR + lane] = error if better else by[ERROR + lane]
        by[STEP + lane] = step if better else by[STEP + lane]
        by[START + lane] = by[MEAN + lane] - step * by[SUM + lane] if better else by[START + lane]


@helper
def to_scales(choice, ends, by, found):  # type: ignore[no-untyped-def]
    """Scales and zero points of what was found, in the units of the values."""
    middle_code = 0.5 * (choice.low + choice.high)
    for lane in range(LANES):
        lower, upper = np.float64(ends[LOWER + lane]), np.float64(ends[UPPER + lane])
        middle, back = np.float64(ends[MIDDLE + lane]), np.float64(ends[BACK + lane])
        step = np.float64(by[STEP + lane]) * back
        scale = rounded_up(allowed(step, lower, upper, choice))
        found[SCALE + lane] = scale
        start = np.float64(by[START + lane]) * back
        moved = start if scale == step else start + middle_code * (step - scale)
        found[OFFSET + lane] = middle + (0.0 if is_flat(lower, upper, scale) else moved)
    to_zero_points(choice, ends, found)
