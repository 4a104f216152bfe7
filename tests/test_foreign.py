"""Readers that are not ours: Zarr and TensorStore open the packed bytes, and a few lines of NumPy give the floats."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from marks import mostly_slow
from stores import check, field
from zarr.errors import ZarrUserWarning

from quantize import Int4Array, open_int4, quantize_to_packed_int4, quantize_to_zarr

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


def with_zarr(folder: Path, path: str = "data") -> tuple[np.ndarray, Any]:
    array = zarr.open_array(folder, path=path, mode="r")
    return array[...], dict(array.attrs)


def with_tensorstore(folder: Path, path: str = "data") -> tuple[np.ndarray, Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / path}"}}
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


# Blocks ---------------------------------------------------------------------------------------------------------------

IN_BLOCKS: list[dict[str, Any]] = [
    {"blocks": (1, 1, 4), "chunks": (8, 5, 8), "scale_method": "mse"},
    {"blocks": (2, 5, 2), "chunks": (4, 5, 4), "shards": (8, 10, 8)},
    {"blocks": (-1, 3, 1), "chunks": (21, 6, 4), "compressors": None},
    {"blocks": (4, 6, -1), "chunks": (4, 6, 13), "shards": (4, 18, 13), "compressors": None},
    {"blocks": (40, 4, 5), "chunks": (21, 4, 10), "scale_method": "absmax", "compressors": "gzip"},
]


def floats_of_blocks(folder: Path, read: Callable[..., tuple[np.ndarray, Any]]) -> np.ndarray:
    """What the README tells a reader that is not ours to do."""
    packed, attributes = read(folder)
    int4 = attributes["int4"]
    units, zero_points = (read(folder, f"data/{attributes[key]}")[0] for key in ("scale", "zero_point"))
    own = np.ix_(*(np.arange(n) // (n if b < 0 else b) for n, b in zip(int4["shape"], int4["blocks"], strict=True)))
    codes = (np.stack([packed << 4, packed], -1).view(np.int8) >> 4).reshape(*packed.shape[:-1], -1)
    quarters = 4 * codes[..., : int4["shape"][-1]].astype(np.int64) - (zero_points[own] - 128)
    return (quarters * (units.astype(np.uint64) << 48).view(np.float64)[own]).astype(int4["dtype"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reader", [with_zarr, with_tensorstore])
@pytest.mark.parametrize("job", mostly_slow(IN_BLOCKS, IN_BLOCKS[1:2]), ids=str)
def test_others_read_the_same_floats_of_blocks(tmp_path: Path, job: dict[str, Any], reader: Any, dtype: Any) -> None:
    values = VALUES.astype(dtype) * (1 if dtype == np.float32 else 1e250)
    array = quantize_to_zarr(values, tmp_path, **job)
    assert floats_of_blocks(tmp_path, reader).tobytes() == array[...].tobytes()
    in_memory = {key: job[key] for key in ("blocks", "scale_method") if key in job}
    np.testing.assert_array_equal(array.packed[...], quantize_to_packed_int4(values, **in_memory).packed.view(np.uint8))


@pytest.mark.parametrize("job", mostly_slow(IN_BLOCKS, IN_BLOCKS[1:2]), ids=str)
def test_scales_that_zarr_writes_in_our_place_are_read(tmp_path: Path, job: dict[str, Any]) -> None:
    wanted = quantize_to_zarr(VALUES, tmp_path, **job)[...]
    for name in ("scale", "zero_point"):
        array = zarr.open_array(tmp_path, path=f"data/.int4/{name}", mode="r+")
        numbers = np.asarray(array[...])
        shutil.rmtree(tmp_path / "data/.int4" / name / "c")
        array.with_config({"write_empty_chunks": True})[...] = numbers
    assert open_int4(tmp_path)[...].tobytes() == wanted.tobytes()


def test_what_others_see_of_a_variable_in_blocks(tmp_path: Path) -> None:
    """The variable and no other array; its folder is all of it."""
    source = zarr.create_array({}, data=VALUES, dimension_names=["t", "y", "x"])
    wanted = quantize_to_zarr(source, tmp_path / "z", blocks=4, chunks=(8, 5, 8))[...]
    quantize_to_zarr(VALUES, tmp_path / "z", name="loss (max)", axis=0, chunks=(8, 5, 8))
    with pytest.warns(ZarrUserWarning, match="not part in"):
        zarr.consolidate_metadata(tmp_path / "z")
    for consolidated in (True, False):
        group = zarr.open_group(tmp_path / "z", mode="r", use_consolidated=consolidated)
        assert sorted(group.array_keys()) == ["data", "loss=20=28max=29"]
        assert list(group.group_keys()) == []
    scale = zarr.open_group(tmp_path / "z", mode="r", use_consolidated=False)["data/.int4/scale"]
    assert (scale.shape, scale.dtype, scale.chunks) == ((21, 18, 4), np.uint16, (8, 5, 2))
    assert scale.metadata.dimension_names == ("t", "y", "x")
    shutil.copytree(tmp_path / "z" / "data", tmp_path / "copy" / "data")
    assert open_int4(tmp_path / "copy", "data")[...].tobytes() == wanted.tobytes()
    assert floats_of_blocks(tmp_path / "copy", with_zarr).tobytes() == wanted.tobytes()
