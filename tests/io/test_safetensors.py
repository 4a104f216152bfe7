"""Checkpoints: what is read of files, of several with an index and of folders, and what is refused of their headers."""

import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import check, field
from strategies import BFLOAT16
from zarr.storage import MemoryStore

from quantize import SourceError, quantize_to_zarr
from quantize.io import as_source, sources_of
from quantize.io.formats import safetensors

NAMES = {np.dtype(dtype).newbyteorder("="): name for name, dtype in safetensors.DTYPES.items()}
VALUES = field((40, 60))
ARRAYS = {
    "model.layers.0/w:q": VALUES,
    "b": field((7,), np.float16),
    "größe_scale": field((3, 5, 2), BFLOAT16),
    "ids": np.arange(6).reshape(2, 3),
    "mask": np.array([True, False]),
    "logit_scale": np.float32(2.5),
    "none": np.zeros((0, 4), "f8"),
}


def header_of(arrays: dict[str, Any], metadata: Any = None) -> dict[str, Any]:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        size = np.asarray(array).nbytes
        entry = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + size]}
        header[name] = entry
        at += size
    return header


def written(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def checkpoint(path: Path, arrays: dict[str, Any] = ARRAYS, metadata: Any = None) -> Path:
    return written(
        path, header_of(arrays, metadata), b"".join(np.asarray(array).tobytes() for array in arrays.values())
    )


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def hugging_face(folder: Path, **places: str) -> Path:
    """A folder with two files and their index."""
    first, second = dict([*ARRAYS.items()][:3]), dict([*ARRAYS.items()][3:])
    checkpoint(folder / "model-1.safetensors", first, {"format": "pt", "part": "1"})
    checkpoint(folder / "model-2.safetensors", second, {"format": "pt", "part": "2"})
    map_ = {**dict.fromkeys(first, "model-1.safetensors"), **dict.fromkeys(second, "model-2.safetensors"), **places}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": map_}))
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "file": lambda folder: checkpoint(folder / "x.safetensors", metadata={"format": "pt"}),
    "file of another name": lambda folder: checkpoint(folder / "x.bin", metadata={"format": "pt"}),
    "index": hugging_face,
    "folder with an index": lambda folder: hugging_face(folder).parent,
    "folder with a file": lambda folder: checkpoint(folder / "x.safetensors", metadata={"format": "pt"}).parent,
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_all_tensors_are_listed_and_those_that_can_be_are_sources(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    arrays = sources_of(path)
    assert list(arrays) == sorted(ARRAYS)
    for name in [*ARRAYS][:4]:
        source = pickle.loads(pickle.dumps(arrays[name]))
        assert source.dtype == ARRAYS[name].dtype
        assert source.shared
        assert source.read(whole(source.shape)).tobytes() == ARRAYS[name].tobytes()
        np.testing.assert_array_equal(as_source(f"{path}::{name}").read(whole(source.shape)), ARRAYS[name])
    for name, message in {"mask": "bool is not", "logit_scale": "no axes", "none": "no values"}.items():
        with pytest.raises((TypeError, ValueError), match=f"::{name} .*{message}"):
            arrays[name]


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_every_tensor_is_there_as_it_is_stored(tmp_path: Path, make: Any) -> None:
    arrays = sources_of(make(tmp_path))
    assert arrays.attributes == {"": {"format": "pt"}}
    assert not arrays.nested
    for name, values in ARRAYS.items():
        raw = pickle.loads(pickle.dumps(arrays.raw(name)))
        assert (raw.shape, raw.dtype, raw.attributes, raw.shared) == (values.shape, values.dtype, {}, True)
        assert raw.read(whole(raw.shape)).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", safetensors.DTYPES.values(), ids=safetensors.DTYPES)
def test_every_dtype(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    raw = sources_of(checkpoint(tmp_path / "x", {"w": values})).raw("w")
    assert raw.dtype == values.dtype
    assert raw.read((slice(1, 3), slice(1, 2))).tobytes() == values[1:3, 1:2].tobytes()


def test_a_tensor_is_quantized_out_of_core(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.safetensors")
    check(quantize_to_zarr(f"{path}::model.layers.0/w:q", MemoryStore(), chunks=(7, 8), workers=2), VALUES)
    bf16 = ARRAYS["größe_scale"]
    check(quantize_to_zarr(as_source(path, "größe_scale"), MemoryStore(), chunks=(2, 4, 2)), bf16)


def test_tensors_of_one_file_share_what_is_open(tmp_path: Path) -> None:
    arrays = {f"w{n:04}": field((3, 4), seed=n) for n in range(2000)}
    opened = dict(sources_of(checkpoint(tmp_path / "x", arrays)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(opened[name].read(whole((3, 4))), array)


@given(st.dictionaries(st.text(max_size=9), st.lists(st.integers(0, 4), max_size=4), max_size=5))
def test_any_names_and_shapes(tmp_path_factory: Any, shapes: dict[str, list[int]]) -> None:
    shapes.pop("__metadata__", None)
    arrays = {name: np.random.default_rng(0).normal(size=shape).astype("f4") for name, shape in shapes.items()}
    path = checkpoint(tmp_path_factory.mktemp("x") / "x", arrays)
    found, _ = safetensors.tensors_of(str(path))
    assert [*found] == [*arrays]
    for name, array in arrays.items():
        assert found[name].load(whole(array.shape)).tobytes() == array.tobytes()  # type: ignore[union-attr]


# What is refused ------------------------------------------------------------------------------------------------------

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
LATER = {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 48]}


def one(**changed: Any) -> dict[str, Any]:
    return {"w": {**ENTRY, **changed}}


HEADERS: dict[str, tuple[Any, bytes, str]] = {
    "not JSON": (b"{w}", b"", "damaged header: Expecting"),
    "not UTF-8": (b'{"\xff": 1}', b"", "damaged header: 'utf-8' codec"),
    "too deep": (b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "damaged header: it is nested too deep"),
    "long number": (b'{"w":' + b"1" * 10_000 + b"}", b"", "damaged header: "),
    "a name twice": (f'{{"w":{json.dumps(ENTRY)},"w":{json.dumps(ENTRY)}}}'.encode(), bytes(24), "'w' is there twice"),
    "a key twice": (b'{"w":{"dtype":"F32","dtype":"F32"}}', b"", "'dtype' is there twice"),
    "no entry": ({"w": 3}, b"", "tensor 'w' has not just a dtype, a shape and data_offsets"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, b"", "has not just"),
    "more": (one(name="w"), bytes(24), "has not just"),
    "dtype": (one(dtype=3), bytes(24), "the dtype of tensor 'w' is no text"),
    "negative": (one(shape=[-2, -3]), bytes(24), r"the shape of tensor 'w' is \[-2, -3\]"),
    "floats": (one(shape=[2.0, 3.0]), bytes(24), r"the shape of tensor 'w' is \[2.0, 3.0\]"),
    "booleans": (one(shape=[True, 6]), bytes(24), r"the shape of tensor 'w' is \[True, 6\]"),
    "many axes": (one(shape=[1] * 65), bytes(24), "the shape of tensor 'w' is .*1, ..."),
    "no list": (one(shape="23"), bytes(24), "the shape of tensor 'w' is '23'"),
    "huge": (one(shape=[1 << 63, 2]), bytes(24), "the shape of tensor 'w' is"),
    "overflow": (one(shape=[1 << 62, 1 << 62]), bytes(24), "is said to have 24 bytes, but takes "),
    "short": (one(data_offsets=[0, 20]), bytes(20), "is said to have 20 bytes, but takes 24"),
    "backwards": (one(data_offsets=[24, 0]), bytes(24), r"data_offsets of tensor 'w' are \[24, 0\]"),
    "three offsets": (one(data_offsets=[0, 12, 24]), bytes(24), "data_offsets of tensor 'w' are"),
    "float offsets": (one(data_offsets=[0, 24.0]), bytes(24), "data_offsets of tensor 'w' are"),
    "overlap": ({"w": ENTRY, "v": {**LATER, "data_offsets": [20, 44]}}, bytes(44), "tensors 'w' and 'v' overlap"),
    "the same bytes": ({"w": ENTRY, "v": ENTRY}, bytes(24), "tensors 'w' and 'v' overlap"),
    "hole at first": ({"w": LATER}, bytes(48), "24 bytes before tensor 'w' belong to none"),
    "hole": (
        {"w": ENTRY, "v": {**LATER, "data_offsets": [25, 49]}},
        bytes(49),
        "1 bytes before tensor 'v' belong to no",
    ),
    "cut": (one(), bytes(20), "is not whole: .* Copy or download it again"),
    "more bytes": (one(), bytes(25), "is not whole: .* What the rest is"),
    "metadata": ({**one(), "__metadata__": {"a": 1}}, bytes(24), "its __metadata__ are not texts by name"),
    "metadata, a list": ({**one(), "__metadata__": []}, bytes(24), "its __metadata__ are not texts by name"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_no_part_of_a_header_is_taken_on_trust(tmp_path: Path, name: str) -> None:
    header, data, message = HEADERS[name]
    path = written(tmp_path / "x.bin", header, data)
    with pytest.raises(SourceError, match=f"{path} .*{message}"):
        sources_of(path)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (1 << 63, "its header is said to have 9,223,372,036,854,775,808 bytes, and none has more than 100,000,000"),
        (10_000, r"was cut within its header: \d+ bytes are there"),
        (20, "damaged header"),
        (0, "damaged header"),
    ],
)
def test_lengths_of_a_header_that_lie(tmp_path: Path, length: int, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        sources_of(written(tmp_path / "x.safetensors", one(), bytes(24), length))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "NEWER"])
def test_a_tensor_of_an_unknown_dtype_is_refused_when_it_is_asked_for(tmp_path: Path, dtype: str) -> None:
    header = {"v": {"dtype": dtype, "shape": [8], "data_offsets": [24, 28]}, **one()}
    arrays = sources_of(written(tmp_path / "x", header, bytes(28)))
    assert list(arrays) == ["v", "w"]
    assert arrays["w"].shape == (2, 3)
    with pytest.raises(
        SourceError, match=f"x::v has the dtype {dtype}, which is not known here; known are BOOL, .*U64"
    ):
        arrays["v"]


def changed(path: Path, **entries: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return path


def unlinked(path: Path, name: str) -> Path:
    (path.parent / name).unlink()
    return path


def second(folder: Path, **arrays: Any) -> Path:
    path = hugging_face(folder)
    checkpoint(folder / "model-2.safetensors", {**dict([*ARRAYS.items()][3:]), **arrays})
    return path


PLACES_REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a missing file": (
        lambda f: unlinked(hugging_face(f), "model-2.safetensors"),
        "names 2 files, and not beside it are model-2.safetensors: download them too",
    ),
    "above": (
        lambda f: hugging_face(f, b="../model-1.safetensors"),
        "the file '../model-1.safetensors', and files lie",
    ),
    "absolute": (lambda f: hugging_face(f, b="/etc/passwd"), "the file '/etc/passwd', and files lie beside it"),
    "the folder": (lambda f: hugging_face(f, b=".."), "the file '..', and files lie beside it"),
    "numbers": (lambda f: changed(hugging_face(f), weight_map={"b": 1}), "weight_map is not the names"),
    "a list": (lambda f: changed(hugging_face(f), weight_map=[]), "weight_map is not the names"),
    "another file": (
        lambda f: hugging_face(f, b="model-2.safetensors"),
        "says that tensor 'b' is in model-2.safetensors, but it is not",
    ),
    "no tensor": (lambda f: hugging_face(f, z="model-2.safetensors"), "says that tensor 'z' is in model-2"),
    "in two": (
        lambda f: changed(
            second(f, b=VALUES), weight_map={"ids": "model-2.safetensors", "größe_scale": "model-1.safetensors"}
        ),
        "does not name tensor 'b', and several of its files hold it",
    ),
    "a folder of two": (
        lambda f: checkpoint(checkpoint(f / "a.safetensors").parent / "b.safetensors").parent,
        r"holds several checkpoints: a.safetensors, b.safetensors. Pass the path of one, as in .*/a.safetensors",
    ),
    "a folder with more": (
        lambda f: checkpoint(hugging_face(f).parent / "consolidated.safetensors").parent,
        "holds beside the files of model.safetensors.index.json also consolidated.safetensors. Pass",
    ),
    "a pointer": (
        lambda f: (
            (f / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n") and f / "x.safetensors"
        ),
        "x.safetensors is a pointer of Git LFS",
    ),
    "a pointer in a folder": (
        lambda f: (f / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n") and f,
        "x.safetensors is a pointer of Git LFS",
    ),
    "another": (lambda f: (f / "x.safetensors").write_text("{}") and f / "x.safetensors", "is no .safetensors file"),
    "empty": (
        lambda f: ((f / "x.safetensors").touch(), f / "x.safetensors")[1],
        "is no .safetensors file: it is empty",
    ),
}


@pytest.mark.parametrize("name", PLACES_REFUSED)
def test_what_cannot_be_told_or_is_missing_is_named(tmp_path: Path, name: str) -> None:
    make, message = PLACES_REFUSED[name]
    with pytest.raises(SourceError, match=message):
        sources_of(make(tmp_path))


def test_a_tensor_in_two_files_is_that_of_the_index(tmp_path: Path) -> None:
    arrays = sources_of(second(tmp_path, b=VALUES))
    assert arrays["b"].shape == (7,)


def test_of_many_tensors_a_message_names_some(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x", {f"layers.{n:04}/w": np.zeros((1, 1), "f4") for n in range(1000)})
    with pytest.raises(ValueError, match=r"layers.0019/w \(1, 1\) float32 and 980 more. Name one, .*::layers.0000/w"):
        as_source(path)
    with pytest.raises(ValueError, match=r"it holds layers.0000/w, .*, layers.0019/w and 980 more$"):
        as_source(path, "w")


@pytest.mark.parametrize("name", ["/w/", "w/", "/", "a::b"])
def test_a_slash_is_a_character(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "x", {name: VALUES, "w": VALUES[0]})
    assert as_source(f"{path}::{name}").shape == VALUES.shape
    assert as_source(path, name).shape == VALUES.shape


def test_which_of_several_tensors_is_asked(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=re.escape("holds several arrays: b (7,) float16, größe_scale")):
        as_source(path)
    with pytest.raises(ValueError, match="has no tensor 'w'; it holds b, "):
        as_source(path, "w")
