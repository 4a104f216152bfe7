"""The page of a report: one static HTML file, with its style and pictures in it, and no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ... import __version__
from ...reading.array import Int4Array
from ...reading.summary import Row, facts
from ..choices import Choice, Comparison, decibels, percent
from ..figures import ERRORS_HEAD, DatasetErrors, ErrorFigures
from ..measure import Measurement
from . import pictures
from .verdict import Verdict, bits, times_smaller

CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 50rem; background: #fff; color: #1c1c1c;
       font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, li, dd, figcaption, caption, .command { overflow-wrap: anywhere; }
.about { margin: .2rem 0 1rem; color: #555; }
.verdict { border-left: .5rem solid; padding: .8rem 1rem; background: #f5f7f9; }
.verdict h2 { margin: 0 0 .4rem; font-size: 1.35rem; }
.verdict p { margin: .4rem 0 0; }
.good, .exact { border-color: #2e7d32; } .fair { border-color: #e0a100; }
.coarse { border-color: #c8590a; } .wrong { border-color: #b00020; } .empty { border-color: #777; }
dl { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin: 1rem 0; }
@media (max-width: 34rem) { dl { grid-template-columns: repeat(2, 1fr); } }
dl div { border: 1px solid #d4d9de; border-radius: .3rem; padding: .5rem .7rem; }
dt { font-size: .85rem; color: #555; } dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
dd small { display: block; font-size: .8rem; font-weight: 400; color: #555; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #e2e6ea; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; font-size: .9rem; padding-bottom: .3rem; }
tr.now { background: #fdf0e3; } td.command { padding-left: 1rem; } tr:has(+ tr > .command) > * { border-bottom: 0; }
.wide { overflow-x: auto; } figure + figure { margin-top: 1rem; }
figure { margin: 0; } img { width: 100%; max-width: 40rem; height: auto; display: block; }
figcaption { color: #444; font-size: .92rem; margin-top: .3rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85rem; }
pre { background: #f5f7f9; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 0; }
.tag { font-size: .78rem; border: 1px solid #777; border-radius: .6rem; padding: 0 .45rem; white-space: nowrap; }
footer { margin-top: 2.5rem; color: #555; font-size: .85rem; border-top: 1px solid #d4d9de; padding-top: .5rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; }
               figure, tr, .verdict, dl { break-inside: avoid; } .wide { overflow: visible; } }
""".strip()


def page(
    array: Int4Array,
    source: str,
    figures: ErrorFigures,
    drawn: list[str],
    verdict: Verdict,
    comparison: Comparison | None,
) -> str:
    """The HTML of a report; `source` is what to call the source, and `drawn` are the sections with pictures of it."""
    title = f"{array.path}/{array.name}"
    sections = [
        verdict_section(verdict),
        tiles(array, figures),
        table_section(array, figures),
        *drawn,
        gain_section(array, figures, comparison),
        comparison_section(comparison),
    ]
    about = f"{title}, compared with {source}: {dimensions(array)}"
    footer = "Every value of the store was compared with the source."
    return document(f"{title}: what 4 bits keep", source, about, sections, footer)


def document(title: str, source: str, about: str, sections: list[str], footer: str) -> str:
    body = "\n".join(filter(None, sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{CSS}
</style>
</head>
<body>
<header>
<h1>What 4 bits keep of {escape(Path(source).name or source)}</h1>
<p class="about">{escape(about)}</p>
</header>
<main>
{body}
</main>
<footer>Made by quantize {escape(__version__)}. {escape(footer)}</footer>
</body>
</html>
"""


def dimensions(array: Int4Array) -> str:
    lengths = " x ".join(f"{n:,}" for n in array.shape)
    return f"{lengths} values, {array.dtype}"


def section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def verdict_section(verdict: Verdict) -> str:
    said = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in verdict.sentences)
    return f'<section class="verdict {verdict.word}">\n<h2>{escape(verdict.headline)}</h2>\n{said}\n</section>'


def tiles(array: Int4Array, figures: ErrorFigures) -> str:
    """The six numbers to remember."""
    share = figures.saturated_share or 0.0
    bound = figures.bound or 0.0
    found = (
        ("SQNR", "exact" if figures.max_error == 0 else decibels(figures.sqnr_db), "signal to quantization noise"),
        ("largest error", f"{figures.max_error:.4g}", "of all values"),
        (
            "half a step",
            f"{bound:.4g}",
            "bound within the range" if array.metadata.granularity.single else "the largest of all scales",
        ),
        ("saturated", percent(share) if share else "none", "values beyond the levels"),
        ("stored", f"{bits(figures)} bits", "a value, scales included"),
        ("smaller", f"{times_smaller(array)} times", f"than {array.dtype}"),
    )
    cells = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(what)}</small></dd></div>"
        for name, value, what in found
    )
    return f"<dl>\n{cells}\n</dl>"


def table_section(array: Int4Array, figures: ErrorFigures) -> str:
    rows = [*figures.rows(), *settings(array)]
    body = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in rows)
    caption = (
        "Errors are restored values minus those of the source, in the unit of the data. An SQNR of 20 dB is a typical "
        "error of a tenth of the values' standard deviation, 14 dB of a fifth; 16 levels for all values reach some 20 "
        "to 24 dB."
    )
    return section("Figures", f"<table>\n<caption>{caption}</caption>\n<tbody>\n{body}\n</tbody>\n</table>")


def settings(array: Int4Array) -> list[tuple[str, str]]:
    """How the store was made."""
    known = dict(facts(array, most=0))
    said = [name for name in ("chunks", "scale", "appended", "under way") if name in known]
    return [("scale method", array.metadata.rule.method.label), *((name, known[name]) for name in said)]


# Its pictures ---------------------------------------------------------------------------------------------------------


def picture_sections(array: Int4Array, measurement: Measurement) -> list[str]:
    figures, counts = measurement.figures, measurement.counts
    if not figures.count:
        return []
    return [
        value_section(array, counts.values),
        error_section(array, figures, counts.errors),
        map_section(figures),
        code_section(array, figures),
    ]


def shown(figure: Any, alt: str, caption: str) -> str:
    image = f'<img src="{pictures.svg(figure)}" alt="{escape(alt)}">'
    return f"<figure>\n{image}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def label_of(array: Int4Array) -> str:
    """What the values are, with their unit where the source says so."""
    named = next((str(array.attributes[key]) for key in ("long_name", "standard_name") if key in array.attributes), "")
    unit = array.attributes.get("units")
    return (named or "value") + (f" ({unit})" if unit else "")


def whole_of(array: Int4Array) -> float | None:
    """The smallest step of whole numbers."""
    return float(array.scale) if array.dtype.kind in "iu" and array.metadata.granularity.single else None


def value_section(array: Int4Array, counts: Any) -> str:
    granularity = array.metadata.granularity
    one: dict[str, Any] = {"scale": array.scale, "zero_point": array.zero_point} if granularity.single else {}
    lowest = array.metadata.rule.lowest
    figure = pictures.value_histogram(counts, lowest, whole=whole_of(array), label=label_of(array), **one)
    caption = (
        "Each orange line is a level: a value is stored as the code of the nearest one. The scale is good where the "
        "values spread over all levels; if most lie between two of them, it is too wide."
    )
    if not granularity.single:
        caption += f" Each {granularity.each} has levels of its own: all are drawn over each other, in steps."
    beyond = "Values lie beyond the outermost levels." if counts[0] or counts[-1] else ""
    alt = f"Histogram of the values with the {7 - lowest + 1} levels that they are rounded to. {beyond}".strip()
    return section("Where the values lie", shown(figure, alt, caption))


def error_section(array: Int4Array, figures: ErrorFigures, counts: Any) -> str:
    bound = figures.bound if array.metadata.granularity.single else None
    figure = pictures.error_histogram(counts, bound=bound, whole=whole_of(array), label=label_of(array))
    caption = (
        "Within the green band a value is off by no more than half a step, which is all that rounding to the nearest "
        "level costs. "
    )
    if figures.saturated:
        caption += f"{figures.saturated:,} values are cut off at the outermost levels: their errors may lie outside it."
    else:
        caption += f"No value lies outside it{', but for rounding' if figures.rounds_beyond else ''}."
    alt = f"Histogram of the errors. The mean is {figures.bias:.3g}, the largest error {figures.max_error:.3g}."
    return section("Where the errors lie", shown(figure, alt, caption))


def map_section(figures: ErrorFigures) -> str:
    parts = figures.parts
    if parts is None or len(parts.rmse) == 1:
        return ""
    real = [value for value in parts.rmse if not math.isnan(value)]
    figure, how = pictures.part_map(parts.rmse, parts, "RMS error")
    box = " x ".join(f"{n:,}" for n in parts.box)
    note = " Grey: nothing to compare, all is missing." if len(real) < len(parts.rmse) else ""
    span = f"RMS error of each part of {box} values, {min(real):.3g} to {max(real):.3g}"
    content = shown(figure, f"Map of the {span}.", f"{span}; {how}.{note} Parts that stand out hold other data.")
    if figures.saturated:
        figure, how = pictures.part_map(parts.saturated, parts, "saturated values", share=True)
        most = percent(max(value for value in parts.saturated if not math.isnan(value)))
        said = f"Share of saturated values in each part, up to {most}"
        content += "\n" + shown(figure, f"Map of the {said[0].lower()}{said[1:]}.", f"{said}; {how}.")
    return section("Which chunks the errors are in", content)


def gain_section(array: Int4Array, figures: ErrorFigures, comparison: Comparison | None) -> str:
    """A map of what blocks gain over one scale for all, whose errors are as large everywhere."""
    parts = figures.parts
    if array.blocks is None or comparison is None or parts is None or len(parts.rmse) == 1:
        return ""
    one = max((row for row in comparison.rows if row.axis is None and row.blocks is None), key=lambda row: row.sqnr_db)
    if not (math.isfinite(one.sqnr_db) and math.isfinite(figures.sqnr_db)):
        return ""
    rmse = figures.rmse * 10 ** ((figures.sqnr_db - one.sqnr_db) / 20)
    least = min((value for value in parts.rmse if value > 0), default=rmse)
    gains = [20 * math.log10(rmse / max(value, least)) for value in parts.rmse]  # NaN stays
    real = [gain for gain in gains if not math.isnan(gain)]
    figure, how = pictures.part_map(gains, parts, "dB over one scale for all")
    said = (
        f"What blocks gain in each part over one scale for all ({one.label}), whose RMS error is about {rmse:.3g} "
        f"everywhere: {min(real):.1f} to {max(real):.1f} dB"
    )
    caption = f"{said}; {how}. Where it is dark, values lie close together, and blocks help most."
    return section("Where blocks help", shown(figure, f"Map. {said}.", caption))


def code_section(array: Int4Array, figures: ErrorFigures) -> str:
    counts = figures.code_counts or ()
    figure = pictures.code_bars(counts, array.nan_code)
    entropy = figures.entropy or 0.0
    used = sum(count > 0 for count in counts)
    caption = (
        f"{used} of 16 codes are in use, and carry {entropy:.2f} bits of the 4 that they take (their entropy). Even "
        "bars use the levels best; uneven ones compress better."
    )
    return section("Which codes are used", shown(figure, f"Bars of how often each code occurs: {used} do.", caption))


# Its side-by-side -----------------------------------------------------------------------------------------------------


def comparison_section(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    figure = pictures.method_bars(comparison.rows, comparison.recommended)
    best = comparison.recommended
    alt = f"Bars of the SQNR of {len(comparison.rows)} choices; {best.label} is recommended."
    all_of = comparison.sampled == comparison.total
    of = "all values" if all_of else f"a sample of {comparison.sampled:,} of the {comparison.total:,} values"
    caption = f"What other choices would give, tried on {of}. Orange: the choice in this store."
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*comparison.notes, *row_notes(comparison)])
    advice = (
        f"<p><strong>Recommended: {escape(best.label)}.</strong> {escape(comparison.reason)}</p>\n"
        f"<pre>{escape(best.command)}</pre>"
    )
    content = [shown(figure, alt, caption), advice, comparison_table(comparison)]
    return section("What another choice would give", "\n".join([*content, f"<ul>{notes}</ul>" if notes else ""]))


def row_notes(comparison: Comparison) -> list[str]:
    return [f"{row.label}: {row.note}" for row in comparison.rows if row.note]


def comparison_table(comparison: Comparison) -> str:
    head = ("choice", "SQNR", "largest error", "saturated", "bits a value", "compressed")
    cells = "".join(f'<th scope="col"{"" if i == 0 else NUMBER}>{name}</th>' for i, name in enumerate(head))
    body = "\n".join(comparison_row(row, row == comparison.recommended) for row in comparison.rows)
    return (
        '<div class="wide">\n<table>\n<caption>The command under each choice makes such a store.</caption>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


NUMBER = ' class="n"'


def comparison_row(row: Choice, best: bool) -> str:
    tags = [word for word, true in (("this store", row.current), ("recommended", best)) if true]
    shown_tags = "".join(f' <span class="tag">{tag}</span>' for tag in tags)
    numbers = (
        decibels(row.sqnr_db),
        f"{row.max_error:.4g}",
        percent(row.saturated_share),
        f"{row.bits_per_value:.2f}",
        f"{row.compressed_bits_per_value:.2f}",
    )
    cells = "".join(f"<td{NUMBER}>{number}</td>" for number in numbers)
    kind = ' class="now"' if row.current else ""
    command = f'<tr{kind}><td class="command" colspan="6"><code>{escape(row.command)}</code></td></tr>'
    return f'<tr{kind}><th scope="row">{escape(row.label)}{shown_tags}</th>{cells}</tr>\n{command}'


# Of a collection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detail:
    """A variable of a collection that has pictures on the page."""

    name: str
    array: Int4Array
    measurement: Measurement
    verdict: Verdict


def dataset_page(
    path: str,
    source: str,
    errors: DatasetErrors,
    rows: Mapping[str, Row],
    verdict: Verdict,
    words: Mapping[str, str],
    details: list[Detail],
) -> str:
    """The HTML of a report on a collection.

    Parameters
    ----------
    path, source : str
        What to call the store and the source.
    errors : DatasetErrors
    rows : mapping of str to Row
        What is stored of each variable.
    verdict : Verdict
        On all of it.
    words : mapping of str to str
        The verdict on each quantized variable, in a word.
    details : list of Detail
    """
    about = f"{path}, compared with {source}: {len(errors):,} variables quantized, {len(errors.kept):,} kept"
    sections = [
        verdict_section(verdict),
        variables_section(errors, rows, words, {one.name: f"v{number}" for number, one in enumerate(details)}),
        *(detail_section(one, f"v{number}") for number, one in enumerate(details)),
    ]
    footer = "Every value of the store was compared with the source, and what is kept bit for bit."
    return document(f"{path}: what 4 bits keep", source, about, sections, footer)


def variables_section(
    errors: DatasetErrors, rows: Mapping[str, Row], words: Mapping[str, str], anchors: Mapping[str, str]
) -> str:
    head = ("variable", "shape", "dtype", "verdict", *ERRORS_HEAD[1:-1], "stored", "how")
    classes = ["" if i < 4 or name == "how" else NUMBER for i, name in enumerate(head)]
    cells = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(classes, head, strict=True))
    body = []
    for name, *figures, note in errors.rows():
        row = rows[name]
        link = f'<a href="#{anchors[name]}">{escape(name)}</a>' if name in anchors else escape(name)
        texts = [" x ".join(map(str, row.shape)) or "()", row.dtype, words.get(name, "kept")]
        numbers = [*figures, f"{row.stored:,} B"]
        how = note if row.kept else ", ".join(filter(None, [row.how, note]))
        body.append(
            f'<tr><th scope="row">{link}</th>'
            + "".join(f"<td>{escape(text)}</td>" for text in texts)
            + "".join(f"<td{NUMBER}>{escape(text)}</td>" for text in numbers)
            + f"<td>{escape(how)}</td></tr>"
        )
    caption = "The coarsest come first. Errors are restored values minus those of the source, in the unit of the data."
    lines = "\n".join(body)
    return section(
        "Variables",
        f'<div class="wide">\n<table>\n<caption>{caption}</caption>\n<thead><tr>{cells}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table>\n</div>",
    )


def detail_section(one: Detail, anchor: str) -> str:
    figures = one.measurement.figures
    drawn = filter(None, picture_sections(one.array, one.measurement))
    content = "\n".join([verdict_section(one.verdict), tiles(one.array, figures), *drawn])
    inner = content.replace("<h2>", "<h3>").replace("</h2>", "</h3>")
    return f'<section id="{anchor}">\n<h2>{escape(one.name)}</h2>\n{inner}\n</section>'
