"""A regular grid of boxes over an array, and the regions in it. Numbers only."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

Shape = tuple[int, ...]
Region = tuple[slice, ...]


@dataclass(frozen=True)
class Grid:
    """Boxes of one size that cover an array, numbered from 0 in C order; those at the far edges may be cut short.

    Examples
    --------
    >>> grid = Grid((5, 4), (2, 4))
    >>> grid.count, grid.counts
    (3, (3, 1))
    >>> grid.region(2)
    (slice(4, 5, None), slice(0, 4, None))
    """

    shape: Shape
    box: Shape

    @functools.cached_property
    def counts(self) -> Shape:
        return tuple(-(-n // length) for n, length in zip(self.shape, self.box, strict=True))

    @functools.cached_property
    def count(self) -> int:
        return math.prod(self.counts)

    def position(self, number: int) -> Shape:
        """The box's place along each axis."""
        place = []
        for length in reversed(self.counts):
            number, along = divmod(number, length)
            place.append(along)
        return tuple(reversed(place))

    def number(self, position: Shape) -> int:
        number = 0
        for along, length in zip(position, self.counts, strict=True):
            number = number * length + along
        return number

    def region(self, number: int) -> Region:
        """The indices that the box covers."""
        return tuple(
            slice(along * length, min((along + 1) * length, n))
            for along, length, n in zip(self.position(number), self.box, self.shape, strict=True)
        )

    def touched(self, region: Region) -> Iterator[tuple[int, Region]]:
        """Each box that shares an index with `region`, and what they share; what they share covers `region` once."""
        spans = [
            range(part.start // length, -(-part.stop // length)) for part, length in zip(region, self.box, strict=True)
        ]
        for position in product(*spans):
            shared = tuple(
                slice(max(part.start, along * length), min(part.stop, (along + 1) * length))
                for along, length, part in zip(position, self.box, region, strict=True)
            )
            yield self.number(position), shared


@dataclass(frozen=True)
class Batches:
    """The boxes of a grid in batches of at most `size`, numbered; with an `axis` each is of one index of the grid's.

    >>> batches = Batches(Grid((4, 6), (2, 2)), axis=1, size=2)
    >>> [(batches.block(batch), batches.numbers(batch)) for batch in range(batches.count)]
    [(0, [0, 3]), (1, [1, 4]), (2, [2, 5])]
    """

    grid: Grid
    axis: int | None
    size: int

    @property
    def blocks(self) -> int:
        """How many there are along the axis; 1 without one."""
        return 1 if self.axis is None else self.grid.counts[self.axis]

    @property
    def per_block(self) -> int:
        return -(-self.grid.count // self.blocks // self.size)

    @property
    def count(self) -> int:
        return self.blocks * self.per_block

    def block(self, batch: int) -> int:
        """The index, along the axis, of the boxes of a batch."""
        return batch // self.per_block

    def of_block(self, block: int) -> range:
        """The batches of one index along the axis."""
        return range(block * self.per_block, (block + 1) * self.per_block)

    def numbers(self, batch: int) -> list[int]:
        """The boxes of a batch, ascending."""
        block, part = divmod(batch, self.per_block)
        places = range(part * self.size, min((part + 1) * self.size, self.grid.count // self.blocks))
        if self.axis is None:
            return list(places)
        counts = self.grid.counts
        others = Grid((*counts[: self.axis], *counts[self.axis + 1 :]), (1,) * (len(counts) - 1))
        found = []
        for place in places:
            position = others.position(place)
            found.append(self.grid.number((*position[: self.axis], block, *position[self.axis :])))
        return found

    def indices(self, block: int) -> slice:
        """What the boxes of a block cover of the axis."""
        if self.axis is None:
            return slice(0, 1)
        length = self.grid.box[self.axis]
        return slice(block * length, min((block + 1) * length, self.grid.shape[self.axis]))


def index_at(position: int, shape: Shape) -> Shape:
    """The index of a position in C order: NumPy's `unravel_index`, in plain integers.

    >>> index_at(9, (5, 4))
    (2, 1)
    """
    return Grid(shape, (1,) * len(shape)).position(position)


def within(region: Region, outer: Region) -> Region:
    """A region's indices counted from the corner of one that holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(region, outer, strict=True))


def shifted(region: Region, outer: Region) -> Region:
    """The inverse of `within`: indices counted from a corner, as indices of the array."""
    return tuple(slice(a.start + b.start, a.stop + b.start) for a, b in zip(region, outer, strict=True))


def shape_of(region: Region) -> Shape:
    return tuple(part.stop - part.start for part in region)


def packed_length(n: int) -> int:
    """Bytes that hold `n` codes."""
    return (n + 1) // 2


def packed_shape(shape: Shape) -> Shape:
    """Shape of the packed bytes of codes of this shape: two to a byte along the last axis."""
    return (*shape[:-1], packed_length(shape[-1]))


def packed_region(region: Region) -> Region:
    """Where the codes of a region, whose last axis starts at an even index, lie in the packed bytes."""
    last = region[-1]
    return (*region[:-1], slice(last.start // 2, packed_length(last.stop)))


def covers(shape: Shape, box: Shape) -> bool:
    """Whether one box spans the last axis or ends at an even index there, so that no byte belongs to two boxes."""
    return box[-1] % 2 == 0 or box[-1] >= shape[-1]
