"""Zarr arrays of versions 2 and 3, read, and of version 3, written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...numerics.grid import Region, Shape
from ...store.retrying import retried, translated
from ..chunked import ChunkedSource
from ..source import Source, only


class ZarrSource(ChunkedSource):
    """A Zarr array, v2 or v3."""

    def __init__(self, array: Any) -> None:
        from ...store.keys import Keys

        keys = Keys(array.store)
        attributes = dict(array.attrs)
        label = "/".join(filter(None, [keys.label, array.path]))
        if "int4" in attributes:
            raise ValueError(f"{label} is int4 already: read it with open_int4, or turn it back with restore")
        names = getattr(array.metadata, "dimension_names", None)
        if names is None and isinstance(attributes.get("_ARRAY_DIMENSIONS"), list):
            names = attributes.pop("_ARRAY_DIMENSIONS")
        super().__init__(label, array, attributes, tuple(names) if names else None)
        self.shared = keys.shared

    @translated
    def fetch(self, region: Region, out: np.ndarray) -> None:
        from zarr.core.buffer import default_buffer_prototype

        self.array.get_basic_selection(region, out=default_buffer_prototype().nd_buffer.from_numpy_array(out))


def url_source(url: str) -> Source:
    import zarr

    from ...store.keys import Keys

    try:
        opened = retried(zarr.open)(Keys.of(url).store, mode="r")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} holds no Zarr array or group") from error
    return zarr_source(opened, url)


def zarr_source(opened: Any, path: str) -> Source:
    if hasattr(opened, "members"):
        arrays = {name: member for name, member in opened.members(max_depth=None) if hasattr(member, "dtype")}
        return ZarrSource(only(arrays, path, "/"))
    return ZarrSource(opened)


def inside_of_store(path: Path) -> str:
    """What the Zarr group that a missing path would lie in holds."""
    for parent in path.parents:
        if (parent / "zarr.json").exists() or (parent / ".zgroup").exists():
            import zarr

            group = zarr.open(parent, mode="r")
            names = [name for name, _ in group.members(max_depth=None)] if hasattr(group, "members") else []
            return f"; {parent} holds {', '.join(sorted(names)) or 'nothing'}"
    return ""


@contextmanager
def zarr_sink(
    path: Path,
    shape: Shape,
    dtype: np.dtype[Any],
    chunks: Shape,
    shards: Shape | None,
    attributes: dict[str, Any],
    dimension_names: tuple[str | None, ...] | None,
) -> Iterator[Callable[..., None]]:
    """Writes regions, which are whole chunks or shards, into a Zarr array."""
    import zarr

    floats = zarr.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        attributes=attributes,
        dimension_names=dimension_names,
        config={"write_empty_chunks": True},
        zarr_format=3,
    )

    def put(region: Any, values: np.ndarray) -> None:
        floats[region] = values

    yield put
