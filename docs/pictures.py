"""Draw the pictures of the documentation: ``python docs/pictures.py`` writes them into ``docs/pictures``.

Elevations are real, from matplotlib's samples; embeddings are drawn by a fixed seed: columns of different widths, with
tails.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from quantize import quantize_to_zarr
from quantize.cli.demo import elevations
from quantize.quality.measure import measure_store
from quantize.quality.report import pictures
from quantize.quality.suggest import suggest

HERE = Path(__file__).parent / "pictures"


def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_t(4, (4000, 256)) * np.exp(0.5 * rng.normal(size=256))).astype(np.float32)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        heights, vectors = elevations(), embeddings()
        height = quantize_to_zarr(heights, Path(folder) / "height.zarr", chunks=(16, 16))
        vector = quantize_to_zarr(vectors, Path(folder) / "vector.zarr", scale_method="mse")
        parts = measure_store(height, heights).figures.parts
        found = measure_store(vector, vectors)
    choices = suggest(vectors, current=vector)
    assert parts is not None
    drawn = {
        "values": pictures.value_histogram(
            found.counts.values, -8, scale=vector.scale, zero_point=vector.zero_point, label="component"
        ),
        "errors": pictures.error_histogram(found.counts.errors, bound=vector.max_error, label="component"),
        "chunks": pictures.part_map(parts.rmse, parts, "RMS error (m)")[0],
        "codes": pictures.code_bars(found.figures.code_counts or ()),
        "choices": pictures.method_bars(choices.rows, choices.recommended),
    }
    for name, figure in drawn.items():
        pictures.save(figure, HERE / f"{name}.png")


if __name__ == "__main__":
    main()
