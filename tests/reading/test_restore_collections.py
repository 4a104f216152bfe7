"""The way back of whole collections: NetCDF, Zarr groups, safetensors."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from stores import files
from zarr.storage import MemoryStore

from quantize import DamagedChunkError, open_int4, quantize_dataset, quantize_to_zarr, restore
from quantize.io import collection_sink_of, sources_of
from quantize.io.sink import Contents, Outline

netCDF4 = pytest.importorskip("netCDF4")
xr = pytest.importorskip("xarray")

FIELD = np.random.default_rng(0).normal(280, 5, (6, 30, 40)).astype(np.float32)
FIELD[1, 2, 3] = np.nan
TIMES = np.arange("2000-01-01", "2000-01-07", dtype="M8[D]").astype("M8[ns]")


def weather() -> Any:
    """A tree of datasets, with all that CF has: packed times, truth values, texts, coordinates of two kinds, groups."""
    places = {"time": TIMES, "lat": ("lat", np.arange(30.0), {"units": "degrees_north"}), "lon": np.arange(40.0)}
    root = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), FIELD, {"units": "K", "long_name": "warmth ö"}),
            "land": (("lat", "lon"), np.tile([True, False], (30, 20))),
            "name": (("time",), np.array(["a", "bé", "", "d", "e", "f"], object)),
            "ids": (("time",), np.arange(6, dtype="u1"), {"flag_values": np.array([0, 255], "u1"), "none": []}),
        },
        {**places, "area": (("lat", "lon"), np.ones((30, 40))), "height": 2.0},
        {"title": "x", "sizes": [1, 2]},
    )
    deep = xr.Dataset({"salt": (("depth", "lat", "lon"), FIELD[:5] - 280)}, {"depth": np.arange(5)}, {"of": "sea"})
    return xr.DataTree.from_dict({"/": root, "/sea/deep": deep})


@pytest.fixture(scope="module")
def sealed() -> MemoryStore:
    store = MemoryStore()
    quantize_dataset(weather(), store, blocks=8)
    return store


@pytest.mark.parametrize(("name", "engine"), [("x.nc", "netcdf4"), ("x.zarr", "zarr")])
def test_xarray_opens_it_as_it_opened_the_source(tmp_path: Path, sealed: MemoryStore, name: str, engine: str) -> None:
    restore(sealed, tmp_path / name)
    dataset = open_int4(sealed)
    source = weather()
    with xr.open_datatree(tmp_path / name, engine=engine) as found:
        assert set(found.groups) == set(source.groups)
        for group in source.groups:
            one, other = source[group].to_dataset(), found[group].to_dataset()
            assert set(one.variables) == set(other.variables)
            assert set(one.coords) == set(other.coords)
            assert {**one.attrs, "sizes": None} == {**other.attrs, "sizes": None}
            for key, variable in one.variables.items():
                path = f"{group}/{key}".strip("/")
                assert other[key].dims == variable.dims
                assert other[key].attrs.get("units") == variable.attrs.get("units")
                assert other[key].attrs.get("long_name") == variable.attrs.get("long_name")
                if path in dataset.quantized:
                    np.testing.assert_array_equal(other[key], dataset[path][...])
                    assert other[key].dtype == np.float32
                else:
                    np.testing.assert_array_equal(other[key], variable)
                    assert other[key].dtype.kind == variable.dtype.kind or variable.dtype.kind == "O"
    assert [path.name for path in tmp_path.iterdir()] == [name]


CHECKPOINT = {
    "layers.0/w:ö": FIELD[0],
    "b_scale": np.arange(7, dtype=ml_dtypes.bfloat16),
    "wide": FIELD[0].astype(ml_dtypes.bfloat16),
    "logit": np.array(3.5),
    "none": np.zeros((0, 3), np.float16),
    "mask": np.array([True, False]),
    "eight": np.arange(5).astype(ml_dtypes.float8_e4m3fn),
    "ids": np.arange(300_000, dtype=np.int64),
    "pairs": np.array([1 + 2j], np.complex64),
}


def test_tensors_come_back_with_their_names(tmp_path: Path) -> None:
    store = MemoryStore()
    dataset = quantize_dataset(CHECKPOINT, store, select=["wide", "layers*"])
    restore(store, tmp_path / "x.safetensors")
    found = sources_of(tmp_path / "x.safetensors")
    assert set(found) == set(CHECKPOINT)
    for name, values in CHECKPOINT.items():
        raw = found.raw(name)
        assert raw.dtype == values.dtype
        got = raw.read(tuple(slice(0, n) for n in raw.shape))
        expected = dataset[name][...] if name in dataset.quantized else values
        assert got.tobytes() == np.asarray(expected).tobytes()


def test_the_header_of_tensors_says_what_the_source_did(tmp_path: Path) -> None:
    outline = Outline((2, 3), np.dtype("f4"), (2, 3))
    sink = collection_sink_of("x.safetensors")
    with sink.open(tmp_path / "x.safetensors", Contents({("a",): outline}, {(): {"format": "pt", "steps": 3}})) as put:
        put(("a",))((slice(0, 2), slice(0, 3)), np.ones((2, 3), "f4"))
    assert sources_of(tmp_path / "x.safetensors").attributes == {"": {"format": "pt", "steps": "3"}}
    data = (tmp_path / "x.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert data[-24:] == np.ones(6, "<f4").tobytes()


@pytest.mark.parametrize(
    ("values", "name", "said"),
    [
        ({"a/b": FIELD[0]}, "x.nc", "'a/b'"),
        ({"a/b": FIELD[0]}, "x.zarr", "'a/b'"),
        ({"..": FIELD[0]}, "x", r"'\.\.'"),
        ({"z": np.ones(3, complex)}, "x.nc", "z is of dtype complex128, which NetCDF does not have"),
        ({"z": np.array(["a"], object)}, "x.safetensors", "z is of dtype text, which .safetensors files do not have"),
        ({"z": TIMES}, "x.safetensors", "z is of dtype datetime64"),
        ({"a": FIELD[0]}, "x.npy", r"x.npy ends with .npy, but .* ends with .*\.safetensors"),
        ({"a": FIELD[0]}, "x.h5", r"x.h5 ends with .h5"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_first(tmp_path: Path, values: Any, name: str, said: str) -> None:
    store = MemoryStore()
    quantize_dataset(values, store)
    with pytest.raises(ValueError, match=said):
        restore(store, tmp_path / name)
    assert files(tmp_path) == {}


def test_one_variable_of_a_collection(tmp_path: Path, sealed: MemoryStore) -> None:
    dataset = open_int4(sealed)
    restore(sealed, tmp_path / "salt.npy", "sea/deep/salt")
    np.testing.assert_array_equal(np.load(tmp_path / "salt.npy"), dataset["sea/deep/salt"][...])
    restore(sealed, tmp_path / "area.npy", "area")
    np.testing.assert_array_equal(np.load(tmp_path / "area.npy"), np.ones((30, 40)))
    restore(sealed, tmp_path / "salt.nc", "sea/deep/salt")
    with xr.open_dataset(tmp_path / "salt.nc", engine="netcdf4") as found:
        assert list(found.data_vars) == ["salt"]
        np.testing.assert_array_equal(found["salt"], dataset["sea/deep/salt"][...])
    with pytest.raises(ValueError, match="name is kept, and of dtype object"):
        restore(sealed, tmp_path / "name.npy", "name")


def test_one_variable_of_a_store_without_a_collection(tmp_path: Path) -> None:
    array = quantize_to_zarr(FIELD[0], MemoryStore())
    restore(array.variable.keys.store, tmp_path / "x.safetensors")
    (name,) = sources_of(tmp_path / "x.safetensors")
    assert name == "data"


@pytest.mark.parametrize("name", ["x.nc", "x.zarr", "x.safetensors"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    store = MemoryStore()
    quantize_dataset({"a": FIELD[0], "b": np.arange(5)}, store)
    restore(store, tmp_path / name)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        restore(store, tmp_path / name)
    restore(store, tmp_path / name, overwrite=True)
    again = files(tmp_path)
    assert set(again) == set(before)
    key = next(key for key in store._store_dict if key.startswith("b/c/"))
    del store._store_dict[key]
    with pytest.raises(DamagedChunkError, match="b/c/0 is damaged: it is missing"):
        restore(store, tmp_path / name, overwrite=True)
    assert files(tmp_path) == again


def test_only_what_was_restored_is_replaced(tmp_path: Path) -> None:
    quantize_dataset({"a": FIELD[0], "b": np.arange(5)}, tmp_path / "x.zarr")
    zarr.create_group(tmp_path / "mine.zarr").create_array("a", data=FIELD[0])
    before = files(tmp_path)
    for name in ("x.zarr", "mine.zarr"):
        with pytest.raises(FileExistsError, match="nothing replaces it"):
            restore(tmp_path / "x.zarr", tmp_path / name, overwrite=True)
    assert files(tmp_path) == before


def test_progress_is_one_phase(tmp_path: Path, sealed: MemoryStore) -> None:
    events: list[Any] = []
    restore(sealed, tmp_path / "x.nc", progress=events.append)
    assert {event.phase for event in events} == {"restore"}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert {event.total for event in events} == {events[-1].done}


def test_dimensions_of_netcdf(tmp_path: Path) -> None:
    """Names that are there twice, of two lengths, of none, and a variable called as a dimension of others."""
    one = Outline((2, 2), np.dtype("f4"), (2, 2), dimension_names=("x", "x"))
    two = Outline((3,), np.dtype("S4"), (3,), dimension_names=("x",))
    x = Outline((2, 5), np.dtype("i4"), (2, 5), dimension_names=("x", None))
    zero = Outline((0,), np.dtype("i8"), (1,), dimension_names=("empty",))
    outlines = {("a",): one, ("b",): two, ("x",): x, ("g", "a"): one, ("g", "zero"): zero}
    sink = collection_sink_of("x.nc")
    with sink.open(tmp_path / "x.nc", Contents(outlines, {("g",): {"empty": ""}})) as put:
        put(("a",))((slice(0, 2), slice(0, 2)), np.ones((2, 2), "f4"))
        put(("b",))((slice(0, 3),), np.array([b"ab", b"", b"wxyz"]))
        put(("x",))((slice(0, 2), slice(0, 5)), np.ones((2, 5), "i4"))
    with netCDF4.Dataset(tmp_path / "x.nc") as file:
        assert set(file.variables) == {"a", "b", "x"}
        assert file["a"].dimensions == ("x", "x_2")
        assert netCDF4.chartostring(file["b"][...]).tolist() == ["ab", "", "wxyz"]
        assert file["x"][...].sum() == 10
        assert file["g"]["a"].dimensions == ("x", "x_2")
        assert file["g"]["zero"].shape == (0,)
        assert set(file["g"].dimensions) == {"empty"}
        assert file["g"].empty == ""
