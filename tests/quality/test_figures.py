import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.quality.figures import ErrorFigures, PartErrors, Sums
from quantize.quality.residuals import errors_of_arrays

FIGURES = ErrorFigures(10, 2, 0, 0, -0.1, 0.2, 0.25, 0.5, (3, 4), 20.0)
STORED = replace(
    FIGURES,
    bound=0.5,
    largest_in_range=1.0,
    saturated=0,
    outside=0,
    code_counts=(0,) * 12 + (3, 3, 2, 2),
    bits_per_value=3.25,
    parts=PartErrors((2, 3), (1, 2), (0.25, math.nan), (0.5, math.nan), (0.0, math.nan)),
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.integers(1, 39), st.integers(0, 400))
def test_sums_of_two_sets_are_those_of_both(values, cut, offset):
    x = np.array(values) + 10.0**6 * offset
    y = np.round(x / 3) * 3
    cut = min(cut, x.size - 1)
    whole = errors_of_arrays(x, y, (0,))
    both = errors_of_arrays(x[:cut], y[:cut], (0,)) + errors_of_arrays(x[cut:], y[cut:], (cut,))
    assert (both.count, both.at, both.largest) == (whole.count, whole.at, whole.largest)
    for name in ("bias", "mae", "rmse", "mean", "deviation"):
        assert getattr(both, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-6), name


def test_the_first_of_several_largest_errors_is_named():
    late, early = Sums(count=1, largest=2.0, at=(5, 1)), Sums(count=1, largest=2.0, at=(4, 9))
    assert (late + early).at == (early + late).at == (4, 9)


def test_sums_of_nothing_add_nothing():
    sums = errors_of_arrays(np.array([1.0, 2.0]), np.array([1.5, 2.0]), (7,))
    assert sums + Sums() == Sums() + sums == sums
    assert sums.at == (7,)


def test_figures_print_as_lines():
    lines = str(FIGURES).splitlines()
    assert lines[:2] == ["values compared  10, and 2 missing on both sides", "largest error    0.5 at (3, 4)"]
    assert lines[-1] == "SQNR             20.00 dB"
    stored = str(STORED).splitlines()
    assert stored[6:] == [
        "half a step      0.5, all values within",
        "codes            4 of 16 in use, entropy 1.97 bits",
        "stored           3.25 bits a value",
    ]


def test_a_largest_error_beyond_half_a_step_is_put_down_to_rounding():
    rounded = replace(STORED, max_error=0.500001, largest_in_range=1.000002)
    assert "half a step      0.5, all values within, but for rounding" in str(rounded).splitlines()
    beyond = replace(rounded, outside=1)
    assert "half a step      0.5, NOT all values within" in str(beyond).splitlines()


def test_what_is_wrong_is_printed():
    text = str(replace(STORED, saturated=3, outside=1, infinite=2, mismatched=4))
    for line in (
        "half a step      0.5, NOT all values within",
        "saturated        3 values, 25 %",
        "infinite         2",
        "out of bound     1 values",
        "mismatched       4 values are missing on one side only",
    ):
        assert line in text.splitlines()


def test_json_has_every_figure_and_no_infinity():
    found = json.loads(json.dumps(replace(STORED, sqnr_db=math.inf).to_json(), allow_nan=False))
    assert found["sqnr_db"] is None
    assert found["max_error_at"] == [3, 4]
    assert found["parts"]["rmse"] == [0.25, None]
    assert (found["within_bound"], found["saturated_share"]) == (True, 0.0)
    assert FIGURES.to_json()["parts"] is None


@pytest.mark.parametrize(("change", "fine"), [({}, True), ({"outside": 1}, False), ({"mismatched": 1}, False),
                                              ({"saturated": 5}, True), ({"outside": None}, True)])  # fmt: skip
def test_saturation_alone_is_no_defect(change, fine):
    assert replace(STORED, **change).within_bound is fine


def test_entropy_is_four_bits_at_most():
    assert replace(STORED, code_counts=(7,) * 16).entropy == pytest.approx(4)
    assert replace(STORED, code_counts=(0,) * 15 + (9,)).entropy == 0
    assert FIGURES.entropy is None
