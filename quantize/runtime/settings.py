"""The settings of a job, in one place. Imports nothing heavy: `quantize --help` shows their defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from ..numerics.names import NanPolicy, ScaleMethod


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of one job, as the user gave them, but for `source` and `store`: those of `quantize_to_zarr`."""

    name: str = "data"
    scale_method: ScaleMethod = "minmax"
    axis: int | None = None
    blocks: int | tuple[int, ...] | None = None
    finest: float | None = None
    percentile: float | None = None
    value_range: tuple[float, float] | None = None
    missing: Any = "declared"
    decode: bool = True
    floats: bool = False
    nan_policy: NanPolicy = "raise"
    chunks: Any = None
    shards: Any = None
    compressors: Any = "auto"
    memory: int | str | None = None
    workers: int | None = None

    @classmethod
    def of(cls, function: str, given: Mapping[str, Any], *others: str) -> Settings:
        """What a function of that name was given, which takes some other keyword arguments too.

        Raises
        ------
        TypeError
            If there is no such setting, as Python would; it names the nearest.

        Examples
        --------
        >>> Settings.of("plan", {"chunk": 10})
        Traceback (most recent call last):
          ...
        TypeError: plan() got an unexpected keyword argument 'chunk': did you mean 'chunks'?
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                nearest = difflib.get_close_matches(name, [*known, *others], 1)
                hint = f": did you mean {nearest[0]!r}?" if nearest else ""
                raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
        return cls(**given)


class SettingsGiven(TypedDict, total=False):
    """Settings as keyword arguments, of which any may be left out: by this type checkers and editors know them."""

    name: str
    scale_method: ScaleMethod
    axis: int | None
    blocks: int | tuple[int, ...] | None
    finest: float | None
    percentile: float | None
    value_range: tuple[float, float] | None
    missing: Any
    decode: bool
    floats: bool
    nan_policy: NanPolicy
    chunks: Any
    shards: Any
    compressors: Any
    memory: int | str | None
    workers: int | None


def parsed_bytes(value: int | str | None) -> int | None:
    """Bytes of a number, or of a text such as "4GiB" or "256M" (10^6, as Dask reads it)."""
    from dask.utils import parse_bytes

    if value is None:
        return None
    try:
        return int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"memory is {value!r}, but must be bytes, or a text such as '4GiB' or '256MiB'") from None
