"""`Int4Dataset`: a sealed collection, a mapping of names to lazy arrays, quantized or kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from dask.utils import format_bytes

from ..exceptions import DamagedChunkError, StoreError
from ..io.attributes import zarr_attributes
from ..numerics.grid import Region, Shape
from ..storage import sealed_member
from ..store.keys import Keys, stored_bytes
from ..store.manifest import Manifest, Member, Standing, read_again, sealed_manifest
from .array import Int4Array
from .indexing import Indexer, Selection, outer, plain, pointwise
from .summary import dtype_said


class KeptArray:
    """A lazy view of an array that a collection keeps as it was, read chunk by chunk.

    Indexing is that of an `Int4Array`. A chunk that is absent is an error, and no fill value.

    Attributes
    ----------
    shape, dtype, ndim, size, nbytes
        Of the values; text of any length has the dtype object.
    chunks : tuple of int
    attributes : dict
        All that the source said, nothing decoded.
    dimension_names : tuple of str or None, optional
    """

    def __init__(self, keys: Keys, member: Member, standing: Standing) -> None:
        self.member = member
        self.standing = standing
        self.name = member.name
        self.path = keys.label
        self.shape: Shape = member.shape
        self.dtype = member.dtype
        self.attributes = member.attributes
        self.dimension_names = member.dimension_names
        self.plain = member.plain(keys, zarr_attributes(member.attributes, member.dtype))
        self.chunks: Shape = self.plain.chunk

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.plain.nbytes

    @property
    def nbytes_stored(self) -> int:
        return stored_bytes(self.plain.keys, self.plain.folder, self.plain.grid) if self.shape else self.plain.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        dtype = dtype_said(self.dtype)
        return f"<KeptArray {self.path}/{self.name} shape={self.shape} dtype={dtype} chunks={self.chunks}>"

    def read(self, region: Region) -> np.ndarray:
        """The values of a region, a slice of each axis; raises as indexing does.

        Raises
        ------
        DamagedChunkError
            If a chunk is missing or damaged.
        StoreError
            If the collection was overwritten since it was opened.
        """
        try:
            found = self.plain.read(region)
        except DamagedChunkError:
            self.standing.check_read()
            raise
        self.standing.check_read()
        return found

    def __getitem__(self, index: Any) -> Any:
        return self.selected(plain(index, self.shape))

    @property
    def oindex(self) -> Indexer:
        """Outer indexing, as that of an `Int4Array`."""
        return Indexer(self, outer)

    @property
    def vindex(self) -> Indexer:
        """Pointwise indexing, as that of an `Int4Array`."""
        return Indexer(self, pointwise)

    def selected(self, selection: Selection) -> Any:
        """The values that an index takes, of whatever kind it is."""
        return selection.read(self.chunks, self.dtype, self.read)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a KeptArray is read from its store, so it cannot be an array without a copy")
        return np.asarray(self[...], dtype)


class Int4Dataset(Mapping[str, Int4Array | KeptArray]):
    """A sealed collection: its variables by name, "/" between groups, each a lazy array.

    What is quantized is an `Int4Array`, what is not a `KeptArray`.

    Attributes
    ----------
    path : str
    attributes : dict
        Those of the source as a whole.
    groups : dict
        The attributes of each group by its path, "" the collection itself.
    """

    def __init__(self, keys: Keys, manifest: Manifest) -> None:
        self.keys_of_store = keys
        self.manifest = manifest
        self.standing = Standing.of(keys, manifest)
        self.path = keys.label
        self.groups = {"/".join(path): manifest.groups.get(path, {}) for path in manifest.group_paths}
        self.attributes = self.groups[""]
        self._opened: dict[str, Int4Array | KeptArray] = {}

    def __getitem__(self, name: str) -> Int4Array | KeptArray:
        if name not in self._opened:
            self._opened[name] = self._open(self.manifest[name])
        return self._opened[name]

    def _open(self, member: Member) -> Int4Array | KeptArray:
        if member.kind == "kept":
            return KeptArray(self.keys_of_store, member, self.standing)
        return Int4Array(*sealed_member(self.keys_of_store, member))

    def refresh(self) -> Int4Dataset:
        """Take in what was appended since it was opened: the dataset itself, whose variables are longer then.

        Until then all have the shapes that they had, and read what they read. So do those that were taken out of it
        before: take them out anew.

        Raises
        ------
        StoreError
            If it was overwritten or removed.

        Examples
        --------
        >>> from quantize import append_to_zarr, open_int4, quantize_dataset
        >>> from zarr.storage import MemoryStore
        >>> store, days = MemoryStore(), {"w": np.ones((5, 64, 64)), "day": np.arange(5)}
        >>> dataset = quantize_dataset(days, store)
        >>> _ = append_to_zarr({"w": np.ones((2, 64, 64)), "day": np.arange(5, 7)}, store)
        >>> dataset["day"].shape, dataset.refresh()["day"].shape
        ((5,), (7,))
        """
        old, now = self.manifest, read_again(self.keys_of_store)[1]
        if now is None or now.status != "sealed" or not (now.job == old.job or now.continues(old.job, old.lineage)):
            raise StoreError(f"{self.path} was overwritten or removed since it was opened; open it again")
        self.standing = Standing.of(self.keys_of_store, now)
        self._opened = {name: array for name, array in self._opened.items() if now[name] == old[name]}
        self.manifest = now
        return self

    def __iter__(self) -> Iterator[str]:
        return (member.name for member in self.manifest.members)

    def __len__(self) -> int:
        return len(self.manifest.members)

    def __contains__(self, name: object) -> bool:
        return name in self.manifest

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(array.nbytes for array in self.values())

    @property
    def nbytes_stored(self) -> int:
        """Bytes that their chunks take in the store, as it is now."""
        return sum(array.nbytes_stored for array in self.values())

    @property
    def quantized(self) -> list[str]:
        """The names of what is quantized."""
        return [member.name for member in self.manifest.members if member.kind == "int4"]

    def __repr__(self) -> str:
        lines = [f"  {member.name}  {member.shape} {said(member)}" for member in self.manifest.members]
        kept = len(lines) - len(self.quantized)
        return "\n".join(
            [
                f"<Int4Dataset {self.path}: {len(self.quantized)} quantized, {kept} kept, {format_bytes(self.nbytes)}>",
                *lines,
            ]
        )

    def _repr_html_(self) -> str:
        from ..runtime.tables import html_table

        rows = [(one.name, str(one.shape), dtype_said(one.dtype), one.kind) for one in self.manifest.members]
        return html_table("Int4Dataset", self.path, ("variable", "shape", "dtype", "how"), rows)


def said(member: Member) -> str:
    return f"{dtype_said(member.dtype)}{' kept' if member.kind == 'kept' else ''}"


def opened_dataset(store: Any) -> Int4Dataset | None:
    """The collection at a store, as `collection_at` finds it."""
    found = collection_at(store)
    return None if found is None else Int4Dataset(*found)


def collection_at(store: Any) -> tuple[Keys, Manifest] | None:
    """The keys and the manifest of the sealed collection that a store is; None where it is none.

    Raises
    ------
    UnfinishedStoreError
        If its run has not come to its end.
    """
    keys = Keys.of(store)
    manifest = sealed_manifest(keys) if keys.exists else None
    return None if manifest is None else (keys, manifest)
