"""Errors that pass are tried again, with pauses that grow; others end the run, which then goes on where it stopped."""

import errno
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import files
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from quantize import open_int4, quantize_to_zarr
from quantize.store.retrying import ATTEMPTS, TEMPORARY, is_temporary

VALUES = np.linspace(-3, 5, 24 * 6, dtype=np.float32).reshape(24, 6)
JOB: dict[str, Any] = {"chunks": (4, 6), "workers": 1}
LASTING = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", asked.append)
    return asked


class FaultyStore(LocalStore):
    """A folder whose calls fail at some of their numbers, each with an error of its own."""

    def __init__(self, root: Any, faults: dict[int, BaseException]) -> None:
        super().__init__(root)
        self.faults, self.calls = faults, 0
        self.failed: Counter[str] = Counter()

    def _call(self, name: str) -> None:
        self.calls += 1
        fault = self.faults.get(self.calls)
        if fault is not None:
            self.failed[name] += 1
            raise fault

    async def get(self, *args: Any, **options: Any) -> Buffer | None:
        self._call("get")
        return await super().get(*args, **options)

    async def set(self, key: str, value: Buffer) -> None:
        self._call("set")
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._call("set_if_not_exists")
        await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        self._call("delete")
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        self._call("delete_dir")
        await super().delete_dir(prefix)

    async def list_prefix(self, prefix: str) -> Any:
        self._call("list_prefix")
        async for key in super().list_prefix(prefix):
            yield key


def failing(number: int) -> OSError:
    return OSError(number, "made up")


def calls_of_a_run(root: Path) -> int:
    store = FaultyStore(root, {})
    quantize_to_zarr(VALUES, store, **JOB)
    return store.calls


def test_which_errors_pass() -> None:
    assert all(is_temporary(failing(number)) for number in TEMPORARY)
    assert is_temporary(TimeoutError())
    assert is_temporary(ConnectionResetError())
    assert not any(is_temporary(failing(number)) for number in LASTING)
    assert not any(map(is_temporary, (ValueError(), KeyError(), KeyboardInterrupt(), MemoryError())))


@pytest.mark.slow
def test_every_call_of_a_run_may_fail_once(tmp_path: Path) -> None:
    calls = calls_of_a_run(tmp_path / "right")
    expected = files(tmp_path / "right")
    names: set[str] = set()
    for number in range(1, calls + 1):
        store = FaultyStore(tmp_path / str(number), {number: failing(errno.EIO)})
        quantize_to_zarr(VALUES, store, **JOB)
        assert files(tmp_path / str(number)) == expected
        names.update(store.failed)
        assert store.failed.total() == 1
    assert names == {"get", "set", "set_if_not_exists", "delete_dir", "list_prefix"}


def test_pauses_grow_and_end(tmp_path: Path, pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    calls = calls_of_a_run(tmp_path / "right")
    store = FaultyStore(tmp_path / "a", {number: TimeoutError("slow") for number in range(5, calls + 99)})
    with caplog.at_level(logging.WARNING, "quantize"), pytest.raises(TimeoutError, match="slow"):
        quantize_to_zarr(VALUES, store, **JOB)
    assert store.failed.total() == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1
    assert all(pause <= 0.5 * 2**number for number, pause in enumerate(pauses))
    assert sum("TimeoutError" in record.message for record in caplog.records) == ATTEMPTS - 1
    quantize_to_zarr(VALUES, tmp_path / "a", **JOB)
    assert files(tmp_path / "a") == files(tmp_path / "right")


@pytest.mark.parametrize("number", LASTING)
def test_an_error_that_lasts_is_not_tried_again(tmp_path: Path, number: int, pauses: list[float]) -> None:
    store = FaultyStore(tmp_path, {10: failing(number)})
    with pytest.raises(OSError, match="made up"):
        quantize_to_zarr(VALUES, store, **JOB)
    assert (store.failed.total(), pauses) == (1, [])


FAULTS = st.dictionaries(
    st.integers(1, 60), st.sampled_from([*TEMPORARY, *LASTING]).map(failing) | st.builds(TimeoutError), max_size=8
)


@given(st.lists(FAULTS, max_size=3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_fails_a_run_goes_on_and_ends_right(
    tmp_path_factory: pytest.TempPathFactory, plans: list[dict[int, BaseException]]
) -> None:
    folder = tmp_path_factory.mktemp("faulty")
    quantize_to_zarr(VALUES, folder / "right", **JOB)
    for plan in plans:
        raised = None
        try:
            quantize_to_zarr(VALUES, FaultyStore(folder / "a", plan), **JOB)
        except OSError as error:
            raised = error
        if raised is not None:
            assert not is_temporary(raised) or len(plan) >= ATTEMPTS
        else:
            np.testing.assert_array_equal(open_int4(folder / "a")[...], open_int4(folder / "right")[...])
    quantize_to_zarr(VALUES, folder / "a", **JOB)
    assert files(folder / "a") == files(folder / "right")


class FlakySource:
    """An array whose reading fails the first time, wherever it is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.seen: set[str] = set()

    def __getitem__(self, index: Any) -> np.ndarray:
        if str(index) not in self.seen:
            self.seen.add(str(index))
            raise ConnectionResetError("by peer")
        return self.values[index]


def test_reading_is_tried_again(tmp_path: Path, pauses: list[float]) -> None:
    quantize_to_zarr(FlakySource(VALUES), tmp_path / "a", **JOB)
    assert pauses
    np.testing.assert_allclose(open_int4(tmp_path / "a")[...], VALUES, atol=0.3)


class SweptStore(LocalStore):
    """A folder of which another run's seal takes the temporary file of a write away, once."""

    swept = False

    async def set(self, key: str, value: Buffer) -> None:
        if key == "data/c/3/0" and not self.swept:
            self.swept = True
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "0.partial", None, "0")
        await super().set(key, value)


def test_a_temporary_file_that_another_run_took_away_is_written_again(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, SweptStore(tmp_path / "a"), **JOB)
    quantize_to_zarr(VALUES, tmp_path / "right", **JOB)
    assert files(tmp_path / "a") == files(tmp_path / "right")
