"""What becomes of each array of a source: quantized by which settings, or kept and why; and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import field
from zarr.storage import MemoryStore

from quantize import plan_dataset, quantize_dataset
from quantize.io.arrays import Arrays
from quantize.io.raw import RawArray
from quantize.io.source import Source
from quantize.runtime.selection import Chosen, choose
from quantize.runtime.settings import Settings

F4 = np.dtype("f4")


class Made(Arrays):
    """Arrays that have a shape, a dtype, attributes and dimensions, and zeros for values."""

    def __init__(self, given: dict[str, dict[str, Any]], coordinates: tuple[str, ...] = ()) -> None:
        super().__init__("made", given)
        self.own = frozenset(coordinates)

    def opened_raw(self, array: dict[str, Any]) -> RawArray:
        shape, dtype = array.get("shape", (64, 64)), np.dtype(array.get("dtype", F4))
        return RawArray(
            "made", shape, dtype, np.zeros(shape, dtype).__getitem__, array.get("said", {}), array.get("dims")
        )

    def opened(self, array: dict[str, Any]) -> Source:
        raw = self.opened_raw(array)
        from quantize.io import as_source

        return as_source(np.zeros(raw.shape, raw.dtype))

    @property
    def coordinates(self) -> frozenset[str]:
        return self.own


def why(**array: Any) -> str:
    (found,) = choose(Made({"x": array}))
    return found.why


def chosen(given: dict[str, dict[str, Any]], **options: Any) -> dict[str, Chosen]:
    return {one.name: one for one in choose(Made(given), **options)}


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ({}, ""),
        ({"dtype": "f2"}, ""),
        ({"dtype": "i2", "said": {"scale_factor": 0.1}}, ""),
        ({"dtype": "i2", "said": {"add_offset": 1.0}}, ""),
        ({"dtype": "i2"}, "int16 is no float"),
        ({"dtype": "?"}, "bool is no float"),
        ({"dtype": "c8"}, "complex64 is no float"),
        ({"dtype": "M8[ns]"}, "datetime64[ns] is no float"),
        ({"dtype": object}, "text is no float"),
        ({"shape": (4096,)}, "1 axis"),
        ({"shape": ()}, "0 axes"),
        ({"shape": (63, 65)}, "4,095 values"),
        ({"shape": (64, 0)}, "0 values"),
        ({"dims": ("x", "y")}, "a coordinate"),
        ({"dims": ("lat", "lon")}, ""),
        ({"said": {"units": "days since 2000-01-01"}}, "a time"),
        ({"said": {"calendar": "noleap"}}, "a time"),
        ({"said": {"units": "degrees_north"}}, "a coordinate"),
        ({"said": {"units": "degrees"}}, ""),
        ({"said": {"standard_name": "latitude"}}, "a coordinate"),
        ({"said": {"axis": "Z"}}, "a coordinate"),
        ({"said": {"flag_values": [1, 2]}}, "flags"),
        ({"said": {"flag_meanings": "a b"}}, "flags"),
    ],
    ids=str,
)
def test_what_is_kept_where_nobody_says_so(array: dict[str, Any], said: str) -> None:
    assert why(**array) == said
    if array.get("dtype") not in ("c8", "M8[ns]", object, "?") and array.get("shape", (1,)) not in ((), (64, 0)):
        assert chosen({"x": array}, select="x")["x"].why == ""
    assert chosen({"x": array}, keep="x")["x"].why == "keep says so"


def test_what_others_name_is_a_coordinate() -> None:
    given = {
        "t": {"said": {"coordinates": "height area", "bounds": "t_bnds", "cell_measures": "area: cells"}},
        **{name: {} for name in ("height", "area", "t_bnds", "cells", "said")},
    }
    found = choose(Made(given, coordinates=("said",)))
    assert {one.name: one.why for one in found} == {"t": "", **dict.fromkeys([*given][1:], "a coordinate")}


LAYERS: dict[str, dict[str, Any]] = {
    "up.weight": {"dims": ("out", "in")},
    "down.weight": {"dims": ("out", "in")},
    "up.bias": {"shape": (64,)},
    "embed/a,b": {},
    "x[0]": {},
    "dim=out": {},
}


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("auto", {"up.weight", "down.weight", "embed/a,b", "x[0]", "dim=out"}),
        ("up.weight", {"up.weight"}),
        ("up.weight, x[[]0]", {"up.weight", "x[0]"}),
        ("embed/a,b", {"embed/a,b"}),
        (["embed/a,b", "x[0]"], {"embed/a,b", "x[0]"}),
        ("*.weight", {"up.weight", "down.weight"}),
        ("?p.*", {"up.weight", "up.bias"}),
        ("dim=in", {"up.weight", "down.weight"}),
        ("dim=out", {"dim=out"}),
        (("*", "up.bias"), set(LAYERS)),
        ([], set()),
    ],
)
def test_patterns_are_names_globs_and_dimensions(select: Any, names: set[str]) -> None:
    found = chosen(LAYERS, select=select)
    assert list(found) == sorted(LAYERS)
    assert {name for name, one in found.items() if not one.why} == names
    for one in found.values():
        assert (one.source is None) == (one.settings is None) == bool(one.why)


def test_drop_comes_before_keep_and_keep_before_select() -> None:
    found = chosen(LAYERS, select="*", keep=["*.weight"], drop="up.*, dim=out")
    assert {name: one.why for name, one in found.items()} == {
        "down.weight": "keep says so",
        "embed/a,b": "",
        "x[0]": "",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "up.wieght"}, "select 'up.wieght' matches no variable; did you mean 'up.weight'"),
        ({"keep": "*.scale"}, r"keep '\*.scale' matches no variable; there are dim=out, down.weight"),
        ({"drop": "dim=in"}, "drop 'dim=in' matches no variable"),
        ({"select": "UP.*"}, r"select 'UP.\*' matches no variable"),
        ({"select": ["up.*", "dim=time"]}, "select 'dim=time' matches no variable"),
        ({"keep": [3]}, "keep has 3, but takes names, globs and 'dim=' with a dimension"),
        ({"rules": {"dim=time": {"axis": 0}}}, "rule 'dim=time' matches no variable"),
        (
            {"rules": {"up.weight": {"axes": 0}}},
            "a rule for up.weight has 'axes', which is no setting; did you mean 'axis'",
        ),
        ({"rules": {"up.weight": {"memory": 3}}}, "has 'memory', which is no setting"),
        ({"rules": {"up.weight": {"name": "x"}}}, "has 'name', which is no setting"),
        ({"rules": {"up.bias": {"axis": 0}}}, r"rule 'up.bias' is for up.bias, which is kept \(1 axis\): select it"),
        ({"rules": {"*.bias": {"axis": 0}}}, r"rule '\*.bias' is for up.bias, which is kept"),
        (
            {"keep": "*.weight", "rules": {"dim=in": {"axis": 0}}},
            r"down.weight and 1 more, which is kept \(keep says so\)",
        ),
        ({"drop": "*.weight", "rules": {"dim=in": {"axis": 0}}}, "rule 'dim=in' matches no variable"),
        ({"rules": {"up.weight": {"axis": "time"}}}, "up.weight has no dimension 'time', but the dimensions out, in"),
        ({"rules": {"x[0]": {"axis": "time"}}}, r"x\[0\] has no dimension 'time', but no names of dimensions"),
        ({"rules": {"up.weight": {"chunks": {"time": 3}}}}, "up.weight has no dimension 'time'"),
    ],
    ids=str,
)
def test_what_matches_nothing_or_says_what_it_cannot_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(LAYERS, **options)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"axis": 7}, "up.weight"),
        ({"scale_method": "best"}, "up.weight"),
        ({"blocks": (3,)}, "up.weight"),
        ({"nan_policy": "perhaps"}, "up.weight"),
        ({"chunks": "many"}, "up.weight"),
    ],
    ids=str,
)
def test_a_setting_that_a_variable_cannot_have_is_told_with_its_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        plan_dataset({"up.weight": field((64, 64)), "x": field((64, 64))}, MemoryStore(), rules={"up.*": settings})


def test_of_several_rules_the_later_wins_and_who_shares_a_scale_is_said_whole() -> None:
    rules = {
        "*": {"axis": "in", "scale_method": "mse"},
        "up.*": {"blocks": {"in": 16}},
        "up.weight": {"chunks": {"out": 8}, "scale_method": "absmax"},
    }
    found = chosen(LAYERS, select="dim=in", rules=rules, settings=Settings(preset="weights", nan_policy="propagate"))
    up, down = found["up.weight"].settings, found["down.weight"].settings
    assert up is not None
    assert down is not None
    assert (up.axis, up.blocks, up.preset, up.chunks, up.scale_method) == (None, (1, 16), None, (8, -1), "absmax")
    assert (down.axis, down.blocks, down.preset, down.chunks, down.scale_method) == (1, None, None, None, "mse")
    assert up.nan_policy == down.nan_policy == "propagate"


@given(
    st.sets(st.sampled_from(["a", "b", "c", "ab", "ac"]), min_size=1),
    st.sets(st.sampled_from(["a", "b", "c", "ab", "ac"])),
)
def test_what_is_not_selected_comes_back_identical(selected: set[str], kept: set[str]) -> None:
    source = {name: field((5, 7), seed=seed) for seed, name in enumerate(["a", "b", "c", "ab", "ac"])}
    found = quantize_dataset(source, MemoryStore(), select=list(selected), keep=list(kept), workers=1)
    assert set(found.quantized) == selected - kept
    for name in set(source) - set(found.quantized):
        assert found[name][...].tobytes() == source[name].tobytes()
