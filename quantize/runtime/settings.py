"""The settings of a job, in one place. Imports nothing heavy: `quantize --help` shows their defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from ..numerics.names import PRESETS, NanPolicy, PresetName, ScaleMethod


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of one job, as the user gave them, but for `source` and `store`: those of `quantize_to_zarr`."""

    name: str = "data"
    preset: PresetName | None = None
    scale_method: ScaleMethod | None = None
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

    def resolved(self, ndim: int) -> tuple[Settings, list[str]]:
        """These settings with what a preset stands for, of values of so many axes, and what to say of it.

        What is given beside a preset wins: a scale method, and an axis or blocks.

        Raises
        ------
        ValueError
            If there is no such preset, or a range or a share of the values is given, which its scale method looks for.

        Examples
        --------
        >>> Settings(preset="embeddings", scale_method="minmax").resolved(2)[0].blocks
        (32, 1)
        """
        if self.preset is None:
            return replace(self, scale_method=self.scale_method or "minmax"), []
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}, but must be one of {', '.join(map(repr, PRESETS))}, or None")
        preset = PRESET[self.preset]
        if self.scale_method is None and (self.value_range is not None or self.percentile is not None):
            given = "percentile" if self.value_range is None else "value_range"
            raise ValueError(
                f"preset={self.preset!r} stands for scale_method={preset.scale_method!r}, which looks for a range, and "
                f"{given} says what that is: pass a scale_method beside them, or leave one out"
            )
        found: dict[str, Any] = {}
        if self.scale_method is None:
            found["scale_method"] = preset.scale_method
        if self.axis is None and self.blocks is None:
            lengths = preset.blocks if ndim > 1 else (math.prod(preset.blocks),)
            found["blocks"] = (*(1,) * (ndim - len(lengths)), *lengths)
        said = " and ".join(f"{name}={value!r}" for name, value in found.items()) or "what is given beside it"
        return replace(self, preset=None, **found), [f"preset {self.preset} stands for {said}: {preset.reason}"]


@dataclass(frozen=True)
class Preset:
    """A good choice of scales for a kind of data, and why: blocks along the last axes, and a scale method."""

    blocks: tuple[int, ...]
    scale_method: ScaleMethod
    reason: str


PRESET: dict[str, Preset] = {
    "weights": Preset((1, 32), "mse", "few weights reach far out, and these cost their own block only"),
    "embeddings": Preset(
        (32, 1), "mse", "some features lie far from the others, and down a column values are among themselves"
    ),
    "field": Preset((4, 8), "mse", "neighbours are alike along both of the last axes"),
}


class SettingsOfAll(TypedDict, total=False):
    """Settings that several variables may share, as keyword arguments: by this type checkers and editors know them."""

    preset: PresetName | None
    scale_method: ScaleMethod | None
    axis: int | None
    blocks: int | tuple[int, ...] | None
    finest: float | None
    percentile: float | None
    value_range: tuple[float, float] | None
    missing: Any
    decode: bool
    floats: bool
    chunks: Any
    shards: Any
    compressors: Any
    memory: int | str | None
    workers: int | None


class SettingsGiven(SettingsOfAll, total=False):
    """Settings as keyword arguments, of which any may be left out."""

    name: str
    nan_policy: NanPolicy


def parsed_bytes(value: int | str | None) -> int | None:
    """Bytes of a number, or of a text such as "4GiB" or "256M" (10^6, as Dask reads it)."""
    from dask.utils import parse_bytes

    if value is None:
        return None
    try:
        return int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"memory is {value!r}, but must be bytes, or a text such as '4GiB' or '256MiB'") from None
