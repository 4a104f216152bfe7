"""What notebooks show of plans, figures and comparisons is what is printed, in one table, escaped."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from stores import field

from quantize import measure_error, plan, quantize_to_zarr, suggest

TAGS = {"div", "table", "caption", "b", "thead", "tbody", "tr", "th", "td", "p"}


def words(text: str) -> set[str]:
    return {word.rstrip(":") for word in text.split()}


@pytest.fixture(params=["plan", "figures", "comparison"])
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    np.save(tmp_path / "<b>&.npy", field((40, 50)))
    if request.param == "plan":
        return plan(tmp_path / "<b>&.npy", tmp_path / "z", memory="200MiB", workers=2)
    if request.param == "figures":
        return measure_error(tmp_path / "<b>&.npy", quantize_to_zarr(tmp_path / "<b>&.npy", tmp_path / "z"))
    return suggest(tmp_path / "<b>&.npy")


def test_a_table_says_what_is_printed(shown: Any) -> None:
    page = ElementTree.fromstring(f"<div>{shown._repr_html_()}</div>")
    assert {element.tag for element in page.iter()} <= TAGS
    assert len(page.findall("table")) == 1
    assert words(str(shown)) <= words(" ".join(page.itertext()).replace("recommended:", "recommended: "))
