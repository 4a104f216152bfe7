"""What can be read: a `Source` for arrays, runs of bytes in files, chunks in Zarr and HDF5, and dask graphs.

It has a shape, a dtype, chunks where its storage has them, and what it says of itself; `pieces` cuts a region
into what it likes to read at once, and `read` reads one piece.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import numpy as np

from ..numerics.blocks import blocks, checked_dtype
from ..numerics.grid import Grid, Region, Shape, shape_of, shifted, within
from ..numerics.scales import as_missing
from ..store.buffers import Buffer
from ..store.metadata import SourceChangedError
from ..store.retrying import translated

PIECE = 1 << 21  # bytes read at a time: small enough to stay in a processor's cache until they are packed
JOINED = 1 << 23  # bytes of small chunks that are read at a time: each call of Zarr's costs as much as some of them
BETWEEN = 1 << 14  # bytes that are read in the time that it takes to skip them
KEPT = 64 << 20  # bytes that glibc keeps at most of freed blocks below 32 MiB, twice its largest mmap threshold
SAMPLE = 4096  # values at either end whose digest tells one source from another


class Source:
    """An array to read from.

    Attributes
    ----------
    shape, dtype
        Of the values; the dtype in native byte order.
    label : str
        What to call it in messages.
    chunks : tuple of int or None
        The boxes it is stored in.
    shared : bool
        Whether another process can read it too.
    missing : float, int or None
        The value that it declares as missing (``_FillValue`` or ``missing_value`` in its attributes).
    attributes, dimension_names
        What else it says of itself.
    """

    chunks: Shape | None = None
    shared = False

    def __init__(
        self,
        label: str,
        shape: Any,
        dtype: Any,
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
    ) -> None:
        self.label = label
        self.shape: Shape = tuple(int(n) for n in shape)
        self.dtype = checked_dtype(dtype)
        self.attributes = attributes or {}
        self.dimension_names = dimension_names
        if not self.shape:
            raise ValueError(f"{label} has no axes; a single number is quantized in memory, by quantize_to_int4")
        if not math.prod(self.shape):
            raise ValueError(f"{label} has shape {self.shape} and so no values to find a scale for")
        self.missing = declared_missing(self.attributes, self.dtype, label)

    def read(self, region: Region) -> np.ndarray:
        """The values of a region. They may lie in a buffer that this thread's next `read` uses again."""
        raise NotImplementedError

    def pieces(self, region: Region) -> Iterator[Region]:
        """Regions that cover `region` once, in C order; cuts of the last axis lie an even way from its start."""
        most = max(PIECE // self.dtype.itemsize, 2)
        for part in blocks(shape_of(region), most):
            yield shifted(part, region)

    def reading(self, unit: Shape) -> int:
        """Bytes that one thread holds at most to read the pieces of a region of this shape."""
        return 2 * PIECE

    def sample(self) -> str | None:
        """Digest of the first and the last values; None where reading them is not for this process to do."""
        digest = hashlib.sha256()
        for end in (0, 1):
            values = np.ascontiguousarray(self.read(tuple(self._end(end))), self.dtype.newbyteorder("<"))
            digest.update(values.tobytes())
        return digest.hexdigest()

    def _end(self, end: int) -> Iterator[slice]:
        rest = SAMPLE
        lengths = []
        for n in reversed(self.shape):
            lengths.append(max(min(n, rest), 1))
            rest //= n
        for n, length in zip(self.shape, reversed(lengths), strict=True):
            yield slice(n - length, n) if end else slice(0, length)


class ArraySource(Source):
    """A NumPy array of this process."""

    def __init__(self, array: np.ndarray) -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError("a masked array has no file form: pass array.filled(np.nan) and nan_policy='propagate'")
        super().__init__("array in memory", array.shape, array.dtype)
        self.array = np.asarray(array)

    def read(self, region: Region) -> np.ndarray:
        return self.array[region]


class FileSource(Source):
    """An array that lies in a file as one run of bytes: a ``.npy`` file or a memory map.

    It is read with `pread` into a buffer that is used again, and not mapped: mapped pages count as the process's
    memory, and a file that becomes shorter would kill it.
    """

    shared = True

    def __init__(self, path: str, offset: int, shape: Shape, dtype: np.dtype[Any], fortran: bool) -> None:
        super().__init__(path, shape, dtype)
        self.path = path
        self.offset = offset
        self.stored = dtype  # in the file's byte order
        self.fortran = fortran
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self._file)
        self._buffer = Buffer()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_file", "_buffer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, region: Region) -> np.ndarray:
        if self.fortran:
            return self._runs(self.shape[::-1], region[::-1]).T
        if region[1:] == self._rows:
            return self._run(region[0].start, shape_of(region))
        wide = self._widened(region)
        if math.prod(shape_of(wide)) * self.stored.itemsize > PIECE:  # more than one of the `pieces`
            wide = region
        return self._runs(self.shape, wide)[within(region, wide)]

    def _widened(self, region: Region) -> Region:
        """The region with whole rows, where what lies between its runs of bytes is sooner read than skipped."""
        wide = list(region)
        size = self.stored.itemsize
        for axis in reversed(range(1, len(region))):
            n = self.shape[axis]
            between = (n - region[axis].stop + region[axis].start) * size
            size *= n
            if between:
                if between > BETWEEN or size > PIECE:
                    break
                wide[axis] = slice(0, n)
        return tuple(wide)

    @functools.cached_property
    def _rows(self) -> Region:
        """What a region has behind its first axis where its bytes are one run."""
        return tuple(slice(0, n) for n in self.shape[1:])

    def _run(self, start: int, lengths: Shape) -> np.ndarray:
        size = math.prod(lengths[1:]) * self.stored.itemsize
        out = self._buffer.of(lengths[0] * size)
        self._fill(out.data, self.offset + start * size)
        return out.view(self.stored).reshape(lengths)

    def _runs(self, shape: Shape, region: Region) -> np.ndarray:
        lengths = shape_of(region)
        out = self._buffer.of(math.prod(lengths) * self.stored.itemsize)
        view, at = out.data, 0
        for start, length in runs(shape, region):
            size = length * self.stored.itemsize
            self._fill(view[at : at + size], self.offset + start * self.stored.itemsize)
            at += size
        return out.view(self.stored).reshape(lengths)

    def _fill(self, buffer: memoryview, start: int) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._file, [buffer[done:]], start + done)
            if count == 0:
                raise SourceChangedError(f"{self.path} ended at byte {start + done}: it was longer when this run began")
            done += count

    def pieces(self, region: Region) -> Iterator[Region]:
        if not self.fortran:
            wide = self._widened(region)
            if wide == region:
                yield from super().pieces(region)
                return
            for part in super().pieces(wide):
                yield tuple(own if whole != own else cut for cut, whole, own in zip(part, wide, region, strict=True))
            return
        # The buffer is in the order of the file; the packed bytes need an even cut of its slowest axis, the last.
        *outer, last = region
        rows = max(PIECE // self.dtype.itemsize // math.prod(shape_of(tuple(outer))), 2) // 2 * 2
        for start in range(last.start, last.stop, rows):
            yield (*outer, slice(start, min(start + rows, last.stop)))

    def reading(self, unit: Shape) -> int:
        smallest = 2 * math.prod(unit[:-1]) * self.dtype.itemsize if self.fortran else 0
        return 2 * max(PIECE, smallest)


def runs(shape: Shape, region: Region) -> Iterator[tuple[int, int]]:
    """Start and length, in values, of the runs of consecutive values that make up a region of a C-order array.

    >>> list(runs((4, 10), (slice(1, 3), slice(2, 5))))
    [(12, 3), (22, 3)]
    >>> list(runs((4, 10), (slice(1, 3), slice(0, 10))))
    [(10, 20)]
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axis = len(shape) - 1
    while axis > 0 and region[axis] == slice(0, shape[axis]):
        axis -= 1
    length = (region[axis].stop - region[axis].start) * strides[axis]
    for index in product(*(range(part.start, part.stop) for part in region[:axis])):
        yield sum(map(math.prod, zip(index, strides, strict=False))) + region[axis].start * strides[axis], length


class ChunkedSource(Source):
    """An array that is stored in chunks, each of which is read whole: Zarr and HDF5.

    Each thread keeps the chunk that it read last: regions that lie in one large chunk then decode it once.
    """

    def __init__(
        self, label: str, array: Any, attributes: dict[str, Any], names: tuple[str | None, ...] | None
    ) -> None:
        super().__init__(label, array.shape, array.dtype, attributes, names)
        self.array = array
        self.chunks = None if array.chunks is None else tuple(array.chunks)
        self._buffer = Buffer()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_buffer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._buffer = Buffer()

    def sample(self) -> str | None:
        digest = super().sample()
        self._buffer = Buffer()  # the driver's thread reads no more
        return digest

    def fetch(self, region: Region, out: np.ndarray) -> None:
        """Read a region into an array of its shape, in the stored byte order."""
        raise NotImplementedError

    def _fetch(self, region: Region) -> np.ndarray:
        stored = np.dtype(self.array.dtype)
        shape = shape_of(region)
        out: np.ndarray = self._buffer.of(math.prod(shape) * stored.itemsize).view(stored).reshape(shape)
        self.fetch(region, out)
        return out

    @functools.cached_property
    def cells(self) -> Grid | None:
        """What is read at once: chunks, small ones joined, with cuts of the last axis at even indices."""
        if self.chunks is None:
            return None
        cell = list(self.chunks)
        if cell[-1] % 2 and cell[-1] < self.shape[-1]:
            cell[-1] *= 2
        for axis in reversed(range(len(cell))):
            size = math.prod(cell) * self.dtype.itemsize
            if size < JOINED:
                cell[axis] = min(cell[axis] * max(JOINED // size, 1), -(-self.shape[axis] // cell[axis]) * cell[axis])
        return Grid(self.shape, tuple(cell))

    def pieces(self, region: Region) -> Iterator[Region]:
        if self.cells is None:
            yield from super().pieces(region)
        else:
            for _, piece in self.cells.touched(region):
                yield piece

    def read(self, region: Region) -> np.ndarray:
        if self.chunks is None:
            return self._fetch(region)
        grid = Grid(self.shape, self.chunks)
        touched = [number for number, _ in islice(grid.touched(region), 2)]
        if len(touched) > 1:
            return self._fetch(region)
        (number,) = touched
        chunk = grid.region(number)
        if self._buffer.tag == number:
            shape = shape_of(chunk)
            held = self._buffer.data[: math.prod(shape) * self.dtype.itemsize]
            whole: np.ndarray = held.view(self.array.dtype).reshape(shape)
        else:
            whole = self._fetch(chunk)
            self._buffer.tag = number
        return whole[within(region, chunk)]

    def reading(self, unit: Shape) -> int:
        """Encoded, decoded and copied out: three cells, and what the allocator keeps of those that were."""
        if self.chunks is None or self.cells is None:
            return 2 * PIECE
        cell = max(math.prod(map(min, self.cells.box, unit)), math.prod(self.chunks)) * self.dtype.itemsize
        return 3 * cell + min(2 * cell, KEPT)


class ZarrSource(ChunkedSource):
    """A Zarr array, v2 or v3."""

    def __init__(self, array: Any) -> None:
        from ..store.keys import Files

        files = Files(array.store)
        attributes = dict(array.attrs)
        label = "/".join(filter(None, [files.label, array.path]))
        if "int4" in attributes:
            raise ValueError(f"{label} is int4 already: read it with open_int4, or turn it back with restore")
        names = getattr(array.metadata, "dimension_names", None)
        if names is None and isinstance(attributes.get("_ARRAY_DIMENSIONS"), list):
            names = attributes.pop("_ARRAY_DIMENSIONS")
        super().__init__(label, array, attributes, tuple(names) if names else None)
        self.shared = files.shared

    @translated
    def fetch(self, region: Region, out: np.ndarray) -> None:
        from zarr.core.buffer import default_buffer_prototype

        self.array.get_basic_selection(region, out=default_buffer_prototype().nd_buffer.from_numpy_array(out))


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name."""

    shared = True

    def __init__(self, dataset: Any) -> None:
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        attributes = {key: plain(value) for key, value in dataset.attrs.items() if key not in HDF5_OWN}
        names = tuple(dimension.label or None for dimension in dataset.dims)
        super().__init__(f"{self.path}::{self.name}", dataset, attributes, names if any(names) else None)

    def fetch(self, region: Region, out: np.ndarray) -> None:
        self.array.read_direct(out, region)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import h5py

        super().__setstate__(state)
        self.array = h5py.File(self.path, "r")[self.name]


HDF5_OWN = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")


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


class DaskSource(Source):
    """A dask array. The pipeline computes its blocks with the rest of its graph; `read` is for looking at a part."""

    shared = True

    def __init__(self, array: Any) -> None:
        label = "dask array"
        if any(math.isnan(n) for n in array.shape) or any(math.isnan(n) for lengths in array.chunks for n in lengths):
            raise ValueError(
                f"{label} has chunks of unknown size, so its chunks in the store cannot be known either: call "
                "array.compute_chunk_sizes() first"
            )
        super().__init__(label, array.shape, array.dtype)
        self.array = array
        self.chunks = tuple(max(lengths) for lengths in array.chunks)

    def read(self, region: Region) -> np.ndarray:
        return np.asarray(self.array[region].compute())

    def pieces(self, region: Region) -> Iterator[Region]:
        yield region

    def reading(self, unit: Shape) -> int:
        """An estimate: eight blocks for the steps of the graph, and a region put together while another waits."""
        assert self.chunks is not None
        return (8 * math.prod(self.chunks) + 2 * math.prod(unit)) * self.dtype.itemsize

    def sample(self) -> str | None:
        return None


# What the source says of itself --------------------------------------------------------------------------------------


def declared_missing(attributes: dict[str, Any], dtype: np.dtype[Any], label: str) -> float | int | None:
    """The missing value that attributes declare, as CF conventions do (section 2.5.1); NaN needs no declaring.

    Raises
    ------
    ValueError
        If they declare two.
    """
    values: set[float | int] = set()
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and dtype.kind not in "iu":
            value = decoded_fill(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            held = as_missing(value, dtype)
            values |= set() if held is None else {held}
    if len(values) > 1:
        raise ValueError(f"{label} declares two missing values, {sorted(values)}; pass missing= with the one to use")
    return values.pop() if values else None


def decoded_fill(text: str) -> float | None:
    """A float ``_FillValue`` as xarray writes it into Zarr v3 attributes: base64 of its eight bytes."""
    try:
        return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
    except (ValueError, struct.error):
        return None


def plain(value: Any) -> Any:
    """An attribute as JSON has it: NumPy's numbers and arrays as Python's, what JSON lacks as a string."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
