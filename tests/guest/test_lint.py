"""The linter: each rule on recorded hosts with invented guests, once where it speaks and once where it must not.

No recording has hybrid cores or real-time threads: there a recorded frame's column is changed, or a thread's policy made up.
"""

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import Host, cpulist
from kvmlab.columns import FRAMES
from kvmlab.guest.lint import RULES, SEVERITIES, lint
from kvmlab.guest.lint_rules import RATIO
from kvmlab.guest.scene import Placed, Scene, memory_nodes

HOSTS = Path(__file__).parent.parent / "hosts"
SERVER, ISOLATED, OFFLINE = "x86_64-2n2s8c2t", "x86_64-1s4c2t-isolated", "x86_64-2n2s4c2t-offline"
ALL = "all"


@lru_cache
def recorded(name):
    host = Host.open(HOSTS / f"{name}.tar.xz")
    return Scene(host.cpus(), host.isolation(), host.nodes())


def scene(name, *threads):
    return with_threads(recorded(name), *threads)


def with_threads(bare, *threads):
    online = tuple(sorted(bare.layout.online))
    return replace(bare, placed=tuple(replace(t, cpus=online, pinned=False) if t.cpus == ALL else t for t in threads))


def vcpu(guest, number, cpus, busy=0.9, **more):
    return Placed(guest, number, cpus if cpus == ALL else cpulist.parse(cpus), cpus != ALL, busy, **more)


def other(guest, who, cpus, busy=0.0, **more):
    kind = who.split()[0] if guest else "thread"
    return Placed(guest, who, cpus if cpus == ALL else cpulist.parse(cpus), cpus != ALL, busy, kind, **more)


def many(count, cpus, busy):
    return [vcpu("c1", number, cpus, busy) for number in range(count)]


def hybrid(*threads):
    """Of the recorded server, the second node's CPUs made half as strong: no recording has two kinds of cores."""
    bare = recorded(SERVER)
    cpus = bare.cpus.assign(capacity=pd.array([1024 if node == 0 else 512 for node in bare.cpus["node"]], dtype="Int64"))
    return with_threads(replace(bare, cpus=cpus), *threads)


def of_two(*threads):
    """The first two CPUs of a recorded host, as if there were no others; the interrupts are theirs."""
    bare = recorded("x86_64-2s2c1t")
    return with_threads(Scene(bare.cpus[:2], bare.isolation[:2], bare.nodes), *threads)


PAIR = dict(siblings=(1,)), dict(siblings=(0,))
UNEVENLY = [vcpu("c1", 0, "2-3"), vcpu("c1", 1, "2-3"), vcpu("c1", 2, "2-3")]

# rule: scene, severity, vcpus and cpus of what it finds
SPEAKS = {
    "cpu-offline-or-missing": (scene(OFFLINE, vcpu("c1", 0, "2-3,99")), "error", "c1 vCPU 0", "3,99"),
    "unpinned-with-isolcpus": (scene(ISOLATED, vcpu("c1", 0, ALL), vcpu("c1", 1, ALL)), "warning", "c1 vCPU 0, c1 vCPU 1", "2-5"),
    "isolated-set-wide": (scene(ISOLATED, vcpu("c1", 0, "2-4"), vcpu("c1", 1, "2-4")), "warning", "c1 vCPU 0, c1 vCPU 1", "2-4"),
    "isolated-cpu-shared": (scene(ISOLATED, vcpu("c1", 0, "3"), other(None, "tid 7", ALL)), "warning", "tid 7, c1 vCPU 0", "2-5"),
    "nohz-full-crowded": (scene(ISOLATED, vcpu("c1", 0, "3"), other(None, "tid 7", "3", 0.1)), "warning", "c1 vCPU 0, tid 7", "3"),
    "housekeeping-cpu": (scene(SERVER, vcpu("c1", 0, "0")), "note", "c1 vCPU 0", "0"),
    "irqs-on-pinned-cpu": (scene(ISOLATED, vcpu("c1", 0, "3")), "warning", "c1 vCPU 0", "3"),
    "hybrid-cores-mixed": (hybrid(vcpu("c1", 0, "2"), vcpu("c1", 1, "16")), "warning", "c1 vCPU 0, c1 vCPU 1", "2,16"),
    "busy-vcpus-stacked": (scene(SERVER, vcpu("c1", 0, "4"), vcpu("c2", 0, "4", 0.4)), "warning", "c1 vCPU 0, c2 vCPU 0", "4"),
    "set-over-committed": (scene(SERVER, *UNEVENLY), "warning", "c1 vCPU 0, c1 vCPU 1, c1 vCPU 2", "2-3"),
    "siblings-to-different-guests": (scene(SERVER, vcpu("c1", 0, "2"), vcpu("c2", 0, "3")), "warning", "c1 vCPU 0, c2 vCPU 0", "2-3"),
    "guest-siblings-apart": (
        scene(SERVER, vcpu("c1", 0, "2", **PAIR[0]), vcpu("c1", 1, "4", **PAIR[1])),
        *("warning", "c1 vCPU 0, c1 vCPU 1", "2,4"),
    ),
    "vcpus-off-their-memory": (
        scene(SERVER, vcpu("c1", 0, "2", nodes=(0,)), vcpu("c1", 1, "16", nodes=(0,))),
        *("warning", "c1 vCPU 1", "16"),
    ),
    "emulator-on-vcpu-cpu": (scene(SERVER, vcpu("c1", 0, "2"), other("c1", "emulator", "2")), "warning", "c1 emulator, c1 vCPU 0", "2"),
    "quota-on-pinned-vcpu": (scene(SERVER, vcpu("c1", 0, "2", policy="fifo", quota=0.5)), "warning", "c1 vCPU 0", "2"),
}

SILENT = {
    "cpu-offline-or-missing": [scene(OFFLINE, vcpu("c1", 0, "2,4")), scene(OFFLINE, vcpu("c1", 0, ALL))],
    "unpinned-with-isolcpus": [
        scene(ISOLATED, vcpu("c1", 0, "0-1,6-7")),
        scene(ISOLATED, vcpu("c1", 0, "3")),
        scene(SERVER, vcpu("c1", 0, ALL)),
        scene(ISOLATED, other("c1", "emulator", ALL)),
    ],
    "isolated-set-wide": [scene(ISOLATED, vcpu("c1", 0, "2"), vcpu("c1", 1, "3")), scene(ISOLATED, vcpu("c1", 0, "0-1"))],
    "isolated-cpu-shared": [
        scene(ISOLATED, vcpu("c1", 0, "3"), replace(other("c1", "emulator", "0-1,6-7"), pinned=False)),
        scene(SERVER, vcpu("c1", 0, "3"), other("c1", "emulator", ALL)),
        scene(ISOLATED, vcpu("c1", 0, "3"), other(None, "tid 7", "2")),
    ],
    "nohz-full-crowded": [
        scene(ISOLATED, vcpu("c1", 0, "3"), other(None, "tid 7", "3", 0.0)),
        scene(SERVER, vcpu("c1", 0, "3"), vcpu("c1", 1, "3")),
    ],
    "housekeeping-cpu": [
        scene(SERVER, vcpu("c1", 0, "1")),
        of_two(vcpu("c1", 0, "0"), vcpu("c2", 0, "1")),
        scene(SERVER, vcpu("c1", 0, "0-3")),
    ],
    "irqs-on-pinned-cpu": [scene(ISOLATED, vcpu("c1", 0, "6")), scene(SERVER, vcpu("c1", 0, "20"))],
    "hybrid-cores-mixed": [
        hybrid(vcpu("c1", 0, "2"), vcpu("c1", 1, "3"), vcpu("c2", 0, "16")),
        scene("aarch64-2n2s2cl2c2t", vcpu("c1", 0, "2"), vcpu("c1", 1, "9")),
        hybrid(vcpu("c1", 0, ALL)),
    ],
    "busy-vcpus-stacked": [
        scene(SERVER, vcpu("c1", 0, "4"), vcpu("c2", 0, "4", 0.05)),
        scene(SERVER, vcpu("c1", 0, "4"), vcpu("c2", 0, "5")),
    ],
    "set-over-committed": [
        scene(SERVER, vcpu("c1", 0, "2-3"), vcpu("c1", 1, "2-3")),
        scene(SERVER, *many(4, "2-3", 0.1)),
        scene(SERVER, *many(40, ALL, 0.9)),
        scene(SERVER, vcpu("c1", 0, "4"), vcpu("c2", 0, "4")),
    ],
    "siblings-to-different-guests": [
        scene(SERVER, vcpu("c1", 0, "2"), vcpu("c1", 1, "3"), vcpu("c2", 0, "4")),
        scene("x86_64-1s4c1t-kvm", vcpu("c1", 0, "2"), vcpu("c2", 0, "3")),
        scene(SERVER, vcpu("c1", 0, "2"), vcpu("c2", 0, "2")),
    ],
    "guest-siblings-apart": [
        scene(SERVER, vcpu("c1", 0, "2", **PAIR[0]), vcpu("c1", 1, "3", **PAIR[1])),
        scene(SERVER, vcpu("c1", 0, "2"), vcpu("c1", 1, "4")),
        scene(SERVER, vcpu("c1", 0, ALL, **PAIR[0]), vcpu("c1", 1, ALL, **PAIR[1])),
    ],
    "vcpus-off-their-memory": [
        scene(SERVER, vcpu("c1", 0, "2", nodes=(0,)), vcpu("c1", 1, "16", nodes=(1,))),
        scene(SERVER, vcpu("c1", 0, "2"), vcpu("c1", 1, "16")),
        scene(SERVER, vcpu("c1", 0, ALL, nodes=(0,))),
    ],
    "emulator-on-vcpu-cpu": [
        scene(SERVER, vcpu("c1", 0, "2"), other("c1", "emulator", "5"), other("c1", "iothread 1", "4-5")),
        scene(SERVER, vcpu("c1", 0, "2"), other("c1", "emulator", ALL)),
        scene(SERVER, vcpu("c1", 0, "2-3"), other("c1", "emulator", "2-3")),
    ],
    "quota-on-pinned-vcpu": [
        scene(SERVER, vcpu("c1", 0, "2", policy="fifo")),
        scene(SERVER, vcpu("c1", 0, ALL, quota=0.5)),
        scene(SERVER, vcpu("c1", 0, "2", quota=0.5), vcpu("c2", 0, "2", quota=0.5)),
    ],
}


def test_how_busy_is_not_known_is_not_taken_for_idle():
    found = lint(scene(SERVER, vcpu("c1", 0, "4", None), vcpu("c2", 0, "4", 0.9))).set_index("rule").loc["busy-vcpus-stacked"]
    assert found["severity"] == "note" and "is not known" in found["why"]


def test_every_rule_has_a_case_where_it_speaks_and_one_where_it_must_not():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names) >= 14
    assert SPEAKS.keys() == SILENT.keys() == set(names)


@pytest.mark.parametrize("rule", SPEAKS)
def test_a_rule_speaks_where_it_should(rule):
    what, severity, vcpus, cpus = SPEAKS[rule]
    found = lint(what).query("rule == @rule")
    assert found[["severity", "vcpus", "cpus"]].to_numpy().tolist() == [[severity, vcpus, cpus]]
    assert_readable(found.iloc[0])


def assert_readable(row):
    """It names all CPUs, and at least four threads; it ends a sentence; and there is something to read."""
    named = {cpu for text in re.findall(r"\d+(?:[-,]\d+)*", row["why"]) for cpu in cpulist.parse(text)}
    assert set(cpulist.parse(row["cpus"])) <= named
    assert all(thread in row["why"] for thread in row["vcpus"].split(", ")[:4])
    assert row["why"].endswith(".") and row["source"]


@pytest.mark.parametrize("rule, what", [(rule, what) for rule, cases in SILENT.items() for what in cases])
def test_a_rule_is_silent_where_it_should_be(rule, what):
    assert rule not in lint(what)["rule"].tolist()


def only(what, rule):
    found = lint(what).query("rule == @rule")
    assert len(found) == 1
    return found.iloc[0]


# ---- how bad


def test_only_what_cannot_be_is_an_error():
    assert {rule: case[1] for rule, case in SPEAKS.items() if case[1] == "error"} == {"cpu-offline-or-missing": "error"}


def test_what_there_is_no_way_around_is_a_note():
    full = [vcpu(f"c{cpu}", 0, str(cpu)) for cpu in range(32)]
    assert only(scene(SERVER, *full[:4], *full[6:]), "housekeeping-cpu")["severity"] == "note"
    shared = lint(scene(SERVER, *full)).query("rule == 'siblings-to-different-guests'")
    assert len(shared) == 16 and set(shared["severity"]) == {"note"}, "no core is free"
    emulator = scene(SERVER, *full, other("c1", "emulator", "1"))
    assert only(emulator, "emulator-on-vcpu-cpu")["severity"] == "note"
    without_smt = scene("x86_64-1s4c1t-kvm", vcpu("c1", 0, "1", **PAIR[0]), vcpu("c1", 1, "2", **PAIR[1]))
    assert only(without_smt, "guest-siblings-apart")["severity"] == "note"
    assert "one thread a core" in only(without_smt, "guest-siblings-apart")["why"]


def test_an_ordinary_quota_is_a_note_where_the_vcpu_is_alone():
    assert only(scene(SERVER, vcpu("c1", 0, "2", policy="other", quota=0.5)), "quota-on-pinned-vcpu")["severity"] == "note"


def test_many_idle_vcpus_on_a_set_are_a_note_and_many_unknown_ones_a_warning():
    for busy, severity in ((0.0, "note"), (None, "warning")):
        found = only(scene(SERVER, *many(2 * RATIO + 1, "2-3", busy)), "set-over-committed")
        assert found["severity"] == severity and f"where {RATIO} are held safe" in found["why"]


def test_interrupts_are_a_warning_only_where_a_cpu_was_to_be_quiet():
    assert only(scene(SERVER, vcpu("c1", 0, "2")), "irqs-on-pinned-cpu")["severity"] == "note"
    assert only(scene(SERVER, vcpu("c1", 0, "2", policy="fifo")), "irqs-on-pinned-cpu")["severity"] == "warning"
    assert "(1,28)" in only(scene(ISOLATED, vcpu("c1", 0, "3")), "irqs-on-pinned-cpu")["why"]


def test_the_cpus_that_isolation_left_are_for_the_rest_of_the_host():
    all_of_them = scene(ISOLATED, *(vcpu("c1", number, str(cpu)) for number, cpu in enumerate((0, 1, 6, 7))))
    found = only(all_of_them, "housekeeping-cpu")
    assert found["severity"] == "warning" and found["cpus"] == "0-1,6-7"


def test_an_isolated_cpuset_partition_counts_as_isolated():
    found = only(scene("x86_64-1s8c1t-cgroups", vcpu("c1", 0, "4-5")), "isolated-set-wide")
    assert found["cpus"] == "4-5"


def test_the_worst_comes_first():
    what = scene(OFFLINE, vcpu("c1", 0, "0"), vcpu("c1", 1, "4"), vcpu("c2", 0, "4"), vcpu("c2", 1, "3"))
    ranks = [SEVERITIES.index(severity) for severity in lint(what)["severity"]]
    assert ranks == sorted(ranks) and ranks[0] == 0


# ---- no wolf


def test_a_host_without_guests_has_an_empty_frame_with_all_columns():
    found = lint(recorded(SERVER))
    assert found.empty and list(found) == [column.name for column in FRAMES["lint"]] and found.attrs["unavailable"] == {}


def test_two_guests_one_to_one_on_two_cpus_are_fine():
    threads = [vcpu("c1", 0, "0"), other("c1", "emulator", ALL), vcpu("c2", 0, "1"), other("c2", "emulator", ALL)]
    assert lint(of_two(*threads)).empty


def test_guests_that_nobody_pinned_are_fine_on_an_ordinary_host():
    threads = [thread for guest in "abc" for thread in (*many(8, ALL, 1.0), other(guest, "emulator", ALL))]
    for name in (SERVER, OFFLINE, "x86_64-1s1c1t", "aarch64-1s2cl4c1t-offline"):
        assert lint(scene(name, *threads)).empty


NAMES = sorted(path.name.removesuffix(".tar.xz") for path in HOSTS.glob("*.tar.xz"))
SETS = st.sets(st.integers(0, 12), min_size=1, max_size=3).map(lambda cpus: tuple(sorted(cpus)))
BUSY = st.none() | st.floats(0, 1)
THREADS = st.builds(
    lambda guest, who, cpus, busy, policy: Placed(guest, who, cpus, True, busy, "vcpu" if isinstance(who, int) else "emulator", policy),
    *(st.sampled_from("ab"), st.integers(0, 5) | st.just("emulator"), SETS, BUSY, st.sampled_from(["other", "fifo"])),
)


@settings(max_examples=150)
@given(st.sampled_from(NAMES), st.lists(THREADS, max_size=10, unique_by=lambda thread: (thread.guest, thread.who)))
def test_on_any_host_all_findings_can_be_read_and_errors_are_cpus_that_cannot_run(name, threads):
    what = scene(name, *threads)
    found = lint(what)
    for row in found.to_dict("records"):
        assert_readable(row)
    gone = [str(thread) for thread in threads if not what.layout.online.issuperset(thread.cpus)]
    assert found.query("severity == 'error'")["vcpus"].tolist() == gone


# ---- scenes


def pin(guest, who, cpus):
    return SimpleNamespace(guest=guest, who=who, cpus=cpulist.parse(cpus))


def test_with_pins_is_as_if_they_had_been_applied():
    before = scene(ISOLATED, vcpu("c1", 0, ALL, busy=0.7, siblings=(1,)), vcpu("c1", 1, "3"), other("c1", "emulator", ALL))
    after = before.with_pins([pin("c1", 0, "2"), pin("c1", "emulator", "0-1,6-7"), pin(None, "tid 7", "3"), pin("c1", 1, "0-7")])
    first, second, emulator, foreign = after.placed
    assert first == replace(before.placed[0], cpus=(2,), pinned=True)
    assert second.cpus == tuple(range(8)) and not second.pinned, "all online CPUs: as if nobody had pinned it"
    assert emulator.cpus == (0, 1, 6, 7) and not emulator.pinned, "all that are not isolated: so does libvirt from 10.4 on"
    assert (str(foreign), foreign.kind, foreign.cpus, foreign.busy) == ("tid 7", "thread", (3,), None)
    assert before.placed[0].cpus == tuple(range(8)) and after.layout is before.layout


def test_memory_nodes_are_those_of_the_vcpus_own_cell():
    xml = """<domain><vcpu>4</vcpu><numatune><memory mode='strict' nodeset='0-1'/><memnode cellid='1' mode='strict' nodeset='1'/></numatune>
        <cpu><numa><cell id='0' cpus='0-1'/><cell id='1' cpus='2-3'/></numa></cpu></domain>"""
    assert memory_nodes(xml) == {0: (0, 1), 1: (0, 1), 2: (1,), 3: (1,)}
    assert memory_nodes("<domain><vcpu>2</vcpu></domain>") == {}
