"""What is measured in which order, and what two CPUs share. What needs a guest stands in tests/live."""

import itertools
from collections import Counter

import pandas as pd
import pytest

from kvmlab import Host
from kvmlab.measure.pingpong import _order, _relation
from tests.host.test_recorded_hosts import HOSTS, lscpu
from tests.plots.made import cpu_row, machine

SHARED = {"core": "SMT siblings", "l2": "same cluster", "l3": "same L3", "node": "same node"}


def places(cpus: pd.DataFrame) -> dict[int, dict]:
    cpus = cpus.astype(object)
    return {row["cpu"]: row for row in cpus.where(cpus.notna(), None).to_dict("records")}


def as_lscpu_has_it(a: dict, b: dict) -> str:
    return next((name for level, name in SHARED.items() if a.get(level) and a[level] == b[level]), "across nodes")


@pytest.mark.parametrize("path", [path for path in HOSTS if path.name.startswith("x86")], ids=lambda path: path.name)
def test_what_two_cpus_share_is_what_lscpu_saw_inside_of_the_recorded_host(path):
    known, rows = places(Host.open(path).cpus()), lscpu(path)[0]
    pairs = list(itertools.combinations(rows, 2))
    for a, b in pairs:
        assert _relation(known[int(a["cpu"])], known[int(b["cpu"])]) == as_lscpu_has_it(a, b), (a, b)
    assert pairs or len(rows) == 1


def test_the_recorded_hosts_have_every_relation():
    found = Counter()
    for path in HOSTS:
        known = [place for place in places(Host.open(path).cpus()).values() if place["online"]]
        found.update(_relation(a, b) for a, b in itertools.combinations_with_replacement(known, 2))
    assert set(found) - {None} == {"same CPU", "SMT siblings", "same cluster", "same L3", "same node", "across nodes"}


def test_equal_numbers_in_different_sockets_or_dies_are_not_the_same():
    known = places(machine(sockets=2, dies=2, caches=1, cores=2, threads=1)[0])
    assert known[0]["core"] == known[2]["core"] and _relation(known[0], known[2]) == "same node"
    assert known[0]["core"] == known[4]["core"] and _relation(known[0], known[4]) == "across nodes"
    clusters = pd.DataFrame([cpu_row(n, socket=n, node=n, core=n, cluster=0) for n in range(2)], columns=machine(1, 1, 1, 1, 1)[0].columns)
    assert _relation(*places(clusters).values()) == "across nodes"


def test_cores_that_share_their_l2_are_a_cluster_where_the_kernel_names_none():
    alike = pd.DataFrame([cpu_row(n, socket=0, core=n, l2=0, l3=0) for n in range(2)], columns=machine(1, 1, 1, 1, 1)[0].columns)
    assert _relation(*places(alike).values()) == "same cluster"


def test_where_nothing_tells_what_they_share_nothing_is_said():
    unknown = pd.DataFrame([cpu_row(n) for n in range(2)], columns=machine(1, 1, 1, 1, 1)[0].columns)
    a, b = places(unknown).values()
    assert _relation(a, b) is None and _relation(a, a) == "same CPU"


def test_each_repeat_goes_through_all_pairs_in_an_order_of_its_own():
    order = _order((0, 1, 5), 4, seed=1)
    rounds = [[run[:2] for run in order if run[2] == repeat] for repeat in range(4)]
    pairs = [(0, 0), (0, 1), (0, 5), (1, 1), (1, 5), (5, 5)]
    assert [sorted(pairs_then) for pairs_then in rounds] == [pairs] * 4 and len({tuple(pairs_then) for pairs_then in rounds}) > 1
    assert [run[2] for run in order] == sorted(run[2] for run in order)
    assert order == _order((0, 1, 5), 4, seed=1) != _order((0, 1, 5), 4, seed=2)
