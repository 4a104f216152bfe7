"""A variable of a collection that becomes longer, as its tasks see it: kept values appended, what stays compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..exceptions import StoreError
from ..io.raw import RawArray
from ..io.source import Source
from ..numerics.dtypes import TEXT
from ..numerics.grid import packed_region, within
from ..storage import Variable
from ..store.growth import JOURNAL, Journal
from ..store.guard import WriteGuard
from ..store.keys import Keys
from ..store.manifest import KEY, manifest_of
from ..store.metadata import Metadata
from ..store.plain_arrays import PlainArray
from ..store.retrying import retried
from ..store.side_arrays import stored_scales
from .appending import replace_slice
from .growing import Growing
from .job import Stage, Steps
from .kept import BATCH, cannot_be_kept
from .pool import Stop
from .progress import Progress
from .schedulers import Task
from .units import StoppedError, Units

Report = Callable[[Any], None]


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
