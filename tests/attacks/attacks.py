"""Stores made to harm whoever opens them: how each is made, and what must come of it.

An attack changes a small sound store in a folder. Its verdict is the error and the words that opening it gives, or that
reading it gives where it can be opened, or None where it reads right.
"""

import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from quantize import DamagedChunkError, StoreError, quantize_to_zarr
from quantize.store.codec import with_crc32c
from quantize.store.zarr_json import checksum

VALUES = np.random.default_rng(0).normal(10, 30, (16, 128)).astype(np.float32)
CHUNK = "data/c/0/0"
CHUNKS = (8, 64)
SIZE = 8 * 32  # packed bytes of a chunk
GIB = 1 << 30


@dataclass(frozen=True)
class Attack:
    """`opening` tells whether `why` comes when the store is opened; `found` is whether `verify` finds it.

    It does not where all bytes are what somebody wrote with right checksums, and their meaning alone is wrong. `slow`
    ones take seconds to make, or are much like others.
    """

    name: str
    make: Callable[[Path], None]
    error: type[Exception] | None = DamagedChunkError
    why: str = ""
    job: dict[str, Any] | None = None
    found: bool = True
    slow: bool = False

    def build(self, folder: Path) -> None:
        quantize_to_zarr(VALUES, folder, **{"chunks": CHUNKS, **(self.job or {})})
        self.make(folder)

    @property
    def opening(self) -> bool:
        return self.error is StoreError and self.found


# Ways to make them ----------------------------------------------------------------------------------------------------


def stored(data: bytes, key: str = CHUNK) -> Callable[[Path], None]:
    """Other bytes under a key."""
    return lambda folder: void((folder / key).write_bytes(data))


def compressed(data: bytes) -> Callable[[Path], None]:
    """A chunk with a right crc32c, so that what lies behind it is reached."""
    return stored(with_crc32c(data).tobytes())


def rewritten(document: dict[str, Any]) -> bytes:
    """Metadata with a right checksum."""
    header = document["attributes"]["int4"]
    header.pop("checksum", None)
    header["checksum"] = checksum(document)
    return json.dumps(document).encode()


def claiming(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Metadata changed by someone who knows how to make the checksum right."""

    def make(folder: Path) -> None:
        path = folder / "data" / "zarr.json"
        document = json.loads(path.read_text())
        change(document, document["attributes"]["int4"])
        path.write_bytes(rewritten(document))

    return make


def layout(
    shape: list[int], chunks: list[int] | None = None, shards: list[int] | None = None, **header: Any
) -> Callable[[Path], None]:
    """Metadata of other shapes that agree with one another."""

    def half(lengths: list[int]) -> list[int]:
        return [*lengths[:-1], (lengths[-1] + 1) // 2]

    def change(document: dict[str, Any], own: dict[str, Any]) -> None:
        inner = chunks or [*CHUNKS]
        document["shape"], own["shape"] = half(shape), shape
        document["chunk_grid"]["configuration"]["chunk_shape"] = half(shards or inner)
        if shards:
            document["codecs"][0]["configuration"]["chunk_shape"] = half(inner)
        own.update(header)

    return claiming(change)


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """Metadata with another text in them, and no right checksum: it need not be JSON."""

    def make(folder: Path) -> None:
        path = folder / "data" / "zarr.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return make


def special(key: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Something else than a file under a key."""

    def put(folder: Path) -> None:
        (folder / key).unlink()
        make(folder / key)

    return put


def sparse(path: Path) -> None:
    """A file that says it is a tebibyte long."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def listen(path: Path) -> None:
    """A socket; its path may be long, so it is made by its name alone."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def elsewhere(path: Path) -> None:
    """A link to a sound chunk in another folder."""
    target = path.parents[3] / "annex"
    target.write_bytes((path.parent / "1").read_bytes())
    (path.parent / "1").unlink()
    (path.parent / "1").symlink_to(target)
    path.symlink_to(path.parent / "1")


def link_of(path: Path) -> None:
    """The chunk moved away, and a link in its place."""
    data = path.read_bytes()
    target = path.parents[3] / "annex"
    target.write_bytes(data)
    path.unlink()
    path.symlink_to(target)


def indexed(offset: int, length: int, key: str = CHUNK) -> Callable[[Path], None]:
    """A shard whose index has its first chunk elsewhere."""

    def make(folder: Path) -> None:
        path = folder / key
        data = path.read_bytes()
        index = np.frombuffer(data[-68:-4], "<u8").copy()
        index[:2] = offset, length
        path.write_bytes(data[:-68] + with_crc32c(index.tobytes()).tobytes())

    return make


def numbers(array: str, values: Any, dtype: str, key: str = "c/0/0") -> Callable[[Path], None]:
    """Scales or zero points of blocks, nothing compressed, with a right crc32c: the first of a chunk are these."""

    def make(folder: Path) -> None:
        path = folder / BESIDE / array / key
        data = np.frombuffer(path.read_bytes()[:-4], dtype).copy()
        data[: np.size(values)] = values
        path.write_bytes(with_crc32c(data.tobytes()).tobytes())

    return make


def of_array(array: str, **parts: Any) -> Callable[[Path], None]:
    """Another document of an array of scales."""

    def make(folder: Path) -> None:
        path = folder / BESIDE / array / "zarr.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))

    return make


def absent(key: str) -> Callable[[Path], None]:
    return lambda folder: (folder / key).unlink()


def moved(folder: Path) -> None:
    """All that belongs to the variable, kept in another folder."""
    target = folder.with_name("annex")
    (folder / BESIDE).rename(target)
    (folder / BESIDE).symlink_to(target)


def void(_: object) -> None:
    """For calls in lambdas."""


def zstd(size: int) -> bytes:
    return bytes(Zstd(1).encode(np.zeros(size, np.uint8)))


def zstd_that_declares(size: int, content: int) -> bytes:
    """A zstd frame of many zeros in run-length blocks, that declares another size."""
    blocks = []
    while content:
        part = min(content, 1 << 17)
        content -= part
        blocks.append(((part << 3) | 2 | (not content)).to_bytes(3, "little") + b"\0")
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size) + b"".join(blocks)


def blosc(nbytes: int, blocksize: int, cbytes: int | None = None, flags: int = 0) -> bytes:
    """A sound chunk of Blosc with lies in its header."""
    data = bytearray(Blosc("zstd", 5, 0, 0, 1).encode(np.arange(SIZE, dtype=np.uint8) // 8 % 7))
    data[2] ^= flags
    data[4:16] = struct.pack("<III", nbytes, blocksize, len(data) if cbytes is None else cbytes)
    return bytes(data)


def gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def gzip_bomb() -> bytes:
    """A mebibyte that becomes a gibibyte."""
    packer = zlib.compressobj(wbits=31)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(1024)), packer.flush()])


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ZSTD: dict[str, Any] = {"compressors": "zstd"}
GZIP: dict[str, Any] = {"compressors": "gzip"}
BLOSC: dict[str, Any] = {"compressors": "blosc"}
PLAIN: dict[str, Any] = {"compressors": None}
SHARDED: dict[str, Any] = {"shards": (16, 128)}
BY_AXIS: dict[str, Any] = {"axis": 0}
BY_BLOCKS: dict[str, Any] = {"blocks": (1, 32)}
PLAIN_BLOCKS: dict[str, Any] = {**BY_BLOCKS, "compressors": None}
SHARDED_BLOCKS: dict[str, Any] = {**BY_BLOCKS, **SHARDED}
METADATA = "data/zarr.json"
BESIDE = "data/.int4"
UNITS, ZEROS = f"{BESIDE}/scale/c/0/0", f"{BESIDE}/zero_point/c/0/0"

ATTACKS = [
    # Decompression bombs
    Attack("zstd bomb that declares itself", lambda f: compressed(zstd(GIB))(f), why="longer than", job=ZSTD),
    Attack("zstd bomb that declares too little", compressed(zstd_that_declares(SIZE, GIB)), why="decompress|longer"),
    Attack("zstd that declares 2^32 - 1", compressed(zstd_that_declares(2**32 - 1, 1 << 20)), why="does not hold"),
    Attack("zstd of many frames", compressed(zstd(SIZE) + zstd(1 << 24)), why="decompress|longer"),
    Attack("small zstd bomb", compressed(zstd(1 << 20)), why="does not hold 256"),
    Attack("zstd of ten frames", compressed(zstd(SIZE) * 10), why="too small"),
    Attack("zstd without a size", compressed(b"\x28\xb5\x2f\xfd\x00\x58" + bytes(20)), why="does not hold"),
    Attack("gzip bomb", lambda f: compressed(gzip_bomb())(f), why="longer", job=GZIP, slow=True),
    Attack("small gzip bomb", compressed(gzip(bytes(1 << 16))), why="does not hold", job=GZIP),
    Attack("gzip of two members", compressed(gzip(bytes(SIZE)) + gzip(bytes(9))), why="does not hold", job=GZIP),
    Attack("gzip without an end", compressed(gzip(bytes(SIZE))[:-8]), why="does not hold", job=GZIP),
    Attack("blosc that declares 2 GiB", compressed(blosc(2**31 - 1, 1 << 20)), why="header", job=BLOSC),
    Attack("blosc of blocks of 2 GiB", compressed(blosc(SIZE, 2**31 - 1)), why="decompress", job=BLOSC),
    Attack("blosc of blocks of nothing", compressed(blosc(SIZE, 0)), why="decompress", job=BLOSC),
    Attack("blosc longer than it is", compressed(blosc(SIZE, SIZE, 2**32 - 1)), why="header", job=BLOSC),
    Attack("blosc by another compressor", compressed(blosc(SIZE, SIZE, flags=7 << 5)), why="decompress", job=BLOSC),
    # Chunks
    Attack("empty chunk", stored(b""), why="0 bytes long"),
    Attack("chunk of a tebibyte", special(CHUNK, sparse), why="longer than"),
    Attack("shard of a tebibyte", special(CHUNK, sparse), why="crc32c", job=SHARDED),
    Attack("chunk that is a pipe", special(CHUNK, os.mkfifo), why="is a pipe"),
    Attack("shard that is a pipe", special(CHUNK, os.mkfifo), why="is a pipe", job=SHARDED),
    Attack("chunk that is a socket", special(CHUNK, listen), why="a socket"),
    Attack("chunk that is a device", special(CHUNK, lambda p: p.symlink_to("/dev/zero")), why="a device"),
    Attack(
        "chunk that is a file of the system", special(CHUNK, lambda p: p.symlink_to("/proc/self/maps")), why="short"
    ),
    Attack("chunk that links to itself", special(CHUNK, lambda p: p.symlink_to(p.name)), why="leads to itself"),
    Attack("chunk that links nowhere", special(CHUNK, lambda p: p.symlink_to("nowhere")), why="is missing"),
    Attack("chunk that is a folder", special(CHUNK, Path.mkdir), why="is missing"),
    Attack("chunk kept elsewhere", lambda f: link_of(f / CHUNK), None),
    Attack("pickle for a chunk", stored(b"cos\nsystem\n(S'exit 1'\ntR."), why="crc32c"),
    # Shards
    Attack("index far beyond the shard", indexed(2**61, 60), why="its shard's index", job=SHARDED),
    Attack("index of a huge length", indexed(0, 2**63), why="its shard's index", job=SHARDED),
    Attack("index of nothing", indexed(0, 0), why="too short", job=SHARDED),
    Attack("index beyond the end", indexed(1200, 60), why="crc32c|short", job=SHARDED),
    Attack("index into the index", indexed(150, 60), why="crc32c|short", job=SHARDED),
    Attack("index beyond any end", indexed(10_000, 60), why="its shard's index", job=SHARDED),
    # Metadata that are no file, or no such file
    Attack("metadata that are a pipe", special(METADATA, os.mkfifo), StoreError, "is a pipe"),
    Attack("metadata that are a device", special(METADATA, lambda p: p.symlink_to("/dev/zero")), StoreError, "device"),
    Attack("metadata that link to themselves", special(METADATA, lambda p: p.symlink_to(p.name)), StoreError, "itself"),
    Attack("metadata of a tebibyte", special(METADATA, sparse), StoreError, "longer than the 4,194,304"),
    Attack("empty metadata", stored(b"", METADATA), StoreError, "not JSON"),
    Attack("metadata of UTF-16", stored('{"attributes": {}}'.encode("utf-16"), METADATA), StoreError, "not JSON"),
    Attack("deep JSON", stored(b"[" * (1 << 22), METADATA), StoreError, "too deep"),
    Attack("deep dictionaries", stored(b'{"a":' * 700_000, METADATA), StoreError, "too deep"),
    Attack("wide JSON", stored(b"[" + b"[]," * 1_398_000 + b"[]]", METADATA), StoreError, "not an int4", slow=True),
    Attack("huge number", stored(b"[" + b"9" * 4_000_000 + b"]", METADATA), StoreError, "not JSON"),
    Attack("many digits", stored(b"[0." + b"9" * 4_000_000 + b"]", METADATA), StoreError, "not JSON"),
    Attack("pickle for metadata", stored(b"cos\nsystem\n(S'exit 1'\ntR.", METADATA), StoreError, "not JSON"),
    Attack("deep attributes", claiming(lambda d, h: h.update(attributes={"a": deep(300)})), StoreError, "nested more"),
    Attack("deep fingerprint", claiming(lambda d, h: h.update(fingerprint=deep(300))), StoreError, "no dictionary"),
    # Shapes
    Attack("shape of 10^15", layout([10**15, 64]), StoreError, "chunks or shards"),
    Attack("10^12 chunks", layout([8 * 10**6, 64 * 10**6]), StoreError, "1,000,000,000,000 chunks"),
    Attack("a hundred million chunks", layout([8 * 10**8 // 2, 128]), None, slow=True),
    Attack("shape of 2^62", layout([2**62, 64]), StoreError, "is not a shape"),
    Attack("shape of 10^15 in shards", layout([10**15, 128], shards=[2**44, 128]), StoreError, "hold", job=SHARDED),
    Attack("a thousand axes", layout([1] * 999 + [64], [1] * 999 + [32]), StoreError, "1000 axes"),
    Attack("a chunk of 2^40", layout([2**40, 64], [2**40, 64]), StoreError, "bytes each"),
    Attack("two million chunks in a shard", layout([2**20, 64], [1, 32], [2**20, 64]), StoreError, "hold", SHARDED),
    Attack("a longest shard", layout([16, 2**24], [8, 64], [16, 2**24]), why="index is .* not", job=SHARDED),
    Attack("an axis of 10^9", layout([10**9, 64], [10**9, 2]), StoreError, "scales along", job=BY_AXIS),
    Attack("negative shape", layout([-8, 128]), StoreError, "is not a shape"),
    Attack("shape of nothing", layout([0, 64]), StoreError, "is not a shape"),
    Attack("shapes that contradict", claiming(lambda d, h: h.update(shape=[16, 129])), StoreError, "not what"),
    Attack("shape of floats", claiming(lambda d, h: d.update(shape=[16.0, 64.0])), StoreError, "shape is not what"),
    Attack("shape of truth", claiming(lambda d, h: h.update(shape=[True, 64])), StoreError, "is not a shape"),
    # Numbers
    Attack("NaN for a scale", replaced('"scale": ', '"scale": NaN, "old": '), StoreError, "NaN is no JSON"),
    Attack("infinity for a scale", replaced('"scale": ', '"scale": Infinity, "old": '), StoreError, "no JSON"),
    Attack("1e999 for a scale", replaced('"scale": ', '"scale": 1e999, "old": '), StoreError, "stands for inf"),
    Attack("-1e999 for a minimum", replaced('"min": ', '"min": -1e999, "old": '), StoreError, "stands for -inf"),
    Attack("scale of 0", claiming(lambda d, h: d["attributes"].update(scale=0.0)), StoreError, "above 0"),
    Attack("scale below 0", claiming(lambda d, h: d["attributes"].update(scale=-1.5)), StoreError, "above 0"),
    Attack("scale of truth", claiming(lambda d, h: d["attributes"].update(scale=True)), StoreError, "not what"),
    Attack("scale of 10^400", claiming(lambda d, h: d["attributes"].update(scale=10**400)), StoreError, "be numbers"),
    Attack(
        "scale of 10^308",
        claiming(lambda d, h: d["attributes"].update(scale=1e308)),
        StoreError,
        "cannot hold",
        found=False,
    ),
    Attack(
        "zero point of 2^70", claiming(lambda d, h: d["attributes"].update(zero_point=2**70)), StoreError, "64 bits"
    ),
    Attack("version of 10^99", claiming(lambda d, h: h.update(version=10**99)), StoreError, "Upgrade"),
    Attack("version of truth", claiming(lambda d, h: h.update(version=True)), StoreError, "is damaged: its checksum"),
    Attack("missing of 10^400", claiming(lambda d, h: h.update(missing=10**400)), StoreError, "contradicts itself"),
    Attack("missing that is tagged", claiming(lambda d, h: h.update(missing="@float:nan")), StoreError, "missing"),
    Attack("statistics of NaN", claiming(lambda d, h: h["statistics"].update(min="NaN")), StoreError, "statistics"),
    Attack("statistics upside down", claiming(lambda d, h: h["statistics"].update(min=1e9)), StoreError, "statistics"),
    Attack("statistics of too many", claiming(lambda d, h: h["statistics"].update(count=10**9)), StoreError, "statist"),
    Attack("statistics of a list", claiming(lambda d, h: h.update(statistics=[1])), StoreError, "no dictionary"),
    # Names and codecs
    Attack("dtype of objects", claiming(lambda d, h: h.update(dtype="O")), StoreError, "dtype 'O'"),
    Attack(
        "dtype of many fields", claiming(lambda d, h: h.update(dtype="i4," * 10**6)), StoreError, "dtype", slow=True
    ),
    Attack("dtype that is a dictionary", claiming(lambda d, h: h.update(dtype={"names": []})), StoreError, "dtype"),
    Attack(
        "codec of pickles", claiming(lambda d, h: d["codecs"].insert(1, {"name": "pickle"})), StoreError, "'pickle'"
    ),
    Attack(
        "codec of numcodecs",
        claiming(lambda d, h: d["codecs"].insert(1, {"name": "numcodecs.pickle"})),
        StoreError,
        "'numcodecs.pickle'",
    ),
    Attack("codec without a name", claiming(lambda d, h: d["codecs"].insert(1, {})), StoreError, "lacks 'name'"),
    Attack(
        "codec of a list", claiming(lambda d, h: d["codecs"].insert(1, {"name": ["zstd"]})), StoreError, "contradict"
    ),
    Attack(
        "shards in shards",
        claiming(lambda d, h: d["codecs"][0]["configuration"].update(codecs=json.loads(json.dumps(d["codecs"])))),
        StoreError,
        "contradicts itself",
        SHARDED,
    ),
    Attack(
        "scales that lie elsewhere",
        claiming(lambda d, h: d["attributes"].update(scale="../../x", zero_point="../../y")),
        StoreError,
        "as a variable of another name",
        BY_AXIS,
    ),
    Attack(
        "dimension names of lists",
        claiming(lambda d, h: d.update(dimension_names=[["t"], "x_packed"])),
        StoreError,
        "no names",
    ),
    Attack("Zarr v2", claiming(lambda d, h: d.update(zarr_format=2)), StoreError, "zarr_format is not what"),
    # Around the variable
    Attack("group that is a pipe", special("zarr.json", os.mkfifo), None),
    Attack("group of a tebibyte", special("zarr.json", sparse), None),
    Attack("group that is an array", stored(b'{"zarr_format": 3, "node_type": "array"}', "zarr.json"), None),
    Attack("deep group", stored(b"[" * 10**6, "zarr.json"), None),
    Attack("scales that are a pipe", special("data_scale/c/0", os.mkfifo), why="is a pipe", job=BY_AXIS),
    Attack("scales of a tebibyte", special("data_scale/c/0", sparse), why="longer than", job=BY_AXIS),
    Attack("metadata of scales that are a pipe", special("data_scale/zarr.json", os.mkfifo), None, job=BY_AXIS),
    Attack(
        "scales of NaN",
        lambda f: stored(with_crc32c(zstd_of(np.full(8, np.nan))).tobytes(), "data_scale/c/0")(f),
        why="not finite",
        job=BY_AXIS,
    ),
    Attack(
        "scales of 0",
        lambda f: stored(with_crc32c(zstd_of(np.zeros(8))).tobytes(), "data_scale/c/0")(f),
        why="not finite and above 0",
        job=BY_AXIS,
    ),
    # Blocks
    Attack(
        "blocks of fewer axes",
        claiming(lambda d, h: h.update(blocks=[32])),
        StoreError,
        "1 lengths",
        BY_BLOCKS,
        slow=True,
    ),
    Attack(
        "blocks of no length",
        claiming(lambda d, h: h.update(blocks=[1, 0])),
        StoreError,
        "at least 1",
        BY_BLOCKS,
        slow=True,
    ),
    Attack(
        "blocks of 10^40",
        claiming(lambda d, h: h.update(blocks=[1, 10**40])),
        StoreError,
        "end within",
        BY_BLOCKS,
        slow=True,
    ),
    Attack("blocks of lists", claiming(lambda d, h: h.update(blocks=deep(90))), StoreError, "an integer", BY_BLOCKS),
    Attack(
        "blocks of nothing", claiming(lambda d, h: h.update(blocks=None)), StoreError, "share one", BY_BLOCKS, slow=True
    ),
    Attack("blocks half as long", claiming(lambda d, h: h.update(blocks=[1, 16])), why="blosc header", job=BY_BLOCKS),
    Attack(
        "blocks of one value",
        claiming(lambda d, h: h.update(blocks=[1, 1])),
        why="bytes long",
        job=PLAIN_BLOCKS,
        slow=True,
    ),
    Attack("blocks of many rows", layout([10**9, 64], [10**9, 2]), StoreError, "scales along|bytes each", BY_BLOCKS),
    Attack("a hundred million chunks of blocks", layout([8 * 10**8 // 2, 128]), None, job=BY_BLOCKS, slow=True),
    Attack("finest below 0", claiming(lambda d, h: h.update(finest=-1.0)), StoreError, "above 0", BY_BLOCKS, slow=True),
    Attack("blocks for one scale", claiming(lambda d, h: h.update(blocks=[1, 32])), StoreError, "not what"),
    Attack(
        "keep_zero of 1", claiming(lambda d, h: h.update(keep_zero=1)), StoreError, "not what", BY_BLOCKS, slow=True
    ),
    Attack("another name", claiming(lambda d, h: h.update(name="other")), StoreError, "was made as other", BY_BLOCKS),
    Attack(
        "name of nothing", claiming(lambda d, h: h.update(name=None)), StoreError, "name is None", BY_BLOCKS, slow=True
    ),
    Attack(
        "name of a path",
        claiming(lambda d, h: h.update(name="../data")),
        StoreError,
        "another folder",
        BY_BLOCKS,
        slow=True,
    ),
    Attack(
        "deep decoding",
        claiming(lambda d, h: h.update(decoding=deep(300))),
        StoreError,
        "not what",
        BY_BLOCKS,
        slow=True,
    ),
    Attack(
        "scales of blocks that lie elsewhere",
        claiming(lambda d, h: d["attributes"].update(scale="../../x/scale", zero_point="../../x/zero_point")),
        StoreError,
        "as a variable of another name",
        BY_BLOCKS,
    ),
    Attack(
        "scales that are the zero points",
        claiming(lambda d, h: d["attributes"].update(scale=".int4/zero_point", zero_point=".int4/scale")),
        StoreError,
        "as a variable of another name",
        BY_BLOCKS,
        slow=True,
    ),
    Attack("unit of 0", numbers("scale", 0, "<u2"), why="none that a block can have", job=PLAIN_BLOCKS),
    Attack("unit that is not normal", numbers("scale", 0xF, "<u2"), why="none that a", job=PLAIN_BLOCKS, slow=True),
    Attack("unit of NaN", numbers("scale", 0x7FF8, "<u2"), why="none that a block can have", job=PLAIN_BLOCKS),
    Attack("unit of infinity", numbers("scale", 0x7FF0, "<u2"), why="none that a block", job=PLAIN_BLOCKS, slow=True),
    Attack("unit below 0", numbers("scale", 0xBFF0, "<u2"), why="none that a block can have", job=PLAIN_BLOCKS),
    Attack(
        "unit of -0", numbers("scale", 0x8000, "<u2"), why="none that a block can have", job=PLAIN_BLOCKS, slow=True
    ),
    Attack(
        "unit whose scale is infinite", numbers("scale", 0x7FE0, "<u2"), why="none that a", job=PLAIN_BLOCKS, slow=True
    ),
    Attack("unit of 10^300", numbers("scale", 0x7E30, "<u2"), StoreError, "cannot hold", job=PLAIN_BLOCKS, found=False),
    Attack("zero point of -2^31", numbers("zero_point", -(2**31), "<i4"), why="none that a", job=PLAIN_BLOCKS),
    Attack("scales of no length in a shard", indexed(0, 0, UNITS), why="too short", job=SHARDED_BLOCKS, slow=True),
    Attack("absent scales", absent(UNITS), why="is missing", job=BY_BLOCKS),
    Attack("absent zero points", absent(ZEROS), why="zero_point/c/0/0 is damaged: it is missing", job=BY_BLOCKS),
    Attack("absent shard of scales", absent(UNITS), why="is missing", job=SHARDED_BLOCKS, slow=True),
    Attack(
        "absent scales in a shard",
        indexed(2**64 - 1, 2**64 - 1, UNITS),
        why="is missing",
        job=SHARDED_BLOCKS,
        slow=True,
    ),
    Attack("absent zero points in a shard", indexed(2**64 - 1, 2**64 - 1, ZEROS), why="is missing", job=SHARDED_BLOCKS),
    Attack(
        "scales far beyond their shard",
        indexed(2**61, 60, UNITS),
        why="its shard's index",
        job=SHARDED_BLOCKS,
        slow=True,
    ),
    Attack("scales of blocks that are a pipe", special(UNITS, os.mkfifo), why="is a pipe", job=BY_BLOCKS, slow=True),
    Attack("scales of blocks of a tebibyte", special(UNITS, sparse), why="longer than", job=BY_BLOCKS),
    Attack("a shard of scales of a tebibyte", special(UNITS, sparse), why="crc32c", job=SHARDED_BLOCKS, slow=True),
    Attack(
        "scales of 2 GiB",
        stored(with_crc32c(blosc(2**31 - 1, 64)).tobytes(), UNITS),
        why="header",
        job=BY_BLOCKS,
        slow=True,
    ),
    Attack("document of scales of another shape", of_array("scale", shape=[1, 1]), None, job=BY_BLOCKS),
    Attack(
        "document of scales of another dtype", of_array("scale", data_type="float64"), None, job=BY_BLOCKS, slow=True
    ),
    Attack(
        "document of scales that is a pipe",
        special(f"{BESIDE}/scale/zarr.json", os.mkfifo),
        None,
        job=BY_BLOCKS,
        slow=True,
    ),
    Attack("no document of zero points", absent(f"{BESIDE}/zero_point/zarr.json"), None, job=BY_BLOCKS),
    Attack("scales kept elsewhere", moved, None, job=BY_BLOCKS),
]


def zstd_of(values: np.ndarray) -> bytes:
    return bytes(Zstd(1).encode(values.view(np.uint8)))
