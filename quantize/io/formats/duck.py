"""Arrays of any other library: whatever has `shape`, `dtype` and ``__getitem__``, or gives itself as a whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...numerics.foreign import as_array
from ...numerics.grid import Region, shifted
from ..attributes import decoded_by_xarray, plain
from ..format import Format, library
from ..source import Source
from .memory import InMemory

WHOLE = ("__array__", "__array_interface__", "__dlpack__")  # by one of these an array in memory is given as a whole


class GenericSource(Source):
    """Anything with `shape`, `dtype` and ``__getitem__``. Nothing is known of its threads, so one reads at a time."""

    def __init__(self, array: Any) -> None:
        attributes = {key: plain(value) for key, value in attributes_of(array).items()}
        if library(array) == "xarray":
            attributes = decoded_by_xarray(attributes, array.encoding)
        super().__init__(type(array).__name__, array.shape, array.dtype, attributes, names_of(array))
        self.array = array
        self.origin = origin_of(array)
        self._lock = threading.Lock()

    def load(self, region: Region) -> Any:
        with self._lock, unscaled(self.array):
            found = self.array[shifted(region, self.origin)]
            return found if isinstance(found, np.ndarray) else as_array(found, f"what {self.label} gave")


def attributes_of(array: Any) -> dict[str, Any]:
    """What an array says of itself: as most libraries have it, or netCDF4."""
    if hasattr(array, "ncattrs") and hasattr(array, "getncattr"):
        return {name: array.getncattr(name) for name in array.ncattrs()}
    return dict(getattr(array, "attrs", {}))


def names_of(array: Any) -> tuple[str | None, ...] | None:
    """Names of the axes: as xarray has them, netCDF4 or tensorstore."""
    domain = getattr(array, "domain", None)
    for found in (getattr(array, "dims", None), getattr(array, "dimensions", None), getattr(domain, "labels", None)):
        if isinstance(found, tuple | list) and len(found) == len(array.shape) and any(found):
            return tuple(str(name) if name else None for name in found)
    return None


def origin_of(array: Any) -> Region:
    """Where the first index of each axis lies: not at 0 in a part of a tensorstore's array, which keeps its indices."""
    found = getattr(getattr(array, "domain", None), "origin", None)
    starts = (0,) * len(array.shape) if found is None else found
    return tuple(slice(int(start), int(start)) for start in starts)


@contextmanager
def unscaled(array: Any) -> Iterator[None]:
    """Have a variable of netCDF4's give the numbers that are stored, which are those of its dtype and attributes."""
    if not (callable(getattr(array, "set_auto_scale", None)) and getattr(array, "scale", False)):
        yield
        return
    array.set_auto_scale(False)
    try:
        yield
    finally:
        array.set_auto_scale(True)


class Duck(Format):
    def takes(self, thing: Any) -> bool:
        return has_regions(thing) or (not isinstance(thing, type) and any(hasattr(thing, name) for name in WHOLE))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if has_regions(thing):
            return {"": GenericSource(thing)}
        label = type(thing).__name__
        return InMemory(f"{label} in memory", as_array(thing, label))


def has_regions(thing: Any) -> bool:
    """Whether a thing says what it is, and gives regions."""
    return all(hasattr(thing, name) for name in ("shape", "dtype", "__getitem__"))


FORMAT = Duck()
