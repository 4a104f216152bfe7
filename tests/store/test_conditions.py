"""Keys created once and replaced by their tags, on every kind of store: in one step, or as a look and a write."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import obstore.exceptions
import pytest
from obstore.store import LocalStore as FilesOfObstore
from obstore.store import MemoryStore as MemoryOfObstore
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

from quantize.store.conditions import OfObstore, OfS3fs, UnableError
from quantize.store.keys import Keys

STORES: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "obstore": (lambda folder: ObjectStore(MemoryOfObstore()), True),
    "files of obstore": (lambda folder: ObjectStore(FilesOfObstore(str(folder))), False),
    "wrapped": (lambda folder: WrapperStore(ObjectStore(MemoryOfObstore())), False),
    "folder": (LocalStore, False),
    "memory": (lambda folder: MemoryStore(), False),
    "fsspec": (lambda folder: FsspecStore.from_url(f"memory:/{folder}"), False),
}


@pytest.fixture(params=STORES)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    """Those of a group in a store."""
    make, conditional = STORES[request.param]
    found = Keys.of(make(tmp_path)).inside("group")
    assert found.conditional == conditional
    return found


def test_a_key_is_created_once_and_replaced_by_its_tag(keys: Keys) -> None:
    assert keys.tagged("a") is keys.tag("a") is None
    assert [keys.create("a", data) for data in (b"1", b"1", b"2")] == [True, True, False]
    data, tag = keys.tagged("a") or (b"", None)
    assert (data, tag) == (b"1", keys.tag("a"))
    new = keys.replace("a", b"2", tag)
    assert new == keys.tag("a") != tag
    assert keys.replace("a", b"2", tag) == new  # as if its answer had been lost
    assert [keys.replace(key, b"3", tag) for key in "ab"] == [None, None]
    assert (keys.get("a"), keys.get("b")) == (b"2", None)
    assert keys.replace("b", b"3", None) == keys.tag("b") is not None


def test_a_change_is_made_of_what_is_there_when_it_is_written(keys: Keys) -> None:
    """Others have three turns; one that never ends is not waited for."""
    keys.set("a", b"0")
    others = iter(range(3))

    def longer(data: bytes | None) -> bytes | None:
        if next(others, None) is not None:
            keys.set("a", keys.get("a") + b"other")  # type: ignore[operator]
        return (data or b"") + b" mine"

    assert keys.change("a", longer)
    assert keys.get("a") == b"0otherotherother mine"
    assert not keys.change("a", lambda data: None)
    others = iter(range(100))
    with pytest.raises(OSError, match=r"is changed by others, or not held, again and again: .*group/a"):
        keys.change("a", longer)
    assert keys.change("new", lambda data: b"first" if data is None else None)
    assert keys.get("new") == b"first"


def test_what_is_put_replaces_what_lies_there_as_long_as_the_place_is_ones_own(keys: Keys) -> None:
    def lost() -> bool:
        raise PermissionError

    data = np.arange(4, dtype=np.uint8)
    assert keys.still("c", keys.put("c", data, lost))  # nothing lies there: it is not asked
    if keys.conditional:
        assert keys.put("c", data, lost) is None  # the same
        assert keys.put("c", b"other", lambda: False) is None
        with pytest.raises(PermissionError):
            keys.put("c", b"other", lost)
        assert keys.holds("c", data)
    tag = keys.put("c", b"other", lambda: True)
    assert keys.get("c") == b"other"
    assert keys.still("c", tag)
    keys.set("c", b"another")
    assert not keys.still("c", tag)


def test_a_document_is_settled_whatever_is_there(keys: Keys) -> None:
    assert keys.settle("zarr.json", b"{}", lambda: True) == keys.conditional
    for there in (b"{}", b"{", b"others"):
        keys.set("zarr.json", there)
        assert keys.settle("zarr.json", b"{}", lambda: True) == (keys.conditional and there != b"{}")
        assert keys.get("zarr.json") == b"{}"


STATUSES = [
    ("Server returned non-2xx status code: 409 Conflict: <Error>", 409),
    ("Server returned non-2xx status code: 501 Not Implemented", 501),
    ("a time-out", None),
]


@pytest.mark.parametrize(("said", "status"), STATUSES)
def test_what_obstore_says_is_told_apart(said: str, status: int | None) -> None:
    assert OfObstore(None, "").status(obstore.exceptions.GenericError(said)) == status


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("PreconditionFailed", 412, None),
        ("NoSuchKey", 404, None),
        ("ConditionalRequestConflict", 409, BlockingIOError),
        ("NotImplemented", 501, UnableError),
        ("NoSuchBucket", 404, FileNotFoundError),
        ("AccessDenied", 403, FileNotFoundError),
    ],
)
def test_what_s3fs_says_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, expected: type[Exception] | None
) -> None:
    monkeypatch.setattr("quantize.store.conditions.unable", WeakValueDictionary())

    async def refuse(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError from Refusal(code, status)

    place = place_of({"IfMatch", "IfNoneMatch"}, refuse)
    if expected is None:
        assert asyncio.run(OfS3fs(place, "bucket").put("a", b"", '"tag"')) is None
    else:
        with pytest.raises(expected):
            asyncio.run(OfS3fs(place, "bucket").put("a", b"", '"tag"'))


def test_a_botocore_that_does_not_know_conditions_is_not_written_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3fs leaves out of a request what that does not know."""
    monkeypatch.setattr("quantize.store.conditions.unable", WeakValueDictionary())
    with pytest.raises(UnableError):
        asyncio.run(OfS3fs(place_of({"IfNoneMatch"}, None), "bucket").put("a", b"", None))


class Refusal(Exception):
    """As botocore has it."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class Place(SimpleNamespace):
    """What s3fs has of a file system, as far as it is asked for."""

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None


def place_of(known: set[str], call: Any) -> Place:
    shape = SimpleNamespace(input_shape=SimpleNamespace(members=dict.fromkeys(known)))
    model = SimpleNamespace(operation_model=lambda name: shape)

    async def client(bucket: str) -> Any:
        return SimpleNamespace(meta=SimpleNamespace(service_model=model))

    return Place(get_s3=client, _call_s3=call)
