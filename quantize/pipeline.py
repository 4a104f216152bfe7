"""Out of core: pass 1 finds the scale, pass 2 writes the codes, a kill in either costs only what was in flight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .exceptions import DamagedChunkError, RefusedValuesError, SourceChangedError, StoreError, UnfinishedStoreError
from .io import as_source
from .numerics.grid import index_at
from .numerics.scales import Scale
from .numerics.statistics import Statistics, folded, from_row
from .reading.array import Int4Array
from .runtime.claim import CHANGED, difference
from .runtime.cluster import check_destination, check_workers
from .runtime.plan import Plan, planned
from .runtime.progress import Counter, Progress
from .runtime.schedulers import Task, run_tasks
from .runtime.settings import Settings
from .runtime.tasks import Work
from .runtime.units import Shelf
from .storage import Variable, find
from .store.keys import Keys
from .store.metadata import Metadata, ScaleNames
from .store.retrying import retried


def quantize_to_zarr(
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
    overwrite: bool = False,
    verify: bool = False,
    durable: bool = False,
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
    scale_method, percentile, value_range, nan_policy
        As for `quantize_to_int4`. With a `value_range` the source is read once and not twice.
    axis : int, optional
        The axis that keeps a scale for each of its indices. Where a chunk spans all the others, as the default chunks
        do if they can, the source is read once.
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
        Read back all that is written, and write it again where the store lost or tore it. Chunks of an earlier run are
        read too.
    durable : bool
        Have the disk hold every file and folder before the variable counts as whole, so that not even a loss of power
        then undoes a part of it. For stores in folders.
    progress : callable, optional
        Called in this thread with the `Plan` before work starts, then with `Progress` as it goes on.

    Returns
    -------
    Int4Array

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the options do not allow. What this run made is removed,
        but where there is no pass 1 (`value_range`, some `axis`): then the store stays, unfinished and not readable.
    ValueError, TypeError, FileNotFoundError
        If an argument is not one of those above, or memory or disk will not do; nothing is written.
    StoreError
        If the destination holds something else, or another job's variable.
    DamagedChunkError (a StoreError)
        With `verify`, if the variable was whole and is so no longer.
    SourceChangedError
        If the source changed between the passes.
    WorkersError
        If a worker of the cluster has another version of this library, or does not find source or destination.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.linspace(-1, 1, 31, dtype=np.float32), MemoryStore())
    >>> array
    <Int4Array memory://.../data shape=(31,) dtype=float32 chunks=(31,) scale=0.133333 zero_point=0>
    >>> bool(abs(array[:] - np.linspace(-1, 1, 31)).max() <= array.max_error * (1 + 1e-5))
    True
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
    job = Job.of(source, store, settings, verify, progress)
    metadata = job.claim(overwrite)
    try:
        if metadata.status == "scanning":
            job.scan(metadata)
            metadata = job.settle(metadata)
        if metadata.status != "sealed":
            job.write(metadata)
    except StoreError as error:
        metadata = job.written_by_another(error)
    if metadata.status == "sealed":
        job.check_sealed(metadata)
    else:
        metadata = job.work.variable.seal(metadata, durable)
    return Int4Array(job.work.variable, metadata)


def described(statistics: Statistics) -> dict[str, Any]:
    """Statistics of pass 1 as the store keeps them."""
    bounds = (statistics.minimum, statistics.maximum) if statistics.count else (None, None)
    missing = statistics.nan + statistics.missing
    return {"count": statistics.count, "min": bounds[0], "max": bounds[1], "missing": missing}


# One job --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run of `quantize_to_zarr`, as its driver sees it."""

    plan: Plan
    work: Work
    report: Callable[[Any], None]
    own: range

    @classmethod
    def of(
        cls,
        source: Any,
        store: Any,
        settings: Settings,
        verify: bool,
        progress: Callable[[Plan | Progress], None] | None,
        part: int = 1,
        parts: int = 1,
    ) -> Job:
        """That of one source and store; of so many parts the one of this number, counted from 1, a run of batches."""
        origin = as_source(source)
        keys = Keys.of(store)
        made = planned(origin, keys, settings)
        variable = Variable(replace(keys, verify=verify), settings.name)
        work = Work(origin, variable, made.layout, made.rule, made.missing, Shelf(made.kept if parts == 1 else 0))
        count = work.scans.batches.count
        own = range(count * (part - 1) // parts, count * part // parts)
        job = cls(made, work, progress or (lambda event: None), own)
        job.report(made)
        return job

    @functools.cached_property
    def sample(self) -> str | None:
        """Digest of the source's ends."""
        return retried(self.work.source.digest)()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What makes it this job: the source's shape, dtype and ends, and every setting that decides a byte."""
        layout, rule = self.plan.layout, self.plan.rule
        return {
            "source": {"shape": list(layout.shape), "dtype": str(layout.dtype), "sample": self.sample},
            "settings": {
                "scale_method": rule.scale_method,
                "value_range": list(rule.value_range) if rule.value_range else None,
                "nan_policy": rule.nan_policy,
                "missing": str(self.plan.missing),
                "chunks": list(layout.chunks),
                "shards": list(layout.shards) if layout.shards else None,
                "compressor": {"name": layout.compressor.name, **layout.compressor.options},
                **({} if rule.axis is None else {"axis": rule.axis}),
                **({} if rule.percentile is None else {"percentile": rule.percentile}),
            },
        }

    def claim(self, overwrite: bool) -> Metadata:
        """The metadata to go on from: a new variable's, this job's own, or with `overwrite` one in another's place.

        The workers of a cluster are asked whether they can do the job.
        """
        on_cluster = self.plan.scheduler == "distributed"
        if on_cluster:
            check_workers(self.work.source, self.sample)
        metadata = self.claimed(overwrite)
        if on_cluster:
            check_destination(self.work.variable, metadata)
        return metadata

    def claimed(self, overwrite: bool) -> Metadata:
        variable = self.work.variable
        new = Metadata(
            layout=self.plan.layout,
            scale_method=self.plan.rule.scale_method,
            axis=self.plan.rule.axis,
            nan_code=self.plan.rule.nan_code,
            missing=self.plan.missing,
            fingerprint=self.fingerprint,
            attributes=self.work.source.attributes,
            dimension_names=self.work.source.dimension_names,
        )
        variable.mend(new)
        variable.check_place(self.plan.rule.axis)
        try:
            old = variable.metadata()
        except StoreError:
            if not (overwrite and variable.is_ours()):
                raise
        else:
            if old is None:
                self.check_disk(self.plan.units)
                variable.create(new)
                old = variable.metadata()
                if old is None:
                    raise StoreError(f"{variable.where} is not there after it was written: the store loses writes")
            if old.fingerprint == new.fingerprint:
                if not overwrite or self.resumable(old):
                    if old.status != "sealed":
                        self.check_disk(int((~variable.present(old.layout)).sum()))
                    return old
            elif not overwrite:
                state = "whole" if old.status == "sealed" else "unfinished"
                raise StoreError(
                    f"{variable.where} is there already, {state}, of another job: "
                    f"{difference(old.fingerprint, new.fingerprint)}. Pass overwrite=True to replace it"
                )
        self.check_disk(self.plan.units, variable.keys.size(variable.name))
        variable.overwrite(new)
        return new

    def resumable(self, old: Metadata) -> bool:
        """Whether this job's variable is unfinished, and has what pass 2 needs of pass 1."""
        if old.status != "writing" or self.plan.passes == 1 or self.work.scans.exist():
            return old.status != "sealed"
        return bool(self.work.variable.present(self.plan.layout).all())

    def check_disk(self, units: int, freed: int = 0) -> None:
        """Refuse a destination without room for so many units, where so many bytes will be freed first."""
        made = self.plan
        need = -(-made.disk * units // made.units)
        if made.free is not None and need > made.free + freed:
            raise ValueError(
                f"not enough disk at {made.destination}: what is to be written takes up to {need:,} bytes, "
                f"and {made.free + freed:,} are free. Make room, or name another destination"
            )

    def scan(self, metadata: Metadata) -> None:
        """Pass 1, if there is one: every batch of this run's of which the store has no statistics yet."""
        if self.plan.passes == 1:
            return
        self.work.scans.create()
        todo = self.own_units.copy()
        for batch in np.flatnonzero(self.scanned()):
            todo[self.work.scans.batches.numbers(int(batch))] = False
        self.run("scan", functools.partial(self.work.scan_batch, metadata=metadata), todo)

    def scanned(self) -> np.ndarray:
        """Of which batches the store has the statistics, those of other runs too."""
        scans = self.work.scans
        if self.plan.rule.axis is not None:  # too many to read all of them here
            return scans.rows.present()
        return np.array([scans.get(batch) is not None for batch in range(scans.batches.count)])

    def is_scanned(self, metadata: Metadata) -> bool:
        """Whether pass 1 is done, by whatever runs of this job."""
        return self.plan.passes == 1 or self.work.variable.is_sealed(metadata) or bool(self.scanned().all())

    def settle(self, metadata: Metadata) -> Metadata:
        """The scale by what pass 1 found: the metadata for pass 2, written.

        Raises
        ------
        RefusedValuesError
            If the rule takes no code for some values; the variable is removed, if it is this run's alone.
        """
        rule, variable = self.plan.rule, self.work.variable
        if self.work.parameters is not None:
            self.work.parameters.create()
        scale: Scale | ScaleNames = ScaleNames.of(variable.name)
        statistics = None
        if self.plan.passes == 2:
            if variable.is_sealed(metadata):
                return self.finished()
            if rule.axis is None:
                rows, scales, zero_points = self.work.settled(0)
                scale = Scale(float(scales[0]), int(zero_points[0]), rule.nan_code)
            else:
                rows = self.settle_blocks()
            statistics = from_row(folded(rows))
            if rule.refused(statistics):
                self.refuse(statistics)
        elif rule.axis is None:
            scale = rule.choose(Statistics())
        new = metadata.at("writing", scale=scale, statistics=None if statistics is None else described(statistics))
        return new if variable.advance(metadata, new) else self.finished()

    def refuse(self, statistics: Statistics) -> None:
        alone = len(self.own) == self.work.scans.batches.count
        if alone:
            self.work.variable.remove()
        index = index_at(statistics.first, self.work.source.shape)
        refusal = self.plan.rule.refusal(statistics, index, self.plan.missing)
        left = "" if alone else f". What the parts have made stays, not readable: remove {self.work.variable.where}"
        raise RefusedValuesError(f"{self.work.source.label}: {refusal}{left}")

    def written_by_another(self, error: StoreError) -> Metadata:
        """The metadata of the variable, if another run of this job seals it or has: what is of pass 1 is then removed.

        Raises
        ------
        StoreError
            The one that is given, if not.
        """
        found = self.work.variable.metadata()
        if found is None or found.fingerprint != self.fingerprint or found.status == "scanning":
            raise error
        if not self.work.variable.present(self.plan.layout).all():
            raise error
        self.work.variable.delete_scans()
        return found

    def finished(self) -> Metadata:
        """The metadata of the variable, which another run of this job has sealed meanwhile; what this one left goes."""
        self.work.variable.delete_scans()
        metadata = self.work.variable.metadata()
        assert metadata is not None
        return metadata

    def settle_blocks(self) -> np.ndarray:
        """The scales of every block of the axis, written by tasks; the statistics of each, a row."""
        assert self.work.parameters is not None
        count = self.work.parameters.blocks
        tasks = (Task([block], (block,)) for block in range(count))
        state = Progress("scale", 0, count, 0, 0)
        self.report(state)
        rows = []

        def done(task: Task, row: np.ndarray) -> None:
            rows.append(row)
            self.report(replace(state, done=len(rows)))

        self.run_tasks(self.work.settle_block, tasks, done)
        return np.stack(rows)

    def write(self, metadata: Metadata) -> None:
        """Pass 2: every unit of this run's that is not there yet."""
        present = self.work.variable.present(self.plan.layout)
        if self.work.variable.keys.verify:
            self.check_present(metadata, present)
        try:
            self.run("write", functools.partial(self.work.write_batch, metadata=metadata), self.own_units & ~present)
        except SourceChangedError:
            changed = replace(metadata, fingerprint={**metadata.fingerprint, CHANGED: True})
            self.work.variable.advance(metadata, changed)
            raise

    def check_sealed(self, metadata: Metadata) -> None:
        """With `verify`, read all units of this run's of a variable that was whole before.

        They are not written anew: what pass 1 left, which would show that the source is the same, is gone.

        Raises
        ------
        DamagedChunkError
            If any is damaged or missing.
        """
        variable = self.work.variable
        if not variable.keys.verify:
            return
        present = variable.present(self.plan.layout)
        self.check_present(metadata, present)
        damaged = np.flatnonzero(self.own_units & ~present)
        if damaged.size:
            key = variable.chunk_key(self.plan.layout, int(damaged[0]))
            count = f"{damaged.size:,} of {len(present):,}"
            why = ValueError(f"{count} are missing or hold other bytes than were written, it the first")
            raise DamagedChunkError.at(variable.keys.label, key, why)

    def check_present(self, metadata: Metadata, present: np.ndarray) -> None:
        """Read what an earlier run wrote, and note as absent what is not whole."""
        todo = self.own_units & present
        if not todo.any():
            return
        count = Counter("verify", self.plan.layout, 0, self.report, int(todo.sum()))

        def done(task: Task, damaged: list[int]) -> None:
            present[damaged] = False
            count.add(task.numbers)

        tasks = (Task(numbers, (batch, numbers)) for batch, numbers in self.batches(todo))
        self.run_tasks(functools.partial(self.work.damaged_units, metadata=metadata), tasks, done)

    @functools.cached_property
    def own_units(self) -> np.ndarray:
        """Which units are this run's, shape ``(units,)``."""
        batches = self.work.scans.batches
        found = np.full(self.plan.units, len(self.own) == batches.count)
        if not found.all():
            for batch in self.own:
                found[batches.numbers(batch)] = True
        return found

    def batches(self, todo: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Those in which there are units to do, and which."""
        for batch in self.own:
            numbers = [number for number in self.work.scans.batches.numbers(batch) if todo[number]]
            if numbers:
                yield batch, numbers

    def run(self, phase: str, work: Callable[..., Any], todo: np.ndarray) -> None:
        """Do some units, batch by batch."""
        total = int(self.own_units.sum())
        count = Counter(phase, self.plan.layout, total - int(todo.sum()), self.report, total)
        tasks = (Task(numbers, (batch, numbers), self.blocks(numbers)) for batch, numbers in self.batches(todo))
        self.run_tasks(work, tasks, lambda task, _: count.add(task.numbers))

    def run_tasks(self, work: Callable[..., Any], tasks: Iterable[Task], done: Callable[[Task, Any], None]) -> None:
        run_tasks(work, tasks, done, self.plan.scheduler, self.plan.workers, self.work.shelf.stop)

    def blocks(self, numbers: list[int]) -> list[Any] | None:
        """The parts of the source's graph that give the regions of some units, if it has one."""
        if all(number in self.work.shelf for number in numbers):
            return None
        parts = [self.work.source.graph(self.plan.layout.units.region(number)) for number in numbers]
        return None if any(part is None for part in parts) else parts


def quantize_part(
    source: Any,
    store: Any,
    part: int,
    parts: int,
    *,
    verify: bool = False,
    progress: Callable[[Plan | Progress], None] | None = None,
    **settings: Any,
) -> bool:
    """Do one of several parts of what `quantize_to_zarr` does; `seal` makes the variable readable once all are done.

    The parts may run at the same time or one after the other, on any machines that share source and store, and each may
    die and be run again. A part's pass 2 needs the pass 1 of all: call it a second time once all have returned.

    Parameters
    ----------
    source, store, verify, progress
        As for `quantize_to_zarr`.
    part, parts : int
        Which of how many, counted from 1. What is in the store does not depend on them: the number of parts may be
        another one at the next call.
    **settings
        As for `quantize_to_zarr`, and the same for every part.

    Returns
    -------
    bool
        Whether the part is written; False if pass 1 of other parts is not done.

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the settings do not allow. The store stays, unfinished
        and not readable.
    ValueError, TypeError, FileNotFoundError, StoreError, SourceChangedError
        As for `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> values, store = np.linspace(-1, 1, 30, dtype=np.float32), MemoryStore()
    >>> [quantize_part(values, store, part, 2, chunks=10) for part in (1, 2)]
    [False, True]
    >>> quantize_part(values, store, 1, 2, chunks=10)
    True
    >>> seal(store).shape
    (30,)
    """
    if not 1 <= part <= parts:
        raise ValueError(f"part is {part} of {parts}, but parts are counted from 1 to their number")
    job = Job.of(source, store, Settings(**settings), verify, progress, part, parts)
    metadata = job.claim(overwrite=False)
    if metadata.status == "scanning":
        job.scan(metadata)
        if not job.is_scanned(metadata):
            return False
        metadata = job.settle(metadata)
    if metadata.status == "sealed":
        job.check_sealed(metadata)
    else:
        job.write(metadata)
    return True


def seal(store: Any, name: str | None = None, *, durable: bool = False) -> Int4Array:
    """Make a variable readable once all its chunks are there, whoever wrote them.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    durable : bool
        As for `quantize_to_zarr`.

    Returns
    -------
    Int4Array

    Raises
    ------
    UnfinishedStoreError
        If chunks are not there yet: how many, and which is the first.
    FileNotFoundError, StoreError
        As for `open_int4`; also if the source changed while it was read.

    Examples
    --------
    See `quantize_part`.
    """
    variable, metadata = find(store, name)
    if metadata.status == "scanning":
        raise UnfinishedStoreError(f"{variable.where} has no scale yet: pass 1 is not done. Run its parts again")
    if CHANGED in metadata.fingerprint:
        raise StoreError(f"{variable.where}: its source changed while it was read; remove it and begin again")
    return Int4Array(variable, metadata if metadata.status == "sealed" else variable.seal(metadata, durable))
