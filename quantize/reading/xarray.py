"""Stores as xarray opens them: ``xarray.open_dataset(store)``, by the entry point ``xarray.backends``.

xarray loads this file, and asks `guess_can_open`, for everything that it opens with no engine named. So what takes long
to import, such as Numba, is imported only for a store of ours.
"""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from xarray.backends import AbstractDataStore, BackendArray, BackendEntrypoint, StoreBackendEntrypoint
from xarray.coding.strings import create_vlen_dtype
from xarray.core import indexing

if TYPE_CHECKING:
    from ..store.keys import Keys
    from ..store.manifest import Manifest, Member
    from .array import Int4Array
    from .indexing import Selection

Sizes = dict[str, int]  # the length of each dimension that is known


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

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **decoding: Any,
    ) -> xarray.Dataset:
        store = Groups.of(filename_or_obj, storage_options)
        return store.dataset(store.path_of(group), drop_variables, decoding)

    def open_groups_as_dict(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **decoding: Any,
    ) -> dict[str, xarray.Dataset]:
        store = Groups.of(filename_or_obj, storage_options)
        top = store.path_of(group)
        return {
            "/" + "/".join(path[len(top) :]): store.dataset(path, drop_variables, decoding, top)
            for path in store.below(top)
        }

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xarray.DataTree:  # type: ignore[override]
        return xarray.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))


# Whether a store is ours: without retries, and without imports for files ----------------------------------------------


def is_ours(thing: Any) -> bool:
    """Whether a path, a URL or a Zarr store holds variables of ours, by the documents of the group and its arrays."""
    if isinstance(thing, str | os.PathLike):
        path = str(os.fspath(thing))
        if "://" not in path and not (Path(path, "zarr.json").is_file() or zipfile.is_zipfile(path)):
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
    """The groups of a store, and what is in them. A collection says it by its manifest; of others the store is listed."""

    def __init__(self, keys: Keys, manifest: Manifest | None) -> None:
        self.keys = keys
        self.manifest = manifest

    @classmethod
    def of(cls, thing: Any, storage_options: dict[str, Any] | None) -> Groups:
        from ..store.keys import Keys
        from ..store.manifest import sealed_manifest

        if storage_options is not None:
            from zarr.storage import FsspecStore

            thing = FsspecStore.from_url(os.fspath(thing), storage_options, read_only=True)
        keys = Keys.of(thing)
        if not keys.exists:
            raise FileNotFoundError(f"{keys.label} does not exist, or is no folder")
        return cls(keys, sealed_manifest(keys))

    def path_of(self, group: str | None) -> tuple[str, ...]:
        path = tuple(filter(None, (group or "").split("/")))
        if path and path not in self.below(()):
            there = ", ".join("/".join(other) for other in self.below(()) if other) or "none"
            raise FileNotFoundError(f"{self.keys.label} has no group {group!r}; there are: {there}")
        return path

    @functools.cached_property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Of all groups, each before those within it."""
        if self.manifest is not None:
            return self.manifest.group_paths
        from ..store.zarr_json import node_type

        if not self.keys.lists or node_type(self.keys.get("zarr.json") or b"") != "group":
            return ((),)
        import zarr

        root = zarr.open_group(self.keys.store, mode="r", use_consolidated=False)
        inner = (path for path, node in root.members(max_depth=None) if isinstance(node, zarr.Group))
        return ((), *sorted(tuple(path.split("/")) for path in inner))

    def below(self, top: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [path for path in self.paths if path[: len(top)] == top]

    def dataset(
        self,
        path: tuple[str, ...],
        drop_variables: str | Iterable[str] | None,
        decoding: Mapping[str, Any],
        top: tuple[str, ...] = (),
    ) -> xarray.Dataset:
        """The variables of one group. `top`: the outermost group of the tree that it is a part of."""
        sizes: Sizes = {}
        for outer in [path[:n] for n in range(len(top), len(path))]:  # whose dimensions it shares
            for _, dims, shape in self.named(outer):
                sizes.update(zip(dims_of(dims, "", shape, sizes), shape, strict=True))
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        variables = {name: variable for name, variable in self.variables(path, sizes) if name not in dropped}
        loaded = Loaded(variables, self.attributes(path))
        return StoreBackendEntrypoint().open_dataset(loaded, **decoding)
