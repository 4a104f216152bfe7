"""Numba loops: pack and unpack. They know arrays and numbers; no Dask, no Zarr, no axes.

Every function here takes C-contiguous blocks of two dimensions ``(rows, n)`` in native byte order, releases the GIL,
and starts no thread of its own. The packed form of a block is ``(rows, ceil(n / 2))`` uint8: value ``2j`` in the low
nibble and ``2j + 1`` in the high nibble of byte ``j``, two's complement, an odd end padded with 0.
"""

from __future__ import annotations

import functools
import platform
import re
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from .numerics.dtypes import BFLOAT16
from .numerics.granularity import ONE, Lines
from .numerics.tables import Affine, LevelTable

PACKAGE = Path(__file__).parent
WITH_LOOPS = ("kernels.py", "numerics/tables.py", "calibration", "quality/residuals.py")


def digest_of_loops(package: Path = PACKAGE) -> str:
    """A digest of all files that hold loops, or what loops call or look up: it changes with any of them."""
    digest = 0
    for name in WITH_LOOPS:
        path = package / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest = zlib.crc32(file.read_bytes(), digest)
    return f"{digest:08x}"


SOURCE = digest_of_loops()


@functools.cache
def compiled(loop: Callable[..., Any], *kinds: Any) -> Callable[..., Any]:
    """Compile `loop` once for each `kinds`, which stand for one signature, with a file of its own in Numba's cache.

    Numba keeps all signatures of a function in one index. Two processes that write it at once can swap the machine
    code of two signatures (numba#4807). With one signature a file, what they overwrite is the same code. Numba looks
    only at the age of the loop's own file, and not of the files that hold what the loop calls. So the name holds the
    digest of all such files.
    """
    name = re.sub(r"\W+", "_", "_".join([loop.__name__, *map(str, kinds), SOURCE]))
    own = types.FunctionType(loop.__code__, loop.__globals__, name)
    own.__qualname__ = name
    try:
        dispatcher: Callable[..., Any] = numba.njit(nogil=True, cache=True)(own)
    except RuntimeError:  # Numba may write to no folder: compile in every process
        dispatcher = numba.njit(nogil=True)(own)
    return dispatcher


# A decorator for functions that loops call. When Python calls one, it runs as it is written. So nothing is compiled for
# calls by Python, which takes a good part of the time that a small function takes to compile.
helper: Any = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)


def signature(block: np.ndarray) -> tuple[Any, ...]:
    """The part of a signature that an array decides: its dtype, and whether it is aligned."""
    return block.dtype, block.flags.aligned


def read_only(block: np.ndarray, dtype: Any = None) -> np.ndarray:
    """A view that may not be written to, of a dtype of the same size. Numba takes writable arrays for another type."""
    view = block.view(dtype or block.dtype)
    view.flags.writeable = False
    return view


# Pack ---------------------------------------------------------------------------------------------------------------


def pack(
    block: np.ndarray, out: np.ndarray, table: np.ndarray, lines: Lines = ONE, missing: float | int | None = None
) -> None:
    """Quantize a block and pack it into `out`, uint8.

    `table` has the coefficients of each group, as `coefficients` in `numerics.tables` gives them; `lines` tells which
    group a value is of. With a `missing` value, that and NaN get the code that the table has for them.
    """
    is_extreme = bool((table[0] != 1).any())
    values, widening, sentinel = loadable(block, missing)
    # An argument that is None has a type of its own: Numba leaves out the branches that this closes.
    extreme = True if is_extreme else None
    chosen = pack_columns_loop if lines.columns else pack_loop
    loop = compiled(chosen, signature(block), sentinel is not None, is_extreme)
    loop(values, out, table, lines.repeat, sentinel, extreme, widening)


def loadable(block: np.ndarray, missing: float | int | None) -> tuple[np.ndarray, Any, Any]:
    """A block as loops load its values, how they widen them, and the missing value as they then see it."""
    widening = WIDENING.get(block.dtype)
    if widening is None:
        return read_only(block), None, None if missing is None else np.asarray(missing, block.dtype)[()]
    return read_only(block, np.uint16), widening, None if missing is None else np.float32(missing)


def has_halves() -> bool:
    """Whether Numba compiles for processors that know float16: all but the oldest x86."""
    asked = vars(numba.config).get("CPU_FEATURES")
    if not platform.machine().lower().startswith(("x86", "amd64", "i")):
        return True
    return bool(binding.get_host_cpu_features().get("f16c")) if asked is None else "+f16c" in asked


# How loops make a float32 of the bits of a half-precision float. The type of the entry says how. An integer: the bits
# of a bfloat16 are the upper half of the float32, and are shifted by so many. A bool: the processor has an instruction
# for float16. A float: the bits of a float16, each moved to its place, are a float32 that is too small by this factor.
WIDENING: dict[np.dtype[Any], Any] = {
    np.dtype(np.float16): True if has_halves() else np.float32(2.0**112),
    BFLOAT16: np.uint32(16),
}


@intrinsic
def float_of_half(context, bits):  # type: ignore[no-untyped-def]
    """The float32 of the bits of a float16, inside kernels."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


def widened(x: Any, widening: Any) -> Any:
    """A value as a number to reckon with, inside kernels."""
    raise NotImplementedError


@overload(widened)
def overload_widened(x, widening):  # type: ignore[no-untyped-def]
    match widening:
        case numba.types.NoneType():
            return lambda x, widening: x
        case numba.types.Boolean():
            return lambda x, widening: float_of_half(x)  # type: ignore[call-arg]
        case numba.types.Integer():
            return lambda x, widening: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return rescaled


def rescaled(x, widening):  # type: ignore[no-untyped-def]
    half = np.uint32(x)
    bits = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((half & np.uint32(0x7FFF)) << np.uint32(13))
    is_finite = half & np.uint32(0x7C00) != np.uint32(0x7C00)
    return np.uint32(bits if is_finite else bits | np.uint32(0x7F800000)).view(np.float32) * widening


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
def column(table, i):  # type: ignore[no-untyped-def]
    return Affine(
        table[0, i], table[1, i], table[2, i], table[3, i], table[4, i], table[5, i], table[6, i], table[7, i]
    )


@numba.njit
def code_of(x, affine, sentinel, extreme):  # type: ignore[no-untyped-def]
    number = as_number(x, affine.anchor)
    if extreme is not None:
        number *= affine.factor
    level = (number - affine.anchor) * affine.inverse + affine.offset
    level = level if level > affine.low else affine.low
    level = level if level < affine.high else affine.high
    if sentinel is not None:
        level = affine.nan if (x != x) | (x == sentinel) else level
    return (bits_of(level + affine.magic) - bits_of(affine.magic)) & 15


PACKED_AT_ONCE = 256  # values: packed in one loop, once the values further on have been sent for
AHEAD = 4096  # bytes: distance to the values that are sent for
CACHE_LINE = 64  # bytes: what processors fetch at once


@intrinsic
def send_for(context, array, i):  # type: ignore[no-untyped-def]
    """Have the processor fetch the cache line of an entry, and not wait for it, inside kernels.

    Where a loop does much with each value, processors by themselves look too little ahead to reckon and read at once.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        to_read, to_keep, data_cache = number(0), number(3), number(1)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        builder.call(function, [place, to_read, to_keep, data_cache])
        return context.get_dummy_value()

    return numba.types.none(array, numba.intp), generate


def pack_loop(block, out, table, repeat, sentinel, extreme, widening):  # type: ignore[no-untyped-def]
    n = block.shape[1]
    ahead, step = AHEAD // block.itemsize, CACHE_LINE // block.itemsize
    for row in range(block.shape[0]):
        affine = column(table, row // repeat % table.shape[1])
        line, codes = block[row], out[row]
        for start in range(0, n, PACKED_AT_ONCE):
            for i in range(start + ahead, min(start + ahead + PACKED_AT_ONCE, n), step):
                send_for(line, i)  # type: ignore[call-arg]
            values, pairs = line[start : start + PACKED_AT_ONCE], codes[start // 2 : (start + PACKED_AT_ONCE) // 2]
            for j in range(values.shape[0] // 2):
                low_nibble = code_of(widened(values[2 * j], widening), affine, sentinel, extreme)
                high_nibble = code_of(widened(values[2 * j + 1], widening), affine, sentinel, extreme)
                pairs[j] = low_nibble | (high_nibble << 4)
        if n % 2:
            codes[n // 2] = code_of(widened(line[n - 1], widening), affine, sentinel, extreme)


def pack_columns_loop(block, out, table, repeat, sentinel, extreme, widening):  # type: ignore[no-untyped-def]
    n = block.shape[1]
    for row in range(block.shape[0]):
        for j in range(n // 2):
            low_nibble = code_of(widened(block[row, 2 * j], widening), column(table, 2 * j), sentinel, extreme)
            high_nibble = code_of(widened(block[row, 2 * j + 1], widening), column(table, 2 * j + 1), sentinel, extreme)
            out[row, j] = low_nibble | (high_nibble << 4)
        if n % 2:
            out[row, n // 2] = code_of(widened(block[row, n - 1], widening), column(table, n - 1), sentinel, extreme)


# Unpack -------------------------------------------------------------------------------------------------------------


def unpack(packed: np.ndarray, out: np.ndarray, pairs: np.ndarray) -> None:
    """Write the values of a packed block into `out`, one look-up in `pairs` for each byte: bit for bit its table's."""
    rows, n = out.shape
    even = out if n % 2 == 0 else np.empty((rows, n + 1), out.dtype)
    target = even.view(pairs.dtype)
    compiled(unpack_loop, signature(packed), signature(target))(read_only(packed), target, pairs)
    if even is not out:
        out[...] = even[:, :n]


def unpack_values(table: LevelTable, packed: np.ndarray, out: np.ndarray) -> None:
    """Write the values of packed bytes, of shape ``(..., ceil(n / 2))``, into `out`; both are C-contiguous."""
    lines = table.granularity.lines(out.shape)
    block = table.granularity.in_lines(out)
    packed_block = packed.reshape(len(block), -1).view(np.uint8)
    if lines.groups == 1:
        unpack(packed_block, block, table.pairs)
    else:
        unpack_each(packed_block, block, table.rows, lines)


def unpack_loop(packed, out, pairs):  # type: ignore[no-untyped-def]
    for row in range(packed.shape[0]):
        for j in range(packed.shape[1]):
            out[row, j] = pairs[packed[row, j]]


def unpack_each(packed: np.ndarray, out: np.ndarray, tables: np.ndarray, lines: Lines) -> None:
    """As `unpack`, with a table of 16 entries for each index of an axis: `tables` has shape ``(count, 16)``."""
    bits = np.dtype(f"u{out.dtype.itemsize}")
    target, entries = out.view(bits), np.ascontiguousarray(tables).view(bits)
    chosen = unpack_columns_loop if lines.columns else unpack_rows_loop
    compiled(chosen, signature(packed), signature(target))(read_only(packed), target, entries, lines.repeat)


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
    valid: bool = compiled(pack_codes_loop, signature(codes))(read_only(codes), out)
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
