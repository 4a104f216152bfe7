"""What is read from and written to, beside our own store: sources and sinks.

`as_source` finds the `Source` for whatever the user has: a path, a URL or an array. A new format is one file in
`formats`. It may import `numerics` and `store`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .attributes import declared_missing, plain
from .formats.dask import DaskSource
from .formats.duck import GenericSource
from .formats.hdf5 import hdf5_path_source, hdf5_source
from .formats.memory import array_source
from .formats.npy import npy_source
from .formats.zarr import inside_of_store, url_source, zarr_source
from .source import Source


def as_source(source: Any) -> Source:
    """The source for a path, a URL or an array.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file's format is not known, or it holds several arrays and none is named; if there are no values.
    TypeError
        If it is nothing that can be read, or its dtype cannot be quantized.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return path_source(os.fspath(source))
    if isinstance(source, np.ndarray):
        return array_source(source)
    kind = type(source).__module__.partition(".")[0]
    if kind == "zarr":
        return zarr_source(source, str(getattr(source, "store_path", source)))
    if kind == "dask":
        return DaskSource(source)
    if kind == "h5py":
        return hdf5_source(source, source.file.filename)
    if kind == "xarray" and hasattr(source, "variable") and source.chunks is not None:
        wrapped = DaskSource(source.data)
        wrapped.dimension_names = tuple(map(str, source.dims))
        wrapped.attributes = {key: plain(value) for key, value in source.attrs.items()}
        wrapped.missing = declared_missing(wrapped.attributes, wrapped.dtype, wrapped.label)
        return wrapped
    if all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__")):
        return GenericSource(source)
    raise TypeError(
        f"source is a {type(source).__name__}, but must be a path, a NumPy, Zarr, HDF5 or dask array, or have shape, "
        "dtype and __getitem__; lists are for quantize_to_int4"
    )


def path_source(path: str) -> Source:
    if "://" in path:
        return url_source(path)
    name, _, inside = path.partition("::")
    suffix = Path(name).suffix.lower()
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name} does not exist{inside_of_store(Path(name))}")
    if not os.path.isfile(name) and not os.path.isdir(name):
        raise ValueError(f"{name} is a pipe or a device, which cannot be read twice nor from its middle: save it first")
    if suffix == ".npy":
        return npy_source(name)
    if suffix in (".h5", ".hdf5", ".nc", ".he5"):
        return hdf5_path_source(name, inside)
    if os.path.isdir(name) or suffix == ".zip":
        import zarr

        try:
            opened = zarr.open(name, mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise ValueError(f"{name} is no Zarr array or group ({error})") from error
        return zarr_source(opened, name)
    hint = ": unzip it, each array in it is a .npy file" if suffix == ".npz" else ""
    raise ValueError(f"{name} has a format that is not known{hint}; known are .npy, Zarr and HDF5 (.h5, .hdf5, .nc)")
