"""Folders, patterns and lists of files: arrays with names of their own, and one array in several pieces."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import check, field
from zarr.storage import MemoryStore

from quantize import SourceError, plan, quantize_to_zarr
from quantize.io import as_source, sources_of
from quantize.io.content import natural
from quantize.io.formats import npy, pieces

VALUES = field((47, 9, 6))
ENDS = (0, 5, 5, 18, 30, 47)


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def cut(folder: Path, form: str = "part-{}.npy", orders: str = "CCCCC") -> list[Path]:
    """The values in five pieces; one of them has no rows. They are numbered from 8 on."""
    folder.mkdir(exist_ok=True)
    paths = []
    for n, order in enumerate(orders):
        paths.append(folder / form.format(8 + n))
        np.save(paths[-1], np.asarray(VALUES[ENDS[n] : ENDS[n + 1]], order=order))  # type: ignore[call-overload]
    return paths


WAYS: dict[str, Any] = {
    "folder": lambda folder: cut(folder)[0].parent,
    "pattern": lambda folder: f"{cut(folder)[0].parent}/part-*.npy",
    "pattern of folders": lambda folder: (cut(folder), f"{folder.parent}/**/*.npy")[1],
    "list": cut,
    "tuple of str": lambda folder: tuple(map(str, cut(folder))),
    "Fortran order": lambda folder: cut(folder, orders="FCFFC"),
    "other names": lambda folder: cut(folder, "{}-of-12.npy"),
}


@pytest.fixture(params=[slow(64), 2], ids="{} open files".format)
def open_files(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "OPEN_FILES", request.param)


@pytest.mark.usefixtures("open_files")
@pytest.mark.parametrize("way", WAYS)
def test_pieces_are_one_array(tmp_path: Path, way: str) -> None:
    thing = WAYS[way](tmp_path / "emb")
    source = pickle.loads(pickle.dumps(as_source(thing)))
    assert (source.shape, source.dtype, source.shared) == (VALUES.shape, VALUES.dtype, True)
    found = np.empty(VALUES.shape, VALUES.dtype)
    for piece in source.pieces(whole(VALUES.shape)):
        found[piece] = source.read(piece)
    np.testing.assert_array_equal(found, VALUES)
    check(quantize_to_zarr(thing, MemoryStore(), chunks=(7, 4, 4), workers=2), VALUES)


@given(st.data())
def test_any_region_of_any_pieces(tmp_path_factory: Any, data: Any) -> None:
    shape = (data.draw(st.integers(1, 12)), *data.draw(st.lists(st.integers(1, 5), max_size=2)))
    values = np.arange(np.prod(shape), dtype=data.draw(st.sampled_from(["<f4", ">f4", "<i2"]))).reshape(shape)
    ends = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=4)))
    folder = tmp_path_factory.mktemp("x")
    paths = []
    for n, (a, b) in enumerate(zip([0, *ends], [*ends, shape[0]], strict=True)):
        paths.append(folder / f"{n}.npy")
        np.save(paths[-1], np.asarray(values[a:b], order=data.draw(st.sampled_from("CF"))))
    arrays = sources_of(paths)
    source, raw = arrays[""], arrays.raw("")
    for _ in range(2):
        region = tuple(slice(*sorted(data.draw(st.tuples(st.integers(0, n - 1), st.just(n))))) for n in shape)
        for found in (source.read(region), raw.read(region)):
            np.testing.assert_array_equal(found, values[region])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantize.io.source.PIECE_BYTES", 40)
        patch.setattr(npy, "PIECE_BYTES", 40)
        found = np.zeros_like(values)
        for piece in source.pieces(whole(shape)):
            found[piece] += source.read(piece)
            assert (piece[-1].start - 0) % 2 == 0
        np.testing.assert_array_equal(found, values)


def test_many_pieces_keep_few_files_open_and_little_memory(tmp_path: Path) -> None:
    for n in range(300):
        np.save(tmp_path / f"{n}.npy", VALUES[:2] + np.float32(n))
    before = len(os.listdir("/proc/self/fd"))
    source = as_source(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert {id(part.buffer) for part in source.parts} == {id(source.parts[0].buffer)}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(source.read((slice(198, 202), slice(0, 9), slice(0, 6)))[2], VALUES[0] + 100)


def test_a_piece_that_is_replaced_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "OPEN_FILES", 2)
    paths = cut(tmp_path)
    source = as_source(paths)
    np.save(tmp_path / "new.npy", VALUES[5:18])
    os.replace(tmp_path / "new.npy", paths[2])
    with pytest.raises(Exception, match=r"part-10.npy was replaced or written to since"):
        source.read(whole(VALUES.shape))


# Names ----------------------------------------------------------------------------------------------------------------


def different(folder: Path) -> Path:
    folder.mkdir()
    np.save(folder / "b.npy", VALUES)
    np.save(folder / "a.NPY.npy", VALUES[0])
    np.save(folder / "mask.npy", VALUES[0] > 0)
    np.save(folder / "scale.npy", np.float32(2))
    (folder / "README").touch()
    (folder / ".hidden.npy").touch()
    return folder


@pytest.mark.parametrize("pattern", ["", "/*.npy", "/../x/*"])
def test_files_of_different_arrays_have_names(tmp_path: Path, pattern: str) -> None:
    folder = different(tmp_path / "x")
    if "../" in pattern:
        (folder / "README").unlink()
    arrays = sources_of(f"{folder}{pattern}")
    assert list(arrays) == ["a.NPY", "b", "mask", "scale"]
    assert not arrays.is_one
    np.testing.assert_array_equal(arrays["b"].read(whole(VALUES.shape)), VALUES)
    np.testing.assert_array_equal(arrays.raw("mask").read(whole((9, 6))), VALUES[0] > 0)
    assert arrays.raw("scale").read(()) == 2
    assert as_source(f"{folder}{pattern}::b").shape == VALUES.shape
    with pytest.raises(TypeError, match=r"mask.npy cannot be quantized: dtype bool"):
        arrays["mask"]
    message = r"several arrays, which are not pieces of one. Name one, as in .*::a.NPY\. .*b.npy has shape \(47, 9, 6\)"
    with pytest.raises(SourceError, match=message):
        as_source(f"{folder}{pattern}")
    with pytest.raises(ValueError, match=r"has no array 'c'; it holds a.NPY, b, mask"):
        as_source(f"{folder}{pattern}::c")


def test_a_folder_of_pieces_has_names_too(tmp_path: Path) -> None:
    cut(tmp_path)
    arrays = sources_of(tmp_path)
    assert (list(arrays), arrays.is_one) == (sorted(f"part-{n}" for n in range(8, 13)), True)
    assert as_source(tmp_path).shape == VALUES.shape


def test_names_of_several_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "w.npy", VALUES)
    assert list(sources_of(f"{tmp_path}/*/w.npy")) == ["a/w", "b/w"]


def test_one_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    for thing in (tmp_path, f"{tmp_path}/*.npy", [tmp_path / "x.npy"]):
        np.testing.assert_array_equal(as_source(thing).read(whole(VALUES.shape)), VALUES)
    assert list(sources_of(tmp_path)) == ["x"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    np.save(tmp_path / "x[1]*.npy", VALUES)
    assert list(sources_of(tmp_path / "x[1]*.npy")) == [""]


@pytest.mark.parametrize(
    "names",
    [["part-2", "part-10"], ["a", "a1", "a1b", "a2", "b"], ["1", "02", "3", "a"], ["x-9-1", "x-10-0", "x-10-1", "x²"]],
    ids=str,
)
def test_numbers_in_names_are_numbers(names: list[str]) -> None:
    assert sorted({*names}, key=natural) == names


def test_numbers_that_are_missing_are_told_by_the_plan(tmp_path: Path) -> None:
    paths = cut(tmp_path)
    assert not as_source(tmp_path).notes
    paths[2].unlink()
    assert "of the pieces those numbered 10 are missing" in plan(tmp_path, MemoryStore()).notes


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            VALUES[:3, :5],
            r"part-10.npy has shape \(3, 5, 6\) and dtype float32, and .*part-8.npy \(5, 9, 6\) and float32",
        ),
        (VALUES[:3].astype("f8"), "part-10.npy has shape .* and dtype float64, and .*: pieces of one array differ in"),
        (VALUES[0], r"part-10.npy has shape \(9, 6\)"),
        (np.float32(3), "part-10.npy has no axes"),
    ],
)
def test_pieces_that_differ_are_refused_by_name(tmp_path: Path, values: Any, message: str) -> None:
    paths = cut(tmp_path)
    np.save(paths[2], values)
    for thing in (tmp_path, f"{tmp_path}/*.npy", paths):
        with pytest.raises(SourceError, match=message):
            as_source(thing)


def test_a_piece_that_is_cut_or_no_file_is_refused_by_name(tmp_path: Path) -> None:
    paths = cut(tmp_path)
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    with pytest.raises(SourceError, match=r"part-11.npy is no whole .npy file: 300 of"):
        as_source(tmp_path)
    paths[3].unlink()
    os.mkfifo(paths[3])
    with pytest.raises(SourceError, match=r"part-11.npy is a pipe or a device and not a file"):
        as_source(tmp_path)
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path} is a folder and not a file")):
        as_source([tmp_path])
    with pytest.raises(SourceError, match=r"gone.npy cannot be read: No such file"):
        as_source([paths[0], tmp_path / "gone.npy"])
    with pytest.raises(FileNotFoundError, match=r"no file matches .*/\*.npz"):
        as_source(f"{tmp_path}/*.npz")


@pytest.mark.parametrize("thing", [[], [1.0, 2.0], [np.zeros(3), "x.npy"], ["x.npy", 3]], ids=str)
def test_other_lists_are_not_taken(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"source is a list, but must be a path, .*; lists are of paths"):
        as_source(thing)
