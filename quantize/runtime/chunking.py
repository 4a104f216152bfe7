"""How the result is cut: chunks, shards and the compressor, as the user asks or as the source suggests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..io.source import Source
from ..numerics.granularity import Granularity
from ..numerics.grid import Grid, Shape, covers
from ..numerics.names import COMPRESSORS
from ..store.codec import Compressor
from ..store.layout import Layout, check_scales

MIB = 1 << 20
TARGET_BYTES, SMALLEST_TARGET = 16 * MIB, MIB // 4  # bytes of a chunk's values, by default and where memory is short
LONGER = 2  # times: how much longer than the default ones chunks may be that hold all values of their groups
ENDLESS = 1 << 40  # indices: the length of an axis that becomes ever longer
RANGE = 4  # times: what chunks may be smaller or larger than that, where those of the source are


def chosen_layout(source: Source, granularity: Granularity, chunks: Any, shards: Any, compressors: Any) -> Layout:
    """The layout for a source and what the user asked for: chunks or shards, or both.

    Raises
    ------
    ValueError
        If chunks, shards or the compressor are not as the format has them.
    """
    shape = source.shape
    outer = None if shards is None else box(shards, shape, "shards")
    if outer is not None and chunks is None:
        cuts = (*(1,) * (len(shape) - 1), 2) if granularity.blocks is None else granularity.whole_cuts(shape)
        inner = divided(outer, source.dtype.itemsize, cuts)
    else:
        inner = box(chunks, shape, "chunks")
    layout = Layout(shape, source.dtype, inner, outer, chosen_compressor(compressors))
    check_scales(granularity, layout)
    return layout


def endless_layout(
    source: Source, axis: int, granularity: Granularity, chunks: Any, shards: Any, compressors: Any, target: int
) -> Layout:
    """The layout of an array that becomes longer along an axis, of which it has one index yet.

    The `source` has that axis `ENDLESS`. By default a chunk spans the other axes, if it is no larger than `target`.

    Raises
    ------
    ValueError
        If chunks, shards or the compressor are not as the format has them, or as long as an axis that has no end.
    """
    shape, itemsize = source.shape, source.dtype.itemsize
    if granularity.blocks is not None and granularity.length(axis) is None:
        raise ValueError(
            f"{granularity.label} span axis {axis}, which has no end: give blocks a length there, or take axis="
        )
    outer = None if shards is None else box(shards, shape, "shards")
    if outer is not None and axis == len(shape) - 1:
        raise ValueError(f"shards do not go with axis {axis} growing, in whose bytes two indices lie: leave them out")
    if chunks is not None:
        inner = box(chunks, shape, "chunks")
    elif outer is not None:
        cuts = tuple(
            cut if along == axis else whole
            for along, (cut, whole) in enumerate(
                zip(granularity.cuts(shape), granularity.whole_cuts(shape), strict=True)
            )
        )
        inner = divided(outer, itemsize, (*(1,) * (len(shape) - 1), 2) if granularity.blocks is None else cuts)
    else:
        inner = endless_chunks(source, axis, granularity, target)
    unit = outer or inner
    if unit[axis] >= ENDLESS:
        raise ValueError(f"chunks or shards have the length -1 along axis {axis}, which has no end: give a number")
    compressor = chosen_compressor(compressors)
    longer, one = (tuple(n if along == axis else m for along, m in enumerate(shape)) for n in (2 * unit[axis] + 1, 1))
    check_scales(granularity, Layout(longer, source.dtype, inner, outer, compressor))
    return Layout(one, source.dtype, inner, outer, compressor, grows=axis)


def endless_chunks(source: Source, axis: int, granularity: Granularity, target: int) -> Shape:
    """Boxes near the target size of whole blocks, which span the axes that have an end as far as they can.

    >>> from quantize.io.source import Source
    >>> from quantize.numerics.granularity import PerBlock
    >>> endless_chunks(Source("x", (ENDLESS, 768), "f4"), 0, PerBlock((32, 1)), 1 << 24)
    (5440, 768)
    """
    shape, step = source.shape, granularity.cuts(source.shape)[axis]
    values = max(target // source.dtype.itemsize, 1)
    others = list(c_order_block((*shape[:axis], *shape[axis + 1 :]), 1, max(values // step, 1)))
    length = max(values // math.prod(others) // step, 1) * step
    found = even((*others[:axis], length, *others[axis:]), shape)
    return found if granularity.blocks is None else next(with_whole_blocks(found, source, granularity))


def box(value: Any, shape: Shape, what: str) -> Shape:
    """Lengths for each axis from a number or a sequence; -1 is the whole axis.

    >>> box((100, -1), (1000, 64), "chunks")
    (100, 64)
    """
    try:
        parts = [int(value)] * len(shape) if isinstance(value, int | np.integer) else [int(part) for part in value]
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}, but must be lengths for each axis, such as (1000, -1)") from None
    if len(parts) != len(shape) or any(part == 0 or part < -1 for part in parts):
        raise ValueError(
            f"{what} is {value!r}, but must have a length for each axis of {shape}: above 0, or -1 for the whole axis"
        )
    return tuple(n if part == -1 else part for part, n in zip(parts, shape, strict=True))


def default_chunks(source: Source, target: int = TARGET_BYTES, shape: Shape | None = None) -> Shape:
    """The source's own chunks where they hold 4 to 64 MiB, else boxes near 16 MiB; with another `target` in proportion.

    Those are whole multiples of smaller chunks, and C-order blocks of larger ones or of a source without any. Along the
    packed axis they are even, or the whole axis. Within a `shape` they are no longer than that along any axis.
    """
    shape, itemsize = shape or source.shape, source.dtype.itemsize
    chunks = source.chunks
    if chunks is None:
        if source.order == "F":
            return fortran_blocks(shape, itemsize, target)
        return even(c_order_block(shape, itemsize, target), shape)
    chunks = tuple(min(length, n) for length, n in zip(chunks, shape, strict=True))
    size = math.prod(chunks) * itemsize
    if size > target * RANGE:
        return even(c_order_block(chunks, itemsize, target), shape)
    chunks = even(chunks, shape)
    size = math.prod(chunks) * itemsize
    if size >= target // RANGE:
        return chunks
    return even(tuple(map(min, joined(chunks, shape, itemsize, target), shape)), shape)


def joined(chunks: Shape, shape: Shape, itemsize: int, target: int = TARGET_BYTES) -> Shape:
    """A box near the target size of whole small chunks side by side.

    >>> joined((64, 64), (1000, 2000), 4, 1 << 20)
    (128, 2048)
    """
    grown = list(chunks)
    for axis in reversed(range(len(shape))):
        times = max(target // (math.prod(grown) * itemsize), 1)
        grown[axis] *= min(times, max(-(-shape[axis] // grown[axis]), 1))
    return tuple(grown)


def spanning(source: Source, granularity: Granularity, target: int = TARGET_BYTES) -> Shape:
    """The default chunks; where scales differ along an axis, ones that hold all values of their groups.

    Then one read gives scales and codes. But a store is written once and read often, and what one index of an axis
    reads grows with the chunks' length along it: so they are at most twice as long as the default ones along the
    others, and cut along the axes on which scales differ, to be near the target size.
    """
    shape, itemsize, cuts = source.shape, source.dtype.itemsize, granularity.cuts(source.shape)
    chunks = default_chunks(source, target)
    fixed = granularity.fixed(Grid(shape, shape))
    lengths = [chunks[axis] if axis in fixed else n for axis, n in enumerate(shape)]
    if granularity.single or any(length > LONGER * usual for length, usual in zip(lengths, chunks, strict=True)):
        return chunks
    most = max(target, math.prod(chunks) * itemsize)
    for axis in fixed:
        one = math.prod(lengths) // lengths[axis] * itemsize
        if lengths[axis] * one > most:
            step = min(source.chunks[axis], shape[axis]) if source.chunks else cuts[axis]
            lengths[axis] = max(most // one // step * step, step)
    uncut = all(length % cut == 0 or length >= n for length, cut, n in zip(lengths, cuts, shape, strict=True))
    return tuple(lengths) if uncut and math.prod(lengths) * itemsize <= target * RANGE else chunks


def instead(source: Source, granularity: Granularity, target: int = TARGET_BYTES) -> Iterator[Shape]:
    """Chunks to take where those of `spanning` would read the source too often, the most usual first.

    They are the default ones; the source's own, if those are parts of them; and ones that are ever shorter along the
    axes on which scales differ, as the statistics and histograms of fewer scales take less memory.
    """
    shape = source.shape
    yield default_chunks(source, target)
    if source.chunks is not None:
        own = tuple(map(min, source.chunks, shape))
        if math.prod(own) * source.dtype.itemsize > target * RANGE:
            yield even(own, shape)
    axes, steps = granularity.fixed(Grid(shape, shape)), source.chunks or (2,) * len(shape)
    most, before = list(shape), None
    while most != before:
        before = most.copy()
        for axis in axes:
            most[axis] = min(most[axis], -(-most[axis] // 2 // steps[axis]) * steps[axis])
        yield even(default_chunks(source, target, tuple(most)), shape)


def with_whole_blocks(chunks: Shape, source: Source, granularity: Granularity) -> Iterator[Shape]:
    """Chunks near these that hold whole blocks: such that are whole chunks of the source too, and any.

    Where they are much larger than these, for blocks are long, ones that are shorter along the first axes come before.

    >>> from quantize.io import as_source
    >>> from quantize.numerics.granularity import PerBlock
    >>> list(with_whole_blocks((100, 300), as_source(np.zeros((1000, 300))), PerBlock((32, -1))))
    [(96, 300)]
    """
    shape, cuts = source.shape, granularity.whole_cuts(source.shape)
    steps = [cuts]
    if source.chunks is not None:
        steps.insert(0, tuple(map(math.lcm, cuts, source.chunks)))
    for step in steps:
        near = [
            n if length >= n or cut >= n else min(max(length // cut, 1) * cut, n)
            for length, cut, n in zip(chunks, step, shape, strict=True)
        ]
        short, most = near.copy(), RANGE * math.prod(chunks)
        for axis, cut in enumerate(step):
            if math.prod(short) > most:
                others = math.prod(short) // short[axis]
                short[axis] = min(max(most // others // cut, 1) * cut, shape[axis])
        yield from dict.fromkeys([tuple(short), tuple(near)])


def c_order_block(shape: Shape, itemsize: int, target: int) -> Shape:
    """A box near the target size that is whole in the last axes, so that its values lie side by side."""
    lengths = []
    room = max(target // itemsize, 2)
    for n in reversed(shape):
        lengths.append(max(min(n, room), 1))
        room //= lengths[-1]
    return tuple(reversed(lengths))


def fortran_blocks(shape: Shape, itemsize: int, target: int) -> Shape:
    return even(c_order_block(shape[::-1], itemsize, target)[::-1], shape)


def even(chunks: Shape, shape: Shape) -> Shape:
    """The same box, or one twice as long in the last axis where it would end in the middle of a byte.

    Twice as long, and not by one, so that it stays a whole multiple of a source's chunks.
    """
    if covers(shape, chunks):
        return chunks
    return (*chunks[:-1], min(2 * chunks[-1], shape[-1]))


def divided(shards: Shape, itemsize: int, cuts: Shape) -> Shape:
    """Chunks near 1 MiB that divide a shard: cut along the first axis first, which keeps rows whole.

    Along each axis they are whole multiples of its entry in `cuts`, or as long as the shard.
    """
    chunks = list(shards)
    for axis, length in enumerate(shards):
        parts = math.prod(chunks) * itemsize / MIB
        whole = [d for d in range(1, length + 1) if length % d == 0 and length // d % cuts[axis] == 0]
        chunks[axis] = length // next((d for d in whole if d >= parts), max(whole, default=1))
    return tuple(chunks)


def chosen_compressor(compressors: Any) -> Compressor:
    """The compressor for an argument: "auto", None, a name, or Zarr's own codec object or its dictionary.

    Raises
    ------
    ValueError
        If it is not one that the format allows.
    """
    if isinstance(compressors, list | tuple):
        inner = [codec for codec in map(codec_document, compressors) if codec["name"] != "crc32c"]
        if len(inner) > 1:
            raise ValueError(f"compressors has {len(inner)} entries, but the format takes one, and a crc32c of its own")
        compressors = inner[0] if inner else None
    if compressors is None or compressors == "none":
        return Compressor(None)
    if compressors == "auto":
        return Compressor()
    document = codec_document(compressors)
    return Compressor(document["name"], dict(document.get("configuration") or {}))


def codec_document(codec: Any) -> dict[str, Any]:
    if isinstance(codec, str):
        return {"name": codec}
    document = codec if isinstance(codec, dict) else codec.to_dict() if hasattr(codec, "to_dict") else None
    if not isinstance(document, dict) or "name" not in document:
        names = ", ".join(map(repr, COMPRESSORS))
        raise ValueError(f"compressors {codec!r} must be 'auto', None, {names}, or such a Zarr codec")
    return document
