"""Weights of a network in 4 bits: how many digits it still reads, by what shares a scale.

The digits are drawn from a font of 5 x 7 dots, moved, dimmed and covered with noise; the network is trained here.
"""

import argparse
from itertools import pairwise

import numpy as np

from quantize import dequantize_from_int4, quantize_to_int4

# The rows of 0 to 9 from top to bottom, five bits each.
FONT = """
0e 11 13 15 19 11 0e   04 0c 04 04 04 04 0e   0e 11 01 02 04 08 1f   1f 02 04 02 01 11 0e   02 06 0a 12 1f 02 02
1f 10 1e 01 01 11 0e   06 08 10 1e 11 11 0e   1f 01 02 04 08 08 08   0e 11 11 0e 11 11 0e   0e 11 11 0f 01 02 0c
"""
SIDE = 16  # pixels
LAYERS = (SIDE * SIDE, 256, 256, 10)
CHOICES = [
    ("one scale, minmax", "minmax", (-1, -1)),
    ("one scale", "mse", (-1, -1)),
    ("a scale for each row", "mse", (1, -1)),
    ("blocks of 64", "mse", (1, 64)),
    ("blocks of 32", "mse", (1, 32)),
    ("blocks of 16", "mse", (1, 16)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=10_000, help="to train on, and as many to test (%(default)s)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = train(*digits(rng, arguments.digits), rng)
    images, labels = digits(rng, arguments.digits)
    before = outputs(weights, images)[-1].argmax(axis=1)
    print(f"{'weights':22} {'SQNR':>7} {'digits read':>13} {'unlike float32':>16}")
    print(f"{'float32':22} {'':7} {np.mean(before == labels):13.2%}")
    for label, method, blocks in CHOICES:
        restored = [through_int4(matrix, method, blocks) for matrix in weights]
        noise = sum(np.square(x - y).sum() for x, y in zip(restored, weights, strict=True))
        decibels = 10 * np.log10(sum(np.square(matrix).sum() for matrix in weights) / noise)
        after = outputs(restored, images)[-1].argmax(axis=1)
        print(f"{label:22} {decibels:4.1f} dB {np.mean(after == labels):13.2%} {np.mean(after != before):16.2%}")


def through_int4(matrix: np.ndarray, method: str, blocks: tuple[int, int]) -> np.ndarray:
    codes, scale, zero_point = quantize_to_int4(matrix, method, blocks=blocks)
    return dequantize_from_int4(codes, scale, zero_point, blocks=blocks)


def digits(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, a row of pixels each, and the digits on them."""
    rows = np.array([int(row, 16) for row in FONT.split()], np.uint8).reshape(10, 7, 1)
    glyphs = np.kron(np.unpackbits(rows, axis=2)[:, :, 3:], np.ones((2, 2)))
    images, labels = rng.normal(0, 0.5, (count, SIDE, SIDE)).astype(np.float32), rng.integers(0, 10, count)
    for image, label in zip(images, labels, strict=True):
        top, left = rng.integers(0, SIDE - 13), rng.integers(0, SIDE - 9)
        image[top : top + 14, left : left + 10] += rng.uniform(0.5, 1.2) * glyphs[label]
    return images.reshape(count, -1), labels


def outputs(weights: list[np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """What each layer gives; a row of weights belongs to an output."""
    layers = [images]
    for matrix in weights[:-1]:
        layers.append(np.maximum(layers[-1] @ matrix.T, 0))
    return [*layers, layers[-1] @ weights[-1].T]


def train(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, epochs: int = 6) -> list[np.ndarray]:
    """The weights of each layer, by Adam on the cross entropy."""
    weights = [rng.normal(0, np.sqrt(2 / n), (m, n)).astype(np.float32) for n, m in pairwise(LAYERS)]
    means, squares = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    batches = np.array_split(np.arange(len(images)), max(1, len(images) // 100))
    for step, batch in enumerate(batches * epochs, 1):
        layers = outputs(weights, images[batch])
        slope = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(batch)), labels[batch]] -= 1
        for i in reversed(range(len(weights))):
            gradient = slope.T @ layers[i] / len(batch)
            slope = slope @ weights[i] * (layers[i] > 0)
            means[i] += 0.1 * (gradient - means[i])
            squares[i] += 0.001 * (gradient**2 - squares[i])
            rate = 0.002 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[i] -= rate * means[i] / (np.sqrt(squares[i]) + 1e-8)
    return weights


if __name__ == "__main__":
    main()
