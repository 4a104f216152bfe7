"""HDF5 files and datasets, netCDF-4 among them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from posixpath import basename
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


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name."""

    shared = True

    def __init__(self, dataset: Any) -> None:
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        attributes = {key: plain(value) for key, value in dataset.attrs.items() if key not in HDF5_OWN}
        names = tuple(map(name_of_dimension, dataset.dims))
        if not any(names) and attributes_say_scale(dataset):
            names = (basename(dataset.name),) if len(names) == 1 else names
        super().__init__(f"{self.path}::{self.name}", dataset, attributes, names if any(names) else None)

    def fetch(self, region: Region, out: np.ndarray) -> None:
        self.array.read_direct(out, region)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import h5py

        super().__setstate__(state)
        self.array = h5py.File(self.path, "r")[self.name]


def name_of_dimension(dimension: Any) -> str | None:
    """The name of a dimension: that of the scale attached to it, as netCDF-4 has it, or its label."""
    try:
        scales = [dimension[place].name for place in range(len(dimension))]
    except (KeyError, OSError, RuntimeError, ValueError):  # a reference to what is not there
        scales = []
    return basename(scales[0]) if scales and scales[0] else dimension.label or None


def attributes_say_scale(dataset: Any) -> bool:
    """Whether a dataset is a dimension scale, as the coordinates of netCDF-4 are: its dimension has its own name."""
    return bool(plain(dataset.attrs.get("CLASS")) == "DIMENSION_SCALE")


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
