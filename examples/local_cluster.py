"""On a `distributed` cluster: with a Client there, the same call runs on its workers."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from dask.utils import parse_bytes
from distributed import Client, LocalCluster

from quantize import Plan, Progress, quantize_to_zarr, verify

COLUMNS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_bytes, default="1GiB", help="of the .npy file (%(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        source, store = folder / "ramp.npy", folder / "ramp.zarr"
        write_ramp(source, arguments.size)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
            array = quantize_to_zarr(source, store, progress=show)
        print(f"\n{array}")
        found = verify(store, source=source)
        print(f"{found.chunks} chunks, {'all' if found.ok else 'NOT all'} as the source gives them")


def write_ramp(path: Path, nbytes: int) -> None:
    rows = nbytes // (4 * COLUMNS)
    ramp = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, COLUMNS))
    for start in range(0, rows, 4096):
        ramp[start : start + 4096] = np.linspace(start, start + 1, COLUMNS, dtype=np.float32)
    ramp.flush()


def show(event: Plan | Progress) -> None:
    """Events arrive in this process, whichever process works."""
    if isinstance(event, Plan):
        print(event)
    elif event.done == event.total:
        print(f"{event.phase}: {event.total} chunks")


if __name__ == "__main__":
    main()
