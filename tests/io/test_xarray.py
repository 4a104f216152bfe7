"""Datasets and trees of xarray's: every variable, and in its kept form what xarray decodes to the same again."""

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas
import pytest
import xarray
from stores import field

from quantize.exceptions import SourceError
from quantize.io import as_source, sources_of
from quantize.io.arrays import Arrays

VALUES = field((6, 4, 5))
TIMES = pandas.date_range("2000-01-01", periods=6, freq="6h").as_unit("ns")  # as xarray decodes times


def whole(array: Any) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in array.shape)


def weather() -> xarray.Dataset:
    """Times, text, flags, auxiliary coordinates, packed and lazy variables, and names for a grid."""
    dims = ("time", "y", "x")
    packed = np.where(VALUES > 40, np.nan, VALUES).round(1)
    found = xarray.Dataset(
        {
            "t2m": (dims, VALUES, {"units": "K", "grid_mapping": "crs"}),
            "packed": (dims, packed),
            "lazy": (dims, dask.array.from_array(VALUES.astype("f8"), (2, 4, 5))),
            "lazy_packed": (dims, dask.array.from_array(packed, (2, 4, 5))),
            "flags": (("y", "x"), VALUES[0] > 0),
            "step": ("time", pandas.to_timedelta(np.arange(6), "h").as_unit("ns")),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
            "letters": ("y", np.array(list("abcd"), "S1")),
            "codes": ("y", np.array(["ab", "c", "", "xyz"], "S3")),
            "words": ("y", np.array(["zwölf", "", "a", "b"], object)),
            "count": ("x", np.arange(5, dtype="u8")),
            "bounds_of_time": (("time", "ends"), np.stack([TIMES, TIMES + pandas.Timedelta("6h")], 1)),
        },
        {
            "time": ("time", TIMES, {"bounds": "bounds_of_time", "long_name": "time"}),
            "x": ("x", np.arange(5.0)),
            "lat": (("y", "x"), VALUES[0].astype("f8")),
            "issued": ((), np.datetime64("1999-12-31T18", "ns")),
            "name": ("y", np.array(["north", "b", "c", "south"])),
        },
        {"title": "weather", "levels": np.array([1, 2])},
    )
    for name in ("packed", "lazy_packed"):
        found[name].encoding = {"dtype": "i2", "scale_factor": 0.1, "add_offset": 20.0, "_FillValue": -32767}
    found["time"].encoding = {"units": "hours since 1900-01-01", "calendar": "standard", "dtype": "f8"}
    return found


def decoded_again(arrays: Arrays, path: str = "") -> xarray.Dataset:
    """What xarray decodes of what is kept of a group."""
    start = f"{path}/" if path else ""
    variables = {}
    for name in arrays:
        if name.startswith(start) and "/" not in name.removeprefix(start):
            raw = arrays.raw(name)
            variables[name.removeprefix(start)] = (raw.dimension_names or (), raw.read(whole(raw)), raw.attributes)
    return xarray.decode_cf(xarray.Dataset(variables, attrs=arrays.attributes[path]))


def test_what_is_kept_is_decoded_to_the_same() -> None:
    expected = weather()
    arrays = sources_of(expected)
    assert set(arrays) == set(expected.variables)
    assert arrays.coordinates == {"time", "x", "lat", "issued", "name"}
    assert arrays.attributes == {"": {"title": "weather", "levels": [1, 2]}}
    assert not arrays.nested
    found = decoded_again(arrays)
    expected.attrs["levels"] = [1, 2]
    for name in expected.variables:
        one, other = found.variables[name], expected.variables[name]
        assert one.dims == other.dims, name
        if name.endswith("packed"):
            np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
            np.testing.assert_allclose(one, other, atol=1e-6)
        else:
            assert one.identical(other), name
            assert one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "O", name
    assert set(found.coords) == set(expected.coords)
    assert found.attrs == expected.attrs


def test_what_is_kept_is_what_xarray_writes() -> None:
    raw = sources_of(weather()).raw("time")
    assert (raw.dtype, raw.attributes["units"]) == (np.float64, "hours since 1900-01-01")
    assert sources_of(weather()).raw("packed").dtype == np.int16
    assert sources_of(weather()).raw("t2m").attributes["coordinates"] == "issued lat name"


def test_lazy_variables_stay_lazy() -> None:
    counted = []

    def block(block_info: Any = None) -> np.ndarray:
        counted.append(block_info[None]["chunk-location"])
        return np.zeros((2, 4), "f4")

    lazy = dask.array.map_blocks(block, chunks=((2, 2, 2), (4,)), dtype="f4", meta=np.empty((0, 0), "f4"))
    data = xarray.Dataset({"a": (("t", "x"), lazy), "b": (("t", "x"), lazy)})
    data["b"].encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}
    for name in ("a", "b"):
        raw, source = sources_of(data).raw(name), sources_of(data)[name]
        assert (raw.chunks, raw.shared, source.chunks) == ((2, 4), True, (2, 4))
        assert not counted
        raw.read((slice(2, 4), slice(0, 4)))
        assert counted == [(1, 0)]
        assert source.graph((slice(0, 2), slice(0, 4))) is not None
        counted.clear()


def test_a_large_variable_of_a_file_is_encoded_as_it_is_read(tmp_path: Path) -> None:
    values = np.arange(600_000, dtype="f8").reshape(600, 1000) / 2
    packing = {"dtype": "i4", "scale_factor": 0.5, "_FillValue": -1, "chunksizes": (50, 1000)}
    xarray.Dataset({"x": (("t", "y"), values)}).to_netcdf(tmp_path / "x.nc", encoding={"x": packing}, engine="netcdf4")
    with xarray.open_dataset(tmp_path / "x.nc", engine="netcdf4") as data:
        arrays = sources_of(data)
        raw = arrays.raw("x")
        region = (slice(100, 150), slice(0, 1000))
        np.testing.assert_array_equal(raw.read(region), (2 * values[region]).astype("i4"), strict=True)
        np.testing.assert_array_equal(arrays["x"].read(region), values[region])
        assert (raw.chunks, raw.shared) == ((50, 1000), False)
        assert not data["x"].variable._in_memory


def test_fields_are_quantized_as_an_array_of_xarray_is() -> None:
    data = weather()
    arrays = sources_of(data)
    for name in ("t2m", "packed", "lazy", "lazy_packed"):
        source, alone = arrays[name], as_source(data[name])
        np.testing.assert_array_equal(source.read(whole(source)), data[name].values)
        np.testing.assert_array_equal(alone.read(whole(source)), data[name].values)
        assert source.dimension_names == alone.dimension_names == ("time", "y", "x")
        assert source.label == f"Dataset::{name}"
        assert source.attributes == {**alone.attributes, "coordinates": "issued lat name"}
    with pytest.raises(ValueError, match=r"Dataset holds several arrays: bounds_of_time .*Name one, as in Dataset::"):
        as_source(data)
    assert as_source(data, "t2m").shape == VALUES.shape
    assert sources_of(data).at("time").raw("").attributes["units"] == "hours since 1900-01-01"
    with pytest.raises(ValueError, match="no variable 'v'"):
        as_source(data, "v")


def test_names_of_related_variables_stay_with_a_field() -> None:
    data = weather()
    data["t2m"].encoding["grid_mapping"] = data["t2m"].attrs.pop("grid_mapping")  # as decode_coords="all" does
    assert sources_of(data)["t2m"].attributes["grid_mapping"] == "crs"


def test_a_tree_has_each_variable_where_it_is_defined() -> None:
    top = xarray.Dataset({"t": ("time", np.arange(3.0))}, {"time": ("time", TIMES[:3])}, {"title": "top"})
    deep = xarray.Dataset({"u": (("time", "z"), np.ones((3, 2)))}, {"z": ("z", [1.0, 2.0])}, {"level": 2})
    tree = xarray.DataTree.from_dict({"/": top, "/wind": None, "/wind/high": deep})
    arrays = sources_of(tree)
    assert list(arrays) == ["t", "time", "wind/high/u", "wind/high/z"]
    assert arrays.attributes == {"": {"title": "top"}, "wind": {}, "wind/high": {"level": 2}}
    assert arrays.coordinates == {"time", "wind/high/z"}
    assert arrays.nested
    assert decoded_again(arrays).identical(top)
    assert decoded_again(arrays, "wind/high").identical(deep)
    assert list(arrays.at("wind")) == ["high/u", "high/z"]
    assert as_source(tree, "/wind/high/u").label == "DataTree::wind/high/u"


def test_a_multiindex_is_refused_with_the_way_out() -> None:
    data = xarray.Dataset({"a": (("x", "y"), np.ones((2, 3)))}, {"x": [1, 2], "y": [1, 2, 3]}).stack(z=("x", "y"))
    arrays = sources_of(data)
    for name in ("z", "x"):
        with pytest.raises(SourceError, match=rf"Dataset::{name} is part of a MultiIndex.* call .reset_index\(\)"):
            arrays.raw(name)
    assert arrays.raw("a").shape == (6,)
    assert sources_of(data.reset_index("z")).raw("x").shape == (6,)


def test_what_cannot_be_encoded_is_named() -> None:
    twice = xarray.Dataset({"a": ("x", np.array([1.0, 2.0]), {"_FillValue": -9.0})})
    twice["a"].encoding = {"_FillValue": -1.0}
    objects = xarray.Dataset({"a": ("x", np.array([{}, "a"], object))})
    with pytest.raises(SourceError, match=r"Dataset::a cannot be encoded by xarray .*: mend its .attrs or .encoding"):
        sources_of(twice).raw("a")
    with pytest.raises(SourceError, match="Dataset::a has Python objects, which cannot be kept in Zarr"):
        sources_of(objects).raw("a")


def test_names_are_text() -> None:
    with pytest.raises(TypeError, match="names of variables must be str, and 3 is a int"):
        list(sources_of(xarray.Dataset({3: ("x", [1.0])})))


# What xarray wrote ----------------------------------------------------------------------------------------------------

WRITTEN = {
    "netCDF-4": lambda data, path: data.to_netcdf(path, engine="netcdf4"),
    "netCDF-3": lambda data, path: data.drop_vars("count").to_netcdf(path, engine="scipy"),
    "Zarr v2": lambda data, path: data.to_zarr(path, zarr_format=2, consolidated=False),
    "Zarr v3": lambda data, path: data.to_zarr(path, zarr_format=3, consolidated=False),
}


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore:The data type:FutureWarning")
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_kept_of_a_file_is_decoded_as_the_file_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    data = weather()
    data["flags"].encoding["_FillValue"] = None
    WRITTEN[kind](data, path)
    engine = {"netCDF-4": "netcdf4", "netCDF-3": "scipy"}.get(kind, "zarr")
    options: Any = {"consolidated": False} if engine == "zarr" else {}
    found = decoded_again(sources_of(path))
    with xarray.open_dataset(path, engine=engine, **options) as expected:
        for name in expected.variables:
            one, other = found.variables[name], expected.variables[name]
            assert one.identical(other), name
            assert one.dtype == other.dtype or one.dtype.kind in "OT", name
        assert found.identical(expected)
    assert set(sources_of(path)) == set(expected.variables)


@pytest.mark.parametrize("engine", ["netcdf4", "zarr"])
def test_groups_of_a_file(tmp_path: Path, engine: str) -> None:
    top = xarray.Dataset({"t": ("time", np.arange(3.0))}, {"time": ("time", TIMES[:3])}, {"title": "top"})
    deep = xarray.Dataset({"u": (("time", "z"), np.ones((3, 2)))}, {"z": ("z", [1.0, 2.0])}, {"level": 2})
    tree = xarray.DataTree.from_dict({"/": top, "/wind": None, "/wind/high": deep})
    if engine == "zarr":
        tree.to_zarr(tmp_path / "x", consolidated=False)
    else:
        tree.to_netcdf(tmp_path / "x", engine="netcdf4")
    arrays = sources_of(tmp_path / "x")
    assert list(arrays) == ["t", "time", "wind/high/u", "wind/high/z"]
    assert arrays.attributes == {"": {"title": "top"}, "wind": {}, "wind/high": {"level": 2}}
    assert arrays.nested
    assert decoded_again(arrays).identical(top)
    assert decoded_again(arrays, "wind/high").identical(deep)
    below = sources_of(f"{tmp_path / 'x'}::wind")
    assert list(below) == ["high/u", "high/z"]
    assert below.attributes == {"": {}, "high": {"level": 2}}
