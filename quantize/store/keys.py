"""Keys and bytes: a Zarr store, its calls tried again; and what a folder can do more than other stores."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import logging
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer import cpu
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore, ZipStore

from ..exceptions import REMEDY, StoreError
from ..numerics.grid import Grid
from ..numerics.names import check_suffix
from .below import Below
from .conditions import UnableError, conditions_of, refuses
from .files import Part, ends, file_bytes, file_size, flush_file, is_archive, locked_folder
from .metadata import METADATA_MOST
from .retrying import naming, retried

WILDCARD = re.compile(r"[*?\[]")  # a character that makes fsspec take a path for a pattern where it deletes
STORE_SUFFIXES = (".zarr", "")  # how the names of new stores end
LEFTOVER = re.compile(r".*\.[0-9a-f]{32}\.partial")  # the name of a file that a killed LocalStore had not written whole

NUMBER = "(?:0|[1-9][0-9]*)"  # in the key of a chunk, along one axis

NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # or opening a pipe would wait for who writes into it

# Stores that give what there is of a range that goes beyond the value. Of others nothing is asked beyond it.
CLAMPING = (FsspecStore, MemoryStore, ObjectStore)

# What zipfile raises for a file of an archive that is damaged, encrypted, or compressed in a way that it does not know.
UNZIPPED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)

NODES_ALONE = ("icechunk",)  # packages whose stores list no part of an array
ASKED = 64  # keys: of so many at a time a store that cannot list is asked for the size
LEVELS = 32  # groups in one another, at most, that a place is looked for in
TURNS = 6  # times that a write by a condition meets others, before it gives up

T = TypeVar("T")

logger = logging.getLogger("quantize")


@dataclass(frozen=True)
class Keys:
    """A Zarr store: its methods called, and called again if they fail for a time. Keys are strings, values bytes.

    With `verify` what was set is read back, and set again where the store lost or tore it.

    As `pathlib.Path` makes a path of the system at hand, this makes keys of the kind of store at hand: a folder can do
    more than other stores.

    >>> Keys(LocalStore("/data/x.zarr"))
    LocalKeys(store=LocalStore('file:///data/x.zarr'), verify=False)
    """

    store: Store
    verify: bool = False

    def __new__(cls, store: Store | None = None, verify: bool = False) -> Keys:  # no store: it is unpickled
        kinds: dict[type[Store], type[Keys]] = {LocalStore: LocalKeys, FsspecStore: FsspecKeys, ZipStore: ZipKeys}
        return super().__new__(next((own for kind, own in kinds.items() if isinstance(store, kind)), cls))

    @classmethod
    def of(cls, store: Any) -> Keys:
        """Keys of a path, a URL or a Zarr store. The path of a zip archive is a store too, which is read alone.

        Raises
        ------
        TypeError
            If it is none of them.
        StoreError
            If it is an archive that is cut.
        ValueError
            If its path is empty, or fsspec would take it for a pattern, and delete what lies elsewhere.
        """
        if isinstance(store, str | os.PathLike):
            path = str(os.fspath(store))
            if not path.removeprefix("file://"):
                raise ValueError("store is an empty path; name a folder, or '.' for the current one")
            if "://" in path and not path.startswith("file://"):
                store = FsspecStore.from_url(path, fsspec_options(path))
            else:
                place = Path(path.removeprefix("file://")).absolute()
                store = ZipStore(place) if is_archive(place) else LocalStore(place)
        if not isinstance(store, Store):
            raise TypeError(f"store is a {type(store).__name__}, but must be a path, a URL or a Zarr store")
        keys = cls(store)
        keys.open()
        return keys

    def open(self) -> None:
        """Make the store ready to be read, where that may fail."""

    def check_writable(self) -> None:
        """Refuse a store that cannot be written to, or cannot delete just what it is told to.

        Raises
        ------
        TypeError
            If its kind cannot.
        ValueError
            If it is open for reading only, or fsspec would take its path for a pattern, and delete what lies elsewhere.
        """
        if not (self.lists and self.store.supports_deletes and self.store.supports_writes):
            raise TypeError(f"store {self.store} cannot list and delete, which resuming and overwriting need")
        if type(self.store).__module__.partition(".")[0] in NODES_ALONE:
            raise TypeError(
                f"store {self.store} lists whole arrays and groups alone, and not which chunks there are, which "
                "resuming needs: write to a folder or an object store, and copy what is sealed, key by key"
            )
        if self.store.read_only:
            raise ValueError(
                f"store {self.store} is open for reading only; open it with read_only=False to write to it"
            )

    inner = "/"  # what stands between the label of the store and the path of an array in it

    @property
    def label(self) -> str:
        return str(self.store)

    @property
    def lists(self) -> bool:
        """Whether the store can tell what it holds."""
        return self.store.supports_listing

    def unlisted(self) -> str:
        """What to add where a listing shows nothing that was looked for."""
        return ""

    @property
    def synchronous(self) -> bool:
        """Whether its files can be had from the system, without the store."""
        return False

    @property
    def shared(self) -> bool:
        """Whether another process can reach the store too, and not a copy of what this one has in memory."""
        store: Any = self.store
        while isinstance(store, WrapperStore):
            store = store._store
        if isinstance(store, FsspecStore):
            return "memory" not in (store.fs.protocol, *store.fs.protocol)
        inner = store.store if isinstance(store, ObjectStore) else store
        return not isinstance(inner, MemoryStore) and type(inner).__name__ != "MemoryStore"  # that of obstore

    @property
    def nearest(self) -> Path | None:
        """Of a store in a folder that folder, or of those above it the first that exists."""
        return None

    @property
    def enclosing(self) -> Iterator[Keys]:
        """Those of the folders that this one lies in, from the nearest upwards, where there is an array or a group."""
        yield from ()

    @property
    def exists(self) -> bool:
        """Whether there is a store to read, as far as that can be told without a request."""
        return True

    def inside(self, path: str) -> Keys:
        """The keys of a group in the store, "" for its root."""
        return replace(self, store=self._store_inside(path)) if path else self

    def _store_inside(self, path: str) -> Store:
        return Below(self.store, path)

    def above(self) -> tuple[Keys, str] | None:
        """The keys of the place that holds this one, and the name of this one there; None where there is none."""
        if not isinstance(self.store, Below):
            return None
        path, _, name = self.store.prefix.rpartition("/")
        return replace(self, store=Below(self.store._store, path) if path else self.store._store), name

    def upwards(self) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        """The groups that hold this place, from the nearest on, and the path from each to it."""
        keys, path = self, tuple[str, ...]()
        for _ in range(LEVELS):
            above = keys.above()
            if above is None or not above[1]:
                return
            keys, path = above[0], (above[1], *path)
            if keys.exists:
                if keys.get("zarr.json") is None:
                    return
                yield keys, path

    def check_place(self, *names: str) -> None:
        """Refuse, with a StoreError, a place where no store can be made, or no array under one of these names."""

    def check_name(self) -> None:
        """Refuse, with a ValueError, the name of a new store that ends as files of another kind do."""
        if self.above() is not None:  # it has a name
            check_suffix(self.label, STORE_SUFFIXES, "a store")

    # Bytes

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
        part: Part | None = None
        if start is not None:
            part = SuffixByteRequest(length) if start < 0 else RangeByteRequest(start, start + length)
        with naming(f"{self.label}/{key}"):
            found = self._get(key, part, most)
        if found is None:
            return None
        check_size(len(found), most)
        return memoryview(found.as_numpy_array())  # type: ignore[arg-type]

    def _get(self, key: str, part: Part | None, most: int | None) -> Buffer | None:
        """Part of the bytes of a key, or all; of one that holds more bytes than `most` any that are more."""
        if not isinstance(self.store, CLAMPING):
            return self._get_within(key, part, most)
        if part is None and most is not None:
            part = RangeByteRequest(0, most + 1)
        return sync(self.store.get(key, default_buffer_prototype(), part))

    def _get_within(self, key: str, part: Part | None, most: int | None) -> Buffer | None:
        """As `_get`, with no byte asked for beyond those that there are: some stores panic then."""
        prototype = default_buffer_prototype()
        if type(self.store).getsize is Store.getsize:  # it would read all of the value
            whole = sync(self.store.get(key, prototype))
            return whole if whole is None or part is None else whole[slice(*ends(part, len(whole)))]
        try:
            size = sync(self.store.getsize(key))
        except (FileNotFoundError, KeyError):  # of icechunk
            return None
        check_size(size, most)
        start, stop = (0, size) if part is None else ends(part, size)
        if start == stop:
            return prototype.buffer.from_bytes(b"")
        return sync(self.store.get(key, prototype, None if part is None else RangeByteRequest(start, stop)))

    def stamp(self, key: str) -> tuple[Any, ...] | None:
        """What is another once the key is set again, be it to the same bytes; at its end when that was, in ns, or 0.

        None where there is no such key, or where the store tells no more of keys than their bytes.
        """
        if not isinstance(self.store, MemoryStore):
            return None

        async def twice() -> list[Buffer | None]:
            return [await self.store.get(key, default_buffer_prototype()) for _ in range(2)]

        # Where the bytes lie, if it gives no copies; as long as these are held, no others come to lie there.
        found = [np.asarray(value.as_numpy_array()) for value in sync(twice()) if value is not None]
        places = {value.ctypes.data for value in found}
        return (*places, found[0].data, 0) if len(found) == 2 and len(places) == 1 else None

    @retried
    def set(self, key: str, data: bytes | np.ndarray) -> None:
        with self.among_others(key):
            self._set(key, data)
        if self.verify and not self.holds(key, data):
            raise OSError(errno.EIO, "reads back other bytes than were written", f"{self.label}/{key}")

    def _set(self, key: str, data: bytes | np.ndarray) -> None:
        # A copy: a store may keep what it is given, and the array is used again.
        sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(bytes(data))))

    def set_new(self, key: str, data: bytes) -> bool:
        """Set a key unless it is there already. Whether it has these bytes then, where the store takes conditions."""
        made = False
        if self.conditional or refuses(self.store):  # which Zarr would ask for a condition too
            made = self.create(key, data)
        else:
            self._set_new(key, data)
        if self.verify:
            self.complete(key, data)
        return made

    def complete(self, key: str, data: bytes) -> None:
        """Set a key again that was lost, or of whose bytes the store took only the beginning; not what another has."""

        def torn(found: bytes | None) -> bytes | None:
            there = found or b""
            return data if len(there) < len(data) and data.startswith(there) else None

        self.change(key, torn)

    @retried
    def _set_new(self, key: str, data: bytes) -> None:
        with self.among_others(key):
            self._put_new(key, data)

    def _put_new(self, key: str, data: bytes) -> None:
        sync(self.store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(data)))

    @contextmanager
    def among_others(self, key: str) -> Iterator[None]:
        """Around a change or a listing: an error without a file, as that of a full disk, gets the name of the key."""
        with naming(f"{self.label}/{key}"):
            yield

    def holds(self, key: str, data: bytes | np.ndarray) -> bool:
        """Whether these are the bytes of a key."""
        own = np.frombuffer(data, np.uint8)
        try:
            found = self.view(key, most=own.size)
        except ValueError:  # longer, or no file
            return False
        return found is not None and np.array_equal(np.frombuffer(found, np.uint8), own)

    # Writes by a condition

    @property
    def conditional(self) -> bool:
        """Whether `create` and `replace` are one step, in the store. Else they are a look and a write, to be locked."""
        return conditions_of(self.store) is not None

    def tagged(self, key: str, most: int | None = METADATA_MOST) -> tuple[bytes, Any] | None:
        """All bytes of a key and its tag, by which `replace` knows this version of it; None where there is none.

        Raises
        ------
        StoreError
            If it holds more bytes than `most`.
        """
        try:
            if conditions := conditions_of(self.store):
                found = self._of(key, conditions.view)
                check_size(0 if found is None else len(found[0]), most)
                return found
            view = self.view(key, most=most)
            return None if view is None else (bytes(view), bytes(view))
        except ValueError as error:
            raise StoreError(f"{self.label}/{key} is damaged: {error}. {REMEDY}") from error

    @retried
    def _of(self, key: str, ask: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        with naming(f"{self.label}/{key}"):
            return sync(ask(key))

    def tag(self, key: str, most: int | None = METADATA_MOST) -> Any:
        """The tag alone; None where there is no such key."""
        if conditions := conditions_of(self.store):
            return self._of(key, conditions.tag)
        found = self.tagged(key, most)
        return None if found is None else found[1]

    def create(self, key: str, data: bytes) -> bool:
        """Set a key that is not there. Whether it holds these bytes then: it does too if another has set the same.

        Who must know that it was no other puts something in that is its own.
        """
        for _ in range(TURNS):
            if self._put_if(key, data, None) is not None:
                return True
            if (found := self.tagged(key, None)) is not None:  # its own, where the answer to a first attempt was lost
                return found[0] == data
        raise self._contended(key)

    def replace(self, key: str, data: bytes, tag: Any) -> Any:
        """Set a key that has this tag, or with None is not there: its new one, or None if that is not so any more."""
        new = self._put_if(key, data, tag)
        if new is None and (found := self.tagged(key, None)) is not None and found[0] == data:
            return found[1]
        return new

    def put(self, key: str, data: bytes | np.ndarray, stands: Callable[[], bool]) -> Any:
        """Set a key that mostly is not there, as long as `stands` says that it is the caller's to set.

        What is there otherwise, as of a run that was held up, is replaced; but where all writers do this, nothing that
        was put since `stands` was asked. Where the store takes no conditions it is just set.

        Returns
        -------
        tag, or None
            By which `still` knows what was written; None where the key held these bytes before, or was not set.
        """
        if not self.conditional:
            self.set(key, data)
            return data
        whole = bytes(data)
        for _ in range(TURNS):
            own = self._put_if(key, whole, None)
            if own is None:
                found = self.tagged(key, None)
                if found is None:
                    continue
                if found[0] == whole or not stands():
                    return None
                own = self._put_if(key, whole, found[1])
            if own is not None and (not self.verify or self.holds(key, whole)):
                return own
        raise self._contended(key)

    def change(self, key: str, new: Callable[[bytes | None], bytes | None], most: int | None = METADATA_MOST) -> bool:
        """Set a key to what `new` makes of its bytes, again if others change it meanwhile; not where that is None."""
        for _ in range(TURNS):
            data, tag = self.tagged(key, most) or (None, None)
            made = new(data)
            if made is None:
                return False
            if self.replace(key, made, tag) is not None:
                return True
        raise self._contended(key)

    def settle(self, key: str, document: bytes, stands: Callable[[], bool]) -> bool:
        """Set a document whatever is there, torn perhaps, or put there by others; whether it was not there before.

        As `put` does, and as it can that is known only where the store takes conditions.
        """
        if self.conditional:
            return self.put(key, document, stands) is not None
        self.set_new(key, document)
        if not self.holds(key, document):
            self.set(key, document)
        return False

    def still(self, key: str, tag: Any) -> bool:
        """Whether a key holds what `put` has written."""
        return self.tag(key) == tag if self.conditional else self.holds(key, tag)

    def _put_if(self, key: str, data: bytes, tag: Any) -> Any:
        """Set a key that has this tag, or with None is not there: its new one, or None where that does not hold.

        It does not either where an earlier attempt has set it and the answer was lost.
        """
        if conditions := conditions_of(self.store):
            try:
                return self._of(key, functools.partial(conditions.put, data=data, tag=tag))
            except UnableError:
                logger.warning(
                    "%s takes no conditions with its writes: of two jobs that write at once nothing stops one that is "
                    "held up from writing into what the other has made",
                    self.label,
                )
        if self.tag(key, None) != tag:
            return None
        self.set(key, data)
        return data

    def _contended(self, key: str) -> OSError:
        return OSError(errno.EIO, "is changed by others, or not held, again and again", f"{self.label}/{key}")

    @retried
    def delete(self, key: str) -> None:
        sync(self.store.delete(key))

    @retried
    def delete_all(self, prefix: str) -> None:
        with self.among_others(prefix):
            sync(self.store.delete_dir(prefix))

    # Listings

    def each(self, prefix: str, take: Callable[[str], None]) -> None:
        """Hand every key under a prefix to `take`, one at a time: there may be millions."""

        async def walk() -> None:
            async for key in self.store.list_prefix(prefix):
                take(key)

        with self.among_others(prefix):
            sync(walk())

    @retried
    def holds_keys(self, prefix: str) -> bool:
        """Whether there is anything under a prefix, but for what a killed writer leaves."""
        try:
            return not sync(self.store.is_empty(prefix.rstrip("/")))
        except FileNotFoundError as error:  # no such bucket
            raise FileNotFoundError(f"{self.label} cannot be made: {error}") from error

    @retried
    def size(self, prefix: str) -> int:
        """Bytes stored under a prefix."""
        with self.among_others(prefix):
            return sync(self.store.getsize_prefix(prefix))

    @retried
    def sizes(self, keys: Iterable[str]) -> int:
        """Bytes stored under some keys, each of which is asked for; of those that are absent none."""

        async def size(key: str) -> int:
            try:
                return await self.store.getsize(key)
            except FileNotFoundError:
                return 0

        async def sizes(keys: list[str]) -> int:
            return sum(await asyncio.gather(*map(size, keys)))

        waiting, found = iter(keys), 0
        while batch := list(itertools.islice(waiting, ASKED)):
            found += sync(sizes(batch))
        return found

    # What only folders need, or can do

    @contextmanager
    def locked(self, prefix: str, shared: bool = False, wait: float | None = None) -> Iterator[bool]:
        """Have all others who ask for the same folder wait, threads and processes, but those who share it too.

        Whether they do: of other stores nobody waits, nor where a file system has no locks.

        Raises
        ------
        StoreError
            If it has been locked for a minute, or the seconds to `wait`: whoever has it may be stopped.
        """
        yield False

    def flush(self, prefix: str, below: bool = True) -> None:
        """Have the disk hold the files of a folder, and of all `below` it; other stores hold what they have taken."""

    def flush_files(self, keys: Iterable[str]) -> None:
        """As `flush`, of some files and the folders around them."""

    def sweep(self, *prefixes: str, below: bool = True) -> None:
        """Remove what killed writers left of the metadata of the group, and in some folders, or in all `below` them."""

    def remove_empty(self, prefix: str) -> None:
        """Remove a folder in which nothing is left."""


@dataclass(frozen=True)
class FsspecKeys(Keys):
    """The keys of a store that fsspec reaches."""

    store: FsspecStore

    def _store_inside(self, path: str) -> Store:
        return FsspecStore(self.store.fs, read_only=self.store.read_only, path=f"{self.store.path}/{path}")

    def check_writable(self) -> None:
        super().check_writable()
        if WILDCARD.search(self.store.path.rpartition("://")[2].partition("/")[2]):
            raise ValueError(f"{self.label} holds *, ? or [, which fsspec takes for a pattern; name another place")

    @property
    def label(self) -> str:
        fs = getattr(self.store.fs, "sync_fs", self.store.fs)  # one that is not asynchronous comes wrapped
        return str(fs.unstrip_protocol(self.store.path))

    def above(self) -> tuple[Keys, str] | None:
        path, _, name = self.store.path.rstrip("/").rpartition("/")
        return (Keys(FsspecStore(self.store.fs, path=path)), name) if path else None

    @property
    def lists(self) -> bool:
        return not self.label.startswith(("http://", "https://"))  # few web servers do, and none says sizes

    @retried
    def size(self, prefix: str) -> int:
        # From the listing, where Zarr would ask for the size of each key.
        found = sync(self.store.fs._find(f"{self.store.path}/{prefix}", detail=True))
        return sum(info["size"] for info in found.values())


@dataclass(frozen=True)
class ZipKeys(Keys):
    """The keys of a zip archive, which is only read: what is damaged in it is told as damage of a store."""

    store: ZipStore
    inner = "::"

    @property
    def label(self) -> str:
        return str(self.store.path)

    @property
    def exists(self) -> bool:
        return self.store.path.is_file()

    def open(self) -> None:
        if self.store._is_open or not self.exists:
            return
        try:
            sync(self.store._open())
        except zipfile.BadZipFile as error:
            raise StoreError(
                f"{self.label} is no whole zip archive, whose list of files comes last ({error}): copy or download "
                "it again"
            ) from error

    def unlisted(self) -> str:
        with zipfile.ZipFile(self.store.path) as archive:
            names = archive.namelist()
        below = [name.removesuffix("/zarr.json") for name in names if name.endswith("/zarr.json")]
        if "zarr.json" in names or not below:
            return ""
        folder = min(below, key=len)
        return f" at its root: its content lies in the folder {folder}. Zip what that holds, and not the folder itself"

    def _get(self, key: str, part: Part | None, most: int | None) -> Buffer | None:
        try:
            return super()._get(key, part, most)
        except UNZIPPED as error:
            raise ValueError(f"the archive does not give it ({error})") from error

    def size(self, prefix: str) -> int:
        with zipfile.ZipFile(self.store.path) as archive:
            below = self.store.at(prefix) if isinstance(self.store, Below) else prefix
            return sum(one.compress_size for one in archive.infolist() if one.filename.startswith(f"{below}/"))


@dataclass(frozen=True)
class LocalKeys(Keys):
    """The keys of a store in a folder: its files are looked at before they are opened, locked, flushed and swept."""

    store: LocalStore

    @property
    def folder(self) -> Path:
        return Path(self.store.root)

    def _store_inside(self, path: str) -> Store:
        return (
            type(self.store)(self.folder / path, read_only=self.store.read_only)
            if self.synchronous
            else Below(self.store, path)
        )

    @functools.cached_property
    def root(self) -> str:
        """The folder as text, of which the path of a key is made sooner."""
        return str(self.store.root)

    @property
    def label(self) -> str:
        return str(self.folder)

    @property
    def nearest(self) -> Path:
        folder = self.folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder

    @property
    def enclosing(self) -> Iterator[Keys]:
        for folder in Path(os.path.realpath(self.folder)).parents:
            if any(os.path.isfile(folder / name) for name in ("zarr.json", ".zarray")):
                yield Keys(LocalStore(folder))

    @property
    def exists(self) -> bool:
        try:
            return self.folder.is_dir()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise StoreError(f"{self.label} cannot be a folder: {error.strerror}") from error
            raise

    def above(self) -> tuple[Keys, str] | None:
        return Keys(LocalStore(self.folder.parent)), self.folder.name

    def check_place(self, *names: str) -> None:
        for path in (self.folder, *self.folder.parents, *(self.folder / name for name in names)):
            if path.is_symlink() and not path.exists():
                raise StoreError(
                    f"{path} is a link to {path.readlink()}, which does not exist: make that, or remove the link"
                )
        nearest = self.nearest
        if not nearest.is_dir():
            raise StoreError(f"{nearest} is a file, so {self.label} cannot be a folder; name another destination")

    @property
    def synchronous(self) -> bool:
        """Whether to go without the event loop, which costs more than a small chunk.

        Not for a subclass of Zarr's own: what it does more lies in its coroutines.
        """
        return type(self.store) is LocalStore

    def _get(self, key: str, part: Part | None, most: int | None) -> Buffer | None:
        # The store itself would make the folder, wait at a pipe and read a device for ever.
        path = f"{self.root}/{key}"
        size = file_size(path)
        if size is None:
            return None
        check_size(size, most)
        if self.synchronous:
            found = file_bytes(path, part)
            return None if found is None else cpu.Buffer.from_bytes(found)
        prototype = default_buffer_prototype()
        return sync(self.store.get(key, prototype, part)) if size else prototype.buffer.from_bytes(b"")

    @retried
    def stamp(self, key: str) -> tuple[Any, ...] | None:
        # Opened, and not only asked about: of an open file network file systems ask the server, not what they remember.
        try:
            number = os.open(f"{self.root}/{key}", os.O_RDONLY | NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = os.fstat(number)
        finally:
            os.close(number)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _set(self, key: str, data: bytes | np.ndarray) -> None:
        if self.synchronous:
            self.store.set_sync(key, default_buffer_prototype().buffer.from_bytes(data))  # type: ignore[arg-type]
        else:
            super()._set(key, data)

    def _put_new(self, key: str, data: bytes) -> None:
        # As the store does, without the event loop: a file of another name gets this one too, if nothing has it.
        if not self.synchronous or os.name == "nt":
            super()._put_new(key, data)
            return
        path = f"{self.root}/{key}"
        if os.path.lexists(path):
            return
        partial = f"{os.path.splitext(path)[0]}.{uuid.uuid4().hex}.partial"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(data)
            with suppress(FileExistsError):
                os.link(partial, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)

    @contextmanager
    def among_others(self, key: str) -> Iterator[None]:
        """As for any store; and a missing file is tried again: another run may be renaming or removing its own."""
        try:
            with super().among_others(key):
                yield
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise OSError(errno.EAGAIN, error.strerror, f"{self.label}/{key}") from error
            raise

    def each(self, prefix: str, take: Callable[[str], None]) -> None:
        if (self.folder / prefix).is_dir():
            super().each(prefix, take)

    @retried
    def holds_keys(self, prefix: str) -> bool:
        folder = self.folder / prefix
        if not folder.is_dir():
            return folder.exists()
        files = (path for path in folder.rglob("*") if not path.is_dir())
        with self.among_others(prefix):
            return any(not LEFTOVER.fullmatch(path.name) for path in files)

    @contextmanager
    def locked(self, prefix: str, shared: bool = False, wait: float | None = None) -> Iterator[bool]:
        """As for any store. The system lets go of the lock when a process dies; some network file systems have none."""
        with locked_folder(f"{self.root}/{prefix}".rstrip("/"), shared, wait) as held:
            yield held

    def flush(self, prefix: str, below: bool = True) -> None:
        """As for any store: without it a loss of power may undo what was written."""
        for folder, inside, names in os.walk(self.folder / prefix):
            for name in (*names, "."):  # the folder itself last: it has their names
                flush_file(os.path.join(folder, name))
            if not below:
                inside.clear()

    def flush_files(self, keys: Iterable[str]) -> None:
        paths = {self.folder / key for key in keys}
        folders = {parent for path in paths for parent in path.parents if parent.is_relative_to(self.folder)}
        for path in (*sorted(paths), *sorted(folders, reverse=True)):  # folders last: they have the files' names
            flush_file(path)

    @retried
    def sweep(self, *prefixes: str, below: bool = True) -> None:
        own = [(self.folder / prefix).glob("**/*.partial" if below else "*.partial") for prefix in prefixes]
        with self.among_others(prefixes[0]):
            for path in itertools.chain(self.folder.glob("zarr.*.partial"), *own):
                if LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def remove_empty(self, prefix: str) -> None:
        with suppress(OSError):  # there is something in it
            (self.folder / prefix).rmdir()


def fsspec_options(url: str) -> dict[str, Any]:
    """How fsspec opens a URL: no listing is kept, which would hide what others do or have done."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        options["max_concurrency"] = 1  # for more, s3fs asks how long a key is before it reads it
    return options


def check_size(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise ValueError(f"it is longer than the {most:,} bytes that it can have")


def chunk_key(name: str, grid: Grid, number: int) -> str:
    """The key of a chunk of an array in the group."""
    return "/".join([name, "c", *map(str, grid.position(number))])


def stored_bytes(keys: Keys, name: str, grid: Grid) -> int:
    """Bytes that the chunks of an array in the group take."""
    if keys.lists:
        return keys.size(f"{name}/c")
    return keys.sizes(chunk_key(name, grid, number) for number in range(grid.count))


@retried
def present(keys: Keys, name: str, grid: Grid) -> np.ndarray:
    """Which chunks of an array in the group are there, by their keys, shape ``(chunks,)``."""
    found = np.zeros(grid.count, bool)
    prefix, numbers = f"{name}/c/", f"{NUMBER}/" * len(grid.shape)

    def take(key: str) -> None:
        inside = key.removeprefix(prefix)
        if len(inside) < len(key) and re.fullmatch(numbers, f"{inside}/"):
            position = tuple(map(int, inside.split("/")))
            if all(along < n for along, n in zip(position, grid.counts, strict=True)):
                found[grid.number(position)] = True

    keys.each(f"{name}/c", take)
    return found
