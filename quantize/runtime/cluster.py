"""Whether the workers of a cluster can do a job, asked before it begins: their version, the source, the destination."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import __version__
from ..exceptions import WorkersError
from ..io.source import Source
from ..storage import Variable
from ..store.metadata import Metadata
from .connection import Connection, NoAnswer
from .pool import TICK
from .schedulers import Task, Watch, answering, run_tasks

ROUNDS = 5  # times that workers are asked anew, since some left the cluster while they were asked
ABLE: set[tuple[str, str | None]] = set()  # sources that this process, a worker's, has found: their labels and samples
SHARED = "Source and destination must lie where every worker finds them under the same name: shared folders, or URLs"


def check_workers(source: Source | None, sample: str | None) -> None:
    """Refuse a cluster of which a worker has another version of the library, or does not find the source as it is here.

    Raises
    ------
    WorkersError
        Naming the first such worker, and what to do.
    """
    check(version, (), __version__, lambda answer: another(answer, __version__))
    if source is not None and sample is not None:  # a dask source brings its own graph
        check(digest, (source,), sample, lambda answer: others(source))


def check_destination(variable: Variable, metadata: Metadata) -> None:
    """Refuse a cluster of which a worker does not see the variable that this process has just written or opened.

    Raises
    ------
    WorkersError
        Naming the first such worker, and what to do.
    """
    check(fingerprint, (variable,), metadata.fingerprint, lambda answer: unseen(variable.where))


def check_folder(folder: Path) -> None:
    """Refuse a cluster of which a worker does not see a folder that this process has just made.

    Raises
    ------
    WorkersError
        Naming the first such worker, and what to do.
    """
    check(os.path.isdir, (folder,), True, lambda answer: unseen(folder))


def check(
    question: Callable[..., Any], arguments: tuple[Any, ...], expected: Any, otherwise: Callable[[Any], str]
) -> None:
    for worker, answer in asked(question, *arguments).items():
        if isinstance(answer, Exception):
            raise WorkersError(
                f"worker {worker} cannot do the job: {type(answer).__name__}: {answer}. {SHARED}"
            ) from answer
        if answer != expected:
            raise WorkersError(f"worker {worker} has {otherwise(answer)}")


def asked(question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What each worker of the cluster answers, or the exception that it gets. The first workers are waited for.

    Those that leave before they have answered are not, and the others are asked anew.
    """
    connection = Connection.current()
    for _ in range(ROUNDS):
        await_workers(connection)
        with suppress(NoAnswer), Watch(functools.partial(answering, connection)):
            workers = list(connection.threads())
            stay = functools.partial(all_stay, connection, workers)
            ask = functools.partial(connection.client.run, question, *arguments, workers=workers, on_error="return")
            answers: dict[str, Any] = connection.answered(ask, stay)
            errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
            if not any(type(error).__name__ == "CommClosedError" for error in errors) and (not errors or stay()):
                return answers
        time.sleep(TICK)  # the scheduler may not have seen yet that one has left
    raise WorkersError(
        f"workers of the scheduler {connection.address} left it again and again while they were asked whether they can "
        "do the job. See their logs; run again to go on"
    )


def all_stay(connection: Connection, workers: list[str]) -> bool:
    return set(workers) <= set(connection.threads())


def await_workers(connection: Connection) -> None:
    """Wait for the first worker of the cluster, for as long as the scheduler would have a task wait for it."""
    with Watch(functools.partial(answering, connection)):
        threads = connection.threads()
    if not threads:
        logging.getLogger("quantize").warning("the cluster %s has no workers yet: waiting for them", connection.address)
        run_tasks(str, [Task([0], ("",))], lambda task, result: None, "distributed", None, threading.Event())


def on_worker(work: Callable[..., Any], source: Source | None, sample: str | None, needed: str, *arguments: Any) -> Any:
    """A task on a worker. If it came after the questions, it is asked some of them here, before its first task.

    Raises
    ------
    WorkersError
        If the worker cannot do the job.
    """
    from distributed import get_worker

    if __version__ != needed:
        raise WorkersError(f"worker {get_worker().address} has {another(__version__, needed)}")
    if source is not None and sample is not None and (source.label, sample) not in ABLE and digest(source) != sample:
        raise WorkersError(f"worker {get_worker().address} has {others(source)}")
    return work(*arguments)


def on_reader(work: Callable[..., Any], variable: Variable, *arguments: Any) -> Any:
    """A task on a worker that reads a variable. To one that does not see it all chunks would be missing.

    Raises
    ------
    WorkersError
        If it does not see it.
    """
    from distributed import get_worker

    if variable.metadata() is None:
        raise WorkersError(f"worker {get_worker().address} has {unseen(variable.where)}")
    return work(*arguments)


def another(found: str, needed: str) -> str:
    return f"quantize {found}, and this process {needed}. Install the same version everywhere"


def unseen(place: object) -> str:
    return f"not the {place} that this process has just looked at. {SHARED}"


def others(source: Source) -> str:
    return f"{source.label} with other values than this process. {SHARED}"


def version() -> str:
    return __version__


def digest(source: Source) -> str | None:
    found = source.digest()
    ABLE.add((source.label, found))
    return found


def fingerprint(variable: Variable) -> dict[str, Any] | None:
    metadata = variable.metadata()
    return None if metadata is None else metadata.fingerprint
