"""Formats, ours and those of other packages: which takes a thing, and all the arrays that it finds in it."""

import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from stores import Counting, check, field
from zarr.storage import LocalStore, MemoryStore

from quantize import SourceError, io, plan, quantize_to_zarr
from quantize.io import KINDS, as_source, sink_of, sources_of
from quantize.io.arrays import Arrays
from quantize.io.sink import Sink

VALUES = field((13, 10, 7))
WHOLE = tuple(slice(0, n) for n in VALUES.shape)


# All arrays of a thing ------------------------------------------------------------------------------------------------


def zarr_group(folder: Path) -> Path:
    group = zarr.create_group(folder / "g.zarr")
    group.create_array("wind/t", data=VALUES)
    group.create_array("wind/high/u", data=VALUES[0])
    group.create_array("name", data=np.array([True, False]))
    return folder / "g.zarr"


def hdf5_file(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["wind/t"], file["wind/high/u"] = VALUES, VALUES[0]
        file["name"] = np.array([True, False])
        file["alias"] = h5py.SoftLink("/wind/high")
    return folder / "x.h5"


TREES = {
    "Zarr": zarr_group,
    "Zarr group": lambda folder: zarr.open_group(zarr_group(folder), mode="r"),
    "HDF5": hdf5_file,
    "HDF5 file": lambda folder: h5py.File(hdf5_file(folder), "r"),
}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_a_tree_gives_all_its_arrays_and_opens_those_that_are_asked_for(tmp_path: Path, make: Any) -> None:
    arrays = sources_of(make(tmp_path))
    assert list(arrays) == ["name", "wind/high/u", "wind/t"]
    np.testing.assert_array_equal(arrays["wind/t"].read(WHOLE), VALUES)
    assert arrays["wind/high/u"].shape == (10, 7)
    with pytest.raises(TypeError, match="integer"):
        arrays["name"]
    with pytest.raises(KeyError):
        arrays["wind"]


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
@pytest.mark.parametrize("name", ["wind/t", "/wind/t/"])
def test_one_array_by_its_name(tmp_path: Path, make: Any, name: str) -> None:
    thing = make(tmp_path)
    np.testing.assert_array_equal(as_source(thing, name).read(WHOLE), VALUES)
    assert as_source(thing, "wind/high").shape == (10, 7)
    with pytest.raises(ValueError, match=r"no (array|dataset) 'wind/v'; it holds name, wind/high/u, wind/t"):
        as_source(thing, "wind/v")
    with pytest.raises(ValueError, match=r"several arrays: high/u .*, t .* Name one, as in .*/wind/high/u"):
        as_source(thing, "wind")


@pytest.mark.parametrize("make", [zarr_group, hdf5_file])
def test_a_name_after_the_path(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    assert list(sources_of(f"{path}::wind")) == ["high/u", "t"]
    assert list(sources_of(f"{path}::wind/t")) == [""]
    assert as_source(f"{path}::wind", "t").shape == VALUES.shape


def test_a_link_in_an_hdf5_file_is_followed(tmp_path: Path) -> None:
    assert as_source(f"{hdf5_file(tmp_path)}::alias").shape == (10, 7)


@pytest.mark.parametrize("make", [zarr_group, hdf5_file])
def test_the_array_that_an_error_names_can_be_read(tmp_path: Path, make: Any) -> None:
    with pytest.raises(ValueError, match="several arrays") as caught:
        as_source(f"{make(tmp_path)}::wind")
    assert as_source(str(caught.value).split("Name one, as in ")[1]).shape == (10, 7)


def npy(folder: Path) -> Path:
    np.save(folder / "x.npy", VALUES)
    return folder / "x.npy"


ALONE = {
    "npy": npy,
    "zarr": lambda folder: zarr.create_array(MemoryStore(), data=VALUES),
    "array": lambda folder: VALUES,
    "dask": lambda folder: dask.array.from_array(VALUES),
    "duck": lambda folder: Counting(VALUES),
    "source": lambda folder: as_source(VALUES),
}


@pytest.mark.parametrize("make", ALONE.values(), ids=ALONE)
def test_what_is_one_array_has_it_alone(tmp_path: Path, make: Any) -> None:
    thing = make(tmp_path)
    ((name, source),) = sources_of(thing).items()
    assert name == ""
    np.testing.assert_array_equal(source.read(WHOLE), VALUES)
    with pytest.raises(ValueError, match="is one array, and 't' can't be looked up in it"):
        as_source(thing, "t")


def test_a_name_after_a_file_without_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.npy is one array, and 't' can't"):
        as_source(f"{npy(tmp_path)}::t")


def test_a_source_is_itself() -> None:
    source = as_source(VALUES)
    assert as_source(source) is source


# Which format -------------------------------------------------------------------------------------------------------


def zipped(folder: Path, archive: Path, top: str = "") -> Path:
    """A folder as a zip archive, or as the folder `top` in one."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(top) / path.relative_to(folder))
    return archive


def zarr_v2_group(folder: Path) -> Path:
    zarr.create_group(folder / "x.v2", zarr_format=2).create_array("t", data=VALUES)
    return folder / "x.v2"


def behind_a_block(folder: Path) -> Path:
    with h5py.File(folder / "block.h5", "w", userblock_size=1024) as file:
        file["t"] = VALUES
    return folder / "block.h5"


CONTENTS = {
    "npy": (npy, "npy"),
    "hdf5": (hdf5_file, "hdf5"),
    "hdf5 behind a block of the user's": (behind_a_block, "hdf5"),
    "zarr": (zarr_group, "zarr"),
    "zarr v2": (zarr_v2_group, "zarr"),
    "zip": (lambda folder: zipped(zarr_group(folder), folder / "x.zip"), "zarr"),
    "zip with a folder": (lambda folder: zipped(zarr_group(folder), folder / "x.zip", "g.zarr"), "zarr"),
}


@pytest.mark.parametrize("name", ["x", "x.npy", "x.h5", "x.nc", "x.zarr", "x.zip", "x.tif", "a::b.NPY"])
@pytest.mark.parametrize("content", CONTENTS)
def test_what_a_path_holds_decides_and_not_what_it_is_called(tmp_path: Path, content: str, name: str) -> None:
    make, kind = CONTENTS[content]
    path = make(tmp_path).rename(tmp_path / name)
    assert io.format_of(str(path)) is io.own(kind)
    arrays = sources_of(path)
    first = max(arrays, key=lambda name: name.endswith("t"))
    np.testing.assert_array_equal(arrays[first].read(WHOLE), VALUES)
    np.testing.assert_array_equal(as_source(f"{path}::{first}" if first else path).read(WHOLE), VALUES)


@pytest.mark.parametrize("url", ["s3://bucket/x.npy", "https://host/x.h5", "gs://bucket/x.nc"])
def test_a_url_is_zarr(url: str) -> None:
    assert io.format_of(url) is io.own("zarr")


def test_a_format_is_imported_when_something_is_shown_to_it_and_no_library_before_it_is_needed(tmp_path: Path) -> None:
    npy(tmp_path)
    code = f"""
import json, sys, numpy
from quantize.io import as_source, sink_of
as_source(numpy.zeros(3)), as_source({str(tmp_path / "x.npy")!r}), sink_of("x.npy")
print(json.dumps([*sys.modules]))
"""
    there = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert {name for name in there if name.startswith("quantize.io.formats.")} == {
        "quantize.io.formats.memory",
        "quantize.io.formats.npy",
    }
    assert {"zarr", "h5py", "dask", "numba"} & {*there} == set()


def test_every_format_is_in_the_table() -> None:
    files = {path.stem for path in (Path(io.__file__).parent / "formats").glob("*.py")}
    assert files == {*KINDS, "__init__"}


def test_nobody_else_asks_which_format_it_is() -> None:
    package = Path(io.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] not in ("io", "cli"):
            text = path.read_text()
            assert "io.formats" not in text, path
            assert not re.search(r"isinstance\([^)]*Source\b", text), path


# xarray -------------------------------------------------------------------------------------------------------------


def data_array(data: Any, chunks: Any) -> Any:
    """What the library asks of a `DataArray` of xarray's."""
    members = {
        "variable": None,
        "data": data,
        "chunks": chunks,
        "shape": data.shape,
        "dtype": data.dtype,
        "dims": ("t", "y", "x"),
        "attrs": {"units": "K", "_FillValue": np.float32(-9999), "range": np.array([0, 1])},
        "encoding": {},
        "__getitem__": lambda self, index: data[index],
    }
    return type("DataArray", (), {**members, "__module__": "xarray.core.dataarray"})()


@pytest.mark.parametrize("lazy", [False, True])
def test_an_array_of_xarray_says_what_it_says_of_itself(lazy: bool) -> None:
    values = np.where(VALUES > 40, np.float32(-9999), VALUES)
    data = dask.array.from_array(values, chunks=(4, 3, 3)) if lazy else values
    thing = data_array(data, data.chunks if lazy else None)
    source = as_source(thing)
    assert (source.dimension_names, source.missing) == (("t", "y", "x"), -9999)
    assert source.attributes == {"units": "K", "_FillValue": -9999, "range": [0, 1]}
    assert (source.graph(WHOLE) is not None) == lazy
    assert source.chunks == ((4, 3, 3) if lazy else None)
    assert any("estimate for a dask source" in note for note in plan(thing, MemoryStore()).notes) == lazy
    array = quantize_to_zarr(thing, MemoryStore(), nan_policy="propagate", workers=2)
    plainly = quantize_to_zarr(values, MemoryStore(), chunks=array.chunks, missing=-9999, nan_policy="propagate")
    np.testing.assert_array_equal(array.packed[...], plainly.packed[...])


# What a source says of itself ---------------------------------------------------------------------------------------


def test_what_is_kept_for_a_second_pass(tmp_path: Path) -> None:
    """Arrays and plain files cost nothing to read again; what is decoded or computed is kept where memory allows."""
    for name, make in ALONE.items():
        kept = plan(make(tmp_path), MemoryStore(), memory="1GiB", workers=1).kept
        assert (kept > 0) == (name in ("zarr", "dask", "duck")), name


# Formats of other packages --------------------------------------------------------------------------------------------

RAW = '''
"""Bytes of which each is a value, and things that hold some."""

import os
from contextlib import contextmanager

import numpy as np

from quantize.io.format import Format, suffix_of
from quantize.io.formats.memory import ArraySource
from quantize.io.sink import Sink


class RawSink(Sink):
    suffixes = (".raw",)
    name = "raw"

    def check(self, outline):
        if outline.dtype.itemsize != 4:
            raise ValueError("raw has four bytes a value")

    @contextmanager
    def open(self, path, outline):
        values = np.zeros(outline.shape, outline.dtype)
        yield values.__setitem__
        values.tofile(path)


class Raw(Format):
    files, arrays = "raw (.raw)", "Bag"
    sink = RawSink

    def takes(self, thing):
        return suffix_of(thing) == ".raw" or type(thing).__name__ == "Bag"

    def open_sources(self, thing):
        if not isinstance(thing, str):
            return {name: ArraySource(array) for name, array in thing.arrays.items()}
        return {"": ArraySource(np.fromfile(thing, "f4"))}

    def hint(self, path):
        return "; rename it to .raw" if path.endswith(".bytes") else ""


class Careless(Format):
    def takes(self, thing):
        return thing.no_such_attribute


class Wrong(Format):
    def takes(self, thing):
        return suffix_of(thing) == ".wrong"

    def open_sources(self, thing):
        return {"a": 1} if "names" in thing else [1]


FORMAT = Raw()
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package that registers formats, as lines of ``entry_points.txt``."""
    folder = tmp_path / "site"

    def install(*lines: str) -> None:
        information = folder / "raw_format-1.2.dist-info"
        information.mkdir(parents=True)
        (folder / "raw_format.py").write_text(RAW)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-format\nVersion: 1.2\n")
        (information / "entry_points.txt").write_text("\n".join(["[quantize.formats]", *lines, ""]))
        monkeypatch.syspath_prepend(folder)
        io.plug_ins.cache_clear()

    yield install
    io.plug_ins.cache_clear()
    sys.modules.pop("raw_format", None)


class Bag:
    """Has what any array has, and so would be taken by the last of our own formats."""

    shape, dtype = VALUES.shape, VALUES.dtype

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("line", ["raw = raw_format:FORMAT", "raw = raw_format:Raw"])
def test_a_format_of_another_package(tmp_path: Path, installed: Any, line: str) -> None:
    installed(line)
    VALUES.tofile(tmp_path / "x.raw")
    np.testing.assert_array_equal(as_source(tmp_path / "x.raw").read((slice(0, VALUES.size),)), VALUES.ravel())
    arrays = sources_of(Bag(t=VALUES, u=VALUES[0]))
    assert isinstance(arrays, Arrays)
    assert list(arrays) == ["t", "u"]
    assert as_source(Bag(t=VALUES, u=VALUES[0]), "u").shape == (10, 7)
    with pytest.raises(ValueError, match=r"Bag holds several arrays: t .*, u .*\. Name one, as in Bag::t"):
        as_source(Bag(t=VALUES, u=VALUES[0]))
    sink = sink_of("x.raw")
    assert isinstance(sink, Sink)
    assert sink.name == "raw"


def test_what_ours_take_is_not_shown_to_others(tmp_path: Path, installed: Any) -> None:
    installed("careless = raw_format:Careless")
    for thing in (npy(tmp_path), VALUES, zarr_group(tmp_path) / "wind" / "t", dask.array.from_array(VALUES)):
        as_source(thing)
    sink_of("x.npy"), sink_of("x.zarr"), sink_of("x")
    assert "raw_format" not in sys.modules


def test_messages_name_the_formats_of_others(tmp_path: Path, installed: Any) -> None:
    installed("raw = raw_format:FORMAT")
    (tmp_path / "x.bytes").touch()
    with pytest.raises(ValueError, match=r"not known; rename it to .raw; known are .npy, Zarr, HDF5 .* and raw"):
        as_source(tmp_path / "x.bytes")
    with pytest.raises(TypeError, match="a NumPy, Zarr, HDF5, pyarrow, dask, xarray or Bag array"):
        as_source(3.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bad = raw_format:NOTHING", r"'bad' \(raw_format:NOTHING\) of raw-format 1.2 is left out: AttributeError"),
        ("bad = no_such_module:FORMAT", "'bad' .* is left out: ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad = raw_format:RawSink", "'bad' .* is left out: TypeError: "),
        ("bad = raw_format:np", "'bad' .* is left out: TypeError: it is a module, and not a quantize.io.format.Format"),
        ("bad = raw_format:Careless", "'bad' .* is left out: AttributeError: .*no_such_attribute"),
    ],
)
def test_one_that_is_broken_is_named_and_left_out(tmp_path: Path, installed: Any, line: str, message: str) -> None:
    installed(line, "raw = raw_format:FORMAT")
    VALUES.tofile(tmp_path / "x.raw")
    with pytest.warns(RuntimeWarning, match=message):
        assert as_source(tmp_path / "x.raw").shape == (VALUES.size,)


def test_one_that_gives_something_else_than_sources(tmp_path: Path, installed: Any) -> None:
    installed("wrong = raw_format:Wrong")
    (tmp_path / "x.wrong").touch()
    (tmp_path / "names.wrong").touch()
    with pytest.raises(TypeError, match=r"x.wrong was opened as a list, and not as a mapping"):
        as_source(tmp_path / "x.wrong")
    with pytest.raises(TypeError, match=r"names.wrong gave a int in the place of a Source"):
        as_source(tmp_path / "names.wrong")


def test_restoring_in_the_format_of_another_package(tmp_path: Path, installed: Any) -> None:
    from quantize.reading.restore import restore

    installed("raw = raw_format:FORMAT")
    store = MemoryStore()
    array = quantize_to_zarr(VALUES, store, chunks=(5, 4, 4))
    restore(store, tmp_path / "x.raw")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x.raw", "f4").reshape(VALUES.shape), array[...])
    doubles = MemoryStore()
    quantize_to_zarr(VALUES.astype("f8"), doubles)
    with pytest.raises(ValueError, match="four bytes a value"):
        restore(doubles, tmp_path / "y.raw")
    assert not (tmp_path / "y.raw").exists()


# What is absent, and what a newer Zarr adds ---------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["folder", "memory", "zip"])
@pytest.mark.parametrize("shards", [False, True])
def test_absent_chunks_are_counted_by_the_plan(tmp_path: Path, zarr_format: Any, place: str, shards: bool) -> None:
    if shards and zarr_format == 2:
        pytest.skip("version 2 has no shards")
    store = MemoryStore() if place == "memory" else LocalStore(tmp_path / "g.zarr")
    chunks: dict[str, Any] = {"chunks": (2, 5, 7), "shards": (4, 10, 7)} if shards else {"chunks": (4, 5, 7)}
    group = zarr.create_group(store, zarr_format=zarr_format)
    for name in ("t", "t2"):  # of two names one of which begins with the other
        array = group.create_array(name, shape=VALUES.shape, dtype="f4", fill_value=7, **chunks)
        array[:5] = VALUES[:5]
    group["t2"][...] = VALUES
    count, absent = (4, 2) if shards else (8, 4)
    thing = zipped(tmp_path / "g.zarr", tmp_path / "g.zip") if place == "zip" else store
    note = f"{absent} of {count} {'shards' if shards else 'chunks'} are absent, and stand for the fill value 7.0"
    assert note in plan(as_source(thing, "t"), MemoryStore()).notes
    assert not any("absent" in said for said in as_source(thing, "t2").notes)


def test_chunks_beyond_the_array_do_not_count(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "x", shape=(10,), chunks=(2,), dtype="f4", write_data=False)
    array[6:] = 1.0
    array.resize((6,))
    (tmp_path / "x/c/3").touch()
    (tmp_path / "x/c/01").touch()
    assert "3 of 3 chunks are absent" in as_source(tmp_path / "x").notes[0]


def test_chunks_of_several_lengths(tmp_path: Path) -> None:
    try:
        with zarr.config.set({"array.rectilinear_chunks": True}):
            array = zarr.create_array(
                tmp_path / "x", shape=VALUES.shape, dtype="f4", chunks=((3, 9, 1), (7, 3), (5, 2))
            )
    except (TypeError, ValueError) as error:
        pytest.skip(f"Zarr {zarr.__version__} has no chunks of several lengths: {error}")
    array[...] = VALUES
    group = zarr.create_group(tmp_path / "g")
    group.create_array("u", data=VALUES)
    (tmp_path / "x").rename(tmp_path / "g/t")
    assert list(sources_of(tmp_path / "g")) == ["t", "u"]
    for thing in (tmp_path / "g/t", f"{tmp_path / 'g'}::t", pickle.loads(pickle.dumps(as_source(tmp_path / "g/t")))):
        source = as_source(thing)
        assert source.chunks == (9, 7, 5)
        np.testing.assert_array_equal(source.read(WHOLE), VALUES)
        check(quantize_to_zarr(thing, MemoryStore()), VALUES)
        check(quantize_to_zarr(thing, MemoryStore(), chunks=(4, 4, 4)), VALUES)


@pytest.mark.parametrize(
    ("name", "library", "said"),
    [
        ("x.h5", "h5py", 'x.h5 is an HDF5 file; reading it needs h5py: pip install "quantize[hdf5]"'),
        (
            "x.parquet",
            "pyarrow",
            'x.parquet is a table of Parquet or Arrow; reading it needs pyarrow: pip install "quantize[arrow]"',
        ),
    ],
)
def test_an_optional_library_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, said: str
) -> None:
    magic = b"\x89HDF\r\n\x1a\n" if name == "x.h5" else b"PAR1"
    (tmp_path / name).write_bytes(magic + bytes(100) + b"PAR1")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SourceError, match=re.escape(said)):
        as_source(tmp_path / name)
