"""What the figures of a store mean, in words for someone who sees such figures for the first time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...reading.array import Int4Array
from ...storage import listed
from ..choices import Comparison, decibels, percent
from ..figures import DatasetErrors, ErrorFigures

GRADES = (  # by SQNR in dB: typical errors of an eighth, and of a quarter, of the values' standard deviation
    (18.0, "good", "Good: the errors are small beside what is in the data."),
    (12.0, "fair", "Fair: the data keep their shape, and lose their fine detail."),
    (-math.inf, "coarse", "Coarse: much of what is in the data is lost."),
)
DOUBTFUL = "Doubtful: most of what is in the data may be lost, whatever the figures say."
CODES_ALONE_BITS = 4.5  # bits a value: codes and a few checksums take less
WORTH_DB = 1.0  # dB: a gain that makes another choice worth a look


@dataclass(frozen=True)
class Verdict:
    """Whether a result is good enough, as a word, a sentence, and what there is to know beside it."""

    word: str
    headline: str
    sentences: tuple[str, ...]


def verdict_of(
    array: Int4Array, figures: ErrorFigures, comparison: Comparison | None, doubt: str | None = None
) -> Verdict:
    """The verdict on a store, by its figures, what a look at its source found, and what other choices would give."""
    if not figures.within_bound:
        return defect(figures)
    if not figures.count:
        return Verdict("empty", "Nothing to judge: every value is missing, here and in the source.", ())
    if figures.max_error == 0:
        return Verdict("exact", "Exact: every value comes back as it was.", (size_of(array, figures),))
    word, headline = next(((word, said) for least, word, said in GRADES if figures.sqnr_db >= least), GRADES[-1][1:])
    sentences = (typical(figures), reach_of(array, figures), size_of(array, figures), advice(comparison))
    first = ""
    if doubt is not None:
        word, headline, first = "doubtful", DOUBTFUL, doubt[0].upper() + doubt[1:] + "."
    return Verdict(word, headline, tuple(filter(None, (first, *sentences))))


WORDS = ("exact", "empty", "good", "fair", "coarse", "doubtful", "wrong")  # from the best


def verdict_of_all(errors: DatasetErrors, verdicts: Mapping[str, Verdict]) -> Verdict:
    """The verdict on a collection: the worst on one of its variables, and how many there are of each kind."""
    changed = [name for name, same in errors.kept.items() if not same]
    kept = f"{len(errors.kept):,} variables are kept, identical with the source's." if errors.kept else ""
    if changed:
        kept = f"Not kept as the source has them: {listed(changed)}."
    counts = {word: [name for name, one in verdicts.items() if one.word == word] for word in reversed(WORDS)}
    said = [f"{word.capitalize()}: {listed(names)}." for word, names in counts.items() if names]
    worst = "wrong" if changed else next((word for word, names in counts.items() if names), "exact")
    headlines = {word: headline for _, word, headline in GRADES} | {
        "exact": "Exact: every value comes back as it was.",
        "empty": "Nothing to judge: every value is missing, here and in the source.",
        "doubtful": "Doubtful: of some variables most may be lost, whatever the figures say.",
        "wrong": "Wrong: this store does not hold this source.",
    }
    headline = headlines[worst] if worst in ("exact", "wrong", "doubtful") else f"At worst: {headlines[worst]}"
    return Verdict(worst, headline, tuple(filter(None, [*said, kept])))


def typical(figures: ErrorFigures) -> str:
    """A sentence on the typical error, beside how much the values vary."""
    if figures.sqnr_db == -math.inf:
        return f"A typical error (RMS) is {figures.rmse:.3g}, and the values do not vary at all."
    share = 10 ** (-figures.sqnr_db / 20)
    return (
        f"A typical error (RMS) is {figures.rmse:.3g}: {100 * share:.2g} % of how much the values themselves vary, "
        f"whose standard deviation is {figures.rmse / share:.3g}."
    )


def defect(figures: ErrorFigures) -> Verdict:
    said = []
    if figures.outside:
        said.append(f"{figures.outside:,} values are further off than the format allows.")
    if figures.mismatched:
        said.append(f"{figures.mismatched:,} values are missing on one side only.")
    said.append(
        "Most likely the store was made from other data, or the source has changed since. `quantize verify STORE SRC` "
        "tells which chunks differ; quantize the source again to mend it."
    )
    return Verdict("wrong", "Wrong: this store does not hold this source.", tuple(said))


def reach_of(array: Int4Array, figures: ErrorFigures) -> str:
    """A sentence on the largest errors."""
    half = f"half a step ({figures.bound:.3g}{'' if array.metadata.granularity.single else ' at most'})"
    if array.dtype.kind in "iu":
        half += ", but for rounding to whole numbers"
    elif figures.rounds_beyond:
        half += f", but for rounding to {array.dtype}"
    if not figures.saturated:
        return f"No value is off by more than {half}; the largest error is {figures.max_error:.3g}."
    share = figures.saturated_share or 0.0
    return (
        f"Mind the outliers: {figures.saturated:,} values ({percent(share)}) lie beyond what the 16 levels reach, and "
        f"are cut off there, with errors up to {figures.max_error:.3g}. All others are off by no more than {half}."
    )


def size_of(array: Int4Array, figures: ErrorFigures) -> str:
    times = f"{times_smaller(array)} times less than {array.dtype}"
    if (figures.bits_per_value or 0.0) > CODES_ALONE_BITS:
        times += "; what exceeds 4 is scales, checksums, and what compression adds where chunks are small"
    return f"It takes {bits(figures)} bits a value, {times}."


def bits(figures: ErrorFigures) -> str:
    stored = figures.bits_per_value or 0.0
    return f"{stored:.2f}" if stored >= 0.1 else f"{stored:.2g}"


def times_smaller(array: Int4Array) -> str:
    times = array.nbytes / array.nbytes_stored
    return f"{times:.1f}" if times < 100 else f"{times:,.0f}"


def advice(comparison: Comparison | None) -> str:
    """Whether another choice would do better."""
    if comparison is None:
        return ""
    current, best = next(row for row in comparison.rows if row.current), comparison.recommended
    finest = max(comparison.rows, key=lambda row: -math.inf if math.isnan(row.sqnr_db) else row.sqnr_db)
    gain, bits_more = best.sqnr_db - current.sqnr_db, current.bits_per_value - best.bits_per_value
    said = []
    if best is not current and gain >= WORTH_DB:
        said.append(
            f"Another choice would do better: {best.label} gives {decibels(best.sqnr_db)} instead of "
            f"{decibels(current.sqnr_db)}, at {best.compressed_bits_per_value:.2f} bits a value, compressed, instead "
            f"of {current.compressed_bits_per_value:.2f}."
        )
    elif gain <= -WORTH_DB and bits_more > 0:
        said.append(
            f"It is {-gain:.1f} dB better than {best.label}, which is recommended for being cheaper by {bits_more:.2g} "
            f"bits a value in scales (compressed {best.compressed_bits_per_value:.2f} instead of "
            f"{current.compressed_bits_per_value:.2f} in all): keep it if that is worth it to you."
        )
    if finest.sqnr_db - max(best.sqnr_db, current.sqnr_db) >= WORTH_DB:
        said.append(
            f"The finest of those tried is {finest.label}, with {decibels(finest.sqnr_db)} at "
            f"{finest.compressed_bits_per_value:.2f} bits a value, compressed."
        )
    said = said or ["None of the other choices that were tried is to be preferred."]
    return " ".join([*said, "They are side by side on the page, each with its command."])
