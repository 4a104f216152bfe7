"""What is kept of a collection, copied chunk by chunk as it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..io.raw import RawArray
from ..numerics.grid import Region
from ..store.keys import Keys
from ..store.manifest import KEY
from ..store.plain_arrays import TEXT, PlainArray
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
    keys: Keys
    manifest: bytes
    stop: Stop = field(default_factory=Stop)

    def chunks(self, numbers: list[int]) -> None:
        """Read some chunks and write them, as long as the collection is this run's.

        Raises
        ------
        StoreError
            If another run has taken its place.
        """
        for number in numbers:
            if self.stop.is_set():
                raise StoppedError
            values = retried(self.raw.read)(self.plain.grid.region(number))
            with self.keys.locked(self.plain.folder, shared=True):
                if not self.keys.holds(KEY, self.manifest):
                    raise StoreError(f"{self.keys.label} was taken over by another job while this run was at it")
                self.plain.write(number, values)

    def steps(self, report: Callable[[Any], None]) -> Steps[None]:
        """Copy what is not there yet; with `verify` what is there is read first."""
        self.plain.create()
        present = self.plain.present()
        if self.keys.verify:
            for number in np.flatnonzero(present):
                try:
                    self.plain.chunk_values(int(number))
                except DamagedChunkError:
                    present[number] = False
        total, todo = len(present), [int(number) for number in np.flatnonzero(~present)]
        state = Progress("write", total - len(todo), total, total - len(todo), 0)
        report(state)
        size = self.plain.nbytes // max(total, 1)

        def done(task: Task, _: Any) -> None:
            nonlocal state
            count = len(task.numbers)
            state = Progress("write", state.done + count, total, state.skipped, state.nbytes + count * size)
            report(state)

        tasks = (Task(todo[at : at + BATCH], (todo[at : at + BATCH],)) for at in range(0, len(todo), BATCH))
        yield Stage("write", self.chunks, tasks, done, here=not self.raw.shared)


def digest_of(raw: RawArray) -> str:
    """Digest of all values of a small array, or of those at both ends."""
    digest = hashlib.sha256()
    for region in ends(raw):
        values = retried(raw.read)(region)
        if raw.dtype == TEXT:
            digest.update("\0".join(values.reshape(-1).tolist()).encode(errors="surrogatepass"))
        else:
            digest.update(values.tobytes())
    return digest.hexdigest()


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
