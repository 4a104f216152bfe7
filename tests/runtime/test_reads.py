"""What a run reads of its source, counted: as much as its plan said, and with default chunks about twice at most."""

import functools
import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st
from marks import mostly_slow
from stores import check
from zarr.storage import MemoryStore

from quantize import plan, quantize_to_zarr
from quantize.io import as_source
from quantize.io.chunked import SharedChunks
from quantize.io.formats import memory
from quantize.io.formats.hdf5 import Hdf5Source
from quantize.io.formats.npy import File
from quantize.io.formats.zarr import ZarrSource
from quantize.io.source import Source
from quantize.numerics.granularity import granularity_of
from quantize.numerics.grid import Region, Shape
from quantize.runtime.plan import READ_MOST, Plan
from quantize.runtime.scans import scan_batches

PAGE = 4096  # bytes
LARGE = 20_000_000  # values: more than one default chunk can hold
ONE_CHUNK = 1 << 26  # values: no source has larger chunks
SLACK = 1.02  # times: pages at the ends of pieces

close_parts, fetch = memory.close_parts, Hdf5Source.fetch


class Count:
    """Counts the bytes that sources read, in place of most of the reading."""

    def __init__(self, stack: ExitStack) -> None:
        self.read, self.closing = 0, stack.enter_context
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(File, "fill", lambda _, buffer, start: self.pages(start, start + len(buffer)))
        patch.setattr(memory, "close_parts", self.mapped)
        patch.setattr(ZarrSource, "fetch", lambda *read: self.chunks(*read))
        patch.setattr(Hdf5Source, "fetch", lambda *read: self.chunks(*read) if read[0].chunks else fetch(*read))

    def pages(self, start: Any, stop: Any) -> None:
        self.read += int(np.sum((-(-stop // PAGE) - start // PAGE) * PAGE))

    def mapped(self, part: np.ndarray, out: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for here, _ in close_parts(part, out):
            low, _ = np.lib.array_utils.byte_bounds(here)
            (step, n), *others = sorted((abs(step), n) for step, n in zip(here.strides, here.shape, strict=True))
            starts = functools.reduce(np.add.outer, [np.arange(n) * step for step, n in others], np.array(low)).ravel()
            first, last = starts // PAGE, (starts + (n - 1) * step + here.itemsize - 1) // PAGE
            ends = np.zeros(int(last.max() - first.min()) + 2, np.int64)
            np.add.at(ends, first - first.min(), 1)
            np.add.at(ends, last - first.min() + 1, -1)
            self.read += PAGE * int(np.count_nonzero(np.cumsum(ends)))
        yield from ()

    def chunks(self, source: Source, region: Region, out: np.ndarray) -> None:
        assert source.chunks is not None
        along = zip(region, source.chunks, source.shape, strict=True)
        whole = (min(-(-part.stop // n) * n, most) - part.start // n * n for part, n, most in along)
        self.read += math.prod(whole) * source.dtype.itemsize

    def block(self, values: Any, block_info: Any = None) -> np.ndarray:
        zeros = np.broadcast_to(np.float32(0), block_info[None]["chunk-shape"])
        self.read += zeros.nbytes
        return zeros

    def of(self, source: Source, made: Plan) -> int:
        """What all passes of a plan read, by what one reads, unit after unit."""
        batches, before = scan_batches(made.layout, made.rule), self.read
        for batch in range(batches.count):
            for number in batches.numbers(batch):
                region = made.layout.units.region(number)
                if (graph := source.graph(region)) is not None:
                    graph.compute(scheduler="synchronous")
                    continue
                for piece in source.pieces(region):
                    source.load(piece)
        return made.passes * (self.read - before)


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    def __init__(self, path: Path, count: Count) -> None:
        super().__init__(path, "w+")
        self.count = count

    def readinto(self, buffer: Any) -> int:
        self.count.read += len(buffer)
        return super().readinto(buffer)


# Sources of zeros that take no room --------------------------------------------------------------------------------


def npy(order: str, folder: Path, count: Count, shape: Shape, chunks: Shape) -> Any:
    header = {"descr": "<f4", "fortran_order": order == "F", "shape": shape}
    with open(folder / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * math.prod(shape))
    return str(folder / "x.npy")


def mapped(order: str, folder: Path, count: Count, shape: Shape, chunks: Shape) -> Any:
    twice = (2 * shape[0], *shape[1:]) if order == "F" else (*shape[:-1], 2 * shape[-1])
    array = np.load(npy(order, folder, count, twice, chunks), mmap_mode="r")
    return array[::2] if order == "F" else array[..., ::2]


def hdf5(folder: Path, count: Count, shape: Shape, chunks: Shape) -> Any:
    file = count.closing(h5py.File(folder / "x.h5", "w", driver="core", backing_store=False))
    return file.create_dataset("x", shape, "f4", chunks=chunks)


def hdf5_without_chunks(folder: Path, count: Count, shape: Shape, chunks: Shape) -> Any:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file = count.closing(h5py.File(count.closing(Counted(folder / "x.h5", count)), "w"))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), made)
    return file["x"]


SOURCES: dict[str, Callable[..., Any]] = {
    "C order": functools.partial(npy, "C"),
    "Fortran order": functools.partial(npy, "F"),
    "map in C order": functools.partial(mapped, "C"),
    "map in Fortran order": functools.partial(mapped, "F"),
    "Zarr": lambda _, count, shape, chunks: zarr.create_array(MemoryStore(), shape=shape, chunks=chunks, dtype="f4"),
    "HDF5": hdf5,
    "HDF5 without chunks": hdf5_without_chunks,
    "dask": lambda _, count, shape, chunks: dask.array.zeros(shape, "f4", chunks=chunks).map_blocks(
        count.block, dtype="f4", meta=np.empty((0,) * len(shape), "f4")
    ),
}

QUICK = ["C order", "Fortran order", "Zarr"]


def lengths(most: int) -> st.SearchStrategy[int]:
    """Short and long ones alike, odd ones among them."""
    return st.integers(0, most.bit_length() - 1).flatmap(lambda bits: st.integers(1 << bits, min(2 << bits, most)))


@st.composite
def jobs(draw: st.DrawFn, values: int) -> tuple[Shape, Shape, dict[str, Any]]:
    """A shape, chunks for a source of that shape, and how scales are chosen."""
    outer = draw(st.lists(lengths(3000), max_size=2))
    shape = tuple(draw(st.permutations([*outer, -(-values // math.prod(outer))])))
    chunks = tuple(draw(lengths(n)) for n in shape)
    blocks = st.tuples(*[st.sampled_from([1, 2, 3, 8, 32, 64])] * len(shape))
    shared = draw(st.sampled_from([{}, *({"axis": axis} for axis in range(len(shape)))]) | blocks.map(in_blocks))
    return shape, chunks, {**shared, "scale_method": draw(st.sampled_from(["minmax", "mse"]))}


def in_blocks(lengths: Shape) -> dict[str, Shape]:
    return {"blocks": lengths}


def few_chunks(job: tuple[Shape, Shape, dict[str, Any]]) -> bool:
    """Whether the chunks are neither so many nor so large that no test counts them."""
    shape, chunks, _ = job
    return (
        math.prod(-(-n // along) for n, along in zip(shape, chunks, strict=True)) <= 200
        and math.prod(chunks) <= ONE_CHUNK
    )


@pytest.mark.parametrize("kind", mostly_slow(SOURCES, QUICK))
@given(job=jobs(LARGE).filter(few_chunks))
def test_default_chunks_read_little_more_than_twice_the_source(
    tmp_path_factory: pytest.TempPathFactory, kind: str, job: Any
) -> None:
    shape, chunks, settings = job
    with ExitStack() as stack:
        count = Count(stack)
        thing = SOURCES[kind](tmp_path_factory.mktemp("x"), count, shape, chunks)
        made = plan(thing, MemoryStore(), **settings)
        counted = count.of(as_source(thing), made)
        assert counted <= SLACK * made.read, made
        assert made.read <= READ_MOST * made.read_once, made
        assert counted >= made.read / 3  # it said no nonsense


@pytest.mark.parametrize("kind", mostly_slow(SOURCES, QUICK))
@given(data=st.data(), job=jobs(50_000).filter(few_chunks))
def test_chunks_that_are_given(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject, job: Any
) -> None:
    shape, chunks, settings = job
    *outer, last = (data.draw(lengths(n)) for n in shape)
    given_chunks = (*outer, last + last % 2)
    if "blocks" in settings:  # whole ones
        cuts = granularity_of(None, len(shape), settings["blocks"]).whole_cuts(shape)
        given_chunks = tuple(-(-n // cut) * cut for n, cut in zip(given_chunks, cuts, strict=True))
    with ExitStack() as stack:
        count = Count(stack)
        thing = SOURCES[kind](tmp_path_factory.mktemp("x"), count, shape, chunks)
        made = plan(thing, MemoryStore(), chunks=given_chunks, **settings)
        assume(made.units <= 100)
        counted = count.of(as_source(thing), made)
    small = PAGE * made.passes * made.units  # of files: each unit may begin and end in pages of its neighbours
    assert counted <= (made.read if kind in ("Zarr", "HDF5", "dask") else 2 * made.read + 2 * small)


def test_columns_of_a_file_of_rows_are_read_twice_and_not_a_thousand_times(tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = npy("C", tmp_path, Count(stack), (786_432, 4096), ())
    for scale_method in ("minmax", "mse"):
        job: Any = {"axis": 1, "scale_method": scale_method}
        made = plan(path, MemoryStore(), **job)
        assert (made.layout.chunks, made.passes, made.notes) == ((1024, 4096), 2, ())
        assert made.read == 2 * made.read_once == 2 * 786_432 * 4096 * 4
        assert made.facts["reads"] == "24.00 GiB, 2 times the source"
        assert "\nreads        24.00 GiB, 2 times the source\n" in str(made)
        assert (made.to_json()["read"], made.to_json()["read_once"]) == (made.read, made.read_once)
        thin = plan(path, MemoryStore(), chunks=(-1, 4), **job)
        assert (thin.passes, thin.read) == (1, 1024 * made.read_once)
        assert thin.notes == (
            "chunks of (786432, 4) values read 12.00 TiB, 1,024 times the source; chunks=(1024, 4096), the default, "
            "24.00 GiB, 2 times the source",
        )
        assert plan(path, MemoryStore(), chunks=(2048, -1), **job).notes == ()
    rows = plan(path, MemoryStore(), axis=0)
    assert (rows.layout.chunks, rows.passes, rows.facts["reads"]) == ((1024, 4096), 1, "12.00 GiB, the source once")


def test_what_is_kept_of_pass_1_is_not_read_again() -> None:
    source = zarr.create_array(MemoryStore(), shape=(4000, 1000), chunks=(1000, 1000), dtype="f4")
    assert plan(source, MemoryStore()).read == 32_000_000
    kept = plan(source, MemoryStore(), memory="4GiB")
    assert (kept.kept, kept.read) == (16_000_000, 16_000_000)


@pytest.mark.parametrize("scale_method", ["minmax", "mse"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_budget_is_kept_first(tmp_path: Path, axis: int | None, scale_method: str) -> None:
    with ExitStack() as stack:
        path = npy("C", tmp_path, Count(stack), (100_000, 100_000), ())
    job: Any = {"axis": axis, "scale_method": scale_method}
    usual = plan(path, MemoryStore(), **job)
    assert usual.read <= READ_MOST * usual.read_once
    for budget in (300 << 20, 600 << 20, 1 << 40):
        made = plan(path, MemoryStore(), memory=budget, **job)
        assert made.memory <= budget
    assert (made.layout, made.read) == (usual.layout, usual.read)


def test_units_of_one_chunk_share_it() -> None:
    """Whatever threads read them; and it is not kept for longer than one of them does."""
    shared, calls = SharedChunks(), []

    def fetch() -> np.ndarray:
        calls.append(1)
        return np.arange(3)

    with ThreadPoolExecutor(1) as other:
        mine = shared.of(7, fetch)
        assert other.submit(shared.of, 7, fetch).result() is mine
        assert len(calls) == 1
        shared.of(8, fetch)
        other.submit(shared.let_go).result()
        shared.of(7, fetch)
        assert len(calls) == 3


def test_a_large_chunk_is_decoded_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(1024, 64)).astype(np.float32)
    array = zarr.create_array(MemoryStore(), data=values, chunks=(512, 64))
    calls: list[Region] = []
    whole = ZarrSource.fetch

    def counted(source: Any, region: Region, out: np.ndarray) -> None:
        calls.append(region)
        whole(source, region, out)

    monkeypatch.setattr(ZarrSource, "fetch", counted)
    made = plan(array, MemoryStore(), chunks=(32, 64))
    check(quantize_to_zarr(array, MemoryStore(), chunks=(32, 64), workers=1, missing=None), values)
    assert made.read == 2 * values.nbytes
    assert len(calls) == 2 * 2 + 2  # and those of the first and the last values
