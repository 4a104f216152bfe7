"""Outer, pointwise and NumPy's own indices of an `Int4Array`, held to NumPy; chunks that they read are counted."""

import functools
import pickle
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import slow
from stores import WatchedStore, field
from zarr.storage import MemoryStore

from quantize import Int4Array, StoreError, open_int4, quantize_to_zarr
from quantize.numerics.tables import BlockLevels, LevelTable
from quantize.reading import indexing

STORES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "one scale": ((7, 11, 13), {"chunks": (2, 3, 4)}),
    "axis": ((7, 11, 13), {"chunks": (3, 4, 6), "axis": 1}),
    "last axis": ((9, 14), {"chunks": (4, 6), "axis": 1}),
    "blocks": ((7, 11, 37), {"chunks": (2, 4, 16), "blocks": 8}),
    "tiles": ((20, 37), {"chunks": (8, 16), "blocks": (4, 4)}),
    "down": ((20, 7), {"chunks": (8, 4), "blocks": (4, 1)}),
    "shards": ((7, 11, 13), {"chunks": (2, 3, 4), "shards": (4, 6, 8)}),
    "blocks in shards": ((20, 37), {"chunks": (4, 8), "shards": (8, 32), "blocks": (4, 8)}),
    "one axis": ((29,), {"chunks": (6,)}),
    "four axes": ((3, 4, 5, 6), {"chunks": (2, 2, 2, 4)}),
    "missing": ((11, 13), {"chunks": (4, 4), "nan_policy": "propagate"}),
}
KEYS = pytest.mark.parametrize("count", [30, slow(500)])


@functools.cache
def stored(kind: str) -> tuple[Int4Array, np.ndarray]:
    shape, options = STORES[kind]
    values = field(shape)
    if "nan_policy" in options:
        values[values > 40] = np.nan
    array = quantize_to_zarr(values, MemoryStore(), **options)
    return array, array[...]


def agree(found: Any, wanted: Any) -> None:
    assert (np.shape(found), found.dtype, type(found)) == (np.shape(wanted), wanted.dtype, type(wanted))
    np.testing.assert_array_equal(found, wanted)


# Random indices -------------------------------------------------------------------------------------------------------


def some_slice(random: np.random.Generator, n: int) -> slice:
    start, stop = (None if random.random() < 0.3 else int(random.integers(-n - 2, n + 3)) for _ in range(2))
    return slice(start, stop, random.choice([None, 1, 2, 3, -1, -2, n]))


def some_entries(random: np.random.Generator, n: int, shape: Any = None) -> np.ndarray:
    """Of an axis: in any order, some of them more than once, counted from the end here and there."""
    return random.integers(-n, n, random.integers(0, 2 * n) if shape is None else shape)


def some_mask(random: np.random.Generator, shape: Any) -> np.ndarray:
    return random.random(shape) < random.choice([0, 0.2, 0.7])


def outer_key(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, ...]:
    parts: list[Callable[[int], Any]] = [
        lambda n: int(random.integers(-n, n)),
        lambda n: some_slice(random, n),
        lambda n: some_entries(random, n),
        lambda n: np.sort(random.choice(n, random.integers(1, n + 1), replace=False)),
        lambda n: some_mask(random, n),
        lambda n: some_entries(random, n).tolist(),
    ]
    return tuple(parts[random.integers(len(parts))](n) for n in shape[: random.integers(1, len(shape) + 1)])


def outer_of(values: np.ndarray, key: tuple[Any, ...]) -> Any:
    """NumPy's, an axis at a time, from the last: so integers drop none that is still to be named."""
    for axis in reversed(range(len(key))):
        part = np.array(key[axis], int) if isinstance(key[axis], list) else key[axis]
        values = values[(*[slice(None)] * axis, part)]
    return values


def points_key(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, ...]:
    points = tuple(random.integers(0, 4, random.integers(0, 3)))
    key: list[Any] = []
    for n in shape:
        if random.random() < 0.3:
            key.append(some_slice(random, n))
        else:
            own = [1 if random.random() < 0.2 else length for length in points[random.integers(0, len(points) + 1) :]]
            key.append(some_entries(random, n, own))
    return tuple(key)


def points_of(values: np.ndarray, key: tuple[Any, ...]) -> Any:
    """NumPy's, where the axes of arrays come before those of slices."""
    axes = sorted(range(len(key)), key=lambda axis: isinstance(key[axis], slice))
    return values.transpose(axes)[tuple(key[axis] for axis in axes)]


@KEYS
@pytest.mark.parametrize("kind", STORES)
def test_outer_indices_are_numpys(kind: str, count: int) -> None:
    random = np.random.default_rng(count)
    array, values = stored(kind)
    for _ in range(count):
        key = outer_key(random, array.shape)
        agree(array.oindex[key], outer_of(values, key))


@KEYS
@pytest.mark.parametrize("kind", STORES)
def test_points_are_numpys(kind: str, count: int) -> None:
    random = np.random.default_rng(count)
    array, values = stored(kind)
    for _ in range(count):
        key = points_key(random, array.shape)
        agree(array.vindex[key], points_of(values, key))


@pytest.mark.parametrize("count", [10, slow(100)])
@pytest.mark.parametrize("kind", STORES)
def test_one_array_among_slices_and_integers_is_numpys(kind: str, count: int) -> None:
    random = np.random.default_rng(count)
    array, values = stored(kind)
    for _ in range(count):
        parts = [int(random.integers(-n, n)) if random.random() < 0.4 else some_slice(random, n) for n in array.shape]
        at = random.integers(array.ndim)
        if random.random() < 0.3:
            wide = random.integers(1, array.ndim - at + 1)
            parts[at : at + wide] = [some_mask(random, array.shape[at : at + wide])]  # type: ignore[list-item]
        else:
            parts[at] = some_entries(random, array.shape[at], random.integers(0, 4, random.integers(1, 3)))  # type: ignore[call-overload]
        if random.random() < 0.3:
            parts.insert(random.integers(len(parts) + 1), ...)  # type: ignore[arg-type]
        agree(array[tuple(parts)], values[tuple(parts)])
        np.testing.assert_array_equal(array.codes(tuple(parts)), array.codes()[tuple(parts)])


def test_far_pieces_of_a_chunk_are_restored_apart_and_many_repeats_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    array, values = stored("one scale")
    monkeypatch.setattr(indexing, "APART", 2)
    for kind in STORES:
        test_outer_indices_are_numpys(kind, 5)
        test_points_are_numpys(kind, 5)
    monkeypatch.setattr(indexing, "AT_ONCE", 3)
    rows, columns = [3, 3, 3, 0, 3, 3, 1], [7, 7, 7, 2]
    agree(array.oindex[rows, columns], values[np.ix_(rows, columns)])
    agree(array.vindex[rows, 2], values[rows, 2])


# What is asked for and what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index", [[0, 2], range(3), [True] * 3 + [False] * 4, np.array([], int), [], [[0, 1], [2, -1]]]
)
def test_whatever_lists_entries_is_an_array(index: Any) -> None:
    array, values = stored("one scale")
    agree(array[index], values[index])


def test_a_mask_of_all_axes_gives_values_in_c_order() -> None:
    array, values = stored("axis")
    agree(array[values > 20], values[values > 20])
    agree(array.vindex[values > 20], values[values > 20])


def test_indices_that_are_all_integers_give_a_number() -> None:
    array, values = stored("axis")
    for found in (array.oindex[1, 2, 3], array.vindex[1, 2, 3], array.vindex[np.array(1), 2, -10]):
        agree(found, values[1, 2, 3])
    agree(array.vindex[1, ..., 3], values[1, :, 3])
    agree(array.vindex[:, 1:2], values[:, 1:2])


@pytest.mark.parametrize(
    ("how", "index", "message"),
    [
        ("", ([0], [1]), "oindex.*vindex"),
        ("", (np.ones((7, 11), bool), [1]), "oindex.*vindex"),
        ("", [7], "index 7 is out of bounds for an axis of length 7"),
        ("", [0, -8], "index -8 is out of bounds for an axis of length 7"),
        ("", np.array([1 << 63], np.uint64), "out of bounds"),
        ("", [1.0], "integers or booleans.*float64"),
        ("", [[0], [1, 2]], "integers or booleans"),
        ("", np.ones(6, bool), r"mask of shape \(6,\) stands for axes of lengths \(7,\)"),
        ("", np.ones((7, 11, 13, 1), bool), "too many indices"),
        ("oindex", ([0], [11]), "out of bounds"),
        ("oindex", ([[0]], [1]), "vindex"),
        ("oindex", np.ones((7, 11), bool), "vindex"),
        ("oindex", (0, 0, 0, 0), "too many"),
        ("oindex", "x", "no index"),
        ("vindex", ([0, 1], [0, 1, 2]), r"\(2,\), \(3,\) do not broadcast"),
        ("vindex", ([0], 11), "out of bounds"),
        ("vindex", ([0], None), "no index"),
        ("vindex", ([0], True), "no index"),
    ],
)
def test_what_is_refused(how: str, index: Any, message: str) -> None:
    array, _ = stored("one scale")
    with pytest.raises(IndexError, match=message):
        (getattr(array, how) if how else array)[index]


# What is read ---------------------------------------------------------------------------------------------------------


def chunks_read(store: WatchedStore) -> Counter[str]:
    read = Counter(key for key in store.got if "/c/" in key)
    store.got.clear()
    return read


@pytest.mark.parametrize("options", [{}, {"axis": 2}, {"blocks": 4}])
def test_each_chunk_that_is_touched_is_read_once_and_no_other(tmp_path: Path, options: Any) -> None:
    values = field((40, 6, 16))
    store = WatchedStore(tmp_path)
    quantize_to_zarr(values, store, chunks=(4, 6, 8), **options)
    array = open_int4(store)

    def reads(read: Callable[[], Any]) -> Counter[str]:
        store.got.clear()
        read()
        return Counter({key: n for key, n in chunks_read(store).items() if key.startswith("data/c/")})

    assert reads(lambda: array.oindex[[0, -1], 2]) == Counter(f"data/c/{i}/0/{k}" for i in (0, 9) for k in (0, 1))
    assert reads(lambda: array[[39, 0, 1, 38]]) == Counter(f"data/c/{i}/0/{k}" for i in (0, 9) for k in (0, 1))
    assert reads(lambda: array.oindex[[17, 2, 16], :, [1, 0]]) == Counter({"data/c/0/0/0": 1, "data/c/4/0/0": 1})
    assert reads(lambda: array.vindex[[0, 39, 3], [0, 1, 5], [0, 15, 7]]) == Counter(["data/c/0/0/0", "data/c/9/0/1"])
    random = np.random.default_rng(0)
    points = [random.integers(0, n, 1000) for n in array.shape]
    assert reads(lambda: array.vindex[tuple(points)]) == Counter(f"data/c/{i}/0/{k}" for i in range(10) for k in (0, 1))
    assert reads(lambda: array[[]]) == Counter()
    assert reads(lambda: list(array)) == Counter(f"data/c/{i}/0/{k}" for i in range(10) for k in (0, 1))


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"blocks": 8}])
def test_chunks_cut_along_the_rows_are_unpacked_by_loops(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    array = quantize_to_zarr(field((16, 64)), MemoryStore(), chunks=(8, 16), **options)
    wanted = np.concatenate([array[:, first : first + 16] for first in range(0, 64, 16)], axis=1)

    def look_up(*_: Any) -> None:
        raise AssertionError("values are looked up one by one, which takes 40 times as long")

    for table in (LevelTable, BlockLevels):
        monkeypatch.setattr(table, "look_up", look_up)
    for index in (np.s_[:], np.s_[:, 3:61], np.s_[[0, 9, 5], 3:], np.s_[:, [7, 1, 40]]):
        np.testing.assert_array_equal(array[index], wanted[index])


@pytest.mark.parametrize("options", [{}, {"blocks": 32}])
def test_an_index_takes_little_memory_beside_its_result(options: Any) -> None:
    array = quantize_to_zarr(field((4096, 512)), MemoryStore(), chunks=(256, 512), **options)
    chunk, rows = 256 * 512 * 4, np.random.default_rng(0).integers(0, 4096, 8192)
    array[rows[:9]]
    tracemalloc.start()
    try:
        for index in (rows, np.zeros(4096, int), np.arange(0, 4096, 255)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = array[index]
            assert tracemalloc.get_traced_memory()[1] - before < result.nbytes + 40 * chunk
            del result
    finally:
        tracemalloc.stop()


# As others expect an array --------------------------------------------------------------------------------------------


def test_iteration_gives_the_rows() -> None:
    for kind in ("one scale", "one axis"):
        array, values = stored(kind)
        assert len(array) == len(values)
        for found, wanted in zip(array, values, strict=True):
            agree(found, wanted)


def test_rows_that_are_long_are_iterated_over_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantize.reading.array.ITERATED", 1)
    array, values = stored("one scale")
    np.testing.assert_array_equal(list(array), values)


def test_names_are_those_of_xarray() -> None:
    array = quantize_to_zarr(field((4, 6)), MemoryStore())
    assert (array.dims, array.attrs) == (("dim_0", "dim_1"), {})


@pytest.mark.parametrize("kind", ["one scale", "axis", "last axis", "blocks", "tiles", "down", "missing"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_another_dtype_is_the_law_in_float64_rounded_once(kind: str, dtype: str) -> None:
    array, values = stored(kind)
    other = array.astype(dtype)
    scale, zero_point = array.scale, array.zero_point
    if array.blocks is not None:
        for axis, (length, n) in enumerate(zip(array.blocks, array.shape, strict=True)):
            scale, zero_point = (
                np.repeat(entries, length, axis)[(slice(None),) * axis + (slice(n),)] for entries in (scale, zero_point)
            )
    law = np.where(np.isnan(values), np.nan, (array.codes() - zero_point) * scale)
    assert (other.dtype, other.nbytes) == (np.dtype(dtype), values.size * np.dtype(dtype).itemsize)
    for found in (
        other[...],
        other[::2, 1:],
        other.oindex[[3, 0]],
        pickle.loads(pickle.dumps(other)).to_dask().compute(),
    ):
        assert found.dtype == np.dtype(dtype)
    if dtype != "bfloat16":
        np.testing.assert_array_equal(other[...], law.astype(dtype))
    np.testing.assert_allclose(other[...].astype(float), law, rtol=2**-8)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[...], values)


def test_integers_are_read_as_floats_their_missing_value_as_nan() -> None:
    values = np.array([[0, 1, -99], [15, 7, 3]], np.int16)
    array = quantize_to_zarr(values, MemoryStore(), missing=-99, nan_policy="propagate")
    np.testing.assert_array_equal(array.astype(float)[...], [[0, 15 / 14, np.nan], [15, 7.5, 45 / 14]])
    assert array[...].tolist() == [[0, 1, -99], [15, 8, 3]]
    with pytest.raises(TypeError, match=r"int16 is read as floats, not as int32.*array\[...\].astype"):
        array.astype("int32")


def test_what_another_dtype_cannot_hold_is_an_error() -> None:
    array = quantize_to_zarr(np.linspace(0, 1e6, 16, dtype=np.float32), MemoryStore())
    with pytest.raises(StoreError, match="float16 cannot hold: read it as float32"):
        array.astype("float16")[...]
    assert array.astype("float16")[0] == 0


@pytest.mark.parametrize("copy", [None, True])
def test_numpy_takes_it_as_an_array(copy: bool | None) -> None:
    array, values = stored("blocks")
    for dtype in (None, np.float64, np.float16):
        agree(np.array(array, dtype, copy=copy), values.astype(dtype or values.dtype))
