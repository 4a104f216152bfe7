"""A store held to its checksums and to its source."""

from typing import Any

import numpy as np
import pytest
from stores import JOBS, field, interrupted
from zarr.storage import MemoryStore

from quantize import UnfinishedStoreError, open_int4, quantize_to_zarr, verify

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
