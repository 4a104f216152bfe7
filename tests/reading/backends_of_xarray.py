"""xarray's own tests of its backends, of a store in which everything is kept. `test_xarray_engine.py` runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import xarray
from xarray.tests.conftest import *  # noqa: F403 - fixtures
from xarray.tests.test_backends import CFEncodedBase

from quantize.dataset import quantize_dataset

ELSEWHERE = {
    "test_write_store": "of writing",
    "test_append_write": "of writing",
    "test_append_overwrite_values": "of writing",
    "test_append_with_invalid_dim_raises": "of writing",
    "test_encoding_unlimited_dims": "of netCDF",
    "test_encoding_kwarg_fixed_width_string": "of netCDF",
    "test_roundtrip_bytes_with_fill_value": "the source's own text for a missing value of bytes is kept as it is",
    "test_load_async": "needs a plug-in of pytest",
}


class TestOurs(CFEncodedBase):
    @pytest.fixture(autouse=True)
    def elsewhere(self, request: pytest.FixtureRequest) -> None:
        if reason := ELSEWHERE.get(request.node.originalname):
            pytest.skip(reason)
        if "dtype1" in request.node.name:
            pytest.skip("JSON has one type of floats, so scales of float32 are float64 in Zarr")

    @contextmanager
    def roundtrip(
        self, data: Any, save_kwargs: Any = None, open_kwargs: Any = None, allow_cleanup_failure: bool = False
    ) -> Iterator[xarray.Dataset]:
        with TemporaryDirectory() as folder:
            data.to_zarr(Path(folder, "source"), zarr_format=3, consolidated=False, **(save_kwargs or {}))
            quantize_dataset(Path(folder, "source"), Path(folder, "store"), keep="*")
            yield xarray.open_dataset(Path(folder, "store"), **(open_kwargs or {}))
