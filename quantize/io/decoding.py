"""Physical values: a source decoded as it is read, by what its attributes say of the numbers that it stores.

Rules, and where they come from
-------------------------------

1. *Values* are ``number * scale_factor + add_offset`` (CF 8.1), reckoned in float64 and rounded once.
2. *Their dtype* is float32 where that tells all numbers of the stored dtype apart with room to spare, else float64. So
   packed bytes and shorts become float32, whatever the dtype of the attributes, which formats such as Zarr do not keep;
   packed integers of 32 and 64 bits, packed float64, and shorts with a large offset become float64. CF gives the dtype
   of the attributes, and advises against float32 for 32 bits; xarray takes that of the attributes, or float64.
3. *Missing values* and valid bounds are of the stored numbers (CF 2.5.1, 8.1), and looked for before they are decoded.
   All that are declared count. Bounds are taken as netCDF4 takes them; xarray passes them over.
4. ``_Unsigned`` makes integers unsigned, and with them all that is declared (netCDF4, xarray).
5. Floats get NaN in the place of what is missing. Integers keep one of the missing values for all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..numerics.blocks import blocks
from ..numerics.dtypes import FLOATS
from ..numerics.grid import Batches, Region, Shape
from .attributes import ABOUT_VALUES, MISSING, PACKING, VALID, Attributes, Declared, Number, held_as, without
from .source import Source

BLOCK_VALUES = 1 << 15  # values: decoded at a time, so that their float64 stay in a processor's cache
TABLE_BYTES = 2  # bytes of a stored integer: up to so many, each number is decoded once, and then looked up
APART = 4  # spacings of float32: two neighbouring numbers lie at least so far apart where float32 will do


@dataclass(frozen=True)
class Decoding:
    """How stored numbers become values.

    Attributes
    ----------
    stored, dtype : dtype
        Of the numbers, and of the values.
    declared : Declared
        What the source says of the numbers.
    scaled : bool
        Whether they are scaled, and not only looked through for missing ones.
    filler : int or None
        What integers have where they are missing; floats have NaN.

    Examples
    --------
    >>> said = {"scale_factor": 0.5, "add_offset": 100.0, "_FillValue": -1, "missing_value": -2}
    >>> decoding = decoding_of(said, np.dtype("i2"), "x")
    >>> decoding.apply(np.array([0, 3, -1, -2], "i2"))
    array([100. , 101.5,   nan,   nan], dtype=float32)
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    declared: Declared
    scaled: bool
    filler: int | None

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """The values of stored numbers, a new array."""
        if self.stored.kind in "iu" and self.stored.itemsize <= TABLE_BYTES:
            native = np.ascontiguousarray(numbers, self.stored)
            found: np.ndarray = table_of(self)[native.view(f"u{self.stored.itemsize}")]
            return found
        out = np.empty(numbers.shape, self.dtype)
        for part in blocks(numbers.shape, BLOCK_VALUES):
            out[part] = self.decoded(numbers[part])
        return out

    def decoded(self, numbers: np.ndarray) -> np.ndarray:
        native = np.ascontiguousarray(numbers, self.stored)
        known = native.view(self.declared.dtype)
        absent = np.zeros(native.shape, bool)
        for value in self.declared.missing:
            absent |= known == np.asarray(value, known.dtype)
        if self.declared.low is not None:
            absent |= known < np.asarray(self.declared.low, known.dtype)
        if self.declared.high is not None:
            absent |= known > np.asarray(self.declared.high, known.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.scaled:
                values = (known.astype(np.float64) * self.declared.scale_factor + self.declared.add_offset).astype(
                    self.dtype
                )
            elif self.dtype in FLOATS:
                values = known.astype(self.dtype)
            else:
                values = native.view(self.dtype).copy()
        values[absent] = math.nan if self.filler is None else self.filler
        return values

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan says of it."""
        said, declared = [], self.declared
        if self.scaled:
            factor = f" * {declared.scale_factor:.9g}" if declared.scale_factor != 1 else ""
            offset = (
                f" {'-' if declared.add_offset < 0 else '+'} {abs(declared.add_offset):.9g}"
                if declared.add_offset
                else ""
            )
            said.append(
                f"physical values: the stored {declared.dtype}{factor}{offset}, as {self.dtype}; decode=False, "
                "or --raw, takes the stored numbers"
            )
        elif self.dtype.kind == "u" and self.stored.kind == "i":
            said.append(f"the stored {self.stored} are taken as {self.dtype}, as _Unsigned says")
        if ways := self.ways:
            said.append(f"missing, and {'NaN' if self.filler is None else self.filler} in the result: {ways}")
        return tuple(said)

    @property
    def ways(self) -> str:
        """Which stored numbers are missing, in words."""
        low, high = self.declared.low, self.declared.high
        return ", ".join(
            [
                *(f"{value}" for value in self.declared.missing),
                *([] if low is None else [f"what is below {low}"]),
                *([] if high is None else [f"what is above {high}"]),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        declared = self.declared
        bounds = (declared.low, declared.high)
        return {
            "stored": str(self.stored),
            "taken_for": str(declared.dtype),
            "scale_factor": declared.scale_factor if self.scaled else None,
            "add_offset": declared.add_offset if self.scaled else None,
            "missing": [value if math.isfinite(value) else str(value) for value in declared.missing],
            "valid": [None if value is None else value if math.isfinite(value) else str(value) for value in bounds],
        }


def decoding_of(
    attributes: dict[str, Any],
    dtype: np.dtype[Any],
    label: str,
    decode: bool = True,
    missing: Any = "declared",
    floats: bool = False,
) -> Decoding | None:
    """How to decode numbers of a dtype; None where the values are the numbers, and at most one is missing.

    Raises
    ------
    DeclarationError (a ValueError)
        If an attribute is there and cannot be understood.
    """
    asks = isinstance(missing, str)
    if not decode:
        attributes = without(PACKING, attributes)
    declared = Declared.of(attributes, dtype, label, missing=asks)
    if not asks and missing is not None:
        declared = replace(declared, missing=(missing,))
    has_missing = bool(declared.missing) or declared.low is not None or declared.high is not None
    to_floats = floats and dtype.kind in "iu" and has_missing
    taken = declared.dtype if decode else dtype
    if declared.packed or to_floats:
        result = float_dtype(declared)
    elif taken != dtype or (has_missing and declared.only is None):
        result = taken
    else:
        return None
    filler = declared.bits(filler_of(declared), result) if result.kind in "iu" else None
    return Decoding(dtype, result, declared, declared.packed, filler)


def filler_of(declared: Declared) -> int:
    """The integer that stands for all missing ones: the first that is declared, or an end of the dtype."""
    if declared.missing:
        return int(declared.missing[0])
    info = np.iinfo(declared.dtype)
    return int(info.max if declared.low is None else info.min)


def float_dtype(declared: Declared) -> np.dtype[Any]:
    """The dtype of decoded values (rule 2)."""
    if declared.dtype.kind not in "iu":
        return np.dtype(np.float64 if declared.dtype == np.float64 else np.float32)
    info = np.iinfo(declared.dtype)
    factor, offset = declared.scale_factor, declared.add_offset
    largest = max(abs(info.min * factor + offset), abs(info.max * factor + offset))
    if not float(np.finfo(np.float32).tiny) <= largest < float(np.finfo(np.float32).max):
        return np.dtype(np.float64)
    apart = abs(factor) >= APART * float(np.spacing(np.float32(largest)))
    return np.dtype(np.float32 if apart else np.float64)


@functools.lru_cache(maxsize=16)
def table_of(decoding: Decoding) -> np.ndarray:
    """The value of each stored number, by its bits as an unsigned integer."""
    size = decoding.stored.itemsize
    return decoding.decoded(np.arange(1 << 8 * size, dtype=f"u{size}").view(decoding.stored))


class DecodedSource(Source):
    """A source whose numbers are decoded as they are read."""

    decoding: Decoding
    asked: dict[str, Any]
    rereads = True
    masks = False

    def __init__(self, source: Source, decoding: Decoding, asked: dict[str, Any]) -> None:
        attributes = dict(source.attributes)
        if asked["decode"]:
            used = ABOUT_VALUES if decoding.dtype != decoding.stored or decoding.scaled else (*MISSING, *VALID)
            attributes = without(used, attributes)
            if decoding.filler is not None and decoding.ways:
                attributes["_FillValue"] = decoding.filler
        super().__init__(source.label, source.shape, decoding.dtype, attributes, source.dimension_names)
        if decoding.ways and decoding.stored.kind in "iu":  # what masked numbers become, to be decoded
            source = source.with_missing(decoding.declared.bits(filler_of(decoding.declared), decoding.stored))
        self.source, self.decoding, self.asked = source, decoding, asked
        self.remembered = {**asked, **decoding.to_json()}
        self.chunks, self.order, self.shared = source.chunks, source.order, source.shared
        self.notes = (*source.notes, *decoding.notes)
        self.held = source.held
        self.missing = decoding.filler if decoding.ways else None
        self.missing_said = f" (missing are: {decoding.ways})" if decoding.ways else ""

    def load(self, region: Region) -> np.ndarray:
        return self.decoding.apply(self.source.read(region))

    def pieces(self, region: Region) -> Iterator[Region]:
        return self.source.pieces(region)

    def graph(self, region: Region) -> Any | None:
        graph = self.source.graph(region)
        if graph is None:
            return None
        meta = np.empty((0,) * len(self.shape), self.dtype)
        return graph.map_blocks(self.decoding.apply, dtype=self.dtype, meta=meta)

    def bytes_read(self, units: Batches) -> int:
        return self.source.bytes_read(units)

    def memory(self, unit: Shape) -> int:
        """What reading takes, which is at least a piece; that piece decoded; a table."""
        inner = self.source.memory(unit)
        decoded = -(-inner * self.dtype.itemsize // self.source.dtype.itemsize)
        return inner + decoded + 3 * 8 * BLOCK_VALUES + (self.dtype.itemsize << 17)

    def digest(self) -> str | None:
        return self.source.digest()

    def missing_value(self, asked: Any) -> Number | None:
        return self.missing


def decoded(source: Source, decode: bool = True, missing: Any = "declared", floats: bool = False) -> Source:
    """The source of a job: itself, or as it is read by what it says of its numbers.

    Parameters
    ----------
    source : Source
    decode : bool
        Physical values. False takes the stored numbers.
    missing : "declared", None or number
        The stored number that counts as missing, or all that are declared.
    floats : bool
        Integers that have missing values become floats, with NaN for these.

    Raises
    ------
    DeclarationError (a ValueError)
        If an attribute is there and cannot be understood.
    ValueError
        If `missing` is none of those above.
    """
    if isinstance(source, DecodedSource):
        return source
    missing = asked_missing(source, missing)
    decoding = decoding_of(source.attributes, source.dtype, source.label, decode, missing, floats)
    asked = {"decode": bool(decode), "missing_asked": missing, "floats": bool(floats)}
    return source if decoding is None else DecodedSource(source, decoding, asked)


def asked_missing(source: Source, missing: Any) -> Any:
    """What a job was asked for: "declared", None, or a number as the source's numbers are taken."""
    if missing == "declared" or missing is None:
        return missing
    if isinstance(missing, int | float) and not isinstance(missing, bool):
        taken = Attributes(source.attributes, source.label).taken_for(source.dtype)
        held = held_as(missing, taken, source.dtype)
        if held is not None and math.isfinite(held):
            return held
    return source.missing_value(missing)


def decoded_as(source: Source, remembered: Mapping[str, Any] | None) -> Source:
    """A source read as the one of a store was, of whose decoding the metadata remember this.

    Raises
    ------
    DeclarationError (a ValueError)
        If an attribute is there and cannot be understood.
    """
    if remembered is None:
        return source
    decode, floats = bool(remembered.get("decode")), bool(remembered.get("floats"))
    return decoded(source, decode, remembered.get("missing_asked"), floats)
