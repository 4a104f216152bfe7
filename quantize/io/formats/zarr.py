"""Zarr arrays of versions 2 and 3, read, and of version 3, written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...numerics.grid import Region
from ...store.retrying import retried, translated
from ..arrays import Arrays
from ..attributes import with_zarr_fill, zarr_attributes
from ..chunked import ChunkedSource
from ..format import Format, is_url, library, suffix_of
from ..sink import Outline, Put, Sink
from ..source import Source


class ZarrSource(ChunkedSource):
    """A Zarr array, v2 or v3."""

    def __init__(self, array: Any) -> None:
        from ...store.keys import Keys

        keys = Keys(array.store)
        attributes = dict(array.attrs)
        label = "/".join(filter(None, [keys.label, array.path]))
        if "int4" in attributes:
            raise ValueError(f"{label} is int4 already: read it with open_int4, or turn it back with restore")
        fill, version = array.metadata.fill_value, array.metadata.zarr_format
        attributes, notes = with_zarr_fill(attributes, fill, version)
        self.notes = (*self.notes, *notes)
        names = getattr(array.metadata, "dimension_names", None)
        if names is None and isinstance(attributes.get("_ARRAY_DIMENSIONS"), list):
            names = attributes.pop("_ARRAY_DIMENSIONS")
        super().__init__(label, array, attributes, tuple(names) if names else None)
        self.shared = keys.shared

    @translated
    def fetch(self, region: Region, out: np.ndarray) -> None:
        from zarr.core.buffer import default_buffer_prototype

        self.array.get_basic_selection(region, out=default_buffer_prototype().nd_buffer.from_numpy_array(out))


class Nodes(Arrays):
    """The arrays of a Zarr hierarchy."""

    def listed(self) -> Mapping[str, Any]:
        return {name: member for name, member in self.node.members(max_depth=None) if hasattr(member, "dtype")}

    def opened(self, array: Any) -> Source:
        return ZarrSource(array)


def inside_of_store(path: Path) -> str:
    """What the Zarr group that a missing path would lie in holds."""
    for parent in path.parents:
        if (parent / "zarr.json").exists() or (parent / ".zgroup").exists():
            import zarr

            group = zarr.open(parent, mode="r")
            names = [name for name, _ in group.members(max_depth=None)] if hasattr(group, "members") else []
            return f"; {parent} holds {', '.join(sorted(names)) or 'nothing'}"
    return ""


class ZarrSink(Sink):
    """A Zarr array of version 3, in the chunks and shards of the outline. Zeros are written too."""

    suffixes = (".zarr", "")
    name = "Zarr"

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

        def put(region: Region, values: np.ndarray) -> None:
            floats[region] = values

        yield put


class Zarr(Format):
    files = arrays = "Zarr"
    sink = ZarrSink

    def takes(self, thing: Any) -> bool:
        if isinstance(thing, str):
            return is_url(thing) or suffix_of(thing) == ".zip" or os.path.isdir(thing)
        return library(thing) == "zarr" and (hasattr(thing, "dtype") or hasattr(thing, "members"))

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if not isinstance(thing, str):
            label = str(thing.store_path)
            return Nodes(label, thing, f"{label}/")
        return Nodes(thing, opened(thing), f"{thing}/")

    def hint(self, path: str) -> str:
        return "" if os.path.exists(path) else inside_of_store(Path(path))


def opened(path: str) -> Any:
    """The array or group at a path or a URL."""
    import zarr

    if is_url(path):
        from ...store.keys import Keys

        try:
            return retried(zarr.open)(Keys.of(path).store, mode="r")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} holds no Zarr array or group") from error
    try:
        return zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no Zarr array or group ({error})") from error


FORMAT = Zarr()
