"""Values that come one after another, nobody knows how many: written slab by slab, made part of an array now and then.

A slab is all units at one place along the axis that grows. One that is full is quantized and written beyond the length
that readers know, as an append does; a commit makes what was written part of the array. So whoever dies loses what it
had not committed, and whoever comes next goes on behind that.
"""

from __future__ import annotations

import functools
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..calibration.calibrate import calibrate
from ..calibration.search import choose
from ..exceptions import QuantizeWarning, RefusedValuesError, StoreError, UndeclaredValuesError
from ..io.gate import accepted
from ..io.source import Held, Source
from ..numerics.clearance import may_come_back
from ..numerics.foreign import as_array, numbers
from ..numerics.granularity import PER_TENSOR, Granularity
from ..numerics.grid import index_at
from ..numerics.scales import Scale, Scales
from ..numerics.statistics import folded, from_row, no_rows
from ..storage import Variable, drop_consolidated
from ..store.growth import JOURNAL_MOST, Growth, Journal, journal_of, without_growth
from ..store.layout import Layout
from ..store.metadata import Metadata, ScaleNames
from ..store.places import HIDDEN
from ..store.side_arrays import stored_scales
from .appending import AppendTasks, Told, joined, lengthened, scales_for
from .chunking import default_chunks
from .growing import Growing, is_committed, outside_of, replace_at, under_way
from .job import described
from .look import keeps_zero, look_at
from .outlines import LABEL, Wishes
from .pool import result_of, threads
from .progress import Progress
from .units import UnitCache, Units

JOB = {"writer": True}  # of the journal: what tells its job from that of an append


@dataclass(frozen=True)
class Settled:
    """What the first values decide: metadata by which codes are written, and scales where later values share them."""

    metadata: Metadata
    scales: Scales | None


class Stream:
    """One writer at one variable: what it holds in memory, what it has written, and what is committed.

    Attributes
    ----------
    journal : Journal
        By which it writes; whoever replaces that takes the variable over.
    metadata : Metadata
        Those in the store.
    start : int
        How long the array is that they speak of; 0 before the first commit.
    written : int
        How long it is with what was written since.
    count : int
        How many indices lie in memory behind that.
    batch : str
        What to call the values that are written, in messages.
    ended : str
        Why nothing more can be written, once that is so.
    """

    def __init__(
        self, variable: Variable, axis: int, wishes: Wishes, metadata: Metadata, anew: Metadata | None
    ) -> None:
        """Become the writer of a variable that has these metadata; where nothing of it is committed, begin it `anew`.

        What another has written and not committed is removed.

        Raises
        ------
        StoreError
            If another writer, or an append, is at it.
        """
        self.variable, self.axis = variable, axis
        self.wishes = replace(wishes, outside=outside_of(wishes.outside, metadata))
        self.metadata = metadata
        self.start = self.written = self.committed_in(metadata)
        self.buffer: np.ndarray | None = None
        self.batch, self.count, self.slabs, self.ended = "the batch", 0, 0, ""
        self.told, self.cache, self.lock = Told.nothing(), UnitCache(), ExitStack()
        self.last, self.progress = time.monotonic(), Progress("write", 0, 0, 0, 0, known=False)
        run = Journal(uuid.uuid4().hex, axis, self.start, None, self.lineage, JOB)
        keys, self.journal = variable.keys, run
        drop_consolidated(keys)
        with keys.locked(variable.folder):
            if self.left(metadata) is None:
                self.set_journal()
        try:
            self.lock.enter_context(keys.locked(f"{variable.folder}/{HIDDEN}", wait=0))
        except StoreError as error:
            raise StoreError(
                f"{variable.where}: another writer is at it. There can be one at a time: close that, or end its process"
            ) from error
        try:
            self.take_over(anew)
        except BaseException:
            self.lock.close()
            raise

    def take_over(self, anew: Metadata | None) -> None:
        """Replace the journal of who was here last, and remove what that has not committed."""
        keys, variable, before, run = self.variable.keys, self.variable, self.metadata, self.journal
        with keys.locked(variable.folder):
            now = variable.metadata()
            if now is None or without_growth(now) != without_growth(before):
                raise StoreError(f"{variable.where} was overwritten or removed while it was opened; open it again")
            left = self.left(now)
            self.metadata = now
            self.start = self.written = self.committed_in(now)
            self.journal = replace(run, start=self.start, id=self.lineage)
            self.set_journal()
        if left not in (None, run):
            self.growing().undo()
        if left not in (None, run) or not self.start:
            variable.sweep()
        if not self.start and anew is not None and anew.to_json() != now.to_json():
            self.advance(anew)
        if not self.is_settled and self.fixed and self.metadata.rule.method.needs == "nothing":
            self.settle(self.settled(np.zeros(self.metadata.layout.shape, self.dtype)))

    def set_journal(self) -> None:
        keys, key = self.variable.keys, self.growing().key
        _, tag = keys.tagged(key, JOURNAL_MOST) or (None, None)
        if keys.replace(key, self.journal.to_json(), tag) is None:
            raise StoreError(f"{self.variable.where}: another writer came at the same moment; open it again")

    def committed_in(self, metadata: Metadata) -> int:
        return metadata.layout.shape[self.axis] if metadata.status == "sealed" else 0

    @property
    def lineage(self) -> str:
        growth = Growth.of(self.metadata)
        return uuid.uuid4().hex if growth is None else growth.id

    def left(self, metadata: Metadata) -> Journal | None:
        """The journal that another writer left; one of an append is refused, unless that has come to its end."""
        found = journal_of(self.variable.keys, self.variable.folder)
        if found is None or (found.stop is None and not found.discarding):
            return found
        if metadata.status == "sealed" and is_committed(found, metadata):
            return None
        raise StoreError(under_way(self.variable, found))

    # What it is

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.metadata.layout.dtype

    @property
    def slab(self) -> int:
        """Indices of the axis in a slab."""
        return self.metadata.layout.unit[self.axis]

    @property
    def granularity(self) -> Granularity:
        return self.metadata.granularity

    @property
    def fixed(self) -> bool:
        """Whether all values along the axis share their scales, so that the first must choose them."""
        return self.granularity.length(self.axis) is None

    @property
    def is_settled(self) -> bool:
        return self.metadata.status != "scanning"

    @property
    def lacking(self) -> int:
        """Indices that fill the slab which was begun."""
        return self.slab - self.written % self.slab

    def growing(self, stop: int | None = None) -> Growing:
        after = self.metadata if stop is None else lengthened(self.variable, self.metadata, self.axis, stop)
        return Growing(self.variable, self.metadata, after, self.journal, self.start)

    def tasks(self, values: np.ndarray, first: int) -> AppendTasks:
        """Those that pack values which begin at an index of the axis."""
        stop = first + values.shape[self.axis]
        shape = replace_at(self.metadata.layout.shape, self.axis, stop - self.start)
        return AppendTasks(
            self.growing(stop), Held(LABEL, shape, values, self.axis, first - self.start), "saturate", self.cache
        )

    def part(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Some indices of the axis."""
        return values[(*(slice(None),) * self.axis, slice(start, stop))]

    # What comes in

    def accept(self, batch: Any) -> np.ndarray:
        """A batch as an array of the stream's dtype.

        Raises
        ------
        UndeclaredValuesError
            If it has values that the dtype does not hold.
        ValueError, TypeError
            If it has another shape, or is no array.
        """
        values, shape = as_array(batch, self.batch), self.metadata.layout.shape
        if values.ndim != len(shape) or replace_at(values.shape, self.axis, 1) != replace_at(shape, self.axis, 1):
            like = ", ".join("n" if along == self.axis else str(n) for along, n in enumerate(shape))
            raise ValueError(
                f"{self.batch} has shape {values.shape}, but must have ({like}{',' * (len(shape) == 1)}), where n may "
                "be any length; one index alone is a batch of length 1"
            )
        mark = self.metadata.missing if self.dtype.kind in "iu" else None
        try:
            return accepted(values, tuple(slice(0, n) for n in values.shape), self.batch, self.dtype, mark)
        except UndeclaredValuesError as error:
            raise UndeclaredValuesError(
                f"{self.batch} is of {values.dtype}, and {self.variable.where} of {self.dtype}, which does not hold "
                "all of that. Nothing of it was taken: convert it, by astype"
            ) from error

    def write(self, batch: Any) -> None:
        """Take a batch, whole or, where it is refused, not at all; write and commit what that makes full.

        Raises
        ------
        RefusedValuesError
            If it holds values that have no code.
        StoreError, OSError
            If the store does not take what was written: the stream has failed then.
        """
        values = self.accept(batch)
        if not values.size:
            return
        ahead = self.check(values)
        with self.failing():
            self.take(values, ahead)
        if self.wishes.seconds is not None and time.monotonic() - self.last >= self.wishes.seconds:
            self.flush()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Around what cannot be gone on after, if it fails: who knows what of it was done."""
        try:
            yield
        except BaseException as error:
            self.end(f"failed with {type(error).__name__}: {error}")
            raise

    def check(self, values: np.ndarray) -> Settled | None:
        """Refuse a batch with values that have no code, or lie outside of a range which is chosen already.

        What comes back is what it decides together with those before it, where it does.
        """
        rule, n = self.metadata.rule, values.shape[self.axis]
        row = self.scanned(values) if rule.looks else None
        ahead, begins = None, 0
        many = self.wishes.calibrate
        if not self.is_settled and many is not None and self.count + n >= many:
            begins = many - self.count
            ahead = self.settled(self.joined_to_held(self.part(values, 0, begins)))
        if self.fixed and not self.is_settled and ahead is None:
            return ahead
        saturates = self.wishes.outside == "saturate"
        if saturates and not may_come_back(rule, self.dtype, self.metadata.missing):
            return ahead
        ends = n
        if not self.fixed:  # values that fill up the last of the groups that are committed have its scale
            length = self.granularity.length(self.axis) or 1
            ends = min(max(-(-self.start // length) * length - self.written - self.count, 0), n)
        scales = None if ahead is None else ahead.scales
        if row is not None and self.is_within(row, scales):
            return ahead
        beyond = 0
        first: tuple[int, ...] = ()
        for start in range(begins, ends, self.slab):
            part = self.part(values, start, min(start + self.slab, ends))
            tasks = self.tasks(part, at := self.written + self.count + start)
            region = tuple(
                slice(at, at + m) if along == self.axis else slice(0, m) for along, m in enumerate(part.shape)
            )
            found = tasks.pack_known(0, region, None, None, None if scales is None else scales_for(scales, part.shape))
            if found.lost >= 0:
                index = self.in_batch(found.lost, tasks, at - start)
                lost = tasks.lost_said(values[index], index)
                raise RefusedValuesError(f"{self.batch}: {lost}. Nothing of it was taken")
            if found.outside and not first:
                first = self.in_batch(found.first, tasks, at - start)
            beyond += found.outside
        if beyond and not saturates:
            raise RefusedValuesError(
                f"{self.batch}: {beyond:,} values lie outside the range of the scale that {self.variable.where} has, "
                f"the first of them at index {first}. Nothing of it was taken. outside='saturate' gives such "
                "values the nearest level and counts them"
            )
        return ahead

    def in_batch(self, position: int, tasks: AppendTasks, begin: int) -> tuple[int, ...]:
        """A position among what tasks write as an index of the batch, which begins at an index of the axis."""
        index = index_at(position, tasks.source.shape)
        return replace_at(index, self.axis, index[self.axis] + self.start - begin)

    def scanned(self, values: np.ndarray) -> np.ndarray:
        """The statistics of a batch, as a row; a batch with values that have no code is refused."""
        source, missing = Held(self.batch, values.shape, values, 0, 0), self.metadata.missing
        rule = replace(self.metadata.rule, granularity=PER_TENSOR)
        layout = Layout(values.shape, self.dtype, default_chunks(source))
        units = Units(source, layout, rule, missing, self.cache)
        row = folded(np.concatenate([units.scan(number, None) for number in range(layout.units.count)]))
        statistics = from_row(row)
        if rule.refused(statistics):
            index = index_at(max(statistics.first, 0), values.shape)
            raise RefusedValuesError(
                f"{self.batch}: {rule.refusal(statistics, index, missing)}. Nothing of it was taken"
            )
        return row

    def is_within(self, row: np.ndarray, scales: Scales | None) -> bool:
        """Whether values with these statistics surely have codes of their own by the one scale."""
        scale, statistics = self.metadata.scale, from_row(row)
        if not self.granularity.single or statistics.infinite:
            return False
        if scales is None:
            if not isinstance(scale, Scale):
                return False
            scales = Scales.one(scale, self.metadata.layout.shape)
        tasks = AppendTasks(self.growing(), Source(LABEL, (1,), self.dtype))
        low, high = tasks.limits(scales)
        if tasks.as_missing(scales).any():
            return False
        return not statistics.count or bool(low[0] <= statistics.minimum and statistics.maximum <= high[0])

    def joined_to_held(self, values: np.ndarray) -> np.ndarray:
        if self.buffer is None or not self.count:
            return values
        return np.concatenate([self.part(self.buffer, 0, self.count), values], axis=self.axis)

    def take(self, values: np.ndarray, ahead: Settled | None) -> None:
        """Write what fills slabs, and hold the rest."""
        taken, n = 0, values.shape[self.axis]
        if ahead is not None:
            self.hold(self.part(values, 0, taken := (self.wishes.calibrate or 0) - self.count))
            self.settle(ahead)
            self.drain()
        while taken < n:
            waits = not self.is_settled and self.wishes.calibrate is not None
            if not self.count and not waits and n - taken >= self.lacking:
                stop = taken + self.lacking
                self.put(self.part(values, taken, stop))
                taken = stop
                continue
            stop = n if waits else min(n, taken + self.lacking - self.count)
            self.hold(self.part(values, taken, stop))
            taken = stop
            if not waits:
                self.drain()

    def hold(self, values: np.ndarray) -> None:
        """Keep a copy of values in memory behind those that are."""
        stop = self.count + values.shape[self.axis]
        if self.buffer is None or self.buffer.shape[self.axis] < stop:
            length = max(self.slab, 0 if self.is_settled else self.wishes.calibrate or 0)
            room = np.empty(replace_at(self.metadata.layout.shape, self.axis, length), self.dtype)
            if self.buffer is not None:
                self.part(room, 0, self.count)[...] = self.part(self.buffer, 0, self.count)
            self.buffer = room
        self.part(self.buffer, self.count, stop)[...] = values
        self.count = stop

    def drain(self, stop: int | None = None) -> None:
        """Write the slabs that are full in memory; or what lies before an index."""
        done, held = 0, self.count
        while self.buffer is not None and done < held:
            some = self.lacking if stop is None else min(self.lacking, stop - self.written)
            if some <= 0 or done + some > held:
                break
            self.put(self.part(self.buffer, done, done + some))
            done += some
        self.count = held - done
        if done and self.buffer is not None:
            rest = self.part(self.buffer, done, held).copy()
            if self.buffer.shape[self.axis] > self.slab:  # what chose the scale was longer
                self.buffer = None
            self.count = 0
            if rest.size:
                self.hold(rest)

    # What goes out

    def settled(self, values: np.ndarray) -> Settled:
        """What these values, the first, decide; nothing is written."""
        metadata, rule = self.metadata, self.metadata.rule
        source = Held(LABEL, values.shape, values, 0, 0)
        names = ScaleNames.of(self.variable.name, metadata.version)
        if not self.fixed:
            keeps = rule.granularity.fraction > 1 and keeps_zero(source)
            return Settled(metadata.at("writing", scale=names, keep_zero=keeps), None)
        units = Units(source, Layout(values.shape, self.dtype, values.shape), rule, metadata.missing, self.cache)
        if rule.method.needs == "nothing":
            rows = no_rows(rule.granularity.count(values.shape))
            scales = Scales.of(*choose(rule, rows, None), rule.granularity, values.shape)
        else:
            look = None if self.wishes.quiet else look_at(source, metadata.missing)
            if look is not None and (text := look.before()):
                warnings.warn(text, QuantizeWarning, stacklevel=2)
            rows = units.scan(0, None)
            known = values if metadata.missing is None else np.ma.masked_equal(values, metadata.missing)
            scales = calibrate(numbers(known, LABEL), rule, self.wishes.workers)
        scales = units.cleared(scales, rows)
        scale = Scale(*scales.plain()) if rule.granularity.single else names
        return Settled(metadata.at("writing", scale=scale), scales)

    def settle(self, settled: Settled) -> None:
        """Write what the first values decided."""
        if settled.scales is not None and not self.granularity.single:
            axis = self.granularity.axis
            assert axis is not None
            stored = stored_scales(self.variable.keys, self.variable.name, settled.metadata)
            units, found = stored.arrays[0].units, settled.scales
            for place in range(units.count):
                own = (*(slice(None),) * axis, *units.region(place))
                part = Scales(found.scale[own], found.zero_point[own], found.granularity, found.shape)
                guard = self.growing().guard()
                with guard.writing():
                    stored.write(place, part, guard)
        self.advance(settled.metadata)

    def advance(self, metadata: Metadata) -> None:
        """Replace the metadata, of which nothing is committed yet."""
        keys, key = self.variable.keys, self.variable.key
        with keys.locked(self.variable.folder):
            _, tag = keys.tagged(key) or (None, None)
            self.growing().stands()
            if keys.replace(key, metadata.to_json(), tag) is None:
                raise StoreError(f"{self.variable.where} was taken over by another process while this wrote to it")
        self.metadata = metadata

    def put(self, values: np.ndarray) -> None:
        """Quantize and write values that follow what was written, up to the end of a slab at most."""
        if not self.is_settled:
            self.settle(self.settled(values))
        tasks = self.tasks(values, self.written)
        units = tasks.growing.slab(self.written // self.slab)
        parts = [units] if tasks.shares else [[number] for number in units]
        workers = min(self.wishes.workers, len(parts))
        if workers == 1:
            found = [tasks.write(part) for part in parts]
        else:
            with threads(workers, self.cache.stop) as pool:
                found = list(map(result_of, [pool.submit(tasks.write, part) for part in parts]))
        self.told = functools.reduce(Told.and_then, found, self.told)
        self.written += values.shape[self.axis]
        done = self.progress.done + len(units)
        self.progress = replace(self.progress, done=done, total=done, nbytes=self.progress.nbytes + values.nbytes)
        self.wishes.report(self.progress)
        if self.written % self.slab == 0:
            self.slabs += 1
            if self.wishes.slabs is not None and self.slabs >= self.wishes.slabs:
                self.commit()

    def commit(self) -> None:
        """Make what was written part of the array."""
        if self.written == self.start:
            return
        before = self.metadata
        growing, growth = self.growing(self.written), Growth.of(self.metadata)
        new = Growth(
            self.journal.id,
            self.axis,
            (growth.commits if growth else 0) + 1,
            (growth.saturated if growth else 0) + self.told.outside,
            self.journal.run,
        )
        statistics = before.statistics
        if statistics is not None or (not self.start and self.fixed and before.rule.method.needs != "nothing"):
            found = described(from_row(self.told.row))
            statistics = found if statistics is None else joined(statistics, found)
        metadata = replace(growing.after, status="sealed", statistics=statistics, fingerprint=new.beside(before))
        growing.commit(metadata, self.wishes.durable)
        self.metadata, self.start, self.told = metadata, self.written, Told.nothing()
        self.slabs, self.last = 0, time.monotonic()

    def flush(self) -> None:
        """Commit all that is whole: up to the last block along the axis whose values are there."""
        if not self.is_settled and self.fixed:
            return
        length, ends = self.granularity.length(self.axis) or 1, self.written + self.count
        with self.failing():
            self.drain(ends // length * length)
            self.commit()

    def close(self) -> None:
        """Commit the rest, and end; a variable in which nothing is to be is removed."""
        with self.failing():
            if self.count:
                if not self.is_settled:
                    self.settle(self.settled(self.part(self.buffer, 0, self.count)))  # type: ignore[arg-type]
                self.drain(self.written + self.count)
            self.commit()
            self.wishes.report(replace(self.progress, known=True))
            if self.start:
                self.growing().stands()
                self.growing().finish()
            else:
                self.variable.remove(self.metadata)
        self.end("been closed")

    def give_up(self) -> None:
        """End, and remove what was not committed."""
        try:
            self.growing().discard()
        finally:
            self.end("been given up")

    def end(self, why: str) -> None:
        """Let others come. What was not committed is left to the next writer, which removes it."""
        self.ended = self.ended or why
        self.buffer, self.count = None, 0
        self.lock.close()
