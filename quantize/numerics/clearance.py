"""No value of an integer dtype may come back as the missing value: scales whose levels keep clear of it.

Levels of integers are rounded to whole numbers, and one of them may be the missing value. A good value with its code
would then come back as missing. A slightly larger scale, whose levels reach over the same range, moves that level away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ..exceptions import RefusedValuesError
from .dtypes import finite_range, rounded, rounded_within
from .scales import HIGHEST, UNIT_SHIFT, Rule, Scale
from .statistics import bounds

TIE = 1e-4  # steps: so near to a tie a value may get either code
LARGEST_STEP = 2.0  # scales: so many times as large as before a scale may become
TRIES = 64  # multiples of a step: of so many at most it is tried to put them beside the missing value
NUDGE = 1e-9  # of a scale: how far beyond the one that puts a level on a tie, at most
NUDGE_UNITS = 1e-3  # units: how far beyond a tie that moves the level, at most; far from 0 a small part of it is much
NUDGE_LEAST = 2.0**-50  # of a scale: less would be lost in rounding


def clear(
    rule: Rule,
    rows: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    missing: float | int | None,
    dtype: np.dtype[Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points by which no value but the missing one comes back as it.

    Parameters
    ----------
    rule : Rule
    rows : ndarray of int64
        Statistics of the values of each scale.
    scales, zero_points : ndarray of float64 and int64
        As the rule chose them.
    missing : int or None
        The missing value; a rule that refuses it has no code for it, and nothing to keep clear of.
    dtype : dtype
        Of the values and of what is restored. Floats have NaN for what is missing.

    Raises
    ------
    RefusedValuesError
        If there is no such scale.

    Examples
    --------
    >>> from .statistics import Statistics, to_row
    >>> rule, rows = Rule.of("minmax", nan_policy="propagate"), to_row(Statistics(10.0, 150.0, 9))[None]
    >>> scales, zero_points = clear(rule, rows, np.array([10.0]), np.array([-8]), 50, np.dtype("i2"))
    >>> [round(float((code - zero_points[0]) * scales[0])) for code in (-4, -3, -2)]
    [40, 51, 61]
    """
    if missing is None or not may_come_back(rule, dtype, missing):
        return scales, zero_points
    whole = int(missing)
    near = np.flatnonzero(in_doubt(rule, rows, scales, zero_points, whole, dtype))
    if not near.size:
        return scales, zero_points
    scales, zero_points = scales.copy(), zero_points.copy()
    ends = [values_of(rule, row, dtype) for row in rows[near]]
    for i, (low, high) in zip(near.tolist(), ends, strict=True):
        found = cleared(rule, Scale(float(scales[i]), int(zero_points[i])), low, high, whole, dtype)
        scales[i], zero_points[i] = found.scale, found.zero_point
    return scales, zero_points


def may_come_back(rule: Rule, dtype: np.dtype[Any], missing: float | int | None) -> bool:
    """Whether there is a missing value that others could come back as."""
    return missing is not None and rule.nan_code is not None and dtype.kind in "iu"


def clear_blocks(
    rule: Rule, values: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, missing: float | int | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `clear`, of the blocks of some values: scales have five bits, and zero points are quarters.

    Only blocks are looked at that have a level which would come back as the missing value.
    """
    if missing is None or not may_come_back(rule, values.dtype, missing):
        return scales, zero_points
    whole, codes = int(missing), np.arange(rule.lowest, HIGHEST + 1)
    levels = rounded_within((codes - zero_points[:, None]) * scales[:, None], values.dtype)
    near = np.flatnonzero((levels == whole).any(axis=1) & (scales > 1 - 2 * TIE))
    scales, zero_points = scales.copy(), zero_points.copy()
    groups = rule.granularity.groups(values.shape)
    for i in near.tolist():
        own = values[groups.region(i)]
        own = own[own != whole]
        ends = (int(own.min()), int(own.max())) if own.size else (1, 0)
        found = cleared(rule, Scale(float(scales[i]), float(zero_points[i])), *ends, whole, values.dtype)
        scales[i], zero_points[i] = found.scale, found.zero_point
    return scales, zero_points


def values_of(rule: Rule, row: np.ndarray, dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest value of a group; where nothing is known of them those of the dtype."""
    if not row[2]:
        return finite_range(dtype) if not rule.looks or rule.method.needs == "nothing" else (1, 0)
    low, high = bounds(row[None])
    lowest, highest = finite_range(dtype)
    return max(int(low[0]), lowest), min(int(high[0]), highest)


def in_doubt(
    rule: Rule, rows: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, missing: int, dtype: np.dtype[Any]
) -> np.ndarray:
    """Which groups have a level next to the missing value that some value may get, shape ``(groups,)``."""
    if rule.method.needs == "nothing":
        return np.ones(len(scales), bool)
    low, high = bounds(rows)
    with np.errstate(invalid="ignore", over="ignore"):
        reached = (low <= missing + 1 + scales) & (high >= missing - 1 - scales)
        # A level within half a step of the missing value, and so wide a step that another value may be its own.
        levels = np.rint(missing / scales) * scales
        near = np.abs(levels - missing) <= 0.5 + 1e-6 * max(abs(missing), 1)
        near |= missing in finite_range(dtype)  # where levels beyond the dtype saturate
    return np.asarray((rows[:, 2] > 0) & reached & near & (scales > 1 - 2 * TIE))


def cleared(rule: Rule, scale: Scale, low: int, high: int, missing: int, dtype: np.dtype[Any]) -> Scale:
    """The scale of one group, of values from `low` to `high`: as it is, or a larger one."""
    others = [value for value in (min(high, missing - 1), max(low, missing + 1)) if low <= value <= high]

    def stands(tried: Scale) -> bool:
        return not any(level == missing for value in others for level in levels_of(tried, value, rule.lowest, dtype))

    if not others or stands(scale):
        return scale
    larger = larger_of_blocks if rule.granularity.fraction > 1 else larger_scales
    for tried in larger(rule, scale, low, missing):
        if stands(tried) and (rule.method.clips or covers(tried, low, high, rule.lowest)):
            return tried
    raise RefusedValuesError(
        f"values next to the missing value {missing} would come back as it: the levels lie {scale.scale:.6g} apart, "
        f"and none may be {missing}. Pass floats=True, which turns integers into floats and what is missing into NaN"
    )


def covers(scale: Scale, low: int, high: int, lowest: int) -> bool:
    """Whether all values from `low` to `high` lie within half a step of a level."""
    ends = (lowest - scale.zero_point) * scale.scale, (HIGHEST - scale.zero_point) * scale.scale
    half = scale.scale / 2
    return ends[0] - half <= low and high <= ends[1] + half


def larger_scales(rule: Rule, scale: Scale, low: int, missing: int) -> Iterator[Scale]:
    """Scales by which a level lies just beside what rounds to the missing value."""
    for step in larger_steps(scale.scale, missing):
        yield rule.method.with_step(step, scale, float(low), rule.lowest)


def larger_of_blocks(rule: Rule, scale: Scale, low: int, missing: int) -> Iterator[Scale]:
    """Scales of blocks about the same middle, or a quarter or half of a step beside it, by which all reach as far."""
    centre = (rule.lowest + HIGHEST) / 2
    middle = (centre - scale.zero_point) * scale.scale
    unit = int(np.float64(scale.scale).view(np.int64)) >> UNIT_SHIFT
    for more in range(17):
        step = float(np.int64(unit + more << UNIT_SHIFT).view(np.float64))
        nearest = round(4 * (centre - middle / step)) / 4
        moves = (0.0, 0.25, -0.25) if more == 0 else (0.0, 0.25, -0.25, 0.5, -0.5)
        for move in (0.0,) if rule.method.name == "absmax" else moves:
            yield Scale(step, 0.0 if rule.method.name == "absmax" else nearest + move)


def larger_steps(scale: float, missing: int) -> Iterator[float]:
    """Steps from a given one upwards by which a level lies just beside what rounds to the missing value."""
    found = set()
    nudge = max(min(NUDGE, NUDGE_UNITS / max(abs(missing), 1)), NUDGE_LEAST)
    for sign in (-1, 1):
        tie = Fraction(2 * abs(missing) + sign, 2)
        first = max(int(tie / Fraction(scale)), 0)
        found |= {float(tie / number) * (1 + sign * nudge) for number in range(first, max(first - TRIES, 0), -1)}
    return iter(sorted(step for step in found if scale < step <= LARGEST_STEP * scale))


def levels_of(scale: Scale, value: int, lowest: int, dtype: np.dtype[Any]) -> set[int]:
    """What a value may come back as: one whole number, or near a tie two."""
    exact = Fraction(value) / Fraction(scale.scale)
    whole = math.floor(scale.zero_point)
    exact += Fraction(scale.zero_point - whole)
    codes = {min(max(round(exact + Fraction(sign * TIE)) + whole, lowest), HIGHEST) for sign in (-1, 1)}
    return {int(rounded(float(code - scale.zero_point) * scale.scale, dtype)) for code in codes}
