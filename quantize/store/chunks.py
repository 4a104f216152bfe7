"""Reads one chunk of a variable, never a fill value in its place, nor one of another job."""

from __future__ import annotations

import functools
import time

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..numerics.grid import Grid, Region
from ..numerics.scales import Scales
from .growth import continues
from .keys import Keys
from .layout import Layout
from .metadata import Metadata
from .places import folder_of
from .side_arrays import StoredScales, stored_scales
from .stored import KEPT, StoredChunks, tells

LOOKS = 8  # times: how often metadata are read that are no whole document, as where a store gives its beginning alone
PAUSE = 0.001  # seconds between the first two of these looks, and twice as long between the next


class ChunkReader:
    """Reads the packed bytes of one chunk, or one inner chunk of a shard, and never a fill value in their place.

    What it reads belongs to its metadata if `stands` says so afterwards. What it keeps it keeps as long as that is so:
    where the metadata were written anew, though they are the same, another reader begins anew. Where the array has
    become longer since, all that this reader reads is still there, at its place.
    """

    def __init__(self, keys: Keys, name: str, metadata: Metadata) -> None:
        self.keys = keys
        self.name = name
        self.metadata = metadata
        self.layout: Layout = metadata.layout
        self.folder = folder_of(name)
        self.key = f"{self.folder}/zarr.json"
        self.stamp = keys.stamp(self.key)
        self.known = False  # whether what has this stamp is known to be the metadata
        self.moved = False  # whether the array has become longer since this reader was made

    def stands(self) -> bool:
        """Whether the metadata in the store are this reader's, and have been all the time since it was made.

        Whoever overwrites a variable first writes other metadata, then other chunks and scales. So what was read before
        this look belongs to these metadata if it is true. It is false if they were written anew, and are the same.

        Raises
        ------
        StoreError
            If they are others now, or not there.
        """
        before = self.keys.stamp(self.key)
        if self.known and before == self.stamp:
            return True
        began = time.time_ns()
        grown = not self.is_own(self.current())
        now = self.keys.stamp(self.key)
        if now != self.stamp:
            if not grown:
                return False
            self.moved = True
            if now != before:
                return True  # and again longer: the next look will see
            self.stamp = now
        self.known = tells(self.stamp, began)
        return True

    def is_own(self, now: Metadata | bytes) -> bool:
        """Whether the metadata in the store are this reader's, and not those of the array after it has become longer.

        Raises
        ------
        StoreError
            If they are neither.
        """
        own = self.metadata.to_json()
        if now == own or (isinstance(now, Metadata) and now.to_json() == own):
            return True
        if isinstance(now, Metadata) and continues(now, self.metadata):
            return False
        raise StoreError(f"{self.keys.label}/{self.name} was overwritten since it was opened; open it again")

    def current(self) -> Metadata | bytes:
        """The metadata in the store; their bytes where they are this reader's, bit for bit.

        Raises
        ------
        StoreError
            If there are none.
        """
        where, pause = f"{self.keys.label}/{self.name}", PAUSE
        for look in range(LOOKS):
            found = self.keys.get(self.key)
            if found is None:
                raise StoreError(f"{where} was removed since it was opened")
            if found == self.metadata.to_json():
                return found
            try:
                return Metadata.from_json(found, f"{self.keys.label}/{self.key}")
            except StoreError as error:
                wrong = error
            if look + 1 < LOOKS:
                time.sleep(pause)
                pause *= 2
        raise StoreError(f"{where} was changed since it was opened: {wrong}") from wrong

    @functools.cached_property
    def codes(self) -> StoredChunks:
        layout = self.layout
        grid = Grid(layout.shape, layout.chunks)
        return StoredChunks(self.keys, self.folder, grid, layout.units, layout.chunk_codec, layout.shard_codec)

    @property
    def grid(self) -> Grid:
        """The chunks, those within shards too."""
        return self.codes.grid

    def place(self, number: int) -> str:
        """What to call a chunk: its key, and in a shard its place there."""
        return self.codes.place(number)

    def read(self, number: int) -> np.ndarray:
        """Packed bytes of one chunk, whole, shape ``packed_shape(chunks)``.

        Raises
        ------
        DamagedChunkError
            If it is missing or its bytes are not those that were written.
        """
        try:
            return self.codes.read(number)
        except ValueError as error:
            raise DamagedChunkError.at(self.keys.label, self.place(number), error) from error

    def index(self, unit: int) -> np.ndarray:
        """The index of one shard; a ValueError if it is damaged."""
        return self.codes.index(unit)[0]

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
