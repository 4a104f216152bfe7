"""What an HDF5 dataset needs that does not lie in it: links, files of virtual datasets, raw files, filters."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from stores import check, field
from zarr.storage import MemoryStore

from quantize import SourceError, plan, quantize_to_zarr
from quantize.io import as_source, hdf5_parts, sources_of

VALUES = field((40, 60))
WHOLE = (slice(0, 40), slice(0, 60))


def file(path: Path, **datasets: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as opened:
        for name, values in datasets.items():
            opened[name] = values
    return path


# Links ----------------------------------------------------------------------------------------------------------------


def linked(folder: Path, **links: Any) -> Path:
    file(folder / "parts/1.h5", t=VALUES, u=VALUES[0])
    file(folder / "parts/2.h5", **{"deep/v": VALUES[1]})
    return file(folder / "all.h5", **links)


def test_links_are_followed_in_lists_and_by_name(tmp_path: Path) -> None:
    path = linked(
        tmp_path,
        a=h5py.ExternalLink("parts/1.h5", "/t"),
        b=h5py.ExternalLink("parts/2.h5", "/"),
        c=h5py.SoftLink("/a"),
    )
    assert list(sources_of(path)) == ["a", "b/deep/v"]
    for name in ("a", "c"):
        np.testing.assert_array_equal(as_source(f"{path}::{name}").read(WHOLE), VALUES)
    assert as_source(path, "b").shape == (60,)
    check(quantize_to_zarr(f"{path}::/a", MemoryStore()), VALUES)


def test_one_array_has_one_name_and_links_to_a_parent_end(tmp_path: Path) -> None:
    path = file(tmp_path / "x.h5", **{"g/t": VALUES, "a": h5py.SoftLink("/g/t"), "g/up": h5py.SoftLink("/")})
    with h5py.File(path, "a") as opened:
        opened["z"] = opened["g/t"]
    assert list(sources_of(path)) == ["z"]  # of two names that are no links the one nearer to the root
    assert list(sources_of(f"{path}::g")) == ["t"]


BROKEN = {
    "another file": (
        h5py.ExternalLink("parts/gone.h5", "/t"),
        r"link to /t in the file parts/gone.h5, which is not there",
    ),
    "a name in it": (h5py.ExternalLink("parts/1.h5", "/gone"), "parts/1.h5, which holds nothing of that name"),
    "no HDF5": (h5py.ExternalLink("text.h5", "/t"), r"text.h5, and .*text.h5 is no HDF5 file: it begins with b'text'"),
    "this file": (h5py.SoftLink("/gone/t"), "is a link to /gone/t, and there is nothing"),
    "itself": (h5py.SoftLink("/broken"), "is a link to /broken, and there is nothing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_link_is_an_error_that_says_what_it_needs(tmp_path: Path, name: str) -> None:
    link, message = BROKEN[name]
    (tmp_path / "text.h5").write_text("text")
    path = linked(tmp_path, t=VALUES, broken=link)
    for broken in (f"{path}::broken", f"{path}::broken/deeper"):
        with pytest.raises(SourceError, match=rf"all.h5::/broken.*{message}"):
            as_source(broken)
    assert as_source(f"{path}::t").shape == VALUES.shape
    with pytest.raises(ValueError, match=r"several arrays: broken \(broken\), t \(40, 60\) float32"):
        as_source(path)
    with pytest.raises(SourceError, match=message):
        as_source(linked(tmp_path, broken=link))


# Virtual datasets -----------------------------------------------------------------------------------------------------


def virtual(folder: Path, parts: int = 4, inside: str = "d") -> Path:
    """A virtual dataset of parts in files of their own."""
    layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
    for number in range(parts):
        rows = slice(number * 10, number * 10 + 10)
        path = file(folder / f"parts/{number}.h5", d=VALUES[rows])
        layout[rows] = h5py.VirtualSource(os.path.relpath(path, folder), inside, (10, 60))
    with h5py.File(folder / "virtual.h5", "w", libver="latest") as opened:
        opened.create_virtual_dataset("v", layout, fillvalue=-1)
    return folder / "virtual.h5"


def series(folder: Path) -> Path:
    """A virtual dataset of a numbered series of files, as many as there are."""
    for number in range(4):
        file(folder / f"{number}.h5", d=VALUES[number * 10 : number * 10 + 10])
    with h5py.File(folder / "series.h5", "w", libver="latest") as opened:
        space = h5s.create_simple((0, 60), (h5s.UNLIMITED, 60))
        space.select_hyperslab((0, 0), (h5s.UNLIMITED, 1), stride=(10, 60), block=(10, 60))
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_virtual(space, b"%b.h5", b"d", h5s.create_simple((10, 60)))
        h5d.create(opened.id, b"v", h5t.IEEE_F32LE, space, creation)
    return folder / "series.h5"


def test_a_whole_virtual_dataset_is_read(tmp_path: Path) -> None:
    for make, notes in ((virtual, 0), (series, 1)):
        path = make(tmp_path)
        check(quantize_to_zarr(path, MemoryStore()), VALUES)
        source = as_source(path)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(WHOLE), VALUES)
        assert len(source.notes) == notes


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (lambda path: path.unlink(), "parts/2.h5, which is not there"),
    "cut": (cut, r"parts/2.h5; but .*2.h5 was cut: \S+ of its \S+ bytes"),
    "another": (lambda path: path.write_text("text"), "parts/2.h5; but .*2.h5 is no HDF5 file"),
    "without the dataset": (lambda path: file(path, e=VALUES), "parts/2.h5, which has no dataset d"),
    "smaller": (lambda path: file(path, d=VALUES[:9]), "d in parts/2.h5, which is smaller than it was"),
    "a group": (lambda path: file(path, **{"d/e": VALUES}), "d in parts/2.h5, which is smaller"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_virtual_dataset_without_one_of_its_sources_is_refused(tmp_path: Path, name: str) -> None:
    spoil, message = SPOILED[name]
    path = virtual(tmp_path)
    before = pickle.dumps(as_source(path))
    spoil(tmp_path / "parts/2.h5")
    for attempt in (lambda: plan(path, MemoryStore()), lambda: pickle.loads(before)):
        with pytest.raises(SourceError, match=rf"virtual.h5::/v is a virtual dataset .*{message}.*fill value, -1"):
            attempt()


def test_sources_in_the_same_file_and_virtual_datasets_of_virtual_datasets(tmp_path: Path) -> None:
    path = virtual(tmp_path)
    for name, number in (("outer", 0), ("outermost", 1)):
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        inner = "v" if number == 0 else "outer"
        layout[...] = h5py.VirtualSource(".", inner, VALUES.shape)
        with h5py.File(path, "a", libver="latest") as opened:
            opened.create_virtual_dataset(name, layout)
    np.testing.assert_array_equal(as_source(f"{path}::outermost").read(WHOLE), VALUES)
    (tmp_path / "parts/3.h5").unlink()
    with pytest.raises(SourceError, match=r"parts/3.h5, which is not there"):
        as_source(f"{path}::outermost")


def test_a_numbered_series_ends_at_its_first_gap_which_the_plan_says(tmp_path: Path) -> None:
    path = series(tmp_path)
    (tmp_path / "2.h5").unlink()
    source = as_source(path)
    assert source.shape == (20, 60)
    assert source.notes == (
        "it takes values from a numbered series of files, %b.h5, as far as that is there without a gap",
    )
    (tmp_path / "0.h5").write_text("text")
    with pytest.raises((SourceError, ValueError), match=r"0.h5; but .*is no HDF5 file|no values"):
        as_source(path)


def test_sources_are_found_where_hdf5_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = virtual(tmp_path)
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    (tmp_path / "moved" / "parts").symlink_to(".")
    with pytest.raises(SourceError, match="not there"):
        as_source(path)
    monkeypatch.setenv("HDF5_VDS_PREFIX", f"nowhere:{tmp_path / 'moved'}")
    np.testing.assert_array_equal(as_source(path).read(WHOLE), VALUES)
    monkeypatch.delenv("HDF5_VDS_PREFIX")
    monkeypatch.chdir(tmp_path / "moved")
    np.testing.assert_array_equal(as_source(path).read(WHOLE), VALUES)


def test_what_no_source_gives_is_told(tmp_path: Path) -> None:
    (note,) = plan(virtual(tmp_path, parts=3), MemoryStore()).notes
    assert note == "600 of 2,400 values have no source, and stand for the fill value -1.0"


# Raw files, and what was never written --------------------------------------------------------------------------------


def test_values_in_a_raw_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("x.h5", "w") as opened:
        opened.create_dataset("x", VALUES.shape, "f4", external=[("raw.bin", 8, h5py.h5f.UNLIMITED)])[...] = VALUES
    np.testing.assert_array_equal(as_source("x.h5").read(WHOLE), VALUES)
    os.truncate("raw.bin", 4808)
    with pytest.raises(SourceError, match=r"raw.bin, which was cut: 4,808 of 9,608 bytes"):
        as_source("x.h5")
    os.remove("raw.bin")
    with pytest.raises(SourceError, match=r"raw.bin, which is not there"):
        as_source("x.h5")


def test_chunks_that_were_never_written_are_counted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_dataset("some", VALUES.shape, "f4", chunks=(10, 60), fillvalue=7)[:10] = VALUES[:10]
        opened.create_dataset("none", VALUES.shape, "f4")
        opened.create_dataset("all", data=VALUES, chunks=(7, 7))
    notes = {name: source.notes for name, source in sources_of(tmp_path / "x.h5").items()}
    assert notes == {
        "some": ("3 of 4 chunks were never written, and stand for the fill value 7.0",),
        "none": ("its values were never written, and all stand for the fill value 0.0",),
        "all": (),
    }
    assert "3 of 4 chunks were never written" in str(plan(f"{tmp_path / 'x.h5'}::some", MemoryStore()))


# Filters --------------------------------------------------------------------------------------------------------------


def filtered(path: Path, code: int) -> Path:
    """A file that says of its dataset, which was compressed by lzf, that it was compressed by another filter."""
    with h5py.File(path, "w") as opened:
        opened.create_dataset("x", data=VALUES, chunks=(10, 60), compression="lzf")
    data = path.read_bytes()
    at = data.index(b"lzf\0") - 8  # its number, the length of its name, flags, the number of its values, its name
    assert data[at : at + 2] == (32000).to_bytes(2, "little")
    path.write_bytes(data[:at] + code.to_bytes(2, "little") + data[at + 2 :])
    return path


@pytest.fixture
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    available = h5z.filter_avail
    monkeypatch.setattr(h5z, "filter_avail", lambda code: code <= 32000 and available(code))  # what h5py has itself
    hdf5_parts.with_plugins.cache_clear()
    yield
    hdf5_parts.with_plugins.cache_clear()


@pytest.mark.usefixtures("without_plugins")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (32015, r"filter 32015 \(Zstandard\), which is not installed: pip install hdf5plugin"),
        (32029, r"filter 32029 \(lzf\), which is not installed: install the plugin that has it"),
    ],
)
def test_a_filter_that_is_not_there_is_named_by_the_plan(tmp_path: Path, code: int, message: str) -> None:
    path = filtered(tmp_path / "x.h5", code)
    with pytest.raises(SourceError, match=rf"x.h5::/x is compressed by the HDF5 {message}"):
        plan(path, MemoryStore())


def test_filters_of_hdf5plugin_are_used_where_it_is_installed(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_dataset("x", data=VALUES, chunks=(10, 60), **hdf5plugin.Zstd())
    check(quantize_to_zarr(tmp_path / "x.h5", MemoryStore()), VALUES)
