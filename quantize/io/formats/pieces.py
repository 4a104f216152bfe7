"""Folders, patterns and lists of files: arrays with names of their own, or pieces of one array or table.

Pieces are joined along the first axis, in the order of their names, numbers in them as numbers; those of a list in its
order. They have one dtype, and differ in their first length alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...exceptions import SourceError
from ...numerics.grid import Batches, Region, Shape, shape_of
from ...store.buffers import Buffer
from ..chunked import parts_along
from ..content import Matched, check_regular, doubts, names_in, natural
from ..format import Format, is_url
from ..raw import RawArray, kept_dtype
from ..source import PIECE_BYTES, Source, bytes_of_runs
from .arrow import SUFFIXES, columns_of, is_table
from .npy import PAGE_BYTES, FileSource, NpyRun, Runs, RunSource, check_numbers, npy_run

NPY = ".npy"
OPEN_FILES = 64  # files: more are open only while they are read


@dataclass(frozen=True)
class Joined:
    """One array in several files."""

    label: str
    runs: tuple[NpyRun, ...]

    @property
    def shape(self) -> Shape:
        return (sum(run.shape[0] for run in self.runs), *self.runs[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.runs[0].dtype.newbyteorder("=")

    @classmethod
    def of(cls, label: str, runs: Sequence[NpyRun]) -> Joined:
        """That of some files.

        Raises
        ------
        SourceError
            If they are not pieces of one array, naming the first that is not.
        """
        first = runs[0]
        for run in runs:
            if not run.shape:
                raise SourceError(f"{run.label} has no axes, and so is no piece of an array")
            if (run.shape[1:], run.dtype.newbyteorder("=")) != (first.shape[1:], first.dtype.newbyteorder("=")):
                raise SourceError(
                    f"{run.label} has shape {run.shape} and dtype {run.dtype}, and {first.label} {first.shape} and "
                    f"{first.dtype}: pieces of one array differ in their first length alone"
                )
        return cls(label, tuple(runs))

    def source(self) -> Source:
        check_numbers(self.dtype, self.runs[0].label, self.runs[0].again)
        return JoinedSource(self)

    def raw(self) -> RawArray:
        return RawArray(self.label, self.shape, kept_dtype(self.dtype, self.label), self.load, shared=True)

    def load(self, region: Region) -> np.ndarray:
        out = np.empty(shape_of(region), self.dtype)
        for number, inside, there in parts_along(starts_of(self.runs), region):
            out[there] = self.runs[number].load(inside)
        return out


class JoinedSource(RunSource):
    """Files joined along the first axis, each read as it would be alone."""

    def __init__(self, joined: Joined) -> None:
        super().__init__(joined.label, joined.shape, joined.dtype)
        runs = [run for run in joined.runs if run.shape[0]]
        self.parts: list[FileSource] = [run.source() for run in runs]
        self.starts = starts_of(runs)
        self.notes = doubts([run.label for run in joined.runs])
        self._share()

    def _share(self) -> None:
        self._buffer, room = Buffer(), Buffer()
        for part in self.parts:
            part.buffer = room  # of one thread no two are read at a time

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_buffer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    def load(self, region: Region) -> np.ndarray:
        found = list(parts_along(self.starts, region))
        if len(found) == 1:
            number, inside, _ = found[0]
            return self.parts[number].load(inside)
        shape = shape_of(region)
        size = int(np.prod(shape)) * self.dtype.itemsize
        out: np.ndarray = self._buffer.of(size).view(self.dtype).reshape(shape)
        for number, inside, there in found:
            out[there] = self.parts[number].load(inside)
        return out

    def memory(self, unit: Shape) -> int:
        return super().memory(unit) + PIECE_BYTES

    def bytes_read(self, units: Batches) -> int:
        if all(part.order == "C" for part in self.parts):
            return super().bytes_read(units)
        return bytes_of_runs(units, self.dtype.itemsize, PAGE_BYTES, 0, PIECE_BYTES, "F")


def starts_of(runs: Sequence[NpyRun]) -> list[int]:
    """Where the pieces begin along the first axis, and where the last ends."""
    return [0, *accumulate(run.shape[0] for run in runs)]


# Folders, patterns, lists ---------------------------------------------------------------------------------------------


class Files(Runs):
    """The files of a folder or a pattern, each an array under its own name. Where one is asked for, its pieces."""

    @property
    def is_one(self) -> bool:
        if super().is_one:
            return True
        try:
            self.joined()
        except SourceError:
            return False
        return True

    def joined(self) -> Joined:
        return Joined.of(self.label, list(self.listed().values()))

    def only(self) -> Source:
        if self.is_array or len(self) == 1:
            return super().only()
        try:
            return self.joined().source()
        except SourceError as error:
            name = next(iter(self))
            raise SourceError(
                f"{self.label} holds several arrays, which are not pieces of one. Name one, as in {self.prefix}{name}. "
                f"{error}"
            ) from error


def files_of(label: str, paths: Sequence[str]) -> Files:
    """Files by their names without suffix, as paths from the folder that all lie in."""
    top = os.path.commonpath([os.path.dirname(path) or "." for path in paths]) if len(paths) > 1 else ""
    found: dict[str, NpyRun] = {}
    for path, run in zip(paths, runs_in(paths), strict=True):
        name = os.path.relpath(path, top) if top else os.path.basename(path)
        name = name[: -len(NPY)] if name.lower().endswith(NPY) else name
        if name in found:
            raise SourceError(f"{found[name].label} and {path} would both be called {name}: pass one of them")
        found[name] = run
    return Files(label, found)


def runs_in(paths: Sequence[str]) -> list[NpyRun]:
    """The arrays in some files.

    Raises
    ------
    SourceError
        If one is not a ``.npy`` file.
    """
    return [npy_run(path, kept=len(paths) <= OPEN_FILES) for path in paths]


class Pieces(Format):
    def takes(self, thing: Any) -> bool:
        if isinstance(thing, str):
            return not is_url(thing) and bool(files_in(thing))
        if isinstance(thing, Matched):
            return True
        return (
            isinstance(thing, list | tuple) and bool(thing) and all(isinstance(one, str | os.PathLike) for one in thing)
        )

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        if isinstance(thing, str):
            label, paths = thing, files_in(thing)
        elif isinstance(thing, Matched):
            label, paths = thing.pattern, list(thing.paths)
        else:
            paths = [os.fspath(path) for path in thing]
            label = f"{paths[0]} and {len(paths) - 1:,} more" if len(paths) > 1 else paths[0]
        for path in paths:
            check_regular(path)
        tables = [path for path in paths if is_table(path)]
        if tables and len(tables) < len(paths):
            other = next(path for path in paths if path not in tables)
            raise SourceError(
                f"{label} has files of several kinds, such as {tables[0]} and {other}: pass those of one kind, by a "
                "pattern or a list"
            )
        if tables:
            return columns_of(label, paths)
        return (
            files_of(label, paths)
            if isinstance(thing, str | Matched)
            else Runs(label, Joined.of(label, runs_in(paths)))
        )


def files_in(folder: str) -> list[str]:
    """The files of a folder that are pieces or arrays, by their suffixes and in the order of their names.

    None of what is not a folder.
    """
    names = sorted((name for name in names_in(folder) if name.lower().endswith((NPY, *SUFFIXES))), key=natural)
    return [os.path.join(folder, name) for name in names]


FORMAT = Pieces()
