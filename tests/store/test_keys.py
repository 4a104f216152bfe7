"""Keys of each kind of store: which class they are of, whatever way they travel, and what only a folder can do."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores import WatchedStore
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

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
