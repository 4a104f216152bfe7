"""A sink writes regions in any order and from several threads, and refuses beforehand what its format cannot hold."""

import random
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
from quantize.io.sink import Outline
from quantize.numerics.grid import Grid

SHAPE = (13, 10, 7)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.npy", NpySink),
        ("x.zarr", ZarrSink),
        ("folder.npy/x", ZarrSink),
        ("x", ZarrSink),
        ("x.of-some-kind", ZarrSink),
        (Path("a/x.npy"), NpySink),
    ],
)
def test_which_sink(name: Any, kind: type) -> None:
    assert type(sink_of(name)) is kind


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
