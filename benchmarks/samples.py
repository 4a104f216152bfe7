"""Arrays of float32 with known distributions, each the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FEATURES = 512
SHIFT = 280.0  # temperatures in kelvin lie there


def embeddings(random: np.random.Generator, size: int) -> np.ndarray:
    """Vectors as models give them: each feature has a scale and a mean of its own, and those of a few are far larger.

    Features are Gaussian; their scales are log-normal, and one in a hundred is eight times larger still.
    """
    scales = random.lognormal(0.0, 0.5, FEATURES)
    scales[:: FEATURES // 5] *= 8
    means = random.normal(0.0, 0.2, FEATURES) * scales
    return random.normal(means, scales, (size // FEATURES, FEATURES))


SAMPLES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "Gaussian": lambda random, size: random.normal(size=size),
    "Laplace": lambda random, size: random.laplace(size=size),
    "Student t (3)": lambda random, size: random.standard_t(3, size),
    "uniform [0, 1]": lambda random, size: random.random(size),
    "Gaussian around 280": lambda random, size: SHIFT + random.normal(size=size),
    "embeddings": embeddings,
}


def sample(name: str, size: int, seed: int = 0) -> np.ndarray:
    """So many float32 values of a distribution."""
    return SAMPLES[name](np.random.default_rng(seed), size).astype(np.float32)
