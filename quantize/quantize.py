"""int4 quantization of arrays in memory: the four functions of the original library, and their packed twins."""

from __future__ import annotations

import operator
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import kernels
from .calibration.blocks import holds_zeros, scale_and_pack
from .calibration.calibrate import calibrate, check_statistics, scanned
from .exceptions import RefusedValuesError
from .numerics.blocks import BLOCK_VALUES, block_of, each_block, first_index, packed_block_of
from .numerics.dtypes import checked_dtype
from .numerics.foreign import as_array, numbers, unmasked
from .numerics.granularity import PER_TENSOR, Granularity, granularity_of
from .numerics.grid import Region, Shape, packed_region, packed_shape
from .numerics.names import NanPolicy, ScaleMethod
from .numerics.scales import HIGHEST, LOWEST, Codes, Rule, Scale, Scales, check_percentile, check_scale
from .numerics.tables import CODES, CodeLevels, coefficients, level_table


class Int4Values(NamedTuple):
    """Codes -8..7 as int8, of the shape of the values, with their `scale` and `zero_point`.

    Those are a float and an int; with an `axis` float64 and int64 arrays, of length 1 along every other axis; with
    `blocks` float64 arrays with an entry for each block.
    """

    quantized: np.ndarray
    scale: Any
    zero_point: Any


class NanInt4Values(NamedTuple):
    """`Int4Values` of data with missing values, which have the code `nan_code`."""

    quantized: np.ndarray
    scale: Any
    zero_point: Any
    nan_code: int


class PackedInt4Values(NamedTuple):
    """Two codes a byte: `packed` is int8 of shape ``(..., ceil(size / 2))``, `size` the length of the last axis."""

    packed: np.ndarray
    scale: Any
    zero_point: Any
    size: int
    nan_code: int | None


@overload
def quantize_to_int4(
    values: ArrayLike,
    scale_method: ScaleMethod = "minmax",
    *,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    nan_policy: Literal["raise"] = "raise",
    finest: float | None = None,
) -> Int4Values: ...


@overload
def quantize_to_int4(
    values: ArrayLike,
    scale_method: ScaleMethod = "minmax",
    *,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    nan_policy: Literal["propagate"],
    finest: float | None = None,
) -> NanInt4Values: ...


@overload
def quantize_to_int4(
    values: ArrayLike,
    scale_method: ScaleMethod = "minmax",
    *,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    nan_policy: NanPolicy,
    finest: float | None = None,
) -> Int4Values | NanInt4Values: ...


def quantize_to_int4(
    values: ArrayLike,
    scale_method: ScaleMethod = "minmax",
    *,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    nan_policy: NanPolicy = "raise",
    finest: float | None = None,
) -> Int4Values | NanInt4Values:
    """Quantize numbers to 4-bit codes, as ONNX QuantizeLinear: ``clip(rint(x / scale) + zero_point, -8, 7)``.

    Parameters
    ----------
    values : array_like
        float16, bfloat16, float32, float64 or any integer dtype; any shape, strides and byte order. Masked entries
        count as NaN.
    scale_method : {"minmax", "absmax", "percentile", "mse"}
        minmax spends all 16 codes on the range from minimum to maximum; absmax keeps zero at code 0 and uses -7..7.
        percentile leaves out the tails; mse takes the range with the least mean squared error. Both look at how the
        values are distributed; what lies outside their range saturates.
    axis : int, optional
        The axis that keeps a scale for each of its indices; by default there is one scale for all values.
    blocks : int or tuple of int, optional
        Lengths of the blocks that share a scale, one for each axis, -1 for a whole one; a number is the length along
        the last axis, with 1 along the others. Blocks at the far ends may be shorter.
    percentile : float, optional
        Share of the values, in %, that the method percentile keeps: by default 99.9, the range
        ``np.percentile(x, [0.05, 99.95])`` to within a bin, or that of all values where both are the same. Not with
        blocks, which have too few values.
    value_range : (float, float), optional
        The range to cover instead of that of the data. What lies outside saturates, infinities included.
    nan_policy : {"raise", "propagate"}
        "raise" refuses NaN. "propagate" keeps it, with the code -8, and the result has a fourth field `nan_code`.
    finest : float, optional
        With blocks, the least scale of a block, such as the precision with which the values were measured: flat blocks
        then take few codes, which compress to little. It is rounded up to five bits. A block of one value stays exact.

    Returns
    -------
    Int4Values or NanInt4Values
        ``(quantized, scale, zero_point)``: int8 codes of the shape of `values`, a float and an int. With an `axis`
        they are arrays that broadcast against the codes: of length 1 along every other axis. With `blocks` they have
        an entry for each block, and zero points are whole numbers of quarters.

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
    Scales of blocks have five significant bits: for the methods minmax and absmax they are rounded up, so that the
    bound holds with them. With blocks the method mse looks at the values themselves and not at a histogram.
    QuantizeLinear: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html

    Examples
    --------
    >>> quantized, scale, zero_point = quantize_to_int4([0.0, 1.0, 2.0, 3.0])
    >>> quantized.tolist(), scale, zero_point
    ([-8, -3, 2, 7], 0.2, -8)
    >>> quantize_to_int4([[0.0, 15.0], [0.0, 30.0]], axis=0).scale.tolist()
    [[1.0], [2.0]]
    >>> quantize_to_int4([[0.0, 15.0, 0.0, 60.0]], blocks=2).scale.tolist()
    [[1.0, 4.0]]
    """
    array = as_array(values, "values")
    result = quantize_to_packed_int4(
        array,
        scale_method,
        axis=axis,
        blocks=blocks,
        percentile=percentile,
        value_range=value_range,
        nan_policy=nan_policy,
        finest=finest,
    )
    quantized = unpack_int8_to_int4(result.packed, result.size).reshape(array.shape)
    if result.nan_code is None:
        return Int4Values(quantized, result.scale, result.zero_point)
    return NanInt4Values(quantized, result.scale, result.zero_point, result.nan_code)


def dequantize_from_int4(
    quantized: ArrayLike,
    scale: Any,
    zero_point: Any = 0,
    *,
    blocks: int | tuple[int, ...] | None = None,
    nan_code: int | None = None,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """Turn codes back into numbers: ``(code - zero_point) * scale``, as ONNX DequantizeLinear.

    Parameters
    ----------
    quantized : array_like of int
        Codes -8..7, any shape.
    scale, zero_point : float and int, or arrays
        As `quantize_to_int4` gave them; arrays have length 1 along every axis but one, or an entry for each block.
    blocks : int or tuple of int, optional
        The blocks that share a scale, as they were when the values were quantized.
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
        If a code lies outside -8..7 or its value outside the range of `dtype`; if `scale` is not finite and above 0;
        if scales and zero points are not those of the codes' axis or blocks.
    TypeError
        If the codes are not integers, or `dtype` is not a float or integer type.

    Examples
    --------
    >>> dequantize_from_int4([-8, -4, 0, 4, 7], 1.5).tolist()
    [-12.0, -6.0, 0.0, 6.0, 10.5]
    """
    codes = checked_codes(quantized, "quantized")
    return table_of(scale, zero_point, blocks, nan_code, checked_dtype(dtype), codes.shape).look_up(codes)


def pack_int4_to_int8(int4_values: ArrayLike) -> np.ndarray:
    """Pack codes two to a byte along the last axis: ``2j`` in the low nibble of byte ``j``, ``2j + 1`` in the high.

    This is the order of ONNX INT4 tensors, torch quint4x2 and the Zarr v3 data type int4 with the codec packbits, where
    the last axis is even or there is one row. With an odd one those pack the rows on end; here each row is padded.

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
    codes = checked_codes(int4_values, "int4_values")
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
    return unpacked(*checked_packed(packed_values, "packed_values", size), CODES)


def quantize_to_packed_int4(
    values: ArrayLike,
    scale_method: ScaleMethod = "minmax",
    *,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    nan_policy: NanPolicy = "raise",
    finest: float | None = None,
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> PackedInt4Values:
    """Quantize and pack in one go: `quantize_to_int4` followed by `pack_int4_to_int8`, without the codes in between.

    Parameters
    ----------
    values, scale_method, axis, blocks, percentile, value_range, nan_policy, finest
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
    given = as_array(values, "values")
    array = checked_values(given)
    check_percentile(percentile)
    granularity = granularity_of(axis, array.ndim, blocks)
    if array.ndim == 0:
        array = array.reshape(1)
    rule = Rule.of(scale_method, value_range, nan_policy, percentile, granularity, finest)
    if rule.nan_code is None:
        check_mask(given)
    packed = checked_out(out, packed_shape(array.shape), np.dtype(np.int8))
    if granularity.fraction > 1:
        scales = scaled_and_packed(array, rule, packed, workers)
        return PackedInt4Values(packed, *scales.plain(), array.shape[-1], rule.nan_code)
    scales, codes = calibrate(array, rule, workers), rule.codes()

    def pack(region: Region) -> None:
        block = block_of(array, region, granularity)
        target = packed_block_of(packed, region, len(block))
        table = coefficients(scales.part(region), block.dtype, codes)
        kernels.pack(block, target, table, granularity.lines(array[region].shape), codes.sentinel(block.dtype))

    each_block(pack, array.shape, workers)
    return PackedInt4Values(packed, *scales.plain(), array.shape[-1], rule.nan_code)


def scaled_and_packed(array: np.ndarray, rule: Rule, packed: np.ndarray, workers: int | None) -> Scales:
    """Pack an array in blocks, whose scales are found in the same read, and return those.

    Raises
    ------
    RefusedValuesError
        If there are values that the rule refuses.
    """
    granularity = rule.granularity
    scales, keep_zero = Scales.room(granularity, array.shape), holds_zeros(array)

    def work(region: Region) -> bool:
        values = np.ascontiguousarray(array[region], array.dtype.newbyteorder("="))
        return scale_and_pack(values, region, rule, packed, scales, keep_zero=keep_zero)

    parts = each_block(work, array.shape, workers, BLOCK_VALUES, granularity.whole_cuts(array.shape))
    if not all(parts):
        check_statistics(array, rule, scanned(array, PER_TENSOR, workers))
    return scales


def dequantize_from_packed_int4(
    packed: ArrayLike,
    scale: Any,
    zero_point: Any = 0,
    *,
    size: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
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
    scale, zero_point, blocks, nan_code, dtype
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
    array, size = checked_packed(packed, "packed", size)
    table = table_of(scale, zero_point, blocks, nan_code, checked_dtype(dtype), (*array.shape[:-1], size))
    return unpacked(array, size, table, out, workers)


# Unpacking ------------------------------------------------------------------------------------------------------------


def unpacked(
    packed: np.ndarray, size: int, table: CodeLevels, out: np.ndarray | None = None, workers: int | None = None
) -> np.ndarray:
    """The value of every code of an array of packed bytes, whose last axis holds `size` of them."""
    result = checked_out(out, (*packed.shape[:-1], size), table.dtype)
    contiguous = np.ascontiguousarray(packed)

    def work(region: Region) -> bool:
        target = result[region]
        room = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)
        beyond = kernels.unpack_values(
            table.part(region), np.ascontiguousarray(contiguous[packed_region(region)]), room
        )
        if room is not target:
            target[...] = room
        return beyond

    cuts = table.granularity.whole_cuts(result.shape) if table.granularity.fraction > 1 else None
    if any(each_block(work, result.shape, workers, cuts=cuts)):
        table.check(unpacked(contiguous, size, CODES, workers=workers))
    return result


# Checks -------------------------------------------------------------------------------------------------------------


def checked_values(values: ArrayLike) -> np.ndarray:
    array = numbers(values, "values")
    if array.size == 0:
        raise ValueError(f"values has shape {array.shape} and so no values to find a scale for")
    return array


def check_mask(array: np.ndarray) -> None:
    """Raise a RefusedValuesError if an entry is masked."""
    mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else np.zeros(1, bool)
    if mask.any():
        raise RefusedValuesError(
            f"values has {int(np.count_nonzero(mask)):,} masked entries, the first at index {first_index(mask)}, which "
            'are missing values: nan_policy="propagate" keeps those, with a code of their own'
        )


def checked_codes(codes: ArrayLike, name: str) -> np.ndarray:
    """The codes as int8; `name` is that of the argument.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If one lies outside -8..7, or is masked.
    """
    array = integers(codes, name, f"integers from {LOWEST} to {HIGHEST}")
    if array.size and (array.min() < LOWEST or array.max() > HIGHEST):
        index = first_index((array < LOWEST) | (array > HIGHEST))
        raise ValueError(f"{name} holds {array[index]} at index {index}, which lies outside {LOWEST}..{HIGHEST}")
    return array.astype(np.int8, copy=False)


def integers(values: ArrayLike, name: str, what: str) -> np.ndarray:
    """An array of integers, or of none."""
    array = unmasked(as_array(values, name), name)
    if array.dtype.kind in "iu":
        return array
    if array.size == 0 and isinstance(values, list | tuple):  # NumPy has no better idea of its dtype
        return array.astype(np.int8)
    wide = array.dtype == object and all(isinstance(value, int) for value in array.flat)
    raise (ValueError if wide else TypeError)(f"{name} must hold {what}, not {'larger ones' if wide else array.dtype}")


def checked_packed(packed: ArrayLike, name: str, size: int | None) -> tuple[np.ndarray, int]:
    """The packed bytes as an array, and how many codes its last axis holds."""
    array = integers(packed, name, "bytes, int8 or uint8")
    if isinstance(packed, list | tuple):  # of integers, as of `tolist`
        array = bytes_of(array, name)
    if array.dtype not in (np.int8, np.uint8):
        raise TypeError(f"{name} must hold bytes, int8 or uint8, not {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name} is a single number, but must have at least one axis")
    most = 2 * array.shape[-1]
    try:
        size = most if size is None else operator.index(size)
    except TypeError:
        raise TypeError(f"size is {size!r}, but must be an integer, the length of the last axis of the codes") from None
    if not max(most - 1, 0) <= size <= most:
        raise ValueError(f"size is {size}, but a last axis of {array.shape[-1]} bytes holds {most - 1} or {most} codes")
    return array, size


def bytes_of(array: np.ndarray, name: str) -> np.ndarray:
    """Integers as int8, or as uint8 where they are above 127.

    Raises
    ------
    ValueError
        If they are no bytes.
    """
    for dtype in (np.int8, np.uint8):
        info = np.iinfo(dtype)
        outside = (array < info.min) | (array > info.max)
        if not outside.any():
            return array.astype(dtype)
    index = first_index((array < -128) | (array > (255 if array.min() >= 0 else 127)))
    raise ValueError(f"{name} holds {array[index]} at index {index}, but must hold bytes: -128..127, or 0..255")


def table_of(
    scale: Any, zero_point: Any, blocks: Any, nan_code: int | None, dtype: np.dtype[Any], shape: Shape
) -> CodeLevels:
    """The values of codes of this shape, with one scale, or with an array of them along one axis or for each block."""
    if nan_code is not None and nan_code not in range(LOWEST, HIGHEST + 1):
        raise ValueError(f"nan_code is {nan_code!r}, but must be a code from {LOWEST} to {HIGHEST}, or None")
    granularity = None if blocks is None else granularity_of(None, len(shape), blocks)
    return level_table(checked_scales(scale, zero_point, granularity, shape), dtype, Codes(nan_code=nan_code))


def checked_scales(scale: Any, zero_point: Any, granularity: Granularity | None, shape: Shape) -> Scales:
    """Scales and zero points as a user has them, for codes of this shape; by their shape where nothing else tells.

    Raises
    ------
    ValueError
        If they are neither numbers nor arrays with an entry for each index of one axis, or for each of the blocks that
        are named; or as of `check_scale`.
    """
    scale, zero_point = (
        unmasked(as_array(x, name), name) if isinstance(x, np.ndarray | list | tuple) else x
        for x, name in ((scale, "scale"), (zero_point, "zero_point"))
    )
    in_blocks = granularity is not None and granularity.fraction > 1
    if not in_blocks and max(np.size(scale), np.size(zero_point)) == 1:
        scale, zero_point = (np.reshape(x, ())[()] if isinstance(x, np.ndarray) else x for x in (scale, zero_point))
        return Scales.one(Scale(*check_scale(scale, zero_point)), shape)
    scales, zero_points = np.broadcast_arrays(np.asarray(scale), np.asarray(zero_point))
    if granularity is None:
        axes = [axis for axis, n in enumerate(scales.shape) if n != 1]
        if scales.ndim != len(shape) or len(axes) != 1 or scales.shape[axes[0]] != shape[axes[0]]:
            raise ValueError(
                f"scale and zero_point have shape {scales.shape} together, but for codes of shape {shape} they must be "
                "numbers, or arrays with a length of 1 along every axis but one, which is as long as that of the "
                "codes. Scales of blocks need blocks=, as it was when they were quantized"
            )
        granularity = granularity_of(axes[0], len(shape))
    counts = granularity.groups(shape).counts
    if scales.shape != counts:
        raise ValueError(
            f"scale and zero_point have shape {scales.shape} together, but codes of shape {shape} have "
            f"{granularity.label or 'one scale'}, and so scales of shape {counts}"
        )
    if in_blocks:
        return block_scales(scales, zero_points, granularity, shape)
    plain = scales.dtype.kind in "iuf" and zero_points.dtype.kind == "i"
    doubtful = ~(np.isfinite(scales) & (scales > 0)) if plain else np.ones(scales.shape, bool)
    for index in zip(*np.nonzero(doubtful), strict=True):
        check_scale(scales[index], zero_points[index])
    return Scales(scales.astype(np.float64), zero_points.astype(np.int64), granularity, shape)


def block_scales(scale: np.ndarray, zero_point: np.ndarray, granularity: Granularity, shape: Shape) -> Scales:
    """Scales and zero points of blocks, checked; zero points are whole numbers of quarters."""
    if scale.dtype.kind not in "iuf" or zero_point.dtype.kind not in "iuf":
        raise ValueError(f"scale and zero_point hold {scale.dtype} and {zero_point.dtype}, but must hold numbers")
    scales, zero_points = (np.asarray(x, np.float64, order="C") for x in (scale, zero_point))
    place = kernels.first_invalid(scales, zero_points)
    if place >= 0:
        check_scale(scale.flat[place], zero_point.flat[place], granularity.fraction)
    return Scales(scales, zero_points, granularity, shape)


def checked_out(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out is a {type(out).__name__}, but must be a plain array of NumPy's")
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, but must be a writeable C-contiguous array "
            f"of shape {shape} and dtype {dtype}"
        )
    return out
