"""Numba loops: scan, pack, unpack. They know arrays and numbers; no Dask, no Zarr, no axes.

Every function here takes C-contiguous blocks of two dimensions ``(rows, n)`` in native byte order, releases the GIL,
and starts no thread of its own. The packed form of a block is ``(rows, ceil(n / 2))`` uint8: value ``2j`` in the low
nibble and ``2j + 1`` in the high nibble of byte ``j``, two's complement, an odd end padded with 0.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numba
import numpy as np
from numba.extending import overload

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))


@functools.cache
def compiled(loop: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Compile `loop` once for each `name`, which stands for one signature, with a file of its own in Numba's cache.

    Numba keeps all signatures of a function in one index; two processes that write it at once can swap two
    signatures' machine code (numba#4807). With one signature a file, what they overwrite is the same code.
    """
    own = types.FunctionType(loop.__code__, loop.__globals__, f"{loop.__name__}_{name}")
    own.__qualname__ = own.__name__
    try:
        dispatcher: Callable[..., Any] = numba.njit(nogil=True, cache=True)(own)
    except RuntimeError:  # there is no folder that may be written: compile in every process
        dispatcher = numba.njit(nogil=True)(own)
    return dispatcher


def signature(block: np.ndarray, missing: Any = None) -> str:
    """What tells the signatures of one loop apart: the dtype, whether there is a missing value, the array's flags."""
    flags = block.flags
    parts = [str(block.dtype), "missing" * (missing is not None)]
    return "_".join([*parts, "readonly" * (not flags.writeable), "unaligned" * (not flags.aligned)])


# Scan ---------------------------------------------------------------------------------------------------------------
#
# The bits of a float, its sign and magnitude turned into two's complement, are an integer that orders as the float
# does. Integer minima vectorize without fastmath, and every test (finite, missing) is an integer comparison.


class Scan(NamedTuple):
    """What one read of a block gives: the bounds of its finite values (NaN where there are none), and counts.

    Of each index of an axis, they are arrays with an entry for each.
    """

    minimum: Any
    maximum: Any
    valid: Any
    nan: Any = 0
    missing: Any = 0
    positive_infinity: Any = 0
    negative_infinity: Any = 0


class Lines(NamedTuple):
    """Which index of an axis each line of a block belongs to.

    Lines are rows, row `r` of index ``r // repeat % indices``; where the axis is the last, columns, one of each index.
    """

    indices: int = 1
    repeat: int = 1
    columns: bool = False


ONE = Lines()


def scan(block: np.ndarray, missing: float | int | None = None) -> Scan:
    """Minimum, maximum and counts of a block in one read. `missing` is a value of the block's dtype, or None."""
    keys, order = ordered(block)
    # None is a type of its own to Numba: without a missing value the comparison is not compiled.
    sentinel = None if missing is None else keys.dtype.type(order.key(missing))
    loop = compiled(scan_loop, signature(keys, missing))
    low, high, count = loop(keys, order.shift, order.flip, order.carry, order.low, order.high, sentinel)
    minimum, maximum = (order.value(low), order.value(high)) if count else (math.nan, math.nan)
    rest = block.size - count
    if rest == 0:
        return Scan(minimum, maximum, count)
    infinities = (0, 0) if order.infinity is None else [np.count_nonzero(keys == bits) for bits in order.infinity]
    marked = 0 if sentinel is None else np.count_nonzero(block == np.asarray(missing, block.dtype))
    nan = rest - marked - sum(infinities)
    return Scan(minimum, maximum, count, int(nan), int(marked), int(infinities[0]), int(infinities[1]))


def scan_each(block: np.ndarray, lines: Lines, missing: float | int | None = None) -> Scan:
    """As `scan`, of each index of an axis: arrays of length ``lines.indices``."""
    keys, order = ordered(block)
    sentinel = None if missing is None else keys.dtype.type(order.key(missing))
    found = keys.shape[1] if lines.columns else keys.shape[0]
    low, high = np.full(found, order.high), np.full(found, order.low)
    count = np.zeros(found, np.int64)
    chosen = scan_columns_loop if lines.columns else scan_rows_loop
    loop = compiled(chosen, signature(keys, missing))
    loop(keys, order.shift, order.flip, order.carry, order.low, order.high, sentinel, low, high, count)

    def along(values: np.ndarray, fold: Any) -> np.ndarray:
        """Of rows, folded into those of each index."""
        folded: np.ndarray = values
        return folded if lines.columns else fold(folded.reshape(-1, lines.indices, lines.repeat), axis=(0, 2))

    minimum, maximum = order.values(along(low, np.min)), order.values(along(high, np.max))
    valid = along(count, np.sum)
    minimum[valid == 0] = maximum[valid == 0] = math.nan
    rest = keys.size // lines.indices - valid
    nothing = np.zeros(lines.indices, np.int64)
    if not rest.any():
        return Scan(minimum, maximum, valid, nothing, nothing, nothing, nothing)

    def counted(mask: np.ndarray) -> np.ndarray:
        return along(np.count_nonzero(mask, axis=0 if lines.columns else 1), np.sum)

    infinities = [nothing] * 2 if order.infinity is None else [counted(keys == bits) for bits in order.infinity]
    marked = nothing if sentinel is None else counted(block == np.asarray(missing, block.dtype))
    return Scan(minimum, maximum, valid, rest - marked - sum(infinities), marked, *infinities)


class Order(NamedTuple):
    """How the bits of a dtype become integers in the order of their values.

    They are ``(b ^ (s & flip)) + (s & carry)`` with ``s = b >> shift``; `low` and `high` are those of the smallest and
    the largest finite value.
    """

    dtype: np.dtype[Any]
    shift: int
    flip: Any
    carry: Any
    low: Any
    high: Any
    infinity: tuple[Any, Any] | None

    def key(self, value: float | int) -> int:
        bits = int(np.asarray(value, self.dtype).view(self.flip.dtype))
        return bits if bits >= 0 else (bits ^ int(self.flip)) + int(self.carry)

    def value(self, key: Any) -> float:
        bits = int(key) if key >= 0 else (int(key) - int(self.carry)) ^ int(self.flip)
        return float(np.asarray(bits, self.flip.dtype).view(self.dtype))

    def values(self, keys: np.ndarray) -> np.ndarray:
        """As `value`, of each key: float64."""
        bits = np.where(keys >= 0, keys, (keys - self.carry) ^ self.flip)
        return bits.view(self.dtype).astype(np.float64)


@functools.cache
def order_of(dtype: np.dtype[Any]) -> Order:
    bits = 8 * dtype.itemsize
    if dtype not in FLOATS:
        zero = dtype.type(0)
        info = np.iinfo(dtype)
        return Order(dtype, bits - 1, zero, zero, dtype.type(info.min), dtype.type(info.max), None)
    integer = np.dtype(f"i{dtype.itemsize}").type
    largest = integer(np.asarray(ml_dtypes.finfo(dtype).max, dtype).view(integer))
    infinity = tuple(integer(np.asarray(value, dtype).view(integer)) for value in (np.inf, -np.inf))
    return Order(dtype, bits - 1, integer(np.iinfo(integer).max), integer(1), integer(-largest), largest, infinity)


def ordered(block: np.ndarray) -> tuple[np.ndarray, Order]:
    order = order_of(block.dtype)
    return block.view(order.flip.dtype), order


@numba.njit
def key_of(keys, row, i, shift, flip, carry):  # type: ignore[no-untyped-def]
    sign = keys[row, i] >> shift
    return (keys[row, i] ^ (sign & flip)) + (sign & carry)


@numba.njit
def is_valid(key, low, high, sentinel):  # type: ignore[no-untyped-def]
    valid = (key >= low) & (key <= high)
    if sentinel is not None:
        valid &= key != sentinel
    return valid


@numba.njit
def scan_row(keys, row, shift, flip, carry, low, high, sentinel):  # type: ignore[no-untyped-def]
    count = 0
    smallest = high
    largest = low
    for i in range(keys.shape[1]):
        key = key_of(keys, row, i, shift, flip, carry)
        valid = is_valid(key, low, high, sentinel)
        count += valid
        smallest = min(smallest, key if valid else high)
        largest = max(largest, key if valid else low)
    return smallest, largest, count


def scan_loop(keys, shift, flip, carry, low, high, sentinel):  # type: ignore[no-untyped-def]
    count = 0
    smallest = high
    largest = low
    for row in range(keys.shape[0]):
        least, most, valid = scan_row(keys, row, shift, flip, carry, low, high, sentinel)
        count += valid
        smallest = min(smallest, least)
        largest = max(largest, most)
    return smallest, largest, count


def scan_rows_loop(keys, shift, flip, carry, low, high, sentinel, smallest, largest, count):  # type: ignore[no-untyped-def]
    for row in range(keys.shape[0]):
        smallest[row], largest[row], count[row] = scan_row(keys, row, shift, flip, carry, low, high, sentinel)


def scan_columns_loop(keys, shift, flip, carry, low, high, sentinel, smallest, largest, count):  # type: ignore[no-untyped-def]
    for row in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            key = key_of(keys, row, i, shift, flip, carry)
            valid = is_valid(key, low, high, sentinel)
            count[i] += valid
            smallest[i] = min(smallest[i], key if valid else high)
            largest[i] = max(largest[i], key if valid else low)


# Pack ---------------------------------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """The numbers of `pack_loop`: ``code = clip(rint((x * factor - anchor) * inverse + offset))``.

    This is ``rint(x / s) + z`` about an `anchor`, the level of the lowest code: the difference is taken before anything
    is scaled, so that it loses nothing where the data lie far from zero. `factor` is a power of two that keeps the
    difference and the reciprocal of very large and very small scales in range. `magic` is 1.5 * 2^23 (float64: 2^52):
    added to a number it rounds it half to even and leaves it in the low bits, above those of `magic` itself, whose
    last bit is that of z: so the ties are those of x / s.

    Loops take them as a table of shape ``(8, count)``, a column for each scale.
    """

    factor: Any
    anchor: Any
    inverse: Any
    offset: Any
    low: Any
    high: Any
    nan: Any
    magic: Any


def arithmetic(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The float type that `dtype` is quantized in: float32 where it holds every value of `dtype` exactly."""
    return np.float64 if dtype == np.float64 or (dtype.kind in "iu" and dtype.itemsize > 2) else np.float32


FAR = Fraction(1 << 60)  # steps: no difference between two values that the arithmetic holds apart is outweighed by it
EDGE = {np.float32: 100, np.float64: 1000}  # exponents of scales that need no factor
MANTISSA = {np.float32: 23, np.float64: 52}


@functools.lru_cache(maxsize=256)
def affine(dtype: np.dtype[Any], scale: float, zero_point: int, nan_code: int | None, low: int) -> np.ndarray:
    """Coefficients for blocks of `dtype`, shape (8, 1), rounded once from exact rational numbers.

    An extreme `value_range` may ask for more than the arithmetic has: `inverse` is then the nearest it has, which
    takes all values to one side or the other as they should be.
    """
    number = arithmetic(dtype)
    edge = EDGE[number]
    exponent = math.frexp(scale)[1]
    near = -edge <= exponent <= edge or (dtype == np.float16 and exponent < 0)
    factor = Fraction(1) if near else Fraction(2) ** (edge if exponent < 0 else -edge)
    step = Fraction(scale)
    smallest, largest = Fraction(float(np.finfo(number).tiny)), Fraction(float(np.finfo(number).max))
    lowest_level = min(max((low - zero_point) * step, -largest), largest)
    anchor = Fraction(float(number(float(lowest_level))))
    unit = WIDENING[dtype].unit if dtype in WIDENING else 1
    found = Affine(
        factor=float(factor / Fraction(unit)),
        anchor=float(anchor * factor),
        inverse=float(min(max(1 / (step * factor), smallest), largest)),
        offset=float(min(max(anchor / step + zero_point, -FAR), FAR)),
        low=low,
        high=7,
        nan=low if nan_code is None else nan_code,
        magic=1.5 * 2.0 ** MANTISSA[number] + zero_point % 2,
    )
    return np.array(found, number).reshape(-1, 1)


def affines(
    dtype: np.dtype[Any], scales: np.ndarray, zero_points: np.ndarray, nan_code: int | None, low: int
) -> np.ndarray:
    """As `affine`, of many scales at once, shape ``(8, count)``.

    Where scale and zero point are of an ordinary size, float64 is as good as exact: the offset is then off by less than
    2^-22 of a step.
    """
    number = arithmetic(dtype)
    exponent = np.frexp(scales)[1]
    with np.errstate(over="ignore"):  # those are not ordinary
        levels = (low - zero_points).astype(np.float64) * scales
    ordinary = (np.abs(exponent) < EDGE[number]) & (zero_points > -(1 << 30)) & (zero_points < 1 << 30)
    ordinary &= np.abs(levels) < np.finfo(number).max / 2
    table = np.empty((len(Affine._fields), len(scales)), number)
    anchor = np.where(ordinary, levels, 0.0).astype(number)
    table[0] = 1 / WIDENING[dtype].unit if dtype in WIDENING else 1
    table[1] = anchor
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        table[2] = 1 / scales
        table[3] = (anchor - levels) / scales + low
    table[4], table[5], table[6] = low, 7, low if nan_code is None else nan_code
    table[7] = 1.5 * 2.0 ** MANTISSA[number] + zero_points % 2
    for i in np.flatnonzero(~ordinary):
        table[:, i : i + 1] = affine(dtype, float(scales[i]), int(zero_points[i]), nan_code, low)
    return table


def pack(
    block: np.ndarray,
    out: np.ndarray,
    scale: Any,
    zero_point: Any,
    nan_code: int | None = None,
    missing: float | int | None = None,
    lowest: int | None = None,
    lines: Lines = ONE,
) -> None:
    """Quantize a block and pack it into `out`, uint8. With a `nan_code`, NaN and `missing` become that code.

    The codes are those from `lowest` to 7: by default -8, and -7 with a `nan_code`. `scale` and `zero_point` are
    numbers, or arrays with an entry for each index of an axis, which `lines` tells from one another.
    """
    if lowest is None:
        lowest = -8 if nan_code is None else -7
    if lines == ONE:
        table = affine(block.dtype, float(np.ravel(scale)[0]), int(np.ravel(zero_point)[0]), nan_code, lowest)
    else:
        table = affines(block.dtype, scale, zero_point, nan_code, lowest)
    values, widening, sentinel = loaded(block, missing if nan_code is not None else None)
    chosen = pack_columns_loop if lines.columns else pack_loop
    compiled(chosen, signature(block, sentinel))(values, out, table, lines.repeat, sentinel, widening)


def loaded(block: np.ndarray, missing: float | int | None) -> tuple[np.ndarray, Widening | None, Any]:
    """A block as loops load its values, how they widen them, and the missing value as they then see it."""
    widening = WIDENING.get(block.dtype)
    sentinel: Any = None if missing is None else np.asarray(missing, block.dtype)[()]
    if widening is None:
        return block, None, sentinel
    return block.view(np.uint16), widening, None if missing is None else np.float32(float(sentinel) * widening.unit)


class Widening(NamedTuple):
    """How the bits of a half-precision float become those of a float32 that is `unit` times its value."""

    exponent: Any
    shift: Any
    unit: float


WIDENING = {
    np.dtype(np.float16): Widening(np.uint32(0x7C00), np.uint32(13), 2.0**-112),
    BFLOAT16: Widening(np.uint32(0x7F80), np.uint32(16), 1.0),
}


def bits_of(number: Any) -> Any:
    """The bits of a float32 or float64 as a signed integer, inside kernels."""
    raise NotImplementedError


@overload(bits_of)
def overload_bits_of(number):  # type: ignore[no-untyped-def]
    if number == numba.float32:
        return lambda number: np.float32(number).view(np.int32)
    return lambda number: np.float64(number).view(np.int64)


def as_number(x: Any, like: Any) -> Any:
    """A value in the float type of `like`, inside kernels: Numba makes a float64 of a uint16 times a float32."""
    raise NotImplementedError


@overload(as_number)
def overload_as_number(x, like):  # type: ignore[no-untyped-def]
    if like == numba.float32:
        return lambda x, like: np.float32(x)
    return lambda x, like: np.float64(x)


@numba.njit
def load(block, row, i, widening):  # type: ignore[no-untyped-def]
    return widened(block[row, i], widening)


@numba.njit
def widened(x, widening):  # type: ignore[no-untyped-def]
    if widening is None:
        return x
    half = np.uint32(x)
    bits = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((half & np.uint32(0x7FFF)) << widening.shift)
    infinite = (half & widening.exponent) == widening.exponent
    return np.uint32(bits | np.uint32(0x7F800000) if infinite else bits).view(np.float32)


@numba.njit
def at(table, i):  # type: ignore[no-untyped-def]
    return Affine(
        table[0, i], table[1, i], table[2, i], table[3, i], table[4, i], table[5, i], table[6, i], table[7, i]
    )


@numba.njit
def code(x, affine, sentinel):  # type: ignore[no-untyped-def]
    is_nan = x != x
    if sentinel is not None:
        is_nan |= x == sentinel
    level = (as_number(x, affine.factor) * affine.factor - affine.anchor) * affine.inverse + affine.offset
    level = level if level > affine.low else affine.low
    level = level if level < affine.high else affine.high
    level = affine.nan if is_nan else level
    return (bits_of(level + affine.magic) - bits_of(affine.magic)) & 15


def pack_loop(block, out, table, repeat, sentinel, widening):  # type: ignore[no-untyped-def]
    n = block.shape[1]
    for row in range(block.shape[0]):
        affine = at(table, row // repeat % table.shape[1])
        for j in range(n // 2):
            low_nibble = code(load(block, row, 2 * j, widening), affine, sentinel)
            high_nibble = code(load(block, row, 2 * j + 1, widening), affine, sentinel)
            out[row, j] = low_nibble | (high_nibble << 4)
        if n % 2:
            out[row, n // 2] = code(load(block, row, n - 1, widening), affine, sentinel)


def pack_columns_loop(block, out, table, repeat, sentinel, widening):  # type: ignore[no-untyped-def]
    n = block.shape[1]
    for row in range(block.shape[0]):
        for j in range(n // 2):
            low_nibble = code(load(block, row, 2 * j, widening), at(table, 2 * j), sentinel)
            high_nibble = code(load(block, row, 2 * j + 1, widening), at(table, 2 * j + 1), sentinel)
            out[row, j] = low_nibble | (high_nibble << 4)
        if n % 2:
            out[row, n // 2] = code(load(block, row, n - 1, widening), at(table, n - 1), sentinel)


# Unpack -------------------------------------------------------------------------------------------------------------


def unpack(packed: np.ndarray, out: np.ndarray, table: np.ndarray) -> None:
    """Write ``table[code + 8]`` for each code of a packed block into `out`, of the dtype of the 16-entry `table`.

    One look-up of 256 pairs of values gives both values of a byte: bit for bit those of the table, for every dtype.
    """
    rows, n = out.shape
    pair = PAIRS[out.dtype.itemsize]
    codes = np.arange(256, dtype=np.uint8)
    both: np.ndarray[Any, Any] = np.stack([table[(codes & 15) ^ 8], table[(codes >> 4) ^ 8]], axis=1)
    pairs = both.view(pair)[:, 0]
    even = out if n % 2 == 0 else np.empty((rows, n + 1), out.dtype)
    target = even.view(pair)
    compiled(unpack_loop, f"{signature(packed)}_{signature(target)}")(packed, target, pairs)
    if even is not out:
        out[...] = even[:, :n]


PAIRS: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint16),
    2: np.dtype(np.uint32),
    4: np.dtype(np.uint64),
    8: np.dtype(np.complex128),
}


def unpack_loop(packed, out, pairs):  # type: ignore[no-untyped-def]
    for row in range(packed.shape[0]):
        for j in range(packed.shape[1]):
            out[row, j] = pairs[packed[row, j]]


def unpack_each(packed: np.ndarray, out: np.ndarray, tables: np.ndarray, lines: Lines) -> None:
    """As `unpack`, with a table of 16 entries for each index of an axis: `tables` has shape ``(count, 16)``."""
    bits = np.dtype(f"u{out.dtype.itemsize}")
    target, entries = out.view(bits), np.ascontiguousarray(tables).view(bits)
    chosen = unpack_columns_loop if lines.columns else unpack_rows_loop
    compiled(chosen, f"{signature(packed)}_{signature(target)}")(packed, target, entries, lines.repeat)


def unpack_rows_loop(packed, out, tables, repeat):  # type: ignore[no-untyped-def]
    n = out.shape[1]
    for row in range(out.shape[0]):
        table = tables[row // repeat % tables.shape[0]]
        for j in range(n // 2):
            out[row, 2 * j] = table[(packed[row, j] & 15) ^ 8]
            out[row, 2 * j + 1] = table[(packed[row, j] >> 4) ^ 8]
        if n % 2:
            out[row, n - 1] = table[(packed[row, n // 2] & 15) ^ 8]


def unpack_columns_loop(packed, out, tables, repeat):  # type: ignore[no-untyped-def]
    n = out.shape[1]
    for row in range(out.shape[0]):
        for j in range(n // 2):
            out[row, 2 * j] = tables[2 * j, (packed[row, j] & 15) ^ 8]
            out[row, 2 * j + 1] = tables[2 * j + 1, (packed[row, j] >> 4) ^ 8]
        if n % 2:
            out[row, n - 1] = tables[n - 1, (packed[row, n // 2] & 15) ^ 8]


# Codes ---------------------------------------------------------------------------------------------------------------


def pack_codes(codes: np.ndarray, out: np.ndarray) -> bool:
    """Pack a block of int8 codes into `out`, uint8; False if a code lies outside -8..7."""
    valid: bool = compiled(pack_codes_loop, signature(codes))(codes, out)
    return valid


def pack_codes_loop(codes, out):  # type: ignore[no-untyped-def]
    n = codes.shape[1]
    outside = 0
    for row in range(codes.shape[0]):
        for j in range(n // 2):
            first = codes[row, 2 * j]
            second = codes[row, 2 * j + 1]
            outside |= ((first + 8) | (second + 8)) & ~15
            out[row, j] = (first & 15) | ((second & 15) << 4)
        if n % 2:
            outside |= (codes[row, n - 1] + 8) & ~15
            out[row, n // 2] = codes[row, n - 1] & 15
    return outside == 0
