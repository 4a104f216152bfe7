"""Every stored byte held against its checksum, and the codes against those of the source."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np

from ..exceptions import DamagedChunkError, StoreError
from ..io import sources_of
from ..io.arrays import Arrays
from ..io.decoding import decoded_as
from ..io.raw import RawArray
from ..io.source import Source
from ..numerics.dtypes import TEXT
from ..numerics.grid import packed_region, shape_of, within
from ..reading.array import Int4Array
from ..reading.dataset import Int4Dataset, KeptArray
from ..reading.opening import opened_variable, place_of, sealed
from ..runtime.display import reporter
from ..runtime.giving_up import is_ahead
from ..runtime.passes import Pass, over_chunks
from ..runtime.pool import Stop
from ..runtime.progress import InTurn, Progress
from ..runtime.scans import batch_size
from ..runtime.units import Units
from ..storage import Variable, group_data, listed, sealed_variable
from ..store.chunks import ChunkReader
from ..store.growth import journal_key, journal_of
from ..store.manifest import folder_of_group
from ..store.metadata import Metadata
from ..store.plain_arrays import PlainArray
from ..store.retrying import retried
from ..store.side_arrays import SideArray
from ..store.zarr_json import check_group, consolidated, same, tagged
from .by_name import ByName
from .origins import raw_for, source_for

NAMED_DAMAGE = 1000  # damaged places: the most that are named; more are only counted
COPIED = ("shape", "data_type", "chunk_grid", "attributes")  # parts of a document that consolidated metadata copy as is
LISTED_UNITS = 1 << 20  # units: how many are looked up in a listing at a time


@dataclass(frozen=True)
class Verification:
    """The damaged and the differing chunks of a variable, as `verify` found them.

    Attributes
    ----------
    chunks : int
        Number of chunks; those within shards count each.
    damaged : tuple of (str, str)
        Place of each chunk, shard or metadata that is missing or holds other bytes than were written, and what is wrong
        with it. If there are more than a thousand, the last entry says how many more.
    differing : tuple of str
        Place of each chunk whose codes differ from those of the source; of what is kept, whose values do, and which
        attributes and names of dimensions.
    compared : bool
        Whether there was a source to compare with.
    whole : int
        Number of chunks that are neither damaged nor differing.
    """

    chunks: int
    damaged: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    compared: bool
    whole: int

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.differing

    def to_json(self) -> dict[str, Any]:
        return as_json(self)

    def __str__(self) -> str:
        return in_words(self)


class DatasetVerification(ByName[Verification]):
    """What `verify` found of a collection: a mapping of the name of each variable to its `Verification`.

    Attributes
    ----------
    chunks, whole : int
    damaged, differing, compared
        As of a `Verification`, of all variables and of the groups that they lie in.
    """

    def __init__(
        self,
        variables: Mapping[str, Verification],
        groups: Sequence[tuple[str, str]],
        folders: Mapping[str, str],
        differing_groups: Iterable[str] = (),
    ) -> None:
        super().__init__(variables)
        self.chunks = sum(one.chunks for one in variables.values())
        self.whole = sum(one.whole for one in variables.values())
        self.compared = all(one.compared for one in variables.values())
        # Two variables of one group find the same damage in what that says of them.
        damaged = dict(groups) | {
            f"{folders[name]}{place}": why for name, one in variables.items() for place, why in one.damaged
        }
        self.damaged = tuple(damaged.items())
        differing = (f"{folders[name]}{place}" for name, one in variables.items() for place in one.differing)
        self.differing = (*differing_groups, *differing)

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.differing

    def to_json(self) -> dict[str, Any]:
        return as_json(self) | {"variables": {name: one.to_json() for name, one in self.items()}}

    def __str__(self) -> str:
        return in_words(self, f" of {len(self):,} variables")

    def __repr__(self) -> str:
        return f"<DatasetVerification ok={self.ok}: {self}>"


def as_json(found: Verification | DatasetVerification) -> dict[str, Any]:
    return {
        "ok": found.ok,
        "chunks": found.chunks,
        "whole": found.whole,
        "compared": found.compared,
        "damaged": [{"key": key, "why": why} for key, why in found.damaged],
        "differing": list(found.differing),
    }


def in_words(found: Verification | DatasetVerification, of: str = "") -> str:
    lines = [f"damaged: {key}: {why}" for key, why in found.damaged]
    lines += [f"not what the source gives: {key}" for key in found.differing]
    as_source = ", with the codes of the source" if found.compared else ""
    return "\n".join([*lines, f"{found.whole:,} of {found.chunks:,} chunks{of} are whole{as_source}"])


@overload
def verify(
    store: Any,
    name: str,
    source: Any = None,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
) -> Verification: ...


@overload
def verify(
    store: Any,
    name: None = None,
    source: Any = None,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
) -> Verification | DatasetVerification: ...


def verify(
    store: Any,
    name: str | None = None,
    source: Any = None,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
) -> Verification | DatasetVerification:
    """Read all that is stored of a sealed variable, and compare its codes with those of the source if one is given.

    Of a collection, without a name, that of all its variables: those too that are kept, which must be equal to the
    source's, bit for bit, with attributes and names of dimensions, and the attributes of its groups. Where a source has
    neither, as NumPy arrays have not, values alone are compared.

    Parameters
    ----------
    store, name
        As for `open_int4`.
    source : path, array, dataset, group or mapping, optional
        As for `quantize_to_zarr` or, of a collection, `quantize_dataset`.
    workers : int, optional
        Tasks at a time; by default one for each processor, or each thread of the `distributed.Client` there is. What is
        kept is read by threads of this process.
    progress : callable or True, optional
        Called with `Progress` as it goes on; True draws it.

    Returns
    -------
    Verification or DatasetVerification

    Raises
    ------
    UnfinishedStoreError
        If the run has not come to its end.
    StoreError
        If there is no such variable, or its metadata is damaged or not ours.
    ValueError
        If the source has another shape or dtype, or lacks a variable.
    WorkersError
        If a worker of the cluster has another version of this library, or does not find store or source; if the
        connection to the scheduler is lost, the Client closed, or tasks are cancelled again and again.

    Examples
    --------
    >>> from quantize import quantize_dataset, quantize_to_zarr
    >>> from zarr.storage import MemoryStore
    >>> store, values = MemoryStore(), np.linspace(0, 1, 100)
    >>> _ = quantize_to_zarr(values, store)
    >>> verify(store, source=values).ok, len(verify(store, source=values + 1).differing)
    (True, 1)
    >>> layer, checkpoint = {"w": np.ones((64, 64)), "ids": np.arange(3)}, MemoryStore()
    >>> _ = quantize_dataset(layer, checkpoint)
    >>> found = verify(checkpoint, source=layer | {"ids": np.arange(3)[::-1]})
    >>> {name: one.ok for name, one in found.items()}, found.differing
    ({'ids': False, 'w': True}, ('ids/c/0',))
    """
    report = reporter(progress)
    place = place_of(store, name)
    if place is not None and place.name is None:
        return verify_dataset(Int4Dataset(place.keys, sealed(place)), source, workers, report)
    if place is not None and isinstance(array := opened_variable(store, name), KeptArray):
        raw = None if source is None else raw_for(source, array)
        return verify_kept(array, raw, workers, report)
    variable, metadata = sealed_variable(store, name)
    own = variable.name if place is None else place.name
    origin = None if source is None else source_for(source, own or variable.name)
    return verify_variable(variable, metadata, origin, workers, report)


def verify_variable(
    variable: Variable,
    metadata: Metadata,
    source: Source | None,
    workers: int | None,
    report: Callable[[Progress], object],
) -> Verification:
    units = None if source is None else expected_units(source, variable, metadata)
    check = Check(Inspection(variable, metadata, units))
    check.documents()
    grid, origin = metadata.layout.units, None if units is None else units.source
    reading = Pass("verify", variable, metadata, grid, batch_size(grid.count), origin)
    stop = Stop() if units is None else units.cache.stop
    reading.run(check.inspection.unit, check.promising(), check.take, workers, report, stop)
    return check.result()


# Collections ----------------------------------------------------------------------------------------------------------


def verify_dataset(
    dataset: Int4Dataset, source: Any, workers: int | None, report: Callable[[Progress], object]
) -> DatasetVerification:
    arrays = None if source is None else sources_of(source)
    if arrays is not None:
        check_names(arrays, dataset)
    found, folders = {}, {}
    opened = dict(dataset.items())
    grids = (one.plain.grid if isinstance(one, KeptArray) else one.layout.units for one in opened.values())
    reported = InTurn("verify", sum(grid.count for grid in grids), report)
    says_something = arrays is not None and any(arrays.attributes.values())
    for name, array in opened.items():
        origin: RawArray | Source | None
        if isinstance(array, KeptArray):
            origin = None if arrays is None else arrays.raw(name)
            found[name] = verify_kept(array, origin, workers, reported)
            folders[name] = ""
        else:
            origin = None if arrays is None else arrays[name]
            found[name] = verify_variable(array.variable, array.metadata, origin, workers, reported)
            group = dataset.manifest[name].group
            folders[name] = f"{group}/" if group else ""
        says_something = says_something or describes(origin)
        reported.next()
    other = differing_groups(dataset, arrays) if arrays is not None and says_something else ()
    return DatasetVerification(found, list(damaged_groups(dataset, opened)), folders, other)


def check_names(arrays: Arrays, names: Iterable[str]) -> None:
    """Refuse, with a ValueError, a source without a variable that a store has."""
    if absent := [name for name in names if name not in arrays]:
        raise ValueError(
            f"{arrays.label} has no {listed(absent)}, which the store has: it was made from something else"
        )


def damaged_groups(dataset: Int4Dataset, arrays: Mapping[str, Int4Array | KeptArray]) -> Iterator[tuple[str, str]]:
    """What is wrong with the documents of groups, that of the collection among them: place and why."""
    keys, manifest = dataset.keys_of_store, dataset.manifest
    try:
        journal_of(keys, "")
    except StoreError as error:
        yield journal_key(""), str(error)
    for path in manifest.group_paths:
        key = "/".join(filter(None, [folder_of_group(path), "zarr.json"]))
        try:
            data = keys.get(key) if path else group_data(keys)
            if data is None:
                raise ValueError("it is missing")
            check_group(data)
            if not path and (copies := consolidated(data)) is not None:
                for name, array in arrays.items():
                    own = array.plain.document if isinstance(array, KeptArray) else array.metadata.to_json()
                    check_copy(copies, manifest[name].folder, own)
        except (StoreError, ValueError) as error:
            yield key, reason(error)


def differing_groups(dataset: Int4Dataset, arrays: Arrays) -> Iterator[str]:
    """Which attributes of which groups are not those of the source."""
    for path in sorted(dataset.groups.keys() | arrays.attributes.keys()):
        key = "/".join(filter(None, [folder_of_group(tuple(path.split("/")) if path else ()), "zarr.json"]))
        yield from differing_attributes(key, dataset.groups.get(path, {}), arrays.attributes.get(path, {}))


def differing_attributes(key: str, held: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Which attributes are not the source's, or not there, or there alone; `key` is that of the document with them."""
    one, other = tagged(dict(held)), tagged(dict(given))
    for name in sorted(one.keys() | other.keys()):
        if (name in one) != (name in other) or not same(one.get(name), other.get(name)):
            yield f"{key}: attribute {name!r}"


def describes(origin: RawArray | Source | None) -> bool:
    """Whether a source says anything of itself beside its values."""
    return origin is not None and (bool(origin.attributes) or origin.dimension_names is not None)


def verify_kept(
    array: KeptArray, raw: RawArray | None, workers: int | None, report: Callable[[Progress], object]
) -> Verification:
    """Every chunk of what is kept, and its document; with the source, whether it holds the same."""
    plain = array.plain
    if raw is not None and (raw.shape, raw.dtype) != (plain.shape, plain.dtype):
        raise ValueError(
            f"{raw.label} has shape {raw.shape} and dtype {raw.dtype}, but {array.path}/{array.name} is of shape "
            f"{plain.shape} and dtype {plain.dtype}"
        )
    damaged: dict[str, str] = {}
    differing: list[str] = []
    more = 0
    document = plain.keys.get(plain.metadata_key)
    if document != plain.document and not is_ahead(plain.keys, array.member, document):
        damaged[plain.metadata_key] = "it is missing" if document is None else "it is not what the manifest says"

    def take(number: int, found: Found) -> None:
        nonlocal more
        differing.extend(found.differing)
        for place, why in found.damaged:
            if len(damaged) < NAMED_DAMAGE:
                damaged[place] = why
            else:
                more += 1

    over_chunks("verify", plain.grid, plain.dtype, KeptChunks(plain, raw).unit, take, workers, report, Stop())
    named = sorted(damaged.items())
    wrong = len(differing) + more + len(damaged) - (plain.metadata_key in damaged)
    if more:
        named.append((f"{plain.folder}/c", f"{more:,} more are missing or damaged"))
    if raw is not None and describes(raw):
        differing.extend(differing_attributes(plain.metadata_key, array.attributes, raw.attributes))
        if array.dimension_names != raw.dimension_names:
            differing.append(f"{plain.metadata_key}: names of dimensions")
    return Verification(
        plain.grid.count, tuple(named), tuple(sorted(differing)), raw is not None, plain.grid.count - wrong
    )


@dataclass(frozen=True)
class KeptChunks:
    """Chunks of what is kept as they are read and compared."""

    plain: PlainArray
    raw: RawArray | None

    def unit(self, number: int) -> Found:
        try:
            values = self.plain.chunk_values(number)
        except DamagedChunkError as error:
            return Found(damaged=[(self.plain.key(number), reason(error))])
        if self.raw is None:
            return Found(whole=1)
        region = self.plain.grid.region(number)
        expected = retried(self.raw.read)(region)
        inside: tuple[Any, ...] = (*(slice(0, n) for n in shape_of(region)), ...)
        held = values[inside]
        return Found(whole=1) if identical(held, expected) else Found(differing=[self.plain.key(number)])


def identical(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one dtype have the same bits, or the same texts."""
    return bool(np.array_equal(one, other)) if one.dtype == TEXT else one.tobytes() == other.tobytes()


# One variable ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """How many chunks of one unit are whole, and what is wrong with the others, or with the scales: place and why."""

    whole: int = 0
    damaged: Sequence[tuple[str, str]] = ()
    differing: Sequence[str] = ()
    scales: tuple[str, str] | None = None
    more: int = 0  # that are damaged, of a shard of very many


@dataclass(frozen=True)
class Inspection:
    """Units of a variable as they are read and compared; it travels to where that is done."""

    variable: Variable
    metadata: Metadata
    expected: Units | None
    # Places, along the axes on which scales differ, of units whose scales are damaged: these are read once.
    without_scales: set[tuple[int, ...]] = field(default_factory=set)

    @functools.cached_property
    def reader(self) -> ChunkReader:
        return ChunkReader(self.variable.keys, self.variable.name, self.metadata)

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader: what it knows of the store's files is of this machine."""
        return {key: value for key, value in self.__dict__.items() if key != "reader"}

    def place_of_scales(self, number: int) -> tuple[int, ...]:
        """Where a unit lies along the axes on which scales differ."""
        units = self.metadata.layout.units
        position = units.position(number)
        return tuple(position[axis] for axis in self.metadata.granularity.fixed(units))

    def unit(self, number: int) -> Found:
        """Read the scales, the index and the chunks of one unit, and compare the codes if there is a source."""
        region = self.metadata.layout.units.region(number)
        place = self.place_of_scales(number)
        if place in self.without_scales:
            return Found()
        try:
            scales = self.reader.scales(region)
            if self.metadata.layout.shards:
                self.reader.index(number)
        except DamagedChunkError as error:
            self.without_scales.add(place)
            return Found(scales=(error.place, reason(error)))
        except ValueError as error:
            return Found(damaged=[(self.variable.chunk_key(self.metadata.layout, number), reason(error))])
        expected = None if self.expected is None else self.expected.pack(number, scales)[0]
        whole, more = 0, 0
        damaged: list[tuple[str, str]] = []
        differing: list[str] = []
        for chunk, shared in self.reader.grid.touched(region):
            try:
                packed = self.reader.read(chunk)
            except DamagedChunkError as error:
                if len(damaged) < NAMED_DAMAGE:
                    damaged.append((error.place, reason(error)))
                else:
                    more += 1
                continue
            held = packed[tuple(slice(0, n) for n in shape_of(packed_region(shared)))]
            if shared[-1].stop % 2:  # behind an odd end there may be a code of what is being appended
                held = held.copy()
                held[..., -1] &= 15
            if expected is None or np.array_equal(held, expected[packed_region(within(shared, region))]):
                whole += 1
            else:
                differing.append(self.reader.place(chunk))
        return Found(whole, damaged, differing, more=more)


def reason(error: Exception) -> str:
    return str(error.__cause__ or error)


class Check:
    """One run of `verify`: what it has found so far, of damaged places at most `NAMED_DAMAGE` by name."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection, self.variable, self.metadata = inspection, inspection.variable, inspection.metadata
        self.layout, self.reader = inspection.metadata.layout, inspection.reader
        self.damaged: dict[str, str] = {}
        self.more = 0
        self.whole = 0
        self.differing: list[str] = []
        self.scales: set[str] = set()  # places of scales that are damaged

    def result(self) -> Verification:
        """What was found.

        Raises
        ------
        StoreError
            If the variable has been written anew meanwhile.
        """
        if not self.reader.stands():
            raise StoreError(f"{self.variable.where} was written anew while it was verified; verify it again")
        damaged = sorted(self.damaged.items())
        if self.more:
            damaged.append((f"{self.variable.folder}/c", f"{self.more:,} more are missing or damaged"))
        compared = self.inspection.expected is not None
        return Verification(self.reader.grid.count, tuple(damaged), tuple(sorted(self.differing)), compared, self.whole)

    def take(self, number: int, found: Found) -> None:
        """Add what was found of a unit."""
        self.whole += found.whole
        self.more += found.more
        self.differing += found.differing
        for place, why in found.damaged:
            self.damage(place, why)
        if found.scales is not None and found.scales[0] not in self.scales:  # which other units have too
            self.scales.add(found.scales[0])
            self.damage(*found.scales)

    def damage(self, place: str, why: str) -> None:
        if place in self.damaged or len(self.damaged) < NAMED_DAMAGE:
            self.damaged[place] = why
        else:
            self.more += 1

    def documents(self) -> None:
        """Check the metadata of the group, and of the scales of an axis; those of the variable have been read.

        And the journal of what is being appended, where there is one.
        """
        self.document("zarr.json", self.check_group)
        try:
            journal_of(self.variable.keys, self.variable.folder)
        except StoreError as error:
            self.damage(journal_key(self.variable.folder), str(error))
        for array in self.reader.scale_store.arrays:
            self.document(array.metadata_key, functools.partial(self.check_scales, array))

    def check_scales(self, array: SideArray, data: bytes) -> None:
        """Refuse what is not the metadata of an array of scales, which is longer where something is being appended."""
        try:
            array.check_document(data)
        except ValueError:
            longer = self.grows()
            array.check_document(self.variable.keys.get(array.metadata_key) or data, longer)

    def grows(self) -> bool:
        """Whether something is being appended, or was since the metadata were read."""
        under_way = self.variable.keys.get(journal_key(self.variable.folder)) is not None
        return under_way or not self.reader.is_own(self.reader.current())

    def check_group(self, data: bytes) -> None:
        """Refuse what is not the metadata of a group, and what it says once more of the variable if it is not so."""
        check_group(data)
        copies = consolidated(data)
        if copies is None:
            return
        documents = {self.variable.folder: self.metadata.to_json()}
        if self.metadata.version == 1:  # later what belongs to a variable lies where Zarr looks for no arrays
            documents |= {array.name: array.document() for array in self.reader.scale_store.arrays}
        for name, own in documents.items():
            check_copy(copies, name, own)

    def document(self, key: str, check: Callable[[bytes], None]) -> None:
        try:
            data = self.variable.keys.get(key)
            if data is None:
                raise ValueError("it is missing")
            check(data)
        except (StoreError, ValueError) as error:
            self.damage(key, reason(error))

    def promising(self) -> Iterator[int]:
        """The units to read: all; but once very many are damaged, of the rest only those that a listing shows.

        A store may claim a hundred million units and hold three.
        """
        count = self.layout.units.count
        for number in range(count):
            if len(self.damaged) == NAMED_DAMAGE:
                break
            yield number
        else:
            return
        present = self.variable.present(self.layout)
        for start in range(number, count, LISTED_UNITS):
            stretch = present[start : start + LISTED_UNITS]
            there = np.flatnonzero(stretch)
            self.more += len(stretch) - len(there)
            yield from (there + start).tolist()


def check_copy(copies: Mapping[str, Any], name: str, own: bytes) -> None:
    """Refuse, with a ValueError, consolidated metadata that have an array otherwise than its own document does."""
    copy, document = copies.get(name), json.loads(own)
    if not isinstance(copy, dict) or any(not same(copy.get(part), document[part]) for part in COPIED):
        raise ValueError(
            f"its consolidated metadata do not have {name} as {name}/zarr.json does, and readers that go by them get "
            "wrong numbers: write them anew with zarr.consolidate_metadata"
        )


def expected_units(source: Source, variable: Variable, metadata: Metadata) -> Units:
    """The units that would be written into this variable from a source."""
    origin, layout = decoded_as(source, metadata.decoding), metadata.layout
    if (origin.shape, origin.dtype) != (layout.shape, layout.dtype):
        raise ValueError(
            f"{origin.label} has shape {origin.shape} and dtype {origin.dtype}, but {variable.where} is of shape "
            f"{layout.shape} and dtype {layout.dtype}"
        )
    return Units(origin.with_missing(metadata.missing), layout, metadata.rule, metadata.missing)
