"""The store: where the bytes of a variable lie and what may happen to them. Create, overwrite, write, seal, remove.

One variable lives in a Zarr v3 group under its name: ``<name>/zarr.json`` with all that is said of it, its chunks under
``<name>/c/``, and what else belongs to it as `store.places` says. Every change is one atomic `set`.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync

from .exceptions import REMEDY, StoreError, UnfinishedStoreError
from .numerics.granularity import PER_TENSOR, Granularity
from .numerics.grid import Grid, packed_shape, shape_of
from .store.growth import Growth, is_stream, shortened
from .store.guard import WriteGuard
from .store.keys import Keys, chunk_key, present
from .store.layout import Layout
from .store.manifest import Manifest, Member, Standing, folder_of_group, manifest_of
from .store.metadata import Metadata, ScaleNames
from .store.places import APPENDED, HIDDEN, folder_of, is_plain, name_of, places_of, version_of
from .store.retrying import retried
from .store.side_arrays import owns, stored_scales
from .store.zarr_json import group_document, node_type, own_header, same, without_consolidated

GROUP_MOST = 1 << 28  # bytes of the zarr.json of a group, with its consolidated metadata
DELETIONS = 3  # attempts: another run may write a chunk again before it sees that it has lost its place


# One variable ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """One variable of a store: its keys, and what may be done to them. It knows no more than its name.

    A `member` of a collection is of version 2 of the format, in which no other variable's name is taken. Its group is
    the collection's affair; `standing` is the right of the run that writes it. What is to become `longer` is of version
    2 too.
    """

    keys: Keys
    name: str
    member: bool = False
    standing: Standing | None = None
    longer: bool = False

    def __post_init__(self) -> None:
        folder_of(self.name)  # refuses what is no name

    @functools.cached_property
    def folder(self) -> str:
        return folder_of(self.name)

    @property
    def where(self) -> str:
        return f"{self.keys.label}/{self.name}"

    @property
    def key(self) -> str:
        return f"{self.folder}/zarr.json"

    @property
    def beside(self) -> tuple[str, ...]:
        """Where what belongs to the variable lies, but for scales of blocks, which lie in its folder."""
        return places_of(self.name, self.version_for(PER_TENSOR))

    def version_for(self, granularity: Granularity) -> int:
        """The version of the format that it is written in."""
        return 2 if self.member or self.longer else version_of(self.name, granularity)

    def metadata(self) -> Metadata | None:
        """What the store says of the variable; None where there is none.

        Raises
        ------
        StoreError
            If what is there is damaged, of a newer version or not ours.
        """
        return self.metadata_of(self.keys.get(self.key))

    def metadata_of(self, data: bytes | None) -> Metadata | None:
        """As `metadata`, of these bytes of its key."""
        if data is None:
            return None
        found = Metadata.from_json(data, f"{self.keys.label}/{self.key}")
        if isinstance(found.scale, ScaleNames) and found.scale != ScaleNames.of(self.name, found.version):
            raise StoreError(f"{self.where} has its scales in {found.scale.scale}, as a variable of another name would")
        if found.name not in (None, self.name):
            raise StoreError(
                f"{self.where} was made as {found.name}, and lies in another folder: rename that to "
                f"{folder_of(found.name or '')}"
            )
        return found

    def chunk_key(self, layout: Layout, number: int) -> str:
        return chunk_key(self.folder, layout.units, number)

    # Life

    def guard(self, metadata: Metadata) -> WriteGuard:
        """The right of a task to write as long as these are the metadata."""
        return WriteGuard(self.keys, self.folder, functools.partial(self.stands, metadata))

    def create(self, metadata: Metadata) -> bool:
        """Make the group where there is none, and the variable in it; `check_place` comes before.

        Whether it has these metadata then, where the store can tell.
        """
        if not self.member:
            drop_consolidated(self.keys)
            self.keys.set_new("zarr.json", group_document())
        with self.standing_still() as stands:
            return stands and self.keys.set_new(self.key, metadata.to_json())

    def created(self, metadata: Metadata) -> tuple[Metadata, bool]:
        """As `create`: the metadata then, of whoever made it, and whether it has these, where the store can tell.

        Raises
        ------
        StoreError
            If there are none.
        """
        begun = self.create(metadata)
        found = self.metadata()
        if found is None:
            raise StoreError(f"{self.where} is not there after it was written: the store loses writes")
        return found, begun

    @contextmanager
    def standing_still(self) -> Iterator[bool]:
        """Around a change that its own metadata do not guard: whether its collection has something to write.

        Raises as `Standing.stands` does.
        """
        if self.standing is None:
            yield True
        else:
            with self.standing.changing() as stands:
                yield stands

    def mend(self, new: Metadata) -> None:
        """Write the metadata of the group and the new variable again where the store took only their beginning."""
        group = () if self.member else (("zarr.json", group_document()),)
        for key, whole in (*group, (self.key, new.to_json())):
            found = self.keys.get(key)
            torn = found is not None and len(found) < len(whole) and whole.startswith(found)
            if torn and (key == "zarr.json" or not self.keys.holds_keys(f"{self.folder}/c/")):
                self.keys.complete(key, whole)

    def check_place(self, granularity: Granularity = PER_TENSOR) -> None:
        """Refuse a place that is not one to create the variable in, and its scales where arrays hold them.

        Raises
        ------
        StoreError
            If the folder holds something else than a Zarr v3 group, or files under this name without metadata, or lies
            in a Zarr array.
        """
        keys = self.keys
        keys.check_place(self.folder, *self.beside)
        if not self.member:
            self.check_group()
        # What lies in a new one's place in a collection may have been put there by a run that was held up.
        new = keys.get(self.key) is None and not (self.member and keys.conditional)
        scan, histogram, *scales = self.beside
        for name in (self.folder, scan, histogram):
            if new and keys.holds_keys(f"{name}/") and keys.get(self.key) is None:
                raise StoreError(
                    f"{keys.label}/{name} holds files, but {self.name} has no zarr.json of ours: remove them, or give "
                    "the variable another name"
                )
        if granularity.axis is not None:
            self.check_owned(scales, "whose scales need")

    def check_group(self) -> None:
        """Refuse, as `check_place` says, a folder that is no Zarr v3 group in which there may be variables."""
        keys = self.keys
        for outer in keys.enclosing:
            document = group_data(outer) or b""
            if outer.holds_keys(".zarray") or node_type(document) == "array":
                raise StoreError(f"{keys.label} lies in the Zarr array {outer.label}; name another destination")
            check_alone(outer.label, document)
        group = keys.get("zarr.json")
        if group is None and keys.holds_keys(""):
            group = keys.get("zarr.json")  # again, as below: another run may have made it since
            if group is None:
                raise StoreError(f"{keys.label} exists and is no Zarr v3 group; name another destination")
        if group is None:
            keys.check_name()
        if group is not None and node_type(group) != "group":
            raise StoreError(f"{keys.label} is a Zarr array, or no v3 group; name another destination")
        check_alone(keys.label, group or b"")

    def check_owned(self, names: Iterable[str], use: str) -> None:
        """Refuse side arrays in whose place something else lies; what lies in the variable's own folder is its own."""
        for name in names:
            if name.startswith(f"{self.folder}/{HIDDEN}/"):
                continue
            if self.keys.holds_keys(f"{name}/") and not owns(self.keys, name):
                raise StoreError(
                    f"{self.keys.label}/{name} holds files that do not belong to {self.name}, {use} the place: "
                    "remove them, or give the variable another name"
                )

    def delete_scans(self) -> None:
        """Remove what pass 1 left, but no other arrays of the same name; metadata last, which say whose the rest is."""
        for name in self.beside[:2]:
            if owns(self.keys, name, unsaid=True):
                self.keys.delete_all(f"{name}/c")
                self.keys.delete_all(name)

    def delete_scales(self) -> None:
        """Remove the scales of an axis or of blocks, but no other arrays of the same name."""
        self.keys.delete_all(f"{self.folder}/{HIDDEN}")
        for name in self.beside[2:]:
            if owns(self.keys, name):
                self.keys.delete_all(f"{name}/c")
                self.keys.delete_all(name)

    def overwrite(self, new: Metadata) -> Metadata:
        """Replace a variable of ours: mark it unfinished, delete its chunks, see that none is left, write the new.

        What is there then is returned: other metadata where another run of the same job has replaced it meanwhile.

        The mark is the fingerprint of no job: a run that finds it after a kill begins anew, and takes no chunk for its
        own. Readers count on its coming before all else: what they read before they see it is what they opened.

        Raises
        ------
        StoreError
            If something else lies where pass 1 would; nothing is changed. If another run overwrites it too, or one that
            writes does not end.
        """
        self.check_owned(self.beside[:2], "whose pass 1 needs")
        if not self.member:
            drop_consolidated(self.keys)
        mark = replace(new, fingerprint={"overwriting": new.fingerprint, "run": uuid.uuid4().hex})
        with self.standing_still():
            self.set_mark(mark)  # whoever looks from now on stops
        with self.keys.locked(self.folder):  # those who looked before have ended, and one may have changed the metadata
            if done := self.begun_by_another(new):
                return done
            self.set_mark(mark)
        self.delete_scales()
        for _ in range(DELETIONS):
            self.keys.delete_all(f"{self.folder}/c")
            self.delete_scans()
            with self.keys.locked(self.folder):
                now, tag = self.keys.tagged(self.key) or (None, None)
                places = f"{self.folder}/c", *self.beside[:2], f"{self.folder}/{HIDDEN}"
                left = [place for place in places if self.keys.holds_keys(f"{place}/")]
                own = now == mark.to_json()
                if own and not left and self.keys.replace(self.key, new.to_json(), tag) is not None:
                    return new
                if not (own and left):
                    if done := self.begun_by_another(new):
                        return done
                    raise StoreError(f"{self.where} was taken over by another job while this one was overwriting it")
        raise StoreError(f"{self.keys.label}/{left[0]} still holds files after they were deleted; run again")

    def begun_by_another(self, new: Metadata) -> Metadata | None:
        """The metadata of the variable, if it is that of a job which is about to replace it."""
        with suppress(StoreError):
            now = self.metadata()
            if now is not None and now.fingerprint == new.fingerprint:
                return now
        return None

    def set_mark(self, mark: Metadata) -> None:
        """Replace whatever metadata there are; in a collection those that were there while that was this run's.

        The look comes after that for their tag: where there are no locks, what changes after it keeps the mark out.
        """

        def marked(data: bytes | None) -> bytes:
            if self.standing is not None:
                self.standing.stands()
            return mark.to_json()

        self.keys.change(self.key, marked)

    def is_sealed(self, metadata: Metadata) -> bool:
        """Whether another run of the job with these metadata has sealed the variable meanwhile.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        return self.says_sealed(self.keys.get(self.key), metadata)

    def says_sealed(self, data: bytes | None, metadata: Metadata) -> bool:
        """As `is_sealed`, of these bytes of its key."""
        now = self.metadata_of(data)
        if now is None or now.fingerprint != metadata.fingerprint:
            raise StoreError(f"{self.where} was taken over by another job while this run was at it")
        return now.status == "sealed"

    def stands(self, metadata: Metadata) -> bool:
        """Whether there still is something to write under these metadata; raises as `is_sealed` does."""
        return self.keys.holds(self.key, metadata.to_json()) or not self.is_sealed(metadata)

    def advance(self, metadata: Metadata, new: Metadata, check: Callable[[], None] | None = None) -> bool:
        """Replace this job's metadata by new ones, or give False if another run of it has sealed the variable.

        `check` is called once no other run can begin the variable anew, and may raise.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        # Alone in the group, or one run of this job might take the seal of another away; and not while an overwriting
        # run marks the variable, which would go on with chunks that are not its own.
        with self.keys.locked(""), self.keys.locked(self.folder, shared=True):
            if check is not None:
                check()
            return self.keys.change(self.key, lambda data: None if self.says_sealed(data, metadata) else new.to_json())

    def seal(self, metadata: Metadata, durable: bool = False) -> Metadata:
        """Mark the variable whole, once every chunk is seen to be there, and if `durable`, to be on the disk."""
        self.keys.check_writable()
        stamp = self.keys.stamp(self.key)

        def check() -> None:
            if self.keys.stamp(self.key) != stamp:  # another run of this job may have begun it anew
                self.check_complete(metadata)

        self.check_complete(metadata)
        self.delete_scans()
        self.sweep()
        if not self.member:
            drop_consolidated(self.keys)  # which others may have written since the variable was made
        whole = metadata.at("sealed")
        if durable:
            for name in (self.folder, *self.beside):
                self.keys.flush(name)
        self.advance(metadata, whole, check)
        if durable:
            self.keys.flush(self.folder, below=False)
            self.keys.flush("", below=False)
        return whole

    def check_complete(self, metadata: Metadata) -> None:
        """Refuse, with an UnfinishedStoreError, a variable of which chunks are absent."""
        for name, grid in self.arrays(metadata):
            absent = np.flatnonzero(~present(self.keys, name, grid))
            if absent.size:
                key = chunk_key(name, grid, int(absent[0]))
                again = "run again to go on" if name == self.folder else "pass overwrite=True to begin again"
                raise UnfinishedStoreError(
                    f"{self.where} lacks {absent.size} of {grid.count} chunks, {key} the first; {again}"
                )

    def arrays(self, metadata: Metadata) -> Iterator[tuple[str, Grid]]:
        """The arrays of which no chunk may be absent: the codes, and the scales where arrays hold them."""
        yield self.folder, metadata.layout.units
        for array in stored_scales(self.keys, self.name, metadata).arrays:
            yield array.name, array.units

    def sweep(self) -> None:
        """Remove the temporary files that killed writers left behind on a local disk."""
        if not self.member:  # else the collection does it
            self.keys.sweep(self.folder, *self.beside)

    def remove(self, metadata: Metadata) -> None:
        """Take this job's variable out of the store, and the group too if it was made for it and holds nothing else.

        That of a collection stays.

        Raises
        ------
        StoreError
            If another job has taken the variable's place.
        """
        if not self.member:
            drop_consolidated(self.keys)
        with self.keys.locked(self.folder):
            if self.is_sealed(metadata):
                return
            self.delete_scales()
            self.delete_scans()
            self.keys.delete_all(f"{self.folder}/c")
            self.sweep()
            self.keys.delete(self.key)  # last: without it the rest would be nobody's
            self.keys.remove_empty(self.folder)
        if self.member:
            return
        rest: list[str] = []
        self.keys.each("", rest.append)
        if rest == ["zarr.json"] and self.keys.get("zarr.json") == group_document():
            self.keys.delete("zarr.json")
            self.keys.remove_empty("")

    # Chunks

    def present(self, layout: Layout) -> np.ndarray:
        """Which units are written, shape ``(units,)``."""
        return present(self.keys, self.folder, layout.units)

    def write(self, layout: Layout, number: int, packed: np.ndarray, guard: WriteGuard) -> None:
        """Encode a whole unit, 0 outside the array, and write it at once."""
        if layout.shard_codec is None:
            data = layout.chunk_codec.encode(packed)
        else:
            data = layout.shard_codec.encode(packed, packed_shape(shape_of(layout.units.region(number))))
        key = self.chunk_key(layout, number)
        try:
            guard.put(key, data)
        except OSError:
            if self.keys.verify:
                self.keys.delete(key)  # or what is torn would pass for done
            raise

    def packed(self) -> zarr.Array[Any]:
        """The packed codes as Zarr's own array."""
        return zarr.open_array(self.keys.store, path=self.folder, mode="r", zarr_format=3)

    def is_ours(self) -> bool:
        """Whether there are metadata that this library once wrote, whatever their state is now.

        Of a document that cannot be read the name tells whether it may be an array that belongs to a variable.
        """
        try:
            data = self.keys.get(self.key) or b""
        except StoreError:
            return False
        if node_type(data) is None:
            return b'"int4"' in data and is_plain(self.name)
        return not {"version", "checksum"}.isdisjoint(own_header(data))


def check_alone(label: str, document: bytes) -> None:
    """Refuse the group of a collection for a variable that is none of its members."""
    if own_header(document):
        raise StoreError(
            f"{label} is a collection, whose variables were written together: name another store, or quantize all of "
            "them again"
        )


def drop_consolidated(keys: Keys) -> None:
    """Take the consolidated metadata out of a group, and of those that a folder lies in.

    They hold the documents of the variables once more, and readers that go by them would join the old scale to new
    codes. What else the groups hold stays.
    """

    def kept(data: bytes | None) -> bytes | None:
        found = None if data is None else without_consolidated(data)
        return None if found == data else found

    for group in (keys, *keys.enclosing):
        with group.locked(""):
            group.change("zarr.json", kept, GROUP_MOST)


def group_data(keys: Keys) -> bytes | None:
    """The ``zarr.json`` of a group, which may have those of thousands of arrays once more; None where there is none.

    Raises
    ------
    StoreError
        If it is no file, or longer than that.
    """
    try:
        found = keys.view("zarr.json", most=GROUP_MOST)
    except ValueError as error:
        raise StoreError(f"{keys.label}/zarr.json is damaged: {error}. {REMEDY}") from error
    return None if found is None else bytes(found)


# Finding --------------------------------------------------------------------------------------------------------------


@retried
def variables(keys: Keys) -> list[str]:
    """Names of the int4 variables in a group.

    Raises
    ------
    StoreError
        If the store cannot tell what it holds.
    """
    if not keys.lists:
        raise StoreError(f"{keys.label} cannot list what it holds: pass name= with the name of the variable")
    names = [name_of(folder) for folder in names_in(keys)]
    return [name for name in sorted(filter(None, names)) if Variable(keys, name).is_ours()]


@retried
def names_in(keys: Keys) -> list[str]:
    """What lies in a group: folders and files."""
    names: list[str] = []

    async def walk() -> None:
        async for name in keys.store.list_dir(""):
            names.append(name.rstrip("/"))

    sync(walk())
    return names


def variable_of(keys: Keys, path: tuple[str, ...]) -> Variable:
    """A quantized variable of a collection, by the groups that it lies in and its name."""
    return Variable(keys.inside(folder_of_group(path[:-1])), path[-1], member=True)


def sealed_member(keys: Keys, member: Member) -> tuple[Variable, Metadata]:
    """A quantized variable of a sealed collection, as long as the manifest says: it may have grown further.

    Raises
    ------
    StoreError
        If it is not there, not whole, or not what the manifest says it is.
    """
    variable = variable_of(keys, member.path)
    metadata = variable.metadata()
    wrong = ""
    if metadata is None or metadata.status != "sealed":
        wrong = "not there" if metadata is None else "unfinished"
    elif not is_of(member, metadata):
        metadata = shortened(metadata, member.shape, member.source.get(APPENDED))
        wrong = "of another job" if metadata is None or not is_of(member, metadata) else ""
    if metadata is None or wrong:
        raise StoreError(f"{keys.label} is sealed, but its variable {member.name} is {wrong}. {REMEDY}")
    return variable, metadata


def collection_of(variable: Variable) -> tuple[Keys, Manifest, Member] | None:
    """The collection that a variable belongs to, and what its manifest says of that; None where it stands alone."""
    with suppress(StoreError):  # what belongs to a damaged one can be read nevertheless
        for group, path in itertools.chain([(variable.keys, ())], variable.keys.upwards()):
            manifest = manifest_of(group)
            if manifest is not None:
                folder = "/".join([*path, variable.folder])
                return next(((group, manifest, one) for one in manifest.members if one.folder == folder), None)
    return None


def as_collected(variable: Variable, metadata: Metadata) -> Metadata:
    """The metadata of a sealed variable; of one of a collection no longer than that says, which decides for all."""
    growth = Growth.of(metadata)
    found = collection_of(variable) if growth is not None and growth.together else None
    if found is None:
        return metadata
    _, manifest, member = found
    if manifest.status != "sealed" or is_of(member, metadata):
        return metadata
    before = shortened(metadata, member.shape, member.source.get(APPENDED))
    return before if before is not None and is_of(member, before) else metadata


def is_of(member: Member, metadata: Metadata) -> bool:
    """Whether metadata are those of a variable as the manifest has it, which may leave its `nan_policy` open."""
    layout, found, meant = metadata.layout, metadata.fingerprint, member.source
    if meant.get("settings", {}).get("nan_policy") == "auto" and isinstance(found.get("settings"), dict):
        found = {**found, "settings": {**found["settings"], "nan_policy": "auto"}}
    return (layout.shape, layout.dtype) == (member.shape, member.dtype) and same(found, meant)


def sealed_variable(store: Any, name: str | None = None) -> tuple[Variable, Metadata]:
    """As `find`, but an error if the variable's run has not come to its end.

    Raises
    ------
    UnfinishedStoreError
        Saying how to go on.
    """
    variable, metadata = find(store, name)
    if metadata.status != "sealed":
        check_begun(variable, metadata)
        raise UnfinishedStoreError(
            f"{variable.where} is unfinished (status {metadata.status!r}); call quantize_to_zarr with the same source "
            "and settings again to go on"
        )
    return variable, as_collected(variable, metadata)


def check_begun(variable: Variable, metadata: Metadata) -> None:
    """Refuse a variable that is not sealed, if it is a stream's, whose length nobody knows.

    Raises
    ------
    UnfinishedStoreError
        Saying how to go on.
    """
    if is_stream(metadata):
        raise UnfinishedStoreError(
            f"{variable.where} is the beginning of a stream, of which nothing is committed yet: open an Int4Writer "
            "there with the same settings, or call quantize_to_zarr with the stream again, and write it from its first "
            "value on; or wait, if a writer is at it"
        )


def find(store: Any, name: str | None = None) -> tuple[Variable, Metadata]:
    """The variable of that name, or the only one there is, in whatever state it is.

    ``store/name``, the path of a variable, is understood too.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    StoreError
        If there is no such variable, or several and no name; or its metadata is damaged or not ours.
    """
    keys = Keys.of(store)
    names = variables(keys) if name is None and keys.exists else []
    if name is None and not names and (parted := path_of_variable(keys)):
        keys, name = parted
    if not keys.exists:
        raise FileNotFoundError(f"{keys.label} does not exist, or is no folder")
    if name is None:
        if len(names) != 1:
            if (collection := manifest_of(keys)) is not None:
                there = listed([member.name for member in collection.members if member.kind == "int4"])
                raise StoreError(
                    f"{keys.label} is a collection, with the int4 variables {there}: pass name= with one of them"
                )
            raise StoreError(f"{keys.label} {held(keys, names)}")
        (name,) = names
    variable = Variable(keys, name)
    metadata = variable.metadata()
    if metadata is None and "/" in name:
        group, _, last = name.rpartition("/")
        with suppress(ValueError):  # a group cannot have the name
            variable = Variable(keys.inside(folder_of_group(tuple(group.split("/")))), last)
            metadata = variable.metadata()
    if metadata is None:
        there = f"; there are: {', '.join(variables(keys)) or 'none'}" if keys.lists else ""
        raise StoreError(f"{keys.label} holds no int4 variable {name!r}{there}")
    later = metadata.version > version_of(variable.name, metadata.granularity)
    return (replace(variable, longer=later) if is_stream(metadata) else replace(variable, member=later)), metadata


def path_of_variable(keys: Keys) -> tuple[Keys, str] | None:
    """The store and the name, where keys are those of a variable of ours, or of nothing in a store of ours."""
    above = keys.above()
    if above is None or not above[1]:
        return None
    store, name = above[0], name_of(above[1]) or above[1]
    try:
        ours = Variable(store, name).is_ours()
    except ValueError:  # no variable can have the name
        return None
    return (store, name) if ours or (not keys.exists and group_data(store) and variables(store)) else None


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message, and how many are left out.

    >>> listed(["a", "b", "c"], 2), listed([])
    ('a, b and 1 more', 'none')
    """
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + rest


def held(keys: Keys, names: list[str]) -> str:
    """What to say of a store that does not hold one variable but these."""
    if names:
        return f"holds several variables, {', '.join(names)}: pass name="
    return f"holds no int4 variable{keys.unlisted()}"
