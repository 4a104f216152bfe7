"""The plan: what it chooses, what it says, what it refuses, all from metadata."""

import json
import math
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import Counting, field
from zarr.storage import MemoryStore

from quantize import plan, quantize_to_zarr
from quantize.numerics.grid import covers
from quantize.runtime.progress import Progress
from quantize.runtime.settings import parsed_bytes
from quantize.store.layout import UNITS

VALUES = field((64, 48))
MIB = 1 << 20
Usage = namedtuple("Usage", "total used free")


class Shape(Counting):
    """An array of which only the shape is there."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32, chunks: Any = None) -> None:
        self.shape, self.dtype, self.chunks = shape, np.dtype(dtype), chunks

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("a plan reads no value")


def zarr_of(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "f4", **options: Any) -> zarr.Array[Any]:
    return zarr.create_array(MemoryStore(), shape=shape, chunks=chunks, dtype=dtype, **options)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan(VALUES, tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_a_plan_reads_no_value() -> None:
    made = plan(Shape((10**6, 10**6)), MemoryStore(), memory="1GiB")
    assert made.layout.nbytes == 4 * 10**12


@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=4),
    st.sampled_from(["f2", "f4", "f8", "i1"]),
    st.booleans(),
    st.data(),
)
def test_chunks_are_allowed_and_near_the_target(
    shape: list[int], dtype: str, chunked: bool, data: st.DataObject
) -> None:
    source: Any = Shape(tuple(shape), dtype)
    own = 0.0
    if chunked:
        source = zarr_of(tuple(shape), tuple(data.draw(st.integers(1, min(n, 5000))) for n in shape), dtype)
        own = float(np.prod(source.chunks, dtype=float)) * source.dtype.itemsize
    try:
        layout = plan(source, MemoryStore()).layout
    except ValueError as error:
        assert "chunks or shards" in str(error)  # noqa: PT017
        assert math.prod(shape) * np.dtype(dtype).itemsize > UNITS * 2 * MIB
        return
    assert covers(layout.shape, layout.chunks)
    assert all(length <= n for length, n in zip(layout.chunks, layout.shape, strict=True))
    size = np.prod(layout.chunks, dtype=float) * layout.dtype.itemsize
    assert size <= 2 * max(64 * MIB, own)
    assert size >= 2 * MIB or layout.units.count <= 2 ** len(shape) or chunked


@pytest.mark.parametrize(
    ("shape", "source_chunks", "chunks"),
    [
        ((4000, 4000), (1000, 2000), (1000, 2000)),  # 8 MB: the source's own
        ((4000, 4001), (1000, 2001), (1000, 4001)),  # odd, so twice as long, which is the whole axis
        ((100, 100), (10, 10), (100, 100)),
        ((10**6, 64), (1000, 64), (65000, 64)),  # 256 kB: whole multiples near 16 MiB
        ((10**5, 10**5), (10**5, 10**5), (41, 10**5)),  # larger than 64 MiB: blocks of rows
    ],
)
def test_chunks_follow_the_source(shape: Any, source_chunks: Any, chunks: Any) -> None:
    source = zarr_of(shape, source_chunks)
    assert plan(source, MemoryStore()).layout.chunks == chunks


@pytest.mark.parametrize(
    ("shape", "axis", "chunks"),
    [
        ((240, 181, 360), 0, (64, 181, 360)),
        ((240, 181, 360), 1, (64, 181, 360)),  # a time step reads a quarter, as without an axis
        ((240, 181, 360), 2, (64, 181, 360)),
        ((120, 181, 360), 1, (120, 97, 360)),  # a time step reads twice as much, and one read gives all
        ((3000, 2048), 1, (3000, 1398)),
        ((5000, 2048), 1, (2048, 2048)),
    ],
)
def test_a_scale_for_an_axis_makes_no_chunk_of_a_whole_variable(shape: Any, axis: int, chunks: Any) -> None:
    values = np.broadcast_to(np.float32(0), shape)
    assert plan(values, MemoryStore(), axis=axis).layout.chunks == chunks


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [(10, (10, 10)), (-1, (64, 48)), ((5, -1), (5, 48)), ([100, 100], (64, 48)), ((7, 48), (7, 48))],
)
def test_chunks_that_are_named(chunks: Any, wanted: tuple[int, ...]) -> None:
    assert plan(VALUES, MemoryStore(), chunks=chunks).layout.chunks == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": (5, 7)}, "odd index of the last axis.*such as 8, or the whole axis, 48"),
        ({"chunks": (5,)}, "a length for each axis"),
        ({"chunks": (5, 0)}, "a length for each axis.*above 0"),
        ({"chunks": "big"}, "chunks is 'big'"),
        ({"chunks": (5, 8), "shards": (12, 16)}, "not whole multiples"),
        ({"shards": "big"}, "shards is 'big'"),
        ({"compressors": "lz4"}, "'lz4' is not one of zstd, gzip, blosc"),
        ({"compressors": ["zstd", "gzip"]}, "takes one"),
        ({"compressors": 3}, "must be 'auto'"),
        ({"compressors": {"name": "zstd", "configuration": {"window": 1}}}, "no option 'window'"),
        ({"scale_method": "lloyd"}, "'lloyd', but must be one of 'minmax', 'absmax'"),
        ({"nan_policy": "omit"}, "'omit', but must be one of 'raise', 'propagate'"),
        ({"value_range": (1, 1)}, "empty"),
        ({"value_range": (2, 1)}, "reversed"),
        ({"value_range": (0, float("inf"))}, "finite"),
        ({"value_range": 3}, "two numbers"),
        ({"workers": 0}, "workers is 0"),
        ({"memory": "lots"}, "memory is 'lots'"),
        ({"memory": 0}, "too small for one task"),
        ({"memory": "100MiB"}, "100.00 MiB. is too small for one task: 128.00 MiB.* in all. Pass at least that"),
        ({"name": "a/b"}, "'a/b' has a '/'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    for call in (plan, quantize_to_zarr):
        with pytest.raises(ValueError, match=message):
            call(VALUES, tmp_path / "z", **options)
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize(
    ("compressors", "name"),
    [
        ("auto", "zstd"),
        (None, None),
        ("none", None),
        ("gzip", "gzip"),
        ([], None),
        (["zstd", "crc32c"], "zstd"),
        (zarr.codecs.ZstdCodec(level=3), "zstd"),
        ([zarr.codecs.BloscCodec(cname="lz4", shuffle="noshuffle", typesize=1)], "blosc"),
        ([zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()], "gzip"),
    ],
    ids=str,
)
def test_compressors_are_taken_as_zarr_takes_them(compressors: Any, name: str | None) -> None:
    assert plan(VALUES, MemoryStore(), compressors=compressors).layout.compressor.name == name
    array = quantize_to_zarr(VALUES, MemoryStore(), compressors=compressors)
    assert array.packed.metadata.codecs[-1].to_dict()["name"] == "crc32c"


# Memory and workers -------------------------------------------------------------------------------------------------


def test_the_smallest_budget_that_is_named_is_enough() -> None:
    source = Shape((10**5, 10**4))
    usual = plan(source, MemoryStore(), workers=1)
    least, chunks = usual.memory, usual.layout.chunks
    assert plan(source, MemoryStore(), workers=8, memory=least).workers == 1
    with pytest.raises(ValueError, match="too small"):
        plan(source, MemoryStore(), workers=8, memory=least - 1, chunks=chunks)
    with pytest.raises(ValueError, match="too small") as caught:
        plan(source, MemoryStore(), workers=8, memory="1MiB")
    named = re.search(r", ([\d.]+) MiB in all", str(caught.value))
    assert named is not None
    smallest = plan(source, MemoryStore(), workers=8, memory=f"{float(named[1]) + 0.01}MiB")
    assert (smallest.workers, smallest.memory < least) == (1, True)


def test_a_budget_lowers_the_workers_and_says_so() -> None:
    source = Shape((10**5, 10**4))
    free = plan(source, MemoryStore(), workers=8)
    capped = plan(source, MemoryStore(), workers=8, memory=free.memory - 1)
    assert (free.workers, capped.workers) == (8, 7)
    assert capped.memory <= free.memory - 1
    assert any("7 tasks at a time instead of 8" in note for note in capped.notes)
    assert not free.notes


@given(st.integers(200 * MIB, 4000 * MIB), st.integers(1, 16), st.integers(1, 4000))
def test_a_plan_stays_within_its_budget(memory: int, workers: int, rows: int) -> None:
    source = zarr_of((rows, 10**4), (min(rows, 250), 10**4))
    made = plan(source, MemoryStore(), memory=memory, workers=workers)
    assert made.memory <= memory
    assert 1 <= made.workers <= workers


def test_what_a_budget_leaves_over_keeps_pass_1() -> None:
    source = zarr_of((4000, 1000), (1000, 1000))
    assert plan(source, MemoryStore()).kept == 0
    assert plan(source, MemoryStore(), memory="4GiB").kept == 16_000_000
    assert plan(source, MemoryStore(), memory="4GiB", value_range=(0, 1)).kept == 0
    assert plan(np.zeros((4000, 1000), np.float32), MemoryStore(), memory="4GiB").kept == 0


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5_000_000, 8), {"memory": "140MiB", "workers": 1}),
        ((5_000_000, 8), {"memory": "220MiB", "axis": 0, "scale_method": "mse"}),
        ((8, 5_000_000), {"memory": "190MiB", "axis": 0, "scale_method": "mse"}),
        ((4000, 300, 200), {"memory": "140MiB"}),
    ],
    ids=str,
)
def test_chunks_that_were_not_given_fit_the_budget(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    budget = parsed_bytes(options["memory"])
    usual = plan(Shape(shape), MemoryStore(), **{**options, "memory": None}).layout
    with pytest.raises(ValueError, match="is too small for one task"):
        plan(Shape(shape), MemoryStore(), **{**options, "chunks": usual.chunks})
    made = plan(Shape(shape), MemoryStore(), **options)
    assert budget is not None
    assert made.memory <= budget
    assert math.prod(made.layout.chunks) < math.prod(usual.chunks)
    (note,) = [note for note in made.notes if note.startswith("chunks of ")]
    assert f"{made.layout.chunks} values instead of {usual.chunks}, to stay within memory=" in note
    assert plan(Shape(shape), MemoryStore(), **{**options, "memory": "64GiB"}).layout == usual


def test_so_does_what_they_make(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(600_000, 8)).astype(np.float32)
    array = quantize_to_zarr(values, tmp_path / "z", axis=0, memory="170MiB")
    assert array.chunks[0] < len(values)
    assert (abs(array[...] - values) <= array.max_error * (1 + 1e-5)).all()


def test_very_many_small_files_are_told_of_with_the_shards_that_would_serve() -> None:
    source = zarr_of((8000, 8000), (64, 64))
    made = plan(source, MemoryStore(), chunks=(64, 64))
    note, absent = made.notes
    assert "absent" in absent
    assert note == (
        "15,625 chunks are as many files, which takes long; with shards=(512, 8000), or --shards 512,8000, a file "
        "holds 1,000 of them"
    )
    served = plan(source, MemoryStore(), chunks=(64, 64), shards=(512, 8000))
    assert (served.units, served.notes) == (16, (absent,))
    assert plan(source, MemoryStore()).notes == (absent,)  # its own chunks are joined
    assert plan(Shape((10**6, 10**5)), MemoryStore()).notes == ()  # they are large


def test_what_is_kept_is_read_once() -> None:
    kept, twice = Counting(VALUES), Counting(VALUES)
    one = quantize_to_zarr(kept, MemoryStore(), memory="1GiB", workers=1, chunks=(8, 48))
    two = quantize_to_zarr(twice, MemoryStore(), workers=1, chunks=(8, 48))
    assert len(twice.read) - len(kept.read) == 8
    np.testing.assert_array_equal(one.packed[...], two.packed[...])


def test_a_dask_source_is_an_estimate_and_says_so() -> None:
    assert any("estimate" in note for note in plan(dask.array.zeros((100, 100)), MemoryStore()).notes)
    assert plan(VALUES, MemoryStore()).notes == ()


def test_the_synchronous_scheduler_is_one_worker() -> None:
    with dask.config.set(scheduler="synchronous"):
        made = plan(VALUES, MemoryStore(), workers=4)
    assert (made.scheduler, made.workers) == ("synchronous", 1)


# Disk ---------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_with_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = plan(VALUES, tmp_path / "z").disk
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - need + 1, need - 1))
    with pytest.raises(ValueError, match=f"takes up to {need:,} bytes.*{need - 1:,} are free"):
        quantize_to_zarr(VALUES, tmp_path / "z")
    assert not (tmp_path / "z").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - need, need))
    quantize_to_zarr(VALUES, tmp_path / "z")


def test_only_what_is_not_there_yet_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == ("write", 3):
            raise KeyboardInterrupt

    job: Any = {"chunks": (16, 48), "compressors": None, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        quantize_to_zarr(VALUES, tmp_path / "z", **job, progress=stop)
    whole = plan(VALUES, tmp_path / "z", **job).disk
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9, whole // 4 - 1))
    with pytest.raises(ValueError, match="not enough disk"):
        quantize_to_zarr(VALUES, tmp_path / "z", **job)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9, whole // 4 + 1))
    quantize_to_zarr(VALUES, tmp_path / "z", **job)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9, 0))
    quantize_to_zarr(VALUES, tmp_path / "z", **job)  # whole: nothing to do


@pytest.mark.parametrize("compressors", [None, "zstd", "gzip", "blosc"])
@pytest.mark.parametrize("options", [slow({"chunks": 1024}), {"chunks": 16}, {"chunks": 16, "shards": 1024}], ids=str)
def test_the_result_takes_no_more_disk_than_said(tmp_path: Path, options: Any, compressors: Any) -> None:
    values = np.random.default_rng(0).uniform(size=1 << 12)
    said = plan(values, tmp_path, compressors=compressors, **options).disk
    quantize_to_zarr(values, tmp_path, compressors=compressors, **options)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= said


# What it says -------------------------------------------------------------------------------------------------------


def test_a_plan_prints_and_serializes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    made = plan(tmp_path / "x.npy", tmp_path / "z", chunks=(8, 16), shards=(16, 48), workers=2)
    figures = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert (figures["chunks"], figures["shards"], figures["units"], figures["workers"]) == ([8, 16], [16, 48], 4, 2)
    assert (figures["nbytes"], figures["memory"], figures["passes"]) == (VALUES.nbytes, made.memory, 2)
    text = str(made)
    for part in (
        str(tmp_path / "x.npy"),
        str(tmp_path / "z" / "data"),
        "(64, 48) float32",
        "4 shards of (16, 48)",
        "2 passes",
    ):
        assert part in text
    assert "1 pass" in str(plan(VALUES, MemoryStore(), value_range=(0, 1)))


@pytest.mark.parametrize(("rows", "tasks"), [(1, 1), (127, 127), (128, 64), (100_000, 3125)])
def test_tasks_take_batches(rows: int, tasks: int) -> None:
    made = plan(Shape((rows, 2)), MemoryStore(), chunks=(1, 2))
    assert (made.units, made.tasks) == (rows, tasks)


def test_the_axis_of_scales_is_said_with_its_name() -> None:
    named = zarr.create_array(MemoryStore(), data=VALUES, dimension_names=("latitude", None))
    assert plan(named, MemoryStore(), axis=0).scales == "minmax, one for each index of axis 0 (latitude)"
    assert plan(named, MemoryStore(), axis=1).scales == "minmax, one for each index of axis 1"
    assert plan(VALUES, MemoryStore(), axis=0).scales == "minmax, one for each index of axis 0"
    assert plan(named, MemoryStore()).scales == "minmax"
    assert plan(named, MemoryStore(), axis=0).to_json()["dimension_names"] == ["latitude", None]
