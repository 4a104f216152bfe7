import base64
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.quality.choices import Choice
from quantize.quality.figures import PartErrors
from quantize.quality.residuals import ERROR_BINS, VALUE_BINS

pytest.importorskip("matplotlib")

from quantize.quality.report import pictures
from quantize.quality.report.pictures import compare_picture, drawn, folded_map

VALUE_JOINS, ERROR_JOINS = (6, 14, 42), (2, 6, 14, 18, 42, 126)


def counted(values: Any, bins: Any = VALUE_BINS) -> np.ndarray:
    edges = np.concatenate([[-np.inf], bins.edges(), [np.inf]])
    return np.histogram(np.asarray(values, float), edges)[0]


def text_of(figure: Any) -> str:
    """The letters of a picture, drawn as letters."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        address = pictures.svg(figure)
    text = base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")).decode()
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def choice(label: str, sqnr_db: float, current: bool = False) -> Choice:
    return Choice(label, label, None, sqnr_db, 4.0, 3.0, 1.0, 0.0, f"quantize run {label}", current)


# Bars -----------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-40, 40), max_size=60),
    st.sampled_from([(VALUE_BINS, VALUE_JOINS, (-12.5, 11.5)), (ERROR_BINS, ERROR_JOINS, (-0.5, 0.5))]),
    st.none() | st.floats(1e-3, 1e3),
)
def test_bars_and_what_lies_beyond_are_all_values(values, kind, whole):
    bins, joins, reach = kind
    bars = drawn(counted(values, bins), bins, joins, reach, whole)
    assert bars.heights.sum() + bars.below + bars.above == pytest.approx(1 if values else 0)
    assert len(bars.edges) == len(bars.heights) + 1
    widths = np.diff(bars.edges)
    np.testing.assert_allclose(widths, widths[0])
    assert reach[0] - 1e-9 <= bars.edges[0] < bars.edges[-1] <= reach[1] + 1e-9
    place = 0.5 + bars.edges[0] / widths[0]
    assert place == pytest.approx(round(place), abs=1e-6)  # one is centred about 0


@pytest.mark.parametrize("join", ERROR_JOINS)
def test_bars_of_errors_end_where_the_band_does(join):
    full = drawn(counted(np.linspace(-0.5, 0.5, 10_001)[1:-1], ERROR_BINS), ERROR_BINS, (join,), (-0.5, 0.5), None)
    assert full.edges[[0, -1]] == pytest.approx([-0.5, 0.5])
    assert full.below == full.above == 0


def test_bars_hold_one_whole_number_or_several():
    values = np.repeat(np.arange(256), 100) / 17 - 8
    bars = drawn(counted(values), VALUE_BINS, VALUE_JOINS, (-12.5, 11.5), whole=17.0)
    inner = bars.heights[1:-1]
    assert inner.max() / inner.min() < 1.3
    few = drawn(counted(np.arange(16) - 8.0), VALUE_BINS, VALUE_JOINS, (-12.5, 11.5), whole=1.0)
    assert np.count_nonzero(few.heights) == 16


# Pictures -------------------------------------------------------------------------------------------------------------


def test_value_histogram_names_levels_and_what_lies_beyond():
    values = np.concatenate([np.random.default_rng(0).normal(0, 3, 5000), np.full(100, 30.0)])
    text = text_of(pictures.value_histogram(counted(values), -7, scale=2.0, zero_point=3, label="height (m)"))
    for word in ("height (m)", ">-7<", ">7<", "beyond", "the levels, and their codes"):
        assert word in text
    assert ">-8<" not in text


@pytest.mark.parametrize("scale", [None, 1e-300, 1e300, 5e-324, 0.1])
def test_value_histogram_of_any_scale(scale):
    values = np.random.default_rng(0).normal(0, 3, 5000)
    assert pictures.svg(pictures.value_histogram(counted(values), -8, scale=scale, zero_point=-(10**12)))


def test_error_histogram_has_the_band_of_half_a_step():
    values = np.random.default_rng(0).uniform(-0.5, 0.5, 5000)
    text = text_of(pictures.error_histogram(counted(values, ERROR_BINS), bound=0.125, label="height"))
    assert "-0.125" in text
    assert "+0.125" in text
    assert "beyond" not in text
    assert "in steps" in text_of(pictures.error_histogram(counted(values, ERROR_BINS)))


@pytest.mark.parametrize("counts", [(1, 1), (7,), (4, 6), (500, 1), (1, 500), (3, 4, 5), (2, 2, 2, 2, 2), (1, 9, 1, 9)])
def test_maps_show_every_part_once(counts):
    number = math.prod(counts)
    cells, along = folded_map(np.arange(number, dtype=float), counts)
    assert sorted(cells[np.isfinite(cells)].tolist()) == list(range(number))
    assert max(cells.shape) <= max(12, 8 * min(cells.shape))
    if along is not None:
        assert [math.prod(counts[axis] for axis in axes) for axes in along] == list(cells.shape)
    parts = PartErrors((1,) * len(counts), counts, (0.5,) * number, (1.0,) * number, (0.0,) * number)
    figure, how = pictures.part_map([math.nan] + [0.5] * (number - 1), parts, "RMS error")
    assert how.startswith("chunks in reading order" if along is None else "rows: chunks along")
    assert ("chunks along" in text_of(figure)) is (along is not None)


def test_code_bars_tell_missing_from_values():
    counts = range(16)
    assert "missing" in text_of(pictures.code_bars(counts, nan_code=-8))
    assert "missing" not in text_of(pictures.code_bars(counts))


def test_method_bars_mark_the_choice_at_hand():
    rows = [
        choice("minmax", 12.0, current=True),
        choice("mse", math.inf),
        choice("absmax", -3.0),
        choice("x", math.nan),
    ]
    text = text_of(pictures.method_bars(rows, rows[1]))
    for word in ("minmax", "12.0, 3.00 bits, this store", "exact, 3.00 bits, recommended", "-3.0, 3.00 bits"):
        assert word in text


def test_names_with_a_dollar_are_no_formulas():
    figure = pictures.value_histogram(counted([0, 1]), -8, scale=1.0, label="$a_b$ <x>")
    assert re.search(r"\$a_b\$ &lt;x&gt;", text_of(figure))


def test_the_same_picture_is_the_same_bytes(tmp_path: Path):
    first, second = (pictures.code_bars(range(16), -8) for _ in range(2))
    assert pictures.svg(first) == pictures.svg(second)
    pictures.save(first, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# Two arrays -----------------------------------------------------------------------------------------------------------


def test_picture_is_a_png(tmp_path: Path):
    original = np.random.default_rng(3).normal(size=(40, 30))
    original[:5, :5] = np.nan
    compare_picture(original, original + 0.01, tmp_path / "x.png", bound=0.02, title="t", label="m")
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("restored", [np.zeros((2, 3)), np.zeros(4)])
def test_picture_needs_two_samples_of_one_shape(tmp_path: Path, restored):
    with pytest.raises(ValueError, match="not two pictures of one size"):
        compare_picture(np.zeros((2, 2)), restored, tmp_path / "x.png", bound=1.0)
