"""The run over a collection: what becomes of each array, its plan, and its jobs side by side."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, RefusedValuesError, StoreError
from ..io.arrays import Arrays
from ..io.attributes import zarr_attributes
from ..io.raw import RawArray
from ..io.source import Source
from ..numerics.grid import Grid
from ..numerics.names import NanPolicy
from ..storage import Variable, listed, variable_of
from ..store.codec import Compressor
from ..store.keys import Keys
from ..store.manifest import Manifest, Member, Standing
from ..store.metadata import Metadata
from ..store.plain_arrays import default_chunk
from ..store.retrying import retried
from .chunking import MIB
from .dataset_plan import DatasetPlan, VariablePlan
from .destination import Destination
from .job import Job, Steps
from .kept import Copy, digest_of
from .look import quick_sample
from .memory import OVERHEAD, free_bytes
from .plan import Plan, planned
from .pool import Stop
from .progress import Progress
from .schedulers import chosen_workers
from .selection import Chosen, of_variable
from .settings import Settings
from .together import together

CHUNKS_KEPT = 10_000  # chunks of what is kept: where the source has more, others are taken
CHUNK_KEPT = 64 * MIB  # bytes: nor where one is longer
KEPT_METADATA = 1 << 12  # bytes of the zarr.json of what is kept
MEETINGS = 8  # times that a run may meet another of its job at one variable
PAUSE = 0.2  # seconds at most before it looks again what has come of that
COPIES = 4  # copies of a chunk while it is copied: itself, as bytes, compressed, with its checksum


@dataclass(frozen=True)
class Quantized:
    """A variable that is to be quantized, and its plan with no code for missing values."""

    chosen: Chosen
    path: tuple[str, ...]
    variable: Variable
    source: Source
    settings: Settings
    plan: Plan

    def job(self, policy: NanPolicy, report: Callable[[Any], None], stop: Stop) -> Job:
        plan = replace(self.plan, kept=0, rule=replace(self.plan.rule, nan_policy=policy))
        job = Job.of(self.source, self.variable, replace(self.settings, nan_policy=policy), plan, report)
        job.work.units.cache.stop = stop
        return job

    def standing(self, standing: Standing) -> Quantized:
        """The same, in a collection that a run has taken."""
        return replace(self, variable=replace(self.variable, standing=standing))

    def there(self) -> dict[str, Any]:
        """The fingerprint of the variable as it is; nothing where there is none, or a damaged one."""
        with suppress(StoreError):
            found = self.variable.metadata()
            return {} if found is None else found.fingerprint
        return {}

    def is_begun(self, job: Job) -> bool:
        """Whether the variable is that of a job, or is becoming it."""
        there = self.there()
        return job.claim.fingerprint in (there, there.get("overwriting"))

    def remove(self, job: Job) -> None:
        """Remove what a job has written, if it is there."""
        with suppress(StoreError):
            found = self.variable.metadata()
            if found is not None and found.fingerprint == job.claim.fingerprint:
                self.variable.remove(found)


@dataclass(frozen=True)
class Collection:
    """One run over a collection, as its driver sees it."""

    plan: DatasetPlan
    keys: Keys
    quantized: dict[str, Quantized]
    kept: dict[str, tuple[RawArray, Member]]
    manifest: Manifest
    stop: Stop = field(default_factory=Stop)

    @classmethod
    def of(cls, arrays: Arrays, keys: Keys, found: list[Chosen]) -> Collection:
        """The run over what was chosen of these arrays, and its plan.

        Raises
        ------
        ValueError
            If two have the same name, or one that a group has.
        """
        quantized: dict[str, Quantized] = {}
        kept: dict[str, tuple[RawArray, Member]] = {}
        for one in found:
            path = tuple(one.name.split("/")) if arrays.nested else (one.name,)
            if one.source is None or one.settings is None:
                kept[one.name] = one.raw, kept_member(path, one.raw)
                continue
            variable = variable_of(keys, path)
            policy: Any = one.settings.nan_policy
            settings = replace(one.settings, nan_policy="raise") if policy == "auto" else one.settings
            with of_variable(one.name):
                made = planned(one.source, variable.keys, settings, variable)
            quantized[one.name] = Quantized(one, path, variable, one.source, one.settings, made)
        groups = {tuple(path.split("/")) if path else (): own for path, own in arrays.attributes.items()}
        members = [member for _, member in kept.values()]
        members += [
            Member(one.path, "int4", one.plan.layout.shape, one.plan.layout.dtype) for one in quantized.values()
        ]
        manifest = Manifest(tuple(members), groups)
        plan = plan_of(
            arrays.label,
            keys,
            {one.name: one.why for one in found},
            {name: one.plan for name, one in quantized.items()},
            {name: member for name, (_, member) in kept.items()},
        )
        return cls(plan, keys, quantized, kept, manifest)

    def run(self, overwrite: bool, durable: bool, report: Callable[[Any], None]) -> Manifest:
        """Write all that is not there yet, and seal it."""
        totals, destination = Totals(report, self.plan), Destination(self.plan, self.keys)
        manifest = destination.take(self.sampled(), overwrite)
        sealed = manifest.at("sealed")
        if manifest.status != "sealed" or self.keys.verify:
            standing = Standing.of(self.keys, manifest)
            jobs: dict[str, Steps[Any]] = {
                name: self.quantizing(one.standing(standing), totals.of(name), overwrite, durable)
                for name, one in self.quantized.items()
            }
            for name, (raw, member) in self.kept.items():
                plain = member.plain(self.keys, zarr_attributes(member.attributes, member.dtype))
                jobs[name] = Copy(raw, plain, standing, self.stop).steps(totals.of(name))
            destination.make_groups(standing, manifest)
            together(jobs, self.plan.scheduler, self.plan.limit, self.stop)
            destination.seal(standing, sealed, durable)
        return sealed

    def sampled(self) -> Manifest:
        """What the collection will say of itself while it is unfinished. Reads the ends of each array."""
        members = []
        for member in self.manifest.members:
            if member.kind == "kept":
                source: dict[str, Any] = {"sample": digest_of(self.kept[member.name][0])}
            else:
                one = self.quantized[member.name]
                source = one.job("raise", ignore, self.stop).claim.fingerprint
                source["settings"]["nan_policy"] = one.settings.nan_policy
            members.append(replace(member, source=source))
        return Manifest(tuple(sorted(members, key=lambda member: member.folder)), self.manifest.groups)

    # Its variables

    def quantizing(
        self, one: Quantized, report: Callable[[Any], None], overwrite: bool, durable: bool
    ) -> Steps[Metadata]:
        """Quantize and seal a variable.

        Where a code for missing values depends on whether there are any, the first try has none, unless some are seen
        at once: a run that comes upon one begins that variable anew.
        """
        policies, told, anew, left = self.policies(one), False, overwrite, MEETINGS
        while True:
            job = one.job(policies[0], report, self.stop)
            if told and job.look is not None:
                job.look.told = True
            try:
                there, own = one.there(), job.claim.fingerprint
                metadata = yield from job.steps(overwrite=anew or there.get("overwriting") == own)
                assert metadata is not None, "there are no other parts"
                return metadata if metadata.status == "sealed" else one.variable.seal(metadata, durable)
            except RefusedValuesError:
                if len(policies) == 1:
                    one.remove(job)
                    raise
                policies, anew = policies[1:], True
            except DamagedChunkError:
                raise
            except StoreError:  # another run of this collection may have begun it anew, or be doing so
                left -= 1
                if len(policies) > 1 and one.is_begun(one.job(policies[-1], report, self.stop)):
                    policies, anew = policies[-1:], True
                elif left and one.is_begun(job):
                    time.sleep(random.uniform(0, PAUSE))
                else:
                    raise
            told = job.look is not None and job.look.told

    def policies(self, one: Quantized) -> tuple[NanPolicy, ...]:
        """What to try, one after the other: what a run before this one came to, or what a look at the data shows."""
        policy: Any = one.settings.nan_policy
        if policy != "auto":
            return (policy,)
        if one.is_begun(one.job("propagate", ignore, self.stop)):
            return ("propagate",)
        seen = None if one.plan.units < 2 else retried(quick_sample)(one.source)
        if seen is not None:
            missing = one.plan.missing
            if np.isnan(seen).any() or (missing is not None and (seen == np.asarray(missing, seen.dtype)).any()):
                return ("propagate",)
        return ("raise", "propagate")


def plan_of(
    label: str,
    keys: Keys,
    why: Mapping[str, str],
    quantized: Mapping[str, Plan],
    kept: Mapping[str, Member],
) -> DatasetPlan:
    """The plan of a run over variables, of each of which it is said why it is kept, if it is."""
    variables, notes = [], dict[str, list[str]]()
    for name, reason in why.items():
        if name in quantized:
            plan = quantized[name]
            variables.append(VariablePlan(name, plan.layout.shape, plan.layout.dtype, "", plan.disk, plan))
            for note in plan.notes:
                notes.setdefault(note, []).append(name)
        else:
            member = kept[name]
            disk = member.plain(keys, {}).nbytes_most + KEPT_METADATA
            variables.append(VariablePlan(name, member.shape, member.dtype, reason, disk))
    plans = list(quantized.values())
    scheduler, workers, *_ = chosen_workers(None, keys, plans[0].workers if plans else None)
    if plans:
        scheduler, workers = plans[0].scheduler, min(plan.workers for plan in plans)
    largest = max((math.prod(member.chunk or ()) * member.dtype.itemsize for member in kept.values()), default=0)
    return DatasetPlan(
        source=label,
        destination=keys.label,
        variables=tuple(variables),
        scheduler=scheduler,
        workers=workers,
        limit=min((plan.limit for plan in plans if plan.limit is not None), default=None if plans else workers),
        memory=max([plan.memory - plan.kept for plan in plans] + [OVERHEAD + workers * COPIES * largest]),
        disk=sum(one.disk for one in variables),
        free=free_bytes(keys),
        notes=tuple(f"{listed(names, 3)}: {note}" for note, names in notes.items()),
    )


def kept_member(path: tuple[str, ...], raw: RawArray) -> Member:
    """How an array is kept: in the source's chunks, where these are neither very many nor very large."""
    chunk = raw.chunks and tuple(max(min(length, n), 1) for length, n in zip(raw.chunks, raw.shape, strict=True))
    if (
        chunk is None
        or Grid(raw.shape, chunk).count > CHUNKS_KEPT
        or math.prod(chunk) * raw.dtype.itemsize > CHUNK_KEPT
    ):
        chunk = default_chunk(raw.shape, raw.dtype.itemsize)
    return Member(
        path, "kept", raw.shape, raw.dtype, chunk, raw.attributes, raw.dimension_names, compressor=Compressor()
    )


def ignore(event: Any) -> None:
    """Report nothing."""


class Totals:
    """Adds up the progress of all variables, phase by phase."""

    def __init__(self, report: Callable[[Any], None], plan: DatasetPlan) -> None:
        self.report = report
        self.sums: dict[str, Progress] = {}
        self.parts: dict[tuple[str, str], Progress] = {}
        for one in plan.variables:
            units = one.plan.units if one.plan is not None else 0
            for phase in ("scan", "write") if one.plan is not None and one.plan.passes == 2 else ("write",):
                self.take(one.name, Progress(phase, 0, units, 0, 0))

    def of(self, name: str) -> Callable[[Any], None]:
        def report(event: Any) -> None:
            self.take(name, event)
            self.report(self.sums[event.phase])

        return report

    def take(self, name: str, event: Progress) -> None:
        """Count what a variable has come to; what was done of one that begins anew stays counted."""
        zero = Progress(event.phase, 0, 0, 0, 0)
        old, total = self.parts.get((name, event.phase), zero), self.sums.get(event.phase, zero)
        self.parts[name, event.phase] = event
        if event.done < old.done:
            old = Progress(event.phase, 0, old.total - old.done, 0, 0)
        self.sums[event.phase] = Progress(
            event.phase,
            total.done + event.done - old.done,
            total.total + event.total - old.total,
            total.skipped + event.skipped - old.skipped,
            total.nbytes + event.nbytes - old.nbytes,
        )
