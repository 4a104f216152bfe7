"""Scales of an axis or of blocks and ranges by the data, out of core: as in memory, whatever happens on the way."""

import shutil
from pathlib import Path
from typing import Any

import dask.array
import distributed
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from marks import mostly_slow, slow
from stores import Counting, Died, DyingStore, expected, field, files, memory_keys, mended_deaths
from strategies import some_dtypes_at_once
from zarr.storage import MemoryStore

from quantize import (
    DamagedChunkError,
    Int4Array,
    RefusedValuesError,
    SourceChangedError,
    StoreError,
    open_int4,
    plan,
    quantize_to_zarr,
)
from quantize.numerics.grid import Grid
from quantize.quality.verify import verify
from quantize.reading.restore import restore
from quantize.runtime.progress import Progress

VALUES = field((12, 10, 14))
EXACT = ["minmax", "absmax"]
BY_DATA = ["percentile", "mse"]
AXES = [0, 1, 2, -1]


def sqnr(original: Any, restored: Any) -> float:
    x, y = np.asarray(original, float), np.asarray(restored, float)
    valid = ~np.isnan(x)
    return float(10 * np.log10(x[valid].var() / np.square(y[valid] - x[valid]).mean()))


def varied(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Heavy-tailed values, of which each index of an axis has a width and a middle of its own."""
    random = np.random.default_rng(3)
    along = [1] * len(shape)
    along[axis] = shape[axis]
    values = random.standard_t(4, shape) * random.lognormal(0, 2, along) + random.normal(0, 300, along)
    return values.astype(np.float32)


# The same numbers ----------------------------------------------------------------------------------------------------


@some_dtypes_at_once
@given(
    data=st.data(),
    scale_method=st.sampled_from(EXACT),
    axis=st.sampled_from(AXES),
    chunks=st.tuples(*(st.integers(1, n) for n in (12, 10, 7)))
    .map(lambda c: (*c[:2], 2 * c[2]))
    .filter(lambda chunks: Grid(VALUES.shape, chunks).count <= 40),
    missing=st.booleans(),
)
def test_a_store_is_what_the_functions_in_memory_give(
    dtypes: list[Any], data: st.DataObject, scale_method: str, axis: int, chunks: tuple[int, ...], missing: bool
) -> None:
    dtype = data.draw(st.sampled_from(dtypes))
    values = (VALUES % (125 if dtype == np.int8 else 250)).astype(dtype)
    options: dict[str, Any] = {"scale_method": scale_method, "axis": axis}
    if missing and np.dtype(dtype).kind not in "iu":
        values[VALUES > 20] = np.nan
        options["nan_policy"] = "propagate"
    array = quantize_to_zarr(values, MemoryStore(), chunks=chunks, workers=1, **options)
    packed, floats, scale, zero_point = expected(values, **options)
    np.testing.assert_array_equal(array.scale, scale)
    np.testing.assert_array_equal(array.zero_point, zero_point)
    np.testing.assert_array_equal(array.packed[...], packed)
    assert array[...].tobytes() == floats.tobytes()
    assert (array.axis, array.scale.shape) == (axis % 3, scale.shape)


SOURCES: dict[str, Any] = {
    "npy": lambda folder: np.save(folder / "x.npy", VALUES) or folder / "x.npy",
    "zarr": lambda folder: zarr.create_array(folder / "x.zarr", data=VALUES, chunks=(5, 4, 6)),
    "dask": lambda folder: dask.array.from_array(VALUES, chunks=(5, 4, 6)),
    "anything": lambda folder: Counting(VALUES),
    "fortran": lambda folder: np.save(folder / "f.npy", np.asfortranarray(VALUES)) or folder / "f.npy",
}


@pytest.mark.parametrize("kind", mostly_slow(SOURCES, ["npy", "dask"]))
@pytest.mark.parametrize("axis", mostly_slow(AXES, [1]))
@pytest.mark.parametrize("chunks", [(3, 4, 6), slow((12, 4, 14)), slow((3, 10, 14)), slow((12, 10, 4)), slow(None)])
def test_every_source_gives_the_same(tmp_path: Path, kind: str, axis: int, chunks: Any) -> None:
    check_axis(
        quantize_to_zarr(SOURCES[kind](tmp_path), tmp_path / "z", axis=axis, chunks=chunks, workers=2), axis=axis
    )


def check_axis(array: Int4Array, **options: Any) -> None:
    packed, floats, scale, _ = expected(VALUES, **options)
    np.testing.assert_array_equal(array.scale, scale)
    np.testing.assert_array_equal(array.packed[...], packed)
    assert array[...].tobytes() == floats.tobytes()


@pytest.mark.parametrize("scale_method", ["minmax", slow("mse")])
@pytest.mark.parametrize("axis", AXES[:3])
def test_scales_of_a_unit_that_are_chosen_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch, axis: int, scale_method: str
) -> None:
    monkeypatch.setattr("quantize.runtime.units.ROWS_AT_ONCE", 4)
    values = VALUES.copy()
    values[5, 7, 3] = np.nan
    job: dict[str, Any] = {"axis": axis, "scale_method": scale_method, "chunks": -1}
    whole = quantize_to_zarr(values, MemoryStore(), **job, nan_policy="propagate")
    assert (
        whole[...].tobytes()
        == expected(values, axis=axis, scale_method=scale_method, nan_policy="propagate")[1].tobytes()
    )
    with pytest.raises(RefusedValuesError, match=r"1 NaN.* at index \(5, 7, 3\)"):
        quantize_to_zarr(values, MemoryStore(), **job)


@pytest.mark.parametrize("shards", [None, (6, 5, 8)])
@pytest.mark.parametrize("axis", mostly_slow(AXES, [0, 2]))
def test_what_is_indexed_has_the_scales_of_its_indices(axis: int, shards: Any) -> None:
    array = quantize_to_zarr(VALUES, MemoryStore(), axis=axis, chunks=(3, 5, 4), shards=shards)
    floats = expected(VALUES, axis=axis)[1]
    for index in [
        0,
        (..., 5),
        (slice(1, 9, 3), slice(None, None, -2), slice(3, 12)),
        (slice(2, 3), 1, slice(1, 14, 5)),
    ]:
        np.testing.assert_array_equal(array[index], floats[index])
        assert np.shape(array.codes(index)) == np.shape(floats[index])
    np.testing.assert_allclose((array.codes() - array.zero_point) * array.scale, array[...], rtol=1e-6)
    np.testing.assert_array_equal(array.to_dask()[::2].compute(scheduler="synchronous"), floats[::2])


@pytest.mark.parametrize("scale_method", BY_DATA)
@pytest.mark.parametrize("axis", [slow(None), 0, slow(1), slow(2)])
@pytest.mark.parametrize("whole", [False, slow(True)])
def test_ranges_by_the_data_are_as_good_as_those_in_memory(scale_method: str, axis: int | None, whole: bool) -> None:
    """Histograms of chunks, merged, against one of everything: 0.05 dB; 0.1 where an index has a few hundred values."""
    shape = (24, 20, 400)
    values = varied(shape, 0 if axis is None else axis)
    chunks = tuple(shape[i] if whole and i != axis else n for i, n in enumerate((5, 6, 50)))
    array = quantize_to_zarr(values, MemoryStore(), scale_method=scale_method, axis=axis, chunks=chunks)
    floats = expected(values, scale_method=scale_method, axis=axis)[1]
    if axis is None:
        assert sqnr(values, array[...]) >= sqnr(values, floats) - 0.05
    else:
        pairs = zip(*(np.moveaxis(x, axis, 0) for x in (values, array[...], floats)), strict=True)
        found = [(sqnr(x, mine), sqnr(x, theirs)) for x, mine, theirs in pairs]
        most = 0.1 if scale_method == "mse" else 1.0
        assert all(mine >= theirs - most for mine, theirs in found), found
        assert np.mean([mine - theirs for mine, theirs in found]) >= -0.02


@pytest.mark.parametrize("axis", [None, slow(0), 1])
@pytest.mark.parametrize("scale_method", EXACT + BY_DATA)
def test_the_ends_of_float64_go_through_everything(scale_method: str, axis: int | None) -> None:
    values = np.finfo(np.float64).max * np.where(np.arange(64).reshape(8, 8) % 3, 1.0, -1.0)
    job: dict[str, Any] = {"scale_method": scale_method, "axis": axis, "chunks": (2, 4)}
    array = quantize_to_zarr(values, MemoryStore(), **job)
    np.testing.assert_allclose(array[...], values, rtol=0.07)  # half a step


@pytest.mark.parametrize("axis", [None, slow(0), 2])
@pytest.mark.parametrize("scale_method", EXACT + BY_DATA)
def test_a_land_mask_goes_through_everything(tmp_path: Path, scale_method: str, axis: int | None) -> None:
    values = varied((30, 20, 16), 0)
    land = np.random.default_rng(0).random((20, 16)) < 0.3
    values[:, land] = np.nan
    np.save(tmp_path / "x.npy", values)
    job: dict[str, Any] = {"scale_method": scale_method, "axis": axis, "nan_policy": "propagate", "chunks": (7, 20, 4)}
    array = quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", **job)
    assert array.nan_code == -8
    np.testing.assert_array_equal(np.isnan(array[...]), np.isnan(values))
    assert verify(tmp_path / "z", source=tmp_path / "x.npy").ok
    restore(tmp_path / "z", tmp_path / "back.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), array[...])


@pytest.mark.parametrize("nan_policy", ["raise", "propagate"])
def test_an_index_without_a_value(nan_policy: str) -> None:
    values = np.where(np.arange(12)[:, None, None] == 4, np.nan, VALUES)
    for scale_method in EXACT + BY_DATA:
        for chunks in ((3, 5, 4), (3, 10, 14)):
            job: dict[str, Any] = {"axis": 0, "scale_method": scale_method, "chunks": chunks, "nan_policy": nan_policy}
            if nan_policy == "raise":
                with pytest.raises(RefusedValuesError, match=r"index \(4, 0, 0\)"):
                    quantize_to_zarr(values, MemoryStore(), workers=1, **job)
            else:
                array = quantize_to_zarr(values, MemoryStore(), **job)
                assert (array.scale[4, 0, 0], array.zero_point[4, 0, 0]) == (1.0, 0)
                assert np.isnan(array[4]).all()


def test_a_value_range_is_that_of_every_index() -> None:
    array = quantize_to_zarr(VALUES, MemoryStore(), axis=1, value_range=(-10, 20), chunks=(5, 5, 14))
    check_axis(array, axis=1, value_range=(-10, 20))
    assert np.unique(array.scale).tolist() == [2.0]


# How often it reads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "chunks", "passes"),
    [(0, (3, 10, 14), 1), (2, (12, 10, 4), 1), (0, (3, 5, 14), 2), (1, (3, 10, 14), 2), (0, None, 1), (2, None, 1)],
)
def test_where_a_chunk_holds_all_values_of_its_indices_the_source_is_read_once(
    axis: int, chunks: Any, passes: int
) -> None:
    source = Counting(VALUES)
    made = plan(source, MemoryStore(), axis=axis, chunks=chunks)
    assert made.passes == passes
    assert ("one read" in str(made)) == (passes == 1)
    source.read.clear()
    quantize_to_zarr(source, MemoryStore(), axis=axis, chunks=chunks, workers=1)
    read = sum(np.zeros(VALUES.shape)[region].size for region in source.read)
    samples = 4 * VALUES.size  # the fingerprint reads up to 4096 values at either end, for this small array all
    assert read <= passes * VALUES.size + samples
    assert read >= passes * VALUES.size


def test_phases_of_a_run_are_reported() -> None:
    seen = []
    quantize_to_zarr(VALUES, MemoryStore(), axis=1, chunks=(6, 5, 14), progress=seen.append)
    phases = [event.phase for event in seen if isinstance(event, Progress)]
    assert list(dict.fromkeys(phases)) == ["scan", "scale", "write"]


# The store -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_method", ["minmax", "mse"])
@pytest.mark.parametrize("chunks", [(4, 10, 14), (4, 5, 14)])
def test_the_keys_of_a_store(scale_method: str, chunks: Any) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, axis=0, name="t", scale_method=scale_method, chunks=chunks)
    found = {key for key in memory_keys(store) if not key.startswith("t/c/")}
    parameters = {f"t_{name}/{key}" for name in ("scale", "zero_point") for key in ("zarr.json", "c/0", "c/1", "c/2")}
    assert found == {"zarr.json", "t/zarr.json"} | parameters


def test_any_zarr_reader_finds_the_scales(tmp_path: Path) -> None:
    source = zarr.create_array({}, data=VALUES, dimension_names=("time", "y", "x"))
    array = quantize_to_zarr(source, tmp_path, axis=1, chunks=(5, 4, 14))
    group = zarr.open_group(tmp_path, mode="r")
    packed = group["data"]
    scale, zero_point = (group[packed.attrs[key]] for key in ("scale", "zero_point"))
    np.testing.assert_array_equal(scale[:], array.scale.ravel())
    np.testing.assert_array_equal(zero_point[:], array.zero_point.ravel())
    assert scale.metadata.dimension_names == zero_point.metadata.dimension_names == ("y",)
    assert scale.chunks == (4,)


@pytest.mark.parametrize("name", ["data_scale", "data_zero_point"])
def test_damaged_scales_are_named_and_no_value_comes_of_them(tmp_path: Path, name: str) -> None:
    array = quantize_to_zarr(VALUES, tmp_path, axis=0, chunks=(4, 5, 14))
    path = tmp_path / name / "c" / "1"
    data = path.read_bytes()
    for broken in (data[:-1], data[:5] + bytes([data[5] ^ 1]) + data[6:], None):
        path.unlink() if broken is None else path.write_bytes(broken)
        with pytest.raises(DamagedChunkError, match=f"{name}/c/1 is damaged"):
            open_int4(tmp_path)[5]
        with pytest.raises(DamagedChunkError, match=f"{name}/c/1 is damaged"):
            _ = open_int4(tmp_path).scale
        np.testing.assert_array_equal(open_int4(tmp_path)[:4], array[:4])
        assert not verify(tmp_path).ok


@pytest.mark.parametrize(
    "attributes", [{}, {"belongs_to": "me"}, {"int4": {"belongs_to": "data", "version": 2}}], ids=str
)
def test_arrays_of_others_keep_their_place(tmp_path: Path, attributes: dict[str, Any]) -> None:
    foreign = zarr.create_array(tmp_path, name="data_scale", data=np.arange(3.0), attributes=attributes)
    zarr.open_group(tmp_path, mode="a")
    quantize_to_zarr(VALUES, tmp_path)
    with pytest.raises(StoreError, match="data_scale holds files that do not belong to data"):
        quantize_to_zarr(VALUES, tmp_path, axis=0, overwrite=True)
    quantize_to_zarr(VALUES, tmp_path, scale_method="absmax", overwrite=True)
    np.testing.assert_array_equal(foreign[:], np.arange(3.0))


def test_overwriting_leaves_no_scales_behind(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path, axis=0)
    quantize_to_zarr(VALUES, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "zarr.json"]
    quantize_to_zarr(VALUES, tmp_path, axis=1, overwrite=True)
    check_axis(open_int4(tmp_path), axis=1)


@pytest.mark.parametrize("change", [{"axis": 1}, {"scale_method": "mse"}, {"scale_method": "percentile"}])
def test_another_rule_is_another_job(tmp_path: Path, change: dict[str, Any]) -> None:
    quantize_to_zarr(VALUES, tmp_path, axis=0)
    with pytest.raises(StoreError, match=f"{next(iter(change))} was"):
        quantize_to_zarr(VALUES, tmp_path, **{"axis": 0, **change})


# Interruptions -------------------------------------------------------------------------------------------------------

JOBS: dict[str, dict[str, Any]] = {
    "scales of an axis": {"axis": 0, "chunks": (6, 5, 14)},
    "one read": {"axis": 0, "chunks": (6, 10, 14)},
    "mse": {"scale_method": "mse", "chunks": (6, 10, 14)},
    "mse of an axis": {"axis": 2, "scale_method": "mse", "chunks": (12, 5, 8)},
    "blocks": {"blocks": (1, 4, 7), "scale_method": "mse", "chunks": (6, 8, 14)},
    "blocks in shards": {"blocks": (2, 5, 4), "chunks": (2, 10, 8), "shards": (6, 10, 16)},
}


@pytest.mark.parametrize("torn", [True, slow(False)])
@pytest.mark.parametrize("job", mostly_slow(JOBS, ["mse of an axis", "blocks in shards"]))
def test_a_death_at_any_change_is_mended(tmp_path: Path, torn: bool, job: str) -> None:
    assert mended_deaths(VALUES, tmp_path, torn, **JOBS[job], workers=1) >= 8


OVERWRITTEN = {
    "an axis by another": ({"axis": 1, "chunks": (6, 5, 14)}, {"axis": 0, "scale_method": "mse", "chunks": (6, 5, 14)}),
    "an axis by blocks": ({"axis": 1, "chunks": (6, 5, 14)}, JOBS["blocks"]),
    "blocks by an axis": (JOBS["blocks in shards"], {"axis": 0, "scale_method": "mse", "chunks": (6, 5, 14)}),
    "blocks by others": (JOBS["blocks"], JOBS["blocks in shards"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("torn", [True, False])
@pytest.mark.parametrize(("old", "new"), OVERWRITTEN.values(), ids=OVERWRITTEN)
def test_a_death_while_overwriting_is_mended(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], torn: bool
) -> None:
    new = {**new, "workers": 1}
    quantize_to_zarr(VALUES, tmp_path / "whole", **new)
    whole = files(tmp_path / "whole")
    folder = tmp_path / "z"
    for at in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        quantize_to_zarr(VALUES, folder, **old)
        try:
            quantize_to_zarr(VALUES, DyingStore(folder, at, torn), overwrite=True, **new)
        except Died:
            quantize_to_zarr(VALUES, folder, overwrite=True, **new)
            assert files(folder) == whole, f"change {at}"
        else:
            break
    assert at >= 12


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["mse of an axis"]))
def test_the_same_job_gives_the_same_bytes(tmp_path: Path, job: str) -> None:
    values = varied((64, 24, 40), 0)
    options = {**JOBS[job], "chunks": tuple(np.minimum(JOBS[job]["chunks"], (9, 24, 40)).tolist())}
    for workers in (1, 2, 5):
        quantize_to_zarr(values, tmp_path / str(workers), workers=workers, **options)
    assert files(tmp_path / "1") == files(tmp_path / "2") == files(tmp_path / "5")


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["mse of an axis"]))
def test_a_cluster_writes_the_bytes_of_threads(tmp_path: Path, job: str) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    quantize_to_zarr(tmp_path / "x.npy", tmp_path / "threads", **JOBS[job])
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=False)
    with cluster, distributed.Client(cluster):
        quantize_to_zarr(tmp_path / "x.npy", tmp_path / "cluster", **JOBS[job])
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")


def test_a_source_that_changed_between_the_passes_stops_the_run(tmp_path: Path) -> None:
    values = VALUES.copy()

    def change(event: Any) -> None:
        if isinstance(event, Progress) and event.phase == "scale":
            values[5, 6, 7] += 1000

    with pytest.raises(SourceChangedError, match="index 5 of it along axis 0"):
        quantize_to_zarr(values, tmp_path, axis=0, chunks=(6, 5, 14), progress=change)


def test_lost_histograms_stop_the_run(tmp_path: Path) -> None:
    def lose(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == ("scan", event.total):
            shutil.rmtree(tmp_path / "data_histogram" / "c")

    job: dict[str, Any] = {"scale_method": "mse", "chunks": (6, 5, 14)}
    with pytest.raises(StoreError, match="has lost part of pass 1; run again"):
        quantize_to_zarr(VALUES, tmp_path, progress=lose, **job)
    for _ in range(8):  # each run finds the next one that is lost, and scans it anew
        try:
            quantize_to_zarr(VALUES, tmp_path, **job)
        except StoreError:
            continue
    assert verify(tmp_path, source=VALUES).ok


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axis": 3}, "axis 3 is out of bounds"),
        ({"axis": -4}, "axis -4 is out of bounds"),
        ({"scale_method": "median"}, "must be one of"),
        ({"percentile": 99.0}, "goes with scale_method='percentile'"),
        ({"scale_method": "percentile", "percentile": 0.0}, "above 0"),
        ({"scale_method": "mse", "value_range": (0, 1)}, "pass either"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize_to_zarr(VALUES, tmp_path / "z", **options)
    assert not (tmp_path / "z").exists()
