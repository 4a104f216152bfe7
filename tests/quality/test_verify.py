"""A store held to its checksums and to its source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import JOBS, field, interrupted
from zarr.storage import MemoryStore

from quantize import UnfinishedStoreError, open_int4, quantize_to_zarr, verify
from quantize.quality.verify import NAMED_DAMAGE

VALUES = field((17, 9, 7))


@pytest.mark.parametrize("job", JOBS, ids=str)
@pytest.mark.parametrize("options", [{}, {"value_range": (-20, 20)}, {"nan_policy": "propagate"}], ids=str)
def test_verify_holds_a_store_to_its_source(job: dict[str, Any], options: dict[str, Any]) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, **job, **options)
    found = verify(store, source=VALUES, workers=2)
    assert (found.ok, found.compared, found.damaged, found.differing) == (True, True, (), ())
    assert not verify(store).compared
    array = open_int4(store)
    other = VALUES.copy()
    other[11, 4, 2] = -other[11, 4, 2] + 40
    differing = verify(store, source=other).differing
    number = next(n for n, _ in array._reader.grid.touched((slice(11, 12), slice(4, 5), slice(2, 3))))
    assert differing == (array._reader.place(number),)


@pytest.mark.parametrize("other", [VALUES[:-1], VALUES.astype("f8")])
def test_verify_against_something_else_is_refused(other: np.ndarray) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store)
    with pytest.raises(ValueError, match="has shape"):
        verify(store, source=other)


def test_an_unfinished_store_is_refused() -> None:
    store = MemoryStore()
    interrupted(VALUES, store)
    with pytest.raises(UnfinishedStoreError):
        verify(store)


def test_progress() -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, 4, 4))
    events: list[Any] = []
    verify(store, workers=2, progress=events.append)
    assert [(event.phase, event.done) for event in events] == [("verify", n) for n in range(4 * 3 * 2 + 1)]
    assert events[-1].nbytes == VALUES.nbytes


def test_more_damage_in_shards_than_is_named_is_counted(tmp_path: Path) -> None:
    most = NAMED_DAMAGE * 3 // 4 * 2
    quantize_to_zarr(np.zeros((2 * most, 2), np.float32), tmp_path, chunks=(1, 2), shards=(most, 2))
    for shard in ("0/0", "1/0"):
        path = tmp_path / "data/c" / shard
        data = np.fromfile(path, np.uint8)
        data[: -16 * most - 4] ^= 255  # all but the index
        data.tofile(path)
    found = verify(tmp_path)
    assert (found.chunks, found.whole, len(found.damaged)) == (2 * most, 0, NAMED_DAMAGE + 1)
    assert found.damaged[-1] == ("data/c", f"{2 * most - NAMED_DAMAGE:,} more are missing or damaged")
