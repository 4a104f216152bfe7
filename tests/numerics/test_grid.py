"""Boxes over arrays, and where codes lie in bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.grid import Grid, covers, packed_region, packed_shape, shape_of, shifted, within


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    return Grid(shape, tuple(draw(st.integers(1, n + 2)) for n in shape))


@given(grids())
def test_boxes_cover_every_index_once(grid: Grid) -> None:
    seen = np.zeros(grid.shape, int)
    for number in range(grid.count):
        assert grid.number(grid.position(number)) == number
        seen[grid.region(number)] += 1
    assert (seen == 1).all()


@given(grids(), st.data())
def test_what_a_region_touches_covers_it_once(grid: Grid, data: st.DataObject) -> None:
    ends = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in grid.shape]
    region = tuple(slice(*pair) for pair in ends)
    seen = np.zeros(grid.shape, int)
    for number, shared in grid.touched(region):
        assert min(shape_of(shared)) > 0
        outer = grid.region(number)
        assert shifted(within(shared, outer), outer) == shared
        assert all(a.start >= b.start and a.stop <= b.stop for a, b in zip(shared, outer, strict=True))
        seen[shared] += 1
    assert (seen[region] == 1).all()
    assert seen.sum() == seen[region].size


@given(grids())
def test_no_byte_belongs_to_two_boxes(grid: Grid) -> None:
    bytes_seen = np.zeros(packed_shape(grid.shape), int)
    for number in range(grid.count):
        bytes_seen[packed_region(grid.region(number))] += 1
    assert bytes_seen.min() >= 1
    assert (bytes_seen.max() == 1) == covers(grid.shape, grid.box)


@pytest.mark.parametrize(
    ("shape", "box", "whole"),
    [((5, 4), (2, 2), True), ((5, 4), (2, 3), False), ((5, 3), (1, 3), True), ((5, 3), (1, 5), True)],
)
def test_a_box_ends_on_a_byte(shape: tuple[int, ...], box: tuple[int, ...], whole: bool) -> None:
    assert covers(shape, box) is whole
