"""One job, as its driver sees it: a place is claimed, then come stages of tasks, and between them scales are chosen."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from .. import __version__
from ..exceptions import DamagedChunkError, QuantizeWarning, RefusedValuesError, SourceChangedError, StoreError
from ..io.source import Source
from ..numerics.grid import index_at
from ..numerics.scales import Scale, Scales
from ..numerics.statistics import Statistics, folded, from_row, no_rows
from ..storage import Variable
from ..store.metadata import Metadata, ScaleNames
from ..store.side_arrays import stored_scales
from .claim import CHANGED, Claim
from .cluster import on_worker
from .look import Look, look_at
from .plan import Plan
from .progress import Counter, Progress
from .schedulers import Task, run_tasks
from .settings import Settings
from .tasks import Tasks
from .units import UnitCache, Units


@dataclass(frozen=True)
class Stage:
    """Tasks that may run side by side, with those of the same phase of other jobs.

    Attributes
    ----------
    phase : str
        As `Progress` calls it.
    call : callable
        What does a task.
    tasks : iterable of Task
    done : callable
        Called in the driver with a task and what came of it.
    graph : bool
        Whether the tasks bring parts of a dask graph.
    here : bool
        Whether they can run in this process alone.
    """

    phase: str
    call: Callable[..., Any]
    tasks: Iterable[Task]
    done: Callable[[Task, Any], None]
    graph: bool = False
    here: bool = False


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Stage, None, Result]


def driven(steps: Steps[Result], run: Callable[[Stage], None]) -> Result:
    """What steps come to, each stage of which is run; what that raises is thrown into them."""
    failed: BaseException | None = None
    while True:
        try:
            stage = next(steps) if failed is None else steps.throw(failed)
        except StopIteration as end:
            found: Result = end.value
            return found
        try:
            run(stage)
            failed = None
        except BaseException as error:
            failed = error


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
        source: Source,
        variable: Variable,
        settings: Settings,
        made: Plan,
        report: Callable[[Any], None],
        part: int = 1,
        parts: int = 1,
    ) -> Job:
        """The job of a source, decoded, and a variable, or one of the `parts` of it, counted from 1."""
        cache = UnitCache(made.kept if parts == 1 else 0)
        work = Tasks(Units(source.with_missing(made.missing), made.layout, made.rule, made.missing, cache), variable)
        count = work.scans.batches.count
        own = range(count * (part - 1) // parts, count * part // parts)
        return cls(made, work, settings, report, own)

    @functools.cached_property
    def claim(self) -> Claim:
        return Claim(self.plan, self.work)

    @property
    def alone(self) -> bool:
        """Whether this run does all of it, and not a part."""
        return len(self.own) == self.work.scans.batches.count

    def passes(self, overwrite: bool = False) -> Metadata | None:
        """Both passes over this run's part, as `steps` says, each stage run here."""
        return driven(self.steps(overwrite), self.run)

    def run(self, stage: Stage) -> None:
        run_tasks(stage.call, stage.tasks, stage.done, self.plan.scheduler, self.plan.limit, self.work.units.cache.stop)

    def steps(self, overwrite: bool = False) -> Steps[Metadata | None]:
        """Both passes over this run's part: the metadata then; None if pass 1 of other parts is not done.

        They may be those of a variable that another run of the same job has written meanwhile, or long before. Whoever
        runs a stage throws in here what it raises.
        """
        keys = self.work.variable.keys
        if self.look is not None and (overwrite or keys.get(self.work.variable.key) is None):  # a run that begins
            self.tell(self.look.before())
        metadata, begun = self.claim.take(overwrite)
        # What lies in the place of a variable that this run has just begun is none of its own, where it may be that of
        # a run that was held up: it is replaced.
        alien = begun and keys.conditional
        try:
            if metadata.status == "scanning":
                yield from self.scan(metadata, alien)
                if not self.alone and not self.is_scanned(metadata):
                    return None
                try:
                    metadata = yield from self.choose_scales(metadata)
                except RefusedValuesError:
                    if self.alone and not self.work.variable.member:  # else the collection knows what is next
                        self.work.variable.remove(metadata)
                    raise
            if metadata.status != "sealed":
                yield from self.write(metadata, alien)
        except StoreError as error:
            metadata = self.written_by_another(error)
        if metadata.status == "sealed":
            yield from self.check_sealed(metadata)
        return metadata

    def scan(self, metadata: Metadata, alien: bool) -> Steps[None]:
        """Pass 1, if there is one: scan those of this run's batches of which the store has no statistics.

        None that are `alien` count.
        """
        if self.plan.passes == 1:
            return
        guard = self.work.variable.guard(metadata)
        with guard.writing() as stands:
            if stands:
                self.work.scans.create(guard)
        guard.stands()
        todo = self.own_units.copy()
        for batch in () if alien else np.flatnonzero(self.scanned()):
            todo[self.work.scans.batches.numbers(int(batch))] = False
        yield self.over("scan", functools.partial(self.work.scan_batch, metadata=metadata), todo)

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

    def choose_scales(self, metadata: Metadata) -> Steps[Metadata]:
        """Choose scales by what pass 1 found, and write the metadata for pass 2, which are returned.

        Raises
        ------
        RefusedValuesError
            If the rule takes no code for some values.
        """
        rule, variable = self.plan.rule, self.work.variable
        guard = variable.guard(metadata)
        with guard.writing() as stands:
            if stands:
                stored_scales(variable.keys, variable.name, metadata).create(guard)
        guard.stands()
        scale: Scale | ScaleNames = ScaleNames.of(variable.name, metadata.version)
        statistics = None
        if self.plan.passes == 2:
            if variable.is_sealed(metadata):
                return self.finished()
            if rule.granularity.single:
                rows, scales = self.work.scales_of_batches(0)
                scale = Scale(*scales.plain())
            else:
                rows = yield from self.choose_scale_chunks(metadata)
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

    def choose_scale_chunks(self, metadata: Metadata) -> Steps[np.ndarray]:
        """Have tasks choose and write each chunk of the scales of an axis; the statistics of each chunk, a row."""
        count = self.work.scans.batches.blocks
        tasks = (Task([block], (block,)) for block in range(count))
        state = Progress("scale", 0, count, 0, 0)
        self.report(state)
        rows = []

        def done(task: Task, row: np.ndarray) -> None:
            rows.append(row)
            self.report(replace(state, done=len(rows)))

        yield self.stage("scale", functools.partial(self.work.choose_scale_chunk, metadata=metadata), tasks, done)
        return np.stack(rows)

    def write(self, metadata: Metadata, alien: bool) -> Steps[None]:
        """Pass 2: write those of this run's units that are not there yet, where they are not `alien`."""
        present = np.zeros(self.plan.units, bool) if alien else self.work.variable.present(self.plan.layout)
        if self.work.variable.keys.verify:
            yield from self.check_present(metadata, present)
        try:
            todo = self.own_units & ~present
            yield self.over("write", functools.partial(self.work.write_batch, metadata=metadata), todo)
        except SourceChangedError:
            changed = replace(metadata, fingerprint={**metadata.fingerprint, CHANGED: True})
            self.work.variable.advance(metadata, changed)
            raise

    def check_sealed(self, metadata: Metadata) -> Steps[None]:
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
        yield from self.check_present(metadata, present)
        damaged = np.flatnonzero(self.own_units & ~present)
        if damaged.size:
            key = variable.chunk_key(self.plan.layout, int(damaged[0]))
            count = f"{damaged.size:,} of {len(present):,}"
            why = ValueError(f"{count} are missing or hold other bytes than were written, it the first")
            raise DamagedChunkError.at(variable.keys.label, key, why)

    def check_present(self, metadata: Metadata, present: np.ndarray) -> Steps[None]:
        """Read what an earlier run wrote, and mark in `present` as absent what is not whole."""
        todo = self.own_units & present
        if not todo.any():
            return
        count = Counter("verify", self.plan.layout.units, self.plan.layout.dtype, 0, self.report, int(todo.sum()))

        def done(task: Task, damaged: list[int]) -> None:
            present[damaged] = False
            count.add(task.numbers)

        tasks = (Task(numbers, (batch, numbers)) for batch, numbers in self.batches(todo))
        yield self.stage("verify", functools.partial(self.work.damaged_units, metadata=metadata), tasks, done)

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

    def over(self, phase: str, work: Callable[..., Any], todo: np.ndarray) -> Stage:
        """Some units, batch by batch."""
        layout, total = self.plan.layout, int(self.own_units.sum())
        count = Counter(phase, layout.units, layout.dtype, total - int(todo.sum()), self.report, total)
        tasks = (Task(numbers, (batch, numbers), self.blocks(numbers)) for batch, numbers in self.batches(todo))
        graph = self.work.units.source.graph(layout.units.region(0)) is not None
        return self.stage(phase, work, tasks, lambda task, _: count.add(task.numbers), graph)

    def stage(
        self,
        phase: str,
        work: Callable[..., Any],
        tasks: Iterable[Task],
        done: Callable[[Task, Any], None],
        graph: bool = False,
    ) -> Stage:
        if self.plan.scheduler == "distributed":
            work = functools.partial(on_worker, work, self.work.units.source, self.claim.sample, __version__)
        return Stage(phase, work, tasks, done, graph)

    def blocks(self, numbers: list[int]) -> list[Any] | None:
        """The parts of the source's graph that give the regions of some units, if it has one."""
        units = self.work.units
        if all(number in units.cache for number in numbers):
            return None
        parts = [units.source.graph(units.layout.units.region(number)) for number in numbers]
        return None if any(part is None for part in parts) else parts


def described(statistics: Statistics) -> dict[str, Any]:
    """Statistics of pass 1 as the store keeps them."""
    bounds = (statistics.minimum, statistics.maximum) if statistics.count else (None, None)
    missing = statistics.nan + statistics.missing
    return {"count": statistics.count, "min": bounds[0], "max": bounds[1], "missing": missing}
