"""One job done by several processes that know nothing of one another, as an array job of a batch system has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .pipeline import CHANGED, Job
from .reading.array import Int4Array
from .runtime.plan import Plan, Settings
from .runtime.progress import Progress
from .storage import find
from .store.metadata import StoreError, UnfinishedStoreError


def quantize_part(
    source: Any,
    store: Any,
    part: int,
    parts: int,
    *,
    verify: bool = False,
    progress: Callable[[Plan | Progress], None] | None = None,
    **settings: Any,
) -> bool:
    """Do one of several parts of what `quantize_to_zarr` does; `seal` makes the variable readable once all are done.

    The parts may run at the same time or one after the other, on any machines that share source and store, and each may
    die and be run again. A part's pass 2 needs the pass 1 of all: call it a second time once all have returned.

    Parameters
    ----------
    source, store, verify, progress
        As for `quantize_to_zarr`.
    part, parts : int
        Which of how many, counted from 1. What is in the store does not depend on them: the number of parts may be
        another one at the next call.
    **settings
        As for `quantize_to_zarr`, and the same for every part.

    Returns
    -------
    bool
        Whether the part is written; False if pass 1 of other parts is not done.

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the settings do not allow. The store stays, unfinished
        and not readable.
    ValueError, TypeError, FileNotFoundError, StoreError, SourceChangedError
        As for `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> values, store = np.linspace(-1, 1, 30, dtype=np.float32), MemoryStore()
    >>> [quantize_part(values, store, part, 2, chunks=10) for part in (1, 2)]
    [False, True]
    >>> quantize_part(values, store, 1, 2, chunks=10)
    True
    >>> seal(store).shape
    (30,)
    """
    if not 1 <= part <= parts:
        raise ValueError(f"part is {part} of {parts}, but parts are counted from 1 to their number")
    job = Job.of(source, store, Settings(**settings), verify, progress, part, parts)
    metadata = job.claim(overwrite=False)
    if metadata.status == "scanning":
        job.scan(metadata)
        if not job.is_scanned(metadata):
            return False
        metadata = job.settle(metadata)
    if metadata.status == "sealed":
        job.check_sealed(metadata)
    else:
        job.write(metadata)
    return True


def seal(store: Any, name: str | None = None, *, durable: bool = False) -> Int4Array:
    """Make a variable readable once all its chunks are there, whoever wrote them.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    durable : bool
        As for `quantize_to_zarr`.

    Returns
    -------
    Int4Array

    Raises
    ------
    UnfinishedStoreError
        If chunks are not there yet: how many, and which is the first.
    FileNotFoundError, StoreError
        As for `open_int4`; also if the source changed while it was read.

    Examples
    --------
    See `quantize_part`.
    """
    variable, metadata = find(store, name)
    if metadata.status == "scanning":
        raise UnfinishedStoreError(f"{variable.where} has no scale yet: pass 1 is not done. Run its parts again")
    if CHANGED in metadata.fingerprint:
        raise StoreError(f"{variable.where}: its source changed while it was read; remove it and begin again")
    return Int4Array(variable, metadata if metadata.status == "sealed" else variable.seal(metadata, durable))
