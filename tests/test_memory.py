"""The promise of memory: what a run holds above the imports is no more than its plan said, for every kind of source."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from marks import mostly_slow

from quantize import Int4Writer, dequantize_from_packed_int4, open_int4, plan, quantize_to_packed_int4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

MIB = 1 << 20
ROWS, COLUMNS = 16 * 1024, 4096  # 256 MiB of float32

MEASURE = """
import json, sys
import dask.array, h5py, numpy as np, zarr
import quantize, quantize.reading.array, quantize.kernels, quantize.pipeline, quantize.reading.restore

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def baseline():
    import quantize.reading.array, quantize.kernels, quantize.pipeline
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted from here on
    return memory("VmRSS")

def peak():
    return memory("VmHWM")

def everywhere(function):  # in the processes of a cluster, or here
    return sum(scope["client"].run(function).values()) if "client" in scope else function()

setup, options, store = json.loads(sys.argv[1])
scope = {"np": np, "zarr": zarr, "dask": dask, "h5py": h5py}
exec(setup, scope)
before = everywhere(baseline)
events = []
quantize.quantize_to_zarr(scope["source"], store, progress=lambda event: events or events.append(event), **options)
said = events[0]
print(json.dumps({"peak": everywhere(peak) - before, "said": said.memory, "workers": said.workers,
                  "scheduler": said.scheduler}))
if "client" in scope:
    scope["client"].shutdown()
"""


def measured(
    setup: str, store: Path, cache: Path | None = None, call: str = "quantize_to_zarr", **options: Any
) -> dict[str, Any]:
    """Peak memory of one job in its own process, above the imports and what `setup` made, and the plan's figure.

    Nothing is compiled yet, but what an earlier job left in a `cache`.
    """
    code = MEASURE.replace("quantize_to_zarr", call)
    command = [sys.executable, "-c", code, json.dumps([setup, options, str(store)])]
    compiled = str(cache or store.with_name("cache"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": compiled}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    print({key: f"{value / MIB:.1f} MiB" if key in ("peak", "said") else value for key, value in found.items()})
    return found


def blocks(rows: int) -> Iterator[np.ndarray]:
    """Random values that no codec makes much smaller, a block of 16 MiB at a time."""
    random = np.random.default_rng(0)
    for _ in range(rows // 1024):
        yield random.normal(size=(1024, COLUMNS)).astype(np.float32)


SHAPE = (ROWS, COLUMNS)
CHUNKED: dict[str, Any] = {"shape": SHAPE, "dtype": "f4", "chunks": (2048, 2048)}  # 16 MiB
FILES: dict[str, Callable[[Path], Any]] = {
    "x.npy": lambda path: np.lib.format.open_memmap(path, "w+", np.float32, SHAPE),
    "plain.zarr": lambda path: zarr.create_array(path, **CHUNKED, compressors=None),
    "zstd.zarr": lambda path: zarr.create_array(path, **CHUNKED),
    "sharded.zarr": lambda path: zarr.create_array(path, **{**CHUNKED, "chunks": (512, 512), "shards": (4096, 4096)}),
    "x.h5": lambda path: h5py.File(path, "w").create_dataset("x", SHAPE, "f4", chunks=(1024, 4096)),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The code that opens a source of this name: all hold the same values, in files made once they are asked for."""
    folder = tmp_path_factory.mktemp("sources")

    def setup(name: str) -> str:
        code = SETUPS[name].format(folder=folder)
        file = next(file for file in FILES if file in code)
        if not (folder / file).exists():
            sink = FILES[file](folder / file)
            sink[...] = np.concatenate(list(blocks(ROWS)))
            if isinstance(sink, h5py.Dataset):
                sink.file.close()
        return code

    yield setup
    shutil.rmtree(folder)


SETUPS = {
    "npy": "source = '{folder}/x.npy'",
    "memmap": "source = np.load('{folder}/x.npy', mmap_mode='r')",
    "strided memmap": "source = np.load('{folder}/x.npy', mmap_mode='r')[:, ::2]",
    "crossed memmap": "source = np.load('{folder}/x.npy', mmap_mode='r').reshape(64, 256, 4096).transpose(1, 0, 2)",
    "private memmap": "source = np.load('{folder}/x.npy', mmap_mode='c')[::-1]",
    "array": "source = np.load('{folder}/x.npy')",
    "plain zarr": "source = '{folder}/plain.zarr'",
    "zstd zarr": "source = '{folder}/zstd.zarr'",
    "sharded zarr": "source = '{folder}/sharded.zarr'",
    "hdf5": "source = '{folder}/x.h5'",
    "dask": "source = dask.array.from_zarr('{folder}/zstd.zarr') * 2 + 1",
}


@pytest.mark.parametrize("name", mostly_slow(SETUPS, ["npy"]))
def test_a_run_holds_no_more_than_its_plan_said(sources: Callable[[str], str], tmp_path: Path, name: str) -> None:
    found = measured(sources(name), tmp_path / "z", workers=2)
    assert found["peak"] <= found["said"]
    assert found["said"] < 2 * ROWS * COLUMNS * 4  # a promise that cannot be broken is none


@pytest.mark.slow
def test_a_mask_on_a_memory_map_costs_no_more(sources: Callable[[str], str], tmp_path: Path) -> None:
    setup = sources("strided memmap") + "\nsource = np.ma.array(source, mask=np.zeros(source.shape, bool))"
    found = measured(f"{setup}\nsource.mask[0, 0] = True", tmp_path / "z", workers=2, nan_policy="propagate")
    assert found["peak"] <= found["said"] < ROWS * COLUMNS * 4


SCHEDULERS = {
    "synchronous": "dask.config.set(scheduler='synchronous')",
    "distributed": "from distributed import Client\n"
    "client = Client(n_workers=2, threads_per_worker=2, dashboard_address=':0')",
}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_holds_no_more_than_its_plan_said_on_any_scheduler(
    sources: Callable[[str], str], tmp_path: Path, scheduler: str
) -> None:
    """On a cluster all its processes together."""
    setup = f"{SCHEDULERS[scheduler]}\n{sources('npy')}"
    found = measured(setup, tmp_path / "z")
    assert found["scheduler"] == scheduler
    assert found["peak"] <= found["said"] < 2 * ROWS * COLUMNS * 4


def tiled(path: Path, nbytes: int, dtype: str) -> None:
    """Values of a dtype in a file, the same block over and over."""
    block = next(blocks(1024)) * 30 + 100
    with open(path, "wb") as file:
        data = block.astype(np.dtype(dtype)).tobytes()
        for start in range(0, nbytes, len(data)):
            file.write(data[: nbytes - start])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int16", "uint8"])
def test_a_run_holds_no_more_than_its_plan_said_whatever_the_dtype(tmp_path: Path, dtype: str) -> None:
    tiled(tmp_path / "x", 256 * MIB, dtype)
    columns = 4096 // np.dtype(dtype).itemsize
    found = measured(f"source = np.memmap('{tmp_path}/x', '{dtype}', 'r').reshape(-1, {columns})", tmp_path / "z")
    assert found["peak"] <= found["said"] < 256 * MIB


@pytest.mark.slow
def test_ten_times_the_data_take_the_same_memory(tmp_path: Path) -> None:
    peaks = []
    for size in (64, 64, 640):  # the first one compiles
        tiled(tmp_path / "x", size * MIB, "float32")
        setup = f"source = np.memmap('{tmp_path}/x', 'float32', 'r').reshape(-1, 1024)"
        found = measured(setup, tmp_path / str(len(peaks)), tmp_path / "cache", workers=2)
        assert found["peak"] <= found["said"]
        peaks.append(found["peak"])
    assert abs(peaks[2] - peaks[1]) < 8 * MIB


# Settings by name, and the sources that each is tried on: of all pairs those in which reading and the settings meet.
SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "300 MiB": ({"memory": "300MiB"}, ["npy", "crossed memmap", "zstd zarr", "sharded zarr", "hdf5"]),
    "600 MiB": ({"memory": "600MiB"}, ["memmap", "strided memmap", "zstd zarr", "sharded zarr", "dask"]),
    "chunks across those of the source": (
        {"chunks": [1000, 1000]},
        ["npy", "zstd zarr", "sharded zarr", "hdf5", "dask"],
    ),
    "shards": (
        {"chunks": [512, 512], "shards": [4096, 2048]},
        ["array", "private memmap", "plain zarr", "sharded zarr"],
    ),
    "large chunks": (
        {"chunks": [4096, 4096], "compressors": "blosc", "workers": 4},
        ["memmap", "strided memmap", "zstd zarr", "sharded zarr", "hdf5"],
    ),
    "narrow columns": (
        {"chunks": [-1, 256], "compressors": None, "verify": True},
        ["npy", "private memmap", "plain zarr", "hdf5", "dask"],
    ),
    "value range": ({"value_range": [-3, 3]}, ["npy", "crossed memmap", "array", "sharded zarr"]),
    "mse": ({"scale_method": "mse"}, ["memmap", "strided memmap", "crossed memmap", "zstd zarr", "dask"]),
    "mse of rows": ({"axis": 0, "scale_method": "mse"}, ["array", "private memmap", "plain zarr", "dask"]),
    "columns": ({"axis": 1}, ["npy", "strided memmap", "crossed memmap", "hdf5", "dask"]),
    "mse of columns": (
        {"axis": 1, "scale_method": "mse", "chunks": [2048, 2048]},
        ["memmap", "zstd zarr", "sharded zarr", "dask"],
    ),
    "rows in several chunks": ({"axis": 0, "chunks": [2048, 2048]}, ["array", "private memmap", "plain zarr", "dask"]),
    "blocks": ({"blocks": [1, 32], "scale_method": "mse"}, ["npy", "strided memmap", "sharded zarr", "dask"]),
    "blocks in 320 MiB": ({"blocks": [1, 32], "scale_method": "mse", "memory": "320MiB"}, ["npy", "zstd zarr"]),
    "small tiles in shards": (
        {"blocks": [2, 2], "chunks": [512, 512], "shards": [4096, 2048]},
        ["memmap", "zstd zarr"],
    ),
    "long blocks": ({"blocks": [-1, 8], "scale_method": "mse"}, ["array", "plain zarr", "hdf5"]),
}
PAIRS = [(name, setting) for setting, (_, names) in SETTINGS.items() for name in names]


def test_every_source_is_tried_with_several_settings() -> None:
    tried = [name for name, _ in PAIRS]
    assert all(tried.count(name) >= 4 for name in SETUPS)
    assert set(tried) == set(SETUPS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "setting"), PAIRS)
def test_a_run_holds_no_more_than_its_plan_said_whatever_the_settings(
    sources: Callable[[str], str], tmp_path: Path, cache: Path, name: str, setting: str
) -> None:
    """The first with a setting compiles."""
    options, _ = SETTINGS[setting]
    found = measured(sources(name), tmp_path / "z", cache, **{"workers": 2, **options})
    assert found["peak"] <= found["said"]
    if "memory" in options:
        assert found["said"] <= int(options["memory"].removesuffix("MiB")) * MIB


@pytest.mark.slow
def test_4_gib_go_through_256_mb(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.npy", 256 * 1024
    try:
        with open(path, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS)}
            np.lib.format.write_array_header_2_0(file, header)
            block = next(blocks(1024))
            for number in range(rows // 1024):
                file.write((block * np.float32(1 + number / 16)).tobytes())
        assert path.stat().st_size > 4 << 30
        found = measured(f"source = {str(path)!r}", tmp_path / "z", memory="256M")
        assert found["peak"] <= found["said"] <= 256_000_000
        assert plan(path, tmp_path / "z", memory="256M").passes == 2
        array = open_int4(tmp_path / "z")
        values = np.load(path, mmap_mode="r")
        whole = (float(values.min()), float(values.max()))
        assert (array.metadata.statistics["min"], array.metadata.statistics["max"]) == whole
        step = array.chunks[0]
        for start in range(0, rows, step):
            part = np.array(values[start : start + step])
            packed = quantize_to_packed_int4(part, value_range=whole)
            assert (packed.scale, packed.zero_point) == (array.scale, array.zero_point)
            np.testing.assert_array_equal(array.packed[start : start + step], packed.packed.view(np.uint8))
            if start % (16 * step) == 0:
                floats = dequantize_from_packed_int4(*packed[:3], size=packed.size)
                np.testing.assert_array_equal(array[start : start + step], floats)
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.slow
def test_a_checkpoint_with_one_large_tensor_holds_no_more_than_its_plan_said(tmp_path: Path) -> None:
    """1 GiB of one tensor, a large one that is kept, and many small ones."""
    shapes = {"large": (16 * 1024, 16 * 1024), "kept": (48 << 20,)}
    shapes |= {f"layer.{number}.weight": (64, 128) for number in range(100)}
    shapes |= {f"layer.{number}.bias": (128,) for number in range(100)}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    try:
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            data = next(blocks(1024)).tobytes()
            for start in range(0, end, len(data)):
                file.write(data[: end - start])
        found = measured(f"source = {str(path)!r}", tmp_path / "z", call="quantize_dataset", workers=2)
        assert found["peak"] <= found["said"] < 512 * MIB
        collection = open_int4(tmp_path / "z")
        assert len(collection.quantized) == 101
        start = 8 + len(text) + header["kept"]["data_offsets"][0]
        kept = np.memmap(path, "f4", "r", offset=start, shape=shapes["kept"])
        for at in range(0, len(kept), 4 << 20):
            np.testing.assert_array_equal(collection["kept"][at : at + (4 << 20)], kept[at : at + (4 << 20)])
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [64, 8192])
@pytest.mark.parametrize("settings", [{"value_range": (-6, 6)}, {"blocks": 32}], ids=["one scale", "blocks"])
def test_an_append_into_a_large_chunk_holds_no_more_than_its_plan_said(
    tmp_path: Path, settings: dict[str, Any], rows: int
) -> None:
    values = np.concatenate(list(blocks(ROWS)))
    with Int4Writer(tmp_path / "z", (None, COLUMNS), "float32", chunks=(ROWS, -1), **settings) as writer:
        writer.write(values[:-rows])
    np.save(tmp_path / "x.npy", values[-rows:])
    found = measured(f"source = {str(tmp_path / 'x.npy')!r}", tmp_path / "z", call="append_to_zarr", outside="saturate")
    assert 0 < found["peak"] <= found["said"]


@pytest.mark.slow
def test_the_measure_sees_what_is_held(tmp_path: Path) -> None:
    """An array that is made while the run goes on is counted: the tests above could fail."""
    setup = f"""
class Hoarder:
    shape, dtype, held = ({ROWS}, {COLUMNS}), np.dtype('f4'), []
    def __getitem__(self, index):
        self.held.append(np.ones([part.stop - part.start for part in index], 'f4'))
        return self.held[-1]
source = Hoarder()
"""
    found = measured(setup, tmp_path / "z", workers=1)
    assert found["peak"] > ROWS * COLUMNS * 4 > found["said"]
