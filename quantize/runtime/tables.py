"""Tables as lines of text; facts and tables in HTML, for notebooks, with no script or style sheet, all escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

NAME_CSS = "text-align: left; font-weight: normal; opacity: 0.7; padding: 0.1em 1.2em 0.1em 0; vertical-align: top"
TEXT_CSS = "text-align: left; padding: 0.1em 0"
NUMBER_CSS = "text-align: right; padding: 0.1em 0 0.1em 1.2em"


def lined_up(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as it needs to be.

    >>> lined_up([("variable", "bits"), ("t", "4")])
    ['variable  bits', 't         4']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def html_facts(kind: str, title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names and texts as one ``<table>``, a row each.

    >>> html_facts("Plan", "x<y", [("memory", "3 MiB")]).count("<tr>"), "x&lt;y" in html_facts("Plan", "x<y", [])
    (1, True)
    """
    body = "".join(
        f'<tr><th scope="row" style="{NAME_CSS}">{escape(name)}</th><td style="{TEXT_CSS}">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<table>{caption(kind, title)}<tbody>{body}</tbody></table>"


def html_table(kind: str, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under a head as one ``<table>``: the first and the last column to the left, numbers to the right."""

    def row(cells: Sequence[str], tag: str) -> str:
        styles = [TEXT_CSS, *[NUMBER_CSS] * (len(cells) - 2), f"{TEXT_CSS}; padding-left: 1.2em"]
        shown = (f'<{tag} style="{style}">{escape(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table>{caption(kind, title)}<thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def html_lines(lines: Iterable[str]) -> str:
    """A paragraph for each line."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def caption(kind: str, title: str) -> str:
    return f'<caption style="{TEXT_CSS}; caption-side: top"><b>{escape(kind)}</b> {escape(title)}</caption>'
