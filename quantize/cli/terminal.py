"""What the command line prints: results, errors, progress."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..runtime.plan import Plan
    from ..runtime.progress import Progress

DONE, WRONG, USAGE, UNFINISHED, BUG, STOPPED, PIPE = 0, 1, 2, 3, 70, 130, 141

# The exit code of an error is that of the first of its classes, from its own to the most general, that is named here.
# By name, so that an error in the command line itself imports nothing.
EXITS = {
    "RefusedValuesError": WRONG,
    "DamagedChunkError": WRONG,
    "SourceChangedError": WRONG,
    "Unfinished": UNFINISHED,
    "UnfinishedStoreError": UNFINISHED,
    "QuantizeError": USAGE,
    "ImportError": USAGE,
    "MemoryError": USAGE,
    "OSError": USAGE,
    "IndexError": USAGE,
    "TypeError": USAGE,
    "ValueError": USAGE,
    "Abort": STOPPED,
    "KeyboardInterrupt": STOPPED,
}

# The library's messages name keyword arguments and functions; here they are options and commands.
SPELLINGS = (
    (r"\bvalue_range=\(low, high\)", "--value-range LOW HIGH"),
    (r"\b(overwrite|verify)=True", r"--\1"),
    (r"\bmissing=None", "--missing none"),
    (r"\bnan_policy\b", "--nan-policy"),
    (r"\bscale_method\b", "--scale-method"),
    (r"\bvalue_range\b", "--value-range"),
    (r"\b(name|axis|percentile|missing|chunks|shards|compressors|memory|workers)=", r"--\1="),
    (r"(--[a-z-]+)=(?:[\"']([^\"']*)[\"']|([\w.-]+))?", r"\1 \2\3"),
    (r"\bopen_int4\b", "`quantize read`"),
    (r"\bcall quantize_to_zarr\b", "run `quantize run`"),
    (r"\bquantize_to_zarr\b", "`quantize run`"),
)

EXTRAS = {"matplotlib": "report", "h5py": "hdf5", "distributed": "distributed", "s3fs": "s3"}


class Unfinished(Exception):
    """A run that stopped before its end, and can go on."""


def explain(error: BaseException) -> int:
    """Say what went wrong on standard error; the exit code that goes with it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    if isinstance(error, click.ClickException):
        ctx = getattr(error, "ctx", None)
        complain(error.format_message().rstrip(".") + (f". Try '{ctx.command_path} --help'" if ctx else ""))
        return error.exit_code
    code = next((EXITS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in EXITS), BUG)
    if os.environ.get("QUANTIZE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    elif code == BUG:
        complain(f"{type(error).__name__}: {error}. This is a bug in quantize: QUANTIZE_DEBUG=1 shows where it is")
    else:
        complain(message(error))
    return code


def message(error: BaseException) -> str:
    """An error in the words of the command line."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "stopped"
    if isinstance(error, MemoryError):
        return "out of memory: pass --memory to keep within a budget"
    for missing in (error, error.__cause__):  # fsspec says in its own words that a module is not there
        if isinstance(missing, ModuleNotFoundError) and (name := str(missing.name).partition(".")[0]) in EXTRAS:
            return f'this needs {name}, which is not installed: pip install "quantize[{EXTRAS[name]}]"'
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    text = str(error)
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text)
    return text.rstrip()


def complain(text: str) -> None:
    click.echo(f"error: {text}", err=True)


def say(as_json: bool, document: dict[str, Any], text: object) -> None:
    """Print a result: for machines one JSON object, in which numbers that JSON lacks are null."""
    click.echo(json.dumps(plain(document), allow_nan=False) if as_json else str(text))


def plain(value: Any) -> Any:
    """A value with only what JSON has in it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# Progress -------------------------------------------------------------------------------------------------------------

PHASES = ("scan", "write")
INTERVAL = 5.0  # seconds between two lines where the output is no terminal


class Display:
    """Shows the plan and draws progress on standard error: one live line on a terminal, else a line now and then.

    `plan` and `last` are the newest events of their kinds; `worked` is whether any unit was more than read.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.last: Progress | None = None
        self.worked = False
        self.began = self.shown = time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Display:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.description}", markup=False)
            self.bar = Bar(
                BarColumn(24, complete_style="cyan", finished_style="green"),
                text,
                console=Console(stderr=True),
                redirect_stdout=False,
            )
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: Plan | Progress) -> None:
        from ..runtime.plan import Plan

        now = time.monotonic()
        if isinstance(event, Plan):
            self.plan, self.began = event, now
            click.echo(f"{event}\n", err=True)
            return
        first = self.last is None or event.phase != self.last.phase
        if first and self.last is not None:
            self.began = self.shown = now
        self.last = event
        self.worked = self.worked or (event.phase != "verify" and event.done > event.skipped)
        text = self.line(event, now - self.began)
        if self.bar is not None:
            if first:
                self.task = self.bar.add_task(text, total=event.total)
            self.bar.update(self.task, completed=event.done, description=text)
        elif event.done == event.total or now - self.shown >= INTERVAL:
            click.echo(text, err=True)
            self.shown = now

    def line(self, event: Progress, elapsed: float) -> str:
        """How far a phase is, how fast it goes, and how long it will take yet or has taken."""
        parts = [self.place(event)]
        worked = event.done - event.skipped
        if event.done == event.total:
            parts.append(duration(elapsed))
        elif worked:
            parts.append(f"{duration(elapsed / worked * (event.total - event.done))} left")
        if event.nbytes and elapsed:
            parts.append(f"{event.nbytes / elapsed / 1e9:.2f} GB/s")
        if event.skipped:
            parts.append(f"{event.skipped:,} done before")
        return ", ".join(parts)

    def place(self, event: Progress) -> str:
        """The phase, and the units that are done."""
        phases = PHASES[-self.plan.passes :] if self.plan else ()
        number = f"pass {phases.index(event.phase) + 1} of {len(phases)}, " if event.phase in phases else ""
        return f"{number}{event.phase}: {event.done:,} of {event.total:,} chunks"


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
