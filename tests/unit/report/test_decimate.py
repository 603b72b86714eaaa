from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bascule.report.decimate import by_column, column_of, lost_runs, thin_line

times = st.floats(0, 10)
points = st.lists(st.tuples(times, st.floats(-1e6, 1e6)), min_size=1, max_size=400)
columns = st.integers(1, 60)


@given(points, columns)
def test_no_extreme_is_hidden_and_no_point_forgotten(samples, width):
    found = by_column(samples, 0, 10, width)
    assert len(found) <= width
    assert sum(column.count for column in found) == len(samples)
    assert min(column.lowest for column in found) == min(value for _, value in samples)
    assert max(column.highest for column in found) == max(value for _, value in samples)


@given(points, columns)
def test_each_point_lies_within_the_range_drawn_in_its_column(samples, width):
    found = {column.index: column for column in by_column(samples, 0, 10, width)}
    for at, value in samples:
        column = found[column_of(at, 0, 10, width)]
        assert column.lowest <= value <= column.highest
        assert column.lowest <= column.median <= column.highest


@given(st.lists(times, max_size=400), columns)
def test_no_loss_is_dropped_and_none_is_invented(lost, width):
    runs = lost_runs(lost, 0, 10, width)
    assert sum(run.count for run in runs) == len(lost)
    marked = [index for run in runs for index in range(run.first, run.last + 1)]
    assert sorted(set(marked)) == marked
    assert set(marked) == {column_of(at, 0, 10, width) for at in lost}
    assert all(later.first > earlier.last + 1 for earlier, later in pairwise(runs))


@given(points, columns)
def test_a_thinned_line_keeps_ends_and_extremes_in_order(samples, width):
    line = sorted(samples)
    kept = thin_line(line, 0, 10, width)
    assert len(kept) <= 4 * width
    assert kept[0] == line[0]
    assert kept[-1] == line[-1]
    assert [at for at, _ in kept] == sorted(at for at, _ in kept)
    assert set(kept) <= set(line)
    assert min(value for _, value in kept) == min(value for _, value in line)
    assert max(value for _, value in kept) == max(value for _, value in line)


def test_times_outside_and_spans_of_nothing_stick_to_the_edge():
    assert column_of(-5, 0, 10, 20) == 0
    assert column_of(10, 0, 10, 20) == 19
    assert column_of(3, 3, 3, 20) == 0
    assert thin_line([], 0, 1, 10) == []
    assert by_column([], 0, 1, 10) == []
