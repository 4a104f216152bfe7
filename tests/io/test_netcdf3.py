"""netCDF-3: what the library of netCDF wrote is read where it lies, and decoded as xarray decodes it."""

import pickle
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import check, field
from zarr.storage import MemoryStore

from quantize import SourceChangedError, SourceError, quantize_to_zarr
from quantize.io import as_source, sources_of
from quantize.io.decoding import decoded
from quantize.io.formats import netcdf3

FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET")
VALUES = field((7, 3, 5))
PACKED = np.arange(105, dtype="i2").reshape(7, 3, 5)
CODES = np.array([b"ab", b"", b"xyz"], "S3").view("S1").reshape(3, 3)


def written(path: Path, kind: str = FORMATS[0]) -> Path:
    """Variables with records and without, of dtypes whose records are padded."""
    with netCDF4.Dataset(path, "w", format=kind) as file:
        for name, length in {"time": None, "lat": 3, "lon": 5, "strlen": 3}.items():
            file.createDimension(name, length)
        file.title, file.empty = "A file", ""
        for name, dtype, dimensions, values in (
            ("time", "f8", ("time",), np.arange(7.0)),
            ("lat", "f4", ("lat",), np.array([50, 51, 52.5])),
            ("small", "i1", ("time", "lat"), PACKED[:, :, 0]),
            ("t", "f4", ("time", "lat", "lon"), VALUES),
            ("code", "S1", ("lat", "strlen"), CODES),
            ("height", "f8", (), 2.0),
            ("fixed", "f4", ("lat", "lon"), VALUES[0]),
        ):
            file.createVariable(name, dtype, dimensions)[...] = values
        packed = file.createVariable("packed", "i2", ("time", "lat", "lon"), fill_value=7)
        packed.setncatts({"scale_factor": 0.5, "add_offset": 10.0, "units": "K"})
        packed.set_auto_maskandscale(False)
        packed[...] = PACKED
        file["time"].units = "days since 2000-01-01"
    return path


def whole(array: Any) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in array.shape)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_variables_as_they_are_stored(tmp_path: Path, kind: str) -> None:
    arrays = sources_of(written(tmp_path / "x.nc", kind))
    with netCDF4.Dataset(tmp_path / "x.nc") as file:
        file.set_auto_mask(False)
        file.set_auto_scale(False)
        file.set_auto_chartostring(False)
        assert list(arrays) == sorted(file.variables)
        for name, expected in file.variables.items():
            raw = arrays.raw(name)
            assert (raw.shape, raw.dimension_names or ()) == (expected.shape, expected.dimensions)
            assert raw.attributes == {key: expected.getncattr(key) for key in expected.ncattrs()}
            np.testing.assert_array_equal(raw.read(whole(raw)), expected[...], strict=True)
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(raw)).read(whole(raw)), expected[...])
    assert arrays.attributes == {"": {"title": "A file", "empty": ""}}
    assert not arrays.nested


def test_what_is_decoded_is_what_xarray_decodes(tmp_path: Path) -> None:
    path = written(tmp_path / "x.nc")
    with xarray.open_dataset(path, engine="netcdf4") as expected:
        for name in ("packed", "t", "fixed", "lat"):
            source = decoded(as_source(path, name))
            np.testing.assert_allclose(source.read(whole(source)), expected[name].values, rtol=1e-6)
            assert source.dimension_names == expected[name].dims
    assert np.isnan(decoded(as_source(path, "packed")).read(whole(PACKED))).sum() == 1


@pytest.mark.parametrize(("gap", "piece"), [(0, 100), (1000, 100), (1000, 250)], ids=["runs", "records", "several"])
@pytest.mark.parametrize("name", ["t", "fixed", "time", "small"])
@settings(max_examples=5)
@given(data=st.data())
def test_any_region(
    tmp_path_factory: pytest.TempPathFactory, name: str, gap: int, piece: int, data: st.DataObject
) -> None:
    """Record by record, and all records together, one or several at once."""
    path = tmp_path_factory.getbasetemp() / "regions.nc"
    source = as_source(path if path.exists() else written(path), name)
    expected = {"t": VALUES, "fixed": VALUES[0], "time": np.arange(7.0), "small": PACKED[:, :, 0]}[name]
    region = []
    for n in source.shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netcdf3, "GAP_BYTES", gap)
        patch.setattr(netcdf3, "PIECE_BYTES", piece)
        for one in (source, pickle.loads(pickle.dumps(source))):
            np.testing.assert_array_equal(one.read(tuple(region)), expected[tuple(region)])
    covered = np.zeros(source.shape, int)
    for piece in source.pieces(tuple(region)):
        covered[piece] += 1
    assert (covered[tuple(region)] == 1).all()


def test_a_file_with_one_variable_of_records_has_no_padding(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w", format=FORMATS[0]) as file:
        file.createDimension("time", None)
        file.createDimension("lat", 3)
        file.createVariable("x", "i1", ("time", "lat"))[...] = PACKED[:, :, 0]
    np.testing.assert_array_equal(as_source(tmp_path / "x.nc").read(whole(PACKED[:, :, 0])), PACKED[:, :, 0])


@pytest.mark.parametrize("name", ["t", "fixed"])
def test_out_of_core(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.nc")
    check(quantize_to_zarr(f"{path}::{name}", MemoryStore()), VALUES if name == "t" else VALUES[0])


@pytest.mark.parametrize(("width", "name"), [(50_000, "a"), (50_000, "fixed"), (500, "a")])
def test_a_piece_takes_the_memory_of_a_piece(tmp_path: Path, width: int, name: str) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w", format=FORMATS[1]) as file:
        file.createDimension("time", None)
        file.createDimension("x", width)
        file.createDimension("y", 5_000_000 // width)
        file.createVariable("fixed", "f4", ("y", "x"))[...] = 1
        for other in "ab":
            file.createVariable(other, "f4", ("time", "x"))[...] = np.ones((5_000_000 // width, width), "f4")
    sources_of(tmp_path / "x.nc")  # which imports scipy
    tracemalloc.start()
    try:
        source = sources_of(tmp_path / "x.nc")[name]
        read = sum(source.read(piece).size for piece in source.pieces(whole(source)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == 5_000_000
    assert peak < source.memory(source.shape) + (1 << 20) < 4 * read / 2


def test_no_records(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w", format=FORMATS[0]) as file:
        file.createDimension("time", None)
        file.createVariable("x", "f4", ("time",))
    raw = sources_of(tmp_path / "x.nc").raw("x")
    assert raw.read(whole(raw)).shape == (0,)
    with pytest.raises(ValueError, match=r"x.nc::x has shape \(0,\) and so no values"):
        as_source(tmp_path / "x.nc")


def test_a_file_that_was_cut_is_refused_at_any_length(tmp_path: Path) -> None:
    """The library of netCDF itself gives zeros."""
    data = written(tmp_path / "x.nc").read_bytes()
    for length in [*range(4, len(data) - 4, 37), len(data) - 8]:
        (tmp_path / "cut.nc").write_bytes(data[:length])
        with pytest.raises(SourceError, match=r"cut.nc is no whole netCDF-3 file, but cut or damaged"):
            sources_of(tmp_path / "cut.nc")


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    arrays = sources_of(written(tmp_path / "x.nc"))
    raw, source = arrays.raw("t"), arrays["t"]
    with open(tmp_path / "x.nc", "r+b") as file:
        file.truncate(file.seek(0, 2) - 100)
    for one in (raw, source):
        with pytest.raises(SourceChangedError, match=r"x.nc ended at byte"):
            one.read(whole(one))


def test_lengths_in_a_header_lead_nowhere_else(tmp_path: Path) -> None:
    """Any byte of the header may be wrong: there is an error of ours, or what is read has the shape that is said."""
    data = bytearray(written(tmp_path / "x.nc").read_bytes())
    for place in range(4, 800, 3):
        wrong = data.copy()
        wrong[place] ^= 0x80
        (tmp_path / "wrong.nc").write_bytes(wrong)
        try:
            arrays = sources_of(tmp_path / "wrong.nc")
            for name in arrays:
                raw = arrays.raw(name)
                assert raw.read(whole(raw)).shape == raw.shape
        except SourceError:
            pass


def test_without_scipy_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.nc")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        SourceError, match=r"x.nc is a netCDF-3 file; reading it needs scipy: pip install \"quantize\[netcdf\]\""
    ):
        as_source(path)
