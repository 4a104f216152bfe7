"""Arrays of xarray's that hold a dask array; others are read as any library's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..attributes import decoded_by_xarray, plain
from ..format import Format, library
from ..source import Source
from .dask import DaskSource


class Xarray(Format):
    def takes(self, thing: Any) -> bool:
        return library(thing) == "xarray" and hasattr(thing, "variable") and thing.chunks is not None

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        attributes = decoded_by_xarray({key: plain(value) for key, value in thing.attrs.items()}, thing.encoding)
        return {"": DaskSource(thing.data, attributes, tuple(map(str, thing.dims)))}


FORMAT = Xarray()
