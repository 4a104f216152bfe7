"""Tables of the 16 values, of one scale or of each index of an axis."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import DTYPES, FLOATS

from quantize.kernels import unpack_values
from quantize.numerics.granularity import PerAxis
from quantize.numerics.scales import Codes, Scale, Scales
from quantize.numerics.tables import CODES, LevelTable, level_table
from quantize.quantize import pack_int4_to_int8


@st.composite
def coded(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Codes, an axis, and scales and zero points along it."""
    codes = draw(hnp.arrays(np.int8, hnp.array_shapes(max_dims=4, max_side=5), elements=st.integers(-8, 7)))
    axis = draw(st.integers(0, codes.ndim - 1))
    count = codes.shape[axis]
    scales = draw(hnp.arrays(np.float64, count, elements=st.sampled_from([0.25, 0.5, 1.0, 3.0])))
    return codes, axis, scales, draw(hnp.arrays(np.int64, count, elements=st.integers(-15, -8)))


@given(coded(), st.sampled_from(DTYPES))
def test_looking_up_and_unpacking_are_the_formula(
    case: tuple[np.ndarray, int, np.ndarray, np.ndarray], dtype: np.dtype[Any]
) -> None:
    codes, axis, scales, zero_points = case
    each = Scales.of(scales, zero_points, PerAxis(axis), codes.shape)
    table = level_table(each, dtype, Codes())
    exact = (codes - each.zero_point) * each.scale
    expected = (exact if dtype in FLOATS else np.rint(exact)).astype(dtype)
    found = table.look_up(codes)
    assert (found.dtype, table.dtype) == (dtype, dtype)
    np.testing.assert_array_equal(found, expected)
    out = np.empty(codes.shape, dtype)
    unpack_values(table, pack_int4_to_int8(codes), out)
    np.testing.assert_array_equal(out, expected)
    part = tuple(slice(1 if along == axis and n > 1 else 0, n) for along, n in enumerate(codes.shape))
    np.testing.assert_array_equal(table.part(part).look_up(codes[part]), expected[part])


def test_one_scale_is_a_single_row() -> None:
    table = level_table(Scales.one(Scale(2.0, 1), (9, 9)), np.dtype(np.float32), Codes(nan_code=-8))
    assert table.rows.shape == (1, 16)
    assert table.part((slice(3, 5), slice(0, 9))) is table
    np.testing.assert_array_equal(table.look_up(np.array([[-8, 1], [2, 7]])), [[np.nan, 0], [2, 12]])
    assert CODES.look_up(np.array([-8, 7])).tolist() == [-8, 7]


def of_rows(scales: np.ndarray, dtype: Any, codes: Codes) -> LevelTable:
    """The levels of two rows, with zero points 0."""
    return level_table(Scales.of(scales, np.zeros(2, np.int64), PerAxis(0), (2, 9)), np.dtype(dtype), codes)


def test_only_codes_that_are_used_need_fit() -> None:
    table = of_rows(np.array([1.0, 100.0]), np.int8, Codes())
    assert table.look_up(np.array([[7, -8], [1, 0]])).tolist() == [[7, -8], [100, 0]]
    with pytest.raises(ValueError, match=r"code 3 at index \(1, 1\) stands for a value that int8 cannot hold"):
        table.look_up(np.array([[7, -8], [1, 3]]))


def test_missing_values_of_integers() -> None:
    table = of_rows(np.ones(2), np.int16, Codes(nan_code=-8, missing=-999))
    assert table.look_up(np.array([[-8], [1]])).tolist() == [[-999], [1]]
    with pytest.raises(ValueError, match=r"code -8 at index \(1, 0\)"):
        of_rows(np.ones(2), np.int16, Codes(nan_code=-8)).look_up(np.array([[1], [-8]]))
