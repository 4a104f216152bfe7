"""The result of a dask expression, quantized as it is computed: wind speed from two stored components."""

import argparse
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import zarr

from quantize import plan, quantize_to_zarr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=240)
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_wind(folder / "wind.zarr", arguments.hours)
        u, v = (da.from_zarr(folder / "wind.zarr", component=name) for name in ("u", "v"))
        speed = da.sqrt(u**2 + v**2)
        print(plan(speed, folder / "speed.zarr", name="speed"))

        array = quantize_to_zarr(speed, folder / "speed.zarr", name="speed")
        print(f"\n{array}")
        hour = speed[0].compute()
        print(f"largest error of the first hour {np.abs(array[0] - hour).max():.4f} m/s, bound {array.max_error:.4f}")
        mean = array.to_dask().mean().compute()
        print(f"mean speed {mean:.3f} m/s from the codes, {speed.mean().compute():.3f} m/s from the components")


def write_wind(path: Path, hours: int) -> None:
    rng = np.random.default_rng(0)
    group = zarr.create_group(path)
    for name, mean in (("u", 6), ("v", 1)):
        array = group.create_array(name, shape=(hours, 361, 720), chunks=(8, 361, 720), dtype="float32")
        for hour in range(0, hours, 8):
            array[hour : hour + 8] = rng.normal(mean, 3, array[hour : hour + 8].shape)


if __name__ == "__main__":
    main()
