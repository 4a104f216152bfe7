"""Progress in words, and drawn for whoever asks for it."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

from quantize import measure_error, quantize_part, quantize_to_zarr, restore, verify
from quantize.runtime import display
from quantize.runtime.display import Account, Drawing
from quantize.runtime.progress import Progress

VALUES = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)


def test_the_time_left_is_told_once_a_few_chunks_are_done() -> None:
    """The first one waits for what is compiled, and counts for nothing."""
    account = Account()
    account.began = 0.0
    lines = []
    for now, done in ((0.0, 100), (50.0, 102), (51.0, 104), (54.0, 110), (99.0, 200)):
        account.take(Progress("scan", done, 200, 100, (done - 100) * 10**6), now)
        lines.append(account.line(now))
    assert lines == [
        "scan: 100 of 200 chunks, 100 done before",
        "scan: 102 of 200 chunks, 40 kB/s, 100 done before",
        "scan: 104 of 200 chunks, 78 kB/s, 100 done before",
        "scan: 110 of 200 chunks, 45.0 s left, 185 kB/s, 100 done before",
        "scan: 200 of 200 chunks, 1 min 39 s, 1.0 MB/s, 100 done before",
    ]


def test_whoever_passes_true_has_it_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    store: Any = MemoryStore()
    quantize_to_zarr(VALUES, store, chunks=(5, 3), progress=True)
    said = capsys.readouterr().err
    assert re.fullmatch(r"pass 1 of 2, scan: 4 of 4 .*\npass 2 of 2, write: 4 of 4 .*\n", said)
    verify(store, progress=True)
    restore(store, tmp_path / "x.npy", progress=True)
    measure_error(VALUES, store, progress=True)
    quantize_part(VALUES, MemoryStore(), 1, 1, progress=True)
    said = capsys.readouterr().err
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        *("verify", "restore", "measure", "pass 1 of 2, scan", "pass 2 of 2, write"),
    ]
    quantize_to_zarr(VALUES, MemoryStore(), progress=False)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_is_drawn_over(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(display, "DRAWN_INTERVAL", 0.0)
    draw = Drawing()
    for done in range(3):
        draw(Progress("verify", done, 2, 0, 0))
    said = capsys.readouterr().err
    assert said.count("\r\x1b[Kverify: ") == 3
    assert said.count("\n") == 1


def test_in_a_notebook_one_output_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown[-1] = data["text/plain"]

    def show(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=show))
    quantize_to_zarr(VALUES, MemoryStore(), chunks=(5, 3), progress=True)
    assert [line.partition(",")[0] for line in shown] == ["pass 1 of 2", "pass 2 of 2"]
    assert all(": 4 of 4 chunks" in line for line in shown)
