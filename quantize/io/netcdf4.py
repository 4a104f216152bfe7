"""netCDF-4 files, written: HDF5 with dimension scales, as https://docs.unidata.ucar.edu/netcdf-c/current has them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numerics.dtypes import TEXT
from ..numerics.grid import Region, Shape
from .sink import CollectionSink, Contents, Outline, Put, plain_float

NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"  # how NAME begins of what holds no values
NO_COORDINATE = "_nc4_non_coord_"  # before the name of a variable called as a dimension of others
OF_DTYPE = ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range", "flag_values", "flag_masks")
UNITS = {"D": "days", "h": "hours", "m": "minutes", "s": "seconds"}
UNITS |= {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = "since 1970-01-01 00:00:00"

Path = tuple[str, ...]


class NetCdfSink(CollectionSink):
    """A netCDF-4 file. Truth values, times and texts are written as xarray would, and read by it as they were."""

    suffixes = (".nc", ".nc4")
    name = "NetCDF"

    def check(self, contents: Contents) -> None:
        for path, outline in contents.arrays.items():
            name = "/".join(path)
            if outline.dtype.kind == "c":
                raise ValueError(f"{name} is of dtype {outline.dtype}, which NetCDF does not have: restore to Zarr")
        for path in (*contents.arrays, *contents.groups):
            for part in path:
                if "/" in part or part in (".", ".."):
                    raise ValueError(
                        f"{'/'.join(path)} cannot be written to NetCDF, where nothing may be called {part!r}: restore "
                        "it alone, or to a .safetensors file"
                    )

    @contextmanager
    def open(self, path: str | os.PathLike[str], contents: Contents) -> Iterator[Callable[[Path], Put]]:
        import h5py

        with h5py.File(path, "x", track_order=True) as file:
            for group in contents.all_groups:
                node = file.create_group("/".join(group), track_order=True) if group else file
                write_attributes(node, contents.groups.get(group, {}))
            dims = Dimensions(contents.arrays)
            datasets = {}
            for place, outline in contents.arrays.items():
                stored = Stored.of(outline)
                name = "/".join([*place[:-1], dims.name_of_variable(place)])
                dtype = h5py.string_dtype() if stored.dtype == TEXT else stored.dtype
                dataset = file.create_dataset(name, stored.shape, dtype, **growing(stored.shape))
                write_attributes(dataset, stored.attributes, stored.dtype)
                datasets[place] = dataset, stored
            dims.write(file, {place: dataset for place, (dataset, _) in datasets.items()})

            def putting(place: Path) -> Put:
                dataset, stored = datasets[place]

                def put(region: Region, values: np.ndarray) -> None:
                    dataset[region] = stored.encoded(values)

                return put

            yield putting
        with open(path, "rb") as written:
            os.fsync(written.fileno())


def growing(shape: Shape) -> dict[str, Any]:
    """How to make a dataset without values: of unlimited lengths, as netCDF has no others of 0."""
    if all(shape):
        return {}
    return {"maxshape": tuple(n or None for n in shape), "chunks": tuple(n or 1 for n in shape)}


@dataclass(frozen=True)
class Stored:
    """An array as netCDF has it: its dtype, and the axes and attributes that stand for what netCDF does not have."""

    dtype: np.dtype[Any]
    shape: Shape
    attributes: Mapping[str, Any]
    encoded: Callable[[np.ndarray], Any]

    @classmethod
    def of(cls, outline: Outline) -> Stored:
        dtype, shape, attributes = outline.dtype, outline.shape, dict(outline.attributes)
        if dtype.kind in "OU":
            return cls(TEXT, shape, attributes, lambda values: values.astype(object))
        if dtype.kind == "S":
            if dtype.itemsize <= 1:
                return cls(np.dtype("S1"), shape, attributes, lambda values: values)
            size = dtype.itemsize
            return cls(
                np.dtype("S1"), (*shape, size), attributes, lambda values: letters(values).reshape(*values.shape, size)
            )
        if dtype.kind == "b":
            return cls(np.dtype("i1"), shape, {"dtype": "bool"} | attributes, lambda values: values.astype("i1"))
        if dtype.kind in "mM":
            unit, step = np.datetime_data(dtype)
            if unit not in UNITS or step != 1:
                unit = "s"
            since = f" {EPOCH}" if dtype.kind == "M" else ""
            own: dict[str, Any] = {"units": f"{UNITS[unit]}{since}", "_FillValue": np.iinfo("i8").min}
            if dtype.kind == "M":
                own["calendar"] = "proleptic_gregorian"
            counted = np.dtype(f"{dtype.kind}8[{unit}]")
            return cls(np.dtype("i8"), shape, attributes | own, lambda values: values.astype(counted).view("i8"))
        stored = np.dtype(np.float32) if dtype == np.float16 else plain_float(dtype)
        return cls(stored, shape, attributes, lambda values: values.astype(stored, copy=False))


def letters(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view("S1")


# Dimensions -----------------------------------------------------------------------------------------------------------


class Dimensions:
    """The dimensions of arrays: each belongs to the group of the outermost array above that has one of its name.

    Axes without a name get one, and so do those of one array that have the same.
    """

    def __init__(self, arrays: Mapping[Path, Outline]) -> None:
        self.lengths: dict[Path, int] = {}  # of each dimension, by its group and name
        self.of: dict[Path, list[Path]] = {}  # the dimensions of each array
        for place, outline in sorted(arrays.items(), key=lambda item: (len(item[0]), item[0])):
            shape = Stored.of(outline).shape
            names = list(outline.dimension_names or [None] * len(outline.shape))
            names += [None] * (len(shape) - len(names))
            found: list[Path] = []
            for axis, (name, length) in enumerate(zip(names, shape, strict=True)):
                wanted = name if name and "/" not in name else f"{place[-1]}_axis_{axis}"
                found.append(self.dimension(place[:-1], wanted, length, found))
            self.of[place] = found

    def dimension(self, group: Path, name: str, length: int, taken: list[Path]) -> Path:
        """One that an array in a group may use beside those `taken`: that of the nearest group, or a new one."""
        own, number = name, 1
        while True:
            if own not in {other[-1] for other in taken}:
                for n in range(len(group), -1, -1):
                    if self.lengths.get((*group[:n], own)) == length:
                        return (*group[:n], own)
                if (*group, own) not in self.lengths:
                    self.lengths[*group, own] = length
                    return (*group, own)
            number += 1
            own = f"{name}_{number}"

    def is_coordinate(self, place: Path) -> bool:
        return self.of[place] == [place]

    def name_of_variable(self, place: Path) -> str:
        """What an array is called in the file: netCDF marks one that is called as a dimension of others."""
        other = place in self.lengths and not self.is_coordinate(place)
        return f"{NO_COORDINATE}{place[-1]}" if other else place[-1]

    def write(self, file: Any, datasets: Mapping[Path, Any]) -> None:
        """Make the scales, and say of each dataset which are those of its axes."""
        scales = {}
        for place, length in self.lengths.items():
            if place in datasets and self.is_coordinate(place):
                datasets[place].make_scale(place[-1])
                scales[place] = datasets[place]
            else:
                scale = file.create_dataset("/".join(place), (length,), ">f4", **growing((length,)))
                scale.make_scale(f"{NO_VARIABLE}.{length:10}")
                scales[place] = scale
        for number, scale in enumerate(scales.values()):
            scale.attrs["_Netcdf4Dimid"] = np.int32(number)
        for place, dataset in datasets.items():
            if not self.is_coordinate(place):
                for axis, dimension in enumerate(self.of[place]):
                    dataset.dims[axis].attach_scale(scales[dimension])


# Attributes -----------------------------------------------------------------------------------------------------------


def write_attributes(node: Any, attributes: Mapping[str, Any], dtype: np.dtype[Any] | None = None) -> None:
    """Write attributes of a group, or of a dataset of a dtype, of which some must be of that dtype too."""
    import h5py

    for name, value in attributes.items():
        if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
            node.attrs.create(name, list(value), dtype=h5py.string_dtype())
        elif isinstance(value, bool) or not isinstance(value, int | float | list | tuple):
            data = (value if isinstance(value, str) else json.dumps(value)).encode()
            node.attrs[name] = np.bytes_(data) if data and data.isascii() else data.decode()
        else:
            node.attrs[name] = numbers(value, dtype if name in OF_DTYPE else None)


def numbers(value: Any, dtype: np.dtype[Any] | None) -> Any:
    """Numbers as netCDF has them in an attribute, of a dtype where that holds them; others as text."""
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "iuf":
            return json.dumps(value)
        if dtype is not None and dtype.kind in "iuf":
            cast = found.astype(dtype)
            if np.array_equal(cast, found, equal_nan=dtype.kind == "f"):
                return cast
        return found
    except (ValueError, OverflowError):
        return json.dumps(value)
