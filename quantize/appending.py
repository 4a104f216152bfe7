"""Data that keep coming: values appended to an array that is sealed, and given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .exceptions import StoreError
from .io import as_source, is_stream, sources_of
from .numerics.blocks import processors
from .numerics.names import OUTSIDE, Outside
from .pipeline import check_source
from .reading.array import Int4Array
from .reading.dataset import Int4Dataset, collection_at
from .runtime.appending import Append
from .runtime.display import reporter
from .runtime.giving_up import discarded_of_collection
from .runtime.growing import discarded
from .runtime.growing_collections import AppendAll
from .runtime.outlines import Wishes
from .runtime.streaming import appended
from .storage import Variable, group_data, listed, sealed_variable
from .store.metadata import Metadata
from .store.zarr_json import own_header


def append_to_zarr(
    source: Any,
    store: Any,
    *,
    name: str | None = None,
    axis: int | str = 0,
    outside: Outside | None = None,
    again: bool = False,
    memory: int | str | None = None,
    workers: int | None = None,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[Any], None] | bool | None = None,
) -> Any:
    """Append the values of an array of any size to one that is quantized. Run it again to go on where a run stopped.

    Where the store is a collection, the source is a dataset, and all its variables with the axis become longer
    together: coordinates, and what else was kept, by their values as they are. All others must be what they were.

    One write, the last, makes all of it part of the array: until then, and after a death at any moment, everybody reads
    what there was. The codes that were there stay bit for bit, and so do their scales: new values that share a scale
    with some that were there get codes by that, all others scales of their own, as in a run over all data.

    Parameters
    ----------
    source : path, URL, array, dataset or iterable of arrays
        As for `quantize_to_zarr`, of a collection as for `quantize_dataset`: of the same dtype, and the same shape but
        for the axis. A generator, or what else gives arrays of that kind one after another, is appended once it has
        come to its end; after a death it must begin anew, and nobody sees that the same was appended twice.
    store, name
        As for `open_int4`.
    axis : int or str
        The one that becomes longer, by its number or the name of its dimension. Of a collection whose dimensions have
        names the name, of another the number that it has in all variables.
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
    Int4Array or Int4Dataset

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
    if outside not in (None, *OUTSIDE):
        raise ValueError(f"outside is {outside!r}, but must be 'raise' or 'saturate'")
    if name is None and (collection := collection_at(store)) is not None:
        keys, manifest = collection
        job_of_all = AppendAll.of(
            sources_of(source), replace(keys, verify=verify), manifest, axis, outside, memory, workers
        )
        return appended_to_collection(job_of_all, again, durable, reporter(progress))
    found, metadata = sealed_variable(store, name)
    variable = replace(found, keys=replace(found.keys, verify=verify))
    check_source(source, variable)
    check_alone_or_part(variable)
    axis = numbered(axis, metadata)
    if not -len(metadata.layout.shape) <= axis < len(metadata.layout.shape):
        raise np.exceptions.AxisError(axis, len(metadata.layout.shape))
    own = axis % len(metadata.layout.shape)
    if is_stream(source):
        wishes = Wishes(outside, workers=workers or processors(), durable=durable, report=reporter(progress))
        return Int4Array(found, appended(source, variable, metadata, own, wishes, memory))
    job = Append.of(as_source(source), variable, metadata, own, outside, reporter(progress), memory, workers)
    job.look()
    return Int4Array(found, job.run(again, durable))


def discard_append(store: Any, name: str | None = None) -> bool:
    """Give up an append that did not come to its end: the store then is, byte by byte, what it was.

    One that is still running stops with an error. In a store without locks, as object stores are, end it before:
    nothing holds up its last write if that is on its way already.

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
    if name is None and (collection := collection_at(store)) is not None:
        return discarded_of_collection(*collection)
    variable, metadata = sealed_variable(store, name)
    check_alone_or_part(variable)
    return discarded(variable, metadata)


def appended_to_collection(job: AppendAll, again: bool, durable: bool, report: Callable[[Any], None]) -> Int4Dataset:
    report(job.plan)
    job.look()
    return Int4Dataset(job.keys, job.run(again, durable, report))


def numbered(axis: int | str, metadata: Metadata) -> int:
    """The number of an axis that may be given by the name of its dimension; raises a ValueError where none has it."""
    if isinstance(axis, int):
        return axis
    names = metadata.dimension_names or ()
    if axis not in names:
        there = f"there are {listed([name for name in names if name])}" if any(names) else "they have no names"
        raise ValueError(f"no dimension of the array is called {axis!r}; {there}")
    return names.index(axis)


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
                f"{variable.where} is a variable of the collection {group.label}, whose variables become longer "
                "together: name the collection alone"
            )
