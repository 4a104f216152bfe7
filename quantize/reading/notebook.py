"""An `Int4Array` as a notebook shows it: a small table, static, of what the metadata say."""

from __future__ import annotations

from html import escape
from typing import Any

from dask.utils import format_bytes

STYLE = "text-align: left; font-weight: normal; opacity: 0.7; padding: 0.1em 1.2em 0.1em 0; vertical-align: top"
VALUE = "text-align: left; padding: 0.1em 0"


def repr_html(array: Any) -> str:
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


def facts(array: Any) -> dict[str, str]:
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
