"""One bit flipped in any stored byte, or a file cut at any length: `verify` finds it, and reading never gives a number.

Read over are only the metadata of the group and of the scales of an axis or of blocks, which reading does not look at:
then the numbers are right.
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from marks import slow
from stores import field
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from quantize import StoreError, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.runtime import schedulers
from quantize.runtime.schedulers import Task
from quantize.store import keys as files_of_stores

VALUES = field((5, 7))
HOLES = np.where(VALUES > 30, np.nan, VALUES)
# Names and numbers that a flipped bit may leave as they are: an escape, exponents, and last digits that round alike.
ATTRIBUTES = {
    "é": "ü\x1f",
    "tiny": 1e-07,
    "large": 1e16,
    "sum": 0.1 + 0.2,
    "nine": 9.000000000000002,
    "list": [None, {}],
}
JOBS: dict[str, dict[str, Any]] = {
    "plain": {"chunks": (2, 4), "compressors": None},
    "zstd": {"chunks": (3, 6)},
    "gzip": {"compressors": "gzip"},
    "blosc": {"chunks": (5, 4), "compressors": "blosc"},
    "sharded": {"chunks": (2, 2), "shards": (4, 4)},
    "axis": {"chunks": (2, 4), "axis": 0, "compressors": None},
    "axis, sharded": {"chunks": (4, 4), "shards": (8, 4), "axis": 1, "nan_policy": "propagate"},
    "blocks": {"chunks": (5, 4), "blocks": (1, 4), "compressors": None},
    "blocks, sharded": {"chunks": (2, 4), "shards": (6, 8), "blocks": (2, 4), "nan_policy": "propagate"},
}
OF_SCALES = ("data_scale", "data_zero_point", "data/.int4/scale", "data/.int4/zero_point")
LENIENT = ("zarr.json", *(f"{name}/zarr.json" for name in OF_SCALES))


def made(job: dict[str, Any]) -> MemoryStore:
    values = HOLES if "nan_policy" in job else VALUES
    source = zarr.create_array(MemoryStore(), data=values, attributes=ATTRIBUTES, dimension_names=["ö", "x"])
    store = MemoryStore()
    quantize_to_zarr(source, store, **job)
    return store


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that waits for nothing, as those of a `MemoryStore`: an event loop would take longer."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def in_turn(work: Callable[..., Any], tasks: Iterable[Task], done: Callable[..., None], *_: Any) -> None:
    """As `run_tasks`, in this thread: to begin others would take longer than the tasks."""
    for task in tasks:
        done(task, work(*task.arguments))


def flips(data: bytes, step: int) -> Iterator[bytes]:
    """The data with one bit flipped: each in turn, or one of every so many bytes."""
    for at in range(0, len(data), step):
        for bit in range(8) if step == 1 else [5 if data[at] in b"eE" else (3 * at + 1) % 8]:
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    """The data cut at every length."""
    for length in range(len(data)):
        yield data[:length]


def check_that_damage_is_found(store: MemoryStore, key: str) -> None:
    try:
        found = verify(store, "data", workers=1)
    except StoreError:
        assert key == "data/zarr.json"
    else:
        assert not found.ok
        assert any(place.startswith(key) for place, _ in found.damaged)
    if key not in LENIENT:
        with pytest.raises(StoreError):
            open_int4(store, "data")[...]


@pytest.mark.parametrize(
    ("job", "step"),
    [
        *(slow(job, 1) for job in ("plain", "zstd", "gzip", "blosc", "blocks")),
        *(slow(job, step) for job in JOBS for step in (2, 3)),
        ("blocks, sharded", 24),
    ],
)
def test_no_flip_and_no_cut_passes(job: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of every so many bytes, of what is short of more of them, or every bit."""
    monkeypatch.setattr(files_of_stores, "sync", at_once)
    monkeypatch.setattr(schedulers, "run_tasks", in_turn)
    store = made(JOBS[job])
    sound = open_int4(store)[...]
    assert verify(store).ok
    make = default_buffer_prototype().buffer.from_bytes
    cases = 0
    for key, kept in dict(store._store_dict).items():
        data = kept.to_bytes()
        own = step if key.endswith(".json") else min(step, max(3, step // 3))
        for changed in (*flips(data, own), *list(cuts(data))[:: 1 if own == 1 else 5 * own]):
            store._store_dict[key] = make(changed)
            try:
                check_that_damage_is_found(store, key)
            except BaseException as error:
                at = next((i for i, (a, b) in enumerate(zip(data, changed, strict=False)) if a != b), len(changed))
                error.add_note(f"{key}, byte {at}: {data[max(at - 20, 0) : at + 20]!r} -> {changed[at : at + 1]!r}")
                raise
            cases += 1
        if key in LENIENT:
            np.testing.assert_array_equal(open_int4(store, "data")[...], sound)
        store._store_dict[key] = kept
    print(f"{cases:,} of {cases:,} found")
    assert cases > (2000 if step == 1 else 1800 // step)
    assert verify(store).ok
