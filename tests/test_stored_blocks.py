"""Blocks out of core: a store of them has what the same values have in memory, however it is cut and read."""

import math
from pathlib import Path
from typing import Any

import dask.array
import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs.blosc import Blosc
from strategies import FLOATS, LAYOUTS, arrays, some_dtypes_at_once
from test_blocks import with_blocks
from zarr.storage import MemoryStore

from quantize import (
    DamagedChunkError,
    RefusedValuesError,
    StoreError,
    dequantize_from_int4,
    open_int4,
    plan,
    quantize_part,
    quantize_to_int4,
    quantize_to_zarr,
    restore,
    seal,
    verify,
)
from quantize.io import as_source
from quantize.numerics.granularity import PerBlock, granularity_of
from quantize.runtime.look import keeps_zero

METHODS = st.sampled_from(["minmax", "absmax", "mse"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=12)


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...], blocks: Any) -> dict[str, Any]:
    """Chunks of whole blocks, and shards of those."""
    steps = granularity_of(None, len(shape), blocks).whole_cuts(shape)
    chunks = tuple(min(draw(st.integers(1, 3)) * step, n) for step, n in zip(steps, shape, strict=True))
    if not draw(st.booleans()):
        return {"chunks": chunks}
    return {"chunks": chunks, "shards": tuple(draw(st.integers(1, 3)) * n for n in chunks)}


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    return hnp.basic_indices(shape, allow_newaxis=False, allow_ellipsis=True)


@some_dtypes_at_once
@given(data=st.data(), scale_method=METHODS, codec=st.sampled_from(["auto", None]))
def test_a_store_has_what_memory_has(
    dtypes: list[np.dtype[Any]], data: st.DataObject, scale_method: Any, codec: Any
) -> None:
    special = (math.nan,) if data.draw(st.booleans()) else ()
    values, blocks = data.draw(with_blocks(arrays(dtypes, SHAPES, special)))
    job: Any = {"blocks": blocks, "nan_policy": "propagate" if special else "raise"}
    codes, scale, zero_point, *nan = quantize_to_int4(values, scale_method, **job)
    nan_code = nan[0] if nan else None
    floats = dequantize_from_int4(codes, scale, zero_point, blocks=blocks, nan_code=nan_code, dtype=values.dtype)
    store = MemoryStore()
    given_values = data.draw(st.sampled_from(LAYOUTS))(values)
    cut = data.draw(cuts(values.shape, blocks))
    quantize_to_zarr(given_values, store, scale_method=scale_method, compressors=codec, **cut, **job)
    array = open_int4(store)
    assert (array.blocks, array.axis, array.metadata.version) == (array.metadata.granularity.blocks, None, 2)
    assert isinstance(array.metadata.granularity, PerBlock)
    np.testing.assert_array_equal(array.codes(), codes)
    np.testing.assert_array_equal(array.scale, scale)
    np.testing.assert_array_equal(array.zero_point, zero_point)
    assert array[...].tobytes() == floats.tobytes()
    for _ in range(3):
        index = data.draw(indices(values.shape))
        part = np.asarray(array[index])
        assert (part.shape, part.dtype) == (floats[index].shape, floats.dtype)
        assert part.tobytes() == floats[index].tobytes()
    assert verify(store, source=values).ok


@pytest.mark.parametrize("blocks", [(1, 32), (32, 1), (8, 4), (-1, 6)], ids=str)
def test_the_bytes_do_not_depend_on_how_a_run_goes(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    """In parts, of a graph, of a file, by one worker or more."""
    values = np.maximum(np.random.default_rng(0).normal(size=(300, 200)), 0).astype(np.float32)  # zeros are kept
    np.save(tmp_path / "x.npy", values)
    chunks = (-1, 48) if blocks[0] == -1 else (96, 64)
    job: Any = {"blocks": blocks, "scale_method": "mse", "chunks": chunks}
    kinds = {
        "array": lambda store: quantize_to_zarr(values, store, workers=1, **job),
        "file": lambda store: quantize_to_zarr(tmp_path / "x.npy", store, **job),
        "graph": lambda store: quantize_to_zarr(dask.array.from_array(values, chunks=chunks), store, **job),
        "parts": lambda store: (*(quantize_part(values, store, part, 3, **job) for part in (2, 3, 1)), seal(store))[-1],
    }
    found = {}
    for kind, run in kinds.items():
        array = run(tmp_path / kind)
        found[kind] = array[...]
        restore(tmp_path / kind, tmp_path / f"{kind}.npy")
        np.testing.assert_array_equal(np.load(tmp_path / f"{kind}.npy"), found[kind])
        for one in ("c", ".int4"):
            names = sorted(path.relative_to(tmp_path / kind) for path in (tmp_path / kind / "data" / one).rglob("*"))
            assert names
            for name in names:
                mine, first = tmp_path / kind / name, tmp_path / "array" / name
                assert mine.is_dir() or mine.read_bytes() == first.read_bytes(), name


def test_what_is_refused() -> None:
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    values[40, 3] = np.nan
    store = MemoryStore()
    with pytest.raises(RefusedValuesError, match=r"1 NaN; the first refused value is at index \(40, 3\)"):
        quantize_to_zarr(values, store, blocks=32, chunks=(16, 64))
    with pytest.raises(StoreError, match="unfinished"):
        open_int4(store)
    with pytest.raises(ValueError, match=r"chunks \(16, 48\) end within blocks of 1 x 32.*such as \(16, 64\)"):
        plan(values, MemoryStore(), blocks=32, chunks=(16, 48))
    with pytest.raises(ValueError, match="percentile"):
        plan(values, MemoryStore(), blocks=32, scale_method="percentile")
    with pytest.raises(ValueError, match="both say which values share a scale"):
        plan(values, MemoryStore(), blocks=32, axis=0)


def test_missing_values_and_ranges() -> None:
    values = np.arange(64, dtype=np.int16).reshape(8, 8)
    array = quantize_to_zarr(values, MemoryStore(), blocks=(2, 4), missing=5, nan_policy="propagate")
    assert ((array[...] == 5) == (values == 5)).all()
    assert (array.nan_code, array.missing) == (-8, 5)
    wide = quantize_to_zarr(values.astype(np.float32), MemoryStore(), blocks=(2, 4), value_range=(0, 15))
    assert (wide.metadata.rule.method.value_range, np.unique(wide.scale).tolist()) == ((0, 15), [1.0])
    np.testing.assert_array_equal(wide[...], np.clip(values, 0, 15))


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_zeros_are_kept_where_there_are_many(share: float) -> None:
    random = np.random.default_rng(0)
    values = random.gamma(2.0, size=(64, 96)).astype(np.float32) + 1
    values[random.random(values.shape) < share] = 0
    array = quantize_to_zarr(values, MemoryStore(), blocks=16, scale_method="mse")
    assert array.metadata.keep_zero is (share > 0)
    assert not array[...][values == 0].any()
    assert keeps_zero(as_source(dask.array.from_array(values)))  # of which nothing is known before it is computed


@pytest.mark.parametrize("shared", [{"blocks": 16}, {"axis": 0}], ids=str)
def test_what_is_done_to_the_scales_that_are_given_changes_no_value(shared: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    array = quantize_to_zarr(values, MemoryStore(), **shared)
    before = array[...]
    for scales in (array.scale, array.zero_point):
        assert isinstance(scales, np.ndarray)
        scales[...] = 7
    np.testing.assert_array_equal(array[...], before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_row_reads_the_scales_that_it_needs(tmp_path: Path, dtype: Any) -> None:
    values = np.random.default_rng(0).normal(size=(256, 128)).astype(dtype)
    array = quantize_to_zarr(values, tmp_path, blocks=32, chunks=(16, 128), shards=(128, 128))
    whole = array[...]
    scales = zarr.open_array(tmp_path / "data/.int4/scale", mode="r")
    assert (scales.shape, scales.chunks, scales.shards) == ((256, 4), (16, 4), (128, 4))
    for path in (tmp_path / "data/.int4/scale/c/0/0", tmp_path / "data/.int4/zero_point/c/0/0"):
        data = bytearray(path.read_bytes())
        data[0] ^= 1  # of the first inner chunk
        path.write_bytes(data)
    np.testing.assert_array_equal(open_int4(tmp_path)[16], whole[16])
    with pytest.raises(DamagedChunkError, match=r"data/\.int4/scale/c/0/0, inner chunk \(0, 0\)"):
        open_int4(tmp_path)[3]
    assert not verify(tmp_path).ok


def test_scales_are_read_whatever_the_length_of_the_blocks_of_blosc(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((512, 1024), np.float32)
    array = quantize_to_zarr(values, tmp_path / "z", blocks=16)
    wanted = array[...]
    for name, size in (("scale", 2), ("zero_point", 4)):
        path = tmp_path / f"z/data/.int4/{name}/c/0/0"
        stored, plain = path.read_bytes(), zarr.open_array(path.parents[2], mode="r")[...]
        others = [Blosc("zstd", 1, Blosc.SHUFFLE, length, size).encode(plain) for length in (0, 1 << 12)]
        lengths = [int.from_bytes(data[8:12], "little") for data in (stored, *others)]
        assert lengths[0] == plain.nbytes > lengths[1] > lengths[2]
        for data in others:
            path.write_bytes(data + google_crc32c.value(data).to_bytes(4, "little"))
            np.testing.assert_array_equal(open_int4(tmp_path / "z")[...], wanted)
    assert verify(tmp_path / "z", source=values).ok
