"""Writes that a store takes only where a key is as it was: what object stores have in place of locks.

Each version of a key has a tag. A write names the tag that it means to replace, or says that there must be none.
"""

from __future__ import annotations

import errno
import re
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, ObjectStore

from .below import Below

OF_OBSTORE = ("S3Store", "GCSStore", "AzureStore", "MemoryStore")  # that of local files replaces nothing by a tag

MISSED = (304, 412)  # a condition does not hold: what is there is another version
GONE = 404  # or nothing
BUSY = 409  # another writes the key at this moment
UNKNOWN = 501  # the store takes no conditions

unable: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # stores that have said so


class UnableError(Exception):
    """A store takes no conditions."""


@dataclass(frozen=True)
class Conditions(ABC):
    """The keys of a store below a prefix, by their tags. `inner` is what it has of another library."""

    inner: Any
    prefix: str

    def path(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @abstractmethod
    async def view(self, key: str) -> tuple[bytes, Any] | None:
        """All bytes of a key and its tag; None where there is none."""

    @abstractmethod
    async def tag(self, key: str) -> Any:
        """The tag of a key; None where there is none."""

    async def put(self, key: str, data: bytes, tag: Any) -> Any:
        """Set a key that has this tag, or with None does not exist: its new tag, or None if that does not hold.

        Raises
        ------
        UnableError
            If the store takes no conditions.
        OSError
            If it cannot tell yet, as another writes the key: temporary.
        """
        try:
            return await self._put(key, data, tag)
        except Exception as error:
            status = self.status(error)
            if status == UNKNOWN:
                unable[id(self.inner)] = self.inner
                raise UnableError from error
            if status == BUSY:
                raise OSError(errno.EAGAIN, "another is writing it at this moment") from error
            if status in MISSED or (status == GONE and tag is not None):
                return None
            raise

    @abstractmethod
    async def _put(self, key: str, data: bytes, tag: Any) -> Any:
        """As `put`, with the errors of the library."""

    @abstractmethod
    def status(self, error: Exception) -> int | None:
        """What an error of the library says, as HTTP has it; None where it is about something else."""


class OfObstore(Conditions):
    async def view(self, key: str) -> tuple[bytes, Any] | None:
        import obstore

        try:
            found = await obstore.get_async(self.inner, self.path(key))
        except FileNotFoundError:
            return None
        return bytes(await found.bytes_async()), version(found.meta)

    async def tag(self, key: str) -> Any:
        import obstore

        try:
            return version(await obstore.head_async(self.inner, self.path(key)))
        except FileNotFoundError:
            return None

    async def _put(self, key: str, data: bytes, tag: Any) -> Any:
        import obstore

        mode: Any = "create" if tag is None else tag
        return version(await obstore.put_async(self.inner, self.path(key), data, mode=mode, use_multipart=False))

    def status(self, error: Exception) -> int | None:
        if said := re.search(r"status code: (\d{3})", str(error)):
            return int(said[1])
        named = {"AlreadyExistsError": 412, "PreconditionError": 412, "NotSupportedError": UNKNOWN}
        return UNKNOWN if isinstance(error, NotImplementedError) else named.get(type(error).__name__)


def version(meta: Any) -> dict[str, str]:
    """What obstore calls the version of an object."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


class OfS3fs(Conditions):
    async def _call(self, method: str, key: str, **more: Any) -> Any:
        bucket, name, _ = self.inner.split_path(self.path(key))
        return await self.inner._call_s3(method, Bucket=bucket, Key=name, **more)

    async def view(self, key: str) -> tuple[bytes, Any] | None:
        try:
            found = await self._call("get_object", key)
        except FileNotFoundError:
            return None
        async with found["Body"] as body:
            return await body.read(), found["ETag"]

    async def tag(self, key: str) -> Any:
        try:
            return (await self._call("head_object", key))["ETag"]
        except FileNotFoundError:
            return None

    async def _put(self, key: str, data: bytes, tag: Any) -> Any:
        client = await self.inner.get_s3(self.inner.split_path(self.path(key))[0])
        known = client.meta.service_model.operation_model("PutObject").input_shape.members
        if not {"IfMatch", "IfNoneMatch"} <= set(known):  # s3fs would leave out what botocore does not know
            raise NotImplementedError
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        done = await self._call("put_object", key, Body=data, **condition)
        self.inner.invalidate_cache(self.path(key))
        return done["ETag"]

    def status(self, error: Exception) -> int | None:
        if isinstance(error, NotImplementedError):
            return UNKNOWN
        said: dict[str, Any] = getattr(error.__cause__, "response", {})
        if said.get("Error", {}).get("Code") == "NoSuchBucket":
            return None
        status: int | None = said.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status


def conditions_of(store: Store) -> Conditions | None:
    """How to write into a store by conditions; None where it takes none."""
    found = possible(store)
    return None if found is None or id(found.inner) in unable else found


def refuses(store: Store) -> bool:
    """Whether a store has said that it takes no conditions, though its kind does."""
    found = possible(store)
    return found is not None and id(found.inner) in unable


def possible(store: Store) -> Conditions | None:
    """How stores of such a kind are written to by conditions; None where it is of none that takes any.

    Not for subclasses of Zarr's own stores: what they do more lies in their coroutines.
    """
    prefixes: list[str] = []
    while isinstance(store, Below):
        prefixes.insert(0, store.prefix)
        store = store._store
    kind: type[Conditions]
    inner: Any
    if type(store) is ObjectStore:
        kind, inner = OfObstore, store.store
        if type(inner).__name__ not in OF_OBSTORE:
            return None
    elif type(store) is FsspecStore and type(store.fs).__module__.startswith("s3fs."):
        kind, inner = OfS3fs, store.fs
        prefixes.insert(0, store.path)
    else:
        return None
    return kind(inner, "/".join(prefixes))
