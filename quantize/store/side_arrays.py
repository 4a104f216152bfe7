"""Arrays that lie beside a variable: what pass 1 found, while a job runs, and the scales of an axis."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..numerics.grid import Grid, Shape
from .codec import ChunkCodec, Compressor
from .keys import Keys, chunk_key, present
from .layout import Layout
from .zarr_json import array_document, codecs_document, loaded, node_type, same, serialized

BELONGS = b'"belongs_to"'  # in the metadata of such arrays
ENDINGS = ("_scan", "_histogram", "_scale", "_zero_point")  # behind a variable's name: arrays that belong to it


def names_beside(name: str) -> tuple[str, ...]:
    """Names of the arrays that belong to a variable: what pass 1 found, its histograms, the scales, the zero points."""
    return tuple(f"{name}{ending}" for ending in ENDINGS)


def owns(keys: Keys, name: str, unsaid: bool = False) -> bool:
    """Whether an array in the group was made for a variable; `unsaid` where it has no metadata.

    They say so, or they are none of any array: then a store did not take or give them whole.
    """
    try:
        found = keys.get(f"{name}/zarr.json")
    except StoreError:
        return False
    return unsaid if found is None else BELONGS in found or node_type(found) is None


@dataclass(frozen=True)
class SideArray:
    """One such array, of one axis: with more, each chunk would have a folder. It is checked as the variable is."""

    keys: Keys
    owner: str
    name: str
    shape: Shape
    chunk: Shape
    dtype: np.dtype[Any]
    compressor: Compressor
    dimension: str | None = None

    @functools.cached_property
    def codec(self) -> ChunkCodec:
        return ChunkCodec((math.prod(self.chunk) * self.dtype.itemsize,), self.compressor)

    @functools.cached_property
    def grid(self) -> Grid:
        return Grid(self.shape, self.chunk)

    @property
    def metadata_key(self) -> str:
        return f"{self.name}/zarr.json"

    def key(self, number: int) -> str:
        return chunk_key(self.name, self.grid, number)

    def document(self) -> bytes:
        """Its ``zarr.json``."""
        document = array_document(
            self.shape,
            str(self.dtype),
            self.chunk,
            codecs_document(self.compressor, wide=True),
            {"int4": {"belongs_to": self.owner}},
            None if self.dimension is None else (self.dimension,),
        )
        return serialized(document)

    def check_document(self, data: bytes) -> None:
        """Refuse, with a ValueError, what does not say the same as `document`."""
        if not same(loaded(data), json.loads(self.document())):
            raise ValueError(f"it is not what belongs to {self.owner}")

    def create(self) -> None:
        self.keys.set_new(self.metadata_key, self.document())

    def set(self, number: int, values: np.ndarray) -> np.ndarray:
        """Write a chunk, of which only the first values may be there; what was written, in a buffer used again."""
        whole = values.astype(self.dtype.newbyteorder("<"), order="C", copy=False)
        if values.shape != self.chunk:
            whole = np.zeros(self.chunk, self.dtype.newbyteorder("<"))
            whole[tuple(slice(0, n) for n in values.shape)] = values
        data = self.codec.encode(whole.reshape(-1).view(np.uint8))
        self.keys.set(self.key(number), data)
        return data

    def get(self, number: int) -> np.ndarray | None:
        """A whole chunk, None where there is none; a ValueError says what is wrong with one that is damaged."""
        data = self.keys.view(self.key(number), most=self.codec.most)
        if data is None:
            return None
        values = self.codec.decode(data).view(self.dtype.newbyteorder("<")).reshape(self.chunk)
        return values.astype(self.dtype, copy=False)

    def present(self) -> np.ndarray:
        return present(self.keys, self.name, self.grid)


@dataclass(frozen=True)
class ScaleArrays:
    """The scale and zero point of each index of an axis: two arrays, chunked as the units are along that axis."""

    keys: Keys
    owner: str
    layout: Layout
    axis: int
    dimension: str | None = None

    @functools.cached_property
    def arrays(self) -> tuple[SideArray, SideArray]:
        n, length = self.layout.shape[self.axis], self.layout.unit[self.axis]
        shape, chunk = (n,), (min(length, n),)
        kinds = (np.dtype(np.float64), np.dtype(np.int64))
        scale, zero_point = (
            SideArray(self.keys, self.owner, name, shape, chunk, kind, self.layout.compressor, self.dimension)
            for name, kind in zip(names_beside(self.owner)[2:], kinds, strict=True)
        )
        return scale, zero_point

    @property
    def blocks(self) -> int:
        return self.arrays[0].grid.count

    def create(self) -> None:
        for array in self.arrays:
            array.create()

    def set(self, block: int, scales: np.ndarray, zero_points: np.ndarray) -> None:
        for array, values in zip(self.arrays, (scales, zero_points), strict=True):
            array.set(block, values)

    def get(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of the indices of one block.

        Raises
        ------
        DamagedChunkError
            If one of the two chunks is missing or holds other bytes than were written.
        """
        (region,) = self.arrays[0].grid.region(block)
        found = []
        for array in self.arrays:
            try:
                values = array.get(block)
                if values is None:
                    raise ValueError("it is missing")
                found.append(values[: region.stop - region.start])
                if not (np.isfinite(found[0]) & (found[0] > 0)).all():
                    raise ValueError("a scale in it is not finite and above 0")
            except ValueError as error:
                raise DamagedChunkError.at(self.keys.label, array.key(block), error) from error
        return found[0], found[1]
