"""Arrays, datasets and trees of xarray's.

What is quantized are the values that xarray shows. What is kept is their encoded form, as xarray itself would write it
(times as numbers with units, auxiliary coordinates named in attributes), from which its decoding makes the same again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np

from ...exceptions import SourceError
from ...numerics.dtypes import TEXT
from ...numerics.grid import Region, Shape
from ..arrays import Arrays
from ..attributes import decoded_by_xarray, plain
from ..content import reason
from ..format import Format, library
from ..raw import LEAVE_OUT, RawArray, kept_dtype
from ..source import Source
from .dask import DaskSource, check_sizes
from .duck import GenericSource

MEMBERS = ("data_vars", "variable", "to_base_variable")  # of datasets and trees, arrays, variables
LAZY_BYTES = 1 << 20  # bytes: variables that hold more are encoded as they are read, and not at once
PIECE_BYTES = 4 << 20  # bytes: of a variable that is encoded as it is read, what is encoded at once


@dataclass(frozen=True)
class Field:
    """One variable of a dataset, with the names of its coordinates among its attributes."""

    label: str
    variable: Any

    @property
    def shape(self) -> Shape:
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> Any:
        return self.variable.dtype

    def source(self) -> Source:
        from xarray.conventions import CF_RELATED_DATA

        found = source_of(self.variable)
        related = {name: plain(self.variable.encoding.get(name)) for name in CF_RELATED_DATA}
        found.attributes |= {name: value for name, value in related.items() if value is not None}
        found.label = self.label
        return found


def source_of(array: Any) -> Source:
    """The source for an array or a variable: its own graph, if it holds a dask array."""
    if array.chunks is None:
        return GenericSource(array)
    attributes = decoded_by_xarray({key: plain(value) for key, value in array.attrs.items()}, array.encoding)
    return DaskSource(array.data, attributes, tuple(map(str, array.dims)))


# As they are kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """The values of a region of an encoded variable. A graph runs in this thread, which may be a cluster's."""

    variable: Any

    def __call__(self, region: Region) -> Any:
        return self.variable[region].compute(scheduler="synchronous").values


def raw_variable(variable: Any, label: str) -> RawArray:
    """A variable in its encoded form.

    Raises
    ------
    SourceError
        If it is part of a MultiIndex, or xarray cannot encode it.
    """
    with encoding(label):
        found = encoded(variable)
    lazy = variable.chunks is not None
    if lazy:
        check_sizes(variable.data, label)
    text = found.dtype.kind == "O" and (lazy or all(isinstance(value, str) for value in found.values.flat))
    dtype = TEXT if text else kept_dtype(found.dtype, label)
    attributes = {str(key): plain(value) for key, value in found.attrs.items()}
    names = tuple(map(str, found.dims)) or None
    return RawArray(label, found.shape, dtype, Values(found), attributes, names, chunks_of(variable, found), lazy)


@contextmanager
def encoding(label: str) -> Iterator[None]:
    """Errors of xarray that say what cannot be encoded, and what to do."""
    try:
        yield
    except NotImplementedError as error:
        raise SourceError(
            f"{label} is part of a MultiIndex, which cannot be kept in Zarr: call .reset_index() with the name of its "
            f"dimension first, or {LEAVE_OUT}"
        ) from error
    except (TypeError, ValueError, OverflowError, ImportError) as error:
        raise SourceError(
            f"{label} cannot be encoded by xarray ({reason(error)}): mend its .attrs or .encoding, or {LEAVE_OUT}"
        ) from error


def encoded(variable: Any) -> Any:
    """A variable as xarray would write it; a large one is encoded as it is read."""
    from xarray.coding.strings import CharacterArrayCoder
    from xarray.conventions import encode_cf_variable

    if variable.chunks is None and variable.dtype.kind in "fiu" and variable.nbytes > LAZY_BYTES:
        variable = variable.chunk(pieces_of(variable), name=f"encoded-{uuid4().hex}")
    found = encode_cf_variable(variable)
    if found.dtype.kind == "S" and found.dtype.itemsize == 1:  # whose last axis would be taken for the letters of text
        letters: Any = CharacterArrayCoder()
        found = letters.encode(found)
    return found


def in_units(variable: Any, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """A variable of times, which will be encoded by the units of these attributes; any other as it is."""
    from xarray.core.common import contains_cftime_datetimes

    times = variable.dtype.kind in "mM" or (variable.dtype.kind == "O" and contains_cftime_datetimes(variable))
    if not times or "units" not in attributes:
        return variable
    found = variable.copy(deep=False)
    found.encoding = {
        **variable.encoding,
        **{key: attributes[key] for key in ("units", "calendar") if key in attributes},
        "dtype": dtype,
    }
    return found


def pieces_of(variable: Any) -> dict[Any, Any]:
    from dask.array.core import normalize_chunks

    previous = chunks_of(variable, variable)
    found = normalize_chunks("auto", variable.shape, PIECE_BYTES, variable.dtype, previous)
    return dict(zip(variable.dims, found, strict=True))


def chunks_of(variable: Any, found: Any) -> Shape | None:
    """The lengths of the chunks of a variable, or of its file, for what it became."""
    if variable.chunks is not None:
        lengths = dict(zip(variable.dims, map(max, variable.chunks), strict=True))
    else:
        lengths = variable.encoding.get("preferred_chunks") or {}
    if not lengths:
        return None
    return tuple(min(lengths.get(name, n), n) or 1 for name, n in zip(found.dims, found.shape, strict=True))


# Datasets and trees ---------------------------------------------------------------------------------------------------


class OneArray(Arrays):
    """An array or a variable."""

    def opened(self, array: Any) -> Source:
        return source_of(array)

    def opened_raw(self, array: Any) -> RawArray:
        return raw_variable(getattr(array, "variable", array), self.label)


class OneField(Arrays):
    """A variable of a dataset."""

    noun = "variable"

    def opened(self, array: Any) -> Source:
        found: Source = array.source()
        return found

    def opened_raw(self, array: Any) -> RawArray:
        return raw_variable(array.variable, array.label)

    def raw_like(self, name: str, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> RawArray:
        """As `raw`, times by the units that others of the same name have."""
        array = self._arrays[name]
        return raw_variable(in_units(array.variable, attributes, dtype), array.label)


class Fields(OneField):
    """All variables of a dataset, or of the datasets of a tree, each of which is listed where it is defined."""

    @property
    def nested(self) -> bool:  # type: ignore[override]
        return hasattr(self.node, "subtree")

    @functools.cached_property
    def _groups(self) -> dict[str, tuple[dict[str, Any], dict[str, Any], frozenset[str]]]:
        """Of each group its variables, attributes and the names of its coordinates."""
        from xarray.conventions import encode_dataset_coordinates

        if not self.nested:
            groups = {"": self.node}
        else:
            top = self.node.path.rstrip("/")
            groups = {one.path.removeprefix(top).strip("/"): one.to_dataset(inherit=False) for one in self.node.subtree}
        found = {}
        for path, dataset in groups.items():
            with encoding(f"{self.label}::{path}"):
                variables, attributes = encode_dataset_coordinates(dataset)
            said = {str(key): plain(value) for key, value in attributes.items()}
            found[path] = variables, said, frozenset(map(str, dataset.coords))
        return found

    def listed(self) -> Mapping[str, Any]:
        found = {}
        for path, (variables, _, _) in self._groups.items():
            for name, variable in variables.items():
                if not isinstance(name, str):
                    raise TypeError(f"the names of variables must be str, and {name!r} is a {type(name).__name__}")
                found[joined(path, name)] = Field(f"{self.prefix}{joined(path, name)}", variable)
        return found

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        return {path: attributes for path, (_, attributes, _) in self._groups.items()}

    @property
    def coordinates(self) -> frozenset[str]:
        return frozenset(joined(path, name) for path, (_, _, names) in self._groups.items() for name in names)

    def at(self, name: str) -> Arrays:
        found = name.strip("/") if self.nested else name
        if found in self._arrays:
            return OneField(self.label, self._arrays[found], f"{self.prefix}{found}/")
        if self.nested and found in self._groups and found:
            return Fields(self.label, self.node[found], f"{self.prefix}{found}/")
        return super().at(name)


def joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


class Xarray(Format):
    arrays = "xarray"

    def takes(self, thing: Any) -> bool:
        return library(thing) == "xarray" and any(map(functools.partial(hasattr, thing), MEMBERS))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        kind = type(thing).__name__
        return Fields(kind, thing) if hasattr(thing, "data_vars") else OneArray(kind, thing)


FORMAT = Xarray()
