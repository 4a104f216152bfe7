"""Search among the rows of a sample: how many of the nearest are still found once the rows are restored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..numerics.scales import Rule
from .trial import Sample, restored_by

NEAREST = 10  # rows: looked for by each query
QUERIES = 256  # rows of a sample: held out, to search with
MOST_ROWS = 4096  # rows: the most that are searched
LEAST_ROWS = 1000  # rows of a sample: with fewer a search says little


def recalls(sample: Sample, rules: Iterable[Rule]) -> dict[Rule, float]:
    """The share of the nearest rows, by inner product, that are among the nearest of those restored by each rule.

    Some rows are held out as queries, evenly spread, and are searched with as they are.

    Raises
    ------
    ValueError
        If the sample is not of rows, or of too few.
    """
    whole = np.flatnonzero(sample.counted.all(axis=tuple(range(1, sample.counted.ndim))))
    if sample.values.ndim != 2 or len(whole) < LEAST_ROWS:
        raise ValueError(
            f"purpose is 'search', which needs a matrix with a vector in each row, at least {LEAST_ROWS:,} of them "
            f"without missing values in the sample, but of the shape {sample.shape} it holds {len(whole):,}"
        )
    chosen = whole[np.linspace(0, len(whole) - 1, min(len(whole), MOST_ROWS + QUERIES)).astype(np.intp)]
    held_out = np.linspace(0, len(chosen) - 1, QUERIES).astype(np.intp)
    queries = sample.values[chosen[held_out]].astype(np.float32)
    rows = sample.values[np.delete(chosen, held_out)]
    base = replace(sample, values=rows, counted=np.ones(rows.shape, bool), propagates=False)
    truth = nearest(queries, rows)
    found = {}
    for rule in rules:
        own = nearest(queries, restored_by(replace(rule, nan_policy="raise"), base))
        found[rule] = float((truth[:, :, np.newaxis] == own[:, np.newaxis, :]).any(axis=2).mean())
    return found


def nearest(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The numbers of the rows nearest to each query, by inner product, in no order."""
    products = queries @ rows.astype(np.float32).T
    return np.argpartition(products, -NEAREST, axis=1)[:, -NEAREST:]
