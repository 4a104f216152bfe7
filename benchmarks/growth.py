"""How time and memory grow: with the bytes, and with the number of chunks.

The bytes of a `.npy` file grow while its chunks stay as they are, 4 MiB; two workers, default codecs. Times of all
sizes take turns in one process. Memory is that of one run in a process of its own: the peak above what was resident
after a small run, for which kernels are loaded, beside what the plan says.

What a chunk costs beside its bytes is measured with tasks that do nothing and touch no store. They are run as those of
both passes are, in batches of the library's own size, and counted in the same way. The peak is the driver's, above what
it held after a few such tasks; on a cluster it holds the scheduler, too.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from zarr.storage import MemoryStore

from quantize import plan, quantize_to_zarr
from quantize.numerics.grid import Batches
from quantize.runtime.progress import Counter
from quantize.runtime.scans import batch_size
from quantize.runtime.schedulers import Task, run_tasks
from quantize.store.layout import Layout

from .floors import COLUMNS, MIB, THREADS, save_gaussian
from .measuring import in_child, interleaved, milliseconds, peak_memory, ratio, timed
from .pipeline import sealed
from .tables import Table, verdict

FACTORS = (1, 4, 16)
CHUNKS = (1024, COLUMNS)
MOST_GROWTH = 1.15  # times the time that a byte of the smallest source takes, for one of the largest
MOST_OF_PLAN = 1.0  # times the memory that the plan says
CLUSTER = "distributed"
MOST_MICROSECONDS = {"threads": 150.0, CLUSTER: 200.0}  # a chunk
MOST_MEBIBYTES = {"threads": 100.0, CLUSTER: None}  # above the baseline, however many chunks
ABSENT_NOTE = "Not installed: distributed. The extra `distributed` of this project brings it."


class Size(NamedTuple):
    """How much is measured: rows of 4 KiB of the smallest source, repeats, and those for each number of chunks."""

    rows: int
    repeats: int
    chunks: dict[int, int]


FULL = Size(rows=1 << 14, repeats=3, chunks={1_000: 3, 10_000: 1, 100_000: 1})
QUICK = Size(rows=1 << 7, repeats=1, chunks={1_000: 1})


class Overhead(NamedTuple):
    """What tasks that do nothing take: microseconds a chunk, and MiB of the driver."""

    microseconds: float | None
    mebibytes: float | None


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    cases = [(scheduler, chunks) for scheduler in MOST_MICROSECONDS for chunks in size.chunks]
    found = {(scheduler, chunks): overhead(scheduler, chunks, size.chunks[chunks]) for scheduler, chunks in cases}
    notes = () if is_installed(CLUSTER) else (ABSENT_NOTE,)
    return [
        *byte_tables(size),
        Table(
            "What a chunk takes beside its bytes, microseconds",
            [
                {**case_row(*case), **held("a chunk", figures.microseconds, MOST_MICROSECONDS[case[0]])}
                for case, figures in found.items()
            ],
            notes,
        ),
        Table(
            "Peak memory of the driver above the baseline, MiB",
            [
                {**case_row(*case), **held("peak", figures.mebibytes, MOST_MEBIBYTES[case[0]])}
                for case, figures in found.items()
            ],
            notes,
        ),
    ]


def held(column: str, figure: float | None, most: float | None) -> dict[str, Any]:
    """The columns of a figure, which may be absent, and of its bar, if it has one."""
    if most is None:
        return {column: figure, "at most": "", "met": ""}
    return {column: figure, "at most": most, "met": verdict(None if figure is None else figure <= most)}


# Bytes ----------------------------------------------------------------------------------------------------------------


def byte_tables(size: Size) -> list[Table]:
    """Time and memory for sources of every size."""
    with TemporaryDirectory() as folder:
        paths = {factor: str(Path(folder, f"{factor}.npy")) for factor in FACTORS}
        for factor, path in paths.items():
            save_gaussian(path, factor * size.rows)
        times = in_child(byte_times, paths, size.repeats)
        peaks = {factor: in_child(peak_and_plan, path) for factor, path in paths.items()}
    smallest = size.rows * COLUMNS * 4
    time_rows = [
        {
            "source": f"{factor * smallest / MIB:g} MiB",
            "ms": milliseconds(seconds),
            "ns a byte": 1e9 * median(seconds) / (factor * smallest),
            **held("ratio", ratio(seconds, times[1]) / factor, MOST_GROWTH if factor == FACTORS[-1] else None),
        }
        for factor, seconds in times.items()
    ]
    memory_rows = [
        {
            "source": f"{factor * smallest / MIB:g} MiB",
            "peak": None if peak is None else peak / MIB,
            "plan": said / MIB,
            **held("ratio", None if peak is None else peak / said, MOST_OF_PLAN),
        }
        for factor, (peak, said) in peaks.items()
    ]
    return [
        Table("Time by the size of the source; the ratio is of a byte's time to that of the smallest", time_rows),
        Table("Peak memory by the size of the source, MiB", memory_rows),
    ]


def byte_times(paths: dict[int, str], repeats: int) -> dict[int, list[float]]:
    """Seconds that each size takes in every repeat."""
    found = interleaved({str(factor): sealed(path, chunks=CHUNKS) for factor, path in paths.items()}, repeats)
    return {factor: found[str(factor)] for factor in paths}


def peak_and_plan(path: str) -> tuple[int | None, int]:
    """Bytes that a run holds at most above the baseline, None where that is not known, and those that its plan says."""
    quantize_to_zarr(np.linspace(-1, 1, 1000, dtype=np.float32), MemoryStore(), workers=THREADS)
    said = plan(path, MemoryStore(), workers=THREADS, chunks=CHUNKS).memory
    return peak_memory(sealed(path, chunks=CHUNKS)), said


# Chunks ---------------------------------------------------------------------------------------------------------------


def is_installed(scheduler: str) -> bool:
    return scheduler != CLUSTER or find_spec(CLUSTER) is not None


def case_row(scheduler: str, chunks: int) -> dict[str, Any]:
    return {"scheduler": scheduler, "chunks": chunks, "chunks a task": batch_size(chunks)}


def overhead(scheduler: str, chunks: int, repeats: int) -> Overhead:
    return in_child(measured, scheduler, chunks, repeats) if is_installed(scheduler) else Overhead(None, None)


def measured(scheduler: str, chunks: int, repeats: int) -> Overhead:
    """The median time; memory the first time, when there is nothing of an earlier one to be used again."""
    seconds: list[float] = []
    work = timed(functools.partial(run_nothing, scheduler, chunks))
    with cluster() if scheduler == CLUSTER else nullcontext():
        run_nothing(scheduler, 100)
        peak = peak_memory(lambda: seconds.append(work()))
        seconds += [work() for _ in range(repeats - 1)]
    return Overhead(1e6 * median(seconds) / chunks, None if peak is None else peak / MIB)


@contextmanager
def cluster() -> Iterator[None]:
    """Two processes, which `run_tasks` finds."""
    from distributed import Client, LocalCluster

    options = {"n_workers": THREADS, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with TemporaryDirectory() as folder, LocalCluster(**options, local_directory=folder) as made, Client(made):
        yield


def run_nothing(scheduler: str, chunks: int) -> None:
    """Tasks for so many chunks, as a pass runs them, that do nothing."""
    layout = Layout((chunks, 2), np.dtype(np.float32), (1, 2))
    batches = Batches(layout.units, (), batch_size(chunks))
    numbered = ((batch, batches.numbers(batch)) for batch in range(batches.count))
    count = Counter("write", layout.units, layout.dtype, 0, lambda progress: None)
    run_tasks(
        nothing,
        (Task(numbers, (batch, numbers)) for batch, numbers in numbered),
        lambda task, _: count.add(task.numbers),
        scheduler,
        THREADS,
        threading.Event(),
    )


def nothing(batch: int, numbers: list[int], blocks: None = None) -> None:
    """What a task does here."""
