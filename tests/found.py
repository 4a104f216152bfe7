"""What a rule finds, and the levels of that, in a form that tests compare."""

from typing import Any, NamedTuple

import numpy as np

from quantize.numerics.scales import Codes, Rule, Scale
from quantize.numerics.statistics import Statistics
from quantize.numerics.tables import levels


class Found(NamedTuple):
    """A scale, its zero point, and the code of missing values if they have one."""

    scale: float
    zero_point: int = 0
    nan_code: int | None = None


class Levels(NamedTuple):
    """The values of the codes -8..7, and the codes whose value the dtype cannot hold."""

    table: np.ndarray
    outside: set[int]


def by_rule(rule: Rule, statistics: Statistics) -> Found:
    scale = rule.scale(statistics)
    return Found(scale.scale, scale.zero_point, rule.nan_code)


def levels_of(found: Found, dtype: np.dtype[Any], missing: Any = None) -> Levels:
    codes = Codes(nan_code=found.nan_code, missing=missing)
    table, outside = levels(Scale(found.scale, found.zero_point), dtype, codes)
    return Levels(table, {int(place) - 8 for place in np.flatnonzero(outside)})
