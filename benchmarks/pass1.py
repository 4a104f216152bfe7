"""What pass 1 costs with a histogram (the method mse) against the plain scan (minmax).

Pass 1 of a whole run is timed by its progress events, and the run is ended before pass 2. The sources lie in the page
cache. The bar is for the reading, until the last event of the phase "scan". Then histograms are merged and the range is
chosen: that has a column of its own, and so has the ratio of both together.

The kernels alone take blocks as tasks do: so small that a processor's cache still holds them for the second kernel.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import zarr

from quantize import Plan, Progress, quantize_to_zarr
from quantize.calibration.histogram import FINE, SAMPLE, Histogram, place_by_sample
from quantize.calibration.scan import scan_rows
from quantize.numerics.blocks import block_of, blocks
from quantize.numerics.granularity import PER_TENSOR
from quantize.runtime.units import CACHED

from .measuring import in_child, interleaved, timed
from .samples import sample
from .tables import Table, verdict

METHODS = ("minmax", "mse")
MOST = 2.0  # times the plain scan
COLUMNS = 1024
CHUNK = 4096  # rows: 16 MiB
WORKERS = (1, 2)


class Size(NamedTuple):
    """How much is measured: rows of 4 KiB of the sources, of the array in memory, and repeats."""

    rows: int
    kernel_rows: int
    repeats: int


FULL, QUICK = Size(rows=1 << 17, kernel_rows=1 << 16, repeats=9), Size(rows=1 << 12, kernel_rows=1 << 8, repeats=1)


class Times(NamedTuple):
    """Seconds that pass 1 reads, and that choosing the range by what it found takes."""

    reading: float
    choosing: float


class Enough(Exception):
    """Ends a run before its pass 2."""


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    with TemporaryDirectory() as name:
        folder = Path(name)
        sources = written(folder, size.rows)
        rows = [
            in_child(source_row, kind, path, str(folder / "result.zarr"), workers, size.repeats)
            for kind, path in sources.items()
            for workers in WORKERS
        ]
    return [
        Table(f"Pass 1 over {size.rows * COLUMNS * 4 >> 20} MiB of float32 in the page cache, ms", rows),
        Table("Kernels alone, one thread, ns a value", [in_child(kernel_row, size.kernel_rows, size.repeats)]),
    ]


def values_of(rows: int) -> np.ndarray:
    return sample("Gaussian", rows * COLUMNS).reshape(rows, COLUMNS)


def written(folder: Path, rows: int) -> dict[str, str]:
    """Sources with the same values, by kind."""
    values = values_of(rows)
    paths = {".npy": str(folder / "values.npy"), "Zarr, not compressed": str(folder / "values.zarr")}
    np.save(paths[".npy"], values)
    zarr.create_array(paths["Zarr, not compressed"], data=values, chunks=(CHUNK, COLUMNS), compressors=None)
    return paths


def source_row(kind: str, source: str, store: str, workers: int, repeats: int) -> dict[str, Any]:
    """Both methods on a source."""
    cases = {method: functools.partial(pass_1, source, store, method, workers) for method in METHODS}
    found = interleaved(cases, repeats)
    plain, counted = (1e3 * median(times.reading for times in found[method]) for method in METHODS)
    whole = [median(sum(times) for times in found[method]) for method in METHODS]
    return {
        "source": kind,
        "workers": workers,
        "minmax": plain,
        "mse": counted,
        "ratio": counted / plain,
        "at most": MOST,
        "met": verdict(counted / plain <= MOST),
        "choosing, mse": 1e3 * median(times.choosing for times in found["mse"]),
        "ratio with choosing": whole[1] / whole[0],
    }


def pass_1(source: str, store: str, scale_method: str, workers: int) -> Times:
    """Time pass 1 of one run, of which nothing stays."""
    moments: list[float] = []

    def note(event: Plan | Progress) -> None:
        if isinstance(event, Progress):
            moments.append(perf_counter())
            if event.phase == "write":
                raise Enough

    try:
        quantize_to_zarr(source, store, scale_method=scale_method, workers=workers, progress=note)
    except Enough:
        shutil.rmtree(store)
    start, *_, read, chosen = moments
    return Times(read - start, chosen - read)


def kernel_row(rows: int, repeats: int) -> dict[str, Any]:
    """The kernels of both methods on an array in memory."""
    values = values_of(rows)
    cases = {"minmax": timed(lambda: scan(values)), "mse": timed(lambda: scan_and_count(values))}
    found = interleaved(cases, repeats)
    plain, counted = (1e9 * median(found[method]) / values.size for method in METHODS)
    return {"kernels": "scan, and scan and count", "minmax": plain, "mse": counted, "ratio": counted / plain}


def scan(values: np.ndarray) -> None:
    for region in blocks(values.shape, CACHED // values.itemsize):
        scan_rows(block_of(values, region))


def scan_and_count(values: np.ndarray) -> None:
    first = block_of(values[:1], (slice(None), slice(None)))
    histogram = Histogram.about(FINE, *place_by_sample(PER_TENSOR.sample(values, SAMPLE), scan_rows(first)))
    for region in blocks(values.shape, CACHED // values.itemsize):
        block = block_of(values, region)
        scan_rows(block)
        histogram.add(block)
