"""Arguments and options of the command line, and what their texts stand for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..numerics.names import COMPRESSORS, NAN_POLICIES, OUTSIDE, PERCENTILE, PRESETS, SCALE_METHODS
from ..runtime.settings import Settings, parsed_bytes

T = TypeVar("T")

# Texts ----------------------------------------------------------------------------------------------------------------


def lengths(text: str) -> int | tuple[int, ...] | dict[str, int]:
    """``100,-1`` as a tuple, ``100`` as one length for every axis, ``lat:4,lon:8`` as lengths by dimension.

    >>> lengths("100,-1"), lengths("32"), lengths("lat:4,lon:8")
    ((100, -1), 32, {'lat': 4, 'lon': 8})
    """
    parts = [part.strip().rpartition(":") for part in text.split(",")]
    try:
        if all(name for name, _, _ in parts):
            return {name: int(length) for name, _, length in parts}
        found = tuple(int("".join(part)) for part in parts)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not one length for each axis, such as 100,-1, nor lengths by dimension, such as lat:4,lon:8"
        ) from None
    return found if len(found) > 1 else found[0]


def axis(text: str) -> int | str:
    """``2`` as the number of an axis, anything else as the name of a dimension."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def axis_or_none(text: str) -> int | str | None:
    """The same, and ``none`` for one scale for all."""
    return None if text == "none" else axis(text)


def truth(text: str) -> bool:
    """``true`` or ``false``."""
    if text not in ("true", "false"):
        raise click.BadParameter(f"{text!r} is neither true nor false")
    return text == "true"


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number") from None


def ends(text: str) -> tuple[float, ...]:
    """``240,310`` as the two ends of a range."""
    return tuple(map(number, text.split(",")))


def missing(text: str) -> str | int | float | None:
    """``declared`` as itself, ``none`` as None, else a number, an integer where it is written as one."""
    if text in ("declared", "none"):
        return "declared" if text == "declared" else None
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    raise click.BadParameter(f"{text!r} is not a number, 'declared' or 'none'")


VALUES: dict[str, Callable[[str], Any]] = {  # of a rule, by setting; others are texts
    "axis": axis_or_none,
    "blocks": lengths,
    "chunks": lengths,
    "shards": lengths,
    "finest": number,
    "percentile": number,
    "value_range": ends,
    "missing": missing,
    "decode": truth,
    "floats": truth,
}


def rule(text: str) -> tuple[str, dict[str, Any]]:
    """``t2m:axis=latitude,blocks=1,32`` as a pattern and its settings.

    A part between commas that sets nothing belongs to the value before it. The pattern ends at the colon before the
    first setting, so that it may have others.

    >>> rule("layers:*.weight:scale_method=mse,blocks=1,32")
    ('layers:*.weight', {'scale_method': 'mse', 'blocks': (1, 32)})
    >>> rule("dim=latitude:axis=latitude,chunks=time:10,latitude:-1")
    ('dim=latitude', {'axis': 'latitude', 'chunks': {'time': 10, 'latitude': -1}})
    """
    match = re.fullmatch(r"(?P<pattern>.+?):(?P<settings>[\w-]+=.*)", text, re.DOTALL)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is not a pattern and its settings, such as t2m:axis=latitude,scale_method=mse"
        )
    found: dict[str, Any] = {}
    for part in re.split(r",(?=[\w-]+=)", match["settings"]):
        name, _, value = part.partition("=")
        name = name.replace("-", "_")
        if name in found:
            raise click.BadParameter(f"{text!r} sets {name} twice")
        try:
            found[name] = VALUES.get(name, str)(value)
        except click.BadParameter as error:
            raise click.BadParameter(f"{name} of {text!r}: {error.message}") from None
    return match["pattern"], found


def size(text: str) -> int:
    """``64MiB`` in bytes."""
    try:
        found = parsed_bytes(text)
    except ValueError:
        found = None
    if not found:
        raise click.BadParameter(f"{text!r} is not a size, such as 64MiB")
    return found


def region(text: str) -> tuple[Any, ...]:
    """NumPy's basic indexing.

    >>> region("3, ::-2, ...")
    (3, slice(None, None, -2), Ellipsis)
    """
    try:
        return tuple(index(part.strip()) for part in text.strip("[] ").removesuffix(",").split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not NumPy's basic indexing, such as 0:10,: or ...,5") from None


def index(text: str) -> Any:
    if text == "...":
        return ...
    if ":" not in text:
        return int(text)
    parts = [int(part) if part.strip() else None for part in text.split(":")]
    if len(parts) > 3:
        raise ValueError(text)
    return slice(*parts)


def part(text: str) -> tuple[int, int]:
    """``3/8`` as two numbers."""
    try:
        number, parts = (int(piece) for piece in text.split("/"))
    except ValueError:
        number, parts = 0, 0
    if not 1 <= number <= parts:
        raise click.BadParameter(f"{text!r} is not a part such as 3/8, counted from 1/8 to 8/8")
    return number, parts


def options(*table: Callable[[T], T]) -> Callable[[T], T]:
    """A decorator that adds all arguments and options of a table, in its order."""

    def add(command: T) -> T:
        for one in reversed(table):
            command = one(command)
        return command

    return add


# Tables ---------------------------------------------------------------------------------------------------------------

DEFAULT = Settings()

STORE = click.argument("store")
NAME = click.option("--name", help="The variable; not needed where the store holds only one.")
MISSING = click.option(
    "--missing",
    type=missing,
    default=DEFAULT.missing,
    show_default=True,
    metavar="VALUE|none|declared",
    help="The value that stands for missing: this one, none, or the one that the source declares.",
)
RAW = click.option(
    "--decode/--raw",
    default=DEFAULT.decode,
    show_default=True,
    help="Physical values, by scale_factor, add_offset and _Unsigned; or the numbers as they are stored.",
)
FLOATS = click.option("--floats", is_flag=True, help="Turn integers with missing values into floats, NaN for these.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what is there.")
DURABLE = click.option("--durable", is_flag=True, help="Have the disk hold all of it before it counts as whole.")
SCHEDULER_HELP = "Have the workers of this Dask scheduler do the work; or of the one that wrote FILE."
SCHEDULER = click.option("--scheduler", metavar="tcp://HOST:PORT|FILE", help=SCHEDULER_HELP)
RESTORE_SCHEDULER = click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT|FILE",
    help=f"{SCHEDULER_HELP} For Zarr arrays: several machines cannot write one .npy file at the same time.",
)
MEMORY = click.option("--memory", metavar="SIZE", help="What the run may hold, such as 4GiB.")
WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), help="Tasks at a time; by default one for each processor."
)
STRICT = click.option("--strict", is_flag=True, help="Stop where there would be a warning.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

# The keyword arguments of quantize_to_zarr.
JOB = options(
    click.argument("source", metavar="SRC"),
    click.argument("store", metavar="DST"),
    click.option("--name", help=f"Of the variable in the store, where SRC is one array.  [default: {DEFAULT.name}]"),
    click.option(
        "--select",
        metavar="PATTERNS",
        help="Which variables to quantize, where SRC holds several; all others are kept as they are. Names, globs such "
        "as '*.weight', or dim=DIM for those with a dimension, between commas.  [default: what is safe to]",
    ),
    click.option(
        "--keep",
        metavar="PATTERNS",
        multiple=True,
        help="Which to keep as they are, whatever --select says. Repeatable.",
    ),
    click.option("--drop", metavar="PATTERNS", multiple=True, help="Which to leave out. Repeatable."),
    click.option(
        "--rule",
        "rules",
        type=rule,
        multiple=True,
        metavar="PATTERN:SETTING=VALUE,...",
        help="Settings of some variables, named as the options here are: 't2m:axis=latitude,scale_method=mse', "
        "'*.weight:blocks=1,32', 'msl:axis=none', "
        "'dim=time:chunks=time:10'. Repeatable; of several that match, a later one wins.",
    ),
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        help="weights: mse in blocks of 32 along the last axis; embeddings: of 32 down the columns; field: of 4 x 8. "
        "What is given beside it wins.",
    ),
    click.option(
        "--scale-method",
        type=click.Choice(SCALE_METHODS),
        help="minmax covers the range of the data; absmax keeps zero in its middle; percentile leaves out the tails; "
        "mse finds the range with the least squared error. Values beyond the range of the last two saturate.  "
        "[default: minmax, or the preset's]",
    ),
    click.option(
        "--axis",
        type=axis,
        metavar="N|DIM",
        help="Keep a scale for each index of this axis, counted from 0, or of the dimension of this name.",
    ),
    click.option(
        "--blocks",
        type=lengths,
        metavar="1,32|DIM:4,DIM:8",
        help="Keep a scale for each block of these lengths, -1 for a whole axis; one is that along the last. By "
        "dimensions, those that are not named have 1.",
    ),
    click.option("--finest", type=float, metavar="STEP", help="The least scale of a block: a sensor's precision."),
    click.option(
        "--percentile",
        type=float,
        metavar="SHARE",
        help=f"What the method percentile keeps, in % of the values.  [default: {PERCENTILE}]",
    ),
    click.option(
        "--value-range",
        type=float,
        nargs=2,
        metavar="LOW HIGH",
        help="The range to cover; saves the first pass, and saturates what lies outside.",
    ),
    MISSING,
    RAW,
    FLOATS,
    click.option(
        "--nan-policy",
        type=click.Choice([*NAN_POLICIES, "auto"]),
        help="raise refuses missing values; propagate keeps them; auto, of several variables, keeps them in those that "
        "have some.  [default: raise; of several variables auto]",
    ),
    click.option(
        "--chunks",
        type=lengths,
        metavar="100,-1|DIM:100",
        help="In values; -1 is the whole axis, as is what is not named.",
    ),
    click.option("--shards", type=lengths, metavar="1000,-1", help="Several chunks in one file, in values."),
    click.option(
        "--compressors",
        type=click.Choice(["auto", "none", *COMPRESSORS]),
        default=DEFAULT.compressors,
        show_default=True,
        help="auto is zstd, level 1.",
    ),
    MEMORY,
    WORKERS,
    SCHEDULER,
    JSON,
)

# The keyword arguments of append_to_zarr.
APPEND = options(
    click.argument("places", metavar="SRC STORE", nargs=-1),
    click.option(
        "--discard",
        is_flag=True,
        help="Give up an append to STORE that did not come to its end, and name no SRC: then STORE is what it was.",
    ),
    NAME,
    click.option(
        "--axis",
        type=axis,
        default="0",
        show_default=True,
        metavar="N|DIM",
        help="The one that becomes longer, counted from 0, or the dimension of this name.",
    ),
    click.option(
        "--outside",
        type=click.Choice(OUTSIDE),
        help="Values beyond the range of a scale that is there: raise refuses them, saturate gives them the nearest "
        "level and counts them.  [default: raise; saturate where a --value-range was given]",
    ),
    click.option("--again", is_flag=True, help="Append what was appended last once more."),
    click.option("--verify", is_flag=True, help="Read back every chunk that is written."),
    DURABLE,
    MEMORY,
    WORKERS,
    SCHEDULER,
    STRICT,
    JSON,
)
