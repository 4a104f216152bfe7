"""What a source gives is what it declares, or refused before anything of it is used: shapes, dtypes, masks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow, slow
from stores import Counting, check, field, memory_keys
from strategies import BFLOAT16, DTYPES, FLOATS, INTEGERS, LAYOUTS, arrays
from zarr.storage import MemoryStore

from quantize import (
    RefusedValuesError,
    StoreError,
    UndeclaredValuesError,
    measure_error,
    open_int4,
    quantize_part,
    quantize_to_int4,
    quantize_to_zarr,
    seal,
    suggest,
    verify,
    write_report,
)
from quantize.io import as_source
from quantize.io.format import Format
from quantize.io.formats.dask import part_of, starts_of
from quantize.io.gate import accepted
from quantize.io.source import Source

SHAPE, CHUNKS = (40, 60), (10, 20)
VALUES = field(SHAPE) + np.float32(280)
WHOLE = tuple(slice(0, n) for n in SHAPE)


def declaring(blocks: Callable[[np.ndarray], Any], dtype: Any = np.float32, chunks: Any = CHUNKS) -> Any:
    """A dask array whose blocks are what a function makes of those of `VALUES`, all but the first."""

    def each(block: np.ndarray, block_id: Any) -> Any:
        return blocks(block) if any(block_id) else block

    lazy = dask.array.from_array(VALUES.astype(dtype), chunks=chunks)
    return lazy.map_blocks(each, dtype=dtype, meta=np.empty((0, 0), dtype))


class Duck(Counting):
    """An array of no library, which gives what a function makes of its values."""

    def __init__(self, blocks: Callable[[np.ndarray], Any], dtype: Any = np.float32) -> None:
        super().__init__(VALUES.astype(dtype))
        self.blocks = blocks

    def __getitem__(self, index: Any) -> Any:
        return self.blocks(super().__getitem__(index))


def with_first(value: Any, dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    def blocks(block: np.ndarray) -> np.ndarray:
        block = block.astype(dtype)
        block[0, 0] = value
        return block

    return blocks


WRONG_SHAPES: dict[str, Callable[[np.ndarray], Any]] = {
    "smaller": lambda b: b[:5],
    "larger": lambda b: np.concatenate([b, b]),
    "transposed": lambda b: b.T,
    "an axis less": lambda b: b[0],
    "an axis more": lambda b: b[None],
    "flat": lambda b: b.reshape(-1),
    "one column": lambda b: b[:, :1],
    "one row too many": lambda b: np.concatenate([b, b[:1]]),
    "nothing": lambda b: b[:0],
    "one number": lambda b: b[0, 0],
    "None": lambda b: None,
    "masked and smaller": lambda b: np.ma.masked_greater(b[:5], 280),
}
WRONG_DTYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "complex": lambda b: b * 1j,
    "bool": lambda b: b > 280,
    "text": lambda b: b.astype("U"),
    "object": lambda b: b.astype(object),
    "records": lambda b: b.astype([("value", "f4")]),
    "times": lambda b: b.astype("M8[s]"),
    "integers": lambda b: b.astype("i4"),
    "finer floats": lambda b: b.astype("f8") + 1e-9,
    "huge": with_first(1e300, "f8"),
    "tiny": with_first(1e-300, "f8"),
    "long doubles": with_first(np.longdouble(1) / 3, np.longdouble),
    "masked complex": lambda b: np.ma.masked_greater(b, 280) * 1j,
}
WRONG = {**WRONG_SHAPES, **WRONG_DTYPES}
SOURCES: dict[str, Callable[..., Any]] = {"dask": declaring, "duck": Duck}


# Every entry ----------------------------------------------------------------------------------------------------------


def in_parts(source: Any, right: Any, folder: Path) -> None:
    store = MemoryStore()
    for part in (1, 2, 1, 2):
        quantize_part(source, store, part, 2, chunks=CHUNKS)
    seal(store)


def in_memory(source: Any, right: Any, folder: Path) -> None:
    quantize_to_int4(as_source(source).read(WHOLE))


ENTRIES: dict[str, Callable[[Any, Any, Path], Any]] = {
    "quantize_to_zarr": lambda source, right, folder: quantize_to_zarr(source, MemoryStore()),
    "aligned": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), chunks=CHUNKS),
    "across": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), chunks=(7, 8), workers=2),
    "one chunk": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), chunks=(40, 60)),
    "mse": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), scale_method="mse"),
    "axis": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), axis=0),
    "axis in two passes": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), axis=0, chunks=(8, 12)),
    "value_range": lambda source, right, folder: quantize_to_zarr(source, MemoryStore(), value_range=(0, 600)),
    "parts": in_parts,
    "suggest": lambda source, right, folder: suggest(source),
    "measure_error": lambda source, right, folder: measure_error(source, right),
    "verify": lambda source, right, folder: verify(RIGHT, source=source),
    "report": lambda source, right, folder: write_report(right, source, folder / "r.html"),
    "in memory": in_memory,
}


RIGHT = MemoryStore()  # of `VALUES`


@pytest.fixture(scope="module")
def right() -> Any:
    return quantize_to_zarr(VALUES, RIGHT, chunks=CHUNKS)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("entry", mostly_slow(ENTRIES, ["aligned", "across", "measure_error", "verify", "suggest"]))
@pytest.mark.parametrize("name", mostly_slow(WRONG, ["smaller", "larger", "complex", "finer floats"]))
def test_no_entry_takes_what_a_source_does_not_declare(
    right: Any, tmp_path: Path, kind: str, entry: str, name: str
) -> None:
    with pytest.raises(UndeclaredValuesError, match=r"for the region \[.*but declares shape .* and dtype float32"):
        ENTRIES[entry](SOURCES[kind](WRONG[name]), right, tmp_path)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_wrong_is_named_and_nothing_that_looks_whole_is_left(kind: str, name: str) -> None:
    store = MemoryStore()
    with pytest.raises(UndeclaredValuesError) as caught:
        quantize_to_zarr(SOURCES[kind](WRONG[name]), store, chunks=CHUNKS)
    given_ = np.asanyarray(WRONG[name](VALUES[:10, 20:40]))
    if kind == "dask":  # the first wrong block that comes
        assert f"gave an array of shape {given_.shape} and dtype {given_.dtype} for the region [" in str(caught.value)
        assert "declares shape (10, 20) and dtype float32" in str(caught.value)
        assert "block (" in str(caught.value)
    with pytest.raises((StoreError, FileNotFoundError)):  # the run before it began, or an unfinished one
        open_int4(store)


def test_blocks_whose_wrong_lengths_add_up_to_the_right_one() -> None:
    def blocks(block: np.ndarray, block_id: Any) -> np.ndarray:
        return [block[:5], np.concatenate([block, block[:5]])][block_id[0] % 2]

    lazy = dask.array.from_array(VALUES, chunks=CHUNKS).map_blocks(blocks, dtype="f4", meta=np.empty((0, 0), "f4"))
    for chunks in (CHUNKS, SHAPE, (5, 20), (20, 60)):
        with pytest.raises(UndeclaredValuesError, match=r"shape \((5|15), 20\).*declares shape \(10, 20\)"):
            quantize_to_zarr(lazy, MemoryStore(), chunks=chunks)


def test_a_block_that_is_cut_is_looked_at_whole() -> None:
    lazy = declaring(WRONG["larger"])[:, :30]
    with pytest.raises(UndeclaredValuesError):
        quantize_to_zarr(lazy[:, 20:], MemoryStore())


def test_an_array_of_dask_in_memory_has_the_shape_that_it_declares() -> None:
    with pytest.raises(ValueError, match=r"values has shape .* once it is computed, but declares shape \(40, 60\)"):
        quantize_to_int4(declaring(WRONG["smaller"], chunks=(10, 60)))
    unknown = dask.array.from_array(VALUES[:, 0], chunks=10)
    found = quantize_to_int4(unknown[unknown > 300])
    np.testing.assert_array_equal(found.quantized, quantize_to_int4(VALUES[:, 0][VALUES[:, 0] > 300]).quantized)


def test_a_shape_that_dask_itself_gets_wrong() -> None:
    cube = dask.array.from_array(np.zeros((4, 6, 3), "f4"), chunks=(2, 3, 3))
    plane = dask.array.from_array(np.zeros((4, 6), "f4"), chunks=(2, 3))
    lazy = dask.array.map_blocks(lambda c, p: p, cube, plane[..., None], drop_axis=[2], chunks=(2, 3), dtype="f4")
    with pytest.raises(UndeclaredValuesError, match=r"shape \(2, 3, 1\)"):
        quantize_to_zarr(lazy, MemoryStore())


@pytest.mark.parametrize(
    ("declared", "blocks", "given_"),
    [
        ("i4", lambda b: b + 0.5, "float64"),
        ("u1", lambda b: b.astype("i8") + 2399, "int64"),
        ("i2", lambda b: b.astype("i4"), "int32"),
        ("i2", lambda b: b.astype("u2"), "uint16"),
        ("f4", lambda b: b.astype("i2"), "int16"),
        ("f2", lambda b: b.astype("f4") + 0.01, "float32"),
        (BFLOAT16, lambda b: b.astype("f4") + 0.01, "float32"),
    ],
)
def test_both_dtypes_are_named(declared: Any, blocks: Any, given_: str) -> None:
    for source in SOURCES.values():
        with pytest.raises(UndeclaredValuesError, match=f"dtype {given_} .*dtype {np.dtype(declared)}"):
            quantize_to_zarr(source(blocks, declared), MemoryStore())


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("given_", ["f8", *map(slow, [">f4", ">f8", "f16"])])
def test_floats_that_are_exact_in_the_declared_type(kind: str, given_: str) -> None:
    source = SOURCES[kind](lambda b: b.astype(np.longdouble if given_ == "f16" else given_))
    check(quantize_to_zarr(source, MemoryStore(), chunks=(7, 8)), VALUES)


@given(arrays(FLOATS, special=(np.nan, np.inf, -np.inf, -0.0)), st.sampled_from(FLOATS))
def test_a_float_of_another_type_passes_if_it_is_exact(values: np.ndarray, dtype: np.dtype[Any]) -> None:
    with np.errstate(all="ignore"):
        plain = values.astype(values.dtype.newbyteorder("=")).astype("f8")
        there = plain.astype(dtype)
        exact = np.array_equal(plain, there.astype("f8"), equal_nan=True)
    region = tuple(slice(5, 5 + n) for n in values.shape)
    if exact:
        found = accepted(values, region, "array", dtype)
        np.testing.assert_array_equal(found.astype("f8"), there.astype("f8"))
        assert found.dtype.newbyteorder("=") == dtype
        assert (np.signbit(found) == np.signbit(there))[~np.isnan(plain)].all()
    else:
        with pytest.raises(UndeclaredValuesError, match=f"dtype {dtype}: .* at index"):
            accepted(values, region, "array", dtype)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_as_declared_is_not_copied(dtype: np.dtype[Any], layout: Any) -> None:
    values = layout(np.arange(24).reshape(4, 6).astype(dtype))
    region = tuple(slice(0, n) for n in values.shape)
    found = accepted(values, region, "array", dtype)
    assert np.shares_memory(found, values)
    assert type(found) is np.ndarray


def test_values_that_are_not_aligned() -> None:
    values = np.frombuffer(b"?" + VALUES.tobytes(), np.float32, offset=1).reshape(SHAPE)
    assert not values.flags.aligned
    assert accepted(values, WHOLE, "array", np.dtype("f4")).flags.aligned
    check(quantize_to_zarr(values, MemoryStore()), VALUES)


def test_the_index_of_a_value_that_is_not_exact() -> None:
    values = np.zeros((600, 600))
    values[599, 300] = 0.1
    with pytest.raises(UndeclaredValuesError, match=r"0.1 at index \(609, 320\) is no float32"):
        accepted(values, (slice(10, 610), slice(20, 620)), "array", np.dtype("f4"))


def test_where_the_blocks_of_dask_lie() -> None:
    for lengths in [(4, 4, 3), (4, 4, 4), (3,), (1, 9, 3), (0, 4), (4, 0, 4), (4, 0), (2, 3, 3), (0,)]:
        starts = starts_of(lengths)
        edges = np.cumsum([0, *lengths])
        for number in range(len(lengths)):
            assert part_of(starts, number) == slice(edges[number], edges[number + 1])


def test_dask_arrays_with_empty_blocks() -> None:
    check(quantize_to_zarr(dask.array.from_array(VALUES, chunks=((0, 10, 0, 30), (60,))), MemoryStore()), VALUES)


def test_a_format_cannot_go_by_another_way() -> None:
    with pytest.raises(TypeError, match="Own defines read, by which values are checked: define load instead"):

        class Own(Source):
            def read(self, region: Any) -> Any:
                return None

    class Lying(Source):
        def load(self, region: Any) -> Any:
            return VALUES[:3]

    class Lies(Format):
        def open_sources(self, thing: Any) -> Any:
            return {"": Lying("lies", SHAPE, "f4")}

    with pytest.raises(UndeclaredValuesError, match=r"lies gave an array of shape \(3, 60\)"):
        quantize_to_zarr(Lies().open_sources(None)[""], MemoryStore())


def every_wrong_one(folder: Path) -> int:
    """All that is wrong through all entries; how many errors there were."""
    store = quantize_to_zarr(VALUES, RIGHT, chunks=CHUNKS)
    errors = 0
    for make in SOURCES.values():
        for blocks in WRONG.values():
            for entry in ENTRIES.values():
                try:
                    entry(make(blocks), store, folder)
                except UndeclaredValuesError:
                    errors += 1
    check(store, VALUES)
    return errors


@pytest.mark.slow
def test_no_memory_is_touched_that_is_another_s(tmp_path: Path) -> None:
    """What is allocated anew or freed is filled with other bytes, and Python's own blocks have guards around them."""
    code = f"import pathlib, test_gate; print(test_gate.every_wrong_one(pathlib.Path({str(tmp_path)!r})))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    guards = {"MALLOC_PERTURB_": "165", "PYTHONMALLOC": "debug"}
    result = subprocess.run([sys.executable, "-c", code], env=environment | guards, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(SOURCES) * len(WRONG) * len(ENTRIES)


# Masks ----------------------------------------------------------------------------------------------------------------

HIDDEN = VALUES > 300
MASKED = np.ma.masked_array(np.where(HIDDEN, np.float32(1e20), VALUES), HIDDEN)
KEPT = np.where(HIDDEN, np.float32(np.nan), VALUES)
COUNT, FIRST = int(HIDDEN.sum()), tuple(int(i) for i in np.argwhere(HIDDEN)[0])


def masked_blocks(block: np.ndarray) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.masked_array(np.where(block > 300, 1e20, block), block > 300)


MASKED_SOURCES: dict[str, Callable[[], Any]] = {
    "in memory": lambda: MASKED,
    "reversed": lambda: MASKED[::-1].copy()[::-1],
    "dask": lambda: dask.array.from_array(MASKED, chunks=CHUNKS, asarray=False),
    "dask.ma": lambda: dask.array.ma.masked_greater(dask.array.from_array(VALUES, chunks=CHUNKS), 300),
    "dask without a sign of it": lambda: dask.array.from_array(VALUES, chunks=CHUNKS).map_blocks(
        masked_blocks, dtype="f4", meta=np.empty((0, 0), "f4")
    ),
    "duck": lambda: Duck(masked_blocks),
    "zeros under the mask": lambda: np.ma.masked_array(np.where(HIDDEN, np.float32(0), VALUES), HIDDEN),
}


@pytest.mark.parametrize("job", mostly_slow([{}, {"chunks": (7, 8)}, {"scale_method": "mse"}], [{"chunks": (7, 8)}]))
@pytest.mark.parametrize("name", mostly_slow(MASKED_SOURCES, [*MASKED_SOURCES][::2]))
def test_masked_values_are_missing_values(name: str, job: dict[str, Any]) -> None:
    store = MemoryStore()
    with pytest.raises(RefusedValuesError, match=rf"the data hold {COUNT:,} NaN") as caught:
        quantize_to_zarr(MASKED_SOURCES[name](), store, **job)
    assert f"at index {FIRST}" in str(caught.value)
    assert memory_keys(store) == set()
    array = quantize_to_zarr(MASKED_SOURCES[name](), store, nan_policy="propagate", **job)
    if "scale_method" not in job:
        check(array, KEPT, nan_policy="propagate")
    np.testing.assert_array_equal(np.isnan(array[...]), HIDDEN)
    figures = measure_error(MASKED_SOURCES[name](), array)
    assert (figures.missing, figures.mismatched, figures.count) == (COUNT, 0, VALUES.size - COUNT)
    assert verify(store, source=MASKED_SOURCES[name]()).ok


@pytest.mark.parametrize("name", MASKED_SOURCES)
def test_suggestions_leave_masked_values_out(name: str) -> None:
    assert suggest(MASKED_SOURCES[name]()).to_json() == suggest(KEPT).to_json()


def test_masked_arrays_in_memory() -> None:
    with pytest.raises(RefusedValuesError, match=rf"values has {COUNT:,} masked entries, the first at index") as caught:
        quantize_to_int4(MASKED)
    assert str(FIRST) in str(caught.value)
    for axis in (None, 0):
        found = quantize_to_int4(MASKED, nan_policy="propagate", axis=axis)
        expected = quantize_to_int4(KEPT, nan_policy="propagate", axis=axis)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert (found.quantized == -8)[HIDDEN].all()
    lazy = MASKED_SOURCES["dask"]()
    np.testing.assert_array_equal(quantize_to_int4(lazy, nan_policy="propagate").quantized == -8, HIDDEN)
    assert measure_error(lazy, KEPT).missing == COUNT
    figures = measure_error(MASKED, np.ma.masked_array(KEPT + 1, HIDDEN))
    assert (figures.missing, figures.mismatched, figures.max_error) == (COUNT, 0, pytest.approx(1, rel=1e-4))
    assert measure_error(MASKED, VALUES).mismatched == COUNT


@given(data=st.data(), dtype=st.sampled_from(INTEGERS))
def test_masked_integers_in_memory_are_as_missing_ones(data: st.DataObject, dtype: np.dtype[Any]) -> None:
    info = np.iinfo(dtype)
    numbers = st.integers(max(int(info.min), -(2**24)), min(int(info.max), 2**24))
    values = data.draw(hnp.arrays(dtype, (4, 5), elements=numbers))
    mask = data.draw(hnp.arrays(bool, (4, 5)))
    found = quantize_to_int4(np.ma.masked_array(values, mask), nan_policy="propagate")
    expected = quantize_to_int4(np.where(mask, np.nan, values.astype("f8")), nan_policy="propagate")
    assert (found.scale, found.zero_point) == (expected.scale, expected.zero_point)
    np.testing.assert_array_equal(found.quantized == -8, mask)
    assert np.abs(found.quantized.astype(int) - expected.quantized).max() <= 1  # ties in float32


WHOLE_NUMBERS = VALUES.astype("i2")


def integer_blocks(block: np.ndarray) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.masked_array(block, block > 300)


def masked_integers(**options: Any) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.masked_array(np.where(HIDDEN, np.int16(5), WHOLE_NUMBERS), HIDDEN, **options)


@pytest.mark.parametrize("lazy", [False, True])
def test_masked_integers_become_the_fill_value_of_the_mask(lazy: bool) -> None:
    masked = masked_integers(fill_value=-9999)
    source = dask.array.from_array(masked, chunks=CHUNKS, asarray=False) if lazy else masked
    assert as_source(source).missing == -9999
    with pytest.raises(RefusedValuesError, match=rf"{COUNT:,} missing \(the declared value -9999\)") as caught:
        quantize_to_zarr(source, MemoryStore(), chunks=(7, 8))
    assert f"at index {FIRST}" in str(caught.value)
    array = quantize_to_zarr(source, MemoryStore(), nan_policy="propagate", chunks=(7, 8))
    np.testing.assert_array_equal(array[...] == -9999, HIDDEN)
    assert array.missing == -9999
    assert measure_error(source, array).mismatched == 0
    found = suggest(source)
    assert any("is missing" in note for note in found.notes)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_number_that_masked_integers_would_become_and_another_value_is(lazy: bool) -> None:
    there = int(WHOLE_NUMBERS[~HIDDEN][0])
    masked = masked_integers(fill_value=there)
    source = dask.array.from_array(masked, chunks=CHUNKS, asarray=False) if lazy else masked
    with pytest.raises(RefusedValuesError, match=rf"holds {there} at index .* not masked.* pass missing="):
        quantize_to_zarr(source, MemoryStore(), nan_policy="propagate")
    store = MemoryStore()
    array = quantize_to_zarr(source, store, nan_policy="propagate", missing=-1)
    np.testing.assert_array_equal(array[...] == -1, HIDDEN)
    assert measure_error(source, array).mismatched == 0
    assert verify(store, source=source).ok


@pytest.mark.parametrize("missing", ["declared", None])
@pytest.mark.parametrize(
    "make",
    [
        masked_integers,  # whose fill value, 999999, no int16 is
        lambda: dask.array.from_array(masked_integers(), chunks=CHUNKS, asarray=False),
        lambda: declaring(integer_blocks, "i2"),
        lambda: Duck(integer_blocks, "i2"),
    ],
)
def test_masked_integers_without_a_number_to_become(make: Callable[[], Any], missing: Any) -> None:
    with pytest.raises(RefusedValuesError, match=r"masked values in the region .* no missing value .* pass missing="):
        quantize_to_zarr(make(), MemoryStore(), nan_policy="propagate", missing=missing)
    with pytest.raises(RefusedValuesError, match=r"pass missing="):
        suggest(make(), missing=missing)
    array = quantize_to_zarr(make(), MemoryStore(), nan_policy="propagate", missing=-1)
    assert (array[...] == -1).any()
    assert measure_error(make(), array).mismatched == 0


def test_masked_integers_where_the_job_has_another_missing_value() -> None:
    array = quantize_to_zarr(masked_integers(fill_value=-9999), MemoryStore(), missing=-1, nan_policy="propagate")
    np.testing.assert_array_equal(array[...] == -1, HIDDEN)
    with pytest.raises(RefusedValuesError, match="pass missing="):
        quantize_to_zarr(masked_integers(fill_value=-9999), MemoryStore(), missing=None)


def test_a_masked_array_in_which_nothing_is_masked() -> None:
    for values in (VALUES, WHOLE_NUMBERS):
        plain = np.ma.masked_array(values, fill_value=values[0, 0])
        check(quantize_to_zarr(plain, MemoryStore()), values)
        check(quantize_to_zarr(np.ma.masked_array(values, np.zeros(SHAPE, bool)), MemoryStore()), values)
        check(quantize_to_zarr(dask.array.from_array(values, chunks=7), MemoryStore()), values)
