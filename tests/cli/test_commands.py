import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import click
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from marks import slow

from quantize.cli import commands as cli
from quantize.cli import options, terminal
from quantize.reading.opening import open_int4

VALUES = np.random.default_rng(0).normal(280, 5, (40, 50)).astype(np.float32)
SMALL = ("--chunks", "8,10", "--workers", "1")

# A run whose reads, from one of them on, which sends a signal, take until the run is told to stop. How many began after
# it, and how many of those once it was told.
BLOCKED = """
import os, signal, sys, threading
from quantize import cli
from quantize.io import source as sources
from quantize.io.formats import npy
from quantize.runtime import units
signal.signal(signal.SIGINT, signal.default_int_handler)
read, reserve, lock = npy.FileSource.read, units.UnitCache.__init__, threading.Lock()
count = told = 0
def remember(shelf, room=0):
    global stop
    reserve(shelf, room)
    stop = shelf.stop
def read_or_wait(source, region):
    global count, told
    with lock:
        count += 1
        number = count
    if number == {at}:
        os.kill(os.getpid(), {number})
    if number >= {at}:
        told += stop.is_set()
        stop.wait(30)
    return read(source, region)
sources.PIECE_BYTES = npy.PIECE_BYTES = 1 << 8
units.UnitCache.__init__, npy.FileSource.read = remember, read_or_wait
try:
    cli.main()
finally:
    print("more reads:", count - {at}, "once told:", told, file=sys.stderr)
"""

# A command which is held up in all its threads but the main one, from some call on until standard input ends. Signals
# go to one of those threads, not to the main one.
HELD = """
import os, signal, sys, threading
from quantize import cli
from quantize.cli import terminal
from quantize.io.formats.npy import FileSource
from quantize.store.chunks import ChunkReader
SIGNALS = {{signal.SIGINT, signal.SIGTERM, signal.SIGHUP}}
signal.signal(signal.SIGINT, signal.{interrupt})
signal.signal(signal.SIGHUP, signal.{hangup})
terminal.LAST_GRACE = {grace}
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
call, lock, count = {call}, threading.Lock(), 0
def held(*arguments):
    global count
    if threading.current_thread() is not threading.main_thread():
        with lock:
            count += 1
            number = count
        if number >= {at}:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.write(1, b"held\\n")
            os.read(0, 1)
    return call(*arguments)
{call} = held
cli.main()
"""


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is full")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source and a store of each kind, which tests only read."""
    folder = tmp_path_factory.mktemp("made")
    holes = VALUES.copy()
    holes[3, 4] = np.nan
    np.save(folder / "a.npy", VALUES)
    np.save(folder / "holes.npy", holes)
    np.save(folder / "flat.npy", VALUES.ravel())
    np.save(folder / "truth.npy", VALUES > 280)
    np.save(folder / "none.npy", VALUES[:0])
    (folder / "text.txt").write_text("1 2 3")
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:1000])
    (folder / "folder").mkdir()
    (folder / "folder" / "letter.txt").write_text("dear")
    assert quantize("run", folder / "a.npy", folder / "a.zarr", *SMALL).exit_code == 0
    assert quantize("run", folder / "a.npy", folder / "two.zarr", *SMALL).exit_code == 0
    assert quantize("run", folder / "a.npy", folder / "two.zarr", "--name", "b", *SMALL).exit_code == 0
    assert quantize("run", folder / "holes.npy", folder / "half.zarr", "--value-range", 260, 300, *SMALL).exit_code == 1
    shutil.copytree(folder / "a.zarr", folder / "damaged.zarr")
    chunk = folder / "damaged.zarr" / "data" / "c" / "1" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    shutil.copytree(folder / "a.zarr", folder / "scale.zarr")
    metadata = folder / "scale.zarr" / "data" / "zarr.json"
    metadata.write_text(re.sub(r'"zero_point": -\d+', '"zero_point": 0', metadata.read_text()))
    return folder


def quantize(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def process(*arguments: object, code: str = "from quantize.cli import main; main()", **kwargs):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output="stdout" not in kwargs, text=True, timeout=60, **kwargs)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def document(result: Result) -> dict:
    """The one JSON object on standard output; NaN and Infinity are no JSON."""
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


# Help and parsing -----------------------------------------------------------------------------------------------------


def test_help_lists_commands_in_working_order():
    result = quantize("--help")
    commands = re.findall(r"^  (\w+) +\S", result.stdout.split("Commands:")[1], re.MULTILINE)
    assert " ".join(commands) == "suggest plan run append seal info verify report read restore demo"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    ["--help", "run --help", "suggest --help", "report --help", "--version", "run", "report", "run --workers x"],
)
def test_help_and_usage_errors_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom quantize.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print({'numpy', 'numba', 'zarr', 'dask', 'rich', 'matplotlib'} & {*sys.modules}, file=sys.stderr)"
    )
    assert process(*arguments.split(), code=code).stderr.endswith("set()\n")


def test_version():
    assert re.fullmatch(r"quantize \d+\.\d+\.\d+\n", quantize("--version").stdout)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", (3,)),
        ("0:10,:", (slice(0, 10), slice(None))),
        ("[..., -5::2]", (..., slice(-5, None, 2))),
        ("::-1,", (slice(None, None, -1),)),
    ],
)
def test_regions_are_those_of_numpy(text, expected):
    assert options.region(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "1,,2", "1.5", "None"])
def test_other_regions_are_refused(made, text):
    result = quantize("read", made / "a.zarr", "--region", text)
    assert result.exit_code == 2
    assert "is not NumPy's basic indexing" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"), [("declared", "declared"), ("none", None), ("-9999", -9999), ("1e20", 1e20), ("nan", None)]
)
def test_missing_values(text, expected):
    found = options.missing(text)
    assert type(found) is float if text == "nan" else (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('nan_policy="propagate" keeps them', "--nan-policy propagate keeps them"),
        ("value_range=(low, high) saturates", "--value-range LOW HIGH saturates"),
        ("value_range is (3.0, 1.0)", "--value-range is (3.0, 1.0)"),
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("memory='1MiB' (1.0 MiB) is too small", "--memory 1MiB (1.0 MiB) is too small"),
        ("several variables, a, b: pass name=", "several variables, a, b: pass --name"),
        (
            "percentile=99.0 goes with scale_method='percentile'",
            "--percentile 99.0 goes with --scale-method percentile",
        ),
        ("pass axis=1", "pass --axis 1"),
        ("call quantize_to_zarr with", "run `quantize run` with"),
    ],
)
def test_messages_name_options(said, shown):
    assert terminal.message(ValueError(said), cli.main) == shown


@pytest.mark.parametrize(
    ("keyword", "typed"),
    sorted({(str(one.name), max(one.opts, key=len)) for command in cli.main.commands.values()
            for one in command.params if isinstance(one, click.Option)}),
)  # fmt: skip
def test_every_option_is_named_in_messages_as_it_is_typed(keyword, typed):
    def shown(said: str) -> str:
        return terminal.message(ValueError(said), cli.main)

    assert typed.startswith("--")
    assert shown(f"pass {keyword}=") == f"pass {typed}"
    assert shown(f"pass {keyword}=, or another") == f"pass {typed}, or another"
    assert shown(f"{keyword}='x' is wrong") == f"{typed} x is wrong"
    assert shown(f"{keyword}=True does it") == f"{typed} does it"
    assert shown(f"a {keyword} more") == (f"a {typed} more" if "_" in keyword else f"a {keyword} more")


# What commands do -----------------------------------------------------------------------------------------------------


def test_plan_writes_nothing(tmp_path, made):
    result = quantize("plan", made / "a.npy", tmp_path / "x.zarr", *SMALL)
    assert "25 chunks of (8, 10) values" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_says_what_it_made_and_how_to_read_it(tmp_path, made):
    result = quantize("run", made / "a.npy", tmp_path / "x.zarr", *SMALL)
    assert result.exit_code == 0
    array = open_int4(tmp_path / "x.zarr")
    for text in (f"wrote {tmp_path / 'x.zarr'}/data in ", "(40, 50) float32", f"{array.scale:.9g}", "bits a value"):
        assert text in result.stdout
    snippet = result.stdout.split("in Python:\n")[1]
    scope: dict = {}
    exec("\n".join(line.strip() for line in snippet.splitlines()), scope)
    np.testing.assert_array_equal(scope["array"][...], array[...])
    assert "pass 1 of 2, scan: 25 of 25 chunks" in result.stderr
    assert "pass 2 of 2, write: 25 of 25 chunks" in result.stderr


def test_run_with_a_range_has_one_pass(tmp_path, made):
    result = quantize("run", made / "a.npy", tmp_path / "x.zarr", "--value-range", 250, 310, *SMALL)
    assert "pass 1 of 1, write: 25 of 25 chunks" in result.stderr


def test_run_passes_every_option_on(tmp_path, made):
    options = [
        *("--name", "b", "--scale-method", "absmax", "--missing", "-9999", "--nan-policy", "propagate"),
        *(
            "--chunks",
            "8,10",
            "--shards",
            "16,-1",
            "--compressors",
            "none",
            "--memory",
            "1GiB",
            "--workers",
            "1",
            "--verify",
        ),
    ]
    assert quantize("run", made / "holes.npy", tmp_path / "x.zarr", *options).exit_code == 0
    array = open_int4(tmp_path / "x.zarr", "b")
    assert (array.chunks, array.shards, array.zero_point, array.nan_code) == ((8, 10), (16, 50), 0, -8)
    assert (array.missing, array.layout.compressor.name) == (-9999, None)


@pytest.mark.parametrize(
    ("options", "method", "axis"),
    [
        (["--scale-method", "mse"], "mse", None),
        (["--scale-method", "percentile", "--percentile", "99", "--axis", "-1"], "percentile", 1),
        (["--axis", "0"], "minmax", 0),
    ],
)
def test_run_passes_on_how_scales_are_chosen(tmp_path, made, options, method, axis):
    assert quantize("run", made / "a.npy", tmp_path / "x.zarr", *options).exit_code == 0
    array = open_int4(tmp_path / "x.zarr")
    assert (array.metadata.rule.method.name, array.axis) == (method, axis)
    assert array.metadata.fingerprint["settings"].get("percentile") == (99 if "--percentile" in options else None)


@pytest.mark.parametrize("most", [50, 49])
def test_scales_of_an_axis_are_summed_up(tmp_path, made, monkeypatch, most):
    monkeypatch.setattr("quantize.reading.summary.SCALES_READ", most)
    made_now = quantize("run", made / "a.npy", tmp_path / "x.zarr", "--axis", "1", "--scale-method", "mse").stdout
    shown = quantize("info", tmp_path / "x.zarr").stdout
    assert shown.split("\n", 1)[1] in made_now
    found = document(quantize("info", tmp_path / "x.zarr", "--json"))
    scale = open_int4(tmp_path / "x.zarr").scale
    assert (found["axis"], found["scale_method"]) == (1, "mse")
    if most == 50:
        assert f"50 indices of axis 1 (mse), from {scale.min():.6g} to {scale.max():.6g}\n" in shown
        assert f"{scale.max() / 2:.6g} within the range (half the largest step)" in shown
        assert found["scale"] == {"smallest": scale.min(), "largest": scale.max()}
        assert found["max_error"] == scale.max() / 2
    else:
        assert "scale       one for each of 50 indices of axis 1 (mse)\n" in shown
        assert "half the scale of its index" in shown
        assert (found["scale"]["largest"], found["max_error"]) == (None, None)


def test_scales_beyond_a_million_are_not_read(made, monkeypatch):
    from quantize.reading.summary import description
    from quantize.store.side_arrays import ScaleArrays

    quantize("run", made / "a.npy", made / "axis.zarr", "--axis", "0")
    monkeypatch.setattr("quantize.reading.summary.SCALES_READ", 39)
    monkeypatch.setattr(ScaleArrays, "read", lambda *_: pytest.fail("scales are read"))
    assert "one for each of 40 indices of axis 0" in description(open_int4(made / "axis.zarr"))


def test_suggest_prints_what_the_function_gives_and_writes_nothing(tmp_path, made, monkeypatch):
    from quantize import suggest

    monkeypatch.chdir(tmp_path)
    result = quantize("suggest", made / "holes.npy")
    assert result.exit_code == 0
    assert result.stdout == f"{suggest(str(made / 'holes.npy'))}\n"
    assert "--nan-policy propagate" in result.stdout
    assert list(tmp_path.iterdir()) == []
    found = document(quantize("suggest", made / "holes.npy", "--json", "--missing", "280.5"))
    assert found["recommended"]["command"].endswith("--nan-policy propagate --missing 280.5")
    assert {"source", "rows", "reason", "sampled", "total"} <= set(found)


def test_what_suggest_recommends_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(3000, 40)) * 10 ** np.random.default_rng(1).uniform(-2, 2, 40)
    np.save("it's here.npy", values.astype(np.float32))
    for wishes, store, axis, blocks in (
        ((), "it's here-mse-blocks1x16.zarr", None, (1, 16)),
        (("--bits", "3.3"), "it's here-minmax-axis1.zarr", 1, None),
        (("--for", "search", "--bits", "4.0"), "it's here-mse-blocks1x32.zarr", None, (1, 32)),
    ):
        said = quantize("suggest", "it's here.npy", *wishes).stdout
        assert ("recall@10" in said) == ("search" in wishes)
        assert quantize(*shlex.split(said.splitlines()[-1])[1:]).exit_code == 0
        array = open_int4(store)
        assert (array.axis, array.blocks) == (axis, blocks)
        assert array.metadata.rule.method.name in store


def test_a_preset_is_said_by_the_plan_and_makes_blocks(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 64)))
    words = tmp_path / "x.npy", tmp_path / "x.zarr", "--preset", "embeddings"
    assert (
        "note: preset embeddings stands for scale_method='mse' and blocks=(32, 1): " in quantize("plan", *words).stdout
    )
    assert quantize("run", *words, "--scale-method", "minmax").exit_code == 0
    rule = open_int4(tmp_path / "x.zarr").metadata.rule
    assert (rule.method.name, rule.granularity.blocks) == ("minmax", (32, 1))


def test_pieces_of_one_array_are_one_unless_several_are_asked_for(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 40, 128))
    for n, piece in enumerate(values):
        np.save(tmp_path / f"part-{n}.npy", piece)
    pattern, store = f"{tmp_path}/part-*.npy", tmp_path / "x.zarr"
    assert quantize("run", pattern, store).exit_code == 0
    assert open_int4(store).shape == (120, 128)
    assert len(document(quantize("plan", pattern, store, "--keep", "part-0", "--json"))["variables"]) == 3


def test_report_writes_a_page_and_prints_the_figures(tmp_path, made):
    page = tmp_path / "x.html"
    result = quantize("report", made / "a.zarr", made / "a.npy", "-o", page)
    assert result.exit_code == 0
    assert "SQNR" in result.stdout
    assert result.stdout.endswith(f"wrote {page}: open it in a browser\n")
    assert "<html" in page.read_text()
    assert "error: " not in result.stderr
    assert quantize("report", made / "a.zarr", made / "a.npy", "-o", page).exit_code == 2
    again = quantize("report", made / "two.zarr", made / "a.npy", "-o", page, "--overwrite", "--name", "b", "--json")
    found = document(again)
    assert found["path"] == str(page)
    assert found["figures"]["count"] == VALUES.size


def test_report_of_another_source_fails(tmp_path, made):
    np.save(tmp_path / "other.npy", VALUES[::-1])
    result = quantize("report", made / "a.zarr", tmp_path / "other.npy", "-o", tmp_path / "x.html")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "does not hold what" in result.stderr


def test_run_again_has_nothing_to_do(made):
    result = quantize("run", made / "a.npy", made / "a.zarr", *SMALL)
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing to do: ")


def test_overwrite_replaces(tmp_path, made):
    shutil.copytree(made / "a.zarr", tmp_path / "a.zarr")
    assert quantize("run", made / "a.npy", tmp_path / "a.zarr", "--chunks", "10,10").exit_code == 2
    assert quantize("run", made / "a.npy", tmp_path / "a.zarr", "--chunks", "10,10", "--overwrite").exit_code == 0
    assert open_int4(tmp_path / "a.zarr").chunks == (10, 10)


@pytest.mark.parametrize("index", ["...", "0", "3:9,::-1", "::-3,5", "-1,-1", "5:5", "9:0:-2,1:49:7"])
def test_read_writes_what_numpy_indexing_gives(tmp_path, made, index):
    assert quantize("read", made / "a.zarr", "--region", index, "-o", tmp_path / "x.npy").exit_code == 0
    expected = eval(f"array[{index}]", {"array": open_int4(made / "a.zarr")[...]})
    found = np.load(tmp_path / "x.npy")
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found, expected)
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("index", ["...", "0", "3:9,::-1", "::-3", "-1,-1", "5:5", ":7,:30", "20,:"])
def test_read_prints_what_numpy_prints(made, index):
    expected = eval(f"array[{index}]", {"array": open_int4(made / "a.zarr")[...]})
    assert quantize("read", made / "a.zarr", "--region", index).stdout == f"{np.array2string(np.asarray(expected))}\n"


def test_read_of_bfloat16_writes_float32(tmp_path):
    from ml_dtypes import bfloat16

    from quantize import quantize_to_zarr

    array = quantize_to_zarr(VALUES.astype(bfloat16), tmp_path / "x.zarr")
    assert quantize("read", tmp_path / "x.zarr", "-o", tmp_path / "x.npy").exit_code == 0
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array[...].astype(np.float32))


@pytest.mark.parametrize("name", ["x.npy", "x.zarr"])
def test_restore(tmp_path, made, name):
    import zarr

    assert quantize("restore", made / "a.zarr", tmp_path / name).exit_code == 0
    found = np.load(tmp_path / name) if name == "x.npy" else zarr.open_array(tmp_path / name)[...]
    np.testing.assert_array_equal(found, open_int4(made / "a.zarr")[...])


def test_the_path_that_run_prints_is_understood(tmp_path, made):
    for words in (["info"], ["read"], ["verify"]):
        assert quantize(*words, made / "two.zarr/b").stdout == quantize(*words, made / "two.zarr", "--name", "b").stdout
    assert quantize("restore", made / "two.zarr/b", tmp_path / "x.npy").exit_code == 0
    assert quantize("report", made / "two.zarr/b", made / "a.npy", "-o", tmp_path / "x.html").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        "restore {}/a.zarr {}/x.npy",
        "read {}/a.zarr -o {}/x.npy",
        "report {}/a.zarr {}/a.npy -o {}/x.html",
        "demo --size 1MB --folder {}/x",
    ],
)
def test_what_a_disk_has_no_room_for_is_refused_first(tmp_path, made, monkeypatch, arguments):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 7}))
    places = [word.replace("{}", str(tmp_path if word.startswith("{}/x") else made)) for word in arguments.split()]
    result = quantize(*places)
    assert result.exit_code == 2
    assert re.search(r"not enough disk for .*/x.*: .* take [\d,]+ bytes, and 7 are free. Make room", result.stderr)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_error_of_a_disk_is_no_usage_and_names_the_file(tmp_path, made, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pwrite", fail)
    result = quantize("restore", made / "a.zarr", tmp_path / "x.npy")
    assert (result.exit_code, result.stderr) == (74, f"error: {tmp_path / 'x.npy'}: Input/output error\n")
    assert list(tmp_path.iterdir()) == []


def test_info_of_an_unfinished_store_says_so(made):
    result = quantize("info", made / "half.zarr")
    assert result.exit_code == 3
    assert "writing" in result.stdout
    assert "run `quantize run` with the same source and settings again" in result.stderr


def test_verify(made):
    assert quantize("verify", made / "a.zarr").stdout == "25 of 25 chunks are whole\n"
    assert quantize("verify", made / "a.zarr", made / "a.npy").exit_code == 0
    damaged, differing = (
        quantize("verify", made / "damaged.zarr"),
        quantize("verify", made / "a.zarr", made / "holes.npy"),
    )
    assert (damaged.exit_code, differing.exit_code) == (1, 1)
    assert re.search(r"damaged: data/c/1/2: .*checksum", damaged.stdout)
    assert "24 of 25 chunks are whole" in damaged.stdout
    assert "not what the source gives: data/c/0/0\n" in differing.stdout


JSON = {
    "plan": ["plan", "{}/a.npy", "{}/x.zarr"],
    "run": ["run", "{}/a.npy", "{}/a.zarr", *SMALL],
    "info": ["info", "{}/a.zarr"],
    "unfinished": ["info", "{}/half.zarr"],
    "verify": ["verify", "{}/a.zarr", "{}/a.npy"],
    "damaged": ["verify", "{}/damaged.zarr"],
    "read": ["read", "{}/a.zarr", "--region", "0"],
    "suggest": ["suggest", "{}/a.npy"],
    "report": ["report", "{}/a.zarr", "{}/a.npy", "-o", "{}/x.html", "--overwrite"],
    "demo": ["demo", "--size", "100kB", "--picture", "{}/x.png", "--overwrite"],
}


@pytest.mark.parametrize(("command", "keys"), [
    ("plan", {"shape", "chunks", "memory", "disk", "workers", "notes"}),
    ("run", {"path", "scale", "zero_point", "max_error", "nbytes_stored", "worked", "elapsed"}),
    ("info", {"status", "shape", "dtype", "scale", "nan_code"}),
    ("unfinished", {"status", "shape", "dtype", "chunks"}),
    ("verify", {"ok", "chunks", "damaged", "differing"}),
    ("damaged", {"ok", "chunks", "damaged", "differing"}),
    ("read", {"shape", "dtype", "values"}),
    ("suggest", {"source", "rows", "recommended", "reason", "sampled", "total", "notes"}),
    ("report", {"path", "figures", "verdict"}),
    slow("demo", {"errors", "picture", "scale"}),
])  # fmt: skip
def test_json_is_one_object(made, command, keys):
    result = quantize(*(argument.format(made) for argument in JSON[command]), "--json")
    assert keys <= set(document(result))


def test_json_of_missing_values_is_null(tmp_path, made):
    assert quantize("run", made / "holes.npy", tmp_path / "x.zarr", "--nan-policy", "propagate").exit_code == 0
    found = document(quantize("read", tmp_path / "x.zarr", "--region", "3,3:6", "--json"))
    assert [value is None for value in found["values"]] == [False, True, False]


def test_json_of_restore_and_read_to_a_file(tmp_path, made):
    assert document(quantize("restore", made / "a.zarr", tmp_path / "x.npy", "--json")) == {"path": f"{tmp_path}/x.npy"}
    read = quantize("read", made / "a.zarr", "-o", tmp_path / "y.npy", "--json")
    assert document(read) == {"shape": [40, 50], "dtype": "float32", "path": f"{tmp_path}/y.npy"}


# What a user can do wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("run {}/gone.npy {}/x.zarr", 2, "gone.npy does not exist"),
        ("run {}/text.txt {}/x.zarr", 2, "text.txt has a format that is not known"),
        ("run {}/cut.npy {}/x.zarr", 2, "cut.npy is no whole .npy file"),
        ("run {}/folder {}/x.zarr", 2, "folder is no Zarr array or group"),
        ("run {}/truth.npy {}/x.zarr", 2, "dtype bool is not"),
        ("run {}/none.npy {}/x.zarr", 2, "no values to find a scale for"),
        ("run {}/two.zarr {}/x.zarr", 2, "two.zarr/b is int4 already: read it"),
        (
            "run {}/holes.npy {}/x.zarr",
            1,
            r"1 NaN; the first refused value is at index \(3, 4\).*--nan-policy propagate",
        ),
        ("run {}/a.npy {}/a.zarr", 2, "is there already.*Pass --overwrite"),
        ("run {}/a.npy {}/folder", 2, "exists and is no Zarr v3 group"),
        ("run {}/a.npy {}/text.txt", 2, "text.txt"),
        ("run {}/a.npy {}/x.zarr --memory 1MiB", 2, "--memory 1MiB .* is too small for one task"),
        ("run {}/a.npy {}/x.zarr --memory much", 2, "memory is 'much'"),
        ("run {}/a.npy {}/x.zarr --workers 0", 2, "'--workers'"),
        ("run {}/a.npy {}/x.zarr --chunks 8,7", 2, "even length"),
        ("run {}/a.npy {}/x.zarr --chunks 8", 0, ""),
        ("plan {}/a.npy {}/x.zarr --chunks 8,8,8", 2, r"chunks is \(8, 8, 8\), but must have"),
        ("plan {}/a.npy {}/x.zarr --chunks eight", 2, "'eight' is not one length for each axis"),
        ("plan {}/a.npy {}/x.zarr --shards 12,-1 --chunks 8,10", 2, "not whole multiples"),
        ("plan {}/a.npy {}/x.zarr --value-range 3 1", 2, r"--value-range is \(3.0, 1.0\), which is reversed"),
        ("plan {}/a.npy {}/x.zarr --value-range 3", 2, "'--value-range'"),
        ("plan {}/a.npy {}/x.zarr --value-range 0 inf", 2, "both ends must be finite"),
        ("plan {}/a.npy {}/x.zarr --nan-policy omit", 2, "'--nan-policy'"),
        ("plan {}/a.npy {}/x.zarr --scale-method best", 2, "'--scale-method'"),
        ("plan {}/a.npy {}/x.zarr --axis 2", 2, "axis 2 is out of bounds"),
        ("run {}/a.npy {}/x.zarr --axis -3", 2, "axis -3 is out of bounds"),
        ("plan {}/a.npy {}/x.zarr --axis rows", 2, "'--axis'"),
        ("plan {}/a.npy {}/x.zarr --percentile 99", 2, "--percentile 99.0 goes with --scale-method percentile"),
        ("plan {}/a.npy {}/x.zarr --scale-method percentile --percentile 0", 2, "percentile is 0.0, but must be"),
        ("plan {}/a.npy {}/x.zarr --scale-method mse --value-range 0 1", 2, "--scale-method mse looks for one"),
        ("suggest {}/gone.npy", 2, "gone.npy does not exist"),
        ("suggest {}/truth.npy", 2, "dtype bool is not"),
        ("suggest {}/none.npy", 2, "no values to find a scale for"),
        ("suggest {}/two.zarr", 2, "two.zarr/b is int4 already"),
        ("suggest {}/a.npy --missing maybe", 2, "'maybe' is not a number, 'declared' or 'none'"),
        ("suggest {}/a.npy --missing 1e99", 2, "missing is 1e[+]99, but must be"),
        ("suggest", 2, "Missing argument 'SRC'. Try 'quantize suggest --help'"),
        ("report {}/gone.zarr {}/a.npy -o {}/x.html", 2, "gone.zarr does not exist"),
        ("report {}/a.zarr {}/gone.npy -o {}/x.html", 2, "gone.npy does not exist"),
        ("report {}/a.zarr {}/cut.npy -o {}/x.html", 2, "cut.npy is no whole .npy file"),
        ("report {}/a.zarr {}/flat.npy -o {}/x.html", 2, r"has shape \(2000,\), but the store has shape \(40, 50\)"),
        ("report {}/a.zarr {}/a.npy -o {}/a.npy", 2, "a.npy exists; pass --overwrite"),
        ("report {}/a.zarr {}/a.npy -o {}/gone/x.html", 2, "gone does not exist"),
        (
            "report {}/a.zarr {}/a.npy -o {}/x.pdf",
            2,
            "x.pdf ends with .pdf, but .* ends with .html or .htm or no suffix",
        ),
        ("read {}/a.zarr -o {}/x.zarr", 2, "x.zarr ends with .zarr, but .* ends with .npy or no suffix"),
        ("restore {}/a.zarr {}/x.h5", 2, "x.h5 ends with .h5, but .* ends with .npy or .zarr or no suffix"),
        ("run {}/a.npy {}/x.npy", 2, "x.npy ends with .npy, but the name of a store ends with .zarr or no suffix"),
        ("plan {}/a.npy {}/x.zip", 2, "x.zip ends with .zip, but the name of a store ends with .zarr or no suffix"),
        ("demo --size 1MB --folder {}/x --picture {}/x.jpg", 2, "x.jpg ends with .jpg, but .* ends with .png"),
        ("demo --size 10PiB --folder {}/x", 2, r"not enough disk for .*: the floats, their codes.* Make room"),
        ("info {}/two.zarr/c", 2, "two.zarr holds no int4 variable 'c'; there are: b, data"),
        ("report {}/half.zarr {}/holes.npy -o {}/x.html", 3, "is unfinished"),
        ("report {}/damaged.zarr {}/a.npy -o {}/x.html", 1, "data/c/1/2 is damaged"),
        ("report {}/two.zarr {}/a.npy -o {}/x.html", 2, "several variables, b, data: pass --name"),
        ("report {}/a.zarr {}/holes.npy -o {}/x.html", 1, "does not hold what"),
        ("plan {}/a.npy {}/x.zarr --compressors lz77", 2, "'--compressors'"),
        ("plan {}/a.npy {}/x.zarr --missing maybe", 2, "'maybe' is not a number, 'declared' or 'none'"),
        ("plan {}/a.npy {}/x.zarr --name a/b", 2, "name 'a/b' has a '/'"),
        ("info {}/gone.zarr", 2, "gone.zarr does not exist"),
        ("info {}/folder", 2, "holds no int4 variable"),
        ("info {}/two.zarr", 2, "several variables, b, data: pass --name"),
        ("info {}/a.zarr --name c", 2, "holds no int4 variable 'c'; there are: data"),
        ("info {}/scale.zarr", 2, "its checksum does not match"),
        ("info {}/half.zarr", 3, "is unfinished"),
        ("read {}/half.zarr", 3, "is unfinished.*run `quantize run` with the same source and settings"),
        ("verify {}/half.zarr", 3, "is unfinished"),
        ("restore {}/half.zarr {}/x.npy", 3, "is unfinished"),
        ("read {}/damaged.zarr --region 12", 1, "data/c/1/2 is damaged.*--overwrite"),
        ("restore {}/damaged.zarr {}/x.npy", 1, "data/c/1/2 is damaged"),
        ("verify {}/damaged.zarr", 1, "is damaged"),
        ("verify {}/a.zarr {}/truth.npy", 2, "dtype bool is not"),
        ("verify {}/a.zarr {}/gone.npy", 2, "gone.npy does not exist"),
        ("read {}/a.zarr --region 40", 2, "index 40 is out of bounds for an axis of length 40"),
        ("read {}/a.zarr --region 1,1,1", 2, "too many indices"),
        ("read {}/a.zarr --region ...,...", 2, "only one ellipsis"),
        ("read {}/a.zarr -o {}/a.npy", 2, "a.npy exists; pass --overwrite"),
        ("read {}/a.zarr -o {}/gone/x.npy", 2, "gone does not exist"),
        ("restore {}/a.zarr {}/a.npy", 2, "a.npy exists; pass --overwrite"),
        ("restore {}/a.zarr {}/gone/x.npy", 2, "gone does not exist"),
        ("demo --size tiny", 2, "'tiny' is not a size"),
        ("demo --size 100kB --picture {}/a.npy", 2, "a.npy exists; pass --overwrite"),
        ("demo --size 100kB --picture {}/gone/x.png", 2, "gone does not exist"),
        ("frobnicate", 2, "No such command 'frobnicate'"),
        ("run {}/a.npy", 2, "Missing argument 'DST'. Try 'quantize run --help'"),
        ("run {}/a.npy {}/x.zarr --fast", 2, "No such option.*--fast"),
    ],
)
def test_every_error_is_one_message_and_an_exit_code(tmp_path, made, arguments, code, said):
    words = arguments.split()
    places = [word.replace("{}", str(tmp_path if word.startswith("{}/x") else made)) for word in words]
    result = quantize(*places)
    assert result.exit_code == code
    assert re.search(said, result.stderr, re.DOTALL)
    if code:
        assert result.stderr.count("error: ") == 1
        assert "Traceback" not in result.stderr
        assert not list(tmp_path.glob("*.np[yg]"))


def test_a_warning_is_one_line_and_strict_makes_it_an_error(tmp_path):
    values = VALUES.copy()
    values[:3] = -9999
    np.save(tmp_path / "x.npy", values)
    source, store = f"{tmp_path}/x.npy", f"{tmp_path}/s"
    text = (
        f"{source} holds -9999, which is a usual filler for missing values, far from all others "
        f"({values[3:].min():.6g} to {values[3:].max():.6g}): "
        "pass --missing -9999 if it is one, or --missing none if not\n"
    )
    for arguments in (["run", source, store], ["run", source, store, "--part", "1/2"], ["suggest", source]):
        stopped = quantize(*arguments, "--strict")
        assert (stopped.exit_code, stopped.stderr[-len(text) - 7 :]) == (1, f"error: {text}")
        assert not Path(store).exists()
    result = quantize("run", source, store)
    assert result.exit_code == 0
    lines = result.stderr.splitlines(keepends=True)
    assert [line for line in lines if line.startswith("warning: ")] == [f"warning: {text}"]
    assert quantize("suggest", source, "--json").stderr == f"warning: {text}"
    for option in ("--missing=none", "--missing=-9999"):
        result = quantize("run", source, f"{tmp_path}/s{option[10:]}", option, "--strict", "--nan-policy", "propagate")
        assert result.exit_code == 0
        assert "warning: " not in result.stderr
    report = quantize("report", store, source, "-o", f"{tmp_path}/r.html", "--json")
    assert json.loads(report.stdout)["verdict"] == "doubtful"


def test_stored_numbers_and_floats_on_request(tmp_path):
    counts = np.arange(256, dtype="u1").reshape(4, 64)
    zarr.create_array(tmp_path / "x", data=counts, attributes={"scale_factor": 0.5, "_FillValue": 0})
    for option, dtype in (("--decode", "float32"), ("--raw", "uint8"), ("--raw --floats", "float32")):
        store = tmp_path / option.replace(" ", "")
        words = [*option.split(), "--nan-policy", "propagate", "--json"]
        result = quantize("run", str(tmp_path / "x"), str(store), *words)
        if option == "--raw":
            assert result.exit_code == 1
            assert "Pass --floats" in result.stderr
            assert not store.exists()
        else:
            assert json.loads(result.stdout)["dtype"] == dtype
    (tmp_path / "y").mkdir()
    zarr.create_array(tmp_path / "y" / "a", data=counts, attributes={"scale_factor": "half"})
    result = quantize("plan", str(tmp_path / "y" / "a"), str(tmp_path / "z"))
    assert result.exit_code == 2
    assert result.stderr.endswith("which is not understood: pass --raw for the stored numbers\n")


def test_without_arguments_help_is_shown():
    result = quantize()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("arguments", ["demo --size 100kB", "report {}/a.zarr {}/a.npy -o {}/extra.html"])
def test_a_command_whose_extra_is_missing_says_which(monkeypatch, made, arguments):
    for name in ("matplotlib", "matplotlib.cbook"):
        monkeypatch.setitem(sys.modules, name, None)
    result = quantize(*arguments.replace("{}", str(made)).split())
    assert result.exit_code == 2
    assert result.stderr == 'error: this needs matplotlib, which is not installed: pip install "quantize[report]"\n'


def test_a_bug_is_one_line_unless_asked(monkeypatch, made):
    monkeypatch.setattr("quantize.reading.opening.opened_variable", lambda *_: 1 / 0)
    monkeypatch.delenv("QUANTIZE_DEBUG", raising=False)
    result = quantize("read", made / "a.zarr")
    assert result.exit_code == 70
    assert re.fullmatch(r"error: ZeroDivisionError: .*QUANTIZE_DEBUG=1.*\n", result.stderr)
    monkeypatch.setenv("QUANTIZE_DEBUG", "1")
    assert "Traceback" in quantize("read", made / "a.zarr").stderr


def test_a_disk_that_fails_leaves_a_run_that_goes_on(monkeypatch, tmp_path, made):
    def fail(*_):
        raise OSError(28, "No space left on device", "x.zarr/data/c/0/0")

    job = ["run", made / "a.npy", tmp_path / "x.zarr", *SMALL]
    with monkeypatch.context() as patched:
        patched.setattr("quantize.storage.Variable.write", fail)
        result = quantize(*job)
    assert result.exit_code == 3
    assert "x.zarr/data/c/0/0: No space left on device (pass 2 of 2, write: 0 of 25 chunks)" in result.stderr
    assert f"quantize run {made / 'a.npy'} {tmp_path / 'x.zarr'} --chunks 8,10 --workers 1" in result.stderr
    assert quantize(*job).exit_code == 0


# Real processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "at", "place"),
    [
        slow(signal.SIGINT, 60, "pass 1 of 2, scan"),
        slow(signal.SIGINT, 300, "pass 2 of 2, write"),
        slow(signal.SIGTERM, 60, "pass 1 of 2, scan"),
        slow(signal.SIGTERM, 300, "pass 2 of 2, write"),
    ],
)
def test_a_run_stops_within_a_piece_of_each_worker(tmp_path, made, number, at, place):
    """A chunk is read in eight pieces; at most one of each worker begins to be read after the signal."""
    workers = 3
    job = ["run", made / "a.npy", tmp_path / "x.zarr", "--chunks", "8,10", "--workers", workers]
    stopped = process(*job, code=BLOCKED.format(number=int(number), at=at))
    assert stopped.returncode == 3, stopped.stderr
    assert "Traceback" not in stopped.stderr
    *_, said, command, counted = stopped.stderr.splitlines()
    assert re.fullmatch(rf"error: stopped \({place}: \d+ of 25 chunks\). To go on, run", said)
    more, told = map(int, re.fullmatch(r"more reads: (\d+) once told: (\d+)", counted).groups())
    assert more < workers
    assert told == 0
    assert quantize("info", tmp_path / "x.zarr").exit_code == 3
    assert command.split()[0] == "quantize"
    resumed = quantize(*command.split()[1:])
    assert resumed.exit_code == 0
    # 42 reads are of the look and the digest, 200 of pass 1, and 58 of 8 chunks, of which each worker has one at most.
    assert (at == 300) == bool(re.search(r"write: 25 of 25 chunks, .*, [5-8] done before", resumed.stderr))
    assert files(tmp_path / "x.zarr") == files(made / "a.zarr")


@contextlib.contextmanager
def held(
    *arguments,
    call="FileSource.read",
    at=1,
    interrupt="default_int_handler",
    hangup="SIG_DFL",
    workers=2,
    grace=60,
    env=None,
):
    """A process that is held up; at the end it is let go, if it is still there."""
    code = HELD.format(call=call, at=at, interrupt=interrupt, hangup=hangup, grace=grace)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as child:
        late = threading.Timer(60, child.kill)
        late.start()
        try:
            for _ in range(workers):
                assert child.stdout.readline() == "held\n", child.stderr.read()
            yield child
            child.stdin.close()
            child.wait(60)
        finally:
            child.kill()
            late.cancel()


@pytest.mark.parametrize(
    ("number", "at", "place"),
    [
        slow(signal.SIGTERM, 1, "pass 1 of 2, scan"),
        slow(signal.SIGINT, 30, "pass 2 of 2, write"),
        (signal.SIGHUP, 30, "pass 2 of 2, write"),
    ],
)
def test_the_word_comes_while_all_threads_are_held_up(tmp_path, made, number, at, place):
    """And the process ends once they are let go."""
    job = ["run", made / "a.npy", tmp_path / "x.zarr", "--chunks", "8,10", "--workers", 2]
    with held(*job, at=at) as child:
        child.send_signal(number)
        *_, said = iter(child.stderr.readline, f"  {shlex.join(['quantize', *map(str, job)])}\n")
        assert re.fullmatch(rf"error: stopped \({place}: \d+ of 25 chunks\). To go on, run\n", said)
    assert child.returncode == 3
    assert quantize(*job).exit_code == 0
    assert files(tmp_path / "x.zarr") == files(made / "a.zarr")


@pytest.mark.parametrize(
    ("arguments", "call", "said"),
    [
        ("run {}/a.npy {}/x.zarr --axis 1", "FileSource.read", "  quantize run"),
        slow("verify {}/a.zarr", "ChunkReader.read", "error: stopped"),
        slow("verify {}/a.zarr {}/a.npy", "FileSource.read", "error: stopped"),
        slow("restore {}/a.zarr {}/x.npy", "ChunkReader.read", "error: stopped"),
        slow("restore {}/a.zarr {}/x.zarr", "ChunkReader.read", "error: stopped"),
        slow("report {}/a.zarr {}/a.npy -o {}/x.html", "FileSource.read", "error: stopped"),
    ],
)
def test_a_second_signal_ends_a_command_at_once(tmp_path, made, arguments, call, said):
    places = [word.replace("{}", str(tmp_path if word.startswith("{}/x") else made)) for word in arguments.split()]
    with held(*places, call=call, workers=1) as child:
        child.send_signal(signal.SIGINT)
        assert any(line.startswith(said) for line in iter(child.stderr.readline, ""))
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == -signal.SIGINT
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_what_ignores_interrupts_is_stopped_by_sigterm_alone(tmp_path, made):
    """As ``nohup`` and ``sh -c 'command &'`` begin it."""
    ignoring = {"interrupt": "SIG_IGN", "hangup": "SIG_IGN"}
    with held("run", made / "a.npy", tmp_path / "x.zarr", *SMALL, **ignoring, workers=1) as child:
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGHUP)
        child.stdin.write("x")  # the next read is then held up
        child.stdin.flush()
        assert child.stdout.readline() == "held\n"
        child.send_signal(signal.SIGTERM)
        assert any(line.startswith("error: stopped") for line in iter(child.stderr.readline, ""))
        child.send_signal(signal.SIGINT)
    assert child.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "call", "code"),
    [
        ("run {}/a.npy {}/x.zarr --workers 2", "FileSource.read", 3),
        slow("restore {}/a.zarr {}/x.npy", "ChunkReader.read", 130),
        slow("report {}/a.zarr {}/a.npy -o {}/x.html", "FileSource.read", 130),
        slow("read {}/a.zarr -o {}/x.npy", "ChunkReader.read", 130),
    ],
)
def test_a_command_that_was_stopped_ends_whatever_its_threads_are_at(tmp_path, made, arguments, call, code):
    """They are never let go."""
    places = [word.replace("{}", str(tmp_path if word.startswith("{}/x") else made)) for word in arguments.split()]
    with held(*places, call=call, workers=1, grace=0.1) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == code
        assert "error: stopped" in child.stderr.read()
    assert not list(tmp_path.glob(".x*"))


@pytest.mark.parametrize("target", ["x.npy", slow("x.zarr")])
def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path, made, target):
    with held("restore", made / "a.zarr", tmp_path / target, call="ChunkReader.read", workers=1) as child:
        child.kill()
        child.wait(60)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert quantize("restore", made / "a.zarr", tmp_path / target).exit_code == 0
    assert os.listdir(tmp_path) == [target]


@pytest.mark.parametrize("number", [slow(signal.SIGHUP), signal.SIGKILL])
def test_a_demonstration_that_ends_early_leaves_nothing_for_long(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with held("demo", "--size", "3MB", "--json", env=env, workers=1) as child:
        assert len(os.listdir(tmp_path / "tmp")) == 1
        child.send_signal(number)
        if number == signal.SIGHUP:
            assert any(line.startswith("error: stopped") for line in iter(child.stderr.readline, ""))
    if number == signal.SIGKILL:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        assert quantize("demo", "--size", "100kB").exit_code == 0
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize(
    ("redirection", "arguments", "code"),
    [
        (">&-", "info", 0),
        slow(">&-", "--help", 0),
        slow("2>&-", "verify", 0),
        slow("<&- >&- 2>&-", "verify", 0),
        pytest.param(">/dev/full", "info", 74, marks=FULL),
        pytest.param(">/dev/full", "--version", 74, marks=[FULL, pytest.mark.slow]),
        pytest.param("2>/dev/full", "verify", 0, marks=[FULL, pytest.mark.slow]),
    ],
)
def test_an_output_that_takes_nothing_is_no_bug(made, redirection, arguments, code):
    words = [arguments] if arguments.startswith("-") else [arguments, str(made / "a.zarr")]
    command = [sys.executable, "-m", "quantize", *words]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command)} {redirection}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == ("error: standard output: No space left on device\n" if code else "")


def test_a_closed_pipe_ends_quietly(made):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        result = process("read", made / "a.zarr", stdout=closed, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_progress_is_live_on_a_terminal(tmp_path, made):
    import pty

    main, side = pty.openpty()
    result = process("run", made / "a.npy", tmp_path / "x.zarr", *SMALL, stdout=subprocess.PIPE, stderr=side)
    os.close(side)
    shown = os.read(main, 1 << 16).decode()
    os.close(main)
    assert result.returncode == 0
    assert "\x1b[" in shown
    assert "pass 2 of 2, write: 25 of 25 chunks" in shown
    assert "\x1b[" not in result.stdout


# Demonstration --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_keeps_what_it_made_in_a_folder(tmp_path):
    result = quantize("demo", "--size", "3MB", "--folder", tmp_path)
    assert result.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elevation.npy", "elevation.png", "elevation.zarr"]
    data, array = np.load(tmp_path / "elevation.npy"), open_int4(tmp_path / "elevation.zarr")
    assert data.nbytes == pytest.approx(3e6, rel=0.01)
    assert (data.min(), data.max()) == (236, 1076)
    assert np.abs(np.diff(data, axis=0)).max() < 100
    assert np.abs(array[...] - data).max() <= array.max_error
    assert f"open_int4('{tmp_path}/elevation.zarr')" in result.stdout
    assert quantize("demo", "--size", "3MB", "--folder", tmp_path).exit_code == 2
    assert quantize("demo", "--size", "1MB", "--folder", tmp_path, "--overwrite").exit_code == 0


@pytest.mark.slow
def test_demo_without_a_folder_keeps_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = quantize("demo", "--size", "200kB")
    assert result.exit_code == 0
    assert os.listdir(tmp_path) == ["quantize-demo.png"]
    assert "was temporary and is removed" in result.stdout
    assert quantize("demo", "--size", "200kB").exit_code == 0
    assert quantize("demo", "--size", "200kB", "--overwrite").exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["quantize-demo-2.png", "quantize-demo.png"]


def test_demo_fails_where_the_errors_exceed_the_bound(tmp_path, monkeypatch):
    from quantize.cli.demo import measure_error

    def wrong(*arguments):
        return dataclasses.replace(measure_error(*arguments), outside=1)

    monkeypatch.setattr("quantize.cli.demo.measure_error", wrong)
    result = quantize("demo", "--size", "200kB", "--folder", tmp_path)
    assert result.exit_code == 1
    assert "NOT all values" in result.stdout
    assert "This is a bug in quantize" in result.stderr
