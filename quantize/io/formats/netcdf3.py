"""netCDF-3 files (classic, and with 64-bit offsets): scipy reads their headers, and values are read where they lie."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from ...exceptions import SourceError
from ...numerics.grid import Batches, Region, Shape, shape_of
from ..arrays import Arrays
from ..attributes import plain
from ..content import head, reason
from ..format import Format, is_url, needed
from ..raw import RawArray
from ..source import PIECE_BYTES, Source, bytes_of_runs
from .npy import GAP_BYTES, PAGE_BYTES, File, FileSource, runs

MAGIC = (b"CDF\x01", b"CDF\x02")
MAGIC_5 = b"CDF\x05"
DAMAGED = (ValueError, TypeError, KeyError, IndexError, struct.error, OverflowError, AttributeError, MemoryError)


@dataclass(frozen=True)
class Variable:
    """Where a variable lies in its file, and what it says of itself.

    `stride` is the number of bytes from one index of its first axis to the next: from record to record, if that axis is
    unlimited. Within one of them its values are one run of bytes.
    """

    file: File
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    offset: int
    stride: int
    dimension_names: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.file.path}::{self.name}"

    @property
    def one_run(self) -> bool:
        return not self.shape or self.stride == math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def narrow(self) -> bool:
        """Whether records follow each other so closely that all of them are sooner read than their parts."""
        return not self.one_run and self.stride <= GAP_BYTES

    def runs(self, region: Region) -> Iterator[tuple[int, int]]:
        """Where the runs of bytes that make up a region begin, and how long they are."""
        size = self.dtype.itemsize
        if self.one_run:
            for start, length in runs(self.shape, region):
                yield self.offset + start * size, length * size
            return
        for index in range(region[0].start, region[0].stop):
            for start, length in runs(self.shape[1:], region[1:]):
                yield self.offset + index * self.stride + start * size, length * size

    def __call__(self, region: Region) -> np.ndarray:
        """The values of a region, as they are stored."""
        return self.filled(region, np.empty(math.prod(shape_of(region)) * self.dtype.itemsize, np.uint8))

    def filled(self, region: Region, out: np.ndarray) -> np.ndarray:
        """The same in a buffer of bytes."""
        values: np.ndarray = out.view(self.dtype).reshape(shape_of(region))
        if self.narrow and out.size:
            self._sieve(region, values)
            return values
        at = 0
        for start, size in self.runs(region) if out.size else ():
            self.file.fill(out.data[at : at + size], start)
            at += size
        return values

    def _sieve(self, region: Region, values: np.ndarray) -> None:
        """Read whole records, with those of other variables, and take the values of a region from them."""
        whole = np.empty(self.shape[1:], self.dtype)
        first, stop = region[0].start, region[0].stop
        most = max(PIECE_BYTES // self.stride, 1)
        buffer = np.empty((min(most, stop - first) - 1) * self.stride + whole.nbytes, np.uint8)
        for start in range(first, stop, most):
            count = min(most, stop - start)
            self.file.fill(buffer.data[: (count - 1) * self.stride + whole.nbytes], self.offset + start * self.stride)
            records = np.ndarray((count, *whole.shape), self.dtype, buffer.data, 0, (self.stride, *whole.strides))
            values[start - first : start - first + count] = records[:, *region[1:]]


class RecordSource(FileSource):
    """A variable along the unlimited axis, whose records lie between those of others."""

    def __init__(self, variable: Variable) -> None:
        self.variable = variable
        super().__init__(variable.file, variable.offset, variable.shape, variable.dtype, False, variable.label)

    def load(self, region: Region) -> np.ndarray:
        return self.variable.filled(region, self.buffer.of(math.prod(shape_of(region)) * self.stored.itemsize))

    def pieces(self, region: Region) -> Iterator[Region]:
        return Source.pieces(self, region)

    def bytes_read(self, units: Batches) -> int:
        """Whole records, or what runs read within them, and a page more for each record of each unit."""
        records = self.shape[0] * math.prod(units.grid.counts[1:])
        if self.variable.narrow:
            return records * self.variable.stride
        return bytes_of_runs(units, self.dtype.itemsize, PAGE_BYTES) + records * PAGE_BYTES


# The header -----------------------------------------------------------------------------------------------------------


@dataclass
class Header:
    """A file of which scipy reads the header: no length in it may lead beyond the file's end."""

    file: BinaryIO
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = os.fstat(self.file.fileno()).st_size

    def read(self, length: int) -> bytes:
        if not 0 <= length <= self.size - self.file.tell():
            raise ValueError(f"{length:,} bytes from byte {self.file.tell():,} on, of {self.size:,}")
        return self.file.read(length)

    def seek(self, offset: int) -> int:
        return self.file.seek(offset)

    def tell(self) -> int:
        return self.file.tell()

    def fileno(self) -> int:
        return self.file.fileno()

    @property
    def closed(self) -> bool:
        return self.file.closed

    def close(self) -> None:
        self.file.close()


def opened(path: str) -> tuple[dict[str, Variable], dict[str, Any]]:
    """The variables of a file by name, and its attributes.

    Raises
    ------
    SourceError
        If scipy is not installed, or the file is cut or damaged.
    """
    netcdf_file = needed("scipy.io", "netcdf", f"{path} is a netCDF-3 file").netcdf_file
    try:
        with open(path, "rb") as file, netcdf_file(Header(file), "r", mmap=True) as header:
            start, whole = header._mm_buf.__array_interface__["data"][0], File(path)
            found = {name: variable(whole, name, one, start) for name, one in header.variables.items()}
            return found, {key: plain(value) for key, value in header._attributes.items()}
    except DAMAGED as error:
        raise SourceError(
            f"{path} is no whole netCDF-3 file, but cut or damaged ({reason(error)}): copy or download it again"
        ) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error


def variable(file: File, name: str, found: Any, start: int) -> Variable:
    """One of scipy's variables, whose values are mapped from the address `start` on, by where it lies in its file."""
    values = found.data
    if min(values.shape, default=0) < 0:
        raise ValueError(f"{name} has the shape {values.shape}")
    offset = values.__array_interface__["data"][0] - start if values.size else 0
    stride = values.strides[0] if values.ndim else 0
    attributes = {key: plain(value) for key, value in found._attributes.items()}
    return Variable(file, name, values.shape, values.dtype, offset, stride, found.dimensions, attributes)


class Variables(Arrays):
    """The variables of a file."""

    noun = "variable"

    def __init__(
        self, label: str, node: Any, prefix: str | None = None, attributes: dict[str, Any] | None = None
    ) -> None:
        super().__init__(label, node, prefix)
        self._own = attributes or {}

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        return {"": self._own}

    def opened(self, array: Any) -> Source:
        if array.one_run:
            source = FileSource(array.file, array.offset, array.shape, array.dtype, False, array.label)
        else:
            source = RecordSource(array)
        source.attributes, source.dimension_names = array.attributes, array.dimension_names
        return source

    def opened_raw(self, array: Any) -> RawArray:
        dtype = array.dtype.newbyteorder("=")
        return RawArray(
            array.label, array.shape, dtype, array, array.attributes, array.dimension_names or None, shared=True
        )


class Netcdf3(Format):
    files = "netCDF-3"

    def takes(self, thing: Any) -> bool:
        return isinstance(thing, str) and not is_url(thing) and head(thing, len(MAGIC_5)) in MAGIC

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        path = os.path.abspath(thing)
        found, attributes = opened(path)
        return Variables(path, found, attributes=attributes)

    def refusal(self, path: str) -> str:
        if head(path, len(MAGIC_5)) != MAGIC_5:
            return ""
        return (
            " is a netCDF-3 file with 64-bit data (CDF-5), which scipy does not read: turn it into netCDF-4 with "
            f"`nccopy -k nc4 {path} NEW.nc`"
        )


FORMAT = Netcdf3()
