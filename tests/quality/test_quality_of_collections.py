"""`verify`, `measure_error` and `write_report` over all variables of a collection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import files
from zarr.storage import LocalStore, MemoryStore

from quantize import DamagedChunkError, measure_error, open_int4, quantize_dataset, verify, write_report
from quantize.quality.figures import DatasetErrors
from quantize.quality.report.verdict import verdict_of_all
from quantize.quality.verify import DatasetVerification, Verification

RANDOM = np.random.default_rng(0)
SOURCE: dict[str, Any] = {
    "w/a": RANDOM.normal(size=(64, 80)).astype(np.float32),
    "rough": RANDOM.standard_cauchy(size=(64, 80)),
    "ids": np.arange(10),
    "text": np.array(["a", "bé", ""], object),
    "nan": np.array([np.nan, 1.0]),
    "none": np.zeros((0, 3)),
    "one": np.array(2.5),
}


def nested() -> zarr.Group:
    group = zarr.create_group(MemoryStore(), attributes={"title": "x"})
    for path, values in (("t", SOURCE["w/a"]), ("sea/deep", SOURCE["rough"]), ("sea/ids", SOURCE["ids"])):
        group.create_array(path, data=values, chunks=tuple(-(-n // 2) for n in values.shape))
    return group


def made(source: Any, store: Any, **settings: Any) -> Any:
    quantize_dataset(source, store, **settings)
    return store


@pytest.fixture(scope="module")
def sealed() -> MemoryStore:
    return made(SOURCE, MemoryStore(), chunks=(32, 40))


def copied(store: MemoryStore) -> MemoryStore:
    return MemoryStore(dict(store._store_dict))


# Verified -------------------------------------------------------------------------------------------------------------


def test_all_of_it_is_verified(sealed: MemoryStore) -> None:
    events: list[Any] = []
    found = verify(sealed, source=SOURCE, progress=events.append)
    assert isinstance(found, DatasetVerification)
    assert set(found) == set(SOURCE)
    assert found.ok
    assert found.compared
    assert found.chunks == found.whole == 2 * 4 + 4 == events[-1].total == events[-1].done
    assert {event.phase for event in events} == {"verify"}
    assert str(found) == "12 of 12 chunks of 7 variables are whole, with the codes of the source"
    assert not verify(sealed).compared


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("w/a", -SOURCE["w/a"]),
        ("ids", np.arange(10)[::-1]),
        ("text", np.array(["a", "b", ""], object)),
        ("nan", np.array([-np.nan, 1.0])),
        ("one", np.array(-2.5)),
    ],
)
def test_what_differs_is_named(sealed: MemoryStore, name: str, other: np.ndarray) -> None:
    found = verify(sealed, source={**SOURCE, name: other})
    assert not found.ok
    assert [one for one in SOURCE if not found[one].ok] == [name]
    assert all(place.startswith(open_int4(sealed).manifest[name].folder) for place in found.differing)
    assert not verify(sealed, name, {**SOURCE, name: other}).ok
    assert verify(sealed, name, SOURCE).ok


def described(title: Any = "x", units: Any = "m", names: Any = ("y",), note: Any = None) -> zarr.Group:
    group = zarr.create_group(MemoryStore(), attributes={"title": title, "version": 1})
    group.create_array("t", data=SOURCE["w/a"], attributes={"units": "K"}, dimension_names=("y", "x"))
    sea = group.create_group("sea", attributes={} if note is None else {"note": note})
    sea.create_array("ids", data=SOURCE["ids"], attributes={"units": units, "valid_max": np.inf}, dimension_names=names)
    return group


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({}, ()),
        ({"title": "y"}, ("zarr.json: attribute 'title'",)),
        ({"note": ["a"]}, ("sea/zarr.json: attribute 'note'",)),
        ({"units": 1}, ("sea/ids/zarr.json: attribute 'units'",)),
        ({"names": ("x",)}, ("sea/ids/zarr.json: names of dimensions",)),
        ({"names": (None,)}, ("sea/ids/zarr.json: names of dimensions",)),
    ],
    ids=str,
)
def test_what_is_said_of_it_must_be_the_source_s_too(other: dict[str, Any], differing: tuple[str, ...]) -> None:
    store = made(described(), MemoryStore())
    found = verify(store, source=described(**other))
    assert found.differing == differing
    assert found.ok == (not differing)
    assert found.whole == found.chunks
    assert str(found).startswith("".join(f"not what the source gives: {place}\n" for place in differing))
    of_ids = tuple(place for place in differing if place.startswith("sea/ids"))
    assert verify(store, "sea/ids", described(**other)).differing == of_ids


def test_values_alone_have_nothing_else_to_compare() -> None:
    store = made(described(), MemoryStore())
    values = {"t": SOURCE["w/a"], "sea/ids": SOURCE["ids"]}
    assert verify(store, source=values).ok
    assert verify(store, "sea/ids", SOURCE["ids"]).ok


def test_another_source_is_refused(sealed: MemoryStore) -> None:
    with pytest.raises(ValueError, match="dict has no ids, which the store has"):
        verify(sealed, source={key: value for key, value in SOURCE.items() if key != "ids"})
    with pytest.raises(ValueError, match=r"shape \(9,\) and dtype int64, but .*ids is of shape \(10,\)"):
        verify(sealed, source={**SOURCE, "ids": np.arange(9)})


@pytest.mark.parametrize("after", ["changed", "gone"])
def test_any_key_that_is_damaged_is_named(after: str) -> None:
    """But the metadata of a quantized variable, and the manifest, without which nothing opens."""
    whole = made(nested(), MemoryStore(), blocks=8)
    opens = {"zarr.json", "t/zarr.json", "sea/deep/zarr.json"}
    for key in sorted(set(whole._store_dict) - opens):
        store = copied(whole)
        data = store._store_dict.pop(key).to_bytes()
        if after == "changed":
            changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
            store._store_dict[key] = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(changed)
        found = verify(store)
        assert len(found.damaged) == 1, key
        place, why = found.damaged[0]
        assert place == key or key.startswith(place.removesuffix("/c"))
        assert ("missing" in why) == (after == "gone"), (key, why)
        assert not found.ok


def test_one_of_a_path(tmp_path: Path) -> None:
    made(nested(), tmp_path / "x.zarr")
    for path in ("t", "sea/deep", "sea/ids"):
        found = verify(tmp_path / "x.zarr" / path, source=nested())
        assert isinstance(found, Verification)
        assert (found.ok, found.compared) == (True, True)


def test_consolidated_metadata_that_are_of_another_time(tmp_path: Path) -> None:
    made(nested(), tmp_path / "x.zarr")
    with pytest.warns(Warning, match="onsolidated"):
        zarr.consolidate_metadata(LocalStore(tmp_path / "x.zarr"))
    assert verify(tmp_path / "x.zarr").ok
    document = tmp_path / "x.zarr" / "zarr.json"
    text = document.read_text()
    head, _, tail = text.partition('"consolidated_metadata"')
    document.write_text(head + '"consolidated_metadata"' + tail.replace('"int64"', '"int32"'))
    found = verify(tmp_path / "x.zarr")
    assert [place for place, _ in found.damaged] == ["zarr.json"]
    assert "sea/ids" in found.damaged[0][1]


# Measured -------------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_each_variable(sealed: MemoryStore) -> None:
    dataset = open_int4(sealed)
    found = measure_error(SOURCE, dataset)
    assert isinstance(found, DatasetErrors)
    assert list(found) == ["rough", "w/a"]
    assert found.kept == dict.fromkeys(["ids", "nan", "none", "one", "text"], True)
    assert found.within_bound
    for name in found:
        alone = measure_error(SOURCE[name], dataset[name][...])
        assert found[name].max_error == alone.max_error
        assert found[name].count == alone.count
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["variable", "rough", "w/a", *found.kept]
    changed = measure_error({**SOURCE, "ids": np.zeros(10, int), "w/a": SOURCE["w/a"] + 9}, sealed)
    assert not changed.within_bound
    assert changed.kept["ids"] is False
    assert "NOT AS THE SOURCE HAS IT" in str(changed)
    assert "NOT WHAT THE SOURCE HOLDS" in str(changed)


def test_a_damaged_kept_chunk_is_no_figure(sealed: MemoryStore) -> None:
    store = copied(sealed)
    del store._store_dict["ids/c/0"]
    with pytest.raises(DamagedChunkError, match="ids/c/0 is damaged"):
        measure_error(SOURCE, store)


# Reported -------------------------------------------------------------------------------------------------------------


def test_a_page_has_all_variables(tmp_path: Path, sealed: MemoryStore) -> None:
    pytest.importorskip("matplotlib")
    source = {**SOURCE, "<b>&": RANDOM.normal(size=(64, 80))}
    store = made(source, MemoryStore())
    found = write_report(open_int4(store), source, tmp_path / "x.html")
    assert found.verdict.word in str(found.verdict.headline).lower()
    assert set(found.verdicts) == {"w/a", "rough", "<b>&"}
    text = (tmp_path / "x.html").read_text()
    for name in SOURCE:
        assert text.count(f">{name}<") >= 1, name
    assert "<b>&" not in text.replace("<b>&amp;", "")
    assert text.count("<img ") >= 3 * 3
    assert "<script" not in text
    assert len(text) < 1 << 20
    assert set(files(tmp_path)) == {"x.html"}
    wrong = verdict_of_all(DatasetErrors(found.figures, {**found.figures.kept, "ids": False}), found.verdicts)
    assert wrong.word == "wrong"
    assert "Not kept as the source has them: ids." in wrong.sentences
