"""Draw the pictures of the documentation: ``python docs/pictures.py`` writes them into ``docs/pictures``.

Elevations are real, from matplotlib's samples; embeddings are drawn by a fixed seed: columns of different widths, with
tails. Granularities are compared on the arrays of the benchmarks, beside GGUF where the package `gguf` is installed.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.fidelity import SIZE, Fidelity, of_array
from benchmarks.samples import array
from quantize import quantize_to_zarr
from quantize.cli.demo import elevations
from quantize.quality.measure import measure_store
from quantize.quality.report import pictures
from quantize.quality.suggest import suggest

HERE = Path(__file__).parent / "pictures"


def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_t(4, (4000, 256)) * np.exp(0.5 * rng.normal(size=256))).astype(np.float32)


KINDS = ("text embeddings", "network weights", "elevations", "photograph")
RUNS = ("(1, 64)", "(1, 32)", "(1, 24)", "(1, 16)")
MARKS = {  # a marker and a colour for each choice but runs, which have a line
    "one scale, minmax": ("x", pictures.GREY),
    "one scale": ("o", pictures.GREY),
    "axis 0": ("_", "black"),
    "axis 1": ("|", "black"),
    "(32, 1)": ("^", pictures.ORANGE),
    "(4, 8)": ("s", "#1a7f4b"),
}
PEERS, PURPLE = ("GGUF Q4_0", "GGUF Q4_1", "GGUF Q4_K"), "#7b3294"


def granularities() -> Figure:
    """Signal to noise against bits as stored, for all that may share a scale, on four kinds of data."""
    with pictures.styled():
        figure = Figure(figsize=(8.4, 7.4), layout="constrained")
        for ax, kind in zip(figure.subplots(2, 2).flat, KINDS, strict=True):
            ax.set(title=kind, xlabel="bits a value, as stored", ylabel="SQNR (dB)")
            compare(ax, of_array(array(kind, SIZE)))
        handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def compare(ax: Axes, found: dict[str, Fidelity]) -> None:
    def named(label: str, choice: str, place: tuple[int, int], color: str) -> None:
        at = found[choice].bits, found[choice].decibels
        ax.annotate(label, at, place, textcoords="offset points", color=color, fontsize=8)

    bits, decibels = [found[run].bits for run in RUNS], [found[run].decibels for run in RUNS]
    ax.plot(bits, decibels, ".-", color=pictures.BLUE, label="(1, 64), (1, 32), (1, 24), (1, 16)", markersize=9)
    for run in RUNS:
        named(run[4:-1], run, (-13, 5), pictures.BLUE)
    for choice, (marker, color) in MARKS.items():
        ax.plot(found[choice].bits, found[choice].decibels, marker, color=color, label=choice, fillstyle="none", ms=9)
    for peer in PEERS:
        if found[peer].bits is not None:
            ax.plot(found[peer].bits, found[peer].decibels, "D", color=PURPLE, label="GGUF", fillstyle="none", ms=5)
            named(peer[5:], peer, (6, -4), PURPLE)
    ax.margins(0.1)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        heights, vectors = elevations(), embeddings()
        height = quantize_to_zarr(heights, Path(folder) / "height.zarr", chunks=(16, 16))
        vector = quantize_to_zarr(vectors, Path(folder) / "vector.zarr", scale_method="mse")
        parts = measure_store(height, heights).figures.parts
        found = measure_store(vector, vectors)
    choices = suggest(vectors, current=vector)
    assert parts is not None
    drawn = {
        "values": pictures.value_histogram(
            found.counts.values, -8, scale=vector.scale, zero_point=vector.zero_point, label="component"
        ),
        "errors": pictures.error_histogram(found.counts.errors, bound=vector.max_error, label="component"),
        "chunks": pictures.part_map(parts.rmse, parts, "RMS error (m)")[0],
        "codes": pictures.code_bars(found.figures.code_counts or ()),
        "choices": pictures.method_bars(choices.rows, choices.recommended),
        "granularity": granularities(),
    }
    for name, figure in drawn.items():
        pictures.save(figure, HERE / f"{name}.png")


if __name__ == "__main__":
    main()
