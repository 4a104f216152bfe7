"""The chunks of one stored array, or the inner chunks of its shards: found, and read as the bytes that were written."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..numerics.grid import Grid, Shape, shape_of
from .codec import ABSENT, ChunkCodec, ShardCodec
from .keys import Keys, chunk_key

LOOKS = 10  # times: how often a chunk is read of a shard that is written again meanwhile, at most
TICK = 50_000_000  # nanoseconds: two changes of a file that lie closer may have the same time, a tick of the system
KEPT = 1 << 24  # bytes of shards' indices, and of scales, that a reader keeps at most; one of each in any case


@dataclass(frozen=True)
class StoredChunks:
    """The chunks of an array under a name in a group; `grid` counts those within shards, `units` what is one value.

    Indices of shards are kept for the next of their inner chunks. A shard that is not full may be written again, with
    more in it and all in another place: so after a chunk of it it must have the stamp that it had before the index was
    read, or, where the store has no stamps or it is too young to be told by one, the same index still.
    """

    keys: Keys
    name: str
    grid: Grid
    units: Grid
    chunk_codec: ChunkCodec
    shard_codec: ShardCodec | None = None
    indices: dict[int, tuple[np.ndarray, Any]] = field(default_factory=dict, compare=False, repr=False)

    @functools.cached_property
    def within_unit(self) -> Shape:
        """How many chunks a unit has along each axis."""
        return tuple(outer // inner for outer, inner in zip(self.units.box, self.grid.box, strict=True))

    def locate(self, number: int) -> tuple[int, Shape]:
        """The unit that holds a chunk, and the chunk's place in it."""
        position = self.grid.position(number)
        unit = self.units.number(tuple(along // n for along, n in zip(position, self.within_unit, strict=True)))
        return unit, tuple(along % n for along, n in zip(position, self.within_unit, strict=True))

    def place(self, number: int) -> str:
        """What to call a chunk: its key, and in a shard its place there."""
        unit, inner = self.locate(number)
        key = chunk_key(self.name, self.units, unit)
        return f"{key}, inner chunk {inner}" if self.shard_codec else key

    def read(self, number: int) -> np.ndarray:
        """The bytes of one chunk, whole; a ValueError if it is missing or they are not those that were written."""
        data = self.stored(number)
        if data is None:
            raise ValueError("it is missing")
        return self.chunk_codec.decode(data)

    def stored(self, number: int) -> memoryview | None:
        """Stored bytes of one chunk; a ValueError if its shard's index is damaged."""
        unit, inner = self.locate(number)
        key = chunk_key(self.name, self.units, unit)
        if self.shard_codec is None:
            return self.keys.view(key, most=self.chunk_codec.most)
        place = self.shard_codec.grid.number(inner)
        index, stamp = self.index(unit)
        for _ in range(LOOKS):
            offset, length = index[place].tolist()
            found = None if offset == ABSENT else self.inner_chunk(key, offset, length)
            if self.is_full(unit) or (stamp is not None and self.keys.stamp(key) == stamp):
                return found
            self.indices.pop(unit, None)
            before, (index, stamp) = index, self.index(unit)
            if np.array_equal(before, index):
                return found
        raise ValueError(f"its shard was written again {LOOKS} times while it was read")

    def inner_chunk(self, key: str, offset: int, length: int) -> memoryview | None:
        assert self.shard_codec is not None
        if length > self.chunk_codec.most or offset > self.shard_codec.most:
            raise ValueError(f"its shard's index has it at {offset}, {length} bytes long")
        return self.keys.view(key, offset, length)

    def stamp(self, key: str) -> Any:
        """The stamp of a shard, if it surely has another once it is written again; else None."""
        began, found = time.time_ns(), self.keys.stamp(key)
        return found if tells(found, began) else None

    def is_full(self, unit: int) -> bool:
        """Whether a shard lies within the array as a whole."""
        return shape_of(self.units.region(unit)) == self.units.box

    def index(self, unit: int) -> tuple[np.ndarray, Any]:
        """The index of one shard, and of one that is not full the stamp that it had before; a ValueError if damaged."""
        codec = self.shard_codec
        assert codec is not None
        found = self.indices.get(unit)
        if found is None:
            key = chunk_key(self.name, self.units, unit)
            stamp = None if self.is_full(unit) else self.stamp(key)
            data = self.keys.view(key, -1, codec.index_length)
            if data is None:
                raise ValueError("it is missing")
            found = codec.index(data), stamp
            if len(self.indices) * found[0].nbytes >= KEPT:
                self.indices.clear()
            self.indices[unit] = found
        return found


def tells(stamp: tuple[Any, ...] | None, began: int) -> bool:
    """Whether a key that had a stamp at a time, in ns, surely has another once it is set again.

    A younger file may yet be changed within the same tick, and have the same stamp.
    """
    return stamp is not None and began - stamp[-1] > TICK
