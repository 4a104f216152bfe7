"""What one task does: read the regions of some units, scan or pack them, write, and return a few numbers.

A unit is a whole output chunk or shard. No chunk travels between tasks or to the driver, so memory is workers times one
task, a retry is free, and resuming is leaving units out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np

from . import kernels
from .blocks import block_of, blocks, first_refused, scan_block
from .grid import Region, index_at, packed_region, packed_shape, shape_of, shifted, within
from .metadata import DamagedChunkError, Layout, Metadata, SourceChangedError, StoreError
from .readers import Source
from .scaling import RefusedValuesError, Rule, Scale, Statistics
from .storage import STATISTICS, Variable, batch_size

CACHED = 1 << 18  # values that are scanned and packed while they are in a processor's cache


class StoppedError(Exception):
    """Raised in the tasks of a run that was told to stop."""


class Shelf:
    """What lives in the driver's process only: units that pass 1 read and pass 2 will want, and the sign to stop."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.units: dict[int, np.ndarray] = {}
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self.units

    def __reduce__(self) -> Any:
        return Shelf, ()

    def reserve(self, shape: Any, dtype: np.dtype[Any]) -> np.ndarray | None:
        """An array to keep a unit in, if there is room for it."""
        size = math.prod(shape) * dtype.itemsize
        with self.lock:
            if size > self.room:
                return None
            self.room -= size
        return np.empty(shape, dtype)

    def put(self, number: int, values: np.ndarray) -> None:
        self.units[number] = values

    def take(self, number: int) -> np.ndarray | None:
        return self.units.pop(number, None)


@dataclass(frozen=True)
class Work:
    """One source on its way into one variable, as tasks need it; it travels to where they run."""

    source: Source
    variable: Variable
    layout: Layout
    rule: Rule
    missing: float | int | None
    verify: bool = False
    shelf: Shelf = field(default_factory=Shelf)

    def scan_batch(self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None) -> Statistics:
        """Scan some units, leave their statistics in the store, and return those of all."""
        found = [self.scan_unit(number, block) for number, block in paired(numbers, blocks)]
        rows = np.stack([to_row(statistics) for statistics in found])
        self.variable.set_scan(rows, batch, self.layout.units.count)
        return sum(found, Statistics())

    def write_batch(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> None:
        """Pack and write some units, each once it is seen to hold what it held in pass 1."""
        units, scale, claim = self.layout.units.count, metadata.scale, metadata.to_json()
        assert scale is not None
        rows = self.variable.scan(batch, units) if self.rule.value_range is None else None
        for number, block in paired(numbers, blocks):
            packed, statistics = self.pack_unit(number, scale, block)
            if self.variable.files.get(self.variable.key) != claim and self.check_ours(metadata):
                return
            if self.rule.value_range is not None:
                self.check_values(number, statistics)
            elif rows is None:
                raise StoreError(f"{self.variable.where} has lost part of pass 1; pass overwrite=True to begin again")
            else:
                self.check_unchanged(number, rows[number - batch * batch_size(units)], to_row(statistics))
            key = self.variable.chunk_key(self.layout, number)
            data = self.variable.write(self.layout, number, packed)
            if self.verify and self.variable.files.get(key) != data:
                self.variable.files.delete(key)  # or it would pass for done
                where = f"{self.variable.files.label}/{key}"
                raise DamagedChunkError(f"{where} reads back other bytes than were written; run again to write it anew")

    def check_ours(self, metadata: Metadata) -> bool:
        """Whether the variable has been sealed meanwhile, by another run of the same job at the same time.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        now = self.variable.metadata()
        if now is None or now.fingerprint != metadata.fingerprint:
            raise StoreError(f"{self.variable.where} was taken over by another job while this run was at it")
        return now.status == "sealed"

    def check_unchanged(self, number: int, before: np.ndarray, now: np.ndarray) -> None:
        if not np.array_equal(before, now):
            raise SourceChangedError(
                f"{self.source.label} changed since pass 1: "
                f"the part for {self.variable.chunk_key(self.layout, number)} held {from_row(before)} "
                f"and holds {from_row(now)}. Nothing was written of it; pass overwrite=True to begin again with the "
                "source as it is"
            )

    def check_values(self, number: int, statistics: Statistics) -> None:
        if self.rule.refused(statistics):
            index = index_at(statistics.first, self.source.shape)
            raise RefusedValuesError(
                f"{self.source.label}: in the part for {self.variable.chunk_key(self.layout, number)}, "
                f"{self.rule.refusal(statistics, index, self.missing)}. The store stays unfinished"
            )

    # One unit

    def scan_unit(self, number: int, block: np.ndarray | None) -> Statistics:
        region = self.layout.units.region(number)
        shelved = self.shelf.reserve(shape_of(region), self.source.dtype)
        total = Statistics()
        for piece, values in self.unit_values(number, block):
            if shelved is not None:
                shelved[within(piece, region)] = values
            for part, small in cached_blocks(piece, values):
                total += self.scan_block(part, small)
            del values, small  # before the next piece is read: it may be of another chunk
        if shelved is not None:
            self.shelf.put(number, shelved)
        return total

    def pack_unit(self, number: int, scale: Scale, block: np.ndarray | None = None) -> tuple[np.ndarray, Statistics]:
        """Packed bytes of a whole unit, those outside the array 0, and the statistics of its values.

        With a `value_range` nothing is known of the values beforehand, and only a NaN that has no code is looked for.
        """
        region = self.layout.units.region(number)
        packed = np.zeros(packed_shape(self.layout.unit), np.uint8)
        total = Statistics()
        for piece, values in self.unit_values(number, block):
            for part, small in cached_blocks(piece, values):
                if self.rule.value_range is None or scale.nan_code is None:
                    total += self.scan_block(part, small)
                target = packed[packed_region(within(part, region))]
                codes = np.empty((len(small), target.size // len(small)), np.uint8)
                kernels.pack(
                    small, codes, scale.scale, scale.zero_point, scale.nan_code, self.missing, self.rule.lowest
                )
                target[...] = codes.reshape(target.shape)
            del values, small  # before the next piece is read: it may be of another chunk
        return packed, total

    def unit_values(self, number: int, block: np.ndarray | None) -> Iterator[tuple[Region, np.ndarray]]:
        """The values of a unit: the block of a dask graph, what pass 1 kept, or piece by piece what is read now."""
        region = self.layout.units.region(number)
        there = self.shelf.take(number) if block is None else block
        if there is not None:
            yield region, there
            return
        for piece in self.source.pieces(region):
            if self.shelf.stop.is_set():
                raise StoppedError
            yield piece, self.source.read(piece)

    def scan_block(self, part: Region, small: np.ndarray) -> Statistics:
        """Statistics of one block, with the place in the whole array of its first refused value."""
        found = scan_block(small, self.missing)
        if not self.rule.refused(found):
            return found
        inside = index_at(first_refused(small, self.rule, self.missing), shape_of(part))
        index = tuple(i + axis.start for i, axis in zip(inside, part, strict=True))
        return replace(found, first=int(np.ravel_multi_index(index, self.source.shape)))


def paired(numbers: list[int], blocks: list[np.ndarray] | None) -> Iterator[tuple[int, np.ndarray | None]]:
    yield from zip(numbers, [None] * len(numbers) if blocks is None else blocks, strict=True)


def cached_blocks(piece: Region, values: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
    """The values of a piece in blocks as the kernels take them, each with its region."""
    for part in blocks(values.shape, CACHED):
        yield shifted(part, piece), block_of(values, part)


def to_row(statistics: Statistics) -> np.ndarray:
    """Statistics as the store keeps them while a job runs: the bits of two float64 and six integers, int64."""
    *bounds, count, nan, missing, positive, negative, first = astuple(statistics)
    row = np.array([0, 0, count, nan, missing, positive, negative, first], np.int64)
    row[:2] = np.array(bounds, np.float64).view(np.int64)
    return row


def from_row(row: np.ndarray) -> Statistics:
    assert len(row) == STATISTICS
    return Statistics(*np.ascontiguousarray(row[:2]).view(np.float64).tolist(), *row[2:].tolist())
