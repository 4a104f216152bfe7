"""Readers that are not ours: Zarr and TensorStore open the packed bytes, and three lines of NumPy give the floats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from marks import mostly_slow
from stores import check, field

from quantize import Int4Array, open_int4, quantize_to_zarr

VALUES = field((21, 18, 13))
COMPRESSORS = [
    None,
    "zstd",
    "gzip",
    {"name": "zstd", "configuration": {"level": 9, "checksum": True}},
    *(
        {"name": "blosc", "configuration": {"cname": cname, "shuffle": shuffle}}
        for cname, shuffle in [("zstd", "noshuffle"), ("lz4", "shuffle"), ("zlib", "bitshuffle")]
    ),
]
GRIDS: list[dict[str, Any]] = [
    {},
    {"chunks": (8, 5, 4)},
    {"chunks": (4, 5, 4), "shards": (8, 10, 8)},
    {"chunks": (4, 6, 13), "shards": (4, 18, 13)},
]


def with_zarr(folder: Path) -> tuple[np.ndarray, Any]:
    array = zarr.open_array(folder, path="data", mode="r")
    return array[...], dict(array.attrs)


def with_tensorstore(folder: Path) -> tuple[np.ndarray, Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / 'data'}"}}
    array = tensorstore.open(spec, read=True).result()
    return array.read().result(), array.spec().to_json()["metadata"]["attributes"]


def floats(packed: np.ndarray, attributes: Any) -> np.ndarray:
    """What the README tells a reader that is not ours to do."""
    codes = np.stack([packed << 4, packed], -1).view(np.int8).reshape(*packed.shape[:-1], -1) >> 4
    values = (codes.astype(np.int64) - attributes["zero_point"]) * attributes["scale"]
    return values[..., : attributes["int4"]["shape"][-1]].astype(attributes["int4"]["dtype"])


@pytest.mark.parametrize("reader", [with_zarr, with_tensorstore])
@pytest.mark.parametrize("grid", mostly_slow(GRIDS, GRIDS[2:3]), ids=str)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_others_read_the_same_floats(tmp_path: Path, compressor: Any, grid: dict[str, Any], reader: Any) -> None:
    array: Int4Array = quantize_to_zarr(VALUES, tmp_path, compressors=compressor, **grid)
    packed, attributes = reader(tmp_path)
    assert floats(packed, attributes).tobytes() == array[...].tobytes()
    check(array, VALUES)


@pytest.mark.parametrize("reader", [with_zarr, with_tensorstore])
@pytest.mark.parametrize("grid", GRIDS[1:3], ids=["chunks", "shards"])
def test_others_notice_a_flipped_bit(tmp_path: Path, grid: dict[str, Any], reader: Any) -> None:
    quantize_to_zarr(VALUES, tmp_path, compressors=None, **grid)
    path = tmp_path / "data" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"(?i)checksum|crc32c|digest"):
        reader(tmp_path)


@pytest.mark.parametrize("grid", mostly_slow(GRIDS, GRIDS[2:3]), ids=str)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_what_zarr_writes_in_our_place_is_read(tmp_path: Path, compressor: Any, grid: dict[str, Any]) -> None:
    array = quantize_to_zarr(VALUES, tmp_path, compressors=compressor, **grid)
    wanted = array[...]
    packed = array.packed[...]
    for path in (tmp_path / "data" / "c").rglob("*"):
        if path.is_file():
            path.unlink()
    zarr.open_array(tmp_path, path="data", mode="r+").with_config({"write_empty_chunks": True})[...] = packed
    assert open_int4(tmp_path)[...].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("compressor", [None, "gzip"])
def test_tensorstores_chunks_are_read_too(tmp_path: Path, compressor: Any) -> None:
    array = quantize_to_zarr(VALUES, tmp_path, compressors=compressor, chunks=(8, 5, 4))
    wanted, packed = array[...], array.packed[...]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{tmp_path / 'data'}"},
        "store_data_equal_to_fill_value": True,
    }
    before = (tmp_path / "data" / "zarr.json").read_bytes()
    for path in (tmp_path / "data" / "c").rglob("*"):
        if path.is_file():
            path.unlink()
    tensorstore.open(spec, read=True, write=True).result().write(packed).result()
    assert (tmp_path / "data" / "zarr.json").read_bytes() == before
    assert open_int4(tmp_path)[...].tobytes() == wanted.tobytes()


def test_others_see_names_and_dtype(tmp_path: Path) -> None:
    source = zarr.create_array({}, data=VALUES, dimension_names=["t", "y", "x"])
    quantize_to_zarr(source, tmp_path, name="t2m")
    group = zarr.open_group(tmp_path, mode="r")
    assert list(group.array_keys()) == ["t2m"]
    packed = group["t2m"]
    assert (packed.shape, packed.dtype, packed.metadata.dimension_names) == (
        (21, 18, 7),
        np.uint8,
        ("t", "y", "x_packed"),
    )
    assert packed.attrs["int4"]["shape"] == [21, 18, 13]


def test_missing_values_are_a_code_of_their_own(tmp_path: Path) -> None:
    values = np.where(VALUES > 40, np.float32(np.nan), VALUES)
    array = quantize_to_zarr(values, tmp_path, nan_policy="propagate")
    packed, attributes = with_zarr(tmp_path)
    codes = np.stack([packed << 4, packed], -1).view(np.int8).reshape(*packed.shape[:-1], -1)[..., :13] >> 4
    assert attributes["int4"]["nan_code"] == -8
    np.testing.assert_array_equal(codes == -8, np.isnan(array[...]))
