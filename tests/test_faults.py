"""Stores that lie: what they take is torn, lost or comes late, what they give likewise. No wrong number is read."""

import dataclasses
import errno
import functools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import combined, slow
from stores import files
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore

from quantize import DamagedChunkError, Int4Array, StoreError, open_int4, quantize_part, quantize_to_zarr
from quantize.exceptions import QuantizeError
from quantize.quality.verify import verify

VALUES = np.linspace(-3, 5, 12 * 6, dtype=np.float32).reshape(12, 6)
JOBS: list[dict[str, Any]] = [
    {},
    {"value_range": (-3, 5)},
    {"axis": 0, "chunks": (4, 4)},
    {"axis": 1, "scale_method": "mse"},
    {"axis": 0, "chunks": (4, 6)},  # one read
    {"shards": (8, 6)},
    {"blocks": (1, 3)},
    {"blocks": (4, 2), "shards": (8, 6)},
]
FAULTS = ["torn", "lost", "late", errno.EIO, errno.ENOSPC, errno.EACCES]
LATE = 3  # changes after which a late one arrives


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)


@dataclasses.dataclass
class Lies:
    """What becomes of the n-th change and the n-th read, counted from 0."""

    changes: dict[int, Any]
    reads: dict[int, Any] = dataclasses.field(default_factory=dict)
    told: Counter[Any] = dataclasses.field(default_factory=Counter)


class LyingStore(LocalStore):
    def __init__(self, root: Any, lies: Lies) -> None:
        super().__init__(root)
        self.lies = lies
        self.changes = self.reads = 0
        self.late: list[tuple[int, str, Buffer]] = []

    async def _change(self, key: str, value: Buffer, new: bool) -> None:
        await self.arrive(self.changes)
        lie = self.lies.changes.get(self.changes)
        self.changes += 1
        if new and (Path(self.root) / key).exists():
            return
        self.lies.told[lie] += lie is not None
        if isinstance(lie, int):
            raise OSError(lie, "made up")
        if lie == "torn":
            await super().set(key, value[: len(value) // 2])
        elif lie == "late":
            self.late.append((self.changes + LATE, key, default_buffer_prototype().buffer.from_bytes(value.to_bytes())))
        elif lie is None:
            await super().set(key, value)

    async def arrive(self, until: int) -> None:
        """What was late comes."""
        due = [one for one in self.late if one[0] <= until]
        self.late = [one for one in self.late if one[0] > until]
        for _, key, value in due:
            await super().set(key, value)

    async def set(self, key: str, value: Buffer) -> None:
        await self._change(key, value, new=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._change(key, value, new=True)

    async def get(self, *args: Any, **options: Any) -> Buffer | None:
        lie = self.lies.reads.get(self.reads)
        self.reads += 1
        found = await super().get(*args, **options)
        if found is None or lie is None:
            return found
        self.lies.told[lie] += 1
        if isinstance(lie, int):
            raise OSError(lie, "made up")
        return found[: len(found) // 2] if lie == "torn" else None


def attempt(folder: Path, lies: Lies, job: dict[str, Any], **options: Any) -> Int4Array | None:
    """One run on a store that lies; None where it stopped with an error of ours or the system's."""
    from zarr.core.sync import sync

    store = LyingStore(folder, lies)
    try:
        return quantize_to_zarr(VALUES, store, **{"chunks": (4, 6), "workers": 1, **job}, **options)
    except (QuantizeError, OSError):
        return None
    finally:
        sync(store.arrive(1 << 30))


RIGHT: dict[str, dict[str, bytes]] = {}


def right(folder: Path, job: dict[str, Any]) -> dict[str, bytes]:
    """The files of the job where nothing goes wrong."""
    if str(job) not in RIGHT:
        shutil.rmtree(folder, ignore_errors=True)
        assert attempt(folder, Lies({}), job) is not None
        RIGHT[str(job)] = files(folder)
    return RIGHT[str(job)]


def is_read(folder: Path) -> bool:
    """Whether a reader gets values without an error."""
    try:
        open_int4(folder)[...]
    except (StoreError, FileNotFoundError):
        return False
    return True


PLANS = st.builds(
    Lies,
    st.dictionaries(st.integers(0, 24), st.sampled_from(FAULTS), max_size=6),
    st.dictionaries(st.integers(0, 40), st.sampled_from(FAULTS), max_size=3),
)
EXAMPLES = [60, slow(400)]


def quietly(examples: int) -> settings:
    return settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_with_verify_no_plan_of_faults_ends_in_a_wrong_byte(tmp_path: Path, examples: int) -> None:
    told: Counter[Any] = Counter()

    @quietly(examples)
    @given(st.lists(PLANS, min_size=1, max_size=3), st.sampled_from(JOBS))
    def hold(plans: list[Lies], job: dict[str, Any]) -> None:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        expected = right(tmp_path / "right", job)
        for lies in plans:
            attempt(tmp_path / "a", lies, job, verify=True)
            if is_read(tmp_path / "a"):
                assert files(tmp_path / "a") == expected
            told.update(lies.told)

    hold()
    print(dict(told))
    assert set(told) >= set(FAULTS)  # a plan that comes to nothing tests nothing


@pytest.mark.parametrize("examples", EXAMPLES[1:])
def test_without_it_verify_finds_every_torn_and_lost_chunk(tmp_path: Path, examples: int) -> None:
    @quietly(examples)
    @given(PLANS, st.sampled_from(JOBS))
    def hold(lies: Lies, job: dict[str, Any]) -> None:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        expected = right(tmp_path / "right", job)
        attempt(tmp_path / "a", lies, job)
        there = files(tmp_path / "a")
        wrong = {key for key in {*there, *expected} if there.get(key) != expected.get(key)}
        try:
            found = verify(tmp_path / "a")
        except (StoreError, FileNotFoundError):
            assert wrong
        else:
            named = {key.partition(",")[0] for key, _ in found.damaged}
            hiding = {
                key for key in named if "scale/c/" in key or "zero_point/c/" in key
            }  # without them no codes are read
            assert named == wrong or (named < wrong and hiding)
        if not wrong:
            assert is_read(tmp_path / "a")

    hold()


@pytest.mark.parametrize(
    ("job", "lie"), combined([*((JOBS[0], lie) for lie in FAULTS[:4]), (JOBS[7], "torn")], JOBS, FAULTS), ids=str
)
def test_each_change_of_a_run_may_go_wrong(tmp_path: Path, job: dict[str, Any], lie: Any) -> None:
    """With `verify` a run mends it or stops; the next on a store that is sound ends right, whatever the fault."""
    expected = right(tmp_path / "right", job)
    for number in range(100):
        folder = tmp_path / str(number)
        lies = Lies({number: lie})
        array = attempt(folder, lies, job, verify=True)
        if lies.told.total() == 0:
            break
        assert (array is not None) == (lie not in (errno.ENOSPC, errno.EACCES))
        quantize_to_zarr(VALUES, folder, **{"chunks": (4, 6), "workers": 1, **job})
        assert files(folder) == expected
    assert number >= 7


def test_a_chunk_that_stays_torn_is_an_error_and_not_left(tmp_path: Path) -> None:
    lies = Lies(dict.fromkeys(range(8, 100), "torn"))
    with pytest.raises(OSError, match=r"reads back other bytes than were written: .*data/c/\d"):
        quantize_to_zarr(VALUES, LyingStore(tmp_path, lies), chunks=(4, 6), workers=1, verify=True)
    quantize_to_zarr(VALUES, tmp_path, chunks=(4, 6), workers=1)
    assert verify(tmp_path, source=VALUES).ok


@pytest.mark.parametrize("job", [JOBS[0], JOBS[4], JOBS[5], slow(JOBS[6]), JOBS[7]], ids=str)
def test_with_verify_what_an_earlier_run_wrote_is_read(tmp_path: Path, job: dict[str, Any]) -> None:
    """A run without it, which a torn chunk passed, is stopped; one with it goes on."""
    expected = right(tmp_path / "right", job)
    chunks = [key for key in expected if "/c/" in key and not key.startswith("data_z")]
    for number, key in enumerate(chunks):
        folder = tmp_path / str(number)

        def stop(event: Any) -> None:
            if getattr(event, "phase", "") == "write" and event.done == event.total:
                raise InterruptedError

        attempt(folder, Lies({}), job, progress=stop)
        (folder / key).write_bytes(expected[key][:-1])
        assert not is_read(folder)
        phases: list[Any] = []
        attempt(folder, Lies({}), job, verify=True, progress=phases.append)
        assert "verify" in {getattr(event, "phase", "") for event in phases}
        assert files(folder) == expected


@pytest.mark.parametrize("job", [JOBS[0], JOBS[4], JOBS[5], slow(JOBS[6]), JOBS[7]], ids=str)
def test_with_verify_what_is_whole_is_read_and_not_changed(tmp_path: Path, job: dict[str, Any]) -> None:
    """A finished job has nothing to do, but a damaged one does not pass for finished, and loses nothing more."""
    job = {"chunks": (4, 6), **job}
    again = functools.partial(quantize_to_zarr, VALUES, tmp_path, verify=True, **job)
    again()
    expected = files(tmp_path)
    again()
    for key in (key for key in expected if key.startswith("data/c/")):
        damaged = {**expected, key: expected[key][:-1]}
        (tmp_path / key).write_bytes(damaged[key])
        with pytest.raises(DamagedChunkError, match=f"{key} is damaged"):
            again()
        with pytest.raises(DamagedChunkError, match=f"{key} is damaged"):
            quantize_part(VALUES, tmp_path, 1, 1, verify=True, **job)
        assert files(tmp_path) == damaged
        (tmp_path / key).unlink()
        with pytest.raises(DamagedChunkError, match=f"{key} is damaged"):
            again()
        (tmp_path / key).write_bytes(expected[key])
    again()
    for key in (key for key in expected if "scale/c/" in key):
        (tmp_path / key).write_bytes(expected[key][:-1])
        with pytest.raises(DamagedChunkError):
            again()
        (tmp_path / key).unlink()
        with pytest.raises(DamagedChunkError):
            again()
    again(overwrite=True)
    assert files(tmp_path) == expected


def test_a_damaged_chunk_is_none_of_numbers(tmp_path: Path) -> None:
    attempt(tmp_path, Lies({}), {})
    (tmp_path / "data/c/1/0").write_bytes(b"")
    with pytest.raises(DamagedChunkError, match="data/c/1/0"):
        open_int4(tmp_path)[...]
