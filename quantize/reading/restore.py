"""The way back: a sealed variable as floats on disk."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..io import sink_of
from ..io.attributes import MISSING, PACKING, UNSIGNED, VALID, without
from ..io.sink import Outline, check_room, replacing
from ..runtime.display import reporter
from ..runtime.progress import Progress
from ..runtime.schedulers import each_unit
from .array import Int4Array, open_int4


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
        Threads; by default one for each processor.
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
    array = open_int4(store, name)
    target = Path(destination)
    sink = sink_of(target)
    dtype = sink.stored_dtype(array.dtype)
    attributes = attributes_of_restored(array)
    outline = Outline(array.shape, dtype, array.chunks, array.shards, attributes, array.dimension_names)
    sink.check(outline)
    with replacing(target, overwrite) as partial:
        check_room(target, array.size * dtype.itemsize, "the floats")
        stop, report = threading.Event(), reporter(progress)
        with sink.open(partial, outline) as put:

            def work(numbers: Iterable[int]) -> None:
                for number in numbers:
                    region = array.layout.units.region(number)
                    values = array[region].astype(dtype, copy=False)
                    if not stop.is_set():
                        put(region, values)

            each_unit(work, "restore", array.layout, workers, report, iter(range(array.layout.units.count)), stop)


def attributes_of_restored(array: Int4Array) -> dict[str, Any]:
    """What is true of the restored values of what the source said of its own."""
    found = without((*MISSING, *VALID), array.attributes)
    for name in (*PACKING, UNSIGNED):
        if isinstance(found.get(name), list) and len(found[name]) == 1:
            found[name] = found[name][0]
    if array.nan_code is not None:
        found["_FillValue"] = array.missing if array.dtype.kind in "iu" else math.nan
    return found
