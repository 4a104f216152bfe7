"""Out of core: pass 1 finds the scale, pass 2 writes the codes, a kill in either costs only what was in flight.

A task takes a batch of units (whole output chunks or shards). It reads their regions, works, writes, and returns a few
numbers: no chunk travels between tasks, so memory is workers times one task, and a retry is free.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np

from . import kernels
from .array import Int4Array
from .execution import StoppedError, Task, run_tasks
from .grid import Region, packed_region, packed_shape, shape_of, shifted, within
from .metadata import DamagedChunkError, Layout, Metadata, SourceChangedError, StoreError
from .planning import Plan, Settings, planned
from .quantize import block_of, blocks, first_refused
from .scaling import RefusedValuesError, Rule, Scale, Statistics
from .sources import DaskSource, Source, as_source
from .storage import STATISTICS, Files, Variable, batch_size

CACHED = 1 << 18  # values that are scanned and packed while they are in a processor's cache


@dataclass(frozen=True)
class Progress:
    """How far a phase is.

    Attributes
    ----------
    phase : {"scan", "write", "verify", "restore"}
    done, total : int
        Units (output chunks or shards), those of an earlier run included.
    skipped : int
        Units that an earlier run had done.
    nbytes : int
        Bytes of values that this run has gone through in this phase.
    """

    phase: str
    done: int
    total: int
    skipped: int
    nbytes: int


def quantize_to_zarr(
    source: Any,
    store: Any,
    *,
    name: str = "data",
    scale_method: str = "minmax",
    value_range: tuple[float, float] | None = None,
    missing: Any = "declared",
    nan_policy: str = "raise",
    chunks: Any = None,
    shards: Any = None,
    compressors: Any = "auto",
    memory: int | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: Callable[[Plan | Progress], None] | None = None,
) -> Int4Array:
    """Quantize an array of any size to packed int4 codes in a Zarr group. Run it again to go on where a run stopped.

    Parameters
    ----------
    source : path, URL or array
        A ``.npy`` file, a Zarr array (``store.zarr/group/name``), an HDF5 dataset (``file.h5::/name``); a NumPy, Zarr,
        HDF5 or dask array; or anything with `shape`, `dtype` and ``__getitem__``. The dtypes are those of
        `quantize_to_int4`.
    store : path, URL or Zarr store
        Where the group is, or will be made.
    name : str
        Of the variable in the group.
    scale_method, value_range, nan_policy
        As for `quantize_to_int4`. With a `value_range` the source is read once and not twice.
    missing : "declared", number or None
        The value that counts as missing, beside NaN: by default the one that the source's attributes declare
        (``_FillValue`` or ``missing_value``); None for none.
    chunks, shards : int or tuple of int, optional
        Lengths in values, -1 for a whole axis; by default the source's chunks, or ones near 16 MiB, and no shards.
    compressors : "auto", None, "zstd", "gzip", "blosc" or a Zarr codec
        "auto" is zstd at level 1. A crc32c is always added.
    memory : int or str, optional
        Bytes to stay within above the imports, such as ``"4GiB"``: fewer workers if need be. What it leaves over keeps
        chunks of pass 1 for pass 2.
    workers : int, optional
        Tasks at a time; by default one for each processor, or each thread of the `distributed.Client` there is.
    overwrite : bool
        Replace a variable of another job; nothing else in the group is touched.
    verify : bool
        Read each chunk back after it is written.
    progress : callable, optional
        Called in this thread with the `Plan` before work starts, then with `Progress` as it goes on.

    Returns
    -------
    Int4Array

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the options do not allow. What this run made is removed,
        but for a NaN found with a `value_range`, without a pass 1: then the store stays, unfinished and not readable.
    ValueError, TypeError, FileNotFoundError
        If an argument is not one of those above, or memory or disk will not do; nothing is written.
    StoreError
        If the destination holds something else, or another job's variable.
    SourceChangedError
        If the source changed between the passes.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.linspace(-1, 1, 31, dtype=np.float32), MemoryStore())
    >>> array
    <Int4Array memory://.../data shape=(31,) dtype=float32 chunks=(31,) scale=0.133333 zero_point=0>
    >>> bool(abs(array[:] - np.linspace(-1, 1, 31)).max() <= array.max_error * (1 + 1e-5))
    True
    """
    settings = Settings(
        name, scale_method, value_range, missing, nan_policy, chunks, shards, compressors, memory, workers
    )
    origin = as_source(source)
    files = Files.of(store)
    made = planned(origin, files, settings)
    job = Job(origin, Variable(files, name), made, verify, Shelf(made.kept))
    report = progress or (lambda event: None)
    report(made)
    metadata, group_made = job.claim(overwrite)
    if metadata.status == "sealed":
        return Int4Array(job.variable, metadata)
    if metadata.status == "scanning":
        statistics = job.statistics(report) if made.passes == 2 else Statistics()
        if made.rule.refused(statistics):
            job.variable.remove(group_made)
            index = tuple(int(i) for i in np.unravel_index(statistics.first, origin.shape))
            raise RefusedValuesError(f"{origin.label}: {made.rule.refusal(statistics, index, made.missing)}")
        found = None if made.passes == 1 else described(statistics)
        metadata = metadata.at("writing", scale=made.rule.choose(statistics), statistics=found)
        job.variable.set(metadata)
    assert metadata.scale is not None
    job.write(metadata.scale, report)
    return Int4Array(job.variable, job.variable.seal(metadata))


def described(statistics: Statistics) -> dict[str, Any]:
    """Statistics of pass 1 as the store keeps them."""
    bounds = (statistics.minimum, statistics.maximum) if statistics.count else (None, None)
    missing = statistics.nan + statistics.missing
    return {"count": statistics.count, "min": bounds[0], "max": bounds[1], "missing": missing}


# One job --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One source on its way into one variable. The driver calls its methods; tasks are made of it and travel."""

    source: Source
    variable: Variable
    plan: Plan
    verify: bool = False
    shelf: Shelf = field(default_factory=lambda: Shelf(0))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What makes it this job: the source's values as far as they show at a glance, and every setting that decides
        a byte of the result."""
        layout, rule = self.plan.layout, self.plan.rule
        return {
            "source": {"shape": list(layout.shape), "dtype": str(layout.dtype), "sample": self.source.sample()},
            "settings": {
                "scale_method": rule.scale_method,
                "value_range": list(rule.value_range) if rule.value_range else None,
                "nan_policy": rule.nan_policy,
                "missing": str(self.plan.missing),
                "chunks": list(layout.chunks),
                "shards": list(layout.shards) if layout.shards else None,
                "compressor": {"name": layout.compressor.name, **layout.compressor.options},
            },
        }

    def claim(self, overwrite: bool) -> tuple[Metadata, bool]:
        """The metadata to go on from, and whether the group was made for it: a new variable, this job's own, or with
        `overwrite` one in the place of another's."""
        variable = self.variable
        new = Metadata(
            layout=self.plan.layout,
            scale_method=self.plan.rule.scale_method,
            nan_code=self.plan.rule.nan_code,
            missing=self.plan.missing,
            fingerprint=self.fingerprint,
            attributes=self.source.attributes,
            dimension_names=self.source.dimension_names,
        )
        group_made = variable.files.get("zarr.json") is None
        old = variable.metadata()
        if old is None:
            self.check_disk(0)
            variable.create(new)
            old = variable.metadata()
            assert old is not None
        if old.fingerprint == new.fingerprint and not (overwrite and old.status == "sealed"):
            if old.status != "sealed":
                self.check_disk(variable.files.size(variable.name))
            return old, group_made
        if not overwrite:
            raise StoreError(
                f"{variable.where} is there already, {'whole' if old.status == 'sealed' else 'unfinished'}, of another job: "
                f"{difference(old.fingerprint, new.fingerprint)}. Pass overwrite=True to replace it, or another name"
            )
        self.check_disk(variable.files.size(variable.name))
        variable.overwrite(old, new)
        return new, False

    def check_disk(self, already: int) -> None:
        """Refuse a destination without room for the result."""
        made = self.plan
        if made.free is not None and made.disk > made.free + already:
            raise ValueError(
                f"not enough disk at {made.destination}: the result takes up to {made.disk:,} bytes, "
                f"{already:,} of them are there, and {made.free:,} are free. Make room, or name another destination"
            )

    # Pass 1

    def statistics(self, report: Callable[[Progress], None]) -> Statistics:
        """Statistics of the whole source: of the batches that the store has, and of the others as they are scanned."""
        units = self.plan.units
        self.variable.create_scan(units)
        total = Statistics()
        rest = []
        for batch, numbers in enumerate(batched(range(units))):
            rows = self.variable.scan(batch, units)
            if rows is None:
                rest.append((batch, numbers))
            else:
                total = sum(map(from_row, rows), total)
        count = Counter("scan", self.plan.layout, units - sum(len(numbers) for _, numbers in rest), report)
        for found in self.run(scan_batch, rest, count):
            total += found
        return total

    # Pass 2

    def write(self, scale: Scale, report: Callable[[Progress], None]) -> None:
        """Write every unit that is not there yet."""
        units = self.plan.units
        present = self.variable.present(self.plan.layout)
        rest = (
            (batch, todo)
            for batch, numbers in enumerate(batched(range(units)))
            if (todo := [number for number in numbers if not present[number]])
        )
        count = Counter("write", self.plan.layout, int(present.sum()), report)
        self.run(functools.partial(write_batch, scale=scale), rest, count)

    def run(self, work: Callable[..., Any], batches: Iterable[tuple[int, list[int]]], count: Counter) -> list[Any]:
        """Do some batches; the results that are not None."""
        results = []

        def done(task: Task, result: Any) -> None:
            count.add(task.numbers)
            if result is not None:
                results.append(result)

        tasks = (Task(numbers, (batch, numbers), self.blocks(numbers)) for batch, numbers in batches)
        run_tasks(functools.partial(work, self), tasks, done, self.plan.scheduler, self.plan.workers, self.shelf.stop)
        return results

    def blocks(self, numbers: list[int]) -> list[Any] | None:
        """The parts of a dask source's graph that give the regions of some units."""
        if not isinstance(self.source, DaskSource) or all(number in self.shelf for number in numbers):
            return None
        return [self.source.array[self.plan.layout.units.region(number)] for number in numbers]


def batched(units: range) -> Iterator[list[int]]:
    size = batch_size(len(units))
    for start in range(0, len(units), size):
        yield list(units[start : start + size])


def difference(old: Any, new: Any, path: str = "") -> str:
    """Where two fingerprints differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [difference(old.get(key), new.get(key), key) for key in {**old, **new}]
        return ", ".join(part for part in parts if part)
    if old == new:
        return ""
    return "the values of the source" if path == "sample" else f"{path} was {old} and is {new}"


class Counter:
    """Adds up what is done, and reports it."""

    def __init__(self, phase: str, layout: Layout, skipped: int, report: Callable[[Progress], None]) -> None:
        self.units, self.itemsize, self.report = layout.units, layout.dtype.itemsize, report
        self.state = Progress(phase, skipped, self.units.count, skipped, 0)
        report(self.state)

    def add(self, numbers: list[int]) -> None:
        values = sum(math.prod(shape_of(self.units.region(number))) for number in numbers)
        state = self.state
        self.state = replace(state, done=state.done + len(numbers), nbytes=state.nbytes + values * self.itemsize)
        self.report(self.state)


class Shelf:
    """What lives in this process only: units that pass 1 read and pass 2 will want, and the sign to stop."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.units: dict[int, np.ndarray] = {}
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self.units

    def __reduce__(self) -> Any:
        return Shelf, (0,)

    def reserve(self, number: int, shape: Any, dtype: Any) -> np.ndarray | None:
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


# Tasks ----------------------------------------------------------------------------------------------------------------


def scan_batch(job: Job, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None) -> Statistics:
    """Scan some units, leave their statistics in the store, and return those of all."""
    rows = []
    for at, number in enumerate(numbers):
        rows.append(scan_unit(job, number, blocks and blocks[at]))
    job.variable.set_scan(np.stack([to_row(statistics) for statistics in rows]), batch, job.plan.units)
    return sum(rows, Statistics())


def write_batch(job: Job, batch: int, numbers: list[int], blocks: list[np.ndarray] | None = None, *, scale: Scale) -> None:
    """Pack and write some units, each once it is seen to hold what it held in pass 1."""
    units = job.plan.units
    rows = job.variable.scan(batch, units) if job.plan.passes == 2 else None
    if rows is None and job.plan.passes == 2:
        raise StoreError(f"{job.variable.where} has lost statistics of pass 1; pass overwrite=True to begin again")
    for at, number in enumerate(numbers):
        packed, statistics = pack_unit(job, number, scale, blocks and blocks[at])
        key = job.variable.chunk_key(job.plan.layout, number)
        if rows is not None:
            check_unchanged(job, key, rows[number - batch * batch_size(units)], to_row(statistics))
        elif job.plan.rule.refused(statistics):
            index = tuple(int(i) for i in np.unravel_index(statistics.first, job.source.shape))
            what = job.plan.rule.refusal(statistics, index, job.plan.missing)
            raise RefusedValuesError(f"{job.source.label}, the part for {key}: {what}. The store stays unfinished")
        data = job.variable.write(job.plan.layout, number, packed)
        if job.verify and job.variable.files.get(key) != data:
            raise DamagedChunkError(f"{job.variable.files.label}/{key} reads back other bytes than were written; run again")


def check_unchanged(job: Job, key: str, before: np.ndarray, now: np.ndarray) -> None:
    if not np.array_equal(before, now):
        raise SourceChangedError(
            f"{job.source.label} changed since pass 1: the part for {key} held {from_row(before)} and holds {from_row(now)}. "
            "Nothing was written of it; pass overwrite=True to begin again with the source as it is"
        )


def unit_values(job: Job, number: int, block: np.ndarray | None) -> Iterator[tuple[Region, np.ndarray]]:
    """The values of a unit, piece by piece: what pass 1 kept, the block of a dask graph, or what is read now."""
    region = job.plan.layout.units.region(number)
    kept = job.shelf.take(number)
    for piece in job.source.pieces(region) if kept is None and block is None else [region]:
        if job.shelf.stop.is_set():
            raise StoppedError
        yield piece, job.source.read(piece) if kept is None and block is None else kept if block is None else block


def cached_blocks(piece: Region, values: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
    """The values of a piece in blocks as the kernels take them, each with its region."""
    for part in blocks(values.shape, CACHED):
        yield shifted(part, piece), block_of(values, part)


def scan_unit(job: Job, number: int, block: np.ndarray | None) -> Statistics:
    region = job.plan.layout.units.region(number)
    shelved = job.shelf.reserve(number, shape_of(region), job.source.dtype)
    total = Statistics()
    for piece, values in unit_values(job, number, block):
        if shelved is not None:
            shelved[within(piece, region)] = values
        for part, small in cached_blocks(piece, values):
            total += scan_block(job, part, small)
    if shelved is not None:
        job.shelf.put(number, shelved)
    return total


def pack_unit(job: Job, number: int, scale: Scale, block: np.ndarray | None) -> tuple[np.ndarray, Statistics]:
    """Packed bytes of a whole unit, those outside the array 0, and the statistics of its values."""
    layout = job.plan.layout
    region = layout.units.region(number)
    packed = np.zeros(packed_shape(layout.unit), np.uint8)
    total = Statistics()
    for piece, values in unit_values(job, number, block):
        for part, small in cached_blocks(piece, values):
            if job.plan.passes == 2 or scale.nan_code is None:
                total += scan_block(job, part, small)
            target = packed[packed_region(within(part, region))]
            codes = np.empty((len(small), target.size // len(small)), np.uint8)
            kernels.pack(small, codes, scale.scale, scale.zero_point, scale.nan_code, job.plan.missing)
            target[...] = codes.reshape(target.shape)
    return packed, total


def scan_block(job: Job, part: Region, small: np.ndarray) -> Statistics:
    """Statistics of one block, with the place in the whole array of its first refused value."""
    rule, missing = job.plan.rule, job.plan.missing
    found = Statistics(*kernels.scan(small, missing))
    if not rule.refused(found):
        return found
    inside = np.unravel_index(first_refused(small, rule, missing), shape_of(part))
    index = tuple(int(i) + axis.start for i, axis in zip(inside, part, strict=True))
    return replace(found, first=int(np.ravel_multi_index(index, job.source.shape)))


def to_row(statistics: Statistics) -> np.ndarray:
    """Statistics as the store keeps them while a job runs: the bits of two float64 and six integers, int64."""
    *bounds, count, nan, missing, positive, negative, first = astuple(statistics)
    row = np.array([0, 0, count, nan, missing, positive, negative, first], np.int64)
    row[:2] = np.array(bounds, np.float64).view(np.int64)
    return row


def from_row(row: np.ndarray) -> Statistics:
    assert len(row) == STATISTICS
    return Statistics(*np.ascontiguousarray(row[:2]).view(np.float64).tolist(), *row[2:].tolist())
