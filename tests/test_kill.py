"""A run that is killed ten times and run again each time ends in the bytes of one that was not."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stores import check, field, files

from quantize import StoreError, open_int4, quantize_to_zarr

pytestmark = pytest.mark.slow

UNITS = 1000
JOB = {"chunks": (40, 64), "workers": 2}

RUN = """
import sys
from quantize import quantize_to_zarr

def progress(event):
    if hasattr(event, "phase"):
        print(event.phase, event.done, flush=True)

quantize_to_zarr(sys.argv[1], sys.argv[2], chunks=(40, 64), workers=2, progress=progress)
print("sealed", flush=True)
"""


def run_until(source: Path, store: Path, phase: str, done: int) -> str:
    """Run the job, kill it once it has come to a point; the last line it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, str(source), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        line = ""
        for line in child.stdout:
            name, *number = line.split()
            if name == phase and int(number[0]) >= done:
                child.send_signal(signal.SIGKILL)
                break
    return line


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_cost_no_byte(tmp_path: Path, seed: int) -> None:
    values = field((4 * UNITS * 10, 64), seed=seed)
    np.save(tmp_path / "x.npy", values)
    quantize_to_zarr(tmp_path / "x.npy", tmp_path / "whole", **JOB)
    draw = random.Random(seed)
    stops = [(phase, n) for phase in ("scan", "write") for n in sorted(draw.sample(range(UNITS - 100), 5))]
    killed = 0
    for phase, done in stops:
        line = run_until(tmp_path / "x.npy", tmp_path / "z", phase, done)
        if line == "sealed\n":
            break
        killed += 1
        with pytest.raises((StoreError, FileNotFoundError)):
            open_int4(tmp_path / "z")
    assert killed == 10
    array = quantize_to_zarr(tmp_path / "x.npy", tmp_path / "z", **JOB)
    check(array, values)
    assert files(tmp_path / "z") == files(tmp_path / "whole")
