"""Physical values: what a packed source stands for, as xarray reads it from the same file."""

import math
import pickle
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, measure_error, open_int4, plan, quantize_to_zarr, suggest, verify
from quantize.exceptions import DeclarationError, StoreError
from quantize.io import as_source
from quantize.io.attributes import encoded_fill
from quantize.io.decoding import DecodedSource, decoded, decoding_of

COUNTS = np.random.default_rng(0).integers(-20000, 20000, (30, 40)).astype(np.int16)
PACKING = {"scale_factor": 0.01, "add_offset": 273.15}


def zarr_of(values: np.ndarray, **attributes: Any) -> Any:
    return zarr.create_array(MemoryStore(), data=values, chunks=(7, 11), attributes=attributes)


def values_of(source: Any, **how: Any) -> np.ndarray:
    opened = decoded(as_source(source), **how)
    out = np.empty(opened.shape, opened.dtype)
    for piece in opened.pieces(tuple(slice(0, n) for n in opened.shape)):
        out[piece] = opened.read(piece)
    return out


def test_packed_values_are_physical_ones() -> None:
    source = zarr_of(COUNTS, **PACKING, units="K")
    expected = (COUNTS * 0.01 + 273.15).astype(np.float32)
    np.testing.assert_array_equal(values_of(source), expected)
    store = MemoryStore()
    array = quantize_to_zarr(source, store)
    assert (array.dtype, array.attributes) == (np.float32, {"units": "K"})
    assert np.abs(array[...] - expected).max() <= array.max_error * (1 + 1e-5) + 1e-4
    assert array.scale == pytest.approx(np.ptp(COUNTS.astype(float)) * 0.01 / 15, rel=1e-6)
    said = str(plan(source, MemoryStore()))
    assert (
        "physical values: the stored int16 * 0.01 + 273.15, as float32; decode=False, or --raw, takes the stored "
        "numbers" in said
    )
    assert verify(store, source=source).ok
    assert measure_error(source, store).within_bound
    assert quantize_to_zarr(source, store).scale == array.scale  # finished already


def test_the_stored_numbers_on_request() -> None:
    source = zarr_of(COUNTS, **PACKING, _FillValue=-32768)
    store = MemoryStore()
    array = quantize_to_zarr(source, store, decode=False)
    assert (array.dtype, array.attributes) == (np.int16, {**PACKING, "_FillValue": -32768})
    assert np.abs(array[...].astype(float) - COUNTS).max() <= array.max_error * (1 + 1e-5) + 0.5
    assert verify(store, source=source).ok
    with pytest.raises(StoreError, match="dtype was int16 and is float32"):
        quantize_to_zarr(source, store)


def test_another_packing_is_another_job() -> None:
    store = MemoryStore()
    quantize_to_zarr(zarr_of(COUNTS, **PACKING), store)
    other = zarr_of(COUNTS, **{**PACKING, "scale_factor": 0.02})
    with pytest.raises(StoreError, match=r"scale_factor was 0.01 and is 0.02"):
        quantize_to_zarr(other, store)
    assert not verify(store, source=other).ok


@pytest.mark.parametrize(
    ("dtype", "packing", "result"),
    [
        ("i1", {"scale_factor": 0.5}, "f4"),
        ("u2", {"scale_factor": 1e-30}, "f4"),
        ("i2", {"scale_factor": 0.1, "add_offset": 1e5}, "f4"),
        ("i2", {"scale_factor": 1e-6, "add_offset": 1e5}, "f8"),
        ("i2", {"add_offset": 1e9}, "f8"),
        ("i2", {"scale_factor": 1e36}, "f8"),
        ("i2", {"scale_factor": 1e-44}, "f8"),
        ("i4", {"scale_factor": 0.1}, "f8"),
        ("i8", {"scale_factor": 0.1}, "f8"),
        ("f2", {"scale_factor": 0.1}, "f4"),
        ("f4", {"scale_factor": 0.1}, "f4"),
        ("f8", {"add_offset": 0.1}, "f8"),
        ("i2", {"scale_factor": 1, "add_offset": 0}, "i2"),
    ],
    ids=str,
)
def test_float32_only_where_it_tells_all_numbers_apart(dtype: str, packing: dict[str, Any], result: str) -> None:
    source = decoded(as_source(zarr_of(COUNTS.astype(dtype), **packing)))
    assert source.dtype == result
    if dtype == "i2" and source.dtype != dtype:
        every = np.arange(-32768, 32768).astype("i2")
        found = source.decoding.apply(every)  # type: ignore[attr-defined]
        assert len(np.unique(found)) == every.size


def test_unsigned_integers() -> None:
    numbers = np.array([[0, 40000, 65534], [65535, 1, 2]], "u2")
    attributes = {"_Unsigned": "true", "_FillValue": -1}
    source = zarr_of(numbers.view("i2"), **attributes)
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    assert (array.dtype, array.missing, array.attributes) == (np.uint16, 65535, {"_FillValue": 65535})
    assert np.abs(array[...].astype(float) - numbers).max() <= array.max_error * (1 + 1e-5) + 0.5
    assert (array[...] == 65535).tolist() == [[False] * 3, [True, False, False]]
    raw = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", decode=False)
    assert (raw.dtype, raw.missing) == (np.int16, -1)
    np.testing.assert_array_equal(raw[...] == -1, numbers == 65535)
    for asked in (-2, 65534):
        named = values_of(source, missing=asked, floats=True)
        np.testing.assert_array_equal(np.isnan(named), numbers == 65534)
    packed = values_of(zarr_of(numbers.view("i2"), scale_factor=2.0, valid_range=[0, -2], **attributes))
    np.testing.assert_array_equal(packed, np.where(numbers == 65535, np.nan, numbers * np.float32(2)))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4", "i8", "u1"])
def test_several_missing_values_and_bounds(dtype: str) -> None:
    numbers = np.arange(120).reshape(10, 12).astype(dtype)
    absent = (numbers == 50) | (numbers == 60) | (numbers < 10) | (numbers > 100)
    source = zarr_of(numbers, _FillValue=60.0, missing_value=["50"], valid_range=[10, 100], units="m")
    with pytest.raises(RefusedValuesError, match=r"missing are: 60.*, 50.*, what is below 10.*, what is above 100"):
        quantize_to_zarr(source, MemoryStore())
    store = MemoryStore()
    array = quantize_to_zarr(source, store, nan_policy="propagate")
    found = array[...]
    missing = np.isnan(found) if dtype[0] == "f" else found == 60
    np.testing.assert_array_equal(missing, absent)
    assert array.dtype == dtype
    assert array.attributes == ({"units": "m"} if dtype[0] == "f" else {"units": "m", "_FillValue": 60})
    assert array.metadata.statistics is not None
    assert (array.metadata.statistics["min"], array.metadata.statistics["max"]) == (10, 100)
    assert verify(store, source=source).ok
    assert measure_error(source, store).missing == absent.sum()
    as_floats = values_of(source, floats=True)
    np.testing.assert_array_equal(np.isnan(as_floats), absent)
    np.testing.assert_array_equal(values_of(source, missing=None), numbers)


def test_bounds_alone_give_integers_a_missing_value() -> None:
    numbers = np.arange(100, dtype="i2").reshape(4, 25)
    for bounds, filler in (({"valid_min": 5}, -32768), ({"valid_max": 90}, 32767)):
        array = quantize_to_zarr(zarr_of(numbers, **bounds), MemoryStore(), nan_policy="propagate")
        assert array.missing == filler
        absent = numbers < 5 if "valid_min" in bounds else numbers > 90
        np.testing.assert_array_equal(array[...] == filler, absent)


def test_what_is_not_understood_is_refused_before_anything_is_made() -> None:
    store = MemoryStore()
    ways: list[Any] = [({"missing_value": "many"}, {"missing": None}), ({"scale_factor": "many"}, {"decode": False})]
    for attributes, way in ways:
        source = zarr_of(COUNTS, **attributes)
        for call in (plan, quantize_to_zarr):
            with pytest.raises(DeclarationError, match="which is not understood"):
                call(source, store)
        with pytest.raises(DeclarationError, match="which is not understood"):
            suggest(source)
        assert store._store_dict == {}
        quantize_to_zarr(source, MemoryStore(), **way)


def test_every_source_is_decoded(tmp_path: Path) -> None:
    attributes = {**PACKING, "_FillValue": np.int16(-32768)}
    numbers = COUNTS.copy()
    numbers[3] = -32768
    expected = np.where(numbers == -32768, np.nan, (numbers * 0.01 + 273.15).astype(np.float32))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for order in "<>":
            made = file.create_dataset(f"x{order}", data=numbers.astype(f"{order}i2"), chunks=(8, 8))
            made.attrs.update(attributes)

    class Duck:
        shape, dtype, attrs = numbers.shape, numbers.dtype, attributes

        def __getitem__(self, region: Any) -> np.ndarray:
            return numbers[region]

    lazy = dask_source(numbers, attributes)
    for source in (f"{tmp_path}/x.h5::x<", f"{tmp_path}/x.h5::x>", Duck(), lazy):
        array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", chunks=(9, 16))
        found = array[...]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        assert np.nanmax(np.abs(found - expected)) <= array.max_error * (1 + 1e-5) + 1e-4


def dask_source(numbers: np.ndarray, attributes: dict[str, Any]) -> Any:
    from quantize.io.attributes import plain
    from quantize.io.formats.dask import DaskSource

    said = {name: plain(value) for name, value in attributes.items()}
    return DaskSource(dask.array.from_array(numbers, chunks=(8, 8)), said)


def test_a_decoded_source_travels_and_says_what_it_holds() -> None:
    source = decoded(as_source(zarr_of(COUNTS, **PACKING)))
    assert isinstance(source, DecodedSource)
    assert decoded(source) is source
    there = pickle.loads(pickle.dumps(source.decoding))
    assert there == source.decoding
    assert len(pickle.dumps(source.decoding)) < 2000  # no table
    assert source.digest() == as_source(zarr_of(COUNTS)).digest()
    unit = (30, 40)
    assert source.memory(unit) >= source.source.memory(unit) + COUNTS.size * 4


def test_commands_read_a_source_as_it_was_read() -> None:
    source = zarr_of(COUNTS, **PACKING, _FillValue=-32768)
    hows: list[Any] = [({}, ""), ({"decode": False}, " --raw"), ({"missing": 5}, " --missing 5")]
    for how, option in hows:
        command = suggest(source, **how).recommended.command
        assert command.endswith(option)
        assert ("--raw" in command, "--missing" in command) == ("raw" in option, "missing" in option)


# As xarray reads the same ---------------------------------------------------------------------------------------------

DTYPES = ["i1", "u1", "i2", "u2", "i4", "f4", "f8"]


@st.composite
def variables(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any], bool]:
    """Stored numbers, what is said of them, and whether integers are to become floats."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    low, high = (-100, 100) if dtype.kind != "u" else (0, 200)
    numbers = rng.integers(low, high, shape).astype(dtype)
    attributes: dict[str, Any] = {"units": "K"}
    fills = draw(st.lists(st.integers(low, high), max_size=2, unique=True))
    names = draw(st.permutations(["_FillValue", "missing_value"]))
    attributes |= {name: dtype.type(fill) for name, fill in zip(names, fills, strict=False)}
    for fill in fills:
        numbers[rng.random(shape) < 0.2] = fill
    if draw(st.booleans()):
        attributes["scale_factor"] = draw(st.sampled_from([0.01, 0.5, 3.0]))
        if draw(st.booleans()):
            attributes["add_offset"] = draw(st.sampled_from([-10.0, 273.15]))
    if dtype.kind == "i" and draw(st.booleans()):
        attributes["_Unsigned"] = draw(st.sampled_from(["true", "false"]))
        if attributes["_Unsigned"] == "true" and attributes.get("missing_value", 0) < 0:
            del attributes["missing_value"]  # which netCDF4 takes as unsigned too, and xarray does not
    return numbers, attributes, draw(st.booleans())


def written(folder: Path, form: str, numbers: np.ndarray, attributes: dict[str, Any], chunks: tuple[int, int]) -> str:
    """A file as netCDF-4 or xarray writes it."""
    if form == "hdf5":
        with h5py.File(folder / "x.h5", "w") as file:
            made = file.create_dataset("x", data=numbers, chunks=chunks)
            for name, value in attributes.items():
                made.attrs[name] = value if isinstance(value, str) else np.array([value])
        return f"{folder}/x.h5::x"
    version = 2 if form == "zarr2" else 3
    group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=version)
    fill = attributes.pop("_FillValue", None)
    said = {name: value.item() if isinstance(value, np.generic) else value for name, value in attributes.items()}
    if version == 2:
        more: dict[str, Any] = {"fill_value": fill}
        said["_ARRAY_DIMENSIONS"] = ["y", "x"]
    else:
        more = {"dimension_names": ("y", "x")}
        if fill is not None:
            said["_FillValue"] = encoded_fill(float(fill)) if numbers.dtype.kind == "f" else int(fill)
    array = group.create_array("x", shape=numbers.shape, dtype=numbers.dtype, chunks=chunks, attributes=said, **more)
    array[...] = numbers
    return f"{folder}/x.zarr/x"


def as_xarray_reads(path: str) -> np.ndarray:
    import xarray

    if ".h5" not in path:
        with xarray.open_zarr(path.rpartition("/")[0], consolidated=False, decode_times=False) as opened:
            return np.asarray(opened["x"].values)
    with h5py.File(path.partition("::")[0]) as file:
        # xarray's engines give one element as a number
        said = {name: value if isinstance(value, str) else value[0] for name, value in file["x"].attrs.items()}
        stored = xarray.Variable(("y", "x"), file["x"][...], said)
    return np.asarray(xarray.conventions.decode_cf_variable("x", stored, decode_times=False).values)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@settings(max_examples=40)
@given(variables(), st.sampled_from(["hdf5", "zarr2", "zarr3"]), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_sources_are_what_xarray_reads(
    tmp_path_factory: pytest.TempPathFactory,
    variable: tuple[np.ndarray, dict[str, Any], bool],
    form: str,
    box: tuple[int, int],
) -> None:
    pytest.importorskip("xarray")
    numbers, attributes, floats = variable
    chunks = (min(box[0], numbers.shape[0]), min(box[1], numbers.shape[1]))
    path = written(tmp_path_factory.mktemp("x"), form, numbers, dict(attributes), chunks)
    expected = as_xarray_reads(path).astype(np.float64)
    found = decoded(as_source(path), floats=floats)
    values = values_of(path, floats=floats)
    if values.dtype.kind != "f":
        absent = np.zeros(values.shape, bool) if found.missing is None else values == found.missing
        values = np.where(absent, np.nan, values.astype(np.float64))
    elif found.missing is not None:
        values = np.where(values == found.missing, np.nan, values)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    largest = np.nanmax(np.abs(expected), initial=1.0)
    np.testing.assert_allclose(values, expected, rtol=0, atol=3e-7 * largest)
    try:
        array = quantize_to_zarr(path, MemoryStore(), nan_policy="propagate", floats=floats)
    except RefusedValuesError as refusal:
        assert "floats=True" in str(refusal)  # noqa: PT017
        array = quantize_to_zarr(path, MemoryStore(), nan_policy="propagate", floats=True)
    restored = array[...].astype(np.float64)
    if array.dtype.kind != "f" and array.missing is not None:
        restored[restored == array.missing] = np.nan
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(expected))
    slack = 0.5 if array.dtype.kind != "f" else 4e-7 * largest
    assert np.nanmax(np.abs(restored - expected), initial=0.0) <= array.max_error * (1 + 1e-5) + slack


@pytest.mark.parametrize("version", [2, 3])
def test_what_xarray_writes(tmp_path: Path, version: int) -> None:
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(280, 5, (40, 60)).astype(np.float32)
    sst = xarray.DataArray(values, dims=("y", "x"), name="sst").where(values < 285)
    encoding = {"sst": {"_FillValue": np.float32(-9999)}}
    sst.to_dataset().to_zarr(tmp_path / "p", zarr_format=version, encoding=encoding, consolidated=False)
    assert plan(f"{tmp_path}/p/sst", tmp_path / "s").missing == -9999
    with pytest.raises(RefusedValuesError, match="declared value -9999"):
        quantize_to_zarr(f"{tmp_path}/p/sst", tmp_path / "s")
    quantize_to_zarr(f"{tmp_path}/p/sst", tmp_path / "s", nan_policy="propagate")
    array = open_int4(tmp_path / "s")
    np.testing.assert_array_equal(np.isnan(array[...]), ~(values < 285))
    assert array.dimension_names == ("y", "x")
    assert array.scale < 5


def test_plain_zarr_of_version_2_has_no_missing_value() -> None:
    group = zarr.create_group(MemoryStore(), zarr_format=2)
    plainly = group.create_array("a", shape=(4, 5), dtype="i2", chunks=(4, 5))
    plainly[...] = np.arange(20).reshape(4, 5)
    assert plan(plainly, MemoryStore()).missing is None
    filled = group.create_array("b", shape=(4, 5), dtype="i2", chunks=(4, 5), fill_value=-9)
    filled[...] = np.arange(20).reshape(4, 5)
    planned = plan(filled, MemoryStore())
    assert planned.missing is None
    assert "the fill value -9 of this Zarr array is not taken as missing" in str(planned)
    said = {"_ARRAY_DIMENSIONS": ["y", "x"]}
    dims = group.create_array("c", shape=(4, 5), dtype="i2", chunks=(4, 5), fill_value=0, attributes=said)
    dims[...] = np.arange(20).reshape(4, 5)
    planned = plan(dims, MemoryStore())
    assert planned.missing == 0
    assert "xarray reads as missing" in str(planned)


def test_infinity_as_missing_value() -> None:
    values = np.array([[1.0, math.inf, 3.0]])
    source = zarr_of(np.repeat(values, 7, 0), _FillValue=encoded_fill(math.inf))
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    assert np.isnan(array[0, 1])
    assert array[0, 2] == 3


def test_names_of_decodings() -> None:
    decoding = decoding_of({"scale_factor": 2.0, "add_offset": -1.5, "missing_value": [3, 4]}, np.dtype("u1"), "x")
    assert decoding is not None
    assert decoding.notes == (
        "physical values: the stored uint8 * 2 - 1.5, as float32; decode=False, or --raw, takes the stored numbers",
        "missing, and NaN in the result: 3, 4",
    )
    assert decoding_of({"_FillValue": 3}, np.dtype("u1"), "x") is None
