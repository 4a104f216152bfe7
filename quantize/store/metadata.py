"""The metadata of one variable, format versions 1 and 2: what its ``zarr.json`` says, written and checked."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..exceptions import REMEDY, StoreError
from ..numerics.dtypes import as_missing, checked_dtype
from ..numerics.granularity import Granularity, granularity_of
from ..numerics.grid import Shape, packed_shape
from ..numerics.scales import NAN_CODE, Codes, Rule, Scale, check_scale
from .codec import Compressor
from .layout import Layout, check_scales
from .places import folder_of, places_of
from .zarr_json import (
    array_document,
    checksum,
    codecs_document,
    loaded,
    same,
    serialized,
    sharding_document,
    tagged,
    untagged,
)

VERSIONS = (1, 2)
STATUSES = ("scanning", "writing", "sealed")
PACKED_SUFFIX = "_packed"  # behind the name of the packed dimension
DTYPES = ("float16", "bfloat16", "float32", "float64", *(f"{sign}int{8 << n}" for sign in ("", "u") for n in range(4)))

METADATA_MOST = 1 << 22  # bytes of a zarr.json: once it is read it may take twenty times as much memory
LATER = 1 << 12  # of those, kept for what is not known when the variable is made


@dataclass(frozen=True)
class ScaleNames:
    """Where the scales lie if there are several: names of arrays in the same group, or within the variable's folder."""

    scale: str
    zero_point: str

    @classmethod
    def of(cls, name: str, version: int) -> ScaleNames:
        found = (place.removeprefix(f"{folder_of(name)}/") for place in places_of(name, version)[2:])
        return cls(*found)


@dataclass(frozen=True)
class Metadata:
    """All that the store says of one variable.

    `statistics` is that of pass 1, None where there is none; `scale` is None until pass 1 is done, and where there are
    several it says where they lie; `fingerprint` tells one job from another; `dimension_names` and `attributes` are the
    source's own. `decoding` is how a packed source was decoded, None where it was not; `keep_zero` whether zero is a
    level of each block whose range holds it. `name` has the documents of version 2 alone.
    """

    layout: Layout
    rule: Rule
    missing: float | int | None
    fingerprint: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    status: str = "scanning"
    scale: Scale | ScaleNames | None = None
    statistics: dict[str, Any] | None = None
    name: str | None = None
    version: int = 1
    keep_zero: bool = False
    decoding: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_scales(self.granularity, self.layout)
        if self.status == STATUSES[0] and self.attributes:
            size = len(self.to_json())
            if size > METADATA_MOST - LATER:
                raise ValueError(
                    f"the attributes of the source make the metadata {size:,} bytes long, and they may have "
                    f"{METADATA_MOST - LATER:,}: keep what is large in an array of its own"
                )

    @property
    def codes(self) -> Codes:
        """Which codes values have, and which is missing."""
        return self.rule.codes(self.missing)

    @property
    def granularity(self) -> Granularity:
        return self.rule.granularity

    @property
    def nan_code(self) -> int | None:
        return self.rule.nan_code

    def at(self, status: str, **changes: Any) -> Metadata:
        return replace(self, status=status, **changes)

    def to_json(self) -> bytes:
        """The bytes of ``zarr.json``: the same for the same metadata, whatever the version of zarr."""
        return self._json

    @functools.cached_property
    def _json(self) -> bytes:
        layout, rule = self.layout, self.rule
        later = self.version > 1
        header = {
            "version": self.version,
            **({"name": self.name} if later else {}),
            "status": self.status,
            "shape": layout.shape,
            "dtype": str(layout.dtype),
            "axis": rule.granularity.axis,
            **({"blocks": rule.granularity.blocks} if later else {}),
            "scale_method": rule.method.name,
            **({"percentile": rule.method.percentile, "value_range": rule.method.value_range} if later else {}),
            **({"finest": rule.finest, "keep_zero": self.keep_zero} if later else {}),
            "nan_code": rule.nan_code,
            "missing": self.missing,
            **({"decoding": self.decoding} if later else {}),
            "statistics": self.statistics,
            "fingerprint": self.fingerprint,
            "attributes": tagged(self.attributes),
        }
        scale = {} if self.scale is None else {"scale": self.scale.scale, "zero_point": self.scale.zero_point}
        names = self.dimension_names
        document = array_document(
            packed_shape(layout.shape),
            "uint8",
            packed_shape(layout.unit),
            codecs_of(layout),
            {**scale, "int4": header},
            (*names[:-1], None if names[-1] is None else names[-1] + PACKED_SUFFIX) if names else None,
        )
        header["checksum"] = checksum(document)
        return serialized(document)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Metadata:
        """Read ``zarr.json``, checking every part of it against every other.

        Raises
        ------
        StoreError
            Naming `where`, what is wrong, and what to do.
        """
        document, header = opened_document(data, where)
        try:
            return parsed(document, header)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise StoreError(f"{where} contradicts itself: {what}. {REMEDY}") from error


def codecs_of(layout: Layout) -> list[dict[str, Any]]:
    codecs = codecs_document(layout.compressor)
    return codecs if layout.shards is None else sharding_document(packed_shape(layout.chunks), codecs)


def opened_document(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON and the part of it that is ours, once the version and the checksum are right."""
    try:
        document = loaded(data)
    except ValueError as error:
        raise StoreError(f"{where} is damaged: it is not JSON ({error}). {REMEDY}") from error
    attributes = document.get("attributes") if isinstance(document, dict) else None
    header = attributes.get("int4") if isinstance(attributes, dict) else None
    if not isinstance(header, dict):
        raise StoreError(f"{where} is not an int4 variable of this library: it has no attribute 'int4'")
    version = header.get("version")
    if version is None and "belongs_to" in header:
        raise StoreError(f"{where} is no int4 variable, but of an array that belongs to {header['belongs_to']!r:.80}")
    if isinstance(version, int) and version > max(VERSIONS):
        raise StoreError(
            f"{where} has format version {version}; this library reads up to {max(VERSIONS)}. Upgrade quantize"
        )
    stored = header.pop("checksum", None)
    if version not in VERSIONS or type(version) is not int or stored != checksum(document):
        raise StoreError(
            f"{where} is damaged: its checksum does not match its contents (they were changed by something other "
            f"than this library). {REMEDY}"
        )
    return document, header


def parsed(document: dict[str, Any], header: dict[str, Any]) -> Metadata:
    """Metadata from JSON; what does not fit comes out as the error of the part that refuses it."""
    if header["dtype"] not in DTYPES:
        raise ValueError(f"dtype {header['dtype']!r} is none of {', '.join(DTYPES)}")
    dtype = checked_dtype(header["dtype"])
    shape = parsed_lengths(header["shape"])
    codecs = document["codecs"]
    unit = parsed_lengths(document["chunk_grid"]["configuration"]["chunk_shape"])
    sharding = codecs[0]["configuration"] if codecs[0]["name"] == "sharding_indexed" else None
    inner = unit if sharding is None else parsed_lengths(sharding["chunk_shape"])
    last = shape[-1] if inner[-1] == packed_shape(shape)[-1] else 2 * inner[-1]
    chunks = (*inner[:-1], last)
    shards = None
    if sharding is not None:
        shards = tuple(outer // step * n for outer, step, n in zip(unit, inner, chunks, strict=True))
        codecs = sharding["codecs"]
    compressors = [
        Compressor(codec["name"], codec.get("configuration", {}))
        for codec in codecs
        if codec["name"] not in ("bytes", "crc32c")
    ]
    grows = None
    if header["version"] > 1:  # what is to become longer may have chunks that are longer than it is
        reach = zip(shape, chunks, shards or chunks, strict=True)
        grows = next(
            (axis for axis, (n, inner, outer) in enumerate(reach) if inner > n or outer > -(-n // inner) * inner), None
        )
    layout = Layout(shape, dtype, chunks, shards, compressors[0] if compressors else Compressor(None), grows)
    attributes = document["attributes"]
    scale = parsed_scale(attributes)
    rule = parsed_rule(header, shape)
    if scale is not None and isinstance(scale, Scale) != rule.granularity.single:
        raise ValueError(f"scale is {attributes['scale']!r}, and the values share {rule.granularity.label or 'one'}")
    if header["status"] not in STATUSES:
        raise ValueError(f"status {header['status']!r} is unknown")
    if (scale is None) != (header["status"] == "scanning"):
        raise ValueError(f"status is {header['status']!r}, and there is {'no' if scale is None else 'a'} scale")
    fingerprint = dictionary(header["fingerprint"], "fingerprint")
    version, given = header["version"], header if header["version"] > 1 else settings_of(fingerprint)
    if version > 1:
        folder_of(header["name"])  # refuses what is no name
    decoding = given.get("decoding")
    metadata = Metadata(
        layout=layout,
        rule=rule,
        missing=parsed_missing(header["missing"], dtype),
        fingerprint=fingerprint,
        attributes=untagged(dictionary(header["attributes"], "attributes")),
        dimension_names=parsed_names(document.get("dimension_names"), len(shape)),
        status=header["status"],
        scale=scale,
        statistics=parsed_statistics(header["statistics"], layout),
        name=header["name"] if version > 1 else None,
        version=version,
        keep_zero=version > 1 and header["keep_zero"] is True,
        decoding=decoding if isinstance(decoding, dict) else None,
    )
    rewritten = json.loads(metadata.to_json())
    del rewritten["attributes"]["int4"]["checksum"]
    differing = [key for key in sorted({*rewritten, *document}) if not same(rewritten.get(key), document.get(key))]
    if differing:
        raise ValueError(f"{', '.join(differing)} is not what the rest calls for")
    return metadata


def parsed_scale(attributes: dict[str, Any]) -> Scale | ScaleNames | None:
    if "scale" not in attributes:
        return None
    scale, zero_point = attributes["scale"], attributes["zero_point"]
    if isinstance(scale, str) and isinstance(zero_point, str):
        return ScaleNames(scale, zero_point)
    return Scale(*check_scale(scale, zero_point))


def parsed_rule(header: dict[str, Any], shape: Shape) -> Rule:
    """How scales were chosen: version 1 has percentile and range in the fingerprint alone."""
    axis, blocks, nan_code, method = header["axis"], None, header["nan_code"], header["scale_method"]
    if axis is not None and (type(axis) is not int or not 0 <= axis < len(shape)):
        raise ValueError(f"axis {axis!r} is none of an array of shape {shape}")
    if nan_code not in (None, NAN_CODE):
        raise ValueError(f"nan_code {nan_code!r} is unknown")
    given = header
    if header["version"] == 1:
        given = settings_of(dictionary(header["fingerprint"], "fingerprint"))
    else:
        blocks = header["blocks"]
    percentile = given.get("percentile") if method == "percentile" else None
    policy = "raise" if nan_code is None else "propagate"
    finest = header["finest"] if header["version"] > 1 else None
    granularity = granularity_of(axis, len(shape), blocks)
    return Rule.of(method, given.get("value_range"), policy, percentile, granularity, finest)


def settings_of(fingerprint: dict[str, Any]) -> dict[str, Any]:
    settings = fingerprint.get("settings")
    return settings if isinstance(settings, dict) else {}


def parsed_missing(value: Any, dtype: np.dtype[Any]) -> float | int | None:
    if value is None or (type(value) in (int, float) and as_missing(value, dtype) == value):
        missing: float | int | None = value
        return missing
    raise ValueError(f"missing {value!r} is no number that {dtype} holds")


def parsed_names(names: Any, ndim: int) -> tuple[str | None, ...] | None:
    """Dimension names as the source has them, the last without its suffix."""
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != ndim or not all(isinstance(name, str | None) for name in names):
        raise ValueError(f"dimension_names {names!r} are no names of {ndim} axes")
    last = names[-1]
    return *names[:-1], None if last is None else last.removesuffix(PACKED_SUFFIX)


def parsed_statistics(value: Any, layout: Layout) -> dict[str, Any] | None:
    if value is None:
        return None
    count, missing, low, high = (dictionary(value, "statistics")[key] for key in ("count", "missing", "min", "max"))
    counted = all(type(n) is int and n >= 0 for n in (count, missing)) and count + missing <= math.prod(layout.shape)
    ends = (low, high) == (None, None) if not count else type(low) is type(high) is float and low <= high
    if len(value) != 4 or not counted or not ends:
        raise ValueError(f"statistics {value!r} are none of an array of shape {layout.shape}")
    return dict(value)


def dictionary(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}, and no dictionary")
    return value


def parsed_lengths(value: Any) -> Shape:
    if not isinstance(value, list) or not all(type(n) is int and 0 < n < 2**62 for n in value):
        raise ValueError(f"{value!r} is not a shape")
    return tuple(value)
