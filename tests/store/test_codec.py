"""The bytes of one chunk or shard: what is written comes back, and anything else is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantize.store.codec import ABSENT, ChunkCodec, Compressor, ShardCodec, frame_size, with_crc32c, without_crc32c

COMPRESSORS = [
    Compressor(None),
    Compressor("zstd"),
    Compressor("zstd", {"level": 7, "checksum": True}),
    Compressor("gzip"),
    Compressor("blosc"),
    Compressor("blosc", {"cname": "lz4", "shuffle": "bitshuffle", "clevel": 1}),
]
compressors = st.sampled_from(COMPRESSORS)
chunks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=40))


@given(compressors, chunks)
def test_decode_is_the_inverse_of_encode(compressor: Compressor, packed: np.ndarray) -> None:
    codec = ChunkCodec(packed.shape, compressor)
    np.testing.assert_array_equal(codec.decode(codec.encode(packed).tobytes()), packed)


@given(compressors, chunks, st.data())
def test_a_flipped_bit_is_noticed(compressor: Compressor, packed: np.ndarray, data: st.DataObject) -> None:
    codec = ChunkCodec(packed.shape, compressor)
    stored = bytearray(codec.encode(packed))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="crc32c"):
        codec.decode(bytes(stored))


@given(compressors, chunks, st.data())
def test_a_torn_chunk_is_noticed(compressor: Compressor, packed: np.ndarray, data: st.DataObject) -> None:
    codec = ChunkCodec(packed.shape, compressor)
    stored = codec.encode(packed).tobytes()
    with pytest.raises(ValueError, match=r"crc32c|too short|bytes long, not"):
        codec.decode(stored[: data.draw(st.integers(0, len(stored) - 1))])


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
@pytest.mark.parametrize("size", [99, 101, 1 << 20])
def test_a_chunk_of_another_size_is_refused_though_its_checksum_is_right(compressor: Compressor, size: int) -> None:
    stored = with_crc32c(compressor.compress(np.zeros(size, np.uint8))).tobytes()
    with pytest.raises(ValueError, match="100"):
        ChunkCodec((100,), compressor).decode(stored)


@pytest.mark.parametrize("compressor", COMPRESSORS[1:], ids=str)
def test_bytes_that_no_compressor_wrote_are_refused(compressor: Compressor) -> None:
    for stored in (b"", b"\x00", bytes(64), b"\x28\xb5\x2f\xfd\x20\x64" + bytes(20)):
        with pytest.raises((ValueError, RuntimeError)):
            ChunkCodec((100,), compressor).decode(with_crc32c(stored).tobytes())


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 1 << 17])
def test_frame_size_reads_what_zstd_writes(size: int) -> None:
    assert frame_size(Compressor("zstd").compress(np.zeros(size, np.uint8))) == size


@pytest.mark.parametrize("data", [b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x00\x58", b"no zstd frame at all"])
def test_frame_size_of_what_declares_none(data: bytes) -> None:
    assert frame_size(data) == -1


def test_the_check_value_of_crc32c() -> None:
    assert with_crc32c(b"123456789")[9:].tobytes() == 0xE3069283.to_bytes(4, "little")
    assert without_crc32c(with_crc32c(b"123456789").tobytes()) == b"123456789"


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_shards_leave_out_what_lies_outside_the_array(compressor: Compressor) -> None:
    packed = np.arange(48, dtype=np.uint8).reshape(6, 8)
    codec = ShardCodec((6, 8), ChunkCodec((2, 4), compressor))
    data = codec.encode(packed, held=(3, 8))
    index = codec.index(data[-codec.index_length :])
    assert (index[4:] == ABSENT).all()
    for number, (offset, length) in enumerate(index[:4].tolist()):
        decoded = codec.chunk.decode(data[offset : offset + length])
        np.testing.assert_array_equal(decoded, packed[codec.grid.region(number)])
    assert sum(index[:4, 1].tolist()) + codec.index_length == len(data)


def test_a_damaged_index_is_noticed() -> None:
    codec = ShardCodec((4,), ChunkCodec((2,), Compressor(None)))
    data = bytearray(codec.encode(np.zeros(4, np.uint8), (4,))[-codec.index_length :])
    with pytest.raises(ValueError, match="long"):
        codec.index(bytes(data[1:]))
    data[3] ^= 1
    with pytest.raises(ValueError, match="crc32c"):
        codec.index(bytes(data))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lz4", {}, "'lz4' is not one of zstd, gzip, blosc"),
        ("zstd", {"window": 3}, "has no option 'window'"),
        ("gzip", {"level": "9"}, "has no level '9'"),
        ("zstd", {"checksum": 1}, "has no checksum 1"),
        ("blosc", {"shuffle": "twice"}, "has no shuffle 'twice'"),
        ("blosc", {"cname": "snappy"}, "has no cname 'snappy'"),
    ],
)
def test_what_the_format_does_not_allow(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Compressor(name, options)
