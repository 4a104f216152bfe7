"""One job in parts: whatever their number, order and deaths, the bytes are those of one run."""

import asyncio
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import check, field, files
from zarr.storage import LocalStore

from quantize import (
    RefusedValuesError,
    SourceChangedError,
    StoreError,
    UnfinishedStoreError,
    open_int4,
    quantize_part,
    quantize_to_zarr,
    seal,
)
from quantize.cli import commands as cli

VALUES = field((24, 18))
JOBS: list[dict[str, Any]] = [
    {"chunks": (4, 6)},
    {"chunks": (4, 6), "value_range": (-50, 80)},
    {"chunks": (4, 6), "axis": 1},
    {"chunks": (4, 18), "axis": 0},  # one read
    {"chunks": (4, 6), "scale_method": "mse"},
    {"chunks": (4, 6), "shards": (8, 6)},
    {"chunks": (24, 18)},  # one unit
    {"chunks": (4, 6), "blocks": (1, 3)},
    {"chunks": (4, 6), "shards": (8, 12), "blocks": (4, 2), "scale_method": "mse"},
]
WHOLE: dict[str, dict[str, bytes]] = {}


def whole(folder: Path, job: dict[str, Any]) -> dict[str, bytes]:
    if str(job) not in WHOLE:
        quantize_to_zarr(VALUES, folder / "whole", **job, workers=1)
        WHOLE[str(job)] = files(folder / "whole")
    return WHOLE[str(job)]


class Death(Exception):
    pass


def dying(after: int) -> Any:
    """A progress function that lets its run die at an event."""
    left = itertools.count(after, -1)

    def progress(event: Any) -> None:
        if next(left) == 0:
            raise Death

    return progress


@pytest.mark.slow
@given(
    st.sampled_from(JOBS),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 30)), max_size=4),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_give_the_bytes_of_one_run(
    tmp_path_factory: pytest.TempPathFactory,
    job: dict[str, Any],
    before: list[tuple[int, int, int]],
    parts: int,
    order: random.Random,
) -> None:
    """Some parts of any number run and die first; then all of one number, in any order, in two rounds."""
    folder = tmp_path_factory.mktemp("parts")
    for number, other, after in before:
        try:
            quantize_part(VALUES, folder / "a", min(other + 1, number), number, **job, progress=dying(after))
        except Death:
            with pytest.raises((StoreError, FileNotFoundError)):
                open_int4(folder / "a")
    numbers = list(range(1, parts + 1))
    written = []
    for _ in range(2):
        order.shuffle(numbers)
        written = [quantize_part(VALUES, folder / "a", number, parts, **job) for number in numbers]
    assert all(written)
    seal(folder / "a")
    assert files(folder / "a") == whole(folder, job)
    shutil.rmtree(folder)


def test_a_part_says_whether_it_is_written(tmp_path: Path) -> None:
    assert [quantize_part(VALUES, tmp_path, part, 3, **JOBS[0]) for part in (2, 1, 3)] == [False, False, True]
    with pytest.raises(UnfinishedStoreError, match=r"lacks 12 of 18 chunks, data/c/0/0 the first; run again"):
        seal(tmp_path)
    assert [quantize_part(VALUES, tmp_path, part, 3, **JOBS[0]) for part in (1, 2)] == [True, True]
    check(seal(tmp_path), VALUES)
    check(seal(tmp_path), VALUES)
    assert quantize_part(VALUES, tmp_path, 1, 3, **JOBS[0])


def test_with_one_pass_there_is_one_round(tmp_path: Path) -> None:
    assert all(quantize_part(VALUES, tmp_path, part, 4, **JOBS[1]) for part in (1, 2, 3, 4))
    assert files(tmp_path) != whole(tmp_path / "x", JOBS[1])
    seal(tmp_path)


def test_one_run_finishes_what_parts_began(tmp_path: Path) -> None:
    quantize_part(VALUES, tmp_path / "a", 2, 3, **JOBS[0])
    quantize_to_zarr(VALUES, tmp_path / "a", **JOBS[0])
    assert files(tmp_path / "a") == whole(tmp_path, JOBS[0])


def test_seal_refuses_what_pass_1_has_not_scanned(tmp_path: Path) -> None:
    quantize_part(VALUES, tmp_path, 2, 3, **JOBS[0])
    with pytest.raises(UnfinishedStoreError, match="no scale yet: pass 1 is not done"):
        seal(tmp_path)
    with pytest.raises(FileNotFoundError):
        seal(tmp_path.with_name("none") / "none")
    with pytest.raises(StoreError, match="holds no int4 variable 'none'; there are: data"):
        seal(tmp_path / "none")


def test_refused_values_are_refused_by_every_part_and_nothing_is_removed(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[5, 5] = np.nan
    assert not quantize_part(values, tmp_path, 1, 2, **JOBS[0])
    for part in (2, 1):
        with pytest.raises(RefusedValuesError, match=r"1 NaN.*\(5, 5\).*stays, not readable: remove .*/data"):
            quantize_part(values, tmp_path, part, 2, **JOBS[0])
    with pytest.raises(UnfinishedStoreError):
        seal(tmp_path)


def test_another_job_is_refused(tmp_path: Path) -> None:
    quantize_part(VALUES, tmp_path, 1, 2, **JOBS[0])
    with pytest.raises(StoreError, match="scale_method was minmax and is absmax"):
        quantize_part(VALUES, tmp_path, 2, 2, **JOBS[0], scale_method="absmax")


def test_a_source_that_changed_is_not_sealed(tmp_path: Path) -> None:
    values = VALUES.copy()
    for part in (1, 2):
        quantize_part(values, tmp_path, part, 2, **JOBS[0])
    values[:-4] *= 0.5
    values[0], values[-1] = VALUES[0], VALUES[-1]
    (tmp_path / "data/c/2/0").unlink(missing_ok=True)
    with pytest.raises((SourceChangedError, StoreError)):
        quantize_part(values, tmp_path, 1, 2, **JOBS[0])
    with pytest.raises(StoreError):
        seal(tmp_path)


class SealedByAnother(LocalStore):
    """A folder in which another run does all of the job, and seals it, as one key is read for the n-th time."""

    def __init__(self, root: Any, key: str, time: int, other: Callable[[], Any]) -> None:
        super().__init__(root)
        self.key, self.left, self.other = key, time, other

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self.left -= key == self.key
        if not self.left and key == self.key:
            self.left = -1
            await asyncio.to_thread(self.other)
        return await super().get(key, *args, **options)


@pytest.mark.parametrize(
    ("job", "key", "time"),
    [
        (JOBS[0], "data/zarr.json", 1),  # it begins
        (JOBS[0], "data_scan/c/0", 1),  # it looks for what others have scanned
        (JOBS[0], "data_scan/c/0", 2),  # it looks whether all is scanned
        (JOBS[0], "data_scan/c/0", 3),  # it chooses the scale
        (JOBS[0], "data_scan/c/17", 3),  # it writes
        (JOBS[2], "data_scan/c/0", 1),  # it chooses the scales of an axis
        (JOBS[4], "data_histogram/c/0", 1),  # it merges histograms
    ],
)
def test_a_part_that_comes_late_to_what_others_have_sealed_ends_well(
    tmp_path: Path, job: dict[str, Any], key: str, time: int
) -> None:
    assert not quantize_part(VALUES, tmp_path / "a", 1, 2, **job)
    sealed = []
    store = SealedByAnother(
        tmp_path / "a", key, time, lambda: sealed.append(quantize_to_zarr(VALUES, tmp_path / "a", **job))
    )
    assert quantize_part(VALUES, store, 2, 2, **job)
    assert len(sealed) == 1
    assert files(tmp_path / "a") == whole(tmp_path, job)


@pytest.mark.parametrize(("part", "parts"), [(0, 2), (3, 2), (-1, -1), (1, 0)])
def test_parts_are_counted_from_1(tmp_path: Path, part: int, parts: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        quantize_part(VALUES, tmp_path, part, parts)
    assert not list(tmp_path.iterdir())


# In the shell ---------------------------------------------------------------------------------------------------------


def quantize(*arguments: object) -> Any:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_the_commands_of_an_array_job(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    job = ["run", tmp_path / "x.npy", tmp_path / "z", "--chunks", "4,6"]
    first, second = (quantize(*job, "--part", part) for part in ("1/2", "2/2"))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert (
        "part 1 of 2 has done its pass 1, not all others have. Once they have, run again\n  quantize run"
        in first.stdout
    )
    assert f"part 2 of 2 is written. Once all are, run\n  quantize seal {tmp_path / 'z'} --name data" in second.stdout
    early = quantize("seal", tmp_path / "z")
    assert (early.exit_code, "lacks 9 of 18 chunks" in early.stderr) == (3, True)
    assert quantize(*job, "--part", "1/2").exit_code == 0
    assert f"sealed {tmp_path / 'z'}/data\n" in quantize("seal", tmp_path / "z", "--durable").stdout
    check(open_int4(tmp_path / "z"), VALUES)
    assert '"written": true' in quantize(*job, "--part", "1/2", "--json").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "3/2"], "'3/2' is not a part such as 3/8"),
        (["--part", "0/2"], "'0/2' is not a part such as 3/8"),
        (["--part", "two"], "'two' is not a part such as 3/8"),
        (["--part", "1/2", "--overwrite"], "--overwrite does not go with --part"),
        (["--part", "1/2", "--durable"], "pass it to `quantize seal`"),
    ],
)
def test_parts_that_make_no_sense(tmp_path: Path, options: list[str], words: str) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    result = quantize("run", tmp_path / "x.npy", tmp_path / "z", *options)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "z").exists()


@pytest.mark.slow
def test_an_array_job_of_processes_of_which_some_are_killed(tmp_path: Path) -> None:
    """Four processes at once, each round one of them killed and run again; then the seal."""
    values = field((4000, 64))
    np.save(tmp_path / "x.npy", values)
    job = ["run", str(tmp_path / "x.npy"), str(tmp_path / "z"), "--chunks", "40,64", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def begin(part: int) -> subprocess.Popen[str]:
        code = "from quantize.cli import main; main()"
        command = [sys.executable, "-c", code, *job, "--part", f"{part}/4"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    draw = random.Random(0)
    for _ in range(2):
        running = {part: begin(part) for part in (1, 2, 3, 4)}
        victim = draw.choice(list(running))
        stderr = running[victim].stderr
        assert stderr is not None
        stderr.readline()  # it has begun
        running[victim].send_signal(signal.SIGKILL)
        running[victim].communicate(timeout=60)
        running[victim] = begin(victim)
        for child in running.values():
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, err
    assert "is written" in out
    seal(tmp_path / "z")
    quantize_to_zarr(values, tmp_path / "whole", chunks=(40, 64))
    assert files(tmp_path / "z") == files(tmp_path / "whole")
