"""Runs tasks on a Dask scheduler: threads of this process, or a `distributed` cluster. Bounded in number at a time."""

from __future__ import annotations

import collections
import functools
import logging
import math
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import dask.threaded
from dask.delayed import delayed

from ..exceptions import WorkersError
from ..io.source import Source
from ..numerics.blocks import processors
from ..store.keys import Keys
from ..store.layout import Layout
from .progress import Counter, Progress
from .scans import batch_size

WINDOW = 64  # tasks for each worker that a scheduler is handed at once
QUEUE = 8  # tasks for each worker of a cluster that are under way, so that none waits for the next
GRAPH_WINDOW = 2  # the same where each brings a part of the user's graph, whose blocks it may hold meanwhile
TICK = 0.2  # seconds that the calling thread waits at once: after each it acts on a signal that another thread received
GRACE = 0.5  # seconds that tasks under way have to end in once Ctrl-C was pressed, before they are left to themselves
PATIENCE = 60.0  # seconds without a task done, after which it is said
NO_WORKERS = {"NoWorkerError", "NoValidWorkerError"}  # Dask's, where it was told how long to wait for one
KILLED = 3  # times that Dask may give a task up, having seen four workers die with it
SLOW = 20  # times the median between two tasks: so long it takes at least


Item = TypeVar("Item")

logger = logging.getLogger("quantize")


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

    The first exception ends the run: tasks under way are told by `stop`, no other is begun. A signal is acted on within
    a second, whatever the tasks wait for. The log says so if none is done for long.
    """
    with Watch(functools.partial(processing, client()) if scheduler == "distributed" else str) as watch:

        def seen(task: Task, result: Any) -> None:
            watch.beat()
            done(task, result)

        if scheduler == "distributed":
            on_cluster(work, tasks, seen, workers)
        elif scheduler == "synchronous":
            in_turn(work, tasks, seen, stop)
        else:
            on_threads(work, tasks, seen, workers, stop)


class Watch:
    """Warns in the log if nothing is done for much longer than it mostly takes; `where` says what is waited for."""

    def __init__(self, where: Callable[[], str]) -> None:
        self.where = where
        self.over = threading.Event()
        self.last = time.monotonic()
        self.pauses: deque[float] = deque(maxlen=1000)
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def beat(self) -> None:
        now = time.monotonic()
        self.pauses.append(now - self.last)
        self.last = now

    def watch(self) -> None:
        said = 0.0  # how long the silence was when it was told of
        while not self.over.wait(PATIENCE / 4):
            silence = time.monotonic() - self.last
            usual = statistics.median(self.pauses) if self.pauses else 0.0
            said = said if silence > said else 0.0
            if silence > max(PATIENCE, SLOW * usual, 2 * said):
                said = silence
                mostly = f", where {usual:.1f} s is usual" if self.pauses else ""
                where = ""
                with suppress(Exception):  # a scheduler that does not answer either
                    where = self.where()
                logger.warning("nothing was done for %.0f s%s%s", silence, mostly, where)


def client() -> Any:
    from distributed import Client

    return Client.current()


def processing(client: Any) -> str:
    """Which workers of the cluster have tasks, and when they were last heard of."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        return ". The cluster has no workers left: the run goes on once it has some, or when it is run again"
    now = time.time()
    busy = [
        f"{worker} ({len(keys)} tasks, heard of {now - workers[worker]['last_seen']:.0f} s ago)"
        for worker, keys in client.processing().items()
        if keys and worker in workers
    ]
    return f". Waiting for {', '.join(busy)}" if busy else ". No worker of the cluster has anything to do"


def asked(question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What each worker of the cluster answers, or the exception that it gets."""
    with Watch(lambda: ". Waiting for every worker of the cluster to answer"):
        answers: dict[str, Any] = client().run(question, *arguments, on_error="return")
    return answers


def on_threads(
    work: Callable[..., Any],
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    workers: int,
    stop: threading.Event,
) -> None:
    """Results and errors come through a queue, which is waited for with a time limit, so that signals are heard.

    No more tasks are begun than there are workers: what stops a run costs only those under way.
    """
    results: SimpleQueue[tuple[Task | None, Any]] = SimpleQueue()

    def call(task: Task, *blocks: Any) -> None:
        try:
            if stop.is_set():
                raise CancelledError
            results.put((task, work(*task.arguments, *blocks)))
        except BaseException as error:
            results.put((None, error))
            stop.set()

    def compute(window: list[Task]) -> None:
        try:
            dask.base.compute(*calls(call, window), scheduler=dask.threaded.get, pool=pool, num_workers=workers)
        except BaseException as error:  # of the user's graph
            results.put((None, error))

    def take() -> None:
        task, result = waited_for(results)
        if task is None:
            raise result
        done(task, result)

    with threads(workers, stop) as pool:
        for window in windows(tasks, workers):
            ahead = iter(window if window[0].blocks is None else ())
            for task in islice(ahead, workers):
                pool.submit(call, task)
            if window[0].blocks is not None:
                threading.Thread(target=compute, args=(window,)).start()
            for _ in window:
                take()
                for task in islice(ahead, 1):
                    pool.submit(call, task)


def in_turn(
    work: Callable[..., Any], tasks: Iterable[Task], done: Callable[[Task, Any], None], stop: threading.Event
) -> None:
    """One task after the other in this thread, and of a graph too."""

    def call(task: Task, *blocks: Any) -> None:
        done(task, work(*task.arguments, *blocks))

    try:
        for window in windows(tasks, 1):
            if window[0].blocks is None:
                for task in window:
                    call(task)
            else:
                dask.base.compute(*calls(call, window), scheduler=dask.local.get_sync)
    except BaseException:
        stop.set()
        raise


def calls(call: Callable[..., None], window: list[Task]) -> list[Any]:
    """A call for each task, with its blocks, which a scheduler of Dask's computes."""
    return [
        delayed(functools.partial(call, task))(task.blocks, dask_key_name=f"units-{task.numbers[0]}") for task in window
    ]


@contextmanager
def threads(workers: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose tasks are done at the end of the block.

    If something goes wrong, those under way are told by `stop` and waited for, the others are dropped. After Ctrl-C
    they are waited for briefly only: one that is held up in a read ends by itself, later, and writes nothing.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException as error:
        stop.set()
        end = time.monotonic() + (math.inf if isinstance(error, Exception) else GRACE)
        ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
        ending.start()
        while ending.is_alive() and time.monotonic() < end:
            ending.join(TICK)
        raise
    pool.shutdown()


def waited_for(results: SimpleQueue[Item]) -> Item:
    """The next thing in a queue. Waited for without a limit, a signal that another thread received would do nothing."""
    while True:
        with suppress(Empty):
            return results.get(timeout=TICK)


def result_of(future: Future[Item]) -> Item:
    """Waited for as `waited_for` does."""
    while not wait([future], TICK).done:
        pass
    return future.result()


def windows(tasks: Iterable[Task], workers: int) -> Iterator[list[Task]]:
    rest = iter(tasks)
    for first in rest:
        size = workers * (WINDOW if first.blocks is None else GRAPH_WINDOW)
        yield [first, *islice(rest, size - 1)]


def on_cluster(
    work: Callable[..., Any], tasks: Iterable[Task], done: Callable[[Task, Any], None], workers: int
) -> None:
    from distributed import KilledWorker, as_completed

    cluster = client()
    rest = iter(tasks)
    running: dict[str, Task] = {}

    def submit(tasks: list[Task]) -> list[Any]:
        """All in one message: each takes the scheduler longer than a task."""
        if not tasks:
            return []
        if tasks[0].blocks is None:
            futures: list[Any] = cluster.map(work, *zip(*(task.arguments for task in tasks), strict=True), pure=False)
        else:
            futures = cluster.compute([delayed(work)(*task.arguments, task.blocks) for task in tasks])
        running.update(zip((future.key for future in futures), tasks, strict=True))
        return futures

    # Tasks that wait at a worker keep it busy; but where fewer may run than the cluster has threads, none may wait.
    first = list(islice(rest, 1))
    queue = QUEUE if all(task.blocks is None for task in first) else GRAPH_WINDOW
    width = workers * queue if workers >= sum(cluster.nthreads().values()) else workers
    completed = as_completed(submit([*first, *islice(rest, width - 1)]), with_results=True, raise_errors=False)
    killed: collections.Counter[int] = collections.Counter()
    try:
        for batch in completed.batches():
            again = []
            for future, result in batch:
                task = running.pop(future.key)
                if future.status != "error":
                    done(task, result)
                    continue
                error = future.exception()
                if type(error).__name__ in NO_WORKERS:
                    raise WorkersError(
                        f"the cluster had no workers for {error.timeout:.0f} s, as long as its setting "
                        "distributed.scheduler.no-workers-timeout says. See their logs; run again to go on"
                    ) from error
                if not isinstance(error, KilledWorker):
                    raise error
                killed[task.numbers[0]] += 1
                if killed[task.numbers[0]] == KILLED:
                    raise WorkersError(
                        f"workers died again and again while they had the chunks from number {task.numbers[0]} on, for "
                        "lack of memory or by a crash in what reads the source. See their logs; run again to go on"
                    ) from error
                again.append(task)  # a task may have waited at workers that others killed
            completed.update(submit([*again, *islice(rest, len(batch) - len(again))]))
    finally:
        cluster.cancel(list(completed.futures))


def current_client() -> Any:
    """The user's `distributed.Client`, if there is one; the package is not imported to find out."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def chosen_workers(source: Source, keys: Keys, workers: int | None) -> tuple[str, int, int, list[str]]:
    """Scheduler, tasks at a time, processes, and what to say of them."""
    import dask.base

    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1")
    notes: list[str] = []
    client = current_client()
    if client is not None:
        if source.shared and keys.shared:
            threads = [worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
            return "distributed", min(sum(threads), workers or sum(threads)), len(threads), notes
        which = "destination" if source.shared else "source"
        notes.append(f"the {which} lives in this process, so its own threads do the work and not the cluster")
    get = dask.base.get_scheduler()
    if get is not None and get.__module__ == "dask.local":
        return "synchronous", 1, 1, notes
    return "threads", workers or processors(), 1, notes


def each_unit(
    work: Callable[[Iterable[int]], None],
    phase: str,
    layout: Layout,
    workers: int | None,
    progress: Callable[[Progress], None] | None,
    units: Iterator[int],
    stop: threading.Event | None = None,
) -> None:
    """Call `work` for some units at a time on threads of this process, of which none is begun after `stop`."""
    count = Counter(phase, layout, 0, progress or (lambda event: None))
    size = batch_size(layout.units.count)
    batches = iter(lambda: list(islice(units, size)), [])
    stop = stop or threading.Event()

    def until_stopped(numbers: list[int]) -> None:
        work(takewhile(lambda number: not stop.is_set(), numbers))

    run_tasks(
        until_stopped,
        (Task(numbers, (numbers,)) for numbers in batches),
        lambda task, _: count.add(task.numbers),
        "threads",
        workers or processors(),
        stop,
    )
