"""NumPy arrays of this process."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...numerics.grid import Region
from ..format import Format
from ..source import Source
from .npy import FileSource


class ArraySource(Source):
    """A NumPy array of this process."""

    rereads = False

    def __init__(self, array: np.ndarray) -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError("a masked array has no file form: pass array.filled(np.nan) and nan_policy='propagate'")
        super().__init__("array in memory", array.shape, array.dtype)
        self.array = np.asarray(array)

    def read(self, region: Region) -> np.ndarray:
        return self.array[region]


def array_source(array: np.ndarray) -> Source:
    """A memory map is read from its file, if all of it lies there as one run; any other array where it is."""
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    mapped = isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap) and base.mode != "c" and base.filename
    one_run = array.flags.c_contiguous or array.flags.f_contiguous
    if not mapped or not one_run or isinstance(array, np.ma.MaskedArray):
        return ArraySource(array)
    offset = base.offset + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return FileSource(str(base.filename), offset, array.shape, array.dtype, not array.flags.c_contiguous)


class Memory(Format):
    arrays = "NumPy"

    def takes(self, thing: Any) -> bool:
        return isinstance(thing, np.ndarray)

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return {"": array_source(thing)}


FORMAT = Memory()
