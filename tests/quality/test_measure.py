import math
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st
from stores import interrupted
from strategies import DTYPES, arrays, some_dtypes_at_once
from zarr.storage import MemoryStore

from quantize import Int4Array, UnfinishedStoreError, open_int4
from quantize.io import as_source
from quantize.numerics.grid import Grid
from quantize.pipeline import quantize_to_zarr
from quantize.quality import measure as measuring
from quantize.quality.measure import Totals, errors_of_unit, measure_error, measure_store, parts_grid
from quantize.quality.residuals import ERROR_BINS, VALUE_BINS

METHODS = ["minmax", "absmax", "percentile", "mse"]


def stored(values: Any, **options: Any) -> Int4Array:
    store = MemoryStore()
    quantize_to_zarr(values, store, workers=1, **options)
    return open_int4(store)


def plain(original: np.ndarray, restored: np.ndarray) -> dict[str, Any]:
    """The figures by NumPy on the whole arrays, in units in which no square overflows or vanishes."""
    both = np.isfinite(original) & ~np.isnan(restored)
    if not both.any():
        return {"count": 0}
    x, y = original[both].astype(np.float64), restored[both].astype(np.float64)
    error = y - x
    unit, error_unit = np.abs(x).max() or 1.0, np.abs(error).max() or 1.0
    root, deviation = math.sqrt(np.mean((error / error_unit) ** 2)), (x / unit).std()
    digits = math.log10(unit) - math.log10(error_unit)
    return {
        "count": int(both.sum()),
        "bias": error.mean(),
        "mae": np.abs(error).mean(),
        "rmse": root * error_unit,
        "max_error": np.abs(error).max(),
        "sqnr_db": 20 * (math.log10(deviation / root) + digits) if root and deviation else None,
    }


def assert_same(figures: measuring.ErrorFigures, expected: dict[str, Any]) -> None:
    assert figures.count == expected["count"]
    if not figures.count:
        assert figures.max_error_at is None
        return
    small = 1e-12 * expected["mae"] + 1e-300
    for name in ("bias", "mae", "rmse", "max_error"):
        assert getattr(figures, name) == pytest.approx(expected[name], rel=1e-9, abs=small), name
    if expected["sqnr_db"] is not None and abs(expected["sqnr_db"]) < 200:
        assert figures.sqnr_db == pytest.approx(expected["sqnr_db"], abs=1e-6)


@some_dtypes_at_once
@given(method=st.sampled_from(METHODS), data=st.data())
def test_figures_of_a_store_are_those_of_numpy_on_the_whole_array(dtypes, method, data):
    values = data.draw(arrays(dtypes, special=(math.nan,)))
    assume(values.ndim and values.size)
    axis = data.draw(st.none() | st.integers(0, values.ndim - 1), "axis")
    chunks = tuple(data.draw(st.integers(1, n)) for n in values.shape)
    chunks = (*chunks[:-1], min(chunks[-1] + chunks[-1] % 2, values.shape[-1]))
    assume(chunks[-1] % 2 == 0 or chunks[-1] == values.shape[-1])
    policy = "propagate" if values.dtype.kind not in "iu" else "raise"
    try:
        array = stored(values, scale_method=method, axis=axis, chunks=chunks, nan_policy=policy)
        restored = array[...]
    except ValueError:
        assume(False)
    with np.errstate(over="ignore"):
        expected = plain(values, restored)
    assume(all(math.isfinite(v) for v in expected.values() if v is not None))
    check_figures(array, values, restored, expected)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_block_at_the_end_of_a_dtype_is_measured(sign: int) -> None:
    values = np.full(4, sign * np.finfo(np.float64).max)
    store = MemoryStore()
    quantize_to_zarr(values, store, blocks=2)
    assert measure_error(values, store).max_error == 0


@some_dtypes_at_once
@given(method=st.sampled_from(["minmax", "absmax", "mse"]), data=st.data())
def test_figures_of_a_store_with_blocks_are_those_of_numpy_on_the_whole_array(dtypes, method, data):
    values = data.draw(arrays(dtypes, special=(math.nan,)))
    assume(values.ndim and values.size)
    blocks = tuple(data.draw(st.sampled_from([1, 2, 3, 4, 8, -1])) for _ in values.shape)
    policy = "propagate" if values.dtype.kind not in "iu" else "raise"
    try:
        array = stored(values, scale_method=method, blocks=blocks, nan_policy=policy)
        restored = array[...]
    except ValueError:
        assume(False)
    with np.errstate(over="ignore"):
        expected = plain(values, restored)
    assume(all(math.isfinite(v) for v in expected.values() if v is not None))
    check_figures(array, values, restored, expected)


def check_figures(array: Int4Array, values: np.ndarray, restored: np.ndarray, expected: dict[str, Any]) -> None:
    measurement = measure_store(array, values)
    figures = measurement.figures
    assert_same(figures, expected)
    if expected["count"]:
        with np.errstate(over="ignore"):
            at = restored[figures.max_error_at].astype(np.float64) - np.float64(values[figures.max_error_at])
        assert abs(at) == figures.max_error
    assert figures.within_bound
    assert (figures.missing, figures.mismatched) == (np.isnan(values).sum(), 0)
    codes = array.codes()
    assert figures.code_counts == tuple(np.bincount(codes.ravel() + 8, minlength=16))
    assert figures.bound == np.max(array.scale) / 2
    assert measurement.counts.values.sum() == measurement.counts.errors.sum() == figures.count
    assert_same(measure_error(values, restored), expected)


@pytest.mark.parametrize(
    "values", [[-1.71798692e10, -1.20899461e-147], [-1e300, 0.0, 1e-150, 1e300], [0.0, 1.5, 1e-170]]
)
def test_figures_of_values_of_very_different_size_are_those_of_numpy(values):
    original = np.array(values)
    array = stored(original)
    check_figures(array, original, array[...], plain(original, array[...]))


@given(arrays([np.dtype(np.float32), np.dtype(np.float64)], special=(math.nan, math.inf, -math.inf)), st.data())
def test_figures_of_two_arrays_are_those_of_numpy(values, data):
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=values.shape).astype(values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        restored = values + noise * np.abs(values[np.isfinite(values)]).max(initial=0)
        assume(values.size and np.isfinite(restored[np.isfinite(values)]).all())
        expected = plain(values, restored)
    assume(all(math.isfinite(v) for v in expected.values() if v is not None))
    figures = measure_error(values, restored)
    assert_same(figures, expected)
    assert figures.infinite == np.isinf(values).sum()
    assert (figures.saturated, figures.parts, figures.bound) == (None, None, None)


@pytest.mark.parametrize(
    ("original", "restored"),
    [
        ([-1.7e10, -1.2e-147], [-1.7e10, 0.0]),  # the square of the error is lost in the unit of the values
        ([0.9, 1e-170], [0.9, 0.0]),  # and in any unit but its own
        ([1e300, 1e-20], [1e300, 0.0]),
        ([1e305, 5e-324], [1e305, 0.0]),
    ],
)
def test_errors_of_another_size_than_the_values_keep_their_digits(original, restored):
    figures = measure_error(original, restored)
    assert_same(figures, plain(np.array(original), np.array(restored)))
    assert figures.sqnr_db < math.inf


def test_sums_that_would_overflow_do_not():
    figures = measure_error([1e308, 1e308], [0.0, 0.0])
    assert (figures.bias, figures.mae, figures.rmse) == (-1e308, 1e308, pytest.approx(1e308))


def test_an_error_beyond_float64_is_infinite_and_warns_of_nothing():
    figures = measure_error([1.7e308, 0.0], [-1.7e308, 0.0])
    assert (figures.max_error, figures.max_error_at) == (math.inf, (0,))


# Saturation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("options", [{"value_range": (-2.0, 2.0)}, {"scale_method": "mse"},
                                     {"scale_method": "percentile", "percentile": 90}])  # fmt: skip
@pytest.mark.parametrize("policy", ["raise", "propagate"])
def test_saturated_values_are_counted_and_are_no_defect(axis, options, policy):
    values = np.random.default_rng(0).standard_t(3, (60, 40))
    array = stored(values, chunks=(7, 40), axis=axis, nan_policy=policy, **options)
    figures = measure_error(values, array)
    lowest = -7 if policy == "propagate" else -8
    low, high = ((code - array.zero_point) * array.scale for code in (lowest, 7))
    beyond = (values < low - array.scale / 2 * 1.0001) | (values > high + array.scale / 2 * 1.0001)
    assert figures.saturated == np.count_nonzero(beyond) > 0
    assert (figures.outside, figures.within_bound) == (0, True)
    assert figures.saturated_share == figures.saturated / values.size
    error = np.abs(array[...] - values) / (array.scale / 2)
    assert figures.largest_in_range == pytest.approx(error[~beyond].max())
    shares = [part.mean() for part in np.split(beyond, range(7, 60, 7))]
    assert figures.parts.saturated == pytest.approx(shares)


def test_infinities_saturate_and_enter_no_error():
    values = np.array([0.0, 0.5, 1.0, 5.0, np.inf, -np.inf], np.float32)
    figures = measure_error(values, stored(values, value_range=(0, 1)))
    assert (figures.count, figures.infinite, figures.saturated, figures.outside) == (4, 2, 3, 0)
    assert figures.max_error == pytest.approx(4.0)
    assert figures.within_bound


def test_saturation_of_a_scale_that_was_to_reach_all_is_a_defect():
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    array = stored(values)
    values[-1] = 5
    figures = measure_error(values, array)
    assert (figures.saturated, figures.outside, figures.within_bound) == (1, 1, False)


def test_a_value_out_of_bound_within_the_range_is_no_saturation():
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    array = stored(values, scale_method="mse")
    values[500] += np.float32(array.scale)
    figures = measure_error(values, array)
    assert (figures.saturated, figures.outside, figures.within_bound) == (0, 1, False)
    assert figures.largest_in_range > 1


def test_squares_that_would_overflow_do_not():
    values = np.array([0.0, 1e-10, 1e290])
    figures = measure_error(values, stored(values, value_range=(0, 1e-10)))
    assert figures.rmse == pytest.approx(1e290 / math.sqrt(3))
    assert (figures.max_error, figures.max_error_at, figures.saturated) == (pytest.approx(1e290), (2,), 1)


@pytest.mark.parametrize("power", [-310, -200, 200, 300])
@pytest.mark.parametrize("axis", [None, 0])
def test_numbers_near_the_ends_of_float64_have_the_figures_of_others(power, axis):
    values = np.random.default_rng(10).uniform(-1, 1, (30, 40))
    far = values * 10.0**power
    figures = measure_error(far, stored(far, axis=axis))
    near = measure_error(values, stored(values, axis=axis))
    assert figures.sqnr_db == pytest.approx(near.sqnr_db, abs=1e-3)
    assert figures.largest_in_range == pytest.approx(near.largest_in_range, rel=1e-3)
    assert (figures.within_bound, figures.saturated) == (True, 0)


def test_indices_of_very_different_size_are_each_within_their_bound():
    rng = np.random.default_rng(11)
    values = rng.normal(size=(50, 60)) * 10.0 ** rng.uniform(-200, 200, (50, 1))
    figures = measure_error(values, stored(values, axis=0))
    assert figures.largest_in_range == pytest.approx(1, abs=0.01)
    assert figures.within_bound


# Missing values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [None, 0, 2])
def test_a_land_mask_is_missing_on_both_sides(method, axis):
    rng = np.random.default_rng(1)
    values = rng.normal(280, 10, (8, 20, 31)).astype(np.float32)
    land = rng.random((20, 31)) < 0.3
    values[:, land] = np.nan
    figures = measure_error(values, stored(values, scale_method=method, axis=axis, nan_policy="propagate"))
    assert (figures.missing, figures.mismatched) == (8 * land.sum(), 0)
    assert figures.within_bound
    assert figures.code_counts[0] == figures.missing


def test_declared_missing_comes_back_in_an_integer_dtype():
    values = np.arange(100, dtype=np.int16).reshape(10, 10)
    values[0, :3] = -9999
    figures = measure_error(values, stored(values, nan_policy="propagate", missing=-9999))
    assert (figures.count, figures.missing, figures.mismatched) == (97, 3, 0)
    assert figures.within_bound


def test_missing_on_one_side_only_is_a_mismatch():
    values = np.linspace(0, 1, 100, dtype=np.float32)
    array = stored(values, nan_policy="propagate")
    values[7] = np.nan
    for figures in (measure_error(values, array), measure_error(values, array[...])):
        assert (figures.count, figures.mismatched, figures.within_bound) == (99, 1, False)
    assert "1 values are missing on one side only" in str(figures)


def test_nothing_but_missing_values():
    values = np.full((4, 6), np.nan)
    figures = measure_error(values, stored(values, nan_policy="propagate", chunks=(2, 6)))
    assert (figures.count, figures.missing, figures.max_error, figures.max_error_at) == (0, 24, 0, None)
    assert all(math.isnan(value) for value in figures.parts.rmse)


# Precision and parts --------------------------------------------------------------------------------------------------


def test_sqnr_keeps_its_digits_far_from_zero():
    values = np.random.default_rng(2).normal(0, 1, (64, 64))
    near, far = (measure_error(x, stored(x, chunks=(8, 64))).sqnr_db for x in (values, values + 1e9))
    assert far == pytest.approx(near, abs=0.01)


def test_exact_data_have_no_error():
    figures = measure_error(np.arange(16, dtype=np.float32), stored(np.arange(16, dtype=np.float32)))
    assert (figures.sqnr_db, figures.max_error, figures.within_bound) == (math.inf, 0, True)


def test_parts_are_chunks_in_c_order():
    values = np.random.default_rng(3).normal(size=(20, 30))
    array = stored(values, chunks=(8, 10))
    parts = measure_error(values, array).parts
    assert (parts.box, parts.counts) == ((8, 10), (3, 3))
    error = array[...] - values
    boxes = [error[8 * i : 8 * i + 8, 10 * j : 10 * j + 10] for i in range(3) for j in range(3)]
    assert parts.rmse == pytest.approx([math.sqrt((box**2).mean()) for box in boxes])
    assert parts.max_error == pytest.approx([np.abs(box).max() for box in boxes])


def test_many_chunks_share_parts(monkeypatch):
    monkeypatch.setattr(measuring, "MOST_PARTS", 10)
    values = np.random.default_rng(4).normal(size=(64, 48))
    array = stored(values, chunks=(4, 4))
    figures = measure_error(values, array)
    assert len(figures.parts.rmse) == math.prod(figures.parts.counts) <= 10
    assert_same(figures, plain(values, array[...]))
    error, rows = array[...] - values, figures.parts.box[0]
    assert figures.parts.max_error[0] == np.abs(error[:rows, : figures.parts.box[1]]).max()


def test_parts_stay_few_whatever_the_number_of_chunks():
    assert parts_grid((10**7, 10**7, 3), (1, 10, 3)).count <= measuring.MOST_PARTS


@pytest.mark.parametrize("block", [1, 1 << 7, 1 << 22])
def test_figures_do_not_depend_on_how_the_work_is_cut(monkeypatch, block):
    values = np.random.default_rng(5).normal(3, 1, (40, 50)).astype(np.float32)
    array = stored(values, chunks=(8, 10), axis=1)
    expected = measure_error(values, array)
    monkeypatch.setattr(measuring, "STORE_BLOCK_VALUES", block)
    figures = measure_error(values, array)
    assert figures.rmse == pytest.approx(expected.rmse, rel=1e-12)
    assert (figures.max_error_at, figures.code_counts) == (expected.max_error_at, expected.code_counts)


def test_the_same_figures_each_time(tmp_path):
    values = np.random.default_rng(6).normal(size=(300, 200))
    array = stored(values, chunks=(16, 20))
    assert measure_error(values, array) == measure_error(values, array)


def test_bins_hold_values_by_level_and_errors_by_step():
    values = np.arange(16, dtype=np.float64)
    counts = measure_store(stored(values), values).counts
    edges = VALUE_BINS.edges()
    # What lies on a level has no error, and so lies in the bin of errors from 0 on: its value is the level or below.
    assert edges[np.flatnonzero(counts.values)].tolist() == list(range(-8, 8))
    assert counts.errors[1 + ERROR_BINS.per_unit] == 16


# Calling it -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_taken(dtype):
    values = np.random.default_rng(7).normal(60, 20, (37, 50)).clip(0, 120).astype(dtype)
    array = stored(values, chunks=(8, 10))
    figures = measure_error(values, array)
    assert_same(figures, plain(values, array[...]))
    assert figures.within_bound


def test_a_store_may_be_a_path_or_a_zarr_store(tmp_path):
    values = np.random.default_rng(8).normal(size=(20, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    array = quantize_to_zarr(tmp_path / "x.npy", tmp_path / "x.zarr")
    expected = measure_error(values, array)
    assert measure_error(tmp_path / "x.npy", str(tmp_path / "x.zarr")) == expected
    store = MemoryStore()
    quantize_to_zarr(values, store)
    assert measure_error(values, store).rmse == expected.rmse


@pytest.mark.parametrize("place", [0, 49])
def test_the_bound_is_the_largest_of_all_indices(monkeypatch, place):
    monkeypatch.setattr(measuring, "STORE_BLOCK_VALUES", 64)
    values = np.random.default_rng(12).normal(size=(50, 64))
    values[place] *= 100
    array = stored(values, axis=0, chunks=(1, 64))
    assert measure_error(values, array).bound == array.scale[place] / 2


def test_bits_count_the_scales():
    values = np.random.default_rng(9).normal(size=(50, 64))
    array = stored(values, axis=0)
    assert measure_error(values, array).bits_per_value == 8 * array.nbytes_stored / values.size


@pytest.mark.parametrize("form", [stored, lambda values: values])
def test_shapes_must_agree(form):
    with pytest.raises(ValueError, match=r"has shape \(3,\).*has shape \(4,\)|has shape \(4,\).*has shape \(3,\)"):
        measure_error(np.arange(3.0), form(np.arange(4.0)))


@pytest.mark.parametrize("restored", ["array", "zarr", "source.npy", "source.zarr", "list"])
@pytest.mark.parametrize("original", ["Int4Array", "path", "url", "MemoryStore"])
def test_the_other_order_is_refused_and_the_right_one_named(tmp_path, original, restored):
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    np.save(tmp_path / "source.npy", values)
    source = zarr.create_array(tmp_path / "source.zarr", data=values)
    quantize_to_zarr(values, tmp_path / "x.zarr")
    memory = MemoryStore()
    stores = {"path": tmp_path / "x.zarr", "url": f"file://{tmp_path}/x.zarr", "MemoryStore": memory,
              "Int4Array": quantize_to_zarr(values, memory)}  # fmt: skip
    others = {"array": values, "zarr": source, "list": values.tolist()}
    with pytest.raises(TypeError, match=r"the original comes first, as in measure_error\(source, store\)"):
        measure_error(stores[original], others.get(restored, str(tmp_path / restored)))


def test_the_file_of_an_array_is_not_a_store(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(4.0))
    with pytest.raises(TypeError, match=r"x\.npy is not a store .*: the original comes first"):
        measure_error(np.arange(4.0), tmp_path / "x.npy")
    with pytest.raises(TypeError, match=r"x\.npy and ndarray cannot be compared: the original comes first"):
        measure_error(tmp_path / "x.npy", np.arange(4.0))


def test_a_store_that_is_not_there_or_unfinished_is_told_as_by_reading(tmp_path):
    values = np.arange(4.0)
    with pytest.raises(FileNotFoundError, match=r"gone\.zarr does not exist"):
        measure_error(values, tmp_path / "gone.zarr")
    interrupted(values, tmp_path / "half.zarr")
    for original in (values, stored(values)):
        with pytest.raises(UnfinishedStoreError):
            measure_error(original, tmp_path / "half.zarr")


def test_a_store_may_be_the_original_of_another():
    values = np.random.default_rng(0).normal(size=(20, 30))
    one, other = stored(values), stored(values, scale_method="mse")
    assert measure_error(one, other).rmse == pytest.approx(np.sqrt(np.mean((other[...] - one[...]) ** 2)))


def test_arrays_hold_numbers():
    with pytest.raises(TypeError, match="dtype bool"):
        measure_error([True, False], [1.0, 0.0])


def test_numbers_without_axes():
    figures = measure_error(1.0, 1.5)
    assert (figures.count, figures.max_error, figures.max_error_at) == (1, 0.5, ())


def test_progress_ends_at_all_blocks(monkeypatch):
    monkeypatch.setattr(measuring, "STORE_BLOCK_VALUES", 8)
    values = np.arange(64.0).reshape(8, 8)
    seen: list[Any] = []
    measure_error(values, stored(values, chunks=(2, 4)), seen.append)
    assert [event.done for event in seen] == list(range(9))
    assert (seen[-1].total, seen[-1].nbytes) == (8, values.nbytes)


VALUES = np.random.default_rng(1).normal(280, 30, (13, 22)).astype(np.float32)
STORED = stored(VALUES, chunks=(3, 4), scale_method="mse", axis=0)
UNITS = Grid(VALUES.shape, (5, 6))


@given(order=st.permutations(range(UNITS.count)))
def test_sums_are_the_same_bit_for_bit_in_whatever_order_regions_are_done(order):
    parts = parts_grid(STORED.shape, STORED.chunks)
    errors = [errors_of_unit(STORED, as_source(VALUES), UNITS, parts, number) for number in range(UNITS.count)]
    totals, in_turn = Totals(), Totals()
    for number in order:
        totals.take(number, errors[number])
    for number, found in enumerate(errors):
        in_turn.take(number, found)
    assert totals.sums == in_turn.sums
    assert totals.bound == in_turn.bound
    assert totals.waiting == {}
    for name in ("codes", "values", "errors"):
        np.testing.assert_array_equal(getattr(totals.counts, name), getattr(in_turn.counts, name))
