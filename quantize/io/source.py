"""What can be read: a `Source` for arrays, runs of bytes in files, chunks in Zarr and HDF5, and dask graphs.

It has a shape, a dtype, chunks where its storage has them, and what it says of itself; `pieces` cuts a region
into what it likes to read at once, and `read` reads one piece. What is read has passed the gate (`gate.py`).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ..numerics.blocks import blocks
from ..numerics.dtypes import as_missing, checked_dtype
from ..numerics.grid import Batches, Region, Shape, shape_of, shifted, within
from .attributes import PACKING, Declared, without
from .gate import accepted

PIECE_BYTES = 1 << 21  # bytes: what is read at once, so little that a processor's cache holds it until it is packed
END_VALUES = 4096  # values: so many at either end go into the digest, which tells one source from another


class Source:
    """An array to read from. Each format has a class of its own, which defines `load`, and never `read`.

    Attributes
    ----------
    shape, dtype
        Of the values; the dtype in native byte order.
    label : str
        What to call it in messages.
    chunks : tuple of int or None
        The boxes it is stored in.
    order : {"C", "F"}
        Which axis its values lie side by side along: the last, or the first.
    shared : bool
        Whether another process can read it too.
    rereads : bool
        Whether reading a value again costs what it cost first, as where values are decoded or computed. Arrays in
        memory are there, and plain files stay in the page cache.
    notes : tuple of str
        What a plan must say of it.
    held : int
        Bytes of memory that reading comes to hold once, whatever the number of tasks.
    missing : float, int or None
        The value that it declares as missing (``_FillValue`` or ``missing_value`` in its attributes), where that is
        one; `decoding.decoded` takes all that it may declare.
    masks : bool
        Whether what it gives may be masked.
    mark : int or None
        What masked integers become; masked floats become NaN. Where it is `sole`, no other value may be it.
    gated : bool
        Whether all that it gives has passed the gate once already, in smaller parts.
    attributes, dimension_names
        What else it says of itself.
    """

    chunks: Shape | None = None
    order: Literal["C", "F"] = "C"
    shared = False
    rereads = True
    notes: tuple[str, ...] = ()
    held = 0
    masks = True
    sole = False
    gated = False
    missing_said = ""  # what to add where a refusal counts missing values
    decoding: Any = None  # how its values come from the numbers that are stored, where they are decoded
    asked: dict[str, Any] | None = None  # the settings by which they are
    remembered: dict[str, Any] | None = None  # what a store remembers of that, to read the source so again
    sampled = True  # whether a look at a few of its values costs little

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("read", "accepted"):
            if name in vars(cls):
                raise TypeError(f"{cls.__name__} defines {name}, by which values are checked: define load instead")

    def __init__(
        self,
        label: str,
        shape: Any,
        dtype: Any,
        attributes: dict[str, Any] | None = None,
        dimension_names: tuple[str | None, ...] | None = None,
    ) -> None:
        self.label = label
        self.shape: Shape = tuple(int(n) for n in shape)
        self.dtype = checked_dtype(dtype)
        self.attributes = attributes or {}
        self.dimension_names = dimension_names
        if not self.shape:
            raise ValueError(f"{label} has no axes; a single number is quantized in memory, by quantize_to_int4")
        if not math.prod(self.shape):
            raise ValueError(f"{label} has shape {self.shape} and so no values to find a scale for")

    @functools.cached_property
    def missing(self) -> float | int | None:
        declared = Declared.of(without(PACKING, self.attributes), self.dtype, self.label)
        if declared.only is None or declared.dtype == self.dtype:
            return declared.only
        return declared.bits(declared.only, self.dtype)

    @functools.cached_property
    def mark(self) -> float | int | None:
        return self.missing

    def load(self, region: Region) -> Any:
        """The values of a region, as the format gives them: for `read`, which others call."""
        raise NotImplementedError

    def read(self, region: Region) -> np.ndarray:
        """The values of a region. They may lie in a buffer that this thread's next `read` uses again.

        Raises
        ------
        UndeclaredValuesError
            If they have another shape or dtype than is declared.
        RefusedValuesError
            If integers are masked, and there is no value that says so.
        """
        return self.accepted(self.load(region), region)

    def accepted(self, given: Any, region: Region) -> np.ndarray:
        """What was given for a region, once it is seen to be what the source declares; raises as `read` does."""
        mark = self.mark if self.masks and self.dtype.kind in "iu" else None
        return accepted(given, region, self.label, self.dtype, mark, self.sole and not self.gated)

    def take_mark(self, array: Any) -> None:
        """Let masked integers become the fill value of a masked array, where no missing value is declared."""
        if isinstance(array, np.ma.MaskedArray) and self.dtype.kind in "iu" and self.missing is None:
            self.missing = self.mark = as_missing(np.asarray(array.fill_value).item(), self.dtype)
            self.sole = True

    def with_missing(self, missing: float | int | None) -> Source:
        """The source for a job with this missing value, which masked integers become."""
        if not self.masks or self.dtype.kind not in "iu" or (self.sole and missing == self.mark):
            return self
        other = copy.copy(self)
        other.mark, other.sole = missing, False
        return other

    def pieces(self, region: Region) -> Iterator[Region]:
        """Regions that cover `region` once, in the order in which its values lie.

        The last axis is cut only at even distances from the region's start.
        """
        most = max(PIECE_BYTES // self.dtype.itemsize, 2)
        if self.order == "C":
            for part in blocks(shape_of(region), most):
                yield shifted(part, region)
            return
        *outer, last = region
        rows = max(most // math.prod(shape_of(tuple(outer))), 2) // 2 * 2
        for start in range(last.start, last.stop, rows):
            yield (*outer, slice(start, min(start + rows, last.stop)))

    def graph(self, region: Region) -> Any | None:
        """The values of a region as part of a dask graph; None where `read` is the way to them."""
        return None

    def memory(self, unit: Shape) -> int:
        """Bytes that one thread holds at most to read the pieces of a region of this shape."""
        smallest = 2 * math.prod(unit[:-1]) * self.dtype.itemsize if self.order == "F" else 0
        return 2 * max(PIECE_BYTES, smallest)

    def bytes_read(self, units: Batches) -> int:
        """Bytes that are read of where the values lie, if each unit is read once, in the order of its batches.

        Decoded, of what is compressed. Of values in memory, or where nobody knows how they lie, their own.
        """
        return math.prod(self.shape) * self.dtype.itemsize

    def digest(self) -> str | None:
        """Digest of the first and the last values; None where reading them is not for this process to do."""
        digest = hashlib.sha256()
        for end in (0, 1):
            values = np.ascontiguousarray(self.read(tuple(self._end(end))), self.dtype.newbyteorder("<"))
            digest.update(values.tobytes())
        return digest.hexdigest()

    def missing_value(self, asked: Any) -> float | int | None:
        """The missing value that a job goes by, if it is asked for one in this way.

        Raises
        ------
        ValueError
            If it is not "declared", None or a number that the source's dtype holds.
        """
        if isinstance(asked, str) and asked == "declared":
            return self.missing
        if asked is None:
            return None
        try:
            number = asked if isinstance(asked, int) else float(asked)
            if math.isnan(number):
                return None
            found = as_missing(number, self.dtype)
        except (TypeError, ValueError, OverflowError):
            found = None
        if found is None:
            raise ValueError(f"missing is {asked!r}, but must be 'declared', None, or a number that {self.dtype} holds")
        return found

    def _end(self, end: int) -> Iterator[slice]:
        rest = END_VALUES
        lengths = []
        for n in reversed(self.shape):
            lengths.append(max(min(n, rest), 1))
            rest //= n
        for n, length in zip(self.shape, reversed(lengths), strict=True):
            yield slice(n - length, n) if end else slice(0, length)


class Window(Source):
    """A region of a source, as a source of its own."""

    masks = False  # the source has seen to it

    def __init__(self, source: Source, region: Region) -> None:
        super().__init__(source.label, shape_of(region), source.dtype)
        self.source, self.region = source, region

    def load(self, region: Region) -> np.ndarray:
        return self.source.read(shifted(region, self.region))

    def pieces(self, region: Region) -> Iterator[Region]:
        for piece in self.source.pieces(shifted(region, self.region)):
            yield within(piece, self.region)


class Held(Source):
    """Values in memory, as the part of an array that begins at an index along an axis. No others are there to read."""

    rereads = False
    masks = False  # whoever has them has seen to it

    def __init__(self, label: str, shape: Shape, values: np.ndarray, axis: int, first: int) -> None:
        super().__init__(label, shape, values.dtype)
        self.values, self.axis, self.first = values, axis, first

    def load(self, region: Region) -> np.ndarray:
        along = region[self.axis]
        inside = slice(along.start - self.first, along.stop - self.first)
        return self.values[(*region[: self.axis], inside, *region[self.axis + 1 :])]


def bytes_of_runs(
    units: Batches, itemsize: int, more: int, gap: int = 0, row: int | None = None, order: Literal["C", "F"] = "C"
) -> int:
    """`Source.bytes_read` of an array that lies somewhere as one run of bytes, of which a unit takes several.

    Parameters
    ----------
    more : int
        Bytes that are read with each run, beside its own: of the pages in which it begins and ends, or of a buffer.
    gap : int
        So many bytes between two runs are read with them.
    row : int, optional
        But not where they would be more than so many together.

    Examples
    --------
    Columns of a matrix with rows of 4 kB, each run with a page more; the same, with what lies between them; and rows:

    >>> from quantize.numerics.grid import Grid
    >>> columns, rows = (Batches(Grid((100, 1000), box), (), 1) for box in [(100, 10), (10, 1000)])
    >>> bytes_of_runs(columns, 4, 4096), bytes_of_runs(columns, 4, 4096, gap=16384), bytes_of_runs(rows, 4, 4096)
    (41360000, 40000000, 400000)
    """
    shape, counts = units.grid.shape, units.grid.counts
    axes = list(range(len(shape)) if order == "C" else reversed(range(len(shape))))
    times, size = 1, itemsize
    while axes:
        axis = axes.pop()
        between = (shape[axis] - min(units.grid.box[axis], shape[axis])) * size
        size *= shape[axis]
        if between > gap or (between and row is not None and size > row):
            break
        times *= counts[axis]
    else:
        return times * size
    follows = next(one for one in reversed(units.axes) if counts[one] > 1)
    go_on = axis == follows and all(units.grid.box[one] == 1 for one in axes)  # where the last one ended
    runs = 0 if go_on else math.prod(shape[one] for one in axes) * counts[axis]
    return times * (math.prod(shape) * itemsize + runs * more)
