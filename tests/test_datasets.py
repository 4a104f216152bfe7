"""Collections of many variables: what one variable promises, all together keep, whatever happens to their run."""

import functools
import shutil
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from collections_of_arrays import JOB, Tree, everything
from marks import combined, mostly_slow, slow
from stores import Died, DyingStore, Held, field, files
from zarr.storage import MemoryStore

from quantize import (
    DamagedChunkError,
    SourceChangedError,
    StoreError,
    UnfinishedStoreError,
    open_int4,
    plan_dataset,
    quantize_dataset,
    quantize_to_zarr,
)
from quantize.exceptions import QuantizeWarning
from quantize.reading.dataset import Int4Dataset, KeptArray
from quantize.reading.opening import opened_variable
from quantize.store import keys as keys_of_stores
from quantize.store.keys import Keys
from quantize.store.manifest import Manifest, manifest_of


def run(source: Any, store: Any, **options: Any) -> Int4Dataset:
    return quantize_dataset(Tree(source) if isinstance(source, dict) else source, store, **{**JOB, **options})


def assert_unfinished(place: Path) -> None:
    """Nothing of it opens as a collection."""
    with pytest.raises((UnfinishedStoreError, FileNotFoundError, StoreError)) as error:
        open_int4(place)
    if (place / "zarr.json").exists():
        assert error.type is UnfinishedStoreError


def check(found: Int4Dataset, arrays: dict[str, np.ndarray]) -> None:
    """Hold a collection to what it was made of."""
    assert sorted(found) == sorted(arrays)
    for name, values in arrays.items():
        array = found[name]
        if isinstance(array, KeptArray):
            assert array.dtype == values.dtype
            assert array[...].dtype == values.dtype
            np.testing.assert_array_equal(array[...], values)
        else:
            np.testing.assert_array_equal(np.isnan(array[...]), np.isnan(values))
            assert np.nanmax(np.abs(array[...] - values)) <= np.max(array.max_error) * (1 + 1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "x"
    check(run(everything(), folder), everything())
    check(open_int4(folder), everything())
    assert run(everything(), folder)["ocean/deep/holes"].nan_code is not None
    return files(folder)


@pytest.mark.parametrize(
    ("torn", "over", "step"),
    [(True, True, 37), *(slow(torn, over, 3) for torn in (False, True) for over in (False, True))],
)
def test_a_death_at_any_change_costs_no_byte(
    tmp_path: Path, whole: dict[str, bytes], torn: bool, over: bool, step: int
) -> None:
    """Before the last change nothing opens; the same call goes on, and what was overwritten is gone."""
    before = everything(7) | {"old/two": np.ones((5, 5)), "gone": np.arange(3.0)}
    if over:
        run(before, tmp_path / "before")
    read = []
    for at in range(0, 400, step):
        shutil.rmtree(tmp_path / "z", ignore_errors=True)
        if over:
            shutil.copytree(tmp_path / "before", tmp_path / "z")
        try:
            run(everything(), DyingStore(tmp_path / "z", at, torn), overwrite=over)
        except Died:
            try:
                found = open_int4(tmp_path / "z")
            except (UnfinishedStoreError, FileNotFoundError):
                pass
            except StoreError:
                assert not (tmp_path / "z/zarr.json").exists()
            else:
                check(found, before if over and at == 0 and torn else everything())
                read.append(at)
            run(everything(), tmp_path / "z", overwrite=(over and at % 2 == 0) or at == 0)
            assert files(tmp_path / "z") == whole, f"change {at}"
        else:
            break
    assert at > 80
    assert len(read) <= 2


@pytest.mark.parametrize("at", [14, 17, 20])
def test_a_collection_that_lost_what_pass_1_left_says_how_to_begin_again(tmp_path: Path, at: int) -> None:
    source = {name: field((64, 80)) for name in "ab"}
    with pytest.raises(Died):
        quantize_dataset(source, DyingStore(tmp_path / "z", at, torn=True), chunks=(16, 80), workers=1)
    for folder in tmp_path.glob("z/*/.int4"):
        shutil.rmtree(folder)
    with pytest.raises(StoreError, match="has lost part of pass 1; pass overwrite=True to begin again"):
        quantize_dataset(source, tmp_path / "z", chunks=(16, 80))
    quantize_dataset(source, tmp_path / "z", chunks=(16, 80), overwrite=True)
    quantize_dataset(source, tmp_path / "whole", chunks=(16, 80))
    assert files(tmp_path / "z") == files(tmp_path / "whole")


# Two at once ----------------------------------------------------------------------------------------------------------

PLACES = {
    "the manifest": ("zarr.json", 1),
    "the seal": ("zarr.json", 2),
    "a group": ("ocean/zarr.json", 1),
    "a kept array": ("ids/zarr.json", 1),
    "a kept chunk": ("ocean/deep/parts/c/0/0", 1),
    "a variable": ("ocean/blocks/zarr.json", 1),
    "its scales": ("ocean/blocks/.int4/scale/c/0/0", 1),
    "a chunk": ("ocean/blocks/c/0/0", 1),
    "statistics": ("two=20passes/.int4/scan/c/0", 1),
    "a variable that is begun anew": ("ocean/deep/holes/zarr.json", 2),
    "a chunk of that": ("ocean/deep/holes/c/1/0", 1),
    "blocks that are begun anew": ("holes=20in=20blocks/zarr.json", 4),
    "a chunk of these": ("holes=20in=20blocks/c/2/0", 1),
}
OTHER = everything(5) | {"more": np.arange(3.0)}


@pytest.mark.parametrize("place", mostly_slow(PLACES, ["a kept chunk"]))
def test_a_run_held_up_while_another_job_overwrites_mixes_nothing_into_it(
    tmp_path: Path, whole: dict[str, bytes], place: str
) -> None:
    """Where it holds a lock the other waits for it: then the other comes after it, and else before."""
    key, time = PLACES[place]
    threads: list[threading.Thread] = []
    failed: list[BaseException] = []

    def overtake() -> None:
        try:
            run(everything(), tmp_path / "z", overwrite=True)
        except BaseException as error:
            failed.append(error)

    def begin() -> None:
        threads.append(threading.Thread(target=overtake))
        threads[0].start()
        threads[0].join(0.7)  # it is through, or waits

    with suppress(StoreError):
        run(OTHER, Held(tmp_path / "z", key, begin, time))
    threads[0].join(60)
    assert not failed
    assert files(tmp_path / "z") == whole
    check(open_int4(tmp_path / "z"), everything())


@pytest.mark.parametrize("place", mostly_slow(PLACES, ["a variable that is begun anew"]))
def test_a_run_held_up_while_another_of_its_job_does_all_ends_right(
    tmp_path: Path, whole: dict[str, bytes], place: str
) -> None:
    key, time = PLACES[place]
    threads: list[threading.Thread] = []
    results: list[Any] = []

    def same() -> None:
        try:
            results.append(run(everything(), tmp_path / "z"))
        except BaseException as error:
            results.append(error)

    def begin() -> None:
        threads.append(threading.Thread(target=same))
        threads[0].start()
        threads[0].join(0.7)

    check(run(everything(), Held(tmp_path / "z", key, begin, time)), everything())
    threads[0].join(60)
    assert isinstance(results[0], Int4Dataset), results[0]
    assert files(tmp_path / "z") == whole


def test_of_two_jobs_the_second_is_refused_and_says_why(tmp_path: Path, whole: dict[str, bytes]) -> None:
    run(everything(), tmp_path / "z")
    other = everything() | {"ids": np.arange(7) * 2}
    for source, said in ((other, "of ids, the values of the source"), (OTHER, "it has no more")):
        with pytest.raises(StoreError, match=rf"collection already, whole, of another job: {said}.*overwrite=True"):
            run(source, tmp_path / "z")
    with pytest.raises(StoreError, match="of another job: of holes in blocks, scale_method was minmax and is absmax"):
        run(everything(), tmp_path / "z", scale_method="absmax")
    with pytest.raises(StoreError, match="of another job: the attributes of its groups"):
        run(Tree(everything(), {"": {"title": "another"}}), tmp_path / "z")
    assert files(tmp_path / "z") == whole


def test_readers_that_stay_open_see_that_it_was_overwritten(tmp_path: Path) -> None:
    run(everything(), tmp_path / "z")
    found = open_int4(tmp_path / "z")
    late = open_int4(tmp_path / "z")
    for name in found:
        found[name][...]
    run(everything(9), tmp_path / "z", overwrite=True)
    for dataset in (found, late):
        for name in {*dataset} - {"nothing"}:
            with pytest.raises(StoreError, match=r"overwritten|another job"):
                dataset[name][...]
    check(open_int4(tmp_path / "z"), everything(9))


def test_a_kept_array_of_an_unfinished_collection_is_read_once_it_is_whole(tmp_path: Path) -> None:
    begun(tmp_path / "z")
    array = opened_variable(tmp_path / "z", "ids")
    np.testing.assert_array_equal(array[...], everything()["ids"])
    manifest = manifest_of(Keys.of(tmp_path / "z"))
    assert manifest is not None
    (tmp_path / "z/zarr.json").write_bytes(manifest.at("replacing", ("ids",)).to_json())
    for found in (array, opened_variable(tmp_path / "z", "ids")):
        with pytest.raises(StoreError, match="overwritten"):
            found[...]


# What else may happen to a place --------------------------------------------------------------------------------------


def begun(place: Path, source: Any = None, **options: Any) -> None:
    """A run that stopped in the middle of its chunks."""

    def stop(event: Any) -> None:
        if getattr(event, "phase", "") == "write" and event.done > 15:
            raise InterruptedError

    with suppress(InterruptedError):
        run(everything() if source is None else source, place, progress=stop, **options)


@pytest.mark.parametrize("name", mostly_slow(["", "ocean", "ocean/deep"], ["ocean"]))
def test_consolidated_metadata_in_an_unfinished_collection_stop_nothing_and_go(
    tmp_path: Path, whole: dict[str, bytes], name: str
) -> None:
    begun(tmp_path / "z")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "z", path=name or None)
    assert b"consolidated_metadata" in (tmp_path / "z" / name / "zarr.json").read_bytes()
    run(everything(), tmp_path / "z")
    assert files(tmp_path / "z") == whole


def consolidated(place: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(place)
    assert b"consolidated_metadata" in (place / "zarr.json").read_bytes()


def test_consolidating_while_it_is_written_or_read_disturbs_nothing(tmp_path: Path, whole: dict[str, bytes]) -> None:
    left = [3, 9]

    def consolidate(event: Any) -> None:
        if left and getattr(event, "phase", "") == "write" and event.done >= left[0]:
            left.pop(0)
            consolidated(tmp_path / "z")

    check(run(everything(), tmp_path / "z", progress=consolidate), everything())
    assert not left
    assert files(tmp_path / "z") == whole
    before = open_int4(tmp_path / "z")
    consolidated(tmp_path / "z")
    check(before, everything())
    check(open_int4(tmp_path / "z"), everything())
    found = run(everything(), tmp_path / "z")
    check(found, everything())
    run(everything(6), tmp_path / "z", overwrite=True)
    assert b"consolidated_metadata" not in (tmp_path / "z/zarr.json").read_bytes()
    with pytest.raises(StoreError, match="overwritten"):
        before["ids"][...]


def test_those_of_a_group_that_it_lies_in_go_too(tmp_path: Path) -> None:
    zarr.create_group(tmp_path)
    run(everything(), tmp_path / "z")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path)
    run(everything(3), tmp_path / "z", overwrite=True)
    assert b"consolidated_metadata" not in (tmp_path / "zarr.json").read_bytes()
    assert (tmp_path / "zarr.json").exists()


def test_a_source_that_changed_while_it_was_read_can_be_quantized_after_all(tmp_path: Path) -> None:
    """The variable says so and is not gone on with; with `overwrite` that variable alone begins anew."""
    values = {"steady": field((200, 300)), "changing": field((200, 300), seed=1)}
    names = {"select": list(values), "rules": None, "chunks": (50, 300)}

    def change(event: Any) -> None:
        if getattr(event, "phase", "") == "write" and event.done == 1:
            values["changing"][60:140] += 1

    with pytest.raises(SourceChangedError):
        run(values, tmp_path / "z", progress=change, **names)
    with pytest.raises(StoreError, match="its source changed while it was read"):
        run(values, tmp_path / "z", **names)
    check(run(values, tmp_path / "z", overwrite=True, **names), values)
    run(values, tmp_path / "right", **names)
    assert files(tmp_path / "z") == files(tmp_path / "right")


@pytest.mark.parametrize(
    ("state", "share", "overwrite"),
    combined(
        [("writing", 0.01, False), ("writing", 0.3, False), ("sealed", 0.9, False), ("replacing", 0.9, True)],
        ["writing", "sealed", "replacing"],
        [0.01, 0.3, 0.9, 0.999],
        [False, True],
    ),
)
def test_a_manifest_of_which_the_store_took_only_its_beginning(
    tmp_path: Path, whole: dict[str, bytes], state: str, share: float, overwrite: bool
) -> None:
    """It is written again where it shows that it is this job's; never is what else lies there taken for its own."""
    before = everything(4) if state == "replacing" else everything()
    begun(tmp_path / "z", before)
    manifest = Manifest.from_json(whole["zarr.json"], "x")
    assert manifest is not None
    data = manifest.at(state, manifest.folders if state == "replacing" else ()).to_json()
    (tmp_path / "z/zarr.json").write_bytes(data[: int(share * len(data))])
    with pytest.raises((StoreError, FileNotFoundError)):
        open_int4(tmp_path / "z")[...]
    named = share > 0.02
    if named and (overwrite or state != "replacing"):
        run(everything(), tmp_path / "z", overwrite=overwrite)
        assert files(tmp_path / "z") == whole
    else:
        with pytest.raises(StoreError, match=r"damaged|is no collection"):
            run(everything(), tmp_path / "z", overwrite=overwrite)


def test_a_damaged_manifest_is_replaced_only_where_that_is_asked_for(tmp_path: Path, whole: dict[str, bytes]) -> None:
    run(everything(8), tmp_path / "z")
    data = (tmp_path / "z/zarr.json").read_bytes()
    (tmp_path / "z/zarr.json").write_bytes(data.replace(b'"sealed"', b'"scaled"', 1))
    with pytest.raises(StoreError, match=r"checksum of the manifest does not match.*overwrite=True"):
        run(everything(), tmp_path / "z")
    run(everything(), tmp_path / "z", overwrite=True)
    assert files(tmp_path / "z") == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_collection_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "a/x").mkdir(parents=True)
    (tmp_path / "a/x/notes.txt").write_text("mine")
    quantize_to_zarr(field((5, 5)), tmp_path / "b")
    zarr.create_array(tmp_path / "c", data=np.arange(3))
    run(everything(), tmp_path / "d")
    for place in ("a", "a/x/notes.txt", "b", "c", "c/inner", "d/ocean", "d/inner/deep"):
        before = files(tmp_path)
        with pytest.raises((StoreError, ValueError)):
            run(everything(), tmp_path / place, overwrite=overwrite)
        assert files(tmp_path) == before


def test_one_variable_is_refused_within_a_collection(tmp_path: Path) -> None:
    run(everything(), tmp_path / "z")
    for place in ("z", "z/ocean", "z/inner"):
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="is a collection, whose variables were written together"):
                quantize_to_zarr(field((5, 5)), tmp_path / place, name="ids", overwrite=overwrite)


def test_names_that_differ_in_case_alone_need_a_file_system_that_tells_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"W": field((8, 8)), "w": np.arange(3), "ocean/x": np.arange(3)}
    check(run(names, tmp_path / "z", select="W", rules=None), names)

    def insensitive(there: Callable[..., Any], path: str, *part: Any) -> Any:
        return there(path.replace("ZARR.JSON", "zarr.json"), *part)

    for name in ("file_size", "file_bytes"):
        own = functools.partial(insensitive, getattr(keys_of_stores, name))
        monkeypatch.setattr(keys_of_stores, name, own)
    with pytest.raises(ValueError, match=r"'W' and 'w' would be one folder .* tell capitals from small letters"):
        run(names, tmp_path / "y", select="W", rules=None)
    assert not (tmp_path / "y").exists()


NAMES = [
    "a/b",
    "a:b",
    ".",
    "..",
    ".int4",
    "zarr.json",
    "x_scale",
    "c",
    "ö日",
    "n" * 251,
    " ",
    "*",
    "dim=x",
    "a,b",
    "%41",
]


def test_any_name_comes_back(tmp_path: Path) -> None:
    weights = {f"{name}": field((64, 64), seed=at) for at, name in enumerate(NAMES)}
    kept = {f"{name}.b": np.arange(at) for at, name in enumerate(NAMES)}
    found = quantize_dataset(weights | kept, tmp_path / "z", workers=1)
    assert sorted(found.quantized) == sorted(weights)
    check(found, weights | kept)
    check(open_int4(tmp_path / "z"), weights | kept)
    assert all(path.is_relative_to(tmp_path / "z") for path in tmp_path.rglob("*") if path != tmp_path / "z")
    with pytest.raises(ValueError, match="name is 256 bytes long"):
        plan_dataset({"n" * 256: np.arange(3), **weights}, tmp_path / "y")


def test_a_variable_that_is_called_as_a_group_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' is a variable and a group"):
        plan_dataset(Tree({"a": np.arange(3), "a/b": np.arange(3)}), tmp_path / "z")
    with pytest.raises(ValueError, match="'ocean' is a variable and a group"):
        plan_dataset(Tree({"ocean": np.arange(3)}), tmp_path / "z")


# What was done to a sealed one ----------------------------------------------------------------------------------------


def replaced(place: Path, other: Path, name: str) -> None:
    shutil.rmtree(place / name)
    shutil.copytree(other / name, place / name)


def test_members_that_were_removed_or_replaced_by_hand_are_told(tmp_path: Path) -> None:
    """Of what is kept the manifest says what it is; its `zarr.json` is there for others."""
    run(everything(), tmp_path / "whole")
    run(everything(3), tmp_path / "other")
    place = tmp_path / "z"
    shutil.copytree(tmp_path / "whole", place)
    shutil.rmtree(place / "ocean/blocks")
    with pytest.raises(StoreError, match="is sealed, but its variable ocean/blocks is not there"):
        open_int4(place)["ocean/blocks"]
    shutil.copytree(tmp_path / "other/ocean/blocks", place / "ocean/blocks")
    with pytest.raises(StoreError, match="is sealed, but its variable ocean/blocks is of another job"):
        open_int4(place)["ocean/blocks"]
    (place / "ids/zarr.json").write_text("{}")
    np.testing.assert_array_equal(open_int4(place)["ids"][...], np.arange(7))
    chunk = place / "ids/c/0"
    data = chunk.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", data + b"\0", data * 1000):
        chunk.write_bytes(damaged)
        with pytest.raises(DamagedChunkError, match="ids/c/0 is damaged"):
            open_int4(place)["ids"][...]
    chunk.write_bytes((place / "text/c/0").read_bytes())
    with pytest.raises(DamagedChunkError, match="ids/c/0 is damaged"):
        open_int4(place)["ids"][...]
    chunk.unlink()
    with pytest.raises(DamagedChunkError, match="ids/c/0 is damaged: it is missing"):
        open_int4(place)["ids"][2:]


def test_with_verify_what_an_earlier_run_wrote_is_read(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """An unfinished one is mended, a whole one is not changed."""
    begun(tmp_path / "z")
    chunks = [path for path in (tmp_path / "z").rglob("c/*") if path.is_file()]
    assert len(chunks) > 4
    for path in chunks:
        path.write_bytes(path.read_bytes()[:-1])
    phases: list[Any] = []
    run(everything(), tmp_path / "z", verify=True, progress=phases.append)
    assert "verify" in {getattr(event, "phase", "") for event in phases}
    assert files(tmp_path / "z") == whole
    run(everything(), tmp_path / "z", verify=True)
    for key in ("ids/c/0", "ocean/blocks/c/0/0", "point/c", "text/c/1"):
        path = tmp_path / "z" / key
        for damaged in (whole[key][:-1], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            before = files(tmp_path / "z")
            with pytest.raises(DamagedChunkError, match=f"{key} is damaged"):
                run(everything(), tmp_path / "z", verify=True)
            assert files(tmp_path / "z") == before
        path.write_bytes(whole[key])
    assert files(tmp_path / "z") == whole


# Other stores, and what is told of a run ------------------------------------------------------------------------------


def test_stores_in_memory_and_archives_hold_the_same(tmp_path: Path, whole: dict[str, bytes]) -> None:
    memory = MemoryStore()
    run(everything(2), memory)
    run(everything(), memory, overwrite=True)
    assert {key: value.to_bytes() for key, value in memory._store_dict.items()} == whole
    check(open_int4(memory), everything())
    run(everything(), tmp_path / "z")
    archive = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "z")
    check(open_int4(archive), everything())


@pytest.mark.parametrize("stop_at", mostly_slow([0, 7, 12], [7]))
def test_progress_adds_up_and_never_goes_back(tmp_path: Path, stop_at: int) -> None:
    """Over all variables, in a run that goes on too; of a variable that begins anew too."""
    events: list[Any] = []

    def watch(event: Any) -> None:
        events.append(event)
        if stop_at and getattr(event, "phase", "") == "write" and event.done >= stop_at:
            raise InterruptedError

    if stop_at:
        with pytest.raises(InterruptedError):
            run(everything(), tmp_path / "z", progress=watch)
    again, stop_at, events = stop_at, 0, []
    run(everything(), tmp_path / "z", progress=watch)
    made, *states = events
    assert made.quantized == 4
    assert {"scan", "write"} <= {state.phase for state in states} or again
    for phase in {state.phase for state in states}:
        own = [state for state in states if state.phase == phase]
        assert all(state.skipped <= state.done <= state.total for state in own)
        assert all(before.done <= after.done for before, after in pairwise(own))
        assert all(before.total <= after.total for before, after in pairwise(own))
        assert own[-1].done == own[-1].total
        assert all(before.nbytes <= after.nbytes for before, after in pairwise(own))


def test_a_look_warns_once_and_names_the_variable(tmp_path: Path) -> None:
    """Though the variable begins anew."""
    filled = field((100, 100))
    filled[3, 4], filled[70, 7] = 1e20, np.nan
    source = {"clean": field((100, 100), seed=1), "filled": filled}
    with pytest.warns(QuantizeWarning, match="usual filler") as told:
        quantize_dataset(source, tmp_path / "z", rules={"filled": {"chunks": (10, 100)}})
    assert len(told) == 1
    assert "filled" in str(told[0].message)
