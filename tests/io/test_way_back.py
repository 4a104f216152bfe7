"""The way back: what `restore` writes opens in xarray, Zarr and tensorstore, with names, numbers and missing values."""

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from quantize import quantize_to_zarr, restore

COUNTS = np.random.default_rng(0).integers(-20000, 20000, (12, 20)).astype(np.int16)
COUNTS[3, 4:9] = -32768


def netcdf(folder: Path, dtype: Any = np.int16) -> str:
    """A file as netCDF-4 writes it: scales for dimensions, attributes of one element."""
    with h5py.File(folder / "x.nc", "w") as file:
        for name, n in (("lat", 12), ("lon", 20)):
            file.create_dataset(name, data=np.linspace(0, 1, n)).make_scale(name)
        made = file.create_dataset("t", data=COUNTS.astype(dtype), chunks=(5, 20))
        for place, name in enumerate(("lat", "lon")):
            made.dims[place].attach_scale(file[name])
        made.attrs["_FillValue"] = np.array([-32768], dtype)
        made.attrs["scale_factor"] = np.array([0.01])
        made.attrs["add_offset"] = np.array([273.15])
        made.attrs["units"] = "K"
        made.attrs["valid_range"] = np.array([-32000, 32000], dtype)
        made.attrs["level"] = np.array([850.0])
        made.attrs["nothing"] = math.nan
    return f"{folder}/x.nc::t"


def restored(folder: Path, **options: Any) -> Path:
    quantize_to_zarr(netcdf(folder), folder / "s", nan_policy="propagate", **options)
    zarr.create_group(folder / "back", overwrite=True)
    restore(folder / "s", folder / "back" / "t")
    return folder / "back"


def no_constant(name: str) -> Any:
    raise ValueError(name)


def test_dimensions_of_netcdf_4(tmp_path: Path) -> None:
    array = quantize_to_zarr(netcdf(tmp_path), tmp_path / "s", nan_policy="propagate")
    assert array.dimension_names == ("lat", "lon")
    assert quantize_to_zarr(f"{tmp_path}/x.nc::lat", tmp_path / "s", name="lat").dimension_names == ("lat",)


@pytest.mark.parametrize("decode", [True, False])
def test_xarray_opens_what_is_restored(tmp_path: Path, decode: bool) -> None:
    xarray = pytest.importorskip("xarray")
    back = restored(tmp_path, decode=decode)
    with xarray.open_zarr(back, consolidated=False) as opened:
        values, attributes = opened["t"].values, opened["t"].attrs
        assert opened["t"].dims == ("lat", "lon")
    expected = np.where(COUNTS == -32768, np.nan, COUNTS * 0.01 + 273.15)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    assert np.nanmax(np.abs(values - expected)) <= 0.01 * np.ptp(COUNTS[COUNTS > -32768].astype(float)) / 14 / 2 + 0.02
    assert attributes == {"units": "K", "level": 850.0, "nothing": "NaN"}


def test_zarr_and_tensorstore_open_what_is_restored(tmp_path: Path) -> None:
    import tensorstore

    back = restored(tmp_path)
    document = json.loads((back / "t" / "zarr.json").read_text(), parse_constant=no_constant)
    assert document["dimension_names"] == ["lat", "lon"]
    assert document["attributes"]["_FillValue"] == "AAAAAAAA+H8="
    plainly = zarr.open_array(back / "t", mode="r")[...]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{back}/t/"}}
    other = tensorstore.open(spec, read=True, open=True).result()
    np.testing.assert_array_equal(other[...].read().result(), plainly)
    assert other.domain.labels == ("lat", "lon")


def test_integers_keep_their_missing_value(tmp_path: Path) -> None:
    back = restored(tmp_path, decode=False)
    attributes = dict(zarr.open_array(back / "t", mode="r").attrs)
    assert attributes["_FillValue"] == -32768
    assert attributes["scale_factor"] == 0.01
    assert "valid_range" not in attributes


def test_what_has_no_missing_values_declares_none(tmp_path: Path) -> None:
    said = {"_FillValue": -9999.0, "missing_value": 1e20}
    source = zarr.create_array(tmp_path / "a", data=np.arange(-9, 3.0), attributes=said)
    quantize_to_zarr(source, tmp_path / "s", missing=None)
    restore(tmp_path / "s", tmp_path / "back")
    assert dict(zarr.open_array(tmp_path / "back", mode="r").attrs) == {}
