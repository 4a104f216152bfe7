"""What attributes say of values is taken, or refused with the reason: never passed over."""

import math
from typing import Any

import numpy as np
import pytest

from quantize.exceptions import DeclarationError
from quantize.io.attributes import (
    Declared,
    as_number,
    cf_references,
    encoded_fill,
    plain,
    strict,
    with_zarr_fill,
    zarr_attributes,
)


def declared(dtype: str, **attributes: Any) -> Declared:
    return Declared.of(attributes, np.dtype(dtype), "x")


@pytest.mark.parametrize(
    ("dtype", "attributes", "missing"),
    [
        ("f4", {}, ()),
        ("f4", {"_FillValue": math.nan, "missing_value": math.nan}, ()),
        ("f4", {"missing_value": [-999.0, -888.0]}, (-999, -888)),
        ("f4", {"_FillValue": -1, "missing_value": -2}, (-1, -2)),
        ("f4", {"_FillValue": -1, "missing_value": -1.0}, (-1,)),
        ("f4", {"missing_value": "-999."}, (-999,)),
        ("f4", {"missing_value": " -999 "}, (-999,)),
        ("f4", {"_FillValue": encoded_fill(1e20)}, (float(np.float32(1e20)),)),
        ("f4", {"_FillValue": encoded_fill(math.nan), "missing_value": ["-999", -888]}, (-999, -888)),
        ("f8", {"_FillValue": math.inf}, (math.inf,)),
        ("i2", {"_FillValue": -999.0, "missing_value": None}, (-999,)),
        ("i2", {"_FillValue": math.nan}, ()),
        ("i2", {"_FillValue": -1, "missing_value": [-2, 65533], "_Unsigned": "true"}, (65535, 65534, 65533)),
        ("u1", {"_FillValue": 255, "_Unsigned": "false"}, (-1,)),
    ],
    ids=str,
)
def test_missing_values(dtype: str, attributes: dict[str, Any], missing: tuple[Any, ...]) -> None:
    assert declared(dtype, **attributes).missing == missing


@pytest.mark.parametrize(
    ("dtype", "attributes"),
    [
        ("f4", {"missing_value": "none"}),
        ("f4", {"missing_value": "-999, -888"}),
        ("f4", {"_FillValue": "not base64!"}),
        ("f4", {"_FillValue": []}),
        ("f4", {"_FillValue": {"value": 1}}),
        ("f4", {"_FillValue": True}),
        ("f2", {"_FillValue": 1e20}),
        ("i2", {"missing_value": -99.5}),
        ("i2", {"_FillValue": 1e20}),
        ("i1", {"_FillValue": 255}),
        ("f4", {"valid_range": [1, 2, 3]}),
        ("f4", {"valid_range": "all"}),
        ("f4", {"valid_min": [1, 2]}),
        ("i2", {"valid_min": 0.5, "scale_factor": 0.1}),
        ("i2", {"valid_max": 70000, "scale_factor": 0.1}),
        ("i2", {"_Unsigned": "maybe"}),
        ("i2", {"scale_factor": "much"}),
        ("i2", {"scale_factor": [1.0, 2.0]}),
        ("i2", {"scale_factor": 0}),
        ("i2", {"add_offset": math.nan}),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_with_the_way_out(dtype: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError) as refusal:
        declared(dtype, **attributes)
    said = [one for one in attributes.items() if "{} = {!r}".format(*one) in str(refusal.value)]
    ((name, value),) = said
    way = "decode=False" if name in ("scale_factor", "add_offset", "_Unsigned") else "pass missing="
    assert f"x has the attribute {name} = {value!r}" in str(refusal.value)
    assert way in str(refusal.value)


@pytest.mark.parametrize(
    ("dtype", "attributes", "bounds"),
    [
        ("i2", {"valid_range": [0, 100]}, (0, 100)),
        ("i2", {"valid_min": -0.5, "valid_max": 99.5}, (0, 99)),
        ("i2", {"valid_min": -1e9, "valid_max": 32767}, (None, None)),
        ("i2", {"valid_range": [0, 10], "valid_min": 5}, (0, 10)),
        ("i2", {"valid_range": [0, -6], "_Unsigned": "true"}, (None, 65530)),
        ("f4", {"valid_max": 330.1}, (None, float(np.float32(330.1)))),
        ("f4", {"valid_min": -math.inf, "valid_max": math.nan}, (None, None)),
        ("f4", {"valid_range": ["0", "1"]}, (0, 1)),
        ("f4", {"valid_max": 1e300}, (None, None)),
        ("i2", {"valid_range": [0, 100], "scale_factor": 0.5}, (0, 100)),
    ],
    ids=str,
)
def test_valid_bounds(dtype: str, attributes: dict[str, Any], bounds: tuple[Any, Any]) -> None:
    found = declared(dtype, **attributes)
    assert (found.low, found.high) == bounds


def test_numbers_of_attributes() -> None:
    assert as_number(encoded_fill(-1.5)) == -1.5
    assert [as_number(value) for value in ("1e20", "0x10", "", None, [1])] == [1e20, None, None, None, None]


def test_one_element_is_a_number() -> None:
    assert plain({"a": np.array([0.5]), "b": np.array([1, 2], "i2"), "c": np.array(b"K"), "d": np.array([[3]])}) == {
        "a": 0.5,
        "b": [1, 2],
        "c": "K",
        "d": 3,
    }


def test_fill_values_of_zarr() -> None:
    dims = {"_ARRAY_DIMENSIONS": ["x"]}
    assert with_zarr_fill(dims, np.float32(-9999), 2) == ({**dims, "_FillValue": -9999.0}, ())
    for attributes, fill, version in (({}, 0, 2), (dims, None, 2), (dims, math.nan, 2), ({}, 0, 3), ({}, "", 3)):
        assert with_zarr_fill(attributes, fill, version) == (attributes, ())
    zero, said = with_zarr_fill(dims, 0, 2)
    assert zero["_FillValue"] == 0
    assert "xarray reads as missing" in said[0]
    for attributes, version in (({}, 2), ({}, 3), (dims, 3)):
        same, said = with_zarr_fill(attributes, -9999, version)
        assert same == attributes
        assert "missing=-9999" in said[0]
    both = {"_FillValue": -1, **dims}
    assert with_zarr_fill(both, -9999, 2) == ({**dims, "_FillValue": [-9999, -1]}, ())
    for fill, version in ((0, 2), (-9999, 3)):
        assert with_zarr_fill(both, fill, version) == (both, ())


def test_strict_json() -> None:
    assert strict({"a": [math.nan, {"b": -math.inf}], "c": 1.5}) == {"a": ["NaN", {"b": "-Infinity"}], "c": 1.5}
    assert zarr_attributes({"_FillValue": -1}, np.dtype("i2")) == {"_FillValue": -1}
    assert zarr_attributes({"_FillValue": math.nan}, np.dtype("f8")) == {"_FillValue": encoded_fill(math.nan)}


# What names other variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"coordinates": "lat  lon gone"}, {"lat", "lon"}),
        ({"bounds": "time_bnds"}, {"time_bnds"}),
        ({"climatology": "clim"}, {"clim"}),
        ({"grid_mapping": "crs"}, {"crs"}),
        ({"grid_mapping": "crs: lat lon other: x y"}, {"crs", "lat", "lon", "other"}),
        ({"cell_measures": "area: cells volume: gone"}, {"cells"}),
        ({"formula_terms": "a: a ps: ps lat: gone"}, {"a", "ps"}),
        ({"geometry": "shape", "node_coordinates": "lon lat", "node_count": "count"}, {"shape", "lat", "lon", "count"}),
        ({"face_coordinates": ["lat", "lon"]}, {"lat", "lon"}),
        ({"ancillary_variables": "ps"}, set()),
        ({"coordinates": 3, "bounds": None, "units": "lat", "long_name": "lon"}, set()),
        ({"coordinates": "/deep/lat ./lon"}, {"deep/lat", "lon"}),
    ],
)
def test_variables_that_others_name(attributes: dict[str, Any], named: set[str]) -> None:
    names = [
        "lat",
        "lon",
        "time_bnds",
        "clim",
        "crs",
        "other",
        "cells",
        "area",
        "a",
        "ps",
        "shape",
        "count",
        "deep/lat",
    ]
    assert cf_references({"t": attributes, **{name: {} for name in names}}) == named


def test_names_in_groups_are_looked_for_upwards() -> None:
    variables = {"a/b/t": {"coordinates": "lat lon z ../x /y"}, "a/b/lat": {}, "lat": {}, "a/lon": {}, "lon": {}}
    others = {"z": {}, "c/z": {}, "a/x": {}, "x": {}, "y": {}, "a/y": {}}
    assert cf_references(variables | others) == {"a/b/lat", "a/lon", "z", "a/x", "y"}
    assert cf_references(variables | others, {"": {"coordinates": "lon"}, "c": {"coordinates": "z"}}) == {
        *("a/b/lat", "a/lon", "z", "a/x", "y", "lon", "c/z")
    }
