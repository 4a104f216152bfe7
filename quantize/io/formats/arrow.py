"""Columns of tables: Parquet and Arrow files, and what pyarrow has in memory (extra `arrow`).

A column of numbers is an array with one axis; lists of numbers, all of one length, give more. Row groups and record
batches are the chunks: each is read whole, of a file in Parquet or of Arrow's file format the one column alone.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...exceptions import QuantizeError, SourceError
from ...numerics.dtypes import TEXT
from ...numerics.grid import Batches, Region, Shape, shape_of
from ...store.retrying import is_temporary
from ..arrays import Arrays
from ..chunked import KEPT_BYTES, SharedChunks, parts_along, read_along
from ..content import check_regular, doubts, head, reason
from ..format import Format, is_url, library, needed
from ..raw import LEAVE_OUT, RawArray, cannot_be_kept, kept_dtype
from ..source import PIECE_BYTES, Source
from .npy import File

PARQUET, ARROW, STREAM = b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"  # how files begin
SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")
PAGE_BYTES = 1 << 20  # bytes: what is read of a Parquet file at a time
FIRST_ROWS = 1024  # rows: what is read to see how long lists are
RECORD_BATCH = 3  # the kind of an Arrow message


@dataclass(frozen=True)
class Group:
    """Rows that are read at once."""

    rows: int

    @property
    def beside(self) -> int:
        """Bytes that are read with one column, of all others."""
        return 0

    def read(self, name: str, most: int) -> Iterable[Any]:
        """Those of a column, as arrays of pyarrow's on end; where it can, of so many rows at most."""
        raise NotImplementedError


@dataclass(frozen=True)
class RowGroup(Group):
    """A row group of a Parquet file. It is read page by page: as a whole it would take six times its size."""

    file: File
    number: int

    def read(self, name: str, most: int) -> Iterable[Any]:
        from pyarrow import parquet

        self.file.check()
        options = {"memory_map": False, "pre_buffer": False, "buffer_size": PAGE_BYTES}
        with parquet.ParquetFile(self.file.path, page_checksum_verification=True, **options) as table:
            for batch in table.iter_batches(most, row_groups=[self.number], columns=[name], use_threads=False):
                yield batch.column(batch.schema.names.index(name))


@dataclass(frozen=True)
class Batch(Group):
    """A record batch of an Arrow file; `offset` is where its message begins, of a stream."""

    file: File
    number: int
    offset: int | None
    size: int  # bytes: all of its columns

    @property
    def beside(self) -> int:
        return 0 if self.offset is None else self.size

    def read(self, name: str, most: int) -> Iterable[Any]:
        import pyarrow

        self.file.check()
        with pyarrow.OSFile(self.file.path) as file:
            if self.offset is None:
                names = pyarrow.ipc.open_file(file).schema.names
                options = pyarrow.ipc.IpcReadOptions(included_fields=[names.index(name)], use_threads=False)
                return [pyarrow.ipc.open_file(file, options=options).get_batch(self.number).column(name)]
            schema = pyarrow.ipc.open_stream(file).schema
            file.seek(self.offset)
            return [pyarrow.ipc.read_record_batch(pyarrow.ipc.read_message(file), schema).column(name)]


@dataclass(frozen=True)
class Held(Group):
    """Rows that are in memory."""

    array: Any

    def read(self, name: str, most: int) -> Iterable[Any]:
        return [self.array]


# Columns --------------------------------------------------------------------------------------------------------------


class Column:
    """A column of a table, before anybody asks for it."""

    def __init__(self, label: str, name: str, kind: Any, groups: Sequence[Group], notes: tuple[str, ...] = ()) -> None:
        self.label, self.name, self.kind, self.notes = label, name, kind, notes
        self.groups = [group for group in groups if group.rows]
        self.starts = [0, *accumulate(group.rows for group in self.groups)]
        self.shared = not any(isinstance(group, Held) for group in self.groups)

    @functools.cached_property
    def numbers(self) -> Any:
        """The type of pyarrow's at the bottom of all lists."""
        return levels(self.kind)[1]

    @functools.cached_property
    def lengths(self) -> Shape:
        """How long lists are, lists in lists too. Where the type does not say it, the first that there is does."""
        return tuple(self._length(depth) if n is None else n for depth, n in enumerate(levels(self.kind)[0]))

    def _length(self, depth: int) -> int:
        with explained(self.label):
            for group in self.groups:
                array = storage_of(next(iter(group.read(self.name, FIRST_ROWS))))
                for _ in range(depth):
                    array = storage_of(array.flatten())
                found = array.value_lengths().drop_null()
                if len(found):
                    return int(found[0].as_py())
        return 0

    @property
    def shape(self) -> Shape:
        axes = tuple(self.kind.shape) if is_tensor(self.kind) else self.lengths
        return (self.starts[-1], *axes)

    @functools.cached_property
    def dtype(self) -> Any:
        """The dtype of NumPy's, or the name of the type, where NumPy has none for it."""
        from pyarrow import types

        kind, listed = self.numbers, bool(levels(self.kind)[0])
        if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            return np.dtype(kind.to_pandas_dtype())
        if not listed and (types.is_timestamp(kind) or types.is_duration(kind)) and getattr(kind, "tz", None) is None:
            return np.dtype(f"{'M' if types.is_timestamp(kind) else 'm'}8[{kind.unit}]")
        text = kind.value_type if types.is_dictionary(kind) else kind
        if not listed and (types.is_string(text) or types.is_large_string(text)):
            return TEXT
        return str(self.kind)

    def source(self) -> Source:
        if not isinstance(self.dtype, np.dtype) or self.dtype == TEXT:
            raise TypeError(f"{self.label} holds {self.kind}, which cannot be quantized")
        try:
            return ColumnSource(self)
        except TypeError as error:
            raise TypeError(f"{self.label} cannot be quantized: {error}") from None

    def raw(self) -> RawArray:
        if not isinstance(self.dtype, np.dtype):
            raise cannot_be_kept(self.label, str(self.kind))
        dtype = self.dtype if self.dtype == TEXT else kept_dtype(self.dtype, self.label)
        chunks = (max((group.rows for group in self.groups), default=1), *self.shape[1:])
        return RawArray(self.label, self.shape, dtype, self.load, chunks=chunks, shared=self.shared)

    def load(self, region: Region) -> np.ndarray:
        """The values of a region, nulls among floats as NaN."""
        out = np.empty(shape_of(region), self.dtype)
        for number, inside, there in parts_along(self.starts, region):
            found = self.group(number)
            if isinstance(found, np.ma.MaskedArray):
                if found.dtype.kind != "f":
                    row = self.starts[number] + int(np.argwhere(np.ma.getmaskarray(found))[0][0])
                    raise SourceError(
                        f"{self.label} is null in row {row:,}, which Zarr cannot keep: fill it, or {LEAVE_OUT}"
                    )
                found = found.filled(np.nan)
            out[there] = found[inside]
        return out

    def group(self, number: int) -> np.ndarray:
        """The values of a group of rows, masked where there are nulls."""
        with explained(self.label):
            group, start = self.groups[number], self.starts[number]
            shape = (group.rows, *self.shape[1:])
            most = max(1, PIECE_BYTES // max(1, math.prod(shape[1:]) * self.dtype.itemsize))
            out, mask, at = np.empty(math.prod(shape), self.dtype), None, 0
            for array in map(storage_of, group.read(self.name, most)):
                array.validate()
                found = self._values(array, start)
                if len(array) == group.rows:  # where it lies, without a copy
                    return found.reshape(shape)
                start += len(array)
                there = slice(at, at := at + found.size)
                out[there] = np.ma.getdata(found)
                if isinstance(found, np.ma.MaskedArray):
                    mask = np.zeros(out.shape, bool) if mask is None else mask
                    mask[there] = found.mask
            if at != out.size:
                raise ValueError(f"it has {start - self.starts[number]:,} rows in the place of {group.rows:,}")
            return (out if mask is None else np.ma.MaskedArray(out, mask)).reshape(shape)

    def _values(self, array: Any, start: int) -> np.ndarray:
        """The values of an array of pyarrow's, its rows numbered from `start` on."""
        import pyarrow

        if self.dtype == TEXT or self.dtype.kind in "Mm":
            decoded = array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array
            if decoded.null_count:
                return np.ma.MaskedArray(np.empty(len(decoded), self.dtype), ~as_bools(decoded.is_valid()))
            return np.asarray(decoded.to_numpy(zero_copy_only=False), self.dtype)
        absent: np.ndarray | None = None
        each = 1  # lists in a row
        for n in self.lengths:
            gone = ~as_bools(array.is_valid()) if array.null_count else None
            if pyarrow.types.is_fixed_size_list(array.type):
                inner = array.values.slice(array.offset * n, len(array) * n)
            else:
                ends = array.offsets.to_numpy()
                lengths = np.diff(ends)
                wrong = lengths != n if gone is None else (lengths != n) & ~gone
                if wrong.any():
                    place = int(np.argmax(wrong))
                    raise SourceError(
                        f"{self.label} has lists of different lengths: {n:,}, and {lengths[place]:,} in row "
                        f"{start + place // each:,}. Those of an array have one: pad or cut them, or drop such rows"
                    )
                inner = array.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
                if gone is not None:  # what is null may have any length
                    places = (ends[:-1] - ends[0])[:, None].astype(np.int64) + np.arange(n)
                    inner = inner.take(pyarrow.array(places.ravel(), mask=np.repeat(gone, n)))
                    gone = None
            absent = either(absent, gone)
            absent = None if absent is None else np.repeat(absent, n)
            array, each = storage_of(inner), each * n
        if array.null_count:
            absent = either(absent, ~as_bools(array.is_valid()))
        values = as_bools(array) if self.dtype == bool else in_place(array, self.dtype)
        return values if absent is None else np.ma.MaskedArray(values, absent)


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts on end, masked if one is."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([np.ma.getdata(part) for part in parts])
    if not any(np.ma.is_masked(part) for part in parts):
        return values
    return np.ma.MaskedArray(values, np.concatenate([np.ma.getmaskarray(part) for part in parts]))


def either(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """Where one of two masks is set; None is a mask that is nowhere."""
    if one is None or other is None:
        return other if one is None else one
    both: np.ndarray = one | other
    return both


def as_bools(array: Any) -> np.ndarray:
    """Booleans of pyarrow's, null ones as False."""
    filled = array.fill_null(False) if array.null_count else array
    found: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return found


def in_place(array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Numbers of pyarrow's where they lie; anything where there are nulls."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def storage_of(array: Any) -> Any:
    """What an array of an extension type is stored as; any other as it is."""
    return array.storage if hasattr(array, "storage") else array


def is_tensor(kind: Any) -> bool:
    """Whether a type is that of tensors of one shape."""
    return getattr(kind, "extension_name", "") == "arrow.fixed_shape_tensor"


def levels(kind: Any) -> tuple[list[int | None], Any]:
    """How long the lists of a type are, None where it does not say so; and the type of what is in them."""
    from pyarrow import types

    found: list[int | None] = []
    while True:
        kind = getattr(kind, "storage_type", kind)
        if types.is_fixed_size_list(kind):
            found.append(kind.list_size)
        elif types.is_list(kind) or types.is_large_list(kind):
            found.append(None)
        else:
            return found, kind
        kind = kind.value_type


class ColumnSource(Source):
    """A column, of which row groups or record batches are read whole. Threads share those that they keep."""

    def __init__(self, column: Column) -> None:
        super().__init__(column.label, column.shape, column.dtype)
        if is_tensor(column.kind) and list(column.kind.permutation or ()) != sorted(column.kind.permutation or ()):
            raise SourceError(f"{column.label} has tensors whose axes are in another order: rewrite them in their own")
        self.column, self.shared, self.notes = column, column.shared, column.notes
        self.rereads = column.shared
        self.rows = [group.rows for group in column.groups]
        self.chunks = (max(self.rows), *self.shape[1:])
        self._kept = SharedChunks()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = SharedChunks()

    def digest(self) -> str | None:
        digest = super().digest()
        self._kept = SharedChunks()  # the driver's thread reads no more
        return digest

    def load(self, region: Region) -> np.ndarray:
        found = []
        for number, inside, _ in parts_along(self.column.starts, region):
            found.append(self._kept.of(number, functools.partial(self.column.group, number))[inside])
        return joined(found)

    def pieces(self, region: Region) -> Iterator[Region]:
        first, *rest = region
        even = 1 if rest else 2  # along the last axis cuts lie at even distances
        at = first.start
        for _, _, there in parts_along(self.column.starts, region):
            stop = first.start + there.stop
            stop = min(stop + (stop - first.start) % even, first.stop)
            if stop > at:
                yield (slice(at, stop), *rest)
            at = max(at, stop)

    def bytes_read(self, units: Batches) -> int:
        lengths = (self.rows, *([n] for n in self.shape[1:]))
        return self.dtype.itemsize * math.prod(map(read_along, lengths, units.grid.box))

    def memory(self, unit: Shape) -> int:
        """A group decoded, and joined with another or what it was read from; and what the allocator keeps of others."""
        assert self.chunks is not None
        group = math.prod(self.chunks) * self.dtype.itemsize
        if not self.shared:
            return 2 * max(PIECE_BYTES, group)
        return (
            2 * group + max(each.beside for each in self.column.groups) + min(2 * group, KEPT_BYTES) + 2 * PIECE_BYTES
        )


class Columns(Arrays):
    """The columns of a table."""

    noun = "column"

    def opened(self, array: Any) -> Source:
        source: Source = array.source()
        return source

    def opened_raw(self, array: Any) -> RawArray:
        raw: RawArray = array.raw()
        return raw


# Files ----------------------------------------------------------------------------------------------------------------


def is_table(path: str) -> bool:
    """Whether a file is Parquet, or Arrow's in one of its two forms."""
    start = head(path)
    return start.startswith((PARQUET, ARROW)) or (start.startswith(STREAM) and len(start) > 8 and start[7] < 8)


def columns_of(label: str, paths: Sequence[str]) -> Columns:
    """The columns of a table that lies in some files, its rows in the order of those.

    Raises
    ------
    SourceError
        If a file is damaged, or has other columns than the first.
    """
    needed("pyarrow", "arrow", f"{paths[0]} is a table of Parquet or Arrow")
    schema, groups = None, list[Group]()
    for path in paths:
        check_regular(path)
        with explained(path):
            own, found = opened(path)
        if schema is None:
            schema = own
        elif not own.equals(schema):
            raise SourceError(
                f"{path} has other columns than {paths[0]}: {different(own, schema)}. Pieces of a table have the same"
            )
        groups += found
    assert schema is not None
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise SourceError(f"{label} has several columns called {twice[0]!r}: rename all but one")
    notes = doubts(paths)
    return Columns(
        label, {field.name: Column(f"{label}::{field.name}", field.name, field.type, groups, notes) for field in schema}
    )


def different(own: Any, first: Any) -> str:
    """How one schema differs from another, in words."""
    for name in dict.fromkeys([*first.names, *own.names]):
        kinds = [str(schema.field(name).type) if name in schema.names else "absent" for schema in (own, first)]
        if kinds[0] != kinds[1]:
            return f"{name} is {kinds[0]} there and {kinds[1]} here"
    return "they are in another order, or differ in what may be null"


def opened(path: str) -> tuple[Any, list[Group]]:
    """The schema of a file, and its row groups or record batches."""
    import pyarrow
    from pyarrow import parquet

    file = File(path, kept=False)
    start = head(path)
    if start.startswith(PARQUET):
        with parquet.ParquetFile(path) as table:
            metadata = table.metadata
            rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            return table.schema_arrow, [RowGroup(n, file, number) for number, n in enumerate(rows)]
    with pyarrow.OSFile(path) as data:
        stream = not start.startswith(ARROW)
        schema = (pyarrow.ipc.open_stream if stream else pyarrow.ipc.open_file)(data).schema
        batches = list(batches_in(path, 0 if stream else len(ARROW)))
        if not stream and pyarrow.ipc.open_file(data).num_record_batches != len(batches):
            raise ValueError("its list of record batches is of another number than there are")
    return schema, [
        Batch(rows, file, number, offset if stream else None, size)
        for number, (offset, rows, size) in enumerate(batches)
    ]


def batches_in(path: str, at: int) -> Iterator[tuple[int, int, int]]:
    """Where the record batches of an Arrow file begin, their rows and bytes; only what says so is read."""
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while at < size:
            file.seek(at)
            mark, length = struct.unpack("<4si", file.read(8).ljust(8, b"\0"))
            if length == 0:
                return
            if mark != STREAM or not 0 < length <= size - at - 8:
                raise ValueError(f"at byte {at:,} no message begins")
            kind, rows, body = message(file.read(length))
            if not 0 <= body <= size - at - 8 - length:
                raise ValueError(f"it ends within the message at byte {at:,}")
            if kind == RECORD_BATCH:
                if rows < 0:
                    raise ValueError(f"the message at byte {at:,} has {rows} rows")
                yield at, rows, body
            at += 8 + length + body


def message(data: bytes) -> tuple[int, int, int]:
    """The kind of an Arrow message, its rows if it is a record batch, and the length of the bytes that follow it.

    It is a table of FlatBuffers: where a field lies in it says another table, whose place is at its beginning.
    """

    def field(table: int, number: int, form: str) -> Any:
        places = table - struct.unpack_from("<i", data, table)[0]
        length = struct.unpack_from("<H", data, places)[0]
        offset = struct.unpack_from("<H", data, places + 4 + 2 * number)[0] if 4 + 2 * number < length else 0
        return struct.unpack_from(form, data, table + offset)[0] if offset else 0

    try:
        root = struct.unpack_from("<I", data, 0)[0]
        kind, body = field(root, 1, "<B"), field(root, 3, "<q")
        if kind != RECORD_BATCH:
            return kind, 0, body
        places = root - struct.unpack_from("<i", data, root)[0]
        at = root + struct.unpack_from("<H", data, places + 8)[0]
        return kind, field(at + struct.unpack_from("<I", data, at)[0], 0, "<q"), body
    except struct.error as error:
        raise ValueError("a message in it is damaged") from error


@contextmanager
def explained(label: str) -> Iterator[None]:
    """Errors of pyarrow's as ours; those of the system that may pass stay what they are."""
    try:
        yield
    except QuantizeError:
        raise
    except (ValueError, TypeError, KeyError, OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and (is_temporary(error) or error.errno is not None):
            error.filename = error.filename or label
            raise
        said = " ".join(reason(error).split()).rstrip(".")
        raise SourceError(f"{label} cannot be read: {said}. Copy or download it again") from error


class Arrow(Format):
    files = "Parquet and Arrow"
    arrays = "pyarrow"
    suffixes = SUFFIXES

    def takes(self, thing: Any) -> bool:
        if isinstance(thing, str):
            return not is_url(thing) and is_table(thing)
        return library(thing) == "pyarrow" and (hasattr(thing, "schema") or hasattr(thing, "null_count"))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if isinstance(thing, str):
            return columns_of(thing, [thing])
        label = type(thing).__name__
        if not hasattr(thing, "schema"):
            return Columns(label, in_memory(label, "", thing))
        names = thing.schema.names
        return Columns(label, {name: in_memory(f"{label}::{name}", name, thing.column(name)) for name in names})


def in_memory(label: str, name: str, array: Any) -> Column:
    """The column that an array of pyarrow's is, or a chunked one."""
    chunks = array.chunks if hasattr(array, "chunks") else [array]
    return Column(label, name, array.type, [Held(len(chunk), chunk) for chunk in chunks])


FORMAT = Arrow()
