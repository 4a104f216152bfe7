"""Tasks on threads: each once, few at a time, and an end when one fails."""

import threading
from collections.abc import Iterator
from typing import Any

import dask
import dask.array
import numpy as np
import pytest

from quantize.runtime.schedulers import WINDOW, Task, run_tasks


def tasks(n: int, taken: list[int] | None = None) -> Iterator[Task]:
    for number in range(n):
        if taken is not None:
            taken.append(number)
        yield Task([number], (number,))


@pytest.mark.parametrize("workers", [1, 3])
def test_each_task_is_done_once_and_told_in_the_calling_thread(workers: int) -> None:
    results: list[tuple[list[int], int]] = []

    def done(task: Task, result: int) -> None:
        assert threading.current_thread() is here
        results.append((task.numbers, result))

    here = threading.current_thread()
    run_tasks(lambda number: number * 2, tasks(300), done, "threads", workers, threading.Event())
    assert sorted(results) == [([n], 2 * n) for n in range(300)]


def test_nothing_to_do() -> None:
    run_tasks(lambda number: 1 / 0, tasks(0), lambda task, result: None, "threads", 2, threading.Event())


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []
    most = []
    run_tasks(
        lambda n: n, tasks(1000, taken), lambda t, r: most.append(len(taken) - r), "threads", 2, threading.Event()
    )
    assert max(most) <= 2 * WINDOW + 1


def test_no_more_run_at_a_time_than_there_are_workers() -> None:
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def work(number: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()  # passes only if two run at a time
        with lock:
            running -= 1

    run_tasks(work, tasks(20), lambda task, result: None, "threads", 2, threading.Event())
    assert most == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failure_ends_the_run(workers: int) -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 5:
            raise ZeroDivisionError("number 5")

    stop = threading.Event()
    with pytest.raises(ZeroDivisionError, match="number 5"):
        run_tasks(work, tasks(1000), lambda task, result: None, "threads", workers, stop)
    assert stop.is_set()
    assert len(begun) < 100


def test_tasks_under_way_are_told_to_stop() -> None:
    stop = threading.Event()
    both = threading.Barrier(2, timeout=10)
    told = []

    def work(number: int) -> None:
        both.wait()
        if number == 0:
            raise ZeroDivisionError
        told.append(stop.wait(3))

    with pytest.raises(ZeroDivisionError):
        run_tasks(work, tasks(2), lambda task, result: None, "threads", 2, stop)
    assert told == [True]


def test_a_failure_in_the_callers_thread_ends_the_run() -> None:
    def done(task: Task, result: Any) -> None:
        raise KeyboardInterrupt

    begun: list[int] = []
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(begun.append, tasks(1000), done, "threads", 2, stop)
    assert stop.is_set()
    assert len(begun) < 100


def test_after_an_interrupt_a_task_that_is_held_up_is_left_to_itself() -> None:
    go, stop = threading.Event(), threading.Event()
    both = threading.Barrier(2, timeout=10)
    told = []

    def work(number: int) -> None:
        both.wait()
        if number == 1:
            go.wait(30)
            told.append(stop.is_set())
            both.wait()

    def done(task: Task, result: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(work, tasks(2), done, "threads", 2, stop)
    assert told == []
    go.set()
    both.wait()
    assert told == [True]


@pytest.mark.parametrize("scheduler", [None, "synchronous", "threads", "processes"])
@pytest.mark.parametrize("workers", [1, 2])
def test_threads_are_of_this_process_whatever_dask_is_set_to(scheduler: str | None, workers: int) -> None:
    results: list[int] = []
    with dask.config.set(scheduler=scheduler):
        run_tasks(results.append, tasks(5), lambda task, result: None, "threads", workers, threading.Event())
    assert sorted(results) == list(range(5))


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_blocks_of_a_graph_are_computed_and_passed(scheduler: str) -> None:
    values = np.arange(24.0).reshape(4, 6)
    lazy = dask.array.from_array(values, chunks=(3, 2)) + 1
    found = {}

    def work(number: int, blocks: list[np.ndarray]) -> float:
        return float(sum(block.sum() for block in blocks))

    def done(task: Task, result: float) -> None:
        assert threading.current_thread() is here
        found[task.numbers[0]] = result

    here = threading.current_thread()
    todo = (Task([row], (row,), [lazy[row : row + 1], lazy[row : row + 1, :2]]) for row in range(4))
    run_tasks(work, todo, done, scheduler, 2, threading.Event())
    assert found == {row: (values + 1)[row].sum() + (values + 1)[row, :2].sum() for row in range(4)}


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_graph_that_fails_ends_the_run(scheduler: str) -> None:
    def divide(block: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("in the graph")

    lazy = dask.array.zeros((100, 3), chunks=(1, 3)).map_blocks(divide, dtype=float, meta=np.empty((0, 0)))
    begun: list[int] = []
    stop = threading.Event()
    todo = (Task([row], (row,), [lazy[row]]) for row in range(100))
    with pytest.raises(ZeroDivisionError, match="in the graph"):
        run_tasks(lambda row, blocks: begun.append(row), todo, lambda task, result: None, scheduler, 2, stop)
    assert stop.is_set()
    assert begun == []
