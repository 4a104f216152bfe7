"""Arrays in memory: the four functions of the original library, and their packed twins."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import slow
from strategies import BFLOAT16, DTYPES, FLOATS, INTEGERS, LAYOUTS, arrays, numbers, some_dtypes_at_once, with_axis

from quantize import (
    RefusedValuesError,
    dequantize_from_int4,
    dequantize_from_packed_int4,
    measure_error,
    quantize_to_int4,
    quantize_to_packed_int4,
)
from quantize.numerics.blocks import blocks
from quantize.quantize import pack_int4_to_int8, unpack_int8_to_int4

INFINITIES = (math.inf, -math.inf)
methods = st.sampled_from(["minmax", "absmax"])
policies = st.sampled_from(["raise", "propagate"])


def check_codes(
    values: np.ndarray, codes: np.ndarray, scale: float, zero_point: int, nan_code: int | None, scale_method: str
) -> None:
    """Hold codes to the law's: those of exact arithmetic, wherever it promises them."""
    assert codes.dtype == np.int8
    assert codes.shape == values.shape
    expected, distances = oracle.quantized(
        values, scale, zero_point, nan_code, low=-7 if scale_method == "absmax" else -8
    )
    assert codes.min() >= (-8 if nan_code is None or np.any(expected == nan_code) else -7)
    assert codes.max() <= 7
    if abs(zero_point) < oracle.ANCHORED:
        clear = distances > oracle.TIE
        np.testing.assert_array_equal(codes[clear], expected[clear])


def check_errors(values: np.ndarray, restored: np.ndarray, scale: float) -> None:
    """Hold restored values to the bound; all lie within the range."""
    for value, back in zip(values.flat, restored.flat, strict=True):
        if math.isnan(float(value)):
            assert np.isnan(back)
        else:
            error = abs(oracle.number(value) - oracle.number(back))
            assert error <= oracle.error_bound(value, back, scale, values.dtype, restored.dtype), (value, back)


def check(values: np.ndarray, scale_method: str = "minmax", nan_policy: str = "raise") -> tuple[np.ndarray, float, int]:
    result = quantize_to_int4(values, scale_method, nan_policy=nan_policy)
    codes, scale, zero_point = result[:3]
    nan_code = result[3] if len(result) == 4 else None
    assert (type(scale), type(zero_point)) == (float, int)
    assert nan_code == {"raise": None, "propagate": -8}[nan_policy]
    check_codes(values, codes, scale, zero_point, nan_code, scale_method)
    for dtype in {values.dtype.newbyteorder("="), np.dtype(np.float64)}:
        if nan_code is None or dtype in FLOATS:
            restored = dequantize_from_int4(codes, scale, zero_point, nan_code=nan_code, dtype=dtype)
            assert (restored.dtype, restored.shape) == (dtype, values.shape)
            check_errors(values, restored, scale)
    return codes, scale, zero_point


# The law ------------------------------------------------------------------------------------------------------------


@some_dtypes_at_once
@settings(max_examples=300)
@given(data=st.data(), scale_method=methods)
def test_codes_and_errors_keep_the_law(dtypes: list[np.dtype[Any]], data: st.DataObject, scale_method: str) -> None:
    check(data.draw(arrays(dtypes)), scale_method)


@given(arrays(FLOATS, special=(math.nan,)), methods)
def test_missing_values_are_kept(values: np.ndarray, scale_method: str) -> None:
    codes, _, _ = check(values, scale_method, "propagate")
    np.testing.assert_array_equal(codes == -8, np.isnan(values))


@st.composite
def ranged(draw: st.DrawFn, dtypes: list[np.dtype[Any]]) -> tuple[np.ndarray, tuple[float, float]]:
    """Values, and a range that ends at or near some of them, or anywhere at all."""
    values = draw(arrays(dtypes, special=INFINITIES))
    present = [float(x) for x in values.flat if math.isfinite(x)] or [0.0]
    ends = st.one_of(st.sampled_from(present), numbers(np.dtype(np.float64)))
    low, high = sorted([draw(ends), draw(ends)])
    assume(low < high)
    return values, (low, high)


EXTREME = [
    (np.asarray([0, math.inf, -math.inf], np.float32), (-1e308, 1e308)),
    (np.asarray([0, 3e38, -1e-45], np.float32), (-1e-300, 1e-300)),
    (np.asarray([0, 255], np.uint8), (-1e300, 1e9)),
    (np.asarray([0, 255], np.uint8), (1e9, 1e10)),
]


@some_dtypes_at_once
@settings(max_examples=3 * settings().max_examples)
@given(data=st.data(), scale_method=methods, nan_policy=policies)
def test_a_value_range_saturates_what_lies_outside(
    dtypes: list[np.dtype[Any]], data: st.DataObject, scale_method: str, nan_policy: str
) -> None:
    check_range(*data.draw(ranged(dtypes)), scale_method, nan_policy)


@pytest.mark.parametrize("nan_policy", ["raise", "propagate"])
@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
@pytest.mark.parametrize(("values", "value_range"), EXTREME, ids=str)
def test_a_value_range_that_is_extreme(
    values: np.ndarray, value_range: tuple[float, float], scale_method: str, nan_policy: str
) -> None:
    check_range(values, value_range, scale_method, nan_policy)


def check_range(values: np.ndarray, value_range: tuple[float, float], scale_method: str, nan_policy: str) -> None:
    """Hold codes to the law, and what lies inside to the bound."""
    low, high = value_range
    result = quantize_to_int4(values, scale_method, value_range=value_range, nan_policy=nan_policy)
    codes, scale, zero_point = result[:3]
    nan_code = -8 if nan_policy == "propagate" else None
    check_codes(values, codes, scale, zero_point, nan_code, scale_method)
    inside = np.asarray([low <= float(x) <= high for x in values.flat]).reshape(values.shape)
    check_errors(values[inside], dequantize_from_int4(codes[inside], scale, zero_point, dtype=np.float64), scale)


def full_range(dtype: np.dtype[Any]) -> np.ndarray:
    low, high = oracle.finite_range(dtype)
    ends = [int(low), int(high)] if dtype.kind in "iu" else [float(low), float(high)]
    return np.asarray([ends[0], 0, 1, ends[1]], dtype)


def subnormals(dtype: np.dtype[Any]) -> np.ndarray:
    return (
        np.asarray([-3, 0, 1, 2, 5, 40, 97], f"i{dtype.itemsize}" if dtype.itemsize > 1 else dtype).clip(0).view(dtype)
    )


AWKWARD: dict[str, np.ndarray] = {
    **{f"full range of {dtype}": full_range(dtype) for dtype in DTYPES},
    **{f"subnormal {dtype}": subnormals(dtype) for dtype in FLOATS},
    "every int8": np.arange(-128, 128, dtype=np.int8),
    "every uint8": np.arange(256, dtype=np.uint8),
    "large offset": np.asarray([1e8, 1e8 + 8, 1e8 + 16, 1e8 + 48], np.float32),
    "elevations": np.asarray([8848.86, 8848.0, 8611.0, 8586.5], np.float32),
    "kelvin": np.linspace(279.5, 280.5, 41, dtype=np.float32),
    "one ulp apart": np.asarray([1.0, math.nextafter(1.0, 2.0)]),
    "one ulp apart, float32": np.asarray([1.0, 1.0 + 2**-23], np.float32),
    "large int64": np.arange(2**60, 2**60 + 2000, 100, dtype=np.int64),
    "large uint64": np.asarray([2**64 - 1, 2**63, 2**53 + 1], np.uint64),
    "wide int64": np.asarray([-(2**63), 2**53 + 1, 2**63 - 1], np.int64),
    "near float64 overflow": np.asarray([-1.7e308, 1e300, 1.7e308]),
    "single": np.asarray([42.0], np.float32),
    "no axes": np.asarray(42.0, np.float32),
    "zeros of both signs": np.asarray([0.0, -0.0], np.float32),
}


@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
@pytest.mark.parametrize("values", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_data(values: np.ndarray, scale_method: str) -> None:
    check(values, scale_method)
    if values.dtype in FLOATS:
        check(values, scale_method, "propagate")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zero_point", range(-10, 8))
def test_ties_go_to_the_even_multiple_of_the_scale(dtype: np.dtype[Any], zero_point: int) -> None:
    low = 2 * (-8 - zero_point)
    values = np.arange(low, low + 31)
    values = values[values >= 0] if dtype.kind == "u" else values
    result = quantize_to_int4(values.astype(dtype), value_range=(low, low + 30))
    assert (result.scale, result.zero_point) == (2.0, zero_point)
    expected = [min(max(round(Fraction(int(x), 2)) + zero_point, -8), 7) for x in values]
    assert result.quantized.tolist() == expected


@given(st.sampled_from(DTYPES), st.data(), policies)
def test_constants_are_restored_exactly(dtype: np.dtype[Any], data: st.DataObject, nan_policy: str) -> None:
    value = data.draw(numbers(dtype))
    assume(dtype.kind in "f" or dtype == BFLOAT16 or abs(value) <= 2**53)
    values = np.full(data.draw(hnp.array_shapes(max_dims=3, max_side=3)), value).astype(dtype)
    result = quantize_to_int4(values, nan_policy=nan_policy)
    assert not result.quantized.any()
    np.testing.assert_array_equal(dequantize_from_int4(*result[:3], dtype=dtype), values)


@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_are_restored_exactly(dtype: np.dtype[Any], scale_method: str) -> None:
    codes, scale, zero_point = quantize_to_int4(np.zeros((2, 3), dtype), scale_method)
    assert (codes.tolist(), scale, zero_point) == ([[0] * 3] * 2, 1.0, 0)


@given(arrays(FLOATS), methods)
def test_zero_is_exact_wherever_the_range_holds_it(values: np.ndarray, scale_method: str) -> None:
    values = np.append(values.ravel(), np.zeros(1, values.dtype)).astype(values.dtype.newbyteorder("="))
    codes, scale, zero_point = quantize_to_int4(values, scale_method)
    assert dequantize_from_int4(codes, scale, zero_point, dtype=np.float64)[-1] == 0


@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
def test_nothing_but_nan(scale_method: str) -> None:
    codes, scale, zero_point, nan_code = quantize_to_int4([math.nan] * 3, scale_method, nan_policy="propagate")
    assert (codes.tolist(), scale, zero_point, nan_code) == ([-8] * 3, 1.0, 0, -8)
    assert np.isnan(dequantize_from_int4(codes, scale, zero_point, nan_code=nan_code)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_do_not_depend_on_the_layout(layout: Callable[[np.ndarray], np.ndarray]) -> None:
    values = np.random.default_rng(0).normal(280, 9, (3, 4, 5)).astype(np.float32)
    given_back = layout(values)
    np.testing.assert_array_equal(given_back, values)
    np.testing.assert_array_equal(quantize_to_int4(given_back).quantized, quantize_to_int4(values).quantized)


def test_every_level_of_data_far_from_zero_is_used() -> None:
    codes, _, _ = quantize_to_int4(np.linspace(279, 281, 1000, dtype=np.float32))
    assert np.unique(codes).tolist() == list(range(-8, 8))


# The original library -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "scale_method", "codes", "scale", "zero_point"),
    [
        ([-10, -5, 0, 5, 10], "minmax", [-8, -4, 0, 4, 7], 20 / 15, 0),
        ([-7, -3.5, 0, 3.5, 7], "absmax", [-7, -4, 0, 4, 7], 1.0, 0),
        ([0.0] * 5, "minmax", [0] * 5, 1.0, 0),
        ([0.0] * 5, "absmax", [0] * 5, 1.0, 0),
        ([42.0], "minmax", [0], 1.0, -42),
    ],
)
def test_codes_of_the_original_library(
    values: list[float], scale_method: str, codes: list[int], scale: float, zero_point: int
) -> None:
    result = quantize_to_int4(values, scale_method)
    assert (result[0].tolist(), result[1], result[2]) == (codes, scale, zero_point)


def test_dequantize_of_the_original_library() -> None:
    restored = dequantize_from_int4([-8, -4, 0, 4, 7], 1.5)
    assert restored.dtype == np.float32
    assert restored.tolist() == [-12.0, -6.0, 0.0, 6.0, 10.5]
    assert dequantize_from_int4(*quantize_to_int4([42.0])).tolist() == [42.0]


def test_pack_of_the_original_library() -> None:
    codes = np.asarray([-8, -7, -1, 0, 1, 2, 6, 7], np.int8)
    packed = pack_int4_to_int8(codes)
    assert (packed.dtype, packed.shape) == (np.int8, (4,))
    assert packed.view(np.uint8).tolist() == [0x98, 0x0F, 0x21, 0x76]
    np.testing.assert_array_equal(unpack_int8_to_int4(packed), codes)


# Packed -------------------------------------------------------------------------------------------------------------

packed_shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)


@given(hnp.arrays(st.sampled_from([d for d in INTEGERS if d.kind == "i"]), packed_shapes, elements=st.integers(-8, 7)))
def test_unpack_is_the_inverse_of_pack(codes: np.ndarray) -> None:
    n = codes.shape[-1]
    packed = pack_int4_to_int8(codes)
    assert (packed.dtype, packed.shape) == (np.int8, (*codes.shape[:-1], (n + 1) // 2))
    np.testing.assert_array_equal(unpack_int8_to_int4(packed, n), codes)
    np.testing.assert_array_equal(unpack_int8_to_int4(packed.view(np.uint8))[..., :n], codes)
    assert n % 2 == 0 or not unpack_int8_to_int4(packed)[..., n].any()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_no_codes_pack_into_no_bytes(shape: tuple[int, ...]) -> None:
    packed = pack_int4_to_int8(np.zeros(shape, np.int8))
    assert packed.shape == (*shape[:-1], (shape[-1] + 1) // 2)
    assert unpack_int8_to_int4(packed, shape[-1]).shape == shape


@given(arrays(shapes=packed_shapes, special=(math.nan,)), methods)
def test_quantize_to_packed_is_quantize_then_pack(values: np.ndarray, scale_method: str) -> None:
    codes, scale, zero_point, nan_code = quantize_to_int4(values, scale_method, nan_policy="propagate")
    expected = pack_int4_to_int8(codes)
    out = np.full_like(expected, 0x55)
    result = quantize_to_packed_int4(values, scale_method, nan_policy="propagate", out=out)
    assert result.packed is out
    assert result[1:] == (scale, zero_point, values.shape[-1], nan_code)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(
        quantize_to_packed_int4(values, scale_method, nan_policy="propagate").packed, expected
    )


@given(arrays(FLOATS, packed_shapes, special=(math.nan,)), st.sampled_from(DTYPES))
def test_dequantize_from_packed_is_unpack_then_dequantize(values: np.ndarray, dtype: np.dtype[Any]) -> None:
    packed, scale, zero_point, size, nan_code = quantize_to_packed_int4(values, nan_policy="propagate")
    options: dict[str, Any] = {"nan_code": nan_code, "dtype": dtype}
    try:
        expected = dequantize_from_int4(unpack_int8_to_int4(packed, size), scale, zero_point, **options)
    except ValueError:
        with pytest.raises(ValueError, match="cannot hold"):
            dequantize_from_packed_int4(packed, scale, zero_point, size=size, **options)
        return
    out = np.empty(expected.shape, dtype)
    assert dequantize_from_packed_int4(packed, scale, zero_point, size=size, out=out, **options) is out
    assert out.tobytes() == expected.tobytes()


@given(arrays(), st.sampled_from(DTYPES), methods)
def test_restored_values_are_rounded_once(values: np.ndarray, dtype: np.dtype[Any], scale_method: str) -> None:
    codes, scale, zero_point = quantize_to_int4(values, scale_method)
    expected = [oracle.dequantized(int(code), scale, zero_point, dtype) for code in codes.flat]
    if None in expected:
        with pytest.raises(ValueError, match=f"cannot hold|{dtype}"):
            dequantize_from_int4(codes, scale, zero_point, dtype=dtype)
    else:
        restored = dequantize_from_int4(codes, scale, zero_point, dtype=dtype)
        assert [oracle.number(x) for x in restored.flat] == expected


@pytest.mark.parametrize("shape", [(3, 2**20 + 1), (2**21 + 3,), (5, 7, 2**17 + 1), (2**21 + 4, 1)], ids=str)
def test_workers_give_the_same_bytes(shape: tuple[int, ...]) -> None:
    """Arrays of several blocks, whose codes are known: 7 is coprime to 16."""
    codes = ((7 * np.arange(math.prod(shape)) % 16) - 8).astype(np.int8).reshape(shape)
    expected = pack_int4_to_int8(codes)
    np.testing.assert_array_equal(unpack_int8_to_int4(expected, shape[-1]), codes)
    values = (codes * 0.5 + 100).astype(np.float32)
    for workers in (1, 2, 3):
        packed, scale, zero_point, size, _ = quantize_to_packed_int4(values, workers=workers)
        assert (scale, zero_point) == (0.5, -200)
        np.testing.assert_array_equal(packed, expected)
        restored = dequantize_from_packed_int4(packed, scale, zero_point, size=size, workers=workers)
        np.testing.assert_array_equal(restored, values)


@given(hnp.array_shapes(max_dims=4, max_side=9), st.integers(1, 40))
def test_blocks_cover_every_index_once_and_share_no_byte(shape: tuple[int, ...], most: int) -> None:
    position = np.arange(math.prod(shape)).reshape(shape)
    regions = list(blocks(shape, most))
    np.testing.assert_array_equal(np.concatenate([position[region].ravel() for region in regions]), position.ravel())
    assert all(region[-1].start % 2 == 0 for region in regions)
    assert max(position[region].size for region in regions) <= max(most + 1, 2)


# One scale for each index of an axis ----------------------------------------------------------------------------------

BY_BOUNDS, BY_DATA = ["minmax", "absmax"], ["percentile", "mse"]
EVERY_METHOD = pytest.mark.parametrize("scale_method", [*BY_BOUNDS, *BY_DATA])


def check_axis(values: np.ndarray, axis: int, **options: Any) -> Any:
    """Hold codes, scales and restored values to the law, index for index, and the packed twins to the others."""
    result = quantize_to_int4(values, axis=axis, **options)
    codes, scale, zero_point = result[:3]
    nan_code = result[3] if len(result) == 4 else None
    shape = [1] * values.ndim
    shape[axis] = values.shape[axis]
    assert (scale.dtype, zero_point.dtype) == (np.float64, np.int64)
    assert scale.shape == zero_point.shape == tuple(shape)
    for index, (s, z) in enumerate(zip(scale.flat, zero_point.flat, strict=True)):
        part = values.take(index, axis)
        check_codes(part, codes.take(index, axis), s, z, nan_code, options["scale_method"])
    if nan_code is not None:
        np.testing.assert_array_equal(codes == nan_code, np.isnan(values.astype(float)))
    packed = quantize_to_packed_int4(values, axis=axis, **options)
    np.testing.assert_array_equal(packed.packed, pack_int4_to_int8(codes))
    np.testing.assert_array_equal(packed.scale, scale)
    np.testing.assert_array_equal(packed.zero_point, zero_point)
    assert packed[3:] == (values.shape[-1], nan_code)
    return codes, scale, zero_point, nan_code


@some_dtypes_at_once
@settings(max_examples=150)
@given(data=st.data(), scale_method=methods)
def test_each_index_of_an_axis_is_quantized_as_alone(
    dtypes: list[np.dtype[Any]], data: st.DataObject, scale_method: str
) -> None:
    values, axis = data.draw(with_axis(arrays(dtypes, packed_shapes, special=(math.nan,))))
    nan_policy = "propagate" if np.isnan(values.astype(float)).any() else "raise"
    codes, scale, zero_point, nan_code = check_axis(values, axis, scale_method=scale_method, nan_policy=nan_policy)
    result = np.dtype(np.float64) if values.dtype.kind in "iu" else values.dtype.newbyteorder("=")
    restored = dequantize_from_int4(codes, scale, zero_point, nan_code=nan_code, dtype=result)
    for index, (s, z) in enumerate(zip(scale.flat, zero_point.flat, strict=True)):
        alone = quantize_to_int4(values.take([index], axis), scale_method, nan_policy=nan_policy)
        assert (s, z) == (alone.scale, alone.zero_point)
        check_errors(values.take(index, axis), restored.take(index, axis), s)
    packed = pack_int4_to_int8(codes)
    again = dequantize_from_packed_int4(
        packed, scale, zero_point, size=values.shape[-1], nan_code=nan_code, dtype=result
    )
    assert again.tobytes() == np.ascontiguousarray(restored).tobytes()


@some_dtypes_at_once
@given(scale_method=st.sampled_from(BY_DATA), data=st.data())
def test_each_index_of_an_axis_has_a_range_by_its_data(
    dtypes: list[np.dtype[Any]], scale_method: str, data: st.DataObject
) -> None:
    values, axis = data.draw(with_axis(arrays(dtypes, packed_shapes, special=(math.nan,))))
    check_axis(values, axis, scale_method=scale_method, nan_policy="propagate")
    index = data.draw(st.integers(0, values.shape[axis] - 1))
    part = np.ascontiguousarray(values.take([index], axis), values.dtype.newbyteorder("="))
    whole = quantize_to_int4(values, scale_method, axis=axis, nan_policy="propagate")
    alone = quantize_to_int4(part, scale_method, axis=axis, nan_policy="propagate")
    assert whole.scale.flat[index] == alone.scale.item()
    np.testing.assert_array_equal(whole.quantized.take([index], axis), alone.quantized)


@some_dtypes_at_once
@given(data=st.data())
def test_a_value_range_holds_for_every_index(dtypes: list[np.dtype[Any]], data: st.DataObject) -> None:
    values, axis = data.draw(with_axis(arrays(dtypes, packed_shapes)))
    low, high = sorted([float(data.draw(st.sampled_from(list(values.ravel())))), data.draw(st.floats(-1e30, 1e30))])
    assume(low < high)
    _, scale, zero_point, _ = check_axis(values, axis, scale_method="minmax", value_range=(low, high))
    one = quantize_to_int4(values, value_range=(low, high))
    assert set(zip(scale.flat, zero_point.flat, strict=True)) == {(one.scale, one.zero_point)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@EVERY_METHOD
def test_codes_of_an_axis_do_not_depend_on_the_layout(
    layout: Callable[[np.ndarray], np.ndarray], axis: int, scale_method: str
) -> None:
    values = np.random.default_rng(0).normal(280, 9, (3, 4, 5)).astype(np.float32)
    expected = quantize_to_int4(values, scale_method, axis=axis)
    for found in (quantize_to_int4(layout(values), scale_method, axis=a) for a in (axis, axis - 3)):
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 2**20 + 1), 0), ((5, 7, 2**16 + 1), 1), ((2**20 + 1, 3), -1)], ids=str
)
def test_workers_give_the_same_bytes_along_an_axis(shape: tuple[int, ...], axis: int) -> None:
    """Arrays of several blocks, whose codes are known: 7 is coprime to 16."""
    codes = ((7 * np.arange(math.prod(shape)) % 16) - 8).astype(np.int8).reshape(shape)
    along = [1] * len(shape)
    along[axis] = shape[axis]
    scales = np.ldexp(1.0, np.arange(shape[axis])).reshape(along)
    zero_points = (np.arange(shape[axis]) * 10 - 35).reshape(along)
    values = ((codes - zero_points) * scales).astype(np.float32)
    for workers in (1, 2, 3):
        packed, scale, zero_point, size, _ = quantize_to_packed_int4(values, axis=axis, workers=workers)
        np.testing.assert_array_equal(scale, scales)
        np.testing.assert_array_equal(zero_point, zero_points)
        np.testing.assert_array_equal(packed, pack_int4_to_int8(codes))
        restored = dequantize_from_packed_int4(packed, scale, zero_point, size=size, workers=workers)
        np.testing.assert_array_equal(restored, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 2**20 + 1), 1), slow((2, 2**19, 3), 1), slow((2**20 + 1, 3), 0)], ids=str
)
def test_an_axis_that_blocks_cut(shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(0).normal(280, 9, shape).astype(np.float32)
    expected = quantize_to_packed_int4(values, axis=axis, workers=1)
    np.testing.assert_equal(quantize_to_packed_int4(values, axis=axis, workers=3), expected)
    codes = unpack_int8_to_int4(expected.packed, shape[-1])
    levels = (codes - expected.zero_point) * expected.scale
    assert (np.abs(levels - values) <= expected.scale / 2 * (1 + 1e-5) + 1e-4).all()
    others = tuple(a for a in range(len(shape)) if a != axis)
    widths = values.max(others, keepdims=True).astype(float) - values.min(others, keepdims=True)
    np.testing.assert_allclose(expected.scale, widths / 15, rtol=1e-15)
    restored = dequantize_from_packed_int4(expected.packed, *expected[1:3], size=shape[-1], workers=2)
    np.testing.assert_array_equal(restored, levels.astype(np.float32))


@pytest.mark.parametrize("axis", [0, 1, -1])
@EVERY_METHOD
def test_refusals_of_an_axis_name_the_first_index(axis: int, scale_method: str) -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[2, 0, 0] = values[1, 3, 2] = math.nan
    values[1, 3, 4] = -math.inf
    with pytest.raises(ValueError, match=r"2 NaN, 1 -inf.* \(1, 3, 2\)"):
        quantize_to_int4(values, scale_method, axis=axis)
    with pytest.raises(ValueError, match=r"1 -inf.* \(1, 3, 4\)"):
        quantize_to_int4(values, scale_method, axis=axis, nan_policy="propagate")


@pytest.mark.parametrize(("values", "axis"), [(np.zeros((2, 3)), 2), (np.zeros((2, 3)), -3), ([1.0], 1), (4.0, 0)])
def test_an_axis_that_there_is_not(values: Any, axis: int) -> None:
    with pytest.raises(np.exceptions.AxisError, match=f"axis {axis} is out of bounds"):
        quantize_to_int4(values, axis=axis)


@pytest.mark.parametrize("axis", [0.0, "x", (0, 1)])
def test_an_axis_is_an_integer(axis: Any) -> None:
    with pytest.raises(TypeError):
        quantize_to_int4([[1.0]], axis=axis)


@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [
        (np.ones(3), 0),  # would broadcast, and be taken for another axis
        (np.ones((2, 1)), 0),
        (np.ones((3, 2)), 0),
        (np.ones((3, 1)), np.zeros((1, 4), int)),
        (np.ones((1, 3)), 0),
        (np.ones((1, 3, 1)), 0),
        (1.0, np.zeros((1, 3), int)),
        (np.ones((3, 1)), np.zeros((4, 1), int)),
    ],
)
def test_scales_that_do_not_lie_along_an_axis(scale: Any, zero_point: Any) -> None:
    codes = np.zeros((3, 4), np.int8)
    with pytest.raises(ValueError, match="shape"):
        dequantize_from_int4(codes, scale, zero_point)
    with pytest.raises(ValueError, match="shape"):
        dequantize_from_packed_int4(pack_int4_to_int8(codes), scale, zero_point)


def test_one_of_scale_and_zero_point_may_be_a_number() -> None:
    codes = [[1, 2], [3, 4]]
    assert dequantize_from_int4(codes, [[1.0], [10.0]], 1).tolist() == [[0.0, 1.0], [20.0, 30.0]]
    assert dequantize_from_int4(codes, 2.0, [[0, 1]]).tolist() == [[2.0, 2.0], [6.0, 6.0]]
    assert dequantize_from_int4(codes, [[2.0]], [[1]]).tolist() == [[0.0, 2.0], [4.0, 6.0]]


@pytest.mark.parametrize(("scale", "zero_point"), [(-1.0, 0), (math.nan, 0), (1.0, 0.5)])
def test_one_scale_of_many_that_is_none(scale: float, zero_point: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        dequantize_from_int4([[1, 2]], [[1.0, scale]], [[0, zero_point]])


def test_a_code_of_one_index_whose_value_does_not_fit_is_named() -> None:
    codes = np.asarray([[7, 7, 0], [7, 7, 7]], np.int8)
    for restore in (
        lambda **o: dequantize_from_int4(codes, [[1.0, 9.0, 99.0]], **o),
        lambda **o: dequantize_from_packed_int4(pack_int4_to_int8(codes), [[1.0, 9.0, 99.0]], size=3, **o),
    ):
        with pytest.raises(ValueError, match=r"code 7 at index \(1, 2\)"):
            restore(dtype=np.int8)
        assert restore(dtype=np.int16).tolist() == [[7, 63, 0], [7, 63, 693]]


@pytest.mark.parametrize(("percentile", "meant"), [(0.1, "99.9"), (1, "99"), (49.5, "50.5")])
def test_a_percentile_is_the_share_that_is_kept(percentile: float, meant: str) -> None:
    with pytest.raises(ValueError, match=f"percentile={meant} leaves out {percentile:g} %"):
        quantize_to_int4([1.0, 2.0], "percentile", percentile=percentile)
    quantize_to_int4([1.0, 2.0], "percentile", percentile=100 - percentile)


@pytest.mark.parametrize("axis", [None, 0])
def test_percentile_of_everything_is_minmax(axis: int | None) -> None:
    values = np.random.default_rng(1).standard_t(2, (3, 500)).astype(np.float32)
    np.testing.assert_equal(
        quantize_to_int4(values, "percentile", axis=axis, percentile=100), quantize_to_int4(values, axis=axis)
    )
    narrow, wide = (quantize_to_int4(values, "percentile", percentile=p).scale for p in (90, 99))
    assert narrow < wide < quantize_to_int4(values).scale


# Bad input ----------------------------------------------------------------------------------------------------------

QUANTIZERS = [quantize_to_int4, quantize_to_packed_int4]
each_quantizer = pytest.mark.parametrize("quantize", QUANTIZERS)


@each_quantizer
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_and_infinity_are_counted_and_the_first_is_named(
    quantize: Callable[..., Any], dtype: np.dtype[Any]
) -> None:
    values = np.zeros((3, 4), dtype)
    values[1, 2:] = math.nan
    values[2] = [math.inf, -math.inf, 0, -math.inf]
    with pytest.raises(ValueError, match="refused") as caught:
        quantize(values)
    for words in ("2 NaN", "1 +inf", "2 -inf", "(1, 2)", 'nan_policy="propagate"', "value_range="):
        assert words in str(caught.value)
    with pytest.raises(ValueError, match=r"1 \+inf, 2 -inf.* \(2, 0\)"):
        quantize(values, nan_policy="propagate")
    with pytest.raises(ValueError, match=r"2 NaN.* \(1, 2\)"):
        quantize(values, value_range=(-1, 1))
    assert quantize(values, value_range=(-1, 1), nan_policy="propagate").scale == 2 / 14


def test_the_first_refused_value_of_many_blocks() -> None:
    values = np.zeros((2, 2**20 + 1), np.float16)
    values[1, -1] = math.nan
    with pytest.raises(ValueError, match=r"1 NaN.* \(1, 1048576\)"):
        quantize_to_packed_int4(values)


def test_signalling_nan_of_bfloat16_is_nan() -> None:
    values = np.asarray([0x3F80, 0x7F81, 0xFFFF], np.uint16).view(BFLOAT16)
    with pytest.raises(ValueError, match=r"2 NaN.* \(1,\)"):
        quantize_to_int4(values)
    assert quantize_to_int4(values, nan_policy="propagate").quantized.tolist() == [0, -8, -8]


@each_quantizer
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale_method": "gptq"}, "scale_method is 'gptq', but must be one of 'minmax', 'absmax'"),
        ({"nan_policy": "omit"}, "nan_policy is 'omit', but must be one of 'raise', 'propagate'"),
        ({"value_range": (0, math.inf)}, "finite"),
        ({"value_range": (math.nan, 1)}, "finite"),
        ({"value_range": (2, 1)}, "reversed"),
        ({"value_range": (1, 1)}, "empty"),
        ({"scale_method": "mse", "value_range": (0, 1)}, "value_range fixes the range"),
        ({"scale_method": "percentile", "value_range": (0, 1)}, "value_range fixes the range"),
        ({"scale_method": "percentile", "percentile": 0}, "percentile is 0, but must be a number above 0"),
        ({"scale_method": "percentile", "percentile": 100.1}, "percentile is 100.1"),
        ({"scale_method": "percentile", "percentile": math.nan}, "percentile is nan"),
        ({"scale_method": "percentile", "percentile": "most"}, "percentile is 'most'"),
        ({"scale_method": "mse", "percentile": 99}, "percentile=99 goes with scale_method='percentile', not 'mse'"),
        ({"percentile": 99}, "not 'minmax'"),
    ],
)
def test_options_that_make_no_sense(quantize: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize([1.0, 2.0], **options)


@each_quantizer
@pytest.mark.parametrize(
    "values",
    [
        np.asarray([True]),
        np.asarray([1j]),
        np.asarray(["1"]),
        np.asarray([b"1"]),
        np.asarray([1.5, None], object),
        np.asarray(["2026-01-01"], "M8[D]"),
        np.zeros(1, [("a", "f4")]),
        np.zeros(1, np.longdouble),
    ],
    ids=lambda a: str(a.dtype),
)
def test_dtypes_that_are_no_numbers(quantize: Callable[..., Any], values: np.ndarray) -> None:
    with pytest.raises(TypeError) as caught:
        quantize(values)
    assert str(values.dtype) in str(caught.value)


@each_quantizer
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_no_values(quantize: Callable[..., Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no values") as caught:
        quantize(np.zeros(shape))
    assert str(shape) in str(caught.value)


@each_quantizer
def test_masked_entries_are_missing_values(quantize: Callable[..., Any]) -> None:
    masked = np.ma.masked_equal([[1.0, 2.0, 3.0], [1e20, 1e20, 1.5]], 1e20)
    with pytest.raises(RefusedValuesError, match=r"values has 2 masked entries, the first at index \(1, 0\)"):
        quantize(masked)
    with pytest.raises(RefusedValuesError, match="2 masked"):
        quantize(masked, value_range=(0, 5))
    found, expected = (quantize(x, nan_policy="propagate") for x in (masked, masked.filled(np.nan)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert quantize_to_int4(masked, nan_policy="propagate").quantized[1].tolist()[:2] == [-8, -8]
    assert quantize_to_int4(np.ma.masked_equal([1.0, 2.0], 3.0)).quantized.tolist() == [-8, 7]


UNPACKERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("packed_values", unpack_int8_to_int4),
    ("packed", lambda packed: dequantize_from_packed_int4(packed, 1.0)),
]
TAKERS_OF_CODES: list[tuple[str, Callable[[Any], Any]]] = [
    ("int4_values", pack_int4_to_int8),
    ("quantized", lambda codes: dequantize_from_int4(codes, 1.0)),
]


@pytest.mark.parametrize(("name", "use"), UNPACKERS + TAKERS_OF_CODES)
@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.ma.masked_equal([[1, 2], [3, 4]], 3).astype(np.int8), ValueError, r"has 1 masked .* at index \(1, 0\)"),
        ([1.7], TypeError, "not float64"),
        (["3"], TypeError, "not <U1"),
        ([b"3"], TypeError, "not .S1"),
        ([[1], [1, 2]], ValueError, "cannot be made an array"),
        ([1, None], TypeError, "not object"),
        ([1, 10**30], ValueError, "not larger ones"),
        ([-1, 200], ValueError, r"holds 200 at index \(1,\)"),
        ([256], ValueError, r"holds 256 at index \(0,\)"),
        (np.zeros(2, "V1"), TypeError, r"not \|V1"),
        (np.zeros(2, [("code", "i1")]), TypeError, "code"),
        (np.zeros(0, complex), TypeError, "not complex128"),
        (np.zeros(0), TypeError, "not float64"),
        (None, TypeError, "not object"),
    ],
    ids=str,
)
def test_what_is_neither_codes_nor_bytes(
    name: str, use: Callable[[Any], Any], values: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"^{name} .*{words}"):
        use(values)


@pytest.mark.parametrize(("name", "use"), UNPACKERS)
def test_bytes_as_lists(name: str, use: Callable[[Any], Any]) -> None:
    packed = pack_int4_to_int8([[-8, -1, 0, 7], [1, 2, -3, 6]])
    for one in (packed, packed.view(np.uint8)):
        np.testing.assert_array_equal(use(one.tolist()), use(packed))
        np.testing.assert_array_equal(use(tuple(one.tolist())), use(packed))
    assert use([]).size == use([[], []]).size == 0


def test_codes_that_are_masked_nowhere() -> None:
    plain = np.ma.masked_array([1, 2], [False, False], dtype=np.int8)
    assert pack_int4_to_int8(plain).tolist() == pack_int4_to_int8([1, 2]).tolist()
    assert type(dequantize_from_int4(plain, 1.0)) is np.ndarray


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quantize_to_int4([1.0, 2.0], axis=2**40), "axis 1099511627776 is out of bounds"),
        (lambda: quantize_to_int4([1.0, 2.0], axis=-(2**40)), "axis -1099511627776 is out of bounds"),
        (lambda: quantize_to_int4([1.0, 2.0], axis=0.5), "axis is 0.5"),  # type: ignore[arg-type]
        (lambda: quantize_to_int4([1.0, 2.0], "percentile", percentile=10**400), "percentile is 1000"),
        (lambda: quantize_to_int4([1.0, 2.0], value_range=(0, 10**400)), "value_range is "),
        (lambda: quantize_to_int4(["a"]), "values must hold numbers: dtype <U1"),
        (lambda: quantize_to_int4([10**400]), "values must hold numbers: dtype object"),
        (lambda: quantize_to_int4([[1.0], [1.0, 2.0]]), "values cannot be made an array"),
        (lambda: quantize_to_packed_int4([1.0], out=[0]), "out is a list"),  # type: ignore[arg-type]
        (lambda: dequantize_from_int4([1], 10**400), "scale 1000"),
        (lambda: dequantize_from_int4([1], "1.5"), "scale '1.5'"),
        (lambda: dequantize_from_int4([1, 2], ["1", "2"]), "scale .*'1'"),
        (lambda: dequantize_from_int4([1, 2], [10**400, 1]), "scale 1000"),
        (lambda: dequantize_from_int4([1, 2], np.ma.masked_equal([1.0, 2.0], 2.0)), "scale has 1 masked"),
        (lambda: dequantize_from_int4([1], 1.0, 10**400), "zero_point 1000|zero_point is 1000"),
        (lambda: dequantize_from_int4([1], 1.0, nan_code=10**400), "nan_code is 1000"),
        (lambda: dequantize_from_int4([1], 1.0, dtype="floaty"), "dtype floaty is not float16"),
        (lambda: unpack_int8_to_int4([1], size=2**70), "size is 1180591620717411303424"),
        (lambda: unpack_int8_to_int4([1], size=1.5), "size is 1.5"),  # type: ignore[arg-type]
        (lambda: measure_error(["a"], ["b"]), "original must hold numbers"),
        (lambda: measure_error([1.0], np.zeros(1, "V4")), "restored must hold numbers"),
        (lambda: measure_error([1.0], np.zeros(1, complex)), "restored must hold numbers: dtype complex128"),
    ],
)
def test_arguments_that_are_not_what_they_may_be(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()


@pytest.mark.parametrize("use", [pack_int4_to_int8, lambda codes: dequantize_from_int4(codes, 1.0)])
@pytest.mark.parametrize("wrong", [-9, 8, 200, 2**40, -(2**63)])
def test_codes_outside_are_named(use: Callable[..., Any], wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"{wrong} at index \(1, 2\)"):
        use([[0, 1, 7], [-8, 0, wrong]])


@pytest.mark.parametrize("use", [pack_int4_to_int8, lambda codes: dequantize_from_int4(codes, 1.0)])
@pytest.mark.parametrize("codes", [[0.5], [True], ["1"], [1j]])
def test_codes_are_integers(use: Callable[..., Any], codes: list[Any]) -> None:
    with pytest.raises(TypeError, match="integers"):
        use(codes)


RESTORERS = [dequantize_from_int4, dequantize_from_packed_int4]
each_restorer = pytest.mark.parametrize("restore", RESTORERS)
CODES = np.asarray([1, 2], np.int8)


@each_restorer
@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, None, "x"])
def test_scales_that_are_none(restore: Callable[..., Any], scale: Any) -> None:
    with pytest.raises(ValueError, match="scale"):
        restore(CODES, scale)


@each_restorer
@pytest.mark.parametrize("zero_point", [0.5, math.nan, math.inf, 2**63])
def test_zero_points_that_are_none(restore: Callable[..., Any], zero_point: Any) -> None:
    with pytest.raises(ValueError, match="zero_point"):
        restore(CODES, 1.0, zero_point)


@each_restorer
@pytest.mark.parametrize("dtype", [bool, complex, "U1", object])
def test_dtypes_that_hold_no_levels(restore: Callable[..., Any], dtype: Any) -> None:
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        restore(CODES, 1.0, dtype=dtype)


@each_restorer
def test_levels_that_the_dtype_cannot_hold(restore: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"at index \(1,\).*int8 cannot hold"):
        restore(pack_int4_to_int8([0, 7]) if restore is dequantize_from_packed_int4 else [0, 7], 30.0, dtype=np.int8)


@each_restorer
@pytest.mark.parametrize("nan_code", [-9, 8, 0.5])
def test_nan_codes_that_are_none(restore: Callable[..., Any], nan_code: Any) -> None:
    with pytest.raises(ValueError, match="nan_code"):
        restore(CODES, 1.0, nan_code=nan_code)


@pytest.mark.parametrize("use", [unpack_int8_to_int4, lambda packed, size: RESTORERS[1](packed, 1.0, size=size)])
@pytest.mark.parametrize("size", [-1, 0, 2, 5])
def test_sizes_that_do_not_fit(use: Callable[..., Any], size: int) -> None:
    with pytest.raises(ValueError, match=rf"size is {size}\b.*3 or 4"):
        use(CODES, size)


def test_packed_codes_are_bytes() -> None:
    with pytest.raises(TypeError, match="int16"):
        unpack_int8_to_int4(CODES.astype(np.int16))
    with pytest.raises(ValueError, match="axis"):
        unpack_int8_to_int4(np.int8(1))
    with pytest.raises(ValueError, match="axis"):
        pack_int4_to_int8(1)


@pytest.mark.parametrize(
    "out",
    [np.zeros((2, 3), np.int8), np.zeros((2, 2), np.uint8), np.zeros((2, 4), np.int8)[:, ::2], bytes],
    ids=["shape", "dtype", "strides", "read-only"],
)
def test_an_out_that_does_not_fit(out: Any) -> None:
    if out is bytes:
        out = np.frombuffer(bytes(4), np.int8).reshape(2, 2)
    with pytest.raises(ValueError, match=r"out .*\(2, 2\).*int8"):
        quantize_to_packed_int4(np.zeros((2, 3)), out=out)


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_below_one(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {workers}"):
        quantize_to_packed_int4([1.0], workers=workers)
