"""Arrays as they are stored: every dtype that Zarr has, of every format whose things hold several arrays."""

import collections
import pickle
import threading
import types
from pathlib import Path
from typing import Any

import dask.array
import h5py
import ml_dtypes
import netCDF4
import numpy as np
import pytest
import xarray
import zarr

from quantize import quantize_to_zarr
from quantize.exceptions import SourceError, UndeclaredValuesError
from quantize.io import as_source, sources_of
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


def test_text_in_hdf5_that_is_said_to_be_ascii_is_utf_8_all_the_same(tmp_path: Path) -> None:
    """As the libraries of netCDF-4 take it."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=["zwölf".encode()], dtype=h5py.string_dtype("ascii"))
    assert sources_of(tmp_path / "x.h5").raw("x").read((slice(0, 1),)).tolist() == ["zwölf"]


def test_a_graph_runs_in_the_thread_that_reads() -> None:
    def block(values: np.ndarray) -> np.ndarray:
        return np.full_like(values, threading.get_ident())

    lazy = dask.array.zeros((4, 3), chunks=(1, 3), dtype="i8").map_blocks(block, dtype="i8")
    for thing in ({"x": lazy}, xarray.Dataset({"x": (("y", "z"), lazy)})):
        raw = sources_of(thing).raw("x")
        assert np.unique(raw.read(whole(raw))).tolist() == [threading.get_ident()]


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
        ("references", "has references, which cannot be kept in Zarr: leave it out by drop="),
        ("sequences", "has sequences of several lengths, which"),
        ("compound", "has compound values, which"),
        ("subarrays", "has arrays as its elements, which"),
        ("nothing", "is a dataset without a shape: leave it out by drop="),
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
    with pytest.raises(SourceError, match=r"x.h5::/latin has text that is no UTF-8 .*: leave it out by drop="):
        raw.read(whole(raw))
    with pytest.raises(SourceError, match="'x': array in memory has Python objects, which cannot be kept"):
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


# What an array says of itself ---------------------------------------------------------------------------------------


def netcdf(path: Path) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        for name, length in {"time": None, "lat": 3, "lon": 4, "ends": 2}.items():
            file.createDimension(name, length)
        file.setncatts({"title": "x", "empty": "", "list": ["a", "b"]})
        time = file.createVariable("time", "f8", ("time",), chunksizes=(16,))
        time.setncatts({"units": "days since 2000-01-01", "bounds": "time_bnds"})
        time[:] = [0, 1]
        file.createVariable("time_bnds", "f8", ("time", "ends"))[:] = [[0, 1], [1, 2]]
        field = file.createVariable("t", "i2", ("time", "lat", "lon"), fill_value=-1, chunksizes=(1, 3, 4))
        field.setncatts({"scale_factor": 0.5, "coordinates": "label", "nothing": ""})
        field[:] = 1
        file.createVariable("label", str, ("lat",), fill_value="none")[:] = np.array(["a", "bb", "zwölf"], object)
        clouds = file.createEnumType("i1", "cloud_t", {"clear": 0, "cloudy": 3})
        file.createVariable("cloud", clouds, ("lat",))[:] = [0, 3, 0]
        file.createVariable("lon", "f8", ("lat", "lon"))[:] = 1  # not along the dimension of that name
        file.createVariable("height", "f8", ())[:] = 2
        inner = file.createGroup("sub")
        inner.note = "inner"
        inner.createDimension("z", 2)
        inner.createVariable("z", "f4", ("z", "lat"))[:] = 3  # of two axes, the first of which it is named after
        inner.createGroup("empty")
    return path


def test_netcdf_4_as_its_library_has_it(tmp_path: Path) -> None:
    arrays = sources_of(netcdf(tmp_path / "x.nc"))
    with netCDF4.Dataset(tmp_path / "x.nc") as file:
        file.set_auto_mask(False)
        file.set_auto_scale(False)
        expected = {**file.variables, **{f"sub/{name}": one for name, one in file["sub"].variables.items()}}
        assert set(arrays) == set(expected)
        for name, one in expected.items():
            raw = arrays.raw(name)
            assert (raw.shape, raw.dimension_names or ()) == (one.shape, one.dimensions), name
            said = {key: one.getncattr(key) for key in one.ncattrs()}
            assert raw.attributes == (said if name != "cloud" else {**said, **FLAGS}), name
            np.testing.assert_array_equal(raw.read(whole(raw)), one[...])
    assert arrays.attributes == {
        "": {"title": "x", "empty": "", "list": ["a", "b"]},
        "sub": {"note": "inner"},
        "sub/empty": {},
    }
    assert arrays.nested
    assert (arrays.raw("t").chunks, arrays.raw("time").chunks) == ((1, 3, 4), (16,))
    assert sources_of(f"{tmp_path / 'x.nc'}::lon").raw("").dimension_names == ("lat", "lon")


FLAGS = {"flag_values": [0, 3], "flag_meanings": "clear cloudy"}


def test_single_numbers_are_not_meant_where_no_array_is_named(tmp_path: Path) -> None:
    for thing in (
        in_zarr(tmp_path, {"crs": np.array(0), "t": np.zeros((2, 3))}),
        in_hdf5(tmp_path, {"crs": np.array(0), "t": np.zeros((2, 3))}),
        {"crs": np.array(0), "t": np.zeros((2, 3))},
        xarray.Dataset({"crs": ((), 0), "t": (("y", "x"), np.zeros((2, 3)))}),
    ):
        assert set(sources_of(thing)) == {"crs", "t"}
        assert as_source(thing).shape == (2, 3)
        with pytest.raises(ValueError, match="has no axes"):
            as_source(thing, "crs")
    with pytest.raises(ValueError, match="Dataset is a group without arrays that have axes"):
        as_source(xarray.Dataset({"crs": ((), 0)}))


@pytest.mark.parametrize("version", [2, 3])
def test_groups_and_attributes_of_zarr(tmp_path: Path, version: Any) -> None:
    group = zarr.create_group(tmp_path / "x", zarr_format=version, attributes={"title": "x", "_NCZARR_GROUP": {}})
    group.create_group("a/b", attributes={"level": 2})
    said = {"units": "K", "valid_min": -5, "scale_factor": 0.1}
    group.create_array("a/t", shape=(5, 4), chunks=(2, 4), dtype="i2", fill_value=7, attributes=said)[:2] = 1
    arrays = sources_of(tmp_path / "x")
    assert arrays.attributes == {"": {"title": "x"}, "a": {}, "a/b": {"level": 2}}
    assert sources_of(f"{tmp_path / 'x'}::a").attributes == {"": {}, "b": {"level": 2}}
    raw = arrays.raw("a/t")
    assert (raw.attributes, raw.chunks, raw.dimension_names) == (said, (2, 4), None)
    np.testing.assert_array_equal(raw.read(whole(raw))[:, 0], [1, 1, 7, 7, 7])  # absent chunks are the fill value
    assert sources_of(f"{tmp_path / 'x'}/a/t").attributes == {"": {}}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [-9999.0, np.nan, 0.0, None])
def test_the_fill_value_that_xarray_keeps(tmp_path: Path, version: Any, fill: float | None) -> None:
    data = xarray.Dataset({"t": ("x", np.arange(3, dtype="f4"))})
    data.to_zarr(tmp_path / "x", zarr_format=version, consolidated=False, encoding={"t": {"_FillValue": fill}})
    said = sources_of(tmp_path / "x").raw("t").attributes
    assert said.keys() == ({"_FillValue"} if fill is not None else set())
    np.testing.assert_equal(said.get("_FillValue"), fill)


def test_our_own_arrays_are_not_kept(tmp_path: Path) -> None:
    quantize_to_zarr(np.ones((4, 6), "f4"), tmp_path / "z")
    with pytest.raises(SourceError, match="data is int4 already: read it with open_int4"):
        sources_of(tmp_path / "z").raw("data")


# Mappings -----------------------------------------------------------------------------------------------------------


def test_a_mapping_of_anything_that_is_one_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    grouped = in_zarr(tmp_path, {"only": np.ones((2, 3))})
    things: dict[str, Any] = {
        "model.layers/0:weight": np.ones((2, 3)),
        "file": tmp_path / "x.npy",
        "group": grouped,
        "inside": f"{grouped}::only",
        "zarr": zarr.open_array(f"{grouped}/only", mode="r"),
        "dask": dask.array.ones((2, 3)),
        "xarray": xarray.DataArray(np.ones((2, 3)), dims=("y", "x")),
    }
    for mapping in (things, types.MappingProxyType(things), collections.OrderedDict(things)):
        arrays = sources_of(mapping)
        assert list(arrays) == sorted(things)
        assert (arrays.nested, arrays.attributes, arrays.coordinates) == (False, {"": {}}, frozenset())
        for name in things:
            source, raw = arrays[name], arrays.raw(name)
            assert source.label.startswith(f"{name!r}, ")
            assert source.read(whole(source)).sum() == raw.read(whole(raw)).sum() == 6
            assert as_source(mapping, name).shape == (2, 3)
    assert sources_of(things).raw("xarray").dimension_names == ("y", "x")


def test_a_mapping_leaves_what_it_holds_as_it_is() -> None:
    source = as_source(np.ones((2, 3)))
    assert sources_of({"a": source})["a"].label == "'a', array in memory"
    assert source.label == "array in memory"


@pytest.mark.parametrize(
    ("thing", "error", "message"),
    [
        ({"a": "no/such.npy"}, FileNotFoundError, "no/such.npy does not exist"),
        ({"a": [1.0, 2.0]}, TypeError, "^'a': source is a list, but must be"),
        (
            {"a": {"b": np.ones(3), "c": np.ones(3)}},
            ValueError,
            "^'a': dict holds several arrays: b .*Name one, as in b",
        ),
        ({"a": np.array(3.0)}, ValueError, "^dict is a group without arrays that have axes"),
        ({3: np.ones(2)}, TypeError, "names of arrays must be str, and 3 is a int"),
        ({}, ValueError, "dict is a group without arrays"),
    ],
)
def test_what_a_mapping_cannot_hold(thing: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_source(thing)
