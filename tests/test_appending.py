"""Values appended to an array: what was there stays bit for bit, the whole is right, and so is what others read of it."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import dask.array
import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import event, given, settings
from hypothesis import strategies as st
from marks import slow
from stores import Counting, DyingStore, field, files
from zarr.storage import LocalStore, MemoryStore

from quantize import (
    Int4Array,
    RefusedValuesError,
    StoreError,
    append_to_zarr,
    discard_append,
    measure_error,
    open_int4,
    quantize_to_zarr,
    restore,
    seal,
)
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress
from quantize.store.growth import JOURNAL, Growth

DTYPES = [np.dtype(name) for name in ("float32", "float64", "float16", "int16", "uint8")]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def stored(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def as_others_read(store: Any, name: str = "data") -> np.ndarray:
    """The values by Zarr's own reader, as docs/format.md says, in float64 before they are rounded."""
    packed = zarr.open_array(store, path=name, mode="r", zarr_format=3)
    int4, scale, zero_point = (packed.attrs[key] for key in ("int4", "scale", "zero_point"))
    assert int4["status"] == "sealed"
    shape = int4["shape"]
    pairs = np.stack([packed[:] << 4, packed[:]], axis=-1).view(np.int8) >> 4
    codes = pairs.reshape(*packed.shape[:-1], -1)[..., : shape[-1]].astype(np.float64)
    inside = name if int4["version"] == 2 else "."
    if isinstance(scale, str):
        paths = (f"{inside}/{path}".removeprefix("./") for path in (scale, zero_point))
        scale, zero_point = (zarr.open_array(store, path=path, mode="r", zarr_format=3)[:] for path in paths)
    if int4["axis"] is not None:
        lengths = [1] * len(shape)
        lengths[int4["axis"]] = -1
        scale, zero_point = scale.reshape(lengths), zero_point.reshape(lengths)
    elif int4.get("blocks"):
        own = np.ix_(*(np.arange(n) // (n if b < 0 else b) for n, b in zip(shape, int4["blocks"], strict=True)))
        scale = 4 * (scale.astype(np.uint64) << 48).view(np.float64)[own]
        zero_point = (zero_point[own] - 128) / 4
    values = (codes - zero_point) * scale
    missing = np.nan if int4["missing"] is None else int4["missing"]
    return np.where(codes == (99 if int4["nan_code"] is None else int4["nan_code"]), missing, values)


def of_values(array: Int4Array, entries: Any) -> np.ndarray:
    """Scales or zero points, as the array has them, of each value."""
    entries = np.asarray(entries)
    if array.blocks is None:
        return np.broadcast_to(entries, array.shape)
    lengths = [n if b < 0 else b for n, b in zip(array.shape, array.blocks, strict=True)]
    return entries[np.ix_(*(np.arange(n) // b for n, b in zip(array.shape, lengths, strict=True)))]


def part_of(values: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return values[tuple(slice(start, stop) if along == axis else slice(None) for along in range(values.ndim))]


def assert_law(array: Int4Array, values: np.ndarray, clipped: np.ndarray) -> None:
    """Hold values to the bound, and those that may be `clipped` to the bound about the nearest end of the range."""
    found = array[...]
    exact, near = values.astype(np.float64), found.astype(np.float64)
    gaps = np.isnan(exact) if array.missing is None else exact == array.missing
    np.testing.assert_array_equal(np.isnan(near) if array.missing is None else near == array.missing, gaps)
    scale, zero_point = of_values(array, array.scale), of_values(array, array.zero_point)
    low, high = array.metadata.codes.lowest - zero_point, 7 - zero_point
    slack = 0.5 if values.dtype.kind in "iu" else np.abs(exact) * float(ml_dtypes.finfo(values.dtype).eps)
    bound = scale / 2 * (1 + 1e-4) + slack
    ranged = np.where(gaps, 0, np.clip(exact, low * scale, high * scale))
    assert (gaps | (np.abs(near - ranged) <= bound)).all()
    assert (gaps | clipped | (np.abs(exact - ranged) <= bound)).all()


@dataclasses.dataclass
class Case:
    """Values, how they are stored, and where along an axis they are cut into several appends."""

    values: np.ndarray
    axis: int
    cuts: list[int]  # the first the length at first, the last all of it
    job: dict[str, Any]

    @property
    def parts(self) -> list[np.ndarray]:
        return [part_of(self.values, self.axis, *ends) for ends in zip(self.cuts, self.cuts[1:], strict=False)]

    @property
    def first(self) -> np.ndarray:
        return part_of(self.values, self.axis, 0, self.cuts[0])


@st.composite
def cases(draw: st.DrawFn, dtypes: list[np.dtype[Any]] = [*DTYPES, BFLOAT16]) -> Case:  # noqa: B006
    ndim = draw(st.integers(1, 3))
    axis = draw(st.integers(0, ndim - 1))
    inner = [draw(st.integers(1, 4)) for _ in range(ndim)]
    inner[-1] = 2 * draw(st.integers(1, 3))
    outer = [n * draw(st.integers(1, 2)) for n in inner] if draw(st.booleans()) else None
    unit = outer or inner
    shape = [draw(st.integers(1, 2 * n + 1)) for n in unit]
    first = draw(st.integers(unit[axis], 2 * unit[axis] + 1))
    cuts = [first]
    for _ in range(draw(st.integers(1, 3))):
        cuts.append(cuts[-1] + draw(st.integers(1, unit[axis] + 2)))
    shape[axis] = cuts[-1]
    kind = draw(st.sampled_from(["one", "axis", "blocks"]))
    job: dict[str, Any] = {"chunks": tuple(inner), "shards": outer and tuple(outer), "workers": 1}
    job["scale_method"] = draw(st.sampled_from(["minmax", "absmax", "mse"]))
    if kind == "axis":
        job["axis"] = draw(st.integers(0, ndim - 1))
    elif kind == "blocks":
        job["blocks"] = tuple(
            draw(st.sampled_from([n for n in range(1, whole + 1) if whole % n == 0])) for whole in inner
        )
    elif draw(st.booleans()):
        job |= {"value_range": (-20.0, 60.0), "scale_method": "minmax"}
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = rng.normal(20, 15, shape).clip(0 if dtype.kind == "u" else -1e3, 250).astype(dtype)
    if draw(st.booleans()):
        job["nan_policy"] = "propagate"
        gaps = rng.random(shape) < 0.1
        if dtype.kind in "iu":
            job["missing"] = 7
            values[gaps] = 7
        else:
            values[gaps] = np.nan
    job["compressors"] = draw(st.sampled_from(["auto", None]))
    return Case(values, axis, cuts, job)


def share_with_old(case: Case, array: Int4Array) -> np.ndarray:
    """Which values were appended into groups that held values: their scales are older than they."""
    length = array.metadata.granularity.length(case.axis)
    along = np.arange(case.cuts[-1])
    start = np.array(
        [max([cut for cut in [0, *case.cuts] if cut <= i]) for i in along]
    )  # of the append that brought it
    old = start > 0 if length is None else (along // length * length < start)
    shape = [1] * case.values.ndim
    shape[case.axis] = -1
    return np.broadcast_to(old.reshape(shape), case.values.shape)


def appended(case: Case, store: Any) -> Int4Array | None:
    """The array after all appends, each of which is checked; None where its chunks can't be continued."""
    array = quantize_to_zarr(case.first, store, **case.job)
    for part in case.parts:
        before, held = array[...], stored(store)
        try:
            new = append_to_zarr(part, store, axis=case.axis, outside="saturate", workers=1)
        except ValueError as error:
            assert "cannot become longer" in str(error) or "would come back as 7" in str(error)
            assert stored(store) == held
            event("refused")
            return None
        whole = new[...]
        assert part_of(whole, case.axis, 0, before.shape[case.axis]).tobytes() == before.tobytes()
        assert array[...].tobytes() == before.tobytes()
        assert array.refresh()[...].tobytes() == whole.tobytes()
        assert array.metadata == new.metadata
    return array


def hold_case(case: Case) -> None:
    store = MemoryStore()
    array = appended(case, store)
    if array is None:
        return
    old = share_with_old(case, array)
    assert array.shape == case.values.shape
    clips = "value_range" in case.job or case.job["scale_method"] == "mse"
    assert_law(array, case.values, old | clips)
    assert verify(store, source=case.values).ok
    others, own = as_others_read(store), array[...].astype(np.float64)
    step = of_values(array, array.scale)
    rounding = 0.5 if array.dtype.kind in "iu" else np.abs(others) * float(ml_dtypes.finfo(array.dtype).eps)
    near = np.abs(own - others) <= step * 1e-6 + rounding
    assert (near | (np.isnan(own) & np.isnan(others))).all()
    anew = MemoryStore()
    run = quantize_to_zarr(case.values, anew, **case.job)
    if not old.any() or "value_range" in case.job:
        mine, its = (stored(one) for one in (store, anew))
        assert {key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key)} == {"data/zarr.json"}
        event("as a run over all")
    if array.metadata.statistics is not None:
        assert array.metadata.statistics == run.metadata.statistics
    growth = Growth.of(array.metadata)
    assert growth is not None
    assert growth.commits == len(case.parts)
    assert not any(JOURNAL in key for key in stored(store))


@given(cases())
@settings(max_examples=12, deadline=None)
def test_what_was_there_stays_and_the_whole_is_right(case: Case) -> None:
    hold_case(case)


@pytest.mark.slow
@given(cases())
@settings(max_examples=400, deadline=None)
def test_what_was_there_stays_and_the_whole_is_right_of_many(case: Case) -> None:
    hold_case(case)
