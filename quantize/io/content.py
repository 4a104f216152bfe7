"""What a file or a folder is by what it holds: first bytes, documents. What its name says helps messages alone."""

from __future__ import annotations

import errno
import functools
import glob
import os
import re
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exceptions import SourceError
from ..numerics.names import ZIP

HEAD_BYTES = 64  # bytes: what is read of a file to tell its format
DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")  # what makes a folder a Zarr array or group

# What a file that no format takes is by its first bytes, and what to do with it.
OTHERS = {
    b"\x1f\x8b": "is compressed by gzip: unpack it with `gunzip`",
    b"(\xb5/\xfd": "is compressed by zstd: unpack it with `unzstd`",
    b"BZh": "is compressed by bzip2: unpack it with `bunzip2`",
    b"\xfd7zXZ": "is compressed by xz: unpack it with `unxz`",
    b"version https://git-lfs": "is a pointer of Git LFS to a file that was not fetched: `git lfs pull` fetches it",
    b"<!DOCTYPE": "is a web page, as a server sends it in place of a file: download it again",
    b"<html": "is a web page, as a server sends it in place of a file: download it again",
    b"GRIB": "is a GRIB file: open it with xarray (its engine is cfgrib), and pass a variable of it",
}


def head(path: str, length: int = HEAD_BYTES, offset: int = 0) -> bytes:
    """The first bytes of a file, or some from an offset; none of a folder.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)
    except IsADirectoryError:
        return b""
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error of a system or a library says, and what to do where that is known."""
    if isinstance(error, OSError):
        if error.errno in (errno.EACCES, errno.EPERM):
            return "this user has no permission; have its owner give it, or copy what is to be read"
        if error.strerror and error.errno is not None:
            return error.strerror
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip() or type(error).__name__


def begins(path: str) -> str:
    """How a file begins, for a message."""
    return f"it begins with {head(path, 16)!r}" if os.path.getsize(path) else "it is empty, 0 bytes"


def otherwise(path: str) -> str:
    """What a file is that no format takes, and what to do; "" where that is not known."""
    start = head(path)
    return next((said for magic, said in OTHERS.items() if start.startswith(magic)), "")


def check_regular(path: str) -> None:
    """Refuse what is not a file: a reader would wait for a pipe for ever.

    Raises
    ------
    SourceError
        If it is something else, or is not there.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'} and not a file")


def names_in(folder: str) -> list[str]:
    """The names in a folder, sorted, without hidden ones; none of what is not a folder.

    Raises
    ------
    SourceError
        If it cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except NotADirectoryError:
        return []
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {reason(error)}") from error


@dataclass(frozen=True)
class Matched:
    """Files that match a pattern, as `emb/part-*.npy`, in the order of their names."""

    pattern: str
    paths: tuple[str, ...]


def matched(pattern: str) -> Matched | None:
    """The files that a pattern matches; None of what is no pattern.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    if not any(letter in pattern for letter in "*?["):
        return None
    if found := glob.glob(pattern, recursive=True):
        return Matched(pattern, tuple(sorted(found, key=natural)))
    raise FileNotFoundError(f"no file matches {pattern}")


def natural(name: str) -> tuple[list[Any], str]:
    """What names are sorted by, numbers in them as numbers.

    >>> sorted(["part-10", "part-9", "part-010", "part"], key=natural)
    ['part', 'part-9', 'part-010', 'part-10']
    """
    return [int(part) if n % 2 else part for n, part in enumerate(re.split("([0-9]+)", name))], name


def doubts(paths: Sequence[str]) -> tuple[str, ...]:
    """What a plan must say of pieces by their names: numbers that are missing among them.

    >>> doubts(["x-1.npy", "x-2.npy", "x-5.npy"])
    ('of the pieces those numbered 3, 4 are missing',)
    >>> doubts(["x-0-of-3.npy", "x-1-of-3.npy"])
    ('the names of the pieces say that there are 3, and 2 are there',)
    >>> doubts(["a.npy", "b-7.npy"]), doubts(["x-1.npy", "x-2.npy"])
    ((), ())
    """
    names = [re.split(r"([0-9]+)", os.path.basename(path)) for path in paths]
    if len({(len(name), *name[::2]) for name in names}) > 1:
        return ()
    columns = [list(map(int, column)) for column in zip(*(name[1::2] for name in names), strict=True)]
    said = []
    if len(columns) == 2 and names[0][2] == "-of-" and {*columns[1]} != {len(paths)}:
        said.append(f"the names of the pieces say that there are {columns[1][0]:,}, and {len(paths):,} are there")
    counting = [column for column in columns if len({*column}) == len(paths) > 1]
    if len(counting) == 1:
        there = {*counting[0]}
        if len(absent := sorted({*range(min(there), min(max(there), min(there) + 2 * len(there)))} - there)) <= 5:
            said += [f"of the pieces those numbered {', '.join(map(str, absent))} are missing"] if absent else []
    return tuple(said)


# Zarr -----------------------------------------------------------------------------------------------------------------


def is_zip(path: str) -> bool:
    return os.path.isfile(path) and head(path, len(ZIP)) == ZIP


def holds_zarr(folder: str) -> bool:
    """Whether a folder has the documents of a Zarr array or group.

    Raises
    ------
    SourceError
        If one of them is a pipe or a device, for which a reader would wait for ever.
    """
    for name in DOCUMENTS:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return True
        if os.path.exists(path) and not os.path.isdir(path):
            raise SourceError(f"{path} is a pipe or a device in the place of a file: remove it, or copy the array anew")
    return False


def zarr_below(folder: str, most: int = 5) -> list[str]:
    """Names of folders in a folder that hold Zarr arrays or groups, of which it is none itself; some of them."""
    found: list[str] = []
    try:
        for path in sorted(Path(folder).iterdir()):
            if path.is_dir() and any((path / name).is_file() for name in DOCUMENTS):
                found.append(path.name)
            if len(found) == most:
                break
    except OSError:
        pass
    return found


@functools.lru_cache(maxsize=1)
def _roots(path: str, changed: int, size: int) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        found = {name.rpartition("/")[0] for name in archive.namelist() if name.rpartition("/")[2] in DOCUMENTS}
    return tuple(sorted(one for one in found if found.isdisjoint(folders_above(one))))


def folders_above(folder: str) -> list[str]:
    """The folders of an archive that a folder lies in.

    >>> folders_above("a/b/c"), folders_above("")
    (['', 'a', 'a/b'], [])
    """
    parts = folder.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts))] if folder else []


def roots_in_zip(path: str) -> tuple[str, ...]:
    """The folders of a zip archive that hold Zarr arrays or groups and lie in no other such; "" is the archive itself.

    Raises
    ------
    SourceError
        If it is no whole archive.
    """
    try:
        found = os.stat(path)
        return _roots(path, found.st_mtime_ns, found.st_size)
    except (zipfile.BadZipFile, OSError) as error:
        what = reason(error)
        raise SourceError(
            f"{path} is no whole zip archive, whose list of files comes last ({what}): copy or download it again"
        ) from error
