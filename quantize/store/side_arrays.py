"""Arrays that lie beside a variable: what pass 1 found, while a job runs, and the scales of an axis."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..numerics.granularity import Granularity
from ..numerics.grid import Grid, Region, Shape, shape_of, within
from ..numerics.scales import (
    LEAST_UNIT,
    MOST_UNIT,
    MOST_ZERO_POINT,
    ZERO_POINT_BIAS,
    Scale,
    Scales,
    ShortScales,
)
from .codec import ChunkCodec, Compressor, ShardCodec
from .guard import WriteGuard
from .keys import Keys, chunk_key, present
from .layout import Layout
from .metadata import Metadata
from .places import places_of
from .stored import StoredChunks
from .zarr_json import (
    array_document,
    codecs_document,
    loaded,
    node_type,
    own_header,
    same,
    serialized,
    sharding_document,
)

BLOSC_BLOCK = 1 << 18  # bytes: of 2^15, which blosc takes itself, scales take twice as long to read, and more room
LEAST_STORED_ZERO_POINT = ZERO_POINT_BIAS - 4 * MOST_ZERO_POINT  # with it; 32 bits hold none that is too large


def owns(keys: Keys, name: str, unsaid: bool = False) -> bool:
    """Whether an array in the group was made for a variable; `unsaid` where it has no metadata.

    They say so, or they are none of any array: then a store did not take or give them whole.
    """
    try:
        found = keys.get(f"{name}/zarr.json")
    except StoreError:
        return False
    if found is None:
        return unsaid
    header = own_header(found)
    return node_type(found) is None or ("belongs_to" in header and "version" not in header)


@dataclass(frozen=True)
class SideArray:
    """One such array, in chunks and where these are many in shards. It is checked as the variable is."""

    keys: Keys
    owner: str
    name: str
    shape: Shape
    chunk: Shape
    dtype: np.dtype[Any]
    compressor: Compressor
    dimension_names: tuple[str | None, ...] | None = None
    shard: Shape | None = None

    @functools.cached_property
    def stored(self) -> StoredChunks:
        codec = ChunkCodec(self.in_bytes(self.chunk), self.compressor)
        shards = None if self.shard is None else ShardCodec(self.in_bytes(self.shard), codec)
        return StoredChunks(self.keys, self.name, Grid(self.shape, self.chunk), self.units, codec, shards)

    @functools.cached_property
    def units(self) -> Grid:
        """What is written at once: chunks, or shards where there are any."""
        return Grid(self.shape, self.shard or self.chunk)

    @property
    def grid(self) -> Grid:
        """The chunks, those within shards too."""
        return self.stored.grid

    def in_bytes(self, shape: Shape) -> Shape:
        return (*shape[:-1], shape[-1] * self.dtype.itemsize)

    @property
    def metadata_key(self) -> str:
        return f"{self.name}/zarr.json"

    def key(self, number: int) -> str:
        """Of a unit."""
        return chunk_key(self.name, self.units, number)

    def document(self) -> bytes:
        """Its ``zarr.json``."""
        codecs = codecs_document(self.compressor, wide=True)
        if self.shard is not None:
            codecs = sharding_document(self.chunk, codecs)
        document = array_document(
            self.shape,
            str(self.dtype),
            self.units.box,
            codecs,
            {"int4": {"belongs_to": self.owner}},
            self.dimension_names,
        )
        return serialized(document)

    def check_document(self, data: bytes, longer: bool = False) -> None:
        """Refuse, with a ValueError, what does not say the same as `document`, but where it may be `longer`."""
        found, own = loaded(data), json.loads(self.document())
        if longer and isinstance(found, dict) and isinstance(shape := found.get("shape"), list):
            axes = [axis for axis, n in enumerate(shape[: len(self.shape)]) if type(n) is int and n > self.shape[axis]]
            for axis in axes[:1]:
                shape[axis] = self.shape[axis]
        if not same(found, own):
            raise ValueError(f"it is not what belongs to {self.owner}")

    def create(self, guard: WriteGuard) -> None:
        guard.create(self.metadata_key, self.document())

    def set(self, number: int, values: np.ndarray, guard: WriteGuard) -> None:
        """Write a unit, of which only the first values may be there."""
        whole = values.astype(self.dtype.newbyteorder("<"), order="C", copy=False)
        if values.shape != self.units.box:
            whole = np.zeros(self.units.box, self.dtype.newbyteorder("<"))
            whole[tuple(slice(0, n) for n in values.shape)] = values
        plain = whole.view(np.uint8)
        if self.stored.shard_codec is None:
            data = self.stored.chunk_codec.encode(plain)
        else:
            data = self.stored.shard_codec.encode(plain, self.in_bytes(values.shape))
        guard.put(self.key(number), data)

    def get(self, number: int) -> np.ndarray | None:
        """A whole chunk, None where there is none; a ValueError says what is wrong with one that is damaged."""
        data = self.stored.stored(number)
        if data is None:
            return None
        values = self.stored.chunk_codec.decode(data).view(self.dtype.newbyteorder("<"))
        return values.reshape(self.chunk).astype(self.dtype, copy=False)

    def present(self) -> np.ndarray:
        """Which units are there."""
        return present(self.keys, self.name, self.units)


# Where scales lie -----------------------------------------------------------------------------------------------------


class StoredScales(ABC):
    """The scales of a variable in its store: `arrays` has those beside the variable that hold them."""

    arrays: tuple[SideArray, ...] = ()

    @abstractmethod
    def create(self, guard: WriteGuard) -> None:
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
    def write(self, chunk: int, scales: Scales, guard: WriteGuard) -> None:
        """Keep those of all units at one place along the axes on which scales differ."""


@dataclass(frozen=True)
class ScaleInMetadata(StoredScales):
    """One scale for all values, which the driver writes with the metadata."""

    scale: Scale | None

    def create(self, guard: WriteGuard) -> None:
        pass

    def read(self, region: Region) -> Scales:
        assert self.scale is not None
        return Scales.one(self.scale, shape_of(region))

    def write(self, chunk: int, scales: Scales, guard: WriteGuard) -> None:
        pass


class ScaleForm(ABC):
    """How scales and zero points are kept: the dtypes of both arrays, and what is in them.

    Attributes
    ----------
    dtypes : tuple of dtypes
    """

    dtypes: tuple[np.dtype[Any], np.dtype[Any]]

    @abstractmethod
    def stored(self, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points as the arrays have them."""

    @abstractmethod
    def check(self, scale: np.ndarray, zero_point: np.ndarray) -> None:
        """Raise a ValueError if the arrays have what is no scale or no zero point."""

    @abstractmethod
    def scales(self, scale: np.ndarray, zero_point: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
        """The inverse of `stored`, of what was checked."""

    @abstractmethod
    def compressor(self, layout: Layout, dtype: np.dtype[Any]) -> Compressor:
        """That of the array of a dtype, beside a variable of this layout."""


class WholeForm(ScaleForm):
    """Scales as float64 and zero points as int64: those of an axis."""

    dtypes = np.dtype(np.float64), np.dtype(np.int64)

    def stored(self, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
        return scales.scale, scales.zero_point

    def check(self, scale: np.ndarray, zero_point: np.ndarray) -> None:
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError("a scale in it is not finite and above 0")

    def scales(self, scale: np.ndarray, zero_point: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
        return Scales(scale, zero_point, granularity, shape)

    def compressor(self, layout: Layout, dtype: np.dtype[Any]) -> Compressor:
        return layout.compressor


class ShortForm(ScaleForm):
    """A quarter of each scale by its upper 16 bits, and zero points in quarters and 128 more: those of blocks.

    Shuffled bytes compress well: the upper ones of neighbours are alike, and so are all signs with those 128.
    """

    dtypes = np.dtype(np.uint16), np.dtype(np.int32)

    def stored(self, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
        return scales.units, scales.quarters + np.int32(ZERO_POINT_BIAS)

    def check(self, scale: np.ndarray, zero_point: np.ndarray) -> None:
        if scale.min() < LEAST_UNIT or scale.max() > MOST_UNIT or zero_point.min() < LEAST_STORED_ZERO_POINT:
            raise ValueError("a scale or a zero point in it is none that a block can have")

    def scales(self, scale: np.ndarray, zero_point: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
        return ShortScales(scale, zero_point, granularity, shape)

    def compressor(self, layout: Layout, dtype: np.dtype[Any]) -> Compressor:
        if layout.compressor.name is None:
            return layout.compressor
        options = {"typesize": dtype.itemsize, "cname": "zstd", "clevel": 1, "shuffle": "shuffle"}
        return Compressor("blosc", options, BLOSC_BLOCK)


@dataclass(frozen=True)
class ScaleArrays(StoredScales):
    """Scales and zero points in two arrays with an entry for each group, cut as the units and chunks are.

    They have the axes along which scales differ. What is read of them is kept, chunk by chunk, up to `keep` bytes: the
    chunks of codes beside one another share them.
    """

    keys: Keys
    owner: str
    layout: Layout
    granularity: Granularity
    version: int
    dimension_names: tuple[str | None, ...] | None = None
    keep: int = 0
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)

    @property
    def form(self) -> ScaleForm:
        return WholeForm() if self.granularity.fraction == 1 else ShortForm()

    @functools.cached_property
    def axes(self) -> tuple[int, ...]:
        return self.granularity.stored_axes(len(self.layout.shape))

    @functools.cached_property
    def arrays(self) -> tuple[SideArray, ...]:  # type: ignore[override]
        groups, layout = self.granularity.groups(self.layout.shape), self.layout
        names = self.dimension_names or (None,) * len(groups.shape)
        shape = tuple(groups.counts[axis] for axis in self.axes)
        named = tuple(names[axis] for axis in self.axes)

        def entries(lengths: Shape) -> Shape:
            return tuple(-(-lengths[axis] // (self.granularity.length(axis) or groups.box[axis])) for axis in self.axes)

        sharded = layout.shards is not None and len(self.axes) > 1
        chunk = entries(layout.chunks if sharded else layout.unit)
        most = zip(self.axes, shape, chunk, strict=True)
        chunk = tuple(along if axis == layout.grows else min(along, n) for axis, n, along in most)
        return tuple(
            SideArray(
                self.keys,
                self.owner,
                name,
                shape,
                chunk,
                dtype,
                self.form.compressor(layout, dtype),
                named if any(named) else None,
                entries(layout.unit) if sharded else None,
            )
            for name, dtype in zip(places_of(self.owner, self.version)[2:], self.form.dtypes, strict=True)
        )

    @property
    def chunks(self) -> int:
        """How many units each of the arrays has."""
        return self.arrays[0].units.count

    def create(self, guard: WriteGuard) -> None:
        for array in self.arrays:
            array.create(guard)

    def write(self, chunk: int, scales: Scales, guard: WriteGuard) -> None:
        lengths = tuple(scales.scale.shape[axis] for axis in self.axes)
        for array, values in zip(self.arrays, self.form.stored(scales), strict=True):
            array.set(chunk, values.reshape(lengths), guard)

    def read(self, region: Region) -> Scales:
        own = self.granularity.scales_of(region, self.layout.shape)
        wanted = tuple(own[axis] for axis in self.axes)
        grid = self.arrays[0].grid
        touched = list(grid.touched(wanted))
        if len(touched) == 1:  # views of what is kept
            stored = [x[within(wanted, grid.region(touched[0][0]))] for x in self.chunk(touched[0][0])]
        else:
            stored = [np.empty(shape_of(wanted), dtype) for dtype in self.form.dtypes]
            for number, part in touched:
                found, inside, place = self.chunk(number), within(part, grid.region(number)), within(part, wanted)
                for entries, those in zip(stored, found, strict=True):
                    entries[place] = those[inside]
        scale, zero_point = (x.reshape(shape_of(own)) for x in stored)
        return self.form.scales(scale, zero_point, self.granularity, shape_of(region))

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of one chunk as they are stored, which may be those that were kept."""
        found = self.kept.get(number)
        if found is None:
            found = self.read_chunk(number)
            if self.keep:
                if len(self.kept) * sum(x.nbytes for x in found) >= self.keep:
                    self.kept.clear()
                self.kept[number] = found
        return found

    def read_chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As `chunk`, from the store, and checked."""
        there = within(*[self.arrays[0].grid.region(number)] * 2)
        found: list[np.ndarray] = []
        for array in self.arrays:
            try:
                values = array.get(number)
                if values is None:
                    raise ValueError("it is missing")
                found.append(values[there])
                if len(found) == len(self.arrays):
                    self.form.check(*found)
            except ValueError as error:
                raise DamagedChunkError.at(self.keys.label, array.stored.place(number), error) from error
        scale, zero_point = found
        return scale, zero_point


def stored_scales(keys: Keys, name: str, metadata: Metadata, keep: int = 0) -> StoredScales:
    """Where the scales of a variable lie, by its metadata."""
    if metadata.granularity.single:
        return ScaleInMetadata(metadata.scale if isinstance(metadata.scale, Scale) else None)
    return ScaleArrays(
        keys,
        name,
        metadata.layout,
        metadata.granularity,
        metadata.version,
        metadata.dimension_names,
        keep=keep,
    )
