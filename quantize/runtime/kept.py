"""What is kept of a collection, copied chunk by chunk as it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, SourceError
from ..io.raw import RawArray
from ..numerics.dtypes import TEXT
from ..numerics.grid import Region
from ..store.guard import WriteGuard
from ..store.manifest import Standing
from ..store.plain_arrays import PlainArray, encoded
from ..store.retrying import retried
from .job import Stage, Steps
from .pool import Stop
from .progress import Progress
from .schedulers import Task
from .units import StoppedError

ALL = 1 << 20  # bytes: of arrays that take no more all values make the digest
BATCH = 16  # chunks that one task takes
ENDS = 4096  # values at each end of the others


@dataclass(frozen=True)
class Copy:
    """The tasks that copy one array; they travel to where they run."""

    raw: RawArray
    plain: PlainArray
    standing: Standing
    stop: Stop = field(default_factory=Stop)

    def chunks(self, numbers: list[int]) -> None:
        """Read some chunks and write them, as long as the collection is this run's.

        Raises
        ------
        StoreError
            If another job has taken its place.
        SourceError
            If there are texts that cannot be kept.
        """
        guard = WriteGuard(self.plain.keys, self.plain.folder, self.standing.stands)
        for number in numbers:
            if self.stop.is_set():
                raise StoppedError
            values = retried(self.raw.read)(self.plain.grid.region(number))
            try:
                data = self.plain.encoded(values)
            except ValueError as error:
                raise cannot_be_kept(self.raw, error) from error
            with guard.writing() as stands:
                if not stands:
                    return
                guard.put(self.plain.key(number), data)
        guard.stands()

    def steps(self, report: Callable[[Any], None]) -> Steps[None]:
        """Copy what is not there yet; with `verify` what is there is read first.

        Raises
        ------
        DamagedChunkError
            With `verify`, if the collection was whole before, and this is not.
        """
        with self.standing.changing() as stands:
            begun = stands and self.plain.create(self.standing.stands)
        # What lies in the place of what this run has just begun may be of a run that was held up: it is replaced.
        present = np.zeros(self.plain.grid.count, bool) if begun else self.plain.present()
        if self.plain.keys.verify:
            yield from self.check_present(present, report)
            if not stands and not present.all():
                self.plain.chunk_values(int(np.flatnonzero(~present)[0]))
        numbers = np.flatnonzero(~present)
        yield self.stage("write", self.chunks, numbers, len(present), report, lambda task, _: None)

    def check_present(self, present: np.ndarray, report: Callable[[Any], None]) -> Steps[None]:
        """Read what an earlier run wrote, and mark in `present` as absent what is not whole."""

        def done(task: Task, damaged: list[int]) -> None:
            present[damaged] = False

        numbers = np.flatnonzero(present)
        if numbers.size:
            yield self.stage("verify", self.damaged, numbers, len(numbers), report, done)

    def damaged(self, numbers: list[int]) -> list[int]:
        """Those of some chunks that are not whole."""
        found = []
        for number in numbers:
            try:
                self.plain.chunk_values(number)
            except DamagedChunkError:
                found.append(number)
        return found

    def stage(
        self,
        phase: str,
        call: Callable[[list[int]], Any],
        numbers: np.ndarray,
        total: int,
        report: Callable[[Any], None],
        done: Callable[[Task, Any], None],
    ) -> Stage:
        """Some of `total` chunks, several to a task."""
        todo = numbers.tolist()
        state = Progress(phase, total - len(todo), total, total - len(todo), 0)
        report(state)
        size = self.plain.nbytes // max(self.plain.grid.count, 1)

        def counted(task: Task, result: Any) -> None:
            nonlocal state
            done(task, result)
            count = len(task.numbers)
            state = Progress(phase, state.done + count, total, state.skipped, state.nbytes + count * size)
            report(state)

        tasks = (Task(todo[at : at + BATCH], (todo[at : at + BATCH],)) for at in range(0, len(todo), BATCH))
        return Stage(phase, call, tasks, counted, here=not self.raw.shared)


def digest_of(raw: RawArray) -> str:
    """Digest of all values of a small array, or of those at both ends.

    Raises
    ------
    SourceError
        If there are texts that cannot be kept.
    """
    digest = hashlib.sha256()
    for region in ends(raw):
        values = retried(raw.read)(region)
        if raw.dtype == TEXT:
            try:
                digest.update(encoded(values))
            except ValueError as error:
                raise cannot_be_kept(raw, error) from error
        else:
            digest.update(values.tobytes())
    return digest.hexdigest()


def cannot_be_kept(raw: RawArray, why: ValueError) -> SourceError:
    return SourceError(f"{raw.label} cannot be kept: {why}. Leave it out by drop=")


def ends(raw: RawArray) -> list[Region]:
    whole = tuple(slice(0, n) for n in raw.shape)
    if math.prod(raw.shape) * raw.dtype.itemsize <= ALL:
        return [whole]
    lengths, rest = [], ENDS
    for n in reversed(raw.shape):
        lengths.append(max(min(n, rest), 1))
        rest //= n
    pairs = list(zip(raw.shape, reversed(lengths), strict=True))
    return [tuple(slice(0, length) for _, length in pairs), tuple(slice(n - length, n) for n, length in pairs)]
