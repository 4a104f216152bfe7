"""A sealed variable as a dictionary, as lines of text and as a notebook's table: one list of facts in three forms."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dask.utils import format_bytes

from ..exceptions import StoreError
from ..numerics.grid import Shape
from ..runtime.growing import is_committed
from ..runtime.tables import html_facts, lined_up
from ..storage import Variable, collection_of
from ..store.growth import JOURNAL, JOURNAL_MOST, Growth, Journal, journal_of
from ..store.metadata import Metadata
from ..store.places import APPENDED

SCALES_READ = 1_000_000  # scales of an axis: of more than that the smallest and the largest are not looked for


class Summarized(Protocol):
    """What this file needs of an `Int4Array`, which it cannot import: the array shows itself by this file."""

    variable: Variable
    path: str
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    shards: Shape | None
    axis: int | None
    blocks: Shape | None
    nan_code: int | None
    missing: float | int | None
    dimension_names: tuple[str | None, ...] | None
    metadata: Metadata

    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def nbytes_stored(self) -> int: ...
    @property
    def scale(self) -> Any: ...
    @property
    def zero_point(self) -> Any: ...


def summary(array: Summarized) -> dict[str, Any]:
    """A sealed variable as a dictionary.

    With a scale for each index of an axis, `scale` and `zero_point` are each a dictionary with the smallest and the
    largest, which are None where there are more than a million, and `max_error` is half the largest scale. `statistics`
    are those of pass 1 and of what was appended, None where there was no pass 1. `appended` and `under_way` tell what
    was appended and what is being, with what to do about it, None where there is nothing to tell.

    Examples
    --------
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.array([[0.0, 15.0], [0.0, 30.0]]), MemoryStore(), axis=0)
    >>> summary(array)["scale"]
    {'smallest': 1.0, 'largest': 2.0}
    """
    scale, zero_point = (extremes(array, name, SCALES_READ) for name in ("scale", "zero_point"))
    largest = scale["largest"] if isinstance(scale, dict) else scale
    return {
        "path": array.path,
        "name": array.name,
        "status": array.metadata.status,
        "shape": array.shape,
        "dtype": str(array.dtype),
        "chunks": array.chunks,
        "shards": array.shards,
        "scale_method": array.metadata.rule.method.name,
        "axis": array.axis,
        "blocks": array.blocks,
        "scale": scale,
        "zero_point": zero_point,
        "nan_code": array.nan_code,
        "missing": array.missing,
        "max_error": None if largest is None else largest / 2,
        "statistics": array.metadata.statistics,
        "appended": appended(array.metadata),
        "under_way": under_way(array),
        "nbytes": array.nbytes,
        "nbytes_stored": array.nbytes_stored,
    }


def appended(metadata: Metadata) -> dict[str, Any] | None:
    """How often something was appended, along which axis the last, and how many of the values saturated."""
    growth = Growth.of(metadata)
    return None if growth is None else {"times": growth.commits, "axis": growth.axis, "saturated": growth.saturated}


def under_way(array: Summarized) -> dict[str, Any] | None:
    """What is being appended, or was when it died, and from where on; None where nothing is."""
    try:
        journal = journal_of(array.variable.keys, array.variable.folder)
    except StoreError as error:
        return damaged_journal(error)
    if journal is None or is_committed(journal, array.metadata):
        return None
    named = "" if array.name == "data" else f" --name {shlex.quote(array.name)}"
    collection = collection_of(array.variable)
    store = shlex.quote(array.path) + named if collection is None else shlex.quote(collection[0].label)
    return journal_told(journal, array.shape[journal.axis], f"axis {journal.axis}", store)


def damaged_journal(error: StoreError) -> dict[str, Any]:
    return {"what": "damaged", "axis": None, "start": None, "stop": None, "said": str(error)}


def journal_told(journal: Journal, start: int, axis: str, store: str) -> dict[str, Any]:
    """What a journal says is under way at what is `start` long, and what to do; `store` as a command takes it."""
    place = f"along {axis}, behind index {start - 1:,}"
    discard = f"quantize append --discard {store}"
    if journal.discarding:
        what, said = "discard", f"an append {place}, which was given up, but not all of it is removed: {discard}"
    elif journal.stop is None:
        what, said = "writer", f"a writer {place}. If it died, start it again, or discard the rest: {discard}"
    else:
        what, said = "append", f"an append of {journal.stop - start:,} {place}"
        said += f". If it died, run it again, or discard it: {discard}"
    return {"what": what, "axis": journal.axis, "start": start, "stop": journal.stop, "said": said}


def extremes(array: Summarized, name: str, most: int) -> Any:
    """The scale or the zero point; of at most `most` scales the smallest and the largest, of more None."""
    granularity = array.metadata.granularity
    if granularity.single:
        return getattr(array, name)
    if granularity.count(array.shape) > most:
        return {"smallest": None, "largest": None}
    values: np.ndarray = getattr(array, name)
    return {"smallest": values.min().item(), "largest": values.max().item()}


def facts(array: Summarized, most: int) -> list[tuple[str, str]]:
    """Name and text of each fact. Scales of an axis are read only where there are at most `most`."""
    stored = array.nbytes_stored
    times, bits = array.nbytes / max(stored, 1), 8 * stored / array.size
    found = [
        ("shape", f"{array.shape} {array.dtype}, {format_bytes(array.nbytes)}"),
        ("chunks", f"{array.chunks}" + (f" in shards {array.shards}" if array.shards else "")),
        *scale_facts(array, most),
        *value_facts(array.metadata),
    ]
    if array.nan_code is not None:
        value = "NaN" if array.missing is None or array.dtype.kind not in "iu" else array.missing
        found.append(("missing", f"code {array.nan_code}, read back as {value}"))
    now = under_way(array)
    smaller = f"{times:.1f} times smaller, {bits:.2f} bits a value" if now is None else "with what is under way"
    found.append(("stored", f"{format_bytes(stored)}, {smaller}"))
    found += growth_facts(appended(array.metadata))
    if now is not None:
        found.append(("under way", now["said"]))
    return found


def value_facts(metadata: Metadata) -> list[tuple[str, str]]:
    """What pass 1 found, of what was appended too."""
    found = metadata.statistics
    if found is None or found["min"] is None:
        return []
    missing = f", {found['missing']:,} missing" if found["missing"] else ""
    return [("values", f"{found['count']:,} from {found['min']:.6g} to {found['max']:.6g}{missing}")]


def growth_facts(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was appended."""
    if found is None:
        return []
    times = "once" if found["times"] == 1 else f"{found['times']:,} times"
    axis = found["axis"] if isinstance(found["axis"], str) else f"axis {found['axis']}"
    beyond = f", {found['saturated']:,} values of it saturated" if found["saturated"] else ""
    return [("appended", f"{times}, the last along {axis}{beyond}")]


def scale_facts(array: Summarized, most: int) -> list[tuple[str, str]]:
    method, granularity = array.metadata.rule.method.name, array.metadata.granularity
    scale = extremes(array, "scale", most)
    if granularity.single:
        return [
            ("scale", f"{scale:.9g}, zero point {array.zero_point} ({method})"),
            ("max error", f"{scale / 2:.6g} within the range (half a step)"),
        ]
    each = f"one for each of {granularity.count(array.shape):,} {granularity.plural} ({method})"
    if scale["largest"] is None:
        return [
            ("scale", each),
            ("max error", f"half the scale of its {granularity.each.partition(' ')[0]}, within the range"),
        ]
    return [
        ("scale", f"{each}, from {scale['smallest']:.6g} to {scale['largest']:.6g}"),
        ("max error", f"{scale['largest'] / 2:.6g} within the range (half the largest step)"),
    ]


def description(array: Summarized) -> str:
    """A sealed variable for people, a fact a line."""
    return "\n".join(f"{name:<12}{text}" for name, text in facts(array, SCALES_READ))


def how_to_read(path: str, name: str) -> str:
    arguments = repr(path) if name == "data" else f"{path!r}, {name!r}"
    return f"read it back in Python:\n  from quantize import open_int4\n  array = open_int4({arguments})\n  array[:2]"


def repr_html(array: Summarized) -> str:
    """A variable as a small HTML table, without reading its data.

    Parameters
    ----------
    array : Int4Array
        As `open_int4` gives it.

    Returns
    -------
    str
        One ``<table>``, everything in it escaped, with no script and no style sheet of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize import quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> array = quantize_to_zarr(np.linspace(0, 15, 6, dtype=np.float32), MemoryStore())
    >>> "1, zero point -8" in repr_html(array)
    True
    """
    rows = facts(array, most=0)
    if any(names := array.dimension_names or ()):
        rows.append(("dimensions", ", ".join(name or "-" for name in names)))
    rows.append(("status", array.metadata.status))
    return html_facts("Int4Array", f"{array.path}/{array.name}", rows)


# Collections ----------------------------------------------------------------------------------------------------------

HEAD = ("variable", "shape", "dtype", "bits", "stored", "how")


@dataclass(frozen=True)
class Row:
    """What there is to say of one variable of a collection; `stored` are bytes."""

    name: str
    shape: Shape
    dtype: str
    nbytes: int
    stored: int
    how: str
    kept: bool

    @classmethod
    def of(cls, name: str, array: Any) -> Row:
        """That of an `Int4Array` or a `KeptArray`."""
        metadata = getattr(array, "metadata", None)
        how = "kept" if metadata is None else how_quantized(metadata, array.shape)
        return cls(name, array.shape, dtype_said(array.dtype), array.nbytes, array.nbytes_stored, how, metadata is None)

    @property
    def cells(self) -> tuple[str, ...]:
        return self.name, shape_said(self.shape), self.dtype, self.bits, format_bytes(self.stored), self.how

    @property
    def bits(self) -> str:
        """Stored bits a value; nothing where there are no values."""
        size = math.prod(self.shape)
        return f"{8 * self.stored / size:.2f}" if size else ""


def shape_said(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "()"


def dtype_said(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind == "O" else str(dtype)


def how_quantized(metadata: Metadata, shape: Shape) -> str:
    """The scale method, and who shares a scale."""
    method, granularity = metadata.rule.method.name, metadata.granularity
    many = "" if granularity.single else f", one for each of {granularity.count(shape):,} {granularity.plural}"
    missing = "" if metadata.nan_code is None else ", missing values"
    return f"{method}{many}{missing}"


def rows_of(dataset: Mapping[str, Any]) -> list[Row]:
    return [Row.of(name, dataset[name]) for name in dataset]


def dataset_summary(dataset: Any) -> dict[str, Any]:
    """A sealed collection as a dictionary: `summary` of what is quantized, and less of what is kept.

    Examples
    --------
    >>> from quantize import quantize_dataset
    >>> from zarr.storage import MemoryStore
    >>> dataset = quantize_dataset({"w": np.ones((64, 64)), "ids": np.arange(3)}, MemoryStore())
    >>> [(one["name"], one["kind"], one["nbytes"]) for one in dataset_summary(dataset)["variables"]]
    [('ids', 'kept', 24), ('w', 'int4', 32768)]
    """
    variables = [variable_summary(name, array) for name, array in dataset.items()]
    return {
        "path": dataset.path,
        "status": "sealed",
        "appended": dataset_appended(dataset),
        "under_way": dataset_under_way(dataset),
        "quantized": sum(one["kind"] == "int4" for one in variables),
        "kept": sum(one["kind"] == "kept" for one in variables),
        "nbytes": sum(one["nbytes"] for one in variables),
        "nbytes_stored": sum(one["nbytes_stored"] for one in variables),
        "variables": variables,
    }


def dataset_appended(dataset: Any) -> dict[str, Any] | None:
    """How often something was appended to a collection, along which axis the last, and how many values saturated."""
    grown = {member.name: member.source[APPENDED] for member in dataset.manifest.members if APPENDED in member.source}
    if not grown:
        return None
    name, last = max(grown.items(), key=lambda item: int(item[1]["commits"]))
    names = dataset[name].dimension_names
    axis = names[last["axis"]] if names and names[last["axis"]] is not None else last["axis"]
    return {"times": last["commits"], "axis": axis, "saturated": sum(one["saturated"] for one in grown.values())}


def dataset_under_way(dataset: Any) -> dict[str, Any] | None:
    """As `under_way`, of a collection."""
    try:
        found = dataset.keys_of_store.view(JOURNAL, most=JOURNAL_MOST)
        journal = None if found is None else Journal.from_json(bytes(found), f"{dataset.path}/{JOURNAL}")
    except (StoreError, ValueError) as error:
        return damaged_journal(StoreError(str(error)))
    done = [member.source.get(APPENDED, {}).get("run") for member in dataset.manifest.members]
    if journal is None or journal.run in done:
        return None
    axis = journal.job.get("axis", journal.axis)
    said = f"the dimension {axis}" if isinstance(axis, str) else f"axis {axis}"
    return journal_told(journal, journal.start, said, shlex.quote(dataset.path))


def variable_summary(name: str, array: Any) -> dict[str, Any]:
    """An `Int4Array` or a `KeptArray` of a collection as a dictionary."""
    if hasattr(array, "metadata"):
        return {**summary(array), "name": name, "kind": "int4"}
    return {
        "path": array.path,
        "name": name,
        "kind": "kept",
        "status": "sealed",
        "shape": array.shape,
        "dtype": dtype_said(array.dtype),
        "chunks": array.chunks,
        "attributes": array.attributes,
        "dimension_names": array.dimension_names,
        "nbytes": array.nbytes,
        "nbytes_stored": array.nbytes_stored,
    }


def dataset_description(dataset: Any) -> str:
    """A sealed collection for people: a table of its variables, and totals."""
    rows, now = rows_of(dataset), dataset_under_way(dataset)
    found = [*lined_up([HEAD, *(row.cells for row in rows)]), "", *totals(rows)]
    found += [f"{name:<12}{text}" for name, text in growth_facts(dataset_appended(dataset))]
    if now is not None:
        found.append(f"{'under way':<12}{now['said']}")
    return "\n".join(found)


def dataset_totals(dataset: Any) -> str:
    """How many variables a collection has of each kind, and what they take."""
    return "\n".join(totals(rows_of(dataset)))


def totals(rows: Sequence[Row]) -> list[str]:
    found = []
    for word, group in (
        ("quantized", [row for row in rows if not row.kept]),
        ("kept", [row for row in rows if row.kept]),
        ("in all", rows),
    ):
        nbytes, stored = sum(row.nbytes for row in group), sum(row.stored for row in group)
        times = f", {nbytes / stored:.1f} times smaller" if stored and word != "kept" else ""
        noun = "variable" if len(group) == 1 else "variables"
        found.append(f"{word:<12}{len(group):,} {noun}, {format_bytes(nbytes)} stored in {format_bytes(stored)}{times}")
    return found


def kept_description(array: Any) -> str:
    """What a collection keeps of one variable, a fact a line."""
    found = [
        ("kept", "as it was, bit for bit"),
        ("shape", f"{array.shape} {dtype_said(array.dtype)}, {format_bytes(array.nbytes)}"),
        ("chunks", str(array.chunks)),
        ("stored", format_bytes(array.nbytes_stored)),
    ]
    if any(names := array.dimension_names or ()):
        found.append(("dimensions", ", ".join(name or "-" for name in names)))
    found += [(name, str(value)) for name, value in array.attributes.items()]
    width = max(12, *(len(name) + 2 for name, _ in found))
    return "\n".join(f"{name:<{width}}{text}" for name, text in found)


def how_to_read_dataset(path: str) -> str:
    return (
        f"read it back in Python:\n  from quantize import open_int4\n  dataset = open_int4({path!r})\n  list(dataset)"
    )
