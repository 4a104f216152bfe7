"""Whether the workers of a cluster can do a job, asked before it begins: their version, the source, the destination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import __version__
from ..exceptions import WorkersError
from ..io.source import Source
from ..storage import Variable
from ..store.metadata import Metadata
from .schedulers import asked

SHARED = "Source and destination must lie where every worker finds them under the same name: shared folders, or URLs"


def check_workers(source: Source, sample: str | None) -> None:
    """Refuse a cluster of which a worker has another version of the library, or does not find the source as it is here.

    Raises
    ------
    WorkersError
        Naming the first such worker, and what to do.
    """
    same = f"and this process {__version__}. Install the same version everywhere"
    check(version, (), __version__, lambda answer: f"quantize {answer}, {same}")
    if sample is not None:  # a dask source brings its own graph
        other = f"{source.label} with other values than this process. {SHARED}"
        check(Source.digest, (source,), sample, lambda answer: other)


def check_destination(variable: Variable, metadata: Metadata) -> None:
    """Refuse a cluster of which a worker does not see the variable that this process has just written.

    Raises
    ------
    WorkersError
        Naming the first such worker, and what to do.
    """
    missing = f"not the {variable.where} that this process has just looked at. {SHARED}"
    check(fingerprint, (variable,), metadata.fingerprint, lambda answer: missing)


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


def version() -> str:
    return __version__


def fingerprint(variable: Variable) -> dict[str, Any] | None:
    metadata = variable.metadata()
    return None if metadata is None else metadata.fingerprint
