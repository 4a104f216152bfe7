"""The way back: a sealed variable as floats on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io import sink_of
from ..io.attributes import MISSING, PACKING, UNSIGNED, VALID, without
from ..io.sink import Outline, Put, check_room, replacing
from ..runtime.display import reporter
from ..runtime.passes import Pass
from ..runtime.pool import Stop
from ..runtime.progress import Progress
from ..runtime.scans import batch_size
from .array import Int4Array, opened_array


def restore(
    store: Any,
    destination: str | os.PathLike[str],
    name: str | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
) -> None:
    """Turn a sealed variable back into floats on disk: a ``.npy`` file or a Zarr v3 array.

    The Zarr array gets the source's attributes and dimension names. Its ``_FillValue`` is NaN, or in an integer dtype
    the missing value; it has no valid bounds, which restored values may exceed by half a step. bfloat16 becomes
    float32, which both formats have. It is written under another name beside the destination, and takes its place once
    it is whole.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    destination : path
        Ending in ``.npy``, or a folder to be made.
    overwrite : bool
        Replace what is there.
    workers : int, optional
        Tasks at a time; by default one for each processor or, for a Zarr array, each thread of the
        `distributed.Client` there is. A ``.npy`` file is written by threads of this process alone.
    progress : callable or True, optional
        Called with `Progress` as it goes on; True draws it.

    Raises
    ------
    FileExistsError
        If the destination is there and `overwrite` is not set.
    UnfinishedStoreError, StoreError
        As for `open_int4`.
    ValueError
        If there is not enough disk.
    WorkersError
        If a worker of the cluster has another version of this library, or does not find store or destination; if the
        connection to the scheduler is lost, the Client closed, or tasks are cancelled again and again.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), f"{folder}/x.zarr")
    ...     restore(f"{folder}/x.zarr", f"{folder}/x.npy")
    ...     np.load(f"{folder}/x.npy").tolist()
    [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    """
    if "://" in str(destination):
        raise ValueError(f"{destination} is a URL, and floats are restored to disks only; `to_dask` leads elsewhere")
    array = opened_array(store, name)
    target = Path(destination)
    sink = sink_of(target)
    dtype = sink.stored_dtype(array.dtype)
    attributes = attributes_of_restored(array)
    outline = Outline(array.shape, dtype, array.chunks, array.shards, attributes, array.dimension_names)
    sink.check(outline)
    with replacing(target, overwrite) as partial:
        check_room(target, array.size * dtype.itemsize, "the floats")
        stop, units = Stop(), array.layout.units
        reading = Pass(
            "restore",
            array.variable,
            array.metadata,
            units,
            batch_size(units.count),
            shared=sink.shared,
            folder=partial,
        )
        with sink.open(partial, outline) as put:
            work = Restoring(array, dtype, put, stop).unit
            reading.run(work, range(units.count), lambda *_: None, workers, reporter(progress), stop)


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
