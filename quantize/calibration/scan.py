"""Numba loops that scan: bounds and counts of blocks, in one read, added to the statistics of each group.

The bits of a float are a sign and a magnitude. Turned into two's complement they are an integer that orders as the
float does: a key. The least and the greatest key tell whether all values are finite. So a block of finite values is
read at the speed of memory, and only a block with other values is looked at value by value.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import ml_dtypes
import numba
import numpy as np

from ..kernels import compiled, read_only, signature
from ..numerics.dtypes import FLOATS
from ..numerics.granularity import ONE, Lines
from ..numerics.scales import Rule
from ..numerics.statistics import no_rows

TILE = 1 << 12  # values: their ends are found before it is asked whether all of them are finite


class Order(NamedTuple):
    """How the bits of a dtype become keys, integers in the order of their values.

    They are ``(b ^ (s & flip)) + (s & carry)`` with ``s = b >> shift``; `low` and `high` are those of the smallest and
    the largest finite value.
    """

    shift: int
    flip: Any
    carry: Any
    low: Any
    high: Any


@functools.cache
def order_of(dtype: np.dtype[Any]) -> tuple[Order, Any]:
    """How values of a dtype are ordered, and the key of infinity; None where the dtype has no infinity."""
    bits = 8 * dtype.itemsize
    if dtype not in FLOATS:
        zero, info = dtype.type(0), np.iinfo(dtype)
        return Order(bits - 1, zero, zero, dtype.type(info.min), dtype.type(info.max)), None
    integer = np.dtype(f"i{dtype.itemsize}").type
    most, infinity = (integer(np.asarray(value, dtype).view(integer)) for value in (ml_dtypes.finfo(dtype).max, np.inf))
    return Order(bits - 1, integer(np.iinfo(integer).max), integer(1), integer(-most), most), infinity


def scan(block: np.ndarray, rows: np.ndarray, lines: Lines = ONE, missing: float | int | None = None) -> int:
    """Add what a block holds to the statistics of each index; how many of its values are not finite, or missing.

    `rows` is int64 of shape ``(lines.groups, 8)``. Its columns are the minimum and the maximum of the finite values,
    as bits of float64 (NaN where there are none), and how many values are finite, NaN, `missing`, +inf and -inf. The
    last column stays as it is. `missing` is a value of the block's dtype, or None.
    """
    order, infinity = order_of(block.dtype)
    keys = read_only(block, order.flip.dtype)
    if not lines.columns:
        keys = keys.reshape(len(keys) // lines.repeat if lines.groups > 1 else 1, -1)
    ends = np.empty((2, lines.groups), keys.dtype)
    counts = np.zeros((4, lines.groups), np.int64)
    ends[0], ends[1] = order.high, order.low
    # An argument that is None has a type of its own: Numba leaves out the branches that this closes.
    unsigned = None if infinity is None else keys.view(UNSIGNED[keys.dtype])
    at_once = missing is None and not lines.columns
    if at_once and compiled(ends_loop, signature(block))(keys, unsigned, *order, ends):
        counts[0] = block.size // lines.groups
    else:
        ends[0], ends[1] = order.high, order.low
        sentinel = None if missing is None else keys.dtype.type(key_of(missing, block.dtype))
        loop = compiled(look_columns_loop if lines.columns else look_rows_loop, signature(block), missing is not None)
        loop(keys, *order, infinity, sentinel, ends, counts)
    values = values_of(ends, block.dtype)
    others: int = compiled(add_loop)(values, counts, block.size // lines.groups, rows.view(np.float64), rows)
    return others


def values_of(keys: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The value of each key, as float64. The key of -0 stands for 0."""
    order, infinity = order_of(dtype)
    bits = keys if infinity is None else np.where(keys >= 0, keys, (keys - order.carry) ^ order.flip)
    return bits.view(dtype).astype(np.float64)


UNSIGNED = {np.dtype(f"i{size}"): np.dtype(f"u{size}") for size in (2, 4, 8)}


def key_of(value: float | int, dtype: np.dtype[Any]) -> int:
    order, _ = order_of(dtype)
    bits = int(np.asarray(value, dtype).view(order.flip.dtype))
    return bits if bits >= 0 else (bits ^ int(order.flip)) + int(order.carry)


# Loops ----------------------------------------------------------------------------------------------------------------


@numba.njit
def as_key(b, order):  # type: ignore[no-untyped-def]
    sign = b >> order.shift
    return (b ^ (sign & order.flip)) + (sign & order.carry)


@numba.njit
def ends_of_integers(keys):  # type: ignore[no-untyped-def]
    least = most = keys[0]
    for i in range(keys.shape[0]):
        least = keys[i] if keys[i] < least else least
        most = keys[i] if keys[i] > most else most
    return least, most


@numba.njit
def ends_of_floats(signed, unsigned, order):  # type: ignore[no-untyped-def]
    """The least and the greatest key, from the same bits as signed and as unsigned integers.

    The bits of positive values order as the values do. Those of negative values order the other way round; as unsigned
    integers they come after all positive ones.
    """
    least = most = signed[0]
    farthest = unsigned[0]
    for i in range(signed.shape[0]):
        least = signed[i] if signed[i] < least else least
        most = signed[i] if signed[i] > most else most
        farthest = unsigned[i] if unsigned[i] > farthest else farthest
    lowest = as_key(signed.dtype.type(farthest), order) if least < 0 else least
    return lowest, as_key(least, order) if most < 0 else most


def ends_loop(keys, unsigned, shift, flip, carry, low, high, ends):  # type: ignore[no-untyped-def]
    """Whether all values are finite: then the least and the greatest key of each index are found."""
    order = Order(shift, flip, carry, low, high)
    for line in range(keys.shape[0]):
        index = line % ends.shape[1]
        for start in range(0, keys.shape[1], TILE):
            if unsigned is None:
                least, most = ends_of_integers(keys[line, start : start + TILE])
            else:
                least, most = ends_of_floats(
                    keys[line, start : start + TILE], unsigned[line, start : start + TILE], order
                )
            if least < low or most > high:
                return False
            ends[0, index] = least if least < ends[0, index] else ends[0, index]
            ends[1, index] = most if most > ends[1, index] else ends[1, index]
    return True


def look_rows_loop(keys, shift, flip, carry, low, high, infinity, sentinel, ends, counts):  # type: ignore[no-untyped-def]
    order = Order(shift, flip, carry, low, high)
    for line in range(keys.shape[0]):
        index = line % ends.shape[1]
        least, most = high, low
        valid = marked = positive = negative = 0
        for i in range(keys.shape[1]):
            key = as_key(keys[line, i], order)
            is_valid = (key >= low) & (key <= high)
            if sentinel is not None:
                is_valid &= key != sentinel
                marked += key == sentinel
            if infinity is not None:
                positive += key == infinity
                negative += key == -infinity
            valid += is_valid
            lower = key if is_valid else high
            upper = key if is_valid else low
            least = lower if lower < least else least
            most = upper if upper > most else most
        ends[0, index] = least if least < ends[0, index] else ends[0, index]
        ends[1, index] = most if most > ends[1, index] else ends[1, index]
        counts[0, index] += valid
        counts[1, index] += marked
        counts[2, index] += positive
        counts[3, index] += negative


def look_columns_loop(keys, shift, flip, carry, low, high, infinity, sentinel, ends, counts):  # type: ignore[no-untyped-def]
    order = Order(shift, flip, carry, low, high)
    for line in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            key = as_key(keys[line, i], order)
            is_valid = (key >= low) & (key <= high)
            if sentinel is not None:
                is_valid &= key != sentinel
            counts[0, i] += is_valid
            lower = key if is_valid else high
            upper = key if is_valid else low
            ends[0, i] = lower if lower < ends[0, i] else ends[0, i]
            ends[1, i] = upper if upper > ends[1, i] else ends[1, i]
    if counts[0].sum() == keys.size:
        return
    for line in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            key = as_key(keys[line, i], order)
            if sentinel is not None:
                counts[1, i] += key == sentinel
            if infinity is not None:
                counts[2, i] += key == infinity
                counts[3, i] += key == -infinity


def add_loop(values, counts, size, bounds, rows):  # type: ignore[no-untyped-def]
    others = 0
    for i in range(rows.shape[0]):
        valid, marked, positive, negative = counts[0, i], counts[1, i], counts[2, i], counts[3, i]
        if valid and not bounds[i, 0] <= values[0, i]:  # NaN where there are none yet
            bounds[i, 0] = values[0, i]
        if valid and not bounds[i, 1] >= values[1, i]:
            bounds[i, 1] = values[1, i]
        rows[i, 2] += valid
        rows[i, 3] += size - valid - marked - positive - negative
        rows[i, 4] += marked
        rows[i, 5] += positive
        rows[i, 6] += negative
        others += size - valid
    return others


def scan_rows(block: np.ndarray, lines: Lines = ONE, missing: float | int | None = None) -> np.ndarray:
    """The statistics of each group of a block, as rows, shape ``(lines.groups, 8)``."""
    rows = no_rows(lines.groups)
    scan(block, rows, lines, missing)
    return rows


def first_refused(block: np.ndarray, rule: Rule, missing: float | int | None = None) -> int:
    """Position in C order of the first value of a block that a rule refuses; -1 if there is none."""
    refused = np.zeros(block.shape, bool)
    with np.errstate(invalid="ignore"):  # signalling NaN
        if rule.nan_code is None:
            refused |= np.isnan(block)
            if missing is not None:
                refused |= block == np.asarray(missing, block.dtype)
        if rule.method.needs != "nothing":
            refused |= np.isinf(block)
    return int(np.argmax(refused)) if refused.any() else -1
