"""The way back: check a sealed variable against its checksums and its source, and turn it into floats again."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .array import ChunkReader, Int4Array, open_int4
from .blocks import processors
from .execution import Task, run_tasks
from .grid import Batches, Region, packed_region, shape_of, within
from .metadata import DamagedChunkError, Layout, Metadata
from .pipeline import Counter, Progress
from .readers import runs
from .scaling import BFLOAT16, Rule, Scale
from .siblings import batch_size
from .sources import as_source
from .storage import Variable, sealed_variable
from .tasks import Work


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    chunks : int
        How many were read, those within shards each.
    damaged : tuple of (str, str)
        Place of each chunk that is missing or holds other bytes than were written, and what is wrong with it.
    differing : tuple of str
        Key of each chunk or shard whose codes are not those of the source.
    compared : bool
        Whether there was a source to compare with.
    """

    chunks: int
    damaged: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    compared: bool

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.differing


def verify(
    store: Any,
    name: str | None = None,
    source: Any = None,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Read every chunk of a sealed variable, and compare its codes with those of the source if one is given.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    source : path or array, optional
        As for `quantize_to_zarr`.
    workers : int, optional
        Threads; by default one for each processor.
    progress : callable, optional
        Called with `Progress` as it goes on.

    Returns
    -------
    Verification

    Raises
    ------
    UnfinishedStoreError
        If the variable's run has not come to its end.
    StoreError
        If there is no such variable, or its metadata is damaged or not ours.
    ValueError
        If the source has another shape or dtype.
    """
    variable, metadata = sealed_variable(store, name)
    reader = ChunkReader(variable, metadata)
    layout = metadata.layout
    work = None if source is None else compared(source, variable, metadata)
    damaged: list[tuple[str, str]] = []
    differing: list[str] = []

    def check(batch: int, numbers: list[int]) -> None:
        for number in numbers:
            region = layout.units.region(number)
            try:
                scales = scales_of(reader, region)
            except DamagedChunkError as error:
                damaged.append((reader.scales_place(region), str(error.__cause__)))
                continue
            expected = None if work is None else work.pack_unit(number, scales)[0]
            for chunk, shared in reader.grid.touched(region):
                try:
                    packed = reader.read(chunk)
                except DamagedChunkError as error:
                    damaged.append((reader.place(chunk), str(error.__cause__)))
                    continue
                held = tuple(slice(0, n) for n in shape_of(packed_region(shared)))
                if expected is not None and not np.array_equal(
                    packed[held], expected[packed_region(within(shared, region))]
                ):
                    differing.append(reader.place(chunk))

    each_unit(check, "verify", layout, workers, progress)
    return Verification(reader.grid.count, tuple(sorted(set(damaged))), tuple(sorted(differing)), source is not None)


def scales_of(reader: ChunkReader, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points for a region: one of each, or one for each index of the axis in it."""
    one, axis = reader.metadata.scale, reader.metadata.axis
    if isinstance(one, Scale):
        return np.array([one.scale]), np.array([one.zero_point])
    assert axis is not None
    return reader.parameters(region[axis])


def compared(source: Any, variable: Variable, metadata: Metadata) -> Work:
    """The work that would write this variable from a source."""
    origin, layout = as_source(source), metadata.layout
    if (origin.shape, origin.dtype) != (layout.shape, layout.dtype):
        raise ValueError(
            f"{origin.label} has shape {origin.shape} and dtype {origin.dtype}, but {variable.where} is of shape "
            f"{layout.shape} and dtype {layout.dtype}"
        )
    policy = "raise" if metadata.nan_code is None else "propagate"
    rule = Rule(metadata.scale_method, nan_policy=policy, axis=metadata.axis)
    return Work(origin, variable, layout, rule, metadata.missing)


def restore(
    store: Any,
    destination: str | os.PathLike[str],
    name: str | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Turn a sealed variable back into floats on disk: a ``.npy`` file or a Zarr v3 array.

    The Zarr array gets the source's attributes and dimension names. bfloat16 becomes float32, which both formats have.
    It is written under another name beside the destination, and takes its place once it is whole.

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
    progress : callable, optional
        Called with `Progress` as it goes on.

    Raises
    ------
    FileExistsError
        If the destination is there and `overwrite` is not set.
    UnfinishedStoreError, StoreError
        As for `open_int4`.
    ValueError
        If there is not enough disk.
    """
    array = open_int4(store, name)
    target = Path(destination)
    dtype = np.dtype(np.float32) if array.dtype == BFLOAT16 else array.dtype
    with replacing(target, overwrite) as partial:
        size, free = array.size * dtype.itemsize, shutil.disk_usage(partial.parent).free
        if size > free:
            raise ValueError(f"not enough disk for {target}: the floats take {size:,} bytes, and {free:,} are free")
        sink = npy_sink if target.suffix == ".npy" else zarr_sink
        with sink(partial, array, dtype) as put:

            def work(batch: int, numbers: list[int]) -> None:
                for number in numbers:
                    region = array.layout.units.region(number)
                    put(region, array[region].astype(dtype, copy=False))

            each_unit(work, "restore", array.layout, workers, progress)


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a path that may not, or cannot, be written.

    Raises
    ------
    FileExistsError
        If it is there and `overwrite` is not set.
    FileNotFoundError
        If its folder is not there.
    """
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target.absolute().parent} does not exist, so {target.name} cannot be made there")


@contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A path beside the target to write to, which takes the target's place if all goes well and is removed if not."""
    target = target.absolute()
    check_target(target, overwrite)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    remove(partial)
    try:
        yield partial
        if target.is_dir() or partial.is_dir():
            remove(target)
        os.replace(partial, target)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def npy_sink(path: Path, array: Int4Array, dtype: np.dtype[Any]) -> Iterator[Callable[..., None]]:
    """Writes regions into a ``.npy`` file, each run of values where it belongs. Not mapped: pages count as memory."""
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_2_0(file, header)
        offset = file.tell()
        file.truncate(offset + array.size * dtype.itemsize)

        def put(region: Any, values: np.ndarray) -> None:
            flat = np.ascontiguousarray(values).reshape(-1)
            at = 0
            for start, length in runs(array.shape, region):
                data = flat[at : at + length].view(np.uint8).data
                position = offset + start * dtype.itemsize
                while data:
                    written = os.pwrite(file.fileno(), data, position)
                    data, position = data[written:], position + written
                at += length

        yield put
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def zarr_sink(path: Path, array: Int4Array, dtype: np.dtype[Any]) -> Iterator[Callable[..., None]]:
    """Writes regions, which are whole chunks or shards, into a Zarr array."""
    import zarr

    chunks = array.chunks if array.shards else tuple(min(c, n) for c, n in zip(array.chunks, array.shape, strict=True))
    floats = zarr.create_array(
        path,
        shape=array.shape,
        dtype=dtype,
        chunks=chunks,
        shards=array.shards,
        attributes=array.attributes,
        dimension_names=array.dimension_names,
        config={"write_empty_chunks": True},
        zarr_format=3,
    )

    def put(region: Any, values: np.ndarray) -> None:
        floats[region] = values

    yield put


def each_unit(
    work: Callable[[int, list[int]], None],
    phase: str,
    layout: Layout,
    workers: int | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Call `work` for every unit on threads of this process."""
    count = Counter(phase, layout, 0, progress or (lambda event: None))
    batches = Batches(layout.units, None, batch_size(layout.units.count))
    numbered = ((batch, batches.numbers(batch)) for batch in range(batches.count))
    run_tasks(
        work,
        (Task(numbers, (batch, numbers)) for batch, numbers in numbered),
        lambda task, _: count.add(task.numbers),
        "threads",
        workers or processors(),
        threading.Event(),
    )
