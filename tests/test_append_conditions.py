"""Appends to stores without locks, where writes by conditions keep them apart: obstore's memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import obstore
import pytest
from marks import mostly_slow
from obstore.store import MemoryStore as InMemory
from test_append_deaths import JOBS, JOURNAL_KEY, READS, Meanwhile, other, parts, reads, without_ids
from zarr.storage import ObjectStore

from quantize import Int4Array, StoreError, append_to_zarr, discard_append, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.keys import Keys


def begun(job: str) -> ObjectStore[InMemory]:
    store = ObjectStore(InMemory())
    quantize_to_zarr(parts(job)[0], store, **JOBS[job][2], workers=1)
    return store


def objects(store: ObjectStore[InMemory]) -> dict[str, bytes]:
    found = [item["path"] for batch in obstore.list(store.store) for item in batch]
    return {key: bytes(obstore.get(store.store, key).bytes()) for key in found}


def append(store: Any, job: str, values: np.ndarray | None = None) -> Int4Array:
    values = parts(job)[1] if values is None else values
    return append_to_zarr(values, store, axis=JOBS[job][0], outside="saturate", workers=1)


def held_up(store: Any, job: str, at: str, happens: Callable[[], Any]) -> Int4Array:
    return append(store, job, Meanwhile(parts(job)[1], 3 if at == "first" else reads(job), happens))  # type: ignore[arg-type]


def test_the_store_takes_conditions() -> None:
    assert Keys(begun("axis")).conditional


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["shards"]))
def test_what_is_appended_is_what_a_folder_would_hold(job: str) -> None:
    store, anew = begun(job), begun(job)
    whole = append(store, job)[...]
    held_up(anew, job, "last", lambda: append(anew, job))  # two of one job side by side
    assert open_int4(anew)[...].tobytes() == whole.tobytes()
    assert without_ids(objects(anew)) == without_ids(objects(store))
    assert verify(store, source=np.concatenate(parts(job), JOBS[job][0])).ok


@pytest.mark.parametrize("at", READS)
@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis", "packed"]))
def test_of_two_appends_that_both_think_they_are_alone_one_commits(job: str, at: str) -> None:
    """The journal of the first is given up while it is held up, and the second comes to its end."""
    store = begun(job)
    before = objects(store)

    def another() -> None:
        assert discard_append(store)
        assert objects(store) == before
        append(store, job, other(job))

    with pytest.raises(StoreError, match="taken over while something was appended"):
        held_up(store, job, at, another)
    assert verify(store, source=np.concatenate([parts(job)[0], other(job)], JOBS[job][0])).ok
    assert JOURNAL_KEY not in objects(store)
    alone = begun(job)
    append(alone, job, other(job))
    left = {key for key in objects(store) if key not in objects(alone)}
    assert not left, "nothing of the one that was held up"


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["axis"]))
def test_no_commit_replaces_another(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """The other comes between the last look and the write, where no lock keeps it away."""
    store, replace_key = begun(job), Keys.replace
    told: list[str] = []

    def late(keys: Keys, key: str, data: bytes, tag: Any) -> Any:
        if key == "data/zarr.json" and not told:
            told.append(key)
            discard_append(store)
            append(store, job, other(job))
        return replace_key(keys, key, data, tag)

    monkeypatch.setattr(Keys, "replace", late)
    with pytest.raises(StoreError, match="by another process while this was appended to it"):
        append(store, job)
    assert open_int4(store).shape[JOBS[job][0]] == parts(job)[0].shape[JOBS[job][0]] + 3
    assert verify(store, source=np.concatenate([parts(job)[0], other(job)], JOBS[job][0])).ok


def test_of_two_that_begin_at_once_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store, set_new = begun("axis"), Keys.set_new

    def late(keys: Keys, key: str, data: bytes) -> bool:
        if key == JOURNAL_KEY and not told:
            told.append(key)
            with pytest.raises(ZeroDivisionError):
                held_up(store, "axis", "first", lambda: 1 // 0)
        return set_new(keys, key, data)

    told: list[str] = []
    monkeypatch.setattr(Keys, "set_new", late)
    with pytest.raises(StoreError, match="an append of 2 along axis 0, from index 5 on, is under way"):
        append(store, "axis", other("axis"))
    append(store, "axis")
    assert verify(store, source=np.concatenate(parts("axis"))).ok
