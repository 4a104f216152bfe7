"""How far what a store restores lies from its source: figures, and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from .grid import Grid, Shape, within
from .pipeline import Progress
from .sources import as_source

if TYPE_CHECKING:
    from .array import Int4Array

SLACK = 1e-5  # of half a step: what a kernel may lose to rounding
BLOCK_VALUES = 1 << 22  # values compared at a time


@dataclass(frozen=True)
class ErrorFigures:
    """Errors ``x' - x`` of the restored values ``x'``, over the values that are finite in the source.

    Attributes
    ----------
    count : int
        Values compared.
    missing : int
        Values missing on both sides.
    mismatched : int
        Values missing on one side only, which should be none.
    outside : int
        Values further off than the bound: half a step, and the rounding of the dtypes. Without a `value_range` none
        should be; with one, those that it saturates. Infinite values count here, and in no other figure.
    max_error, mean_error, rmse : float
        Largest absolute error, mean error (the bias) and root mean square error, in the unit of the data.
    sqnr_db : float
        Signal to quantization noise: variance of the source over mean square error, in decibels; infinite where every
        value is exact.
    bound : float
        Half a step, ``scale / 2``.
    """

    count: int
    missing: int
    mismatched: int
    outside: int
    max_error: float
    mean_error: float
    rmse: float
    sqnr_db: float
    bound: float

    @property
    def within_bound(self) -> bool:
        """Whether every value is as near as the bound says, and missing where the source is."""
        return self.outside == 0 and self.mismatched == 0

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        figures = {**asdict(self), "within_bound": self.within_bound}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}

    def __str__(self) -> str:
        verdict = "within the bound" if self.within_bound else "NOT within the bound"
        lines = [
            f"values compared  {self.count:,}"
            + (f", and {self.missing:,} missing on both sides" if self.missing else ""),
            f"largest error    {self.max_error:.6g}, {verdict} of scale / 2 = {self.bound:.6g}",
            f"mean error       {self.mean_error:+.3g}",
            f"RMS error        {self.rmse:.6g}",
            f"SQNR             {self.sqnr_db:.2f} dB",
        ]
        if self.outside:
            lines.append(f"out of bound     {self.outside:,} values")
        if self.mismatched:
            lines.append(f"mismatched       {self.mismatched:,} values are missing on one side only")
        return "\n".join(lines)


@dataclass(frozen=True)
class Sums:
    """What `ErrorFigures` are made of, in steps of the scale; those of two blocks add up to those of both.

    `mean` and `spread` (sum of squared differences from it) are the source's, merged as by Chan, Golub and LeVeque
    (1979): the variance keeps its digits also where the data lie far from zero.
    """

    count: int = 0
    missing: int = 0
    mismatched: int = 0
    outside: int = 0
    largest: float = 0.0
    error: float = 0.0
    square: float = 0.0
    mean: float = 0.0
    spread: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / count if count else 0.0
        return Sums(
            count,
            self.missing + other.missing,
            self.mismatched + other.mismatched,
            self.outside + other.outside,
            max(self.largest, other.largest),
            self.error + other.error,
            self.square + other.square,
            self.mean + apart * share,
            self.spread + other.spread + apart * apart * self.count * share,
        )

    def figures(self, scale: float) -> ErrorFigures:
        n = max(self.count, 1)
        if self.square == 0:
            sqnr = math.inf if self.spread else math.nan
        else:
            sqnr = 10 * math.log10(self.spread / self.square) if self.spread else -math.inf
        return ErrorFigures(
            self.count,
            self.missing,
            self.mismatched,
            self.outside,
            max_error=self.largest * scale,
            mean_error=self.error / n * scale,
            rmse=math.sqrt(self.square / n) * scale,
            sqnr_db=sqnr,
            bound=scale / 2,
        )


def measure_error(array: Int4Array, source: Any, progress: Callable[[Progress], object] | None = None) -> ErrorFigures:
    """Compare a store with what it was made from, in one pass that holds a few chunks at a time.

    Parameters
    ----------
    array : Int4Array
        As `open_int4` gives it.
    source : path, array or Source
        What the store was made from, of the same shape.
    progress : callable, optional
        Called with a `Progress` of the phase "measure", whose units are blocks of whole chunks.

    Returns
    -------
    ErrorFigures

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    origin = as_source(source)
    if origin.shape != array.shape:
        raise ValueError(f"{origin.label} has shape {origin.shape}, but the store has shape {array.shape}")
    missing = array.missing if array.nan_code is not None else None
    report = progress or (lambda event: None)
    grid = comparison_grid(array.shape, array.chunks)
    total, nbytes = Sums(), 0
    report(Progress("measure", 0, grid.count, 0, 0))
    for number in range(grid.count):
        region = grid.region(number)
        restored = array[region]
        for piece in origin.pieces(region):
            total += compared(origin.read(piece), restored[within(piece, region)], array.scale, missing)
        nbytes += restored.size * origin.dtype.itemsize
        report(Progress("measure", number + 1, grid.count, 0, nbytes))
    return total.figures(array.scale)


def comparison_grid(shape: Shape, chunks: Shape) -> Grid:
    """Blocks of whole chunks, of several where they are small."""
    box = list(chunks)
    for axis in reversed(range(len(box))):
        box[axis] *= max(1, min(BLOCK_VALUES // math.prod(box), -(-shape[axis] // box[axis])))
    return Grid(shape, tuple(box))


@np.errstate(over="ignore", invalid="ignore")
def compared(original: np.ndarray, restored: np.ndarray, scale: float, missing: float | int | None) -> Sums:
    """Sums over one block. Missing is what is NaN or equals `missing`."""
    absent, lost = absences(original, missing), absences(restored, missing if restored.dtype.kind in "iu" else None)
    infinite = np.isinf(original)
    x, y = original.astype(np.float64), restored.astype(np.float64)
    valid = ~(absent | lost | infinite)
    if not valid.all():
        x, y = x[valid], y[valid]
    error = (y - x) / scale
    size = np.abs(error)
    far = size > 0.5
    steps = x / scale
    mean = float(steps.mean()) if x.size else 0.0
    return Sums(
        count=x.size,
        missing=int(np.count_nonzero(absent & lost)),
        mismatched=int(np.count_nonzero((absent != lost) & ~infinite)),
        outside=int(np.count_nonzero(infinite)) + count_outside(x[far], y[far], scale, original.dtype, restored.dtype),
        largest=float(size.max(initial=0.0)),
        error=float(error.sum()),
        square=float(np.square(error).sum()),
        mean=mean,
        spread=float(np.square(steps - mean).sum()),
    )


def absences(values: np.ndarray, missing: float | int | None) -> np.ndarray:
    absent: np.ndarray = np.isnan(values)
    if missing is not None:
        absent |= values == np.asarray(missing).astype(values.dtype)
    return absent


def count_outside(x: np.ndarray, y: np.ndarray, scale: float, source: np.dtype[Any], result: np.dtype[Any]) -> int:
    """Of pairs of numbers, those further apart than half a step, two ulp of the coarser dtype, and 1/2 for integers."""
    bound = (1 + SLACK) * scale / 2 + (0.5 if result.kind in "iu" else 0.0)
    ulps = [ulp(np.maximum(np.abs(x), np.abs(y)), dtype) for dtype in (source, result)]
    return int(np.count_nonzero(np.abs(y - x) > bound + 2 * np.maximum(*ulps)))


def ulp(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Distance to the next larger number of `dtype`, for float64 values of at least 0; integers are float64 here."""
    info = ml_dtypes.finfo(np.float64 if dtype.kind in "iu" else dtype)
    exponent = np.maximum(np.frexp(values)[1] - 1, info.minexp) - info.nmant
    spacing: np.ndarray = np.ldexp(1.0, exponent)
    return spacing


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
