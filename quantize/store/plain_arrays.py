"""Arrays that are kept as they are, of any dtype, beside quantized ones: plain arrays of Zarr v3 for any reader.

Written and read as codes are: one `set` a chunk, a crc32c in each, and a chunk that is absent is damage.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from zarr.dtype import parse_dtype

from ..exceptions import DamagedChunkError
from ..numerics.dtypes import TEXT
from ..numerics.grid import Grid, Region, Shape, within
from .codec import Compressor, frame_size, with_crc32c, without_crc32c
from .keys import Keys, chunk_key, present
from .zarr_json import array_document, codecs_document, serialized

UNITLESS = np.dtype("M8")  # which Zarr cannot open
TEXT_MOST = 1 << 30  # bytes of a chunk of texts
CHUNK_BYTES = 1 << 24  # bytes of a chunk, about, where the source has none


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which Zarr keeps values: that of their bits where it has none of theirs.

    >>> import ml_dtypes
    >>> stored_dtype(np.dtype(ml_dtypes.bfloat16)), stored_dtype(np.dtype(">f4"))
    (dtype('uint16'), dtype('float32'))
    """
    named = dtype.kind in "biufcmMSUO" and dtype.isbuiltin != 2 and dtype != UNITLESS
    return dtype.newbyteorder("=") if named else np.dtype(f"u{dtype.itemsize}")


def default_chunk(shape: Shape, itemsize: int) -> Shape:
    """A box of at most some 16 MiB: whole along the last axes.

    >>> default_chunk((1000, 1000, 1000), 8), default_chunk((), 8), default_chunk((0, 3), 4)
    ((2, 1000, 1000), (), (1, 3))
    """
    chunk, room = [], max(CHUNK_BYTES // max(itemsize, 1), 1)
    for n in reversed(shape):
        chunk.append(max(min(n, room), 1))
        room = max(room // chunk[-1], 1)
    return tuple(reversed(chunk))


def encoded(texts: np.ndarray) -> bytes:
    """Texts as the codec ``vlen-utf8`` has them.

    Raises
    ------
    ValueError
        If UTF-8 cannot hold one, or if they are so long that no reader would take them.
    """
    flat = texts.reshape(-1)
    try:
        data: bytes = VLenUTF8().encode(flat)
    except UnicodeEncodeError as error:
        raise ValueError(f"it has the text {error.object[:40]!r}, which UTF-8 cannot hold ({error.reason})") from error
    if len(data) > TEXT_MOST:
        raise ValueError(f"{flat.size:,} of its texts take {len(data):,} bytes, and a chunk has at most {TEXT_MOST:,}")
    return data


@dataclass(frozen=True)
class PlainArray:
    """One such array under a folder of a store; `dtype` is that of its values, `object` for texts.

    A chunk of texts has no size of its own: one that declares more than a gigabyte is damaged.
    """

    keys: Keys
    folder: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk: Shape
    attributes: dict[str, Any] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    compressor: Compressor = field(default_factory=Compressor)

    @functools.cached_property
    def grid(self) -> Grid:
        return Grid(self.shape, self.chunk)

    @property
    def stored(self) -> np.dtype[Any]:
        return stored_dtype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, 16 for a text, whose length nobody knows."""
        return math.prod(self.shape) * (16 if self.dtype == TEXT else self.dtype.itemsize)

    @property
    def nbytes_most(self) -> int:
        """Bytes that all chunks take at most, stored; of texts a guess."""
        one = math.prod(self.chunk) * (16 if self.dtype == TEXT else self.dtype.itemsize)
        return self.grid.count * (one + one // 256 + 128)

    def key(self, number: int) -> str:
        return chunk_key(self.folder, self.grid, number)

    @property
    def metadata_key(self) -> str:
        return f"{self.folder}/zarr.json"

    @functools.cached_property
    def document(self) -> bytes:
        """Its ``zarr.json``; the attributes are those of Zarr, strict JSON."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dtypes whose specification may yet change
            kind: Any = parse_dtype("string" if self.dtype == TEXT else self.stored, zarr_format=3)
            data_type, fill = kind.to_json(zarr_format=3), kind.to_json_scalar(kind.default_scalar(), zarr_format=3)
        codecs = codecs_document(self.compressor, wide=self.stored.itemsize > 1 and self.stored.kind != "S")
        if self.dtype == TEXT:
            codecs[0] = {"name": "vlen-utf8"}
        document = array_document(self.shape, data_type, self.chunk, codecs, self.attributes, self.dimension_names)
        return serialized({**document, "fill_value": fill})

    def create(self, stands: Callable[[], bool] = lambda: True) -> bool:
        """Write its document, as `Keys.settle` says."""
        return self.keys.settle(self.metadata_key, self.document, stands)

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """The bytes of a chunk, of which the first values along each axis are these.

        Raises
        ------
        ValueError
            If they are texts that UTF-8 cannot hold, or so long that no reader would take them.
        """
        part: tuple[Any, ...] = (*(slice(0, n) for n in values.shape), ...)
        if self.dtype == TEXT:
            whole = np.full(self.chunk, "", object)
            whole[part] = values
            plain = np.frombuffer(encoded(whole), np.uint8)
        else:
            bits = np.asarray(values, order="C")
            bits = bits if bits.dtype.newbyteorder("=") == self.stored else bits.view(self.stored)
            whole = np.zeros(self.chunk, self.stored.newbyteorder("<"))
            whole[part] = bits
            plain = np.frombuffer(whole.tobytes(), np.uint8)
        return with_crc32c(self.compressor.compress(plain))

    def write(self, number: int, values: np.ndarray) -> None:
        """Write a chunk; raises as `encoded` does."""
        self.keys.set(self.key(number), self.encoded(values))

    def chunk_values(self, number: int) -> np.ndarray:
        """The values of a chunk, whole.

        Raises
        ------
        DamagedChunkError
            If it is missing, or its bytes are not those that were written.
        """
        try:
            return self._chunk_values(number)
        except ValueError as error:
            raise DamagedChunkError.at(self.keys.label, self.key(number), error) from error

    def _chunk_values(self, number: int) -> np.ndarray:
        size = TEXT_MOST if self.dtype == TEXT else math.prod(self.chunk) * self.stored.itemsize
        data = self.keys.view(self.key(number), most=size + size // 256 + 128)
        if data is None:
            raise ValueError("it is missing")
        content = without_crc32c(data)
        if self.dtype != TEXT:
            plain = self.compressor.decompress(content, size)
            return plain.view(self.stored.newbyteorder("<")).reshape(self.chunk).astype(self.stored).view(self.dtype)
        length = len(content) if self.compressor.name is None else frame_size(content)
        if length > TEXT_MOST:
            raise ValueError(f"it declares {length:,} bytes of texts, and may have {TEXT_MOST:,}")
        found: np.ndarray = VLenUTF8().decode(self.compressor.decompress(content, length).tobytes())
        if found.size != math.prod(self.chunk):
            raise ValueError(f"it has {found.size:,} texts, and not {math.prod(self.chunk):,}")
        return found.reshape(self.chunk)

    def read(self, region: Region) -> np.ndarray:
        """The values of a region; raises as `chunk_values` does."""
        out = np.empty(tuple(max(part.stop - part.start, 0) for part in region), self.dtype)
        if out.size:
            for number, shared in self.grid.touched(region):
                corner = self.grid.region(number)
                out[within(shared, region)] = self.chunk_values(number)[within(shared, corner)]
        return out

    def present(self) -> np.ndarray:
        """Which chunks are there, shape ``(chunks,)``."""
        if not self.shape:
            return np.array([self.keys.view(self.key(0)) is not None])
        return present(self.keys, self.folder, self.grid)
