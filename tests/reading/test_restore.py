"""The way back to floats, and the check against the source."""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from stores import check, expected, field, files
from strategies import DTYPES
from zarr.storage import MemoryStore

from quantize import UnfinishedStoreError, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.reading.restore import restore

VALUES = field((17, 9, 7))
ATTRIBUTES = {"units": "K", "valid_min": -9.5, "nothing": None, "flag": "@float:x", "limits": [math.inf, 1]}
JOBS: list[dict[str, Any]] = [
    {},
    {"chunks": (5, 4, 4)},
    {"chunks": (2, 3, 4), "shards": (6, 9, 4), "compressors": None},
    {"chunks": (17, 2, 7), "workers": 3},
]


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
        assert dict(restored.attrs) == ATTRIBUTES
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


@pytest.mark.parametrize("call", [verify, lambda store: restore(store, "never.npy")], ids=["verify", "restore"])
def test_an_unfinished_store_is_refused(call: Any) -> None:
    store = MemoryStore()

    def progress(event: Any) -> None:
        if getattr(event, "phase", "") == "write":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        quantize_to_zarr(VALUES, store, progress=progress)
    with pytest.raises(UnfinishedStoreError):
        call(store)
    assert not Path("never.npy").exists()


@pytest.mark.parametrize("job", JOBS, ids=str)
@pytest.mark.parametrize("options", [{}, {"value_range": (-20, 20)}, {"nan_policy": "propagate"}], ids=str)
def test_verify_holds_a_store_to_its_source(job: dict[str, Any], options: dict[str, Any]) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, **job, **options)
    found = verify(store, source=VALUES, workers=2)
    assert (found.ok, found.compared, found.damaged, found.differing) == (True, True, (), ())
    assert not verify(store).compared
    array = open_int4(store)
    other = VALUES.copy()
    other[11, 4, 2] = -other[11, 4, 2] + 40
    differing = verify(store, source=other).differing
    number = next(n for n, _ in array._reader.grid.touched((slice(11, 12), slice(4, 5), slice(2, 3))))
    assert differing == (array._reader.place(number),)


@pytest.mark.parametrize("other", [VALUES[:-1], VALUES.astype("f8")])
def test_verify_against_something_else_is_refused(other: np.ndarray) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store)
    with pytest.raises(ValueError, match="has shape"):
        verify(store, source=other)


@pytest.mark.parametrize("phase", ["verify", "restore"])
def test_progress_of_the_way_back(tmp_path: Path, phase: str) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, 4, 4))
    events: list[Any] = []
    if phase == "verify":
        verify(store, workers=2, progress=events.append)
    else:
        restore(store, tmp_path / "x.npy", workers=2, progress=events.append)
    assert [(event.phase, event.done) for event in events] == [(phase, n) for n in range(4 * 3 * 2 + 1)]
    assert events[-1].nbytes == VALUES.nbytes


def test_the_array_that_is_read_is_the_expected_one() -> None:
    store = MemoryStore()
    check(quantize_to_zarr(VALUES, store), VALUES)
    assert open_int4(store)[...].tobytes() == expected(VALUES)[1].tobytes()
