"""The manifest of a collection: which variables belong to a group, and how each lies there. Format version 2.

It stands in the ``zarr.json`` of the group, under the attribute ``int4``. It is written first, as unfinished, and last,
as sealed: so a run that died in its third variable never passes for a collection of two.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..exceptions import REMEDY, StoreError, UnfinishedStoreError
from ..numerics.dtypes import BFLOAT16
from ..numerics.grid import Shape
from .codec import Compressor
from .keys import Keys
from .places import folder_of
from .plain_arrays import TEXT, PlainArray
from .zarr_json import checksum, loaded, same, serialized, tagged, untagged

VERSION = 2
STATUSES = ("writing", "sealed")
MOST = 1 << 28  # bytes of the zarr.json of a group
KEY = "zarr.json"
EXTRA = {"bfloat16": BFLOAT16}  # dtypes that NumPy does not know by name


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
        What tells this variable of one job from that of another.
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
        kind, path = document["kind"], document["path"]
        if kind not in ("int4", "kept") or not isinstance(path, list) or not path:
            raise ValueError(f"{path!r} of kind {kind!r} is no variable")
        found = cls(tuple(path), kind, lengths(document["shape"]), dtype_of(document["dtype"]))
        found.folder  # noqa: B018 - refuses what is no name
        found = replace(found, source=dict(document["source"]))
        if kind == "int4":
            return found
        names, compressor = document["dimension_names"], document["compressor"]
        if names is not None and (len(names) != len(found.shape) or not all(isinstance(n, str | None) for n in names)):
            raise ValueError(f"{names!r} are no names of {len(found.shape)} axes")
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
    status : {"writing", "sealed"}
    replaced : tuple of str
        Folders of an earlier collection, which are to be removed before anything is written.
    """

    members: tuple[Member, ...]
    groups: dict[tuple[str, ...], dict[str, Any]]
    status: str = STATUSES[0]
    replaced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for member in self.members:
            folder = member.folder
            if folder in taken:
                raise ValueError(f"there are two variables of the name {member.name!r}")
            taken[folder] = member.name
        for member in self.members:
            for path in (member.path[:n] for n in range(1, len(member.path))):
                if (folder := folder_of_group(path)) in taken:
                    raise ValueError(f"{taken[folder]!r} is a variable, and the group of {member.name!r}")

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @functools.cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.members}

    @functools.cached_property
    def group_paths(self) -> tuple[tuple[str, ...], ...]:
        """Every group, those too that only hold others, from the outermost."""
        found = {()} | {path[:n] for path in self.groups for n in range(len(path) + 1)}
        found |= {member.path[:n] for member in self.members for n in range(len(member.path))}
        return tuple(sorted(found, key=lambda path: (len(path), path)))

    def to_json(self) -> bytes:
        return self._json

    @functools.cached_property
    def _json(self) -> bytes:
        header: dict[str, Any] = {
            "version": VERSION,
            "status": self.status,
            "variables": {member.folder: member.to_json() for member in self.members},
            "groups": [{"path": list(path), "attributes": tagged(self.groups[path])} for path in sorted(self.groups)],
            "replaced": list(self.replaced),
        }
        header["checksum"] = checksum(header)
        return serialized({"zarr_format": 3, "node_type": "group", "attributes": {"int4": header}})

    def is_job_of(self, other: Manifest) -> bool:
        """Whether both are of the same job, whatever their states."""
        return replace(self, status="", replaced=()).to_json() == replace(other, status="", replaced=()).to_json()

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
            found = cls(
                tuple(map(Member.from_json, header["variables"].values())),
                {tuple(one["path"]): untagged(dict(one["attributes"])) for one in header["groups"]},
                header["status"],
                tuple(header["replaced"]),
            )
            if found.status not in STATUSES:
                raise ValueError(f"status {found.status!r} is unknown")
            again = json.loads(found.to_json())["attributes"]["int4"]
            if not same({key: value for key, value in again.items() if key != "checksum"}, header):
                raise ValueError("a part of it is not what the rest calls for")
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise StoreError(f"{where} contradicts itself: {what}. {REMEDY}") from error
        return found


def manifest_of(keys: Keys) -> Manifest | None:
    """The manifest of a collection; None where there is none. Raises as `Manifest.from_json` does."""
    try:
        data = keys.view(KEY, most=MOST)
    except ValueError as error:
        raise StoreError(f"{keys.label}/{KEY} is damaged: {error}. {REMEDY}") from error
    return None if data is None else Manifest.from_json(bytes(data), f"{keys.label}/{KEY}")


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
