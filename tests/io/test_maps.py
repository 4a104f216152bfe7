"""Memory maps give their own values, whatever their strides, and whatever has become of their files."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import check, field
from zarr.storage import MemoryStore

from quantize import quantize_to_zarr
from quantize.io import as_source

SHAPE = (40, 60)
VALUES = field(SHAPE) + np.float32(280)
WHOLE = tuple(slice(0, n) for n in SHAPE)


def mapped(folder: Path, **options: Any) -> np.ndarray:
    np.save(folder / "x.npy", VALUES)
    found: np.ndarray = np.load(folder / "x.npy", **{"mmap_mode": "r", **options})
    return found


def replaced(path: Path) -> None:
    np.save(path.with_name("other.npy"), VALUES * 0 - 1)
    os.replace(path.with_name("other.npy"), path)


@pytest.mark.parametrize("change", [replaced, os.unlink], ids=["replaced", "removed"])
@pytest.mark.parametrize("part", [np.s_[:], np.s_[3:20], np.s_[:, ::2]], ids=str)
def test_a_map_gives_its_own_values_whatever_becomes_of_its_path(tmp_path: Path, change: Any, part: Any) -> None:
    array = mapped(tmp_path)[part]
    change(tmp_path / "x.npy")
    check(quantize_to_zarr(array, MemoryStore(), chunks=(7, 8)), VALUES[part])
    assert not as_source(array).shared


def test_a_map_whose_file_is_replaced_once_it_is_a_source(tmp_path: Path) -> None:
    source = as_source(mapped(tmp_path))
    assert source.shared
    replaced(tmp_path / "x.npy")
    np.testing.assert_array_equal(source.read(WHOLE), VALUES)


def records(folder: Path) -> np.ndarray:
    dtype = np.dtype([("header", "S3"), ("data", ">f4", (60,))])
    stored = np.zeros(40, dtype)
    stored["data"] = VALUES
    stored.tofile(folder / "raw")
    return np.memmap(folder / "raw", dtype, "r")["data"]


def raw_map(folder: Path) -> np.ndarray:
    (folder / "raw").write_bytes(VALUES.tobytes())
    with open(folder / "raw", "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.float32).reshape(SHAPE)


MAPS: dict[str, Callable[[Path], np.ndarray]] = {
    "fields of records": records,
    "every other row": lambda folder: mapped(folder)[::2],
    "backwards": lambda folder: mapped(folder)[::-1, ::-1],
    "crossed": lambda folder: mapped(folder).reshape(4, 10, 60).transpose(1, 0, 2),
    "broadcast": lambda folder: np.broadcast_to(mapped(folder)[:1], SHAPE),
    "written to": lambda folder: mapped(folder, mmap_mode="r+")[:, ::-1],
    "private": lambda folder: mapped(folder, mmap_mode="c")[:, ::-1],
    "not by NumPy": raw_map,
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_that_are_not_one_run_of_bytes(tmp_path: Path, name: str) -> None:
    array = MAPS[name](tmp_path)
    if array.flags.writeable:
        array[3] = 7
    assert type(as_source(array)).__name__ == "MappedSource"
    before = np.array(array, "f4")
    check(quantize_to_zarr(array, MemoryStore(), chunks=(*(7,) * (array.ndim - 1), 8)), before)
    np.testing.assert_array_equal(array, before)  # what was written to it is still there


@given(data=st.data())
def test_any_part_of_a_map(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("map")
    array = mapped(folder).reshape(4, 10, 6, 10).transpose(data.draw(st.permutations(range(4))))
    steps = [data.draw(st.sampled_from([slice(None), slice(None, None, 2), slice(None, None, -3)])) for _ in range(4)]
    part = array[tuple(steps)]
    region = tuple(slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)))) for n in part.shape)
    if all(along.stop > along.start for along in region):
        np.testing.assert_array_equal(as_source(part).read(region), np.array(part)[region])
