"""What each way to choose scales would give, side by side on a sample, and which to take."""

from __future__ import annotations

import functools
import math
import os
import shlex
import textwrap
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.registry import as_source
from ..io.sampling import MOST, sample_of
from ..numerics.blocks import blocks
from ..numerics.grid import Region, Shape
from ..numerics.scales import HIGHEST, PERCENTILE, SCALE_METHODS, Rule
from ..quantize import dequantize_from_packed_int4, quantize_to_packed_int4
from ..runtime.plan import chosen_missing
from ..store.codec import ChunkCodec, Compressor

if TYPE_CHECKING:
    from ..reading.array import Int4Array

PARAMETERS = 128  # bits of a scale and a zero point
DEAREST = 4.0  # bits a value that the scales of an axis may take to be looked at: as many as the codes
ENOUGH = 256  # sampled values that an index of an axis is judged by, if it has as many
LONGEST = 1 << 14  # indices of an axis that are looked at
GAIN = 1.0  # dB that a choice must gain to be recommended over a simpler one
PRICE = 0.5  # bits a value that an axis may cost to be recommended
PARTS = 9  # of a sample, whose ranges against those of larger parts show how a range grows with the number of values
SLACK = 1e-5  # of half a step, as in the bound


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
        Of codes and scales: 4, and 128 for each index of the axis.
    compressed_bits_per_value : float
        With the codes of the sample compressed as the store does by default.
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

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        figures = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}


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
        return {
            "rows": [row.to_json() for row in self.rows],
            "recommended": self.recommended.to_json(),
            "reason": self.reason,
            "sampled": self.sampled,
            "total": self.total,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = aligned([HEAD, *(cells(row, row == self.recommended) for row in self.rows)])
        of = f"all {self.total:,} values" if self.sampled == self.total else f"a sample of {self.sampled:,} values"
        looked = f"measured on {of}" + ("" if self.sampled == self.total else f", out of {self.total:,}")
        lines += ["", LEGEND]
        notes = [textwrap.fill(f"note: {note}", 100, subsequent_indent="      ") for note in self.notes]
        advice = textwrap.fill(f"recommended: {self.recommended.label}. {self.reason}", 100)
        parts = [looked], lines, notes, [advice, f"  {self.recommended.command}"]
        return "\n\n".join("\n".join(part) for part in parts if part)


def compare(source: Any, *, current: Int4Array | None = None, missing: Any = "declared") -> Comparison:
    """Try each way to choose scales on a sample, and recommend one.

    Parameters
    ----------
    source : path, array or Source
        As for `quantize_to_zarr`. At most 4 million of its values are read into the sample: all of a small array, else
        boxes spread evenly, from a few of its chunks.
    current : Int4Array, optional
        A store that was made from it: the row that says how is marked.
    missing : "declared", None or number
        As for `quantize_to_zarr`. Where the sample holds NaN or missing values, they are kept.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the source's format is not known, it has no values, or `missing` is none of those above.
    TypeError
        If the source cannot be read or its dtype cannot be quantized.
    FileNotFoundError
        If the source does not exist.

    Notes
    -----
    Covering the range of all values takes wider steps than covering that of a sample. For minmax and absmax the SQNR is
    that of the sample, less what the range is likely to grow by: as much for each doubling of the number of values as
    it does within the sample.

    Examples
    --------
    >>> values = np.random.default_rng(0).standard_t(4, 100_000).astype(np.float32)
    >>> found = compare(values)
    >>> found.recommended.label, found.recommended.command
    ('mse', 'quantize run SRC DST --scale-method mse')
    """
    origin = as_source(source)
    chosen = chosen_missing(origin, missing)
    sample = Sample.of(sample_of(origin, MOST), origin.shape, chosen)
    notes = []
    if sample.infinite:
        notes.append(
            f"the sample holds infinity, {sample.infinite:,} times, which is left out: a run refuses it without a "
            "--value-range, so the commands have the range that each method finds in the sample"
        )
    if sample.propagates:
        absent = np.count_nonzero(~sample.counted) - sample.infinite
        notes.append(f"{percent(absent / sample.values.size)} of the sample is missing, which takes one of the codes")
    axes: list[int | None] = [None]
    for axis in range(len(origin.shape)) if not sample.infinite else ():
        why = sample.why_not(axis)
        if why is None:
            axes.append(axis)
        elif why:
            notes.append(f"axis {axis} is left out: {why}")
    rules = [sample.rule(method, axis) for axis in axes for method in SCALE_METHODS]
    now = None if current is None else rule_of(current, sample)
    if now is not None and now not in rules:
        rules.append(now)
    words = command_words(source, origin.missing, chosen)
    choices = {rule: replace(measured(sample, rule, words), current=rule == now) for rule in rules}
    if any("taken off" in choice.note for choice in choices.values()):
        notes.append(
            "the range of all values is likely wider than the sample's: what that costs minmax and absmax is "
            "estimated, and taken off their SQNR"
        )
    recommended, reason = recommendation(choices)
    return Comparison(
        tuple(choices.values()), choices[recommended], reason, sample.values.size, math.prod(origin.shape), tuple(notes)
    )


# The sample -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """Values as the functions in memory take them.

    Attributes
    ----------
    values : ndarray
        Missing ones are NaN, infinite ones some other value.
    counted : ndarray of bool
        Those that are neither.
    dtype : dtype
        Of the source: what is restored.
    shape : tuple of int
        Of the source.
    propagates : bool
        Whether there are missing values.
    infinite : int
        How many are infinite.
    """

    values: np.ndarray
    counted: np.ndarray
    dtype: np.dtype[Any]
    shape: Shape
    propagates: bool
    infinite: int

    @classmethod
    def of(cls, values: np.ndarray, shape: Shape, missing: float | int | None) -> Sample:
        dtype = values.dtype
        absent = np.isnan(values)
        if missing is not None:
            absent |= values == np.asarray(missing, dtype)
        infinite = np.isinf(values)
        counted = ~(absent | infinite)
        if absent.any() and dtype.kind in "iu":
            values = values.astype(np.float64)
        if absent.any():
            values[absent] = np.nan
        if infinite.any():
            values[infinite] = values[counted][0] if counted.any() else 0
        return cls(values, counted, dtype, shape, bool(absent.any()), int(np.count_nonzero(infinite)))

    @functools.cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.counted))

    @functools.cached_property
    def spread(self) -> float:
        """The sum of squared differences from the mean."""
        regions = list(blocks(self.values.shape))
        middle = sum(float(self.numbers(region, self.values).sum()) for region in regions) / max(self.count, 1)
        return sum(float(np.square(self.numbers(region, self.values) - middle).sum()) for region in regions)

    def numbers(self, region: Region, array: np.ndarray) -> np.ndarray:
        """Those of an array of the sample's shape in a region, but for what is not counted."""
        part = array[region]
        return (part if self.count == self.values.size else part[self.counted[region]]).astype(np.float64)

    def rule(self, method: str, axis: int | None, **options: Any) -> Rule:
        return Rule(method, nan_policy="propagate" if self.propagates else "raise", axis=axis, **options)

    def per_index(self, axis: int | None, shape: Shape) -> float:
        """Values of one index, for an array of this shape."""
        return math.prod(shape) / (1 if axis is None else shape[axis])

    def times(self, axis: int | None) -> float:
        """How many times as many values an index has in all than in the sample."""
        return self.per_index(axis, self.shape) / self.per_index(axis, self.values.shape)

    def why_not(self, axis: int) -> str | None:
        """Why scales for an axis are not looked at: None if they are, no words where it goes without saying."""
        each, here = self.per_index(axis, self.shape), self.per_index(axis, self.values.shape)
        if self.shape[axis] == 1:
            return ""
        if PARAMETERS / each > DEAREST:
            return f"its scales would take {PARAMETERS / each:.0f} bits a value" if len(self.shape) > 1 else ""
        if here < min(each, ENOUGH):
            return f"the sample holds {here:,.0f} of the {each:,.0f} values of each index, too few to judge by"
        return None

    def thinned(self, axis: int | None) -> Sample:
        """With at most `LONGEST` of the indices of an axis, spread evenly."""
        if axis is None or self.values.shape[axis] <= LONGEST:
            return self
        indices = np.linspace(0, self.values.shape[axis] - 1, LONGEST).astype(np.intp)
        return replace(self, values=self.values.take(indices, axis), counted=self.counted.take(indices, axis))


def rule_of(array: Int4Array, sample: Sample) -> Rule:
    """How the scales of a store were chosen, with what the sample needs for missing values."""
    metadata = array.metadata
    settings = metadata.fingerprint.get("settings", {})
    given = settings.get("value_range")
    return sample.rule(
        metadata.scale_method,
        metadata.axis,
        value_range=None if given is None else tuple(given),
        percentile=settings.get("percentile"),
    )


# What a rule gives ----------------------------------------------------------------------------------------------------


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def measured(whole: Sample, rule: Rule, words: tuple[str, str, str]) -> Choice:
    sample = whole.thinned(rule.axis)
    values = sample.values
    result = quantize_to_packed_int4(
        values,
        rule.scale_method,
        axis=rule.axis,
        percentile=rule.percentile,
        value_range=rule.value_range,
        nan_policy=rule.nan_policy,
    )
    scale, zero_point = result.scale, result.zero_point
    floats = result.nan_code is not None and sample.dtype.kind in "iu"  # integers have no NaN
    restored = dequantize_from_packed_int4(
        result.packed,
        scale,
        zero_point,
        size=result.size,
        nan_code=result.nan_code,
        dtype=np.float64 if floats else sample.dtype,
    )
    if floats:
        info = np.iinfo(sample.dtype)
        restored = np.rint(restored).clip(info.min, info.max)
    half = scale / 2 * (1 + SLACK)
    low, high = (rule.lowest - zero_point) * scale - half, (HIGHEST - zero_point) * scale + half
    low, high = (np.broadcast_to(bound, values.shape) for bound in (low, high))
    largest, square, saturated = 0.0, 0.0, 0
    for region in blocks(values.shape):
        x = sample.numbers(region, values)
        error = np.abs(sample.numbers(region, restored) - x)
        square += float(np.square(error).sum())
        largest = max(largest, float(error.max(initial=0.0)))
        saturated += int(np.count_nonzero((x < sample.numbers(region, low)) | (x > sample.numbers(region, high))))
    sqnr = ratio(sample.spread, square) if sample.count else math.nan
    notes = []
    if values.size < whole.values.size:
        notes.append(f"on {LONGEST:,} of {whole.values.shape[rule.axis or 0]:,} indices")
    loss = 0.0 if rule.histogrammed or rule.value_range else growth(sample, rule)
    if math.isfinite(sqnr) and loss >= 0.05:
        sqnr = max(sqnr - loss, min(sqnr, 0.0))
        notes.append(f"{loss:.1f} dB taken off")
    share = PARAMETERS / sample.per_index(rule.axis, sample.shape)
    codec = ChunkCodec(result.packed.shape, Compressor())
    given = ""
    if whole.infinite and rule.value_range is None and rule.axis is None:
        given = f" --value-range {(rule.lowest - zero_point) * scale:.12g} {(HIGHEST - zero_point) * scale:.12g}"
    return Choice(
        label=label(rule),
        scale_method=rule.scale_method,
        axis=rule.axis,
        sqnr_db=sqnr,
        bits_per_value=4 + share,
        compressed_bits_per_value=8 * len(codec.encode(result.packed.view(np.uint8))) / values.size + share,
        max_error=largest,
        saturated_share=saturated / max(sample.count, 1),
        command=command(rule, words, given),
        note="; ".join(notes),
    )


def ratio(signal: float, noise: float) -> float:
    """Decibels."""
    if not math.isfinite(signal) or not math.isfinite(noise):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def growth(sample: Sample, rule: Rule) -> float:
    """Decibels of noise that a rule which covers the range adds in all of the array: its square, by the mean index.

    The ranges of parts of the values, against those of larger parts, show what they grow by with the number of values.
    From the sample on they are taken to grow on like that, which is so for tails that fall as powers do, and somewhat
    too much for others.
    """
    times = sample.times(rule.axis)
    if times <= 1:
        return 0.0
    values = np.where(sample.counted, sample.values, np.nan).astype(np.float64)
    axis = rule.axis
    lines = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    shuffled = lines[:, np.random.default_rng(0).permutation(lines.shape[1])]
    # A few indices have too few ranges of their own: parts of parts give more of them.
    many = len(lines) >= PARTS or lines.shape[1] < PARTS**3
    coarse, fine = (mean_square(shuffled, parts, rule) for parts in ((1, PARTS) if many else (PARTS, PARTS**2)))
    if not (coarse > 0 and fine > 0):
        return 0.0
    found = 10 * math.log10(coarse / fine) * math.log(times) / math.log(PARTS)
    return found if math.isfinite(found) else 0.0


def mean_square(lines: np.ndarray, parts: int, rule: Rule) -> float:
    """Of the ranges of so many parts of each line; NaN where there are none."""
    size = lines.shape[1] // parts
    cut = lines[:, : size * parts].reshape(-1, size)
    low, high = np.fmin.reduce(cut, axis=1), np.fmax.reduce(cut, axis=1)
    ranges = np.fmax(np.abs(low), np.abs(high)) if rule.scale_method == "absmax" else high - low
    ranges = ranges[np.isfinite(ranges)]
    return float(np.square(ranges).mean()) if ranges.size else math.nan


# Words ----------------------------------------------------------------------------------------------------------------


def label(rule: Rule) -> str:
    share = "" if rule.percentile is None else f" {rule.percentile:g}"
    given = "" if rule.value_range is None else " of {:g} to {:g}".format(*rule.value_range)
    return f"{rule.scale_method}{share}{given}" + ("" if rule.axis is None else f", axis {rule.axis}")


def command_words(source: Any, declared: Any, missing: Any) -> tuple[str, str, str]:
    """Source, stem of the destination and the option for missing values, as a shell takes them."""
    option = "" if missing == declared else f" --missing {'none' if missing is None else missing}"
    if not isinstance(source, str | os.PathLike):
        return "SRC", "", option
    path = os.fspath(source)
    name, _, inside = path.rstrip("/").partition("::")
    stem = "-".join(filter(None, [Path(name).stem, inside.strip("/").replace("/", "-")]))
    return shlex.quote(path), stem, option


def command(rule: Rule, words: tuple[str, str, str], given: str) -> str:
    source, stem, missing = words
    method = "minmax" if given and rule.histogrammed else rule.scale_method
    suffix = rule.scale_method + ("" if rule.axis is None else f"-axis{rule.axis}")
    destination = shlex.quote(f"{stem}-{suffix}.zarr") if stem else "DST"
    options = "" if method == "minmax" else f" --scale-method {method}"
    if rule.percentile not in (None, PERCENTILE) and not given:
        options += f" --percentile {rule.percentile:g}"
    if rule.axis is not None:
        options += f" --axis {rule.axis}"
    if rule.value_range is not None:
        options += " --value-range {:.17g} {:.17g}".format(*rule.value_range)
    if rule.nan_code is not None:
        options += " --nan-policy propagate"
    return f"quantize run {source} {destination}{options}{given}{missing}"


LEGEND = "SQNR is signal to quantization noise: 6 dB more halve the errors. Compressed is in bits a value, too."
HEAD = ("scale", "SQNR", "largest error", "saturated", "bits a value", "compressed", "")


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


# Which to take --------------------------------------------------------------------------------------------------------


def recommendation(choices: dict[Rule, Choice]) -> tuple[Rule, str]:
    """The simplest choice that none other beats by enough, and why."""
    rules = {(rule.scale_method, rule.axis): rule for rule in choices if rule.value_range is None}

    def best(axis: int | None) -> Rule:
        """minmax, or mse where that gains enough."""
        simple, other = rules["minmax", axis], rules["mse", axis]
        return other if choices[other].sqnr_db - choices[simple].sqnr_db >= GAIN else simple

    start = best(None)
    axes = [axis for method, axis in rules if method == "mse" and axis is not None and ("minmax", axis) in rules]
    gaining = [
        rule
        for rule in map(best, axes)
        if choices[rule].sqnr_db - choices[start].sqnr_db >= GAIN
        and choices[rule].bits_per_value - choices[start].bits_per_value <= PRICE
    ]
    chosen = max(gaining, key=lambda rule: choices[rule].sqnr_db, default=start)
    return chosen, reason(choices, start, chosen, rules["minmax", chosen.axis])


def reason(choices: dict[Rule, Choice], start: Rule, chosen: Rule, simple: Rule) -> str:
    """Why `chosen`: over `start`, one scale for all values, and over `simple`, minmax for the same axis."""
    choice = choices[chosen]
    if math.isnan(choice.sqnr_db):
        return "The sample holds no value to judge by."
    said = []
    exact = choice.sqnr_db == math.inf
    if exact:
        said.append("It restores every value of the sample exactly.")
    if chosen.axis is not None:
        before, bits = choices[start], choice.bits_per_value - choices[start].bits_per_value
        gained = f"gains {choice.sqnr_db - before.sqnr_db:.1f} dB over one for all ({before.label})"
        gained = "does so" if exact else gained
        said.append(f"One scale for each index of axis {chosen.axis} {gained}, for {bits:.2g} bits a value.")
    if chosen.scale_method == "mse":
        said.append(
            f"It gains {choice.sqnr_db - choices[simple].sqnr_db:.1f} dB over {choices[simple].label}, whose range "
            f"reaches the outermost values. In return {percent(choice.saturated_share)} of the values saturate, and "
            f"the largest error on the sample is {choice.max_error:.3g} instead of {choices[simple].max_error:.3g}."
        )
    elif not exact:
        said.append(f"No value saturates, and mse, which lets some do so, gains less than {GAIN:g} dB over it.")
    if chosen.axis is None and not exact and any(rule.axis is not None for rule in choices):
        said.append(f"No axis gains {GAIN:g} dB more for {PRICE:g} bits a value or less.")
    return " ".join(said)
