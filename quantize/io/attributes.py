"""What a source says of itself in its attributes, as CF conventions have it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from ..numerics.dtypes import as_missing


def declared_missing(attributes: dict[str, Any], dtype: np.dtype[Any], label: str) -> float | int | None:
    """The missing value that attributes declare, as CF conventions do (section 2.5.1); NaN needs no declaring.

    Raises
    ------
    ValueError
        If they declare two.
    """
    values: set[float | int] = set()
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and dtype.kind not in "iu":
            value = decoded_fill(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            held = as_missing(value, dtype)
            values |= set() if held is None else {held}
    if len(values) > 1:
        raise ValueError(f"{label} declares two missing values, {sorted(values)}; pass missing= with the one to use")
    return values.pop() if values else None


def decoded_fill(text: str) -> float | None:
    """A float ``_FillValue`` as xarray writes it into Zarr v3 attributes: base64 of its eight bytes."""
    try:
        return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
    except (ValueError, struct.error):
        return None


def plain(value: Any) -> Any:
    """An attribute as JSON has it: NumPy's numbers and arrays as Python's, what JSON lacks as a string."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
