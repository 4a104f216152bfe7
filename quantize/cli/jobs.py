"""What `plan` and `run` are asked for: one array, or all variables of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import click
import numpy as np

from ..io import sources_of
from ..io.arrays import Arrays
from ..io.formats.iterables import npy_records
from ..runtime.settings import Settings

OF_SEVERAL = {"select": "--select", "keep": "--keep", "drop": "--drop", "rules": "--rule"}
BY_DIMENSION = ("axis", "blocks", "chunks", "shards")


@dataclass(frozen=True)
class Asked:
    """The keyword arguments of `quantize_dataset`, if it is `several` variables, or else of `quantize_to_zarr`."""

    several: bool
    settings: dict[str, Any]

    @classmethod
    def of(cls, source: str, given: dict[str, Any], part: bool = False) -> Asked:
        """What a source and the options stand for.

        A group with one array, beside single numbers, is that array, and files that are pieces of one array are that
        one, unless an option is for several.

        Raises
        ------
        click.UsageError
            If an option does not go with what the source is.
        """
        arrays = sources_of(source)
        wanted = [option for name, option in OF_SEVERAL.items() if given[name]]
        if arrays.is_array and wanted:
            raise click.UsageError(f"{wanted[0]} chooses among several variables, and {arrays.label} is one array")
        if wanted or not arrays.is_one:
            return cls(True, of_several(arrays, given, part))
        return cls(False, of_one(arrays, given))

    @classmethod
    def of_stream(cls, given: dict[str, Any]) -> Asked:
        """As `of`, for a stream of arrays, whose dimensions have no names."""
        arrays = Arrays("standard input", {})
        wanted = [option for name, option in OF_SEVERAL.items() if given[name]]
        if wanted:
            raise click.UsageError(f"{wanted[0]} chooses among several variables, and {arrays.label} is one array")
        named = [name for name in BY_DIMENSION if isinstance(given[name], str | Mapping)]
        if named:
            raise click.UsageError(
                f"--{named[0]} names a dimension, and those of {arrays.label} have none: give numbers"
            )
        return cls(False, of_one(arrays, given))


def records(file: BinaryIO) -> Iterator[np.ndarray]:
    """The arrays that come from standard input."""
    return npy_records(file, "standard input")


def of_several(arrays: Arrays, given: dict[str, Any], part: bool) -> dict[str, Any]:
    option = "--part" if part else "--name" if given["name"] is not None else None
    if option is not None:
        name = next(iter(arrays.meant()), "NAME")
        why = "which are written together" if part else "each of which keeps its name"
        raise click.UsageError(
            f"{option} goes with one array, and {arrays.label} holds {len(arrays):,}, {why}: leave it out, or name an "
            f"array, as in {arrays.prefix}{name}"
        )
    rules: dict[str, dict[str, Any]] = {}
    for pattern, settings in given["rules"]:
        rules[pattern] = {**rules.pop(pattern, {}), **settings}
    return {
        **{name: value for name, value in given.items() if name != "name"},
        "select": given["select"] or "auto",
        "keep": ",".join(given["keep"]),
        "drop": ",".join(given["drop"]),
        "rules": rules,
        "nan_policy": given["nan_policy"] or "auto",
    }


def of_one(arrays: Arrays, given: dict[str, Any]) -> dict[str, Any]:
    policy = given["nan_policy"]
    if policy == "auto":
        raise click.UsageError(f"--nan-policy auto is for several variables, and {arrays.label} is one array")
    settings = {name: value for name, value in given.items() if name not in OF_SEVERAL}
    default = Settings()
    settings["name"] = default.name if given["name"] is None else given["name"]
    settings["nan_policy"] = policy or default.nan_policy
    for name in BY_DIMENSION:
        value = settings[name]
        if isinstance(value, str | Mapping):
            settings[name] = by_number(arrays, name, value)
    return settings


def by_number(arrays: Arrays, setting: str, value: str | Mapping[str, int]) -> int | tuple[int, ...]:
    """The number of an axis, or lengths along all of them, of what is given by the names of dimensions."""
    from ..runtime.selection import lengths_of, number_of

    source = arrays.only()
    dims = tuple(source.dimension_names or ())
    unknown = [name for name in ([value] if isinstance(value, str) else value) if name not in dims]
    if unknown:
        there = f"but {', '.join(map(str, dims))}" if any(dims) else "nor names of any: give a number"
        raise click.BadParameter(
            f"{source.label} has no dimension {unknown[0]!r}, {there}", param_hint=f"'--{setting}'"
        )
    found: int | tuple[int, ...] = (
        number_of(value, source.label, dims)
        if isinstance(value, str)
        else lengths_of(value, setting, source.label, source.shape, dims)
    )
    return found
