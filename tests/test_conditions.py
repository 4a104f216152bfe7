"""Object stores, which have no locks: writes by conditions keep what a run that was held up writes out of another's.

On a store in memory that takes conditions; `test_s3.py` has the same on a server.
"""

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
from stores import Died, check, expected, field
from zarr.storage import ObjectStore

from quantize import DamagedChunkError, StoreError, open_int4, quantize_dataset, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress
from quantize.store.below import Below
from quantize.store.conditions import OfObstore
from quantize.store.keys import Keys

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


class HeldUp:
    """A run in a thread of its own that is held up just before a change of its store, and may be killed just after.

    Changes are counted from 0. `run` gets the store, by which its changes are told from those of others.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        store: Any,
        at: int,
        run: Callable[[Any], Any],
        killed: bool = False,
    ) -> None:
        self.store, self.left, self.killed = store, at, killed
        self.change = ""  # the method that it is held up in
        self.waits, self.go = threading.Event(), threading.Event()
        for name in ("_put_if", "delete", "delete_all"):
            patch.setattr(Keys, name, self.watched(name, getattr(Keys, name)))
        self.pool = ThreadPoolExecutor(1)
        self.run: Future[Any] = self.pool.submit(run, store)
        self.run.add_done_callback(lambda _: self.waits.set())
        assert self.waits.wait(60)

    def watched(self, name: str, method: Any) -> Any:
        def change(keys: Keys, *arguments: Any) -> Any:
            store = keys.store
            while isinstance(store, Below):
                store = store._store
            if store is not self.store:
                return method(keys, *arguments)
            self.left -= 1
            if self.killed and self.left < -1:
                raise Died
            if self.left != -1:
                return method(keys, *arguments)
            self.change = name
            self.waits.set()
            assert self.go.wait(60)
            found = method(keys, *arguments)
            if self.killed:
                raise Died
            return found

        return change

    @property
    def deletes(self) -> bool:
        return self.change.startswith("delete")

    def end(self) -> None:
        """Let it go on to its end, which is not a good one."""
        self.go.set()
        with pytest.raises((Died, StoreError)):
            self.run.result(60)
        self.pool.shutdown()


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
@pytest.mark.parametrize(
    ("kind", "point"), combined([("one scale", "written in part"), ("one read", "sealed")], KINDS, POINTS)
)
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
@pytest.mark.parametrize("point", POINTS)
def test_a_collection_takes_nothing_of_a_run_that_was_held_up(
    monkeypatch: pytest.MonkeyPatch, point: str, killed: bool
) -> None:
    whole = MemoryStore()
    quantize_dataset(Tree(everything()), ObjectStore(whole), **OF_COLLECTION)

    def first(store: Any) -> None:
        quantize_dataset(Tree(everything(3)), store, **OF_COLLECTION)

    def second(store: Any, **more: Any) -> None:
        quantize_dataset(Tree(everything()), store, **OF_COLLECTION, **more)

    changes = 0
    while overtaken(monkeypatch, changes, killed, point, first, second, objects(whole)):
        changes += 1
    assert changes > 60
