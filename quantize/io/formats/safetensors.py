"""Checkpoints: ``.safetensors`` files, several with an index, and folders that hold such.

A file is eight bytes with the length of a header, the header, which is JSON, and then the bytes of all tensors. The
header says of each tensor its dtype, shape, and where its bytes begin and end. Nothing of it is taken on trust.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from ...exceptions import SourceError
from ..arrays import few
from ..content import check_regular, head, names_in, otherwise
from ..format import Format, is_url, suffix_of
from ..raw import LEAVE_OUT
from ..sink import CollectionSink, Contents, Put
from ..source import Source
from .npy import File, Run, Runs, write_runs

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
HEADER_BYTES = 100_000_000  # bytes: the longest header or index that is read, as in the format's own library
METADATA = "__metadata__"  # the name in a header under which texts stand, and no tensor
MOST_AXES = 64  # axes: what an array of NumPy's has at most

DTYPES = {
    "BOOL": np.dtype(bool),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "C64": np.dtype("<c8"),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}


@dataclass(frozen=True)
class Unknown:
    """A tensor of a dtype that is not known here, in the place of a `Run`: it is listed, and cannot be read."""

    label: str
    shape: tuple[int, ...]
    dtype: str

    def source(self) -> NoReturn:
        raise SourceError(
            f"{self.label} has the dtype {self.dtype}, which is not known here; known are {', '.join(DTYPES)}. "
            f"Convert it, or {LEAVE_OUT}"
        )

    raw = source


class Tensors(Runs):
    """The tensors of a checkpoint; a "/" in a name is a character like any other."""

    noun = "tensor"

    def __init__(self, label: str, node: Any, prefix: str | None = None, metadata: Any = None) -> None:
        super().__init__(label, node, prefix)
        self.metadata: dict[str, str] = metadata or {}

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        return {"": dict(self.metadata)}


# One file -------------------------------------------------------------------------------------------------------------


def tensors_of(path: str) -> tuple[dict[str, Run | Unknown], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Only the header is read.

    Raises
    ------
    SourceError
        If the header is not what one must be, or the file was cut.
    """
    check_regular(path)
    start = head(path, 8)
    size = os.path.getsize(path)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or head(path, 1, 8) != b"{":
        raise SourceError(f"{path}{otherwise(path) and ' '}{otherwise(path) or ' is not a .safetensors file'}")
    if length > HEADER_BYTES:
        raise SourceError(
            f"{path} is damaged, or is not a .safetensors file: its header is said to have {length:,} bytes, and none "
            f"has more than {HEADER_BYTES:,}"
        )
    if 8 + length > size:
        raise SourceError(f"{path} was cut within its header: {size:,} bytes are there. Copy or download it again")
    try:
        header = parsed(head(path, length, 8))
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ are not texts by name")
        spans = {name: Span.of(name, entry) for name, entry in header.items()}
        check_spans(spans)
    except ValueError as error:
        raise SourceError(f"{path} has a damaged header: {error}. Copy or download it again") from error
    whole = 8 + length + max((span.stop for span in spans.values()), default=0)
    if size != whole:
        more = "Copy or download it again" if size < whole else "What the rest is, its header does not say"
        raise SourceError(f"{path} is not whole: {size:,} bytes are there, and its header tells of {whole:,}. {more}")
    file = File(path)
    found: dict[str, Run | Unknown] = {}
    for name, span in spans.items():
        label = f"{path}::{name}"
        dtype = DTYPES.get(span.dtype)
        found[name] = (
            Unknown(label, span.shape, span.dtype)
            if dtype is None
            else Run(label, file, 8 + length + span.start, span.shape, dtype)
        )
    return found, metadata


@dataclass(frozen=True)
class Span:
    """What a header says of one tensor; `start` and `stop` in bytes behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @classmethod
    def of(cls, name: str, entry: Any) -> Span:
        """That of an entry; raises a ValueError where it is none."""
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {shown(name)} has not just a dtype, a shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str):
            raise ValueError(f"the dtype of tensor {shown(name)} is no text")
        if not lengths(shape) or len(shape) > MOST_AXES:
            raise ValueError(f"the shape of tensor {shown(name)} is {shown(shape)}")
        if not lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ValueError(f"the data_offsets of tensor {shown(name)} are {shown(offsets)}")
        span = cls(dtype, tuple(shape), *offsets)
        if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != span.stop - span.start:
            raise ValueError(
                f"tensor {shown(name)} of shape {span.shape} and dtype {dtype} is said to have "
                f"{span.stop - span.start:,} bytes, but takes {math.prod(shape) * DTYPES[dtype].itemsize:,}"
            )
        return span


def lengths(thing: Any) -> bool:
    """Whether something is a list of whole numbers, none below zero and none longer than a file may be."""
    return isinstance(thing, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in thing)


def check_spans(spans: Mapping[str, Span]) -> None:
    """Refuse, with a ValueError, tensors that overlap, and bytes that belong to none."""
    end, before = 0, ""
    for name, span in sorted(spans.items(), key=lambda item: (item[1].start, item[1].stop)):
        if span.start < end:
            raise ValueError(f"tensors {shown(before)} and {shown(name)} overlap")
        if span.start > end:
            raise ValueError(f"{span.start - end:,} bytes before tensor {shown(name)} belong to none")
        end, before = span.stop, name


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object in which no name is there twice; raises a ValueError if it is none."""

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"the name {shown(name)} is there twice")
            found[name] = value
        return found

    try:
        found = json.loads(text.decode(), object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def shown(thing: Any) -> str:
    """What a header says, short enough for a message."""
    text = repr(thing)
    return text if len(text) <= 100 else f"{text[:100]}..."


# Several files --------------------------------------------------------------------------------------------------------


def index_of(path: str) -> dict[str, str]:
    """The files that an index names, by tensors. They lie in its folder.

    Raises
    ------
    SourceError
        If it is not what an index must be.
    """
    try:
        places = parsed(head(path, HEADER_BYTES)).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise ValueError("its weight_map is not the names of files by those of tensors")
        for file in places.values():
            if file in ("", ".", "..") or any(letter in file for letter in "/\\\0"):
                raise ValueError(f"it names the file {shown(file)}, and files lie beside it")
    except ValueError as error:
        raise SourceError(f"{path} is a damaged index: {error}. Copy or download it again") from error
    return places


def indexed(path: str) -> Tensors:
    """The tensors of all files that an index names; those too that it does not name itself.

    Raises
    ------
    SourceError
        If a file or a tensor is missing, or two files hold a tensor that the index does not name.
    """
    places = index_of(path)
    folder, files = os.path.dirname(path), sorted(set(places.values()))
    if absent := [file for file in files if not os.path.lexists(os.path.join(folder, file))]:
        raise SourceError(f"{path} names {len(files)} files, and not beside it are {few(absent)}: download them too")
    found: dict[str, Run | Unknown] = {}
    said: dict[str, set[str]] = {}
    for file in files:
        tensors, metadata = tensors_of(os.path.join(folder, file))
        for key, value in metadata.items():
            said.setdefault(key, set()).add(value)
        for name, tensor in tensors.items():
            if places.get(name, file) == file:
                if name in found:
                    raise SourceError(f"{path} does not name tensor {shown(name)}, and several of its files hold it")
                found[name] = tensor
    if lost := [name for name in places if name not in found]:
        raise SourceError(f"{path} says that tensor {shown(lost[0])} is in {places[lost[0]]}, but it is not")
    return Tensors(path, found, metadata={key: value for key, (value, *others) in said.items() if not others})


def is_index(path: str) -> bool:
    """Whether a file is JSON that may tell in which files tensors lie."""
    if head(path).lstrip()[:1] != b"{" or os.path.getsize(path) > HEADER_BYTES:
        return False
    return b'"weight_map"' in head(path, HEADER_BYTES)


def checkpoint_in(folder: str) -> str:
    """The path of the index or of the one file that a folder has.

    Raises
    ------
    SourceError
        If there are several, and which is meant cannot be told.
    """
    names = names_in(folder)
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(SUFFIX)]
    if len(indices) == 1:
        path = os.path.join(folder, indices[0])
        others = sorted({*files} - {*index_of(path).values()})
        if not others:
            return path
        what = f"beside the files of {indices[0]} also {few(others)}"
    elif not indices and len(files) == 1:
        return os.path.join(folder, files[0])
    else:
        what = f"several checkpoints: {few(indices or files)}"
    raise SourceError(
        f"{folder} holds {what}. Pass the path of one, as in {os.path.join(folder, (indices or files)[0])}"
    )


# Written --------------------------------------------------------------------------------------------------------------

NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsSink(CollectionSink):
    """A ``.safetensors`` file. Names of dimensions, and attributes but those of the whole, have no room in it."""

    suffixes = (SUFFIX,)
    name = ".safetensors"

    def stored_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    def check(self, contents: Contents) -> None:
        names = set()
        for path, outline in contents.arrays.items():
            name = "/".join(path)
            if outline.dtype not in NAMES:
                what = "text" if outline.dtype.kind == "O" else outline.dtype
                raise ValueError(
                    f"{name} is of dtype {what}, which .safetensors files do not have: restore to Zarr, such as x.zarr"
                )
            if name in names or name == METADATA:
                raise ValueError(f"a .safetensors file cannot have a tensor {name!r} beside its others")
            names.add(name)

    @contextmanager
    def open(self, path: str | os.PathLike[str], contents: Contents) -> Iterator[Callable[[tuple[str, ...]], Put]]:
        said = contents.groups.get((), {})
        header: dict[str, Any] = {}
        if said:
            header[METADATA] = {
                key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()
            }
        offset, places = 0, {}
        # those of wide values first, so that each begins at a multiple of its length
        for place, outline in sorted(contents.arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
            size = math.prod(outline.shape) * outline.dtype.itemsize
            places[place] = offset
            header["/".join(place)] = {
                "dtype": NAMES[outline.dtype],
                "shape": list(outline.shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            file.truncate(8 + len(text) + offset)

            def putting(place: tuple[str, ...]) -> Put:
                outline = contents.arrays[place]
                begin = 8 + len(text) + places[place]
                return functools.partial(write_runs, file.fileno(), begin, outline.shape, DTYPES[NAMES[outline.dtype]])

            yield putting
            file.flush()
            os.fsync(file.fileno())


class Safetensors(Format):
    files = ".safetensors"
    suffixes = (SUFFIX,)
    collection_sink = SafetensorsSink

    def takes(self, thing: Any) -> bool:
        if not isinstance(thing, str) or is_url(thing):
            return False
        if os.path.isdir(thing):
            return any(name.endswith((SUFFIX, INDEX_SUFFIX)) for name in names_in(thing))
        start = head(thing, 9)
        if start[8:] == b"{":
            length = int.from_bytes(start[:8], "little")
            return suffix_of(thing) == SUFFIX or length <= os.path.getsize(thing) - 8
        return is_index(thing)

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        path = checkpoint_in(thing) if os.path.isdir(thing) else thing
        if is_index(path):
            return indexed(path)
        tensors, metadata = tensors_of(path)
        return Tensors(path, tensors, metadata=metadata)


FORMAT = Safetensors()
