"""Arrays of any other library: whatever has `shape`, `dtype` and ``__getitem__``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...numerics.grid import Region, shape_of
from ..attributes import plain
from ..format import Format
from ..source import Source


class GenericSource(Source):
    """Anything with `shape`, `dtype` and ``__getitem__``. Nothing is known of its threads, so one reads at a time."""

    def __init__(self, array: Any) -> None:
        names = getattr(array, "dims", None)
        attributes = {key: plain(value) for key, value in dict(getattr(array, "attrs", {})).items()}
        label = type(array).__name__
        super().__init__(label, array.shape, array.dtype, attributes, tuple(map(str, names)) if names else None)
        self.array = array
        self._lock = threading.Lock()

    def read(self, region: Region) -> np.ndarray:
        with self._lock:
            found = self.array[region]
        if np.ma.is_masked(found):
            raise ValueError(
                f"{self.label} gives masked arrays, whose masks would be lost: turn off automatic masking, so that "
                "the missing value shows, or fill it with NaN"
            )
        values = np.asarray(found)
        if values.shape != shape_of(region) or values.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(
                f"{self.label} gave an array of shape {values.shape} and dtype {values.dtype} for a region of shape "
                f"{shape_of(region)}"
            )
        return values


class Duck(Format):
    def takes(self, thing: Any) -> bool:
        return all(hasattr(thing, name) for name in ("shape", "dtype", "__getitem__"))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return {"": GenericSource(thing)}


FORMAT = Duck()
