"""Bounds and counts of values, which add up."""

import math
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.statistics import Statistics, fold_into, folded, from_row, no_rows, to_row

# Statistics ---------------------------------------------------------------------------------------------------------


def statistics_of(values: np.ndarray, start: int = 0) -> Statistics:
    """By their definition; `start` is the position of the first value in a larger array."""
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
        first=start + int(refused[0]) if refused.size else -1,
    )


def added(*parts: Statistics) -> Statistics:
    """As the product adds them: as rows."""
    return from_row(folded(np.stack([to_row(part) for part in parts])))


def same(a: Statistics, b: Statistics) -> bool:
    return repr(a) == repr(b)  # NaN is not equal to itself


@given(st.lists(st.integers(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf])), st.data())
def test_statistics_of_parts_add_up(values: list[float], data: st.DataObject) -> None:
    array = np.asarray(values, float) + 0.0
    cut = data.draw(st.integers(0, len(values)))
    head, tail = statistics_of(array[:cut]), statistics_of(array[cut:], cut)
    assert same(added(head, tail), statistics_of(array))
    assert same(added(tail, head), statistics_of(array))
    assert same(added(Statistics(), head, tail), statistics_of(array))
    total = to_row(head)[None].copy()
    fold_into(total, to_row(tail)[None])
    assert same(from_row(total[0]), statistics_of(array))


def test_missing_values_add_up() -> None:
    assert added(Statistics(missing=2), Statistics(missing=3)).missing == 5


def test_rows_and_statistics_are_the_same() -> None:
    for statistics in (Statistics(), Statistics(-0.5, 1e300, 7, 1, 2, 3, 4, 5)):
        assert same(from_row(to_row(statistics)), statistics)


@given(st.lists(st.lists(st.floats(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf])), max_size=6))
def test_folded_rows_are_the_statistics_of_all_values(parts: list[list[float]]) -> None:
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    rows = [
        to_row(statistics_of(np.asarray(part, float) + 0.0, start)) for part, start in zip(parts, starts, strict=True)
    ]
    total = folded(np.stack([*rows, *no_rows(1)]))
    assert same(from_row(total), statistics_of(np.asarray([*chain(*parts)], float) + 0.0))
