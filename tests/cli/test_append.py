"""`quantize append` as somebody runs it who does not know what the last one has left."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from click.testing import CliRunner, Result

from quantize.cli import commands as cli
from quantize.reading.opening import open_int4
from quantize.runtime.growing import Growing
from quantize.runtime.growing_collections import AppendAll
from quantize.store.growth import JOURNAL

VALUES = np.random.default_rng(0).normal(280, 5, (60, 50)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and what is appended to it, which tests copy."""
    folder = tmp_path_factory.mktemp("made")
    inside = VALUES[40:].clip(VALUES[:40].min(), VALUES[:40].max())
    hole = inside.copy()
    hole[3, 4] = np.nan
    sources = {"a": VALUES[:40], "b": inside, "wide": VALUES[:, :20], "double": inside.astype("f8"), "hole": hole}
    for name, values in {**sources, "far": inside + 100, "other": inside[::-1]}.items():
        np.save(folder / f"{name}.npy", values)
    assert quantize("run", folder / "a.npy", folder / "x.zarr", "--chunks", "8,50").exit_code == 0
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "x.zarr", tmp_path / "x.zarr"))


def quantize(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_it_says_its_plan_and_in_one_line_what_it_did(store: Path, made: Path) -> None:
    result = quantize("append", made / "b.npy", store, "--workers", "1")
    assert result.exit_code == 0
    assert re.fullmatch(rf"appended {made}/b.npy to {store}/data in \d\.\d s: its shape is \(60, 50\)\n", result.stdout)
    assert "behind index 39 of axis 0, in chunks of (8, 50) values\n" in result.stderr
    assert "scale        the one that is there, 1 pass\n" in result.stderr
    assert "append: 3 of 3 chunks" in result.stderr
    assert open_int4(store).shape == (60, 50)
    shown = quantize("info", store).stdout
    assert "appended    once, the last along axis 0\n" in shown
    assert re.search(r"values +3,000 from 26\d\.\d+ to 29\d\.\d+\n", shown)


def test_as_json(store: Path, made: Path) -> None:
    found = document(quantize("append", made / "b.npy", store, "--json"))
    assert (found["shape"], found["worked"]) == ([60, 50], True)
    assert found["appended"] == {"times": 1, "axis": 0, "saturated": 0}
    assert found["under_way"] is None
    assert found["statistics"]["count"] == 3000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("double.npy x.zarr", 2, "is of float64, and "),
        ("wide.npy x.zarr", 2, "but for axis 0, along which it is appended, they must be the same"),
        ("b.npy x.zarr --axis 1", 2, "but for axis 1, along which it is appended, they must be the same"),
        ("b.npy x.zarr --axis 2", 2, "axis 2 is out of bounds"),
        ("hole.npy x.zarr", 1, "1 NaN; the first refused value is at index (3, 4). --nan-policy propagate"),
        ("far.npy x.zarr", 1, "1,000 values lie outside the range of the scale"),
        ("b.npy none.zarr", 2, "none.zarr does not exist"),
        ("none.npy x.zarr", 2, "none.npy does not exist"),
        ("b.npy x.zarr --name c", 2, "holds no int4 variable 'c'; there are: data"),
        ("b.npy", 2, "it takes SRC STORE, and got b.npy"),
        ("--discard", 2, "it takes --discard STORE, with no SRC, and got nothing"),
        ("--discard b.npy x.zarr", 2, "it takes --discard STORE, with no SRC, and got b.npy x.zarr"),
    ],
)
def test_what_does_not_fit_is_told_and_changes_nothing(
    store: Path, made: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, said: str
) -> None:
    for source in made.glob("*.npy"):
        (store.parent / source.name).symlink_to(source)
    monkeypatch.chdir(store.parent)
    before = files(store)
    result = quantize("append", *arguments.split())
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.count("error: ") == 1
    assert files(store) == before


def test_the_same_twice_is_an_error_unless_it_is_meant(store: Path, made: Path) -> None:
    assert quantize("append", made / "b.npy", store).exit_code == 0
    result = quantize("append", made / "b.npy", store)
    assert result.exit_code == 2
    assert "last, as indices 40 to 59 of axis 0. If that was this call, nothing is left to do; pass --again to" in (
        result.stderr
    )
    assert quantize("append", made / "b.npy", store, "--again").exit_code == 0
    assert open_int4(store).shape == (80, 50)
    assert "appended    2 times, the last along axis 0\n" in quantize("info", store).stdout


def test_what_saturates_is_counted(store: Path, made: Path) -> None:
    result = quantize("append", made / "far.npy", store, "--outside", "saturate")
    assert ": its shape is (60, 50). 1,000 of all that was appended saturated\n" in result.stdout
    assert "once, the last along axis 0, 1,000 values of it saturated\n" in quantize("info", store).stdout
    assert document(quantize("info", store, "--json"))["appended"]["saturated"] == 1000


def test_one_that_is_stopped_says_how_to_go_on(store: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "commit", dies)
        result = quantize("append", made / "b.npy", store)
    assert result.exit_code == 3
    line, command = result.stderr.splitlines()[-2:]
    assert line == (f"error: stopped (append: 3 of 3 chunks). {store} still reads as it did before. To go on, run")
    assert open_int4(store).shape == (40, 50)
    assert quantize(*command.split()[1:]).exit_code == 0
    assert open_int4(store).shape == (60, 50)


def test_what_is_under_way_is_told_and_can_be_discarded(
    store: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(store)
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "commit", dies)
        assert quantize("append", made / "b.npy", store).exit_code == 3
    said = (
        "an append of 20 along axis 0, behind index 39. If it died, run it again, or discard it: "
        f"quantize append --discard {store}\n"
    )
    shown = quantize("info", store)
    assert shown.exit_code == 0
    assert f"under way   {said}" in shown.stdout
    assert ", with what is under way\n" in shown.stdout
    found = document(quantize("info", store, "--json"))["under_way"]
    assert {key: found[key] for key in ("what", "axis", "start", "stop")} == {
        "what": "append", "axis": 0, "start": 40, "stop": 60
    }  # fmt: skip
    assert quantize("verify", store).stderr.endswith(f"note: not part of the array yet, and not looked at: {said}")
    other = quantize("append", made / "other.npy", store)
    assert other.exit_code == 2
    assert "an append of 20 along axis 0, from index 40 on, is under way or was killed" in other.stderr
    assert other.stderr.endswith("discard it: quantize append --discard STORE\n")
    result = quantize("append", "--discard", store)
    assert result.stdout == f"discarded what was being appended to {store}/data: its shape is (40, 50)\n"
    assert files(store) == before
    result = quantize("append", "--discard", store)
    assert (result.stdout, result.exit_code) == (
        f"nothing was being appended to {store}/data: its shape is (40, 50)\n", 0
    )  # fmt: skip


def test_one_that_died_just_after_its_commit_is_done(store: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "finish", dies)
        assert quantize("append", made / "b.npy", store).exit_code == 3
    assert "under way" not in quantize("info", store).stdout
    result = quantize("append", made / "b.npy", store)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"nothing to do: {made / 'b.npy'} has been appended to {store}/data already")
    assert open_int4(store).shape == (60, 50)


def test_a_discard_that_died_goes_on(store: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(store)
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "commit", dies)
        quantize("append", made / "b.npy", store)
        patch.setattr(Growing, "finish", dies)
        quantize("append", "--discard", store)
    assert "which was given up, but not all of it is removed: quantize append --discard" in (
        quantize("info", store).stdout
    )
    assert quantize("append", "--discard", store).exit_code == 0
    assert files(store) == before


def test_a_damaged_journal_is_told(store: Path) -> None:
    journal = store / "data" / JOURNAL
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{")
    shown = quantize("info", store)
    assert shown.exit_code == 0
    assert re.search(r"under way +.*append\.json is damaged", shown.stdout)


def test_another_variable_is_named_in_the_command_that_discards(
    store: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quantize("run", made / "a.npy", store, "--name", "b").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "commit", dies)
        quantize("append", made / "b.npy", store, "--name", "b")
    shown = quantize("info", store, "--name", "b").stdout
    command = shown.rsplit("discard it: ", 1)[1].split()
    assert command[1:] == ["append", "--discard", str(store), "--name", "b"]
    assert quantize(*command[1:]).stdout.startswith("discarded ")


@pytest.mark.slow
def test_one_that_is_killed_goes_on(store: Path, tmp_path: Path) -> None:
    """With SIGKILL, at several moments: the same command, as often as it takes, ends as one that is not disturbed."""
    values = np.random.default_rng(1).uniform(VALUES[:40].min(), VALUES[:40].max(), (8_000, 50)).astype(np.float32)
    np.save(tmp_path / "more.npy", values)
    whole = Path(shutil.copytree(store, tmp_path / "whole.zarr"))
    assert quantize("append", tmp_path / "more.npy", whole).exit_code == 0
    command = [sys.executable, "-m", "quantize.cli", "append", str(tmp_path / "more.npy"), str(store)]
    killed = 0
    for chunks in (20, 200, 500, 900):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((store / "data" / "c").iterdir())) < chunks:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert open_int4(store).shape[0] in (40, 8040)
    assert killed
    assert subprocess.run(command, capture_output=True).returncode in (0, 2)  # 2: the last was killed after its end
    ours, theirs = (
        {key: data for key, data in files(folder).items() if not key.endswith("zarr.json")} for folder in (store, whole)
    )
    assert ours == theirs
    np.testing.assert_array_equal(open_int4(store)[:], open_int4(whole)[:])


# Collections ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """A store of a dataset's first month, and its other months as files beside it."""
    times = np.arange("2001-01-01", "2001-04-01", dtype="M8[D]").astype("M8[ns]")
    variables = {"t2m": (("time", "lat"), np.linspace(250, 310, 90 * 200, dtype=np.float32).reshape(90, 200))}
    year = xarray.Dataset(variables, {"time": times, "lat": np.linspace(-90, 90, 200)})
    for number, (_, part) in enumerate(year.resample(time="MS")):
        part.to_netcdf(tmp_path / f"{number}.nc", encoding={"time": {"units": "hours since 1900-01-01"}})
    store = tmp_path / "months.zarr"
    assert quantize("run", tmp_path / "0.nc", store, "--rule", "t2m:blocks=1,8", "--select", "t2m").exit_code == 0
    return store


def test_a_collection_is_appended_to_as_a_whole(months: Path) -> None:
    source = months.with_name("1.nc")
    result = quantize("append", source, months, "--axis", "time")
    assert re.fullmatch(rf"appended {source} to {months} in \d\.\d s\n", result.stdout)
    assert "appended    once, the last along time\n" in quantize("info", months).stdout
    found = document(quantize("info", months, "--json"))
    assert (found["appended"], found["under_way"]) == ({"times": 1, "axis": "time", "saturated": 0}, None)
    assert {one["name"]: one["shape"] for one in found["variables"]} == {"lat": [200], "t2m": [59, 200], "time": [59]}
    result = quantize("append", source, months, "--axis", "time")
    assert (result.exit_code, result.stderr.count("--again")) == (2, 1)
    assert quantize("append", source, months, "--axis", "day").exit_code == 2


def test_what_is_under_way_at_a_collection_is_told_and_can_be_discarded(
    months: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(months)
    with monkeypatch.context() as patch:
        patch.setattr(AppendAll, "commit", dies)
        result = quantize("append", months.with_name("1.nc"), months, "--axis", "time")
    assert result.exit_code == 3
    assert f"{months} still reads as it did before. To go on, run\n" in result.stderr
    said = (
        "an append of 28 along the dimension time, behind index 30. If it died, run it again, or discard it: "
        f"quantize append --discard {months}\n"
    )
    assert f"under way   {said}" in quantize("info", months).stdout
    assert quantize("verify", months).stderr.endswith(f"note: not part of the array yet, and not looked at: {said}")
    assert quantize("append", months.with_name("2.nc"), months, "--axis", "time").exit_code == 2
    result = quantize("append", "--discard", months)
    assert result.stdout == f"discarded what was being appended to {months}\n"
    assert files(months) == before
    assert quantize("append", "--discard", months).stdout == f"nothing was being appended to {months}\n"
