"""Streams of values and where they go: a variable that is made for one, goes on, or becomes longer by one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..exceptions import StoreError
from ..numerics.foreign import as_array
from ..numerics.granularity import PER_TENSOR
from ..storage import Variable
from ..store.growth import STREAM, Growth, is_stream
from ..store.keys import Keys
from ..store.metadata import Metadata
from ..store.places import check_one_part, version_of
from ..store.zarr_json import same, tagged
from .claim import difference
from .outlines import LABEL, Outline, Wishes, outline_in_store
from .settings import Settings
from .stream import Stream

# Opened ---------------------------------------------------------------------------------------------------------------


def opened(
    keys: Keys,
    shape: Iterable[int | None] | None,
    dtype: Any,
    given: dict[str, Any],
    wishes: Wishes,
    attributes: dict[str, Any] | None,
    dimension_names: tuple[str | None, ...] | None,
) -> Stream:
    """The stream into a variable, which is made where there is none; else what is `given` must be as it is there.

    Raises
    ------
    ValueError, TypeError
        If the settings do not go with one another, or with a stream.
    StoreError
        If something else is there, or another writer is at it.
    """
    name = given.get("name", Settings().name)
    check_one_part(name)
    keys.check_writable()
    variable, new = Variable(keys, name, longer=True), None
    if shape is not None and dtype is not None:
        shape = tuple(shape)
        outline = Outline.of(shape, dtype, Settings(**given), attributes, dimension_names)
        new = outline.metadata(variable, outline.layout())
        variable.mend(new)
    found = variable.metadata()
    variable.check_place(outline.rule.granularity if new is not None else PER_TENSOR)
    if found is None:
        if new is None:
            raise ValueError(f"{variable.where} is not there yet: pass shape= and dtype= to make it")
        wishes.check(outline.rule, outline.axis)
        variable.create(new)
        found = variable.metadata()
        if found is None:
            raise StoreError(f"{variable.where} is not there after it was written: the store loses writes")
    if found.status != "sealed" and not is_stream(found):
        raise StoreError(
            f"{variable.where} is there already, unfinished, of a job that is no stream: finish that first"
        )
    outline = agreed(variable, found, shape, dtype, given, attributes, dimension_names)
    variable = replace(variable, longer=found.version > version_of(name, found.granularity))
    anew = None
    if found.status != "sealed":
        wishes.check(outline.rule, outline.axis)
        anew = outline.metadata(variable, outline.layout())
    return Stream(variable, outline.axis, wishes, found, anew)


def agreed(
    variable: Variable,
    found: Metadata,
    shape: Iterable[int | None] | None,
    dtype: Any,
    given: dict[str, Any],
    attributes: dict[str, Any] | None,
    dimension_names: tuple[str | None, ...] | None,
) -> Outline:
    """The outline of what is there, with which all that is given agrees."""
    begun = found.fingerprint[STREAM]["axis"] if found.status != "sealed" else None
    growth = Growth.of(found)
    lengths = None if shape is None else tuple(shape)
    if lengths is not None:
        axis = lengths.index(None)
        if len(lengths) != len(found.layout.shape):
            raise StoreError(f"{variable.where} has {len(found.layout.shape)} axes, and shape {lengths} {len(lengths)}")
    else:
        axis = growth.axis if growth is not None else begun or 0
    if begun not in (None, axis):
        raise StoreError(f"{variable.where} was begun to grow along axis {begun}, and not along {axis}")
    there, layout = outline_in_store(variable, found, axis)
    settings = {**vars(there.settings), **given}
    choices = {"axis", "blocks"} & given.keys()
    if "preset" in given:
        choices |= {"scale_method", "axis"}
    for setting in ("axis", "blocks") if "axis" in choices or "blocks" in choices else ():
        settings[setting] = given.get(setting)
    if "preset" in given:
        settings["scale_method"] = given.get("scale_method")
    asked = Outline.of(
        lengths or (None if along == axis else n for along, n in enumerate(found.layout.shape)),
        found.layout.dtype if dtype is None else dtype,
        Settings(**settings),
        found.attributes if attributes is None else attributes,
        found.dimension_names if dimension_names is None else dimension_names,
    )
    said = there.said(layout)
    cut = asked.layout() if given.keys() & {"chunks", "shards", "compressors"} else layout
    unlike = difference(said, asked.said(cut))
    if attributes is not None and not same(tagged(attributes), tagged(found.attributes)):
        unlike = f"{unlike}, attributes were {found.attributes} and are {attributes}".removeprefix(", ")
    if dimension_names is not None and tuple(dimension_names) != found.dimension_names:
        unlike = f"{unlike}, dimension_names were {found.dimension_names} and are {dimension_names}".removeprefix(", ")
    if unlike:
        raise StoreError(
            f"{variable.where} is there already, of other settings: {unlike}. Leave those out that are to be as they "
            "are there, or name another variable"
        )
    return there


# A stream as a source -------------------------------------------------------------------------------------------------


def streamed(
    batches: Iterable[Any], keys: Keys, settings: Settings, overwrite: bool, wishes: Wishes
) -> tuple[Variable, Metadata]:
    """All of a stream of arrays, joined along their first axis and committed once it has come to its end.

    Raises
    ------
    ValueError, TypeError
        If it gives nothing, its arrays are not pieces of one, or it is to have a scale that nobody knows before.
    StoreError
        If the place is another job's.
    """
    if settings.floats:
        raise ValueError("floats goes with a source that declares missing values: let the stream give floats")
    check_one_part(settings.name)
    keys.check_writable()
    waiting = iter(batches)
    first = next(waiting, None)
    if first is None:
        raise ValueError(f"{LABEL} gave no array: its dtype and shape are not known")
    first = as_array(first, f"what {LABEL} gave first")
    if not first.ndim:
        raise ValueError(f"{LABEL} gave a number, {first}, and no array: its arrays are joined along their first axis")
    outline = Outline.of((None, *first.shape[1:]), first.dtype, settings)
    wishes.check(outline.rule, outline.axis)
    layout, workers = outline.fitted(wishes.workers)
    variable = Variable(keys, settings.name, longer=True)
    new = outline.metadata(variable, layout)
    found = place_of_stream(variable, new, overwrite)
    stream = Stream(variable, outline.axis, replace(wishes, workers=workers), found, new)
    try:
        write(stream, first, 0)
        del first
        write_all(stream, waiting, 1)
        stream.close()
    except BaseException:
        stream.end("failed")
        raise
    if not stream.start:
        raise ValueError(f"{LABEL} gave no values to find a scale for")
    return variable, stream.metadata


def write_all(stream: Stream, batches: Iterable[Any], start: int = 0) -> None:
    """Write all batches, called by their numbers in messages."""
    for number, batch in enumerate(batches, start):
        write(stream, batch, number)


def write(stream: Stream, batch: Any, number: int) -> None:
    stream.batch = f"array {number:,} of {LABEL}"
    stream.write(batch)


def place_of_stream(variable: Variable, new: Metadata, overwrite: bool) -> Metadata:
    """The metadata at the place of a stream: new ones, or those of the same stream when it did not come to its end."""
    variable.mend(new)
    variable.check_place(new.granularity)
    try:
        old = variable.metadata()
    except StoreError:
        if not (overwrite and variable.is_ours()):
            raise
    else:
        if old is None:
            old, _ = variable.created(new)
        if old.fingerprint == new.fingerprint and old.status != "sealed":
            return old
        if not overwrite:
            state = "whole" if old.status == "sealed" else "unfinished"
            raise StoreError(
                f"{variable.where} is there already, {state}, and nobody can tell whether it was made from this "
                "stream. Pass overwrite=True to replace it, or write behind it by append_to_zarr or an Int4Writer"
            )
    return variable.overwrite(new)


def appended(
    batches: Iterable[Any], variable: Variable, metadata: Metadata, axis: int, wishes: Wishes, memory: int | str | None
) -> Metadata:
    """The metadata of what is sealed once all of a stream of arrays is part of it; nothing is where one is refused.

    Raises
    ------
    RefusedValuesError, ValueError, TypeError
        As for a batch of an `Int4Writer`; if the array cannot become longer, or `memory` does not do.
    StoreError
        If another writer or append is at it.
    """
    outline, layout = outline_in_store(variable, metadata, axis)
    outline = replace(outline, settings=replace(outline.settings, memory=memory))
    wishes = replace(wishes, workers=outline.tasks_within(layout, wishes.workers))
    variable.keys.check_writable()
    stream = Stream(variable, axis, wishes, metadata, None)
    try:
        write_all(stream, batches)
        if stream.written + stream.count == stream.start:
            raise ValueError(f"{LABEL} gave no values to append")
        stream.close()
    except BaseException:
        with suppress(StoreError, OSError):  # what is left then is no part of it, and the next stream removes it
            stream.give_up()
        raise
    return stream.metadata
