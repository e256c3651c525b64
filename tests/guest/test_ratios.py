"""Overcommit ratios: which sets have a row, who is counted there, and what is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError, cpulist
from kvmlab.columns import frame
from kvmlab.guest import ratios
from kvmlab.guest.ratios import VCpu


def of(threads, online=range(8), nodes=()):
    found = frame(
        ratios.rows([VCpu(guest, frozenset(cpulist.parse(cpus)), demand) for guest, cpus, demand in threads], online, dict(nodes)), "ratios"
    )
    return found.set_index("set")


def test_without_guests_the_whole_host_is_left():
    assert of([]).to_dict("index") == {"host": dict(cpus="0-7", online=8, guests=0, vcpus=0, ratio=0.0, demand=0.0, slack=8.0)}


def test_each_set_that_vcpus_are_pinned_to_has_a_row_with_those_that_cannot_leave_it():
    table = of([("a", "0-7", 1.0), ("a", "2", 0.5), ("b", "2", 1.0), ("b", "2-3", 0.25), ("c", "5", 0.0)])
    assert table.index.tolist() == ["host", "2", "2-3", "5"]
    assert table["vcpus"].tolist() == [5, 2, 3, 1] and table["guests"].tolist() == [3, 2, 2, 2]
    assert table["ratio"].tolist() == [5 / 8, 2, 1.5, 1]
    assert table["demand"].tolist() == [2.75, 1.5, 1.75, 0] and table["slack"].tolist() == [5.25, -0.5, 0.25, 1]


def test_nodes_have_rows_where_there_are_several():
    threads = [("a", "0-3", 1.0), ("b", "0-7", 1.0), ("c", "5", 1.0)]
    assert of(threads, nodes={0: range(8)}).index.tolist() == ["host", "0-3", "5"]
    two = of(threads, nodes={1: range(4, 8), 0: range(4), 2: ()})
    assert two.index.tolist() == ["host", "node 0", "node 1", "5"], (
        "a node that somebody is pinned to has one row, one without CPUs has none"
    )
    assert two["vcpus"].tolist() == [3, 1, 1, 1] and two.loc["node 1", "guests"] == 2


def test_offline_cpus_are_no_part_of_a_set():
    table = of([("a", "0-3", 1.0), ("b", "1,3", 1.0)], online=(0, 1), nodes={0: (0, 2), 1: (1, 3)})
    assert table["cpus"].to_dict() == {"host": "0-1", "node 0": "0", "node 1": "1"}
    assert table["vcpus"].to_dict() == {"host": 2, "node 0": 0, "node 1": 1}


def test_what_is_not_told_is_na_only_where_it_counts():
    table = of([("a", "0", None), ("b", "1", 0.5)])
    assert table["demand"].isna().tolist() == [True, True, False] and table["slack"].isna().tolist() == [True, True, False]
    assert table["vcpus"].tolist() == [2, 1, 1]


SETS = st.sets(st.integers(0, 5), min_size=1).map(frozenset)


@given(st.lists(st.tuples(st.sampled_from("abc"), SETS, st.floats(0, 1)), max_size=8))
def test_counted_one_by_one_it_is_the_same(threads):
    threads = [VCpu(*thread) for thread in threads]
    table = frame(ratios.rows(threads, range(6), {}), "ratios").set_index("set")
    assert set(table["cpus"]) == {"0-5", *(cpulist.format(thread.cpus) for thread in threads)} and table.index.is_unique
    for row in table.itertuples():
        cpus = set(cpulist.parse(row.cpus))
        inside = [thread for thread in threads if not thread.cpus - cpus]
        assert (row.online, row.vcpus, row.ratio) == (len(cpus), len(inside), len(inside) / len(cpus))
        assert row.guests == len({thread.guest for thread in threads if not thread.cpus.isdisjoint(cpus)})
        assert row.demand == pytest.approx(sum(thread.demand for thread in inside)) and row.slack == pytest.approx(len(cpus) - row.demand)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 3601, float("inf")])
def test_a_time_that_cannot_be_watched_is_refused(seconds):
    with pytest.raises(KvmlabError, match=r"seconds=.*: write how long to watch, more than 0 and up to 3600"):
        ratios.watched([], seconds)
