"""What each way to choose scales would give, side by side on a sample, and which to take."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..exceptions import DeclarationError, QuantizeWarning
from ..io import sources_of
from ..io.decoding import decoded, decoding_of
from ..io.sampling import SAMPLE_VALUES, sample_of, sampled_places
from ..io.source import Source
from ..numerics.granularity import PER_TENSOR, Granularity, PerAxis, granularity_of
from ..numerics.grid import Shape
from ..numerics.names import SCALE_METHODS
from ..numerics.scales import Rule
from ..runtime.look import look_at
from ..runtime.selection import choose, of_variable
from ..runtime.settings import Settings
from .choices import Choice, Comparison, DatasetComparison, command_words, percent
from .recall import recalls
from .trial import Sample, try_rules

if TYPE_CHECKING:
    from ..reading.array import Int4Array

LEAST_SAMPLE = 1 << 18  # values: of each of several variables, however many there are
LEAST_GAIN = 1.0  # dB: what a choice must gain to be recommended over a simpler one
DB_A_BIT = 6.02  # dB: what a bit a value more must bring, as much as twice the levels would
ALIKE_DB, ALIKE_BITS = 0.1, 0.02  # choices that differ by no more are as good as one another
CODE_BITS = 4.0  # bits a value: of codes
LEAST_RECALL = 0.01  # recall: a choice with fewer bits is recommended for search if it misses no more
RUNS = (64, 32, 16)  # values: lengths of blocks along an axis that are tried
TILE = (4, 8)


def suggest(
    source: Any,
    *,
    current: Int4Array | None = None,
    missing: Any = "declared",
    decode: bool = True,
    floats: bool = False,
    bits: float | None = None,
    purpose: Literal["search"] | None = None,
) -> Comparison | Any:
    """Try each way to choose scales on a sample, and recommend one; of several variables, one for each.

    Parameters
    ----------
    source : path, array, dataset, group or mapping
        As for `quantize_to_zarr`. At most 4 million of its values are read into the sample: all of a small array, else
        boxes spread evenly, from a few of its chunks. Of several arrays, as for `quantize_dataset`, those that it would
        quantize share these, but each has at least 262,144.
    current : Int4Array, optional
        A store that was made from it: the row that says how is marked.
    missing : "declared", None or number
        As for `quantize_to_zarr`. Where the sample holds NaN or missing values, they are kept.
    decode, floats : bool
        As for `quantize_to_zarr`.
    bits : float, optional
        Recommend the choice with the highest SQNR that is stored in so many bits a value, codes and scales. By default
        it is the knee: finer scales are taken as long as each stored bit a value beyond 4 brings 6.02 dB.
    purpose : "search", optional
        Search among the rows of the sample too, by inner product: choices have the recall of the ten nearest, and the
        one with the fewest bits that nearly reaches the best is recommended. For a matrix with a vector in each row.

    Returns
    -------
    Comparison or DatasetComparison
        Of several arrays a mapping of names, with one command for all.

    Raises
    ------
    ValueError
        If the source's format is not known, it has no values or nothing to quantize, or an argument is none of those
        above; for a search, if there are no rows, or too few.
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
    >>> found = suggest(values)
    >>> found.recommended.label, found.recommended.command
    ('mse, blocks of 32', 'quantize run SRC DST --scale-method mse --blocks 32')
    >>> even = np.random.default_rng(0).uniform(size=(64, 64))
    >>> suggest({"w": values.reshape(100, 1000), "even": even}).settings
    {'even': {'scale_method': 'minmax'}, 'w': {'scale_method': 'mse', 'blocks': (1, 32)}}
    """
    check_wishes(bits, purpose)
    arrays = sources_of(source)
    if arrays.is_one or current is not None:
        origin = decoded(arrays.only(), decode, missing, floats)
        return compared(origin, source, current, missing, bits, purpose, SAMPLE_VALUES)
    found = choose(arrays, settings=Settings(missing=missing, decode=decode, floats=floats))
    quantized = [(one.name, one.source) for one in found if one.source is not None]
    if not quantized:
        raise ValueError(f"{arrays.label} holds nothing that a run would quantize by itself: name one of its arrays")
    most, named = max(SAMPLE_VALUES // len(quantized), LEAST_SAMPLE), isinstance(source, str | os.PathLike)
    comparisons = {}
    for name, origin in quantized:
        with of_variable(name):
            words = f"{arrays.prefix}{name}" if named else source
            comparisons[name] = compared(origin, words, None, missing, bits, purpose, most)
    words_of_all = command_words(source, option_words(missing, not decode, floats))
    return DatasetComparison(comparisons, len(found) - len(quantized), words_of_all)


def compared(
    origin: Source,
    source: Any,
    current: Int4Array | None,
    missing: Any,
    bits: float | None,
    purpose: str | None,
    most: int,
) -> Comparison:
    """The choices for a source, with a warning where the look at it finds what nobody wants."""
    chosen = origin.missing_value(missing)
    origin = origin.with_missing(chosen)
    seen = None if missing is None else look_at(origin, chosen)
    values = sample_of(origin, most)
    if seen is not None and (doubt := seen.before(values)) is not None:
        warnings.warn(doubt, QuantizeWarning, stacklevel=3)
    return compare_rules(origin, source, current, missing, values, bits, purpose, most)


def check_wishes(bits: Any, purpose: Any) -> None:
    """Refuse, with a ValueError, what is no number of bits, or no purpose."""
    if bits is not None and not (isinstance(bits, int | float) and 0 < bits < math.inf):
        raise ValueError(f"bits is {bits!r}, but must be a number above 0: stored bits a value, such as 4.3")
    if purpose not in (None, "search"):
        raise ValueError(f"purpose is {purpose!r}, but must be 'search', or None")


def compare_rules(
    origin: Source,
    source: Any,
    current: Int4Array | None,
    missing: Any,
    values: np.ndarray | None = None,
    bits: float | None = None,
    purpose: str | None = None,
    most: int | None = None,
) -> Comparison:
    """Compare the choices for a source that is open already; `source` is what their commands call it.

    `values` are those of a sample of at most so many, if it has been read; they are not kept as they are.
    """
    most = most or SAMPLE_VALUES
    chosen = origin.missing_value(missing)
    origin = origin.with_missing(chosen)
    values = sample_of(origin, most) if values is None else values
    sample = Sample.of(values, origin.shape, chosen, sampled_places(origin, most))
    notes = []
    if sample.infinite:
        notes.append(
            f"the sample holds infinity, {sample.infinite:,} times, which is left out: a run refuses it without a "
            "--value-range, so the commands have the range that each method finds in the sample"
        )
    if sample.propagates:
        absent = np.count_nonzero(~sample.counted) - sample.infinite
        notes.append(f"{percent(absent / sample.values.size)} of the sample is missing, which takes one of the codes")
    tried: list[Granularity] = [PER_TENSOR]
    for finer in map(PerAxis, range(len(origin.shape)) if not sample.infinite else ()):
        why = sample.why_not(finer)
        if why is None:
            tried.append(finer)
        elif why:
            notes.append(f"{finer.label} is left out: {why}")
    rules = [sample.rule(method, granularity) for granularity in tried for method in SCALE_METHODS]
    for blocks in blocks_to_try(origin.shape) if not sample.infinite else ():
        why = sample.why_not(blocks)
        if why is None:
            rules.append(sample.rule("mse", blocks))
        elif why:
            notes.append(f"{blocks.label} are left out: {why}")
    now = None if current is None else rule_for_sample(current, sample)
    if now is not None and now not in rules:
        rules.append(now)
    words = command_words(source, reading_options(origin, missing))
    choices = {rule: replace(choice, current=rule == now) for rule, choice in try_rules(sample, rules, words).items()}
    if purpose == "search":
        found = recalls(sample, choices)
        choices = {rule: replace(choice, recall=found[rule]) for rule, choice in choices.items()}
    if any("taken off" in choice.note for choice in choices.values()):
        notes.append(
            "the range of all values is likely wider than the sample's: what that costs minmax and absmax is "
            "estimated, and taken off their SQNR"
        )
    recommended, reason = recommendation(choices, bits)
    return Comparison(
        tuple(choices.values()), choices[recommended], reason, sample.values.size, math.prod(origin.shape), tuple(notes)
    )


def blocks_to_try(shape: Shape) -> list[Granularity]:
    """Runs along the last axis, a run along the one before it, and a tile over both, of those that fit a shape.

    >>> [each.label for each in blocks_to_try((3, 500, 20))]
    ['blocks of 1 x 1 x 16', 'blocks of 1 x 32 x 1', 'blocks of 1 x 4 x 8']
    """
    outer, ndim = (1,) * (len(shape) - 2), len(shape)
    tried = [(*(1,) * (ndim - 1), length) for length in RUNS]
    if ndim > 1:
        tried += [(*outer, 32, 1), (*outer, *TILE)]
    return [
        granularity_of(None, ndim, blocks)
        for blocks in tried
        if all(length < n or length == 1 for length, n in zip(blocks, shape, strict=True))
    ]


def reading_options(origin: Source, missing: Any) -> str:
    """The options of the command line that have a source read as this one is."""
    raw, floats = False, False
    if origin.asked is not None:
        missing, raw, floats = origin.asked["missing_asked"], not origin.asked["decode"], origin.asked["floats"]
    else:
        with contextlib.suppress(DeclarationError):
            raw = decoding_of(origin.attributes, origin.dtype, origin.label, missing=missing) is not None
            missing = "declared" if missing == origin.missing else missing
    return option_words(missing, raw, floats)


def option_words(missing: Any, raw: bool, floats: bool) -> str:
    """The options of the command line that have values read in a way."""
    option = "" if missing == "declared" else f" --missing {'none' if missing is None else missing}"
    return option + (" --raw" if raw else "") + (" --floats" if floats else "")


def rule_for_sample(array: Int4Array, sample: Sample) -> Rule:
    """How the scales of a store were chosen, with what the sample needs for missing values."""
    return replace(array.metadata.rule, nan_policy="propagate" if sample.propagates else "raise")


def recommendation(choices: dict[Rule, Choice], bits: float | None = None) -> tuple[Rule, str]:
    """Which choice to take, and why: the best within so many stored bits a value, or else the knee."""
    if all(math.isnan(choice.sqnr_db) for choice in choices.values()):
        return next(iter(choices)), "The sample holds no value to judge by."
    if any(choice.recall is not None for choice in choices.values()):
        return for_search(choices, bits)
    return knee(choices) if bits is None else within(choices, bits)


def within(choices: dict[Rule, Choice], bits: float) -> tuple[Rule, str]:
    """The choice with the highest SQNR within so many stored bits a value."""
    fitting = [rule for rule, choice in choices.items() if choice.compressed_bits_per_value <= bits]
    if not fitting:
        least = min(choices, key=lambda rule: choices[rule].compressed_bits_per_value)
        return least, f"None of those tried is stored in {bits:g} bits a value or less; this one takes the fewest."
    chosen = max(fitting, key=lambda rule: rank(choices[rule]))
    said = f"It is the best of the {len(fitting)} that are stored in {bits:g} bits a value or less."
    return chosen, " ".join([said, *cost(choices, chosen)])


def for_search(choices: dict[Rule, Choice], bits: float | None) -> tuple[Rule, str]:
    """The choice with the fewest stored bits that finds nearly as much as the best."""
    fitting = [rule for rule, choice in choices.items() if bits is None or choice.compressed_bits_per_value <= bits]
    if not fitting:
        return within(choices, bits or 0.0)
    best = max(choices[rule].recall or 0.0 for rule in fitting)
    near = [rule for rule in fitting if (choices[rule].recall or 0.0) >= best - LEAST_RECALL]
    chosen = min(near, key=lambda rule: choices[rule].compressed_bits_per_value)
    limit = "" if bits is None else f" in {bits:g} bits a value or less"
    near_best = f"Of all whose recall is within {LEAST_RECALL:g} of the best, {best:.3f}{limit}"
    return chosen, " ".join([f"{near_best}, it is stored in the fewest bits.", *cost(choices, chosen)])


def rank(choice: Choice) -> float:
    return -math.inf if math.isnan(choice.sqnr_db) else choice.sqnr_db


def beyond_codes(choice: Choice) -> float:
    """Stored bits a value beyond 4."""
    return max(choice.compressed_bits_per_value - CODE_BITS, 0.0)


def is_as_good(choice: Choice, best: Choice) -> bool:
    more = choice.compressed_bits_per_value - best.compressed_bits_per_value
    return choice.sqnr_db >= best.sqnr_db - ALIKE_DB and more <= ALIKE_BITS


def knee(choices: dict[Rule, Choice]) -> tuple[Rule, str]:
    """From one scale on, the choices that give most for each bit more, as long as that is what a bit should give.

    Codes that compress count as 4 bits: that many values share few codes is no merit of a scale.
    """
    rules = {(rule.method.name, rule.granularity): rule for rule in choices if rule.method.needs != "nothing"}

    def best(granularity: Granularity) -> Rule:
        """minmax, or mse where that gains enough."""
        other = rules["mse", granularity]
        simple = rules.get(("minmax", granularity), other)
        return other if gain(simple, other) >= LEAST_GAIN else simple

    def gain(before: Rule, after: Rule) -> float:
        return choices[after].sqnr_db - choices[before].sqnr_db

    def gain_a_bit(before: Rule, after: Rule) -> float:
        more = beyond_codes(choices[after]) - beyond_codes(choices[before])
        return gain(before, after) / more if more > 0 else math.inf

    start = chosen = best(PER_TENSOR)
    finer = [best(each) for name, each in rules if name == "mse" and not each.single]
    while True:
        better = [rule for rule in finer if gain(chosen, rule) >= LEAST_GAIN and gain_a_bit(chosen, rule) >= DB_A_BIT]
        if not better:
            break
        chosen = max(better, key=lambda rule: (gain_a_bit(chosen, rule), gain(chosen, rule)))
    if chosen is not start:  # of those that are as good the first
        chosen = next(rule for rule in finer if rule is chosen or is_as_good(choices[rule], choices[chosen]))
    return chosen, reason(choices, start, chosen, rules.get(("minmax", chosen.granularity), chosen))


def reason(choices: dict[Rule, Choice], start: Rule, chosen: Rule, simple: Rule) -> str:
    """Why `chosen`: over `start`, one scale for all values, and over `simple`, minmax for the same axis."""
    choice = choices[chosen]
    said = []
    exact = choice.sqnr_db == math.inf
    if exact:
        said.append("It restores every value of the sample exactly.")
    if chosen is not start:
        before, bits = choices[start], choice.compressed_bits_per_value - choices[start].compressed_bits_per_value
        gained = f"gains {choice.sqnr_db - before.sqnr_db:.1f} dB over one for all ({before.label})"
        gained = "does so" if exact else gained
        more = f"{bits:.2g} bits a value more" if bits > 0 else "no bits more"
        said.append(f"One scale for each {chosen.granularity.each} {gained}, for {more}, stored.")
    if simple is not chosen:
        said.append(
            f"It gains {choice.sqnr_db - choices[simple].sqnr_db:.1f} dB over {choices[simple].label}, whose range "
            f"reaches the outermost values."
        )
    said += cost(choices, chosen, simple if simple is not chosen else start)
    if not chosen.method.clips and not exact:
        said.append(f"No value saturates, and mse, which lets some do so, gains less than {LEAST_GAIN:g} dB over it.")
    if not exact and any(not rule.granularity.single for rule in choices):
        said.append(
            f"No finer one gains {LEAST_GAIN:g} dB more, and {DB_A_BIT:g} dB for each stored bit a value beyond "
            f"{CODE_BITS:g}: it is the knee."
        )
    return " ".join(said)


def cost(choices: dict[Rule, Choice], chosen: Rule, other: Rule | None = None) -> list[str]:
    """What a choice that lets values saturate does to the largest errors, beside another."""
    choice = choices[chosen]
    if not chosen.method.clips or choice.sqnr_db == math.inf:
        return []
    instead = "" if other in (None, chosen) else f" instead of {choices[other].max_error:.3g} ({choices[other].label})"
    return [
        f"{percent(choice.saturated_share)} of the values saturate, and the largest error on the sample is "
        f"{choice.max_error:.3g}{instead}."
    ]
