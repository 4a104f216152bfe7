"""The way back: check a sealed variable against its checksums and its source, and turn it into floats again."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..io.registry import as_source
from ..io.source import runs
from ..numerics.blocks import processors
from ..numerics.grid import Region, packed_region, shape_of, within
from ..numerics.scales import BFLOAT16, Rule, Scale
from ..runtime.progress import Counter, Progress
from ..runtime.schedulers import Task, run_tasks
from ..runtime.tasks import Work
from ..storage import Variable, sealed_variable
from ..store.keys import Files
from ..store.metadata import DamagedChunkError, Layout, Metadata, StoreError
from ..store.side_arrays import Parameters, batch_size
from ..store.zarr_json import check_group, node_type
from .array import ChunkReader, Int4Array, open_int4

TOLD = 1000  # damaged places that are named
STRIDE = 1 << 20  # units that a listing is looked through for at a time


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    chunks : int
        How many there are, those within shards each.
    damaged : tuple of (str, str)
        Place of each chunk, shard or metadata that is missing or holds other bytes than were written, and what is wrong
        with it. Of more than a thousand the last entry says how many more.
    differing : tuple of str
        Place of each chunk whose codes are not those of the source.
    compared : bool
        Whether there was a source to compare with.
    whole : int
        How many chunks are neither damaged nor differing.
    """

    chunks: int
    damaged: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    compared: bool
    whole: int

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
    """Read all that is stored of a sealed variable, and compare its codes with those of the source if one is given.

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
    work = None if source is None else compared(source, variable, metadata)
    check = Check(variable, metadata, work)
    check.documents()
    each_unit(check.units, "verify", metadata.layout, workers, progress, check.promising())
    return check.result()


class Check:
    """One run of `verify`: what it has found so far, of damaged places at most `TOLD` by name."""

    def __init__(self, variable: Variable, metadata: Metadata, work: Work | None) -> None:
        self.variable, self.metadata, self.layout, self.work = variable, metadata, metadata.layout, work
        self.reader = ChunkReader(variable, metadata)
        self.damaged: dict[str, str] = {}
        self.more = 0
        self.whole: list[int] = []
        self.differing: list[str] = []
        # Indices of the axis, each the first of a unit's, whose scales are damaged.
        self.without: set[int | None] = set()
        self.lock = threading.Lock()

    def result(self) -> Verification:
        damaged = sorted(self.damaged.items())
        if self.more:
            damaged.append((f"{self.variable.name}/c", f"{self.more:,} more are missing or damaged"))
        chunks, whole = self.reader.grid.count, sum(self.whole)
        return Verification(chunks, tuple(damaged), tuple(sorted(self.differing)), self.work is not None, whole)

    def damage(self, place: str, error: Exception) -> None:
        with self.lock:
            if place in self.damaged or len(self.damaged) < TOLD:
                self.damaged[place] = str(error.__cause__ or error)
            else:
                self.more += 1

    def documents(self) -> None:
        """Check the metadata of the group, and of the scales of an axis; those of the variable have been read."""
        self.document("zarr.json", check_group)
        axis, names = self.metadata.axis, self.metadata.dimension_names
        if axis is not None:
            for array in Parameters(self.variable, self.layout, axis, names[axis] if names else None).arrays:
                self.document(array.metadata_key, array.check_document)

    def document(self, key: str, check: Callable[[bytes], None]) -> None:
        try:
            data = self.variable.files.get(key)
            if data is None:
                raise ValueError("it is missing")
            check(data)
        except (StoreError, ValueError) as error:
            self.damage(key, error)

    def promising(self) -> Iterator[int]:
        """The units to read: all; but once very many are damaged, of the rest only those that a listing shows.

        A store may claim a hundred million units and hold three.
        """
        count = self.layout.units.count
        for number in range(count):
            if len(self.damaged) == TOLD:
                break
            yield number
        else:
            return
        present = self.variable.present(self.layout)
        for start in range(number, count, STRIDE):
            stretch = present[start : start + STRIDE]
            there = np.flatnonzero(stretch)
            with self.lock:
                self.more += len(stretch) - len(there)
            yield from (there + start).tolist()

    def units(self, numbers: list[int]) -> None:
        for number in numbers:
            self.unit(number)

    def unit(self, number: int) -> None:
        """Read the scales, the index and the chunks of one unit, and compare the codes if there is a source."""
        region = self.layout.units.region(number)
        indices = None if self.metadata.axis is None else region[self.metadata.axis].start
        if indices in self.without:
            return
        try:
            scales = scales_of(self.reader, region)
            if self.layout.shards:
                self.reader.index(number)
        except DamagedChunkError as error:
            self.without.add(indices)
            self.damage(error.place, error)
            return
        except ValueError as error:
            self.damage(self.variable.chunk_key(self.layout, number), error)
            return
        expected = None if self.work is None else self.work.pack_unit(number, scales)[0]
        whole = 0
        for chunk, shared in self.reader.grid.touched(region):
            try:
                packed = self.reader.read(chunk)
            except DamagedChunkError as error:
                self.damage(error.place, error)
                continue
            held = tuple(slice(0, n) for n in shape_of(packed_region(shared)))
            if expected is None or np.array_equal(packed[held], expected[packed_region(within(shared, region))]):
                whole += 1
            else:
                self.differing.append(self.reader.place(chunk))
        self.whole.append(whole)


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
    if "://" in str(destination):
        raise ValueError(f"{destination} is a URL, and floats are restored to disks only; `to_dask` leads elsewhere")
    array = open_int4(store, name)
    target = Path(destination)
    dtype = np.dtype(np.float32) if array.dtype == BFLOAT16 else array.dtype
    with replacing(target, overwrite) as partial:
        size, free = array.size * dtype.itemsize, shutil.disk_usage(partial.parent).free
        if size > free:
            raise ValueError(f"not enough disk for {target}: the floats take {size:,} bytes, and {free:,} are free")
        sink = npy_sink if target.suffix == ".npy" else zarr_sink
        with sink(partial, array, dtype) as put:

            def work(numbers: list[int]) -> None:
                for number in numbers:
                    region = array.layout.units.region(number)
                    put(region, array[region].astype(dtype, copy=False))

            each_unit(work, "restore", array.layout, workers, progress, iter(range(array.layout.units.count)))


def check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a path that may not, or cannot, be written.

    Raises
    ------
    FileExistsError
        If it is there and `overwrite` is not set, or it is a folder with anything else than one Zarr array.
    FileNotFoundError
        If its folder is not there.
    """
    check_free(target, overwrite)
    if target.is_dir() and node_type(Files.of(target).get("zarr.json") or b"") != "array":
        raise FileExistsError(f"{target} is a folder and no Zarr array, so nothing replaces it; name another path")
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
    work: Callable[[list[int]], None],
    phase: str,
    layout: Layout,
    workers: int | None,
    progress: Callable[[Progress], None] | None,
    units: Iterator[int],
) -> None:
    """Call `work` for some units at a time on threads of this process."""
    count = Counter(phase, layout, 0, progress or (lambda event: None))
    size = batch_size(layout.units.count)
    batches = iter(lambda: list(islice(units, size)), [])
    run_tasks(
        work,
        (Task(numbers, (numbers,)) for numbers in batches),
        lambda task, _: count.add(task.numbers),
        "threads",
        workers or processors(),
        threading.Event(),
    )
