"""How things are measured: interleaved, in processes of their own, on a machine described in words."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

from llvmlite import binding

from quantize.numerics.blocks import processors

Key = TypeVar("Key")
Result = TypeVar("Result")

# The widest vectors that loops are compiled for: a feature as LLVM names it, and in words.
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "neon": "NEON"}


def in_child(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` gives in a fresh process, which shares no memory, threads or imports with this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def interleaved(cases: Mapping[Key, Callable[[], Result]], repeats: int) -> dict[Key, list[Result]]:
    """What each case gives in every repeat, in which they take turns.

    A first round, which compiles and fills caches, does not count.
    """
    for case in cases.values():
        case()
    rounds = [{name: case() for name, case in cases.items()} for _ in range(repeats)]
    return {name: [results[name] for results in rounds] for name in cases}


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """The seconds that a call takes, as a case of `interleaved`."""

    def seconds() -> float:
        start = perf_counter()
        function()
        return perf_counter() - start

    return seconds


def machine() -> str:
    """The machine and what runs on it, in words."""
    features = binding.get_host_cpu_features()
    vectors = [f" with {words}" for name, words in VECTORS.items() if features.get(name)]
    cores = processors()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "dask", "zarr"))
    return (
        f"{cores} core{'s' * (cores > 1)}, {platform.machine()}{''.join(vectors[:1])}, {platform.system()}; "
        f"Python {platform.python_version()}, {packages}"
    )


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median, over repeats, of one case's figure over another's."""
    return median(a / b for a, b in zip(above, below, strict=True))


def timed_in_folder(function: Callable[[str], object]) -> Callable[[], float]:
    """As `timed`, of a call with a fresh folder, which is removed when the time is taken."""

    def seconds() -> float:
        with TemporaryDirectory() as folder:
            return timed(lambda: function(folder))()

    return seconds


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes that this process holds at most during a call, above what it held before; None but on Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def resident(key: str) -> int:
    """Bytes of this process that are in memory ("VmRSS"), or were at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def milliseconds(seconds: list[float]) -> float:
    return 1e3 * median(seconds)
