"""The scales of blocks from their values, all of which are there: whatever knows a region can scale and pack it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels import Packing, pack, put_codes, room_for_codes, widened_block
from ..numerics.clearance import clear_blocks, may_come_back
from ..numerics.dtypes import FLOATS
from ..numerics.granularity import ONE, PER_TENSOR, Lines, PerAxis, PerBlock
from ..numerics.grid import Region, Shape, packed_region, shape_of
from ..numerics.scales import HIGHEST, UNIT_SHIFT, Rule, Scales
from ..numerics.statistics import bounds, from_row
from ..numerics.tables import coefficients
from .calibrate import scales_by_rows
from .lanes import BY_BOUNDS, BY_ERROR, BY_LARGEST, FARTHEST, LEAST, NO_CODES, Choice, find
from .scan import scan_rows

METHODS = {"minmax": BY_BOUNDS, "absmax": BY_LARGEST, "mse": BY_ERROR}
LONGEST = (
    1 << 9
)  # values: longer blocks are searched one by one, which takes twice as long and gives 0.1 to 0.5 dB more
SAMPLE, ZEROS = 1 << 16, 0.01  # values that are looked at for zeros, and the share from which on those are kept


def holds_zeros(array: np.ndarray) -> bool:
    """Whether more than 1 % of a sample of an array is exactly 0: then zeros mean something, and are kept exact.

    >>> holds_zeros(np.maximum(np.random.default_rng(0).normal(size=1000), 0)), holds_zeros(np.arange(1000))
    (True, False)
    """
    sample = PER_TENSOR.sample(array, SAMPLE)
    return bool(np.count_nonzero(sample == 0) > ZEROS * sample.size)


def choice_of(rule: Rule, dtype: np.dtype[Any], keep_zero: bool = False) -> Choice:
    """How the scales of values of a dtype are chosen; whole numbers get steps of one at least."""
    method, whole = METHODS[rule.method.name], dtype not in FLOATS
    grid = 1.0 if whole and method != BY_ERROR else 1 / rule.granularity.fraction
    near_zero = 1.0 if keep_zero else grid
    least = max(float(whole), rule.finest or 0.0)
    return Choice(method, np.float32(rule.lowest), np.float32(HIGHEST), least, grid, near_zero, False)


def scales_of_blocks(
    values: np.ndarray,
    rule: Rule,
    missing: float | int | None = None,
    keep_zero: bool = False,
    out: np.ndarray | None = None,
) -> Scales | None:
    """The scales of the blocks of C-contiguous values in native byte order; None if they hold some that are refused.

    With `keep_zero` zero is a level of each block whose range holds it. With `out`, uint8 of shape
    ``(..., ceil(n / 2))`` and C-contiguous, the codes are packed into it, in the same read where that can be.
    """
    granularity, shape = rule.granularity, values.shape
    lines, choice, codes = granularity.lines(shape), choice_of(rule, values.dtype, keep_zero), rule.codes(missing)
    scale, zero_point = np.empty(lines.groups), np.empty(lines.groups)
    packed = False
    if rule.method.value_range is not None:
        if rule.looks and refused(values, rule, missing):
            return None
        find_of_ends(np.array([rule.method.value_range]), choice, scale[:1], zero_point[:1])
        scale[:], zero_point[:] = scale[0], zero_point[0]
    elif math.prod(lines.box) > LONGEST:
        if refused(values, rule, missing):
            return None
        find_long(values, rule, choice, missing, scale, zero_point)
    else:
        flat = widened_block(values, missing)
        nan_code = codes.lowest if codes.nan_code is None else codes.nan_code
        packing = Packing.of(flat.dtype.type, lines, codes.lowest, nan_code)
        packed = out is not None and not may_come_back(rule, values.dtype, missing)
        room = room_for_codes(out, lines) if packed and out is not None else NO_CODES
        if not find(flat, lines, choice, packing, scale, zero_point, room):
            if refused(values, rule, missing):
                return None
            find(flat, lines, choice._replace(refill=True), packing, scale, zero_point)
            packed = False
        if packed and out is not None:
            put_codes(room, out, lines)
    scales = Scales.of(*clear_blocks(rule, values, scale, zero_point, missing), granularity, shape)
    if out is not None and not packed:
        block = granularity.in_lines(values)
        table = coefficients(scales, values.dtype, codes)
        pack(block, out.reshape(len(block), -1), table, lines, codes.sentinel(values.dtype))
    return scales


def scale_and_pack(
    values: np.ndarray,
    region: Region,
    rule: Rule,
    packed: np.ndarray,
    scales: Scales,
    missing: float | int | None = None,
    keep_zero: bool = False,
) -> bool:
    """Write the scales and the packed codes of a region of whole blocks, whose values these are, to their places.

    False if it holds values that the rule takes no code for; of what else was written nothing is to be used then.
    """
    target = packed[packed_region(region)]
    room = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)
    found = scales_of_blocks(values, rule, missing, keep_zero, room.view(np.uint8))
    if found is None:
        return False
    own = rule.granularity.scales_of(region, scales.shape)
    scales.scale[own], scales.zero_point[own] = found.scale, found.zero_point
    if room is not target:
        target[...] = room
    return True


def refused(values: np.ndarray, rule: Rule, missing: float | int | None) -> bool:
    """Whether there are values that the rule takes no code for."""
    block = values.reshape(-1, values.shape[-1])
    return rule.refused(from_row(scan_rows(block, ONE, missing)[0]))


def find_of_ends(ends: np.ndarray, choice: Choice, scale: np.ndarray, zero_point: np.ndarray) -> None:
    """Write the scales by bounds, shape ``(groups, 2)``."""
    by_bounds = choice._replace(method=min(choice.method, BY_LARGEST))
    lines = Lines(len(ends), box=(1, 2), shape=ends.shape)
    find(ends.reshape(-1), lines, by_bounds, Packing.of(np.float64, lines, 0, 0), scale, zero_point)


def find_long(
    values: np.ndarray,
    rule: Rule,
    choice: Choice,
    missing: float | int | None,
    scale: np.ndarray,
    zero_point: np.ndarray,
) -> None:
    """Write the scales of long blocks: by the bounds of each, and for the least squared error by its histogram.

    Those at the far ends may be short, and then are searched as short ones are: the scale of a block depends on its
    own values, wherever an array is cut.
    """
    granularity, shape = rule.granularity, values.shape
    by_rows = replace(rule, granularity=PerAxis(0))
    counts = granularity.groups(shape).counts
    for region in of_one_size(shape, granularity.box(shape)):
        own, part = granularity.scales_of(region, shape), np.ascontiguousarray(values[region])
        lines = granularity.lines(part.shape)
        if math.prod(lines.box) <= LONGEST:
            flat, found = widened_block(part, missing), np.empty((2, lines.groups))
            find(flat, lines, choice._replace(refill=True), Packing.of(flat.dtype.type, lines, 0, 0), *found)
            put(found, own, counts, scale, zero_point)
            continue
        rows = np.ascontiguousarray(PerBlock(granularity.box(shape)).rows(part))
        statistics = scan_rows(rows, PerAxis(0).lines(rows.shape), missing)
        ends = np.nan_to_num(np.stack(bounds(statistics), axis=1))
        found = np.empty((2, len(rows)))
        find_of_ends(ends, choice, *found)
        varied = ends[:, 0] < ends[:, 1]
        if choice.method == BY_ERROR and varied.any():
            best = as_stored(scales_by_rows(rows, by_rows, statistics, missing), choice, ends)
            if choice.grid_about_zero == 1:  # zero stays a level
                varied &= ~(about_zero(ends) & ((best[1] < choice.low) | (best[1] > choice.high)))
            found[:, varied] = best[:, varied]
        put(found, own, counts, scale, zero_point)


def put(found: np.ndarray, own: Region, counts: Shape, scale: np.ndarray, zero_point: np.ndarray) -> None:
    """Write scales and zero points to their places among those of all blocks."""
    for entries, each in zip((scale, zero_point), found, strict=True):
        entries.reshape(counts)[own] = each.reshape(shape_of(own))


def of_one_size(shape: Shape, box: Shape) -> Iterator[Region]:
    """Regions of blocks that all have one size: those cut short at the far ends apart."""
    parts = []
    for n, length in zip(shape, box, strict=True):
        whole = n // length * length
        parts.append([slice(*ends) for ends in ((0, whole), (whole, n)) if ends[0] < ends[1]])
    return itertools.product(*parts)


def about_zero(ends: np.ndarray) -> np.ndarray:
    """Which ranges hold zero."""
    return np.asarray((ends[:, 0] <= 0) & (ends[:, 1] >= 0))


def as_stored(scales: Scales, choice: Choice, ends: np.ndarray) -> np.ndarray:
    """Scales of five bits and zero points of quarters that lie nearest to those of a search, shape ``(2, groups)``."""
    exact, whole = scales.scale.reshape(-1), scales.zero_point.reshape(-1)
    least = np.maximum(np.abs(ends).max(axis=1) * FARTHEST, max(choice.least, LEAST))
    nearest, up = (np.int64(n) for n in (1 << (UNIT_SHIFT - 1), (1 << UNIT_SHIFT) - 1))
    rounded = np.maximum(
        *(
            ((x.view(np.int64) + n) >> UNIT_SHIFT << UNIT_SHIFT).view(np.float64)
            for x, n in ((exact, nearest), (least, up))
        )
    )
    offset = -whole * exact + 0.5 * float(choice.low + choice.high) * (exact - rounded)
    grid = np.where(about_zero(ends), choice.grid_about_zero, choice.grid)
    return np.stack([rounded, 0.0 - np.rint(offset / (rounded * grid)) * grid])
