"""From a source to a sealed store: `quantize_to_zarr` with two workers, on float32 that lie in the page cache.

Of a `.npy` file the yardstick is the floor: two passes of `np.max` over its memory map, and as many random bytes as the
packed codes have, written to plain files. Of sources in chunks it is reading them twice, on two threads, and dropping
what comes. Zarr arrays are read by zarr in whichever of its settings is the fastest: those of `floors.settings` are
tried first, in the same process. With so much `memory` that pass 2 need not read again, the yardstick is half of that:
one pass.

The script is what one writes today with Dask and NumPy: correct, in chunks of 16 MiB, not tuned. Peaks of memory are
those of processes of their own, above what they held before.

Each run writes into a folder of its own; that it is removed again is not timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import dask
import dask.array
import dask.base
import numpy as np
import zarr

from quantize import plan, quantize_to_zarr

from .floors import (
    COLUMNS,
    MIB,
    PIECE,
    THREADS,
    decoded,
    fastest,
    fill_gaussian,
    on_threads,
    pieces,
    save_gaussian,
    scanned_and_written,
)
from .measuring import in_child, interleaved, milliseconds, peak_memory, ratio, timed, timed_in_folder
from .tables import Table, at_least, at_most

CODECS: dict[str, Any] = {"none": None, "default": "auto"}
MOST_OF_FLOOR = {"none": 2.5, "default": 3.5}  # times the floor, by the codecs of the result
MOST_OF_PASSES = 1.25  # times the passes over a Zarr array in zstd
LEAST = {"none": 8.0, "default": None}  # times as fast as the script, whose codecs are those of Zarr
SHARED: dict[str, dict[str, Any]] = {  # which values share a scale
    "one": {},
    "for each row": {"axis": 0},
    "for each column": {"axis": 1},
    "blocks (1, 32)": {"blocks": (1, 32)},
    "blocks (32, 1)": {"blocks": (32, 1)},
    "tiles (8, 8)": {"blocks": (8, 8)},
}
MOST_OF_ONE = {"minmax": 2.0, "mse": None}  # times one scale for all
KEEPING = "4GiB"  # of memory: more than any of the sources in chunks


class Size(NamedTuple):
    """How much is measured: rows of 4 KiB of each source, and repeats."""

    npy: int
    axes: int
    chunked: int
    script: int
    repeats: int


FULL = Size(npy=1 << 19, axes=1 << 17, chunked=1 << 16, script=1 << 17, repeats=3)
QUICK = Size(npy=1 << 9, axes=1 << 9, chunked=1 << 9, script=1 << 9, repeats=1)


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    return [
        Table(
            f"A .npy file of {mebibytes(size.npy)} MiB to a sealed store, ms",
            of_file(size.npy, lambda path: in_child(file_rows, path, size.repeats)),
        ),
        Table(
            f"A .npy file of {mebibytes(size.axes)} MiB, with one scale or one for each row, column or block, ms",
            of_file(size.axes, lambda path: in_child(axis_rows, path, size.repeats)),
        ),
        Table(
            f"Sources in chunks, {mebibytes(size.chunked)} MiB, to a sealed store with default codecs, ms",
            chunked_rows(size),
        ),
        Table(
            f"Against a script with Dask and NumPy, {mebibytes(size.script)} MiB, ms",
            of_file(size.script, lambda path: script_rows(path, size.repeats)),
        ),
    ]


def mebibytes(rows: int) -> int:
    return rows * COLUMNS * 4 // MIB


def of_file(rows: int, measure: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What is measured on a `.npy` file of so many rows, which is removed then."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "values.npy"))
        save_gaussian(path, rows)
        return measure(path)


def sealed(source: Any, **options: Any) -> Callable[[], float]:
    """The seconds that a job takes, as a case of `interleaved`."""
    return timed_in_folder(lambda folder: quantize_to_zarr(source, folder, workers=THREADS, **options))


# .npy -----------------------------------------------------------------------------------------------------------------


def file_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """Both codecs against the floor."""
    ours = {name: sealed(path, compressors=codec) for name, codec in CODECS.items()}
    floor = timed_in_folder(functools.partial(scanned_and_written, path))
    found = interleaved({"floor": floor, **ours}, repeats)
    return [
        {
            "codecs": name,
            "floor": milliseconds(found["floor"]),
            "quantize_to_zarr": milliseconds(found[name]),
            **at_most(ratio(found[name], found["floor"]), MOST_OF_FLOOR[name]),
        }
        for name in CODECS
    ]


def axis_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """Scales for all, for each row, column or block, by methods that look for the range and for the least error."""
    jobs = {(method, scales): (method, axis) for method in MOST_OF_ONE for scales, axis in SHARED.items()}
    found = interleaved({job: sealed(path, scale_method=one[0], **one[1]) for job, one in jobs.items()}, repeats)
    rows = []
    for method, scales in jobs:
        made = plan(path, "unwritten.zarr", scale_method=method, **SHARED[scales], workers=THREADS)
        rows.append(
            {
                "method": method,
                "scales": scales,
                "chunks": str(made.layout.chunks),
                "times read": made.read / made.read_once,
                "memory, plan, MiB": made.memory / MIB,
                "ms": milliseconds(found[method, scales]),
                **at_most(ratio(found[method, scales], found[method, "one"]), MOST_OF_ONE[method]),
            }
        )
    return rows


# Sources in chunks ----------------------------------------------------------------------------------------------------


def chunked_rows(size: Size) -> list[dict[str, Any]]:
    """Every kind of source, each there only while it is measured."""
    small, middle, large = ((min(rows, size.chunked), COLUMNS) for rows in (256, PIECE, 16384))
    rows = []
    for name, chunks in {"1 MiB": small, "16 MiB": middle, "64 MiB": large}.items():
        rows += of_zarr(size, f"Zarr, zstd, chunks of {name}", {"chunks": chunks}, MOST_OF_PASSES)
    plain = {"chunks": middle, "compressors": None}
    rows += of_zarr(size, "Zarr, not compressed, chunks of 16 MiB", plain, None)
    sharded = {"chunks": small, "shards": large}
    rows += of_zarr(size, "Zarr, zstd, shards of 64 MiB, chunks of 1 MiB", sharded, None)
    rows += of_file(size.chunked, lambda path: [in_child(dask_row, path, size.repeats)])
    return rows


def of_zarr(size: Size, kind: str, options: dict[str, Any], most: float | None) -> list[dict[str, Any]]:
    """The rows of a Zarr array, for which `options` are those of zarr; those that have a bar, with values kept too."""
    with TemporaryDirectory() as folder:
        save_zarr(folder, size.chunked, options)
        return in_child(zarr_rows, kind, folder, most, size.repeats)


def save_zarr(path: str, rows: int, options: dict[str, Any]) -> None:
    values = fill_gaussian(np.empty((rows, COLUMNS), np.float32))
    zarr.create_array(path, data=values, **options)


def zarr_rows(kind: str, path: str, most: float | None, repeats: int) -> list[dict[str, Any]]:
    """A Zarr array against two passes of zarr, and with a bar also with its values kept, against one."""
    setting = fastest(path)
    ours = {2: sealed(path)} if most is None else {2: sealed(path), 1: sealed(path, memory=KEEPING)}
    cases = {"passes": lambda: decoded(path, setting) + decoded(path, setting)}
    found = interleaved({**cases, **{str(passes): case for passes, case in ours.items()}}, repeats)
    rows = []
    for passes in ours:
        bare = [seconds * passes / 2 for seconds in found["passes"]]
        rows.append(chunked_row(kind, passes, setting.name, bare, found[str(passes)], most))
    return rows


def dask_row(path: str, repeats: int) -> dict[str, Any]:
    """An expression over a memory map, against computing its chunks twice."""
    expression = mapped(path) * 0.5 + 1
    found = interleaved({"passes": timed(lambda: computed_twice(expression)), "ours": sealed(expression)}, repeats)
    return chunked_row("Dask, x * 0.5 + 1 of a .npy file", 2, "", found["passes"], found["ours"], None)


def mapped(path: str) -> Any:
    return dask.array.from_array(np.load(path, mmap_mode="r"), chunks=(PIECE, COLUMNS))


def computed_twice(array: Any) -> None:
    for _ in range(2):
        on_threads(lambda piece: array[piece].compute(scheduler="synchronous"), pieces(len(array)))


def chunked_row(
    kind: str, passes: int, setting: str, bare: list[float], ours: list[float], most: float | None
) -> dict[str, Any]:
    return {
        "source": kind,
        "passes": passes,
        "bare": milliseconds(bare),
        "quantize_to_zarr": milliseconds(ours),
        **at_most(ratio(ours, bare), most),
        "zarr's setting": setting,
    }


# The script -----------------------------------------------------------------------------------------------------------


def script(path: str, store: str) -> None:
    """Quantize a `.npy` file as one does without this package."""
    x = mapped(path)
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        low, high = (float(bound) for bound in dask.base.compute(x.min(), x.max()))
        scale = (high - low) / 15
        zero_point = round(-8 - low / scale)
        codes = dask.array.clip(dask.array.rint(x / scale) + zero_point, -8, 7).astype(np.int8)
        nibbles = codes.view(np.uint8) & 15
        (nibbles[:, ::2] | nibbles[:, 1::2] << 4).to_zarr(store)


def script_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """The script's time and peak memory, and those of the same job here with either codecs."""
    found = in_child(script_times, path, repeats)
    script_mebibytes = in_child(script_peak, path)
    return [
        {
            "codecs": name,
            "script": milliseconds(found["script"]),
            "quantize_to_zarr": milliseconds(found[name]),
            **at_least(ratio(found["script"], found[name]), LEAST[name]),
            "script, peak MiB": script_mebibytes,
            "quantize_to_zarr, peak MiB": in_child(own_peak, path, codec),
        }
        for name, codec in CODECS.items()
    ]


def script_times(path: str, repeats: int) -> dict[str, list[float]]:
    ours = {name: sealed(path, compressors=codec) for name, codec in CODECS.items()}
    return interleaved({"script": timed_in_folder(functools.partial(script, path)), **ours}, repeats)


def script_peak(path: str) -> float | None:
    return peak_mebibytes(timed_in_folder(functools.partial(script, path)))


def own_peak(path: str, codec: Any) -> float | None:
    return peak_mebibytes(sealed(path, compressors=codec))


def peak_mebibytes(function: Callable[[], object]) -> float | None:
    peak = peak_memory(function)
    return None if peak is None else peak / MIB
