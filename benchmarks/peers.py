"""4-bit quantizers of others, installed by the extra `bench`: with one scale for all values, and GGUF's blocks of 32.

They are imported by name, since they may be absent. Each is called in a process of its own: faiss and torch bring a
runtime of OpenMP each, and those do not always go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

import numpy as np

# Shares of the values that faiss's quantile rule cuts off at each end, and among which the best is taken.
SHARES = (0.0, *np.geomspace(1e-7, 0.1, 49).tolist())


def faiss_quantiles(values: np.ndarray) -> Iterator[np.ndarray]:
    """The 4-bit uniform scalar quantizer of faiss, its range cut at quantiles: one result for each of `SHARES`."""
    faiss = import_module("faiss")
    column = values.reshape(-1, 1)
    quantizer = faiss.ScalarQuantizer(1, faiss.ScalarQuantizer.QT_4bit_uniform)
    quantizer.rangestat = faiss.ScalarQuantizer.RS_quantiles
    for share in SHARES:
        quantizer.rangestat_arg = share
        quantizer.train(column)
        yield quantizer.decode(quantizer.compute_codes(column)).reshape(values.shape)


def torch_histogram(values: np.ndarray) -> Iterator[np.ndarray]:
    """The histogram observer of torch, with 16 levels to use.

    As it comes, it looks for the range that suits as many levels as its dtype has, 256. The range always reaches zero.
    """
    yield torch_observed(values, None)


def torch_histogram_16(values: np.ndarray) -> Iterator[np.ndarray]:
    """The same, made to look for the range that suits 16 levels."""
    yield torch_observed(values, 16)


def torch_observed(values: np.ndarray, sought: int | None) -> np.ndarray:
    torch = import_module("torch")
    observer = import_module("torch.ao.quantization").HistogramObserver(quant_min=0, quant_max=15)
    observer.dst_nbins = sought or observer.dst_nbins
    tensor = torch.from_numpy(values)
    observer(tensor)
    restored: np.ndarray = torch.fake_quantize_per_tensor_affine(tensor, *observer.calculate_qparams(), 0, 15).numpy()
    return restored


# What each is imported as, and what it gives.
PEERS: dict[str, tuple[str, Callable[[np.ndarray], Iterator[np.ndarray]]]] = {
    "faiss quantiles": ("faiss", faiss_quantiles),
    "torch histogram": ("torch", torch_histogram),
    "torch histogram, 16": ("torch", torch_histogram_16),
}


def is_installed(peer: str) -> bool:
    return find_spec(PEERS[peer][0]) is not None


# Blocks ---------------------------------------------------------------------------------------------------------------

GGUF = ("Q4_0", "Q4_1", "Q4_K")
SUPER_BLOCK = 256  # values


def gguf(name: str, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A tensor of this type as GGUF stores it, and the values that the package `gguf` reads from it."""
    quants, kinds = import_module("gguf.quants"), import_module("gguf").GGMLQuantizationType
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, SUPER_BLOCK)
    stored = q4_k(rows) if name == "Q4_K" else quants.quantize(rows, kinds[name])
    return stored.tobytes(), quants.dequantize(stored, kinds[name]).reshape(values.shape)


def q4_k(rows: np.ndarray) -> np.ndarray:
    """The bytes of super-blocks of type Q4_K, which the package `gguf` reads but does not make.

    The search is that of ``quantize_row_q4_K_ref`` of llama.cpp: for each 32 values 21 scales, each with the scale and
    minimum that fit its codes best, where large values weigh more; then both in 6 bits.
    """
    x = rows.reshape(len(rows), 8, 32)
    weights = np.sqrt(np.mean(x * x, axis=2, keepdims=True)) + np.abs(x)

    def total(*factors: np.ndarray) -> np.ndarray:
        return math.prod(factors, start=weights).sum(axis=2, keepdims=True)

    def fitted(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scale and minimum with the least error for codes, the minimum 0 at most."""
        one, two, product = total(codes), total(codes, codes), total(codes, x)
        spread = total() * two - one * one
        scale, minimum = total() * product - total(x) * one, total(x) * two - one * product
        positive = minimum > 0
        return np.where(positive, product / two, scale / spread), np.where(positive, 0, minimum / spread)

    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.minimum(x.min(axis=2, keepdims=True), 0), x.max(axis=2, keepdims=True)
        place = (x - low) / (high - low)
        scale, minimum = (high - low) / 15, low
        error = total(np.square(scale * np.clip(np.rint(15 * place), 0, 15) + minimum - x))
        for steps in np.linspace(14, 16, 21, dtype=np.float32):
            codes = np.clip(np.rint(steps * place), 0, 15)
            tried = fitted(codes)
            found = total(np.square(tried[0] * codes + tried[1] - x))
            better = found < error  # not where all values are equal: found is NaN
            scale, minimum = np.where(better, tried[0], scale), np.where(better, tried[1], minimum)
            error = np.where(better, found, error)
        pairs = np.concatenate([scale, -minimum], axis=2)
        largest = pairs.max(axis=1, keepdims=True)
        six = np.where(largest > 0, np.rint(pairs * (63 / largest)), 0)
        factors = (largest / 63).astype(np.float16)
        scale, minimum = np.split(factors.astype(np.float32) * six, 2, axis=2)
        codes = np.where(scale > 0, np.clip(np.rint((x + minimum) / scale), 0, 15), 0).astype(np.uint8)

    first, last = np.split(six.astype(np.uint8), 2, axis=1)
    upper = (first | last >> 4 << 6).transpose(0, 2, 1).reshape(len(x), 8)
    lower = last[..., 0] & 15 | last[..., 1] << 4
    low_half, high_half = codes.reshape(len(x), 4, 2, 32).transpose(2, 0, 1, 3)
    nibbles = (low_half | high_half << 4).reshape(len(x), 128)
    return np.concatenate([factors.reshape(len(x), 2).view(np.uint8), upper, lower, nibbles], axis=1)
