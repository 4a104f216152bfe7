"""`Int4Array`: a sealed variable read lazily, as floats, chunk by chunk."""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike

from ..exceptions import StoreError
from ..kernels import unpack_values
from ..numerics.blocks import processors
from ..numerics.dtypes import FLOATS, checked_dtype
from ..numerics.grid import Region, shape_of
from ..numerics.scales import LOWEST, Scales
from ..numerics.tables import CODES, CodeLevels, level_table
from ..runtime.pool import result_of, threads
from ..storage import Variable, as_collected, sealed_variable
from ..store.chunks import ChunkReader
from ..store.keys import stored_bytes
from ..store.metadata import Metadata
from .indexing import Indexer, Part, Selection, outer, pieces, plain, pointwise

if TYPE_CHECKING:
    import dask.array
    import zarr

# What of an index leaves an axis, or all that are not named.
Cut: TypeAlias = slice | EllipsisType | list[Any] | np.ndarray[Any, Any]
# Indices that leave an axis for sure, so that what comes is an array and no number: of tuples those that type checkers
# see it of, with a cut at one of the first places.
Cutting: TypeAlias = (
    "Cut | tuple[Cut, ...] | tuple[Cut, *tuple[Cut | SupportsIndex, ...]]"
    " | tuple[SupportsIndex, Cut, *tuple[Cut | SupportsIndex, ...]]"
    " | tuple[SupportsIndex, SupportsIndex, Cut, *tuple[Cut | SupportsIndex, ...]]"
)


def opened_array(store: Any, name: str | None = None) -> Int4Array:
    """The one sealed variable of a store, or that of a name; raises as `open_int4` does."""
    return Int4Array(*sealed_variable(store, name))


T = TypeVar("T")

Levels = Callable[[ChunkReader, Sequence[range]], CodeLevels]  # what the codes of some indices of each axis stand for

ITERATED = 64 << 20  # bytes: what is read at once to iterate over the first axis, or one entry of that
READS = 10  # times: how often one thing is read at most while the variable is written anew, and is the same


class Int4Array:
    """A lazy view of a sealed variable: floats when indexed, reading only the chunks it needs.

    Indexing is NumPy's: integers, slices with any step, an ellipsis, and one array of integers or mask. Several arrays
    stand in `oindex`, each for entries of its own axis, or in `vindex`, as points together. Each chunk that holds
    something of it is read once, and no other. It is bound to what was opened: once another job has overwritten the
    variable, what is read raises a `StoreError`.

    Attributes
    ----------
    shape, dtype, ndim, size, nbytes
        Of the values, as of a NumPy array.
    chunks, shards : tuple of int
        In values; `shards` is None where there are none.
    axis : int or None
        The axis that keeps a scale for each of its indices.
    blocks : tuple of int or None
        Lengths of the blocks that share a scale, -1 for a whole axis, where it is blocks.
    scale, zero_point : float and int, or arrays
        ``x' = (code - zero_point) * scale``. With an `axis` float64 and int64 arrays that broadcast against the values;
        with `blocks` float64 arrays with an entry for each block. They are read from the store each time they are asked
        for: there may be many.
    nan_code, missing
        The code of missing values, and the value they have in an integer dtype; None where there is none.
    max_error : float or array
        ``scale / 2``: no value within the range differs by more, but for rounding to the dtype.
    nbytes_stored : int
        What the chunks take in the store, as it is now.
    packed : zarr.Array
        The packed codes, uint8.
    attributes, dimension_names
        What the source said of itself.
    attrs, dims
        The same as xarray calls it: an axis without a name is ``dim_0``, and so on.
    oindex, vindex
        Take an index in brackets, with several arrays.
    """

    def __init__(self, variable: Variable, metadata: Metadata) -> None:
        assert metadata.scale is not None
        self.variable = variable
        self.metadata = metadata
        self.layout = metadata.layout
        self.shape = self.layout.shape
        self.dtype = self.layout.dtype
        self.chunks = self.layout.chunks
        self.shards = self.layout.shards
        self.name = variable.name
        self.path = variable.keys.label
        self.axis = metadata.granularity.axis
        self.blocks = metadata.granularity.blocks
        self.nan_code = metadata.nan_code
        self.missing = metadata.missing
        self.attributes = metadata.attributes
        self.dimension_names = metadata.dimension_names

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def attrs(self) -> dict[str, Any]:
        return self.attributes

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(name or f"dim_{axis}" for axis, name in enumerate(self.dimension_names or (None,) * self.ndim))

    @property
    def max_error(self) -> float | np.ndarray:
        return self.scale / 2

    @property
    def scale(self) -> float | np.ndarray:
        found: float | np.ndarray = copy.copy(self._scales.plain()[0])  # the reader keeps its own
        return found

    @property
    def zero_point(self) -> int | np.ndarray:
        found: int | np.ndarray = copy.copy(self._scales.plain()[1])
        return found

    @property
    def _scales(self) -> Scales:
        return self.scales_of(tuple(slice(0, n) for n in self.shape))

    def scales_of(self, region: Region) -> Scales:
        """The scales of a region of the values."""
        if self.metadata.granularity.single:  # in the metadata, which have been read
            return self._reader.scales(region)
        return self._bound(lambda reader: reader.scales(region))

    @property
    def nbytes_stored(self) -> int:
        arrays = self.variable.arrays(self.metadata)
        return sum(stored_bytes(self.variable.keys, name, grid) for name, grid in arrays)

    @property
    def packed(self) -> zarr.Array[Any]:
        return self._bound(lambda reader: self.variable.packed())

    def _bound(self, read: Callable[[ChunkReader], T]) -> T:
        """What a reader reads, all of it of the variable that was opened.

        Raises
        ------
        StoreError
            If that is no longer in the store.
        """
        for _ in range(READS):
            reader = self._reader
            try:
                found = read(reader)
            except StoreError:  # also of what another job has deleted or written
                if reader.stands() and not reader.moved:
                    raise
            else:
                if reader.stands():
                    return found
            self._reader = ChunkReader(self.variable.keys, self.name, self.metadata)
        raise StoreError(
            f"{self.path}/{self.name} was written anew {READS} times while it was read; read it once that has ended"
        )

    def refresh(self) -> Int4Array:
        """Take in what was appended since it was opened: the array itself, which is longer then and otherwise the same.

        Until then it has the shape that it had, and reads what it read: appending changes nothing that was there.

        Raises
        ------
        StoreError
            If it was overwritten or removed.

        Examples
        --------
        >>> from quantize import append_to_zarr, quantize_to_zarr
        >>> from zarr.storage import MemoryStore
        >>> store = MemoryStore()
        >>> array = quantize_to_zarr(np.linspace(0, 1, 20).reshape(5, 4), store)
        >>> _ = append_to_zarr(np.full((3, 4), 0.5), store)
        >>> array.shape, array.refresh().shape
        ((5, 4), (8, 4))
        """
        reader = ChunkReader(self.variable.keys, self.name, self.metadata)
        now = reader.current()
        if not reader.is_own(now):
            assert isinstance(now, Metadata)
            now = as_collected(self.variable, now)
            for name in ("_shared_levels", "_reader"):
                self.__dict__.pop(name, None)
            self.metadata, self.layout, self.shape = now, now.layout, now.layout.shape
            self.chunks, self.shards = now.layout.chunks, now.layout.shards
        return self

    def _levels(self, reader: ChunkReader, axes: Sequence[range]) -> CodeLevels:
        """What the codes of some indices of each axis stand for."""
        granularity = self.metadata.granularity
        if granularity.single:  # found once, not for each chunk
            return self._shared_levels
        if granularity.blocks is not None:
            region = tuple(slice(axis.start, axis.stop) for axis in axes)
            return level_table(reader.scales(region), self.dtype, self.metadata.codes)
        hull = tuple(slice(axis[0], axis[-1] + 1) for axis in axes)
        region = granularity.aligned(hull, self.shape)
        inside = [
            range(axis.start - part.start, axis.stop - part.start, axis.step)
            for axis, part in zip(axes, region, strict=True)
        ]
        return level_table(reader.scales(region).taken(inside), self.dtype, self.metadata.codes)

    def _whole_blocks(self, axes: Sequence[range]) -> list[range]:
        """The indices of all blocks that hold some of these, and of whole bytes."""
        cuts = self.metadata.granularity.whole_cuts(self.shape)
        return [
            range(axis[0] // cut * cut, min(-(-(axis[-1] + 1) // cut) * cut, n))
            for axis, cut, n in zip(axes, cuts, self.shape, strict=True)
        ]

    @functools.cached_property
    def _shared_levels(self) -> CodeLevels:
        return level_table(self._scales, self.dtype, self.metadata.codes)

    def __repr__(self) -> str:
        axis = self.metadata.granularity.label.replace(" ", "=", 1)
        several = axis if self.blocks is None else f"blocks={self.blocks}"
        one = several or f"scale={self.scale:.6g} zero_point={self.zero_point}"
        return f"<Int4Array {self.path}/{self.name} shape={self.shape} dtype={self.dtype} chunks={self.chunks} {one}>"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        """What each index of the first axis holds; each chunk is read once where a row of them takes at most 64 MiB."""
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        step = max(min(self.chunks[0], ITERATED // max(row, 1)), 1)
        for start in range(0, self.shape[0], step):
            yield from self[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an Int4Array is dequantized when read, so it cannot be an array without a copy")
        whole = self[...]
        return np.asarray(whole, dtype)

    def _repr_html_(self) -> str:
        from .summary import repr_html

        return repr_html(self)

    def to_dask(self) -> dask.array.Array:
        """A dask array of the values, one block for each chunk; nothing is read before it is computed."""
        import dask.array

        meta = np.empty((0,) * self.ndim, self.dtype)
        lazy: dask.array.Array = dask.array.from_array(self, chunks=self.chunks, meta=meta, asarray=False)
        return lazy

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader: what it knows of the store's files is of this machine."""
        return {key: value for key, value in self.__dict__.items() if key != "_reader"}

    def __dask_tokenize__(self) -> Any:
        return (type(self).__name__, self.path, self.name, self.metadata.to_json(), str(self.dtype))

    @overload
    def __getitem__(self, index: Cutting) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: SupportsIndex | tuple[Cut | SupportsIndex, ...]) -> np.ndarray | np.number[Any]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.selected(plain(index, self.shape))

    def selected(self, selection: Selection) -> Any:
        """The values that an index takes, of whatever kind it is."""
        return self._take(selection, self.dtype, self._levels)

    @property
    def oindex(self) -> Indexer:
        """Outer indexing: each integer, slice, one-dimensional array or mask stands for entries of its own axis.

        Examples
        --------
        >>> from quantize import quantize_to_zarr
        >>> from zarr.storage import MemoryStore
        >>> array = quantize_to_zarr(np.arange(16.0).reshape(4, 4), MemoryStore())
        >>> array.oindex[[3, 0], [1, 1, -1]].tolist()
        [[13.0, 13.0, 15.0], [1.0, 1.0, 3.0]]
        """
        return Indexer(self, outer)

    @property
    def vindex(self) -> Indexer:
        """Pointwise indexing: arrays and integers broadcast to points, whose axes come first; those of slices follow.

        Examples
        --------
        >>> from quantize import quantize_to_zarr
        >>> from zarr.storage import MemoryStore
        >>> array = quantize_to_zarr(np.arange(16.0).reshape(4, 4), MemoryStore())
        >>> array.vindex[[3, 0], [1, -1]].tolist()
        [13.0, 3.0]
        """
        return Indexer(self, pointwise)

    def astype(self, dtype: DTypeLike) -> Int4Array:
        """The same variable, read as another dtype of floats: each level is rounded once, from float64 to that.

        Nothing is read. The missing value of integers becomes NaN.

        Raises
        ------
        TypeError
            If `dtype` is neither a float's nor the array's own.

        Examples
        --------
        >>> from quantize import quantize_to_zarr
        >>> from zarr.storage import MemoryStore
        >>> array = quantize_to_zarr(np.linspace(0, 1, 16, dtype=np.float32), MemoryStore())
        >>> array.astype("float64")[1].item(), array[1].item()
        (0.06666666666666667, 0.06666667014360428)
        """
        found = checked_dtype(dtype)
        if found != self.dtype and found not in FLOATS:
            raise TypeError(
                f"{self.path}/{self.name} of {self.dtype} is read as floats, not as {found}: convert what is read, by "
                f"array[...].astype({found.name!r})"
            )
        other = copy.copy(self)
        other.__dict__.pop("_shared_levels", None)
        other.dtype = found
        return other

    @overload
    def codes(self, index: Cutting = ...) -> np.ndarray: ...

    @overload
    def codes(self, index: SupportsIndex | tuple[Cut | SupportsIndex, ...]) -> np.ndarray | np.int8: ...

    def codes(self, index: Any = ...) -> Any:
        """The codes -8..7 themselves, int8, of an index as for the values.

        Raises
        ------
        DamagedChunkError
            If a chunk is missing or damaged.
        """
        return self._take(plain(index, self.shape), np.dtype(np.int8), lambda reader, axes: CODES)

    def _take(self, selection: Selection, dtype: np.dtype[Any], levels: Levels) -> Any:
        out = np.empty(selection.counts, dtype)
        if out.size:
            self._bound(lambda reader: self._read(reader, selection, out, levels))
        return selection.finished(out)

    def _read(self, reader: ChunkReader, selection: Selection, out: np.ndarray, levels: Levels) -> None:
        grid = reader.grid
        in_blocks = self.blocks is not None and levels == self._levels  # restored whole and apart, where that is faster

        def work(parts: tuple[Part, ...]) -> None:
            number = grid.number(selection.place(parts))
            packed = reader.read(number)
            for piece in pieces(parts):
                (*outer, last), room = selection.indices(piece), selection.room(piece, out)
                odd = last.start % 2 if last.step == 1 and not in_blocks else 0
                if room is not None and (in_blocks or (room.flags.c_contiguous and not odd)):
                    self._read_chunk(reader, number, packed, (*outer, last), room, levels)
                    continue
                # Whole bytes are unpacked much faster, and into rows that lie side by side.
                axes = (*outer, range(last.start - odd, last.stop, last.step))
                values = np.empty(tuple(map(len, axes)), out.dtype)
                self._read_chunk(reader, number, packed, axes, values, levels)
                if room is not None:
                    room[...] = values[..., odd:]
                else:
                    selection.put(piece, values[..., odd:], out)

        touched = selection.chunks(grid.box)
        if math.prod(shape_of(selection.hull)) <= math.prod(grid.box):
            for parts in touched:
                work(parts)
        else:
            with threads(processors(), threading.Event()) as pool:
                for future in [pool.submit(work, parts) for parts in touched]:
                    result_of(future)

    @functools.cached_property
    def _reader(self) -> ChunkReader:
        return ChunkReader(self.variable.keys, self.name, self.metadata)

    def _read_chunk(
        self,
        reader: ChunkReader,
        number: int,
        packed: np.ndarray,
        axes: Sequence[range],
        out: np.ndarray,
        levels: Levels,
    ) -> None:
        """Restore some indices of each axis of a chunk."""
        target, inside = out, None
        if levels == self._levels and self.blocks is not None:  # all of the blocks, and of those what is asked for
            whole = self._whole_blocks(axes)
            if whole != list(axes) or not out.flags.c_contiguous:
                inside = tuple(
                    slice(axis.start - own.start, axis.stop - own.start, axis.step)
                    for axis, own in zip(axes, whole, strict=True)
                )
                target = np.empty(tuple(map(len, whole)), out.dtype)
            axes = whole
        *outer, last = (
            slice(axis.start - corner.start, axis.stop - corner.start, axis.step)
            for axis, corner in zip(axes, reader.grid.region(number), strict=True)
        )
        table = levels(reader, axes)
        try:
            unpack_run(packed[tuple(outer)], last, table, target)
            if inside is not None:
                out[...] = target[inside]
        except ValueError as error:
            reason = (
                "the scale, or the value_range that it comes from, does not fit the data. Quantize the source again"
                if out.dtype == self.layout.dtype
                else f"read it as {self.layout.dtype}"
            )
            raise StoreError(
                f"{self.path}/{reader.place(number)} has a code that stands for a value that {out.dtype} cannot "
                f"hold: {reason}"
            ) from error


def unpack_run(rows: np.ndarray, run: slice, table: CodeLevels, out: np.ndarray) -> None:
    """Write the values of some codes of each row into `out`, straight where those of one scale start on a byte."""
    if run.step != 1:
        index = np.arange(run.start, run.stop, run.step)
        nibbles = rows[..., index // 2] >> (index % 2 * 4).astype(np.uint8) & 15
        out[...] = table.look_up((nibbles ^ 8).astype(np.int8) + LOWEST)
        return
    bytes_of_run = np.ascontiguousarray(rows[..., run.start // 2 : (run.stop + 1) // 2])
    if run.start % 2 == 0 and out.flags.c_contiguous:
        if unpack_values(table, bytes_of_run, out):
            table.check(codes_of(bytes_of_run, out.shape[-1]))
    else:
        out[...] = table.look_up(codes_of(bytes_of_run, run.start % 2 + out.shape[-1])[..., run.start % 2 :])


def codes_of(packed: np.ndarray, size: int) -> np.ndarray:
    """Packed codes as int8, the first `size` of each row."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.int8)
    unpack_values(CODES, packed, codes)
    return codes[..., :size]
