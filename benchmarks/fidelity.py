"""What scales for blocks are worth: signal to noise at bits a value as stored, beside GGUF's blocks of 32 values.

Bits are those of codes and scales together, compressed as a store would: codes by zstd at level 1, 16-bit units and
32-bit zero points by the same after a byte shuffle. One scale, and one for each row or column, are kept as 16 bytes
each. GGUF's bytes are compressed by zstd at level 1 as they are; its blocks get the values in rows of 256.

Bars in dB and bits are those of a prototype of the same search, less 0.03 dB; on embeddings, weights and elevations it
was run on other data of the kind. Q4_K is run on the same values as the rest, and for known distributions counts as no
less than was recorded for llama.cpp's own code (d99724f, with an importance matrix of ones).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numcodecs import Zstd

from quantize import dequantize_from_packed_int4, quantize_to_packed_int4
from quantize.numerics.granularity import PerBlock
from quantize.numerics.scales import Scales
from quantize.quality.trial import stored_bytes

from .dense import least_in_blocks
from .peers import GGUF, SUPER_BLOCK, gguf
from .samples import ARRAYS, SAMPLES, array
from .tables import ABSENT, Table, verdict

SIZE, QUICK_SIZE = 1 << 20, 1 << 14
CODES = Zstd(level=1)

Q4_K = "GGUF Q4_K"
CHOICES: dict[str, tuple[str, tuple[int, int]]] = {
    "one scale, minmax": ("minmax", (-1, -1)),
    "one scale": ("mse", (-1, -1)),
    "axis 0": ("mse", (1, -1)),
    "axis 1": ("mse", (-1, 1)),
    "(1, 64)": ("mse", (1, 64)),
    "(1, 32), minmax": ("minmax", (1, 32)),
    "(1, 32)": ("mse", (1, 32)),
    "(1, 24)": ("mse", (1, 24)),
    "(1, 16)": ("mse", (1, 16)),
    "(32, 1)": ("mse", (32, 1)),
    "(4, 8)": ("mse", (4, 8)),
}

# dB and bits that (1, 32) and (1, 16) are held to.
LEAST = {
    "Gaussian": (22.78, 24.48),
    "Laplace": (21.38, 23.58),
    "Student t (3)": (20.68, 23.34),
    "uniform [0, 1]": (25.02, 25.97),
    "4 outlier features": (21.28, 23.64),
    "text embeddings": (21.88, 24.07),
    "network weights": (23.18, 24.78),
    "elevations": (31.65, 35.55),
}
MOST = {
    "Gaussian": (4.17, 4.60),
    "4 outlier features": (4.16, 4.60),
    "text embeddings": (4.22, 4.69),
    "network weights": (4.23, 4.64),
}
RECORDED = {"Gaussian": 23.01, "Laplace": 21.52, "Student t (3)": 20.7, "uniform [0, 1]": 24.73}  # dB of Q4_K
OTHER = ["4 outlier features", "text embeddings", "network weights"]  # the prototype had other data of the kind
# dB that each must have beyond Q4_K on the same values, on which, and in how many bits at most.
BEYOND_Q4_K: list[tuple[str, float, list[str], float | None]] = [
    ("(1, 24)", 0.0, [*RECORDED, *OTHER], 4.45),
    ("(32, 1)", 2.0, ["4 outlier features"], 4.3),
    ("(1, 32)", -0.13, OTHER, None),
    ("(1, 16)", 1.3, OTHER, None),
]
BEYOND_RUNS = 4.0  # dB that tiles must have beyond (1, 32) on elevations
# dB that runs of so many values may be short of the least error that such scales can have, and on how many runs.
MOST_SHORT = {64: 0.2, 32: 0.2, 16: 0.4}
FLAT, FLAT_BLOCKS = ["temperatures", "elevations", "photograph"], [(1, 64), (1, 32), (1, 16), (8, 8), (4, 8), (4, 4)]
FINEST = [0, 0.005, 0.02, 0.05]  # least scales, in standard deviations
RUNS, QUICK_RUNS = 3000, 20


class Fidelity(NamedTuple):
    """Signal to noise in dB, bits a value as stored, and of those the bits of scales; None where a peer is absent."""

    decibels: float | None
    bits: float | None
    scale_bits: float | None = None

    def __str__(self) -> str:
        return ABSENT if self.decibels is None else f"{self.decibels:.2f} @ {self.bits:.2f}"


def tables(quick: bool) -> list[Table]:
    """The tables of what blocks are worth, and their bars."""
    size = QUICK_SIZE if quick else SIZE
    arrays = {name: array(name, size) for name in [*SAMPLES, *ARRAYS]}
    found = {name: of_array(values) for name, values in arrays.items()}
    kinds = {f"{size:,} drawn values in rows of 512": SAMPLES, "embeddings, weights, fields and pictures": ARRAYS}
    shown = [
        Table(
            f"dB @ bits a value as stored: {title}",
            [{"scales": label, **{name: str(found[name][label]) for name in names}} for label in found["Gaussian"]],
        )
        for title, names in kinds.items()
    ]
    names, blocks = ["Gaussian", *ARRAYS], [label for label in CHOICES if label.startswith("(")]
    scales = Table(
        "Bits a value of scales and zero points, of those",
        [{"scales": label, **{name: found[name][label].scale_bits for name in names}} for label in blocks],
    )
    count = QUICK_RUNS if quick else RUNS
    search = Table(
        f"dB short of the least error that such scales can have, {count:,} runs of each length",
        [{"values": name, **held_to_the_least(values, count)} for name, values in arrays.items()],
    )
    least = Table("The method mse with a least scale, a part of the standard deviation", list(with_finest(arrays)))
    return [*shown, scales, Table("Bars of the method mse in blocks", list(bars(found))), search, least]


def with_finest(arrays: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """SQNR and stored bits of smooth arrays, with and without a least scale."""
    for name, blocks, part in itertools.product(FLAT, FLAT_BLOCKS, FINEST):
        values = arrays[name]
        found = of_choice(values, "mse", blocks, part * float(values.std()) if part else None)
        yield {"array": name, "blocks": str(blocks), "finest": part or "", "dB": found.decibels, "bits": found.bits}


def of_array(values: np.ndarray) -> dict[str, Fidelity]:
    """What each choice has, and each of GGUF's types."""
    ours = {label: of_choice(values, *choice) for label, choice in CHOICES.items()}
    return {**ours, **{f"GGUF {name}": of_gguf(values, name) for name in GGUF}}


def of_choice(values: np.ndarray, method: str, blocks: tuple[int, int], finest: float | None = None) -> Fidelity:
    packed = quantize_to_packed_int4(values, method, blocks=blocks, finest=finest)
    restored = dequantize_from_packed_int4(*packed[:3], size=packed.size, blocks=blocks)
    return fidelity(values, restored, len(CODES.encode(packed.packed)), scale_bytes(packed, blocks, values.shape))


def of_gguf(values: np.ndarray, name: str) -> Fidelity:
    if find_spec("gguf") is None:
        return Fidelity(None, None)
    whole = values.reshape(-1)[: values.size // SUPER_BLOCK * SUPER_BLOCK]
    stored, restored = gguf(name, whole)
    return fidelity(whole, restored, len(CODES.encode(stored)))


def fidelity(values: np.ndarray, restored: np.ndarray, code_bytes: int, scale_bytes: int = 0) -> Fidelity:
    noise = np.mean(np.square(restored.astype(np.float64) - values))
    decibels = float(10 * np.log10(np.var(values, dtype=np.float64) / noise))
    return Fidelity(decibels, 8 * (code_bytes + scale_bytes) / values.size, 8 * scale_bytes / values.size)


def scale_bytes(packed: Any, blocks: tuple[int, int], shape: tuple[int, ...]) -> int:
    if np.size(packed.scale) == 1 or np.asarray(packed.zero_point).dtype.kind == "i":
        return 16 * int(np.size(packed.scale))
    return stored_bytes(Scales(packed.scale, packed.zero_point, PerBlock(blocks), shape), np.dtype(np.float32))


def held_to_the_least(values: np.ndarray, count: int) -> dict[str, Any]:
    """How far the search is from a dense one on some runs of each length, and whether that is near enough."""
    row: dict[str, Any] = {}
    for length, most in MOST_SHORT.items():
        figure = short_of_the_least(values, length, count)
        row |= {f"runs of {length}": figure, f"{length}: at most {most}": verdict(figure <= most)}
    return row


def short_of_the_least(values: np.ndarray, length: int, count: int) -> float:
    runs = values[:, : values.shape[1] // length * length].reshape(-1, length)
    runs = runs[np.ptp(runs, axis=1) > 0][:: max(1, len(runs) // count)][:count]
    packed = quantize_to_packed_int4(runs, "mse", blocks=length)
    restored = dequantize_from_packed_int4(*packed[:3], size=length, blocks=length, dtype=np.float64)
    return float(10 * np.log10(np.square(restored - runs).sum() / least_in_blocks(runs).sum()))


def bars(found: dict[str, dict[str, Fidelity]]) -> Iterator[dict[str, Any]]:
    """What blocks are held to."""

    def bar(name: str, scales: str, what: str, figure: float | None, limit: float, met: bool | None) -> dict[str, Any]:
        return {"values": name, "blocks": scales, "what": what, "figure": figure, "bar": limit, "met": verdict(met)}

    def least(name: str, scales: str, what: str, figure: float | None, limit: float) -> dict[str, Any]:
        return bar(name, scales, f"{what}, at least", figure, limit, None if figure is None else figure >= limit)

    def most_bits(name: str, scales: str, limit: float) -> dict[str, Any]:
        bits = found[name][scales].bits
        return bar(name, scales, "bits, at most", bits, limit, bits <= limit)

    for name, limits in LEAST.items():
        for scales, limit in zip(("(1, 32)", "(1, 16)"), limits, strict=True):
            yield least(name, scales, "dB", found[name][scales].decibels, limit)
    for name, limits in MOST.items():
        for scales, limit in zip(("(1, 32)", "(1, 16)"), limits, strict=True):
            yield most_bits(name, scales, limit)
    for scales, limit, names, most in BEYOND_Q4_K:
        for name in names:
            peer = found[name][Q4_K].decibels
            ahead = None if peer is None else found[name][scales].decibels - max(peer, RECORDED.get(name, peer))
            yield least(name, scales, "dB beyond Q4_K", ahead, limit)
            if most is not None:
                yield most_bits(name, scales, most)
    tiles, runs = (found["elevations"][scales].decibels for scales in ("(4, 8)", "(1, 32)"))
    yield least("elevations", "(4, 8)", "dB beyond (1, 32)", tiles - runs, BEYOND_RUNS)
