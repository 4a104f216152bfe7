"""What xarray finds of this library: the engine that opens stores, and accessors that write them.

xarray loads it when it first opens something. To write before that, ``import quantize.xarray``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray

from .reading.xarray import Int4BackendEntrypoint as Int4BackendEntrypoint

if TYPE_CHECKING:
    from .reading.dataset import Int4Dataset


@xarray.register_dataset_accessor("int4")
class DatasetAccessor:
    """`Dataset.int4`: writes a dataset as packed int4."""

    def __init__(self, dataset: xarray.Dataset) -> None:
        self._dataset = dataset

    def to_zarr(self, store: Any, **options: Any) -> Int4Dataset:
        """Quantize the fields of the dataset, and keep all else as it is: `quantize_dataset` with the same options."""
        from .dataset import quantize_dataset

        return quantize_dataset(self._dataset, store, **options)


@xarray.register_dataarray_accessor("int4")
class DataArrayAccessor:
    """`DataArray.int4`: writes an array and its coordinates as packed int4."""

    def __init__(self, array: xarray.DataArray) -> None:
        self._array = array

    def to_zarr(self, store: Any, **options: Any) -> Int4Dataset:
        """Quantize the array, as the variable of its name or ``"data"``, and keep its coordinates as they are."""
        name = str(self._array.name or "data")
        accessor = DatasetAccessor(self._array.to_dataset(name=name))
        return accessor.to_zarr(store, **{"select": [name], **options})
