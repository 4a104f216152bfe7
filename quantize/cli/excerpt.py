"""Part of a stored array, printed or written to an .npy file without holding more than a piece of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..io.formats.npy import NpySink
from ..io.sink import Outline, check_room, check_target, replacing
from ..numerics.blocks import blocks
from ..numerics.grid import Region
from ..numerics.names import check_suffix
from ..reading.array import Int4Array
from ..reading.dataset import KeptArray
from ..reading.indexing import Axis, full_index

SAVED_VALUES = 1 << 24  # values: what is written at a time
EDGE_VALUES = 3  # values: what is printed of each end of a long axis, as NumPy does
PRINTED_WHOLE = 1000  # values: an excerpt of at most so many is printed whole
NPY = NpySink()


@dataclass(frozen=True)
class Excerpt:
    """What a basic index takes of an array: a range of each axis, or one index, which drops the axis."""

    array: Int4Array | KeptArray
    axes: tuple[range | int, ...]

    @classmethod
    def of(cls, array: Int4Array | KeptArray, index: Any) -> Excerpt:
        parts = full_index(index, array.ndim)
        for part, n in zip(parts, array.shape, strict=True):
            Axis.of(part, n)
        return cls(array, tuple(range(n)[part] for part, n in zip(parts, array.shape, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes if isinstance(axis, range))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the excerpt: float32 for bfloat16 and float8, which .npy does not have."""
        return NPY.stored_dtype(self.array.dtype)

    def values(self, region: Sequence[slice] | None = None) -> np.ndarray:
        """The values, or those of a region of the excerpt."""
        parts = iter(region or [slice(None)] * len(self.shape))
        axes = [axis if isinstance(axis, int) else indices(axis[next(parts)]) for axis in self.axes]
        return np.asarray(self.array[tuple(axes)]).astype(self.dtype, copy=False)

    def preview(self) -> str:
        """The values as NumPy prints them. Of a long excerpt only what is shown is read."""
        if math.prod(self.shape) <= PRINTED_WHOLE:
            return np.array2string(self.values(), threshold=PRINTED_WHOLE)
        corners = np.zeros([min(n, 2 * EDGE_VALUES + 1) for n in self.shape], self.dtype)
        for ends in product(*[ends_of(n) for n in self.shape]):
            corners[tuple(shown for shown, _ in ends)] = self.values([taken for _, taken in ends])
        return np.array2string(corners, threshold=0, edgeitems=EDGE_VALUES)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write an .npy file, which is there only once it is whole.

        Raises
        ------
        FileExistsError
            If there is one and `overwrite` is not set.
        FileNotFoundError
            If there is no folder for it.
        ValueError
            If its name ends as that of another kind of file, the values are texts, or there is not enough disk.
        """
        if self.dtype.kind == "O":
            raise ValueError(f"{self.array.name} holds texts of any length, which .npy has none of: have them printed")
        outline, target = Outline(self.shape, self.dtype), Path(path)
        check_target(target, overwrite)
        check_suffix(path, (*NPY.suffixes, ""), "what is read")
        check_room(target, math.prod(self.shape) * self.dtype.itemsize, "the values")
        with replacing(target, overwrite) as partial, NPY.open(partial, outline) as put:
            for region in regions(self.shape):
                put(region, self.values(region))


def indices(axis: range) -> slice:
    """A range of an axis as a slice."""
    return slice(axis.start, axis.stop if axis.stop >= 0 else None, axis.step) if axis else slice(0, 0)


def ends_of(n: int) -> list[tuple[slice, slice]]:
    """Where the ends of an axis stand in what is shown, and where in the axis; a short axis is shown whole."""
    if n <= 2 * EDGE_VALUES:
        return [(slice(0, n), slice(0, n))]
    return [(slice(0, EDGE_VALUES), slice(0, EDGE_VALUES)), (slice(EDGE_VALUES + 1, None), slice(n - EDGE_VALUES, n))]


def regions(shape: tuple[int, ...]) -> Iterator[Region]:
    """Regions that lie one behind the other in C order."""
    if not shape:
        yield ()
    elif math.prod(shape):
        yield from blocks(shape, SAVED_VALUES)
