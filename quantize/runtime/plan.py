"""What a run will need, said before it starts: chunks, tasks, workers, memory, disk. Reads metadata only."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Unpack

from dask.utils import format_bytes

from ..io import as_source
from ..io.decoding import decoded
from ..io.source import Source
from ..numerics.granularity import granularity_of
from ..numerics.grid import Batches, Grid, Shape
from ..numerics.scales import Rule, check_percentile
from ..storage import Variable
from ..store.keys import Keys
from ..store.layout import Layout
from ..store.places import check_one_part
from ..store.zarr_json import to_json
from .chunking import (
    MIB,
    SMALLEST_TARGET,
    TARGET_BYTES,
    chosen_layout,
    default_chunks,
    instead,
    joined,
    spanning,
    with_whole_blocks,
)
from .memory import METADATA, OVERHEAD, SEARCH, free_bytes, statistics_disk, statistics_memory, task_memory
from .scans import bytes_read, passes, scan_batches
from .schedulers import chosen_workers
from .settings import Settings, SettingsGiven, parsed_bytes
from .tables import html_facts

READ_MOST = 2.2  # times the source: what default chunks read at most, where there are such
READ_UNSAID = 64 * MIB  # bytes: nothing is said of chunks that were given and read no more
STATISTICS = 64 * MIB  # bytes: so much more a task may take with the more usual of the chunks that read little
LARGE_TASK = 1 << 30  # bytes: of blocks for which a task takes more it is told
MANY_FILES = 10_000  # chunks: from so many on it is worth while to put several in one file


@dataclass(frozen=True)
class Plan:
    """What a run will do and need. `str` prints it, `to_json` gives its figures.

    Attributes
    ----------
    source, destination : str
        What is read, and where the variable will lie.
    layout : Layout
        Shape, dtype, chunks and shards in values, and the compressor.
    rule : Rule
        How the scale is chosen.
    missing : float, int or None
        The value that counts as missing, beside NaN.
    passes : int
        How often the source is read: 2, or 1 with a `value_range`, with `blocks`, or where each chunk holds all values
        of its indices of the axis.
    scheduler : {"threads", "distributed", ...}
        Where tasks run.
    workers : int
        How many tasks run at a time; on a cluster by the workers that it has now.
    limit : int or None
        How many do at most, whatever workers come to a cluster later; None for as many as those can do.
    read : int
        Bytes that the run reads of the source, at most: what a file's pages hold that runs of values begin or end in,
        and what is decoded of chunks that are compressed. Where workers are processes, each may decode a chunk anew.
    read_once : int
        Bytes that one read of all of the source takes.
    memory : int
        Bytes that the run will hold at most, above the imports; an estimate for a dask source.
    kept : int
        Bytes of pass 1 that are kept for pass 2, counted in `memory`.
    disk : int
        Bytes that the result takes at most.
    free : int or None
        Bytes free at the destination, where that is known.
    notes : tuple of str
        What else there is to know.
    dimension_names : tuple of str or None, optional
        Those of the source.
    """

    source: str
    destination: str
    layout: Layout
    rule: Rule
    missing: float | int | None
    scheduler: str
    workers: int
    limit: int | None
    read: int
    read_once: int
    memory: int
    kept: int
    disk: int
    free: int | None
    notes: tuple[str, ...]
    dimension_names: tuple[str | None, ...] | None = None

    @property
    def passes(self) -> int:
        return passes(self.layout, self.rule)

    @property
    def units(self) -> int:
        return self.layout.units.count

    @property
    def batch(self) -> int:
        """Units that one task takes."""
        return scan_batches(self.layout, self.rule).size

    @property
    def tasks(self) -> int:
        """Of one pass."""
        return scan_batches(self.layout, self.rule).count

    @property
    def reads(self) -> str:
        """How often the source is read, and what for."""
        if self.passes == 2:
            return "2 passes: the range of the data, then the codes"
        if self.rule.method.needs == "nothing":
            return "1 pass: the range is given, so only the codes"
        held = "all values of its indices" if self.rule.granularity.blocks is None else "whole blocks"
        return f"1 pass: each chunk holds {held}, so that scales and codes come from one read"

    @property
    def scales(self) -> str:
        """How scales are chosen, and how many blocks have one, or for which dimension they are."""
        granularity, names = self.rule.granularity, self.dimension_names
        if granularity.blocks is None:
            name = None if granularity.axis is None or names is None else names[granularity.axis]
            return f"{self.rule} ({name})" if name else str(self.rule)
        return f"{self.rule.method}, one for each of {granularity.count(self.layout.shape):,} {granularity.plural}"

    def to_json(self) -> dict[str, Any]:
        layout = self.layout
        document = {
            "source": self.source,
            "destination": self.destination,
            "shape": layout.shape,
            "dtype": layout.dtype,
            "chunks": layout.chunks,
            "shards": layout.shards,
            "compressor": layout.compressor.name,
            **self.rule.to_json(),
            "missing": self.missing if self.missing is None or math.isfinite(self.missing) else str(self.missing),
            "passes": self.passes,
            "units": self.units,
            "tasks": self.tasks,
            "scheduler": self.scheduler,
            "workers": self.workers,
            "limit": self.limit,
            "nbytes": layout.nbytes,
            "read": self.read,
            "read_once": self.read_once,
            "memory": self.memory,
            "kept": self.kept,
            "disk": self.disk,
            "free": self.free,
            "dimension_names": self.dimension_names,
            "notes": self.notes,
        }
        found: dict[str, Any] = to_json(document)
        return found

    @property
    def facts(self) -> dict[str, str]:
        """What there is to know, in words, by its name; the notes left out."""
        layout = self.layout
        written = "shards" if layout.shards else "chunks"
        inner = f", in chunks of {layout.chunks}" if layout.shards else ""
        free = "" if self.free is None else f", {format_bytes(self.free)} free"
        kept = f", {format_bytes(self.kept)} of it to keep what pass 1 read" if self.kept else ""
        return {
            "source": f"{self.source}  {layout.shape} {layout.dtype}, {format_bytes(layout.nbytes)}",
            "destination": f"{self.destination}  {self.units:,} {written} of {layout.unit} values{inner}",
            "scale": f"{self.scales}, {self.reads}",
            "reads": f"{format_bytes(self.read)}, {times(self.read / self.read_once)}",
            "work": f"{self.tasks:,} tasks a pass, {self.workers} at a time on {self.scheduler}",
            "memory": f"{format_bytes(self.memory)} at most{kept}",
            "disk": f"{format_bytes(self.disk)} at most{free}",
        }

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        return "\n".join(
            [*(f"{key:<{width}}  {value}" for key, value in self.facts.items()), *(f"note: {n}" for n in self.notes)]
        )

    def _repr_html_(self) -> str:
        notes = (("note", note) for note in self.notes)
        return html_facts("Plan", self.destination, [*self.facts.items(), *notes])


@dataclass(frozen=True, kw_only=True)
class AppendPlan(Plan):
    """What an append will do and need: a plan of the values that are appended.

    Attributes
    ----------
    axis, start : int
        The axis that becomes longer, and the length along it that there is.
    unit : tuple of int
        What is written at once: a chunk of the array, or a shard.
    reread : bool
        Whether scales are found in a pass of their own, since several chunks share them.
    """

    axis: int
    start: int
    unit: Shape
    reread: bool

    @classmethod
    def of(cls, made: Plan, axis: int, start: int, unit: Shape, reread: bool) -> AppendPlan:
        """That of a plan to quantize the values alone."""
        read = made.read if reread or made.passes == 1 else made.read // 2
        fields = {**vars(made), "read": read, "memory": made.memory - made.kept, "kept": 0}
        return cls(**fields, axis=axis, start=start, unit=unit, reread=reread)

    @property
    def passes(self) -> int:
        return 2 if self.reread else 1

    @property
    def facts(self) -> dict[str, str]:
        layout, granularity = self.layout, self.rule.granularity
        length = granularity.length(self.axis)
        if granularity.single:
            scale = "the one that is there"
        elif length is None:
            scale = "those that are there, one for each of its " + granularity.plural
        else:
            scale = self.scales + (", those that are there stay" if self.start % length else "")
        reads = "2 passes: new scales, then the codes" if self.reread else "1 pass"
        written = "shards" if layout.shards else "chunks"
        place = f"goes behind index {self.start - 1:,} of axis {self.axis}, in {written} of {self.unit} values"
        return {**super().facts, "destination": f"{self.destination}  {place}", "scale": f"{scale}, {reads}"}


def plan(source: Any, store: Any, **settings: Unpack[SettingsGiven]) -> Plan:
    """What `quantize_to_zarr` would do and need with the same arguments. Reads metadata only, writes nothing.

    Parameters
    ----------
    source, store
        As for `quantize_to_zarr`.
    **settings
        `name`, `preset`, `scale_method`, `axis`, `blocks`, `finest`, `percentile`, `value_range`, `missing`, `decode`,
        `floats`, `nan_policy`, `chunks`, `shards`, `compressors`, `memory` and `workers`, as for `quantize_to_zarr`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If an argument is not one of those allowed, or a memory budget is too small for one task.
    TypeError
        If the source cannot be read, its dtype cannot be quantized, or there is no such setting.
    FileNotFoundError
        If the source does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> plan(np.zeros((4096, 1024), np.float32), MemoryStore(), workers=2).layout.chunks
    (4096, 1024)
    """
    checked = Settings.of("plan", settings)
    return planned(decoded(as_source(source), checked.decode, checked.missing, checked.floats), Keys.of(store), checked)


@dataclass(frozen=True)
class Cut:
    """A way to cut a result: the layout, the bytes that a task takes then, and those that are read of the source."""

    layout: Layout
    task: int
    read: int


def default_cut(source: Source, settings: Settings, rule: Rule, room: int | None) -> Cut:
    """The cut where no chunks were given: smaller ones where a task takes more than there is room.

    First those of `spanning`. Where they read too much, the first of the others that does not and takes little more
    memory than the least; else of those that have room the one that reads least, and if none has, the one that takes
    least.
    """
    tried: list[Cut] = []
    most = READ_MOST * bytes_once(source)

    def has_room(cut: Cut) -> bool:
        return room is None or cut.task <= room

    def is_good(cut: Cut) -> bool:
        return has_room(cut) and cut.read <= most

    def cuts(shapes: Iterable[Shape]) -> Iterator[Cut]:
        if rule.granularity.blocks is not None:
            shapes = (near for shape in shapes for near in with_whole_blocks(shape, source, rule.granularity))
        for chunks in dict.fromkeys(shapes):
            try:
                layout = chosen_layout(source, rule.granularity, chunks, None, settings.compressors)
            except ValueError:  # too many chunks
                if not tried:
                    raise
                continue
            tried.append(cut_of(source, layout, rule))
            yield tried[-1]

    targets = [TARGET_BYTES]
    while room is not None and targets[-1] > SMALLEST_TARGET:
        targets.append(targets[-1] // 2)
    for cut in cuts(spanning(source, rule.granularity, target) for target in targets):
        if has_room(cut):
            if is_good(cut):
                return cut
            break
    for target in targets:
        good = list(filter(is_good, cuts(instead(source, rule.granularity, target))))
        if good:
            least = min(good, key=lambda cut: cut.task)
            return next((cut for cut in good if cut.task <= least.task + STATISTICS), least)
    return min(filter(has_room, tried), key=lambda cut: cut.read, default=min(tried, key=lambda cut: cut.task))


def cut_of(source: Source, layout: Layout, rule: Rule) -> Cut:
    task = task_memory(source, layout) + statistics_memory(layout, rule)
    return Cut(layout, task, bytes_read(source, layout, rule))


def bytes_once(source: Source) -> int:
    """Bytes that are read of a source if all of it is read at once."""
    return source.bytes_read(Batches(Grid(source.shape, source.shape), (), 1))


def chosen_cut(source: Source, settings: Settings, rule: Rule, room: int | None) -> tuple[Cut, list[str]]:
    """The cut, as the user asks or by default, and what to say of it."""
    default = functools.partial(default_cut, source, settings, rule)
    if settings.chunks is None and settings.shards is None:
        found = default(room)
        usual = found if room is None else default(None)
        if found.layout == usual.layout:
            return found, []
        instead = f"chunks of {found.layout.unit} values instead of {usual.layout.unit}"
        return found, [f"{instead}, to stay within memory={settings.memory!r}"]
    asked = chosen_layout(source, rule.granularity, settings.chunks, settings.shards, settings.compressors)
    found, once = cut_of(source, asked, rule), bytes_once(source)
    if found.read <= max(READ_MOST * once, READ_UNSAID):
        return found, []
    better = default(room)
    if better.read >= found.read:
        return found, []
    return found, [
        f"chunks of {asked.unit} values read {format_bytes(found.read)}, {times(found.read / once)}; "
        f"chunks={better.layout.chunks}, the default, {format_bytes(better.read)}, {times(better.read / once)}"
    ]


def note_on_blocks(source: Source, settings: Settings, rule: Rule, cut: Cut) -> list[str]:
    """What to say of blocks that are so long that chunks with whole ones are large, or read the source often."""
    granularity, once = rule.granularity, bytes_once(source)
    if granularity.blocks is None or (cut.task <= LARGE_TASK and cut.read <= READ_MOST * once):
        return []
    shorter = tuple(map(min, granularity.box(source.shape), default_chunks(source)))
    better = replace(rule, granularity=granularity_of(None, len(shorter), shorter))
    instead = default_cut(source, settings, better, None)
    if shorter == granularity.box(source.shape) or (instead.task >= cut.task and instead.read >= cut.read):
        return []
    return [
        f"chunks that hold whole {granularity.label} take {format_bytes(cut.task)} a task and read "
        f"{times(cut.read / once)}; blocks={shorter} take {format_bytes(instead.task)} and read "
        f"{times(instead.read / once)}"
    ]


def note_on_conditions(keys: Keys) -> list[str]:
    """What to say of a store in which nothing keeps two jobs apart: no locks, as folders have, and no conditions."""
    if keys.nearest is not None or not keys.shared or keys.conditional:
        return []
    return [
        "the store has neither locks nor, as far as is known, writes by conditions: do not overwrite what another run "
        "is writing there"
    ]


def times(number: float) -> str:
    """How often a source is read, in words.

    >>> times(1), times(2.004), times(1234.56)
    ('the source once', '2 times the source', '1,234.6 times the source')
    """
    said = f"{number:,.1f}".removesuffix(".0")
    return "the source once" if said == "1" else f"{said} times the source"


def note_on_files(layout: Layout) -> list[str]:
    """What to say of very many chunks, each a file of its own: that shards would serve, if they are small."""
    shards = joined(layout.chunks, layout.shape, layout.dtype.itemsize)
    together = math.prod(shards) // math.prod(layout.chunks)
    if together < 2:
        return []
    option = ",".join(map(str, shards))
    return [
        f"{layout.units.count:,} chunks are as many files, which takes long; with shards={shards}, or --shards "
        f"{option}, a file holds {together:,} of them"
    ]


def planned(source: Source, keys: Keys, settings: Settings, variable: Variable | None = None, beside: int = 0) -> Plan:
    """The plan of a job, each task of which takes so many bytes `beside` those of a run."""
    keys.check_writable()
    check_percentile(settings.percentile)
    settings, said_of_preset = settings.resolved(len(source.shape))
    granularity = granularity_of(settings.axis, len(source.shape), settings.blocks)
    rule = Rule.of(
        settings.scale_method or "minmax",
        settings.value_range,
        settings.nan_policy,
        settings.percentile,
        granularity,
        settings.finest,
    )
    if variable is None:
        check_one_part(settings.name)
        variable = Variable(keys, settings.name)
    if keys.nearest is not None and not keys.exists:  # of other stores a run finds out whether they are new
        keys.check_name()
    scheduler, workers, processes, notes = chosen_workers(source, keys, settings.workers)
    process = OVERHEAD + (SEARCH if rule.method.needs == "histogram" else 0)
    overhead = process * max(processes, 1) + source.held
    budget = parsed_bytes(settings.memory)
    room = None if budget is None else budget - overhead
    cut, said_of_it = chosen_cut(source, settings, rule, room)
    layout, task = cut.layout, cut.task + beside
    notes += said_of_it
    notes += note_on_blocks(source, settings, rule, cut)
    if layout.shards is None and layout.units.count >= MANY_FILES:
        notes += note_on_files(layout)
    notes += note_on_conditions(keys)
    if budget is not None:
        affordable = (budget - overhead) // task
        if affordable < 1:
            least = overhead
            raise ValueError(
                f"memory={settings.memory!r} ({format_bytes(budget)}) is too small for one task: "
                f"{format_bytes(least)} of overhead and {format_bytes(task)} for a chunk of {layout.unit} values, "
                f"{format_bytes(least + task)} in all. Pass at least that, or smaller chunks="
            )
        if affordable < workers:
            notes.append(
                f"{affordable} tasks at a time instead of {workers}, to stay within memory={settings.memory!r}"
            )
            workers = affordable
    limit = settings.workers if scheduler == "distributed" and budget is None else workers
    if budget is not None and not processes:  # who knows how many tasks the processes that come will have
        limit = min(budget // (process + task), settings.workers or budget)
    said = overhead + workers * task
    kept = 0
    if budget is not None and passes(layout, rule) == 2 and scheduler == "threads" and source.rereads:
        kept = min(budget - said, layout.nbytes)
    return Plan(
        source=source.label,
        destination=variable.where,
        layout=layout,
        rule=rule,
        missing=source.missing_value(settings.missing),
        scheduler=scheduler,
        workers=workers,
        limit=limit,
        read=cut.read - cut.read // 2 * kept // layout.nbytes,
        read_once=bytes_once(source),
        memory=said + kept,
        kept=kept,
        disk=layout.nbytes_most + METADATA + statistics_disk(layout, rule),
        free=free_bytes(keys),
        notes=(*said_of_preset, *notes, *source.notes, *missing_note(source, settings)),
        dimension_names=source.dimension_names,
    )


def missing_note(source: Source, settings: Settings) -> tuple[str, ...]:
    """What to say of the one missing value that a source declares; one that is decoded says more of itself."""
    if source.decoding is not None or settings.missing != "declared" or source.missing is None:
        return ()
    return (f"missing is {source.missing}, as the source declares; missing=None takes it for a value",)
