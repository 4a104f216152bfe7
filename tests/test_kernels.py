"""Blocks in, blocks out: what the loops give, dtype by dtype, against exact arithmetic."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import oracle
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow, slow
from strategies import BFLOAT16, DTYPES, FLOATS, INTEGERS, arrays, numbers

from quantize import kernels
from quantize.numerics.granularity import ONE, Lines
from quantize.numerics.scales import Codes
from quantize.numerics.tables import Affine, affine, affine_table, affines, pairs_of

LINED = st.tuples(st.sampled_from([12, 8, 4, 2, 1]), st.integers(1, 9))
HALVES = [np.dtype(np.float16), BFLOAT16]
SIXTEEN_BITS = np.arange(2**16, dtype=np.uint16)
BLOCKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


def blocks(
    dtypes: list[np.dtype[Any]] = DTYPES, special: tuple[float, ...] = (), shapes: Any = BLOCKS
) -> st.SearchStrategy[np.ndarray]:
    return arrays(dtypes, shapes, special).map(lambda a: np.ascontiguousarray(a, a.dtype.newbyteorder("=")))


def nibbles(packed: np.ndarray) -> np.ndarray:
    """Codes in pairs, straight from the definition of the packed form."""
    pairs = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int8)
    return ((pairs ^ 8) - 8).reshape(*packed.shape[:-1], -1)


def pack(
    block: np.ndarray,
    scale: Any,
    zero_point: Any,
    nan_code: int | None = None,
    missing: Any = None,
    lowest: int | None = None,
    lines: Lines = ONE,
) -> np.ndarray:
    """The codes of a block: by default from -8 to 7, and from -7 on with a `nan_code`."""
    rows, n = block.shape
    out = np.full((rows, (n + 1) // 2), 0xAA, np.uint8)
    default = -8 if nan_code is None else -7
    codes = Codes(default if lowest is None else lowest, nan_code, missing)
    each = np.atleast_1d(np.asarray(scale, float)), np.atleast_1d(np.asarray(zero_point, np.int64))
    table = affine_table(block.dtype, *each, nan_code, codes.lowest)
    kernels.pack(block, out, table, lines, codes.sentinel(block.dtype))
    codes = nibbles(out)
    assert n % 2 == 0 or not codes[:, -1].any(), "an odd end is padded with 0"
    return codes[:, :n]


# Lines --------------------------------------------------------------------------------------------------------------


@st.composite
def lined(draw: st.DrawFn, found: st.SearchStrategy[np.ndarray]) -> tuple[np.ndarray, Lines, np.ndarray]:
    """A block, the lines of an axis that it may have, and which index each value is of."""
    block = draw(found)
    rows, n = block.shape
    divisors = [i for i in range(rows, 0, -1) if rows % i == 0]
    of_rows = [Lines(i, repeat) for i in divisors for repeat in divisors if rows % (i * repeat) == 0]
    lines = draw(st.sampled_from([Lines(n, columns=True), *of_rows]))
    number = np.arange(n) if lines.columns else (np.arange(rows) // lines.repeat % lines.groups)[:, None]
    return block, lines, np.broadcast_to(number, block.shape)


# Pack ---------------------------------------------------------------------------------------------------------------


@st.composite
def scaled_blocks(draw: st.DrawFn) -> tuple[np.ndarray, float, int]:
    """A block, and a scale and zero point of which some of its values lie within the 16 levels."""
    block = draw(blocks(special=(math.inf, -math.inf)))
    inside = float(draw(st.sampled_from(list(block.ravel()))))
    other = draw(st.one_of(st.sampled_from(list(block.ravel())).map(float), numbers(np.dtype(np.float64))))
    width = abs(inside - other)
    assume(0 < width < oracle.finite_range(float)[1] / 2)
    scale = width * draw(st.floats(0.05, 2)) or 5e-324
    zero_point = draw(st.integers(-8, 7)) - round(oracle.number(inside) / oracle.number(scale))
    assume(abs(zero_point) < oracle.ANCHORED)
    return block, scale, zero_point


@given(scaled_blocks(), st.sampled_from([None, -8]))
@example((np.full((1, 2), np.inf, np.float32), 1e308, 0), None)
@example((np.full((1, 2), np.inf, np.float16), 1e60, 0), None)
@example((np.full((1, 2), -np.inf, BFLOAT16), 1e300, 3), None)
@example((np.full((1, 2), 3e38, np.float32), 1e-300, 0), None)
@example((np.full((1, 2), 1.7e308), 5e-324, 0), None)
def test_codes_are_those_of_exact_arithmetic(scaled: tuple[np.ndarray, float, int], nan_code: int | None) -> None:
    block, scale, zero_point = scaled
    codes, distances = oracle.quantized(block, scale, zero_point, nan_code)
    clear = distances > oracle.TIE
    np.testing.assert_array_equal(pack(block, scale, zero_point, nan_code)[clear], codes[clear])


@given(
    st.sampled_from(DTYPES),
    hnp.arrays(np.int64, BLOCKS, elements=st.integers(-40, 40)),
    st.integers(-24, 24),
    st.integers(-9, 9) | st.integers(-(2**10), 2**10),
    st.sampled_from([None, -8]),
)
def test_ties_go_to_the_even_multiple_of_the_scale(
    dtype: np.dtype[Any], halves: np.ndarray, power: int, zero_point: int, nan_code: int | None
) -> None:
    if dtype.kind in "iu":  # whole values: ties at odd ones for an even scale
        block, scale = np.abs(halves).astype(dtype), 2.0
    elif dtype in HALVES:
        block, scale = np.ldexp(halves.astype(float), -5).astype(dtype), 2.0**-4
    else:
        block, scale = np.ldexp(halves.astype(float), power - 1).astype(dtype), 2.0**power
    expected, _ = oracle.quantized(block, scale, zero_point, nan_code)
    np.testing.assert_array_equal(pack(block, scale, zero_point, nan_code), expected)


@st.composite
def lined_scales(draw: st.DrawFn) -> tuple[np.ndarray, Lines, np.ndarray, list[tuple[float, int]]]:
    """A block with a scale and zero point for each index, of its values or quite another size."""
    block, lines, index_of = draw(lined(blocks(special=(math.inf, -math.inf), shapes=LINED)))
    scales = []
    for index in range(lines.groups):
        own = [float(x) for x in block[index_of == index] if np.isfinite(float(x))] or [0.0]
        inside, other = draw(st.sampled_from(own)), draw(st.sampled_from(own) | numbers(np.dtype(np.float64)))
        width = min(abs(inside / 2 - other / 2), 1e308) or 1.0
        scale = width * draw(st.floats(0.05, 1)) or 5e-324
        zero_point = draw(st.integers(-8, 7)) - round(oracle.number(inside) / oracle.number(scale))
        scales.append((scale, zero_point) if abs(zero_point) < oracle.ANCHORED else (scale, draw(st.integers(-9, 9))))
    return block, lines, index_of, scales


@given(lined_scales(), st.sampled_from([None, -8]))
def test_codes_of_each_index_are_those_of_exact_arithmetic(
    case: tuple[np.ndarray, Lines, np.ndarray, list[tuple[float, int]]], nan_code: int | None
) -> None:
    block, lines, index_of, scales = case
    columns = np.array([s for s, _ in scales]), np.array([z for _, z in scales], np.int64)
    found = pack(block, *columns, nan_code, None, None, lines)
    for index, (scale, zero_point) in enumerate(scales):
        own = index_of == index
        codes, distances = oracle.quantized(block[own], scale, zero_point, nan_code)
        clear = distances > oracle.TIE
        np.testing.assert_array_equal(found[own][clear], codes[clear])


@given(lined(blocks([*HALVES, np.dtype(np.float32)], special=(math.nan,), shapes=LINED)), st.sampled_from([-8, -7]))
def test_nan_and_missing_values_get_their_code_in_every_line(
    case: tuple[np.ndarray, Lines, np.ndarray], lowest: int
) -> None:
    block, lines, _ = case
    block = np.where(np.isnan(block.astype(float)), block, np.asarray(2.0, block.dtype))
    block[0, 0] = -9.0
    codes = pack(block, np.ones(lines.groups), np.zeros(lines.groups, np.int64), -8, -9.0, lowest, lines)
    np.testing.assert_array_equal(codes, np.where(block.astype(float) == 2.0, 2, -8))


@given(
    st.sampled_from(DTYPES),
    st.lists(
        st.tuples(
            (st.floats(0.01, 100) | st.floats(1e-30, 1e30) | st.floats(5e-324, 1e308)).map(lambda scale: scale * 0.7),
            st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**31), 2**31) | st.integers(-20, 20),
        ),
        min_size=1,
    ),
    st.sampled_from([(None, -8), (-8, -7), (None, -7)]),
)
def test_many_affines_are_each_alone(
    dtype: np.dtype[Any], scales: list[tuple[float, int]], codes: tuple[int | None, int]
) -> None:
    """But for the offset, which is off by 2^-22 of a step: it is the level of the anchor."""
    columns = np.array([s for s, _ in scales]), np.array([z for _, z in scales], np.int64)
    found = affines(dtype, *columns, *codes)
    for column, (scale, zero_point) in zip(found.T, scales, strict=True):
        alone = Affine(*affine(dtype, scale, zero_point, *codes)[:, 0])
        its = Affine(*column)
        assert its._replace(offset=0, anchor=0, inverse=0) == alone._replace(offset=0, anchor=0, inverse=0)
        assert its.inverse == pytest.approx(alone.inverse, rel=2 * float(np.finfo(found.dtype).eps))
        if abs(its.offset) < 1e12:  # else one that takes all values to one side
            level = oracle.number(its.anchor) / (oracle.number(scale) * oracle.number(its.factor)) + zero_point
            tolerance = oracle.number(2.0**-21) + abs(level) * oracle.number(float(np.finfo(found.dtype).eps))
            assert abs(oracle.number(its.offset) - level) <= tolerance


@given(blocks([np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)]), st.integers(2**33, 2**62))
def test_codes_far_from_zero_stay_codes(block: np.ndarray, zero_point: int) -> None:
    codes = pack(block, 1.0, -zero_point)
    assert codes.min() >= -8
    assert codes.max() <= 7


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("scale", "zero_point"), [slow(8000.0, 0), slow(2.0**-20, 3), (0.1, -2795)])
def test_codes_of_every_half_precision_number(dtype: np.dtype[Any], scale: float, zero_point: int) -> None:
    block = SIXTEEN_BITS.view(dtype).reshape(1, -1)
    codes, distances = oracle.quantized(block, scale, zero_point, -8)
    clear = distances > oracle.TIE
    np.testing.assert_array_equal(pack(block, scale, zero_point, -8)[clear], codes[clear])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_nan_and_missing_values_get_their_code(dtype: np.dtype[Any], n: int) -> None:
    block = np.asarray([[math.nan] * n, [-9.0] * n, [2.0] * n], dtype)
    expected = np.repeat([[-8], [-8], [2]], n, axis=1)
    np.testing.assert_array_equal(pack(block, 1.0, 0, -8, -9.0), expected)


@pytest.mark.parametrize("dtype", mostly_slow(INTEGERS, [np.int16, np.uint64]), ids=str)
def test_missing_integers_get_their_code(dtype: np.dtype[Any]) -> None:
    missing = np.iinfo(dtype).max
    block = np.asarray([[missing, missing - 1, 0]], dtype)
    expected, _ = oracle.quantized(block, float(missing) / 7, 0, -8)
    expected[block == missing] = -8
    codes = pack(block, float(missing) / 7, 0, -8, missing)
    assert codes.tolist() == expected.tolist()


# Unpack -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("odd", [False, True])
def test_unpack_looks_every_byte_up(dtype: np.dtype[Any], odd: bool) -> None:
    table = np.arange(3, 19).astype(dtype)
    packed = np.arange(256, dtype=np.uint8).reshape(2, 128)
    out = np.empty((2, 256 - odd), dtype)
    kernels.unpack(packed, out, pairs_of(table))
    np.testing.assert_array_equal(out, table[nibbles(packed) + 8][:, : 256 - odd])


def test_unpack_keeps_the_bits_of_nan() -> None:
    table = np.arange(0x7FC00001, 0x7FC00011, dtype=np.uint32).view(np.float32)
    out = np.empty((1, 4), np.float32)
    kernels.unpack(np.asarray([[0x80, 0x7F]], np.uint8), out, pairs_of(table))
    assert (out.view(np.uint32) - 0x7FC00001).tolist() == [[8, 0, 7, 15]]


@given(lined(hnp.arrays(np.uint8, LINED)), st.sampled_from(DTYPES), st.booleans())
def test_unpack_of_each_index_looks_up_in_its_own_table(
    case: tuple[np.ndarray, Lines, np.ndarray], dtype: np.dtype[Any], odd: bool
) -> None:
    packed, lines, index_of = case
    out = np.empty((len(packed), 2 * packed.shape[1] - odd), dtype)
    if lines.columns:
        lines, index_of = lines._replace(groups=out.shape[1]), np.broadcast_to(np.arange(out.shape[1]), out.shape)
    else:
        index_of = np.repeat(index_of[:, :1], out.shape[1], axis=1)
    tables = (np.arange(lines.groups)[:, None] * 16 + np.arange(16)).astype(np.uint8).view(np.int8)
    tables = tables.astype(dtype) if dtype.kind != "u" else tables.view(np.uint8).astype(dtype)
    kernels.unpack_each(packed, out, tables, lines)
    np.testing.assert_array_equal(out, tables[index_of, nibbles(packed)[:, : out.shape[1]] + 8])


# Codes --------------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.int8, BLOCKS, elements=st.integers(-8, 7)))
def test_pack_codes_is_undone_by_the_definition(codes: np.ndarray) -> None:
    rows, n = codes.shape
    out = np.full((rows, (n + 1) // 2), 0xAA, np.uint8)
    assert kernels.pack_codes(codes, out)
    np.testing.assert_array_equal(nibbles(out)[:, :n], codes)
    assert n % 2 == 0 or not (out[:, -1] >> 4).any()


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("wrong", [-128, -9, 8, 127])
def test_pack_codes_reports_codes_outside(n: int, wrong: int) -> None:
    for position in range(n):
        codes = np.zeros((1, n), np.int8)
        codes[0, position] = wrong
        assert not kernels.pack_codes(codes, np.empty((1, (n + 1) // 2), np.uint8))


# Cache --------------------------------------------------------------------------------------------------------------

QUANTIZE_ALL = """
import sys
import ml_dtypes
import numpy as np
from quantize import quantize_to_int4

dtypes = [np.float32, ml_dtypes.bfloat16, np.float64, np.int16, np.uint8, np.float16]
for dtype in dtypes[int(sys.argv[1]):] + dtypes[: int(sys.argv[1])]:
    codes = quantize_to_int4(np.arange(16).astype(dtype))[0]
    assert codes.tolist() == list(range(-8, 8)), (np.dtype(dtype), codes)
"""


def test_compiled_code_has_another_name_where_any_file_of_loops_has_changed(tmp_path: Path) -> None:
    package = tmp_path / "quantize"
    shutil.copytree(kernels.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    digests = {kernels.digest_of_loops(package)}
    assert digests == {kernels.SOURCE}
    for name in ("kernels.py", "numerics/tables.py", "calibration/histogram.py", "quality/residuals.py"):
        with (package / name).open("a") as file:
            file.write("# changed\n")
        digests.add(kernels.digest_of_loops(package))
    assert len(digests) == 5


def test_no_folder_for_a_cache_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(kernels.pack_codes_loop)
    loop = kernels.compiled(kernels.pack_codes_loop, "without a cache")
    packed = np.empty((1, 1), np.uint8)
    assert loop(np.array([[-8, 7]], np.int8), packed)
    assert packed == 0x78


@pytest.mark.slow
def test_a_processor_that_does_not_know_float16(tmp_path: Path) -> None:
    """Numba would end the process: LLVM calls a function then that is not there."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }
    here = [f"{Path(__file__).parent / name}::{test}" for name, test in HALF_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", *here]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


HALF_TESTS = [
    ("calibration/test_scan.py", "test_every_half_precision_number"),
    ("test_kernels.py", "test_codes_of_every_half_precision_number"),
]


@pytest.mark.slow
def test_processes_that_share_an_empty_cache(tmp_path: Path) -> None:
    """Two processes that write one index can swap the code of two signatures (https://github.com/numba/numba/issues/4807)."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in ("cold", "warm"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", QUANTIZE_ALL, str(first)], env=environment, stderr=subprocess.PIPE, text=True
            )
            for first in range(6)
        ]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 6, "\n".join(errors)
    assert list(tmp_path.rglob("*.nbi"))
