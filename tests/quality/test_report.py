import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import mostly_slow, slow

pytest.importorskip("matplotlib")

from quantize import DamagedChunkError, StoreError, quantize_to_zarr
from quantize.quality import measure as measuring
from quantize.quality.report.report import Report, write_report
from quantize.reading.array import Int4Array

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page taken apart, whose tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stored(folder: Path, values: np.ndarray, **options: Any) -> Int4Array:
    np.save(folder / "x.npy", values)
    return quantize_to_zarr(folder / "x.npy", folder / "x.zarr", workers=1, **options)


def made(folder: Path, values: np.ndarray, **options: Any) -> tuple[Report, Page]:
    """A report on these values, and its page."""
    stored(folder, values, **options)
    report = write_report(folder / "x.zarr", folder / "x.npy", folder / "x.html")
    text = (folder / "x.html").read_text("utf-8")
    assert len(text) < 1_000_000
    return report, checked(Page(text))


def checked(page: Page) -> Page:
    """What holds for every page."""
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "b"} & set(tags)
    assert not any(name.startswith("on") or name == "href" for _, attributes in page.tags for name in attributes)
    for image in page.all("img"):
        assert image["alt"]
        assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert (tags.count("h1"), tags.count("main")) == (1, 1)
    return page


def land(shape: tuple[int, ...]) -> np.ndarray:
    values = normal(*shape) + 280
    values[..., np.random.default_rng(1).random(shape[1:]) < 0.3] = np.nan
    return values


CASES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "tiny": (normal(5), {}),
    "one": (normal(1), {}),
    "tails": (np.random.default_rng(2).standard_t(3, (300, 64)).astype(np.float32), {"scale_method": "mse"}),
    "axis": (normal(40, 50) * np.exp(normal(50)), {"axis": 1, "scale_method": "percentile", "percentile": 99}),
    "land": (land((6, 20, 30)), {"nan_policy": "propagate", "chunks": (2, 10, 10)}),
    "land by axis": (land((6, 20, 30)), {"nan_policy": "propagate", "axis": 0, "scale_method": "mse"}),
    "chunks": (normal(100, 50), {"chunks": (2, 5 * 2)}),
    "range": (normal(100, 50), {"value_range": (-1, 1)}),
    "integers": (np.random.default_rng(3).integers(0, 256, (30, 40)).astype(np.uint8), {}),
    "half": (normal(30, 40).astype(np.float16), {}),
    "constant": (np.full((20, 30), 273.15), {}),
    "zeros": (np.zeros((20, 30)), {}),
    "missing": (np.full((20, 30), np.nan), {"nan_policy": "propagate"}),
    "tiny numbers": (normal(20, 30).astype(float) * 1e-300, {}),
    "huge numbers": (normal(20, 30).astype(float) * 1e300, {}),
    "far": (normal(20, 30).astype(float) + 1e9, {}),
}


@pytest.mark.parametrize("case", mostly_slow(CASES, ["land"]))
def test_every_kind_of_data_has_a_page(tmp_path, case):
    values, options = CASES[case]
    report, page = made(tmp_path, values, **options)
    assert report.verdict.headline in page.text
    json.dumps(report.to_json(), allow_nan=False)
    assert report.figures.within_bound
    if report.figures.count:
        assert report.comparison is not None
        assert sum(row.current for row in report.comparison.rows) == 1
        assert "What another choice would give" in page.text
        for row in report.comparison.rows:
            assert row.command in page.text


def test_the_page_has_figures_pictures_and_choices(tmp_path):
    report, page = made(tmp_path, *CASES["tails"][:1], scale_method="mse", chunks=(50, 64))
    headings = ["Figures", "Where the values lie", "Where the errors lie", "Which chunks the errors are in",
                "Which codes are used", "What another choice would give"]  # fmt: skip
    places = [page.text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert page.text.index(report.verdict.headline) < places[0]
    assert len(page.all("img")) == 6  # RMS error and saturation have a map each
    for name, text in report.figures.rows():
        assert f"{name}{text}" in page.text


def test_blocks_are_said_and_what_they_gain_has_a_map(tmp_path):
    values = normal(64, 96) * np.repeat([1, 30], 48).astype(np.float32)  # the left half is quiet
    report, page = made(tmp_path, values, blocks=(1, 16), chunks=(64, 48))
    assert "one for each of 384 blocks of 1 x 16 (minmax)" in page.text
    assert (report.verdict.word, report.figures.saturated) == ("good", 0)
    said = re.search(
        r"over one scale for all \((.*?)\), whose RMS error is about (.*?) everywhere: (.*?) to (.*?) dB", page.text
    )
    assert said is not None
    assert report.comparison is not None
    one = next(row for row in report.comparison.rows if row.label == said[1])
    rmse = values.std() * 10 ** (-one.sqnr_db / 20)
    assert report.figures.parts is not None
    gains = [20 * math.log10(rmse / part) for part in report.figures.parts.rmse]
    assert float(said[2]) == pytest.approx(rmse, rel=0.01)
    assert (float(said[3]), float(said[4])) == (pytest.approx(gains[1], abs=0.1), pytest.approx(gains[0], abs=0.1))
    assert gains[0] - gains[1] > 20


@pytest.mark.parametrize(
    ("word", "values", "options"),
    [
        ("good", np.random.default_rng(0).uniform(size=(50, 40)), {}),
        ("fair", normal(200, 100), {}),
        slow("coarse", np.random.default_rng(0).standard_t(2, (200, 100)), {}),
        slow("exact", np.arange(16.0), {}),
        slow("empty", np.full((3, 4), np.nan), {"nan_policy": "propagate"}),
    ],
)
def test_the_verdict_is_one_word(tmp_path, word, values, options):
    report, page = made(tmp_path, values, **options)
    assert report.verdict.word == word
    assert {"class": f"verdict {word}"} in page.all("section")


@pytest.mark.slow
def test_the_verdict_tells_of_saturated_values_and_of_better_choices(tmp_path):
    report, _ = made(tmp_path, *CASES["range"][:1], value_range=(-1, 1))
    said = " ".join(report.verdict.sentences)
    assert f"Mind the outliers: {report.figures.saturated:,} values" in said
    assert "Another choice would do better" in said
    (tmp_path / "other").mkdir()
    even, _ = made(tmp_path / "other", np.random.default_rng(0).uniform(size=50_000))
    assert "No value is off by more than half a step" in " ".join(even.verdict.sentences)
    assert "Another choice would do better: mse, blocks of" in " ".join(even.verdict.sentences)


def test_another_source_is_called_wrong(tmp_path):
    stored(tmp_path, normal(40, 50))
    np.save(tmp_path / "y.npy", normal(40, 50, seed=1))
    report = write_report(tmp_path / "x.zarr", tmp_path / "y.npy", tmp_path / "x.html")
    assert report.verdict.word == "wrong"
    page = checked(Page((tmp_path / "x.html").read_text()))
    assert "does not hold this source" in page.text
    assert f"{report.figures.outside:,} values are further off" in page.text
    assert str(report).startswith(report.verdict.headline)


def test_strings_of_the_data_are_escaped(tmp_path):
    folder = tmp_path / '<b>&"quoted"'
    folder.mkdir()
    import zarr

    name = "<b>a.zarr"
    array = zarr.create_array(folder / name, shape=(20, 30), dtype="f4", attributes={"units": "<b>$K$</b>"})
    array[:] = normal(20, 30)
    quantize_to_zarr(folder / name, folder / "x.zarr")
    write_report(folder / "x.zarr", folder / name, folder / "x.html")
    page = checked(Page((folder / "x.html").read_text()))
    assert str(folder / name) in page.text
    assert "What 4 bits keep of <b>a.zarr" in page.text


@pytest.mark.slow
def test_arrays_need_no_path(tmp_path):
    values = normal(30, 40)
    array = stored(tmp_path, values)
    report = write_report(array, values, tmp_path / "x.html")
    assert "quantize run SRC DST" in report.comparison.recommended.command
    assert "array in memory" in checked(Page((tmp_path / "x.html").read_text())).text


@pytest.mark.slow
def test_the_same_store_has_the_same_page(tmp_path):
    stored(tmp_path, normal(40, 50), chunks=(8, 10))
    for name in ("a.html", "b.html"):
        write_report(tmp_path / "x.zarr", tmp_path / "x.npy", tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_many_chunks_fit_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_PARTS", 64)
    report, page = made(tmp_path, normal(60, 60), chunks=(3, 6), scale_method="mse")
    assert len(report.figures.parts.rmse) <= 64
    assert "rows: chunks along axis 0" in page.text


def test_one_variable_of_several_is_named(tmp_path):
    values = normal(30, 40)
    for name in ("a", "b"):
        quantize_to_zarr(values, tmp_path / "x.zarr", name=name)
    with pytest.raises(StoreError, match="several variables, a, b"):
        write_report(tmp_path / "x.zarr", values, tmp_path / "x.html")
    write_report(tmp_path / "x.zarr", values, tmp_path / "x.html", name="b")
    assert "x.zarr/b" in (tmp_path / "x.html").read_text()


# What can go wrong ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_kept_unless_told(tmp_path):
    array = stored(tmp_path, normal(30, 40))
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_report(array, tmp_path / "x.npy", tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text() == "mine"
    write_report(array, tmp_path / "x.npy", tmp_path / "x.html", overwrite=True)
    checked(Page((tmp_path / "x.html").read_text()))


def test_a_damaged_chunk_leaves_no_page_behind(tmp_path):
    stored(tmp_path, normal(30, 40), chunks=(10, 40))
    chunk = tmp_path / "x.zarr" / "data" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DamagedChunkError, match="c/1/0"):
        write_report(tmp_path / "x.zarr", tmp_path / "x.npy", tmp_path / "x.html")
    assert sorted(os.listdir(tmp_path)) == before


def test_without_matplotlib_nothing_is_read(tmp_path, monkeypatch):
    array = stored(tmp_path, normal(30, 40))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr("quantize.quality.report.report.measure_store", lambda *_: pytest.fail("measured"))
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        write_report(array, tmp_path / "x.npy", tmp_path / "x.html")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    array = stored(tmp_path, normal(30, 40))
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        write_report(array, tmp_path / "x.npy", tmp_path / "gone" / "x.html")


def test_progress_is_that_of_the_measurement(tmp_path):
    seen: list[Any] = []
    write_report(stored(tmp_path, normal(30, 40)), tmp_path / "x.npy", tmp_path / "x.html", progress=seen.append)
    assert {event.phase for event in seen} == {"measure"}
    assert math.isclose(seen[-1].done, seen[-1].total)
