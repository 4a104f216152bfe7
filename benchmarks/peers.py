"""4-bit quantizers of others with one scale for all values, installed by the extra `bench`: restored values.

They are imported by name, since they may be absent. Each is called in a process of its own: faiss and torch bring a
runtime of OpenMP each, and those do not always go together.
"""

from __future__ import annotations

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
