"""Arrays as they are stored, of any dtype that Zarr has: for what is kept as it is, and not quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import SourceError, UndeclaredValuesError
from ..numerics.dtypes import BFLOAT16, TEXT
from ..numerics.grid import Region, Shape, shape_of
from .source import Source

SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "M": (8,), "m": (8,)}  # bytes
LEAVE_OUT = "leave it out by drop="


@dataclass(frozen=True)
class RawArray:
    """An array as its source stores it, nothing decoded.

    Attributes
    ----------
    label : str
        What to call it in messages.
    shape : tuple of int
        It may be ``()``, and lengths may be 0.
    dtype : dtype
        In native byte order. Text of any length has the dtype object, and each element is a `str`.
    load : callable
        Gives the values of a region, a tuple of slices, as the format has them: for `read`, which others call.
    attributes : dict
        All that the source has, as plain Python values; those by which numbers are decoded too.
    dimension_names : tuple of str or None, optional
    chunks : tuple of int, optional
        The boxes it is stored in.
    shared : bool
        Whether another process can read it too. Then `load` can be pickled.

    Examples
    --------
    >>> flags = np.array([[True, False], [False, False]])
    >>> RawArray("flags", flags.shape, flags.dtype, flags.__getitem__).read((slice(0, 1), slice(0, 2)))
    array([[ True, False]])
    """

    label: str
    shape: Shape
    dtype: np.dtype[Any]
    load: Callable[[Region], Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    chunks: Shape | None = None
    shared: bool = False

    def read(self, region: Region) -> np.ndarray:
        """The values of a region, in native byte order.

        Raises
        ------
        UndeclaredValuesError
            If they have another shape or dtype than is declared, or what should be text is none.
        """
        given = self.load(region)
        if isinstance(given, np.ma.MaskedArray):
            self._wrong(region, "masked values")
        values = np.asarray(given, TEXT) if self.dtype == TEXT else np.asarray(given)
        if values.shape != shape_of(region) or values.dtype.newbyteorder("=") != self.dtype:
            self._wrong(region, f"an array of shape {values.shape} and dtype {values.dtype}")
        if self.dtype == TEXT:
            for value in values.flat:
                if not isinstance(value, str):
                    self._wrong(region, f"{value!r}, which is a {type(value).__name__} and no text")
        return values.astype(self.dtype, copy=False)

    def _wrong(self, region: Region, given: str) -> None:
        shown = ", ".join(f"{part.start}:{part.stop}" for part in region)
        declared = "text" if self.dtype == TEXT else f"dtype {self.dtype}"
        raise UndeclaredValuesError(
            f"{self.label} gave {given} for the region [{shown}], of shape {shape_of(region)} and {declared}"
        )


def raw_of(source: Source) -> RawArray:
    """A source's values as they are, its missing ones among them."""
    return RawArray(
        source.label,
        source.shape,
        source.dtype,
        source.read,
        dict(source.attributes),
        source.dimension_names,
        source.chunks,
        source.shared,
    )


def kept_dtype(dtype: np.dtype[Any], label: str) -> np.dtype[Any]:
    """A dtype in native byte order, and without what libraries add to it.

    Raises
    ------
    SourceError
        If arrays of it cannot be kept.
    """
    if dtype.kind == "T":
        return TEXT
    if dtype.kind in "SU" or dtype.itemsize in SIZES.get(dtype.kind, ()):
        return np.dtype(dtype.newbyteorder("=").str)
    if dtype == BFLOAT16 or dtype.name.startswith("float8_"):
        return dtype
    what = "Python objects" if dtype.kind == "O" else "compound values" if dtype.names else f"the dtype {dtype}"
    raise cannot_be_kept(label, what)


def cannot_be_kept(label: str, what: str) -> SourceError:
    return SourceError(f"{label} has {what}, which cannot be kept in Zarr: {LEAVE_OUT}")
