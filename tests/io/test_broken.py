"""Things that cannot be read, of every format: one message of ours, the exit code of usage, and nothing left behind."""

import fcntl
import gzip
import json
import os
import re
import resource
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import h5py
import ml_dtypes
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from stores import check, field
from test_hdf5_parts import filtered, virtual, without_plugins  # noqa: F401
from zarr.storage import MemoryStore

from quantize import SourceError, quantize_to_zarr
from quantize.cli import commands
from quantize.io import as_source, sources_of

VALUES = field((40, 60))
HELD: list[Any] = []  # what has to stay open while a test runs


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def npy(folder: Path, dtype: Any = np.float32) -> Path:
    np.save(folder / "x.npy", VALUES.astype(dtype))
    return folder / "x.npy"


def hdf5(folder: Path, **links: Any) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        for name, link in (links or {"t": VALUES}).items():
            file[name] = link
    return folder / "x.h5"


def grouped(folder: Path) -> Path:
    zarr.create_group(folder / "x.zarr").create_array("t", data=VALUES, chunks=(10, 60))
    return folder / "x.zarr"


def cut(path: Path, length: int) -> Path:
    return written(path, path.read_bytes()[:length])


def piped(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def listening(path: Path) -> Path:
    HELD.append(socket.socket(socket.AF_UNIX))
    before = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    HELD[-1].bind(path.name)
    os.chdir(before)
    return path


def locked(path: Path) -> Path:
    """A file that somebody holds, as HDF5 does while it writes."""
    HELD.append(path.open("rb"))
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)
    return path


def linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def without(path: Path, name: str) -> Path:
    (path.parent / name).unlink()
    return path


def said_of(folder: Path, name: str = "", **entries: Any) -> Path:
    """A Zarr array whose metadata say something else."""
    path = grouped(folder) / "t/zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder / "x.zarr" / name


def in_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def chunk(folder: Path, change: Callable[[Path], Any]) -> Path:
    change(grouped(folder) / "t/c/1/0")
    return folder / "x.zarr"


BROKEN: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    # of no format
    "nothing": (lambda f: f / "x.npy", "does not exist"),
    "empty": (lambda f: written(f / "x", b""), "format that is not known.*It is empty"),
    "text": (lambda f: written(f / "x", b"1 2 3"), "format that is not known; known are .npy, Zarr, HDF5"),
    "pipe": (lambda f: piped(f / "x"), "is a pipe or a device"),
    "socket": (lambda f: listening(f / "x"), "is a pipe or a device"),
    "link that leads nowhere": (lambda f: linked(f / "x.npy", "y.npy"), "is a link to y.npy, which does not exist"),
    "link to itself": (lambda f: linked(f / "x.npy", "x.npy"), "cannot be read: Too many levels"),
    "compressed": (lambda f: written(f / "x.npy.gz", gzip.compress(b"x")), "compressed by gzip: unpack it"),
    "web page": (lambda f: written(f / "x", b"<!DOCTYPE html>"), "is a web page"),
    "too long a name": (lambda f: f / ("x" * 300), "File name too long"),
    "name with a zero": (lambda f: f"{f}/x\0.npy", "embedded null"),
    # .npy
    "empty .npy": (lambda f: written(f / "x.npy", b""), "is no .npy file: it is empty"),
    "another .npy": (lambda f: written(f / "x.npy", b"II*\0"), r"is no .npy file: it begins with b'II\*"),
    "header cut": (lambda f: cut(npy(f), 40), "is no whole .npy file"),
    ".npy cut": (lambda f: cut(npy(f), 5000), "is no whole .npy file: 5,000 of 9,728 bytes are there"),
    "future .npy": (lambda f: written(f / "x.npy", b"\x93NUMPY\x09\x00"), "is of version 9.0"),
    "header without sense": (lambda f: written(f / "x.npy", b"\x93NUMPY\x01\0\x04\0{1]\n"), "is no whole .npy file"),
    "negative .npy": (
        lambda f: written(f / "x.npy", npy(f).read_bytes().replace(b"(40, 60)", b"(-4, 60)")),
        r"is no whole .npy file: its shape is \(-4, 60\)",
    ),
    "folder.npy": (lambda f: made(f / "x.npy"), "is no Zarr array or group: it has neither zarr.json"),
    "bfloat16 .npy": (lambda f: npy(f, ml_dtypes.bfloat16), r"most often bfloat16.*\.view\(ml_dtypes.bfloat16\)"),
    "archive of .npy": (lambda f: in_zip(f / "x.npz", "a.npy"), "x.npz::a is no whole .npy file"),
    # HDF5
    "empty HDF5": (lambda f: written(f / "x.h5", b""), "is no HDF5 file: it is empty"),
    "signature alone": (lambda f: cut(hdf5(f), 8), "cannot be opened as HDF5, since it is damaged or cut"),
    "HDF5 cut": (lambda f: cut(hdf5(f), 4000), r"was cut: 4,000 of its [\d,]+ bytes are there"),
    "HDF5 locked": (lambda f: locked(hdf5(f)), "is held by another process"),
    "folder.h5": (lambda f: made(f / "x.h5"), "is no Zarr array or group"),
    "link to a file that is not there": (
        lambda f: hdf5(f, a=h5py.ExternalLink("gone.h5", "/t")),
        "/a is a link to /t in the file gone.h5, which is not there",
    ),
    "link to nothing": (lambda f: hdf5(f, a=h5py.SoftLink("/t")), "/a is a link to /t, and there is nothing"),
    "link by its name": (lambda f: f"{hdf5(f, a=h5py.SoftLink('/t'))}::a", "/a is a link to /t"),
    "virtual dataset": (
        lambda f: without(virtual(f), "parts/1.h5"),
        "virtual dataset .* parts/1.h5, which is not there",
    ),
    "filter": (lambda f: filtered(f / "x.h5", 32001), r"filter 32001 \(Blosc\), .*: pip install hdf5plugin"),
    "named type": (lambda f: f"{hdf5(f, a=np.dtype('f4'))}::a", "is a datatype without a shape"),
    "empty dataset": (lambda f: f"{hdf5(f, a=h5py.Empty('f4'))}::a", "is a dataset without a shape"),
    "no datasets": (lambda f: hdf5(f, a=np.dtype("f4")), "is a group without arrays"),
    "netCDF-3": (lambda f: written(f / "x.nc", b"CDF\x01" + b"\x01" * 60), "x.nc is no whole netCDF-3 file"),
    "netCDF-3, no more": (lambda f: written(f / "x.nc", b"CDF\x02"), "x.nc is no whole netCDF-3 file"),
    "netCDF-3, no variables": (lambda f: written(f / "x.nc", b"CDF\x01" + bytes(28)), "is a group without arrays"),
    "CDF-5": (lambda f: written(f / "x", b"CDF\x05" + bytes(60)), "is a netCDF-3 file .*`nccopy -k nc4 .*x NEW.nc`"),
    "HDF4": (lambda f: written(f / "x.hdf", b"\x0e\x03\x13\x01"), "is HDF4"),
    # Zarr
    "empty folder": (lambda f: made(f / "x.zarr"), "is no Zarr array or group: it has neither zarr.json"),
    "folder of arrays": (lambda f: grouped(made(f / "y")).parent, "neither .*; such are in it: x.zarr"),
    "empty group": (lambda f: Path(zarr.create_group(f / "x.zarr").store.root), "is a group without arrays"),
    "group cut": (lambda f: cut(grouped(f) / "zarr.json", 20).parent, "has metadata that are damaged or cut"),
    "array cut": (
        lambda f: cut(grouped(f) / "t/zarr.json", 20).parent.parent,
        "x.zarr/t has metadata that are damaged",
    ),
    "array cut, by name": (lambda f: cut(grouped(f) / "t/zarr.json", 20).parent, "x.zarr/t has metadata that are dam"),
    "no metadata": (lambda f: written(grouped(f) / "zarr.json", b"[]").parent, "cannot be opened by Zarr"),
    "pipe for metadata": (lambda f: piped(grouped(f) / "zarr.json").parent, "zarr.json is a pipe or a device"),
    "pipe for metadata of an array": (
        lambda f: piped(grouped(f) / "t/zarr.json").parent.parent,
        "t/zarr.json is a pipe or a device",
    ),
    "the same, by name": (lambda f: piped(grouped(f) / "t/zarr.json").parent, "t/zarr.json is a pipe or a device"),
    "bfloat16": (lambda f: said_of(f, data_type="bfloat16"), "t holds bfloat16, which Zarr .* tensorstore.open"),
    "two bytes": (
        lambda f: zarr.create_array(f / "x.zarr", shape=(3,), dtype="V2", zarr_format=2) and f / "x.zarr",
        "two bytes of no known type.*most often bfloat16",
    ),
    "another data type": (lambda f: said_of(f, "t", data_type="float9"), "data type that Zarr .* does not read"),
    "codec": (
        lambda f: said_of(f, "t", codecs=[{"name": "nonesuch"}]),
        "needs a codec that is not installed.*nonesuch",
    ),
    "chunk grid": (lambda f: said_of(f, "t", chunk_grid={"name": "hexagons"}), "cannot be opened by Zarr"),
    "version 4": (lambda f: said_of(f, "t", zarr_format=4), "cannot be opened by Zarr"),
    "pipe for a chunk": (lambda f: chunk(f, piped), "c/1/0 is a pipe or a device"),
    "link for a chunk": (
        lambda f: chunk(f, lambda c: c.unlink() or linked(c, "y")),
        "c/1/0 is a link that leads nowhere",
    ),
    "name that is not there": (lambda f: f"{grouped(f)}::u", "has no array 'u'; it holds t"),
    "name below it": (lambda f: grouped(f) / "u", "does not exist; .*x.zarr holds t"),
    "archive cut": (lambda f: cut(in_zip(f / "x.zip", "zarr.json"), 60), "is no whole zip archive"),
    "archive of others": (lambda f: in_zip(f / "x.zip", "a", "b"), "is an archive without a Zarr array or group"),
    "archive of several": (
        lambda f: in_zip(f / "x.zip", "a/zarr.json", "b/c/.zgroup"),
        "archive of 2 Zarr arrays or groups that lie in no common one: a, b/c",
    ),
    "archive of what is damaged": (lambda f: in_zip(f / "x.zip", "zarr.json"), "has metadata that are damaged or cut"),
    "name in an archive": (lambda f: in_zip(f / "x.zip", "zarr.json") / "t", "name what is in it as .*x.zip::t"),
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


def told(*arguments: Any) -> str:
    """The one message of a command that ends as one that was called wrongly."""
    result = CliRunner().invoke(commands.main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "This is a bug" not in line
    return line


@pytest.mark.usefixtures("without_plugins")
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_told_in_one_message(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    (words,) = {told("plan", path, tmp_path / "s"), told("run", path, tmp_path / "s"), told("suggest", path)}
    assert re.search(message, words)
    assert str(tmp_path) in words
    assert told("info", path)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        as_source(path)
    assert sorted(tmp_path.rglob("*")) == before


# What shows only when values are read ---------------------------------------------------------------------------------


def compressed(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("t", data=VALUES, chunks=(10, 60), compression="gzip")
        information = file["t"].id.get_chunk_info(1)
    data = bytearray((folder / "x.h5").read_bytes())
    data[information.byte_offset : information.byte_offset + information.size] = bytes(information.size)
    return written(folder / "x.h5", bytes(data))


def archived(folder: Path) -> Path:
    """A zip archive with a flipped bit in a chunk."""
    path = grouped(folder)
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for file in sorted(path.rglob("*")):
            archive.write(file, file.relative_to(path))
    data = bytearray((folder / "x.zip").read_bytes())
    data[data.index((path / "t/c/2/0").read_bytes()) + 50] ^= 1
    shutil.rmtree(path)
    return written(folder / "x.zip", bytes(data))


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "HDF5": (compressed, r"x.h5::/t cannot be read: Can't .* read data .*\. Copy or download its file again"),
    "Zarr": (
        lambda f: chunk(f, lambda c: c.write_bytes(b"no")),
        r"x.zarr/t cannot be read at \[.*, where a chunk is damaged",
    ),
    "zip": (archived, r"x.zip::t cannot be read at \[.*, where a chunk is damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_chunk_that_is_damaged_is_told_in_one_message(tmp_path: Path, name: str) -> None:
    make, message = DAMAGED[name]
    path = make(tmp_path)
    with pytest.raises(SourceError, match=message):
        quantize_to_zarr(path, MemoryStore())
    assert re.search(message, told("suggest", path))


# Permissions ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder, and a process that is no superuser while the test runs: to that all files are readable."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(before)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("make", [npy, hdf5, grouped])
def test_a_missing_permission_is_named_as_such(as_nobody: Path, make: Callable[[Path], Path]) -> None:
    path = make(as_nobody)
    path.chmod(0)
    assert re.search(f"{path} cannot be read: this user has no permission", told("plan", path, as_nobody / "s"))


def test_a_file_in_a_folder_without_permission(as_nobody: Path) -> None:
    path = npy(made(as_nobody / "y"))
    path.parent.chmod(0)
    assert re.search(f"{path} cannot be read: this user has no permission", told("plan", path, as_nobody / "s"))


# What is read all the same --------------------------------------------------------------------------------------------


def test_a_broken_array_does_not_hide_the_others(tmp_path: Path) -> None:
    path = said_of(tmp_path, data_type="bfloat16")
    zarr.open_group(path).create_array("deep/u", data=VALUES)
    assert list(sources_of(path)) == ["deep/u", "t"]
    check(quantize_to_zarr(f"{path}/deep/u", MemoryStore()), VALUES)
    check(quantize_to_zarr(f"{path}::deep/u", MemoryStore()), VALUES)
    with pytest.raises(ValueError, match=r"several arrays: deep/u \(40, 60\) float32, t \(not readable\)"):
        as_source(path)


def test_the_one_to_name_is_one_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink("gone.h5", "/x")
        file["k"] = VALUES
        file["z"] = VALUES
    with pytest.raises(ValueError, match=rf"holds several arrays: a .*\. Name one, as in {path}::/?k$"):
        as_source(path)


def test_bfloat16_is_read_as_the_messages_say(tmp_path: Path) -> None:
    values = VALUES.astype(ml_dtypes.bfloat16)
    path = npy(tmp_path, ml_dtypes.bfloat16)
    check(quantize_to_zarr(np.load(path, mmap_mode="r").view(ml_dtypes.bfloat16), MemoryStore()), values)
    zarr.create_array(tmp_path / "z", data=np.load(path), zarr_format=2, chunks=(10, 60))
    lazy = dask.array.from_zarr(tmp_path / "z").view(ml_dtypes.bfloat16)
    check(quantize_to_zarr(lazy, MemoryStore()), values)


def test_a_header_is_read_and_not_the_whole_file(tmp_path: Path) -> None:
    """A file of a terabyte, most of it a hole, in a process that may map 16 GiB."""
    with (tmp_path / "x.npy").open("wb") as file:
        shape = (1 << 20, 1 << 18)
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        try:
            file.truncate(file.tell() + 4 * shape[0] * shape[1])
        except OSError:
            pytest.skip("the file system has no files of a terabyte")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, before[1]))
    try:
        source = as_source(tmp_path / "x.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert source.shape == shape
    assert not source.read((slice(5, 6), slice(0, 7))).any()
