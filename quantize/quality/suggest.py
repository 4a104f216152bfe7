"""What each way to choose scales would give, side by side on a sample, and which to take."""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import DeclarationError, QuantizeWarning
from ..io import as_source
from ..io.decoding import decoded, decoding_of
from ..io.sampling import SAMPLE_VALUES, sample_of
from ..io.source import Source
from ..numerics.granularity import PER_TENSOR, Granularity, PerAxis
from ..numerics.names import SCALE_METHODS
from ..numerics.scales import Rule
from ..runtime.look import look_at
from .choices import Choice, Comparison, command_words, percent
from .trial import Sample, try_rules

if TYPE_CHECKING:
    from ..reading.array import Int4Array

LEAST_GAIN = 1.0  # dB: what a choice must gain to be recommended over a simpler one
DEAREST_AXIS = 0.5  # bits a value: what an axis may cost at most to be recommended


def suggest(
    source: Any,
    *,
    current: Int4Array | None = None,
    missing: Any = "declared",
    decode: bool = True,
    floats: bool = False,
) -> Comparison:
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
    decode, floats : bool
        As for `quantize_to_zarr`.

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
    >>> found = suggest(values)
    >>> found.recommended.label, found.recommended.command
    ('mse', 'quantize run SRC DST --scale-method mse')
    """
    origin = decoded(as_source(source), decode, missing, floats)
    chosen = origin.missing_value(missing)
    origin = origin.with_missing(chosen)
    seen = None if missing is None else look_at(origin, chosen)
    values = sample_of(origin, SAMPLE_VALUES)
    if seen is not None and (doubt := seen.before(values)) is not None:
        warnings.warn(doubt, QuantizeWarning, stacklevel=2)
    return compare_rules(origin, source, current, missing, values)


def compare_rules(
    origin: Source, source: Any, current: Int4Array | None, missing: Any, values: np.ndarray | None = None
) -> Comparison:
    """Compare the choices for a source that is open already; `source` is what their commands call it.

    `values` are those of a sample, if it has been read; they are not kept as they are.
    """
    chosen = origin.missing_value(missing)
    origin = origin.with_missing(chosen)
    values = sample_of(origin, SAMPLE_VALUES) if values is None else values
    sample = Sample.of(values, origin.shape, chosen)
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
    now = None if current is None else rule_for_sample(current, sample)
    if now is not None and now not in rules:
        rules.append(now)
    words = command_words(source, reading_options(origin, missing))
    choices = {rule: replace(choice, current=rule == now) for rule, choice in try_rules(sample, rules, words).items()}
    if any("taken off" in choice.note for choice in choices.values()):
        notes.append(
            "the range of all values is likely wider than the sample's: what that costs minmax and absmax is "
            "estimated, and taken off their SQNR"
        )
    recommended, reason = recommendation(choices)
    return Comparison(
        tuple(choices.values()), choices[recommended], reason, sample.values.size, math.prod(origin.shape), tuple(notes)
    )


def reading_options(origin: Source, missing: Any) -> str:
    """The options of the command line that have a source read as this one is."""
    raw, floats = False, False
    if origin.asked is not None:
        missing, raw, floats = origin.asked["missing_asked"], not origin.asked["decode"], origin.asked["floats"]
    else:
        with contextlib.suppress(DeclarationError):
            raw = decoding_of(origin.attributes, origin.dtype, origin.label, missing=missing) is not None
            missing = "declared" if missing == origin.missing else missing
    option = "" if missing == "declared" else f" --missing {'none' if missing is None else missing}"
    return option + (" --raw" if raw else "") + (" --floats" if floats else "")


def rule_for_sample(array: Int4Array, sample: Sample) -> Rule:
    """How the scales of a store were chosen, with what the sample needs for missing values."""
    return replace(array.metadata.rule, nan_policy="propagate" if sample.propagates else "raise")


def recommendation(choices: dict[Rule, Choice]) -> tuple[Rule, str]:
    """The simplest choice that none other beats by enough, and why."""
    rules = {(rule.method.name, rule.granularity): rule for rule in choices if rule.method.needs != "nothing"}

    def best(granularity: Granularity) -> Rule:
        """minmax, or mse where that gains enough."""
        simple, other = rules["minmax", granularity], rules["mse", granularity]
        return other if choices[other].sqnr_db - choices[simple].sqnr_db >= LEAST_GAIN else simple

    start = best(PER_TENSOR)
    finer = [each for name, each in rules if name == "mse" and not each.single and ("minmax", each) in rules]
    gaining = [
        rule
        for rule in map(best, finer)
        if choices[rule].sqnr_db - choices[start].sqnr_db >= LEAST_GAIN
        and choices[rule].bits_per_value - choices[start].bits_per_value <= DEAREST_AXIS
    ]
    chosen = max(gaining, key=lambda rule: choices[rule].sqnr_db, default=start)
    return chosen, reason(choices, start, chosen, rules["minmax", chosen.granularity])


def reason(choices: dict[Rule, Choice], start: Rule, chosen: Rule, simple: Rule) -> str:
    """Why `chosen`: over `start`, one scale for all values, and over `simple`, minmax for the same axis."""
    choice = choices[chosen]
    if math.isnan(choice.sqnr_db):
        return "The sample holds no value to judge by."
    said = []
    exact = choice.sqnr_db == math.inf
    if exact:
        said.append("It restores every value of the sample exactly.")
    if not chosen.granularity.single:
        before, bits = choices[start], choice.bits_per_value - choices[start].bits_per_value
        gained = f"gains {choice.sqnr_db - before.sqnr_db:.1f} dB over one for all ({before.label})"
        gained = "does so" if exact else gained
        said.append(f"One scale for each {chosen.granularity.each} {gained}, for {bits:.2g} bits a value.")
    if chosen.method.clips:
        said.append(
            f"It gains {choice.sqnr_db - choices[simple].sqnr_db:.1f} dB over {choices[simple].label}, whose range "
            f"reaches the outermost values. In return {percent(choice.saturated_share)} of the values saturate, and "
            f"the largest error on the sample is {choice.max_error:.3g} instead of {choices[simple].max_error:.3g}."
        )
    elif not exact:
        said.append(f"No value saturates, and mse, which lets some do so, gains less than {LEAST_GAIN:g} dB over it.")
    if chosen.granularity.single and not exact and any(not rule.granularity.single for rule in choices):
        said.append(f"No axis gains {LEAST_GAIN:g} dB more for {DEAREST_AXIS:g} bits a value or less.")
    return " ".join(said)
