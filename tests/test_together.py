"""Two runs into one variable at once: the same job ends right in both, another is refused and never mixed in."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import combined, mostly_slow, slow
from stores import check, expected, field
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from quantize import DamagedChunkError, StoreError, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress
from quantize.store.keys import Keys

VALUES = field((40, 30))
JOB: dict[str, Any] = {"chunks": (4, 10), "workers": 1}  # 30 units, each a batch


class Overtaken(LocalStore):
    """A folder in which something happens just as a key is being set, or listed, for the n-th time."""

    def __init__(self, root: Any, key: str, time: int, happens: Callable[[], Any]) -> None:
        super().__init__(root)
        self.key, self.left, self.happens = key, time, happens

    def _look(self, key: str) -> None:
        self.left -= key == self.key
        if not self.left and key == self.key:
            self.left = -1
            self.happens()

    async def set(self, key: str, value: Any) -> None:
        await asyncio.to_thread(self._look, key)
        await super().set(key, value)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        found = [key async for key in super().list_prefix(prefix)]
        await asyncio.to_thread(self._look, prefix)
        for key in found:
            yield key


OVERTAKEN = {
    "at a chunk": ("data/c/3/1", 1),
    "at statistics": ("data_scan/c/3", 1),
    "at the scale": ("data/zarr.json", 1),
    "at the list of chunks": ("data/c", 1),
    "at the seal": ("data/zarr.json", 2),
}


@pytest.mark.parametrize("stage", ["begun", "sealed"])
@pytest.mark.parametrize("place", mostly_slow(OVERTAKEN, ["at a chunk", "at the scale", "at the seal"]))
def test_between_a_look_and_a_write_another_job_takes_the_place(tmp_path: Path, place: str, stage: str) -> None:
    """Whatever lies between: what comes out is the other job's, or an error that is its too, never a mixture."""
    other = {**JOB, "scale_method": "absmax"}
    happened = []

    def overtake() -> None:
        def stop(event: Any) -> None:
            if stage == "begun" and isinstance(event, Progress) and event.phase == "write" and event.done >= 7:
                raise InterruptedError

        happened.append(True)
        with suppress(InterruptedError):
            quantize_to_zarr(VALUES, tmp_path, **other, overwrite=True, progress=stop)

    if place != "at the list of chunks":  # for the other waits from the look until the write is done
        thread = threading.Thread(target=overtake)
        begin, end = thread.start, thread.join
    else:
        begin, end = overtake, lambda: None
    with suppress(StoreError):
        quantize_to_zarr(VALUES, Overtaken(tmp_path, *OVERTAKEN[place], begin), **JOB)
    end()
    assert happened
    with suppress(StoreError):  # one of the two may have to be run again
        there = open_int4(tmp_path)
        np.testing.assert_array_equal(there[...], expected(VALUES, scale_method="absmax")[1])
    array = quantize_to_zarr(VALUES, tmp_path, **other, overwrite=True)
    check(array, VALUES, scale_method="absmax")
    assert verify(tmp_path, source=VALUES).ok


@pytest.mark.parametrize("delay", mostly_slow(range(20), range(0, 20, 2)))
def test_two_threads_at_once(tmp_path: Path, delay: int) -> None:
    """The same job, begun as the other comes to one of its first changes."""
    job = {"chunks": (8, 10), "workers": 2}
    begun = threading.Event()

    class Announcing(LocalStore):
        changes = 0

        async def set(self, key: str, value: Any) -> None:
            type(self).changes += 1
            if self.changes >= delay:
                begun.set()
            await super().set(key, value)

    def second() -> Any:
        begun.wait(60)
        return quantize_to_zarr(VALUES, tmp_path, **job)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(second)
        try:
            first = quantize_to_zarr(VALUES, Announcing(tmp_path), **job)
        finally:
            begun.set()
        for array in (first, other.result()):
            check(array, VALUES)
    assert verify(tmp_path, source=VALUES).ok
    assert not list(tmp_path.glob("data_*"))


class CreatedByAnother(WrapperStore[Store]):
    """A store in which another run does all of the job just before a prefix is listed for the first time."""

    def __init__(self, store: Store, prefix: str, other: Callable[[], Any]) -> None:
        super().__init__(store)
        self.prefix, self.others = prefix, [other]

    async def is_empty(self, prefix: str) -> bool:
        if prefix == self.prefix and self.others:
            await asyncio.to_thread(self.others.pop())
        return await super().is_empty(prefix)


@pytest.mark.parametrize("prefix", ["", "data", "data_scan"])
def test_another_run_creates_the_variable_while_this_one_looks_at_the_place(prefix: str) -> None:
    memory = MemoryStore()
    store = CreatedByAnother(memory, prefix, lambda: quantize_to_zarr(VALUES, memory, **JOB))
    quantize_to_zarr(VALUES, store, **JOB)
    assert not store.others
    check(open_int4(memory), VALUES)


RUN = "import sys; from quantize.cli import main; main()"


@pytest.mark.parametrize("second", ["minmax", slow("absmax")])
def test_two_processes_at_once(tmp_path: Path, second: str) -> None:
    """The same job twice ends right in both; of two different ones the second to come is refused."""
    np.save(tmp_path / "x.npy", VALUES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = []
    for method in ("minmax", second):
        job = ["run", tmp_path / "x.npy", tmp_path / "z", "--chunks", "4,10", "--scale-method", method]
        command = [sys.executable, "-c", RUN, *map(str, job)]
        children.append(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
    said = [child.communicate(timeout=60)[1].decode() for child in children]
    codes = sorted(child.returncode for child in children)
    assert codes == ([0, 0] if second == "minmax" else [0, 2]), "\n".join(said)
    if second != "minmax":
        assert "of another job: --scale-method was" in "".join(said)
    array = open_int4(tmp_path / "z")
    check(array, VALUES, scale_method=array.metadata.rule.method.name)
    assert verify(tmp_path / "z", source=VALUES).ok


# Held up between a look and a write ---------------------------------------------------------------------------------

HELD = """
import sys
import numpy as np
from quantize import quantize_to_zarr
from quantize.store.keys import LocalKeys

folder, job, where = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
written = LocalKeys._set

def held(self, key, data):
    if key != where:
        return written(self, key, data)
    for step in ("looked", "wrote"):
        print(step, flush=True)
        sys.stdin.readline()
        if step == "looked":
            written(self, key, data)

LocalKeys._set = held
quantize_to_zarr(np.load(folder + "/x.npy"), folder + "/z", **job)
"""


class Held:
    """A process that writes into a store, held up just before and just after it sets a key."""

    def __init__(self, folder: Path, values: np.ndarray, key: str, **job: Any) -> None:
        np.save(folder / "x.npy", values)
        command = [sys.executable, "-c", HELD, str(folder), repr(job), key]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.until("looked")

    def until(self, step: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{step}\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """What it says on its way out."""
        return self.process.communicate("\n\n", timeout=60)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


OTHER = field((40, 30), seed=1) * 100
HELD_AT = {
    "a chunk": ("data/c/3/1", {}),
    "a shard": ("data/c/1/0", {"chunks": (4, 10), "shards": (8, 30)}),
    "a chunk of one pass": ("data/c/3/0", {"chunks": (4, 30), "axis": 0}),
    "scales of one pass": ("data_scale/c/3", {"chunks": (4, 30), "axis": 0}),
    "scales of two passes": ("data_zero_point/c/1", {"axis": 0}),
    "scales of blocks": ("data/.int4/zero_point/c/3/0", {"chunks": (4, 30), "blocks": (1, 10)}),
    "a chunk of blocks": ("data/c/3/0", {"chunks": (4, 30), "blocks": (1, 10)}),
    "statistics": ("data_scan/c/3", {}),
    "a histogram": ("data_histogram/c/0", {"scale_method": "mse"}),
    "the metadata": ("data/zarr.json", {}),
}


@pytest.mark.parametrize(
    ("place", "killed"), combined([("a chunk", True)], HELD_AT, [False, True]), ids=lambda value: str(value)
)
def test_a_run_held_up_between_a_look_and_a_write_puts_nothing_into_a_sealed_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, killed: bool
) -> None:
    """Whoever overwrites waits for that write, and no longer than its process lives."""
    key, options = HELD_AT[place]
    job = {**JOB, **options}
    held = Held(tmp_path, OTHER, key, **job)
    waits = threading.Event()
    monkeypatch.setattr("quantize.store.files.time.sleep", lambda pause: waits.set())
    with ThreadPoolExecutor() as pool:
        try:
            run = pool.submit(quantize_to_zarr, VALUES, tmp_path / "z", **job, overwrite=True)
            run.add_done_callback(lambda _: waits.set())
            assert waits.wait(60)
            held.go_on()
            held.until("wrote")
            with suppress(StoreError):
                found = open_int4(tmp_path / "z")[...]
                np.testing.assert_array_equal(found, quantize_to_zarr(VALUES, tmp_path / "right", **job)[...])
            if killed:
                held.kill()
            else:
                assert "was taken over by another job" in held.end()
        finally:
            held.kill()
        array = run.result()
    np.testing.assert_array_equal(array[...], quantize_to_zarr(VALUES, tmp_path / "right", **job)[...])
    assert verify(tmp_path / "z", source=VALUES).ok


@pytest.mark.parametrize("prefix", ["", "data"], ids=["group", "variable"])
def test_a_run_that_stands_still_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    quantize_to_zarr(OTHER, tmp_path, **JOB)
    monkeypatch.setattr("quantize.store.files.LOCK_TOLD", 0.0)
    monkeypatch.setattr("quantize.store.files.LOCK_WAIT", 0.1)
    message = re.escape(f"{tmp_path / prefix} has been locked for 0 s by another run, ") + ".*fuser.* run again"
    with Keys.of(tmp_path).locked(prefix, shared=True), pytest.raises(StoreError, match=message):
        quantize_to_zarr(VALUES, tmp_path, **JOB, overwrite=True)
    assert "waiting for another run that has locked" in caplog.text
    check(quantize_to_zarr(VALUES, tmp_path, **JOB, overwrite=True), VALUES)


def test_who_waits_for_a_lock_on_a_folder_that_goes_locks_the_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys.of(tmp_path)
    (tmp_path / "data").mkdir()
    first = keys.locked("data")
    first.__enter__()

    def replace(pause: float) -> None:
        monkeypatch.undo()
        (tmp_path / "data").rename(tmp_path / "gone")
        (tmp_path / "data").mkdir()
        first.__exit__(None, None, None)

    monkeypatch.setattr("quantize.store.files.time.sleep", replace)
    monkeypatch.setattr("quantize.store.files.LOCK_WAIT", 0.1)
    with keys.locked("data", shared=True) as locked, keys.locked("data", shared=True) as too:
        assert locked
        assert too
        monkeypatch.setattr("quantize.store.files.LOCK_WAIT", 0.1)
        with pytest.raises(StoreError, match="has been locked"), keys.locked("data"):
            pass
    with keys.locked("absent") as locked:
        assert not locked


@pytest.mark.parametrize("place", mostly_slow(["deleted", "marked"], ["deleted"]))
def test_of_two_that_overwrite_the_one_held_up_takes_no_chunk_of_the_other(tmp_path: Path, place: str) -> None:
    """It finds that its mark is gone, however far the other has come."""
    quantize_to_zarr(OTHER, tmp_path, **JOB)
    first = {**JOB, "scale_method": "absmax"}
    others = [lambda: quantize_to_zarr(VALUES, tmp_path, **JOB, overwrite=True)]

    class HeldUp(LocalStore):
        async def delete_dir(self, prefix: str) -> None:
            if place == "deleted":
                await super().delete_dir(prefix)
            if prefix == "data/c" and others:
                await asyncio.to_thread(others.pop())
            if place == "marked":
                await super().delete_dir(prefix)

    with pytest.raises(StoreError, match="taken over by another job while this one was overwriting it"):
        quantize_to_zarr(OTHER, HeldUp(tmp_path), **first, overwrite=True)
    assert not others
    with suppress(DamagedChunkError):
        np.testing.assert_array_equal(open_int4(tmp_path)[...], expected(VALUES)[1])
    check(quantize_to_zarr(OTHER, tmp_path, **first, overwrite=True), OTHER, scale_method="absmax")
