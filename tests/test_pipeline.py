"""Out of core is bit for bit what it is in memory, and a run that was stopped is finished by running it again."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import Counting, Died, DyingStore, WatchedStore, check, expected, field, files, memory_keys, mended_deaths
from strategies import arrays
from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

from quantize import (
    Int4Array,
    Plan,
    RefusedValuesError,
    SourceChangedError,
    StoreError,
    UnfinishedStoreError,
    open_int4,
    plan,
    quantize_to_zarr,
)
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress

VALUES = field((40, 30))
JOB: dict[str, Any] = {"chunks": (4, 10), "workers": 1}  # 30 units, each a batch

# The same numbers ---------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.ndarray, tuple[int, ...]], Any]] = {
    "array": lambda values, chunks: values,
    "anything": lambda values, chunks: Counting(values),
    "dask": lambda values, chunks: dask.array.from_array(values, chunks=chunks),
    "zarr": lambda values, chunks: zarr.create_array(MemoryStore(), data=values, chunks=chunks),
}


@st.composite
def jobs(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """Settings of a job, of any chunking that the packed axis allows."""
    *outer, last = shape
    ends = [n for n in range(1, last + 2) if n % 2 == 0 or n >= last]
    chunks = (*(draw(st.integers(1, n + 1)) for n in outer), draw(st.sampled_from(ends)))
    shards = tuple(draw(st.integers(1, 3)) * n for n in chunks) if draw(st.booleans()) else None
    return {
        "chunks": draw(st.sampled_from([None, chunks])) if shards is None else chunks,
        "shards": shards,
        "compressors": draw(st.sampled_from(["auto", None, "gzip", "blosc"])),
        "workers": draw(st.integers(1, 3)),
        "memory": draw(st.sampled_from([None, "1GiB"])),
        "verify": draw(st.booleans()),
    }


@given(
    arrays(shapes=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple), special=(np.nan, np.inf, -np.inf)),
    st.sampled_from(["minmax", "absmax"]),
    st.sampled_from([None, (0, 100), (-1.5, 20)]),
    st.sampled_from(["raise", "propagate"]),
    st.sampled_from(list(KINDS)),
    st.data(),
)
def test_a_store_is_what_the_functions_in_memory_give(
    values: np.ndarray, method: str, value_range: Any, policy: str, kind: str, data: st.DataObject
) -> None:
    native = values.astype(values.dtype.newbyteorder("="))
    if kind == "zarr" and native.dtype.name == "bfloat16":
        kind = "array"
    source = KINDS[kind](values, tuple(data.draw(st.integers(1, n)) for n in values.shape))
    job = data.draw(jobs(values.shape))
    options = {"scale_method": method, "value_range": value_range, "nan_policy": policy}
    store = MemoryStore()
    try:
        wanted = expected(native, dtype=np.float64, **options)[0]
    except RefusedValuesError:
        with pytest.raises(RefusedValuesError, match="first refused value is at index"):
            quantize_to_zarr(source, store, **options, **job)
        assert value_range or not store._store_dict
        return
    try:
        plan(source, store, **options, **{key: value for key, value in job.items() if key != "verify"})
    except ValueError as refusal:
        assert "shards" in str(refusal)  # noqa: PT017
        return
    array = quantize_to_zarr(source, store, **options, **job)
    np.testing.assert_array_equal(array.packed[...], wanted)
    assert open_int4(store).metadata == array.metadata
    try:
        floats = expected(native, **options)[1]
    except ValueError:
        with pytest.raises(ValueError, match="cannot hold"):
            array[...]
    else:
        assert array[...].tobytes() == floats.tobytes()


@pytest.mark.parametrize("shards", [None, (8, 20)])
def test_the_same_job_gives_the_same_bytes(tmp_path: Path, shards: Any) -> None:
    for workers in (1, 2, 5):
        quantize_to_zarr(VALUES, tmp_path / str(workers), chunks=(4, 10), shards=shards, workers=workers)
    quantize_to_zarr(
        np.asfortranarray(VALUES.astype(">f4")), tmp_path / "f", chunks=(4, 10), shards=shards, verify=True
    )
    first = files(tmp_path / "1")
    for other in ("2", "5", "f"):
        assert files(tmp_path / other) == first
    assert not [name for name in first if "scan" in name or "partial" in name]


def test_many_units_go_in_batches(tmp_path: Path) -> None:
    values = field((1500, 3))
    events: list[Any] = []
    array = quantize_to_zarr(values, MemoryStore(), chunks=(1, 3), workers=2, progress=events.append)
    check(array, values)
    assert sum(isinstance(event, Progress) for event in events) == 2 * (1 + 66)


# Progress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [None, (-100, 100)])
def test_progress_begins_with_the_plan_and_ends_with_all(value_range: Any) -> None:
    events: list[Any] = []
    quantize_to_zarr(VALUES, MemoryStore(), **JOB, value_range=value_range, progress=events.append)
    first, *rest = events
    assert isinstance(first, Plan)
    assert first == replace(plan(VALUES, MemoryStore(), **JOB, value_range=value_range), destination=first.destination)
    phases = ["write"] if value_range else ["scan", "write"]
    for phase in phases:
        steps = [event for event in rest if event.phase == phase]
        assert [step.done for step in steps] == list(range(31))
        assert {(step.total, step.skipped) for step in steps} == {(30, 0)}
        assert steps[-1].nbytes == VALUES.nbytes
    assert [event.phase for event in rest] == sorted((event.phase for event in rest), key=phases.index)


def test_a_sealed_job_has_nothing_to_do(tmp_path: Path) -> None:
    source = Counting(VALUES)
    quantize_to_zarr(source, tmp_path, **JOB)
    source.read.clear()
    store = WatchedStore(tmp_path)
    events: list[Any] = []
    check(quantize_to_zarr(source, store, **JOB, progress=events.append), VALUES)
    assert (len(source.read), store.put, len(events)) == (2, [], 1)


# Stopped and run again ----------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stopping(phase: str, done: int) -> Callable[[Any], None]:
    def progress(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == (phase, done):
            raise Stopped

    return progress


def stop_at(source: Any, store: Any, phase: str, done: int, **job: Any) -> None:
    with pytest.raises(Stopped):
        quantize_to_zarr(source, store, **{**JOB, **job}, progress=stopping(phase, done))


def stages(source: Any, store: Any, **job: Any) -> tuple[Progress | None, Progress]:
    """Run again; how far each phase was at its start."""
    events: list[Any] = []
    quantize_to_zarr(source, store, **{**JOB, **job}, progress=events.append)
    first = {event.phase: event for event in reversed(events) if isinstance(event, Progress)}
    return first.get("scan"), first["write"]


@pytest.mark.parametrize("workers", [slow(1), 3])
@pytest.mark.parametrize("shards", [None, (8, 10)])
@pytest.mark.parametrize(
    ("phase", "done"), [("scan", 0), ("scan", 7), ("scan", 15), ("write", 0), ("write", 7), ("write", 15)]
)
def test_a_stopped_run_is_finished_by_the_same_call(
    tmp_path: Path, phase: str, done: int, shards: Any, workers: int
) -> None:
    job = {"shards": shards, "workers": workers}
    quantize_to_zarr(VALUES, tmp_path / "whole", **{**JOB, **job})
    stop_at(VALUES, tmp_path / "z", phase, done, **job)
    with pytest.raises(UnfinishedStoreError, match="call quantize_to_zarr with the same source"):
        open_int4(tmp_path / "z")
    check(quantize_to_zarr(VALUES, tmp_path / "z", **{**JOB, **job}), VALUES)
    assert files(tmp_path / "z") == files(tmp_path / "whole")


def test_what_pass_1_has_scanned_is_not_scanned_again(tmp_path: Path) -> None:
    source = Counting(VALUES)
    stop_at(source, tmp_path, "scan", 11)
    source.read.clear()
    scan, write = stages(source, tmp_path)
    assert scan is not None
    assert scan.skipped >= 11
    looks = 1  # at a sample, once pass 1 is done
    assert (write.skipped, len(source.read)) == (0, 2 + (30 - scan.skipped) + looks + 30)


def test_pass_1_is_not_run_again_once_it_is_done(tmp_path: Path) -> None:
    source = Counting(VALUES)
    stop_at(source, tmp_path, "write", 0)
    source.read.clear()
    scan, _ = stages(source, tmp_path)
    assert (scan, len(source.read)) == (None, 2 + 30)


def test_chunks_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    source = Counting(VALUES)
    stop_at(source, tmp_path, "write", 12)
    there = {name for name in files(tmp_path) if name.startswith("data/c/")}
    source.read.clear()
    store = WatchedStore(tmp_path)
    scan, write = stages(source, store)
    assert scan is None
    assert write.skipped == len(there) >= 12
    assert not there & set(store.put)
    assert len([key for key in store.put if key.startswith("data/c/")]) == 30 - len(there)
    assert len(source.read) == 2 + 30 - len(there)


@pytest.mark.parametrize("torn", [True, slow(False)])
@pytest.mark.parametrize("value_range", [None, (-100, 100)])
def test_a_death_at_any_change_is_mended(tmp_path: Path, torn: bool, value_range: Any) -> None:
    """In the middle of each change of the store in turn, or after it, the process dies."""
    assert mended_deaths(VALUES, tmp_path, torn, chunks=(20, 20), workers=1, value_range=value_range) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("torn", [True, False])
def test_a_death_while_overwriting_is_mended(tmp_path: Path, torn: bool) -> None:
    job = {"chunks": (20, 20), "workers": 1}
    quantize_to_zarr(VALUES, tmp_path / "whole", **job)
    whole = files(tmp_path / "whole")
    folder = tmp_path / "z"
    for at in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        quantize_to_zarr(VALUES + 1, folder, **job)
        try:
            quantize_to_zarr(VALUES, DyingStore(folder, at, torn), **job, overwrite=True)
        except Died:
            try:
                there = open_int4(folder)
            except UnfinishedStoreError:
                pass
            else:  # before the first change the old variable is whole, after the last the new one
                check(there, VALUES + 1 if at == 0 else VALUES)
                assert at == 0 or files(folder) == whole
            check(quantize_to_zarr(VALUES, folder, **job, overwrite=True), VALUES)
            assert files(folder) == whole, f"change {at}"
        else:
            break
    assert at >= 8


def test_overwrite_goes_on_with_this_jobs_own_unfinished_variable(tmp_path: Path) -> None:
    stop_at(VALUES, tmp_path, "write", 12)
    _, write = stages(VALUES, tmp_path, overwrite=True)
    assert write.skipped >= 12


class Failing(WrapperStore[Store]):
    """Refuses to take a chunk of pass 2."""

    async def set(self, key: str, value: Any) -> None:
        if key == "data/c/5/1":
            raise OSError(28, "No space left on device")
        await super().set(key, value)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_write_that_fails_is_told_and_mended(workers: int) -> None:
    store = MemoryStore()
    with pytest.raises(OSError, match="No space left"):
        quantize_to_zarr(VALUES, Failing(store), chunks=(4, 10), workers=workers)
    with pytest.raises(UnfinishedStoreError):
        open_int4(store)
    check(quantize_to_zarr(VALUES, store, chunks=(4, 10)), VALUES)


# Another job --------------------------------------------------------------------------------------------------------

OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"scale_method": "absmax"}, "scale_method was minmax and is absmax"),
    ({"nan_policy": "propagate"}, "nan_policy was raise and is propagate"),
    ({"value_range": (-1, 1)}, r"value_range was None and is \[-1.0, 1.0\]"),
    ({"chunks": (4, 30)}, r"chunks was \[4, 10\] and is \[4, 30\]"),
    ({"shards": (8, 10)}, r"shards was None and is \[8, 10\]"),
    ({"compressors": "gzip"}, "name was zstd and is gzip"),
    ({"missing": 3.0}, "missing was None and is 3.0"),
    ({"source": VALUES + 1}, "the values of the source"),
    ({"source": VALUES[:-1]}, r"shape was \[40, 30\] and is \[39, 30\]"),
    ({"source": VALUES.astype("f8")}, "dtype was float32 and is float64"),
]


@pytest.mark.parametrize("unfinished", [slow(False), True])
@pytest.mark.parametrize(("other", "message"), OTHERS, ids=lambda value: value if isinstance(value, str) else "")
def test_another_job_is_refused_with_the_difference(
    tmp_path: Path, other: dict[str, Any], message: str, unfinished: bool
) -> None:
    if unfinished:
        stop_at(VALUES, tmp_path, "write", 12)
    else:
        quantize_to_zarr(VALUES, tmp_path, **JOB)
    before = files(tmp_path)
    arguments = {"source": VALUES, **JOB, **other}
    state = "unfinished" if unfinished else "whole"
    with pytest.raises(
        StoreError, match=f"data is there already, {state}, of another job: .*{message}.*overwrite=True"
    ):
        quantize_to_zarr(store=tmp_path, **arguments)
    assert files(tmp_path) == before
    array = quantize_to_zarr(store=tmp_path, **arguments, overwrite=True)
    assert array.layout == plan(store=tmp_path, **arguments).layout


def test_settings_that_decide_no_byte_are_the_same_job(tmp_path: Path) -> None:
    stop_at(VALUES, tmp_path, "write", 12)
    _, write = stages(VALUES, tmp_path, workers=3, memory="1GiB", verify=True)
    assert write.skipped >= 12


def test_the_same_values_from_elsewhere_are_the_same_job(tmp_path: Path) -> None:
    stop_at(VALUES, tmp_path / "z", "write", 12)
    np.save(tmp_path / "x.npy", VALUES)
    _, write = stages(tmp_path / "x.npy", tmp_path / "z")
    assert write.skipped >= 12


def test_no_path_of_the_source_is_stored(tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", VALUES)
    quantize_to_zarr(tmp_path / "secret.npy", tmp_path / "z")
    assert b"secret" not in (tmp_path / "z" / "data" / "zarr.json").read_bytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_that_changed_between_the_passes_stops_the_run(tmp_path: Path, workers: int) -> None:
    source = field((300, 40))
    job = {"chunks": (15, 20), "workers": workers}
    stop_at(source, tmp_path, "write", 0, **job)
    source[150, 13] = np.nextafter(source[150:165, :20].max(), np.inf)  # neither the first nor the last values
    with pytest.raises(
        SourceChangedError, match=r"changed since pass 1: the part for data/c/10/0 held .*overwrite=True"
    ):
        quantize_to_zarr(source, tmp_path, **job)
    assert not (tmp_path / "data" / "c" / "10" / "0").exists()
    with pytest.raises(UnfinishedStoreError):
        open_int4(tmp_path)
    with pytest.raises(StoreError, match="its source changed while it was read"):
        quantize_to_zarr(source, tmp_path, **job)


def test_a_changed_source_can_be_begun_again(tmp_path: Path) -> None:
    source = field((300, 40))
    job = {"chunks": (15, 20), "workers": 1}
    stop_at(source, tmp_path, "write", 0, **job)
    source[150, 13] = 1000
    with pytest.raises(SourceChangedError, match="pass overwrite=True to begin again"):
        quantize_to_zarr(source, tmp_path, **job)
    check(quantize_to_zarr(source, tmp_path, **job, overwrite=True), source)


def test_lost_statistics_of_pass_1_are_told_and_mended(tmp_path: Path) -> None:
    stop_at(VALUES, tmp_path, "write", 12)
    shutil.rmtree(tmp_path / "data_scan")
    with pytest.raises(StoreError, match="lost part of pass 1; pass overwrite=True"):
        quantize_to_zarr(VALUES, tmp_path, **JOB)
    check(quantize_to_zarr(VALUES, tmp_path, **JOB, overwrite=True), VALUES)


# Refused values -----------------------------------------------------------------------------------------------------


def with_values(**places: Any) -> np.ndarray:
    values = VALUES.copy()
    for place, value in places.items():
        values[tuple(map(int, place[1:].split("_")))] = value
    return values


REFUSED = [
    (with_values(_33_7=np.nan, _20_29=np.nan), r"2 NaN; the first refused value is at index \(20, 29\).*propagate"),
    (with_values(_5_0=np.inf, _4_29=-np.inf, _39_29=np.nan), r"1 NaN, 1 \+inf, 1 -inf.*\(4, 29\).*value_range"),
]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("workers", [slow(1), 3])
@pytest.mark.parametrize(("values", "message"), REFUSED, ids=["nan", "all"])
def test_refused_values_leave_no_store_behind(
    tmp_path: Path, values: np.ndarray, message: str, workers: int, kind: str
) -> None:
    source = KINDS[kind](values, (7, 30))
    with pytest.raises(RefusedValuesError, match=message):
        quantize_to_zarr(source, tmp_path / "new", **{**JOB, "workers": workers})
    assert not (tmp_path / "new").exists()
    group = tmp_path / "group"
    quantize_to_zarr(VALUES, group, name="other")
    before = files(group)
    with pytest.raises(RefusedValuesError, match=message):
        quantize_to_zarr(source, group, **{**JOB, "workers": workers})
    assert files(group) == before


def test_a_stopped_run_with_refused_values_leaves_no_store_behind_either(tmp_path: Path) -> None:
    values = REFUSED[0][0]
    stop_at(values, tmp_path / "z", "scan", 7)
    with pytest.raises(RefusedValuesError, match="2 NaN"):
        quantize_to_zarr(values, tmp_path / "z", **JOB)
    assert not (tmp_path / "z").exists()


def test_a_death_while_refused_values_are_cleared_away_is_mended(tmp_path: Path) -> None:
    values = REFUSED[0][0]
    folder = tmp_path / "z"
    for at in range(200):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            quantize_to_zarr(values, DyingStore(folder, at, torn=True), chunks=(20, 20), workers=1)
        except Died:
            with pytest.raises(RefusedValuesError, match="2 NaN"):
                quantize_to_zarr(values, folder, chunks=(20, 20), workers=1)
            assert not folder.exists(), f"change {at}"
        except RefusedValuesError:
            break
    assert at >= 8


def test_infinities_saturate_in_a_range() -> None:
    values = with_values(_5_0=np.inf, _4_29=-np.inf)
    array = quantize_to_zarr(values, MemoryStore(), chunks=(4, 10), value_range=(-50, 50))
    check(array, values, value_range=(-50, 50))


def test_nan_without_a_pass_1_stops_pass_2_and_is_never_read(tmp_path: Path) -> None:
    values = with_values(_33_7=np.nan)
    for _ in range(2):
        with pytest.raises(RefusedValuesError, match=r"data/c/8/0, the data hold 1 NaN.*\(33, 7\).*stays unfinished"):
            quantize_to_zarr(values, tmp_path, **JOB, value_range=(-50, 50))
        with pytest.raises(UnfinishedStoreError):
            open_int4(tmp_path)
    assert not (tmp_path / "data" / "c" / "8" / "0").exists()


def test_nothing_but_missing_values() -> None:
    values = np.full((5, 3), np.nan, np.float32)
    array = quantize_to_zarr(values, MemoryStore(), nan_policy="propagate")
    assert np.isnan(array[...]).all()
    assert array.metadata.statistics == {"count": 0, "min": None, "max": None, "missing": 15}


# Dask ---------------------------------------------------------------------------------------------------------------


def test_a_dask_graph_is_computed_twice_and_no_more() -> None:
    calls: list[Any] = []

    def noticed(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape)
        return block

    lazy = dask.array.from_array(VALUES, chunks=(10, 30)).map_blocks(noticed, dtype=VALUES.dtype, meta=VALUES[:0])
    calls.clear()
    check(quantize_to_zarr(lazy, MemoryStore(), chunks=(10, 30)), VALUES)
    assert len(calls) == 8
    calls.clear()
    check(quantize_to_zarr(lazy, MemoryStore(), chunks=(10, 30), memory="1GiB"), VALUES)
    assert len(calls) == 4


def test_a_store_is_a_source_for_another_through_dask() -> None:
    one: Int4Array = quantize_to_zarr(VALUES, MemoryStore(), chunks=(8, 10))
    check(quantize_to_zarr(one.to_dask(), MemoryStore(), chunks=(4, 30)), one[...])


def test_the_order_of_the_keys_in_memory_is_no_matter() -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, **JOB)
    assert {key.rpartition("/c/")[0] for key in memory_keys(store) if "/c/" in key} == {"data"}


@pytest.mark.parametrize("phase", ["scan", "write"])
def test_a_run_whose_place_another_job_took_stops_and_mixes_nothing_in(tmp_path: Path, phase: str) -> None:
    other = {**JOB, "scale_method": "absmax"}

    def overtake(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == (phase, 5):
            quantize_to_zarr(VALUES, tmp_path, **other, overwrite=True)

    with pytest.raises(StoreError, match="taken over by another job"):
        quantize_to_zarr(VALUES, tmp_path, **JOB, progress=overtake)
    check(open_int4(tmp_path), VALUES, scale_method="absmax")
    assert verify(tmp_path, source=VALUES).ok


@pytest.mark.parametrize("phase", ["scan", "write"])
def test_the_same_job_twice_at_once_is_harmless(tmp_path: Path, phase: str) -> None:
    def again(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == (phase, 5):
            quantize_to_zarr(VALUES, tmp_path / "twice", **JOB)

    check(quantize_to_zarr(VALUES, tmp_path / "twice", **JOB, progress=again), VALUES)
    quantize_to_zarr(VALUES, tmp_path / "once", **JOB)
    assert files(tmp_path / "twice") == files(tmp_path / "once")
