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
    """The boxes of a grid in batches of at most `size`, numbered; a batch has one place along the `fixed` axes.

    >>> batches = Batches(Grid((4, 6), (2, 2)), fixed=(1,), size=2)
    >>> [(batches.block(batch), batches.numbers(batch)) for batch in range(batches.count)]
    [(0, [0, 3]), (1, [1, 4]), (2, [2, 5])]
    """

    grid: Grid
    fixed: tuple[int, ...]
    size: int

    @functools.cached_property
    def places(self) -> Grid:
        """The places along the fixed axes."""
        counts = tuple(self.grid.counts[axis] for axis in self.fixed)
        return Grid(counts, (1,) * len(counts))

    @functools.cached_property
    def others(self) -> Grid:
        """The places along all other axes."""
        counts = tuple(n for axis, n in enumerate(self.grid.counts) if axis not in self.fixed)
        return Grid(counts, (1,) * len(counts))

    @property
    def axes(self) -> Shape:
        """The axes from the slowest to the fastest: boxes that follow one another differ in the last with several."""
        return (*self.fixed, *(axis for axis in range(len(self.grid.counts)) if axis not in self.fixed))

    @property
    def blocks(self) -> int:
        """How many places there are along the fixed axes; 1 without any."""
        return self.places.count

    @property
    def per_block(self) -> int:
        return -(-self.others.count // self.size)

    @property
    def count(self) -> int:
        return self.blocks * self.per_block

    def block(self, batch: int) -> int:
        """The number of the place, along the fixed axes, of the boxes of a batch."""
        return batch // self.per_block

    def of_block(self, block: int) -> range:
        """The batches of one place along the fixed axes."""
        return range(block * self.per_block, (block + 1) * self.per_block)

    def numbers(self, batch: int) -> list[int]:
        """The boxes of a batch, ascending."""
        block, part = divmod(batch, self.per_block)
        others = range(part * self.size, min((part + 1) * self.size, self.others.count))
        if not self.fixed:
            return list(others)
        here = self.places.position(block)
        free = self.axes[len(self.fixed) :]
        position = [0] * len(self.grid.counts)
        for axis, along in zip(self.fixed, here, strict=True):
            position[axis] = along
        found = []
        for other in others:
            for axis, along in zip(free, self.others.position(other), strict=True):
                position[axis] = along
            found.append(self.grid.number(tuple(position)))
        return found


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
