"""``.npz`` archives: arrays as ``.npy`` files in a zip, stored or compressed.

What is stored is read where it lies. What is compressed is decompressed from the nearest place before it at which the
state of the decompressor was kept, so that no array is ever in memory as a whole.
"""

from __future__ import annotations

import functools
import math
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...exceptions import SourceChangedError, SourceError
from ...numerics.grid import Region, Shape, shape_of
from ..chunked import ChunkedSource
from ..content import is_zip, reason
from ..format import Format, is_url
from ..raw import RawArray, kept_dtype
from ..source import Source
from .npy import File, NpyRun, Run, Runs, check_numbers, header, runs

NPY = ".npy"
LOCAL = struct.Struct("<4s5H3I2H")  # what stands before each file in an archive
ENCRYPTED = 1  # a bit of its flags
UTF8 = 0x800  # another: of what kind its name is
APART_BYTES = 1 << 23  # bytes: about so far apart, decompressed, are the places from which one can begin
INPUT_BYTES = 1 << 16  # bytes: what is decompressed at a time
STATE_BYTES = 1 << 17  # bytes: what is kept for each place: the last 32 KiB, tables, input that waits


class Deflated:
    """Bytes that are compressed in a file, read from anywhere, by several threads.

    They are cut into parts. The state in which the decompressor comes to a part is kept, so each of them is
    decompressed alone, once all before it have been.
    """

    def __init__(self, label: str, file: File, offset: int, length: int, size: int, crc: int) -> None:
        """`offset` and `length` of what is compressed; `size` and checksum of what it stands for."""
        self.label, self.file, self.offset, self.length, self.size, self.crc = label, file, offset, length, size, crc
        self.first = self.apart = APART_BYTES  # bytes: the length of the first part, and of all others
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._places = [(zlib.decompressobj(-zlib.MAX_WBITS), 0, 0)]  # of each part: state, input so far, checksum

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def fill(self, out: memoryview, spans: Iterable[tuple[int, int]]) -> None:
        """Decompress the bytes of some spans, each with its start and length, into one buffer.

        Raises
        ------
        SourceError
            If what is compressed is damaged, or of another length than was said.
        """
        at, held, part = 0, -1, b""
        for start, length in spans:
            stop = start + length
            while start < stop:
                number = 0 if start < self.first else 1 + (start - self.first) // self.apart
                if number != held:
                    held, part = number, self._part(number)
                piece = memoryview(part)[start - self._begin(number) :][: stop - start]
                out[at : at + len(piece)] = piece
                start, at = start + len(piece), at + len(piece)

    def _begin(self, number: int) -> int:
        return 0 if number == 0 else self.first + (number - 1) * self.apart

    def _part(self, number: int) -> bytes:
        with self._lock:
            while len(self._places) <= number:
                self._inflated(len(self._places) - 1)
            if number == len(self._places) - 1:
                return self._inflated(number)
        return self._inflated(number)

    def _inflated(self, number: int) -> bytes:
        """A part; if it is the last to which the way is known, the place of the next is kept."""
        state, at, crc = self._places[number]
        state = state.copy()
        want = min(self._begin(number + 1), self.size) - self._begin(number)
        pieces: list[bytes] = []
        while want:
            piece, at = self._some(state, at, want)
            if not piece and (state.eof or at == self.length):
                raise self._damaged("it ends too early")
            pieces.append(piece)
            want -= len(piece)
        part = b"".join(pieces)
        crc = zlib.crc32(part, crc)
        if self._begin(number + 1) < self.size:
            if number == len(self._places) - 1:
                self._places.append((state, at, crc))
            return part
        while not state.eof:
            piece, at = self._some(state, at, 1)
            if piece or (at == self.length and not state.eof):
                raise self._damaged("it does not end where it should")
        if crc != self.crc:
            raise self._damaged("its checksum is another")
        return part

    def _some(self, state: Any, at: int, most: int) -> tuple[bytes, int]:
        """Up to so many bytes, and how far the input is then."""
        data = bytearray(min(INPUT_BYTES, self.length - at))
        self.file.fill(memoryview(data), self.offset + at)
        try:
            piece = state.decompress(data, most)
        except zlib.error as error:
            raise self._damaged(str(error)) from error
        return piece, at + len(data) - len(state.unconsumed_tail) - len(state.unused_data)

    def _damaged(self, why: str) -> SourceError:
        return SourceError(f"{self.label} is damaged in its archive: {why}. Copy or download it again")


@dataclass(frozen=True)
class Compressed:
    """An array in an archive that is compressed."""

    label: str
    data: Deflated
    offset: int  # bytes: the length of its header
    shape: Shape
    dtype: np.dtype[Any]  # in the file's byte order
    fortran: bool
    again: str  # how NumPy opens it

    @functools.cached_property
    def chunks(self) -> Shape:
        """Boxes of neighbouring values of about `APART_BYTES`; where they can be, they are the parts."""
        axes = list(range(len(self.shape)))
        chunks, size = [1] * len(axes), self.dtype.itemsize
        for axis in axes if self.fortran else reversed(axes):
            chunks[axis] = max(1, min(self.shape[axis], APART_BYTES // size))
            size *= max(self.shape[axis], 1)
        return tuple(chunks)

    def source(self) -> Source:
        check_numbers(self.dtype, self.label, self.again)
        try:
            return CompressedSource(self)
        except TypeError as error:
            raise TypeError(f"{self.label} cannot be quantized: {error}") from None

    def raw(self) -> RawArray:
        dtype = kept_dtype(self.dtype, self.label)
        return RawArray(self.label, self.shape, dtype, self.load, chunks=self.chunks, shared=True)

    def load(self, region: Region) -> np.ndarray:
        shape, part = (self.shape[::-1], region[::-1]) if self.fortran else (self.shape, region)
        out, size = np.empty(shape_of(part), self.dtype), self.dtype.itemsize
        if out.size:
            spans = ((self.offset + start * size, length * size) for start, length in runs(shape, part))
            self.data.fill(out.reshape(-1).view(np.uint8).data, spans)
        return out.T if self.fortran else out


class CompressedSource(ChunkedSource):
    """An array in an archive that is compressed. Its chunks are those in which it is decompressed."""

    shared = True
    notes = (
        "the source is compressed as one piece: the first pass decompresses it from its beginning to its end, one "
        "thread at a time",
    )

    def __init__(self, array: Compressed) -> None:
        super().__init__(array.label, array, {}, None)
        array.data.first = array.offset + math.prod(array.chunks) * array.dtype.itemsize
        array.data.apart = array.data.first - array.offset
        self.order = "F" if array.fortran else "C"
        self.held = math.prod(map(math.ceil, np.divide(array.shape, array.chunks))) * STATE_BYTES

    def fetch(self, region: Region, out: np.ndarray) -> None:
        out[...] = self.array.load(region)


# Archives -------------------------------------------------------------------------------------------------------------


def members_of(path: str) -> dict[str, Run | Compressed]:
    """The arrays of an archive by name, of which only the headers are read.

    Raises
    ------
    SourceError
        If the archive or a header is damaged, says what cannot be, or is encrypted.
    """
    found: dict[str, Run | Compressed] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            file = File(path)
            end = 0
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
                if info.header_offset < end:
                    raise ValueError(f"{info.filename!r} overlaps what stands before it")
                offset = data_offset(file, info)
                end = offset + info.compress_size
                if end > archive.start_dir:
                    raise ValueError(f"{info.filename!r} is said to be longer than the archive")
                name = info.filename.removesuffix(NPY)
                if name == info.filename:
                    continue
                if name in found:
                    raise ValueError(f"it holds {info.filename!r} twice")
                found[name] = member(path, name, archive, info, file, offset)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is no whole archive: {reason(error)}. Copy or download it again") from error
    except SourceError:
        raise
    except (ValueError, SourceChangedError) as error:
        raise SourceError(f"{path} is a damaged archive: {reason(error)}. Copy or download it again") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error
    return found


def data_offset(file: File, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin; raises a ValueError, if what stands before them is of another one."""
    local = bytearray(LOCAL.size)
    file.fill(memoryview(local), info.header_offset)
    signature, _, flags, method, *_, name_length, more = LOCAL.unpack(local)
    name = bytearray(name_length)
    file.fill(memoryview(name), info.header_offset + LOCAL.size)
    encoding = "utf-8" if info.flag_bits & UTF8 else "cp437"
    same = (b"PK\x03\x04", info.compress_type, info.orig_filename.encode(encoding))
    if (signature, method, bytes(name)) != same:
        raise ValueError(f"where {info.filename!r} should be is something else")
    if (flags | info.flag_bits) & ENCRYPTED:
        raise SourceError(f"{file.path} is encrypted: unpack it with its password")
    begin: int = info.header_offset + LOCAL.size + name_length + more
    return begin


def member(
    path: str, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: File, offset: int
) -> Run | Compressed:
    """One array of an archive."""
    label, again = f"{path}::{name}", f"np.load({path!r})[{name!r}]"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(f"{label} is compressed by method {info.compress_type} of zip, which is not read: unpack it")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise ValueError(f"{info.filename!r} is said to have two lengths")
    try:
        with archive.open(info) as data:
            shape, fortran, dtype = header(data)  # type: ignore[arg-type]
            length = data.tell()
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError(f"{label} is no whole .npy file: {reason(error)}") from error
    whole = length + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and info.file_size != whole:
        raise SourceError(f"{label} is no whole .npy file: its {whole:,} bytes are said to be {info.file_size:,}")
    if info.compress_type == zipfile.ZIP_STORED:
        return NpyRun(label, file, offset + length, shape, dtype, fortran, again)
    data_ = Deflated(label, file, offset, info.compress_size, info.file_size, info.CRC)
    return Compressed(label, data_, length, shape, dtype, fortran, again)


class Npz(Format):
    files = ".npz"
    suffixes = (".npz",)

    def takes(self, thing: Any) -> bool:
        if not isinstance(thing, str) or is_url(thing) or not is_zip(thing):
            return False
        try:
            with zipfile.ZipFile(thing) as archive:
                return any(name.endswith(NPY) for name in archive.namelist())
        except (zipfile.BadZipFile, OSError):
            return False

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        return Runs(thing, members_of(thing))


FORMAT = Npz()
