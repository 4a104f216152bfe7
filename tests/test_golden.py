"""Stores of each format version, written once (tests/golden/make.py) and read for ever."""

import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from stores import files

from quantize import StoreError, append_to_zarr, discard_append, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.growth import Growth
from quantize.store.metadata import DTYPES

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(path for path in GOLDEN.iterdir() if path.is_dir() and path.name[0] != "_")
PACKED = "int16-packed-blocks"


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
    array = open_int4(folder / "store")
    for path, _ in array.variable.arrays(array.metadata):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / 'store' / path}"}}
        found = tensorstore.open(spec, read=True).result().read().result()
        np.testing.assert_array_equal(found, zarr.open_array(folder / "store" / path, mode="r")[...])


def test_a_golden_collection_is_read_as_it_was() -> None:
    dataset = open_int4(GOLDEN / "_collection/store")
    assert dataset.quantized == ["holes", "ocean/t2m (max)"]
    assert dataset["text"][...].tolist() == ["a", "bé\0", ""]
    assert dataset["half"].dtype == ml_dtypes.bfloat16
    with np.load(GOLDEN / "_collection/restored.npz") as restored:
        names = {name.replace("|", "/"): wanted for name, wanted in restored.items()}
    assert {*names, "text"} == set(dataset)
    for name, wanted in names.items():
        found = dataset[name][...]
        found = found.astype(np.float32) if name == "half" else np.asarray(found)
        assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def test_there_are_golden_stores() -> None:
    arrays = [open_int4(folder / "store") for folder in FOLDERS]
    assert [array.metadata.version for array in arrays].count(1) == 18
    assert [array.metadata.version for array in arrays].count(2) == 14
    assert {array.dtype.name for array in arrays} == set(DTYPES)
    assert {array.name for array in arrays} == {"data", "logit scale (max)", "t2m_scale"}


def test_what_golden_stores_say_of_their_source() -> None:
    plain, packed, rain = (open_int4(GOLDEN / name / "store") for name in ("float16", PACKED, "float32-blocks-zeros"))
    assert plain.attributes == {"units": "K", "valid_max": np.inf}
    assert packed.attributes == {"units": "K"}
    assert plain.dimension_names == packed.dimension_names == ("y", "x")
    assert packed.metadata.decoding is not None
    assert (packed.metadata.decoding["scale_factor"], packed.metadata.decoding["missing"]) == (0.01, [-1])
    np.testing.assert_array_equal(np.isnan(packed[...]), np.load(GOLDEN / PACKED / "source.npy") == -1)
    assert rain.metadata.keep_zero
    assert not rain[...][np.load(GOLDEN / "float32-blocks-zeros" / "source.npy") == 0].any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("float32-range", {"chunks": (2, 7), "value_range": (270, 290)}),
        ("uint8-blocks-range-sharded", {"blocks": 16, "chunks": 32, "shards": 64, "value_range": (10, 70)}),
    ],
)
def test_a_golden_store_is_written_today_as_it_was(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    quantize_to_zarr(GOLDEN / name / "source.npy", tmp_path / "store", **options, compressors=None)
    assert files(tmp_path / "store") == files(GOLDEN / name / "store")


def test_golden_stores_that_were_appended_to() -> None:
    grown = {folder.name: Growth.of(open_int4(folder / "store").metadata) for folder in FOLDERS}
    commits = {name: growth.commits for name, growth in grown.items() if growth}
    assert commits == {
        "float16-appended": 1,
        "float32-axis-appended": 2,
        "float64-blocks-packed-appended": 1,
        "int16-blocks-missing-appended": 2,
    }
    one = grown["float32-axis-appended"]
    assert one is not None
    assert (one.axis, one.saturated) == (0, 0)


def test_a_golden_append_that_is_under_way_goes_on_or_is_discarded(tmp_path: Path) -> None:
    for place in ("on", "back"):
        shutil.copytree(GOLDEN / "float32-blocks-under-way/store", tmp_path / place)
    source = np.load(GOLDEN / "float32-blocks-mse/source.npy")
    with pytest.raises(StoreError, match="an append of 3 along axis 0, from index 8 on, is under way"):
        append_to_zarr(source[:1], tmp_path / "on")
    append_to_zarr(source[8:], tmp_path / "on", outside="saturate")
    assert verify(tmp_path / "on", source=source).ok
    assert discard_append(tmp_path / "back")
    array = quantize_to_zarr(source[:8], tmp_path / "anew", blocks=(1, 32), chunks=(3, 70))
    assert array[...].tobytes() == open_int4(tmp_path / "back")[...].tobytes()
    assert files(tmp_path / "back").keys() == files(tmp_path / "anew").keys()


def test_a_golden_array_whose_chunk_is_longer_becomes_longer(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "float32-blocks-longer-chunk/store", tmp_path / "z")
    assert open_int4(tmp_path / "z").chunks == (4, 70)
    source = np.load(GOLDEN / "float32-blocks-mse/source.npy")
    array = append_to_zarr(source[3:], tmp_path / "z")
    assert (array.shape, array.chunks) == ((11, 70), (4, 70))
    assert verify(tmp_path / "z", source=source).ok
