"""HDF5 files and datasets, netCDF-4 among them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from posixpath import basename
from typing import Any

import numpy as np

from ...exceptions import SourceError
from ...numerics.dtypes import TEXT
from ...numerics.grid import Region
from ...store.retrying import is_temporary
from ..arrays import Arrays
from ..attributes import plain
from ..chunked import ChunkedSource, chunks_of
from ..content import head, reason
from ..format import Format, is_url, library, needed
from ..hdf5_parts import UNOPENED, Broken, absent_parts, broken_link, check_parts, file_at, is_hdf5, members
from ..netcdf4 import NO_COORDINATE, NO_VARIABLE, NetCdfSink
from ..raw import LEAVE_OUT, RawArray, cannot_be_kept, kept_dtype
from ..source import Source

# attributes: what HDF5 and netCDF-4 write for themselves
HDF5_OWN = (
    "CLASS",
    "NAME",
    "DIMENSION_LIST",
    "REFERENCE_LIST",
    "DIMENSION_LABELS",
    "_Netcdf4Dimid",
    "_Netcdf4Coordinates",
    "_NCProperties",
    "_nc3_strict",
)

# drivers of HDF5 that leave a file which can be opened by its name alone
NAMED = ("sec2", "stdio", "direct", "core")


class Hdf5Source(ChunkedSource):
    """An HDF5 dataset; another process opens it again by file and name.

    But not where it is being written, here or by another, nor where it was opened by a file object.
    """

    def __init__(self, dataset: Any) -> None:
        check_parts(dataset)
        self.shared = is_shared(dataset)
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        super().__init__(f"{self.path}::{self.name}", dataset, attributes_of(dataset), names_of(dataset))
        self.notes = (*self.notes, *absent_parts(dataset))

    def fetch(self, region: Region, out: np.ndarray) -> None:
        with reading(self.label):
            self.array.read_direct(out, region)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.array = file_at(self.path)[self.name]
        check_parts(self.array)


class Values:
    """The values of a region of an HDF5 dataset, of any dtype; another process opens it again by file and name."""

    def __init__(self, dataset: Any, text: bool) -> None:
        self.path, self.name = os.path.abspath(dataset.file.filename), dataset.name
        self.array, self.text = dataset, text

    def __call__(self, region: Region) -> Any:
        label = f"{self.path}::{self.name}"
        with reading(label):
            try:
                return (self.array.asstr("utf-8") if self.text else self.array)[region]
            except UnicodeDecodeError as error:
                raise cannot_be_kept(label, f"text that is no UTF-8 ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = file_at(self.path)[self.name]
        check_parts(self.array)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Errors of h5py that name what is read; those that may pass stay errors of the system."""
    try:
        yield
    except UNOPENED as error:
        if is_temporary(error):
            raise OSError(error.errno, reason(error), label) from error  # type: ignore[union-attr]
        raise SourceError(f"{label} cannot be read: {reason(error)}. Copy or download its file again") from error


# What a dataset says of itself ----------------------------------------------------------------------------------------


def is_shared(dataset: Any) -> bool:
    file = dataset.file
    return bool(file.mode == "r" and file.driver in NAMED and not file.swmr_mode)


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a dataset or a group, but those that HDF5 and netCDF-4 write for themselves.

    Raises
    ------
    SourceError
        If h5py does not read one of them.
    """
    found = {}
    for name in node.attrs:
        if name not in HDF5_OWN:
            try:
                found[name] = attribute(node.attrs[name])
            except (TypeError, ValueError, *UNOPENED) as error:
                raise SourceError(
                    f"{node.file.filename}::{node.name} has the attribute {name!r}, which cannot be read: "
                    f"{reason(error)}. Delete it in a copy of the file"
                ) from error
    return found


def attribute(value: Any) -> Any:
    """An attribute as JSON has it; what has no values is a text or a list without any."""
    import h5py

    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SO" else []
    return plain(value)


def names_of(dataset: Any) -> tuple[str | None, ...] | None:
    """The names of a dataset's dimensions; None where none has any."""
    names = tuple(map(name_of_dimension, dataset.dims)) if dataset.shape else ()
    if not any(names) and attributes_say_scale(dataset):
        names = (basename(dataset.name),) if len(names) == 1 else by_number(dataset)
    return names if any(names) else None


def by_number(dataset: Any) -> tuple[str | None, ...]:
    """The names of the dimensions of a scale of several axes, of which netCDF-4 notes the numbers."""
    numbers = [int(number) for number in np.ravel(dataset.attrs.get("_Netcdf4Coordinates", ()))]
    found: dict[int, str] = {}
    group = dataset.parent
    while len(numbers) == len(dataset.shape):
        for name, member in group.items():
            number = getattr(member, "attrs", {}).get("_Netcdf4Dimid")
            if number is not None and attributes_say_scale(member):
                found.setdefault(int(number), name)
        if group.name == "/":
            break
        group = group.parent
    return tuple(map(found.get, numbers))


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
    """The datasets of an HDF5 file or group; of dimensions of netCDF-4 only those that are variables."""

    noun = "dataset"
    nested = True

    @functools.cached_property
    def _members(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return members(self.node)
        except UNOPENED as error:
            raise SourceError(f"{self.label} cannot be listed: {reason(error)}. Copy or download it again") from error

    def listed(self) -> Mapping[str, Any]:
        return {called(path): array for path, array in self._members[0].items() if not holds_nothing(array)}

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        if self.is_array:
            return super().attributes
        return {path: attributes_of(group) for path, group in self._members[1].items()}

    def at(self, name: str) -> Arrays:
        name = name.strip("/")
        if not name or self.is_array:
            return super().at(name)
        if why := broken_link(self.node, name):
            raise SourceError(why)
        if (name not in self.node or holds_nothing(self.node[name])) and name in self:
            return type(self)(self.label, self._arrays[name], f"{self.prefix}{name}/")
        return super().at(name)

    def opened(self, array: Any) -> Source:
        with self._opening(array):
            return Hdf5Source(array)

    def opened_raw(self, array: Any) -> RawArray:
        if isinstance(array, Broken):
            raise SourceError(f"{array.why}; or {LEAVE_OUT}")
        with self._opening(array, f": {LEAVE_OUT}"):
            return raw_dataset(array)

    @contextmanager
    def _opening(self, array: Any, way: str = "") -> Iterator[None]:
        if isinstance(array, Broken):
            raise SourceError(array.why)
        label = f"{self.label}::{array.name}"
        if getattr(array, "shape", None) is None:
            raise SourceError(f"{label} is a {type(array).__name__.lower()} without a shape{way}")
        try:
            yield
        except UNOPENED as error:
            raise SourceError(f"{label} cannot be opened: {reason(error)}") from error

    def described(self, name: str) -> str:
        array = self._arrays[name]
        return f"{name} (broken)" if isinstance(array, Broken) else super().described(name)


def called(path: str) -> str:
    """The path of a dataset as netCDF-4 has it.

    >>> called("ocean/_nc4_non_coord_depth")
    'ocean/depth'
    """
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.removeprefix(NO_COORDINATE)


def holds_nothing(array: Any) -> bool:
    """Whether a dataset is there only for a dimension of netCDF-4 that is no variable."""
    if isinstance(array, Broken) or not attributes_say_scale(array):
        return False
    return str(plain(array.attrs.get("NAME", ""))).startswith(NO_VARIABLE)


def raw_dataset(dataset: Any) -> RawArray:
    """A dataset as it is stored.

    Raises
    ------
    SourceError
        If something is not there that its values come from, or they are of a type that Zarr does not have.
    """
    import h5py

    check_parts(dataset)
    label, attributes = f"{os.path.abspath(dataset.file.filename)}::{dataset.name}", attributes_of(dataset)
    stored = dataset.dtype
    text = h5py.check_string_dtype(stored)
    if h5py.check_ref_dtype(stored) is not None:
        raise cannot_be_kept(label, "references")
    if text is None and h5py.check_vlen_dtype(stored) is not None:
        raise cannot_be_kept(label, "sequences of several lengths")
    if stored.subdtype is not None:
        raise cannot_be_kept(label, "arrays as its elements")
    if (named := h5py.check_enum_dtype(stored)) is not None:  # as xarray has it
        said = {"flag_values": list(map(int, named.values())), "flag_meanings": " ".join(named)}
        attributes = {**said, **attributes}
    any_length = text is not None and text.length is None
    dtype = TEXT if any_length else kept_dtype(stored, label)
    chunks, values = chunks_of(dataset), Values(dataset, any_length)
    return RawArray(label, dataset.shape, dtype, values, attributes, names_of(dataset), chunks, is_shared(dataset))


# What a file of another kind is that has a name like that of an HDF5 file, and what to do with it.
KIN = {
    b"\x0e\x03\x13\x01": " is HDF4, which is another format than HDF5: turn it into HDF5 with `h4toh5 {path} NEW.h5`",
    b"MATLAB 5.0 MAT-file": " is a .mat file of MATLAB's version 5: save it with -v7.3, which is HDF5",
}


class Hdf5(Format):
    files = "HDF5 (netCDF-4 too)"
    arrays = "HDF5"
    collection_sink = NetCdfSink
    suffixes = (".h5", ".hdf5", ".nc", ".nc4", ".he5", ".hdf", ".h5ad", ".loom", ".nxs", ".mat")

    def takes(self, thing: Any) -> bool:
        return is_hdf5(thing) if isinstance(thing, str) and not is_url(thing) else library(thing) == "h5py"

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if not isinstance(thing, str):
            path = thing.file.filename
            return Datasets(path, thing, f"{path}::{(thing.name or '').rstrip('/')}/")
        needed("h5py", "hdf5", f"{thing} is an HDF5 file")
        return Datasets(thing, file_at(thing), f"{thing}::/")

    def refusal(self, path: str) -> str:
        start = head(path)
        kin = next((said for magic, said in KIN.items() if start.startswith(magic)), "")
        return kin.format(path=path) or super().refusal(path)


FORMAT = Hdf5()
