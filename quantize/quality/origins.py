"""What a variable of a store was made from, in a source of several."""

from __future__ import annotations

from typing import Any

from ..io import sources_of
from ..io.raw import RawArray
from ..io.source import Source
from ..reading.dataset import KeptArray


def source_for(source: Any, name: str) -> Source:
    """The source of a variable: the one array that there is, or of several the one of its name."""
    arrays = sources_of(source)
    several = not arrays.is_array and len(arrays.meant()) > 1
    return arrays[name] if several and name in arrays else arrays.only()


def raw_for(source: Any, array: KeptArray) -> RawArray:
    """What is kept, as the source has it."""
    arrays = sources_of(source)
    return arrays.raw(array.name if array.name in arrays else arrays.only_name())
