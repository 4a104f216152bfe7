"""How far what is restored lies from its source: the figures, and the sums that they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..numerics.grid import Shape
from ..runtime.tables import html_facts, html_table, lined_up
from ..store.zarr_json import to_json
from .by_name import ByName

# Figures --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartErrors:
    """Errors of each part of an array: of a chunk, or of a box of neighbouring chunks where there are many.

    Attributes
    ----------
    box : tuple of int
        Lengths of a part, in values; those at the far edges may be shorter.
    counts : tuple of int
        How many parts there are along each axis. The others have an entry for each part, in C order.
    rmse, max_error : tuple of float
        In the unit of the data; NaN where no value was compared.
    saturated : tuple of float
        Share of saturated values, 0 to 1; NaN likewise.
    """

    box: Shape
    counts: Shape
    rmse: tuple[float, ...]
    max_error: tuple[float, ...]
    saturated: tuple[float, ...]


@dataclass(frozen=True)
class ErrorFigures:
    """Errors ``x' - x`` of the restored values ``x'``, over the values that are finite in the source.

    What only a store knows is None where two arrays were compared.

    Attributes
    ----------
    count : int
        Values compared.
    missing : int
        Values missing on both sides.
    mismatched : int
        Values missing on one side only, which should be none.
    infinite : int
        Infinite values of the source; they enter no error.
    bias, mae, rmse : float
        Mean error, mean absolute error and root mean square error, in the unit of the data.
    max_error : float
        Largest absolute error.
    max_error_at : tuple of int or None
        Index of the first value that has it; None where nothing was compared.
    sqnr_db : float
        Signal to quantization noise: variance of the source over mean square error, in decibels. Infinite where every
        value is exact; NaN where, besides, all values are the same.
    bound : float or None
        Half a step, ``scale / 2``; with a scale for each index of an axis the largest.
    largest_in_range : float or None
        Largest error of the values that are not saturated, in half steps of their own scale: up to 1, and what rounding
        to the dtypes adds.
    saturated : int or None
        Values that lie further beyond the outermost level than half a step, infinite ones included.
    outside : int or None
        Values further off than half a step and the rounding of the dtypes. Saturated ones are among them only where
        the scale was to reach over all values: not with the methods percentile and mse or a `value_range`.
    code_counts : tuple of int or None
        How many values have each of the codes -8..7.
    bits_per_value : float or None
        Of what is stored, compression and scales included.
    parts : PartErrors or None
        The same by chunks.

    Examples
    --------
    >>> from quantize import measure_error
    >>> figures = measure_error([1.0, 2.0, 4.0], [1.0, 2.5, 4.0])
    >>> figures.max_error, figures.max_error_at, round(figures.rmse, 4)
    (0.5, (1,), 0.2887)
    """

    count: int
    missing: int
    mismatched: int
    infinite: int
    bias: float
    mae: float
    rmse: float
    max_error: float
    max_error_at: Shape | None
    sqnr_db: float
    bound: float | None = None
    largest_in_range: float | None = None
    saturated: int | None = None
    outside: int | None = None
    code_counts: tuple[int, ...] | None = None
    bits_per_value: float | None = None
    parts: PartErrors | None = None

    @property
    def within_bound(self) -> bool:
        """Whether every value is missing where the source is, and as near as half a step where that is known."""
        return self.mismatched == 0 and not self.outside

    @property
    def rounds_beyond(self) -> bool:
        """Whether rounding to the dtypes takes some value that is not saturated beyond half a step."""
        return (self.largest_in_range or 0.0) > 1

    @property
    def saturated_share(self) -> float | None:
        """Share of the values that are saturated, 0 to 1."""
        return None if self.saturated is None else self.saturated / max(self.count + self.infinite, 1)

    @property
    def entropy(self) -> float | None:
        """Bits that a code carries, by how often each occurs: what an ideal compressor of single codes would reach."""
        if self.code_counts is None:
            return None
        shares = [count / sum(self.code_counts) for count in self.code_counts if count]
        return math.fsum(-share * math.log2(share) for share in shares)

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        figures = {name: getattr(self, name) for name in ("within_bound", "saturated_share", "entropy")}
        figures |= {one.name: getattr(self, one.name) for one in fields(self)}
        if self.parts is not None:
            figures["parts"] = vars(self.parts)
        found: dict[str, Any] = to_json(figures)
        return found

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, as text; left out is what is not known, or none."""
        both = f", and {self.missing:,} missing on both sides" if self.missing else ""
        place = f" at {self.max_error_at}" if self.max_error else ""
        found = [
            ("values compared", f"{self.count:,}{both}"),
            ("largest error", f"{self.max_error:.6g}{place}"),
            ("mean error", f"{self.bias:+.3g}"),
            ("mean abs. error", f"{self.mae:.6g}"),
            ("RMS error", f"{self.rmse:.6g}"),
            ("SQNR", "every value is exact" if self.max_error == 0 else f"{self.sqnr_db:.2f} dB"),
        ]
        if self.bound is not None:
            which = "all values that are not saturated" if self.saturated else "all values"
            said = which if self.within_bound else "NOT all values"
            rounded = ", but for rounding" if self.within_bound and self.rounds_beyond else ""
            found.append(("half a step", f"{self.bound:.6g}, {said} within{rounded}"))
        if self.saturated:
            found.append(("saturated", f"{self.saturated:,} values, {100 * (self.saturated_share or 0):.3g} %"))
        if self.infinite:
            found.append(("infinite", f"{self.infinite:,}"))
        if self.outside:
            found.append(("out of bound", f"{self.outside:,} values"))
        if self.mismatched:
            found.append(("mismatched", f"{self.mismatched:,} values are missing on one side only"))
        if self.entropy is not None:
            used = sum(count > 0 for count in self.code_counts or ())
            found.append(("codes", f"{used} of 16 in use, entropy {self.entropy:.2f} bits"))
        if self.bits_per_value is not None:
            digits = ".2f" if self.bits_per_value >= 0.1 else ".2g"
            found.append(("stored", f"{self.bits_per_value:{digits}} bits a value"))
        return found

    def cells(self) -> tuple[str, ...]:
        """What `ERRORS_HEAD` calls for of a variable, behind its name."""
        bound = "" if self.bound is None else f"{self.bound:.4g}"
        bits = "" if self.bits_per_value is None else f"{self.bits_per_value:.2f}"
        sqnr = "exact" if self.max_error == 0 else f"{self.sqnr_db:.2f} dB"
        note = f"{self.saturated:,} saturated" if self.saturated else ""
        if not self.within_bound:
            note = "NOT WHAT THE SOURCE HOLDS"
        return sqnr, f"{self.rmse:.4g}", f"{self.max_error:.4g}", bound, bits, note

    def __str__(self) -> str:
        return "\n".join(f"{name:<17}{text}" for name, text in self.rows())

    def _repr_html_(self) -> str:
        return html_facts("ErrorFigures", "of restored values minus those of the source", self.rows())


class DatasetErrors(ByName[ErrorFigures]):
    """Errors of a collection: a mapping of the name of each quantized variable to its `ErrorFigures`.

    Attributes
    ----------
    kept : dict of str to bool
        Of each variable that is kept, whether it is identical with the source's, bit for bit.
    """

    def __init__(self, figures: Mapping[str, ErrorFigures], kept: Mapping[str, bool]) -> None:
        super().__init__(figures)
        self.kept = dict(kept)

    @property
    def within_bound(self) -> bool:
        """Whether all figures are, as `ErrorFigures.within_bound` says, and what is kept is identical."""
        return all(one.within_bound for one in self.values()) and all(self.kept.values())

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        variables = {name: one.to_json() for name, one in self.items()}
        return {"within_bound": self.within_bound, "variables": variables, "kept": self.kept}

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text for each variable, below those of `ERRORS_HEAD`; the worst come first, what is kept last."""
        found = [(name, *figures.cells()) for name, figures in sorted(self.items(), key=lambda item: item[1].sqnr_db)]
        empty = ("",) * (len(ERRORS_HEAD) - 2)
        return found + [
            (name, *empty, "kept" if same else "kept, but NOT AS THE SOURCE HAS IT") for name, same in self.kept.items()
        ]

    def __str__(self) -> str:
        return "\n".join(lined_up([ERRORS_HEAD, *self.rows()]))

    def __repr__(self) -> str:
        return f"<DatasetErrors of {len(self)} quantized and {len(self.kept)} kept variables>"

    def _repr_html_(self) -> str:
        return html_table("DatasetErrors", "of restored values minus those of the source", ERRORS_HEAD, self.rows())


ERRORS_HEAD = ("variable", "SQNR", "RMS error", "largest error", "half a step", "bits", "note")


# Sums -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """Sums that `ErrorFigures` are made of. The sums of two sets of values add up to those of both.

    `bias`, `mae` and `mean` (of the source) are means, `rmse` and `deviation` (of the source) root mean squares:
    merged as such, by weight, none of them overflows. The deviations are merged as by Chan, Golub and LeVeque (1979),
    so that they keep their digits where the data lie far from zero.
    """

    count: int = 0
    missing: int = 0
    mismatched: int = 0
    infinite: int = 0
    saturated: int = 0
    outside: int = 0
    bias: float = 0.0
    mae: float = 0.0
    rmse: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    largest: float = -1.0
    in_range: float = 0.0
    at: Shape | None = None

    def __add__(self, other: Sums) -> Sums:
        count = self.count + other.count
        share = other.count / count if count else 0.0
        rest = 1.0 - share
        apart = other.mean - self.mean
        a, b = math.sqrt(rest), math.sqrt(share)
        worse = max(self, other, key=lambda one: (one.largest, [-i for i in one.at or ()]))
        return Sums(
            count,
            self.missing + other.missing,
            self.mismatched + other.mismatched,
            self.infinite + other.infinite,
            self.saturated + other.saturated,
            self.outside + other.outside,
            self.bias * rest + other.bias * share,
            self.mae * rest + other.mae * share,
            math.hypot(self.rmse * a, other.rmse * b),
            self.mean + apart * share,
            math.hypot(self.deviation * a, other.deviation * b, apart * a * b if self.count and other.count else 0.0),
            worse.largest,
            max(self.in_range, other.in_range),
            worse.at,
        )

    def times(self, power: int) -> Sums:
        """The sums of the same values and errors, all multiplied with two to the `power`."""
        bias, mae, rmse, mean, deviation, largest = (
            float(np.ldexp(number, power))
            for number in (self.bias, self.mae, self.rmse, self.mean, self.deviation, self.largest)
        )
        return replace(self, bias=bias, mae=mae, rmse=rmse, mean=mean, deviation=deviation, largest=largest)

    def with_means(self, other: Sums) -> Sums:
        """These sums with the deviation of others, and with their means where its own have overflowed."""
        own = {name: getattr(self, name) for name in ("bias", "mae", "mean")}
        means = {name: mean if math.isfinite(mean) else getattr(other, name) for name, mean in own.items()}
        return replace(self, deviation=other.deviation, **means)

    @property
    def sqnr_db(self) -> float:
        if self.rmse == 0:
            return math.inf if self.deviation else math.nan
        return 20 * (math.log10(self.deviation) - math.log10(self.rmse)) if self.deviation else -math.inf

    @property
    def values(self) -> int:
        """All but those that are missing."""
        return self.count + self.infinite

    def figures(self, **known: Any) -> ErrorFigures:
        return ErrorFigures(
            self.count,
            self.missing,
            self.mismatched,
            self.infinite,
            self.bias,
            self.mae,
            self.rmse,
            max(self.largest, 0.0),
            self.at,
            self.sqnr_db,
            **known,
        )
