"""Mappings of names to arrays: dictionaries, and what is like them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..arrays import Arrays
from ..format import Format
from ..raw import RawArray
from ..source import Source


class Named(Arrays):
    """The arrays of a mapping. Each may be whatever `sources_of` takes, if that is one array."""

    def listed(self) -> Mapping[str, Any]:
        for name in self.node:
            if not isinstance(name, str):
                raise TypeError(f"the names of arrays must be str, and {name!r} is a {type(name).__name__}")
        return dict(self.node)

    def __getitem__(self, name: str) -> Source:
        with naming(name):
            found = copy.copy(self._one(name).only())
        found.label = f"{name!r}, {found.label}"
        return found

    def raw(self, name: str) -> RawArray:
        with naming(name):
            arrays = self._one(name)
            found = arrays.raw(arrays.only_name())
        return replace(found, label=f"{name!r}, {found.label}")

    def at(self, name: str) -> Arrays:
        if name not in self._arrays:
            return super().at(name)
        with naming(name):
            return self._one(name)

    def _one(self, name: str) -> Arrays:
        from .. import sources_of

        return sources_of(self._arrays[name])

    def described(self, name: str) -> str:
        found = self._arrays[name]
        return super().described(name) if hasattr(found, "shape") and hasattr(found, "dtype") else name


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors that say which of the arrays they are of."""
    try:
        yield
    except (TypeError, ValueError) as error:
        again: Callable[[str], Exception] = type(error)
        raise again(f"{name!r}: {error}") from error


class Dictionary(Format):
    def takes(self, thing: Any) -> bool:
        return isinstance(thing, Mapping)

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return Named(type(thing).__name__, thing, "")


FORMAT = Dictionary()
