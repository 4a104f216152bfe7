"""A sealed variable in words and as a dictionary: what the command line says of it."""

from __future__ import annotations

from html import escape
from typing import Any, Protocol

import numpy as np
from dask.utils import format_bytes

from ..numerics.grid import Shape
from ..store.metadata import Metadata

MOST = 1_000_000  # scales of an axis that are read to tell the smallest and the largest


class Described(Protocol):
    """What is told of: an `Int4Array`, which cannot be imported here, since it shows itself by this file."""

    path: str
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    shards: Shape | None
    axis: int | None
    nan_code: int | None
    missing: float | int | None
    dimension_names: tuple[str | None, ...] | None
    metadata: Metadata

    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def nbytes_stored(self) -> int: ...
    @property
    def scale(self) -> Any: ...
    @property
    def zero_point(self) -> Any: ...


def described(array: Described) -> dict[str, Any]:
    """What there is to know of a sealed variable.

    With a scale for each index of an axis, `scale` and `zero_point` are each a dictionary with the smallest and the
    largest, which are None where there are more than a million, and `max_error` is half the largest scale.

    Examples
    --------
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.array([[0.0, 15.0], [0.0, 30.0]]), MemoryStore(), axis=0)
    >>> described(array)["scale"]
    {'smallest': 1.0, 'largest': 2.0}
    """
    scale, zero_point = extremes(array, "scale"), extremes(array, "zero_point")
    largest = scale["largest"] if isinstance(scale, dict) else scale
    return {
        "path": array.path,
        "name": array.name,
        "status": array.metadata.status,
        "shape": array.shape,
        "dtype": str(array.dtype),
        "chunks": array.chunks,
        "shards": array.shards,
        "scale_method": array.metadata.scale_method,
        "axis": array.axis,
        "scale": scale,
        "zero_point": zero_point,
        "nan_code": array.nan_code,
        "missing": array.missing,
        "max_error": None if largest is None else largest / 2,
        "nbytes": array.nbytes,
        "nbytes_stored": array.nbytes_stored,
    }


def extremes(array: Described, name: str) -> Any:
    """A number of the store, or of those for an axis the smallest and the largest."""
    if array.axis is None:
        return getattr(array, name)
    if array.shape[array.axis] > MOST:
        return {"smallest": None, "largest": None}
    values: np.ndarray = getattr(array, name)
    return {"smallest": values.min().item(), "largest": values.max().item()}


def description(array: Described) -> str:
    """The same for people, a fact a line."""
    facts = described(array)
    stored = facts["nbytes_stored"]
    times, bits = array.nbytes / max(stored, 1), 8 * stored / array.size
    lines = [
        f"shape       {array.shape} {array.dtype}, {format_bytes(array.nbytes)}",
        f"chunks      {array.chunks}" + (f" in shards {array.shards}" if array.shards else ""),
        *scale_lines(array, facts),
        f"stored      {format_bytes(stored)}, {times:.1f} times smaller, {bits:.2f} bits a value",
    ]
    if array.nan_code is not None:
        value = "NaN" if array.missing is None or array.dtype.kind not in "iu" else array.missing
        lines.insert(-1, f"missing     code {array.nan_code}, read back as {value}")
    return "\n".join(lines)


def scale_lines(array: Described, facts: dict[str, Any]) -> list[str]:
    method = facts["scale_method"]
    if array.axis is None:
        return [
            f"scale       {facts['scale']:.9g}, zero point {facts['zero_point']} ({method})",
            f"max error   {facts['max_error']:.6g} within the range (half a step)",
        ]
    each = f"one for each of {array.shape[array.axis]:,} indices of axis {array.axis} ({method})"
    if facts["max_error"] is None:
        return [f"scale       {each}", "max error   half the scale of its index, within the range"]
    scale = facts["scale"]
    return [
        f"scale       {each}, from {scale['smallest']:.6g} to {scale['largest']:.6g}",
        f"max error   {facts['max_error']:.6g} within the range (half the largest step)",
    ]


def how_to_read(path: str, name: str) -> str:
    arguments = repr(path) if name == "data" else f"{path!r}, {name!r}"
    return f"read it back in Python:\n  from quantize import open_int4\n  array = open_int4({arguments})\n  array[:2]"


STYLE = "text-align: left; font-weight: normal; opacity: 0.7; padding: 0.1em 1.2em 0.1em 0; vertical-align: top"
VALUE = "text-align: left; padding: 0.1em 0"


def repr_html(array: Described) -> str:
    """A variable as a small HTML table, without reading its data.

    Parameters
    ----------
    array : Int4Array
        As `open_int4` gives it.

    Returns
    -------
    str
        One ``<table>``, everything in it escaped, with no script and no style sheet of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), MemoryStore())
    >>> "1, zero point -8" in repr_html(array)
    True
    """
    body = "".join(
        f'<tr><th scope="row" style="{STYLE}">{escape(key)}</th><td style="{VALUE}">{escape(text)}</td></tr>'
        for key, text in facts(array).items()
    )
    title = escape(f"{array.path}/{array.name}")
    caption = f'<caption style="{VALUE}; caption-side: top"><b>Int4Array</b> {title}</caption>'
    return f"<table>{caption}<tbody>{body}</tbody></table>"


def facts(array: Described) -> dict[str, str]:
    """The rows of the table."""
    stored = array.nbytes_stored
    names = array.dimension_names or ()
    found = {
        "shape": str(array.shape) + (f" of {', '.join(name or '-' for name in names)}" if any(names) else ""),
        "dtype": f"{array.dtype} when read, int4 when stored",
        "chunks": str(array.chunks) + (f" in shards {array.shards}" if array.shards else ""),
        "size": f"{format_bytes(stored)} stored, {format_bytes(array.nbytes)} as {array.dtype}",
        "bits a value": f"{8 * stored / array.size:.2f}, {array.nbytes / max(stored, 1):.1f} times smaller",
        "scale": (
            f"{array.scale:.6g}, zero point {array.zero_point}"
            if array.axis is None
            else f"one for each of the {array.shape[array.axis]:,} indices of axis {array.axis}"
        )
        + f" ({array.metadata.scale_method})",
    }
    if array.nan_code is not None:
        value = "NaN" if array.missing is None or array.dtype.kind not in "iu" else array.missing
        found["missing"] = f"code {array.nan_code}, read as {value}"
    return {**found, "status": array.metadata.status}
