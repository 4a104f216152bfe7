"""Search in embeddings of 4 bits: how many of the ten nearest neighbours are found, by what shares a scale.

The embeddings are those of latent semantic analysis of the docstrings of Python's standard library.
"""

import argparse
import re
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np

from quantize import dequantize_from_int4, quantize_to_int4

LEFT_OUT = {"test", "tests", "idlelib", "site-packages"}  # folders of the standard library
WORDS = 3000
CHOICES = [
    ("one scale, minmax", "minmax", (-1, -1)),
    ("one scale", "mse", (-1, -1)),
    ("a scale for each row", "mse", (1, -1)),
    ("a scale for each column", "mse", (-1, 1)),
    ("(1, 64)", "mse", (1, 64)),
    ("(1, 32)", "mse", (1, 32)),
    ("(32, 1)", "mse", (32, 1)),
    ("(1, 16)", "mse", (1, 16)),
    ("(16, 1)", "mse", (16, 1)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=4000, help="at most (%(default)s)")
    parser.add_argument("--features", type=int, default=256, help="of an embedding (%(default)s)")
    arguments = parser.parse_args()
    vectors = embeddings(documents()[: arguments.documents], arguments.features)
    queries, rows = vectors[::10], np.delete(vectors, np.s_[::10], axis=0)
    print(f"{len(queries)} queries, {len(rows)} rows of {arguments.features} features\n")
    print(f"{'scales':24} {'SQNR':>8} {'recall@10':>10} {'rows at length 1':>18}")
    wanted = nearest(queries, rows)
    for label, method, blocks in CHOICES:
        codes, scale, zero_point = quantize_to_int4(rows, method, blocks=blocks)
        restored = dequantize_from_int4(codes, scale, zero_point, blocks=blocks)
        decibels = 10 * np.log10(np.var(rows) / np.mean(np.square(restored - rows)))
        found = [recall(wanted, nearest(queries, x)) for x in (restored, normalized(restored))]
        print(f"{label:24} {decibels:5.1f} dB {found[0]:10.3f} {found[1]:18.3f}")


def nearest(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """For each query the ten rows with the largest inner product: an exact search."""
    return np.argpartition(-queries @ rows.T, 10, axis=1)[:, :10]


def recall(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([len(set(x) & set(y)) / 10 for x, y in zip(wanted, found, strict=True)]))


def documents() -> list[Counter[str]]:
    """The words of each docstring of ten words or more, with their counts, each text once."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in library.rglob("*.py") if not LEFT_OUT & set(path.parts))
    texts = [text for path in paths for text in re.findall(r'"""(.+?)"""', path.read_text(errors="replace"), re.DOTALL)]
    counts = [Counter(re.findall("[a-z]{3,}", text.lower())) for text in dict.fromkeys(texts)]
    kept = [count for count in counts if count.total() >= 10]
    return [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]


def embeddings(texts: list[Counter[str]], features: int) -> np.ndarray:
    """A row of length 1 for each text: its share in the largest singular vectors of the words' weights (tf-idf)."""
    common = Counter(word for text in texts for word in text).most_common(WORDS)
    column = {word: j for j, (word, _) in enumerate(common)}
    table = np.zeros((len(texts), len(common)), np.float32)
    for i, text in enumerate(texts):
        known = [word for word in text if word in column]
        table[i, [column[word] for word in known]] = [1 + np.log(text[word]) for word in known]
    table = normalized(table * np.log(len(texts) / np.array([count for _, count in common], np.float32)))
    basis = np.random.default_rng(0).normal(size=(len(common), features)).astype(np.float32)
    for _ in range(4):  # orthogonal iteration, which finds the space that the largest singular vectors span
        basis = np.linalg.qr(table.T @ (table @ basis))[0]
    projected = table @ basis
    return normalized(projected @ np.linalg.eigh(projected.T @ projected)[1][:, ::-1])


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


if __name__ == "__main__":
    main()
