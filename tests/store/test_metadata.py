"""``zarr.json``: written, read back, and refused whenever one part does not fit another."""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import DTYPES

from quantize import StoreError
from quantize.numerics.granularity import PerBlock
from quantize.numerics.scales import Rule, Scale
from quantize.store.codec import Compressor
from quantize.store.layout import Layout
from quantize.store.metadata import Metadata, ScaleNames
from quantize.store.zarr_json import checksum, tagged, untagged

LAYOUT = Layout((5, 7), np.dtype(np.float32), (2, 4))
METADATA = Metadata(LAYOUT, Rule(), None, {"source": {}}, status="sealed", scale=Scale(0.5, -3))
IN_BLOCKS = Metadata(
    LAYOUT,
    Rule(granularity=PerBlock((1, 2))),
    None,
    {},
    status="sealed",
    scale=ScaleNames(".int4/scale", ".int4/zero_point"),
    name="data",
    version=2,
)

attributes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats()
    | st.text(max_size=4)
    | st.just("@float:nan"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk lengths that the packed axis allows; some longer than the array."""
    *outer, last = shape
    ends = [n for n in range(1, last + 3) if n % 2 == 0 or n >= last]
    return (*(draw(st.integers(1, n + 1)) for n in outer), draw(st.sampled_from(ends)))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    chunks = boxes(draw, shape)
    shards = tuple(draw(st.integers(1, 3)) * n for n in chunks) if draw(st.booleans()) else None
    if shards is None:
        chunks = tuple(min(length, n) for length, n in zip(chunks, shape, strict=True))
    compressor = Compressor(draw(st.sampled_from([None, "zstd", "gzip", "blosc"])))
    try:
        return Layout(shape, draw(st.sampled_from(DTYPES)), chunks, shards, compressor)
    except ValueError:
        assume(False)
        raise


@given(layouts(), st.dictionaries(st.text(max_size=4), attributes, max_size=3), st.sampled_from([None, -8]))
def test_what_is_written_is_read_back(layout: Layout, attributes: dict[str, Any], nan_code: int | None) -> None:
    metadata = Metadata(
        layout,
        Rule.of("absmax", nan_policy="raise" if nan_code is None else "propagate"),
        None,
        {"source": {"shape": list(layout.shape)}},
        attributes,
        tuple("tzyx"[: len(layout.shape)]),
        "writing",
        Scale(0.1, -(2**40)),
        {"count": 1, "min": 5e-324, "max": 0.1, "missing": 0},
    )
    data = metadata.to_json()
    json.loads(data, parse_constant=pytest.fail)  # of a NaN or an infinity, which JSON lacks
    assert b"Infinity" not in data
    back = Metadata.from_json(data, "there")
    assert (back.layout, back.scale, back.dimension_names) == (layout, metadata.scale, metadata.dimension_names)
    assert repr(back.attributes) == repr(untagged(tagged(attributes)))
    assert back.to_json() == data


@given(attributes)
def test_numbers_that_json_lacks_come_back(value: Any) -> None:
    assert repr(untagged(json.loads(json.dumps(tagged(value), allow_nan=False)))) == repr(value)


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    stored = bytearray(METADATA.to_json())
    at = data.draw(st.integers(0, len(stored) - 1))
    byte = data.draw(st.integers(0, 255))
    assume(not (stored[at : at + 1].isspace() and bytes([byte]).isspace()))
    assume(stored[at] != byte)
    stored[at] = byte
    try:
        back = Metadata.from_json(bytes(stored), "there/zarr.json")
    except StoreError as error:
        assert "there/zarr.json" in str(error)  # noqa: PT017
    else:
        assert back == METADATA


def test_a_flipped_digit_in_the_scale_is_named_damage() -> None:
    stored = METADATA.to_json().replace(b'"scale": 0.5', b'"scale": 0.6')
    assert stored != METADATA.to_json()
    with pytest.raises(StoreError, match=r"there is damaged: its checksum does not match.*(?:copy|again)"):
        Metadata.from_json(stored, "there")


def rewritten(change: Any, metadata: Metadata = METADATA) -> bytes:
    """The metadata with a change by someone who knows how to make the checksum fit."""
    document = json.loads(metadata.to_json())
    header = document["attributes"]["int4"]
    del header["checksum"]
    change(document, header)
    header["checksum"] = checksum(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize("metadata", [METADATA, IN_BLOCKS], ids=["one scale", "blocks"])
def test_white_space_is_no_change(metadata: Metadata) -> None:
    assert Metadata.from_json(rewritten(lambda document, header: None, metadata), "there") == metadata


@pytest.mark.parametrize(
    "change",
    {
        "another shape": lambda d, h: h.update(shape=[5, 9]),
        "more axes": lambda d, h: h.update(shape=[5, 7, 1]),
        "no shape": lambda d, h: h.pop("shape"),
        "a huge shape": lambda d, h: h.update(shape=[10**30, 7]),
        "a shape of text": lambda d, h: h.update(shape="57"),
        "a dtype that cannot be": lambda d, h: h.update(dtype="complex64"),
        "a dtype that is none": lambda d, h: h.update(dtype=[["f4"]]),
        "scale 0": lambda d, h: d["attributes"].update(scale=0),
        "scale of text": lambda d, h: d["attributes"].update(scale="0.5"),
        "half a zero point": lambda d, h: d["attributes"].update(zero_point=0.5),
        "no zero point": lambda d, h: d["attributes"].pop("zero_point"),
        "no scale": lambda d, h: d["attributes"].pop("scale"),
        "a status of its own": lambda d, h: h.update(status="done"),
        "scanning with a scale": lambda d, h: h.update(status="scanning"),
        "a method of its own": lambda d, h: h.update(scale_method="lloyd"),
        "a nan_code of its own": lambda d, h: h.update(nan_code=99),
        "another fill value": lambda d, h: d.update(fill_value=1),
        "another data type": lambda d, h: d.update(data_type="int8"),
        "chunks of another length": lambda d, h: d["chunk_grid"]["configuration"].update(chunk_shape=[2, 5]),
        "no crc32c": lambda d, h: d["codecs"].pop(),
        "no codecs": lambda d, h: d.update(codecs=[]),
        "a codec that is not allowed": lambda d, h: d["codecs"].insert(1, {"name": "transpose"}),
        "two compressors": lambda d, h: d["codecs"].insert(1, {"name": "gzip", "configuration": {"level": 5}}),
        "another key encoding": lambda d, h: d["chunk_key_encoding"].update(name="v2"),
        "names for fewer axes": lambda d, h: d.update(dimension_names=["y"]),
        "a storage transformer": lambda d, h: d.update(storage_transformers=[{"name": "x"}]),
        "a group": lambda d, h: d.update(node_type="group"),
    }.items(),
    ids=lambda item: item[0],
)
def test_contradictions_are_refused_though_the_checksum_is_right(change: tuple[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"^there contradicts itself: .+"):
        Metadata.from_json(rewritten(change[1]), "there")


CONTRADICTIONS = {
    "no name": (lambda d, h: h.pop("name"), "lacks 'name'"),
    "name of nothing": (lambda d, h: h.update(name=None), "name is None"),
    "empty name": (lambda d, h: h.update(name=""), "at least one character"),
    "name of a list": (lambda d, h: h.update(name=["data"]), "must be a text"),
    "a long name": (lambda d, h: h.update(name="x" * 256), "256 bytes long"),
    "name that no text can be": (lambda d, h: h.update(name="\ud800"), "surrogates"),
    "no blocks": (lambda d, h: h.pop("blocks"), "lacks 'blocks'"),
    "blocks of nothing": (lambda d, h: h.update(blocks=None), "values share one"),
    "blocks of a number": (lambda d, h: h.update(blocks=2), "attributes is not what"),
    "blocks of text": (lambda d, h: h.update(blocks="2"), "must be an integer"),
    "blocks of fewer axes": (lambda d, h: h.update(blocks=[2]), "1 lengths, but the values have 2 axes"),
    "blocks of length 0": (lambda d, h: h.update(blocks=[1, 0]), "at least 1, or -1"),
    "blocks of length -2": (lambda d, h: h.update(blocks=[1, -2]), "at least 1, or -1"),
    "blocks of half": (lambda d, h: h.update(blocks=[1, 2.5]), "must be an integer"),
    "blocks of truth": (lambda d, h: h.update(blocks=[True, 2]), "attributes is not what"),
    "blocks longer than a chunk": (lambda d, h: h.update(blocks=[1, 10**40]), "end within blocks"),
    "blocks across chunks": (lambda d, h: h.update(blocks=[1, 3]), "end within blocks"),
    "blocks of all values": (lambda d, h: h.update(blocks=[-1, -1]), "values share one"),
    "blocks of an axis": (lambda d, h: h.update(blocks=[1, -1]), "attributes is not what"),
    "blocks and an axis": (lambda d, h: h.update(axis=0), "both say which values share a scale"),
    "no finest": (lambda d, h: h.pop("finest"), "lacks 'finest'"),
    "finest of 0": (lambda d, h: h.update(finest=0.0), "above 0"),
    "finest of a list": (lambda d, h: h.update(finest=[1.0]), "must be a number"),
    "finest of truth": (lambda d, h: h.update(finest=True), "attributes is not what"),
    "finest of one scale": (lambda d, h: h.update(finest=1.0, blocks=None), "least scale of a block"),
    "keep_zero of 1": (lambda d, h: h.update(keep_zero=1), "attributes is not what"),
    "keep_zero of nothing": (lambda d, h: h.update(keep_zero=None), "attributes is not what"),
    "keep_zero of text": (lambda d, h: h.update(keep_zero="true"), "attributes is not what"),
    "a percentile of no use": (lambda d, h: h.update(percentile=99.0), "attributes is not what"),
    "a percentile of blocks": (lambda d, h: h.update(scale_method="percentile", percentile=99.0), "leaves out"),
    "a range of one end": (lambda d, h: h.update(value_range=[1.0]), "two numbers"),
    "a range of truth": (lambda d, h: h.update(value_range=[False, True]), ""),
    "a decoding of a list": (lambda d, h: h.update(decoding=[1]), "attributes is not what"),
    "one scale": (lambda d, h: d["attributes"].update(scale=0.5, zero_point=0), "values share blocks"),
    "one zero point": (lambda d, h: d["attributes"].update(zero_point=0), "must be numbers, one each"),
    "version 1": (lambda d, h: h.update(version=1), "values share one"),
}


@pytest.mark.parametrize(("change", "why"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_of_version_2_are_refused_though_the_checksum_is_right(change: Any, why: str) -> None:
    with pytest.raises(StoreError, match=rf"^there contradicts itself: .*{why}"):
        Metadata.from_json(rewritten(change, IN_BLOCKS), "there")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an int4 variable"),
        (b'{"attributes": 3}', "not an int4 variable"),
        (b'{"attributes": {"int4": []}}', "not an int4 variable"),
        (b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', "not an int4 variable"),
        (b'{"attributes": {"int4": {"version": 3}}}', "format version 3; this library reads up to 2. Upgrade"),
        (b'{"attributes": {"int4": {"version": "1"}}}', "damaged"),
        (b'{"attributes": {"int4": {"belongs_to": "x"}}}', "no int4 variable, but of an array that belongs to 'x'"),
        (METADATA.to_json().replace(b'"scale": 0.5', b'"scale": NaN'), "NaN is no JSON number"),
    ],
    ids=["empty", "binary", "deep", "list", "attributes", "header", "foreign", "newer", "text", "scales", "nan"],
)
def test_what_is_not_ours(stored: bytes, message: str) -> None:
    with pytest.raises(StoreError, match=f"there .*{message}"):
        Metadata.from_json(stored, "there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5, 7), (2, 3)), "odd index of the last axis.*such as 4, or the whole axis, 7"),
        (((5, 7), (2,)), "differ in dimensions"),
        (((5, 7), (0, 4)), "at least 1"),
        (((), ()), "must have axes"),
        (((5, 7), (2, 4), (3, 4)), "not whole multiples"),
    ],
)
def test_layouts_that_cannot_be(arguments: tuple[Any, ...], message: str) -> None:
    shape, chunks, *shards = arguments
    with pytest.raises(ValueError, match=message):
        Layout(shape, np.dtype(np.float32), chunks, *shards)


@pytest.mark.parametrize(
    ("shape", "chunks", "shards", "wanted"),
    [
        ((5, 7), (2, 7), (2, 14), ((2, 7), (2, 7))),
        ((4, 10), (4, 32), (4, 64), ((4, 10), (4, 10))),
        ((57, 4), (20, 4), (100, 4), ((20, 4), (60, 4))),
        ((5, 7), (9, 8), None, ((5, 7), None)),
    ],
)
def test_chunks_and_shards_are_no_longer_than_the_array(shape: Any, chunks: Any, shards: Any, wanted: Any) -> None:
    layout = Layout(shape, np.dtype(np.float32), chunks, shards)
    assert (layout.chunks, layout.shards) == wanted


def test_bytes_of_a_layout() -> None:
    layout = Layout((5, 7), np.dtype(ml_dtypes.bfloat16), (2, 4))
    assert (layout.nbytes, layout.units.counts, layout.nbytes_most) == (70, (3, 2), 6 * (4 + 128))
    assert math.prod(layout.chunk_codec.shape) == 4
