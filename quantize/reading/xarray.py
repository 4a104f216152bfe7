"""Stores as xarray opens them: ``xarray.open_dataset(store)``, by the entry point ``xarray.backends``.

xarray loads this file, and asks `guess_can_open`, for everything that it opens with no engine named. So what takes long
to import, such as Numba, is imported only for a store of ours.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from xarray.backends import AbstractDataStore, BackendArray, BackendEntrypoint, StoreBackendEntrypoint
from xarray.core import indexing

if TYPE_CHECKING:
    from ..store.keys import Keys
    from .array import Int4Array
    from .dataset import Int4Dataset, KeptArray

Path = tuple[str, ...]  # the names of the groups around a group, and its own


class Int4BackendEntrypoint(BackendEntrypoint):
    """Opens stores of packed int4 as lazy floats, beside what was kept as it is.

    What `xarray.open_dataset` takes to decode variables is taken, `drop_variables` and `group` too, and
    `storage_options` for a URL.
    """

    description = "Open packed int4 in Zarr, as quantize writes it, as lazy floats"
    open_dataset_parameters = (
        "filename_or_obj",
        "mask_and_scale",
        "decode_times",
        "concat_characters",
        "decode_coords",
        "drop_variables",
        "use_cftime",
        "decode_timedelta",
        "group",
        "storage_options",
    )
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a store of ours: never for another, whatever its name, and never an error."""
        try:
            return is_ours(filename_or_obj)
        except Exception:  # of what is no store, or cannot be reached; the engine that is then taken says so
            return False

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **decoding: Any,
    ) -> xarray.Dataset:
        groups = Groups.of(filename_or_obj, group, drop_variables, storage_options or {})
        return groups.dataset(groups.top, decoding)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **decoding: Any,
    ) -> dict[str, xarray.Dataset]:
        groups = Groups.of(filename_or_obj, group, drop_variables, storage_options or {})
        return {"/" + "/".join(path[len(groups.top) :]): groups.dataset(path, decoding) for path in groups.below()}

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xarray.DataTree:
        return xarray.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))


# Whether a store is ours: without retries, and without imports for files ----------------------------------------------


def is_ours(thing: Any) -> bool:
    """Whether a path, a URL or a Zarr store holds variables of ours, by the documents of the group and its arrays."""
    if isinstance(thing, str | os.PathLike):
        path = str(os.fspath(thing))
        if "://" not in path and not (os.path.isfile(os.path.join(path, "zarr.json")) or zipfile.is_zipfile(path)):
            return False
    elif "zarr" not in {module.__module__.partition(".")[0] for module in type(thing).__mro__}:
        return False

    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    from ..store.keys import Keys

    store = Keys.of(thing).store

    async def document(key: str) -> dict[str, Any]:
        found = await store.get(key, default_buffer_prototype())
        read = json.loads(found.to_bytes()) if found is not None else {}
        return read if isinstance(read, dict) else {}

    async def look() -> bool:
        root = await document("zarr.json")
        if has_header(root):
            return True
        if root.get("node_type") != "group":
            return False
        if inside := root.get("consolidated_metadata"):
            return any(map(has_header, inside["metadata"].values()))
        async for name in store.list_dir(""):
            if name != "zarr.json" and has_header(await document(f"{name.rstrip('/')}/zarr.json")):
                return True
        return False

    return bool(sync(look()))


def has_header(document: Any) -> bool:
    """Whether a ``zarr.json`` is that of a variable or a collection of ours."""
    header = document.get("attributes", {}).get("int4")
    return isinstance(header, dict) and "version" in header and "checksum" in header


# What is opened -------------------------------------------------------------------------------------------------------


class Groups:
    """The groups of a store. A collection says by its manifest what is in them; any other store is listed."""

    def __init__(self, keys: Keys, collection: Int4Dataset | None, group: str | None, dropped: Collection[str]) -> None:
        self.keys = keys
        self.collection = collection
        self.top = tuple(filter(None, (group or "").split("/")))
        self.dropped = dropped
        self.opened: dict[Path, dict[str, xarray.Variable]] = {}
        if self.top and self.top not in self.paths:
            there = ", ".join("/".join(path) for path in self.paths if path) or "none"
            raise FileNotFoundError(f"{keys.label} has no group {group!r}; there are: {there}")

    @classmethod
    def of(cls, thing: Any, group: str | None, drop: str | Iterable[str] | None, options: Mapping[str, Any]) -> Groups:
        from ..store.keys import Keys
        from ..store.manifest import sealed_manifest
        from .dataset import Int4Dataset

        if options:
            from zarr.storage import FsspecStore

            thing = FsspecStore.from_url(os.fspath(thing), dict(options), read_only=True)
        keys = Keys.of(thing)
        if not keys.exists:
            raise FileNotFoundError(f"{keys.label} does not exist, or is no folder")
        manifest = sealed_manifest(keys)
        collection = None if manifest is None else Int4Dataset(keys, manifest)
        return cls(keys, collection, group, {drop} if isinstance(drop, str) else set(drop or ()))

    @functools.cached_property
    def paths(self) -> tuple[Path, ...]:
        """Of all groups, each before those within it."""
        if self.collection is not None:
            return self.collection.manifest.group_paths
        if self.is_variable or not self.keys.lists:
            return ((),)
        import zarr

        root = zarr.open_group(self.keys.store, mode="r", use_consolidated=False)
        inner = (path for path, node in root.members(max_depth=None) if isinstance(node, zarr.Group))
        return ((), *sorted(tuple(path.split("/")) for path in inner))

    @functools.cached_property
    def is_variable(self) -> bool:
        """Whether the path is that of a variable, and of no group."""
        from ..store.zarr_json import node_type

        return node_type(self.keys.get("zarr.json") or b"") == "array"

    def below(self) -> list[Path]:
        return [path for path in self.paths if path[: len(self.top)] == self.top]

    def dataset(self, path: Path, decoding: Mapping[str, Any]) -> xarray.Dataset:
        return StoreBackendEntrypoint().open_dataset(
            Loaded(self.variables(path), self.attributes(path), self.keys.label), **decoding
        )

    def attributes(self, path: Path) -> dict[str, Any]:
        """Those of a group."""
        if self.collection is not None:
            return dict(self.collection.manifest.groups.get(path, {}))
        if self.is_variable:
            return {}
        attributes = json.loads(self.keys.inside("/".join(path)).get("zarr.json") or b"{}").get("attributes", {})
        return {name: value for name, value in attributes.items() if name != "int4"}

    def variables(self, path: Path) -> dict[str, xarray.Variable]:
        """Those of a group, as they are stored, but for what is packed."""
        if path not in self.opened:
            sizes = self.sizes(path[:-1]) if len(path) > len(self.top) else {}
            members = self.members_of_collection(path) if self.collection is not None else self.members_listed(path)
            self.opened[path] = {
                name: array if isinstance(array, xarray.Variable) else variable_of(name, array, sizes)
                for name, array in members
            }
        return self.opened[path]

    def sizes(self, path: Path) -> dict[str, int]:
        """The lengths of the dimensions that a group has, by its own variables or those of groups around it."""
        found = self.sizes(path[:-1]) if len(path) > len(self.top) else {}
        for variable in self.variables(path).values():
            found.update(zip(map(str, variable.dims), variable.shape, strict=True))
        return found

    def members_of_collection(self, path: Path) -> Iterator[tuple[str, Int4Array | KeptArray]]:
        assert self.collection is not None
        for member in self.collection.manifest.members:
            if member.path[:-1] == path and member.path[-1] not in self.dropped:
                yield member.path[-1], self.collection[member.name]

    def members_listed(self, path: Path) -> Iterator[tuple[str, Int4Array | xarray.Variable]]:
        """The variables of ours in a group, and plain arrays beside them as xarray reads those."""
        from xarray.backends import ZarrStore

        from ..storage import sealed_variable, variables
        from .array import Int4Array

        if self.is_variable:
            array = Int4Array(*sealed_variable(self.keys.store))
            yield array.name, array
            return
        inside = self.keys.inside("/".join(path))
        for name in variables(inside):
            if name not in self.dropped:
                yield name, Int4Array(*sealed_variable(inside.store, name))
        others = ZarrStore.open_group(inside.store, mode="r", consolidated=False, zarr_format=3)
        for name in others.array_keys():
            if "int4" not in others.zarr_group[name].attrs and name not in self.dropped:
                yield name, others.open_store_variable(name)


class Loaded(AbstractDataStore):
    """The variables and attributes of a group, as xarray decodes them."""

    def __init__(self, variables: dict[str, xarray.Variable], attributes: dict[str, Any], source: str) -> None:
        self.variables = variables
        self.attributes = attributes
        self.source = source

    def get_variables(self) -> dict[str, xarray.Variable]:
        return self.variables

    def get_attrs(self) -> dict[str, Any]:
        return self.attributes

    def get_encoding(self) -> dict[str, Any]:
        return {"source": self.source}


def variable_of(name: str, array: Int4Array | KeptArray, sizes: dict[str, int]) -> xarray.Variable:
    """A lazy variable. `sizes` are those of dimensions that are known, to which its own are added."""
    from .array import Int4Array
    from .restore import attributes_of_restored

    dims = dims_of(name, array, sizes)
    if isinstance(array, Int4Array):
        attributes, chunks, unit = attributes_of_restored(array), array.chunks, array.layout.units.box
        encoding: dict[str, Any] = {"chunks": chunks, "shards": array.shards}
    else:
        attributes, chunks, unit = dict(array.attributes), array.chunks, array.chunks
        encoding = {"chunks": chunks}
    encoding["preferred_chunks"] = dict(zip(dims, unit, strict=True))
    return xarray.Variable(dims, indexing.LazilyIndexedArray(LazyArray(array)), attributes, encoding)


def dims_of(name: str, array: Int4Array | KeptArray, sizes: dict[str, int]) -> list[str]:
    """The names of its dimensions; ``dim_0`` and so on where it has none, as xarray calls them, or the like."""
    found = []
    for axis, (dim, n) in enumerate(zip(array.dimension_names or (None,) * array.ndim, array.shape, strict=True)):
        usual = dim or f"dim_{axis}"
        found.append(usual if dim or sizes.get(usual, n) == n else f"{name}_dim_{axis}")
        sizes.setdefault(found[-1], n)
    return found


class LazyArray(BackendArray):
    """An array of a store as xarray indexes it: by integers and slices, outer or pointwise.

    What NumPy and xarray do not reckon with, such as bfloat16, is read as float32.
    """

    def __init__(self, array: Int4Array | KeptArray) -> None:
        from ..numerics.dtypes import TEXT

        self.lazy = array
        self.shape = array.shape
        if array.dtype == TEXT:
            self.dtype = np.dtype(object, metadata={"element_type": str})  # as xarray marks what is text for sure
        else:
            self.dtype = array.dtype if array.dtype.isbuiltin != 2 else np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        from .indexing import outer, pointwise

        select = pointwise if isinstance(key, indexing.VectorizedIndexer) else outer
        found = np.asarray(self.lazy.selected(select(key.tuple, self.shape)), self.lazy.dtype)
        return found.astype(self.dtype, copy=False)

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        return await asyncio.to_thread(self.__getitem__, key)
