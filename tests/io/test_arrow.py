"""Columns of Parquet and Arrow files and of pyarrow's tables: row groups and record batches are chunks."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from stores import check, field
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, SourceError, plan, quantize_to_zarr
from quantize.io import as_source, sources_of
from quantize.io.formats import arrow

ROWS, WIDTH = 100, 12
VALUES = field((ROWS, WIDTH))
DEEP = field((ROWS, 3, 4), np.float64)


def fixed(values: np.ndarray, mask: Any = None) -> pa.Array:
    """Numbers as lists of fixed sizes."""
    found = pa.array(values.ravel(), mask=None if mask is None else mask.ravel())
    for n in values.shape[:0:-1]:
        found = pa.FixedSizeListArray.from_arrays(found, n)
    return found


COLUMNS: dict[str, tuple[Any, np.ndarray]] = {
    "emb": (fixed(VALUES), VALUES),
    "deep": (fixed(DEEP), DEEP),
    "list": (pa.array(VALUES.tolist(), pa.list_(pa.float32())), VALUES),
    "large": (pa.array(DEEP.tolist(), pa.large_list(pa.list_(pa.float64(), 4))), DEEP),
    "tensor": (pa.FixedShapeTensorArray.from_numpy_ndarray(DEEP), DEEP),
    "x.y": (pa.array(VALUES[:, 0]), VALUES[:, 0]),
    "half": (pa.array(VALUES[:, 1].astype("f2")), VALUES[:, 1].astype("f2")),
    "id": (pa.array(np.arange(ROWS)), np.arange(ROWS)),
    "u": (pa.array(np.arange(ROWS, dtype="u1")), np.arange(ROWS, dtype="u1")),
}
KEPT: dict[str, tuple[Any, np.ndarray]] = {
    "flag": (pa.array(VALUES[:, 0] > 0), VALUES[:, 0] > 0),
    "text": (pa.array([f"ä{n}" for n in range(ROWS)]), np.array([f"ä{n}" for n in range(ROWS)], object)),
    "time": (pa.array(np.arange(ROWS).astype("M8[ms]")), np.arange(ROWS).astype("M8[ms]")),
    "flags": (pa.array((VALUES > 0).tolist()), VALUES > 0),
}
OTHER = {"struct": pa.array([{"a": 1}] * ROWS), "texts": pa.array([["a"]] * ROWS), "zone": pa.array([None] * ROWS)}
TABLE = pa.table({**{name: array for name, (array, _) in {**COLUMNS, **KEPT}.items()}, **OTHER})


def parquet(path: Path, table: Any = TABLE, rows: int = 30, **options: Any) -> Path:
    pq.write_table(table, path, row_group_size=rows, **options)
    return path


def ipc(path: Path, table: Any = TABLE, rows: int = 30, stream: bool = False, compression: Any = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def in_pieces(folder: Path, write: Any, form: str) -> Path:
    folder.mkdir()
    for n, (a, b) in enumerate([(0, 41), (41, 41), (41, 100)]):
        write(folder / form.format(9 + n), TABLE.slice(a, b - a))
    return folder


THINGS: dict[str, Any] = {
    "Parquet": lambda f: parquet(f / "x.parquet"),
    "Parquet, one group": lambda f: parquet(f / "x", rows=1000),
    "Parquet without its schema": lambda f: parquet(f / "x", store_schema=False, compression="zstd"),
    "Arrow": lambda f: ipc(f / "x.arrow"),
    "Arrow, compressed": lambda f: ipc(f / "x.feather", compression="lz4"),
    "Arrow stream": lambda f: ipc(f / "x.bin", stream=True),
    "Parquet files": lambda f: in_pieces(f / "d", parquet, "part-{}.parquet"),
    "pattern": lambda f: f"{in_pieces(f / 'd', parquet, 'part-{}.pq')}/*.pq",
    "list": lambda f: sorted(in_pieces(f / "d", ipc, "{:03}.arrow").iterdir()),
    "table": lambda f: TABLE,
    "chunked table": lambda f: pa.concat_tables([TABLE.slice(0, 33), TABLE.slice(33, 1), TABLE.slice(34)]),
    "record batch": lambda f: TABLE.to_batches()[0],
}


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def through_pieces(source: Any) -> np.ndarray:
    found = np.zeros(source.shape, source.dtype)
    for piece in source.pieces(whole(source.shape)):
        found[piece] += source.read(piece)
    return found


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
def test_columns_are_arrays(tmp_path: Path, make: Any) -> None:
    thing = make(tmp_path)
    arrays = sources_of(thing)
    assert list(arrays) == sorted(TABLE.column_names)
    for name, (_, values) in COLUMNS.items():
        source = arrays[name]
        if source.shared:
            source = pickle.loads(pickle.dumps(source))
        values = values.reshape(source.shape)  # without its schema a tensor is a list of its numbers
        assert (source.shape[0], source.dtype) == (ROWS, values.dtype)
        np.testing.assert_array_equal(through_pieces(source), values)
        assert arrays.raw(name).read(whole(source.shape)).tobytes() == values.tobytes()
    for name, (_, values) in KEPT.items():
        np.testing.assert_array_equal(arrays.raw(name).read(whole(values.shape)), values)
        with pytest.raises(TypeError, match=f"::{name} (holds|cannot)"):
            arrays[name]
    for name in OTHER:
        with pytest.raises(TypeError, match=f"::{name} holds .*, which cannot be quantized"):
            arrays[name]
        with pytest.raises(SourceError, match=f"::{name} has .* leave it out"):
            arrays.raw(name)


@pytest.mark.parametrize(
    "make", [THINGS["list"], slow(THINGS["Parquet"]), slow(THINGS["Arrow"]), slow(THINGS["table"])]
)
def test_a_column_is_quantized_out_of_core(tmp_path: Path, make: Any) -> None:
    source = as_source(make(tmp_path), "emb")
    check(quantize_to_zarr(source, MemoryStore(), chunks=(7, 8), workers=2), VALUES)


def test_a_name_after_the_path(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet")
    assert as_source(f"{path}::x.y").shape == (ROWS,)
    with pytest.raises(ValueError, match="has no column 'z'; it holds deep, emb"):
        as_source(f"{path}::z")
    with pytest.raises(ValueError, match=r"several arrays: deep \(100, 3, 4\) float64, emb \(100, 12\) float32"):
        as_source(path)


@given(st.data())
def test_any_region_of_groups_of_any_length(data: Any) -> None:
    shape = (data.draw(st.integers(1, 20)), *data.draw(st.lists(st.integers(1, 3), max_size=2)))
    values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    array = fixed(values)
    ends = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=4)))
    parts = [array.slice(a, b - a) for a, b in zip([0, *ends], [*ends, shape[0]], strict=True)]
    source = as_source(pa.chunked_array(parts, array.type))
    np.testing.assert_array_equal(through_pieces(source), values)
    region = tuple(slice(*sorted(data.draw(st.tuples(st.integers(0, n - 1), st.just(n))))) for n in shape)
    np.testing.assert_array_equal(source.read(region), values[region])
    start = data.draw(st.integers(0, shape[0] - 1))
    for piece in source.pieces((slice(start, shape[0]), *whole(shape[1:]))):
        assert (piece[-1].start - (0 if len(shape) > 1 else start)) % 2 == 0


# Nulls ----------------------------------------------------------------------------------------------------------------

MASK = VALUES > 40


def with_null_rows(kind: Any, rows: list[int]) -> pa.Array:
    return pa.array([None if n in rows else row for n, row in enumerate(VALUES.tolist())], kind)


@pytest.mark.parametrize("write", [parquet, ipc])
def test_nulls_are_missing_values(tmp_path: Path, write: Any) -> None:
    rows = np.isin(np.arange(ROWS), [0, 17, 99])[:, None] & np.ones(WIDTH, bool)
    ints = (VALUES[:, 0] * 10).astype("i4")
    table = pa.table(
        {
            "values": fixed(VALUES, MASK),
            "fixed rows": with_null_rows(pa.list_(pa.float32(), WIDTH), [0, 17, 99]),
            "rows": with_null_rows(pa.list_(pa.float32()), [0, 17, 99]),
            "ints": pa.array(ints, mask=MASK[:, 0]),
        }
    )
    path = write(tmp_path / "x", table)
    arrays = sources_of(path)
    for name, mask in {"values": MASK, "fixed rows": rows, "rows": rows}.items():
        expected = np.where(mask, np.float32(np.nan), VALUES)
        np.testing.assert_array_equal(through_pieces(arrays[name]), expected)
        np.testing.assert_array_equal(arrays.raw(name).read(whole(VALUES.shape)), expected)
        with pytest.raises(RefusedValuesError, match="NaN"):
            quantize_to_zarr(arrays[name], MemoryStore())
    restored = quantize_to_zarr(arrays["ints"], MemoryStore(), missing=-9999, nan_policy="propagate")[...]
    np.testing.assert_array_equal(restored == -9999, MASK[:, 0])
    with pytest.raises(RefusedValuesError, match="declares no missing value"):
        quantize_to_zarr(arrays["ints"], MemoryStore())
    row = int(np.argmax(MASK[:, 0]))
    with pytest.raises(SourceError, match=f"::ints is null in row {row}, which Zarr cannot keep"):
        arrays.raw("ints").read(whole((ROWS,)))


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [parquet, ipc])
def test_lists_of_different_lengths_are_refused_by_row(tmp_path: Path, write: Any) -> None:
    lists = VALUES.tolist()
    lists[57] = lists[57][:5]
    path = write(tmp_path / "x", pa.table({"emb": lists}))
    with pytest.raises(SourceError, match="x::emb has lists of different lengths: 12, and 5 in row 57"):
        quantize_to_zarr(path, MemoryStore())


def replaced(path: Path, at: int, length: int) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + length] = b"\xa5" * length
    path.write_bytes(data)
    return path


def shortened(path: Path, length: int) -> Path:
    path.write_bytes(path.read_bytes()[:length])
    return path


ONE = pa.table({"emb": fixed(VALUES)})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: shortened(parquet(p, ONE), 2000),
        lambda p: shortened(parquet(p, ONE), 4),
        lambda p: replaced(parquet(p, ONE), -100, 80),
        lambda p: replaced(parquet(p, ONE), 10, 1000),
        lambda p: shortened(ipc(p, ONE), 2000),
        lambda p: shortened(ipc(p, ONE), 8),
        lambda p: replaced(ipc(p, ONE), 8, 200),
        lambda p: shortened(ipc(p, ONE, stream=True), 2000),
        lambda p: replaced(ipc(p, ONE, stream=True), 8, 60),
        lambda p: replaced(ipc(p, ONE, compression="zstd"), -3000, 1000),
    ],
)
def test_what_is_damaged_is_one_error_of_ours(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "x")
    with pytest.raises(SourceError, match=f"{path}.* cannot be read: .*Copy or download it again"):
        quantize_to_zarr(path, MemoryStore())


@given(st.data())
def test_no_message_of_any_bytes_is_anything_else_than_refused(data: Any) -> None:
    path = data.draw(st.binary(max_size=200))
    try:
        kind, _, _ = arrow.message(path)
    except ValueError as error:
        assert str(error) == "a message in it is damaged"  # noqa: PT017
    else:
        assert 0 <= kind < 256


def test_pieces_of_other_columns_and_kinds_are_refused_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", ONE)
    parquet(tmp_path / "b.parquet", pa.table({"emb": fixed(VALUES.astype("f8"))}))
    with pytest.raises(
        SourceError, match=r"b.parquet has other columns than .*a.parquet: emb is .*double.* and .*float"
    ):
        as_source(tmp_path)
    np.save(tmp_path / "b.npy", VALUES)
    with pytest.raises(SourceError, match=r"has files of several kinds, such as .*a.parquet and .*b.npy: pass"):
        as_source(tmp_path)
    pq.write_table(pa.Table.from_arrays([ONE["emb"]] * 2, names=["a", "a"]), tmp_path / "twice")
    with pytest.raises(SourceError, match="twice has several columns called 'a'"):
        as_source(tmp_path / "twice")


def test_a_file_that_is_replaced_is_an_error(tmp_path: Path) -> None:
    source = as_source(parquet(tmp_path / "x", ONE))
    parquet(tmp_path / "x", pa.table({"emb": fixed(VALUES + 1)}))
    with pytest.raises(Exception, match="x was replaced or written to since this run began"):
        source.read(whole(VALUES.shape))


def test_the_chunks_of_a_plan_are_those_of_the_file(tmp_path: Path) -> None:
    values = field((4000, 64))
    found = plan(parquet(tmp_path / "x", pa.table({"emb": fixed(values)}), rows=1000), MemoryStore())
    assert as_source(tmp_path / "x").chunks == (1000, 64)
    assert found.read == 2 * found.read_once


def test_a_stream_is_read_with_all_of_its_columns_and_its_plan_says_so(tmp_path: Path) -> None:
    table = pa.table({"emb": fixed(VALUES), **{f"other{n}": fixed(VALUES) for n in range(9)}})
    for stream, others in ((True, 10 * VALUES.nbytes), (False, 0)):
        source = as_source(ipc(tmp_path / "x", table, rows=ROWS, stream=stream), "emb")
        alone = as_source(parquet(tmp_path / "y", table, rows=ROWS), "emb")
        assert source.memory(VALUES.shape) - alone.memory(VALUES.shape) >= others
        assert (source.memory(VALUES.shape) == alone.memory(VALUES.shape)) == (not stream)
