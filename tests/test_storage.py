"""The store: what it may be made in, what a reader refuses, and that nothing is read as a fill value."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import Died, DyingStore, check, field, files, interrupted, memory_keys
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from quantize import (
    DamagedChunkError,
    StoreError,
    UnfinishedStoreError,
    measure_error,
    open_int4,
    plan,
    quantize_to_zarr,
)
from quantize.numerics.scales import Rule
from quantize.quality.verify import verify
from quantize.runtime.scans import Scans, batch_size
from quantize.storage import Variable, variables
from quantize.store.codec import with_crc32c
from quantize.store.guard import WriteGuard
from quantize.store.keys import Keys
from quantize.store.layout import Layout
from quantize.store.zarr_json import group_document

VALUES = field((8, 12))
GROUP_OF_OURS = group_document()
GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'


def made(folder: Any, **options: Any) -> Any:
    quantize_to_zarr(VALUES, folder, **{"chunks": (4, 4), **options})
    return folder


# How it is named ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.ZIP"])
@pytest.mark.parametrize("url", [False, True])
def test_a_new_store_is_not_called_as_files_of_another_kind(tmp_path: Path, name: str, url: bool) -> None:
    store = f"file://{tmp_path}/{name}" if url else tmp_path / name
    for make in (plan, quantize_to_zarr):
        with pytest.raises(ValueError, match=r"but the name of a store ends with .zarr or no suffix"):
            make(VALUES, store)
    assert files(tmp_path) == {}
    with pytest.raises(ValueError, match=r"but the name of a store ends with .zarr or no suffix"):
        quantize_to_zarr(VALUES, FsspecStore.from_url(f"memory://{tmp_path}/{name}"))


def test_a_store_that_is_there_may_have_any_name(tmp_path: Path) -> None:
    made(tmp_path / "x").rename(tmp_path / "x.int4")
    made(tmp_path / "x.int4", name="second")
    made(tmp_path / "era5-0.25")
    check(open_int4(tmp_path / "x.int4", "second"), VALUES)


@pytest.mark.parametrize("form", ["{}/data", "{}/data/", "file://{}/data", "memory"])
def test_the_path_of_a_variable_is_understood(tmp_path: Path, form: str) -> None:
    store: Any = form.format(tmp_path / "z")
    if form == "memory":
        root = FsspecStore.from_url(f"memory://{tmp_path}/z")
        made(root, name="data")
        made(root, name="other")
        store = FsspecStore.from_url(f"memory://{tmp_path}/z/data")
    else:
        made(tmp_path / "z")
        made(tmp_path / "z", name="other", scale_method="absmax")
    check(open_int4(store), VALUES)
    assert open_int4(store).name == "data"
    assert verify(store, source=VALUES).ok
    assert measure_error(VALUES, open_int4(store)).within_bound


def test_the_path_of_no_variable_says_which_there_are(tmp_path: Path) -> None:
    made(tmp_path / "z")
    with pytest.raises(StoreError, match="z holds no int4 variable 'dtaa'; there are: data"):
        open_int4(tmp_path / "z" / "dtaa")
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        open_int4(tmp_path / "gone")
    with pytest.raises(StoreError, match="c holds no int4 variable"):
        open_int4(tmp_path / "z" / "data" / "c")


# Where it may be made -----------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="is no Zarr v3 group"):
            quantize_to_zarr(VALUES, tmp_path, overwrite=overwrite)
    assert files(tmp_path) == {"thesis.txt": b"ten years of work"}


def test_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="file"):
        quantize_to_zarr(VALUES, tmp_path / "file")
    assert files(tmp_path) == {"file": b"text"}


def test_a_zarr_array_is_refused_and_left_alone(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "z", data=VALUES)
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="Zarr array"):
            quantize_to_zarr(VALUES, tmp_path / "z", overwrite=overwrite)
    assert files(tmp_path) == before


def test_a_v2_group_is_refused_and_left_alone(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "z", zarr_format=2)
    before = files(tmp_path)
    with pytest.raises(StoreError, match="v3"):
        quantize_to_zarr(VALUES, tmp_path / "z", overwrite=True)
    assert files(tmp_path) == before


def test_a_variable_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    zarr.create_group(tmp_path).create_array("data", data=VALUES)
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not an int4 variable"):
            quantize_to_zarr(VALUES, tmp_path, overwrite=overwrite)
    assert files(tmp_path) == before


def test_chunks_without_metadata_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(GROUP)
    (tmp_path / "data" / "c").mkdir(parents=True)
    (tmp_path / "data" / "c" / "0").write_bytes(b"?")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"no zarr\.json of ours"):
            quantize_to_zarr(VALUES, tmp_path, overwrite=overwrite)
    assert (tmp_path / "data" / "c" / "0").read_bytes() == b"?"


def test_an_empty_folder_and_a_group_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check(quantize_to_zarr(VALUES, tmp_path / "empty"), VALUES)
    group = zarr.create_group(tmp_path / "group", attributes={"title": "mine"})
    group.create_array("other", data=VALUES)
    before = files(tmp_path / "group")
    check(quantize_to_zarr(VALUES, tmp_path / "group"), VALUES)
    assert {name: files(tmp_path / "group")[name] for name in before} == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/a", "\udcff"], ids=ascii)
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name "):
        quantize_to_zarr(VALUES, MemoryStore(), name=name)


NAMES = ["..", ".hidden", "_x", "data_scan", "logit_scale", "a b", "é", "zarr.json", "=41", "%41", "*?[", "n" * 245]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"blocks": 4}, {"scale_method": "mse", "axis": 1}], ids=str)
def test_any_other_name_is_a_folder_of_the_group(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """What belongs to the variable lies in it, and so no name is taken by that of another."""
    store = tmp_path / "x.zarr"
    quantize_to_zarr(VALUES, store, name="data")
    quantize_to_zarr(VALUES + 1, store, name=name, **options)
    array = quantize_to_zarr(VALUES, store, name=name, overwrite=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zarr"]
    assert len(list(store.iterdir())) == 3
    assert variables(Keys.of(store)) == sorted(["data", name])
    folder = next(path for path in store.iterdir() if path.name not in ("data", "zarr.json"))
    for opened in (open_int4(store, name), open_int4(folder)):
        assert (opened.name, opened.metadata.version) == (name, 2)
        np.testing.assert_array_equal(opened[...], array[...])
    assert verify(store, name, source=VALUES).ok
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StoreError, match="in another folder: rename that to"):
        open_int4(store, "elsewhere")


def test_names_beside_those_of_the_arrays_of_version_1(tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path, name="logit", axis=0)
    with pytest.raises(
        StoreError, match=r"logit_scale/zarr\.json is no int4 variable, but of an array that belongs to 'logit'"
    ):
        quantize_to_zarr(VALUES, tmp_path, name="logit_scale", overwrite=True)
    quantize_to_zarr(VALUES, tmp_path, name="other_scale", blocks=4)
    with pytest.raises(StoreError, match="other_scale holds files that do not belong to other"):
        quantize_to_zarr(VALUES, tmp_path, name="other", axis=0)
    assert variables(Keys.of(tmp_path)) == ["logit", "other_scale"]


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"scale_method": "mse"}], ids=str)
def test_a_name_without_room_for_those_beside_it_is_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "group").mkdir()
    zarr.create_group(tmp_path / "group")
    for name in ("n" * 256, "n" * 400, 85 * "(" + "n"):
        for store in ("z", "group"):
            with pytest.raises(ValueError, match=rf"name is {len(name) if name[0] == 'n' else 256} bytes long"):
                quantize_to_zarr(VALUES, tmp_path / store, name=name, **options)
        with pytest.raises(ValueError, match="bytes long"):
            open_int4(tmp_path / "group", name)
    assert not (tmp_path / "z").exists()
    assert set(files(tmp_path / "group")) == {"zarr.json"}
    for length in (244, 245):
        array = quantize_to_zarr(VALUES, tmp_path / "z", name="n" * length, **options)
        np.testing.assert_array_equal(open_int4(tmp_path / "z", "n" * length)[...], array[...])


def test_a_longer_name_that_is_there_is_read(tmp_path: Path) -> None:
    made(tmp_path, name="short")
    (tmp_path / "short").rename(tmp_path / ("n" * 250))
    check(open_int4(tmp_path), VALUES)


@pytest.mark.parametrize("place", ["z", "z/y", "data", "data_scale"])
def test_a_link_that_leads_nowhere_is_no_place_for_a_store(tmp_path: Path, place: str) -> None:
    link = tmp_path / place.partition("/")[0]
    store = tmp_path if place.startswith("data") else tmp_path / place
    if store == tmp_path:
        zarr.create_group(tmp_path)
    link.symlink_to("gone")
    with pytest.raises(StoreError, match=rf"{link} is a link to gone, which does not exist"):
        quantize_to_zarr(VALUES, store, axis=0)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone").mkdir()
    check(quantize_to_zarr(VALUES, store), VALUES)


def test_a_destination_that_is_no_store() -> None:
    with pytest.raises(TypeError, match="a path, a URL or a Zarr store"):
        Keys.of(3)


# Overwrite ----------------------------------------------------------------------------------------------------------


def test_overwrite_replaces_one_variable_and_nothing_else(tmp_path: Path) -> None:
    made(tmp_path, name="data")
    made(tmp_path, name="data2", chunks=(2, 12))
    zarr.open_group(tmp_path).create_array("data_plain", data=VALUES)
    before = {name: data for name, data in files(tmp_path).items() if not name.startswith("data/")}
    quantize_to_zarr(VALUES[:3], tmp_path, chunks=(1, 12), overwrite=True)
    after = files(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith("data/")} == before
    assert {name for name in after if name.startswith("data/c")} == {f"data/c/{i}/0" for i in range(3)}
    check(open_int4(tmp_path, "data"), VALUES[:3])
    check(open_int4(tmp_path, "data2"), VALUES)


def test_overwrite_of_the_same_job_writes_the_same_bytes(tmp_path: Path) -> None:
    before = files(made(tmp_path))
    assert files(made(tmp_path, overwrite=True)) == before


def test_several_variables_are_told_apart(tmp_path: Path) -> None:
    made(tmp_path, name="a")
    made(tmp_path, name="b", scale_method="absmax")
    with pytest.raises(StoreError, match="several variables, a, b: pass name="):
        open_int4(tmp_path)
    check(open_int4(tmp_path, "a"), VALUES)
    check(open_int4(tmp_path, "b"), VALUES, scale_method="absmax")
    with pytest.raises(StoreError, match="no int4 variable 'c'; there are: a, b"):
        open_int4(tmp_path, "c")


# What a reader refuses ----------------------------------------------------------------------------------------------


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_int4(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no int4 variable"):
        open_int4(tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("attributes", [{"packing": "int4"}, {"int4": 1}, {"int4": {"belongs_to": "x"}}], ids=str)
@pytest.mark.parametrize("name", ["data", "data_scale"])
def test_an_array_of_another_that_speaks_of_int4_is_not_overwritten(
    tmp_path: Path, name: str, attributes: dict[str, Any]
) -> None:
    zarr.create_group(tmp_path).create_array(name, data=VALUES, attributes=attributes)
    before = files(tmp_path)
    with pytest.raises(StoreError, match=r"is (not an|no) int4 variable"):
        quantize_to_zarr(VALUES, tmp_path, name=name, overwrite=True)
    assert files(tmp_path) == before


def test_a_sealed_store_passes(tmp_path: Path) -> None:
    assert verify(made(tmp_path), source=VALUES).ok


@pytest.mark.parametrize("key", ["scale", "zero_point", "shape", "version", "status"])
def test_a_flipped_digit_in_the_metadata_is_noticed(tmp_path: Path, key: str) -> None:
    path = made(tmp_path) / "data" / "zarr.json"
    document = json.loads(path.read_text())
    attributes = document["attributes"]
    header = attributes["int4"]
    match key:
        case "shape":
            header["shape"][0] += 1
        case "version":
            header["version"] += 2
        case "status":
            header["status"] = "writing"
        case _:
            attributes[key] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"data/zarr\.json") as caught:
        open_int4(tmp_path)
    assert ("Upgrade" in str(caught.value)) is (key == "version")
    with pytest.raises(StoreError, match=r"data/zarr\.json"):
        quantize_to_zarr(VALUES, tmp_path, chunks=(4, 4))
    check(quantize_to_zarr(VALUES, tmp_path, chunks=(4, 4), overwrite=True), VALUES)


SHARDS: list[dict[str, Any]] = [{}, {"shards": (8, 8)}]
DAMAGES = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "flipped": lambda data: data[:3] + bytes([data[3] ^ 16]) + data[4:],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("compressor", [None, "zstd", "gzip", "blosc"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("shards", SHARDS, ids=["chunks", "shards"])
def test_damage_is_named_and_the_rest_is_read(
    tmp_path: Path, shards: dict[str, Any], damage: str, compressor: str | None
) -> None:
    whole = open_int4(made(tmp_path, compressors=compressor, **shards))[...]
    path = tmp_path / "data" / "c" / "0" / "0"
    data = DAMAGES[damage](path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    array = open_int4(tmp_path)
    place = r"data/c/0/0, inner chunk \(0, 0\)" if shards else "data/c/0/0"
    with pytest.raises(DamagedChunkError, match=f"{place} is damaged: .+(missing|checksum|long|short)"):
        array[0, 0]
    with pytest.raises(DamagedChunkError, match="data/c/0/0"):
        array[...]
    with pytest.raises(DamagedChunkError, match="data/c/0/0"):
        np.asarray(array)
    np.testing.assert_array_equal(array[:, 8:], whole[:, 8:])
    found = verify(tmp_path, source=VALUES)
    assert not found.ok
    assert found.damaged[0][0].startswith("data/c/0/0")
    assert not found.differing


def test_a_missing_inner_chunk_is_named(tmp_path: Path) -> None:
    array = made(tmp_path, shards=(8, 12))
    codec = open_int4(array).layout.shard_codec
    assert codec is not None
    path = tmp_path / "data" / "c" / "0" / "0"
    data = path.read_bytes()
    index = codec.index(data[-codec.index_length :]).copy()
    index[4] = (1 << 64) - 1
    path.write_bytes(data[: -codec.index_length] + with_crc32c(index.tobytes()).tobytes())
    damaged = open_int4(tmp_path)
    with pytest.raises(DamagedChunkError, match=r"data/c/0/0, inner chunk \(1, 1\) is damaged: it is missing"):
        damaged[7, 7]
    assert damaged[0, 0] == damaged[:4, :4][0, 0]
    assert [place for place, _ in verify(tmp_path).damaged] == ["data/c/0/0, inner chunk (1, 1)"]


@pytest.mark.parametrize("entry", [(0, 2**63), (2**63, 8), (2**64 - 9, 8), (10**6, 8), (0, 0)])
def test_an_index_that_points_elsewhere_is_damage(tmp_path: Path, entry: tuple[int, int]) -> None:
    codec = open_int4(made(tmp_path, shards=(8, 12))).layout.shard_codec
    assert codec is not None
    path = tmp_path / "data" / "c" / "0" / "0"
    data = path.read_bytes()
    index = codec.index(data[-codec.index_length :]).copy()
    index[0] = entry
    path.write_bytes(data[: -codec.index_length] + with_crc32c(index.tobytes()).tobytes())
    with pytest.raises(DamagedChunkError, match="data/c/0/0"):
        open_int4(tmp_path)[0, 0]


def test_chunks_that_changed_places_are_found_with_the_source(tmp_path: Path) -> None:
    one, two = (made(tmp_path) / "data" / "c" / "0" / name for name in "01")
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    assert verify(tmp_path, source=VALUES).differing == ("data/c/0/0", "data/c/0/1")


def test_seal_sees_that_every_chunk_is_there(tmp_path: Path) -> None:
    variable = Variable(Keys.of(made(tmp_path)), "data")
    metadata = variable.metadata()
    assert metadata is not None
    variable.keys.delete("data/c/1/2")
    with pytest.raises(UnfinishedStoreError, match="lacks 1 of 6 chunks, data/c/1/2 the first"):
        variable.seal(metadata.at("writing"))


# Keys ---------------------------------------------------------------------------------------------------------------


def test_the_keys_of_a_store() -> None:
    store = MemoryStore()
    quantize_to_zarr(VALUES, store, name="t", chunks=(4, 12))
    assert memory_keys(store) == {"zarr.json", "t/zarr.json", "t/c/0/0", "t/c/1/0"}


def test_presence_counts_chunks_and_nothing_else(tmp_path: Path) -> None:
    variable = Variable(Keys(LocalStore(made(tmp_path))), "data")
    metadata = variable.metadata()
    assert metadata is not None
    variable.keys.delete("data/c/1/2")
    for key in ("data/c/9/9", "data/c/1/2.0.partial", "data/c/x", "data/c/1/02", "data/c/1/٢"):
        variable.keys.set(key, b"?")
    assert variable.present(metadata.layout).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize(("units", "size"), [(1, 1), (127, 1), (128, 2), (2048, 32), (10**9, 32)])
def test_batches_are_small_while_units_are_few(units: int, size: int) -> None:
    assert batch_size(units) == size


def test_rows_of_pass_1_survive_or_are_none(tmp_path: Path) -> None:
    variable = Variable(Keys.of(tmp_path), "data")
    scans = Scans(variable, Layout((1025, 2), np.dtype(np.float32), (1, 2)), Rule())
    rows = np.arange(32).reshape(4, 1, 8)
    guard = WriteGuard(variable.keys, variable.folder, lambda: True)
    scans.create(guard)
    scans.set(64, rows[:1], None, guard)
    np.testing.assert_array_equal(scans.get(64), rows[:1])
    assert scans.get(0) is None
    path = tmp_path / "data_scan" / "c" / "64"
    path.write_bytes(path.read_bytes()[:-1])
    assert scans.get(64) is None


# Consolidated metadata ----------------------------------------------------------------------------------------------


def consolidate(folder: Path) -> None:
    with pytest.warns(ZarrUserWarning, match="not part in"):
        zarr.consolidate_metadata(folder)


def by_group(folder: Path, name: str = "data") -> np.ndarray:
    """What another reader makes of a variable with a scale for each row, by way of the group."""
    group = zarr.open_group(folder, mode="r")
    packed: Any = group[name]
    scale, zero_point = (np.asarray(group[packed.attrs[key]]).reshape(-1, 1) for key in ("scale", "zero_point"))
    pairs = np.stack([packed[:] << 4, packed[:]], axis=-1).view(np.int8) >> 4
    codes = pairs.reshape(*packed.shape[:-1], -1)[..., : packed.attrs["int4"]["shape"][-1]].astype(np.int64)
    return ((codes - zero_point) * scale).astype(np.float32)


@pytest.mark.parametrize("other", [{"chunks": (4, 4)}, {"chunks": (8, 4), "scale_method": "absmax"}], ids=str)
def test_others_that_go_by_the_group_read_what_is_there(tmp_path: Path, other: dict[str, Any]) -> None:
    zarr.create_group(tmp_path, attributes={"title": "mine", "small": 1e-7})
    made(tmp_path, axis=0)
    consolidate(tmp_path)
    np.testing.assert_array_equal(by_group(tmp_path), open_int4(tmp_path)[...])
    quantize_to_zarr(VALUES * 1000, tmp_path, axis=0, overwrite=True, **other)
    np.testing.assert_array_equal(by_group(tmp_path), open_int4(tmp_path)[...])
    consolidate(tmp_path)
    made(tmp_path, axis=0, name="more")
    np.testing.assert_array_equal(by_group(tmp_path, "more"), open_int4(tmp_path, "more")[...])
    assert dict(zarr.open_group(tmp_path, mode="r").attrs) == {"title": "mine", "small": 1e-7}


def test_consolidated_metadata_are_gone_before_anything_is_changed(tmp_path: Path) -> None:
    """At whatever change an overwriting run dies: nobody sees the old scale beside absent chunks, which read as 0."""
    for at in range(4):
        made(tmp_path / str(at), axis=0)
        consolidate(tmp_path / str(at))
        assert b"consolidated" in (tmp_path / str(at) / "zarr.json").read_bytes()
        store = DyingStore(tmp_path / str(at), at, torn=False)
        with pytest.raises(Died):
            quantize_to_zarr(VALUES * 1000, store, chunks=(4, 4), axis=0, overwrite=True)
        assert store.changed[:2] == ["zarr.json", "data/zarr.json"][:at]
        assert (tmp_path / str(at) / "zarr.json").read_bytes() == GROUP_OF_OURS


def test_consolidated_metadata_of_an_unfinished_variable_do_not_outlive_its_seal(tmp_path: Path) -> None:
    interrupted(VALUES, tmp_path, axis=0, chunks=(4, 4))
    consolidate(tmp_path)
    array = made(tmp_path, axis=0)
    np.testing.assert_array_equal(by_group(array), open_int4(array)[...])
    assert verify(array).ok


def test_consolidated_metadata_above_a_folder_are_dropped_too(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path)
    root.create_group("2026/june")
    made(tmp_path / "2026/june", axis=0)
    consolidate(tmp_path)
    quantize_to_zarr(VALUES * 1000, tmp_path / "2026/june", axis=0, overwrite=True)
    array: Any = zarr.open_group(tmp_path, mode="r")["2026/june/data_scale"]
    np.testing.assert_array_equal(array[:], open_int4(tmp_path / "2026/june").scale[:, 0])
    assert not [path for path in tmp_path.rglob("zarr.json") if b"consolidated" in path.read_bytes()]


def test_verify_looks_at_consolidated_metadata(tmp_path: Path) -> None:
    made(tmp_path, axis=0)
    consolidate(tmp_path)
    assert verify(tmp_path).ok
    stale = (tmp_path / "zarr.json").read_bytes()
    quantize_to_zarr(VALUES * 1000, tmp_path, chunks=(4, 4), axis=0, overwrite=True)
    made(tmp_path, name="more")
    (tmp_path / "zarr.json").write_bytes(stale)
    for name in ("data", "more"):
        ((place, why),) = verify(tmp_path, name).damaged
        assert place == "zarr.json"
        assert f"do not have {name} as {name}/zarr.json does" in why
    consolidate(tmp_path)
    assert verify(tmp_path, "data").ok


# Where it may not lie -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("below", ["", "out", "c/0/out.zarr"])
def test_a_store_within_an_array_is_refused(tmp_path: Path, version: Any, below: str) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=VALUES, zarr_format=version)
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"Zarr array|no v3 group|no Zarr v3 group"):
            quantize_to_zarr(tmp_path / "x.zarr", tmp_path / "x.zarr" / below, overwrite=overwrite)
    assert files(tmp_path) == before


@pytest.mark.parametrize("below", ["data", "data/out.zarr", "data/c/out.zarr", "data_scale/out.zarr", "link/out.zarr"])
def test_a_store_within_a_variable_is_refused(tmp_path: Path, below: str) -> None:
    made(tmp_path / "x", axis=0)
    (tmp_path / "x" / "link").symlink_to("data")
    before = files(tmp_path)
    with pytest.raises(StoreError, match="Zarr array"):
        quantize_to_zarr(VALUES, tmp_path / "x" / below)
    assert files(tmp_path) == before


def test_a_store_within_a_group_is_made(tmp_path: Path) -> None:
    check(quantize_to_zarr(VALUES, made(tmp_path) / "more"), VALUES)


@pytest.mark.parametrize("path", ["", "file://"])
def test_an_empty_path_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="empty path"):
        quantize_to_zarr(VALUES, path)
    with pytest.raises(ValueError, match="empty path"):
        open_int4(path)
    assert files(tmp_path) == {}
    check(quantize_to_zarr(VALUES, "."), VALUES)


def test_a_variable_is_not_its_own_source(tmp_path: Path) -> None:
    array = open_int4(made(tmp_path))
    memory = MemoryStore()
    quantize_to_zarr(VALUES, memory)
    before = files(tmp_path)
    for source, store in ((array, tmp_path), (open_int4(memory), memory)):
        with pytest.raises(StoreError, match="data cannot be its own source"):
            quantize_to_zarr(source, store, overwrite=True)
    assert files(tmp_path) == before
    check(quantize_to_zarr(array, tmp_path, name="data2"), array[...])
    other = open_int4(tmp_path, "data2")
    check(quantize_to_zarr(other, tmp_path, overwrite=True), other[...])
