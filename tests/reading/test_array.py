"""`Int4Array`: indexed as NumPy indexes, reading what it needs and no more."""

import functools
import pickle
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import WatchedStore, check, expected, field
from zarr.storage import MemoryStore

from quantize import Int4Array, StoreError, open_int4, quantize_to_zarr

VALUES = field((7, 11, 13))
FLOATS = expected(VALUES)[1]


def made(**options: Any) -> Int4Array:
    return quantize_to_zarr(VALUES, MemoryStore(), **options)


LAYOUTS: dict[str, dict[str, Any]] = {
    "one chunk": {},
    "chunks": {"chunks": (2, 3, 4)},
    "no compression": {"chunks": (3, 11, 2), "compressors": None},
    "shards": {"chunks": (2, 3, 4), "shards": (4, 6, 8)},
    "gzip in shards": {"chunks": (2, 4, 13), "shards": (8, 4, 13), "compressors": "gzip"},
}


@functools.cache
def laid_out(layout: str) -> Int4Array:
    return made(**LAYOUTS[layout])


@given(st.sampled_from([*LAYOUTS]), hnp.basic_indices(VALUES.shape, allow_newaxis=False))
def test_indexing_is_numpys(layout: str, index: Any) -> None:
    result, wanted = laid_out(layout)[index], FLOATS[index]
    assert (np.shape(result), result.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@settings(max_examples=25)
@given(data=st.data())
def test_indexing_along_one_axis_is_numpys(length: int, data: st.DataObject) -> None:
    values = field((length,))
    array = quantize_to_zarr(values, MemoryStore(), chunks=2)
    index = data.draw(hnp.basic_indices(values.shape, allow_newaxis=False) | st.slices(length))
    np.testing.assert_array_equal(array[index], expected(values)[1][index])


@pytest.mark.parametrize(
    "index", [0, np.int64(-1), (1, 2, 3), slice(2), (slice(None), 1), (..., 0), (0, 0, slice(9, 2, -3)), ()]
)
def test_what_comes_out_is_of_numpys_type(index: Any) -> None:
    assert type(made()[index]) is type(FLOATS[index])


@pytest.mark.parametrize("index", [7, -8, (0, 11), (..., 13), (0, 0, 0, 0), (..., ...), 1.0, "x", None])
def test_what_is_no_index_is_refused(index: Any) -> None:
    with pytest.raises(IndexError):
        made()[index]


@pytest.mark.parametrize("index", [True, (0, False), np.True_])
def test_a_boolean_is_no_integer(index: Any) -> None:
    with pytest.raises(IndexError):
        made()[index]


def test_a_step_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        made()[::0]


@pytest.mark.parametrize("shards", [None, (4, 6, 8)])
@pytest.mark.parametrize(
    ("index", "chunks"),
    [
        ((0, 0, 0), {(0, 0, 0)}),
        ((-1, -1, -1), {(3, 3, 3)}),
        ((slice(0, 2), slice(0, 3), slice(0, 4)), {(0, 0, 0)}),
        ((slice(1, 3), 0, slice(3, 5)), {(i, 0, k) for i in (0, 1) for k in (0, 1)}),
        ((slice(None, None, 6), 0, 0), {(0, 0, 0), (3, 0, 0)}),
        ((slice(None, None, -6), 0, slice(12, None, -12)), {(i, 0, k) for i in (0, 3) for k in (0, 3)}),
        ((slice(3, 3), 0, 0), set()),
    ],
)
def test_only_the_chunks_that_are_needed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: Any, index: Any, chunks: set[Any]
) -> None:
    monkeypatch.setattr("quantize.store.stored.TICK", -1 << 62)  # as if the files were old
    store = WatchedStore(tmp_path)
    array = quantize_to_zarr(VALUES, store, chunks=(2, 3, 4), shards=shards)
    store.got.clear()
    np.testing.assert_array_equal(array[index], FLOATS[index])
    units = {tuple(along // (2 if shards else 1) for along in chunk) for chunk in chunks}
    looks = ["data/zarr.json"] if chunks else []  # at the end: whether these still are what was opened
    assert store.got[len(store.got) - len(looks) :] == looks
    assert set(store.got) == {"/".join(["data/c", *map(str, unit)]) for unit in units} | set(looks)
    # Of shards the index too, once: the stamp of one that is not full tells that it was not written again meanwhile.
    indices = len(units) if shards else 0
    assert len(store.got) == len(chunks) + indices + len(looks)


def test_opening_reads_metadata_and_no_chunk(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path, chunks=(2, 3, 4))
    store = WatchedStore(tmp_path)
    array = open_int4(store)
    assert (array.shape, array.dtype, array.ndim, array.size, len(array)) == (
        VALUES.shape,
        np.float32,
        3,
        VALUES.size,
        7,
    )
    assert (array.chunks, array.nbytes, array.max_error) == ((2, 3, 4), VALUES.nbytes, array.scale / 2)
    array.to_dask()
    repr(array)
    assert not [key for key in store.got if "/c/" in key]
    assert store.put == []


def test_bytes_stored_are_those_of_the_chunks(tmp_path: Path) -> None:
    array = quantize_to_zarr(VALUES, tmp_path, chunks=(2, 3, 4))
    assert array.nbytes_stored == sum(p.stat().st_size for p in (tmp_path / "data" / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpy_and_dask_see_the_same(layout: str) -> None:
    array = laid_out(layout)
    check(array, VALUES)
    np.testing.assert_array_equal(np.asarray(array), FLOATS)
    assert np.asarray(array, np.float64).dtype == np.float64
    lazy = array.to_dask()
    assert isinstance(lazy, dask.array.Array)
    assert (lazy.shape, lazy.dtype, lazy.chunksize) == (FLOATS.shape, FLOATS.dtype, array.chunks)
    np.testing.assert_array_equal(lazy[::2, 3:, ::-1].compute(scheduler="synchronous"), FLOATS[::2, 3:, ::-1])
    assert float(lazy.mean().compute(scheduler="synchronous")) == pytest.approx(float(FLOATS.mean()), rel=1e-5)


def test_an_array_without_a_copy_cannot_be() -> None:
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(made(), copy=False)


def test_dask_tells_arrays_apart(tmp_path: Path) -> None:
    one = quantize_to_zarr(VALUES, tmp_path, name="a").to_dask().name
    two = quantize_to_zarr(VALUES, tmp_path, name="b").to_dask().name
    assert one != two
    assert one == open_int4(tmp_path, "a").to_dask().name


def test_a_pickle_reads_the_same(tmp_path: Path) -> None:
    array = quantize_to_zarr(VALUES, tmp_path, chunks=(2, 3, 4), shards=(4, 6, 8))
    array[0]
    check(pickle.loads(pickle.dumps(array)), VALUES)
    check(pickle.loads(pickle.dumps(open_int4(tmp_path))), VALUES)


def test_repr_is_one_line_that_tells_what_it_is(tmp_path: Path) -> None:
    text = repr(quantize_to_zarr(VALUES, tmp_path, name="t2m"))
    assert "\n" not in text
    for part in (f"{tmp_path}/t2m", "(7, 11, 13)", "float32", "scale=", "zero_point="):
        assert part in text


def test_missing_values_come_back() -> None:
    values = np.where(VALUES > 40, np.float32(np.nan), VALUES)
    array = quantize_to_zarr(values, MemoryStore(), nan_policy="propagate", chunks=(2, 3, 4))
    check(array, values, nan_policy="propagate")
    np.testing.assert_array_equal(np.isnan(array[...]), np.isnan(values))
    assert array.nan_code == -8


def test_a_level_that_the_dtype_cannot_hold_is_an_error_and_no_other_number() -> None:
    array = quantize_to_zarr(np.zeros(4, np.uint8), MemoryStore(), value_range=(-2000, -1000))
    with pytest.raises(StoreError, match="uint8 cannot hold"):
        array[...]
    with pytest.raises(StoreError, match="uint8 cannot hold"):
        array[::2]
