"""Keys that take their place once they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..store.keys import Keys
from ..store.zarr_json import node_type


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
    if target.is_dir() and node_type(Keys.of(target).get("zarr.json") or b"") != "array":
        raise FileExistsError(f"{target} is a folder and no Zarr array, so nothing replaces it; name another path")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target.absolute().parent} does not exist, so {target.name} cannot be made there")


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
