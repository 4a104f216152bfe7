"""One rule tried on a sample: its errors, and its bits a value."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np

from ..numerics.blocks import blocks, processors
from ..numerics.granularity import Granularity
from ..numerics.grid import Region, Shape
from ..numerics.names import ScaleMethod
from ..numerics.scales import HIGHEST, Rule, Scales
from ..numerics.tables import BOUND_SLACK
from ..quantize import PackedInt4Values, dequantize_from_packed_int4, quantize_to_packed_int4
from ..store.codec import ChunkCodec, Compressor
from ..store.layout import Layout
from ..store.side_arrays import ShortForm, WholeForm
from .choices import Choice, command

SLOW_GROUP = 1 << 15  # values: a range takes longer to find in a histogram of fewer than the values to quantize
LEAST_SHARE = 1 / 16  # of a sample: what must lie in whole blocks for them to be tried
DEAREST_BITS = 4.0  # bits a value: scales that would take more than the codes are not tried
ENOUGH_VALUES = 256  # sampled values of a group: its scales are tried with so many, or with all that a group has
MOST_GROUPS = 1 << 14  # groups that share a scale: about the most that are tried
RANGE_PARTS = 9  # parts of a sample: their ranges, beside that of the whole, show how a range grows with the values

Ranges: TypeAlias = tuple[np.ndarray, np.ndarray]  # the least and the greatest values, float64


@dataclass(frozen=True, eq=False)
class Sample:
    """Values as the functions in memory take them.

    Attributes
    ----------
    values : ndarray
        The sampled values; NaN where they are missing, and some other value where they are infinite.
    counted : ndarray of bool
        Whether a value is neither missing nor infinite.
    dtype : dtype
        Dtype of the source, to which codes are restored.
    shape : tuple of int
        Shape of the source.
    propagates : bool
        Whether there are missing values.
    infinite : int
        Number of infinite values.
    places : list of ndarray
        The indices along each axis of the source that it has.
    """

    values: np.ndarray
    counted: np.ndarray
    dtype: np.dtype[Any]
    shape: Shape
    propagates: bool
    infinite: int
    places: list[np.ndarray]

    @classmethod
    def of(cls, values: np.ndarray, shape: Shape, missing: float | int | None, places: list[np.ndarray]) -> Sample:
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
        return cls(values, counted, dtype, shape, bool(absent.any()), int(np.count_nonzero(infinite)), places)

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
        """The counted numbers of an array of the sample's shape, in a region, as float64."""
        part = array[region]
        return (part if self.count == self.values.size else part[self.counted[region]]).astype(np.float64, copy=False)

    def rule(self, method: str, granularity: Granularity) -> Rule:
        return Rule.of(method, nan_policy="propagate" if self.propagates else "raise", granularity=granularity)

    def per_group(self, granularity: Granularity, shape: Shape) -> float:
        """Values of one group, for an array of this shape."""
        return math.prod(shape) / granularity.count(shape)

    def times(self, granularity: Granularity) -> float:
        """How many times as many values a group has in all than in the sample."""
        return self.per_group(granularity, self.shape) / self.per_group(granularity, self.values.shape)

    def why_not(self, granularity: Granularity) -> str | None:
        """Why more scales than one are not tried: None if they are, no words where it goes without saying."""
        each, here = (self.per_group(granularity, shape) for shape in (self.shape, self.values.shape))
        if granularity.count(self.shape) == 1:
            return ""
        if granularity.blocks is not None:
            within = math.prod(map(len, self.whole_blocks(granularity)))
            few = within < LEAST_SHARE * self.values.size
            return "the sample holds too few of them whole" if few else None
        bits = scale_bits(granularity)
        if bits / each > DEAREST_BITS:
            return f"its scales would take {bits / each:.0f} bits a value" if len(self.shape) > 1 else ""
        if here < min(each, ENOUGH_VALUES):
            group = granularity.each.partition(" ")[0]
            return f"the sample holds {here:,.0f} of the {each:,.0f} values of each {group}, too few to judge by"
        return None

    def whole_blocks(self, granularity: Granularity) -> list[np.ndarray]:
        """The places along each axis, within the sample, that lie in blocks of which it has all."""
        found = []
        for places, n, b in zip(self.places, self.shape, granularity.box(self.shape), strict=True):
            _, inverse, counts = np.unique(places // b, return_inverse=True, return_counts=True)
            whole = counts[inverse] == np.minimum(b, n - places // b * b)
            found.append(np.flatnonzero(whole if b < n else np.ones(len(places), bool)))
        return found

    def at(self, places: list[np.ndarray]) -> Sample:
        """The sample of some places along each axis."""
        chosen = self
        for axis, own in enumerate(places):
            if len(own) < len(self.places[axis]):
                chosen = replace(chosen, values=chosen.values.take(own, axis), counted=chosen.counted.take(own, axis))
        kept = [every[own] for every, own in zip(self.places, places, strict=True)]
        return self if chosen is self else replace(chosen, places=kept)


def scale_bits(granularity: Granularity) -> int:
    """Bits of a scale and its zero point, before they are compressed."""
    form = WholeForm() if granularity.fraction == 1 else ShortForm()
    return 8 * sum(dtype.itemsize for dtype in form.dtypes)


@dataclass(frozen=True, eq=False)
class Grouped:
    """A sample whose values share scales by a granularity.

    Attributes
    ----------
    whole : Sample
    granularity : Granularity
    """

    whole: Sample
    granularity: Granularity

    @functools.cached_property
    def sample(self) -> Sample:
        """The sample with about `MOST_GROUPS` of its groups at most, spread evenly along an axis; its whole blocks."""
        if self.granularity.blocks is not None:
            return self.whole.at(self.whole.whole_blocks(self.granularity))
        whole, groups = self.whole, self.granularity.groups(self.whole.values.shape)
        if groups.count <= MOST_GROUPS:
            return whole
        axis = int(np.argmax(groups.counts))
        n, length, count = whole.values.shape[axis], groups.box[axis], groups.counts[axis]
        chosen = np.linspace(0, count - 1, max(1, MOST_GROUPS * count // groups.count)).astype(np.intp)
        indices = (chosen[:, None] * length + np.arange(length)).reshape(-1)
        indices = indices[indices < n]
        every = [np.arange(n) for n in whole.values.shape]
        return whole.at([*every[:axis], indices, *every[axis + 1 :]])

    @functools.cached_property
    def ranges(self) -> tuple[Ranges, Ranges]:
        """The ranges of parts of the values of each group, and of parts `RANGE_PARTS` times smaller."""
        values = self.sample.values.astype(np.float32 if self.sample.values.dtype == np.float32 else np.float64)
        values[~self.sample.counted] = np.nan
        lines = self.granularity.rows(values)
        shuffled = lines[:, np.random.default_rng(0).permutation(lines.shape[1])]
        # A few indices have too few ranges of their own: parts of parts give more of them.
        many = len(lines) >= RANGE_PARTS or lines.shape[1] < RANGE_PARTS**3
        coarse, fine = (1, RANGE_PARTS) if many else (RANGE_PARTS, RANGE_PARTS**2)
        return ranges_of_parts(shuffled, coarse), ranges_of_parts(shuffled, fine)


def try_rules(whole: Sample, rules: Sequence[Rule], words: tuple[str, str, str]) -> dict[Rule, Choice]:
    """The figures of a sample for each of some rules, by several threads; `words` are for the command."""
    grouped = {rule.granularity: Grouped(whole, rule.granularity) for rule in rules}

    def tried(own: Grouped) -> dict[Rule, Choice]:
        return {rule: try_rule(own, rule, words) for rule in rules if rule.granularity == own.granularity}

    with ThreadPoolExecutor(processors()) as pool:
        found = {rule: choice for part in pool.map(tried, grouped.values()) for rule, choice in part.items()}
    return {rule: found[rule] for rule in rules}


def quantized(rule: Rule, values: np.ndarray) -> PackedInt4Values:
    method = rule.method
    return quantize_to_packed_int4(
        values,
        cast(ScaleMethod, method.name),
        axis=rule.granularity.axis,
        blocks=rule.granularity.blocks,
        percentile=method.percentile,
        value_range=method.value_range,
        nan_policy="raise" if rule.nan_code is None else "propagate",
        finest=rule.finest,
    )


def restored_of(rule: Rule, sample: Sample, result: PackedInt4Values) -> np.ndarray:
    """The values that a store of the sample would give back."""
    floats = result.nan_code is not None and sample.dtype.kind in "iu"  # integers have no NaN
    restored = dequantize_from_packed_int4(
        result.packed,
        result.scale,
        result.zero_point,
        size=result.size,
        nan_code=result.nan_code,
        blocks=rule.granularity.blocks,
        dtype=np.float64 if floats else sample.dtype,
    )
    if floats:
        info = np.iinfo(sample.dtype)
        restored = np.rint(restored).clip(info.min, info.max)
    return restored


def restored_by(rule: Rule, sample: Sample) -> np.ndarray:
    return restored_of(rule, sample, quantized(rule, sample.values))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def try_rule(grouped: Grouped, rule: Rule, words: tuple[str, str, str]) -> Choice:
    """The figures of a sample that is quantized by a rule and restored."""
    granularity, method = rule.granularity, rule.method
    whole, sample = grouped.whole, grouped.sample
    values = sample.values
    result = quantized(rule, values)
    scale, zero_point = result.scale, result.zero_point
    restored = restored_of(rule, sample, result)
    half = scale / 2 * (1 + BOUND_SLACK)
    low, high = (rule.lowest - zero_point) * scale - half, (HIGHEST - zero_point) * scale + half
    if granularity.blocks is not None:
        index = granularity.index_of(values.shape)
        low, high = (np.asarray(bound).reshape(-1)[index] for bound in (low, high))
    low, high = (np.broadcast_to(bound, values.shape) for bound in (low, high))
    largest, square, saturated = 0.0, 0.0, 0
    for region in blocks(values.shape):
        x = sample.numbers(region, values)
        error = np.abs(sample.numbers(region, restored) - x)
        square += float(np.square(error).sum())
        largest = max(largest, float(error.max(initial=0.0)))
        saturated += int(np.count_nonzero((x < sample.numbers(region, low)) | (x > sample.numbers(region, high))))
    sqnr = decibels_of_ratio(sample.spread, square) if sample.count else math.nan
    notes = []
    if values.size < whole.values.size and granularity.blocks is None:
        tried, there = granularity.count(values.shape), granularity.count(whole.values.shape)
        notes.append(f"on {tried:,} of {there:,} {granularity.plural.partition(' ')[0]}")
    loss = growth(grouped, rule) if method.needs == "bounds" else 0.0
    if math.isfinite(sqnr) and loss >= 0.05:
        sqnr = max(sqnr - loss, min(sqnr, 0.0))
        notes.append(f"{loss:.1f} dB taken off")
    share = stored = scale_bits(granularity) / sample.per_group(granularity, sample.shape)
    if granularity.blocks is not None:
        scales = Scales(np.asarray(scale), np.asarray(zero_point), granularity, values.shape)
        stored = 8 * stored_bytes(scales, sample.dtype) / values.size
    codec = ChunkCodec(result.packed.shape, Compressor())
    given = None
    if whole.infinite and method.value_range is None and granularity.single:
        given = float((rule.lowest - zero_point) * scale), float((HIGHEST - zero_point) * scale)
    return Choice(
        label=rule.label,
        scale_method=method.name,
        axis=granularity.axis,
        sqnr_db=sqnr,
        bits_per_value=4 + share,
        compressed_bits_per_value=8 * len(codec.encode(result.packed.view(np.uint8))) / values.size + stored,
        max_error=largest,
        saturated_share=saturated / max(sample.count, 1),
        command=command(rule, words, given),
        note="; ".join(notes),
        blocks=granularity.blocks,
        speed=speed_of(rule, sample.per_group(granularity, sample.shape)),
        value_range=given,
    )


def stored_bytes(scales: Scales, dtype: np.dtype[Any]) -> int:
    """Bytes of the scales of blocks and their zero points as a store keeps them."""
    form, layout = ShortForm(), Layout(scales.shape, dtype, scales.shape)
    found = 0
    for own, values in zip(form.dtypes, form.stored(scales), strict=True):
        data = np.ascontiguousarray(values).astype(own, copy=False).view(np.uint8)
        found += len(ChunkCodec(data.shape, form.compressor(layout, own)).encode(data))
    return found


def speed_of(rule: Rule, per_group: float) -> str:
    """How long a rule takes, as `Choice.speed` says it: by `python -m benchmarks blocks pass1`."""
    granularity, method = rule.granularity, rule.method
    if method.needs in ("nothing", "bounds"):
        return "fast" if granularity.blocks is None else "medium"
    searched = granularity.blocks is None and not granularity.single and per_group < SLOW_GROUP
    return "slow" if searched else "medium"


def decibels_of_ratio(signal: float, noise: float) -> float:
    """Signal over noise, in decibels."""
    if not math.isfinite(signal) or not math.isfinite(noise):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def growth(grouped: Grouped, rule: Rule) -> float:
    """Decibels of noise that a rule which covers the range adds in all of the array: its square, by the mean index.

    The ranges of parts of the values, against those of larger parts, show what they grow by with the number of values.
    From the sample on they are taken to grow on like that, which is so for tails that fall as powers do, and somewhat
    too much for others.
    """
    times = grouped.sample.times(rule.granularity)
    if times <= 1:
        return 0.0
    coarse, fine = (mean_square(ranges, rule) for ranges in grouped.ranges)
    if not (coarse > 0 and fine > 0):
        return 0.0
    found = 10 * math.log10(coarse / fine) * math.log(times) / math.log(RANGE_PARTS)
    return found if math.isfinite(found) else 0.0


def ranges_of_parts(lines: np.ndarray, parts: int) -> Ranges:
    """The least and the greatest value of each of so many parts of each line; NaN where there are none."""
    size = lines.shape[1] // parts
    cut = lines[:, : size * parts].reshape(-1, size)
    return tuple(end.reduce(cut, axis=1).astype(np.float64) for end in (np.fmin, np.fmax))


def mean_square(ranges: Ranges, rule: Rule) -> float:
    """Mean square of the widths of ranges; NaN where there are none."""
    widths = rule.method.width(*ranges)
    widths = widths[np.isfinite(widths)]
    return float(np.square(widths).mean()) if widths.size else math.nan
