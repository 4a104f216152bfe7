"""The arrays of a file, a group or any other thing, by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .raw import RawArray, raw_of
from .source import Source

SHOWN = 20  # names: so many at most stand in a message


class Arrays(Mapping[str, Source]):
    """The arrays that a thing holds by name, sorted; each becomes a `Source` when it is asked for, and not before.

    All are listed, those too that cannot be quantized; `raw` gives any of them as it is stored.

    A thing that is one array has that alone, under the name "". Formats whose files are trees derive from this class.

    Parameters
    ----------
    label : str
        What to call the thing in messages.
    node : array, group or mapping
        An array, which has a `dtype`, or what gives arrays and groups by name.
    prefix : str, optional
        What the name of an array follows where one is written out as a path; the label and ``::`` by default.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize.io import as_source, sources_of
    >>> arrays = Arrays("weather", {"t": as_source(np.zeros((3, 4))), "lat": as_source(np.zeros(3))})
    >>> list(arrays), arrays["t"].shape
    (['lat', 't'], (3, 4))
    >>> arrays.at("t").only().shape
    (3, 4)
    """

    noun = "array"  # what messages call one of them
    nested = False  # whether a "/" in a name parts groups; else it is a character like any other

    def __init__(self, label: str, node: Any, prefix: str | None = None) -> None:
        self.label = label
        self.node = node
        self.prefix = f"{label}::" if prefix is None else prefix

    def listed(self) -> Mapping[str, Any]:
        """Every array of the node, a group, by its path below it. Each has a `shape` and a `dtype`."""
        found: Mapping[str, Any] = self.node
        return found

    def opened(self, array: Any) -> Source:
        """The source for one of those arrays."""
        if not isinstance(array, Source):
            raise TypeError(f"{self.label} gave a {type(array).__name__} in the place of a Source")
        return array

    def opened_raw(self, array: Any) -> RawArray:
        """One of those arrays as it is stored; a `SourceError`, if it cannot be kept so."""
        return raw_of(self.opened(array))

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        """Those of all groups by their paths, "" the node itself; of a group without any they are empty."""
        return {"": {}}

    @property
    def coordinates(self) -> frozenset[str]:
        """The names that the thing itself says are coordinates."""
        return frozenset()

    @property
    def is_array(self) -> bool:
        return hasattr(self.node, "dtype")

    @property
    def is_one(self) -> bool:
        """Whether one array is meant where none is named, as `only` gives it."""
        return self.is_array or len(self.meant()) <= 1

    @functools.cached_property
    def _arrays(self) -> Mapping[str, Any]:
        return {"": self.node} if self.is_array else self.listed()

    def __getitem__(self, name: str) -> Source:
        return self.opened(self._arrays[name])

    def raw(self, name: str) -> RawArray:
        """An array as it is stored, whatever its dtype, nothing decoded: what is kept and not quantized.

        Raises
        ------
        KeyError
            If there is none of that name.
        SourceError
            If it cannot be kept, saying why and what to do.
        """
        return self.opened_raw(self._arrays[name])

    def raw_like(self, name: str, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> RawArray:
        """As `raw`, where a thing may be stored in several ways: as one with these attributes and of this dtype is."""
        return self.raw(name)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._arrays))

    def __len__(self) -> int:
        return len(self._arrays)

    def at(self, name: str) -> Arrays:
        """What lies under a name: one array, or a group's.

        Raises
        ------
        ValueError
            If there is nothing.
        """
        if self.nested or self.is_array or name not in self.node:
            name = name.strip("/")
        if not name:
            return self
        if self.is_array:
            raise ValueError(f"{self.label} is one array, and {name!r} can't be looked up in it")
        if name not in self.node:
            raise ValueError(f"{self.label} has no {self.noun} {name!r}; it holds {few(self.meant()) or 'none'}")
        return type(self)(self.label, self.node[name], f"{self.prefix}{name}/")

    def meant(self) -> list[str]:
        """The names of arrays of which one is meant where none is named: not those of single numbers."""
        return [name for name in self if self.is_array or getattr(self._arrays[name], "shape", True)]

    def only(self) -> Source:
        """The one array that there is, beside single numbers; raises as `only_name` does."""
        return self[self.only_name()]

    def only_name(self) -> str:
        """Its name.

        Raises
        ------
        ValueError
            If there are several, or none.
        """
        names = self.meant()
        if not names:
            raise ValueError(f"{self.label} is a group without arrays" + " that have axes" * bool(self))
        if len(names) > 1:
            found = few([self.described(name) for name in names[:SHOWN]], len(names))
            one = next((name for name in names if hasattr(self._arrays[name], "dtype")), names[0])
            raise ValueError(f"{self.label} holds several arrays: {found}. Name one, as in {self.prefix}{one}")
        return names[0]

    def described(self, name: str) -> str:
        """One of the arrays, for a message."""
        array = self._arrays[name]
        return f"{name} {tuple(array.shape)} {array.dtype}"


def few(names: Sequence[str], count: int = 0) -> str:
    """Some names of so many, by default of all, for a message.

    >>> few(["a", "b"], 9)
    'a, b and 7 more'
    """
    count = count or len(names)
    more = f" and {count - len(names[:SHOWN]):,} more" if count > len(names[:SHOWN]) else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def is_stream(thing: Any) -> bool:
    """Whether a thing gives arrays one after another, and is no array, list, mapping or text.

    >>> is_stream(np.zeros((1, 4)) for _ in range(3)), is_stream([np.zeros(4)]), is_stream("x.npy")
    (True, False, False)
    """
    others = (str, bytes, os.PathLike, Mapping, list, tuple, set, frozenset, Source, type)
    return isinstance(thing, Iterable) and not isinstance(thing, others) and not is_array(thing)


def is_array(thing: Any) -> bool:
    return any(hasattr(thing, name) for name in ("shape", "__array__", "__array_interface__", "__dlpack__", "keys"))
