"""With `durable` the disk holds every file and folder before the variable counts as whole, and then that it does."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import files

from quantize import quantize_to_zarr
from quantize.store.keys import Keys

VALUES = np.linspace(-3, 5, 24 * 6, dtype=np.float32).reshape(24, 6)


def noted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """What is set, and what the disk is made to hold, in order."""
    events: list[tuple[str, str]] = []
    sync, put = os.fsync, Keys.set

    def fsync(number: int) -> None:
        events.append(("sync", str(Path(os.readlink(f"/proc/self/fd/{number}")).relative_to(folder))))
        sync(number)

    def set_key(self: Keys, key: str, data: Any) -> None:
        put(self, key, data)
        events.append(("set", key))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Keys, "set", set_key)
    return events


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells the names of open files by /proc")
@pytest.mark.parametrize("job", [{}, {"axis": 0}, {"blocks": (1, 3)}], ids=str)
def test_the_disk_holds_everything_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]
) -> None:
    events = noted(monkeypatch, tmp_path)
    quantize_to_zarr(VALUES, tmp_path, chunks=(4, 6), workers=1, durable=True, **job)
    seal = max(place for place, event in enumerate(events) if event == ("set", "data/zarr.json"))
    before = {name for kind, name in events[:seal] if kind == "sync"}
    after = {name for kind, name in events[seal:] if kind == "sync"}
    stored = set(files(tmp_path)) - {"zarr.json"}
    folders = {str(parent) for name in stored for parent in Path(name).parents} - {"."}
    assert stored | folders <= before
    assert {"data/zarr.json", "data", "zarr.json", "."} <= after
    written = {name: place for place, (kind, name) in enumerate(events) if kind == "set"}
    held = {name: place for place, (kind, name) in enumerate(events) if kind == "sync"}
    assert all(held[name] > written.get(name, -1) for name in stored), "each is held as it was written last"


def test_without_it_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = noted(monkeypatch, tmp_path)
    quantize_to_zarr(VALUES, tmp_path, chunks=(4, 6), workers=1)
    assert not [event for event in events if event[0] == "sync"]
