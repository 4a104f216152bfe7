"""Keys of each kind of store: which class they are of, whatever way they travel, and what only a folder can do."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import WatchedStore, check, field, interrupted
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

from quantize import DamagedChunkError, StoreError, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.codec import with_crc32c
from quantize.store.keys import FsspecKeys, Keys, LocalKeys

LEFT = "zarr.0123456789abcdef0123456789abcdef.partial"

STORES: dict[str, tuple[Any, type[Keys]]] = {
    "folder": (lambda folder: LocalStore(folder), LocalKeys),
    "subclass": (lambda folder: WatchedStore(folder), LocalKeys),
    "wrapped": (lambda folder: WrapperStore(LocalStore(folder)), Keys),
    "memory": (lambda folder: MemoryStore(), Keys),
    "fsspec": (lambda folder: FsspecStore.from_url("memory://x"), FsspecKeys),
}


@pytest.mark.parametrize("name", STORES)
def test_the_class_is_that_of_the_store_and_travels_with_it(name: str, tmp_path: Path) -> None:
    make, kind = STORES[name]
    keys = Keys.of(make(tmp_path))
    checked = replace(keys, verify=True)
    assert [type(one) for one in (keys, Keys(keys.store), checked)] == [kind] * 3
    assert (checked.store, checked.verify) == (keys.store, True)
    if name == "folder":
        assert pickle.loads(pickle.dumps(checked)) == checked


def test_a_store_that_cannot_delete_or_be_written_to_is_refused_where_it_would_be(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot list and delete"):
        Keys.of(ZipStore(tmp_path / "x.zip", mode="w")).check_writable()
    with pytest.raises(ValueError, match="open for reading only"):
        Keys.of(LocalStore(tmp_path, read_only=True)).check_writable()
    Keys.of(tmp_path).check_writable()


def test_a_store_that_lists_no_chunks_is_refused_where_it_would_be_written_to() -> None:
    kind = type("IcechunkStore", (Panicking,), {"__module__": "icechunk.store"})
    with pytest.raises(TypeError, match="lists whole arrays and groups alone"):
        quantize_to_zarr(field((4, 6)), kind(MemoryStore()))


@pytest.mark.parametrize("watched", [False, True])
def test_a_folder_is_looked_at_before_it_is_read(tmp_path: Path, watched: bool) -> None:
    keys = Keys.of(WatchedStore(tmp_path) if watched else tmp_path / "z")
    assert (keys.get("a"), keys.holds_keys(""), keys.exists) == (None, False, watched)
    assert watched or not (tmp_path / "z").exists()
    for data in (b"", b"abc"):
        keys.set("a", data)
        assert keys.get("a") == data
        assert keys.holds("a", data)
    with pytest.raises(ValueError, match="longer than the 2 bytes"):
        keys.view("a", most=2)
    if watched:  # what is absent, empty or too long is not asked for
        assert keys.store.got == ["a", "a"]  # type: ignore[attr-defined]


def test_what_a_killed_writer_left_counts_for_nothing_and_is_swept(tmp_path: Path) -> None:
    keys = Keys.of(tmp_path)
    (tmp_path / "data/c").mkdir(parents=True)
    for folder in ("", "data/c"):
        (tmp_path / folder / LEFT).touch()
    assert not keys.holds_keys("")
    (tmp_path / "data/c/mine.partial").touch()
    assert keys.holds_keys("")
    keys.sweep("data")
    keys.remove_empty("data")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "c", "mine.partial"]


def test_a_place_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    keys = Keys.of(tmp_path / "x/y/z")
    assert keys.nearest == tmp_path / "x"
    with pytest.raises(Exception, match=r"x is a file, so .*z cannot be a folder"):
        keys.check_place()


# Stores that panic where more is asked for than there is ------------------------------------------------------------


class Panic(BaseException):
    """What a store raises whose foundation is another language's, and which nobody expects."""


class Panicking(WrapperStore[Any]):
    """A store that gives no range that goes beyond the value."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.asked = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.asked += 1
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is not None:
            size = len(await super().get(key, prototype))
            if isinstance(byte_range, RangeByteRequest) and byte_range.end > size:
                raise Panic(f"the range ends at {byte_range.end}, and the value at {size}")
            if isinstance(byte_range, SuffixByteRequest) and byte_range.suffix > size:
                raise Panic(f"the last {byte_range.suffix} of {size} bytes")
        return found


class Sized(Panicking):
    """One that tells how long a value is without reading it."""

    async def getsize(self, key: str) -> int:
        return int(await self._store.getsize(key))


class Keyed(Sized):
    """One that says so by a KeyError, as icechunk, where there is none."""

    async def getsize(self, key: str) -> int:
        try:
            return await super().getsize(key)
        except FileNotFoundError as error:
            raise KeyError(key) from error


@pytest.mark.parametrize("kind", [Panicking, Sized])
@pytest.mark.parametrize("job", [{}, {"shards": (12, 16), "compressors": None}, {"axis": 1}], ids=str)
def test_no_byte_is_asked_for_beyond_those_that_there_are(kind: Any, job: dict[str, Any]) -> None:
    values = field((12, 16))
    store = kind(MemoryStore())
    job = {"chunks": (6, 8), **job}
    interrupted(values, store, **job)
    array = quantize_to_zarr(values, store, **job, verify=True)
    np.testing.assert_array_equal(array[...], quantize_to_zarr(values, MemoryStore(), **job)[...])
    np.testing.assert_array_equal(open_int4(store)[3:9, 5], array[3:9, 5])
    assert verify(store, source=values).ok
    other = quantize_to_zarr(-values, store, **{**job, "axis": None}, overwrite=True)
    check(other, -values)
    with pytest.raises(StoreError, match="overwritten since it was opened"):
        array[...]


@pytest.mark.parametrize("kind", [Panicking, Sized])
def test_an_index_that_leads_beyond_its_shard_is_damage(kind: Any) -> None:
    store = kind(MemoryStore())
    array = quantize_to_zarr(field((12, 16)), store, chunks=(6, 8), shards=(12, 16), compressors=None)
    keys, codec = Keys.of(store), array.layout.shard_codec
    assert codec is not None
    data = keys.get("data/c/0/0")
    assert data is not None
    for entry in ((len(data) - 5, 28), (len(data), 28), (len(data) + 9, 28)):
        index = codec.index(data[-codec.index_length :]).copy()
        index[0] = entry
        keys.set("data/c/0/0", data[: -codec.index_length] + with_crc32c(index.tobytes()).tobytes())
        with pytest.raises(DamagedChunkError, match="data/c/0/0, inner chunk"):
            open_int4(store)[0, 0]
    keys.set("data/c/0/0", data[:9])
    with pytest.raises(DamagedChunkError, match="data/c/0/0"):
        open_int4(store)[0, 0]


def test_what_is_asked_of_a_store_of_unknown_kind() -> None:
    for kind in (Panicking, Sized, Keyed):
        keys = Keys.of(kind(MemoryStore()))
        keys.set("a", b"0123456789")
        assert keys.get("a") == b"0123456789"
        assert keys.get("b") is None
        for start, length, part in (
            (0, 4, b"0123"),
            (8, 9, b"89"),
            (12, 3, b""),
            (-1, 3, b"789"),
            (-1, 30, b"0123456789"),
        ):
            assert bytes(keys.view("a", start, length) or b"") == part
        assert keys.view("b", 0, 3) is None
        with pytest.raises(ValueError, match="longer than the 9 bytes"):
            keys.view("a", most=9)


def test_of_several_who_set_a_new_key_at_once_one_does(tmp_path: Path) -> None:
    keys = Keys.of(tmp_path / "z")
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            list(pool.map(lambda own, key=f"{number}/zarr.json": keys.set_new(key, own), [b"%d" % n for n in range(8)]))
            assert keys.get(f"{number}/zarr.json") in {b"%d" % n for n in range(8)}
    keys.set_new("0/zarr.json", b"later")
    assert keys.get("0/zarr.json") != b"later"
    assert len([path for path in (tmp_path / "z").rglob("*") if path.is_file()]) == 20
