"""A compressed Zarr array with a land mask and attributes, as int4 and back."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import zarr

from quantize import RefusedValuesError, quantize_to_zarr, restore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        source = write_sea_surface(folder / "ocean.zarr", arguments.days)
        print(f"source    {source.shape} {source.dtype}, {source.nbytes_stored():,} bytes stored")

        try:
            quantize_to_zarr(source, folder / "ocean_int4.zarr", name="sst")
        except RefusedValuesError as error:
            print(f"refused   {error}")

        array = quantize_to_zarr(source, folder / "ocean_int4.zarr", name="sst", nan_policy="propagate")
        print(f"int4      {array.nbytes_stored:,} bytes stored")
        print(f"          code {array.nan_code} is land; sea within {array.max_error:.3f} K")

        restore(folder / "ocean_int4.zarr", folder / "restored.zarr")
        restored = zarr.open_array(folder / "restored.zarr", mode="r")
        before, after = source[-1], restored[-1]
        print(f"restored  {dict(restored.attrs)}, dimensions {restored.metadata.dimension_names}")
        print(f"          land mask {'kept' if np.array_equal(np.isnan(before), np.isnan(after)) else 'LOST'}")
        print(f"          largest error of the last day {np.nanmax(np.abs(after - before)):.3f} K")


def write_sea_surface(path: Path, days: int) -> zarr.Array:
    """Temperatures of an ocean with two continents, a day a chunk."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 361, dtype=np.float32)[:, None]
    longitude = np.linspace(0, 2 * np.pi, 720, endpoint=False, dtype=np.float32)
    land = np.sin(2 * longitude + np.cos(3 * latitude)) > 0.6
    array = zarr.create_array(
        path,
        name="sst",
        shape=(days, *land.shape),
        chunks=(1, *land.shape),
        dtype="float32",
        dimension_names=("time", "latitude", "longitude"),
        attributes={"units": "K", "long_name": "sea surface temperature"},
    )
    rng = np.random.default_rng(0)
    for day in range(days):
        season = 4 * np.sin(2 * np.pi * day / 365) * np.sin(latitude)
        weather = rng.normal(0, 0.3, land.shape).astype(np.float32)
        array[day] = np.where(land, np.nan, 275 + 27 * np.cos(latitude) ** 2 + season + weather)
    return array


if __name__ == "__main__":
    main()
