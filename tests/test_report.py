import math
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import MemoryStore

from quantize.array import open_int4
from quantize.pipeline import quantize_to_zarr
from quantize.report import ErrorFigures, compare_picture, measure_error

DTYPES = [np.float16, np.float32, np.float64, np.int16, np.uint8, np.int64]


def stored(values, **settings):
    store = MemoryStore()
    quantize_to_zarr(values, store, workers=1, **settings)
    return open_int4(store)


@pytest.mark.parametrize("dtype", DTYPES)
def test_figures_are_those_of_numpy_on_the_whole_array(dtype):
    values = (np.random.default_rng(1).normal(100, 20, (37, 50)).clip(0, 250)).astype(dtype)
    array = stored(values, chunks=(8, 10))
    figures = measure_error(array, values)
    x, error = values.astype(float), array[...].astype(float) - values.astype(float)
    assert figures.count == values.size
    assert figures.max_error == pytest.approx(np.abs(error).max())
    assert figures.mean_error == pytest.approx(error.mean())
    assert figures.rmse == pytest.approx(math.sqrt((error**2).mean()))
    assert figures.sqnr_db == pytest.approx(10 * math.log10(x.var() / (error**2).mean()))
    assert figures.bound == array.scale / 2
    assert figures.within_bound


def test_sqnr_keeps_its_digits_far_from_zero():
    values = np.random.default_rng(2).normal(0, 1, (64, 64))
    near, far = (measure_error(stored(x, chunks=(8, 64)), x).sqnr_db for x in (values, values + 1e9))
    assert far == pytest.approx(near, abs=0.01)


def test_missing_on_both_sides_is_counted_and_no_error():
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    values[3, 4:9] = np.nan
    figures = measure_error(stored(values, nan_policy="propagate"), values)
    assert (figures.count, figures.missing, figures.mismatched) == (95, 5, 0)
    assert figures.within_bound


def test_declared_missing_comes_back_in_an_integer_dtype():
    values = np.arange(100, dtype=np.int16).reshape(10, 10)
    values[0, :3] = -9999
    figures = measure_error(stored(values, nan_policy="propagate", missing=-9999), values)
    assert (figures.count, figures.missing, figures.mismatched) == (97, 3, 0)
    assert figures.within_bound


def test_missing_on_one_side_only_is_a_mismatch():
    values = np.linspace(0, 1, 100, dtype=np.float32)
    array = stored(values, nan_policy="propagate")
    values[7] = np.nan
    figures = measure_error(array, values)
    assert (figures.count, figures.mismatched, figures.within_bound) == (99, 1, False)
    assert "1 values are missing on one side only" in str(figures)


def test_another_source_is_out_of_bound():
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    array = stored(values)
    values[500] += np.float32(array.scale)
    figures = measure_error(array, values)
    assert figures.outside == 1
    assert not figures.within_bound
    assert "NOT within the bound" in str(figures)


def test_saturated_values_and_infinities_are_out_of_bound():
    values = np.array([0.0, 0.5, 1.0, 5.0, np.inf], np.float32)
    figures = measure_error(stored(values, value_range=(0, 1)), values)
    assert (figures.count, figures.outside) == (4, 2)
    assert figures.max_error == pytest.approx(4.0)


def test_sums_that_overflow_are_infinite_and_warn_of_nothing():
    values = np.array([0.0, 1e-10, 1e290])
    figures = measure_error(stored(values, value_range=(0, 1e-10)), values)
    assert (figures.max_error, figures.outside) == (pytest.approx(1e290), 1)
    assert figures.to_json()["rmse"] is None


def test_exact_data_have_no_error_and_json_has_no_infinity():
    figures = measure_error(stored(np.arange(16, dtype=np.float32)), np.arange(16, dtype=np.float32))
    assert figures.sqnr_db == math.inf
    assert figures.to_json()["sqnr_db"] is None
    assert figures.to_json()["within_bound"] is True


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"has shape \(3,\), but the store has shape \(4,\)"):
        measure_error(stored(np.arange(4.0)), np.arange(3.0))


def test_progress_ends_at_all_chunks():
    values = np.arange(64.0).reshape(8, 8)
    seen = []
    measure_error(stored(values, chunks=(2, 4)), values, seen.append)
    assert [event.done for event in seen] == list(range(seen[-1].total + 1))
    assert seen[-1].nbytes == values.nbytes


def test_figures_print_as_lines():
    lines = str(ErrorFigures(10, 2, 0, 0, 0.5, -0.1, 0.25, 20.0, 0.5)).splitlines()
    assert lines[0] == "values compared  10, and 2 missing on both sides"
    assert lines[1] == "largest error    0.5, within the bound of scale / 2 = 0.5"


def test_picture_is_a_png(tmp_path: Path):
    pytest.importorskip("matplotlib")
    original = np.random.default_rng(3).normal(size=(40, 30))
    original[:5, :5] = np.nan
    compare_picture(original, original + 0.01, tmp_path / "x.png", bound=0.02, title="t", label="m")
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("restored", [np.zeros((2, 3)), np.zeros(4)])
def test_picture_needs_two_samples_of_one_shape(tmp_path: Path, restored):
    with pytest.raises(ValueError, match="not two pictures of one size"):
        compare_picture(np.zeros((2, 2)), restored, tmp_path / "x.png", bound=1.0)
