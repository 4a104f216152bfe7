"""What pass 1 found, kept in the store until the variable is sealed, and the batches of both passes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ..calibration.histogram import COARSE, FloatBins, Histogram, bins_for
from ..io.source import Source
from ..numerics.grid import Batches, Grid, shape_of
from ..numerics.scales import Rule
from ..numerics.statistics import ROW
from ..storage import Variable
from ..store.codec import Compressor
from ..store.guard import WriteGuard
from ..store.layout import Layout
from ..store.side_arrays import SideArray, owns

HISTOGRAM_SHARE = 16  # histograms of groups may take 1/16 of the bytes of the codes
HISTOGRAM_BATCHES = 64  # at least so many batches, each with its own histograms


@dataclass(frozen=True)
class Scans:
    """What pass 1 found, kept in the store until the variable is sealed: rows of each unit, histograms of each batch.

    A row has the statistics of one group in one unit, and where the rule looks at histograms also the unit and origin
    of its own.
    """

    variable: Variable
    layout: Layout
    rule: Rule

    @functools.cached_property
    def bins(self) -> FloatBins | None:
        if self.rule.method.needs != "histogram":
            return None
        values = self.batches.size * math.prod(self.layout.unit) // self.groups_per_unit
        return bins_for(self.rule.granularity, values)

    @functools.cached_property
    def groups_per_unit(self) -> int:
        """How many groups a unit has at most."""
        return self.rule.granularity.count(self.layout.unit)

    def groups_of(self, block: int) -> Grid:
        """The groups that the units of a block of batches hold values of, counted from the first."""
        number = self.batches.numbers(self.batches.of_block(block).start)[0]
        return self.rule.granularity.groups(shape_of(self.layout.units.region(number)))

    @property
    def row_length(self) -> int:
        return ROW if self.bins is None else ROW + 2

    @functools.cached_property
    def batches(self) -> Batches:
        return scan_batches(self.layout, self.rule)

    @functools.cached_property
    def rows(self) -> SideArray:
        length = self.batches.size * self.groups_per_unit * self.row_length
        return SideArray(
            self.variable.keys,
            self.variable.name,
            self.variable.beside[0],
            (self.batches.count * length,),
            (length,),
            np.dtype(np.int64),
            Compressor(None if self.rule.granularity.single else "zstd"),
        )

    @functools.cached_property
    def histograms(self) -> SideArray:
        assert self.bins is not None
        length = self.groups_per_unit * self.bins.number
        shape, dtype = (self.batches.count * length,), np.dtype(self.bins.dtype)
        name = self.variable.beside[1]
        return SideArray(self.variable.keys, self.variable.name, name, shape, (length,), dtype, Compressor())

    def create(self, guard: WriteGuard) -> None:
        if self.bins is not None:
            self.histograms.create(guard)
        self.rows.create(guard)

    def exist(self) -> bool:
        return owns(self.variable.keys, self.variable.beside[0])

    def set(self, batch: int, rows: np.ndarray, histogram: Histogram | None, guard: WriteGuard) -> None:
        """Keep the rows of the units of a batch, shape ``(units, groups, row_length)``, its histogram before them."""
        if histogram is not None:
            self.histograms.set(batch, histogram.counts.reshape(-1), guard)
        whole = np.zeros((len(rows), self.groups_per_unit, self.row_length), np.int64)
        whole[:, : rows.shape[1]] = rows
        self.rows.set(batch, whole.reshape(-1), guard)

    def get(self, batch: int) -> np.ndarray | None:
        """The rows of a batch, None where there are none, or a killed writer's damaged ones."""
        batches = self.batches
        try:
            found = self.rows.get(batch)
        except ValueError:
            return None
        if found is None:
            return None
        units = len(batches.numbers(batch))
        groups = self.groups_of(batches.block(batch)).count
        rows = found.reshape(batches.size, self.groups_per_unit, self.row_length)
        return rows[:units, :groups]

    def histogram(self, batch: int, rows: np.ndarray) -> Histogram | None:
        """That of a batch, of which `rows` are the rows; None where it is not whole."""
        assert self.bins is not None
        try:
            counts = self.histograms.get(batch)
        except ValueError:
            return None
        if counts is None:
            return None
        unit = np.ascontiguousarray(rows[0, :, ROW]).view(np.float64)
        return Histogram(self.bins, unit, rows[0, :, ROW + 1], counts.reshape(self.groups_per_unit, -1)[: len(unit)])


def batch_size(units: int) -> int:
    """How many units one task takes: 1 while there are few, up to 32 where there are many to schedule."""
    return min(max(units // 64, 1), 32)


def scan_batches(layout: Layout, rule: Rule) -> Batches:
    """The batches of both passes. Histograms of many groups are large: where units are many, more share some."""
    units, granularity = layout.units, rule.granularity
    fixed = granularity.fixed(units)
    size = batch_size(units.count)
    if rule.method.needs == "histogram" and not granularity.single and passes(layout, rule) == 2:
        counts = granularity.count(layout.unit) * COARSE.nbytes
        stored = max(math.prod(layout.unit) // 2, 1)
        size = max(size, min(-(-HISTOGRAM_SHARE * counts // stored), units.count // HISTOGRAM_BATCHES))
    return Batches(units, fixed, max(1, min(size, units.count // Batches(units, fixed, 1).blocks)))


def bytes_read(source: Source, layout: Layout, rule: Rule) -> int:
    """Bytes that all passes read of a source."""
    return passes(layout, rule) * source.bytes_read(scan_batches(layout, rule))


def passes(layout: Layout, rule: Rule) -> int:
    """How often the source is read: once where nothing must be known of it, or each unit holds all of its groups."""
    return 1 if rule.method.needs == "nothing" or rule.granularity.complete(layout.units) else 2
