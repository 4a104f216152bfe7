"""The arguments of a job, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dask.utils import parse_bytes


@dataclass(frozen=True)
class Settings:
    """The arguments of one job, as the user gave them, but for `source` and `store`."""

    name: str = "data"
    scale_method: str = "minmax"
    axis: int | None = None
    percentile: float | None = None
    value_range: tuple[float, float] | None = None
    missing: Any = "declared"
    nan_policy: str = "raise"
    chunks: Any = None
    shards: Any = None
    compressors: Any = "auto"
    memory: int | str | None = None
    workers: int | None = None


def parsed_bytes(value: int | str | None) -> int | None:
    """Bytes of a number, or of a text such as "4GiB" or "256M" (10^6, as Dask reads it)."""
    if value is None:
        return None
    try:
        return int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"memory is {value!r}, but must be bytes, or a text such as '4GiB' or '256MiB'") from None
