"""Datasets that become longer: all variables together, by one document, whatever happens to the run that does it."""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import obstore
import obstore.store
import pytest
import xarray
from collections_of_arrays import Tree
from marks import mostly_slow, slow
from stores import Died, DyingStore, Held, HeldUp, WatchedStore, field, files
from zarr.storage import LocalStore, MemoryStore, ObjectStore

from quantize import (
    StoreError,
    append_to_zarr,
    discard_append,
    measure_error,
    open_int4,
    quantize_dataset,
    restore,
    verify,
    write_report,
)
from quantize.io.raw import RawArray
from quantize.reading.dataset import Int4Dataset
from quantize.store.keys import Keys
from quantize.store.manifest import sealed_manifest


class Days(Tree):
    """Arrays whose axes are days but for those of 3, 4 and 8; each is kept in chunks of at most four an axis."""

    def opened_raw(self, array: np.ndarray) -> RawArray:
        found = super().opened_raw(array)
        return RawArray("array", found.shape, found.dtype, found.load, {"units": "m"}, self.names(array), found.chunks)

    def opened(self, array: np.ndarray) -> Any:
        source = super().opened(array)
        source.dimension_names = self.names(array)
        return source

    def names(self, array: np.ndarray) -> tuple[str, ...]:
        return tuple(f"d{n}" if n in (3, 4, 8) else "day" for n in array.shape)


def days(start: int, stop: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same, from one day to another: quantized in several ways, kept in several, and without days."""
    parts = slice(start, stop)
    holes = field((11, 4), seed=3)
    holes[3, 2] = holes[7, 1] = np.nan
    return {
        "blocks": field((8, 11), seed=1)[:, parts] + seed,
        "ocean/holes": holes[parts],
        "ocean/one scale": np.clip(field((11, 8, 4), seed=4), -50, 70)[parts],
        "still": field((8, 8), seed=5),
        "ids": np.arange(11)[parts],
        "ocean/text": np.array([f"é{n}" * n for n in range(11)], object)[parts],
        "ocean/table": np.arange(44).reshape(4, 11)[:, parts],
        "lat": np.linspace(-1, 1, 8),
        "point": np.array(2.5),
        "mask": np.arange(12).reshape(3, 4) % 2 == 0,
    }


JOB: dict[str, Any] = {
    "workers": 1,
    "select": ["blocks", "ocean/holes", "ocean/one scale", "still"],
    "rules": {
        "blocks": {"blocks": (2, 1), "chunks": (4, 2)},
        "ocean/holes": {"axis": 0, "chunks": (3, 4)},
        "ocean/one scale": {"value_range": (-50, 70), "chunks": (4, 8, 4)},
        "still": {"blocks": (1, 4), "chunks": (4, 8)},
    },
}
FIRST, REST = (0, 5), (5, 11)


def begin(store: Any, *ends: int, **options: Any) -> Int4Dataset:
    return quantize_dataset(Days(days(*ends)), store, **{**JOB, **options})


def append(store: Any, *ends: int, **options: Any) -> Int4Dataset:
    found: Int4Dataset = append_to_zarr(Days(days(*ends)), store, axis="day", workers=1, **options)
    return found


def values_of(dataset: Int4Dataset) -> dict[str, np.ndarray]:
    return {name: dataset[name][...] for name in dataset}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert (values.shape, values.dtype) == (other[name].shape, other[name].dtype), name
        np.testing.assert_array_equal(values, other[name], name)


def same_but_ids(one: bytes, other: bytes) -> bool:
    """Whether two files are the same but for what is drawn by lot, and for checksums over that."""
    return re.sub(rb"[0-9a-f]{32,}", b"", one) == re.sub(rb"[0-9a-f]{32,}", b"", other)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A collection of five days, and what it reads."""
    place = tmp_path_factory.mktemp("first") / "x"
    return place, values_of(begin(place, *FIRST))


@pytest.fixture(scope="module")
def grown(
    first: tuple[Path, dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The files of it after an append that nothing disturbs, and what it reads then."""
    place = tmp_path_factory.mktemp("grown") / "x"
    shutil.copytree(first[0], place)
    old = open_int4(place)
    found = append(place, *REST)
    assert_same(values_of(found), values_of(open_int4(place)))
    assert_same(values_of(old), first[1])  # who opened it before reads on
    assert_same(values_of(old.refresh()), values_of(found))
    return files(place), values_of(found)


def test_it_holds_what_one_run_over_all_holds(
    tmp_path: Path, grown: tuple[dict[str, bytes], dict[str, np.ndarray]]
) -> None:
    """But for the documents, and the chunks of what had fewer values than a chunk at first."""
    whole = begin(tmp_path / "x", 0, 11)
    assert_same(grown[1], values_of(whole))
    ours, one_run = grown[0], files(tmp_path / "x")
    for name in ("ocean/holes", "ocean/one=20scale", "ocean/text", "ocean/table", "ids", "lat", "still"):
        chunks = {key for key in one_run if key.startswith(f"{name}/c/")}
        assert chunks == {key for key in ours if key.startswith(f"{name}/c/")} != set(), name
        assert all(ours[key] == one_run[key] for key in chunks), name


@pytest.mark.parametrize(("torn", "step"), [(True, 47), slow(False, 2), slow(True, 1)])
def test_a_death_at_any_change_leaves_what_was_there_or_what_will_be(
    tmp_path: Path,
    first: tuple[Path, dict[str, np.ndarray]],
    grown: tuple[dict[str, bytes], dict[str, np.ndarray]],
    torn: bool,
    step: int,
) -> None:
    """The same call goes on, another is refused, and until the last document is there it can be discarded."""
    before, place = files(first[0]), tmp_path / "z"
    committed = []
    for at in range(0, 400, step):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(first[0], place)
        reader = open_int4(place)
        alone = {name: open_int4(place, name) for name in reader.quantized}
        try:
            append(DyingStore(place, at, torn), *REST)
        except Died:
            now = open_int4(place)
            found = values_of(now)
            assert_same({name: open_int4(place, name)[...] for name in now}, found)
            assert_same({name: alone[name].refresh()[...] for name in alone}, {name: found[name] for name in alone})
            assert verify(place).ok, f"change {at}"
            assert_same(values_of(reader), first[1])
            if len(found["ids"]) == 5:
                assert_same(found, first[1])
                shutil.copytree(place, tmp_path / "d")
                under_way = (place / ".int4/append.json").exists()
                if under_way:
                    with pytest.raises(StoreError, match=r"an append of 6 along the dimension 'day', from index 5 on"):
                        append(place, 0, 5)
                assert discard_append(tmp_path / "d") == under_way
                left = files(tmp_path / "d")
                assert {key: left[key] for key in left if not key.endswith(".partial")} == before, f"change {at}"
                assert_same(values_of(now), first[1])
                shutil.rmtree(tmp_path / "d")
            else:
                assert_same(found, grown[1])
                committed.append(at)
            with suppress(StoreError):  # where all of it was there, and the journal gone
                append(place, *REST)
            done = files(place)
            assert {key for key in done if not key.endswith(".partial")} == grown[0].keys(), f"change {at}"
            assert all(same_but_ids(done[key], grown[0][key]) for key in grown[0]), f"change {at}"
            assert_same(values_of(now.refresh()), grown[1])
        else:
            break
    assert at > 60
    assert step > 1 or len(committed) > 2


# Several at once ------------------------------------------------------------------------------------------------------

PLACES = {
    "the journal": (".int4/append.json", 1),
    "a variable's journal": ("blocks/.int4/append.json", 1),
    "a chunk": ("ocean/one=20scale/c/1/0/0", 1),
    "a kept chunk": ("ids/c/1", 1),
    "a kept document": ("ids/zarr.json", 1),
    "a document": ("ocean/holes/zarr.json", 1),
    "the manifest": ("zarr.json", 1),
}


def held_up(place: str, store: Path, happens: Callable[[], Any]) -> list[Any]:
    """Append, while something else is done before a key is set: what came of both, the append first."""
    threads: list[threading.Thread] = []
    results: list[Any] = [None, None]

    def keep(number: int, call: Callable[[], Any]) -> None:
        try:
            results[number] = call()
        except BaseException as error:
            results[number] = error

    def start() -> None:
        threads.append(threading.Thread(target=keep, args=(1, happens)))
        threads[0].start()
        threads[0].join(0.7)  # it is through, or waits

    keep(0, lambda: append(Held(store, PLACES[place][0], start, PLACES[place][1]), *REST))
    threads[0].join(60)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_another_of_the_same_job_does_all_meanwhile(
    tmp_path: Path,
    first: tuple[Path, dict[str, np.ndarray]],
    grown: tuple[dict[str, bytes], dict[str, np.ndarray]],
    place: str,
) -> None:
    """The days come once."""
    shutil.copytree(first[0], tmp_path / "z")
    results = held_up(place, tmp_path / "z", lambda: append(tmp_path / "z", *REST))
    assert any(isinstance(one, Int4Dataset) for one in results), results
    assert all(isinstance(one, Int4Dataset | StoreError) for one in results), results
    assert_same(values_of(open_int4(tmp_path / "z")), grown[1])
    assert files(tmp_path / "z").keys() == grown[0].keys()


@pytest.mark.parametrize("place", mostly_slow(PLACES, ["the manifest"]))
def test_it_is_discarded_meanwhile(tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]], place: str) -> None:
    """Whoever comes first prevails, and nothing is left of the other."""
    shutil.copytree(first[0], tmp_path / "z")
    results = held_up(place, tmp_path / "z", lambda: discard_append(tmp_path / "z"))
    found = open_int4(tmp_path / "z")
    assert len(found["ids"]) == (11 if isinstance(results[0], Int4Dataset) else 5), results
    if len(found["ids"]) == 5:
        assert isinstance(results[0], StoreError)
        discard_append(tmp_path / "z")
        assert files(tmp_path / "z") == files(first[0])
    assert verify(tmp_path / "z").ok


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_another_job_overwrites_all_meanwhile(
    tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]], place: str
) -> None:
    shutil.copytree(first[0], tmp_path / "z")
    results = held_up(place, tmp_path / "z", lambda: begin(tmp_path / "z", 0, 6, overwrite=True))
    assert isinstance(results[1], Int4Dataset), results
    begin(tmp_path / "whole", 0, 6)
    assert files(tmp_path / "z") == files(tmp_path / "whole")


def test_what_was_overwritten_is_appended_to_anew(tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The journal of an append that died goes with what it was for, though the same job takes its place."""
    shutil.copytree(first[0], tmp_path / "z")
    with pytest.raises(Died):
        append(DyingStore(tmp_path / "z", 30, False), *REST)
    begin(tmp_path / "z", *FIRST, overwrite=True)
    assert files(tmp_path / "z") == files(first[0])
    assert len(append(tmp_path / "z", 5, 6)["ids"]) == 6
    with pytest.raises(StoreError, match="whole, of this job, and 1 along axis 1 of blocks were appended since"):
        begin(tmp_path / "z", *FIRST)


APPEND = """
import sys
from test_appended_datasets import append
for day in range(int(sys.argv[2]), 11):
    append(sys.argv[1], day, day + 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_at_any_moment_while_others_read(tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]]) -> None:
    """A day at a time, by processes that are killed and begun again: readers see whole days alone, and right ones."""
    place, lot = tmp_path / "z", random.Random(5)
    whole = values_of(begin(tmp_path / "whole", 0, 11))
    shutil.copytree(first[0], place)
    reader, seen = open_int4(place), set()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def look() -> int:
        found = values_of(reader.refresh())
        length = len(found["ids"])
        for name, values in found.items():
            axis = next((axis for axis, n in enumerate(whole[name].shape) if n == 11), None)
            right = whole[name] if axis is None else whole[name].take(range(length), axis)
            np.testing.assert_array_equal(values, right, name)
        return length

    while (length := look()) < 11:
        with subprocess.Popen([sys.executable, "-c", APPEND, str(place), str(length)], env=environment) as process:
            end = time.monotonic() + lot.uniform(3, 8)
            while process.poll() is None and time.monotonic() < end:
                seen.add(look())
            process.kill()
        if lot.random() < 0.3:
            discard_append(place)
    assert len(seen) > 2
    assert verify(place, source=Days(days(0, 11))).ok


# On object stores, which have no locks -------------------------------------------------------------------------------


def objects(store: obstore.store.MemoryStore) -> dict[str, bytes]:
    """Every key of a store and what it holds."""
    return {
        item["path"]: bytes(obstore.get(store, item["path"]).bytes()) for some in obstore.list(store) for item in some
    }


@pytest.mark.parametrize(("meanwhile", "step"), [("the same", 59), *(slow(one, 3) for one in ("the same", "another"))])
def test_an_append_held_up_at_any_change_while_another_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch, grown: tuple[dict[str, bytes], dict[str, np.ndarray]], meanwhile: str, step: int
) -> None:
    """What the other made stays as it is."""
    first, whole = obstore.store.MemoryStore(), obstore.store.MemoryStore()
    begin(ObjectStore(first), *FIRST)
    begin(ObjectStore(whole), 0, 6)
    for at in range(0, 200, step):
        store = obstore.store.MemoryStore()
        for key, data in objects(first).items():
            obstore.put(store, key, data)
        with monkeypatch.context() as patching:
            held = HeldUp(patching, ObjectStore(store), at, lambda there: append(there, *REST))
            if held.run.done():
                held.pool.shutdown()
                break
            if meanwhile == "the same":
                append(ObjectStore(store), *REST)
            else:
                begin(ObjectStore(store), 0, 6, overwrite=True)
            held.go.set()
            assert isinstance(held.run.exception(60), StoreError | NoneType)
            held.pool.shutdown()
        if meanwhile == "the same":
            assert_same(values_of(open_int4(ObjectStore(store))), grown[1])
            assert objects(store).keys() == grown[0].keys(), f"change {at}"
        elif not held.deletes:
            assert objects(store) == objects(whole), f"change {at}"
    assert at > 40


# What is refused ------------------------------------------------------------------------------------------------------


def other(**changes: Any) -> dict[str, np.ndarray]:
    found = days(*REST) | {name.replace("_", "/"): values for name, values in changes.items()}
    return {name: values for name, values in found.items() if values is not None}


REFUSED: dict[str, tuple[Any, str]] = {
    "a variable is missing": (Days(other(lat=None)), "tree has no lat, which .*z has"),
    "there is another": (Days(other(more=np.ones(3))), "tree has more, which .*z has not"),
    "what has no days is another": (
        Days(other(lat=np.linspace(-1, 2, 8))),
        r"differs from lat of the collection: at index \(1,\) it is -0.57.*, and there -0.71",
    ),
    "so is what is quantized": (Days(other(still=days(*REST)["still"] + 9)), r"still .*: in \[0:4, 0:8\] its values"),
    "another shape": (Days(other(still=np.ones((9, 8), np.float32))), r"of shape \(9, 8\) and float32"),
    "another dtype": (Days(other(ids=np.arange(6.0))), "of float64, and .*z/ids of int64: convert it"),
    "days are not as many": (Days(other(ids=np.arange(11))), "differ in length along the dimension 'day': .* 6 and"),
    "values beyond a scale that is there": (
        Days(other(ocean_holes=np.full((6, 4), np.inf, np.float32))),
        "infinit",
    ),
    "one array": (np.ones((6, 4), np.float32), "is one array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_that_does_not_fit_is_refused_with_the_difference(
    tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]], case: str
) -> None:
    source, said = REFUSED[case]
    shutil.copytree(first[0], tmp_path / "z")
    with pytest.raises(ValueError, match=said):
        append_to_zarr(source, tmp_path / "z", axis="day", workers=1)
    assert files(tmp_path / "z") == files(first[0])


def test_an_axis_is_one_that_there_is(first: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match=r"axis is 0, and the dimensions .* have names: .* of d3, d4, d8, day"):
        append_to_zarr(Days(days(*REST)), first[0])
    with pytest.raises(ValueError, match="no variable of the collection has the dimension 'x'; there are d3, d4"):
        append_to_zarr(Days(days(*REST)), first[0], axis="x")
    with pytest.raises(StoreError, match="whose variables become longer together: name the collection alone"):
        append_to_zarr(days(*REST)["blocks"], first[0], name="blocks")
    with pytest.raises(StoreError, match="become longer together"):
        discard_append(first[0], "blocks")
    assert not discard_append(first[0])


def test_arrays_without_names_become_longer_along_an_axis_by_its_number() -> None:
    store = MemoryStore()
    rows = field((9, 64, 70), seed=1)
    quantize_dataset({"x": rows[:4], "ids": np.arange(4), "one": np.array(1)}, store, blocks=(1, 1, -1))
    found = append_to_zarr({"x": rows[4:], "ids": np.arange(4, 9), "one": np.array(1)}, store)
    assert found["ids"][:].tolist() == list(range(9))
    assert np.abs(found["x"][...] - rows).max() <= np.max(found["x"].max_error) * (1 + 1e-6)
    with pytest.raises(ValueError, match="no variable of the collection has axis 3"):
        append_to_zarr({"x": rows[4:], "ids": np.arange(4, 9), "one": np.array(1)}, store, axis=3)
    ragged = MemoryStore()
    quantize_dataset({"x": rows, "lat": np.arange(64)}, ragged)
    with pytest.raises(ValueError, match="differ in length along axis 0: x 9 and lat 64"):
        append_to_zarr({"x": rows, "lat": np.arange(64)}, ragged)


def test_what_was_appended_last_is_appended_again_where_that_is_asked_for(
    tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]]
) -> None:
    shutil.copytree(first[0], tmp_path / "z")
    append(tmp_path / "z", 5, 6)
    with pytest.raises(StoreError, match=r"tree is what was appended to .* last, as indices 5 to 5 of the dimension"):
        append(tmp_path / "z", 5, 6)
    assert append(tmp_path / "z", 5, 6, again=True)["ids"][...].tolist() == [0, 1, 2, 3, 4, 5, 5]


# xarray ---------------------------------------------------------------------------------------------------------------


def months() -> list[xarray.Dataset]:
    """Of one dataset, with times, a coordinate beside an axis, flags, and a field that stays."""
    times = np.arange("2001-01-01", "2001-04-01", dtype="M8[D]").astype("M8[ns]")
    rng = np.random.default_rng(0)
    whole = xarray.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.normal(280, 9, (90, 6, 8)).astype(np.float32), {"units": "K"}),
            "rain": (("lat", "time"), rng.normal(280, 9, (60, 90)).astype(np.float32)[:6]),
            "land": (("lat", "lon"), np.arange(48).reshape(6, 8) % 3 == 0),
            "day": (("time",), np.arange(90) % 7),
        },
        {"time": times, "lat": np.linspace(0, 5, 6), "lon": np.arange(8.0), "label": ("time", list("abc") * 30)},
        {"title": "weather"},
    )
    return [part.copy() for _, part in whole.resample(time="MS")]


def as_files(parts: list[xarray.Dataset], folder: Path) -> list[Any]:
    encoding = {"time": {"units": "hours since 1900-01-01"}}
    for number, part in enumerate(parts):
        part.to_netcdf(folder / f"{number}.nc", encoding=encoding)
    return [folder / f"{number}.nc" for number in range(len(parts))]


def as_stores(parts: list[xarray.Dataset], folder: Path) -> list[Any]:
    encoding = {"time": {"units": "hours since 1900-01-01"}}
    for number, part in enumerate(parts):
        part.to_zarr(folder / f"{number}.zarr", encoding=encoding, zarr_format=3, consolidated=False)
    return [folder / f"{number}.zarr" for number in range(len(parts))]


def as_they_are(parts: list[xarray.Dataset], folder: Path) -> list[Any]:
    """Whose times xarray would encode by units of their own."""
    return parts


def of_dask(parts: list[xarray.Dataset], folder: Path) -> list[Any]:
    return [part.chunk(time=10) for part in parts]


@pytest.mark.filterwarnings("ignore:.*Unicode.*:UserWarning", "ignore:.*specification.*:Warning")
@pytest.mark.parametrize("form", [as_files, *map(slow, (as_stores, as_they_are, of_dask))])
def test_months_are_one_dataset_to_xarray(tmp_path: Path, form: Any) -> None:
    """And to verify, restore and whoever looks at it."""
    parts = months()
    sources = form(parts, tmp_path)
    store = tmp_path / "x"
    dataset = quantize_dataset(
        sources[0],
        store,
        select="t2m,rain",
        rules={"t2m": {"blocks": {"lon": 8}}, "rain": {"axis": "time", "chunks": {"time": 10}}},
    )
    for source in sources[1:]:
        grown = append_to_zarr(source, store, axis="time")
    assert dataset["t2m"].shape == (31, 6, 8)
    whole = xarray.concat(parts, "time", data_vars="minimal")
    with xarray.open_dataset(store, engine="int4") as found:
        kept = found.drop_vars(["t2m", "rain"])
        xarray.testing.assert_identical(kept, whole.drop_vars(["t2m", "rain"]))
        for name in ("t2m", "rain"):
            assert found[name].attrs.items() >= whole[name].attrs.items()
            assert float(abs(found[name] - whole[name]).max()) <= np.max(grown[name].max_error) * (1 + 1e-6)
    assert verify(store).ok
    if form in (as_they_are, of_dask):  # of files what is kept is encoded otherwise
        assert verify(store, source=whole).ok
        assert measure_error(whole, store)["t2m"].max_error <= np.max(grown["t2m"].max_error) * (1 + 1e-6)
    if form is of_dask:
        write_report(store, whole, tmp_path / "report.html")
    restore(store, tmp_path / "back.nc")
    with xarray.open_dataset(tmp_path / "back.nc") as back:
        xarray.testing.assert_equal(back["time"], whole["time"])
        np.testing.assert_array_equal(back["t2m"], grown["t2m"][...])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"units": "hours since 1900-01-01"},
            "the units 'hours since 1900-01-01', and .*/time 'days since",
        ),
        ({"calendar": "noleap"}, "the calendar 'noleap', and .*/time 'proleptic_gregorian'"),
    ],
)
def test_times_that_are_counted_otherwise_are_refused(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    said_of_time = {"units": "days since 1900-01-01", "calendar": "proleptic_gregorian"}
    parts = []
    for number, more in enumerate(({}, changed)):
        time = xarray.Variable(("time",), np.arange(3) + 3 * number, said_of_time | more)
        parts.append(xarray.Dataset({"x": (("time", "y"), field((3, 4), seed=number)), "time": time}))
    quantize_dataset(parts[0], tmp_path / "x", select="x", blocks=(1, 4))
    with pytest.raises(ValueError, match=said):
        append_to_zarr(parts[1], tmp_path / "x", axis="time")


def test_an_append_writes_as_many_files_whatever_the_length(tmp_path: Path) -> None:
    """Those of its own days, and of each variable some more."""
    counts = []
    for length in (10, 60):
        rows = field((length + 2, 8, 70), seed=1)
        source = [{"x": rows[a:b], "ids": np.arange(a, b)} for a, b in ((0, length), (length, length + 2))]
        place = tmp_path / str(length)
        quantize_dataset(source[0], place, chunks=(1, 8, 70), blocks=(1, 1, -1), select="x")
        store = WatchedStore(place)
        append_to_zarr(source[1], store)
        counts.append((len(store.put), len(store.got)))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 2 * 3 + 12  # a chunk, scales and zero points for each day


class TornStore(LocalStore):
    """A folder that now and then gives the beginning of a document alone."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.lot, self.torn = random.Random(1), 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        found = await super().get(key, *args, **options)
        if found is None or not key.endswith(".json") or self.lot.random() < 0.5:
            return found
        self.torn += 1
        return found[: self.lot.randrange(len(found))]


def test_readers_of_a_store_that_tears_documents_read_on(
    tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]]
) -> None:
    shutil.copytree(first[0], tmp_path / "z")
    store = TornStore(tmp_path / "z")
    reader = Int4Dataset(Keys.of(store), sealed_manifest(Keys.of(tmp_path / "z")))
    arrays = {name: reader[name] for name in ("ids", "lat")}
    append(tmp_path / "z", *REST)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array[...], first[1][name])
    assert len(reader.refresh()["ids"]) == 11
    assert store.torn > 0


def test_a_damaged_journal_is_named_and_discarded(tmp_path: Path, first: tuple[Path, dict[str, np.ndarray]]) -> None:
    shutil.copytree(first[0], tmp_path / "z")
    with pytest.raises(Died):
        append(DyingStore(tmp_path / "z", 40, False), *REST)
    (tmp_path / "z/.int4/append.json").write_text("{")
    assert [place for place, _ in verify(tmp_path / "z").damaged] == [".int4/append.json"]
    with pytest.raises(StoreError, match=r"append\.json is damaged: .*: discard it, and append again"):
        append(tmp_path / "z", *REST)
    assert discard_append(tmp_path / "z")
    assert files(tmp_path / "z") == files(first[0])
