"""Runs that are killed (SIGKILL) at any moment, alone or with their workers, and run again: they cost no byte."""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import distributed
import numpy as np
import pytest
from stores import check, field, files

from quantize import StoreError, open_int4, quantize_dataset, quantize_to_zarr
from quantize.store.keys import LEFTOVER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL"),
]

UNITS = 400
JOB: dict[str, Any] = {"chunks": (40, 64), "workers": 2}
VALUES = field((40 * UNITS, 64))
PHASES = ("scan", "write")


def job(
    source: Path, store: Path, point: tuple[str, int] | None, cluster: bool, options: dict[str, Any], say: Connection
) -> None:
    """The run that is killed. It says once that it has come to a point, and at last that it has come to its end.

    Its workers have the pipe too, as their output, so that it ends with the last of them.
    """
    os.setsid()
    os.dup2(say.fileno(), 1)
    ahead = [] if point is None else [(PHASES.index(point[0]), point[1])]

    def progress(event: Any) -> None:
        if ahead and hasattr(event, "phase") and (PHASES.index(event.phase), event.done) >= ahead[0]:
            ahead.clear()
            say.send("there")

    with ExitStack() as stack:
        if cluster:
            workers = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
            stack.enter_context(distributed.Client(stack.enter_context(workers)))
        run = quantize_to_zarr if source.suffix == ".npy" else quantize_dataset
        run(source, store, **options, progress=progress)
    say.send("sealed")


class Run:
    """One run, in a process with a group of its own; where a point is named it has come to that."""

    def __init__(
        self,
        source: Path,
        store: Path,
        point: tuple[str, int] | None = None,
        cluster: bool = False,
        options: dict[str, Any] = JOB,
    ) -> None:
        context: Any = multiprocessing.get_context("forkserver")  # one process imports all, each run begins as its copy
        context.set_forkserver_preload(["pytest", "quantize.pipeline", "quantize.kernels", "distributed"])
        self.said, say = context.Pipe(duplex=False)
        self.process = context.Process(target=job, args=(source, store, point, cluster, options, say))
        self.process.start()
        say.close()
        assert point is None or self.said.recv() == "there"

    def kill(self, delay: float = 0, group: bool = False) -> bool:
        """Kill it, or with it all processes of its group, after some seconds; whether it was still at it."""
        if self.said.poll(delay):
            assert self.said.recv() == "sealed"
            self.process.join(60)
            return False
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.join(60)
        return True

    def ends(self) -> bool:
        """Whether the last process of its group ends."""
        while self.said.poll(60):
            try:
                self.said.recv_bytes()
            except EOFError:
                return True
        return False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "x.npy"
    np.save(path, VALUES)
    return path


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, bytes]:
    """What is to come of it."""
    array = quantize_to_zarr(source, source.with_name("whole"), **JOB)
    check(array, VALUES)
    return files(source.with_name("whole"))


def assert_unreadable(store: Path) -> None:
    with pytest.raises((StoreError, FileNotFoundError)):
        open_int4(store)


def points(seed: int, of_each: int) -> Iterator[tuple[str, int]]:
    """Points of a run in their order, drawn from both of its passes."""
    draw = random.Random(seed)
    for phase in PHASES:
        for done in sorted(draw.sample(range(UNITS - 100), of_each)):
            yield phase, done


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_cost_no_byte(tmp_path: Path, source: Path, whole: dict[str, bytes], seed: int) -> None:
    for point in points(seed, 5):
        assert Run(source, tmp_path, point).kill()
        assert_unreadable(tmp_path)
    quantize_to_zarr(source, tmp_path, **JOB)
    assert files(tmp_path) == whole


@pytest.mark.parametrize("options", [{"blocks": (1, 32)}, {"blocks": (4, 8), "chunks": (20, 64), "shards": (40, 64)}])
def test_kills_of_a_run_that_chooses_scales_of_blocks_cost_no_byte(
    tmp_path: Path, source: Path, options: dict[str, Any]
) -> None:
    blocks = {**JOB, "scale_method": "mse", **options}
    quantize_to_zarr(source, tmp_path / "whole", **blocks)
    for phase, done in points(4, 5):
        if phase == "write":  # the only one
            assert Run(source, tmp_path / "z", (phase, done), options=blocks).kill()
            assert_unreadable(tmp_path / "z")
    quantize_to_zarr(source, tmp_path / "z", **blocks)
    assert files(tmp_path / "z") == files(tmp_path / "whole")


def test_thirty_kills_at_random_times_cost_no_byte(tmp_path: Path, source: Path, whole: dict[str, bytes]) -> None:
    """Run after run is killed until one comes to its end, and then the next store is begun."""
    began = monotonic()
    assert Run(source, tmp_path / "measured").ends()
    length = monotonic() - began
    draw = random.Random(0)
    kills = stores = 0
    while kills < 30:
        store = tmp_path / str(stores)
        if Run(source, store).kill(draw.uniform(0, length)):
            kills += 1
            if files(store) != whole:  # the kill may come after the last write
                assert_unreadable(store)
        else:
            assert files(store) == whole
            stores += 1
    quantize_to_zarr(source, store, **JOB)
    assert files(store) == whole


def test_ten_kills_at_random_times_cost_a_collection_no_byte(tmp_path: Path) -> None:
    """A checkpoint of 248 tensors, of which 100 are kept, and three begin anew once they come upon what is missing."""
    tensors = {f"layer.{number}.weight": field((96, 64), seed=number) for number in range(148)}
    for number in (3, 70, 147):
        tensors[f"layer.{number}.weight"][50, number % 64] = np.nan
    tensors |= {f"layer.{number}.bias_scale:ö": np.arange(100) + number for number in range(100)}
    source = tmp_path / "x.npz"
    np.savez(source, **tensors)  # type: ignore[arg-type]
    options = {"workers": 2, "rules": {"layer.?.weight": {"blocks": (1, 32), "chunks": (32, 64)}}}
    began = monotonic()
    assert Run(source, tmp_path / "whole", options=options).ends()
    length = monotonic() - began
    whole = files(tmp_path / "whole")
    draw = random.Random(0)
    kills = stores = 0
    while kills < 10:
        store = tmp_path / str(stores)
        if Run(source, store, options=options).kill(draw.uniform(0.1, 0.6) * length):
            kills += 1
            if files(store) != whole:
                assert_unreadable(store)
        else:
            assert files(store) == whole
            stores += 1
    found = quantize_dataset(source, store, **options)
    assert files(store) == whole
    for name, values in tensors.items():
        if name not in found.quantized:
            np.testing.assert_array_equal(found[name][...], values)


@pytest.mark.parametrize("group", [True, False], ids=["all", "driver"])
def test_kills_of_a_cluster_cost_no_byte(tmp_path: Path, source: Path, whole: dict[str, bytes], group: bool) -> None:
    """The driver alone, or its workers too: those that are left end, and do no harm to the run that goes on."""
    killed = []
    for point in points(2 + group, 1):
        killed.append(Run(source, tmp_path, point, cluster=True))
        assert killed[-1].kill(group=group)
        assert_unreadable(tmp_path)
    quantize_to_zarr(source, tmp_path, **JOB)
    assert files(tmp_path) == whole
    assert all(run.ends() for run in killed)
    assert files(tmp_path) == whole


def test_workers_that_outlive_their_driver_and_its_successor_change_no_byte(
    tmp_path: Path, source: Path, whole: dict[str, bytes]
) -> None:
    """They are held in the middle of pass 2 until another run has sealed the store."""
    run = Run(source, tmp_path, ("write", UNITS // 2), cluster=True)
    os.killpg(run.process.pid, signal.SIGSTOP)
    assert run.kill()
    assert_unreadable(tmp_path)
    quantize_to_zarr(source, tmp_path, **JOB)
    assert files(tmp_path) == whole
    os.killpg(run.process.pid, signal.SIGCONT)
    assert run.ends()
    assert {name: data for name, data in files(tmp_path).items() if not LEFTOVER.fullmatch(Path(name).name)} == whole
