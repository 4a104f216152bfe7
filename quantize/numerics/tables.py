"""From codes back to numbers, by tables of the 16 values: of one scale, or of each index of an axis."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from .blocks import first_index, in_lines, lines_of
from .grid import Shape
from .scales import HIGHEST, LOWEST, Scale, levels, levels_each


@dataclass(frozen=True, eq=False)
class Table:
    """The values of the codes -8..7.

    `values` and `outside`, which tells the codes whose value does not fit the dtype, have the shape ``(count, 16)``: a
    row for each index of `axis`, or a single one without an axis.
    """

    values: np.ndarray
    outside: np.ndarray
    axis: int | None = None

    @classmethod
    def of(cls, parameters: Scale, dtype: np.dtype[Any], missing: float | int | None = None) -> Table:
        found = levels(parameters, dtype, missing)
        return cls(found.table[None], np.isin(np.arange(LOWEST, HIGHEST + 1), list(found.outside))[None])

    @classmethod
    def of_each(
        cls,
        scales: np.ndarray,
        zero_points: np.ndarray,
        nan_code: int | None,
        dtype: np.dtype[Any],
        axis: int,
        missing: float | int | None = None,
    ) -> Table:
        return cls(*levels_each(scales, zero_points, nan_code, dtype, missing), axis)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        return kernels.pairs_of(self.values[0])

    def part(self, indices: slice) -> Table:
        """That of some indices of the axis; of one scale it is the same."""
        return self if self.axis is None else Table(self.values[indices], self.outside[indices], self.axis)

    def look_up(self, codes: np.ndarray) -> np.ndarray:
        """The value of each code.

        Raises
        ------
        ValueError
            If the dtype cannot hold it.
        """
        self.check(codes)
        found: np.ndarray = self.values[self._rows(codes), codes.astype(np.intp) - LOWEST]
        return found

    def check(self, codes: np.ndarray) -> None:
        """Raise a ValueError for the first code whose value does not fit the dtype that it is to be restored to."""
        if not self.outside.any():
            return
        outside = self.outside[self._rows(codes), codes.astype(np.intp) - LOWEST]
        if outside.any():
            index = first_index(outside)
            raise ValueError(
                f"code {codes[index]} at index {index} stands for a value that {self.dtype} cannot hold; "
                "pass a wider dtype"
            )

    def unpack(self, packed: np.ndarray, out: np.ndarray) -> None:
        """Write the values of packed bytes, of shape ``(..., ceil(n / 2))``, into `out`; both are C-contiguous."""
        lines = lines_of(out.shape, self.axis)
        block = in_lines(out, self.axis)
        packed_block = packed.reshape(len(block), -1).view(np.uint8)
        if self.axis is None:
            kernels.unpack(packed_block, block, self.pairs)
        else:
            kernels.unpack_each(packed_block, block, self.values, lines)

    def _rows(self, codes: np.ndarray) -> Any:
        """The row of each code, as an index that broadcasts."""
        return 0 if self.axis is None else along(np.arange(len(self.values)), self.axis, codes.ndim)


CODES = Table(np.arange(LOWEST, HIGHEST + 1, dtype=np.int8)[None], np.zeros((1, 16), bool))


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """One value for each index of an axis, as an array that broadcasts: of length 1 along every other axis."""
    shape: Shape = (1,) * axis + (-1,) + (1,) * (ndim - axis - 1)
    return values.reshape(shape)
