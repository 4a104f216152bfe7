"""Lists of arrays, joined along the first axis; and streams of arrays, whose length nobody knows before their end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np

from ...exceptions import SourceError
from ...numerics.grid import Batches, Region, Shape, shape_of
from ..arrays import is_stream
from ..chunked import parts_along
from ..format import Format
from ..source import Source
from .duck import GenericSource, has_regions
from .memory import array_source
from .npy import MAGIC, check_numbers, header

RECORD_BYTES = 1 << 24  # bytes: of a longer record so much is read at once


class ListedSource(Source):
    """Arrays that are there, joined along the first axis."""

    def __init__(self, arrays: list[Any]) -> None:
        parts = [array_source(one) if isinstance(one, np.ndarray) else GenericSource(one) for one in arrays]
        first = parts[0]
        for number, part in enumerate(parts):
            if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
                raise ValueError(
                    f"array {number} of the list has shape {part.shape} and dtype {part.dtype}, and the first "
                    f"{first.shape} and {first.dtype}: pieces of one array differ in their first length alone"
                )
        self.starts = [0, *accumulate(part.shape[0] for part in parts)]
        super().__init__(f"list of {len(parts):,} arrays", (self.starts[-1], *first.shape[1:]), first.dtype)
        self.parts: list[Source] = parts
        self.held = sum(part.held for part in parts)
        self.rereads = any(part.rereads for part in parts)

    def load(self, region: Region) -> np.ndarray:
        out = np.empty(shape_of(region), self.dtype)
        for number, inside, there in parts_along(self.starts, region):
            out[there] = self.parts[number].read(inside)
        return out

    def memory(self, unit: Shape) -> int:
        return super().memory(unit) + max(part.memory(unit) for part in self.parts)

    def bytes_read(self, units: Batches) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Iterables(Format):
    def takes(self, thing: Any) -> bool:
        if isinstance(thing, list | tuple):
            return bool(thing) and all(isinstance(one, np.ndarray) or has_regions(one) for one in thing)
        return is_stream(thing)

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if isinstance(thing, list | tuple):
            return {"": ListedSource([*thing])}
        raise TypeError(
            f"source is a stream of arrays, a {type(thing).__name__}: how long it is nobody knows before its end, and "
            "it is read once. quantize_to_zarr takes it, append_to_zarr too where one array becomes longer, and an "
            "Int4Writer its batches one by one; for all else save it first"
        )


# Records --------------------------------------------------------------------------------------------------------------


def npy_records(file: BinaryIO, label: str) -> Iterator[np.ndarray]:
    """The arrays of ``.npy`` records, one after another, as `numpy.save` writes them into a pipe; long ones in parts.

    Raises
    ------
    SourceError
        If what comes is no such record, one is torn, or one is of another dtype or shape than the first; it says how
        many came before.
    TypeError
        If they hold no numbers.
    """
    rows, number = 0, 0
    first: tuple[Shape, np.dtype[Any]] | None = None
    while start := read_most(file, len(MAGIC)):
        number += 1
        came = f"{rows:,} rows of whole records came before it, and none of them is part of an array"
        where = f"record {number:,} of {label}"
        try:
            shape, fortran, dtype = header(Rest(start, file))  # type: ignore[arg-type]
        except (ValueError, EOFError) as error:
            raise SourceError(f"{where} is no whole .npy record: {error}. {came}") from error
        check_numbers(dtype, where, "np.load(...)")
        if not shape:
            raise SourceError(f"{where} has no axes, and records are joined along their first. {came}")
        first = first or (shape[1:], dtype)
        if first != (shape[1:], dtype):
            raise SourceError(
                f"{where} has shape {shape} and dtype {dtype}, and the first had {('n', *first[0])} and {first[1]}: "
                f"they may differ in their first length alone. {came}"
            )
        size = math.prod(shape[1:]) * dtype.itemsize
        most = shape[0] if fortran else max(RECORD_BYTES // max(size, 1), 1)
        for at in range(0, shape[0], most):
            part = np.empty((min(most, shape[0] - at), *shape[1:]), dtype, "F" if fortran else "C")
            data = part.reshape(-1, order="A").view(np.uint8).data
            there = read_into(file, data)
            if there < len(data):
                whole = shape[0] * size
                raise SourceError(
                    f"{where} is torn: {at * size + there:,} of the {whole:,} bytes of its values came. {came}"
                )
            yield part
        rows += shape[0]


class Rest:
    """A file of which the first bytes were read already."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self.start, self.file = start, file

    def read(self, size: int) -> bytes:
        found, self.start = self.start[:size], self.start[size:]
        return found + (read_most(self.file, size - len(found)) if len(found) < size else b"")


def read_most(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or what there is up to the end."""
    data = bytearray(size)
    return bytes(data[: read_into(file, memoryview(data))])


def read_into(file: BinaryIO, data: memoryview) -> int:
    """Fill a buffer from a pipe, which may give few bytes at a time; how many came before the end."""
    done = 0
    while done < len(data):
        count = file.readinto(data[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


FORMAT = Iterables()
