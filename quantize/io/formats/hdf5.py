"""HDF5 files and datasets, netCDF-4 among them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...numerics.grid import Region
from ..arrays import Arrays
from ..attributes import plain
from ..chunked import ChunkedSource
from ..format import Format, library, suffix_of
from ..source import Source

# attributes: what HDF5 and netCDF-4 write for themselves
HDF5_OWN = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")


# drivers of HDF5 that leave a file which can be opened by its name alone
NAMED = ("sec2", "stdio", "direct", "core")


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name.

    But not where it is being written, here or by another, nor where it was opened by a file object.
    """

    def __init__(self, dataset: Any) -> None:
        file = dataset.file
        self.shared = file.mode == "r" and file.driver in NAMED and not file.swmr_mode
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        attributes = {key: plain(value) for key, value in dataset.attrs.items() if key not in HDF5_OWN}
        names = tuple(dimension.label or None for dimension in dataset.dims)
        super().__init__(f"{self.path}::{self.name}", dataset, attributes, names if any(names) else None)

    def fetch(self, region: Region, out: np.ndarray) -> None:
        self.array.read_direct(out, region)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import h5py

        super().__setstate__(state)
        self.array = h5py.File(self.path, "r")[self.name]


class Datasets(Arrays):
    """The datasets of an HDF5 file or group."""

    noun = "dataset"

    def listed(self) -> Mapping[str, Any]:
        found = {}

        def visit(name: str, member: Any) -> None:
            if hasattr(member, "dtype") and member.shape:
                found[name] = member

        self.node.visititems(visit)
        return found

    def opened(self, array: Any) -> Source:
        return Hdf5Source(array)


class Hdf5(Format):
    files = "HDF5 (.h5, .hdf5, .nc)"
    arrays = "HDF5"

    def takes(self, thing: Any) -> bool:
        return suffix_of(thing) in (".h5", ".hdf5", ".nc", ".he5") or library(thing) == "h5py"

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if not isinstance(thing, str):
            path = thing.file.filename
            return Datasets(path, thing, f"{path}::{(thing.name or '').rstrip('/')}/")
        try:
            import h5py
        except ImportError:
            raise ValueError(f'{thing} is an HDF5 file; reading it needs h5py: pip install "quantize[hdf5]"') from None
        try:
            opened = h5py.File(thing, "r")
        except OSError as error:
            raise ValueError(f"{thing} is no HDF5 file: {error}") from error
        return Datasets(thing, opened, f"{thing}::/")


FORMAT = Hdf5()
