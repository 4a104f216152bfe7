"""Levels, and tables of the 16 values: of one scale or of each index of an axis."""

import math
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import BFLOAT16, DTYPES, FLOATS, numbers
from test_scales import FLOAT64, chosen, policies

from quantize.kernels import unpack_values
from quantize.numerics.scales import Scale
from quantize.numerics.tables import CODES, Table, along, levels, levels_each
from quantize.quantize import pack_int4_to_int8

# Levels -------------------------------------------------------------------------------------------------------------


@st.composite
def parameters(draw: st.DrawFn, dtype: np.dtype[Any]) -> Scale:
    low, high = sorted([float(draw(numbers(dtype))), float(draw(numbers(dtype)))])
    result = chosen(low, high, draw(st.sampled_from(["minmax", "absmax"])), draw(policies))
    stretch = draw(st.sampled_from([1.0, 1.0, 1.5]))
    assume(math.isfinite(result.scale * stretch))
    return Scale(result.scale * stretch, result.zero_point, result.nan_code)


@st.composite
def any_scales(draw: st.DrawFn, dtype: np.dtype[Any]) -> Scale:
    """Scales of data of a dtype, and others: levels that are ties, subnormal, at the limits and beyond."""
    if draw(st.booleans()):
        return draw(parameters(dtype))
    if draw(st.booleans()):
        bits = draw(st.integers(1, 2**12)) * 2.0 ** draw(st.integers(-160, 120))
        return Scale(bits, draw(st.integers(-300, 300)))
    return Scale(draw(st.floats(5e-324, 1e308)), draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)))


@given(st.sampled_from(DTYPES), st.data())
def test_levels_are_rounded_once(dtype: np.dtype[Any], data: st.DataObject) -> None:
    scale = data.draw(parameters(dtype))
    found = levels(scale, dtype)
    assert found.table.shape == (16,)
    assert found.table.dtype == dtype
    for code in range(-8, 8):
        exact = oracle.dequantized(code, scale.scale, scale.zero_point, dtype)
        if code == scale.nan_code:
            assert np.isnan(found.table[0]) if dtype in FLOATS else code in found.outside
        else:
            assert (code in found.outside) is (exact is None)
            assert exact is None or oracle.number(found.table[code + 8]) == exact


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2**-8, 1.0),  # a tie goes to even
        (1 + 2**-8 + 2**-30, 1 + 2**-7),  # just above a tie, on it once float32 has rounded it
        (1 + 2**-7 + 2**-8 - 2**-30, 1 + 2**-7),  # just below
        ((2 + 0.5 + 2**-30) * 2**-133, 3 * 2**-133),  # among subnormals
        (2**-134, 0.0),
        (2**-134 + 2**-170, 2**-133),
    ],
)
def test_bfloat16_is_not_rounded_through_float32(value: float, expected: float) -> None:
    for sign in (1, -1):
        assert float(levels(Scale(value), BFLOAT16).table[8 + sign]) == sign * expected
        tables, _ = levels_each(np.full(2, value), np.zeros(2, np.int64), None, BFLOAT16)
        assert tables[:, 8 + sign].astype(float).tolist() == [sign * expected] * 2


def test_a_level_saturates_within_half_a_step_of_the_range() -> None:
    int8 = np.dtype(np.int8)
    assert levels(Scale(17.0), int8).table.tolist()[:2] == [-128, -119]
    assert levels(Scale(17.0), int8).outside == frozenset()
    assert levels(Scale(18.3), int8).outside == {-8}
    assert levels(Scale(18.3), int8).table[15] == 127
    float16 = np.dtype(np.float16)
    top = levels(Scale(65504 / 6.9), float16)
    assert (top.table[15], top.table[1], top.outside) == (65504, -65504, {-8})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_missing_values_come_back(dtype: np.dtype[Any]) -> None:
    missing = 99
    found = levels(Scale(1.0, 0, -8), dtype, missing)
    assert found.table[0] == missing if dtype.kind in "iu" else np.isnan(found.table[0])
    assert -8 not in found.outside


@given(st.sampled_from(DTYPES), st.data(), st.sampled_from([None, -8, 3]), st.sampled_from([None, 99]))
def test_levels_of_each_are_those_of_one(
    dtype: np.dtype[Any], data: st.DataObject, nan_code: int | None, missing: int | None
) -> None:
    scales = data.draw(st.lists(any_scales(dtype), min_size=1, max_size=12))
    columns = np.array([s.scale for s in scales]), np.array([s.zero_point for s in scales])
    tables, outside = levels_each(*columns, nan_code, dtype, missing)
    assert (tables.shape, tables.dtype, outside.shape) == ((len(scales), 16), dtype, (len(scales), 16))
    for row, its_outside, scale in zip(tables, outside, scales, strict=True):
        found = levels(Scale(scale.scale, scale.zero_point, nan_code), dtype, missing)
        assert {int(code) - 8 for code in np.flatnonzero(its_outside)} == found.outside
        exact = [
            x if dtype.kind in "iu" else x.astype(float) for x in (row, found.table)
        ]  # NaN of bfloat16 is not itself
        np.testing.assert_array_equal(exact[0][~its_outside], exact[1][~its_outside])


@pytest.mark.parametrize("zero_point", [-(2**63), 2**63 - 1])
def test_levels_of_the_furthest_zero_points(zero_point: int) -> None:
    tables, outside = levels_each(np.array([1.0]), np.array([zero_point]), None, FLOAT64)
    np.testing.assert_array_equal(tables[0], levels(Scale(1.0, zero_point), FLOAT64).table)
    assert not outside.any()


# Tables -------------------------------------------------------------------------------------------------------------


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
    table = Table.of_each(scales, zero_points, None, dtype, axis)
    exact = (codes - along(zero_points, axis, codes.ndim)) * along(scales, axis, codes.ndim)
    expected = (exact if dtype in FLOATS else np.rint(exact)).astype(dtype)
    found = table.look_up(codes)
    assert (found.dtype, table.dtype) == (dtype, dtype)
    np.testing.assert_array_equal(found, expected)
    out = np.empty(codes.shape, dtype)
    unpack_values(table, pack_int4_to_int8(codes), out)
    np.testing.assert_array_equal(out, expected)
    part = [slice(None)] * codes.ndim
    part[axis] = slice(1, None)
    np.testing.assert_array_equal(table.part(part[axis]).look_up(codes[tuple(part)]), expected[tuple(part)])


def test_one_scale_is_a_single_row() -> None:
    table = Table.of(Scale(2.0, 1, -8), np.dtype(np.float32))
    assert table.values.shape == (1, 16)
    assert table.part(slice(3, 5)) is table
    np.testing.assert_array_equal(table.look_up(np.array([[-8, 1], [2, 7]])), [[np.nan, 0], [2, 12]])
    assert CODES.look_up(np.array([-8, 7])).tolist() == [-8, 7]


def test_only_codes_that_are_used_need_fit() -> None:
    table = Table.of_each(np.array([1.0, 100.0]), np.array([0, 0]), None, np.dtype(np.int8), 0)
    assert table.look_up(np.array([[7, -8], [1, 0]])).tolist() == [[7, -8], [100, 0]]
    with pytest.raises(ValueError, match=r"code 3 at index \(1, 1\) stands for a value that int8 cannot hold"):
        table.look_up(np.array([[7, -8], [1, 3]]))


def test_missing_values_of_integers() -> None:
    table = Table.of_each(np.ones(2), np.zeros(2, np.int64), -8, np.dtype(np.int16), 0, missing=-999)
    assert table.look_up(np.array([[-8], [1]])).tolist() == [[-999], [1]]
    with pytest.raises(ValueError, match=r"code -8 at index \(1, 0\)"):
        Table.of_each(np.ones(2), np.zeros(2, np.int64), -8, np.dtype(np.int16), 0).look_up(np.array([[1], [-8]]))
