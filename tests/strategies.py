"""Hypothesis strategies for arrays of every dtype, shape and memory layout that can be quantized."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)]
DTYPES = FLOATS + INTEGERS
# Each dtype is compiled for: where a loop is the same for all, a quick test takes some and a slow one the others.
SOME = [BFLOAT16, np.dtype(np.float32), np.dtype(np.int16)]
some_dtypes_at_once = pytest.mark.parametrize(
    "dtypes",
    [
        pytest.param(SOME, id="some dtypes"),
        pytest.param([one for one in DTYPES if one not in SOME], id="the other dtypes", marks=pytest.mark.slow),
    ],
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)
BFLOAT16_MAX = float(ml_dtypes.finfo(BFLOAT16).max)


def native(array: np.ndarray) -> np.ndarray:
    return array


def fortran(array: np.ndarray) -> np.ndarray:
    return array.T.copy().T


def reversed_(array: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(array).copy())


def stepped(array: np.ndarray) -> np.ndarray:
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def swapped(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == BFLOAT16 else array.astype(array.dtype.newbyteorder())


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = [native, fortran, reversed_, stepped, swapped, read_only]


def numbers(dtype: np.dtype[Any], low: Any = None, high: Any = None) -> st.SearchStrategy[Any]:
    """Finite numbers of a dtype; for bfloat16 float32 numbers of its range."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return st.integers(int(info.min) if low is None else low, int(info.max) if high is None else high)
    if dtype == BFLOAT16 and low is None:
        low, high = -BFLOAT16_MAX, BFLOAT16_MAX
    width: Any = 32 if dtype == BFLOAT16 else 8 * dtype.itemsize
    return st.floats(low, high, width=width, allow_nan=False, allow_infinity=False)


@st.composite
def with_axis(draw: st.DrawFn, values: st.SearchStrategy[np.ndarray]) -> tuple[np.ndarray, int]:
    """An array and one of its axes, counted from the front or from the back."""
    array = draw(values)
    return array, draw(st.integers(-array.ndim, array.ndim - 1))


@st.composite
def arrays(
    draw: st.DrawFn,
    dtypes: list[np.dtype[Any]] = DTYPES,
    shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES,
    special: tuple[float, ...] = (),
) -> np.ndarray:
    """Arrays of values from a range that may be wide, narrow or far from zero, with `special` ones among the floats."""
    dtype = draw(st.sampled_from(dtypes))
    low, high = sorted(draw(numbers(dtype)) + 0 for _ in range(2))  # + 0 turns -0.0, which bounds nothing, into 0.0
    drawn = np.dtype(np.float32) if dtype == BFLOAT16 else dtype
    array = draw(hnp.arrays(drawn, shapes, elements=numbers(dtype, low, high))).astype(dtype)
    if special and dtype in FLOATS:
        where = draw(hnp.arrays(np.int8, array.shape, elements=st.integers(0, 2 * len(special) - 1)))
        for index, value in enumerate(special):
            array[where == index] = value
    return draw(st.sampled_from(LAYOUTS))(array)
