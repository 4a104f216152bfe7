"""Arrays that lie beside a variable: what pass 1 found, while a job runs, and the scales of an axis."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration.histogram import COARSE, FINE, Bins, Histogram, coarse
from ..numerics.grid import Batches, Grid, Shape
from ..numerics.scales import ROW, Rule, no_rows
from ..storage import Variable
from .codec import ChunkCodec, Compressor
from .keys import chunk_key, present
from .metadata import DamagedChunkError, Layout
from .zarr_json import array_document, codecs_document, loaded, same, serialized

SHARE = 16  # of what is stored, the part that histograms of an axis take at most
PARTS = 64  # of the units, of which each has histograms of its own


@dataclass(frozen=True)
class Sibling:
    """One such array, of one axis: with more, each chunk would have a folder. It is checked as the variable is."""

    variable: Variable
    name: str
    shape: Shape
    chunk: Shape
    dtype: np.dtype[Any]
    compressor: Compressor
    dimension: str | None = None

    @functools.cached_property
    def codec(self) -> ChunkCodec:
        return ChunkCodec((math.prod(self.chunk) * self.dtype.itemsize,), self.compressor)

    @functools.cached_property
    def grid(self) -> Grid:
        return Grid(self.shape, self.chunk)

    @property
    def metadata_key(self) -> str:
        return f"{self.name}/zarr.json"

    def key(self, number: int) -> str:
        return chunk_key(self.name, self.grid, number)

    def document(self) -> bytes:
        """Its ``zarr.json``."""
        document = array_document(
            self.shape,
            str(self.dtype),
            self.chunk,
            codecs_document(self.compressor, wide=True),
            {"int4": {"belongs_to": self.variable.name}},
            None if self.dimension is None else (self.dimension,),
        )
        return serialized(document)

    def check_document(self, data: bytes) -> None:
        """Refuse, with a ValueError, what does not say the same as `document`."""
        if not same(loaded(data), json.loads(self.document())):
            raise ValueError(f"it is not what belongs to {self.variable.name}")

    def create(self) -> None:
        self.variable.files.set_new(self.metadata_key, self.document())

    def set(self, number: int, values: np.ndarray) -> np.ndarray:
        """Write a chunk, of which only the first values may be there; what was written, in a buffer used again."""
        whole = values.astype(self.dtype.newbyteorder("<"), order="C", copy=False)
        if values.shape != self.chunk:
            whole = np.zeros(self.chunk, self.dtype.newbyteorder("<"))
            whole[tuple(slice(0, n) for n in values.shape)] = values
        data = self.codec.encode(whole.reshape(-1).view(np.uint8))
        self.variable.files.set(self.key(number), data)
        return data

    def get(self, number: int) -> np.ndarray | None:
        """A whole chunk, None where there is none; a ValueError says what is wrong with one that is damaged."""
        data = self.variable.files.view(self.key(number), most=self.codec.most)
        if data is None:
            return None
        values = self.codec.decode(data).view(self.dtype.newbyteorder("<")).reshape(self.chunk)
        return values.astype(self.dtype, copy=False)

    def present(self) -> np.ndarray:
        return present(self.variable.files, self.name, self.grid)


@dataclass(frozen=True)
class Parameters:
    """The scale and zero point of each index of an axis: two arrays, chunked as the units are along that axis."""

    variable: Variable
    layout: Layout
    axis: int
    dimension: str | None = None

    @functools.cached_property
    def arrays(self) -> tuple[Sibling, Sibling]:
        n, length = self.layout.shape[self.axis], self.layout.unit[self.axis]
        shape, chunk = (n,), (min(length, n),)
        kinds = (np.dtype(np.float64), np.dtype(np.int64))
        scale, zero_point = (
            Sibling(self.variable, name, shape, chunk, kind, self.layout.compressor, self.dimension)
            for name, kind in zip(self.variable.siblings[2:], kinds, strict=True)
        )
        return scale, zero_point

    @property
    def blocks(self) -> int:
        return self.arrays[0].grid.count

    def create(self) -> None:
        for array in self.arrays:
            array.create()

    def set(self, block: int, scales: np.ndarray, zero_points: np.ndarray) -> None:
        for array, values in zip(self.arrays, (scales, zero_points), strict=True):
            array.set(block, values)

    def get(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of the indices of one block.

        Raises
        ------
        DamagedChunkError
            If one of the two chunks is missing or holds other bytes than were written.
        """
        (region,) = self.arrays[0].grid.region(block)
        found = []
        for array in self.arrays:
            try:
                values = array.get(block)
                if values is None:
                    raise ValueError("it is missing")
                found.append(values[: region.stop - region.start])
                if not (np.isfinite(found[0]) & (found[0] > 0)).all():
                    raise ValueError("a scale in it is not finite and above 0")
            except ValueError as error:
                raise DamagedChunkError.at(self.variable.files.label, array.key(block), error) from error
        return found[0], found[1]


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
    def bins(self) -> Bins | None:
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
    def rows(self) -> Sibling:
        length = self.batches.size * self.lanes * self.numbers
        return Sibling(
            self.variable,
            self.variable.siblings[0],
            (self.batches.count * length,),
            (length,),
            np.dtype(np.int64),
            Compressor(None if self.rule.axis is None else "zstd"),
        )

    @functools.cached_property
    def histograms(self) -> Sibling:
        assert self.bins is not None
        length = self.lanes * self.bins.number
        shape, dtype = (self.batches.count * length,), np.dtype(self.bins.dtype)
        return Sibling(self.variable, self.variable.siblings[1], shape, (length,), dtype, Compressor())

    def create(self) -> None:
        if self.bins is not None:
            self.histograms.create()
        self.rows.create()

    def exist(self) -> bool:
        return self.variable.owns(self.variable.siblings[0])

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
