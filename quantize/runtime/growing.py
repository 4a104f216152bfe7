"""An array that becomes longer: its journal, what is written beyond its length, the commit, and how it is given up.

What lies beyond the length that the metadata say is not part of the array. So new units are written there, those that
hold old values too are written again with the old codes bit for bit, and one `set` of the metadata makes all of it part
of the array. Before it and after a death at any moment the array is what it was.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..exceptions import StoreError
from ..numerics.grid import Region, packed_region, packed_shape, shape_of, within
from ..numerics.scales import Scales
from ..storage import Variable, drop_consolidated
from ..store.chunks import ChunkReader
from ..store.growth import JOURNAL_MOST, Growth, Journal, journal_key, journal_of
from ..store.guard import WriteGuard
from ..store.keys import NUMBER, Keys
from ..store.metadata import Metadata
from ..store.places import HIDDEN
from ..store.side_arrays import ScaleArrays, SideArray, stored_scales
from ..store.zarr_json import same

LOST = "lost"  # a key of the job of a journal that stands for one that was damaged: what was under way is not known


@dataclass(frozen=True)
class Growing:
    """What is written beyond the length of an array, by a journal; it travels to where tasks run.

    `before` are the metadata that readers go by, `after` those with the length that there will be. Where nothing is
    part of the array yet, `start` is 0, whatever shape `before` have.
    """

    variable: Variable
    before: Metadata
    after: Metadata
    journal: Journal
    start: int

    @property
    def axis(self) -> int:
        return self.journal.axis

    @property
    def key(self) -> str:
        return journal_key(self.variable.folder)

    def guard(self) -> WriteGuard:
        """The right of a task to write beyond the array's length, as long as this job is at it."""
        return WriteGuard(self.variable.keys, self.variable.folder, self.stands, self.may_be_part)

    def may_be_part(self) -> bool:
        """Whether what this run wrote may be part of the array: another run of this job may have committed it."""
        try:
            now = self.variable.metadata()
        except StoreError:
            return True
        return now is not None and Growth.of(now) is not None and now.layout.shape[self.axis] > self.start

    def stands(self) -> bool:
        """True; raises a `StoreError` if this job is no longer at it."""
        keys = self.variable.keys
        if not keys.holds(self.key, self.journal.to_json()) or not keys.holds(self.variable.key, self.before.to_json()):
            raise StoreError(
                f"{self.variable.where} was taken over while something was appended to it: another process has "
                "overwritten it, appended to it or discarded this. Nothing of it is part of the array"
            )
        return True

    # Regions

    def fresh(self, number: int) -> Region:
        """The new values of a unit, as indices of the array."""
        return self.clipped(number, self.start, self.after.layout.shape[self.axis])

    def old(self, number: int) -> Region:
        """The values of a unit that were there."""
        return self.clipped(number, 0, self.start)

    def clipped(self, number: int, start: int, stop: int) -> Region:
        region = list(self.after.layout.units.region(number))
        part = region[self.axis]
        low = min(max(part.start, start), part.stop)
        region[self.axis] = slice(low, max(low, min(part.stop, stop)))
        return tuple(region)

    def has_old(self, number: int) -> bool:
        return bool(self.after.layout.units.region(number)[self.axis].start < self.start)

    def numbers(self) -> list[list[int]]:
        """The units with new values, those at one place along the axis together."""
        units = self.after.layout.units
        return [self.slab(place) for place in range(self.start // units.box[self.axis], units.counts[self.axis])]

    def slab(self, place: int) -> list[int]:
        """The units at one place along the axis."""
        units = self.after.layout.units
        inner = replace_at(units.counts, self.axis, 1)
        positions = (np.unravel_index(i, inner) for i in range(int(np.prod(inner))))
        return [units.number(replace_at(tuple(map(int, one)), self.axis, place)) for one in positions]

    # What is written

    def unit(self, number: int) -> np.ndarray:
        """Room for the codes of a unit, in which those that were there lie, all others 0."""
        layout, old, region = self.after.layout, self.old(number), self.after.layout.units.region(number)
        packed = np.zeros(packed_shape(layout.unit), np.uint8)
        if not self.has_old(number):
            return packed
        for chunk, shared in self.reader.grid.touched(old):
            held = tuple(slice(0, n) for n in packed_shape(shape_of(shared)))
            packed[packed_region(within(shared, region))] = self.reader.read(chunk)[held]
        last = within(old, region)[-1].stop
        if last % 2 and self.axis == len(old) - 1:
            packed[..., last // 2] &= 0x0F  # what an append that was given up may have left there
        return packed

    @functools.cached_property
    def reader(self) -> ChunkReader:
        return ChunkReader(self.variable.keys, self.variable.name, self.before)

    def __getstate__(self) -> dict[str, object]:
        """Without the reader: what it knows of the store's files is of this machine."""
        return {key: value for key, value in self.__dict__.items() if key != "reader"}

    def write_scales(self, number: int, scales: Scales | None, guard: WriteGuard) -> None:
        """Write the scales of a unit: those that were there, and behind them the new ones, if there are some."""
        stored = stored_scales(self.variable.keys, self.variable.name, self.after)
        if not isinstance(stored, ScaleArrays) or self.axis not in stored.axes:
            return
        parts = [] if scales is None else [stored.form.stored(scales)]
        if self.has_old(number):
            before = stored_scales(self.variable.keys, self.variable.name, self.before)
            parts.insert(0, stored.form.stored(before.read(self.old(number))))
        for (array, place), *entries in zip(self.scale_places(stored, number), *parts, strict=True):
            whole = np.concatenate(entries, axis=self.axis)
            array.set(place, whole.reshape(tuple(whole.shape[axis] for axis in stored.axes)), guard)
        self.keep(number, guard)

    def scale_places(self, stored: ScaleArrays, number: int) -> Iterator[tuple[SideArray, int]]:
        """The arrays of scales, and the number of the unit of each that has those of a unit."""
        position = self.after.layout.units.position(number)
        for array in stored.arrays:
            yield array, array.units.number(tuple(position[axis] for axis in stored.axes))

    def write(self, number: int, packed: np.ndarray, guard: WriteGuard) -> None:
        self.variable.write(self.after.layout, number, packed, guard)
        self.keep(number, guard)

    def keep(self, number: int, guard: WriteGuard) -> None:
        """Have a unit stay as it was written where it holds old values too, whatever becomes of this job."""
        if self.has_old(number):
            guard.written.clear()

    def is_written(self, number: int) -> bool:
        """Whether a unit that holds new values alone is there."""
        if self.has_old(number):
            return False
        return self.variable.keys.view(self.variable.chunk_key(self.after.layout, number), 0, 1) is not None

    # The end of it

    def describe_scales(self, guard: WriteGuard) -> None:
        """Write the documents of the arrays of scales, which may be longer than the array says that it is."""
        keys, name = self.variable.keys, self.variable.name
        for array in stored_scales(keys, name, self.after).arrays:
            if not keys.holds(array.metadata_key, array.document()):
                keys.settle(array.metadata_key, array.document(), guard.stands)

    def flush(self) -> None:
        """Have the disk hold all that was written."""
        variable = self.variable
        stored = stored_scales(variable.keys, variable.name, self.after)
        written = {self.key, *(array.metadata_key for array in stored.arrays)}
        for number in (number for slab in self.numbers() for number in slab):
            written.add(variable.chunk_key(self.after.layout, number))
            if isinstance(stored, ScaleArrays):
                written |= {array.key(place) for array, place in self.scale_places(stored, number)}
        variable.keys.flush_files(written)

    def commit(self, metadata: Metadata, durable: bool = False) -> None:
        """Make what was written part of the array.

        Raises
        ------
        StoreError
            If this job is no longer at it.
        """
        keys, key = self.variable.keys, self.variable.key
        self.describe_scales(self.guard())
        if durable:
            self.flush()
        with keys.locked(self.variable.folder):
            _, tag = keys.tagged(key) or (None, None)
            self.stands()  # so the tag is that of what it was
            if keys.replace(key, metadata.to_json(), tag) is None:
                raise StoreError(f"{self.variable.where} was written by another process while this was appended to it")
        if durable:
            keys.flush_files([key])

    def finish(self) -> None:
        """Close the journal: what it spoke of is part of the array, or gone."""
        keys, folder = self.variable.keys, self.variable.folder
        with keys.locked(folder):
            if keys.holds(self.key, self.journal.to_json()):  # and not another's, who came before
                keys.delete(self.key)
        keys.sweep(f"{folder}/{HIDDEN}", folder, below=False)  # and no listing of all chunks
        keys.remove_empty(f"{folder}/{HIDDEN}")

    def discard(self) -> None:
        """Remove what was written: the store then is, byte by byte, what it was.

        Raises
        ------
        StoreError
            If it is part of the array, or another is at it.
        """
        keys, variable = self.variable.keys, self.variable
        given_up = replace(self, journal=replace(self.journal, discarding=True), after=self.before)
        with keys.locked(variable.folder):  # whoever writes under the journal has ended, or will see this
            _, tag = keys.tagged(self.key, JOURNAL_MOST) or (None, None)
            mine = LOST in self.journal.job or keys.holds(self.key, self.journal.to_json())
            whole = keys.holds(variable.key, self.before.to_json())
            if not (mine and whole) or keys.replace(self.key, given_up.journal.to_json(), tag) is None:
                raise StoreError(f"{variable.where} is being written by another process; look at it again")
        guard = given_up.guard()
        guard.stands()
        for axis in range(len(self.before.layout.shape)) if LOST in self.journal.job else (self.axis,):
            given_up.take_back(axis, guard)
        given_up.describe_scales(guard)
        variable.sweep()
        given_up.finish()

    def undo(self) -> None:
        """Remove what was written and is not part of the array; the journal stays."""
        back = replace(self, after=self.before)
        guard = back.guard()
        back.take_back(self.axis, guard)
        if self.start:
            back.describe_scales(guard)

    def take_back(self, axis: int, guard: WriteGuard) -> None:
        """Remove what lies beyond the array along an axis, and write the last units as they were."""
        layout = self.before.layout
        stored = stored_scales(self.variable.keys, self.variable.name, self.before)
        keys, folder = self.variable.keys, self.variable.folder
        remove_beyond(keys, folder, axis, self.kept(layout.units.counts, axis))
        for array in stored.arrays:
            if isinstance(stored, ScaleArrays) and axis in stored.axes:
                place = stored.axes.index(axis)
                remove_beyond(keys, array.name, place, self.kept(array.units.counts, place))
        if not self.start:
            return
        back = replace(self, journal=replace(self.journal, axis=axis), start=layout.shape[axis])
        if back.start % layout.unit[axis]:
            for number in back.numbers()[0]:
                back.write_scales(number, None, guard)
                back.write(number, back.unit(number), guard)

    def kept(self, counts: tuple[int, ...], axis: int) -> tuple[int, ...]:
        """How many chunks hold what is part of the array, along each axis, of those that there are."""
        return counts if self.start else replace_at(counts, axis, 0)


def begin(variable: Variable, metadata: Metadata, wanted: Journal) -> tuple[Journal, bool]:
    """The journal by which a job goes on, and whether it had begun before; one that another left unfinished is refused.

    Raises
    ------
    StoreError
        If another job is under way, or the metadata are others by now.
    """
    keys, key = variable.keys, journal_key(variable.folder)
    if not variable.member:
        drop_consolidated(keys)
    with keys.locked(variable.folder):
        found, tag = journal_of(keys, variable.folder), keys.tag(key, JOURNAL_MOST)
        if found is not None and is_committed(found, metadata):
            if same(found.job, wanted.job):  # a call that came to its end but for this
                return found, True
            keys.replace(key, wanted.to_json(), tag)
        elif found is None:
            keys.set_new(key, wanted.to_json())
        found = journal_of(keys, variable.folder)
        if found == wanted:
            if keys.holds(variable.key, metadata.to_json()):
                return wanted, False
            keys.delete(key)
            raise StoreError(f"{variable.where} was written by another process meanwhile; look at it, and append again")
    if found is None:
        raise StoreError(f"{variable.where}: the journal is not there after it was written: the store loses writes")
    if (
        not found.discarding
        and same(found.job, wanted.job)
        and (found.start, found.axis) == (wanted.start, wanted.axis)
    ):
        return found, True
    raise StoreError(under_way(variable, found))


def discarded(variable: Variable, metadata: Metadata) -> bool:
    """Give up what is under way at a sealed variable, be its journal damaged; whether something was."""
    try:
        journal = journal_of(variable.keys, variable.folder)
    except StoreError:
        journal = Journal(uuid.uuid4().hex, 0, 0, None, "", {LOST: True})
    if journal is None:
        return False
    growing = Growing(variable, metadata, metadata, journal, metadata.layout.shape[journal.axis])
    if is_committed(journal, metadata):
        growing.finish()
        return False
    growing.discard()
    return True


def outside_of(asked: str | None, metadata: Metadata) -> str:
    """What becomes of values beyond a scale that is there; where nothing is asked, a `value_range` says it."""
    return asked or ("raise" if metadata.rule.method.value_range is None else "saturate")


def is_committed(journal: Journal, metadata: Metadata) -> bool:
    """Whether what a journal speaks of is part of the array."""
    growth = Growth.of(metadata)
    return growth is not None and growth.run == journal.run and journal.stop is not None


def under_way(variable: Variable, journal: Journal) -> str:
    """What to say of a journal that another job has left, or is at."""
    what = "a writer" if journal.stop is None else f"an append of {journal.stop - journal.start:,}"
    return (
        f"{variable.where}: {what} along axis {journal.axis}, from index {journal.start:,} on, is under way or was "
        "killed. Run that again to go on with it, or discard it: quantize append --discard STORE, or "
        "discard_append(store)"
    )


def remove_beyond(keys: Keys, name: str, axis: int, counts: tuple[int, ...]) -> None:
    """Remove the chunks of a stored array that lie beyond its length along an axis."""
    prefix, beyond = f"{name}/c/", []
    pattern = re.compile("/".join([NUMBER] * len(counts)))

    def take(key: str) -> None:
        inside = key.removeprefix(prefix)
        if len(inside) < len(key) and pattern.fullmatch(inside) and int(inside.split("/")[axis]) >= counts[axis]:
            beyond.append(key)

    keys.each(f"{name}/c", take)
    for key in beyond:
        keys.delete(key)
    folders = {key.rsplit("/", n)[0] for key in beyond for n in range(1, len(counts))}
    for folder in sorted(folders, key=len, reverse=True):
        keys.remove_empty(folder)


def put(packed: np.ndarray, inside: Region, codes: np.ndarray) -> None:
    """Lay packed codes of a region of their own into those of a unit, where that region may begin within a byte."""
    last = inside[-1]
    if last.start % 2 == 0:
        packed[packed_region(inside)] = codes
        return
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)[..., : last.stop - last.start]
    rows = packed[inside[:-1]]
    rows[..., last.start // 2] = rows[..., last.start // 2] & 15 | nibbles[..., 0] << 4
    rest = nibbles[..., 1:]
    if rest.shape[-1] % 2:
        rest = np.concatenate([rest, np.zeros_like(rest[..., :1])], axis=-1)
    place = (last.start + 1) // 2
    rows[..., place : place + rest.shape[-1] // 2] = rest[..., ::2] | rest[..., 1::2] << 4


def replace_at(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])
