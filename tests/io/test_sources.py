"""Whatever the user has gives the same store as the array it holds; what cannot be read says why."""

import base64
import io
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import mostly_slow
from stores import Counting, check, field
from strategies import DTYPES
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, SourceChangedError, plan, quantize_to_zarr
from quantize.io import as_source

VALUES = field((13, 10, 7))

JOBS: list[dict[str, Any]] = [
    {},
    {"chunks": (5, 4, 4), "workers": 3},
    {"chunks": (3, 3, 2), "shards": (6, 9, 4), "compressors": "gzip"},
    {"chunks": (13, 1, 7), "value_range": (-20, 30), "nan_policy": "propagate"},
]


def saved(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


def part_of_map(folder: Path) -> np.ndarray:
    bigger = np.concatenate([VALUES[:2], VALUES, VALUES[:1]])
    return np.load(saved(folder, bigger), mmap_mode="r")[2:-1]


def strided_map(folder: Path) -> np.ndarray:
    return np.load(saved(folder, np.repeat(VALUES, 2, axis=1)), mmap_mode="r")[:, ::2]


def raw_map(folder: Path) -> np.ndarray:
    (folder / "raw").write_bytes(b"header!" + VALUES.tobytes("F"))
    return np.memmap(folder / "raw", np.float32, "r", 7, VALUES.shape, "F")


def private_map(folder: Path) -> np.ndarray:
    mapped = np.load(saved(folder, VALUES * 0), mmap_mode="c")
    mapped[...] = VALUES
    return mapped


def zarr_path(folder: Path, **options: Any) -> Path:
    zarr.create_array(folder / "z.zarr", data=VALUES, **{"chunks": (4, 3, 3), **options})
    return folder / "z.zarr"


def zarr_v2(folder: Path) -> Path:
    old = zarr.create_array(
        folder / "z.zarr", shape=VALUES.shape, dtype=">f4", chunks=(4, 3, 3), order="F", zarr_format=2
    )
    old[...] = VALUES
    return folder / "z.zarr"


def zarr_group(folder: Path) -> Path:
    group = zarr.create_group(folder / "g.zarr")
    group.create_array("weather/t", data=VALUES, chunks=(4, 3, 3))
    group.create_array("weather/lat", data=np.zeros(3))
    return folder / "g.zarr" / "weather" / "t"


def zarr_only_one(folder: Path) -> Path:
    zarr.create_group(folder / "g.zarr").create_array("deep/inside/t", data=VALUES)
    return folder / "g.zarr"


def hdf5(folder: Path, **options: Any) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("group/x", data=VALUES, **options)
    return folder / "x.h5"


def h5py_dataset(folder: Path) -> Any:
    return h5py.File(hdf5(folder, chunks=(4, 3, 3), compression="gzip"), "r")["group/x"]


SOURCES: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: VALUES,
    "fortran array": lambda folder: np.asfortranarray(VALUES),
    "reversed": lambda folder: VALUES[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "strided": lambda folder: np.repeat(VALUES, 3, axis=2)[..., ::3],
    "big-endian": lambda folder: VALUES.astype(">f4"),
    "npy": lambda folder: saved(folder, VALUES),
    "npy by name": lambda folder: str(saved(folder, VALUES)),
    "fortran npy": lambda folder: saved(folder, np.asfortranarray(VALUES)),
    "big-endian npy": lambda folder: saved(folder, VALUES.astype(">f4")),
    "memmap": lambda folder: np.load(saved(folder, VALUES), mmap_mode="r"),
    "transposed memmap": lambda folder: np.load(saved(folder, VALUES.T.copy()), mmap_mode="r").T,
    "part of a memmap": part_of_map,
    "strided memmap": strided_map,
    "raw memmap": raw_map,
    "private memmap": private_map,
    "zarr v3": zarr_path,
    "sharded zarr": lambda folder: zarr_path(folder, shards=(8, 6, 6)),
    "plain zarr": lambda folder: zarr_path(folder, compressors=None, chunks=VALUES.shape),
    "zarr v2": zarr_v2,
    "zarr in a group": zarr_group,
    "only zarr in a group": zarr_only_one,
    "zarr array": lambda folder: zarr.open_array(zarr_path(folder)),
    "zarr in memory": lambda folder: zarr.create_array(MemoryStore(), data=VALUES, chunks=(4, 3, 3)),
    "hdf5": hdf5,
    "chunked hdf5": lambda folder: hdf5(folder, chunks=(4, 3, 3), compression="gzip"),
    "hdf5 by name": lambda folder: f"{hdf5(folder)}::group/x",
    "h5py dataset": h5py_dataset,
    "dask": lambda folder: dask.array.from_array(VALUES, chunks=(4, 3, 3)),
    "uneven dask": lambda folder: dask.array.from_array(VALUES, chunks=((1, 9, 3), (7, 2, 1), (5, 2))),
    "dask expression": lambda folder: (dask.array.from_array(VALUES, chunks=4)[::-1] * 2)[::-1] / 2,
    "anything": lambda folder: Counting(VALUES),
}


@pytest.mark.parametrize("job", mostly_slow(JOBS, JOBS[1:2]), ids=str)
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same(tmp_path: Path, name: str, job: dict[str, Any]) -> None:
    options = {key: job[key] for key in ("value_range", "nan_policy") if key in job}
    check(quantize_to_zarr(SOURCES[name](tmp_path), MemoryStore(), **job), VALUES, **options)


@pytest.mark.parametrize("name", ["npy", "raw memmap", "zarr v3", "chunked hdf5", "h5py dataset"])
def test_a_source_that_others_can_read_survives_a_pickle(tmp_path: Path, name: str) -> None:
    source = as_source(SOURCES[name](tmp_path))
    assert source.shared
    again = pickle.loads(pickle.dumps(source))
    region = (slice(2, 9), slice(1, 4), slice(2, 7))
    np.testing.assert_array_equal(again.read(region), VALUES[region])
    assert again.digest() == source.digest()


@pytest.mark.parametrize("name", mostly_slow(SOURCES, [*SOURCES][::3]))
@settings(max_examples=10)
@given(data=st.data())
def test_pieces_cover_a_region_once(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    source = as_source(SOURCES[name](tmp_path_factory.mktemp("source")))
    ends = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in source.shape]
    ends[-1][0] -= ends[-1][0] % 2
    region = tuple(slice(*pair) for pair in ends)
    found = np.full(VALUES.shape, np.nan, np.float32)
    for piece in source.pieces(region):
        assert np.isnan(found[piece]).all()
        assert (piece[-1].start - region[-1].start) % 2 == 0
        found[piece] = source.read(piece)
    np.testing.assert_array_equal(found[region], VALUES[region])
    assert np.isnan(found).sum() == VALUES.size - VALUES[region].size


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_through_a_file(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    values = field((50, 3)).astype(np.int8).astype(dtype)
    if dtype == ml_dtypes.bfloat16:  # .npy has no name for it
        mapped = np.memmap(tmp_path / "raw", dtype, "w+", shape=values.shape)
        mapped[...] = values
        check(quantize_to_zarr(mapped, MemoryStore(), chunks=(7, 2)), values)
    else:
        check(quantize_to_zarr(saved(tmp_path, values), MemoryStore(), chunks=(7, 2)), values)
        check(quantize_to_zarr(zarr.create_array({}, data=values), MemoryStore(), chunks=(7, 2)), values)


# Missing values -----------------------------------------------------------------------------------------------------

SENTINEL = np.float32(-9999)
MASKED = np.where(VALUES > 40, SENTINEL, VALUES)
KEPT = np.where(VALUES > 40, np.float32(np.nan), VALUES)


def encoded(value: float) -> str:
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


@pytest.mark.parametrize(
    "attributes",
    [
        {"_FillValue": -9999.0},
        {"missing_value": -9999},
        {"_FillValue": [-9999.0], "missing_value": -9999.0},
        {"_FillValue": encoded(-9999.0)},
        {"_FillValue": encoded(math.nan), "missing_value": -9999.0},
        {"_FillValue": " -9999. "},
    ],
    ids=str,
)
def test_declared_missing_values_are_kept_or_refused(attributes: dict[str, Any]) -> None:
    source = zarr.create_array(MemoryStore(), data=MASKED, chunks=(4, 3, 3), attributes=attributes)
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    check(array, KEPT, nan_policy="propagate")
    assert array.missing == -9999
    count = int((MASKED == SENTINEL).sum())
    first = tuple(int(i) for i in np.argwhere(MASKED == SENTINEL)[0])
    store = MemoryStore()
    with pytest.raises(RefusedValuesError, match=rf"{count} missing \(the declared value -9999.0\).*") as caught:
        quantize_to_zarr(source, store)
    assert f"at index {first}" in str(caught.value)
    assert 'nan_policy="propagate"' in str(caught.value)
    assert store._store_dict == {}
    check(quantize_to_zarr(source, MemoryStore(), missing=None), MASKED)


def test_a_missing_value_that_is_named() -> None:
    check(quantize_to_zarr(MASKED, MemoryStore(), missing=-9999, nan_policy="propagate"), KEPT, nan_policy="propagate")
    for missing in ("nothing", 10**40, [1]):
        with pytest.raises(ValueError, match="but must be 'declared', None, or a number that float32 holds"):
            plan(MASKED, MemoryStore(), missing=missing)


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "i8"])
def test_a_missing_integer_comes_back_as_itself(dtype: str) -> None:
    sentinel = np.iinfo(dtype).max
    values = np.array([[0, 10, sentinel], [100, 60, 0], [sentinel, 20, 30]], dtype)
    source = zarr.create_array(MemoryStore(), data=values, chunks=(2, 2), attributes={"_FillValue": int(sentinel)})
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    restored = array[...]
    np.testing.assert_array_equal(restored == sentinel, values == sentinel)
    assert array.metadata.statistics == {"count": 7, "min": 0.0, "max": 100.0, "missing": 2}
    there = values != sentinel
    assert np.abs(restored[there].astype(float) - values[there].astype(float)).max() <= array.max_error + 0.5


def test_two_missing_values_are_both_taken() -> None:
    attributes = {"_FillValue": -9999.0, "missing_value": 1e20}
    values = np.where(VALUES > 40, np.float32(1e20), np.where(VALUES < -10, SENTINEL, VALUES))
    source = zarr.create_array(MemoryStore(), data=values, attributes=attributes)
    kept = np.where((VALUES > 40) | (VALUES < -10), np.float32(np.nan), VALUES)
    check(quantize_to_zarr(source, MemoryStore(), nan_policy="propagate"), kept, nan_policy="propagate")


def test_hdf5_declares_missing_values_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=MASKED).attrs["_FillValue"] = SENTINEL
    check(quantize_to_zarr(tmp_path / "x.h5", MemoryStore(), nan_policy="propagate"), KEPT, nan_policy="propagate")


def test_a_mask_is_not_dropped() -> None:
    class Masking(Counting):
        def __getitem__(self, index: Any) -> Any:
            return np.ma.masked_greater(self.values[index], 40)

    count = int((VALUES > 40).sum())
    for source in (np.ma.masked_greater(VALUES, 40), Masking(VALUES)):
        with pytest.raises(RefusedValuesError, match=rf"the data hold {count} NaN"):
            quantize_to_zarr(source, MemoryStore())
        check(quantize_to_zarr(source, MemoryStore(), nan_policy="propagate"), KEPT, nan_policy="propagate")


def test_what_a_source_says_of_itself_comes_along() -> None:
    attributes = {"units": "K", "actual_range": [0, 330.5], "_FillValue": encoded(math.nan), "nested": {"a": [None]}}
    source = zarr.create_array(MemoryStore(), data=VALUES, attributes=attributes, dimension_names=["t", "y", None])
    array = quantize_to_zarr(source, MemoryStore())
    assert (array.attributes, array.dimension_names) == (attributes, ("t", "y", None))
    assert array.packed.metadata.dimension_names == ("t", "y", None)
    named = zarr.create_array(MemoryStore(), data=VALUES, dimension_names=["t", "y", "x"])
    assert quantize_to_zarr(named, MemoryStore()).packed.metadata.dimension_names == ("t", "y", "x_packed")


def test_packed_bytes_have_no_attribute_that_other_readers_would_apply() -> None:
    attributes = {"scale_factor": 0.5, "add_offset": 3, "_FillValue": -1}
    source = zarr.create_array(MemoryStore(), data=VALUES.astype("i2"), attributes=attributes)
    for decode in (True, False):
        array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", decode=decode)
        assert set(array.packed.attrs) == {"scale", "zero_point", "int4"}
        assert array.attributes == ({} if decode else attributes)


# What cannot be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "c8", "U3", "S3", "O", "M8[s]", "f4,i4"])
def test_dtypes_without_a_code(dtype: str) -> None:
    values = np.zeros(3, dtype)
    for source in (values, Counting(values), dask.array.from_array(values, chunks=2)):
        with pytest.raises(TypeError, match="float16, bfloat16, float32, float64 or an integer"):
            quantize_to_zarr(source, MemoryStore())


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_no_values(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.float32)
    for source in (values, saved(tmp_path, values), Counting(values), zarr.create_array({}, data=values)):
        with pytest.raises(ValueError, match="no values"):
            quantize_to_zarr(source, tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_a_single_number_and_things_that_are_no_arrays() -> None:
    with pytest.raises(ValueError, match="no axes"):
        quantize_to_zarr(np.float32(3) * np.ones(()), MemoryStore())
    for source in ([1.0, 2.0], 3.0, None, object()):
        with pytest.raises(TypeError, match="but must be a path"):
            quantize_to_zarr(source, MemoryStore())


def test_chunks_of_unknown_size() -> None:
    lazy = dask.array.from_array(VALUES[:, 0, 0], chunks=4)
    unknown = lazy[lazy > 0]
    with pytest.raises(ValueError, match=r"unknown size.*compute_chunk_sizes"):
        quantize_to_zarr(unknown, MemoryStore())
    values = VALUES[:, 0, 0]
    check(quantize_to_zarr(unknown.compute_chunk_sizes(), MemoryStore()), values[values > 0])


def several(folder: Path) -> Path:
    group = zarr.create_group(folder / "z")
    group.create_array("t", data=VALUES)
    group.create_array("q/u", data=VALUES[0])
    return folder / "z"


def several_in_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["t"], file["q/u"] = VALUES, VALUES[0]
    return folder / "x.h5"


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def npy_bytes(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: f / "no.npy", FileNotFoundError, "no.npy does not exist"),
        (lambda f: several(f) / "w", FileNotFoundError, "w does not exist; .*z holds q, q/u, t"),
        (lambda f: written(f, "x.tif", b"II"), ValueError, "x.tif has a format that is not known.*npy, Zarr, HDF5"),
        (lambda f: written(f, "x.npy", b""), ValueError, "x.npy is no .npy file: it is empty"),
        (lambda f: written(f, "x.npy", b"PK\x03\x04 nothing"), ValueError, "x.npy is no whole zip archive"),
        (lambda f: written(f, "x.npy", b"\x93NUMPY\x09\x00"), ValueError, "x.npy is no whole .npy file"),
        (lambda f: written(f, "x.npy", npy_bytes(VALUES)[:-1]), ValueError, "x.npy is no whole .npy file"),
        (lambda f: written(f, "x.npy", npy_bytes(np.array([{}]), allow_pickle=True)), TypeError, "Python objects"),
        (lambda f: f, ValueError, "is no Zarr array or group"),
        (
            several,
            ValueError,
            r"several arrays: q/u \(10, 7\) float32, t \(13, 10, 7\) float32. Name one, as .*z/q/u",
        ),
        (lambda f: zarr_only_one(f) / "deep" / "x", FileNotFoundError, "holds|does not exist"),
        (several_in_hdf5, ValueError, r"several arrays: q/u .* Name one, as in .*x.h5::/q/u"),
        (lambda f: f"{several_in_hdf5(f)}::w", ValueError, "no dataset 'w'; it holds q/u, t"),
        (lambda f: written(f, "x.h5", b"no HDF5"), ValueError, "x.h5 is no HDF5 file"),
    ],
)
def test_paths_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    source = make(tmp_path)
    with pytest.raises(error, match=message):
        quantize_to_zarr(source, tmp_path / "result")
    assert not (tmp_path / "result").exists()


def test_an_empty_group(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "z")
    with pytest.raises(ValueError, match="without arrays"):
        quantize_to_zarr(tmp_path / "z", MemoryStore())


def test_our_own_store_is_no_source(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path / "z")
    with pytest.raises(ValueError, match="int4 already"):
        quantize_to_zarr(tmp_path / "z" / "data", MemoryStore())
    with pytest.raises(ValueError, match="int4 already"):
        quantize_to_zarr(tmp_path / "z", MemoryStore())


def test_a_source_that_gives_something_else_than_it_said() -> None:
    class Liar(Counting):
        def __getitem__(self, index: Any) -> Any:
            return self.values[index][..., :-1]

    with pytest.raises(TypeError, match=r"gave an array of shape \(13, 10, 6\)"):
        quantize_to_zarr(Liar(VALUES), MemoryStore())


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    source = as_source(saved(tmp_path, VALUES))
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(SourceChangedError, match=r"x.npy ended at byte 200"):
        source.read(tuple(slice(0, n) for n in VALUES.shape))


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.zarr"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is a pipe or a device"):
        as_source(tmp_path / name)
