"""The command line: parses, calls, prints. The numbers and the messages are the library's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from .options import (
    APPEND,
    DURABLE,
    FLOATS,
    JOB,
    JSON,
    MISSING,
    NAME,
    OVERWRITE,
    RAW,
    RESTORE_SCHEDULER,
    SCHEDULER,
    STORE,
    STRICT,
    part,
    region,
    size,
)
from .terminal import (
    DONE,
    PIPE,
    STDOUT,
    UNFINISHED,
    WRONG,
    Display,
    Unfinished,
    complain,
    explain,
    leave_soon,
    message,
    open_streams,
    printing,
    say,
    show,
    tell,
    warned,
)

if TYPE_CHECKING:
    from ..reading.array import Int4Array
    from ..reading.dataset import Int4Dataset
    from ..reading.opening import Place
    from ..runtime.dataset_plan import DatasetPlan
    from ..runtime.plan import Plan

STDIN = "-"  # as SRC: standard input
CONNECT = 10.0  # seconds that a scheduler may take to answer
CLOSE = 2.0  # seconds that leaving one may take
STOPS = [number for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number is not None]
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # errors of a disk: a run goes on once somebody makes room


class Commands(click.Group):
    """Commands in working order, whose errors become one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with printing():  # help, the version
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            with printing():
                sys.stdout.flush()
        except BrokenPipeError as error:
            if error.filename == STDOUT:
                return PIPE
            raise ConnectionError(error.errno, error.strerror, error.filename) from error  # click takes it for a pipe
        except KeyboardInterrupt as error:
            tell("")  # the line that a terminal shows ^C in
            raise click.Abort from error
        return code

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        open_streams()
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(arguments, "quantize", standalone_mode=False, obj=arguments, **extra)
        except Exception as error:
            code = explain(error, self)
            if args is None and isinstance(error.__cause__ or error, KeyboardInterrupt | click.Abort):
                leave_soon(code)
        sys.exit(code)


# Commands -------------------------------------------------------------------------------------------------------------


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="quantize %(version)s")
def main() -> None:
    """Turn float arrays larger than memory into int4 arrays an eighth their size, in Zarr, and read them back.

    SRC is an .npy file, a Zarr array (x.zarr/group/array) or an HDF5 dataset (x.h5::/dataset); DST and STORE are Zarr
    groups. A run that was stopped goes on when it is run again.

    Exit codes: 0 done, 1 wrong data, 2 usage, 3 unfinished (run again to go on), 74 a disk or a network failed.
    """


@main.command()
@click.argument("source", metavar="SRC")
@MISSING
@RAW
@FLOATS
@click.option(
    "--bits",
    type=float,
    metavar="4.3",
    help="Recommend the best that is stored in so many bits a value.  [default: the knee]",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["search"]),
    help="search: for vectors in rows, compare which of the ten nearest are still found.",
)
@STRICT
@JSON
def suggest(
    source: str,
    missing: Any,
    decode: bool,
    floats: bool,
    bits: float | None,
    purpose: Any,
    strict: bool,
    as_json: bool,
) -> None:
    """Compare scales on a sample of SRC.

    For all values, for each axis and for blocks, with the errors and the size that each gives; recommends one, says
    why, and prints the command that runs it. Reads a small part of SRC, and writes nothing.

    By default it recommends the knee: finer scales as long as each stored bit a value beyond 4 brings 6.02 dB.
    """
    from ..quality.suggest import suggest

    with stoppable(), warned(strict, main):
        found = suggest(source, missing=missing, decode=decode, floats=floats, bits=bits, purpose=purpose)
    say(as_json, {"source": source, **found.to_json()}, found)


@main.command()
@JOB
def plan(source: str, store: str, scheduler: str | None, as_json: bool, **settings: Any) -> None:
    """Say what a run will need, without reading the data."""
    from .jobs import Asked

    if source == STDIN:
        raise click.UsageError("nobody knows how much comes from standard input, so there is no plan of it")
    with stoppable(), cluster(scheduler):
        asked = Asked.of(source, settings)
        planned: Plan | DatasetPlan
        if asked.several:
            from ..dataset import plan_dataset

            planned = plan_dataset(source, store, **asked.settings)
        else:
            from ..runtime.plan import plan

            planned = plan(source, store, **asked.settings)
    say(as_json, planned.to_json(), planned)


@main.command()
@JOB
@OVERWRITE
@click.option("--verify", is_flag=True, help="Read back every chunk that is written, and those of an earlier run.")
@DURABLE
@STRICT
@click.option(
    "--part",
    type=part,
    metavar="K/N",
    help="Do only this part, as one of N processes that know nothing of one another; `quantize seal` comes last.",
)
@click.pass_obj
def run(
    arguments: list[str],
    /,
    source: str,
    store: str,
    scheduler: str | None,
    as_json: bool,
    part: tuple[int, int] | None,
    overwrite: bool,
    durable: bool,
    strict: bool,
    **settings: Any,
) -> None:
    """Quantize SRC into DST. Run again to go on where it stopped.

    Where SRC holds several arrays, all of them are written: --select says which are quantized, and all others are kept
    as they are, bit for bit.

    SRC may be -, for .npy records that come one after another from standard input, as np.save writes them, and are
    joined along their first axis. Nothing of them counts before their end, and a run that was stopped begins anew.
    """
    from .jobs import Asked, records

    if part is not None and (overwrite or durable):
        option = "--overwrite" if overwrite else "--durable"
        other = "remove what is there, or give another --name" if overwrite else "pass it to `quantize seal`"
        raise click.UsageError(f"{option} does not go with --part, since the others may be at work: {other}")
    command = shlex.join(["quantize", *arguments])
    others = {name: value for name, value in settings.items() if name != "verify"}
    taken: Any = source
    if source == STDIN:
        if part is not None:
            raise click.UsageError("--part does not go with standard input, which is read once")
        taken, asked = records(sys.stdin.buffer), Asked.of_stream(others)
    else:
        asked = Asked.of(source, others, part is not None)
    asked.settings["verify"] = settings["verify"]
    if part is not None:
        with warned(strict, main):
            run_part(command, source, store, scheduler, as_json, *part, asked.settings)
        return
    began = time.monotonic()
    with stoppable(), resumable(command) as display, cluster(scheduler), warned(strict, main):
        from ..runtime.display import duration

        written: Int4Array | Int4Dataset
        options = {"overwrite": overwrite, "durable": durable, "progress": display, **asked.settings}
        if asked.several:
            from ..dataset import quantize_dataset

            written = quantize_dataset(source, store, **options)
        else:
            from ..pipeline import quantize_to_zarr

            written = quantize_to_zarr(taken, store, **options)
    elapsed = time.monotonic() - began
    document, where, text = written_as(written, store)
    if document.get("quantized") == 0:
        tell(f"warning: nothing of {source} was quantized, all is kept: name in --select what is to be")
    whole = ", and every chunk of it is whole" if settings["verify"] else ""
    finished = f"nothing to do: {where} is finished already{whole}"
    done = f"wrote {where} in {duration(elapsed)}" if display.account.worked else finished
    say(as_json, {**document, "worked": display.account.worked, "elapsed": elapsed}, f"{done}\n{text}")


def written_as(found: Int4Array | Int4Dataset, store: str) -> tuple[dict[str, Any], str, str]:
    """What was made: as a dictionary, where it is, and for people."""
    from ..reading import summary
    from ..reading.dataset import Int4Dataset

    if isinstance(found, Int4Dataset):
        text = f"{summary.dataset_totals(found)}\n{summary.how_to_read_dataset(store)}"
        return summary.dataset_summary(found), found.path, text
    text = f"{summary.description(found)}\n{summary.how_to_read(store, found.name)}"
    return summary.summary(found), f"{found.path}/{found.name}", text


def run_part(
    command: str,
    source: str,
    store: str,
    scheduler: str | None,
    as_json: bool,
    number: int,
    parts: int,
    settings: dict[str, Any],
) -> None:
    with stoppable(), resumable(command) as display, cluster(scheduler):
        from ..pipeline import quantize_part

        written = quantize_part(source, store, number, parts, progress=display, **settings)
    this = f"part {number} of {parts}"
    sealing = shlex.join(["quantize", "seal", store, "--name", settings["name"]])
    say(
        as_json,
        {"part": number, "parts": parts, "written": written},
        f"{this} is written. Once all are, run\n  {sealing}"
        if written
        else f"{this} has done its pass 1, not all others have. Once they have, run again\n  {command}",
    )


@main.command()
@APPEND
@click.pass_obj
def append(
    arguments: list[str],
    /,
    places: tuple[str, ...],
    discard: bool,
    name: str | None,
    scheduler: str | None,
    strict: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Append SRC to what STORE holds. Run again to go on where it stopped.

    Until its last write, and after a death at any moment, STORE reads as it did. What it holds stays bit for bit, with
    its scales: new values get codes by these where they share them, and scales of their own where not.

    SRC may be -, for .npy records from standard input as `quantize run` takes them. They are part of it at their end
    alone, and after a stop must come again from the first.
    """
    if len(places) != (1 if discard else 2):
        form = "--discard STORE, with no SRC" if discard else "SRC STORE"
        raise click.UsageError(f"it takes {form}, and got {shlex.join(places) or 'nothing'}")
    if discard:
        give_up(places[0], name, as_json)
        return
    source, store = places
    began = time.monotonic()
    kept = f"{store} still reads as it did before"
    with (
        stoppable(),
        resumable(shlex.join(["quantize", *arguments]), kept) as display,
        cluster(scheduler),
        warned(strict, main),
    ):
        from ..appending import append_to_zarr
        from ..runtime.display import duration
        from .jobs import records

        taken = records(sys.stdin.buffer) if source == STDIN else source
        appended = append_to_zarr(taken, store, name=name, progress=display, **settings)
    elapsed = time.monotonic() - began
    document, where, _ = written_as(appended, store)
    worked = display.account.last is not None
    done = f"appended {'standard input' if source == STDIN else source} to {where} in {duration(elapsed)}"
    if not worked:
        done = f"nothing to do: {source} has been appended to {where} already"
    say(as_json, {**document, "worked": worked, "elapsed": elapsed}, done + lengths_said(document))


def lengths_said(document: dict[str, Any]) -> str:
    """What to say of a variable that has become longer, and is described so; of a collection nothing."""
    if "shape" not in document:
        return ""
    saturated = (document["appended"] or {}).get("saturated")
    beyond = f". {saturated:,} of all that was appended saturated" if saturated else ""
    return f": its shape is {document['shape']}{beyond}"


def give_up(store: str, name: str | None, as_json: bool) -> None:
    """Give up an append that did not come to its end."""
    from ..appending import discard_append
    from ..reading.opening import open_int4

    with stoppable():
        discarded = discard_append(store, name)
        document, where, _ = written_as(open_int4(store, name), store)
    done = f"discarded what was being appended to {where}" if discarded else f"nothing was being appended to {where}"
    say(as_json, {**document, "discarded": discarded}, done + lengths_said(document))


@main.command()
@STORE
@NAME
@DURABLE
@JSON
def seal(store: str, name: str | None, durable: bool, as_json: bool) -> None:
    """Make STORE readable once all parts of a run are written."""
    from ..pipeline import seal
    from ..reading.summary import description, how_to_read, summary

    with stoppable():
        array = seal(store, name, durable=durable)
    text = f"sealed {array.path}/{array.name}\n{description(array)}\n{how_to_read(store, array.name)}"
    say(as_json, summary(array), text)


@main.command()
@STORE
@NAME
@JSON
def info(store: str, name: str | None, as_json: bool) -> int:
    """Print what STORE holds: shapes, scales, status; of a collection all variables, or the one of a name."""
    from ..reading import summary
    from ..reading.array import Int4Array
    from ..reading.dataset import Int4Dataset, KeptArray
    from ..reading.opening import opened_variable, place_of
    from ..storage import as_collected, check_begun, find, variable_of

    place = place_of(store, name)
    if place is not None and place.name is None:
        if place.manifest.status != "sealed":
            return info_of_unfinished(place, as_json)
        dataset = Int4Dataset(place.keys, place.manifest)
        text = f"{dataset.path}\n{summary.dataset_description(dataset)}"
        say(as_json, summary.dataset_summary(dataset), text)
        return DONE
    if place is not None and place.name is not None and place.name in place.manifest:
        member = place.manifest[place.name]
        unlike = member.kind == "kept" or variable_of(place.keys, member.path).metadata() is None
        opened = opened_variable(store, name) if unlike else None
        if isinstance(opened, KeptArray):
            text = f"{opened.path}/{opened.name}\n{summary.kept_description(opened)}"
            say(as_json, summary.variable_summary(opened.name, opened), text)
            return DONE
    variable, metadata = find(store, name)
    if metadata.status == "sealed":
        array = Int4Array(variable, as_collected(variable, metadata))
        say(as_json, summary.summary(array), f"{array.path}/{array.name}\n{summary.description(array)}")
        return DONE
    check_begun(variable, metadata)
    layout = metadata.layout
    document = {
        "path": variable.keys.label,
        "name": variable.name,
        "status": metadata.status,
        "shape": layout.shape,
        "dtype": str(layout.dtype),
        "chunks": layout.chunks,
        "shards": layout.shards,
        "written": f"{variable.present(layout).sum():,} of {layout.units.count:,}",
    }
    say(as_json, document, "\n".join(f"{key:<12}{value}" for key, value in document.items()))
    complain(f"{variable.where} is unfinished: run `quantize run` with the same source and settings again to go on")
    return UNFINISHED


def info_of_unfinished(place: Place, as_json: bool) -> int:
    from ..reading.opening import states
    from ..reading.summary import dtype_said, shape_said
    from ..runtime.tables import lined_up

    found = [
        (member, done, total, 0 < total == done or (total == done and member.kind == "kept"))
        for member, done, total in states(place)
    ]
    head = ("variable", "shape", "dtype", "how", "written")
    rows = [
        (
            one.name,
            shape_said(one.shape),
            dtype_said(one.dtype),
            one.kind,
            "whole" if whole else f"{done:,} of {total:,}" if total else "not begun",
        )
        for one, done, total, whole in found
    ]
    document = {
        "path": place.keys.label,
        "status": place.manifest.status,
        "variables": [
            {
                "name": one.name,
                "kind": one.kind,
                "shape": one.shape,
                "dtype": dtype_said(one.dtype),
                "whole": whole,
                "written": done,
                "units": total,
            }
            for one, done, total, whole in found
        ],
    }
    say(as_json, document, "\n".join([place.keys.label, *lined_up([head, *rows])]))
    missing = sum(not whole for *_, whole in found)
    complain(
        f"{place.keys.label} is an unfinished collection, of which {missing:,} of {len(found):,} variables are not "
        "whole: run `quantize run` with the same source and settings again to go on"
    )
    return UNFINISHED


@main.command()
@STORE
@click.argument("source", metavar="[SRC]", required=False)
@NAME
@SCHEDULER
@JSON
def verify(store: str, source: str | None, name: str | None, scheduler: str | None, as_json: bool) -> int:
    """Read and check every chunk of STORE. With SRC, also that its codes are those of the source."""
    from ..quality.verify import verify

    with stoppable(), repeatable() as display, cluster(scheduler):
        found = verify(store, name, source, progress=display)
    text = str(found)
    say(as_json, found.to_json(), text.replace("with the codes of the source", f"with the codes of {source}"))
    tell_under_way(store, name)
    if found.damaged:
        complain(f"{store} is damaged: restore it from a copy, or quantize its source again with --overwrite")
    elif found.differing:
        complain(f"{store} was not made from what {source} holds now: quantize it again with --overwrite")
    return DONE if found.ok else WRONG


def tell_under_way(store: str, name: str | None) -> None:
    """Say that something is being appended to a variable, which is no part of it yet, where that is so."""
    from ..exceptions import StoreError
    from ..reading.dataset import Int4Dataset
    from ..reading.opening import open_int4
    from ..reading.summary import dataset_under_way, under_way

    with contextlib.suppress(StoreError):  # of what is no single variable, or damaged, which has been said
        opened = open_int4(store, name)
        now = dataset_under_way(opened) if isinstance(opened, Int4Dataset) else under_way(opened)
        if now is not None:
            tell(f"note: not part of the array yet, and not looked at: {now['said']}")


@main.command()
@STORE
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", default="report.html", show_default=True, metavar="X.html", help="Where to write it.")
@NAME
@OVERWRITE
@SCHEDULER
@JSON
def report(
    store: str, source: str, output: str, name: str | None, overwrite: bool, scheduler: str | None, as_json: bool
) -> int:
    """Measure the errors of STORE against SRC and show them on a page.

    The page is one HTML file, with pictures of values, errors and codes, and what other scales would give.
    """
    from ..quality.report.report import write_report

    with stoppable(), repeatable() as display, cluster(scheduler):
        found = write_report(store, source, output, name=name, overwrite=overwrite, progress=display)
    say(as_json, {"path": output, **found.to_json()}, f"{found}\n\nwrote {output}: open it in a browser")
    tell_under_way(store, name)
    if not found.figures.within_bound:
        complain(f"{store} does not hold what {source} holds now: quantize it again with --overwrite")
    return DONE if found.figures.within_bound else WRONG


@main.command()
@STORE
@NAME
@click.option("--region", type=region, default="...", metavar="0:10,:", help="NumPy's basic indexing; by default all.")
@click.option("-o", "--output", metavar="X.npy", help="Write the values here instead of printing them.")
@OVERWRITE
@JSON
def read(
    store: str, name: str | None, region: tuple[Any, ...], output: str | None, overwrite: bool, as_json: bool
) -> None:
    """Print part of STORE as floats, or write it to a file."""
    from ..reading.opening import opened_variable
    from .excerpt import Excerpt

    excerpt = Excerpt.of(opened_variable(store, name), region)
    document = {"shape": excerpt.shape, "dtype": str(excerpt.dtype)}
    if output is not None:
        with stoppable():
            excerpt.save(output, overwrite)
        say(as_json, {**document, "path": output}, f"wrote {output}: {excerpt.shape} {excerpt.dtype}")
    elif as_json:
        say(as_json, {**document, "values": excerpt.values().tolist()}, "")
    else:
        show(excerpt.preview())


@main.command()
@STORE
@click.argument("destination", metavar="DST")
@NAME
@OVERWRITE
@RESTORE_SCHEDULER
@JSON
def restore(
    store: str, destination: str, name: str | None, overwrite: bool, scheduler: str | None, as_json: bool
) -> None:
    """Turn STORE back into floats: an .npy file or a Zarr array.

    A collection becomes a NetCDF file (.nc), a Zarr group or a .safetensors file, with all that is kept in it.
    """
    from ..io import collection_sink_of, sink_of, writes_one
    from ..io.sink import Sink
    from ..reading.opening import place_of
    from ..reading.restore import restore

    place = place_of(store, name)
    several = place is not None and place.name is None
    one = writes_one(destination) and not several
    sink = sink_of(destination) if one else collection_sink_of(destination)
    if scheduler is not None and not (isinstance(sink, Sink) and sink.shared):
        raise click.UsageError(
            f"--scheduler does not go with {destination}, as several machines cannot write one {sink.name} "
            f"{'collection' if several else 'file'} at the same time: "
            + ("" if several else "name a Zarr array, such as floats.zarr, or ")
            + "leave it out"
        )
    with stoppable(), repeatable() as display, cluster(scheduler):
        restore(store, destination, name, overwrite=overwrite, progress=display)
    say(as_json, {"path": destination}, f"wrote {destination}")


@main.command()
@click.option("--size", "nbytes", type=size, default="1GiB", show_default=True, help="Of the floats to quantize.")
@click.option("--folder", help="Keep all files here; by default only the picture is kept, in the current folder.")
@click.option("--picture", metavar="X.png", help="Draw original, restored and error here.")
@OVERWRITE
@JSON
def demo(nbytes: int, folder: str | None, picture: str | None, overwrite: bool, as_json: bool) -> int:
    """Quantize real elevations, measure the errors and draw them."""
    from ..reading.summary import description, how_to_read, summary
    from .demo import Demonstration

    said = (lambda text: None) if as_json else show
    with stoppable(), contextlib.ExitStack() as stack:
        place = Path(folder or stack.enter_context(temporary("quantize-demo-")))
        place.mkdir(parents=True, exist_ok=True)
        here = Path("quantize-demo.png")
        drawn = Path(picture or (place / "elevation.png" if folder else here if overwrite else free(here)))
        demonstration = Demonstration(place / "elevation.npy", place / "elevation.zarr", drawn, overwrite)
        shape = demonstration.prepare(nbytes)
        said(f"wrote real elevations, tiled to {shape}: {demonstration.data}\n")
        with Display() as display:
            array, figures = demonstration.run(display)
        alone = demonstration.bits_of_one_tile()
        said(f"\nwrote {array.path}/{array.name}\n{description(array)}")
        said(f"            (the tiles repeat, which compresses well; one alone takes {alone:.2f} bits a value)")
        said(f"\n{figures}\n\nwrote the picture {drawn}")
        document = {
            **summary(array),
            "bits_of_one_tile": alone,
            "errors": figures.to_json(),
            "picture": str(drawn),
            "kept": folder is not None,
        }
    if folder:
        said(how_to_read(array.path, array.name))
    else:
        said(f"{place} was temporary and is removed; `quantize demo --folder elevations` keeps the store. Then")
        said(how_to_read("elevations/elevation.zarr", array.name))
    if as_json:
        say(as_json, document, "")
    if not figures.within_bound:
        complain("the errors are larger than the format promises. This is a bug in quantize")
    return DONE if figures.within_bound else WRONG


def temporary(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; those that processes which were killed left of the same name are removed first."""
    from ..io.sink import MACHINE, PROCESS, own_mark, sweep

    sweep(Path(tempfile.gettempdir()), rf"{prefix}{PROCESS}-{MACHINE}-\w+")
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{own_mark()}-")


def free(path: Path) -> Path:
    """The path, or with a number behind its name the first one that is not there yet."""
    others = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not one.exists())


# Around a run ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, and the end of a terminal (SIGHUP), stop the program as Ctrl-C does; what is ignored stays so.

    It says how to go on, and ends as soon as its tasks under way do, or soon after without them. A second signal ends
    it at once, which harms nothing: every write is atomic.
    """
    before = {number: signal.getsignal(number) for number in STOPS}
    after = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in after:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except BaseException as error:
        if isinstance(error.__cause__ or error, KeyboardInterrupt):
            after = dict.fromkeys(after, signal.SIG_DFL)
        raise
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def cluster(scheduler: str | None) -> Iterator[None]:
    """A client of a Dask scheduler, named by its address or its file; none where none is named."""
    if scheduler is None:
        yield
        return
    from distributed import Client
    from distributed.comm.addressing import get_address_host_port

    from ..exceptions import WorkersError
    from ..runtime.connection import in_a_thread

    address = scheduler_address(scheduler)
    end = time.monotonic() + CONNECT + CLOSE

    def look() -> None:
        if time.monotonic() > end:
            raise TimeoutError("what listens there says nothing")

    try:
        get_address_host_port(address, strict=True)
        client = in_a_thread(lambda: Client(address, timeout=CONNECT), look)
    except (OSError, ValueError) as error:
        raise WorkersError(f"no Dask scheduler answers at {address}: {error}. Start `dask scheduler` there") from error
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # whatever has become of the scheduler
            client.close(timeout=CLOSE)


def scheduler_address(scheduler: str) -> str:
    """The address of a Dask scheduler, or of the one that wrote this file.

    >>> scheduler_address("tls://10.0.0.1:8786"), scheduler_address("node7:8786")
    ('tls://10.0.0.1:8786', 'tcp://node7:8786')
    """
    if "://" in scheduler:
        return scheduler
    if re.fullmatch(r"[^/]+:\d+", scheduler) and not Path(scheduler).exists():
        return f"tcp://{scheduler}"
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except FileNotFoundError:
        raise click.BadParameter(
            f"{scheduler!r} is neither an address such as tcp://HOST:8786, nor the file of a Dask scheduler that runs",
            param_hint="--scheduler",
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise click.BadParameter(
            f"{scheduler!r} is not the file of a Dask scheduler, which has its address: {error}",
            param_hint="--scheduler",
        ) from error


@contextlib.contextmanager
def resumable(command: str, kept: str = "") -> Iterator[Display]:
    """A display for a run which, if it is stopped or a disk or a network fails, says how far it came and goes on.

    `kept` is what to say besides of what there is meanwhile.
    """
    from ..exceptions import WorkersError

    display = Display()
    try:
        with display:
            yield display
    except (KeyboardInterrupt, OSError, WorkersError) as error:
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        if display.account.last is None and not isinstance(error, KeyboardInterrupt) and not full:
            raise
        said = f"{message(error, main)} ({display.account.place()}). {kept and kept + '. '}"
        raise Unfinished(f"{said}To go on, run\n  {command}") from error


@contextlib.contextmanager
def repeatable() -> Iterator[Display]:
    """A display for what begins anew when it is run again, as where its cluster is lost: that is unfinished."""
    from ..exceptions import WorkersError

    display = Display()
    try:
        with display:
            yield display
    except WorkersError as error:
        if display.account.last is None:
            raise
        raise Unfinished(message(error, main)) from error


if __name__ == "__main__":
    main()
