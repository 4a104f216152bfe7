"""What the tests out of core share: what a result must be, stores that watch or fail, folders as bytes."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from quantize import StoreError, dequantize_from_packed_int4, open_int4, quantize_to_packed_int4, quantize_to_zarr
from quantize.store.below import Below
from quantize.store.keys import Keys


def expected(values: np.ndarray, dtype: Any = None, **options: Any) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Packed bytes, floats, scale and zero point of the functions in memory, to which a store is held bit for bit."""
    packed, scale, zero_point, size, nan_code = quantize_to_packed_int4(values, **options)
    dtype = dtype or values.dtype.newbyteorder("=")
    floats = dequantize_from_packed_int4(packed, scale, zero_point, size=size, nan_code=nan_code, dtype=dtype)
    return packed.view(np.uint8), floats, scale, zero_point


def check(array: Any, values: np.ndarray, **options: Any) -> None:
    """Hold an `Int4Array` to the functions in memory: codes, scale, floats, bit for bit."""
    packed, floats, scale, zero_point = expected(np.asarray(values), **options)
    assert (array.scale, array.zero_point) == (scale, zero_point)
    assert (array.shape, array.dtype) == (values.shape, floats.dtype)
    np.testing.assert_array_equal(array.packed[...], packed)
    assert array[...].tobytes() == floats.tobytes()


def field(shape: tuple[int, ...] = (37, 29), dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 30, shape).astype(dtype)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def memory_keys(store: zarr.storage.MemoryStore) -> set[str]:
    return set(store._store_dict)


# Ways to store values of shape (17, 9, 7): one chunk, many, in shards, and by several workers.
JOBS: list[dict[str, Any]] = [
    {},
    {"chunks": (5, 4, 4)},
    {"chunks": (2, 3, 4), "shards": (6, 9, 4), "compressors": None},
    {"chunks": (17, 2, 7), "workers": 3},
]


def interrupted(values: np.ndarray, store: Any, **job: Any) -> None:
    """Begin a run that stops once pass 2 begins."""

    def progress(event: Any) -> None:
        if getattr(event, "phase", "") == "write":
            raise InterruptedError

    with suppress(InterruptedError):
        quantize_to_zarr(values, store, progress=progress, **job)


class Counting:
    """Anything with `shape`, `dtype` and ``__getitem__``; it notes what is read of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.read: list[tuple[slice, ...]] = []

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        self.read.append(index)
        return self.values[index]


class WatchedStore(LocalStore):
    """A folder that notes which keys are read and set."""

    def __init__(self, root: Any, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.got: list[str] = []
        self.put: list[str] = []

    async def get(self, key: str, *args: Any, **options: Any) -> Buffer | None:
        self.got.append(key)
        return await super().get(key, *args, **options)

    async def set(self, key: str, value: Buffer) -> None:
        self.put.append(key)
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self.put.append(key)
        await super().set_if_not_exists(key, value)


class Died(Exception):
    """The process of a `DyingStore` is no more."""


class DyingStore(LocalStore):
    """A folder whose process dies at its change number `at`: from then on nothing is changed or read.

    If `torn` it dies before the change is made, and leaves the temporary file of the write that it died in, as a kill
    does, or half of a folder undeleted. Else it dies once the change is made: that is before the next one.
    """

    def __init__(self, root: Any, at: int, torn: bool) -> None:
        super().__init__(root)
        self.left, self.torn = at, torn
        self.changed: list[str] = []

    @contextmanager
    def _change(self, key: str) -> Iterator[bool]:
        """Around a change; whether it is torn."""
        self.left -= 1
        if self.left < -1:
            raise Died
        yield self.torn and self.left == -1
        if self.left == -1:
            raise Died
        self.changed.append(key)

    def _tear(self, key: str, value: Buffer) -> None:
        path = (Path(self.root) / key).with_suffix(".0123456789abcdef0123456789abcdef.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes()[: len(value) // 2])

    async def get(self, *args: Any, **options: Any) -> Buffer | None:
        if self.left < 0:
            raise Died
        return await super().get(*args, **options)

    async def set(self, key: str, value: Buffer) -> None:
        with self._change(key) as torn:
            self._tear(key, value) if torn else await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._change(key) as torn:
            self._tear(key, value) if torn else await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        with self._change(key) as torn:
            if not torn:
                await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._change(prefix) as torn:
            if torn:
                paths = [path for path in sorted((Path(self.root) / prefix).rglob("*")) if path.is_file()]
                for path in paths[::2]:
                    path.unlink()
            else:
                await super().delete_dir(prefix)


class Held(LocalStore):
    """A folder in which something happens once, just before a key is set for the n-th time, or after all of it."""

    def __init__(self, root: Any, key: str, happens: Callable[[], Any], time: int = 1) -> None:
        super().__init__(root)
        self.key, self.happens, self.left = key, happens, time

    async def _look(self, key: str) -> None:
        self.left -= key == self.key
        if not self.left and key == self.key:
            self.left = -1
            await asyncio.to_thread(self.happens)

    async def set(self, key: str, value: Any) -> None:
        await self._look(key)
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        await self._look(key)
        await super().set_if_not_exists(key, value)


def mended_deaths(values: np.ndarray, folder: Path, torn: bool, **job: Any) -> int:
    """Let a job die at each change of the store in turn: it is refused, and run again ends in the same bytes.

    Only after the last change, which seals it, it is read, and right. The number of changes.
    """
    quantize_to_zarr(values, folder / "whole", **job)
    whole = files(folder / "whole")
    read: list[int] = []
    for at in range(100):
        shutil.rmtree(folder / "z", ignore_errors=True)
        store = DyingStore(folder / "z", at, torn)
        try:
            quantize_to_zarr(values, store, **job)
        except Died:
            try:
                found = open_int4(folder / "z")[...]
            except (StoreError, FileNotFoundError):
                pass
            else:
                assert found.tobytes() == open_int4(folder / "whole")[...].tobytes()
                read.append(at)
            quantize_to_zarr(values, folder / "z", **job)
            assert files(folder / "z") == whole, f"change {at}"
        else:
            assert set(whole) <= set(store.changed)
            assert read == ([] if torn else [at - 1])
            return at
    raise AssertionError("the job makes more than 100 changes")


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
        self.store, self.at, self.killed = store, at, killed
        self.changes: list[tuple[str, str]] = []  # the method and the key of each, up to the one that it is held up in
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
            if self.killed and len(self.changes) > self.at:
                raise Died
            self.changes.append((name, arguments[0]))
            if len(self.changes) != self.at + 1:
                return method(keys, *arguments)
            self.waits.set()
            assert self.go.wait(60)
            found = method(keys, *arguments)
            if self.killed:
                raise Died
            return found

        return change

    @property
    def deletes(self) -> bool:
        return self.changes[self.at][0] != "_put_if"

    def end(self) -> None:
        """Let it go on to its end, which is not a good one."""
        self.go.set()
        with pytest.raises((Died, StoreError)):
            self.run.result(60)
        self.pool.shutdown()


OVERWRITE = """
import itertools, sys
import numpy as np
from quantize import quantize_to_zarr
for values in itertools.cycle(np.load(sys.argv[1])):
    array = quantize_to_zarr(values, sys.argv[2], **eval(sys.argv[3]), overwrite=True)
    for _ in range(int(sys.argv[4])):
        array[...]
"""


def read_while_overwritten(
    values: list[np.ndarray], store: Any, folder: Path, times: int, rests: int = 0, **job: Any
) -> None:
    """One process overwrites a variable without end, this one reads: what comes is what was opened, or an error.

    Both come so many times. `store` is a path or a URL. The other `rests` each time for as long as so many reads take.
    """
    np.save(folder / "values.npy", np.stack(values))
    known = {}
    for one in values:
        array = quantize_to_zarr(one, MemoryStore(), **job)
        known[array.metadata.to_json()] = array[...]
    first = array = quantize_to_zarr(values[-1], store, **job)
    command = [sys.executable, "-c", OVERWRITE, str(folder / "values.npy"), str(store), repr({**job, "workers": 1})]
    command.append(str(rests))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment)
    read = {True: 0, False: 0}
    try:
        while min(read.values()) < times:
            assert process.poll() is None
            try:
                right = known[array.metadata.to_json()]
                np.testing.assert_array_equal(array[...], right)
                np.testing.assert_array_equal(array[3:9, 5], right[3:9, 5])
                read[True] += 1
            except StoreError:
                read[False] += 1
            with suppress(StoreError):
                array = first if read[False] % 3 == 0 else open_int4(store)
    finally:
        process.kill()
        process.wait()
