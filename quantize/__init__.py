"""Turn float arrays larger than memory into int4 arrays an eighth their size in Zarr, and read them back lazily."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .appending import append_to_zarr as append_to_zarr
    from .appending import discard_append as discard_append
    from .dataset import plan_dataset as plan_dataset
    from .dataset import quantize_dataset as quantize_dataset
    from .exceptions import DamagedChunkError as DamagedChunkError
    from .exceptions import QuantizeError as QuantizeError
    from .exceptions import RefusedValuesError as RefusedValuesError
    from .exceptions import SourceChangedError as SourceChangedError
    from .exceptions import SourceError as SourceError
    from .exceptions import StoreError as StoreError
    from .exceptions import UndeclaredValuesError as UndeclaredValuesError
    from .exceptions import UnfinishedStoreError as UnfinishedStoreError
    from .exceptions import WorkersError as WorkersError
    from .pipeline import quantize_part as quantize_part
    from .pipeline import quantize_to_zarr as quantize_to_zarr
    from .pipeline import seal as seal
    from .quality.choices import Comparison as Comparison
    from .quality.choices import DatasetComparison as DatasetComparison
    from .quality.figures import DatasetErrors as DatasetErrors
    from .quality.figures import ErrorFigures as ErrorFigures
    from .quality.measure import measure_error as measure_error
    from .quality.report.report import DatasetReport as DatasetReport
    from .quality.report.report import Report as Report
    from .quality.report.report import write_report as write_report
    from .quality.suggest import suggest as suggest
    from .quality.verify import DatasetVerification as DatasetVerification
    from .quality.verify import Verification as Verification
    from .quality.verify import verify as verify
    from .quantize import Int4Values as Int4Values
    from .quantize import NanInt4Values as NanInt4Values
    from .quantize import PackedInt4Values as PackedInt4Values
    from .quantize import dequantize_from_int4 as dequantize_from_int4
    from .quantize import dequantize_from_packed_int4 as dequantize_from_packed_int4
    from .quantize import pack_int4_to_int8 as pack_int4_to_int8
    from .quantize import quantize_to_int4 as quantize_to_int4
    from .quantize import quantize_to_packed_int4 as quantize_to_packed_int4
    from .quantize import unpack_int8_to_int4 as unpack_int8_to_int4
    from .reading.array import Int4Array as Int4Array
    from .reading.dataset import Int4Dataset as Int4Dataset
    from .reading.dataset import KeptArray as KeptArray
    from .reading.opening import open_int4 as open_int4
    from .reading.restore import restore as restore
    from .runtime.dataset_plan import DatasetPlan as DatasetPlan
    from .runtime.plan import Plan as Plan
    from .runtime.plan import plan as plan
    from .runtime.progress import Progress as Progress
    from .writer import Int4Writer as Int4Writer

__version__ = "0.1.0"

# Imported when first asked for (PEP 562): Numba, Dask and Zarr take seconds, and few programs need all three.
HOMES = {
    "appending": ("append_to_zarr", "discard_append"),
    "quantize": (
        "Int4Values",
        "NanInt4Values",
        "PackedInt4Values",
        "dequantize_from_int4",
        "dequantize_from_packed_int4",
        "pack_int4_to_int8",
        "quantize_to_int4",
        "quantize_to_packed_int4",
        "unpack_int8_to_int4",
    ),
    "exceptions": (
        "DamagedChunkError",
        "QuantizeError",
        "RefusedValuesError",
        "SourceChangedError",
        "SourceError",
        "StoreError",
        "UndeclaredValuesError",
        "UnfinishedStoreError",
        "WorkersError",
    ),
    "reading.array": ("Int4Array",),
    "reading.dataset": ("Int4Dataset", "KeptArray"),
    "reading.opening": ("open_int4",),
    "runtime.dataset_plan": ("DatasetPlan",),
    "dataset": ("plan_dataset", "quantize_dataset"),
    "runtime.plan": ("Plan", "plan"),
    "reading.restore": ("restore",),
    "quality.verify": ("DatasetVerification", "Verification", "verify"),
    "quality.figures": ("DatasetErrors", "ErrorFigures"),
    "quality.measure": ("measure_error",),
    "quality.choices": ("Comparison", "DatasetComparison"),
    "quality.suggest": ("suggest",),
    "quality.report.report": ("DatasetReport", "Report", "write_report"),
    "runtime.progress": ("Progress",),
    "pipeline": ("quantize_part", "quantize_to_zarr", "seal"),
    "writer": ("Int4Writer",),
}

__all__ = sorted(name for names in HOMES.values() for name in names)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__") and name.endswith("__"))})
