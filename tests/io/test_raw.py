"""Arrays as they are stored: every dtype that Zarr has, of every format whose things hold several arrays."""

import pickle
from pathlib import Path
from typing import Any

import dask.array
import h5py
import ml_dtypes
import numpy as np
import pytest
import zarr

from quantize.exceptions import SourceError, UndeclaredValuesError
from quantize.io import sources_of
from quantize.io.raw import RawArray

TIMES = np.array(["2020-01-01", "NaT", "1969-12-31T23:00"], "M8[s]")
EVERY: dict[str, np.ndarray] = {
    "bool": np.array([[True, False], [False, True]]),
    "int8": np.arange(-3, 3, dtype="i1"),
    "uint64": np.array([0, 2**64 - 1], "u8"),
    "float16": np.array([1.5, np.nan, np.inf], "f2"),
    "float64": np.linspace(0, 1, 24).reshape(2, 3, 4),
    "big-endian": np.arange(5, dtype=">i4"),
    "complex64": np.array([1 + 2j, np.nan], "c8"),
    "datetime64": TIMES,
    "timedelta64": TIMES - TIMES[0],
    "S": np.array([b"ab", b"", b"\xff"], "S3"),
    "U": np.array(["zwölf", "", "x"]),
    "text": np.array(["zwölf", "", "a longer text"], object),
    "0-d": np.array(7, "i4"),
    "0-d text": np.array("EPSG:4326", object),
    "no values": np.zeros((0, 3), "f4"),
}


def whole(array: Any) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in array.shape)


def in_hdf5(folder: Path, arrays: dict[str, np.ndarray]) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        for name, values in arrays.items():
            if values.dtype.kind in "Mm":
                file.create_dataset(name, data=values.astype(h5py.opaque_dtype(values.dtype)))
            elif values.dtype.kind == "U":
                file.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
            else:
                file[name] = values
    return folder / "x.h5"


def in_zarr(folder: Path, arrays: dict[str, np.ndarray], version: Any = 3) -> Any:
    group = zarr.create_group(folder / "x.zarr", zarr_format=version)
    for name, values in arrays.items():
        if values.dtype.kind == "O":
            group.create_array(name, shape=values.shape, dtype=str)[...] = values
        else:
            group.create_array(name, data=values)
    return folder / "x.zarr"


PLACES = {
    "HDF5": in_hdf5,
    "Zarr": in_zarr,
    "Zarr v2": lambda folder, arrays: in_zarr(folder, arrays, 2),
    "dict": lambda folder, arrays: arrays,
    "dict of dask": lambda folder, arrays: {
        name: dask.array.from_array(values, values.shape) for name, values in arrays.items()
    },
}


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore:The data type:FutureWarning")
@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, make: Any) -> None:
    arrays = sources_of(make(tmp_path, EVERY))
    assert set(arrays) == set(EVERY)
    for name, values in EVERY.items():
        raw = arrays.raw(name)
        found = raw.read(whole(raw))
        any_length = values.dtype.kind == "O" or (name == "U" and make is in_hdf5)
        dtype = np.dtype(object) if any_length else values.dtype.newbyteorder("=")
        assert (raw.shape, raw.dtype, found.dtype) == (values.shape, dtype, dtype), name
        expected = values.astype(dtype)
        assert found.tolist() == expected.tolist() if any_length else found.tobytes() == expected.tobytes(), name
        if raw.shape and raw.shape[0] > 1:
            part = (slice(1, 2), *whole(raw)[1:])
            np.testing.assert_array_equal(raw.read(part), expected[part])
        if raw.shared:
            again = pickle.loads(pickle.dumps(raw))
            np.testing.assert_array_equal(again.read(whole(raw)), found)
    assert make is PLACES["dict"] or all(arrays.raw(name).shared for name in arrays)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_floats_of_ml_dtypes(dtype: Any) -> None:
    values = np.arange(6).astype(dtype)
    raw = sources_of({"x": values}).raw("x")
    assert raw.dtype == dtype
    assert raw.read(whole(raw)).tobytes() == values.tobytes()


def test_a_masked_array_keeps_its_mask() -> None:
    floats = np.ma.masked_greater(np.arange(6.0), 3)
    integers = np.ma.MaskedArray(np.arange(6), [0, 1, 0, 0, 0, 0], fill_value=-9)
    arrays = sources_of({"floats": floats, "integers": integers, "text": np.ma.MaskedArray(["a", "b"], [0, 1])})
    np.testing.assert_array_equal(arrays.raw("floats").read((slice(2, 6),)), [2, 3, np.nan, np.nan])
    raw = arrays.raw("integers")
    assert raw.attributes == {"_FillValue": -9}
    np.testing.assert_array_equal(raw.read((slice(0, 3),)), [0, -9, 2])
    with pytest.raises(TypeError, match=r"^'text': dtype <U1 is not float16"):
        arrays.raw("text")


# What cannot be kept --------------------------------------------------------------------------------------------------


def strange(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["t"] = np.zeros((2, 2))
        file.create_dataset("references", data=file["t"].ref, dtype=h5py.ref_dtype)
        file.create_dataset("sequences", (2,), h5py.vlen_dtype("i4"))
        file["compound"] = np.zeros(3, [("a", "i4"), ("b", "f4")])
        file["arrays"] = np.zeros(3, np.dtype(("i4", (2,))))
        file.create_dataset("subarrays", (3,), np.dtype(("i4", (2,))))
        file["nothing"] = h5py.Empty("f4")
        file["opaque"] = np.zeros(3, "V5")
        file["long"] = np.zeros(3, np.longdouble)
        file["latin"] = np.array([b"\xe4"], object)
        file["gone"] = h5py.SoftLink("/no/such")
    return folder / "x.h5"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("references", "has references, which cannot be kept in Zarr: leave it out by select="),
        ("sequences", "has sequences of several lengths, which"),
        ("compound", "has compound values, which"),
        ("subarrays", "has arrays as its elements, which"),
        ("nothing", "is a dataset without a shape: leave it out by select="),
        ("opaque", r"has the dtype \|V5, which"),
        ("long", "has the dtype float128, which"),
        ("gone", "is a link to /no/such, and there is nothing"),
    ],
)
def test_what_cannot_be_kept_is_named_and_hides_nothing_else(tmp_path: Path, name: str, message: str) -> None:
    arrays = sources_of(strange(tmp_path))
    assert name in arrays
    with pytest.raises(SourceError, match=rf"x.h5::/?{name} {message}"):
        arrays.raw(name)
    assert arrays.raw("t").shape == (2, 2)


def test_text_that_is_none_is_refused_as_it_is_read(tmp_path: Path) -> None:
    raw = sources_of(strange(tmp_path)).raw("latin")
    with pytest.raises(SourceError, match=r"x.h5::/latin has text that is no UTF-8 .*: leave it out by select="):
        raw.read(whole(raw))
    with pytest.raises(
        SourceError, match="'x': array in memory has Python objects that are not all text, which cannot be kept"
    ):
        sources_of({"x": np.array(["a", None])}).raw("x")
    lazy = sources_of({"x": dask.array.from_array(np.array(["a", 1.5], object), (2,))}).raw("x")
    with pytest.raises(UndeclaredValuesError, match=r"'x', dask array gave 1.5, which is a float and no text"):
        lazy.read((slice(0, 2),))


@pytest.mark.parametrize(
    "given", [np.zeros(3), np.zeros(2, "f4"), np.zeros((2, 1)), np.ma.masked_array(np.zeros(2), [0, 1]), ["a", "b"]]
)
def test_what_is_read_is_what_was_declared(given: Any) -> None:
    raw = RawArray("thing", (2,), np.dtype("f8"), lambda region: given)
    with pytest.raises(
        UndeclaredValuesError, match=r"^thing gave .* for the region \[0:2\], of shape \(2,\) and dtype"
    ):
        raw.read((slice(0, 2),))
