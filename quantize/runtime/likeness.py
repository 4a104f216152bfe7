"""Whether a source is of the kind of what is there, so that it can be appended to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..io.arrays import Arrays
from ..io.attributes import ABOUT_VALUES, same_units
from ..io.raw import RawArray
from ..io.source import Source
from ..storage import Variable, listed
from ..store.manifest import Manifest, Member
from ..store.metadata import Metadata
from .growing import replace_at

LIKE = ("units", "calendar", "standard_name")  # attributes in which what is appended must be like what there is


def check_fits(source: Source, variable: Variable, metadata: Metadata, axis: int) -> None:
    """Refuse, with a ValueError, what is not of the kind of the values that are there."""
    layout, where = metadata.layout, variable.where
    like = replace_at(source.shape, axis, layout.shape[axis]) if len(source.shape) == len(layout.shape) else ()
    if like != layout.shape:
        raise ValueError(
            f"{source.label} has shape {source.shape}, and {where} {layout.shape}: but for axis {axis}, along which "
            "it is appended, they must be the same"
        )
    if source.dtype != layout.dtype:
        raise ValueError(f"{source.label} is of {source.dtype}, and {where} of {layout.dtype}: convert it")
    names, own = source.dimension_names, metadata.dimension_names
    if names and own and any(a != b for a, b in zip(names, own, strict=True) if a is not None and b is not None):
        raise ValueError(f"{source.label} has the dimensions {names}, and {where} {own}")
    for key in LIKE:
        a, b = source.attributes.get(key), metadata.attributes.get(key)
        if a is not None and b is not None and not same_units(a, b):
            raise ValueError(
                f"{source.label} has the {key} {a!r}, and {where} {b!r}: convert it, or mend the attribute"
            )


def said_of(axis: int | str) -> str:
    return f"axis {axis}" if isinstance(axis, int) else f"the dimension {axis!r}"


def axis_of(axis: int | str, names: tuple[str | None, ...] | None, ndim: int) -> int | None:
    """The number of an axis that is given by the name of its dimension or by its number; None where there is none."""
    if isinstance(axis, str):
        return list(names).index(axis) if names and axis in names else None
    return axis % ndim if -ndim <= axis < ndim else None


def axes_of(axis: int | str, manifest: Manifest, names: Mapping[str, tuple[str | None, ...] | None]) -> dict[str, int]:
    """The number of the axis in each variable that has it; `names` are those of the dimensions of what is quantized.

    Raises
    ------
    ValueError
        If none has it, or they are not of one length along it; if it is a number, and dimensions have names.
    """
    dims = {one.name: names[one.name] if one.kind == "int4" else one.dimension_names for one in manifest.members}
    known = sorted({name for own in dims.values() for name in own or () if name is not None})
    if isinstance(axis, int) and known:
        raise ValueError(
            f"axis is {axis}, and the dimensions of this collection have names: give that of the one that becomes "
            f"longer, of {listed(known)}"
        )
    found = {one.name: axis_of(axis, dims[one.name], len(one.shape)) for one in manifest.members}
    axes = {name: own for name, own in found.items() if own is not None}
    if not axes:
        there = f"there are {listed(known)}" if known else "its dimensions have no names: give a number"
        raise ValueError(f"no variable of the collection has {said_of(axis)}; {there}")
    check_one_length({name: manifest[name].shape[own] for name, own in axes.items()}, axis, "the collection")
    return axes


def check_one_length(lengths: Mapping[str, int], axis: int | str, label: str) -> None:
    """Refuse, with a ValueError, variables of several lengths along an axis that is to become longer in all of them."""
    by_length = {length: name for name, length in lengths.items()}
    if len(by_length) > 1:
        said = " and ".join(f"{name} {length:,}" for length, name in sorted(by_length.items())[:2])
        raise ValueError(f"the variables of {label} differ in length along {said_of(axis)}: {said}")


def check_names(arrays: Arrays, manifest: Manifest, label: str) -> None:
    """Refuse, with a ValueError, a source with other variables."""
    if absent := [one.name for one in manifest.members if one.name not in arrays]:
        raise ValueError(f"{arrays.label} has no {listed(absent)}, which {label} has: all become longer together")
    if new := [name for name in arrays if name not in manifest]:
        raise ValueError(f"{arrays.label} has {listed(new)}, which {label} has not: leave that out")


def check_same_shape(source: Source, variable: Variable, metadata: Metadata) -> None:
    """Refuse, with a ValueError, what has another shape or dtype than what is there."""
    there = metadata.layout
    if (source.shape, source.dtype) != (there.shape, there.dtype):
        raise ValueError(
            f"{source.label} is of shape {source.shape} and {source.dtype}, and {variable.where} of {there.shape} and "
            f"{there.dtype}: it has no axis that becomes longer, so it must be the same"
        )


def check_raw(raw: RawArray, member: Member, axis: int | None, label: str) -> None:
    """Refuse, with a ValueError, what is not of the kind of the values that are kept."""
    where = f"{label}/{member.name}"
    like = (
        raw.shape
        if axis is None or len(raw.shape) != len(member.shape)
        else replace_at(raw.shape, axis, member.shape[axis])
    )
    if like != member.shape:
        but = "it has no axis that becomes longer, so" if axis is None else f"but for axis {axis}"
        raise ValueError(f"{raw.label} has shape {raw.shape}, and {where} {member.shape}: {but} they must be the same")
    if raw.dtype != member.dtype:
        raise ValueError(f"{raw.label} is of {raw.dtype}, and {where} of {member.dtype}: convert it")
    names, own = raw.dimension_names, member.dimension_names
    if names and own and any(a != b for a, b in zip(names, own, strict=True) if a is not None and b is not None):
        raise ValueError(f"{raw.label} has the dimensions {names}, and {where} {own}")
    for key in (*LIKE, *ABOUT_VALUES) if raw.attributes else ():
        given, there = raw.attributes.get(key), member.attributes.get(key)
        if key in LIKE and (given is None or there is None):
            continue
        if not (same_units(given, there) if key == "units" else alike(given, there)):
            raise ValueError(
                f"{raw.label} has the {key} {given!r}, and {where} {there!r}: convert it, or mend the attribute"
            )


def alike(one: Any, other: Any) -> bool:
    """Whether two attributes are the same; NaN is itself."""
    return repr(one) == repr(other)
