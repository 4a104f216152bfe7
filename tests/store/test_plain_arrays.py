"""Arrays that are kept: every dtype and shape comes back bit for bit, and others read the same."""

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marks import mostly_slow
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

from quantize.exceptions import DamagedChunkError
from quantize.numerics.dtypes import TEXT
from quantize.store import plain_arrays
from quantize.store.codec import Compressor
from quantize.store.keys import Keys
from quantize.store.plain_arrays import PlainArray, default_chunk

NUMBERS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
TIMES = [f"{kind}8{unit}" for kind in "Mm" for unit in ("", "[ns]", "[25s]", "[D]", "[Y]")]
FIXED = ["S1", "S5", "U1", "U3"]
CUSTOM = [np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")]
DTYPES = [np.dtype(name) for name in NUMBERS + TIMES + FIXED] + CUSTOM
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.sampled_from(
    ["\0", "a\0", "\0a", "日本", "🙂"]
)


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[np.dtype[Any]]) -> np.ndarray:
    """Values with whatever bits: NaNs of all kinds, NaT, text with NUL."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    dtype = draw(st.sampled_from(dtypes))
    size = int(np.prod(shape))
    if dtype == TEXT:
        flat = np.empty(size, object)
        flat[:] = draw(st.lists(texts, min_size=size, max_size=size))
        return flat.reshape(shape)
    if dtype.kind in "bU":
        return draw(hnp.arrays(dtype, shape))
    return np.frombuffer(
        draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)), dtype
    ).reshape(shape)


def written(values: np.ndarray, keys: Keys, chunk: tuple[int, ...], compressor: Compressor | None = None) -> PlainArray:
    own = {"compressor": compressor} if compressor else {}
    plain = PlainArray(
        keys, "kept", values.shape, values.dtype, chunk, {"units": "m"}, tuple("abcd"[: values.ndim]) or None, **own
    )
    plain.create()
    for number in range(plain.grid.count):
        assert not plain.present()[number]
        plain.write(number, values[(*plain.grid.region(number), ...)])
    assert plain.present().all()
    return plain


def bits(values: np.ndarray) -> Any:
    return values.tolist() if values.dtype == TEXT else (values.dtype.str, values.tobytes())


@pytest.mark.parametrize("compressor", mostly_slow([None, "zstd", "gzip", "blosc"], [None, "zstd"]))
@given(arrays([*DTYPES, TEXT]), st.data())
def test_every_array_comes_back_bit_for_bit(compressor: str | None, values: np.ndarray, data: st.DataObject) -> None:
    chunk = tuple(data.draw(st.integers(1, 6)) for _ in values.shape)
    own = Compressor("zstd" if values.dtype == TEXT and compressor else compressor)  # the others do not say how long
    plain = written(values, Keys(MemoryStore()), chunk, own)
    whole = tuple(slice(0, n) for n in values.shape)
    found = plain.read(whole)
    assert (found.dtype, found.shape, bits(found)) == (values.dtype, values.shape, bits(values))
    part = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in values.shape)
    assert bits(plain.read(part)) == bits(values[(*part, ...)])
    assert sum(map(bool, plain.present())) == plain.grid.count


def with_zarr(store: Any, path: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dtypes whose specification may yet change, or that NumPy gives up
        array = zarr.open_array(store, path=path, mode="r")
        return np.asarray(array[...], array.dtype if array.dtype.kind in "SU" else None)  # a scalar has its own length


@given(arrays([*DTYPES, TEXT]), st.data())
def test_zarr_reads_the_same(values: np.ndarray, data: st.DataObject) -> None:
    """Of what it has no dtype for, the bits. It takes NUL from the end of a text that is no array's."""
    assume(values.shape or values.dtype != TEXT or not str(values[()]).endswith("\0"))
    store = MemoryStore()
    chunk = tuple(data.draw(st.integers(1, 6)) for _ in values.shape)
    plain = written(values, Keys(store), chunk)
    found = with_zarr(store, "kept")
    if values.dtype == TEXT:
        assert found.tolist() == values.tolist()
    else:
        assert bits(found) == bits(values if values.dtype == plain.stored else values.view(plain.stored))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timedeltas without a unit
        array = zarr.open_array(store, path="kept", mode="r")
    assert dict(array.attrs) == {"units": "m"}
    assert array.metadata.dimension_names == (tuple("abcd"[: values.ndim]) or None)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [np.dtype(name) for name in NUMBERS] + CUSTOM[:1], ids=str)
def test_tensorstore_reads_the_same(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    for shape, chunk in (((), ()), ((5, 3), (2, 2)), ((0, 3), (1, 2))):
        size = int(np.prod(shape)) * dtype.itemsize
        values = np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8)
        values = (values % 2 if dtype.kind == "b" else values).copy().view(dtype).reshape(shape)
        plain = written(values, Keys(LocalStore(tmp_path / str(len(shape)) / str(size))), chunk)
        path = f"{plain.keys.label}/kept"
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        found = tensorstore.open(spec, read=True).result().read().result()
        assert bits(np.asarray(found)) == bits(values if values.dtype == plain.stored else values.view(plain.stored))


def test_texts_that_no_reader_would_take_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PlainArray(Keys(MemoryStore()), "kept", (3,), TEXT, (2,))
    with pytest.raises(ValueError, match=r"the text 'a\\udc80', which UTF-8 cannot hold \(surrogates not allowed\)"):
        plain.write(0, np.array(["b", "a\udc80"], object))
    monkeypatch.setattr(plain_arrays, "TEXT_MOST", 20)
    plain.write(0, np.array(["abc", "def"], object))
    plain.chunk_values(0)
    with pytest.raises(ValueError, match="2 of its texts take 21 bytes, and a chunk has at most 20"):
        plain.write(1, np.array(["abcdefghi"], object))
    assert plain.present().tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["f4", object])
@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_every_flip_and_every_cut_of_a_chunk_is_found(dtype: Any, compressor: str | None) -> None:
    values = np.arange(5, dtype="f4") if dtype == "f4" else np.array(["a", "b", "cdé", "", "e"], object)
    store = MemoryStore()
    plain = written(values, Keys(store), (3,), Compressor(compressor))
    make = default_buffer_prototype().buffer.from_bytes
    data = store._store_dict["kept/c/1"].to_bytes()
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        for changed in (flipped, data[:at], data + data[: at + 1], store._store_dict["kept/c/0"].to_bytes()[:at]):
            store._store_dict["kept/c/1"] = make(changed)
            with pytest.raises(DamagedChunkError, match="kept/c/1 is damaged"):
                plain.read((slice(2, 5),))
    del store._store_dict["kept/c/1"]
    with pytest.raises(DamagedChunkError, match="kept/c/1 is damaged: it is missing"):
        plain.read((slice(2, 5),))
    assert bits(plain.read((slice(0, 3),))) == bits(values[:3])


def test_a_chunk_that_declares_gigabytes_is_not_decompressed() -> None:
    store = MemoryStore()
    plain = written(np.array(["a"], object), Keys(store), (1,))
    from quantize.store.codec import with_crc32c

    frame = bytes.fromhex("28b52ffde000000000ff000000") + bytes(8)  # of 2^40 and more bytes
    Keys(store).set("kept/c/0", bytes(with_crc32c(frame)))
    with pytest.raises(DamagedChunkError, match="kept/c/0 is damaged"):
        plain.read((slice(0, 1),))


@given(st.lists(st.integers(0, 1 << 20), max_size=4), st.integers(0, 1 << 12))
def test_default_chunks_are_of_some_megabytes(shape: list[int], itemsize: int) -> None:
    chunk = default_chunk(tuple(shape), itemsize)
    size = int(np.prod([float(n) for n in chunk])) * itemsize
    assert size <= max(plain_arrays.CHUNK_BYTES, itemsize)
    assert all(1 <= length <= max(n, 1) for length, n in zip(chunk, shape, strict=True))
    assert size * 4 >= min(plain_arrays.CHUNK_BYTES, np.prod([float(max(n, 1)) for n in shape]) * itemsize)
