"""Physical values: what a packed source stands for, as xarray reads it from the same file."""

import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import mostly_slow
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, measure_error, open_int4, plan, quantize_to_zarr, suggest, verify
from quantize.exceptions import DeclarationError, StoreError
from quantize.io import as_source
from quantize.io.attributes import encoded_fill, plain
from quantize.io.decoding import DecodedSource, decoded, decoding_of
from quantize.io.source import Source

COUNTS = np.random.default_rng(0).integers(-20000, 20000, (30, 40)).astype(np.int16)
PACKING = {"scale_factor": 0.01, "add_offset": 273.15}


def zarr_of(values: np.ndarray, **attributes: Any) -> Any:
    return zarr.create_array(MemoryStore(), data=values, chunks=(7, 11), attributes=attributes)


def values_of(source: Any, **how: Any) -> np.ndarray:
    return all_of(decoded(as_source(source), **how))


def all_of(opened: Source) -> np.ndarray:
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


@pytest.mark.parametrize("dtype", mostly_slow(["f4", "f8", "i2", "i4", "i8", "u1"], ["f4", "i2"]))
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
FORMS = ["hdf5", "zarr2", "zarr3", "xarray", "npy", "array", "dask"]
FREE = 120  # a number that every dtype has and none is drawn


class Drawn(NamedTuple):
    """A source: the numbers that it stores, what it says of them, which are masked, and how it is kept."""

    form: str
    numbers: np.ndarray
    said: dict[str, Any]
    mask: np.ndarray | None
    chunks: tuple[int, int]

    @property
    def taken(self) -> np.ndarray:
        """The numbers as they are taken, unsigned or not."""
        kind = {"true": "u", "false": "i"}.get(self.said.get("_Unsigned", ""), self.numbers.dtype.kind)
        return np.ascontiguousarray(self.numbers).view(f"{self.numbers.dtype.byteorder}{kind}{self.numbers.itemsize}")

    @property
    def invalid(self) -> np.ndarray:
        """What is missing by declarations that xarray passes over: text, and bounds, of which netCDF4 has the rule."""
        as_taken = {
            name: np.asarray(value, self.numbers.dtype).reshape(-1).view(self.taken.dtype)
            for name, value in self.said.items()
            if name in ("valid_range", "valid_min", "valid_max")
        }
        low, high = as_taken.get("valid_range", (as_taken.get("valid_min"), as_taken.get("valid_max")))
        found = np.zeros(self.numbers.shape, bool)
        if low is not None:
            found |= self.taken < low
        if high is not None:
            found |= self.taken > high
        if isinstance(self.said.get("missing_value"), str):
            found |= self.numbers == float(self.said["missing_value"])
        return found


@st.composite
def sources(draw: st.DrawFn) -> Drawn:
    form = draw(st.sampled_from(FORMS))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    low, high = (-100, 100) if dtype.kind != "u" else (0, 119)
    numbers = rng.integers(low, high, shape, endpoint=True).astype(dtype)
    if dtype.kind == "f" and draw(st.booleans()):
        numbers[rng.random(shape) < 0.2] = np.nan
    number = st.integers(low, high).map(dtype.type)
    said: dict[str, Any] = {}
    if form in FORMS[:4]:
        said = {"units": "K"} | draw(declarations(dtype, number))
        if form == "xarray" and isinstance(said.get("missing_value"), str):
            del said["missing_value"]  # which xarray does not open
        for fill in [said.get("_FillValue", []), said.get("missing_value", [])]:
            for one in np.ravel(np.asarray(fill, dtype)):
                numbers[rng.random(shape) < 0.2] = one
    mask = rng.random(shape) < draw(st.sampled_from([0, 0.3, 1])) if form in ("array", "dask") else None
    if form in ("hdf5", "npy"):
        numbers = numbers.astype(dtype.newbyteorder(draw(st.sampled_from("<>"))))
    return Drawn(form, numbers, said, mask, draw(st.tuples(*(st.integers(1, n) for n in shape))))


@st.composite
def declarations(draw: st.DrawFn, dtype: np.dtype[Any], number: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Attributes about numbers, as NumPy's numbers and arrays, or text."""
    said: dict[str, Any] = {}
    if draw(st.booleans()):
        said["_FillValue"] = draw(number)
    some = st.lists(number, min_size=2, max_size=3, unique=True).map(lambda many: np.array(many, dtype))
    if (missing := draw(st.none() | number | some | number.map(str))) is not None:
        said["missing_value"] = missing
    if draw(st.booleans()):
        bounds = sorted([draw(number), draw(number)])
        names = draw(st.sampled_from([["valid_range"], ["valid_min"], ["valid_max"], ["valid_min", "valid_max"]]))
        if names == ["valid_range"]:
            said["valid_range"] = np.array(bounds, dtype)
        else:
            said |= {name: bounds[name == "valid_max"] for name in names}
    if draw(st.booleans()):
        said["scale_factor"] = np.float64(draw(st.sampled_from([0.01, -0.5, 3.0])))
    if draw(st.booleans()):
        said["add_offset"] = np.float64(draw(st.sampled_from([-10.0, 273.15])))
    if dtype.kind == "i" and draw(st.booleans()):
        said["_Unsigned"] = draw(st.sampled_from(["true", "false"]))
        if said["_Unsigned"] == "true" and (np.asarray(said.get("missing_value", 0), float) < 0).any():
            del said["missing_value"]  # which netCDF4 takes as unsigned too, and xarray does not
    return said


def written(folder: Path, drawn: Drawn) -> Any:
    """The source, a file as NumPy, netCDF-4 or xarray writes it, or an array of a library."""
    numbers, said = drawn.numbers, dict(drawn.said)
    if drawn.form == "npy":
        np.save(folder / "x.npy", numbers)
        return str(folder / "x.npy")
    if drawn.form == "array":
        return np.ma.MaskedArray(numbers, drawn.mask)
    if drawn.form == "dask":
        return dask.array.from_array(np.ma.MaskedArray(numbers, drawn.mask), chunks=drawn.chunks, asarray=False)
    if drawn.form == "hdf5":
        with h5py.File(folder / "x.h5", "w") as file:
            made = file.create_dataset("x", data=numbers, chunks=drawn.chunks)
            made.attrs.update(
                {name: value if isinstance(value, str) else np.ravel(value) for name, value in said.items()}
            )
        return f"{folder}/x.h5::x"
    group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=2 if drawn.form == "zarr2" else 3)
    fill = said.pop("_FillValue", None)
    said = {name: plain(value) for name, value in said.items()}
    if drawn.form == "zarr2":
        more: dict[str, Any] = {"fill_value": fill}
        said["_ARRAY_DIMENSIONS"] = ["y", "x"]
    else:
        more = {"dimension_names": ("y", "x")}
        if fill is not None:
            said["_FillValue"] = encoded_fill(float(fill)) if numbers.dtype.kind == "f" else int(fill)
    more |= {"shape": numbers.shape, "dtype": numbers.dtype, "chunks": drawn.chunks}
    group.create_array("x", attributes=said, **more)[...] = numbers
    return f"{folder}/x.zarr/x"


def as_others_read(path: Any, drawn: Drawn) -> np.ndarray:
    """What NumPy, or xarray with h5py or Zarr, reads of it, as float64 with NaN for what is missing."""
    import xarray

    if drawn.form == "npy":
        return np.load(path).astype(np.float64)
    if drawn.mask is not None:
        return np.ma.MaskedArray(drawn.numbers, drawn.mask).astype(np.float64).filled(np.nan)
    if drawn.form == "hdf5":
        with h5py.File(path.partition("::")[0]) as file:
            # xarray's engines give one element as a number; of big-endian unsigned ones xarray takes others as missing
            said = {name: plain(value) for name, value in file["x"].attrs.items()}
            stored = xarray.Variable(("y", "x"), file["x"][...].astype(drawn.numbers.dtype.newbyteorder("=")), said)
    else:
        with xarray.open_zarr(path.rpartition("/")[0], consolidated=False, decode_cf=False) as opened:
            stored = opened["x"].variable.load()
    if isinstance(drawn.said.get("missing_value"), str):
        del stored.attrs["missing_value"]
    read = xarray.conventions.decode_cf_variable("x", stored, decode_times=False).values
    return np.where(drawn.invalid, np.nan, np.asarray(read).astype(np.float64))


def as_floats(values: np.ndarray, missing: Any) -> np.ndarray:
    """Values with NaN for what is missing."""
    found = values.astype(np.float64)
    return found if missing is None else np.where(values == missing, np.nan, found)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@settings(max_examples=40)
@given(sources(), st.booleans())
def test_sources_are_what_xarray_reads(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, floats: bool) -> None:
    """Values, and the levels that come back: missing where others have NaN, else within half a step."""
    xarray = pytest.importorskip("xarray")
    source = written(tmp_path_factory.mktemp("x"), drawn)
    expected = as_others_read(source, drawn)
    if drawn.form == "xarray":
        chunks = drawn.chunks[0] if floats else None
        source = xarray.open_zarr(source.rpartition("/")[0], chunks=chunks, consolidated=False, decode_times=False)["x"]
    how: dict[str, Any] = {"floats": floats}
    if drawn.mask is not None and drawn.numbers.dtype.kind in "iu":  # the masked array's own number is not one of i1
        how["missing"] = FREE
    found = decoded(as_source(source), **how).with_missing(how.get("missing"))
    values = as_floats(all_of(found), how.get("missing", found.missing))
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    largest = np.nanmax(np.abs(expected), initial=1.0)
    np.testing.assert_allclose(values, expected, rtol=0, atol=3e-7 * largest)
    try:
        array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", **how)
    except RefusedValuesError as refusal:
        assert "floats=True" in str(refusal)  # noqa: PT017
        array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", **{**how, "floats": True})
    restored = as_floats(array[...], array.missing if array.dtype.kind in "iu" else None)
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(expected))
    slack = 0.5 if array.dtype.kind != "f" else 4e-7 * largest
    assert np.nanmax(np.abs(restored - expected), initial=0.0) <= array.max_error * (1 + 1e-5) + slack


@pytest.mark.parametrize("chunks", [None, 9])
@pytest.mark.parametrize("factor", [0.01, -0.01])
def test_bounds_stay_of_the_stored_numbers_where_xarray_has_unpacked_them(chunks: int | None, factor: float) -> None:
    """As netCDF4 masks them in the same file."""
    xarray = pytest.importorskip("xarray")
    said = {"scale_factor": factor, "add_offset": 280.0, "_FillValue": np.int16(5)}
    for bounds in ({"valid_range": [-1000, 900]}, {"valid_min": -1000}, {"valid_max": 900}):
        stored = xarray.Dataset({"x": (("y", "x"), COUNTS, said | bounds)})
        decoded_one = xarray.decode_cf(stored.chunk(chunks) if chunks else stored)["x"]
        source = decoded_one if chunks else decoded_one.copy()
        low, high = bounds.get("valid_range", (bounds.get("valid_min", -32768), bounds.get("valid_max", 32767)))
        absent = ~np.isin(COUNTS, np.arange(low, high + 1)) | np.equal(COUNTS, 5)
        array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
        np.testing.assert_array_equal(np.isnan(array[...]), absent)
        assert array.attributes == {}
    source.attrs["valid_max"] = 900.5
    with pytest.raises(DeclarationError, match=r"valid_max = '900\.5 among the stored int16', which is not understood"):
        plan(source, MemoryStore())
    assert plan(source, MemoryStore(), missing=None).missing is None


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
