"""Whatever the user has, as one readable thing: finds the `Source` for a path, a URL or an array."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..store.retrying import retried
from .source import (
    ArraySource,
    DaskSource,
    FileSource,
    GenericSource,
    Hdf5Source,
    Source,
    ZarrSource,
    declared_missing,
    plain,
)


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


def array_source(array: np.ndarray) -> Source:
    """A memory map is read from its file, if all of it lies there as one run; any other array where it is."""
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    mapped = isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap) and base.mode != "c" and base.filename
    one_run = array.flags.c_contiguous or array.flags.f_contiguous
    if not mapped or not one_run or isinstance(array, np.ma.MaskedArray):
        return ArraySource(array)
    offset = base.offset + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return FileSource(str(base.filename), offset, array.shape, array.dtype, not array.flags.c_contiguous)


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


def url_source(url: str) -> Source:
    import zarr

    from ..store.keys import Files

    try:
        opened = retried(zarr.open)(Files.of(url).store, mode="r")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} holds no Zarr array or group") from error
    return zarr_source(opened, url)


def npy_source(path: str) -> Source:
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "object" in str(error):
            raise TypeError(f"{path} holds Python objects, which cannot be quantized") from error
        raise ValueError(f"{path} is no whole .npy file: {error}") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is no whole .npy file: {error}") from error
    order = mapped.flags.f_contiguous and not mapped.flags.c_contiguous
    return FileSource(path, mapped.offset, mapped.shape, mapped.dtype, order)


def zarr_source(opened: Any, path: str) -> Source:
    if hasattr(opened, "members"):
        arrays = {name: member for name, member in opened.members(max_depth=None) if hasattr(member, "dtype")}
        return ZarrSource(only(arrays, path, "/"))
    return ZarrSource(opened)


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


def only(arrays: dict[str, Any], path: str, separator: str) -> Any:
    """The one array that a group holds."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if not arrays:
        raise ValueError(f"{path} is a group without arrays")
    found = ", ".join(f"{name} {tuple(array.shape)} {array.dtype}" for name, array in sorted(arrays.items()))
    raise ValueError(f"{path} holds several arrays: {found}. Name one, as in {path}{separator}{min(arrays)}")


def inside_of_store(path: Path) -> str:
    """What the Zarr group that a missing path would lie in holds."""
    for parent in path.parents:
        if (parent / "zarr.json").exists() or (parent / ".zgroup").exists():
            import zarr

            group = zarr.open(parent, mode="r")
            names = [name for name, _ in group.members(max_depth=None)] if hasattr(group, "members") else []
            return f"; {parent} holds {', '.join(sorted(names)) or 'nothing'}"
    return ""
