"""Which values share a scale: all of an array, those of one index of an axis, or those of a block.

Whatever shares a scale is a box of a regular grid over the array, a *group*. So an array of scales has as many axes as
the values and an entry for each group: ``(1, 1)`` for a matrix with one scale, ``(n, 1)`` with one for each row, and
``(rows, ceil(n / 32))`` in blocks of 32. What follows from that is written once, here; no other file asks which of the
three it is.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .grid import Grid, Region, Shape, shape_of


class Lines(NamedTuple):
    """Which group each value of a block of rows is of, as the loops look it up.

    Rows: row `r` is of group ``r // repeat % groups``. Columns: value `j` of a row is of group `j`. With a `box`: the
    rows are those of values of a `shape`, and each is of the box of that size which holds it.
    """

    groups: int = 1
    repeat: int = 1
    columns: bool = False
    box: Shape = ()
    shape: Shape = ()


ONE = Lines()


class Runs(NamedTuple):
    """Which group each value of a region is of, value by value in C order.

    The values are cut into rows of `n`. Value `j` of row `r` is of group ``first[r] + (offset + j) // length``, in C
    order among the groups that the region touches.
    """

    first: np.ndarray
    n: int
    length: int
    offset: int

    def groups(self) -> np.ndarray:
        """The number of the group of each value, shape ``(rows, n)``."""
        return np.asarray(self.first[:, np.newaxis] + (self.offset + np.arange(self.n)) // self.length)


class Granularity(ABC):
    """Which values share a scale.

    Attributes
    ----------
    axis : int or None
        The axis that keeps a scale for each of its indices, where that is what it does.
    blocks : tuple of int or None
        Lengths of the blocks that share a scale, -1 for a whole axis, where it is blocks.
    single : bool
        Whether all values share one.
    fraction : int
        Zero points are whole numbers of this part of a step: 1, or 4 where scales have the 16 bits of blocks.
    label, each, plural, option : str
        What to call it in a table, in ``"one for each ..."``, in ``"12 ..."`` and as an option of the command line;
        empty where all values share one.
    """

    axis: int | None = None
    single = False
    fraction = 1

    @property
    def blocks(self) -> Shape | None:
        return None

    @property
    def label(self) -> str:
        return ""

    @property
    def each(self) -> str:
        return ""

    @property
    def option(self) -> str:
        return ""

    @property
    def plural(self) -> str:
        return ""

    @abstractmethod
    def box(self, shape: Shape) -> Shape:
        """Lengths of a group, for values of this shape."""

    @abstractmethod
    def lines(self, shape: Shape) -> Lines:
        """Which group each value is of, for values of this shape as `in_lines` lays them out."""

    @abstractmethod
    def in_lines(self, values: np.ndarray) -> np.ndarray:
        """C-contiguous values as ``(rows, n)``: a view, whose packed bytes lie as those of the values do."""

    @abstractmethod
    def length(self, axis: int) -> int | None:
        """How long groups are along an axis, whatever its length; None where each spans it."""

    # What follows from the box

    def groups(self, shape: Shape) -> Grid:
        """The groups, numbered in C order; their `counts` are the shape of an array of scales."""
        return Grid(shape, tuple(max(length, 1) for length in self.box(shape)))  # an axis may have no indices

    def count(self, shape: Shape) -> int:
        """How many groups there are."""
        return self.groups(shape).count

    def scales_of(self, region: Region, shape: Shape) -> Region:
        """The entries of an array of scales that the values of a region have."""
        box = self.box(shape)
        return tuple(slice(part.start // n, -(-part.stop // n)) for part, n in zip(region, box, strict=True))

    def aligned(self, region: Region, shape: Shape) -> Region:
        """The smallest region of whole groups that holds a region."""
        box = self.box(shape)
        return tuple(
            slice(part.start // b * b, min(-(-part.stop // b) * b, n))
            for part, b, n in zip(region, box, shape, strict=True)
        )

    def span(self, region: Region, shape: Shape) -> slice:
        """The groups that the values of a region have, as a run of their numbers.

        Raises
        ------
        ValueError
            If their numbers do not run on: `regions` gives boxes whose do.
        """
        counts, own = self.groups(shape).counts, self.scales_of(region, shape)
        grid = Grid(counts, (1,) * len(counts))
        first = grid.number(tuple(part.start for part in own))
        stop = grid.number(tuple(part.stop - 1 for part in own)) + 1
        if stop - first != math.prod(shape_of(own)):
            raise ValueError(f"the groups of {region} are not numbered one after another")
        return slice(first, stop)

    def regions(self, shape: Shape, most: int) -> Grid:
        """Boxes of at most so many whole groups, whose numbers run on."""
        grid = self.groups(shape)
        lengths: list[int] = []
        for count, length in zip(reversed(grid.counts), reversed(grid.box), strict=True):
            held = min(count, most)
            lengths.append(held * length)
            most = most // count if held == count else 1
        return Grid(shape, tuple(reversed(lengths)))

    def cuts(self, shape: Shape) -> Shape:
        """Along each axis: an array may be cut at multiples of it, and no byte of codes belongs to two pieces.

        Nor does a group, but for one that spans the axis.
        """
        *outer, last = (1 if b >= n else b for b, n in zip(self.box(shape), shape, strict=True))
        return (*outer, math.lcm(last, 2))

    def whole_cuts(self, shape: Shape) -> Shape:
        """As `cuts`, where no group may belong to two pieces: a whole axis if one spans it."""
        box = self.box(shape)
        return tuple(n if b >= n else cut for b, n, cut in zip(box, shape, self.cuts(shape), strict=True))

    def fixed(self, units: Grid) -> tuple[int, ...]:
        """The axes of a grid of units along which units have other scales than their neighbours."""
        box = self.box(units.shape)
        return tuple(axis for axis, n in enumerate(units.shape) if box[axis] < n)

    def complete(self, units: Grid) -> bool:
        """Whether each unit holds all values of its groups, so that their scales are known once it is read."""
        box = self.box(units.shape)
        return all(u >= n or u % b == 0 for u, b, n in zip(units.box, box, units.shape, strict=True))

    def stored_axes(self, ndim: int) -> tuple[int, ...]:
        """The axes that stored arrays of scales have; none where the scale is a number."""
        return tuple(range(ndim))

    def index_of(self, shape: Shape) -> Any:
        """The number of the group of each value, as an array that broadcasts against values of this shape."""
        grid = self.groups(shape)
        index: Any = 0
        for axis, (n, b, count) in enumerate(zip(shape, grid.box, grid.counts, strict=True)):
            if count > 1:
                along = np.arange(n) // b * math.prod(grid.counts[axis + 1 :])
                index = index + along.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        return index

    def sample(self, values: np.ndarray, most: int) -> np.ndarray:
        """Some values of each group, evenly spread, shape ``(groups, at most `most`)``."""
        grid = self.groups(values.shape)
        size = math.prod(grid.box)
        places = np.linspace(0, size - 1, min(most, size)).astype(np.intp)
        index: Any = []
        for axis, inside in enumerate(np.unravel_index(places, grid.box)):
            corner = np.arange(grid.counts[axis]) * grid.box[axis]
            corner = corner.reshape([-1 if along == axis else 1 for along in range(values.ndim + 1)])
            index.append(np.minimum(corner + inside, values.shape[axis] - 1))  # groups at the far edges may be shorter
        return np.asarray(values[tuple(index)]).reshape(grid.count, -1)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """The values of each group as a row, shape ``(groups, values)``; those at the far edges have some twice."""
        grid = self.groups(values.shape)
        beyond = [(0, c * b - n) for c, b, n in zip(grid.counts, grid.box, values.shape, strict=True)]
        if any(after for _, after in beyond):
            values = np.pad(values, beyond, mode="edge")
        parted = values.reshape([n for pair in zip(grid.counts, grid.box, strict=True) for n in pair])
        order = (*range(0, parted.ndim, 2), *range(1, parted.ndim, 2))
        return parted.transpose(order).reshape(grid.count, -1)

    def runs(self, region: Region, shape: Shape) -> Runs:
        """Which group each value of any region is of: rows are as long as they can be."""
        box, own = self.box(shape), self.scales_of(region, shape)
        *outer, last = range(len(shape))
        n, length = region[last].stop - region[last].start, max(box[last], 1)
        offset = region[last].start % length
        while outer and offset + n <= length:  # a row is of one group: those that follow may be joined to it
            last = outer.pop()
            offset, length = region[last].start % box[last] * n, box[last] * n
            n *= region[last].stop - region[last].start
        first: Any = np.zeros((1,) * len(outer), np.int64)
        counts = shape_of(own)
        for axis in outer:
            along = np.arange(region[axis].start, region[axis].stop) // box[axis] - own[axis].start
            along = along * math.prod(counts[axis + 1 :])
            first = first + along.reshape([-1 if other == axis else 1 for other in outer])
        return Runs(first.reshape(-1), n, length, offset)

    def taken(self, scales: np.ndarray, axes: Sequence[range], shape: Shape) -> np.ndarray:
        """The entries of an array of scales, of values of this shape, for some indices of each axis.

        What is taken has the granularity that `of_taken` gives.
        """
        box = self.box(shape)
        if all(b == 1 or b >= n for b, n in zip(box, shape, strict=True)):  # views
            return scales[
                tuple(
                    slice(None) if b >= n else slice(axis.start, axis.stop, axis.step)
                    for axis, b, n in zip(axes, box, shape, strict=True)
                )
            ]
        index = [np.arange(1) if b >= n else np.array(axis) // b for axis, b, n in zip(axes, box, shape, strict=True)]
        return np.asarray(scales[np.ix_(*index)])

    def of_taken(self, shape: Shape) -> Granularity:
        """That of some indices of each axis, whose scales are those that `taken` gives."""
        return self


@dataclass(frozen=True)
class PerTensor(Granularity):
    """All values share one scale."""

    single = True

    def box(self, shape: Shape) -> Shape:
        return shape

    def span(self, region: Region, shape: Shape) -> slice:
        return slice(0, 1)

    def complete(self, units: Grid) -> bool:
        return False  # format version 1 keeps the statistics of a pass 1 even where there is a single unit

    def stored_axes(self, ndim: int) -> tuple[int, ...]:
        return ()

    def length(self, axis: int) -> int | None:
        return None

    def lines(self, shape: Shape) -> Lines:
        return ONE

    def in_lines(self, values: np.ndarray) -> np.ndarray:
        n = values.shape[-1]
        return values.reshape(-1, n) if n % 2 else values.reshape(1, -1)


PER_TENSOR = PerTensor()


@dataclass(frozen=True)
class PerAxis(Granularity):
    """The values of each index of an axis share a scale."""

    axis: int

    @property
    def label(self) -> str:
        return f"axis {self.axis}"

    @property
    def each(self) -> str:
        return f"index of axis {self.axis}"

    @property
    def plural(self) -> str:
        return f"indices of axis {self.axis}"

    @property
    def option(self) -> str:
        return f" --axis {self.axis}"

    def box(self, shape: Shape) -> Shape:
        return tuple(1 if along == self.axis else n for along, n in enumerate(shape))

    def span(self, region: Region, shape: Shape) -> slice:
        return region[self.axis]

    def stored_axes(self, ndim: int) -> tuple[int, ...]:
        return (self.axis,)

    def length(self, axis: int) -> int | None:
        return 1 if axis == self.axis else None

    def lines(self, shape: Shape) -> Lines:
        if self.axis == len(shape) - 1:
            return Lines(shape[-1], columns=True)
        return Lines(shape[self.axis], repeat=math.prod(shape[self.axis + 1 : -1]) if shape[-1] % 2 else 1)

    def in_lines(self, values: np.ndarray) -> np.ndarray:
        """Rows of even length are joined as far as they may be: their packed bytes lie side by side."""
        n = values.shape[-1]
        if n % 2 or self.axis == values.ndim - 1:
            return values.reshape(-1, n)
        return values.reshape(math.prod(values.shape[: self.axis + 1]), -1)


@dataclass(frozen=True)
class PerBlock(Granularity):
    """The values of each block share a scale: a box of these lengths, -1 for a whole axis.

    >>> tiles = PerBlock((8, 8))
    >>> tiles.groups((20, 64)).counts, tiles.cuts((20, 64)), tiles.label
    ((3, 8), (8, 8), 'blocks of 8 x 8')
    """

    lengths: Shape

    fraction = 4

    @property
    def blocks(self) -> Shape:
        return self.lengths

    @property
    def label(self) -> str:
        return f"blocks of {self._words}"

    @property
    def each(self) -> str:
        return f"block of {self._words}"

    @property
    def plural(self) -> str:
        return self.label

    @property
    def option(self) -> str:
        return f" --blocks {','.join(map(str, self.lengths))}"

    @property
    def _words(self) -> str:
        return " x ".join("all" if length == -1 else str(length) for length in self.lengths)

    def box(self, shape: Shape) -> Shape:
        return tuple(n if length == -1 else min(length, n) for length, n in zip(self.lengths, shape, strict=True))

    def length(self, axis: int) -> int | None:
        return None if self.lengths[axis] == -1 else self.lengths[axis]

    def lines(self, shape: Shape) -> Lines:
        return Lines(self.count(shape), box=self.box(shape), shape=shape)

    def in_lines(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, values.shape[-1])

    def of_taken(self, shape: Shape) -> Granularity:
        box = self.box(shape)
        return PerBlock(tuple(-1 if b >= n else 1 for b, n in zip(box, shape, strict=True)))


def granularity_of(axis: Any, ndim: int, blocks: Any = None) -> Granularity:
    """One scale for all values; for each index of an axis, counted from the end if it is below 0; or for each block.

    Blocks of whole axes are what they are: one scale for all, or for each index of an axis.

    Raises
    ------
    AxisError (a ValueError and an IndexError)
        If there is no such axis.
    ValueError
        If both are given, or blocks are not lengths for each axis.
    TypeError
        If they are no integers.

    Examples
    --------
    >>> granularity_of(None, 3, 32), granularity_of(None, 2, (-1, 1))
    (PerBlock(lengths=(1, 1, 32)), PerAxis(axis=1))
    """
    if blocks is not None:
        if axis is not None:
            raise ValueError(
                f"axis={axis!r} and blocks={blocks!r} both say which values share a scale; pass one. "
                "An axis is blocks of length 1 along it, and -1, all, along the others"
            )
        return granularity_of_blocks(blocks, ndim)
    if axis is None:
        return PER_TENSOR
    try:
        place = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis is {axis!r}, but must be an integer, or None for one scale for all values") from None
    if not -ndim <= place < ndim:
        raise np.exceptions.AxisError(place, ndim)
    return PerAxis(place % ndim)


def granularity_of_blocks(blocks: Any, ndim: int) -> Granularity:
    """One scale for each block of these lengths, -1 for a whole axis; a number is the length along the last axis."""
    try:
        alone = np.ndim(blocks) == 0
        lengths = (*(1,) * (ndim - 1), operator.index(blocks)) if alone else tuple(map(operator.index, blocks))
    except (TypeError, ValueError):
        raise TypeError(
            f"blocks is {blocks!r}, but must be an integer, the length along the last axis, or one for each axis"
        ) from None
    if len(lengths) != ndim or ndim == 0:
        raise ValueError(f"blocks is {blocks!r}, which has {len(lengths)} lengths, but the values have {ndim} axes")
    if any(length < 1 and length != -1 for length in lengths):
        raise ValueError(f"blocks is {blocks!r}, but each length must be at least 1, or -1 for a whole axis")
    short = [axis for axis, length in enumerate(lengths) if length != -1]
    if not short:
        return PER_TENSOR
    return PerAxis(short[0]) if len(short) == 1 and lengths[short[0]] == 1 else PerBlock(lengths)
