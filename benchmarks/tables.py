"""Rows of results, printed as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ABSENT = "absent"  # in place of a figure: what would give it is not installed


@dataclass(frozen=True)
class Table:
    """Rows with the same keys, which head the columns, and what has to be said of them."""

    title: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        heads = list(self.rows[0])
        cells = [heads, *([shown(row[head]) for head in heads] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = [all(isinstance(row[head], int | float) or row[head] is None for row in self.rows) for head in heads]

        def line(row: list[str]) -> str:
            padded = [
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            ]
            return f"| {' | '.join(padded)} |"

        rule = ["-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
        lines = [f"## {self.title}", "", line(heads), line(rule), *map(line, cells[1:])]
        return "\n\n".join(["\n".join(lines), *self.notes])


def shown(value: Any) -> str:
    if value is None:
        return ABSENT
    return f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else str(value)


def verdict(met: bool | None) -> str:
    """Whether a bar is met; None where what it is held to is absent."""
    return ABSENT if met is None else "yes" if met else "no"


def at_most(ratio: float, bar: float | None) -> dict[str, Any]:
    """The columns of a ratio that is held to a bar, or to none."""
    return {"ratio": ratio, "at most": "" if bar is None else bar, "met": "" if bar is None else verdict(ratio <= bar)}


def at_least(ratio: float, bar: float | None) -> dict[str, Any]:
    """The same where it may not be below the bar."""
    return {"ratio": ratio, "at least": "" if bar is None else bar, "met": "" if bar is None else verdict(ratio >= bar)}
