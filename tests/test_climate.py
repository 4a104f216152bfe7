"""The way of a user with fields: one command, then xarray, from every format that xarray writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from marks import mostly_slow

from quantize import open_int4
from quantize.cli import commands as cli

FIELDS = ("t2m", "sst", "msl")


def dataset(seed: int = 0) -> xr.Dataset:
    """A field of floats, one that is packed and has gaps, one of doubles; masks, bounds, a calendar of its own."""
    random = np.random.default_rng(seed)
    axes, shape = ("time", "latitude", "longitude"), (12, 19, 36)
    t2m = (280 + 20 * random.normal(size=shape)).astype(np.float32)
    latitude = np.linspace(90, -90, 19)
    return xr.Dataset(
        {
            "t2m": (axes, t2m, {"units": "K", "long_name": "2 metre temperature"}),
            "sst": (axes, np.where(random.random(shape) < 0.2, np.nan, t2m), {"units": "K"}),
            "msl": (axes, 1e5 + 1e3 * random.normal(size=shape), {"units": "Pa", "grid_mapping": "crs"}),
            "lsm": (axes[1:], random.integers(0, 2, shape[1:]).astype(np.int16), {"flag_values": [0, 1]}),
            "crs": ((), np.int32(4326), {"grid_mapping_name": "latitude_longitude"}),
            "latitude_bnds": (("latitude", "bnds"), np.stack([latitude + 5, latitude - 5], axis=1)),
        },
        coords={
            "time": xr.date_range("2001-02-26", periods=12, calendar="noleap", use_cftime=True),
            "latitude": ("latitude", latitude, {"units": "degrees_north", "bounds": "latitude_bnds"}),
            "longitude": ("longitude", np.arange(0, 360, 10.0), {"units": "degrees_east"}),
            "area": (axes[1:], random.random(shape[1:])),
            "height": ((), 2.0, {"units": "m"}),
        },
        attrs={"Conventions": "CF-1.11", "title": "made up"},
    )


PACKED = {"sst": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 250.0, "_FillValue": np.int16(-32768)}}
WRITERS: dict[str, tuple[str, Callable[[xr.Dataset, Path], object]]] = {
    "netCDF-4": ("era.nc", lambda found, path: found.to_netcdf(path, encoding=PACKED)),
    "netCDF-3": ("era.nc", lambda found, path: found.to_netcdf(path, encoding=PACKED, format="NETCDF3_64BIT")),
    "Zarr v2": ("floats.zarr", lambda found, path: found.to_zarr(path, encoding=PACKED, zarr_format=2)),
    "Zarr v3": (
        "floats.zarr",
        lambda found, path: found.to_zarr(path, encoding=PACKED, zarr_format=3, consolidated=False),
    ),
}


def through(source: Path, store: Path) -> None:
    result = CliRunner().invoke(cli.main, ["run", str(source), str(store)])
    assert result.exit_code == 0, result.output


def check(found: xr.Dataset, source: xr.Dataset, store: Path, group: str = "") -> None:
    """All that was kept is identical, and fields are within half a step of what xarray makes of the source."""
    assert set(found.variables) == set(source.variables)
    assert found.attrs == source.attrs
    for name in source.variables:
        if name not in FIELDS:
            xr.testing.assert_identical(found[name], source[name])
            continue
        values, restored = source[name].values.astype(np.float64), found[name].values.astype(np.float64)
        array = open_int4(store)[f"{group}{name}"]
        np.testing.assert_array_equal(np.isnan(restored), np.isnan(values))
        rounding = 2 * np.spacing(np.float32(np.nanmax(abs(values))))
        assert np.nanmax(abs(restored - values)) <= array.max_error * (1 + 1e-5) + rounding
        assert found[name].attrs == source[name].attrs
        assert set(found[name].coords) == set(source[name].coords)


@pytest.mark.parametrize("kind", mostly_slow(WRITERS, ["netCDF-4"]))
@pytest.mark.filterwarnings("ignore:.*consolidated metadata:RuntimeWarning", "ignore:Consolidated metadata")
def test_a_file_is_quantized_by_one_command_and_opened_as_it_was(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(dataset(), tmp_path / name)
    through(tmp_path / name, tmp_path / "era.zarr")
    with xr.open_dataset(tmp_path / "era.zarr") as found, xr.open_dataset(tmp_path / name) as source:
        check(found, source, tmp_path / "era.zarr")


@pytest.mark.slow
def test_groups_within_groups_are_opened_as_they_were(tmp_path: Path) -> None:
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"title": "both"}), "/land/now": dataset(1), "/sea": dataset(2)}
    )
    tree.to_netcdf(tmp_path / "era.nc")
    through(tmp_path / "era.nc", tmp_path / "era.zarr")
    with xr.open_datatree(tmp_path / "era.zarr") as found, xr.open_datatree(tmp_path / "era.nc") as source:
        assert set(found.groups) == set(source.groups)
        for path in ("land/now", "sea"):
            check(found[path].to_dataset(), source[path].to_dataset(), tmp_path / "era.zarr", f"{path}/")
