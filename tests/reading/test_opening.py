"""`open_int4` of collections: by name and by path, whether quantized or kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collections_of_arrays import JOB, Tree, everything
from zarr.storage import MemoryStore

from quantize import Int4Array, KeptArray, StoreError, UnfinishedStoreError, open_int4, quantize_dataset
from quantize.store.manifest import KEY


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_each_variable_by_its_name_is_what_the_collection_has(tmp_path: Path, place: str) -> None:
    store: Any = tmp_path / "x.zarr" if place == "folder" else MemoryStore()
    written = quantize_dataset(Tree(everything()), store, **JOB)
    for name, array in written.items():
        alone = open_int4(store, name)
        assert type(alone) is type(array) is (Int4Array if name in written.quantized else KeptArray)
        np.testing.assert_array_equal(alone[...], array[...])
    with pytest.raises(StoreError, match="'other'"):
        open_int4(store, "other")


def test_a_kept_variable_by_its_path(tmp_path: Path) -> None:
    quantize_dataset(Tree(everything()), tmp_path / "x.zarr", **JOB)
    for name in ("ids", "ocean/deep/parts"):
        alone = open_int4(tmp_path / "x.zarr" / name)
        assert isinstance(alone, KeptArray)
        np.testing.assert_array_equal(alone[...], everything()[name])
    with pytest.raises(StoreError, match="'other'"):
        open_int4(tmp_path / "x.zarr" / "other")


def test_a_kept_variable_of_an_unfinished_collection_is_read_once_it_is_whole(tmp_path: Path) -> None:
    written = quantize_dataset(Tree({"parts": np.arange(6)}), tmp_path)
    written.keys_of_store.set(KEY, written.manifest.at("writing").to_json())
    assert open_int4(tmp_path, "parts")[:].tolist() == list(range(6))
    (tmp_path / "parts" / "c" / "1").unlink()
    with pytest.raises(UnfinishedStoreError, match="parts is unfinished"):
        open_int4(tmp_path, "parts")
