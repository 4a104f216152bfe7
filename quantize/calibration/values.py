"""The scale and the whole zero point of least squared error of a group, searched for in its values themselves.

A histogram of each group costs more than its values where these are few. Here a group's values are read again for each
scale that is tried, from the cache, and nothing else is kept of them. What is found depends on the values only.

1. *The values are moved, and scaled by a power of two*, so that they lie about zero and half their range is from 1 to
   2. So float32 loses nothing that counts, however large, small or far from zero they are.
2. *A trial* gives a code to each value, and sums up codes, their squares, and their products with the values. By these
   sums the squared error is known, and the scale that fits these codes best.
3. *Windows.* The levels are spread over parts of the range, wherever in it the error is least. Each is moved so that
   zero lies on a level; further than `ON_GRID` steps from zero the scale is changed instead, by a little.
4. *The best* is tried again with scales a little smaller and larger, and with the one where a parabola through these
   errors is least.

Few different values may lie on levels exactly: then whole parts of the range are tried as scales, before all others.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels import argument, compiled, helper, widened_block
from ..numerics.grid import Shape
from ..numerics.scales import HIGHEST, SMALLEST_NORMAL, Rule
from ..numerics.statistics import bounds

LONGEST = 1 << 13  # values: of more a histogram takes less time
DISTINCT = 16  # values: so many different ones may all lie on levels
MOST_PARTS = 64  # of the range, that are tried as a scale where values are few
ON_GRID = 16  # steps from zero: levels further away can be put anywhere by changing the scale a little
SIDE = 16  # values: side by side
ROUNDER = np.float32(1.5 * 2**23)  # added to a float32 and taken off again it rounds it half to even
NOTHING = np.float32(0)
TINY = 1e-30  # scales, beside values from 1 to 4: smaller ones have no inverse in float32
TRUSTED = 2.0**-23  # of the sum of squares: errors closer to one another than that are the same to float32
EXACT = 2.0**-40  # of the sum of squares: an error with which all values lie on levels
SHRINK, LEAST_PART = 0.88, 0.02  # of the range: windows are narrowed by this factor, and no further than that
GIVE_UP = 1.5  # times the least error: windows with more are not narrowed further
BROAD, NARROW = 0.03, 0.01  # of a scale: how far from it others are tried


class Group(NamedTuple):
    """The values of a group as numbers about one of them, all divided by one power of two.

    `number`, `total` and `squares` are how many there are, their sum, and that of their squares; `least` and `width`
    their least and their range. Zero lies at ``-middle``. `low` and `high` are the codes that values get.
    """

    number: Any
    total: Any
    squares: Any
    least: Any
    width: Any
    middle: Any
    low: Any
    high: Any


class Trial(NamedTuple):
    """A scale, a whole zero point, and their squared error: no more than it where they fit codes of another trial."""

    error: Any
    scale: Any
    zero_point: Any


def are_short(rule: Rule, shape: Shape) -> bool:
    """Whether scales are of least squared error and groups so short that they are searched for in the values."""
    return rule.method.name == "mse" and math.prod(rule.granularity.box(shape)) <= LONGEST


def choose_by_values(
    values: np.ndarray, rule: Rule, rows: np.ndarray, missing: float | int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scales and zero points of least squared error of short groups, of which `rows` are the statistics."""
    scales, zero_points = rule.scales(rows)
    each = np.ascontiguousarray(rule.granularity.rows(values), values.dtype.newbyteorder("="))
    wide = widened_block(each, missing).reshape(each.shape)
    ends = map(argument, bounds(rows))
    compiled(search_loop, wide.dtype)(wide, *ends, float(rule.lowest), float(HIGHEST), scales, zero_points)
    return scales, zero_points


def search_loop(rows, least, most, low, high, scales, zero_points):  # type: ignore[no-untyped-def]
    whole, sums = np.zeros(-(-rows.shape[1] // SIDE) * SIDE, np.float32), np.zeros(3 * SIDE, np.float32)
    for i in range(rows.shape[0]):
        half = 0.5 * most[i] - 0.5 * least[i]
        if not half > 0:
            continue
        bits: Any = np.float64(half).view(np.int64)
        exponent = min(max(bits >> 52, 3), 2043)
        factor = np.int64((2046 - exponent) << 52).view(np.float64)
        middle = factor * origin(rows[i], least[i], most[i])
        number = centre(rows[i], factor, middle, whole)
        values = whole[: -(-number // SIDE) * SIDE]
        total, squares = moments(values, sums)
        group = Group(number, total, squares, factor * least[i] - middle, 2 * factor * half, middle, low, high)
        best = search(group, values, sums, scales[i] * factor, np.float64(zero_points[i]))
        scale = best.scale / factor
        if SMALLEST_NORMAL <= scale < np.inf:
            scales[i], zero_points[i] = scale, np.int64(best.zero_point)


@helper
def origin(row, least, most):  # type: ignore[no-untyped-def]
    """One of three values, neither the least nor the greatest of them: next to it float32 loses nothing to outliers."""
    first, second, third = np.float64(row[0]), np.float64(row[row.shape[0] // 2]), np.float64(row[-1])
    lower, upper = min(first, second), max(first, second)
    found = max(lower, min(upper, third))
    return found if least <= found <= most else 0.5 * least + 0.5 * most


@helper
def centre(row, factor, middle, values):  # type: ignore[no-untyped-def]
    """Write the numbers of the valid values of a row, and zeros after them; how many those are."""
    valid: Any = 0
    for j in range(row.shape[0]):
        x = np.float32(row[j] * factor - middle)
        values[j] = x
        valid += abs(x) <= 4
    if valid < row.shape[0]:
        valid = 0
        for j in range(row.shape[0]):
            if abs(values[j]) <= 4:
                values[valid] = values[j]
                valid += 1
    values[valid:] = NOTHING
    return valid


@helper
def added_up(sums, row):  # type: ignore[no-untyped-def]
    """The sum of a row of sums, in one order."""
    first = row * SIDE
    for i in range(8):
        sums[first + i] += sums[first + i + 8]
    for i in range(4):
        sums[first + i] += sums[first + i + 4]
    return np.float64((sums[first] + sums[first + 2]) + (sums[first + 1] + sums[first + 3]))


@helper
def moments(values, sums):  # type: ignore[no-untyped-def]
    """The sum of the numbers, and of their squares."""
    for i in range(2 * SIDE):
        sums[i] = NOTHING
    for k in range(0, values.shape[0], SIDE):
        for i in range(SIDE):
            x = values[k + i]
            sums[i] += x
            sums[SIDE + i] += x * x
    return added_up(sums, 0), added_up(sums, 1)


# One trial ------------------------------------------------------------------------------------------------------------


@helper
def code_near(x, start, inverse, bottom, top):  # type: ignore[no-untyped-def]
    code = (x - start) * inverse + ROUNDER
    code = code if code > bottom else bottom
    code = code if code < top else top
    return code - ROUNDER


@helper
def add_up_codes(values, sums, start, inverse, bottom, top):  # type: ignore[no-untyped-def]
    """Write sums of the codes of values, of their squares, and of their products with the values, side by side."""
    for i in range(3 * SIDE):
        sums[i] = NOTHING
    whole = values.shape[0] // (4 * SIDE) * (4 * SIDE)
    for k in range(0, whole, 4 * SIDE):
        for i in range(SIDE):
            x0, x1, x2, x3 = values[k + i], values[k + SIDE + i], values[k + 2 * SIDE + i], values[k + 3 * SIDE + i]
            q0, q1 = code_near(x0, start, inverse, bottom, top), code_near(x1, start, inverse, bottom, top)
            q2, q3 = code_near(x2, start, inverse, bottom, top), code_near(x3, start, inverse, bottom, top)
            sums[i] += (q0 + q1) + (q2 + q3)
            sums[SIDE + i] += (q0 * q0 + q1 * q1) + (q2 * q2 + q3 * q3)
            sums[2 * SIDE + i] += (q0 * x0 + q1 * x1) + (q2 * x2 + q3 * x3)
    for k in range(whole, values.shape[0], SIDE):
        for i in range(SIDE):
            code = code_near(values[k + i], start, inverse, bottom, top)
            sums[i] += code
            sums[SIDE + i] += code * code
            sums[2 * SIDE + i] += code * values[k + i]


@helper
def error_of(group, scale, zero_point, k, kk, kx):  # type: ignore[no-untyped-def]
    """The squared error of codes with these sums."""
    start = -zero_point * scale - group.middle
    levels = 2 * start * scale * k + scale * scale * kk + group.number * start * start
    return group.squares - 2 * (start * group.total + scale * kx) + levels


@helper
def snapped(scale, level):  # type: ignore[no-untyped-def]
    """The scale and the whole zero point next to a scale and the level of code 0."""
    nearest = np.rint(level / scale)
    return (level / nearest if abs(nearest) > ON_GRID else scale), 0.0 - nearest


@helper
def fitted(group, scale, zero_point, k, kk, kx):  # type: ignore[no-untyped-def]
    """The scale and zero point that fit codes with these sums; near zero the scale alone."""
    number = group.number
    if abs(zero_point) <= ON_GRID:
        square = kk - 2 * zero_point * k + zero_point * zero_point * number
        product = kx - zero_point * group.total + group.middle * (k - zero_point * number)
        return (product / square if product > 0 and square > 0 else scale), zero_point
    variance, covariance = number * kk - k * k, number * kx - k * group.total
    if not (variance > 0 and covariance > 0):
        return scale, zero_point
    slope = covariance / variance
    return snapped(slope, group.middle + (group.total - slope * k) / number)


@helper
def improved(group, values, sums, best, scale, zero_point):  # type: ignore[no-untyped-def]
    """The best so far, or this one, or what fits its codes; and the error of this one."""
    if not TINY < scale < np.inf:
        return best, np.inf
    start, inverse = np.float32(-zero_point * scale - group.middle), np.float32(1 / scale)
    bottom, top = ROUNDER + np.float32(group.low), ROUNDER + np.float32(group.high)
    add_up_codes(values, sums, start, inverse, bottom, top)
    k, kk, kx = added_up(sums, 0), added_up(sums, 1), added_up(sums, 2)
    beyond, own = values.shape[0] - group.number, np.float64(code_near(NOTHING, start, inverse, bottom, top))
    k, kk = k - beyond * own, kk - beyond * own * own
    error = error_of(group, scale, zero_point, k, kk, kx)
    if error < best.error - TRUSTED * group.squares:
        best = Trial(error, scale, zero_point)
    other, whole = fitted(group, scale, zero_point, k, kk, kx)
    least = error_of(group, other, whole, k, kk, kx)
    if least < best.error - TRUSTED * group.squares:
        best = Trial(least, other, whole)
    return best, error


# Which are tried ------------------------------------------------------------------------------------------------------


@helper
def search(group, values, sums, scale, zero_point):  # type: ignore[no-untyped-def]
    """The best that is found, beginning with a scale and zero point by which the levels reach over the range."""
    best, _ = improved(group, values, sums, Trial(np.inf, scale, zero_point), scale, zero_point)
    if has_few(values, group.number):
        best = on_bounds(group, values, sums, best)
    if best.error <= TRUSTED * group.squares:
        return best
    best = narrowed(group, values, sums, best)
    scale, zero_point = best.scale, best.zero_point
    for move in range(-1, 2):
        best = refined(group, values, sums, best, scale, zero_point, move, BROAD)
    return refined(group, values, sums, best, best.scale, best.zero_point, 0, NARROW)


@helper
def window(group, values, sums, best, part, place):  # type: ignore[no-untyped-def]
    """As `improved`, by levels that span a part of the range, 0 at the low end of it, 1 at the high one."""
    step = group.width * part / (group.high - group.low)
    start = group.least + group.width * (1 - part) * place - group.low * step
    scale, zero_point = snapped(step, group.middle + start)
    return improved(group, values, sums, best, scale, zero_point)


@helper
def vertex(before, here, after):  # type: ignore[no-untyped-def]
    """Where a parabola through errors at -1, 0 and 1 is least, no further out than these."""
    bend = before + after - 2 * here
    if not bend > 0:
        return -1.0 if before < after else 1.0
    return min(max(0.5 * (before - after) / bend, -1.0), 1.0)


@helper
def narrowed(group, values, sums, best):  # type: ignore[no-untyped-def]
    """The best of windows that become narrower until the error grows, each about the place that was the best before."""
    part, place, aside = 1.0, 0.5, 0.0
    while part > LEAST_PART:
        best, here = window(group, values, sums, best, part, place)
        if aside > 0:
            best, before = window(group, values, sums, best, part, place - aside)
            best, after = window(group, values, sums, best, part, place + aside)
            place = min(max(place + aside * vertex(before, here, after), 0.0), 1.0)
            here = min(here, before, after)
        if here > GIVE_UP * best.error:
            break
        aside = max(0.5 * aside, 0.125) if aside > 0 else 0.5
        part *= SHRINK
    return best


@helper
def refined(group, values, sums, best, scale, zero_point, move, part):  # type: ignore[no-untyped-def]
    """The best so far, or a better one by scales that are a part larger and smaller than one, a level further on."""
    middle_code = 0.5 * (group.low + group.high)
    whole = zero_point + move
    centre = (middle_code - zero_point) * scale
    if abs(zero_point) > ON_GRID:
        centre -= move * scale / 3
    other, before, here, after = scale, np.inf, np.inf, np.inf
    for j in range(4):
        at = (0.0, -1.0, 1.0, 0.0)[j] if j < 3 else vertex(before, here, after)
        other = scale * (1 + at * part)
        if abs(zero_point) > ON_GRID:
            other, whole = snapped(other, centre - middle_code * other)
        best, found = improved(group, values, sums, best, other, whole)
        here, before, after = (found if j == 0 else here), (found if j == 1 else before), (found if j == 2 else after)
    return best


@helper
def has_few(values, number):  # type: ignore[no-untyped-def]
    """Whether no more values are different than may lie on levels."""
    seen, count = np.empty(DISTINCT, np.float32), 0
    for i in range(number):
        known = False
        for j in range(count):
            known |= seen[j] == values[i]
        if not known:
            if count == DISTINCT:
                return False
            seen[count] = values[i]
            count += 1
    return True


@helper
def on_bounds(group, values, sums, best):  # type: ignore[no-untyped-def]
    """The best of scales that put levels on both bounds, or the first by which all values lie on levels."""
    steps, low = group.high - group.low, group.middle + group.least
    for parts in range(1, DISTINCT if group.number <= DISTINCT else MOST_PARTS + 1):
        scale = group.width / parts
        for place in range(1 if parts <= steps else 2):
            begin = low + place * (parts - steps) * scale
            nearest = np.rint(begin / scale)
            for moved in range(2 if abs(nearest) > ON_GRID else 1):
                own = begin / nearest if moved else scale
                best, error = improved(group, values, sums, best, own, group.low - nearest)
                if error <= EXACT * group.squares:
                    return Trial(error, own, group.low - nearest)
    return best
