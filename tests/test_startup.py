"""`import quantize` is cheap: what it takes seconds to import is imported when it is first asked for."""

import subprocess
import sys

import pytest

HEAVY = {"dask", "distributed", "h5py", "matplotlib", "ml_dtypes", "numba", "numcodecs", "numpy", "rich", "zarr"}


def imported_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh process has imported after running `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return {name.partition(".")[0] for name in subprocess.check_output(command, text=True, timeout=60).split()}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import quantize; quantize.__version__, dir(quantize)", set()),
        ("from quantize import quantize_to_int4", {"numpy", "numba", "ml_dtypes"}),
        ("from quantize.numerics.scales import Rule", {"numpy", "ml_dtypes"}),
        (
            "import numpy, zarr, quantize\n"
            "quantize.quantize_to_zarr(numpy.zeros(4, numpy.float32), zarr.storage.MemoryStore())",
            {"numpy", "ml_dtypes", "numba", "dask", "numcodecs", "zarr"},
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str, heavy: set[str]) -> None:
    assert imported_by(code) & HEAVY == heavy


def test_every_public_name_is_there_and_no_other() -> None:
    import quantize

    assert [name for name in quantize.__all__ if not hasattr(quantize, name)] == []
    assert {name for name in dir(quantize) if not name.startswith("__")} == set(quantize.__all__)
    with pytest.raises(AttributeError, match="'nothing'"):
        quantize.nothing  # noqa: B018
