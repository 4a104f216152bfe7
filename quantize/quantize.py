"""int4 quantization of arrays in memory: the four functions of the original library, and their packed twins."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import kernels
from .blocks import (
    block_of,
    blocks,
    checked_dtype,
    each_block,
    first_index,
    first_refused,
    packed_block_of,
    scan_block,
)
from .grid import Region, index_at, packed_shape
from .scaling import HIGHEST, LOWEST, Levels, RefusedValuesError, Rule, Scale, Statistics, check_scale, levels


class Int4Values(NamedTuple):
    """Codes -8..7 as int8, of the shape of the values, with their `scale` and `zero_point`."""

    quantized: np.ndarray
    scale: float
    zero_point: int


class NanInt4Values(NamedTuple):
    """`Int4Values` of data with missing values, which have the code `nan_code`."""

    quantized: np.ndarray
    scale: float
    zero_point: int
    nan_code: int


class PackedInt4Values(NamedTuple):
    """Two codes a byte: `packed` is int8 of shape ``(..., ceil(size / 2))``, `size` the length of the last axis."""

    packed: np.ndarray
    scale: float
    zero_point: int
    size: int
    nan_code: int | None


def quantize_to_int4(
    values: ArrayLike,
    scale_method: str = "minmax",
    *,
    value_range: tuple[float, float] | None = None,
    nan_policy: str = "raise",
) -> Int4Values | NanInt4Values:
    """Quantize numbers to 4-bit codes, as ONNX QuantizeLinear: ``clip(rint(x / scale) + zero_point, -8, 7)``.

    Parameters
    ----------
    values : array_like
        float16, bfloat16, float32, float64 or any integer dtype; any shape, strides and byte order.
    scale_method : {"minmax", "absmax"}
        minmax spends all 16 codes on the range from minimum to maximum; absmax keeps zero at code 0 and uses -7..7.
    value_range : (float, float), optional
        The range to cover instead of that of the data. What lies outside saturates, infinities included.
    nan_policy : {"raise", "propagate"}
        "raise" refuses NaN. "propagate" keeps it, with the code -8, and the result has a fourth field `nan_code`.

    Returns
    -------
    Int4Values or NanInt4Values
        ``(quantized, scale, zero_point)``: int8 codes of the shape of `values`, a float and an int.

    Raises
    ------
    ValueError
        If there are no values, NaN or infinity that the options do not allow, or an option is not one of those above.
    TypeError
        If the dtype is bool, complex, a string or an object.

    Notes
    -----
    Pass `zero_point` on to `dequantize_from_int4`: it is 0 only where the range happens to lie around zero.
    For every value within the range, ``abs(x - x') <= scale / 2 * (1 + 1e-5)``, plus the rounding of the dtypes.
    QuantizeLinear: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html

    Examples
    --------
    >>> quantized, scale, zero_point = quantize_to_int4([0.0, 1.0, 2.0, 3.0])
    >>> quantized.tolist(), scale, zero_point
    ([-8, -3, 2, 7], 0.2, -8)
    """
    result = quantize_to_packed_int4(values, scale_method, value_range=value_range, nan_policy=nan_policy)
    shape = (*result.packed.shape[:-1], result.size)
    quantized = unpack_int8_to_int4(result.packed, result.size).reshape(shape if np.ndim(values) else ())
    if result.nan_code is None:
        return Int4Values(quantized, result.scale, result.zero_point)
    return NanInt4Values(quantized, result.scale, result.zero_point, result.nan_code)


def dequantize_from_int4(
    quantized: ArrayLike,
    scale: float,
    zero_point: int = 0,
    *,
    nan_code: int | None = None,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """Turn codes back into numbers: ``(code - zero_point) * scale``, as ONNX DequantizeLinear.

    Parameters
    ----------
    quantized : array_like of int
        Codes -8..7, any shape.
    scale, zero_point : float, int
        As `quantize_to_int4` gave them.
    nan_code : int, optional
        The code that stands for NaN.
    dtype : dtype
        Of the result; the value is computed in float64 and rounded once, half to even.

    Returns
    -------
    ndarray of `dtype`, of the shape of `quantized`

    Raises
    ------
    ValueError
        If a code lies outside -8..7 or its value outside the range of `dtype`; if `scale` is not finite and above 0.
    TypeError
        If the codes are not integers, or `dtype` is not a float or integer type.

    Examples
    --------
    >>> dequantize_from_int4([-8, -4, 0, 4, 7], 1.5).tolist()
    [-12.0, -6.0, 0.0, 6.0, 10.5]
    """
    codes = checked_codes(quantized)
    found = levels(checked_parameters(scale, zero_point, nan_code), checked_dtype(dtype))
    check_levels(codes, found)
    result: np.ndarray = found.table[codes.astype(np.intp) - LOWEST]
    return result


def pack_int4_to_int8(int4_values: ArrayLike) -> np.ndarray:
    """Pack codes two to a byte along the last axis: ``2j`` in the low nibble of byte ``j``, ``2j + 1`` in the high.

    This is the order of ONNX INT4 tensors, torch quint4x2 and the Zarr v3 data type int4 with the codec packbits.

    Parameters
    ----------
    int4_values : array_like of int
        Codes -8..7 of shape ``(..., n)``.

    Returns
    -------
    ndarray of int8, shape ``(..., ceil(n / 2))``
        An odd end is padded with 0.

    Raises
    ------
    ValueError
        If a value lies outside -8..7 (which one, and where), or there is no axis to pack along.
    TypeError
        If the values are not integers.

    Examples
    --------
    >>> pack_int4_to_int8([-8, -4, 0, 4, 7]).tolist()
    [-56, 64, 7]
    """
    codes = checked_codes(int4_values)
    if codes.ndim == 0:
        raise ValueError("int4_values has no axis to pack along; wrap it in a list")
    packed = np.empty(packed_shape(codes.shape), np.int8)

    def work(region: Region) -> None:
        block = block_of(codes, region)
        kernels.pack_codes(block, packed_block_of(packed, region, len(block)))

    each_block(work, codes.shape, workers=None)
    return packed


def unpack_int8_to_int4(packed_values: ArrayLike, size: int | None = None) -> np.ndarray:
    """Unpack bytes into codes -8..7 along the last axis, the inverse of `pack_int4_to_int8`.

    Parameters
    ----------
    packed_values : array_like of int8 or uint8
        Shape ``(..., m)``.
    size : int, optional
        Length of the last axis of the result, ``2m`` or ``2m - 1``; ``2m`` if not given.

    Returns
    -------
    ndarray of int8, shape ``(..., size)``

    Raises
    ------
    ValueError
        If `size` does not fit.
    TypeError
        If the values are not bytes.

    Examples
    --------
    >>> unpack_int8_to_int4([-56, 64, 7], size=5).tolist()
    [-8, -4, 0, 4, 7]
    """
    return unpacked(packed_values, size, CODES)


def quantize_to_packed_int4(
    values: ArrayLike,
    scale_method: str = "minmax",
    *,
    value_range: tuple[float, float] | None = None,
    nan_policy: str = "raise",
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> PackedInt4Values:
    """Quantize and pack in one go: `quantize_to_int4` followed by `pack_int4_to_int8`, without the codes in between.

    Parameters
    ----------
    values, scale_method, value_range, nan_policy
        As for `quantize_to_int4`.
    out : ndarray of int8, optional
        Where to put the packed codes: shape ``(..., ceil(n / 2))``, C-contiguous.
    workers : int, optional
        Threads to use; by default one for each processor, where the array is large enough to gain by it.

    Returns
    -------
    PackedInt4Values
        ``(packed, scale, zero_point, size, nan_code)``. A number without axes is packed as one of shape (1,).

    Raises
    ------
    ValueError, TypeError
        As for `quantize_to_int4`; if `out` does not fit or `workers` is below 1.

    Examples
    --------
    >>> result = quantize_to_packed_int4([[0.0, 1.5, 3.0]])
    >>> result.packed.tolist(), result.scale, result.zero_point, result.size
    ([[8, 7]], 0.2, -8, 3)
    """
    rule = Rule(scale_method, value_range, nan_policy)
    array = checked_values(values)
    if array.ndim == 0:
        array = array.reshape(1)
    packed = checked_out(out, packed_shape(array.shape), np.dtype(np.int8))
    statistics = Statistics()
    if rule.value_range is None or rule.nan_code is None:
        found = each_block(lambda region: scan_block(block_of(array, region)), array.shape, workers)
        statistics = sum(found, Statistics())
        if rule.refused(statistics):
            raise RefusedValuesError(rule.refusal(statistics, first_of(array, rule)))
    chosen = rule.choose(statistics)

    def pack(region: Region) -> None:
        block = block_of(array, region)
        codes = packed_block_of(packed, region, len(block))
        kernels.pack(block, codes, chosen.scale, chosen.zero_point, chosen.nan_code, lowest=rule.lowest)

    each_block(pack, array.shape, workers)
    return PackedInt4Values(packed, chosen.scale, chosen.zero_point, array.shape[-1], chosen.nan_code)


def dequantize_from_packed_int4(
    packed: ArrayLike,
    scale: float,
    zero_point: int = 0,
    *,
    size: int | None = None,
    nan_code: int | None = None,
    dtype: DTypeLike = np.float32,
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Unpack and dequantize in one go, the inverse of `quantize_to_packed_int4`.

    Parameters
    ----------
    packed : array_like of int8 or uint8
        Shape ``(..., m)``.
    scale, zero_point, nan_code, dtype
        As for `dequantize_from_int4`.
    size : int, optional
        Length of the last axis of the result, ``2m`` or ``2m - 1``; ``2m`` if not given.
    out : ndarray of `dtype`, optional
        Where to put the result: shape ``(..., size)``, C-contiguous.
    workers : int, optional
        Threads to use; by default one for each processor, where the array is large enough to gain by it.

    Returns
    -------
    ndarray of `dtype`, shape ``(..., size)``

    Raises
    ------
    ValueError
        If `size` or `out` does not fit, or a value lies outside the range of `dtype`.
    TypeError
        If `packed` does not hold bytes, or `dtype` is not a float or integer type.

    Examples
    --------
    >>> dequantize_from_packed_int4([[8, 7]], 0.2, -8, size=3).tolist()
    [[0.0, 1.600000023841858, 3.0]]
    """
    found = levels(checked_parameters(scale, zero_point, nan_code), checked_dtype(dtype))
    return unpacked(packed, size, found, out, workers)


# Unpacking ------------------------------------------------------------------------------------------------------------


def unpacked(
    packed: ArrayLike,
    size: int | None,
    found: Levels,
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """The value of every code of an array of packed bytes."""
    array = np.asarray(packed, np.int8) if isinstance(packed, list | tuple) else np.asarray(packed)
    if array.dtype not in (np.int8, np.uint8):
        raise TypeError(f"packed codes are int8 or uint8, not {array.dtype}")
    if array.ndim == 0:
        raise ValueError("packed codes have at least one axis, but this is a single number")
    most = 2 * array.shape[-1]
    size = most if size is None else operator.index(size)
    if not max(most - 1, 0) <= size <= most:
        raise ValueError(f"size is {size}, but a last axis of {array.shape[-1]} bytes holds {most - 1} or {most} codes")
    result = checked_out(out, (*array.shape[:-1], size), found.table.dtype)
    contiguous = np.ascontiguousarray(array)

    def work(region: Region) -> None:
        part = result[region]
        block = part.reshape((-1, part.shape[-1]) if part.shape[-1] % 2 else (1, -1))
        kernels.unpack(packed_block_of(contiguous, region, len(block)), block, found.table)

    each_block(work, result.shape, workers)
    if found.outside:
        check_levels(unpacked(contiguous, size, CODES, workers=workers), found)
    return result


CODES = Levels(np.arange(LOWEST, HIGHEST + 1, dtype=np.int8), frozenset())


# Checks -------------------------------------------------------------------------------------------------------------


def checked_values(values: ArrayLike) -> np.ndarray:
    array = np.asanyarray(values)
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise ValueError("values has masked entries: pass values.filled(np.nan) and nan_policy='propagate'")
        array = array.data
    checked_dtype(array.dtype)
    if array.size == 0:
        raise ValueError(f"values has shape {array.shape} and so no values to find a scale for")
    return np.asarray(array)


def checked_codes(codes: ArrayLike) -> np.ndarray:
    """The codes as int8.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If one lies outside -8..7.
    """
    array = np.asarray(codes)
    if array.size == 0:
        return array.astype(np.int8)
    if array.dtype.kind not in "iu":
        raise TypeError(f"codes are integers from {LOWEST} to {HIGHEST}, not {array.dtype}")
    if array.min() < LOWEST or array.max() > HIGHEST:
        index = first_index((array < LOWEST) | (array > HIGHEST))
        raise ValueError(f"code {array[index]} at index {index} lies outside {LOWEST}..{HIGHEST}")
    return array.astype(np.int8, copy=False)


def checked_parameters(scale: Any, zero_point: Any, nan_code: int | None) -> Scale:
    if nan_code is not None and nan_code not in range(LOWEST, HIGHEST + 1):
        raise ValueError(f"nan_code is {nan_code!r}, but must be a code from {LOWEST} to {HIGHEST}, or None")
    return Scale(*check_scale(scale, zero_point), nan_code)


def checked_out(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, but must be a writeable C-contiguous array "
            f"of shape {shape} and dtype {dtype}"
        )
    return out


def check_levels(codes: np.ndarray, found: Levels) -> None:
    """Raise a ValueError for the first code whose value does not fit the dtype it is to be restored to."""
    outside = np.isin(codes, list(found.outside))
    if outside.any():
        index = first_index(outside)
        raise ValueError(
            f"code {codes[index]} at index {index} stands for a value that {found.table.dtype} cannot hold; "
            "pass a wider dtype"
        )


def first_of(array: np.ndarray, rule: Rule) -> tuple[int, ...]:
    """Index of the first value of an array that `rule` takes no code for."""
    for region in blocks(array.shape):
        position = first_refused(array[region], rule)
        if position >= 0:
            inside = index_at(position, array[region].shape)
            return tuple(i + part.start for i, part in zip(inside, region, strict=True))
    raise AssertionError("no value is refused")
