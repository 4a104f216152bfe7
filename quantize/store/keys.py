"""Keys and bytes: a Zarr store, its calls tried again, its files looked at before they are opened."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from ..exceptions import REMEDY, StoreError
from ..numerics.grid import Grid
from .metadata import METADATA_MOST
from .retrying import retried

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

PATTERN = re.compile(r"[*?\[]")  # what fsspec takes for a pattern where it deletes


@dataclass(frozen=True)
class Keys:
    """A Zarr store: its methods called, and called again if they fail for a time. Keys are strings, values bytes.

    With `verify` what was set is read back, and set again where the store lost or tore it.
    """

    store: Store
    verify: bool = False

    @classmethod
    def of(cls, store: Any) -> Keys:
        """Keys of a path, a URL or a Zarr store.

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
        keys = cls(store)
        if isinstance(store, FsspecStore) and PATTERN.search(store.path.rpartition("://")[2].partition("/")[2]):
            raise ValueError(f"{keys.label} holds *, ? or [, which fsspec takes for a pattern; name another place")
        return keys

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
        with self.among_others(key):
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
        with self.among_others(key):
            sync(self.store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(data)))

    @contextmanager
    def among_others(self, key: str) -> Iterator[None]:
        """Around a change or a listing: an error gets the name of the key where it has none, as that of a full disk.

        That a file of a folder is gone is no lasting error: another run renames and removes its own meanwhile.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) and self.folder is not None:
                raise OSError(errno.EAGAIN, error.strerror, f"{self.label}/{key}") from error
            if error.errno is not None and error.filename is None:
                error.filename = f"{self.label}/{key}"
            raise

    def holds(self, key: str, data: bytes | np.ndarray) -> bool:
        """Whether these are the bytes of a key."""
        own = np.frombuffer(data, np.uint8)
        try:
            found = self.view(key, most=own.size)
        except ValueError:  # longer, or no file
            return False
        return found is not None and np.array_equal(np.frombuffer(found, np.uint8), own)

    @retried
    def delete(self, key: str) -> None:
        sync(self.store.delete(key))

    @retried
    def delete_all(self, prefix: str) -> None:
        with self.among_others(prefix):
            sync(self.store.delete_dir(prefix))

    @retried
    def size(self, prefix: str) -> int:
        """Bytes stored under a prefix."""
        if isinstance(self.store, FsspecStore):  # from the listing, where Zarr would ask for the size of each key
            found = sync(self.store.fs._find(f"{self.store.path}/{prefix}", detail=True))
            return sum(info["size"] for info in found.values())
        with self.among_others(prefix):
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
        try:
            number = os.open(self.folder / prefix, os.O_RDONLY)
        except FileNotFoundError:  # another run has removed it, which the look that follows will show
            yield
            return
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
                try:
                    number = os.open(os.path.join(folder, name), os.O_RDONLY)
                except FileNotFoundError:  # another run has removed or renamed it
                    continue
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
            with self.among_others(prefix):
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


def chunk_key(name: str, grid: Grid, number: int) -> str:
    """The key of a chunk of an array in the group."""
    return "/".join([name, "c", *map(str, grid.position(number))])


@retried
def present(keys: Keys, name: str, grid: Grid) -> np.ndarray:
    """Which chunks of an array in the group are there, by their keys, shape ``(chunks,)``."""
    found = np.zeros(grid.count, bool)
    pattern = re.compile("/".join([re.escape(name), "c", *[r"(0|[1-9][0-9]*)"] * len(grid.shape)]))

    def take(key: str) -> None:
        match = pattern.fullmatch(key)
        if match:
            position = tuple(map(int, match.groups()))
            if all(along < n for along, n in zip(position, grid.counts, strict=True)):
                found[grid.number(position)] = True

    keys.each(f"{name}/c", take)
    return found
