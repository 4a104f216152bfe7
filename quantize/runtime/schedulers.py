"""Runs tasks on a Dask scheduler: threads of this process, or a `distributed` cluster. Bounded in number at a time."""

from __future__ import annotations

import collections
import functools
import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import dask.threaded
from dask.delayed import delayed

from ..exceptions import WorkersError
from ..io.source import Source
from ..numerics.blocks import processors
from ..store.keys import Keys
from .connection import Connection, NoAnswer, current_client
from .pool import GRACE, TICK, threads, waited_for

WINDOW = 64  # tasks for each worker that a scheduler is handed at once
QUEUE = 8  # tasks for each worker of a cluster that are under way, so that none waits for the next
GRAPH_WINDOW = 2  # the same where each brings a part of the user's graph, whose blocks it may hold meanwhile
PATIENCE = 60.0  # seconds without a task done, after which it is said
NO_WORKERS = {"NoWorkerError", "NoValidWorkerError"}  # Dask's, where it was told how long to wait for one
TRIES = 3  # times that a task may be given up: by Dask, having seen four workers die with it, or by whoever cancels it
UNHEARD = 5.0  # seconds that a result may take to come once its task has ended, before that is begun again
COUNTED = 1.0  # seconds after which the threads of a cluster are counted again
ANSWER = 5.0  # seconds that a scheduler may take to say what is waited for
SLOW = 20  # times the median between two tasks: so long it takes at least


Item = TypeVar("Item")

logger = logging.getLogger("quantize")


@dataclass(frozen=True)
class Task:
    """The units it does, the arguments of the call, and the dask arrays to compute and pass with them, if any.

    `variable` tells tasks of several variables from one another.
    """

    numbers: list[int]
    arguments: tuple[Any, ...]
    blocks: list[Any] | None = None
    variable: str = ""

    @property
    def first(self) -> tuple[str, int]:
        """What no other task has."""
        return self.variable, self.numbers[0]

    def __str__(self) -> str:
        return f"the chunks {f'of {self.variable} ' if self.variable else ''}from number {self.numbers[0]} on"


def run_tasks(
    work: Callable[..., Any],
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    scheduler: str,
    workers: int | None,
    stop: threading.Event,
) -> None:
    """Call ``work(*arguments, blocks)`` for each task, and `done` with its result in this thread.

    The first exception ends the run: tasks under way are told by `stop`, no other is begun. A signal is acted on within
    a second, whatever the tasks wait for. The log says so if none is done for long. `workers` is how many may run at a
    time; None on a cluster for as many as it has threads, those that come meanwhile too.
    """
    connection = Connection.current() if scheduler == "distributed" else None
    with Watch(str if connection is None else functools.partial(processing, connection)) as watch:

        def seen(task: Task, result: Any) -> None:
            watch.beat()
            done(task, result)

        if connection is not None:
            on_cluster(work, tasks, seen, workers, connection)
        elif scheduler == "synchronous":
            in_turn(work, tasks, seen, stop)
        else:
            on_threads(work, tasks, seen, workers or 1, stop)


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


def processing(connection: Connection) -> str:
    """Which workers of the cluster have tasks, and when they were last heard of."""
    client = connection.client
    try:
        workers, tasks = connection.answered(
            lambda: (client.scheduler_info(n_workers=-1)["workers"], client.processing()), before(ANSWER)
        )
    except NoAnswer as silence:
        return f". Waiting for an answer: {silence}"
    if not workers:
        return ". The cluster has no workers left: the run goes on once it has some, or when it is run again"
    now = time.time()
    busy = [
        f"{worker} ({len(keys)} tasks, heard of {now - workers[worker]['last_seen']:.0f} s ago)"
        for worker, keys in tasks.items()
        if keys and worker in workers
    ]
    return f". Waiting for {', '.join(busy)}" if busy else ". No worker of the cluster has anything to do"


def answering(connection: Connection) -> str:
    """That every worker is waited for, and which of them have not been heard of for long."""
    try:
        workers = connection.answered(lambda: connection.client.scheduler_info(n_workers=-1)["workers"], before(ANSWER))
    except NoAnswer as silence:
        return f". Waiting for an answer: {silence}"
    ages = {worker: time.time() - about["last_seen"] for worker, about in workers.items()}
    late = [f"{worker} ({age:.0f} s ago)" for worker, age in ages.items() if age > UNHEARD]
    last = f". Not heard of for some time: {', '.join(late)}" if late else ""
    return f". Waiting for every worker of the cluster to answer{last}"


def before(seconds: float) -> Callable[[], bool]:
    """Whether so much time has not passed yet."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


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
        delayed(functools.partial(call, task))(task.blocks, dask_key_name=f"units-{'-'.join(map(str, task.first))}")
        for task in window
    ]


def windows(tasks: Iterable[Task], workers: int) -> Iterator[list[Task]]:
    rest = iter(tasks)
    for first in rest:
        size = workers * (WINDOW if first.blocks is None else GRAPH_WINDOW)
        yield [first, *islice(rest, size - 1)]


def on_cluster(
    work: Callable[..., Any],
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    limit: int | None,
    connection: Connection,
) -> None:
    """Nothing is waited for without a limit: neither a client nor its futures say that they have lost the scheduler."""
    rest = iter(tasks)
    first = list(islice(rest, 1))
    room = Room(connection, limit, QUEUE if all(task.blocks is None for task in first) else GRAPH_WINDOW)
    flight = Flight(work, done, connection)
    rest = chain(first, rest)
    again: list[Task] = []  # a task may have waited at workers that others killed
    try:
        while True:
            todo = [*again, *islice(rest, max(room.tasks() - len(flight.running) - len(again), 0))]
            if todo:
                flight.submit(todo)
            if not flight.running:
                return
            again = flight.landed()
            connection.check()
    finally:
        flight.cancel()


class Flight:
    """Tasks under way on a cluster, in `running` with their futures, by the keys of these.

    Only a task whose result has come is done. One that was cancelled or lost is given up, and may be begun again.
    """

    def __init__(self, work: Callable[..., Any], done: Callable[[Task, Any], None], connection: Connection) -> None:
        from distributed import as_completed

        self.work, self.done = work, done
        self.connection, self.client = connection, connection.client
        self.completed = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        self.running: dict[Any, tuple[Task, Any]] = {}
        self.given_up: collections.Counter[tuple[str, int]] = collections.Counter()  # times, by what is first in a task
        self.silent: collections.Counter[Any] = collections.Counter()  # ticks since one ended, without a result, by key

    def submit(self, tasks: list[Task]) -> None:
        """All in one message: each takes the scheduler longer than a task."""
        try:
            if tasks[0].blocks is None:
                arguments = zip(*(task.arguments for task in tasks), strict=True)
                futures = self.client.map(self.work, *arguments, pure=False)
            else:
                calls = [delayed(self.work)(*task.arguments, task.blocks) for task in tasks]
                futures = self.client.compute(calls)
        except Exception as error:
            self.connection.check(error)
            raise
        self.running.update((future.key, (task, future)) for task, future in zip(tasks, futures, strict=True))
        self.completed.update(futures)

    def landed(self) -> list[Task]:
        """Wait a tick for tasks to end, and see to those that have: which are to be begun again."""
        again = []
        ended = self.ended()
        for future, result in ended:
            if future.key not in self.running:  # it has been begun again
                continue
            task, _ = self.running.pop(future.key)
            if future.status == "finished" and not isinstance(result, BaseException):
                self.done(task, result)
            else:
                self.give_up(task, future)
                again.append(task)
        for future in [] if ended else self.unheard():
            task, _ = self.running.pop(future.key)
            self.give_up(task, future)
            again.append(task)
        return again

    def ended(self) -> list[tuple[Any, Any]]:
        """Futures and their results, if any come within a tick."""
        with suppress(Empty):
            return [self.completed.queue.get(timeout=TICK), *self.completed.next_batch(block=False)]
        return []

    def unheard(self) -> list[Any]:
        """Futures that ended long ago: what fetches a result does not survive all that may happen to a cluster."""
        for key, (_, future) in self.running.items():
            self.silent[key] = self.silent[key] + 1 if future.status != "pending" else 0
        return [future for key, (_, future) in self.running.items() if self.silent[key] * TICK > UNHEARD]

    def give_up(self, task: Task, future: Any) -> None:
        """See whether a task that is not done may be begun again.

        Raises
        ------
        WorkersError
            If it has been too often, or cannot be.
        Exception
            Its own, if it failed by itself.
        """
        self.connection.check()
        error = self.connection.answered(future.exception) if future.status == "error" else None
        name = type(error).__name__
        if error is not None and name in NO_WORKERS:
            raise WorkersError(
                f"the cluster had no workers for {getattr(error, 'timeout', 0):.0f} s, as long as its setting "
                "distributed.scheduler.no-workers-timeout says. See their logs; run again to go on"
            ) from error
        if error is not None and name != "KilledWorker":
            raise error
        self.given_up[task.first] += 1
        if self.given_up[task.first] < TRIES:
            return
        if error is not None:
            raise WorkersError(
                f"workers died again and again while they had {task}, for lack of memory "
                "or by a crash in what reads the source. See their logs; run again to go on"
            ) from error
        raise WorkersError(
            f"the task for {task} was cancelled or lost {TRIES} times, by restarts of the "
            "cluster or by others who use its Client. Run again to go on"
        )

    def cancel(self) -> None:
        """What ended the run is what is told, whether or not this can be done."""
        if self.running:
            futures = [future for _, future in self.running.values()]
            with suppress(Exception):
                self.connection.answered(lambda: self.client.cancel(futures), before(GRACE))


@dataclass
class Room:
    """How many tasks a cluster may have under way, by the threads that it has now: workers come and go."""

    connection: Connection
    limit: int | None
    queue: int
    counted: float = -math.inf
    found: int = 0

    def tasks(self) -> int:
        """So many that none waits for the next.

        But where fewer may run than there are threads none may wait, and one alone waits for the first worker.
        """
        if time.monotonic() - self.counted > COUNTED:
            self.found = sum(self.connection.threads().values())
            self.counted = time.monotonic()
        if self.limit is not None and self.limit < self.found:
            return self.limit
        return max(self.found * self.queue, 1)


def chosen_workers(source: Source | None, keys: Keys, workers: int | None) -> tuple[str, int, int, list[str]]:
    """Scheduler, tasks at a time, processes (0 where a cluster has none yet), and what to say of them."""
    import dask.base

    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1")
    notes: list[str] = []
    client = current_client()
    if client is not None:
        here = source is not None and not source.shared
        if keys.shared and not here:
            connection = Connection(client)
            with Watch(lambda: f". Waiting for the scheduler {connection.address} to answer"):
                threads = connection.threads()
            if not threads:
                notes.append("the cluster has no workers yet, and the run waits for them; the figures are for one task")
            total = max(sum(threads.values()), 1)
            return "distributed", min(total, workers or total), len(threads), notes
        which = "source" if here else "destination"
        notes.append(f"the {which} lives in this process, so its own threads do the work and not the cluster")
    asked, get = dask.config.get("scheduler", None), None
    if asked is not None:  # where nothing is set, `get_scheduler` would import all of distributed to look for a client
        with suppress(RuntimeError):  # a client that was closed in its own `with` block leaves Dask set to it
            get = dask.base.get_scheduler(scheduler=asked)
    if get is not None and get.__module__ == "dask.local":
        return "synchronous", 1, 1, notes
    return "threads", workers or processors(), 1, notes
