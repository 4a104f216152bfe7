"""Arrays that become longer: what their metadata say of it, and the journal of what is under way.

A sealed variable has a length along each axis, and what lies beyond it is not part of it. So new values are written
there first, and the metadata that say the new length make them part of it: one document, one `set`. Until then a
journal beside the variable says which job is at it, so that it can go on, and no other begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..exceptions import REMEDY, StoreError
from ..numerics.grid import Shape, packed_shape
from .keys import Keys
from .layout import Layout
from .metadata import Metadata, dictionary
from .places import APPENDED, HIDDEN
from .zarr_json import checksum, loaded, same, serialized

VERSION = 1  # of the journal
JOURNAL = f"{HIDDEN}/append.json"  # in the folder of the variable
JOURNAL_MOST = 1 << 20  # bytes
STREAM = "stream"  # a key of the fingerprint of what a stream made


@dataclass(frozen=True)
class Growth:
    """What was appended to a variable.

    Attributes
    ----------
    id : str
        Of this variable since something was appended first: one that takes its place has another. Where a collection
        grew, that of the collection: the digest of its job, a hyphen, and so on.
    axis : int
        The one along which the last came.
    commits : int
        How often something was.
    saturated : int
        Appended values that lay outside the range of the scale that was there.
    run : str
        The journal by which the last came.
    last : dict
        The job that it was.
    """

    id: str
    axis: int
    commits: int = 0
    saturated: int = 0
    run: str = ""
    last: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Metadata) -> Growth | None:
        """None where nothing was appended."""
        found = metadata.fingerprint.get(APPENDED)
        try:
            return None if found is None else cls(**dictionary(found, APPENDED))
        except (TypeError, ValueError):
            return None

    @property
    def together(self) -> bool:
        """Whether a collection grew, whose manifest says how long the variable is."""
        return "-" in self.id

    def beside(self, metadata: Metadata) -> dict[str, Any]:
        """The fingerprint of a variable with these metadata that has grown so."""
        return {**metadata.fingerprint, APPENDED: dict(vars(self))}


def is_stream(metadata: Metadata) -> bool:
    """Whether a variable was made by a stream, whose length was not known at first.

    Until something is committed its metadata are not sealed, and their length is no one's.
    """
    return STREAM in metadata.fingerprint


def without_growth(metadata: Metadata) -> dict[str, Any]:
    """The fingerprint of the job that made a variable."""
    return {key: value for key, value in metadata.fingerprint.items() if key != APPENDED}


def shortened(metadata: Metadata, shape: Shape, appended: Any) -> Metadata | None:
    """The metadata of a variable that has grown as they were, but for statistics, when it had another shape.

    `appended` is what its fingerprint had of appends then, or None. None where it never had that shape.
    """
    layout, fingerprint = metadata.layout, without_growth(metadata)
    if len(shape) != len(layout.shape):
        return None
    axis = next((axis for axis, n in enumerate(shape) if n != layout.shape[axis]), None)
    if appended is not None:
        fingerprint[APPENDED] = appended
    try:
        cut = Layout(shape, layout.dtype, layout.chunks, layout.shards, layout.compressor, axis)
        found = replace(metadata, layout=cut, fingerprint=fingerprint, statistics=None)
    except ValueError:
        return None
    return found if continues(metadata, found) else None


def continues(now: Metadata, before: Metadata) -> bool:
    """Whether metadata are those of a variable which has grown since: all that it held it still holds, at its place."""
    grown, old = Growth.of(now), Growth.of(before)
    if grown is None or now.status != "sealed" or (old is not None and old.id != grown.id):
        return False
    mine, its = before.layout, now.layout
    if len(mine.shape) != len(its.shape) or any(n < m for n, m in zip(its.shape, mine.shape, strict=True)):
        return False
    if cut_as(mine) != cut_as(its):
        return False
    again = replace(before, layout=its, fingerprint=now.fingerprint, statistics=now.statistics)
    return same(without_growth(now), without_growth(before)) and again.to_json() == now.to_json()


def cut_as(layout: Layout) -> tuple[Any, ...]:
    """What of a layout stays as it is while the array becomes longer."""
    shards = layout.shards and packed_shape(layout.shards)
    return packed_shape(layout.chunks), shards, layout.dtype, layout.compressor


@dataclass(frozen=True)
class Journal:
    """What is under way at a sealed variable.

    Attributes
    ----------
    run : str
        Of this try: what it has committed names it.
    axis, start : int
        The axis, of a collection that of the first of its variables, and the length along it that there was at first.
    stop : int or None
        The length that there will be; None for who does not know.
    id : str
        As in `Growth`.
    job : dict
        What tells the job from others.
    discarding : bool
        Whether it was given up, and what it wrote is being removed.
    """

    run: str
    axis: int
    start: int
    stop: int | None
    id: str
    job: dict[str, Any]
    discarding: bool = False

    def to_json(self) -> bytes:
        header: dict[str, Any] = {"version": VERSION, **vars(self)}
        return serialized({**header, "checksum": checksum(header)})

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Journal:
        """Raises a `StoreError` for what is none."""
        try:
            header = dictionary(loaded(data), "it")
            stored, version = header.pop("checksum", None), header.pop("version", None)
            if version != VERSION:
                raise ValueError(f"it has version {version!r}, and this library reads {VERSION}")
            found = cls(**header)
            if stored != checksum({"version": version, **header}):
                raise ValueError("its checksum does not match its contents")
            if not (type(found.axis) is type(found.start) is int and type(found.run) is type(found.id) is str):
                raise ValueError("it has other types than it must have")
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{where} is damaged: {error}. What it speaks of is not part of the array yet: discard it, and append "
                "again"
            ) from error
        return found


def journal_key(folder: str) -> str:
    """The journal of a variable by its folder; of a collection, whose folder is "", it lies in the group."""
    return f"{folder}/{JOURNAL}" if folder else JOURNAL


def journal_of(keys: Keys, folder: str) -> Journal | None:
    """The journal of a variable; None where nothing is under way.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    key = journal_key(folder)
    try:
        found = keys.view(key, most=JOURNAL_MOST)
    except ValueError as error:
        raise StoreError(f"{keys.label}/{key} is damaged: {error}. {REMEDY}") from error
    return None if found is None else Journal.from_json(bytes(found), f"{keys.label}/{key}")
