"""The report: a store compared with its source, and written down as a page that says whether it is good enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...io import as_source
from ...io.decoding import decoded_as
from ...io.sink import check_room, check_target, replacing
from ...io.source import Source
from ...numerics.names import check_suffix
from ...reading.array import Int4Array, opened_array
from ...runtime.look import look_at
from ...runtime.pool import Stop, result_of, threads
from ...runtime.progress import Progress
from ..choices import Comparison
from ..figures import ErrorFigures
from ..measure import measure_store
from ..suggest import compare_rules
from .page import page, picture_sections
from .pictures import load
from .verdict import Verdict, verdict_of

PAGE_SUFFIXES = (".html", ".htm", "")
COMPARED = 1 << 20  # values: of a sample on which other choices are tried, a quarter of what `suggest` takes
PAGE_BYTES = 1 << 20  # bytes: a page takes no more, with all its pictures


@dataclass(frozen=True)
class Report:
    """The contents of a report. `str` prints verdict and figures, `to_json` gives all as a dictionary.

    Attributes
    ----------
    figures : ErrorFigures
    verdict : Verdict
    comparison : Comparison or None
        None where the source holds nothing to compare choices on.
    """

    figures: ErrorFigures
    verdict: Verdict
    comparison: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        return {
            "verdict": self.verdict.word,
            "headline": self.verdict.headline,
            "figures": self.figures.to_json(),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join([self.verdict.headline, *self.verdict.sentences, "", str(self.figures)])


def write_report(
    store: Any,
    source: Any,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | bool | None = None,
) -> Report:
    """Compare a store with its source, and write what there is to see into one HTML file without scripts.

    Parameters
    ----------
    store : Int4Array, path, URL or Zarr store
    source : path or array
        What the store was made from. Both are read once; in addition, a sample of the source.
    path : path
        Of the HTML file, which appears once it is whole.
    name : str, optional
        Of the variable; not needed where the store holds only one.
    overwrite : bool
        Replace the file if it is there.
    progress : callable or True, optional
        Called with a `Progress` of the phase "measure"; True draws it.

    Returns
    -------
    Report

    Raises
    ------
    FileExistsError
        If the file is there and `overwrite` is not set.
    ModuleNotFoundError
        If matplotlib is not installed.
    ValueError
        If the shapes differ, the name of the file ends as that of another kind, or there is not enough disk.
    UnfinishedStoreError, StoreError
        As for `open_int4`, and `DamagedChunkError` if a chunk is missing or damaged.
    WorkersError
        As for `verify`, where the workers of a `distributed.Client` read store and source.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from quantize import quantize_to_zarr
    >>> values = np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = quantize_to_zarr(values, f"{folder}/x.zarr")
    ...     print(write_report(array, values, f"{folder}/report.html").verdict.word)
    fair
    """
    import matplotlib  # noqa: F401  before anything takes long

    target = Path(path)
    check_target(target, overwrite)
    check_suffix(path, PAGE_SUFFIXES, "a report")
    check_room(target, PAGE_BYTES, "a page and its pictures")
    array = store if isinstance(store, Int4Array) else opened_array(store, name)
    origin = decoded_as(as_source(source), array.metadata.decoding)
    with threads(1, Stop()) as pool:  # what other choices would give is tried meanwhile
        pool.submit(load)
        trying = pool.submit(compare_rules, origin, source, array, array.missing, most=COMPARED)
        measurement = measure_store(array, origin, progress)
        sections = picture_sections(array, measurement)
        comparison = result_of(trying) if measurement.figures.count else None
    verdict = verdict_of(array, measurement.figures, comparison, doubt_of(array, origin))
    html = page(array, origin.label, measurement.figures, sections, verdict, comparison)
    with replacing(target, overwrite) as partial:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")  # a path need not be UTF-8
    return Report(measurement.figures, verdict, comparison)


def doubt_of(array: Int4Array, origin: Source) -> str | None:
    """What a run would warn of, if anything."""
    seen, rule, statistics = look_at(origin, array.missing), array.metadata.rule, array.metadata.statistics
    if seen is None or rule.method.needs == "nothing":
        return None
    said = seen.before()
    if said is None and statistics is not None and statistics["count"]:
        said = seen.after(rule, array.metadata.scale, (statistics["min"], statistics["max"]))
    return said
