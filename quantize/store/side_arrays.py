"""Arrays that lie beside a variable: what pass 1 found, while a job runs, and the scales of an axis."""

from __future__ import annotations

import functools
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..numerics.granularity import Granularity
from ..numerics.grid import Grid, Region, Shape, shape_of, within
from ..numerics.scales import Scale, Scales
from .codec import ChunkCodec, Compressor
from .keys import Keys, chunk_key, present
from .layout import Layout
from .metadata import Metadata
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
    dimension_names: tuple[str | None, ...] | None = None

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
            self.dimension_names,
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


# Where scales lie -----------------------------------------------------------------------------------------------------


class StoredScales(ABC):
    """The scales of a variable in its store: `arrays` has those beside the variable that hold them."""

    arrays: tuple[SideArray, ...] = ()

    @abstractmethod
    def create(self) -> None:
        """Make room for them."""

    @abstractmethod
    def read(self, region: Region) -> Scales:
        """Those of a region of the values.

        Raises
        ------
        DamagedChunkError
            If some are missing or not those that were written.
        """

    @abstractmethod
    def write(self, chunk: int, scales: Scales) -> None:
        """Keep those of all units at one place along the axes on which scales differ."""


@dataclass(frozen=True)
class ScaleInMetadata(StoredScales):
    """One scale for all values, which the driver writes with the metadata."""

    scale: Scale | None

    def create(self) -> None:
        pass

    def read(self, region: Region) -> Scales:
        assert self.scale is not None
        return Scales.one(self.scale, shape_of(region))

    def write(self, chunk: int, scales: Scales) -> None:
        pass


@dataclass(frozen=True)
class ScaleArrays(StoredScales):
    """Scales and zero points in two arrays with an entry for each group, chunked as the units are.

    They have the axes along which scales differ. What is read of them is kept, chunk by chunk, up to `keep` bytes: the
    chunks of codes beside one another share them.
    """

    keys: Keys
    owner: str
    layout: Layout
    granularity: Granularity
    dimension_names: tuple[str | None, ...] | None = None
    dtypes: tuple[np.dtype[Any], np.dtype[Any]] = (np.dtype(np.float64), np.dtype(np.int64))
    keep: int = 0
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)

    @functools.cached_property
    def axes(self) -> tuple[int, ...]:
        return self.granularity.stored_axes(len(self.layout.shape))

    @functools.cached_property
    def arrays(self) -> tuple[SideArray, ...]:  # type: ignore[override]
        groups = self.granularity.groups(self.layout.shape)
        names = self.dimension_names or (None,) * len(groups.shape)
        shape = tuple(groups.counts[axis] for axis in self.axes)
        chunk = tuple(min(-(-self.layout.unit[axis] // groups.box[axis]), groups.counts[axis]) for axis in self.axes)
        named = tuple(names[axis] for axis in self.axes)
        return tuple(
            SideArray(
                self.keys, self.owner, name, shape, chunk, dtype, self.layout.compressor, named if any(named) else None
            )
            for name, dtype in zip(names_beside(self.owner)[2:], self.dtypes, strict=True)
        )

    @property
    def chunks(self) -> int:
        """How many chunks each of the arrays has."""
        return self.arrays[0].grid.count

    def create(self) -> None:
        for array in self.arrays:
            array.create()

    def write(self, chunk: int, scales: Scales) -> None:
        lengths = tuple(scales.scale.shape[axis] for axis in self.axes)
        for array, values in zip(self.arrays, (scales.scale, scales.zero_point), strict=True):
            array.set(chunk, values.reshape(lengths))

    def read(self, region: Region) -> Scales:
        own = self.granularity.scales_of(region, self.layout.shape)
        wanted = tuple(own[axis] for axis in self.axes)
        scale, zero_point = np.empty(shape_of(wanted)), np.empty(shape_of(wanted), np.int64)
        grid = self.arrays[0].grid
        for number, part in grid.touched(wanted):
            found, inside, place = self.chunk(number), within(part, grid.region(number)), within(part, wanted)
            scale[place], zero_point[place] = found[0][inside], found[1][inside]
        counts = shape_of(own)
        return Scales(scale.reshape(counts), zero_point.reshape(counts), self.granularity, shape_of(region))

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of one chunk, which may be those that were kept."""
        found = self.kept.get(number)
        if found is None:
            found = self.read_chunk(number)
            if self.keep:
                if len(self.kept) * found[0].nbytes >= self.keep:
                    self.kept.clear()
                self.kept[number] = found
        return found

    def read_chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        there = within(*[self.arrays[0].grid.region(number)] * 2)
        found: list[np.ndarray] = []
        for array in self.arrays:
            try:
                values = array.get(number)
                if values is None:
                    raise ValueError("it is missing")
                found.append(values[there])
                if not (np.isfinite(found[0]) & (found[0] > 0)).all():
                    raise ValueError("a scale in it is not finite and above 0")
            except ValueError as error:
                raise DamagedChunkError.at(self.keys.label, array.key(number), error) from error
        return found[0], found[1]


def stored_scales(keys: Keys, name: str, metadata: Metadata, keep: int = 0) -> StoredScales:
    """Where the scales of a variable lie, by its metadata."""
    if metadata.granularity.single:
        return ScaleInMetadata(metadata.scale if isinstance(metadata.scale, Scale) else None)
    return ScaleArrays(keys, name, metadata.layout, metadata.granularity, metadata.dimension_names, keep=keep)
