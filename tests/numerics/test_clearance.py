"""No good value of an integer dtype comes back as the missing one: held against every value there is."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, quantize_to_zarr, verify
from quantize.numerics.clearance import clear
from quantize.numerics.scales import Rule
from quantize.numerics.statistics import Statistics, to_row

METHODS = ["minmax", "absmax", "percentile", "mse"]


def quantized(values: np.ndarray, missing: int, **options: object) -> np.ndarray:
    array = quantize_to_zarr(values, MemoryStore(), missing=missing, nan_policy="propagate", **options)
    restored = array[...]
    np.testing.assert_array_equal(restored == missing, values == missing)
    if options.get("scale_method", "minmax") in ("minmax", "absmax") and "value_range" not in options:
        there = values != missing
        error = np.abs(restored.astype(float) - values.astype(float))
        half = np.broadcast_to(array.scale / 2, values.shape)
        assert (error[there] <= half[there] * (1 + 1e-5) + 0.5).all()
    return restored


@pytest.mark.slow
@given(
    st.sampled_from(["i1", "u1", "i2", "u2", "i4"]),
    st.sampled_from(METHODS),
    st.sampled_from([None, 0, 1]),
    st.integers(0, 120),
    st.integers(1, 130),
    st.integers(-4, 130),
)
@example("i4", "minmax", None, 0, 25, 1)  # so far from 0 that a billionth of it is more than one
def test_every_value_of_a_range_beside_every_missing_one(
    dtype: str, method: str, axis: int | None, start: int, width: int, place: int
) -> None:
    low = np.iinfo(dtype).min // 2 + start
    high = min(low + width, np.iinfo(dtype).max)
    missing = int(np.clip(low + place, np.iinfo(dtype).min, np.iinfo(dtype).max))
    row = np.arange(low, high + 1)
    values = np.stack([row, row[::-1], np.full(row.size, missing)]).astype(dtype)
    try:
        quantized(values, missing, scale_method=method, axis=axis)
    except RefusedValuesError as refusal:
        assert f"next to the missing value {missing} would come back as it" in str(refusal)  # noqa: PT017
        assert missing in (0, np.iinfo(dtype).min, np.iinfo(dtype).max)


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 400), st.sampled_from(["minmax", "absmax"]))
def test_a_given_range_keeps_clear_too(missing: int, low: int, width: int, method: str) -> None:
    values = np.arange(-300, 301).astype("i2")[None]
    try:
        quantized(values, missing, value_range=(low, low + width), scale_method=method)
    except RefusedValuesError as refusal:
        assert "pass floats=True" in str(refusal).replace("Pass", "pass")  # noqa: PT017


def test_a_flaw_of_the_first_version() -> None:
    values = np.arange(100, 251).astype("i2")[None]
    missing = 200  # a level of the scale that reaches from 100 to 250, next to which 197 to 203 came back as missing
    quantized(np.where(values == 200, 201, values), missing)


def test_nothing_moves_where_nothing_is_in_doubt() -> None:
    rule = Rule.of("minmax", nan_policy="propagate")
    rows = np.stack([to_row(Statistics(0.0, 140.0, 9)), to_row(Statistics())])
    scales, zero_points = np.array([10.0, 1.0]), np.array([-7, 0])
    for missing, dtype in ((-9999, "i2"), (55, "f4"), (None, "i2")):
        found = clear(rule, rows, scales, zero_points, missing, np.dtype(dtype))
        assert found[0] is scales
        assert found[1] is zero_points
    assert clear(Rule.of("minmax"), rows, scales, zero_points, 50, np.dtype("i2"))[0] is scales


def test_what_cannot_be_is_refused_and_floats_can() -> None:
    values = np.arange(256, dtype="u1").reshape(4, 64)
    store = MemoryStore()
    with pytest.raises(RefusedValuesError, match=r"missing value 0 would come back as it.*floats=True"):
        quantize_to_zarr(values, store, missing=0, nan_policy="propagate")
    assert store._store_dict == {}
    with pytest.raises(RefusedValuesError, match=r"floats=True"):
        quantize_to_zarr(values, MemoryStore(), missing=0, nan_policy="propagate", axis=0)
    array = quantize_to_zarr(values, store, missing=0, nan_policy="propagate", floats=True)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(array[...]), values == 0)
    assert verify(store, source=values).ok


def test_scales_of_an_axis_move_each_on_its_own() -> None:
    values = np.stack([np.arange(0, 141), np.arange(1000, 1141), np.arange(40, 181)]).astype("i4")
    for chunks in ((3, 141), (1, 40)):
        quantized(values, 50, axis=0, chunks=chunks)
        quantized(values, 1070, axis=0, chunks=chunks, scale_method="mse")
