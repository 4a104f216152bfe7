"""A collection that becomes longer: all its variables with an axis together, by one journal and one manifest.

Readers of a collection go by the manifest, whatever its variables say of themselves. So all that is new is written
beyond the lengths that the manifest says, then each variable says its new length, and one `set` of the manifest makes
all of it part of the collection. Before it and after a death at any moment the collection is what it was.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import RefusedValuesError, StoreError
from ..io.arrays import Arrays
from ..io.attributes import zarr_attributes
from ..io.raw import RawArray
from ..storage import drop_consolidated, sealed_member
from ..store.growth import JOURNAL, JOURNAL_MOST, Growth, Journal, journal_of
from ..store.keys import Keys
from ..store.manifest import KEY, MOST, Manifest, manifest_of
from ..store.metadata import Metadata
from ..store.places import APPENDED, HIDDEN
from ..store.zarr_json import checksum, same
from .appending import Append, origin_as
from .collection import Totals, ignore, plan_of
from .dataset_plan import DatasetPlan
from .giving_up import BEFORE, close, discard, finish, under_way
from .growing import Growing, is_committed, replace_at
from .growing_members import AppendRaw, Report, Right, SameCodes, SameRaw
from .job import Steps
from .kept import digest_of
from .likeness import axes_of, check_names, check_one_length, check_raw, check_same_shape, said_of
from .pool import Stop
from .selection import of_variable
from .together import together


@dataclass(frozen=True)
class AppendAll:
    """One run of `append_to_zarr` at a collection, as its driver sees it.

    `axes` has the number of the axis that becomes longer, by the names of the variables that have it; `quantized` and
    `kept` have these variables, the latter as the source has them; `others` are those that stay as they are.
    """

    label: str
    keys: Keys
    manifest: Manifest
    axis: int | str
    axes: Mapping[str, int]
    quantized: Mapping[str, Append]
    kept: Mapping[str, RawArray]
    others: Mapping[str, SameRaw | SameCodes]
    stop: Stop

    @classmethod
    def of(
        cls,
        arrays: Arrays,
        keys: Keys,
        manifest: Manifest,
        axis: int | str,
        outside: str | None,
        memory: int | str | None = None,
        workers: int | None = None,
    ) -> AppendAll:
        """The job of a source, once it is seen to fit what there is.

        Raises
        ------
        ValueError
            If it does not: in names, shapes, dtypes, dimension names, units, missing values or chunks.
        """
        if arrays.is_array:
            raise ValueError(f"{arrays.label} is one array, and {keys.label} a collection: give all its variables")
        check_names(arrays, manifest, keys.label)
        there = {one.name: sealed_member(keys, one) for one in manifest.members if one.kind == "int4"}
        axes = axes_of(axis, manifest, {name: metadata.dimension_names for name, (_, metadata) in there.items()})
        quantized: dict[str, Append] = {}
        kept: dict[str, RawArray] = {}
        others: dict[str, SameRaw | SameCodes] = {}
        stop = Stop()
        for member in manifest.members:
            name, own = member.name, axes.get(member.name)
            if member.kind == "kept":
                raw = arrays.raw_like(name, member.attributes, member.dtype)
                check_raw(raw, member, own, keys.label)
                if own is None:
                    others[name] = SameRaw(name, raw, member.plain(keys, {}), stop)
                else:
                    kept[name] = raw
                continue
            variable, metadata = there[name]
            with of_variable(name):
                if own is None:
                    source = origin_as(arrays[name], metadata)
                    check_same_shape(source, variable, metadata)
                    others[name] = SameCodes(name, source.with_missing(metadata.missing), variable, metadata, stop)
                    continue
                append = Append.of(arrays[name], variable, metadata, own, outside, ignore, memory, workers)
                append.cache.stop = stop
                quantized[name] = append
        found = cls(arrays.label, keys, manifest, axis, axes, quantized, kept, others, stop)
        found.check_lengths()
        return found

    def check_lengths(self) -> None:
        """Refuse variables of the source that are not of one length along the axis, and those that have none."""
        lengths = {name: append.source.shape[append.axis] for name, append in self.quantized.items()}
        lengths |= {name: raw.shape[self.axes[name]] for name, raw in self.kept.items()}
        check_one_length(lengths, self.axis, self.label)
        if not self.length:
            raise ValueError(f"{self.label} has no values along {said_of(self.axis)}: there is nothing to append")

    @property
    def length(self) -> int:
        """Of the source, along the axis."""
        name, axis = next(iter(self.axes.items()))
        return (self.kept[name].shape if name in self.kept else self.quantized[name].source.shape)[axis]

    @property
    def start(self) -> int:
        name, axis = next(iter(self.axes.items()))
        return self.manifest[name].shape[axis]

    @functools.cached_property
    def last(self) -> dict[str, dict[str, Any]]:
        """What tells what is appended to each variable from anything else."""
        kept = {
            name: {"source": {"shape": list(raw.shape), "dtype": str(raw.dtype), "sample": digest_of(raw)}}
            for name, raw in self.kept.items()
        }
        return kept | {name: append.fingerprint for name, append in self.quantized.items()}

    @functools.cached_property
    def wanted(self) -> Journal:
        name = next(iter(self.axes))
        job = {"of": self.manifest.job, "axis": self.axis, "sources": checksum(self.last)}
        lineage = self.manifest.lineage or f"{self.manifest.job}-{uuid.uuid4().hex}"
        return Journal(uuid.uuid4().hex, self.axes[name], self.start, self.start + self.length, lineage, job)

    def look(self) -> None:
        """Warn of values that nobody wants, as before a run."""
        for append in self.quantized.values():
            append.look()

    @functools.cached_property
    def plan(self) -> DatasetPlan:
        kept = {name: replace(self.manifest[name], shape=raw.shape) for name, raw in self.kept.items()}
        plans = {name: append.plan for name, append in self.quantized.items()}
        return plan_of(self.label, self.keys, dict.fromkeys(self.axes, "as before"), plans, kept)

    def run(self, again: bool, durable: bool, report: Report) -> Manifest:
        """All of it: the manifest then."""
        plan, reports = self.plan, Totals(report, self.plan).of
        checks = {name: other.steps(reports(name)) for name, other in self.others.items()}
        together(checks, plan.scheduler, plan.limit, self.stop)
        try:
            journal, begun = self.begin(again)
        except StoreError as error:
            return self.by_another(error)
        if self.manifest.has_run(journal.run):  # all that a run which died had left to do was to close the journal
            return self.manifest
        right = Right(self.keys, journal, self.manifest.head)
        plain = {name: self.raw(name, right) for name in self.kept}
        jobs: dict[str, Steps[Any]] = {
            name: self.writing(name, append, right, begun, reports(name)) for name, append in self.quantized.items()
        }
        jobs |= {name: one.steps(begun, reports(name)) for name, one in plain.items()}
        try:
            metadata = together(jobs, plan.scheduler, plan.limit, self.stop)
            for raw in plain.values():
                raw.describe(durable)
            for name, append in self.quantized.items():
                self.describe(append, journal, metadata[name], durable)
            grown = self.grown(journal, metadata)
            self.commit(right, grown, durable)
        except RefusedValuesError:
            discard(self.keys, self.manifest, journal)
            raise
        except StoreError as error:
            return self.by_another(error)
        if begun:
            self.keys.sweep("")  # what killed writers left
        finish(self.keys, grown, journal.run)
        return grown

    def by_another(self, error: StoreError) -> Manifest:
        """The manifest, where another run of this job has come to its end meanwhile.

        Raises
        ------
        StoreError
            The `error`, if none has.
        """
        now, old = manifest_of(self.keys), self.manifest
        if now is None or now.status != "sealed" or not now.continues(old.job, old.lineage):
            raise error
        for name in self.axes:
            found, before = now[name].appended, old[name].appended
            if found.get("last") != self.last[name] or found["commits"] != before.get("commits", 0) + 1:
                raise error
        return now

    def commit(self, right: Right, grown: Manifest, durable: bool) -> None:
        """Make what was written part of the collection.

        Raises
        ------
        StoreError
            If this job is no longer at it.
        """
        keys = self.keys
        if durable:
            keys.flush_files([JOURNAL])
        with keys.locked(""):
            tag = keys.tag(KEY, MOST)
            right.stands()  # so the tag is that of what it was
            if keys.replace(KEY, grown.to_json(), tag) is None:
                raise StoreError(f"{keys.label} was written by another process while this was appended to it")
        if durable:
            keys.flush_files([KEY])

    # Its journal

    def begin(self, again: bool) -> tuple[Journal, bool]:
        """The journal by which this job goes on, and whether it had begun before; another's is refused.

        Raises
        ------
        StoreError
            If another job is under way, or this is what was appended last; if the collection is not what it was.
        """
        keys, manifest, wanted = self.keys, self.manifest, self.wanted
        keys.check_writable()
        drop_consolidated(keys)
        with keys.locked(""):
            tag = keys.tag(KEY, MOST)
            if not keys.holds(KEY, manifest.to_json()):  # others have written it in another form, or another
                now = manifest_of(keys)
                own = now is not None and now.to_json() == manifest.to_json()
                if not own or keys.replace(KEY, manifest.to_json(), tag) is None:
                    raise StoreError(f"{keys.label} was changed by another process since it was opened: run again")
            found, tag = journal_of(keys, ""), keys.tag(JOURNAL, JOURNAL_MOST)
            if found is not None and manifest.has_run(found.run):
                close(keys, manifest, found.run)
                if found.job.get("sources") == wanted.job["sources"]:  # a call that came to its end but for this
                    keys.delete(JOURNAL)
                    keys.remove_empty(HIDDEN)
                    return found, True
            elif found is not None and found.job.get("of") == manifest.job:
                tag = None
            if (found is None or tag is not None) and not again:
                self.check_new()
            if found is None:
                keys.set_new(JOURNAL, wanted.to_json())
            elif tag is not None:  # what it spoke of is done, or was overwritten
                keys.replace(JOURNAL, wanted.to_json(), tag)
            found = journal_of(keys, "")
            if found == wanted:
                if keys.holds(KEY, manifest.to_json()):
                    return wanted, False
                keys.delete(JOURNAL)
                raise StoreError(f"{keys.label} was written by another process meanwhile; look at it, and append again")
        if found is None:
            raise StoreError(f"{keys.label}: the journal is not there after it was written: the store loses writes")
        if not found.discarding and same(found.job, wanted.job):
            return found, True
        raise StoreError(under_way(keys, found))

    def check_new(self) -> None:
        """Refuse what was appended last: a call that is made again once it has come to its end."""
        lasts = {name: self.manifest[name].appended.get("last") for name in self.axes}
        if lasts != self.last or all(one["source"]["sample"] is None for one in self.last.values()):
            return
        first = self.start - self.length
        raise StoreError(
            f"{self.label} is what was appended to {self.keys.label} last, as indices {first:,} to {self.start - 1:,} "
            f"of {said_of(self.axis)}. If that was this call, nothing is left to do; pass again=True to "
            "append it once more"
        )

    # Its variables

    def raw(self, name: str, right: Right) -> AppendRaw:
        member, axis = self.manifest[name], self.axes[name]
        longer = replace(member, shape=replace_at(member.shape, axis, member.shape[axis] + self.length))
        before, after = (one.plain(self.keys, zarr_attributes(one.attributes, one.dtype)) for one in (member, longer))
        return AppendRaw(self.kept[name], before, after, axis, right, self.stop)

    def writing(self, name: str, append: Append, right: Right, begun: bool, report: Report) -> Steps[Metadata]:
        """Write all that is new of what is quantized; the metadata that will say so."""
        variable, journal = append.variable, self.journal_of(append, right.journal)
        now = variable.metadata()
        if now is not None and is_committed(journal, now):
            return now
        growing = Growing(variable, append.metadata, append.after, journal, append.start)
        self.open(self.manifest[name].folder, growing, right)
        try:
            told = yield from append.writing(growing, begun, report)
        except StoreError:
            now = variable.metadata()
            if now is not None and is_committed(journal, now):  # by another run of this job
                return now
            raise
        return append.committed(journal, told)

    def journal_of(self, append: Append, journal: Journal) -> Journal:
        """That of a variable, which follows from the one of the collection."""
        stop = append.after.layout.shape[append.axis]
        return Journal(journal.run, append.axis, append.start, stop, journal.id, append.fingerprint)

    def open(self, folder: str, growing: Growing, right: Right) -> None:
        """Keep the metadata of a variable as they are, and then write its journal."""
        keys = self.keys
        whole = {f"{folder}/{BEFORE}": growing.before.to_json(), f"{folder}/{JOURNAL}": growing.journal.to_json()}
        with keys.locked(folder, shared=True):
            right.stands()
            for key, data in whole.items():
                if not keys.holds(key, data):
                    keys.settle(key, data, right.stands)
        try:
            right.stands()
        except StoreError:
            for key, data in whole.items():
                if keys.holds(key, data):
                    keys.delete(key)
            raise

    def describe(self, append: Append, journal: Journal, metadata: Metadata, durable: bool) -> None:
        """Let the metadata of a variable say the new length."""
        variable = append.variable
        growing = Growing(variable, append.metadata, append.after, self.journal_of(append, journal), append.start)
        try:
            if not variable.keys.holds(variable.key, metadata.to_json()):
                growing.commit(metadata, durable)
        except StoreError:
            if not variable.keys.holds(variable.key, metadata.to_json()):  # by another run of this job
                raise

    def grown(self, journal: Journal, metadata: Mapping[str, Metadata]) -> Manifest:
        """The manifest by which what was written is part of the collection."""
        members = []
        for member in self.manifest.members:
            name = member.name
            if name in self.quantized:
                shape, appended = metadata[name].layout.shape, metadata[name].fingerprint[APPENDED]
            elif name in self.kept:
                axis, commits = self.axes[name], member.appended.get("commits", 0) + 1
                shape = replace_at(member.shape, axis, member.shape[axis] + self.length)
                appended = vars(Growth(journal.id, axis, commits, 0, journal.run, self.last[name]))
            else:
                members.append(member)
                continue
            members.append(replace(member, shape=shape, source={**member.source, APPENDED: dict(appended)}))
        return replace(self.manifest, members=tuple(members))
