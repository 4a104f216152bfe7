import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.granularity import granularity_of
from quantize.numerics.scales import Codes, Scales
from quantize.quality.residuals import ERROR_BINS, VALUE_BINS, ErrorBound, EvenBins, count_into, ulp


def bound(
    scales: Any,
    zero_points: Any,
    axis: int | None = None,
    shape: tuple[int, ...] = (9,),
    dtype: Any = np.float64,
    clips: bool = True,
    **codes: Any,
) -> ErrorBound:
    """For values of a shape, with one scale or one for each index of an axis."""
    granularity = granularity_of(axis, len(shape))
    each = Scales.of(np.array(scales, float), np.array(zero_points, np.int64), granularity, shape)
    return ErrorBound(each, Codes(**codes), clips, np.dtype(dtype))


def codes_of(*codes: int) -> np.ndarray:
    return np.array(codes, np.int8)


# Bins -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_infinity=True), max_size=30), st.sampled_from([VALUE_BINS, ERROR_BINS, EvenBins(2, 3)]))
def test_bins_count_as_numpy_does(values, bins):
    counts = np.zeros(bins.number, np.int64)
    for value in values:
        count_into(counts, bins, value)
    numbers = np.array([math.inf if math.isnan(value) else value for value in values], float)
    edges = np.concatenate([[-np.inf], bins.edges(), [np.inf]])
    near = np.abs(numbers[:, None] - bins.edges()).min(axis=1, initial=1) < 1e-9  # of an edge: either side of it
    if not near.any():
        expected = np.histogram(numbers, edges)[0]
        np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == len(values)


@given(st.floats(2.0**-149, 2.0**100, width=32))
def test_ulp_is_that_of_the_coarser_dtype(value):
    number = np.float32(value)  # above 0: of two zeros there is no error to weigh
    spacings = np.array([[-126, 23], [-1022, 52]])
    assert ulp(float(number), spacings) == np.spacing(number)
    assert ulp(float(number), spacings[::-1]) == np.spacing(number)
    assert ulp(float(number), spacings[1:].repeat(2, axis=0)) == np.spacing(np.float64(number))


# Comparing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "saturated", "outside"),
    [
        (7.5, 7, 0, 0),  # half a step beyond the outermost level
        (7.51, 7, 1, 0),
        (-8.5, -8, 0, 0),
        (-8.51, -8, 1, 0),
        (7.51, 6, 0, 1),  # beyond, but not at the outermost level
        (0.51, 0, 0, 1),
        (7.0, -8, 0, 1),  # at the wrong end
        (math.inf, 7, 1, 0),
        (math.inf, 6, 0, 1),
        (-math.inf, -8, 1, 0),
        (-math.inf, 7, 0, 1),
    ],
)
@pytest.mark.parametrize("clips", [True, False])
def test_saturation_is_told_from_defects(value, code, saturated, outside, clips):
    sums, _ = bound([1.0], [0], clips=clips).compare(np.array([value]), codes_of(code), (0,))
    assert (sums.saturated, sums.outside) == (saturated, outside + (0 if clips else saturated))
    assert sums.infinite == math.isinf(value)


def test_the_lowest_code_that_values_get_may_be_higher():
    values = np.array([-9.0])
    for lowest, saturated in ((-8, 0), (-7, 1)):
        sums, _ = bound([1.0], [0], lowest=lowest).compare(values, codes_of(-7), (0,))
        assert (sums.saturated, sums.outside) == (saturated, 1 - saturated)


@pytest.mark.parametrize(("dtype", "slack"), [(np.float64, 0.0), (np.int16, 0.5), (np.float16, 2 * 0.0078125)])
def test_rounding_to_the_dtype_is_no_defect(dtype, slack):
    for more, outside in ((-0.01, 0), (0.01, 1)):
        value = 12 + 2.0 + slack + more if slack == 0.5 else 12 + 2.0 + slack + more / 10
        sums, _ = bound([4.0], [0], dtype=dtype).compare(np.array([value]), codes_of(3), (0,))
        assert sums.outside == outside


@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), 2), ((5,), 0)])
def test_each_index_of_an_axis_has_its_own_levels(shape, axis):
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, shape).astype(np.int8)
    scales, zero_points = rng.uniform(0.1, 9, shape[axis]), rng.integers(-50, 50, shape[axis])
    full = [1] * len(shape)
    full[axis] = -1
    exact = (codes - zero_points.reshape(full)) * scales.reshape(full)
    own = bound(scales, zero_points, axis, shape)
    sums, counts = own.compare(exact, codes, (0,) * len(shape))
    assert (sums.count, sums.largest, sums.rmse) == (codes.size, 0, 0)
    assert counts.codes.tolist() == np.bincount(codes.ravel() + 8, minlength=16).tolist()
    part = tuple(slice(1, n) for n in shape)
    sums, _ = own.part(part).compare(exact[part], codes[part], (1,) * len(shape))
    assert (sums.count, sums.largest) == (codes[part].size, 0)


def test_the_place_of_the_largest_error_is_that_in_the_whole_array():
    values = np.zeros((4, 6))
    values[2, 5] = 0.25
    sums, _ = bound([1.0], [0]).compare(values, np.zeros((4, 6), np.int8), (10, 20))
    assert (sums.largest, sums.at) == (0.25, (12, 25))


def test_missing_values_have_their_code_or_are_mismatched():
    values, codes = np.array([np.nan, np.nan, -99.0, 1.0, 1.0, np.inf]), codes_of(-8, 1, -8, -8, 1, -8)
    sums, counts = bound([1.0], [0], lowest=-7, nan_code=-8, missing=-99.0).compare(values, codes, (0,))
    assert (sums.count, sums.missing, sums.mismatched, sums.infinite) == (1, 2, 2, 1)
    assert counts.values.sum() == counts.errors.sum() == 1


def test_a_level_that_the_dtype_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match=r"code 7 .* float16 cannot hold"):
        bound([60000.0], [0], dtype=np.float16).compare(np.zeros(1), codes_of(7), (0,))


def test_errors_of_just_half_a_step_lie_within_the_band():
    values = np.array([1.0, 3.0, -1.0, 2.0, 0.0])
    _, counts = bound([2.0], [0]).compare(values, codes_of(0, 2, -1, 1, 0), (0,))
    inside = np.abs(ERROR_BINS.edges()[:-1] + 0.5 / ERROR_BINS.per_unit) < 0.5
    assert counts.errors[1:-1][inside].sum() == 5


def test_rounding_of_subnormal_numbers_is_no_defect():
    smallest = 5e-324
    sums, _ = bound([3 * smallest], [0], clips=False).compare(np.array([4 * smallest]), codes_of(0), (0,))
    assert (sums.outside, sums.largest) == (1, 4 * smallest)
    sums, _ = bound([3 * smallest], [0], clips=False).compare(np.array([3 * smallest]), codes_of(0), (0,))
    assert (sums.outside, sums.rmse) == (0, 3 * smallest)
