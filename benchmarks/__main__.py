"""The entry point: runs sections, prints their tables as Markdown, or all rows as JSON."""

from __future__ import annotations

import json
from importlib import import_module

import click

from .measuring import machine
from .tables import Table

# Modules of this package, each with a function `run(quick)` that gives its tables.
SECTIONS = {
    "scales": "signal to noise of every rule for the scale, against a dense search and peers",
    "pass1": "what a histogram costs in pass 1",
    "kernels": "the loops, against copying and reading the same bytes",
    "blocks": "scales for blocks in memory, against copying them and against one scale",
    "memory": "arrays in memory, against copying them and against peers",
    "pipeline": "from a source to a sealed store, against what must be read and written, and a script",
    "checks": "what it costs to check a source, to decode it, and to hold a store against it",
    "reading": "a store as floats, whole and in parts, against copying and against Zarr's own reads",
    "datasets": "whole datasets and checkpoints, against packed integers and GGUF",
    "appending": "appends, the last of many against the first, and one against a run",
    "growth": "time, memory and overhead as arrays and the number of chunks grow",
    "checkpoints": "many small tensors as one collection, beside their kernels",
    "startup": "commands, imports and first calls in new processes",
}
EPILOG = "Sections: " + "; ".join(f"{name}, {what}" for name, what in SECTIONS.items()) + ". All by default."


@click.command(epilog=EPILOG)
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, a row for each line of a table.")
@click.option("--quick", is_flag=True, help="Small data and one repeat: shows that it runs, measures nothing.")
def main(sections: tuple[str, ...], as_json: bool, quick: bool) -> None:
    """Measure, and hold what is measured to its bars."""
    rows = []
    if not as_json:
        click.echo(f"{machine()}\n")
    for name in dict.fromkeys(sections or SECTIONS):
        tables: list[Table] = import_module(f".{name}", __package__).run(quick)
        if as_json:
            rows += [{"section": name, "table": table.title, **row} for table in tables for row in table.rows]
        else:
            click.echo(f"# {name}: {SECTIONS[name]}\n\n" + "\n\n".join(map(str, tables)) + "\n")
    if as_json:
        click.echo(json.dumps({"machine": machine(), "quick": quick, "rows": rows}, indent=1, allow_nan=False))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
