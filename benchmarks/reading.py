"""From a sealed store to floats, all of them or few: `open_int4(store)[...]`, in the page cache.

The whole store comes as a new array. The yardsticks are `np.copyto` of the same floats, in pieces on two threads, into
an array that is there already and into a new one as well, and that after reading the bytes of all chunks. What comes is
let go of only when the time is taken: giving a GiB back to the system takes a time of its own.

Rows, values and slabs are set against what zarr takes for the packed codes of the same, without turning them into
floats, from an array that stays open; indices are random, one at a time. A row of a sharded store needs its shard's
index, which ours keeps and zarr reads again, and one inner chunk: the bytes that come from the store are counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from quantize import open_int4, quantize_to_zarr

from .floors import COLUMNS, MIB, copied, files_read, fill_gaussian
from .measuring import in_child, interleaved, milliseconds, ratio, timed
from .tables import Table, at_least, at_most, verdict

OURS, ZARR = "open_int4", "zarr, packed"
COPY = "np.copyto, an array that is there"
CODECS: dict[str, Any] = {"none": None, "default": "auto"}
LEAST_OF_COPY = 0.5  # times as fast as np.copyto into an array that is there
MOST_OF_ZARR = 1.5  # times zarr's own read of a packed row in a shard
NARROW = 256  # columns of the stores that are read in part
CHUNKS = (4096, NARROW)
SHARD_COLUMNS = 64
INNER, SHARDS = (256, SHARD_COLUMNS), (65536, SHARD_COLUMNS)
INDEX, CHUNK = 16 * (SHARDS[0] // INNER[0]), INNER[0] * INNER[1] // 2  # bytes of a shard's index and of packed codes
BLOCKS: list[Any] = [(1, 64), (1, 32), (1, 16), (32, 1), (8, 8)]
LEAST_OF_ONE = 0.8  # times as fast as a store with one scale
WIDE, WIDE_CHUNKS, WIDE_SHARDS = 768, (128, 768), (16384, 768)
MOST_BYTES = 2.0  # times the bytes of a row without blocks
LARGEST = INDEX + CHUNK + 2 * 4  # with their checksums


class Size(NamedTuple):
    """How much is measured: rows of 4 KiB of the whole store, rows of those read in part, indices, and repeats."""

    whole: int
    rows: int
    indices: int
    repeats: int


FULL = Size(whole=1 << 18, rows=1_000_000, indices=250, repeats=3)
QUICK = Size(whole=1 << 10, rows=10_000, indices=10, repeats=1)


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    whole = [row for name in CODECS for row in in_child(whole_rows, name, size)]
    parts = [row for name in CODECS for row in in_child(part_rows, name, size)]
    sharded, counts = in_child(shard_rows, size)
    blocks, rows_of_blocks = in_child(block_rows, size), in_child(row_of_blocks, size)
    return [
        Table(f"A whole store of {size.whole * COLUMNS * 4 // MIB} MiB of float32 to an array, ms", whole),
        Table(f"Parts of stores of {size.rows:,} rows, microseconds each", [*parts, sharded]),
        Table(
            "Bytes read for one row of the sharded store",
            counts,
            (f"With its checksum the index of a shard has {INDEX + 4} bytes, and an inner chunk at most {CHUNK + 4}.",),
        ),
        Table(f"A whole store of {size.whole * COLUMNS * 4 // MIB} MiB of float32 in blocks, ms", blocks),
        Table(f"A row of {size.rows:,} x {WIDE} values in shards of {WIDE_SHARDS}", rows_of_blocks),
    ]


def seal(store: str, shape: tuple[int, int], **options: Any) -> None:
    """Make a sealed store of Gaussian float32."""
    quantize_to_zarr(fill_gaussian(np.empty(shape, np.float32)), store, **options)


# A whole store --------------------------------------------------------------------------------------------------------


def whole_rows(codecs: str, size: Size) -> list[dict[str, Any]]:
    """A store of whole floats against every yardstick."""
    with TemporaryDirectory() as store:
        seal(store, (size.whole, COLUMNS), compressors=CODECS[codecs])
        array = open_int4(store)
        values = array[...]
        there = np.zeros_like(values)
        yardsticks: dict[str, Callable[[], object]] = {
            COPY: lambda: copied(values, there),
            "np.copyto, a new array": lambda: copied(values, np.empty_like(values)),
            "chunks read, np.copyto, a new array": lambda: read_and_copied(store, values),
        }
        cases = {name: timed_and_kept(case) for name, case in yardsticks.items()}
        found = interleaved({**cases, OURS: timed_and_kept(lambda: array[...])}, size.repeats)
    return [
        {
            "codecs": codecs,
            OURS: milliseconds(found[OURS]),
            "against": name,
            "that": milliseconds(found[name]),
            **at_least(ratio(found[name], found[OURS]), LEAST_OF_COPY if (codecs, name) == ("none", COPY) else None),
        }
        for name in yardsticks
    ]


def read_and_copied(store: str, values: np.ndarray) -> np.ndarray:
    files_read(store)
    return copied(values, np.empty_like(values))


def timed_and_kept(function: Callable[[], object]) -> Callable[[], float]:
    """As `timed`, but what the call gives is still held when the time is taken."""

    def seconds() -> float:
        start = perf_counter()
        held = function()
        taken = perf_counter() - start
        del held
        return taken

    return seconds


def block_rows(size: Size) -> list[dict[str, Any]]:
    """Whole stores of blocks against one with a scale for all, by the clock and by CPU time."""
    with TemporaryDirectory() as folder:
        cases = {}
        for blocks in [None, *BLOCKS]:
            seal(f"{folder}/{blocks}", (size.whole, COLUMNS), blocks=blocks)
            cases[blocks] = times_of(functools.partial(open_int4(f"{folder}/{blocks}").__getitem__, ...))
        both = interleaved(cases, size.repeats)
    found, cpu = ({blocks: [times[i] for times in both[blocks]] for blocks in both} for i in (0, 1))
    return [
        {
            "blocks": str(blocks),
            OURS: milliseconds(found[blocks]),
            "one scale": milliseconds(found[None]),
            "by CPU time": ratio(cpu[None], cpu[blocks]),
            **at_least(ratio(found[None], found[blocks]), LEAST_OF_ONE),
        }
        for blocks in BLOCKS
    ]


def times_of(function: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """As `timed_and_kept`, with the seconds that all processors spent on it."""

    def seconds() -> tuple[float, float]:
        start, before = perf_counter(), process_time()
        held = function()
        taken = perf_counter() - start, process_time() - before
        del held
        return taken

    return seconds


def row_of_blocks(size: Size) -> list[dict[str, Any]]:
    """What one row takes in time and bytes with blocks of 32, beside one scale."""
    with TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).integers(size.rows, size=size.indices).tolist()
        arrays, counts = {}, {}
        for blocks in (None, 32):
            seal(f"{folder}/{blocks}", (size.rows, WIDE), chunks=WIDE_CHUNKS, shards=WIDE_SHARDS, blocks=blocks)
            arrays[blocks] = open_int4(f"{folder}/{blocks}")
            store = Counting(f"{folder}/{blocks}", read_only=True)
            array = open_int4(store)
            counts[blocks] = mean(bytes_for(store, array, row) for row in rows)
        found = interleaved({blocks: each(array, rows) for blocks, array in arrays.items()}, size.repeats)
    return [
        {
            "blocks": str(blocks),
            "microseconds": 1e3 * milliseconds(found[blocks]),
            "mean bytes": counts[blocks],
            **at_most(counts[blocks] / counts[None], MOST_BYTES),
        }
        for blocks in (None, 32)
    ]


# Parts ----------------------------------------------------------------------------------------------------------------


def part_rows(codecs: str, size: Size) -> list[dict[str, Any]]:
    """Rows, values and a slab, one index at a time, and what zarr takes for their codes."""
    with TemporaryDirectory() as store:
        seal(store, (size.rows, NARROW), chunks=CHUNKS, compressors=CODECS[codecs])
        array, packed = open_int4(store), packed_of(store)
        random = np.random.default_rng(0)
        rows = random.integers(size.rows, size=size.indices).tolist()
        columns = random.integers(NARROW, size=size.indices).tolist()
        places = list(zip(rows, columns, strict=True))
        kinds: dict[str, tuple[list[Any], list[Any]]] = {
            "a row": (rows, rows),
            "a value": (places, [(row, column // 2) for row, column in places]),
            "[::7, ::3]": ([np.s_[::7, ::3]], [np.s_[::7]]),
        }
        name = f"chunks of {CHUNKS}, codecs {codecs}"
        return [
            part_row(name, kind, {OURS: each(array, own), ZARR: each(packed, theirs)}, size.repeats)
            for kind, (own, theirs) in kinds.items()
        ]


def each(array: Any, indices: list[Any]) -> Callable[[], float]:
    """The seconds that an array takes for one of the indices, on average."""

    def seconds() -> float:
        return timed(lambda: [array[index] for index in indices])() / len(indices)

    return seconds


def part_row(
    store: str, index: str, cases: dict[str, Callable[[], float]], repeats: int, most: float | None = None
) -> dict[str, Any]:
    """A kind of index, against zarr's own read."""
    found = interleaved(cases, repeats)
    return {
        "store": store,
        "index": index,
        **{name: 1e3 * milliseconds(seconds) for name, seconds in found.items()},
        **at_most(ratio(found[OURS], found[ZARR]), most),
    }


# Shards ---------------------------------------------------------------------------------------------------------------


def shard_rows(size: Size) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How long rows of a sharded store take, and how many bytes come from the store for them."""
    with TemporaryDirectory() as store:
        seal(store, (size.rows, SHARD_COLUMNS), chunks=INNER, shards=SHARDS)
        rows = np.random.default_rng(0).integers(size.rows, size=size.indices).tolist()
        cases = {OURS: each(open_int4(store), rows), ZARR: each(packed_of(store), rows)}
        name = f"shards of {SHARDS}, chunks of {INNER}"
        return part_row(name, "a row", cases, size.repeats, MOST_OF_ZARR), byte_rows(store, rows)


def packed_of(store: str | LocalStore) -> zarr.Array[Any]:
    return zarr.open_array(store, path="data", mode="r")


class Counting(LocalStore):
    """Counts the bytes that are read from it."""

    count = 0

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        self.count += 0 if found is None else len(found)
        return found


def byte_rows(path: str, rows: list[int]) -> list[dict[str, Any]]:
    """What is read for each of some rows once the array is open; ours keeps the indices of shards."""
    found = {}
    openers: dict[str, Callable[[Counting], Any]] = {OURS: open_int4, ZARR: packed_of}
    for name, open_array in openers.items():
        store = Counting(path, read_only=True)
        array = open_array(store)
        found[name] = [bytes_for(store, array, row) for row in rows]
    return [
        {
            "read by": name,
            "first row": counts[0],
            "mean": mean(counts),
            "largest": max(counts),
            "at most": LARGEST if name == OURS else "",
            "met": verdict(max(counts) <= LARGEST) if name == OURS else "",
        }
        for name, counts in found.items()
    ]


def bytes_for(store: Counting, array: Any, row: int) -> int:
    before = store.count
    array[row]
    return store.count - before
