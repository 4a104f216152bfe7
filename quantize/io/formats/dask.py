"""Dask arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...numerics.grid import Region, Shape
from ..format import Format, library
from ..source import Source


class DaskSource(Source):
    """A dask array. The pipeline computes its blocks with the rest of its graph; `read` is for looking at a part."""

    shared = True
    sampled = False
    notes = ("memory is an estimate for a dask source: what its graph holds is its own",)

    def __init__(
        self,
        array: Any,
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
    ) -> None:
        label = "dask array"
        if any(math.isnan(n) for n in array.shape) or any(math.isnan(n) for lengths in array.chunks for n in lengths):
            raise ValueError(
                f"{label} has chunks of unknown size, so its chunks in the store cannot be known either: call "
                "array.compute_chunk_sizes() first"
            )
        super().__init__(label, array.shape, array.dtype, attributes, dimension_names)
        self.array = array
        self.chunks = tuple(max(lengths) for lengths in array.chunks)

    def read(self, region: Region) -> np.ndarray:
        return np.asarray(self.array[region].compute())

    def graph(self, region: Region) -> Any:
        return self.array[region]

    def pieces(self, region: Region) -> Iterator[Region]:
        yield region

    def memory(self, unit: Shape) -> int:
        """An estimate: eight blocks for the steps of the graph, and a region put together while another waits."""
        assert self.chunks is not None
        return (8 * math.prod(self.chunks) + 2 * math.prod(unit)) * self.dtype.itemsize

    def digest(self) -> str | None:
        return None


class Dask(Format):
    arrays = "dask"

    def takes(self, thing: Any) -> bool:
        return library(thing) == "dask"

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return {"": DaskSource(thing)}


FORMAT = Dask()
