"""A collection for tests: nested, with variables quantized in every way and arrays kept in every way."""

from typing import Any

import ml_dtypes
import numpy as np
from stores import field

from quantize.io import as_source
from quantize.io.arrays import Arrays
from quantize.io.raw import RawArray
from quantize.io.source import Source


class Tree(Arrays):
    """Arrays by their paths in groups, as NumPy has them; each is kept in chunks of at most four values an axis."""

    nested = True

    def __init__(self, arrays: dict[str, np.ndarray], attributes: dict[str, dict[str, Any]] | None = None) -> None:
        super().__init__("tree", arrays)
        self.said = attributes or {"": {"title": "all", "least": -np.inf}, "ocean": {"note": "é"}, "empty group": {}}

    def opened(self, array: np.ndarray) -> Source:
        source = as_source(array)
        source.sampled = not np.isnan(array).any()  # what is missing is not seen until all is read
        return source

    def opened_raw(self, array: np.ndarray) -> RawArray:
        chunks = tuple(min(max(n, 1), 4) for n in array.shape)
        dims = tuple(f"d{axis}" for axis in range(array.ndim))
        return RawArray("array", array.shape, array.dtype, array.__getitem__, {"units": "m"}, dims, chunks)

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        return self.said


def holes(seed: int = 2) -> np.ndarray:
    """Values of which one is missing."""
    values = field((6, 4), seed=seed)
    values[4, 2] = np.nan
    return values


def everything(seed: int = 0) -> dict[str, np.ndarray]:
    """By name; those of `JOB` are quantized."""
    return {
        "two passes": field((6, 5), seed=seed),
        "ocean/blocks": field((8, 8), seed=seed + 1),
        "ocean/deep/holes": holes(seed + 2),
        "holes in blocks": holes(seed + 3),
        "ids": np.arange(7) + seed,
        "text": np.array(["a", "bé\0", "", "d", str(seed)], object),
        "point": np.array(3.5 + seed),
        "nothing": np.zeros((0, 3), np.float32),
        "time": np.array(["2000-01-01", "NaT"], "M8[ns]"),
        "ocean/half": field((3, 3), seed=seed).astype(ml_dtypes.bfloat16),
        "ocean/deep/parts": np.arange(18).reshape(6, 3) + seed,
    }


JOB: dict[str, Any] = {
    "workers": 1,
    "select": ["two passes", "ocean/blocks", "ocean/deep/holes", "holes in blocks"],
    "rules": {
        "ocean/blocks": {"blocks": (1, 4), "chunks": (4, 8)},
        "*holes": {"chunks": (3, 4)},
        "holes*": {"blocks": (1, 2), "chunks": (2, 4)},
    },
}
