"""The benchmarks run, at a small size, and what they hold others to is right."""

import json
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import SECTIONS, main
from benchmarks.blocks import CHOICES
from benchmarks.dense import dense_search
from benchmarks.measuring import interleaved, machine
from benchmarks.samples import SAMPLES, sample
from benchmarks.scales import LEAST, OUT_OF_REACH, bars
from benchmarks.tables import Table

ROOT = Path(__file__).parents[1]


def printed(*arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", "--quick", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_gives_rows(section: str) -> None:
    document = json.loads(printed("--json", section))
    rows = document["rows"]
    assert {row["section"] for row in rows} == {section}
    assert {row["met"] for row in rows if "met" in row} <= {"yes", "no", "absent", "out of reach", ""}
    assert document["quick"]


@pytest.mark.slow
def test_a_section_prints_tables() -> None:
    found = CliRunner().invoke(main, ["--quick", "scales"], catch_exceptions=False)
    lines = found.output.splitlines()
    assert lines[0] == machine()
    assert sum(line.startswith("| Laplace ") for line in lines) == 6 + len(CHOICES)


def test_what_is_not_a_section_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "nothing"]
    assert subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60).returncode == 2


def test_the_machine_is_described_without_its_name() -> None:
    assert "core" in machine()
    assert platform.node() not in machine()


def test_a_table_is_markdown() -> None:
    table = Table("Title", [{"what": "one", "figure": 1.25}, {"what": "three", "figure": None}], ("Note.",))
    assert str(table).splitlines() == [
        "## Title",
        "",
        "| what  | figure |",
        "| ----- | -----: |",
        "| one   |  1.250 |",
        "| three | absent |",
        "",
        "Note.",
    ]


def test_cases_take_turns_and_the_first_round_does_not_count() -> None:
    called: list[str] = []

    def case(name: str) -> int:
        called.append(name)
        return len(called)

    assert interleaved({name: partial(case, name) for name in "ab"}, 2) == {"a": [3, 5], "b": [4, 6]}
    assert called == list("ababab")


def square_error(values: np.ndarray, scale: float, zero_point: int) -> float:
    exact = values.astype(np.float64)
    codes = np.clip(np.rint(exact / scale) + zero_point, -8, 7)
    return float(np.mean(((codes - zero_point) * scale - exact) ** 2))


@pytest.mark.parametrize("name", SAMPLES)
def test_no_scale_and_zero_point_have_less_error_than_the_dense_search(name: str) -> None:
    values = sample(name, 1024, seed=1)
    best = dense_search(values)
    assert square_error(values, best.scale, best.zero_point) == pytest.approx(best.error, rel=1e-9)
    widest = float(np.ptp(values)) / 15
    for scale in np.geomspace(widest / 8, widest, 400).tolist():
        middle = round(float(np.median(values)) / scale)
        for zero_point in range(-middle - 16, -middle + 17):
            assert square_error(values, scale, zero_point) >= best.error * (1 - 1e-3)


def test_a_bar_beyond_the_best_scale_is_out_of_reach_and_one_against_an_absent_peer_is_said_to_be_absent() -> None:
    others = {"faiss quantiles": 19.0, "torch histogram": None, "torch histogram, 16": 20.0}
    rows = bars("Gaussian", {"mse": 19.0, "dense search": LEAST["Gaussian"] - 0.1, **others})
    assert [row["met"] for row in rows] == [OUT_OF_REACH, "no", "yes", "absent", "no"]
