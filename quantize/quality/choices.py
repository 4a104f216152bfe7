"""One choice of scales as figures, words and a command, and several side by side."""

from __future__ import annotations

import math
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..numerics.grid import Shape
from ..numerics.scales import Rule
from ..runtime.tables import html_lines, html_table
from ..storage import listed
from ..store.zarr_json import to_json
from .by_name import ByName


@dataclass(frozen=True)
class Choice:
    """One way to choose scales, and what it gives on the sample.

    Attributes
    ----------
    label : str
        What to call it.
    scale_method : {"minmax", "absmax", "percentile", "mse"}
    axis : int or None
        The axis that keeps a scale for each of its indices.
    sqnr_db : float
        Signal to quantization noise, in decibels: variance of the values over mean square error. Infinite where every
        value is restored exactly, NaN where there are none.
    bits_per_value : float
        Of codes and scales: 4, and 128 for each index of the axis, or 48 for each block.
    compressed_bits_per_value : float
        With the codes of the sample, and the scales of blocks, compressed as the store does by default.
    max_error : float
        Largest absolute error of the sample.
    saturated_share : float
        Of the values: those beyond the outermost levels by more than half a step, 0 to 1.
    command : str
        What to run to get it.
    current : bool
        Whether it is how the store at hand was made.
    note : str
        What else there is to know.
    blocks : tuple of int or None
        Lengths of the blocks that keep a scale each.
    speed : {"fast", "medium", "slow"}
        How long codes take, and values to come back: about as long as with one scale by minmax, two to five times as
        long, or longer.
    recall : float or None
        Where choices are compared for search: the share of the ten nearest rows, by inner product, that are still
        among the ten nearest once rows are restored.
    value_range : tuple of float, optional
        The range to give to a run, where the sample holds infinity, which it would refuse.
    """

    label: str
    scale_method: str
    axis: int | None
    sqnr_db: float
    bits_per_value: float
    compressed_bits_per_value: float
    max_error: float
    saturated_share: float
    command: str
    current: bool = False
    note: str = ""
    blocks: Shape | None = None
    speed: str = "fast"
    recall: float | None = None
    value_range: tuple[float, float] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `quantize_to_zarr` that a run needs, beside the policy for missing values."""
        by_range = self.value_range is not None and self.scale_method in BY_HISTOGRAM
        found = {
            "scale_method": None if by_range else self.scale_method,
            "axis": self.axis,
            "blocks": self.blocks,
            "value_range": self.value_range,
        }
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        found: dict[str, Any] = to_json(asdict(self))
        return found


@dataclass(frozen=True)
class Comparison:
    """Ways to choose scales side by side. `str` prints a table, `to_json` gives its figures.

    Attributes
    ----------
    rows : tuple of Choice
    recommended : Choice
        One of the rows.
    reason : str
        Why that one.
    sampled, total : int
        Values in the sample, and in all.
    notes : tuple of str
        What else there is to know.
    """

    rows: tuple[Choice, ...]
    recommended: Choice
    reason: str
    sampled: int
    total: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All figures; those that JSON has no number for are None."""
        found: dict[str, Any] = to_json(asdict(self))
        return found

    @property
    def measured(self) -> str:
        """What the figures were measured on."""
        of = f"all {self.total:,} values" if self.sampled == self.total else f"a sample of {self.sampled:,} values"
        return f"measured on {of}" + ("" if self.sampled == self.total else f", out of {self.total:,}")

    def _repr_html_(self) -> str:
        head, *body = self.table
        notes = [f"note: {note}" for note in self.notes]
        advice = f"recommended: {self.recommended.label}. {self.reason}"
        shown = html_table("Comparison", self.measured, head, body)
        return shown + html_lines([self.legend, *notes, advice, self.recommended.command])

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Its head, and a row for each choice, as text."""
        rows = [cells(row, row == self.recommended) for row in self.rows]
        head: tuple[str, ...] = HEAD
        if any(row.recall is not None for row in self.rows):
            found = ["-" if row.recall is None else f"{row.recall:.3f}" for row in self.rows]
            head = (*HEAD[:2], "recall@10", *HEAD[2:])
            rows = [(*row[:2], recall, *row[2:]) for row, recall in zip(rows, found, strict=True)]
        return [head, *rows]

    @property
    def legend(self) -> str:
        """What the columns mean."""
        found = any(row.recall is not None for row in self.rows)
        return LEGEND + (f" {RECALL}" if found else "")

    def __str__(self) -> str:
        lines = aligned(self.table)
        lines += ["", *textwrap.wrap(self.legend, 100)]
        notes = [textwrap.fill(f"note: {note}", 100, subsequent_indent="      ") for note in self.notes]
        advice = textwrap.fill(f"recommended: {self.recommended.label}. {self.reason}", 100)
        parts = [self.measured], lines, notes, [advice, f"  {self.recommended.command}"]
        return "\n\n".join("\n".join(part) for part in parts if part)


class DatasetComparison(ByName[Comparison]):
    """Ways to choose scales for each variable that a run quantizes: a mapping of its name to its `Comparison`.

    `str` prints a line for each, with what is recommended; `to_json` gives all figures.

    Attributes
    ----------
    kept : int
        Number of variables that a run keeps as they are.
    command : str
        What to run to get what is recommended for each.
    """

    def __init__(self, variables: Mapping[str, Comparison], kept: int, words: tuple[str, str, str]) -> None:
        super().__init__(variables)
        self.kept = kept
        self.command = command_of_all(self.settings, words)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What is recommended, as `quantize_dataset` takes it: ``rules=found.settings``."""
        return {name: found.recommended.settings for name, found in self.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to know, each note once, with those that it is of."""
        names: dict[str, list[str]] = {}
        for name, found in self.items():
            for note in found.notes:
                names.setdefault(note, []).append(name)
        return tuple(f"{listed(own, 3)}: {note}" for note, own in names.items())

    @property
    def measured(self) -> str:
        most = max(found.sampled for found in self.values())
        kept = f"; kept as they are: {self.kept:,}" if self.kept else ""
        return f"{len(self):,} variables, each measured on at most {most:,} values{kept}"

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Its head, and a row for each variable, as text."""
        return [HEAD_OF_ALL, *(line(name, found) for name, found in self.items())]

    def to_json(self) -> dict[str, Any]:
        """All figures; those that JSON has no number for are None."""
        return {
            "variables": {name: found.to_json() for name, found in self.items()},
            "kept": self.kept,
            "command": self.command,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"<DatasetComparison of {len(self):,} variables: {self.command}>"

    def _repr_html_(self) -> str:
        head, *body = self.table
        notes = [f"note: {note}" for note in self.notes]
        shown = html_table("DatasetComparison", self.measured, head, body)
        return shown + html_lines([LEGEND_OF_ALL, *notes, self.command])

    def __str__(self) -> str:
        lines = [*aligned(self.table), "", *textwrap.wrap(LEGEND_OF_ALL, 100)]
        notes = [textwrap.fill(f"note: {note}", 100, subsequent_indent="      ") for note in self.notes]
        parts = [self.measured], lines, notes, ["recommended:", f"  {self.command}"]
        return "\n\n".join("\n".join(part) for part in parts if part)


def line(name: str, found: Comparison) -> tuple[str, ...]:
    """What is recommended for a variable, as text, beside what one scale by minmax gives."""
    best, simple = found.recommended, found.rows[0]
    recall = "" if best.recall is None else f"recall@10 {best.recall:.3f}"
    return (
        name,
        decibels(simple.sqnr_db),
        decibels(best.sqnr_db),
        f"{best.max_error:.4g}",
        percent(best.saturated_share),
        f"{best.compressed_bits_per_value:.2f}",
        "; ".join(filter(None, [best.label, recall, best.note])),
    )


def command_of_all(settings: Mapping[str, Mapping[str, Any]], words: tuple[str, str, str]) -> str:
    """What to run: what most variables have in common as options, and a rule for each of the others."""
    source, stem, option = words
    texts = {name: rule_text(one) for name, one in settings.items()}
    common = Counter(texts.values()).most_common(1)[0][0]
    usual = next(settings[name] for name, text in texts.items() if text == common)
    parts = [f"--{name.replace('_', '-')} {as_text(value, name)}" for name, value in usual.items()]
    for name, text in texts.items():
        if text != common:
            parts.append(f"--rule {shlex.quote(f'{name}:{text}')}")
    destination = shlex.quote(f"{stem}-int4.zarr") if stem else "DST"
    return " ".join(["quantize run", source, destination, *parts]) + option


def rule_text(settings: Mapping[str, Any]) -> str:
    """Settings as a rule has them, complete: those that more is said of elsewhere have one scale where it says none."""
    one_scale = {} if "axis" in settings or "blocks" in settings else {"axis": "none"}
    return ",".join(f"{name}={as_text(value)}" for name, value in {**settings, **one_scale}.items())


def as_text(value: Any, option: str = "") -> str:
    """A setting as a rule of the command line has it, or an `option`: of that the ends of a range are two words."""
    if isinstance(value, tuple):
        return (" " if option == "value_range" else ",").join(f"{part:.12g}" for part in value)
    return str(value)


def command_words(source: Any, option: str) -> tuple[str, str, str]:
    """Source, stem of the destination and the options that say how to read it, as a shell takes them."""
    if not isinstance(source, str | os.PathLike):
        return "SRC", "", option
    path = os.fspath(source)
    name, _, inside = path.rstrip("/").partition("::")
    stem = "-".join(filter(None, [Path(name).stem, inside.strip("/").replace("/", "-")]))
    return shlex.quote(path), stem, option


def command(rule: Rule, words: tuple[str, str, str], value_range: tuple[float, float] | None) -> str:
    """What to run: with a range, where that must be given, that covers what the method finds in the sample."""
    source, stem, missing = words
    given = "" if value_range is None else f" --value-range {as_text(value_range, 'value_range')}"
    suffix = "".join(rule.granularity.label.replace("blocks of", "blocks").split())
    name = "-".join(filter(None, [stem, rule.method.name, suffix]))
    destination = shlex.quote(f"{name}.zarr") if stem else "DST"
    options = "" if given and rule.method.needs == "histogram" else rule.method.option
    options += rule.granularity.option
    if rule.finest is not None:
        options += f" --finest {rule.finest:.17g}"
    if rule.nan_code is not None:
        options += " --nan-policy propagate"
    return f"quantize run {source} {destination}{options}{given}{missing}"


LEGEND = (
    "SQNR is signal to quantization noise: 6 dB more halve the errors. Compressed is in bits a value, too: codes and "
    "scales of blocks as stored. Medium speed takes 2 to 5 times as long as fast, slow longer."
)
RECALL = "Recall@10 is the share of the ten nearest rows, by inner product, that are still found among ten."


BY_HISTOGRAM = ("percentile", "mse")  # methods that a given range takes the place of
LEGEND_OF_ALL = (
    "SQNR is signal to quantization noise, with what is recommended and with one scale by minmax: 6 dB more halve the "
    "errors. Compressed is in bits a value, codes and scales of blocks as stored."
)
HEAD_OF_ALL = ("variable", "minmax", "SQNR", "largest error", "saturated", "compressed", "recommended")
HEAD = ("scale", "SQNR", "largest error", "saturated", "bits a value", "compressed", "speed", "")


def cells(row: Choice, recommended: bool) -> tuple[str, ...]:
    """A row of the table, as text."""
    remarks = ["<- recommended" if recommended else "", "in this store" if row.current else "", row.note]
    return (
        row.label,
        decibels(row.sqnr_db),
        f"{row.max_error:.4g}",
        percent(row.saturated_share),
        f"{row.bits_per_value:.2f}",
        f"{row.compressed_bits_per_value:.2f}",
        row.speed,
        "; ".join(filter(None, remarks)),
    )


def aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Rows of one table, the first and the last column to the left, and numbers to the right.

    >>> aligned([("scale", "SQNR", ""), ("mse", "exact", "best")])
    ['scale   SQNR', 'mse    exact  best']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *between, last in table:
        numbers = (cell.rjust(width) for cell, width in zip(between, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers, last]).rstrip())
    return lines


def decibels(value: float) -> str:
    return "exact" if value == math.inf else "-" if not math.isfinite(value) else f"{value:.1f} dB"


def percent(share: float) -> str:
    """A share as people say it, and never 0 or all where it is not.

    >>> percent(0), percent(0.00314), percent(2e-7), percent(1)
    ('0', '0.31 %', '< 0.01 %', '100 %')
    """
    if share == 0:
        return "0"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    return "< 0.01 %" if share < 1e-4 else f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.4g} %"
