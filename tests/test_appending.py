"""Values appended to an array: what was there stays bit for bit, the whole is right, and others read the same."""

import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dask.array
import distributed
import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import event, given, settings
from hypothesis import strategies as st
from marks import mostly_slow, slow
from stores import Counting, WatchedStore, field, files
from test_durable import noted
from zarr.storage import LocalStore, MemoryStore

from quantize import (
    Int4Array,
    RefusedValuesError,
    StoreError,
    append_to_zarr,
    measure_error,
    open_int4,
    quantize_to_zarr,
    restore,
    seal,
    write_report,
)
from quantize.quality.verify import verify
from quantize.runtime.progress import Progress
from quantize.store.growth import JOURNAL, Growth

DTYPES = [np.dtype(name) for name in ("float32", "float64", "float16", "int16", "uint8")]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def stored(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def as_others_read(store: Any, name: str = "data") -> np.ndarray:
    """The values by Zarr's own reader, as docs/format.md says, floats in float64 before they are rounded."""
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
    if "int" in int4["dtype"]:
        values = np.clip(np.rint(values), np.iinfo(int4["dtype"]).min, np.iinfo(int4["dtype"]).max)
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
    slack = (
        0.5
        if values.dtype.kind in "iu"
        else np.maximum(np.abs(exact), np.abs(near)) * float(ml_dtypes.finfo(values.dtype).eps)
    )
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
            new = append_to_zarr(part, store, axis=case.axis, outside="saturate", again=True, workers=1)
        except ValueError as error:
            assert re.search("cannot become longer|would come back as 7", str(error))  # noqa: PT017
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


@given(cases([np.dtype(np.float32), np.dtype(np.int16)]))
@settings(max_examples=10, deadline=None)
def test_what_was_there_stays_and_the_whole_is_right(case: Case) -> None:
    hold_case(case)


@pytest.mark.slow
@given(cases())
@settings(max_examples=250, deadline=None)
def test_what_was_there_stays_and_the_whole_is_right_of_many(case: Case) -> None:
    hold_case(case)


# What lies outside the range of the scale that is there ---------------------------------------------------------------

BASE = field((6, 8))


class ListingStore(WatchedStore):
    """A folder that notes what is listed, too."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.listed: list[str] = []

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        self.listed.append(prefix)
        async for key in super().list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        self.listed.append(prefix)
        async for key in super().list_dir(prefix):
            yield key


def base(dtype: Any = np.float32, **job: Any) -> tuple[MemoryStore, np.ndarray]:
    """A store with an array of one scale, and its values."""
    store, values = MemoryStore(), (100 + BASE).astype(dtype)
    quantize_to_zarr(values, store, **{"chunks": (2, 8), **job})
    return store, values


@pytest.mark.parametrize("policy", mostly_slow(["raise", "propagate"], ["propagate"]))
@pytest.mark.parametrize(
    "dtype", mostly_slow(["float64", "float32", "float16", BFLOAT16, "int16", "uint8", "int64"], ["float64", "int16"])
)
def test_values_outside_the_range_are_refused_or_counted(dtype: Any, policy: str) -> None:
    whole = {"missing": 77} if np.dtype(dtype).kind in "iu" and policy == "propagate" else {}
    store, values = base(dtype, nan_policy=policy, **whole)
    assert append_to_zarr(values, store).shape == (12, 8)  # the same again lies within
    before, beyond = stored(store), values.copy()
    beyond[3, 2] = beyond[4, 0] = 255 if dtype == "uint8" else 1000
    with pytest.raises(RefusedValuesError, match=r"2 values lie outside .* index \(3, 2\). Nothing was appended"):
        append_to_zarr(beyond, store)
    assert stored(store) == before
    array = append_to_zarr(beyond, store, outside="saturate")
    growth = Growth.of(array.metadata)
    assert growth is not None
    assert growth.saturated == 2
    assert array[15, 2] == array[16, 0] == array[12:].max()
    assert verify(store, source=np.concatenate([values, values, beyond])).ok


def test_more_than_half_a_step_beyond_is_outside() -> None:
    store, values = base(np.float64)
    step = open_int4(store).scale
    for more, outside in ((0.49, 0), (0.51, 1)):
        beyond = values.copy()
        beyond[0, 0] = open_int4(store)[:6].max() + more * step
        growth = Growth.of(append_to_zarr(beyond, store, outside="saturate").metadata)
        assert growth is not None
        assert growth.saturated == outside


def test_a_range_that_was_given_saturates() -> None:
    store, _ = base(value_range=(0, 50))
    array = append_to_zarr(np.full((2, 8), 1e6, np.float32), store)
    assert (array[6:] == array[...].max()).all()
    with pytest.raises(RefusedValuesError, match="16 values lie outside"):
        append_to_zarr(np.full((2, 8), 2e6, np.float32), store, outside="raise")


def test_missing_values_are_appended_where_there_are_some() -> None:
    store, values = base(nan_policy="propagate")
    gaps = values.copy()
    gaps[1, 1] = np.nan
    array = append_to_zarr(gaps, store)
    assert np.isnan(array[...]).sum() == 1
    assert array.metadata.statistics is not None
    assert (array.metadata.statistics["count"], array.metadata.statistics["missing"]) == (95, 1)
    store, _ = base()
    before = stored(store)
    with pytest.raises(RefusedValuesError, match=r"1 NaN.*index \(1, 1\).*Nothing of it was appended"):
        append_to_zarr(gaps, store)
    assert stored(store) == before


def test_a_value_that_would_come_back_as_missing_is_refused() -> None:
    """Of an array without a value the highest level may be what stands for missing ones, as nothing kept it away."""
    store = MemoryStore()
    array = quantize_to_zarr(np.full((2, 2), 7, np.int16), store, nan_policy="propagate", missing=7, chunks=(1, 2))
    assert (7 - array.zero_point) * array.scale == 7
    before = stored(store)
    with pytest.raises(RefusedValuesError, match=r"the value 200 at index \(1, 0\) would come back as 7, which"):
        append_to_zarr(np.array([[1, 7], [200, 0]], np.int16), store, outside="saturate")
    assert stored(store) == before
    found = append_to_zarr(np.array([[-200, 7], [2, 0]], np.int16), store, outside="saturate")[2:]
    assert found.tolist() == [[-7, 7], [2, 0]]


# What is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BASE[:, :7], r"has shape \(6, 7\).*but for axis 0"),
        (BASE[0], r"has shape \(8,\)"),
        (BASE.astype(np.float64), "is of float64.*of float32: convert it"),
    ],
    ids=["shape", "axes", "dtype"],
)
def test_what_does_not_fit_is_refused(values: np.ndarray, message: str) -> None:
    store, _ = base()
    before = stored(store)
    with pytest.raises(ValueError, match=message):
        append_to_zarr(values, store)
    assert stored(store) == before


def test_the_same_call_again_is_refused_and_done_if_asked_for() -> None:
    store, values = base()
    append_to_zarr(values, store)
    with pytest.raises(StoreError, match=r"appended to .* last, as indices 6 to 11 of axis 0.*again=True"):
        append_to_zarr(values, store)
    assert append_to_zarr(values, store, again=True).shape == (18, 8)
    assert append_to_zarr(values[:2], store).shape == (20, 8)
    assert append_to_zarr(values, store).shape == (26, 8)  # another came between


def test_the_first_job_says_that_something_was_appended() -> None:
    store, values = base()
    append_to_zarr(values[:2], store)
    append_to_zarr(values[:3], store)
    with pytest.raises(StoreError, match="of this job, and 5 along axis 0 were appended since"):
        quantize_to_zarr(values, store, chunks=(2, 8))
    with pytest.raises(StoreError, match=r"of another job: axis was None and is 0\. Pass"):
        quantize_to_zarr(values, store, chunks=(2, 8), axis=0)
    assert quantize_to_zarr(values, store, chunks=(2, 8), overwrite=True).shape == (6, 8)


@pytest.mark.parametrize(
    ("values", "axis", "job", "message"),
    [
        (BASE, 1, {"chunks": (6, 8), "shards": (6, 8)}, None),
        (BASE[:, :7], 1, {"chunks": (6, 7)}, None),  # there is room for one more in the last byte
        (BASE[:5], 0, {"chunks": (5, 8), "blocks": (2, 8)}, "end within blocks of 2 x 8"),
        (BASE[:, :7], 1, {"chunks": (2, 7), "shards": (2, 7)}, "end at an odd index of the last axis"),
    ],
)
def test_chunks_behind_which_none_can_begin_are_refused(
    values: np.ndarray, axis: int, job: dict[str, Any], message: str | None
) -> None:
    store = MemoryStore()
    before = quantize_to_zarr(values, store, **job)[...]
    held = stored(store)
    if message is None:
        whole = append_to_zarr(values, store, axis=axis, outside="saturate")[...]
        assert part_of(whole, axis, 0, values.shape[axis]).tobytes() == before.tobytes()
        assert whole.shape[axis] == 2 * values.shape[axis]
        return
    with pytest.raises(ValueError, match=f"cannot become longer along axis {axis}: .*{message}"):
        append_to_zarr(values, store, axis=axis)
    assert stored(store) == held


# Sources, memory, and what else reads ---------------------------------------------------------------------------------


def sources(values: np.ndarray, folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", np.asfortranarray(values))
    return {
        "in Fortran order": np.asfortranarray(values),
        "file in Fortran order": folder / "x.npy",
        "dask": dask.array.from_array(values, chunks=(5, 3)),
        "Zarr": zarr.create_array(LocalStore(folder / "x.zarr"), data=values, chunks=(3, 5)),
        "anything": Counting(values),
    }


@pytest.mark.parametrize("job", mostly_slow([{}, {"axis": 0}, {"axis": 1}, {"blocks": (2, 2)}], [{"axis": 0}]), ids=str)
def test_sources_of_all_kinds_come_to_the_same(tmp_path: Path, job: dict[str, Any]) -> None:
    found = []
    for source in (BASE[4:], *sources(BASE[4:], tmp_path).values()):
        store = MemoryStore()
        quantize_to_zarr(BASE[:3], store, chunks=(2, 4), **job)
        append_to_zarr(source, store, outside="saturate")
        assert verify(store, source=np.concatenate([BASE[:3], BASE[4:]])).ok
        found.append({key: data for key, data in stored(store).items() if key != "data/zarr.json"})
    assert all(one == found[0] for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("job", [{}, {"axis": 0}, {"blocks": (2, 2)}], ids=str)
def test_a_cluster_appends_what_threads_do(tmp_path: Path, job: dict[str, Any]) -> None:
    np.save(tmp_path / "x.npy", BASE[3:])
    for place in ("threads", "cluster"):
        quantize_to_zarr(BASE[:3], tmp_path / place, chunks=(2, 4), **job)
    append_to_zarr(tmp_path / "x.npy", tmp_path / "threads", outside="saturate")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        append_to_zarr(tmp_path / "x.npy", tmp_path / "cluster", outside="saturate")
    one, other = files(tmp_path / "threads"), files(tmp_path / "cluster")
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == {"data/zarr.json"}
    assert verify(tmp_path / "cluster", source=BASE).ok


def test_a_plan_comes_first_and_then_progress() -> None:
    store, values = base(chunks=(1, 8))
    events: list[Any] = []
    append_to_zarr(values, store, progress=events.append, workers=1)
    assert [event.done for event in events if isinstance(event, Progress)] == list(range(7))
    assert "goes behind index 5 of axis 0" in str(events[0])
    with pytest.raises(ValueError, match="too small for one task"):
        append_to_zarr(values + 1, store, memory="1KiB")


@pytest.mark.slow
def test_a_grown_array_is_sealed_restored_and_measured_as_any_other(tmp_path: Path) -> None:
    quantize_to_zarr(BASE[:4], tmp_path / "z", chunks=(2, 8))
    array = append_to_zarr(BASE[3:], tmp_path / "z", outside="saturate")
    whole = np.concatenate([BASE[:4], BASE[3:]])
    assert seal(tmp_path / "z").metadata == array.metadata
    restore(tmp_path / "z", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array[...])
    found = measure_error(whole, tmp_path / "z")
    assert found.rmse == pytest.approx(np.sqrt(np.mean((whole.astype(np.float64) - array[...]) ** 2)), rel=1e-6)
    write_report(tmp_path / "z", whole, tmp_path / "r.html")
    assert "Every value of the store was compared" in (tmp_path / "r.html").read_text()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells the names of open files by /proc")
def test_with_durable_the_disk_holds_what_is_new_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_to_zarr(BASE[:3], tmp_path, chunks=(2, 4), axis=0)
    old = files(tmp_path)
    events = noted(monkeypatch, tmp_path)
    append_to_zarr(BASE[3:], tmp_path, workers=1, durable=True)
    commit = max(place for place, event in enumerate(events) if event == ("sync", "data/zarr.json"))
    before = {name for kind, name in events[:commit] if kind == "sync"}
    new = {key for key, data in files(tmp_path).items() if old.get(key) != data} - {"data/zarr.json"}
    folders = {str(parent) for name in new for parent in Path(name).parents}
    assert new | folders <= before
    assert {name for kind, name in events[commit:] if kind == "sync"} == {"data/zarr.json", "data", "."}


# What it costs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [100, slow(1000)])
def test_an_append_writes_and_reads_as_many_objects_however_long_the_array_is(tmp_path: Path, most: int) -> None:
    counts = []
    for units in (10, most):
        folder = tmp_path / str(units)
        values = field((units + 3, 2))
        quantize_to_zarr(values[:units], folder, chunks=(1, 2), blocks=(1, 2))
        store = ListingStore(folder)
        append_to_zarr(values[units:], store, name="data", workers=1)
        counts.append((len(store.put), len(store.got), store.listed))
        assert verify(folder, source=values).ok
    assert counts[0] == counts[1]
    assert counts[0][0] <= 3 * 3 + 6  # a chunk of codes and two of scales a unit; a journal, documents, the commit
    assert counts[0][2] == []
