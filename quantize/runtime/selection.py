"""What becomes of each array of a source: quantized, and by which settings, or kept, and why."""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from ..exceptions import QuantizeError
from ..io.arrays import Arrays
from ..io.attributes import cf_references
from ..io.decoding import decoded
from ..io.raw import RawArray
from ..io.source import Source
from ..numerics.dtypes import FLOATS
from ..storage import listed
from .settings import Settings

LEAST_AXES = 2
LEAST_VALUES = 4096  # values: scale, metadata and a file of their own take as much as is saved of fewer
DIMENSION = "dim="  # before the name of a dimension, in the place of a variable's name
GIVEN = "name", "memory", "workers"  # settings that are of a whole run, and of no variable
COORDINATE_UNITS = re.compile(r"degrees?_?(north|east|N|E)")  # https://cfconventions.org/cf-conventions/ , section 4
COORDINATE_NAMES = ("time", "latitude", "longitude", "projection_x_coordinate", "projection_y_coordinate")

Rules = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Chosen:
    """What becomes of one array.

    Attributes
    ----------
    name : str
    raw : RawArray
        As it is stored.
    why : str
        Why it is kept; "" if it is quantized.
    source : Source, optional
        What is quantized, decoded.
    settings : Settings, optional
        By which.
    """

    name: str
    raw: RawArray
    why: str = ""
    source: Source | None = None
    settings: Settings | None = None


def choose(
    arrays: Arrays,
    select: str | Iterable[str] = "auto",
    rules: Rules | None = None,
    keep: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    settings: Settings | None = None,
) -> list[Chosen]:
    """What becomes of each of these arrays, in the order of their names.

    Parameters
    ----------
    arrays : Arrays
    select : "auto", or patterns
        Which to quantize: "auto" those that `kept_by_itself` finds no reason to keep.
    rules : mapping of patterns to mappings of settings
        Settings of variables beside those of all: of several that match, what a later one says wins.
    keep : patterns
        Which to keep whatever `select` says.
    drop : patterns
        Which to leave out of the result.
    settings : Settings
        Those of all.

    A pattern is a name, a glob such as ``*.weight``, or ``dim=latitude`` for all with that dimension, but for `drop`.

    Raises
    ------
    ValueError
        If a pattern or a rule matches nothing, or a rule says what it cannot.
    SourceError
        If an array can neither be quantized nor kept.
    """
    base = settings or Settings()
    dropped = matched(patterns_of(drop, arrays), dict.fromkeys(arrays, ()), "drop")
    raws = {name: arrays.raw(name) for name in arrays if name not in dropped}
    dims = {name: tuple(raw.dimension_names or ()) for name, raw in raws.items()}
    wanted = None if select == "auto" else matched(patterns_of(select, dims), dims, "select")
    kept = matched(patterns_of(keep, dims), dims, "keep")
    own = {pattern: matched([pattern], dims, "rule") for pattern in rules or {}}
    referred = cf_references({name: raw.attributes for name, raw in raws.items()}, arrays.attributes)
    referred |= arrays.coordinates
    found = []
    for name, raw in raws.items():
        why = "keep says so" if name in kept else kept_by_itself(name, raw, referred) if wanted is None else ""
        if wanted is not None and not why and name not in wanted:
            why = "select leaves it out"
        if why:
            found.append(Chosen(name, raw, why))
            continue
        given = [rules[pattern] for pattern, names in own.items() if name in names] if rules else []
        one = with_rules(base, given, name, raw.shape, dims[name])
        with of_variable(name):
            source = decoded(arrays[name], one.decode, one.missing, one.floats)
        found.append(Chosen(name, raw, "", source, one))
    check_of_use(own, {one.name: one.why for one in found})
    return found


@contextmanager
def of_variable(name: str) -> Iterator[None]:
    """Errors of settings get the name of the variable that cannot have them."""
    try:
        yield
    except QuantizeError:
        raise
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_of_use(rules: Mapping[str, set[str]], why: Mapping[str, str]) -> None:
    """Refuse, with a ValueError, a rule all of whose variables are kept."""
    for pattern, names in rules.items():
        if all(why[name] for name in names):
            first = min(names)
            others = f" and {len(names) - 1:,} more" * (len(names) > 1)
            raise ValueError(
                f"the rule {pattern!r} is for {first}{others}, which is kept ({why[first]}): select it, or leave the "
                "rule out"
            )


def kept_by_itself(name: str, raw: RawArray, referred: frozenset[str] | set[str]) -> str:
    """Why an array is kept where nobody says what to quantize; "" if it is not."""
    last = name.rpartition("/")[2]
    attributes, dtype = raw.attributes, raw.dtype
    packed = dtype.kind in "iu" and not {"scale_factor", "add_offset"}.isdisjoint(attributes)
    units = str(attributes.get("units", ""))
    if last in (raw.dimension_names or ()) or name in referred:
        return "a coordinate"
    if " since " in units or "calendar" in attributes:
        return "a time"
    if COORDINATE_UNITS.fullmatch(units) or attributes.get("standard_name") in COORDINATE_NAMES or "axis" in attributes:
        return "a coordinate"
    if not {"flag_values", "flag_masks", "flag_meanings"}.isdisjoint(attributes):
        return "flags"
    if not (dtype in FLOATS or packed):
        return f"{'text' if dtype.kind == 'O' else dtype} is no float"
    if len(raw.shape) < LEAST_AXES:
        return f"{len(raw.shape)} axes" if len(raw.shape) != 1 else "1 axis"
    size = math.prod(raw.shape)
    return f"{size:,} values" if size < LEAST_VALUES else ""


# Patterns and rules ---------------------------------------------------------------------------------------------------


def patterns_of(given: str | Iterable[str] | None, names: Collection[str] = ()) -> list[str]:
    """Patterns, of which a text has several between commas, unless it is one of the names as it stands."""
    if given is None:
        return []
    if isinstance(given, str) and given in names:
        return [given]
    parts = given.split(",") if isinstance(given, str) else list(given)
    return [part.strip() if isinstance(part, str) else part for part in parts if part]


def matched(patterns: Iterable[str], dims: Mapping[str, Sequence[str | None]], what: str) -> set[str]:
    """The names that patterns match.

    Raises
    ------
    ValueError
        If one matches none, with the nearest that there is.
    """
    found: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{what} has {pattern!r}, but takes names, globs and '{DIMENSION}' with a dimension")
        if pattern in dims:
            names = {pattern}
        elif pattern.startswith(DIMENSION):
            names = {name for name, own in dims.items() if pattern.removeprefix(DIMENSION) in own}
        else:
            names = (
                {name for name in dims if fnmatch.fnmatchcase(name, pattern)} if set(pattern) & set("*?[") else set()
            )
        if not names:
            nearest = difflib.get_close_matches(pattern, dims, 1)
            there = f"did you mean {nearest[0]!r}?" if nearest else f"there are {listed(list(dims))}"
            raise ValueError(f"{what} {pattern!r} matches no variable; {there}")
        found |= names
    return found


def with_rules(
    base: Settings, rules: Iterable[Mapping[str, Any]], name: str, shape: Sequence[int], dims: Sequence[str | None]
) -> Settings:
    """Settings of a variable: those of all and of its rules, with dimensions by number.

    What a rule says of who shares a scale takes the place of all that was said of it before.
    """
    known = [field.name for field in fields(Settings) if field.name not in GIVEN]
    found = base
    for rule in rules:
        for key in rule:
            if key not in known:
                nearest = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known)}"
                raise ValueError(f"a rule for {name} has {key!r}, which is no setting; {hint}")
        if not {"axis", "blocks", "preset"}.isdisjoint(rule):
            found = replace(found, axis=None, blocks=None, preset=None)
        found = replace(found, **rule)
    last = name.rpartition("/")[2] or name
    return replace(
        found,
        name=last,
        axis=number_of(found.axis, name, dims),
        **{key: lengths_of(getattr(found, key), key, name, shape, dims) for key in ("blocks", "chunks", "shards")},
    )


def number_of(axis: Any, name: str, dims: Sequence[str | None]) -> Any:
    """The number of an axis that may be given by the name of its dimension."""
    if not isinstance(axis, str):
        return axis
    if axis not in dims:
        there = f"the dimensions {', '.join(map(str, dims))}" if dims else "no names of dimensions"
        raise ValueError(
            f"{name} has no dimension {axis!r}, but {there}: give a rule for '{DIMENSION}{axis}', or the axis by its "
            "number"
        )
    return list(dims).index(axis)


def lengths_of(value: Any, key: str, name: str, shape: Sequence[int], dims: Sequence[str | None]) -> Any:
    """Lengths along each axis, of which a mapping gives some by the names of dimensions.

    Those that it leaves out are 1 of blocks, and whole axes of chunks and shards.
    """
    if not isinstance(value, Mapping):
        return value
    lengths = [1 if key == "blocks" else -1] * len(shape)
    for dim, length in value.items():
        lengths[number_of(dim, name, dims)] = length
    return tuple(lengths)
