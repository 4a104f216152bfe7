"""What one task does: read the regions of some units, scan or pack them, write, and return a few numbers.

A unit is a whole output chunk or shard. No chunk travels between tasks or to the driver, so memory is workers times one
task, a retry is free, and resuming is leaving units out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import kernels
from ..calibration.calibrate import scales_by_rows
from ..calibration.histogram import WIDE, Histogram, Tally, together
from ..calibration.scan import first_refused, scan
from ..calibration.search import choose
from ..exceptions import DamagedChunkError, RefusedValuesError, SourceChangedError, StoreError
from ..io.source import Source
from ..numerics.granularity import in_lines, lines_of
from ..numerics.grid import Region, index_at, packed_region, packed_shape, shape_of, within
from ..numerics.scales import Rule, Scale
from ..numerics.statistics import ROW, Statistics, fold_into, folded, from_row, no_rows
from ..storage import Variable
from ..store.buffers import PACKED
from ..store.chunks import ChunkReader
from ..store.layout import Layout
from ..store.metadata import Metadata
from ..store.retrying import retried
from ..store.side_arrays import ScaleArrays
from .scans import Scans, one_read
from .units import Shelf, StoppedError, cached_blocks

PLACES = 64  # of the histograms of pass 1, those that show where that of all lies


@dataclass(frozen=True)
class Work:
    """One source on its way into one variable, as tasks need it; it travels to where they run."""

    source: Source
    variable: Variable
    layout: Layout
    rule: Rule
    missing: float | int | None
    shelf: Shelf = field(default_factory=Shelf)

    @functools.cached_property
    def scans(self) -> Scans:
        return Scans(self.variable, self.layout, self.rule)

    @functools.cached_property
    def parameters(self) -> ScaleArrays | None:
        """Where the scales of an axis lie; None where there is one for all."""
        axis = self.rule.axis
        if axis is None:
            return None
        names = self.source.dimension_names
        return ScaleArrays(self.variable.keys, self.variable.name, self.layout, axis, names[axis] if names else None)

    def scan_batch(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> None:
        """Scan some units, and leave what was found in the store."""
        scans = self.scans
        first = self.layout.units.region(numbers[0])
        count = 1 if self.rule.axis is None else shape_of(first)[self.rule.axis]
        tally = None if scans.bins is None else Tally(scans.bins, count, self.missing)
        found = [self.scan_unit(number, block, tally) for number, block in paired(numbers, blocks)]
        rows = np.stack(found)
        if tally is not None:
            place = np.stack([tally.histogram.unit.view(np.int64), tally.histogram.origin], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(place, (len(rows), *place.shape))], axis=2)
        self.heed_stop()
        claim = Claim(self.variable, metadata)
        if claim.stands():
            claim.last = scans.rows.key(batch), scans.set(batch, rows, None if tally is None else tally.histogram)
            claim.stands()

    def settle_block(self, block: int, numbers: Any = None, blocks: None = None) -> np.ndarray:
        """The row of statistics of one index of the grid's along the axis, and its scales written.

        Raises
        ------
        StoreError
            If part of pass 1 is lost.
        """
        rows, scales, zero_points = self.settled(block)
        assert self.parameters is not None
        self.parameters.set(block, scales, zero_points)
        return folded(rows)

    def settled(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of statistics, scales and zero points of the indices of a block, by all that pass 1 left of it.

        Batches are taken in their order: the result does not depend on when they were done.
        """
        scans = self.scans
        batches = scans.batches
        own = batches.of_block(block)
        indices = batches.indices(block)
        total = scans.empty(indices.stop - indices.start)[:, :ROW]
        places = []
        shown = set(np.linspace(own.start, own.stop - 1, min(PLACES, len(own))).astype(int).tolist())
        for batch in own:
            rows, _ = self.kept(batch)
            total = folded(np.stack([total, *rows[..., :ROW]]))
            if scans.bins is not None and batch in shown:
                unit = np.ascontiguousarray(rows[0, :, ROW]).view(np.float64)
                places.append((unit, rows[0, :, ROW + 1], rows[..., 2].sum(axis=0)))
        histogram = None
        if scans.bins is not None:
            unit, origin, weight = (np.stack(part) for part in zip(*places, strict=True))
            bins = scans.bins if self.rule.axis is None else WIDE  # all batches together
            histogram = Histogram.about(bins, *together(unit, origin, weight))
            for batch in own:
                rows, part = self.kept(batch)
                assert part is not None
                histogram.merge(part, folded(rows[..., :ROW]))
        return total, *choose(self.rule, total, histogram)

    def kept(self, batch: int) -> tuple[np.ndarray, Histogram | None]:
        """The rows that pass 1 left of a batch, and its histogram if there are any.

        Raises
        ------
        StoreError
            If they are lost: the batch is then one that is not scanned.
        """
        scans = self.scans
        rows = scans.get(batch)
        histogram = None if rows is None or scans.bins is None else scans.histogram(batch, rows)
        if rows is None or (histogram is None and scans.bins is not None):
            self.variable.keys.delete(scans.rows.key(batch))
            raise StoreError(f"{self.variable.where} has lost part of pass 1; run again to scan it anew")
        return rows, histogram

    def write_batch(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> None:
        """Pack and write some units, each once it is seen to hold what it held in pass 1."""
        block_of_axis = self.scans.batches.block(batch)
        at_once = self.rule.value_range is not None or one_read(self.layout, self.rule)
        rows = None if at_once else self.scans.get(batch)
        if rows is None and not at_once:
            if self.variable.is_sealed(metadata):
                return
            self.variable.delete_scans()  # or the run that overwrites would go on with them
            raise StoreError(f"{self.variable.where} has lost part of pass 1; pass overwrite=True to begin again")
        scales = None
        if isinstance(metadata.scale, Scale):
            scales = np.array([metadata.scale.scale]), np.array([metadata.scale.zero_point])
        elif not at_once:
            assert self.parameters is not None
            scales = self.parameters.get(block_of_axis)
        places = {number: place for place, number in enumerate(self.scans.batches.numbers(batch))}
        claim = Claim(self.variable, metadata)
        for number, block in paired(numbers, blocks):
            if scales is None:
                packed, now, found = self.scale_and_pack_unit(number, block)
            else:
                packed, now = self.pack_unit(number, scales, block)
            self.heed_stop()
            if not claim.stands():
                return
            if rows is None:
                self.check_values(number, from_row(folded(now)))
            else:
                self.check_unchanged(number, rows[places[number]][:, :ROW], now)
            if scales is None:
                assert self.parameters is not None
                self.parameters.set(block_of_axis, *found)
            claim.last = self.variable.chunk_key(self.layout, number), self.variable.write(self.layout, number, packed)
        claim.stands()

    def damaged_units(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> list[int]:
        """Those of some units that are not whole: removed before the seal, so that they do not pass for done."""
        reader = ChunkReader(self.variable.keys, self.variable.name, metadata)
        found = []
        for number in numbers:
            try:
                if self.parameters is not None:
                    self.parameters.get(self.scans.batches.block(batch))
                for chunk, _ in reader.grid.touched(self.layout.units.region(number)):
                    reader.read(chunk)
            except DamagedChunkError:
                found.append(number)
                if metadata.status != "sealed":
                    self.variable.keys.delete(self.variable.chunk_key(self.layout, number))
        return found

    def check_unchanged(self, number: int, before: np.ndarray, now: np.ndarray) -> None:
        if not np.array_equal(before, now):
            index = int(np.flatnonzero((before != now).any(axis=1))[0])
            where = f", index {index} of it along axis {self.rule.axis}," if self.rule.axis is not None else ""
            raise SourceChangedError(
                f"{self.source.label} changed since pass 1: "
                f"the part for {self.variable.chunk_key(self.layout, number)}{where} held {from_row(before[index])} "
                f"and holds {from_row(now[index])}. Nothing was written of it; pass overwrite=True to begin again with "
                "the source as it is"
            )

    def check_values(self, number: int, statistics: Statistics) -> None:
        if self.rule.refused(statistics):
            index = index_at(statistics.first, self.source.shape)
            raise RefusedValuesError(
                f"{self.source.label}: in the part for {self.variable.chunk_key(self.layout, number)}, "
                f"{self.rule.refusal(statistics, index, self.missing)}. The store stays unfinished"
            )

    # One unit

    def scan_unit(self, number: int, block: np.ndarray | None, tally: Tally | None = None) -> np.ndarray:
        """Rows of statistics of one unit, shape ``(indices, 8)``; its values are counted into a tally too."""
        region = self.layout.units.region(number)
        shelved = self.shelf.reserve(shape_of(region), self.source.dtype)
        rows = self.no_rows(region)
        for piece, values in self.unit_values(number, block):
            if shelved is not None:
                shelved[within(piece, region)] = values
            for part, small in cached_blocks(piece, values):
                self.scan_part(part, small, region, rows, tally)
            del values, small  # before the next piece is read: it may be of another chunk
        if shelved is not None:
            self.shelf.put(number, shelved)
        return rows

    def pack_unit(
        self, number: int, scales: tuple[np.ndarray, np.ndarray], block: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Packed bytes of a whole unit, those outside the array 0, and the rows of statistics of its values.

        The bytes lie in a buffer that this thread uses again for the next unit.
        With a `value_range` nothing is known of the values beforehand, and only a NaN that has no code is looked for.
        """
        region = self.layout.units.region(number)
        packed = self.room(region)
        rows = self.no_rows(region)
        for piece, values in self.unit_values(number, block):
            for part, small in cached_blocks(piece, values):
                if self.rule.value_range is None or self.rule.nan_code is None:
                    self.scan_part(part, small, region, rows)
                self.pack_part(small, scales, within(part, region), packed)
            del values, small  # before the next piece is read: it may be of another chunk
        return packed, rows

    def scale_and_pack_unit(
        self, number: int, block: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """As `pack_unit`, of a unit that holds all values of its indices; their scales and zero points, chosen here."""
        region = self.layout.units.region(number)
        values = self.whole_unit(number, block)
        rows = self.no_rows(region)
        for part, small in cached_blocks(region, values):
            if self.rule.value_range is None or self.rule.nan_code is None:
                self.scan_part(part, small, region, rows)
        scales = scales_by_rows(values, self.rule, rows, self.missing)
        packed = self.room(region)
        for part, small in cached_blocks(region, values):
            self.pack_part(small, scales, within(part, region), packed)
        return packed, rows, scales

    def whole_unit(self, number: int, block: np.ndarray | None) -> np.ndarray:
        region = self.layout.units.region(number)
        if block is not None:
            return block
        whole = np.empty(shape_of(region), self.source.dtype)
        for piece, values in self.unit_values(number, None):
            whole[within(piece, region)] = values
        return whole

    def room(self, region: Region) -> np.ndarray:
        """Bytes for the codes of a unit that holds a region, 0 outside it."""
        shape = packed_shape(self.layout.unit)
        packed = PACKED.of(math.prod(shape)).reshape(shape)
        if shape_of(region) != self.layout.unit:
            packed[...] = 0
        return packed

    def no_rows(self, region: Region) -> np.ndarray:
        return no_rows(1 if self.rule.axis is None else shape_of(region)[self.rule.axis])

    def pack_part(
        self, small: np.ndarray, scales: tuple[np.ndarray, np.ndarray], inside: Region, packed: np.ndarray
    ) -> None:
        """Pack the values of a region within a unit, with the scales of the unit's indices."""
        axis = self.rule.axis
        indices = slice(0, 1) if axis is None else inside[axis]
        block = in_lines(small, axis)
        target = packed[packed_region(inside)]
        shape = (len(block), target.size // len(block))
        codes = target.reshape(shape) if target.flags.c_contiguous else np.empty(shape, np.uint8)
        kernels.pack(
            block,
            codes,
            scales[0][indices],
            scales[1][indices],
            self.rule.nan_code,
            self.missing,
            self.rule.lowest,
            lines_of(small.shape, axis),
        )
        if not target.flags.c_contiguous:
            target[...] = codes.reshape(target.shape)

    def unit_values(self, number: int, block: np.ndarray | None) -> Iterator[tuple[Region, np.ndarray]]:
        """The values of a unit: the block of a dask graph, what pass 1 kept, or piece by piece what is read now."""
        region = self.layout.units.region(number)
        there = self.shelf.take(number) if block is None else block
        if there is not None:
            yield region, there
            return
        read = retried(self.source.read)
        for piece in self.source.pieces(region):
            self.heed_stop()
            yield piece, read(piece)

    def heed_stop(self) -> None:
        """Before each read and each write: the run may be over, and its source closed."""
        if self.shelf.stop.is_set():
            raise StoppedError

    def scan_part(
        self, part: Region, small: np.ndarray, unit: Region, rows: np.ndarray, tally: Tally | None = None
    ) -> None:
        """Add the statistics of a region within a unit to those of the unit's indices."""
        axis = self.rule.axis
        indices = slice(0, 1) if axis is None else within(part, unit)[axis]
        block, lines, own = in_lines(small, axis), lines_of(small.shape, axis), rows[indices]
        if tally is None:
            others = scan(block, own, lines, self.missing)
        else:
            found = no_rows(lines.indices)
            others = scan(block, found, lines, self.missing)
            fold_into(own, found)
            tally.add(small, axis, indices, block, lines, found)
        if others and self.rule.refused(from_row(folded(own))):
            self.note_refused(small, part, own)

    def note_refused(self, values: np.ndarray, region: Region, rows: np.ndarray) -> None:
        """Note in the rows of a region's indices where its first value lies that the rule takes no code for."""
        position = first_refused(values, self.rule, self.missing)
        if position >= 0:
            inside = index_at(position, values.shape)
            index = tuple(i + along.start for i, along in zip(inside, region, strict=True))
            found = no_rows(len(rows))
            found[0 if self.rule.axis is None else inside[self.rule.axis], ROW - 1] = np.ravel_multi_index(
                index, self.source.shape
            )
            fold_into(rows, found)


class Claim:
    """The right of one task to write: looked at before each chunk and after the last.

    A run that overwrites first marks the variable, and then deletes what is there. So only what was written between the
    last look that found no mark and the first that found one may be left: `last`, its key and its bytes.
    """

    def __init__(self, variable: Variable, metadata: Metadata) -> None:
        self.variable, self.metadata = variable, metadata
        self.last: tuple[str, np.ndarray] | None = None

    def stands(self) -> bool:
        """Whether there still is something to write: not if another run of the same job has sealed the variable.

        Raises
        ------
        StoreError
            If another job has taken the variable's place; what this task wrote last is gone then.
        """
        keys = self.variable.keys
        if keys.holds(self.variable.key, self.metadata.to_json()):
            return True
        try:
            return not self.variable.is_sealed(self.metadata)
        except StoreError:
            if self.last is not None and keys.holds(*self.last):
                keys.delete(self.last[0])
            raise


def paired(numbers: list[int], blocks: list[np.ndarray] | None) -> Iterator[tuple[int, np.ndarray | None]]:
    yield from zip(numbers, [None] * len(numbers) if blocks is None else blocks, strict=True)
