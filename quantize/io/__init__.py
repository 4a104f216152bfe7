"""What is read from and written to, beside our own store: sources and sinks, found by the formats in `formats`.

`as_source` and `sources_of` give the `Source` for whatever the user has: a path, a URL or an array; `sink_of` gives the
`Sink` for a destination. A new format is one file in `formats` and its name in `KINDS`, or a plug-in: an entry point of
the group ``quantize.formats`` that names a `Format`. Nothing outside of a format's file asks what a thing is.
It may import `numerics` and `store`.
"""

from __future__ import annotations

import functools
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ..exceptions import SourceError
from ..numerics.names import check_suffix, suffix_of_file
from .arrays import Arrays
from .arrays import is_stream as is_stream
from .content import matched, otherwise, reason
from .format import Format, is_url
from .sink import CollectionSink, Sink
from .source import Source

# the files of `formats`, as they are asked
KINDS = (
    "memory",
    "npy",
    "zarr",
    "hdf5",
    "netcdf3",
    "safetensors",
    "npz",
    "arrow",
    "pieces",
    "dask",
    "xarray",
    "mapping",
    "duck",
    "iterables",
)
PLUG_INS = "quantize.formats"  # the group of entry points; asked before the last of our own, which take more
LAST = ("mapping", "duck", "iterables")  # what is like a dictionary, like an array or gives some


def as_source(thing: Any, name: str = "") -> Source:
    """The source for a path, a URL or an array.

    Parameters
    ----------
    thing : path, URL, array, group or Source
        What to read. ``path::name`` is the array of that name in a file. A folder of files, a pattern such as
        ``part-*.npy``, a list of paths and one of arrays are pieces of one array, joined along the first axis.
    name : str
        Of an array, where the thing holds several.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    SourceError (a ValueError)
        If a file's format is not known, it is cut or locked, or something that it needs is not there.
    ValueError
        If it holds several arrays and none is named; if there are no values.
    TypeError
        If it is nothing that can be read, or its dtype cannot be quantized.

    Examples
    --------
    >>> import numpy as np
    >>> as_source(np.zeros((3, 4), ">f4")).dtype
    dtype('float32')
    """
    return sources_of(thing).at(name).only()


def sources_of(thing: Any) -> Arrays:
    """All arrays that a thing holds, by name: those of a group or a file, or the one that it is, under the name "".

    The files of a folder, or of a pattern, are arrays with names of their own; those of a list are pieces of one.

    Each is opened when it is asked for, so that others may have a dtype that cannot be quantized.

    Parameters
    ----------
    thing : path, URL, array, group, Source or Arrays
        As for `as_source`; arrays by name are themselves.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As for `as_source`.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> weather = zarr.create_group(zarr.storage.MemoryStore())
    >>> _ = weather.create_array("t", data=np.zeros((3, 4))), weather.create_array("wind/u", data=np.zeros(5))
    >>> {name: source.shape for name, source in sources_of(weather).items()}
    {'t': (3, 4), 'wind/u': (5,)}
    """
    if isinstance(thing, Arrays):
        return thing
    if isinstance(thing, Source):
        return Arrays(thing.label, thing)
    there, inside = located(thing)
    label = there if isinstance(there, str) else type(there).__name__
    arrays = format_of(there).open_sources(there)
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{label} was opened as a {type(arrays).__name__}, and not as a mapping of names to sources")
    if not isinstance(arrays, Arrays):
        arrays = Arrays(label, arrays[""] if set(arrays) == {""} else arrays)
    return arrays.at(inside)


def sink_of(destination: str | os.PathLike[str]) -> Sink:
    """The sink for a path, by how its name ends; a number, as in ``era5-0.25``, is no such ending.

    Raises
    ------
    ValueError
        If no format that is written has such files, naming those that there are.

    Examples
    --------
    >>> sink_of("x.npy").name, sink_of("x.zarr").name, sink_of("x").name
    ('.npy', 'Zarr', 'Zarr')
    """
    return first_of(destination, (found.sink for found in every_format()), "what is written")()


def writes_one(destination: str | os.PathLike[str]) -> bool:
    """Whether a path is, by how it ends, one that an array alone is written to, or none that anything is."""
    suffix = suffix_of_file(destination)
    one = any(found.sink is not None and suffix in found.sink.suffixes for found in every_format())
    several = (found.collection_sink for found in every_format())
    return one or not any(sink is not None and suffix in sink.suffixes for sink in several)


def collection_sink_of(destination: str | os.PathLike[str]) -> CollectionSink:
    """The sink of several arrays for a path, as `sink_of` finds that of one.

    Raises
    ------
    ValueError
        If no format that several are written in has such files, naming those that there are.

    Examples
    --------
    >>> collection_sink_of("x.safetensors").name, collection_sink_of("x.nc").name, collection_sink_of("x").name
    ('.safetensors', 'NetCDF', 'Zarr')
    """
    sinks = (found.collection_sink for found in every_format())
    return first_of(destination, sinks, "a collection that is restored")()


Kind = TypeVar("Kind", bound=type[Sink] | type[CollectionSink])


def first_of(destination: str | os.PathLike[str], sinks: Iterable[Kind | None], what: str) -> Kind:
    """The first sink with a path's suffix; those behind it are not looked at."""
    suffix, endings = suffix_of_file(destination), list[str]()
    for sink in filter(None, sinks):
        if suffix in sink.suffixes:
            return sink
        endings += sink.suffixes
    check_suffix(destination, endings, what)
    raise AssertionError("a suffix that is none of the endings is refused")


def located(thing: Any) -> tuple[Any, str]:
    """A path as str, or the files that a pattern matches, and the name after ``::``; anything else as it is.

    Raises
    ------
    FileNotFoundError, SourceError
        If there is neither a file nor a folder, or no file that matches.
    """
    if not isinstance(thing, str | os.PathLike):
        return thing, ""
    path = os.fspath(thing)
    if is_url(path):
        return path, ""
    path, inside = split(path)
    if not os.path.lexists(path) and (files := matched(path)) is not None:
        return files, inside
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.islink(path):
            raise FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which does not exist") from error
        hints = "".join(own(kind).hint(path) for kind in KINDS)
        raise FileNotFoundError(f"{path} does not exist{hints}") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SourceError(
            f"{path} is a pipe or a device, which cannot be read twice nor from its middle: save it first"
        )
    return path, inside


def split(path: str) -> tuple[str, str]:
    """A path and the name after its last ``::`` that is not in the name of a file or a folder that is there.

    >>> split("no/such.h5::group/x")
    ('no/such.h5', 'group/x')
    """
    parts = path.split("::")
    for n in range(len(parts), 1, -1):
        if os.path.lexists(there := "::".join(parts[:n])):
            return there, "::".join(parts[n:])
    return parts[0], "::".join(parts[1:])


# The formats ----------------------------------------------------------------------------------------------------------


def own(kind: str) -> Format:
    """A format of our own; its file is imported when it is first asked."""
    found: Format = import_module(f".formats.{kind}", __name__).FORMAT
    return found


def every_format() -> Iterator[Format]:
    """All formats, in the order in which they are asked."""
    yield from map(own, (kind for kind in KINDS if kind not in LAST))
    yield from plug_ins()
    yield from map(own, LAST)


def format_of(thing: Any) -> Format:
    """The first format that takes a thing.

    Raises
    ------
    SourceError, TypeError
        If none takes it, saying what it is instead, or which there are.
    """
    for found in every_format():
        if found.takes(thing):
            return found
    if isinstance(thing, str):
        refusals = (found.refusal(thing) for found in every_format())
        if refusal := next(filter(None, refusals), "") or ((said := otherwise(thing)) and f" {said}"):
            raise SourceError(f"{thing}{refusal}")
        hints = "".join(found.hint(thing) for found in every_format())
        known = enumerated([found.files for found in every_format() if found.files], "and")
        empty = "" if os.path.getsize(thing) else ". It is empty, 0 bytes"
        raise SourceError(f"{thing} has a format that is not known{hints}; known are {known}{empty}")
    known = enumerated([found.arrays for found in every_format() if found.arrays], "or")
    raise TypeError(
        f"source is a {type(thing).__name__}, but must be a path, a {known} array, a mapping of names to "
        "arrays, or have shape, dtype and __getitem__; lists are of paths or arrays, those of numbers are for "
        "quantize_to_int4"
    )


@functools.cache
def plug_ins() -> tuple[Format, ...]:
    """The formats of other packages; one that cannot be loaded is named in a warning, once, and left out."""
    found = []
    for entry in sorted(entry_points(group=PLUG_INS)):
        try:
            found.append(PlugIn(entry))
        except Exception as error:
            warn_of(entry, error)
    return tuple(found)


class PlugIn(Format):
    """A format of another package, which is held to what a format is."""

    def __init__(self, entry: EntryPoint) -> None:
        loaded = entry.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(made, Format):
            raise TypeError(f"it is a {type(made).__name__}, and not a quantize.io.format.Format")
        self.entry, self.format = entry, made
        self.files, self.arrays = made.files, made.arrays
        self.sink, self.collection_sink = made.sink, made.collection_sink

    def takes(self, thing: Any) -> bool:
        try:
            return self.format.takes(thing)
        except Exception as error:
            warn_of(self.entry, error)
            return False

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return self.format.open_sources(thing)

    def hint(self, path: str) -> str:
        return self.format.hint(path)

    def refusal(self, path: str) -> str:
        return self.format.refusal(path)


def warn_of(entry: EntryPoint, error: Exception) -> None:
    package = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
    warnings.warn(
        f"the format {entry.name!r} ({entry.value}){package} is left out: {type(error).__name__}: {error}",
        RuntimeWarning,
        stacklevel=2,
    )


def enumerated(words: Sequence[str], last: str) -> str:
    """Words as a sentence has them.

    >>> enumerated([".npy", "Zarr", "HDF5"], "and")
    '.npy, Zarr and HDF5'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
