"""The way back to floats."""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from stores import JOBS, check, expected, field, files, interrupted
from strategies import DTYPES
from zarr.storage import MemoryStore

from quantize import UnfinishedStoreError, open_int4, quantize_to_zarr, restore

VALUES = field((17, 9, 7))
ATTRIBUTES = {"units": "K", "actual_min": -9.5, "nothing": None, "flag": "@float:x", "limits": [math.inf, 1]}


@pytest.mark.parametrize("job", JOBS, ids=str)
@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_restored_floats_are_those_that_are_read(tmp_path: Path, name: str, job: dict[str, Any]) -> None:
    source = zarr.create_array(MemoryStore(), data=VALUES, attributes=ATTRIBUTES, dimension_names=["t", "y", "x"])
    store = MemoryStore()
    array = quantize_to_zarr(source, store, **job)
    restore(store, tmp_path / name)
    if name == "x.npy":
        restored: Any = np.load(tmp_path / name)
        assert restored.flags.c_contiguous
    else:
        restored = zarr.open_array(tmp_path / name, mode="r")
        assert dict(restored.attrs) == {**ATTRIBUTES, "limits": ["Infinity", 1]}  # strict JSON
        assert restored.metadata.dimension_names == ("t", "y", "x")
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored[...], array[...])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_dtypes_come_back(tmp_path: Path, name: str, dtype: np.dtype[Any]) -> None:
    values = np.arange(60).reshape(12, 5).astype(dtype)
    store = MemoryStore()
    array = quantize_to_zarr(values, store, chunks=(5, 2))
    restore(store, tmp_path / name)
    restored = np.load(tmp_path / name) if name == "x.npy" else zarr.open_array(tmp_path / name, mode="r")[...]
    assert restored.dtype == (np.float32 if dtype == ml_dtypes.bfloat16 else dtype)
    np.testing.assert_array_equal(restored, array[...].astype(restored.dtype))


def test_zeros_are_restored_as_zeros_that_are_there(tmp_path: Path) -> None:
    store = MemoryStore()
    quantize_to_zarr(np.zeros((4, 4), np.float32), store, chunks=(2, 4))
    restore(store, tmp_path / "x.zarr")
    assert {"c/0/0", "c/1/0"} <= set(files(tmp_path / "x.zarr"))


def test_a_restored_array_gives_the_same_codes(tmp_path: Path) -> None:
    store = MemoryStore()
    array = quantize_to_zarr(VALUES, store)
    restore(store, tmp_path / "x.npy")
    low, high = float(VALUES.min()), float(VALUES.max())
    again = quantize_to_zarr(tmp_path / "x.npy", MemoryStore(), value_range=(low, high))
    np.testing.assert_array_equal(again.packed[...], array.packed[...])


@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_what_is_there_is_replaced_only_when_asked_for(tmp_path: Path, name: str) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store)
    target = tmp_path / name
    target.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        restore(store, target)
    assert target.read_text() == "mine"
    for _ in range(2):
        restore(store, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, name: str) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, 4, 4))
    (tmp_path / name).write_text("mine")

    def progress(event: Any) -> None:
        if event.done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        restore(store, tmp_path / name, overwrite=True, workers=1, progress=progress)
    assert files(tmp_path) == {name: b"mine"}


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        restore(store, tmp_path / "nowhere" / "x.npy")


def test_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/x\.zarr is a URL"):
        restore(tmp_path, "s3://bucket/x.zarr")


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": VALUES.nbytes - 1}))
    with pytest.raises(ValueError, match=f"{VALUES.nbytes:,} bytes, and {VALUES.nbytes - 1:,} are free"):
        restore(store, tmp_path / "x.npy")
    assert files(tmp_path) == {}


@pytest.mark.parametrize("what", ["folder", "group", "parent"])
def test_only_an_array_of_zarr_is_replaced_by_one(tmp_path: Path, what: str) -> None:
    """A folder with anything else in it stays, whatever the user says."""
    quantize_to_zarr(VALUES, tmp_path / "group")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "thesis.txt").write_text("ten years of work")
    before = files(tmp_path)
    target = tmp_path / {"parent": "folder/inner/.."}.get(what, what)
    with pytest.raises(FileExistsError, match="is a folder and no Zarr array"):
        restore(tmp_path / "group", target, overwrite=True)
    assert files(tmp_path) == before


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    interrupted(VALUES, store)
    with pytest.raises(UnfinishedStoreError):
        restore(store, tmp_path / "never.npy")
    assert files(tmp_path) == {}


def test_progress(tmp_path: Path) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, 4, 4))
    events: list[Any] = []
    restore(store, tmp_path / "x.npy", workers=2, progress=events.append)
    assert [(event.phase, event.done) for event in events] == [("restore", n) for n in range(4 * 3 * 2 + 1)]
    assert events[-1].nbytes == VALUES.nbytes


def test_the_array_that_is_read_is_the_expected_one() -> None:
    store = MemoryStore()
    check(quantize_to_zarr(VALUES, store), VALUES)
    assert open_int4(store)[...].tobytes() == expected(VALUES)[1].tobytes()
