"""Zarr arrays of versions 2 and 3, read, and of version 3, written."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...exceptions import QuantizeError, SourceError
from ...numerics.grid import Grid, Region, within
from ...store.retrying import is_temporary, retried, translated
from ..arrays import Arrays
from ..attributes import as_number, plain, strict, with_zarr_fill, zarr_attributes
from ..chunked import ChunkedSource, chunks_of
from ..content import DOCUMENTS, holds_zarr, is_zip, reason, roots_in_zip, zarr_below
from ..format import Format, is_url, library
from ..raw import LEAVE_OUT, RawArray, kept_dtype
from ..sink import CollectionSink, Contents, Outline, Put, Sink
from ..source import Source

LISTED = 100_000  # chunks: of more, those that are there are listed in folders alone
TWO_BYTES = np.dtype("V2")  # what bfloat16 is called where there is no other name for it


class ZarrSource(ChunkedSource):
    """A Zarr array, v2 or v3."""

    arenas = 2  # Zarr reads and decodes in threads of its own, up to two for each that waits: one ends, one begins

    def __init__(self, array: Any) -> None:
        from ...store.keys import Keys

        keys = Keys(array.store)
        label, attributes = label_of(array, keys), attributes_of(array, keys)
        fill, version = array.metadata.fill_value, array.metadata.zarr_format
        attributes, notes = with_zarr_fill(attributes, fill, version)
        self.notes = (*self.notes, *notes)
        super().__init__(label, array, attributes, names_of(array, attributes))
        self.shared = keys.shared
        self.notes = (*self.notes, *absent_chunks(array, keys))

    def fetch(self, region: Region, out: np.ndarray) -> None:
        with reading(self.label, region):
            self._get(region, out)

    @translated
    def _get(self, region: Region, out: np.ndarray) -> None:
        from zarr.core.buffer import default_buffer_prototype

        self.array.get_basic_selection(region, out=default_buffer_prototype().nd_buffer.from_numpy_array(out))


@dataclass(frozen=True)
class Values:
    """The values of a region of a Zarr array, of any dtype; absent chunks are the fill value."""

    array: Any
    label: str

    def __call__(self, region: Region) -> Any:
        with reading(self.label, region):
            return self._get(region)

    @translated
    def _get(self, region: Region) -> Any:
        return self.array.get_basic_selection(region)


@contextmanager
def reading(label: str, region: Region) -> Iterator[None]:
    """Errors of Zarr that name what is read, and where; those that may pass stay errors of the system."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = label
        raise
    except Exception as error:
        if passes(error):
            raise
        raise SourceError(
            f"{label} cannot be read at {shown(region)}, where a chunk is damaged or cut ({reason(error)}): "
            "copy or download it again"
        ) from error


# What an array says of itself -----------------------------------------------------------------------------------------


def label_of(array: Any, keys: Any) -> str:
    return str(keys.inner.join(filter(None, [keys.label, array.path])))


def own_attributes(node: Any) -> dict[str, Any]:
    """The attributes of an array or a group, but those that the library of netCDF writes for itself."""
    return {name: value for name, value in node.attrs.items() if not name.lower().startswith("_nczarr")}


def attributes_of(array: Any, keys: Any) -> dict[str, Any]:
    """The attributes of an array.

    Raises
    ------
    SourceError
        If it is one of ours.
    """
    attributes = own_attributes(array)
    if "int4" in attributes:
        raise SourceError(
            f"{label_of(array, keys)} is int4 already: read it with open_int4, or turn it back with restore"
        )
    return attributes


def names_of(array: Any, attributes: dict[str, Any]) -> tuple[str | None, ...] | None:
    """The names of the dimensions; those that xarray keeps as an attribute are taken out of the attributes."""
    names = getattr(array.metadata, "dimension_names", None)
    if names is None and isinstance(attributes.get("_ARRAY_DIMENSIONS"), list):
        names = attributes.pop("_ARRAY_DIMENSIONS")
    return tuple(names) if names else None


def raw_array(array: Any) -> RawArray:
    """An array as it is stored, with the ``_FillValue`` that xarray finds in it.

    Raises
    ------
    SourceError
        If it is one of ours, or of a dtype that cannot be kept.
    """
    from ...store.keys import Keys

    keys = Keys(array.store)
    label, attributes = label_of(array, keys), attributes_of(array, keys)
    by_xarray, fill = "_ARRAY_DIMENSIONS" in attributes, array.metadata.fill_value
    if array.metadata.zarr_format == 2 and by_xarray and fill is not None:
        attributes["_FillValue"] = plain(fill)
    elif array.dtype.kind == "f" and isinstance(said := attributes.get("_FillValue"), str):
        number = as_number(said)
        attributes["_FillValue"] = said if number is None else number
    names, dtype = names_of(array, attributes), kept_dtype(array.dtype, label)
    return RawArray(label, array.shape, dtype, Values(array, label), attributes, names, chunks_of(array), keys.shared)


# Groups ---------------------------------------------------------------------------------------------------------------


class Nodes(Arrays):
    """The arrays of a Zarr hierarchy."""

    nested = True

    @functools.cached_property
    def _members(self) -> Mapping[str, Any]:
        """All arrays and groups."""
        self.check_documents("")
        try:
            return dict(self.node.members(max_depth=None))
        except Exception as error:
            if passes(error):
                raise
            return one_by_one(self.node)

    def listed(self) -> Mapping[str, Any]:
        return {name: member for name, member in self._members.items() if not is_group(member)}

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        if self.is_array:
            return super().attributes
        groups = {"": self.node, **{name: member for name, member in self._members.items() if is_group(member)}}
        return {name: own_attributes(group) for name, group in groups.items()}

    def at(self, name: str) -> Arrays:
        name = name.strip("/")
        if not name or self.is_array:
            return super().at(name)
        if self.node.path and name not in self:  # in an archive names may begin with the folder of its group
            name = name.removeprefix(f"{self.node.path}/")
        self.check_documents(name)
        try:
            found = of_every_grid(lambda: self.node[name])
        except KeyError:
            return super().at(name)  # there is nothing, which it says
        except Exception as error:
            if passes(error):
                raise
            raise SourceError(f"{self.prefix}{name} {trouble(error)}") from error
        return Nodes(self.label, found, f"{self.prefix}{name}/")

    def check_documents(self, name: str) -> None:
        """Refuse a pipe or a device in the place of metadata in a folder, for which Zarr would wait for ever."""
        from ...store.keys import Keys

        keys = Keys(self.node.store)
        if not keys.synchronous:
            return
        waiting = [Path(keys.folder, self.node.path, name)]  # type: ignore[attr-defined]
        while waiting:
            folder, inside, documented = waiting.pop(), [], False
            with suppress(OSError), os.scandir(folder) as entries:  # Zarr says more of what cannot be listed
                for entry in entries:
                    if entry.name in DOCUMENTS:
                        documented = True
                        if not (entry.is_file() or entry.is_dir() or entry.is_symlink()):
                            raise SourceError(f"{entry.path} is a pipe or a device in the place of a file")
                    elif entry.is_dir():
                        inside.append(Path(entry.path))
            if documented:
                waiting += inside

    def opened_raw(self, array: Any) -> RawArray:
        if isinstance(array, Unopened):
            raise SourceError(f"{array.why}; or {LEAVE_OUT}") from array.error
        return raw_array(array)

    def opened(self, array: Any) -> Source:
        if isinstance(array, Unopened):
            raise SourceError(array.why) from array.error
        if array.dtype == TWO_BYTES:
            raise TypeError(
                f"{array.store_path} has two bytes of no known type as its data type. That is most often bfloat16: in "
                "Python pass dask.array.from_zarr(...).view(ml_dtypes.bfloat16) of it"
            )
        return ZarrSource(array)

    def described(self, name: str) -> str:
        return f"{name} (not readable)" if isinstance(self._arrays[name], Unopened) else super().described(name)


@dataclass(frozen=True)
class Unopened:
    """What stands in a listing for an array or a group that Zarr does not open."""

    error: Exception
    why: str


def is_group(member: Any) -> bool:
    return not hasattr(member, "dtype") and not isinstance(member, Unopened)


def one_by_one(group: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays and groups of a hierarchy, one by one: what is `Unopened` hides the others from a whole listing."""
    from zarr.core.sync import sync

    async def names() -> list[str]:
        return sorted({name.rstrip("/") async for name in group.store.list_dir(group.path)})

    found: dict[str, Any] = {}
    for name in sync(names()):
        try:
            member = of_every_grid(functools.partial(group.__getitem__, name))
        except KeyError:
            continue  # no array and no group
        except Exception as error:
            if passes(error):
                raise
            found[f"{prefix}{name}"] = Unopened(error, f"{group.store_path}/{name} {trouble(error)}")
            continue
        found[f"{prefix}{name}"] = member
        if is_group(member):
            found |= one_by_one(member, f"{prefix}{name}/")
    return found


def of_every_grid(opening: Callable[[], Any]) -> Any:
    """What Zarr opens, with chunks of several lengths along an axis too, which some versions open only if asked to."""
    try:
        return opening()
    except Exception as error:
        if type(error).__name__ != "RectilinearChunksDisabledError":
            raise
    import zarr

    with zarr.config.set({"array.rectilinear_chunks": True}):
        return opening()


# What goes wrong ------------------------------------------------------------------------------------------------------


def passes(error: Exception) -> bool:
    """Whether an error is to be left alone: ours, of a library that is missing, or one that may not come the next time.

    Whatever else Zarr and the libraries below it raise on the way to values is of what they read.
    """
    return isinstance(error, QuantizeError | ImportError | MemoryError) or is_temporary(error)


def trouble(error: Exception) -> str:
    """Why Zarr does not open an array or a group, after its name."""
    from zarr import __version__

    said = reason(error)
    if "bfloat16" in said:
        return (
            f"holds bfloat16, which Zarr {__version__} does not read: in Python pass the array that tensorstore.open "
            "gives of it"
        )
    if re.search("No Zarr data type|r16", said):
        return f"has a data type that Zarr {__version__} does not read ({said}); a newer Zarr may"
    if re.search("(?i)codec", said):
        return f"needs a codec that is not installed ({said}): install the package that has it"
    if isinstance(error, OSError):
        return f"cannot be read: {said}"
    if isinstance(error, UnicodeDecodeError) or type(error).__name__ == "JSONDecodeError":
        return f"has metadata that are damaged or cut ({said}): copy or download them again"
    return f"cannot be opened by Zarr {__version__} ({said}): its metadata are damaged, or for a newer Zarr"


def shown(region: Region) -> str:
    return f"[{', '.join(f'{part.start}:{part.stop}' for part in region)}]"


# What is absent -------------------------------------------------------------------------------------------------------


def absent_chunks(array: Any, keys: Any) -> tuple[str, ...]:
    """What a plan must say of an array of which chunks, or shards, are absent: how many, and what they stand for."""
    try:
        lengths = array.shards or array.chunks
    except NotImplementedError:  # they differ along an axis
        return ()
    if not array.shape or 0 in array.shape or not keys.lists:
        return ()
    grid = Grid(array.shape, lengths)
    noun = "shards" if array.shards else "chunks"
    if grid.count > LISTED and not keys.nearest:
        return (f"whether all of its {grid.count:,} {noun} are there was not looked at: too many to list",)
    prefix = f"{array.path}/" if array.path else ""
    first = array.metadata.encode_chunk_key((0,) * len(array.shape))  # of that form all keys are
    place = "".join("(0|[1-9][0-9]*)" if letter == "0" else re.escape(letter) for letter in first)
    pattern = re.compile(re.escape(prefix) + place)
    there, listed = 0, False
    for key in every_key(keys, prefix):
        listed = True
        if match := pattern.fullmatch(key):
            there += all(int(along) < n for along, n in zip(match.groups(), grid.counts, strict=True))
    if there == grid.count or not listed:  # it is none that lists, where not even the metadata are seen
        return ()
    return (
        f"{grid.count - there:,} of {grid.count:,} {noun} are absent, and stand for the fill value {array.fill_value}",
    )


def every_key(keys: Any, prefix: str) -> Iterable[str]:
    """All keys under a prefix.

    Raises
    ------
    SourceError
        If one in a folder is a pipe or a device, for which a reader would wait for ever, or cannot be looked at.
    """
    if not keys.synchronous:
        found: list[str] = []
        keys.each(prefix, found.append)
        return found
    return files_below(str(keys.folder), prefix.rstrip("/"))


def files_below(folder: str, prefix: str) -> Iterator[str]:
    """The files in a folder under a prefix, as keys; through the system alone, as there may be very many."""
    waiting = [prefix]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inside)) as entries:
                for entry in entries:
                    key = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir():
                        waiting.append(key)
                    elif entry.is_file():
                        yield key
                    elif entry.is_symlink():
                        raise SourceError(
                            f"{entry.path} is a link that leads nowhere; Zarr would give the fill value for it"
                        )
                    else:
                        raise SourceError(f"{entry.path} is a pipe or a device in the place of a file")
        except OSError as error:
            raise SourceError(f"{os.path.join(folder, inside)} cannot be listed: {reason(error)}") from error


# Files ----------------------------------------------------------------------------------------------------------------


def inside_of_store(path: Path) -> str:
    """What the Zarr group that a missing path would lie in holds."""
    for parent in path.parents:
        if (parent / "zarr.json").exists() or (parent / ".zgroup").exists():
            import zarr

            try:
                group = zarr.open(parent, mode="r")
                names = [name for name, _ in group.members(max_depth=None)] if hasattr(group, "members") else []
            except Exception:  # of another place than the one that was named
                return ""
            return f"; {parent} holds {', '.join(sorted(names)) or 'nothing'}"
        if parent.is_file():
            return f"; {parent} is a file: name what is in it as {parent}::{path.relative_to(parent)}"
    return ""


class ZarrSink(Sink):
    """A Zarr array of version 3, in the chunks and shards of the outline. Zeros are written too."""

    suffixes = (".zarr", "")
    name = "Zarr"
    shared = True

    def check(self, outline: Outline) -> None:
        super().check(outline)
        if outline.chunks is None:
            raise ValueError("a Zarr array has chunks, and the outline says none")

    @contextmanager
    def open(self, path: str | os.PathLike[str], outline: Outline) -> Iterator[Put]:
        import zarr

        assert outline.chunks is not None
        shape, chunks, shards = outline.shape, outline.chunks, outline.shards
        floats = zarr.create_array(
            os.fspath(path),
            shape=shape,
            dtype=outline.dtype,
            chunks=chunks if shards else tuple(map(min, chunks, shape)),
            shards=shards,
            attributes=zarr_attributes(outline.attributes, outline.dtype),
            dimension_names=outline.dimension_names,
            config={"write_empty_chunks": True},
            zarr_format=3,
        )

        yield functools.partial(put, floats, os.fspath(path))


class ZarrGroupSink(CollectionSink):
    """A Zarr group of version 3, with consolidated metadata. Every chunk is written."""

    suffixes = (".zarr", "")
    name = "Zarr"

    def check(self, contents: Contents) -> None:
        for path in (*contents.arrays, *contents.groups):
            for part in path:
                if "/" in part or not part.strip(".") or part.startswith("__") or part in DOCUMENTS:
                    raise ValueError(
                        f"{'/'.join(path)} cannot be written to a Zarr group, where nothing may be called {part!r}: "
                        "restore it alone, or to a .safetensors file"
                    )

    @contextmanager
    def open(self, path: str | os.PathLike[str], contents: Contents) -> Iterator[Callable[[tuple[str, ...]], Put]]:
        import zarr

        from ...store.keys import Keys
        from ...store.plain_arrays import PlainArray
        from ...store.zarr_json import serialized

        os.mkdir(path)
        keys = Keys.of(path)
        for group in contents.all_groups:
            attributes = strict(dict(contents.groups.get(group, {})))
            document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            keys.set("/".join([*group, "zarr.json"]), serialized(document))
        arrays = {}
        for place, outline in contents.arrays.items():
            box = outline.shards or outline.chunks
            assert box is not None
            chunk = tuple(max(min(length, n), 1) for length, n in zip(box, outline.shape, strict=True))
            attributes = zarr_attributes(outline.attributes, outline.dtype)
            arrays[place] = PlainArray(
                keys, "/".join(place), outline.shape, outline.dtype, chunk, attributes, outline.dimension_names
            )
            arrays[place].create()

        def putting(place: tuple[str, ...]) -> Put:
            plain = arrays[place]

            def put(region: Region, values: np.ndarray) -> None:
                for number, shared in plain.grid.touched(region):
                    part: tuple[Any, ...] = (*within(shared, region), ...)
                    plain.write(number, values[part])

            return put

        yield putting
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Zarr's, that its specification does not have them yet
            zarr.consolidate_metadata(keys.store)


def put(floats: Any, folder: str, region: Region, values: np.ndarray) -> None:
    """Write a region of an array, unless that was removed meanwhile: its folder would come back, and goes again."""
    document = os.path.join(folder, "zarr.json")
    try:
        if os.path.exists(document):
            floats[region] = values
    finally:
        if gone := not os.path.exists(document):
            shutil.rmtree(folder, ignore_errors=True)
    if gone:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), document)


class Zarr(Format):
    files = arrays = "Zarr"
    suffixes = (".zarr", ".zip")
    sink = ZarrSink
    collection_sink = ZarrGroupSink

    def takes(self, thing: Any) -> bool:
        if isinstance(thing, str):
            return is_url(thing) or (bool(roots_in_zip(thing)) if is_zip(thing) else holds_zarr(thing))
        return library(thing) == "zarr" and any(hasattr(thing, name) for name in ("dtype", "members", "list_prefix"))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if not isinstance(thing, str) and not hasattr(thing, "list_prefix"):
            label = str(thing.store_path)
            return Nodes(label, thing, f"{label}/")
        label = str(thing)
        return Nodes(label, opened(thing, label), f"{label}::" if os.path.isfile(label) else f"{label}/")

    def hint(self, path: str) -> str:
        return "" if os.path.exists(path) else inside_of_store(Path(path))

    def refusal(self, path: str) -> str:
        if not os.path.isdir(path):
            what = " is an archive without a Zarr array or group in it" if is_zip(path) else ""
            return what or super().refusal(path)
        below = ", ".join(zarr_below(path))
        there = f"; such are in it: {below}" if below else ""
        return f" is no Zarr array or group: it has neither {', '.join(DOCUMENTS[:-1])} nor {DOCUMENTS[-1]}{there}"


def opened(thing: Any, label: str) -> Any:
    """The array or group at a path or a URL, or at the root of a store."""
    import zarr

    from ...store.keys import Keys

    inside = roots_in_zip(thing) if isinstance(thing, str) and is_zip(thing) else ("",)
    if len(inside) > 1:
        raise SourceError(
            f"{label} is an archive of {len(inside)} Zarr arrays or groups that lie in no common one: "
            f"{', '.join(inside[:5])}; unpack it, and pass the path of one"
        )
    try:
        store = Keys.of(thing).store
        return of_every_grid(lambda: retried(zarr.open)(store, path=inside[0], mode="r"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{label} holds no Zarr array or group") from error
    except Exception as error:
        if passes(error):
            raise
        raise SourceError(f"{label} {trouble(error)}") from error


FORMAT = Zarr()
