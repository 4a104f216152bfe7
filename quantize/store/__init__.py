"""The parts of a Zarr store, format version 1, that `storage.py` puts together.

Keys and bytes, retries, the codec, ``zarr.json``, the layout, the arrays beside a variable, and reading one chunk. It
knows no Dask and no source, and may import `numerics` alone. A caller of the library needs none of it.
"""
