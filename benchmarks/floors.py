"""Yardsticks: what the same bytes take, read, copied or written on two threads, and nothing else done to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zarr
import zarr.core.codec_pipeline
from zarr.core.sync import cleanup_resources

from .measuring import timed

Item = TypeVar("Item")

MIB = 1 << 20
THREADS = 2
COLUMNS = 1024
PIECE = 4096  # rows of 4 KiB that a thread takes at a time: 16 MiB
POOL = "threading.max_workers"
FUSED = "FusedCodecPipeline"  # of newer versions of zarr


def on_threads(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call `work` with each item, and drop what comes of it."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(work, items):
            pass


def pieces(rows: int, length: int = PIECE) -> list[slice]:
    return [slice(start, start + length) for start in range(0, rows, length)]


def fill_gaussian(values: np.ndarray) -> np.ndarray:
    """The same float32 array, filled with numbers that depend on nothing but its shape."""
    parts = [values[piece] for piece in pieces(len(values))]
    on_threads(lambda k: np.random.default_rng(k).standard_normal(dtype=np.float32, out=parts[k]), range(len(parts)))
    return values


def save_gaussian(path: str | Path, rows: int) -> None:
    """Write a `.npy` file of float32, ``(rows, 1024)``, and wait until it is on the disk: later that would disturb."""
    values = np.lib.format.open_memmap(path, "w+", np.float32, (rows, COLUMNS))
    fill_gaussian(values)
    values.flush()


# Files ----------------------------------------------------------------------------------------------------------------


def scanned_and_written(path: str, folder: str) -> None:
    """Two passes of `np.max` over a `.npy` file, and an eighth of its bytes written to plain files of 2 MiB."""
    values = np.asarray(np.load(path, mmap_mode="r"))
    parts = [values[piece] for piece in pieces(len(values))]
    for _ in range(2):
        on_threads(np.max, parts)
    on_threads(lambda k: Path(folder, str(k)).write_bytes(noise(parts[k].nbytes // 8)), range(len(parts)))


@functools.cache
def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def copied(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`out`, once `np.copyto` has filled it with the values."""
    on_threads(lambda piece: np.copyto(out[piece], values[piece]), pieces(len(values)))
    return out


def files_read(folder: str) -> None:
    """Read all files of a folder, and drop their bytes."""
    on_threads(Path.read_bytes, [path for path in Path(folder).rglob("*") if path.is_file()])


# Zarr -----------------------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A way to read a Zarr array: zarr's configuration, and how many rows at once; all of them by its own threads."""

    name: str
    config: dict[str, Any]
    rows: int


def settings(array: zarr.Array[Any]) -> Iterator[Setting]:
    """Every way to read an array: in one call, and in regions of whole chunks, small ones also several at once."""
    chunk, *_ = array.chunks
    lengths = {chunk: "a chunk at a time"}
    lengths.setdefault(max(PIECE, chunk), "16 MiB at a time")
    if array.shards is not None:
        lengths.setdefault(array.shards[0], "a shard at a time")
    for name, config in configurations().items():
        for length, words in lengths.items():
            yield Setting(f"{name}, {words}", config, length)
        if 1 not in config.values():  # else nothing would run at a time
            yield Setting(f"{name}, all at once", config, array.shape[0])


def configurations() -> dict[str, dict[str, Any]]:
    """Those of zarr that make it faster on some arrays, by name."""
    options = [("async.concurrency", 1), ("async.concurrency", 2), (POOL, 1), (POOL, 2)]
    found: dict[str, dict[str, Any]] = {"default": {}, **{f"{key} {n}": {key: n} for key, n in options}}
    if hasattr(zarr.core.codec_pipeline, FUSED):
        found[FUSED] = {"codec_pipeline.path": f"zarr.core.codec_pipeline.{FUSED}"}
    return found


@contextmanager
def configured(config: dict[str, Any]) -> Iterator[None]:
    """Zarr with a configuration; its threads are made anew where that says how many there are."""
    with zarr.config.set(config):
        if POOL in config:
            cleanup_resources()
        yield
        if POOL in config:
            cleanup_resources()


def decoded(path: str, setting: Setting, part: int = 1) -> float:
    """Seconds that one pass over a Zarr array takes, or over one part of so many."""
    with configured(setting.config):
        return timed(lambda: read(zarr.open_array(path, mode="r"), setting.rows, part))()


def read(array: zarr.Array[Any], length: int, part: int) -> None:
    rows = array.shape[0] // part
    if length >= rows:
        array[:rows]
    else:
        on_threads(array.__getitem__, pieces(rows, length))


def fastest(path: str) -> Setting:
    """The setting that reads a Zarr array fastest: tried on its first quarter, and the best three on all of it."""
    ways = list(settings(zarr.open_array(path, mode="r")))
    decoded(path, ways[0])  # the first pass does not count
    best = sorted(ways, key=lambda setting: decoded(path, setting, 4))[:3]
    return min(best, key=lambda setting: decoded(path, setting))
