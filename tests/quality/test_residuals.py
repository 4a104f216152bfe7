import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES

from quantize.numerics.granularity import granularity_of
from quantize.numerics.scales import Codes, Scales
from quantize.numerics.tables import BOUND_SLACK, level_table
from quantize.quality.residuals import ERROR_BINS, VALUE_BINS, ErrorBound, EvenBins, bin_of, ulp


def bound(
    scales: Any,
    zero_points: Any,
    axis: int | None = None,
    shape: tuple[int, ...] = (9,),
    dtype: Any = np.float64,
    clips: bool = True,
    blocks: tuple[int, ...] | None = None,
    **codes: Any,
) -> ErrorBound:
    """For values of a shape, with one scale, or one for each index of an axis or each block."""
    granularity = granularity_of(axis, len(shape), blocks)
    whole = np.array(zero_points, np.int64 if blocks is None else float)
    each = Scales.of(np.array(scales, float), whole, granularity, shape)
    return ErrorBound(each, Codes(**codes), clips, np.dtype(dtype))


def codes_of(*codes: int) -> np.ndarray:
    return np.array(codes, np.int8)


# Bins -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_infinity=True), max_size=30), st.sampled_from([VALUE_BINS, ERROR_BINS, EvenBins(2, 3)]))
def test_bins_count_as_numpy_does(values, bins):
    counts = np.zeros(bins.number, np.int64)
    for value in values:
        counts[bin_of(bins, value)] += 1
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


@given(
    st.sampled_from(
        [
            ((700,), None),
            ((3, 257), 0),
            ((3, 257), 1),
            ((2, 5, 64), 1),
            ((40, 7), 1),
            ((2, 300, 2), 1),
            ((700,), (32,)),
            ((5, 257), (1, 32)),
            ((70, 9), (32, 1)),
            ((21, 41), (4, 8)),
            ((3, 20, 30), (2, -1, 7)),
            ((6, 300), (3, -1)),
        ]
    ),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_pieces_longer_than_a_strip_have_the_figures_of_numpy(form, seed, odd):
    shape, form = form
    axis, blocks = (None, form) if isinstance(form, tuple) else (form, None)
    rng = np.random.default_rng(seed)
    granularity = granularity_of(axis, len(shape), blocks)
    n = granularity.count(shape)
    each, wholes = rng.uniform(0.5, 2, n), rng.integers(-4, 5, n)
    if blocks:
        each, wholes = rng.integers(16, 32, n) / 32, rng.integers(-20, 21, n) / 4
    index = np.broadcast_to(granularity.index_of(shape), shape)
    scales, zero_points = each[index], wholes[index]
    codes = rng.integers(-7, 8, shape).astype(np.int8)
    values = (codes - zero_points + rng.uniform(-0.49, 0.49, shape)) * scales
    chosen = rng.random(shape)
    away = (chosen > 0.99) & odd  # by more than a step: beyond the outermost level it is saturated
    values = np.where(away, values + np.sign(codes) * 1.1 * scales, values)
    infinite, absent = (chosen < 0.01) & odd, (chosen > 0.01) & (chosen < 0.03) & odd
    values[infinite], values[absent] = np.inf, np.nan
    lost = (chosen > 0.02) & (chosen < 0.04) & odd
    codes[lost] = -8
    own = bound(each, wholes, axis, shape, blocks=blocks, lowest=-7, nan_code=-8)
    sums, counts = own.compare(values, codes, (0,) * len(shape))

    there = np.isfinite(values) & ~lost
    x, restored = values[there], ((codes - zero_points) * scales)[there]
    errors, steps = restored - x, scales[there]
    size = np.abs(errors)
    clipped = (size > steps / 2) & (codes[there] == np.where(errors < 0, 7, -7))
    assert (sums.count, sums.infinite, sums.missing) == (there.sum(), infinite.sum(), (absent & lost).sum())
    assert sums.mismatched == (absent ^ (lost & ~infinite)).sum()
    assert sums.saturated == clipped.sum() + (infinite & (codes == 7)).sum()
    assert sums.outside == ((size > steps / 2) & ~clipped).sum() + (infinite & (codes != 7)).sum()
    figures = (sums.bias, sums.mae, sums.rmse, sums.mean, sums.deviation, sums.largest, sums.in_range)
    in_range = (2 * size / steps).max(where=~clipped, initial=0)
    of_numpy = (errors.mean(), size.mean(), np.sqrt(np.square(errors).mean()), x.mean(), x.std(), size.max(), in_range)
    np.testing.assert_allclose(figures, of_numpy, rtol=1e-12, atol=1e-12)
    everywhere = np.zeros(shape)
    everywhere[there] = size
    assert sums.at == np.unravel_index(everywhere.argmax(), shape)
    np.testing.assert_array_equal(counts.codes, np.bincount(codes.ravel() + 8, minlength=16))
    for found, expected, bins in (
        (counts.values, x / steps + zero_points[there], VALUE_BINS),
        (counts.errors, errors / steps * (1 - 2 * BOUND_SLACK), ERROR_BINS),
    ):
        edges = np.concatenate([[-np.inf], bins.edges(), [np.inf]])
        moved = np.abs(found - np.histogram(expected, edges)[0]).sum()
        assert found.sum() == there.sum()
        assert moved <= 6  # values so near an edge that rounding decides


@given(blocks=st.sampled_from([(1, 5), (5, 1), (3, 4), (-1, 2)]), dtype=st.sampled_from(DTYPES), data=st.data())
def test_what_is_restored_of_any_part_of_blocks_is_what_readers_get(blocks, dtype, data):
    shape, dtype = (11, 13), np.dtype(dtype)
    granularity = granularity_of(None, 2, blocks)
    counts = granularity.groups(shape).counts
    numbers = data.draw(st.integers(0, 2**32), "seed")
    rng = np.random.default_rng(numbers)
    exponent = data.draw(st.integers(-6, 3), "exponent")
    scales = Scales.of(
        np.ldexp(rng.integers(16, 32, counts), exponent), rng.integers(-2000, 2000, counts) / 4, granularity, shape
    )
    known = Codes(-7, -8, data.draw(st.none() | st.just(100_000), "missing") if dtype.kind not in "iu" else None)
    codes = rng.integers(-8, 8, shape).astype(np.int8)
    own = ErrorBound(scales, known, True, dtype)
    rows, columns = (
        sorted(data.draw(st.tuples(*2 * [st.integers(0, n)]).filter(lambda ends: ends[0] != ends[1]))) for n in shape
    )
    part = slice(*rows), slice(*columns)
    levels = level_table(scales, dtype, replace(known, missing=0 if known.missing is None else known.missing))
    try:
        restored = levels.look_up(codes)[part].astype(np.float64)
    except ValueError:
        return
    missing = codes[part] == -8
    restored[missing] = np.nan
    noise = rng.integers(-4, 5, restored.shape) / 4
    sums, counted = own.part(part).compare(restored + noise, codes[part], (rows[0], columns[0]))
    lost = missing.sum()
    assert (sums.missing, sums.mismatched, sums.count) == (lost, 0, missing.size - lost)
    if sums.count:
        far = np.abs(restored[~missing]).max() > 2**50  # there float64 has no quarters
        assert far or sums.mae == pytest.approx(np.abs(noise[~missing]).mean(), abs=1e-9)
    assert counted.codes.sum() == missing.size


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
