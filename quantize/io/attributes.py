"""What a source says of its values in its attributes, as CF conventions have it: missing values, and packing."""

from __future__ import annotations

import base64
import contextlib
import math
import posixpath
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..exceptions import DeclarationError
from ..numerics.dtypes import as_missing

MISSING = ("_FillValue", "missing_value")
VALID = ("valid_range", "valid_min", "valid_max")
PACKING = ("scale_factor", "add_offset")
UNSIGNED = "_Unsigned"
ABOUT_VALUES = (*MISSING, *VALID, *PACKING, UNSIGNED)  # attributes: what they say is of the numbers as they are stored

Number = float | int


@dataclass(frozen=True)
class Declared:
    """What attributes say of stored numbers.

    Attributes
    ----------
    dtype : dtype
        What the stored numbers are taken for: unsigned where ``_Unsigned`` says so.
    missing : tuple of float or int
        The values that stand for missing, beside NaN, each once, in the order in which they are declared.
    low, high : float, int or None
        What lies below or above counts as missing; None where there is no such bound.
    scale_factor, add_offset : float
        ``value = number * scale_factor + add_offset``.
    """

    dtype: np.dtype[Any]
    missing: tuple[Number, ...] = ()
    low: Number | None = None
    high: Number | None = None
    scale_factor: float = 1.0
    add_offset: float = 0.0

    @property
    def packed(self) -> bool:
        return (self.scale_factor, self.add_offset) != (1.0, 0.0)

    def bits(self, number: Number, dtype: np.dtype[Any]) -> int:
        """The integer of this dtype that has the bits of a number as it is taken."""
        return int(np.array(number, self.dtype).view(dtype))

    @property
    def only(self) -> Number | None:
        """The one missing value, where there is one finite value and no other way to be missing."""
        one = len(self.missing) == 1 and self.low is None and self.high is None
        return self.missing[0] if one and math.isfinite(self.missing[0]) else None

    @classmethod
    def of(cls, attributes: Mapping[str, Any], dtype: np.dtype[Any], label: str, missing: bool = True) -> Declared:
        """What attributes say; of missing values only if asked.

        Raises
        ------
        DeclarationError (a ValueError)
            If one of them is there and cannot be understood: what it is, and how to go on without it.
        """
        said = Attributes(attributes, label)
        taken = said.taken_for(dtype)
        factor, offset = said.factor("scale_factor", 1.0), said.factor("add_offset", 0.0)
        if factor == 0:
            raise said.refusal("scale_factor", RAW)
        found = cls(taken, scale_factor=factor, add_offset=offset)
        if not missing:
            return found
        low, high = said.valid(taken, dtype, found.packed)
        return replace(found, missing=said.missing(taken, dtype), low=low, high=high)


OTHER = "pass missing= with the one value that stands for missing, or missing=None for none"
RAW = "pass decode=False for the stored numbers"


@dataclass(frozen=True)
class Attributes:
    """Attributes of a source, read one by one."""

    all: Mapping[str, Any]
    label: str

    def refusal(self, name: str, way: str, why: str = "which is not understood") -> DeclarationError:
        return DeclarationError(f"{self.label} has the attribute {name} = {self.all[name]!r}, {why}: {way}")

    def numbers(self, name: str, way: str) -> list[Number]:
        """The numbers of an attribute: one, a list of them, or text."""
        value = self.all.get(name)
        if value is None:
            return []
        found = [as_number(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if not found or None in found:
            raise self.refusal(name, way)
        return [number for number in found if number is not None]

    def factor(self, name: str, default: float) -> float:
        numbers = self.numbers(name, RAW) if self.all.get(name) is not None else [default]
        if len(numbers) != 1 or not math.isfinite(numbers[0]):
            raise self.refusal(name, RAW)
        return float(numbers[0])

    def taken_for(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """What stored numbers of a dtype are taken for, by ``_Unsigned``; of floats it says nothing."""
        value = self.all.get(UNSIGNED)
        if value is None or dtype.kind not in "iu":
            return dtype
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        kind = {"true": "u", "1": "u", "false": "i", "0": "i"}.get(str(value).strip().lower())
        if kind is None:
            raise self.refusal(UNSIGNED, RAW)
        return np.dtype(f"{kind}{dtype.itemsize}")

    def missing(self, taken: np.dtype[Any], stored: np.dtype[Any]) -> tuple[Number, ...]:
        found: dict[Number, None] = {}
        for name in MISSING:
            for number in self.numbers(name, OTHER):
                if math.isnan(number):
                    continue  # needs no declaring, and no integer is it
                held = held_as(number, taken, stored)
                if held is None:
                    raise self.refusal(name, OTHER, f"and no {taken} is {number!r}")
                found[held] = None
        return tuple(found)

    def valid(self, taken: np.dtype[Any], stored: np.dtype[Any], packed: bool) -> tuple[Number | None, Number | None]:
        """The bounds of valid numbers, as netCDF4 takes them: ``valid_range`` if it is there, else the other two."""
        names = VALID[:1] * 2 if self.all.get(VALID[0]) is not None else VALID[1:]
        found: list[Number | None] = []
        for end, name in enumerate(names):
            numbers = self.numbers(name, OTHER)
            if numbers and len(numbers) != (2 if name == VALID[0] else 1):
                raise self.refusal(name, OTHER)
            bound = numbers[end % len(numbers)] if numbers else None
            if bound is None or math.isnan(bound):
                found.append(None)
                continue
            held = held_as(bound, taken, stored)
            if held is None and packed:
                raise self.refusal(
                    name, OTHER, f"which may be of the packed numbers ({stored}) or of what they stand for"
                )
            found.append(bound if held is None else held)
        return bounded(found[0], taken, low=True), bounded(found[1], taken, low=False)


# Units of times whose day begins at midnight, of which nothing may be said, or that in several ways.
MIDNIGHT = re.compile(
    r"(\w+?)s? since (\d+)-(\d+)-(\d+)(?:[ T]0+(?::0+){1,2}(?:\.0*)?)?(?: ?(?:UTC|Z|\+00:?00))?", re.IGNORECASE
)


def same_units(one: Any, other: Any) -> bool:
    """Whether two units are the same; those of times may be written in several ways where the day begins at midnight.

    >>> same_units("days since 2000-01-01", "days since 2000-1-1 00:00:00"), same_units("m", "km")
    (True, False)
    """
    if one == other:
        return True
    found = [MIDNIGHT.fullmatch(text.strip()) if isinstance(text, str) else None for text in (one, other)]
    said = [(match[1].lower(), *map(int, match.groups()[1:])) for match in found if match]
    return len(said) == 2 and said[0] == said[1]


def without(names: Collection[str], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """All attributes but those of some names."""
    return {name: value for name, value in attributes.items() if name not in names}


def as_number(value: Any) -> Number | None:
    """A number as attributes have it, or as text: decimal, or base64 of eight bytes, as xarray writes it into Zarr v3.

    >>> [as_number(value) for value in (-9999, "-999.", "AAAAAACHw8A=", "none", True)]
    [-9999, -999.0, -9998.0, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return None
    for parse in (int, float, decoded_fill):
        with contextlib.suppress(ValueError, struct.error):
            return parse(value.strip())
    return None


def decoded_fill(text: str) -> float:
    return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])


def encoded_fill(value: float) -> str:
    """A float ``_FillValue`` as xarray reads it from the attributes of Zarr v3: base64 of its eight bytes.

    >>> decoded_fill(encoded_fill(-9999.0))
    -9999.0
    """
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


def held_as(number: Number, taken: np.dtype[Any], stored: np.dtype[Any]) -> Number | None:
    """A number as the dtype that it is taken for holds it, or None; -1 of ``_Unsigned`` bytes is 255."""
    if taken.kind not in "iu":
        return number if math.isinf(number) else as_missing(number, taken)
    if taken != stored and as_missing(number, stored) is not None:
        return int(np.array(int(number), stored).view(taken))
    return as_missing(number, taken)


def bounded(bound: Number | None, dtype: np.dtype[Any], low: bool) -> Number | None:
    """A bound as the dtype has it; None where no value lies beyond it."""
    if bound is None:
        return None
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if bound <= info.min if low else bound >= info.max:
            return None
        if math.isinf(bound) or (bound > info.max if low else bound < info.min):
            return info.max if low else info.min
        return math.ceil(bound) if low else math.floor(bound)
    with np.errstate(over="ignore"):
        held = float(np.asarray(float(bound), dtype))
    return None if held == (-math.inf if low else math.inf) else held


def plain(value: Any) -> Any:
    """An attribute as JSON has it: NumPy's numbers and arrays as Python's, what JSON lacks as a string.

    An array of one element, as netCDF and HDF5 have it for a number, is that number.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 and value.dtype.names is None else value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# Attributes of CF conventions and UGRID that name other variables of the same file, which say where values lie, of what
# extent they are, or on which grid. Not `ancillary_variables`: those are measured too, as an uncertainty is, and flags
# among them are known by their own attributes.
NAMING = (
    "coordinates",
    "bounds",
    "climatology",
    "node_coordinates",
    "edge_coordinates",
    "face_coordinates",
    "volume_coordinates",
    "node_count",
    "part_node_count",
    "interior_ring",
    "geometry",
    "mesh",
)
NAMING_BOTH = ("grid_mapping",)  # "crs", or "crs: lat lon": words before a colon are names too
NAMING_BEHIND = ("cell_measures", "formula_terms")  # "area: areacella": words before a colon are no names


def cf_references(
    variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Mapping[str, Any]] | None = None
) -> set[str]:
    """The variables that others name as their coordinates, bounds, grid mapping, cell measures or formula terms.

    Parameters
    ----------
    variables : mapping of str to mapping
        The attributes of all variables by name, with "/" behind each group.
    groups : mapping of str to mapping, optional
        The attributes of groups by path: xarray names coordinates there that belong to no variable.

    Returns
    -------
    set of str
        Names of `variables`. What a variable names is looked for in its own group first, and then in those above it
        (CF 2.7); what is not there is left out.

    Examples
    --------
    >>> wind = {"coordinates": "lat lon", "grid_mapping": "crs: x y", "cell_measures": "area: area_of_cell"}
    >>> sorted(cf_references({"sea/wind": wind, "lat": {}, "sea/lon": {}, "crs": {}, "area": {}, "area_of_cell": {}}))
    ['area_of_cell', 'crs', 'lat', 'sea/lon']
    """
    found = set()
    folders = [(name.rpartition("/")[0], said) for name, said in variables.items()]
    for folder, attributes in [*folders, *(groups or {}).items()]:
        for word in words_of(attributes):
            if (name := in_scope(word, folder, variables)) is not None:
                found.add(name)
    return found


def words_of(attributes: Mapping[str, Any]) -> Iterator[str]:
    """The names of variables in attributes of one."""
    for name in (*NAMING, *NAMING_BOTH, *NAMING_BEHIND):
        said = attributes.get(name)
        for text in said if isinstance(said, list | tuple) else [said]:
            for word in text.split() if isinstance(text, str) else ():
                if name in NAMING_BOTH or not word.endswith(":"):
                    yield word.removesuffix(":")


def in_scope(word: str, folder: str, names: Collection[str]) -> str | None:
    """The full name of what a variable in a group means by a name: there, or in the nearest group above."""
    if "/" in word:
        full = posixpath.normpath(posixpath.join("/", folder, word)).lstrip("/")
        return full if full in names else None
    while True:
        full = f"{folder}/{word}" if folder else word
        if full in names:
            return full
        if not folder:
            return None
        folder = folder.rpartition("/")[0]


def with_zarr_fill(attributes: dict[str, Any], fill: Any, version: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Attributes of a Zarr array together with what its fill value declares, and what a plan must say of it.

    xarray keeps the ``_FillValue`` of an array of version 2 as its fill value, and reads it from there. Zarr itself
    means by a fill value only what absent chunks hold; its own default is 0. That xarray wrote the array shows by the
    attribute ``_ARRAY_DIMENSIONS``, without which xarray cannot open it.
    """
    number, said = as_number(plain(fill)), attributes.get(MISSING[0])
    if number is None or math.isnan(number):
        return attributes, ()
    by_xarray = version == 2 and "_ARRAY_DIMENSIONS" in attributes
    if said is not None:
        both = [number, *(said if isinstance(said, list) else [said])]
        return {**attributes, "_FillValue": both} if by_xarray and number else attributes, ()
    if by_xarray:
        doubt = "the fill value of this Zarr v2 array is 0, which xarray reads as missing; missing=None takes 0 as data"
        return {**attributes, "_FillValue": number}, () if number else (doubt,)
    if not number or attributes.get(MISSING[1]) is not None:
        return attributes, ()
    return attributes, (
        f"the fill value {number} of this Zarr array is not taken as missing: nothing says so. Pass missing={number} "
        "if it stands for missing",
    )


def decoded_by_xarray(attributes: dict[str, Any], encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of values that xarray has unpacked, with bounds that are of these.

    It leaves them as they are of the stored numbers, and keeps in `encoding` how it unpacked those.

    >>> packed = {"dtype": np.dtype("i2"), "scale_factor": 0.1, "add_offset": 20.0}
    >>> decoded_by_xarray({"valid_min": -5, "units": "K"}, packed)
    {'units': 'K', 'valid_min': 19.45}
    """
    packing = {name: plain(encoding[name]) for name in (*PACKING, UNSIGNED) if encoding.get(name) is not None}
    bounds = {name: value for name, value in attributes.items() if name in VALID}
    if not (packing and bounds):
        return attributes
    stored, others = np.dtype(encoding.get("dtype", np.float64)), without(VALID, attributes)
    try:
        found = Declared.of({**bounds, **packing}, stored, "")
    except DeclarationError:  # which says so once it is asked for
        return {**others, **{name: f"{value} among the stored {stored}" for name, value in bounds.items()}}
    half = 0.5 if found.dtype.kind in "iu" else 0.0  # no number lies there, so that no rounding matters
    low = None if found.low is None else (found.low - half) * found.scale_factor + found.add_offset
    high = None if found.high is None else (found.high + half) * found.scale_factor + found.add_offset
    ends = (low, high) if found.scale_factor > 0 else (high, low)
    return {**others, **{name: end for name, end in zip(VALID[1:], ends, strict=True) if end is not None}}


def zarr_attributes(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Attributes as Zarr v3 has them: strict JSON, and ``_FillValue`` as xarray reads it.

    >>> zarr_attributes({"_FillValue": 0.0, "valid_max": math.inf}, np.dtype("f4"))
    {'_FillValue': 'AAAAAAAAAAA=', 'valid_max': 'Infinity'}
    """
    found: dict[str, Any] = strict(dict(attributes))
    fill = attributes.get("_FillValue")
    if dtype.kind == "f" and isinstance(fill, int | float):
        found["_FillValue"] = encoded_fill(fill)
    return found


def strict(value: Any) -> Any:
    """A JSON value in which the numbers that JSON lacks are text, as Zarr has it in fill values."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
