"""Whole datasets and checkpoints: many variables, each quantized or kept, by one plan and one pool of tasks."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import numpy as np

from .exceptions import DamagedChunkError, RefusedValuesError, StoreError
from .io import sources_of
from .io.arrays import Arrays
from .io.attributes import zarr_attributes
from .io.raw import RawArray
from .io.source import Source
from .numerics.grid import Grid
from .numerics.names import NanPolicy
from .reading.dataset import Int4Dataset
from .runtime.chunking import MIB
from .runtime.claim import difference as differs
from .runtime.dataset_plan import DatasetPlan, VariablePlan
from .runtime.display import reporter
from .runtime.job import Job, Steps
from .runtime.kept import Copy, digest_of
from .runtime.look import quick_sample
from .runtime.memory import OVERHEAD, free_bytes
from .runtime.plan import Plan, planned
from .runtime.pool import Stop
from .runtime.progress import Progress
from .runtime.schedulers import chosen_workers
from .runtime.selection import Chosen, Rules, choose, of_variable
from .runtime.settings import Settings, SettingsOfAll
from .runtime.together import together
from .storage import Variable, drop_consolidated, group_data, listed, names_in, variable_of
from .store.codec import Compressor
from .store.keys import Keys
from .store.manifest import KEY, MOST, Manifest, Member, Standing, folder_of_group, is_folder, is_ours, manifest_of
from .store.metadata import Metadata
from .store.places import name_of
from .store.plain_arrays import default_chunk
from .store.retrying import retried
from .store.zarr_json import group_document, node_type, own_header

Policy = Literal["auto", "raise", "propagate"]
POLICIES = ("auto", "raise", "propagate")
CHUNKS_KEPT = 10_000  # chunks of what is kept: where the source has more, others are taken
CHUNK_KEPT = 64 * MIB  # bytes: nor where one is longer
KEPT_METADATA = 1 << 12  # bytes of the zarr.json of what is kept
MEETINGS = 8  # times that a run may meet another of its job at one variable
PAUSE = 0.2  # seconds at most before it looks again what has come of that
COPIES = 4  # copies of a chunk while it is copied: itself, as bytes, compressed, with its checksum


def quantize_dataset(
    source: Any,
    store: Any,
    *,
    select: str | Iterable[str] = "auto",
    rules: Rules | None = None,
    keep: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    nan_policy: Policy = "auto",
    overwrite: bool = False,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[DatasetPlan | Progress], None] | bool | None = None,
    **settings: Unpack[SettingsOfAll],
) -> Int4Dataset:
    """Quantize the variables of a dataset or the tensors of a checkpoint, and keep all else as it is, bit for bit.

    Run it again to go on where a run stopped. Until all of it is there nothing of it opens as a collection.

    Parameters
    ----------
    source : path, URL, dataset, group or mapping
        Whatever holds arrays: a NetCDF, HDF5, Zarr or safetensors file, an `xarray.Dataset`, a dict of arrays; as for
        `quantize_to_zarr`.
    store : path, URL or Zarr store
        A new place, or one of an earlier run of the same job.
    select : "auto", or patterns
        Which variables to quantize. "auto" takes floats, or integers packed as such, of at least two axes and 4,096
        values, which are no coordinates, bounds, times or flags. All others are kept: copied with dtype, attributes,
        dimension names and chunks. A pattern is a name, a glob such as ``*.weight``, or ``dim=latitude`` for all that
        have that dimension.
    rules : mapping of patterns to mappings of settings
        Settings of single variables, such as ``{"t2m": {"axis": "latitude"}}``: those of `quantize_to_zarr`; `axis` and
        lengths of `blocks` and `chunks` by names of dimensions too. Of several rules that match, the later one wins.
    keep, drop : patterns
        Which to keep whatever `select` says, and which to leave out.
    nan_policy : {"auto", "raise", "propagate"}
        "auto" has a code for missing values in variables with some, and all 16 levels in those without.
    overwrite : bool
        Replace a collection of another job. What is no collection is never replaced.
    verify, durable, progress
        As for `quantize_to_zarr`; `progress` is called with a `DatasetPlan` before work starts.
    **settings
        Those of all variables: `scale_method`, `axis`, `blocks`, `preset`, `percentile`, `finest`, `value_range`,
        `missing`, `decode`, `floats`, `chunks`, `shards`, `compressors`; `memory` and `workers` of the run.

    Returns
    -------
    Int4Dataset

    Raises
    ------
    ValueError
        If a pattern or a rule matches nothing, a setting is not one of those allowed, or memory or disk will not do.
    RefusedValuesError (a ValueError)
        If a variable holds values that its settings take no code for. The store stays, unfinished.
    StoreError
        If the destination holds something else, or another job's collection.
    SourceError, FileNotFoundError, TypeError, SourceChangedError, WorkersError
        As for `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> layer = {"up.weight": np.linspace(-1, 1, 8192, dtype=np.float32).reshape(64, 128), "up.bias": np.zeros(64)}
    >>> checkpoint = quantize_dataset(layer, MemoryStore(), blocks=32)
    >>> checkpoint.quantized, checkpoint["up.bias"][:3].tolist()
    (['up.weight'], [0.0, 0.0, 0.0])
    """
    others = ("select", "rules", "keep", "drop", "nan_policy", "overwrite", "verify", "durable", "progress")
    checked = checked_settings("quantize_dataset", settings, nan_policy, others)
    collection = collected(source, replace(Keys.of(store), verify=verify), select, rules, keep, drop, checked)
    report = reporter(progress)
    report(collection.plan)
    return collection.run(overwrite, durable, report)


def plan_dataset(
    source: Any,
    store: Any,
    *,
    select: str | Iterable[str] = "auto",
    rules: Rules | None = None,
    keep: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    nan_policy: Policy = "auto",
    **settings: Unpack[SettingsOfAll],
) -> DatasetPlan:
    """What `quantize_dataset` would do and need with the same arguments. Writes nothing.

    Returns
    -------
    DatasetPlan

    Raises
    ------
    ValueError, TypeError, SourceError, FileNotFoundError
        As for `quantize_dataset`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> arrays = {"w": np.zeros((64, 64), np.float32), "ids": np.arange(64)}
    >>> [(one.name, one.why) for one in plan_dataset(arrays, MemoryStore()).variables]
    [('ids', 'int64 is no float'), ('w', '')]
    """
    checked = checked_settings("plan_dataset", settings, nan_policy, ("select", "rules", "keep", "drop", "nan_policy"))
    return collected(source, Keys.of(store), select, rules, keep, drop, checked).plan


def checked_settings(function: str, given: Mapping[str, Any], policy: Any, others: tuple[str, ...]) -> Settings:
    """The settings of all variables.

    Raises
    ------
    TypeError
        If there is no such one.
    ValueError
        If there is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"nan_policy is {policy!r}, but must be one of {', '.join(map(repr, POLICIES))}")
    if "name" in given:
        raise TypeError(f"{function}() takes no name: each variable has its own")
    return replace(Settings.of(function, given, *others), nan_policy=policy)


def collected(
    source: Any,
    keys: Keys,
    select: str | Iterable[str],
    rules: Rules | None,
    keep: str | Iterable[str] | None,
    drop: str | Iterable[str] | None,
    settings: Settings,
) -> Collection:
    """What the arguments of `quantize_dataset` come to."""
    arrays = sources_of(source)
    keys.check_writable()
    if arrays.is_array:
        raise ValueError(f"{arrays.label} is one array: quantize_to_zarr takes it")
    found = choose(arrays, select, rules, keep, drop, settings)
    if not found:
        raise ValueError(f"{arrays.label} holds no arrays" + " but those that drop leaves out" * bool(drop))
    return Collection.of(arrays, keys, found)


# One collection -------------------------------------------------------------------------------------------------------


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
    """One run of `quantize_dataset`, as its driver sees it."""

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
        return cls(plan_of(arrays.label, keys, found, quantized, kept), keys, quantized, kept, manifest)

    def run(self, overwrite: bool, durable: bool, report: Callable[[Any], None]) -> Int4Dataset:
        """Write all that is not there yet, and seal it."""
        totals = Totals(report, self.plan)
        manifest = self.take(self.sampled(), overwrite)
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
            self.make_groups(standing, manifest)
            together(jobs, self.plan.scheduler, self.plan.limit, self.stop)
            self.seal(standing, sealed, durable)
        return Int4Dataset(self.keys, sealed)

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

    # The place

    def take(self, new: Manifest, overwrite: bool) -> Manifest:
        """The manifest to go on from: new, this job's own, or with `overwrite` one in the place of another's.

        Raises
        ------
        StoreError
            If the place is another job's, or holds something else.
        ValueError
            If there is not enough room on the disk, or if two variables would lie in one folder.
        """
        keys = self.keys
        self.mend(new)
        if group_data(keys) is None:
            self.check_place()
            self.check_disk()
            drop_consolidated(keys)
            keys.set_new(KEY, new.to_json())
        with keys.locked(""):
            now = self.taken(new, overwrite)
        return self.without_replaced(now) if now.replaced else now

    def taken(self, new: Manifest, overwrite: bool) -> Manifest:
        """As `take`, of a place that has a manifest, and before anything is removed. Others wait meanwhile."""
        keys = self.keys
        self.check_cases(new)
        tag = keys.tag(KEY, MOST)
        try:
            old = manifest_of(keys)
        except StoreError:
            if not (overwrite and is_ours(group_data(keys) or b"")):
                raise
            places = [name for name in names_in(keys) if name_of(name) is not None]
        else:
            if old is None:
                raise StoreError(f"{keys.label} is no collection of this library: name another destination")
            if old.job == new.job and not (overwrite and old.status == "sealed"):
                if old.status != "sealed" and not keys.holds(KEY, old.to_json()):
                    keys.replace(KEY, old.to_json(), tag)  # without what others put there, as consolidated metadata
                return old
            if not overwrite:
                state = "whole" if old.status == "sealed" else "unfinished"
                raise StoreError(
                    f"{keys.label} is a collection already, {state}, of another job: {difference(old, new)}. Pass "
                    "overwrite=True to replace it"
                )
            places = [*old.folders, *old.replaced]
        marked = new.at("replacing", tuple(sorted({*places, *new.folders})))
        if keys.replace(KEY, marked.to_json(), tag) is None:  # others have changed it since
            return self.taken(new, overwrite)
        return marked

    def mend(self, new: Manifest) -> None:
        """Write the manifest again where the store took only its beginning, and that shows that it is this job's."""
        found, tag = self.keys.tagged(KEY, MOST) or (None, None)
        if found is None or found.endswith(b"\n}"):  # as a whole one ends, and no beginning
            return
        for whole in (new, new.at("sealed")):
            if whole.to_json().startswith(found) and (
                found.startswith(whole.head) or not any(is_folder(name) for name in names_in(self.keys) if name != KEY)
            ):
                self.keys.replace(KEY, new.to_json(), tag)
                return

    def without_replaced(self, marked: Manifest) -> Manifest:
        """Remove what an earlier collection left, of which the manifest says that it is to go.

        Raises
        ------
        StoreError
            If another job has taken the place meanwhile.
        """
        keys = self.keys
        for place in sorted(marked.replaced, reverse=True):  # what lies in a group before the group
            with keys.locked(place):  # those who looked at the manifest before have ended
                if bytes(keys.view(KEY, 0, len(marked.head)) or b"") != marked.head:
                    break
                keys.delete(f"{place}/zarr.json")
                keys.delete_all(place)
        with keys.locked(""):
            found, tag = keys.tagged(KEY, MOST) or (None, None)
            new = marked.at("writing")
            if found == marked.to_json() and keys.replace(KEY, new.to_json(), tag) is not None:
                return new
        now = manifest_of(keys)
        if now is None or now.job != marked.job or now.replaced:
            raise StoreError(f"{keys.label} was taken over by another job while this one was overwriting it")
        return now

    def check_place(self) -> None:
        """Refuse, with a StoreError, a place that holds something else."""
        keys = self.keys
        keys.check_place()
        for outer in keys.enclosing:
            document = group_data(outer) or b""
            if outer.holds_keys(".zarray") or node_type(document) == "array" or own_header(document):
                raise StoreError(f"{keys.label} lies in {outer.label}, an array or a collection: take another place")
        if keys.holds_keys("") and group_data(keys) is None:
            raise StoreError(f"{keys.label} is there already, and is no collection: name another destination")
        keys.check_name()

    def check_cases(self, new: Manifest) -> None:
        """Refuse, with a ValueError, names that differ in case alone where the file system does not tell these apart.

        What was made to find that out is removed.
        """
        folders: dict[str, str] = {}
        for folder in new.folders:
            other = folders.setdefault(folder.lower(), folder)
            if other != folder and self.keys.get(KEY.upper()) is not None:
                if self.keys.holds(KEY, new.to_json()):
                    self.keys.delete(KEY)
                    self.keys.remove_empty("")
                raise ValueError(
                    f"{other!r} and {folder!r} would be one folder in {self.keys.label}, which does not tell capitals "
                    "from small letters: take another place, or leave one out by drop="
                )

    def check_disk(self) -> None:
        if self.plan.free is not None and self.plan.disk > self.plan.free:
            raise ValueError(
                f"not enough disk at {self.keys.label}: what is to be written takes up to {self.plan.disk:,} bytes, "
                f"and {self.plan.free:,} are free. Make room, or name another destination"
            )

    def make_groups(self, standing: Standing, manifest: Manifest) -> None:
        with standing.changing() as stands:
            for path in manifest.group_paths[1:] if stands else ():
                key = f"{folder_of_group(path)}/zarr.json"
                self.keys.settle(key, group_document(), standing.stands)

    def seal(self, standing: Standing, sealed: Manifest, durable: bool) -> None:
        """Mark the collection whole, once each variable is.

        Raises
        ------
        StoreError
            If another job has taken its place.
        """
        keys = self.keys
        keys.sweep("")
        drop_consolidated(keys)  # of groups that it lies in: others may have written them since
        if durable:
            keys.flush("")
        standing.seal(sealed)
        if durable:
            keys.flush("", below=False)

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
                replaces = (anew or there.get("overwriting") == own) and there != own
                metadata = yield from job.steps(overwrite=replaces)
                break
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
        assert metadata is not None, "there are no other parts"
        return metadata if metadata.status == "sealed" else one.variable.seal(metadata, durable)

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
    found: list[Chosen],
    quantized: dict[str, Quantized],
    kept: dict[str, tuple[RawArray, Member]],
) -> DatasetPlan:
    variables, notes = [], dict[str, list[str]]()
    for one in found:
        if one.name in quantized:
            plan = quantized[one.name].plan
            variables.append(VariablePlan(one.name, plan.layout.shape, plan.layout.dtype, "", plan.disk, plan))
            for note in plan.notes:
                notes.setdefault(note, []).append(one.name)
        else:
            _, member = kept[one.name]
            disk = member.plain(keys, {}).nbytes_most + KEPT_METADATA
            variables.append(VariablePlan(one.name, member.shape, member.dtype, one.why, disk))
    plans = [one.plan for one in quantized.values()]
    scheduler, workers, *_ = chosen_workers(None, keys, plans[0].workers if plans else None)
    if plans:
        scheduler, workers = plans[0].scheduler, min(plan.workers for plan in plans)
    largest = max((math.prod(member.chunk or ()) * member.dtype.itemsize for _, member in kept.values()), default=0)
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


def difference(old: Manifest, new: Manifest) -> str:
    """Where two collections differ, in words."""
    before, now = ({member.name: member for member in one.members} for one in (old, new))
    for what, names in (("has no", now.keys() - before.keys()), ("has also", before.keys() - now.keys())):
        if names:
            return f"it {what} {listed(sorted(names))}"
    for name, member in now.items():
        if said := differs(before[name].to_json(), member.to_json()):
            return f"of {name}, {said}"
    return "the attributes of its groups"


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
