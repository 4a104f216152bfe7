"""Data that keep coming from a producer: batches of any length, written as they come."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any

from dask.utils import parse_timedelta

from .numerics.blocks import processors
from .numerics.names import OUTSIDE, NanPolicy, Outside, PresetName, ScaleMethod
from .runtime.outlines import Wishes
from .runtime.streaming import opened
from .store.keys import Keys


class Int4Writer:
    """Writes batches of values, one after another, into an array that grows along one axis; one writer at a time.

    A *slab* is all chunks, or shards, at one place along that axis. It is quantized and written once it is full, so
    that memory holds one slab and the batch. Readers see what is committed, and nothing else, by `open_int4` and
    `Int4Array.refresh`: whole blocks along the axis at each commit, all of it once the writer is closed.

    What the first values decide stays: scales that all share, and whether blocks keep zeros exact.

    A producer that died goes on behind `committed`: no value before it is lost, and none behind it is there. So does a
    `with` block that ends by an exception, after which nothing more is committed.

    Parameters
    ----------
    store : path, URL or Zarr store
        Where the group is, or will be made.
    shape : tuple of int or None, optional
        Of the values, with None for the axis that grows, as in ``(None, 768)``. May be left out, as all others may,
        where the variable is there: then it grows along the axis that it grew along last, or else the first.
    dtype : dtype, optional
        Of the values.
    name : str
        Of the variable in the group. One that `quantize_to_zarr` made may go on too, where its last chunk ends so that
        another can begin.
    preset, scale_method, blocks, finest, percentile, value_range, nan_policy
        As for `quantize_to_zarr`.
    axis : int, optional
        As for `quantize_to_zarr`: the axis that keeps a scale for each of its indices, and not the one that grows.
    calibrate : int, optional
        How many indices of the axis that grows choose the scales which all values along it share. They are held in
        memory until then, or the writer is closed, and committed behind that only. Where values share scales so, this
        or a `value_range` is needed.
    missing : "declared", number or None
        The number that counts as missing, beside NaN; "declared" is what `attributes` declare.
    chunks, shards, compressors
        As for `quantize_to_zarr`, with a length along the axis that grows; by default chunks near 16 MiB that span the
        other axes.
    attributes : dict, optional
        What the array says of itself.
    dimension_names : tuple of str or None, optional
        Names of its axes.
    commit_every : int or str, optional
        After how many slabs a commit comes, or after what time, as in ``"30s"``: with the next batch then. By default
        when `flush` is called, and when the writer is closed.
    outside : {"raise", "saturate"}, optional
        As for `append_to_zarr`.
    workers : int, optional
        Chunks of a slab that are written at a time; by default one for each processor.
    verify : bool
        As for `quantize_to_zarr`.
    durable : bool
        Have the disk hold all of it before a commit counts. For stores in folders.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of those above, or they do not go with one another.
    StoreError
        If another writer or append is at the variable, something else lies there, or it has other settings.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import open_int4
    >>> from zarr.storage import MemoryStore
    >>> store, rows = MemoryStore(), np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    >>> with Int4Writer(store, (None, 64), np.float32, blocks=(32, 1), chunks=(64, -1)) as writer:
    ...     writer.write(rows[:100])
    ...     writer.flush()
    ...     readers_see = open_int4(store).shape
    ...     writer.write(rows[100:])
    >>> readers_see, writer.committed, open_int4(store).shape
    ((96, 64), 1000, (1000, 64))

    A producer that goes on asks what is there:

    >>> with Int4Writer(store) as writer:
    ...     print("from row", writer.committed)
    from row 1000
    """

    def __init__(
        self,
        store: Any,
        shape: tuple[int | None, ...] | None = None,
        dtype: Any = None,
        *,
        name: str = "data",
        preset: PresetName | None = None,
        scale_method: ScaleMethod | None = None,
        axis: int | None = None,
        blocks: int | tuple[int, ...] | None = None,
        finest: float | None = None,
        percentile: float | None = None,
        value_range: tuple[float, float] | None = None,
        calibrate: int | None = None,
        missing: Any = "declared",
        nan_policy: NanPolicy | None = None,
        chunks: Any = None,
        shards: Any = None,
        compressors: Any = "auto",
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
        commit_every: int | str | None = None,
        outside: Outside | None = None,
        workers: int | None = None,
        verify: bool = False,
        durable: bool = False,
    ) -> None:
        settings = {
            "preset": preset,
            "scale_method": scale_method,
            "axis": axis,
            "blocks": blocks,
            "finest": finest,
            "percentile": percentile,
            "value_range": value_range,
            "nan_policy": nan_policy,
            "chunks": chunks,
            "shards": shards,
        }
        given = {"name": name, **{key: value for key, value in settings.items() if value is not None}}
        if missing != "declared":
            given["missing"] = missing
        if compressors != "auto":
            given["compressors"] = compressors
        for what, number in (("calibrate", calibrate), ("workers", workers)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{what} is {number!r}, but must be an integer, at least 1")
        if outside not in (None, *OUTSIDE):
            raise ValueError(f"outside is {outside!r}, but must be 'raise' or 'saturate'")
        slabs, seconds = often(commit_every)
        wishes = Wishes(outside, calibrate, slabs, seconds, workers or processors(), durable, missing is None)
        keys = replace(Keys.of(store), verify=verify)
        self._stream = opened(keys, shape, dtype, given, wishes, attributes, dimension_names)

    @property
    def committed(self) -> int:
        """How many indices of the axis are part of the array: what a producer that dies goes on behind."""
        return self._stream.start

    def write(self, batch: Any) -> None:
        """Take a batch of values: any length along the axis that grows, the others as in `shape`.

        A batch that is refused is refused as a whole: nothing of it is taken, and the writer can go on.

        Parameters
        ----------
        batch : array_like
            Of the writer's dtype, or floats of another all of whose values are of that.

        Raises
        ------
        RefusedValuesError (a ValueError)
            If it holds NaN, missing values or infinities that the settings do not allow, or with ``outside="raise"``
            values beyond the range of a scale that is there.
        ValueError, TypeError
            If it has another shape, or a dtype that is not the writer's.
        StoreError, OSError
            If another process took the variable over, or the store fails: then the writer has ended. What is
            `committed` stays, and another writer goes on behind that.
        """
        self._check()
        self._stream.write(batch)

    def flush(self) -> None:
        """Commit what is whole: all values up to the last block along the axis that grows.

        Those behind it stay in memory, or the scale of their block would be chosen without values that come later. Of a
        writer that still waits for values to choose scales by (`calibrate`) nothing is committed.

        Raises
        ------
        StoreError, OSError
            As for `write`.
        """
        self._check()
        self._stream.flush()

    def close(self) -> None:
        """Commit all that was written, and end. A variable that would have no values is removed.

        Raises
        ------
        StoreError, OSError
            As for `write`.
        """
        if not self._stream.ended:
            self._stream.close()

    def _check(self) -> None:
        if self._stream.ended:
            raise ValueError(
                f"the writer of {self._stream.variable.where} has {self._stream.ended}: open another, and go on behind "
                "its `committed`"
            )

    def __enter__(self) -> Int4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stream.end("been ended by an exception")

    def __repr__(self) -> str:
        layout, axis = self._stream.metadata.layout, self._stream.axis
        shape = ", ".join("..." if along == axis else str(n) for along, n in enumerate(layout.shape))
        where = self._stream.variable.where
        return f"<Int4Writer {where} shape=({shape}) dtype={layout.dtype} committed={self.committed}>"


def often(every: int | str | None) -> tuple[int | None, float | None]:
    """After how many slabs, or after how many seconds, a commit comes.

    >>> often(4), often("30s"), often("2m"), often(None)
    ((4, None), (None, 30.0), (None, 120.0), (None, None))
    """
    if every is None:
        return None, None
    if isinstance(every, str):
        try:
            return None, float(parse_timedelta(every))
        except (ValueError, KeyError, TypeError):
            pass
    elif isinstance(every, int) and not isinstance(every, bool) and every > 0:
        return every, None
    raise ValueError(f"commit_every is {every!r}, but must be a number of slabs, at least 1, or a time such as '30s'")
