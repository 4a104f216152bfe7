"""Data that keep coming: values appended to an array that is sealed, and given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .exceptions import StoreError
from .io import as_source
from .numerics.names import OUTSIDE, Outside
from .pipeline import check_source
from .reading.array import Int4Array
from .runtime.appending import Append
from .runtime.display import reporter
from .runtime.growing import discarded
from .runtime.plan import Plan
from .runtime.progress import Progress
from .storage import Variable, group_data, sealed_variable
from .store.zarr_json import own_header


def append_to_zarr(
    source: Any,
    store: Any,
    *,
    name: str | None = None,
    axis: int = 0,
    outside: Outside | None = None,
    again: bool = False,
    memory: int | str | None = None,
    workers: int | None = None,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[Plan | Progress], None] | bool | None = None,
) -> Int4Array:
    """Append the values of an array of any size to one that is quantized. Run it again to go on where a run stopped.

    One write, the last, makes all of it part of the array: until then, and after a death at any moment, everybody reads
    what there was. The codes that were there stay bit for bit, and so do their scales: new values that share a scale
    with some that were there get codes by that, all others scales of their own, as in a run over all data.

    Parameters
    ----------
    source : path, URL or array
        As for `quantize_to_zarr`: of the same dtype, and the same shape but for the axis.
    store, name
        As for `open_int4`.
    axis : int
        The one that becomes longer.
    outside : {"raise", "saturate"}, optional
        What becomes of values beyond the range of a scale that is there, by more than half a step: they are refused,
        with how many and where; or they get the nearest level, and are counted in the metadata. By default refused, but
        where a `value_range` was given, which says that they saturate.
    again : bool
        Append what was appended last once more. Without it that is refused: it may be a call that had come to its end.
    memory, workers, verify, durable, progress
        As for `quantize_to_zarr`.

    Returns
    -------
    Int4Array

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold values outside the range, or NaN, missing values or infinities that the array's options do not
        allow. Nothing is appended.
    ValueError
        If the source is not of the array's kind, or its last chunk or block ends where no other can begin.
    StoreError
        If another append or writer is under way; if the variable is one of a collection, or damaged.
    UnfinishedStoreError, FileNotFoundError, TypeError, WorkersError
        As for `open_int4` and `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> days, store = np.random.default_rng(0).normal(size=(7, 100, 64)).astype(np.float32), MemoryStore()
    >>> _ = quantize_to_zarr(days[:5], store, blocks=32, chunks=(2, -1, -1))
    >>> append_to_zarr(days[5:], store).shape
    (7, 100, 64)
    """
    found, metadata = sealed_variable(store, name)
    variable = replace(found, keys=replace(found.keys, verify=verify))
    check_source(source, variable)
    check_alone_or_part(variable)
    if not -len(metadata.layout.shape) <= axis < len(metadata.layout.shape):
        raise np.exceptions.AxisError(axis, len(metadata.layout.shape))
    if outside is None:
        outside = "raise" if metadata.rule.method.value_range is None else "saturate"
    if outside not in OUTSIDE:
        raise ValueError(f"outside is {outside!r}, but must be 'raise' or 'saturate'")
    own = axis % len(metadata.layout.shape)
    job = Append.of(as_source(source), variable, metadata, own, outside, reporter(progress), memory, workers)
    job.look()
    return Int4Array(found, job.run(again, durable))


def discard_append(store: Any, name: str | None = None) -> bool:
    """Give up an append that did not come to its end: the store then is, byte by byte, what it was.

    Parameters
    ----------
    store, name
        As for `open_int4`.

    Returns
    -------
    bool
        Whether there was one.

    Raises
    ------
    StoreError
        As for `open_int4`.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> _ = quantize_to_zarr(np.ones((4, 4)), store)
    >>> discard_append(store)
    False
    """
    return discarded(*sealed_variable(store, name))


def check_alone_or_part(variable: Variable) -> None:
    """Refuse one variable of a collection: the others would not be as long.

    Raises
    ------
    StoreError
        If it is one.
    """
    for group in (variable.keys, *variable.keys.enclosing):
        if own_header(group_data(group) or b""):
            raise StoreError(
                f"{variable.where} is a variable of the collection {group.label}, whose variables were written together"
            )
