"""What is written: a `Sink` for each format, and files and folders that take their place once they are whole."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..numerics.dtypes import BFLOAT16
from ..numerics.grid import Region, Shape

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

    def stored_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype in which values of a dtype are written: float32 for bfloat16, which few formats have."""
        return np.dtype(np.float32) if dtype == BFLOAT16 else dtype

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


def check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a path that may not, or cannot, be written.

    Raises
    ------
    FileExistsError
        If it is there and `overwrite` is not set, or it is a folder with anything else than one Zarr array.
    FileNotFoundError
        If its folder is not there.
    """
    check_free(target, overwrite)
    if target.is_dir() and not holds_an_array(target):
        raise FileExistsError(f"{target} is a folder and no Zarr array, so nothing replaces it; name another path")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target.absolute().parent} does not exist, so {target.name} cannot be made there")


def holds_an_array(folder: Path) -> bool:
    """Whether a folder is an array of Zarr's: the only folders that the library makes and replaces."""
    from ..store.keys import Keys
    from ..store.zarr_json import node_type

    return node_type(Keys.of(folder).get("zarr.json") or b"") == "array"


@contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A path beside the target to write to, which takes the target's place if all goes well and is removed if not."""
    target = target.absolute()
    check_target(target, overwrite)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    remove(partial)
    try:
        yield partial
        if target.is_dir() or partial.is_dir():
            remove(target)
        os.replace(partial, target)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
