"""Where the values of blocks lie in memory, as loops take them that work on many blocks side by side."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from .grid import Shape

TURNED = 8  # lanes: starts are filled up to a multiple of it, with the last one again


class Lanes(NamedTuple):
    """Boxes of one size in a C-contiguous array, and the places of their values in it.

    A box has its values in runs, one after another. Value ``i * run + j`` of a box lies at ``start + offsets[i] + j``.

    Attributes
    ----------
    starts : ndarray of int64
        Where each box begins.
    owners : ndarray of int64
        The number of the block that it is, or is a part of.
    offsets : ndarray of int64
    run : int
    """

    starts: Any
    owners: Any
    offsets: Any
    run: int


@functools.lru_cache(maxsize=8)
def lanes_of(shape: Shape, box: Shape, most: int | None = None) -> tuple[Lanes, ...]:
    """The blocks of an array, those of one size together; with `most` each in parts of at most so many values.

    >>> [(int(lanes.starts[0]), lanes.offsets.tolist(), lanes.run) for lanes in lanes_of((4, 5), (2, 3))]
    [(0, [0, 5], 3), (3, [0, 5], 2)]
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    counts = [-(-n // b) for n, b in zip(shape, box, strict=True)]
    numbers = [math.prod(counts[axis + 1 :]) for axis in range(len(shape))]
    lengths = list(box)
    for axis in range(len(box) if most else 0):
        lengths[axis] = max(1, min(box[axis], (most or 0) // math.prod(lengths[axis + 1 :])))
    found = []
    for along in itertools.product(*map(cut, shape, box, lengths)):
        starts, owners = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for (places, blocks, _), stride, number in zip(along, strides, numbers, strict=True):
            starts = np.add.outer(starts, places * stride).ravel()
            owners = np.add.outer(owners, blocks * number).ravel()
        sizes = [length for _, _, length in along]
        inner = len(shape) - 1
        while inner > 0 and sizes[inner] == shape[inner]:
            inner -= 1
        offsets = np.zeros(1, np.int64)
        for axis in range(inner):
            offsets = np.add.outer(offsets, np.arange(sizes[axis]) * strides[axis]).ravel()
        beyond = (0, -len(starts) % TURNED)
        found.append(
            Lanes(np.pad(starts, beyond, "edge"), np.pad(owners, beyond, "edge"), offsets, math.prod(sizes[inner:]))
        )
    return tuple(found)


class Rows(NamedTuple):
    """Blocks in a C-contiguous array, as parts of rows that are as long as they can be.

    Attributes
    ----------
    owners : ndarray of int64
        The number of the first block of each row; those that follow are the next.
    n : int
        Values in a row.
    length : int
        Values of a block in a row; the last may have fewer.
    """

    owners: Any
    n: int
    length: int


@functools.lru_cache(maxsize=8)
def rows_of(shape: Shape, box: Shape) -> Rows:
    """The rows of an array in blocks.

    >>> rows = rows_of((4, 5), (2, 3))
    >>> rows.owners.tolist(), rows.n, rows.length
    ([0, 0, 2, 2], 5, 3)
    >>> rows_of((4, 6), (1, 3)), rows_of((4, 6), (2, 6))
    (Rows(owners=array([0]), n=24, length=3), Rows(owners=array([0]), n=24, length=12))
    """
    *outer, n = shape
    *sizes, length = box
    while outer and (length == n or (sizes[-1] == 1 and n % length == 0)):  # a row goes on with the next
        length *= sizes.pop()
        n *= outer.pop()
    owners, number = np.zeros(1, np.int64), -(-n // length)
    for along, size in zip(reversed(outer), reversed(sizes), strict=True):
        owners = np.add.outer(np.arange(along) // size * number, owners).ravel()
        number *= -(-along // size)
    return Rows(owners, n, length)


def cut(n: int, block: int, length: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """An axis cut into blocks, and those into pieces: where those of one length begin, and of which block they are."""
    found = []
    for first, count, size in ((0, n // block, block), (n // block, 1, n % block)):
        for inside, piece in (
            (np.arange(size // length) * length, length),
            (np.array([size - size % length]), size % length),
        ):
            if count and size and piece and inside.size:
                blocks = first + np.arange(count)
                found.append((np.add.outer(blocks * block, inside).ravel(), blocks.repeat(inside.size), piece))
    return found
