"""Which values share a scale."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_index


class Lines(NamedTuple):
    """Which index of an axis each line of a block belongs to.

    Lines are rows, row `r` of index ``r // repeat % indices``; where the axis is the last, columns, one of each index.
    """

    indices: int = 1
    repeat: int = 1
    columns: bool = False


ONE = Lines()


def in_lines(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """C-contiguous values as ``(rows, n)``: a view.

    Each row is of one index of `axis`, or where that is the last one each column. Rows of even length are joined as far
    as they may be: their packed bytes lie side by side.
    """
    n = values.shape[-1]
    if n % 2 or axis == values.ndim - 1:
        return values.reshape(-1, n)
    return values.reshape(1 if axis is None else math.prod(values.shape[: axis + 1]), -1)


def lines_of(shape: tuple[int, ...], axis: int | None) -> Lines:
    """Which index of an axis each line of a block belongs to, for values of this shape in lines."""
    if axis is None:
        return ONE
    if axis == len(shape) - 1:
        return Lines(shape[-1], columns=True)
    return Lines(shape[axis], repeat=math.prod(shape[axis + 1 : -1]) if shape[-1] % 2 else 1)


def checked_axis(axis: Any, ndim: int) -> int | None:
    """The axis, counted from 0.

    Raises
    ------
    AxisError (a ValueError and an IndexError)
        If there is no such axis.
    TypeError
        If it is no integer.
    """
    return None if axis is None else int(normalize_axis_index(operator.index(axis), ndim))


def sampled(values: np.ndarray, axis: int | None, most: int) -> np.ndarray:
    """Some values of each index of an axis, evenly spread, shape ``(indices, at most `most`)``."""
    lines = (values[None] if axis is None else np.moveaxis(values, axis, 0))[..., None]
    size = math.prod(lines.shape[1:])
    places = np.linspace(0, size - 1, min(most, size)).astype(np.intp)
    chosen: Any = np.unravel_index(places, lines.shape[1:])
    return np.asarray(lines[(slice(None), *chosen)])
