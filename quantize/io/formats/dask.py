"""Dask arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...exceptions import SourceError
from ...numerics.dtypes import TEXT
from ...numerics.grid import Batches, Region, Shape
from ..arrays import Arrays
from ..chunked import read_along
from ..format import Format, library
from ..gate import accepted
from ..raw import RawArray, kept_dtype
from ..source import Source


@dataclass(frozen=True)
class BlockGate:
    """The gate for each block of a dask array, as a step of its graph.

    It stands before blocks are cut and put together: there those of wrong lengths could make up a right one, and a
    dtype turn into another.
    """

    label: str
    dtype: np.dtype[Any]
    starts: tuple[range | tuple[int, ...], ...]
    mark: float | int | None
    sole: bool

    def __call__(self, block: Any, block_id: Any = None) -> np.ndarray:
        region = tuple(part_of(starts, number) for starts, number in zip(self.starts, block_id, strict=True))
        label = f"block {tuple(map(int, block_id))} of the {self.label}"
        return accepted(block, region, label, self.dtype, self.mark, self.sole)


def starts_of(lengths: tuple[int, ...]) -> range | tuple[int, ...]:
    """Where the blocks along an axis begin, and where the last ends; a range, if all but the last are of one length.

    >>> starts_of((4, 4, 3)), starts_of((1, 9, 3))
    (range(0, 11, 4), (0, 1, 10, 13))
    """
    if lengths[0] and set(lengths[:-1]) <= {lengths[0]} and 0 < lengths[-1] <= lengths[0]:
        return range(0, sum(lengths), lengths[0])
    return (0, *accumulate(lengths))


def part_of(starts: range | tuple[int, ...], number: int) -> slice:
    """The indices of one block along an axis.

    >>> part_of(range(0, 11, 4), 2), part_of((0, 1, 10, 13), 1)
    (slice(8, 11, None), slice(1, 10, None))
    """
    if isinstance(starts, range):
        return slice(starts[number], min(starts[number] + starts.step, starts.stop))
    return slice(starts[number], starts[number + 1])


def check_sizes(array: Any, label: str) -> None:
    """Refuse an array of which the lengths are not known."""
    if any(math.isnan(n) for n in array.shape) or any(math.isnan(n) for lengths in array.chunks for n in lengths):
        raise SourceError(
            f"{label} has chunks of unknown size, so its chunks in the store cannot be known either: call "
            "array.compute_chunk_sizes() first"
        )


class DaskSource(Source):
    """A dask array. The pipeline computes its blocks with the rest of its graph; `read` is for looking at a part."""

    shared = True
    gated = True
    sampled = False
    notes = ("memory is an estimate for a dask source: what its graph holds is its own",)

    def __init__(
        self,
        array: Any,
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
    ) -> None:
        label = "dask array"
        check_sizes(array, label)
        super().__init__(label, array.shape, array.dtype, attributes, dimension_names)
        self.array = array
        self.chunks = tuple(max(lengths) for lengths in array.chunks)
        self.take_mark(array._meta)

    @functools.cached_property
    def checked(self) -> Any:
        """The array, each of whose blocks has passed the gate."""
        starts = tuple(map(starts_of, self.array.chunks))
        gate = BlockGate(self.label, self.dtype, starts, self.mark, self.sole)
        return self.array.map_blocks(gate, dtype=self.dtype, meta=np.empty((0,) * len(self.shape), self.dtype))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "checked"}

    def load(self, region: Region) -> Any:
        return self.checked[region].compute()

    def graph(self, region: Region) -> Any:
        return self.checked[region]

    def pieces(self, region: Region) -> Iterator[Region]:
        yield region

    def bytes_read(self, units: Batches) -> int:
        """What the blocks hold that are computed for each unit."""
        return self.dtype.itemsize * math.prod(map(read_along, self.array.chunks, units.grid.box))

    def memory(self, unit: Shape) -> int:
        """An estimate: eight blocks for the steps of the graph, and a region put together while another waits."""
        assert self.chunks is not None
        return (8 * math.prod(self.chunks) + 2 * math.prod(unit)) * self.dtype.itemsize

    def digest(self) -> str | None:
        return None


@dataclass(frozen=True)
class Values:
    """The values of a region of a dask array, of any dtype. It runs in this thread, which may be a cluster's."""

    array: Any

    def __call__(self, region: Region) -> Any:
        return self.array[region].compute(scheduler="synchronous")


class DaskArrays(Arrays):
    """A dask array."""

    def opened(self, array: Any) -> Source:
        return DaskSource(array)

    def opened_raw(self, array: Any) -> RawArray:
        check_sizes(array, self.label)
        chunks = tuple(max(lengths) for lengths in array.chunks)
        dtype = TEXT if array.dtype.kind == "O" else kept_dtype(array.dtype, self.label)
        return RawArray(self.label, array.shape, dtype, Values(array), chunks=chunks, shared=True)


class Dask(Format):
    arrays = "dask"

    def takes(self, thing: Any) -> bool:
        return library(thing) == "dask"

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return DaskArrays("dask array", thing)


FORMAT = Dask()
