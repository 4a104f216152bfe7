"""The store: where the bytes lie and what may happen to them. Create, overwrite, write, seal, remove.

One variable lives in a Zarr v3 group under its name: ``<name>/zarr.json`` with all that is said of it, its chunks under
``<name>/c/``, and until it is sealed ``<name>_scan``, the statistics of pass 1. Every change is one atomic `set`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from .codec import opened, sealed
from .grid import packed_shape, shape_of
from .metadata import (
    INDEX_CODECS,
    NAME,
    Layout,
    Metadata,
    StoreError,
    UnfinishedStoreError,
    array_document,
    group_document,
    serialized,
)

STRAY = re.compile(r".*\.[0-9a-f]{32}\.partial")  # what a LocalStore leaves of a file that it was killed in writing
STATISTICS = 8  # numbers in a row of `<name>_scan`


# Keys and bytes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A Zarr store, its methods called and waited for; keys are strings, values bytes."""

    store: Store

    @classmethod
    def of(cls, store: Any) -> Files:
        """Files of a path, a URL or a Zarr store.

        Raises
        ------
        TypeError
            If it is none of them, or a store that cannot list and delete.
        """
        if isinstance(store, str | os.PathLike):
            path = os.fspath(store)
            if "://" in str(path) and not str(path).startswith("file://"):
                store = FsspecStore.from_url(str(path))
            else:
                store = LocalStore(Path(str(path).removeprefix("file://")).absolute())
        if not isinstance(store, Store):
            raise TypeError(f"store is a {type(store).__name__}, but must be a path, a URL or a Zarr store")
        if not (store.supports_listing and store.supports_deletes):
            raise TypeError(f"store {store} cannot list and delete, which resuming and overwriting need")
        return cls(store)

    @property
    def folder(self) -> Path | None:
        """The folder of a store on a local disk."""
        return Path(self.store.root) if isinstance(self.store, LocalStore) else None

    @property
    def nearest(self) -> Path | None:
        """The folder, or of those above it the first that exists."""
        folder = self.folder
        while folder is not None and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder

    @property
    def shared(self) -> bool:
        """Whether another process can reach the store too."""
        return not isinstance(self.store, MemoryStore)

    @property
    def label(self) -> str:
        return str(self.folder or self.store)

    def get(self, key: str, start: int | None = None, length: int = 0) -> bytes | None:
        """All bytes of a key, `length` of them from `start`, or with a negative start the last `length`."""
        if self.folder is not None and not self.folder.is_dir():
            return None  # a LocalStore would make the folder
        wanted: RangeByteRequest | SuffixByteRequest | None = None
        if start is not None:
            wanted = SuffixByteRequest(length) if start < 0 else RangeByteRequest(start, start + length)
        prototype = default_buffer_prototype()
        if type(self.store) is LocalStore:  # without the event loop, which costs more than a small chunk
            found = self.store.get_sync(key, prototype=prototype, byte_range=wanted)
        else:
            found = sync(self.store.get(key, prototype, wanted))
        return None if found is None else found.to_bytes()

    def set(self, key: str, data: bytes) -> None:
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        if type(self.store) is LocalStore:
            self.store.set_sync(key, buffer)
        else:
            sync(self.store.set(key, buffer))

    def set_new(self, key: str, data: bytes) -> None:
        """Set a key unless it is there already."""
        sync(self.store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(data)))

    def delete(self, key: str) -> None:
        sync(self.store.delete(key))

    def delete_all(self, prefix: str) -> None:
        sync(self.store.delete_dir(prefix))

    def size(self, prefix: str) -> int:
        """Bytes stored under a prefix."""
        return sync(self.store.getsize_prefix(prefix))

    def each(self, prefix: str, take: Callable[[str], None]) -> None:
        """Hand every key under a prefix to `take`, one at a time: there may be millions."""

        async def walk() -> None:
            async for key in self.store.list_prefix(prefix):
                take(key)

        if self.folder is None or (self.folder / prefix).is_dir():
            sync(walk())


# One variable ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """One variable of a store: its keys, and what may be done to them. It knows no more than its name."""

    files: Files
    name: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name!r} must be letters, digits, '_', '-' and '.', and not 'zarr.json' or end with '_scan'"
            )

    @property
    def where(self) -> str:
        return f"{self.files.label}/{self.name}"

    @property
    def key(self) -> str:
        return f"{self.name}/zarr.json"

    @property
    def scan_name(self) -> str:
        return f"{self.name}_scan"

    def metadata(self) -> Metadata | None:
        """What the store says of the variable; None where there is none.

        Raises
        ------
        StoreError
            If what is there is damaged, of a newer version or not ours.
        """
        data = self.files.get(self.key)
        return None if data is None else Metadata.from_json(data, f"{self.files.label}/{self.key}")

    def chunk_key(self, layout: Layout, number: int) -> str:
        return "/".join([self.name, "c", *map(str, layout.units.position(number))])

    # Life

    def create(self, metadata: Metadata) -> None:
        """Make the group where there is none, and the variable in it; `check_place` comes before."""
        self.files.set_new("zarr.json", group_document())
        self.files.set_new(self.key, metadata.to_json())

    def check_place(self) -> None:
        """Refuse a place that is not one to create the variable in.

        Raises
        ------
        StoreError
            If the folder holds something else than a Zarr v3 group, or files under this name without metadata.
        """
        files = self.files
        nearest = files.nearest
        if nearest is not None and not nearest.is_dir():
            raise StoreError(f"{nearest} is a file, so {files.label} cannot be a folder; name another destination")
        group = files.get("zarr.json")
        if group is None:
            if self.holds_keys(""):
                raise StoreError(f"{files.label} exists and is no Zarr v3 group; name another destination")
        elif node_type(group) != "group":
            raise StoreError(f"{files.label} is a Zarr array, or no v3 group; name another destination")
        if files.get(self.key) is None and (self.holds_keys(f"{self.name}/") or self.holds_keys(f"{self.scan_name}/")):
            raise StoreError(
                f"{self.where} holds files but no zarr.json of ours: remove them, or give the variable another name"
            )

    def holds_keys(self, prefix: str) -> bool:
        """Whether there is anything under a prefix, but for what a killed writer leaves."""
        if self.files.folder is None:
            return not sync(self.files.store.is_empty(prefix.rstrip("/")))
        folder = self.files.folder / prefix
        if not folder.is_dir():
            return folder.exists()
        files = (path for path in folder.rglob("*") if not path.is_dir())
        return any(not STRAY.fullmatch(path.name) for path in files)

    def overwrite(self, new: Metadata) -> None:
        """Replace a variable of ours: mark it unfinished, delete its chunks, see that none is left, write the new.

        What marks it is no job's: a run that finds it after a kill begins anew and takes no chunk for its own.
        """
        self.set(replace(new, fingerprint={"overwriting": new.fingerprint}))
        for folder in (f"{self.name}/c", self.scan_name):
            self.files.delete_all(folder)
            if self.holds_keys(f"{folder}/"):
                raise StoreError(f"{self.files.label}/{folder} still holds files after they were deleted; run again")
        self.set(new)

    def set(self, metadata: Metadata) -> None:
        self.files.set(self.key, metadata.to_json())

    def seal(self, metadata: Metadata) -> Metadata:
        """Mark the variable whole, once every chunk is seen to be there."""
        absent = np.flatnonzero(~self.present(metadata.layout))
        if absent.size:
            key = self.chunk_key(metadata.layout, int(absent[0]))
            raise UnfinishedStoreError(f"{self.where} lacks {absent.size} chunks, {key} the first; run again to go on")
        self.files.delete_all(self.scan_name)
        self.sweep()
        whole = metadata.at("sealed")
        self.set(whole)
        return whole

    def sweep(self) -> None:
        """Remove the temporary files that killed writers left behind on a local disk."""
        if self.files.folder is None:
            return
        for strays in (self.files.folder.glob("zarr.*.partial"), (self.files.folder / self.name).rglob("*.partial")):
            for path in strays:
                if STRAY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the variable out of the store, and the group too if it was made for it and holds nothing else."""
        for folder in (self.scan_name, f"{self.name}/c"):
            self.files.delete_all(folder)
        self.sweep()
        self.files.delete_all(self.name)  # its zarr.json last: without it the rest would be nobody's
        rest: list[str] = []
        self.files.each("", rest.append)
        if rest == ["zarr.json"] and self.files.get("zarr.json") == group_document():
            self.files.delete("zarr.json")
            if self.files.folder is not None and not any(self.files.folder.iterdir()):
                self.files.folder.rmdir()

    # Chunks

    def present(self, layout: Layout) -> np.ndarray:
        """Which units are written, shape ``(units,)``."""
        grid = layout.units
        found = np.zeros(grid.count, bool)
        pattern = re.compile("/".join([re.escape(self.name), "c", *[r"(\d+)"] * len(layout.shape)]))

        def take(key: str) -> None:
            match = pattern.fullmatch(key)
            if match:
                position = tuple(map(int, match.groups()))
                if all(along < n for along, n in zip(position, grid.counts, strict=True)):
                    found[grid.number(position)] = True

        self.files.each(f"{self.name}/c", take)
        return found

    def write(self, layout: Layout, number: int, packed: np.ndarray) -> bytes:
        """Encode and write one unit in one `set`; what was written. `packed` is whole, its outside 0."""
        if layout.shard_codec is None:
            data = layout.chunk_codec.encode(packed)
        else:
            data = layout.shard_codec.encode(packed, packed_shape(shape_of(layout.units.region(number))))
        self.files.set(self.chunk_key(layout, number), data)
        return data

    def packed(self) -> zarr.Array[Any]:
        """The packed codes as Zarr's own array."""
        return zarr.open_array(self.files.store, path=self.name, mode="r", zarr_format=3)

    # Statistics of pass 1

    def set_scan(self, rows: np.ndarray, batch: int, units: int) -> None:
        """Make `<name>_scan`, or write the rows of one batch into it: int64, shape ``(units of a batch, 8)``."""
        whole = np.zeros((batch_size(units), STATISTICS), "<i8")
        whole[: len(rows)] = rows
        self.files.set(f"{self.scan_name}/c/{batch}/0", sealed(whole.tobytes()))

    def is_ours(self) -> bool:
        """Whether there is metadata that this library wrote once, whatever state it is in now."""
        return b'"int4"' in (self.files.get(self.key) or b"")

    def has_scan(self) -> bool:
        return self.files.get(f"{self.scan_name}/zarr.json") is not None

    def create_scan(self, units: int) -> None:
        document = array_document(
            (units, STATISTICS),
            "int64",
            (batch_size(units), STATISTICS),
            INDEX_CODECS,
            {},
        )
        self.files.set_new(f"{self.scan_name}/zarr.json", serialized(document))

    def scan(self, batch: int, units: int) -> np.ndarray | None:
        """The rows of one batch, None where there are none or a killed writer's damaged ones."""
        data = self.files.get(f"{self.scan_name}/c/{batch}/0")
        if data is None:
            return None
        size = batch_size(units)
        try:
            rows = np.frombuffer(opened(data), "<i8").reshape(size, STATISTICS)
        except ValueError:
            return None
        return rows[: min(size, units - batch * size)]


def is_name(name: str) -> bool:
    """Whether a variable may have this name."""
    return bool(NAME.fullmatch(name)) and not name.endswith("_scan") and name != "zarr.json"


def batch_size(units: int) -> int:
    """How many units one task takes: 1 while there are few, up to 32 where there are many to schedule."""
    return min(max(units // 256, 1), 32)


def node_type(data: bytes) -> str | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document.get("node_type") if isinstance(document, dict) and document.get("zarr_format") == 3 else None


# Finding --------------------------------------------------------------------------------------------------------------


def variables(files: Files) -> list[str]:
    """Names of the int4 variables in a group."""
    names = []

    async def walk() -> None:
        async for name in files.store.list_dir(""):
            names.append(name.rstrip("/"))

    sync(walk())
    return [name for name in sorted(names) if is_name(name) and Variable(files, name).is_ours()]


def sealed_variable(store: Any, name: str | None = None) -> tuple[Variable, Metadata]:
    """As `find`, but an error if the variable's run has not come to its end.

    Raises
    ------
    UnfinishedStoreError
        Saying how to go on.
    """
    variable, metadata = find(store, name)
    if metadata.status != "sealed":
        raise UnfinishedStoreError(
            f"{variable.where} is unfinished (status {metadata.status!r}); call quantize_to_zarr with the same source "
            "and settings again to go on"
        )
    return variable, metadata


def find(store: Any, name: str | None = None) -> tuple[Variable, Metadata]:
    """The variable of that name, or the only one there is, in whatever state it is.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    StoreError
        If there is no such variable, or several and no name; or its metadata is damaged or not ours.
    """
    files = Files.of(store)
    if files.folder is not None and not files.folder.is_dir():
        raise FileNotFoundError(f"{files.label} does not exist, or is no folder")
    if name is None:
        names = variables(files)
        if len(names) != 1:
            there = f"several variables, {', '.join(names)}: pass name=" if names else "no int4 variable"
            raise StoreError(f"{files.label} holds {there}")
        (name,) = names
    variable = Variable(files, name)
    metadata = variable.metadata()
    if metadata is None:
        there = ", ".join(variables(files)) or "none"
        raise StoreError(f"{files.label} holds no int4 variable {name!r}; there are: {there}")
    return variable, metadata
