"""Whatever happens to a store, in whatever order: a read is right or raises an error of ours."""

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from marks import slow
from stores import Died, DyingStore, field
from zarr.storage import MemoryStore

from quantize import (
    Int4Array,
    QuantizeError,
    append_to_zarr,
    discard_append,
    open_int4,
    quantize_part,
    quantize_to_zarr,
    seal,
)
from quantize.quality.verify import verify
from quantize.store.growth import Growth
from quantize.store.metadata import Metadata

SOURCES = {"a": field((12, 6)), "b": field((12, 6), seed=1)}
JOBS: dict[str, dict[str, Any]] = {
    "plain": {"chunks": (4, 6)},
    "range": {"chunks": (4, 6), "value_range": (-50, 80)},
    "axis": {"chunks": (4, 6), "axis": 1},
    "one read": {"chunks": (4, 6), "axis": 0},
    "mse": {"chunks": (4, 6), "scale_method": "mse"},
    "shards": {"chunks": (2, 6), "shards": (4, 6)},
    "blocks": {"chunks": (4, 6), "blocks": (1, 3)},
    "blocks in shards": {"chunks": (2, 6), "shards": (4, 6), "blocks": (2, 3), "scale_method": "mse"},
}
MORE = {"c": field((3, 6), seed=2), "d": field((1, 6), seed=3)}  # what is appended
MOST = 22  # rows, behind which nothing more is
FIRST: dict[str, tuple[str, str]] = {}  # the source and the job of each fingerprint
APPENDED: dict[str, tuple[str, str, str]] = {}  # what was appended, in order, by the run that did so last


def expect() -> None:
    """Fill the table of fingerprints."""
    for source, values in SOURCES.items():
        for name, job in JOBS.items():
            array = quantize_to_zarr(values, MemoryStore(), **job, workers=1)
            FIRST[str(array.metadata.fingerprint)] = source, name


def origin(metadata: Metadata) -> tuple[str, str, str]:
    """The source and the job that made a variable, and what was appended to it."""
    growth = Growth.of(metadata)
    return APPENDED[growth.run] if growth else (*FIRST[str(metadata.fingerprint)], "")


@functools.cache
def values_of(source: str, job: str, appended: str) -> np.ndarray:
    """What a store holds to which nothing else happens."""
    store = MemoryStore()
    array = quantize_to_zarr(SOURCES[source], store, **JOBS[job], workers=1)
    for more in appended:
        array = append_to_zarr(MORE[more], store, outside="saturate", again=True, workers=1)
    return array[...]


def assert_right(array: Int4Array, values: np.ndarray) -> None:
    np.testing.assert_array_equal(values, values_of(*origin(array.metadata)))


class Store(RuleBasedStateMachine):
    """One store, and what may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = self.folder / "z"
        self.sound = True  # whether nothing was damaged since it was made
        self.opened: Int4Array | None = None  # some time ago

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def files(self) -> list[Path]:
        """All files, those of chunks twice."""
        found = sorted(path for path in self.place.rglob("*") if path.is_file())
        return [*found, *(path for path in found if path.name != "zarr.json")]

    @rule(
        source=st.sampled_from(list(SOURCES)),
        job=st.sampled_from(list(JOBS)),
        overwrite=st.booleans(),
        verify=st.booleans(),
        death=st.none() | st.none() | st.integers(0, 25),
        torn=st.booleans(),
    )
    def run(self, source: str, job: str, overwrite: bool, verify: bool, death: int | None, torn: bool) -> None:
        store = self.place if death is None else DyingStore(self.place, death, torn)
        try:
            array = quantize_to_zarr(SOURCES[source], store, **JOBS[job], workers=1, overwrite=overwrite, verify=verify)
        except (QuantizeError, Died):
            assert death is not None or not (self.sound and overwrite)
        else:
            if self.sound or verify:
                assert_right(array, array[...])

    def metadata(self) -> Metadata | None:
        """Those of a variable that is whole."""
        try:
            return open_int4(self.place).metadata
        except (QuantizeError, FileNotFoundError):
            return None

    @rule(
        more=st.sampled_from(list(MORE)),
        death=st.none() | st.integers(0, 12),
        torn=st.booleans(),
    )
    def append(self, more: str, death: int | None, torn: bool) -> None:
        before = self.metadata()
        if before is None or before.layout.shape[0] > MOST:
            return
        store = self.place if death is None else DyingStore(self.place, death, torn)
        with contextlib.suppress(QuantizeError, FileNotFoundError, Died):
            append_to_zarr(MORE[more], store, outside="saturate", again=True, workers=1)
        after = self.metadata()
        if after is not None and after.layout.shape != before.layout.shape:
            growth = Growth.of(after)
            assert growth is not None
            source, job, appended = origin(before)
            APPENDED[growth.run] = source, job, appended + more

    @rule(death=st.none() | st.integers(0, 6))
    def discard(self, death: int | None) -> None:
        store = self.place if death is None else DyingStore(self.place, death, torn=False)
        with contextlib.suppress(QuantizeError, FileNotFoundError, Died):
            discard_append(store)

    @rule()
    def open(self) -> None:
        with contextlib.suppress(QuantizeError, FileNotFoundError):
            self.opened = open_int4(self.place)

    @rule()
    def refresh(self) -> None:
        if self.opened is not None:
            with contextlib.suppress(QuantizeError):
                values = self.opened.refresh()[...]
                assert_right(self.opened, values)

    @rule(
        source=st.sampled_from(list(SOURCES)),
        job=st.sampled_from(list(JOBS)),
        part=st.integers(1, 3),
        death=st.none() | st.integers(0, 12),
    )
    def run_part(self, source: str, job: str, part: int, death: int | None) -> None:
        store = self.place if death is None else DyingStore(self.place, death, torn=False)
        with contextlib.suppress(QuantizeError, Died):
            quantize_part(SOURCES[source], store, part, 3, **JOBS[job], workers=1)

    @rule()
    def seal(self) -> None:
        with contextlib.suppress(QuantizeError, FileNotFoundError):
            seal(self.place)

    @rule(which=st.integers(0, 1 << 20), at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
    def flip(self, which: int, at: int, bit: int) -> None:
        for path in self.files()[which % max(len(self.files()), 1) :][:1]:
            data = bytearray(path.read_bytes())
            if data:
                data[at % len(data)] ^= 1 << bit
                path.write_bytes(data)
                self.sound = False

    @rule(which=st.integers(0, 1 << 20), at=st.integers(0, 1 << 20))
    def cut(self, which: int, at: int) -> None:
        for path in self.files()[which % max(len(self.files()), 1) :][:1]:
            data = path.read_bytes()
            path.write_bytes(data[: at % max(len(data), 1)])
            self.sound = False

    @rule(which=st.integers(0, 1 << 20))
    def lose(self, which: int) -> None:
        for path in self.files()[which % max(len(self.files()), 1) :][:1]:
            path.unlink()
            self.sound = False

    @rule()
    def remove(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.sound = True

    @invariant()
    def a_read_is_right_or_raises(self) -> None:
        try:
            array = open_int4(self.place)
            values = array[...]
        except (QuantizeError, FileNotFoundError):
            return
        assert_right(array, values)
        if self.sound:
            assert verify(self.place).ok

    @invariant()
    def an_array_that_was_opened_is_read_right_or_raises(self) -> None:
        if self.opened is not None:
            with contextlib.suppress(QuantizeError):
                assert_right(self.opened, self.opened[...])


@pytest.mark.parametrize(("examples", "steps"), [(25, 12), slow(300, 25)], ids=["short", "long"])
def test_a_read_is_right_or_raises_whatever_happened(examples: int, steps: int) -> None:
    if not FIRST:
        expect()
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
