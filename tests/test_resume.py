"""A stop costs what was in flight and no more, overwriting touches its own alone, and a changed source is noticed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import Counting, Died, DyingStore, check, field, files

from quantize import SourceChangedError, StoreError, UnfinishedStoreError, open_int4, plan, quantize_to_zarr
from quantize.runtime.progress import Progress

VALUES = field((40, 30))
JOB: dict[str, Any] = {"chunks": (4, 10), "workers": 1}  # 30 units, each a batch


class Stopped(Exception):
    pass


def stop_at(source: Any, store: Any, phase: str, done: int, **options: Any) -> None:
    def progress(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == (phase, done):
            raise Stopped

    with pytest.raises(Stopped):
        quantize_to_zarr(source, store, **{**JOB, **options}, progress=progress)


def skipped(source: Any, store: Any, **options: Any) -> dict[str, int]:
    """Run to the end; how many units each pass found done."""
    events: list[Any] = []
    quantize_to_zarr(source, store, **{**JOB, **options}, progress=events.append)
    return {event.phase: event.skipped for event in events if isinstance(event, Progress)}


# What is read again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [slow(1), 3])
@pytest.mark.parametrize(
    ("phase", "at", "options"),
    [
        slow("scan", 20, {}),
        slow("scan", 60, {"scale_method": "mse"}),
        slow("write", 200, {}),
        ("write", 500, {"axis": 1, "chunks": (1, 2)}),
        slow("write", 500, {"blocks": (1, 2)}),
    ],
    ids=str,
)
def test_a_death_costs_at_most_the_batches_in_flight(
    tmp_path: Path, phase: str, at: int, options: dict[str, Any], workers: int
) -> None:
    values = field((600, 4))
    job = {"chunks": (1, 4), "workers": workers, "missing": None, **options}  # None: no look, whose reads would count
    batch, units, passes = (getattr(plan(values, tmp_path, **job), name) for name in ("batch", "units", "passes"))
    assert batch > 5 or passes == 1
    source = Counting(values)
    with pytest.raises(Died):
        quantize_to_zarr(source, DyingStore(tmp_path, at, torn=True), **job)
    status = zarr.open_array(tmp_path, path="data", mode="r").attrs["int4"]["status"]
    assert status == {"scan": "scanning", "write": "writing"}[phase]
    quantize_to_zarr(source, tmp_path, **job)
    samples = 2 * 2  # the ends of the source, which tell it from others
    looks = 2 * ("blocks" in job)  # for zeros that mean something
    again = len(source.read) - samples - looks - passes * units
    assert 0 <= again <= workers * batch


# Overwriting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [True, slow(False)])
@pytest.mark.parametrize(("phase", "done"), [("scan", 11), ("write", 12)])
@pytest.mark.parametrize("old", [{}, {"scale_method": "absmax"}], ids=["same job", "another"])
def test_overwriting_that_was_stopped_goes_on(
    tmp_path: Path, old: dict[str, Any], phase: str, done: int, overwrite: bool
) -> None:
    quantize_to_zarr(VALUES, tmp_path, **{**JOB, **old})
    stop_at(VALUES, tmp_path, phase, done, overwrite=True)
    assert skipped(VALUES, tmp_path, overwrite=overwrite)[phase] >= done
    check(open_int4(tmp_path), VALUES)


SMALL = field((8, 12))
JOBS: list[dict[str, Any]] = [
    {"chunks": (4, 4)},
    {"chunks": (4, 12), "value_range": (-50, 50)},
    {"chunks": (4, 4), "scale_method": "mse"},
    {"chunks": (4, 4), "axis": 0},
    {"chunks": (4, 12), "axis": 0, "scale_method": "mse"},
    {"chunks": (4, 4), "blocks": (2, 4)},
    {"chunks": (2, 4), "shards": (4, 8), "blocks": (1, 4), "scale_method": "mse"},
]
FILES = ["notes.txt", "data.txt", "data/notes.txt", "data_scan/thesis.txt", "data_scale/c/0", "other/c/0/0"]
ARRAYS = ["dat", "data2", "data-scan", "data_scan", "data_histogram", "data_scale", "data_zero_point", "data_scan_scan"]
VARIABLES = ["Data", "data.bak", "data_scan2", "data (max)", "data=scale"]


def place(folder: Path, things: list[str]) -> None:
    """Put what is not ours into a group, where its place is free."""
    for name in things:
        path = folder / name
        if name in FILES and not path.exists() and not (folder / name.partition("/")[0] / "zarr.json").exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("ten years of work")
        elif name in ARRAYS and not path.exists():
            zarr.open_group(folder).create_array(name, data=np.arange(6.0))
        elif name in VARIABLES:
            quantize_to_zarr(SMALL, folder, name=name, axis=0, chunks=(4, 4))


@given(
    st.lists(st.sampled_from([*FILES, *ARRAYS, *VARIABLES]), max_size=4, unique=True),
    st.sampled_from(JOBS),
    st.sampled_from(JOBS),
    st.none() | st.integers(0, 25),
    st.booleans(),
)
def test_overwriting_touches_nothing_that_is_not_its_own(
    tmp_path_factory: pytest.TempPathFactory,
    things: list[str],
    old: dict[str, Any],
    new: dict[str, Any],
    death: int | None,
    torn: bool,
) -> None:
    folder = tmp_path_factory.mktemp("group")
    quantize_to_zarr(SMALL, folder / "fresh", workers=1, **new)
    fresh = files(folder / "fresh")
    store = folder / "z"
    quantize_to_zarr(SMALL + 1, store, workers=1, **old)
    own = set(files(store))
    place(store, things)
    before = files(store)
    foreign = {name: data for name, data in before.items() if name not in own}
    try:
        if death is not None:
            quantize_to_zarr(SMALL, DyingStore(store, death, torn), workers=1, overwrite=True, **new)
        quantize_to_zarr(SMALL, store, workers=1, overwrite=True, **new)
    except Died:
        quantize_to_zarr(SMALL, store, workers=1, overwrite=True, **new)
    except StoreError as refused:
        assert "holds files that do not belong to data" in str(refused)  # noqa: PT017
        assert files(store) == before
        return
    assert files(store) == fresh | foreign


# A source that changes -----------------------------------------------------------------------------------------------

INSIDE = field((300, 40))  # the ends that tell one source from another are the first and the last 102 rows
PARTS: dict[str, Any] = {
    "chunks": (15, 20),
    "workers": 1,
}  # 40 units; 14 to 25 are between the ends


def changed(number: int) -> np.ndarray:
    """The values, one of those of a unit changed."""
    values = INSIDE.copy()
    values[15 * (number // 2) + 4, 20 * (number % 2) + 9] = 1000
    return values


def key(number: int) -> str:
    return f"data/c/{number // 2}/{number % 2}"


def stopped(store: Path, phase: str, done: bool) -> int:
    """Stop a run in a pass; a unit between the ends that it has done, or has not."""
    stop_at(INSIDE, store, phase, 34 if done else 6, **PARTS)
    names = {number: key(number) if phase == "write" else f"data_scan/c/{number}" for number in range(14, 26)}
    return next(number for number, name in names.items() if (store / name).exists() == done)


@pytest.mark.parametrize(("phase", "done"), [("scan", True), ("write", False)])
def test_a_part_that_changed_since_its_scan_stops_the_run_that_goes_on(tmp_path: Path, phase: str, done: bool) -> None:
    number = stopped(tmp_path, phase, done)
    with pytest.raises(SourceChangedError, match=f"the part for {key(number)} held .* and holds .*1000.0.*overwrite"):
        quantize_to_zarr(changed(number), tmp_path, **PARTS)
    assert not (tmp_path / key(number)).exists()
    with pytest.raises(UnfinishedStoreError):
        open_int4(tmp_path)
    with pytest.raises(StoreError, match="its source changed while it was read"):
        quantize_to_zarr(changed(number), tmp_path, **PARTS)
    check(quantize_to_zarr(changed(number), tmp_path, **PARTS, overwrite=True), changed(number))


def test_a_part_that_changed_before_its_scan_is_taken_as_it_is(tmp_path: Path) -> None:
    values = changed(stopped(tmp_path, "scan", done=False))
    check(quantize_to_zarr(values, tmp_path, **PARTS), values)


def test_a_part_that_changed_after_its_codes_were_written_is_kept_as_it_was(tmp_path: Path) -> None:
    values = changed(stopped(tmp_path, "write", done=True))
    check(quantize_to_zarr(values, tmp_path, **PARTS), INSIDE)


@pytest.mark.parametrize(("phase", "done"), [("scan", 25), ("write", 10)])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (INSIDE[:-1], r"shape was \[300, 40\] and is \[299, 40\]"),
        (INSIDE.T, r"shape was \[300, 40\] and is \[40, 300\]"),
        (INSIDE.astype(np.float64), "dtype was float32 and is float64"),
        (INSIDE.astype(np.int16), "dtype was float32 and is int16"),
        (changed(0), "the values of the source"),
        (changed(39), "the values of the source"),
    ],
    ids=["shorter", "turned", "float64", "int16", "first values", "last values"],
)
def test_another_source_is_refused_before_a_resume(
    tmp_path: Path, source: np.ndarray, message: str, phase: str, done: int
) -> None:
    stop_at(INSIDE, tmp_path, phase, done, **PARTS)
    before = files(tmp_path)
    with pytest.raises(StoreError, match=f"unfinished, of another job: .*{message}.*overwrite=True"):
        quantize_to_zarr(source, tmp_path, **PARTS)
    assert files(tmp_path) == before
    check(quantize_to_zarr(INSIDE, tmp_path, **PARTS), INSIDE)


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True], ids=["changed", "cut"])
def test_a_file_that_changes_between_the_passes_stops_a_cluster(
    client: distributed.Client, tmp_path: Path, cut: bool
) -> None:
    np.save(tmp_path / "x.npy", INSIDE)

    def change(event: Any) -> None:
        if isinstance(event, Progress) and (event.phase, event.done) == ("write", 0):
            if cut:
                os.truncate(tmp_path / "x.npy", INSIDE.nbytes // 2)
            else:
                np.lib.format.open_memmap(tmp_path / "x.npy", "r+")[150, 13] = 1000

    message = "ended at byte .* it was longer when this run began" if cut else "the part for data/c/10/0 held"
    with pytest.raises(SourceChangedError, match=message):
        quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", chunks=(15, 20), progress=change)
    with pytest.raises(UnfinishedStoreError):
        open_int4(tmp_path / "z")
    with pytest.raises((StoreError, ValueError), match=r"its source changed while it was read|no whole \.npy file"):
        quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", chunks=(15, 20))
