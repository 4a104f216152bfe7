"""The manifest of a collection: which variables belong to a group, and how each lies there. Format version 2.

It stands in the ``zarr.json`` of the group, under the attribute ``int4``. It is written first, as unfinished, and last,
as sealed: so a run that died in its third variable never passes for a collection of two. It begins with its status and
a digest of the job, by which whoever writes sees at little cost that the place is still its own.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..exceptions import REMEDY, StoreError, UnfinishedStoreError
from ..numerics.dtypes import TEXT
from ..numerics.grid import Shape
from .codec import Compressor
from .keys import Keys
from .places import APPENDED, folder_of, name_of
from .plain_arrays import PlainArray
from .zarr_json import checksum, loaded, own_header, same, serialized, tagged, untagged

VERSION = 2
STATUSES = ("replacing", "writing", "sealed")
MOST = 1 << 28  # bytes of the zarr.json of a group
KEY = "zarr.json"
LOOKS = 8  # times: how often a manifest that was opened is read again where it is not whole
PAUSE = 0.001  # seconds between the first two of these looks, and twice as long between the next


@dataclass(frozen=True)
class Member:
    """One variable of a collection.

    Attributes
    ----------
    path : tuple of str
        The groups that it lies in and its name, in full.
    kind : {"int4", "kept"}
    shape, dtype
        Of its values; `dtype` is ``object`` for texts of any length.
    chunk : tuple of int, optional
        Lengths of the chunks of what is kept.
    attributes, dimension_names
        Those of what is kept; what is quantized has its own in its metadata.
    compressor : Compressor, optional
        Of what is kept.
    source : dict
        What tells this variable of one job from that of another; of one that has grown, what was appended too.
    """

    path: tuple[str, ...]
    kind: Literal["int4", "kept"]
    shape: Shape
    dtype: np.dtype[Any]
    chunk: Shape | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    compressor: Compressor | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path as text."""
        return "/".join(self.path)

    @property
    def group(self) -> str:
        """The folder of the group that it lies in, "" for the collection's own."""
        return folder_of_group(self.path[:-1])

    @functools.cached_property
    def folder(self) -> str:
        """Where it lies in the collection."""
        return "/".join(map(folder_of, self.path))

    @property
    def appended(self) -> dict[str, Any]:
        """What was appended, as `Growth` has it; nothing where nothing was."""
        found = self.source.get(APPENDED)
        return found if isinstance(found, dict) else {}

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "path": list(self.path),
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": "text" if self.dtype == TEXT else dtype_name(self.dtype),
            "source": self.source,
        }
        if self.kind == "kept":
            assert self.chunk is not None
            assert self.compressor is not None
            document["chunks"] = list(self.chunk)
            document["compressor"] = {"name": self.compressor.name, "options": self.compressor.options}
            document["dimension_names"] = None if self.dimension_names is None else list(self.dimension_names)
            document["attributes"] = tagged(self.attributes)
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Member:
        kind, path = document["kind"], path_of(document["path"])
        if kind not in ("int4", "kept") or not path:
            raise ValueError(f"{path!r} of kind {kind!r} is no variable")
        shape, dtype = lengths(document["shape"]), dtype_of(document["dtype"])
        found = cls(path, kind, shape, dtype, source=dict(document["source"]))
        if kind == "int4":
            return found
        names, compressor = document["dimension_names"], document["compressor"]
        if names is not None and (len(names) != len(found.shape) or not all(isinstance(n, str | None) for n in names)):
            raise ValueError(f"{names!r} are no names of {len(found.shape)} axes")
        if dtype == TEXT and compressor["name"] not in (None, "zstd"):
            raise ValueError(f"texts are compressed by zstd, and not by {compressor['name']!r}")
        chunk = lengths(document["chunks"])
        if len(chunk) != len(found.shape) or 0 in chunk:
            raise ValueError(f"chunks {chunk} are none of an array of shape {found.shape}")
        return replace(
            found,
            chunk=chunk,
            attributes=untagged(dict(document["attributes"])),
            dimension_names=None if names is None else tuple(names),
            compressor=Compressor(compressor["name"], dict(compressor["options"])),
        )

    def plain(self, keys: Keys, attributes: dict[str, Any]) -> PlainArray:
        """The array of what is kept, with the attributes that Zarr's document has."""
        assert self.chunk is not None
        assert self.compressor is not None
        names = self.dimension_names
        return PlainArray(keys, self.folder, self.shape, self.dtype, self.chunk, attributes, names, self.compressor)


@dataclass(frozen=True)
class Manifest:
    """What the group of a collection says of it.

    Attributes
    ----------
    members : tuple of Member
        In the order of their folders.
    groups : dict
        The attributes of each group, by its path: ``()`` is the collection itself.
    status : {"replacing", "writing", "sealed"}
    replaced : tuple of str
        Folders of an earlier collection, which are to be removed before anything is written: while it is "replacing".
    """

    members: tuple[Member, ...]
    groups: dict[tuple[str, ...], dict[str, Any]]
    status: str = "writing"
    replaced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        taken: dict[tuple[str, ...], str] = {}
        names: set[str] = set()
        for member in self.members:
            if member.name in names:
                raise ValueError(f"there are two variables of the name {member.name!r}")
            names.add(member.name)
            taken[member.path] = member.name
        for path in self.group_paths:
            if path in taken:
                raise ValueError(f"{taken[path]!r} is a variable and a group")
        if (self.status == "replacing") != bool(self.replaced):
            raise ValueError(f"it is {self.status!r}, with {len(self.replaced)} folders to be removed")

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @functools.cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.members}

    @functools.cached_property
    def folders(self) -> tuple[str, ...]:
        """Those of all variables and groups but the collection's own."""
        return tuple(map(folder_of_group, self.group_paths[1:])) + tuple(member.folder for member in self.members)

    @functools.cached_property
    def group_paths(self) -> tuple[tuple[str, ...], ...]:
        """Every group, those too that only hold others, from the outermost."""
        found = {()} | {path[:n] for path in self.groups for n in range(len(path) + 1)}
        found |= {member.path[:n] for member in self.members for n in range(len(member.path))}
        return tuple(sorted(found, key=lambda path: (len(path), path)))

    @functools.cached_property
    def _job(self) -> dict[str, Any]:
        """What is the same whatever the state."""
        return {
            "variables": {member.folder: member.to_json() for member in self.members},
            "groups": [{"path": list(path), "attributes": tagged(self.groups[path])} for path in sorted(self.groups)],
        }

    @functools.cached_property
    def job(self) -> str:
        """What tells this job from others: a digest of all that is the same whatever the state."""
        return checksum(self._job)

    @functools.cached_property
    def lineage(self) -> str | None:
        """What a collection that has grown has in common with what it was, and with no other; None where it has not.

        It begins with the job of the collection that something was appended to first.
        """
        return next((str(member.appended["id"]) for member in self.members if "id" in member.appended), None)

    def has_run(self, run: str) -> bool:
        """Whether what an append of this id brought is part of the collection."""
        return any(member.appended.get("run") == run for member in self.members)

    def continues(self, job: str, lineage: str | None) -> bool:
        """Whether this is what has become of a collection, once something was appended to it."""
        mine = self.lineage
        return mine is not None and (mine == lineage if lineage is not None else mine.startswith(job))

    def at(self, status: str, replaced: tuple[str, ...] = ()) -> Manifest:
        """The same job's in another state."""
        found = replace(self, status=status, replaced=replaced)
        for name in ("_job", "job", "_by_name", "group_paths"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        return found

    def to_json(self) -> bytes:
        return self._json

    @functools.cached_property
    def _json(self) -> bytes:
        header = {**self._state, "replaced": list(self.replaced), **self._job}
        header["checksum"] = checksum(header)
        return document_of(header)

    @property
    def _state(self) -> dict[str, Any]:
        return {"version": VERSION, "status": self.status, "job": self.job}

    @functools.cached_property
    def head(self) -> bytes:
        """How the document begins: with the status and the job, which no two have in common."""
        document = document_of(self._state)
        return document[: document.index(self.job.encode()) + len(self.job)]

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest | None:
        """The manifest in the ``zarr.json`` of a group; None if there is none.

        Raises
        ------
        StoreError
            If it is damaged, of a newer version, or contradicts itself.
        """
        if b'"int4"' not in data:
            return None
        try:
            document = loaded(data)
        except ValueError as error:
            raise StoreError(f"{where} is damaged: it is not JSON ({error}). {REMEDY}") from error
        attributes = document.get("attributes") if isinstance(document, dict) else None
        header = attributes.get("int4") if isinstance(attributes, dict) else None
        if not isinstance(header, dict) or document.get("node_type") != "group":
            return None
        version, stored = header.get("version"), header.pop("checksum", None)
        if isinstance(version, int) and version > VERSION:
            raise StoreError(f"{where} has format version {version}; this library reads up to {VERSION}. Upgrade")
        if stored != checksum(header):
            raise StoreError(
                f"{where} is damaged: the checksum of the manifest does not match its contents (they were changed by "
                f"something other than this library). {REMEDY}"
            )
        try:
            if header["status"] not in STATUSES:
                raise ValueError(f"status {header['status']!r} is unknown")
            found = cls(
                tuple(map(Member.from_json, header["variables"].values())),
                {path_of(one["path"]): untagged(dict(one["attributes"])) for one in header["groups"]},
                header["status"],
                tuple(folder for folder in header["replaced"] if is_folder(folder)),
            )
            again = json.loads(found.to_json())["attributes"]["int4"]
            if not same({key: value for key, value in again.items() if key != "checksum"}, header):
                raise ValueError("a part of it is not what the rest calls for")
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise StoreError(f"{where} contradicts itself: {what}. {REMEDY}") from error
        return found


def document_of(header: dict[str, Any]) -> bytes:
    return serialized({"zarr_format": 3, "node_type": "group", "attributes": {"int4": header}})


@dataclass
class Standing:
    """The right of a run to change a collection: it is looked at before each change that nothing else guards.

    Whoever takes the place writes another manifest first, while nobody has the group locked. `heads` are the ways in
    which the document of this job may begin, with the status: others may have written it in another form, or have
    appended something, by which what was there stays.
    """

    keys: Keys
    job: str
    heads: dict[bytes, str]
    lineage: str | None = None

    @classmethod
    def of(cls, keys: Keys, manifest: Manifest) -> Standing:
        heads = {manifest.at(status).head: status for status in ("writing", "sealed")}
        return cls(keys, manifest.job, heads, manifest.lineage)

    def status(self) -> str | None:
        """That of the collection; None if there is none of this job."""
        heads = list(self.heads.items())
        beginning = bytes(self.keys.view(KEY, 0, max(len(head) for head, _ in heads)) or b"")
        for head, status in heads:
            if beginning.startswith(head):
                return status
        data, found = read_again(self.keys)
        if found is None or not (found.job == self.job or found.continues(self.job, self.lineage)):
            return None
        head = data[: data.index(found.job.encode()) + len(found.job)]
        if f'"{found.status}"'.encode() in head:
            if len(self.heads) > 2:  # that of an earlier length
                self.heads.popitem()
            self.heads[head] = found.status
        return found.status

    def stands(self) -> bool:
        """Whether there still is something to write: not if another run of the same job has sealed the collection.

        Raises
        ------
        StoreError
            If another job has taken its place.
        """
        status = self.status()
        if status not in ("writing", "sealed"):
            raise StoreError(f"{self.keys.label} was taken over by another job while this run was at it")
        return status == "writing"

    @contextmanager
    def changing(self) -> Iterator[bool]:
        """Around a change: whether there is something to write, as `stands` says and raises."""
        with self.keys.locked("", shared=True):
            yield self.stands()

    def seal(self, sealed: Manifest) -> None:
        """Write the manifest of a collection that is whole, unless another run of the job has; raises as `stands`."""
        with self.keys.locked(""):
            self.keys.change(KEY, lambda data: sealed.to_json() if self.stands() else None, MOST)

    def check_read(self) -> None:
        """See that what was read was that of the collection that was opened, whether or not all of that is written.

        Raises
        ------
        StoreError
            If it was overwritten or removed meanwhile.
        """
        if self.status() not in ("writing", "sealed"):
            raise StoreError(f"{self.keys.label} was overwritten or removed since it was opened; open it again")


def manifest_of(keys: Keys) -> Manifest | None:
    """The manifest of a collection; None where there is none. Raises as `Manifest.from_json` does."""
    try:
        data = keys.view(KEY, most=MOST)
    except ValueError:  # a pipe, or longer than any that is written
        return None
    return None if data is None else Manifest.from_json(bytes(data), f"{keys.label}/{KEY}")


def read_again(keys: Keys) -> tuple[bytes, Manifest | None]:
    """The bytes of the manifest, and what they say, where they are whole: a store may give their beginning for once."""
    pause = PAUSE
    for look in range(LOOKS):
        data = bytes(keys.view(KEY, most=MOST) or b"")
        with suppress(StoreError):
            found = Manifest.from_json(data, keys.label)
            if found is not None or not data or data.endswith(b"}"):
                return data, found
        if look + 1 < LOOKS:
            time.sleep(pause)
            pause *= 2
    return data, None


def is_ours(data: bytes) -> bool:
    """Whether the ``zarr.json`` of a group, damaged perhaps, is that of a collection of this library."""
    header = own_header(data)
    return "variables" in header if header else b'"int4"' in data and b'"variables"' in data and b'"group"' in data


def sealed_manifest(keys: Keys) -> Manifest | None:
    """As `manifest_of`, but an error if the run of the collection has not come to its end.

    Raises
    ------
    UnfinishedStoreError
        Saying how to go on.
    """
    found = manifest_of(keys)
    if found is not None and found.status != "sealed":
        raise UnfinishedStoreError(
            f"{keys.label} is an unfinished collection of {len(found.members):,} variables; call quantize_dataset with "
            "the same source and settings again to go on. A variable that is whole can be opened by its name"
        )
    return found


def path_of(value: Any) -> tuple[str, ...]:
    """A path of groups, and perhaps of a variable, as JSON has it; a ValueError if a part of it is no name."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no path")
    folder_of_group(tuple(value))  # refuses what is no name
    return tuple(value)


def is_folder(value: Any) -> bool:
    """Whether this is a folder in which something of a collection may lie, and nothing outside of it."""
    return isinstance(value, str) and all(name_of(part) is not None for part in value.split("/"))


def folder_of_group(path: tuple[str, ...]) -> str:
    return "/".join(map(folder_of, path))


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a dtype by which `dtype_of` finds it.

    >>> [dtype_name(np.dtype(name)) for name in ("float32", "M8[ns]", "S5", "U3", "?")]
    ['float32', 'datetime64[ns]', '|S5', '<U3', 'bool']
    """
    return dtype.newbyteorder("<").str if dtype.kind in "SU" else dtype.name


def dtype_of(name: Any) -> np.dtype[Any]:
    if name == "text":
        return TEXT
    if not isinstance(name, str):
        raise ValueError(f"dtype {name!r} is none")
    import ml_dtypes

    custom = getattr(ml_dtypes, name, None)
    dtype = np.dtype(custom) if isinstance(custom, type) else np.dtype(name)
    if dtype_name(dtype) != name or dtype.kind == "O" or dtype.fields is not None:
        raise ValueError(f"dtype {name!r} is none that is kept")
    return dtype


def lengths(value: Any) -> Shape:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**62 for n in value):
        raise ValueError(f"{value!r} is not a shape")
    return tuple(value)
