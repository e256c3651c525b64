"""What is measured in which order, what the histogram of turns says, how fair a division is. What needs a guest: tests/live."""

from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError, measure
from kvmlab.guest.microguest.page import BUCKETS, bucket
from kvmlab.measure.crew import Wanted
from kvmlab.measure.lock import _legal
from kvmlab.measure.lock import _order as order_of_locks
from kvmlab.measure.overcommit import _demand, _order
from kvmlab.measure.run import _between, _quantile, _Reading

PARTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda parts: max(parts) > 1e-3)


@given(PARTS)
def test_fairness_is_from_one_over_n_to_one_whatever_the_order_and_unit(parts):
    index = measure.jain(parts)
    assert 1 / len(parts) - 1e-9 <= index <= 1 + 1e-9
    assert index == pytest.approx(measure.jain([7 * part for part in reversed(parts)]))


@given(st.integers(1, 30), st.integers(1, 30))
def test_of_n_who_get_the_same_and_others_who_get_nothing_the_index_is_their_part(served, unserved):
    assert measure.jain([0.3] * served + [0] * unserved) == pytest.approx(served / (served + unserved))


def test_fairness_of_a_column_of_a_frame_is_a_number():
    assert measure.jain(pd.Series([0.5, 0.5], dtype="Float64")) == 1.0


@pytest.mark.parametrize("nothing", [[], [0, 0], [1, None], [pd.NA, 1], [float("nan")], [2, -1], [float("inf"), 1], ["a"], 5, None])
def test_where_nothing_was_divided_there_is_no_fairness(nothing):
    with pytest.raises(KvmlabError, match="what each one got"):
        measure.jain(nothing)


def test_parts_that_are_nearly_nothing_are_divided_too():
    assert measure.jain([1e-200, 1e-200]) == 1.0


def test_each_repeat_goes_through_all_numbers_in_an_order_of_its_own():
    order = _order([1, 2, 4, 8], 5, seed=3)
    rounds = [[count for count, _ in order[n : n + 4]] for n in range(0, 20, 4)]
    assert [sorted(those) for those in rounds] == [[1, 2, 4, 8]] * 5 and len({tuple(those) for those in rounds}) > 1
    assert all(kept for _, kept in order) and order == _order([1, 2, 4, 8], 5, seed=3) != _order([1, 2, 4, 8], 5, seed=4)


def test_one_guest_alone_comes_first_and_is_not_kept_where_nobody_asked_for_it():
    assert _order([3], 2, seed=0) == [(1, False), (3, True), (3, True)]


def test_locks_too_are_measured_in_an_order_that_differs_between_repeats():
    cases = [(vcpus, cpus) for vcpus in (1, 2, 4) for cpus in ((0,), (0, 1))]
    order = order_of_locks(cases, 4, seed=0)
    rounds = [[run[:2] for run in order if run[2] == repeat] for repeat in range(4)]
    assert [sorted(those) for those in rounds] == [sorted(cases)] * 4 and len({tuple(those) for those in rounds}) > 1


def test_the_model_knows_what_each_work_wants():
    assert [_demand(work, None) for work in ("spin", "cpuid", "lock", "idle", "stop")] == [1, 1, 1, 0, 0]
    assert (_demand("duty", None), _demand("duty", 7)) == (Fraction(1, 2), Fraction(7, 100))


# ---- the histogram


TIMES = st.lists(st.integers(0, 1 << 30), min_size=1, max_size=200)


def histogram(times: list[int]) -> list[int]:
    bounds = [bucket(number) for number in range(BUCKETS)]
    return [sum(begin <= time and (end is None or time < end) for time in times) for begin, end in bounds]


@given(TIMES, st.sampled_from([0.5, 0.9, 0.99, 1]))
def test_that_part_of_all_times_is_below_what_is_told_and_no_lower_bound_of_a_bucket_would_do(times, part):
    told = _quantile(histogram(times), part)
    wanted = part * len(times)
    assert sum(time < told for time in times) >= wanted
    begin = next(begin for begin, end in map(bucket, range(BUCKETS)) if end == told)
    assert sum(time < begin for time in times) < wanted


def test_times_that_are_longer_than_any_bucket_have_no_upper_bound():
    counts = [0] * BUCKETS
    counts[-1] = 3
    assert _quantile(counts, 0.5) is None


def reading(when: float, tail: dict[int, int], switches: int | None = 0, missed: int = 0, longest: int = 0) -> _Reading:
    return _Reading(when, switches, missed, longest, tuple(tail.get(number, 0) for number in range(BUCKETS)))


def test_what_happened_between_two_readings_is_a_rate_and_counters_may_have_gone_round(monkeypatch):
    monkeypatch.setattr("kvmlab.host.tsc.hz", lambda: 1e9)
    before = reading(10, {0: (1 << 32) - 50, 40: 7}, switches=5, missed=10**9)
    after = reading(12, {0: 48, 40: 9}, switches=25, missed=2 * 10**9, longest=9 * 10**6)
    felt, switches, median, high, longest = _between(before, after)
    assert (felt, switches, longest) == (0.5, 10, 0.009)
    assert (median, high) == (bucket(0)[1] / 1e9, bucket(40)[1] / 1e9)  # 98 of 100 are in the first bucket


def test_no_quantile_is_above_the_longest_time_that_was_seen(monkeypatch):
    monkeypatch.setattr("kvmlab.host.tsc.hz", lambda: 1e9)
    seen = bucket(40)[0] + 1
    assert _between(reading(0, {}), reading(1, {40: 1}, longest=seen))[2:] == (seen / 1e9,) * 3


def test_a_work_that_does_not_look_at_its_clock_has_no_times(monkeypatch):
    monkeypatch.setattr("kvmlab.host.tsc.hz", lambda: 1e9)
    assert _between(reading(0, {3: 5}), reading(2, {3: 5}, switches=None)) == (None,) * 5


# ---- what cannot be


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"guests": 0}, "guests=0: write how many guests"),
        ({"guests": []}, r"guests=\[\]"),
        ({"guests": (2, "3")}, "range"),
        ({"guests": True}, "guests=True"),
        ({"guests": 2.5}, "guests=2.5"),
        ({"guests": None}, "guests=None"),
        ({"cpus": ""}, "No CPUs to measure: name one or more of the online CPUs 0"),
        ({"cpus": "9999"}, "CPU 9999 is not among the online CPUs 0"),
        ({"cpus": "1-"}, "neither a CPU nor a range"),
        ({"seconds": 0}, "write 0.1 to 60 seconds"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"repeats": 0}, "1 to 10000 repeats"),
        ({"weights": (1024,) * 3}, "weights=.*: 3 of them, and 2 guests"),
        ({"quota": (0.1, None, 0.1)}, "quota=.*: 3 of them, and 2 guests"),
        ({"quota": 0}, "quota=0: write what a vCPU may use at most"),
        ({"quota": ("10 %",)}, "such as 0.1 for 10 %"),
        ({"quota": float("nan")}, "quota=nan"),
        ({"quota": 0.001}, "0.01 is the least that the kernel takes"),
        ({"weights": 1024}, "weights=1024: write a list"),
        ({"weights": {"overcommit-1": 512}}, "weights=.*: write a list"),
        ({"seconds": "a"}, "seconds='a'"),
        ({"repeats": 1.5}, "repeats=1.5"),
        ({"repeats": 10**9}, "1 to 10000 repeats"),
        ({"cpus": 0.5}, "cpus=0.5: name some of the online CPUs"),
    ],
)
def test_what_cannot_be_measured_is_refused_without_asking_libvirt(wrong, words):
    with pytest.raises(KvmlabError, match=words):
        measure.overcommit(None, **{"guests": 2, "cpus": "0"} | wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"vcpus": ()}, r"vcpus=\(\), .*one of each"),
        ({"vcpus": (0, 1)}, "numbers from 1 to 64"),
        ({"vcpus": (65,)}, "numbers from 1 to 64"),
        ({"cpus": ()}, "one of each"),
        ({"cpus": ("0", "9999")}, "CPU 9999 is not among the online CPUs 0"),
        ({"cpus": ("",)}, "No CPUs to measure"),
        ({"seconds": 61}, "0.1 to 60"),
        ({"vcpus": "a"}, "numbers from 1 to 64"),
    ],
)
def test_locks_that_cannot_be_measured_are_refused_without_asking_libvirt(wrong, words):
    with pytest.raises(KvmlabError, match=words):
        measure.lock_collapse(None, **{"cpus": ("0",)} | wrong)


def test_a_lock_is_measured_once_however_often_a_case_is_named():
    assert _legal((2, 2), ["0", "0"], 1, 1) == _legal(2, "0", 1, 1) == [(2, (0,))]


def test_shares_and_quotas_may_be_given_to_the_first_guests_only():
    assert Wanted(3, 1, (0,), "spin", None, (512,), (None, 0.1)).quotas == (None, 0.1)
