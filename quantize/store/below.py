"""The part of a Zarr store below a prefix, as a store: for stores that have no way of their own to say so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore


class Below(WrapperStore[Store]):
    """A store whose keys are those of another that begin with a prefix, without it."""

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self.prefix = prefix

    def _with_store(self, store: Store) -> Below:
        return type(self)(store, self.prefix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Below) and (self._store, self.prefix) == (other._store, other.prefix)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self._store}/{self.prefix}"

    def __repr__(self) -> str:
        return f"Below({self._store!r}, {self.prefix!r})"

    @property
    def root(self) -> Path:
        """The folder, where the store is one."""
        store: Any = self._store
        return Path(store.root) / self.prefix

    @property
    def path(self) -> Path:
        """The archive, where the store is one."""
        store: Any = self._store
        found: Path = store.path
        return found

    def at(self, key: str) -> str:
        return f"{self.prefix}/{key}" if key else self.prefix

    async def is_empty(self, prefix: str) -> bool:
        return await self._store.is_empty(self.at(prefix))

    async def clear(self) -> None:
        await self._store.delete_dir(self.prefix)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await self._store.get(self.at(key), prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await self._store.get_partial_values(prototype, [(self.at(key), part) for key, part in key_ranges])

    async def exists(self, key: str) -> bool:
        return await self._store.exists(self.at(key))

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(self.at(key), value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._store.set_if_not_exists(self.at(key), value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await self._store._set_many((self.at(key), value) for key, value in values)

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        own = [(self.at(key), prototype, part) for key, prototype, part in requests]
        async for key, value in self._store._get_many(own):
            yield key.removeprefix(f"{self.prefix}/"), value

    async def delete(self, key: str) -> None:
        await self._store.delete(self.at(key))

    async def delete_dir(self, prefix: str) -> None:
        await self._store.delete_dir(self.at(prefix))

    async def getsize(self, key: str) -> int:
        return await self._store.getsize(self.at(key))

    async def getsize_prefix(self, prefix: str) -> int:
        return await self._store.getsize_prefix(self.at(prefix))

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._store.list_prefix(f"{self.prefix}/{prefix}"):
            yield key.removeprefix(f"{self.prefix}/")

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in self._store.list_dir(self.at(prefix)):
            yield name
