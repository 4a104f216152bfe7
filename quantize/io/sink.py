"""What is written: a `Sink` for each format, and files and folders that take their place once they are whole."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..numerics.dtypes import BFLOAT16
from ..numerics.grid import Region, Shape
from ..store.retrying import naming

PAUSES = (0.0, 0.05, 0.2, 1.0)  # seconds before a folder that others write into is removed once more

Put = Callable[[Region, np.ndarray], None]


@dataclass(frozen=True)
class Outline:
    """What a sink is told of an array before its values come.

    Attributes
    ----------
    shape, dtype
        Of the values; their dtype is one that the sink has.
    chunks, shards : tuple of int or None
        The boxes that the array lies in where it comes from.
    attributes, dimension_names
        What else is known of it. A format without room for them leaves them out.
    """

    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape | None = None
    shards: Shape | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None


class Sink(ABC):
    """A format that an array is written in.

    It takes values. An export of codes would fit in here: `put` gets the scales of the region too, `Outline` says which
    values share one, and `check` refuses what the format cannot hold of that.

    Attributes
    ----------
    suffixes : tuple of str
        How the names of its files end, with the dot.
    name : str
        What to call the format in messages.
    shared : bool
        Whether several processes may write into one at the same time: what `open` gives then travels to them.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize.io import sink_of
    >>> from tempfile import TemporaryDirectory
    >>> sink, outline = sink_of("x.npy"), Outline((3, 2), np.dtype("f4"))
    >>> sink.check(outline)
    >>> with TemporaryDirectory() as folder:
    ...     with sink.open(f"{folder}/x.npy", outline) as put:
    ...         put((slice(0, 2), slice(0, 2)), np.ones((2, 2), "f4"))
    ...     np.load(f"{folder}/x.npy").tolist()
    [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """

    suffixes: ClassVar[tuple[str, ...]]
    name: ClassVar[str]
    shared: ClassVar[bool] = False

    def stored_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype in which values of a dtype are written: float32 for bfloat16 and float8, which few formats have."""
        return plain_float(dtype)

    def check(self, outline: Outline) -> None:
        """Refuse what the format cannot hold, before anything is written.

        Raises
        ------
        ValueError
            Saying what that is.
        """
        stored = self.stored_dtype(outline.dtype)
        if stored != outline.dtype:
            raise ValueError(f"{self.name} has no {outline.dtype}; write the values as {stored}")

    @abstractmethod
    def open(self, path: str | os.PathLike[str], outline: Outline) -> AbstractContextManager[Put]:
        """Make a file or folder, of which there is none yet, and give what writes a region's values into it.

        Regions are whole chunks or shards of the outline, if that has any, and may come from several threads at a time.
        What no region covers is 0. Once the context ends, everything is written.
        """


@dataclass(frozen=True)
class Contents:
    """What a sink is told of a collection before its values come.

    Attributes
    ----------
    arrays : mapping of tuple of str to Outline
        By the groups that each lies in and its name, in full. Chunks are given, and the dtype may be any that is kept.
    groups : mapping of tuple of str to mapping
        The attributes of each group, ``()`` the collection itself.
    """

    arrays: Mapping[tuple[str, ...], Outline]
    groups: Mapping[tuple[str, ...], Mapping[str, Any]]

    @property
    def all_groups(self) -> list[tuple[str, ...]]:
        """Every group, those too that only hold others, each behind those that it lies in."""
        above = {path[:n] for path in (*self.arrays, *self.groups) for n in range(len(path))}
        return sorted(above | {*self.groups} | {()})


class CollectionSink(ABC):
    """A format that several arrays are written in, with their names, attributes and groups.

    Attributes
    ----------
    suffixes, name
        As of a `Sink`.
    """

    suffixes: ClassVar[tuple[str, ...]]
    name: ClassVar[str]

    def stored_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype in which values of a dtype are handed to `put`."""
        return plain_float(dtype)

    @abstractmethod
    def check(self, contents: Contents) -> None:
        """Refuse what the format cannot hold, before anything is written.

        Raises
        ------
        ValueError
            Saying what that is.
        """

    @abstractmethod
    def open(
        self, path: str | os.PathLike[str], contents: Contents
    ) -> AbstractContextManager[Callable[[tuple[str, ...]], Put]]:
        """Make a file or folder, of which there is none yet; what it gives tells what writes the regions of an array.

        Regions are whole chunks or shards of the outlines, and may come from several threads at a time. All of them
        come. Once the context ends, everything is written.
        """


def plain_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for bfloat16 and float8, which few formats have; any other dtype as it is."""
    return np.dtype(np.float32) if dtype == BFLOAT16 or dtype.name.startswith("float8_") else dtype


def check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")


def check_target(target: Path, overwrite: bool, collection: bool = False) -> None:
    """Refuse a path that may not, or cannot, be written.

    Raises
    ------
    FileExistsError
        If it is there and `overwrite` is not set, or it is a folder with anything else than one Zarr array or, where a
        `collection` is written, a Zarr group as `restore` makes it.
    FileNotFoundError
        If its folder is not there.
    """
    check_free(target, overwrite)
    if target.is_dir() and not holds_an_array(target) and not (collection and holds_a_restored_group(target)):
        what = "Zarr array, nor a group that was restored" if collection else "Zarr array"
        raise FileExistsError(f"{target} is a folder and no {what}, so nothing replaces it; name another path")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target.absolute().parent} does not exist, so {target.name} cannot be made there")


def holds_an_array(folder: Path) -> bool:
    """Whether a folder is an array of Zarr's: the only folders that the library makes and replaces."""
    from ..store.keys import Keys
    from ..store.zarr_json import node_type

    return node_type(Keys.of(folder).get("zarr.json") or b"") == "array"


def holds_a_restored_group(folder: Path) -> bool:
    """Whether a folder is a Zarr group as `restore` makes it: with consolidated metadata, and with nothing of ours."""
    from ..store.keys import Keys
    from ..store.zarr_json import consolidated, own_header

    data = Keys.of(folder).get("zarr.json") or b""
    found = consolidated(data)
    if found is None or own_header(data):
        return False
    attributes = (one.get("attributes") for one in found.values() if isinstance(one, dict))
    return not any(isinstance(one, dict) and "int4" in one for one in attributes)


def check_room(target: Path, nbytes: int, what: str) -> None:
    """Refuse what a disk has no room for, before it is written.

    Raises
    ------
    ValueError
        With the sum; `what` is what takes the bytes, in the plural.
    """
    sweep_beside(target)
    free = shutil.disk_usage(target.absolute().parent).free
    if nbytes > free:
        raise ValueError(
            f"not enough disk for {target}: {what} take {nbytes:,} bytes, and {free:,} are free. Make room, or name "
            "another place"
        )


@contextmanager
def replacing(target: Path, overwrite: bool, collection: bool = False) -> Iterator[Path]:
    """A path beside the target to write to, which takes the target's place if all goes well and is removed if not.

    What processes that were killed have left beside the target is removed too. An error of the disk names the target.
    """
    target = target.absolute()
    check_target(target, overwrite, collection)
    partial = target.with_name(f".{target.name}.{own_mark()}-{secrets.token_hex(4)}.partial")
    with naming(target):
        sweep_beside(target)
        try:
            yield partial
            if target.is_dir() or partial.is_dir():
                remove(target)
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):  # workers of a cluster may be writing into it yet
                remove(partial)
            raise


def remove(path: Path) -> None:
    """Remove a file or a folder, into which other processes may be writing yet."""
    if path.is_dir():
        (path / "zarr.json").unlink(missing_ok=True)  # without which others write no more into an array
        for pause in PAUSES:
            with suppress(OSError):  # what was written meanwhile
                return shutil.rmtree(path)
            time.sleep(pause)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# What killed processes leave ------------------------------------------------------------------------------------------

PROCESS, MACHINE = r"(?P<process>[0-9]+)", r"(?P<machine>[0-9a-f]{8})"  # what a mark is made of
PROCESSES = "/proc/self/ns/pid"  # a link that says, on Linux, which processes have numbers of their own


def own_mark() -> str:
    """What marks a temporary file as this process's: its number, and that of what numbers processes."""
    return f"{os.getpid()}-{machine()}"


@functools.cache
def machine() -> str:
    """Eight digits for what numbers processes: this machine or, of one with containers, this container."""
    numbering = os.readlink(PROCESSES) if os.path.islink(PROCESSES) else ""
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def sweep_beside(target: Path) -> None:
    """Remove what killed processes left of a target."""
    sweep(target.absolute().parent, rf"\.{re.escape(target.name)}\.{PROCESS}(-{MACHINE}(-\w+)?)?\.partial")


def sweep(folder: Path, pattern: str) -> None:
    """Remove files and folders whose names match a pattern, where the process that it finds in them is no more.

    Those of other machines stay, and those of a process whose number another one has now: it ends some day.
    """
    with suppress(OSError):  # a folder that may be written to but not listed
        for path in list(folder.iterdir()):
            match = re.fullmatch(pattern, path.name)
            if match and match["machine"] in (None, machine()) and not is_alive(int(match["process"])):
                with suppress(OSError):  # somebody else's
                    remove(path)


def is_alive(process: int) -> bool:
    if os.name == "nt":  # where this would send a signal
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True
