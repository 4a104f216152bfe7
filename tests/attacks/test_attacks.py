"""Hostile stores: only this library's own errors come of them, in bounded time and memory, and never a wrong number."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from attacks import ATTACKS, CHUNKS, VALUES, Attack, deep, layout, listen
from click.testing import CliRunner
from marks import mostly_slow, slow
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, MemoryStore

from quantize import DamagedChunkError, StoreError, open_int4, quantize_to_zarr
from quantize.cli import commands as cli
from quantize.quality.verify import NAMED_DAMAGE, verify
from quantize.store.zarr_json import LEVELS

CORNER = (slice(0, 2), slice(0, 3))
MIB = 1 << 20


@pytest.mark.parametrize(
    "attack", mostly_slow(ATTACKS, [one for one in ATTACKS if not one.slow][::2]), ids=lambda attack: attack.name
)
def test_an_attack_ends_in_its_verdict(tmp_path: Path, attack: Attack) -> None:
    attack.build(tmp_path / "store")
    if attack.opening:
        for call in (open_int4, verify):
            with pytest.raises(StoreError, match=attack.why) as caught:
                call(tmp_path / "store", "data")
            assert type(caught.value) is StoreError
        with pytest.raises(StoreError):
            open_int4(tmp_path / "store")
    else:
        array = open_int4(tmp_path / "store")
        if attack.error is None:
            quantize_to_zarr(VALUES, tmp_path / "sound", **{"chunks": CHUNKS, **(attack.job or {})})
            np.testing.assert_array_equal(array[CORNER], open_int4(tmp_path / "sound")[CORNER])
        else:
            with pytest.raises(attack.error, match=attack.why):
                array[CORNER]
        whole = attack.name.endswith("kept elsewhere") or not attack.found
        assert verify(tmp_path / "store").ok is whole
    for command in ("info", "verify", "read"):
        result = CliRunner().invoke(cli.main, [command, str(tmp_path / "store")])
        assert result.exit_code in (0, 1, 2), result.output


CHILD = """
import json, resource, sys
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
import numpy as np
from attacks import ATTACKS
from quantize import QuantizeError, open_int4, verify

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def all_of(store):
    for call in (lambda: open_int4(store)[:2, :3], lambda: open_int4(store, "data"), lambda: verify(store, workers=2)):
        try:
            call()
        except QuantizeError:
            pass

folder = Path(sys.argv[1])
ATTACKS[0].build(folder / "warm")
all_of(folder / "warm")
for number, attack in enumerate(ATTACKS):
    attack.build(folder / str(number))
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here on
limit = memory("VmSize") + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for number, attack in enumerate(ATTACKS):
    all_of(folder / str(number))
    found[attack.name] = memory("VmHWM") - before
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_all_attacks_together_take_little_memory(tmp_path: Path) -> None:
    """In a process that may not have much, which is stopped if it waits for ever."""
    paths = json.dumps([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", CHILD, str(tmp_path), paths]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    peaks: dict[str, int] = json.loads(result.stdout)
    assert len(peaks) == len(ATTACKS)
    most = max(peaks, key=lambda name: peaks[name])
    print(f"{peaks[most] / MIB:.0f} MiB after {most}")
    assert peaks[most] < 200 * MIB


# One by one -----------------------------------------------------------------------------------------------------------


def test_a_group_that_others_use_too_is_sound(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path, attributes={"title": "mine", "small": 1e-7})
    group.create_array("other", data=VALUES, fill_value=np.nan)
    quantize_to_zarr(VALUES, tmp_path, chunks=CHUNKS, axis=0)
    with pytest.warns(ZarrUserWarning, match="not part in"):
        zarr.consolidate_metadata(tmp_path)
    assert verify(tmp_path).ok


def test_verify_of_a_store_that_claims_much_is_bounded(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path, chunks=CHUNKS)
    layout([8 << 25, 128])(tmp_path)
    found = verify(tmp_path)
    assert (found.chunks, found.whole) == (1 << 26, 4)
    assert {why for _, why in found.damaged[:-1]} == {"it is missing"}
    assert len(found.damaged) == NAMED_DAMAGE + 1
    place, more = found.damaged[-1]
    assert (place, more) == ("data/c", f"{(1 << 26) - 4 - NAMED_DAMAGE:,} more are missing or damaged")
    result = CliRunner().invoke(cli.main, ["verify", str(tmp_path)])
    assert "4 of 67,108,864 chunks are whole" in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize("kind", ["memory", "fsspec"])
@pytest.mark.parametrize("job", [{}, {"shards": (16, 128)}], ids=str)
@pytest.mark.parametrize("data", [b"", b"x", bytes(10_000)], ids=["empty", "short", "long"])
def test_stores_that_are_no_folders(kind: str, job: dict[str, Any], data: bytes) -> None:
    store = MemoryStore() if kind == "memory" else FsspecStore.from_url("memory://attacks")
    array = quantize_to_zarr(VALUES, store, chunks=CHUNKS, overwrite=True, **job)
    keys = array.variable.keys
    assert verify(store).ok
    sound = array[CORNER]
    keys.set("data/c/0/0", data)
    with pytest.raises(DamagedChunkError, match=r"data/c/0/0.* is damaged"):
        array[CORNER]
    assert "data/c/0/0" in verify(store).damaged[0][0]
    quantize_to_zarr(VALUES, store, chunks=CHUNKS, overwrite=True, **job)
    np.testing.assert_array_equal(array[CORNER], sound)
    keys.set("data/zarr.json", bytes(5 << 20) if len(data) > 1 else data)
    with pytest.raises(StoreError, match="longer than" if len(data) > 1 else "not JSON"):
        open_int4(store, "data")
    keys.delete_all("")


@pytest.mark.parametrize("name", ["..", "../data", "data/../data", "/data", "data\0", "zarr.json", ".", "data/"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    quantize_to_zarr(VALUES, tmp_path)
    quantize_to_zarr(VALUES, tmp_path / "x")
    with pytest.raises(StoreError, match="holds no int4 variable"):
        open_int4(tmp_path / "x", name)


def test_files_of_other_names_are_not_looked_into(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path)
    for name in ("a", "..b", "data_x"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / "zarr.json")
    os.mkfifo(tmp_path / "pipe")
    listen(tmp_path / "socket")
    assert verify(tmp_path).ok


@pytest.mark.parametrize(
    ("shape", "options", "why"),
    [
        ((1,) * 65, {}, "65 axes"),
        ((1 << 32, 2), {"chunks": (1 << 31, 2)}, "bytes each, packed"),
        ((1 << 30, 2), {"chunks": (1, 2)}, "1,073,741,824 chunks or shards"),
        ((1 << 22, 2), {"chunks": (1, 2), "shards": (1 << 21, 2)}, "2,097,152 chunks"),
        ((1 << 28, 2), {"chunks": (1 << 28, 2), "axis": 0}, "scales along axis 0"),
    ],
    ids=str,
)
def test_what_no_reader_would_take_is_not_written(shape: Any, options: dict[str, Any], why: str) -> None:
    class Claim:
        dtype = np.dtype(np.float32)

        def __getitem__(self, index: Any) -> np.ndarray:
            return np.zeros([part.stop - part.start for part in index], np.float32)

    source, store = Claim(), MemoryStore()
    source.shape = shape  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=why):
        quantize_to_zarr(source, store, **options)
    assert store._store_dict == {}


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"a": "x" * (1 << 22)}, "bytes long"),
        slow({"a": [[]] * (1 << 20)}, "bytes long"),
        ({"a": deep(LEVELS)}, "more than 100 deep"),
    ],
    ids=["long", "wide", "deep"],
)
def test_attributes_that_no_reader_would_take_are_not_written(attributes: dict[str, Any], why: str) -> None:
    source = zarr.create_array(MemoryStore(), data=VALUES, attributes=attributes)
    store = MemoryStore()
    with pytest.raises(ValueError, match=f"attributes of the source.*{re.escape(why)}"):
        quantize_to_zarr(source, store)
    assert store._store_dict == {}
