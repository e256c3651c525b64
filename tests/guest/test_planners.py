"""The planners, on recorded hosts with invented guests: what any plan must keep, and what each strategy is for."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvmlab import KvmlabError, cpulist
from kvmlab.guest.lint import lint
from kvmlab.guest.planners import STRATEGIES, decide
from kvmlab.guest.scene import Placed
from kvmlab.guest.topology import Topology
from tests.guest.test_lint import ISOLATED, NAMES, OFFLINE, SERVER, recorded

BIG, DIES, PLAIN = "x86_64-4n4s16c2t", "x86_64-2s2d2c2t", "x86_64-1s4c1t-kvm"


def guest(name, shape, nodes=()):
    """Unpinned and busy; two threads of QEMU's beside its vCPUs."""
    places = Topology.parse(shape).places()
    together = [tuple(v for v, other in enumerate(places) if v != vcpu and other[:3] == place[:3]) for vcpu, place in enumerate(places)]
    more = [dict(siblings=mates, nodes=nodes, place=place) for mates, place in zip(together, places, strict=True)]
    vcpus = [Placed(name, vcpu, (), False, 0.9, "vcpu", "other", **what) for vcpu, what in enumerate(more)]
    return [*vcpus, Placed(name, "emulator", (), False, 0.0, "emulator"), Placed(name, "iothread 1", (), False, 0.0, "iothread")]


def scene(host, *threads):
    bare = recorded(host)
    online = tuple(sorted(bare.layout.online))
    return replace(bare, placed=tuple(thread if thread.pinned else replace(thread, cpus=online) for guest in threads for thread in guest))


def planned(what, strategy, **how):
    """CPU by (guest, vCPU), the lines, and the scene as it would be."""
    choices = decide(strategy, what, **how)
    pins = [SimpleNamespace(guest=choice.guest, who=choice.who, cpus=choice.cpus) for choice in choices]
    vcpus = {choice[:2]: choice.cpus[0] for choice in choices if isinstance(choice.who, int)}
    return vcpus, choices, what.with_pins(pins)


# ---- what any plan keeps

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)).map(lambda sizes: str(Topology(*sizes)))
GUESTS = st.lists(SHAPES, min_size=1, max_size=3)
MUST_NOT = {  # what no planner may leave, and what each is there to avoid, where there are enough CPUs and cores
    "all": {"cpu-offline-or-missing", "unpinned-with-isolcpus", "isolated-set-wide", "isolated-cpu-shared"},
    "enough": {"busy-vcpus-stacked", "set-over-committed", "emulator-on-vcpu-cpu", "siblings-to-different-guests"},
    "cores": {"guest-siblings-apart"},
}


@settings(max_examples=200)
@given(st.sampled_from(NAMES), GUESTS, st.sampled_from(sorted(STRATEGIES)))
def test_any_plan_is_legal_respects_isolation_and_shares_no_cpu_without_need(host, shapes, strategy):
    what = scene(host, *(guest(name, shape) for name, shape in zip("abc", shapes, strict=False)))
    layout, wanted = what.layout, [(thread.guest, thread.who) for thread in what.placed]
    calm = layout.online - layout.isolated
    count = sum(thread.kind == "vcpu" for thread in what.placed)
    if strategy == "one-to-one" and count > len(calm):
        with pytest.raises(KvmlabError, match=f"{count} vCPUs take {count} CPUs, and there are {len(calm)} .*{count - len(calm)} too few"):
            decide(strategy, what)
        return
    vcpus, choices, after = planned(what, strategy)
    assert sorted(map(str, wanted)) == sorted(str(choice[:2]) for choice in choices), "each thread has one line"
    assert all(set(choice.cpus) <= calm and choice.cpus for choice in choices)
    assert all(len(choice.cpus) == 1 for choice in choices if isinstance(choice.who, int))
    load = Counter(vcpus.values())
    assert max(load.values()) <= -(-count // len(calm)), "no CPU has two before all have one"
    assert all(choice.reason.startswith(f"{thread} on CPU") for choice, thread in zip(choices, ordered(what, choices), strict=True))
    assert_avoids(after, strategy, shapes, enough=count < len(calm))


def ordered(what, choices):
    threads = {(thread.guest, thread.who): thread for thread in what.placed}
    return [threads[choice[:2]] for choice in choices]


def assert_avoids(after, strategy, shapes, enough):
    found = set(lint(after).query("severity != 'note'")["rule"])
    assert not found & MUST_NOT["all"]
    layout = after.layout
    whole = Counter(len(core) for core in set(layout.core.values()) if not layout.isolated & set(core))
    cores = sum(Topology.parse(shape).vcpus // Topology.parse(shape).threads for shape in shapes)
    if enough and cores <= whole[2] - 1 and strategy != "pack":
        assert not found & MUST_NOT["cores"]
    if enough:
        assert not found & MUST_NOT["enough"]


@settings(max_examples=60)
@given(st.sampled_from([SERVER, BIG, "x86_64-2n1s4c2t"]), SHAPES, st.sampled_from(sorted(STRATEGIES)), st.integers(0, 1))
def test_vcpus_keep_to_the_node_of_their_memory_while_it_has_cpus(host, shape, strategy, node):
    what = scene(host, guest("a", shape, nodes=(node,)))
    there = [cpu for cpu in what.layout.online if what.layout.node(cpu) == node]
    assume(Topology.parse(shape).vcpus < len(there))
    vcpus, _, after = planned(what, strategy)
    assert {what.layout.node(cpu) for cpu in vcpus.values()} == {node}
    assert "vcpus-off-their-memory" not in set(lint(after)["rule"])


def test_a_full_node_is_said_in_the_reason():
    vcpus, choices, _ = planned(scene("x86_64-2n1s4c2t", guest("a", "1x1x3x2", nodes=(1,))), "spread")
    far = [choice.reason for choice in choices if isinstance(choice.who, int) and choice.cpus[0] not in (4, 5, 6, 7)]
    assert len(vcpus) == 6 and len(far) == 2 and all("no CPU is left on node 1, where its memory is" in reason for reason in far)


# ---- the strategies


def test_spread_goes_over_cores_and_nodes_evenly():
    layout = recorded(BIG).layout
    vcpus, _, _ = planned(scene(BIG, guest("a", "1x1x8x1"), guest("b", "1x1x8x1")), "spread")
    assert set(Counter(layout.node(cpu) for cpu in vcpus.values()).values()) == {4}
    assert len({layout.core[cpu] for cpu in vcpus.values()}) == 16


def test_pack_takes_the_fewest_cores_of_one_node():
    layout = recorded(BIG).layout
    vcpus, _, _ = planned(scene(BIG, guest("a", "1x1x7x1"), guest("b", "1x1x4x1")), "pack")
    for name, cores in (("a", 4), ("b", 2)):
        cpus = [cpu for (guest, _), cpu in vcpus.items() if guest == name]
        assert len({layout.core[cpu] for cpu in cpus}) == cores and len({layout.node(cpu) for cpu in cpus}) == 1


def test_pack_takes_a_free_core_before_half_of_anothers():
    vcpus, _, _ = planned(scene(ISOLATED, guest("a", "1x1x5x1"), guest("b", "1x1x1x1")), "pack", cpus="0-7")
    assert vcpus["b", 0] in (0, 1) and not {0, 1} & {cpu for (name, _), cpu in vcpus.items() if name == "a"}


def test_pack_fills_a_node_and_siblings_take_the_emptiest():
    taken = [Placed("z", vcpu, (2 + vcpu,), busy=0.9) for vcpu in range(4)]
    what = scene(SERVER, guest("a", "1x1x4x1"), taken)
    for strategy, node in (("pack", 0), ("siblings", 1)):
        vcpus, _, _ = planned(what, strategy, guests="a")
        assert {what.layout.node(cpu) for cpu in vcpus.values()} == {node} and not set(vcpus.values()) & {2, 3, 4, 5}


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_first_cpu_is_given_last(strategy):
    vcpus, _, _ = planned(scene(PLAIN, guest("a", "1x1x3x1")), strategy)
    assert sorted(vcpus.values()) == [1, 2, 3]
    vcpus, _, _ = planned(scene(ISOLATED, guest("a", "1x1x3x1")), strategy, cpus="0-7")
    assert not {0, 1} & set(vcpus.values()), "nor is its core's other thread, while there are other cores"


def test_emulators_stay_on_the_node_of_their_vcpus_and_among_the_cpus_that_were_named():
    what = scene(SERVER, guest("a", "1x1x2x1"))
    for cpus, there in ((None, range(16)), ("0-7", range(8))):
        vcpus, choices, _ = planned(what, "pack", cpus=cpus)
        assert [choice.cpus for choice in choices[2:]] == [tuple(sorted(set(there) - set(vcpus.values())))] * 2


def test_siblings_share_a_core_as_in_the_guest_and_two_by_two_where_it_knows_no_smt():
    layout = recorded(SERVER).layout
    vcpus, choices, _ = planned(scene(SERVER, guest("a", "1x1x2x2"), guest("b", "1x1x4x1")), "siblings")
    for name in "ab":
        assert all(vcpus[name, vcpu + 1] in layout.core[vcpus[name, vcpu]] for vcpu in (0, 2))
    reasons = {choice[:2]: choice.reason for choice in choices}
    at = vcpus["a", 2]
    assert reasons["a", 3] == f"a vCPU 3 on CPU {at + 1}: the SMT sibling of CPU {at}, where its sibling vCPU 2 runs"
    assert reasons["b", 1].endswith("where its vCPU 0 runs")


def test_one_to_one_leaves_a_cpu_to_the_emulators():
    vcpus, choices, after = planned(scene(PLAIN, guest("a", "1x1x3x1")), "one-to-one")
    assert sorted(vcpus.values()) == [1, 2, 3]
    assert {choice.cpus for choice in choices if not isinstance(choice.who, int)} == {(0,)}
    assert lint(after).empty


def test_one_to_one_with_as_many_vcpus_as_cpus_leaves_none():
    vcpus, choices, after = planned(scene(PLAIN, guest("a", "1x1x3x1"), guest("b", "1x1x1x1")), "one-to-one")
    assert sorted(vcpus.values()) == [0, 1, 2, 3]
    emulator = next(choice for choice in choices if choice[:2] == ("b", "emulator"))
    assert emulator.cpus == (vcpus["b", 0],) and "no CPU is left over" in emulator.reason
    assert set(lint(after)["severity"]) <= {"note"}


def test_one_to_one_counts_what_others_have():
    busy = [Placed("z", vcpu, (vcpu,), busy=0.9) for vcpu in range(2)]
    with pytest.raises(
        KvmlabError, match=r"3 vCPUs take 3 CPUs, and there are 4 \(0-3\), of which 2 have vCPUs of other guests: 1 too few"
    ):
        decide("one-to-one", scene(PLAIN, guest("a", "1x1x3x1"), busy), guests="a")
    vcpus, _, _ = planned(scene(PLAIN, guest("a", "1x1x2x1"), busy), "one-to-one", guests="a")
    assert sorted(vcpus.values()) == [2, 3]


def test_like_guest_gives_sockets_dies_cores_and_threads_their_like():
    layout = recorded(DIES).layout
    vcpus, choices, _ = planned(scene(DIES, guest("a", "2x2x1x2")), "like-guest")
    places = Topology.parse("2x2x1x2").places()
    for depth in (1, 2, 3):  # socket, die, core
        inside = {place[:depth] for place in places}
        pairs = {(places[vcpu][:depth], layout.place[cpu][1 : depth + 1]) for (_, vcpu), cpu in vcpus.items()}
        assert len(pairs) == len(inside) == len({there for _, there in pairs})
    assert "stands for the guest's core 0 of socket 1, die 0" in choices[4].reason


def test_a_guest_with_more_sockets_than_the_host_stays_together():
    layout = recorded(SERVER).layout
    vcpus, choices, _ = planned(scene(SERVER, guest("a", "4x1x1x1")), "like-guest")
    assert len({layout.place[cpu][:2] for cpu in vcpus.values()}) == 1 and "more sockets than this host" in choices[0].reason


# ---- what it is asked for


def test_cpus_may_name_isolated_ones_and_emulators_stay_off_them():
    vcpus, choices, after = planned(scene(ISOLATED, guest("a", "1x1x2x2")), "siblings", cpus="2-5")
    assert sorted(vcpus.values()) == [2, 3, 4, 5]
    assert {choice.cpus for choice in choices if not isinstance(choice.who, int)} == {(0, 1, 6, 7)}
    assert set(lint(after)["rule"]) <= {"irqs-on-pinned-cpu"}, "the recorded disk's own queues"


def test_guests_that_are_not_asked_for_have_no_line():
    what = scene(SERVER, guest("a", "1x1x2x1"), guest("b", "1x1x2x1"))
    assert {choice.guest for choice in decide("spread", what, guests=["b"])} == {"b"}


@pytest.mark.parametrize(
    "how, words",
    [
        ({"strategy": "spred"}, "no strategy 'spred'. Did you mean 'spread'.*: spread, pack, siblings, one-to-one, like-guest"),
        ({"strategy": None}, "no strategy None. There are: spread"),
        ({"guests": "x"}, "no running guest 'x' to place: there are a"),
        ({"cpus": "3"}, "CPU 3 is not among the online CPUs 0-2"),
        ({"cpus": ""}, "an empty CPU set"),
        ({"cpus": "2-1"}, "'2-1' runs backwards"),
    ],
)
def test_what_cannot_be_is_named(how, words):
    with pytest.raises(KvmlabError, match=words):
        decide(**{"strategy": "spread", "scene": scene(OFFLINE, guest("a", "1x1x1x1"))} | how)


def test_no_guests_are_no_lines():
    assert decide("pack", recorded(SERVER)) == []
    assert cpulist.format(recorded(OFFLINE).layout.online).startswith("0-2")
