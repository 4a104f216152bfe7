"""What scales for blocks cost in memory, against copying the same values and against one scale."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from quantize import dequantize_from_packed_int4, quantize_to_packed_int4

from .kernels import pin
from .measuring import in_child, interleaved, ratio, timed
from .tables import Table, at_most

VALUES, QUICK_VALUES = 1 << 24, 1 << 16
AXIS_VALUES, LENGTHS, MOST_OF_ROWS = 1 << 20, (8, 64, 768, 4096, 16384), 4.0
SHAPES = [(1, 32), (1, 16), (1, 64), (32, 1), (8, 8), (4, 8)]
DTYPES = ["float32", "float16", "bfloat16", "float64"]
# How many times as long as a yardstick it may take: np.copyto of as many bytes of float32, or what unpacks one scale.
MOST = {
    ("search and pack", (1, 32)): 9.0,
    ("search and pack", (1, 16)): 13.0,
    ("minmax and pack", (1, 32)): 3.0,
    ("unpack", (1, 32)): 1.2,
    ("unpack", (1, 16)): 2.0,
}


def run(quick: bool) -> list[Table]:
    """The tables of this section; each dtype in a process of its own."""
    count, repeats = (QUICK_VALUES, 1) if quick else (VALUES, 7)
    rows = [row for dtype in DTYPES for row in in_child(speeds, dtype, count, repeats)]
    size = QUICK_VALUES if quick else AXIS_VALUES
    return [
        Table(f"{count:,} values in blocks, one thread, ns a value", rows),
        Table(f"{size:,} values with a scale for each row, one thread, ns a value", in_child(of_rows, size, repeats)),
    ]


def of_rows(count: int, repeats: int) -> list[dict[str, Any]]:
    """The method mse with an axis against minmax, by how many values share a scale."""
    pin()
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)

    def forth(method: Any, length: int) -> None:
        quantize_to_packed_int4(values[: count // length * length].reshape(-1, length), method, axis=0, workers=1)

    cases = {(m, n): timed(functools.partial(forth, m, n)) for n in LENGTHS for m in ("minmax", "mse")}
    found = interleaved(cases, repeats)
    return [
        {
            "values a row": length,
            **{method: 1e9 * float(np.median(found[method, length])) / count for method in ("minmax", "mse")},
            **at_most(ratio(found["mse", length], found["minmax", length]), MOST_OF_ROWS),
        }
        for length in LENGTHS
    ]


def speeds(dtype: str, count: int, repeats: int) -> list[dict[str, Any]]:
    pin()
    floats = np.random.default_rng(0).normal(size=(count // 1024, 1024)).astype(np.float32)
    values = floats.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    restored, copy = np.empty_like(values), np.empty_like(floats)
    room = np.empty((len(values), 512), np.int8)

    def back(packed: Any, blocks: Any) -> None:
        dequantize_from_packed_int4(*packed[:3], size=1024, blocks=blocks, dtype=values.dtype, out=restored, workers=1)

    def forth(method: Any, blocks: Any) -> None:
        quantize_to_packed_int4(values, method, blocks=blocks, out=room, workers=1)

    single = quantize_to_packed_int4(values)
    cases: dict[Any, Callable[[], object]] = {
        "copyto": lambda: np.copyto(copy, floats),
        "one scale": functools.partial(back, single, None),
    }
    for blocks in SHAPES:
        packed = quantize_to_packed_int4(values, blocks=blocks)
        cases["search and pack", blocks] = functools.partial(forth, "mse", blocks)
        cases["minmax and pack", blocks] = functools.partial(forth, "minmax", blocks)
        cases["unpack", blocks] = functools.partial(back, packed, blocks)
    found = interleaved({name: timed(case) for name, case in cases.items()}, repeats)
    rows = []
    for what, blocks in itertools.product(("search and pack", "minmax and pack", "unpack"), SHAPES):
        yardstick = "one scale" if what == "unpack" else "copyto"
        bar = MOST.get((what, blocks)) if dtype == "float32" else None
        rows.append(
            {
                "dtype": dtype,
                "what": what,
                "blocks": str(blocks),
                "ns": 1e9 * float(np.median(found[what, blocks])) / count,
                "against": "unpack, one scale" if what == "unpack" else "np.copyto of float32",
                **at_most(ratio(found[what, blocks], found[yardstick]), bar),
            }
        )
    return rows
