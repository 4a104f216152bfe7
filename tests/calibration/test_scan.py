"""What a scan finds, dtype by dtype, against NumPy; in blocks of which some are looked at value by value."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import FLOATS, some_dtypes_at_once
from test_kernels import HALVES, LINED, SIXTEEN_BITS, blocks, lined

from quantize.calibration.scan import TILE, scan
from quantize.numerics.statistics import Statistics, from_row, no_rows

SPECIAL = (math.nan, math.inf, -math.inf)


def scanned(block: np.ndarray, missing: float | int | None = None) -> Statistics:
    rows = no_rows(1)
    scan(block, rows, missing=missing)
    return from_row(rows[0])


def expected(block: np.ndarray, missing: float | int | None = None) -> Statistics:
    marked = np.zeros(block.shape, bool) if missing is None else block == np.asarray(missing, block.dtype)
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = block.astype(float)
    finite = values[np.isfinite(values) & ~marked]
    low, high = (float(finite.min()) + 0, float(finite.max()) + 0) if finite.size else (math.nan, math.nan)
    others = [np.isnan(values), marked, np.isposinf(values), np.isneginf(values)]
    return Statistics(low, high, finite.size, *(int(np.count_nonzero(mask)) for mask in others))


def same(found: Statistics, other: Statistics) -> None:
    np.testing.assert_equal(vars(found), vars(other))
    for bound in (found.minimum, found.maximum):
        assert bound != 0 or math.copysign(1, bound) == 1, "-0 would make one row of the same values unlike another"


@given(blocks(special=SPECIAL))
def test_counts_and_bounds(block: np.ndarray) -> None:
    same(scanned(block), expected(block))


@some_dtypes_at_once
@given(data=st.data())
def test_missing_values_are_left_out(dtypes: list[np.dtype[Any]], data: st.DataObject) -> None:
    block = data.draw(blocks(dtypes, special=SPECIAL))
    present = block[np.isfinite(block)]
    assume(present.size)
    missing = data.draw(st.sampled_from(list(present)))
    same(scanned(block, missing), expected(block, missing))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_half_precision_number(dtype: np.dtype[Any]) -> None:
    for bits in SIXTEEN_BITS.reshape(64, 1, -1):
        block = bits.view(dtype)
        same(scanned(block), expected(block))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_pair_of_signs(dtype: np.dtype[Any]) -> None:
    for bits in SIXTEEN_BITS.reshape(-1, 1, 16)[::7]:
        for other in (0x0001, 0x3C00, 0x8001, 0xBC00):
            block = np.append(bits, [[other]], axis=1).astype(np.uint16).view(dtype)
            same(scanned(block), expected(block))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_zero_as_missing_value_has_both_signs(dtype: np.dtype[Any]) -> None:
    block = np.asarray([[0.0, -0.0, 1.0]], dtype)
    assert scanned(block, 0.0) == scanned(block, -0.0) == Statistics(1.0, 1.0, 1, missing=2)


@given(st.sampled_from(FLOATS), st.lists(st.tuples(st.integers(0, 4 * TILE), st.sampled_from(SPECIAL)), max_size=5))
def test_what_is_not_finite_is_counted_wherever_it_lies(dtype: np.dtype[Any], places: list[tuple[int, float]]) -> None:
    block = np.arange(4 * TILE + 1).astype(np.float32).reshape(1, -1).astype(dtype)
    for place, value in places:
        block[0, place] = value
    same(scanned(block), expected(block))


@some_dtypes_at_once
@given(data=st.data())
def test_each_index_has_the_statistics_of_its_values(dtypes: list[np.dtype[Any]], data: st.DataObject) -> None:
    block, lines, index_of = data.draw(lined(blocks(dtypes, special=SPECIAL, shapes=LINED)))
    missing = data.draw(st.none() | st.sampled_from(list(block.ravel())))
    assume(missing is None or np.isfinite(missing))
    rows = no_rows(lines.groups)
    scan(block, rows, lines, missing)
    for index in range(lines.groups):
        same(from_row(rows[index]), expected(block[index_of == index].reshape(1, -1), missing))


@given(blocks(special=SPECIAL), st.data())
def test_parts_add_up(block: np.ndarray, data: st.DataObject) -> None:
    rows = no_rows(1)
    cut = data.draw(st.integers(0, len(block)))
    for part in (block[:cut], block[cut:]):
        if part.size:
            scan(part, rows)
    same(from_row(rows[0]), expected(block))
