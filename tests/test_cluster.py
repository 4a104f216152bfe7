"""On a cluster of processes the bytes are those of threads; what lives in this process stays in it, and it is said."""

import contextlib
import importlib
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import dask.array
import distributed
import h5py
import numpy as np
import pytest
import zarr
from marks import mostly_slow, slow
from stores import Counting, check, field, files
from zarr.storage import MemoryStore

from quantize import (
    RefusedValuesError,
    UnfinishedStoreError,
    WorkersError,
    __version__,
    measure_error,
    open_int4,
    plan,
    quantize_dataset,
    quantize_to_zarr,
)
from quantize.quality.verify import verify
from quantize.reading.restore import restore
from quantize.runtime.connection import current_client
from quantize.runtime.schedulers import Task, run_tasks

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


@pytest.mark.parametrize("name", mostly_slow(SOURCES, ["npy"]))
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


def damaged(store: Path, *keys: str) -> Path:
    """A copy of a store, some of whose files have a bit of their middle the other way round."""
    copy = store.with_name("damaged")
    shutil.copytree(store, copy)
    for key in keys:
        data = bytearray((copy / key).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / key).write_bytes(data)
    return copy


@dataclass(frozen=True)
class Stored:
    """A store and its source, a copy with damage, and what threads make of them."""

    source: Path
    store: Path
    damaged: Path
    found: list[Any]
    floats: dict[str, bytes]

    def read(self) -> list[Any]:
        changed = self.source.with_name("changed.npy")
        return [
            verify(self.store),
            verify(self.damaged, source=changed),
            measure_error(changed, self.store),
        ]


@pytest.fixture
def read_by_threads(tmp_path: Path) -> Stored:
    assert current_client() is None
    source, store = npy(tmp_path), tmp_path / "z"
    changed = VALUES.copy()
    changed[30:50, 3] += 50
    np.save(tmp_path / "changed.npy", changed)
    quantize_to_zarr(source, store, **JOB, axis=0)
    broken = damaged(store, "data/c/0/1", "data_scale/c/2", "zarr.json")
    stored = Stored(source, store, broken, [], {})
    restore(store, tmp_path / "threads.zarr")
    found = stored.read()
    assert (len(found[1].damaged), len(found[1].differing)) == (3, 2)
    return replace(stored, found=found, floats=files(tmp_path / "threads.zarr"))


@pytest.mark.slow
def test_a_cluster_finds_measures_and_restores_what_threads_do(
    read_by_threads: Stored, client: distributed.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("quantize.store.chunks.ChunkReader.read", lambda *_: pytest.fail("is for the workers to do"))
        assert read_by_threads.read() == read_by_threads.found
        restore(read_by_threads.store, tmp_path / "cluster.zarr")
    assert files(tmp_path / "cluster.zarr") == read_by_threads.floats
    restore(read_by_threads.store, tmp_path / "one.npy")  # which this process writes alone
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), open_int4(read_by_threads.store)[...])
    chunked = dask.array.from_array(VALUES, chunks=(50, 30))  # whose graph is the cluster's, and the rest is not
    assert verify(read_by_threads.store, source=chunked).ok
    assert measure_error(chunked, read_by_threads.store).within_bound


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


@pytest.mark.slow
def test_no_more_tasks_run_than_a_budget_leaves_workers(client: distributed.Client, tmp_path: Path) -> None:
    done: list[int] = []
    tasks = (Task([number], (str(tmp_path), number)) for number in range(12))
    run_tasks(alone, tasks, lambda task, result: done.append(result), "distributed", 1, threading.Event())
    assert sorted(done) == list(range(12))
    tasks = (Task([number], (str(tmp_path), number)) for number in range(40))
    with pytest.raises(FileExistsError):  # two at a time do meet
        run_tasks(alone, tasks, lambda task, result: None, "distributed", 2, threading.Event())


# Workers that cannot do the job, die or hang --------------------------------------------------------------------------


def one_worker(client: distributed.Client) -> str:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])[0]


@pytest.fixture
def patched(client: distributed.Client) -> Iterator[Any]:
    """Sets an attribute of a module on one worker, and back again."""
    undo = []

    def patch(module: str, name: str, value: Any) -> str:
        worker = one_worker(client)

        def swap(new: Any) -> Any:
            *path, last = name.split(".")
            owner = importlib.import_module(module)
            for part in path:
                owner = getattr(owner, part)
            old = getattr(owner, last)
            setattr(owner, last, new)
            return old

        old = client.run(swap, value, workers=[worker])[worker]
        undo.append(lambda: client.run(swap, old, workers=[worker]))
        return worker

    yield patch
    for one in undo:
        one()


def test_a_worker_of_another_version_is_refused(client: distributed.Client, patched: Any, tmp_path: Path) -> None:
    worker = patched("quantize.runtime.cluster", "__version__", "0.0.9")
    source = npy(tmp_path)
    with pytest.raises(
        WorkersError, match=rf"worker {worker} has quantize 0.0.9, and this process {__version__}\. Install"
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert not (tmp_path / "z").exists()


def test_a_worker_that_does_not_find_the_source_is_refused(
    client: distributed.Client, patched: Any, tmp_path: Path
) -> None:
    def lost(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "x.npy")

    source = npy(tmp_path)
    worker = patched("quantize.io.formats.npy", "FileSource.read", lost)
    with pytest.raises(
        WorkersError, match=rf"worker {worker} cannot do the job: FileNotFoundError.*x.npy.*shared folders"
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert not (tmp_path / "z").exists()


def test_a_worker_that_does_not_see_the_destination_is_refused(
    client: distributed.Client, patched: Any, tmp_path: Path
) -> None:
    source = npy(tmp_path)
    worker = patched("quantize.storage", "Variable.metadata", lambda self: None)
    with pytest.raises(WorkersError, match=rf"worker {worker} has not the .*z/data that this.*shared folders"):
        quantize_to_zarr(source, tmp_path / "z", **JOB)


@pytest.mark.parametrize(
    ("place", "missing"), [(("quantize.storage", "Variable.metadata"), "z/data"), (("genericpath", "isdir"), "partial")]
)
def test_a_worker_that_does_not_see_what_is_restored_is_refused(
    client: distributed.Client, patched: Any, tmp_path: Path, place: tuple[str, str], missing: str
) -> None:
    quantize_to_zarr(VALUES, tmp_path / "z", **JOB)
    worker = patched(*place, lambda *_: None)
    with pytest.raises(WorkersError, match=rf"worker {worker} has not the .*{missing} that this.*shared folders"):
        restore(tmp_path / "z", tmp_path / "floats.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["z"]


class Deadly(distributed.WorkerPlugin):
    """Lets the workers die as they read some chunks, so often each; files tell all processes how often they have."""

    def __init__(self, folder: Path, way: str, times: int) -> None:
        self.folder, self.way, self.times = folder, way, times

    def setup(self, worker: Any) -> None:
        from quantize.runtime.units import Units

        for name, kept in (("scan", self.times // 2), ("pack", 0)):  # the first half of the deaths is for pass 1
            setattr(Units, name, self.deadly(getattr(Units, name), kept))

    def deadly(self, method: Any, kept: int) -> Any:
        def dying(units: Any, number: int, *arguments: Any) -> Any:
            region = units.layout.units.region(number)
            if region[0].start == 35:
                marks = [self.folder / f"{region[1].start}-{number}" for number in range(self.times)]
                left = [mark for mark in marks if not mark.exists()]
                if len(left) > kept:
                    left[0].touch()
                    os.kill(os.getpid(), signal.SIGSEGV) if self.way == "segfault" else sys.exit(3)
            return method(units, number, *arguments)

        return dying


def on_deadly_workers(source: Path, folder: Path, way: str, times: int) -> int:
    """Run the job on workers that die; how often they did."""
    (folder / "deaths").mkdir()
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),  # or it gives up those that die again
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(Deadly(folder / "deaths", way, times))
        quantize_to_zarr(source, folder / "z", **JOB)
    return len(list((folder / "deaths").iterdir()))


@pytest.mark.parametrize("way", ["segfault", "exit"])
@pytest.mark.slow
def test_workers_that_die_in_both_passes_cost_no_byte(on_threads: dict[str, bytes], tmp_path: Path, way: str) -> None:
    assert on_deadly_workers(npy(tmp_path), tmp_path, way, times=2) == 6
    assert files(tmp_path / "z") == on_threads


@pytest.mark.slow
def test_workers_that_always_die_end_the_run(on_threads: dict[str, bytes], tmp_path: Path) -> None:
    source = npy(tmp_path)
    with pytest.raises(WorkersError, match="workers died again and again while they had the chunks from number"):
        on_deadly_workers(source, tmp_path, "segfault", times=1000)
    quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert files(tmp_path / "z") == on_threads


@pytest.mark.parametrize("patient", [False, slow(True)])
def test_a_cluster_without_workers_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, patient: bool
) -> None:
    """The run waits for new ones, or ends where Dask was told how long to wait."""
    monkeypatch.setattr("quantize.runtime.schedulers.PATIENCE", 0.4)
    setting = {"distributed.scheduler.no-workers-timeout": None if patient else "1s"}
    source = npy(tmp_path)
    with (
        dask.config.set(setting),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=False) as cluster,
        distributed.Client(cluster) as client,
    ):

        class Hiring(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if patient and "no workers left" in record.getMessage():
                    cluster.scale(1)

        def leave(event: Any) -> None:
            if getattr(event, "phase", "") == "write" and event.done == 0:
                cluster.scale(0)
                while client.scheduler_info()["workers"]:
                    pass

        handler = Hiring()
        logging.getLogger("quantize").addHandler(handler)
        ended = pytest.raises(WorkersError, match="had no workers for 1 s, as long as its setting")
        try:
            with contextlib.nullcontext() if patient else ended:
                quantize_to_zarr(source, tmp_path / "z", **JOB, progress=leave)
        finally:
            logging.getLogger("quantize").removeHandler(handler)
    assert not patient or "The cluster has no workers left: the run goes on once it has some" in caplog.text
    check(quantize_to_zarr(source, tmp_path / "z", **JOB), VALUES)


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_of(
    client: distributed.Client,
    on_threads: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stopped as by a debugger or a file system that does not answer, and goes on once that was said."""
    monkeypatch.setattr("quantize.runtime.schedulers.PATIENCE", 0.4)
    pids = client.run(os.getpid)
    worker = one_worker(client)
    source = npy(tmp_path)

    class Waking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if f"{worker} (" in record.getMessage():
                os.kill(pids[worker], signal.SIGCONT)

    def hang(event: Any) -> None:
        if getattr(event, "phase", "") == "write" and event.done == 0:
            os.kill(pids[worker], signal.SIGSTOP)

    handler = Waking()
    logging.getLogger("quantize").addHandler(handler)
    try:
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=hang)
    finally:
        logging.getLogger("quantize").removeHandler(handler)
        os.kill(pids[worker], signal.SIGCONT)
    assert any(
        re.fullmatch(
            rf"nothing was done for \d+ s.*Waiting for .*{worker} \(\d+ tasks, heard of \d+ s ago\).*", message
        )
        for message in caplog.messages
    )
    assert files(tmp_path / "z") == on_threads


@pytest.mark.slow
def test_a_cluster_writes_the_bytes_of_threads_for_collections(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What other processes can read they copy and quantize; what lives in this one stays in it."""
    group = zarr.create_group(tmp_path / "source.zarr")
    group.create_group("deep", attributes={"note": "x"})
    for number in range(20):
        values = field((40, 30), seed=number)
        values[7, 8] = np.nan if number % 3 == 0 else 0
        group.create_array(f"deep/w{number}", data=values, chunks=(10, 30))
        group.create_array(f"b{number}", data=np.arange(100) + number, chunks=(7,))
    in_memory = {name: array[...] for name, array in group.members(max_depth=None) if isinstance(array, zarr.Array)}
    job: dict[str, Any] = {"select": "*w*", "rules": {"*w*": {"chunks": (10, 30)}, "*w?": {"blocks": (1, 10)}}}
    quantize_dataset(tmp_path / "source.zarr", tmp_path / "threads", **job)
    quantize_dataset(in_memory, tmp_path / "threads in memory", **job)
    request.getfixturevalue("client")
    plans: list[Any] = []
    found = quantize_dataset(tmp_path / "source.zarr", tmp_path / "cluster", **job, progress=plans.append)
    assert plans[0].scheduler == "distributed"
    assert len(found.quantized) == 20
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")
    quantize_dataset(in_memory, tmp_path / "cluster in memory", **job)
    assert files(tmp_path / "cluster in memory") == files(tmp_path / "threads in memory")
