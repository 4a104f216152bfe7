"""Out of core: pass 1 finds the scale, pass 2 writes the codes, a kill in either costs only what was in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Unpack

from .exceptions import StoreError, UnfinishedStoreError
from .io import as_source, is_stream
from .io.decoding import decoded
from .numerics.blocks import processors
from .numerics.names import NanPolicy, PresetName, ScaleMethod
from .reading.array import Int4Array
from .runtime.claim import CHANGED
from .runtime.display import reporter
from .runtime.job import Job
from .runtime.outlines import Wishes
from .runtime.plan import Plan, planned
from .runtime.progress import Progress
from .runtime.settings import Settings, SettingsGiven
from .runtime.streaming import streamed
from .storage import Variable, check_begun, find
from .store.keys import Keys
from .store.metadata import Metadata
from .store.places import check_one_part


def quantize_to_zarr(
    source: Any,
    store: Any,
    *,
    name: str = "data",
    preset: PresetName | None = None,
    scale_method: ScaleMethod | None = None,
    axis: int | None = None,
    blocks: int | tuple[int, ...] | None = None,
    finest: float | None = None,
    percentile: float | None = None,
    value_range: tuple[float, float] | None = None,
    missing: Any = "declared",
    decode: bool = True,
    floats: bool = False,
    nan_policy: NanPolicy = "raise",
    chunks: Any = None,
    shards: Any = None,
    compressors: Any = "auto",
    memory: int | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[Plan | Progress], None] | bool | None = None,
) -> Int4Array:
    """Quantize an array of any size to packed int4 codes in a Zarr group. Run it again to go on where a run stopped.

    Parameters
    ----------
    source : path, URL or array
        A ``.npy`` file, a Zarr array (``store.zarr/group/name``), an HDF5 dataset (``file.h5::/name``); a NumPy, Zarr,
        HDF5 or dask array; or anything with `shape`, `dtype` and ``__getitem__``. The dtypes are those of
        `quantize_to_int4`. A list of arrays is read as one, joined along the first axis. So is a generator, or anything
        else that gives arrays one after another; its length is not known, so that one scale for all needs a
        `value_range`, nothing counts before its end, and a run that was killed begins anew.
    store : path, URL or Zarr store
        Where the group is, or will be made.
    name : str
        Of the variable in the group.
    preset : {"weights", "embeddings", "field"}, optional
        A good choice of scales for a kind of data: "mse" in blocks of 32 along the last axis, in blocks of 32 along the
        axis before it, or in tiles of 4 x 8 over both. What is given beside it wins. The store has the choice, and not
        this name.
    scale_method : {"minmax", "absmax", "percentile", "mse"}, optional
        As for `quantize_to_int4`: "minmax", unless a `preset` stands for another.
    percentile, value_range, nan_policy
        As for `quantize_to_int4`. With a `value_range` the source is read once and not twice.
    blocks : int or tuple of int, optional
        Lengths of the blocks that share a scale, as for `quantize_to_int4`: a number is the length along the last axis,
        -1 a whole axis. A chunk holds whole ones, so the source is read once.
    finest : float, optional
        The least scale of a block, as for `quantize_to_int4`.
    axis : int, optional
        The axis that keeps a scale for each of its indices. Where a chunk spans all the others, the source is read
        once; the default chunks do if that makes them at most twice as long.
    missing : "declared", number or None
        The stored number that counts as missing, beside NaN: by default all that the source declares, by
        ``_FillValue``, ``missing_value`` and valid bounds; None for none.
    decode : bool
        Take physical values: what ``scale_factor``, ``add_offset`` and ``_Unsigned`` make of the stored numbers. False
        takes these as they are.
    floats : bool
        Turn integers with missing values into floats, with NaN for these. They else come back as integers, with one of
        the missing values.
    chunks, shards : int or tuple of int, optional
        Lengths in values, -1 for a whole axis; by default the source's chunks, or ones near 16 MiB, and no shards.
    compressors : "auto", None, "zstd", "gzip", "blosc" or a Zarr codec
        "auto" is zstd at level 1. A crc32c is always added.
    memory : int or str, optional
        Bytes to stay within above the imports, such as ``"4GiB"``: fewer workers if need be. What it leaves over keeps
        chunks of pass 1 for pass 2.
    workers : int, optional
        Tasks at a time; by default one for each processor, or each thread of the `distributed.Client` there is.
    overwrite : bool
        Replace a variable of another job; nothing else in the group is touched.
    verify : bool
        Read back all that is written, and write it again where the store lost or tore it. Chunks of an earlier run are
        read too.
    durable : bool
        Have the disk hold every file and folder before the variable counts as whole, so that not even a loss of power
        then undoes a part of it. For stores in folders.
    progress : callable or True, optional
        Called in this thread with the `Plan` before work starts, then with `Progress` as it goes on. True draws it,
        in a notebook and on a terminal.

    Returns
    -------
    Int4Array

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the options do not allow. What this run made is removed,
        but where there is no pass 1 (`value_range`, some `axis`): then the store stays, unfinished and not readable.
    ValueError, TypeError, FileNotFoundError
        If an argument is not one of those above, or memory or disk will not do; nothing is written.
    StoreError
        If the destination holds something else, or another job's variable.
    DamagedChunkError (a StoreError)
        With `verify`, if the variable was whole and is so no longer.
    SourceChangedError
        If the source changed between the passes.
    WorkersError
        If a worker of the cluster has another version of this library, or does not find source or destination; if the
        connection to the scheduler is lost, the Client closed, or tasks are cancelled again and again.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.linspace(-1, 1, 31, dtype=np.float32), MemoryStore())
    >>> array
    <Int4Array memory://.../data shape=(31,) dtype=float32 chunks=(31,) scale=0.133333 zero_point=0>
    >>> bool(abs(array[:] - np.linspace(-1, 1, 31)).max() <= array.max_error * (1 + 1e-5))
    True
    """
    settings = Settings(
        name=name,
        preset=preset,
        scale_method=scale_method,
        axis=axis,
        blocks=blocks,
        finest=finest,
        percentile=percentile,
        value_range=value_range,
        missing=missing,
        decode=decode,
        floats=floats,
        nan_policy=nan_policy,
        chunks=chunks,
        shards=shards,
        compressors=compressors,
        memory=memory,
        workers=workers,
    )
    if is_stream(source):
        wishes = Wishes(workers=workers or processors(), durable=durable, report=reporter(progress))
        return Int4Array(*streamed(source, replace(Keys.of(store), verify=verify), settings, overwrite, wishes))
    job = job_of(source, store, settings, verify, progress)
    metadata = job.passes(overwrite)
    assert metadata is not None, "there are no other parts"
    return Int4Array(job.work.variable, sealed(job.work.variable, metadata, durable))


def job_of(
    source: Any,
    store: Any,
    settings: Settings,
    verify: bool,
    progress: Callable[[Plan | Progress], None] | bool | None,
    part: int = 1,
    parts: int = 1,
) -> Job:
    """The job of a source and a store, whose plan is told, or one of the `parts` of it, counted from 1."""
    origin = decoded(as_source(source), settings.decode, settings.missing, settings.floats)
    keys = Keys.of(store)
    check_one_part(settings.name)
    check_source(source, Variable(keys, settings.name))
    made, report = planned(origin, keys, settings), reporter(progress)
    report(made)
    variable = Variable(replace(keys, verify=verify), settings.name)
    return Job.of(origin, variable, settings, made, report, part, parts)


def sealed(variable: Variable, metadata: Metadata, durable: bool) -> Metadata:
    """The metadata of the variable, which is sealed if it is not yet."""
    return metadata if metadata.status == "sealed" else variable.seal(metadata, durable)


def check_source(source: Any, variable: Variable) -> None:
    """Refuse a variable as the source of itself: overwriting would delete it before it is read.

    Raises
    ------
    StoreError
        If it is that.
    """
    if isinstance(source, Int4Array) and (source.path, source.name) == (variable.keys.label, variable.name):
        raise StoreError(f"{variable.where} cannot be its own source; name another destination or another variable")


def quantize_part(
    source: Any,
    store: Any,
    part: int,
    parts: int,
    *,
    verify: bool = False,
    progress: Callable[[Plan | Progress], None] | bool | None = None,
    **settings: Unpack[SettingsGiven],
) -> bool:
    """Do one of several parts of what `quantize_to_zarr` does; `seal` makes the variable readable once all are done.

    The parts may run at the same time or one after the other, on any machines that share source and store, and each may
    die and be run again. A part's pass 2 needs the pass 1 of all: call it a second time once all have returned.

    Parameters
    ----------
    source, store, verify, progress
        As for `quantize_to_zarr`.
    part, parts : int
        Which of how many, counted from 1. What is in the store does not depend on them: the number of parts may be
        another one at the next call.
    **settings
        As for `quantize_to_zarr`, and the same for every part.

    Returns
    -------
    bool
        Whether the part is written; False if pass 1 of other parts is not done.

    Raises
    ------
    RefusedValuesError (a ValueError)
        If the data hold NaN, missing values or infinities that the settings do not allow. The store stays, unfinished
        and not readable.
    ValueError, TypeError, FileNotFoundError, StoreError, SourceChangedError
        As for `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> values, store = np.linspace(-1, 1, 30, dtype=np.float32), MemoryStore()
    >>> [quantize_part(values, store, part, 2, chunks=10) for part in (1, 2)]
    [False, True]
    >>> quantize_part(values, store, 1, 2, chunks=10)
    True
    >>> seal(store).shape
    (30,)
    """
    if not 1 <= part <= parts:
        raise ValueError(f"part is {part} of {parts}, but parts are counted from 1 to their number")
    checked = Settings.of("quantize_part", settings, "verify", "progress")
    return job_of(source, store, checked, verify, progress, part, parts).passes() is not None


def seal(store: Any, name: str | None = None, *, durable: bool = False) -> Int4Array:
    """Make a variable readable once all its chunks are there, whoever wrote them.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    durable : bool
        As for `quantize_to_zarr`.

    Returns
    -------
    Int4Array

    Raises
    ------
    UnfinishedStoreError
        If chunks are not there yet: how many, and which is the first.
    FileNotFoundError, StoreError
        As for `open_int4`; also if the source changed while it was read.

    Examples
    --------
    See `quantize_part`.
    """
    variable, metadata = find(store, name)
    if metadata.status != "sealed":
        check_begun(variable, metadata)
    if metadata.status == "scanning":
        raise UnfinishedStoreError(f"{variable.where} has no scale yet: pass 1 is not done. Run its parts again")
    if CHANGED in metadata.fingerprint:
        raise StoreError(f"{variable.where}: its source changed while it was read; remove it and begin again")
    return Int4Array(variable, sealed(variable, metadata, durable))
