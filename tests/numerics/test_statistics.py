"""Bounds and counts of values, which add up."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.statistics import Statistics, folded, from_row, no_rows, to_row


def statistics_of(values: np.ndarray) -> Statistics:
    present = values[np.isfinite(values)]
    low, high = (float(present.min()), float(present.max())) if present.size else (math.nan, math.nan)
    refused = np.flatnonzero(~np.isfinite(values))
    return Statistics(
        low,
        high,
        present.size,
        nan=int(np.isnan(values).sum()),
        positive_infinity=int(np.isposinf(values).sum()),
        negative_infinity=int(np.isneginf(values).sum()),
        first=int(refused[0]) if refused.size else -1,
    )


def same(a: Statistics, b: Statistics) -> bool:
    return repr(a) == repr(b)  # NaN is not equal to itself


@given(st.lists(st.integers(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf])), st.data())
def test_statistics_of_parts_add_up(values: list[float], data: st.DataObject) -> None:
    array = np.asarray(values, float) + 0.0
    cut = data.draw(st.integers(0, len(values)))
    head, tail = statistics_of(array[:cut]), statistics_of(array[cut:])
    if tail.first >= 0:
        tail = Statistics(**{**vars(tail), "first": tail.first + cut})
    assert same(head + tail, statistics_of(array))
    assert same(tail + head, statistics_of(array))
    assert same(sum([head, tail], Statistics()), statistics_of(array))


def test_missing_values_add_up() -> None:
    assert (Statistics(missing=2) + Statistics(missing=3)).missing == 5


def test_rows_and_statistics_are_the_same() -> None:
    for statistics in (Statistics(), Statistics(-0.5, 1e300, 7, 1, 2, 3, 4, 5)):
        assert same(from_row(to_row(statistics)), statistics)


@given(st.lists(st.lists(st.floats(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf])), max_size=6))
def test_folded_rows_are_statistics_added(parts: list[list[float]]) -> None:
    statistics = [statistics_of(np.asarray(part, float) + 0.0) for part in parts]
    total = folded(np.stack([*map(to_row, statistics), *no_rows(1)]))
    assert same(from_row(total), sum(statistics, Statistics()))
