"""What pass 1 found, kept in the store until the variable is sealed, and the batches of both passes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ..calibration.histogram import COARSE, FINE, FloatBins, Histogram, coarse
from ..numerics.grid import Batches
from ..numerics.scales import Rule
from ..numerics.statistics import ROW, no_rows
from ..storage import Variable
from ..store.codec import Compressor
from ..store.layout import Layout
from ..store.side_arrays import SideArray, owns

SHARE = 16  # of what is stored, the part that histograms of an axis take at most


PARTS = 64  # of the units, of which each has histograms of its own


@dataclass(frozen=True)
class Scans:
    """What pass 1 found, kept in the store until the variable is sealed: rows of each unit, histograms of each batch.

    A row has the statistics of one index of the axis in one unit, and where the rule looks at histograms also the unit
    and origin of its own.
    """

    variable: Variable
    layout: Layout
    rule: Rule

    @functools.cached_property
    def bins(self) -> FloatBins | None:
        if not self.rule.histogrammed:
            return None
        if self.rule.axis is None:
            return FINE
        return coarse(self.batches.size * math.prod(self.layout.unit) // self.lanes)

    @property
    def lanes(self) -> int:
        """Indices of the axis that a unit has at most."""
        return 1 if self.rule.axis is None else self.layout.unit[self.rule.axis]

    @property
    def numbers(self) -> int:
        return ROW if self.bins is None else ROW + 2

    @functools.cached_property
    def batches(self) -> Batches:
        return scan_batches(self.layout, self.rule)

    @functools.cached_property
    def rows(self) -> SideArray:
        length = self.batches.size * self.lanes * self.numbers
        return SideArray(
            self.variable.keys,
            self.variable.name,
            self.variable.beside[0],
            (self.batches.count * length,),
            (length,),
            np.dtype(np.int64),
            Compressor(None if self.rule.axis is None else "zstd"),
        )

    @functools.cached_property
    def histograms(self) -> SideArray:
        assert self.bins is not None
        length = self.lanes * self.bins.number
        shape, dtype = (self.batches.count * length,), np.dtype(self.bins.dtype)
        name = self.variable.beside[1]
        return SideArray(self.variable.keys, self.variable.name, name, shape, (length,), dtype, Compressor())

    def create(self) -> None:
        if self.bins is not None:
            self.histograms.create()
        self.rows.create()

    def exist(self) -> bool:
        return owns(self.variable.keys, self.variable.beside[0])

    def set(self, batch: int, rows: np.ndarray, histogram: Histogram | None) -> np.ndarray:
        """Keep the rows of the units of a batch, shape ``(units, indices, numbers)``, and before them its histogram.

        What was written of the rows, in a buffer used again.
        """
        if histogram is not None:
            self.histograms.set(batch, histogram.counts.reshape(-1))
        whole = np.zeros((len(rows), self.lanes, self.numbers), np.int64)
        whole[:, : rows.shape[1]] = rows
        return self.rows.set(batch, whole.reshape(-1))

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
        indices = batches.indices(batches.block(batch))
        rows = found.reshape(batches.size, self.lanes, self.numbers)
        return rows[:units, : indices.stop - indices.start]

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
        return Histogram(self.bins, unit, rows[0, :, ROW + 1], counts.reshape(self.lanes, -1)[: len(unit)])

    def empty(self, indices: int) -> np.ndarray:
        """Rows of no values, shape ``(indices, numbers)``."""
        return np.pad(no_rows(indices), ((0, 0), (0, self.numbers - ROW)))


def batch_size(units: int) -> int:
    """How many units one task takes: 1 while there are few, up to 32 where there are many to schedule."""
    return min(max(units // 64, 1), 32)


def scan_batches(layout: Layout, rule: Rule) -> Batches:
    """The batches of both passes. Histograms of an axis are large, so more units share them where there are many."""
    units = layout.units
    blocks = 1 if rule.axis is None else units.counts[rule.axis]
    size = batch_size(units.count)
    if rule.axis is not None and rule.histogrammed and not one_read(layout, rule):
        counts = layout.unit[rule.axis] * COARSE.number * np.dtype(COARSE.dtype).itemsize
        stored = max(math.prod(layout.unit) // 2, 1)
        size = max(size, min(-(-SHARE * counts // stored), units.count // PARTS))
    return Batches(units, rule.axis, max(1, min(size, units.count // blocks)))


def one_read(layout: Layout, rule: Rule) -> bool:
    """Whether a unit holds all values of its indices of the axis, so that their scale is known once it is read."""
    return rule.axis is not None and layout.units.count == layout.units.counts[rule.axis]
