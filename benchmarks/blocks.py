"""Scales for blocks: signal to noise at bits a value as stored, and what they cost in memory.

Bits are those of codes and scales together, compressed as a store would: codes by zstd at level 1, 16-bit units and
32-bit zero points by the same after a byte shuffle. One scale, and one for each row, are kept as 16 bytes each.

The bars in dB are those of a prototype of the same search, less 0.03 dB; that of blocks of 24 is the best that Q4_K of
GGUF (llama.cpp, d99724f, importance matrix of ones; 4.5 bits, 4.40 compressed) had on samples of these distributions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numcodecs import Blosc, Zstd

from quantize import dequantize_from_packed_int4, quantize_to_packed_int4
from quantize.numerics.granularity import PerBlock
from quantize.numerics.scales import Scales

from .kernels import pin
from .measuring import in_child, interleaved, ratio, timed
from .samples import SAMPLES, sample
from .tables import Table, at_most, verdict

SIZE, QUICK_SIZE = 1 << 20, 1 << 14
COLUMNS = 512
FLAT, PARTS = [(1, 64), (1, 32), (1, 16), (8, 8), (4, 8), (4, 4)], [0, 0.005, 0.02, 0.05]  # with a least scale
CODES, SIDE = Zstd(level=1), functools.partial(Blosc, cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)
BIAS = 128  # zero points are stored plus this: their upper bytes then are nearly always 0

CHOICES: dict[str, Any] = {
    "one scale": (-1, -1),
    "axis 0": (1, -1),
    "(1, 64)": (1, 64),
    "(1, 32)": (1, 32),
    "(1, 24)": (1, 24),
    "(1, 16)": (1, 16),
    "(32, 1)": (32, 1),
    "(4, 8)": (4, 8),
}
LEAST = {
    ("Gaussian", "(1, 32)"): 22.77,
    ("Gaussian", "(1, 24)"): 23.01,
    ("Gaussian", "(1, 16)"): 24.48,
    ("Laplace", "(1, 32)"): 21.38,
    ("Laplace", "(1, 24)"): 21.52,
    ("Laplace", "(1, 16)"): 23.58,
    ("uniform [0, 1]", "(1, 32)"): 25.02,
    ("uniform [0, 1]", "(1, 24)"): 24.73,
    ("uniform [0, 1]", "(1, 16)"): 25.97,
}


def smooth(random: np.random.Generator, size: int, roughness: float) -> np.ndarray:
    """A random field whose spectrum falls with this power of the frequency; its spread is 1."""
    rows = size // COLUMNS
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(COLUMNS)[None] * COLUMNS)
    spectrum = np.fft.rfft2(random.normal(size=(rows, COLUMNS))) / np.maximum(frequency, 1) ** roughness
    field = np.fft.irfft2(spectrum, s=(rows, COLUMNS))
    return np.asarray(field / field.std())


FIELDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "temperatures": lambda random, size: 280 + 10 * smooth(random, size, 2.5),
    "elevations, whole meters": lambda random, size: np.rint(800 + 400 * smooth(random, size, 1.8)),
}


def fidelity(quick: bool) -> list[Table]:
    """SQNR and stored bits of the method mse for each choice of what shares a scale."""
    size = QUICK_SIZE if quick else SIZE
    samples = [(name, sample(name, size)) for name in SAMPLES]
    samples += [(name, draw(np.random.default_rng(0), size).astype(np.float32)) for name, draw in FIELDS.items()]
    rows = [row for name, values in samples for row in rows_of(name, values.reshape(-1, COLUMNS))]
    return [
        Table(f"The method mse in blocks, {size:,} values in rows of {COLUMNS}", rows),
        Table("The same with a least scale, a part of the standard deviation", list(with_finest(size))),
    ]


def with_finest(size: int) -> Iterator[dict[str, Any]]:
    """SQNR and stored bits of smooth fields, with and without a least scale."""
    for name, draw in FIELDS.items():
        values = draw(np.random.default_rng(0), size).astype(np.float32).reshape(-1, COLUMNS)
        for blocks, part in itertools.product(FLAT, PARTS):
            decibels, bits = figures(values, blocks, part * float(values.std()) if part else None)
            yield {"sample": name, "blocks": str(blocks), "finest": part or "", "dB": decibels, "bits": bits}


def rows_of(name: str, values: np.ndarray) -> Iterator[dict[str, Any]]:
    for label, blocks in CHOICES.items():
        decibels, bits = figures(values, blocks)
        least = LEAST.get((name, label))
        yield {
            "sample": name,
            "blocks": label,
            "dB": decibels,
            "bits": bits,
            "at least": "" if least is None else least,
            "met": "" if least is None else verdict(decibels >= least),
        }


def figures(values: np.ndarray, blocks: Any, finest: float | None = None) -> tuple[float, float]:
    """SQNR in dB and stored bits a value."""
    packed = quantize_to_packed_int4(values, "mse", blocks=blocks, finest=finest)
    restored = dequantize_from_packed_int4(*packed[:3], size=packed.size, blocks=blocks)
    noise = np.mean(np.square(restored.astype(np.float64) - values))
    decibels = float(10 * np.log10(np.var(values, dtype=np.float64) / noise))
    return decibels, 8 * stored_bytes(packed, blocks, values.shape) / values.size


def stored_bytes(packed: Any, blocks: Any, shape: tuple[int, ...]) -> int:
    codes = len(CODES.encode(packed.packed))
    if np.size(packed.scale) == 1 or np.asarray(packed.zero_point).dtype.kind == "i":
        return codes + 16 * int(np.size(packed.scale))
    scales = Scales(packed.scale, packed.zero_point, PerBlock(blocks), shape)
    kept = (scales.units, scales.quarters + np.int32(BIAS))
    return codes + sum(len(SIDE(typesize=x.itemsize).encode(np.ascontiguousarray(x))) for x in kept)


# Speed ----------------------------------------------------------------------------------------------------------------

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
