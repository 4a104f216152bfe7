"""One unit, a whole output chunk or shard: its values read, scanned and packed. Knows no store."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import kernels
from ..calibration.blocks import scale_and_pack
from ..calibration.calibrate import scales_by_rows
from ..calibration.histogram import GrowingHistogram
from ..calibration.scan import first_refused, scan
from ..exceptions import RefusedValuesError
from ..io.source import PIECE_BYTES, Source
from ..numerics.blocks import blocks
from ..numerics.clearance import clear
from ..numerics.granularity import PER_TENSOR
from ..numerics.grid import Region, index_at, packed_region, packed_shape, shape_of, shifted, within
from ..numerics.scales import Codes, Rule, Scales
from ..numerics.statistics import ROW, fold_into, folded, from_row, no_rows
from ..numerics.tables import coefficients
from ..store.buffers import PACKED
from ..store.layout import Layout
from ..store.retrying import retried
from .pool import Stop

ROWS_AT_ONCE = 1 << 14  # groups: a task holds the statistics of so many at once, where it chooses their scales
CACHED = PIECE_BYTES  # bytes: values that are scanned and packed while they are in a processor's cache


class StoppedError(Exception):
    """Raised in the tasks of a run that was told to stop."""


class UnitCache:
    """What lives in the driver's process only: units that pass 1 read and pass 2 will want, and the sign to stop."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.units: dict[int, np.ndarray] = {}
        self.stop = Stop()
        self.lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self.units

    def __reduce__(self) -> Any:
        return UnitCache, ()

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
class Units:
    """The units of one source, as they are read, scanned and packed by a rule; they travel to where tasks run."""

    source: Source
    layout: Layout
    rule: Rule
    missing: float | int | None
    cache: UnitCache = field(default_factory=UnitCache)

    @functools.cached_property
    def codes(self) -> Codes:
        return self.rule.codes(self.missing)

    def scan(self, number: int, block: np.ndarray | None, histogram: GrowingHistogram | None = None) -> np.ndarray:
        """Rows of statistics of one unit, shape ``(groups, 8)``; its values are counted into a histogram too."""
        region = self.layout.units.region(number)
        cached = self.cache.reserve(shape_of(region), self.source.dtype)
        rows = self.no_rows(region)
        for piece, values in self.values(number, block):
            if cached is not None:
                cached[within(piece, region)] = values
            for part, small in self.cached_blocks(piece, values):
                self.scan_part(part, small, region, rows, histogram)
            del values, small  # before the next piece is read: it may be of another chunk
        if cached is not None:
            self.cache.put(number, cached)
        return rows

    def pack(self, number: int, scales: Scales, block: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Packed bytes of a whole unit, those outside the array 0, and the rows of statistics of its values.

        The bytes lie in a buffer that this thread uses again for the next unit. Where the rule does not look at values
        beforehand, only one that has no code is looked for.
        """
        region = self.layout.units.region(number)
        packed, rows = self.room(region), self.no_rows(region)
        table = coefficients(scales, self.source.dtype, self.codes)
        for piece, values in self.values(number, block):
            for part, small in self.cached_blocks(piece, values):
                if self.rule.looks:
                    self.scan_part(part, small, region, rows)
                self.pack_part(small, table, within(part, region), shape_of(region), packed)
            del values, small  # before the next piece is read: it may be of another chunk
        return packed, rows

    def scale_and_pack(
        self, number: int, block: np.ndarray | None = None, keep_zero: bool = False
    ) -> tuple[np.ndarray, np.ndarray, Scales]:
        """As `pack`, of a unit that holds all values of its groups; their scales too, chosen here.

        Some groups at a time, of which the rows are folded.
        """
        region = self.layout.units.region(number)
        values, packed = self.whole(number, block), self.room(region)
        if self.rule.granularity.fraction > 1:
            rows, scales = self.scale_and_pack_blocks(values, region, packed, keep_zero)
            return packed, rows, scales
        parts = self.rule.granularity.regions(values.shape, ROWS_AT_ONCE)
        rows, found = no_rows(parts.count), []
        for place in range(parts.count):
            part = parts.region(place)
            own, scales = self.scale_and_pack_part(values[part], shifted(part, region), packed[packed_region(part)])
            rows[place] = folded(own)
            found.append((scales.scale.reshape(-1), scales.zero_point.reshape(-1)))
        scale, zero_point = map(np.concatenate, zip(*found, strict=True))
        return packed, rows, Scales.of(scale, zero_point, self.rule.granularity, values.shape)

    def scale_and_pack_blocks(
        self, values: np.ndarray, region: Region, packed: np.ndarray, keep_zero: bool
    ) -> tuple[np.ndarray, Scales]:
        """Scales of the blocks of a unit, whose codes are packed; before them statistics, of refused values alone."""
        rule, scales = self.rule, Scales.room(self.rule.granularity, values.shape)
        for part in blocks(values.shape, CACHED // values.itemsize, rule.granularity.whole_cuts(values.shape)):
            self.heed_stop()
            own = np.ascontiguousarray(values[part], values.dtype.newbyteorder("="))
            try:
                taken = scale_and_pack(own, part, rule, packed, scales, self.missing, keep_zero)
            except RefusedValuesError as error:
                raise RefusedValuesError(f"{self.source.label}: {error}") from None
            if not taken:
                rows = no_rows(1)
                whole = replace(self, rule=replace(rule, granularity=PER_TENSOR))
                for piece, small in self.cached_blocks(region, values):
                    whole.scan_part(piece, small, region, rows)
                return rows, scales
        return no_rows(1), scales

    def cleared(self, scales: Scales, rows: np.ndarray) -> Scales:
        """The scales of values with these statistics, moved where a value would come back as the missing one.

        Raises
        ------
        RefusedValuesError
            If none are such that it does not.
        """
        flat = scales.scale.reshape(-1), scales.zero_point.reshape(-1)
        try:
            found = clear(self.rule, rows, *flat, self.missing, self.source.dtype)
        except RefusedValuesError as error:
            raise RefusedValuesError(f"{self.source.label}: {error}") from None
        return scales if found[0] is flat[0] else Scales.of(*found, scales.granularity, scales.shape)

    def whole(self, number: int, block: np.ndarray | None) -> np.ndarray:
        """All values of a unit in one array."""
        region = self.layout.units.region(number)
        if block is not None:
            values = self.source.accepted(block, region)
            return np.ascontiguousarray(values, self.source.dtype)
        whole = np.empty(shape_of(region), self.source.dtype)
        for piece, values in self.values(number, None):
            whole[within(piece, region)] = values
        return whole

    def values(self, number: int, block: np.ndarray | None) -> Iterator[tuple[Region, np.ndarray]]:
        """The values of a unit: the block of a dask graph, what pass 1 kept, or piece by piece what is read now.

        All of them have passed the gate of the source.
        """
        region = self.layout.units.region(number)
        there = self.cache.take(number) if block is None else self.source.accepted(block, region)
        if there is not None:
            yield region, there
            return
        read = retried(self.source.read)
        for piece in self.source.pieces(region):
            self.heed_stop()
            yield piece, read(piece)

    def cached_blocks(self, piece: Region, values: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
        """The parts of a piece, until the run is told to stop."""
        for part in cached_blocks(piece, values):
            self.heed_stop()
            yield part

    def heed_stop(self) -> None:
        """Before each read, each part of a unit and each write: the run may be over, and its source closed."""
        if self.cache.stop.is_set():
            raise StoppedError

    # Parts of a unit

    def no_rows(self, region: Region) -> np.ndarray:
        return no_rows(self.rule.granularity.count(shape_of(region)))

    def room(self, region: Region) -> np.ndarray:
        """Bytes for the codes of a unit that holds a region, 0 outside it."""
        shape = packed_shape(self.layout.unit)
        packed = PACKED.of(math.prod(shape)).reshape(shape)
        if shape_of(region) != self.layout.unit:
            packed[...] = 0
        return packed

    def scale_and_pack_part(self, values: np.ndarray, region: Region, packed: np.ndarray) -> tuple[np.ndarray, Scales]:
        """Rows of statistics and scales of a region of whole groups, whose values are packed by them."""
        rows = self.no_rows(region)
        for part, small in self.cached_blocks(region, values):
            if self.rule.looks:
                self.scan_part(part, small, region, rows)
        scales = self.cleared(scales_by_rows(values, self.rule, rows, self.missing, heed=self.heed_stop), rows)
        table = coefficients(scales, self.source.dtype, self.codes)
        for part, small in self.cached_blocks(region, values):
            self.pack_part(small, table, within(part, region), shape_of(region), packed)
        return rows, scales

    def pack_part(
        self, small: np.ndarray, table: np.ndarray, inside: Region, unit: tuple[int, ...], packed: np.ndarray
    ) -> None:
        """Pack the values of a region within a unit; `table` has the coefficients of the unit's groups."""
        granularity = self.rule.granularity
        block = granularity.in_lines(small)
        own = np.ascontiguousarray(table[:, granularity.span(inside, unit)])
        target = packed[packed_region(inside)]
        shape = (len(block), target.size // len(block))
        codes = target.reshape(shape) if target.flags.c_contiguous else np.empty(shape, np.uint8)
        kernels.pack(block, codes, own, granularity.lines(small.shape), self.codes.sentinel(block.dtype))
        if not target.flags.c_contiguous:
            target[...] = codes.reshape(target.shape)

    def scan_part(
        self, part: Region, small: np.ndarray, unit: Region, rows: np.ndarray, histogram: GrowingHistogram | None = None
    ) -> None:
        """Add the statistics of a region within a unit to those of the unit's groups."""
        granularity = self.rule.granularity
        groups = granularity.span(within(part, unit), shape_of(unit))
        block, lines, own = granularity.in_lines(small), granularity.lines(small.shape), rows[groups]
        if histogram is None:
            others = scan(block, own, lines, self.missing)
        else:
            found = no_rows(lines.groups)
            others = scan(block, found, lines, self.missing)
            fold_into(own, found)
            histogram.add(small, groups, block, lines, found)
        if others and self.rule.refused(from_row(folded(own))):
            self.note_refused(small, part, own)

    def note_refused(self, values: np.ndarray, region: Region, rows: np.ndarray) -> None:
        """Note in the rows of a region's groups where its first value lies that the rule takes no code for."""
        position = first_refused(values, self.rule, self.missing)
        if position >= 0:
            inside = index_at(position, values.shape)
            index = tuple(i + along.start for i, along in zip(inside, region, strict=True))
            found = no_rows(len(rows))
            here = self.rule.granularity.span(tuple(slice(i, i + 1) for i in inside), values.shape)
            found[here, ROW - 1] = np.ravel_multi_index(index, self.source.shape)
            fold_into(rows, found)


def cached_blocks(piece: Region, values: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
    """The values of a piece in parts that a processor's cache holds, C-contiguous, each with its region."""
    if values.nbytes <= CACHED:
        yield piece, np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        return
    for part in blocks(values.shape, CACHED // values.itemsize):
        yield shifted(part, piece), np.ascontiguousarray(values[part], values.dtype.newbyteorder("="))
