"""Which dtypes there are, what they hold, and how float64 is rounded to them."""

from __future__ import annotations

import contextlib
import math
import re
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TEXT = np.dtype(object)  # of arrays whose values are all `str`, of any length: those are kept
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
NAMES = r"bool|bfloat16|(u?int|float|complex)\d+"  # what dtypes of other libraries are called, if NumPy has the like


def arithmetic(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The float type that `dtype` is quantized in: float32 where it holds every value of `dtype` exactly."""
    return np.float64 if dtype == np.float64 or (dtype.kind in "iu" and dtype.itemsize > 2) else np.float32


def as_missing(value: float | int, dtype: np.dtype[Any]) -> float | int | None:
    """A missing value as the dtype holds it; None if it holds no such finite value."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(value) if math.isfinite(value) and value == int(value) and info.min <= value <= info.max else None
    with np.errstate(over="ignore"):
        number = float(np.asarray(float(value), dtype))
    return number if math.isfinite(number) else None


def rounded_each(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """As `rounded`, of float64 values well within the dtype's range."""
    if dtype.kind in "iu":
        values = np.rint(values)
    elif dtype == BFLOAT16:
        spacing = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - 8, -133))
        values = np.rint(values / spacing) * spacing
    return values.astype(dtype)


def finite_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest finite value of a dtype, as integers (the largest floats are whole numbers)."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    largest = int(float(ml_dtypes.finfo(dtype).max))
    return -largest, largest


def rounded(value: float, dtype: np.dtype[Any]) -> Any:
    """A float64 within the dtype's finite range, rounded to the dtype once, half to even."""
    if dtype.kind in "iu":
        lowest, highest = finite_range(dtype)
        return min(max(round(value), lowest), highest)
    if dtype == BFLOAT16 and value:
        # ml_dtypes goes through float32, which rounds twice; a multiple of the spacing, 8 bits, is exact in all three.
        spacing = math.ldexp(1.0, max(math.frexp(value)[1] - 8, -133))
        value = float(round(Fraction(value) / Fraction(spacing)) * Fraction(spacing))
    largest = float(finite_range(dtype)[1])
    return np.asarray(min(max(value, -largest), largest), dtype)


def rounded_within(values: np.ndarray, dtype: np.dtype[Any], missing: float | int | None = None) -> np.ndarray:
    """Float64 values, each rounded to a dtype once: beyond its range the nearest it has, NaN in integers `missing`."""
    lowest, highest = finite_range(dtype)
    if dtype.kind not in "iu":
        return rounded_each(np.clip(values, float(lowest), float(highest)), dtype)
    nan = np.isnan(values)
    inside = np.clip(np.where(nan, 0.0, values), float(lowest), float(highest))
    top = inside >= float(highest)  # 2^63 and 2^64 are no values of theirs
    result: np.ndarray = np.where(top, 0.0, np.rint(inside)).astype(dtype)
    result[top] = highest
    result[nan] = 0 if missing is None else missing
    return result


def checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype in native byte order.

    Raises
    ------
    TypeError
        If it is not one of those that can be quantized.
    """
    found = dtype_named(dtype)
    if found is not None:
        native = found.newbyteorder("=")
        if native in FLOATS or native.kind in "iu":
            return native
    raise TypeError(
        f"dtype {dtype if found is None else found} is not float16, bfloat16, float32, float64 or an integer type"
    )


def dtype_named(thing: Any) -> np.dtype[Any] | None:
    """The dtype that an object names: one of NumPy's, or another library's of the same name; None if it names none.

    >>> class Tensors:  # as torch.bfloat16
    ...     def __str__(self):
    ...         return "torch.bfloat16"
    >>> dtype_named(Tensors()), dtype_named(">i2"), dtype_named("tf.quint8")
    (dtype(bfloat16), dtype('>i2'), None)
    """
    found: np.dtype[Any] | None = None
    with contextlib.suppress(TypeError, ValueError, SyntaxError):
        found = np.dtype(thing)
        return found
    name = str(getattr(thing, "numpy_dtype", None) or getattr(thing, "name", None) or thing).rpartition(".")[2]
    if re.fullmatch(NAMES, name):
        with contextlib.suppress(TypeError):  # of a size that NumPy has not
            named: np.dtype[Any] = np.dtype(name)
            return named
    return None
