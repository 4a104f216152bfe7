"""Two runs into one variable at once: the same job ends right in both, another is refused and never mixed in."""

import asyncio
import os
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
from marks import mostly_slow, slow
from stores import check, expected, field
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from quantize import StoreError, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress

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

    if place in ("at the scale", "at the seal"):  # these look and write alone, so that the other has to wait
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
    check(array, VALUES, scale_method=array.metadata.scale_method)
    assert verify(tmp_path / "z", source=VALUES).ok
