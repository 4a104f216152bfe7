"""Errors measured: of two arrays in memory, or of a store and its source, in one pass that holds a few chunks."""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, overload

import numpy as np

from ..exceptions import DamagedChunkError, StoreError, UnfinishedStoreError
from ..io import sources_of
from ..io.decoding import decoded_as
from ..io.source import Source
from ..numerics.blocks import blocks
from ..numerics.foreign import numbers
from ..numerics.grid import Grid, Region, Shape, shape_of, shifted, within
from ..reading.array import Int4Array, opened_array
from ..reading.dataset import Int4Dataset, KeptArray
from ..reading.opening import place_of, sealed
from ..runtime.display import reporter
from ..runtime.passes import Pass
from ..runtime.pool import Stop
from ..runtime.progress import InTurn, Progress
from .figures import DatasetErrors, ErrorFigures, PartErrors, Sums
from .origins import source_for
from .residuals import Counts, ErrorBound, errors_of_arrays
from .verify import check_names, verify_kept

STORE_BLOCK_VALUES = 1 << 22  # values: what a thread has of a store at a time, unless a single chunk is larger
STORE_BLOCK_CHUNKS = 1 << 10  # chunks: the most that a thread has of a store at a time
COMPARED_VALUES = 1 << 18  # values: what is compared at a time, so that its float64 stay in a processor's cache
MOST_PARTS = 4096  # parts: the most that an array has figures for, each on its own

# One pass over a store and its source ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measurement:
    """The figures of a store, and how its values and errors are distributed."""

    figures: ErrorFigures
    counts: Counts


@overload
def measure_error(
    original: Any, restored: Int4Dataset, progress: Callable[[Progress], object] | bool | None = None
) -> DatasetErrors: ...


@overload
def measure_error(
    original: Any, restored: Any, progress: Callable[[Progress], object] | bool | None = None
) -> ErrorFigures: ...


def measure_error(
    original: Any, restored: Any, progress: Callable[[Progress], object] | bool | None = None
) -> ErrorFigures | DatasetErrors:
    """Compare the original with what is restored of it: two arrays in memory, or a source and the store made from it.

    Parameters
    ----------
    original : array_like; or path, array or Source
        The values before quantization, an array in memory. For a store what it was made from, as for
        `quantize_to_zarr` or `quantize_dataset`.
    restored : array_like; or Int4Array, Int4Dataset, path, URL or Zarr store
        The values after it, of the same shape, an array in memory. Or the store, as `open_int4` takes or gives it:
        it is read beside the source in one pass that holds a few chunks of each at a time.
    progress : callable or True, optional
        For a store: called with a `Progress` of the phase "measure", whose units are blocks of whole chunks. True
        draws it.

    Returns
    -------
    ErrorFigures
        Or, of a collection, `DatasetErrors`: a mapping of names to such.

    Raises
    ------
    ValueError
        If the shapes differ.
    TypeError
        If `restored` is neither an array nor a store, as when the two are passed the other way round, or arrays hold
        neither floats nor integers.
    DamagedChunkError
        If a chunk of the store is missing or damaged.
    WorkersError
        As for `verify`, where the workers of a `distributed.Client` compare a store with its source.

    Examples
    --------
    >>> print(measure_error([1.0, 2.0, 4.0, math.nan], [1.0, 2.5, 4.0, math.nan]))
    values compared  3, and 1 missing on both sides
    largest error    0.5 at (1,)
    mean error       +0.167
    mean abs. error  0.166667
    RMS error        0.288675
    SQNR             12.71 dB
    """
    if may_be_store(restored):
        dataset = dataset_of(restored)
        if dataset is not None:
            return errors_of(measure_dataset(dataset, original, reporter(progress)))
        return measure_store(store_of(restored, original), original, progress).figures
    if may_be_store(original):
        raise TypeError(f"{named(original)} and {named(restored)} cannot be compared: {ORDER}")
    return measure_arrays(numbers(original, "original"), numbers(restored, "restored")).figures()


ORDER = (
    "the original comes first, as in measure_error(source, store), or measure_error(original, restored) with two "
    "arrays in memory"
)


def may_be_store(value: Any) -> bool:
    """Whether a value is what `open_int4` takes or gives; an array never is."""
    return isinstance(value, str | os.PathLike | Int4Array | Int4Dataset) or hasattr(value, "supports_listing")


def dataset_of(store: Any) -> Int4Dataset | None:
    """The collection that a store is; None where it is none."""
    if isinstance(store, Int4Dataset | Int4Array):
        return store if isinstance(store, Int4Dataset) else None
    place = place_of(store)
    return Int4Dataset(place.keys, sealed(place)) if place is not None and place.name is None else None


def store_of(restored: Any, original: Any) -> Int4Array:
    """The store to measure. The error names the order where `original` is a store, or this is a ``.npy`` file."""
    if isinstance(restored, Int4Array):
        return restored
    try:
        return opened_array(restored)
    except UnfinishedStoreError:
        raise
    except (StoreError, FileNotFoundError) as error:
        if is_store(original) or named(restored).endswith(".npy"):
            raise TypeError(f"{named(restored)} is not a store ({error}): {ORDER}") from error
        raise


def is_store(value: Any) -> bool:
    """Whether a value is a store that can be read."""
    if isinstance(value, Int4Array):
        return True
    try:
        opened_array(value)
    except (StoreError, OSError, TypeError, ValueError):
        return False
    return True


def named(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, str | os.PathLike) else type(value).__name__


def measure_arrays(original: np.ndarray, restored: np.ndarray) -> Sums:
    if original.shape != restored.shape:
        raise ValueError(f"the original has shape {original.shape}, but what is restored has shape {restored.shape}")
    shape = original.shape or (1,)
    x, y = original.reshape(shape), restored.reshape(shape)
    total = Sums()
    for region in blocks(shape, COMPARED_VALUES):
        total += errors_of_arrays(x[region], y[region], tuple(part.start for part in region))
    if not original.shape and total.at is not None:
        return replace(total, at=())
    return total


def measure_dataset(
    dataset: Int4Dataset, source: Any, report: Callable[[Progress], object]
) -> dict[str, Measurement | bool]:
    """The measurement of each variable that is quantized, and of each that is kept whether it is the source's.

    Raises
    ------
    DamagedChunkError
        If a chunk is missing or damaged.
    """
    arrays = sources_of(source)
    check_names(arrays, dataset)
    opened = dict(dataset.items())
    grids = (
        one.plain.grid if isinstance(one, KeptArray) else comparison_grid(one.shape, one.chunks)
        for one in opened.values()
    )
    reported = InTurn("measure", sum(grid.count for grid in grids), report)
    found: dict[str, Measurement | bool] = {}
    for name, array in opened.items():
        if isinstance(array, KeptArray):
            checked = verify_kept(array, arrays.raw(name), None, reported)
            for place, why in checked.damaged:
                raise DamagedChunkError.at(array.path, place, ValueError(why))
            found[name] = checked.ok
        else:
            found[name] = measure_store(array, arrays[name], reported)
        reported.next()
    return found


def errors_of(measured: dict[str, Measurement | bool]) -> DatasetErrors:
    return DatasetErrors(
        {name: one.figures for name, one in measured.items() if isinstance(one, Measurement)},
        {name: one for name, one in measured.items() if isinstance(one, bool)},
    )


def measure_store(
    array: Int4Array, source: Any, progress: Callable[[Progress], object] | bool | None = None
) -> Measurement:
    """The figures of a store and its source, and the distributions, in one pass on all processors or a cluster."""
    origin = decoded_as(source_for(source, array.name), array.metadata.decoding).with_missing(array.metadata.missing)
    if origin.shape != array.shape:
        raise ValueError(f"{origin.label} has shape {origin.shape}, but the store has shape {array.shape}")
    grid, parts = comparison_grid(array.shape, array.chunks), parts_grid(array.shape, array.chunks)
    totals = Totals()
    reading = Pass("measure", array.variable, array.metadata, grid, 1, origin)
    work = functools.partial(errors_of_unit, array, origin, grid, parts)
    reading.run(work, range(grid.count), totals.take, None, reporter(progress), Stop())
    each = [totals.sums[part] for part in range(parts.count)]
    total = functools.reduce(operator.add, each)
    figures = total.figures(
        bound=totals.bound,
        largest_in_range=total.in_range,
        saturated=total.saturated,
        outside=total.outside,
        code_counts=tuple(totals.counts.codes.tolist()),
        bits_per_value=8 * array.nbytes_stored / array.size,
        parts=part_errors(parts, each),
    )
    return Measurement(figures, totals.counts)


Errors: TypeAlias = tuple[list[tuple[int, Sums]], Counts, float]  # sums of parts, counts, the largest half step


@dataclass
class Totals:
    """What regions come to. Sums are added in the order of the regions, since floats depend on it: some wait."""

    sums: dict[int, Sums] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    bound: float = 0.0
    added: int = 0
    waiting: dict[int, list[tuple[int, Sums]]] = field(default_factory=dict)

    def take(self, number: int, errors: Errors) -> None:
        """Add the errors of the region of this number."""
        self.waiting[number], counts, half = errors
        self.counts.add(counts)
        self.bound = max(self.bound, half)
        while self.added in self.waiting:
            for part, one in self.waiting.pop(self.added):
                self.sums[part] = self.sums.get(part, Sums()) + one
            self.added += 1


def part_errors(parts: Grid, each: list[Sums]) -> PartErrors:
    def each_part(figure: Callable[[Sums], float]) -> tuple[float, ...]:
        return tuple(figure(one) if one.values else math.nan for one in each)

    return PartErrors(
        parts.box,
        parts.counts,
        each_part(lambda one: one.rmse if one.count else math.nan),
        each_part(lambda one: one.largest if one.count else math.nan),
        each_part(lambda one: one.saturated / one.values),
    )


def errors_of_unit(array: Int4Array, origin: Source, grid: Grid, parts: Grid, number: int) -> Errors:
    return errors_of_region(array, origin, grid.region(number), parts)


def errors_of_region(array: Int4Array, origin: Source, region: Region, parts: Grid) -> Errors:
    """Sums of each part that a region shares in, counts of all of it, and its largest half step."""
    bound = error_bound(array, region)
    codes = array.codes(region)
    sums: dict[int, Sums] = {}
    counts = Counts()
    for piece in origin.pieces(region):
        values = origin.read(piece)
        for part, shared in parts.touched(piece):
            for small in blocks(shape_of(shared), COMPARED_VALUES):
                own = shifted(small, shared)
                inside = within(own, region)
                corner = tuple(axis.start for axis in own)
                one, counted = bound.part(inside).compare(values[within(own, piece)], codes[inside], corner)
                sums[part] = sums.get(part, Sums()) + one
                counts.add(counted)
    return list(sums.items()), counts, float(bound.scales.scale.max()) / 2


def error_bound(array: Int4Array, region: Region) -> ErrorBound:
    metadata = array.metadata
    return ErrorBound(array.scales_of(region), metadata.codes, metadata.rule.method.clips, array.dtype)


def comparison_grid(shape: Shape, chunks: Shape) -> Grid:
    """Blocks of whole chunks, of several where they are small."""
    box = list(chunks)
    times = max(1, min(STORE_BLOCK_VALUES // math.prod(box), STORE_BLOCK_CHUNKS))
    for axis in reversed(range(len(box))):
        along = min(times, -(-shape[axis] // box[axis]))
        box[axis] *= along
        times //= along
    return Grid(shape, tuple(box))


def parts_grid(shape: Shape, chunks: Shape) -> Grid:
    """Chunks, or boxes of neighbouring ones where there are more than `MOST_PARTS`.

    >>> parts_grid((10**6, 10**4), (100, 100)).counts
    (79, 50)
    """
    grid = Grid(shape, chunks)
    while grid.count > MOST_PARTS:
        axis = int(np.argmax(grid.counts))
        box = list(grid.box)
        box[axis] *= 2
        grid = Grid(shape, tuple(box))
    return grid
