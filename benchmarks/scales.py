"""Signal to quantization noise, in dB, of every rule for the scale: 4.00 bits a value, one scale for each sample.

The zero point of the rules and of the dense search is a whole number; faiss's is not. Each sample is float32, drawn
with a fixed seed, and the same for all. The method mse is held to the bars below, to the dense search, which has the
best that any scale and whole zero point can do on the sample, and to the peers. Of faiss's quantile rule the best of 50
quantiles counts; torch's histogram observer is there as it comes, and made to look for 16 levels.

The bar for Student t with 3 degrees of freedom is no property of the distribution, but of small samples. Its fourth
moment is infinite: a few values decide how much is clipped, and the larger the sample, the further out they lie. Over
samples that differ in nothing but the seed, 0 and on, the dense search had

| values | samples | least | median |  most | 9.7 dB or more |
| -----: | ------: | ----: | -----: | ----: | -------------: |
|   2^16 |     100 |  5.23 |   9.74 | 11.61 |           54 % |
|   2^20 |      40 |  7.82 |   9.35 | 10.18 |           28 % |
|   2^22 |      20 |  8.93 |   9.31 |  9.76 |           10 % |
|   2^24 |       6 |  8.67 |   9.07 |  9.45 |            0 % |

and of the distribution itself 16 equally spaced levels, zero among them, get 9.16 dB at most (computed from its
density). So the seed is 0 here as everywhere, ten seeds have a table of their own, and where the dense search stays
below a bar, that is said to be out of reach: the bar is then the dense search.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from quantize import dequantize_from_packed_int4, quantize_to_packed_int4

from . import fidelity
from .dense import dense_search
from .measuring import in_child
from .peers import PEERS, is_installed
from .samples import SAMPLES, sample
from .tables import Table, verdict

SIZE, QUICK_SIZE = 1 << 20, 1 << 14
RULES = {"minmax": "minmax", "absmax": "absmax", "percentile 99.9": "percentile", "mse": "mse"}
DENSE = "dense search"
TAILED = "Student t (3)"
SEEDS = range(10)
LEAST = {"Gaussian": 19.2, "Laplace": 15.9, TAILED: 9.7, "uniform [0, 1]": 23.7, "Gaussian around 280": 19.3}
# By how much more the method mse has to have than others, in dB.
NEEDED = {DENSE: -0.05, "faiss quantiles": -0.3, "torch histogram": 0.0, "torch histogram, 16": 0.0}
OUT_OF_REACH = "out of reach"
ABSENT_NOTE = "Not installed: {}. The extra `bench` of this project brings them."


class Draw(NamedTuple):
    """A sample: a name of `SAMPLES`, how many values, and the seed."""

    name: str
    size: int
    seed: int = 0


Figures = dict[str, float | None]  # dB by method; None for a peer that is not installed


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    size = QUICK_SIZE if quick else SIZE
    draws = [Draw(name, size) for name in SAMPLES]
    figures = of_each([*RULES, DENSE, *PEERS], draws)
    tails = [Draw(TAILED, size, seed) for seed in SEEDS]
    tail_figures = of_each(["mse", DENSE], tails)
    absent = {PEERS[peer][0] for peer in PEERS if not is_installed(peer)}
    notes = (ABSENT_NOTE.format(" and ".join(sorted(absent))),) if absent else ()
    return [
        Table(
            f"SQNR in dB, {size:,} values",
            [{"sample": draw.name, **row} for draw, row in zip(draws, figures, strict=True)],
            notes,
        ),
        Table(
            "Bars of the method mse, in dB",
            [bar for draw, row in zip(draws, figures, strict=True) for bar in bars(draw.name, row)],
        ),
        Table(
            f"The method mse on samples of {size:,} values of {TAILED}, in dB",
            [tail(draw.seed, row) for draw, row in zip(tails, tail_figures, strict=True)],
        ),
        *fidelity.tables(quick),
    ]


def of_each(methods: list[str], draws: list[Draw]) -> list[Figures]:
    """The figures of each sample."""
    columns = {method: column(method, draws) for method in methods}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def column(method: str, draws: list[Draw]) -> Sequence[float | None]:
    """What a method has on each sample."""
    if method not in PEERS:
        return figures_by(method, draws)
    return in_child(figures_by, method, draws) if is_installed(method) else [None] * len(draws)


def figures_by(method: str, draws: list[Draw]) -> list[float]:
    return [figure(method, sample(*draw)) for draw in draws]


def figure(method: str, values: np.ndarray) -> float:
    """What a method has on these values, in dB: of a peer that gives several results, the best."""
    if method == DENSE:
        return decibels(values, dense_search(values).error)
    results: Callable[[np.ndarray], Iterator[np.ndarray]]
    results = PEERS[method][1] if method in PEERS else functools.partial(by_rule, RULES[method])
    return max(decibels(values, mean_square(values, restored)) for restored in results(values))


def by_rule(scale_method: str, values: np.ndarray) -> Iterator[np.ndarray]:
    packed, scale, zero_point, size, _ = quantize_to_packed_int4(values, scale_method)
    yield dequantize_from_packed_int4(packed, scale, zero_point, size=size)


def mean_square(values: np.ndarray, restored: np.ndarray) -> float:
    return float(np.mean(np.square(restored.astype(np.float64) - values)))


def decibels(values: np.ndarray, error: float) -> float:
    return float(10 * np.log10(np.var(values, dtype=np.float64) / error))


# Bars -----------------------------------------------------------------------------------------------------------------


def bars(name: str, row: Figures) -> Iterator[dict[str, Any]]:
    """The bars that the method mse is held to on a sample."""

    def bar(against: str, difference: float | None, needed: float, met: str) -> dict[str, Any]:
        return {"sample": name, "against": against, "mse less that": difference, "more than": needed, "met": met}

    if name in LEAST:
        limit = LEAST[name]
        yield bar(f"{limit} dB", less(row, limit), 0.0, at_least(limit, row))
    for method, needed in NEEDED.items():
        difference = less(row, row[method])
        yield bar(method, difference, needed, more(difference, needed))


def tail(seed: int, row: Figures) -> dict[str, Any]:
    """The bars that need no peers, on one of the samples with a long tail."""
    difference = less(row, row[DENSE])
    return {
        "seed": seed,
        DENSE: row[DENSE],
        "mse": row["mse"],
        "mse less that": difference,
        f"more than {NEEDED[DENSE]}": more(difference, NEEDED[DENSE]),
        f"mse at least {LEAST[TAILED]}": at_least(LEAST[TAILED], row),
    }


def at_least(limit: float, row: Figures) -> str:
    dense = row[DENSE]
    return OUT_OF_REACH if dense is not None and dense < limit else more(row["mse"], limit)


def more(figure: float | None, limit: float) -> str:
    return verdict(None if figure is None else figure > limit)


def less(row: Figures, other: float | None) -> float | None:
    """The figure of the method mse less another; None where that is absent."""
    mse = row["mse"]
    return None if mse is None or other is None else mse - other
