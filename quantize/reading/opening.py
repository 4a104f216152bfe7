"""`open_int4`: whatever a store holds, opened for lazy reading."""

from __future__ import annotations

from typing import Any, overload

from .array import Int4Array, opened_array
from .dataset import opened_dataset


@overload
def open_int4(store: Any, name: str) -> Int4Array: ...


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
    Int4Array or Int4Dataset
        The variable; or, where there is no name, the collection that the store is, a mapping of names to lazy arrays.

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
    """
    dataset = opened_dataset(store) if name is None else None
    return opened_array(store, name) if dataset is None else dataset
