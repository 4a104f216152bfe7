"""The gate: what everything passes that a source gives, before a kernel or a buffer sees it.

Blocks of dask graphs, regions of files and answers of other libraries' arrays come through here, and no other way. What
has passed is an array of NumPy's of the region's shape and the declared dtype, aligned, without a mask. It may be in
either byte order and of any strides: what is packed or scanned is made native and contiguous part by part, in cache.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..exceptions import RefusedValuesError, UndeclaredValuesError
from ..numerics.blocks import blocks, first_index
from ..numerics.dtypes import FLOATS
from ..numerics.foreign import as_array
from ..numerics.grid import Region, shape_of

CONVERTED_VALUES = 1 << 17  # values: what is converted at a time, so that its float64 stay in a processor's cache


def accepted(
    given: Any, region: Region, label: str, dtype: np.dtype[Any], mark: float | int | None = None, sole: bool = False
) -> np.ndarray:
    """The values of a region, as an array that may be used.

    Parameters
    ----------
    given : array_like
        What a source gave. Floats may be of another float type than declared if that holds each of them.
    region : tuple of slice
        What it is to be.
    label : str
        What to call the source in messages.
    dtype : dtype
        That the source declares, in native byte order.
    mark : int or None
        What masked integers become. Masked floats become NaN.
    sole : bool
        Whether only masked integers may have that value.

    Raises
    ------
    UndeclaredValuesError
        If it has another shape, or a dtype of which not every value is one of the declared dtype.
    RefusedValuesError
        If there are masked integers and no mark for them; or a value that is not masked equals a `sole` mark.

    Examples
    --------
    >>> accepted(np.array([1.5, 2.5]), (slice(4, 6),), "array", np.dtype(np.float32))
    array([1.5, 2.5], dtype=float32)
    """
    shape = shape_of(region)
    if type(given) is np.ndarray and given.dtype == dtype and given.shape == shape and given.flags.aligned and not sole:
        return given
    values = given if isinstance(given, np.ndarray) else as_array(given, f"{label}, in the region {spelled(region)}")
    if values.shape != shape:
        wrong(values, region, label, dtype)
    mask: Any = np.ma.getmask(values)
    plain = np.asarray(np.ma.getdata(values))
    if not values.size:
        return np.empty(shape, dtype)
    if plain.dtype.newbyteorder("=") != dtype and not (is_float(plain.dtype) and is_float(dtype)):
        wrong(values, region, label, dtype)
    if dtype.kind in "iu":
        plain = marked(plain, mask, region, label, mark, sole)
    elif mask.any():
        plain = plain.copy()
        plain[mask] = np.nan
    if plain.dtype.newbyteorder("=") != dtype:
        plain = exact(plain, region, label, dtype)
    return plain if plain.flags.aligned else plain.copy()


def marked(
    values: np.ndarray, mask: Any, region: Region, label: str, mark: float | int | None, sole: bool
) -> np.ndarray:
    """Integers, with a mark in place of those that are masked."""
    if sole and mark is not None:
        same = (values == mark) & ~mask
        if same.any():
            raise RefusedValuesError(
                f"{label} holds {mark} at index {index_of(same, region)}, which is not masked, and masked values would "
                f"become the same: pass missing=, a number that {values.dtype.newbyteorder('=')} holds and no value is"
            )
    if not mask.any():
        return values
    if mark is None:
        raise RefusedValuesError(
            f"{label} has {int(np.count_nonzero(mask)):,} masked values in the region {spelled(region)}, the first at "
            f"index {index_of(mask, region)}, and declares no missing value that masked {values.dtype} could become: "
            'pass missing=, a number that no value is, and nan_policy="propagate"'
        )
    values = values.copy()
    values[mask] = mark
    return values


def exact(values: np.ndarray, region: Region, label: str, dtype: np.dtype[Any]) -> np.ndarray:
    """Floats in another float type, if that holds every one of them."""
    if np.can_cast(values.dtype, dtype, "safe"):
        return values.astype(dtype)
    found = np.empty(values.shape, dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for part in blocks(values.shape, CONVERTED_VALUES):
            before = values[part]
            found[part] = before
            after = found[part].astype(before.dtype)
            same = (after == before) | (np.isnan(after) & np.isnan(before))
            if not same.all():
                place = tuple(a.start + b.start for a, b in zip(part, region, strict=True))
                index = tuple(i + start for i, start in zip(first_index(~same), place, strict=True))
                value = before[~same][0]
                wrong(values, region, label, dtype, f": {value} at index {index} is no {dtype}")
    return found


def wrong(values: np.ndarray, region: Region, label: str, dtype: np.dtype[Any], why: str = "") -> NoReturn:
    raise UndeclaredValuesError(
        f"{label} gave an array of shape {values.shape} and dtype {values.dtype} for the region {spelled(region)}, "
        f"but declares shape {shape_of(region)} and dtype {dtype}{why}. Nothing of it was used: let it declare what it "
        "gives, in dask by chunks= and dtype= of map_blocks, or turn it into that by astype"
    )


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in FLOATS


def index_of(chosen: np.ndarray, region: Region) -> tuple[int, ...]:
    """Index, in the whole array, of the first True of a region."""
    return tuple(i + part.start for i, part in zip(first_index(chosen), region, strict=True))


def spelled(region: Region) -> str:
    """A region as an index is written.

    >>> spelled((slice(0, 10), slice(30, 60)))
    '[0:10, 30:60]'
    """
    return f"[{', '.join(f'{part.start}:{part.stop}' for part in region)}]"
