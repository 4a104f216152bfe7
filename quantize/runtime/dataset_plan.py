"""What a run over a collection will need, variable by variable and in all. Reads metadata only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.utils import format_bytes

from ..numerics.grid import Shape
from ..store.zarr_json import to_json
from .plan import Plan
from .tables import html_lines, html_table, lined_up


@dataclass(frozen=True)
class VariablePlan:
    """What becomes of one variable.

    Attributes
    ----------
    name : str
    shape, dtype
        Of its values; `dtype` of what is kept is that which is stored, ``object`` for text.
    why : str
        Why it is kept; "" if it is quantized.
    disk : int
        Bytes that it takes in the store at most.
    plan : Plan, optional
        Of what is quantized.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    why: str
    disk: int
    plan: Plan | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values; 16 for each text."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype.kind != "O" else 16)

    @property
    def how(self) -> str:
        return f"kept: {self.why}" if self.plan is None else self.plan.scales

    @property
    def bits(self) -> float | None:
        """Bits that a value takes, before anything is compressed; None where there are texts, or no values."""
        if self.plan is None:
            return None if self.dtype.kind == "O" else 8 * self.dtype.itemsize
        size = math.prod(self.shape)
        return (
            4
            + BITS_OF_SCALES[self.plan.rule.granularity.fraction > 1]
            * self.plan.rule.granularity.count(self.shape)
            / size
        )

    @property
    def row(self) -> tuple[str, str, str, str, str, str]:
        """As one row of a table: name, shape, dtype, bits, bytes, and how it is quantized or why it is kept."""
        shape = " x ".join(map(str, self.shape)) or "()"
        dtype = "text" if self.dtype.kind == "O" else str(self.dtype)
        bits = "" if self.bits is None else f"{self.bits:.4g}"
        return self.name, shape, dtype, bits, format_bytes(self.disk), self.how


BITS_OF_SCALES = {False: 128, True: 48}  # bits of a scale and its zero point: of blocks, and of all others
HEAD = ("variable", "shape", "dtype", "bits", "disk", "how")


@dataclass(frozen=True)
class DatasetPlan:
    """What a run over a collection will do and need. `str` prints it, `to_json` gives its figures.

    Attributes
    ----------
    source, destination : str
    variables : tuple of VariablePlan
    scheduler : str
    workers : int
        Tasks at a time, of whatever variables.
    limit : int or None
        As of a `Plan`.
    memory : int
        Bytes that the run will hold at most, above the imports: those of the variable that takes the most.
    disk : int
        Bytes that the result takes at most.
    free : int or None
        Bytes free at the destination, where that is known.
    notes : tuple of str
        What else there is to know, with the name of the variable.
    """

    source: str
    destination: str
    variables: tuple[VariablePlan, ...]
    scheduler: str
    workers: int
    limit: int | None
    memory: int
    disk: int
    free: int | None
    notes: tuple[str, ...]

    @property
    def passes(self) -> int:
        return max((one.plan.passes for one in self.variables if one.plan is not None), default=1)

    @property
    def quantized(self) -> int:
        return sum(one.plan is not None for one in self.variables)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(one.nbytes for one in self.variables)

    @property
    def facts(self) -> dict[str, str]:
        kept = len(self.variables) - self.quantized
        free = "" if self.free is None else f", {format_bytes(self.free)} free"
        return {
            "source": f"{self.source}  {len(self.variables):,} variables, {format_bytes(self.nbytes)}",
            "destination": f"{self.destination}  {self.quantized:,} quantized, {kept:,} kept as they are",
            "work": f"{self.workers} tasks at a time on {self.scheduler}",
            "memory": f"{format_bytes(self.memory)} at most",
            "disk": f"{format_bytes(self.disk)} at most{free}",
        }

    def to_json(self) -> dict[str, Any]:
        variables = [
            {
                "name": one.name,
                "shape": one.shape,
                "dtype": "text" if one.dtype.kind == "O" else one.dtype,
                "kept": one.why or None,
                "nbytes": one.nbytes,
                "disk": one.disk,
                "plan": None if one.plan is None else one.plan.to_json(),
            }
            for one in self.variables
        ]
        names = ("source", "destination", "scheduler", "workers", "limit", "nbytes", "memory", "disk", "free", "notes")
        found: dict[str, Any] = to_json({name: getattr(self, name) for name in names} | {"variables": variables})
        return found

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        return "\n".join(
            [
                *lined_up([HEAD, *(one.row for one in self.variables)]),
                *(f"{key:<{width}}  {value}" for key, value in self.facts.items()),
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def _repr_html_(self) -> str:
        rows = [*(one.row for one in self.variables)]
        facts = [f"{key}: {value}" for key, value in self.facts.items()]
        return html_table("Plan", self.destination, HEAD, rows) + html_lines([*facts, *self.notes])
