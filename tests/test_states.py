"""Whatever happens to a store, in whatever order: a read is right or raises an error of ours."""

import contextlib
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

from quantize import QuantizeError, open_int4, quantize_part, quantize_to_zarr, seal
from quantize.quality.verify import verify

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
EXPECTED: dict[str, np.ndarray] = {}  # the values of each source and job, by the fingerprint of the variable


def expect() -> None:
    """Fill the table, on stores to which nothing happens."""
    for values in SOURCES.values():
        for job in JOBS.values():
            with tempfile.TemporaryDirectory() as folder:
                array = quantize_to_zarr(values, folder, **job, workers=1)
                EXPECTED[str(array.metadata.fingerprint)] = array[...]


class Store(RuleBasedStateMachine):
    """One store, and what may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = self.folder / "z"
        self.sound = True  # whether nothing was damaged since it was made

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
                np.testing.assert_array_equal(array[...], EXPECTED[str(array.metadata.fingerprint)])

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
        np.testing.assert_array_equal(values, EXPECTED[str(array.metadata.fingerprint)])
        if self.sound:
            assert verify(self.place).ok


@pytest.mark.parametrize(("examples", "steps"), [(25, 12), slow(300, 25)], ids=["short", "long"])
def test_a_read_is_right_or_raises_whatever_happened(examples: int, steps: int) -> None:
    if not EXPECTED:
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
