"""The way back: a sealed variable, or a whole collection, as floats on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io import collection_sink_of, sink_of, writes_one
from ..io.attributes import MISSING, PACKING, UNSIGNED, VALID, without
from ..io.sink import Contents, Outline, Put, Sink, check_room, replacing
from ..numerics.dtypes import FLOATS
from ..runtime.display import reporter
from ..runtime.passes import Pass, over_chunks
from ..runtime.pool import Stop
from ..runtime.progress import InTurn, Progress
from ..runtime.scans import batch_size
from .array import Int4Array
from .dataset import Int4Dataset, KeptArray
from .opening import opened_variable, place_of, sealed


def restore(
    store: Any,
    destination: str | os.PathLike[str],
    name: str | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
) -> None:
    """Turn what is sealed back into floats on disk, one variable or a whole collection with all that it keeps.

    A variable becomes a ``.npy`` file or a Zarr v3 array. A collection becomes a NetCDF file (``.nc``), a Zarr v3 group
    or a ``.safetensors`` file, with names, attributes, dimensions and groups as far as the format has them; a variable
    may become the first and the last of them too.

    What was quantized gets the source's attributes and dimension names. Its ``_FillValue`` is NaN, or in an integer
    dtype the missing value; it has no valid bounds, which restored values may exceed by half a step. bfloat16 becomes
    float32 in all formats but ``.safetensors``, and float16 in NetCDF. All is written under another name beside the
    destination, and takes its place once it is whole.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    destination : path
        Ending in ``.npy``, ``.nc`` or ``.safetensors``, or a folder to be made.
    overwrite : bool
        Replace what is there; of folders only a Zarr array, or a group that was restored.
    workers : int, optional
        Tasks at a time; by default one for each processor or, for a Zarr array, each thread of the
        `distributed.Client` there is. Files and groups are written by threads of this process alone.
    progress : callable or True, optional
        Called with `Progress` as it goes on; True draws it.

    Raises
    ------
    FileExistsError
        If the destination is there and `overwrite` is not set.
    UnfinishedStoreError, StoreError
        As for `open_int4`.
    ValueError
        If the format cannot hold it, naming the variable, or there is not enough disk.
    ModuleNotFoundError
        If h5py is not installed, for NetCDF.
    WorkersError
        If a worker of the cluster has another version of this library, or does not find store or destination; if the
        connection to the scheduler is lost, the Client closed, or tasks are cancelled again and again.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from quantize import quantize_dataset, quantize_to_zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), f"{folder}/x.zarr")
    ...     restore(f"{folder}/x.zarr", f"{folder}/x.npy")
    ...     np.load(f"{folder}/x.npy").tolist()
    [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    >>> from quantize.io import sources_of
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = quantize_dataset({"w": np.ones((64, 64)), "ids": np.arange(3)}, f"{folder}/x.zarr")
    ...     restore(f"{folder}/x.zarr", f"{folder}/x.safetensors")
    ...     list(sources_of(f"{folder}/x.safetensors"))
    ['ids', 'w']
    """
    if "://" in str(destination):
        raise ValueError(f"{destination} is a URL, and floats are restored to disks only; `to_dask` leads elsewhere")
    target, report, place = Path(destination), reporter(progress), place_of(store, name)
    if place is not None and place.name is None:
        dataset = Int4Dataset(place.keys, sealed(place))
        arrays = {member.path: dataset[member.name] for member in dataset.manifest.members}
        restore_several(arrays, dataset.manifest.groups, target, overwrite, workers, report)
        return
    array = opened_variable(store, name)
    if writes_one(target):
        restore_one(array, sink_of(target), target, overwrite, workers, report)
    else:
        alone = array.name if place is None or place.name is None else place.manifest[place.name].path[-1]
        restore_several({(alone,): array}, {}, target, overwrite, workers, report)


def restore_one(
    array: Int4Array | KeptArray,
    sink: Sink,
    target: Path,
    overwrite: bool,
    workers: int | None,
    report: Callable[[Progress], object],
) -> None:
    if isinstance(array, KeptArray) and array.dtype not in FLOATS and array.dtype.kind not in "biuf":
        raise ValueError(
            f"{array.path}/{array.name} is kept, and of dtype {array.dtype}: only numbers are restored alone; restore "
            "the whole collection"
        )
    outline = outline_of(array, sink.stored_dtype(array.dtype))
    sink.check(outline)
    with replacing(target, overwrite) as partial:
        check_room(target, array.size * outline.dtype.itemsize, "the floats")
        with sink.open(partial, outline) as put:
            write(array, outline.dtype, put, workers, report, partial if sink.shared else None)


def restore_several(
    arrays: Mapping[tuple[str, ...], Int4Array | KeptArray],
    groups: Mapping[tuple[str, ...], Mapping[str, Any]],
    target: Path,
    overwrite: bool,
    workers: int | None,
    report: Callable[[Progress], object],
) -> None:
    sink = collection_sink_of(target)
    contents = Contents({path: outline_of(one, sink.stored_dtype(one.dtype)) for path, one in arrays.items()}, groups)
    sink.check(contents)
    with replacing(target, overwrite, collection=True) as partial:
        sizes = (one.size * contents.arrays[path].dtype.itemsize for path, one in arrays.items())
        check_room(target, sum(sizes), "the floats, and what is kept,")
        units = (one.plain.grid if isinstance(one, KeptArray) else one.layout.units for one in arrays.values())
        reported = InTurn("restore", sum(grid.count for grid in units), report)
        with sink.open(partial, contents) as putting:
            for path, array in arrays.items():
                write(array, contents.arrays[path].dtype, putting(path), workers, reported, None)
                reported.next()


def outline_of(array: Int4Array | KeptArray, dtype: np.dtype[Any]) -> Outline:
    """What a sink is told of an array whose values it gets in a dtype."""
    if isinstance(array, KeptArray):
        return Outline(array.shape, dtype, array.chunks, None, array.attributes, array.dimension_names)
    attributes = attributes_of_restored(array)
    return Outline(array.shape, dtype, array.chunks, array.shards, attributes, array.dimension_names)


def write(
    array: Int4Array | KeptArray,
    dtype: np.dtype[Any],
    put: Put,
    workers: int | None,
    report: Callable[[Progress], object],
    folder: Path | None,
) -> None:
    """Read each unit of an array and write it; workers of a cluster do so where they share a folder."""
    stop = Stop()
    if isinstance(array, KeptArray):
        plain = array.plain

        def copy(number: int) -> None:
            region = plain.grid.region(number)
            values = plain.read(region).astype(dtype, copy=False)
            if not stop.is_set():
                put(region, values)

        over_chunks("restore", plain.grid, plain.dtype, copy, lambda *_: None, workers, report, stop)
        return
    units = array.layout.units
    size = batch_size(units.count)
    reading = Pass("restore", array.variable, array.metadata, units, size, shared=folder is not None, folder=folder)
    work = Restoring(array, dtype, put, stop).unit
    reading.run(work, range(units.count), lambda *_: None, workers, report, stop)


@dataclass(frozen=True)
class Restoring:
    """Units of an array on their way into a sink; it travels to where they are read and written."""

    array: Int4Array
    dtype: np.dtype[Any]
    put: Put
    stop: Stop

    def unit(self, number: int) -> None:
        region = self.array.layout.units.region(number)
        values = self.array[region].astype(self.dtype, copy=False)
        if not self.stop.is_set():
            self.put(region, values)


def attributes_of_restored(array: Int4Array) -> dict[str, Any]:
    """What is true of the restored values of what the source said of its own."""
    found = without((*MISSING, *VALID), array.attributes)
    for name in (*PACKING, UNSIGNED):
        if isinstance(found.get(name), list) and len(found[name]) == 1:
            found[name] = found[name][0]
    if array.nan_code is not None:
        found["_FillValue"] = array.missing if array.dtype.kind in "iu" else math.nan
    return found
