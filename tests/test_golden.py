"""Stores of format version 1, written once (tests/golden/make.py) and read for ever."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from stores import files

from quantize import open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.metadata import DTYPES

FOLDERS = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir() and path.name[0] != "_")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_stores_are_read_as_they_were(folder: Path) -> None:
    array, wanted = open_int4(folder / "store"), np.load(folder / "restored.npy")
    floats = array[...]
    plain = floats.astype(np.float32) if floats.dtype == ml_dtypes.bfloat16 else floats
    assert plain.dtype == wanted.dtype
    assert plain.tobytes() == wanted.tobytes()
    assert verify(folder / "store").ok


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_others_read_golden_stores(folder: Path) -> None:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / 'store' / 'data'}"}}
    packed = tensorstore.open(spec, read=True).result().read().result()
    np.testing.assert_array_equal(packed, zarr.open_array(folder / "store" / "data", mode="r")[...])


def test_there_are_golden_stores() -> None:
    assert len(FOLDERS) == 16
    assert {open_int4(folder / "store").dtype.name for folder in FOLDERS} == set(DTYPES)


def test_what_golden_stores_say_of_their_source() -> None:
    array = open_int4(Path(__file__).parent / "golden" / "float16" / "store")
    assert array.attributes == {"units": "K", "valid_max": np.inf}
    assert array.dimension_names == ("y", "x")


def test_a_golden_store_is_written_today_as_it_was(tmp_path: Path) -> None:
    folder = Path(__file__).parent / "golden" / "float32-range"
    options = {"chunks": (2, 7), "value_range": (270, 290), "compressors": None}
    quantize_to_zarr(folder / "source.npy", tmp_path / "store", **options)
    assert files(tmp_path / "store") == files(folder / "store")
