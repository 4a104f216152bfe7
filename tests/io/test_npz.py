"""``.npz`` archives: stored members are read where they lie, compressed ones from a place before, and none on trust."""

import functools
import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import check, field
from zarr.storage import MemoryStore

from quantize import SourceError, plan, quantize_to_zarr
from quantize.io import as_source, sources_of
from quantize.io.formats import npz

VALUES = field((40, 60))
ARRAYS = {
    "w": VALUES,
    "layers/0:b": field((7,), np.float16),
    "turned": np.asfortranarray(field((5, 6, 7), seed=1)),
    "größe": np.arange(6, dtype=">i4").reshape(2, 3),
    "mask": np.array([True, False]),
    "logit_scale": np.float32(2.5),
    "none": np.zeros((0, 4), "f8"),
    "names": np.array(["a", "bc"]),
}


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def archive(path: Path, save: Any = np.savez, **arrays: Any) -> Path:
    with path.open("wb") as file:
        save(file, **(arrays or ARRAYS))
    return path


SAVE: dict[str, Any] = {"stored": np.savez, "compressed": np.savez_compressed}


@pytest.fixture(params=[1 << 23, slow(1000), 64], ids="parts of {} bytes".format)
def parts(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "APART_BYTES", request.param)
    monkeypatch.setattr(npz, "INPUT_BYTES", 100)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize("name", ["x.npz", "x.zip", "x"])
def test_all_members_are_there_as_they_are_stored(tmp_path: Path, save: str, name: str) -> None:
    path = archive(tmp_path / name, SAVE[save])
    arrays = sources_of(path)
    assert list(arrays) == sorted(ARRAYS)
    assert not arrays.nested
    for key, values in ARRAYS.items():
        raw = pickle.loads(pickle.dumps(arrays.raw(key)))
        assert (raw.shape, raw.dtype, raw.shared) == (values.shape, values.dtype.newbyteorder("="), True)
        np.testing.assert_array_equal(raw.read(whole(raw.shape)), values)
    for key in [*ARRAYS][:4]:
        source = pickle.loads(pickle.dumps(as_source(f"{path}::{key}")))
        assert source.shared
        np.testing.assert_array_equal(source.read(whole(source.shape)), ARRAYS[key])
    for key in [*ARRAYS][4:]:
        with pytest.raises((TypeError, ValueError), match=f"::{key} "):
            arrays[key]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("save", SAVE)
def test_a_member_is_quantized_out_of_core(tmp_path: Path, save: str) -> None:
    path = archive(tmp_path / "x.npz", SAVE[save])
    check(quantize_to_zarr(f"{path}::w", MemoryStore(), chunks=(7, 8), workers=2), VALUES)
    check(quantize_to_zarr(f"{path}::turned", MemoryStore(), chunks=(2, 3, 4), workers=2), ARRAYS["turned"])


@given(st.data())
def test_any_spans_in_any_order(tmp_path_factory: Any, data: Any) -> None:
    values = np.random.default_rng(0).integers(0, 9, (20, 30)).astype("u1")
    path = archive(tmp_path_factory.mktemp("x") / "x.npz", np.savez_compressed, a=values, b=np.asfortranarray(values))
    apart, inputs = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npz, "APART_BYTES", apart)
        patch.setattr(npz, "INPUT_BYTES", inputs)
        members = npz.members_of(str(path))
        for _ in range(3):
            a, b, c, d = (data.draw(st.integers(0, n)) for n in (20, 20, 30, 30))
            region = (slice(min(a, b), max(a, b)), slice(min(c, d), max(c, d)))
            for member in members.values():
                np.testing.assert_array_equal(member.load(region), values[region])


def test_several_threads_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "APART_BYTES", 10_000)
    values = field((1000, 60))
    source = as_source(archive(tmp_path / "x.npz", np.savez_compressed, a=values))
    regions = [(slice(at, at + 10), slice(0, 60)) for at in np.random.default_rng(0).permutation(99) * 10]
    with ThreadPoolExecutor(4) as pool:
        for region, found in zip(regions, pool.map(lambda region: source.read(region).copy(), regions), strict=True):
            np.testing.assert_array_equal(found, values[region])


def test_a_plan_says_what_is_held(tmp_path: Path) -> None:
    for save, notes in (("stored", 0), ("compressed", 1)):
        found = plan(archive(tmp_path / f"{save}.npz", SAVE[save], a=VALUES), MemoryStore())
        assert sum("compressed as one piece" in note for note in found.notes) == notes
    assert as_source(tmp_path / "compressed.npz").held == npz.STATE_BYTES


# What is refused ------------------------------------------------------------------------------------------------------


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zipped(path: Path, *entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def edited(path: Path, edit: Callable[[bytearray, int, int], Any]) -> Path:
    """An archive of one member with changed bytes: those of the entry before it, and of that in the list."""
    data = bytearray(path.read_bytes())
    edit(data, 0, data.index(b"PK\x01\x02"))
    path.write_bytes(data)
    return path


def put(data: bytearray, at: int, form: str, value: int) -> None:
    struct.pack_into(form, data, at, value)


def deflated(path: Path, values: Any = VALUES) -> Path:
    return zipped(path, ("a.npy", npy(values)), method=zipfile.ZIP_DEFLATED)


def stored(path: Path) -> Path:
    return zipped(path, ("a.npy", npy(VALUES)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: zipped(p, ("a.npy", npy(VALUES)), ("a.npy", npy(VALUES))), "it holds 'a.npy' twice"),
        (lambda p: edited(stored(p), lambda d, a, b: (put(d, a + 6, "<H", 1), put(d, b + 8, "<H", 1))), "is encrypted"),
        (lambda p: edited(stored(p), lambda d, a, b: put(d, a + 6, "<H", 1)), "is encrypted"),
        (lambda p: edited(stored(p), lambda d, a, b: put(d, a + 30, "<B", 98)), "'a.npy' should be is something else"),
        (lambda p: edited(stored(p), lambda d, a, b: put(d, a + 8, "<H", 8)), "'a.npy' should be is something else"),
        (
            lambda p: edited(stored(p), lambda d, a, b: put(d, b + 42, "<I", 3)),
            "is a damaged archive: .*x ended at byte",
        ),
        (
            lambda p: edited(stored(p), lambda d, a, b: put(d, b + 20, "<I", 1 << 30)),
            "is said to be longer than the arch",
        ),
        (lambda p: edited(stored(p), lambda d, a, b: put(d, b + 24, "<I", 50_000)), "is said to have two lengths"),
        (
            lambda p: edited(stored(p), lambda d, a, b: (put(d, b + 20, "<I", 9000), put(d, b + 24, "<I", 9000))),
            "its 9,728 bytes are said to be 9,000",
        ),
        (lambda p: zipped(p, ("a.npy", npy(VALUES)[:5000])), "::a is no whole .npy file: its 9,728 bytes are"),
        (lambda p: zipped(p, ("a.npy", npy(VALUES)[:50])), "::a is no whole .npy file: "),
        (lambda p: zipped(p, ("a.npy", b"")), "::a is no whole .npy file: "),
        (
            lambda p: zipped(p, ("a.npy", npy(VALUES)), method=zipfile.ZIP_LZMA),
            "::a is compressed by method 14 of zip",
        ),
    ],
)
def test_no_part_of_an_archive_is_taken_on_trust(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}/x.*{message}"):
        sources_of(make(tmp_path / "x"))


def test_members_that_overlap(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x", ("a.npy", npy(VALUES)), ("b.npy", npy(VALUES)))
    data = path.read_bytes()
    first = data.index(b"PK\x01\x02")
    changed = bytearray(data)
    second = data.index(b"PK\x01\x02", first + 1)
    changed[second + 42 : second + 46] = changed[first + 42 : first + 46]
    path.write_bytes(changed)
    with pytest.raises(SourceError, match="overlaps what stands before it"):
        sources_of(path)


def longer(data: bytearray, a: int, b: int, by: int) -> None:
    put(data, b + 24, "<I", struct.unpack_from("<I", data, b + 24)[0] + by)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d, a, b: put(d, b + 16, "<I", 1), "its checksum is another"),
        (lambda d, a, b: put(d, b + 20, "<I", struct.unpack_from("<I", d, b + 20)[0] - 100), "it ends too early"),
        (lambda d, a, b: d.__setitem__(slice(2000, 2200), bytes(200)), "checksum|too early|invalid|should"),
    ],
)
def test_what_is_compressed_is_checked_as_it_is_read(tmp_path: Path, edit: Any, message: str) -> None:
    path = edited(deflated(tmp_path / "x"), edit)
    with pytest.raises(SourceError, match=f"x::a is damaged in its archive: .*({message})"):
        quantize_to_zarr(path, MemoryStore())


@pytest.mark.usefixtures("parts")
def test_more_than_was_said(tmp_path: Path) -> None:
    data = npy(VALUES) + bytes(9)
    path = edited(
        zipped(tmp_path / "x", ("a.npy", data), method=zipfile.ZIP_DEFLATED), functools.partial(longer, by=-9)
    )
    with pytest.raises(SourceError, match="damaged in its archive: it does not end where it should"):
        quantize_to_zarr(path, MemoryStore())


@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
def test_pickled_objects_are_refused(tmp_path: Path, save: Any) -> None:
    arrays = sources_of(archive(tmp_path / "x.npz", save, a=np.array([1, "a", None], object), b=VALUES))
    assert list(arrays) == ["a", "b"]
    with pytest.raises(TypeError, match="::a holds Python objects, which cannot be quantized"):
        arrays["a"]
    with pytest.raises(SourceError, match="::a has Python objects, which cannot be kept"):
        arrays.raw("a")
    check(quantize_to_zarr(f"{tmp_path / 'x.npz'}::b", MemoryStore()), VALUES)


def test_which_of_several_is_asked(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=re.escape("holds several arrays: größe (2, 3) >i4, layers/0:b (7,) float16")):
        as_source(path)
    with pytest.raises(ValueError, match="has no array 'u'; it holds größe, "):
        as_source(path, "u")
