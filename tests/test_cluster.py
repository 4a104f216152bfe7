"""On a cluster of processes the bytes are those of threads; what lives in this process stays in it, and it is said."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import distributed
import h5py
import numpy as np
import pytest
import zarr
from stores import Counting, check, field, files
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, UnfinishedStoreError, open_int4, plan, quantize_to_zarr
from quantize.execution import Task, run_tasks
from quantize.restoring import restore, verify

VALUES = field((120, 30))
JOB: dict[str, Any] = {"chunks": (35, 10)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def on_threads(tmp_path: Path) -> dict[str, bytes]:
    quantize_to_zarr(VALUES, tmp_path / "threads", **JOB, workers=2)
    return files(tmp_path / "threads")


def npy(folder: Path) -> Any:
    np.save(folder / "x.npy", VALUES)
    return folder / "x.npy"


def stored(folder: Path) -> Any:
    zarr.create_array(folder / "x.zarr", data=VALUES, chunks=(16, 30))
    return folder / "x.zarr"


def hdf5(folder: Path) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(16, 30))
    return folder / "x.h5"


SOURCES = {
    "npy": npy,
    "memmap": lambda folder: np.load(npy(folder), mmap_mode="r")[:],
    "zarr": stored,
    "hdf5": hdf5,
    "dask": lambda folder: dask.array.from_zarr(stored(folder)),
    "uneven dask": lambda folder: dask.array.from_zarr(stored(folder)).rechunk((50, (3, 7, 20))),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_cluster_writes_the_bytes_of_threads(
    client: distributed.Client, on_threads: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    source = SOURCES[name](tmp_path)
    made = plan(source, tmp_path / "z", **JOB)
    assert (made.scheduler, made.workers) == ("distributed", 2)
    quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert {k: v for k, v in files(tmp_path / "z").items() if k != "data/zarr.json"} == {
        k: v for k, v in on_threads.items() if k != "data/zarr.json"
    }
    if "dask" not in name:
        assert files(tmp_path / "z") == on_threads
    check(open_int4(tmp_path / "z"), VALUES)


def test_a_run_on_threads_is_finished_on_a_cluster(
    client: distributed.Client, on_threads: dict[str, bytes], tmp_path: Path
) -> None:
    def progress(event: Any) -> None:
        if getattr(event, "phase", "") == "write" and event.done >= 4:
            raise InterruptedError

    source = npy(tmp_path)
    with pytest.raises(InterruptedError):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=progress)
    with pytest.raises(UnfinishedStoreError):
        open_int4(tmp_path / "z")
    quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert files(tmp_path / "z") == on_threads


def test_refused_values_come_back_as_they_are(client: distributed.Client, tmp_path: Path) -> None:
    values = VALUES.copy()
    values[77, 7] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(RefusedValuesError, match=r"1 NaN; the first refused value is at index \(77, 7\)"):
        quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", **JOB)
    assert not (tmp_path / "z").exists()
    with pytest.raises(RefusedValuesError, match=r"1 NaN.*stays unfinished"):
        quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", **JOB, value_range=(-100, 100))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_array_of_this_process_stays_in_it_and_it_is_said(
    client: distributed.Client, tmp_path: Path, workers: int
) -> None:
    for source in (VALUES, Counting(VALUES)):
        made = plan(source, tmp_path / "never", **JOB, workers=workers)
        assert (made.scheduler, made.workers) == ("threads", workers)
        assert any("source lives in this process" in note for note in made.notes)
        store = MemoryStore()
        check(quantize_to_zarr(source, store, **JOB, workers=workers), VALUES)
        found = verify(store, source=source, workers=workers)
        assert (found.ok, found.compared) == (True, True)
        changed = VALUES.copy()
        changed[0, 0] += 50
        assert verify(store, source=changed, workers=workers).differing == ("data/c/0/0",)


def test_a_destination_of_this_process_stays_in_it_and_it_is_said(client: distributed.Client, tmp_path: Path) -> None:
    source = npy(tmp_path)
    assert any("destination lives in this process" in note for note in plan(source, MemoryStore()).notes)
    store = MemoryStore()
    check(quantize_to_zarr(source, store, **JOB), VALUES)
    restore(store, tmp_path / "back.npy", workers=1)
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), open_int4(store)[...])


def test_a_result_is_read_on_a_cluster(client: distributed.Client, tmp_path: Path) -> None:
    array = quantize_to_zarr(VALUES, tmp_path / "z", **JOB)
    np.testing.assert_array_equal(array.to_dask().compute(), array[...])


@pytest.mark.parametrize("name", SOURCES)
def test_the_synchronous_scheduler_writes_the_bytes_of_threads(
    on_threads: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    source = SOURCES[name](tmp_path)
    with dask.config.set(scheduler="synchronous"):
        check(quantize_to_zarr(source, tmp_path / "z", **JOB), VALUES)
    assert set(files(tmp_path / "z")) == set(on_threads)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scheduler_of_processes_is_not_taken_for_what_lives_here(workers: int) -> None:
    with dask.config.set(scheduler="processes"):
        check(quantize_to_zarr(VALUES, MemoryStore(), **JOB, workers=workers), VALUES)


def alone(folder: str, number: int) -> int:
    """Some work, and an error if another task does its own at the same time."""
    busy = Path(folder) / "busy"
    busy.touch(exist_ok=False)
    np.sort(np.random.default_rng(number).random(1 << 20))
    busy.unlink()
    return number


def test_no_more_tasks_run_than_a_budget_leaves_workers(client: distributed.Client, tmp_path: Path) -> None:
    done: list[int] = []
    tasks = (Task([number], (str(tmp_path), number)) for number in range(12))
    run_tasks(alone, tasks, lambda task, result: done.append(result), "distributed", 1, threading.Event())
    assert sorted(done) == list(range(12))
    tasks = (Task([number], (str(tmp_path), number)) for number in range(40))
    with pytest.raises(FileExistsError):  # two at a time do meet
        run_tasks(alone, tasks, lambda task, result: None, "distributed", 2, threading.Event())
