"""A look before the run: warned is of what nobody wants, once, and healthy data cost and say nothing."""

import itertools
import warnings
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from marks import mostly_slow
from zarr.storage import MemoryStore

from quantize import plan, quantize_part, quantize_to_zarr, suggest
from quantize.exceptions import QuantizeWarning
from quantize.io import as_source
from quantize.runtime.look import LOOK_VALUES, look_at

FIELD = np.random.default_rng(0).normal(280, 5, (40, 60)).astype(np.float32)


def filled(value: float, dtype: Any = np.float32, rows: int = 3) -> np.ndarray:
    values = FIELD.astype(dtype)
    values[:rows] = value
    return values


def said(values: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize_to_zarr(values, MemoryStore(), **options)
    assert all(issubclass(one.category, QuantizeWarning) for one in caught)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (9.969209968386869e36, "f4"),
        (9.969209968386869e36, "f8"),
        (1e20, "f4"),
        (-9999, "f8"),
        (-999, "f4"),
        (-9999, "i4"),
        (-32768, "i2"),
        (32767, "i2"),
        (-32767, "i2"),
        (65535, "u2"),
        (float(np.finfo(np.float32).min), "f4"),
    ],
)
@pytest.mark.parametrize("kind", mostly_slow(["array", "zarr", "dask"], ["array"]))
def test_a_filler_far_from_the_rest(value: float, dtype: str, kind: str) -> None:
    values = filled(value, dtype)
    source: Any = values
    if kind == "zarr":
        source = zarr.create_array(MemoryStore(), data=values, chunks=(10, 60))
    elif kind == "dask":
        source = dask.array.from_array(values, chunks=(10, 60))
    (text,) = said(source)
    assert "usual filler" in text
    assert "\n" not in text
    number = text.split("pass missing=")[1].split()[0]
    assert np.dtype(dtype).type(float(number)) == np.dtype(dtype).type(value)
    assert said(source, missing=None) == []
    assert said(source, missing=float(number), nan_policy="propagate") == []
    assert said(source, value_range=(260, 300)) == []


def test_a_filler_of_packed_numbers_is_named_as_it_is_stored() -> None:
    numbers = filled(0, "i2")
    numbers[:3] = -32767
    packed = zarr.create_array(MemoryStore(), data=numbers, attributes={"scale_factor": 0.01, "add_offset": 100.0})
    (text,) = said(packed)
    assert "pass missing=-32767 " in text
    assert said(packed, missing=-32767, nan_policy="propagate") == []


def test_one_code_for_nearly_all_values() -> None:
    values = FIELD.copy()
    values[0, 0] = 123456
    (text,) = said(values)
    assert "99.9 % of the values" in text
    assert "get one code, -8," in text


def test_a_range_of_far_more_steps_than_the_bulk() -> None:
    values = FIELD.astype(np.float64)
    values[0] = 1e12
    (text,) = said(values)
    assert "range from 2" in text
    assert "nine in ten lie from 27" in text


HEALTHY = {
    "field": FIELD,
    "float16": FIELD.astype(np.float16),
    "counts": np.random.default_rng(1).poisson(3, (40, 60)).astype(np.int64),
    "a mask": (FIELD > 280).astype(np.uint8) * 255,
    "an image": np.random.default_rng(2).integers(0, 256, (40, 60)).astype(np.uint8),
    "constant": np.full((40, 60), -9999.0),
    "two values": np.where(FIELD > 280, -9999.0, 1.0),
    "sparse": np.where(FIELD > 290, FIELD, 0),
    "tails": np.random.default_rng(3).standard_t(4, (40, 60)),
    "fillers among others": np.linspace(-20000, 20000, 2400).round().reshape(40, 60),
    "small": np.array([1.0, 2.0, -9999.0]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_healthy_data(name: str) -> None:
    assert said(HEALTHY[name]) == []


def test_a_plan_reads_nothing_and_warns_of_nothing() -> None:
    plan(filled(-9999), MemoryStore())


def test_suggest_warns_and_a_part_does() -> None:
    with pytest.warns(QuantizeWarning, match="-9999"):
        suggest(filled(-9999))
    with pytest.warns(QuantizeWarning, match="-9999"):
        quantize_part(filled(-9999), MemoryStore(), 1, 2, chunks=(20, 60))


def test_strict_stops_before_anything_is_made() -> None:
    store = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("error", QuantizeWarning)
        with pytest.raises(QuantizeWarning, match="-9999"):
            quantize_to_zarr(filled(-9999), store)
    assert store._store_dict == {}


def test_a_look_reads_little() -> None:
    read = itertools.count()

    class Slow:
        shape, dtype = (4000, 3000), np.dtype("f4")

        def __getitem__(self, region: Any) -> np.ndarray:
            lengths = tuple(part.stop - part.start for part in region)
            for _ in range(int(np.prod(lengths))):
                next(read)
            return np.zeros(lengths, np.float32)

    seen = look_at(as_source(Slow()), None)
    assert seen is not None
    assert seen.before() is None
    assert next(read) <= 2 * LOOK_VALUES


def test_of_large_chunks_one_is_read() -> None:
    array = zarr.create_array(MemoryStore(), shape=(4000, 3000), dtype="f4", chunks=(1000, 3000), fill_value=1.5)
    source: Any = as_source(array)
    fetched = []
    before = source.fetch
    source.fetch = lambda region, out: (fetched.append(region), before(region, out))
    seen = look_at(source, None)
    assert seen is not None
    assert seen.before() is None
    assert len(fetched) == 1
