"""What a stream is to be, before its first value: shape and settings, the layout, and how it is to be written."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dask.utils import format_bytes

from ..io.source import Source
from ..numerics.granularity import granularity_of
from ..numerics.scales import Rule
from ..storage import Variable
from ..store.growth import STREAM
from ..store.layout import Layout
from ..store.metadata import Metadata
from .appending import lengthened, settings_as
from .chunking import ENDLESS, SMALLEST_TARGET, TARGET_BYTES, endless_layout
from .claim import settings_said
from .growing import replace_at
from .memory import OVERHEAD, SEARCH, statistics_memory, task_memory
from .settings import Settings, parsed_bytes

LABEL = "the stream"  # what to call it in messages


@dataclass(frozen=True)
class Outline:
    """What is known of a stream before its first value: its shape, without an end along one axis, and the settings."""

    source: Source
    axis: int
    settings: Settings

    @classmethod
    def of(
        cls,
        shape: Iterable[int | None],
        dtype: Any,
        settings: Settings,
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
    ) -> Outline:
        """That of a shape, in which the length that nobody knows is None.

        Raises
        ------
        ValueError, TypeError
            If that is not one of its lengths, or the dtype cannot be quantized.
        """
        lengths = tuple(shape)
        unknown = [axis for axis, n in enumerate(lengths) if n is None]
        if len(unknown) != 1:
            raise ValueError(f"shape is {lengths}, but must have None for the one axis that grows, as in (None, 768)")
        whole = tuple(ENDLESS if n is None else int(n) for n in lengths)
        if min(whole) < 1:
            raise ValueError(f"shape is {lengths}, but its lengths must be at least 1, or None for the axis that grows")
        if dimension_names is not None and len(dimension_names) != len(lengths):
            raise ValueError(f"dimension_names {dimension_names!r} are no names of {len(lengths)} axes")
        resolved, _ = settings.resolved(len(lengths))
        names = None if dimension_names is None else tuple(dimension_names)
        return cls(Source(LABEL, whole, dtype, attributes, names), unknown[0], resolved)

    @functools.cached_property
    def rule(self) -> Rule:
        settings = self.settings
        granularity = granularity_of(settings.axis, len(self.source.shape), settings.blocks)
        return Rule.of(
            settings.scale_method or "minmax",
            settings.value_range,
            settings.nan_policy,
            settings.percentile,
            granularity,
            settings.finest,
        )

    @property
    def missing(self) -> float | int | None:
        return self.source.missing_value(self.settings.missing)

    def layout(self, target: int = TARGET_BYTES) -> Layout:
        settings = self.settings
        how = settings.chunks, settings.shards, settings.compressors
        return endless_layout(self.source, self.axis, self.rule.granularity, *how, target)

    def memory(self, layout: Layout, workers: int) -> int:
        """Bytes that a stream of arrays no larger than a slab takes at most, above the imports."""
        others = math.prod(replace_at(self.source.shape, self.axis, 1))
        slab = others * layout.unit[self.axis] * layout.dtype.itemsize
        task = task_memory(self.source, layout) + statistics_memory(layout, self.rule)
        many = math.prod(replace_at(layout.units.counts, self.axis, 1))
        process = OVERHEAD + (SEARCH if self.rule.method.needs == "histogram" else 0)
        return process + 2 * slab + min(workers, many) * task

    def fitted(self, workers: int) -> tuple[Layout, int]:
        """The layout, and how many tasks at a time stay within the memory that there is to be.

        Raises
        ------
        ValueError
            If not even one does.
        """
        budget, targets = parsed_bytes(self.settings.memory), [TARGET_BYTES]
        if budget is None:
            return self.layout(), workers
        while self.settings.chunks is None and self.settings.shards is None and targets[-1] > SMALLEST_TARGET:
            targets.append(targets[-1] // 2)
        layouts = (self.layout(target) for target in targets)
        fitting = (layout for layout in layouts if self.memory(layout, 1) <= budget)
        layout = next(fitting, self.layout(targets[-1]))
        return layout, self.tasks_within(layout, workers)

    def tasks_within(self, layout: Layout, workers: int) -> int:
        """How many tasks at a time stay within that memory; raises a ValueError if not even one does."""
        budget = parsed_bytes(self.settings.memory)
        for count in range(workers, 0, -1):
            if budget is None or self.memory(layout, count) <= budget:
                return count
        slab = replace_at(self.source.shape, self.axis, layout.unit[self.axis])
        raise ValueError(
            f"memory={self.settings.memory!r} ({format_bytes(budget or 0)}) is too small for a slab of {slab} values, "
            f"which takes {format_bytes(self.memory(layout, 1))} with one task. Pass at least that, or smaller chunks="
        )

    def metadata(self, variable: Variable, layout: Layout) -> Metadata:
        """The metadata that a new variable begins with, of one index of the axis."""
        rule, source = self.rule, self.source
        return Metadata(
            layout=layout,
            rule=rule,
            missing=self.missing,
            fingerprint={STREAM: {"axis": self.axis}, **self.said(layout)},
            attributes=source.attributes,
            dimension_names=source.dimension_names,
            name=variable.name,
            version=2,
        )

    def said(self, layout: Layout) -> dict[str, Any]:
        """What makes it this stream, in words of a fingerprint."""
        shape = [None if along == self.axis else n for along, n in enumerate(self.source.shape)]
        source = {"shape": shape, "dtype": str(self.source.dtype), "sample": None}
        return {"source": source, "settings": settings_said(layout, self.rule, self.missing)}


def outline_in_store(variable: Variable, metadata: Metadata, axis: int) -> tuple[Outline, Layout]:
    """That of a stream which goes on behind what is there, and the layout that it has.

    Raises
    ------
    ValueError
        If the array cannot become longer along that axis.
    """
    layout = metadata.layout
    longer = lengthened(variable, metadata, axis, layout.shape[axis] + 1).layout
    settings = replace(settings_as(metadata), name=variable.name, chunks=longer.chunks, shards=longer.shards)
    shape = [None if along == axis else n for along, n in enumerate(layout.shape)]
    return Outline.of(shape, layout.dtype, settings, metadata.attributes, metadata.dimension_names), longer


@dataclass(frozen=True)
class Wishes:
    """How a stream is written, whatever becomes of it.

    Attributes
    ----------
    outside : {"raise", "saturate"} or None
        As for `append_to_zarr`.
    calibrate : int or None
        How many indices choose the scales that all share.
    slabs, seconds
        After how many slabs, and after how long, a commit comes; None for never.
    workers : int
        Units that are written at a time.
    durable : bool
        Whether the disk is to hold what is committed.
    quiet : bool
        Whether no value stands for a missing one, so that none is looked for.
    """

    outside: str | None = None
    calibrate: int | None = None
    slabs: int | None = None
    seconds: float | None = None
    workers: int = 1
    durable: bool = False
    quiet: bool = False
    report: Callable[[Any], None] = lambda _: None

    def check(self, rule: Rule, axis: int) -> None:
        """Refuse a stream whose scales nobody can know, or that needs no values for them."""
        shared = rule.granularity.length(axis) is None
        if not shared or rule.method.needs == "nothing":
            if self.calibrate is not None:
                why = "the value_range says which" if shared else f"parts of axis {axis} have scales of their own"
                raise ValueError(f"calibrate chooses scales that all values along axis {axis} share, but here {why}")
        elif self.calibrate is None:
            raise ValueError(
                f"all values along axis {axis} share their scales, which cannot be chosen before the last has come: "
                "pass value_range=(low, high), or to an Int4Writer calibrate=n, and the first n indices choose them; "
                f"or let parts of axis {axis} have scales of their own, by blocks= or axis={axis}"
            )
