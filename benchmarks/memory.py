"""Arrays in memory: `quantize_to_packed_int4` and back, against copies of the floats, and against peers.

All values have one scale, from minimum to maximum. Where the result goes into a given array, the yardstick is
`np.copyto` of the floats into one that is there already, on one thread; where it is allocated, `values.copy()`, which
has to get its memory from the system too. What memory allows is shown by `np.max` on two threads, one read of all
floats: quantizing reads them twice.

Each peer has a process of its own, in which it takes turns with `np.copyto` and with the same job done here. Both have
two threads, of which NumPy uses one, and both allocate their results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from quantize import dequantize_from_packed_int4, quantize_to_packed_int4

from .floors import MIB, THREADS, on_threads
from .measuring import in_child, interleaved, milliseconds, ratio, timed
from .packers import PACKERS, missing
from .scales import ABSENT_NOTE
from .tables import Table, at_least, verdict

QUANTIZE, DEQUANTIZE = "quantize", "dequantize"
COPYTO, COPY, READ = "np.copyto", "values.copy()", "np.max, 2 threads"
LEAST_OF_PEERS = 4.0  # times as fast as the fastest, and so as each


class Size(NamedTuple):
    """How much is measured: float32 values, and repeats."""

    values: int
    repeats: int


FULL, QUICK = Size(values=64 * MIB, repeats=5), Size(values=2 * MIB, repeats=1)


class Call(NamedTuple):
    """How a function is called, and how many times as fast as its yardstick it has to be to quantize."""

    into_out: bool
    workers: int
    yardstick: str
    least: float | None


CALLS = {
    "into out, 1 worker": Call(True, 1, COPYTO, None),
    "into out, 2 workers": Call(True, THREADS, COPYTO, 1.0),
    "allocating, 2 workers": Call(False, THREADS, COPY, 2.0),
}


class Job(NamedTuple):
    """A function with what it is called on, and an array that its result can go into."""

    work: Callable[[np.ndarray | None, int], object]
    out: np.ndarray


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    mebibytes = 4 * size.values // MIB
    absent = sorted({module for packer in PACKERS for module in missing(packer)})
    return [
        Table(
            f"{mebibytes} MiB of float32 in memory, ms",
            [row for name in JOBS for row in in_child(own_rows, name, size)],
        ),
        Table(
            f"Against peers with one scale, {mebibytes} MiB of float32, ms",
            [row for packer in PACKERS for row in packer_rows(packer, size)],
            (ABSENT_NOTE.format(" and ".join(absent)),) if absent else (),
        ),
    ]


def values_of(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


# Ours -----------------------------------------------------------------------------------------------------------------


def quantizing(values: np.ndarray) -> Job:
    return Job(
        lambda out, workers: quantize_to_packed_int4(values, out=out, workers=workers),
        np.zeros(values.size // 2, np.int8),
    )


def dequantizing(values: np.ndarray) -> Job:
    packed, scale, zero_point, *_ = quantize_to_packed_int4(values)
    return Job(
        lambda out, workers: dequantize_from_packed_int4(packed, scale, zero_point, out=out, workers=workers),
        np.zeros_like(values),
    )


JOBS = {QUANTIZE: quantizing, DEQUANTIZE: dequantizing}


def own_rows(name: str, size: Size) -> list[dict[str, Any]]:
    """Every way to call one of our functions."""
    values = values_of(size.values)
    job = JOBS[name](values)
    cases: dict[str, Callable[[], object]] = {
        **yardsticks(values),
        **{
            words: functools.partial(job.work, job.out if call.into_out else None, call.workers)
            for words, call in CALLS.items()
        },
    }
    found = interleaved({words: timed(case) for words, case in cases.items()}, size.repeats)
    return [
        {
            "job": name,
            "call": words,
            "time": milliseconds(found[words]),
            **{yardstick: milliseconds(found[yardstick]) for yardstick in (READ, COPYTO, COPY)},
            "yardstick": call.yardstick,
            **at_least(ratio(found[call.yardstick], found[words]), call.least if name == QUANTIZE else None),
        }
        for words, call in CALLS.items()
    ]


def yardsticks(values: np.ndarray) -> dict[str, Callable[[], object]]:
    target = np.zeros_like(values)
    parts = np.array_split(values, THREADS)
    return {
        READ: lambda: on_threads(np.max, parts),
        COPYTO: lambda: np.copyto(target, values),
        COPY: values.copy,
    }


# Peers ----------------------------------------------------------------------------------------------------------------


def packer_rows(packer: str, size: Size) -> list[dict[str, Any]]:
    if missing(packer):
        return [packer_row(packer, job, None) for job in JOBS]
    return in_child(measured_rows, packer, size)


def measured_rows(packer: str, size: Size) -> list[dict[str, Any]]:
    """Both jobs of a peer."""
    _, make = PACKERS[packer]
    theirs = make(THREADS)
    values = values_of(size.values)
    packed = theirs.quantize(values)
    cases: dict[str, Callable[[], object]] = {
        COPYTO: yardsticks(values)[COPYTO],
        f"{QUANTIZE}, peer": lambda: theirs.quantize(values),
        f"{DEQUANTIZE}, peer": lambda: theirs.dequantize(packed),
        **{name: functools.partial(make_job(values).work, None, THREADS) for name, make_job in JOBS.items()},
    }
    found = interleaved({name: timed(case) for name, case in cases.items()}, size.repeats)
    return [packer_row(packer, job, found) for job in JOBS]


def packer_row(packer: str, job: str, found: dict[str, list[float]] | None) -> dict[str, Any]:
    """A peer at one job; absent where nothing was found."""
    row: dict[str, Any] = {"peer": packer, "job": job}
    least = LEAST_OF_PEERS if job == QUANTIZE else None
    if found is None:
        absent = dict.fromkeys((COPYTO, "theirs", "ours", "ratio"))
        return {**row, **absent, "at least": least or "", "met": verdict(None)}
    theirs, ours = found[f"{job}, peer"], found[job]
    times = {COPYTO: found[COPYTO], "theirs": theirs, "ours": ours}
    return {
        **row,
        **{name: milliseconds(seconds) for name, seconds in times.items()},
        **at_least(ratio(theirs, ours), least),
    }
