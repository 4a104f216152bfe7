"""Whatever becomes of the scheduler, the client and the workers of a cluster: a run ends, or goes on, and says so."""

import functools
import json
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import h5py
import numpy as np
import obstore
import pytest
import zarr
from click.testing import CliRunner
from clusters import Held, Meanwhile, Processes
from marks import mostly_slow, slow
from stores import expected, field, files
from zarr.storage import LoggingStore, MemoryStore, ObjectStore

from quantize import WorkersError, measure_error, open_int4, plan, quantize_to_zarr, restore, verify
from quantize.cli import commands, terminal
from quantize.runtime.schedulers import Task, run_tasks

pytestmark = pytest.mark.timeout(60)

VALUES = field((120, 30))
JOB: dict[str, Any] = {"chunks": (35, 10), "axis": 0}  # with all phases: scales are chosen by tasks between the passes
PHASES = ("scan", "scale", "write")
LOST = r"the connection to the scheduler tcp://127.0.0.1:\d+ was lost.*Run again to go on"
CLOSED = r"the Client of the .* was closed. Run again to go on"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", VALUES)
    return tmp_path / "x.npy"


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """A client that is closed in its own `with` block leaves Dask set to it."""
    with dask.config.set(scheduler=None):
        yield


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def client(processes: Processes) -> Iterator[distributed.Client]:
    """Of a scheduler and one worker, which are the test's own."""
    processes.scheduler()
    processes.worker()
    with dask.config.set({"distributed.comm.timeouts.connect": "20s"}), distributed.Client(processes.address) as client:
        client.wait_for_workers(1, timeout=40)
        client.register_plugin(Held(processes.folder))
        yield client


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler and a worker with a nanny, for tests that leave them as they were."""
    with Processes(tmp_path_factory.mktemp("cluster")) as processes:
        processes.scheduler()
        processes.worker(nanny=True)
        yield processes


@pytest.fixture
def shared(lasting: Processes, tmp_path: Path) -> Iterator[distributed.Client]:
    """A client of the cluster that lasts."""
    with distributed.Client(lasting.address) as client:
        client.wait_for_workers(1, timeout=40)
        client.register_plugin(Held(tmp_path))
        yield client
        if client.status == "running":
            client.unregister_worker_plugin("held")


def is_right(array: Any) -> None:
    """Each row is what the functions in memory make of it."""
    np.testing.assert_array_equal(array[...], np.stack([expected(row)[1] for row in VALUES]))


def is_finished_on_threads(source: Path, folder: Path) -> None:
    """The same call without a cluster goes on where the run ended, to the bytes of an undisturbed one."""
    assert plan(source, folder / "z", **JOB).scheduler == "threads"
    is_right(quantize_to_zarr(source, folder / "z", **JOB))
    quantize_to_zarr(source, folder / "undisturbed", **JOB)
    assert files(folder / "z") == files(folder / "undisturbed")


# The scheduler goes ---------------------------------------------------------------------------------------------------


def killed(processes: Processes) -> None:
    processes.kill(processes.children[0])


def ended(processes: Processes) -> None:
    processes.children[0].terminate()
    processes.children[0].wait(60)


def killed_and_started_again(processes: Processes) -> None:
    killed(processes)
    processes.scheduler()
    processes.worker()


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (killed, "write"),
        *(
            slow(event, phase)
            for event in (killed, ended, killed_and_started_again)
            for phase in ("questions", *PHASES)
            if (event, phase) != (killed, "write")
        ),
    ],
)
def test_a_scheduler_that_is_lost_ends_the_run(
    processes: Processes,
    client: distributed.Client,
    source: Path,
    tmp_path: Path,
    event: Callable[[Processes], None],
    phase: str,
) -> None:
    with (
        Meanwhile(phase, client, tmp_path, functools.partial(event, processes)) as meanwhile,
        pytest.raises(WorkersError, match=LOST),
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    client.close()
    processes.__exit__()
    is_finished_on_threads(source, tmp_path)


@pytest.mark.slow
def test_a_run_ends_where_its_scheduler_is_not_there_any_more(
    processes: Processes, client: distributed.Client, source: Path, tmp_path: Path
) -> None:
    made = functools.partial(plan, source, tmp_path / "z", **JOB)
    assert made().scheduler == "distributed"
    killed(processes)
    while client.status == "running":
        pass
    for call in (made, functools.partial(quantize_to_zarr, source, tmp_path / "z", **JOB)):
        with pytest.raises(WorkersError, match=LOST):
            call()
    assert not (tmp_path / "z").exists()


# The client goes, or what it asked for --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["scan", "questions", "scale", "write"])
def test_a_client_that_is_closed_ends_the_run(
    shared: distributed.Client, source: Path, tmp_path: Path, phase: str
) -> None:
    with (
        Meanwhile(phase, shared, tmp_path, shared.close) as meanwhile,
        pytest.raises(WorkersError, match=CLOSED),
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    is_finished_on_threads(source, tmp_path)


@pytest.mark.parametrize("phase", ["scan", slow("scale"), slow("write")])
def test_tasks_that_are_cancelled_are_not_done(
    shared: distributed.Client, source: Path, tmp_path: Path, phase: str
) -> None:
    cancelled = []

    def cancel() -> None:
        under_way = list(shared.futures.values())
        shared.cancel([distributed.Future(key, shared) for key in list(shared.futures)])
        cancelled.extend(state.status for state in under_way)

    with Meanwhile(phase, shared, tmp_path, cancel) as meanwhile:
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    assert cancelled
    assert set(cancelled) == {"cancelled"}
    shared.close()
    is_finished_on_threads(source, tmp_path)


@pytest.mark.parametrize("phase", [slow("write"), slow("scan"), slow("scale")])
def test_tasks_that_a_restart_has_taken_are_not_done(
    shared: distributed.Client, source: Path, tmp_path: Path, phase: str
) -> None:
    restarts = threading.Thread(target=shared.restart)

    def restart() -> None:
        under_way = list(shared.futures.values())
        restarts.start()
        while any(state.status != "cancelled" for state in under_way):
            pass

    with Meanwhile(phase, shared, tmp_path, restart) as meanwhile:
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    restarts.join()
    shared.close()
    is_finished_on_threads(source, tmp_path)


def test_tasks_that_are_always_cancelled_end_the_run(source: Path, tmp_path: Path) -> None:
    """Where somebody cancels whatever is under way, as often as it is begun."""
    with (
        in_this_process(1) as cluster,
        distributed.Client(cluster) as client,
    ):
        submit = client.map

        def cancelled(*arguments: Any, **options: Any) -> Any:
            futures = submit(*arguments, **options)
            client.cancel(futures)
            return futures

        client.map = cancelled
        message = r"the task for the chunks from number 7 on was cancelled or lost 3 times.*Run again to go on"
        with pytest.raises(WorkersError, match=message):
            run_tasks(
                str,
                [Task([7], (7,))],
                lambda task, result: pytest.fail("is not done"),
                "distributed",
                None,
                threading.Event(),
            )


# What does not answer, and goes on ------------------------------------------------------------------------------------


class When(logging.Handler):
    """Does something whenever the log of the library says something."""

    def __init__(self, said: str, event: Callable[[], None]) -> None:
        super().__init__()
        self.said, self.event = said, event

    def __enter__(self) -> None:
        logging.getLogger("quantize").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("quantize").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if re.search(self.said, record.getMessage()):
            self.event()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantize.runtime.schedulers.PATIENCE", 0.4)
    monkeypatch.setattr("quantize.runtime.schedulers.ANSWER", 0.4)


@pytest.mark.parametrize("phase", ["write", slow("questions"), slow("scan"), slow("scale")])
@pytest.mark.usefixtures("impatient")
def test_a_scheduler_that_is_stopped_is_told_of_and_waited_for(
    lasting: Processes, shared: distributed.Client, source: Path, tmp_path: Path, phase: str
) -> None:
    scheduler = lasting.children[0]
    said = "the scheduler .* does not answer|Waiting for every worker"
    with (
        When(said, lambda: scheduler.send_signal(signal.SIGCONT)),
        Meanwhile(phase, shared, tmp_path, lambda: scheduler.send_signal(signal.SIGSTOP)) as meanwhile,
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    shared.close()
    is_finished_on_threads(source, tmp_path)


@pytest.mark.usefixtures("impatient")
def test_ctrl_c_ends_a_run_whose_scheduler_does_not_answer(
    lasting: Processes, shared: distributed.Client, source: Path, tmp_path: Path
) -> None:
    scheduler = lasting.children[0]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            When("does not answer", lambda: os.kill(os.getpid(), signal.SIGINT)),
            Meanwhile("scan", shared, tmp_path, lambda: scheduler.send_signal(signal.SIGSTOP)) as meanwhile,
            pytest.raises(KeyboardInterrupt),
        ):
            quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    finally:
        scheduler.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGINT, before)
    shared.close()
    is_finished_on_threads(source, tmp_path)


@pytest.mark.parametrize("phase", [slow("questions"), slow("scan"), slow("scale"), slow("write")])
@pytest.mark.usefixtures("impatient")
def test_a_worker_that_is_stopped_and_killed_is_not_waited_for(
    processes: Processes, client: distributed.Client, source: Path, tmp_path: Path, phase: str
) -> None:
    """What it had is done by another, that comes."""
    first = processes.children[1]

    def another() -> None:
        if first.poll() is None:
            processes.kill(first)
            processes.worker()

    with (
        When("Waiting for", another),
        Meanwhile(phase, client, tmp_path, lambda: first.send_signal(signal.SIGSTOP)) as meanwhile,
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=meanwhile)
    client.close()
    is_finished_on_threads(source, tmp_path)


# What reads a store --------------------------------------------------------------------------------------------------

READS: dict[str, Callable[..., Any]] = {
    "verify": lambda folder, **options: verify(folder / "z", source=folder / "x.npy", **options),
    "measure": lambda folder, **options: measure_error(folder / "x.npy", folder / "z", **options),
    "restore": lambda folder, **options: restore(folder / "z", folder / "floats.zarr", overwrite=True, **options),
}


@pytest.fixture
def store(source: Path, tmp_path: Path) -> Path:
    quantize_to_zarr(source, tmp_path / "z", **JOB)
    return tmp_path / "z"


@pytest.mark.parametrize("phase", [slow(phase) for phase in READS])
@pytest.mark.parametrize(
    ("event", "message"),
    [
        (lambda processes, client: killed(processes), LOST),
        (lambda processes, client: killed_and_started_again(processes), LOST),
        (lambda processes, client: client.close(), CLOSED),
    ],
    ids=["killed", "killed and started again", "client closed"],
)
def test_a_cluster_that_is_lost_ends_what_reads_a_store(
    store: Path,
    processes: Processes,
    client: distributed.Client,
    tmp_path: Path,
    event: Callable[[Processes, Any], None],
    message: str,
    phase: str,
) -> None:
    """It leaves nothing behind, and does all of it when it is called again."""
    with (
        Meanwhile(phase, client, tmp_path, functools.partial(event, processes, client)) as meanwhile,
        pytest.raises(WorkersError, match=message),
    ):
        READS[phase](tmp_path, progress=meanwhile)
    client.close()
    processes.__exit__()
    assert not list(tmp_path.glob("*floats.zarr*"))
    found = [read(tmp_path) for read in READS.values()]
    assert found[0].ok
    assert found[1].within_bound
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "floats.zarr")[...], open_int4(store)[...])


@pytest.mark.parametrize("phase", [slow(phase) for phase in READS])
@pytest.mark.usefixtures("impatient")
def test_ctrl_c_ends_what_reads_a_store(
    store: Path, lasting: Processes, shared: distributed.Client, tmp_path: Path, phase: str
) -> None:
    """Whose scheduler does not answer meanwhile."""
    scheduler = lasting.children[0]
    stopped = threading.Event()

    def stop() -> None:
        scheduler.send_signal(signal.SIGSTOP)
        stopped.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            When("does not answer", lambda: stopped.is_set() and os.kill(os.getpid(), signal.SIGINT)),
            Meanwhile(phase, shared, tmp_path, stop) as meanwhile,
            pytest.raises(KeyboardInterrupt),
        ):
            READS[phase](tmp_path, progress=meanwhile)
    finally:
        scheduler.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.glob("*floats.zarr*"))


@pytest.mark.parametrize("phase", [slow(phase) for phase in READS])
def test_a_worker_that_came_later_and_does_not_see_the_store_is_refused(
    store: Path, nobody: distributed.LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """To it all chunks would be missing."""
    nobody.scale(1)

    def changed(event: Any) -> None:
        if event.done == 0:
            monkeypatch.setattr("quantize.storage.Variable.metadata", lambda self: None)

    with pytest.raises(WorkersError, match=r"worker inproc://\S+ has not the .*z/data that this.*shared folders"):
        READS[phase](tmp_path, progress=changed)
    assert not list(tmp_path.glob("*floats.zarr*"))


# Workers that come later ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_that_come_later_are_waited_for(processes: Processes, source: Path, tmp_path: Path) -> None:
    processes.scheduler()
    with distributed.Client(processes.address) as client:
        made = plan(source, tmp_path / "z", **JOB)
        assert (made.scheduler, made.workers, made.limit) == ("distributed", 1, None)
        assert "the cluster has no workers yet, and the run waits for them; the figures are for one task" in made.notes
        with When("has no workers yet: waiting for them", processes.worker):
            quantize_to_zarr(source, tmp_path / "z", **JOB)
        alone = plan(source, tmp_path / "z", **JOB, workers=1)
        assert made.memory == alone.memory
        assert (alone.workers, alone.limit) == (1, 1)
        client.close()
    is_finished_on_threads(source, tmp_path)


def in_this_process(workers: int) -> distributed.LocalCluster:
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=2, dashboard_address=":0", processes=False, silence_logs=False
    )


@pytest.fixture
def nobody() -> Iterator[distributed.LocalCluster]:
    """A cluster in this process that has no workers."""
    with in_this_process(0) as cluster, distributed.Client(cluster):
        yield cluster


@pytest.mark.slow
def test_workers_that_do_not_come_are_waited_for_as_long_as_dask_is_told(source: Path, tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "1s"}),
        in_this_process(0) as cluster,
        distributed.Client(cluster),
        pytest.raises(WorkersError, match=r"had no workers for 1 s, as long as its setting .*run again to go on"),
    ):
        quantize_to_zarr(source, tmp_path / "z", **JOB)
    assert not (tmp_path / "z").exists()


def test_a_budget_holds_for_workers_that_come_later(
    nobody: distributed.LocalCluster, source: Path, tmp_path: Path
) -> None:
    least = plan(source, tmp_path / "z", **JOB).memory
    assert plan(source, tmp_path / "z", **JOB, memory=least).limit == 1
    assert plan(source, tmp_path / "z", **JOB, memory=3 * least).limit == 3
    assert plan(source, tmp_path / "z", **JOB, memory=3 * least, workers=2).limit == 2
    with pytest.raises(ValueError, match="too small for one task"):
        plan(source, tmp_path / "z", **JOB, memory=least - 1)


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        ("quantize.runtime.cluster", "__version__", "0.0.9", r"has quantize 0\.0\.9, and this process .*Install"),
        (
            "quantize.runtime.cluster",
            "digest",
            lambda source: "other",
            "has .*x.npy with other values than this process",
        ),
    ],
)
def test_a_worker_that_came_after_the_questions_is_asked_too(
    nobody: distributed.LocalCluster,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    value: Any,
    message: str,
) -> None:
    """Here the workers are threads of this process, which is another for them once it has asked."""
    nobody.scale(1)
    monkeypatch.setattr("quantize.runtime.cluster.ABLE", set())

    def changed(event: Any) -> None:
        if getattr(event, "phase", "") == "scan" and event.done == 0:
            monkeypatch.setattr("quantize.runtime.cluster.ABLE", set())
            monkeypatch.setattr(f"{module}.{name}", value)

    with pytest.raises(WorkersError, match=rf"worker inproc://\S+ {message}"):
        quantize_to_zarr(source, tmp_path / "z", **JOB, progress=changed)
    monkeypatch.undo()
    is_right(quantize_to_zarr(source, tmp_path / "z", **JOB))


# What lives in this process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["file object", "for writing", "image in memory", "by name"])
def test_datasets_that_no_other_process_can_open_stay_in_this_one(
    nobody: distributed.LocalCluster, tmp_path: Path, way: str
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(16, 30))
    with open(tmp_path / "x.h5", "rb") as opened:
        arguments: dict[str, Any] = {
            "file object": {"name": opened, "mode": "r"},
            "for writing": {"name": tmp_path / "x.h5", "mode": "r+"},
            "image in memory": {"name": "never.h5", "mode": "w", "driver": "core", "backing_store": False},
            "by name": {"name": tmp_path / "x.h5", "mode": "r"},
        }[way]
        with h5py.File(**arguments) as file:
            dataset = file["x"] if "x" in file else file.create_dataset("x", data=VALUES)
            made = plan(dataset, tmp_path / "z", **JOB)
            if way == "by name":
                assert made.scheduler == "distributed"
                return
            assert made.scheduler == "threads"
            assert any("source lives in this process" in note for note in made.notes)
            is_right(quantize_to_zarr(dataset, tmp_path / "z", **JOB))


STORES: dict[str, Any] = {
    "obstore": lambda: ObjectStore(obstore.store.MemoryStore()),
    "fsspec": lambda: "memory://lost-clusters",
    "logged": lambda: LoggingStore(MemoryStore()),
}


@pytest.mark.parametrize("name", mostly_slow(STORES, [*STORES][:1]))
def test_a_store_in_the_memory_of_this_process_stays_in_it(
    nobody: distributed.LocalCluster, source: Path, name: str
) -> None:
    store = STORES[name]()
    made = plan(source, store, **JOB)
    assert made.scheduler == "threads"
    assert any("destination lives in this process" in note for note in made.notes)
    is_right(quantize_to_zarr(source, store, **JOB))


# From the shell -------------------------------------------------------------------------------------------------------


def quantize(*arguments: object) -> Any:
    return CliRunner().invoke(commands.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("named", ["by its address", slow("by its file")])
def test_a_command_uses_a_scheduler_that_is_named(lasting: Processes, source: Path, tmp_path: Path, named: str) -> None:
    scheduler = lasting.address if named == "by its address" else lasting.file
    job = (source, tmp_path / "z", "--chunks", "35,10", "--axis", 0, "--scheduler", scheduler)
    made = json.loads(quantize("plan", *job, "--json").stdout)
    assert (made["scheduler"], made["workers"]) == ("distributed", 1)
    result = quantize("run", *job)
    assert (result.exit_code, "1 at a time on distributed" in result.stderr) == (0, True)
    is_finished_on_threads(source, tmp_path)


@pytest.mark.parametrize("named", [slow("by its address"), slow("by its file")])
def test_commands_that_read_a_store_use_a_scheduler_that_is_named(
    store: Path, lasting: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """They say what they say without it; of a path that goes by this process's folder too."""
    monkeypatch.chdir(tmp_path)
    commands = [
        ("verify", "z", "x.npy", "--json"),
        ("report", "z", "x.npy", "-o", "{}.html", "--json"),
        ("restore", "z", "{}.zarr", "--json"),
    ]

    def results(name: str, *options: object) -> list[Any]:
        made = [quantize(*(part.format(name) for part in command), *options) for command in commands]
        assert [result.exit_code for result in made] == [0, 0, 0], [result.output for result in made]
        return [{**json.loads(result.stdout), "path": ""} for result in made]

    alone = results("alone")
    monkeypatch.setattr("quantize.store.chunks.ChunkReader.read", lambda *_: pytest.fail("is for the workers to do"))
    assert results("cluster", "--scheduler", lasting.address if named == "by its address" else lasting.file) == alone
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "alone.zarr")


def test_a_file_that_workers_cannot_write_together_is_refused(tmp_path: Path) -> None:
    result = quantize("restore", tmp_path / "z", tmp_path / "x.npy", "--scheduler", "tcp://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(
        r"error: --scheduler does not go with .*x\.npy, as several machines .* one \.npy file .*: name a Zarr array",
        result.stderr,
    )


@pytest.mark.parametrize(
    "command", [slow(("verify", "z")), slow(("report", "z", "x.npy")), slow(("restore", "z", "y.zarr"))]
)
def test_a_command_that_reads_a_store_and_whose_scheduler_is_lost_is_unfinished(
    store: Path,
    processes: Processes,
    client: distributed.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    phase = command[0].replace("report", "measure")
    call = terminal.Display.__call__
    with Meanwhile(phase, client, tmp_path, functools.partial(killed, processes)) as meanwhile:

        def display(self: terminal.Display, event: Any) -> None:
            call(self, event)
            meanwhile(event)

        monkeypatch.setattr(terminal.Display, "__call__", display)
        result = quantize(*command, "--scheduler", processes.address)
    assert result.exit_code == 3
    assert re.search(rf"error: {LOST}", result.stderr)


@pytest.mark.slow
def test_a_command_whose_scheduler_is_lost_says_how_to_go_on(
    processes: Processes, client: distributed.Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = terminal.Display.__call__
    with Meanwhile("scan", client, tmp_path, functools.partial(killed, processes)) as meanwhile:

        def display(self: terminal.Display, event: Any) -> None:
            call(self, event)
            meanwhile(event)

        monkeypatch.setattr(terminal.Display, "__call__", display)
        job = (source, tmp_path / "z", "--chunks", "35,10", "--axis", 0, "--scheduler", processes.address)
        result = quantize("run", *job)
    assert result.exit_code == 3
    assert re.search(
        rf"error: {LOST}.*\(pass 1 of 2, scan: \d+ of 12 chunks\)\. To go on, run\n  quantize run", result.stderr
    )


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            "tcp://127.0.0.1:{closed}",
            r"no Dask scheduler answers at tcp://127.0.0.1:\d+: .*Start `dask scheduler` there",
        ),
        slow(
            "127.0.0.1:{silent}",
            r"no Dask scheduler answers at tcp://127.0.0.1:\d+: .*says nothing.*Start `dask scheduler` there",
        ),
        ("tcp://127.0.0.1", "no Dask scheduler answers at tcp://127.0.0.1: "),
        ("ftp://127.0.0.1:1", "no Dask scheduler answers at ftp://127.0.0.1:1: "),
        ("{folder}/none.json", "none.json' is neither an address such as tcp://HOST:8786, nor the file of a Dask"),
        ("{folder}/x.npy", "x.npy' is not the file of a Dask scheduler"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, message: str
) -> None:
    monkeypatch.setattr("quantize.cli.commands.CONNECT", 0.5)
    with socket.socket() as closed, socket.socket() as silent:  # which is listened to, and not answered
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"closed": closed.getsockname()[1], "silent": silent.getsockname()[1]}
        named = scheduler.format(folder=tmp_path, **ports)
        for command in ("plan", "run"):
            result = quantize(command, source, tmp_path / "z", "--scheduler", named)
            assert (result.exit_code, result.stdout) == (2, "")
            assert re.fullmatch(rf"error: .*{message}.*\n", result.stderr), result.stderr
    assert not (tmp_path / "z").exists()
