"""How far a run is: events for whoever watches it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..numerics.grid import Grid, shape_of


@dataclass(frozen=True)
class Progress:
    """How far a phase is.

    Attributes
    ----------
    phase : {"scan", "scale", "write", "verify", "restore", "measure"}
        "scale" comes where there is a scale for each index of an axis that lies in several units.
    done, total : int
        Units (output chunks or shards), those of an earlier run included; in "scale" their places along the axis.
    skipped : int
        Units that an earlier run had done.
    nbytes : int
        Bytes of values that this run has gone through in this phase.
    known : bool
        Whether the total is known; of a stream it is, and is what was done, once it has come to its end.
    """

    phase: str
    done: int
    total: int
    skipped: int
    nbytes: int
    known: bool = True


class Counter:
    """Adds up what is done, and reports it."""

    def __init__(
        self,
        phase: str,
        units: Grid,
        dtype: np.dtype[Any],
        skipped: int,
        report: Callable[[Progress], object],
        total: int | None = None,
    ) -> None:
        self.units, self.itemsize, self.report = units, dtype.itemsize, report
        self.state = Progress(phase, skipped, self.units.count if total is None else total, skipped, 0)
        report(self.state)

    def add(self, numbers: list[int]) -> None:
        values = sum(math.prod(shape_of(self.units.region(number))) for number in numbers)
        state = self.state
        self.state = replace(state, done=state.done + len(numbers), nbytes=state.nbytes + values * self.itemsize)
        self.report(self.state)


class InTurn:
    """Adds up what passes over several arrays report, one after the other, as one phase.

    >>> shown = []
    >>> reported = InTurn("verify", 5, shown.append)
    >>> reported(Progress("verify", 2, 2, 0, 100))
    >>> reported.next()
    >>> reported(Progress("verify", 3, 3, 0, 10))
    >>> [(event.done, event.total, event.nbytes) for event in shown]
    [(0, 5, 0), (2, 5, 100), (5, 5, 110)]
    """

    def __init__(self, phase: str, total: int, report: Callable[[Progress], object]) -> None:
        self.report = report
        self.before = self.state = Progress(phase, 0, total, 0, 0)
        report(self.state)

    def __call__(self, event: Progress) -> None:
        before = self.before
        self.state = replace(before, done=before.done + event.done, nbytes=before.nbytes + event.nbytes)
        self.report(self.state)

    def next(self) -> None:
        """Go on with another array."""
        self.before = self.state
