"""Bytes of memory and disk that a job takes at most."""

from __future__ import annotations

import math
import shutil

from ..calibration.calibrate import GROUP
from ..calibration.histogram import COARSE, FINE
from ..io.source import PIECE_BYTES, Source
from ..numerics.grid import packed_shape
from ..numerics.scales import Rule
from ..numerics.statistics import ROW
from ..store.keys import Keys
from ..store.layout import Layout
from .chunking import MIB
from .scans import one_read, scan_batches

OVERHEAD = 128 * MIB  # of a process: compiled kernels take 50 to 60, the rest is the allocator's and Zarr's


SEARCH = 48 * MIB  # beside that: compiling what counts into histograms and searches them


METADATA = 1 << 14  # bytes of all zarr.json


SCAN = 68 + 64  # bytes of the statistics of a unit, while pass 1 is kept, the last batch filled up


HISTOGRAMS = 5  # held at once: counted, encoded, and with the copies that takes


ROWS = 10  # of each index, held at once beside those of a batch: folded, compared, as scales and as the kernels' tables


COPIES = 4  # of a packed chunk while it is written: itself, compressed, with its checksum, as the store's buffer


def task_memory(source: Source, layout: Layout) -> int:
    """Bytes that one task holds at most: what reading takes, a block and its codes, the packed chunk."""
    return source.memory(layout.unit) + 2 * PIECE_BYTES + COPIES * math.prod(packed_shape(layout.unit))


def statistics_memory(layout: Layout, rule: Rule) -> int:
    """Bytes that one task holds of statistics: rows, and where there is one read or histograms, what those take."""
    if rule.axis is None:
        return HISTOGRAMS * FINE.nbytes if rule.histogrammed else 0
    lanes = layout.unit[rule.axis]
    rows = lanes * 8 * (ROW + 2) * (scan_batches(layout, rule).size + ROWS)
    if one_read(layout, rule):
        looked_at = min(lanes, GROUP) * COARSE.nbytes if rule.histogrammed else 0
        return rows + math.prod(layout.unit) * layout.dtype.itemsize + looked_at
    return rows + (HISTOGRAMS * lanes * COARSE.nbytes if rule.histogrammed else 0)


def statistics_disk(layout: Layout, rule: Rule) -> int:
    """Bytes that the scales take at most, and those of pass 1 while they are kept, the last batch filled up."""
    batches = scan_batches(layout, rule)
    filled = batches.count * batches.size
    if rule.axis is None:
        return SCAN * layout.units.count + (batches.count * FINE.nbytes if rule.histogrammed else 0)
    lanes = layout.unit[rule.axis]
    scales = 16 * batches.blocks * lanes
    if one_read(layout, rule):
        return scales + SCAN * batches.blocks
    kept = lanes * COARSE.nbytes * batches.count if rule.histogrammed else 0
    return scales + kept + filled * (lanes * 8 * (ROW + 2) + SCAN)


def free_bytes(keys: Keys) -> int | None:
    return None if keys.nearest is None else shutil.disk_usage(keys.nearest).free
