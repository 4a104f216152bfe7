"""Scales for blocks: the law in exact arithmetic, one block at a time, for every dtype, shape and method."""

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow
from strategies import FLOATS, INTEGERS, LAYOUTS, arrays, some_dtypes_at_once

from quantize import (
    RefusedValuesError,
    dequantize_from_int4,
    dequantize_from_packed_int4,
    quantize_to_int4,
    quantize_to_packed_int4,
)
from quantize.calibration.blocks import holds_zeros, scales_of_blocks
from quantize.kernels import unpack_values
from quantize.numerics.granularity import PerBlock, granularity_of
from quantize.numerics.scales import ZERO_POINT_BIAS, Codes, Rule, Scales, ShortScales
from quantize.numerics.tables import level_table
from quantize.quantize import unpack_int8_to_int4

METHODS = ["minmax", "absmax", "mse"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=9)
LENGTHS = st.sampled_from([-1, 1, 2, 3, 4, 8])


def in_blocks(values: np.ndarray, blocks: Any) -> Any:
    """The region of each block, and the index of its scale."""
    grid = granularity_of(None, values.ndim, blocks).groups(values.shape)
    return [(grid.region(number), grid.position(number)) for number in range(grid.count)]


@st.composite
def with_blocks(draw: st.DrawFn, values: st.SearchStrategy[np.ndarray]) -> tuple[np.ndarray, tuple[int, ...]]:
    """An array and lengths of blocks that are neither one scale for all nor those of an axis."""
    array = draw(values)
    lengths = draw(st.tuples(*[LENGTHS] * array.ndim))
    if not isinstance(granularity_of(None, array.ndim, lengths), PerBlock):
        lengths = (*lengths[:-1], 4)
    return array, lengths


# The law --------------------------------------------------------------------------------------------------------------


def check(values: np.ndarray, blocks: Any, scale_method: str, nan_policy: str = "raise", **options: Any) -> Any:
    """Hold codes and restored values to the law, block by block; the scales are returned."""
    result = quantize_to_int4(values, scale_method, blocks=blocks, nan_policy=nan_policy, **options)
    codes, scale, zero_point = result[:3]
    nan_code = -8 if nan_policy == "propagate" else None
    check_stored(scale, zero_point, values, blocks)
    restored = {}
    for dtype in {values.dtype.newbyteorder("="), np.dtype(np.float32), np.dtype(np.float64)}:
        if nan_code is None or dtype in FLOATS:
            try:
                restored[dtype] = dequantize_from_int4(
                    codes, scale, zero_point, blocks=blocks, nan_code=nan_code, dtype=dtype
                )
            except ValueError:
                assert dtype != values.dtype  # float32 cannot hold what float64 can
    for region, place in in_blocks(values, blocks):
        s, z = float(scale[place]), float(zero_point[place])
        low = -7 if scale_method == "absmax" else -8
        expected, distances = oracle.quantized(values[region], s, z, nan_code, low)
        clear = distances > oracle.TIE
        np.testing.assert_array_equal(codes[region][clear], expected[clear])
        assert np.abs(codes[region].astype(int) - expected).max() <= 1
        for dtype, floats in restored.items():
            for code, back in zip(codes[region].flat, floats[region].flat, strict=True):
                exact = None if code == nan_code else oracle.dequantized(int(code), s, z, dtype)
                assert np.isnan(back) if code == nan_code else oracle.number(back) == exact, (code, s, z, back)
    check_packed(values, blocks, scale_method, nan_policy, restored, **options)
    return codes, scale, zero_point


def check_stored(scale: np.ndarray, zero_point: np.ndarray, values: np.ndarray, blocks: Any) -> None:
    """Scales have five bits and zero points are quarters, so that 16 and 32 bits hold them."""
    granularity = granularity_of(None, values.ndim, blocks)
    assert scale.shape == zero_point.shape == granularity.groups(values.shape).counts
    assert ((scale > 0) & np.isfinite(scale)).all()
    scales = Scales(scale, zero_point, granularity, values.shape)
    units, quarters = scales.units, scales.quarters
    assert (units.dtype, quarters.dtype) == (np.uint16, np.int32)
    again = Scales.of_units(units, quarters, granularity, values.shape)
    np.testing.assert_array_equal(again.scale, scale)
    np.testing.assert_array_equal(again.zero_point, zero_point)


def check_packed(
    values: np.ndarray, blocks: Any, scale_method: str, nan_policy: str, restored: Any, **options: Any
) -> None:
    """The packed twins give the same, bit for bit."""
    codes = quantize_to_int4(values, scale_method, blocks=blocks, nan_policy=nan_policy, **options)
    packed = quantize_to_packed_int4(values, scale_method, blocks=blocks, nan_policy=nan_policy, **options)
    np.testing.assert_array_equal(unpack_int8_to_int4(packed.packed, packed.size), codes.quantized)
    np.testing.assert_array_equal(packed.scale, codes.scale)
    np.testing.assert_array_equal(packed.zero_point, codes.zero_point)
    for dtype, floats in restored.items():
        back = dequantize_from_packed_int4(
            *packed[:3], size=packed.size, blocks=blocks, nan_code=packed.nan_code, dtype=dtype
        )
        assert back.tobytes() == floats.tobytes()


def check_bound(values: np.ndarray, blocks: Any, result: Any, low: int) -> None:
    """All values lie within half a step, beside what dtypes round; and no step is larger than it must be."""
    codes, scale, zero_point = result
    whole = values.dtype.kind in "iu"
    for dtype in {values.dtype.newbyteorder("="), np.dtype(np.float64)}:
        restored = dequantize_from_int4(codes, scale, zero_point, blocks=blocks, dtype=dtype)
        for region, place in in_blocks(values, blocks):
            for value, back in zip(values[region].flat, restored[region].flat, strict=True):
                error = abs(oracle.number(value) - oracle.number(back))
                assert error <= oracle.error_bound(value, back, float(scale[place]), values.dtype, dtype)
    for region, place in in_blocks(values, blocks):
        least, most = (Fraction(float(x)) for x in (values[region].min(), values[region].max()))
        far = max(abs(least), abs(most))
        needed = max((most - least) / 15 if low == -8 else far / 7, far / 2**28, Fraction(2) ** -1020, whole)
        if least < most:
            assert Fraction(float(scale[place])) <= needed * (1 + Fraction(1, 16))


@some_dtypes_at_once
@given(data=st.data(), scale_method=st.sampled_from(METHODS))
def test_codes_and_values_keep_the_law(dtypes: list[Any], data: st.DataObject, scale_method: str) -> None:
    values, blocks = data.draw(with_blocks(arrays(dtypes, SHAPES)))
    result = check(values, blocks, scale_method)
    if scale_method != "mse":
        check_bound(values, blocks, result, -7 if scale_method == "absmax" else -8)


@given(with_blocks(arrays([np.dtype("f4"), np.dtype("f8")], SHAPES)), st.sampled_from(METHODS), st.floats(1e-30, 1e30))
def test_no_scale_of_values_that_differ_is_below_the_finest(
    case: tuple[np.ndarray, tuple[int, ...]], scale_method: str, finest: float
) -> None:
    """It keeps the law and the bound; and where it forces no scale, nothing changes."""
    values, blocks = case
    codes, scale, zero_point = check(values, blocks, scale_method, finest=finest)
    _, free, free_zero = quantize_to_int4(values, scale_method, blocks=blocks)
    restored = dequantize_from_int4(codes, scale, zero_point, blocks=blocks, dtype=np.float64)
    for region, place in in_blocks(values, blocks):
        own, back = values[region], restored[region]
        if own.min() == own.max() and (scale_method != "absmax" or not own.any()):
            assert (scale[place], zero_point[place]) == (free[place], free_zero[place])
            continue
        assert finest <= scale[place] <= max(free[place], finest * (1 + 1 / 16)) * (1 + 1 / 16)
        if free[place] >= finest:
            assert (scale[place], zero_point[place]) == (free[place], free_zero[place])
        elif scale_method != "mse":
            for value, found in zip(own.flat, back.flat, strict=True):
                error = abs(oracle.number(value) - oracle.number(found))
                assert error <= oracle.error_bound(value, found, float(scale[place]), values.dtype, np.dtype("f8"))


def test_a_flat_block_has_one_code() -> None:
    values = np.float32(280) + np.random.default_rng(0).normal(size=(64, 32)).astype("f4") / 1000
    for scale_method in ("minmax", "mse"):
        codes, scale, zero_point = quantize_to_int4(values, scale_method, blocks=32, finest=0.02)
        assert (codes == 0).all()
        assert set(scale.flat) == {0.0205078125}
        assert np.abs((codes - zero_point) * scale - values).max() <= 0.02 / 2


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("finest", [None, 1.0])
def test_two_neighbouring_numbers_are_exact_a_step_apart(dtype: str, finest: float | None) -> None:
    values = (np.random.default_rng(0).random((50, 64)) < 0.1).astype(dtype) + np.array(5, dtype)
    for scale_method in ("minmax", "mse"):
        if finest or dtype == "i2":
            codes, scale, zero_point = quantize_to_int4(values, scale_method, blocks=32, finest=finest)
            np.testing.assert_array_equal(dequantize_from_int4(codes, scale, zero_point, blocks=32), values)


@pytest.mark.parametrize("length", mostly_slow([32, 5000, 10000], [5000]))
def test_long_blocks_have_a_finest_scale_too(length: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, length))
    for scale_method in METHODS:
        assert quantize_to_int4(values, scale_method, blocks=length // 2, finest=0.99).scale.min() >= 0.99


@pytest.mark.parametrize("finest", [0, -1.0, math.nan, math.inf, "fine", [1, 2]])
def test_a_finest_scale_that_is_none(finest: Any) -> None:
    with pytest.raises(ValueError, match=r"finest is .* above 0 in the units of the data"):
        quantize_to_int4([1.0, 2.0], blocks=2, finest=finest)


def test_a_finest_scale_without_blocks() -> None:
    for options in ({}, {"axis": 0}):
        with pytest.raises(ValueError, match="pass blocks= too"):
            quantize_to_int4([[1.0, 2.0]], finest=0.1, **options)


@given(with_blocks(arrays(FLOATS, SHAPES, special=(math.nan,))), st.sampled_from(METHODS))
def test_missing_values_are_kept(case: tuple[np.ndarray, tuple[int, ...]], scale_method: str) -> None:
    values, blocks = case
    codes, scale, zero_point = check(values, blocks, scale_method, "propagate")
    np.testing.assert_array_equal(codes == -8, np.isnan(values))
    for region, place in in_blocks(values, blocks):
        there = values[region][~np.isnan(values[region])]
        if there.size == 0:
            assert (scale[place], zero_point[place]) == (1, 0)
        elif scale_method != "mse":  # as of those that are there, alone
            alone = of_one_block(there, scale_method, holds_zeros(values), "propagate")
            assert (scale[place], zero_point[place]) == (alone.scale.item(), alone.zero_point.item())


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (17,)], ids=str)
def test_blocks_of_every_size(shape: tuple[int, ...]) -> None:
    """Values of each block lie elsewhere in memory, and a few blocks are filled up to as many as loops take at once."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values.reshape(-1)[::5] = np.nan
    for blocks in np.ndindex(shape):
        lengths = tuple(length + 1 for length in blocks)
        if isinstance(granularity_of(None, values.ndim, lengths), PerBlock):
            check(values, lengths, "minmax", "propagate")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(
    "doubt", [None, 0.3, 2.0**-125], ids=str
)  # a scale of more than five bits; one that is too fine
@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((3, 1200), (1, 8)),  # more blocks than are prepared at once
        ((3, 94), (1, 32)),  # the last one is short
        ((5, 60), (1, 20)),  # vectors of two lengths
        ((2, 132), (2, 44)),
        ((9, 44), (4, 12)),  # tiles, some of them short
        ((3, 4, 12), (2, 3, -1)),  # rows on end
        ((40, 22), (16, 1)),  # columns
        ((2, 8, 18), (1, 4, 1)),
    ],
    ids=str,
)
def test_values_of_rows_of_blocks(shape: Any, blocks: Any, doubt: float | None, dtype: str) -> None:
    """By the definition, in memory and as stores keep scales; and where the last block is reckoned otherwise."""
    random = np.random.default_rng(0)
    granularity = granularity_of(None, len(shape), blocks)
    counts = granularity.groups(shape).counts
    units = random.integers(0x3F00, 0x3F20, counts).astype(np.uint16)
    quarters = random.integers(-40, 40, counts).astype(np.int32)
    scales = Scales.of_units(units, quarters, granularity, shape)
    if doubt is not None:
        scales.scale[(-1,) * len(shape)] = doubt
    packed = random.integers(0, 256, (*shape[:-1], shape[-1] // 2)).astype(np.uint8)
    codes, index = unpack_int8_to_int4(packed), granularity.index_of(shape)
    exact = (codes - scales.zero_point.reshape(-1)[index]) * scales.scale.reshape(-1)[index]
    expected = np.where(codes == -8, np.nan, exact).astype(dtype)
    given = scales.scale, scales.zero_point
    restored = dequantize_from_packed_int4(packed, *given, blocks=blocks, nan_code=-8, dtype=dtype)
    np.testing.assert_array_equal(restored, expected)
    if doubt is None:
        short = ShortScales(units, quarters + np.int32(ZERO_POINT_BIAS), granularity, shape)
        np.testing.assert_array_equal(short.scale, given[0])
        np.testing.assert_array_equal(short.zero_point, given[1])
        out = np.empty(shape, dtype)
        unpack_values(level_table(short, out.dtype, Codes(nan_code=-8)), packed, out)
        np.testing.assert_array_equal(out, expected)


RANGES = {
    "full": [-1.0, 1.0, 0.5, -0.25],
    "one side": [1.0, 1.0, 0.999, 0.99],
    "least": [0.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("scale_method", METHODS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", RANGES)
def test_ranges_at_the_ends_of_a_dtype(kind: str, dtype: np.dtype[Any], scale_method: str) -> None:
    """All of its range, the upper end of it, and its smallest numbers."""
    info = np.finfo(np.float64) if dtype == np.float64 else None
    highest, tiny = float(oracle.finite_range(dtype)[1]), float(oracle.ulp(Fraction(0), dtype))
    values = np.array(RANGES[kind], np.float64) * highest if kind != "least" else np.arange(4.0) * tiny
    values = np.tile(np.clip(values, -highest, highest), (3, 5)).astype(dtype)
    result = check(values, 4, scale_method)
    if scale_method == "minmax":
        check_bound(values, 4, result, -8)
    assert info is None or np.isfinite(result[1]).all()


@given(st.sampled_from([d for d in FLOATS if d.itemsize < 8]), st.data(), st.sampled_from(["minmax", "mse"]))
def test_blocks_of_one_value_are_exact(dtype: np.dtype[Any], data: st.DataObject, scale_method: str) -> None:
    values = data.draw(arrays([dtype], st.just((3, 1)))).astype(dtype)
    values = np.repeat(values, 6, axis=1)
    codes, scale, zero_point = quantize_to_int4(values, scale_method, blocks=3)
    assert not codes.any()
    np.testing.assert_array_equal(dequantize_from_int4(codes, scale, zero_point, blocks=3, dtype=dtype), values)
    zeros = quantize_to_int4(np.zeros((2, 4), dtype), scale_method, blocks=2)
    assert (zeros.quantized.any(), (zeros.scale == 1).all(), zeros.zero_point.any()) == (False, True, False)


@pytest.mark.parametrize("scale_method", ["minmax", "mse"])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_few_whole_numbers_are_exact(dtype: np.dtype[Any], scale_method: str) -> None:
    values = np.random.default_rng(0).integers(0, 16, (40, 32)).astype(dtype)
    codes, scale, zero_point = quantize_to_int4(values, scale_method, blocks=16)
    np.testing.assert_array_equal(dequantize_from_int4(codes, scale, zero_point, blocks=16, dtype=dtype), values)


def test_masks_and_zeros_are_exact_by_the_least_squared_error() -> None:
    random = np.random.default_rng(0)
    mask = random.integers(0, 2, (50, 32)).astype(np.float32)
    codes, scale, zero_point = quantize_to_int4(mask, "mse", blocks=32)
    np.testing.assert_array_equal(dequantize_from_int4(codes, scale, zero_point, blocks=32), mask)


@pytest.mark.parametrize("scale_method", METHODS)
def test_zero_is_kept_where_that_is_asked(scale_method: str) -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (50, 32)).astype(np.float32)
    scales = scales_of_blocks(values, Rule.of(scale_method, granularity=PerBlock((1, 16))), keep_zero=True)
    assert scales is not None
    about_zero = (values.reshape(50, 2, 16).min(-1) <= 0) & (values.reshape(50, 2, 16).max(-1) >= 0)
    assert about_zero.any()
    assert (scales.zero_point[about_zero] % 1 == 0).all()


def test_zeros_of_data_that_hold_many_are_exact() -> None:
    rain = np.maximum(np.random.default_rng(0).normal(-0.5, 1, (100, 64)), 0).astype(np.float32)
    for scale_method in METHODS:
        codes, scale, zero_point = quantize_to_int4(rain, scale_method, blocks=32)
        assert not dequantize_from_int4(codes, scale, zero_point, blocks=32)[rain == 0].any()


def test_the_law_in_plain_numpy() -> None:
    values = np.random.default_rng(0).normal(280, 1, (7, 83)).astype(np.float32)
    packed, scale, zero_point, size, _ = quantize_to_packed_int4(values, "mse", blocks=16)
    scales = Scales(scale, zero_point, PerBlock((1, 16)), values.shape)
    units, quarters = scales.units, scales.quarters
    codes = (np.stack([packed << 4, packed], -1).view(np.int8) >> 4).reshape(7, -1)[:, :size].astype(np.int64)
    u = (units.astype(np.uint64) << np.uint64(48)).view(np.float64).repeat(16, axis=1)[:, :size]
    z = quarters.astype(np.int64).repeat(16, axis=1)[:, :size]
    restored = dequantize_from_packed_int4(packed, scale, zero_point, size=size, blocks=16)
    assert ((4 * codes - z) * u).astype(np.float32).tobytes() == restored.tobytes()


DIGEST = """
import hashlib, numpy as np
from quantize import dequantize_from_packed_int4, quantize_to_packed_int4
digest, random = hashlib.sha256(), np.random.default_rng(0)
for dtype in (np.float16, np.float32, np.float64):
    for blocks in (32, 16, (8, 8), (32, 1), 7, 128):
        values = random.standard_t(3, (64, 256)).astype(dtype)
        for scale_method in ("minmax", "mse"):
            packed = quantize_to_packed_int4(values, scale_method, blocks=blocks)
            restored = dequantize_from_packed_int4(*packed[:3], size=256, blocks=blocks, dtype=dtype)
            for array in (*packed[:3], restored):
                digest.update(array.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_no_bit_depends_on_the_processor(tmp_path: Path) -> None:
    """What is found with wide vectors is found without: nothing is fused, and nothing added in another order."""
    plain = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-c", DIGEST]
    here, there = (
        subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=True).stdout
        for more in ({}, plain)
    )
    assert here == there


# Shapes of blocks ----------------------------------------------------------------------------------------------------


@given(with_blocks(arrays([np.dtype(np.float32)], SHAPES)), st.sampled_from(METHODS))
def test_a_block_is_quantized_as_it_would_be_alone(case: tuple[np.ndarray, Any], scale_method: str) -> None:
    values, blocks = case
    _, scale, zero_point = quantize_to_int4(values, scale_method, blocks=blocks)
    for region, place in in_blocks(values, blocks):
        alone = of_one_block(values[region], scale_method, holds_zeros(values))
        assert (scale[place], zero_point[place]) == (alone.scale.item(), alone.zero_point.item())


def of_one_block(values: np.ndarray, scale_method: str, keep_zero: bool, nan_policy: str = "raise") -> Scales:
    """The scale of values that are a block, in whatever shape."""
    own = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1)
    rule = Rule.of(scale_method, nan_policy=nan_policy, granularity=PerBlock((own.size,)))
    found = scales_of_blocks(own, rule, keep_zero=keep_zero)
    assert found is not None
    return found


SHAPED = [
    ((70, 96), 32),
    ((70, 96), (32, 1)),
    ((70, 96), (8, 8)),
    ((33, 95), 7),
    ((9, 20, 30), (2, -1, 4)),
    ((700,), 16),
]


@pytest.mark.parametrize("scale_method", METHODS)
@pytest.mark.parametrize(("shape", "blocks"), SHAPED, ids=str)
def test_cuts_layouts_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, shape: Any, blocks: Any, scale_method: str
) -> None:
    values = np.random.default_rng(0).standard_t(3, shape).astype(np.float32)
    expected = quantize_to_packed_int4(values, scale_method, blocks=blocks)
    monkeypatch.setattr("quantize.quantize.BLOCK_VALUES", 500)
    for layout in LAYOUTS:
        found = quantize_to_packed_int4(layout(values), scale_method, blocks=blocks)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_many_values_on_several_threads() -> None:
    values = np.random.default_rng(0).normal(size=(1 << 11, 1026)).astype(np.float32)
    one, two = (quantize_to_packed_int4(values, "mse", blocks=(8, 32), workers=workers) for workers in (1, 2))
    np.testing.assert_array_equal(one.packed, two.packed)
    part = quantize_to_packed_int4(values[1024:1032], "mse", blocks=(8, 32))
    np.testing.assert_array_equal(one.packed[1024:1032], part.packed)
    back = [dequantize_from_packed_int4(*two[:3], size=1026, blocks=(8, 32), workers=workers) for workers in (1, 2)]
    np.testing.assert_array_equal(*back)


@pytest.mark.parametrize("scale_method", ["minmax", "absmax", "mse", "percentile"])
@pytest.mark.parametrize(("blocks", "axis"), [((-1, -1), None), ((1, -1), 0), ((-1, 1), 1)])
def test_blocks_of_whole_axes_are_what_they_always_were(blocks: Any, axis: int | None, scale_method: Any) -> None:
    values = np.random.default_rng(0).normal(size=(30, 41)).astype(np.float32)
    for one, other in zip(
        quantize_to_packed_int4(values, scale_method, blocks=blocks),
        quantize_to_packed_int4(values, scale_method, axis=axis),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("blocks", [16, 64, (8, 4), 6000], ids=str)
def test_zeros_are_kept_where_there_are_many(blocks: Any) -> None:
    """Also where they lie far from all other values, and the least squared error would leave them out."""
    random = np.random.default_rng(0)
    values = random.gamma(2.0, size=(8, 6000)).astype(np.float32) + 1
    values[random.random(values.shape) < 0.02] = 0
    codes, scale, zero_point = quantize_to_int4(values, "mse", blocks=blocks)
    assert not dequantize_from_int4(codes, scale, zero_point, blocks=blocks)[values == 0].any()
    assert holds_zeros(values)


@pytest.mark.parametrize("scale_method", mostly_slow(METHODS, ["mse"]))
def test_long_blocks(scale_method: str) -> None:
    """Those are not searched side by side: the method mse goes by a histogram of each."""
    values = np.random.default_rng(0).standard_t(4, (3, 9000)).astype(np.float32)
    values[0, 6000:] = np.nan
    codes, scale, zero_point, _ = quantize_to_int4(values, scale_method, blocks=6000, nan_policy="propagate")
    check_stored(scale, zero_point, values, 6000)
    np.testing.assert_array_equal(codes == -8, np.isnan(values))
    for region, place in in_blocks(values, 6000):
        expected, distances = oracle.quantized(values[region], float(scale[place]), float(zero_point[place]), -8)
        clear = distances > oracle.TIE
        np.testing.assert_array_equal(codes[region][clear], expected[clear])
        there = values[region][~np.isnan(values[region])].astype(float)
        if scale_method == "minmax" and there.size:
            assert there.max() - there.min() <= 14 * scale[place] <= (there.max() - there.min()) * 17 / 16
        if scale_method == "mse" and there.size:
            restored = dequantize_from_int4(codes, scale, zero_point, blocks=6000, nan_code=-8, dtype=float)[region]
            found = oracle.Sorted(there)
            error = np.nansum(np.square(restored - values[region]))
            assert found.decibels(error) > found.decibels(found.least(15)) - 0.2


# The least squared error ---------------------------------------------------------------------------------------------


def least_errors(rows: np.ndarray) -> np.ndarray:
    """The least squared error that any scale of five bits and zero point in quarters gives each row."""
    low, high = rows.min(axis=1), rows.max(axis=1)
    full = (high - low) / 15
    found = np.full(len(rows), np.inf)
    exponent = np.exp2(np.floor(np.log2(full)))
    for part in np.concatenate([np.arange(8, 16) / 16, np.arange(16, 34) / 16, np.arange(34, 50, 2) / 16]):
        scale = exponent * part
        inside = (scale > 0.55 * full) & (scale < 1.2 * full)
        for quarter in range(-16, 17):
            zero = np.rint(4 * (-0.5 - (low + high) / 2 / scale)) / 4 + quarter / 4
            codes = np.clip(np.rint(rows / scale[:, None] + zero[:, None]), -8, 7)
            errors = np.square((codes - zero[:, None]) * scale[:, None] - rows).sum(axis=1)
            found = np.where(inside & (errors < found), errors, found)
    return found


DRAWN: dict[str, Any] = {
    "gauss": lambda random, size: random.normal(size=size),
    "t3": lambda random, size: random.standard_t(3, size),
    "uniform": lambda random, size: random.random(size),
    "far": lambda random, size: 280 + random.normal(size=size),
}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize(("length", "within"), [(16, 0.4), (32, 0.2), (64, 0.2)])
def test_the_error_is_near_the_least_there_is(kind: str, length: int, within: float) -> None:
    rows = DRAWN[kind](np.random.default_rng(0), (400, length)).astype(np.float32)
    codes, scale, zero_point = quantize_to_int4(rows, "mse", blocks=length)
    restored = dequantize_from_int4(codes, scale, zero_point, blocks=length, dtype=np.float64)
    error = np.square(restored - rows).sum()
    assert 10 * np.log10(error / least_errors(rows.astype(np.float64)).sum()) < within


# Missing values of integers -------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(METHODS))
def test_no_level_comes_back_as_the_missing_value(data: st.DataObject, scale_method: str) -> None:
    dtype = data.draw(st.sampled_from([np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16)]))
    missing = data.draw(st.sampled_from([0, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), 7]))
    values = data.draw(arrays([dtype], st.just((2, 16)))).astype(dtype)
    values = np.ascontiguousarray(np.where(np.arange(16) % 5 == 0, missing, values).astype(dtype))
    rule = Rule.of(scale_method, nan_policy="propagate", granularity=PerBlock((1, 8)))
    packed = np.empty((2, 8), np.uint8)
    try:
        scales = scales_of_blocks(values, rule, missing, out=packed)
    except RefusedValuesError:  # zero is a level of every absmax
        event("refused")
        return
    assert scales is not None
    codes = unpack_int8_to_int4(packed)
    np.testing.assert_array_equal(codes == -8, values == missing)
    floats = (codes - scales.zero_point.repeat(8, axis=1)) * scales.scale.repeat(8, axis=1)
    info = np.iinfo(dtype)
    assert (np.clip(np.rint(floats), info.min, info.max)[codes != -8] != missing).all()
    if scale_method != "mse":
        error = np.abs(floats - values)[codes != -8]
        assert (error <= scales.scale.repeat(8, axis=1)[codes != -8] / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("scale_method", ["minmax", "absmax"])
def test_scales_that_keep_clear_of_the_missing_value_reach_over_all_others(scale_method: str) -> None:
    """Levels that are moved by part of a step leave no end of a range behind by more than half a step."""
    rule = Rule.of(scale_method, nan_policy="propagate", granularity=PerBlock((1, 4)))
    for missing in range(5, 10):
        ends = [(low, high) for low in range(-12, missing) for high in range(missing + 1, 30)]
        values = np.array([[low, missing, high, low] for low, high in ends], np.int8)
        packed = np.empty((len(values), 2), np.uint8)
        scales = scales_of_blocks(values, rule, missing, out=packed)
        assert scales is not None
        codes = unpack_int8_to_int4(packed)
        error = np.abs((codes - scales.zero_point) * scales.scale - values)
        assert (error <= scales.scale / 2 * (1 + 1e-5))[codes != -8].all()


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_range_is_that_of_all_blocks() -> None:
    values = np.array([[-3.0, 0.0, 1.0, np.inf], [0.1, 0.2, np.nan, -np.inf]])
    codes, scale, zero_point, _ = quantize_to_int4(values, blocks=2, value_range=(-1.5, 1.5), nan_policy="propagate")
    assert np.unique(scale).size == np.unique(zero_point).size == 1
    restored = dequantize_from_int4(codes, scale, zero_point, blocks=2, nan_code=-8)
    assert np.isnan(restored[1, 2])
    np.testing.assert_allclose(restored[0, [0, 3]], [-1.5, 1.5], atol=scale.max() / 2)
    with pytest.raises(
        RefusedValuesError, match=r"1 NaN, 1 \+inf, 1 -inf; the first refused value is at index \(1, 2\)"
    ):
        quantize_to_int4(values, blocks=2, value_range=(-1.5, 1.5))


@pytest.mark.parametrize("blocks", [4, (2, 2), 5000])
def test_what_is_refused_is_counted_in_all_of_the_array(blocks: Any) -> None:
    values = np.zeros((6, 6000))
    values[3, 5], values[4, 1], values[5, 5] = math.nan, math.nan, math.inf
    with pytest.raises(RefusedValuesError, match=r"2 NaN, 1 \+inf; the first refused value is at index \(3, 5\)"):
        quantize_to_int4(values, blocks=blocks)


@pytest.mark.parametrize(
    ("blocks", "options", "error", "words"),
    [
        (32, {"axis": 0}, ValueError, "both say which values share a scale"),
        ((1, 2, 3), {}, ValueError, "3 lengths, but the values have 2 axes"),
        (0, {}, ValueError, "at least 1, or -1"),
        ((4, -2), {}, ValueError, "at least 1, or -1"),
        (2.5, {}, TypeError, "blocks is 2.5, but must be an integer"),
        ("32", {}, TypeError, "must be an integer"),
        (32, {"scale_method": "percentile"}, ValueError, "with blocks take 'mse'"),
        (32, {"scale_method": "mse", "value_range": (0, 1)}, ValueError, "value_range fixes the range"),
    ],
)
def test_blocks_that_there_are_not(blocks: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        quantize_to_int4(np.zeros((4, 64)), blocks=blocks, **options)


def test_scales_of_other_blocks_are_refused() -> None:
    codes, scale, zero_point = quantize_to_int4(np.random.default_rng(0).normal(size=(4, 64)), blocks=32)
    with pytest.raises(ValueError, match=r"blocks of 1 x 16, and so scales of shape \(4, 4\)"):
        dequantize_from_int4(codes, scale, zero_point, blocks=16)
    with pytest.raises(ValueError, match="need blocks="):
        dequantize_from_int4(codes, scale, zero_point)
    with pytest.raises(ValueError, match="whole number of quarters"):
        dequantize_from_int4(codes, scale, zero_point + 0.1, blocks=32)
    with pytest.raises(ValueError, match="finite and above 0"):
        dequantize_from_int4(codes, np.where(scale == scale[2, 1], np.nan, scale), zero_point, blocks=32)
    with pytest.raises(ValueError, match="float16 cannot hold"):
        dequantize_from_int4(codes, scale * 2.0**30, zero_point, blocks=32, dtype=np.float16)
