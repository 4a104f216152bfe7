"""The end of what was under way at a collection: its journals closed, or all that was written removed."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace

from ..exceptions import StoreError
from ..io.attributes import zarr_attributes
from ..storage import Variable, variable_of
from ..store.growth import JOURNAL, JOURNAL_MOST, Journal, journal_key, journal_of
from ..store.keys import Keys
from ..store.manifest import Manifest, Member, manifest_of
from ..store.metadata import Metadata
from ..store.places import HIDDEN
from ..store.plain_arrays import PlainArray
from .appending import replace_slice
from .growing import LOST, Growing, remove_beyond, replace_at
from .growing_members import Right, describe
from .likeness import axis_of, said_of

BEFORE = f"{HIDDEN}/before.json"  # in the folder of a variable that becomes longer: its metadata as they were


def before_key(variable: Variable) -> str:
    return f"{variable.folder}/{BEFORE}"


def close(keys: Keys, manifest: Manifest, run: str) -> None:
    """Remove the journals of the variables, those of one try alone: what they spoke of is part of them, or gone."""
    for member in manifest.members:
        if member.kind != "int4":
            continue
        variable = variable_of(keys, member.path)
        inside, hidden = variable.keys, f"{variable.folder}/{HIDDEN}"
        with keys.locked(member.folder):  # whoever writes a journal has this locked, and has seen that it may
            found = journal_of(inside, variable.folder)
            if found is None or found.run == run:
                inside.delete(before_key(variable))
                inside.delete(journal_key(variable.folder))
        inside.sweep(hidden, variable.folder, below=False)
        inside.remove_empty(hidden)


def finish(keys: Keys, manifest: Manifest, run: str) -> None:
    """Close the journals of one try: what they spoke of is part of the collection, or gone."""
    close(keys, manifest, run)
    with keys.locked(""):
        found = journal_of(keys, "")
        if found is not None and found.run == run:  # and not another's, who came before
            keys.delete(JOURNAL)
    keys.sweep(HIDDEN, below=False)
    keys.remove_empty(HIDDEN)


def axis_said(journal: Journal) -> int | str:
    """The axis, as who appends gave it."""
    found = journal.job.get("axis")
    return found if isinstance(found, int | str) else journal.axis


def under_way(keys: Keys, journal: Journal) -> str:
    """What to say of a journal that another job has left, or is at."""
    length, axis = (journal.stop or journal.start) - journal.start, axis_said(journal)
    return (
        f"{keys.label}: an append of {length:,} along {said_of(axis)}, from index {journal.start:,} on, "
        "is under way or was killed. Run that again to go on with it, or discard it: quantize append --discard STORE, "
        "or discard_append(store)"
    )


def discarded_of_collection(keys: Keys, manifest: Manifest) -> bool:
    """Give up what is under way at a sealed collection, be its journal damaged; whether something was."""
    try:
        journal = journal_of(keys, "")
    except StoreError:
        journal = Journal(uuid.uuid4().hex, 0, 0, None, "", {LOST: True, "of": manifest.job})
    if journal is None:
        return False
    if manifest.has_run(journal.run) or journal.job.get("of") != manifest.job:  # done, or it was overwritten since
        finish(keys, manifest, journal.run)
        return False
    discard(keys, manifest, journal)
    return True


def discard(keys: Keys, manifest: Manifest, journal: Journal) -> None:
    """Remove what was written: the store then is, byte by byte, what it was.

    Raises
    ------
    StoreError
        If it is part of the collection, or another is at it.
    """
    given_up = replace(journal, discarding=True)
    right = Right(keys, given_up, manifest.head)
    with keys.locked(""):
        tag = keys.tag(JOURNAL, JOURNAL_MOST)
        if not right.is_manifest() or keys.replace(JOURNAL, given_up.to_json(), tag) is None:
            raise StoreError(f"{keys.label} is being written by another process; look at it again")
    for member in manifest.members:  # who writes under the journal sees that it was given up
        if member.kind == "int4":
            discard_quantized(keys, member)
            continue
        plain = member.plain(keys, zarr_attributes(member.attributes, member.dtype))
        lost = LOST in journal.job
        one = None if lost else axis_of(axis_said(journal), member.dimension_names, len(member.shape))
        for axis in range(len(member.shape)) if lost else () if one is None else (one,):
            discard_kept(plain, axis, right)
    keys.sweep("")
    finish(keys, manifest, journal.run)


def discard_quantized(keys: Keys, member: Member) -> None:
    variable = variable_of(keys, member.path)
    journal = journal_of(variable.keys, variable.folder)
    if journal is None or member.appended.get("run") == journal.run:
        return
    before = variable.keys.get(before_key(variable)) or variable.keys.get(variable.key) or b""
    metadata = Metadata.from_json(before, f"{variable.keys.label}/{before_key(variable)}")
    with keys.locked(member.folder):
        tag = variable.keys.tag(variable.key)
        if not variable.keys.holds(variable.key, before):
            variable.keys.replace(variable.key, before, tag)
    Growing(variable, metadata, metadata, journal, journal.start).discard()


def discard_kept(before: PlainArray, axis: int, right: Right) -> None:
    describe(before, right)
    grid, guard = before.grid, right.of(before.folder)
    remove_beyond(before.keys, before.folder, axis, grid.counts)
    if before.shape[axis] % grid.box[axis]:
        last = replace_slice(tuple(slice(0, n) for n in grid.shape), axis, grid.shape[axis] - 1, grid.shape[axis])
        for number, _ in grid.touched(last):
            with guard.writing():
                guard.put(before.key(number), before.encoded(before.read(grid.region(number))))
                guard.written.clear()


def is_ahead(keys: Keys, member: Member, document: bytes | None) -> bool:
    """Whether the document of an array that is kept says that it has grown further than a manifest says."""
    now, journal = manifest_of(keys), None
    with suppress(StoreError):  # a damaged one is damage of its own
        journal = journal_of(keys, "")
    if now is None or member.name not in now:
        return False
    found = now[member.name]
    if document == found.plain(keys, zarr_attributes(found.attributes, found.dtype)).document:
        return True
    axis = None if journal is None else axis_of(axis_said(journal), found.dimension_names, len(found.shape))
    if journal is not None and axis is not None and journal.stop is not None:
        longer = replace(found, shape=replace_at(found.shape, axis, journal.stop))
        return document == longer.plain(keys, zarr_attributes(found.attributes, found.dtype)).document
    return False
