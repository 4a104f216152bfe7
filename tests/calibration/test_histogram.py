"""Histograms that need no range beforehand: what they count, and how they merge."""

import math
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow
from strategies import DTYPES, FLOATS, SOME, arrays, some_dtypes_at_once

from quantize.calibration.histogram import (
    COARSE,
    FINE,
    SAMPLE,
    FloatBins,
    Histogram,
    edge,
    merged_place,
    place_by_sample,
)
from quantize.calibration.scan import scan_rows
from quantize.numerics.granularity import Lines, sampled
from quantize.numerics.statistics import folded

BLOCKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


def of_values(values: np.ndarray, bins: FloatBins = FINE, missing: Any = None) -> tuple[Histogram, np.ndarray]:
    """The histogram of all values, and their statistics."""
    block = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(1, -1)
    rows = scan_rows(block, missing=missing)
    histogram = Histogram.about(bins, *place_by_sample(sampled(values, None, SAMPLE), rows, missing))
    histogram.add(block, missing=missing)
    histogram.leave_out(rows)
    return histogram, rows


def merged(parts: list[np.ndarray], bins: FloatBins = FINE) -> tuple[Histogram, np.ndarray]:
    found = [of_values(part, bins) for part in parts]
    places = [np.stack([getattr(histogram, name) for histogram, _ in found]) for name in ("unit", "origin")]
    rows = np.stack([rows for _, rows in found])
    total = Histogram.about(bins, *merged_place(*places, rows[..., 2]))
    for histogram, its_rows in found:
        total.merge(histogram, its_rows)
    return total, folded(rows)


# Counting -----------------------------------------------------------------------------------------------------------


def blocks(dtypes: list[np.dtype[Any]], special: tuple[float, ...] = ()) -> st.SearchStrategy[np.ndarray]:
    return arrays(dtypes, BLOCKS, special).map(lambda a: np.ascontiguousarray(a, a.dtype.newbyteorder("=")))


@st.composite
def placed(draw: st.DrawFn, dtypes: list[np.dtype[Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A block, and a unit and origin, of any size and close by or far away, that it may be counted with."""
    block = draw(blocks(dtypes, special=(math.nan, math.inf, -math.inf)))
    sample = draw(st.sampled_from([block, block[:1, :1]]) | blocks(DTYPES).map(lambda b: b.astype(float)))
    return (block, *place_by_sample(sample.reshape(1, -1), scan_rows(block)))


@some_dtypes_at_once
@given(data=st.data(), bins=st.sampled_from([FINE, COARSE]))
def test_every_finite_value_is_counted_once_in_the_bin_that_holds_it(
    dtypes: list[np.dtype[Any]], data: st.DataObject, bins: FloatBins
) -> None:
    block, unit, origin = data.draw(placed(dtypes))
    histogram = Histogram.about(bins, unit, origin)
    histogram.add(block)
    histogram.leave_out(scan_rows(block))
    values = np.sort(block.astype(float)[np.isfinite(block.astype(float))])
    held = np.repeat(np.arange(bins.number), histogram.counts[0].astype(int))
    assert len(held) == len(values)
    most = 2.0 ** (bins.octaves - 1)
    # float32 holds the distance from the origin to 2^-22 of it, and of what the value itself is rounded to
    for value, number in zip(values, held.tolist(), strict=True):
        y = float(oracle.number(value) / oracle.number(unit[0]) + int(origin[0]))
        slack = (1 + min(abs(y), most)) * 2.0**-21
        if block.dtype.kind in "iu" and block.dtype.itemsize == 8:
            slack += abs(value) * 2.0**-52 / unit[0]
        assert edge(number, bins) - slack <= y or y < -most
        assert y <= edge(number + 1, bins) + slack or y > most


@some_dtypes_at_once
@given(data=st.data())
def test_missing_values_are_left_out(dtypes: list[np.dtype[Any]], data: st.DataObject) -> None:
    short = [one for one in dtypes if one.itemsize <= 2]
    values = data.draw(arrays(short, BLOCKS, special=(math.nan, math.inf, -math.inf)))
    block = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    present = block[np.isfinite(block.astype(float))]
    assume(present.size)
    missing = data.draw(st.sampled_from(list(present)))
    histogram, rows = of_values(block, missing=missing)
    kept = block[np.isfinite(block.astype(float)) & (block != missing)]
    assert histogram.counts.sum() == rows[0, 2] == kept.size
    alone = Histogram.about(FINE, histogram.unit, histogram.origin)
    alone.add(np.ascontiguousarray(kept).reshape(1, -1))
    np.testing.assert_array_equal(histogram.counts, alone.counts)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_of_both_signs_and_infinities_are_left_out(dtype: np.dtype[Any]) -> None:
    values = np.asarray([math.nan, -math.nan, math.inf, -math.inf, math.inf, 1.0, 2.0], dtype)
    assert np.signbit(values[1])
    histogram, rows = of_values(values)
    assert histogram.counts.min() == 0
    assert histogram.counts.sum() == rows[0, 2] == 2


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", mostly_slow(DTYPES, SOME), ids=str)
def test_each_index_has_a_histogram_of_its_own(dtype: np.dtype[Any], columns: bool) -> None:
    random = np.random.default_rng(5)
    block = random.integers(0, 100, (12, 2500 if not columns else 7)).astype(dtype)
    lines = Lines(7, columns=True) if columns else Lines(3, repeat=2)
    indices = np.arange(7) * np.ones((12, 1)) if columns else (np.arange(12) // 2 % 3)[:, None] * np.ones(2500)
    unit, origin = np.ldexp(1.0, np.arange(lines.indices)), -np.arange(lines.indices)
    histogram = Histogram.about(COARSE, unit, origin)
    histogram.add(block, lines)
    for index in range(lines.indices):
        alone = Histogram.about(COARSE, unit[index : index + 1], origin[index : index + 1])
        alone.add(block[indices == index].reshape(1, -1))
        np.testing.assert_array_equal(histogram.counts[index], alone.counts[0])


@given(st.integers(-(2**20), 2**20), st.integers(1, 16), st.sampled_from([np.float32, np.float64, np.int32]))
def test_whole_numbers_lie_in_the_middle_of_narrow_bins(offset: int, power: int, dtype: Any) -> None:
    values = offset + np.arange(2 ** min(power, 6))
    histogram, _ = of_values(values.astype(dtype))
    for value in values.tolist():
        own = Histogram.about(FINE, histogram.unit, histogram.origin)
        own.add(np.array([[value]], dtype))
        number = int(np.argmax(own.counts[0]))
        left, right = ((edge(number + i, FINE) - own.origin[0]) * own.unit[0] - value for i in (0, 1))
        assert left < 0 < right
        assert 0.4 < right / -left < 2.5  # where bins become wider, one is so on one side only


@some_dtypes_at_once
@given(data=st.data())
def test_the_order_of_merging_does_not_matter(dtypes: list[np.dtype[Any]], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(dtypes))
    parts = data.draw(st.lists(blocks([dtype]), min_size=1, max_size=5))
    total, rows = merged(parts)
    again, its_rows = merged(data.draw(st.permutations(parts)))
    assert total.counts.sum() == again.counts.sum() == rows[0, 2] == sum(part.size for part in parts)
    np.testing.assert_array_equal(rows[:, :7], its_rows[:, :7])
    if (total.unit, total.origin) == (again.unit, again.origin):
        np.testing.assert_array_equal(total.counts, again.counts)
