"""What a run will need, said before it starts: chunks, tasks, workers, memory, disk. Reads metadata only."""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from dask.utils import format_bytes, parse_bytes

from ..calibration.calibrate import GROUP
from ..calibration.histogram import COARSE, FINE
from ..io.registry import as_source
from ..io.source import PIECE, ArraySource, DaskSource, FileSource, Source
from ..numerics.blocks import checked_axis, processors
from ..numerics.grid import packed_shape
from ..numerics.scales import ROW, Rule, as_missing
from ..storage import Variable
from ..store.keys import Files
from ..store.metadata import Layout
from ..store.side_arrays import one_read, scan_batches
from .chunking import MIB, chosen_layout

OVERHEAD = 128 * MIB  # of a process: compiled kernels take 50 to 60, the rest is the allocator's and Zarr's
SEARCH = 48 * MIB  # beside that: compiling what counts into histograms and searches them
METADATA = 1 << 14  # bytes of all zarr.json
SCAN = 68 + 64  # bytes of the statistics of a unit, while pass 1 is kept, the last batch filled up
HISTOGRAMS = 5  # held at once: counted, encoded, and with the copies that takes
ROWS = 10  # of each index, held at once beside those of a batch: folded, compared, as scales and as the kernels' tables
COPIES = 4  # of a packed chunk while it is written: itself, compressed, with its checksum, as the store's buffer


@dataclass(frozen=True)
class Settings:
    """The arguments of one job, as the user gave them, but for `source` and `store`."""

    name: str = "data"
    scale_method: str = "minmax"
    axis: int | None = None
    percentile: float | None = None
    value_range: tuple[float, float] | None = None
    missing: Any = "declared"
    nan_policy: str = "raise"
    chunks: Any = None
    shards: Any = None
    compressors: Any = "auto"
    memory: int | str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a run will do and need. `str` prints it, `to_json` gives its figures.

    Attributes
    ----------
    source, destination : str
        What is read, and where the variable will lie.
    layout : Layout
        Shape, dtype, chunks and shards in values, and the compressor.
    rule : Rule
        How the scale is chosen.
    missing : float, int or None
        The value that counts as missing, beside NaN.
    passes : int
        How often the source is read: 2, or 1 with a `value_range`, or where each chunk holds all values of its indices
        of the axis.
    scheduler : {"threads", "distributed", ...}
        Where tasks run.
    workers : int
        How many tasks run at a time.
    memory : int
        Bytes that the run will hold at most, above the imports; an estimate for a dask source.
    kept : int
        Bytes of pass 1 that are kept for pass 2, counted in `memory`.
    disk : int
        Bytes that the result takes at most.
    free : int or None
        Bytes free at the destination, where that is known.
    notes : tuple of str
        What else there is to know.
    """

    source: str
    destination: str
    layout: Layout
    rule: Rule
    missing: float | int | None
    scheduler: str
    workers: int
    memory: int
    kept: int
    disk: int
    free: int | None
    notes: tuple[str, ...]

    @property
    def passes(self) -> int:
        return 1 if self.rule.value_range is not None or one_read(self.layout, self.rule) else 2

    @property
    def units(self) -> int:
        return self.layout.units.count

    @property
    def batch(self) -> int:
        """Units that one task takes."""
        return scan_batches(self.layout, self.rule).size

    @property
    def tasks(self) -> int:
        """Of one pass."""
        return scan_batches(self.layout, self.rule).count

    @property
    def reads(self) -> str:
        """How often the source is read, and what for."""
        if self.passes == 2:
            return "2 passes: the range of the data, then the codes"
        if self.rule.value_range is not None:
            return "1 pass: the range is given, so only the codes"
        return "1 pass: each chunk holds all values of its indices, so that scales and codes come from one read"

    def to_json(self) -> dict[str, Any]:
        layout = self.layout
        return {
            "source": self.source,
            "destination": self.destination,
            "shape": list(layout.shape),
            "dtype": str(layout.dtype),
            "chunks": list(layout.chunks),
            "shards": list(layout.shards) if layout.shards else None,
            "compressor": layout.compressor.name,
            "scale_method": self.rule.scale_method,
            "axis": self.rule.axis,
            "percentile": self.rule.percentile,
            "value_range": list(self.rule.value_range) if self.rule.value_range else None,
            "nan_policy": self.rule.nan_policy,
            "missing": self.missing if self.missing is None or math.isfinite(self.missing) else str(self.missing),
            "passes": self.passes,
            "units": self.units,
            "tasks": self.tasks,
            "scheduler": self.scheduler,
            "workers": self.workers,
            "nbytes": layout.nbytes,
            "memory": self.memory,
            "kept": self.kept,
            "disk": self.disk,
            "free": self.free,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        layout = self.layout
        written = "shards" if layout.shards else "chunks"
        inner = f", in chunks of {layout.chunks}" if layout.shards else ""
        free = "" if self.free is None else f", {format_bytes(self.free)} free"
        kept = f", {format_bytes(self.kept)} of it to keep what pass 1 read" if self.kept else ""
        lines = {
            "source": f"{self.source}  {layout.shape} {layout.dtype}, {format_bytes(layout.nbytes)}",
            "destination": f"{self.destination}  {self.units:,} {written} of {layout.unit} values{inner}",
            "scale": f"{described(self.rule)}, {self.reads}",
            "work": f"{self.tasks:,} tasks a pass, {self.workers} at a time on {self.scheduler}",
            "memory": f"{format_bytes(self.memory)} at most{kept}",
            "disk": f"{format_bytes(self.disk)} at most{free}",
        }
        width = max(map(len, lines))
        return "\n".join(
            [*(f"{key:<{width}}  {value}" for key, value in lines.items()), *(f"note: {n}" for n in self.notes)]
        )


def plan(
    source: Any,
    store: Any,
    *,
    name: str = "data",
    scale_method: str = "minmax",
    axis: int | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    missing: Any = "declared",
    nan_policy: str = "raise",
    chunks: Any = None,
    shards: Any = None,
    compressors: Any = "auto",
    memory: int | str | None = None,
    workers: int | None = None,
) -> Plan:
    """What `quantize_to_zarr` would do and need with the same arguments. Reads metadata only, writes nothing.

    Parameters, and what is raised for them, are those of `quantize_to_zarr`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If an argument is not one of those allowed, or a memory budget is too small for one task.
    TypeError
        If the source cannot be read or its dtype cannot be quantized.
    FileNotFoundError
        If the source does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> plan(np.zeros((4096, 1024), np.float32), MemoryStore(), workers=2).layout.chunks
    (4096, 1024)
    """
    settings = Settings(
        name,
        scale_method,
        axis,
        percentile,
        value_range,
        missing,
        nan_policy,
        chunks,
        shards,
        compressors,
        memory,
        workers,
    )
    return planned(as_source(source), Files.of(store), settings)


def planned(source: Source, files: Files, settings: Settings) -> Plan:
    axis = checked_axis(settings.axis, len(source.shape))
    rule = Rule(settings.scale_method, settings.value_range, settings.nan_policy, settings.percentile, axis)
    variable = Variable(files, settings.name)
    layout = chosen_layout(source, settings.chunks, settings.shards, settings.compressors, axis)
    scheduler, workers, processes, notes = chosen_workers(source, files, settings.workers)
    task = task_memory(source, layout) + statistics_memory(layout, rule)
    overhead = (OVERHEAD + (SEARCH if rule.histogrammed else 0)) * processes
    budget = parsed_bytes(settings.memory)
    if budget is not None:
        affordable = (budget - overhead) // task
        if affordable < 1:
            least = overhead
            raise ValueError(
                f"memory={settings.memory!r} ({format_bytes(budget)}) is too small for one task: "
                f"{format_bytes(least)} of overhead and {format_bytes(task)} for a chunk of {layout.unit} values, "
                f"{format_bytes(least + task)} in all. Pass at least that, or smaller chunks="
            )
        if affordable < workers:
            notes.append(
                f"{affordable} tasks at a time instead of {workers}, to stay within memory={settings.memory!r}"
            )
            workers = affordable
    said = overhead + workers * task
    kept = 0
    once = rule.value_range is not None or one_read(layout, rule)
    if budget is not None and not once and scheduler == "threads" and rereads(source):
        kept = min(budget - said, layout.nbytes)
    if isinstance(source, DaskSource):
        notes.append("memory is an estimate for a dask source: what its graph holds is its own")
    return Plan(
        source=source.label,
        destination=variable.where,
        layout=layout,
        rule=rule,
        missing=chosen_missing(source, settings.missing),
        scheduler=scheduler,
        workers=workers,
        memory=said + kept,
        kept=kept,
        disk=layout.nbytes_most + METADATA + statistics_disk(layout, rule),
        free=free_bytes(files),
        notes=tuple(notes),
    )


def rereads(source: Source) -> bool:
    """Whether reading the source again costs more than memory does: arrays are there, files stay in the page cache."""
    return not isinstance(source, ArraySource | FileSource)


def task_memory(source: Source, layout: Layout) -> int:
    """Bytes that one task holds at most: what reading takes, a block and its codes, the packed chunk."""
    return source.reading(layout.unit) + 2 * PIECE + COPIES * math.prod(packed_shape(layout.unit))


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


def free_bytes(files: Files) -> int | None:
    return None if files.nearest is None else shutil.disk_usage(files.nearest).free


def described(rule: Rule) -> str:
    """The rule in words."""
    share = "" if rule.percentile is None else f" {rule.percentile:g}"
    return f"{rule.scale_method}{share}" + ("" if rule.axis is None else f", one for each index of axis {rule.axis}")


# Workers --------------------------------------------------------------------------------------------------------------


def current_client() -> Any:
    """The user's `distributed.Client`, if there is one; the package is not imported to find out."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def chosen_workers(source: Source, files: Files, workers: int | None) -> tuple[str, int, int, list[str]]:
    """Scheduler, tasks at a time, processes, and what to say of them."""
    import dask.base

    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1")
    notes: list[str] = []
    client = current_client()
    if client is not None:
        if source.shared and files.shared:
            threads = [worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
            return "distributed", min(sum(threads), workers or sum(threads)), len(threads), notes
        which = "destination" if source.shared else "source"
        notes.append(f"the {which} lives in this process, so its own threads do the work and not the cluster")
    get = dask.base.get_scheduler()
    if get is not None and get.__module__ == "dask.local":
        return "synchronous", 1, 1, notes
    return "threads", workers or processors(), 1, notes


# Arguments ------------------------------------------------------------------------------------------------------------


def chosen_missing(source: Source, missing: Any) -> float | int | None:
    """The missing value that a job goes by.

    Raises
    ------
    ValueError
        If it is not "declared", None or a number that the source's dtype holds.
    """
    if isinstance(missing, str) and missing == "declared":
        return source.missing
    if missing is None:
        return None
    try:
        number = missing if isinstance(missing, int) else float(missing)
        if math.isnan(number):
            return None
        found = as_missing(number, source.dtype)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        raise ValueError(f"missing is {missing!r}, but must be 'declared', None, or a number that {source.dtype} holds")
    return found


def parsed_bytes(value: int | str | None) -> int | None:
    """Bytes of a number, or of a text such as "4GiB" or "256M" (10^6, as Dask reads it)."""
    if value is None:
        return None
    try:
        return int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"memory is {value!r}, but must be bytes, or a text such as '4GiB' or '256MiB'") from None
