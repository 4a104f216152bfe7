"""The journal of what is under way, and which metadata continue others."""

from dataclasses import replace

import pytest
from stores import field
from zarr.storage import MemoryStore

from quantize import StoreError, append_to_zarr, quantize_to_zarr
from quantize.store.growth import Growth, Journal, continues, without_growth

JOURNAL = Journal("r", 0, 5, 9, "i", {"source": {"shape": [4, 3]}})


def test_a_journal_is_read_as_it_was_written() -> None:
    for journal in (JOURNAL, replace(JOURNAL, stop=None, discarding=True)):
        assert Journal.from_json(journal.to_json(), "here") == journal


def test_no_journal_that_was_changed_is_read() -> None:
    data = JOURNAL.to_json()
    for length in range(len(data) - 1):
        with pytest.raises(StoreError, match="here is damaged"):
            Journal.from_json(data[:length], "here")
    for old, new in ((b'"start": 5', b'"start": 6'), (b'"r"', b'"s"'), (b'"version": 1', b'"version": 2')):
        assert old in data
        with pytest.raises(StoreError, match=r"here is damaged.*append again"):
            Journal.from_json(data.replace(old, new), "here")


def test_what_has_grown_continues_what_it_was_and_nothing_else() -> None:
    values, store = field((6, 4)), MemoryStore()
    first = quantize_to_zarr(values, store, chunks=(2, 4), value_range=(-90, 90)).metadata
    once = append_to_zarr(values[:3], store).metadata
    twice = append_to_zarr(values[:1], store).metadata
    assert continues(once, first)
    assert continues(twice, once)
    assert continues(twice, first)
    assert not continues(once, twice)
    assert not continues(first, once)
    assert without_growth(twice) == without_growth(first) == first.fingerprint
    other = quantize_to_zarr(values, MemoryStore(), chunks=(2, 4), value_range=(-80, 90)).metadata
    assert not continues(once, other)
    growth = Growth.of(once)
    assert growth is not None
    assert not continues(replace(twice, fingerprint=replace(growth, id="another").beside(first)), once)
