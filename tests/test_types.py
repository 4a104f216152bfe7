"""What type checkers see: of every public name something better than `Any`, and the documentation without an error."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import ROOT, blocks

pytestmark = pytest.mark.slow

PAGES = ["README.md", "docs/usage.md"]

# An ignored error that is none is one: so the lines that are ignored show what is refused.
SEEN = """
from typing import Any, Literal, assert_type

import dask.array
import numpy as np

import quantize
from quantize import Int4Array, Int4Dataset, Int4Values, KeptArray, NanInt4Values
from quantize import open_int4, quantize_dataset, quantize_to_int4, quantize_to_zarr

def either(policy: Literal["raise", "propagate"]) -> None:
    assert_type(quantize_to_int4([1.0], nan_policy=policy), Int4Values | NanInt4Values)

codes, scale, zero_point = quantize_to_int4([1.0, 2.0])
codes, scale, zero_point = quantize_to_int4([1.0, 2.0], "mse", axis=0, nan_policy="raise")
codes, scale, zero_point, nan_code = quantize_to_int4([1.0, 2.0], nan_policy="propagate")
assert_type(codes, np.ndarray)
assert_type(nan_code, int)
quantize_to_int4([1.0], "minimax")  # type: ignore[call-overload]
quantize_to_int4([1.0], nan_policy="omit")  # type: ignore[call-overload]
quantize_to_zarr([1.0], "x.zarr", scale_method="minimax")  # type: ignore[arg-type]
quantize.plan("x.npy", "x.zarr", scale_method="minimax")  # type: ignore[arg-type]
quantize.plan("x.npy", "x.zarr", chunk=3)  # type: ignore[call-arg]

opened = open_int4("x.zarr", "data")
assert_type(opened, Int4Array | Any)  # Any: a collection may keep it as it was
assert_type(opened[:], np.ndarray | Any)
opened.scales  # type: ignore[union-attr]
if isinstance(opened, KeptArray):
    assert_type(opened.nbytes, int)

array = quantize_to_zarr([1.0], "x.zarr")
assert_type(array, Int4Array)
assert_type(array[:], np.ndarray)
assert_type(array[..., ::2], np.ndarray)
assert_type(array[7, :10], np.ndarray)
assert_type(array[0], np.ndarray | np.number[Any])
assert_type(array[0, np.int64(1)], np.ndarray | np.number[Any])
assert_type(array.codes(), np.ndarray)
assert_type(array.codes(np.s_[1, 2]), np.ndarray | np.int8)
assert_type(array.scale, float | np.ndarray)
assert_type(array.zero_point, int | np.ndarray)
assert_type(array.max_error, float | np.ndarray)
assert_type(array.ndim, int)
assert_type(array.size, int)
assert_type(array.nbytes, int)
assert_type(array.to_dask(), dask.array.Array)
array["data"]  # type: ignore[call-overload]

dataset = quantize_dataset("x.nc", "x.zarr", memory="1GiB")
assert_type(dataset, Int4Dataset)
assert_type(dataset["t2m"], Int4Array | KeptArray)
quantize_dataset("x.nc", "x.zarr", scale_method="minimax")  # type: ignore[arg-type]
"""


def checked(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Checked as strictly as the package is. A page may use a name again for something else."""
    pytest.importorskip("mypy")
    (folder / "snippet.py").write_text(text)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--allow-redefinition", "--cache-dir", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, "snippet.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_types_are_as_good_as_they_can_be(tmp_path: Path) -> None:
    found = checked(SEEN, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_the_documentation_have_no_type_errors(tmp_path: Path, page: str) -> None:
    """But for what reads a store by Zarr alone, and so by its types: values of JSON."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and "zarr.open_array(" not in block.text:
            session = doctest.DocTestParser().get_examples(block.text)
            lines += [example.source for example in session] if session else [block.text]
    found = checked("".join(lines), tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
