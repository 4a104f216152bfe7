"""A collection that becomes longer: all its variables with an axis together, by one journal and one manifest.

Readers of a collection go by the manifest, whatever its variables say of themselves. So all that is new is written
beyond the lengths that the manifest says, then each variable says its new length, and one `set` of the manifest makes
all of it part of the collection. Before it and after a death at any moment the collection is what it was.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..exceptions import RefusedValuesError, StoreError
from ..io.arrays import Arrays
from ..io.attributes import ABOUT_VALUES, same_units, zarr_attributes
from ..io.raw import RawArray
from ..io.source import Source
from ..numerics.dtypes import TEXT
from ..numerics.grid import packed_region, within
from ..storage import Variable, drop_consolidated, listed, sealed_member, variable_of
from ..store.growth import JOURNAL, JOURNAL_MOST, Growth, Journal, journal_key, journal_of
from ..store.guard import WriteGuard
from ..store.keys import Keys
from ..store.manifest import KEY, MOST, Manifest, Member, manifest_of
from ..store.metadata import Metadata
from ..store.places import APPENDED, HIDDEN
from ..store.plain_arrays import PlainArray
from ..store.retrying import retried
from ..store.side_arrays import stored_scales
from ..store.zarr_json import checksum, same
from .appending import LIKE, Append, origin_as, replace_slice
from .collection import Totals, ignore, plan_of
from .dataset_plan import DatasetPlan
from .growing import LOST, Growing, is_committed, remove_beyond, replace_at
from .job import Stage, Steps
from .kept import BATCH, cannot_be_kept, digest_of
from .pool import Stop
from .progress import Progress
from .schedulers import Task
from .selection import of_variable
from .together import together
from .units import StoppedError, Units

BEFORE = f"{HIDDEN}/before.json"  # in the folder of a variable that becomes longer: its metadata as they were

Report = Callable[[Any], None]


# What is written ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """The right of an append to write: its journal is there, and the manifest is the one that it began from.

    It travels to where tasks run.
    """

    keys: Keys
    journal: Journal
    head: bytes

    def of(self, folder: str) -> WriteGuard:
        """That of a task which writes in the folder of a variable."""
        return WriteGuard(self.keys, folder, self.stands, self.may_be_part)

    def may_be_part(self) -> bool:
        """Whether what this run wrote may be part of the collection: another run of this job may have committed it."""
        try:
            now = None if self.is_manifest() else manifest_of(self.keys)
        except StoreError:
            return True
        return now is not None and now.lineage == self.journal.id

    def is_manifest(self) -> bool:
        """Whether the manifest is the one that this append began from."""
        return bytes(self.keys.view(KEY, 0, len(self.head)) or b"") == self.head

    def stands(self) -> bool:
        """True; raises a `StoreError` if this job is no longer at it."""
        keys = self.keys
        if not self.is_manifest() or not keys.holds(JOURNAL, self.journal.to_json()):
            raise StoreError(
                f"{keys.label} was taken over while something was appended to it: another process has overwritten it, "
                "appended to it or discarded this. Nothing of it is part of the collection"
            )
        return True


@dataclass(frozen=True)
class AppendRaw:
    """The tasks that write the values behind those of what is kept; they travel to where they run."""

    raw: RawArray
    before: PlainArray
    after: PlainArray
    axis: int
    right: Right
    stop: Stop

    @property
    def start(self) -> int:
        return self.before.shape[self.axis]

    def numbers(self) -> list[int]:
        """The chunks with new values."""
        grid = self.after.grid
        spans = [range(count) for count in grid.counts]
        spans[self.axis] = range(self.start // grid.box[self.axis], grid.counts[self.axis])
        return [grid.number(position) for position in product(*spans)]

    def chunks(self, numbers: list[int], again: bool = False) -> None:
        """Write some chunks; with `again` not those with new values alone that are there."""
        guard = self.right.of(self.after.folder)
        for number in numbers:
            if self.stop.is_set():
                raise StoppedError
            if again and not self.after.keys.verify and self.is_written(number):
                continue
            try:
                data = self.after.encoded(self.values(number))
            except ValueError as error:
                raise cannot_be_kept(self.raw, error) from error
            with guard.writing():
                guard.put(self.after.key(number), data)
                if self.has_old(number):  # it stays as it was written, whatever becomes of this job
                    guard.written.clear()
        guard.stands()

    def has_old(self, number: int) -> bool:
        return bool(self.after.grid.region(number)[self.axis].start < self.start)

    def is_written(self, number: int) -> bool:
        return not self.has_old(number) and self.after.keys.view(self.after.key(number), 0, 1) is not None

    def values(self, number: int) -> np.ndarray:
        """Those of a chunk: what was there, bit for bit, and what is new."""
        region, axis = self.after.grid.region(number), self.axis
        own = region[axis]
        low = max(own.start, self.start)
        new = retried(self.raw.read)(replace_slice(region, axis, low - self.start, own.stop - self.start))
        if own.start == low:
            return new
        return np.concatenate([self.before.read(replace_slice(region, axis, own.start, low)), new], axis=axis)

    def steps(self, begun: bool, report: Report) -> Steps[dict[str, Any]]:
        """Write all that is new; what the manifest will say of it."""
        numbers = self.numbers()
        call = functools.partial(self.chunks, again=begun)
        yield stage("append", call, numbers, self.after.nbytes // max(self.after.grid.count, 1), report, self.raw)
        return {}

    def describe(self, durable: bool) -> None:
        """Let its document say the new length."""
        describe(self.after, self.right)
        if durable:
            self.after.keys.flush_files({self.after.metadata_key, *map(self.after.key, self.numbers())})


def describe(plain: PlainArray, right: Right) -> None:
    """Write the document of what is kept."""
    with plain.keys.locked(plain.folder):
        right.stands()
        if not plain.keys.holds(plain.metadata_key, plain.document):
            plain.keys.settle(plain.metadata_key, plain.document, right.stands)


def stage(
    phase: str,
    call: Callable[[list[int]], Any],
    numbers: list[int],
    size: int,
    report: Report,
    raw: RawArray | None = None,
) -> Stage:
    """Some chunks, of `size` bytes about, several to a task."""
    state = Progress(phase, 0, len(numbers), 0, 0)
    report(state)

    def done(task: Task, result: Any) -> None:
        nonlocal state
        count = len(task.numbers)
        state = replace(state, done=state.done + count, nbytes=state.nbytes + count * size)
        report(state)

    tasks = (Task(numbers[at : at + BATCH], (numbers[at : at + BATCH],)) for at in range(0, len(numbers), BATCH))
    return Stage(phase, call, tasks, done, here=raw is not None and not raw.shared)


# What does not become longer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SameRaw:
    """The tasks that hold what is kept, and has no axis that becomes longer, to that of the source."""

    name: str
    raw: RawArray
    plain: PlainArray
    stop: Stop

    def steps(self, report: Report) -> Steps[None]:
        grid = self.plain.grid
        size = self.plain.nbytes // max(grid.count, 1)
        yield stage("verify", self.chunks, list(range(grid.count)), size, report, self.raw)

    def chunks(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.stop.is_set():
                raise StoppedError
            region = self.plain.grid.region(number)
            held, given = self.plain.read(region), retried(self.raw.read)(region)
            inside = first_difference(held, given)
            if inside is not None:
                index = tuple(i + part.start for i, part in zip(inside, region, strict=True))
                raise differs(self.name, self.raw.label, f"at index {index} it is {given[inside]!s}", held[inside])


@dataclass(frozen=True)
class SameCodes:
    """The tasks that hold what is quantized, and has no axis that becomes longer, to the codes of the source."""

    name: str
    source: Source
    variable: Variable
    metadata: Metadata
    stop: Stop

    @functools.cached_property
    def units(self) -> Units:
        metadata = self.metadata
        found = Units(self.source, metadata.layout, metadata.rule, metadata.missing)
        found.cache.stop = self.stop
        return found

    def steps(self, report: Report) -> Steps[None]:
        layout = self.metadata.layout
        size = layout.nbytes // layout.units.count
        here = self.source.graph(layout.units.region(0)) is not None or not self.source.shared
        found = stage("verify", self.chunks, list(range(layout.units.count)), size, report)
        yield replace(found, here=here)

    def chunks(self, numbers: list[int]) -> None:
        metadata, variable = self.metadata, self.variable
        scales = stored_scales(variable.keys, variable.name, metadata)
        nothing = Journal("", 0, metadata.layout.shape[0], None, "", {})
        there = Growing(variable, metadata, metadata, nothing, metadata.layout.shape[0])
        for number in numbers:
            region = metadata.layout.units.region(number)
            codes = self.units.pack(number, scales.read(region))[0]
            held = there.unit(number)[packed_region(within(region, region))]
            if first_difference(held, codes) is not None:
                place = ", ".join(f"{part.start}:{part.stop}" for part in region)
                raise differs(self.name, self.source.label, f"in [{place}] its values have other codes")


def first_difference(one: np.ndarray, other: np.ndarray) -> tuple[int, ...] | None:
    """The first index at which two arrays of one shape and dtype have other bits, or other texts."""
    if one.dtype == TEXT:
        unlike = np.asarray(one != other, bool)
    else:
        bits = [np.frombuffer(part.tobytes(), np.uint8).reshape(*part.shape, -1) for part in (one, other) if part.size]
        unlike = (bits[0] != bits[1]).any(axis=-1) if bits else np.zeros(one.shape, bool)
    if not unlike.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(unlike)), unlike.shape))


def differs(name: str, label: str, how: str, held: Any = None) -> ValueError:
    there = "" if held is None else f", and there {held!s}"
    return ValueError(
        f"{label} differs from {name} of the collection: {how}{there}. It has no axis that becomes longer, so it must "
        "be the same, bit for bit"
    )


# The job --------------------------------------------------------------------------------------------------------------


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
                beyond = outside or ("raise" if metadata.rule.method.value_range is None else "saturate")
                append = Append.of(arrays[name], variable, metadata, own, beyond, ignore, memory, workers)
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


def before_key(variable: Variable) -> str:
    return f"{variable.folder}/{BEFORE}"


def close(keys: Keys, manifest: Manifest, run: str) -> None:
    """Remove the journals of the variables, those of one try alone: what they spoke of is part of them, or gone."""
    for member in manifest.members:
        if member.kind != "int4":
            continue
        variable = variable_of(keys, member.path)
        inside, hidden = variable.keys, f"{variable.folder}/{HIDDEN}"
        with keys.locked(member.folder):  # whoever writes a journal has this locked, and has seen that it may
            found = journal_of(inside, variable.folder)
            if found is None or found.run == run:
                inside.delete(before_key(variable))
                inside.delete(journal_key(variable.folder))
        inside.sweep(hidden, variable.folder, below=False)
        inside.remove_empty(hidden)


def finish(keys: Keys, manifest: Manifest, run: str) -> None:
    """Close the journals of one try: what they spoke of is part of the collection, or gone."""
    close(keys, manifest, run)
    with keys.locked(""):
        found = journal_of(keys, "")
        if found is not None and found.run == run:  # and not another's, who came before
            keys.delete(JOURNAL)
    keys.sweep(HIDDEN, below=False)
    keys.remove_empty(HIDDEN)


def axis_said(journal: Journal) -> int | str:
    """The axis, as who appends gave it."""
    found = journal.job.get("axis")
    return found if isinstance(found, int | str) else journal.axis


def under_way(keys: Keys, journal: Journal) -> str:
    """What to say of a journal that another job has left, or is at."""
    length, axis = (journal.stop or journal.start) - journal.start, axis_said(journal)
    return (
        f"{keys.label}: an append of {length:,} along {said_of(axis)}, from index {journal.start:,} on, "
        "is under way or was killed. Run that again to go on with it, or discard it: quantize append --discard STORE, "
        "or discard_append(store)"
    )


# Giving it up ---------------------------------------------------------------------------------------------------------


def discarded_of_collection(keys: Keys, manifest: Manifest) -> bool:
    """Give up what is under way at a sealed collection, be its journal damaged; whether something was."""
    try:
        journal = journal_of(keys, "")
    except StoreError:
        journal = Journal(uuid.uuid4().hex, 0, 0, None, "", {LOST: True, "of": manifest.job})
    if journal is None:
        return False
    if manifest.has_run(journal.run) or journal.job.get("of") != manifest.job:  # done, or it was overwritten since
        finish(keys, manifest, journal.run)
        return False
    discard(keys, manifest, journal)
    return True


def discard(keys: Keys, manifest: Manifest, journal: Journal) -> None:
    """Remove what was written: the store then is, byte by byte, what it was.

    Raises
    ------
    StoreError
        If it is part of the collection, or another is at it.
    """
    given_up = replace(journal, discarding=True)
    right = Right(keys, given_up, manifest.head)
    with keys.locked(""):
        tag = keys.tag(JOURNAL, JOURNAL_MOST)
        if not right.is_manifest() or keys.replace(JOURNAL, given_up.to_json(), tag) is None:
            raise StoreError(f"{keys.label} is being written by another process; look at it again")
    for member in manifest.members:  # who writes under the journal sees that it was given up
        if member.kind == "int4":
            discard_quantized(keys, member)
            continue
        plain = member.plain(keys, zarr_attributes(member.attributes, member.dtype))
        lost = LOST in journal.job
        one = None if lost else axis_of(axis_said(journal), member.dimension_names, len(member.shape))
        for axis in range(len(member.shape)) if lost else () if one is None else (one,):
            discard_kept(plain, axis, right)
    keys.sweep("")
    finish(keys, manifest, journal.run)


def discard_quantized(keys: Keys, member: Member) -> None:
    variable = variable_of(keys, member.path)
    journal = journal_of(variable.keys, variable.folder)
    if journal is None or member.appended.get("run") == journal.run:
        return
    before = variable.keys.get(before_key(variable)) or variable.keys.get(variable.key) or b""
    metadata = Metadata.from_json(before, f"{variable.keys.label}/{before_key(variable)}")
    with keys.locked(member.folder):
        tag = variable.keys.tag(variable.key)
        if not variable.keys.holds(variable.key, before):
            variable.keys.replace(variable.key, before, tag)
    Growing(variable, metadata, metadata, journal, journal.start).discard()


def discard_kept(before: PlainArray, axis: int, right: Right) -> None:
    describe(before, right)
    grid, guard = before.grid, right.of(before.folder)
    remove_beyond(before.keys, before.folder, axis, grid.counts)
    if before.shape[axis] % grid.box[axis]:
        last = replace_slice(tuple(slice(0, n) for n in grid.shape), axis, grid.shape[axis] - 1, grid.shape[axis])
        for number, _ in grid.touched(last):
            with guard.writing():
                guard.put(before.key(number), before.encoded(before.read(grid.region(number))))
                guard.written.clear()


def is_ahead(keys: Keys, member: Member, document: bytes | None) -> bool:
    """Whether the document of an array that is kept says that it has grown further than a manifest says."""
    now, journal = manifest_of(keys), None
    with suppress(StoreError):  # a damaged one is damage of its own
        journal = journal_of(keys, "")
    if now is None or member.name not in now:
        return False
    found = now[member.name]
    if document == found.plain(keys, zarr_attributes(found.attributes, found.dtype)).document:
        return True
    axis = None if journal is None else axis_of(axis_said(journal), found.dimension_names, len(found.shape))
    if journal is not None and axis is not None and journal.stop is not None:
        longer = replace(found, shape=replace_at(found.shape, axis, journal.stop))
        return document == longer.plain(keys, zarr_attributes(found.attributes, found.dtype)).document
    return False


# Whether a source fits ------------------------------------------------------------------------------------------------


def said_of(axis: int | str) -> str:
    return f"axis {axis}" if isinstance(axis, int) else f"the dimension {axis!r}"


def axis_of(axis: int | str, names: tuple[str | None, ...] | None, ndim: int) -> int | None:
    """The number of an axis that is given by the name of its dimension or by its number; None where there is none."""
    if isinstance(axis, str):
        return list(names).index(axis) if names and axis in names else None
    return axis % ndim if -ndim <= axis < ndim else None


def axes_of(axis: int | str, manifest: Manifest, names: Mapping[str, tuple[str | None, ...] | None]) -> dict[str, int]:
    """The number of the axis in each variable that has it; `names` are those of the dimensions of what is quantized.

    Raises
    ------
    ValueError
        If none has it, or they are not of one length along it; if it is a number, and dimensions have names.
    """
    dims = {one.name: names[one.name] if one.kind == "int4" else one.dimension_names for one in manifest.members}
    known = sorted({name for own in dims.values() for name in own or () if name is not None})
    if isinstance(axis, int) and known:
        raise ValueError(
            f"axis is {axis}, and the dimensions of this collection have names: give that of the one that becomes "
            f"longer, of {listed(known)}"
        )
    found = {one.name: axis_of(axis, dims[one.name], len(one.shape)) for one in manifest.members}
    axes = {name: own for name, own in found.items() if own is not None}
    if not axes:
        there = f"there are {listed(known)}" if known else "its dimensions have no names: give a number"
        raise ValueError(f"no variable of the collection has {said_of(axis)}; {there}")
    check_one_length({name: manifest[name].shape[own] for name, own in axes.items()}, axis, "the collection")
    return axes


def check_one_length(lengths: Mapping[str, int], axis: int | str, label: str) -> None:
    """Refuse, with a ValueError, variables of several lengths along an axis that is to become longer in all of them."""
    by_length = {length: name for name, length in lengths.items()}
    if len(by_length) > 1:
        said = " and ".join(f"{name} {length:,}" for length, name in sorted(by_length.items())[:2])
        raise ValueError(f"the variables of {label} differ in length along {said_of(axis)}: {said}")


def check_names(arrays: Arrays, manifest: Manifest, label: str) -> None:
    """Refuse, with a ValueError, a source with other variables."""
    if absent := [one.name for one in manifest.members if one.name not in arrays]:
        raise ValueError(f"{arrays.label} has no {listed(absent)}, which {label} has: all become longer together")
    if new := [name for name in arrays if name not in manifest]:
        raise ValueError(f"{arrays.label} has {listed(new)}, which {label} has not: leave that out")


def check_same_shape(source: Source, variable: Variable, metadata: Metadata) -> None:
    """Refuse, with a ValueError, what has another shape or dtype than what is there."""
    there = metadata.layout
    if (source.shape, source.dtype) != (there.shape, there.dtype):
        raise ValueError(
            f"{source.label} is of shape {source.shape} and {source.dtype}, and {variable.where} of {there.shape} and "
            f"{there.dtype}: it has no axis that becomes longer, so it must be the same"
        )


def check_raw(raw: RawArray, member: Member, axis: int | None, label: str) -> None:
    """Refuse, with a ValueError, what is not of the kind of the values that are kept."""
    where = f"{label}/{member.name}"
    like = (
        raw.shape
        if axis is None or len(raw.shape) != len(member.shape)
        else replace_at(raw.shape, axis, member.shape[axis])
    )
    if like != member.shape:
        but = "it has no axis that becomes longer, so" if axis is None else f"but for axis {axis}"
        raise ValueError(f"{raw.label} has shape {raw.shape}, and {where} {member.shape}: {but} they must be the same")
    if raw.dtype != member.dtype:
        raise ValueError(f"{raw.label} is of {raw.dtype}, and {where} of {member.dtype}: convert it")
    names, own = raw.dimension_names, member.dimension_names
    if names and own and any(a != b for a, b in zip(names, own, strict=True) if a is not None and b is not None):
        raise ValueError(f"{raw.label} has the dimensions {names}, and {where} {own}")
    for key in (*LIKE, *ABOUT_VALUES) if raw.attributes else ():
        given, there = raw.attributes.get(key), member.attributes.get(key)
        if key in LIKE and (given is None or there is None):
            continue
        if not (same_units(given, there) if key == "units" else alike(given, there)):
            raise ValueError(
                f"{raw.label} has the {key} {given!r}, and {where} {there!r}: convert it, or mend the attribute"
            )


def alike(one: Any, other: Any) -> bool:
    """Whether two attributes are the same; NaN is itself."""
    return repr(one) == repr(other)
