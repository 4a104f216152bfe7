"""`Int4Array`: a sealed variable read lazily, as floats, chunk by chunk."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..numerics.blocks import processors
from ..numerics.grid import Grid, Region, Shape, shape_of, within
from ..numerics.scales import LOWEST, Scale
from ..numerics.tables import CODES, Table, along
from ..storage import Variable, sealed_variable
from ..store.codec import ABSENT
from ..store.metadata import DamagedChunkError, Layout, Metadata, StoreError
from ..store.side_arrays import Parameters

if TYPE_CHECKING:
    import zarr


KEPT = 1 << 24  # bytes of shards' indices, and of scales, that a reader keeps at most; one of each in any case


def open_int4(store: Any, name: str | None = None) -> Int4Array:
    """Open a sealed variable for lazy reading.

    Parameters
    ----------
    store : path, URL or Zarr store
    name : str, optional
        Of the variable; not needed where the store holds only one.

    Returns
    -------
    Int4Array

    Raises
    ------
    FileNotFoundError
        If there is no store.
    UnfinishedStoreError
        If its run has not come to its end.
    StoreError
        If there is no such variable, or it is damaged, of a newer version or not ours.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> _ = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), store)
    >>> open_int4(store)[2:4].tolist()
    [6.0, 9.0]
    """
    return Int4Array(*sealed_variable(store, name))


class Int4Array:
    """A lazy view of a sealed variable: floats when indexed, reading only the chunks it needs.

    Indexing is NumPy's basic indexing: integers, slices with any step, and an ellipsis.

    Attributes
    ----------
    shape, dtype, ndim, size, nbytes
        Of the values, as of a NumPy array.
    chunks, shards : tuple of int
        In values; `shards` is None where there are none.
    axis : int or None
        The axis that keeps a scale for each of its indices.
    scale, zero_point : float and int, or arrays
        ``x' = (code - zero_point) * scale``. With an `axis` float64 and int64 arrays that broadcast against the values,
        read from the store each time they are asked for: there may be as many as there are rows.
    nan_code, missing
        The code of missing values, and the value they have in an integer dtype; None where there is none.
    max_error : float or array
        ``scale / 2``: no value within the range differs by more, but for rounding to the dtype.
    nbytes_stored : int
        What the chunks take in the store.
    packed : zarr.Array
        The packed codes, uint8.
    attributes, dimension_names
        What the source said of itself.
    """

    def __init__(self, variable: Variable, metadata: Metadata) -> None:
        assert metadata.scale is not None
        self._variable = variable
        self.metadata = metadata
        self.layout = metadata.layout
        self.shape = self.layout.shape
        self.dtype = self.layout.dtype
        self.chunks = self.layout.chunks
        self.shards = self.layout.shards
        self.name = variable.name
        self.path = variable.files.label
        self.axis = metadata.axis
        self.nan_code = metadata.nan_code
        self.missing = metadata.missing
        self.attributes = metadata.attributes
        self.dimension_names = metadata.dimension_names

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    nbytes = property(lambda self: self.layout.nbytes)
    max_error = property(lambda self: self.scale / 2)

    @property
    def scale(self) -> Any:
        return self._parameter(0)

    @property
    def zero_point(self) -> Any:
        return self._parameter(1)

    def _parameter(self, which: int) -> Any:
        one = self.metadata.scale
        if isinstance(one, Scale):
            return (one.scale, one.zero_point)[which]
        assert self.axis is not None
        return along(self._reader.parameters(slice(0, self.shape[self.axis]))[which], self.axis, self.ndim)

    @property
    def nbytes_stored(self) -> int:
        names = (self.name,) if self.axis is None else (self.name, *self._variable.siblings[2:])
        return sum(self._variable.files.size(f"{name}/c") for name in names)

    @property
    def packed(self) -> zarr.Array[Any]:
        return self._variable.packed()

    def _table(self, indices: range) -> Table:
        """The values of codes at some indices of the axis, or of all."""
        return self._one_table if self.axis is None else self._reader.table(indices)

    @functools.cached_property
    def _one_table(self) -> Table:
        assert isinstance(self.metadata.scale, Scale)
        return Table.of(self.metadata.scale, self.dtype, self.missing)

    def __repr__(self) -> str:
        one = f"scale={self.scale:.6g} zero_point={self.zero_point}" if self.axis is None else f"axis={self.axis}"
        return f"<Int4Array {self.path}/{self.name} shape={self.shape} dtype={self.dtype} chunks={self.chunks} {one}>"

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an Int4Array is dequantized when read, so it cannot be an array without a copy")
        whole = self[...]
        return np.asarray(whole, dtype)

    def _repr_html_(self) -> str:
        from .notebook import repr_html

        return repr_html(self)

    def to_dask(self) -> Any:
        """A dask array of the values, one block for each chunk; nothing is read before it is computed."""
        import dask.array

        meta = np.empty((0,) * self.ndim, self.dtype)
        return dask.array.from_array(self, chunks=self.chunks, meta=meta, asarray=False)

    def __dask_tokenize__(self) -> Any:
        return (type(self).__name__, self.path, self.name, self.metadata.to_json())

    def __getitem__(self, index: Any) -> Any:
        return self._take(index, self.dtype, self._table)

    def codes(self, index: Any = ...) -> Any:
        """The codes -8..7 themselves, int8, of an index as for the values.

        Raises
        ------
        DamagedChunkError
            If a chunk is missing or damaged.
        """
        return self._take(index, np.dtype(np.int8), lambda indices: CODES)

    def _take(self, index: Any, dtype: np.dtype[Any], table: Callable[[range], Table]) -> Any:
        axes = [Axis.of(part, n) for part, n in zip(full_index(index, self.ndim), self.shape, strict=True)]
        out = np.empty(tuple(axis.count for axis in axes), dtype)
        if out.size:
            self._read(axes, out, table)
        out = out[tuple(slice(None, None, -1) if axis.reverse else slice(None) for axis in axes)]
        out = out.reshape([axis.count for axis in axes if not axis.drop])
        return out if out.ndim or has_ellipsis(index) else out[()]

    def _read(self, axes: list[Axis], out: np.ndarray, table: Callable[[range], Table]) -> None:
        region = tuple(slice(axis.start, axis.stop) for axis in axes)

        def work(touched: tuple[int, Region]) -> None:
            number, chunk = touched
            picks = [axis.within(part) for axis, part in zip(axes, chunk, strict=True)]
            if all(pick.count for pick in picks):
                target = out[tuple(slice(pick.first, pick.first + pick.count) for pick in picks)]
                self._read_chunk(number, chunk, picks, target, table)

        grid = self._reader.grid
        touched = grid.touched(region)
        if math.prod(shape_of(region)) <= math.prod(grid.box):
            for item in touched:
                work(item)
        else:
            with ThreadPoolExecutor(processors()) as pool:
                for _ in pool.map(work, touched):
                    pass

    @functools.cached_property
    def _reader(self) -> ChunkReader:
        return ChunkReader(self._variable, self.metadata)

    def _read_chunk(
        self, number: int, chunk: Region, picks: list[Pick], out: np.ndarray, table: Callable[[range], Table]
    ) -> None:
        packed = self._reader.read(number)
        corner = self._reader.grid.region(number)
        local = within(chunk, corner)
        *outer, last = [
            slice(part.start + pick.offset, part.stop, pick.step) for part, pick in zip(local, picks, strict=True)
        ]
        indices = range(0)
        if self.axis is not None:
            part, pick = chunk[self.axis], picks[self.axis]
            indices = range(part.start + pick.offset, part.stop, pick.step)
        levels = table(indices)
        try:
            unpack_run(packed[tuple(outer)], last, levels, out)
        except ValueError as error:
            raise StoreError(
                f"{self.path}/{self._reader.place(number)} has a code that stands for a value that {out.dtype} cannot "
                "hold: the scale, or the value_range that it comes from, does not fit the data. Quantize the source "
                "again"
            ) from error


def unpack_run(rows: np.ndarray, run: slice, table: Table, out: np.ndarray) -> None:
    """Write the values of some codes of each row into `out`, straight where those of one scale start on a byte."""
    if run.step != 1:
        index = np.arange(run.start, run.stop, run.step)
        nibbles = rows[..., index // 2] >> (index % 2 * 4).astype(np.uint8) & 15
        out[...] = table.look_up((nibbles ^ 8).astype(np.int8) + LOWEST)
        return
    bytes_of_run = np.ascontiguousarray(rows[..., run.start // 2 : (run.stop + 1) // 2])
    if run.start % 2 == 0 and out.flags.c_contiguous:
        table.unpack(bytes_of_run, out)
        if table.outside.any():
            table.check(codes_of(bytes_of_run, out.shape[-1]))
    else:
        out[...] = table.look_up(codes_of(bytes_of_run, run.start % 2 + out.shape[-1])[..., run.start % 2 :])


def codes_of(packed: np.ndarray, size: int) -> np.ndarray:
    """Packed codes as int8, the first `size` of each row."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.int8)
    CODES.unpack(packed, codes)
    return codes[..., :size]


class ChunkReader:
    """Reads the packed bytes of one chunk, or one inner chunk of a shard, and never a fill value in their place."""

    def __init__(self, variable: Variable, metadata: Metadata) -> None:
        self.variable = variable
        self.metadata = metadata
        self.layout: Layout = metadata.layout
        self.indices: dict[int, np.ndarray] = {}
        self.blocks: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def grid(self) -> Grid:
        """The chunks, those within shards too."""
        return Grid(self.layout.shape, self.layout.chunks)

    def locate(self, number: int) -> tuple[int, Shape]:
        """The unit that holds a chunk, and the chunk's place in it."""
        layout = self.layout
        position = self.grid.position(number)
        within_unit = tuple(outer // inner for outer, inner in zip(layout.unit, layout.chunks, strict=True))
        unit = layout.units.number(tuple(along // n for along, n in zip(position, within_unit, strict=True)))
        return unit, tuple(along % n for along, n in zip(position, within_unit, strict=True))

    def place(self, number: int) -> str:
        """What to call a chunk: its key, and in a shard its place there."""
        unit, inner = self.locate(number)
        key = self.variable.chunk_key(self.layout, unit)
        return f"{key}, inner chunk {inner}" if self.layout.shards else key

    def read(self, number: int) -> np.ndarray:
        """Packed bytes of one chunk, whole, shape ``packed_shape(chunks)``.

        Raises
        ------
        DamagedChunkError
            If it is missing or its bytes are not those that were written.
        """
        try:
            data = self.stored(number)
            if data is None:
                raise ValueError("it is missing")
            return self.layout.chunk_codec.decode(data)
        except ValueError as error:
            raise DamagedChunkError.at(self.variable.files.label, self.place(number), error) from error

    def stored(self, number: int) -> memoryview | None:
        """Stored bytes of one chunk; a ValueError if its shard's index is damaged."""
        unit, inner = self.locate(number)
        key = self.variable.chunk_key(self.layout, unit)
        if self.layout.shard_codec is None:
            return self.variable.files.view(key, most=self.layout.chunk_codec.most)
        offset, length = self.index(unit)[self.layout.shard_codec.grid.number(inner)].tolist()
        if offset == ABSENT:
            return None
        if length > self.layout.chunk_codec.most or offset > self.layout.shard_codec.most:
            raise ValueError(f"its shard's index has it at {offset}, {length} bytes long")
        return self.variable.files.view(key, offset, length)

    def index(self, unit: int) -> np.ndarray:
        """The index of one shard, kept for the next of its inner chunks; a ValueError if it is damaged."""
        codec = self.layout.shard_codec
        assert codec is not None
        found = self.indices.get(unit)
        if found is None:
            data = self.variable.files.view(self.variable.chunk_key(self.layout, unit), -1, codec.index_length)
            if data is None:
                raise ValueError("it is missing")
            found = codec.index(data)
            if len(self.indices) * found.nbytes >= KEPT:
                self.indices.clear()
            self.indices[unit] = found
        return found

    # Scales of an axis

    @functools.cached_property
    def scales(self) -> Parameters:
        assert self.metadata.axis is not None
        return Parameters(self.variable, self.layout, self.metadata.axis)

    def parameters(self, indices: slice) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of a run of indices of the axis.

        Raises
        ------
        DamagedChunkError
            If some are missing or not those that were written.
        """
        length = self.scales.arrays[0].chunk[0]
        scales, zero_points = np.empty(indices.stop - indices.start), np.empty(indices.stop - indices.start, np.int64)
        for block, (part,) in self.scales.arrays[0].grid.touched((indices,)):
            found = self.block(block)
            (place,) = within((part,), (indices,))
            (own,) = within((part,), (slice(block * length, None),))
            scales[place], zero_points[place] = found[0][own], found[1][own]
        return scales, zero_points

    def block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Those of one chunk of them, kept for the next call: the chunks beside one another share them."""
        found = self.blocks.get(block)
        if found is None:
            found = self.scales.get(block)
            if len(self.blocks) * found[0].nbytes >= KEPT:
                self.blocks.clear()
            self.blocks[block] = found
        return found

    def table(self, indices: range) -> Table:
        scales, zero_points = self.parameters(slice(indices[0], indices[-1] + 1))
        own = slice(None, None, indices.step)
        metadata = self.metadata
        assert metadata.axis is not None
        return Table.of_each(
            scales[own], zero_points[own], metadata.nan_code, self.layout.dtype, metadata.axis, metadata.missing
        )


# Basic indexing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pick:
    """What an index takes of a part of an axis.

    `count` entries, the first `offset` behind the part's start, each `step` behind the last; in the result they are
    those from `first` on.
    """

    first: int
    count: int
    offset: int
    step: int


@dataclass(frozen=True)
class Axis:
    """What an index takes of one axis, in ascending order: `count` entries from `start`, each `step` behind the last.

    `reverse`: in the result they stand the other way round. `drop`: the result does not have the axis.
    """

    start: int
    count: int
    step: int = 1
    reverse: bool = False
    drop: bool = False

    @property
    def stop(self) -> int:
        return self.start + (self.count - 1) * self.step + 1 if self.count else self.start

    @classmethod
    def of(cls, index: Any, n: int) -> Axis:
        if isinstance(index, slice):
            taken = range(n)[index]
            ascending = taken if taken.step > 0 else taken[::-1]
            return cls(ascending.start, len(taken), ascending.step, taken.step < 0)
        try:
            if isinstance(index, bool | np.bool_):
                raise TypeError("a boolean is a mask, and no integer")
            place = range(n)[operator.index(index)]
        except TypeError:
            raise IndexError(
                f"{index!r} is no basic index: take integers, slices and an ellipsis, or index the result of to_dask()"
            ) from None
        except IndexError:
            raise IndexError(f"index {index} is out of bounds for an axis of length {n}") from None
        return cls(place, 1, drop=True)

    def within(self, part: slice) -> Pick:
        first = max(-(-(part.start - self.start) // self.step), 0)
        last = min(-(-(part.stop - self.start) // self.step), self.count)
        return Pick(first, max(last - first, 0), self.start + first * self.step - part.start, self.step)


def has_ellipsis(index: Any) -> bool:
    """Whether NumPy would give an array of no axes, and not a number, for an index that names all of them."""
    return index is Ellipsis or (isinstance(index, tuple) and any(part is Ellipsis for part in index))


def full_index(index: Any, ndim: int) -> list[Any]:
    """One entry for each axis: the ellipsis, or what is not named, stands for whole axes."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = sum(part is Ellipsis for part in parts)
    if ellipses > 1:
        raise IndexError("an index can have only one ellipsis")
    if not ellipses:
        parts.append(Ellipsis)
    if len(parts) - 1 > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, and {len(parts) - 1} were indexed")
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    return [*parts[:at], *[slice(None)] * (ndim - len(parts) + 1), *parts[at + 1 :]]
