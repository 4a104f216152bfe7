"""NumPy arrays of this process, memory maps among them."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ...numerics.dtypes import TEXT
from ...numerics.grid import Batches, Region, Shape
from ...store.buffers import Buffer
from ..arrays import Arrays
from ..format import Format
from ..raw import RawArray, kept_dtype, raw_of
from ..source import Source
from .npy import FileSource

SPAN_BYTES = 4 << 20  # bytes: pages of a map that a thread has at once, from the first to the last that it needs
AROUND_BYTES = 1 << 17  # bytes: as Linux maps 64 KiB about a page that is touched, all within this are given back


class ArraySource(Source):
    """A NumPy array of this process."""

    rereads = False
    masks = False

    def __init__(self, array: np.ndarray, label: str = "array in memory") -> None:
        super().__init__(label, array.shape, array.dtype)
        self.array = np.asarray(array)

    def load(self, region: Region) -> np.ndarray:
        return self.array[region]


class MaskedSource(Source):
    """A masked array of this process; its values are read as those of one without a mask."""

    rereads = False

    def __init__(self, array: np.ma.MaskedArray[Any, Any]) -> None:
        super().__init__("masked array in memory", array.shape, array.dtype)
        self.values = array_source(np.ma.getdata(array))
        self.held, self.order = self.values.held, self.values.order
        self.mask = np.ma.getmaskarray(array)
        self.take_mark(array)

    def load(self, region: Region) -> Any:
        return np.ma.MaskedArray(self.values.read(region), self.mask[region])

    def bytes_read(self, units: Batches) -> int:
        return self.values.bytes_read(units)

    def memory(self, unit: Shape) -> int:
        return self.values.memory(unit) + super().memory(unit) // 2


class MappedSource(ArraySource):
    """An array in a memory map, read through the map, whose pages are given back after each read.

    Mapped pages count as the process's memory, until it says that it does not need them. Of a private map that cannot
    be said without losing what was written to it, so the plan counts all of its pages.
    """

    def __init__(self, array: np.ndarray, mapped: mmap.mmap, private: bool) -> None:
        super().__init__(array, "memory map")
        self.order = "F" if 0 < abs(array.strides[0]) < abs(array.strides[-1]) else "C"
        self._map = mapped
        self._start = address_of(mapped)
        self.held = len(mapped) if private else 0
        self._advice = None if private else getattr(mmap, "MADV_DONTNEED", None)
        self._buffer = Buffer()

    def load(self, region: Region) -> np.ndarray:
        part = self.array[region]
        out: np.ndarray = self._buffer.of(part.nbytes).view(part.dtype).reshape(part.shape)
        for here, there in close_parts(part, out):
            there[...] = here
            self.release(here)
        return out

    def release(self, part: np.ndarray) -> None:
        """Give the pages back that hold a part: they stay in the page cache."""
        if self._advice is None:
            return
        low, high = np.lib.array_utils.byte_bounds(part)
        start = max(low // AROUND_BYTES * AROUND_BYTES - self._start, 0)  # at a page, as where the map starts
        stop = min(high + AROUND_BYTES - self._start, len(self._map))
        with contextlib.suppress(OSError):  # a system that knows no such advice
            self._map.madvise(self._advice, start, stop - start)

    def bytes_read(self, units: Batches) -> int:
        along = [
            [(box, n // box)] * (n >= box) + [(n % box, 1)] * (n % box > 0)
            for n, box in zip(self.shape, units.grid.box, strict=True)
        ]
        total = 0
        for parts in product(*along):  # units of one shape, and how many have it
            lengths, counts = zip(*parts, strict=True)
            total += math.prod(counts) * self._touched(lengths)
        return total

    def _touched(self, lengths: Shape) -> int:
        """Bytes of the pages that are mapped for a part of the array: those about each run of bytes, and the gaps."""
        runs, run = 1, self.dtype.itemsize
        for stride, n in sorted((abs(stride), n) for stride, n in zip(self.array.strides, lengths, strict=True)):
            if runs == 1 and stride - run <= AROUND_BYTES:
                run += (n - 1) * stride
            else:
                runs *= n
        return runs * (run + AROUND_BYTES) if runs > 1 else run

    def memory(self, unit: Shape) -> int:
        return super().memory(unit) + SPAN_BYTES + 2 * AROUND_BYTES


def close_parts(part: np.ndarray, out: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A part of a map in parts that lie within `SPAN_BYTES` of it, each with where it belongs in `out`."""
    low, high = np.lib.array_utils.byte_bounds(part)
    spans = [abs(stride) * (n - 1) for stride, n in zip(part.strides, part.shape, strict=True)]
    axis = int(np.argmax(spans))
    if high - low <= SPAN_BYTES or part.shape[axis] == 1:
        yield part, out
        return
    most = max(1, (SPAN_BYTES - (high - low - spans[axis])) // abs(part.strides[axis]))
    for start in range(0, part.shape[axis], most):
        own = (*(slice(None),) * axis, slice(start, start + most))
        yield from close_parts(part[own], out[own])


# Where an array lies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What Linux says of a memory map: whether it is private, and of which file."""

    private: bool
    device: int
    inode: int
    path: str

    @classmethod
    def of(cls, mapped: mmap.mmap) -> Place | None:
        """That of a map; None if the system does not tell."""
        address = address_of(mapped)
        try:
            with open("/proc/self/maps", errors="surrogateescape") as lines:
                for line in lines:
                    span, kind, _, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
                    start, stop = (int(end, 16) for end in span.split("-"))
                    if start <= address < stop:
                        major, minor = (int(part, 16) for part in device.split(":"))
                        return cls(kind[3] == "p", os.makedev(major, minor), int(inode), "".join(path))
        except OSError:
            pass
        return None

    def is_file(self, path: str) -> bool:
        """Whether that is the file which has this path now."""
        try:
            there = os.stat(path)
        except OSError:
            return False
        # Some file systems have other devices in one list than in the other.
        return there.st_ino == self.inode and (there.st_dev == self.device or os.path.realpath(path) == self.path)


def address_of(mapped: mmap.mmap) -> int:
    return int(np.frombuffer(mapped, np.uint8).__array_interface__["data"][0])


def array_source(array: np.ndarray) -> Source:
    """A memory map that is one run of bytes in its file is read from there, another through the map.

    So is one whose file has been replaced since: what has its path now is another. Any other array is read where it is.
    """
    if isinstance(array, np.ma.MaskedArray):
        return MaskedSource(array) if np.ma.is_masked(array) else array_source(np.ma.getdata(array))
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    mapped = base.base.obj if isinstance(base.base, memoryview) else base.base
    place = Place.of(mapped) if isinstance(mapped, mmap.mmap) else None
    if not isinstance(mapped, mmap.mmap) or (place is None and not isinstance(base, np.memmap)):
        return ArraySource(array)
    private = base.mode == "c" if place is None else place.private
    one_run = array.flags.c_contiguous or array.flags.f_contiguous
    if isinstance(base, np.memmap) and base.filename and one_run and not private and place is not None:
        path = str(base.filename)
        offset = base.offset + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        if place.is_file(path):
            source = FileSource(path, offset, array.shape, array.dtype, not array.flags.c_contiguous)
            if place.is_file(path):  # still: what was opened is it
                return source
    return MappedSource(array, mapped, private)


class InMemory(Arrays):
    """An array of this process."""

    def opened(self, array: Any) -> Source:
        return array_source(array)

    def opened_raw(self, array: Any) -> RawArray:
        if np.ma.is_masked(array):
            found = raw_of(self.opened(array))
            marked = {} if found.dtype.kind not in "iu" else {"_FillValue": np.asarray(array.fill_value).item()}
            return replace(found, attributes=marked)
        values = np.ma.getdata(array)
        if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
            dtype = TEXT
        else:
            dtype = kept_dtype(values.dtype, self.label)
        return RawArray(self.label, values.shape, dtype, values.__getitem__)


class Memory(Format):
    arrays = "NumPy"

    def takes(self, thing: Any) -> bool:
        return isinstance(thing, np.ndarray)

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return InMemory("array in memory", thing)


FORMAT = Memory()
