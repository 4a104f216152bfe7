"""The demonstration: real elevations, tiled to any size, through the pipeline and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.formats.npy import NpySink
from ..io.sink import Outline, check_free, check_room, check_target, replacing
from ..numerics.names import check_suffix
from ..pipeline import quantize_to_zarr
from ..quality.figures import ErrorFigures
from ..quality.measure import measure_error
from ..quality.report.pictures import compare_picture

if TYPE_CHECKING:
    from ..reading.array import Int4Array

SAMPLE_FILE = "jacksboro_fault_dem.npz"  # one of matplotlib's samples
DTYPE = np.dtype("<f4")
PICTURE_BYTES = 4 << 20  # bytes: the picture, and what the smallest store takes beside its codes
WRITTEN_VALUES = 1 << 22  # values: what is written at a time


@dataclass(frozen=True)
class Demonstration:
    """The files of one demonstration.

    Attributes
    ----------
    data, store, picture : Path
        The ``.npy`` file, the Zarr group and the PNG.
    overwrite : bool
        Whether to replace them.
    """

    data: Path
    store: Path
    picture: Path
    overwrite: bool = False

    @functools.cached_property
    def tile(self) -> np.ndarray:
        return elevations()

    def prepare(self, nbytes: int) -> tuple[int, int]:
        """Write the data; their shape.

        Raises
        ------
        FileExistsError
            If one of the files exists and may not be replaced.
        FileNotFoundError
            If the picture's folder does not exist.
        ValueError
            If the picture is not called a PNG, or there is not enough disk.
        ModuleNotFoundError
            If matplotlib, which has the elevations, is not installed.
        """
        tile = self.tile
        check_free(self.store, self.overwrite)
        for path in (self.data, self.picture):
            check_target(path, self.overwrite)
        check_suffix(self.picture, (".png", ""), "a picture")
        side = max(1, math.isqrt(nbytes // DTYPE.itemsize))
        floats = side * side * DTYPE.itemsize
        check_room(self.data, floats + floats // 7 + PICTURE_BYTES, "the floats, their codes and a picture")
        write_tiled(self.data, tile, (side, side))
        return side, side

    def run(self, progress: Callable[[Any], None]) -> tuple[Int4Array, ErrorFigures]:
        """Quantize the data, measure the errors, and draw them."""
        array = quantize_to_zarr(self.data, self.store, overwrite=self.overwrite, progress=progress)
        figures = measure_error(self.data, array, progress)
        corner = tuple(slice(0, n) for n in np.minimum(array.shape, self.tile.shape))
        compare_picture(
            np.load(self.data, mmap_mode="r")[corner],
            array[corner],
            self.picture,
            bound=float(array.max_error),
            title=f"Elevations around the Jacksboro fault in 4 bits: scale s = {array.scale:.4g} m",
            label="elevation (m)",
        )
        return array, figures

    def bits_of_one_tile(self) -> float:
        """Bits a value that the elevations take on their own: tiled they repeat, and the compressor finds that."""
        with TemporaryDirectory() as folder:
            return 8 * quantize_to_zarr(self.tile, Path(folder) / "tile.zarr").nbytes_stored / self.tile.size


def elevations() -> np.ndarray:
    """Metres above sea level around the Jacksboro fault, Tennessee: 344 x 403 points, 3 arc seconds apart."""
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data(SAMPLE_FILE, asfileobj=False)) as sample:
        return np.asarray(sample["elevation"], DTYPE)


def write_tiled(path: Path, tile: np.ndarray, shape: tuple[int, int]) -> None:
    """Write an .npy file of `shape` in pieces: the tile repeated, each time mirrored, so that no seam shows."""
    rows, columns = (mirrored(n, period) for n, period in zip(shape, tile.shape, strict=True))
    step = max(1, WRITTEN_VALUES // shape[1])
    with replacing(path, overwrite=True) as partial, NpySink().open(partial, Outline(shape, tile.dtype)) as put:
        for start in range(0, shape[0], step):
            part = rows[start : start + step]
            put((slice(start, start + len(part)), slice(0, shape[1])), tile[np.ix_(part, columns)])


def mirrored(length: int, period: int) -> np.ndarray:
    """Indices that run up and down again through ``0..period - 1``.

    >>> mirrored(7, 3).tolist()
    [0, 1, 2, 2, 1, 0, 0]
    """
    index = np.arange(length) % (2 * period)
    return np.minimum(index, 2 * period - 1 - index)
