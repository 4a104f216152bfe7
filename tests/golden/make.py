"""Writes the golden stores of format version 1 that are not there yet. They are read for ever, and never written again.

    python tests/golden/make.py

Each folder holds a store, ``source.npy`` and ``restored.npy`` (bfloat16 as float32).
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zarr

from quantize import quantize_to_zarr

HERE = Path(__file__).parent
BASE = np.random.default_rng(1).normal(280, 20, (5, 7))
MASKED = np.where(BASE > 300, np.nan, BASE)

STORES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "float16": (BASE.astype(np.float16), {"chunks": (2, 4), "compressors": None}),
    "bfloat16-sharded": (BASE.astype(ml_dtypes.bfloat16), {"chunks": (2, 2), "shards": (4, 4), "compressors": "zstd"}),
    "float32-nan": (MASKED.astype(np.float32), {"chunks": (3, 6), "nan_policy": "propagate", "compressors": "blosc"}),
    "float64-absmax": (BASE - 280, {"chunks": (5, 7), "scale_method": "absmax", "compressors": "gzip"}),
    "float32-range": (BASE.astype(np.float32), {"chunks": (2, 7), "value_range": (270, 290), "compressors": None}),
    "int16-missing": (BASE.astype(np.int16), {"nan_policy": "propagate", "missing": 280, "compressors": None}),
    "uint8-constant": (np.full((1, 3, 5), 42, np.uint8), {"chunks": (1, 2, 2), "compressors": None}),
    "float32-axis": (BASE.astype(np.float32), {"chunks": (2, 4), "axis": 0, "compressors": None}),
    "float32-axis-last-mse": (
        MASKED.astype(np.float32),
        {"chunks": (2, 2), "shards": (4, 4), "axis": 1, "scale_method": "mse", "nan_policy": "propagate"},
    ),
    "float16-percentile": (BASE.astype(np.float16), {"scale_method": "percentile", "percentile": 80.0}),
    "int8": ((BASE - 280).astype(np.int8), {"chunks": (5, 2), "compressors": "gzip"}),
    "int32-axis-one-read": ((BASE * 1e6).astype(np.int32), {"chunks": (2, 7), "axis": 0}),
    "uint16-missing": (
        BASE.astype(np.uint16),
        {"chunks": (2, 2), "shards": (2, 8), "nan_policy": "propagate", "missing": 271},
    ),
    "uint32-mse": ((BASE * 1e7).astype(np.uint32), {"chunks": (5, 4), "scale_method": "mse", "compressors": "blosc"}),
    "uint64": ((BASE * 2.0**55).astype(np.uint64), {"chunks": (3, 7), "compressors": "zstd"}),
    "int64-sharded": ((BASE * 2.0**50).astype(np.int64), {"chunks": (1, 2), "shards": (5, 8), "compressors": None}),
}


def main() -> None:
    for name, (values, options) in STORES.items():
        folder = HERE / name
        if folder.exists():
            continue
        folder.mkdir()
        source: Any = values
        if name == "float16":
            attributes = {"units": "K", "valid_max": float("inf")}
            source = zarr.create_array({}, data=values, attributes=attributes, dimension_names=("y", "x"))
        array = quantize_to_zarr(source, folder / "store", **options)
        for file, floats in (("source", values), ("restored", array[...])):
            plain = floats.astype(np.float32) if floats.dtype == ml_dtypes.bfloat16 else floats
            np.save(folder / f"{file}.npy", plain)


if __name__ == "__main__":
    main()
