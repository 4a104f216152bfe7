"""What indices take of an array, and of each of its chunks: NumPy's own, outer ones and pointwise ones."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..numerics.grid import Region, Shape

APART = 1 << 17  # values: restoring so many takes as long as beginning with another piece of a chunk
AT_ONCE = 1 << 20  # values: at most so many are gathered of a chunk at once, or as many as it has


@dataclass(frozen=True, eq=False)
class Part:
    """What an index takes of one chunk along one axis, or of points along several.

    `place` is that of the chunk along these axes, in chunks. `axes` has the indices along each: a range, or an array
    with one for each point. `entries` of the result are theirs.
    """

    place: Shape
    axes: tuple[range | np.ndarray, ...]
    entries: slice | np.ndarray

    @property
    def count(self) -> int:
        return len(self.axes[0])

    @property
    def hull(self) -> tuple[range, ...]:
        """Along each axis a range that holds all indices."""
        return tuple(
            axis if isinstance(axis, range) else range(int(axis.min()), int(axis.max()) + 1) for axis in self.axes
        )

    def cut(self, places: Sequence[int]) -> list[Part]:
        """Those before each place, and those behind the last: points only."""
        cuts = [slice(*pair) for pair in pairwise((0, *places, self.count))]
        return [replace(self, axes=tuple(axis[cut] for axis in self.axes), entries=self.entries[cut]) for cut in cuts]  # type: ignore[index]

    def runs(self) -> list[Part]:
        """Points that lie side by side, and each other alone."""
        if isinstance(self.entries, slice):
            return [self]
        steps = sum(np.abs(np.diff(axis)) for axis in self.axes)
        return self.cut((np.flatnonzero(steps > 1) + 1).tolist())


@dataclass(frozen=True)
class Axis:
    """What an index takes of one axis, in ascending order: `count` entries from `start`, each `step` behind the last.

    `reverse`: in the result they stand the other way round. `drop`: the result does not have the axis.
    """

    start: int
    count: int
    step: int = 1
    reverse: bool = False
    drop: bool = False

    @property
    def stop(self) -> int:
        return self.start + (self.count - 1) * self.step + 1 if self.count else self.start

    @property
    def shape(self) -> Shape:
        """Of what it takes, in the result."""
        return () if self.drop else (self.count,)

    @property
    def hull(self) -> Region:
        return (slice(self.start, self.stop),)

    @classmethod
    def of(cls, index: Any, n: int) -> Axis:
        if isinstance(index, slice):
            return cls.of_range(range(n)[index])
        try:
            if isinstance(index, bool | np.bool_):
                raise TypeError("a boolean is a mask, and no integer")
            place = range(n)[operator.index(index)]
        except TypeError:
            raise IndexError(
                f"{index!r} is no index: take integers, slices, an ellipsis, an array of integers or a mask"
            ) from None
        except IndexError:
            raise out_of_bounds(index, n) from None
        return cls(place, 1, drop=True)

    @classmethod
    def of_range(cls, taken: range) -> Axis:
        ascending = taken if taken.step > 0 else taken[::-1]
        return cls(ascending.start, len(taken), ascending.step, taken.step < 0)

    def parts(self, lengths: Shape) -> Iterator[Part]:
        """What it takes of each chunk that it touches, ascending."""
        first = 0
        while first < self.count:
            start = self.start + first * self.step
            place = start // lengths[0]
            after = min(-(-((place + 1) * lengths[0] - self.start) // self.step), self.count)
            taken = range(start, self.start + (after - 1) * self.step + 1, self.step)
            yield Part((place,), (taken,), slice(first, after))
            first = after


@dataclass(frozen=True, eq=False)
class Points:
    """What an index takes of one axis or several: of each an index for each point, from 0 on.

    `shape` is that of all points in the result.
    """

    axes: tuple[np.ndarray, ...]
    shape: Shape

    reverse = False

    @property
    def count(self) -> int:
        return len(self.axes[0])

    @property
    def hull(self) -> Region:
        return tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in self.axes)

    def parts(self, lengths: Shape) -> list[Part]:
        """The points of each chunk, in the order of their indices."""
        places = [axis // length for axis, length in zip(self.axes, lengths, strict=True)]
        order = np.lexsort([*reversed(self.axes), *reversed(places)])
        places = [place[order] for place in places]
        changes = np.logical_or.reduce([np.diff(place) != 0 for place in places])
        all_of_them = Part((), tuple(axis[order] for axis in self.axes), order)
        firsts = (np.flatnonzero(changes) + 1).tolist()
        return [
            replace(part, place=tuple(int(place[first]) for place in places))
            for first, part in zip((0, *firsts), all_of_them.cut(firsts), strict=True)
        ]


Taken: TypeAlias = "tuple[tuple[int, ...], Axis | Points]"  # some axes of an array, and what is taken along them


@dataclass(frozen=True, eq=False)
class Selection:
    """What an index takes of an array.

    `taken` names each axis once, in the order in which the result has them. `as_array`: of what has no axes comes an
    array too, and no number.
    """

    taken: tuple[Taken, ...]
    as_array: bool = False

    @property
    def counts(self) -> Shape:
        """The shape to read into; of it `finished` makes the result."""
        return tuple(one.count for _, one in self.taken)

    @functools.cached_property
    def axes(self) -> Shape:
        """The axes of the array in the order in which the result has them."""
        return tuple(axis for axes, _ in self.taken for axis in axes)

    @functools.cached_property
    def order(self) -> Shape:
        """Where each axis of the array stands among `axes`."""
        return tuple(sorted(range(len(self.axes)), key=self.axes.__getitem__))

    @property
    def hull(self) -> Region:
        """A region that holds all of it; there must be something."""
        return self.by_axis([one.hull for _, one in self.taken])

    def by_axis(self, found: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """What was found of each axis, by what is taken, in the order of the array's axes."""
        flat = [one for group in found for one in group]
        return tuple(flat[place] for place in self.order)

    def chunks(self, box: Shape) -> Iterator[tuple[Part, ...]]:
        """What it takes of each chunk that it touches."""
        return product(*(one.parts(tuple(box[axis] for axis in axes)) for axes, one in self.taken))

    def place(self, parts: Sequence[Part]) -> Shape:
        """That of the chunk."""
        return self.by_axis([part.place for part in parts])

    def indices(self, parts: Sequence[Part]) -> tuple[range, ...]:
        """Of each axis of the array a range that holds the indices of these parts."""
        return self.by_axis([part.hull for part in parts])

    def room(self, parts: Sequence[Part], out: np.ndarray) -> np.ndarray | None:
        """Where in `out` the values of these parts belong, axes as the array has them; None if not side by side."""
        entries = tuple(part.entries for part in parts)
        if not all(isinstance(one, slice) for one in entries):
            return None
        return out[(*entries, ...)].transpose(self.order)  # the ellipsis: without axes too a view

    def put(self, parts: Sequence[Part], values: np.ndarray, out: np.ndarray) -> None:
        """Write values, of all `indices` of these parts, where they belong."""
        values = values.transpose(self.axes)
        for place, part in enumerate(parts):
            if not isinstance(part.entries, slice):
                inside = (np.subtract(axis, hull.start) for axis, hull in zip(part.axes, part.hull, strict=True))
                values = values[(*(slice(None),) * place, *inside)]
        entries = tuple(part.entries for part in parts)
        if sum(isinstance(one, np.ndarray) for one in entries) > 1:
            entries = np.ix_(*(np.r_[one] for one in entries))
        out[entries] = values

    def read(self, box: Shape, dtype: np.dtype[Any], read: Callable[[Region], np.ndarray]) -> Any:
        """The result for an array in chunks of this size, of which `read` gives a region within one."""
        out = np.empty(self.counts, dtype)
        for parts in self.chunks(box) if out.size else ():
            axes, target = self.indices(parts), self.room(parts, out)
            values = read(tuple(slice(axis.start, axis.stop) for axis in axes))
            values = values[tuple(slice(None, None, axis.step) for axis in axes)]
            if target is None:
                self.put(parts, values, out)
            else:
                target[...] = values
        return self.finished(out)

    def finished(self, out: np.ndarray) -> Any:
        out = out[(*(slice(None, None, -1) if one.reverse else slice(None) for _, one in self.taken), ...)]
        out = out.reshape([n for _, one in self.taken for n in one.shape])
        return out if out.ndim or self.as_array else out[()]


def pieces(parts: tuple[Part, ...]) -> Iterator[tuple[Part, ...]]:
    """What to restore of a chunk at a time: all between the first and the last, or several where they lie far apart."""
    hull = math.prod(len(axis) for part in parts for axis in part.hull)
    if math.prod(part.count for part in parts) > max(hull, AT_ONCE):  # many have one index more than once
        place = max(range(len(parts)), key=lambda at: isinstance(parts[at].entries, np.ndarray) * parts[at].count)
        for half in parts[place].cut([parts[place].count // 2]):
            yield from pieces((*parts[:place], half, *parts[place + 1 :]))
        return
    if hull > APART:
        runs = [part.runs() for part in parts]
        if math.prod(map(len, runs)) * APART < hull:
            yield from product(*runs)
            return
    yield parts


class Indexed(Protocol):
    """What has values to take by an index."""

    shape: Shape

    def selected(self, selection: Selection) -> Any: ...


class Indexer:
    """Takes an index in brackets, and gives what an array has there."""

    def __init__(self, array: Indexed, select: Callable[[Any, Shape], Selection]) -> None:
        self.array = array
        self.select = select

    def __getitem__(self, index: Any) -> Any:
        return self.array.selected(self.select(index, self.array.shape))


# Indices --------------------------------------------------------------------------------------------------------------


def plain(index: Any, shape: Shape) -> Selection:
    """What an index in plain brackets takes, as NumPy has it: integers, slices, an ellipsis, at most one array.

    Raises
    ------
    IndexError
        If it is none, goes beyond an axis or has several arrays.
    """
    parts = parts_of(index)
    if sum(isinstance(part, np.ndarray) for part in parts) > 1:
        raise IndexError(
            "the index has several arrays: take .oindex[...], where each stands for entries of its own axis, or "
            ".vindex[...], where they are points together"
        )
    taken = list(by_axes(parts, shape))
    advanced = [place for place, part in enumerate(parts) if part is not Ellipsis and not isinstance(part, slice)]
    if advanced and advanced[-1] - advanced[0] >= len(
        advanced
    ):  # NumPy puts axes of arrays first where these lie apart
        taken.sort(key=lambda one: one[0] != array_axes(parts, len(shape)))
    return Selection(tuple(taken), has_ellipsis(index))


def outer(index: Any, shape: Shape) -> Selection:
    """What an index takes of which each part stands for entries of one axis: integers, slices, arrays and masks.

    Raises
    ------
    IndexError
        If it is none, goes beyond an axis or has an array of several.
    """
    parts = parts_of(index)
    if any(isinstance(part, np.ndarray) and part.ndim > 1 for part in parts):
        raise IndexError("an array of several axes stands in .oindex[...]: take .vindex[...] for points")
    return Selection(tuple(by_axes(parts, shape)), has_ellipsis(index))


def pointwise(index: Any, shape: Shape) -> Selection:
    """What an index takes whose arrays and integers are points together; their axes come first, then those of slices.

    Raises
    ------
    IndexError
        If it is none, goes beyond an axis, or the arrays are not of shapes that broadcast.
    """
    axes: list[int] = []
    arrays: list[np.ndarray] = []
    slices: list[Taken] = []
    for own, part in with_axes(parts_of(index), len(shape)):
        if isinstance(part, slice):
            slices.append((own, Axis.of(part, shape[own[0]])))
            continue
        lengths = tuple(shape[axis] for axis in own)
        axes += own
        arrays += within(part, lengths) if isinstance(part, np.ndarray) else [np.array(Axis.of(part, *lengths).start)]
    if not arrays:
        return Selection(tuple(slices))
    try:
        points = np.broadcast_arrays(*arrays)
    except ValueError:
        raise IndexError(
            f"arrays of shapes {', '.join(str(array.shape) for array in arrays)} do not broadcast to points"
        ) from None
    return Selection(((tuple(axes), entries_of(points)), *slices), has_ellipsis(index))


def parts_of(index: Any) -> tuple[Any, ...]:
    """The parts of an index, those that list entries as arrays of integers or booleans."""
    return tuple(map(listed, index if isinstance(index, tuple) else (index,)))


def listed(part: Any) -> Any:
    if not isinstance(part, list | tuple | range) and not hasattr(part, "__array__"):
        return part
    try:
        array = np.asarray(part)
    except ValueError:  # lists of different lengths
        array = np.empty(1, object)
    if array.ndim == 0:
        return part
    if array.size == 0 and isinstance(part, list | tuple):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise IndexError(f"arrays in an index must be of integers or booleans, and this is of {array.dtype}")
    return array


def width(part: Any) -> int:
    """How many axes a part of an index names."""
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == bool else part is not Ellipsis


def with_axes(parts: tuple[Any, ...], ndim: int) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Each part of an index and the axes that it names."""
    first = 0
    for part in full_index(parts, ndim):
        yield tuple(range(first, first + width(part))), part
        first += width(part)


def by_axes(parts: tuple[Any, ...], shape: Shape) -> Iterator[Taken]:
    for axes, part in with_axes(parts, len(shape)):
        lengths = tuple(shape[axis] for axis in axes)
        yield axes, entries_of(within(part, lengths)) if isinstance(part, np.ndarray) else Axis.of(part, *lengths)


def array_axes(parts: tuple[Any, ...], ndim: int) -> tuple[int, ...]:
    """The axes of the array in an index."""
    return next((axes for axes, part in with_axes(parts, ndim) if isinstance(part, np.ndarray)), ())


def within(array: np.ndarray, lengths: Shape) -> list[np.ndarray]:
    """The indices from 0 on that an array of integers, or a mask of these axes, stands for."""
    if array.dtype == bool:
        if array.shape != lengths:
            raise IndexError(f"a mask of shape {array.shape} stands for axes of lengths {lengths}")
        return list(np.nonzero(array))
    (n,) = lengths
    beyond = (array < -n) | (array >= n)
    if beyond.any():
        raise out_of_bounds(array[beyond][0], n)
    array = array.astype(np.intp)
    return [np.where(array < 0, array + n, array)]


def entries_of(points: Sequence[np.ndarray]) -> Axis | Points:
    """Points; those that are evenly spaced along one axis as a range, which is read faster."""
    first = points[0]
    if len(points) == 1 and first.ndim == 1 and first.size:
        step = int(first[1] - first[0]) if first.size > 1 else 1
        if step and (np.diff(first) == step).all():
            start = int(first[0])
            last = start + (first.size - 1) * step
            return Axis.of_range(range(start, last + (1 if step > 0 else -1), step))
    return Points(tuple(array.reshape(-1) for array in points), first.shape)


def out_of_bounds(index: Any, n: int) -> IndexError:
    return IndexError(f"index {index} is out of bounds for an axis of length {n}")


def has_ellipsis(index: Any) -> bool:
    """Whether NumPy would give an array of no axes, and not a number, for an index that names all of them."""
    return index is Ellipsis or (isinstance(index, tuple) and any(part is Ellipsis for part in index))


def full_index(index: Any, ndim: int) -> list[Any]:
    """One entry for each axis, or mask of several: the ellipsis, or what is not named, stands for whole axes."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = sum(part is Ellipsis for part in parts)
    if ellipses > 1:
        raise IndexError("an index can have only one ellipsis")
    if not ellipses:
        parts.append(Ellipsis)
    named = sum(map(width, parts))
    if named > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, and {named} were indexed")
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    return [*parts[:at], *[slice(None)] * (ndim - named), *parts[at + 1 :]]
