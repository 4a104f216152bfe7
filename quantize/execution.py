"""Runs tasks on a Dask scheduler: threads of this process, or a `distributed` cluster. Bounded in number at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import dask.base
import dask.local
import dask.threaded
from dask.callbacks import Callback
from dask.delayed import delayed

WINDOW = 64  # tasks for each worker that a scheduler is handed at once
QUEUE = 8  # tasks for each worker of a cluster that are under way, so that none waits for the next
GRAPH_WINDOW = 2  # the same where each brings a part of the user's graph, whose blocks it may hold meanwhile


@dataclass(frozen=True)
class Task:
    """The units it does, the arguments of the call, and the dask arrays to compute and pass with them, if any."""

    numbers: list[int]
    arguments: tuple[Any, ...]
    blocks: list[Any] | None = None


def run_tasks(
    work: Callable[..., Any],
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    scheduler: str,
    workers: int,
    stop: threading.Event,
) -> None:
    """Call ``work(*arguments, blocks)`` for each task, and `done` with its result in this thread.

    The first exception ends the run: tasks under way are told by `stop`, no other is begun.
    """
    if scheduler == "distributed":
        on_cluster(work, tasks, done, workers)
    else:
        get = dask.local.get_sync if scheduler == "synchronous" else dask.threaded.get
        on_threads(work, tasks, done, get, workers, stop)


def on_threads(
    work: Callable[..., Any],
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    get: Callable[..., Any],
    workers: int,
    stop: threading.Event,
) -> None:
    with ThreadPoolExecutor(workers) as pool, stopping(stop):
        options = {} if get is dask.local.get_sync else {"pool": pool, "num_workers": workers}
        for window in windows(tasks, workers):
            keys = {f"units-{task.numbers[0]}": task for task in window}

            def finished(key: Any, result: Any, *_: Any, keys: dict[str, Task] = keys) -> None:
                if key in keys:
                    done(keys[key], result)

            with Callback(posttask=finished):
                if window[0].blocks is None:
                    graph = {key: (work, *task.arguments) for key, task in keys.items()}
                    get(graph, list(keys), **options)
                else:
                    calls = [
                        delayed(work)(*task.arguments, task.blocks, dask_key_name=key) for key, task in keys.items()
                    ]
                    dask.base.compute(*calls, scheduler=get, **options)


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Tell running tasks to stop if something goes wrong, before the pool that runs them waits for their end."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def windows(tasks: Iterable[Task], workers: int) -> Iterator[list[Task]]:
    rest = iter(tasks)
    for first in rest:
        size = workers * (WINDOW if first.blocks is None else GRAPH_WINDOW)
        yield [first, *islice(rest, size - 1)]


def on_cluster(
    work: Callable[..., Any], tasks: Iterable[Task], done: Callable[[Task, Any], None], workers: int
) -> None:
    from distributed import Client, as_completed

    client = Client.current()
    rest = iter(tasks)
    running: dict[str, Task] = {}

    def submit(tasks: list[Task]) -> list[Any]:
        """All in one message: each takes the scheduler longer than a task."""
        if not tasks:
            return []
        if tasks[0].blocks is None:
            futures: list[Any] = client.map(work, *zip(*(task.arguments for task in tasks), strict=True), pure=False)
        else:
            futures = client.compute([delayed(work)(*task.arguments, task.blocks) for task in tasks])
        running.update(zip((future.key for future in futures), tasks, strict=True))
        return futures

    # Tasks that wait at a worker keep it busy; but where fewer may run than the cluster has threads, none may wait.
    first = list(islice(rest, 1))
    queue = QUEUE if all(task.blocks is None for task in first) else GRAPH_WINDOW
    width = workers * queue if workers >= sum(client.nthreads().values()) else workers
    completed = as_completed(submit([*first, *islice(rest, width - 1)]), with_results=True)
    try:
        for batch in completed.batches():
            for future, result in batch:
                done(running.pop(future.key), result)
            completed.update(submit(list(islice(rest, len(batch)))))
    finally:
        client.cancel(list(completed.futures))
