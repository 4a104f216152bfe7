"""HDF5 files and datasets, netCDF-4 among them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from posixpath import basename
from typing import Any

import numpy as np

from ...exceptions import SourceError
from ...numerics.grid import Region
from ...store.retrying import is_temporary
from ..arrays import Arrays
from ..attributes import plain
from ..chunked import ChunkedSource
from ..content import head, reason
from ..format import Format, is_url, library
from ..hdf5_parts import UNOPENED, Broken, absent_parts, broken_link, check_parts, datasets, file_at, is_hdf5
from ..source import Source

# attributes: what HDF5 and netCDF-4 write for themselves
HDF5_OWN = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")

NETCDF_3 = (
    " is netCDF-3 (classic), which is not HDF5: turn it into netCDF-4 with `nccopy -k nc4 {path} NEW.nc`, or open it "
    "with xarray and pass a variable of it"
)


# drivers of HDF5 that leave a file which can be opened by its name alone
NAMED = ("sec2", "stdio", "direct", "core")


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name.

    But not where it is being written, here or by another, nor where it was opened by a file object.
    """

    def __init__(self, dataset: Any) -> None:
        check_parts(dataset)
        file = dataset.file
        self.shared = file.mode == "r" and file.driver in NAMED and not file.swmr_mode
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        attributes = {key: plain(value) for key, value in dataset.attrs.items() if key not in HDF5_OWN}
        names = tuple(map(name_of_dimension, dataset.dims))
        if not any(names) and attributes_say_scale(dataset):
            names = (basename(dataset.name),) if len(names) == 1 else names
        super().__init__(f"{self.path}::{self.name}", dataset, attributes, names if any(names) else None)
        self.notes = (*self.notes, *absent_parts(dataset))

    def fetch(self, region: Region, out: np.ndarray) -> None:
        try:
            self.array.read_direct(out, region)
        except UNOPENED as error:
            if is_temporary(error):
                raise OSError(error.errno, reason(error), self.label) from error  # type: ignore[union-attr]
            raise SourceError(
                f"{self.label} cannot be read: {reason(error)}. Copy or download its file again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.array = file_at(self.path)[self.name]
        check_parts(self.array)


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
        try:
            return datasets(self.node)
        except UNOPENED as error:
            raise SourceError(f"{self.label} cannot be listed: {reason(error)}. Copy or download it again") from error

    def at(self, name: str) -> Arrays:
        if not self.is_array and (why := broken_link(self.node, name)):
            raise SourceError(why)
        return super().at(name)

    def opened(self, array: Any) -> Source:
        if isinstance(array, Broken):
            raise SourceError(array.why)
        if getattr(array, "shape", None) is None:
            raise SourceError(f"{self.label}::{array.name} is a {type(array).__name__.lower()} without a shape")
        try:
            return Hdf5Source(array)
        except UNOPENED as error:
            raise SourceError(f"{self.label}::{array.name} cannot be opened: {reason(error)}") from error

    def described(self, name: str) -> str:
        array = self._arrays[name]
        return f"{name} (broken)" if isinstance(array, Broken) else super().described(name)


# What a file of another kind is that has a name like that of an HDF5 file, and what to do with it.
KIN = {
    b"CDF\x01": NETCDF_3,
    b"CDF\x02": NETCDF_3,
    b"CDF\x05": NETCDF_3,
    b"\x0e\x03\x13\x01": " is HDF4, which is another format than HDF5: turn it into HDF5 with `h4toh5 {path} NEW.h5`",
    b"MATLAB 5.0 MAT-file": " is a .mat file of MATLAB's version 5: save it with -v7.3, which is HDF5",
}


class Hdf5(Format):
    files = "HDF5 (netCDF-4 too)"
    arrays = "HDF5"
    suffixes = (".h5", ".hdf5", ".nc", ".nc4", ".he5", ".hdf", ".h5ad", ".loom", ".nxs", ".mat")

    def takes(self, thing: Any) -> bool:
        return is_hdf5(thing) if isinstance(thing, str) and not is_url(thing) else library(thing) == "h5py"

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if not isinstance(thing, str):
            path = thing.file.filename
            return Datasets(path, thing, f"{path}::{(thing.name or '').rstrip('/')}/")
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise SourceError(f'{thing} is an HDF5 file; reading it needs h5py: pip install "quantize[hdf5]"') from None
        return Datasets(thing, file_at(thing), f"{thing}::/")

    def refusal(self, path: str) -> str:
        start = head(path)
        kin = next((said for magic, said in KIN.items() if start.startswith(magic)), "")
        return kin.format(path=path) or super().refusal(path)


FORMAT = Hdf5()
