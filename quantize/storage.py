"""The store: where the bytes lie and what may happen to them. Create, overwrite, write, seal, remove.

One variable lives in a Zarr v3 group under its name: ``<name>/zarr.json`` with all that is said of it, its chunks under
``<name>/c/``, and until it is sealed ``<name>_scan``, the statistics of pass 1. Every change is one atomic `set`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from .grid import Grid, packed_shape, shape_of
from .metadata import (
    METADATA_MOST,
    NAME,
    REMEDY,
    Layout,
    Metadata,
    Siblings,
    StoreError,
    UnfinishedStoreError,
    group_document,
)
from .retrying import retried

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

STRAY = re.compile(r".*\.[0-9a-f]{32}\.partial")  # what a LocalStore leaves of a file that it was killed in writing
BELONGS = b'"belongs_to"'  # in the metadata of such arrays
SIBLINGS = ("_scan", "_histogram", "_scale", "_zero_point")  # behind a variable's name: arrays that belong to it
EMPTYINGS = 3  # times that what is deleted may come back, from a run that has yet to see that it lost its place
PATTERN = re.compile(r"[*?\[]")  # what fsspec takes for a pattern where it deletes


# Keys and bytes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A Zarr store: its methods called, and called again if they fail for a time. Keys are strings, values bytes.

    With `verify` what was set is read back, and set again where the store lost or tore it.
    """

    store: Store
    verify: bool = False

    @classmethod
    def of(cls, store: Any) -> Files:
        """Files of a path, a URL or a Zarr store.

        Raises
        ------
        TypeError
            If it is none of them, or a store that cannot list and delete.
        ValueError
            If fsspec would take its path for a pattern, and delete what lies elsewhere.
        """
        if isinstance(store, str | os.PathLike):
            path = str(os.fspath(store))
            if "://" in path and not path.startswith("file://"):
                store = FsspecStore.from_url(path, fsspec_options(path))
            else:
                store = LocalStore(Path(path.removeprefix("file://")).absolute())
        if not isinstance(store, Store):
            raise TypeError(f"store is a {type(store).__name__}, but must be a path, a URL or a Zarr store")
        if not (store.supports_listing and store.supports_deletes):
            raise TypeError(f"store {store} cannot list and delete, which resuming and overwriting need")
        files = cls(store)
        if isinstance(store, FsspecStore) and PATTERN.search(store.path.rpartition("://")[2].partition("/")[2]):
            raise ValueError(f"{files.label} holds *, ? or [, which fsspec takes for a pattern; name another place")
        return files

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
        if isinstance(self.store, FsspecStore):
            fs = getattr(self.store.fs, "sync_fs", self.store.fs)  # one that is not asynchronous comes wrapped
            return str(fs.unstrip_protocol(self.store.path))
        return str(self.folder or self.store)

    def get(self, key: str) -> bytes | None:
        """All bytes of a key; None where there is none.

        Raises
        ------
        StoreError
            If it is no file, or metadata longer than any that this library writes.
        """
        try:
            found = self.view(key, most=METADATA_MOST if key.endswith("zarr.json") else None)
        except ValueError as error:
            raise StoreError(f"{self.label}/{key} is damaged: {error}. {REMEDY}") from error
        return None if found is None else bytes(found)

    @retried
    def view(self, key: str, start: int | None = None, length: int = 0, most: int | None = None) -> memoryview | None:
        """As `get`, not copied; or `length` of them from `start`, or with a negative start the last `length`.

        Raises
        ------
        ValueError
            If the key is no file, or holds more bytes than `most`: then they are not read.
        """
        wanted: RangeByteRequest | SuffixByteRequest | None = None
        if start is not None:
            wanted = SuffixByteRequest(length) if start < 0 else RangeByteRequest(start, start + length)
        elif most is not None and self.folder is None:
            wanted = RangeByteRequest(0, most + 1)
        if isinstance(self.store, LocalStore):  # which would make the folder, wait at a pipe and read a device for ever
            size = file_size(os.path.join(self.store.root, key))
            if size is None:
                return None
            check_size(size, most)
            if not size:
                return memoryview(b"")
        prototype = default_buffer_prototype()
        if type(self.store) is LocalStore:  # without the event loop, which costs more than a small chunk
            found = self.store.get_sync(key, prototype=prototype, byte_range=wanted)
        else:
            found = sync(self.store.get(key, prototype, wanted))
        if found is None:
            return None
        check_size(len(found), most)
        return memoryview(found.as_numpy_array())  # type: ignore[arg-type]

    @retried
    def set(self, key: str, data: bytes | np.ndarray) -> None:
        make = default_buffer_prototype().buffer.from_bytes
        with self.writing(key):
            if type(self.store) is LocalStore:
                self.store.set_sync(key, make(data))  # type: ignore[arg-type]
            else:  # it may keep what it is given, and an array may be used again
                sync(self.store.set(key, make(bytes(data))))
        if self.verify and not self.holds(key, data):
            raise OSError(errno.EIO, "reads back other bytes than were written", f"{self.label}/{key}")

    def set_new(self, key: str, data: bytes) -> None:
        """Set a key unless it is there already."""
        self._set_new(key, data)
        if self.verify:
            found = self.get(key) or b""
            if len(found) < len(data) and data.startswith(found):  # lost or torn, and not what another has set
                self.set(key, data)

    @retried
    def _set_new(self, key: str, data: bytes) -> None:
        with self.writing(key):
            sync(self.store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(data)))

    @contextmanager
    def writing(self, key: str) -> Iterator[None]:
        """Around a write: an error gets the name of the key where it has none, as that of a disk which is full.

        That a file is not found is no lasting error here: another run has taken the temporary one away as it sealed.
        """
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT and self.folder is not None:
                raise OSError(errno.EAGAIN, error.strerror, f"{self.label}/{key}") from error
            if error.errno is not None and error.filename is None:
                error.filename = f"{self.label}/{key}"
            raise

    def holds(self, key: str, data: bytes | np.ndarray) -> bool:
        """Whether these are the bytes of a key."""
        found = self.view(key)
        return found is not None and np.array_equal(np.frombuffer(found, np.uint8), np.frombuffer(data, np.uint8))

    @retried
    def delete(self, key: str) -> None:
        sync(self.store.delete(key))

    @retried
    def delete_all(self, prefix: str) -> None:
        sync(self.store.delete_dir(prefix))

    @retried
    def size(self, prefix: str) -> int:
        """Bytes stored under a prefix."""
        if isinstance(self.store, FsspecStore):  # from the listing, where Zarr would ask for the size of each key
            found = sync(self.store.fs._find(f"{self.store.path}/{prefix}", detail=True))
            return sum(info["size"] for info in found.values())
        return sync(self.store.getsize_prefix(prefix))

    @contextmanager
    def alone(self, prefix: str) -> Iterator[None]:
        """Have all others who ask for the same folder wait, threads and processes.

        The system lets go of it when a process dies. Stores that are no folders have nothing like it, nor have some
        network file systems.
        """
        if self.folder is None or fcntl is None:
            yield
            return
        number = os.open(self.folder / prefix, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def flush(self, prefix: str, below: bool = True) -> None:
        """Have the disk hold the files of a folder and of all below it: without that, a loss of power may undo them.

        Other stores than folders hold what they have taken.
        """
        if self.folder is None:
            return
        for folder, inside, names in os.walk(self.folder / prefix):
            for name in (*names, "."):  # the folder itself last: it has their names
                number = os.open(os.path.join(folder, name), os.O_RDONLY)
                try:
                    os.fsync(number)
                finally:
                    os.close(number)
            if not below:
                inside.clear()

    def each(self, prefix: str, take: Callable[[str], None]) -> None:
        """Hand every key under a prefix to `take`, one at a time: there may be millions."""

        async def walk() -> None:
            async for key in self.store.list_prefix(prefix):
                take(key)

        if self.folder is None or (self.folder / prefix).is_dir():
            sync(walk())


def fsspec_options(url: str) -> dict[str, Any]:
    """How fsspec opens a URL: no listing is kept, which would hide what others do or have done."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        options["max_concurrency"] = 1  # for more, s3fs asks how long a key is before it reads it
    return options


def file_size(path: str) -> int | None:
    """Bytes of a file, behind links too; None where there is none, or a folder.

    Raises
    ------
    ValueError
        If it is a pipe, a device, a socket, or a link that leads nowhere but to itself.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link that leads to itself") from error
        raise
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    if stat.S_ISDIR(found.st_mode):
        return None
    raise ValueError("it is a pipe, a socket or a device, and no file")


def check_size(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise ValueError(f"it is longer than the {most:,} bytes that it can have")


# One variable ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """One variable of a store: its keys, and what may be done to them. It knows no more than its name."""

    files: Files
    name: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name!r} must be letters, digits, '_', '-' and '.', and not 'zarr.json', nor end with "
                f"{', '.join(map(repr, SIBLINGS))}, which name what belongs to a variable"
            )

    @property
    def where(self) -> str:
        return f"{self.files.label}/{self.name}"

    @property
    def key(self) -> str:
        return f"{self.name}/zarr.json"

    @property
    def siblings(self) -> tuple[str, ...]:
        """Names of the arrays that belong to the variable."""
        return tuple(f"{self.name}{ending}" for ending in SIBLINGS)

    def metadata(self) -> Metadata | None:
        """What the store says of the variable; None where there is none.

        Raises
        ------
        StoreError
            If what is there is damaged, of a newer version or not ours.
        """
        data = self.files.get(self.key)
        if data is None:
            return None
        found = Metadata.from_json(data, f"{self.files.label}/{self.key}")
        if isinstance(found.scale, Siblings) and found.scale != Siblings.of(self.name):
            raise StoreError(f"{self.where} has its scales in {found.scale.scale}, as a variable of another name would")
        return found

    def chunk_key(self, layout: Layout, number: int) -> str:
        return "/".join([self.name, "c", *map(str, layout.units.position(number))])

    # Life

    def create(self, metadata: Metadata) -> None:
        """Make the group where there is none, and the variable in it; `check_place` comes before."""
        self.files.set_new("zarr.json", group_document())
        self.files.set_new(self.key, metadata.to_json())

    def mend(self, new: Metadata) -> None:
        """Write again what a store took only the beginning of, when the group and the variable were created."""
        for key, whole, free in (
            ("zarr.json", group_document(), True),
            (self.key, new.to_json(), not self.holds_keys(f"{self.name}/c/")),
        ):
            found = self.files.get(key)
            if free and found is not None and len(found) < len(whole) and whole.startswith(found):
                self.files.set(key, whole)

    def check_place(self, axis: int | None = None) -> None:
        """Refuse a place that is not one to create the variable in, and with an `axis` its scales too.

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
        new = files.get(self.key) is None
        scan, histogram, *scales = self.siblings
        for name in (self.name, scan, histogram):
            if new and self.holds_keys(f"{name}/"):
                raise StoreError(
                    f"{files.label}/{name} holds files, but {self.name} has no zarr.json of ours: remove them, or give "
                    "the variable another name"
                )
        for name in scales if axis is not None else ():
            if self.holds_keys(f"{name}/") and not self.owns(name):
                raise StoreError(
                    f"{files.label}/{name} holds files that do not belong to {self.name}, whose scales need the place: "
                    "remove them, or give the variable another name"
                )

    def owns(self, sibling: str) -> bool:
        """Whether an array in the group was made for this variable, which its metadata say."""
        return self.says(f"{sibling}/zarr.json", BELONGS)

    def delete_scans(self) -> None:
        """Remove what pass 1 left, but no other arrays of the same name: its metadata last, or the rest is nobody's."""
        for name in self.siblings[:2]:
            if BELONGS in (self.files.get(f"{name}/zarr.json") or BELONGS):
                self.files.delete_all(f"{name}/c")
                self.files.delete_all(name)

    def delete_scales(self) -> None:
        """Remove the scales of an axis, but no other arrays of the same name."""
        for name in self.siblings[2:]:
            if self.owns(name):
                self.files.delete_all(f"{name}/c")
                self.files.delete_all(name)

    @retried
    def holds_keys(self, prefix: str) -> bool:
        """Whether there is anything under a prefix, but for what a killed writer leaves."""
        if self.files.folder is None:
            try:
                return not sync(self.files.store.is_empty(prefix.rstrip("/")))
            except FileNotFoundError as error:  # no such bucket
                raise FileNotFoundError(f"{self.files.label} cannot be made: {error}") from error
        folder = self.files.folder / prefix
        if not folder.is_dir():
            return folder.exists()
        files = (path for path in folder.rglob("*") if not path.is_dir())
        return any(not STRAY.fullmatch(path.name) for path in files)

    def overwrite(self, new: Metadata) -> None:
        """Replace a variable of ours: mark it unfinished, delete its chunks, see that none is left, write the new.

        What marks it is no job's: a run that finds it after a kill begins anew and takes no chunk for its own.

        Raises
        ------
        StoreError
            If something else lies where pass 1 would; nothing is changed.
        """
        for name in self.siblings[:2]:
            if self.holds_keys(f"{name}/") and not self.owns(name):
                raise StoreError(
                    f"{self.files.label}/{name} holds files that do not belong to {self.name}, whose pass 1 needs the "
                    "place: remove them, or give the variable another name"
                )
        with self.files.alone(self.name):
            self.set(replace(new, fingerprint={"overwriting": new.fingerprint}))
        self.delete_scales()
        for _ in range(EMPTYINGS):
            self.files.delete_all(f"{self.name}/c")
            self.delete_scans()
            left = [name for name in (f"{self.name}/c", *self.siblings[:2]) if self.holds_keys(f"{name}/")]
            if not left:
                break
        else:
            raise StoreError(f"{self.files.label}/{left[0]} still holds files after they were deleted; run again")
        self.set(new)

    def set(self, metadata: Metadata) -> None:
        self.files.set(self.key, metadata.to_json())

    def is_sealed(self, metadata: Metadata) -> bool:
        """Whether another run of the job that these are the metadata of has sealed the variable meanwhile.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        now = self.metadata()
        if now is None or now.fingerprint != metadata.fingerprint:
            raise StoreError(f"{self.where} was taken over by another job while this run was at it")
        return now.status == "sealed"

    def advance(self, metadata: Metadata, new: Metadata) -> bool:
        """Put new metadata in the place of this job's own; False if another run of it has sealed the variable.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        with self.files.alone(self.name):  # or an overwriting run would go on with chunks that are not its own
            if self.is_sealed(metadata):
                return False
            self.set(new)
            return True

    def seal(self, metadata: Metadata, durable: bool = False) -> Metadata:
        """Mark the variable whole, once every chunk is seen to be there, and if `durable`, is on the disk."""
        for name, grid in self.arrays(metadata):
            absent = np.flatnonzero(~present(self.files, name, grid))
            if absent.size:
                key = "/".join([name, "c", *map(str, grid.position(int(absent[0])))])
                again = "run again to go on" if name == self.name else "pass overwrite=True to begin again"
                raise UnfinishedStoreError(
                    f"{self.where} lacks {absent.size} of {grid.count} chunks, {key} the first; {again}"
                )
        self.delete_scans()
        self.sweep()
        whole = metadata.at("sealed")
        if durable:
            for name in (self.name, *self.siblings):
                self.files.flush(name)
        self.advance(metadata, whole)
        if durable:
            self.files.flush(self.name, below=False)
            self.files.flush("", below=False)
        return whole

    def arrays(self, metadata: Metadata) -> Iterator[tuple[str, Grid]]:
        """The arrays of which no chunk may be absent: the codes, and the scales if there is one for each index."""
        layout, axis = metadata.layout, metadata.axis
        yield self.name, layout.units
        if axis is not None:
            for name in self.siblings[2:]:
                yield name, Grid((layout.shape[axis],), (layout.unit[axis],))

    def sweep(self) -> None:
        """Remove the temporary files that killed writers left behind on a local disk."""
        if self.files.folder is None:
            return
        own = [(self.files.folder / name).rglob("*.partial") for name in (self.name, *self.siblings)]
        for strays in (self.files.folder.glob("zarr.*.partial"), *own):
            for path in strays:
                if STRAY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the variable out of the store, and the group too if it was made for it and holds nothing else."""
        self.delete_scales()
        self.delete_scans()
        self.files.delete_all(f"{self.name}/c")
        self.sweep()
        self.files.delete(self.key)  # last: without it the rest would be nobody's
        if self.files.folder is not None:
            with suppress(OSError):  # others' files in it
                (self.files.folder / self.name).rmdir()
        rest: list[str] = []
        self.files.each("", rest.append)
        if rest == ["zarr.json"] and self.files.get("zarr.json") == group_document():
            self.files.delete("zarr.json")
            if self.files.folder is not None and not any(self.files.folder.iterdir()):
                self.files.folder.rmdir()

    # Chunks

    def present(self, layout: Layout) -> np.ndarray:
        """Which units are written, shape ``(units,)``."""
        return present(self.files, self.name, layout.units)

    def write(self, layout: Layout, number: int, packed: np.ndarray) -> np.ndarray:
        """Encode and write one unit in one `set`; what was written. `packed` is whole, its outside 0.

        The bytes lie in a buffer that this thread uses again for the next unit.
        """
        if layout.shard_codec is None:
            data = layout.chunk_codec.encode(packed)
        else:
            data = layout.shard_codec.encode(packed, packed_shape(shape_of(layout.units.region(number))))
        key = self.chunk_key(layout, number)
        try:
            self.files.set(key, data)
        except OSError:
            if self.files.verify:
                self.files.delete(key)  # or what is torn would pass for done
            raise
        return data

    def packed(self) -> zarr.Array[Any]:
        """The packed codes as Zarr's own array."""
        return zarr.open_array(self.files.store, path=self.name, mode="r", zarr_format=3)

    def is_ours(self) -> bool:
        """Whether there is metadata that this library wrote once, whatever state it is in now."""
        return self.says(self.key, b'"int4"')

    def says(self, key: str, text: bytes) -> bool:
        """Whether there is metadata with a text in it, and not something that this library never wrote."""
        try:
            return text in (self.files.get(key) or b"")
        except StoreError:
            return False


@retried
def present(files: Files, name: str, grid: Grid) -> np.ndarray:
    """Which chunks of an array in the group are there, by their keys, shape ``(chunks,)``."""
    found = np.zeros(grid.count, bool)
    pattern = re.compile("/".join([re.escape(name), "c", *[r"(\d+)"] * len(grid.shape)]))

    def take(key: str) -> None:
        match = pattern.fullmatch(key)
        if match:
            position = tuple(map(int, match.groups()))
            if all(along < n for along, n in zip(position, grid.counts, strict=True)):
                found[grid.number(position)] = True

    files.each(f"{name}/c", take)
    return found


def is_name(name: str) -> bool:
    """Whether a variable may have this name."""
    return bool(NAME.fullmatch(name)) and not name.endswith(SIBLINGS) and name != "zarr.json"


def node_type(data: bytes) -> str | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document.get("node_type") if isinstance(document, dict) and document.get("zarr_format") == 3 else None


# Finding --------------------------------------------------------------------------------------------------------------


@retried
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
