"""What the command line prints: results, errors, progress."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..runtime.dataset_plan import DatasetPlan
    from ..runtime.plan import Plan
    from ..runtime.progress import Progress

DONE, WRONG, USAGE, UNFINISHED, BUG, FAILED, STOPPED, PIPE = 0, 1, 2, 3, 70, 74, 130, 141

# The exit code of an error is that of the first of its classes, from its own to the most general, that is named here.
# By name, so that an error in the command line itself imports nothing.
EXITS = {
    "RefusedValuesError": WRONG,
    "QuantizeWarning": WRONG,
    "DamagedChunkError": WRONG,
    "SourceChangedError": WRONG,
    "Unfinished": UNFINISHED,
    "UnfinishedStoreError": UNFINISHED,
    "QuantizeError": USAGE,
    "ImportError": USAGE,
    "MemoryError": USAGE,
    "FileExistsError": USAGE,
    "FileNotFoundError": USAGE,
    "IsADirectoryError": USAGE,
    "NotADirectoryError": USAGE,
    "PermissionError": USAGE,
    "OSError": FAILED,
    "IndexError": USAGE,
    "TypeError": USAGE,
    "ValueError": USAGE,
    "Abort": STOPPED,
    "KeyboardInterrupt": STOPPED,
}

# The library's messages name functions and keyword arguments. Here they are commands, and options, whose names
# `spelled` takes from the commands.
COMMANDS = (
    (r"\bopen_int4\b", "`quantize read`"),
    (r"\bcall quantize_to_zarr\b", "run `quantize run`"),
    (r"\bcall quantize_dataset\b", "run `quantize run`"),
    (r"\bquantize_(to_zarr|dataset)\b", "`quantize run`"),
    (r"\ba rule for '", "--rule '"),
    (r"--decode False\b", "--raw"),
    (r", or discard_append\(store\)", ""),
    (r"\bappend_to_zarr\b", "`quantize append`"),
)

STDOUT = "standard output"  # the name that an error of it has, where others have a file's
LAST_GRACE = 1.0  # seconds that what was stopped has to end in, once it is said

EXTRAS = {"matplotlib": "report", "h5py": "hdf5", "distributed": "distributed", "s3fs": "s3"}


class Unfinished(Exception):
    """A run that stopped before its end, and can go on."""


def explain(error: BaseException, program: click.Group) -> int:
    """Say what went wrong on standard error; the exit code that goes with it. `program` has the options' names."""
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
        complain(message(error, program))
    return code


def message(error: BaseException, program: click.Group) -> str:
    """An error in the words of the command line, whose commands are those of `program`."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "stopped"
    if isinstance(error, MemoryError):
        return "out of memory: pass --memory to keep within a budget"
    for missing in (error, error.__cause__):  # fsspec says in its own words that a module is not there
        if isinstance(missing, ModuleNotFoundError) and (name := str(missing.name).partition(".")[0]) in EXTRAS:
            return f'this needs {name}, which is not installed: pip install "quantize[{EXTRAS[name]}]"'
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return worded(error, program).rstrip()


def worded(said: BaseException | str, program: click.Group) -> str:
    """What the library says, with commands and options for its functions and keyword arguments."""
    text = spelled(str(said), options_of(program))
    for pattern, replacement in COMMANDS:
        text = re.sub(pattern, replacement, text)
    return text


def options_of(program: click.Group) -> dict[str, str]:
    """Each option as it is typed, ``--nan-policy``, by the keyword argument that it stands for, ``nan_policy``."""
    every = (option for command in program.commands.values() for option in command.params)
    return {str(option.name): max(option.opts, key=len) for option in every if isinstance(option, click.Option)}


def spelled(text: str, options: dict[str, str]) -> str:
    """A message with options instead of keyword arguments.

    A name with an underscore is not an English word, so it stands for its option even without a value.

    >>> options = {"name": "--name", "overwrite": "--overwrite", "value_range": "--value-range"}
    >>> spelled("the value_range of name='x': pass value_range=(low, high), or overwrite=True", options)
    'the --value-range of --name x: pass --value-range LOW HIGH, or --overwrite'
    """

    def option(match: re.Match[str]) -> str:
        name, value, quoted = match.group("name", "value", "quoted")
        if value is None and "_" not in name:
            return match[0]
        if value in (None, "=", "=True"):
            return options[name]
        if re.fullmatch(r"=\([a-z, ]+\)", value):  # names of numbers, as in a signature
            return f"{options[name]} {value[2:-1].replace(',', '').upper()}"
        return f"{options[name]} {quoted[1:-1] if quoted else 'none' if value == '=None' else value[1:]}"

    names = "|".join(map(re.escape, options))
    quoted = r"""(?P<quoted>"[^"]*"|'[^']*')"""
    return re.sub(rf"\b(?P<name>{names})\b(?P<value>=(?:{quoted}|\([^)]*\)|[\w.-]+)?)?", option, text)


def complain(text: str) -> None:
    tell(f"error: {text}")


def tell(text: str) -> None:
    """Print on standard error. Where that fails, as on a terminal that was closed, the work goes on without."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


@contextlib.contextmanager
def warned(strict: bool, program: click.Group) -> Iterator[None]:
    """Say warnings of the library in a line each, in the words of the command line; if `strict` they are errors."""
    from ..exceptions import QuantizeWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "always", QuantizeWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, QuantizeWarning):
                tell(f"warning: {worded(message, program)}")
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def say(as_json: bool, document: dict[str, Any], text: object) -> None:
    """Print a result: for machines one JSON object, in which numbers that JSON lacks are null."""
    from ..store.zarr_json import to_json

    show(json.dumps(to_json(document), allow_nan=False) if as_json else str(text))


def show(text: str) -> None:
    """Print on standard output."""
    with printing():
        click.echo(text)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Around what writes to standard output: an error says that it was there, and nothing more is written to it."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.filename is None:
            error.filename = STDOUT
        raise


def open_streams() -> None:
    """Have what was closed, as by ``>&-``, lead nowhere, so that no file that is opened later takes its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the process


def leave_soon(code: int) -> None:
    """End the process soon, whatever its threads are at, as a second signal would: every write is atomic."""

    def leave() -> None:
        time.sleep(LAST_GRACE)
        os._exit(code)

    threading.Thread(target=leave, daemon=True).start()


# Progress -------------------------------------------------------------------------------------------------------------

LINE_INTERVAL = 5.0  # seconds: between two lines where the output is not a terminal


class Display:
    """Shows the plan and draws progress on standard error: one live line on a terminal, else a line now and then."""

    def __init__(self) -> None:
        from ..runtime.display import Account

        self.account = Account()
        self.shown = self.account.began
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Display:
        if sys.stderr is not None and sys.stderr.isatty():
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
            with contextlib.suppress(OSError):  # the terminal was closed
                self.bar.stop()

    def __call__(self, event: Plan | DatasetPlan | Progress) -> None:
        from ..runtime.progress import Progress

        now = time.monotonic()
        first = self.account.take(event, now)
        if not isinstance(event, Progress):
            tell(f"{event}\n")
            return
        if first:
            self.shown = self.account.began
        text = self.account.line(now)
        if self.bar is not None:
            if first:
                self.task = self.bar.add_task(text)
            total = event.total if event.known else None
            self.bar.update(self.task, total=total, completed=event.done, description=text)
        elif (event.known and event.done == event.total) or now - self.shown >= LINE_INTERVAL:
            tell(text)
            self.shown = now
