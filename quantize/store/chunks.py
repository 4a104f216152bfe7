"""Reads one chunk of a variable, never a fill value in its place, nor one of another job."""

from __future__ import annotations

import functools
import time

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..numerics.grid import Grid, Region, Shape
from ..numerics.scales import Scales
from .codec import ABSENT
from .keys import Keys, chunk_key
from .layout import Layout
from .metadata import Metadata
from .side_arrays import StoredScales, stored_scales

KEPT = 1 << 24  # bytes of shards' indices, and of scales, that a reader keeps at most; one of each in any case
TICK = 50_000_000  # nanoseconds: two changes of a file that lie closer may have the same time, a tick of the system


class ChunkReader:
    """Reads the packed bytes of one chunk, or one inner chunk of a shard, and never a fill value in their place.

    What it reads belongs to its metadata if `stands` says so afterwards. What it keeps it keeps as long as that is so:
    where the metadata were written anew, though they are the same, another reader begins anew.
    """

    def __init__(self, keys: Keys, name: str, metadata: Metadata) -> None:
        self.keys = keys
        self.name = name
        self.metadata = metadata
        self.layout: Layout = metadata.layout
        self.indices: dict[int, np.ndarray] = {}
        self.key = f"{name}/zarr.json"
        self.stamp = keys.stamp(self.key)
        self.known = False  # whether what has this stamp is known to be the metadata

    def stands(self) -> bool:
        """Whether the metadata in the store are this reader's, and have been all the time since it was made.

        Whoever overwrites a variable first writes other metadata, then other chunks and scales. So what was read before
        this look belongs to these metadata if it is true. It is false if they were written anew, and are the same.

        Raises
        ------
        StoreError
            If they are others now, or not there.
        """
        if self.known and self.keys.stamp(self.key) == self.stamp:
            return True
        began = time.time_ns()
        self.check_metadata()
        if self.keys.stamp(self.key) != self.stamp:
            return False
        # A younger file may yet be changed within the same tick, and have the same stamp.
        self.known = self.stamp is not None and began - self.stamp[-1] > TICK
        return True

    def check_metadata(self) -> None:
        """Refuse metadata in the store that are not this reader's."""
        where, own = f"{self.keys.label}/{self.name}", self.metadata.to_json()
        found = self.keys.get(self.key)
        if found is None:
            raise StoreError(f"{where} was removed since it was opened")
        if found == own:
            return
        try:
            same = Metadata.from_json(found, f"{self.keys.label}/{self.key}").to_json() == own
        except StoreError as error:
            raise StoreError(f"{where} was changed since it was opened: {error}") from error
        if not same:
            raise StoreError(f"{where} was overwritten since it was opened; open it again")

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
        key = chunk_key(self.name, self.layout.units, unit)
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
            raise DamagedChunkError.at(self.keys.label, self.place(number), error) from error

    def stored(self, number: int) -> memoryview | None:
        """Stored bytes of one chunk; a ValueError if its shard's index is damaged."""
        unit, inner = self.locate(number)
        key = chunk_key(self.name, self.layout.units, unit)
        if self.layout.shard_codec is None:
            return self.keys.view(key, most=self.layout.chunk_codec.most)
        offset, length = self.index(unit)[self.layout.shard_codec.grid.number(inner)].tolist()
        if offset == ABSENT:
            return None
        if length > self.layout.chunk_codec.most or offset > self.layout.shard_codec.most:
            raise ValueError(f"its shard's index has it at {offset}, {length} bytes long")
        return self.keys.view(key, offset, length)

    def index(self, unit: int) -> np.ndarray:
        """The index of one shard, kept for the next of its inner chunks; a ValueError if it is damaged."""
        codec = self.layout.shard_codec
        assert codec is not None
        found = self.indices.get(unit)
        if found is None:
            data = self.keys.view(chunk_key(self.name, self.layout.units, unit), -1, codec.index_length)
            if data is None:
                raise ValueError("it is missing")
            found = codec.index(data)
            if len(self.indices) * found.nbytes >= KEPT:
                self.indices.clear()
            self.indices[unit] = found
        return found

    @functools.cached_property
    def scale_store(self) -> StoredScales:
        return stored_scales(self.keys, self.name, self.metadata, keep=KEPT)

    def scales(self, region: Region) -> Scales:
        """The scales of a region of the values.

        Raises
        ------
        DamagedChunkError
            If some are missing or not those that were written.
        """
        return self.scale_store.read(region)
