"""Choices side by side: as measured directly where the sample is everything, near the truth where it is not."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from stores import Counting, WatchedStore, expected, field
from strategies import BFLOAT16
from zarr.storage import MemoryStore

from quantize import dequantize_from_int4, open_int4, quantize_dataset, quantize_to_int4, quantize_to_zarr
from quantize.cli import commands as cli
from quantize.cli.options import rule as parsed
from quantize.io import as_source
from quantize.io.sampling import sample_of, sampled_places, shares
from quantize.numerics.granularity import granularity_of
from quantize.quality.choices import Choice, Comparison, DatasetComparison, percent
from quantize.quality.suggest import suggest
from quantize.quality.trial import MOST_GROUPS

METHODS = ("minmax", "absmax", "percentile", "mse")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def row(found: Comparison, method: str, axis: int | None = None, blocks: Any = None) -> Choice:
    (one,) = [row for row in found.rows if (row.scale_method, row.axis, row.blocks) == (method, axis, blocks)]
    return one


def errors(values: np.ndarray, floats: np.ndarray) -> tuple[float, float]:
    """SQNR in dB and the largest error, of what is not NaN."""
    x, y = values.astype(np.float64), floats.astype(np.float64)
    valid = ~np.isnan(x)
    noise = np.square(y - x)[valid].mean()
    return 10 * math.log10(x[valid].var() / noise), np.abs(y - x)[valid].max()


# All of a small array -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [slow(np.float16), BFLOAT16, slow(np.float32), slow(np.float64), np.int16, slow(np.uint8), ">f4"]
)
def test_figures_are_those_of_what_is_restored(dtype: Any) -> None:
    values = np.clip(rng().normal(100, 30, (60, 7, 80)), 0, 255).astype(dtype)
    found = suggest(values)
    assert (found.sampled, found.total) == (values.size, values.size)
    several = [r for r in found.rows if r.blocks is None]
    assert [(r.scale_method, r.axis) for r in several] == [(m, a) for a in (None, 0, 1, 2) for m in METHODS]
    for one in several:
        _, floats, scale, zero_point = expected(values, scale_method=one.scale_method, axis=one.axis)
        sqnr, largest = errors(values, floats)
        assert one.sqnr_db == pytest.approx(sqnr, abs=1e-9)
        assert one.max_error == largest
        share = 128 * (1 if one.axis is None else values.shape[one.axis]) / values.size
        assert one.bits_per_value == pytest.approx(4 + share)
        assert 0 < one.compressed_bits_per_value < 4.1 + share
        low, high = ((code - zero_point) * scale for code in (-7 if one.scale_method == "absmax" else -8, 7))
        x = values.astype(np.float64)
        beyond = (x < low - scale / 2 * 1.00001) | (x > high + scale / 2 * 1.00001)
        assert one.saturated_share == pytest.approx(beyond.mean())
        assert one.note == ""
    blocks = [r for r in found.rows if r.blocks is not None]
    assert [r.blocks for r in blocks] == [(1, 1, 64), (1, 1, 32), (1, 1, 16), (1, 4, 8)]
    for one in blocks:
        codes, scale, zero_point = quantize_to_int4(values, "mse", blocks=one.blocks)
        sqnr, largest = errors(
            values, dequantize_from_int4(codes, scale, zero_point, blocks=one.blocks, dtype=values.dtype)
        )
        assert (one.scale_method, one.max_error, one.note) == ("mse", largest, "")
        assert one.sqnr_db == pytest.approx(sqnr, abs=1e-9)
        assert one.bits_per_value == pytest.approx(4 + 48 * scale.size / values.size)
        x = values.astype(np.float64)
        each = granularity_of(None, 3, one.blocks).index_of(values.shape)
        step, zero = scale.reshape(-1)[each], zero_point.reshape(-1)[each]
        beyond = (x < (-8.5 - zero) * step - step / 2 * 1e-5) | (x > (7.5 - zero) * step + step / 2 * 1e-5)
        assert one.saturated_share == pytest.approx(beyond.mean())


@pytest.mark.parametrize("blocks", [(1, 32), slow((1, 16)), (4, 8)])
def test_bits_of_blocks_are_those_of_a_store(blocks: tuple[int, ...]) -> None:
    values = field((320, 400))
    array = quantize_to_zarr(values, MemoryStore(), scale_method="mse", blocks=blocks)
    found = row(suggest(values), "mse", blocks=blocks)
    assert 8 * array.nbytes_stored / values.size == pytest.approx(found.compressed_bits_per_value, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [None, slow(0), 1])
def test_bits_are_those_of_a_store(method: str, axis: int | None) -> None:
    values = field((300, 400))
    array = quantize_to_zarr(values, MemoryStore(), scale_method=method, axis=axis)
    found = row(suggest(values), method, axis)
    share = found.bits_per_value - 4  # that of the scales, which the store compresses too
    stored = 8 * array.nbytes_stored / values.size
    assert found.compressed_bits_per_value - share - 0.02 <= stored <= found.compressed_bits_per_value + 0.02


def test_missing_values_are_kept_and_cost_a_code() -> None:
    values = field((200, 300))
    values[rng().random(values.shape) < 0.3] = np.nan
    found = suggest(values)
    for one in found.rows:
        options = {"axis": one.axis, "blocks": one.blocks, "nan_policy": "propagate"}
        floats = quantize_to_zarr(values, MemoryStore(), scale_method=one.scale_method, **options)[...]
        assert one.sqnr_db == pytest.approx(errors(values, floats)[0], abs=1e-9)
        assert one.command.endswith("--nan-policy propagate")
    assert found.notes == ("29.74 % of the sample is missing, which takes one of the codes",)


@pytest.mark.parametrize("dtype", [np.int16, slow(np.int64), slow(np.float32)])
def test_declared_missing_values_are_kept(tmp_path: Path, dtype: Any) -> None:
    values = rng().integers(-500, 500, (200, 300)).astype(dtype)
    values[:50] = -9999
    source = zarr.create_array(tmp_path / "x.zarr", data=values, attributes={"_FillValue": -9999})
    found = suggest(source)
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", scale_method="mse")
    kept = values[50:]
    assert row(found, "mse").sqnr_db == pytest.approx(errors(kept, array[50:])[0], abs=0.05)
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    sqnr, largest = errors(kept, array[50:])
    assert (row(found, "minmax").sqnr_db, row(found, "minmax").max_error) == (pytest.approx(sqnr, abs=1e-9), largest)
    assert "--missing" not in found.recommended.command
    explicit = suggest(values, missing=-9999)
    assert explicit.recommended.sqnr_db == found.recommended.sqnr_db
    assert re.search(r"--nan-policy propagate --missing -9999(\.0)?$", explicit.recommended.command)
    assert "--missing none" in suggest(source, missing=None).recommended.command


def test_infinity_is_left_out_and_the_commands_give_a_range(tmp_path: Path) -> None:
    values = field((200, 300))
    truth = suggest(values)
    values[3, 4], values[5, 6] = np.inf, -np.inf
    np.save(tmp_path / "x.npy", values)
    found = suggest(tmp_path / "x.npy")
    assert {(r.axis, r.blocks) for r in found.rows} == {(None, None)}
    assert "infinity, 2 times" in found.notes[0]
    for method in METHODS:
        one = row(found, method)
        assert one.sqnr_db == pytest.approx(row(truth, method).sqnr_db, abs=0.05)
        words = shlex.split(one.command)[1:]
        assert "--value-range" in words
        words[2] = str(tmp_path / f"{method}.zarr")
        assert CliRunner().invoke(cli.main, words).exit_code == 0
        restored = open_int4(words[2])[...]
        finite = np.isfinite(values)
        assert errors(values[finite], restored[finite])[0] == pytest.approx(one.sqnr_db, abs=1e-3)


def test_infinity_in_the_source_of_a_store_with_an_axis() -> None:
    values = field((200, 300))
    array = quantize_to_zarr(values, MemoryStore(), axis=0)
    values[3, 4] = np.inf
    (now,) = [r for r in suggest(values, current=array).rows if r.current]
    assert (now.scale_method, now.axis) == ("minmax", 0)
    assert now.sqnr_db > 15


def test_one_axis_has_no_scales_for_each_index() -> None:
    assert {r.axis for r in suggest(field((5000,))).rows} == {None}


@pytest.mark.parametrize("value", [0.0, 3.25, -7.0])
def test_constants_are_exact(value: float) -> None:
    found = suggest(np.full((100, 200), value, np.float32))
    assert all(r.sqnr_db == math.inf and r.max_error == 0 for r in found.rows)
    assert found.recommended.label == "minmax"
    assert "exact" in found.reason
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"][0]["sqnr_db"] is None


def test_nothing_but_missing_values() -> None:
    found = suggest(np.full((100, 200), np.nan, np.float32))
    assert all(math.isnan(r.sqnr_db) for r in found.rows)
    assert found.reason == "The sample holds no value to judge by."
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("values", [np.array([1e308, -1e308, 0, 5.0]), np.array([1e-320, 0, 2e-320]), np.arange(3)])
def test_extreme_values_are_compared_without_a_warning(values: np.ndarray) -> None:
    str(suggest(values))


def test_the_source_is_left_as_it_is() -> None:
    values = field((50, 60))
    values[0, 0], values[1, 1] = np.nan, np.inf
    before = values.copy()
    suggest(values)
    np.testing.assert_array_equal(values, before)


# What is recommended --------------------------------------------------------------------------------------------------


def features(random: np.random.Generator) -> np.ndarray:
    return random.uniform(size=(3000, 64)) * 10 ** random.uniform(-2, 2, 64)


@pytest.mark.parametrize(
    ("make", "label", "said"),
    [
        (lambda r: r.normal(size=(30, 20)), "mse", r"gains \d\.\d dB over minmax"),
        (lambda r: r.laplace(size=100_000), "mse, blocks of 32", "of the values saturate"),
        (lambda r: r.normal(size=(400, 500)), "mse, blocks of 1 x 32", r"gains 3\.\d dB over one .* bits a value more"),
        (lambda r: r.standard_t(3, (400, 500)), "mse, blocks of 1 x 32", "No finer one gains 1 dB more, and 6.02 dB"),
        (lambda r: r.integers(0, 16, (400, 500)), "minmax", "restores every value of the sample exactly"),
        (lambda r: r.choice([-1.0, 0.9], (400, 500)), "minmax", "No value saturates.*No finer one"),
        (features, "minmax, axis 1", r"each index of axis 1 gains 7\.\d dB over one for all \(minmax\), for \d"),
        (lambda r: features(r).T, "mse, blocks of 1 x 64", "each block of 1 x 64 gains"),
    ],
)  # fmt: skip
def test_what_is_recommended_and_why(make: Any, label: str, said: str) -> None:
    found = suggest(make(rng()).astype(np.float32))
    assert found.recommended.label == label
    assert found.recommended in found.rows
    assert re.search(said, found.reason)


@settings(max_examples=settings.default.max_examples, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(50, 60), (500,), (8, 40, 30)]), st.floats(0, 3))
def test_the_recommended_choice_is_never_worse_than_minmax(seed: int, shape: tuple[int, ...], tail: float) -> None:
    random = rng(seed)
    found = suggest((random.normal(size=shape) * np.exp(tail * random.normal(size=shape[-1:]))).astype(np.float32))
    simple, best = row(found, "minmax"), found.recommended
    assert best.sqnr_db >= simple.sqnr_db
    assert best is simple or best.sqnr_db - simple.sqnr_db >= 1
    start = row(found, "mse") if row(found, "mse").sqnr_db - simple.sqnr_db >= 1 else simple
    for one in found.rows:  # nothing is better by a bit's worth, but for what gains less than the least
        more = max(one.compressed_bits_per_value, 4) - max(best.compressed_bits_per_value, 4)
        worth = one.sqnr_db - best.sqnr_db >= max(1, 6.02 * more)
        assert not worth or one.scale_method in ("absmax", "percentile") or (one.axis is None and one.blocks is None)
    if best is not start and best is not simple:
        more = max(best.compressed_bits_per_value, 4) - max(start.compressed_bits_per_value, 4)
        assert best.sqnr_db - start.sqnr_db >= 6.02 * more


def test_commands_make_what_they_promise(tmp_path: Path) -> None:
    path = tmp_path / "an array.npy"
    values = (rng().normal(size=(600, 40)) * 10 ** rng(1).uniform(-1, 1, 40)).astype(np.float32)
    np.save(path, values)
    for one in suggest(path).rows:
        words = shlex.split(one.command)
        assert words[:3] == ["quantize", "run", str(path)]
        words[3] = str(tmp_path / words[3])
        assert CliRunner().invoke(cli.main, words[1:]).exit_code == 0
        array = open_int4(words[3])
        assert (array.metadata.rule.method.name, array.axis, array.blocks) == (one.scale_method, one.axis, one.blocks)
        assert errors(values, array[...])[0] == pytest.approx(one.sqnr_db, abs=0.01)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "minmax"),
        ({"scale_method": "mse", "axis": 1}, "mse, axis 1"),
        ({"nan_policy": "propagate"}, "minmax"),
        ({"scale_method": "percentile", "percentile": 99}, "percentile 99"),
        ({"value_range": (-50, 70)}, "minmax of -50 to 70"),
        ({"blocks": (1, 50)}, "minmax, blocks of 1 x 50"),
        ({"scale_method": "mse", "blocks": (1, 32)}, "mse, blocks of 1 x 32"),
        ({"scale_method": "mse", "blocks": (1, 50), "finest": 7.0}, "mse, blocks of 1 x 50"),
    ],
)
def test_the_row_of_the_store_at_hand_is_marked(options: Any, label: str) -> None:
    values = field((200, 300))
    array = quantize_to_zarr(values, MemoryStore(), **options)
    found = suggest(values, current=array)
    assert [r.label for r in found.rows if r.current] == [label]
    (now,) = [r for r in found.rows if r.current]
    assert ("--finest 7" in now.command) == ("finest" in options)
    if "nan_policy" not in options:
        assert now.sqnr_db == pytest.approx(errors(values, array[...])[0], abs=1e-6)
    assert "in this store" in str(found)
    assert not any(r.current for r in suggest(values).rows)


def test_the_best_within_so_many_bits_is_recommended() -> None:
    values = field((300, 400))
    rows = suggest(values).rows
    for bits in (0.1, 4.0, 4.3, 9):
        best = suggest(values, bits=bits).recommended
        fitting = [r for r in rows if r.compressed_bits_per_value <= bits]
        if fitting:
            assert best.sqnr_db == max(r.sqnr_db for r in fitting)
        else:
            assert best.compressed_bits_per_value == min(r.compressed_bits_per_value for r in rows)


def test_recall_is_that_of_a_search_among_restored_rows() -> None:
    vectors = rng().standard_t(4, (2000, 48)).astype(np.float32)
    found = suggest(vectors, purpose="search")
    held_out = np.linspace(0, 1999, 256).astype(int)
    base, queries = np.delete(vectors, held_out, axis=0), vectors[held_out]
    truth = np.argsort(queries @ base.T)[:, -10:]
    for one in found.rows:
        codes, scale, zero_point = quantize_to_int4(base, one.scale_method, axis=one.axis, blocks=one.blocks)
        restored = dequantize_from_int4(codes, scale, zero_point, blocks=one.blocks)
        own = np.argsort(queries @ restored.T)[:, -10:]
        share = np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth.tolist(), own.tolist(), strict=True)])
        assert one.recall == pytest.approx(share, abs=0.002)
    best = max(one.recall or 0 for one in found.rows)
    near = [one for one in found.rows if (one.recall or 0) >= best - 0.01]
    assert found.recommended == min(near, key=lambda one: one.compressed_bits_per_value)
    assert all("recall@10" in text for text in (str(found), found._repr_html_()))
    assert suggest(vectors, purpose="search", bits=4.0).recommended.compressed_bits_per_value <= 4.0


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2000,), {"purpose": "search"}, "a vector in each row"),
        ((200, 30), {"purpose": "search"}, r"at least 1,000 .* \(200, 30\) it holds 200"),
        ((20, 30), {"purpose": "rest"}, "purpose is 'rest', but must be 'search'"),
        ((20, 30), {"bits": 0}, "bits is 0, but must be"),
        ((20, 30), {"bits": "few"}, "bits is 'few', but must be"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(shape: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest(np.ones(shape, np.float32), **options)


# A sample -------------------------------------------------------------------------------------------------------------


class Generated:
    """Independent values, made when they are read; it notes how many that were."""

    def __init__(self, shape: tuple[int, ...], draw: Any) -> None:
        self.shape, self.dtype, self.draw = shape, np.dtype(np.float32), draw
        self.count = self.reads = 0

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        lengths = [len(range(n)[part]) for part, n in zip(index, self.shape, strict=True)]
        self.reads += 1
        self.count += math.prod(lengths)
        seed = [part.start for part in index]
        return np.asarray(self.draw(rng(seed), lengths), np.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [slow((2_000_000,)), slow((10_000, 200)), (100, 200, 100)])
@pytest.mark.parametrize("distribution", [slow("normal"), slow("uniform"), slow("laplace")])
def test_a_sample_is_near_the_truth(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], distribution: str) -> None:
    most = 1 << 19
    monkeypatch.setattr("quantize.quality.suggest.SAMPLE_VALUES", most)
    source = Generated(shape, lambda random, lengths: getattr(random, distribution)(size=lengths))
    found = suggest(source)
    assert most * 0.8 < found.sampled <= most
    assert source.count < 1.1 * most
    assert source.reads <= 64
    values = np.asarray(source.draw(rng(5), shape), np.float32)
    for method in METHODS:
        one = row(found, method)
        # The outermost of millions of values are luck, in all of them as in a sample.
        near = 1.5 if method in ("minmax", "absmax") and distribution != "uniform" else 0.1
        assert one.sqnr_db == pytest.approx(errors(values, expected(values, scale_method=method)[1])[0], abs=near)
    for axis in range(len(shape)) if len(shape) > 1 else ():
        for method in ("minmax", "absmax"):
            truth = errors(values, expected(values, scale_method=method, axis=axis)[1])[0]
            assert row(found, method, axis).sqnr_db == pytest.approx(truth, abs=0.5), (method, axis)


def test_blocks_are_tried_on_whole_blocks_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of the source is constant, and no two are alike: what is not a whole block is not exact."""
    monkeypatch.setattr("quantize.quality.suggest.SAMPLE_VALUES", 1 << 18)
    values = np.repeat(np.repeat(rng().normal(size=(503, 251)), 4, axis=0), 8, axis=1).astype(np.float32)
    found = suggest(values)
    assert found.sampled < values.size / 4
    assert row(found, "mse", blocks=(4, 8)).sqnr_db == math.inf
    assert row(found, "mse", blocks=(1, 16)).sqnr_db < 60


def test_few_chunks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most_values = 1 << 19
    monkeypatch.setattr("quantize.quality.suggest.SAMPLE_VALUES", most_values)
    small = WatchedStore(tmp_path / "x.zarr")
    zarr.create_array(small, shape=(20_000, 20_000), chunks=(100, 100), dtype=np.float32, fill_value=2)
    large = WatchedStore(tmp_path / "y.zarr")
    zarr.create_array(large, shape=(640, 4000, 2000), chunks=(1, 1000, 2000), dtype=np.float32, fill_value=2)
    for store, most in ((small, 1024), (large, 64)):
        array = zarr.open_array(store)
        store.got.clear()
        assert most_values / 4 < suggest(array).sampled <= most_values
        keys = [key for key in store.got if key.startswith("c/")]
        assert len(keys) == len(set(keys)) <= most


@pytest.mark.parametrize("kind", ["npy", "fortran", "zarr", "anything", "dask"])
@pytest.mark.parametrize("most", [500, 5000])
def test_a_sample_holds_values_of_the_array_in_their_order(tmp_path: Path, kind: str, most: int) -> None:
    import dask.array

    values = np.arange(50 * 40 * 30, dtype=np.float32).reshape(50, 40, 30)
    np.save(tmp_path / "x.npy", np.asfortranarray(values) if kind == "fortran" else values)
    source: Any = {
        "npy": lambda: tmp_path / "x.npy",
        "fortran": lambda: tmp_path / "x.npy",
        "zarr": lambda: zarr.create_array(tmp_path / "x.zarr", data=values, chunks=(7, 10, 30)),
        "anything": lambda: Counting(values),
        "dask": lambda: dask.array.from_array(values, chunks=(7, 10, 30)),
    }[kind]()
    found = sample_of(as_source(source), most)
    assert most / 8 < found.size <= most
    indices = np.unravel_index(found.astype(int), values.shape)
    for axis, index in enumerate(indices):
        lines = np.moveaxis(index, axis, 0).reshape(found.shape[axis], -1)
        assert (lines == lines[:, :1]).all(), "an index of the sample is one index of the array"
        assert (np.diff(lines[:, 0]) > 0).all()
        assert lines[-1, 0] - lines[0, 0] > values.shape[axis] / 2, "spread over all of the axis"
    np.testing.assert_array_equal(found, sample_of(as_source(source), most))
    np.testing.assert_array_equal(found, values[np.ix_(*sampled_places(as_source(source), most))])


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=6), st.integers(1, 10**7))
def test_shares_keep_within_their_limits(limits: list[int], most: int) -> None:
    found = shares(limits, most)
    assert math.prod(found) <= most
    assert all(1 <= number <= limit for number, limit in zip(found, limits, strict=True))


@pytest.mark.slow
def test_long_axes_are_judged_by_some_of_their_indices() -> None:
    values = field((2 * MOST_GROUPS, 64)) * np.exp(rng().normal(size=(2 * MOST_GROUPS, 1))).astype(np.float32)
    found = row(suggest(values), "minmax", 0)
    truth = errors(values, expected(values, axis=0)[1])[0]
    assert found.sqnr_db == pytest.approx(truth, abs=0.5)
    assert found.note == f"on {MOST_GROUPS:,} of {2 * MOST_GROUPS:,} indices"


# Text -----------------------------------------------------------------------------------------------------------------


def test_it_prints_a_table_and_one_command() -> None:
    text = str(suggest(field((300, 400))))
    lines = text.splitlines()
    assert lines[0] == "measured on all 120,000 values"
    head = ["scale", "SQNR", "largest", "error", "saturated", "bits", "a", "value", "compressed", "speed"]
    assert lines[2].split() == head
    assert text.count("<- recommended") == 1
    assert lines[-1] == f"  {suggest(field((300, 400))).recommended.command}"
    assert max(map(len, lines)) <= 110


def test_json_is_strict_and_whole() -> None:
    values = np.zeros((40, 60), np.float32)
    values[3] = 1e-30
    found = json.loads(json.dumps(suggest(values).to_json(), allow_nan=False))
    assert set(found) == {"rows", "recommended", "reason", "sampled", "total", "notes"}
    assert found["recommended"] in found["rows"]
    assert set(found["rows"][0]) == set(Choice.__dataclass_fields__)


@pytest.mark.parametrize("share", [1e-9, 0.00005, 0.5, 0.99999999, 1 - 1e-12])
def test_a_share_that_is_not_0_or_all_does_not_say_so(share: float) -> None:
    assert percent(share) not in ("0", "100 %")


@pytest.mark.parametrize(
    ("source", "missing", "error"),
    [
        ("gone.npy", "declared", FileNotFoundError),
        (np.zeros((3, 0)), "declared", ValueError),
        (np.zeros(3, bool), "declared", TypeError),
        (np.zeros(3, np.int8), 1000, ValueError),
        ([1.0, 2.0], "declared", TypeError),
    ],
)
def test_what_cannot_be_compared_is_refused(source: Any, missing: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        suggest(source, missing=missing)


# Several variables ----------------------------------------------------------------------------------------------------


def several() -> dict[str, Any]:
    columns = rng().normal(size=(600, 40)) * 10 ** rng().uniform(-2, 2, 40)
    return {
        "w": rng().standard_t(4, (100, 1000)).astype(np.float32),
        "up:w,2": rng().standard_t(4, (70, 1000)).astype(np.float32),
        "columns": columns.astype(np.float32),
        "even": rng().uniform(size=(64, 64)),
        "ids": np.arange(5000),
    }


def test_each_variable_that_a_run_quantizes_has_its_own_comparison() -> None:
    source = several()
    found = suggest(source)
    assert isinstance(found, DatasetComparison)
    assert (set(found), found.kept) == (set(source) - {"ids"}, 1)
    for name, own in found.items():
        alone = suggest(source[name])
        assert [replace(row, command="") for row in own.rows] == [replace(row, command="") for row in alone.rows]
        assert own.recommended.label == alone.recommended.label
    written = quantize_dataset(source, MemoryStore(), rules=found.settings)
    for name, own in found.items():
        rule, said = written[name].metadata.rule, own.recommended
        assert (rule.method.name, rule.granularity.axis) == (said.scale_method, said.axis)
        assert rule.granularity.blocks == said.blocks
    assert str(found).startswith("4 variables, each measured on at most 100,000 values; kept as they are: 1\n")
    assert set(found.to_json()["variables"]) == set(found)


def test_one_command_has_a_rule_for_each_that_differs_from_most(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", **several())
    found = suggest("x.npz")
    words = shlex.split(found.command)
    assert words[:8] == ["quantize", "run", "x.npz", "x-int4.zarr", "--scale-method", "mse", "--blocks", "1,32"]
    assert words[8::2] == ["--rule"] * (len(words) // 2 - 4)
    assert [rule.partition(":")[0] for rule in words[9::2]] == ["columns", "even"]
    assert CliRunner().invoke(cli.main, words[1:]).exit_code == 0
    written = open_int4("x-int4.zarr")
    for name, own in found.items():
        rule = written[name].metadata.rule
        assert (rule.method.name, rule.granularity.blocks) == (own.recommended.scale_method, own.recommended.blocks)


def test_a_range_is_given_where_values_are_infinite() -> None:
    values = several()
    values["even"][3, 4] = np.inf
    found = suggest({"even": values["even"]} | {"w": values["w"]})
    assert any(note.startswith("even: the sample holds infinity") for note in found.notes)
    low, high = found.settings["even"]["value_range"]
    assert (low, high) == pytest.approx((0, 1), abs=0.1)
    quantize_dataset(values, MemoryStore(), rules=found.settings)


def test_one_scale_for_all_is_said_in_a_rule_where_others_have_blocks() -> None:
    comparison = suggest(several()["even"])
    minmax = replace(comparison, recommended=comparison.rows[0])
    blocks = replace(comparison, recommended=row(comparison, "mse", blocks=(1, 32)))
    found = DatasetComparison({"a": blocks, "b": minmax, "c": blocks}, 0, ("x.nc", "x", ""))
    assert found.command == (
        "quantize run x.nc x-int4.zarr --scale-method mse --blocks 1,32 --rule b:scale_method=minmax,axis=none"
    )
    assert parsed("b:scale_method=minmax,axis=none") == ("b", {"scale_method": "minmax", "axis": None})


def test_nothing_to_quantize_and_samples_of_many(monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match="dict holds nothing that a run would quantize by itself"):
        suggest({"a": np.arange(9), "b": np.arange(3.0)})
    with pytest.raises(ValueError, match="even: "):
        suggest({"even": np.zeros((5000, 1, 1)), "w": several()["w"]}, purpose="search")
    monkeypatch.setattr("quantize.quality.suggest.LEAST_SAMPLE", 1 << 10)
    monkeypatch.setattr("quantize.quality.suggest.SAMPLE_VALUES", 1 << 12)
    assert [one.sampled <= 1 << 10 for one in suggest(several()).values()] == [True] * 4
