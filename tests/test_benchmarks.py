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
from marks import mostly_slow

from benchmarks import fidelity
from benchmarks.__main__ import SECTIONS, main
from benchmarks.dense import dense_search, least_in_blocks
from benchmarks.measuring import interleaved, machine
from benchmarks.peers import q4_k
from benchmarks.samples import ARRAYS, SAMPLES, sample
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
    assert sum(line.startswith("| Laplace ") for line in lines) == 11
    assert sum(line.startswith("| (1, 24) ") for line in lines) == 3


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


@pytest.mark.parametrize("name", mostly_slow(SAMPLES, ["Gaussian", "uniform [0, 1]"]))
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


def test_no_scale_of_blocks_has_less_error_than_the_least() -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(3, 1, 16)
    least = least_in_blocks(row[None])[0]
    near = []
    for scale in rng.integers(16, 32, 4000) / 2.0 ** rng.integers(5, 10, 4000):
        zero_point = rng.integers(-200, 50) / 4
        codes = np.clip(np.rint(row / scale + zero_point), -8, 7)
        near.append(np.square((codes - zero_point) * scale - row).sum())
        assert near[-1] >= least * (1 - 1e-9)
    assert min(near) < 2 * least  # some were tried that count


def test_bars_of_blocks_hold_each_figure_to_the_right_side_of_its_bar() -> None:
    figures = dict.fromkeys(fidelity.CHOICES, fidelity.Fidelity(30.0, 4.16))
    figures |= {"(4, 8)": fidelity.Fidelity(33.9, 4.16), "(32, 1)": fidelity.Fidelity(30.0, 4.31)}
    found = {name: {**figures, fidelity.Q4_K: fidelity.Fidelity(28.0, 4.4)} for name in [*SAMPLES, *ARRAYS]}
    found["Laplace"][fidelity.Q4_K] = fidelity.Fidelity(None, None)
    rows = {(row["values"], row["blocks"], row["what"]): row["met"] for row in fidelity.bars(found)}
    assert rows["Gaussian", "(1, 32)", "dB, at least"] == "yes"
    assert rows["elevations", "(1, 32)", "dB, at least"] == "no"
    assert rows["4 outlier features", "(1, 32)", "bits, at most"] == "yes"
    assert rows["4 outlier features", "(32, 1)", "dB beyond Q4_K, at least"] == "yes"
    assert rows["4 outlier features", "(32, 1)", "bits, at most"] == "no"
    assert rows["Laplace", "(1, 24)", "dB beyond Q4_K, at least"] == "absent"
    assert rows["elevations", "(4, 8)", "dB beyond (1, 32), at least"] == "no"


def test_a_weak_run_of_q4_k_counts_as_what_was_recorded() -> None:
    figures = dict.fromkeys([*fidelity.CHOICES, fidelity.Q4_K], fidelity.Fidelity(22.0, 4.2))
    rows = fidelity.bars(dict.fromkeys([*SAMPLES, *ARRAYS], figures))
    ahead = {row["values"]: row["figure"] for row in rows if row["what"].startswith("dB beyond Q4_K")}
    assert ahead["Gaussian"] == pytest.approx(22.0 - fidelity.RECORDED["Gaussian"])
    assert ahead["Laplace"] == 0


def test_q4_k_has_what_was_recorded_of_it() -> None:
    values = sample("Gaussian", 1 << 16).reshape(-1, 256)
    restored = read_q4_k(q4_k(values))
    assert 10 * np.log10(np.var(values) / np.mean((restored - values) ** 2)) == pytest.approx(22.9, abs=0.1)


def test_q4_k_of_constants() -> None:
    values = np.repeat(np.float32([0, -1, 1]), 256).reshape(3, 256)
    np.testing.assert_allclose(read_q4_k(q4_k(values)), [[0] * 256, [-1] * 256, [1] * 256], rtol=1e-3)


def read_q4_k(stored: np.ndarray) -> np.ndarray:
    """Super-blocks of 256 values as the format says: two factors, 8 scales and minima of 6 bits, codes of 4."""
    factors = stored[:, :4].copy().view(np.float16).astype(np.float64)
    upper, lower, codes = stored[:, 4:12].reshape(-1, 2, 4), stored[:, 12:16], stored[:, 16:].reshape(-1, 4, 1, 32)
    parts = [
        np.concatenate([upper[:, i] & 63, (lower >> 4 * i & 15) | (upper[:, i] >> 6 << 4)], axis=1) for i in range(2)
    ]
    scale, minimum = (factors[:, i, None] * parts[i] for i in range(2))
    codes = np.concatenate([codes & 15, codes >> 4], axis=2).reshape(-1, 8, 32)
    return (scale[..., None] * codes - minimum[..., None]).reshape(-1, 256)
