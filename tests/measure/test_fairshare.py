"""Fair shares: against the definition, tried on every set of CPUs, and against a scheduler in small steps."""

from fractions import Fraction as F
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import KvmlabError
from kvmlab.measure.fairshare import Task, shares

CPUS = range(4)
SUBSETS = [frozenset(some) for some in chain.from_iterable(combinations(CPUS, n) for n in range(1, 5))]
PARTS = st.fractions(0, 1, max_denominator=20)
NO_GROUPS, GROUPS, SOME_GROUPS = st.none(), st.sampled_from("abc"), st.sampled_from(["a", "b", "c", None])


def on(name, cpus, **more) -> Task:
    return Task(name, frozenset(cpus), **more)


def runs(tasks, grouped=False) -> list[F]:
    return [share.run for share in shares(tasks, grouped)]


@st.composite
def some_tasks(draw, groups=NO_GROUPS, most=6):
    weights = {group: draw(st.integers(1, 4096)) for group in "abc"}
    tasks = []
    for n in range(draw(st.integers(1, most))):
        group = draw(groups)
        weight = weights[group] if group else draw(st.integers(1, 4096))
        quota = draw(st.none() | st.fractions(F(1, 20), 2, max_denominator=20))
        tasks.append(on(f"t{n}", draw(st.sampled_from(SUBSETS)), weight=weight, demand=draw(st.just(1) | PARTS), quota=quota, group=group))
    return tasks


def cap(task: Task) -> F:
    return min(F(task.demand), F(1) if task.quota is None else F(task.quota), F(1))


def room_for(tasks, rates) -> bool:
    """Hall's condition: those that must share some CPUs need no more than these, for every set of CPUs."""
    return all(sum(rate for task, rate in zip(tasks, rates, strict=True) if task.cpus <= cpus) <= len(cpus) for cpus in SUBSETS)


# ---- every thread for itself


@given(some_tasks())
def test_nobody_can_get_more_without_somebody_taking_less_who_has_no_more_for_its_weight(tasks):
    """The definition. There is only one such allocation, so that nothing else needs to be compared."""
    rates = runs(tasks)
    assert room_for(tasks, rates) and all(0 <= rate <= cap(task) for task, rate in zip(tasks, rates, strict=True))
    for i, task in enumerate(tasks):
        if rates[i] < cap(task):
            poorer = [rate if rate / other.weight <= rates[i] / task.weight else F(0) for other, rate in zip(tasks, rates, strict=True)]
            assert not room_for(tasks, [*poorer[:i], rates[i] + F(1, 10**9), *poorer[i + 1 :]])


@given(some_tasks())
def test_who_does_not_get_all_leaves_no_cpu_idle_that_it_may_use(tasks):
    rates = runs(tasks)
    for task, rate in zip(tasks, rates, strict=True):
        if rate < cap(task):
            full = [
                cpus
                for cpus in SUBSETS
                if task.cpus <= cpus and sum(r for t, r in zip(tasks, rates, strict=True) if t.cpus <= cpus) == len(cpus)
            ]
            assert full


@given(some_tasks(groups=SOME_GROUPS), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_tasks_does_not_matter(tasks, grouped, random):
    order = random.sample(range(len(tasks)), len(tasks))
    whole = shares(tasks, grouped)
    assert shares([tasks[i] for i in order], grouped) == [whole[i] for i in order]


@given(some_tasks(groups=SOME_GROUPS), st.booleans(), st.integers(2, 9))
def test_only_the_proportion_of_weights_counts(tasks, grouped, times):
    heavier = [on(t.name, t.cpus, weight=t.weight * times, demand=t.demand, quota=t.quota, group=t.group) for t in tasks]
    assert shares(heavier, grouped) == shares(tasks, grouped)


@given(some_tasks(most=1), st.sampled_from(CPUS), st.booleans())
def test_pinning_a_lone_task_changes_nothing(tasks, cpu, grouped):
    [task] = tasks
    pinned = on("t", {cpu}, weight=task.weight, demand=task.demand, quota=task.quota)
    assert shares([pinned], grouped) == shares(tasks, grouped)
    assert runs(tasks) == [cap(task)]


@given(some_tasks())
def test_tasks_without_groups_or_alone_in_theirs_are_shared_out_the_same_either_way(tasks):
    alone = [on(t.name, t.cpus, weight=t.weight, demand=t.demand, quota=t.quota, group=t.name) for t in tasks]
    assert shares(tasks, True) == shares(tasks, False) == shares(alone, True)


# ---- guests share their weight


@given(some_tasks(groups=GROUPS))
def test_groups_or_not_caps_and_cpus_hold_and_nothing_is_wasted(tasks):
    rates = runs(tasks, grouped=True)
    assert room_for(tasks, rates) and all(0 <= rate <= cap(task) for task, rate in zip(tasks, rates, strict=True))
    for i, task in enumerate(tasks):
        if rates[i] < cap(task):
            assert not room_for(tasks, [*rates[:i], rates[i] + F(1, 10**9), *rates[i + 1 :]])


@given(some_tasks(groups=GROUPS))
def test_busy_vcpus_of_a_guest_count_as_threads_of_an_equal_part_of_its_weight(tasks):
    busy = [on(t.name, t.cpus, weight=t.weight, group=t.group) for t in tasks]
    sizes = {group: sum(task.group == group for task in busy) for group in "abc"}
    apart = [on(t.name, t.cpus, weight=F(t.weight, sizes[t.group])) for t in busy]
    assert runs(busy, grouped=True) == runs(apart)


def poured(tasks, steps=4000) -> list[float]:
    """One CPU, given out in thimblefuls: each to the group that has least for its weight, and in it to the task that has least."""
    got, groups = [0.0] * len(tasks), [task.group or task.name for task in tasks]
    for _ in range(steps):
        wanting = [i for i, task in enumerate(tasks) if got[i] + 0.5 / steps < cap(task)]
        if not wanting:
            break
        of_group = {group: sum(got[i] for i in range(len(tasks)) if groups[i] == group) for group in groups}
        poorest = min(wanting, key=lambda i: (of_group[groups[i]] / tasks[i].weight, got[i]))
        got[poorest] += 1 / steps
    return got


@settings(max_examples=40)
@given(some_tasks(groups=SOME_GROUPS), st.booleans())
def test_on_one_cpu_it_is_what_the_poorest_first_comes_to(tasks, grouped):
    here = [on(t.name, {0}, weight=t.weight, demand=t.demand, quota=t.quota, group=t.group if grouped else None) for t in tasks]
    assert [float(rate) for rate in runs(here, grouped)] == pytest.approx(poured(here), abs=0.003)


def test_a_guest_with_vcpus_on_two_cpus_counts_half_on_each():
    """As measured on real guests: 1 to 2 on the CPU that both use, where threads for themselves would have 1 to 1."""
    tasks = [on("a0", {0}, group="a"), on("a1", {1}, group="a"), on("b0", {1}, group="b")]
    assert runs(tasks, grouped=True) == [1, F(1, 3), F(2, 3)]
    assert runs(tasks, grouped=False) == [1, F(1, 2), F(1, 2)]
    tasks[0] = on("a0", {0}, group="a", demand=0)
    assert runs(tasks, grouped=True) == [0, F(1, 2), F(1, 2)]


def test_a_vcpu_that_is_busy_now_and_then_counts_for_as_long_as_it_is_ready():
    tasks = [on("a0", {0}, group="a", demand=0.5), on("a1", {1}, group="a"), on("b0", {1}, group="b")]
    assert runs(tasks, grouped=True) == [F(1, 2), F(2, 5), F(3, 5)]  # 1 / (1 + 1/2) of the weight
    ready = shares([*tasks, on("c0", {0}, group="c", demand=0.25)], grouped=True)
    a0, a1, *_ = ready
    load = a0.run + a0.waited
    assert a0.run == F(1, 2) < load < 1 and a1.run == pytest.approx(float(1 / (2 + load)), abs=0.001)


# ---- who waits how long


@given(some_tasks(groups=SOME_GROUPS), st.booleans())
def test_who_does_not_get_what_it_asks_for_waits_all_the_time_that_it_does_not_run(tasks, grouped):
    for task, share in zip(tasks, shares(tasks, grouped), strict=True):
        assert 0 <= share.waited <= 1 - share.run
        if share.run < task.demand:
            assert share.run + share.waited == 1
        if task.demand == 0:
            assert share == (0, 0)


def test_who_has_a_cpu_for_itself_does_not_wait():
    assert shares([on("a", {0}), on("b", {1}, demand=0.3), on("c", {2}, demand=0.3, quota=0.5)], False) == [
        (1, 0),
        (F(3, 10), 0),
        (F(3, 10), 0),
    ]


def test_who_works_a_quarter_of_the_time_waits_as_long_beside_one_that_always_works():
    assert shares([on("a", {0}, demand=0.25), on("b", {0})], False) == [(F(1, 4), F(1, 4)), (F(3, 4), F(1, 4))]


def test_weights_and_quotas_are_exact():
    powers = [on(f"g{n}", {1}, weight=2**n, group=f"g{n}") for n in range(4)]
    assert runs(powers, grouped=True) == [F(2**n, 15) for n in range(4)]
    assert shares([on("a", {1}, quota=0.1, group="a"), on("b", {1}, group="b")], True) == [(F(1, 10), F(9, 10)), (F(9, 10), F(1, 10))]


def test_many_vcpus_on_a_big_host():
    tasks = [
        on(f"{guest}/{vcpu}", range(8 * (guest % 8), 8 * (guest % 8) + 16), group=str(guest)) for guest in range(16) for vcpu in range(8)
    ]
    rates = runs(tasks, grouped=True)
    assert sum(rates) == 72 and len(set(rates)) == 1  # 128 of the same kind in 72 CPUs, and enough room everywhere


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cpus": frozenset()}, "t: an empty CPU set"),
        ({"weight": 0}, "t: weight 0; write a number above 0"),
        ({"weight": float("inf")}, "t: weight inf"),
        ({"demand": 1.5}, "t: demand 1.5; a thread can want from 0 to 1 of a CPU"),
        ({"demand": float("nan")}, "t: demand nan"),
        ({"quota": 0}, "t: quota 0; write how much of a CPU it may use"),
        ({"quota": -1}, "t: quota -1"),
    ],
)
def test_what_cannot_be_is_named(wrong, words):
    with pytest.raises(KvmlabError, match=words):
        Task(**{"name": "t", "cpus": frozenset({0}), **wrong})


def test_a_group_has_one_weight():
    tasks = [on("a0", {0}, weight=512, group="a"), on("a1", {0}, weight=1024, group="a")]
    with pytest.raises(KvmlabError, match="Group 'a': weights 512 and 1024"):
        shares(tasks, grouped=True)
    assert runs(tasks, grouped=False) == [F(1, 3), F(2, 3)]


def test_nobody_gets_nothing():
    assert shares([], grouped=True) == []
