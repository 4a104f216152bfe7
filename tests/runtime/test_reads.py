"""What a run reads of its source: counted, it is what the plan said, and with default chunks never much more than twice."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from marks import mostly_slow
from zarr.storage import MemoryStore

from quantize import plan
from quantize.io import as_source
from quantize.io.chunked import ChunkedSource
from quantize.io.formats import memory
from quantize.io.formats.npy import FileSource
from quantize.io.source import Source
from quantize.numerics.grid import Grid, shape_of
from quantize.runtime.plan import Plan
from quantize.runtime.scans import scan_batches

MIB = 1 << 20
PAGE = 4096
ITEMSIZE = 4
VALUES = 96 * MIB // ITEMSIZE  # of the sources, at least: no chunk takes all of one
SLACK = 1.02  # times: runs begin at other places in their pages than on average


class Count:
    """Bytes that are read, in place of reading them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        monkeypatch.setattr(FileSource, "_fill", lambda source, buffer, start: self.add(start, start + len(buffer)))
        monkeypatch.setattr(memory, "close_parts", self.close_parts)
        self.close = close_parts

    def add(self, start: int, stop: int) -> None:
        """Whole pages of a file."""
        self.read += (-(-stop // PAGE) - start // PAGE) * PAGE

