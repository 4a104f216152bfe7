"""Writes the golden stores that are not there yet. They are read for ever, and never written again.

    python tests/golden/make.py

``_collection`` holds one of many variables, and in ``restored.npz`` the values of those that can be there: no texts of
any length, and bfloat16 as float32.

Each other folder holds a store, ``source.npy`` and ``restored.npy`` (bfloat16 as float32). The stores of blocks, and of
names that version 1 cannot have, are of format version 2, all others of version 1.
To some of them values were appended; of one of these an append is under way.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zarr

from quantize import Int4Array, append_to_zarr, quantize_dataset, quantize_to_zarr
from quantize.io import as_source
from quantize.numerics.granularity import granularity_of
from quantize.numerics.grid import packed_shape
from quantize.numerics.scales import Rule
from quantize.runtime.units import Units
from quantize.storage import Variable
from quantize.store.keys import Keys
from quantize.store.layout import Layout
from quantize.store.metadata import Metadata, ScaleNames
from quantize.store.side_arrays import stored_scales

HERE = Path(__file__).parent
BASE = np.random.default_rng(1).normal(280, 20, (5, 7))
MASKED = np.where(BASE > 300, np.nan, BASE)
WIDE = np.random.default_rng(2).standard_t(4, (11, 70)) * 20 + 280
GAPS = np.where(WIDE > 310, np.nan, WIDE)

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
    "float32-blocks-mse": (WIDE.astype(np.float32), {"blocks": (1, 32), "scale_method": "mse"}),
    "float16-tiles-sharded": (
        GAPS.astype(np.float16),
        {"blocks": (4, 8), "chunks": (4, 16), "shards": (8, 32), "nan_policy": "propagate"},
    ),
    "int16-blocks-missing": (
        WIDE.astype(np.int16),
        {"blocks": (1, 16), "chunks": (4, 32), "nan_policy": "propagate", "missing": 280, "compressors": "gzip"},
    ),
    "int16-packed-blocks": (
        np.where(WIDE > 310, -1, (WIDE - 280) * 100).astype(np.int16),
        {"blocks": (-1, 8), "scale_method": "absmax", "nan_policy": "propagate"},
    ),
    "bfloat16-blocks-down": (
        WIDE.astype(ml_dtypes.bfloat16),
        {"blocks": (32, 1), "scale_method": "mse", "finest": 0.75},
    ),
    "float64-blocks-ragged": (
        GAPS * 1e200,
        {"blocks": (3, 7), "chunks": (6, 28), "nan_policy": "propagate", "compressors": None},
    ),
    "uint8-blocks-range-sharded": (
        np.arange(90, dtype=np.uint8),
        {"blocks": 16, "chunks": 32, "shards": 64, "value_range": (10, 70), "compressors": None},
    ),
    "float32-blocks-zeros": (
        np.maximum(WIDE - 280, 0).astype(np.float32).reshape(11, 10, 7),
        {"blocks": (1, 4, -1), "chunks": (5, 8, 7), "compressors": "blosc"},
    ),
    "name-axis": (BASE.astype(np.float32), {"name": "logit scale (max)", "axis": 0, "chunks": (2, 4)}),
    "name": (BASE.astype(np.float16), {"name": "t2m_scale"}),
}
SAID: dict[str, dict[str, Any]] = {
    "float16": {"attributes": {"units": "K", "valid_max": float("inf")}, "dimension_names": ("y", "x")},
    "int16-packed-blocks": {
        "attributes": {"units": "K", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -1},
        "dimension_names": ("y", "x"),
    },
}


# Those to which values were appended, along an axis, from these indices on.
APPENDED: dict[str, tuple[int, list[int]]] = {
    "float32-axis-appended": (0, [3, 4]),
    "float16-appended": (0, [3]),
    "int16-blocks-missing-appended": (0, [4, 9]),
    "float64-blocks-packed-appended": (1, [35]),
    "float32-blocks-under-way": (0, [8]),
}
STORES |= {
    "float32-axis-appended": STORES["float32-axis"],
    "float16-appended": (BASE.astype(np.float16), {"chunks": (2, 8), "value_range": (250, 310)}),
    "int16-blocks-missing-appended": (
        WIDE.astype(np.int16),
        {
            "blocks": (2, 16),
            "chunks": (2, 32),
            "shards": (4, 64),
            "nan_policy": "propagate",
            "missing": 280,
        },
    ),
    "float64-blocks-packed-appended": (GAPS, {"blocks": (3, 7), "chunks": (6, 28), "nan_policy": "propagate"}),
    "float32-blocks-under-way": (WIDE.astype(np.float32), {"blocks": (1, 32), "chunks": (3, 70)}),
    "float32-blocks-longer-chunk": (WIDE[:3].astype(np.float32), {"blocks": (1, 32), "chunks": (4, 70)}),
}
UNDER_WAY = "float32-blocks-under-way"  # of what is appended to it one chunk is written, and no commit
LONGER = "float32-blocks-longer-chunk"


COLLECTION: dict[str, np.ndarray] = {
    "ocean/t2m (max)": WIDE.astype(np.float32),
    "holes": GAPS.astype(np.float16),
    "ids:ö": np.arange(20, dtype=">i4").reshape(4, 5),
    "text": np.array(["a", "bé\0", ""], object),
    "bytes": np.array([b"ab", b"c"]),
    "point": np.array(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "time": np.array(["2000-01-01", "NaT"], "M8[ns]"),
    "half": BASE.astype(ml_dtypes.bfloat16),
    "truth": np.array([True, False]),
}
JOB: dict[str, Any] = {"select": ["*t2m*", "holes"], "rules": {"*t2m*": {"blocks": (1, 32), "scale_method": "mse"}}}


def make_collection(folder: Path) -> None:
    dataset = quantize_dataset(COLLECTION, folder / "store", **JOB)
    restored = {name: array[...] for name, array in dataset.items() if array.dtype.kind != "O"}
    restored["half"] = restored["half"].astype(np.float32)
    np.savez_compressed(folder / "restored.npz", **{name.replace("/", "|"): one for name, one in restored.items()})


class StoppedError(Exception):
    """Raised in the midst of an append."""


def appended(values: np.ndarray, store: Path, axis: int, cuts: list[int], options: dict[str, Any]) -> Int4Array:
    first, *rest = np.split(values, cuts, axis)
    array = quantize_to_zarr(first, store, **options)

    def stop(event: Any) -> None:
        if store.parent.name == UNDER_WAY and getattr(event, "done", 0) == 1:
            raise StoppedError

    with suppress(StoppedError):
        for part in rest:
            array = append_to_zarr(part, store, axis=axis, outside="saturate", workers=1, progress=stop)
    return array


def in_longer_chunks(values: np.ndarray, store: Path, blocks: tuple[int, int], chunks: tuple[int, int]) -> Int4Array:
    """One chunk that is longer than the array, as of one that is made to become longer."""
    layout = Layout(values.shape, values.dtype, chunks, grows=0)
    rule = Rule.of("minmax", granularity=granularity_of(None, 2, blocks))
    scale = ScaleNames.of("data", 2)
    metadata = Metadata(layout, rule, None, {"made": "by hand"}, status="writing", scale=scale, name="data", version=2)
    variable = Variable(Keys.of(store), "data")
    guard = variable.guard(metadata)
    variable.create(metadata)
    scales = stored_scales(variable.keys, variable.name, metadata)
    scales.create(guard)
    units = Units(as_source(values), Layout(values.shape, values.dtype, values.shape), rule, None)
    codes, _, found = units.scale_and_pack(0)
    scales.write(0, found, guard)
    packed = np.zeros(packed_shape(layout.unit), np.uint8)
    packed[: len(codes)] = codes
    variable.write(layout, 0, packed, guard)
    return Int4Array(variable, variable.seal(metadata))


def main() -> None:
    if not (HERE / "_collection").exists():
        make_collection(HERE / "_collection")
    for name, (values, options) in STORES.items():
        folder = HERE / name
        if folder.exists():
            continue
        folder.mkdir()
        source: Any = zarr.create_array({}, data=values, **SAID[name]) if name in SAID else values
        if name in APPENDED:
            array = appended(values, folder / "store", *APPENDED[name], options)
            values = values[: array.shape[0]]  # of what is under way no more
        elif name == LONGER:
            array = in_longer_chunks(values, folder / "store", **options)
        else:
            array = quantize_to_zarr(source, folder / "store", **options)
        for file, floats in (("source", values), ("restored", array[...])):
            plain = floats.astype(np.float32) if floats.dtype == ml_dtypes.bfloat16 else floats
            np.save(folder / f"{file}.npy", plain)


if __name__ == "__main__":
    main()
