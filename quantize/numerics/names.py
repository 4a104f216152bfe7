"""What settings may be: the names there are; how files may be called, and how a zip archive begins.

It imports nothing that takes time, so that `quantize --help` can show the names.
"""

import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal, get_args

ScaleMethod = Literal["minmax", "absmax", "percentile", "mse"]
PresetName = Literal["weights", "embeddings", "field"]
NanPolicy = Literal["raise", "propagate"]
Outside = Literal["raise", "saturate"]  # what becomes of appended values beyond the range of the scale that is there
SCALE_METHODS: tuple[ScaleMethod, ...] = get_args(ScaleMethod)
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
PERCENTILE = 99.9  # %: the share of the values that the method "percentile" keeps within the range by default
NAN_POLICIES: tuple[NanPolicy, ...] = get_args(NanPolicy)
OUTSIDE: tuple[Outside, ...] = get_args(Outside)
COMPRESSORS = ("zstd", "gzip", "blosc")
ZIP = b"PK\x03\x04"  # the first bytes of a zip archive that holds something


def suffix_of_file(path: str | os.PathLike[str]) -> str:
    """How a name ends, with the dot, in lower case; a number is no such ending.

    >>> suffix_of_file("x.NPY"), suffix_of_file("s3://bucket/x.zarr"), suffix_of_file("era5-0.25"), suffix_of_file("x")
    ('.npy', '.zarr', '', '')
    """
    suffix = PurePosixPath(os.fsdecode(path)).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def check_suffix(path: str | os.PathLike[str], written: Iterable[str], what: str) -> None:
    """Refuse a path that ends as files of another kind do; `written` are the endings of what is made, `what` that is.

    Raises
    ------
    ValueError
        With the endings that there are.

    Examples
    --------
    >>> check_suffix("x.pdf", (".html", ""), "a report")
    Traceback (most recent call last):
      ...
    ValueError: x.pdf ends with .pdf, but the name of a report ends with .html or no suffix
    """
    endings = tuple(written)
    suffix = suffix_of_file(path)
    if suffix not in endings:
        known = " or ".join(ending or "no suffix" for ending in endings)
        raise ValueError(f"{os.fsdecode(path)} ends with {suffix}, but the name of {what} ends with {known}")
