"""Out of core: pass 1 finds the scale, pass 2 writes the codes, a kill in either costs only what was in flight."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from . import __version__
from .exceptions import (
    DamagedChunkError,
    QuantizeWarning,
    RefusedValuesError,
    SourceChangedError,
    StoreError,
    UnfinishedStoreError,
)
from .io import as_source
from .io.decoding import decoded
from .numerics.grid import index_at
from .numerics.names import NanPolicy, PresetName, ScaleMethod
from .numerics.scales import Scale, Scales
from .numerics.statistics import Statistics, folded, from_row, no_rows
from .reading.array import Int4Array
from .runtime.claim import CHANGED, Claim
from .runtime.cluster import on_worker
from .runtime.display import reporter
from .runtime.look import Look, look_at
from .runtime.plan import Plan, planned
from .runtime.progress import Counter, Progress
from .runtime.schedulers import Task, run_tasks
from .runtime.settings import Settings, SettingsGiven
from .runtime.tasks import Tasks, WriteGuard
from .runtime.units import UnitCache, Units
from .storage import Variable, find
from .store.keys import Keys
from .store.metadata import Metadata, ScaleNames
from .store.side_arrays import stored_scales


def quantize_to_zarr(
    source: Any,
    store: Any,
    *,
    name: str = "data",
    preset: PresetName | None = None,
    scale_method: ScaleMethod | None = None,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    finest: float | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    missing: Any = "declared",
    decode: bool = True,
    floats: bool = False,
    nan_policy: NanPolicy = "raise",
    chunks: Any = None,
    shards: Any = None,
    compressors: Any = "auto",
    memory: int | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[Plan | Progress], None] | bool | None = None,
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
    preset : {"weights", "embeddings", "field"}, optional
        A good choice of scales for a kind of data: "mse" in blocks of 32 along the last axis, in blocks of 32 along the
        axis before it, or in tiles of 4 x 8 over both. What is given beside it wins. The store has the choice, and not
        this name.
    scale_method : {"minmax", "absmax", "percentile", "mse"}, optional
        As for `quantize_to_int4`: "minmax", unless a `preset` stands for another.
    percentile, value_range, nan_policy
        As for `quantize_to_int4`. With a `value_range` the source is read once and not twice.
    blocks : int or tuple of int, optional
        Lengths of the blocks that share a scale, as for `quantize_to_int4`: a number is the length along the last axis,
        -1 a whole axis. A chunk holds whole ones, so the source is read once.
    finest : float, optional
        The least scale of a block, as for `quantize_to_int4`.
    axis : int, optional
        The axis that keeps a scale for each of its indices. Where a chunk spans all the others, as the default chunks
        do if they can and the source is not read in too small parts for that, it is read once.
    missing : "declared", number or None
        The stored number that counts as missing, beside NaN: by default all that the source declares, by
        ``_FillValue``, ``missing_value`` and valid bounds; None for none.
    decode : bool
        Take physical values: what ``scale_factor``, ``add_offset`` and ``_Unsigned`` make of the stored numbers. False
        takes these as they are.
    floats : bool
        Turn integers with missing values into floats, with NaN for these. They else come back as integers, with one of
        the missing values.
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
    progress : callable or True, optional
        Called in this thread with the `Plan` before work starts, then with `Progress` as it goes on. True draws it,
        in a notebook and on a terminal.

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
        If a worker of the cluster has another version of this library, or does not find source or destination; if the
        connection to the scheduler is lost, the Client closed, or tasks are cancelled again and again.

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
        name=name,
        preset=preset,
        scale_method=scale_method,
        axis=axis,
        blocks=blocks,
        finest=finest,
        percentile=percentile,
        value_range=value_range,
        missing=missing,
        decode=decode,
        floats=floats,
        nan_policy=nan_policy,
        chunks=chunks,
        shards=shards,
        compressors=compressors,
        memory=memory,
        workers=workers,
    )
    job = Job.of(source, store, settings, verify, progress)
    metadata = job.passes(overwrite)
    assert metadata is not None, "there are no other parts"
    return Int4Array(job.work.variable, sealed(job.work.variable, metadata, durable))


def sealed(variable: Variable, metadata: Metadata, durable: bool) -> Metadata:
    """The metadata of the variable, which is sealed if it is not yet."""
    return metadata if metadata.status == "sealed" else variable.seal(metadata, durable)


def described(statistics: Statistics) -> dict[str, Any]:
    """Statistics of pass 1 as the store keeps them."""
    bounds = (statistics.minimum, statistics.maximum) if statistics.count else (None, None)
    missing = statistics.nan + statistics.missing
    return {"count": statistics.count, "min": bounds[0], "max": bounds[1], "missing": missing}


def check_source(source: Any, variable: Variable) -> None:
    """Refuse a variable as the source of itself: overwriting would delete it before it is read.

    Raises
    ------
    StoreError
        If it is that.
    """
    if isinstance(source, Int4Array) and (source.path, source.name) == (variable.keys.label, variable.name):
        raise StoreError(f"{variable.where} cannot be its own source; name another destination or another variable")


# One job --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run of `quantize_to_zarr`, as its driver sees it."""

    plan: Plan
    work: Tasks
    settings: Settings
    report: Callable[[Any], None]
    own: range

    @classmethod
    def of(
        cls,
        source: Any,
        store: Any,
        settings: Settings,
        verify: bool,
        progress: Callable[[Plan | Progress], None] | bool | None,
        part: int = 1,
        parts: int = 1,
    ) -> Job:
        """The job of a source and a store, or one of the `parts` of it, counted from 1: a range of batches."""
        origin = decoded(as_source(source), settings.decode, settings.missing, settings.floats)
        keys = Keys.of(store)
        check_source(source, Variable(keys, settings.name))
        made = planned(origin, keys, settings)
        variable = Variable(replace(keys, verify=verify), settings.name)
        cache = UnitCache(made.kept if parts == 1 else 0)
        work = Tasks(Units(origin.with_missing(made.missing), made.layout, made.rule, made.missing, cache), variable)
        count = work.scans.batches.count
        own = range(count * (part - 1) // parts, count * part // parts)
        job = cls(made, work, settings, reporter(progress), own)
        job.report(made)
        return job

    @functools.cached_property
    def claim(self) -> Claim:
        return Claim(self.plan, self.work)

    @property
    def alone(self) -> bool:
        """Whether this run does all of it, and not a part."""
        return len(self.own) == self.work.scans.batches.count

    def passes(self, overwrite: bool = False) -> Metadata | None:
        """Both passes over this run's part: the metadata then; None if pass 1 of other parts is not done.

        They may be those of a variable that another run of the same job has written meanwhile, or long before.
        """
        keys = self.work.variable.keys
        if self.look is not None and (overwrite or keys.get(self.work.variable.key) is None):  # a run that begins
            self.tell(self.look.before())
        metadata = self.claim.take(overwrite)
        try:
            if metadata.status == "scanning":
                self.scan(metadata)
                if not self.alone and not self.is_scanned(metadata):
                    return None
                try:
                    metadata = self.choose_scales(metadata)
                except RefusedValuesError:
                    if self.alone:
                        self.work.variable.remove(metadata)
                    raise
            if metadata.status != "sealed":
                self.write(metadata)
        except StoreError as error:
            metadata = self.written_by_another(error)
        if metadata.status == "sealed":
            self.check_sealed(metadata)
        return metadata

    def scan(self, metadata: Metadata) -> None:
        """Pass 1, if there is one: scan those of this run's batches of which the store has no statistics."""
        if self.plan.passes == 1:
            return
        with WriteGuard(self.work.variable, metadata).writing() as stands:
            if stands:
                self.work.scans.create()
        todo = self.own_units.copy()
        for batch in np.flatnonzero(self.scanned()):
            todo[self.work.scans.batches.numbers(int(batch))] = False
        self.run("scan", functools.partial(self.work.scan_batch, metadata=metadata), todo)

    def scanned(self) -> np.ndarray:
        """Of which batches the store has statistics, whatever run they are from, shape ``(batches,)``."""
        scans = self.work.scans
        if not self.plan.rule.granularity.single:  # too many to read all of them here
            return scans.rows.present()
        return np.array([scans.get(batch) is not None for batch in range(scans.batches.count)])

    def is_scanned(self, metadata: Metadata) -> bool:
        """Whether pass 1 is done, by whatever runs of this job."""
        # Sealing removes the statistics, so whether it has been sealed is asked after them.
        return self.plan.passes == 1 or bool(self.scanned().all()) or self.work.variable.is_sealed(metadata)

    def choose_scales(self, metadata: Metadata) -> Metadata:
        """Choose scales by what pass 1 found, and write the metadata for pass 2, which are returned.

        Raises
        ------
        RefusedValuesError
            If the rule takes no code for some values.
        """
        rule, variable = self.plan.rule, self.work.variable
        with WriteGuard(variable, metadata).writing() as stands:
            if stands:
                stored_scales(variable.keys, variable.name, metadata).create()
        scale: Scale | ScaleNames = ScaleNames.of(variable.name, metadata.version)
        statistics = None
        if self.plan.passes == 2:
            if variable.is_sealed(metadata):
                return self.finished()
            if rule.granularity.single:
                rows, scales = self.work.scales_of_batches(0)
                scale = Scale(*scales.plain())
            else:
                rows = self.choose_scale_chunks(metadata)
            statistics = from_row(folded(rows))
            if rule.refused(statistics):
                self.refuse(statistics)
            self.tell(self.look.after(rule, scale, (statistics.minimum, statistics.maximum)) if self.look else None)
        elif rule.granularity.single:
            shape = self.plan.layout.shape
            scales = self.work.units.cleared(Scales.one(rule.scale(Statistics()), shape), no_rows(1))
            scale = Scale(*scales.plain())
        new = metadata.at("writing", scale=scale, statistics=None if statistics is None else described(statistics))
        return new if variable.advance(metadata, new) else self.finished()

    @functools.cached_property
    def look(self) -> Look | None:
        """The look at the source; none where the user gives the range, or says that no value stands for missing."""
        silent = self.settings.missing is None or self.plan.rule.method.needs == "nothing"
        return None if silent else look_at(self.work.units.source, self.plan.missing)

    def tell(self, text: str | None) -> None:
        """Warn, once a job."""
        if text is not None and self.look is not None and not self.look.told:
            self.look.told = True
            warnings.warn(text, QuantizeWarning, stacklevel=2)

    def refuse(self, statistics: Statistics) -> None:
        index = index_at(statistics.first, self.work.units.source.shape)
        refusal = self.plan.rule.refusal(statistics, index, self.plan.missing)
        where = self.work.variable.where
        left = "" if self.alone else f". What the parts have made stays, not readable: remove {where}"
        source = self.work.units.source
        raise RefusedValuesError(f"{source.label}: {refusal}{source.missing_said}{left}")

    def written_by_another(self, error: StoreError) -> Metadata:
        """The metadata of the variable, if another run of this job has written all of it; what pass 1 left is removed.

        Raises
        ------
        StoreError
            The `error`, if none has.
        """
        found = self.work.variable.metadata()
        if found is None or found.fingerprint != self.claim.fingerprint or found.status == "scanning":
            raise error
        if not self.work.variable.present(self.plan.layout).all():
            raise error
        self.work.variable.delete_scans()
        return found

    def finished(self) -> Metadata:
        """The metadata of the variable, which another run of this job has sealed; what this one left is removed."""
        self.work.variable.delete_scans()
        metadata = self.work.variable.metadata()
        assert metadata is not None
        return metadata

    def choose_scale_chunks(self, metadata: Metadata) -> np.ndarray:
        """Have tasks choose and write each chunk of the scales of an axis; the statistics of each chunk, a row."""
        count = self.work.scans.batches.blocks
        tasks = (Task([block], (block,)) for block in range(count))
        state = Progress("scale", 0, count, 0, 0)
        self.report(state)
        rows = []

        def done(task: Task, row: np.ndarray) -> None:
            rows.append(row)
            self.report(replace(state, done=len(rows)))

        self.run_tasks(functools.partial(self.work.choose_scale_chunk, metadata=metadata), tasks, done)
        return np.stack(rows)

    def write(self, metadata: Metadata) -> None:
        """Pass 2: write those of this run's units that are not there yet."""
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
        """With `verify`, read all of this run's units of a variable that was whole before.

        They are not written anew: the statistics of pass 1, which would show that the source is the same, are gone.

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
        """Read what an earlier run wrote, and mark in `present` as absent what is not whole."""
        todo = self.own_units & present
        if not todo.any():
            return
        count = Counter("verify", self.plan.layout.units, self.plan.layout.dtype, 0, self.report, int(todo.sum()))

        def done(task: Task, damaged: list[int]) -> None:
            present[damaged] = False
            count.add(task.numbers)

        tasks = (Task(numbers, (batch, numbers)) for batch, numbers in self.batches(todo))
        self.run_tasks(functools.partial(self.work.damaged_units, metadata=metadata), tasks, done)

    @functools.cached_property
    def own_units(self) -> np.ndarray:
        """Which units are this run's, shape ``(units,)``."""
        batches = self.work.scans.batches
        found = np.full(self.plan.units, self.alone)
        if not found.all():
            for batch in self.own:
                found[batches.numbers(batch)] = True
        return found

    def batches(self, todo: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Those of this run's batches that have units to do, with the numbers of these."""
        for batch in self.own:
            numbers = [number for number in self.work.scans.batches.numbers(batch) if todo[number]]
            if numbers:
                yield batch, numbers

    def run(self, phase: str, work: Callable[..., Any], todo: np.ndarray) -> None:
        """Do some units, batch by batch."""
        layout, total = self.plan.layout, int(self.own_units.sum())
        count = Counter(phase, layout.units, layout.dtype, total - int(todo.sum()), self.report, total)
        tasks = (Task(numbers, (batch, numbers), self.blocks(numbers)) for batch, numbers in self.batches(todo))
        self.run_tasks(work, tasks, lambda task, _: count.add(task.numbers))

    def run_tasks(self, work: Callable[..., Any], tasks: Iterable[Task], done: Callable[[Task, Any], None]) -> None:
        if self.plan.scheduler == "distributed":
            work = functools.partial(on_worker, work, self.work.units.source, self.claim.sample, __version__)
        run_tasks(work, tasks, done, self.plan.scheduler, self.plan.limit, self.work.units.cache.stop)

    def blocks(self, numbers: list[int]) -> list[Any] | None:
        """The parts of the source's graph that give the regions of some units, if it has one."""
        units = self.work.units
        if all(number in units.cache for number in numbers):
            return None
        parts = [units.source.graph(units.layout.units.region(number)) for number in numbers]
        return None if any(part is None for part in parts) else parts


def quantize_part(
    source: Any,
    store: Any,
    part: int,
    parts: int,
    *,
    verify: bool = False,
    progress: Callable[[Plan | Progress], None] | bool | None = None,
    **settings: Unpack[SettingsGiven],
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
    checked = Settings.of("quantize_part", settings, "verify", "progress")
    return Job.of(source, store, checked, verify, progress, part, parts).passes() is not None


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
    return Int4Array(variable, sealed(variable, metadata, durable))
