"""HDF5 files and datasets, netCDF-4 among them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ...numerics.grid import Region
from ..attributes import plain
from ..chunked import ChunkedSource
from ..source import Source, only


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name."""

    shared = True

    def __init__(self, dataset: Any) -> None:
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


HDF5_OWN = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")


def hdf5_path_source(path: str, inside: str) -> Source:
    try:
        import h5py
    except ImportError:
        raise ValueError(f'{path} is an HDF5 file; reading it needs h5py: pip install "quantize[hdf5]"') from None
    try:
        opened: Any = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file: {error}") from error
    if inside and inside not in opened:
        raise ValueError(f"{path} has no dataset {inside!r}; it holds {', '.join(hdf5_arrays(opened)) or 'none'}")
    return hdf5_source(opened[inside] if inside else opened, path)


def hdf5_source(opened: Any, path: str) -> Source:
    return Hdf5Source(only(hdf5_arrays(opened), path, "::/") if hasattr(opened, "visititems") else opened)


def hdf5_arrays(group: Any) -> dict[str, Any]:
    found = {}

    def visit(name: str, member: Any) -> None:
        if hasattr(member, "dtype") and member.shape:
            found[name] = member

    group.visititems(visit)
    return found
