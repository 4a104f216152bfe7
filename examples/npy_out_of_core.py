"""A .npy file larger than the memory it may take: plan, run, check."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from dask.utils import format_bytes, parse_bytes

from quantize import plan, quantize_to_zarr, verify

COLUMNS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_bytes, default="4GiB", help="of the .npy file (%(default)s)")
    parser.add_argument("--memory", default="256MiB", help="what the run may hold above the imports (%(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        source, store = folder / "embeddings.npy", folder / "embeddings.zarr"
        write_npy(source, arguments.size)
        quantize(source, store, arguments.memory)


def write_npy(path: Path, nbytes: int) -> None:
    """Normally distributed float32 in rows of `COLUMNS`, written a megabyte at a time."""
    rng = np.random.default_rng(0)
    rows = nbytes // (4 * COLUMNS)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS)})
        for start in range(0, rows, 256):
            file.write(rng.standard_normal((min(256, rows - start), COLUMNS), np.float32).data)


def quantize(source: Path, store: Path, memory: str) -> None:
    planned = plan(source, store, memory=memory)
    print(planned)

    before, began = peak_memory(), time.perf_counter()
    array = quantize_to_zarr(source, store, memory=memory)
    seconds, held = time.perf_counter() - began, peak_memory() - before
    print(f"\n{array}")
    print(f"took {seconds:.1f} s, {array.nbytes / seconds / 1e9:.2f} GB/s")
    print(f"held {format_bytes(held)} above the imports; the plan said {format_bytes(planned.memory)} at most")
    print(f"stored {format_bytes(array.nbytes_stored)}, {8 * array.nbytes_stored / array.size:.2f} bits a value")

    found = verify(store, source=source)
    print(f"{found.chunks} chunks read back, {len(found.damaged)} damaged, {len(found.differing)} unlike the source")
    sample = np.load(source, mmap_mode="r")[-1000:]
    print(f"largest error of the last rows {np.abs(array[-1000:] - sample).max():.6f}, bound {array.max_error:.6f}")


def peak_memory() -> int:
    """Most bytes this process has held so far (Linux counts them in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
