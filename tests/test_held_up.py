"""Object stores, which have no locks: writes by conditions keep what a run that was held up writes out of another's.

On a store in memory that takes conditions; `test_s3.py` has the same on a server.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import obstore
import pytest
import tenacity
from collections_of_arrays import JOB as OF_COLLECTION
from collections_of_arrays import Tree, everything
from marks import combined, mostly_slow, slow
from obstore.store import MemoryStore
from stores import HeldUp, check, expected, field
from zarr.storage import ObjectStore

from quantize import StoreError, open_int4, quantize_dataset, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress
from quantize.store.conditions import OfObstore

VALUES, OTHER = field((8, 6)), field((8, 6), seed=1) * 100
KINDS: dict[str, dict[str, Any]] = {
    "one scale": {},
    "one read": {"axis": 0},
    "a histogram": {"axis": 1, "scale_method": "mse"},
    "blocks in shards": {"chunks": (2, 6), "shards": (4, 6), "blocks": (1, 3)},
    "with verify": {"verify": True},
}
POINTS = {  # of the run that overwrites, as it tells its progress
    "claimed": lambda event: True,
    "written in part": lambda event: event.phase == "write" and event.done == 1,
    "written": lambda event: event.phase == "write" and event.done == event.total,
    "sealed": lambda event: False,
}

LEFTOVER = re.compile(r"(_|\.int4/)(scan|histogram)/")  # of pass 1: read by nobody once a variable is sealed


def job_of(kind: str) -> dict[str, Any]:
    return {"chunks": (4, 6), "workers": 1, **KINDS[kind]}


def objects(store: MemoryStore) -> dict[str, bytes]:
    """Every key of a store and what it holds."""
    found = [item["path"] for batch in obstore.list(store) for item in batch]
    return {key: bytes(obstore.get(store, key).bytes()) for key in found}


# A run held up while another takes its place -----------------------------------------------------------------------


def overtaken(
    patch: pytest.MonkeyPatch, at: int, killed: bool, point: str, first: Callable[[Any], Any], second: Any, right: Any
) -> bool:
    """Hold up a run at a change until another that overwrites is at a point: what comes out is that one's, bit for bit.

    But where it was held up in deleting, which may take away what the other has written. False if there are not so many
    changes.
    """
    store = MemoryStore()
    with patch.context() as patching:
        held = HeldUp(patching, ObjectStore(store), at, first, killed)
        if held.run.done():
            held.pool.shutdown()
            return False

        def progress(event: Any) -> None:
            if isinstance(event, Progress) and POINTS[point](event) and not held.go.is_set():
                held.end()

        try:
            second(ObjectStore(store), overwrite=True, progress=progress)
        except StoreError:
            assert held.deletes
        held.end()
    if held.deletes:
        found = {key: data for key, data in objects(store).items() if not key.endswith("zarr.json")}
        assert found.items() <= right.items()
        return True
    found = objects(store)
    left = {key: data for key, data in found.items() if not LEFTOVER.search(key)}
    assert left == right
    assert killed or left == found
    return True


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize(("kind", "point"), combined([("one scale", "written in part")], KINDS, POINTS))
def test_a_run_held_up_at_any_change_puts_nothing_into_what_another_makes(
    monkeypatch: pytest.MonkeyPatch, kind: str, point: str, killed: bool
) -> None:
    job, whole = job_of(kind), MemoryStore()
    quantize_to_zarr(VALUES, ObjectStore(whole), **job)

    def first(store: Any) -> None:
        quantize_to_zarr(OTHER, store, **job)

    def second(store: Any, **more: Any) -> None:
        quantize_to_zarr(VALUES, store, **job, **more)

    changes = 0
    while overtaken(monkeypatch, changes, killed, point, first, second, objects(whole)):
        changes += 1
    assert changes > 8


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize("point", ["written in part", "sealed"])
def test_a_collection_takes_nothing_of_a_run_that_was_held_up(
    monkeypatch: pytest.MonkeyPatch, point: str, killed: bool
) -> None:
    whole = MemoryStore()
    quantize_dataset(Tree(everything()), ObjectStore(whole), **OF_COLLECTION)

    def first(store: Any) -> None:
        quantize_dataset(Tree(everything(3)), store, **OF_COLLECTION)

    def second(store: Any, **more: Any) -> None:
        quantize_dataset(Tree(everything()), store, **OF_COLLECTION, **more)

    changes = int(killed)
    while overtaken(monkeypatch, changes, killed, point, first, second, objects(whole)):
        changes += 2
    assert changes > 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_held_up_leaves_is_gone_before_one_that_was_stopped_goes_on(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It sees after its write that it has lost the place, and takes back what it wrote into it."""
    job, whole = job_of(kind), MemoryStore()
    quantize_to_zarr(VALUES, ObjectStore(whole), **job)

    def stop(event: Any) -> None:
        if isinstance(event, Progress) and POINTS["written in part"](event):
            raise InterruptedError

    for at in range(100):
        store = MemoryStore()
        with monkeypatch.context() as patching:
            held = HeldUp(patching, ObjectStore(store), at, lambda place: quantize_to_zarr(OTHER, place, **job))
            if held.run.done():
                break
            with suppress(InterruptedError):
                quantize_to_zarr(VALUES, ObjectStore(store), **job, overwrite=True, progress=stop)
            held.end()
        if not held.deletes:
            quantize_to_zarr(VALUES, ObjectStore(store), **job)
            assert objects(store) == objects(whole)
    assert at > 8


@pytest.mark.slow
def test_what_one_that_was_killed_too_has_left_is_found_by_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window that is left: it is killed just after its write, and the one whose place that was in was stopped."""
    job = {**job_of("one scale"), "value_range": (-300, 300)}

    def run(place: Any) -> None:
        quantize_to_zarr(OTHER, place, **job)

    def stop(event: Any) -> None:
        if isinstance(event, Progress) and event.phase == "write":
            raise InterruptedError

    found = []
    for at in range(100):
        store = MemoryStore()
        with monkeypatch.context() as patching:
            held = HeldUp(patching, ObjectStore(store), at, run, killed=True)
            if held.run.done():
                break
            with suppress(InterruptedError):
                quantize_to_zarr(VALUES, ObjectStore(store), **job, overwrite=True, progress=stop)
            held.end()
        if held.deletes:
            continue
        quantize_to_zarr(VALUES, ObjectStore(store), **job)
        found.append(verify(ObjectStore(store), source=VALUES).ok)
    assert found.count(False) == 2  # chunks


# Deaths, answers that are lost, races --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "overwrite"), combined([("one scale", False)], KINDS, [False, True]))
def test_a_death_after_any_change_is_mended(monkeypatch: pytest.MonkeyPatch, kind: str, overwrite: bool) -> None:
    job, whole = job_of(kind), MemoryStore()
    quantize_to_zarr(VALUES, ObjectStore(whole), **job)

    def run(place: Any) -> None:
        quantize_to_zarr(VALUES, place, **job, overwrite=overwrite)

    for at in range(100):
        store = MemoryStore()
        if overwrite:
            quantize_to_zarr(OTHER, ObjectStore(store), **job)
        with monkeypatch.context() as patching:
            held = HeldUp(patching, ObjectStore(store), at, run, killed=True)
            if held.run.done():
                break
            held.end()
        run(ObjectStore(store))
        assert objects(store) == objects(whole)
    assert at > 8


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("kind", mostly_slow(KINDS, ["one read"]))
def test_writes_whose_answers_are_lost_count_as_written(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    whole, store = MemoryStore(), MemoryStore()
    quantize_to_zarr(VALUES, ObjectStore(whole), **job_of(kind))
    put, answers = OfObstore.put, dict.fromkeys(["lost", "given"], 0)

    async def losing(self: OfObstore, key: str, data: bytes, tag: Any) -> Any:
        found = await put(self, key, data, tag)
        if found is not None:
            answers["lost"] += 1
            raise TimeoutError
        answers["given"] += 1
        return found

    quantize_to_zarr(OTHER, ObjectStore(store), **job_of(kind))
    monkeypatch.setattr(OfObstore, "put", losing)
    quantize_to_zarr(VALUES, ObjectStore(store), **job_of(kind), overwrite=True)
    assert objects(store) == objects(whole)
    assert answers["lost"] == answers["given"] > 5


@pytest.mark.parametrize("rounds", [2, slow(60)])
def test_jobs_that_race_leave_one_of_them_whole(rounds: int) -> None:
    """Of two that overwrite at once one may have to be run again; what is read is that of one."""
    job = {**job_of("one scale"), "chunks": (2, 6)}
    right = {"minmax": expected(VALUES)[1], "absmax": expected(VALUES, scale_method="absmax")[1]}
    for _ in range(rounds):
        store = MemoryStore()

        def run(method: str, store: MemoryStore = store) -> None:
            with suppress(StoreError):
                quantize_to_zarr(VALUES, ObjectStore(store), **job, scale_method=method, overwrite=True)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, [*right, *right]))
        with suppress(StoreError):
            array = open_int4(ObjectStore(store))
            np.testing.assert_array_equal(array[...], right[array.metadata.rule.method.name])
        run("minmax")
        check(open_int4(ObjectStore(store)), VALUES)


def test_the_same_job_at_once_ends_right_in_all() -> None:
    store, job = MemoryStore(), {**job_of("one scale"), "chunks": (2, 6)}
    with ThreadPoolExecutor(3) as pool:
        for array in pool.map(lambda _: quantize_to_zarr(VALUES, ObjectStore(store), **job), range(3)):
            check(array, VALUES)
    assert verify(ObjectStore(store), source=VALUES).ok
