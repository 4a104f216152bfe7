"""A sink writes regions in any order and from several threads, and refuses beforehand what its format cannot hold."""

import errno
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from strategies import DTYPES

from quantize.io import sink_of
from quantize.io.formats.npy import NpySink
from quantize.io.formats.zarr import ZarrSink
from quantize.io.formats.zarr import put as zarr_put
from quantize.io.sink import Outline, Put, check_room, machine, remove, replacing
from quantize.numerics.grid import Grid, Region

SHAPE = (13, 10, 7)
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.npy", NpySink),
        ("x.zarr", ZarrSink),
        ("folder.npy/x", ZarrSink),
        ("x", ZarrSink),
        ("era5-0.25", ZarrSink),
        ("x.NPY", NpySink),
        (Path("a/x.npy"), NpySink),
    ],
)
def test_which_sink(name: Any, kind: type) -> None:
    assert type(sink_of(name)) is kind


@pytest.mark.parametrize("name", ["r.h5", "x.of-some-kind", "x.zarr.zip", "a.npy/x.nc", Path("x.Npz")])
def test_suffixes_that_are_not_written_are_refused_with_those_that_are(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"{Path(name).suffix.lower()}, but .* ends with .npy or .zarr or no suffix"):
        sink_of(name)


def dead_process() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_dead_processes_left_of_a_target_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target, dead = tmp_path / "x.npy", dead_process()
    gone = [f".x.npy.{dead}{rest}.partial" for rest in ("", f"-{machine()}", f"-{machine()}-00c0ffee")]
    stays = [
        f".x.npy.{os.getppid()}-{machine()}.partial",  # at work
        f".x.npy.{dead}-{'0' * 8}.partial",  # of another machine, where it may be at work
        f".x.npy.{dead}-{'0' * 8}-00c0ffee.partial",
        f".y.npy.{dead}.partial",
        f"x.npy.{dead}.partial",
        ".x.npy.partial",
    ]
    for name in stays:
        (tmp_path / name).write_text("mine")
    (tmp_path / gone[0]).write_text("half of it")
    (tmp_path / gone[1]).mkdir()
    (tmp_path / gone[1] / "zarr.json").write_text("half of it")
    (tmp_path / gone[2]).mkdir()
    with replacing(target, overwrite=False) as partial:
        assert {path.name for path in tmp_path.iterdir()} == {*stays}
        partial.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*stays, "x.npy"}


def test_leftovers_count_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / f".x.npy.{dead_process()}-{machine()}.partial"
    leftover.write_text("half of it")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2, 1, 0 if leftover.exists() else 1))
    check_room(tmp_path / "x.npy", 1, "the floats")
    with pytest.raises(ValueError, match=r"x.npy: the floats take 2,000 bytes, and 1 are free. Make room"):
        check_room(tmp_path / "x.npy", 2000, "the floats")


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    outline = Outline((4,), np.dtype("f4"))
    with (
        pytest.raises(OSError, match="No space left") as caught,
        replacing(tmp_path / "x.npy", False) as partial,
        NpySink().open(partial, outline) as put,
    ):
        put((slice(0, 4),), np.zeros(4, "f4"))
    assert caught.value.filename == str(tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_was_removed_is_not_written_to(tmp_path: Path) -> None:
    """By a worker of a cluster, of whose end nobody waited for: its function travels, and outlives what gave it."""
    array, ones = tmp_path / "x.zarr", np.ones((2, 2), "f4")
    with sink_of(array).open(array, Outline((4, 2), ones.dtype, (2, 2))) as put:
        other = pickle.loads(pickle.dumps(put))
        other((slice(0, 2), slice(0, 2)), ones)
        np.testing.assert_array_equal(zarr.open_array(array)[:, 0], [1, 1, 0, 0])
    remove(array)
    with pytest.raises(FileNotFoundError, match=r"x\.zarr"):
        other((slice(2, 4), slice(0, 2)), ones)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_into_an_array_while_it_is_removed_goes_too(tmp_path: Path) -> None:
    """Of several workers, each at another place of its writing, while `replacing` ends."""
    target, ones = tmp_path / "x.zarr", np.ones((64, 2), "f4")
    failed: list[BaseException] = []
    writers: list[threading.Thread] = []

    def write(put: Put, first: int) -> None:
        try:
            while True:
                for start in range(first, len(ones), 4):
                    put((slice(start, start + 1), slice(0, 2)), ones[:1])
        except FileNotFoundError as error:
            failed.append(error)

    def lose() -> None:
        with replacing(target, False) as partial:
            with sink_of(target).open(partial, Outline(ones.shape, ones.dtype, (1, 2))) as put:
                writers.extend(threading.Thread(target=write, args=(put, first)) for first in range(4))
                for writer in writers:
                    writer.start()
                time.sleep(0.05)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        lose()
    for writer in writers:
        writer.join()
    assert len(failed) == len(writers)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_comes_back_between_a_look_and_a_write_goes_again(tmp_path: Path) -> None:
    class Held:
        def __setitem__(self, region: Region, values: np.ndarray) -> None:
            remove(tmp_path / "x.zarr")
            (tmp_path / "x.zarr" / "c").mkdir(parents=True)

    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        zarr_put(Held(), str(tmp_path / "x.zarr"), (slice(0, 1),), np.zeros(1, "f4"))
    assert list(tmp_path.iterdir()) == []


def test_two_at_work_on_one_target_do_not_write_into_one_another(tmp_path: Path) -> None:
    with replacing(tmp_path / "x", False) as one, replacing(tmp_path / "x", False) as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_regions_from_several_threads_are_where_they_belong(tmp_path: Path, name: str, dtype: np.dtype[Any]) -> None:
    sink = sink_of(name)
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(sink.stored_dtype(dtype))
    outline = Outline(SHAPE, values.dtype, (4, 3, 7), attributes={"units": "K"}, dimension_names=("t", "y", "x"))
    sink.check(outline)
    grid = Grid(SHAPE, (4, 3, 7))
    numbers = random.Random(0).sample(range(grid.count), grid.count)
    with sink.open(tmp_path / name, outline) as put, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: put(grid.region(number), values[grid.region(number)]), numbers))
    written = np.load(tmp_path / name) if name == "x.npy" else zarr.open_array(tmp_path / name, mode="r")
    assert written.dtype == values.dtype
    np.testing.assert_array_equal(written[...], values)
    if name == "x.zarr":
        assert dict(written.attrs) == {"units": "K"}
        assert written.metadata.dimension_names == ("t", "y", "x")


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), SHAPE])
@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", "f8"])
def test_an_npy_file_is_what_numpy_would_write(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "numpy.npy", values)
    with NpySink().open(tmp_path / "x.npy", Outline(shape, values.dtype)) as put:
        put(tuple(slice(0, n) for n in shape), values)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_what_no_region_covers_is_zero(tmp_path: Path, name: str) -> None:
    with sink_of(name).open(tmp_path / name, Outline((4, 3), np.dtype("f4"), (2, 3))) as put:
        put((slice(2, 4), slice(0, 3)), np.ones((2, 3), "f4"))
    written = np.load(tmp_path / name) if name == "x.npy" else zarr.open_array(tmp_path / name, mode="r")[...]
    assert written.tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_a_file_that_is_there_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError), sink_of(name).open(tmp_path / name, Outline((4,), np.dtype("f4"), (2,))):
        pass
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("sink", [NpySink(), ZarrSink()], ids=lambda sink: sink.name)
def test_a_dtype_that_a_format_lacks_is_refused(sink: Any) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16)
    with pytest.raises(ValueError, match=rf"{sink.name} has no bfloat16; write the values as float32"):
        sink.check(Outline((4,), dtype, (2,)))
    sink.check(Outline((4,), sink.stored_dtype(dtype), (2,)))


def test_zarr_wants_chunks() -> None:
    with pytest.raises(ValueError, match="a Zarr array has chunks"):
        ZarrSink().check(Outline((4,), np.dtype("f4")))
