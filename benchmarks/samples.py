"""Arrays of float32: with known distributions, each the same for the same seed, and of kinds that are quantized."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from examples import embeddings as texts
from examples import weights as network
from quantize.cli.demo import elevations

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


# Arrays ---------------------------------------------------------------------------------------------------------------

COLUMNS = 512
OUTLIERS = 4


def outlier_embeddings(random: np.random.Generator, size: int) -> np.ndarray:
    """Vectors of a transformer: few features lie far from zero and spread wide, as those of its residual stream do."""
    features = 768
    scales, means = random.lognormal(0, 0.3, features), random.normal(0, 0.3, features)
    far = random.choice(features, OUTLIERS, replace=False)
    scales[far] *= 4
    means[far] = 10 * random.choice([-1, 1], OUTLIERS)
    return random.normal(means, scales, (size // features, features))


def text_embeddings(random: np.random.Generator, size: int) -> np.ndarray:
    """Of docstrings of the standard library, by latent semantic analysis."""
    return texts.embeddings(texts.documents()[: max(300, size // 256)], 256)


def network_weights(random: np.random.Generator, size: int) -> np.ndarray:
    """Two layers of a network that was trained to read digits."""
    return np.concatenate(network.train(*network.digits(random, max(100, size // 100)), random)[:2])


def smooth(random: np.random.Generator, size: int, roughness: float) -> np.ndarray:
    """A random field whose spectrum falls with this power of the frequency; its spread is 1."""
    rows = size // COLUMNS
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(COLUMNS)[None] * COLUMNS)
    spectrum = np.fft.rfft2(random.normal(size=(rows, COLUMNS))) / np.maximum(frequency, 1) ** roughness
    field = np.fft.irfft2(spectrum, s=(rows, COLUMNS))
    return np.asarray(field / field.std())


def photograph(random: np.random.Generator, size: int) -> np.ndarray:
    """The brightness of a portrait, one of matplotlib's samples, 0 to 255."""
    from matplotlib import cbook, image

    return np.asarray(image.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) @ [0.299, 0.587, 0.114])


ARRAYS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "4 outlier features": outlier_embeddings,
    "text embeddings": text_embeddings,
    "network weights": network_weights,
    "temperatures": lambda random, size: SHIFT + 10 * smooth(random, size, 2.5),
    "random heights": lambda random, size: np.rint(800 + 400 * smooth(random, size, 1.8)),
    "elevations": lambda random, size: elevations(),
    "photograph": photograph,
}


def array(name: str, size: int) -> np.ndarray:
    """An array of two axes, float32: of `SAMPLES` in rows of `COLUMNS`, or of `ARRAYS`, whose size may be another."""
    if name in SAMPLES:
        return sample(name, size).reshape(-1, COLUMNS)
    return ARRAYS[name](np.random.default_rng(0), size).astype(np.float32)
