"""Stores, metadata and command lines that Hypothesis changes: only the library's own errors come of them.

With the checksums left as they were a read gives the right numbers or such an error. With checksums made right again,
so that what lies behind them is reached, what is read has at least the shape and dtype that the metadata say.
"""

import contextlib
import copy
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import slow
from stores import field
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from quantize import QuantizeError, open_int4, quantize_to_zarr
from quantize.cli import commands as cli
from quantize.exceptions import StoreError
from quantize.quality.verify import verify
from quantize.store.codec import ChunkCodec, Compressor, with_crc32c
from quantize.store.metadata import Metadata
from quantize.store.zarr_json import checksum

VALUES = field((6, 40))
JOBS: list[dict[str, Any]] = [
    {"chunks": (3, 40), "compressors": None},
    {"chunks": (6, 20)},
    {"chunks": (2, 8), "shards": (4, 16), "compressors": "gzip"},
    {"compressors": "blosc", "nan_policy": "propagate"},
    {"chunks": (3, 20), "axis": 1},
    {"chunks": (2, 8), "shards": (4, 16), "blocks": (2, 4)},
    {"chunks": (3, 20), "blocks": (1, 4), "compressors": None},
]
PLAIN_BLOCKS = -1  # the place of the last
COMPRESSORS = [
    Compressor("zstd"),
    Compressor("zstd", {"level": 7, "checksum": True}),
    Compressor("gzip"),
    Compressor("blosc"),
    *(Compressor("blosc", {"cname": name, "shuffle": "bitshuffle"}) for name in ("lz4", "zlib", "blosclz")),
    Compressor("blosc", {"cname": "lz4hc", "shuffle": "shuffle", "typesize": 4}),
]
Made = list[tuple[dict[str, bytes], np.ndarray]]


@pytest.fixture(scope="module")
def made() -> Made:
    """The keys and bytes of a store of each job, and what reads out of it."""
    found = []
    for job in JOBS:
        store = MemoryStore()
        values = quantize_to_zarr(VALUES, store, **job)[...]
        found.append(({key: data.to_bytes() for key, data in store._store_dict.items()}, values))
    return found


def store_of(stored: dict[str, bytes]) -> MemoryStore:
    make = default_buffer_prototype().buffer.from_bytes
    return MemoryStore({key: make(data) for key, data in stored.items()})


# Bytes ----------------------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some changed, cut out, put in or repeated."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(out) - 1, 0)))
        match draw(st.sampled_from(["bit", "byte", "cut", "insert", "number", "repeat", "end"])):
            case "bit" if out:
                out[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if out:
                out[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            case "cut":
                del out[at : at + draw(st.integers(1, 20))]
            case "insert":
                out[at:at] = draw(st.binary(max_size=8))
            case "number":
                out[at : at + 4] = draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
            case "repeat":
                out += out[at : at + draw(st.integers(1, 100))]
            case "end":
                del out[at:]
    return bytes(out)


def bytes_of_stores(made: Made, data: st.DataObject) -> None:
    """Any key of any store with other bytes in it: the numbers are right, or the error is ours."""
    stored, values = data.draw(st.sampled_from(made))
    key = data.draw(st.sampled_from(sorted(stored)))
    store = store_of({**stored, key: data.draw(changed(stored[key]))})
    with contextlib.suppress(QuantizeError):
        np.testing.assert_array_equal(open_int4(store, "data")[...], values)


def chunks_with_right_checksums(made: Made, data: st.DataObject) -> None:
    """A chunk that decompressors are handed, as its crc32c is right."""
    compressor = data.draw(st.sampled_from(COMPRESSORS))
    packed = data.draw(st.sampled_from([np.zeros(1000, np.uint8), np.arange(1000, dtype=np.uint8) // 9 % 16]))
    content = data.draw(changed(bytes(compressor.compress(packed))))
    codec = ChunkCodec(packed.shape, compressor)
    with contextlib.suppress(ValueError):
        found = codec.decode(with_crc32c(content).tobytes())
        assert (found.shape, found.dtype) == (packed.shape, packed.dtype)


UNITS = (
    st.integers(0x3900, 0x4700)  # 1e-34 to 1e35
    | st.sampled_from([0, 1, 0x10, 0x7FCF, 0x7FD0, 0x7FDF, 0x7FE0, 0x7FF0, 0x7FF8, 0x8000])
    | st.integers(0, 2**16 - 1)
)
ZERO_POINTS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1, 128, 2**31 - 3, -(2**31) + 132])


def scales_of_blocks_with_right_checksums(made: Made, data: st.DataObject) -> None:
    """Any units and zero points: what is read of them is the law, or they are refused."""
    stored, values = made[PLAIN_BLOCKS]
    for name, dtype, numbers in (("scale", "<u2", UNITS), ("zero_point", "<i4", ZERO_POINTS)):
        key = f"data/.int4/{name}/c/{data.draw(st.integers(0, 1))}/{data.draw(st.integers(0, 1))}"
        found = np.frombuffer(stored[key][:-4], dtype).copy()
        for place, number in data.draw(st.dictionaries(st.integers(0, found.size - 1), numbers, max_size=3)).items():
            found[place] = number
        stored = {**stored, key: with_crc32c(found.tobytes()).tobytes()}
    store = store_of(stored)
    array = open_int4(store, "data")
    try:
        restored = array[...]
    except StoreError:
        return
    units, zero_points = (
        zarr.open_array(store, path=f"data/.int4/{name}", mode="r")[:].repeat(4, axis=1)
        for name in ("scale", "zero_point")
    )
    quarters = 4 * array.codes().astype(np.int64) - (zero_points.astype(np.int64) - 128)
    with np.errstate(over="ignore"):
        law = (quarters * (units.astype(np.uint64) << 48).view(np.float64)).astype(np.float32)
    largest = np.finfo(np.float32).max  # of a level that lies half a step beyond
    np.testing.assert_array_equal(restored, np.clip(law, -largest, largest))
    assert restored.shape == values.shape


# Metadata -------------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 20, 40, 2**31, 2**53, 2**62, 10**15, 10**400, 0.5, -0.0, 1e308, 5e-324])
NAMES = [
    "data",
    "int4",
    "bytes",
    "zstd",
    "gzip",
    "blosc",
    "crc32c",
    "pickle",
    "sharding_indexed",
    "float16",
    "int8",
    "uint64",
    ".int4/scale",
    ".int4/zero_point",
]
ATOMS = NUMBERS | st.none() | st.booleans() | st.sampled_from(NAMES) | st.text(max_size=5)
TREES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each part of a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def rewritten(draw: st.DrawFn, data: bytes) -> bytes:
    """Metadata with some parts changed and the checksum made right again."""
    document = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(document))
        *path, last = draw(st.sampled_from(paths))
        parent = document
        for key in path:
            parent = parent[key]
        match draw(st.sampled_from(["value", "number", "remove", "copy", "add"])):
            case "value":
                parent[last] = draw(TREES)
            case "number":
                parent[last] = draw(NUMBERS)
            case "remove":
                del parent[last]
            case "copy":
                source = document
                for key in draw(st.sampled_from(paths)):
                    with contextlib.suppress(LookupError, TypeError):
                        source = source[key]
                parent[last] = copy.deepcopy(source)
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=5))] = draw(TREES)
            case "add":
                parent.insert(last, draw(TREES))
    header = document.get("attributes", {})
    header = header.get("int4") if isinstance(header, dict) else None
    if isinstance(header, dict):
        header.pop("checksum", None)
        header["checksum"] = checksum(document)
    return json.dumps(document).encode()


def metadata_with_right_checksums(made: Made, data: st.DataObject) -> None:
    stored, _ = data.draw(st.sampled_from(made))
    claims = data.draw(rewritten(stored["data/zarr.json"]))
    store = store_of({**stored, "data/zarr.json": claims})
    try:
        array = open_int4(store, "data")
    except StoreError:
        return
    assert Metadata.from_json(array.metadata.to_json(), "again") == array.metadata
    with contextlib.suppress(QuantizeError):
        corner = array[tuple(slice(0, 2) for _ in array.shape)]
        assert corner.shape == tuple(min(n, 2) for n in array.shape)
        assert corner.dtype == array.dtype
    verify(store, "data", workers=1)


def metadata_of_any_bytes(made: Made, data: st.DataObject) -> None:
    stored, _ = data.draw(st.sampled_from(made))
    trees = TREES.map(lambda tree: json.dumps(tree).encode())
    content = data.draw(changed(stored["data/zarr.json"]) | st.binary(max_size=200) | trees)
    with contextlib.suppress(StoreError):
        Metadata.from_json(content, "there")


FUZZES = [
    bytes_of_stores,
    chunks_with_right_checksums,
    scales_of_blocks_with_right_checksums,
    metadata_with_right_checksums,
    metadata_of_any_bytes,
]
EXAMPLES = [50, slow(2500)]  # of each: 12,500 with those of stores


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("fuzz", FUZZES, ids=lambda fuzz: fuzz.__name__)
def test_only_our_errors_come_out(made: Made, fuzz: Any, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        fuzz(made, data)

    run()


# The command line -----------------------------------------------------------------------------------------------------

# Not demo: it writes a gibibyte.
COMMANDS = ["suggest", "plan", "run", "seal", "info", "verify", "report", "read", "restore"]
FILES = [
    "a.npy",
    "cut.npy",
    "text.txt",
    "a.zarr",
    "a.zarr/data",
    "damaged.zarr",
    "folder",
    "nowhere",
    "pipe",
    "new.zarr",
]
OPTIONS = [
    "--name", "--scale-method", "--axis", "--percentile", "--value-range", "--missing", "--nan-policy", "--chunks",
    "--shards", "--compressors", "--memory", "--workers", "--json", "--overwrite", "--verify", "--durable", "--part",
    "--region", "-o", "--output", "--help", "--version", "--", "-",
]  # fmt: skip
WORDS = [
    "data", "minmax", "absmax", "percentile", "mse", "raise", "propagate", "none", "declared", "auto", "zstd", "gzip",
    "0", "1", "-1", "2", "3,-1", "6,40", "1e999", "nan", "inf", "-inf", "99.9", "1GiB", "1e400", "0:2,:", "1/2", "...",
    "::-1", "::0", "99999999999999999999:", "5", "out.npy", "out.html", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    np.save(folder / "a.npy", VALUES)
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:300])
    (folder / "text.txt").write_text("1 2 3")
    (folder / "folder").mkdir()
    for name in ("a.zarr", "damaged.zarr"):
        quantize_to_zarr(VALUES, folder / name, chunks=(3, 40))
    (folder / "damaged.zarr/data/c/1/0").write_bytes(b"")
    return folder


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command with paths where they belong, mostly, and any options and words behind them."""
    words = st.sampled_from(FILES) | st.sampled_from(WORDS) | st.text(max_size=6)
    pairs = st.tuples(st.sampled_from(OPTIONS), words).map(list)
    rest = draw(
        st.lists(pairs | words.map(lambda word: [word]) | st.sampled_from(OPTIONS).map(lambda o: [o]), max_size=4)
    )
    paths = draw(st.lists(st.sampled_from(FILES), max_size=2))
    return [draw(st.sampled_from(COMMANDS) | words), *paths, *itertools.chain(*rest)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_no_arguments_are_answered_by_a_traceback(place: Path, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(cli.signal, "signal", lambda number, action: action)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(arguments())
    def run(words: list[str]) -> None:
        said, complained = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complained),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main(words)
        assert ended.value.code in (None, 0, 1, 2, 3), complained.getvalue()
        assert "Traceback" not in complained.getvalue() + said.getvalue()

    run()
