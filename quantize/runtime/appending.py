"""Values that come behind those of an array: its scales where they are there, new ones where not; a job of its own."""

from __future__ import annotations

import functools
import math
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..calibration.histogram import GrowingHistogram, Histogram, bins_for, merged_place
from ..calibration.search import choose
from ..exceptions import QuantizeWarning, RefusedValuesError, StoreError
from ..io.decoding import decoded, decoded_as
from ..io.source import Source, Window
from ..numerics.clearance import may_come_back
from ..numerics.dtypes import FLOATS, rounded_within
from ..numerics.grid import Region, index_at, packed_region, packed_shape, shape_of, within
from ..numerics.scales import Scales
from ..numerics.statistics import bounds, folded, from_row, no_rows
from ..numerics.tables import coefficients
from ..storage import Variable
from ..store.growth import Growth, Journal, journal_of
from ..store.layout import Layout, check_scales
from ..store.metadata import Metadata
from ..store.retrying import retried
from ..store.side_arrays import stored_scales
from .cluster import on_worker
from .growing import Growing, begin, is_committed, outside_of, put, replace_at
from .job import Stage, Steps, described, driven
from .likeness import check_fits
from .look import look_at
from .plan import AppendPlan, Plan, planned
from .progress import Counter
from .scans import batch_size, scan_batches
from .schedulers import Task, run_tasks
from .settings import Settings
from .tasks import PLACES, paired
from .units import UnitCache, Units

LAID = 4  # packed units: that in which old and new codes are laid together, what is read of it, and two stored forms
SLACK = 1e-5  # steps: what lies so little further out than half of one is within the range, as in the bound


class Told(NamedTuple):
    """What a task tells of its values.

    A row of statistics; how many lie outside the range, and where the first of them; where the first is that would come
    back as a missing one.
    """

    row: np.ndarray
    outside: int = 0
    first: int = -1
    lost: int = -1

    @classmethod
    def nothing(cls) -> Told:
        return cls(no_rows(1)[0])

    def and_then(self, other: Told) -> Told:
        row = folded(np.stack([self.row, other.row]))
        first, lost = earliest(self.first, other.first), earliest(self.lost, other.lost)
        return Told(row, self.outside + other.outside, first, lost)


def earliest(*positions: int) -> int:
    """The first of some positions, of which -1 is none."""
    return min((position for position in positions if position >= 0), default=-1)


@dataclass(frozen=True)
class AppendTasks:
    """The tasks of a source on its way behind an array; they travel to where they run.

    Of values that share a scale with some that are there, the scale stays; all others get one as in a run.
    """

    growing: Growing
    source: Source
    outside: str = "raise"
    cache: UnitCache = field(default_factory=UnitCache)

    @property
    def after(self) -> Metadata:
        return self.growing.after

    def write(self, numbers: list[int], blocks: list[np.ndarray] | None = None, *, again: bool = False) -> Told:
        """Pack and write some units, with all that is new in them; those that were written are left as they are."""
        growing, told = self.growing, Told.nothing()
        guard, together = growing.guard(), None
        if self.shares:
            told, together = self.scales_of_all(numbers)
            with guard.writing():
                growing.write_scales(numbers[0], together, guard)
        for number, block in paired(numbers, blocks):
            done = again and not growing.variable.keys.verify and growing.is_written(number)
            packed = None if done else growing.unit(number)
            known, new = self.parted(growing.fresh(number))
            scales, outside = together, 0
            if known is not None:
                found = self.pack_known(number, known, self.part_of(block, number, known), packed)
                self.check_kept(found)
                told, outside = told.and_then(found), found.outside
            if new is not None and packed is not None:
                found, scales = self.pack_new(number, new, self.part_of(block, number, new), packed, together)
                told = told if self.shares else told.and_then(found)
            if packed is None or (outside and self.outside == "raise"):
                continue
            with guard.writing():
                if not self.shares:
                    growing.write_scales(number, scales, guard)
                growing.write(number, packed, guard)
        guard.stands()
        return told

    @functools.cached_property
    def shares(self) -> bool:
        """Whether values that are new share scales with those of other units beside them."""
        return shares(self.after, self.growing.axis)

    def parted(self, fresh: Region) -> tuple[Region | None, Region | None]:
        """The part of new values whose scales are there, and the other part."""
        axis, start = self.growing.axis, self.growing.start
        length = self.after.granularity.length(axis)
        low, high = fresh[axis].start, fresh[axis].stop
        cut = high if length is None else min(max(-(-start // length) * length, low), high)
        known, new = (replace_slice(fresh, axis, *ends) for ends in ((low, cut), (cut, high)))
        return known if cut > low else None, new if high > cut else None

    # Parts of a unit, as indices of the array

    def in_source(self, region: Region) -> Region:
        axis, start = self.growing.axis, self.growing.start
        return replace_slice(region, axis, region[axis].start - start, region[axis].stop - start)

    def part_of(self, block: np.ndarray | None, number: int, region: Region) -> np.ndarray | None:
        """The values of a region, of the block of a dask graph that has all new ones of a unit."""
        return None if block is None else block[within(region, self.growing.fresh(number))]

    def units_of(self, region: Region, chunks: tuple[int, ...] | None = None) -> Units:
        """A region as an array of its own, whole or in chunks."""
        shape = shape_of(region)
        layout = Layout(shape, self.source.dtype, chunks or shape)
        return Units(
            Window(self.source, self.in_source(region)), layout, self.after.rule, self.after.missing, self.cache
        )

    def lay(self, packed: np.ndarray, number: int, region: Region, codes: np.ndarray) -> None:
        put(packed, within(region, self.after.layout.units.region(number)), codes)

    def pack_known(
        self,
        number: int,
        region: Region,
        block: np.ndarray | None,
        packed: np.ndarray | None,
        scales: Scales | None = None,
    ) -> Told:
        """Pack values by the scales that are there, or these; without a place for their codes, only look at them."""
        units, scales = self.units_of(region), scales or self.known_scales(region)
        whole = units.layout.units.region(0)
        table = coefficients(scales, self.source.dtype, units.codes)
        low, high = self.limits(scales)
        as_missing = self.as_missing(scales)
        rows, codes, outside, first, missed = units.no_rows(whole), units.room(whole), 0, -1, -1
        for piece, values in units.values(0, block):
            for part, small in units.cached_blocks(piece, values):
                units.scan_part(part, small, whole, rows)
                groups = units.rule.granularity.span(part, whole_shape := shape_of(whole))
                least, most = bounds(rows[groups])
                if (least < low[groups]).any() or (most > high[groups]).any() or rows[groups, 5:7].any():
                    beyond = self.beyond(small, part, whole_shape, low, high)
                    count = int(np.count_nonzero(beyond))
                    first = earliest(first, self.position(beyond, part, region))
                    outside += count
                if packed is not None or as_missing.any():
                    units.pack_part(small, table, part, whole_shape, codes)
                if as_missing.any():
                    lost = self.lost(small, part, region, codes, as_missing)
                    missed = earliest(missed, self.position(lost, part, region))
            del values, small  # before the next piece is read: it may be of another chunk
        self.check_values(region, folded(rows))
        if packed is not None:
            self.lay(packed, number, region, codes)
        return Told(folded(rows), outside, first, missed)

    def beyond(
        self, values: np.ndarray, part: Region, shape: tuple[int, ...], low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Which values of a part lie outside the range of their groups, none that are missing."""
        if len(low) == 1:  # then no array of ends is needed, which takes most of the time
            below, above = low[0], high[0]
            if values.dtype == np.float32:  # the outermost that lie within, or each value would become a float64
                below, above = inner_ends(below, above)
        else:
            place = np.broadcast_to(self.after.granularity.index_of(shape), shape)[part]
            below, above = low[place], high[place]
        found: np.ndarray = (values < below) | (values > above)  # neither of NaN
        missing = self.after.missing
        return found if missing is None else found & (values != np.asarray(missing, values.dtype))

    def position(self, found: np.ndarray, part: Region, region: Region) -> int:
        """Where the first that was found in a part of a region lies, as a position in the source; -1 for none."""
        if not found.any():
            return -1
        inside = index_at(int(np.argmax(found)), found.shape)
        places = zip(inside, part, self.in_source(region), strict=True)
        return int(np.ravel_multi_index(tuple(i + a.start + b.start for i, a, b in places), self.source.shape))

    def is_value(self, values: np.ndarray) -> np.ndarray:
        """Which values are none that stand for missing ones."""
        missing = self.after.missing
        found = values == values if values.dtype in FLOATS else np.ones(values.shape, bool)
        return found if missing is None else found & (values != np.asarray(missing, values.dtype))

    def known_scales(self, region: Region) -> Scales:
        """The scales of values that share them with some that are there."""
        growing, axis = self.growing, self.growing.axis
        variable = growing.variable
        metadata = growing.before if growing.start else growing.after
        one = max(growing.start - 1, 0)
        there = replace_slice(region, axis, one, one + 1)
        found = stored_scales(variable.keys, variable.name, metadata).read(there)
        return Scales(found.scale, found.zero_point, found.granularity, shape_of(region))

    def limits(self, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the range that each group's scale covers, to within half a step of its levels."""
        codes = self.after.codes
        step, zero = scales.scale.reshape(-1), scales.zero_point.reshape(-1)
        more = 0.5 + SLACK
        return (codes.lowest - zero - more) * step, (7 - zero + more) * step

    def as_missing(self, scales: Scales) -> np.ndarray:
        """Which codes stand for what an integer dtype has for missing ones, by group and code, from -8 on."""
        steps, zeros = scales.scale.reshape(-1, 1), scales.zero_point.reshape(-1, 1)
        if not may_come_back(self.after.rule, self.source.dtype, self.after.missing):
            return np.zeros((len(steps), 16), bool)
        found: np.ndarray = rounded_within((np.arange(-8, 8) - zeros) * steps, self.source.dtype) == self.after.missing
        found[:, 0] = False  # the code of missing values
        return found

    def lost(
        self, values: np.ndarray, part: Region, region: Region, codes: np.ndarray, as_missing: np.ndarray
    ) -> np.ndarray:
        """Which values of a part would come back as missing, by their codes."""
        own, shape = codes[packed_region(part)], shape_of(region)
        nibbles = np.stack([own & 15, own >> 4], axis=-1).reshape(*own.shape[:-1], -1)[..., : values.shape[-1]]
        groups = np.broadcast_to(self.after.granularity.index_of(shape), shape)[part]
        found: np.ndarray = as_missing[groups, nibbles ^ 8] & self.is_value(values)
        return found

    def check_kept(self, told: Told) -> None:
        """Refuse values that would come back as the missing one: the scales that are there were not chosen for them."""
        if told.lost < 0:
            return
        index = index_at(told.lost, self.source.shape)
        value = self.source.read(tuple(slice(i, i + 1) for i in index)).item()
        raise RefusedValuesError(
            f"{self.source.label}: {self.lost_said(value, index)}. Nothing was appended; quantizing all of it again "
            "finds a scale for all"
        )

    def lost_said(self, value: Any, index: tuple[int, ...]) -> str:
        return (
            f"by the scale that {self.growing.variable.where} has, the value {value} at index {index} would come back "
            f"as {self.after.missing}, which stands for missing values"
        )

    def pack_new(
        self, number: int, region: Region, block: np.ndarray | None, packed: np.ndarray, scales: Scales | None
    ) -> tuple[Told, Scales]:
        """Pack values by scales of their own."""
        units = self.units_of(region)
        if scales is None:
            codes, rows, scales = units.scale_and_pack(0, block, self.after.keep_zero)
            self.check_values(region, folded(rows))
        else:
            codes, rows = units.pack(0, scales_for(scales, shape_of(region)), block)
        self.lay(packed, number, region, codes)
        return Told(folded(rows)), scales

    def scales_of_all(self, numbers: list[int]) -> tuple[Told, Scales]:
        """The scales of the new values of units beside one another, which share them."""
        axis, rule = self.growing.axis, self.after.rule
        here = self.growing.fresh(numbers[0])[axis]
        region = tuple(here if along == axis else slice(0, n) for along, n in enumerate(self.after.layout.shape))
        lengths = replace_at(self.after.layout.unit, axis, here.stop - here.start)
        units = self.units_of(region, lengths)
        rows, counted = self.counted(units, numbers)
        self.check_values(region, folded(rows))
        found = choose(rule, rows, counted, units.heed_stop)
        scales = units.cleared(Scales.of(*found, rule.granularity, shape_of(region)), rows)
        return Told(folded(rows)), scales

    def counted(self, units: Units, numbers: list[int]) -> tuple[np.ndarray, Histogram | None]:
        """The rows of units beside one another, folded, and their histograms merged, where the rule asks for some.

        As a run would: batch by batch.
        """
        axis, rule, layout = self.growing.axis, self.after.rule, self.after.layout
        batches = scan_batches(layout, rule)
        groups = units.layout.shape[axis]
        rows, found = no_rows(groups), []
        for batch in batches.of_block(layout.units.position(numbers[0])[axis]):
            own = batches.numbers(batch)
            histogram = None
            if rule.method.needs == "histogram":
                values = batches.size * math.prod(layout.unit) // layout.unit[axis]
                bins = bins_for(rule.granularity, values)
                histogram = GrowingHistogram(bins, groups, rule.granularity, self.after.missing)
            inner = (replace_at(layout.units.position(number), axis, 0) for number in own)
            scanned = [units.scan(units.layout.units.number(place), None, histogram) for place in inner]
            told = folded(np.stack(scanned))
            if histogram is not None:
                found.append((histogram.histogram, told))
            rows = folded(np.stack([rows, told]))
        return rows, merged(found) if found else None

    def check_values(self, region: Region, row: np.ndarray) -> None:
        """Refuse values that the rule takes no code for; `row` has where the first is, counted in the region."""
        statistics, rule = from_row(row), self.after.rule
        if rule.refused(statistics):
            shape = shape_of(region)
            inside = index_at(max(statistics.first, 0), shape)
            own = self.in_source(region)
            index = tuple(i + part.start for i, part in zip(inside, own, strict=True))
            raise RefusedValuesError(
                f"{self.source.label}: {rule.refusal(statistics, index, self.after.missing)}"
                f"{self.source.missing_said}. Nothing of it was appended to {self.growing.variable.where}, which was "
                "made without that: leave such values out, or quantize all of it again"
            )


def merged(found: list[tuple[Histogram, np.ndarray]]) -> Histogram:
    """Histograms of parts, and the rows of their values, as one histogram."""
    shown = np.unique(np.linspace(0, len(found) - 1, min(PLACES, len(found))).astype(int))
    places = [(found[i][0].unit, found[i][0].origin, found[i][1][:, 2]) for i in shown]
    bins = found[0][0].bins._replace(dtype=np.int64)  # all parts together
    whole = Histogram.about(bins, *merged_place(*map(np.stack, zip(*places, strict=True))))
    for part, rows in found:
        whole.merge(part, rows)
    return whole


def inner_ends(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The least and the greatest float32 from `low` to `high`.

    >>> inner_ends(0.1, 0.1 + 4e-9)
    (np.float32(0.1), np.float32(0.1))
    """
    with np.errstate(over="ignore"):
        below, above = np.float32(low), np.float32(high)
    below = np.nextafter(below, np.float32(np.inf)) if below < low else below
    return below, np.nextafter(above, np.float32(-np.inf)) if above > high else above


def scales_for(scales: Scales, shape: tuple[int, ...]) -> Scales:
    """The scales of indices of an axis, for the part of their values that a unit has."""
    return Scales(scales.scale, scales.zero_point, scales.granularity, shape)


def replace_slice(region: Region, axis: int, start: int, stop: int) -> Region:
    return (*region[:axis], slice(start, stop), *region[axis + 1 :])


# The job --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Append:
    """One run of `append_to_zarr`, as its driver sees it."""

    plan: Plan
    variable: Variable
    metadata: Metadata
    source: Source
    axis: int
    outside: str
    report: Callable[[Any], None]
    cache: UnitCache = field(default_factory=UnitCache)

    @classmethod
    def of(
        cls,
        origin: Source,
        variable: Variable,
        metadata: Metadata,
        axis: int,
        outside: str | None,
        report: Callable[[Any], None],
        memory: int | str | None = None,
        workers: int | None = None,
    ) -> Append:
        """The job of a source, as it was opened, once it is seen to fit what there is.

        Raises
        ------
        ValueError
            If it does not: in shape, dtype, missing value, dimension names, units or chunks.
        """
        source = origin_as(origin, metadata)
        check_fits(source, variable, metadata, axis)
        missing = source.missing_value("declared")
        source = source.with_missing(metadata.missing)
        stop = metadata.layout.shape[axis] + source.shape[axis]
        after = lengthened(variable, metadata, axis, stop)  # refuses chunks behind which none can begin
        unit = after.layout.unit
        beside = LAID * math.prod(packed_shape(unit))
        alone = replace(settings_as(after), missing=None, chunks=unit, shards=None, memory=memory, workers=workers)
        made = planned(source, variable.keys, alone, variable, beside)
        made = replace(made, missing=metadata.missing)
        made = AppendPlan.of(made, axis, metadata.layout.shape[axis], unit, shares(after, axis))
        job = cls(made, variable, metadata, source, axis, outside_of(outside, metadata), report)
        job.check_missing(missing)
        report(made)
        return job

    def check_missing(self, declared: float | int | None) -> None:
        stored = self.metadata.missing
        if declared is not None and declared != stored:
            raise ValueError(
                f"{self.source.label} declares {declared} as missing, and in {self.variable.where} "
                f"{'no value is' if stored is None else f'{stored} is'}: quantize all of it again, or give values alike"
            )

    @property
    def start(self) -> int:
        return self.metadata.layout.shape[self.axis]

    @functools.cached_property
    def after(self) -> Metadata:
        """The metadata with the length that there will be."""
        return lengthened(self.variable, self.metadata, self.axis, self.start + self.source.shape[self.axis])

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What makes it this job."""
        source = self.source
        sample = retried(source.digest)()
        return {
            "source": {"shape": list(source.shape), "dtype": str(source.dtype), "sample": sample},
            "axis": self.axis,
            "outside": self.outside,
        }

    @functools.cached_property
    def wanted(self) -> Journal:
        growth = Growth.of(self.metadata)
        lineage = uuid.uuid4().hex if growth is None else growth.id
        stop = self.start + self.source.shape[self.axis]
        return Journal(uuid.uuid4().hex, self.axis, self.start, stop, lineage, self.fingerprint)

    def run(self, again: bool = False, durable: bool = False) -> Metadata:
        """As `steps`, each stage run here."""
        return driven(self.steps(again, durable), self.run_stage)

    def run_stage(self, stage: Stage) -> None:
        run_tasks(stage.call, stage.tasks, stage.done, self.plan.scheduler, self.plan.limit, self.cache.stop)

    def steps(self, again: bool = False, durable: bool = False) -> Steps[Metadata]:
        """All of it: the metadata then."""
        if not again and journal_of(self.variable.keys, self.variable.folder) is None:
            self.check_new()
        try:
            journal, begun = begin(self.variable, self.metadata, self.wanted)
        except StoreError as error:
            return self.by_another(error)
        growing = Growing(self.variable, self.metadata, self.after, journal, self.start)
        if is_committed(journal, self.metadata):
            growing.finish()
            return self.metadata
        if begun:
            self.variable.sweep()
        try:
            told = yield from self.writing(growing, begun, self.report)
            new = self.committed(journal, told)
            growing.commit(new, durable)
        except RefusedValuesError:
            growing.discard()
            raise
        except StoreError as error:
            return self.by_another(error)
        growing.finish()
        return new

    def writing(self, growing: Growing, begun: bool, report: Callable[[Any], None]) -> Steps[Told]:
        """Write all that is new, and find out that none of it is refused; nothing is part of the array yet."""
        tasks = AppendTasks(growing, self.source, self.outside, self.cache)
        told = Told.nothing()

        def done(task: Task, found: Told) -> None:
            nonlocal told
            told = told.and_then(found)
            count.add(task.numbers)

        slabs = growing.numbers()
        count = Counter("append", self.after.layout.units, self.source.dtype, 0, report, sum(map(len, slabs)))
        call: Callable[..., Any] = functools.partial(tasks.write, again=begun)
        if self.plan.scheduler == "distributed":
            call = functools.partial(on_worker, call, self.source, self.fingerprint["source"]["sample"], __version__)
        graph = self.source.graph(tasks.in_source(growing.fresh(slabs[0][0]))) is not None
        listed = (Task(numbers, (numbers,), self.blocks(tasks, numbers)) for numbers in batched(tasks, slabs))
        yield Stage("append", call, listed, done, graph)
        self.check_inside(growing, told)
        return told

    def by_another(self, error: StoreError) -> Metadata:
        """The metadata, where another run of this job has come to its end meanwhile.

        Raises
        ------
        StoreError
            The `error`, if none has.
        """
        now = self.variable.metadata()
        growth, mine = None if now is None else Growth.of(now), Growth.of(self.metadata)
        if now is None or growth is None or growth.last != self.fingerprint:
            raise error
        if growth.commits != (mine.commits if mine else 0) + 1 or now.layout != self.after.layout:
            raise error
        return now

    def check_new(self) -> None:
        """Refuse what was appended last: a call that is made again once it has come to its end."""
        growth = Growth.of(self.metadata)
        if growth is None or growth.last != self.fingerprint or self.fingerprint["source"]["sample"] is None:
            return
        first = self.start - self.source.shape[self.axis]
        raise StoreError(
            f"{self.source.label} is what was appended to {self.variable.where} last, as indices {first:,} to "
            f"{self.start - 1:,} of axis {self.axis}. If that was this call, nothing is left to do; pass again=True "
            "to append it once more"
        )

    def check_inside(self, growing: Growing, told: Told) -> None:
        if not told.outside or self.outside == "saturate":
            return
        index = index_at(told.first, self.source.shape)
        raise RefusedValuesError(
            f"{self.source.label}: {told.outside:,} values lie outside the range of the scale that "
            f"{self.variable.where} has, the first of them at index {index}. Nothing was appended. outside='saturate' "
            "gives them the nearest level and counts them; quantizing all of it again finds a scale for all"
        )

    def committed(self, journal: Journal, told: Told) -> Metadata:
        """The metadata by which what was written is part of the array."""
        growth = Growth.of(self.metadata)
        new = Growth(
            journal.id,
            self.axis,
            (growth.commits if growth else 0) + 1,
            (growth.saturated if growth else 0) + told.outside,
            journal.run,
            self.fingerprint,
        )
        statistics = self.metadata.statistics
        if statistics is not None:
            statistics = joined(statistics, described(from_row(told.row)))
        return replace(self.after, statistics=statistics, fingerprint=new.beside(self.metadata))

    def blocks(self, tasks: AppendTasks, numbers: list[int]) -> list[Any] | None:
        parts = [self.source.graph(tasks.in_source(tasks.growing.fresh(number))) for number in numbers]
        return None if any(part is None for part in parts) else parts

    def look(self) -> None:
        """Warn of values that nobody wants, as before a run."""
        found = look_at(self.source, self.metadata.missing)
        text = None if found is None else found.before()
        if text is not None:
            warnings.warn(text, QuantizeWarning, stacklevel=2)


def batched(tasks: AppendTasks, slabs: list[list[int]]) -> Iterator[list[int]]:
    """The units of each task: those that share scales together, or some of those that do not."""
    if tasks.shares:
        yield from slabs
        return
    numbers = [number for slab in slabs for number in slab]
    size = batch_size(len(numbers))
    yield from (numbers[i : i + size] for i in range(0, len(numbers), size))


def shares(after: Metadata, axis: int) -> bool:
    """Whether new values share new scales with those of other units beside them."""
    granularity = after.granularity
    return granularity.length(axis) is not None and not granularity.complete(after.layout.units)


def lengthened(variable: Variable, metadata: Metadata, axis: int, length: int) -> Metadata:
    """The metadata of an array that is longer along an axis.

    Raises
    ------
    ValueError
        If the last of its chunks, or of the blocks that share a scale, ends where no other can begin.
    """
    old, granularity = metadata.layout, metadata.granularity
    try:
        layout = old.grown(axis, length)
        check_scales(granularity, layout)
        found = replace(metadata, layout=layout)
        stored = (stored_scales(variable.keys, variable.name, one).arrays for one in (metadata, found))
        for before, after in zip(*stored, strict=True):
            if (before.chunk, before.shard) != (after.chunk, after.shard):
                raise ValueError(f"its scales lie in chunks of {before.chunk}, and would have to in {after.chunk}")
    except ValueError as error:
        raise ValueError(
            f"{variable.where} of shape {old.shape} in chunks of {old.unit} cannot become longer along axis {axis}: "
            f"{error}. Chunks are as long as the array where that is shorter; an Int4Writer makes arrays whose chunks "
            "stay as they are asked for"
        ) from error
    return found


def origin_as(source: Source, metadata: Metadata) -> Source:
    """A source read as the one of the array was, or as it says of itself."""
    return decoded(source) if metadata.decoding is None else decoded_as(source, metadata.decoding)


def settings_as(metadata: Metadata) -> Settings:
    """The settings of an array that is there, as one would ask for them."""
    rule, layout = metadata.rule, metadata.layout
    compressor = layout.compressor
    codec = None if compressor.name is None else {"name": compressor.name, "configuration": compressor.options}
    return Settings(
        scale_method=rule.method.name,  # type: ignore[arg-type]
        axis=rule.granularity.axis,
        blocks=rule.granularity.blocks,
        finest=rule.finest,
        percentile=rule.method.percentile,
        value_range=rule.method.value_range,
        missing=metadata.missing,
        nan_policy=rule.nan_policy,  # type: ignore[arg-type]
        chunks=layout.chunks,
        shards=layout.shards,
        compressors=codec,
    )


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Statistics of two parts together, as the store keeps them."""
    ends = {key: [part[key] for part in (one, other) if part[key] is not None] for key in ("min", "max")}
    return {
        "count": one["count"] + other["count"],
        "min": min(ends["min"], default=None),
        "max": max(ends["max"], default=None),
        "missing": one["missing"] + other["missing"],
    }
