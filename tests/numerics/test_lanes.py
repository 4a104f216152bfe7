"""Where the values of blocks lie, held to the definition of the blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.granularity import PerBlock
from quantize.numerics.grid import Shape
from quantize.numerics.lanes import TURNED, Lanes, lanes_of, rows_of

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def places(lanes: Lanes) -> np.ndarray:
    """The places of the values of each box, shape ``(boxes, values)``."""
    runs = np.add.outer(lanes.offsets, np.arange(lanes.run)).reshape(-1)
    return np.asarray(np.add.outer(lanes.starts, runs))


@given(SHAPES, st.data(), st.sampled_from([None, 2, 4, 16]))
def test_each_value_lies_in_its_block_once(shape: Shape, data: st.DataObject, most: int | None) -> None:
    granularity = PerBlock(tuple(data.draw(st.integers(1, n)) for n in shape))
    numbers = np.broadcast_to(granularity.index_of(shape), shape).reshape(-1)
    seen = np.zeros(numbers.size, int)
    for lanes in lanes_of(shape, granularity.box(shape), most):
        assert len(lanes.starts) == len(lanes.owners)
        assert len(lanes.starts) % TURNED == 0
        found = places(lanes)
        assert most is None or found.shape[1] <= most
        np.testing.assert_array_equal(numbers[found], np.repeat(lanes.owners[:, None], found.shape[1], axis=1))
        different = np.unique(lanes.starts, return_index=True)[1]  # the last one is there again
        assert (np.diff(found[different], axis=1) > 0).all()
        seen[found[different]] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("box", "runs"), [((4, 5, 6), [120]), ((2, 5, 6), [60]), ((2, 2, 6), [12]), ((2, 2, 3), [3]), ((1, 1, 1), [1])]
)
def test_values_that_lie_on_end_are_one_run(box: Shape, runs: list[int]) -> None:
    assert [lanes.run for lanes in lanes_of((4, 5, 6), box)][:1] == runs


@given(SHAPES, st.data())
def test_rows_are_cut_into_blocks(shape: Shape, data: st.DataObject) -> None:
    granularity = PerBlock(tuple(data.draw(st.integers(1, n)) for n in shape))
    rows = rows_of(shape, granularity.box(shape))
    numbers = np.broadcast_to(granularity.index_of(shape), shape).reshape(-1, rows.n)
    np.testing.assert_array_equal(numbers, np.add.outer(rows.owners, np.arange(rows.n) // rows.length))


@pytest.mark.parametrize(
    ("box", "row"), [((4, 5, 6), (120, 120)), ((2, 5, 6), (120, 60)), ((1, 2, 6), (30, 12)), ((1, 1, 3), (120, 3))]
)
def test_rows_are_as_long_as_they_can_be(box: Shape, row: tuple[int, int]) -> None:
    assert rows_of((4, 5, 6), box)[1:] == row
