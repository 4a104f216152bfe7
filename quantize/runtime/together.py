"""Several jobs at once: the stages of one phase of all of them run side by side, and then those of the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from ..exceptions import QuantizeError, RefusedValuesError, StoreError
from .job import Stage, Steps
from .schedulers import Task, run_tasks

PHASES = ("verify", "scan", "scale", "write", "append")  # in the order in which they come

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Failed(NamedTuple):
    """What comes of a task that raised one of our errors, in the place of its result."""

    error: QuantizeError


@dataclass(frozen=True)
class Owned(Task):
    """A task of one of several jobs."""

    owner: Any = None


def together(
    jobs: Mapping[Key, Steps[Result]], scheduler: str, workers: int | None, stop: threading.Event
) -> dict[Key, Result]:
    """Run jobs to their ends, and give what they return.

    A job of which a task fails is told of it once the others have done what they have of the phase, where it may know
    what to do, as with values that its settings refuse; it is told at once where it cannot. What it raises then ends
    all of them.
    """
    waiting: dict[Key, Stage] = {}
    results: dict[Key, Result] = {}

    def advance(key: Key, failed: QuantizeError | None = None) -> None:
        waiting.pop(key, None)
        try:
            waiting[key] = next(jobs[key]) if failed is None else jobs[key].throw(failed)
        except StopIteration as end:
            results[key] = end.value

    try:
        for key in jobs:
            advance(key)
        while waiting:
            phase = min((stage.phase for stage in waiting.values()), key=PHASES.index)
            chosen = {key: stage for key, stage in waiting.items() if stage.phase == phase}
            failed, over = run_stages(chosen, scheduler, workers, stop)
            for key, error in failed.items():
                advance(key, error)
            if over is not None:
                raise over
            for key in chosen:
                if key not in failed:
                    advance(key)
    finally:
        for steps in jobs.values():
            steps.close()
    return {key: results[key] for key in jobs}


def run_stages(
    stages: Mapping[Key, Stage], scheduler: str, workers: int | None, stop: threading.Event
) -> tuple[dict[Key, QuantizeError], QuantizeError | None]:
    """Run the tasks of some stages side by side; of which jobs a task failed, and how, and what ended all of them."""
    failed: dict[Key, QuantizeError] = {}

    def tasks(keys: list[Key]) -> Iterator[Owned]:
        for key in keys:
            for task in stages[key].tasks:
                if key in failed:
                    break
                yield Owned(task.numbers, (stages[key].call, task.arguments), task.blocks, str(key), key)

    def done(task: Task, result: Any) -> None:
        assert isinstance(task, Owned)
        if not isinstance(result, Failed):
            stages[task.owner].done(task, result)
            return
        failed.setdefault(task.owner, result.error)
        if not isinstance(result.error, RefusedValuesError | StoreError):
            raise result.error

    def kind(key: Key) -> tuple[bool, bool]:
        return stages[key].graph, stages[key].here

    for (_, here), group in groupby(sorted(stages, key=kind), key=kind):
        keys = list(group)
        try:
            run_tasks(
                attempt,
                tasks(keys),
                done,
                "threads" if here and scheduler == "distributed" else scheduler,
                workers,
                stop,
            )
        except QuantizeError as error:
            return failed, error
    return failed, None


def attempt(call: Callable[..., Any], arguments: tuple[Any, ...], *blocks: Any) -> Any:
    """What a call gives, or how it failed, where the error is one of ours.

    Its arguments are one here: all tasks that a scheduler is handed have the same number, whatever their jobs.
    """
    try:
        return call(*arguments, *blocks)
    except QuantizeError as error:
        return Failed(error)
