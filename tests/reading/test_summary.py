"""What a notebook shows of an array: a table that says what the metadata say, escaped, and reads nothing else."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from stores import WatchedStore, field
from zarr.storage import MemoryStore

from quantize import append_to_zarr, open_int4, quantize_to_zarr
from quantize.reading.summary import description, summary


def facts(array: Any) -> dict[str, str]:
    """The table, read back by a strict parser."""
    table = ElementTree.fromstring(array._repr_html_())
    assert table.tag == "table"
    assert {element.tag for element in table.iter()} <= {"table", "caption", "b", "tbody", "tr", "th", "td"}
    return {row[0].text or "": row[1].text or "" for row in table.iter("tr")}


def test_what_it_says() -> None:
    array = quantize_to_zarr(field((40, 50)), MemoryStore(), chunks=(8, 10), shards=(16, 50), compressors=None)
    found = facts(array)
    assert found["shape"] == "(40, 50) float32, 7.81 kiB"
    assert found["chunks"] == "(8, 10) in shards (16, 50)"
    stored = array.nbytes_stored
    smaller = f"{8000 / stored:.1f} times smaller, {8 * stored / 2000:.2f} bits a value"
    assert found["stored"] == f"{stored / 1024:.2f} kiB, {smaller}"
    assert found["scale"] == f"{array.scale:.9g}, zero point {array.zero_point} (minmax)"
    assert found["max error"] == f"{array.scale / 2:.6g} within the range (half a step)"
    assert found["status"] == "sealed"
    assert "missing" not in found


@pytest.mark.parametrize("options", [{}, {"nan_policy": "propagate", "shards": (16, 50)}], ids=str)
def test_the_table_says_what_the_command_line_says(options: dict[str, Any]) -> None:
    array = quantize_to_zarr(field((40, 50)), MemoryStore(), chunks=(8, 10), **options)
    lines = {name: text for name, text in facts(array).items() if name != "status"}
    assert "\n".join(f"{name:<12}{text}" for name, text in lines.items()) == description(array)
    assert summary(array)["max_error"] == array.scale / 2


@pytest.mark.parametrize(("axis", "count"), [(0, "1,200"), (1, "5")])
def test_scales_of_an_axis_are_told_without_reading_them(tmp_path: Path, axis: int, count: str) -> None:
    quantize_to_zarr(field((1200, 5)), tmp_path / "x", axis=axis, scale_method="mse")
    store = WatchedStore(tmp_path / "x", read_only=True)
    array = open_int4(store)
    store.got.clear()
    assert facts(array)["scale"] == f"one for each of {count} indices of axis {axis} (mse)"
    assert store.got == []


@pytest.mark.parametrize(
    ("dtype", "options", "said"),
    [
        (np.float32, {}, "code -8, read back as NaN"),
        (np.int16, {"missing": -99}, "code -8, read back as -99"),
    ],
)
def test_missing_values(dtype: Any, options: Any, said: str) -> None:
    array = quantize_to_zarr(field().astype(dtype), MemoryStore(), nan_policy="propagate", **options)
    assert facts(array)["missing"] == said


def test_everything_is_escaped(tmp_path: Path) -> None:
    import zarr

    source = zarr.create_array(
        tmp_path / "x.zarr", data=field((4, 6)), dimension_names=("<script>alert('x')</script>", "a&b")
    )
    array = quantize_to_zarr(source, tmp_path / "<b>&.zarr")
    html = array._repr_html_()
    assert "<script" not in html
    assert facts(array)["dimensions"] == "<script>alert('x')</script>, a&b"
    assert "<b>&.zarr/data" in "".join(ElementTree.fromstring(html)[0].itertext())
    assert len(html) < 3000


def test_what_was_appended_is_told(tmp_path: Path) -> None:
    values = field((40, 50))
    array = quantize_to_zarr(values[:30], tmp_path / "x", chunks=(8, 10), value_range=(-1, 1))
    assert (summary(array)["appended"], summary(array)["under_way"]) == (None, None)
    for part in (values[30:35], values[35:]):
        append_to_zarr(part, tmp_path / "x")
    array.refresh()
    beyond = int((np.abs(values[30:]) > 1 + array.max_error).sum())
    assert beyond
    assert facts(array)["appended"] == f"2 times, the last along axis 0, {beyond:,} values of it saturated"
    assert summary(array)["appended"] == {"times": 2, "axis": 0, "saturated": beyond}
