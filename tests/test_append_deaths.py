"""Appends that die at any write, are held up, or meet others: the array is what it was, or what it was to become."""

import functools
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import combined, mostly_slow
from stores import Counting, Died, DyingStore, field, files
from zarr.storage import MemoryStore

from quantize import Int4Array, StoreError, append_to_zarr, discard_append, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.growth import JOURNAL

JOURNAL_KEY = f"data/{JOURNAL}"
VALUES = field((7, 8))
OTHERS = field((3, 8), seed=1)
JOBS: dict[str, tuple[int, int, dict[str, Any]]] = {  # the axis along which, the length at first, and how it is stored
    "one scale": (0, 3, {"chunks": (2, 8)}),
    "axis": (0, 5, {"chunks": (2, 4), "axis": 0}),
    "axis, mse": (0, 4, {"chunks": (2, 4), "axis": 0, "scale_method": "mse"}),
    "blocks": (0, 5, {"chunks": (4, 4), "blocks": (2, 2)}),
    "shards": (0, 5, {"chunks": (2, 4), "shards": (4, 8), "blocks": (1, 4)}),
    "packed": (1, 5, {"chunks": (7, 4), "blocks": (1, 2)}),
    "packed, one scale": (1, 5, {"chunks": (4, 4), "value_range": (-50, 80)}),
    "other axis": (1, 6, {"chunks": (4, 4), "axis": 0}),
}
QUICK = [("axis", True)]


def parts(job: str) -> tuple[np.ndarray, np.ndarray]:
    axis, first, _ = JOBS[job]
    before, after = np.split(VALUES, [first], axis)
    return before, after


def other(job: str) -> np.ndarray:
    return OTHERS if JOBS[job][0] == 0 else field((7, 3), seed=1)


def begun(folder: Path, job: str) -> Int4Array:
    return quantize_to_zarr(parts(job)[0], folder, **JOBS[job][2], workers=1)


def append(store: Any, job: str, **options: Any) -> Int4Array:
    return append_to_zarr(parts(job)[1], store, axis=JOBS[job][0], outside="saturate", workers=1, **options)


def without_ids(found: dict[str, bytes]) -> dict[str, Any]:
    """Files, of which the metadata are without what is drawn at random."""
    document = json.loads(found["data/zarr.json"])
    document["attributes"]["int4"].pop("checksum")
    for key in ("id", "run"):
        document["attributes"]["int4"]["fingerprint"].get("appended", {}).pop(key, None)
    return {**found, "data/zarr.json": document}


@pytest.mark.parametrize(("job", "torn"), combined(QUICK, JOBS, [False, True]))
def test_an_append_may_die_at_each_write(tmp_path: Path, job: str, torn: bool) -> None:
    before = begun(tmp_path / "old", job)[...]
    old = files(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    after = append(tmp_path / "new", job)[...]
    whole = without_ids(files(tmp_path / "new"))
    for at in range(100):
        place = tmp_path / "z"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "old", place)
        opened = open_int4(place)
        opened[...]
        store = DyingStore(place, at, torn)
        try:
            append(store, job)
        except Died:
            pass
        else:
            break
        now = open_int4(place)
        committed = now.shape == after.shape
        assert now[...].tobytes() == (after if committed else before).tobytes()
        assert opened[...].tobytes() == before.tobytes()
        assert verify(place).ok
        assert verify(place, source=VALUES if committed else parts(job)[0]).ok
        given_up = tmp_path / "given up"
        shutil.rmtree(given_up, ignore_errors=True)
        shutil.copytree(place, given_up)
        under_way = (place / JOURNAL_KEY).exists() and not committed
        if under_way:
            with pytest.raises(StoreError, match=r"under way or was killed.*discard"):
                append_to_zarr(other(job), place, axis=JOBS[job][0])
        assert discard_append(given_up) == under_way
        assert committed or {key for key in files(given_up) if not key.endswith(".partial")} == set(old)
        assert not under_way or files(given_up) == old
        assert opened[...].tobytes() == before.tobytes()
        if committed and not (place / JOURNAL_KEY).exists():
            continue  # nothing shows that the call had not come to its end
        assert append(place, job)[...].tobytes() == after.tobytes()
        assert without_ids(files(place)) == whole
        assert opened.refresh()[...].tobytes() == after.tobytes()
    assert at > 4


# Held up, and side by side -------------------------------------------------------------------------------------------


class Meanwhile:
    """Values at whose n-th read something happens."""

    def __init__(self, values: np.ndarray, at: str, happens: Callable[[], Any]) -> None:
        self.values, self.shape, self.dtype, self.left, self.happens = values, values.shape, values.dtype, at, happens

    def __getitem__(self, index: Any) -> np.ndarray:
        self.left -= 1
        if self.left == 0:
            self.happens()
        return self.values[index]


@functools.cache
def reads(job: str) -> int:
    """How often an append reads its source."""
    source, store = Counting(parts(job)[1]), MemoryStore()
    quantize_to_zarr(parts(job)[0], store, **JOBS[job][2], workers=1)
    append_to_zarr(source, store, axis=JOBS[job][0], outside="saturate", workers=1)
    return len(source.read)


READS = ["first", "last"]  # of the values themselves, after those of the ends


def held_up(store: Any, job: str, at: str, happens: Callable[[], Any]) -> Int4Array:
    source = Meanwhile(parts(job)[1], 3 if at == "first" else reads(job), happens)
    found = append_to_zarr(source, store, axis=JOBS[job][0], outside="saturate", workers=1)
    assert source.left <= 0
    return found


@pytest.mark.parametrize("at", READS)
@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis"]))
def test_an_append_that_was_discarded_while_it_was_held_up_changes_no_byte(tmp_path: Path, job: str, at: str) -> None:
    begun(tmp_path, job)
    old = files(tmp_path)
    with pytest.raises(StoreError, match="taken over while something was appended"):
        held_up(tmp_path, job, at, lambda: discard_append(tmp_path))
    assert files(tmp_path) == old


@pytest.mark.parametrize("at", READS)
@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis"]))
def test_an_append_that_was_held_up_while_another_came_does_it_no_harm(tmp_path: Path, job: str, at: str) -> None:
    before, axis = begun(tmp_path, job)[...], JOBS[job][0]

    def another() -> None:
        discard_append(tmp_path)
        append_to_zarr(other(job), tmp_path, axis=axis, outside="saturate", workers=1)

    with pytest.raises(StoreError, match="taken over while something was appended"):
        held_up(tmp_path, job, at, another)
    assert verify(tmp_path, source=np.concatenate([parts(job)[0], other(job)], axis)).ok
    whole = open_int4(tmp_path)[...]
    assert np.split(whole, [before.shape[axis]], axis)[0].tobytes() == before.tobytes()


@pytest.mark.parametrize("at", READS)
@pytest.mark.parametrize("job", mostly_slow(JOBS, ["packed"]))
def test_the_same_append_while_one_is_held_up_is_one_append(tmp_path: Path, job: str, at: str) -> None:
    begun(tmp_path / "a", job)
    begun(tmp_path / "b", job)
    append(tmp_path / "a", job)
    second = held_up(tmp_path / "b", job, at, lambda: append(tmp_path / "b", job))
    assert second.shape == VALUES.shape
    assert without_ids(files(tmp_path / "b")) == without_ids(files(tmp_path / "a"))


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis"]))
def test_two_appends_of_one_job_side_by_side_are_one(tmp_path: Path, job: str) -> None:
    begun(tmp_path / "a", job)
    append(tmp_path / "a", job)
    for _ in range(3):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        begun(tmp_path / "b", job)
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(append, tmp_path / "b", job) for _ in range(4)]
            found = [future.exception() for future in futures]
        for error in filter(None, found):  # begun once the others had ended
            assert isinstance(error, StoreError)
            assert "what was appended" in str(error)
        assert None in found
        assert without_ids(files(tmp_path / "b")) == without_ids(files(tmp_path / "a"))


def test_of_two_appends_of_other_data_side_by_side_one_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, "axis")
    old = open_int4(tmp_path)[...]

    def another() -> None:
        with pytest.raises(StoreError, match=r"an append of 2 along axis 0, from index 5 on, is under way"):
            append_to_zarr(OTHERS, tmp_path)

    held_up(tmp_path, "axis", "first", another)
    assert open_int4(tmp_path)[:5].tobytes() == old.tobytes()
    assert verify(tmp_path, source=VALUES).ok


@pytest.mark.parametrize("at", READS)
def test_an_append_while_another_overwrites_the_variable_is_refused(tmp_path: Path, at: str) -> None:
    begun(tmp_path / "z", "axis")

    def overwrite(place: Path) -> None:
        quantize_to_zarr(OTHERS, place, chunks=(2, 4), axis=0, workers=1, overwrite=True)

    overwrite(tmp_path / "whole")
    with pytest.raises(StoreError, match="taken over while something was appended"):
        held_up(tmp_path / "z", "axis", at, lambda: overwrite(tmp_path / "z"))
    assert files(tmp_path / "z") == files(tmp_path / "whole")


def stop(store: Any, job: str, at: str = "last") -> None:
    """An append that dies on its way."""

    def die() -> None:
        raise Died

    with pytest.raises(Died):
        held_up(store, job, at, die)


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["shards"]))
def test_overwriting_removes_what_an_append_left(tmp_path: Path, job: str) -> None:
    begun(tmp_path / "z", job)
    stop(tmp_path / "z", job)
    assert (tmp_path / "z" / JOURNAL_KEY).exists()
    for place in ("z", "whole"):
        quantize_to_zarr(OTHERS, tmp_path / place, **JOBS[job][2], workers=1, overwrite=True)
    assert files(tmp_path / "z") == files(tmp_path / "whole")


def test_metadata_that_are_older_than_another_append_leave_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the array and the journal there may come another append from its beginning to its end."""
    from quantize.runtime import appending

    begun(tmp_path, "axis")
    begin = appending.begin
    held: list[Any] = [lambda: append_to_zarr(OTHERS, tmp_path, workers=1)]

    def late(*arguments: Any) -> Any:
        if held:
            held.pop()()
        return begin(*arguments)

    monkeypatch.setattr(appending, "begin", late)
    with pytest.raises(StoreError, match="by another process meanwhile"):
        append(tmp_path, "axis")
    assert not (tmp_path / JOURNAL_KEY).exists()
    assert append(tmp_path, "axis").shape == (10, 8)


# What is damaged -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis"]))
def test_a_damaged_journal_is_named_and_discarded(tmp_path: Path, job: str) -> None:
    begun(tmp_path, job)
    old = files(tmp_path)
    stop(tmp_path, job)
    path = tmp_path / JOURNAL_KEY
    path.write_bytes(path.read_bytes()[:-20])
    assert [key for key, _ in verify(tmp_path).damaged] == [JOURNAL_KEY]
    with pytest.raises(StoreError, match=r"is damaged.*discard it"):
        append(tmp_path, job)
    assert discard_append(tmp_path)
    assert files(tmp_path) == old
    assert not discard_append(tmp_path)


def test_a_discard_that_died_goes_on(tmp_path: Path) -> None:
    begun(tmp_path / "old", "shards")
    old = files(tmp_path / "old")
    for at in range(100):
        place = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", place)
        stop(place, "shards")
        try:
            discard_append(DyingStore(place, at, torn=bool(at % 2)))
        except Died:
            assert verify(place, source=parts("shards")[0]).ok
            if (place / JOURNAL_KEY).exists():
                with pytest.raises(StoreError, match="discard"):
                    append_to_zarr(other("shards"), place)
            discard_append(place)
        else:
            break
        assert {key for key in files(place) if not key.endswith(".partial")} == set(old)
    assert at > 2
    assert files(place) == old
