"""The manifest of a collection: what is read is what was written, and what is not is refused."""

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from quantize.exceptions import StoreError
from quantize.store.codec import Compressor
from quantize.store.keys import Keys
from quantize.store.manifest import Manifest, Member, Standing, dtype_name, dtype_of, manifest_of
from quantize.store.zarr_json import checksum, serialized

NAMES = ["w", "a/b", "a:b", ".", "..", ".int4", "zarr.json", "x_scale", "ö", "W", "c", "0", "n" * 80, "-", " ", "\0"]
GROUPS = ["g", "h:", "Ö"]
DTYPES = ["f4", "f8", "<u8", "?", "c8", "M8[ns]", "m8[25s]", "M8", "S5", "U3", object, ml_dtypes.bfloat16, "i1"]
names = st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def members(draw: st.DrawFn) -> Member:
    groups = draw(st.lists(st.sampled_from(GROUPS), max_size=2))
    path = (*groups, draw(names.filter(lambda name: name not in GROUPS)))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    source = {"sample": draw(st.text("0123456789abcdef", max_size=4))}
    if draw(st.booleans()):
        return Member(path, "int4", shape, np.dtype("f4"), source=source)
    attributes = draw(st.dictionaries(st.text(max_size=4), values, max_size=3))
    dims = draw(st.none() | st.tuples(*[st.none() | st.text(max_size=3)] * len(shape)))
    chunk = tuple(draw(st.integers(1, 9)) for _ in shape)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    return Member(path, "kept", shape, dtype, chunk, attributes, dims, Compressor(), source)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    found = draw(st.lists(members(), max_size=4, unique_by=lambda member: member.name))
    paths = draw(st.sets(st.sampled_from([(), ("g",), ("g", "h:"), ("of its own",)])))
    groups = {path: draw(st.dictionaries(st.text(max_size=3), values, max_size=2)) for path in sorted(paths)}
    replaced = draw(st.sampled_from([(), (), ("a", "g/x=20y")]))
    status = "replacing" if replaced else draw(st.sampled_from(["writing", "sealed"]))
    return Manifest(tuple(sorted(found, key=lambda member: member.folder)), groups, status, replaced)


def text_of(value: Any) -> str:
    return repr(value)  # to which NaN is equal to itself


@given(manifests())
def test_what_is_read_is_what_was_written(manifest: Manifest) -> None:
    found = Manifest.from_json(manifest.to_json(), "x")
    assert found is not None
    assert text_of(found) == text_of(manifest)
    assert found.to_json() == manifest.to_json()
    assert manifest.to_json().startswith(manifest.head)
    assert found.at("sealed").job == manifest.job


@given(manifests(), manifests())
def test_two_jobs_have_two_heads(one: Manifest, other: Manifest) -> None:
    same = one.at("sealed").to_json() == other.at("sealed").to_json()
    assert (one.at("writing").head == other.at("writing").head) == same
    assert one.at("writing").head != one.at("sealed").head


def made() -> Manifest:
    ids = Member(("g", "ids"), "kept", (3,), np.dtype("i4"), (2,), {"x": np.inf}, ("é",), Compressor(), {"sample": "0"})
    weights = Member(("w",), "int4", (4, 4), np.dtype("f4"), source={"a": [1, 0.1]})
    return Manifest((ids, weights), {(): {"title": "t"}})


def forged(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A manifest that was changed, with the checksum and the digest of the job that it ought to have."""
    document = json.loads(made().to_json())
    header = document["attributes"]["int4"]
    change(header)
    header.pop("checksum", None)
    if "job" in header:
        header["job"] = checksum({key: header.get(key) for key in ("variables", "groups")})
    header["checksum"] = checksum(header)
    return serialized(document)


def put(header: dict[str, Any], *path: Any) -> None:
    """Set what lies at a path to its last part."""
    for key in path[:-2]:
        header = header[key]
    header[path[-2]] = path[-1]


def add(header: dict[str, Any], folder: str, like: str, path: list[str]) -> None:
    header["variables"][folder] = {**header["variables"][like], "path": path}


def removes(place: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header.update(status="replacing", replaced=[place])


GZIP = {"name": "gzip", "options": {"level": 5}}
OUTSIDE = ["..", "../x", "/etc", "", "a//b", "a/../../b", "a/.", ".int4", 5, None, ["a"], "zarr.json", "a\0", "A=2f"]
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no status": lambda header: header.pop("status"),
    "no variables": lambda header: header.pop("variables"),
    "no groups": lambda header: header.pop("groups"),
    "another key": lambda header: put(header, "more", 1),
    "unknown status": lambda header: put(header, "status", "whole"),
    "a status that is a list": lambda header: put(header, "status", []),
    "replacing nothing": lambda header: put(header, "status", "replacing"),
    "writing and replacing": lambda header: put(header, "replaced", ["a"]),
    **{f"removes {place!r}": removes(place) for place in OUTSIDE},
    "variables in a list": lambda header: put(header, "variables", list(header["variables"].values())),
    "another folder": lambda header: header["variables"].update(v=header["variables"].pop("w")),
    "another name": lambda header: put(header, "variables", "w", "path", ["v"]),
    "a name outside": lambda header: put(header, "variables", "w", "path", ["..", 5]),
    "no name": lambda header: put(header, "variables", "w", "path", []),
    "a path that is text": lambda header: put(header, "variables", "w", "path", "w"),
    "a variable that is a group": lambda header: put(header, "groups", [{"path": ["w"], "attributes": {}}]),
    "a variable in a variable": lambda header: add(header, "w/x", "w", ["w", "x"]),
    "two of one name": lambda header: add(header, "g=2Fids", "g/ids", ["g/ids"]),
    "two groups": lambda header: header["groups"].append(header["groups"][0]),
    "a group without a name": lambda header: put(header, "groups", [{"path": [""], "attributes": {}}]),
    "another kind": lambda header: put(header, "variables", "w", "kind", "int8"),
    "kept without chunks": lambda header: put(header, "variables", "w", "kind", "kept"),
    "quantized with chunks": lambda header: put(header, "variables", "g/ids", "kind", "int4"),
    "a shape of floats": lambda header: put(header, "variables", "w", "shape", [4.0, 4]),
    "a shape of truths": lambda header: put(header, "variables", "w", "shape", [True, 4]),
    "a negative shape": lambda header: put(header, "variables", "w", "shape", [-1, 4]),
    "chunks of nothing": lambda header: put(header, "variables", "g/ids", "chunks", [0]),
    "too many chunks": lambda header: put(header, "variables", "g/ids", "chunks", [2, 2]),
    "another dtype": lambda header: put(header, "variables", "g/ids", "dtype", "i4"),
    "a dtype that is none": lambda header: put(header, "variables", "g/ids", "dtype", "finfo"),
    "a dtype of objects": lambda header: put(header, "variables", "g/ids", "dtype", "object"),
    "a dtype of fields": lambda header: put(header, "variables", "g/ids", "dtype", "i4,f4"),
    "a dtype that is a number": lambda header: put(header, "variables", "g/ids", "dtype", 5),
    "a long dtype": lambda header: put(header, "variables", "g/ids", "dtype", "S" + "9" * 30),
    "names of other axes": lambda header: put(header, "variables", "g/ids", "dimension_names", ["x", "y"]),
    "names that are numbers": lambda header: put(header, "variables", "g/ids", "dimension_names", [1]),
    "a name for the axes": lambda header: put(header, "variables", "g/ids", "dimension_names", "x"),
    "another compressor": lambda header: put(header, "variables", "g/ids", "compressor", "name", "lzma"),
    "texts by gzip": lambda header: header["variables"]["g/ids"].update(dtype="text", compressor=GZIP),
    "no compressor": lambda header: put(header, "variables", "g/ids", "compressor", None),
    "an unknown number": lambda header: put(header, "variables", "g/ids", "attributes", {"x": "@float:1.0"}),
    "attributes in a list": lambda header: put(header, "variables", "g/ids", "attributes", [["x", 1]]),
    "a source that is none": lambda header: put(header, "variables", "w", "source", 3),
    "a version that is text": lambda header: put(header, "version", "2"),
    "an old version": lambda header: put(header, "version", 1),
    "a version that is true": lambda header: put(header, "version", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_contradictions_are_refused_though_the_checksum_is_right(change: str) -> None:
    assert Manifest.from_json(forged(lambda header: None), "x") == made()
    with pytest.raises(StoreError, match="x contradicts itself"):
        Manifest.from_json(forged(CHANGES[change]), "x")


def test_another_digest_of_the_job_and_a_newer_version_are_refused() -> None:
    document = json.loads(made().to_json())
    header = document["attributes"]["int4"]
    header["job"] = "0" * 64
    del header["checksum"]
    header["checksum"] = checksum(header)
    with pytest.raises(StoreError, match="contradicts itself"):
        Manifest.from_json(serialized(document), "x")
    with pytest.raises(StoreError, match="version 3; this library reads up to 2"):
        Manifest.from_json(forged(lambda header: put(header, "version", 3)), "x")


def test_no_flip_and_no_cut_is_read_as_something_else() -> None:
    """A flip of any bit, a cut at any length: an error, no collection, or the same one."""
    data, right = made().to_json(), made()
    for at in range(len(data)):
        for changed in (*(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for bit in range(8)), data[:at]):
            try:
                found = Manifest.from_json(changed, "x")
            except StoreError:
                continue
            assert found is None or found == right, (at, changed[max(at - 9, 0) : at + 9])
            if found is None:  # then nothing tells that it is ours
                assert changed == data[:at] or at < data.index(b'"version"')


@pytest.mark.parametrize("name", DTYPES)
def test_names_of_dtypes_come_back(name: Any) -> None:
    dtype = np.dtype(name)
    assert dtype.kind == "O" or dtype_of(dtype_name(dtype)) == dtype


def test_who_writes_sees_whose_the_place_is() -> None:
    keys, own = Keys(MemoryStore()), made()
    other = Manifest(own.members[:1], own.groups)
    standing = Standing.of(keys, own)
    with pytest.raises(StoreError, match="taken over by another job"):
        standing.stands()
    for state, stands in ((own, True), (own.at("sealed"), False)):
        keys.set("zarr.json", state.to_json())
        assert standing.stands() == stands
    standing.check_read()
    for state in (other, other.at("sealed"), own.at("replacing", ("a",))):
        keys.set("zarr.json", state.to_json())
        with pytest.raises(StoreError, match="taken over by another job"):
            standing.stands()
        with pytest.raises(StoreError, match="was overwritten or removed"):
            standing.check_read()


def test_what_others_add_to_the_document_does_no_harm() -> None:
    keys = Keys(MemoryStore())
    document = json.loads(made().to_json())
    document["attributes"]["theirs"] = 1
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
    keys.set("zarr.json", json.dumps(document).encode())
    assert manifest_of(keys) == made()
