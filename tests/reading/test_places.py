"""Places that are only read: zip archives, stores that cannot list or delete, web servers, read-only folders."""

import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from marks import slow
from stores import check, field
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from quantize import (
    DamagedChunkError,
    StoreError,
    measure_error,
    open_int4,
    plan,
    quantize_to_zarr,
    restore,
    seal,
    verify,
)
from quantize.cli import commands
from quantize.io import as_source
from quantize.reading.summary import description, summary

VALUES = field((40, 60))
WHOLE = (slice(0, 40), slice(0, 60))
JOBS: list[dict[str, Any]] = [{"chunks": (10, 60)}, {"chunks": (10, 20), "shards": (20, 60), "axis": 0}]


class Unlisted(WrapperStore[LocalStore]):
    """A store that can be read and nothing else, as one over HTTP."""

    supports_writes = supports_deletes = supports_listing = False  # type: ignore[assignment]
    read_only = True  # type: ignore[assignment]

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise AssertionError(prefix)
        yield ""

    list_dir = list_prefix

    async def delete(self, key: str) -> None:
        raise AssertionError(key)

    set = set_if_not_exists = delete_dir = delete  # type: ignore[assignment]


def zipped(folder: Path, archive: Path, top: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(top) / path.relative_to(folder))
    return archive


PLACES = {
    "zip by path": lambda folder: zipped(folder, folder.with_suffix(".zarr.zip")),
    "zip of another name": lambda folder: zipped(folder, folder.with_suffix(".x"), compression=zipfile.ZIP_DEFLATED),
    "zip": lambda folder: ZipStore(zipped(folder, folder.with_suffix(".zip")), mode="r"),
    "zip for appending": lambda folder: ZipStore(zipped(folder, folder.with_suffix(".zip")), mode="a"),
    "read-only folder": lambda folder: LocalStore(folder, read_only=True),
    "without a listing": lambda folder: Unlisted(LocalStore(folder, read_only=True)),
}


@pytest.mark.parametrize("job", [*JOBS, slow({**JOBS[1], "axis": None, "blocks": (5, 4)})], ids=str)
@pytest.mark.parametrize("name", PLACES)
def test_what_is_only_read_is_shown_verified_and_restored(tmp_path: Path, name: str, job: dict[str, Any]) -> None:
    array = quantize_to_zarr(VALUES, tmp_path / "z", **job)
    place = PLACES[name](tmp_path / "z")
    again = open_int4(place, "data")
    assert again[...].tobytes() == array[...].tobytes()
    assert again[3:7, ::2].tobytes() == array[3:7, ::2].tobytes()
    assert again.to_dask()[5].compute().tobytes() == array[5].tobytes()
    if name != "zip of another name":  # that is compressed once more
        assert summary(again) == {**summary(array), "path": again.path}
    assert description(again)
    assert verify(place, "data", VALUES).ok
    assert measure_error(VALUES, again).within_bound
    restore(place, tmp_path / "x.npy", "data")
    assert np.load(tmp_path / "x.npy").tobytes() == array[...].tobytes()
    for write in (plan, quantize_to_zarr):
        with pytest.raises((TypeError, ValueError), match=r"cannot list and delete|open for reading only"):
            write(VALUES, place)
    if name == "without a listing":
        with pytest.raises(StoreError, match="cannot list what it holds: pass name="):
            open_int4(place)
        with pytest.raises(StoreError, match=r"holds no int4 variable 'other'$"):
            open_int4(place, "other")
    else:
        assert open_int4(place).name == "data"
        assert seal(place).name == "data"


def test_the_command_line_reads_archives(tmp_path: Path) -> None:
    array = quantize_to_zarr(VALUES, tmp_path / "z")
    archive = zipped(tmp_path / "z", tmp_path / "z.zarr.zip")
    zarr.create_group(tmp_path / "source").create_array("t", data=VALUES)
    source = zipped(tmp_path / "source", tmp_path / "source.zarr.zip", "source")

    def output(*arguments: Any) -> str:
        result = CliRunner().invoke(commands.main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert f"{archive}::data" in output("info", archive) or f"{archive}/data" in output("info", archive)
    assert output("verify", archive, source).endswith("chunks are whole, with the codes of " + f"{source}\n")
    output("restore", archive, tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").tobytes() == array[...].tobytes()
    output("run", source, tmp_path / "s")
    output("run", f"{source}::source/t", tmp_path / "s", "--name", "b")
    for name in ("data", "b"):
        check(open_int4(tmp_path / "s", name), VALUES)


def test_an_archive_is_a_source_in_every_form(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g").create_array("t", data=VALUES, chunks=(10, 60))
    path = zipped(tmp_path / "g", tmp_path / "g.zip")
    for thing in (path, f"{path}::t", ZipStore(path), zarr.open(ZipStore(path), mode="r"), LocalStore(tmp_path / "g")):
        np.testing.assert_array_equal(as_source(thing).read(WHOLE), VALUES)
        check(quantize_to_zarr(thing, MemoryStore()), VALUES)


def test_damage_in_an_archive_is_damage_of_a_store(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path / "z", chunks=(10, 60))
    archive = zipped(tmp_path / "z", tmp_path / "z.zip")
    data = bytearray(archive.read_bytes())
    data[data.index((tmp_path / "z/data/c/2/0").read_bytes()) + 9] ^= 1
    archive.write_bytes(data)
    with pytest.raises(
        DamagedChunkError, match=r"z.zip/data/c/2/0 is damaged: the archive does not give it \(Bad CRC-32"
    ):
        open_int4(archive)[25]
    assert [key for key, _ in verify(archive).damaged] == ["data/c/2/0"]
    np.testing.assert_array_equal(open_int4(archive)[:20], open_int4(tmp_path / "z")[:20])
    archive.write_bytes(data[:-30])
    with pytest.raises(StoreError, match="is no whole zip archive"):
        open_int4(archive)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_int4(ZipStore(tmp_path / "gone.zip"))


def test_a_folder_in_an_archive_is_told(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path / "z")
    with pytest.raises(StoreError, match=r"at its root: its content lies in the folder top/z\. Zip what that holds"):
        open_int4(zipped(tmp_path / "z", tmp_path / "z.zip", "top/z"))


# Over HTTP ------------------------------------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    lists = True

    def list_directory(self, path: Any) -> Any:
        if self.lists:
            return super().list_directory(path)
        self.send_error(403)
        return None

    def log_message(self, *_: Any) -> None:
        pass


class Silent(Handler):
    lists = False


@pytest.fixture(params=[Handler, Silent])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    from fsspec.implementations.http import HTTPFileSystem

    for file_system in HTTPFileSystem._cache.values():  # or its connections would be closed, with a warning, much later
        if file_system._session is not None:
            sync(file_system._session.close())
    HTTPFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_store_on_a_web_server_is_read(tmp_path: Path, url: str) -> None:
    array = quantize_to_zarr(VALUES, tmp_path / "z", chunks=(10, 60))
    again = open_int4(f"{url}/z", "data")
    assert again[...].tobytes() == array[...].tobytes()
    assert again.nbytes_stored == array.nbytes_stored
    assert verify(f"{url}/z", "data").ok
    zarr.create_array(tmp_path / "t.zarr", data=VALUES, chunks=(10, 60))
    source = as_source(f"{url}/t.zarr")
    np.testing.assert_array_equal(source.read(WHOLE), VALUES)
    assert source.notes == ()
    with pytest.raises(FileNotFoundError, match="holds no Zarr array or group"):
        as_source(f"{url}/gone.zarr")
    with pytest.raises(StoreError, match="holds no int4 variable"):
        open_int4(f"{url}/gone", "data")


# The kernels ----------------------------------------------------------------------------------------------------------

COMPILING = """
import errno, numpy
from numba.core import caching
from quantize.kernels import compiled

def refuse(self):
    raise OSError(errno.EROFS, "Read-only file system")

caching._CacheLocator.ensure_cache_path = refuse

def add(a):
    return a[0] + a[1]

print(compiled(add, "x")(numpy.array([1, 2])))
"""


def test_kernels_are_compiled_where_no_folder_can_be_written(tmp_path: Path) -> None:
    """Numba falls back to compiling in each process where all the places that it has for a cache refuse."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPILING], capture_output=True, text=True, env=None, check=False
    )
    assert (found.stdout, found.stderr) == ("3\n", "")
