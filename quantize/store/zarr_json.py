"""The documents of a Zarr v3 store, ``zarr.json``: how they are made, written in one form only, and read strictly."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from ..numerics.grid import Shape
from .codec import Compressor

LEVELS = 100  # levels of lists and dictionaries in one another at most, in the attributes of a source

# What a document holds ------------------------------------------------------------------------------------------------


def array_document(
    shape: Shape,
    data_type: str,
    chunk_shape: Shape,
    codecs: list[dict[str, Any]],
    attributes: dict[str, Any],
    dimension_names: tuple[str | None, ...] | None = None,
) -> dict[str, Any]:
    """Array metadata as of https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html#array-metadata ."""
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": attributes,
    }
    if dimension_names:
        document["dimension_names"] = dimension_names
    return document


def codecs_document(compressor: Compressor, wide: bool = False) -> list[dict[str, Any]]:
    """The codecs of a chunk of single bytes, or of `wide` values in little-endian order; the checksum comes last."""
    values: dict[str, Any] = {"name": "bytes", **({"configuration": {"endian": "little"}} if wide else {})}
    compressed = [{"name": compressor.name, "configuration": compressor.options}] if compressor.name else []
    return [values, *compressed, {"name": "crc32c"}]


def sharding_document(chunk_shape: Shape, codecs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chunks of this shape and with these codecs, side by side in shards, with the index behind them."""
    configuration = {
        "chunk_shape": chunk_shape,
        "codecs": codecs,
        "index_codecs": codecs_document(Compressor(None), wide=True),
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def group_document() -> bytes:
    return serialized({"zarr_format": 3, "node_type": "group", "attributes": {}})


def check_group(data: bytes) -> None:
    """Refuse what is not the ``zarr.json`` of a group: https://zarr-specs.readthedocs.io/en/latest/v3/core/ .

    Raises
    ------
    ValueError
        Saying what it is instead.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    known = {"zarr_format": 3, "node_type": "group"}
    if not isinstance(document, dict) or any(document.get(key) != value for key, value in known.items()):
        raise ValueError("it is not the metadata of a Zarr v3 group")
    if unknown := sorted(set(document) - {*known, "attributes", "consolidated_metadata"}):
        raise ValueError(f"{unknown[0]!r} is nothing that the metadata of a group have")


def consolidated(data: bytes) -> dict[str, Any] | None:
    """The documents below a group by their names, as its ``zarr.json`` has them once more; None where it has none."""
    try:
        found = json.loads(data)["consolidated_metadata"]["metadata"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else {}


def without_consolidated(data: bytes) -> bytes:
    """The ``zarr.json`` of a group without what it has once more of the documents below it; all else stays."""
    if b'"consolidated_metadata"' not in data:
        return data
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(document, dict) or "consolidated_metadata" not in document:
        return data
    del document["consolidated_metadata"]
    own = group_document()
    return own if document == json.loads(own) else json.dumps(document, indent=2).encode()


def node_type(data: bytes) -> str | None:
    """``"array"``, ``"group"`` or whatever else a document of version 3 calls itself; None for any other document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document.get("node_type") if isinstance(document, dict) and document.get("zarr_format") == 3 else None


def own_header(data: bytes) -> dict[str, Any]:
    """What a document has under the attribute ``int4``; nothing where that is no object, or the document no JSON."""
    try:
        header = json.loads(data)["attributes"]["int4"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


# How it is written and read -------------------------------------------------------------------------------------------


def serialized(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def checksum(document: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a document that has no checksum yet."""
    return hashlib.sha256(canonical(document)).hexdigest()


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; to Python 1, 1.0 and True are equal."""
    return canonical(one) == canonical(other)


def loaded(data: bytes) -> Any:
    """Parse JSON in which every number and escape has its canonical form; another form is an error.

    A flipped bit may give another form of the same value, 1e-07 as 1E-07 or 0.30000000000000004 with another last
    digit. The checksum, which is one of values, does not tell.

    Raises
    ------
    ValueError
        Saying what it is instead.
    """
    for escape in ESCAPE.findall(data):
        if escape != escape.lower():
            raise ValueError(f"\\u{escape.decode()} is not in lower case")
    try:
        return json.loads(data.decode(), parse_constant=refuse_constant, parse_float=canonical_float)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|.)")  # an escape in a string, and the digits of one such as \\u00e9


def canonical_float(text: str) -> float:
    number = float(text)
    if repr(number) != text:
        raise ValueError(f"the number {text[:40]} stands for {number!r}")
    return number


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# Numbers that JSON lacks ----------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A value with only what JSON has in it: figures for people and programs, which nobody reads back.

    Numbers that JSON lacks are None, tuples lists, and what is none of its types is text.

    >>> import numpy as np
    >>> to_json({"sqnr_db": math.inf, "shape": (3, 4), "dtype": np.dtype("f4")})
    {'sqnr_db': None, 'shape': [3, 4], 'dtype': 'float32'}
    """
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


TAG = "@float:"  # the beginning of a string that stands for a number; one of the source's own gets it twice


def tagged(value: Any, levels: int = LEVELS) -> Any:
    """A JSON value in which the numbers that JSON lacks are strings, ``"@float:nan"``.

    >>> tagged({"valid_max": math.inf, "note": "@float:"})
    {'valid_max': '@float:inf', 'note': '@float:@float:'}
    """
    if not levels:
        raise ValueError(f"the attributes of the source are nested more than {LEVELS} deep")
    if isinstance(value, dict):
        return {str(key): tagged(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tagged(item, levels - 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"{TAG}{value}"
    return TAG + value if isinstance(value, str) and value.startswith(TAG) else value


def untagged(value: Any) -> Any:
    """The inverse of `tagged`."""
    if isinstance(value, dict):
        return {key: untagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if isinstance(value, str) and value.startswith(TAG):
        rest = value.removeprefix(TAG)
        return rest if rest.startswith(TAG) else float(rest)
    return value
