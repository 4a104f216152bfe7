"""A look at a source before a run, and at what pass 1 found: whether a result would be what nobody wants.

A value that stands for missing, and of which nothing says so, widens the range until all others share a code. No figure
shows that: beside such a range every error is small. So known fillers, codes that nearly all values get, and ranges far
wider than what most values lie in are told of. A look costs some milliseconds: it reads a few kilobytes, or one chunk.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration.blocks import holds_zeros
from ..io.attributes import Number
from ..io.sampling import sample_of
from ..io.source import Source
from ..numerics.dtypes import as_missing, finite_range
from ..numerics.scales import Rule, Scale
from ..store.metadata import ScaleNames
from ..store.retrying import retried

LOOK_VALUES = 1 << 16  # values: of a sample that is looked at
FEWEST = 1000  # values: of fewer nothing is said
CHEAP_BYTES = 1 << 17  # bytes of a chunk: up to so many some chunks are read, and of larger ones one
CHUNK_BYTES = 1 << 25  # bytes of a chunk: a larger one is not read for a look
CROWDED = 0.999  # share of the values: more in one code is told of
DIFFERENT = 16  # values: so many different ones in a code are more than it can tell apart
STEPS = 2.0**24  # steps of the bulk: a wider range is told of, which no float32 can tell apart
WIDER = 10  # widths of the rest: an end of an integer dtype further off than that is a filler

# values: what netCDF writes where nothing was written (NC_FILL_*), and what data of the field have for missing
FILLERS = (
    *(9.969209968386869e36, -127, 255, -32767, 65535, -2147483647, 4294967295, -9223372036854775806),
    *(-999, -9999, -99999, -999999, -9999999, 9999, 99999, 999999, -32768, -2147483648),
    *(1e15, 1e20, 1e30, 1e34, 1e35, 1e36, 1e37, -1e15, -1e20, -1e30, -1e34, -9.99e33, 9.99e20, -1.7e308),
)


@dataclass(frozen=True)
class Seen:
    """Values of a source that were looked at, as float64, in ascending order: neither NaN, infinite nor missing."""

    values: np.ndarray
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, values: np.ndarray, missing: float | int | None) -> Seen:
        flat = values.reshape(-1)
        if missing is not None:
            flat = flat[flat != np.asarray(missing, flat.dtype)]
        numbers = flat.astype(np.float64)
        return cls(np.sort(numbers[np.isfinite(numbers)]), values.dtype)

    def without(self, value: float) -> np.ndarray:
        return np.asarray(self.values[self.values != value])


def look_at(source: Source, missing: float | int | None) -> Look | None:
    """The look at a source; None where it has so few values that nothing is said of them."""
    return None if math.prod(source.shape) < FEWEST else Look(source, missing)


class Look:
    """One job's look at its source: before pass 1 at a sample, and after it at the bounds of all values too."""

    def __init__(self, source: Source, missing: float | int | None) -> None:
        self.source, self.missing = source, missing
        self.label = source.label
        self.seen: Seen | None = None
        self.told = False

    @functools.cached_property
    def fillers(self) -> dict[float, Number]:
        """Known fillers: their values, by which they are seen, and the numbers that are stored."""
        decoding = self.source.decoding
        numbers = fillers_of(self.source.dtype if decoding is None else decoding.stored)
        if decoding is None:
            return {float(number): number for number in numbers}
        values = decoding.apply(np.array(numbers, decoding.stored)).astype(np.float64)
        return {float(value): number for value, number in zip(values, numbers, strict=True) if not math.isnan(value)}

    def sample(self, whole: bool = False) -> Seen | None:
        """The values of a few kilobytes, or of a chunk; if `whole`, from all over the source whatever it costs."""
        if whole:
            self.seen = Seen.of(retried(sample_of)(self.source, LOOK_VALUES), self.missing)
        elif self.seen is None and (values := retried(quick_sample)(self.source)) is not None:
            self.seen = Seen.of(values, self.missing)
        return self.seen

    def before(self, values: np.ndarray | None = None) -> str | None:
        """What a sample alone shows: these values, or a quick one."""
        if values is not None:
            return self.among(values)
        seen = self.sample()
        if seen is None or not seen.values.size:
            return None
        return self.filler(float(seen.values[0]), float(seen.values[-1]))

    def among(self, values: np.ndarray) -> str | None:
        """As `before`, of so many values that only the bounds of all are taken."""
        flat = values.reshape(-1)
        self.seen = Seen.of(flat[:: max(1, flat.size // LOOK_VALUES)], self.missing)
        there = np.isfinite(flat)
        if self.missing is not None:
            there &= flat != np.asarray(self.missing, flat.dtype)
        if not there.any() or not self.seen.values.size:
            return None
        ends = flat.min(where=there, initial=flat[there][0]), flat.max(where=there, initial=flat[there][0])
        return self.filler(*map(float, ends))

    def after(self, rule: Rule, scale: Scale | ScaleNames | None, bounds: tuple[float, float]) -> str | None:
        """What the bounds of all values show beside the sample."""
        low, high = bounds
        if math.isnan(low):
            return None
        suspicious = any(end in self.fillers for end in bounds)
        seen = self.sample()
        if suspicious and (seen is None or len(np.unique(seen.values)) < 3):
            seen = self.sample(whole=True)
        if seen is None or not seen.values.size:
            return None
        said = self.filler(low, high) if suspicious else None
        if said is None and isinstance(scale, Scale):
            said = self.crowded(seen.values, scale, rule.lowest)
        return said or self.wide(seen.values, low, high)

    def filler(self, low: float, high: float) -> str | None:
        """Of an extreme value that is a known filler far from the rest."""
        assert self.seen is not None
        for end in (low, high):
            rest = self.seen.without(end)
            if end not in self.fillers or not rest.size or rest[0] == rest[-1]:
                continue
            stored = self.fillers[end]
            width, gap = rest[-1] - rest[0], min(abs(end - rest[0]), abs(end - rest[-1]))
            if gap > (width if stored in FILLERS or isinstance(stored, float) else WIDER * width):
                value = spelled(stored, self.seen.dtype)
                return (
                    f"{self.label} holds {value}, which is a usual filler for missing values, far from all others "
                    f"({rest[0]:.6g} to {rest[-1]:.6g}): pass missing={value} if it is one, or missing=None if not"
                )
        return None

    def crowded(self, values: np.ndarray, scale: Scale, lowest: int) -> str | None:
        """Of a code that nearly all values get."""
        with np.errstate(over="ignore", invalid="ignore"):
            codes = np.clip(np.rint(values / scale.scale) + float(scale.zero_point), lowest, 7)
        numbers, counts = np.unique(codes, return_counts=True)
        place = int(np.argmax(counts))
        inside = values[codes == numbers[place]]
        if counts[place] <= CROWDED * values.size or len(np.unique(inside)) < DIFFERENT:
            return None
        return (
            f"more than {100 * CROWDED:g} % of the values of {self.label} ({inside[0]:.6g} to {inside[-1]:.6g}) get "
            f"one code, {int(numbers[place])}, as a step is {scale.scale:.6g}: a few far values make the range wide: "
            "pass missing= with what stands for missing, another scale_method, or a value_range"
        )

    def wide(self, values: np.ndarray, low: float, high: float) -> str | None:
        """Of a range that spans far more steps than the bulk of the values has."""
        first, last = np.quantile(values, [0.05, 0.95])
        step = (last - first) / 15
        if not step > 0 or high / STEPS - low / STEPS <= step:
            return None
        return (
            f"the values of {self.label} range from {low:.6g} to {high:.6g}, and nine in ten lie from {first:.6g} to "
            f"{last:.6g}: what lies far out may stand for missing. Pass missing= with it, or a value_range"
        )


def keeps_zero(source: Source) -> bool:
    """Whether zeros mean something in a source, by a sample; of one that cannot be sampled they may."""
    values = retried(quick_sample)(source, most=math.inf)
    return values is None or holds_zeros(values)


def quick_sample(source: Source, most: float = CHUNK_BYTES) -> np.ndarray | None:
    """Some values of a source, at little cost; None where there is no such way, as with a chunk of `most` bytes."""
    if not source.sampled:
        return None
    itemsize = source.dtype.itemsize
    if math.prod(source.shape) <= LOOK_VALUES or source.chunks is None:
        return sample_of(source, LOOK_VALUES)
    size = math.prod(source.chunks) * itemsize
    if size <= CHEAP_BYTES:
        return sample_of(source, LOOK_VALUES)
    if size > most:
        return None
    starts = [(n // length // 2) * length for n, length in zip(source.shape, source.chunks, strict=True)]
    ends = [min(at + step, n) for at, step, n in zip(starts, source.chunks, source.shape, strict=True)]
    values = source.read(tuple(map(slice, starts, ends))).reshape(-1)
    return values[:: max(1, values.size // LOOK_VALUES)].copy()


def spelled(number: Number, dtype: np.dtype[Any]) -> str:
    """A number as short as it can be for the dtype to hold the same.

    >>> spelled(float(np.float32(9.969209968386869e36)), np.dtype("f4")), spelled(-9999.0, np.dtype("f4"))
    ('9.96920997e+36', '-9999')
    """
    short = f"{number:.9g}"
    return short if as_missing(float(short), dtype) == number else repr(number)


def fillers_of(dtype: np.dtype[Any]) -> list[Number]:
    """Known fillers as a dtype holds them, the ends of the dtype among them, but for 0."""
    ends = finite_range(dtype)
    held = [as_missing(number, dtype) for number in FILLERS]
    others = ends if dtype.kind in "iu" else tuple(map(float, ends))
    return list(dict.fromkeys(number for number in (*held, *others) if number))
