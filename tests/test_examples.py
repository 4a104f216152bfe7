"""The scripts in examples/ run, at a small size, and print what they say they show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from marks import mostly_slow

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# Arguments of each, and lines or parts of lines that it must print.
RUNS = {
    "usage.py": ([], ["minmax: scale 0.66, zero point -1", "largest 0.1600, bound 0.3300", "zero point -141"]),
    "npy_out_of_core.py": (
        ["--size", "40MiB", "--memory", "160MiB"],
        ["3 chunks read back, 0 damaged, 0 unlike the source", "above the imports"],
    ),
    "zarr_compressed.py": (["--days", "10"], ["refused", "land mask kept", "'units': 'K'", "'latitude'"]),
    "dask_expression.py": (["--hours", "16"], ["memory is an estimate", "bound"]),
    "local_cluster.py": (
        ["--size", "20MiB"],
        ["on distributed", "write: 2 chunks", " chunks, all as the source gives them"],
    ),
    "stream.py": (
        ["--rows", "30000", "--kills", "2"],
        ["killed, as its exit code -9 says", "30,000 rows, each as it must be", "all right", "chunks are whole"],
    ),
    "lazy_reading.py": (["--rows", "4000"], [" 1 chunks read", "20 chunks read", "dtype=uint8"]),
    "weights.py": (["--digits", "4000"], ["digits read", "float32", "one scale, minmax", "blocks of 16"]),
    "embeddings.py": (["--documents", "1000"], ["100 queries, 900 rows", "one scale, minmax", "(32, 1)", "(16, 1)"]),
}


def test_every_example_is_run() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(RUNS)


@pytest.mark.parametrize("name", mostly_slow(RUNS, ["usage.py"]))
def test_example(name: str, tmp_path: Path) -> None:
    arguments, expected = RUNS[name]
    printed = run(name, *arguments, folder=tmp_path)
    for part in expected:
        assert part in printed
    left = {path.name for path in tmp_path.iterdir()} - {"dask-scratch-space"}  # distributed's own
    assert not left


def test_an_example_keeps_its_files_in_a_folder(tmp_path: Path) -> None:
    run("npy_out_of_core.py", "--size", "8MiB", "--folder", "kept", folder=tmp_path)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"embeddings.npy", "embeddings.zarr"}


# The column of what is kept, or lost, from the right, and which way it goes as scales become finer.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "column", "sign"), [("weights.py", -1, -1), ("embeddings.py", -2, 1)])
def test_finer_scales_keep_more(name: str, column: int, sign: int, tmp_path: Path) -> None:
    lines = run(name, *RUNS[name][0], folder=tmp_path).splitlines()
    rows = [line.split() for line in lines if " dB " in line]
    decibels = [float(row[row.index("dB") - 1]) for row in rows]
    kept = [sign * float(row[column].rstrip("%")) for row in rows]
    assert decibels[-1] - decibels[0] > 6
    assert kept[-1] > kept[1] > kept[0]


def run(name: str, *arguments: str, folder: Path) -> str:
    """What an example prints; its current and its temporary folder are `folder`."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout
