"""A reader is bound to what it opened: whenever the variable is overwritten, it gives the old values or raises.

A store overwrites the variable at each of its own calls in turn, just before it answers and just after: so a reader is
held up at every point there is, for as long as the other needs.
"""

import asyncio
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import combined, mostly_slow
from stores import field, read_while_overwritten
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from quantize import (
    DamagedChunkError,
    Int4Array,
    StoreError,
    UnfinishedStoreError,
    measure_error,
    open_int4,
    quantize_to_zarr,
    restore,
)
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress

OLD = field((12, 16))
NEW = (field((12, 16), seed=1) * 100).astype(np.float32)  # other scales by far
OVERWRITTEN = "overwritten since it was opened; open it again"

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"chunks": (6, 8)},
    "shards": {"chunks": (3, 8), "shards": (6, 16)},
    "axis": {"chunks": (6, 8), "axis": 0},
    "axis and shards": {"chunks": (3, 8), "shards": (6, 16), "axis": 1, "scale_method": "mse"},
    "blocks": {"chunks": (6, 8), "blocks": (1, 4)},
    "blocks and shards": {"chunks": (3, 8), "shards": (6, 16), "blocks": (3, 4), "scale_method": "mse"},
}


class Overtaken:
    """A store that does something at its read number `at`, counted from 0, before or after it is answered."""

    at = -1
    late = False
    happens: Callable[[], Any] = staticmethod(lambda: None)
    reads = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Buffer | None:
        number, self.reads = self.reads, self.reads + 1
        if number == self.at and not self.late:
            await asyncio.to_thread(self.happens)
        found: Buffer | None = await super().get(key, *args, **options)  # type: ignore[misc]
        if number == self.at and self.late:
            await asyncio.to_thread(self.happens)
        return found

    def watch(self, at: int, late: bool, happens: Callable[[], Any]) -> None:
        self.reads, self.at, self.late, self.happens = 0, at, late, happens


class Folder(Overtaken, LocalStore): ...


class Memory(Overtaken, MemoryStore): ...


class Fsspec(Overtaken, FsspecStore): ...


def watched(kind: str, folder: Path) -> tuple[Any, Any]:
    """A store that can be overtaken, and the same without."""
    if kind == "folder":
        return Folder(folder / "x"), LocalStore(folder / "x")
    if kind == "memory":
        own: dict[str, Any] = {}
        return Memory(own), MemoryStore(own)
    return Fsspec.from_url(f"memory:/{folder}"), FsspecStore.from_url(f"memory:/{folder}")


def begun(values: np.ndarray, store: Any, **job: Any) -> None:
    """Overwrite a variable, and die in pass 2."""

    def stop(event: Any) -> None:
        if isinstance(event, Progress) and event.phase == "write" and event.done:
            raise InterruptedError

    with suppress(InterruptedError):
        quantize_to_zarr(values, store, **job, overwrite=True, progress=stop)


def read_or_refused(array: Int4Array, index: Any) -> np.ndarray | None:
    """What an index gives, None for the error that says that the variable was overwritten."""
    try:
        found: np.ndarray = array[index]
    except StoreError as error:
        if OVERWRITTEN not in str(error):
            raise
        return None
    return found


def check_refused(array: Int4Array) -> None:
    """See that nothing more can be read of an array."""
    for read in ("packed", *([] if array.metadata.granularity.single else ["scale", "zero_point", "max_error"])):
        with pytest.raises(StoreError, match=OVERWRITTEN):
            getattr(array, read)
    for index in (..., 0, (slice(3), -1)):
        with pytest.raises(StoreError, match=OVERWRITTEN):
            array[index]
        with pytest.raises(StoreError, match=OVERWRITTEN):
            array.codes(index)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("kind", "layout", "warm"),
    combined(
        [("folder", "shards", True)],
        ["folder", "memory", "fsspec"],
        LAYOUTS,
        [False, True],
    ),
)
def test_overwritten_at_any_read(tmp_path: Path, kind: str, layout: str, late: bool, warm: bool) -> None:
    """The old values if that was after the last look, else an error: and from then on an error."""
    job = {**LAYOUTS[layout], "workers": 1}
    store, plain = watched(kind, tmp_path)
    raised = 0
    for at in range(100):
        array = quantize_to_zarr(OLD, store, **job, overwrite=True)
        old = open_int4(plain)[...]
        if warm:
            array[:7]
        store.watch(at, late, lambda: quantize_to_zarr(NEW, plain, **job, overwrite=True))
        found = read_or_refused(array, np.s_[1:11, 3:13])
        if found is None:
            raised += 1
        else:
            np.testing.assert_array_equal(found, old[1:11, 3:13])
            assert store.reads <= at + 1, "only what came after the last look may have been read"
        if store.reads <= at:
            break
        check_refused(array)
    assert raised > 1


@pytest.mark.parametrize(
    ("kind", "layout"),
    combined([], ["folder", "memory"], LAYOUTS),
)
def test_overwritten_and_written_again_at_any_two_reads(tmp_path: Path, kind: str, layout: str) -> None:
    """The metadata are the same again at the end, and what lies between is another's: it is read again."""
    job = {**LAYOUTS[layout], "workers": 1}
    store, plain = watched(kind, tmp_path)
    old = quantize_to_zarr(OLD, store, **job)[...]

    def back() -> None:
        quantize_to_zarr(OLD, plain, **job, overwrite=True)

    for at in range(100):
        array = open_int4(store)

        def away(at: int = at) -> None:
            quantize_to_zarr(NEW, plain, **job, overwrite=True)
            store.watch(at + 1, False, back)
            store.reads = at + 1

        store.watch(at, False, away)
        with suppress(StoreError):
            np.testing.assert_array_equal(array[...], old)
        ended = store.reads <= at
        store.watch(-1, False, back)
        back()
        np.testing.assert_array_equal(array[...], old)
        if ended:
            break
    assert at > 2


@pytest.mark.parametrize("layout", mostly_slow(LAYOUTS, ["axis", "shards"]))
def test_an_overwriting_run_that_died_leaves_nothing_to_read(tmp_path: Path, layout: str) -> None:
    job = {**LAYOUTS[layout], "workers": 1}
    array = quantize_to_zarr(OLD, tmp_path, **job)
    old = array[...]
    lazy, twin = array.to_dask(), pickle.loads(pickle.dumps(array))
    begun(NEW, tmp_path, **job)
    with pytest.raises(UnfinishedStoreError):
        open_int4(tmp_path)
    for read in (lambda: array[0, 0], lambda: twin[0, 0], lambda: lazy.compute(scheduler="synchronous")):
        with pytest.raises(StoreError, match=OVERWRITTEN):
            read()
    quantize_to_zarr(OLD, tmp_path, **job, overwrite=True)  # the same again, byte for byte
    for one in (array, twin, pickle.loads(pickle.dumps(twin))):
        np.testing.assert_array_equal(one[...], old)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), old)


@pytest.mark.parametrize("layout", mostly_slow(LAYOUTS, ["axis"]))
@pytest.mark.parametrize("at", [5, 7])  # reads: the first ones find the variable
def test_what_reads_for_long_raises(tmp_path: Path, layout: str, at: int) -> None:
    store, job = Folder(tmp_path / "x"), {**LAYOUTS[layout], "workers": 1}
    reads: list[Callable[[], Any]] = [
        lambda: verify(store, "data", workers=1),
        lambda: restore(store, tmp_path / "back.npy", "data", workers=1),
        lambda: measure_error(OLD, store),
    ]
    for read in reads:
        quantize_to_zarr(OLD, store, **job, overwrite=True)
        store.watch(at, False, lambda: quantize_to_zarr(NEW, tmp_path / "x", **job, overwrite=True))
        with pytest.raises(StoreError, match=OVERWRITTEN):
            read()
    assert not (tmp_path / "back.npy").exists()


# Copies -------------------------------------------------------------------------------------------------------------


def in_place(copy: Path, store: Path) -> None:
    """As ``cp -r``: each file is cut and written again, and stays the same file."""
    shutil.copytree(copy, store, dirs_exist_ok=True, copy_function=shutil.copyfile)


def anew(copy: Path, store: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(copy, store)


def swapped(copy: Path, store: Path) -> None:
    store.rename(store.with_name(f"{store.name} of {time.time_ns()}"))
    shutil.copytree(copy, store)


@pytest.mark.parametrize("back", [in_place, anew, swapped])
@pytest.mark.parametrize("layout", mostly_slow(LAYOUTS, ["axis"]))
def test_a_copy_in_the_place_of_the_store(tmp_path: Path, layout: str, back: Callable[[Path, Path], None]) -> None:
    store, copy = tmp_path / "x", tmp_path / "copy"
    first = quantize_to_zarr(OLD, store, **LAYOUTS[layout])
    old = first[...]
    shutil.copytree(store, copy)
    second = quantize_to_zarr(NEW, store, **LAYOUTS[layout], overwrite=True)
    second[:5]
    back(copy, store)
    with pytest.raises(StoreError, match=OVERWRITTEN):
        second[...]
    np.testing.assert_array_equal(first[...], old)
    back(copy, store)  # the same bytes, in other files
    np.testing.assert_array_equal(first[...], old)


def test_a_variable_that_is_gone_or_torn(tmp_path: Path) -> None:
    array = quantize_to_zarr(OLD, tmp_path)
    path = tmp_path / "data" / "zarr.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(StoreError, match=r"changed since it was opened.* damaged"):
        array[0]
    path.write_bytes(whole)
    assert array[0].shape == (16,)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(StoreError, match="removed since it was opened"):
        array[0]


def test_damage_stays_damage(tmp_path: Path) -> None:
    array = quantize_to_zarr(OLD, tmp_path, chunks=(6, 8))
    (tmp_path / "data/c/0/0").unlink()
    for _ in range(2):
        with pytest.raises(DamagedChunkError, match="data/c/0/0 is damaged: it is missing"):
            array[...]


# What it costs ------------------------------------------------------------------------------------------------------


def test_a_folder_is_asked_for_no_byte_of_the_metadata_once_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Folder(tmp_path)
    array = quantize_to_zarr(OLD, store, **LAYOUTS["shards"])
    monkeypatch.setattr("quantize.store.stored.TICK", -1 << 62)  # as if the file were old
    array[0]
    store.watch(-1, False, lambda: None)
    array[0]
    assert store.reads == 2, "the two chunks of a row, by the index that was kept"


# Luck ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes(tmp_path: Path, layout: str) -> None:
    read_while_overwritten([NEW, OLD], tmp_path / "x", tmp_path, 200, **LAYOUTS[layout])
