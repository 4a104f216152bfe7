"""``.npy`` files, read and written, and other arrays that lie in a file as one run of bytes."""

from __future__ import annotations

import functools
import math
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, BinaryIO

import numpy as np

from ...exceptions import SourceChangedError, SourceError
from ...numerics.grid import Batches, Region, Shape, shape_of, within
from ...store.buffers import Buffer
from ..arrays import Arrays
from ..content import head, reason
from ..format import Format, is_url
from ..raw import RawArray, kept_dtype
from ..sink import Outline, Put, Sink
from ..source import PIECE_BYTES, Source, bytes_of_runs

MAGIC = b"\x93NUMPY"  # the first bytes of a file
TWO_BYTES = np.dtype("V2")  # what NumPy calls bfloat16 in a file, which has no other name for it
PAGE_BYTES = 1 << 12  # bytes: what a system reads at least: a run that begins anywhere in one costs so many more
GAP_BYTES = 1 << 14  # bytes: a gap between two runs that is read in the time that it takes to skip it


class File:
    """A file that several arrays may lie in, read at offsets; a copy in another process opens it again.

    Where `kept` is False it is open only while it is read, as processes may have few files open at a time. Then it must
    stay the same file.
    """

    def __init__(self, path: str, kept: bool = True) -> None:
        self.path, self.kept = path, kept
        self._open()

    def _open(self) -> None:
        self._number = self._opened()
        found = os.fstat(self._number)
        self._known = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self.kept:
            weakref.finalize(self, os.close, self._number)
        else:
            os.close(self._number)

    def _opened(self) -> int:
        return os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": os.path.abspath(self.path), "kept": self.kept}  # another process may be in another folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def fill(self, buffer: memoryview, start: int) -> None:
        """Read as many bytes as the buffer has, from a byte on.

        Raises
        ------
        SourceChangedError
            If there are not so many, or it is no longer the file that was opened first.
        """
        if self.kept:
            self._fill(self._number, buffer, start)
            return
        number = self._opened()
        try:
            self._check(os.fstat(number))
            self._fill(number, buffer, start)
        finally:
            os.close(number)

    def check(self) -> None:
        """Raise a `SourceChangedError`, if the path has another file than it had, or that was written to."""
        self._check(os.stat(self.path))

    def _check(self, found: os.stat_result) -> None:
        if (found.st_ino, found.st_size, found.st_mtime_ns) != self._known:
            raise SourceChangedError(f"{self.path} was replaced or written to since this run began")

    def _fill(self, number: int, buffer: memoryview, start: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(number, [buffer[done:]], start + done)
            except OSError as error:
                error.filename = self.path
                raise
            if count == 0:
                raise SourceChangedError(f"{self.path} ended at byte {start + done}: it was longer when this run began")
            done += count


class RunSource(Source):
    """An array whose rows lie in files one after another."""

    shared = True
    rereads = False
    masks = False

    def widened(self, region: Region) -> Region:
        """The region with whole rows, where what lies between its runs of bytes is sooner read than skipped."""
        wide = list(region)
        size = self.dtype.itemsize
        for axis in reversed(range(1, len(region))):
            n = self.shape[axis]
            between = (n - region[axis].stop + region[axis].start) * size
            size *= n
            if between:
                if between > GAP_BYTES or size > PIECE_BYTES:
                    break
                wide[axis] = slice(0, n)
        return tuple(wide)

    def pieces(self, region: Region) -> Iterator[Region]:
        wide = self.widened(region) if self.order == "C" else region
        for part in super().pieces(wide):
            yield tuple(own if whole != own else cut for cut, whole, own in zip(part, wide, region, strict=True))

    def bytes_read(self, units: Batches) -> int:
        gap = GAP_BYTES if self.order == "C" else 0
        return bytes_of_runs(units, self.dtype.itemsize, PAGE_BYTES, gap, PIECE_BYTES, self.order)


class FileSource(RunSource):
    """An array that lies in a file as one run of bytes: a ``.npy`` file, a memory map, a tensor in a checkpoint.

    It is read with `pread` into a buffer that is used again, and not mapped: mapped pages count as the process's
    memory, and a file that becomes shorter would kill it.
    """

    def __init__(
        self, file: str | File, offset: int, shape: Shape, dtype: np.dtype[Any], fortran: bool, label: str = ""
    ) -> None:
        """`dtype` in the file's byte order; `label` is the file's path by default."""
        path = file if isinstance(file, str) else file.path
        super().__init__(label or path, shape, dtype)
        self.file = File(file) if isinstance(file, str) else file
        self.offset = offset
        self.stored = dtype
        self.order = "F" if fortran else "C"
        self.buffer = Buffer()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "buffer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.buffer = Buffer()

    def load(self, region: Region) -> np.ndarray:
        if self.order == "F":
            return self._runs(self.shape[::-1], region[::-1]).T
        if region[1:] == self._rows:
            return self._run(region[0].start, shape_of(region))
        wide = self.widened(region)
        if math.prod(shape_of(wide)) * self.stored.itemsize > PIECE_BYTES:  # more than one of the `pieces`
            wide = region
        return self._runs(self.shape, wide)[within(region, wide)]

    @functools.cached_property
    def _rows(self) -> Region:
        """What a region has behind its first axis where its bytes are one run."""
        return tuple(slice(0, n) for n in self.shape[1:])

    def _run(self, start: int, lengths: Shape) -> np.ndarray:
        size = math.prod(lengths[1:]) * self.stored.itemsize
        out = self.buffer.of(lengths[0] * size)
        self.file.fill(out.data, self.offset + start * size)
        return out.view(self.stored).reshape(lengths)

    def _runs(self, shape: Shape, region: Region) -> np.ndarray:
        lengths = shape_of(region)
        out = self.buffer.of(math.prod(lengths) * self.stored.itemsize)
        view, at = out.data, 0
        for start, length in runs(shape, region):
            size = length * self.stored.itemsize
            self.file.fill(view[at : at + size], self.offset + start * self.stored.itemsize)
            at += size
        return out.view(self.stored).reshape(lengths)


@dataclass(frozen=True)
class Run:
    """An array that lies in a file as one run of bytes, before anybody asks for it."""

    label: str
    file: File
    offset: int  # bytes
    shape: Shape
    dtype: np.dtype[Any]  # in the file's byte order
    fortran: bool = False

    def source(self) -> FileSource:
        """To quantize it.

        Raises
        ------
        TypeError, ValueError
            If its dtype cannot be quantized, or it has no axes or no values.
        """
        try:
            return FileSource(self.file, self.offset, self.shape, self.dtype, self.fortran, self.label)
        except TypeError as error:
            raise TypeError(f"{self.label} cannot be quantized: {error}") from None

    def raw(self) -> RawArray:
        """To keep it; a `SourceError`, if its dtype cannot be kept."""
        return RawArray(self.label, self.shape, kept_dtype(self.dtype, self.label), self.load, shared=True)

    def load(self, region: Region) -> np.ndarray:
        """The values of a region as they are stored, of whatever dtype and shape."""
        shape, part = (self.shape[::-1], region[::-1]) if self.fortran else (self.shape, region)
        lengths = shape_of(part)
        out = np.empty(lengths, self.dtype)
        if out.size:
            view, at = out.reshape(-1).view(np.uint8).data, 0
            for start, length in runs(shape, part):
                size = length * self.dtype.itemsize
                self.file.fill(view[at : at + size], self.offset + start * self.dtype.itemsize)
                at += size
        return out.T if self.fortran else out


class Runs(Arrays):
    """Arrays each of which is a `Run`."""

    def opened(self, array: Any) -> Source:
        source: Source = array.source()
        return source

    def opened_raw(self, array: Any) -> RawArray:
        raw: RawArray = array.raw()
        return raw


def runs(shape: Shape, region: Region) -> Iterator[tuple[int, int]]:
    """Start and length, in values, of the runs of consecutive values that make up a region of a C-order array.

    >>> list(runs((4, 10), (slice(1, 3), slice(2, 5))))
    [(12, 3), (22, 3)]
    >>> list(runs((4, 10), (slice(1, 3), slice(0, 10))))
    [(10, 20)]
    >>> list(runs((), ()))
    [(0, 1)]
    """
    if not shape:
        yield 0, 1
        return
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axis = len(shape) - 1
    while axis > 0 and region[axis] == slice(0, shape[axis]):
        axis -= 1
    length = (region[axis].stop - region[axis].start) * strides[axis]
    for index in product(*(range(part.start, part.stop) for part in region[:axis])):
        yield sum(map(math.prod, zip(index, strides, strict=False))) + region[axis].start * strides[axis], length


@dataclass(frozen=True)
class NpyRun(Run):
    """That of a ``.npy`` file; `again` has NumPy open it."""

    again: str = ""

    def source(self) -> FileSource:
        check_numbers(self.dtype, self.label, self.again)
        return super().source()


def check_numbers(dtype: np.dtype[Any], label: str, again: str) -> None:
    """Refuse, with a TypeError, what ``.npy`` has and is no numbers, or has no name for."""
    if dtype.hasobject:
        raise TypeError(f"{label} holds Python objects, which cannot be quantized")
    if dtype == TWO_BYTES:
        raise TypeError(
            f"{label} has the dtype {dtype.str}, two bytes of no known type. That is most often bfloat16, for which "
            f".npy has no name: in Python pass {again}.view(ml_dtypes.bfloat16)"
        )


def npy_run(path: str, kept: bool = True) -> NpyRun:
    """The array in a ``.npy`` file, of which only the header is read; `kept` as in `File`.

    Raises
    ------
    SourceError
        If it is cut, of an unknown version, or may not be read.
    """
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = header(file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
        whole = offset + math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and size < whole:
            raise SourceError(
                f"{path} is no whole .npy file: {size:,} of {whole:,} bytes are there. Copy or download it again"
            )
        again = f"np.load({path!r}, mmap_mode='r')"
        return NpyRun(path, File(path, kept), offset, shape, dtype, fortran, again)
    except SourceError:
        raise
    except (ValueError, EOFError) as error:
        raise SourceError(f"{path} is no whole .npy file: {reason(error)}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error


def header(file: BinaryIO) -> tuple[Shape, bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and dtype, as the header of a ``.npy`` file has them.

    Raises
    ------
    ValueError
        If it is none.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version[0] not in (2, 3) or version[1]:
        raise ValueError(f"it is of version {version[0]}.{version[1]}, and NumPy reads 1.0, 2.0 and 3.0")
    else:
        # Version 3 differs in one thing alone, that names of fields may be any text. Arrays with fields are refused.
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, fortran and sum(n > 1 for n in shape) > 1, dtype


class NpySink(Sink):
    """A ``.npy`` file, into which each run of values is written where it belongs. Not mapped: pages count as memory."""

    suffixes = (".npy",)
    name = ".npy"

    @contextmanager
    def open(self, path: str | os.PathLike[str], outline: Outline) -> Iterator[Put]:
        shape, dtype = outline.shape, outline.dtype
        with open(path, "xb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            file.truncate(offset + math.prod(shape) * dtype.itemsize)

            yield functools.partial(write_runs, file.fileno(), offset, shape, dtype)
            file.flush()
            os.fsync(file.fileno())


def write_runs(file: int, offset: int, shape: Shape, dtype: np.dtype[Any], region: Region, values: np.ndarray) -> None:
    """Write the values of a region where each belongs in an array in C order, which begins at an offset of a file."""
    flat = np.ascontiguousarray(values, dtype).reshape(-1)
    at = 0
    for start, length in runs(shape, region):
        data = flat[at : at + length].view(np.uint8).data
        position = offset + start * dtype.itemsize
        while data:
            written = os.pwrite(file, data, position)
            data, position = data[written:], position + written
        at += length


class Npy(Format):
    files = ".npy"
    suffixes = (".npy",)
    sink = NpySink

    def takes(self, thing: Any) -> bool:
        return isinstance(thing, str) and not is_url(thing) and head(thing, len(MAGIC)) == MAGIC

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return Runs(thing, npy_run(thing))


FORMAT = Npy()
