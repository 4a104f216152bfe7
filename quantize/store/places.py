"""Where what belongs to a variable lies in its group, by the version of the format."""

from __future__ import annotations

import re
import string
from urllib.parse import unquote_to_bytes

from ..numerics.granularity import Granularity

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ENDINGS = ("_scan", "_histogram", "_scale", "_zero_point")  # version 1: behind a variable's name
HIDDEN = ".int4"  # version 2: a folder within that of the variable, where Zarr looks for no arrays
PARTS = ("scan", "histogram", "scale", "zero_point")  # names there
GROUP_DOCUMENT = "zarr.json"
APPENDED = "appended"  # a key of a fingerprint: what came behind the values of the first job
NAME_BYTES = 255  # bytes: the longest name of a file or a folder
ESCAPE = "="  # before the two hexadecimal digits of a byte: as `%` in URLs, which would be taken for one of theirs
FIRST = (string.ascii_letters + string.digits).encode()  # bytes of names that stand as they are, at the first place
INSIDE = FIRST + b"_.-"  # and at the others


def is_plain(name: str) -> bool:
    """Whether a variable of version 1 may have this name: with what is put behind it, it names others beside it."""
    short = len(name) <= NAME_BYTES - max(map(len, ENDINGS))
    return short and bool(PLAIN_NAME.fullmatch(name)) and not name.endswith(ENDINGS) and name != GROUP_DOCUMENT


def version_of(name: str, granularity: Granularity) -> int:
    """The version of the format that a variable is written in: 1 where that has all it needs."""
    return 1 if is_plain(name) and granularity.fraction == 1 else 2


def folder_of(name: str) -> str:
    """The folder of a variable: its name, of which bytes that not every store takes are escaped.

    >>> folder_of("logit_scale"), folder_of("t2m (max)"), folder_of("Höhe")
    ('logit_scale', 't2m=20=28max=29', 'H=C3=B6he')

    Raises
    ------
    ValueError
        If no variable may have the name.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name is {name!r}, but must be a text of at least one character")
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"name {name!r} is no text that UTF-8 can hold: {error.reason}") from None
    if name == GROUP_DOCUMENT:
        return f"{ESCAPE}{data[0]:02X}{name[1:]}"
    folder = "".join(
        chr(byte) if byte in (INSIDE if place else FIRST) else f"{ESCAPE}{byte:02X}" for place, byte in enumerate(data)
    )
    if len(folder) > NAME_BYTES:
        raise ValueError(f"name is {len(folder)} bytes long, and file systems take {NAME_BYTES}: {folder[:40]}...")
    return folder


def check_one_part(name: str) -> None:
    """Refuse a name that would be taken for the path of a variable in a group of the store."""
    if isinstance(name, str) and "/" in name:
        raise ValueError(
            f"name {name!r} has a '/', which parts the names of groups from one another: name the group with the store "
            "and give the variable the last part, as in store='x.zarr/group', name='variable'"
        )


def name_of(folder: str) -> str | None:
    """The name of the variable that lies in a folder, if one can: the inverse of `folder_of`.

    >>> name_of("t2m=20=28max=29"), name_of(".int4"), name_of("50%")
    ('t2m (max)', None, None)
    """
    try:
        name = unquote_to_bytes(folder.replace("%", "%25").replace(ESCAPE, "%")).decode()
        return name if folder_of(name) == folder else None
    except ValueError:
        return None


def places_of(name: str, version: int) -> tuple[str, ...]:
    """Of the arrays that belong to a variable: what pass 1 found, its histograms, the scales, the zero points."""
    if version == 1:
        return tuple(f"{name}{ending}" for ending in ENDINGS)
    return tuple(f"{folder_of(name)}/{HIDDEN}/{part}" for part in PARTS)
