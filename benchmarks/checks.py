"""What it costs to take a source at its word: the gate, the look, decoding, and a store held against its source.

Gate and look are clocked inside of whole runs, on all threads together: their share is of the time of all workers. A
packed source is held to the same values unpacked, in the same kind of file. `measure_error` is what `report` does with
every value; `verify` with a source is the yardstick, since it reads the same bytes. Files lie in the page cache.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import zarr

from quantize import measure_error, open_int4, quantize_to_zarr, verify
from quantize.io.source import Source
from quantize.runtime.look import Look

from .floors import COLUMNS, PIECE, THREADS, fill_gaussian
from .measuring import in_child, interleaved, milliseconds, ratio, timed
from .pipeline import mebibytes, of_file, sealed
from .tables import Table, at_most

MOST_PERCENT = {"gate": 1.0}  # of a run
MOST_OF_VERIFY = 2.0  # times the time of verify
MOST_OF_ONE_SCALE = 3.0  # times the time of measuring one scale, for a scale for each block
BLOCKS = (1, 32)
SCALE, OFFSET = 0.01, 280.0  # of the packed values
CLOCKED = {"gate": (Source, "accepted"), "look": (Look, "before"), "look after pass 1": (Look, "after")}


class Size(NamedTuple):
    """How much is measured: rows of 4 KiB of float32, and repeats."""

    rows: int
    packed: int
    repeats: int


FULL, QUICK = Size(rows=1 << 19, packed=1 << 17, repeats=5), Size(rows=1 << 9, packed=1 << 9, repeats=1)


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    whole = f"a .npy file of {mebibytes(size.rows)} MiB"
    return [
        Table(
            f"The checks of a run over {whole}, two workers",
            of_file(size.rows, lambda path: in_child(check_rows, path, size.repeats)),
        ),
        Table(
            f"Packed int16 against the same {mebibytes(size.packed)} MiB unpacked, Zarr, not compressed, ms",
            [in_child(packed_row, size.packed, size.repeats)],
        ),
        Table(
            f"A sealed store against {whole}, ms",
            of_file(size.rows, lambda path: in_child(comparison_rows, path, size.repeats)),
        ),
        Table(
            f"measure_error of a sealed store with a scale for each block, against one scale, {whole}, ms",
            of_file(size.rows, lambda path: in_child(block_rows, path, size.repeats)),
        ),
    ]


class Clock:
    """Counts the calls of a method on all threads, and their seconds."""

    def __init__(self) -> None:
        self.calls, self.seconds, self.lock = 0, 0.0, threading.Lock()

    @contextmanager
    def on(self, owner: type, name: str) -> Iterator[None]:
        method = getattr(owner, name)

        @functools.wraps(method)
        def clocked(*arguments: Any) -> Any:
            start = perf_counter()
            try:
                return method(*arguments)
            finally:
                taken = perf_counter() - start
                with self.lock:
                    self.calls += 1
                    self.seconds += taken

        setattr(owner, name, clocked)
        try:
            yield
        finally:
            setattr(owner, name, method)


def check_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """What each check takes of whole runs."""
    job = sealed(path)
    job()
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in CLOCKED}
    for _ in range(repeats):
        for name, place in CLOCKED.items():
            clock = Clock()
            with clock.on(*place):
                seconds = job()
            found[name].append((clock.calls, clock.seconds, seconds))
    rows = []
    for name, runs in found.items():
        held = at_most(median(100 * own / (THREADS * seconds) for _, own, seconds in runs), MOST_PERCENT.get(name))
        per_call = median(1e6 * own / calls for calls, own, _ in runs)
        rows.append(
            {"check": name, "calls": runs[0][0], "us a call": per_call, "% of the run": held.pop("ratio"), **held}
        )
    return rows


def packed_row(rows: int, repeats: int) -> dict[str, Any]:
    """A packed array, decoded and as it is stored, against the values that it stands for."""
    values = fill_gaussian(np.empty((rows, COLUMNS), np.float32))
    counts = np.rint(values * 100).astype(np.int16)
    with TemporaryDirectory() as folder:
        packed, plain = str(Path(folder, "packed.zarr")), str(Path(folder, "plain.zarr"))
        options: dict[str, Any] = {"chunks": (min(rows, PIECE), COLUMNS), "compressors": None}
        array = zarr.create_array(packed, data=counts, **options)
        array.attrs.update(scale_factor=SCALE, add_offset=OFFSET)
        zarr.create_array(plain, data=(counts * SCALE + OFFSET).astype(np.float32), **options)
        cases = {"decoded": sealed(packed), "stored": sealed(packed, decode=False), "unpacked": sealed(plain)}
        found = interleaved(cases, repeats)
    return {
        "unpacked": milliseconds(found["unpacked"]),
        "as stored": milliseconds(found["stored"]),
        "decoded": milliseconds(found["decoded"]),
        "decoded / unpacked": ratio(found["decoded"], found["unpacked"]),
    }


def comparison_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """What holds each value against the source, for a scale that reaches over all values and for one that does not."""
    rows = []
    for method in ("minmax", "mse"):
        with TemporaryDirectory() as folder:
            quantize_to_zarr(path, folder, scale_method=method)
            cases = {
                "verify": timed(functools.partial(verify, folder, source=path)),
                "measure": timed(functools.partial(measure_error, path, folder)),
            }
            found = interleaved(cases, repeats)
        rows.append(
            {
                "scale": method,
                "verify": milliseconds(found["verify"]),
                "measure_error": milliseconds(found["measure"]),
                **at_most(ratio(found["measure"], found["verify"]), MOST_OF_VERIFY),
            }
        )
    return rows


def block_rows(path: str, repeats: int) -> list[dict[str, Any]]:
    """Measuring where each block has a scale of its own, against where all values share one."""
    rows = []
    for method in ("minmax", "mse"):
        with TemporaryDirectory() as folder:
            cases = {}
            for name, blocks in (("one", None), ("blocks", BLOCKS)):
                quantize_to_zarr(path, folder, name=name, scale_method=method, blocks=blocks)
                cases[name] = timed(functools.partial(measure_error, path, open_int4(folder, name)))
            found = interleaved(cases, repeats)
        rows.append(
            {
                "scale": method,
                "one scale": milliseconds(found["one"]),
                f"blocks {BLOCKS}": milliseconds(found["blocks"]),
                **at_most(ratio(found["blocks"], found["one"]), MOST_OF_ONE_SCALE),
            }
        )
    return rows
