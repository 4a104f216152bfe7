"""The bytes of one stored chunk or shard: ``bytes``, at most one compressor, ``crc32c``.

This is the part of Zarr v3 that the store's format allows, over the algorithms of numcodecs, with what reading a
promise needs: sizes are checked before anything is decompressed, and nothing absent is ever read as a fill value.
Chunks: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/ (zstd, gzip, blosc, crc32c, sharding-indexed).
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.gzip import GZip
from numcodecs.zstd import Zstd

from ..numerics.grid import Grid, Shape
from .buffers import STORED

CHECKSUM = 4  # bytes: the length of a crc32c
ABSENT = (1 << 64) - 1  # the offset, and the length, that a shard's index has for an inner chunk that is not there
SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}

# The options that the format has for each compressor, with their values where nothing is said.
OPTIONS: dict[str, dict[str, Any]] = {
    "zstd": {"level": 1, "checksum": False},
    "gzip": {"level": 5},
    "blosc": {"typesize": 1, "cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0},
}
CHOICES = {"shuffle": SHUFFLES, "cname": ("blosclz", "lz4", "lz4hc", "zlib", "zstd")}  # options that are one of these


@dataclass(frozen=True)
class Compressor:
    """A compressor by its Zarr name, with its full configuration; without a name nothing is compressed.

    A `blocksize` of 0 leaves the length of blosc's blocks to who writes: `block` bytes, or as many as blosc takes. Each
    chunk tells it.

    Raises
    ------
    ValueError
        If the format does not allow the name, an option or its value.
    """

    name: str | None = "zstd"
    options: dict[str, Any] = field(default_factory=dict)
    block: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in OPTIONS:
            raise ValueError(f"compressor {self.name!r} is not one of {', '.join(OPTIONS)}, or none")
        defaults = {} if self.name is None else OPTIONS[self.name]
        unknown = sorted(set(self.options) - set(defaults))
        if unknown:
            raise ValueError(
                f"compressor {self.name!r} has no option {unknown[0]!r}, only {', '.join(defaults) or 'none'}"
            )
        for key, value in self.options.items():
            if type(value) is not type(defaults[key]) or (key in CHOICES and value not in CHOICES[key]):
                raise ValueError(f"compressor {self.name!r} has no {key} {value!r}")
        object.__setattr__(self, "options", {**defaults, **self.options})

    def compress(self, data: np.ndarray) -> bytes | np.ndarray:
        """The compressed form of C-contiguous bytes; without a compressor the bytes themselves."""
        match self.name:
            case "zstd":
                codec: Any = Zstd(self.options["level"], self.options["checksum"])
            case "gzip":
                codec = GZip(self.options["level"])
            case "blosc":
                codec = Blosc(
                    self.options["cname"],
                    self.options["clevel"],
                    SHUFFLES[self.options["shuffle"]],
                    self.options["blocksize"] or self.block,
                    self.options["typesize"],
                )
            case _:
                return data.reshape(-1)
        compressed: bytes = codec.encode(data)
        return compressed

    def decompress(self, data: memoryview, size: int) -> np.ndarray:
        """The `size` bytes that were compressed; a ValueError if there are not just as many."""
        if self.name is None:
            if len(data) != size:
                raise ValueError(f"it is {len(data)} bytes long, not {size}")
            return np.frombuffer(data, np.uint8)
        match self.name:
            case "zstd":
                if frame_size(data) != size:
                    raise ValueError(f"the zstd frame does not hold {size} bytes")
                return decoded(Zstd(), data, size)
            case "gzip":
                return gunzipped(data, size)
            case _:
                # https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst: uncompressed and compressed size
                if len(data) < 16 or struct.unpack_from("<I4xI", data, 4) != (size, len(data)):
                    raise ValueError(f"the blosc header does not tell of {size} bytes in {len(data)}")
                return decoded(Blosc(), data, size)


def decoded(codec: Zstd | Blosc, data: memoryview, size: int) -> np.ndarray:
    """What numcodecs decompresses data to that declare this size."""
    out = np.empty(size, np.uint8)
    try:
        codec.decode(data, out=out)
    except RuntimeError as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error
    return out


def gunzipped(data: memoryview, size: int) -> np.ndarray:
    """The content of one gzip member, never more than `size` bytes and one."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"it is no gzip stream ({error})") from error
    if len(plain) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"the gzip stream does not hold {size} bytes")
    return np.frombuffer(plain, np.uint8)


def frame_size(data: memoryview) -> int:
    """Content size that a zstd frame declares, -1 if it declares none (RFC 8878, section 3.1.1.1)."""
    if len(data) < 6 or bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        return -1
    descriptor = data[4]
    single_segment, flag = descriptor >> 5 & 1, descriptor >> 6
    length = (1 if single_segment else 0, 2, 4, 8)[flag]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not length or len(data) < start + length:
        return -1
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)


@dataclass(frozen=True)
class ChunkCodec:
    """Turns the packed bytes of one chunk of `shape` into what is stored, and back."""

    shape: Shape
    compressor: Compressor

    def encode(self, packed: np.ndarray) -> np.ndarray:
        """The stored form, uint8, in a buffer that this thread uses again for the next one."""
        return with_crc32c(self.compressor.compress(np.ascontiguousarray(packed)))

    @property
    def most(self) -> int:
        """Bytes that the stored form takes at most: compressors add a little to what they cannot compress."""
        size = math.prod(self.shape)
        return size + size // 256 + 128

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        """Packed bytes of `shape`; a ValueError says what is wrong with `data`."""
        return self.compressor.decompress(without_crc32c(data), math.prod(self.shape)).reshape(self.shape)


@dataclass(frozen=True)
class ShardCodec:
    """The inner chunks of one shard, side by side, and behind them the offset and length of each (index at the end)."""

    shape: Shape
    chunk: ChunkCodec

    @property
    def grid(self) -> Grid:
        return Grid(self.shape, self.chunk.shape)

    @property
    def index_length(self) -> int:
        return 16 * self.grid.count + CHECKSUM

    @property
    def most(self) -> int:
        """Bytes that the stored form takes at most."""
        return self.grid.count * self.chunk.most + self.index_length

    def encode(self, packed: np.ndarray, held: Shape) -> np.ndarray:
        """The stored form of a whole shard, of which only the part of shape `held` lies within the array."""
        index = np.full((self.grid.count, 2), ABSENT, "<u8")
        parts = []
        offset = 0
        for number in range(self.grid.count):
            region = self.grid.region(number)
            if all(part.start < n for part, n in zip(region, held, strict=True)):
                data = self.chunk.encode(packed[region]).tobytes()
                index[number] = offset, len(data)
                parts.append(data)
                offset += len(data)
        return np.frombuffer(b"".join([*parts, with_crc32c(index.tobytes()).tobytes()]), np.uint8)

    def index(self, data: bytes | memoryview) -> np.ndarray:
        """Offsets and lengths, shape ``(inner chunks, 2)``, from the last `index_length` bytes of a shard."""
        if len(data) != self.index_length:
            raise ValueError(f"its index is {len(data)} bytes long, not {self.index_length}")
        return np.frombuffer(without_crc32c(data), "<u8").reshape(-1, 2)


def with_crc32c(data: bytes | np.ndarray) -> np.ndarray:
    """The data with their crc32c behind them, uint8, in a buffer that this thread uses again."""
    out = STORED.of(len(data) + CHECKSUM)
    content = out[:-CHECKSUM]
    content[:] = np.frombuffer(data, np.uint8)
    out[-CHECKSUM:] = np.frombuffer(crc32c(content), np.uint8)
    return out


def without_crc32c(data: bytes | memoryview) -> memoryview:
    """The data before their crc32c; a ValueError if it is not theirs."""
    if len(data) < CHECKSUM:
        raise ValueError(f"it is {len(data)} bytes long, too short for its checksum")
    content = memoryview(data)[:-CHECKSUM]
    if crc32c(np.frombuffer(content, np.uint8)) != bytes(data[-CHECKSUM:]):
        raise ValueError("its checksum (crc32c) does not match its bytes")
    return content


def crc32c(data: np.ndarray) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM, "little")
