"""A scheduler and workers of Dask's as processes of their own, which end with the block whatever happens."""

import fcntl
import functools
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import distributed

ROOT = Path(__file__).parents[1]
LIFE = "100s"  # what a scheduler without tasks, and a worker without a scheduler, do not outlive


class Processes:
    """The processes of one cluster, on one port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.children: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            self.kill(child)

    def start(self, kind: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, arguments), "--no-dashboard"]
        paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        with open(self.folder / f"{kind}-{len(self.children)}.log", "wb") as log:
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def scheduler(self) -> subprocess.Popen[bytes]:
        place = ("--host", "127.0.0.1", "--port", self.port, "--scheduler-file", self.file)
        return self.start("scheduler", *place, "--idle-timeout", LIFE)

    def worker(self, nanny: bool = False) -> subprocess.Popen[bytes]:
        life = ("--death-timeout", LIFE, "--local-directory", self.folder)
        return self.start("worker", self.address, "--nthreads", 1, "--nanny" if nanny else "--no-nanny", *life)

    @staticmethod
    def kill(child: subprocess.Popen[bytes]) -> None:
        """End it and the processes that it has started, even those that are stopped."""
        if child.returncode is None:  # so that its number cannot be another's
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(60)


TASKS = {  # where the tasks of each phase lie
    "scan": "quantize.runtime.tasks.Tasks.scan_batch",
    "scale": "quantize.runtime.tasks.Tasks.choose_scale_chunk",
    "write": "quantize.runtime.tasks.Tasks.write_batch",
    "verify": "quantize.runtime.passes.some_units",
    "measure": "quantize.runtime.passes.some_units",
    "restore": "quantize.runtime.passes.some_units",
}


class Held(distributed.WorkerPlugin):
    """Lets each task of a phase wait at a file of that name, in a folder, while a `Meanwhile` has a lock on it."""

    name = "held"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker: Any) -> None:
        self.undo = ExitStack()
        for phase, place in TASKS.items():
            owner, _, name = place.rpartition(".")
            holder = pkgutil.resolve_name(owner)
            method = getattr(holder, name)
            self.undo.callback(setattr, holder, name, method)
            setattr(holder, name, self.held(method, self.folder / phase))

    def teardown(self, worker: Any) -> None:
        self.undo.close()

    def held(self, method: Any, gate: Path) -> Any:
        @functools.wraps(method)
        def waits(*arguments: Any, **options: Any) -> Any:
            if gate.exists():
                with open(gate) as file:
                    fcntl.flock(file, fcntl.LOCK_SH)
            return method(*arguments, **options)

        return waits


class Meanwhile(threading.Thread):
    """Does something while a run waits for tasks of a phase that its workers have begun, and then lets these go on.

    It is the `progress` of the run. In the phase "questions" it does it before the workers are asked.
    """

    def __init__(self, phase: str, client: Any, folder: Path, event: Callable[[], None]) -> None:
        super().__init__()
        self.phase, self.client, self.event = phase, client, event
        self.begun = False
        self.gate = (folder / phase).open("w")
        fcntl.flock(self.gate, fcntl.LOCK_EX)

    def __enter__(self) -> "Meanwhile":
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.close()
        if self.begun:
            self.join(60)

    def __call__(self, event: Any) -> None:
        if self.phase == "questions" and type(event).__name__ == "Plan":
            self.event()
        elif self.phase == getattr(event, "phase", "") and not self.begun:
            self.begun = True
            self.start()

    def run(self) -> None:
        try:
            while not any(self.client.processing().values()):
                pass
            self.event()
        finally:
            self.gate.close()
