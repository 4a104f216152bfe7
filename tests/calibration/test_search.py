"""Ranges chosen by a histogram: quantiles against NumPy's, the least squared error against a dense search."""

import hashlib
import math
from typing import Any

import numpy as np
import oracle
import pytest
from found import Found, by_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import mostly_slow, slow
from strategies import BFLOAT16, FLOATS, arrays, some_dtypes_at_once
from test_histogram import merged, of_values

from quantize.calibration.histogram import (
    COARSE,
    FINE,
    FloatBins,
    Histogram,
    loop_bins,
)
from quantize.calibration.search import choose, quantiles_loop
from quantize.numerics.scales import Rule
from quantize.numerics.statistics import Statistics, bounds, from_row

CLOSE = 0.05  # dB


policies = st.sampled_from(["raise", "propagate"])


def chosen(rule: Rule, row: np.ndarray, histogram: Histogram | None) -> Found:
    """The scale for all values, by one row of statistics."""
    scales, zero_points = choose(rule, row[None], histogram)
    return Found(float(scales[0]), int(zero_points[0]), rule.nan_code)


def scale_by(scale_method: str, values: np.ndarray, bins: FloatBins = FINE, **options: Any) -> Found:
    histogram, rows = of_values(values, bins)
    return chosen(Rule.of(scale_method, **options), rows[0], histogram)


def test_the_ends_of_float64_merge() -> None:
    most = np.finfo(np.float64).max
    for ends in ([most], [-most, -most], [most, -most, most]):
        total, rows = merged([np.array([end]) for end in ends])
        assert total.counts.sum() == len(ends)
        assert 0 < chosen(Rule.of("mse"), rows[0], total).scale < math.inf


def test_nothing_merges_with_something() -> None:
    nan = np.full(5, math.nan, np.float32)
    values = np.linspace(280, 281, 100, dtype=np.float32)
    total, rows = merged([nan, values, nan, nan])
    assert total.counts.sum() == 100
    assert chosen(Rule.of("mse"), rows[0], total).scale == pytest.approx(1 / 15, rel=0.1)
    nothing, rows = merged([nan, nan])
    assert chosen(Rule.of("mse", nan_policy="propagate"), rows[0], nothing) == Found(1.0, 0, -8)


# Data ---------------------------------------------------------------------------------------------------------------


def data_sets(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Those of FACTS.md, and harder ones."""
    random = np.random.default_rng(seed)
    land = random.random(n) < 0.3
    sets = {
        "gaussian": random.normal(size=n),
        "laplace": random.laplace(size=n),
        "t3": random.standard_t(3, n),
        "uniform": random.random(n),
        "embeddings": random.normal(size=n) * random.lognormal(0, 0.6, n),
        "kelvin": random.normal(280, 1, n),
        "wide kelvin": random.normal(280, 15, n),
        "pressure": random.normal(101325, 10, n),
        "seconds": 1.7e9 + 1000 * random.random(n),
        "relu": np.maximum(random.normal(size=n), 0),
        "16 integers": random.integers(0, 16, n),
        "256 integers": random.integers(0, 256, n),
        "poisson 3": random.poisson(3, n),
        "poisson 30": random.poisson(30, n),
        "mask": land,
        "two values": np.where(land, 0.1, 0.7),
        "lognormal": random.lognormal(0, 1, n),
        "wide lognormal": random.lognormal(0, 2, n),
        "land and ocean": np.where(land, random.normal(800, 500, n), random.normal(-3700, 900, n)),
        "two narrow peaks": np.where(land, random.normal(0, 1, n), random.normal(1000, 1, n)),
        "rain": np.where(random.random(n) < 0.95, 0, random.gamma(0.7, 5, n)),
        "cauchy": random.standard_cauchy(n),
        "outlier 1e4": np.where(np.arange(n) == n // 3, 1e4, random.normal(size=n)),
        "outlier 1e30": np.where(np.arange(n) == n // 3, 1e30, random.normal(size=n)),
        "outlier among zeros": np.where(np.arange(n) == n // 3, 1e3, np.where(land, random.normal(size=n), 0)),
    }
    return {name: values.astype(np.float64) for name, values in sets.items()}


SETS = data_sets(20_000)


EASY = ["gaussian", "laplace", "t3", "uniform", "embeddings"]


WHOLE = ["16 integers", "256 integers", "poisson 3", "poisson 30", "mask"]


each_set = pytest.mark.parametrize("name", SETS)


# Percentiles --------------------------------------------------------------------------------------------------------


SHARES = [0.0, 1e-5, 0.0005, 0.01, 0.25, 0.5, 0.75, 0.9995, 1.0]


def bin_width(histogram: Histogram, value: float) -> float:
    y = abs(value / histogram.unit[0] + int(histogram.origin[0]))
    return float((1 + y) * 2.0**-histogram.bins.bits * histogram.unit[0])


def quantiles(histogram: Histogram, share: float, low: float, high: float) -> tuple[float, float, bool]:
    place = float(histogram.unit[0]), int(histogram.origin[0])
    lower, upper, apart = quantiles_loop(histogram.counts[0], share, *place, low, high, loop_bins(histogram.bins))
    return float(lower), float(upper), bool(apart)


@pytest.mark.parametrize("bins", [FINE, COARSE], ids=["fine", "coarse"])
@each_set
def test_quantiles_are_those_of_numpy_to_within_a_bin(name: str, bins: FloatBins) -> None:
    values = SETS[name]
    histogram, _ = of_values(values, bins)
    low, high = float(values.min()), float(values.max())
    found = [quantiles(histogram, share, low, high)[0] for share in SHARES]
    assert (found[0], found[-1]) == (low, high)
    # The two ranks that a quantile lies between may be in bins of different width.
    for share, value in zip(SHARES, found, strict=True):
        ranks = np.quantile(values, share, method="lower"), np.quantile(values, share, method="higher")
        assert abs(value - np.quantile(values, share)) <= max(bin_width(histogram, rank) for rank in ranks) * (1 + 1e-6)


@given(arrays(FLOATS, special=(math.nan,)), st.floats(1e-3, 100), policies)
def test_percentile_is_minmax_between_two_quantiles(values: np.ndarray, percentile: float, nan_policy: str) -> None:
    histogram, rows = of_values(values)
    rule = Rule.of("percentile", nan_policy=nan_policy, percentile=percentile)
    found = chosen(rule, rows[0], histogram)
    whole = by_rule(Rule.of(nan_policy=nan_policy), from_row(rows[0]))
    low, high = bounds(rows)[0][0], bounds(rows)[1][0]
    share = (100 - percentile) / 200
    lower, upper, apart = quantiles(histogram, share, low, high) if rows[0, 2] else (0.0, 0.0, False)
    if apart:
        assert found == by_rule(Rule.of(nan_policy=nan_policy), Statistics(lower, upper, rows[0, 2]))
    else:
        assert found == whole
    assert chosen(Rule.of("percentile", None, nan_policy, 100), rows[0], histogram) == whole


def test_percentile_keeps_the_range_where_most_values_are_one() -> None:
    values = np.zeros(10_000)
    values[:3] = [-1, 4, 14]
    assert scale_by("percentile", values) == Found(1.0, -7)


# The least squared error --------------------------------------------------------------------------------------------


TOLERANCE = {"kelvin": 0.2, "two narrow peaks": 0.2}  # in half precision few values, far from zero


DENSE: dict[tuple[bytes, int], float] = {}


def check_mse(values: np.ndarray, found: Found, tolerance: float = CLOSE) -> None:
    """Hold a scale to the dense search, which is made once for the same values in any order, and to minmax."""
    law = oracle.Sorted(values)
    lowest = -8 if found.nan_code is None else -7
    steps = 8 - lowest
    key = hashlib.sha256(law.values).digest(), steps
    if key not in DENSE:
        DENSE[key] = law.least(steps)
    minmax = by_rule(
        Rule.of(nan_policy="raise" if steps == 16 else "propagate"), Statistics(*law.values[[0, -1]].tolist(), 1)
    )
    errors = law.errors([found.scale, minmax.scale], [lowest - found.zero_point, lowest - minmax.zero_point], steps)
    by_found, by_minmax, dense = law.decibels([*errors, DENSE[key]])
    assert by_found >= dense - tolerance
    assert by_found >= by_minmax - tolerance


@pytest.mark.parametrize("nan_policy", ["raise", slow("propagate")])
@pytest.mark.parametrize("name", mostly_slow(SETS, list(SETS)[::2]))  # of the others some are tried in other dtypes
def test_mse_is_as_good_as_a_dense_search(name: str, nan_policy: str) -> None:
    values = SETS[name]
    if nan_policy == "propagate":
        holed = np.where(np.arange(len(values)) % 3 == 1, math.nan, -values)
        check_mse(holed, scale_by("mse", holed, nan_policy=nan_policy))
    else:
        check_mse(values, scale_by("mse", values))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [slow(np.float32), np.float16, slow(BFLOAT16), np.int16], ids=str)
def test_mse_of_other_dtypes(dtype: Any) -> None:
    for name, values in list(SETS.items())[1::2]:
        whole = np.dtype(dtype).kind == "i"
        if whole and name not in WHOLE:
            values = 100 * values if np.abs(values).max() < 300 else values
        if np.abs(values).max() < float(oracle.finite_range(dtype)[1]):
            cast = (np.rint(values) if whole else values).astype(dtype)
            check_mse(cast, scale_by("mse", cast), tolerance=TOLERANCE.get(name, CLOSE))


@pytest.mark.parametrize("n", [1, slow(2), 30, slow(1000), slow(1_000_000)])
def test_mse_of_few_and_of_many_values(n: int) -> None:
    """Few values leave so many scales that are good for them alone, that a search finds those by chance."""
    for name, values in data_sets(n, seed=1).items():
        if n < 1000 and name not in (*EASY, *WHOLE, "kelvin", "two narrow peaks", "outlier 1e30"):
            continue
        if n < 10**6:
            check_mse(values, scale_by("mse", values), tolerance=CLOSE if n >= 1000 else 3.0)
        elif name in (*EASY, "kelvin", "outlier 1e4"):
            check_mse(values, scale_by("mse", values))


@pytest.mark.parametrize(
    "name", mostly_slow([name for name in SETS if "peaks" not in name and "two" not in name], EASY)
)
def test_mse_with_coarse_bins_of_an_axis(name: str) -> None:
    check_mse(SETS[name], scale_by("mse", SETS[name], COARSE))


@pytest.mark.parametrize("drift", [slow("none"), "sorted", slow("reversed"), slow("slope"), slow("growth"), "steps"])
def test_mse_of_merged_histograms(drift: str) -> None:
    """Each of 40 parts has bins of its own."""
    random = np.random.default_rng(2)
    for name in (*EASY, "kelvin", "poisson 30", "land and ocean", "outlier 1e4", "wide lognormal"):
        values = SETS[name]
        n, spread = len(values), np.subtract(*np.quantile(values, [0.8, 0.2]))
        drifted = {
            "none": values,
            "sorted": np.sort(values),
            "reversed": np.sort(-values),
            "slope": values + np.linspace(0, 10 * spread, n),
            "growth": values * np.geomspace(1, 100, n),
            "steps": values + np.repeat(random.normal(0, 20 * spread, 40), n // 40),
        }[drift]
        total, rows = merged(np.array_split(drifted, 40))
        check_mse(drifted, chosen(Rule.of("mse"), rows[0], total), 2 * CLOSE if drift == "steps" else CLOSE)


@some_dtypes_at_once
@settings(max_examples=300)
@given(data=st.data(), nan_policy=policies)
def test_mse_is_no_worse_than_minmax_whatever_the_data(
    dtypes: list[np.dtype[Any]], data: st.DataObject, nan_policy: str
) -> None:
    """Up to what a bin hides: each value lies somewhere in it."""
    values = data.draw(arrays(dtypes, special=(math.nan,)))
    histogram, rows = of_values(values)
    found = chosen(Rule.of("mse", nan_policy=nan_policy), rows[0], histogram)
    assert math.isfinite(found.scale)
    assert found.scale > 0
    minmax = by_rule(Rule.of(nan_policy=nan_policy), from_row(rows[0]))
    finite = [oracle.number(x) for x in values.flat if np.isfinite(float(x))]
    hidden = max((oracle.number(bin_width(histogram, float(x))) for x in finite), default=0)
    errors = []
    for scale in (found, minmax):
        codes, _ = oracle.quantized(finite, scale.scale, scale.zero_point, scale.nan_code)
        levels = [(int(code) - scale.zero_point) * oracle.number(scale.scale) for code in codes]
        errors.append(
            math.sqrt(sum(float((x - level) / hidden) ** 2 for x, level in zip(finite, levels, strict=True)))
            if finite
            else 0
        )
    assert errors[0] <= errors[1] + math.sqrt(len(finite)) * (1 + 1e-3)


@pytest.mark.parametrize("nan_policy", ["raise", "propagate"])
@pytest.mark.parametrize(
    "values",
    [
        np.arange(1, 9) * 5e-324,
        np.array([0, 0, 0, 1, 2, 40]) * 5e-324,
        np.array([1.0, math.nextafter(1.0, 2), 1.0]),
        -1e300 - np.arange(4) * math.ulp(1e300),
        np.array([2.0**53 - 1, 2.0**53, 2.0**53 + 2]),
        np.linspace(-0.5, 0.5, 100) * 1.7e308 * 2,
    ],
    ids=["subnormal", "subnormal outlier", "adjacent", "adjacent far", "whole", "near overflow"],
)
def test_mse_at_the_limits_of_float64(values: np.ndarray, nan_policy: str) -> None:
    """Where a scale has few digits left, or a zero point more than float64 holds, minmax is as good as it gets."""
    found = scale_by("mse", values, nan_policy=nan_policy)
    assert 0 < found.scale < math.inf
    law = by_rule(Rule.of(nan_policy=nan_policy), Statistics(float(values.min()), float(values.max()), len(values)))
    errors = []
    for scale in (found, law):
        codes, _ = oracle.quantized(values, scale.scale, scale.zero_point, scale.nan_code)
        levels = [(int(code) - scale.zero_point) * oracle.number(scale.scale) for code in codes]
        errors.append(sum((oracle.number(x) - level) ** 2 for x, level in zip(values, levels, strict=True)))
    assert errors[0] <= errors[1]


def test_many_rows_are_chosen_as_each_alone() -> None:
    parts = [*SETS.values(), np.zeros(10), np.full(7, 2.5)]
    found = [of_values(part, COARSE) for part in parts]
    rows = np.concatenate([rows for _, rows in found])
    columns = [np.concatenate([getattr(h, name) for h, _ in found]) for name in ("unit", "origin", "counts")]
    for scale_method in ("minmax", "mse", "percentile"):
        rule = Rule.of(scale_method)
        scales, zero_points = choose(rule, rows, Histogram(COARSE, *columns))
        alone = [chosen(rule, its_rows[0], histogram) for histogram, its_rows in found]
        assert [*zip(scales.tolist(), zero_points.tolist(), strict=True)] == [(s.scale, s.zero_point) for s in alone]
