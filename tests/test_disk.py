"""A disk that fills up in the middle of a run: it says where, how far it came and how to go on, and then goes on."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import slow
from stores import field, files

from quantize import quantize_to_zarr

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits files and mounts disks as Linux does")

VALUES = field((800, 1000))  # chunks of 20 kB in the store, that no codec makes much smaller
JOB = {"chunks": (50, 1000), "workers": 2}
ARGUMENTS = ["--chunks", "50,-1", "--workers", "2"]

# No file may be longer than 10 kB, once what is compiled is there.
LIMITED = """
import resource, sys
import numpy as np
import quantize
from quantize import cli
from zarr.storage import MemoryStore
quantize.quantize_to_zarr(np.zeros(9, np.float32), MemoryStore())
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
cli.main()
"""

# Once the plan is made and the variable created, another takes all that is left of the disk but a few chunks.
TAKEN = """
import shutil, sys
from pathlib import Path
from quantize import cli
from quantize.runtime.claim import Claim
take = Claim.take
def take_and_fill(claim, overwrite):
    found = take(claim, overwrite)
    disk = Path(sys.argv[3]).parent
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - {left}))
    return found
Claim.take = take_and_fill
cli.main()
"""


def run(*arguments: object, code: str = "from quantize import cli; cli.main()") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def whole(folder: Path, **options: Any) -> dict[str, bytes]:
    """The files of the whole job, whose source is left there too."""
    np.save(folder / "x.npy", VALUES)
    quantize_to_zarr(folder / "x.npy", folder / "whole", **JOB, **options)
    return files(folder / "whole")


def again(stderr: str) -> list[str]:
    """The arguments of the command that the last line says to run."""
    name, *arguments = shlex.split(stderr.splitlines()[-1])
    assert name == "quantize"
    return arguments


@pytest.mark.slow
def test_files_that_may_grow_no_longer(tmp_path: Path) -> None:
    wanted = whole(tmp_path)
    full = run("run", tmp_path / "x.npy", tmp_path / "z", *ARGUMENTS, code=LIMITED)
    assert full.returncode == 3, full.stderr
    assert "Traceback" not in full.stderr
    assert re.search(r"error: \S+/z/data/c/\d+/0: File too large \(pass 2 of 2, write: 0 of 16 chunks\)", full.stderr)
    assert not [name for name in files(tmp_path / "z") if name.endswith(".partial")]
    done = run(*again(full.stderr))
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "z") == wanted


@pytest.mark.parametrize(
    ("left", "place", "reached", "blocks"),
    [
        slow(0, "data_scan/zarr.json", "nothing done yet", None),
        slow(180_000, r"data/c/\d+/0", r"pass 2 of 2, write: \d of 16 chunks", None),
        slow(180_000, r"data/(\.int4/\w+/)?c/\d+/0", r"pass 1 of 1, write: \d of 16 chunks", (1, 20)),
    ],
    ids=["nothing left", "some left", "blocks"],
)
def test_a_disk_that_fills_up(tmp_path: Path, left: int, place: str, reached: str, blocks: Any) -> None:
    """The disk is a small one, which is there for these processes only."""
    wanted = whole(tmp_path, blocks=blocks)
    arguments = [*ARGUMENTS, *(["--blocks", ",".join(map(str, blocks))] if blocks else [])]
    disk = tmp_path / "disk"
    disk.mkdir()
    first = shlex.join([sys.executable, "-c", TAKEN.format(left=left), "run", str(tmp_path / "x.npy"), str(disk / "z")])
    script = f"""
    mount -t tmpfs -o size=2m tmpfs {disk} || exit 77
    {first} {shlex.join(arguments)} 2> {tmp_path}/stderr
    echo $? > {tmp_path}/code
    cp -r {disk}/z {tmp_path}/unfinished
    rm {disk}/ballast
    {sys.executable} -m quantize.cli $(tail -n 1 {tmp_path}/stderr | sed s/quantize//) || exit
    cp -r {disk}/z {tmp_path}/z
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount a small disk with")
    command = ["unshare", "-rm", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"cannot mount a small disk here: {done.stderr}")
    said = (tmp_path / "stderr").read_text()
    assert (tmp_path / "code").read_text() == "3\n", said
    assert "Traceback" not in said
    assert re.search(rf"error: \S+/z/{place}: No space left on device \({reached}\)", said)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "z") == wanted
    assert not [name for name in files(tmp_path / "unfinished") if name.endswith(".partial")]
