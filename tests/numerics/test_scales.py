"""From statistics to scale and zero point: one, and many at once."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import DTYPES, numbers

from quantize.numerics.scales import Rule, Scale, check_scale
from quantize.numerics.statistics import Statistics, from_row, to_row
from quantize.numerics.tables import levels

FLOAT64 = np.dtype(np.float64)
FLOAT64_MAX = float(np.finfo(FLOAT64).max)
finite = numbers(FLOAT64)
ranges = st.tuples(finite, finite).map(sorted).filter(lambda r: r[0] < r[1])
policies = st.sampled_from(["raise", "propagate"])


def chosen(low: float, high: float, scale_method: str = "minmax", nan_policy: str = "raise") -> Scale:
    return Rule(scale_method, None, nan_policy).choose(Statistics(low, high, 2))


@pytest.mark.parametrize(
    ("low", "high", "scale_method", "nan_policy", "expected"),
    [
        (-10.0, 10.0, "minmax", "raise", Scale(20 / 15, 0, None)),
        (0.0, 15.0, "minmax", "raise", Scale(1.0, -8, None)),
        (0.0, 14.0, "minmax", "propagate", Scale(1.0, -7, -8)),
        (-7.0, 7.0, "absmax", "raise", Scale(1.0, 0, None)),
        (-21.0, 7.0, "absmax", "propagate", Scale(3.0, 0, -8)),
        (1.0, 14.0, "absmax", "raise", Scale(2.0, 0, None)),
        (280.0, 295.0, "minmax", "raise", Scale(1.0, -288, None)),
        (3.0, 3.0, "minmax", "raise", Scale(1.0, -3, None)),
        (0.1, 0.1, "minmax", "raise", Scale(0.1, -1, None)),
        (-0.1, -0.1, "minmax", "raise", Scale(0.1, 1, None)),
        (2.0**31 - 1, 2.0**31 - 1, "minmax", "raise", Scale(1.0, 1 - 2**31, None)),
        (2.0**31, 2.0**31, "minmax", "raise", Scale(2.0**31, -1, None)),
        (0.0, 0.0, "minmax", "raise", Scale(1.0, 0, None)),
        (0.0, 0.0, "absmax", "raise", Scale(1.0, 0, None)),
        (-FLOAT64_MAX, FLOAT64_MAX, "minmax", "raise", Scale(2 * (FLOAT64_MAX / 15), -1, None)),
        (0.0, 5e-324, "minmax", "raise", Scale(5e-324, -8, None)),
        (0.0, 16 * 5e-324, "minmax", "raise", Scale(2 * 5e-324, -8, None)),
        (-8 * 5e-324, 0.0, "absmax", "raise", Scale(2 * 5e-324, 0, None)),
    ],
)
def test_scale_rules(low: float, high: float, scale_method: str, nan_policy: str, expected: Scale) -> None:
    assert chosen(low, high, scale_method, nan_policy) == expected


@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
def test_no_finite_value_has_scale_1(scale_method: str) -> None:
    assert Rule(scale_method, None, "propagate").choose(Statistics(nan=3)) == Scale(1.0, 0, -8)


@given(ranges, policies)
@example([-FLOAT64_MAX, FLOAT64_MAX], "raise")
@example([1.0, math.nextafter(1.0, 2)], "raise")
@example([0.0, 5e-324], "propagate")
def test_minmax_is_the_formula_and_its_levels_reach_both_ends(limits: list[float], nan_policy: str) -> None:
    low, high = (Fraction(x) for x in limits)
    result = chosen(*limits, nan_policy=nan_policy)
    first = -8 if nan_policy == "raise" else -7
    scale = Fraction(result.scale)
    if result.scale >= np.finfo(FLOAT64).tiny:
        assert result.scale == float((high - low) / (7 - first))
    else:
        assert (high - low) / (7 - first) <= scale < (high - low) / (7 - first) + Fraction(5e-324)
    assert result.zero_point == round(first - low / scale)
    half = scale / 2 * (1 + Fraction(1, 10**5))
    assert abs((first - result.zero_point) * scale - low) <= half
    assert (7 - result.zero_point) * scale >= high - half


@given(ranges, policies)
@example([0.0, 5e-324], "raise")
@example([-FLOAT64_MAX, 1.0], "raise")
def test_absmax_is_the_formula_and_its_levels_reach_the_far_end(limits: list[float], nan_policy: str) -> None:
    result = chosen(*limits, "absmax", nan_policy)
    largest = Fraction(max(map(abs, limits)))
    assert result.zero_point == 0
    assert 7 * Fraction(result.scale) >= largest * (1 - Fraction(1, 2**52))
    if result.scale >= np.finfo(FLOAT64).tiny:
        assert result.scale == float(largest / 7)


@given(st.sampled_from(DTYPES), st.data(), policies)
def test_constants_are_restored_exactly_from_code_0(dtype: np.dtype[Any], data: st.DataObject, nan_policy: str) -> None:
    value = np.asarray(data.draw(numbers(dtype)), dtype)[()]
    result = chosen(float(value), float(value), nan_policy=nan_policy)
    restored = levels(result, dtype).table[8]
    if dtype.kind in "iu" and abs(int(value)) > 2**53:
        value = np.clip(np.rint(float(value)), *map(float, oracle.finite_range(dtype)))
        assert float(restored) == pytest.approx(float(value), rel=2**-52)
    else:
        assert restored == value


@given(ranges)
def test_value_range_takes_the_place_of_the_data(limits: list[float]) -> None:
    for scale_method in ("minmax", "absmax"):
        assert Rule(scale_method, tuple(limits)).choose(Statistics(-1.0, 1.0, 2)) == chosen(*limits, scale_method)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gptq",), ["scale_method", "'gptq'", "'minmax', 'absmax'"]),
        (("minmax", None, "omit"), ["nan_policy", "'omit'", "'raise', 'propagate'"]),
        (("minmax", (0, math.inf)), ["value_range", "inf", "finite"]),
        (("minmax", (math.nan, 1)), ["value_range", "nan", "finite"]),
        (("minmax", (2, 1)), ["value_range", "(2.0, 1.0)", "reversed"]),
        (("absmax", (1, 1)), ["value_range", "(1.0, 1.0)", "empty"]),
        (("minmax", (1,)), ["value_range", "two numbers"]),
        (("minmax", 3), ["value_range", "two numbers"]),
        (("minmax", ("a", "b")), ["value_range", "two numbers"]),
    ],
)
def test_settings_that_make_no_sense(arguments: tuple[Any, ...], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Rule(*arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_refusal_counts_each_kind_and_names_the_ways_out() -> None:
    rule = Rule()
    statistics = Statistics(0.0, 1.0, 5, nan=1234, missing=2, positive_infinity=3, negative_infinity=4)
    assert rule.refused(statistics)
    message = rule.refusal(statistics, (0, 7), missing=-9999)
    for words in ("1,234 NaN", "2 missing", "-9999", "3 +inf", "4 -inf", "(0, 7)", "nan_policy=", "value_range="):
        assert words in message


@pytest.mark.parametrize(
    ("rule", "kind", "refused"),
    [
        (Rule(), "nan", True),
        (Rule(), "missing", True),
        (Rule(), "positive_infinity", True),
        (Rule(), "negative_infinity", True),
        (Rule(nan_policy="propagate"), "nan", False),
        (Rule(nan_policy="propagate"), "missing", False),
        (Rule(nan_policy="propagate"), "positive_infinity", True),
        (Rule(value_range=(0, 1)), "nan", True),
        (Rule(value_range=(0, 1)), "negative_infinity", False),
        (Rule(), "count", False),
    ],
)
def test_what_is_refused(rule: Rule, kind: str, refused: bool) -> None:
    assert rule.refused(Statistics(**{kind: 1})) is refused


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, "x", None, [1.0, 2.0]])
def test_scales_that_are_none(scale: Any) -> None:
    with pytest.raises(ValueError, match="scale"):
        check_scale(scale, 0)


@pytest.mark.parametrize("zero_point", [0.5, math.nan, math.inf, 2**63, -(2**63) - 1, "x", None])
def test_zero_points_that_are_none(zero_point: Any) -> None:
    with pytest.raises(ValueError, match="zero_point"):
        check_scale(1.0, zero_point)


def test_numpy_numbers_become_plain_ones() -> None:
    scale, zero_point = check_scale(np.float32(0.5), np.int64(3))
    assert (type(scale), type(zero_point)) == (float, int)
    assert (scale, zero_point) == (0.5, 3)


# Many scales at once ------------------------------------------------------------------------------------------------


@st.composite
def extreme_ranges(draw: st.DrawFn) -> tuple[float, float]:
    """Ends of any size, with a few floats between them, a few powers of two, or a whole number of steps."""
    low = draw(finite)
    kind = draw(st.sampled_from(["any", "adjacent", "steps", "near"]))
    if kind == "any":
        high = draw(finite)
    elif kind == "adjacent":
        high = low
        for _ in range(draw(st.integers(0, 33))):
            high = math.nextafter(high, math.inf)
    elif kind == "steps":
        high = low + draw(st.integers(1, 40)) * math.ulp(low) * 2.0 ** draw(st.integers(-3, 60))
    else:
        high = low * draw(st.floats(0.5, 2))
    low, high = sorted([low, high])
    assume(math.isfinite(low) and math.isfinite(high))
    return low, high


@given(
    st.lists(extreme_ranges(), min_size=1, max_size=20),
    st.sampled_from(["minmax", "absmax"]),
    policies,
    st.none() | st.just((-3.0, 5.0)),
)
@example([(-FLOAT64_MAX, FLOAT64_MAX), (0.0, 5e-324), (-5e-324, 1e-310)], "minmax", "raise", None)
@example(
    [(2.0**-1022 * 15, 2.0**-1021 * 15), (0.0, 2.0**-1022 * 14), (0.0, math.nextafter(2.0**-1018, 0))],
    "minmax",
    "raise",
    None,
)
@example([(0.0, 0.0), (7.0, 7.0), (0.1, 0.1), (-(2.0**31), -(2.0**31))], "minmax", "propagate", None)
@example([(1e300, math.nextafter(1e300, math.inf)), (2.0**53, 2.0**53 + 2)], "minmax", "raise", None)
def test_choosing_each_is_choosing_one_by_one(
    limits: list[tuple[float, float]], scale_method: str, nan_policy: str, value_range: tuple[float, float] | None
) -> None:
    rule = Rule(scale_method, value_range, nan_policy)
    statistics = [*(Statistics(low, high, 2) for low, high in limits), Statistics(nan=3)]
    scales, zero_points = rule.choose_each(np.stack([to_row(s) for s in statistics]))
    assert (scales.dtype, zero_points.dtype) == (np.float64, np.int64)
    found = [Scale(s, z, rule.nan_code) for s, z in zip(scales.tolist(), zero_points.tolist(), strict=True)]
    assert found == [rule.choose(s) for s in statistics]


def test_many_ordinary_ranges_are_chosen_without_rationals(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those next to a tie, of which there are few."""
    random = np.random.default_rng(0)
    low, width = random.normal(280, 9, 20_000), random.lognormal(0, 3, 20_000)
    low[::2] -= 280  # where a difference of two float64 is seldom one itself
    rows = np.stack([to_row(Statistics(x, x + w, 2)) for x, w in zip(low, width, strict=True)])
    for scale_method in ("minmax", "absmax"):
        rule = Rule(scale_method)
        expected = [rule.choose(from_row(row)) for row in rows]
        asked: list[Statistics] = []
        monkeypatch.setattr(Rule, "choose", lambda self, s: asked.append(s) or Scale(1.0))  # noqa: B023
        scales, zero_points = rule.choose_each(rows)
        monkeypatch.undo()
        same = [(s.scale, s.zero_point) for s in expected]
        differ = sum(a != b for a, b in zip(zip(scales, zero_points, strict=True), same, strict=True))
        assert differ <= len(asked) <= 20


@pytest.mark.parametrize("percentile", [0, -1, 100.5, math.nan, "x", [99]])
def test_percentiles_that_are_none(percentile: Any) -> None:
    with pytest.raises(ValueError, match="percentile is"):
        Rule("percentile", percentile=percentile)


def test_percentile_has_a_default_and_goes_with_its_method_only() -> None:
    assert Rule("percentile").percentile == 99.9
    assert Rule("mse").percentile is None
    for scale_method in ("minmax", "absmax", "mse"):
        with pytest.raises(ValueError, match=f"goes with scale_method='percentile', not '{scale_method}'"):
            Rule(scale_method, percentile=99.9)
    for scale_method in ("percentile", "mse"):
        with pytest.raises(ValueError, match="value_range fixes the range"):
            Rule(scale_method, (0, 1))
