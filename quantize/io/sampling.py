"""A sample of a source: a lattice of boxes, spread evenly over all of it, from a few of its chunks.

The sample has the axes of the source: along each it holds runs of indices, and all of them taken together. So whatever
is measured of one index of an axis, as a scale for each of them, can be measured of the sample as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from ..numerics.grid import Grid, Region, Shape
from .source import Source

SAMPLE_VALUES = 1 << 22  # values: the size of a sample
CELLS = 64  # boxes: so many of the source are looked into
JOINED_CHUNKS = 16  # chunks: so many small ones at most make up one box
READ_BYTES = 1 << 30  # bytes: so many are read at most where chunks are large, but four chunks in any case
SIDE_BY_SIDE = 32  # runs of values: of neighbours along the next axis too, since tiles and columns may share scales
LEAST_RUN = 256  # values
RUNS = 4  # runs of indices: an axis of which a sample has not all has at least so many


def sample_of(source: Source, most: int = SAMPLE_VALUES) -> np.ndarray:
    """At most `most` values of a source: all, or a lattice of boxes; the same ones each time.

    Parameters
    ----------
    source : Source
    most : int
        Values of the sample.

    Returns
    -------
    ndarray of the source's dtype, with as many axes

    Examples
    --------
    >>> from quantize.io import as_source
    >>> sample_of(as_source(np.zeros((3, 4)))).shape
    (3, 4)
    >>> sample_of(as_source(np.arange(1000)), most=5).tolist()
    [100, 300, 500, 700, 900]
    """
    if math.prod(source.shape) <= most:
        whole: Region = tuple(slice(0, n) for n in source.shape)
        out = np.empty(source.shape, source.dtype)
        for piece in source.pieces(whole):
            out[piece] = source.read(piece)
        return out
    axes = lattice(source, most)
    out = np.empty(tuple(sum(map(len, cells)) for cells in axes), source.dtype)
    places = [np.cumsum([0, *map(len, cells)]) for cells in axes]
    for numbers in product(*(range(len(cells)) for cells in axes)):
        indices = [cells[number] for cells, number in zip(axes, numbers, strict=True)]
        hull = tuple(slice(int(index[0]), int(index[-1]) + 1) for index in indices)
        target = tuple(slice(int(p[i]), int(p[i + 1])) for p, i in zip(places, numbers, strict=True))
        values = source.read(hull)
        out[target] = values[np.ix_(*(index - index[0] for index in indices))]
    return out


def sampled_places(source: Source, most: int = SAMPLE_VALUES) -> list[np.ndarray]:
    """The indices along each axis whose values `sample_of` gives.

    >>> from quantize.io import as_source
    >>> [places.tolist() for places in sampled_places(as_source(np.arange(1000)), most=5)]
    [[100, 300, 500, 700, 900]]
    """
    if math.prod(source.shape) <= most:
        return [np.arange(n) for n in source.shape]
    return [np.concatenate(cells) for cells in lattice(source, most)]


def lattice(source: Source, most: int) -> list[list[np.ndarray]]:
    """For each axis the cells that are looked into, and the indices that are taken of each."""
    cell = cell_of(source, most)
    counts = Grid(source.shape, cell).counts
    affordable = min(most, max(4, min(CELLS, READ_BYTES // (math.prod(cell) * source.dtype.itemsize))))
    chosen = [
        [(2 * i + 1) * count // (2 * number) for i in range(number)]
        for count, number in zip(counts, shares(counts, affordable), strict=True)
    ]
    spans = [
        [range(number * length, min((number + 1) * length, n)) for number in numbers]
        for numbers, length, n in zip(chosen, cell, source.shape, strict=True)
    ]
    there = [sum(map(len, cells)) for cells in spans]
    taken = shares(there, most)
    return [
        [part_of(span, take / held, -(-RUNS // len(cells))) for span in cells]
        for cells, held, take in zip(spans, there, taken, strict=True)
    ]


def cell_of(source: Source, most: int) -> Shape:
    """What is read at once: a chunk, or some where they are small; else runs of values, side by side."""
    shape = source.shape
    cell = [min(length, n) for length, n in zip(source.chunks or [1] * len(shape), shape, strict=True)]
    order = range(len(shape)) if source.order == "F" else reversed(range(len(shape)))
    room = JOINED_CHUNKS if source.chunks else most
    for place, axis in enumerate(order):
        times = max(1, min(most // CELLS // math.prod(cell), room, -(-shape[axis] // cell[axis])))
        if source.chunks is None and place == 0 and len(shape) > 1:
            times = min(times, max(LEAST_RUN, most // CELLS // SIDE_BY_SIDE))
        cell[axis] = min(times * cell[axis], shape[axis])
        room //= times
    return tuple(cell)


def shares(limits: Sequence[int], most: int) -> list[int]:
    """Numbers whose product is at most `most`, none above its limit, and otherwise as even as can be.

    >>> shares([1000, 4, 1], 64)
    [16, 4, 1]
    """
    found = [1] * len(limits)
    room = float(most)
    order = sorted(range(len(limits)), key=lambda axis: limits[axis])
    for left, axis in zip(range(len(limits), 0, -1), order, strict=True):
        found[axis] = max(1, min(limits[axis], int(room ** (1 / left) * (1 + 1e-12))))
        room /= found[axis]
    return found


def part_of(span: range, share: float, runs: int) -> np.ndarray:
    """About that share of the indices of a span, in so many runs spread evenly.

    >>> part_of(range(100, 200), 0.06, 2).tolist()
    [124, 125, 126, 174, 175, 176]
    """
    take = max(1, int(share * len(span) * (1 + 1e-12)))
    if take == len(span):
        return np.array(span)
    runs = min(runs, take)
    length = take // runs
    starts = [(2 * i + 1) * len(span) // (2 * runs) - length // 2 for i in range(runs)]
    return np.concatenate([np.arange(start, start + length) for start in starts]) + span.start
