"""Which values share a scale: each class held to its definition, a group number for each value, on drawn shapes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.numerics.blocks import blocks
from quantize.numerics.granularity import (
    PER_TENSOR,
    Granularity,
    Lines,
    PerAxis,
    PerBlock,
    PerTensor,
    granularity_of,
)
from quantize.numerics.grid import Batches, Grid, Region, Shape, shape_of
from quantize.numerics.scales import Scales

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def granular(draw: st.DrawFn) -> tuple[Granularity, Shape]:
    shape = draw(SHAPES)
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = tuple(draw(st.sampled_from([-1, 1, 2, 3, 4])) for _ in shape)
    return draw(st.sampled_from([PER_TENSOR, PerAxis(axis), PerBlock(lengths)])), shape


def group_of_each(granularity: Granularity, shape: Shape) -> np.ndarray:
    """The definition: all values of a box of the grid have its number."""
    groups = granularity.groups(shape)
    numbers = np.empty(shape, int)
    for number in range(groups.count):
        numbers[groups.region(number)] = number
    return numbers


def regions(draw: st.DrawFn, granularity: Granularity, shape: Shape) -> Region:
    """A region cut where the granularity may be cut."""
    found = []
    for n, cut in zip(shape, granularity.cuts(shape), strict=True):
        start = draw(st.integers(0, (n - 1) // cut)) * cut
        found.append(slice(start, min(start + draw(st.integers(1, 5)) * cut, n)))
    return tuple(found)


def entries(granularity: Granularity, shape: Shape) -> np.ndarray:
    """An array of scales in which each is the number of its group."""
    groups = granularity.groups(shape)
    return np.arange(groups.count).reshape(groups.counts)


def boxes_of(lines: Lines) -> np.ndarray:
    """The number of the box of each value."""
    assert (lines.repeat, lines.columns) == (1, False)
    return group_of_each(PerBlock(lines.box), lines.shape)


@given(granular())
def test_lines_tell_the_group_of_each_value(case: tuple[Granularity, Shape]) -> None:
    granularity, shape = case
    numbers = group_of_each(granularity, shape)
    block, lines = granularity.in_lines(numbers), granularity.lines(shape)
    assert lines.groups == granularity.count(shape) == numbers.max() + 1
    assert np.shares_memory(block, numbers)
    for row, column in itertools.product(*map(range, block.shape)):
        if lines.box:
            index = boxes_of(lines).reshape(block.shape)[row, column]
        else:
            index = column if lines.columns else row // lines.repeat % lines.groups
        assert index == block[row, column]
    np.testing.assert_array_equal(np.broadcast_to(granularity.index_of(shape), shape), numbers)


@given(granular(), st.data())
def test_scales_of_a_region_are_those_of_its_values(case: tuple[Granularity, Shape], data: st.DataObject) -> None:
    granularity, shape = case
    numbers = group_of_each(granularity, shape)
    region = regions(data.draw, granularity, shape)
    scales = Scales(entries(granularity, shape), entries(granularity, shape), granularity, shape).part(region)
    own = group_of_each(granularity, shape_of(region))
    np.testing.assert_array_equal(scales.scale.reshape(-1)[own], numbers[region])
    aligned = granularity.aligned(region, shape)
    assert {*numbers[aligned].flat} == {*numbers[region].flat}
    assert all(a.start <= b.start and b.stop <= a.stop for a, b in zip(aligned, region, strict=True))


@given(granular(), st.data())
def test_scales_of_some_indices_are_those_of_their_values(case: tuple[Granularity, Shape], data: st.DataObject) -> None:
    granularity, shape = case
    axes = [range(data.draw(st.integers(0, n - 1)), n, data.draw(st.integers(1, 3))) for n in shape]
    scales = Scales(entries(granularity, shape), entries(granularity, shape), granularity, shape).taken(axes)
    taken = group_of_each(granularity, shape)[np.ix_(*axes)]
    assert scales.shape == taken.shape
    own = group_of_each(scales.granularity, scales.shape)
    np.testing.assert_array_equal(scales.scale.reshape(-1)[own], taken)


@given(granular(), st.integers(1, 40))
def test_regions_hold_whole_groups_whose_numbers_run_on(case: tuple[Granularity, Shape], most: int) -> None:
    granularity, shape = case
    numbers = group_of_each(granularity, shape)
    parts = granularity.regions(shape, most)
    seen = []
    for number in range(parts.count):
        region = parts.region(number)
        span = granularity.span(region, shape)
        assert [*range(span.start, span.stop)] == sorted({*numbers[region].flat})
        assert span.stop - span.start <= most
        seen += range(span.start, span.stop)
    assert seen == [*range(granularity.count(shape))]


def test_a_span_of_groups_whose_numbers_do_not_run_on_is_refused() -> None:
    with pytest.raises(ValueError, match="not numbered one after another"):
        PerBlock((1, 2)).span((slice(0, 2), slice(0, 2)), (2, 4))


@given(granular(), st.integers(1, 60))
def test_blocks_are_cut_where_groups_may_be(case: tuple[Granularity, Shape], most: int) -> None:
    granularity, shape = case
    cuts = granularity.cuts(shape)
    seen = np.zeros(shape, int)
    for region in blocks(shape, most, cuts):
        seen[region] += 1
        assert all(part.start % cut == 0 for part, cut in zip(region, cuts, strict=True))
        own = group_of_each(granularity, shape_of(region))
        assert own.max() + 1 == len({*group_of_each(granularity, shape)[region].flat})
    assert (seen == 1).all()
    assert cuts[-1] % 2 == 0, "no byte belongs to two blocks"


@given(granular(), st.data())
def test_units_fix_scales_or_hold_all_values_of_their_groups(
    case: tuple[Granularity, Shape], data: st.DataObject
) -> None:
    granularity, shape = case
    cuts = granularity.cuts(shape)
    unit = tuple(min(data.draw(st.integers(1, 4)) * cut, n) for n, cut in zip(shape, cuts, strict=True))
    units, numbers = Grid(shape, unit), group_of_each(granularity, shape)
    held = [{*numbers[units.region(number)].flat} for number in range(units.count)]
    alone = sum(map(len, held)) == granularity.count(shape)
    assert granularity.complete(units) == (alone and not isinstance(granularity, PerTensor))
    batches = Batches(units, granularity.fixed(units), data.draw(st.integers(1, 5)))
    seen = []
    for batch in range(batches.count):
        own = batches.numbers(batch)
        assert own == sorted(own)
        assert len({frozenset(held[number]) for number in own}) <= 1, "units of a batch have the same scales"
        assert batch in batches.of_block(batches.block(batch))
        seen += own
    assert sorted(seen) == [*range(units.count)]
    different = {frozenset(groups) for groups in held}
    assert batches.blocks == len(different)


@given(granular(), st.integers(1, 9))
def test_a_sample_has_values_of_each_group(case: tuple[Granularity, Shape], most: int) -> None:
    granularity, shape = case
    sample = granularity.sample(group_of_each(granularity, shape), most)
    count = granularity.count(shape)
    assert sample.shape == (count, min(most, math.prod(granularity.box(shape))))
    assert (sample == np.arange(count)[:, None]).all()


@given(granular())
def test_rows_have_all_values_of_each_group(case: tuple[Granularity, Shape]) -> None:
    granularity, shape = case
    numbers = group_of_each(granularity, shape)
    values = np.arange(numbers.size).reshape(shape)
    rows = granularity.rows(values)
    for number, row in enumerate(rows):
        assert {*row} == {*values[numbers == number]}


@given(granular(), st.data())
def test_runs_say_which_group_each_value_of_a_region_is_of(
    case: tuple[Granularity, Shape], data: st.DataObject
) -> None:
    granularity, shape = case
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    region = tuple(slice(i, data.draw(st.integers(i + 1, n))) for i, n in zip(starts, shape, strict=True))
    own = group_of_each(granularity, shape)[region]
    index = granularity.runs(region, shape).groups().reshape(own.shape)
    np.testing.assert_array_equal(
        entries(granularity, shape)[granularity.scales_of(region, shape)].reshape(-1)[index], own
    )


def test_what_they_are_called() -> None:
    assert granularity_of(None, 2) is PER_TENSOR
    assert granularity_of(-1, 2) == PerAxis(1)
    assert (PER_TENSOR.label, PER_TENSOR.each, PER_TENSOR.option) == ("", "", "")
    assert (PerAxis(1).label, PerAxis(1).each, PerAxis(1).option) == ("axis 1", "index of axis 1", " --axis 1")
    tiles = PerBlock((8, -1))
    assert (tiles.label, tiles.each, tiles.option) == ("blocks of 8 x all", "block of 8 x all", " --blocks 8,-1")
    with pytest.raises(np.exceptions.AxisError):
        granularity_of(2, 2)
    with pytest.raises(TypeError):
        granularity_of("first", 2)
