"""Datasets that become longer: all variables together, by one document, whatever happens to the run that does it."""

import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from collections_of_arrays import Tree
from marks import combined, slow
from stores import Died, DyingStore, field, files
from zarr.storage import LocalStore, MemoryStore

from quantize import (
    RefusedValuesError,
    StoreError,
    append_to_zarr,
    discard_append,
    open_int4,
    quantize_dataset,
    restore,
    verify,
)
from quantize.io.raw import RawArray
from quantize.reading.dataset import Int4Dataset, KeptArray


class Days(Tree):
    """Arrays whose axis of a length that no other has is "day"; each is kept in chunks of at most four an axis."""

    def opened_raw(self, array: np.ndarray) -> RawArray:
        found = super().opened_raw(array)
        return RawArray(
            "array", found.shape, found.dtype, found.load, {"units": "m"}, self.names(array), found.chunks
        )

    def opened(self, array: np.ndarray) -> Any:
        source = super().opened(array)
        source.dimension_names = self.names(array)
        return source

    def names(self, array: np.ndarray) -> tuple[str, ...]:
        return tuple("day" if n in (5, 6, 11) else f"d{n}" for n in array.shape)


def days(start: int, stop: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same, from one day to another: quantized in several ways, kept in several, and without days."""
    parts = slice(start, stop)
    holes = field((11, 4), seed=3)
    holes[3, 2] = holes[7, 1] = np.nan
    return {
        "blocks": field((8, 11), seed=1)[:, parts] + seed,
        "ocean/holes": holes[parts],
        "ocean/one scale": np.clip(field((11, 8, 4), seed=4), -50, 70)[parts],
        "still": field((8, 8), seed=5),
        "ids": np.arange(11)[parts],
        "ocean/text": np.array([f"é{n}" * n for n in range(11)], object)[parts],
        "ocean/table": np.arange(44).reshape(4, 11)[:, parts],
        "lat": np.linspace(-1, 1, 8),
        "point": np.array(2.5),
        "mask": np.arange(12).reshape(3, 4) % 2 == 0,
    }


JOB: dict[str, Any] = {
    "workers": 1,
    "select": ["blocks", "ocean/holes", "ocean/one scale", "still"],
    "rules": {
        "blocks": {"blocks": (2, 1), "chunks": (4, 2)},
        "ocean/holes": {"axis": 0, "chunks": (3, 4)},
        "ocean/one scale": {"value_range": (-50, 70), "chunks": (4, 8, 4)},
        "still": {"blocks": (1, 4), "chunks": (4, 8)},
    },
}
FIRST, REST = (0, 5), (5, 11)


def begin(store: Any, *ends: int, **options: Any) -> Int4Dataset:
    return quantize_dataset(Days(days(*ends)), store, **{**JOB, **options})


def append(store: Any, *ends: int, **options: Any) -> Int4Dataset:
    found: Int4Dataset = append_to_zarr(Days(days(*ends)), store, axis="day", workers=1, **options)
    return found


def values_of(dataset: Int4Dataset) -> dict[str, np.ndarray]:
    return {name: dataset[name][...] for name in dataset}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert (values.shape, values.dtype) == (other[name].shape, other[name].dtype), name
        np.testing.assert_array_equal(values, other[name], name)


def same_but_ids(one: bytes, other: bytes) -> bool:
    """Whether two files are the same but for what is drawn by lot, and for checksums over that."""
    return re.sub(rb"[0-9a-f]{32,}", b"", one) == re.sub(rb"[0-9a-f]{32,}", b"", other)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A collection of five days, and what it reads."""
    place = tmp_path_factory.mktemp("first") / "x"
    return place, values_of(begin(place, *FIRST))


@pytest.fixture(scope="module")
def grown(
    first: tuple[Path, dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The files of it after an append that nothing disturbs, and what it reads then."""
    place = tmp_path_factory.mktemp("grown") / "x"
    shutil.copytree(first[0], place)
    old = open_int4(place)
    found = append(place, *REST)
    assert_same(values_of(found), values_of(open_int4(place)))
    assert_same(values_of(old), first[1])  # who opened it before reads on
    assert_same(values_of(old.refresh()), values_of(found))
    return files(place), values_of(found)


def test_it_holds_what_one_run_over_all_holds(
    tmp_path: Path, grown: tuple[dict[str, bytes], dict[str, np.ndarray]]
) -> None:
    """But for the documents, and the chunks of what had fewer values than a chunk at first."""
    whole = begin(tmp_path / "x", 0, 11)
    assert_same(grown[1], values_of(whole))
    ours, one_run = grown[0], files(tmp_path / "x")
    for name in ("ocean/holes", "ocean/one=20scale", "ocean/text", "ocean/table", "ids", "lat", "still"):
        chunks = {key for key in one_run if key.startswith(f"{name}/c/")}
        assert chunks == {key for key in ours if key.startswith(f"{name}/c/")} != set(), name
        assert all(ours[key] == one_run[key] for key in chunks), name


@pytest.mark.parametrize(("torn", "step"), [(False, 23), (True, 23), slow(False, 1), slow(True, 1)])
def test_a_death_at_any_change_leaves_what_was_there_or_what_will_be(
    tmp_path: Path,
    first: tuple[Path, dict[str, np.ndarray]],
    grown: tuple[dict[str, bytes], dict[str, np.ndarray]],
    torn: bool,
    step: int,
) -> None:
    """The same call goes on, another is refused, and until the last document is there it can be discarded."""
    before, place = files(first[0]), tmp_path / "z"
    committed = []
    for at in range(0, 400, step):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(first[0], place)
        reader = open_int4(place)
        try:
            append(DyingStore(place, at, torn), *REST)
        except Died:
            now = open_int4(place)
            found = values_of(now)
            assert verify(place).ok, f"change {at}"
            assert_same(values_of(reader), first[1])
            if len(found["ids"]) == 5:
                assert_same(found, first[1])
                shutil.copytree(place, tmp_path / "d")
                under_way = (place / ".int4/append.json").exists()
                if under_way:
                    with pytest.raises(StoreError, match=r"an append of 6 along the dimension 'day', from index 5 on"):
                        append(place, 0, 5)
                assert discard_append(tmp_path / "d") == under_way
                left = files(tmp_path / "d")
                assert {key: left[key] for key in left if not key.endswith(".partial")} == before, f"change {at}"
                assert_same(values_of(now), first[1])
                shutil.rmtree(tmp_path / "d")
            else:
                assert_same(found, grown[1])
                committed.append(at)
            with suppress(StoreError):  # where all of it was there, and the journal gone
                append(place, *REST)
            done = files(place)
            assert {key for key in done if not key.endswith(".partial")} == grown[0].keys(), f"change {at}"
            assert all(same_but_ids(done[key], grown[0][key]) for key in grown[0]), f"change {at}"
            assert_same(values_of(now.refresh()), grown[1])
        else:
            break
    assert at > 60
    assert step > 1 or len(committed) > 2
