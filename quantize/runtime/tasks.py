"""What one task does: read the regions of some units, scan or pack them, write, and return a few numbers.

A unit is a whole output chunk or shard. No chunk travels between tasks or to the driver, so memory is workers times one
task, a retry is free, and resuming is leaving units out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from ..calibration.histogram import GrowingHistogram, Histogram, merged_place
from ..calibration.search import choose
from ..exceptions import DamagedChunkError, RefusedValuesError, SourceChangedError, StoreError
from ..numerics.grid import index_at
from ..numerics.scales import Scales
from ..numerics.statistics import ROW, Statistics, folded, from_row, no_rows
from ..storage import Variable
from ..store.chunks import ChunkReader
from ..store.metadata import Metadata
from ..store.side_arrays import stored_scales
from .scans import Scans, passes
from .units import Units

PLACES = 64  # histograms of pass 1: the place of the merged one is taken from so many of them


@dataclass(frozen=True)
class Tasks:
    """The tasks of one source on its way into one variable; they travel to where they run."""

    units: Units
    variable: Variable

    @functools.cached_property
    def scans(self) -> Scans:
        return Scans(self.variable, self.units.layout, self.units.rule)

    def scan_batch(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> None:
        """Scan some units, and leave what was found in the store."""
        scans, units = self.scans, self.units
        histogram = None
        if scans.bins is not None:
            groups = scans.groups_of(scans.batches.block(batch)).count
            histogram = GrowingHistogram(scans.bins, groups, units.rule.granularity, units.missing)
        rows = np.stack([units.scan(number, block, histogram) for number, block in paired(numbers, blocks)])
        if histogram is not None:
            place = np.stack([histogram.histogram.unit.view(np.int64), histogram.histogram.origin], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(place, (len(rows), *place.shape))], axis=2)
        counted = None if histogram is None else histogram.histogram
        guard = self.variable.guard(metadata)
        with guard.writing() as stands:
            units.heed_stop()
            if stands:
                scans.set(batch, rows, counted, guard)
        guard.stands()

    def choose_scale_chunk(self, block: int, *, metadata: Metadata) -> np.ndarray:
        """Choose and write the scales of all units at one place along the axes on which scales differ.

        What comes back is the row of statistics of their values.

        Raises
        ------
        StoreError
            If part of pass 1 is lost.
        """
        rows, scales = self.scales_of_batches(block)
        guard = self.variable.guard(metadata)
        with guard.writing() as stands:
            self.units.heed_stop()
            if stands:
                stored_scales(self.variable.keys, self.variable.name, metadata).write(block, scales, guard)
        guard.stands()
        return folded(rows)

    def scales_of_batches(self, block: int) -> tuple[np.ndarray, Scales]:
        """Rows of statistics and scales of the groups of a block of batches, by all that pass 1 left of it.

        Batches are taken in their order: the result does not depend on when they were done.
        """
        scans, rule = self.scans, self.units.rule
        own, groups = scans.batches.of_block(block), scans.groups_of(block)
        total = no_rows(groups.count)
        places = []
        shown = set(np.linspace(own.start, own.stop - 1, min(PLACES, len(own))).astype(int).tolist())
        for batch in own:
            self.units.heed_stop()
            rows = self.rows_of(batch)
            total = folded(np.stack([total, *rows[..., :ROW]]))
            if scans.bins is not None and batch in shown:
                unit = np.ascontiguousarray(rows[0, :, ROW]).view(np.float64)
                places.append((unit, rows[0, :, ROW + 1], rows[..., 2].sum(axis=0)))
        merged = None
        if scans.bins is not None:
            unit, origin, weight = (np.stack(part) for part in zip(*places, strict=True))
            bins = scans.bins._replace(dtype=np.int64)  # all batches together
            merged = Histogram.about(bins, *merged_place(unit, origin, weight))
            for batch in own:
                self.units.heed_stop()
                rows = self.rows_of(batch)
                merged.merge(self.histogram_of(batch, rows), folded(rows[..., :ROW]))
        scales = Scales.of(*choose(rule, total, merged, self.units.heed_stop), rule.granularity, groups.shape)
        return total, scales if rule.refused(from_row(folded(total))) else self.units.cleared(scales, total)

    def rows_of(self, batch: int) -> np.ndarray:
        """The rows that pass 1 left of a batch.

        Raises
        ------
        StoreError
            If they are lost: the batch is then one that is not scanned.
        """
        rows = self.scans.get(batch)
        return self.lost(batch) if rows is None else rows

    def histogram_of(self, batch: int, rows: np.ndarray) -> Histogram:
        """The histogram of a batch of these rows; raises as `rows_of` does."""
        histogram = self.scans.histogram(batch, rows)
        return self.lost(batch) if histogram is None else histogram

    def lost(self, batch: int) -> NoReturn:
        self.variable.keys.delete(self.scans.rows.key(batch))
        raise StoreError(f"{self.variable.where} has lost part of pass 1; run again to scan it anew")

    def write_batch(
        self, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, metadata: Metadata
    ) -> None:
        """Pack and write some units, each once it is seen to hold what it held in pass 1."""
        units, layout = self.units, self.units.layout
        stored = stored_scales(self.variable.keys, self.variable.name, metadata)
        once = passes(layout, units.rule) == 1
        rows = None if once else self.scans.get(batch)
        if rows is None and not once:
            if self.variable.is_sealed(metadata):
                return
            self.variable.delete_scans()  # or the run that overwrites would go on with them
            raise StoreError(f"{self.variable.where} has lost part of pass 1; pass overwrite=True to begin again")
        known = None if once and stored.arrays else stored.read(layout.units.region(numbers[0]))
        places = {number: place for place, number in enumerate(self.scans.batches.numbers(batch))}
        guard = self.variable.guard(metadata)
        for number, block in paired(numbers, blocks):
            if known is None:
                packed, now, scales = units.scale_and_pack(number, block, metadata.keep_zero)
            else:
                packed, now = units.pack(number, known, block)
            with guard.writing() as stands:
                units.heed_stop()
                if not stands:
                    return
                if rows is None:
                    self.check_values(number, from_row(folded(now)))
                else:
                    self.check_unchanged(number, rows[places[number]][:, :ROW], now)
                if known is None:
                    stored.write(self.scans.batches.block(batch), scales, guard)
                self.variable.write(layout, number, packed, guard)
        guard.stands()

    def damaged_units(self, batch: int, numbers: list[int], *, metadata: Metadata) -> list[int]:
        """Those of some units that are not whole: removed before the seal, so that they do not pass for done."""
        reader = ChunkReader(self.variable.keys, self.variable.name, metadata)
        guard, layout = self.variable.guard(metadata), self.units.layout
        found = []
        for number in numbers:
            region = layout.units.region(number)
            try:
                if reader.scale_store.arrays:  # of which a run that has yet to choose them has none
                    reader.scales(region)
                for chunk, _ in reader.grid.touched(region):
                    reader.read(chunk)
            except DamagedChunkError:
                found.append(number)
                with guard.writing() as stands:
                    if stands and metadata.status != "sealed":
                        self.variable.keys.delete(self.variable.chunk_key(layout, number))
        return found

    def check_unchanged(self, number: int, before: np.ndarray, now: np.ndarray) -> None:
        if not np.array_equal(before, now):
            index = int(np.flatnonzero((before != now).any(axis=1))[0])
            label = self.units.rule.granularity.label
            where = f", index {index} of it along {label}," if label else ""
            raise SourceChangedError(
                f"{self.units.source.label} changed since pass 1: the part for "
                f"{self.variable.chunk_key(self.units.layout, number)}{where} held {from_row(before[index])} "
                f"and holds {from_row(now[index])}. Nothing was written of it; pass overwrite=True to begin again with "
                "the source as it is"
            )

    def check_values(self, number: int, statistics: Statistics) -> None:
        if self.units.rule.refused(statistics):
            index = index_at(statistics.first, self.units.source.shape)
            raise RefusedValuesError(
                f"{self.units.source.label}: in the part for {self.variable.chunk_key(self.units.layout, number)}, "
                f"{self.units.rule.refusal(statistics, index, self.units.missing)}{self.units.source.missing_said}. "
                "The store stays unfinished"
            )


def paired(numbers: list[int], blocks: list[np.ndarray] | None) -> Iterator[tuple[int, np.ndarray | None]]:
    yield from zip(numbers, [None] * len(numbers) if blocks is None else blocks, strict=True)
