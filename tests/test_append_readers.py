"""Readers while something is appended: only lengths that were committed, and only right values. And kills meanwhile."""

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from marks import mostly_slow
from stores import field, files
from test_append_deaths import JOURNAL_KEY
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from quantize import Int4Array, append_to_zarr, open_int4, quantize_to_zarr
from quantize.quality.verify import verify
from quantize.store.keys import Keys

COLUMNS = 16
FIRST = 5
STEPS = (1, 3, 2)  # rows of one append, and the next
JOBS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (2, 8), "axis": 0},
    "shards": {"chunks": (1, 8), "shards": (4, 16), "blocks": (1, 4)},  # an append mostly writes a shard again
    "one scale": {"chunks": (4, 16), "value_range": (-60, 90)},
}


def rows(start: int, stop: int) -> np.ndarray:
    """Rows that are the same whoever makes them."""
    return np.concatenate([field((1, COLUMNS), seed=number) for number in range(start, stop)])


class TearingStore(LocalStore):
    """A folder that now and then gives only the beginning of what says what there is."""

    draw = random.Random(0)

    async def get(self, key: str, *args: Any, **options: Any) -> Buffer | None:
        found = await super().get(key, *args, **options)
        if found is not None and key.endswith(".json") and self.draw.random() < 0.1:
            return found[: len(found) // 2]
        return found


def opened(store: Path, torn: bool) -> Int4Array:
    array = open_int4(store)
    if torn:
        array.variable = replace(array.variable, keys=Keys.of(TearingStore(store)))
    return array


def read_on(array: Int4Array, right: np.ndarray, draw: random.Random) -> None:
    """Take in what was appended, and read some of it."""
    length = array.refresh().shape[0]
    assert length in allowed(right)
    for _ in range(3):
        start = draw.randrange(length)
        stop = draw.randrange(start, length) + 1
        np.testing.assert_array_equal(array[start:stop], right[start:stop])
    np.testing.assert_array_equal(array[-3:, ::3], right[max(length - 3, 0) : length, ::3])


def allowed(right: np.ndarray) -> set[int]:
    """The lengths that there are at one time or another."""
    found = [FIRST]
    while (longer := found[-1] + STEPS[found[-1] % len(STEPS)]) <= len(right):
        found.append(longer)
    return set(found)


def appending(store: Path, until: float, most: int) -> int:
    """Append until some time or some length, going on where another has stopped; the length then."""
    length = open_int4(store).shape[0]
    while monotonic() < until and (longer := length + STEPS[length % len(STEPS)]) <= most:
        length = append_to_zarr(rows(length, longer), store, outside="saturate", workers=1).shape[0]
    return length


def begun(store: Path, job: str, most: int) -> np.ndarray:
    """A store to which is appended, and all values that it will have: its scales do not depend on how they came."""
    quantize_to_zarr(rows(0, FIRST), store, **JOBS[job], workers=1)
    return quantize_to_zarr(rows(0, most), MemoryStore(), **JOBS[job], workers=1)[...]


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["shards"]))
def test_threads_read_what_was_committed(tmp_path: Path, job: str) -> None:
    right = begun(tmp_path, job, 60)
    array, torn = opened(tmp_path, False), opened(tmp_path, True)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(appending(tmp_path, monotonic() + 60, 60)))
    thread.start()
    draw, seen = random.Random(0), set()
    while thread.is_alive():
        for one in (array, torn):
            read_on(one, right, draw)
            seen.add(len(one))
    thread.join()
    read_on(array, right, draw)
    assert len(array) == ended[0]
    assert len(seen) > 3


def reader(store: Path, right: np.ndarray, torn: bool, seed: int, say: Connection, stop: Any) -> None:
    """A process that reads until it is stopped; it tells how often it did, and what went wrong."""
    try:
        array = opened(store, torn)
        draw, checks, seen = random.Random(seed), 0, set()
        while not stop.is_set() or not checks:
            read_on(array, right, draw)
            seen.add(len(array))
            checks += 1
            if not torn and checks % 50 == 0:
                assert verify(store).ok
        say.send((checks, len(seen), None))
    except BaseException as error:
        say.send((0, 0, repr(error)))


def appender(store: Path, seconds: float, most: int, say: Connection) -> None:
    os.setsid()
    say.send(appending(store, monotonic() + seconds, most))


context: Any = multiprocessing.get_context("forkserver")  # one process imports all, the others begin as its copies
context.set_forkserver_preload(["pytest", "quantize.pipeline", "quantize.appending", "quantize.kernels"])


@contextmanager
def readers(store: Path, right: np.ndarray) -> Iterator[list[Any]]:
    """Two processes that read, one of them torn documents; what they tell is held to be without an error."""
    stop, told = context.Event(), []
    started = []
    for seed, torn in enumerate((False, True)):
        said, say = context.Pipe(duplex=False)
        process = context.Process(target=reader, args=(store, right, torn, seed, say, stop))
        process.start()
        started.append((process, said))
    try:
        yield told
    finally:
        stop.set()
        told += [said.recv() for _, said in started]
        for process, _ in started:
            process.join(60)
    assert [error for *_, error in told] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_processes_read_what_was_committed(tmp_path: Path, job: str) -> None:
    """While another appends, in one of the jobs for a minute."""
    seconds, most = (60, 16_000) if job == "chunks" else (15, 4000)
    right = begun(tmp_path, job, most)
    with readers(tmp_path, right) as told:
        said, say = context.Pipe(duplex=False)
        process = context.Process(target=appender, args=(tmp_path, seconds, most, say))
        process.start()
        length = said.recv()
        process.join(60)
    print(f"{job}: to {length:,} rows; checks, lengths seen: {told}")
    assert len(open_int4(tmp_path)) == length
    assert verify(tmp_path, source=rows(0, length)).ok
    assert min(checks for checks, *_ in told) > 10
    assert min(seen for _, seen, _ in told) > 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("job", JOBS)
def test_kills_at_random_times_cost_no_row_and_readers_see_none_of_them(tmp_path: Path, job: str) -> None:
    """Appends are killed and gone on with, under the eyes of readers, until the array has all rows."""
    draw, kills = random.Random(0), 0
    most = max(length for length in allowed(np.empty(200)))
    right = begun(tmp_path / "z", job, most)
    with readers(tmp_path / "z", right):
        while len(open_int4(tmp_path / "z")) < most:
            said, say = context.Pipe(duplex=False)
            process = context.Process(target=appender, args=(tmp_path / "z", 60, most, say))
            process.start()
            if said.poll(draw.uniform(0.05, 0.5)) or kills == 15:
                process.join(60)
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            kills += 1
            assert verify(tmp_path / "z").ok
    assert kills == 15
    assert not (tmp_path / "z" / JOURNAL_KEY).exists()
    quantize_to_zarr(rows(0, most), tmp_path / "anew", **JOBS[job], workers=1)
    mine, its = files(tmp_path / "z"), files(tmp_path / "anew")
    assert {key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key)} == {"data/zarr.json"}
