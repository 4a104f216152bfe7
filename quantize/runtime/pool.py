"""A pool of threads that a signal ends: what its threads are held up in is not waited for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

TICK = 0.2  # seconds that the calling thread waits at once: after each it acts on a signal that another thread received
GRACE = 0.5  # seconds that tasks under way have to end in once Ctrl-C was pressed, before they are left to themselves

Item = TypeVar("Item")


class Stop(threading.Event):
    """The sign to stop, of this process alone: what travels to another has one there that nobody sets."""

    def __reduce__(self) -> Any:
        return Stop, ()


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
