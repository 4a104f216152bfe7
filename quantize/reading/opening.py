"""`open_int4`: whatever a store holds, opened for lazy reading; where a variable lies within a collection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

from ..exceptions import StoreError, UnfinishedStoreError
from ..storage import variable_of
from ..store.keys import Keys
from ..store.manifest import Manifest, Member, Standing, manifest_of, sealed_manifest
from .array import Int4Array, opened_array
from .dataset import KeptArray, opened_dataset


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


# Places within a collection -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A collection, finished or not, and the name of one of its variables, or None for all."""

    keys: Keys
    manifest: Manifest
    name: str | None


def place_of(store: Any, name: str | None = None) -> Place | None:
    """What a store, or a path within one, is of a collection; None where it is none.

    ``store/group/variable`` is understood, with the variable's name in full or as its folder has it.
    """
    keys = Keys.of(store)
    try:
        manifest = manifest_of(keys) if keys.exists else None
    except StoreError:
        if name is None:
            raise
        manifest = None  # a variable can be read whatever its group says
    if manifest is not None:
        return Place(keys, manifest, name)
    if name is not None:
        return None
    for group, parts in keys.upwards():
        manifest = manifest_of(group)
        if manifest is not None:
            path = "/".join(parts)
            found = (one.name for one in manifest.members if path in (one.folder, one.name))
            return next((Place(group, manifest, each) for each in found), None)
    return None


def sealed(place: Place) -> Manifest:
    """The manifest of a whole collection; raises as `sealed_manifest` does where it is not."""
    if place.manifest.status == "sealed":
        return place.manifest
    found = sealed_manifest(place.keys)
    if found is None:
        raise StoreError(f"{place.keys.label} was a collection when it was opened, and is none any more")
    return found


def opened_variable(store: Any, name: str | None = None) -> Int4Array | KeptArray:
    """The variable of a name, or at a path, quantized or kept; raises as `open_int4` does.

    One that is whole is read of an unfinished collection too.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_dataset
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> _ = quantize_dataset({"w": np.ones((64, 64)), "ids": np.arange(3)}, store)
    >>> opened_variable(store, "ids")[:].tolist()
    [0, 1, 2]
    """
    place = place_of(store, name)
    if place is None or place.name is None or place.name not in place.manifest:
        return opened_array(store, name)
    member = place.manifest[place.name]
    unfinished = place.manifest.status != "sealed"
    if member.kind == "int4":
        if not unfinished or variable_of(place.keys, member.path).metadata() is not None:
            return opened_array(place.keys.store, place.name)
    else:
        kept = KeptArray(place.keys, member, Standing.of(place.keys, place.manifest))
        if not unfinished or kept.plain.present().all():
            return kept
    raise UnfinishedStoreError(
        f"{place.keys.label}/{place.name} is unfinished; call quantize_dataset with the same source and settings again "
        "to go on"
    )


def states(place: Place) -> Iterator[tuple[Member, int, int]]:
    """Each variable of a collection that may be unfinished, and how many of its units are written, of how many.

    All are only where it is whole; of what has no metadata yet it is 0 of 0.
    """
    for member in place.manifest.members:
        if member.kind == "kept":
            plain = member.plain(place.keys, {})
            yield member, int(plain.present().sum()), plain.grid.count
            continue
        variable = variable_of(place.keys, member.path)
        metadata = variable.metadata()
        count = 0 if metadata is None else metadata.layout.units.count
        if metadata is None or metadata.status == "sealed":
            yield member, count, count
        else:
            yield member, min(int(variable.present(metadata.layout).sum()), count - 1), count
