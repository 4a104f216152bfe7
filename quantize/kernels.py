"""Numba loops: pack and unpack. They know arrays and numbers; no Dask, no Zarr, no axes.

Every function here takes C-contiguous blocks of two dimensions ``(rows, n)`` in native byte order, releases the GIL,
and starts no thread of its own. The packed form of a block is ``(rows, ceil(n / 2))`` uint8: value ``2j`` in the low
nibble and ``2j + 1`` in the high nibble of byte ``j``, two's complement, an odd end padded with 0.
"""

from __future__ import annotations

import functools
import math
import platform
import re
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from .numerics.dtypes import BFLOAT16, arithmetic, finite_range, rounded_within
from .numerics.granularity import ONE, Lines
from .numerics.lanes import TURNED, Lanes, lanes_of, rows_of
from .numerics.scales import HIGHEST, MOST_ZERO_POINT, UNIT_SHIFT, ZERO_POINT_BIAS
from .numerics.tables import BOUND_SLACK, CODES, EDGE, MANTISSA, Affine, BlockLevels, CodeLevels

PACKAGE = Path(__file__).parent
WITH_LOOPS = (
    "kernels.py",
    "numerics/lanes.py",
    "numerics/scales.py",
    "numerics/tables.py",
    "calibration",
    "quality/residuals.py",
)


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
        dispatcher: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(own)
    except RuntimeError:  # Numba may write to no folder: compile in every process
        dispatcher = numba.njit(nogil=True, error_model="numpy")(own)
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


def argument(array: np.ndarray) -> np.ndarray:
    """An array as loops with one signature take it: read-only, contiguous and aligned; a copy where it is not."""
    return read_only(np.require(array, requirements=["C", "A"]))


# Pack ---------------------------------------------------------------------------------------------------------------


def pack(
    block: np.ndarray, out: np.ndarray, table: np.ndarray, lines: Lines = ONE, missing: float | int | None = None
) -> None:
    """Quantize a block and pack it into `out`, uint8.

    `table` has the coefficients of each group, as `coefficients` in `numerics.tables` gives them; `lines` tells which
    group a value is of. With a `missing` value, that and NaN get the code that the table has for them.
    """
    if lines.box:
        return pack_blocks(block, out, table, lines, missing)
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


def unpack_values(table: CodeLevels, packed: np.ndarray, out: np.ndarray) -> bool:
    """Write the values of packed bytes, of shape ``(..., ceil(n / 2))``, into `out`; both are C-contiguous.

    Returns whether there may be codes that stand for a value which the dtype cannot hold.
    """
    if isinstance(table, BlockLevels):
        return unpack_blocks(table, packed, out)
    lines = table.granularity.lines(out.shape)
    block = table.granularity.in_lines(out)
    packed_block = packed.reshape(len(block), -1).view(np.uint8)
    if lines.groups == 1:
        unpack(packed_block, block, table.pairs)
    else:
        unpack_each(packed_block, block, table.rows, lines)
    return bool(table.outside.any())


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


# Lanes ---------------------------------------------------------------------------------------------------------------

# Many blocks of one size are worked on side by side: value `k` of the block in lane `l` lies at ``k * ROW + l``. So
# loops over lanes run along memory and become vector instructions, whatever the shape of the blocks.

LANES = 128  # blocks: side by side; 32 values of each fit into the first cache
ROW = LANES + 16  # entries from one value of a lane to the next: no power of two, as those meet in few lines of a cache
PIECE = 64  # values: longer blocks are packed and unpacked in pieces
# Which entries of two vectors, as if one followed the other, two new ones hold: three such steps turn 8 vectors of 8.
TURNS = (
    ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
    ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
    ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)),
)
TURNED_ORDER = (0, 2, 1, 3, 4, 6, 5, 7)  # which column each vector holds after that


def crosswise(into_lanes: bool, width: int) -> Any:
    """An intrinsic that moves some values of 8 blocks into lanes or back: vector loads, a turn, vector stores."""

    def move(context, values, starts, first, shift, lanes, corner):  # type: ignore[no-untyped-def]
        """The blocks begin at 8 entries of `starts` from `first` on, their values `shift` further on."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = [
                None if i in (2, 3, 5) else context.make_array(kind)(context, builder, argument).data
                for i, (kind, argument) in enumerate(zip(signature.args, arguments, strict=True))
            ]
            _, _, first, shift, _, corner = arguments
            item = context.get_value_type(signature.args[0].dtype)
            size = signature.args[0].dtype.bitwidth // 8

            def shuffled(one: Any, other: Any, entries: Any) -> Any:
                return builder.shuffle_vector(
                    one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(entries)), entries)
                )

            starts = [builder.load(builder.gep(data[1], [builder.add(first, first.type(u))])) for u in range(TURNED)]
            blocks = [builder.gep(data[0], [builder.add(start, shift)]) for start in starts]
            rows = [builder.gep(data[4], [builder.add(corner, corner.type(u * ROW))]) for u in range(width)]
            blocks = [builder.bitcast(place, ir.VectorType(item, width).as_pointer()) for place in blocks]
            rows = [builder.bitcast(place, ir.VectorType(item, TURNED).as_pointer()) for place in rows]
            sources, targets = (blocks, rows) if into_lanes else (rows, blocks)
            held = [builder.load(source, align=size) for source in sources]
            nothing = ir.Constant(ir.VectorType(item, TURNED), ir.Undefined)
            if width < TURNED and into_lanes:
                held = [shuffled(vector, vector, [*range(width)] * (TURNED // width)) for vector in held]
            held += [nothing] * (TURNED - len(held))
            for step, halves in enumerate(TURNS):
                for i in range(TURNED):
                    if not i >> step & 1:
                        pair = held[i], held[i + (1 << step)]
                        held[i], held[i + (1 << step)] = (shuffled(*pair, half) for half in halves)
            for place, target in zip(TURNED_ORDER, targets, strict=False):
                vector = held[place]
                if width < TURNED and not into_lanes:
                    vector = shuffled(vector, nothing, [*range(width)])
                builder.store(vector, target, align=size)
            return context.get_dummy_value()

        return numba.types.none(values, starts, numba.intp, numba.intp, lanes, numba.intp), generate

    return intrinsic(move)


turn_in, turn_out = (crosswise(into_lanes, TURNED) for into_lanes in (True, False))
turn_half_in, turn_half_out = (crosswise(into_lanes, TURNED // 2) for into_lanes in (True, False))


@helper
def lie_on_end(starts, first, n):  # type: ignore[no-untyped-def]
    """Whether blocks begin at neighbouring entries: they do in order, and the last may be there again and again."""
    last = first + n - 1
    return starts[last] - starts[first] == n - 1 and starts[last] > starts[last - 1]


@helper
def gather(values, places, first, lanes):  # type: ignore[no-untyped-def]
    """Write the values of the blocks from `first` on, which lie at `places`, into lanes."""
    starts, offsets, run = places.starts, places.offsets, places.run
    n = min(LANES, starts.shape[0] - first)
    on_end = run == 1 and lie_on_end(starts, first, n)
    for i in range(offsets.shape[0]):
        corner = i * run * ROW
        if on_end:
            begin = starts[first] + offsets[i]
            source, target = values[begin : begin + n], lanes[corner : corner + n]
            for lane in range(n):
                target[lane] = source[lane]
            continue
        for lane in range(0, n, TURNED):
            for j in range(0, run - TURNED + 1, TURNED):
                turn_in(values, starts, first + lane, offsets[i] + j, lanes, corner + j * ROW + lane)
            if run & 4:
                j = run // TURNED * TURNED
                turn_half_in(values, starts, first + lane, offsets[i] + j, lanes, corner + j * ROW + lane)
        for j in range(run // 4 * 4, run):
            for lane in range(n):
                lanes[corner + j * ROW + lane] = values[np.uintp(starts[first + lane] + offsets[i] + j)]


@helper
def scatter(values, places, first, lanes):  # type: ignore[no-untyped-def]
    """The inverse of `gather`."""
    starts, offsets, run = places.starts, places.offsets, places.run
    n = min(LANES, starts.shape[0] - first)
    on_end = run == 1 and lie_on_end(starts, first, n)
    for i in range(offsets.shape[0]):
        corner = i * run * ROW
        if on_end:
            begin = starts[first] + offsets[i]
            source, target = values[begin : begin + n], lanes[corner : corner + n]
            for lane in range(n):
                source[lane] = target[lane]
            continue
        for lane in range(0, n, TURNED):
            for j in range(0, run - TURNED + 1, TURNED):
                turn_out(values, starts, first + lane, offsets[i] + j, lanes, corner + j * ROW + lane)
            if run & 4:
                j = run // TURNED * TURNED
                turn_half_out(values, starts, first + lane, offsets[i] + j, lanes, corner + j * ROW + lane)
        for j in range(run // 4 * 4, run):
            for lane in range(n):
                values[np.uintp(starts[first + lane] + offsets[i] + j)] = lanes[corner + j * ROW + lane]


# Blocks --------------------------------------------------------------------------------------------------------------


def widened_block(block: np.ndarray, missing: float | int | None) -> np.ndarray:
    """The values of a block, flat, in the float type that they are reckoned with; what is missing is NaN."""
    number = arithmetic(block.dtype)
    wide = block.reshape(-1)
    if block.dtype == np.float16:
        wide = np.empty(block.size, number)
        values, widening, _ = loadable(block.reshape(-1), None)
        compiled(widen_loop, signature(block))(values, widening, wide)
    elif block.dtype != number:
        wide = wide.astype(number)
    if missing is not None and not math.isnan(missing):
        wide = wide.copy() if np.may_share_memory(wide, block) else wide
        wide[block.reshape(-1) == np.asarray(missing, block.dtype)] = np.nan
    return read_only(wide)


def widen_loop(values, widening, out):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        out[i] = widened(values[i], widening)


class Packing(NamedTuple):
    """How the codes of blocks are made and laid out, as the loops take it.

    Attributes
    ----------
    paired : bool
        Whether a byte holds two codes, as it can where no byte belongs to two blocks; else one.
    bounds : ndarray of float64
        Scales that need a factor are below the first or above the second; the least normal and the largest number.
    fixed : ndarray
        The lowest and the highest code, that of missing values, and what rounds, as `magic` in `Affine`.
    """

    paired: bool
    bounds: Any
    fixed: Any

    @classmethod
    def of(cls, number: Any, lines: Lines, lowest: int, nan_code: int) -> Packing:
        edge, magic = EDGE[number], 1.5 * 2.0 ** MANTISSA[number]
        bounds = np.array([2.0**-edge, 2.0**edge, np.finfo(number).tiny, np.finfo(number).max])
        return cls(in_pairs(lines), bounds, np.array([lowest, HIGHEST, nan_code, magic], number))


def in_pairs(lines: Lines) -> bool:
    """Whether each byte of codes belongs to one block, with two codes of it."""
    n, length = lines.shape[-1], lines.box[-1]
    return n % 2 == 0 and (length % 2 == 0 or length == n)


def places_of_codes(lines: Lines, most: int | None = None) -> tuple[Lanes, ...]:
    """Where the bytes with the codes of each block lie: of two codes each, or of one."""
    if not in_pairs(lines):
        return lanes_of(lines.shape, lines.box, most)
    shape, box = ((*lengths[:-1], lengths[-1] // 2) for lengths in (lines.shape, lines.box))
    return lanes_of(shape, box, most and most // 2)


def room_for_codes(out: np.ndarray, lines: Lines) -> np.ndarray:
    """Where loops write codes, flat: into packed bytes, or one by one into an array that `put_codes` packs."""
    return out.reshape(-1) if in_pairs(lines) else np.empty(math.prod(lines.shape), np.uint8)


def put_codes(codes: np.ndarray, out: np.ndarray, lines: Lines) -> None:
    """Pack codes that were written one by one."""
    if not in_pairs(lines):
        pack_codes(codes.view(np.int8).reshape(-1, lines.shape[-1]), out.reshape(-1, out.shape[-1]))


def pack_blocks(
    block: np.ndarray, out: np.ndarray, table: np.ndarray, lines: Lines, missing: float | int | None
) -> None:
    """As `pack`, of blocks; `table` is as `BlockSteps`."""
    values = widened_block(block, missing)
    packing = Packing.of(values.dtype.type, lines, table[2, 0], table[3, 0])
    codes = room_for_codes(out, lines)
    loop = compiled(pack_lanes_loop, values.dtype)
    for source, target in zip(lanes_of(lines.shape, lines.box, PIECE), places_of_codes(lines, PIECE), strict=True):
        loop(values, source, codes, target, table, packing)
    put_codes(codes, out, lines)


FACTOR, ANCHOR, INVERSE, OFFSET = (i * LANES for i in range(4))  # rows of what values of a lane are quantized with


@helper
def own_scales(scales, zero_points, owners, own):  # type: ignore[no-untyped-def]
    """Write scale and zero point of each lane into rows of `own`."""
    for lane in range(owners.shape[0]):
        own[STEP + lane] = scales[np.uintp(owners[lane])]
        own[ZERO + lane] = zero_points[np.uintp(owners[lane])]


STEP, ZERO = (i * LANES for i in range(2))  # rows of what belongs to lanes


@helper
def prepare(own, bounds, by):  # type: ignore[no-untyped-def]
    """Write what `Affine` has for each lane into rows of `by`; the anchor is the level of code 0."""
    small, large, tiny, most = bounds[0], bounds[1], bounds[2], bounds[3]
    for lane in range(LANES):
        scale, zero_point = own[STEP + lane], own[ZERO + lane]
        factor = large if scale < small else (small if scale > large else 1.0)
        inverse = 1 / (scale * factor)
        part = -zero_point * (0.0625 * scale)  # a sixteenth of the level, which itself may overflow
        level = 16 * part
        nearest = level if level > -most else -most
        anchor = as_number(nearest if nearest < most else most, by[0])
        by[FACTOR + lane] = factor
        by[ANCHOR + lane] = anchor * factor
        by[INVERSE + lane] = inverse if inverse > tiny else tiny
        by[OFFSET + lane] = 16 * (0.0625 * np.float64(anchor) - part) * factor * inverse


@helper
def write_codes(lanes, size, by, fixed, nibbles):  # type: ignore[no-untyped-def]
    """Write the codes of all values, as `code_of` does with `Affine`."""
    low, high, nan, magic = fixed[0], fixed[1], fixed[2], fixed[3]
    for k in range(size):
        row, codes = lanes[k * ROW : k * ROW + LANES], nibbles[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            x = row[lane]
            level = (x * by[FACTOR + lane] - by[ANCHOR + lane]) * by[INVERSE + lane] + by[OFFSET + lane]
            level = level if level > low else low
            level = level if level < high else high
            level = nan if x != x else level
            codes[lane] = bits_of(level + magic) & 15


@helper
def pack_lanes(lanes, size, own, packing, by, nibbles, codes, target, first):  # type: ignore[no-untyped-def]
    """Write the codes of the values in lanes, which have the scales in `own`, to where they lie."""
    prepare(own, packing.bounds, by)
    write_codes(lanes, size, by, packing.fixed, nibbles)
    join_nibbles(nibbles, size // 2 if packing.paired else 0)
    scatter(codes, target, first, nibbles)


def pack_lanes_loop(values, source, codes, target, table, packing):  # type: ignore[no-untyped-def]
    size = source.offsets.shape[0] * source.run
    lanes, nibbles = np.zeros(size * ROW, values.dtype), np.zeros(size * ROW, np.uint8)
    own, by = np.ones(2 * LANES), np.zeros(4 * LANES, values.dtype)
    for first in range(0, source.starts.shape[0], LANES):
        gather(values, source, first, lanes)
        own_scales(table[0], table[1], source.owners[first : first + LANES], own)
        pack_lanes(lanes, size, own, packing, by, nibbles, codes, target, first)


@helper
def join_nibbles(nibbles, size):  # type: ignore[no-untyped-def]
    """Two codes a byte, in place; so many bytes."""
    for k in range(size):
        pair, both = nibbles[2 * k * ROW : (2 * k + 2) * ROW], nibbles[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            both[lane] = pair[lane] | (pair[ROW + lane] << 4)


@helper
def part_nibbles(nibbles, codes, size, paired):  # type: ignore[no-untyped-def]
    """Codes as int8, of bytes with two each, or with one."""
    for k in range(size // 2 if paired else 0):
        both, pair = nibbles[k * ROW : k * ROW + LANES], codes[2 * k * ROW : (2 * k + 2) * ROW]
        for lane in range(LANES):
            pair[lane] = ((both[lane] & 15) ^ 8) - 8
            pair[ROW + lane] = ((both[lane] >> 4) ^ 8) - 8
    for i in range(0 if paired else size * ROW):
        codes[i] = nibbles[i]


# What a loop found that unpacks blocks: values that float32 may have rounded once too often, values beyond the dtype.
UNSURE, OUTSIDE = 1, 2


def unpack_blocks(levels: BlockLevels, packed: np.ndarray, out: np.ndarray) -> bool:
    """As `unpack_values`, of blocks: each value is reckoned, and rounded once."""
    lines = levels.granularity.lines(out.shape)
    codes = packed.reshape(-1).view(np.uint8)
    if out.shape[-1] % 2:  # rows of bytes are padded: the loop takes codes one by one, which are not
        even = np.zeros((codes.size // packed.shape[-1], out.shape[-1] + 1), np.int8)
        unpack(packed.reshape(len(even), -1).view(np.uint8), even, CODES.pairs)
        codes = np.ascontiguousarray(even[:, :-1]).reshape(-1).view(np.uint8)
    if out.dtype in EXACT:
        wide = out if out.dtype == np.float32 else np.empty(out.shape, np.float32)
        found = unpack_lanes(levels, codes, wide, lines, EXACT[out.dtype])
        if wide is out:
            return bool(found & OUTSIDE)
        if not found:
            narrow(wide, out)
            return False
    wide = out if out.dtype == np.float64 else np.empty(out.shape)
    found = unpack_lanes(levels, codes, wide, lines, math.inf)
    if wide is not out:
        out[...] = rounded_within(wide, out.dtype, levels.codes.missing)
    return bool(found & OUTSIDE) or (levels.codes.nan_code is not None and levels.codes.missing is None)


# Steps: zero points up to it leave a code's distance from zero, in quarters of a step, so few bits that float32 holds
# it, and for the half-precision floats its product with a scale of five bits.
EXACT = {np.dtype(np.float32): 2.0**22 - 16, np.dtype(np.float16): 2.0**17 - 16, BFLOAT16: 2.0**17 - 16}
NO_CODE = 99


PAIRED, SINGLE, MIXED = range(3)  # bytes with two codes of one block each; with one code; with two of whatever block


def unpack_lanes(levels: BlockLevels, codes: np.ndarray, out: np.ndarray, lines: Lines, exact: float) -> int:
    """Write the values of codes into `out`, float32 or float64, within the range of the dtype of the levels."""
    layout = PAIRED if in_pairs(lines) else SINGLE if codes.size == out.size else MIXED
    limits = np.array([*map(float, finite_range(levels.dtype)), exact, BOUND_SLACK])
    nan_code = np.int8(NO_CODE if levels.codes.nan_code is None else levels.codes.nan_code)
    entries = [argument(x).reshape(-1) for x in levels.scales.entries]
    kinds, rows = (out.dtype, entries[0].dtype), rows_of(lines.shape, lines.box)
    if layout == PAIRED and rows.length >= 2 * HALF:
        loop = compiled(unpack_rows_of_blocks_loop, *kinds)
        if loop(read_only(codes), out.reshape(-1), rows, *entries, limits, nan_code):
            return 0
    elif layout == MIXED and down_columns(lines):
        near = [np.empty(levels.scales.count, out.dtype) for _ in entries]
        if compiled(prepare_levels, *kinds)(*entries, limits, *near):
            n = lines.shape[-1]
            packed, *steps = codes.reshape(-1, n // 2), *(x.reshape(-1, n) for x in near)
            loop = compiled(unpack_down_loop, out.dtype)
            loop(read_only(packed), out.reshape(-1, n), *steps, lines.box[-2], nan_code)
            return 0
    scales = [argument(x).reshape(-1) for x in (levels.scales.scale, levels.scales.zero_point)]
    found, values = 0, out.reshape(-1)
    loop = compiled(unpack_lanes_loop, values.dtype)
    for source, target in zip(places_of_codes(lines, PIECE), lanes_of(lines.shape, lines.box, PIECE), strict=True):
        found |= loop(read_only(codes), source, values, target, *scales, limits, nan_code, layout)
    return found


def down_columns(lines: Lines) -> bool:
    """Whether blocks go down columns, each as long as the others but for the last of all."""
    if len(lines.box) < 2 or lines.box[-1] != 1:
        return False
    *outer, rows, _ = lines.shape
    return set(lines.box[:-2]) <= {1} and (rows % lines.box[-2] == 0 or math.prod(outer) == 1)


def unpack_down_loop(packed, values, scales, zero_points, length, nan_code):  # type: ignore[no-untyped-def]
    """Row by row, which memory likes better than a few columns at a time."""
    missing = as_number(np.nan, values[0, 0])
    for row in range(values.shape[0]):
        scale, zero_point = scales[row // length], zero_points[row // length]
        codes, out = packed[row], values[row]
        vectors = codes.shape[0] // AT_ONCE * AT_ONCE
        for j in range(0, vectors, AT_ONCE):
            write_levels_of_bytes(codes, j, out, 2 * j, zero_point, scale, 2 * j, nan_code)
        for j in range(vectors, codes.shape[0]):
            low, high = np.int8(((codes[j] & 15) ^ 8) - 8), np.int8(((codes[j] >> 4) ^ 8) - 8)
            level = (as_number(low, missing) - zero_point[2 * j]) * scale[2 * j]
            out[2 * j] = missing if low == nan_code else level
            level = (as_number(high, missing) - zero_point[2 * j + 1]) * scale[2 * j + 1]
            out[2 * j + 1] = missing if high == nan_code else level


@helper
def in_doubt(scale, zero_point, limits):  # type: ignore[no-untyped-def]
    """Not 0 where values must be reckoned in float64, and cut."""
    doubt = bits_of(scale) & BELOW_FIVE_BITS
    doubt |= (scale < LEAST_EXACT) | (abs(zero_point) >= limits[2])
    return doubt | ((-8 - zero_point) * scale < limits[0]) | ((7 - zero_point) * scale > limits[1])


@helper
def prepare_levels(scales, zero_points, limits, near_scales, near_zero_points):  # type: ignore[no-untyped-def]
    """Write scales and zero points as levels take them; False if some levels must be reckoned in float64, and cut."""
    doubt = 0
    for i in range(scales.shape[0]):
        scale, zero_point = scale_of(scales[i]), zero_point_of(zero_points[i])
        near_scales[i], near_zero_points[i] = scale, zero_point
        doubt |= in_doubt(scale, zero_point, limits)
    return doubt == 0


def scale_of(entry: Any) -> Any:
    """A scale as float64, inside kernels; it may be a unit, which is a quarter of it."""
    raise NotImplementedError


@overload(scale_of)
def overload_scale_of(entry):  # type: ignore[no-untyped-def]
    if isinstance(entry, numba.types.Integer):
        return lambda entry: 4 * np.uint64(np.uint64(entry) << np.uint64(UNIT_SHIFT)).view(np.float64)
    return lambda entry: entry


def zero_point_of(entry: Any) -> Any:
    """A zero point as float64, inside kernels; it may be one in quarters and some more, as stores keep it."""
    raise NotImplementedError


@overload(zero_point_of)
def overload_zero_point_of(entry):  # type: ignore[no-untyped-def]
    if isinstance(entry, numba.types.Integer):
        return lambda entry: 0.25 * entry - 0.25 * ZERO_POINT_BIAS
    return lambda entry: entry


LEAST_EXACT = 2.0**-120  # scales: below it float32 may hold a level with fewer bits
BELOW_FIVE_BITS = np.int64((1 << 48) - 1)


def unpack_lanes_loop(codes, source, values, target, scales, zero_points, limits, nan_code, layout):  # type: ignore[no-untyped-def]
    size, state = target.offsets.shape[0] * target.run, 0
    nibbles, parted = np.zeros(size * ROW, np.uint8), np.zeros(size * ROW, np.int8)
    lanes = np.zeros(size * ROW, values.dtype)
    by, near = np.ones(2 * LANES), np.zeros(2 * LANES, values.dtype)
    for first in range(0, source.starts.shape[0], LANES):
        owners = target.owners[first : first + LANES]
        own_scales(scales, zero_points, owners, by)
        sure = prepare_levels(by[STEP : STEP + LANES], by[ZERO : ZERO + LANES], limits, near[STEP:], near[ZERO:])
        if layout == MIXED:
            gather_nibbles(codes, target, first, parted)
        else:
            gather(codes, source, first, nibbles)
            part_nibbles(nibbles, parted, size, layout == PAIRED)
        if sure:
            write_levels(parted, size, near, nan_code, lanes)
        else:
            state |= UNSURE | far_levels(parted, size, owners.shape[0], by, limits, nan_code)
            write_levels_within(parted, size, by, limits, nan_code, lanes)
        scatter(values, target, first, lanes)
    return state


@helper
def gather_nibbles(packed, places, first, codes):  # type: ignore[no-untyped-def]
    """Write the codes of the values at `places` into lanes, from bytes that each hold two of neighbours in a row."""
    starts, offsets, run = places.starts, places.offsets, places.run
    n = min(LANES, starts.shape[0] - first)
    on_end = run == 1 and lie_on_end(starts, first, n) and starts[first] % 2 == 0
    for i in range(offsets.shape[0]):
        if on_end:
            begin = (starts[first] + offsets[i]) // 2
            source, target = packed[begin : begin + n // 2], codes[i * ROW : i * ROW + n]
            for j in range(n // 2):
                target[2 * j] = ((source[j] & 15) ^ 8) - 8
                target[2 * j + 1] = ((source[j] >> 4) ^ 8) - 8
            continue
        for j in range(run):
            for lane in range(n):
                place = starts[first + lane] + offsets[i] + j
                nibble = packed[np.uintp(place >> 1)] >> (4 * (place & 1)) & 15
                codes[(i * run + j) * ROW + lane] = (nibble ^ 8) - 8


@helper
def write_levels(codes, size, near, nan_code, lanes):  # type: ignore[no-untyped-def]
    """Write the values of all codes."""
    missing = as_number(np.nan, lanes[0])
    for k in range(size):
        row, out = codes[k * ROW : k * ROW + LANES], lanes[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            level = (as_number(row[lane], missing) - near[ZERO + lane]) * near[STEP + lane]
            out[lane] = missing if row[lane] == nan_code else level


@helper
def write_levels_within(codes, size, by, limits, nan_code, lanes):  # type: ignore[no-untyped-def]
    """Write the values of all codes, reckoned in float64 and cut to the limits."""
    missing = as_number(np.nan, lanes[0])
    for k in range(size):
        row, out = codes[k * ROW : k * ROW + LANES], lanes[k * ROW : k * ROW + LANES]
        for lane in range(LANES):
            level = (row[lane] - by[ZERO + lane]) * by[STEP + lane]
            level = min(max(level, limits[0]), limits[1])
            out[lane] = missing if row[lane] == nan_code else as_number(level, missing)


HALF, AT_ONCE = 4, 8  # bytes: unpacked by one instruction of each kind


def vector_of_levels(width: int) -> Any:
    """An intrinsic that writes the values of the codes in some bytes, which lie on end."""

    def write(context, codes, i, values, j, zero_points, scales, k, nan_code):  # type: ignore[no-untyped-def]
        """Scales and zero points are numbers, or arrays that have them from `k` on."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _, i, _, j, _, _, k, nan_code = arguments
            number = context.get_value_type(signature.args[2].dtype)
            integers, numbers = (ir.VectorType(item, 2 * width) for item in (ir.IntType(32), number))
            size = signature.args[2].dtype.bitwidth // 8

            def spread(scalar: Any, kind: Any) -> Any:
                one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, ir.Constant(integers, [0] * 2 * width))

            def place(which: int, index: Any, vector: Any) -> Any:
                data = context.make_array(signature.args[which])(context, builder, arguments[which]).data
                return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

            def each(which: int) -> Any:
                if isinstance(signature.args[which], numba.types.Array):
                    return builder.load(place(which, k, numbers), align=size)
                return spread(arguments[which], numbers)

            both = builder.load(place(0, i, ir.VectorType(ir.IntType(8), width)), align=1)
            twice = builder.shuffle_vector(both, both, ir.Constant(integers, [n // 2 for n in range(2 * width)]))
            raised = builder.shl(builder.zext(twice, integers), ir.Constant(integers, [28, 24] * width))
            signed = builder.ashr(raised, ir.Constant(integers, [28] * 2 * width))
            level = builder.fmul(builder.fsub(builder.sitofp(signed, numbers), each(4)), each(5))
            is_missing = builder.icmp_signed("==", signed, spread(builder.sext(nan_code, ir.IntType(32)), integers))
            level = builder.select(is_missing, ir.Constant(numbers, [float("nan")] * 2 * width), level)
            builder.store(level, place(2, j, numbers), align=size)
            return context.get_dummy_value()

        arguments = (codes, numba.intp, values, numba.intp, zero_points, scales, numba.intp, numba.int8)
        return numba.types.none(*arguments), generate

    return intrinsic(write)


write_levels_of_half, write_levels_of_bytes = (vector_of_levels(width) for width in (HALF, AT_ONCE))


def unpack_rows_of_blocks_loop(codes, values, rows, scales, zero_points, limits, nan_code):  # type: ignore[no-untyped-def]
    """Write the values row by row; False, and not all of them, where some must be reckoned in float64, and cut."""
    near, missing = np.zeros(2 * LANES, values.dtype), as_number(np.nan, values[0])
    size, whole, short = rows.length // 2, rows.n // rows.length, rows.n % rows.length
    row: Any = 0
    while row < rows.owners.shape[0]:
        below = row + 1  # the rows down to there are of the same blocks
        while below < rows.owners.shape[0] and rows.owners[below] == rows.owners[row]:
            below += 1
        for first in range(0, whole, LANES):
            n, owner = min(LANES, whole - first), rows.owners[row] + first
            own = scales[owner : owner + n], zero_points[owner : owner + n]
            if not prepare_levels(*own, limits, near[STEP:], near[ZERO:]):
                return False
            for each in range(row, below):
                place = each * rows.n + first * rows.length
                for lane in range(n):
                    scale, zero_point, begin = near[STEP + lane], near[ZERO + lane], place >> 1
                    for j in range(0, size - AT_ONCE + 1, AT_ONCE):
                        write_levels_of_bytes(codes, begin + j, values, place + 2 * j, zero_point, scale, 0, nan_code)
                    if size > AT_ONCE and size % AT_ONCE:  # some are written twice
                        j = size - AT_ONCE
                        write_levels_of_bytes(codes, begin + j, values, place + 2 * j, zero_point, scale, 0, nan_code)
                    if size < AT_ONCE:
                        write_levels_of_half(codes, begin, values, place, zero_point, scale, 0, nan_code)
                    if HALF < size < AT_ONCE:
                        j = size - HALF
                        write_levels_of_half(codes, begin + j, values, place + 2 * j, zero_point, scale, 0, nan_code)
                    place += rows.length
        if short:
            owner = rows.owners[row] + whole
            own = scales[owner : owner + 1], zero_points[owner : owner + 1]
            if not prepare_levels(*own, limits, near[STEP:], near[ZERO:]):
                return False
            for each in range(row, below):
                place = each * rows.n + whole * rows.length
                pairs, out = codes[place >> 1 : (place + short) >> 1], values[place : place + short]
                write_pairs(pairs, out, near[ZERO], near[STEP], nan_code, missing)
        row = below
    return True


@helper
def write_pairs(codes, values, zero_point, scale, nan_code, missing):  # type: ignore[no-untyped-def]
    """Write the values of bytes of one block."""
    for j in range(codes.shape[0]):
        low, high = np.int8(((codes[j] & 15) ^ 8) - 8), np.int8(((codes[j] >> 4) ^ 8) - 8)
        level = (as_number(low, missing) - zero_point) * scale
        values[2 * j] = missing if low == nan_code else level
        level = (as_number(high, missing) - zero_point) * scale
        values[2 * j + 1] = missing if high == nan_code else level


@helper
def far_levels(codes, size, n, by, limits, nan_code):  # type: ignore[no-untyped-def]
    """Whether codes stand for values that lie beyond the limits by more than half a step."""
    for k in range(size):
        for lane in range(n):
            code = codes[k * ROW + lane]
            level, half = (code - by[ZERO + lane]) * by[STEP + lane], 0.5 * by[STEP + lane] * (1 + limits[3])
            if code != nan_code and (level < limits[0] - half or level > limits[1] + half):
                return OUTSIDE
    return 0


def narrow(values: np.ndarray, out: np.ndarray) -> None:
    """Write float32 values, of which none rounds to infinity, as half-precision floats."""
    if isinstance(WIDENING[out.dtype], bool | np.uint32):
        bits = out.reshape(-1).view(np.uint16)
        compiled(narrow_loop, out.dtype)(read_only(values.reshape(-1)), WIDENING[out.dtype], bits)
    else:
        out[...] = values


@intrinsic
def half_of_float(context, number):  # type: ignore[no-untyped-def]
    """The bits of a float32 rounded to a float16, inside kernels."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return numba.uint16(numba.float32), generate


def narrowed(x: Any, widening: Any) -> Any:
    """The bits of a float32 as a half-precision float, inside kernels: the inverse of `widened`."""
    raise NotImplementedError


@overload(narrowed)
def overload_narrowed(x, widening):  # type: ignore[no-untyped-def]
    if isinstance(widening, numba.types.Boolean):
        return lambda x, widening: half_of_float(x)  # type: ignore[call-arg]
    return shortened


def shortened(x, widening):  # type: ignore[no-untyped-def]
    bits = np.float32(x).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> widening) & np.uint32(1))) >> widening)


def narrow_loop(values, widening, out):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        out[i] = narrowed(values[i], widening)


def first_invalid(scales: np.ndarray, zero_points: np.ndarray) -> int:
    """The place of the first scale of blocks that is not finite and above 0, or whose zero point is none; or -1."""
    flat = (np.ascontiguousarray(x).reshape(-1) for x in (scales, zero_points))
    return int(compiled(first_invalid_loop)(*map(read_only, flat), float(MOST_ZERO_POINT)))


def first_invalid_loop(scales, zero_points, most):  # type: ignore[no-untyped-def]
    for start in range(0, scales.shape[0], LANES):
        scale, zero_point = scales[start : start + LANES], zero_points[start : start + LANES]
        invalid = 0
        for i in range(scale.shape[0]):
            invalid |= is_invalid(scale[i], zero_point[i], most)
        for i in range(scale.shape[0] if invalid else 0):
            if is_invalid(scale[i], zero_point[i], most):
                return start + i
    return -1


@helper
def is_invalid(scale, zero_point, most):  # type: ignore[no-untyped-def]
    is_number = (scale > 0) & (scale < np.inf) & (abs(zero_point) <= most)
    return (not is_number) | (np.rint(4 * zero_point) != 4 * zero_point)
