"""The command line over datasets and checkpoints: several variables at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from stores import files

from quantize import open_int4
from quantize.cli import commands as cli
from quantize.cli import options

FIELD = np.random.default_rng(0).normal(280, 5, (6, 30, 40)).astype(np.float32)
FIELD[1, 2, 3] = np.nan
DIMS = ("time", "lat", "lon")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source and its store, which tests only read."""
    folder = tmp_path_factory.mktemp("made")
    group = zarr.create_group(folder / "w", attributes={"title": "x"})
    group.create_array("t", data=FIELD, chunks=(2, 30, 40), dimension_names=DIMS, attributes={"units": "K"})
    group.create_array("sea/p", data=np.nan_to_num(FIELD), dimension_names=DIMS)
    group.create_array("lat", data=np.arange(30.0), dimension_names=["lat"], attributes={"units": "degrees_north"})
    group.create_array("ids", data=np.arange(7))
    zarr.create_group(folder / "single").create_array("only", data=FIELD, dimension_names=DIMS)
    ran = quantize("run", folder / "w", folder / "x.zarr", "--rule", "t:axis=lat,scale-method=mse")
    assert ran.exit_code == 0, ran.stderr
    return folder


def quantize(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def document(result: Result) -> Any:
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


# Rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t2m:axis=latitude", ("t2m", {"axis": "latitude"})),
        ("t2m:axis=-1,nan-policy=raise", ("t2m", {"axis": -1, "nan_policy": "raise"})),
        ("*:w:*:blocks=1,32,finest=0.5", ("*:w:*", {"blocks": (1, 32), "finest": 0.5})),
        ("dim=lat:chunks=time:10,lat:-1", ("dim=lat", {"chunks": {"time": 10, "lat": -1}})),
        ("a:value_range=240,310,missing=none", ("a", {"value_range": (240.0, 310.0), "missing": None})),
        ("a:decode=false,floats=true,missing=-9", ("a", {"decode": False, "floats": True, "missing": -9})),
        ("a:blocks=32", ("a", {"blocks": 32})),
    ],
)
def test_rules(text: str, expected: Any) -> None:
    assert options.rule(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t2m", "is not a pattern and its settings"),
        ("axis=1", "is not a pattern and its settings"),
        ("a:blocks=x", "blocks of .* 'x' is not one length"),
        ("a:blocks=lat:4,8", "blocks of .* is not one length"),
        ("a:decode=yes", "neither true nor false"),
        ("a:axis=1,axis=2", "sets axis twice"),
        ("a:finest=much", "'much' is not a number"),
    ],
)
def test_rules_that_are_none(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        options.rule(text)


# plan and run ---------------------------------------------------------------------------------------------------------


def test_a_plan_shows_each_variable(made: Path) -> None:
    result = quantize("plan", made / "w", made / "y.zarr", "--keep", "sea/*", "--drop", "ids", "--axis", "lat")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["variable", "lat", "sea/p", "t"]
    assert "keep says so" in lines[2]
    assert "indices of axis 1" in lines[3] or "index of axis 1" in lines[3]
    plan = document(quantize("plan", made / "w", made / "y.zarr", "--select", "t", "--json"))
    assert [(one["name"], one["kept"] is None) for one in plan["variables"]] == [
        ("ids", False),
        ("lat", False),
        ("sea/p", False),
        ("t", True),
    ]
    assert not (made / "y.zarr").exists()


def test_a_run_says_what_was_made_and_goes_on(tmp_path: Path, made: Path) -> None:
    arguments = ("run", made / "w", tmp_path / "x.zarr", "--blocks", "lat:5,lon:8", "--rule", "t:axis=1")
    first = quantize(*arguments)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith(f"wrote {tmp_path}/x.zarr in ")
    assert "quantized   2 variables" in first.stdout
    assert "kept        2 variables" in first.stdout
    assert "pass 1 of" in first.stderr
    dataset = open_int4(tmp_path / "x.zarr")
    assert dataset["t"].axis == 1
    assert dataset["sea/p"].blocks == (1, 5, 8)
    assert (dataset["t"].nan_code is None, dataset["sea/p"].nan_code is None) == (False, True)
    before = files(tmp_path)
    again = quantize(*arguments, "--json")
    found = document(again)
    assert (found["worked"], found["quantized"], found["kept"]) == (False, 2, 2)
    assert {one["name"]: one["kind"] for one in found["variables"]}["sea/p"] == "int4"
    assert files(tmp_path) == before
    other = quantize("run", made / "w", tmp_path / "x.zarr", "--blocks", "8")
    assert other.exit_code == 2
    assert "of another job" in other.stderr
    assert "Pass --overwrite" in other.stderr
    assert quantize("run", made / "w", tmp_path / "x.zarr", "--blocks", "8", "--overwrite").exit_code == 0
    assert open_int4(tmp_path / "x.zarr")["t"].blocks == (1, 1, 8)


def test_a_run_that_quantizes_nothing_says_so(tmp_path: Path, made: Path) -> None:
    result = quantize("run", made / "w", tmp_path / "x.zarr", "--keep", "*")
    assert result.exit_code == 0
    assert "warning: nothing of" in result.stderr
    assert open_int4(tmp_path / "x.zarr").quantized == []


def test_a_group_with_one_array_is_that_array(tmp_path: Path, made: Path) -> None:
    arguments = ("--axis", "lat", "--nan-policy", "propagate")
    assert quantize("run", made / "single", tmp_path / "one.zarr", *arguments).exit_code == 0
    array = open_int4(tmp_path / "one.zarr")
    assert (array.name, array.axis) == ("data", 1)
    assert quantize("run", made / "single", tmp_path / "all.zarr", "--select", "only").exit_code == 0
    assert list(open_int4(tmp_path / "all.zarr")) == ["only"]
    assert quantize("run", f"{made}/w::t", tmp_path / "named.zarr", *arguments).exit_code == 0
    assert open_int4(tmp_path / "named.zarr").shape == FIELD.shape


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("run {}/w {}/y.zarr --name t", 2, "--name goes with one array, .* holds 4, .*name an array, as in .*/w/"),
        ("plan {}/w {}/y.zarr --name t", 2, "--name goes with one array"),
        ("run {}/w {}/y.zarr --part 1/2", 2, "--part goes with one array, .* written together"),
        ("run {}/w/t {}/y.zarr --select t", 2, "--select chooses among several variables, and .*/t is one array"),
        ("run {}/w/t {}/y.zarr --nan-policy auto", 2, "--nan-policy auto is for several variables"),
        ("plan {}/w/t {}/y.zarr --axis latitude", 2, "'--axis': .* no dimension 'latitude', but time, lat, lon"),
        ("plan {}/w/t {}/y.zarr --blocks x:4", 2, "'--blocks': .* no dimension 'x'"),
        ("plan {}/w {}/y.zarr --axis latitude", 2, "sea/p has no dimension 'latitude'"),
        ("plan {}/w {}/y.zarr --rule s:axis=1", 2, "rule 's' matches no variable"),
        ("plan {}/w {}/y.zarr --rule t:axi=1", 2, "'axi', which is no setting; did you mean 'axis'"),
        ("plan {}/w {}/y.zarr --rule t", 2, "'--rule'"),
        ("plan {}/w {}/y.zarr --keep nothing*", 2, "keep 'nothing[*]' matches no variable"),
        ("run {}/x.zarr {}/y.zarr", 2, "is int4 already"),
        ("run {}/w {}/y.zarr --nan-policy raise", 1, "1 NaN; the first refused value is at index"),
        ("info {}/x.zarr/gone", 2, "holds no int4 variable 'gone'"),
        ("verify {}/x.zarr {}/single", 2, "single has no ids, lat, sea/p, t, which the store has"),
        ("restore {}/x.zarr {}/y.h5", 2, "y.h5 ends with .h5"),
        ("restore {}/x.zarr {}/y.npy", 2, "y.npy ends with .npy, but .* ends with .*.nc"),
        ("restore {}/x.zarr {}/y.nc --scheduler x:1", 2, "--scheduler does not go with .*y.nc"),
        ("report {}/x.zarr {}/w -o {}/y.pdf", 2, "y.pdf ends with .pdf"),
    ],
)
def test_what_is_refused(tmp_path: Path, made: Path, arguments: str, code: int, said: str) -> None:
    words = arguments.replace("{}/y", f"{tmp_path}/y").replace("{}", str(made)).split()
    result = quantize(*words)
    assert result.exit_code == code, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert re.search(said, result.stderr), result.stderr


# What is there --------------------------------------------------------------------------------------------------------


def test_info_of_all_and_of_one(made: Path) -> None:
    result = quantize("info", made / "x.zarr")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:6]] == ["variable", "ids", "lat", "sea/p", "t"]
    found = document(quantize("info", made / "x.zarr", "--json"))
    assert found["nbytes"] == 2 * FIELD.nbytes + 30 * 8 + 7 * 8
    assert found["nbytes_stored"] == sum(one["nbytes_stored"] for one in found["variables"])
    for path, word in (("lat", "degrees_north"), ("sea/p", "minmax"), ("t", "indices of axis 1")):
        assert word in quantize("info", made / "x.zarr" / path).stdout
        assert word in quantize("info", made / "x.zarr", "--name", path).stdout
    assert document(quantize("info", made / "x.zarr/ids", "--json"))["kind"] == "kept"


def test_info_of_an_unfinished_collection(tmp_path: Path, made: Path) -> None:
    run = quantize("run", made / "w", tmp_path / "y.zarr", "--nan-policy", "raise", "--blocks", 8)
    assert run.exit_code == 1, run.stderr
    result = quantize("info", tmp_path / "y.zarr")
    assert result.exit_code == 3
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[2:])
    assert rows["ids"].endswith("kept  whole")
    assert rows["t"].endswith("int4  not begun")
    assert "2 of 4 variables are not whole: run `quantize run` with" in result.stderr
    found = document(quantize("info", tmp_path / "y.zarr", "--json"))
    assert [one["name"] for one in found["variables"] if not one["whole"]] == ["sea/p", "t"]
    assert quantize("read", tmp_path / "y.zarr/ids").stdout == "[0 1 2 3 4 5 6]\n"
    assert quantize("info", tmp_path / "y.zarr/sea/p").exit_code == 3
    for command in (("verify",), ("restore",), ("report", made / "w")):
        extra = [tmp_path / "z.nc"] if command == ("restore",) else []
        failed = quantize(command[0], tmp_path / "y.zarr", *command[1:], *extra)
        assert failed.exit_code == 3, failed.output
        assert "unfinished collection" in failed.stderr


def test_read_of_a_kept_variable(tmp_path: Path, made: Path) -> None:
    assert quantize("read", made / "x.zarr/lat", "--region", "-2:").stdout == "[28. 29.]\n"
    assert quantize("read", made / "x.zarr", "--name", "ids", "-o", tmp_path / "i.npy").exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "i.npy"), np.arange(7))


def test_verify_names_what_is_damaged(tmp_path: Path, made: Path) -> None:
    result = quantize("verify", made / "x.zarr", made / "w")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"chunks of 4 variables are whole, with the codes of {made}/w\n")
    assert quantize("run", made / "w", tmp_path / "y.zarr").exit_code == 0
    os.truncate(tmp_path / "y.zarr/ids/c/0", 3)
    (tmp_path / "y.zarr/sea/zarr.json").unlink()
    found = quantize("verify", tmp_path / "y.zarr", "--json")
    assert found.exit_code == 1
    assert [one["key"] for one in document(found)["damaged"]] == ["sea/zarr.json", "ids/c/0"]
    assert "is damaged: restore it from a copy" in found.stderr


def test_report_and_restore(tmp_path: Path, made: Path) -> None:
    result = quantize("report", made / "x.zarr", made / "w", "-o", tmp_path / "r.html")
    assert result.exit_code == 0, result.stderr
    assert "2 variables are kept, identical" in result.stdout
    assert document(quantize("restore", made / "x.zarr", tmp_path / "y.zarr", "--json")) == {
        "path": f"{tmp_path}/y.zarr"
    }
    group = zarr.open_group(tmp_path / "y.zarr", mode="r")
    assert dict(group.attrs) == {"title": "x"}
    np.testing.assert_array_equal(group["sea/p"][...], open_int4(made / "x.zarr")["sea/p"][...])
    np.testing.assert_array_equal(group["ids"][...], np.arange(7))
    assert set(files(tmp_path / "y.zarr")) >= {"zarr.json", "sea/zarr.json", "lat/c/0"}


# Stopped --------------------------------------------------------------------------------------------------------------

HELD = """
import os, signal, sys, threading
from quantize import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
from quantize.store.plain_arrays import PlainArray
encoded = PlainArray.encoded
def held(plain, values):
    if plain.folder == "b":
        os.write(1, b"held\\n")
        threading.Event().wait(30)
    return encoded(plain, values)
PlainArray.encoded = held
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    group = zarr.create_group(tmp_path / "w")
    for name in "abc":
        group.create_array(name, data=np.arange(20) + ord(name))
    group.create_array("t", data=FIELD)
    arguments = ["run", str(tmp_path / "w"), str(tmp_path / "x.zarr"), "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", HELD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        time.sleep(0.2)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 3
        assert f"To go on, run\n  quantize {' '.join(arguments)}" in said
    assert quantize("info", tmp_path / "x.zarr").exit_code == 3
    assert quantize(*arguments).exit_code == 0
    assert quantize("verify", tmp_path / "x.zarr", tmp_path / "w").exit_code == 0
