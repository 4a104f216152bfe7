"""What it takes to start: commands and imports in new processes, and the first call in one.

A new process is timed from outside, as a whole. The first call is timed within, after everything is imported: kernels
are loaded from Numba's cache then, or compiled where it is empty. Runs that compile come first, apart from the others,
which take turns.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from quantize import quantize_to_zarr

from .measuring import in_child, interleaved, timed
from .tables import Table, verdict

EMPTY, HELP, NUMPY, IMPORT = 'python -c "pass"', "quantize --help", "import numpy", "import quantize"
INFO = "quantize info STORE"
FIRST = "first quantize_to_int4"
FIRST_CALL = """
from time import perf_counter
import numpy as np
from quantize import quantize_to_int4
values = np.linspace(-1, 1, 1000, dtype=np.float32)
start = perf_counter()
quantize_to_int4(values)
print(perf_counter() - start)
"""


class Size(NamedTuple):
    """How often things are done: compiling takes seconds."""

    repeats: int
    cold: int


FULL, QUICK = Size(repeats=5, cold=2), Size(repeats=1, cold=1)


class Line(NamedTuple):
    """A row of processes: what they do, what that is compared with, and the bar for one of the columns."""

    what: str
    against: str
    column: str = ""
    most: float | None = None


LINES = (
    Line(HELP, EMPTY, "seconds", 0.3),
    Line(IMPORT, NUMPY, "more", 0.1),
    Line(INFO, EMPTY),
)
MOST_FIRST = 0.5  # seconds


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK if quick else FULL
    with TemporaryDirectory() as name:
        folder = Path(name)
        store = str(folder / "store")
        in_child(save, store)
        caches = [str(folder / f"cache {k}") for k in range(size.cold)]
        cold = [first_call(cache) for cache in caches]
        cases: dict[str, Callable[[], float]] = {
            EMPTY: python("pass"),
            HELP: command("--help"),
            NUMPY: python("import numpy"),
            IMPORT: python("import quantize"),
            INFO: command("info", store),
            FIRST: functools.partial(first_call, caches[-1]),
        }
        found = interleaved(cases, size.repeats)
    return [
        Table("New processes, seconds", [process_row(line, found) for line in LINES]),
        Table(
            "The first quantize_to_int4 of a process, seconds",
            [first_row("in Numba's cache", found[FIRST], MOST_FIRST), first_row("not compiled yet", cold, None)],
        ),
    ]


def save(store: str) -> None:
    """A small sealed store."""
    quantize_to_zarr(np.random.default_rng(0).standard_normal((100, 100), dtype=np.float32), store)


def first_call(cache: str) -> float:
    """The seconds that the first call in a new process takes, with a folder for Numba's cache."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    arguments = [sys.executable, "-c", FIRST_CALL]
    return float(subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout)


def python(code: str) -> Callable[[], float]:
    return process([sys.executable, "-c", code])


def command(*arguments: str) -> Callable[[], float]:
    """Our script, or where it is not installed what it does."""
    script = shutil.which("quantize", path=Path(sys.executable).parent)
    program = [script] if script else [sys.executable, "-c", "from quantize.cli import main; main()"]
    return process([*program, *arguments])


def process(arguments: list[str]) -> Callable[[], float]:
    """The seconds that a process takes, as a case of `interleaved`."""
    return timed(functools.partial(subprocess.run, arguments, check=True, capture_output=True))


def process_row(line: Line, found: dict[str, list[float]]) -> dict[str, Any]:
    ours, theirs = found[line.what], found[line.against]
    row = {
        "what": line.what,
        "seconds": median(ours),
        "against": line.against,
        "its seconds": median(theirs),
        "more": median(a - b for a, b in zip(ours, theirs, strict=True)),
        "bar on": line.column,
    }
    return {**row, **at_most(row.get(line.column), line.most)}


def first_row(kernels: str, found: list[float], most: float | None) -> dict[str, Any]:
    return {"kernels": kernels, "seconds": median(found), **at_most(median(found), most)}


def at_most(seconds: Any, most: float | None) -> dict[str, Any]:
    """The columns of a bar, if there is one."""
    return {"at most": "", "met": ""} if most is None else {"at most": most, "met": verdict(seconds <= most)}
