"""Progress in words, and drawn in a notebook or a terminal for whoever passes ``progress=True``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .dataset_plan import DatasetPlan
from .plan import Plan
from .progress import Progress

PHASES = ("scan", "write")
TIMED_CHUNKS = 8  # chunks done after the first by which the time left is told: the first one waits for what is compiled
DRAWN_INTERVAL = 0.2  # seconds: between two drawings of the line
LINE_INTERVAL = 5.0  # seconds: between two lines where what was written cannot be drawn over


class Account:
    """What the events of a run come to.

    Attributes
    ----------
    plan : Plan, DatasetPlan or None
    last : Progress or None
    worked : bool
        Whether any unit was more than read.
    began : float
        When the phase did, in seconds of a clock.
    timed : (float, int) or None
        When the first units of the phase were done, and how many.
    """

    def __init__(self) -> None:
        self.plan: Plan | DatasetPlan | None = None
        self.last: Progress | None = None
        self.worked = False
        self.began = time.monotonic()
        self.timed: tuple[float, int] | None = None

    def take(self, event: Plan | DatasetPlan | Progress, now: float) -> bool:
        """Take an event in; whether it is the first of a phase."""
        if isinstance(event, Plan | DatasetPlan):
            self.plan, self.began = event, now
            return False
        first = self.last is None or event.phase != self.last.phase
        if first:
            self.timed = None
            if self.last is not None:
                self.began = now
        if self.timed is None and event.done > event.skipped:
            self.timed = now, event.done
        self.last = event
        self.worked = self.worked or (event.phase != "verify" and event.done > event.skipped)
        return first

    def line(self, now: float) -> str:
        """How far the phase is, how fast it goes, and how long it will take yet or has taken."""
        event = self.last
        assert event is not None
        parts, elapsed = [self.place()], now - self.began
        if event.known and event.done == event.total:
            parts.append(duration(elapsed))
        elif event.known and self.timed is not None and event.done - self.timed[1] >= TIMED_CHUNKS:
            since, done = self.timed
            parts.append(f"{duration((now - since) / (event.done - done) * (event.total - event.done))} left")
        if event.nbytes and elapsed:
            parts.append(speed(event.nbytes / elapsed))
        if event.skipped:
            parts.append(f"{event.skipped:,} done before")
        return ", ".join(parts)

    def place(self) -> str:
        """The phase, and the units that are done."""
        event = self.last
        if event is None:
            return "nothing done yet"
        phases = PHASES[-self.plan.passes :] if self.plan else ()
        number = f"pass {phases.index(event.phase) + 1} of {len(phases)}, " if event.phase in phases else ""
        total = f" of {event.total:,}" if event.known else ""
        return f"{number}{event.phase}: {event.done:,}{total} chunks"


def speed(rate: float) -> str:
    """Bytes a second as people say it.

    >>> speed(2.35e9), speed(345e6), speed(4.2e6), speed(360e3)
    ('2.35 GB/s', '345 MB/s', '4.2 MB/s', '360 kB/s')
    """
    if rate >= 1e9:
        return f"{rate / 1e9:.2f} GB/s"
    number, unit = (rate / 1e6, "MB/s") if rate >= 1e6 else (rate / 1e3, "kB/s")
    return f"{number:.{1 if number < 10 else 0}f} {unit}"


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(0.31), duration(75), duration(7300)
    ('0.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# Drawn ----------------------------------------------------------------------------------------------------------------


def reporter(progress: Callable[[Any], object] | bool | None) -> Callable[[Any], None]:
    """What to call with events, for what a user passed as `progress`: a function, True to have it drawn, or nothing."""
    if progress is True:
        return Drawing()

    def report(event: Any) -> None:
        if callable(progress):
            progress(event)

    return report


class Drawing:
    """Draws one line a phase: over itself in a notebook and on a terminal, else a line now and then.

    There is nothing to close: a run that ends early leaves its last line.
    """

    def __init__(self) -> None:
        self.account = Account()
        self.shown = 0.0
        self.handle: Any = None

    def __call__(self, event: Plan | DatasetPlan | Progress) -> None:
        now = time.monotonic()
        first = self.account.take(event, now)
        if isinstance(event, Plan | DatasetPlan):
            return
        over = event.known and event.done == event.total
        live = in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
        if first or over or now - self.shown >= (DRAWN_INTERVAL if live else LINE_INTERVAL):
            self.shown = now
            with contextlib.suppress(OSError):  # a terminal that was closed
                self.draw(self.account.line(now), first, over, live)

    def draw(self, line: str, first: bool, over: bool, live: bool) -> None:
        if in_notebook():
            if first:
                display = import_module("IPython.display").display  # not one of our dependencies
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        elif live:
            print(f"\r\x1b[K{line}", end="\n" if over else "", file=sys.stderr, flush=True)
        elif over or not first:
            print(line, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this is a kernel that shows what it is handed, and not a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
