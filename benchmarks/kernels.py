"""What the kernels reach, in GB/s of the numbers that are read or, by the kernel that unpacks, written.

An array is cut into blocks of 2 MiB, and a kernel is called on each, as the library does: what the calls cost counts.
On two threads each takes half of the array, and so it is with the yardsticks. A single thread is pinned to a processor.
Each dtype has a process of its own, in which everything takes turns.

The yardstick of what packs and unpacks is `np.copyto` of as many bytes into an array that is there already, and that of
a scan is `np.max` of the same values. "np.max, int32" is for all dtypes that of the same bytes seen as int32: hardly
more than a plain read, and so what memory sets as a limit to a scan.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from quantize import kernels
from quantize.calibration.scan import scan_rows
from quantize.numerics.dtypes import BFLOAT16, FLOATS
from quantize.numerics.tables import affine, pairs_of

from .floors import MIB
from .measuring import in_child, interleaved, ratio, timed
from .tables import Table, at_least

BLOCK = 2 * MIB  # bytes
THREADS = (1, 2)
DTYPES = (*FLOATS, np.dtype(np.int16))
HALVES = (np.dtype(np.float16), BFLOAT16)
SPREAD = 1000  # standard deviation of the values: float16 holds them, and integers among them differ
SCALE = SPREAD / 2
FINITE, MIXED = "finite", "1 % NaN, some infinities"
MIXED_DTYPE = np.dtype(np.float32)
SCAN, PACK, UNPACK = "scan", "quantize + pack", "unpack + dequantize"
COPY, MAX, READ = "np.copyto", "np.max", "np.max, int32"
# How many times as fast as the yardstick a kernel has to be, on one thread and finite values.
LEAST = {
    (SCAN, "float32"): 0.7,
    (PACK, "float16"): 1.3,
    (PACK, "bfloat16"): 1.3,
    (PACK, "float32"): 1.5,
    (PACK, "float64"): 1.0,
    (PACK, "int16"): 1.0,
    (UNPACK, "float32"): 1.1,
}
NOTE = "NumPy emulates float16 and bfloat16: for these, np.max is that of the same bytes seen as int16."


class Size(NamedTuple):
    """How much is measured: bytes of each array of numbers, and repeats."""

    nbytes: int
    repeats: int


FULL, QUICK = Size(nbytes=256 * MIB, repeats=7), Size(nbytes=2 * BLOCK, repeats=1)


class Part(NamedTuple):
    """What a thread works on, cut into blocks as the kernels take them, ``(blocks, 1, n)``."""

    values: np.ndarray
    out: np.ndarray  # of the dtype of the values
    packed: np.ndarray
    out_packed: np.ndarray


class Setting(NamedTuple):
    """What the rows of a table have in common whose figures are measured together."""

    dtype: np.dtype[Any]
    values: str
    threads: int


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    rows = [row for dtype in DTYPES for row in in_child(rows_of, dtype, size)]
    title = f"Kernels on {size.nbytes // MIB} MiB of numbers in blocks of {BLOCK // MIB} MiB, GB/s"
    return [Table(title, rows, (NOTE,))]


def rows_of(dtype: np.dtype[Any], size: Size) -> list[dict[str, Any]]:
    """All kernels on a dtype, by each number of threads; last, a scan of what is not finite."""
    arrays = arrays_of(dtype, size.nbytes)
    rows = [
        row
        for threads in THREADS
        for row in rows_in(Setting(dtype, FINITE, threads), [SCAN, PACK, UNPACK], arrays, size.repeats)
    ]
    if dtype == MIXED_DTYPE:
        mix(arrays.values)
        rows += rows_in(Setting(dtype, MIXED, 1), [SCAN], arrays, size.repeats)
    return rows


def arrays_of(dtype: np.dtype[Any], nbytes: int) -> Part:
    """Normally distributed values and random codes, the same in each block."""
    random = np.random.default_rng(0)
    n = BLOCK // dtype.itemsize
    block = random.normal(scale=SPREAD, size=(1, 1, n)).astype(dtype)
    codes = random.integers(256, size=(1, 1, n // 2), dtype=np.uint8)
    values, packed = (np.repeat(array, nbytes // BLOCK, axis=0) for array in (block, codes))
    return Part(values, values.copy(), packed, packed.copy())


def mix(values: np.ndarray) -> None:
    """Put NaN and infinities among the values."""
    flat = values.reshape(-1)
    flat[::100] = np.nan
    flat[50::10000] = np.inf
    flat[150::10000] = -np.inf


# What is called -------------------------------------------------------------------------------------------------------


def scan(part: Part) -> None:
    for block in part.values:
        scan_rows(block)


def pack(part: Part) -> None:
    table = affine(part.values.dtype, SCALE, 0, None, -8)
    for block, codes in zip(part.values, part.out_packed, strict=True):
        kernels.pack(block, codes, table)


def unpack(part: Part) -> None:
    pairs = pairs_of((np.arange(-8, 8) * SCALE).astype(part.out.dtype))
    for codes, block in zip(part.packed, part.out, strict=True):
        kernels.unpack(codes, block, pairs)


def copied(part: Part) -> None:
    np.copyto(part.out.view(np.int32), part.values.view(np.int32))


def largest(part: Part) -> None:
    np.max(part.values.view(np.int16) if part.values.dtype in HALVES else part.values)


def largest_integer(part: Part) -> None:
    np.max(part.values.view(np.int32))


KERNELS: dict[str, Callable[[Part], None]] = {SCAN: scan, PACK: pack, UNPACK: unpack}
YARDSTICKS: dict[str, Callable[[Part], None]] = {COPY: copied, MAX: largest, READ: largest_integer}
YARDSTICK_OF = {SCAN: MAX, PACK: COPY, UNPACK: COPY}


# How it is timed ------------------------------------------------------------------------------------------------------


def rows_in(setting: Setting, names: list[str], arrays: Part, repeats: int) -> list[dict[str, Any]]:
    """The rows of some kernels, with the yardsticks measured among them."""
    parts = [Part(*each) for each in zip(*(np.array_split(array, setting.threads) for array in arrays), strict=True)]
    called = {**{name: KERNELS[name] for name in names}, **YARDSTICKS}
    with ThreadPoolExecutor(setting.threads, initializer=pin if setting.threads == 1 else None) as pool:
        cases = {name: timed(functools.partial(on_each, pool, work, parts)) for name, work in called.items()}
        found = interleaved(cases, repeats)
    return [row_of(setting, name, found, arrays.values.nbytes) for name in names]


def pin() -> None:
    """Keep the calling thread on one processor, where threads can be kept."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def on_each(pool: ThreadPoolExecutor, work: Callable[[Part], None], parts: list[Part]) -> None:
    for _ in pool.map(work, parts):
        pass


def row_of(setting: Setting, kernel: str, found: dict[str, list[float]], nbytes: int) -> dict[str, Any]:
    speeds = {name: nbytes / median(found[name]) / 1e9 for name in (kernel, *YARDSTICKS)}
    yardstick = YARDSTICK_OF[kernel]
    bar = LEAST.get((kernel, str(setting.dtype))) if setting.threads == 1 and setting.values == FINITE else None
    return {
        "dtype": str(setting.dtype),
        "values": setting.values,
        "threads": setting.threads,
        "kernel": kernel,
        "GB/s": speeds.pop(kernel),
        **speeds,
        "yardstick": yardstick,
        **at_least(ratio(found[yardstick], found[kernel]), bar),
    }
