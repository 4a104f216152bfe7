"""Appends to an array in a folder: many small ones, the last against the first, and one against a run over its data.

Small ones are of one unit each, a chunk of 64 values with scales of its own, and thousands follow one another into one
array. A large one is of 16 units of 4 MiB, and takes turns with a run over the same values into a store of its own.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from quantize import append_to_zarr, quantize_to_zarr

from .measuring import interleaved, milliseconds, timed
from .tables import Table, at_most, verdict

MOST_OF_FIRST = 1.5  # times the time of the first appends, for the last
MOST_MORE = 50.0  # ms: what an append takes more than a run over its data
COLUMNS = 64
ROWS = 256  # of a large unit
JOBS: dict[str, dict[str, Any]] = {
    "one scale": {"value_range": (-4, 4)},
    "axis=0": {"axis": 0},
    "blocks=32": {"blocks": 32},
}


class Size(NamedTuple):
    """How many appends, how many of these at each end count, units of a large one, values in their rows, repeats."""

    appends: int
    ends: int
    units: int
    columns: int
    repeats: int


FULL = Size(appends=10_000, ends=100, units=16, columns=4096, repeats=9)
QUICK = Size(appends=20, ends=5, units=2, columns=64, repeats=1)


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    return [
        Table(
            f"{size.appends:,} appends of one unit, one after the other: ms of the first and the last {size.ends}",
            [small_ones(size, "blocks=32")],
        ),
        Table(
            f"One append of {size.units} units against a run over its data, ms",
            [large_one(size, name) for name in JOBS],
        ),
    ]


def small_ones(size: Size, name: str) -> dict[str, Any]:
    values = np.random.default_rng(0).normal(size=(size.appends + 1, COLUMNS)).astype(np.float32)
    with TemporaryDirectory() as folder:
        quantize_to_zarr(values[:1], folder, chunks=(1, COLUMNS), workers=1, **JOBS[name])
        append = [
            timed(lambda i=i: append_to_zarr(values[i : i + 1], folder, name="data", workers=1))  # type: ignore[misc]
            for i in range(1, size.appends + 1)
        ]
        seconds = [one() for one in append]
    first, last = (median(part) for part in (seconds[: size.ends], seconds[-size.ends :]))
    return {"scales": name, "first": 1e3 * first, "last": 1e3 * last, **at_most(last / first, MOST_OF_FIRST)}


def large_one(size: Size, name: str) -> dict[str, Any]:
    rows = size.units * ROWS
    values = np.random.default_rng(0).normal(size=(rows, size.columns)).astype(np.float32)
    job = {"chunks": (ROWS, size.columns), **JOBS[name]}
    with TemporaryDirectory() as folder:
        quantize_to_zarr(values, Path(folder, "grows"), **job)
        new = count()
        cases = {
            "append": timed(lambda: append_to_zarr(values, Path(folder, "grows"), again=True)),
            "run": timed(lambda: quantize_to_zarr(values, Path(folder, str(next(new))), **job)),
        }
        seconds = interleaved(cases, size.repeats)
    more = 1e3 * median(a - b for a, b in zip(seconds["append"], seconds["run"], strict=True))
    row = {"scales": name, "append": milliseconds(seconds["append"]), "run": milliseconds(seconds["run"])}
    return {**row, "more": more, "at most": MOST_MORE, "met": verdict(more <= MOST_MORE)}
