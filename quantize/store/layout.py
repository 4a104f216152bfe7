"""Shape, dtype, chunks and shards of a variable, and what they may come to."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..numerics.granularity import Granularity
from ..numerics.grid import Grid, Shape, covers, packed_shape
from .codec import ChunkCodec, Compressor, ShardCodec

# The most that a variable may have. More is refused, of a source before anything is written, of a store before its
# claims are acted on.
AXES = 64  # axes: as many as NumPy has
CHUNK_BYTES = 1 << 30  # bytes: one packed chunk, or one chunk of scales; compressors take less than 2^31
INNER_CHUNKS = 1 << 20  # chunks in a shard: each takes 16 bytes of the index, which is read as a whole
UNITS = 1 << 27  # chunks, or shards where there are any: a byte for each tells whether it is there


@dataclass(frozen=True)
class Layout:
    """Shape, dtype and chunks of one variable, all counted in values; the packed bytes follow from them.

    Chunks and shards are cut to the lengths of the array, but not along the axis `grows`, on which it will be longer.
    """

    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    shards: Shape | None = None
    compressor: Compressor = field(default_factory=Compressor)
    grows: int | None = None

    def __post_init__(self) -> None:
        ranks = {len(self.shape), len(self.chunks), len(self.shards or self.shape)}
        if len(ranks) != 1:
            raise ValueError(f"shape {self.shape}, chunks {self.chunks} and shards {self.shards} differ in dimensions")
        if not self.shape or min(self.shape) < 1 or min(self.chunks) < 1:
            raise ValueError(f"shape {self.shape} and chunks {self.chunks} must have axes, each at least 1 long")
        if not covers(self.shape, self.chunks):
            even = self.chunks[-1] + 1
            raise ValueError(
                f"chunks {self.chunks} end at an odd index of the last axis, in the middle of a byte; "
                f"take an even length there, such as {even}, or the whole axis, {self.shape[-1]}"
            )
        if len(self.shape) > AXES:
            raise ValueError(f"an array of {len(self.shape)} axes has more than the {AXES} that there can be")
        if self.shards and any(outer % inner for outer, inner in zip(self.shards, self.chunks, strict=True)):
            raise ValueError(f"shards {self.shards} are not whole multiples of chunks {self.chunks}")
        # What is longer than the array is cut to its length: one form for each layout.
        cut = self.cut_to(self.shape)
        own = cut if self.grows is None else self.cut_to(self.longer(self.grows, self.unit[self.grows]))
        object.__setattr__(self, "chunks", own[0])
        object.__setattr__(self, "shards", own[1])
        if own == cut:
            object.__setattr__(self, "grows", None)
        self.check_limits()

    def cut_to(self, shape: Shape) -> tuple[Shape, Shape | None]:
        """Chunks and shards no longer than an array of a shape, shards of whole chunks."""
        chunks = tuple(map(min, self.chunks, shape))
        if not self.shards:
            return chunks, None
        most = (-(-n // inner) * inner for n, inner in zip(shape, chunks, strict=True))
        return chunks, tuple(map(min, self.shards, most))

    def longer(self, axis: int, length: int) -> Shape:
        """The shape of the array, of at least this length along an axis."""
        return tuple(max(n, length) if along == axis else n for along, n in enumerate(self.shape))

    def grown(self, axis: int, length: int) -> Layout:
        """That of the array once it is longer along an axis; its chunks stay as they are.

        Raises
        ------
        ValueError
            If the last chunk of it ends where no other can begin.
        """
        chunks = list(self.chunks)
        if axis == len(chunks) - 1 and self.shards is None:
            chunks[axis] += chunks[axis] % 2  # there is room for one more in its last byte
        return Layout(self.longer(axis, length), self.dtype, tuple(chunks), self.shards, self.compressor, axis)

    def check_limits(self) -> None:
        size, units = math.prod(packed_shape(self.chunks)), self.units.count
        if size > CHUNK_BYTES:
            raise ValueError(
                f"chunks {self.chunks} take {size:,} bytes each, packed, and may take {CHUNK_BYTES:,}: "
                "take smaller ones"
            )
        if units > UNITS:
            raise ValueError(
                f"shape {self.shape} has {units:,} chunks or shards {self.unit}, and may have {UNITS:,}: "
                "take larger ones"
            )
        if self.shard_codec is not None and self.shard_codec.grid.count > INNER_CHUNKS:
            raise ValueError(
                f"shards {self.shards} hold {self.shard_codec.grid.count:,} chunks {self.chunks} each, and may hold "
                f"{INNER_CHUNKS:,}: take larger chunks or smaller shards"
            )

    @property
    def unit(self) -> Shape:
        """What is written at once: a chunk, or a shard where there are any."""
        return self.shards or self.chunks

    @functools.cached_property
    def units(self) -> Grid:
        return Grid(self.shape, self.unit)

    @functools.cached_property
    def chunk_codec(self) -> ChunkCodec:
        return ChunkCodec(packed_shape(self.chunks), self.compressor)

    @functools.cached_property
    def shard_codec(self) -> ShardCodec | None:
        return ShardCodec(packed_shape(self.shards), self.chunk_codec) if self.shards else None

    @property
    def nbytes(self) -> int:
        """Bytes of the values in `dtype`."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def nbytes_most(self) -> int:
        """Bytes that all chunks take at most, stored."""
        return self.units.count * (self.shard_codec or self.chunk_codec).most


def check_scales(granularity: Granularity, layout: Layout) -> None:
    """Refuse more scales in a chunk of them than can be, and chunks that end within blocks."""
    count = granularity.count(tuple(map(min, layout.unit, layout.shape)))
    if 8 * count > CHUNK_BYTES:
        raise ValueError(
            f"chunks or shards {layout.unit} have {count:,} scales along {granularity.label}, and may have "
            f"{CHUNK_BYTES // 8:,}: take smaller ones"
        )
    if granularity.fraction > 1 and not granularity.complete(Grid(layout.shape, layout.chunks)):
        cuts = granularity.whole_cuts(layout.shape)
        better = tuple(
            min(-(-length // cut) * cut, n) for length, cut, n in zip(layout.chunks, cuts, layout.shape, strict=True)
        )
        raise ValueError(
            f"chunks {layout.chunks} end within {granularity.label}, and a chunk must hold whole ones: take multiples "
            f"of their lengths, such as {better}"
        )
