"""Whole datasets and checkpoints: many variables, each quantized or kept, by one plan and one pool of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Unpack

from .io import sources_of
from .reading.dataset import Int4Dataset
from .runtime.collection import Collection
from .runtime.dataset_plan import DatasetPlan
from .runtime.display import reporter
from .runtime.progress import Progress
from .runtime.selection import Rules, choose
from .runtime.settings import Settings, SettingsOfAll
from .store.keys import Keys

Policy = Literal["auto", "raise", "propagate"]
POLICIES = ("auto", "raise", "propagate")


def quantize_dataset(
    source: Any,
    store: Any,
    *,
    select: str | Iterable[str] = "auto",
    rules: Rules | None = None,
    keep: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    nan_policy: Policy = "auto",
    overwrite: bool = False,
    verify: bool = False,
    durable: bool = False,
    progress: Callable[[DatasetPlan | Progress], None] | bool | None = None,
    **settings: Unpack[SettingsOfAll],
) -> Int4Dataset:
    """Quantize the variables of a dataset or the tensors of a checkpoint, and keep all else as it is, bit for bit.

    Run it again to go on where a run stopped. Until all of it is there nothing of it opens as a collection.

    Parameters
    ----------
    source : path, URL, dataset, group or mapping
        Whatever holds arrays: a NetCDF, HDF5, Zarr or safetensors file, an `xarray.Dataset`, a dict of arrays; as for
        `quantize_to_zarr`.
    store : path, URL or Zarr store
        A new place, or one of an earlier run of the same job.
    select : "auto", or patterns
        Which variables to quantize. "auto" takes floats, or integers packed as such, of at least two axes and 4,096
        values, which are no coordinates, bounds, times or flags. All others are kept: copied with dtype, attributes,
        dimension names and chunks. A pattern is a name, a glob such as ``*.weight``, or ``dim=latitude`` for all that
        have that dimension.
    rules : mapping of patterns to mappings of settings
        Settings of single variables, such as ``{"t2m": {"axis": "latitude"}}``: those of `quantize_to_zarr`; `axis` and
        lengths of `blocks` and `chunks` by names of dimensions too. Of several rules that match, the later one wins.
    keep, drop : patterns
        Which to keep whatever `select` says, and which to leave out.
    nan_policy : {"auto", "raise", "propagate"}
        "auto" has a code for missing values in variables with some, and all 16 levels in those without.
    overwrite : bool
        Replace a collection of another job. What is no collection is never replaced.
    verify, durable, progress
        As for `quantize_to_zarr`; `progress` is called with a `DatasetPlan` before work starts.
    **settings
        Those of all variables: `scale_method`, `axis`, `blocks`, `preset`, `percentile`, `finest`, `value_range`,
        `missing`, `decode`, `floats`, `chunks`, `shards`, `compressors`; `memory` and `workers` of the run.

    Returns
    -------
    Int4Dataset

    Raises
    ------
    ValueError
        If a pattern or a rule matches nothing, a setting is not one of those allowed, or memory or disk will not do.
    RefusedValuesError (a ValueError)
        If a variable holds values that its settings take no code for. The store stays, unfinished.
    StoreError
        If the destination holds something else, or another job's collection.
    SourceError, FileNotFoundError, TypeError, SourceChangedError, WorkersError
        As for `quantize_to_zarr`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> layer = {"up.weight": np.linspace(-1, 1, 8192, dtype=np.float32).reshape(64, 128), "up.bias": np.zeros(64)}
    >>> checkpoint = quantize_dataset(layer, MemoryStore(), blocks=32)
    >>> checkpoint.quantized, checkpoint["up.bias"][:3].tolist()
    (['up.weight'], [0.0, 0.0, 0.0])
    """
    others = ("select", "rules", "keep", "drop", "nan_policy", "overwrite", "verify", "durable", "progress")
    checked = checked_settings("quantize_dataset", settings, nan_policy, others)
    collection = collected(source, replace(Keys.of(store), verify=verify), select, rules, keep, drop, checked)
    report = reporter(progress)
    report(collection.plan)
    return Int4Dataset(collection.keys, collection.run(overwrite, durable, report))


def plan_dataset(
    source: Any,
    store: Any,
    *,
    select: str | Iterable[str] = "auto",
    rules: Rules | None = None,
    keep: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    nan_policy: Policy = "auto",
    **settings: Unpack[SettingsOfAll],
) -> DatasetPlan:
    """What `quantize_dataset` would do and need with the same arguments. Writes nothing.

    Returns
    -------
    DatasetPlan

    Raises
    ------
    ValueError, TypeError, SourceError, FileNotFoundError
        As for `quantize_dataset`.

    Examples
    --------
    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> arrays = {"w": np.zeros((64, 64), np.float32), "ids": np.arange(64)}
    >>> [(one.name, one.why) for one in plan_dataset(arrays, MemoryStore()).variables]
    [('ids', 'int64 is no float'), ('w', '')]
    """
    checked = checked_settings("plan_dataset", settings, nan_policy, ("select", "rules", "keep", "drop", "nan_policy"))
    return collected(source, Keys.of(store), select, rules, keep, drop, checked).plan


def checked_settings(function: str, given: Mapping[str, Any], policy: Any, others: tuple[str, ...]) -> Settings:
    """The settings of all variables.

    Raises
    ------
    TypeError
        If there is no such one.
    ValueError
        If there is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"nan_policy is {policy!r}, but must be one of {', '.join(map(repr, POLICIES))}")
    if "name" in given:
        raise TypeError(f"{function}() takes no name: each variable has its own")
    return replace(Settings.of(function, given, *others), nan_policy=policy)


def collected(
    source: Any,
    keys: Keys,
    select: str | Iterable[str],
    rules: Rules | None,
    keep: str | Iterable[str] | None,
    drop: str | Iterable[str] | None,
    settings: Settings,
) -> Collection:
    """What the arguments of `quantize_dataset` come to."""
    arrays = sources_of(source)
    keys.check_writable()
    if arrays.is_array:
        raise ValueError(f"{arrays.label} is one array: quantize_to_zarr takes it")
    found = choose(arrays, select, rules, keep, drop, settings)
    if not found:
        raise ValueError(f"{arrays.label} holds no arrays" + " but those that drop leaves out" * bool(drop))
    return Collection.of(arrays, keys, found)
