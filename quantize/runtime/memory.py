"""Bytes of memory and disk that a job takes at most."""

from __future__ import annotations

import math
import shutil

from ..calibration.blocks import LONGEST
from ..calibration.calibrate import GROUPS_AT_ONCE
from ..calibration.histogram import bins_for
from ..io.source import PIECE_BYTES, Source
from ..numerics.grid import Grid, packed_shape
from ..numerics.scales import Rule
from ..numerics.statistics import ROW
from ..store.keys import Keys
from ..store.layout import Layout
from .chunking import MIB
from .scans import scan_batches
from .units import ROWS_AT_ONCE

OVERHEAD = 128 * MIB  # bytes a process: compiled kernels take 50 to 60 MiB, the allocator and Zarr the rest
SEARCH = 48 * MIB  # bytes a process, beside those: compiling what counts into histograms and searches them
METADATA = 1 << 14  # bytes of all zarr.json
SCAN = 68 + 64  # bytes a unit: its row of statistics in the store, and its share of the last batch, which is padded
HISTOGRAMS = 5  # copies of a histogram that a task holds: counted, encoded, and those that the encoding makes
ROWS = 10  # copies of the row of each group that a task holds beside its batch's: folded, compared, scales, tables
SCALE = 4 * 16  # bytes a group whose rows are gone: its scale and zero point, found, joined, encoded and written
BLOCK = 5 * 16  # bytes a block: its scale and zero point, found, and as they are encoded and written
PARTS = 6  # copies of a piece of a unit that is searched: as floats, in lanes, and where those lie
STORED_BLOCK, STORED_CHUNK = 7, 2 * 144  # bytes that both arrays take: of a block, and of a chunk beside its blocks
COPIES = 4  # copies of a packed chunk while it is written: itself, compressed, with its checksum, as the store's buffer


def task_memory(source: Source, layout: Layout) -> int:
    """Bytes that one task holds at most: what reading takes, a block and its codes, the packed chunk."""
    return source.memory(layout.unit) + 2 * PIECE_BYTES + COPIES * math.prod(packed_shape(layout.unit))


def statistics_memory(layout: Layout, rule: Rule) -> int:
    """Bytes that one task holds of statistics: rows, and where there is one read or histograms, what those take."""
    granularity, groups = rule.granularity, rule.granularity.count(layout.unit)
    histogram = bins_for(granularity, 0).nbytes if rule.method.needs == "histogram" else 0
    if granularity.single:
        return HISTOGRAMS * histogram
    if granularity.blocks is not None:
        searched = min(groups, GROUPS_AT_ONCE) * histogram if math.prod(granularity.box(layout.unit)) > LONGEST else 0
        return math.prod(layout.unit) * layout.dtype.itemsize + PARTS * PIECE_BYTES + groups * BLOCK + searched
    row = 8 * (ROW + 2) * (scan_batches(layout, rule).size + ROWS)
    if granularity.complete(layout.units):
        rows = min(groups, ROWS_AT_ONCE) * row + max(groups - ROWS_AT_ONCE, 0) * SCALE
        return rows + math.prod(layout.unit) * layout.dtype.itemsize + min(groups, GROUPS_AT_ONCE) * histogram
    return groups * (row + HISTOGRAMS * histogram)


def statistics_disk(layout: Layout, rule: Rule) -> int:
    """Bytes that the scales take at most, and those of pass 1 while they are kept, the last batch filled up."""
    granularity, groups = rule.granularity, rule.granularity.count(layout.unit)
    histogram = bins_for(granularity, 0).nbytes if rule.method.needs == "histogram" else 0
    batches = scan_batches(layout, rule)
    if granularity.blocks is not None:
        chunks = Grid(layout.unit, layout.chunks).count
        return layout.units.count * (groups * STORED_BLOCK + chunks * STORED_CHUNK)
    if granularity.single:
        return SCAN * layout.units.count + batches.count * histogram
    scales = 16 * batches.blocks * groups
    if granularity.complete(layout.units):
        return scales + SCAN * batches.blocks
    filled = batches.count * batches.size
    return scales + groups * histogram * batches.count + filled * (groups * 8 * (ROW + 2) + SCAN)


def free_bytes(keys: Keys) -> int | None:
    return None if keys.nearest is None else shutil.disk_usage(keys.nearest).free
