"""What an HDF5 dataset needs that does not lie in it: links to it, files that it takes values from, filters.

HDF5 gives a filler for what it does not find of a virtual dataset, and skips links in listings. Here each of them is
found, or refused by name.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..exceptions import SourceError
from .content import begins, head, reason

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # at byte 0, 512, 1024, and so on
FIRST_OFFSET = 512  # bytes: the first place behind the beginning where the signature may lie
UNOPENED = (KeyError, RuntimeError, OSError)  # what h5py raises for an object that it does not find or cannot open
DEEPEST = 16  # virtual datasets at most that take values from one another

# Filters as they are registered with The HDF Group, each with the package whose import makes it known to h5py.
FILTERS = {
    307: ("bzip2", "hdf5plugin"),
    32001: ("Blosc", "hdf5plugin"),
    32004: ("LZ4", "hdf5plugin"),
    32008: ("bitshuffle", "hdf5plugin"),
    32013: ("ZFP", "hdf5plugin"),
    32015: ("Zstandard", "hdf5plugin"),
    32017: ("SZ", "hdf5plugin"),
    32018: ("FCIDECOMP", "hdf5plugin"),
    32024: ("SZ3", "hdf5plugin"),
    32026: ("Blosc2", "hdf5plugin"),
    32028: ("SPERR", "hdf5plugin"),
}


# Files ----------------------------------------------------------------------------------------------------------------


def is_hdf5(path: str) -> bool:
    """Whether a file has the signature of HDF5, at its beginning or behind a block of the user's own."""
    if not os.path.isfile(path):
        return False
    if head(path, len(SIGNATURE)) == SIGNATURE:
        return True
    offset, size = FIRST_OFFSET, os.path.getsize(path)
    while offset + len(SIGNATURE) <= size:
        if head(path, len(SIGNATURE), offset) == SIGNATURE:
            return True
        offset *= 2
    return False


def file_at(path: str) -> Any:
    """The HDF5 file at a path, open for reading.

    Raises
    ------
    SourceError
        Saying what is the matter with it, and what to do.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path} {trouble(path, error)}") from error


def trouble(path: str, error: Exception) -> str:
    """What is the matter with a file that h5py does not open, after its name."""
    if not os.path.exists(path):
        return "does not exist"
    said = reason(error)
    if "unable to lock" in said:
        return (
            "is held by another process, which writes to it: wait until it has closed the file. Where a file system "
            "has no locks, HDF5_USE_FILE_LOCKING=FALSE in the environment does without"
        )
    if "already open for" in said:
        return (
            f"is open for writing, or a program died while it wrote ({said}): close it there, or mend it with "
            f"`h5clear -s {path}`"
        )
    if match := re.search(r"eof = (\d+), sblock->base_addr = (\d+), stored_eof = (\d+)", said):
        there, base, whole = map(int, match.groups())
        return f"was cut: {there:,} of its {base + whole:,} bytes are there. Copy or download it again"
    if not is_hdf5(path):
        return f"is no HDF5 file: {begins(path)}"
    return f"cannot be opened as HDF5, since it is damaged or cut ({said}): copy or download it again"


# Links ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """What stands in a listing for a dataset that cannot be opened: a link that leads nowhere."""

    why: str


def broken_link(group: Any, name: str) -> str | None:
    """What the first broken link on the way from a group to a name needs; None where none is broken."""
    import h5py

    parts = [part for part in name.split("/") if part]
    for n in range(1, len(parts) + 1):
        path = "/".join(parts[:n])
        link = group.get(path, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.HardLink) and n < len(parts):
            continue
        try:
            group[path]
        except UNOPENED as error:
            where = f"{group.file.filename}::{(group.name or '').rstrip('/')}/{path}"
            return f"{where} {leads_nowhere(group.file.filename, link, error)}"
    return None


def leads_nowhere(path: str, link: Any, error: Exception) -> str:
    """Why a link in a file does not lead to anything, after its name."""
    import h5py

    if isinstance(link, h5py.SoftLink):
        return f"is a link to {link.path}, and there is nothing ({reason(error)})"
    if not isinstance(link, h5py.ExternalLink):
        return f"cannot be opened ({reason(error)}): the file is damaged; copy or download it again"
    what = f"is a link to {link.path} in the file {link.filename}"
    folder = os.path.dirname(os.path.abspath(path))
    found = next((place for place in (os.path.join(folder, link.filename), link.filename) if os.path.exists(place)), "")
    if not found:
        return f"{what}, which is not there: bring that file back, where the link looks for it from {folder}"
    try:
        with file_at(found):
            return f"{what}, which holds nothing of that name that can be opened ({reason(error)})"
    except SourceError as trouble_of_it:
        return f"{what}, and {trouble_of_it}"


def members(group: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every dataset under a group, by its path, and what is `Broken`; and every group, the one itself as "".

    Links to other places and files are followed. What has several names is there once, under one that is no link if it
    has such a name.
    """
    import h5py

    found: dict[str, Any] = {}
    above: dict[str, Any] = {}
    groups, links = deque([("", group)]), deque[tuple[str, Any, str]]()
    seen = {identity(group)}
    while groups or links:
        if not groups:
            take(*links.popleft(), found, groups, seen)
            continue
        prefix, inside = groups.popleft()
        above[prefix.rstrip("/")] = inside
        for name in sorted(inside):
            member = f"{prefix}{name}", inside, name
            if isinstance(inside.get(name, getlink=True), h5py.HardLink):
                take(*member, found, groups, seen)
            else:
                links.append(member)
    return found, above


def take(path: str, group: Any, name: str, found: dict[str, Any], groups: deque[Any], seen: set[Any]) -> None:
    """Put a member of a group where it belongs, unless it was there under another name."""
    import h5py

    try:
        member = group[name]
    except UNOPENED:
        found[path] = Broken(str(broken_link(group, name)))
        return
    this = identity(member)
    if this in seen:
        return
    seen.add(this)
    if isinstance(member, h5py.Group):
        groups.append((f"{path}/", member))
    elif isinstance(member, h5py.Dataset):
        found[path] = member


def identity(member: Any) -> tuple[str, int]:
    """What tells one object of HDF5 from another: its file and its place there."""
    import h5py

    return os.path.realpath(member.file.filename), h5py.h5o.get_info(member.id).addr


# What a dataset needs -------------------------------------------------------------------------------------------------


def check_parts(dataset: Any, depth: int = 0) -> None:
    """Refuse a dataset of which something is not there that its values come from.

    `depth` is the number of virtual datasets that lead to it.

    Raises
    ------
    SourceError
        Naming the file or the filter.
    """
    label = f"{dataset.file.filename}::{dataset.name}"
    check_filters(dataset, label)
    if dataset.is_virtual:
        check_virtual(dataset, label, depth + 1)
    if dataset.external:
        check_raw_files(dataset, label)


def check_filters(dataset: Any, label: str) -> None:
    from h5py import h5z

    creation = dataset.id.get_create_plist()
    for number in range(creation.get_nfilters()):
        code, _, _, said = creation.get_filter(number)
        if h5z.filter_avail(code) or (with_plugins() and h5z.filter_avail(code)):
            continue
        name, package = FILTERS.get(code, (said.decode(errors="replace") or "unknown", ""))
        remedy = (
            f"pip install {package}"
            if package
            else "install the plugin that has it, and name its folder in HDF5_PLUGIN_PATH"
        )
        raise SourceError(f"{label} is compressed by the HDF5 filter {code} ({name}), which is not installed: {remedy}")


@functools.cache
def with_plugins() -> bool:
    """Have the package hdf5plugin make its filters known to h5py; whether it is installed."""
    try:
        import_module("hdf5plugin")
    except ImportError:
        return False
    return True


def check_virtual(dataset: Any, label: str, depth: int) -> None:
    """Refuse a virtual dataset, of one of whose sources HDF5 would give the fill value."""
    import h5py

    def refusal(why: str) -> SourceError:
        return SourceError(
            f"{label} is a virtual dataset that takes values from {why}. HDF5 would give its fill value, "
            f"{dataset.fillvalue}, in their place"
        )

    def check(file: Any, name: str, inside: str, values: int) -> None:
        try:
            source = file[inside]
        except UNOPENED:
            raise refusal(f"{name}, which has no dataset {inside}") from None
        if not isinstance(source, h5py.Dataset) or not source.shape or source.size < values:
            raise refusal(f"{inside} in {name}, which is smaller than it was when the virtual dataset was made")
        check_parts(source, depth)

    if depth > DEEPEST:
        raise SourceError(f"{label} is a virtual dataset that takes values from more than {DEEPEST} others in turn")
    files = defaultdict[str, list[tuple[str, int]]](list)
    for name, inside, values in virtual_sources(dataset):
        files[name].append((inside, values))
    for name, parts in files.items():
        if name == ".":
            for part in parts:
                check(dataset.file, dataset.file.filename, *part)
            continue
        path = next(filter(os.path.isfile, places(name, dataset)), None)
        if path is None:
            folder = os.path.dirname(os.path.abspath(dataset.file.filename))
            raise refusal(f"{name}, which is not there: bring that file back, it is looked for from {folder}")
        try:
            file = file_at(path)
        except SourceError as error:
            raise refusal(f"{name}; but {error}") from error
        with file:
            for part in parts:
                check(file, name, *part)


def virtual_sources(dataset: Any) -> Iterator[tuple[str, str, int]]:
    """File, dataset and number of values of each source of a virtual dataset; those of a numbered series one by one.

    The number is 0 where the source may grow.
    """
    from h5py import h5s

    creation = dataset.id.get_create_plist()
    for number in range(creation.get_virtual_count()):
        file, inside = creation.get_virtual_filename(number), creation.get_virtual_dsetname(number)
        space = creation.get_virtual_vspace(number)
        starts, strides, counts, lengths = selected(space)
        if h5s.UNLIMITED not in (*counts, *lengths):
            yield numbered(file, 0), numbered(inside, 0), space.get_select_npoints()
        elif h5s.UNLIMITED in counts and numbered(file + inside, 0) != numbered(file + inside, 1):
            axis = counts.index(h5s.UNLIMITED)
            for block in range(max(0, -(-(dataset.shape[axis] - starts[axis]) // strides[axis]))):
                yield numbered(file, block), numbered(inside, block), math.prod(lengths)
        else:
            yield numbered(file, 0), numbered(inside, 0), 0


def numbered_series(dataset: Any) -> set[str]:
    """The names, with ``%b`` in them, of files that HDF5 counts as far as they are there."""
    creation = dataset.id.get_create_plist()
    names = {creation.get_virtual_filename(number) for number in range(creation.get_virtual_count())}
    return {name for name in names if numbered(name, 0) != numbered(name, 1)}


def numbered(name: str, number: int) -> str:
    """A name of HDF5's in which ``%b`` stands for a number, and ``%%`` for ``%``.

    >>> numbered("part-%b of 100%%.h5", 3)
    'part-3 of 100%.h5'
    """
    return re.sub("%([b%])", lambda match: str(number) if match[1] == "b" else "%", name)


def selected(space: Any) -> tuple[tuple[int, ...], ...]:
    """Starts, strides, counts and blocks of a selection, empty for one that is not regular."""
    try:
        found: tuple[tuple[int, ...], ...] = space.get_regular_hyperslab()
    except (ValueError, TypeError, RuntimeError):
        return (), (), (), ()
    return found


def places(name: str, dataset: Any) -> Iterator[str]:
    """Where HDF5 looks for the file of a source of a virtual dataset, one place after the other."""
    own = dataset.file.filename
    folder = os.path.dirname(os.path.abspath(own))
    if os.path.isabs(name):
        yield name
        name = os.path.basename(name)
    prefix = dataset.id.get_access_plist().get_virtual_prefix().decode()
    for place in [*os.environ.get("HDF5_VDS_PREFIX", "").split(":"), prefix]:
        if place:
            yield os.path.join(place.replace("${ORIGIN}", folder), name)
    yield os.path.join(folder, name)
    yield name
    yield os.path.join(os.path.dirname(os.path.realpath(own)), name)


def check_raw_files(dataset: Any, label: str) -> None:
    """Refuse a dataset whose values lie in files of plain bytes, one of which is absent or too short."""
    folder = os.path.dirname(os.path.abspath(dataset.file.filename))
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX") or dataset.id.get_access_plist().get_efile_prefix().decode()
    left = dataset.size * dataset.dtype.itemsize
    for name, offset, size in dataset.external:
        path = os.path.join(prefix.replace("${ORIGIN}", folder), name) if prefix else name
        wanted = min(size, left)
        left -= wanted
        if not os.path.isfile(path):
            raise SourceError(
                f"{label} has its values in the file {name}, which is not there: bring it back, it is looked for from "
                f"{os.path.abspath(prefix.replace('${ORIGIN}', folder) or '.')}"
            )
        if os.path.getsize(path) < offset + wanted:
            raise SourceError(
                f"{label} has its values in the file {name}, which was cut: {os.path.getsize(path):,} of "
                f"{offset + wanted:,} bytes are there, and HDF5 would give 0 for the rest. Copy or download it again"
            )


def absent_parts(dataset: Any) -> tuple[str, ...]:
    """What a plan must say of a dataset of which not all was ever written."""
    fill = f"stand for the fill value {dataset.fillvalue}"
    if dataset.is_virtual:
        series = tuple(
            f"it takes values from a numbered series of files, {name}, as far as that is there without a gap"
            for name in sorted(numbered_series(dataset))
        )
        mapped = [values for _, _, values in virtual_sources(dataset)]
        unmapped = dataset.size - sum(mapped)
        if 0 in mapped or unmapped <= 0:
            return series
        return (*series, f"{unmapped:,} of {dataset.size:,} values have no source, and {fill}")
    if dataset.chunks is not None:
        total = math.prod(-(-n // length) for n, length in zip(dataset.shape, dataset.chunks, strict=True))
        absent = total - dataset.id.get_num_chunks()
        return (f"{absent:,} of {total:,} chunks were never written, and {fill}",) if absent > 0 else ()
    if not dataset.external and not dataset.id.get_storage_size():
        return (f"its values were never written, and all {fill}",)
    return ()
