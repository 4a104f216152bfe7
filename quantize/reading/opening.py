"""`open_int4`: whatever a store holds, opened for lazy reading."""

from __future__ import annotations

from typing import Any, overload

from ..exceptions import StoreError
from .array import Int4Array, opened_array
from .dataset import opened_dataset, opened_variable, place_of


@overload
def open_int4(store: Any, name: str) -> Int4Array | Any: ...


@overload
def open_int4(store: Any, name: None = None) -> Any: ...


def open_int4(store: Any, name: str | None = None) -> Any:
    """Open a sealed variable, or a sealed collection, for lazy reading.

    Parameters
    ----------
    store : path, URL or Zarr store
    name : str, optional
        Of the variable; not needed where the store holds only one.

    Returns
    -------
    Int4Array, KeptArray or Int4Dataset
        The variable, a `KeptArray` if a collection keeps it as it was; or, where there is no name, the collection that
        the store is, a mapping of names to lazy arrays.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    UnfinishedStoreError
        If its run has not come to its end.
    StoreError
        If there is no such variable, or it is damaged, of a newer version or not ours.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_dataset, quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> _ = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), store)
    >>> open_int4(store)[2:4].tolist()
    [6.0, 9.0]
    >>> dataset = MemoryStore()
    >>> _ = quantize_dataset({"w": np.ones((64, 64)), "ids": np.arange(3)}, dataset)
    >>> {name: array.shape for name, array in open_int4(dataset).items()}
    {'ids': (3,), 'w': (64, 64)}
    >>> open_int4(dataset, "ids")[:].tolist()
    [0, 1, 2]
    """
    dataset = opened_dataset(store) if name is None else None
    if dataset is not None:
        return dataset
    try:
        return opened_array(store, name)  # which asks a store no more than it must, of what is kept too
    except (StoreError, FileNotFoundError):
        place = place_of(store, name)
        kept = () if place is None else (one.name for one in place.manifest.members if one.kind == "kept")
        if place is None or place.name not in kept:
            raise
        return opened_variable(store, name)
