"""The least squared error of short groups by their values: against histograms, alone and together, out of core."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow
from strategies import arrays, some_dtypes_at_once
from test_search import data_sets
from zarr.storage import MemoryStore

from quantize import quantize_to_int4, quantize_to_zarr
from quantize.calibration import calibrate
from quantize.calibration.values import LONGEST, are_short
from quantize.numerics.granularity import PerAxis
from quantize.numerics.scales import Rule

RULE = Rule.of("mse", granularity=PerAxis(0))
WORST = {
    "poisson 30": 0.6,
    "256 integers": 0.3,
}  # dB: of whole numbers some scales give far less than those beside them


def squared_errors(rows: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    values, whole = rows.astype(np.float64), zero_point.astype(np.float64)
    codes = np.clip(np.rint(values / scale) + whole, -8, 7)
    return np.square((codes - whole) * scale - values).sum(axis=1)


@pytest.mark.parametrize("length", mostly_slow([8, 64, 768, 4096, LONGEST], [64, 768]))
def test_it_is_as_good_as_by_histograms(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Over many groups: 0.15 dB on each kind of data at most, and 0.03 on average."""
    count = max(4, min(200, 20_000 // length * 4))
    sets = {name: values.reshape(count, length).astype("f4") for name, values in data_sets(count * length).items()}
    mine = {name: calibrate.calibrate(rows, RULE, 1) for name, rows in sets.items()}
    monkeypatch.setattr(calibrate, "are_short", lambda rule, shape: False)
    more = []
    for name, rows in sets.items():
        theirs = calibrate.calibrate(rows, RULE, 1)
        found, other = (squared_errors(rows, scales.scale, scales.zero_point).sum() for scales in (mine[name], theirs))
        hidden = 2.0**-20 * np.square(rows.astype(np.float64) - rows.mean(axis=1, keepdims=True)).sum()  # by float32
        more.append(max(10 * np.log10((found + 1e-300) / (other + 1e-300)), -1) if found > other + hidden else 0)
        assert more[-1] <= WORST.get(name, 0.15), name
    assert np.mean(more) <= 0.03


@some_dtypes_at_once
@given(data=st.data())
def test_codes_are_those_of_exact_arithmetic(dtypes: list, data: st.DataObject) -> None:
    values = data.draw(arrays(dtypes, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
    codes, scale, zero_point = quantize_to_int4(values, "mse", axis=0)
    assert zero_point.dtype == np.int64
    for row, own, s, z in zip(values, codes, scale.flat, zero_point.flat, strict=True):
        expected, distances = oracle.quantized(row, float(s), int(z), None, -8)
        clear = distances > oracle.TIE
        np.testing.assert_array_equal(own[clear], expected[clear])


@pytest.mark.parametrize("dtype", mostly_slow(["f4", "f8", "i2", "i8"], ["f4", "i2"]))
@pytest.mark.parametrize("length", [2, 16, 17, 300])
def test_few_whole_numbers_are_exact(dtype: str, length: int) -> None:
    values = np.random.default_rng(0).integers(0, 16, (20, length)).astype(dtype) + np.array(200, dtype)
    codes, scale, zero_point = quantize_to_int4(values, "mse", axis=0)
    np.testing.assert_allclose((codes - zero_point) * scale, values, rtol=1e-12)
    mask = values > 207
    codes, scale, zero_point = quantize_to_int4(mask.astype(dtype), "mse", axis=0)
    np.testing.assert_array_equal((codes - zero_point) * scale, mask)


@some_dtypes_at_once
@given(data=st.data())
def test_a_group_has_the_scale_that_it_has_alone(dtypes: list, data: st.DataObject) -> None:
    values = data.draw(arrays(dtypes, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9)))
    axis = data.draw(st.integers(0, values.ndim - 1))
    _, scale, zero_point = quantize_to_int4(values, "mse", axis=axis)
    for i in range(values.shape[axis]):
        alone = quantize_to_int4(values.take([i], axis), "mse", axis=axis)
        assert (alone.scale.item(), alone.zero_point.item()) == (scale.flat[i], zero_point.flat[i])


def test_missing_values_do_not_count() -> None:
    values = np.random.default_rng(0).laplace(size=(6, 100)).astype("f4")
    holes = values.copy()
    holes[:, 1:99:3] = np.nan
    kept = np.delete(values, np.s_[1:99:3], axis=1)
    found = quantize_to_int4(holes, "mse", axis=0, nan_policy="propagate")
    codes = found.quantized[:, ~np.isnan(holes[0])]
    errors = np.square((codes - found.zero_point) * found.scale - kept).sum(axis=1)
    alone = calibrate.calibrate(kept, Rule.of("mse", nan_policy="propagate", granularity=PerAxis(0)), 1)
    expected = np.clip(np.rint(kept / alone.scale) + alone.zero_point, -7, 7)
    best = np.square((expected - alone.zero_point) * alone.scale - kept).sum(axis=1)
    assert (errors <= best * 1.02).all()


@pytest.mark.parametrize(
    ("axis", "chunks"), [(0, (1, 40, 30)), (0, (5, 40, 30)), (0, None), (1, (7, 3, 30)), (2, (7, 40, 12))]
)
def test_out_of_core_gives_the_same(axis: int, chunks: tuple[int, ...] | None) -> None:
    """Where a unit holds all values of its groups."""
    values = np.random.default_rng(0).normal(5, 3, (7, 40, 30)).astype("f4")
    array = quantize_to_zarr(values, MemoryStore(), scale_method="mse", axis=axis, chunks=chunks)
    codes, scale, zero_point = quantize_to_int4(values, "mse", axis=axis)
    np.testing.assert_array_equal(array.codes(), codes)
    np.testing.assert_array_equal(array.scale, scale)
    np.testing.assert_array_equal(array.zero_point, zero_point)


def test_only_the_length_of_groups_decides() -> None:
    assert are_short(RULE, (3, LONGEST))
    assert not are_short(RULE, (3, LONGEST + 1))
    assert not are_short(Rule.of("percentile", granularity=PerAxis(0)), (3, 4))
