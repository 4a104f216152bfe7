"""Reading lazily: an index reads and decodes the chunks that it touches, no more."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

from quantize import open_int4, quantize_to_zarr


class CountingStore(LocalStore):
    """A local store that knows how many chunks were read."""

    reads = 0

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        self.reads += "/c/" in key
        return await super().get(key, *arguments, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = (arguments.folder or Path(temporary)) / "vectors.zarr"
        vectors = np.random.default_rng(0).normal(size=(arguments.rows, 256)).astype(np.float32)
        quantize_to_zarr(vectors, path, chunks=(arguments.rows // 20, -1))

        store = CountingStore(path)
        array = open_int4(store)
        print(array)
        print(f"{array.nbytes:,} bytes of float32, {array.nbytes_stored:,} stored")
        for text, index in (
            ("one row           array[7]", 7),
            ("the last ten      array[-10:, ::2]", (slice(-10, None), slice(None, None, 2))),
            ("one column        array[..., 3]", (..., 3)),
            ("every row         array[::-1]", slice(None, None, -1)),
        ):
            store.reads = 0
            part = array[index]
            error = np.abs(part - vectors[index]).max()
            print(f"{text:<36} {part.shape!s:<14} {store.reads:>2} chunks read, largest error {error:.4f}")

        norms = np.sqrt((array.to_dask() ** 2).sum(axis=1)).compute()
        print(f"norms by dask, chunk by chunk: {norms.shape}, mean {norms.mean():.3f}")
        print(f"the codes, two a byte: {array.packed}")


if __name__ == "__main__":
    main()
