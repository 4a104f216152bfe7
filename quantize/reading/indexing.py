"""What NumPy's basic indexing takes of an axis."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pick:
    """What an index takes of a part of an axis.

    `count` entries, the first `offset` behind the part's start, each `step` behind the last; in the result they are
    those from `first` on.
    """

    first: int
    count: int
    offset: int
    step: int


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

    @classmethod
    def of(cls, index: Any, n: int) -> Axis:
        if isinstance(index, slice):
            taken = range(n)[index]
            ascending = taken if taken.step > 0 else taken[::-1]
            return cls(ascending.start, len(taken), ascending.step, taken.step < 0)
        try:
            if isinstance(index, bool | np.bool_):
                raise TypeError("a boolean is a mask, and no integer")
            place = range(n)[operator.index(index)]
        except TypeError:
            raise IndexError(
                f"{index!r} is no basic index: take integers, slices and an ellipsis, or index the result of to_dask()"
            ) from None
        except IndexError:
            raise IndexError(f"index {index} is out of bounds for an axis of length {n}") from None
        return cls(place, 1, drop=True)

    def within(self, part: slice) -> Pick:
        first = max(-(-(part.start - self.start) // self.step), 0)
        last = min(-(-(part.stop - self.start) // self.step), self.count)
        return Pick(first, max(last - first, 0), self.start + first * self.step - part.start, self.step)


def has_ellipsis(index: Any) -> bool:
    """Whether NumPy would give an array of no axes, and not a number, for an index that names all of them."""
    return index is Ellipsis or (isinstance(index, tuple) and any(part is Ellipsis for part in index))


def full_index(index: Any, ndim: int) -> list[Any]:
    """One entry for each axis: the ellipsis, or what is not named, stands for whole axes."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = sum(part is Ellipsis for part in parts)
    if ellipses > 1:
        raise IndexError("an index can have only one ellipsis")
    if not ellipses:
        parts.append(Ellipsis)
    if len(parts) - 1 > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, and {len(parts) - 1} were indexed")
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    return [*parts[:at], *[slice(None)] * (ndim - len(parts) + 1), *parts[at + 1 :]]
