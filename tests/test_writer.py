"""Data that keep coming: `Int4Writer`, streams as sources, and producers that die."""

import io
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from stores import Died, DyingStore, field, files, memory_keys
from zarr.storage import MemoryStore

from quantize import (
    Int4Writer,
    RefusedValuesError,
    StoreError,
    UndeclaredValuesError,
    UnfinishedStoreError,
    append_to_zarr,
    discard_append,
    open_int4,
    plan,
    quantize_dataset,
    quantize_to_int4,
    quantize_to_zarr,
    seal,
    verify,
)
from quantize.cli import main
from quantize.io.formats.iterables import npy_records
from quantize.reading.summary import summary

VALUES = field((37, 6, 8))
BLOCKS: dict[str, Any] = {"blocks": (4, 1, 1), "chunks": (8, 3, 4)}
COMMITS = [None, 1, 3, "1us"]


def along(values: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return values[(*(slice(None),) * axis, slice(start, stop))]


def endless(shape: tuple[int, ...], axis: int) -> tuple[int | None, ...]:
    return tuple(None if at == axis else n for at, n in enumerate(shape))


def content(store: MemoryStore) -> dict[str, bytes]:
    """All but the metadata of the variable."""
    return {key: store._store_dict[key].to_bytes() for key in memory_keys(store) if key != "data/zarr.json"}


def fed(store: Any, values: np.ndarray, growing: int, lengths: list[int], flushes: list[bool], **options: Any) -> None:
    """Feed a writer batches of these lengths, the rest at last; what it says is committed readers see."""
    with Int4Writer(store, endless(values.shape, growing), values.dtype, **options) as writer:
        at = 0
        for length, flushed in zip(lengths, flushes, strict=True):
            batch = along(values, growing, at, at + length).copy()
            writer.write(batch)
            batch[...] = 0  # as a producer may that uses it again
            at = min(at + length, values.shape[growing])
            if flushed:
                writer.flush()
            assert writer.committed <= at
            if writer.committed:
                assert open_int4(store).shape[growing] == writer.committed
        writer.write(along(values, growing, at, values.shape[growing]))
    assert writer.committed == values.shape[growing]


# As one run over all data ---------------------------------------------------------------------------------------------

LAYOUTS: list[tuple[int, dict[str, Any]]] = [
    (0, BLOCKS),
    (0, {"axis": 0, "chunks": (4, 3, 4)}),
    (0, {"axis": 0, "chunks": (4, -1, -1), "scale_method": "mse"}),
    (0, {"blocks": (2, 1, 2), "chunks": (2, 3, 4), "shards": (4, 6, 8)}),
    (0, {"value_range": (-20, 40), "chunks": (4, 3, 4)}),
    (0, {"value_range": (-20, 40), "axis": 2, "chunks": (4, 3, 4)}),
    (1, {"blocks": 4, "chunks": (2, 4, 8)}),
    (2, {"blocks": 3, "chunks": (2, 3, 6)}),
    (2, {"axis": 2, "chunks": (2, 3, 4)}),
    (2, {"value_range": (-20, 40), "chunks": (2, 3, 4)}),
]


@settings(max_examples=settings.default.max_examples // 2)  # each is several runs
@given(
    st.sampled_from(LAYOUTS),
    st.lists(st.integers(0, 20), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from(COMMITS),
    st.sampled_from([1, 3]),
)
def test_batches_of_any_lengths_give_the_bytes_of_one_run_over_all_data(
    layout: tuple[int, dict[str, Any]], lengths: list[int], flushes: list[bool], every: Any, workers: int
) -> None:
    axis, options = layout
    values = np.moveaxis(VALUES, 0, axis) if axis != 2 else np.ascontiguousarray(VALUES.T)
    streamed, whole = MemoryStore(), MemoryStore()
    fed(streamed, values, axis, lengths, flushes[: len(lengths)], commit_every=every, workers=workers, **options)
    expected = quantize_to_zarr(values, whole, **options)
    found = open_int4(streamed)
    assert found[...].tobytes() == expected[...].tobytes()
    assert (found.shape, found.chunks, found.shards) == (expected.shape, expected.chunks, expected.shards)
    assert verify(streamed).ok
    codes = {key: data for key, data in content(whole).items() if key.startswith("data/c/")}
    assert codes == {key: data for key, data in content(streamed).items() if key.startswith("data/c/")}


@settings(max_examples=settings.default.max_examples // 2)
@given(
    st.sampled_from([{}, {"axis": 1}, {"scale_method": "mse"}, {"axis": 2, "scale_method": "percentile"}]),
    st.integers(1, 40),
    st.lists(st.integers(0, 20), max_size=8),
    st.sampled_from(COMMITS),
)
def test_the_first_values_choose_the_scale_that_all_share(
    options: dict[str, Any], first: int, lengths: list[int], every: Any
) -> None:
    store, another = MemoryStore(), MemoryStore()
    more = {"calibrate": first, "outside": "saturate", "chunks": (4, 3, 4), **options}
    fed(store, VALUES, 0, lengths, [False] * len(lengths), commit_every=every, **more)
    found, calibrated = open_int4(store), quantize_to_int4(VALUES[:first], **options)
    np.testing.assert_array_equal(np.ravel(found.scale), np.ravel(calibrated.scale))
    np.testing.assert_array_equal(np.ravel(found.zero_point), np.ravel(calibrated.zero_point))
    fed(another, VALUES, 0, [], [], **more)
    assert content(another) == content(store)
    statistics = found.metadata.statistics
    assert statistics is not None
    assert (statistics["count"], statistics["min"], statistics["max"]) == (VALUES.size, VALUES.min(), VALUES.max())


def test_missing_values_choose_no_scale() -> None:
    values = np.arange(64, dtype=np.int16).reshape(16, 4)
    values[::3] = -999
    store = MemoryStore()
    options: dict[str, Any] = {"calibrate": 8, "nan_policy": "propagate", "attributes": {"_FillValue": -999}}
    with Int4Writer(store, (None, 4), np.int16, outside="saturate", **options) as writer:
        writer.write(values)
    found = open_int4(store)
    masked = np.ma.masked_equal(values[:8], -999)
    assert found.scale == quantize_to_int4(masked, nan_policy="propagate").scale
    np.testing.assert_array_equal(found[...] == -999, values == -999)


def test_default_chunks_span_the_other_axes_and_hold_whole_blocks() -> None:
    with Int4Writer(MemoryStore(), (None, 768), np.float32, blocks=(48, 1)) as writer:
        assert writer._stream.metadata.layout.chunks == (5424, 768)
    with Int4Writer(MemoryStore(), (1000, None, 50), np.float32, blocks=8) as writer:
        assert writer._stream.metadata.layout.chunks == (1000, 83, 50)


# Committed, flushed, closed -------------------------------------------------------------------------------------------


def test_flush_commits_whole_blocks_and_close_the_rest() -> None:
    store = MemoryStore()
    with Int4Writer(store, (None, 6, 8), np.float32, **BLOCKS) as writer:
        writer.write(VALUES[:3])
        writer.flush()
        assert writer.committed == 0
        with pytest.raises(UnfinishedStoreError, match="beginning of a stream"):
            open_int4(store)
        writer.write(VALUES[3:11])
        assert writer.committed == 0
        writer.flush()
        assert writer.committed == 8
        array = open_int4(store)
        writer.write(VALUES[11:14])
        writer.flush()
        assert (writer.committed, array.shape[0], array.refresh().shape[0]) == (12, 8, 12)
    assert (writer.committed, array.refresh().shape[0]) == (14, 14)
    writer.close()  # again
    for call in (writer.flush, lambda: writer.write(VALUES)):
        with pytest.raises(ValueError, match="has been closed"):
            call()


def test_commits_come_after_so_many_slabs_or_so_much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with Int4Writer(MemoryStore(), (None, 6, 8), np.float32, commit_every=2, **BLOCKS) as writer:
        seen = []
        for row in range(36):
            writer.write(VALUES[row : row + 1])
            seen.append(writer.committed)
    assert seen == [0] * 15 + [16] * 16 + [32] * 5
    now = 0.0
    monkeypatch.setattr("quantize.runtime.stream.time.monotonic", lambda: now)
    with Int4Writer(MemoryStore(), (None, 6, 8), np.float32, commit_every="10s", **BLOCKS) as writer:
        for now, committed in ((1.0, 0), (9.9, 0), (10.0, 12), (19.0, 12), (20.0, 20)):  # noqa: B007
            writer.write(VALUES[:4])
            assert writer.committed == committed


def test_an_exception_commits_nothing_more_and_a_producer_goes_on() -> None:
    store, whole = MemoryStore(), MemoryStore()
    with suppress(KeyError), Int4Writer(store, (None, 6, 8), np.float32, **BLOCKS) as writer:
        writer.write(VALUES[:10])
        writer.flush()
        writer.write(VALUES[10:30])
        raise KeyError
    assert open_int4(store).shape[0] == writer.committed == 8
    assert verify(store).ok
    with pytest.raises(StoreError, match="a writer along axis 0"):
        append_to_zarr(VALUES, store)
    with Int4Writer(store) as writer:
        assert writer.committed == 8
        writer.write(VALUES[8:])
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with Int4Writer(tmp_path / "x", (None, 4), np.float32, blocks=2) as writer:
        writer.flush()
        writer.write(np.empty((0, 4), np.float32))
    assert files(tmp_path) == {}


@pytest.mark.parametrize("rows", [0, 8, 11])
def test_what_a_writer_left_is_discarded(tmp_path: Path, rows: int) -> None:
    with Int4Writer(tmp_path, (None, 6, 8), np.float32, **BLOCKS) as writer:
        writer.write(VALUES[:11])
    before = files(tmp_path)
    with suppress(KeyError), Int4Writer(tmp_path, outside="saturate") as writer:
        writer.write(VALUES[:rows])
        raise KeyError
    assert files(tmp_path) != before
    assert discard_append(tmp_path)
    assert files(tmp_path) == before
    assert append_to_zarr(VALUES, tmp_path, outside="saturate").shape[0] == 48


def test_a_writer_goes_on_behind_a_run_and_a_run_of_another_kind_behind_it() -> None:
    store, whole = MemoryStore(), MemoryStore()
    quantize_to_zarr(VALUES[:16], store, **BLOCKS)
    with Int4Writer(store, (None, 6, 8), "f4", **BLOCKS) as writer:
        assert writer.committed == 16
        writer.write(VALUES[16:24])
    append_to_zarr(VALUES[24:], store)
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_refused_is_refused_as_a_whole_and_the_writer_goes_on() -> None:
    store, whole = MemoryStore(), MemoryStore()
    nan = VALUES.copy()
    nan[20, 1, 2] = np.nan
    refused: list[tuple[Any, type[Exception], str]] = [
        (VALUES[0], ValueError, r"shape \(6, 8\), but must have \(n, 6, 8\)"),
        (VALUES[:, :5], ValueError, r"shape \(37, 5, 8\)"),
        (VALUES.astype(np.float64) / 3, UndeclaredValuesError, "is of float64"),
        (VALUES.astype(np.int32), UndeclaredValuesError, "is of int32"),
        (nan, RefusedValuesError, r"1 NaN; the first refused value is at index \(20, 1, 2\)"),
        (np.ma.masked_greater(VALUES, 30), RefusedValuesError, "NaN"),
        ("text", ValueError, r"shape \(\)"),
    ]
    with Int4Writer(store, (None, 6, 8), np.float32, commit_every=1, **BLOCKS) as writer:
        for start, (batch, kind, said) in enumerate(refused):
            with pytest.raises(kind, match=said):
                writer.write(batch)
            writer.write(VALUES[start : start + 1].astype(np.float64))  # which float32 holds
        writer.write(VALUES[len(refused) :])
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


@pytest.mark.parametrize("options", [{}, {"axis": 2}, {"scale_method": "mse"}])
def test_values_beyond_a_scale_that_is_there_are_refused_or_counted(options: dict[str, Any]) -> None:
    calm = np.clip(VALUES, 0, 20)
    for taken in (0, 5, 20):  # with the rows that choose the scale, before and behind them
        store = MemoryStore()
        with Int4Writer(store, (None, 6, 8), "f4", calibrate=10, chunks=(4, 3, 4), **options) as writer:
            writer.write(calm[:taken])
            with pytest.raises(RefusedValuesError, match=r"1 values lie outside .* at index \(13, 4, 5\)"):
                writer.write(batch_with(calm, 1e4))
            writer.write(calm[taken:])
        assert open_int4(store).shape == VALUES.shape
    store = MemoryStore()
    with Int4Writer(store, (None, 6, 8), "f4", calibrate=10, outside="saturate", **options) as writer:
        writer.write(calm)
        writer.write(batch_with(calm, 1e4)[10:])
    assert open_int4(store).metadata.fingerprint["appended"]["saturated"] >= 1


@pytest.mark.parametrize("outside", ["saturate", "raise"])
@pytest.mark.parametrize("axis", [None, 1])
def test_a_batch_with_a_value_that_would_come_back_as_missing_is_refused(axis: int | None, outside: Any) -> None:
    """Of an array without a value the highest level may be what stands for missing ones, as nothing kept it away."""
    store = MemoryStore()
    both: dict[str, Any] = {"nan_policy": "propagate", "missing": 7, "axis": axis}
    quantize_to_zarr(np.full((2, 2), 7, np.int16), store, **both, chunks=(2, 2))
    with Int4Writer(store, outside=outside) as writer:
        writer.write(np.array([[-7, 7], [2, 0]], np.int16))
        if outside == "saturate":
            with pytest.raises(
                RefusedValuesError, match=r"^the batch: .*the value 200 at index \(2, 1\) would come back"
            ):
                writer.write(np.array([[1, 7], [7, 0], [7, 200]], np.int16))
        writer.write(np.array([[7, 1]], np.int16))
    assert open_int4(store)[2:].tolist() == [[-7, 7], [2, 0], [7, 1]]
    assert verify(store).ok


def batch_with(values: np.ndarray, far: float) -> np.ndarray:
    """Values in the middle of others, and one far off."""
    found = np.full_like(values, 10)
    found[13, 4, 5] = far
    return found


def test_a_group_that_is_committed_keeps_its_scale() -> None:
    store = MemoryStore()
    with Int4Writer(store, (None, 6, 8), np.float32, **BLOCKS) as writer:
        writer.write(VALUES[:10])  # ends within a block
    before = open_int4(store)[...]
    with Int4Writer(store) as writer:
        with pytest.raises(RefusedValuesError, match=r"outside the range .* at index \(1, 0, 3\)"):
            writer.write(batch_beyond(1))
        writer.write(batch_beyond(2))  # the next block has its own
    found = open_int4(store)[...]
    np.testing.assert_array_equal(found[:10], before)
    assert found[12, 0, 3] > 1e5


def batch_beyond(row: int) -> np.ndarray:
    """Four rows within the range of those before them, but for one value."""
    found = np.repeat(VALUES[9:10], 4, axis=0)
    found[row, 0, 3] = 1e6
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "cannot be chosen before the last has come: pass value_range="),
        ({"axis": 1}, "calibrate=n"),
        ({"blocks": 4, "calibrate": 4}, "calibrate chooses scales that all values along axis 0 share"),
        ({"value_range": (0, 1), "calibrate": 4}, "the value_range says which"),
        ({"calibrate": 0}, "calibrate is 0"),
        ({"blocks": (-1, 1, 4)}, "span axis 0, which has no end"),
        ({"blocks": (4, 1, 1), "chunks": (6, -1, -1)}, "take multiples of their lengths, such as"),
        ({"blocks": 4, "chunks": (-1, -1, -1)}, "length -1 along axis 0"),
        ({"blocks": 4, "commit_every": 0}, "commit_every is 0"),
        ({"blocks": 4, "commit_every": "soon"}, "commit_every is 'soon'"),
        ({"blocks": 4, "outside": "drop"}, "outside is 'drop'"),
        ({"blocks": 4, "workers": 0}, "workers is 0"),
        ({"blocks": 4, "name": "a/b"}, "parts the names of groups"),
        ({"blocks": 4, "shape": (3, 6, 8)}, "must have None for the one axis that grows"),
        ({"blocks": 4, "shape": (None, 0)}, "must be at least 1"),
        ({"blocks": 4, "dtype": None}, "pass shape= and dtype="),
        ({"blocks": 4, "dimension_names": ("x",)}, "no names of 3 axes"),
        ({"blocks": 2, "shape": (6, None), "chunks": (6, 3)}, "odd index of the last axis"),
        ({"blocks": 2, "shape": (6, None), "shards": (6, 4)}, "shards do not go with axis 1"),
    ],
)
def test_settings_that_do_not_go_with_a_stream_are_refused(options: dict[str, Any], said: str) -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match=said):
        Int4Writer(store, **{"shape": (None, 6, 8), "dtype": np.float32, **options})
    assert not memory_keys(store)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (None, 6, 4)}, r"shape was \[None, 6, 8\] and is \[None, 6, 4\]"),
        ({"shape": (None, 6)}, "has 3 axes"),
        ({"dtype": np.float64}, "dtype was float32"),
        ({"blocks": 4}, "blocks was"),
        ({"axis": 0}, "axis was None and is 0"),
        ({"chunks": (16, 3, 4)}, "chunks was"),
        ({"compressors": None}, "name was zstd and is None"),
        ({"nan_policy": "propagate"}, "nan_policy was raise"),
        ({"missing": -1}, "missing was None"),
        ({"attributes": {"units": "m"}}, "attributes were"),
        ({"dimension_names": ("a", "b", "c")}, "dimension_names were"),
        ({"preset": "embeddings"}, "scale_method was minmax and is mse"),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_what_is_given_must_be_as_it_is_there(options: dict[str, Any], said: str, committed: bool) -> None:
    store = MemoryStore()
    with suppress(KeyError), Int4Writer(store, (None, 6, 8), "f4", commit_every=1, **BLOCKS) as writer:
        writer.write(VALUES[: 8 * committed])
        raise KeyError
    before = content(store)
    with pytest.raises(StoreError, match=said):
        Int4Writer(store, **options)
    assert content(store) == before


def test_what_lies_there_is_no_place_for_a_writer(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes").touch()
    with pytest.raises(StoreError, match="no Zarr v3 group"):
        Int4Writer(tmp_path / "x", (None, 4), "f4", blocks=2)
    store = MemoryStore()
    quantize_to_zarr(VALUES[:5], store, **{**BLOCKS, "chunks": -1, "blocks": (5, 1, 1)})
    with Int4Writer(store) as writer:  # the last chunk ends with a block
        writer.write(VALUES)
    store = MemoryStore()
    quantize_to_zarr(VALUES[:5], store, **{**BLOCKS, "chunks": -1})
    with pytest.raises(ValueError, match="cannot become longer along axis 0"):
        Int4Writer(store)


# One writer -----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_at_once_where_the_store_is_a_folder(tmp_path: Path) -> None:
    with Int4Writer(tmp_path, (None, 6, 8), "f4", **BLOCKS) as writer:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StoreError, match="another writer is at it"):
                Int4Writer(tmp_path)
            assert time.monotonic() - began < 5
            writer.write(VALUES[:16])
            writer.flush()
    with Int4Writer(tmp_path) as writer:
        assert writer.committed == 32


@pytest.mark.parametrize("then", ["write", "flush", "close"])
def test_elsewhere_the_second_takes_over_and_the_first_sees_it(then: str) -> None:
    store = MemoryStore()
    first = Int4Writer(store, (None, 6, 8), "f4", **BLOCKS)
    first.write(VALUES[:8])
    first.flush()
    first.write(VALUES[8:20])
    second = Int4Writer(store)
    assert second.committed == 8
    with pytest.raises(StoreError, match="taken over"):
        first.write(VALUES[20:]) if then == "write" else getattr(first, then)()
    with pytest.raises(ValueError, match="failed with StoreError"):
        first.write(VALUES)
    second.write(VALUES[8:])
    second.close()
    whole = MemoryStore()
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


def test_a_journal_of_an_append_is_refused_and_one_that_is_discarded_ends_the_writer() -> None:
    store = MemoryStore()
    writer = Int4Writer(store, (None, 6, 8), "f4", **BLOCKS)
    writer.write(VALUES[:8])
    writer.flush()
    assert discard_append(store)
    with pytest.raises(StoreError, match="taken over"):
        writer.write(VALUES[8:16])

    def stop(event: Any) -> None:
        if getattr(event, "done", 0):
            raise KeyError

    with pytest.raises(KeyError):
        append_to_zarr(VALUES, store, progress=stop)
    with pytest.raises(StoreError, match="an append of 37 along axis 0"):
        Int4Writer(store)
    discard_append(store)
    with Int4Writer(store) as writer:
        assert writer.committed == 8


def test_a_writer_whose_variable_is_overwritten_writes_nothing_more() -> None:
    store = MemoryStore()
    writer = Int4Writer(store, (None, 6, 8), "f4", **BLOCKS)
    writer.write(VALUES[:8])
    quantize_to_zarr(VALUES, store, overwrite=True)
    with pytest.raises(StoreError, match="taken over"):
        writer.write(VALUES[:8])
    assert verify(store, source=VALUES).ok


def test_a_beginning_of_a_stream_is_no_array() -> None:
    store = MemoryStore()
    with suppress(KeyError), Int4Writer(store, (None, 6, 8), "f4", **BLOCKS) as writer:
        writer.write(VALUES)
        raise KeyError
    for call in (open_int4, seal, verify, lambda store: append_to_zarr(VALUES, store)):
        with pytest.raises(UnfinishedStoreError, match="beginning of a stream"):
            call(store)
    with pytest.raises(StoreError, match="of another job"):
        quantize_to_zarr(VALUES, store, **BLOCKS)
    with Int4Writer(store) as writer:
        assert writer.committed == 0
        writer.write(VALUES)
    whole = MemoryStore()
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


# Deaths ---------------------------------------------------------------------------------------------------------------

PRODUCER = """
import sys
import numpy as np
from quantize import Int4Writer
values, store, seed = np.load(sys.argv[1]), sys.argv[2], int(sys.argv[3])
draw = np.random.default_rng(seed)
shape = (None, *values.shape[1:])
with Int4Writer(store, shape, values.dtype, blocks=(4, 1), chunks=(8, 16), commit_every=2) as writer:
    print("at", writer.committed, flush=True)
    at = writer.committed
    while at < len(values):
        batch = values[at : at + int(draw.integers(1, 30))]
        writer.write(batch)
        at += len(batch)
        if draw.random() < 0.1:
            writer.flush()
        print("wrote", writer.committed, flush=True)
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("seed", range(3))
def test_producers_that_are_killed_lose_no_row_and_write_none_twice(tmp_path: Path, seed: int) -> None:
    values = field((3001, 32), seed=seed)
    np.save(tmp_path / "values.npy", values)
    draw, before, kills, commits = random.Random(seed), 0, 0, set[int]()
    for attempt in itertools.count():
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(tmp_path / "values.npy"), str(tmp_path / "x"), str(attempt)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        rest = draw.randrange(1, 60)
        for line in process.stdout:
            word, *number = line.split()
            if word == "at":
                assert before <= int(number[0])  # what was said to be safe is
            elif word == "wrote":
                before = int(number[0])
                commits.add(before)
            rest -= 1
            if not rest:
                time.sleep(draw.random() * 0.02)
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
        process.stdout.close()
        if process.wait() == 0:
            break
        if before:
            array = open_int4(tmp_path / "x")
            assert array.shape[0] >= before
            assert verify(tmp_path / "x").ok
    assert kills > 3
    assert len(commits) > 10
    undisturbed, whole = tmp_path / "y", tmp_path / "z"
    with Int4Writer(undisturbed, (None, 32), np.float32, blocks=(4, 1), chunks=(8, 16)) as writer:
        writer.write(values)
    quantize_to_zarr(values, whole, blocks=(4, 1), chunks=(8, 16))
    found, expected, again = (
        {key: data for key, data in files(folder).items() if key != "data/zarr.json"}
        for folder in (tmp_path / "x", undisturbed, whole)
    )
    assert found == expected == again


@pytest.mark.parametrize(("step", "torn"), [(13, False), slow(1, False), slow(1, True)])
@pytest.mark.parametrize(
    "options", [BLOCKS, slow({"calibrate": 5, "axis": 1, "chunks": (8, 3, 4), "outside": "saturate"})]
)
def test_a_death_at_any_write_costs_nothing_that_was_committed(
    tmp_path: Path, options: dict[str, Any], step: int, torn: bool
) -> None:
    def feed(store: Any, flushed: bool = True) -> int:
        safe = 0
        with Int4Writer(store, (None, 6, 8), "f4", commit_every=1, workers=1, **options) as writer:
            for at in range(writer.committed, 30, 5):
                writer.write(VALUES[at : min(at + 5, 30)])
                if flushed and at == 15:
                    writer.flush()
                safe = writer.committed
        return max(safe, writer.committed)

    feed(tmp_path / "whole", False)
    whole = files(tmp_path / "whole")
    del whole["data/zarr.json"]
    for at in range(1, 200, step):
        folder = tmp_path / f"{at}"
        try:
            feed(DyingStore(folder, at, torn))
        except Died:
            feed(folder)
        else:
            break
        found = files(folder)
        del found["data/zarr.json"]
        assert found == whole, at
        assert verify(folder).ok
    assert 20 < at < 190


# Streams as sources ---------------------------------------------------------------------------------------------------


def batches(values: np.ndarray, length: int = 5) -> Iterator[np.ndarray]:
    for at in range(0, len(values), length):
        yield values[at : at + length]


def test_a_generator_gives_what_its_arrays_joined_do() -> None:
    store, whole = MemoryStore(), MemoryStore()
    events: list[Any] = []
    found = quantize_to_zarr(batches(VALUES), store, **BLOCKS, progress=events.append)
    expected = quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert found[...].tobytes() == expected[...].tobytes()
    assert content(store) == content(whole)
    assert [event.known for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].done == events[-1].total == 20
    assert events[-1].nbytes == VALUES.nbytes
    with pytest.raises(StoreError, match="is there already, whole"):
        quantize_to_zarr(batches(VALUES), store, **BLOCKS)
    assert quantize_to_zarr(batches(VALUES[:9], 2), store, **BLOCKS, overwrite=True).shape[0] == 9
    assert verify(store).ok


def test_a_stream_counts_at_its_end_alone_and_begins_anew() -> None:
    store, whole = MemoryStore(), MemoryStore()

    def torn() -> Iterator[np.ndarray]:
        yield from batches(VALUES[:30] + 1)
        with pytest.raises(UnfinishedStoreError, match="beginning of a stream"):
            open_int4(store)
        raise KeyError

    with pytest.raises(KeyError):
        quantize_to_zarr(torn(), store, **BLOCKS)
    with pytest.raises(UnfinishedStoreError, match="beginning of a stream"):
        open_int4(store)
    with pytest.raises(StoreError, match="is there already, unfinished"):
        quantize_to_zarr(batches(VALUES), store, blocks=2)
    quantize_to_zarr(batches(VALUES), store, **BLOCKS)
    quantize_to_zarr(VALUES, whole, **BLOCKS)
    assert content(store) == content(whole)


def test_a_stream_stays_within_its_memory_or_is_refused() -> None:
    values = field((300, 64))
    options: dict[str, Any] = {"value_range": (-100, 100), "workers": 3}
    small = quantize_to_zarr(batches(values, 7), MemoryStore(), memory="145MiB", **options)
    assert small.chunks[0] < quantize_to_zarr(batches(values, 7), MemoryStore(), **options).chunks[0]
    with pytest.raises(ValueError, match="is too small for a slab of"):
        quantize_to_zarr(batches(values, 7), MemoryStore(), memory="130MiB", **options)


@pytest.mark.parametrize(
    ("source", "options", "kind", "said"),
    [
        ([], {"blocks": 4}, ValueError, "gave no array"),
        ([np.empty((0, 4))], {"blocks": 4}, ValueError, "gave no values"),
        ([1.0], {"blocks": 4}, ValueError, "gave a number"),
        ([VALUES, VALUES[:, 1:]], {"blocks": 4}, ValueError, r"shape \(37, 5, 8\)"),
        ([VALUES], {}, ValueError, "value_range"),
        ([VALUES], {"blocks": 4, "floats": True}, ValueError, "floats"),
        ([np.array(["a"])], {"blocks": 4}, TypeError, "dtype"),
        ([VALUES * np.nan], {"blocks": 4}, RefusedValuesError, "NaN"),
    ],
)
def test_a_stream_that_is_no_array_is_refused(
    source: list[Any], options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    store = MemoryStore()
    with pytest.raises(kind, match=said):
        quantize_to_zarr(iter(source), store, **options)
    with pytest.raises((FileNotFoundError, StoreError)):
        open_int4(store)


@pytest.mark.parametrize(
    ("axis", "options"),
    [
        (0, BLOCKS),
        (1, {"blocks": (1, 2, 4), "chunks": (-1, 2, -1)}),
        (2, {"axis": 2, "chunks": (8, 6, 4)}),
        (0, {"chunks": (5, 3, 4)}),
    ],
)
def test_a_stream_is_appended_as_its_arrays_joined_are(axis: int, options: dict[str, Any]) -> None:
    store, whole = MemoryStore(), MemoryStore()
    first, start = VALUES, VALUES.shape[axis]
    rest = field((*VALUES.shape[:axis], 2 * start + 1, *VALUES.shape[axis + 1 :]))
    for place in (store, whole):
        quantize_to_zarr(first, place, **options)
    pieces = [along(rest, axis, at, at + 3) for at in range(0, rest.shape[axis], 3)]
    found = append_to_zarr(iter(pieces), store, axis=axis, outside="saturate", workers=2)
    expected = append_to_zarr(rest, whole, axis=axis, outside="saturate")
    assert found.shape == expected.shape
    assert content(store) == content(whole)
    assert found[...].tobytes() == expected[...].tobytes()
    assert summary(found)["appended"]["saturated"] == summary(expected)["appended"]["saturated"]
    assert verify(store).ok


@pytest.mark.parametrize(
    ("last", "kind", "said"),
    [
        (lambda: VALUES[:2] * np.nan, RefusedValuesError, "array 4 of the stream: the data hold 96 NaN"),
        (lambda: VALUES[:2] * 100, RefusedValuesError, "array 4 of the stream: .* values lie outside the range"),
        (lambda: VALUES[:2, 1:], ValueError, r"array 4 of the stream has shape \(2, 5, 8\)"),
        (lambda: VALUES[:2].astype("f8") + 1e-9, ValueError, "array 4 of the stream is of float64"),
        (lambda: 1 // 0, ZeroDivisionError, "by zero"),
    ],
)
def test_of_a_stream_that_fails_nothing_is_appended(last: Any, kind: type[Exception], said: str) -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, -1, -1))
    before = {key: store._store_dict[key].to_bytes() for key in memory_keys(store)}

    def failing() -> Iterator[np.ndarray]:
        yield from (VALUES[:10] * 0.5 for _ in range(4))
        assert open_int4(store).shape == VALUES.shape
        assert len(memory_keys(store)) > len(before)
        yield last()

    with pytest.raises(kind, match=said):
        append_to_zarr(failing(), store)
    assert {key: store._store_dict[key].to_bytes() for key in memory_keys(store)} == before


def test_a_stream_that_is_appended_takes_the_place_of_one_that_was_killed() -> None:
    store, whole = MemoryStore(), MemoryStore()
    for place in (store, whole):
        quantize_to_zarr(VALUES, place, **BLOCKS)
    append_to_zarr(VALUES, whole, outside="saturate")
    left = Int4Writer(store, outside="saturate")
    left.write(VALUES + 1)  # and then its process is gone, with its lock
    left._stream.lock.close()
    with pytest.raises(StoreError, match="a writer along axis 0, from index 37 on, is under way or was killed"):
        append_to_zarr(VALUES, store, outside="saturate")
    append_to_zarr(batches(VALUES), store, outside="saturate")
    assert content(store) == content(whole)
    for nothing in ([], [VALUES[:0]]):
        with pytest.raises(ValueError, match="the stream gave no values to append"):
            append_to_zarr(iter(nothing), store)
    with pytest.raises(ValueError, match="is too small for a slab of"):
        append_to_zarr(batches(VALUES), store, memory="1MiB")
    assert content(store) == content(whole)


def test_what_needs_a_length_refuses_a_stream() -> None:
    store, several = MemoryStore(), MemoryStore()
    quantize_to_zarr(VALUES, store, **BLOCKS)
    quantize_dataset({"a": VALUES, "b": VALUES}, several)
    for call, place in (
        (plan, store),
        (append_to_zarr, several),
        (lambda source, store: verify(store, source=source), store),
    ):
        with pytest.raises(TypeError, match="a stream of arrays, a generator"):
            call(batches(VALUES), place)  # type: ignore[operator]


def test_a_list_of_arrays_is_one_array() -> None:
    store, whole = MemoryStore(), MemoryStore()
    found = quantize_to_zarr([VALUES[:10], VALUES[10:11], VALUES[11:]], store, chunks=(4, -1, -1))
    quantize_to_zarr(VALUES, whole, chunks=(4, -1, -1))
    assert found.shape == VALUES.shape
    assert content(store) == content(whole)
    with pytest.raises(ValueError, match=r"array 1 of the list has shape \(37, 6, 7\)"):
        quantize_to_zarr([VALUES, VALUES[..., 1:]], MemoryStore())


# Records from standard input ------------------------------------------------------------------------------------------


def records(*arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Gives few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        some, self.data = self.data[: min(len(buffer), 13)], self.data[min(len(buffer), 13) :]
        buffer[: len(some)] = some
        return len(some)


def test_records_are_read_as_they_were_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [VALUES[:3], np.asfortranarray(VALUES[3:9]), VALUES[9:9], VALUES[9:]]
    for most in (1 << 24, 1000):
        monkeypatch.setattr("quantize.io.formats.iterables.RECORD_BYTES", most)
        found = list(npy_records(Pipe(records(*arrays)), "a pipe"))  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.concatenate(found), VALUES)
        assert len(found) == (3 if most > 1000 else 8)


def test_the_command_line_reads_records_from_standard_input(tmp_path: Path) -> None:
    store = str(tmp_path / "x")
    command = ["run", "-", store, "--blocks", "4,1,1", "--chunks", "8,3,4"]
    done = CliRunner().invoke(main, command, input=records(VALUES[:9], VALUES[9:]))
    assert done.exit_code == 0, done.output
    whole = MemoryStore()
    assert open_int4(store)[...].tobytes() == quantize_to_zarr(VALUES, whole, **BLOCKS)[...].tobytes()
    whole = records(VALUES[:9], VALUES[9:])
    first = len(records(VALUES[:9]))
    for data, said in (
        (whole[:-7], "record 2 of standard input is torn: 5,369 of the 5,376 bytes of its values came. 9 rows"),
        (whole[: first + 4], "record 2 of standard input is no whole .npy record"),
        (whole[:first] + b"hello, world", "record 2 of standard input is no whole .npy record"),
        (records(VALUES, VALUES[:, 1:]), "they may differ in their first length alone. 37 rows"),
        (records(np.float32(3)), "has no axes"),
        (b"", "gave no array"),
        (pickle.dumps([1]), "record 1 of standard input is no whole .npy record"),
        (records(np.array([{}], object)), "Python objects"),
    ):
        done = CliRunner().invoke(main, [*command, "--overwrite"], input=data)
        assert done.exit_code == 2, done.output
        assert said in done.output
    done = CliRunner().invoke(main, ["append", "-", str(tmp_path / "a")], input=whole)
    assert done.exit_code != 0
    quantize_to_zarr(VALUES[:8], tmp_path / "a", **BLOCKS)
    done = CliRunner().invoke(main, ["append", "-", str(tmp_path / "a")], input=whole[:-7])
    assert (done.exit_code, open_int4(tmp_path / "a").shape) == (2, (8, 6, 8)), done.output
    done = CliRunner().invoke(main, ["append", "-", str(tmp_path / "a")], input=whole)
    assert done.output.endswith(": its shape is (45, 6, 8)\n"), done.output
    assert open_int4(tmp_path / "a").shape == (45, 6, 8)
    for arguments, said in (
        (["plan", "-", store], "no plan"),
        (["run", "-", store, "--part", "1/2"], "--part"),
        (["run", "-", store, "--select", "a"], "--select"),
        (["run", "-", store, "--axis", "lat"], "give numbers"),
    ):
        done = CliRunner().invoke(main, arguments, input=b"")
        assert done.exit_code == 2
        assert said in done.output
    done = CliRunner().invoke(main, ["run", "-", str(tmp_path / "y"), *command[3:]], input=whole[:-7])
    done = CliRunner().invoke(main, ["info", str(tmp_path / "y")])
    assert done.exit_code == 3
    assert "beginning of a stream" in done.output
