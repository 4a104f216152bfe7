"""Arrays of other libraries, lists and masked arrays as plain arrays of NumPy's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .blocks import first_index
from .dtypes import arithmetic, checked_dtype

# attributes: with one of them NumPy takes an object for what it is; else it may count its entries one by one
OWN_WAYS = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")


def as_array(thing: Any, label: str) -> np.ndarray:
    """An array of whatever library, a list or a number, as NumPy's; a masked one stays masked.

    Parameters
    ----------
    thing : array_like
        Or a tensor: it may have gradients, lie on another device, or have a dtype that only its own library knows.
    label : str
        What to call it in messages.

    Raises
    ------
    TypeError, ValueError
        If it cannot be made an array of NumPy's.

    Examples
    --------
    >>> as_array([1, 2], "values")
    array([1, 2])
    >>> as_array([[1], [1, 2]], "values")
    Traceback (most recent call last):
    ValueError: values cannot be made an array: setting an array element with a sequence. ...
    """
    if isinstance(thing, np.ndarray):
        return thing
    if callable(getattr(thing, "__dask_graph__", None)):  # by NumPy's way dask drops masks
        return computed(thing, label)
    first: Exception | None = None
    for way in ways(thing):
        try:
            found = way()
            if found.dtype != object or not hasattr(thing, "shape"):
                return found
            first = first or TypeError("NumPy sees no numbers in it")
        except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
            first = first or error
    kind: type[Exception] = ValueError if isinstance(first, ValueError) else TypeError
    what = "" if isinstance(thing, list | tuple) else f", a {type(thing).__name__},"
    raise kind(f"{label}{what} cannot be made an array: {first}") from first


def computed(lazy: Any, label: str) -> np.ndarray:
    """The values of a dask array, or of one that may hold a dask array.

    Raises
    ------
    ValueError
        If they have another shape than it declares.
    """
    values = lazy.compute()
    found = np.asanyarray(values) if callable(getattr(values, "__dask_graph__", None)) else as_array(values, label)
    declared = lazy.shape
    if found.shape != declared and not any(math.isnan(n) for n in declared):
        raise ValueError(f"{label} has shape {found.shape} once it is computed, but declares shape {declared}")
    return found


def ways(thing: Any) -> Iterator[Callable[[], np.ndarray]]:
    """How an object may become an array, the plainest first."""

    def has(*names: str) -> bool:
        return all(callable(getattr(thing, name, None)) for name in names)

    # A class has every attribute of its objects, and cannot be any of them.
    if has("__dlpack__") and not any(hasattr(thing, name) for name in OWN_WAYS):
        yield lambda: np.from_dlpack(thing)
        yield lambda: np.from_dlpack(thing, device="cpu")  # of another device: its library copies it
    yield lambda: np.asanyarray(thing)
    if has("detach", "cpu"):  # torch: a tensor with gradients, or of another device
        yield lambda: np.asanyarray(thing.detach().cpu())
        yield lambda: np.asanyarray(thing.detach().cpu().float())  # bfloat16, which NumPy does not know by itself
    if has("get"):  # cupy
        yield lambda: np.asanyarray(thing.get())
    if has("__dlpack__"):
        yield lambda: np.from_dlpack(thing)
        yield lambda: np.from_dlpack(thing, device="cpu")


def numbers(thing: Any, label: str) -> np.ndarray:
    """An array in memory, of a dtype that can be quantized, and NaN where it is masked.

    Masked integers become floats of the type that they would be quantized in.

    Raises
    ------
    TypeError, ValueError
        If it is none.

    Examples
    --------
    >>> numbers(np.ma.masked_equal([1.0, 2.0], 2.0), "values")
    array([ 1., nan])
    """
    array = as_array(thing, label)
    try:
        dtype = checked_dtype(array.dtype)
    except TypeError as error:
        raise TypeError(f"{label} must hold numbers: {error}") from None
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    mask, values = np.ma.getmask(array), np.asarray(np.ma.getdata(array))
    if not mask.any():
        return values
    values = values.astype(arithmetic(dtype) if dtype.kind in "iu" else dtype)
    values[mask] = np.nan
    return values


def unmasked(array: np.ndarray, label: str) -> np.ndarray:
    """The array, if no entry of it is masked.

    Raises
    ------
    ValueError
        If one is: how many, and where the first is.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    mask = np.ma.getmaskarray(array)
    if mask.any():
        raise ValueError(
            f"{label} has {int(np.count_nonzero(mask)):,} masked entries, the first at index {first_index(mask)}, "
            "and no code stands for those: fill them first, with the code of missing values where there is one"
        )
    return np.asarray(np.ma.getdata(array))
