"""One pass over a sealed variable, to check it, to measure it or to turn it back: by threads, or by a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import __version__
from ..io.source import Source
from ..numerics.blocks import processors
from ..numerics.grid import Grid
from ..storage import Variable
from ..store.layout import Layout
from ..store.metadata import Metadata
from ..store.retrying import retried
from .cluster import check_destination, check_folder, check_workers, on_reader, on_worker
from .pool import Stop
from .progress import Counter, Progress
from .schedulers import Task, chosen_workers, run_tasks

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pass:
    """One pass over a sealed variable, and over its source if it has one.

    Attributes
    ----------
    phase : str
        What progress calls it.
    variable, metadata
        What is read.
    units : Grid
        The boxes of values that are done one at a time.
    size : int
        How many of them one task takes.
    source : Source, optional
        What is read beside it.
    shared : bool
        Whether what the work writes, if it does, can be written by other processes too.
    folder : Path, optional
        What it writes in.
    """

    phase: str
    variable: Variable
    metadata: Metadata
    units: Grid
    size: int
    source: Source | None = None
    shared: bool = True
    folder: Path | None = None

    def run(
        self,
        work: Callable[[int], Result],
        numbers: Iterable[int],
        take: Callable[[int, Result], object],
        workers: int | None,
        report: Callable[[Progress], object],
        stop: Stop,
    ) -> None:
        """Call `work` with the number of each unit, and `take` in this thread with that and what comes of it.

        The units come in any order. If there is a `distributed.Client` its workers do the work, where they can reach
        all that is read and written.

        Raises
        ------
        WorkersError
            If a worker cannot do it, or the cluster is lost.
        """
        waiting = iter(numbers)
        batches = iter(lambda: list(islice(waiting, self.size)), [])
        call: Callable[..., Any] = functools.partial(some_units, work, stop)
        scheduler, limit = self.chosen(workers)
        if scheduler == "distributed":
            call = self.on_workers(call)
        read: Layout | Source = self.source or self.metadata.layout
        count = Counter(self.phase, self.units, read.dtype, 0, report)

        def done(task: Task, results: list[Result]) -> None:
            for number, result in zip(task.numbers, results, strict=True):
                take(number, result)
            count.add(task.numbers)

        run_tasks(call, (Task(numbers, (numbers,)) for numbers in batches), done, scheduler, limit, stop)

    def chosen(self, workers: int | None) -> tuple[str, int | None]:
        """The scheduler, and how many tasks may run at a time.

        A dask array is computed by the scheduler of its own, which is the cluster if there is one, and read here.
        """
        graph = self.source is not None and self.source.graph(self.units.region(0)) is not None
        if graph or not self.shared:
            return "threads", workers or processors()
        scheduler, count, *_ = chosen_workers(self.source, self.variable.keys, workers)
        return scheduler, workers if scheduler == "distributed" else count

    def on_workers(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call as workers of the cluster make it, once those that there are were asked whether they can."""
        sample = None if self.source is None else retried(self.source.digest)()
        check_workers(self.source, sample)
        check_destination(self.variable, self.metadata)
        if self.folder is not None:
            check_folder(self.folder)
        return functools.partial(
            on_worker, functools.partial(on_reader, call, self.variable), self.source, sample, __version__
        )


def over_chunks(
    phase: str,
    units: Grid,
    dtype: np.dtype[Any],
    work: Callable[[int], Result],
    take: Callable[[int, Result], object],
    workers: int | None,
    report: Callable[[Progress], object],
    stop: Stop,
) -> None:
    """As `Pass.run`, of an array that is kept as it is: by threads of this process."""
    count = Counter(phase, units, dtype, 0, report)

    def done(task: Task, results: list[Result]) -> None:
        for number, result in zip(task.numbers, results, strict=True):
            take(number, result)
        count.add(task.numbers)

    tasks = (Task([number], ([number],)) for number in range(units.count))
    run_tasks(functools.partial(some_units, work, stop), tasks, done, "threads", workers or processors(), stop)


def some_units(work: Callable[[int], Result], stop: Stop, numbers: list[int]) -> list[Result]:
    """What `work` gives for some units, of which none is begun after `stop`."""
    return [work(number) for number in takewhile(lambda number: not stop.is_set(), numbers)]
