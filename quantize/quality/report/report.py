"""The report: a store compared with its source, and written down as a page that says whether it is good enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from ...io import sources_of
from ...io.decoding import decoded_as
from ...io.sink import check_room, check_target, replacing
from ...io.source import Source
from ...numerics.names import check_suffix
from ...reading.array import Int4Array, opened_array
from ...reading.dataset import Int4Dataset
from ...reading.opening import place_of
from ...reading.summary import rows_of
from ...runtime.display import reporter
from ...runtime.look import look_at
from ...runtime.pool import Stop, result_of, threads
from ...runtime.progress import Progress
from ..choices import Comparison
from ..figures import DatasetErrors, ErrorFigures
from ..measure import Measurement, dataset_of, errors_of, measure_dataset, measure_store
from ..origins import source_for
from ..suggest import compare_rules
from .page import Detail, dataset_page, page, picture_sections
from .pictures import load
from .verdict import Verdict, verdict_of, verdict_of_all

PAGE_SUFFIXES = (".html", ".htm", "")
COMPARED = 1 << 20  # values: of a sample on which other choices are tried, a quarter of what `suggest` takes
DETAILS = 3  # variables of a collection that have pictures on its page
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


@dataclass(frozen=True)
class DatasetReport:
    """The contents of a report on a collection. `str` prints verdict and figures, `to_json` gives all as a dictionary.

    Attributes
    ----------
    figures : DatasetErrors
    verdict : Verdict
        On all of it: the worst that there is.
    verdicts : dict of str to Verdict
        On each variable that is quantized.
    """

    figures: DatasetErrors
    verdict: Verdict
    verdicts: dict[str, Verdict]

    def to_json(self) -> dict[str, Any]:
        """The figures by name; those that JSON has no number for are None."""
        return {
            "verdict": self.verdict.word,
            "headline": self.verdict.headline,
            "verdicts": {name: one.word for name, one in self.verdicts.items()},
            "figures": self.figures.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join([self.verdict.headline, *self.verdict.sentences, "", str(self.figures)])


@overload
def write_report(
    store: Int4Dataset,
    source: Any,
    path: str | os.PathLike[str],
    *,
    name: None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | bool | None = None,
) -> DatasetReport: ...


@overload
def write_report(
    store: Any,
    source: Any,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | bool | None = None,
) -> Report: ...


def write_report(
    store: Any,
    source: Any,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | bool | None = None,
) -> Report | DatasetReport:
    """Compare a store with its source, and write what there is to see into one HTML file without scripts.

    Of a collection, without a name, the page has a table of all variables, and pictures of the coarsest three.

    Parameters
    ----------
    store : Int4Array, Int4Dataset, path, URL or Zarr store
    source : path, array, dataset, group or mapping
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
    Report or DatasetReport

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
    dataset = dataset_of(store) if name is None else None
    if dataset is not None:
        return report_on_dataset(dataset, source, target, overwrite, reporter(progress))
    array = store if isinstance(store, Int4Array) else opened_array(store, name)
    origin = decoded_as(source_for(source, full_name(store, name) or array.name), array.metadata.decoding)
    with threads(1, Stop()) as pool:  # what other choices would give is tried meanwhile
        pool.submit(load)
        named = origin.label if isinstance(source, str | os.PathLike) and not sources_of(source).is_array else source
        trying = pool.submit(compare_rules, origin, named, array, array.missing, most=COMPARED)
        measurement = measure_store(array, origin, progress)
        sections = picture_sections(array, measurement)
        comparison = result_of(trying) if measurement.figures.count else None
    verdict = verdict_of(array, measurement.figures, comparison, doubt_of(array, origin))
    html = page(array, origin.label, measurement.figures, sections, verdict, comparison)
    with replacing(target, overwrite) as partial:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")  # a path need not be UTF-8
    return Report(measurement.figures, verdict, comparison)


def full_name(store: Any, name: str | None) -> str | None:
    """The name in its collection of the variable that is meant; None where there is no collection."""
    place = None if isinstance(store, Int4Array) else place_of(store, name)
    return None if place is None else place.name


def report_on_dataset(
    dataset: Int4Dataset, source: Any, target: Path, overwrite: bool, report: Callable[[Progress], object]
) -> DatasetReport:
    arrays = sources_of(source)
    measured = measure_dataset(dataset, source, report)
    errors = errors_of(measured)
    found: list[Detail] = []
    for name, one in measured.items():
        array = dataset[name]
        if isinstance(one, Measurement) and isinstance(array, Int4Array):
            origin = decoded_as(arrays[name], array.metadata.decoding)
            verdict = verdict_of(array, one.figures, None, doubt_of(array, origin))
            found.append(Detail(name, array, one, verdict))
    verdict = verdict_of_all(errors, {one.name: one.verdict for one in found})
    coarse = [one for one in found if one.verdict.word not in ("exact", "empty")]
    coarse.sort(key=lambda one: one.measurement.figures.sqnr_db)
    html = dataset_page(
        dataset.path,
        arrays.label,
        errors,
        {row.name: row for row in rows_of(dataset)},
        verdict,
        {one.name: one.verdict.word for one in found},
        coarse[:DETAILS],
    )
    with replacing(target, overwrite) as partial:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")
    return DatasetReport(errors, verdict, {one.name: one.verdict for one in found})


def doubt_of(array: Int4Array, origin: Source) -> str | None:
    """What a run would warn of, if anything."""
    seen, rule, statistics = look_at(origin, array.missing), array.metadata.rule, array.metadata.statistics
    if seen is None or rule.method.needs == "nothing":
        return None
    said = seen.before()
    if said is None and statistics is not None and statistics["count"]:
        said = seen.after(rule, array.metadata.scale, (statistics["min"], statistics["max"]))
    return said
