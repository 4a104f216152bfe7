"""Stores as xarray opens them, with no engine named: lazy floats beside what was kept, held to xarray's own reading."""

import functools
import importlib.util
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import xarray
import zarr
from marks import slow
from stores import WatchedStore, field
from zarr.storage import MemoryStore

import quantize.xarray  # noqa: F401 - accessors
from quantize import Int4Dataset, UnfinishedStoreError, open_int4, quantize_dataset, quantize_to_zarr
from quantize.reading.xarray import Int4BackendEntrypoint

ENGINE = Int4BackendEntrypoint()
SHAPE = (60, 18, 36)


@functools.cache
def weather() -> xarray.Dataset:
    """Two fields, one with missing values, and what weather services put beside them."""
    random = np.random.default_rng(0)
    warm = (280 + random.normal(0, 9, SHAPE)).astype(np.float32)
    warm[random.random(SHAPE) < 0.1] = np.nan
    days = np.arange("2001-01-01", "2001-03-02", dtype="M8[D]").astype("M8[ns]")
    return xarray.Dataset(
        {
            "t2m": (("time", "lat", "lon"), warm, {"units": "K", "long_name": "temperature"}),
            "msl": (("time", "lat", "lon"), 1e5 + random.normal(0, 9, SHAPE)),
            "land": (("lat", "lon"), random.random(SHAPE[1:]) < 0.3),
            "zone": ("lat", np.array(list("abcdefghijklmnopqr"), object)),
            "level": ((), 3),
            "bounds": (("time", "edge"), np.stack([days, days + np.timedelta64(1, "D")], axis=1)),
        },
        {
            "time": ("time", days, {"standard_name": "time"}),
            "lat": ("lat", np.linspace(-85, 85, 18), {"units": "degrees_north"}),
            "lon": np.arange(0, 360, 10.0),
            "height": ("lat", np.arange(18)),
        },
        {"title": "weather"},
    )


@functools.cache
def in_memory() -> MemoryStore:
    store = MemoryStore()
    weather().int4.to_zarr(store, chunks=(10, 18, 36), rules={"msl": {"axis": "lat"}})
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same as files."""
    for key, value in in_memory()._store_dict.items():
        (tmp_path / "x" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / key).write_bytes(value.to_bytes())
    return tmp_path / "x"


# What comes -----------------------------------------------------------------------------------------------------------


def test_a_collection_is_a_dataset_of_lazy_floats_and_of_all_that_was_kept(folder: Path) -> None:
    found, source = xarray.open_dataset(folder), weather()
    assert set(found.variables) == set(source.variables)
    assert set(found.coords) == set(source.coords)
    assert found.attrs == source.attrs
    for name in {*source.variables} - {"t2m", "msl"}:
        xarray.testing.assert_identical(found[name].variable, source[name].variable)
    for name, half_a_step in (("t2m", open_int4(folder)["t2m"].max_error), ("msl", open_int4(folder)["msl"].max_error)):
        assert not found[name].variable._in_memory
        assert (found[name].dtype, found[name].attrs) == (source[name].dtype, source[name].attrs)
        np.testing.assert_array_equal(found[name].isnull(), source[name].isnull())
        np.testing.assert_array_equal(found[name], open_int4(folder)[name][...])
        assert (abs(found[name] - source[name]).fillna(0) <= half_a_step * (1 + 1e-4)).all()
    encoding = found.t2m.encoding
    assert encoding["preferred_chunks"] == {"time": 10, "lat": 18, "lon": 36}
    assert encoding["chunks"] == (10, 18, 36)
    assert found.encoding["source"] == str(folder)
    assert found.time.encoding["units"] == "days since 2001-01-01 00:00:00"


def test_decoding_is_as_asked_for() -> None:
    store = in_memory()
    raw = xarray.open_dataset(store, decode_times=False, drop_variables=["t2m", "zone"])
    assert raw.time.dtype == np.int64
    assert set(raw.variables) == set(weather().variables) - {"t2m", "zone"}
    assert set(xarray.open_dataset(store, drop_variables="time").coords) == {"lat", "lon", "height"}
    assert "coordinates" in xarray.open_dataset(store, decode_coords=False).t2m.attrs


def test_shards_are_what_is_best_read_at_a_time() -> None:
    store = MemoryStore()
    quantize_to_zarr(field((8, 8)), store, chunks=(2, 4), shards=(4, 8))
    encoding = xarray.open_dataset(store).data.encoding
    assert (encoding["chunks"], encoding["shards"]) == ((2, 4), (4, 8))
    assert encoding["preferred_chunks"] == {"dim_0": 4, "dim_1": 8}


def test_axes_without_names_get_some_that_fit() -> None:
    store = MemoryStore()
    for name, shape in (("a", (4, 6)), ("b", (4, 8)), ("c", (5,))):
        quantize_to_zarr(field(shape), store, name=name)
    found = xarray.open_dataset(store)
    assert [found[name].dims for name in "abc"] == [("dim_0", "dim_1"), ("dim_0", "b_dim_1"), ("c_dim_0",)]


def test_missing_integers_are_missing_and_bfloat16_is_float32() -> None:
    import ml_dtypes

    store = MemoryStore()
    whole = np.array([[0, 15, -99], [7, 8, 9]], np.int16)
    quantize_to_zarr(whole, store, name="whole", missing=-99, nan_policy="propagate")
    brains = field((4, 6), ml_dtypes.bfloat16)
    quantize_to_zarr(brains, store, name="brains")
    found = xarray.open_dataset(store)
    assert found.whole.isnull().values.tolist() == [[False, False, True], [False] * 3]
    assert found.brains.dtype == np.float32
    np.testing.assert_array_equal(found.brains, open_int4(store, "brains")[...].astype(np.float32))
    kept = MemoryStore()
    quantize_dataset({"brains": brains}, kept)
    np.testing.assert_array_equal(xarray.open_dataset(kept).brains, brains.astype(np.float32))


# What is opened -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_variables_of_today_and_arrays_of_others_beside_them(tmp_path: Path) -> None:
    store = tmp_path / "x.zarr"  # the suffix of zarr's engine
    weather()[["lat", "lon", "time"]].to_zarr(store, consolidated=False, zarr_format=3)
    for name, options in {"t2m": {"axis": 0, "nan_policy": "propagate"}, "msl": {"blocks": 4}}.items():
        quantize_to_zarr(weather()[name], store, name=name, **options)
    for _ in range(2):
        found = xarray.open_dataset(store)
        assert set(found.variables) == {"lat", "lon", "time", "height", "t2m", "msl"}
        for name in ("lat", "lon", "time", "height"):
            xarray.testing.assert_identical(found[name].variable, weather()[name].variable)
        assert found.t2m.dims == ("time", "lat", "lon")
        np.testing.assert_array_equal(found.t2m, open_int4(store, "t2m")[...])
        zarr.consolidate_metadata(store)
    one = xarray.open_dataset(store / "msl")
    assert list(one.variables) == ["msl"]


def test_zip_archives_of_a_store_are_opened(tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    np.testing.assert_array_equal(xarray.open_dataset(tmp_path / "x.zip").t2m, open_int4(folder)["t2m"][...])


def test_nothing_else_is_taken_for_a_store_of_ours(tmp_path: Path, folder: Path) -> None:
    source = weather()[["lat", "time"]]
    for form in (2, 3):
        source.to_zarr(tmp_path / f"{form}.zarr", zarr_format=form, consolidated=False)
        source.to_zarr(tmp_path / f"{form}", zarr_format=form, consolidated=form == 2)
    source.to_netcdf(tmp_path / "x.nc", engine="scipy")
    xarray.DataTree.from_dict({"/a/b": source}).to_zarr(tmp_path / "tree", consolidated=False)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/zarr.json").write_bytes((folder / "zarr.json").read_bytes()[:99])
    (tmp_path / "text").mkdir()
    (tmp_path / "text/zarr.json").write_text('["int4"]')
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("notes.txt", "int4")
    for path in tmp_path.iterdir():
        assert ENGINE.guess_can_open(path) == (path == folder), path
        assert ENGINE.guess_can_open(str(path)) == (path == folder), path
    others = [
        "",
        "nowhere",
        tmp_path / "x",
        b"CDF",
        7,
        None,
        np.zeros(3),
        MemoryStore(),
        {},
        "http://127.0.0.1:9/x.zarr",
    ]
    assert [thing for thing in others if ENGINE.guess_can_open(thing)] == [tmp_path / "x"]
    assert ENGINE.guess_can_open(in_memory())
    xarray.testing.assert_identical(xarray.open_dataset(tmp_path / "3.zarr", consolidated=False), source)


def test_to_guess_reads_one_document(folder: Path) -> None:
    store = WatchedStore(folder)
    assert ENGINE.guess_can_open(store)
    assert store.got == ["zarr.json"]


@pytest.mark.slow
def test_to_guess_that_a_store_is_not_ours_imports_no_loops(tmp_path: Path) -> None:
    weather()[["lat", "time"]].to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    code = f"""
import sys, warnings, xarray
warnings.simplefilter("ignore")
xarray.open_dataset({str(tmp_path / "other.zarr")!r})
assert "int4" in xarray.backends.list_engines()
assert not {{"numba", "quantize.kernels"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_unfinished_is_refused(folder: Path) -> None:
    document = (folder / "t2m/zarr.json").read_text()
    assert '"sealed"' in document
    quantize_to_zarr(field((4, 6)), folder.parent / "y", name="a")

    def stop(event: Any) -> None:
        if getattr(event, "phase", "") == "write":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        quantize_to_zarr(field((4, 6)), folder.parent / "y", name="b", progress=stop)
    assert ENGINE.guess_can_open(folder.parent / "y")
    with pytest.raises(UnfinishedStoreError, match="b is unfinished"):
        xarray.open_dataset(folder.parent / "y")
    assert list(xarray.open_dataset(folder.parent / "y", drop_variables="b")) == ["a"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        xarray.open_dataset(folder.parent / "nowhere", engine="int4")


def test_groups_are_a_tree_or_opened_by_name() -> None:
    tree = xarray.DataTree.from_dict(
        {"/": weather()[["lat"]], "/fine": weather()[["t2m", "level"]], "/fine/er": weather()[["msl"]], "/empty": None}
    )
    tree["fine"].attrs["made"] = "today"
    store = MemoryStore()
    quantize_dataset(tree, store)
    found = xarray.open_datatree(store)
    assert set(found.groups) == set(tree.groups)
    assert found["fine"].attrs == {"title": "weather", "made": "today"}
    for path in tree.groups:
        assert set(found[path].ds.data_vars) == set(tree[path].ds.data_vars)
        assert set(found[path].ds.coords) == set(tree[path].ds.coords)
    inner = xarray.open_dataset(store, group="fine/er")
    np.testing.assert_array_equal(inner.msl, found["fine/er/msl"])
    assert set(xarray.open_groups(store, group="/fine")) == {"/", "/er"}
    with pytest.raises(FileNotFoundError, match="no group 'coarse'; there are: empty, fine, fine/er"):
        xarray.open_dataset(store, group="coarse")


def test_groups_of_a_store_that_is_no_collection(tmp_path: Path) -> None:
    weather()[["lat"]].to_zarr(tmp_path / "x", consolidated=False, zarr_format=3)
    zarr.open_group(tmp_path / "x").create_group("in").create_group("ner")
    quantize_to_zarr(weather().msl, tmp_path / "x", name="msl")
    quantize_to_zarr(field((4, 6)), tmp_path / "x/in/ner", name="a")
    found = xarray.open_datatree(tmp_path / "x")
    assert list(found.groups) == ["/", "/in", "/in/ner"]
    assert found["in/ner/a"].shape == (4, 6)


# Indices --------------------------------------------------------------------------------------------------------------


def some_index(random: np.random.Generator, n: int) -> Any:
    kind = random.integers(4)
    if kind == 0:
        return int(random.integers(-n, n))
    if kind == 1:
        start, stop = (None if random.random() < 0.3 else int(random.integers(-n - 2, n + 3)) for _ in range(2))
        step = random.choice([None, 1, 2, -1, -3])
        if start is not None and start < -n and step in (-1, -3):  # which xarray 2026.9 takes for -1, by any engine
            start = -n
        return slice(start, stop, step)
    if kind == 2:
        return random.integers(-n, n, random.integers(0, n))
    return random.random(n) < 0.3


def points(random: np.random.Generator, n: int, shape: Any) -> xarray.DataArray:
    return xarray.DataArray(random.integers(-n, n, shape), dims=("p", "q"))


@pytest.mark.parametrize("count", [60, slow(500)])
def test_random_indices_outer_and_pointwise_are_those_of_what_is_loaded(count: int) -> None:
    random = np.random.default_rng(count)
    lazy = xarray.open_dataset(in_memory(), cache=False)[["t2m", "land", "zone", "bounds"]]
    loaded = xarray.open_dataset(in_memory())[[*lazy]].load()
    for _ in range(count):
        dims = [dim for dim in loaded.sizes if random.random() < 0.6]
        outer = {dim: some_index(random, loaded.sizes[dim]) for dim in dims}
        xarray.testing.assert_identical(lazy.isel(outer).load(), loaded.isel(outer))
        shape = random.integers(0, 4, 2)
        pointwise = {
            dim: points(random, loaded.sizes[dim], shape) if random.random() < 0.6 else some_index(random, n)
            for dim, n in loaded.sizes.items()
            if dim in dims
        }
        twice = {"time": slice(None, None, -1)} if "time" in lazy.isel(pointwise).dims else {}
        xarray.testing.assert_identical(lazy.isel(pointwise).isel(twice).load(), loaded.isel(pointwise).isel(twice))


def test_first_and_last_step_read_two_chunks(folder: Path) -> None:
    store = WatchedStore(folder)
    found = xarray.open_dataset(store)
    store.got.clear()
    assert found.t2m.isel(time=[0, -1]).load().shape == (2, 18, 36)
    assert sorted(key for key in store.got if key.startswith("t2m/c/")) == ["t2m/c/0/0/0", "t2m/c/5/0/0"]


# What users do --------------------------------------------------------------------------------------------------------

USES: dict[str, Any] = {
    "sel": lambda data: data.sel(time="2001-02", lat=slice(-40, 40), lon=[10, 200]),
    "nearest": lambda data: data.sel(lat=[12.3, -50], lon=xarray.DataArray([3, 361], dims="p"), method="nearest"),
    "resample": lambda data: data.t2m.resample(time="MS").mean(),
    "groupby": lambda data: data.t2m.groupby("time.month").mean(),
    "weighted": lambda data: data.msl.weighted(np.cos(np.deg2rad(data.lat))).mean(("lat", "lon")),
    "rolling": lambda data: data.msl.rolling(time=5, center=True).mean(),
    "where": lambda data: data.t2m.where(data.land).mean("time"),
    "stack": lambda data: data.t2m.stack(cell=("lat", "lon")).isel(cell=[7, 3]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("chunks", [None, {}])
def test_what_users_do_gives_what_it_gives_of_arrays_in_memory(use: str, chunks: Any) -> None:
    found = USES[use](xarray.open_dataset(in_memory(), chunks=chunks)).compute(scheduler="synchronous")
    wanted = USES[use](xarray.open_dataset(in_memory()).load())
    if chunks is None:
        xarray.testing.assert_identical(found, wanted)
    else:  # sums in another order
        xarray.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_it_is_written_to_netcdf_and_zarr_and_comes_back(tmp_path: Path, folder: Path) -> None:
    found = xarray.open_dataset(folder)
    fields = found[["t2m", "msl", "bounds"]]
    fields.to_netcdf(tmp_path / "x.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "x.nc") as written:
        xarray.testing.assert_identical(written.load(), fields.load())
    for chunks in (None, {}):
        again = xarray.open_dataset(folder, chunks=chunks).drop_vars("zone")
        again.to_zarr(tmp_path / "y.zarr", mode="w", zarr_format=3, consolidated=False)
        back = xarray.open_dataset(tmp_path / "y.zarr", consolidated=False)
        xarray.testing.assert_identical(back.load(), again.load())


def test_accessors_write_datasets_and_arrays() -> None:
    for thing in (weather()[["msl"]], weather().msl, weather().msl.rename(None)):
        store = MemoryStore()
        made = thing.int4.to_zarr(store, scale_method="mse")
        assert isinstance(made, Int4Dataset)
        assert set(xarray.open_dataset(store).coords) == {"time", "lat", "lon", "height"}
        assert len(made.quantized) == 1
    small = weather().lat.rename("small").drop_vars("lat") + 0
    assert small.int4.to_zarr(MemoryStore()).quantized == ["small"]


def test_a_pickle_is_the_same(folder: Path) -> None:
    found = xarray.open_dataset(folder)
    again = pickle.loads(pickle.dumps(found))
    assert not again.t2m.variable._in_memory
    xarray.testing.assert_identical(again.load(), found.load())


def test_many_stores_are_one_dataset(tmp_path: Path) -> None:
    for month in (1, 2):
        part = weather().sel(time=f"2001-{month:02}")[["msl"]]
        part.int4.to_zarr(tmp_path / f"{month}.zarr", value_range=(99_950, 100_050))
    found = xarray.open_mfdataset([tmp_path / "1.zarr", tmp_path / "2.zarr"], combine="by_coords")
    assert found.sizes["time"] == 59
    assert abs(found.msl - weather().msl).max() < 4
    xarray.testing.assert_equal(found.time, weather().time[:59])


@pytest.mark.slow
def test_workers_of_a_cluster_compute_with_it(folder: Path) -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        mean = xarray.open_dataset(folder, chunks={}).t2m.mean("time").compute()
    xarray.testing.assert_allclose(mean, xarray.open_dataset(folder).t2m.mean("time"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_xarrays_own_tests_of_backends_pass() -> None:
    if importlib.util.find_spec("xarray.tests") is None:
        pytest.skip("this xarray comes without its tests")
    file = Path(__file__).with_name("backends_of_xarray.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) >= 60
