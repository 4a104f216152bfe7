"""Pictures of a store: where its values and errors lie, which chunks and codes have them, and methods side by side.

Each function gives a matplotlib figure; `svg` and `save` write it. Colours are told apart by the colour-blind too.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ...numerics.grid import Shape
from ...numerics.scales import HIGHEST, LOWEST
from ..choices import Choice
from ..figures import PartErrors
from ..residuals import ERROR_BINS, VALUE_BINS, EvenBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#1f5a96", "#c8590a", "#d9ead3", "#8a8a8a"
WIDTH = 5.6  # inches
STEPS_BEYOND = 4  # steps: the picture reaches at most so far beyond the outermost levels
LEAST_SPAN = 8  # whole numbers: a bar spans at most one or at least so many, or its height would vary by how many
BAR_VALUES = 300  # values: the least average of a bar, so that its height tells more than chance
SMALLEST_SCALE, LARGEST_SCALE = 1e-280, 1e280  # units of the data: the scales that matplotlib can draw
MOST_ELONGATED = 8  # times as long as wide: the shape of a map from which on it is folded
ONE_ROW = 12  # parts: a map of so few is one row

STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "text.parse_math": False,  # names come from data, and may hold a $
    "svg.hashsalt": "quantize",  # the same picture is the same bytes
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def load() -> None:
    """Import what draws, which takes a while."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def styled() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def blank(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure) -> str:
    """The picture as a ``data:`` address of an SVG, which draws its letters itself."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write the picture as a PNG."""
    with styled():
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


# Histograms -----------------------------------------------------------------------------------------------------------


def value_histogram(
    counts: np.ndarray,
    lowest: int,
    *,
    scale: float | None = None,
    zero_point: int = 0,
    whole: float | None = None,
    label: str = "value",
) -> Figure:
    """How the values are distributed, with the levels that they are rounded to.

    Parameters
    ----------
    counts : ndarray
        Counts in `residuals.VALUE_BINS`.
    lowest : int
        The lowest code that values get.
    scale, zero_point : float and int, optional
        Of all values; without them the axis counts steps, as it must where there are several scales.
    whole : float, optional
        The step, where values are whole numbers: bars are then wide enough to hold several.
    label : str
        What the values are.
    """
    bars = drawn(counts, VALUE_BINS, (6, 14, 42), (lowest - 0.5 - STEPS_BEYOND, HIGHEST + 0.5 + STEPS_BEYOND), whole)
    one, zero, text = 1.0, 0, f"{label}, in steps from the level of code 0, each by its own scale"
    if scale is not None:
        drawable = SMALLEST_SCALE < scale < LARGEST_SCALE and abs(zero_point) < 2**40
        one, zero, text = (scale, zero_point, label) if drawable else (1.0, 0, f"{label}, in steps from code 0")
    levels = [(code - zero) * one for code in range(lowest, HIGHEST + 1)]
    with styled():
        figure, ax = blank(3.3)
        reach = min(bars.edges[0], lowest - 1.0), max(bars.edges[-1], HIGHEST + 1.0)
        draw(ax, bars, reach, 0.5, lambda x: (x - zero) * one)
        for level in levels:
            ax.axvline(level, color=ORANGE, linewidth=0.8, zorder=0.5)
        codes = ax.secondary_xaxis("top")
        codes.set_xticks(levels, [str(code) for code in range(lowest, HIGHEST + 1)])
        codes.tick_params(labelsize=8, length=2, colors=ORANGE)
        codes.set_xlabel("the levels, and their codes", color=ORANGE)
        ax.set_xlabel(text)
    return figure


def error_histogram(
    counts: np.ndarray, *, bound: float | None = None, whole: float | None = None, label: str = "value"
) -> Figure:
    """How the errors are distributed, with the band of half a step to either side.

    Parameters
    ----------
    counts : ndarray
        Counts in `residuals.ERROR_BINS`.
    bound : float, optional
        Half a step, where it is the same for all values.
    whole, label
        As for `value_histogram`.
    """
    bars = drawn(counts, ERROR_BINS, (2, 6, 14, 18, 42, 126), (-0.5, 0.5), whole)
    with styled():
        figure, ax = blank(2.9)
        ax.axvspan(-0.5, 0.5, color=GREEN, zorder=0)
        draw(ax, bars, (-0.6, 0.6), 0.03, lambda x: x)
        steps = (-0.5, -0.25, 0, 0.25, 0.5)
        half = ("-1/2 step", "+1/2 step") if bound is None else (f"{-bound:.4g}\n-1/2 step", f"+{bound:.4g}\n+1/2 step")
        ax.set_xticks(steps, (half[0], "", "0", "", half[1]))
        ax.set_xlabel(f"error of {label}: restored - original" + ("" if bound is not None else ", in steps"))
    return figure


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars as shares of all values, and what lies below and above them."""

    edges: np.ndarray
    heights: np.ndarray
    below: float
    above: float


def drawn(
    counts: np.ndarray, bins: EvenBins, joins: tuple[int, ...], reach: tuple[float, float], whole: float | None
) -> Bars:
    """The bars that lie within reach, each of as many bins joined as it takes to have enough values, centred about 0.

    `joins` are the numbers of bins to choose from, even and ascending.
    """
    total = max(int(counts.sum()), 1)
    spans = [(n, math.inf if whole is None else whole * n / bins.per_unit) for n in joins]
    many = [n for n, span in spans if not 0.5 < span < LEAST_SPAN] or [joins[-1]]
    join = next((n for n in many if total * n >= BAR_VALUES * bins.per_unit), many[len(many) // 2])
    most = bins.reach * bins.per_unit
    places = (np.arange(-most, most) + join // 2) // join
    heights = np.bincount(places - places[0], counts[1:-1]) / total
    edges = (np.arange(places[0], places[-1] + 2) - 0.5) * join / bins.per_unit
    inside = (edges[:-1] > reach[0] - 1e-9) & (edges[1:] < reach[1] + 1e-9)
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = np.flatnonzero(inside & (heights > 0))
    low, high = (kept[0], kept[-1]) if kept.size else (first, last)
    below, above = (counts[0] / total + heights[:first].sum(), counts[-1] / total + heights[last + 1 :].sum())
    return Bars(edges[low : high + 2], heights[low : high + 1], float(below), float(above))


def draw(ax: Axes, bars: Bars, reach: tuple[float, float], width: float, place: Callable[[Any], Any]) -> None:
    """Bars, and at either end of reach a hatched one for what lies beyond it; `place` is where they are on the axis."""
    ax.stairs(bars.heights, place(bars.edges), fill=True, color=BLUE)
    top = float(bars.heights.max(initial=0.0)) or 1.0
    low, high = reach
    for share, left in ((bars.below, low - 4 * width), (bars.above, high + 2 * width)):
        if share:
            height = min(max(share, top / 100), top)
            edges = place(np.array([left, left + 2 * width]))
            ax.stairs([height], edges, facecolor="white", edgecolor=ORANGE, hatch="////", fill=True)
            text = f"{100 * share:.2g} %\nbeyond"
            ax.text(edges.mean(), height + top / 40, text, ha="center", va="bottom", color=ORANGE, fontsize=8)
    ax.set_xlim(place(low - 6 * width * (bars.below > 0)), place(high + 6 * width * (bars.above > 0)))
    share_axis(ax, top * (1.25 if bars.below or bars.above else 1.06))


def share_axis(ax: Axes, top: float) -> None:
    ax.set_ylabel("share of the values")
    ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
    ax.set_ylim(0, top)


# Codes, chunks and methods --------------------------------------------------------------------------------------------


def code_bars(counts: Sequence[int], nan_code: int | None = None) -> Figure:
    """How many values have each of the 16 codes; `nan_code` stands for missing ones."""
    codes = list(range(LOWEST, HIGHEST + 1))
    heights = np.array(counts) / max(sum(counts), 1)
    with styled():
        figure, ax = blank(2.4)
        bars = ax.bar(codes, heights, color=[GREY if code == nan_code else BLUE for code in codes])
        if nan_code is not None:
            bars[nan_code - LOWEST].set_hatch("////")
        ax.set_xticks(codes, [f"{code}\nmissing" if code == nan_code else str(code) for code in codes])
        ax.set_xlabel("code")
        share_axis(ax, 1.06 * (heights.max() or 1.0))
    return figure


def part_map(values: Sequence[float], parts: PartErrors, label: str, *, share: bool = False) -> tuple[Figure, str]:
    """A figure of each part, as a map, and how the map lies over the array.

    Parameters
    ----------
    values : sequence of float
        One for each part, in C order; NaN is drawn grey.
    parts : PartErrors
    label : str
        What they are.
    share : bool
        Whether they are shares, to be shown in %.
    """
    from matplotlib.ticker import MaxNLocator

    cells, along = folded_map(np.array(values, np.float64), parts.counts)
    rows = len(cells)
    with styled():
        figure, ax = blank(min(1.4 + 0.25 * rows, 4.2))
        ax.set_facecolor("0.75")
        shown = 100 * cells if share else cells
        top = float(np.nanmax(shown, initial=0.0)) if np.isfinite(shown).any() else 1.0
        image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=top or 1.0, interpolation="nearest", aspect="auto")
        for side in ("top", "right"):
            ax.spines[side].set_visible(True)
        if along is None:
            ax.set_xticks([])
            ax.set_yticks([])
        else:
            for axis, numbers in zip((ax.yaxis, ax.xaxis), along, strict=True):
                axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
                axis.set_label_text(f"chunks along {axes(numbers)}")
        text = label + (" (%)" if share else "")
        figure.colorbar(image, ax=ax, location="bottom", aspect=40, shrink=0.8, label=text)
    if along is None:
        return figure, "chunks in reading order: from left to right, then from top to bottom"
    up, across = map(axes, along)
    return figure, f"rows: chunks along {up}; columns: along {across}"


def folded_map(values: np.ndarray, counts: Shape) -> tuple[np.ndarray, tuple[list[int], list[int]] | None]:
    """Values in C order as a map, and which axes its rows and its columns are; None where they are in reading order.

    >>> folded_map(np.arange(12.0), (2, 3, 2))[1]
    ([0], [1, 2])
    >>> folded_map(np.arange(20.0), (20,))[0].shape
    (4, 5)
    """
    real = [axis for axis, count in enumerate(counts) if count > 1]

    def aspect(cut: int) -> float:
        rows = math.prod(counts[:cut])
        return max(rows * rows / values.size, values.size / rows / rows)

    cut = min(real[1:], key=aspect, default=0)
    if cut and aspect(cut) <= MOST_ELONGATED:
        along = [axis for axis in real if axis < cut], [axis for axis in real if axis >= cut]
        return values.reshape(math.prod(counts[:cut]), -1), along
    columns = values.size if values.size <= ONE_ROW else math.ceil(math.sqrt(values.size))
    padded = np.full(-(-values.size // columns) * columns, np.nan)
    padded[: values.size] = values
    return padded.reshape(-1, columns), None


def axes(numbers: list[int]) -> str:
    *rest, last = map(str, numbers)
    return f"axes {', '.join(rest)} and {last}" if rest else f"axis {last}"


def method_bars(rows: Sequence[Choice], recommended: Choice | None = None) -> Figure:
    """The SQNR of each choice, the best on top."""
    order = sorted(rows, key=lambda row: -math.inf if math.isnan(row.sqnr_db) else row.sqnr_db)
    finite = [row.sqnr_db for row in rows if math.isfinite(row.sqnr_db)]
    top = max([*finite, 10.0])
    lengths = [top if row.sqnr_db == math.inf else max(row.sqnr_db, 0) if row.sqnr_db > 0 else 0 for row in order]
    with styled():
        figure, ax = blank(0.8 + 0.27 * len(order))
        bars = ax.barh(
            range(len(order)), lengths, color=[ORANGE if row.current else BLUE for row in order], height=0.72
        )
        ax.bar_label(bars, [bar_label(row, recommended) for row in order], padding=4, fontsize=8.5)
        ax.set_yticks(range(len(order)), [row.label for row in order])
        ax.set_xlabel("SQNR in dB, and bits a value as stored")
        ax.set_xlim(0, top * 1.8)
        ax.margins(y=0.02)
    return figure


def bar_label(row: Choice, recommended: Choice | None) -> str:
    number = "exact" if row.sqnr_db == math.inf else f"{row.sqnr_db:.1f}" if math.isfinite(row.sqnr_db) else "-"
    said = [word for word, true in (("this store", row.current), ("recommended", row == recommended)) if true]
    return f"{number}, {row.compressed_bits_per_value:.2f} bits" + "".join(f", {word}" for word in said)


# Two arrays -----------------------------------------------------------------------------------------------------------


def compare_picture(
    original: ArrayLike,
    restored: ArrayLike,
    path: str | PathLike[str],
    *,
    bound: float,
    title: str = "",
    label: str = "value",
) -> None:
    """Draw a 2-D sample, what was restored of it, and the error, side by side, into a PNG.

    Parameters
    ----------
    original, restored : array_like of shape (rows, columns)
        NaN is drawn grey.
    path : path
        Written over if it exists.
    bound : float
        Half a step; the colours of the error span ``-bound`` to ``bound``.
    title : str
        Above the pictures.
    label : str
        What the values are, with their unit.

    Raises
    ------
    ValueError
        If the samples are not 2-D and of one shape.
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    before, after = np.asarray(original, np.float64), np.asarray(restored, np.float64)
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"samples of shapes {before.shape} and {after.shape} are not two pictures of one size")
    from matplotlib.figure import Figure

    rows, columns = before.shape
    low, high = float(np.nanmin(before)), float(np.nanmax(before))
    figure = Figure(figsize=(15, 1.8 + 4.8 * min(max(rows / columns, 0.4), 1.5)), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    panels = (
        ("original", before, "viridis", low, high, label),
        ("restored from 4 bits", after, "viridis", low, high, label),
        ("error: restored - original", after - before, "RdBu_r", -bound, bound, f"error of {label}"),
    )
    for ax, (name, values, colours, smallest, largest, text) in zip(axes, panels, strict=True):
        ax.set_facecolor("0.6")
        ax.set_title(name)
        image = ax.imshow(values, cmap=colours, vmin=smallest, vmax=largest, interpolation="nearest")
        bar = figure.colorbar(image, ax=ax, location="bottom", aspect=40, label=text)
    bar.set_ticks([-bound, 0, bound], labels=[f"-s/2 = {-bound:.4g}", "0", f"+s/2 = {bound:.4g}"])
    figure.suptitle(title)
    figure.savefig(path, format="png")
